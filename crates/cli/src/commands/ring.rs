use keywheel_api::{Proxy, Ring, RingUsage};

use super::key::segment;
use super::{export, push, signing_key};
use crate::args::{self, Connection};
use crate::failure::Failure;
use crate::http::{Api, token};
use crate::output::{Output, print, table};
use crate::source::Source;

pub(crate) async fn run(command: args::Ring, connection: &Connection, output: Output) -> Result<(), Failure> {
    match command {
        args::Ring::Show { ring, trust } => print_ring(&ring, trust, &Api::new(connection)?, output).await,
        args::Ring::Trust { ring } => {
            let ring: Ring = Api::new(connection)?.get(&format!("/v1/rings/{}", segment(&ring))).await?;
            print(&serde_json::to_string(&ring.trust).map_err(std::io::Error::from)?)
        }
        args::Ring::SigningKey(command) => signing_key::run(command, &Api::new(connection)?, output).await,
        args::Ring::Export { ring, seed: _, ring_url } => {
            let source = Source::new(&ring_url, &ring, Some(token(connection)?))?;
            export::seed(&ring, &source, &Api::new(connection)?).await
        }
        args::Ring::Push(args) => push::run(args, connection, output).await,
    }
}

async fn print_ring(ring: &str, trust: bool, api: &Api, output: Output) -> Result<(), Failure> {
    let ring: Ring = api.get(&format!("/v1/rings/{}", segment(ring))).await?;
    if trust && output == Output::Human {
        return print(&ring.trust.join("\n"));
    }
    if trust {
        return output.result(&ring.trust, |_| String::new());
    }
    output.result(&ring, show)
}

fn show(ring: &Ring) -> String {
    let row = |proxy: &Proxy| {
        [
            proxy.node.clone(),
            proxy.instance.clone(),
            proxy.enforced.to_string(),
            proxy.stored.to_string(),
            proxy.vms.to_string(),
            proxy.filter.clone(),
            proxy.last_seen.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        ]
    };
    let proxies = if ring.proxies.is_empty() {
        "No proxy has asked for it since the control plane started.".into()
    } else {
        let rows: Vec<_> = ring.proxies.iter().map(row).collect();
        table(["PROXY", "INSTANCE", "ENFORCED", "STORED", "VMS", "FILTER", "LAST SEEN"], &rows)
    };
    let (usage, ahead) = (usage(&ring.usage), ahead(ring));
    let held = if ring.held {
        "\nHeld      nothing is published until `keywheel restore` has merged what was revoked since"
    } else {
        ""
    };
    format!(
        "Ring      {}\nRevision  {}\nEpoch     {}\nEntries   {}\nKeys      {}…\nTrust     {}{held}{ahead}{usage}\n\n{proxies}",
        ring.name,
        ring.revision,
        ring.epoch,
        ring.entries,
        ring.key_prefix,
        ring.trust.join("\n          "),
    )
}

/// A line only where something is wrong. What a proxy says of itself is no proof, so nothing is done about it.
fn ahead(ring: &Ring) -> String {
    let ahead = |proxy: &&Proxy| proxy.epoch.as_ref() == Some(&ring.epoch) && proxy.stored > ring.revision;
    match ring.proxies.iter().filter(ahead).count() {
        0 => String::new(),
        some => format!(
            "\nAhead     {some} proxies say that they have a later revision: is this an older copy of the database? See docs/backup.md"
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
        "\nUsage     left out: {refused_batches} batches that break a rule, {unknown_counts} counts of unknown versions; see the log"
    )
}
