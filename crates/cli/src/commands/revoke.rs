use std::io::Read as _;
use std::path::Path;

use keywheel_api::key::MAX_COMPROMISED;
use keywheel_api::{Compromised, CompromisedDeposit, CompromisedVersion, ReportCompromised};
use keywheel_keyring::{Digest, PlainKey};

use super::key::state;
use crate::args;
use crate::failure::Failure;
use crate::http::Api;
use crate::output::{Output, counted, table};

pub(crate) async fn run(command: args::Revoke, api: &Api<'_>, output: Output) -> Result<(), Failure> {
    let digests = digests(&read(&command.from)?, command.digests)?;
    if digests.is_empty() {
        return Err(Failure::EmptyList { path: command.from });
    }
    let mut report = Compromised::default();
    for digests in digests.chunks(MAX_COMPROMISED) {
        let leaked = ReportCompromised { digests: digests.to_vec() };
        let part: Compromised = api.post("/v1/compromised", &leaked).await?;
        report.versions.extend(part.versions);
        report.deposits.extend(part.deposits);
        report.unknown.extend(part.unknown);
    }
    output.result(&report, |report| human(report, command.digests))
}

fn read(path: &Path) -> Result<PlainKey, Failure> {
    let mut text = String::new();
    let done = if path == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map(drop)
    } else {
        std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text)).map(drop)
    };
    // The whole list is as secret as the keys in it.
    let text = PlainKey::from(text);
    done.map(|()| text).map_err(|cause| Failure::List { path: path.to_owned(), cause })
}

/// A line is a key unless it was said to be a digest: what looks like a digest could be a key of 64
/// hexadecimal digits, which must not be sent.
fn digests(list: &PlainKey, given: bool) -> Result<Vec<Digest>, Failure> {
    let lines = list.expose().lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty());
    let digest = |(at, line): (usize, &str)| {
        if !given {
            return Ok(Digest::of(line.as_bytes()));
        }
        line.parse().map_err(|_| Failure::ListLine { line: at.saturating_add(1) })
    };
    lines.map(digest).collect()
}

fn human(report: &Compromised, given: bool) -> String {
    let row = |version: &CompromisedVersion| {
        let CompromisedVersion { version, key, client, ring, was, .. } = version;
        [version.clone(), key.clone(), client.clone(), ring.clone(), state(*was).into()]
    };
    let rows: Vec<_> = report.versions.iter().map(row).collect();
    let mut parts = Vec::new();
    if !rows.is_empty() {
        parts.push("These versions are compromised and never accepted again:".into());
        parts.push(table(["VERSION", "KEY", "CLIENT", "RING", "WAS"], &rows));
    }
    if !report.deposits.is_empty() {
        let row = |deposit: &CompromisedDeposit| {
            let CompromisedDeposit { version, key, client, ring, .. } = deposit;
            [version.clone(), key.clone(), client.clone(), ring.clone()]
        };
        parts.push("These were deposited to be rotated to, and are taken back; deposit others:".into());
        let rows: Vec<_> = report.deposits.iter().map(row).collect();
        parts.push(table(["VERSION", "KEY", "CLIENT", "RING"], &rows));
    }
    if !report.unknown.is_empty() {
        let hint = if given { "" } else { " If the list holds digests, give --digests." };
        parts.push(format!(
            "Of the list {} unknown here, and will never be accepted.{hint} By digest:",
            counted(report.unknown.len(), "is", "are")
        ));
        parts.push(report.unknown.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
    }
    parts.join("\n\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_keys_unless_it_was_said_to_be_digests() {
        let hex = Digest::of(b"kw_live_1").to_string();
        let list = PlainKey::from(format!("kw_live_1\r\n\n  {hex}\n"));
        let want = [Digest::of(b"kw_live_1"), Digest::of(hex.as_bytes())];
        assert_eq!(digests(&list, false).unwrap(), want);
        let list = PlainKey::from(format!("\n{hex}\n"));
        assert_eq!(digests(&list, true).unwrap(), [Digest::of(b"kw_live_1")]);
        let list = PlainKey::from(format!("{hex}\nkw_live_1\n"));
        assert!(matches!(digests(&list, true), Err(Failure::ListLine { line: 2 })));
    }
}
