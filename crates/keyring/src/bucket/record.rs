//! One entry of a bucket as it is stored, and the lists of scopes that many share.

use super::name;
use crate::bytes::{Corrupt, Reader, put_text, put_varint};
use crate::{Brownout, Digest, Entry, Epoch, Millis, State};

const STATE: u8 = 0b0000_0111;
const NOT_BEFORE: u8 = 0b0000_1000;
const EXPIRES_AT: u8 = 0b0001_0000;
const SUCCESSOR: u8 = 0b0010_0000;
const BROWNOUT: u8 = 0b0100_0000;
const CARRIED: u8 = 0b1000_0000;

/// The lists of scopes in a bucket, as they were written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lists<'a> {
    count: u8,
    bytes: &'a [u8],
}

/// An entry without its digest: one that is stored, or one that is to be. A merge looks at most records only
/// to write them again, so that texts stay where they are.
pub(super) struct Record<'a> {
    pub(super) state: State,
    /// The epoch under which it was written, if it is not the bucket's.
    pub(super) carried: Option<Epoch>,
    pub(super) revision: u64,
    not_before: Option<Millis>,
    expires_at: Option<Millis>,
    successor: bool,
    brownout: Option<Brownout>,
    names: Names<'a>,
    scopes: Scopes<'a>,
}

enum Names<'a> {
    /// As a record holds them.
    Stored(&'a [u8]),
    Of(&'a Entry),
}

#[derive(Clone, Copy)]
pub(super) enum Scopes<'a> {
    /// As a list is written.
    Stored(&'a [u8]),
    Of(&'a [String]),
}

impl<'a> From<&'a Entry> for Record<'a> {
    fn from(entry: &'a Entry) -> Self {
        Self {
            state: entry.state,
            carried: None,
            revision: entry.revision,
            not_before: entry.not_before,
            expires_at: entry.expires_at,
            successor: entry.successor,
            brownout: entry.brownout,
            names: Names::Of(entry),
            scopes: Scopes::Of(&entry.scopes),
        }
    }
}

// === impl Scopes ===

impl Scopes<'_> {
    pub(super) fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::Stored(list) => out.extend_from_slice(list),
            Self::Of(scopes) => {
                out.push(scopes.len().min(255) as u8);
                for scope in scopes.iter().take(255) {
                    put_text(out, scope);
                }
            }
        }
    }

    fn read(self) -> Result<Vec<String>, Corrupt> {
        match self {
            Self::Stored(list) => {
                let mut reader = Reader(list);
                (0..reader.u8()?).map(|_| reader.text().map(str::to_owned)).collect()
            }
            Self::Of(scopes) => Ok(scopes.to_vec()),
        }
    }
}

impl PartialEq for Scopes<'_> {
    fn eq(&self, other: &Self) -> bool {
        match (*self, *other) {
            (Self::Stored(these), Self::Stored(those)) => these == those,
            (Self::Of(these), Self::Of(those)) => these == those,
            (Self::Stored(list), Self::Of(scopes)) | (Self::Of(scopes), Self::Stored(list)) => {
                is_written(scopes, Reader(list)).unwrap_or(false)
            }
        }
    }
}

/// Whether a list says the same.
fn is_written(scopes: &[String], mut list: Reader<'_>) -> Result<bool, Corrupt> {
    if usize::from(list.u8()?) != scopes.len() {
        return Ok(false);
    }
    for scope in scopes {
        let len = list.u8()?;
        if list.take(len.into())? != scope.as_bytes() {
            return Ok(false);
        }
    }
    Ok(true)
}

// === impl Record ===

impl<'a> Record<'a> {
    pub(super) fn entry(&self, digest: Digest) -> Result<Entry, Corrupt> {
        let names = match self.names {
            Names::Of(entry) => return Ok(entry.clone()),
            Names::Stored(names) => &mut Reader(names),
        };
        Ok(Entry {
            digest,
            version: name::name(names, name::VERSION)?,
            key: name::name(names, name::KEY)?,
            client: names.text()?.to_owned(),
            revision: self.revision,
            state: self.state,
            not_before: self.not_before,
            expires_at: self.expires_at,
            scopes: self.scopes.read()?,
            successor: self.successor,
            brownout: self.brownout,
            reinstated_in: None,
        })
    }

    pub(super) fn read(bytes: &'a [u8], lists: Lists<'a>) -> Result<Self, Corrupt> {
        let mut reader = Reader(bytes);
        let flags = reader.u8()?;
        let state = match flags & STATE {
            0 => State::Active,
            1 => State::Retiring,
            2 => State::Pending,
            3 => State::Retired,
            4 => State::Revoked,
            5 => State::Compromised,
            _ => State::Unreadable,
        };
        let carried = match flags & CARRIED {
            0 => None,
            _ if state.is_denied() => Some(Epoch::from_bytes(reader.array()?)),
            // Any entry takes the place of one that accepts, whatever epoch that is from.
            _ => Some(Epoch::from_bytes([0; 16])),
        };
        let revision = reader.varint()?;
        let mut optional = |flag| match flags & flag {
            0 => Ok(None),
            _ => reader.varint().map(|millis| Some(Millis(millis))),
        };
        let (not_before, expires_at) = (optional(NOT_BEFORE)?, optional(EXPIRES_AT)?);
        let brownout = match flags & BROWNOUT {
            0 => None,
            _ => Some(Brownout {
                share: f64::from(reader.u16()?) / f64::from(u16::MAX),
                until: Millis(reader.varint()?),
            }),
        };
        let rest = reader.0;
        for _ in [name::VERSION, name::KEY] {
            name::check_name(&mut reader)?;
        }
        reader.text()?;
        let names = rest.get(..rest.len().saturating_sub(reader.0.len())).ok_or(Corrupt)?;
        let scopes = match reader.u8()? {
            OWN_LIST => take_list(&mut reader)?,
            list => lists.get(list)?,
        };
        reader.end()?;
        Ok(Self {
            state,
            carried,
            revision,
            not_before,
            expires_at,
            successor: flags & SUCCESSOR != 0,
            brownout,
            names: Names::Stored(names),
            scopes: Scopes::Stored(scopes),
        })
    }

    /// Writes the record, and enters its scopes into `lists` where they are not.
    pub(super) fn encode<'s>(&'s self, out: &mut Vec<u8>, lists: &mut Vec<Scopes<'s>>) {
        let mut flags = match self.state {
            State::Active => 0,
            State::Retiring => 1,
            State::Pending => 2,
            State::Retired => 3,
            State::Revoked => 4,
            State::Compromised => 5,
            State::Unreadable => 6,
        };
        for (flag, set) in [
            (NOT_BEFORE, self.not_before.is_some()),
            (EXPIRES_AT, self.expires_at.is_some()),
            (SUCCESSOR, self.successor),
            (BROWNOUT, self.brownout.is_some()),
            (CARRIED, self.carried.is_some()),
        ] {
            flags |= if set { flag } else { 0 };
        }
        out.push(flags);
        if let Some(epoch) = self.carried.filter(|_| self.state.is_denied()) {
            out.extend_from_slice(epoch.as_bytes());
        }
        put_varint(out, self.revision);
        for millis in [self.not_before, self.expires_at].into_iter().flatten() {
            put_varint(out, millis.0);
        }
        if let Some(brownout) = self.brownout {
            let share = (brownout.share.clamp(0.0, 1.0) * f64::from(u16::MAX)).round() as u16;
            out.extend_from_slice(&share.to_le_bytes());
            put_varint(out, brownout.until.0);
        }
        match self.names {
            Names::Stored(names) => out.extend_from_slice(names),
            Names::Of(entry) => {
                name::put_name(out, name::VERSION, &entry.version);
                name::put_name(out, name::KEY, &entry.key);
                put_text(out, &entry.client);
            }
        }
        let known = lists.iter().position(|list| *list == self.scopes);
        let number = known.or_else(|| (lists.len() < usize::from(OWN_LIST)).then_some(lists.len()));
        match number {
            Some(number) => {
                if known.is_none() {
                    lists.push(self.scopes);
                }
                out.push(number as u8);
            }
            None => {
                out.push(OWN_LIST);
                self.scopes.write(out);
            }
        }
    }
}

/// In the place of a list's number: the list follows.
const OWN_LIST: u8 = u8::MAX;

impl<'a> Lists<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, Corrupt> {
        let count = reader.u8()?;
        let bytes = reader.0;
        for _ in 0..count {
            take_list(reader)?;
        }
        Ok(Self { count, bytes })
    }

    fn get(self, number: u8) -> Result<&'a [u8], Corrupt> {
        if number >= self.count {
            return Err(Corrupt);
        }
        let mut reader = Reader(self.bytes);
        for _ in 0..number {
            take_list(&mut reader)?;
        }
        take_list(&mut reader)
    }
}

/// The next list, as it is written.
fn take_list<'a>(reader: &mut Reader<'a>) -> Result<&'a [u8], Corrupt> {
    let rest = reader.0;
    for _ in 0..reader.u8()? {
        reader.text()?;
    }
    rest.get(..rest.len().saturating_sub(reader.0.len())).ok_or(Corrupt)
}
