//! What is made of files, and made anew when they change.

use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use keywheel_keyring::Digest;

/// A value, and what the files held that it was made of.
#[derive(Debug)]
pub struct Reread<T> {
    // A std lock: it is held for a look or a clone, never across an await.
    now: RwLock<T>,
    tried: Mutex<Tried>,
}

/// What came of a look at the files. A failure leaves the value as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Look {
    /// Nothing changed, or what cannot be used is what could not be used before.
    Same,
    New,
    /// For the log.
    Unusable(String),
}

/// The contents that were tried last, if they could be read, and what was wrong with them.
#[derive(Debug, PartialEq, Eq)]
struct Tried {
    contents: Option<Digest>,
    error: Option<String>,
}

impl<T> Reread<T> {
    pub const fn new(value: T, contents: Option<Digest>) -> Self {
        Self { now: RwLock::new(value), tried: Mutex::new(Tried { contents, error: None }) }
    }

    pub fn now(&self) -> RwLockReadGuard<'_, T> {
        self.now.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the value anew unless the files hold what they held; `always`, even then. `contents` is `None` where they
    /// cannot be read.
    pub fn look<E: ToString>(
        &self,
        contents: Option<Digest>,
        always: bool,
        make: impl FnOnce() -> Result<T, E>,
    ) -> Look {
        let mut tried = self.tried();
        if !always && contents.is_some() && contents == tried.contents {
            return Look::Same;
        }
        let (error, look) = match make() {
            Ok(value) => {
                *self.now.write().unwrap_or_else(PoisonError::into_inner) = value;
                (None, Look::New)
            }
            Err(error) => (Some(error.to_string()), Look::Unusable(error.to_string())),
        };
        let now = Tried { contents, error };
        let is_known = look != Look::New && now == *tried;
        *tried = now;
        if is_known && !always { Look::Same } else { look }
    }

    fn tried(&self) -> MutexGuard<'_, Tried> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_is_taken_and_what_cannot_be_used_is_said_once() {
        let digest = |text: &str| Some(Digest::of(text.as_bytes()));
        let reread = Reread::new(1, digest("one"));
        let bad = || Err("no number".to_owned());
        assert_eq!(reread.look(digest("one"), false, bad), Look::Same);
        assert_eq!(reread.look(digest("two"), false, || Ok::<_, String>(2)), Look::New);
        assert_eq!(*reread.now(), 2);
        for contents in [digest("bad"), None] {
            assert_eq!(reread.look(contents, false, bad), Look::Unusable("no number".into()));
            assert_eq!(reread.look(contents, false, bad), Look::Same);
            assert_eq!(
                reread.look(contents, true, bad),
                Look::Unusable("no number".into()),
                "who asks is told"
            );
            assert_eq!(*reread.now(), 2);
        }
        assert_eq!(
            reread.look(digest("two"), false, || Ok::<_, String>(3)),
            Look::New,
            "it was unreadable meanwhile"
        );
    }
}
