//! Reading decisions from bytes, so that a corpus can be written by hand.

/// What is left of an input.
pub struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    pub fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// A number below `bound`: the digit `3` means 3, and every other byte means something too. Past the
    /// end it is 0.
    pub fn below(&mut self, bound: u8) -> u8 {
        self.next().map_or(0, |byte| byte.wrapping_sub(b'0') % bound)
    }

    pub fn take(&mut self, len: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        head
    }
}
