pub(crate) mod audit;
pub(crate) mod client;
pub(crate) mod export;
pub(crate) mod key;
pub(crate) mod push;
pub(crate) mod ring;
pub(crate) mod serve;
pub(crate) mod token;
