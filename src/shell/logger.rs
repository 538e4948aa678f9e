//! The `log` crate's messages, into Envoy's log.

use log::{Level, LevelFilter, Log, Metadata, Record};

use super::hostcalls;

struct Logger;

pub(super) fn install() {
    // It fails only where one is installed already.
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
    std::panic::set_hook(Box::new(|panic| hostcalls::log(CRITICAL, &panic.to_string())));
}

const CRITICAL: u32 = 5;

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let level = match record.level() {
            Level::Trace => 0,
            Level::Debug => 1,
            Level::Info => 2,
            Level::Warn => 3,
            Level::Error => 4,
        };
        hostcalls::log(level, &record.args().to_string());
    }

    fn flush(&self) {}
}
