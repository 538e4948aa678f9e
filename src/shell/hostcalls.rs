//! Envoy's hostcalls, without the panics of the SDK's wrappers: whatever status comes back, the
//! caller gets an absent value or a false, and decides.

use std::ptr::null_mut;

use keywheel_keyring::Millis;

use crate::Now;
use crate::shared::{Conflict, SharedData};

const OK: u32 = 0;
const REQUEST_HEADERS: u32 = 0;
const CALL_RESPONSE_HEADERS: u32 = 6;
const CALL_RESPONSE_BODY: u32 = 4;
const PLUGIN_CONFIGURATION: u32 = 7;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_get_property(path: *const u8, path_len: usize, data: *mut *mut u8, len: *mut usize) -> u32;
    fn proxy_set_property(path: *const u8, path_len: usize, value: *const u8, value_len: usize) -> u32;
    fn proxy_get_header_map_value(
        map: u32,
        key: *const u8,
        key_len: usize,
        data: *mut *mut u8,
        len: *mut usize,
    ) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        key: *const u8,
        key_len: usize,
        value: *const u8,
        value_len: usize,
    ) -> u32;
    fn proxy_remove_header_map_value(map: u32, key: *const u8, key_len: usize) -> u32;
    fn proxy_get_buffer_bytes(
        buffer: u32,
        start: usize,
        max: usize,
        data: *mut *mut u8,
        len: *mut usize,
    ) -> u32;
    fn proxy_get_shared_data(
        key: *const u8,
        key_len: usize,
        data: *mut *mut u8,
        len: *mut usize,
        cas: *mut u32,
    ) -> u32;
    fn proxy_set_shared_data(
        key: *const u8,
        key_len: usize,
        value: *const u8,
        value_len: usize,
        cas: u32,
    ) -> u32;
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_len: usize,
        body: *const u8,
        body_len: usize,
        headers: *const u8,
        headers_len: usize,
        grpc_status: i32,
    ) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, name_len: usize, id: *mut u32) -> u32;
    fn proxy_increment_metric(id: u32, offset: i64) -> u32;
    fn proxy_record_metric(id: u32, value: u64) -> u32;
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
}

/// The time now: wall clock from Envoy, monotonic from WASI.
pub(super) fn now(started: std::time::Instant) -> Now {
    let mut nanos = 0_u64;
    // SAFETY: the host writes eight bytes to a live place.
    unsafe { proxy_get_current_time_nanoseconds(&raw mut nanos) };
    let mono = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Now { wall: Millis(nanos / 1_000_000), mono }
}

/// A property such as `request\0headers\0x-api-key`, its path joined by zero bytes.
pub(super) fn property(path: &[u8]) -> Option<Vec<u8>> {
    // SAFETY: the path is live for the call; see `returned`.
    returned(|data, len| unsafe { proxy_get_property(path.as_ptr(), path.len(), data, len) })
}

/// Sets filter state `wasm.<path>`.
pub(super) fn set_property(path: &str, value: &[u8]) {
    // SAFETY: both slices are live for the call.
    unsafe { proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len()) };
}

pub(super) fn request_header(name: &str) -> Option<Vec<u8>> {
    header(REQUEST_HEADERS, name)
}

pub(super) fn call_response_header(name: &str) -> Option<Vec<u8>> {
    header(CALL_RESPONSE_HEADERS, name)
}

fn header(map: u32, name: &str) -> Option<Vec<u8>> {
    // SAFETY: the name is live for the call; see `returned`.
    returned(|data, len| unsafe { proxy_get_header_map_value(map, name.as_ptr(), name.len(), data, len) })
}

/// Sets a request header to one value, whatever it held. False if the host refused.
#[must_use]
pub(super) fn set_request_header(name: &str, value: &[u8]) -> bool {
    // SAFETY: both slices are live for the call.
    let status = unsafe {
        proxy_replace_header_map_value(
            REQUEST_HEADERS,
            name.as_ptr(),
            name.len(),
            value.as_ptr(),
            value.len(),
        )
    };
    status == OK
}

/// Removes every value of a request header. False if the host refused.
#[must_use]
pub(super) fn remove_request_header(name: &str) -> bool {
    // SAFETY: the name is live for the call.
    unsafe { proxy_remove_header_map_value(REQUEST_HEADERS, name.as_ptr(), name.len()) == OK }
}

pub(super) fn call_response_body(len: usize) -> Option<Vec<u8>> {
    buffer(CALL_RESPONSE_BODY, len)
}

pub(super) fn plugin_configuration(len: usize) -> Option<Vec<u8>> {
    buffer(PLUGIN_CONFIGURATION, len)
}

fn buffer(kind: u32, len: usize) -> Option<Vec<u8>> {
    // SAFETY: see `returned`.
    returned(|data, out| unsafe { proxy_get_buffer_bytes(kind, 0, len, data, out) })
}

/// Answers the request from here. Unlike the SDK's call it passes the response code details.
pub(super) fn send_local_response(
    status: u16,
    details: &str,
    headers: &[(&str, String)],
    body: &str,
    grpc_status: i32,
) {
    let headers = serialize(headers);
    // SAFETY: all slices are live for the call.
    unsafe {
        proxy_send_local_response(
            status.into(),
            details.as_ptr(),
            details.len(),
            body.as_ptr(),
            body.len(),
            headers.as_ptr(),
            headers.len(),
            grpc_status,
        )
    };
}

/// Pairs as the ABI wants them: count, lengths, then the bytes, each with a zero behind it.
fn serialize(pairs: &[(&str, String)]) -> Vec<u8> {
    let mut out = (pairs.len() as u32).to_le_bytes().to_vec();
    for (name, value) in pairs {
        out.extend_from_slice(&(name.len() as u32).to_le_bytes());
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    }
    for (name, value) in pairs {
        for text in [*name, value.as_str()] {
            out.extend_from_slice(text.as_bytes());
            out.push(0);
        }
    }
    out
}

/// Takes over the memory that the host had the module allocate.
fn returned(call: impl FnOnce(*mut *mut u8, *mut usize) -> u32) -> Option<Vec<u8>> {
    let (mut data, mut len) = (null_mut::<u8>(), 0_usize);
    if call(&raw mut data, &raw mut len) != OK {
        return None;
    }
    if data.is_null() {
        return Some(Vec::new());
    }
    // SAFETY: the host got `data` from the module's allocator, for exactly `len` bytes, and filled
    // them; nobody else owns them.
    Some(unsafe { Vec::from_raw_parts(data, len, len) })
}

/// Envoy's shared data for this `vm_id`.
pub(super) struct Shared;

impl SharedData for Shared {
    fn get(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        let mut cas = 0_u32;
        // SAFETY: the key and `cas` are live for the call; see `returned`.
        let bytes = returned(|data, len| unsafe {
            proxy_get_shared_data(key.as_ptr(), key.len(), data, len, &raw mut cas)
        })?;
        Some((bytes, cas))
    }

    fn set(&self, key: &str, bytes: &[u8], cas: u32) -> Result<(), Conflict> {
        // SAFETY: both slices are live for the call.
        let status =
            unsafe { proxy_set_shared_data(key.as_ptr(), key.len(), bytes.as_ptr(), bytes.len(), cas) };
        if status == OK { Ok(()) } else { Err(Conflict) }
    }
}

/// A counter or a gauge, defined once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Metric(u32);

impl Metric {
    pub(super) fn counter(name: &str) -> Option<Self> {
        Self::define(0, name)
    }

    pub(super) fn gauge(name: &str) -> Option<Self> {
        Self::define(1, name)
    }

    fn define(kind: u32, name: &str) -> Option<Self> {
        let mut id = 0_u32;
        // SAFETY: the name and `id` are live for the call.
        let status = unsafe { proxy_define_metric(kind, name.as_ptr(), name.len(), &raw mut id) };
        (status == OK).then_some(Self(id))
    }

    pub(super) fn add(self, count: u64) {
        // SAFETY: no memory is passed.
        unsafe { proxy_increment_metric(self.0, i64::try_from(count).unwrap_or(i64::MAX)) };
    }

    pub(super) fn set(self, value: u64) {
        // SAFETY: no memory is passed.
        unsafe { proxy_record_metric(self.0, value) };
    }
}
