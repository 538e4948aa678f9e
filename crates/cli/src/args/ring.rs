//! Rings: proxies, signing keys, and how to bring a ring elsewhere.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as Group, Subcommand, ValueEnum};
use keywheel_keyring::KeyPrefix;

use super::value::{duration, silence};

#[derive(Debug, Subcommand)]
pub(crate) enum Ring {
    /// List rings, and how many of their proxies enforce them
    List,
    /// Make an empty ring, with a key that signs it: another environment, whose proxies know none of the others' keys
    Create {
        /// 1 to 64 letters, digits, `.`, `_` and `-`
        name: String,
        /// What its keys begin with, such as `kw_test_` [default: as those of the first ring]
        #[arg(long, value_name = "PREFIX")]
        key_prefix: Option<KeyPrefix>,
        /// Make it a canary: it has the keys of this ring, and gets what is new before that one does
        #[arg(long, value_name = "RING", conflicts_with = "key_prefix")]
        canary_of: Option<String>,
        #[command(flatten)]
        rule: CanaryRule,
    },
    /// Change when what is new in a canary goes to its main ring. What waits already keeps its time
    SetCanary {
        /// The canary's name
        ring: String,
        #[command(flatten)]
        rule: CanaryRule,
    },
    /// Bring everything to a ring at once that waits in its canary
    Promote {
        /// The main ring's name
        #[arg(default_value = "production")]
        ring: String,
    },
    /// Show a ring: revision, trusted keys, and what each proxy enforces
    Show {
        #[arg(default_value = "production")]
        ring: String,
        /// Print only the base64 public keys for the filter's `control.trust`, one per line
        #[arg(long)]
        trust: bool,
    },
    /// List a ring's proxies, and which of them enforce it
    Proxies {
        #[arg(default_value = "production")]
        ring: String,
        /// Up to this revision [default: the newest]
        #[arg(long)]
        revision: Option<u64>,
    },
    /// Forget proxies that are gone for good, so that nothing waits for them
    Forget {
        #[arg(default_value = "production")]
        ring: String,
        /// This one, as `ring proxies` shows it; repeat for more
        #[arg(long, value_name = "INSTANCE", required_unless_present = "silent_for")]
        instance: Vec<String>,
        /// All that were not heard of for so long, such as 24h; at least 60s, for which one that runs may be silent
        #[arg(long, value_name = "DURATION", value_parser = silence)]
        silent_for: Option<Duration>,
    },
    /// Print what the filter's `control.trust` needs, as a list of JSON, which YAML reads too
    Trust {
        #[arg(default_value = "production")]
        ring: String,
        /// Instead of the list, this file, such as envoy/envoy.yaml, with the list's keys where it says
        /// `REPLACE_WITH_TRUST_KEY`
        #[arg(long, value_name = "FILE")]
        fill: Option<PathBuf>,
        /// Where to write it, instead of printing it
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// The keys that sign a ring
    #[command(subcommand)]
    SigningKey(SigningKey),
    /// Print a ring for use elsewhere
    Export {
        #[arg(default_value = "production")]
        ring: String,
        /// As one line of JSON for the filter's `seed`: a proxy that holds no ring begins with it. At
        /// most 500 entries
        #[arg(long, required = true)]
        seed: bool,
        #[command(flatten)]
        from: Listener,
    },
    /// Have the keys of a ring follow a policy, unless they or their clients have one
    SetPolicy {
        ring: String,
        /// Its name, or `none`
        policy: String,
    },
    /// Bring a ring to proxies that cannot reach the control plane
    Push(Push),
}

#[derive(Debug, Subcommand)]
pub(crate) enum SigningKey {
    /// List the keys of a ring and what each is used for
    List {
        #[arg(long, default_value = "production")]
        ring: String,
    },
    /// Make a key. Nobody is told of it yet
    Create {
        #[arg(long, default_value = "production")]
        ring: String,
    },
    /// Have `ring trust` print a key, so that it can be brought to every proxy
    Publish {
        key: String,
        #[arg(long, default_value = "production")]
        ring: String,
    },
    /// Sign with a published key from now on. The one before stays published
    Activate {
        key: String,
        #[arg(long, default_value = "production")]
        ring: String,
        /// Even if proxies would refuse what it signs, and so every revocation
        #[arg(long)]
        force: bool,
    },
    /// End a key that does not sign any more: `ring trust` leaves it out
    Retire {
        key: String,
        #[arg(long, default_value = "production")]
        ring: String,
    },
}

/// When what is new in a canary goes to its main ring.
#[derive(Debug, Group)]
pub(crate) struct CanaryRule {
    /// How long it waits at the most, such as 15m; 0s for both rings at once [default of a new one: 15m]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) pause: Option<Duration>,
    /// As soon as every proxy of the canary enforces it, or only after the pause [default of a new one: when-enforced]
    #[arg(long, value_name = "WHEN")]
    pub(crate) promote: Option<Promote>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Promote {
    /// And after the pause at the latest
    WhenEnforced,
    AfterPause,
}

impl From<Promote> for keywheel_api::Promote {
    fn from(promote: Promote) -> Self {
        match promote {
            Promote::WhenEnforced => Self::WhenEnforced,
            Promote::AfterPause => Self::AfterPause,
        }
    }
}

/// A ring listener, and what it is shown.
#[derive(Debug, Group)]
pub(crate) struct Listener {
    /// The ring listener's URL: a control plane's or a relay's [default: --url's host, at port 7071]
    #[arg(long, value_name = "URL", env = "KEYWHEEL_RING_URL")]
    pub(crate) ring_url: Option<String>,
    // Not by clap's `env`, as with the admin token: an option must win over the environment's other one.
    /// A file that holds a token for the ring listener: of role `proxy` or `auditor`, or one that the relay knows. Without
    /// it a --ring-url gets no token, unless scheme, host and port are those of --url: whoever answers there would have the
    /// admin token [env: KEYWHEEL_RING_TOKEN, KEYWHEEL_RING_TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    pub(crate) ring_token_file: Option<PathBuf>,
}

#[derive(Debug, Group)]
pub(crate) struct Push {
    #[arg(default_value = "production")]
    pub(crate) ring: String,
    /// A listener with the filter in `mode: receive`, such as http://proxy:9080; repeat for more
    #[arg(long, value_name = "URL", required = true)]
    pub(crate) to: Vec<String>,
    /// Go on with every change, until a signal; otherwise end when all targets enforce the ring
    #[arg(long)]
    pub(crate) follow: bool,
    /// How long a target may make no progress, such as 30s; with --follow it may for ever
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30s")]
    pub(crate) timeout: Duration,
    #[command(flatten)]
    pub(crate) from: Listener,
}

#[derive(Debug, Group)]
pub(crate) struct Doctor {
    #[arg(default_value = "production")]
    pub(crate) ring: String,
    /// The admin interface of an Envoy, such as http://127.0.0.1:9901; repeat it for more
    #[arg(long, value_name = "URL")]
    pub(crate) envoy: Vec<String>,
    #[command(flatten)]
    pub(crate) from: Listener,
}

#[derive(Debug, Group)]
pub(crate) struct Healthcheck {
    /// What to ask: /readyz of a listener of a control plane or relay, or an Envoy with the filter
    #[arg(default_value = "http://127.0.0.1:7070/readyz")]
    pub(crate) target: String,
    /// The only good answer. An Envoy that has its ring answers 401 to a request without a key, and 503 before
    #[arg(long, value_name = "CODE", default_value_t = 200, value_parser = clap::value_parser!(u16).range(100..=599))]
    pub(crate) status: u16,
}
