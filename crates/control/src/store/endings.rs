use keywheel_api::{
    Compromised, CompromisedDeposit, CompromisedVersion, Key, RevokedClient, RotationEnd, State, time,
};
use keywheel_keyring::Digest;
use serde_json::json;
use sqlx::Row as _;

use super::change::{Change, Context};
use super::db::parameters;
use super::keys::VERSION;
use super::rows::{VersionRow, int, version};
use super::{Refusal, Store, StoreError};
use crate::lifecycle::{self, Event, Refused, Turn, accepted_until};

/// Keys of one transaction: some 50 ms, for which another revocation waits.
const KEYS_TOGETHER: i64 = 50;

/// How an operator ends a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Revoked,
    /// Revoked for ever.
    Compromised,
}

impl Store {
    /// Ends every version of a key now. A rotation under way is rolled back. Revoking twice is
    /// revoking once.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`].
    pub async fn revoke_key(&self, context: &Context, id: &str, ending: Ending) -> Result<Key, StoreError> {
        let mut change = self.begin(context).await?;
        let key = change.key(id).await?;
        if !change.end_key(&key, ending).await? {
            return Ok(key);
        }
        let key = change.key(id).await?;
        change.commit().await?;
        Ok(key)
    }

    /// Ends every version of every key of a client now, up to 50 keys in a transaction: another revocation must not wait
    /// for thousands of them. One that broke off goes on when it is repeated.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`], or [`StoreError`]; what was ended before it stays so.
    pub async fn revoke_client(
        &self,
        context: &Context,
        client: &str,
        ending: Ending,
    ) -> Result<RevokedClient, StoreError> {
        let context = &context.in_parts();
        let mut revoked = RevokedClient { client: client.to_owned(), keys: 0 };
        let mut past = String::new();
        loop {
            let mut change = self.begin(context).await?;
            let id = change.client_id(client).await?;
            let keys: Vec<String> = sqlx::query_scalar(
                "SELECT id FROM keys WHERE client_id = $1 AND id > $2 ORDER BY id LIMIT $3",
            )
            .bind(id)
            .bind(&past)
            .bind(KEYS_TOGETHER)
            .fetch_all(&mut *change.tx)
            .await?;
            let Some(last) = keys.last() else { return Ok(revoked) };
            past.clone_from(last);
            let mut ended: u64 = 0;
            for key in keys {
                let key = change.key(&key).await?;
                if change.end_key(&key, ending).await? {
                    ended = ended.saturating_add(1);
                }
            }
            if ended > 0 {
                let action = match ending {
                    Ending::Revoked => "client.revoke",
                    Ending::Compromised => "client.compromise",
                };
                change.audit(action, client, None, Some(json!({ "keys": ended }))).await?;
                change.commit().await?;
                revoked.keys = revoked.keys.saturating_add(ended);
            }
        }
    }

    /// Ends one version now. In a rotation, revoking the old version completes it, and revoking the
    /// new one rolls it back: the old one is active again, unless its own time is over.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`], or [`Refusal::VersionEnded`] for a version that retired and is to be revoked.
    pub async fn revoke_version(
        &self,
        context: &Context,
        key: &str,
        id: &str,
        ending: Ending,
    ) -> Result<Key, StoreError> {
        let mut change = self.begin(context).await?;
        let found = change.key(key).await?;
        let version = change.version_of(key, id).await?;
        if version.state == ending.state() {
            return Ok(found);
        }
        if lifecycle::next(version.state, ending.event()).is_err() {
            return Err(Refusal::VersionEnded(version.id).into());
        }
        change.end_version(&version, ending).await?;
        let key = change.key(key).await?;
        change.commit().await?;
        Ok(key)
    }

    /// Compromises every version that has one of these digests, in all rings, and remembers the
    /// digests, so that none can be brought in later.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn compromise(&self, context: &Context, digests: &[Digest]) -> Result<Compromised, StoreError> {
        let mut change = self.begin(context).await?;
        let mut report = Compromised::default();
        let mut new: u64 = 0;
        for digest in digests {
            let versions = change.versions_with(*digest).await?;
            let deposits = change.deposits_of(*digest).await?;
            if versions.is_empty() && deposits.is_empty() {
                report.unknown.push(*digest);
            }
            if change.remember_compromised(*digest).await? {
                new = new.saturating_add(1);
            }
            for (key, version) in deposits {
                change.drop_deposit(&key, &Refusal::DigestCompromised(*digest)).await?;
                let Key { id: key, client, ring, .. } = change.key(&key).await?;
                report.deposits.push(CompromisedDeposit { digest: *digest, version, key, client, ring });
            }
            for version in versions {
                change.compromise(&version).await?;
                let key = change.key(&version.key).await?;
                report.versions.push(CompromisedVersion {
                    digest: *digest,
                    version: version.id,
                    key: key.id,
                    client: key.client,
                    ring: key.ring,
                    was: version.state,
                });
            }
        }
        if new == 0 && report.deposits.is_empty() {
            return Ok(report);
        }
        let versions: Vec<_> = report.versions.iter().map(|version| &version.version).collect();
        // By name, so that whoever restores an older copy can refuse them again.
        let details = json!({
            "new": new, "versions": versions, "unknown": report.unknown.len(), "digests": digests,
        });
        change.audit("digest.compromise", "leaked keys", None, Some(details)).await?;
        change.commit().await?;
        Ok(report)
    }

    /// Accepts an ended version again, without a deadline. Reinstating twice is reinstating once.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: no such version, it has not ended, it is compromised, its record is gone from the
    /// ring, or the key has expired.
    pub async fn reinstate_version(&self, context: &Context, key: &str, id: &str) -> Result<Key, StoreError> {
        let mut change = self.begin(context).await?;
        let found = change.key(key).await?;
        let version = change.version_of(key, id).await?;
        if version.reinstated && !version.state.is_denied() {
            return Ok(found);
        }
        change.reinstate(&version).await?;
        change.unrevoke(key).await?;
        let key = change.audit_key("version.reinstate", id, &found).await?;
        change.commit().await?;
        Ok(key)
    }

    /// Takes a key's revocation back: what it ended is accepted again, with the deadline that it had, but for versions
    /// whose time is over meanwhile.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: no such key, it is not revoked, it is compromised, it has expired, or it is gone
    /// from the ring.
    pub async fn reinstate_key(&self, context: &Context, id: &str) -> Result<Key, StoreError> {
        let mut change = self.begin(context).await?;
        let key = change.key(id).await?;
        let versions = change.versions(id).await?;
        let Some(revoked_at) = key.revoked_at.and_then(time::millis) else {
            let repeated = versions.iter().any(|version| version.reinstated && !version.state.is_denied());
            let refusal = || Refusal::NotEnded { what: "key", name: id.to_owned() };
            return if repeated { Ok(key) } else { Err(refusal().into()) };
        };
        if key.expires_at.and_then(time::millis).is_some_and(|at| at <= context.now) {
            return Err(Refusal::KeyExpired(key.id).into());
        }
        let mut reinstated = false;
        for version in &versions {
            let until = accepted_until(version.expires_at, version.retire_at);
            let over = until.is_some_and(|at| at <= context.now);
            if version.state == State::Revoked && version.ended_at == Some(revoked_at) && !over {
                change.reinstate(version).await?;
                if version.retire_at.is_some() {
                    // It was to end before the revocation, and a revocation that is taken back gives it no other life.
                    let mut active = version.clone();
                    active.state = State::Active;
                    change.apply(&active, Event::Supersede).await?;
                }
                reinstated = true;
            }
        }
        if !reinstated {
            let compromised = versions.iter().rfind(|version| version.state == State::Compromised);
            return Err(match compromised {
                Some(version) => Refusal::VersionCompromised(version.id.clone()),
                None => Refusal::KeyRevoked(key.id),
            }
            .into());
        }
        change.unrevoke(id).await?;
        let key = change.audit_key("key.reinstate", id, &key).await?;
        change.commit().await?;
        Ok(key)
    }
}

impl Change<'_> {
    /// Whether anything of the key ended by that.
    pub(super) async fn end_key(&mut self, key: &Key, ending: Ending) -> Result<bool, StoreError> {
        let mut ended = Vec::new();
        for version in self.versions(&key.id).await? {
            if lifecycle::next(version.state, ending.event()).is_ok() {
                self.apply(&version, ending.event()).await?;
                ended.push(version);
            }
        }
        if ended.is_empty() && key.revoked_at.is_some() {
            return Ok(false);
        }
        if let Some(rotation) = self.open_rotation(&key.id).await? {
            self.end_rotation(&rotation, Turn::RollBack, RotationEnd::KeyRevoked).await?;
        }
        sqlx::query("UPDATE keys SET revoked_at = coalesce(revoked_at, $1) WHERE id = $2")
            .bind(int(self.context.now.0))
            .bind(&key.id)
            .execute(&mut *self.tx)
            .await?;
        let action = match ending {
            Ending::Revoked => "key.revoke",
            Ending::Compromised => "key.compromise",
        };
        self.audit_key(action, &key.id, key).await?;
        if ending == Ending::Compromised {
            for version in ended {
                self.compromise_elsewhere(&version).await?;
            }
        }
        Ok(true)
    }

    /// Compromises a version, unless it is by now.
    async fn compromise(&mut self, version: &VersionRow) -> Result<(), StoreError> {
        match self.version(&version.id).await? {
            Some(version) if version.state != State::Compromised => {
                self.end_version(&version, Ending::Compromised).await
            }
            _ => Ok(()),
        }
    }

    /// A secret that leaked has leaked for every ring that knows it.
    async fn compromise_elsewhere(&mut self, version: &VersionRow) -> Result<(), StoreError> {
        for other in self.versions_with(version.digest).await? {
            Box::pin(self.compromise(&other)).await?;
        }
        for (key, _) in self.deposits_of(version.digest).await? {
            self.drop_deposit(&key, &Refusal::DigestCompromised(version.digest)).await?;
        }
        Ok(())
    }

    /// Ends a version, and with it a rotation of which it is one side.
    pub(super) async fn end_version(
        &mut self,
        version: &VersionRow,
        ending: Ending,
    ) -> Result<(), StoreError> {
        let key = self.key(&version.key).await?;
        let rotation = self.open_rotation(&version.key).await?;
        self.apply(version, ending.event()).await?;
        match rotation {
            Some(rotation) if rotation.old_version == version.id => {
                self.end_rotation(&rotation, Turn::Complete, RotationEnd::OldVersionRevoked).await?;
            }
            Some(rotation) if rotation.new_version == version.id => {
                for old in self.superseded_by(&rotation).await? {
                    let event =
                        lifecycle::when_successor_is_revoked(self.now(), old.expires_at, old.retire_at);
                    self.apply(&old, event).await?;
                }
                self.end_rotation(&rotation, Turn::RollBack, RotationEnd::NewVersionRevoked).await?;
            }
            _ => {}
        }
        let action = match ending {
            Ending::Revoked => "version.revoke",
            Ending::Compromised => "version.compromise",
        };
        self.audit_key(action, &version.id, &key).await?;
        if ending == Ending::Compromised {
            self.compromise_elsewhere(version).await?;
        }
        Ok(())
    }

    async fn reinstate(&mut self, version: &VersionRow) -> Result<(), StoreError> {
        let id = || version.id.clone();
        match lifecycle::next(version.state, Event::Reinstate) {
            Err(Refused::Compromised) => return Err(Refusal::VersionCompromised(id()).into()),
            Err(Refused::NotEnded) => return Err(Refusal::NotEnded { what: "version", name: id() }.into()),
            _ => {}
        }
        if version.removed_at.is_some() {
            return Err(Refusal::VersionRemoved(id()).into());
        }
        if version.expires_at.is_some_and(|at| at <= self.now()) {
            return Err(Refusal::KeyExpired(version.key.clone()).into());
        }
        self.apply(version, Event::Reinstate).await
    }

    async fn unrevoke(&mut self, key: &str) -> Result<(), StoreError> {
        sqlx::query("UPDATE keys SET revoked_at = NULL WHERE id = $1")
            .bind(key)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    /// Whether it was not remembered before.
    pub(super) async fn remember_compromised(&mut self, digest: Digest) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "INSERT INTO compromised_digests (digest, at) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        )
        .bind(digest.as_bytes().as_slice())
        .bind(int(self.context.now.0))
        .execute(&mut *self.tx)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// # Errors
    ///
    /// [`Refusal::DigestCompromised`] for one of them.
    pub(super) async fn refuse_compromised(&mut self, digests: &[Digest]) -> Result<(), StoreError> {
        let parameters = parameters(digests.len(), 1);
        let sql = format!("SELECT digest FROM compromised_digests WHERE digest IN ({parameters}) LIMIT 1");
        let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
        for digest in digests {
            query = query.bind(digest.as_bytes().as_slice());
        }
        let Some(row) = query.fetch_optional(&mut *self.tx).await? else { return Ok(()) };
        let found: &[u8] = row.try_get(0)?;
        let found = digests.iter().find(|digest| digest.as_bytes().as_slice() == found);
        found.map_or(Ok(()), |digest| Err(Refusal::DigestCompromised(*digest).into()))
    }

    async fn version_of(&mut self, key: &str, id: &str) -> Result<VersionRow, StoreError> {
        let found = self.version(id).await?.filter(|version| version.key == key);
        Ok(found.ok_or_else(|| Refusal::NotFound { what: "version", name: id.to_owned() })?)
    }

    pub(super) async fn versions_with(&mut self, digest: Digest) -> Result<Vec<VersionRow>, StoreError> {
        // The rings are named for the sake of the index, which begins with them.
        let sql = format!("{VERSION} WHERE ring_id IN (SELECT id FROM rings) AND digest = $1");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(digest.as_bytes().as_slice())
            .fetch_all(&mut *self.tx)
            .await?;
        rows.iter().map(version).collect()
    }
}

// === impl Ending ===

impl Ending {
    const fn event(self) -> Event {
        match self {
            Self::Revoked => Event::Revoke,
            Self::Compromised => Event::Compromise,
        }
    }

    const fn state(self) -> State {
        match self {
            Self::Revoked => State::Revoked,
            Self::Compromised => State::Compromised,
        }
    }
}
