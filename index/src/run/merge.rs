//! Many sources become one, the newest row of each key first and last.
//!
//! ```text
//!   sources, newest first     0: cursor    1: cursor, shadow    2: cursor, shadow    ...
//!   heads                        | u64 |         | u64 |             | u64 |             smallest wins
//! ```
//!
//! A row is *shadowed* by a row of the same key in a newer source, and by a range of a newer source. What shadows a source
//! is the union of the ranges of all newer ones, made once, and followed along with its keys.
//!
//! A head is eight bytes of a key, as a number that orders like the keys, so that the next row is found in a pass over
//! one array. They are taken behind a *base* that the smallest keys share, since keys often begin alike; keys that do not
//! begin with the base come after all that do, and get the largest head. Heads that are the same are settled by whole keys; if
//! that happens often, or all heads are the largest, another base is chosen.
//!
//! Pages that lie inside a shadow are stepped over, unless they may hold large values that must be reported.

mod choose;
mod source;

use super::walk::RangeWalk;
use super::{RangeSet, RunRef};
use crate::btree::common_bytes;
use crate::kind::{Ahead, Cursor, Direction, Handle, Value};
use crate::pages::{Pages, Step, View};
use choose::{HEAD_MAX, head};
use esker_base::PageId;
use source::{Row, Source};
use std::sync::Arc;

/// One source of a merge. What may be in it is taken at its word: where that is not known, it may.
#[derive(Clone, Debug)]
pub struct MergeSource {
    /// Word of the tree's root.
    pub tree: u64,
    /// Its ranges, which delete rows of the sources behind it.
    pub ranges: Option<Arc<RangeSet>>,
    /// There may be handles of large values.
    pub has_large: bool,
    /// There may be tombstones.
    pub has_tombstones: bool,
    /// All its rows are to be met, and counted: nobody has yet.
    pub is_counted: bool,
}

impl MergeSource {
    /// A run, with its ranges if it has such.
    pub fn of_run(run: &RunRef, ranges: Option<Arc<RangeSet>>) -> Self {
        let (has_large, has_tombstones) = (run.has_large, run.tombstones > 0);
        Self { tree: run.tree, ranges, has_large, has_tombstones, is_counted: false }
    }
}

/// What a merge is for.
#[derive(Clone, Copy, Debug)]
pub struct MergeConfig {
    /// Which way it goes.
    pub direction: Direction,
    /// Tombstones are rows: there may be older sources that are not merged.
    pub keep_tombstones: bool,
    /// Handles of large values that are shadowed are wanted ([`Merge::shadowed_large`]).
    pub report_large: bool,
}

/// What has become of the rows of all sources. At the end, in = out + shadowed + tombstones dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MergeCounts {
    /// Rows read. Those stepped over inside a shadow are not.
    pub rows_in: u64,
    /// Rows given out.
    pub rows_out: u64,
    /// Rows shadowed.
    pub shadowed: u64,
    /// Tombstones left out.
    pub tombstones_dropped: u64,
}

impl MergeCounts {
    /// True if no row was lost or doubled, for a merge at its end.
    pub fn is_balanced(&self) -> bool {
        self.rows_in == self.rows_out + self.shadowed + self.tombstones_dropped
    }
}

/// What became of a row that a source has come to.
enum Arrival {
    Waits,
    Dropped,
}

/// A merging cursor. It owns copies of what it reads: no latch is held between calls.
#[derive(Debug)]
pub struct Merge {
    config: MergeConfig,
    /// There may be tombstones that are left out.
    drops_tombstones: bool,
    low: Vec<u8>,
    high: Option<Vec<u8>>,
    sources: Vec<Source>,
    heads: Vec<u64>,
    /// Sources that have to go on; after [`Merge::next_in_memory`] has said `None`, those that need a page.
    due: Vec<usize>,
    /// The source whose row is lent out.
    winner: Option<usize>,
    /// No head but that of the last winner is smaller.
    others_min: u64,
    /// How often the last winner has won in a row, without a stretch.
    wins: u32,
    /// Rows of the winner behind the one it is at that come before those of all others, and need no look.
    stretch: usize,
    base: Vec<u8>,
    /// Different keys with the same head since the base was chosen.
    collisions: u32,
    counts: MergeCounts,
    /// Tombstones left out since the last row that was given out,
    passed: u32,
    /// the first of them,
    first_passed: Vec<u8>,
    /// and how many there were before that row.
    passed_before: u32,
    /// Rows and tombstones of the sources that are counted.
    counted: (u64, u64),
    /// Leaves that were read.
    leaves: u64,
    shadowed_large: Vec<Handle>,
}

impl Merge {
    /// Before the first row from `low` up to, not including, `high`, or behind the last one. The newest source comes
    /// first.
    pub fn new(
        sources: Vec<MergeSource>,
        low: &[u8],
        high: Option<&[u8]>,
        config: MergeConfig,
    ) -> Self {
        let direction = config.direction;
        let count = sources.len();
        let has_tombstones = sources.iter().any(|source| source.has_tombstones);
        let mut shadow: Option<Arc<RangeSet>> = None;
        let sources = sources.into_iter().map(|source| {
            let walk = shadow.as_ref().map(|set| RangeWalk::new(Arc::clone(set), direction));
            if let Some(ranges) = source.ranges.as_ref().filter(|ranges| !ranges.is_empty()) {
                shadow = Some(match &shadow {
                    Some(newer) => Arc::new(newer.union(ranges)),
                    None => Arc::clone(ranges),
                });
            }
            let mut source = Source::new(&source, walk, (low, high), config);
            if direction == Direction::Forward
                && source.may_skip
                && source.shadow.as_mut().is_some_and(|shadow| shadow.covers(low))
            {
                source.skip_shadow((low, high), direction);
            }
            source
        });
        Self {
            config,
            drops_tombstones: has_tombstones && !config.keep_tombstones,
            low: low.to_vec(),
            high: high.map(<[u8]>::to_vec),
            sources: sources.collect(),
            heads: vec![HEAD_MAX; count],
            due: (0..count).collect(),
            winner: None,
            others_min: 0,
            wins: 0,
            stretch: 0,
            base: high.map_or(Vec::new(), |high| low[..common_bytes(low, high)].to_vec()),
            collisions: 0,
            counts: MergeCounts::default(),
            passed: 0,
            first_passed: Vec::new(),
            passed_before: 0,
            counted: (0, 0),
            leaves: 0,
            shadowed_large: Vec::new(),
        }
    }

    /// Goes to the next row without looking at pages: `None` if it must look.
    #[inline]
    pub fn next_in_memory(&mut self) -> Option<bool> {
        if let [source] = &mut self.sources[..] {
            loop {
                if !source.next_in_memory()? {
                    return Some(false);
                }
                self.counts.rows_in += 1;
                if source.is_counted {
                    self.counted.0 += 1;
                    self.counted.1 += u64::from(source.cursor.row().1 == Value::Tombstone);
                }
                if !self.drops_tombstones || source.cursor.row().1 != Value::Tombstone {
                    self.counts.rows_out += 1;
                    self.passed_before = std::mem::take(&mut self.passed);
                    return Some(true);
                }
                self.counts.tombstones_dropped += 1;
                if self.passed == 0 {
                    source.cursor.row().0.clone_into(&mut self.first_passed);
                }
                self.passed = self.passed.saturating_add(1);
            }
        }
        if self.stretch > 0 {
            self.stretch -= 1;
            let source = &mut self.sources[self.winner.expect("it is at a row")];
            source.has_key = false;
            self.counts.rows_in += 1;
            self.counts.rows_out += 1;
            self.passed_before = 0;
            return source.next_in_memory();
        }
        self.next_of_many()
    }

    /// After some wins in a row, looks how many more there will be in what the winner has of its leaf.
    #[inline]
    fn note_win(&mut self, winner: usize, last: Option<usize>) {
        // So that one search is cheaper than the comparisons that it saves.
        const WINS_MIN: u32 = 4;
        self.wins = if last == Some(winner) { self.wins + 1 } else { 0 };
        if self.wins < WINS_MIN {
            return;
        }
        self.wins = 0;
        let source = &mut self.sources[winner];
        if !source.is_mixed && source.shadow.is_none() {
            let (base, direction, limit) = (&self.base, self.config.direction, self.others_min);
            self.stretch = source.cursor.count_before(|key| head(base, key, direction) < limit);
        }
    }

    fn next_of_many(&mut self) -> Option<bool> {
        loop {
            let last = self.winner.take();
            if let Some(last) = last
                && !self.advance(last)
            {
                self.due.push(last);
            }
            if !self.due.is_empty() && !self.advance_due() {
                return None;
            }
            let Some(winner) = self.choose(last) else { return Some(false) };
            match self.sources[winner].row {
                Row::ShadowedLarge => {
                    self.counts.shadowed += 1;
                    self.shadowed_large.extend(self.sources[winner].large());
                }
                Row::Tombstone if self.drops_tombstones => {
                    self.counts.tombstones_dropped += 1;
                    if self.passed == 0 {
                        let cursor = &mut self.sources[winner].cursor;
                        cursor.row().0.clone_into(&mut self.first_passed);
                    }
                    self.passed = self.passed.saturating_add(1);
                }
                _ => {
                    self.counts.rows_out += 1;
                    self.passed_before = std::mem::take(&mut self.passed);
                    self.winner = Some(winner);
                    self.note_win(winner, last);
                    return Some(true);
                }
            }
            self.due.push(winner);
        }
    }

    /// Goes to the next row; false at the end. May stop, and is then called again.
    ///
    /// # Errors
    /// As [`Pages::read`].
    pub fn next<P: Pages>(&mut self, pages: &P, view: View) -> Step<bool> {
        loop {
            if let Some(next) = self.next_in_memory() {
                debug_assert!(next || self.counts.is_balanced(), "no row is lost or doubled");
                return Ok(next);
            }
            let only = [0];
            let due = if self.sources.len() == 1 { &only[..] } else { &self.due[..] };
            for i in due {
                let source = &mut self.sources[*i];
                if source.fetched.is_none() {
                    source.fetched = Some(source.cursor.next(pages, &source.tree, view)?);
                    self.leaves += 1;
                }
            }
        }
    }

    /// The row it is at. A tombstone only if they are kept.
    ///
    /// # Panics
    /// If there are no sources.
    #[inline]
    pub fn row(&mut self) -> (&[u8], Value<'_>) {
        self.sources[self.winner.unwrap_or(0)].cursor.row()
    }

    /// The source of the row it is at, counted from the newest.
    pub fn source(&self) -> usize {
        self.winner.unwrap_or(0)
    }

    /// Appends the next pages of every source that needs one, after [`Self::next`] has met one that is missing.
    ///
    /// # Errors
    /// As [`Cursor::upcoming`].
    pub fn upcoming<P: Pages>(&mut self, pages: &P, view: View, out: &mut Vec<PageId>) -> Step<()> {
        let only = [0];
        let due = if self.sources.len() == 1 { &only[..] } else { &self.due[..] };
        for i in due {
            let source = &mut self.sources[*i];
            if source.fetched.is_none() {
                source.cursor.upcoming(pages, &source.tree, view, out)?;
            }
        }
        Ok(())
    }

    /// Appends pages that its sources are going to need later, as [`Cursor::further`].
    ///
    /// # Errors
    /// As [`Cursor::further`].
    pub fn further<P: Pages>(&mut self, pages: &P, view: View, out: &mut Vec<PageId>) -> Step<()> {
        for source in &mut self.sources {
            source.cursor.further(pages, &source.tree, view, out)?;
        }
        Ok(())
    }

    /// As [`Cursor::ahead`], if there is one source.
    pub fn ahead(&self) -> Option<Ahead> {
        if let [source] = &self.sources[..] { source.cursor.ahead() } else { None }
    }

    /// What has become of the rows so far.
    pub fn counts(&self) -> MergeCounts {
        self.counts
    }
    /// Leaves that it has read, of all sources.
    pub fn leaves(&self) -> u64 {
        self.leaves
    }
    /// Rows met so far in the sources that are counted, and tombstones among them.
    pub fn counted(&self) -> (u64, u64) {
        self.counted
    }
    /// Tombstones left out right before the row it is at, and the first of them in its direction.
    pub fn passed_before_row(&self) -> (u32, &[u8]) {
        (self.passed_before, &self.first_passed)
    }
    /// Tombstones left out since the last row that was given out, at the end of a merge, and the first of them.
    pub fn passed_since_row(&self) -> (u32, &[u8]) {
        (self.passed, &self.first_passed)
    }
    /// Handles that were shadowed and that no row given out has. The caller empties it.
    pub fn shadowed_large(&mut self) -> &mut Vec<Handle> {
        &mut self.shadowed_large
    }

    /// Brings the due sources to their next rows, as far as memory goes; false if some need a page.
    fn advance_due(&mut self) -> bool {
        let mut place = 0;
        while let Some(&i) = self.due.get(place) {
            if self.advance(i) {
                self.due.swap_remove(place);
            } else {
                place += 1;
            }
        }
        place == 0
    }

    #[inline]
    fn advance(&mut self, i: usize) -> bool {
        loop {
            let source = &mut self.sources[i];
            if source.row == Row::End {
                self.heads[i] = HEAD_MAX;
                return true;
            }
            match source.next_in_memory() {
                None => return false,
                Some(false) => source.row = Row::End,
                Some(true) => {
                    if let Arrival::Waits = self.arrive(i) {
                        return true;
                    }
                }
            }
        }
    }

    /// Looks at a row that source `i` has come to.
    #[inline]
    fn arrive(&mut self, i: usize) -> Arrival {
        let source = &mut self.sources[i];
        self.counts.rows_in += 1;
        let (key, value) = source.cursor.row();
        if source.is_mixed {
            source.row = match value {
                Value::Inline(_) => Row::Inline,
                Value::Overflow(_) => Row::Large,
                Value::Tombstone => Row::Tombstone,
            };
            if source.is_counted {
                self.counted.0 += 1;
                self.counted.1 += u64::from(source.row == Row::Tombstone);
            }
        }
        source.has_key = false;
        if let Some(shadow) = &mut source.shadow {
            if !shadow.covers(key) {
                source.shadowed_in_row = 0;
            } else if source.row == Row::Large && self.config.report_large {
                source.row = Row::ShadowedLarge;
            } else {
                self.counts.shadowed += 1;
                if source.may_skip {
                    let range = (&self.low[..], self.high.as_deref());
                    source.skip_shadow(range, self.config.direction);
                }
                return Arrival::Dropped;
            }
        }
        self.heads[i] = head(&self.base, key, self.config.direction);
        Arrival::Waits
    }
}
