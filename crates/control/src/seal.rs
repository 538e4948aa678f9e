//! Ring signing keys are encrypted under a master key that is kept outside the database, so that a
//! copy of the database cannot sign.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use zeroize::Zeroizing;

use crate::secret::{NoRandomness, random};

const NONCE_LEN: usize = 24;

/// 32 bytes, 64 hexadecimal digits in their file.
pub struct MasterKey(Zeroizing<[u8; 32]>);

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MasterKey([redacted])")
    }
}

/// What was sealed cannot be opened: by another key, or not what was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it was sealed under another master key, or altered")]
pub struct CannotOpen;

/// Why there is no master key.
#[derive(Debug, thiserror::Error)]
pub enum MasterKeyError {
    #[error("there is no such file")]
    Missing,
    #[error("it does not hold 64 hexadecimal digits")]
    Malformed,
    #[error("{0}")]
    Io(io::Error),
    #[error(transparent)]
    Random(#[from] NoRandomness),
}

impl MasterKey {
    /// # Errors
    ///
    /// [`MasterKeyError`].
    pub fn read(path: &Path) -> Result<Self, MasterKeyError> {
        let text = fs::read_to_string(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => MasterKeyError::Missing,
            io::ErrorKind::InvalidData => MasterKeyError::Malformed,
            _ => MasterKeyError::Io(error),
        })?;
        let text = Zeroizing::new(text);
        let mut bytes = Zeroizing::new([0; 32]);
        hex::decode_to_slice(text.trim_end(), bytes.as_mut_slice()).map_err(|_| MasterKeyError::Malformed)?;
        Ok(Self(bytes))
    }

    /// Makes a new key in a file that nobody else reads. An existing file is left alone.
    ///
    /// # Errors
    ///
    /// [`MasterKeyError`].
    pub fn create(path: &Path) -> Result<Self, MasterKeyError> {
        let bytes = Zeroizing::new(random::<32>()?);
        let text = Zeroizing::new(hex::encode(bytes.as_slice()) + "\n");
        write_private(path, text.as_bytes(), false).map_err(MasterKeyError::Io)?;
        Ok(Self(bytes))
    }

    /// Encrypts `plain` and binds it to `name`.
    ///
    /// # Errors
    ///
    /// [`NoRandomness`].
    pub fn seal(&self, name: &str, plain: &[u8]) -> Result<Vec<u8>, NoRandomness> {
        let nonce = random::<NONCE_LEN>()?;
        let payload = Payload { msg: plain, aad: name.as_bytes() };
        let sealed = self.cipher().encrypt(&XNonce::from(nonce), payload).map_err(|_| NoRandomness)?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// # Errors
    ///
    /// [`CannotOpen`].
    pub fn open(&self, name: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, CannotOpen> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(CannotOpen)?;
        let payload = Payload { msg: sealed, aad: name.as_bytes() };
        let plain = self.cipher().decrypt(&XNonce::from(*nonce), payload).map_err(|_| CannotOpen)?;
        Ok(Zeroizing::new(plain))
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&*self.0).into())
    }
}

/// Writes a file that its owner alone can read, down to the disk.
pub(crate) fn write_private(path: &Path, bytes: &[u8], replace: bool) -> io::Result<()> {
    if replace {
        // A file that is already there keeps its mode when it is opened, so it must go first.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    // Its name must survive a power cut too: a database without its master key is lost.
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_master_key_opens_what_was_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("a"), dir.path().join("b"));
        let sealed = MasterKey::create(&path).unwrap().seal("signer", b"seed").unwrap();
        assert!(!sealed.windows(4).any(|bytes| bytes == b"seed"));

        let again = MasterKey::read(&path).unwrap();
        assert_eq!(again.open("signer", &sealed).unwrap().as_slice(), b"seed");
        assert_eq!(again.open("another", &sealed), Err(CannotOpen));
        assert_eq!(again.open("signer", &sealed[..9]), Err(CannotOpen));
        let other = MasterKey::create(&other).unwrap();
        assert_eq!(other.open("signer", &sealed), Err(CannotOpen));
    }

    #[test]
    fn an_existing_master_key_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        MasterKey::create(&path).unwrap();
        let before = fs::read(&path).unwrap();
        assert!(matches!(MasterKey::create(&path), Err(MasterKeyError::Io(_))));
        assert_eq!(fs::read(&path).unwrap(), before);
        fs::write(&path, "short").unwrap();
        assert!(matches!(MasterKey::read(&path), Err(MasterKeyError::Malformed)));
    }
}
