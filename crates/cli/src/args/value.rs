//! Values as they are written on the command line.

use std::time::Duration;

use keywheel_api::labels::is_label;
use keywheel_api::policy::Day;
use keywheel_api::policy::Window;
use keywheel_api::{Timestamp, WaveSize};

/// Reads `team=payments`.
pub(super) fn label(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').filter(|(name, value)| is_label(name) && is_label(value));
    let rule = "is no NAME=VALUE of 1 to 63 letters, digits, `.`, `_`, `/` and `-` each";
    parts.map(|(name, value)| (name.into(), value.into())).ok_or_else(|| format!("`{text}` {rule}"))
}

/// Reads `team=payments`, or `team` for whatever has that label.
pub(super) fn label_or_name(text: &str) -> Result<(String, Option<String>), String> {
    if is_label(text) {
        return Ok((text.into(), None));
    }
    label(text).map(|(name, value)| (name, Some(value)))
}

/// Reads `50` or `10%`.
pub(super) fn wave(text: &str) -> Result<WaveSize, String> {
    let rule = |_| format!("`{text}` is no size of a wave: write it like 50 or 10%");
    match text.strip_suffix('%') {
        Some(percent) => percent.parse().map(WaveSize::Percent).map_err(rule),
        None => text.parse().map(WaveSize::Keys).map_err(rule),
    }
}

/// Reads `mon,tue 09:00-17:00`.
pub(super) fn window(text: &str) -> Result<Window, String> {
    let rule = || format!("`{text}` is no window: write it like `mon,tue,wed,thu,fri 09:00-17:00`");
    let (days, hours) = text.split_once(' ').ok_or_else(rule)?;
    let (from, to) = hours.split_once('-').ok_or_else(rule)?;
    let days: Result<Vec<Day>, _> = days.split(',').map(str::parse).collect();
    match (days, from.parse(), to.parse()) {
        (Ok(days), Ok(from), Ok(to)) => Ok(Window { days, from, to }),
        _ => Err(rule()),
    }
}

/// Reads `90d`, `1h30m` or `2s`, in whole seconds.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let rule = || format!("`{text}` is no duration: write it like 30s, 30m, 12h, 90d or 1h30m");
    let mut seconds: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(rule)?;
        let (number, unit) = rest.split_at(digits);
        let number: u64 = number.parse().map_err(|_| rule())?;
        let unit_seconds = match unit.chars().next() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 60 * 60,
            Some('d') => 24 * 60 * 60,
            Some('w') => 7 * 24 * 60 * 60,
            _ => return Err(rule()),
        };
        seconds = number.checked_mul(unit_seconds).and_then(|n| seconds.checked_add(n)).ok_or_else(rule)?;
        rest = unit.get(1..).unwrap_or_default();
    }
    if text.is_empty() { Err(rule()) } else { Ok(Duration::from_secs(seconds)) }
}

/// Reads a [`duration`] that a change may wait.
pub(super) fn wait(text: &str) -> Result<Duration, String> {
    let limit = duration(text)?;
    let fits = (1..=60).contains(&limit.as_secs());
    if fits { Ok(limit) } else { Err(format!("`{text}` is no time to wait: 1s to 60s")) }
}

/// Reads a [`duration`] after which a proxy may be taken for gone.
pub(super) fn silence(text: &str) -> Result<Duration, String> {
    let silent = duration(text)?;
    let rule = "a proxy that runs may be silent for 60s, since it waits that long for its turn: name those that you \
                know to be gone with --instance, or say 60s or more";
    if silent.as_secs() >= 60 { Ok(silent) } else { Err(format!("`{text}` is too short: {rule}")) }
}

/// From when on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Since {
    Ago(Duration),
    At(Timestamp),
}

/// Reads a [`duration`], or a time.
pub(super) fn since(text: &str) -> Result<Since, String> {
    let rule = |_| format!("`{text}` is no time: write it like 24h, or 2026-11-28T14:00:00Z");
    duration(text).map(Since::Ago).or_else(|_| text.parse().map(Since::At).map_err(rule))
}

/// When something ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    Never,
    In(Duration),
}

/// Reads a [`duration`], or `never`.
pub(super) fn end(text: &str) -> Result<End, String> {
    if text == "never" { Ok(End::Never) } else { duration(text).map(End::In) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read() {
        for (text, seconds) in [("0s", 0), ("2s", 2), ("30m", 1800), ("1h30m", 5400), ("90d", 7_776_000)] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(since("24h"), Ok(Since::Ago(Duration::from_secs(86_400))));
        assert!(
            matches!(since("2026-11-28T14:00:00Z"), Ok(Since::At(at)) if at.as_second() == 1_795_874_400)
        );
        assert!(since("yesterday").unwrap_err().contains("24h"));
        assert_eq!(silence("60s"), Ok(Duration::from_secs(60)));
        assert!(silence("59s").unwrap_err().contains("may be silent for 60s"));
        for bad in ["", "30", "m", "-3s", "1y", "1 h", "99999999999999999999s", "9999999999999999999d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_of_waves_are_read() {
        assert_eq!(wave("50"), Ok(WaveSize::Keys(50)));
        assert_eq!(wave("10%"), Ok(WaveSize::Percent(10)));
        for bad in ["", "%", "ten", "-1", "1.5%", "10 %"] {
            assert!(wave(bad).is_err(), "{bad}");
        }
        assert_eq!(label_or_name("team"), Ok(("team".into(), None)));
        assert_eq!(label_or_name("team=a"), Ok(("team".into(), Some("a".into()))));
        assert!(label_or_name("=a").is_err());
    }

    #[test]
    fn labels_and_windows_are_read() {
        assert_eq!(label("team=a/b"), Ok(("team".into(), "a/b".into())));
        for bad in ["team", "=a", "team=", "a b=c"] {
            assert!(label(bad).is_err(), "{bad}");
        }
        let nights = window("sat,sun 22:00-04:30").unwrap();
        assert_eq!((nights.days, nights.to.minutes()), (vec![Day::Sat, Day::Sun], 270));
        for bad in ["mon", "mon 9-17", "day 09:00-17:00", "09:00-17:00"] {
            assert!(window(bad).is_err(), "{bad}");
        }
    }
}
