//! Which VMs a process has, and what each has adopted: the ground of the word *enforced*.
//!
//! A VM enters itself in the list at its first tick (a throw-away VM never ticks) and writes the
//! position that it adopted into a slot of its own. The leader reports the least of them. A VM that
//! stops ticking holds that least back until it is struck off after [`GONE`] milliseconds; should it
//! come back, it looks at the generation before it decides anything, and enters itself again. All times
//! are of the clock that all VMs of a process share and that never jumps.

use keywheel_keyring::Epoch;
use keywheel_keyring::generation::Position;

use crate::shared::{CREATE, Conflict, Namespace, SharedData};

/// A VM writes its slot at least this often, in milliseconds.
pub const RENEW: u64 = 500;
/// A VM that did not write for so many milliseconds is struck off.
pub const GONE: u64 = 5_000;
/// More VMs than any Envoy has threads.
pub(crate) const MAX_VMS: usize = 1024;

/// What the VMs of this process have adopted, taken together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Enforced {
    pub vms: usize,
    /// The least that all of them adopted; `None` while one has no complete ring.
    pub least: Option<Position>,
    /// From what age of its ring on, in milliseconds, each of them refuses every request; `None` while one of them
    /// never does.
    pub refuse_after: Option<u64>,
}

/// What a VM writes into its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    /// When it was written.
    at: u64,
    refuse_after: Option<u64>,
    adopted: Option<Position>,
}

/// The name of this process, which all its VMs share: the first that asks gives its own.
pub fn instance(names: &Namespace, shared: &impl SharedData, me: u64) -> u64 {
    let read = || {
        let (bytes, cas) = shared.get(&names.key("i")).unwrap_or((Vec::new(), CREATE));
        (<[u8; 8]>::try_from(bytes).ok().map(u64::from_le_bytes), cas)
    };
    let (held, cas) = read();
    held.unwrap_or_else(|| {
        let _ = shared.set(&names.key("i"), &me.to_le_bytes(), cas);
        read().0.unwrap_or(me)
    })
}

/// Writes the slot of VM `me`, and enters it in the list where it is not. False if others kept writing
/// the list: until it is entered, the VM reports again on every tick.
#[must_use]
pub fn report(
    names: &Namespace,
    shared: &impl SharedData,
    me: u64,
    adopted: Option<Position>,
    refuse_after: Option<u64>,
    now: u64,
) -> bool {
    let mut slot = now.to_le_bytes().to_vec();
    slot.extend_from_slice(&refuse_after.unwrap_or(NEVER).to_le_bytes());
    if let Some(position) = adopted {
        slot.extend_from_slice(&position.revision.to_le_bytes());
        slot.extend_from_slice(position.epoch.as_bytes());
    }
    let key = slot_key(names, me);
    let cas = shared.get(&key).map_or(CREATE, |(_, cas)| cas);
    // Nobody else writes this slot but a leader that strikes it off; the next report mends that.
    let _ = shared.set(&key, &slot, cas);

    for _ in 0..8 {
        let (mut list, cas) = read_ids(names, shared, LIST);
        if list.contains(&me) || list.len() >= MAX_VMS {
            return true;
        }
        list.push(me);
        if write_ids(names, shared, LIST, &list, cas).is_ok() {
            return true;
        }
    }
    false
}

/// Takes the roll, and strikes off who is gone.
pub fn enforced(names: &Namespace, shared: &impl SharedData, now: u64) -> Enforced {
    let (list, cas) = read_ids(names, shared, LIST);
    let mut live = Vec::with_capacity(list.len());
    let mut least: Option<Option<Position>> = None;
    let mut refuse_after = None;
    for vm in &list {
        let Some(slot) = read_slot(names, shared, *vm) else {
            continue;
        };
        if now.abs_diff(slot.at) > GONE {
            continue;
        }
        live.push(*vm);
        least = Some(least.map_or(slot.adopted, |least| least.min(slot.adopted)));
        let latest = |other: Option<u64>| other.zip(slot.refuse_after).map(|(one, other)| one.max(other));
        refuse_after = Some(refuse_after.map_or(slot.refuse_after, latest));
    }
    if live.len() < list.len() {
        let _ = write_ids(names, shared, LIST, &live, cas);
    }
    Enforced { vms: live.len(), least: least.flatten(), refuse_after: refuse_after.flatten() }
}

/// The VMs that are on the roster.
pub(crate) fn members(names: &Namespace, shared: &impl SharedData) -> Vec<u64> {
    read_ids(names, shared, LIST).0
}

const LIST: &str = "v";
/// In a slot: however old its ring is, the VM serves on.
const NEVER: u64 = u64::MAX;

/// A list of VMs, and the number under which it was read.
pub(crate) fn read_ids(names: &Namespace, shared: &impl SharedData, list: &str) -> (Vec<u64>, u32) {
    let Some((bytes, cas)) = shared.get(&names.key(list)) else {
        return (Vec::new(), CREATE);
    };
    let (ids, _) = bytes.as_chunks();
    (ids.iter().take(MAX_VMS).map(|id| u64::from_le_bytes(*id)).collect(), cas)
}

pub(crate) fn write_ids(
    names: &Namespace,
    shared: &impl SharedData,
    list: &str,
    ids: &[u64],
    cas: u32,
) -> Result<(), Conflict> {
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    shared.set(&names.key(list), &bytes, cas)
}

fn read_slot(names: &Namespace, shared: &impl SharedData, vm: u64) -> Option<Slot> {
    let (bytes, _) = shared.get(&slot_key(names, vm))?;
    let (at, rest) = bytes.split_first_chunk::<8>()?;
    let (refuse_after, rest) = rest.split_first_chunk::<8>()?;
    let adopted = rest.split_first_chunk::<8>().and_then(|(revision, epoch)| {
        Some(Position {
            epoch: Epoch::from_bytes(epoch.try_into().ok()?),
            revision: u64::from_le_bytes(*revision),
        })
    });
    let refuse_after = Some(u64::from_le_bytes(*refuse_after)).filter(|after| *after != NEVER);
    Some(Slot { at: u64::from_le_bytes(*at), refuse_after, adopted })
}

fn slot_key(names: &Namespace, vm: u64) -> String {
    names.key(&format!("v{vm:016x}"))
}
