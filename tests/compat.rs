//! What released control planes signed, byte for byte, in the filter of now: on virtual time, at which the
//! documents may still be installed. `tests/e2e/compat.rs` does the rest against Envoy.
#![cfg(not(target_arch = "wasm32"))] // Which has no files.

mod support;

use keywheel_filter::decide::Reason;
use keywheel_filter::vm::Vm;
use keywheel_keyring::document::AHEAD_HEADER;
use keywheel_keyring::signature::{SIGNATURE_HEADER, SIGNER_HEADER};
use keywheel_keyring::{Document, PublicKey, signature};
use keywheel_testkit::Release;
use keywheel_testkit::release::{DOOMED, Exchange, LATER, RETIRING, REVOKED, Recording, SUCCESSOR, VALID};
use support::{FakeControl, Signed, World, config};

fn trust(recording: &Recording) -> Vec<PublicKey> {
    recording.trust.iter().map(|key| key.parse().unwrap()).collect()
}

fn signed(exchange: &Exchange) -> Signed {
    let header = |name: &str| exchange.headers.get(name).cloned();
    Signed {
        status: exchange.status,
        signer: header(SIGNER_HEADER),
        signature: header(SIGNATURE_HEADER),
        ahead: header(AHEAD_HEADER),
        body: exchange.body.clone().into_bytes(),
    }
}

#[test]
fn every_document_verifies_and_is_read() {
    for Release { recording, .. } in Release::all().unwrap() {
        let trusted = trust(&recording);
        let documents = [&recording.pages[..], &recording.changes, &recording.heartbeats].concat();
        let mut entries = 0;
        for exchange in &documents {
            let answer = signed(exchange);
            let (signer, signature) = (answer.signer.unwrap(), answer.signature.unwrap());
            let (signer, signature) = (signer.as_bytes(), signature.as_bytes());
            signature::verify(&trusted, &answer.body, Some(signer), Some(signature)).unwrap();
            let document: Document = serde_json::from_slice(&answer.body).unwrap();
            assert_eq!(document.ring, recording.ring);
            entries += document.entries.len();
            let mut other = answer.body.clone();
            other[10] ^= 1;
            signature::verify(&trusted, &other, Some(signer), Some(signature)).unwrap_err();
        }
        assert!(entries > 500, "{entries}");
    }
}

#[test]
fn a_ring_is_installed_and_followed() {
    for Release { recording, .. } in Release::all().unwrap() {
        let mut world = World::new(0, FakeControl::new());
        world.wall = recording.recorded_at.0;
        let vm = world.add(Vm::new(&config(trust(&recording)), "node/1", 1));
        let revision = recording.revision().unwrap();
        let pages = recording.pages.clone();
        let (changes, heartbeats) = (recording.changes.clone(), recording.heartbeats.clone());
        world.elsewhere = Some(Box::new(move |path: &str, changed: bool| {
            let asked = Exchange {
                ask: path.to_owned(),
                status: 0,
                headers: std::collections::BTreeMap::new(),
                body: String::new(),
            };
            if path.contains("/snapshot") {
                let page = pages.iter().find(|page| page.parameter("after") == asked.parameter("after"));
                return Some(signed(page.unwrap_or_else(|| panic!("no answer was recorded to {path}"))));
            }
            let since =
                |run: &&Exchange| run.body.contains(&format!("\"since\":{},", asked.parameter("since")));
            let run = changes.iter().filter(|_| changed).find(since);
            let heartbeat = || heartbeats.iter().filter(|_| asked.parameter("wait") == "0").find(since);
            run.or_else(heartbeat).map(signed)
        }));
        world.run_until("the ring is there", |world| {
            world.vms[vm].as_ref().unwrap().adopted().is_some_and(|position| position.revision == revision)
        });
        for key in [VALID, RETIRING, SUCCESSOR, DOOMED, "compat-more-0", "compat-more-499"] {
            assert_eq!(world.request(vm, key), Ok("acme".into()), "{key}");
        }
        assert_eq!(world.request(vm, REVOKED), Err(Reason::KeyRevoked));
        assert_eq!(world.request(vm, LATER), Err(Reason::UnknownKey));
        world.changed = true;
        world.run(3_000);
        assert_eq!(world.request(vm, DOOMED), Err(Reason::KeyRevoked));
        assert_eq!(world.request(vm, LATER), Ok("acme".into()));
        assert_eq!(world.request(vm, VALID), Ok("acme".into()));
        assert_eq!(world.rejected(vm), Vec::<&str>::new());
    }
}
