//! The ring in Envoy's shared data: reading it, and writing it without losing a race.
//!
//! Every key starts with `kw1/<ring>/`, where 1 is the version of the format. What follows:
//!
//! | key | holds |
//! |---|---|
//! | `g` | the [`Generation`], written last |
//! | `b<4 hex digits>` | the bucket of the digests that start so |
//! | `o` | which buckets were ever written, a bit each |
//! | `l`, `c` | the lease and who would rather hold it ([`crate::lease`]) |
//! | `i` | the name of this Envoy process |
//! | `v`, `v<16 hex digits>` | the VMs of the process and what each adopted ([`crate::roster`]) |
//! | `w`, `u…`, `a…` | how often each version was used ([`crate::usage`]) |
//!
//! Other plugins may share the namespace, so that bytes found here are never trusted to be
//! well-formed: a damaged generation counts as none, a damaged bucket is fetched anew.

use keywheel_keyring::bucket::{self, Bucket, Corrupt, Merged, Op};
use keywheel_keyring::merge::Plan;
use keywheel_keyring::{Digest, Entry, Epoch, Generation, PublicKey};
use sha2::{Digest as _, Sha256};

/// Envoy's shared data: one map for all VMs of a process.
pub trait SharedData {
    /// The bytes and the number to name in [`Self::set`].
    fn get(&self, key: &str) -> Option<(Vec<u8>, u32)> {
        self.read(key, |held| held.map(|(bytes, cas)| (bytes.to_vec(), cas)))
    }
    /// As [`Self::get`], without a copy: `read` looks at them where they are.
    fn read<R>(&self, key: &str, read: impl FnOnce(Option<(&[u8], u32)>) -> R) -> R;
    /// Writes if nobody wrote since the [`Self::get`] that returned `cas`.
    ///
    /// # Errors
    ///
    /// [`Conflict`] if somebody did.
    fn set(&self, key: &str, bytes: &[u8], cas: u32) -> Result<(), Conflict>;
}

/// Somebody else wrote first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conflict;

/// Names a key that does not exist yet. Not 0, which would overwrite what a rival has just created:
/// Envoy ignores the number while the key is absent, and compares it from then on.
pub const CREATE: u32 = u32::MAX;

/// How often a write that lost a race is tried again in one callback.
const ATTEMPTS: usize = 8;
const BUCKETS: usize = 1 << 16;

/// The names under which one ring is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    prefix: String,
    /// The key that is read most often.
    generation: String,
}

/// A generation and the number under which it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub generation: Generation,
    pub cas: u32,
}

/// Why a plan was not carried out to its end. What was written of it does no harm: the generation
/// does not speak of it, and the next attempt writes it again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApplyError {
    /// Another VM leads now.
    LeaseLost,
    /// Others kept writing in between.
    Contended,
    /// A bucket is damaged; only a snapshot mends it.
    Damaged,
}

impl Namespace {
    /// The names that all configurations of `ring` share.
    #[must_use]
    pub fn shared(ring: &str) -> Self {
        Self::new(format!("kw1/{ring}/"))
    }

    /// The names of a copy for those who trust exactly `trust`. `/` is not in a ring's name.
    #[must_use]
    pub fn own(ring: &str, trust: &[PublicKey]) -> Self {
        let mut keys: Vec<String> = trust.iter().map(ToString::to_string).collect();
        keys.sort_unstable();
        let hash = hex::encode(Sha256::digest(keys.join(",")));
        let hash = hash.get(..16).unwrap_or(&hash);
        Self::new(format!("kw1/{ring}/{hash}/"))
    }

    fn new(prefix: String) -> Self {
        Self { generation: format!("{prefix}g"), prefix }
    }

    #[must_use]
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn bucket(&self, bucket: u16) -> String {
        // On the way of every request whose key is not cached: no formatter, one allocation.
        let mut key = String::with_capacity(self.prefix.len().saturating_add(5));
        key.push_str(&self.prefix);
        key.push('b');
        for shift in [12, 8, 4, 0] {
            key.extend(char::from_digit(u32::from(bucket >> shift & 0xf), 16));
        }
        key
    }

    /// Reads the generation; none, or a damaged one, is the absent ring.
    #[must_use]
    pub fn generation(&self, shared: &impl SharedData) -> Held {
        let absent = Held { generation: Generation::default(), cas: CREATE };
        self.newer(shared, &absent).unwrap_or(absent)
    }

    /// Reads the generation if it was written since it was read as `held`.
    #[must_use]
    pub fn newer(&self, shared: &impl SharedData, held: &Held) -> Option<Held> {
        shared.read(&self.generation, |stored| {
            let (bytes, cas) = stored.unwrap_or((&[], CREATE));
            (cas != held.cas).then(|| Held { generation: Generation::decode(bytes).unwrap_or_default(), cas })
        })
    }

    /// # Errors
    ///
    /// [`Conflict`] if the generation changed since it was read as `held`.
    pub fn write_generation(
        &self,
        shared: &impl SharedData,
        held: &Held,
        next: &Generation,
    ) -> Result<(), Conflict> {
        shared.set(&self.generation, &next.encode(), held.cas)
    }

    /// Looks into the live bucket.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] if the bucket's bytes are nobody's.
    pub fn find(&self, shared: &impl SharedData, digest: &Digest) -> Result<Option<Entry>, Corrupt> {
        shared.read(&self.bucket(digest.bucket()), |held| match held {
            // One that was written is never empty, so an empty one was damaged.
            Some((bytes, _)) => Bucket::parse(bytes)?.find(digest),
            None => Ok(None),
        })
    }

    /// Carries a plan out that was judged against `held`: buckets first, the generation last.
    /// `leads` is asked between the reading and the writing of each bucket, so that a VM which lost
    /// the lease meanwhile writes nothing that its successor has not seen.
    ///
    /// # Errors
    ///
    /// [`ApplyError`]; the ring is then enforced as before.
    pub fn apply(
        &self,
        shared: &impl SharedData,
        held: &Held,
        plan: Plan,
        leads: impl Fn() -> bool,
    ) -> Result<Generation, ApplyError> {
        let next = match plan {
            Plan::Heartbeat(next) => {
                if !leads() {
                    return Err(ApplyError::LeaseLost);
                }
                *next
            }
            Plan::Write(write) => {
                let begun = held.generation.complete.is_some() || held.generation.sync.is_some();
                let occupied = Occupied::read(shared.get(&self.key("o")).map(|(bits, _)| bits), begun);
                let runs = write.runs(|bucket| occupied.has(bucket));
                self.occupy(shared, runs.iter().map(|run| run.bucket), begun, &leads)?;
                let mut count = 0_i64;
                for run in &runs {
                    let merged =
                        self.merge(shared, run.bucket, write.epoch(), &run.ops, write.is_page(), &leads);
                    let merged = match merged {
                        // A page will mend it; what else changed need not wait for that.
                        Err(ApplyError::Damaged) if write.comes_again() => continue,
                        merged => merged?,
                    };
                    let more = if write.is_page() {
                        merged.swept as i64
                    } else {
                        (merged.after as i64).saturating_sub(merged.before as i64)
                    };
                    count = count.saturating_add(if run.counts { more } else { 0 });
                }
                drop(runs);
                write.finish(count)
            }
        };
        self.write_generation(shared, held, &next).map_err(|Conflict| ApplyError::Contended)?;
        Ok(next)
    }

    fn merge(
        &self,
        shared: &impl SharedData,
        bucket: u16,
        epoch: Epoch,
        ops: &[Op<'_>],
        is_page: bool,
        leads: &impl Fn() -> bool,
    ) -> Result<Merged, ApplyError> {
        let key = self.bucket(bucket);
        for _ in 0..ATTEMPTS {
            let (bytes, cas) = shared.get(&key).map_or((None, CREATE), |(bytes, cas)| (Some(bytes), cas));
            if !leads() {
                return Err(ApplyError::LeaseLost);
            }
            let existing = bytes.as_deref();
            let merged = match bucket::merge(existing, epoch, ops) {
                // A snapshot brings whatever the damaged bucket held.
                Err(Corrupt) if is_page => bucket::merge(None, epoch, ops),
                merged => merged,
            };
            let merged = merged.map_err(|Corrupt| ApplyError::Damaged)?;
            let nothing =
                existing == Some(merged.bytes.as_slice()) || (existing.is_none() && merged.after == 0);
            if nothing || shared.set(&key, &merged.bytes, cas).is_ok() {
                return Ok(merged);
            }
        }
        Err(ApplyError::Contended)
    }

    /// Notes that the buckets hold something, before they do.
    fn occupy(
        &self,
        shared: &impl SharedData,
        buckets: impl Iterator<Item = u16> + Clone,
        begun: bool,
        leads: &impl Fn() -> bool,
    ) -> Result<(), ApplyError> {
        let key = self.key("o");
        for _ in 0..ATTEMPTS {
            let (bits, cas) = shared.get(&key).map_or((None, CREATE), |(bits, cas)| (Some(bits), cas));
            if !leads() {
                return Err(ApplyError::LeaseLost);
            }
            let is_whole = bits.as_ref().is_some_and(|bits| bits.len() == Occupied::BYTES);
            let mut occupied = Occupied::read(bits, begun);
            if is_whole && buckets.clone().all(|bucket| occupied.has(bucket)) {
                return Ok(());
            }
            buckets.clone().for_each(|bucket| occupied.add(bucket));
            if shared.set(&key, &occupied.0, cas).is_ok() {
                return Ok(());
            }
        }
        Err(ApplyError::Contended)
    }
}

/// Which buckets were ever written, a bit each.
struct Occupied(Vec<u8>);

impl Occupied {
    const BYTES: usize = BUCKETS / 8;

    /// Where the bits are gone, or of a length that nobody wrote, any bucket may hold something once the
    /// ring has begun: a bucket that is left out of a sweep could keep a key alive.
    fn read(bits: Option<Vec<u8>>, begun: bool) -> Self {
        let whole = bits.filter(|bits| bits.len() == Self::BYTES);
        Self(whole.unwrap_or_else(|| vec![if begun { 0xff } else { 0 }; Self::BYTES]))
    }

    fn has(&self, bucket: u16) -> bool {
        self.0.get(usize::from(bucket / 8)).is_none_or(|byte| byte & (1 << (bucket % 8)) != 0)
    }

    fn add(&mut self, bucket: u16) {
        if let Some(byte) = self.0.get_mut(usize::from(bucket / 8)) {
            *byte |= 1 << (bucket % 8);
        }
    }
}
