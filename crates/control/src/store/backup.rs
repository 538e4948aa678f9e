//! A copy of a SQLite database while it is served.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::{Store, StoreError};
use crate::secret::random;

/// What copies are called that are being made.
const NAME: &str = "copy-";

impl Store {
    /// A consistent copy, as one file without a name that is gone when it is closed, and its length. `None` on PostgreSQL,
    /// which has tools of its own. Others read and write meanwhile.
    ///
    /// # Errors
    ///
    /// [`StoreError`], also where `dir` has no space for it.
    pub async fn copy(&self, dir: &Path) -> Result<Option<(File, u64)>, StoreError> {
        if !self.location.is_file() {
            return Ok(None);
        }
        self.db.check()?;
        let path = std::path::absolute(dir)?.join(format!("{NAME}{}.tmp", hex::encode(random::<8>()?)));
        // SQLite writes into an empty file that is there, and leaves its mode alone.
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let copied = self.copy_to(&path).await;
        let file = File::open(&path);
        fs::remove_file(&path)?;
        copied?;
        let file = file?;
        let length = file.metadata()?.len();
        Ok(Some((file, length)))
    }

    async fn copy_to(&self, path: &Path) -> Result<(), StoreError> {
        let pool = self.location.pool().await?;
        // From a read transaction of its own: it holds nobody up.
        let copied =
            sqlx::query("VACUUM INTO $1").bind(path.to_string_lossy().into_owned()).execute(&pool).await;
        pool.close().await;
        copied?;
        Ok(())
    }
}

/// Removes what a sudden end left of a copy.
pub(crate) fn remove_unfinished(dir: &Path) {
    let Ok(files) = fs::read_dir(dir) else { return };
    for file in files.flatten() {
        let name = file.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(NAME) && name.ends_with(".tmp") {
            let _ = fs::remove_file(file.path());
        }
    }
}

impl From<std::io::Error> for StoreError {
    fn from(error: std::io::Error) -> Self {
        Self::Unavailable(sqlx::Error::Io(error))
    }
}
