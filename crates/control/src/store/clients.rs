use keywheel_api::time::timestamp;
use keywheel_api::{Client, CreateClient};
use serde_json::json;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::change::Context;
use super::rows::{int, time};
use super::{Refusal, Store, StoreError, unless_taken};

const CLIENT: &str = "SELECT name, owner, contact, created_at FROM clients ";

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
        let existing = sqlx::query(sqlx::AssertSqlSafe(format!("{CLIENT} WHERE name = $1")))
            .bind(&new.name)
            .fetch_optional(&mut *change.tx)
            .await?;
        if let Some(existing) = existing {
            let existing = client(&existing)?;
            let same = existing.owner == new.owner && existing.contact == new.contact;
            return if same {
                Ok((existing, false))
            } else {
                Err(Refusal::ClientExists(new.name.clone()).into())
            };
        }
        sqlx::query("INSERT INTO clients (name, owner, contact, created_at) VALUES ($1, $2, $3, $4)")
            .bind(&new.name)
            .bind(&new.owner)
            .bind(&new.contact)
            .bind(int(context.now.0))
            .execute(&mut *change.tx)
            .await
            .map_err(|error| unless_taken(error, || Refusal::ClientExists(new.name.clone())))?;
        let CreateClient { name, owner, contact } = new.clone();
        let client = Client { name, owner, contact, created_at: timestamp(context.now) };
        change.audit("client.create", &client.name, None, Some(json!(client))).await?;
        change.commit().await?;
        Ok((client, true))
    }

    /// Up to `limit` clients in the order of their names, after `after`.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn clients(&self, after: &str, limit: u32) -> Result<Vec<Client>, StoreError> {
        let rows =
            sqlx::query(sqlx::AssertSqlSafe(format!("{CLIENT} WHERE name > $1 ORDER BY name LIMIT $2")))
                .bind(after)
                .bind(i64::from(limit))
                .fetch_all(self.db.readers())
                .await?;
        rows.iter().map(client).collect()
    }
}

fn client(row: &AnyRow) -> Result<Client, StoreError> {
    Ok(Client {
        name: row.try_get("name")?,
        owner: row.try_get("owner")?,
        contact: row.try_get("contact")?,
        created_at: timestamp(time(row, "created_at")?),
    })
}
