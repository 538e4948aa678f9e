//! Envoy's hostcalls. Whatever status comes back, the caller gets an absent value or a false, and
//! decides: none of them panics.

use keywheel_keyring::Millis;

use super::memory::Returned;
use crate::request::Unreadable;
use crate::shared::{Conflict, SharedData};

const OK: u32 = 0;

/// Which headers.
#[derive(Debug, Clone, Copy)]
pub(super) enum Map {
    Request = 0,
    RequestTrailers = 1,
    Response = 2,
    CallResponse = 6,
}

/// Which bytes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Buffer {
    RequestBody = 0,
    CallResponseBody = 4,
    PluginConfiguration = 7,
}

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    fn proxy_log(level: u32, text: *const u8, len: usize) -> u32;
    fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    fn proxy_set_effective_context(id: u32) -> u32;
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
    fn proxy_add_header_map_value(
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
    fn proxy_http_call(
        upstream: *const u8,
        upstream_len: usize,
        headers: *const u8,
        headers_len: usize,
        body: *const u8,
        body_len: usize,
        trailers: *const u8,
        trailers_len: usize,
        timeout_ms: u32,
        token: *mut u32,
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

#[link(wasm_import_module = "wasi_snapshot_preview1")]
unsafe extern "C" {
    fn clock_time_get(clock: u32, precision: u64, time: *mut u64) -> u32;
}

/// The wall clock, by Envoy.
pub(super) fn wall() -> Millis {
    let mut nanos = 0_u64;
    // SAFETY: the host writes eight bytes to a live place.
    unsafe { proxy_get_current_time_nanoseconds(&raw mut nanos) };
    Millis(nanos / 1_000_000)
}

/// Milliseconds on the clock of the whole process that never jumps.
pub(super) fn mono() -> u64 {
    const MONOTONIC: u32 = 1;
    let mut nanos = 0_u64;
    // SAFETY: the host writes eight bytes to a live place.
    unsafe { clock_time_get(MONOTONIC, 0, &raw mut nanos) };
    nanos / 1_000_000
}

pub(super) fn log(level: u32, text: &str) {
    // SAFETY: the text is live for the call.
    unsafe { proxy_log(level, text.as_ptr(), text.len()) };
}

/// From now on the current root context is called this often.
pub(super) fn set_tick_period(millis: u64) {
    // SAFETY: no memory is passed.
    unsafe { proxy_set_tick_period_milliseconds(u32::try_from(millis).unwrap_or(u32::MAX)) };
}

/// Makes hostcalls speak for another context, until the end of the callback. False if it is gone.
pub(super) fn set_effective_context(id: u32) -> bool {
    // SAFETY: no memory is passed.
    unsafe { proxy_set_effective_context(id) == OK }
}

/// A property such as `request\0headers\0x-api-key`, its path joined by zero bytes. Not there is one thing,
/// and not to be shown another.
pub(super) fn property(path: &[u8]) -> Result<Option<Returned>, Unreadable> {
    const NOT_FOUND: u32 = 1;
    let mut status = OK;
    let returned = Returned::from_call(|data, len| {
        // SAFETY: the path is live for the call.
        status = unsafe { proxy_get_property(path.as_ptr(), path.len(), data, len) };
        status
    });
    match status {
        OK | NOT_FOUND => Ok(returned),
        _ => Err(Unreadable),
    }
}

/// Sets filter state `wasm.<path>`.
pub(super) fn set_property(path: &str, value: &[u8]) {
    // SAFETY: both slices are live for the call.
    unsafe { proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len()) };
}

/// The first value of a header.
pub(super) fn header(map: Map, name: &str) -> Option<Returned> {
    // SAFETY: the name is live for the call.
    Returned::from_call(|data, len| unsafe {
        proxy_get_header_map_value(map as u32, name.as_ptr(), name.len(), data, len)
    })
}

/// Sets a header to one value, whatever it held. False if the host refused.
#[must_use]
pub(super) fn set_header(map: Map, name: &str, value: &[u8]) -> bool {
    // SAFETY: both slices are live for the call.
    let status = unsafe {
        proxy_replace_header_map_value(map as u32, name.as_ptr(), name.len(), value.as_ptr(), value.len())
    };
    status == OK
}

/// Adds a value to those that a header has. False if the host refused.
#[must_use]
pub(super) fn add_header(map: Map, name: &str, value: &[u8]) -> bool {
    // SAFETY: both slices are live for the call.
    let status = unsafe {
        proxy_add_header_map_value(map as u32, name.as_ptr(), name.len(), value.as_ptr(), value.len())
    };
    status == OK
}

/// Removes every value of a header. False if the host refused.
#[must_use]
pub(super) fn remove_header(map: Map, name: &str) -> bool {
    // SAFETY: the name is live for the call.
    unsafe { proxy_remove_header_map_value(map as u32, name.as_ptr(), name.len()) == OK }
}

/// At most `len` bytes from the beginning.
pub(super) fn buffer(buffer: Buffer, len: usize) -> Option<Vec<u8>> {
    // SAFETY: only the places for the answer are passed.
    let bytes =
        Returned::from_call(|data, out| unsafe { proxy_get_buffer_bytes(buffer as u32, 0, len, data, out) });
    Some(bytes?.into_vec())
}

/// A request to a cluster: the token that its answer will bear.
pub(super) fn http_call(
    cluster: &str,
    headers: &[(&str, &str)],
    body: &[u8],
    timeout_ms: u64,
) -> Option<u32> {
    let headers = serialize(headers);
    let trailers = serialize(&[]);
    let timeout = u32::try_from(timeout_ms).unwrap_or(u32::MAX);
    let mut token = 0_u32;
    // SAFETY: all slices and `token` are live for the call.
    let status = unsafe {
        proxy_http_call(
            cluster.as_ptr(),
            cluster.len(),
            headers.as_ptr(),
            headers.len(),
            body.as_ptr(),
            body.len(),
            trailers.as_ptr(),
            trailers.len(),
            timeout,
            &raw mut token,
        )
    };
    (status == OK).then_some(token)
}

/// Answers the request from here.
pub(super) fn send_local_response(
    status: u16,
    details: &str,
    headers: &[(&str, &str)],
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
fn serialize(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut out = (pairs.len() as u32).to_le_bytes().to_vec();
    for (name, value) in pairs {
        out.extend_from_slice(&(name.len() as u32).to_le_bytes());
        out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    }
    for (name, value) in pairs {
        for text in [*name, *value] {
            out.extend_from_slice(text.as_bytes());
            out.push(0);
        }
    }
    out
}

/// Envoy's shared data for this `vm_id`.
pub(super) struct Shared;

impl SharedData for Shared {
    fn read<R>(&self, key: &str, read: impl FnOnce(Option<(&[u8], u32)>) -> R) -> R {
        let mut cas = 0_u32;
        // SAFETY: the key and `cas` are live for the call.
        let bytes = Returned::from_call(|data, len| unsafe {
            proxy_get_shared_data(key.as_ptr(), key.len(), data, len, &raw mut cas)
        });
        // No credential is stored there.
        let bytes = bytes.map(Returned::without_secret);
        read(bytes.as_ref().map(|bytes| (&**bytes, cas)))
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
