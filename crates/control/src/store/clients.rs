use keywheel_api::time::timestamp;
use keywheel_api::{Client, CreateClient, UpdateClient, labels};
use serde_json::json;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::change::{Change, Context};
use super::keys::{bind_labels, label_conditions};
use super::rows::{self, int, time};
use super::sweeps::Sweep;
use super::{Refusal, Store, StoreError, unless_taken};

const CLIENT: &str = "SELECT c.name, c.owner, c.contact, c.labels, c.created_at, p.name AS policy
    FROM clients c LEFT JOIN policies p ON p.id = c.policy_id ";

impl Store {
    /// # Errors
    ///
    /// [`Refusal::ClientExists`], unless the existing client is exactly the one asked for.
    pub async fn create_client(
        &self,
        context: &Context,
        new: &CreateClient,
    ) -> Result<(Client, bool), StoreError> {
        let mut change = self.begin(context).await?;
        if let Some(existing) = change.client(&new.name).await? {
            let same = (&existing.owner, &existing.contact) == (&new.owner, &new.contact)
                && (&existing.labels, &existing.policy) == (&new.labels, &new.policy);
            return if same {
                Ok((existing, false))
            } else {
                Err(Refusal::ClientExists(new.name.clone()).into())
            };
        }
        let policy = change.policy_id(new.policy.as_deref()).await?;
        sqlx::query(
            "INSERT INTO clients (name, owner, contact, created_at, labels, policy_id)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(&new.name)
        .bind(&new.owner)
        .bind(&new.contact)
        .bind(int(context.now.0))
        .bind(json!(new.labels).to_string())
        .bind(policy)
        .execute(&mut *change.tx)
        .await
        .map_err(|error| unless_taken(error, || Refusal::ClientExists(new.name.clone())))?;
        let CreateClient { name, owner, contact, labels, policy } = new.clone();
        let client = Client { name, owner, contact, labels, policy, created_at: timestamp(context.now) };
        change.audit("client.create", &client.name, None, Some(json!(client))).await?;
        change.commit().await?;
        Ok((client, true))
    }

    /// Changes what is named.
    ///
    /// # Errors
    ///
    /// [`Refusal`]: no such client or policy, or the labels would break a rule.
    pub async fn update_client(
        &self,
        context: &Context,
        name: &str,
        update: &UpdateClient,
    ) -> Result<Client, StoreError> {
        let mut change = self.begin(context).await?;
        let id = change.client_id(name).await?;
        let missing = || StoreError::Corrupt(format!("client {name} is gone"));
        let before = change.client(name).await?.ok_or_else(missing)?;
        let after = Client {
            owner: update.owner.clone().unwrap_or_else(|| before.owner.clone()),
            contact: update.contact.clone().unwrap_or_else(|| before.contact.clone()),
            labels: labels::changed(&before.labels, &update.labels).ok_or(Refusal::Labels)?,
            policy: update.policy.clone().unwrap_or_else(|| before.policy.clone()),
            ..before.clone()
        };
        if after == before {
            return Ok(after);
        }
        let policy = change.policy_id(after.policy.as_deref()).await?;
        sqlx::query("UPDATE clients SET owner = $1, contact = $2, labels = $3, policy_id = $4 WHERE id = $5")
            .bind(&after.owner)
            .bind(&after.contact)
            .bind(json!(after.labels).to_string())
            .bind(policy)
            .bind(id)
            .execute(&mut *change.tx)
            .await?;
        if after.policy != before.policy {
            change.look_at_keys(Sweep::Client, id).await?;
        }
        change.audit("client.update", name, Some(json!(before)), Some(json!(after))).await?;
        change.commit().await?;
        Ok(after)
    }

    /// # Errors
    ///
    /// [`Refusal::NotFound`].
    pub async fn client(&self, name: &str) -> Result<Client, StoreError> {
        let sql = sqlx::AssertSqlSafe(format!("{CLIENT} WHERE c.name = $1"));
        let row = sqlx::query(sql).bind(name).fetch_optional(self.db.readers()).await?;
        let row = row.ok_or_else(|| Refusal::NotFound { what: "client", name: name.to_owned() })?;
        client(&row)
    }

    /// Up to `limit` clients that have these labels, in the order of their names, after `after`.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn clients(
        &self,
        labels: &[(String, Option<String>)],
        after: &str,
        limit: u32,
    ) -> Result<Vec<Client>, StoreError> {
        let labelled = label_conditions(self.db.dialect, "c", labels, 3);
        let sql = format!("{CLIENT} WHERE c.name > $1{labelled} ORDER BY c.name LIMIT $2");
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(after).bind(i64::from(limit));
        let rows = bind_labels(query, labels).fetch_all(self.db.readers()).await?;
        rows.iter().map(client).collect()
    }
}

impl Change<'_> {
    pub(super) async fn client(&mut self, name: &str) -> Result<Option<Client>, StoreError> {
        let sql = sqlx::AssertSqlSafe(format!("{CLIENT} WHERE c.name = $1"));
        let row = sqlx::query(sql).bind(name).fetch_optional(&mut *self.tx).await?;
        row.as_ref().map(client).transpose()
    }
}

fn client(row: &AnyRow) -> Result<Client, StoreError> {
    Ok(Client {
        name: row.try_get("name")?,
        owner: row.try_get("owner")?,
        contact: row.try_get("contact")?,
        labels: rows::json(row.try_get("labels")?)?,
        policy: row.try_get("policy")?,
        created_at: timestamp(time(row, "created_at")?),
    })
}
