//! The control plane's admin API.

use std::time::Duration;

use anyhow::{Context as _, bail};
use keywheel_api::{
    Applied, Client, CreateClient, CreateKey, CreateRing, CreateToken, Import, Imported, Key, KeyWithSecret,
    List, NewVersion, Promoted, Ring, RingSummary, Role, Rotation, RotationWithSecret, StartRotation,
    TokenWithSecret,
};
use keywheel_keyring::Digest;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The admin API with a token.
#[derive(Clone)]
pub struct Admin {
    http: reqwest::Client,
    url: String,
    token: String,
}

/// A key version whose text is known, which is so only where it was made.
#[derive(Clone)]
pub struct Issued {
    /// `key_…`
    pub key: String,
    /// `kv_…`
    pub version: String,
    /// The plaintext. Not to be printed.
    pub secret: String,
}

impl Admin {
    /// # Errors
    ///
    /// No HTTP client can be made.
    pub fn new(url: &str, token: &str) -> anyhow::Result<Self> {
        // Built in one go with the command line, reqwest has TLS and wants this chosen.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self { http, url: url.trim_end_matches('/').into(), token: token.into() })
    }

    /// # Errors
    ///
    /// The control plane refuses, or is not there; so with all that follow.
    pub async fn create_client(&self, name: &str) -> anyhow::Result<Client> {
        let body = CreateClient { name: name.into(), ..CreateClient::default() };
        self.post("/v1/clients", &body).await
    }

    /// Creates a client, unless there is one of that name.
    ///
    /// # Errors
    ///
    /// As [`Admin::create_client`].
    pub async fn ensure_client(&self, name: &str) -> anyhow::Result<()> {
        let clients: List<Client> = self.get("/v1/clients").await?;
        if !clients.items.iter().any(|client| client.name == name) {
            self.create_client(name).await?;
        }
        Ok(())
    }

    /// # Errors
    ///
    /// As [`Admin::create_client`].
    pub async fn create_key(&self, client: &str, scopes: &[&str]) -> anyhow::Result<Issued> {
        let scopes = scopes.iter().map(|scope| (*scope).into()).collect();
        self.create(&CreateKey { client: client.into(), scopes, ..CreateKey::default() }).await
    }

    /// # Errors
    ///
    /// As [`Admin::create_client`].
    pub async fn create(&self, key: &CreateKey) -> anyhow::Result<Issued> {
        let made: KeyWithSecret = self.post("/v1/keys", key).await?;
        let version = made.key.versions.first().context("a new key has a version")?.id.clone();
        Ok(Issued { key: made.key.id, version, secret: made.secret.context("the server made the text")? })
    }

    /// A key whose text the caller has: `id` is the version's.
    ///
    /// # Errors
    ///
    /// As [`Admin::create_client`].
    pub async fn bring(&self, client: &str, id: &str, text: &str) -> anyhow::Result<Key> {
        let version = Some(NewVersion { id: id.into(), digest: Digest::of(text.as_bytes()) });
        let body = CreateKey { client: client.into(), version, ..CreateKey::default() };
        let made: KeyWithSecret = self.post("/v1/keys", &body).await?;
        Ok(made.key)
    }

    /// Starts a rotation to a version whose text the caller has.
    ///
    /// # Errors
    ///
    /// As [`Admin::create_client`].
    pub async fn rotate_to(
        &self,
        key: &str,
        id: &str,
        text: &str,
        overlap_seconds: u64,
    ) -> anyhow::Result<RotationWithSecret> {
        let version = Some(NewVersion { id: id.into(), digest: Digest::of(text.as_bytes()) });
        let body =
            StartRotation { overlap_seconds: Some(overlap_seconds), version, ..StartRotation::default() };
        self.post(&format!("/v1/keys/{key}/rotations"), &body).await
    }

    /// # Errors
    ///
    /// As [`Admin::create_client`].
    pub async fn key(&self, key: &str) -> anyhow::Result<Key> {
        self.get(&format!("/v1/keys/{key}")).await
    }

    /// Starts a rotation, and gives the new version.
    ///
    /// # Errors
    ///
    /// As [`Admin::create_client`].
    pub async fn rotate(&self, key: &str, overlap_seconds: u64) -> anyhow::Result<Issued> {
        let made = self.start_rotation(key, overlap_seconds).await?;
        let secret = made.secret.context("the server made the text")?;
        Ok(Issued { key: made.rotation.key, version: made.rotation.new_version, secret })
    }

    /// # Errors
    ///
    /// As [`Admin::create_client`].
    pub async fn start_rotation(
        &self,
        key: &str,
        overlap_seconds: u64,
    ) -> anyhow::Result<RotationWithSecret> {
        let body = StartRotation { overlap_seconds: Some(overlap_seconds), ..StartRotation::default() };
        self.post(&format!("/v1/keys/{key}/rotations"), &body).await
    }

    /// Revokes a key with all its versions.
    ///
    /// # Errors
    ///
    /// As [`Admin::create_client`].
    pub async fn revoke(&self, key: &str) -> anyhow::Result<Key> {
        self.post(&format!("/v1/keys/{key}/revoke"), &serde_json::json!({})).await
    }

    /// Revokes a key and waits, so long at most, until every proxy enforces it.
    ///
    /// # Errors
    ///
    /// As [`Admin::create_client`].
    pub async fn revoke_and_wait(&self, key: &str, limit: Duration) -> anyhow::Result<Applied> {
        let path = format!("/v1/keys/{key}/revoke?wait=applied&timeout={}", limit.as_secs());
        let mut answer: serde_json::Value = self.post(&path, &serde_json::json!({})).await?;
        Ok(serde_json::from_value(answer["applied"].take())?)
    }

    /// # Errors
    ///
    /// As [`Admin::create_client`].
    pub async fn revoke_version(&self, key: &str, version: &str) -> anyhow::Result<Key> {
        self.post(&format!("/v1/keys/{key}/versions/{version}/revoke"), &serde_json::json!({})).await
    }

    /// # Errors
    ///
    /// As [`Admin::create_client`].
    pub async fn ring(&self, ring: &str) -> anyhow::Result<Ring> {
        self.get(&format!("/v1/rings/{ring}")).await
    }

    /// # Errors
    ///
    /// As [`Admin::create_client`].
    pub async fn create_ring(&self, ring: &CreateRing) -> anyhow::Result<RingSummary> {
        self.post("/v1/rings", ring).await
    }

    /// Has nothing wait in a ring's canary any more.
    ///
    /// # Errors
    ///
    /// As [`Admin::create_client`].
    pub async fn promote_ring(&self, ring: &str) -> anyhow::Result<Promoted> {
        self.post(&format!("/v1/rings/{ring}/promote"), &serde_json::json!({})).await
    }

    /// # Errors
    ///
    /// As [`Admin::create_client`].
    pub async fn rotation(&self, id: &str) -> anyhow::Result<Rotation> {
        self.get(&format!("/v1/rotations/{id}")).await
    }

    /// Has a rotation wait for no canary.
    ///
    /// # Errors
    ///
    /// As [`Admin::create_client`].
    pub async fn promote_rotation(&self, id: &str) -> anyhow::Result<Rotation> {
        self.post(&format!("/v1/rotations/{id}/promote"), &serde_json::json!({})).await
    }

    /// # Errors
    ///
    /// As [`Admin::create_client`].
    pub async fn import(&self, ring: &str, import: &Import) -> anyhow::Result<Imported> {
        self.post(&format!("/v1/rings/{ring}/import"), import).await
    }

    /// The sum of a metric over all its labels.
    ///
    /// # Errors
    ///
    /// As [`Admin::create_client`], or it is not there.
    pub async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        self.metric_of(name, &[]).await
    }

    /// The sum of a metric over all labels but these, which must have these values.
    ///
    /// # Errors
    ///
    /// As [`Admin::metric`].
    pub async fn metric_of(&self, name: &str, labels: &[(&str, &str)]) -> anyhow::Result<f64> {
        let reply = self.http.get(format!("{}/metrics", self.url)).bearer_auth(&self.token).send().await?;
        let text = reply.error_for_status()?.text().await?;
        let labels: Vec<_> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let lines = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        let lines = lines.filter(|line| labels.iter().all(|label| line.contains(label)));
        let values: Vec<f64> = lines.filter_map(|line| line.rsplit_once(' ')?.1.parse().ok()).collect();
        anyhow::ensure!(!values.is_empty(), "there is no metric {name}");
        Ok(values.iter().sum())
    }

    /// A new token of this role.
    ///
    /// # Errors
    ///
    /// As [`Admin::create_client`].
    pub async fn create_token(&self, role: Role) -> anyhow::Result<String> {
        let new = CreateToken { role, name: None, rings: None, expires_at: None };
        let made: TokenWithSecret = self.post("/v1/tokens", &new).await?;
        made.token.context("a new token has its text")
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.answer(path, self.http.get(format!("{}{path}", self.url))).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> anyhow::Result<T> {
        self.answer(path, self.http.post(format!("{}{path}", self.url)).json(body)).await
    }

    async fn answer<T: DeserializeOwned>(
        &self,
        path: &str,
        request: reqwest::RequestBuilder,
    ) -> anyhow::Result<T> {
        let reply = request.bearer_auth(&self.token).send().await.context("no control plane")?;
        let status = reply.status();
        let body = reply.bytes().await?;
        if !status.is_success() {
            bail!("{path} answered {status}: {}", String::from_utf8_lossy(&body));
        }
        // The body may hold a secret, so the error does not show it.
        serde_json::from_slice(&body).with_context(|| format!("{path} answered {status} with another shape"))
    }
}
