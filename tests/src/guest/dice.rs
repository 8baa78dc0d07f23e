//! Chance that is the same each time.

#![allow(clippy::arithmetic_side_effects, reason = "test helper")]

/// Numbers that look random, the same ones each time (xorshift).
#[derive(Debug)]
pub(super) struct Dice(u64);

impl Dice {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end.max(1)
    }

    /// One of these; none where there is none.
    pub(super) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let at = self.below(u64::try_from(from.len()).ok()?);
        from.get(usize::try_from(at).ok()?)
    }

    pub(super) fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len / 8 + 1)
            .flat_map(|_| self.next().to_le_bytes())
            .take(usize::try_from(len).unwrap_or(0))
            .collect()
    }
}
