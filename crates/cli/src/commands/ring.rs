use keywheel_api::{Proxy, Ring};

use super::key::segment;
use crate::args;
use crate::failure::Failure;
use crate::http::Api;
use crate::output::{Output, print, table};

pub(crate) async fn run(command: args::Ring, api: &Api, output: Output) -> Result<(), Failure> {
    let args::Ring::Show { ring, trust } = command;
    let ring: Ring = api.get(&format!("/v1/rings/{}", segment(&ring))).await?;
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
    format!(
        "Ring      {}\nRevision  {}\nEpoch     {}\nEntries   {}\nKeys      {}…\nTrust     {}\n\n{proxies}",
        ring.name,
        ring.revision,
        ring.epoch,
        ring.entries,
        ring.key_prefix,
        ring.trust.join("\n          "),
    )
}
