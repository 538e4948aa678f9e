//! Ports that nobody else uses.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

/// Below the range from which systems take the ports of outgoing connections: a port chosen there could
/// be taken by a passing connection while its server restarts.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A loopback address that is free now, and that no other call in this process gets.
///
/// # Panics
///
/// All ports are taken.
pub fn free() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that run at once start at different places.
    let start = u16::try_from(std::process::id() % 97).unwrap_or_default() * (COUNT / 97);
    for _ in 0..COUNT {
        let offset = (start + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST + offset));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no port from {FIRST} to {} is free", FIRST + COUNT);
}
