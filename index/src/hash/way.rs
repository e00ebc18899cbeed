//! Which bits lead where.
//!
//! The way to a key is spelled by the bits of its hash, from the top. A branch takes the next k of them, and has
//! branches below it only if k is [`bits_max`]; so a branch `depth` branches below the root begins at bit `depth` ×
//! `bits_max`. A hash has 64 bits: as many whole branches as they suffice for are a *round*, and
//! the next round takes the bits of the hash with the next seed.

use super::branch::{HEADER_BYTES, LOCAL_BYTES};
use super::bucket::{FRONT_AHEAD_BYTES, around_home};
use super::guess::Guesses;
use super::{Hash, Hasher};
use crate::pages::{ChildWord, Pages};

/// The level of a root with children. Every branch below is one less; so there are more than ten rounds.
pub(crate) const ROOT_LEVEL: u8 = 240;

const WORD_BYTES: usize = 8;

/// Bits that a branch takes at most, in pages with this much content.
pub(crate) fn bits_max(content_bytes: usize) -> u32 {
    let children = content_bytes.saturating_sub(HEADER_BYTES) / (WORD_BYTES + LOCAL_BYTES);
    children.max(2).ilog2()
}

/// Bits of a hash that a round uses.
fn round_bits(bits_max: u32) -> u32 {
    64 / bits_max * bits_max
}

/// The top `n` of 64 bits.
fn top(n: u32) -> u64 {
    u64::MAX.checked_shl(64 - n).unwrap_or(0)
}

/// Where to go: what the branches on the way are asked one after the other.
pub(crate) trait Route {
    /// The child to take in the next branch, which has 2^`bits` words.
    fn slot(&mut self, bits: u32) -> usize;
    /// Asks for what will be looked at first in the bucket at its end, which `word` names.
    fn ask_ahead<P: Pages>(&self, pages: &P, word: &ChildWord) {
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
    /// Bits of this round that are still to be used, at the top.
    rest: u64,
    used: u32,
    /// Bits of the branch before.
    last: u32,
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
        Self { hash, key, round: 0, rest: first, used: 0, last: 0, first, guesses, asked }
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
}

impl Route for ToKey<'_> {
    #[inline]
    fn slot(&mut self, bits: u32) -> usize {
        // Whatever has branches below it has the most bits that a branch can have.
        if self.used + self.last > 64 {
            self.round += 1;
            self.rest = self.hash.hash(self.key, self.round);
            self.used = 0;
        }
        let slot = self.rest >> (64 - bits);
        self.rest <<= bits;
        self.used += bits;
        self.last = bits;
        usize::try_from(slot).expect("a few bits")
    }
    #[inline]
    fn ask_ahead<P: Pages>(&self, pages: &P, word: &ChildWord) {
        let frame = ChildWord::hint_of(word.load());
        if self.asked == Some(frame) {
            return;
        }
        ask_for_record(pages, word, self.first);
        if let Some(guesses) = self.guesses
            && frame != ChildWord::NO_HINT
            && self.round == 0
        {
            guesses.learn(self.first, self.used, frame);
        }
    }
}

/// Child by child along a place in the order of the hash: per branch, `bits_max` bits; zeroes where it ends.
#[derive(Debug)]
pub(crate) struct Along<'d> {
    digits: &'d [u16],
    bits_max: u32,
}

impl<'d> Along<'d> {
    pub(crate) fn new(digits: &'d [u16], content_bytes: usize) -> Self {
        Self { digits, bits_max: bits_max(content_bytes) }
    }
}

impl Route for Along<'_> {
    fn slot(&mut self, bits: u32) -> usize {
        let Some((digit, rest)) = self.digits.split_first() else { return 0 };
        self.digits = rest;
        usize::from(*digit) >> self.bits_max.saturating_sub(bits)
    }
}

/// Moves `digits` behind the child that was taken at `depth`: `slot` in a branch of `bits` bits, of which the child
/// has `local`. False if nothing comes after it.
pub(crate) fn go_behind(
    digits: &mut Vec<u16>,
    depth: usize,
    slot: usize,
    bits: u32,
    local: u32,
    bits_max: u32,
) -> bool {
    digits.resize(depth, 0);
    let mut next = ((slot >> (bits - local)) + 1) << (bits_max - local);
    while next >> bits_max != 0 {
        let Some(above) = digits.pop() else { return false };
        next = usize::from(above) + 1;
    }
    digits.push(u16::try_from(next).expect("bits of a branch"));
    true
}

/// The place of a bucket: what the hashes of its keys have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Bits that led there, over all rounds.
    pub(crate) bits: u32,
    /// Those of the last round, at the top; zero below.
    pub(crate) prefix: u64,
}

impl Place {
    /// Everywhere.
    pub(crate) const ROOT: Self = Self { bits: 0, prefix: 0 };

    /// The place that `bits` bits lead to on the way of a key.
    pub(crate) fn of(hash: Hasher, key: &[u8], bits: u32, bits_max: u32) -> Self {
        let place = Self { bits, prefix: 0 };
        let prefix = hash.hash(key, place.round(bits_max)) & top(place.bits_in_round(bits_max));
        Self { bits, prefix }
    }
    /// The place that children lead to: what each branch took, and how many bits that was.
    pub(crate) fn along(trail: impl Iterator<Item = (usize, u32)>, bits_max: u32) -> Self {
        let mut place = Self::ROOT;
        let mut used = 0;
        for (digit, bits) in trail {
            if used + bits_max > 64 {
                (place.prefix, used) = (0, 0);
            }
            used += bits;
            place.bits += bits;
            place.prefix |= (digit as u64) << (64 - used);
        }
        place
    }
    /// The round of its last bit.
    pub(crate) fn round(self, bits_max: u32) -> u32 {
        self.bits.saturating_sub(1) / round_bits(bits_max)
    }
    /// Bits of the last round.
    fn bits_in_round(self, bits_max: u32) -> u32 {
        match self.bits.checked_sub(1) {
            Some(before) => before % round_bits(bits_max) + 1,
            None => 0,
        }
    }
    /// True if this is in the first round, so that its keys follow each other in the order of
    /// [`rank`](crate::kind::Kind::rank).
    pub(crate) fn is_ranked(self, bits_max: u32) -> bool {
        self.bits <= round_bits(bits_max)
    }
    /// True if nothing is set below the prefix.
    pub(crate) fn is_clean(self, bits_max: u32) -> bool {
        self.prefix & !top(self.bits_in_round(bits_max)) == 0
    }
    /// True if the hash of the place's last round leads there.
    #[inline]
    pub(crate) fn covers(self, hash: u64, bits_max: u32) -> bool {
        (hash ^ self.prefix) & top(self.bits_in_round(bits_max)) == 0
    }
    /// The two places that one more bit makes of it; `key` lies there.
    pub(crate) fn halves(self, hash: Hasher, key: &[u8], bits_max: u32) -> [Self; 2] {
        let of = Self::of(hash, key, self.bits + 1, bits_max);
        let last = 1u64 << (64 - of.bits_in_round(bits_max));
        [Self { prefix: of.prefix & !last, ..of }, Self { prefix: of.prefix | last, ..of }]
    }
    /// Which half a key of this place goes to.
    pub(crate) fn is_in_upper_half(self, hash: Hasher, key: &[u8], bits_max: u32) -> bool {
        let (round, bit) = (self.bits / round_bits(bits_max), self.bits % round_bits(bits_max));
        hash.hash(key, round) >> (63 - bit) & 1 == 1
    }
}

/// True if two hashes of the first round lead the same way as far as that round goes.
pub(crate) fn share_first_round(a: u64, b: u64, bits_max: u32) -> bool {
    (a ^ b) & top(round_bits(bits_max)) == 0
}
