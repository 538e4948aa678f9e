//! Whether the database file is still where it was opened.
//!
//! SQLite goes on writing to a file that was removed or moved away, and every commit succeeds: until the process
//! ends, and with it the file. So each commit is followed by a look whether the file still has its name.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// A file as it was when it was opened.
#[derive(Debug)]
pub(super) struct Presence {
    path: PathBuf,
    /// SQLite's write-ahead log, where a commit is first.
    log: PathBuf,
    id: (u64, u64),
    /// The log was gone once. What was committed then is nowhere, even if there is another log now.
    torn: AtomicBool,
}

/// The file is gone, or another is in its place.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "the database {} was removed, moved or replaced while it was served. Nothing that is changed now would last. \
     Move it back, or stop the control plane and restore a backup", .0.display()
)]
pub struct Vanished(PathBuf);

impl Presence {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let path = std::path::absolute(path)?;
        let mut log = path.clone().into_os_string();
        log.push("-wal");
        Ok(Self { id: id(&path)?, log: log.into(), path, torn: AtomicBool::new(false) })
    }

    /// # Errors
    ///
    /// [`Vanished`].
    pub(super) fn check(&self) -> Result<(), Vanished> {
        if self.torn.load(Ordering::Relaxed) {
            return Err(Vanished(self.log.clone()));
        }
        let same = id(&self.path).is_ok_and(|id| id == self.id);
        if same { Ok(()) } else { Err(Vanished(self.path.clone())) }
    }

    /// For while a transaction writes, and for after its commit: the log is there all that time.
    ///
    /// # Errors
    ///
    /// [`Vanished`].
    pub(super) fn check_log(&self) -> Result<(), Vanished> {
        self.check()?;
        if self.log.exists() {
            return Ok(());
        }
        // Both may have been moved away just now, and come back.
        self.check()?;
        self.torn.store(true, Ordering::Relaxed);
        Err(Vanished(self.log.clone()))
    }
}

fn id(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::metadata(path)?;
    Ok((found.dev(), found.ino()))
}
