use keywheel_api::time::{millis, timestamp};
use keywheel_api::{Role, Token};
use keywheel_keyring::Millis;
use serde_json::json;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Row as _};

use super::change::{Change, Context};
use super::rows::{int, optional_time, optional_timestamp, time, uint};
use super::{Refusal, Store, StoreError};
use crate::ids;
use crate::secret::HashedToken;

/// `$1` is now: a secret whose overlap is over is as good as gone.
const TOKEN: &str =
    "SELECT t.id, t.name, t.role, t.rings, t.created_at, t.expires_at, t.revoked_at, t.last_used_at,
    (SELECT max(s.expires_at) FROM token_secrets s WHERE s.token_id = t.id AND s.expires_at > $1)
        AS old_secret_expires_at
    FROM tokens t ";

/// A token to make.
#[derive(Debug, Clone)]
pub struct NewToken {
    pub role: Role,
    pub name: String,
    /// All rings when absent.
    pub rings: Option<Vec<String>>,
    pub expires_at: Option<Millis>,
    pub hash: HashedToken,
}

/// What a presented secret is of.
#[derive(Debug, Clone)]
pub struct Bearer {
    pub token: String,
    pub role: Role,
    /// All rings when absent.
    pub rings: Option<Vec<String>>,
    pub last_used_at: Option<Millis>,
    pub ended: Option<TokenEnd>,
}

/// Why a genuine secret is not valid any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenEnd {
    Revoked,
    Expired,
    /// A rotation replaced the secret, and its overlap is over.
    Rotated,
}

impl NewToken {
    /// An admin token that reaches all rings and never expires.
    #[must_use]
    pub fn admin(name: &str, hash: HashedToken) -> Self {
        Self { role: Role::Admin, name: name.to_owned(), rings: None, expires_at: None, hash }
    }
}

impl Store {
    /// Keeps a token, and of its secret the hash.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`] for one of its rings.
    pub async fn create_token(&self, context: &Context, new: &NewToken) -> Result<Token, StoreError> {
        let mut change = self.begin(context).await?;
        let token = change.insert_token(new).await?;
        change.commit().await?;
        Ok(token)
    }

    /// Whose secret has this hash, valid or not.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn bearer(&self, hash: HashedToken, now: Millis) -> Result<Option<Bearer>, StoreError> {
        let row = sqlx::query(
            "SELECT t.id, t.role, t.rings, t.expires_at, t.revoked_at, t.last_used_at,
                 s.expires_at AS secret_expires_at
             FROM token_secrets s JOIN tokens t ON t.id = s.token_id WHERE s.hash = $1",
        )
        .bind(hash.as_bytes().to_vec())
        .fetch_optional(self.db.readers())
        .await?;
        let Some(row) = row else { return Ok(None) };
        let over = |column| Ok::<_, StoreError>(optional_time(&row, column)?.is_some_and(|at| at <= now));
        let ended = if optional_time(&row, "revoked_at")?.is_some() {
            Some(TokenEnd::Revoked)
        } else if over("expires_at")? {
            Some(TokenEnd::Expired)
        } else if over("secret_expires_at")? {
            Some(TokenEnd::Rotated)
        } else {
            None
        };
        Ok(Some(Bearer {
            token: row.try_get("id")?,
            role: role(&row)?,
            rings: rings(&row)?,
            last_used_at: optional_time(&row, "last_used_at")?,
            ended,
        }))
    }

    /// # Errors
    ///
    /// [`Refusal::NotFound`].
    pub async fn token(&self, id: &str, now: Millis) -> Result<Token, StoreError> {
        load(&mut *self.db.readers().acquire().await?, id, now).await
    }

    /// Up to `limit` tokens in the order of their ids, after `after`, ended ones included.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn tokens(&self, after: &str, limit: u32, now: Millis) -> Result<Vec<Token>, StoreError> {
        let sql = format!("{TOKEN} WHERE t.id > $2 ORDER BY t.id LIMIT $3");
        let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(int(now.0))
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(self.db.readers())
            .await?;
        rows.iter().map(token).collect()
    }

    /// Ends a token now. Revoking twice is revoking once.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`], or [`Refusal::LastAdmin`].
    pub async fn revoke_token(&self, context: &Context, id: &str) -> Result<Token, StoreError> {
        let mut change = self.begin(context).await?;
        let before = load(&mut change.tx, id, context.now).await?;
        if before.revoked_at.is_some() {
            return Ok(before);
        }
        sqlx::query("UPDATE tokens SET revoked_at = $1 WHERE id = $2")
            .bind(int(context.now.0))
            .bind(id)
            .execute(&mut *change.tx)
            .await?;
        let after = change.audit_token("token.revoke", &before).await?;
        // Changes wait in line: of two that each revoke one of the last two, the second counts what the first left.
        if before.role == Role::Admin && change.standing_admins().await? == 0 {
            return Err(Refusal::LastAdmin(before.id).into());
        }
        change.commit().await?;
        Ok(after)
    }

    /// Gives a token another secret. The present one is valid until `overlap` milliseconds from now; one from before
    /// a rotation keeps its deadline, if that is earlier.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotFound`], or [`Refusal::TokenEnded`].
    pub async fn rotate_token(
        &self,
        context: &Context,
        id: &str,
        hash: HashedToken,
        overlap: u64,
    ) -> Result<Token, StoreError> {
        let mut change = self.begin(context).await?;
        let before = load(&mut change.tx, id, context.now).await?;
        let expired = before.expires_at.and_then(millis).is_some_and(|at| at <= context.now);
        if before.revoked_at.is_some() || expired {
            return Err(Refusal::TokenEnded(before.id).into());
        }
        let until = int(context.now.0.saturating_add(overlap));
        sqlx::query(
            "UPDATE token_secrets SET expires_at = $1
             WHERE token_id = $2 AND (expires_at IS NULL OR expires_at > $1)",
        )
        .bind(until)
        .bind(id)
        .execute(&mut *change.tx)
        .await?;
        change.insert_secret(id, hash).await?;
        let after = change.audit_token("token.rotate", &before).await?;
        change.commit().await?;
        Ok(after)
    }

    /// Notes that a token was used. No state change: it has no audit record.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn note_token_use(&self, id: &str, at: Millis) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE tokens SET last_used_at = $1 WHERE id = $2 AND (last_used_at IS NULL OR last_used_at < $1)",
        )
        .bind(int(at.0))
        .bind(id)
        .execute(self.db.writer())
        .await?;
        Ok(())
    }
}

impl Change<'_> {
    pub(super) async fn insert_token(&mut self, new: &NewToken) -> Result<Token, StoreError> {
        for ring in new.rings.iter().flatten() {
            self.ring_id(ring).await?;
        }
        let id = ids::new("token", self.now())?;
        sqlx::query(
            "INSERT INTO tokens (id, name, role, rings, created_at, expires_at) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(&id)
        .bind(&new.name)
        .bind(new.role.as_str())
        .bind(new.rings.as_ref().map(|rings| json!(rings).to_string()))
        .bind(int(self.now().0))
        .bind(new.expires_at.map(|at| int(at.0)))
        .execute(&mut *self.tx)
        .await?;
        self.insert_secret(&id, new.hash).await?;
        let now = self.now();
        let token = load(&mut self.tx, &id, now).await?;
        self.audit("token.create", &id, None, Some(json!(token))).await?;
        Ok(token)
    }

    async fn insert_secret(&mut self, token: &str, hash: HashedToken) -> Result<(), StoreError> {
        sqlx::query("INSERT INTO token_secrets (hash, token_id) VALUES ($1, $2)")
            .bind(hash.as_bytes().to_vec())
            .bind(token)
            .execute(&mut *self.tx)
            .await?;
        Ok(())
    }

    async fn audit_token(&mut self, action: &'static str, before: &Token) -> Result<Token, StoreError> {
        let now = self.now();
        let after = load(&mut self.tx, &before.id, now).await?;
        self.audit(action, &before.id, Some(json!(before)), Some(json!(after))).await?;
        Ok(after)
    }

    /// How many admin tokens reach all rings and will never end by themselves.
    async fn standing_admins(&mut self) -> Result<u64, StoreError> {
        let count = sqlx::query_scalar(
            "SELECT count(*) FROM tokens
             WHERE role = 'admin' AND rings IS NULL AND expires_at IS NULL AND revoked_at IS NULL",
        );
        Ok(uint(count.fetch_one(&mut *self.tx).await?))
    }
}

async fn load(connection: &mut AnyConnection, id: &str, now: Millis) -> Result<Token, StoreError> {
    let row = sqlx::query(sqlx::AssertSqlSafe(format!("{TOKEN} WHERE t.id = $2")))
        .bind(int(now.0))
        .bind(id)
        .fetch_optional(connection)
        .await?;
    token(&row.ok_or_else(|| Refusal::NotFound { what: "token", name: id.to_owned() })?)
}

fn token(row: &AnyRow) -> Result<Token, StoreError> {
    Ok(Token {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        role: role(row)?,
        rings: rings(row)?,
        created_at: timestamp(time(row, "created_at")?),
        expires_at: optional_timestamp(row, "expires_at")?,
        revoked_at: optional_timestamp(row, "revoked_at")?,
        last_used_at: optional_timestamp(row, "last_used_at")?,
        old_secret_expires_at: optional_timestamp(row, "old_secret_expires_at")?,
    })
}

fn role(row: &AnyRow) -> Result<Role, StoreError> {
    let role: &str = row.try_get("role")?;
    role.parse().map_err(|_| StoreError::Corrupt(format!("the role `{role}`")))
}

fn rings(row: &AnyRow) -> Result<Option<Vec<String>>, StoreError> {
    let rings: Option<&str> = row.try_get("rings")?;
    let read =
        |rings| serde_json::from_str(rings).map_err(|_| StoreError::Corrupt("the rings of a token".into()));
    rings.map(read).transpose()
}
