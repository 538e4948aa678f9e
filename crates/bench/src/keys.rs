//! Made-up keys, the same in every run, and how requests choose among them.

use std::sync::Arc;

use keywheel_keyring::{KeyPrefix, PlainKey, VersionId};

/// What keys begin with, as the control plane issues them.
pub(crate) const PREFIX: &str = "kw_live_";
/// Keys from this number on are in no ring.
const UNKNOWN: u32 = 1 << 31;

/// Which credential each request carries.
#[derive(Clone)]
pub(crate) enum Traffic {
    /// Every key as often as any other: the worst case for a cache.
    Uniform(Arc<[String]>),
    /// The n-th key in proportion to 1/n, which is how callers of real services tend to spread.
    Zipf(Arc<[String]>, Arc<Zipf>),
    /// None.
    Missing,
}

impl Traffic {
    /// The next request's key. Without one, the request carries no credential at all.
    pub(crate) fn next(&self, draw: &mut Draw) -> Option<&str> {
        match self {
            Self::Uniform(keys) => keys.get(draw.below(keys.len())).map(String::as_str),
            Self::Zipf(keys, zipf) => keys.get(zipf.rank(draw.unit())).map(String::as_str),
            Self::Missing => None,
        }
    }
}

/// The keys of a ring of `count`.
pub(crate) fn ring(count: u32) -> anyhow::Result<Arc<[String]>> {
    texts(0..count)
}

/// Keys that look like those of any ring, and are in none.
pub(crate) fn unknown(count: u32) -> anyhow::Result<Arc<[String]>> {
    texts(UNKNOWN..UNKNOWN + count)
}

/// The id of the version that key `number` of a ring is.
pub(crate) fn version(number: u32) -> VersionId {
    let mut random = [7; 12];
    random[..4].copy_from_slice(&number.to_be_bytes());
    VersionId::from_random(random)
}

fn texts(numbers: std::ops::Range<u32>) -> anyhow::Result<Arc<[String]>> {
    let prefix: KeyPrefix = PREFIX.parse()?;
    let text = |number: u32| {
        let mut random = [42; 32];
        random[..4].copy_from_slice(&number.to_be_bytes());
        PlainKey::generate(&prefix, &version(number), random).expose().to_owned()
    };
    Ok(numbers.map(text).collect())
}

/// The sums of 1/1 + 1/2 + … + 1/n, over the last of them.
pub(crate) struct Zipf(Vec<f64>);

impl Zipf {
    pub(crate) fn new(count: usize) -> Self {
        let mut sum = 0.0;
        let mut sums: Vec<f64> = (1..=count)
            .map(|rank| {
                sum += 1.0 / rank as f64;
                sum
            })
            .collect();
        sums.iter_mut().for_each(|upto| *upto /= sum);
        Self(sums)
    }

    /// The rank, from 0, that a number from 0 to 1 falls on.
    fn rank(&self, unit: f64) -> usize {
        self.0.partition_point(|upto| *upto <= unit).min(self.0.len().saturating_sub(1))
    }
}

/// xorshift64: cheap, and random enough to defeat a cache.
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) const fn new(seed: u64) -> Self {
        // Spread over all bits, since small seeds make small first numbers; 0 would stay 0.
        Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap_or_default()
    }

    /// From 0 to 1, without 1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_draws_the_nth_key_one_nth_as_often_as_the_first() {
        let (zipf, mut draw) = (Zipf::new(1000), Draw::new(1));
        let mut counts = vec![0_u32; 1000];
        for _ in 0..200_000 {
            counts[zipf.rank(draw.unit())] += 1;
        }
        let share = |rank: usize| f64::from(counts[rank - 1]) / f64::from(counts[0]);
        for rank in [2, 5, 10] {
            assert!((share(rank) * rank as f64 - 1.0).abs() < 0.1, "{rank}: {}", share(rank));
        }
        assert_eq!((zipf.rank(0.0), zipf.rank(1.0)), (0, 999));
    }

    #[test]
    fn uniform_draws_reach_every_key() {
        let mut draw = Draw::new(1);
        let mut counts = [0_u32; 10];
        for _ in 0..10_000 {
            counts[draw.below(10)] += 1;
        }
        assert!(counts.iter().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn unknown_keys_are_in_no_ring_and_look_like_keys() {
        let (known, unknown) = (ring(100).unwrap(), unknown(100).unwrap());
        assert!(unknown.iter().all(|key| key.starts_with(PREFIX) && !known.contains(key)));
        assert_eq!(known[..10], ring(10).unwrap()[..]);
    }
}
