//! Which ring the buckets add up to: the small entry that is written last.

use crate::bytes::{Corrupt, Reader, put_text, put_varint};
use crate::{Digest, Epoch, Millis, SignerId};

const FORMAT: u8 = 1;
/// More signers than anyone trusts at once; a list that grew longer means a ring to fetch anew.
pub const MAX_SIGNERS: usize = 16;

/// What a proxy's buckets add up to, and how far a fetch has come. It is written after the buckets
/// that it speaks of, so whoever reads it finds at least what it promises.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Generation {
    /// The ring that can be enforced. `None`: answer 503.
    pub complete: Option<Position>,
    /// A snapshot under way.
    pub sync: Option<Sync>,
    /// A bucket was found damaged: the next fetch is a snapshot.
    pub repair: bool,
    /// The newest `issued_at` accepted: how fresh the ring is, and a floor under the clock.
    pub issued_at: Millis,
    /// Entries held, the ended ones included.
    pub entries: u64,
    /// The text before the id of keys that this ring issues, `kw_live_`; empty if unknown.
    pub key_prefix: String,
    /// Whose signatures the ring rests on.
    pub signers: Vec<SignerId>,
}

/// A point in a ring's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub epoch: Epoch,
    pub revision: u64,
}

/// A snapshot under way: the next leader goes on from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sync {
    /// Where the first page was cut; the proxy follows the changes from there.
    pub first: Position,
    /// The revision up to which changes were taken.
    pub upto: u64,
    /// A page must not be cut before this revision: it could bring back what was removed meanwhile.
    pub floor: u64,
    /// The last digest that the pages so far cover; `None`: no page yet. [`Self::PAGED`]: all of them are in, and
    /// the changes since the first are followed to their end.
    pub cursor: Option<Digest>,
    /// Entries in the range that the pages so far cover.
    pub entries: u64,
    /// Who signed the pages and changes so far.
    pub signers: Vec<SignerId>,
}

impl Generation {
    /// # Errors
    ///
    /// [`Corrupt`] if these are not bytes that [`Self::encode`] of this format wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, Corrupt> {
        let mut reader = Reader(bytes);
        if reader.u8()? != FORMAT {
            return Err(Corrupt);
        }
        let complete = flag(&mut reader)?.then(|| Position::read(&mut reader)).transpose()?;
        let sync = flag(&mut reader)?.then(|| Sync::read(&mut reader)).transpose()?;
        let repair = flag(&mut reader)?;
        let (issued_at, entries) = (Millis(reader.varint()?), reader.varint()?);
        let key_prefix = reader.text()?.to_owned();
        let signers = read_signers(&mut reader)?;
        reader.end()?;
        Ok(Self { complete, sync, repair, issued_at, entries, key_prefix, signers })
    }

    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT, u8::from(self.complete.is_some())];
        if let Some(position) = &self.complete {
            position.write(&mut out);
        }
        out.push(u8::from(self.sync.is_some()));
        if let Some(sync) = &self.sync {
            sync.write(&mut out);
        }
        out.push(u8::from(self.repair));
        put_varint(&mut out, self.issued_at.0);
        put_varint(&mut out, self.entries);
        put_text(&mut out, &self.key_prefix);
        put_signers(&mut out, &self.signers);
        out
    }
}

fn flag(reader: &mut Reader<'_>) -> Result<bool, Corrupt> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(Corrupt),
    }
}

fn read_signers(reader: &mut Reader<'_>) -> Result<Vec<SignerId>, Corrupt> {
    (0..reader.u8()?).map(|_| reader.array().map(SignerId::from_bytes)).collect()
}

fn put_signers(out: &mut Vec<u8>, signers: &[SignerId]) {
    let signers = signers.get(..usize::from(u8::MAX)).unwrap_or(signers);
    out.push(signers.len() as u8);
    for signer in signers {
        out.extend_from_slice(signer.as_bytes());
    }
}

impl Sync {
    /// Stands for the end of the pages, and is no page's end: the last digest but one. A filter of version 0.1.0 that takes
    /// over in the same process asks for the page behind it, and has its ring with that. Behind the very last digest it would find
    /// no page to take, for ever.
    pub const PAGED: Digest = {
        let mut bytes = *Digest::MAX.as_bytes();
        bytes[31] = 0xfe;
        Digest::from_bytes(bytes)
    };

    /// Whether all pages are in.
    #[must_use]
    pub fn is_paged(&self) -> bool {
        self.cursor == Some(Self::PAGED)
    }

    /// Where the changes go on.
    #[must_use]
    pub const fn position(&self) -> Position {
        Position { epoch: self.first.epoch, revision: self.upto }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, Corrupt> {
        Ok(Self {
            first: Position::read(reader)?,
            upto: reader.varint()?,
            floor: reader.varint()?,
            cursor: flag(reader)?.then(|| reader.array().map(Digest::from_bytes)).transpose()?,
            entries: reader.varint()?,
            signers: read_signers(reader)?,
        })
    }

    fn write(&self, out: &mut Vec<u8>) {
        self.first.write(out);
        put_varint(out, self.upto);
        put_varint(out, self.floor);
        out.push(u8::from(self.cursor.is_some()));
        if let Some(cursor) = &self.cursor {
            out.extend_from_slice(cursor.as_bytes());
        }
        put_varint(out, self.entries);
        put_signers(out, &self.signers);
    }
}

impl Position {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Corrupt> {
        Ok(Self { epoch: Epoch::from_bytes(reader.array()?), revision: reader.varint()? })
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.epoch.as_bytes());
        put_varint(out, self.revision);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_comes_back_whole_and_never_cut() {
        let position = Position { epoch: Epoch::from_bytes([3; 16]), revision: 4127 };
        let full = Generation {
            complete: Some(position),
            sync: Some(Sync {
                first: position,
                upto: 4130,
                floor: 4129,
                cursor: Some(Digest::of(b"c")),
                entries: 500,
                signers: vec![SignerId::from_bytes([3; 8])],
            }),
            repair: true,
            issued_at: Millis(1_790_000_000_000),
            entries: 1_000_000,
            key_prefix: "kw_live_".into(),
            signers: vec![SignerId::from_bytes([1; 8]), SignerId::from_bytes([2; 8])],
        };
        for generation in [Generation::default(), full] {
            let bytes = generation.encode();
            assert_eq!(Generation::decode(&bytes), Ok(generation));
            for len in 0..bytes.len() {
                assert_eq!(Generation::decode(&bytes[..len]), Err(Corrupt));
            }
        }
    }
}
