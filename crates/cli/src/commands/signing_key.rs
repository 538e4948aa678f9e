use keywheel_api::{ActivateSigningKey, List, RingSigningKey, SigningKeyState};

use super::key::segment;
use crate::args;
use crate::failure::Failure;
use crate::http::Api;
use crate::output::{Output, table};

pub(crate) async fn run(command: args::SigningKey, api: &Api<'_>, output: Output) -> Result<(), Failure> {
    let keys = |ring: &str| format!("/v1/rings/{}/signing-keys", segment(ring));
    let step = |ring: &str, key: &str, what: &str| format!("{}/{}/{what}", keys(ring), segment(key));
    let (key, next): (RingSigningKey, &str) = match command {
        args::SigningKey::List { ring } => {
            let keys: List<RingSigningKey> = api.get(&keys(&ring)).await?;
            return output.result(&keys.items, |keys| list(keys));
        }
        args::SigningKey::Create { ring } => {
            (api.post(&keys(&ring), &()).await?, "Next: `keywheel ring signing-key publish` it.")
        }
        args::SigningKey::Publish { ring, key } => (
            api.post(&step(&ring, &key, "publish"), &()).await?,
            "Next: bring what `keywheel ring trust` prints to the configuration of every proxy, and only then \
             `keywheel ring signing-key activate` it. A proxy that does not trust it refuses all that it signs.",
        ),
        args::SigningKey::Activate { ring, key, force } => (
            api.post(&step(&ring, &key, "activate"), &ActivateSigningKey { force }).await?,
            "The key before stays published. Once no proxy needs it, `keywheel ring signing-key retire` it.",
        ),
        args::SigningKey::Retire { ring, key } => (
            api.post(&step(&ring, &key, "retire"), &()).await?,
            "`keywheel ring trust` leaves it out: proxies may forget it with their next configuration.",
        ),
    };
    output.result(&key, |key| {
        format!("Signing key {} is {}.\n\n  {}\n\n{next}", key.id, state(key.state), key.public_key)
    })
}

fn list(keys: &[RingSigningKey]) -> String {
    let row = |key: &RingSigningKey| {
        let since = key.changed_at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string();
        [key.id.clone(), state(key.state).into(), since, key.public_key.clone()]
    };
    table(["SIGNING KEY", "STATE", "SINCE", "PUBLIC KEY"], &keys.iter().map(row).collect::<Vec<_>>())
}

const fn state(state: SigningKeyState) -> &'static str {
    match state {
        SigningKeyState::Created => "created",
        SigningKeyState::Published => "published",
        SigningKeyState::Active => "active",
        SigningKeyState::Retired => "retired",
    }
}
