pub(crate) mod client;
pub(crate) mod key;
pub(crate) mod ring;
pub(crate) mod serve;
pub(crate) mod token;
