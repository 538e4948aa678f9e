//! The plugin configuration: parsed once, wrong fields named by their path.

mod structpb;

use std::fmt;

use keywheel_keyring::PublicKey;
use keywheel_keyring::entry::is_ring_name;
use serde_json::{Map, Value};

/// The filter's configuration, DESIGN §8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The ring to enforce: 1 to 64 letters, digits, `.`, `_` and `-`.
    pub ring: String,
    pub control: Control,
    /// In order: the first that is present in a request decides.
    pub sources: Vec<Source>,
    /// Whether the credential is removed before the request goes on.
    pub hide_credential: bool,
    /// A longer credential is refused before it is hashed. 16 to 4096.
    pub max_credential_bytes: usize,
    pub identity: Identity,
}

/// Where the ring comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// Envoy clusters, in order.
    pub clusters: Vec<String>,
    /// The `:authority` of requests to them.
    pub authority: String,
    /// Whose documents are taken.
    pub trust: Vec<PublicKey>,
}

/// Where a request carries its credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    Header {
        /// In lower case.
        name: String,
        /// `Bearer` in `authorization: Bearer <key>`.
        scheme: Option<String>,
    },
}

/// The headers that tell the upstream who called. A client's own are removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    pub client: Option<String>,
    pub key: Option<String>,
    pub scopes: Option<String>,
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Such as `control.trust[0]`.
    pub path: String,
    /// What is allowed there.
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.problem)
    }
}

impl Config {
    /// # Errors
    ///
    /// Everything that is wrong, each with the path of the field and the values it takes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Vec<ConfigError>> {
        let root = |problem| vec![ConfigError { path: "configuration".into(), problem }];
        let value = serde_json::from_slice(bytes).or_else(|error| {
            structpb::read(bytes)
                .ok_or_else(|| root(format!("must be JSON or a google.protobuf.Struct: {error}")))
        })?;
        let Value::Object(map) = value else {
            return Err(root("must be an object".into()));
        };
        let mut errors = Vec::new();
        let config = Self::read(Fields::new(&map, "", &mut errors));
        match config {
            Some(config) if errors.is_empty() => Ok(config),
            _ => Err(errors),
        }
    }

    fn read(mut fields: Fields<'_, '_>) -> Option<Self> {
        fields.require("ring", RING);
        let ring = fields.text("ring", RING, is_ring_name);
        fields.require("control", "an object with clusters and trust");
        let control = fields.object("control", Control::read);
        let sources = fields.list("sources", "a source such as {header: x-api-key}", Source::read);
        let hide_credential = fields.flag("hide_credential", true);
        let max_credential_bytes = fields.number("max_credential_bytes", 512, 16, 4096);
        let identity = fields.object("identity", Identity::read);
        fields.finish_with(|errors| refuse_clashes(sources.as_deref(), identity.as_ref(), errors));
        Some(Self {
            ring: ring?,
            control: control?,
            sources: sources?,
            hide_credential: hide_credential?,
            max_credential_bytes: max_credential_bytes?,
            identity: identity.unwrap_or_default(),
        })
    }
}

impl Control {
    fn read(mut fields: Fields<'_, '_>) -> Option<Self> {
        let clusters = fields.list("clusters", "the name of an Envoy cluster", |value| {
            text(value).filter(|name| !name.is_empty() && name.len() <= 256).map(str::to_owned)
        });
        let authority = fields.text("authority", "an authority such as keywheel", is_authority);
        let trust = fields.list(
            "trust",
            "a base64 Ed25519 public key, as `keywheel ring show --trust` prints it",
            |value| text(value)?.parse().ok(),
        );
        fields.finish();
        Some(Self {
            clusters: clusters?,
            authority: authority.unwrap_or_else(|| "keywheel".into()),
            trust: trust?,
        })
    }
}

impl Source {
    fn read(value: &Value) -> Option<Self> {
        let map = value.as_object()?;
        if map.keys().any(|key| key != "header" && key != "scheme") {
            return None;
        }
        let name = text(map.get("header")?).filter(|name| is_header_name(name))?;
        let scheme = match map.get("scheme") {
            None => None,
            Some(value) => Some(text(value).filter(|scheme| is_token(scheme))?.to_owned()),
        };
        Some(Self::Header { name: name.to_ascii_lowercase(), scheme })
    }
}

impl Identity {
    fn read(mut fields: Fields<'_, '_>) -> Option<Self> {
        let mut header = |name| {
            fields
                .text(name, "a header name such as x-client-id", is_header_name)
                .map(|name| name.to_ascii_lowercase())
        };
        let identity = Self { client: header("client"), key: header("key"), scopes: header("scopes") };
        fields.finish();
        Some(identity)
    }
}

/// Two uses of one header would undo each other: a hidden credential that is set as an identity, or
/// a source that can never be reached.
fn refuse_clashes(sources: Option<&[Source]>, identity: Option<&Identity>, errors: &mut Vec<ConfigError>) {
    let mut taken: Vec<(&str, Option<&str>)> = Vec::new();
    for (at, source) in sources.unwrap_or_default().iter().enumerate() {
        let Source::Header { name, scheme } = source;
        let clash = |(held, other): &(&str, Option<&str>)| {
            held == name && (other.is_none() || scheme.is_none() || *other == scheme.as_deref())
        };
        if taken.iter().any(clash) {
            let problem = format!("must be another header or scheme: `{name}` is a source already");
            errors.push(ConfigError { path: format!("sources[{at}]"), problem });
        }
        taken.push((name, scheme.as_deref()));
    }
    let Some(identity) = identity else { return };
    for (field, name) in [("client", &identity.client), ("key", &identity.key), ("scopes", &identity.scopes)]
    {
        let Some(name) = name else { continue };
        if taken.iter().any(|(held, _)| held == name) {
            let problem = format!("must be another header: `{name}` is in use already");
            errors.push(ConfigError { path: format!("identity.{field}"), problem });
        }
        taken.push((name, None));
    }
}

// === what values may be ===

const RING: &str = "1 to 64 letters, digits, `.`, `_` and `-`";

fn is_authority(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_token(text: &str) -> bool {
    const TCHAR: &[u8] = b"!#$%&'*+-.^_`|~";
    (1..=128).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || TCHAR.contains(&byte))
}

/// A header that Envoy does not give a meaning of its own to.
fn is_header_name(text: &str) -> bool {
    const TAKEN: [&str; 5] = ["host", "connection", "content-length", "transfer-encoding", "te"];
    is_token(text) && !TAKEN.contains(&text.to_ascii_lowercase().as_str())
}

fn text(value: &Value) -> Option<&str> {
    value.as_str()
}

// === reading an object ===

/// The fields of one object: what was read, so that what is left over can be named.
struct Fields<'a, 'e> {
    map: &'a Map<String, Value>,
    path: String,
    known: Vec<&'static str>,
    errors: &'e mut Vec<ConfigError>,
}

impl<'a, 'e> Fields<'a, 'e> {
    fn new(map: &'a Map<String, Value>, path: &str, errors: &'e mut Vec<ConfigError>) -> Self {
        Self { map, path: path.into(), known: Vec::new(), errors }
    }

    fn path_of(&self, name: &str) -> String {
        if self.path.is_empty() { name.into() } else { format!("{}.{name}", self.path) }
    }

    /// Looks a field up and remembers that it is known. `null` counts as absent.
    fn get(&mut self, name: &'static str) -> Option<&'a Value> {
        self.known.push(name);
        self.map.get(name).filter(|value| !value.is_null())
    }

    fn wrong(&mut self, path: String, allowed: &str) {
        self.errors.push(ConfigError { path, problem: format!("must be {allowed}") });
    }

    /// Names the field where it is absent.
    fn require(&mut self, name: &'static str, allowed: &str) {
        if self.map.get(name).is_none_or(Value::is_null) {
            let problem = format!("is required: {allowed}");
            self.errors.push(ConfigError { path: self.path_of(name), problem });
        }
    }

    fn text(&mut self, name: &'static str, allowed: &str, fits: fn(&str) -> bool) -> Option<String> {
        let path = self.path_of(name);
        let value = self.get(name)?;
        let value = text(value).filter(|text| fits(text)).map(str::to_owned);
        if value.is_none() {
            self.wrong(path, allowed);
        }
        value
    }

    fn flag(&mut self, name: &'static str, default: bool) -> Option<bool> {
        let path = self.path_of(name);
        match self.get(name) {
            None => Some(default),
            Some(Value::Bool(flag)) => Some(*flag),
            Some(_) => {
                self.wrong(path, "true or false");
                None
            }
        }
    }

    fn number(&mut self, name: &'static str, default: usize, min: usize, max: usize) -> Option<usize> {
        let path = self.path_of(name);
        let Some(value) = self.get(name) else {
            return Some(default);
        };
        // A YAML struct carries every number as a double.
        let number =
            value.as_f64().filter(|number| number.fract() == 0.0 && *number >= 0.0 && *number <= 1e9);
        let number = number.map(|number| number as usize).filter(|number| (min..=max).contains(number));
        if number.is_none() {
            self.wrong(path, &format!("a whole number from {min} to {max}"));
        }
        number
    }

    /// A required list of at least one item.
    fn list<T>(
        &mut self,
        name: &'static str,
        allowed: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Option<Vec<T>> {
        let path = self.path_of(name);
        let allowed_list = format!("a list of at least one item, each {allowed}");
        self.require(name, &allowed_list);
        match self.get(name)? {
            Value::Array(items) if !items.is_empty() => {
                let mut list = Vec::with_capacity(items.len());
                for (at, item) in items.iter().enumerate() {
                    match read(item) {
                        Some(item) => list.push(item),
                        None => self.wrong(format!("{path}[{at}]"), allowed),
                    }
                }
                Some(list)
            }
            _ => {
                self.wrong(path, &allowed_list);
                None
            }
        }
    }

    fn object<T>(&mut self, name: &'static str, read: impl FnOnce(Fields<'_, '_>) -> Option<T>) -> Option<T> {
        let path = self.path_of(name);
        match self.get(name)? {
            Value::Object(map) => read(Fields::new(map, &path, self.errors)),
            _ => {
                self.wrong(path, "an object");
                None
            }
        }
    }

    /// As [`Self::finish`], after a check across fields.
    fn finish_with(self, check: impl FnOnce(&mut Vec<ConfigError>)) {
        check(self.errors);
        self.finish();
    }

    /// Names the fields that nobody asked for.
    fn finish(self) {
        for name in self.map.keys().filter(|name| !self.known.contains(&name.as_str())) {
            let path = if self.path.is_empty() { name.clone() } else { format!("{}.{name}", self.path) };
            let problem = format!("is not a field; allowed are {}", self.known.join(", "));
            self.errors.push(ConfigError { path, problem });
        }
    }
}
