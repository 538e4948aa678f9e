use std::collections::{BTreeMap, BTreeSet};

use keywheel_api::time::timestamp;
use keywheel_api::{Client, ImportItem, ImportRefusal, Imported, RefusedItem, time};
use keywheel_keyring::{Digest, Millis, State, VersionId};
use serde_json::json;
use sqlx::Row as _;

use super::change::{Change, Context};
use super::db::Sql;
use super::rows::{digest, int, state_name, word};
use super::{Refusal, Store, StoreError};
use crate::ids;
use crate::secret::NoRandomness;

/// Items of one transaction: a revocation waits for one of them at most.
const TOGETHER: usize = 1_000;

// Many rows come as one parameter: the driver looks the name of each parameter up in the list of all of them, and the
// time for a thousand rows of seven would be that of their inserts.
const INSERT_KEYS: Sql = Sql {
    sqlite: "INSERT INTO keys (id, ring_id, client_id, scopes, expires_at, created_at, look_at)
        SELECT value ->> 0, $1, value ->> 1, value ->> 2, value ->> 3, $2, value ->> 4 FROM json_each($3)",
    postgres: "INSERT INTO keys (id, ring_id, client_id, scopes, expires_at, created_at, look_at)
        SELECT value ->> 0, $1, (value ->> 1)::bigint, value ->> 2, (value ->> 3)::bigint, $2,
            (value ->> 4)::bigint
        FROM jsonb_array_elements($3::jsonb)",
};
const INSERT_VERSIONS: Sql = Sql {
    sqlite: "INSERT INTO versions (id, key_id, ring_id, digest, state, expires_at, revision, created_at,
            canary_revision)
        SELECT value ->> 0, value ->> 1, $1, unhex(value ->> 2), 'active', value ->> 3, value ->> 4, $2, value ->> 5
        FROM json_each($3)",
    postgres: "INSERT INTO versions (id, key_id, ring_id, digest, state, expires_at, revision, created_at,
            canary_revision)
        SELECT value ->> 0, value ->> 1, $1, decode(value ->> 2, 'hex'), 'active', (value ->> 3)::bigint,
            (value ->> 4)::bigint, $2, (value ->> 5)::bigint
        FROM jsonb_array_elements($3::jsonb)",
};
const CLIENTS: Sql = Sql {
    sqlite: "SELECT c.id, c.name, coalesce(c.policy_id, r.policy_id) AS policy
        FROM clients c CROSS JOIN rings r WHERE r.id = $1 AND c.name IN (SELECT value FROM json_each($2))",
    postgres: "SELECT c.id, c.name, coalesce(c.policy_id, r.policy_id) AS policy
        FROM clients c CROSS JOIN rings r
        WHERE r.id = $1 AND c.name IN (SELECT jsonb_array_elements_text($2::jsonb))",
};
const TAKEN: Sql = Sql {
    sqlite: "SELECT v.digest, v.state, c.name AS client, k.scopes, k.expires_at FROM versions v
        JOIN keys k ON k.id = v.key_id JOIN clients c ON c.id = k.client_id
        WHERE v.ring_id = $1 AND v.digest IN (SELECT unhex(value) FROM json_each($2))",
    postgres: "SELECT v.digest, v.state, c.name AS client, k.scopes, k.expires_at FROM versions v
        JOIN keys k ON k.id = v.key_id JOIN clients c ON c.id = k.client_id
        WHERE v.ring_id = $1
            AND v.digest IN (SELECT decode(jsonb_array_elements_text($2::jsonb), 'hex'))",
};
const COMPROMISED: Sql = Sql {
    sqlite: "SELECT digest FROM compromised_digests WHERE digest IN (SELECT unhex(value) FROM json_each($1))",
    postgres: "SELECT digest FROM compromised_digests
        WHERE digest IN (SELECT decode(jsonb_array_elements_text($1::jsonb), 'hex'))",
};

/// An item at its place among all.
type Item<'a> = (usize, &'a ImportItem);

/// An item with the ids that its key and its version will have.
struct Arriving<'a> {
    at: usize,
    item: &'a ImportItem,
    key: String,
    version: VersionId,
}

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
        let mut once = Vec::with_capacity(items.len());
        for (at, item) in items {
            if seen.insert(item.digest) {
                once.push((*at, *item));
            } else {
                let detail = "an earlier item has this digest".to_owned();
                report.refused.push(RefusedItem {
                    item: *at as u64,
                    reason: ImportRefusal::Repeated,
                    detail,
                });
            }
        }
        for items in arrange(once, context.now)?.chunks(TOGETHER) {
            let mut change = self.begin(context).await?;
            let import =
                Importing { ring: change.main_ring_id(ring).await?, create_clients, report: &mut report };
            let imported = import.run(&mut change, items).await?;
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

/// Puts items where few pages of the database are touched for them. Ids are in the order of digests, so that whoever
/// reads a page of the ring finds its keys beside each other; what is written together is of few clients.
fn arrange(mut items: Vec<Item<'_>>, now: Millis) -> Result<Vec<Arriving<'_>>, NoRandomness> {
    items.sort_unstable_by_key(|(_, item)| item.digest);
    let mut keys = items.iter().map(|_| ids::new("key", now)).collect::<Result<Vec<_>, _>>()?;
    let mut versions = items.iter().map(|_| ids::new_version(now)).collect::<Result<Vec<_>, _>>()?;
    keys.sort_unstable();
    versions.sort_unstable();
    let ids = keys.into_iter().zip(versions);
    let arriving = items.into_iter().zip(ids);
    let mut arriving: Vec<_> =
        arriving.map(|((at, item), (key, version))| Arriving { at, item, key, version }).collect();
    arriving.sort_by(|a, b| a.item.client.cmp(&b.item.client));
    Ok(arriving)
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
    async fn run(self, change: &mut Change<'_>, items: &[Arriving<'_>]) -> Result<bool, StoreError> {
        let clients = self.clients(change, items).await?;
        let mut taken = change.taken(self.ring, items).await?;
        let compromised = change.compromised(items).await?;
        let mut rows = Vec::with_capacity(items.len());
        for arriving in items {
            let item = arriving.item;
            let (reason, detail) = if compromised.contains(&item.digest) {
                (ImportRefusal::Compromised, Refusal::DigestCompromised(item.digest).to_string())
            } else if let Some((there, state)) = taken.remove(&item.digest) {
                let same = (&there.client, &there.scopes, expiry(&there));
                if state.is_denied() {
                    let state = state_name(state);
                    let detail = format!("it is there, and {state}: reinstate it, or make another key");
                    self.report.refused.push(RefusedItem {
                        item: arriving.at as u64,
                        reason: ImportRefusal::Ended,
                        detail,
                    });
                    continue;
                }
                if same == (&item.client, &item.scopes, expiry(item)) {
                    self.report.present = self.report.present.saturating_add(1);
                    continue;
                }
                (ImportRefusal::DigestTaken, Refusal::DigestTaken.to_string())
            } else if let Some(client) = clients.get(item.client.as_str()) {
                rows.push((arriving, *client));
                continue;
            } else {
                let refusal = Refusal::NotFound { what: "client", name: item.client.clone() };
                (ImportRefusal::UnknownClient, refusal.to_string())
            };
            self.report.refused.push(RefusedItem { item: arriving.at as u64, reason, detail });
        }
        if rows.is_empty() {
            return Ok(false);
        }
        let count = rows.len() as u64;
        // To a canary and its main ring at once: these keys are in use elsewhere, and whoever moves a million of them
        // over is not to find half of the proxies without.
        let (last, ahead) = change.runs_of_revisions(self.ring, count).await?;
        let first = last.saturating_sub(count);
        let ahead = ahead.map(|last| last.saturating_sub(count));
        let now = int(change.now().0);
        let mut revision = first;
        let (mut keys, mut versions) = (Vec::with_capacity(rows.len()), Vec::with_capacity(rows.len()));
        for (Arriving { item, key, version, .. }, client) in &rows {
            revision = revision.saturating_add(1);
            // The scheduler plans those that follow a policy, a few at a time.
            let look_at = client.follows.then_some(now);
            keys.push(json!([key, client.id, json!(item.scopes).to_string(), expiry(item), look_at]));
            let ahead = ahead
                .map(|first| int(first.saturating_add(revision.saturating_sub(last.saturating_sub(count)))));
            versions.push(json!([version.as_str(), key, item.digest, expiry(item), int(revision), ahead]));
        }
        for (sql, rows) in [(&INSERT_KEYS, keys), (&INSERT_VERSIONS, versions)] {
            let insert = sqlx::query(change.dialect().pick(sql));
            insert.bind(self.ring).bind(now).bind(json!(rows).to_string()).execute(&mut *change.tx).await?;
        }
        let names: BTreeSet<_> = rows.iter().map(|(arriving, _)| arriving.item.client.as_str()).collect();
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
        items: &[Arriving<'_>],
    ) -> Result<BTreeMap<String, Owner>, StoreError> {
        let names: BTreeSet<&str> = items.iter().map(|arriving| arriving.item.client.as_str()).collect();
        let mut found = BTreeMap::new();
        let query =
            sqlx::query(change.dialect().pick(&CLIENTS)).bind(self.ring).bind(json!(names).to_string());
        for row in query.fetch_all(&mut *change.tx).await? {
            let policy: Option<i64> = row.try_get("policy")?;
            let owner = Owner { id: row.try_get("id")?, follows: policy.is_some() };
            found.insert(row.try_get::<String, _>("name")?, owner);
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
        items: &[Arriving<'_>],
    ) -> Result<BTreeMap<Digest, (ImportItem, State)>, StoreError> {
        let mut found = BTreeMap::new();
        let query = sqlx::query(self.dialect().pick(&TAKEN)).bind(ring).bind(digests(items));
        for row in query.fetch_all(&mut *self.tx).await? {
            let item = ImportItem {
                digest: digest(&row, "digest")?,
                client: row.try_get("client")?,
                scopes: super::rows::json(row.try_get("scopes")?)?,
                expires_at: super::rows::optional_timestamp(&row, "expires_at")?,
            };
            found.insert(item.digest, (item, word(&row, "state")?));
        }
        Ok(found)
    }

    async fn compromised(&mut self, items: &[Arriving<'_>]) -> Result<BTreeSet<Digest>, StoreError> {
        let query = sqlx::query(self.dialect().pick(&COMPROMISED)).bind(digests(items));
        let rows = query.fetch_all(&mut *self.tx).await?;
        rows.iter().map(|row| digest(row, "digest")).collect()
    }
}

fn digests(items: &[Arriving<'_>]) -> String {
    json!(items.iter().map(|arriving| arriving.item.digest).collect::<Vec<_>>()).to_string()
}

fn expiry(item: &ImportItem) -> Option<i64> {
    item.expires_at.and_then(time::millis).map(|at| int(at.0))
}
