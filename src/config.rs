//! The plugin configuration: parsed once, wrong fields named by their path.

mod fields;
mod rules;
mod seed;
mod structpb;

use std::fmt;

use keywheel_keyring::PublicKey;
use keywheel_keyring::entry::is_ring_name;
use serde_json::Value;

use fields::Fields;
pub(crate) use rules::{access_from, word_access};
pub use seed::Seed;

use crate::policy::Policy;

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
    pub policy: Policy,
    pub preflight: Preflight,
    pub stale: Stale,
    pub mode: Mode,
    /// The path that answers whether there is a complete ring.
    pub readiness: Option<String>,
    /// Used only while no ring is held.
    pub seed: Option<Seed>,
    pub notices: Notices,
    /// Whether access logs are told who called, through filter state.
    pub filter_state: bool,
}

/// Where the ring comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// Envoy clusters, in order. None where the ring is pushed.
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
    Query {
        name: String,
    },
    Cookie {
        name: String,
    },
}

/// The headers that tell the upstream who called. A client's own are removed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    pub client: Option<String>,
    pub key: Option<String>,
    pub scopes: Option<String>,
}

/// What a CORS preflight needs, which carries no credential by its nature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preflight {
    /// What any request needs.
    Deny,
    /// Nothing.
    Allow,
}

/// What an old ring is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stale {
    /// In milliseconds, by [`Config::stale`] a day.
    pub after: u64,
    pub then: Then,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Serve,
    Refuse,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Enforce,
    /// Decide, count, tell the access log, and let everything pass.
    Observe,
    /// Take documents that the control plane pushes.
    Receive,
}

/// What callers with a retiring key are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notices {
    /// `Api-Key-Status` and `Api-Key-Expires`.
    pub headers: bool,
    /// `Deprecation` and `Sunset` too.
    pub sunset: bool,
    pub link: Option<String>,
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

    /// The headers that a client may not hand on in its trailers: those of identities and of credentials.
    pub fn guarded_headers(&self) -> impl Iterator<Item = &str> {
        let credentials = self.sources.iter().filter_map(|source| match source {
            Source::Header { name, .. } if self.hide_credential && self.mode == Mode::Enforce => {
                Some(name.as_str())
            }
            _ => None,
        });
        self.identity.names().chain(credentials)
    }

    fn read(mut fields: Fields<'_, '_>) -> Option<Self> {
        fields.require("ring", RING);
        let ring = fields.text("ring", RING, is_ring_name);
        fields.require("control", "an object with clusters and trust");
        let control = fields.object("control", Control::read);
        let mode = fields.word(
            "mode",
            &[("enforce", Mode::Enforce), ("observe", Mode::Observe), ("receive", Mode::Receive)],
        );
        let sources = if mode == Some(Mode::Receive) && !fields.has("sources") {
            fields.get("sources");
            Some(Vec::new())
        } else {
            fields.list("sources", 1, SOURCE, Source::read)
        };
        let hide_credential = fields.flag("hide_credential", true);
        let max_credential_bytes = fields.number("max_credential_bytes", 512, 16, 4096);
        let identity = fields.object("identity", Identity::read);
        let policy = rules::read(&mut fields);
        if mode == Some(Mode::Receive) {
            // It decides on no request.
            for name in ["rules", "identity", "readiness", "route_overrides", "preflight", "notices", "stale"]
            {
                if fields.has(name) {
                    fields.refuse(
                        fields.path_of(name),
                        "must be absent in mode receive, which decides on no request",
                    );
                }
            }
        }
        let preflight = fields.word("preflight", &[("deny", Preflight::Deny), ("allow", Preflight::Allow)]);
        let stale = fields.object("stale", Stale::read);
        let readiness = fields.object("readiness", |mut fields| {
            fields.require("path", PATH);
            let path = fields.text("path", PATH, is_path);
            fields.finish();
            path
        });
        let notices = fields.object("notices", Notices::read);
        let filter_state = fields.flag("filter_state", true);
        let stable_routes = fields.flag("stable_routes", false);
        let changes = hide_credential == Some(true)
            || identity.as_ref().is_some_and(|identity| identity.names().next().is_some());
        if policy.as_ref().is_some_and(Policy::depends_on_route) && changes && stable_routes == Some(false) {
            fields.refuse("stable_routes".into(), STABLE_ROUTES);
        }
        let seed = seed::read(&mut fields, ring.as_deref(), control.as_ref());
        fields.finish_with(|errors| refuse_clashes(sources.as_deref(), identity.as_ref(), errors));
        Some(Self {
            ring: ring?,
            control: control?,
            sources: sources?,
            hide_credential: hide_credential?,
            max_credential_bytes: max_credential_bytes?,
            identity: identity.unwrap_or_default(),
            policy: policy?,
            preflight: preflight?,
            stale: stale.unwrap_or(Stale { after: 24 * HOUR, then: Then::Serve }),
            mode: mode?,
            readiness,
            seed,
            notices: notices.unwrap_or(Notices { headers: true, sunset: false, link: None }),
            filter_state: filter_state?,
        })
    }
}

impl Control {
    fn read(mut fields: Fields<'_, '_>) -> Option<Self> {
        let clusters = fields.list("clusters", 0, "the name of an Envoy cluster", |value| {
            value.as_str().filter(|name| !name.is_empty() && name.len() <= 256).map(str::to_owned)
        });
        let authority = fields.text("authority", "an authority such as keywheel", is_authority);
        let trust = fields.list(
            "trust",
            1,
            "a base64 Ed25519 public key, as `keywheel ring show --trust` prints it",
            |value| value.as_str()?.parse().ok(),
        );
        fields.finish();
        Some(Self {
            clusters: clusters?,
            authority: authority.unwrap_or_else(|| "keywheel".into()),
            trust: trust?,
        })
    }
}

/// Cookies have a source of their own. Taken as a whole they would be two sources' credential at once.
fn is_key_header(name: &str) -> bool {
    is_header_name(name) && !name.eq_ignore_ascii_case("cookie")
}

impl Source {
    fn read(value: &Value) -> Option<Self> {
        let map = value.as_object()?;
        let text = |name: &str, fits: fn(&str) -> bool| {
            map.get(name).and_then(Value::as_str).filter(|text| fits(text)).map(str::to_owned)
        };
        let mut names: Vec<&str> = map.keys().map(String::as_str).collect();
        names.sort_unstable();
        match names.as_slice() {
            ["header"] => {
                Some(Self::Header { name: text("header", is_key_header)?.to_ascii_lowercase(), scheme: None })
            }
            ["header", "scheme"] => Some(Self::Header {
                name: text("header", is_key_header)?.to_ascii_lowercase(),
                scheme: Some(text("scheme", is_token)?),
            }),
            ["query"] => Some(Self::Query { name: text("query", is_token)? }),
            ["cookie"] => Some(Self::Cookie { name: text("cookie", is_token)? }),
            _ => None,
        }
    }

    /// The header that the source is in.
    fn header(&self) -> &str {
        match self {
            Self::Header { name, .. } => name,
            Self::Query { .. } => ":path",
            Self::Cookie { .. } => "cookie",
        }
    }

    /// Which credential within that header; `None` is all of it.
    fn within(&self) -> Option<&str> {
        match self {
            Self::Header { scheme, .. } => scheme.as_deref(),
            Self::Query { name } | Self::Cookie { name } => Some(name),
        }
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

    /// The names of the headers.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        [&self.client, &self.key, &self.scopes].into_iter().filter_map(Option::as_deref)
    }
}

impl Stale {
    fn read(mut fields: Fields<'_, '_>) -> Option<Self> {
        const AFTER: &str = "a time from 1m to 365d, such as 90s, 30m, 24h or 7d";
        fields.require("after", AFTER);
        let after = fields.value("after", AFTER, |value| duration(value.as_str()?));
        let then = fields.word("then", &[("serve", Then::Serve), ("refuse", Then::Refuse)]);
        fields.finish();
        Some(Self { after: after?, then: then? })
    }
}

impl Notices {
    fn read(mut fields: Fields<'_, '_>) -> Option<Self> {
        let headers = fields.flag("headers", true);
        let sunset = fields.flag("sunset", false);
        let link = fields.text("link", "an http or https URL without spaces, quotes, `<` and `>`", is_link);
        fields.finish();
        Some(Self { headers: headers?, sunset: sunset?, link })
    }
}

/// Two uses of one header would undo each other: a hidden credential that is set as an identity, or
/// a source that can never be reached.
fn refuse_clashes(sources: Option<&[Source]>, identity: Option<&Identity>, errors: &mut Vec<ConfigError>) {
    let mut taken: Vec<(&str, Option<&str>)> = Vec::new();
    for (at, source) in sources.unwrap_or_default().iter().enumerate() {
        let (name, within) = (source.header(), source.within());
        let clash = |(held, other): &(&str, Option<&str>)| {
            *held == name && (other.is_none() || within.is_none() || *other == within)
        };
        if taken.iter().any(clash) {
            let problem = format!("must be another header or scheme: `{name}` is a source already");
            errors.push(ConfigError { path: format!("sources[{at}]"), problem });
        }
        taken.push((name, within));
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
const SOURCE: &str = "one of {header: x-api-key}, {header: authorization, scheme: Bearer}, {query: api_key}, {cookie: api_key}";
const PATH: &str = "a path such as /keywheel/ready, without a query";
/// Envoy forgets the route when a header changes, and shows the old one until it chooses anew.
const STABLE_ROUTES: &str = "must be true where rules look at the route and headers are changed, if no route of \
     Envoy's depends on a source's header, on its query parameter or on an identity header; else leave `identity` out, \
     set `hide_credential: false`, and let the route configuration do both, since Envoy chooses the route anew after \
     a change, and not the filter";
const HOUR: u64 = 3_600_000;

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

fn is_path(text: &str) -> bool {
    text.len() <= 1024 && !text.contains('?') && crate::path::canonical(text.as_bytes()).is_some()
}

fn is_link(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>' | b'\\');
    text.len() <= 1024
        && (text.starts_with("https://") || text.starts_with("http://"))
        && text.bytes().all(plain)
}

/// Milliseconds from a number and its unit.
fn duration(text: &str) -> Option<u64> {
    let unit = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(unit)?;
    let unit = match unit {
        "s" => 1_000,
        "m" => 60_000,
        "h" => HOUR,
        "d" => 24 * HOUR,
        _ => return None,
    };
    let millis = number.parse::<u64>().ok()?.checked_mul(unit)?;
    (60_000..=365 * 24 * HOUR).contains(&millis).then_some(millis)
}
