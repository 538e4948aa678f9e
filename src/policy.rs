//! Who may do what: rules, tried in order, and what each asks of a key.

use keywheel_keyring::Entry;

use crate::decide::Reason;
use crate::path::Pattern;

/// The rules of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// The first that matches decides.
    pub rules: Vec<Rule>,
    /// For what no rule matches.
    pub default: Access,
    /// Whether a route's metadata may say what it asks for, before any rule is tried.
    pub route_overrides: bool,
}

/// One rule. What is absent matches everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub host: Option<Host>,
    pub path: Option<Pattern>,
    /// Empty: any.
    pub methods: Vec<String>,
    pub route: Option<String>,
    /// Values in the route's `filter_metadata.keywheel`.
    pub route_metadata: Vec<(String, String)>,
    pub access: Access,
}

/// What a request needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Nothing: no key is looked at.
    Open,
    /// No key, or a valid one.
    Optional,
    /// A valid key that meets the demand.
    Keyed(Demand),
    /// No key is enough.
    Deny,
}

/// What is asked of a valid key. An empty list of those who may denies everyone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Demand {
    /// It must have all of these.
    pub scopes: Vec<String>,
    /// And one of these.
    pub any_scope: Option<Vec<String>>,
    /// And belong to one of these.
    pub clients: Option<Vec<String>>,
}

/// A name, or `*.` and what it ends with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// In lower case.
    Exact(String),
    /// `.example.com`, for one label or more before it.
    Below(String),
}

/// What rules look at, read once and only when one of them needs it.
pub trait Facts {
    /// Decoded, see [`crate::path::canonical`].
    fn path(&self) -> &[u8];
    /// See [`plain_host`]; `None` if it has no single reading.
    fn host(&self) -> Option<&[u8]>;
    fn method(&self) -> &[u8];
    fn route(&self) -> &[u8];
    fn route_metadata(&self, name: &str) -> Option<Vec<u8>>;
}

impl Policy {
    /// Whether every request needs any valid key and nothing else: nothing of it is looked at then.
    #[must_use]
    pub fn is_trivial(&self) -> bool {
        self.rules.is_empty() && !self.route_overrides && self.default == *Access::ANY_KEY
    }

    /// Whether what a request needs may change with the route it takes.
    #[must_use]
    pub fn depends_on_route(&self) -> bool {
        let on_route = |rule: &Rule| rule.route.is_some() || !rule.route_metadata.is_empty();
        self.route_overrides || self.rules.iter().any(on_route)
    }

    /// What the first rule that matches asks for.
    #[must_use]
    pub fn access(&self, facts: &impl Facts) -> &Access {
        self.rules.iter().find(|rule| rule.matches(facts)).map_or(&self.default, |rule| &rule.access)
    }
}

impl Rule {
    fn matches(&self, facts: &impl Facts) -> bool {
        self.path.as_ref().is_none_or(|path| path.matches(facts.path()))
            && (self.methods.is_empty()
                || self.methods.iter().any(|method| method.as_bytes().eq_ignore_ascii_case(facts.method())))
            && self.host.as_ref().is_none_or(|host| facts.host().is_some_and(|seen| host.matches(seen)))
            && self.route.as_ref().is_none_or(|route| route.as_bytes() == facts.route())
            && self
                .route_metadata
                .iter()
                .all(|(name, value)| facts.route_metadata(name).is_some_and(|held| held == value.as_bytes()))
    }
}

impl Host {
    fn matches(&self, host: &[u8]) -> bool {
        match self {
            Self::Exact(name) => name.as_bytes() == host,
            Self::Below(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_bytes()),
        }
    }
}

impl Default for Access {
    fn default() -> Self {
        Self::Keyed(Demand::default())
    }
}

impl Access {
    pub const ANY_KEY: &Self = &Self::Keyed(Demand { scopes: Vec::new(), any_scope: None, clients: None });
    pub const DENY: &Self = &Self::Deny;

    /// Whether a valid key is enough.
    ///
    /// # Errors
    ///
    /// Why it is not.
    pub fn permits(&self, entry: &Entry) -> Result<(), Reason> {
        match self {
            Self::Open | Self::Optional => Ok(()),
            Self::Keyed(demand) => demand.met_by(entry),
            Self::Deny => Err(Reason::NoRule),
        }
    }
}

impl Demand {
    fn met_by(&self, entry: &Entry) -> Result<(), Reason> {
        let has = |scope: &String| entry.scopes.contains(scope);
        let any = self.any_scope.as_ref().is_none_or(|scopes| scopes.iter().any(has));
        if self.clients.as_ref().is_some_and(|clients| !clients.contains(&entry.client)) {
            return Err(Reason::ClientNotAllowed);
        }
        if any && self.scopes.iter().all(has) { Ok(()) } else { Err(Reason::InsufficientScope) }
    }
}

/// A host as rules compare it: lower case, without port and without a dot at the end. `None` if two servers
/// could read it differently: an authority is a name or an address in brackets, and a port at most.
#[must_use]
pub fn plain_host(authority: &[u8]) -> Option<Vec<u8>> {
    let (host, port) = match authority {
        // An IPv6 address has colons of its own.
        [b'[', ..] => {
            let end = authority.iter().position(|byte| *byte == b']')?.checked_add(1)?;
            authority.split_at_checked(end)?
        }
        _ => authority.split_at(authority.iter().position(|byte| *byte == b':').unwrap_or(authority.len())),
    };
    let port_is_plain = match port {
        [] => true,
        [b':', digits @ ..] => digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let is_plain = match host {
        [b'[', address @ .., b']'] => {
            address.iter().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.'))
        }
        name => !name.is_empty() && name.iter().all(plain),
    };
    let host = host.strip_suffix(b".").unwrap_or(host);
    (port_is_plain && is_plain).then(|| host.to_ascii_lowercase())
}
