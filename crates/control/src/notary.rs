//! Signs how far the audit trail went, with the signing key of the first ring.
//!
//! That key and no other, because its public half is pinned in the configuration of every proxy: whoever
//! alters the database cannot put another in its place unnoticed. No ring document begins as
//! what is signed here does, so neither passes for the other.

use std::sync::Arc;

use keywheel_api::audit::{Chain, Checkpoint, Fault, Head};
use keywheel_api::time::timestamp;
use keywheel_keyring::Millis;
use tracing::{error, info};

use crate::signers::Signers;
use crate::store::{Store, StoreError};

const PAGE: u32 = 500;

/// Whoever signs checkpoints.
#[derive(Debug)]
pub struct Notary {
    store: Arc<Store>,
    signers: Arc<Signers>,
    /// Whose signing key it is.
    ring: i64,
}

impl Notary {
    #[must_use]
    pub const fn new(store: Arc<Store>, signers: Arc<Signers>, ring: i64) -> Self {
        Self { store, signers, ring }
    }

    /// A checkpoint over all records that there are: a new one, unless the last one covers them.
    ///
    /// # Errors
    ///
    /// [`StoreError`].
    pub async fn sign(&self, now: Millis) -> Result<Checkpoint, StoreError> {
        let last = self.store.last_checkpoint().await?;
        let covered = last.as_ref().map_or(Head::START, Checkpoint::head);
        let head = self.store.audit_head().await?;
        if let Some(last) = last.filter(|_| covered == head) {
            return Ok(last);
        }
        if let Err(fault) = self.look(covered, head).await? {
            // Signed all the same: a signature does not hide what is wrong before it, and what comes
            // after it shall be covered.
            error!(%fault, "The audit trail is not whole: {fault}. Run `keywheel audit verify`");
        }
        let signer = self.store.standing(self.ring).await?.signer;
        let key = self.signers.key(&signer).await?;
        let checkpoint = Checkpoint::sign(head, timestamp(now), &key);
        self.store.keep_checkpoint(&checkpoint).await?;
        // Whoever alters the database can take its checkpoints away, and not what a log elsewhere has.
        info!(
            seq = checkpoint.seq,
            hash = %checkpoint.hash,
            signer,
            "The audit trail is signed up to record {}, whose hash is {}",
            checkpoint.seq,
            checkpoint.hash,
        );
        Ok(checkpoint)
    }

    /// Whether the trail goes on from `covered` to `head`.
    async fn look(&self, covered: Head, head: Head) -> Result<Result<(), Fault>, StoreError> {
        if head.seq < covered.seq {
            return Ok(Err(Fault::CutOff { from: head.seq.saturating_add(1), to: covered.seq }));
        }
        if head.seq == covered.seq {
            return Ok(Err(Fault::Rewritten { from: 1, to: head.seq }));
        }
        let mut chain = Chain::new(covered);
        while chain.head().seq < head.seq {
            let records = self.store.audit_records(chain.head().seq, PAGE).await?;
            if records.is_empty() {
                break;
            }
            for record in &records {
                if let Err(fault) = chain.follow(record) {
                    return Ok(Err(fault));
                }
            }
        }
        Ok(Ok(()))
    }
}
