use std::fs;
use std::path::PathBuf;

use keywheel_api::{
    Canary, CreateRing, FollowsCanary, ForgetProxies, ForgottenProxies, Promoted, Proxy, ProxyState, Ring,
    RingProxies, RingSummary, RingUsage, SetPolicy, UpdateRing,
};

use super::key::{or_none, segment, when};
use super::{canary, export, push, signing_key};
use crate::applied::OnChange;
use crate::args::{self, Connection};
use crate::failure::Failure;
use crate::http::Api;
use crate::output::{Output, counted, print, table};
use crate::source::Source;

/// Where the configurations in `envoy/` want a ring's keys.
const PLACEHOLDER: &str = "REPLACE_WITH_TRUST_KEY";

pub(crate) async fn run(
    command: args::Ring,
    connection: &Connection,
    applied: &OnChange,
    output: Output,
) -> Result<(), Failure> {
    let api = || Api::new(connection, applied);
    match command {
        args::Ring::List => {
            let rings: Vec<RingSummary> = api()?.list("/v1/rings", &[]).await?;
            output.result(&rings, |rings| all(rings))
        }
        args::Ring::Create { name, key_prefix, canary_of, rule } => {
            let key_prefix = key_prefix.map(|prefix| prefix.as_str().to_owned());
            let UpdateRing { pause_seconds, promote } = asked(&rule);
            let new = CreateRing { name, key_prefix, canary_of, pause_seconds, promote };
            let ring: RingSummary = api()?.post("/v1/rings", &new).await?;
            output.result(&ring, |ring| match &ring.canary_of {
                Some(main) => format!(
                    "Ring {} is there: its proxies get what is new before those of {main}.\n\nNext: keywheel ring trust {}",
                    ring.name, ring.name
                ),
                None => format!(
                    "Ring {} is there; its keys begin with {}.\n\nNext: keywheel ring trust {}",
                    ring.name, ring.key_prefix, ring.name
                ),
            })
        }
        args::Ring::SetCanary { ring, rule } => {
            let path = format!("/v1/rings/{}", segment(&ring));
            let ring: Ring = api()?.patch(&path, &asked(&rule)).await?;
            output.result(&ring, |ring| {
                let rule = ring.canary.as_ref().map(goes_on).unwrap_or_default();
                format!("Ring {}: {rule}", ring.name)
            })
        }
        args::Ring::Promote { ring } => {
            let path = format!("/v1/rings/{}/promote", segment(&ring));
            let promoted: Promoted = api()?.post(&path, &()).await?;
            output.result(&promoted, |promoted| {
                let Promoted { ring, canary, versions } = promoted;
                let waited = match versions {
                    0 => "nothing".into(),
                    some => counted(*some, "version", "versions"),
                };
                format!("Ring {ring} has all that {canary} has: {waited} waited.")
            })
        }
        args::Ring::Show { ring, trust } => print_ring(&ring, trust, &api()?, output).await,
        args::Ring::Proxies { ring, revision } => {
            let query = revision.map(|revision| format!("?revision={revision}")).unwrap_or_default();
            let path = format!("/v1/rings/{}/proxies{query}", segment(&ring));
            let proxies: RingProxies = api()?.get(&path).await?;
            output.result(&proxies, proven)
        }
        args::Ring::Forget { ring, instance, silent_for } => {
            let silent_for_seconds = silent_for.map(|silent| silent.as_secs());
            let which = ForgetProxies { instances: instance, silent_for_seconds };
            let path = format!("/v1/rings/{}/proxies/forget", segment(&ring));
            let forgotten: ForgottenProxies = api()?.post(&path, &which).await?;
            output.result(&forgotten, |gone| {
                let names: Vec<_> = gone
                    .forgotten
                    .iter()
                    .map(|name| format!("\n  {} ({})", name.node, name.instance))
                    .collect();
                if names.is_empty() {
                    return format!(
                        "No proxy of ring {} was silent for so long: none is forgotten.",
                        gone.ring
                    );
                }
                let forgot = counted(names.len(), "proxy", "proxies");
                format!("Forgot {forgot} of ring {}.{}", gone.ring, names.concat())
            })
        }
        args::Ring::SetPolicy { ring, policy } => {
            let path = format!("/v1/rings/{}/policy", segment(&ring));
            let ring: Ring = api()?.put(&path, None, &SetPolicy { policy: or_none(policy) }).await?;
            output.result(&ring, |ring| match &ring.policy {
                Some(policy) => format!("The keys of ring {} follow policy {policy}.", ring.name),
                None => format!("The keys of ring {} follow no policy of the ring.", ring.name),
            })
        }
        args::Ring::Trust { ring, fill, out } => {
            let ring: Ring = api()?.get(&format!("/v1/rings/{}", segment(&ring))).await?;
            let text = match fill {
                Some(template) => filled(&ring.trust, template)?,
                None => serde_json::to_string(&ring.trust).map_err(std::io::Error::from)?,
            };
            match out {
                Some(path) => fs::write(&path, text + "\n").map_err(|cause| Failure::Write { path, cause }),
                None => print(&text),
            }
        }
        args::Ring::SigningKey(command) => signing_key::run(command, &api()?, output).await,
        args::Ring::Export { ring, seed: _, from } => {
            let source = Source::new(&from, &ring, connection)?;
            export::seed(&ring, &source, &api()?).await
        }
        args::Ring::Push(args) => push::run(args, connection, output).await,
    }
}

fn asked(rule: &args::CanaryRule) -> UpdateRing {
    let pause_seconds = rule.pause.map(|pause| pause.as_secs());
    UpdateRing { pause_seconds, promote: rule.promote.map(Into::into) }
}

/// When what is new in it goes to its main ring.
fn goes_on(canary: &Canary) -> String {
    let Canary { of, promote, pause_seconds, waiting: _ } = canary;
    format!("what is new goes to {of} {}", canary::rule(*promote, *pause_seconds))
}

/// A configuration that trusts the ring. The keys are base64, which stands in a list of YAML as it is.
fn filled(trust: &[String], template: PathBuf) -> Result<String, Failure> {
    let text = match fs::read_to_string(&template) {
        Ok(text) => text,
        Err(cause) => return Err(Failure::Template { path: template, cause }),
    };
    // What the comments say of it stays; the list is what counts.
    let (empty, full) = (format!("[{PLACEHOLDER}]"), format!("[{}]", trust.join(", ")));
    if !text.contains(&empty) {
        return Err(Failure::NothingToFill { path: template, placeholder: PLACEHOLDER });
    }
    Ok(text.trim_end().replace(&empty, &full))
}

async fn print_ring(ring: &str, trust: bool, api: &Api<'_>, output: Output) -> Result<(), Failure> {
    let ring: Ring = api.get(&format!("/v1/rings/{}", segment(ring))).await?;
    if trust && output == Output::Human {
        return print(&ring.trust.join("\n"));
    }
    if trust {
        return output.result(&ring.trust, |_| String::new());
    }
    output.result(&ring, show)
}

fn all(rings: &[RingSummary]) -> String {
    let row = |ring: &RingSummary| {
        let proxies = if ring.held { "held".into() } else { format!("{} of {}", ring.enforced, ring.of) };
        let name = match &ring.canary_of {
            Some(main) => format!("{} (canary of {main})", ring.name),
            None => ring.name.clone(),
        };
        [name, ring.revision.to_string(), proxies, format!("{}…", ring.key_prefix)]
    };
    table(["RING", "REVISION", "ENFORCED BY", "KEYS"], &rings.iter().map(row).collect::<Vec<_>>())
}

fn proven(proxies: &RingProxies) -> String {
    let proof = &proxies.proof;
    format!(
        "{} of {} proxies enforce revision {} of ring {}.\n\n{}",
        proof.enforced,
        proof.of,
        proof.revision,
        proof.ring,
        list(&proxies.items)
    )
}

fn list(proxies: &[Proxy]) -> String {
    if proxies.is_empty() {
        return "No proxy has asked for it.".into();
    }
    let row = |proxy: &Proxy| {
        [
            proxy.node.clone(),
            proxy.instance.clone(),
            proxy.enforced.to_string(),
            proxy.stored.to_string(),
            proxy.vms.to_string(),
            proxy.filter.clone(),
            state(proxy.state).into(),
            proxy.via.clone().unwrap_or_default(),
            proxy.last_seen.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        ]
    };
    let rows: Vec<_> = proxies.iter().map(row).collect();
    table(["PROXY", "INSTANCE", "ENFORCED", "STORED", "VMS", "FILTER", "STATE", "VIA", "LAST SEEN"], &rows)
}

const fn state(state: ProxyState) -> &'static str {
    match state {
        ProxyState::Current => "current",
        ProxyState::Lagging => "lagging",
        ProxyState::Unproven => "unproven",
        ProxyState::Expired => "expired",
    }
}

fn show(ring: &Ring) -> String {
    let proxies = list(&ring.proxies);
    let (usage, ahead) = (usage(&ring.usage), ahead(ring));
    let held = if ring.held {
        "\nHeld      nothing is published until `keywheel restore` has merged what was revoked since"
    } else {
        ""
    };
    let canary = of_canary(ring);
    format!(
        "Ring      {}\nRevision  {}\nEpoch     {}\nEntries   {}\nKeys      {}…\nTrust     {}{canary}{held}{ahead}{usage}\n\n{proxies}",
        ring.name,
        ring.revision,
        ring.epoch,
        ring.entries,
        ring.key_prefix,
        ring.trust.join("\n          "),
    )
}

/// Nothing where there is no canary.
fn of_canary(ring: &Ring) -> String {
    match (&ring.canary, &ring.has_canary) {
        (Some(canary), _) => {
            format!("\nCanary    of {}: {}; waiting: {}", canary.of, goes_on(canary), canary.waiting)
        }
        (None, Some(canary)) => {
            let first = format!("\nCanary    {canary} gets what is new first");
            let Some(follows) = &ring.follows else { return first };
            let FollowsCanary { promote, pause_seconds, waiting, next_at } = follows;
            let next = next_at.map(|at| format!(", the next until {} at the latest", when(at)));
            format!(
                "{first}, and this ring {}; waiting: {waiting}{}",
                canary::rule(*promote, *pause_seconds),
                next.unwrap_or_default()
            )
        }
        (None, None) => String::new(),
    }
}

/// A line only where something is wrong. What a proxy says of itself is no proof, so nothing is done about it.
fn ahead(ring: &Ring) -> String {
    let ahead = |proxy: &&Proxy| proxy.epoch.as_ref() == Some(&ring.epoch) && proxy.stored > ring.revision;
    match ring.proxies.iter().filter(ahead).count() {
        0 => String::new(),
        some => format!(
            "\nAhead     {}: is this an older copy of the database? See docs/backup.md",
            counted(
                some,
                "proxy says that it has a later revision",
                "proxies say that they have a later revision"
            )
        ),
    }
}

/// A line only where something is wrong.
fn usage(usage: &RingUsage) -> String {
    let RingUsage { refused_batches, unknown_counts, .. } = usage;
    if *refused_batches == 0 && *unknown_counts == 0 {
        return String::new();
    }
    format!(
        "\nUsage     left out: {}, {}; see the log",
        counted(*refused_batches, "batch that breaks a rule", "batches that break a rule"),
        counted(*unknown_counts, "count of an unknown version", "counts of unknown versions")
    )
}
