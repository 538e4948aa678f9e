//! Whatever the order of changes, answers that are lost, restarts and files that went missing: no reader ever gets a
//! document that does not fit to what it has, and all of them come to have the ring.

use std::collections::BTreeMap;

use keywheel_keyring::generation::Position;
use keywheel_keyring::merge::{Ending, Plan, Rejection};
use keywheel_keyring::{Digest, Document, Epoch, Generation, Kind, Millis, SignerId};
use keywheel_relay::archive::{Archive, Ask, Changes, Dropped, Place, Unanswered};
use keywheel_relay::document::Facts;
use proptest::collection::vec;
use proptest::prelude::*;

const RING: &str = "production";
const HOUR: u64 = 3_600_000;
/// The most changes in one run.
const RUN: u64 = 3;

fn signer() -> SignerId {
    "0102030405060708".parse().unwrap()
}

fn epoch(number: u8) -> Epoch {
    Epoch::from_bytes([number; 16])
}

/// A control plane.
#[derive(Debug)]
struct Server {
    epoch: u8,
    head: u64,
    now: u64,
    /// Where pages end, but for the last.
    borders: Vec<Digest>,
}

impl Server {
    fn facts(&mut self, kind: Kind, revision: u64) -> Facts {
        self.now += 1;
        let (issued_at, expires_at) = (Millis(self.now), Millis(self.now + 24 * HOUR));
        Facts { epoch: epoch(self.epoch), kind, revision, issued_at, expires_at, signer: signer() }
    }

    /// `None` is 410.
    fn answer(&mut self, ask: Ask) -> Option<Facts> {
        match ask {
            Ask::Changes { epoch: asked, since, .. } => {
                if asked != epoch(self.epoch) || since > self.head {
                    return None;
                }
                Some(self.facts(Kind::Changes { since }, self.head.min(since + RUN)))
            }
            Ask::Page { after, epoch: asked, at_least } => {
                if asked.is_some_and(|asked| asked != epoch(self.epoch)) || at_least > self.head {
                    return None;
                }
                let through = self.borders.iter().copied().find(|border| Some(*border) > after);
                Some(self.facts(Kind::Snapshot { after, through }, self.head))
            }
        }
    }
}

/// A relay whose disk is a map.
#[derive(Debug, Default)]
struct Relay {
    archive: Archive,
    disk: BTreeMap<Place, Facts>,
}

impl Relay {
    fn take(&mut self, facts: Facts, now: Millis) {
        let Ok(place) = self.archive.judge(&facts, now) else {
            if matches!(facts.kind, Kind::Snapshot { .. }) {
                let dropped = self.archive.abandon();
                self.drop(&dropped);
            }
            return;
        };
        if let Place::Heartbeat { epoch, .. } = place {
            self.disk.retain(|other, _| !matches!(other, Place::Heartbeat { epoch: of, .. } if *of == epoch));
        }
        self.disk.insert(place, facts);
        let accepted = self.archive.accept(facts, now).unwrap();
        self.drop(&accepted.dropped);
    }

    fn drop(&mut self, dropped: &[Dropped]) {
        for dropped in dropped {
            self.disk.retain(|place, _| match (*dropped, *place) {
                (
                    Dropped::Epoch(gone),
                    Place::Page { epoch, .. } | Place::Run { epoch, .. } | Place::Heartbeat { epoch, .. },
                ) => epoch != gone,
                (
                    Dropped::Generation { epoch: gone, generation: of },
                    Place::Page { epoch, generation, .. },
                ) => (epoch, generation) != (gone, of),
                (
                    Dropped::Run { epoch: of, since: from, revision: to },
                    Place::Run { epoch, since, revision },
                ) => (epoch, since, revision) != (of, from, to),
                _ => true,
            });
        }
    }

    /// As the disk does it: the newest epoch and generation that add up.
    fn restart(&mut self) {
        let mut found = Archive::default();
        let mut generations: Vec<(Epoch, Millis)> = Vec::new();
        for place in self.disk.keys() {
            if let Place::Page { epoch, generation, .. } = place {
                generations.push((*epoch, *generation));
            }
        }
        generations.sort_unstable();
        generations.dedup();
        for (of, named) in generations.into_iter().rev() {
            let of_epoch = |wanted: fn(&Place) -> bool| -> Vec<Facts> {
                let matching = self.disk.iter().filter(|(place, facts)| wanted(place) && facts.epoch == of);
                matching.map(|(_, facts)| *facts).collect()
            };
            let pages: Vec<Facts> = self
                .disk
                .iter()
                .filter(|(place, _)| matches!(place, Place::Page { epoch, generation, .. } if (*epoch, *generation) == (of, named)))
                .map(|(_, facts)| *facts)
                .collect();
            let runs = of_epoch(|place| matches!(place, Place::Run { .. }));
            let beat = of_epoch(|place| matches!(place, Place::Heartbeat { .. })).pop();
            if let Some(archive) = Archive::restore(pages, runs, beat) {
                found = archive;
                let keeps = |place: &Place| match place {
                    Place::Page { epoch, generation, .. } => (*epoch, *generation) == (of, named),
                    Place::Run { epoch, .. } | Place::Heartbeat { epoch, .. } => *epoch == of,
                };
                self.disk.retain(|place, _| keeps(place));
                break;
            }
        }
        if found.position().is_none() {
            self.disk.clear();
        }
        self.archive = found;
    }
}

/// A proxy, with the rules of the filter.
#[derive(Debug, Clone, Default)]
struct Reader {
    generation: Generation,
    from_start: bool,
}

impl Reader {
    fn ask(&mut self, archive: &Archive, now: Millis) {
        let sync = self.generation.sync.clone().filter(|_| !self.from_start);
        let follows = self.generation.complete.filter(|_| sync.is_none() && !self.from_start);
        let facts = if let Some(Position { epoch, revision }) = follows {
            match archive.changes_for(epoch, revision, now) {
                Ok(Changes::Run(_, facts, _)) => facts,
                Ok(Changes::AtHead) => match archive.heartbeat(now) {
                    Some((_, facts)) => facts,
                    None => return,
                },
                Err(Unanswered::EarlierEpoch(_) | Unanswered::NotHeld) => {
                    self.from_start = true;
                    return;
                }
                Err(_) => return,
            }
        } else {
            let (after, of, at_least) =
                sync.map_or((None, None, 0), |sync| (sync.cursor, Some(sync.first.epoch), sync.floor));
            match archive.page_for(after, of, at_least, now) {
                Ok((_, facts, _)) => facts,
                Err(Unanswered::EarlierEpoch(_)) => {
                    self.from_start = true;
                    return;
                }
                Err(_) => return,
            }
        };
        let document = Document {
            ring: RING.into(),
            epoch: facts.epoch,
            kind: facts.kind,
            revision: facts.revision,
            issued_at: facts.issued_at,
            expires_at: facts.expires_at,
            key_prefix: None,
            critical: Vec::new(),
            entries: Vec::new(),
            removed: Vec::new(),
        };
        match self.generation.judge(RING, document, facts.signer, now, Ending::LastPage) {
            Ok(Plan::Heartbeat(next)) => self.generation = *next,
            Ok(Plan::Write(write)) => {
                self.from_start = false;
                self.generation = write.finish(0);
            }
            // A heartbeat that it has seen; or, where it begins anew, a page that it had already.
            Err(Rejection::Known) => {}
            Err(Rejection::Older) if self.from_start => self.from_start = false,
            Err(rejection) => panic!("{rejection:?}: {facts:?} does not fit to {:?}", self.generation),
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Change(u64),
    Poll,
    Page,
    /// An answer that never came.
    Lost,
    Restart,
    /// Files that are gone when the relay starts again, by their places in the order of names.
    Damage(Vec<prop::sample::Index>),
    NewEpoch,
    /// Milliseconds go by.
    Later(u64),
    Ask(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..6_u64).prop_map(Step::Change),
        12 => Just(Step::Poll),
        12 => Just(Step::Page),
        2 => Just(Step::Lost),
        1 => Just(Step::Restart),
        1 => vec(any::<prop::sample::Index>(), 1..3).prop_map(Step::Damage),
        1 => Just(Step::NewEpoch),
        2 => (1..13 * HOUR).prop_map(Step::Later),
        12 => (0..3_usize).prop_map(Step::Ask),
    ]
}

fn take(relay: &mut Relay, server: &mut Server, ask: Option<Ask>) {
    let Some(ask) = ask else { return };
    match server.answer(ask) {
        Some(facts) => relay.take(facts, Millis(server.now)),
        None => {
            let dropped = relay.archive.gone();
            relay.drop(&dropped);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn readers_get_what_fits_and_come_to_have_the_ring(steps in vec(step(), 1..120), pages in 1..4_usize) {
        let mut borders: Vec<Digest> = (1..pages).map(|n| Digest::of(&[n as u8])).collect();
        borders.sort_unstable();
        let mut server = Server { epoch: 1, head: 0, now: 1_000, borders };
        let mut relay = Relay::default();
        let mut readers = vec![Reader::default(); 3];
        for step in steps {
            let now = Millis(server.now);
            let before = relay.archive.position();
            let mut may_go_back = false;
            match step {
                Step::Change(count) => server.head += count,
                Step::Poll => { let ask = relay.archive.poll(); take(&mut relay, &mut server, ask) }
                Step::Page => { let ask = relay.archive.page(now); take(&mut relay, &mut server, ask) }
                Step::Lost => if let Some(ask) = relay.archive.page(now) { server.answer(ask); },
                Step::Restart => relay.restart(),
                Step::Damage(which) => {
                    may_go_back = true;
                    for index in which {
                        if !relay.disk.is_empty() {
                            let place = *relay.disk.keys().nth(index.index(relay.disk.len())).unwrap();
                            relay.disk.remove(&place);
                        }
                    }
                    relay.restart();
                }
                Step::NewEpoch => {
                    server.epoch += 1;
                    server.head = 0;
                }
                Step::Later(time) => server.now += time,
                Step::Ask(reader) => readers[reader].ask(&relay.archive, now),
            }
            prop_assert!(may_go_back || relay.archive.position() >= before, "{:?} after {before:?}", relay.archive.position());
        }
        // Everything is well again.
        for _ in 0..40 {
            server.now += 20_000;
            for _ in 0..40 {
                let ask = relay.archive.page(Millis(server.now));
                take(&mut relay, &mut server, ask);
                let ask = relay.archive.poll();
                take(&mut relay, &mut server, ask);
            }
            for reader in &mut readers {
                reader.ask(&relay.archive, Millis(server.now));
            }
        }
        prop_assert_eq!(relay.archive.position(), Some((epoch(server.epoch), server.head)));
        for _ in 0..200 {
            for reader in &mut readers {
                reader.ask(&relay.archive, Millis(server.now));
            }
        }
        for reader in readers {
            let complete = reader.generation.complete;
            prop_assert_eq!(complete, Some(Position { epoch: epoch(server.epoch), revision: server.head }));
        }
        // All that is on disk is what is held: it comes back as it was.
        let position = relay.archive.position();
        relay.restart();
        prop_assert_eq!(relay.archive.position(), position);
    }
}
