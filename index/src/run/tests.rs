//! Goal: runs hold what was put in, whatever stops on the way. Method: seeded random rows against plain collections, in
//! tiny and in ordinary pages.

mod filter;
mod merge;
mod ranges;

use super::*;
use crate::btree::{Check, TreeCursor};
use crate::kind::{
    CheckStep, Checker, Cursor, Direction, Value, max_inline_value_bytes, max_key_bytes,
};
use crate::mock::Mock;
use crate::pages::{ChildWord, PageRead, Stop, View};
use esker_base::PageId;
use std::collections::{BTreeMap, BTreeSet};

const CONTENT: [usize; 2] = [960, 8128];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % n
    }
    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
    fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next().to_le_bytes()[4]).collect()
    }
    /// Short, middling or of full length, often with long common beginnings.
    fn key(&mut self, content_bytes: usize) -> Vec<u8> {
        let max = max_key_bytes(content_bytes);
        let fill = [b'a', b'z', 0xff][self.below(3)];
        match self.below(8) {
            0 => vec![fill; self.below(max + 1)],
            1 => {
                let n = self.below(4).min(max);
                let tail = self.bytes(n);
                [vec![fill; max - n], tail].concat()
            }
            2 => {
                let n = self.below(max + 1);
                self.bytes(n)
            }
            3 => [b"user:0000".to_vec(), self.bytes(3)].concat(),
            _ => {
                let n = self.below(12);
                self.bytes(n)
            }
        }
    }
    fn value(&mut self, content_bytes: usize) -> Owned {
        let max = max_inline_value_bytes(content_bytes);
        match self.below(10) {
            0 => Owned::Tombstone,
            1 => Owned::Large(self.next() % 50),
            2 => Owned::Inline(vec![7; max]),
            _ => {
                let n = if self.one_in(2) { self.below(20) } else { self.below(max + 1) };
                Owned::Inline(self.bytes(n))
            }
        }
    }
}

/// A value that owns its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Owned {
    Inline(Vec<u8>),
    Large(u64),
    Tombstone,
}

fn handle(n: u64) -> [u8; 24] {
    let mut handle = [0; 24];
    handle[..8].copy_from_slice(&n.to_le_bytes());
    handle
}

impl Owned {
    fn of(value: Value<'_>) -> Self {
        match value {
            Value::Inline(bytes) => Self::Inline(bytes.to_vec()),
            Value::Overflow(handle) => {
                Self::Large(u64::from_le_bytes(*handle.first_chunk().unwrap()))
            }
            Value::Tombstone => Self::Tombstone,
        }
    }
    fn value(&self) -> Value<'_> {
        match self {
            Self::Inline(bytes) => Value::Inline(bytes),
            Self::Large(n) => Value::Overflow(handle(*n)),
            Self::Tombstone => Value::Tombstone,
        }
    }
}

type Rows = BTreeMap<Vec<u8>, Owned>;

fn word(bits: u64) -> ChildWord {
    ChildWord::new(ChildWord::page_of(bits), ChildWord::hint_of(bits))
}

fn build(mock: &Mock, content_bytes: usize, rows: &Rows, filter_bits: u8) -> Option<RunRef> {
    let mut builder = RunBuilder::new(RunConfig { content_bytes, filter_bits });
    for (key, value) in rows {
        mock.settle(|| builder.add(mock, key, value.value()));
    }
    let run = mock.settle(|| builder.finish(mock));
    assert_eq!(mock.settle(|| builder.finish(mock)), run, "finished once");
    if let Some(run) = &run {
        assert_eq!(builder.low(), rows.keys().next().unwrap());
        assert_eq!(builder.high(), rows.keys().next_back().unwrap());
        assert_eq!(builder.len_pages(), run.pages as usize);
    }
    run
}

fn read_back(mock: &Mock, run: &RunRef, direction: Direction) -> Vec<(Vec<u8>, Owned)> {
    let mut cursor = TreeCursor::new(&[], None, direction);
    let mut rows = Vec::new();
    while mock.settle(|| cursor.next(mock, &word(run.tree), View::Current)) {
        let (key, value) = cursor.row();
        rows.push((key.to_vec(), Owned::of(value)));
    }
    rows
}

fn check(mock: &Mock, run: &RunRef) {
    let root = word(run.tree);
    assert_eq!(mock.page(root.page()).level(), run.level);
    let mut check = Check::new(root.page(), true);
    loop {
        match mock.settle(|| check.step(mock, &root, View::Current, &mut |_| {})) {
            CheckStep::Done => break,
            CheckStep::Page { .. } => {}
            CheckStep::Wrong(what) => panic!("{what}"),
        }
    }
    let mut check = RunCheck::new(*run);
    loop {
        match mock.settle(|| check.step(mock, View::Current, &mut |_| {})) {
            CheckStep::Done => break,
            CheckStep::Page { .. } => {}
            CheckStep::Wrong(what) => panic!("{what}"),
        }
    }
    if run.filter != 0 {
        let wrong = mock.settle(|| check::check_filter(mock, &word(run.filter), View::Current));
        assert_eq!(wrong, None);
    }
}

/// The pages that a collector finds, after checking that they are in order and do not overlap.
fn collect(mock: &Mock, run: &RunRef) -> BTreeSet<PageId> {
    let mut collector = PageCollector::new(run);
    while !mock.settle(|| collector.step(mock, View::Current)) {}
    let mut found = BTreeSet::new();
    for (first, count) in collector.ranges() {
        assert!(found.last().is_none_or(|last: &PageId| last.0 + 1 < first.0), "joined, in order");
        found.extend((0..u64::from(*count)).map(|i| PageId(first.0 + i)));
    }
    found
}

#[test]
fn runs_hold_what_was_added() {
    for content_bytes in CONTENT {
        for seed in 1..=30 {
            let mut random = Random(seed);
            let mock = Mock::new(content_bytes);
            // Every page but the first of each call stops it.
            mock.set_reserve(1);
            let target = [0, 1, 2, 5, 50, 400, 2000][random.below(7)];
            let rows: Rows = (0..target)
                .map(|_| (random.key(content_bytes), random.value(content_bytes)))
                .collect();
            let Some(run) = build(&mock, content_bytes, &rows, [0, 10, 16][random.below(3)]) else {
                assert!(rows.is_empty() && mock.page_ids().is_empty(), "seed {seed}");
                continue;
            };
            assert_eq!(run.rows, rows.len() as u64, "seed {seed}");
            let tombstones = rows.values().filter(|value| **value == Owned::Tombstone).count();
            assert_eq!(run.tombstones, tombstones as u64);
            let large = rows.values().any(|value| matches!(value, Owned::Large(_)));
            assert_eq!(run.has_large, large);
            mock.evict_all();
            check(&mock, &run);
            let rows: Vec<_> = rows.into_iter().collect();
            assert!(read_back(&mock, &run, Direction::Forward) == rows, "seed {seed}");
            let mut back = read_back(&mock, &run, Direction::Backward);
            back.reverse();
            assert!(back == rows, "seed {seed}");
        }
    }
}

#[test]
fn leaves_are_full_and_collected() {
    for content_bytes in CONTENT {
        let mut random = Random(5);
        let mock = Mock::new(content_bytes);
        let rows: Rows =
            (0..20_000).map(|_| (random.bytes(16), Owned::Inline(vec![1; 100]))).collect();
        let mut run = build(&mock, content_bytes, &rows, 10).unwrap();
        check(&mock, &run);
        let in_leaf = (content_bytes - 16 - 2 * 4) / (16 + 100 + 10);
        let best = rows.len().div_ceil(in_leaf);
        assert!((best..best + best / 20).contains(&(run.pages as usize)), "{} {best}", run.pages);
        let mut set = RangeSet::default();
        for _ in 0..2000 {
            let low = random.bytes(16);
            let high = [&low[..], &[1]].concat();
            set.insert(&low, Some(&high));
        }
        let mut ranges = RangesBuilder::new(content_bytes);
        run.ranges = mock.settle(|| ranges.step(&mock, &set)).unwrap().tree;
        let others = mock.settle(|| crate::btree::create(&mock));
        let mut all: BTreeSet<PageId> = mock.page_ids().into_iter().collect();
        all.remove(&others);
        mock.evict_leaves();
        // No leaf is read for it, unless it is the root of the ranges.
        mock.load(ChildWord::page_of(run.ranges));
        let mut collector = PageCollector::new(&run);
        while !collector.step(&mock, View::Current).unwrap() {}
        assert_eq!(collect(&mock, &run), all);
    }
}

#[test]
fn long_pivots_and_vanishing_prefixes_fit() {
    for content_bytes in CONTENT {
        let max = max_key_bytes(content_bytes);
        let mut rows = Rows::new();
        // A long shared beginning that ends all of a sudden, after small rows and after the largest ones.
        for i in 0..200u8 {
            let mut key = vec![b'm'; max];
            key[max - 1] = i;
            let large = i % 50 > 46;
            let bytes = if large { max_inline_value_bytes(content_bytes) } else { 0 };
            rows.insert(key, Owned::Inline(vec![0; bytes]));
        }
        for i in 0..200u8 {
            let key = [vec![b'm'; max / 2], vec![b'x', i]].concat();
            rows.insert(key, Owned::Tombstone);
        }
        for first in [b'n', b'o'] {
            let mut key = vec![first; max];
            rows.insert(key.clone(), Owned::Inline(vec![0; max_inline_value_bytes(content_bytes)]));
            key[max - 1] += 1;
            rows.insert(key, Owned::Inline(vec![0; max_inline_value_bytes(content_bytes)]));
        }
        let mock = Mock::new(content_bytes);
        mock.set_reserve(1);
        let run = build(&mock, content_bytes, &rows, 10).unwrap();
        check(&mock, &run);
        assert!(read_back(&mock, &run, Direction::Forward) == Vec::from_iter(rows));
    }
}

#[test]
fn a_scan_that_goes_on_tells_of_each_leaf_once_and_before_it_is_missing() {
    let mock = Mock::new(960);
    let number = |i: usize| format!("{i:08}").into_bytes();
    let rows: Rows = (0..20_000).map(|i| (number(i), Owned::Inline(vec![0; 50]))).collect();
    let run = build(&mock, 960, &rows, 0).unwrap();
    let root = word(run.tree);
    assert!(run.level > 1, "it goes from branch to branch");
    for direction in [Direction::Forward, Direction::Backward] {
        mock.evict_leaves();
        let mut cursor = TreeCursor::new(&[], None, direction);
        let (mut told, mut met, mut stops) = (Vec::new(), 0, 0);
        loop {
            let mut pages = Vec::new();
            match cursor.next(&mock, &root, View::Current) {
                Ok(false) => break,
                Ok(true) => {
                    met += 1;
                    cursor.further(&mock, &root, View::Current, &mut pages).unwrap();
                }
                Err(Stop::Missing(_)) => {
                    stops += 1;
                    cursor.upcoming(&mock, &root, View::Current, &mut pages).unwrap();
                }
                Err(stop) => panic!("{stop:?}"),
            }
            for page in pages {
                mock.load(page);
                told.push(page);
            }
        }
        assert_eq!(met, rows.len());
        assert!(stops <= 6, "1, 2, 4, ... 32 leaves, and never again: {stops}");
        let all: BTreeSet<PageId> = told.iter().copied().collect();
        assert_eq!((told.len(), all.len()), (run.pages as usize, told.len()), "{direction:?}");
    }
}
