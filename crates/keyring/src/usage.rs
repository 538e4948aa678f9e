//! What a proxy's VMs counted: who used which key version, when, and what became of it.
//!
//! Each VM seals its counts into numbered batches, which travel unchanged and may arrive more than
//! once: (`instance`, `vm`, `batch`) names one for ever. A number that never arrives is a gap, and a VM
//! whose numbers start anew is another VM, so that silence is never taken for no use.

use serde::{Deserialize, Serialize};

use crate::Millis;
use crate::entry::is_name;

/// The most counts of one batch.
pub const MAX_COUNTS: usize = 4096;
/// The most batches of one report.
pub const MAX_BATCHES: usize = 256;
/// The longest report, in bytes.
pub const MAX_REPORT: usize = 2 << 20;
/// Counts belong to a span of so many milliseconds.
pub const MINUTE: u64 = 60_000;

/// The body of `POST /v1/rings/{ring}/usage`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    pub batches: Vec<Batch>,
}

/// What one VM counted from `from` until `to`. Without counts it says that nothing was used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// Envoy's `node.id`.
    pub node: String,
    /// The Envoy process, in hexadecimal.
    pub instance: String,
    /// The VM within it, in hexadecimal.
    pub vm: String,
    /// From 1, without gaps.
    pub batch: u64,
    pub from: Millis,
    pub to: Millis,
    pub counts: Vec<Count>,
}

/// How often requests with one key version had one outcome in one minute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    pub version: String,
    /// `valid`, or the code of the refusal.
    pub outcome: String,
    /// When the minute began.
    pub minute: Millis,
    pub count: u64,
}

/// Why a batch is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadBatch {
    #[error("node must be 1 to 256 bytes without control characters")]
    Node,
    #[error("{0} must be 1 to 16 hexadecimal digits")]
    Id(&'static str),
    #[error("batch counts from 1")]
    Number,
    #[error("from is after to")]
    Window,
    #[error("at most {MAX_COUNTS} counts, each of at least 1")]
    Counts,
    #[error("a version must be a name, an outcome 1 to 64 lower-case letters and `_`")]
    Name,
    #[error("minute must be the beginning of a minute")]
    Minute,
}

impl Batch {
    /// # Errors
    ///
    /// The first rule that the batch breaks.
    pub fn check(&self) -> Result<(), BadBatch> {
        if !(1..=256).contains(&self.node.len()) || self.node.chars().any(char::is_control) {
            return Err(BadBatch::Node);
        }
        for (field, id) in [("instance", &self.instance), ("vm", &self.vm)] {
            if !(1..=16).contains(&id.len()) || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(BadBatch::Id(field));
            }
        }
        if self.batch == 0 {
            return Err(BadBatch::Number);
        }
        if self.from > self.to {
            return Err(BadBatch::Window);
        }
        if self.counts.len() > MAX_COUNTS {
            return Err(BadBatch::Counts);
        }
        self.counts.iter().try_for_each(Count::check)
    }
}

impl Count {
    fn check(&self) -> Result<(), BadBatch> {
        let outcome = self.outcome.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        if !is_name(&self.version) || !outcome || !(1..=64).contains(&self.outcome.len()) {
            return Err(BadBatch::Name);
        }
        if !self.minute.0.is_multiple_of(MINUTE) {
            return Err(BadBatch::Minute);
        }
        if self.count == 0 { Err(BadBatch::Counts) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Batch {
        let count =
            Count { version: "kv_1".into(), outcome: "valid".into(), minute: Millis(60_000), count: 7 };
        Batch {
            node: "edge/1".into(),
            instance: "0a1b".into(),
            vm: "ff".into(),
            batch: 1,
            from: Millis(60_000),
            to: Millis(70_000),
            counts: vec![count],
        }
    }

    #[test]
    fn a_report_comes_back_whole() {
        let report = Report { batches: vec![batch()] };
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
        assert_eq!(batch().check(), Ok(()));
    }

    #[test]
    fn each_rule_is_named() {
        let check = |change: fn(&mut Batch), want| {
            let mut batch = batch();
            change(&mut batch);
            assert_eq!(batch.check(), Err(want));
        };
        check(|batch| batch.node.clear(), BadBatch::Node);
        check(|batch| batch.node = "a\nb".into(), BadBatch::Node);
        check(|batch| batch.instance = "xyz".into(), BadBatch::Id("instance"));
        check(|batch| batch.vm = "0".repeat(17), BadBatch::Id("vm"));
        check(|batch| batch.batch = 0, BadBatch::Number);
        check(|batch| batch.to = Millis(1), BadBatch::Window);
        check(|batch| batch.counts[0].count = 0, BadBatch::Counts);
        check(|batch| batch.counts = vec![batch.counts[0].clone(); MAX_COUNTS + 1], BadBatch::Counts);
        check(|batch| batch.counts[0].version = "a b".into(), BadBatch::Name);
        check(|batch| batch.counts[0].outcome = "Valid".into(), BadBatch::Name);
        check(|batch| batch.counts[0].minute = Millis(60_001), BadBatch::Minute);
    }
}
