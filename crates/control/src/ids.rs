//! Names for what is made here, which sort by the time at which it was made.
//!
//! The tables are kept in the order of their ids. Ids that are random from their first letter on would have an import
//! write all over each table and each index, and a large one would spend most of its time there.

use keywheel_keyring::{Millis, VersionId, key_text};

use crate::secret::{NoRandomness, random};

/// `<prefix>_` and 16 letters or digits.
///
/// # Errors
///
/// [`NoRandomness`].
pub(crate) fn new(prefix: &str, now: Millis) -> Result<String, NoRandomness> {
    Ok(key_text::random_id(prefix, bytes(now)?))
}

/// # Errors
///
/// [`NoRandomness`].
pub(crate) fn new_version(now: Millis) -> Result<VersionId, NoRandomness> {
    Ok(VersionId::from_random(bytes(now)?))
}

/// The second in five bytes, which last for 17,000 years, and seven random ones: among a million of one second two
/// are the same once in 144,000 times, and the second of them is refused.
fn bytes(now: Millis) -> Result<[u8; 12], NoRandomness> {
    let [_, _, _, time @ ..] = (now.0 / 1000).to_be_bytes();
    let random = random::<7>()?;
    let mut bytes = [0; 12];
    for (byte, from) in bytes.iter_mut().zip(time.into_iter().chain(random)) {
        *byte = from;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_sort_by_the_second_and_differ_within_it() {
        let times = [0, 1_000, 61_000, 1_790_000_000_000, 1_790_000_001_000, 4_102_444_800_000];
        let ids = times.map(|time| new("key", Millis(time)).unwrap());
        assert!(ids.is_sorted_by(|a, b| a < b), "{ids:?}");
        let now = Millis(times[3]);
        assert_ne!(new_version(now).unwrap(), new_version(now).unwrap());
    }
}
