//! Which bits lead where.
//!
//! The way to a key is spelled by the bits of its hash, from the top, and behind them by those of the hash with the next
//! seed, and so on: each 64 bits are a *round*. A branch looks at the next k of them; a branch below it, which has
//! local depth l in it, goes on behind the first l.

use super::branch::{HEADER_BYTES, LOCAL_BYTES};
use super::bucket::{FRONT_AHEAD_BYTES, around_home};
use super::guess::Guesses;
use super::{Hash, Hasher};
use crate::pages::{ChildWord, Pages};
use std::cell::RefCell;

/// The level of a branch that has only buckets below it.
pub(crate) const LOWEST_LEVEL: u8 = 1;
/// The level of a root that gets its first branch below it. Levels fall on the way down; above is room for a root to grow
/// another sixteen times at the top, below for ten rounds of keys that have the same hash.
pub(crate) const ROOT_LEVEL: u8 = 239;
/// Bits of a hash.
const ROUND_BITS: u32 = 64;

const WORD_BYTES: usize = 8;

/// Bits that a branch takes at most, in pages with this much content.
pub(crate) fn bits_max(content_bytes: usize) -> u32 {
    let children = content_bytes.saturating_sub(HEADER_BYTES) / (WORD_BYTES + LOCAL_BYTES);
    children.max(2).ilog2()
}

/// The top `n` of 64 bits.
fn top(n: u32) -> u64 {
    u64::MAX.checked_shl(64 - n).unwrap_or(0)
}

/// Where to go: what the branches on the way are asked one after the other.
pub(crate) trait Route {
    /// The word to take in a branch of 2^`bits` words.
    fn slot(&self, bits: u32) -> usize;
    /// Goes on in the branch that this word names, which has local depth `local`.
    fn go_down(&mut self, slot: usize, bits: u32, local: u32);
    /// Asks for what will be looked at first in the bucket at its end, which `word` of a branch of 2^`bits` words names.
    fn ask_ahead<P: Pages>(&self, pages: &P, word: &ChildWord, _bits: u32) {
        pages.prefetch(word, 0..FRONT_AHEAD_BYTES);
    }
}

/// Asks for the front of a bucket and for the lines around the home of a record.
#[inline]
pub(crate) fn ask_for_record<P: Pages>(pages: &P, word: &ChildWord, first: u64) {
    pages.prefetch(word, 0..FRONT_AHEAD_BYTES);
    pages.prefetch(word, around_home(first, pages.content_bytes()));
}

/// To the bucket of a key.
#[derive(Clone, Debug)]
pub(crate) struct ToKey<'k> {
    hash: Hasher,
    key: &'k [u8],
    round: u32,
    /// Bits of this round that are still to be used: `left`, at the top; zeroes below.
    rest: u64,
    left: u32,
    first: u64,
    guesses: Option<&'k Guesses>,
    /// The frame in which lines have been asked for.
    asked: Option<u32>,
}

impl<'k> ToKey<'k> {
    #[inline]
    pub(crate) fn new(hash: Hasher, key: &'k [u8]) -> Self {
        Self::hashed(hash, key, hash.hash(key, 0))
    }
    /// As `new`, if the first round's hash is known.
    #[inline]
    pub(crate) fn hashed(hash: Hasher, key: &'k [u8], first: u64) -> Self {
        let (guesses, asked) = (None, None);
        Self { hash, key, round: 0, rest: first, left: ROUND_BITS, first, guesses, asked }
    }
    /// As `hashed`; asks at once for lines of the frame in which the bucket is guessed to be.
    #[inline]
    pub(crate) fn guessed<P: Pages>(table: &'k Hash, pages: &P, key: &'k [u8], first: u64) -> Self {
        let word = table.guesses.word(first);
        if let Some(word) = &word {
            ask_for_record(pages, word, first);
        }
        let asked = word.map(|word| ChildWord::hint_of(word.load()));
        let guesses = Some(&table.guesses);
        Self { guesses, asked, ..Self::hashed(table.hasher, key, first) }
    }
    /// The next bits where this round does not have them all.
    #[cold]
    fn over_the_end(&self) -> u64 {
        self.rest | self.hash.hash(self.key, self.round + 1) >> self.left
    }
}

impl Route for ToKey<'_> {
    #[inline]
    fn slot(&self, bits: u32) -> usize {
        let next = if bits <= self.left { self.rest } else { self.over_the_end() };
        usize::try_from(next >> (ROUND_BITS - bits)).expect("a few bits")
    }
    #[inline]
    fn go_down(&mut self, _slot: usize, _bits: u32, local: u32) {
        let mut local = local;
        if local >= self.left {
            local -= self.left;
            self.round += 1;
            self.rest = self.hash.hash(self.key, self.round);
            self.left = ROUND_BITS;
        }
        self.rest <<= local;
        self.left -= local;
    }
    #[inline]
    fn ask_ahead<P: Pages>(&self, pages: &P, word: &ChildWord, bits: u32) {
        let frame = ChildWord::hint_of(word.load());
        if self.asked == Some(frame) {
            return;
        }
        ask_for_record(pages, word, self.first);
        if let Some(guesses) = self.guesses
            && frame != ChildWord::NO_HINT
            && self.round == 0
        {
            guesses.learn(self.first, (ROUND_BITS - self.left + bits).min(ROUND_BITS), frame);
        }
    }
}

/// Which child was taken in a branch: the first bits of its words, followed by zeroes up to [`bits_max`], and
/// by how much those of the next child are more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    digit: u16,
    step: u16,
}

impl Taken {
    /// The child of local depth `local` that `slot` names in a branch of `bits` bits.
    pub(crate) fn new(slot: usize, bits: u32, local: u32, bits_max: u32) -> Self {
        let small = |n: usize| u16::try_from(n).expect("bits of a branch");
        let digit = slot >> (bits - local) << (bits_max - local);
        Self { digit: small(digit), step: small(1 << (bits_max - local)) }
    }
}

/// Child by child along a place in the order of the hash: per branch, `bits_max` bits; zeroes where it ends.
#[derive(Debug)]
pub(crate) struct Along<'d> {
    digits: &'d [u16],
    bits_max: u32,
    /// The branches that it went down to.
    trail: &'d RefCell<Vec<Taken>>,
}

impl<'d> Along<'d> {
    pub(crate) fn new(
        digits: &'d [u16],
        content_bytes: usize,
        trail: &'d RefCell<Vec<Taken>>,
    ) -> Self {
        trail.borrow_mut().clear();
        Self { digits, bits_max: bits_max(content_bytes), trail }
    }
}

impl Route for Along<'_> {
    fn slot(&self, bits: u32) -> usize {
        let digit = self.digits.first().copied().unwrap_or(0);
        usize::from(digit) >> self.bits_max.saturating_sub(bits)
    }
    fn go_down(&mut self, slot: usize, bits: u32, local: u32) {
        self.digits = self.digits.get(1..).unwrap_or_default();
        self.trail.borrow_mut().push(Taken::new(slot, bits, local, self.bits_max));
    }
}

/// To the first bucket with this hash, or where it would be.
#[derive(Debug)]
pub(crate) struct ToHash<'d> {
    rest: u64,
    bits_max: u32,
    /// The branches that it went down to.
    trail: &'d RefCell<Vec<Taken>>,
}

impl<'d> ToHash<'d> {
    pub(crate) fn new(first: u64, content_bytes: usize, trail: &'d RefCell<Vec<Taken>>) -> Self {
        trail.borrow_mut().clear();
        Self { rest: first, bits_max: bits_max(content_bytes), trail }
    }
}

impl Route for ToHash<'_> {
    fn slot(&self, bits: u32) -> usize {
        usize::try_from(self.rest >> (ROUND_BITS - bits)).expect("a few bits")
    }
    fn go_down(&mut self, slot: usize, bits: u32, local: u32) {
        self.rest = self.rest.checked_shl(local).unwrap_or(0);
        self.trail.borrow_mut().push(Taken::new(slot, bits, local, self.bits_max));
    }
}

/// The place behind `last`, which was taken in the branch that `trail` leads to; `None` if nothing comes after it.
pub(crate) fn behind(trail: &[Taken], last: Taken, bits_max: u32) -> Option<Vec<u16>> {
    let mut above = trail.len();
    let mut taken = last;
    loop {
        let next = u32::from(taken.digit) + u32::from(taken.step);
        if next >> bits_max == 0 {
            let mut digits: Vec<u16> = trail[..above].iter().map(|taken| taken.digit).collect();
            digits.push(u16::try_from(next).expect("bits of a branch"));
            return Some(digits);
        }
        above = above.checked_sub(1)?;
        taken = trail[above];
    }
}

/// The place of a bucket: what the hashes of its keys have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Bits that led there, over all rounds.
    pub(crate) bits: u32,
    /// Those of the last round, at the top; zero below.
    pub(crate) prefix: u64,
    /// In the table's front.
    pub(crate) front: bool,
}

impl Place {
    /// Everywhere.
    pub(crate) const ROOT: Self = Self { bits: 0, prefix: 0, front: false };
    /// Everywhere, in a front.
    pub(crate) const FRONT: Self = Self { front: true, ..Self::ROOT };

    /// The place that `bits` bits lead to on the way of a key.
    pub(crate) fn of(hash: Hasher, key: &[u8], bits: u32) -> Self {
        let place = Self { bits, ..Self::ROOT };
        let prefix = hash.hash(key, place.round()) & top(place.bits_in_round());
        Self { prefix, ..place }
    }
    /// The place that children lead to from `root`: what each branch took, and how many bits that was.
    pub(crate) fn along(root: Self, trail: impl Iterator<Item = (usize, u32)>) -> Self {
        let mut place = root;
        for (digit, bits) in trail {
            for bit in (0..bits).rev() {
                if place.bits.is_multiple_of(ROUND_BITS) {
                    place.prefix = 0;
                }
                place.bits += 1;
                place.prefix |= (digit as u64 >> bit & 1) << (ROUND_BITS - place.bits_in_round());
            }
        }
        place
    }
    /// The round of its last bit.
    pub(crate) fn round(self) -> u32 {
        self.bits.saturating_sub(1) / ROUND_BITS
    }
    /// Bits of the last round.
    fn bits_in_round(self) -> u32 {
        match self.bits.checked_sub(1) {
            Some(before) => before % ROUND_BITS + 1,
            None => 0,
        }
    }
    /// True if this is in the first round, so that its keys follow each other in the order of
    /// [`rank`](crate::kind::Kind::rank).
    pub(crate) fn is_ranked(self) -> bool {
        self.bits <= ROUND_BITS
    }
    /// The last hash of the first round that leads there, if it [is ranked](Self::is_ranked).
    pub(crate) fn last_hash(self) -> u64 {
        self.prefix | u64::MAX.checked_shr(self.bits).unwrap_or(0)
    }
    /// True if nothing is set below the prefix.
    pub(crate) fn is_clean(self) -> bool {
        self.prefix & !top(self.bits_in_round()) == 0
    }
    /// True if the hash of the place's last round leads there.
    #[inline]
    pub(crate) fn covers(self, hash: u64) -> bool {
        (hash ^ self.prefix) & top(self.bits_in_round()) == 0
    }
    /// The two places that one more bit makes of it; `key` lies there.
    pub(crate) fn halves(self, hash: Hasher, key: &[u8]) -> [Self; 2] {
        let of = Self { front: self.front, ..Self::of(hash, key, self.bits + 1) };
        let last = 1u64 << (ROUND_BITS - of.bits_in_round());
        [Self { prefix: of.prefix & !last, ..of }, Self { prefix: of.prefix | last, ..of }]
    }
    /// Which half a key of this place goes to.
    pub(crate) fn is_in_upper_half(self, hash: Hasher, key: &[u8]) -> bool {
        let (round, bit) = (self.bits / ROUND_BITS, self.bits % ROUND_BITS);
        hash.hash(key, round) >> (ROUND_BITS - 1 - bit) & 1 == 1
    }
}
