//! Which commits touched what lately: the ring that transactions are validated against.
//!
//! Fixed size. What it no longer holds counts as changed, and keys are compared by a hash or by
//! their first eight bytes, so it errs only towards a conflict.

use esker_base::codec::head64;
use esker_base::{CommitNo, TableId};
use std::collections::VecDeque;

/// Recent writes kept.
const WRITES_MAX: usize = 1 << 16;
/// Recent range writes kept.
const RANGES_MAX: usize = 64;

/// A 64-bit hash of a key: eight bytes at a time, multiplied and folded. Equal keys give equal hashes;
/// a collision costs a needless retry.
pub(crate) fn key_hash(key: &[u8]) -> u64 {
    const K: u64 = 0x9E37_79B9_7F4A_7C15;
    let mut hash = key.len() as u64 ^ K;
    let mut chunks = key.chunks_exact(8);
    for chunk in &mut chunks {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        hash = fold(hash ^ u64::from_le_bytes(word));
    }
    let mut word = [0; 8];
    word[..chunks.remainder().len()].copy_from_slice(chunks.remainder());
    fold(hash ^ u64::from_le_bytes(word))
}

fn fold(x: u64) -> u64 {
    let wide = u128::from(x ^ 0xD6E8_FEB8_6659_FD93) * u128::from(0xCA5A_8263_9512_1157_u64);
    #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
    let folded = (wide >> 64) as u64 ^ wide as u64;
    folded
}

/// One key, as validation knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct KeyMark {
    pub(crate) table: TableId,
    pub(crate) hash: u64,
    pub(crate) head: u64,
}

impl KeyMark {
    pub(crate) fn new(table: TableId, key: &[u8]) -> Self {
        Self { table, hash: key_hash(key), head: head64(key) }
    }
}

/// A range of keys, by the heads of its ends, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RangeMark {
    pub(crate) table: TableId,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl RangeMark {
    /// From `low` to `high`, or without an end.
    pub(crate) fn new(table: TableId, low: &[u8], high: Option<&[u8]>) -> Self {
        Self { table, from: head64(low), to: high.map_or(u64::MAX, head64) }
    }
    fn covers(&self, key: &KeyMark) -> bool {
        self.table == key.table && (self.from..=self.to).contains(&key.head)
    }
    fn overlaps(&self, other: &Self) -> bool {
        self.table == other.table && self.from <= other.to && other.from <= self.to
    }
}

/// What a transaction has read (or, under snapshot isolation, written).
#[derive(Debug, Default)]
pub(crate) struct ReadSet {
    keys: std::collections::HashSet<KeyMark>,
    ranges: Vec<RangeMark>,
}

impl ReadSet {
    pub(crate) fn add_key(&mut self, key: KeyMark) {
        self.keys.insert(key);
    }
    pub(crate) fn add_range(&mut self, range: RangeMark) {
        if !self.ranges.contains(&range) {
            self.ranges.push(range);
        }
    }
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.ranges.is_empty()
    }
    fn met_by_key(&self, key: &KeyMark) -> bool {
        self.keys.contains(key) || self.ranges.iter().any(|range| range.covers(key))
    }
    #[expect(clippy::iter_over_hash_type, reason = "any() does not depend on the order")]
    fn met_by_range(&self, range: &RangeMark) -> bool {
        for key in &self.keys {
            if range.covers(key) {
                return true;
            }
        }
        self.ranges.iter().any(|read| read.overlaps(range))
    }
}

/// The ring.
#[derive(Debug)]
pub(crate) struct Ring {
    writes: VecDeque<(CommitNo, KeyMark)>,
    ranges: VecDeque<(CommitNo, RangeMark)>,
    /// Commits up to this one may be missing.
    floor: CommitNo,
    /// Transactions under way: without any, nothing is recorded.
    active: usize,
    writes_max: usize,
    /// Switched off only by the test that shows that the history checker notices.
    pub(crate) validate: bool,
}

impl Ring {
    pub(crate) fn new(floor: CommitNo) -> Self {
        Self {
            writes: VecDeque::new(),
            ranges: VecDeque::new(),
            floor,
            active: 0,
            writes_max: WRITES_MAX,
            validate: true,
        }
    }
    /// A transaction begins: everything committed from now on is recorded.
    pub(crate) fn enter(&mut self, now: CommitNo) {
        if self.active == 0 {
            self.writes.clear();
            self.ranges.clear();
            self.floor = now;
        }
        self.active += 1;
    }
    pub(crate) fn leave(&mut self) {
        self.active -= 1;
    }
    pub(crate) fn is_recording(&self) -> bool {
        self.active > 0
    }
    pub(crate) fn wrote(&mut self, commit: CommitNo, key: KeyMark) {
        if self.active == 0 {
            return;
        }
        if self.writes.len() >= self.writes_max
            && let Some((oldest, _)) = self.writes.pop_front()
        {
            self.floor = self.floor.max(oldest);
        }
        self.writes.push_back((commit, key));
    }
    pub(crate) fn wrote_range(&mut self, commit: CommitNo, range: RangeMark) {
        if self.active == 0 {
            return;
        }
        if self.ranges.len() >= RANGES_MAX
            && let Some((oldest, _)) = self.ranges.pop_front()
        {
            self.floor = self.floor.max(oldest);
        }
        self.ranges.push_back((commit, range));
    }
    /// True if nothing in `reads` was written by a commit after `begin`.
    pub(crate) fn is_unchanged(&self, begin: CommitNo, reads: &ReadSet) -> bool {
        if reads.is_empty() || !self.validate {
            return true;
        }
        if begin < self.floor {
            esker_base::mark::CONFLICT_FORGOTTEN.hit();
            return false;
        }
        let after = |entry: &&(CommitNo, KeyMark)| entry.0 > begin;
        if self.writes.iter().rev().take_while(after).any(|(_, key)| reads.met_by_key(key)) {
            esker_base::mark::CONFLICT_KEY.hit();
            return false;
        }
        let after = |entry: &&(CommitNo, RangeMark)| entry.0 > begin;
        if self.ranges.iter().rev().take_while(after).any(|(_, range)| reads.met_by_range(range)) {
            esker_base::mark::CONFLICT_RANGE.hit();
            return false;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: TableId = TableId(1);

    fn reads(keys: &[&[u8]]) -> ReadSet {
        let mut set = ReadSet::default();
        for key in keys {
            set.add_key(KeyMark::new(T, key));
        }
        set
    }

    #[test]
    fn later_writes_to_what_was_read_conflict() {
        let mut ring = Ring::new(CommitNo(10));
        ring.enter(CommitNo(10));
        ring.wrote(CommitNo(11), KeyMark::new(T, b"a"));
        ring.wrote(CommitNo(12), KeyMark::new(T, b"b"));
        assert!(!ring.is_unchanged(CommitNo(10), &reads(&[b"a"])));
        assert!(ring.is_unchanged(CommitNo(11), &reads(&[b"a"])));
        assert!(ring.is_unchanged(CommitNo(10), &reads(&[b"c"])));
        let mut range = ReadSet::default();
        range.add_range(RangeMark::new(T, b"aa", Some(b"bb")));
        assert!(!ring.is_unchanged(CommitNo(11), &range), "a phantom");
        ring.wrote_range(CommitNo(13), RangeMark::new(T, b"x", None));
        assert!(!ring.is_unchanged(CommitNo(12), &reads(&[b"z"])));
        assert!(ring.is_unchanged(CommitNo(12), &reads(&[b"a"])));
    }

    #[test]
    fn what_the_ring_forgot_counts_as_changed() {
        let mut ring = Ring::new(CommitNo(0));
        ring.writes_max = 2;
        ring.enter(CommitNo(0));
        for n in 1..=3 {
            ring.wrote(CommitNo(n), KeyMark::new(T, &n.to_le_bytes()));
        }
        assert!(!ring.is_unchanged(CommitNo(0), &reads(&[b"never written"])));
        assert!(ring.is_unchanged(CommitNo(1), &reads(&[b"never written"])));
        ring.leave();
        ring.wrote(CommitNo(4), KeyMark::new(T, b"unrecorded"));
        ring.enter(CommitNo(4));
        assert!(!ring.is_unchanged(CommitNo(3), &reads(&[b"q"])), "before anybody recorded");
    }
}
