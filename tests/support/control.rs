use std::collections::BTreeMap;

use keywheel_filter::refresh::Call;
use keywheel_keyring::usage::{Batch, Report};
use keywheel_keyring::{Digest, Document, Entry, Epoch, Kind, Millis, PublicKey, SigningKey};

/// A fake control plane: a plain map of entries, from which it cuts signed documents.
pub struct FakeControl {
    pub entries: BTreeMap<Digest, Entry>,
    pub revision: u64,
    pub page_size: usize,
    /// Where it says that the page behind the next one begins, if it is wrong about it.
    pub wrong_guess: Option<Digest>,
    /// The paths that were asked for, in their order.
    pub asked: Vec<String>,
    epoch: u8,
    signing: SigningKey,
    removed: BTreeMap<u64, Digest>,
    /// Changes before this revision are forgotten: 410.
    horizon: u64,
    issued: u64,
    /// Every usage batch that arrived, by VM and number; and how often one came again.
    pub batches: BTreeMap<(String, u64), Batch>,
    pub repeats: u64,
    /// How usage is answered: 204, or not taken.
    pub usage_status: u16,
    pub refused_reports: u64,
    /// Every document it ever cut, for replays.
    pub past: Vec<Signed>,
}

/// An answer as it travels.
#[derive(Debug, Clone)]
pub struct Signed {
    pub status: u16,
    pub signer: Option<String>,
    pub signature: Option<String>,
    pub ahead: Option<String>,
    pub body: Vec<u8>,
}

/// What can go wrong with an answer on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    Lost,
    Reset,
    Unavailable,
    Tampered,
    Truncated,
    Unsigned,
    /// An older answer comes in its place.
    Replayed,
    /// It comes twice.
    Repeated,
    /// It comes together with the next one.
    Late,
}

impl Signed {
    /// An answer that is no document.
    pub const fn bare(status: u16) -> Self {
        Self { status, signer: None, signature: None, ahead: None, body: Vec::new() }
    }
}

impl FakeControl {
    pub fn new() -> Self {
        Self {
            entries: BTreeMap::new(),
            revision: 0,
            page_size: 4,
            wrong_guess: None,
            asked: Vec::new(),
            epoch: 1,
            signing: SigningKey::from_seed([7; 32]),
            removed: BTreeMap::new(),
            horizon: 0,
            issued: 0,
            batches: BTreeMap::new(),
            repeats: 0,
            usage_status: 204,
            refused_reports: 0,
            past: Vec::new(),
        }
    }

    pub fn trust(&self) -> Vec<PublicKey> {
        vec![self.signing.public()]
    }

    pub fn sign_with(&mut self, seed: u8) {
        self.signing = SigningKey::from_seed([seed; 32]);
    }

    pub fn epoch(&self) -> Epoch {
        let mut bytes = [0; 16];
        bytes[15] = self.epoch;
        Epoch::from_bytes(bytes)
    }

    pub fn put(&mut self, entry: Entry) {
        self.revision += 1;
        self.entries.insert(entry.digest, Entry { revision: self.revision, ..entry });
    }

    pub fn remove(&mut self, digest: Digest) {
        if self.entries.remove(&digest).is_some() {
            self.revision += 1;
            self.removed.insert(self.revision, digest);
        }
    }

    /// Forgets old changes, so that a proxy that is behind needs a snapshot.
    pub fn compact(&mut self) {
        self.horizon = self.revision;
    }

    /// Starts a later epoch, in which revisions count from the beginning.
    pub fn new_epoch(&mut self) {
        self.epoch += 1;
        self.revision = 0;
        self.removed.clear();
        self.horizon = 0;
        for entry in self.entries.values_mut() {
            self.revision += 1;
            entry.revision = self.revision;
        }
    }

    /// Answers a call; `None` while it would be held open.
    pub fn answer(&mut self, call: &Call, wall: u64, waited: bool) -> Option<Signed> {
        if let Some(body) = &call.body {
            assert_eq!(call.path, "/v1/rings/production/usage");
            if self.usage_status == 204 {
                self.count(serde_json::from_slice(body).expect("a usage report"));
            } else {
                self.refused_reports += 1;
            }
            return Some(Signed::bare(self.usage_status));
        }
        self.asked.push(call.path.clone());
        let (path, query) = call.path.split_once('?').expect("calls have a query");
        let field = |name: &str| {
            query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned)
        };
        let mut ahead = None;
        let document = match path.strip_prefix("/v1/rings/production/").expect("one ring") {
            "snapshot" => {
                let page = self.page(field("after"), wall);
                ahead = self.wrong_guess.or_else(|| self.ahead(&page));
                page
            }
            "changes" => {
                let since: u64 = field("since").expect("since").parse().expect("a number");
                if field("epoch") != Some(self.epoch().to_string())
                    || since > self.revision
                    || since < self.horizon
                {
                    return Some(Signed::bare(410));
                }
                if since == self.revision && !waited && field("wait").as_deref() != Some("0") {
                    return None;
                }
                self.changes(since, wall)
            }
            other => panic!("no such call: {other}"),
        };
        let signed = Signed { ahead: ahead.map(|ahead| ahead.to_string()), ..self.sign(&document) };
        self.past.push(signed.clone());
        Some(signed)
    }

    fn count(&mut self, report: Report) {
        for batch in report.batches {
            assert_eq!(batch.check(), Ok(()));
            let before = self.batches.insert((batch.vm.clone(), batch.batch), batch.clone());
            if let Some(before) = before {
                assert_eq!(before, batch, "a batch never changes");
                self.repeats += 1;
            }
        }
    }

    /// How often a version had an outcome, by the batches that arrived.
    pub fn used(&self, version: &str, outcome: &str) -> u64 {
        let counts = self.batches.values().flat_map(|batch| &batch.counts);
        counts
            .filter(|count| count.version == version && count.outcome == outcome)
            .map(|count| count.count)
            .sum()
    }

    pub fn sign(&self, document: &Document) -> Signed {
        let body = serde_json::to_vec(document).expect("documents are JSON");
        Signed {
            status: 200,
            signer: Some(self.signing.public().id().to_string()),
            signature: Some(self.signing.sign(&body)),
            ahead: None,
            body,
        }
    }

    fn page(&mut self, after: Option<String>, wall: u64) -> Document {
        let after: Option<Digest> = after.map(|after| after.parse().expect("a digest"));
        let mut rest = self.entries.values().filter(|entry| after.is_none_or(|after| entry.digest > after));
        let entries: Vec<Entry> = rest.by_ref().take(self.page_size).cloned().collect();
        let through = rest.next().and_then(|_| entries.last()).map(|entry| entry.digest);
        self.document(Kind::Snapshot { after, through }, self.revision, entries, vec![], wall)
    }

    /// Where the page behind this one ends, unless it is the last.
    fn ahead(&self, page: &Document) -> Option<Digest> {
        let Kind::Snapshot { through: Some(through), .. } = page.kind else { return None };
        let mut rest = self.entries.keys().filter(|digest| **digest > through).skip(self.page_size - 1);
        rest.next().copied().filter(|_| rest.next().is_some())
    }

    fn changes(&mut self, since: u64, wall: u64) -> Document {
        let mut entries: Vec<Entry> =
            self.entries.values().filter(|entry| entry.revision > since).cloned().collect();
        entries.sort_by_key(|entry| entry.revision);
        let removed = self.removed.range(since + 1..).map(|(_, digest)| *digest).collect();
        self.document(Kind::Changes { since }, self.revision, entries, removed, wall)
    }

    fn document(
        &mut self,
        kind: Kind,
        revision: u64,
        entries: Vec<Entry>,
        removed: Vec<Digest>,
        wall: u64,
    ) -> Document {
        self.issued = wall.max(self.issued + 1);
        Document {
            ring: "production".into(),
            epoch: self.epoch(),
            kind,
            revision,
            issued_at: Millis(self.issued),
            expires_at: Millis(self.issued + 3_600_000),
            key_prefix: Some("kw_live_".into()),
            critical: vec![],
            entries,
            removed,
        }
    }
}
