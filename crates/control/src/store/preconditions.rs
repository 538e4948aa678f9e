//! `If-Match`: a change happens only if what it changes is still as the caller saw it. It is looked at under the write
//! lock, so that nobody comes in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::change::Change;
use super::keys::load_key;
use super::{Refusal, StoreError};

/// What a change is made on condition of. Clones are the same condition.
#[derive(Debug, Clone)]
pub struct Precondition {
    resource: Resource,
    name: String,
    tags: Tags,
    /// A request that changes something in parts would break its own condition.
    met: Arc<AtomicBool>,
}

/// What has an entity tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    Client,
    Key,
    Policy,
}

/// Which entity tags will do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tags {
    /// `*`: whatever it is, if it is there.
    Any,
    /// With their quotes.
    These(Vec<String>),
}

impl Precondition {
    #[must_use]
    pub fn new(resource: Resource, name: String, tags: Tags) -> Self {
        Self { resource, name, tags, met: Arc::default() }
    }
}

impl Resource {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Key => "key",
            Self::Policy => "policy",
        }
    }
}

/// The strong entity tag of what the API shows, with its quotes. When a version was used last is no part of it: callers
/// change that, and not those who change keys.
#[must_use]
pub fn entity_tag(mut shown: Value) -> String {
    for version in shown.get_mut("versions").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(version) = version.as_object_mut() {
            version.remove("last_used_at");
        }
    }
    let hash = Sha256::digest(shown.to_string());
    format!("\"{}\"", hex::encode(hash.get(..16).unwrap_or_default()))
}

impl Change<'_> {
    /// # Errors
    ///
    /// [`Refusal::Changed`], or [`Refusal::NotFound`].
    pub(super) async fn require(&mut self, condition: &Precondition) -> Result<(), StoreError> {
        if condition.met.load(Ordering::Relaxed) {
            return Ok(());
        }
        let (what, name) = (condition.resource.as_str(), &condition.name);
        let shown = match condition.resource {
            Resource::Client => self.client(name).await?.map(serde_json::to_value),
            Resource::Key => Some(serde_json::to_value(load_key(&mut self.tx, name).await?)),
            Resource::Policy => self.policy(name).await?.map(|(_, policy)| serde_json::to_value(policy)),
        };
        let shown = shown.ok_or_else(|| Refusal::NotFound { what, name: name.clone() })?;
        let shown = shown.map_err(|error| StoreError::Corrupt(error.to_string()))?;
        let tag = entity_tag(shown);
        match &condition.tags {
            Tags::These(tags) if !tags.contains(&tag) => {
                Err(Refusal::Changed { what, name: name.clone(), tag }.into())
            }
            Tags::Any | Tags::These(_) => {
                condition.met.store(true, Ordering::Relaxed);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_tag_tells_of_changes_and_not_of_use() {
        let key = |state: &str, used: Value| json!({ "id": "key_1", "versions": [{ "state": state, "last_used_at": used }] });
        let tag = entity_tag(key("active", Value::Null));
        assert_eq!(tag, entity_tag(key("active", json!("2026-09-21T14:53:20Z"))));
        assert_ne!(tag, entity_tag(key("revoked", Value::Null)));
        assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() == 34, "{tag}");
    }
}
