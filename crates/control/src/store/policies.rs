use keywheel_api::time::timestamp;
use keywheel_api::{CreatePolicy, Policy, Terms};
use serde_json::json;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use super::change::{Change, Context};
use super::rows::{int, json as parse, time};
use super::sweeps::Sweep;
use super::{Refusal, Store, StoreError, unless_taken};

const POLICY: &str = "SELECT id, name, terms, created_at, updated_at FROM policies ";

impl Store {
    /// # Errors
    ///
    /// [`Refusal::PolicyExists`], unless the existing policy is exactly the one asked for.
    pub async fn create_policy(
        &self,
        context: &Context,
        new: &CreatePolicy,
    ) -> Result<(Policy, bool), StoreError> {
        let mut change = self.begin(context).await?;
        if let Some((_, existing)) = change.policy(&new.name).await? {
            return if existing.terms == new.terms {
                Ok((existing, false))
            } else {
                Err(Refusal::PolicyExists(new.name.clone()).into())
            };
        }
        sqlx::query("INSERT INTO policies (name, terms, created_at, updated_at) VALUES ($1, $2, $3, $3)")
            .bind(&new.name)
            .bind(json!(new.terms).to_string())
            .bind(int(context.now.0))
            .execute(&mut *change.tx)
            .await
            .map_err(|error| unless_taken(error, || Refusal::PolicyExists(new.name.clone())))?;
        let at = timestamp(context.now);
        let CreatePolicy { name, terms } = new.clone();
        let policy = Policy { name, terms, created_at: at, updated_at: at };
        change.audit("policy.create", &policy.name, None, Some(json!(policy))).await?;
        change.commit().await?;
        Ok((policy, true))
    }

    /// Gives a policy other terms. Every key that follows it is planned anew; a rotation that is open keeps the
    /// terms that it began with.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`].
    pub async fn update_policy(
        &self,
        context: &Context,
        name: &str,
        terms: &Terms,
    ) -> Result<Policy, StoreError> {
        let mut change = self.begin(context).await?;
        let (id, before) = change.found_policy(name).await?;
        if before.terms == *terms {
            return Ok(before);
        }
        sqlx::query("UPDATE policies SET terms = $1, updated_at = $2 WHERE id = $3")
            .bind(json!(terms).to_string())
            .bind(int(context.now.0))
            .bind(id)
            .execute(&mut *change.tx)
            .await?;
        change.look_at_followers(id).await?;
        let after = Policy { terms: terms.clone(), updated_at: timestamp(context.now), ..before.clone() };
        change.audit("policy.update", name, Some(json!(before)), Some(json!(after))).await?;
        change.commit().await?;
        Ok(after)
    }

    /// # Errors
    ///
    /// [`Refusal`]: no such policy, or it is in use.
    pub async fn delete_policy(&self, context: &Context, name: &str) -> Result<Policy, StoreError> {
        let mut change = self.begin(context).await?;
        let (id, policy) = change.found_policy(name).await?;
        let used: i32 = sqlx::query_scalar(
            "SELECT CAST(CASE WHEN EXISTS (SELECT 1 FROM keys WHERE policy_id = $1)
                 OR EXISTS (SELECT 1 FROM clients WHERE policy_id = $1)
                 OR EXISTS (SELECT 1 FROM rings WHERE policy_id = $1) THEN 1 ELSE 0 END AS INTEGER)",
        )
        .bind(id)
        .fetch_one(&mut *change.tx)
        .await?;
        if used != 0 {
            return Err(Refusal::PolicyInUse(policy.name).into());
        }
        sqlx::query("DELETE FROM policies WHERE id = $1").bind(id).execute(&mut *change.tx).await?;
        change.audit("policy.delete", name, Some(json!(policy)), None).await?;
        change.commit().await?;
        Ok(policy)
    }

    /// # Errors
    ///
    /// [`Refusal::NotFound`].
    pub async fn policy(&self, name: &str) -> Result<Policy, StoreError> {
        let row = sqlx::query(sqlx::AssertSqlSafe(format!("{POLICY} WHERE name = $1")))
            .bind(name)
            .fetch_optional(self.db.readers())
            .await?;
        let row = row.ok_or_else(|| Refusal::NotFound { what: "policy", name: name.to_owned() })?;
        policy(&row)
    }

    /// Up to `limit` policies in the order of their names, after `after`.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn policies(&self, after: &str, limit: u32) -> Result<Vec<Policy>, StoreError> {
        let sql = format!("{POLICY} WHERE name > $1 ORDER BY name LIMIT $2");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(self.db.readers())
            .await?;
        rows.iter().map(policy).collect()
    }

    /// What the keys of a ring follow that have no policy of their own or of their client.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn ring_policy(&self, ring: i64) -> Result<Option<String>, StoreError> {
        let name = sqlx::query_scalar(
            "SELECT p.name FROM rings r JOIN policies p ON p.id = r.policy_id WHERE r.id = $1",
        );
        Ok(name.bind(ring).fetch_optional(self.db.readers()).await?)
    }

    /// # Errors
    ///
    /// [`Refusal::NotFound`] for the ring or the policy.
    pub async fn set_ring_policy(
        &self,
        context: &Context,
        ring: &str,
        policy: Option<&str>,
    ) -> Result<(), StoreError> {
        let mut change = self.begin(context).await?;
        let ring_id = change.main_ring_id(ring).await?;
        let before: Option<String> = sqlx::query_scalar(
            "SELECT p.name FROM rings r JOIN policies p ON p.id = r.policy_id WHERE r.id = $1",
        )
        .bind(ring_id)
        .fetch_optional(&mut *change.tx)
        .await?;
        if before.as_deref() == policy {
            return Ok(());
        }
        let id = change.policy_id(policy).await?;
        sqlx::query("UPDATE rings SET policy_id = $1 WHERE id = $2")
            .bind(id)
            .bind(ring_id)
            .execute(&mut *change.tx)
            .await?;
        change.look_at_keys(Sweep::Ring, ring_id).await?;
        let (before, after) = (json!({ "policy": before }), json!({ "policy": policy }));
        change.audit("ring.set-policy", ring, Some(before), Some(after)).await?;
        change.commit().await
    }
}

impl Change<'_> {
    /// # Errors
    ///
    /// [`Refusal::NotFound`].
    pub(super) async fn policy_id(&mut self, name: Option<&str>) -> Result<Option<i64>, StoreError> {
        match name {
            Some(name) => Ok(Some(self.found_policy(name).await?.0)),
            None => Ok(None),
        }
    }

    /// The terms of the policy that a key follows: its own, its client's or its ring's.
    pub(super) async fn terms(&mut self, key: &str) -> Result<Option<Terms>, StoreError> {
        Ok(followed(&mut self.tx, key).await?.map(|(_, terms)| terms))
    }

    pub(super) async fn policy(&mut self, name: &str) -> Result<Option<(i64, Policy)>, StoreError> {
        let sql = sqlx::AssertSqlSafe(format!("{POLICY} WHERE name = $1"));
        let row = sqlx::query(sql).bind(name).fetch_optional(&mut *self.tx).await?;
        row.map(|row| Ok((row.try_get("id")?, policy(&row)?))).transpose()
    }

    async fn found_policy(&mut self, name: &str) -> Result<(i64, Policy), StoreError> {
        let found = self.policy(name).await?;
        Ok(found.ok_or_else(|| Refusal::NotFound { what: "policy", name: name.to_owned() })?)
    }
}

/// The name and the terms of the policy that a key follows: its own, its client's or its ring's.
pub(super) async fn followed(
    connection: &mut AnyConnection,
    key: &str,
) -> Result<Option<(String, Terms)>, StoreError> {
    let row = sqlx::query(
        "SELECT f.name, f.terms FROM keys k JOIN clients c ON c.id = k.client_id
         JOIN rings r ON r.id = k.ring_id
         JOIN policies f ON f.id = coalesce(k.policy_id, c.policy_id, r.policy_id) WHERE k.id = $1",
    )
    .bind(key)
    .fetch_optional(connection)
    .await?;
    row.map(|row| Ok((row.try_get("name")?, parse(row.try_get("terms")?)?))).transpose()
}

fn policy(row: &AnyRow) -> Result<Policy, StoreError> {
    Ok(Policy {
        name: row.try_get("name")?,
        terms: parse(row.try_get("terms")?)?,
        created_at: timestamp(time(row, "created_at")?),
        updated_at: timestamp(time(row, "updated_at")?),
    })
}
