//! What proxies last said about themselves, in the header of every call.
//!
//! It is shown, and trusted for nothing else: anybody who may read the ring may write it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use keywheel_api::Proxy;
use keywheel_api::time::timestamp;
use keywheel_keyring::{Epoch, Millis, SignerId};

/// The request header: `node=…&instance=…&filter=…&vms=…&epoch=…&stored=…&enforced=…&age=…&trust=…`.
pub const HEADER: &str = "keywheel-proxy";
/// Reports kept; the one not heard from for longest gives way.
const CAPACITY: usize = 10_000;
const MAX_TEXT: usize = 256;
/// The most keys that one proxy is shown to trust.
const MAX_TRUST: usize = 256;

/// The latest report of each proxy.
#[derive(Debug, Default)]
pub struct Proxies(Mutex<BTreeMap<(String, String), Proxy>>);

/// The header is not a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("field `{0}` of the {HEADER} header is missing or malformed")]
pub struct BadReport(&'static str);

impl Proxies {
    pub fn report(&self, proxy: Proxy) {
        let mut proxies = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id = (proxy.node.clone(), proxy.instance.clone());
        if proxies.len() >= CAPACITY && !proxies.contains_key(&id) {
            let silent = proxies.iter().min_by_key(|(_, proxy)| proxy.last_seen).map(|(id, _)| id.clone());
            if let Some(silent) = silent {
                proxies.remove(&silent);
            }
        }
        proxies.insert(id, proxy);
    }

    /// By node and instance.
    #[must_use]
    pub fn list(&self) -> Vec<Proxy> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// Reads the header.
///
/// # Errors
///
/// [`BadReport`]; unknown fields are left to newer versions.
pub fn parse(header: &[u8], now: Millis) -> Result<Proxy, BadReport> {
    let fields: BTreeMap<Cow<'_, str>, Cow<'_, str>> = form_urlencoded::parse(header).collect();
    let text = |name: &'static str| {
        let text = fields.get(name).ok_or(BadReport(name))?;
        let fits = (1..=MAX_TEXT).contains(&text.len()) && !text.chars().any(char::is_control);
        if fits { Ok(text.to_string()) } else { Err(BadReport(name)) }
    };
    let number = |name: &'static str| {
        fields.get(name).and_then(|text| text.parse::<u64>().ok()).ok_or(BadReport(name))
    };
    let epoch = fields.get("epoch").filter(|text| !text.is_empty());
    let epoch = epoch.map(|text| text.parse::<Epoch>()).transpose().map_err(|_| BadReport("epoch"))?;
    let instance = text("instance")?;
    if !instance.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(BadReport("instance"));
    }
    Ok(Proxy {
        node: text("node")?,
        instance,
        filter: text("filter")?,
        vms: u32::try_from(number("vms")?).map_err(|_| BadReport("vms"))?,
        epoch: epoch.map(|epoch| epoch.to_string()),
        stored: number("stored")?,
        enforced: number("enforced")?,
        age_seconds: number("age")?,
        last_seen: timestamp(now),
        trust: trust(&fields)?,
    })
}

/// Absent where an older filter does not say.
fn trust(fields: &BTreeMap<Cow<'_, str>, Cow<'_, str>>) -> Result<Option<Vec<String>>, BadReport> {
    let Some(text) = fields.get("trust") else { return Ok(None) };
    let ids: Vec<String> = text.split(',').filter(|id| !id.is_empty()).map(str::to_owned).collect();
    let good = ids.len() <= MAX_TRUST && ids.iter().all(|id| id.parse::<SignerId>().is_ok());
    if good { Ok(Some(ids)) } else { Err(BadReport("trust")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "node=edge%2F1&instance=0a1b&filter=0.1.0&vms=3\
        &epoch=0199a3b4-0000-7000-8000-000000000001&stored=12&enforced=11&age=2";

    #[test]
    fn a_report_is_read() {
        let proxy = parse(GOOD.as_bytes(), Millis(1000)).unwrap();
        assert_eq!((proxy.node.as_str(), proxy.vms, proxy.stored, proxy.enforced), ("edge/1", 3, 12, 11));
        assert_eq!(proxy.last_seen.to_string(), "1970-01-01T00:00:01Z");
        let without_ring = GOOD.replace("0199a3b4-0000-7000-8000-000000000001", "");
        assert_eq!(parse(without_ring.as_bytes(), Millis(0)).unwrap().epoch, None);
        assert_eq!(proxy.trust, None, "an older filter does not say");
        let trust = format!("{GOOD}&trust=0102030405060708%2C1112131415161718");
        let trust = parse(trust.as_bytes(), Millis(0)).unwrap().trust.unwrap();
        assert_eq!(trust, ["0102030405060708", "1112131415161718"]);
        assert_eq!(parse(format!("{GOOD}&trust=x").as_bytes(), Millis(0)), Err(BadReport("trust")));
    }

    #[test]
    fn a_malformed_report_names_its_field() {
        let check = |from: &str, to: &str, field| {
            let text = GOOD.replace(from, to);
            assert_eq!(parse(text.as_bytes(), Millis(0)), Err(BadReport(field)), "{text}");
        };
        check("node=edge%2F1&", "", "node");
        check("edge%2F1", "%00", "node");
        check("edge%2F1", &"x".repeat(257), "node");
        check("0a1b", "zz", "instance");
        check("vms=3", "vms=99999999999", "vms");
        check("stored=12", "stored=-1", "stored");
        check("epoch=0199", "epoch=x199", "epoch");
        assert!(parse(b"\xff\xfe", Millis(0)).is_err());
    }

    #[test]
    fn the_registry_is_bounded() {
        let proxies = Proxies::default();
        let proxy = parse(GOOD.as_bytes(), Millis(0)).unwrap();
        for n in 0..=CAPACITY {
            let last_seen = timestamp(Millis(n as u64));
            proxies.report(Proxy { instance: format!("{n:x}"), last_seen, ..proxy.clone() });
        }
        let list = proxies.list();
        assert_eq!(list.len(), CAPACITY);
        assert!(!list.iter().any(|proxy| proxy.instance == "0"), "the oldest gave way");
    }
}
