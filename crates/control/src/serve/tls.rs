//! Certificates, read again when their files change.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use keywheel_keyring::Digest;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::sync::watch;
use tracing::{error, info};
use zeroize::Zeroizing;

use crate::reread::{Look, Reread};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(3);
/// The most that one of the files may hold, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// The files of one listener, all PEM.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    /// The listener's certificate, followed by those between it and a root.
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Whoever signs the certificates of clients.
    pub client_ca: Option<PathBuf>,
}

/// What a client without a certificate gets, where a listener has a client CA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WithoutCertificate {
    /// No connection.
    Refused,
    /// A connection, on which it needs a token.
    NeedsToken,
}

/// A listener's certificates as they are now.
#[derive(Debug)]
pub struct Tls {
    listener: &'static str,
    files: TlsFiles,
    without: WithoutCertificate,
    current: Reread<Arc<ServerConfig>>,
}

/// Why certificates cannot be used. Each is one sentence that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {}: {cause}; give a PEM file that this user may read", .path.display())]
    Read { path: PathBuf, cause: io::Error },
    #[error("{} holds more than {MAX_FILE} bytes; give the PEM file itself", .path.display())]
    TooLarge { path: PathBuf },
    #[error("{} holds no certificate; give a PEM file with `-----BEGIN CERTIFICATE-----`", .path.display())]
    NoCertificate { path: PathBuf },
    #[error("{} holds no private key; give a PEM file with `-----BEGIN PRIVATE KEY-----`, not encrypted", .path.display())]
    NoKey { path: PathBuf },
    #[error("{} and {} cannot be used: {cause}; give a certificate and the key that belongs to it", .cert.display(), .key.display())]
    Pair { cert: PathBuf, key: PathBuf, cause: rustls::Error },
    #[error("{} cannot be used as a client CA: {cause}; give the certificates of whoever signs those of clients", .path.display())]
    ClientCa { path: PathBuf, cause: String },
}

/// What the files hold.
struct Contents {
    cert: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
    client_ca: Option<Vec<u8>>,
}

impl Tls {
    /// Reads the files. `listener` is for the log.
    ///
    /// # Errors
    ///
    /// [`TlsError`].
    pub fn open(
        listener: &'static str,
        files: TlsFiles,
        without: WithoutCertificate,
    ) -> Result<Self, TlsError> {
        let contents = Contents::read(&files)?;
        let config = Arc::new(contents.config(&files, without)?);
        let current = Reread::new(config, Some(contents.digest()));
        Ok(Self { listener, files, without, current })
    }

    pub(super) fn current(&self) -> Arc<ServerConfig> {
        self.current.now().clone()
    }

    /// Reads the files if they have changed. What cannot be used is logged once, and changes nothing.
    pub fn look(&self) {
        self.read(false);
    }

    /// Reads the files, and logs what came of it.
    pub fn reload(&self) {
        self.read(true);
    }

    fn read(&self, always: bool) {
        let contents = Contents::read(&self.files);
        let digest = contents.as_ref().ok().map(Contents::digest);
        let make = || contents?.config(&self.files, self.without).map(Arc::new);
        let listener = self.listener;
        match self.current.look(digest, always, make) {
            Look::Same => {}
            // Open connections keep what they have. What they could resume is forgotten with the old one.
            Look::New => info!(listener, "The {listener} listener has new certificates"),
            Look::Unusable(error) => {
                error!(listener, error, "The {listener} listener keeps its old certificates: {error}");
            }
        }
    }

    /// Looks at the files again and again until `stopping`.
    pub async fn follow(self: Arc<Self>, mut stopping: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                _ = stopping.wait_for(|stopping| *stopping) => return,
            }
            let tls = self.clone();
            // Files may be on a network.
            let _ = tokio::task::spawn_blocking(move || tls.look()).await;
        }
    }
}

// === impl Contents ===

impl Contents {
    fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let cert = read(&files.cert)?;
        let key = Zeroizing::new(read(&files.key)?);
        let client_ca = files.client_ca.as_deref().map(read).transpose()?;
        Ok(Self { cert, key, client_ca })
    }

    fn digest(&self) -> Digest {
        let mut all = Zeroizing::new(Vec::new());
        for part in [Some(self.cert.as_slice()), Some(self.key.as_slice()), self.client_ca.as_deref()] {
            all.extend_from_slice(Digest::of(part.unwrap_or_default()).as_bytes());
        }
        Digest::of(&all)
    }

    fn config(&self, files: &TlsFiles, without: WithoutCertificate) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let pair = |cause| TlsError::Pair { cert: files.cert.clone(), key: files.key.clone(), cause };
        let builder = ServerConfig::builder_with_provider(provider.clone());
        let builder = builder.with_safe_default_protocol_versions().map_err(pair)?;
        let builder = match (&self.client_ca, &files.client_ca) {
            (Some(pem), Some(path)) => {
                let verifier = client_verifier(pem, path, provider, without)?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let chain = certificates(&self.cert, &files.cert)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| TlsError::NoKey { path: files.key.clone() })?;
        let mut config = builder.with_single_cert(chain, key).map_err(pair)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn client_verifier(
    pem: &[u8],
    path: &Path,
    provider: Arc<CryptoProvider>,
    without: WithoutCertificate,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, TlsError> {
    let failed = |cause: String| TlsError::ClientCa { path: path.to_owned(), cause };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, path)? {
        roots.add(certificate).map_err(|error| failed(error.to_string()))?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let verifier = match without {
        WithoutCertificate::Refused => verifier,
        WithoutCertificate::NeedsToken => verifier.allow_unauthenticated(),
    };
    verifier.build().map_err(|error| failed(error.to_string()))
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let none = || TlsError::NoCertificate { path: path.to_owned() };
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| none())?;
    if found.is_empty() { Err(none()) } else { Ok(found) }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |cause| TlsError::Read { path: path.to_owned(), cause };
    if fs::metadata(path).map_err(failed)?.len() > MAX_FILE {
        return Err(TlsError::TooLarge { path: path.to_owned() });
    }
    fs::read(path).map_err(failed)
}
