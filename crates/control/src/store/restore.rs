use std::collections::{BTreeMap, BTreeSet};

use keywheel_api::State;
use keywheel_api::audit::Head;
use keywheel_keyring::{Digest, Document, Epoch, Kind};
use serde_json::json;
use sqlx::Row as _;

use super::change::{Change, Context};
use super::keys::VERSION;
use super::rows::{VersionRow, digest, int, uint, version};
use super::{Ending, Refusal, RingRecord, Store, StoreError};
use crate::restore::evidence::Journal;

/// What a copy held of a ring.
#[derive(Debug, Clone)]
pub struct RestorePoint {
    pub ring: RingRecord,
    pub epoch: Epoch,
    pub revision: u64,
    /// The last record of its audit trail.
    pub audited: Head,
}

/// What makes a copy fit to be served.
#[derive(Debug)]
pub struct Restoration {
    /// Later than any that was ever published.
    pub epoch: Epoch,
    pub journal: Journal,
    /// Genuine, and later than the copy.
    pub documents: Vec<Document>,
    /// Whether to publish the rings again.
    pub finish: bool,
}

/// What became of versions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restored {
    pub denied: Vec<String>,
    /// They were accepted, and the copy does not have them.
    pub lost: Vec<String>,
}

impl Store {
    /// Each ring as the copy held it: if a restore is under way already, as it was before.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn restore_points(&self) -> Result<Vec<RestorePoint>, StoreError> {
        let head = self.audit_head().await?;
        let mut points = Vec::new();
        for ring in self.rings().await? {
            let row = sqlx::query(
                "SELECT from_epoch, from_revision, audit_seq, audit_hash FROM restores
                 WHERE ring_id = $1 AND finished_at IS NULL",
            )
            .bind(ring.id)
            .fetch_optional(self.db.readers())
            .await?;
            points.push(match row {
                None => RestorePoint { epoch: ring.epoch, revision: ring.revision, audited: head, ring },
                Some(row) => {
                    let epoch: &str = row.try_get("from_epoch")?;
                    let audited =
                        Head { seq: uint(row.try_get("audit_seq")?), hash: digest(&row, "audit_hash")? };
                    let wrong = |_| StoreError::Corrupt(format!("the epoch `{epoch}`"));
                    let revision = uint(row.try_get("from_revision")?);
                    RestorePoint { epoch: epoch.parse().map_err(wrong)?, revision, audited, ring }
                }
            });
        }
        Ok(points)
    }

    /// What is wrong with the file, if something is. Nothing is said of a database on a server.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn damage(&self) -> Result<Option<String>, StoreError> {
        if !self.location.is_file() {
            return Ok(None);
        }
        let said: String =
            sqlx::query_scalar("PRAGMA integrity_check(1)").fetch_one(self.db.readers()).await?;
        Ok((said != "ok").then_some(said))
    }

    /// Opens the new epoch and denies again what was denied since the copy, all of it or nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn restore(
        &self,
        context: &Context,
        points: &[RestorePoint],
        what: &Restoration,
        trail: Option<Head>,
    ) -> Result<Restored, StoreError> {
        let mut change = self.begin(context).await?;
        for point in points {
            change.open_epoch(point, what.epoch).await?;
        }
        let mut done = Restored::default();
        change.deny_by_journal(&what.journal, &mut done).await?;
        for document in &what.documents {
            let point = points.iter().find(|point| point.ring.name == document.ring);
            let point = point.ok_or_else(|| StoreError::Corrupt("a document of no ring".into()))?;
            change.deny_by_document(point, document, &mut done).await?;
        }
        let names: Vec<&str> = points.iter().map(|point| point.ring.name.as_str()).collect();
        let from: BTreeMap<&str, Epoch> =
            points.iter().map(|point| (point.ring.name.as_str(), point.ring.epoch)).collect();
        let after = json!({
            "epoch": what.epoch,
            "denied": done.denied,
            "trail": trail.map(|head| json!({ "seq": head.seq, "hash": head.hash })),
            "documents": what.documents.len(),
            "published": what.finish,
        });
        change.audit("ring.restore", &names.join(" "), Some(json!({ "epoch": from })), Some(after)).await?;
        if what.finish {
            sqlx::query("UPDATE restores SET finished_at = $1 WHERE finished_at IS NULL")
                .bind(int(context.now.0))
                .execute(&mut *change.tx)
                .await?;
        }
        change.commit().await?;
        Ok(done)
    }
}

impl Change<'_> {
    async fn open_epoch(&mut self, point: &RestorePoint, epoch: Epoch) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO restores (ring_id, at, from_epoch, from_revision, audit_seq, audit_hash)
             SELECT $1, $2, $3, $4, $5, $6 WHERE NOT EXISTS
             (SELECT 1 FROM restores WHERE ring_id = $7 AND finished_at IS NULL)",
        )
        .bind(point.ring.id)
        .bind(int(self.now().0))
        .bind(point.epoch.to_string())
        .bind(int(point.revision))
        .bind(int(point.audited.seq))
        .bind(point.audited.hash.as_bytes().as_slice())
        .bind(point.ring.id)
        .execute(&mut *self.tx)
        .await?;
        sqlx::query("UPDATE rings SET epoch = $1 WHERE id = $2")
            .bind(epoch.to_string())
            .bind(point.ring.id)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    async fn deny_by_journal(&mut self, journal: &Journal, done: &mut Restored) -> Result<(), StoreError> {
        for id in &journal.revoked {
            match self.key(id).await {
                Ok(key) if key.revoked_at.is_none() => {
                    let open = key.versions.iter().filter(|version| !version.state.is_denied());
                    done.denied.extend(open.map(|version| version.id.clone()));
                    self.end_key(&key, Ending::Revoked).await?;
                }
                // It is revoked in the copy, or younger than it.
                Ok(_) | Err(StoreError::Refused(Refusal::NotFound { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        // Ending one side of a rotation may bring the other back, which the journal then has a word on too.
        for _ in 0..2 {
            for (id, state) in &journal.versions {
                if state.is_denied() {
                    self.deny(id, *state, done).await?;
                }
            }
        }
        for (id, state) in &journal.versions {
            if !state.is_denied() && self.version(id).await?.is_none() {
                done.lost.push(id.clone());
            }
        }
        for digest in &journal.compromised {
            self.remember_compromised(*digest).await?;
            for version in self.versions_with(*digest).await? {
                self.deny(&version.id, State::Compromised, done).await?;
            }
        }
        Ok(())
    }

    /// What a page covers and does not name was removed, long after it had ended.
    async fn deny_by_document(
        &mut self,
        point: &RestorePoint,
        document: &Document,
        done: &mut Restored,
    ) -> Result<(), StoreError> {
        let mut denials: BTreeMap<Digest, State> = BTreeMap::new();
        denials.extend(document.removed.iter().map(|digest| (*digest, State::Revoked)));
        for entry in &document.entries {
            let state = match entry.state {
                // It was not understood here; what it says elsewhere is not known.
                State::Unreadable => State::Revoked,
                state => state,
            };
            if state.is_denied() {
                denials.insert(entry.digest, state);
            }
        }
        if let Kind::Snapshot { after, through } = document.kind {
            let named: BTreeSet<Digest> = document.entries.iter().map(|entry| entry.digest).collect();
            let (after, through) =
                (after.map_or([0; 32], digest_bytes), through.map_or([0xff; 32], digest_bytes));
            // What the ring had, or must have had by then: a version that still waited in its canary was on no page of it.
            let is_canary = point.ring.canary.is_some();
            let had = if is_canary {
                "coalesce(canary_revision, revision) <= $4"
            } else {
                "(revision > 0 AND revision <= $4 OR promote_at < $5)"
            };
            let sql = format!(
                "{VERSION} WHERE ring_id = $1 AND digest > $2 AND digest <= $3 AND removed_at IS NULL AND {had}"
            );
            let mut rows = sqlx::query(sqlx::AssertSqlSafe(sql))
                .bind(point.ring.main())
                .bind(after.as_slice())
                .bind(through.as_slice())
                .bind(int(point.revision));
            if !is_canary {
                rows = rows.bind(int(document.issued_at.0));
            }
            for row in &rows.fetch_all(&mut *self.tx).await? {
                let version: VersionRow = version(row)?;
                if !named.contains(&version.digest) {
                    denials.insert(version.digest, State::Revoked);
                }
            }
        }
        for (digest, state) in denials {
            if state == State::Compromised {
                self.remember_compromised(digest).await?;
            }
            for version in self.versions_with(digest).await? {
                if version.ring == point.ring.main() {
                    self.deny(&version.id, state, done).await?;
                }
            }
        }
        Ok(())
    }

    /// Denies a version at least as strictly as `state` says. What had retired is revoked here: the successor that
    /// it gave way to may be lost.
    async fn deny(&mut self, id: &str, state: State, done: &mut Restored) -> Result<(), StoreError> {
        let Some(version) = self.version(id).await? else { return Ok(()) };
        let ending = match state {
            State::Compromised if version.state != State::Compromised => Ending::Compromised,
            State::Compromised => return Ok(()),
            _ if version.state.is_denied() => return Ok(()),
            _ => Ending::Revoked,
        };
        self.end_version(&version, ending).await?;
        done.denied.push(version.id);
        Ok(())
    }
}

fn digest_bytes(digest: Digest) -> [u8; 32] {
    *digest.as_bytes()
}
