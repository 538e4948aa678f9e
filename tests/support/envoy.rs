use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use keywheel_filter::refresh::Call;
use keywheel_filter::shared::{Conflict, SharedData};
use keywheel_filter::vm::Host;

/// A fake of Envoy's shared data, with its rules: 0 overwrites, and an absent key takes any number.
#[derive(Debug, Default)]
pub struct FakeSharedData {
    entries: RefCell<BTreeMap<String, (Vec<u8>, u32)>>,
    last_cas: Cell<u32>,
}

impl FakeSharedData {
    /// Writes as a careless plugin in the same process would.
    pub fn overwrite(&self, key: &str, bytes: &[u8]) {
        self.set(key, bytes, 0).expect("0 overwrites");
    }

    pub fn keys(&self) -> Vec<String> {
        self.entries.borrow().keys().cloned().collect()
    }
}

impl SharedData for FakeSharedData {
    fn read<R>(&self, key: &str, read: impl FnOnce(Option<(&[u8], u32)>) -> R) -> R {
        let held = self.entries.borrow().get(key).cloned();
        read(held.as_ref().map(|(bytes, cas)| (bytes.as_slice(), *cas)))
    }

    fn set(&self, key: &str, bytes: &[u8], cas: u32) -> Result<(), Conflict> {
        let mut entries = self.entries.borrow_mut();
        if entries.get(key).is_some_and(|(_, held)| cas != 0 && *held != cas) {
            return Err(Conflict);
        }
        let next = self.last_cas.get().wrapping_add(1);
        self.last_cas.set(next);
        entries.insert(key.to_owned(), (bytes.to_vec(), next));
        Ok(())
    }
}

/// One VM's way out: the process's shared data, and the calls that it made.
pub struct FakeHost<'a> {
    pub shared: &'a FakeSharedData,
    pub calls: RefCell<Vec<Call>>,
}

impl SharedData for FakeHost<'_> {
    fn read<R>(&self, key: &str, read: impl FnOnce(Option<(&[u8], u32)>) -> R) -> R {
        self.shared.read(key, read)
    }

    fn set(&self, key: &str, bytes: &[u8], cas: u32) -> Result<(), Conflict> {
        self.shared.set(key, bytes, cas)
    }
}

impl Host for FakeHost<'_> {
    fn call(&self, call: &Call) -> bool {
        self.calls.borrow_mut().push(call.clone());
        true
    }
}
