//! Memory that the host asks the module for, to return bytes in.
//!
//! Nearly everything that a request returns is short and is looked at once. It goes into one buffer that
//! is used again and again; what is longer, or comes while the buffer is in use, is allocated. A value is
//! cleared when it is dropped, unless it is known not to be a key.

use std::cell::UnsafeCell;
use std::ops::Deref;
use std::ptr::null_mut;

use zeroize::Zeroize as _;

const SCRATCH: usize = 4096;

/// On a cache line of its own, so that a short value takes as few of them as can be.
#[repr(align(64))]
struct Scratch {
    bytes: UnsafeCell<[u8; SCRATCH]>,
    taken: UnsafeCell<bool>,
}

// SAFETY: a VM of Envoy has one thread.
unsafe impl Sync for Scratch {}

static BUFFER: Scratch = Scratch { bytes: UnsafeCell::new([0; SCRATCH]), taken: UnsafeCell::new(false) };

/// The host's way to get memory. It asks for nothing but to return a value from a hostcall, which then
/// is wrapped in [`Returned`].
#[unsafe(no_mangle)]
extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    // SAFETY: one thread, and no reference to `taken` outlives a statement.
    if size <= SCRATCH && !unsafe { *BUFFER.taken.get() } {
        unsafe { *BUFFER.taken.get() = true };
        return BUFFER.bytes.get().cast();
    }
    let mut bytes: Vec<u8> = Vec::new();
    if bytes.try_reserve_exact(size).is_err() {
        return null_mut();
    }
    let mut bytes = std::mem::ManuallyDrop::new(bytes);
    bytes.as_mut_ptr()
}

/// Bytes that a hostcall returned.
pub(super) struct Returned {
    data: *mut u8,
    len: usize,
    is_secret: bool,
}

impl Returned {
    /// Takes over what `call` made the host write. `None` unless the call's status is 0.
    pub(super) fn from_call(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Option<Self> {
        let (mut data, mut len) = (null_mut::<u8>(), 0_usize);
        let status = call(&raw mut data, &raw mut len);
        // Whatever was allocated is owned from here on, also when the call failed after all.
        let returned = Self { data, len: if data.is_null() { 0 } else { len }, is_secret: true };
        (status == 0).then_some(returned)
    }

    /// The same bytes, known to hold nothing that must not stay in memory.
    pub(super) const fn without_secret(mut self) -> Self {
        self.is_secret = false;
        self
    }

    /// The same bytes, in memory of their own.
    pub(super) fn into_vec(self) -> Vec<u8> {
        if self.data.is_null() || self.is_scratch() {
            return self.to_vec();
        }
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: see `drop`.
        unsafe { Vec::from_raw_parts(this.data, this.len, this.len) }
    }

    fn is_scratch(&self) -> bool {
        std::ptr::eq(self.data, BUFFER.bytes.get().cast())
    }
}

impl Deref for Returned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        if self.data.is_null() {
            return &[];
        }
        // SAFETY: the host wrote `len` bytes into memory that it got from `proxy_on_memory_allocate`, and
        // that nobody else owns until this is dropped.
        unsafe { std::slice::from_raw_parts(self.data, self.len) }
    }
}

impl Drop for Returned {
    fn drop(&mut self) {
        if self.data.is_null() {
            return;
        }
        if self.is_secret {
            // SAFETY: as in `deref`; and any bytes make a number.
            let (head, words, tail) =
                unsafe { std::slice::from_raw_parts_mut(self.data, self.len).align_to_mut::<u64>() };
            // A byte at a time it would take as long as a look into the cache.
            head.zeroize();
            words.zeroize();
            tail.zeroize();
        }
        if self.is_scratch() {
            // SAFETY: as above.
            unsafe { *BUFFER.taken.get() = false };
        } else {
            // SAFETY: it was allocated as a vector of bytes with exactly this capacity.
            drop(unsafe { Vec::from_raw_parts(self.data, 0, self.len) });
        }
    }
}
