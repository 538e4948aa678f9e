//! The page behind the one under way, asked for early, so that it comes in while the other is read.
//!
//! Where it begins is known from the control plane's word about the page before it. That is a guess, which no
//! signature covers and nothing rests on: a page is judged as if it had been asked for in its turn, and one
//! that does not join on is asked for anew.

use keywheel_keyring::Digest;

use super::Flight;

#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// The page behind the first of these should end at the second.
    guess: Option<(Digest, Digest)>,
    /// The call for the page behind this digest.
    flight: Option<(Digest, Flight)>,
}

impl Ahead {
    pub(super) const NONE: Self = Self { guess: None, flight: None };

    /// Takes the control plane's word that the page behind `cursor` ends at the digest that `ahead` spells.
    pub(super) fn hear(&mut self, cursor: Option<Digest>, ahead: Option<&[u8]>) {
        let end = || std::str::from_utf8(ahead?).ok()?.parse().ok();
        self.guess = cursor.and_then(|cursor| Some((cursor, end()?))).filter(|(cursor, end)| cursor < end);
    }

    /// Where to ask next, while the page behind `cursor` is under way.
    pub(super) fn due(&self, cursor: Option<Digest>) -> Option<Digest> {
        let (behind, end) = self.guess?;
        (self.flight.is_none() && cursor == Some(behind)).then_some(end)
    }

    pub(super) const fn sent(&mut self, after: Digest, flight: Flight) {
        self.flight = Some((after, flight));
    }

    /// The call for the page behind `cursor`, which is in its turn now. A call for any other came of a wrong guess.
    pub(super) fn take_turn(&mut self, cursor: Option<Digest>) -> Option<Flight> {
        self.flight.take().filter(|(after, _)| cursor == Some(*after)).map(|(_, flight)| flight)
    }

    /// Whether call `id` was this one, which nobody waits for then any more: its answer came before its turn.
    pub(super) fn gave_up(&mut self, id: u32) -> bool {
        self.flight.take_if(|(_, flight)| flight.id == id).is_some()
    }
}
