//! Who may ask this relay. It has no database of tokens, and must not ask its upstream, which may be away: so a file
//! says which tokens are good.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use keywheel_control::reread::{Look, Reread};
use keywheel_keyring::Digest;
use subtle::{Choice, ConstantTimeEq as _};
use tracing::{error, info};
use zeroize::Zeroizing;

/// The shortest token, in characters.
const SHORTEST: usize = 20;
/// What a line begins with that gives a token's hash and not the token.
const HASHED: &str = "sha256:";

/// Who may ask.
#[derive(Debug)]
pub enum Access {
    /// Everyone who reaches the listener.
    Open,
    /// Bearers of a token, and clients whose certificate the listener's client CA signed.
    Credentials(Option<Tokens>),
}

/// The tokens of a file, one on each line, so that they rotate with an overlap.
#[derive(Debug)]
pub struct Tokens {
    path: PathBuf,
    now: Reread<Vec<Digest>>,
}

/// Why a file of tokens cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokensError {
    #[error("cannot read the token file {}: {cause}; give --proxy-token-file a file that this user may read", .path.display())]
    Read { path: PathBuf, cause: io::Error },
    #[error(
        "line {line} of the token file {} is no token: write one on each line, at least {SHORTEST} visible ASCII characters, or `{HASHED}` and the 64 hexadecimal digits of its hash",
        .path.display()
    )]
    Line { path: PathBuf, line: usize },
    #[error("the token file {} holds no token: write one on each line", .path.display())]
    Empty { path: PathBuf },
}

impl Access {
    /// Whether whoever sends this header, or shows a certificate, may ask.
    #[must_use]
    pub fn lets_in(&self, authorization: Option<&[u8]>, certificate: bool) -> bool {
        match self {
            Self::Open => true,
            Self::Credentials(_) if certificate => true,
            Self::Credentials(tokens) => {
                let bearer = authorization.and_then(bearer);
                tokens.as_ref().zip(bearer).is_some_and(|(tokens, token)| tokens.have(token))
            }
        }
    }
}

impl Tokens {
    /// # Errors
    ///
    /// [`TokensError`].
    pub fn open(path: &Path) -> Result<Self, TokensError> {
        let text = read(path)?;
        let now = Reread::new(parse(path, &text)?, Some(Digest::of(text.as_bytes())));
        Ok(Self { path: path.to_owned(), now })
    }

    /// Reads the file if it has changed. What cannot be used is logged once, and changes nothing.
    pub fn look(&self) {
        let text = read(&self.path);
        let digest = text.as_ref().ok().map(|text| Digest::of(text.as_bytes()));
        match self.now.look(digest, false, || parse(&self.path, &text?)) {
            Look::Same => {}
            Look::New => info!(count = self.now.now().len(), "The tokens of proxies were read again"),
            Look::Unusable(error) => error!(error, "The tokens of proxies stay as they were: {error}"),
        }
    }

    fn have(&self, token: &[u8]) -> bool {
        let asked = Digest::of(token);
        let tokens = self.now.now();
        let none = Choice::from(0_u8);
        tokens.iter().fold(none, |found, one| found | one.as_bytes().ct_eq(asked.as_bytes())).into()
    }
}

fn read(path: &Path) -> Result<Zeroizing<String>, TokensError> {
    let failed = |cause| TokensError::Read { path: path.to_owned(), cause };
    fs::read_to_string(path).map(Zeroizing::new).map_err(failed)
}

fn parse(path: &Path, text: &str) -> Result<Vec<Digest>, TokensError> {
    let mut tokens = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = || TokensError::Line { path: path.to_owned(), line: number.saturating_add(1) };
        tokens.push(match line.strip_prefix(HASHED) {
            Some(hash) => hash.parse().map_err(|_| bad())?,
            None if line.len() >= SHORTEST && line.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Digest::of(line.as_bytes())
            }
            None => return Err(bad()),
        });
    }
    if tokens.is_empty() { Err(TokensError::Empty { path: path.to_owned() }) } else { Ok(tokens) }
}

fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_take_turns_and_a_bad_file_changes_nothing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (old, new) = ("a-token-of-twenty-characters", "another-token-of-twenty-characters");
        let bears =
            |access: &Access, token: &str| access.lets_in(Some(format!("Bearer {token}").as_bytes()), false);
        fs::write(file.path(), format!("# edge proxies\n{old}\n")).unwrap();
        let tokens = Tokens::open(file.path()).unwrap();
        fs::write(file.path(), format!("{old}\n{HASHED}{}\n", Digest::of(new.as_bytes()))).unwrap();
        tokens.look();
        let access = Access::Credentials(Some(tokens));
        assert!(bears(&access, old) && bears(&access, new));
        assert!(!bears(&access, "a-token-of-twenty-characterz") && !access.lets_in(None, false));
        assert!(!access.lets_in(Some(old.as_bytes()), false), "it is no bearer token without the word");
        assert!(access.lets_in(None, true), "a certificate is enough");
        let Access::Credentials(Some(tokens)) = &access else { panic!() };
        for bad in ["", "short\n", "sha256:00\n"] {
            fs::write(file.path(), bad).unwrap();
            tokens.look();
            assert!(Tokens::open(file.path()).is_err(), "{bad}");
        }
        assert!(tokens.have(new.as_bytes()));
        fs::write(file.path(), new).unwrap();
        tokens.look();
        assert!(!tokens.have(old.as_bytes()) && tokens.have(new.as_bytes()));
    }
}
