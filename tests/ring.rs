//! How a ring comes into a process, stays there and changes: several VMs, one shared data, one
//! control plane, on virtual time.

mod support;

use std::cell::RefCell;
use std::collections::BTreeSet;

use keywheel_filter::decide::Reason;
use keywheel_filter::refresh::Call;
use keywheel_filter::shared::Namespace;
use keywheel_filter::vm::Vm;
use keywheel_keyring::{Digest, Entry, Generation, Millis, SigningKey, State};
use support::{FakeControl, Fault, World, entry};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn control_with(secrets: &[&str]) -> FakeControl {
    let mut control = FakeControl::new();
    for secret in secrets {
        control.put(entry(secret, State::Active));
    }
    control
}

fn held(world: &World) -> Generation {
    Namespace::shared("production").generation(&world.shared).generation
}

fn many() -> Vec<String> {
    (0..50).map(|i| format!("secret{i}")).collect()
}

fn control_with_many() -> FakeControl {
    control_with(&many().iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn every_vm_enforces_the_ring_and_reports_it() {
    let mut world = World::new(3, control_with_many());
    world.run_until("convergence", World::converged);
    for at in 0..3 {
        assert_eq!(world.request(at, "secret7"), Ok("acme".into()));
        assert_eq!(world.request(at, "guess"), Err(Reason::UnknownKey));
    }
    world.run_until("the report", |world| {
        world.reports.iter().any(|report| report.contains("vms=3&") && report.contains("&enforced=50&"))
    });
    let first = &world.reports[0];
    assert!(first.starts_with("node=node%2F1&instance="), "{first}");
    assert!(first.contains("&stored=0&enforced=0&"), "{first}");
}

/// DESIGN §3.4
#[test]
fn without_a_complete_ring_the_answer_is_503_whatever_the_key() {
    let mut world = World::new(2, control_with_many());
    assert_eq!(world.request(0, "secret7"), Err(Reason::RingUnavailable));
    world.reachable = false;
    world.run(5_000);
    assert_eq!(world.request(0, "secret7"), Err(Reason::RingUnavailable));
    // Half of a first ring is no ring.
    world.reachable = true;
    world.run_until("a first page", |world| world.control.past.len() >= 2);
    assert_eq!(world.request(0, "secret7"), Err(Reason::RingUnavailable));
    assert_eq!(world.request(0, "guess"), Err(Reason::RingUnavailable));
    world.run_until("convergence", World::converged);
    assert_eq!(world.request(0, "secret7"), Ok("acme".into()));
}

/// DESIGN §3.4. A relay's pages may be hours old, and say nothing of who was revoked since.
#[test]
fn a_first_ring_is_enforced_only_when_the_changes_behind_its_pages_end() {
    let mut control = control_with_many();
    let then = 1_790_000_000_000 - 1_800_000;
    // What a relay keeps: the pages, and a run of changes for each change since.
    let page = |path: &str| Call {
        id: 0,
        cluster: 0,
        path: format!("/v1/rings/production/{path}"),
        proxy: String::new(),
        body: None,
        timeout_ms: 0,
    };
    control.page_size = 50;
    let pages = control.answer(&page("snapshot?"), then, false).unwrap();
    let mut runs = Vec::new();
    for (at, secret) in ["secret1", "secret2", "secret3"].into_iter().enumerate() {
        let ask = format!("changes?epoch={}&since={}&wait=0", control.epoch(), 50 + at);
        control.put(entry(secret, State::Revoked));
        runs.push(control.answer(&page(&ask), then + 1000, false).unwrap());
    }
    let ask = format!("changes?epoch={}&since=53&wait=0", control.epoch());
    let heartbeat = control.answer(&page(&ask), then + 2000, false).unwrap();

    // Who has nothing behind a run says so by a heartbeat; a relay whose upstream was gone right after the change has only
    // the run.
    for nothing in [heartbeat, runs[2].clone()] {
        let mut world = World::new(2, control_with_many());
        let (pages, runs) = (pages.clone(), runs.clone());
        // Changes are withheld at first.
        world.elsewhere = Some(Box::new(move |path, changed| {
            if path.contains("/snapshot") {
                return Some(pages.clone());
            }
            let since = |number: usize| path.contains(&format!("since={number}&"));
            let run = (50..53).find(|number| since(*number)).map(|number| runs[number - 50].clone());
            run.or_else(|| (since(53) && path.ends_with("wait=0")).then(|| nothing.clone()))
                .filter(|_| changed)
        }));
        world.run(3_000);
        assert_eq!(held(&world).sync.map(|sync| sync.is_paged()), Some(true), "all pages are in");
        assert_eq!(world.request(0, "secret3"), Err(Reason::RingUnavailable));
        world.changed = true;
        for _ in 0..3_000 / 20 {
            world.run(20);
            for secret in ["secret1", "secret2", "secret3"] {
                assert_ne!(world.request(1, secret), Ok("acme".into()), "{secret}");
            }
        }
        assert_eq!(world.request(0, "secret3"), Err(Reason::KeyRevoked));
        assert_eq!(world.request(0, "secret7"), Ok("acme".into()));
        assert_eq!(held(&world).entries, 50);
    }
}

#[test]
fn changes_that_never_end_keep_a_first_ring_away_no_longer_than_one_answer() {
    let mut control = control_with_many();
    control.page_size = 50;
    let control = RefCell::new(control);
    let mut world = World::new(2, control_with_many());
    let wall = world.wall;
    world.elsewhere = Some(Box::new(move |path, _| {
        let mut control = control.borrow_mut();
        // One more for each who asks.
        control.put(entry("busy", State::Active));
        let call = Call {
            id: 0,
            cluster: 0,
            path: path.to_owned(),
            proxy: String::new(),
            body: None,
            timeout_ms: 0,
        };
        let now = wall + 20 * control.revision;
        control.answer(&call, now, false)
    }));
    world.run(2_000);
    assert_eq!(world.request(0, "secret7"), Ok("acme".into()));
}

#[test]
fn a_bucket_that_is_damaged_behind_the_last_page_is_fetched_anew() {
    let mut world = World::new(1, control_with_many());
    world.run_until("all pages", |world| held(world).sync.is_some_and(|sync| sync.is_paged()));
    world.shared.overwrite(&format!("kw1/production/b{:04x}", Digest::of(b"secret7").bucket()), b"\xffjunk");
    world.control.put(entry("secret7", State::Revoked));
    world.run_until("convergence", World::converged);
    assert_eq!(world.request(0, "secret7"), Err(Reason::KeyRevoked));
    assert_eq!(held(&world).entries, 50);
}

#[test]
fn while_no_ring_is_held_the_next_page_is_asked_for_early_and_none_twice() {
    let mut world = World::new(1, control_with_many());
    world.run_until("a second page", |world| world.control.asked.len() >= 2);
    // By the guess that came with the first one.
    assert_eq!(world.control.asked.len(), 3, "{:?}", world.control.asked);
    world.run_until("convergence", World::converged);
    let mut pages = world.control.asked.clone();
    pages.retain(|path| path.contains("/snapshot"));
    let different: BTreeSet<_> = pages.iter().collect();
    assert_eq!((pages.len(), different.len()), (13, 13), "four of 50 keys each");
}

#[test]
fn a_wrong_guess_where_the_next_page_begins_costs_nothing_but_that_page() {
    let mut digests: Vec<_> = many().iter().map(|secret| Digest::of(secret.as_bytes())).collect();
    digests.sort_unstable();
    for guess in [Digest::from_bytes([0; 32]), digests[1], digests[30], Digest::MAX] {
        let mut world = World::new(2, control_with_many());
        world.control.wrong_guess = Some(guess);
        world.run_until("convergence", World::converged);
        for secret in many() {
            assert_eq!(world.request(0, &secret), Ok("acme".into()));
        }
        for metrics in world.vms.iter_mut().flatten().filter_map(Vm::take_metrics) {
            assert_eq!((metrics.refresh_failures, metrics.rejected.len()), (0, 0), "{guess}");
        }
    }
}

/// DESIGN §3.4
#[test]
fn a_ring_outlives_its_control_plane_and_keys_expire_by_the_proxys_clock() {
    let mut control = control_with(&["steady"]);
    let ends = Millis(1_790_000_000_000 + 10_000);
    control.put(Entry { expires_at: Some(ends), ..entry("ending", State::Retiring) });
    control.put(Entry { not_before: Some(ends), ..entry("coming", State::Pending) });
    let mut world = World::new(2, control);
    world.run_until("convergence", World::converged);
    world.reachable = false;
    assert_eq!(world.request(0, "ending"), Ok("acme".into()));
    assert_eq!(world.request(0, "coming"), Err(Reason::KeyNotYetValid));
    world.run(20_000);
    assert_eq!(world.request(0, "ending"), Err(Reason::KeyExpired));
    assert_eq!(world.request(0, "coming"), Ok("acme".into()));
    assert_eq!(world.request(0, "steady"), Ok("acme".into()));
    // A clock that is set back behind the ring's own time revives nothing.
    world.wall -= 1_000_000_000;
    assert_eq!(world.request(0, "steady"), Ok("acme".into()));
    assert_eq!(world.request(1, "guess"), Err(Reason::UnknownKey));
}

#[test]
fn a_new_key_works_on_every_vm_as_soon_as_it_is_stored() {
    let mut world = World::new(3, control_with(&["old"]));
    world.run_until("convergence", World::converged);
    let leader = world.leaders()[0];
    world.control.put(entry("new", State::Active));
    world.run_until("the change", |world| {
        world.vms[leader].as_ref().unwrap().adopted().unwrap().revision == 2
    });
    for at in 0..3 {
        assert_eq!(world.request(at, "new"), Ok("acme".into()));
    }
}

#[test]
fn a_revoked_key_is_refused_by_every_vm_even_one_that_stopped_ticking() {
    let mut world = World::new(3, control_with(&["key"]));
    world.run_until("convergence", World::converged);
    for at in 0..3 {
        assert_eq!(world.request(at, "key"), Ok("acme".into()), "now cached");
    }
    let leader = world.leaders()[0];
    let stuck = (leader + 1) % 3;
    let sleeper = world.vms[stuck].take();
    world.control.put(entry("key", State::Revoked));
    world.run(1_000);
    assert!(!world.reports.iter().any(|report| report.contains("enforced=2")), "one VM has not adopted it");
    world.vms[stuck] = sleeper;
    for at in 0..3 {
        assert_eq!(world.request(at, "key"), Err(Reason::KeyRevoked), "VM {at}");
    }
    world.run_until("the report", |world| world.reports.iter().any(|report| report.contains("enforced=2")));
}

#[test]
fn a_vm_that_is_gone_does_not_hold_the_report_back_for_ever() {
    let mut world = World::new(3, control_with(&["key"]));
    world.run_until("convergence", World::converged);
    let gone = (world.leaders()[0] + 1) % 3;
    world.kill(gone);
    world.control.put(entry("key", State::Revoked));
    world.run_until("the report", |world| {
        world.reports.iter().any(|report| report.contains("vms=2&") && report.contains("enforced=2"))
    });
}

#[test]
fn when_the_leader_dies_another_goes_on_where_it_stopped() {
    let mut world = World::new(3, control_with_many());
    world.run_until("a few pages", |world| world.control.past.len() == 5);
    let leader = world.leaders()[0];
    world.kill(leader);
    world.run_until("another leader", |world| !world.leaders().is_empty());
    let before = world.control.past.len();
    world.run_until("convergence", World::converged);
    // 50 entries in pages of 4 are 13 pages; the first five were not asked for again.
    assert!(world.control.past.len() - before <= 13 - 5 + 1, "{}", world.control.past.len() - before);
    world.control.put(entry("new", State::Active));
    world.run_until("the change", World::converged);
}

#[test]
fn a_vm_that_serves_gives_the_lease_to_one_that_does_not() {
    let mut world = World::new(2, control_with(&["key"]));
    world.run_until("convergence", World::converged);
    let leader = world.leaders()[0];
    for _ in 0..200 {
        let _ = world.request(leader, "key");
        world.run(20);
    }
    assert_eq!(world.leaders(), [1 - leader]);
    // With nobody idle left, the lease stays.
    for _ in 0..400 {
        let _ = world.request(0, "key");
        let _ = world.request(1, "key");
        world.run(20);
    }
    assert_eq!(world.leaders(), [1 - leader]);
}

#[test]
fn two_vms_that_start_at_once_never_both_write() {
    let mut world = World::new(8, control_with_many());
    for _ in 0..500 {
        world.run(20);
        assert!(world.leaders().len() <= 1);
    }
    assert!(world.converged());
}

#[test]
fn a_proxy_that_fell_behind_takes_a_snapshot_and_goes_on_serving() {
    let mut world = World::new(2, control_with_many());
    world.run_until("convergence", World::converged);
    world.reachable = false;
    world.run(1_000);
    world.control.put(entry("secret3", State::Revoked));
    world.control.remove(Digest::of(b"secret4"));
    world.control.put(entry("new", State::Active));
    world.control.compact();
    world.reachable = true;
    for _ in 0..300 {
        world.run(20);
        assert_eq!(world.request(0, "secret9"), Ok("acme".into()), "no moment of 503");
    }
    assert!(world.converged());
    assert_eq!(world.request(1, "secret3"), Err(Reason::KeyRevoked));
    assert_eq!(world.request(1, "secret4"), Err(Reason::UnknownKey));
    assert_eq!(world.request(1, "new"), Ok("acme".into()));
}

#[test]
fn a_new_epoch_replaces_the_ring_without_a_moment_of_503_and_revives_nothing() {
    let mut world = World::new(2, control_with_many());
    world.control.put(entry("leaked", State::Compromised));
    world.run_until("convergence", World::converged);
    // A backup from before the leak was known.
    world.control.entries.insert(Digest::of(b"leaked"), entry("leaked", State::Active));
    world.control.remove(Digest::of(b"secret4"));
    world.control.new_epoch();
    for _ in 0..300 {
        world.run(20);
        assert_eq!(world.request(0, "secret9"), Ok("acme".into()));
        assert_eq!(world.request(1, "leaked"), Err(Reason::KeyRevoked));
    }
    assert!(world.converged());
    assert_eq!(world.request(0, "secret4"), Err(Reason::UnknownKey));
}

#[test]
fn what_was_reinstated_in_an_epoch_that_a_proxy_missed_is_accepted_in_the_next() {
    let mut world = World::new(3, control_with_many());
    for secret in ["forgiven", "stays", "lapsed"] {
        world.control.put(entry(secret, State::Revoked));
    }
    world.run_until("convergence", World::converged);
    let reinstated = |world: &World, secret: &str| keywheel_keyring::Entry {
        reinstated_in: Some(world.control.epoch()),
        ..entry(secret, State::Active)
    };
    world.reachable = false;
    // In the epoch of its denial: for all that the proxy can tell the denial came last.
    let lapsed = reinstated(&world, "lapsed");
    world.control.put(lapsed);
    world.control.new_epoch();
    let forgiven = reinstated(&world, "forgiven");
    world.control.put(forgiven);
    // A copy from before its revocation.
    world.control.put(entry("stays", State::Active));
    world.control.new_epoch();
    world.run(1_000);
    world.reachable = true;
    world.run_until("convergence", World::converged);
    for vm in 0..3 {
        assert_eq!(world.request(vm, "forgiven"), Ok("acme".into()));
        assert_eq!(world.request(vm, "stays"), Err(Reason::KeyRevoked));
        assert_eq!(world.request(vm, "lapsed"), Err(Reason::KeyRevoked));
    }
    // The operator says it again.
    let lapsed = reinstated(&world, "lapsed");
    world.control.put(lapsed);
    world.run_until("convergence", World::converged);
    assert_eq!(world.request(1, "lapsed"), Ok("acme".into()));
}

/// DESIGN §6: a large ring takes a while to fetch anew.
#[test]
fn a_change_does_not_wait_until_the_ring_is_fetched_anew() {
    let mut world = World::new(2, control_with_many());
    world.run_until("convergence", World::converged);
    world.control.new_epoch();
    world.run_until("a snapshot begins", |world| held(world).sync.is_some());
    world.control.put(entry("secret7", State::Revoked));
    world.control.put(entry("new", State::Active));
    world.control.remove(Digest::of(b"secret4"));
    world.run(100);
    assert!(held(&world).sync.is_some(), "the snapshot is under way still");
    for vm in [0, 1] {
        assert_eq!(world.request(vm, "secret7"), Err(Reason::KeyRevoked));
        assert_eq!(world.request(vm, "new"), Ok("acme".into()));
        assert_eq!(world.request(vm, "secret4"), Err(Reason::UnknownKey));
    }
    while !world.converged() {
        world.run(20);
        assert_eq!(world.request(0, "secret7"), Err(Reason::KeyRevoked));
        assert_eq!(world.request(1, "secret4"), Err(Reason::UnknownKey));
    }
    assert_eq!(held(&world).entries, world.control.entries.len() as u64);
}

/// DESIGN §6
#[test]
fn a_damaged_bucket_keeps_no_change_away_while_the_ring_is_fetched_anew() {
    let mut world = World::new(2, control_with_many());
    world.run_until("convergence", World::converged);
    for begin in [FakeControl::new_epoch, FakeControl::compact] {
        world.reachable = false;
        world.run(1_500);
        world.control.put(entry("later", State::Active));
        begin(&mut world.control);
        world.reachable = true;
        world.run_until("a snapshot begins", |world| held(world).sync.is_some());
        // The last page brings it.
        let last = world.control.entries.keys().next_back().copied().unwrap();
        let damaged = many().into_iter().find(|secret| Digest::of(secret.as_bytes()) == last).unwrap();
        world.shared.overwrite(&format!("kw1/production/b{:04x}", last.bucket()), b"\xffjunk");
        world.control.put(entry(&damaged, State::Active));
        let revoked = many().into_iter().find(|secret| world.request(0, secret).is_ok()).unwrap();
        world.control.put(entry(&revoked, State::Revoked));
        world.run(100);
        assert!(held(&world).sync.is_some(), "the snapshot is under way still");
        assert_eq!(world.request(0, &revoked), Err(Reason::KeyRevoked));
        world.run_until("convergence", World::converged);
        assert_eq!(world.request(1, &damaged), Ok("acme".into()));
    }
}

/// A repair begins with a page: what was revoked before that was cut need not wait for its own page.
#[test]
fn a_change_before_a_repairs_first_page_does_not_wait() {
    let mut world = World::new(2, control_with_many());
    world.run_until("convergence", World::converged);
    let mut digests: Vec<(Digest, String)> =
        many().into_iter().map(|secret| (Digest::of(secret.as_bytes()), secret)).collect();
    digests.sort();
    let (first, last) = (&digests[0].1, &digests[digests.len() - 1].1);
    let bucket = format!("kw1/production/b{:04x}", Digest::of(first.as_bytes()).bucket());
    world.shared.overwrite(&bucket, b"\xffjunk");
    assert!(world.request(0, first).is_err());
    world.control.put(entry(last, State::Revoked));
    world.run_until("a snapshot begins", |world| held(world).sync.is_some());
    world.run(60);
    assert!(held(&world).sync.is_some(), "the snapshot is under way still");
    assert_eq!(world.request(1, last), Err(Reason::KeyRevoked));
    world.run_until("convergence", World::converged);
    assert_eq!(world.request(0, first), Ok("acme".into()));
}

#[test]
fn damaged_buckets_and_generations_heal() {
    let mut world = World::new(2, control_with_many());
    world.run_until("convergence", World::converged);
    let bucket = format!("kw1/production/b{:04x}", Digest::of(b"secret7").bucket());
    assert!(world.shared.keys().contains(&bucket));
    world.shared.overwrite(&bucket, b"\xffjunk");
    assert_eq!(world.request(0, "secret7"), Err(Reason::RingUnavailable), "not explained, so not allowed");
    world.run(2_000);
    assert_eq!(world.request(0, "secret7"), Ok("acme".into()));

    for name in ["g", "o", "l", "c", "v", "i"] {
        world.shared.overwrite(&format!("kw1/production/{name}"), b"\xffjunk");
        world.run(4_000);
        assert_eq!(world.request(1, "secret7"), Ok("acme".into()), "after {name}");
    }
}

/// DESIGN §3.5
#[test]
fn documents_that_do_not_fit_change_nothing_but_a_counter() {
    let checks: [(Fault, &str); 3] = [
        (Fault::Tampered, "bad_signature"),
        (Fault::Truncated, "bad_signature"),
        (Fault::Unsigned, "unsigned"),
    ];
    for (fault, reason) in checks {
        let mut world = World::new(1, control_with_many());
        world.run_until("convergence", World::converged);
        world.fault = match fault {
            Fault::Tampered => |_| Fault::Tampered,
            Fault::Truncated => |_| Fault::Truncated,
            _ => |_| Fault::Unsigned,
        };
        let before = world.vms[0].as_ref().unwrap().adopted();
        world.control.put(entry("secret3", State::Revoked));
        world.run(5_000);
        assert_eq!(world.vms[0].as_ref().unwrap().adopted(), before, "{fault:?}");
        assert_eq!(world.rejected(0), [reason], "{fault:?}");
        world.fault = |_| Fault::None;
        world.run_until("recovery", World::converged);
    }
}

#[test]
fn a_ring_signed_by_a_stranger_is_not_taken() {
    let mut world = World::new(1, control_with_many());
    world.control.sign_with(9);
    world.run(5_000);
    assert_eq!(world.request(0, "secret7"), Err(Reason::RingUnavailable));
    assert_eq!(world.rejected(0), ["untrusted_signer"]);
}

#[test]
fn a_configuration_that_trusts_fewer_signers_keeps_a_copy_of_its_own() {
    let mut world = World::new(1, control_with_many());
    world.run_until("convergence", World::converged);
    let other = SigningKey::from_seed([9; 32]).public();
    let suspicious = world.spawn(vec![other]);
    world.run(5_000);
    assert_eq!(world.request(suspicious, "secret7"), Err(Reason::RingUnavailable));
    assert_eq!(world.request(0, "secret7"), Ok("acme".into()));
}

/// Any order of lost, broken and repeated answers, killed leaders and jumping clocks: a VM never
/// goes back, never lets a key in that it knows to be revoked, and all end with the same ring.
fn storm(seed: u64) {
    let mut world = World::new(3, control_with_many());
    world.random.0 = seed | 1;
    world.fault = |random| match random.below(12) {
        0 => Fault::Lost,
        1 => Fault::Reset,
        2 => Fault::Unavailable,
        3 => Fault::Tampered,
        4 => Fault::Truncated,
        5 => Fault::Unsigned,
        6 | 7 => Fault::Replayed,
        _ => Fault::None,
    };
    let secrets = many();
    let mut adopted = vec![None; 3];
    for step in 0..600 {
        world.run(20);
        let secret = &secrets[world.random.below(50) as usize];
        match world.random.below(60) {
            0 => world.control.put(entry(secret, State::Revoked)),
            1 => world.control.put(entry(&format!("new{step}"), State::Active)),
            2 => world.control.remove(Digest::of(secret.as_bytes())),
            3 => world.control.compact(),
            4 if world.random.one_in(8) => world.control.new_epoch(),
            5 => world.wall = world.wall.wrapping_add(world.random.below(100_000)),
            6 => world.wall -= world.random.below(10_000),
            8 => world.control.wrong_guess = Some(Digest::of(secret.as_bytes())),
            9 => world.control.wrong_guess = None,
            7 if world.vms.len() < 12 => {
                let dead = world.random.below(world.vms.len() as u64) as usize;
                world.kill(dead);
                let trust = world.control.trust();
                world.spawn(trust);
                adopted.push(None);
            }
            _ => {}
        }
        for (at, adopted) in adopted.iter_mut().enumerate() {
            let Some(vm) = world.vms[at].as_ref() else { continue };
            let now = vm.adopted();
            assert!(now >= *adopted, "seed {seed}: VM {at} went back from {adopted:?} to {now:?}");
            *adopted = now;
            let position = now.map(|position| (position.epoch, position.revision));
            let known = world.control.entries.get(&Digest::of(secret.as_bytes())).cloned();
            let outcome = world.request(at, secret);
            if let Some(known) = known
                && position.is_some_and(|(epoch, revision)| {
                    epoch == world.control.epoch() && revision >= known.revision
                })
            {
                let expected = match known.state {
                    State::Active => Ok("acme".to_owned()),
                    _ => Err(Reason::KeyRevoked),
                };
                assert_eq!(outcome, expected, "seed {seed}: VM {at} at step {step}");
            }
        }
    }
    world.fault = |_| Fault::None;
    world.run_until("convergence", World::converged);
    world.run(40);
    for at in (0..world.vms.len()).filter(|at| world.vms[*at].is_some()).collect::<Vec<_>>() {
        for secret in &secrets {
            let known = world.control.entries.get(&Digest::of(secret.as_bytes())).map(|entry| entry.state);
            let outcome = world.request(at, secret);
            match known {
                Some(State::Active) => assert_eq!(outcome, Ok("acme".into()), "seed {seed}: {secret}"),
                Some(_) => assert_eq!(outcome, Err(Reason::KeyRevoked), "seed {seed}: {secret}"),
                // A denial outlives an epoch in which the control plane has forgotten it.
                None => assert!(
                    matches!(outcome, Err(Reason::UnknownKey | Reason::KeyRevoked)),
                    "seed {seed}: {secret}: {outcome:?}"
                ),
            }
        }
    }
}

#[test]
fn every_storm_ends_with_the_same_ring() {
    for seed in 1..=20 {
        storm(seed * 0x9e37_79b9);
    }
}

#[cfg(not(target_arch = "wasm32"))]
proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config { cases: 40, failure_persistence: None, ..Default::default() })]
    #[test]
    fn any_storm_ends_with_the_same_ring(seed: u64) {
        storm(seed);
    }
}

/// Two configurations of one ring in one process, of which one does not trust who signs.
#[test]
fn a_vm_that_does_not_trust_who_signs_keeps_nobody_from_the_ring() {
    for strangers in 1..=2 {
        let mut world = World::new(0, control_with_many());
        let trust = world.control.trust();
        let stranger = vec![SigningKey::from_seed([9; 32]).public()];
        for _ in 0..strangers {
            world.spawn(stranger.clone());
        }
        let at = world.spawn(trust);
        world.run_until("the ring", |world| {
            world.vms[at]
                .as_ref()
                .is_some_and(|vm| vm.adopted().is_some_and(|position| position.revision == 50))
        });
        assert_eq!(world.request(0, "secret7"), Err(Reason::RingUnavailable));
        for round in 0..20 {
            world.put_and_see(at, &format!("later{round}"));
        }
    }
}

#[test]
fn a_vm_that_trusts_nobody_here_alone_goes_on_trying() {
    let mut world = World::new(0, control_with_many());
    let at = world.spawn(vec![SigningKey::from_seed([9; 32]).public()]);
    world.run(30_000);
    assert_eq!(world.request(at, "secret7"), Err(Reason::RingUnavailable));
    let before = world.control.past.len();
    world.run(30_000);
    let tries = world.control.past.len() - before;
    assert!((2..=30).contains(&tries), "{tries} tries in half a minute");
}

#[test]
fn a_first_cluster_that_hangs_keeps_no_change_away_and_is_used_again_when_it_answers() {
    let mut world = World::new(0, control_with_many());
    world.hung = Some(0);
    let trust = world.control.trust()[0].to_string();
    let config =
        support::config_from(&format!(r#""control":{{"clusters":["first","second"],"trust":["{trust}"]}}"#));
    let at = world.add(Vm::new(&config, "node", 1));
    world.run_until("the ring from the second", World::converged);
    // Longer than it takes to try the first again, and again.
    for round in 0..40 {
        world.reports.clear();
        world.put_and_see(at, &format!("later{round}"));
        world.run(3_000);
        let acknowledged = format!("&enforced={}&", world.control.revision);
        assert!(
            world.reports.iter().any(|report| report.contains(&acknowledged)),
            "{round}: {:?}",
            world.reports
        );
    }
    assert!(world.asked.iter().filter(|cluster| **cluster == 0).count() > 2, "the first is tried");

    world.hung = None;
    world.run(60_000);
    world.asked.clear();
    world.put_and_see(at, "last");
    world.run(5_000);
    assert!(!world.asked.is_empty() && world.asked.iter().all(|cluster| *cluster == 0), "{:?}", world.asked);
}
