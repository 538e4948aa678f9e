//! The documents of one ring as files.
//!
//! ```text
//! rings/production/
//!   0199a3b4-…/                an epoch
//!     pages-1790000000000/     a generation, by when its first page was issued
//!       000000 000001 …
//!     changes/4120-4127        runs, by `since` and `revision`
//!     heartbeat
//!   usage/                     reports that wait for the upstream
//!   untold                     proxies that the upstream does not know of
//! ```
//!
//! A file is the signer, a space, the signature and a line feed, then the body as it came. It is written beside its
//! place, synced, and moved there, so it is whole or not there. Nothing that is read is trusted: the signature over
//! the body says whether it is what was written.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use keywheel_control::ring::Signed;
use keywheel_keyring::document::MAX_BYTES;
use keywheel_keyring::{Epoch, Millis, PublicKey};
use tracing::warn;

use crate::archive::{Archive, Dropped, Place};
use crate::document::{Checked, Facts, check};

/// The line before the body is no longer than this, in bytes.
const MAX_HEAD: u64 = 256;
const RUNS: &str = "changes";
const HEARTBEAT: &str = "heartbeat";
const GENERATION: &str = "pages-";
/// What is being written.
const PART: &str = ".part";

/// One ring's directory.
#[derive(Debug)]
pub struct Disk {
    dir: PathBuf,
    /// Of the files that are being written.
    last: AtomicU64,
}

impl Disk {
    /// Makes the directory if there is none.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn open(data: &Path, ring: &str) -> io::Result<Self> {
        let dir = data.join("rings").join(ring);
        make(&dir)?;
        Ok(Self { dir, last: AtomicU64::new(0) })
    }

    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// When this returns, the document outlives a loss of power.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn write(&self, place: Place, signed: &Signed) -> io::Result<()> {
        let path = self.path(place);
        let head = format!("{} {}\n", signed.signer, signed.signature);
        self.put(&path, &[head.as_bytes(), signed.body.as_ref()])
    }

    /// Writes a file whole, or not at all.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn put(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
        let parent = path.parent().unwrap_or(&self.dir);
        make(parent)?;
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        let part = self.dir.join(format!("{number}{PART}"));
        let written = (|| {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
            parts.iter().try_for_each(|bytes| file.write_all(bytes))?;
            file.sync_all()?;
            fs::rename(&part, path)?;
            File::open(parent)?.sync_all()
        })();
        if written.is_err() {
            let _ = fs::remove_file(&part);
        }
        written
    }

    /// What was written there, as far as the file says: nothing of it is checked.
    ///
    /// # Errors
    ///
    /// It is not there, or no document.
    pub fn read(&self, place: Place) -> io::Result<Signed> {
        read(&self.path(place))
    }

    /// What cannot be deleted is in nobody's way, and is tried again at the next start.
    pub fn drop(&self, dropped: &[Dropped]) {
        for dropped in dropped {
            let gone = match *dropped {
                Dropped::Generation { epoch, generation } => {
                    fs::remove_dir_all(self.epoch(epoch).join(name_of(generation)))
                }
                Dropped::Run { epoch, since, revision } => {
                    fs::remove_file(self.path(Place::Run { epoch, since, revision }))
                }
                Dropped::Epoch(epoch) => fs::remove_dir_all(self.epoch(epoch)),
            };
            if let Err(error) = gone
                && error.kind() != io::ErrorKind::NotFound
            {
                warn!(%error, path = %self.dir.display(), "What is not needed any more cannot be deleted");
            }
        }
    }

    /// The newest ring that is whole and verifies, and how many files did not. All else is deleted.
    ///
    /// # Errors
    ///
    /// The directory cannot be read.
    pub fn load(&self, ring: &str, trust: &[PublicKey]) -> io::Result<(Archive, usize)> {
        for name in names(&self.dir)?.iter().filter(|name| name.ends_with(PART)) {
            fs::remove_file(self.dir.join(name))?;
        }
        let mut bad = 0;
        let mut found: Option<Archive> = None;
        let mut epochs: Vec<Epoch> = names(&self.dir)?.iter().filter_map(|name| name.parse().ok()).collect();
        epochs.sort_unstable();
        for epoch in epochs.into_iter().rev() {
            if found.is_none() {
                found = self.load_epoch(epoch, ring, trust, &mut bad)?;
                if found.is_some() {
                    continue;
                }
            }
            fs::remove_dir_all(self.epoch(epoch))?;
        }
        Ok((found.unwrap_or_default(), bad))
    }

    fn load_epoch(
        &self,
        epoch: Epoch,
        ring: &str,
        trust: &[PublicKey],
        bad: &mut usize,
    ) -> io::Result<Option<Archive>> {
        let dir = self.epoch(epoch);
        let mut facts = |path: PathBuf| match read(&path).map(|signed| check(ring, trust, signed)) {
            Ok(Ok(Checked { facts, .. })) if facts.epoch == epoch => Some(facts),
            Ok(found) => {
                let error = found.err().map(|error| error.to_string());
                warn!(path = %path.display(), error, "A stored document is not what was written there, and is left out");
                *bad = bad.saturating_add(1);
                None
            }
            Err(error) => {
                warn!(path = %path.display(), %error, "A stored document cannot be read, and is left out");
                *bad = bad.saturating_add(1);
                None
            }
        };
        let runs = dir.join(RUNS);
        let names_of_runs = if runs.is_dir() { names(&runs)? } else { Vec::new() };
        let runs: Vec<Facts> = names_of_runs.iter().filter_map(|name| facts(runs.join(name))).collect();
        if runs.len() < names_of_runs.len() {
            // One of them may have revoked a key, and what is left would accept it.
            return Ok(None);
        }
        let heartbeat = dir.join(HEARTBEAT);
        let heartbeat = if heartbeat.is_file() { facts(heartbeat) } else { None };
        let all = names(&dir)?;
        let mut generations: Vec<u64> =
            all.iter().filter_map(|name| name.strip_prefix(GENERATION)?.parse().ok()).collect();
        generations.sort_unstable();
        let mut found = None;
        for generation in generations.into_iter().rev() {
            let dir = dir.join(name_of(Millis(generation)));
            if found.is_none() {
                let mut names = names(&dir)?;
                names.sort_unstable();
                let pages: Option<Vec<Facts>> = names.iter().map(|name| facts(dir.join(name))).collect();
                let pages =
                    pages.filter(|pages| pages.first().is_some_and(|page| page.issued_at.0 == generation));
                found = pages.and_then(|pages| Archive::restore(pages, runs.clone(), heartbeat));
                if found.is_some() {
                    continue;
                }
            }
            fs::remove_dir_all(&dir)?;
        }
        if let Some(found) = &found {
            for name in names_of_runs {
                let is_held =
                    name.rsplit_once('-').is_some_and(|(_, to)| to.parse().is_ok_and(|to| found.has_run(to)));
                if !is_held {
                    fs::remove_file(dir.join(RUNS).join(name))?;
                }
            }
        }
        Ok(found)
    }

    fn epoch(&self, epoch: Epoch) -> PathBuf {
        self.dir.join(epoch.to_string())
    }

    fn path(&self, place: Place) -> PathBuf {
        match place {
            Place::Page { epoch, generation, number } => {
                self.epoch(epoch).join(name_of(generation)).join(format!("{number:06}"))
            }
            Place::Run { epoch, since, revision } => {
                self.epoch(epoch).join(RUNS).join(format!("{since}-{revision}"))
            }
            Place::Heartbeat { epoch, .. } => self.epoch(epoch).join(HEARTBEAT),
        }
    }
}

fn name_of(generation: Millis) -> String {
    format!("{GENERATION}{}", generation.0)
}

fn read(path: &Path) -> io::Result<Signed> {
    let none = || io::Error::new(io::ErrorKind::InvalidData, "the file is no stored document");
    if fs::metadata(path)?.len() > (MAX_BYTES as u64).saturating_add(MAX_HEAD) {
        return Err(none());
    }
    let bytes = Bytes::from(fs::read(path)?);
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or_else(none)?;
    let head = bytes.get(..end).and_then(|head| std::str::from_utf8(head).ok()).ok_or_else(none)?;
    let (signer, signature) = head.split_once(' ').ok_or_else(none)?;
    let (signer, signature) = (signer.to_owned(), signature.to_owned());
    // What it is the revision of is for whoever verified it to say.
    Ok(Signed { body: bytes.slice(end.saturating_add(1)..), signature, signer, revision: 0, ahead: None })
}

/// Makes a directory that is its owner's alone, and those above it.
pub(crate) fn make(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    // So that it is there after a loss of power.
    dir.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

/// Names that are text; others are not ours.
pub(crate) fn names(dir: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use keywheel_keyring::{Digest, Document, Kind, SigningKey};

    use super::*;

    const RING: &str = "production";

    fn epoch() -> Epoch {
        Epoch::from_bytes([1; 16])
    }

    fn sign(kind: Kind, revision: u64, issued_at: u64) -> Signed {
        let document = Document {
            ring: RING.into(),
            epoch: epoch(),
            kind,
            revision,
            issued_at: Millis(issued_at),
            expires_at: Millis(issued_at + 1000),
            key_prefix: None,
            critical: Vec::new(),
            entries: Vec::new(),
            removed: Vec::new(),
        };
        let (key, body) = (SigningKey::from_seed([7; 32]), serde_json::to_vec(&document).unwrap());
        let (signature, signer) = (key.sign(&body), key.public().id().to_string());
        Signed { body: body.into(), signature, signer, revision, ahead: None }
    }

    /// A ring of two pages and two runs, as a relay writes it.
    fn stored() -> (tempfile::TempDir, Disk, Vec<PublicKey>) {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::open(dir.path(), RING).unwrap();
        let middle = Some(Digest::of(b"middle"));
        let (epoch, generation) = (epoch(), Millis(1));
        let page = |number| Place::Page { epoch, generation, number };
        let run = |since, revision| Place::Run { epoch, since, revision };
        for (place, signed) in [
            (page(0), sign(Kind::Snapshot { after: None, through: middle }, 5, 1)),
            (page(1), sign(Kind::Snapshot { after: middle, through: None }, 6, 2)),
            (run(5, 6), sign(Kind::Changes { since: 5 }, 6, 3)),
            (run(6, 8), sign(Kind::Changes { since: 6 }, 8, 4)),
            (Place::Heartbeat { epoch, issued_at: Millis(5) }, sign(Kind::Changes { since: 8 }, 8, 5)),
        ] {
            disk.write(place, &signed).unwrap();
        }
        (dir, disk, vec![SigningKey::from_seed([7; 32]).public()])
    }

    fn files(dir: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for name in names(dir).unwrap() {
            let path = dir.join(name);
            if path.is_dir() {
                files(&path, found);
            } else {
                found.insert(path.clone(), fs::read(path).unwrap());
            }
        }
    }

    #[test]
    fn what_was_written_is_read() {
        let (_dir, disk, trust) = stored();
        let (archive, bad) = disk.load(RING, &trust).unwrap();
        assert_eq!((archive.position(), bad), (Some((epoch(), 8)), 0));
        let other = SigningKey::from_seed([8; 32]).public();
        assert_eq!(disk.load(RING, &[other]).unwrap().0.position(), None, "nothing that is not trusted");
    }

    #[test]
    fn whatever_byte_is_changed_or_cut_off_at_nothing_but_what_was_signed_is_held() {
        let (_dir, disk, trust) = stored();
        let mut before = BTreeMap::new();
        files(disk.dir(), &mut before);
        let check = |path: &Path, changed: &[u8]| {
            for (path, bytes) in &before {
                make(path.parent().unwrap()).unwrap();
                fs::write(path, bytes).unwrap();
            }
            fs::write(path, changed).unwrap();
            let (archive, bad) = disk.load(RING, &trust).unwrap();
            let head = archive.position().map(|(_, head)| head);
            assert_eq!(bad, 1, "{}", path.display());
            let name = path.file_name().unwrap().to_str().unwrap();
            // Without a page, or a run, which may have revoked a key, there is no ring.
            let expected = (name == "heartbeat").then_some(8);
            assert_eq!(head, expected, "{name}");
        };
        for (path, bytes) in &before {
            for at in (0..bytes.len()).step_by(7) {
                check(path, &bytes[..at]);
                let mut other = bytes.clone();
                other[at] ^= 1;
                check(path, &other);
            }
        }
    }

    #[test]
    fn a_ring_that_is_known_to_have_gone_on_is_not_taken_back() {
        let (_dir, disk, trust) = stored();
        fs::remove_file(disk.epoch(epoch()).join(RUNS).join("6-8")).unwrap();
        assert_eq!(disk.load(RING, &trust).unwrap().0.position(), None, "the heartbeat is of revision 8");
    }

    #[test]
    fn what_was_being_written_when_the_power_failed_is_removed() {
        let (_dir, disk, trust) = stored();
        let part = disk.dir().join("3.part");
        fs::write(&part, "half").unwrap();
        assert_eq!(disk.load(RING, &trust).unwrap().0.position(), Some((epoch(), 8)));
        assert!(!part.exists());
    }
}
