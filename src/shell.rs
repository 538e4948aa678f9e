//! Envoy's callbacks in, hostcalls out: the one module that knows the proxy-wasm ABI (0.2.1).
//!
//! The host calls every callback that a module exports, for every request, so only those are exported that
//! have something to do. In particular nobody says when a context is gone: [`contexts`] finds out.

mod contexts;
mod hostcalls;
mod http;
mod logger;
mod memory;
mod metrics;
mod root;

use std::cell::RefCell;

use contexts::{Contexts, Step};

use crate::request::unexplained;

/// What a callback lets the host do with the request.
const CONTINUE: u32 = 0;
const STOP: u32 = 1;

thread_local! {
    static CONTEXTS: RefCell<Contexts> = const { RefCell::new(Contexts::new()) };
}

/// Runs with what the VM knows. `None` if a callback came within a callback, such as that for the headers of
/// an answer which the filter itself is just sending.
fn with<R>(run: impl FnOnce(&mut Contexts) -> R) -> Option<R> {
    CONTEXTS.with(|contexts| contexts.try_borrow_mut().ok().map(|mut contexts| run(&mut contexts)))
}

/// What the host is told. The VM is free here: an answer comes back into this module.
fn carry_out(step: Step) -> u32 {
    match step {
        Step::Continue => CONTINUE,
        Step::Stop => STOP,
        Step::Answer(reply) => {
            http::send(&reply);
            STOP
        }
    }
}

unsafe extern "C" {
    fn __wasm_call_ctors();
}

#[unsafe(no_mangle)]
extern "C" fn _initialize() {
    // SAFETY: the host calls this once, before anything else.
    unsafe { __wasm_call_ctors() };
    logger::install();
}

#[unsafe(no_mangle)]
const extern "C" fn proxy_abi_version_0_2_1() {}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_context_create(id: u32, parent: u32) {
    with(|contexts| contexts.create(id, parent));
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_configure(root: u32, size: usize) -> u32 {
    let configured = root::configure(size);
    let accepted = configured.is_some();
    with(|contexts| contexts.configure(root, configured));
    accepted.into()
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_tick(root: u32) {
    with(|contexts| {
        contexts.forget_the_gone(root);
        if let Some(root) = contexts.root(root) {
            root.tick();
        }
    });
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_http_call_response(root: u32, token: u32, _headers: u32, body: usize, _trailers: u32) {
    with(|contexts| {
        if let Some(root) = contexts.root(root) {
            root.answer(token, body);
        }
    });
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_headers(id: u32, _count: u32, end: u32) -> u32 {
    // Without a configuration, or with a VM that is busy with itself, nothing can be explained.
    let step = with(|contexts| contexts.request(id, end != 0)).unwrap_or_else(|| Step::Answer(unexplained()));
    carry_out(step)
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_body(id: u32, size: usize, end: u32) -> u32 {
    carry_out(with(|contexts| contexts.body(id, size, end != 0)).unwrap_or(Step::Continue))
}

/// Trailers become headers behind some servers. Only a request that has any pays for this.
#[unsafe(no_mangle)]
extern "C" fn proxy_on_request_trailers(_id: u32, _count: u32) -> u32 {
    // While the VM is busy with itself nothing can be taken out, so nothing goes on.
    if with(|contexts| contexts.clear_trailers()) == Some(true) { CONTINUE } else { STOP }
}

#[unsafe(no_mangle)]
extern "C" fn proxy_on_response_headers(id: u32, _count: u32, _end: u32) -> u32 {
    with(|contexts| {
        if let Some(notice) = contexts.take_notice(id) {
            http::add_notice(&notice);
        }
    });
    CONTINUE
}
