//! How usage comes from the VMs to the control plane: counted once, whatever gets lost.

mod support;

use keywheel_keyring::State;
use keywheel_keyring::usage::MINUTE;
use support::{FakeControl, Fault, World, entry};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn world(vms: usize) -> World {
    let mut control = FakeControl::new();
    control.put(entry("a", State::Active));
    control.put(entry("b", State::Active));
    control.put(entry("gone", State::Revoked));
    let mut world = World::new(vms, control);
    world.run_until("convergence", World::converged);
    world
}

fn requests(world: &mut World, at: usize, secret: &str, count: usize) {
    for _ in 0..count {
        let _ = world.request(at, secret);
    }
}

#[test]
fn every_request_is_counted_once_by_version_and_outcome() {
    let mut world = world(3);
    requests(&mut world, 1, "a", 7);
    requests(&mut world, 2, "a", 5);
    requests(&mut world, 2, "b", 3);
    requests(&mut world, 2, "gone", 2);
    requests(&mut world, 2, "nobody", 9);
    world.run(15_000);
    requests(&mut world, 1, "a", 1);
    world.run(15_000);
    assert_eq!(world.control.used("kv_a", "valid"), 13);
    assert_eq!(world.control.used("kv_b", "valid"), 3);
    assert_eq!(world.control.used("kv_gone", "key_revoked"), 2);
    assert_eq!(world.control.repeats, 0);
    for batch in world.control.batches.values() {
        assert!(batch.counts.iter().all(|count| count.minute.0.is_multiple_of(MINUTE)));
        assert_eq!(batch.node, "node/1");
    }
}

#[test]
fn lost_answers_and_dead_leaders_count_nothing_twice() {
    let mut world = world(4);
    world.fault = |random| if random.one_in(2) { Fault::Lost } else { Fault::None };
    let mut sent = 0;
    for round in 0..40 {
        requests(&mut world, 1 + round % 2, "a", 10);
        sent += 10;
        world.run(3_000);
        if round == 20 {
            let leader = (0..4).find(|at| world.vms[*at].as_ref().is_some_and(|vm| vm.leads()));
            if let Some(leader @ (0 | 3)) = leader {
                world.kill(leader);
            }
        }
    }
    world.fault = |_| Fault::None;
    world.run(120_000);
    assert!(world.control.repeats > 0, "some reports came again");
    assert_eq!(world.control.used("kv_a", "valid"), sent);
}

#[test]
fn counts_belong_to_the_minute_in_which_they_were_made() {
    let mut world = world(2);
    let minutes = 5;
    for _ in 0..minutes {
        requests(&mut world, 1, "a", 4);
        world.run(MINUTE);
    }
    world.run(15_000);
    let mut by_minute = std::collections::BTreeMap::new();
    for count in world.control.batches.values().flat_map(|batch| &batch.counts) {
        *by_minute.entry(count.minute).or_insert(0) += count.count;
    }
    assert_eq!(by_minute.values().copied().collect::<Vec<u64>>(), vec![4; minutes]);
}

#[test]
fn batches_of_one_vm_follow_each_other_without_a_gap_in_number_or_time() {
    let mut world = world(2);
    for _ in 0..10 {
        requests(&mut world, 1, "a", 4);
        world.run(7_000);
    }
    world.run(70_000);
    let id = format!("{:016x}", 2);
    let batches: Vec<_> = world.control.batches.values().filter(|batch| batch.vm == id).collect();
    assert!(batches.len() > 5);
    for (at, batch) in batches.iter().enumerate() {
        assert_eq!(batch.batch, at as u64 + 1);
        if let Some(next) = batches.get(at + 1) {
            assert_eq!(next.from, batch.to);
        }
    }
    assert!(batches.last().is_some_and(|last| last.counts.is_empty()), "silence is said too");
}

#[test]
fn while_the_control_plane_stays_away_the_oldest_are_dropped_and_the_gap_shows() {
    let mut world = world(2);
    world.reachable = false;
    for _ in 0..300 {
        requests(&mut world, 1, "a", 1);
        world.run(10_020);
    }
    let held: usize = world.shared.keys().iter().filter(|key| key.contains("/u")).count();
    assert_eq!(held, 2, "one slot a VM");
    world.reachable = true;
    world.run(120_000);
    let id = format!("{:016x}", 2);
    let numbers: Vec<u64> =
        world.control.batches.keys().filter(|(vm, _)| *vm == id).map(|(_, number)| *number).collect();
    assert!(numbers[0] > 1, "the first are missing: {numbers:?}");
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "and only they");
}

#[test]
fn what_a_dead_vm_sealed_still_arrives() {
    let mut world = world(3);
    world.reachable = false;
    requests(&mut world, 2, "a", 6);
    world.run(11_000);
    world.kill(2);
    world.run(20_000);
    world.reachable = true;
    world.run(90_000);
    assert_eq!(world.control.used("kv_a", "valid"), 6);
}

#[test]
fn damaged_slots_are_left_aside() {
    let mut world = world(2);
    requests(&mut world, 1, "a", 2);
    for bytes in [&b"\xff"[..], &[0xff; 64], b"{}", &[0; 12]] {
        world.shared.overwrite("kw1/production/u0000000000000002", bytes);
        world.shared.overwrite("kw1/production/w", bytes);
        world.shared.overwrite("kw1/production/a0000000000000002", bytes);
        world.run(12_000);
    }
    requests(&mut world, 1, "b", 3);
    world.run(90_000);
    assert_eq!(world.control.used("kv_b", "valid"), 3);
}

#[test]
fn where_nobody_forwards_it_nothing_is_counted() {
    let mut world = world(1);
    let trust = world.control.trust()[0].to_string();
    let pushed = support::config_from(&format!(r#""control":{{"clusters":[],"trust":["{trust}"]}}"#));
    let at = world.add(keywheel_filter::vm::Vm::new(&pushed, "node/1", 9));
    requests(&mut world, at, "a", 5);
    requests(&mut world, at, "gone", 5);
    world.run(90_000);
    assert!(!world.shared.keys().iter().any(|key| key.ends_with("u0000000000000009")));
    assert_eq!(world.control.used("kv_a", "valid"), 0);
}

#[test]
fn a_report_that_the_control_plane_cannot_read_is_not_sent_for_ever() {
    let mut world = world(2);
    world.control.usage_status = 400;
    requests(&mut world, 1, "a", 3);
    world.run(60_000);
    assert!(world.control.refused_reports <= 4, "{} reports", world.control.refused_reports);
    world.control.usage_status = 204;
    requests(&mut world, 1, "b", 2);
    world.run(60_000);
    assert_eq!((world.control.used("kv_a", "valid"), world.control.used("kv_b", "valid")), (0, 2));
    let id = format!("{:016x}", 2);
    let first = world.control.batches.keys().find(|(vm, _)| *vm == id).map(|(_, number)| *number);
    assert!(first > Some(1), "the gap shows");
}
