//! The HTTP client for the upstream, made anew when its certificates change.

use std::fs;
use std::path::PathBuf;

use keywheel_control::reread::{Look, Reread};
use keywheel_keyring::Digest;
use reqwest::Client;
use tracing::{error, info};
use zeroize::Zeroizing;

/// Makes a client of what the files hold now, or says why that is not possible.
type Make = Box<dyn Fn() -> Result<Client, String> + Send + Sync>;

/// Calls with the certificates as they are now.
pub struct Caller {
    now: Reread<Client>,
    files: Vec<PathBuf>,
    make: Make,
}

impl Caller {
    /// `make` reads `files`.
    ///
    /// # Errors
    ///
    /// Those of `make`, as it has them.
    pub fn open<E: ToString>(
        files: Vec<PathBuf>,
        make: impl Fn() -> Result<Client, E> + Send + Sync + 'static,
    ) -> Result<Self, E> {
        // Before they are used: what changes in between is found by the next look.
        let digest = digest(&files);
        let now = Reread::new(make()?, digest);
        let make = Box::new(move || make().map_err(|error| error.to_string()));
        Ok(Self { now, files, make })
    }

    pub(crate) fn now(&self) -> Client {
        self.now.now().clone()
    }

    /// Reads the files if they have changed. What cannot be used is logged once, and changes nothing. Calls that are under
    /// way end as they began.
    pub fn look(&self) {
        if self.files.is_empty() {
            return;
        }
        match self.now.look(digest(&self.files), false, &self.make) {
            Look::Same => {}
            Look::New => info!("The certificates for the upstream were read again"),
            Look::Unusable(error) => {
                error!(error, "The certificates for the upstream stay as they were: {error}")
            }
        }
    }
}

impl std::fmt::Debug for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caller").field("files", &self.files).finish_non_exhaustive()
    }
}

/// `None` where one of them cannot be read.
fn digest(files: &[PathBuf]) -> Option<Digest> {
    let mut all = Vec::new();
    for file in files {
        let contents = Zeroizing::new(fs::read(file).ok()?);
        all.extend_from_slice(Digest::of(&contents).as_bytes());
    }
    Some(Digest::of(&all))
}
