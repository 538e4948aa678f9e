//! The admin API writes RFC 3339, rings and the database count milliseconds.

use jiff::Timestamp;
use keywheel_keyring::Millis;

/// Times beyond the year 9999 become its end.
#[must_use]
pub fn timestamp(millis: Millis) -> Timestamp {
    i64::try_from(millis.0).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(Timestamp::MAX)
}

/// Times before 1970 have no milliseconds.
#[must_use]
pub fn millis(timestamp: Timestamp) -> Option<Millis> {
    u64::try_from(timestamp.as_millisecond()).ok().map(Millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_survive_the_way_through_rfc_3339() {
        let text = timestamp(Millis(1_790_000_000_123)).to_string();
        assert_eq!(text, "2026-09-21T14:13:20.123Z");
        assert_eq!(millis(text.parse().unwrap()), Some(Millis(1_790_000_000_123)));
        assert_eq!(millis("1969-12-31T23:59:59Z".parse().unwrap()), None);
        assert_eq!(timestamp(Millis(u64::MAX)), Timestamp::MAX);
    }
}
