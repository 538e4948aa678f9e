use std::collections::{BTreeMap, BTreeSet};

use keywheel_api::time::timestamp;
use keywheel_api::{Client, ImportItem, ImportRefusal, Imported, RefusedItem, time};
use keywheel_keyring::key_text::random_id;
use keywheel_keyring::{Digest, State, VersionId};
use serde_json::json;
use sqlx::Row as _;

use super::change::{Change, Context};
use super::db::parameters;
use super::rows::{digest, int, state_name};
use super::{Refusal, Store, StoreError};
use crate::secret::random;

/// Items of one transaction: a revocation waits for one of them at most.
const TOGETHER: usize = 1_000;
/// Rows of one INSERT: few enough for the limits of 32,766 and 65,535 parameters.
const ROWS: usize = 500;

/// An item at its place among all.
type Item<'a> = (usize, &'a ImportItem);

impl Store {
    /// Brings digests in that kept the rules of their fields. Each transaction of up to 1,000 takes a run of
    /// revisions. Repeated, an import finds its items there and changes nothing.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`] for the ring, or [`StoreError`]; what was committed before stays, and a repeated import goes
    /// on from there.
    pub async fn import(
        &self,
        context: &Context,
        ring: &str,
        items: &[Item<'_>],
        create_clients: bool,
        dry_run: bool,
    ) -> Result<Imported, StoreError> {
        // Not even with the answer: an import that broke off goes on when it is repeated.
        let context = &context.in_parts();
        let mut report = Imported { ring: ring.to_owned(), dry_run, ..Imported::default() };
        let mut seen = BTreeSet::new();
        for items in items.chunks(TOGETHER) {
            let mut change = self.begin(context).await?;
            let import = Importing { ring: change.ring_id(ring).await?, create_clients, report: &mut report };
            let imported = import.run(&mut change, items, &mut seen).await?;
            // Nothing remains of a change that is not committed.
            if imported && !dry_run {
                change.commit().await?;
            }
        }
        if dry_run {
            report.revision = None;
        }
        Ok(report)
    }
}

/// Whose a key will be.
#[derive(Debug, Clone, Copy)]
struct Owner {
    id: i64,
    /// It, or the ring, has a policy.
    follows: bool,
}

/// One transaction's worth.
struct Importing<'a> {
    ring: i64,
    create_clients: bool,
    report: &'a mut Imported,
}

impl Importing<'_> {
    async fn run(
        self,
        change: &mut Change<'_>,
        items: &[Item<'_>],
        seen: &mut BTreeSet<Digest>,
    ) -> Result<bool, StoreError> {
        let clients = self.clients(change, items).await?;
        let mut taken = change.taken(self.ring, items).await?;
        let compromised = change.compromised(items).await?;
        let mut rows = Vec::with_capacity(items.len());
        for (at, item) in items {
            let refused = if !seen.insert(item.digest) {
                Some((ImportRefusal::Repeated, "an earlier item has this digest".to_owned()))
            } else if compromised.contains(&item.digest) {
                let refusal = Refusal::DigestCompromised(item.digest);
                Some((ImportRefusal::Compromised, refusal.to_string()))
            } else if let Some(there) = taken.remove(&item.digest) {
                let same = (&there.client, &there.scopes, expiry(&there));
                if same == (&item.client, &item.scopes, expiry(item)) {
                    self.report.present = self.report.present.saturating_add(1);
                    continue;
                }
                Some((ImportRefusal::DigestTaken, Refusal::DigestTaken.to_string()))
            } else if let Some(client) = clients.get(item.client.as_str()) {
                let key = random_id("key", random()?);
                rows.push((key, VersionId::from_random(random()?), *client, *item));
                continue;
            } else {
                let refusal = Refusal::NotFound { what: "client", name: item.client.clone() };
                Some((ImportRefusal::UnknownClient, refusal.to_string()))
            };
            if let Some((reason, detail)) = refused {
                self.report.refused.push(RefusedItem { item: *at as u64, reason, detail });
            }
        }
        if rows.is_empty() {
            return Ok(false);
        }
        let last = change.next_revisions(self.ring, rows.len() as u64).await?;
        let first = last.saturating_sub(rows.len() as u64);
        let now = int(change.now().0);
        let mut revision = first;
        for rows in rows.chunks(ROWS) {
            // Of full chunks the text is the same, so it is prepared once.
            let columns = "id, ring_id, client_id, scopes, expires_at, created_at, look_at";
            let sql = format!("INSERT INTO keys ({columns}) VALUES {}", parameters(rows.len(), 7));
            let mut keys = sqlx::query(sqlx::AssertSqlSafe(sql));
            for (key, _, client, item) in rows {
                keys = keys
                    .bind(key)
                    .bind(self.ring)
                    .bind(client.id)
                    .bind(json!(item.scopes).to_string())
                    .bind(expiry(item))
                    .bind(now)
                    // The scheduler plans them, a few at a time.
                    .bind(client.follows.then_some(now));
            }
            keys.execute(&mut *change.tx).await?;
            let columns = "id, key_id, ring_id, digest, state, expires_at, revision, created_at";
            let sql = format!("INSERT INTO versions ({columns}) VALUES {}", parameters(rows.len(), 8));
            let mut versions = sqlx::query(sqlx::AssertSqlSafe(sql));
            for (key, version, _, item) in rows {
                revision = revision.saturating_add(1);
                versions = versions
                    .bind(version.as_str())
                    .bind(key)
                    .bind(self.ring)
                    .bind(item.digest.as_bytes().as_slice())
                    .bind(state_name(State::Active))
                    .bind(expiry(item))
                    .bind(int(revision))
                    .bind(now);
            }
            versions.execute(&mut *change.tx).await?;
        }
        let names: BTreeSet<_> = rows.iter().map(|(_, _, _, item)| item.client.as_str()).collect();
        let (before, after) = (json!({ "revision": first }), rows.len());
        let after = json!({ "revision": last, "versions": after, "clients": names });
        let ring = self.report.ring.clone();
        change.audit("ring.import", &ring, Some(before), Some(after)).await?;
        self.report.imported = self.report.imported.saturating_add(rows.len() as u64);
        self.report.revision = Some(last);
        Ok(true)
    }

    /// The clients that the items name, and those made that were not there.
    async fn clients(
        &self,
        change: &mut Change<'_>,
        items: &[Item<'_>],
    ) -> Result<BTreeMap<String, Owner>, StoreError> {
        let names: BTreeSet<&str> = items.iter().map(|(_, item)| item.client.as_str()).collect();
        let names: Vec<&str> = names.into_iter().collect();
        let mut found = BTreeMap::new();
        for names in names.chunks(ROWS) {
            // The parameters are numbered from 1 on; the ring comes after them.
            let sql = format!(
                "SELECT c.id, c.name, coalesce(c.policy_id, r.policy_id) AS policy
                 FROM clients c CROSS JOIN rings r WHERE r.id = ${} AND c.name IN ({})",
                names.len().saturating_add(1),
                parameters(names.len(), 1)
            );
            let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
            for name in names {
                query = query.bind(*name);
            }
            for row in query.bind(self.ring).fetch_all(&mut *change.tx).await? {
                let policy: Option<i64> = row.try_get("policy")?;
                let owner = Owner { id: row.try_get("id")?, follows: policy.is_some() };
                found.insert(row.try_get::<String, _>("name")?, owner);
            }
        }
        if !self.create_clients {
            return Ok(found);
        }
        let policy: Option<i64> = sqlx::query_scalar("SELECT policy_id FROM rings WHERE id = $1")
            .bind(self.ring)
            .fetch_one(&mut *change.tx)
            .await?;
        for name in names {
            if found.contains_key(name) {
                continue;
            }
            let now = change.now();
            let made = sqlx::query("INSERT INTO clients (name, created_at) VALUES ($1, $2) RETURNING id");
            let made = made.bind(name).bind(int(now.0)).fetch_one(&mut *change.tx).await?;
            let owner = Owner { id: made.try_get(0)?, follows: policy.is_some() };
            found.insert(name.to_owned(), owner);
            let client = Client {
                name: name.to_owned(),
                owner: None,
                contact: None,
                labels: BTreeMap::new(),
                policy: None,
                created_at: timestamp(now),
            };
            change.audit("client.create", name, None, Some(json!(client))).await?;
        }
        Ok(found)
    }
}

impl Change<'_> {
    /// Those of the items whose digests the ring has, as they are there.
    async fn taken(
        &mut self,
        ring: i64,
        items: &[Item<'_>],
    ) -> Result<BTreeMap<Digest, ImportItem>, StoreError> {
        let mut found = BTreeMap::new();
        for items in items.chunks(ROWS) {
            // The parameters are numbered from 1 on; the ring comes after them.
            let sql = format!(
                "SELECT v.digest, c.name AS client, k.scopes, k.expires_at FROM versions v
                 JOIN keys k ON k.id = v.key_id JOIN clients c ON c.id = k.client_id
                 WHERE v.ring_id = ${} AND v.digest IN ({})",
                items.len().saturating_add(1),
                parameters(items.len(), 1)
            );
            let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
            for (_, item) in items {
                query = query.bind(item.digest.as_bytes().as_slice());
            }
            for row in query.bind(ring).fetch_all(&mut *self.tx).await? {
                let item = ImportItem {
                    digest: digest(&row, "digest")?,
                    client: row.try_get("client")?,
                    scopes: super::rows::json(row.try_get("scopes")?)?,
                    expires_at: super::rows::optional_timestamp(&row, "expires_at")?,
                };
                found.insert(item.digest, item);
            }
        }
        Ok(found)
    }

    async fn compromised(&mut self, items: &[Item<'_>]) -> Result<BTreeSet<Digest>, StoreError> {
        let mut found = BTreeSet::new();
        for items in items.chunks(ROWS) {
            let parameters = parameters(items.len(), 1);
            let sql = format!("SELECT digest FROM compromised_digests WHERE digest IN ({parameters})");
            let mut query = sqlx::query(sqlx::AssertSqlSafe(sql));
            for (_, item) in items {
                query = query.bind(item.digest.as_bytes().as_slice());
            }
            for row in query.fetch_all(&mut *self.tx).await? {
                found.insert(digest(&row, "digest")?);
            }
        }
        Ok(found)
    }
}

fn expiry(item: &ImportItem) -> Option<i64> {
    item.expires_at.and_then(time::millis).map(|at| int(at.0))
}
