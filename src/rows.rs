//! Scans: the rows of a range as of a cut.
//!
//! A scan copies one leaf at a time (one memory copy under its latch, if it is the current page), then
//! lends rows out of the copy: nothing is locked between rows.

use crate::range::Span;
use crate::store::frame::{Ahead, FrameId};
use crate::table::{HeldCut, Table, large};
use crate::value::Handle;
use esker_base::sync::Arc;
use esker_base::{PageId, Result};
use esker_index::btree::{self, Direction, LeafCopy, Value};
use esker_index::pages::View;

/// A row of a scan, taken out of it.
#[derive(Clone, Debug)]
pub struct Row {
    key: Vec<u8>,
    value: Vec<u8>,
}

impl Row {
    fn of((key, value): (&[u8], &[u8])) -> Self {
        Self { key: key.to_vec(), value: value.to_vec() }
    }
    /// The key.
    pub fn key(&self) -> &[u8] {
        &self.key
    }
    /// The value.
    pub fn value(&self) -> &[u8] {
        &self.value
    }
    /// Key and value, taken out.
    pub fn into_parts(self) -> (Vec<u8>, Vec<u8>) {
        (self.key, self.value)
    }
}

/// One end of a scan.
#[derive(Debug, Default)]
struct End {
    copy: LeafCopy,
    /// The next row of the copy to give, counted from the front; for the back end, one past it.
    at: usize,
    /// Rows of the copy inside the span.
    first: usize,
    last: usize,
    started: bool,
    done: bool,
    large: Vec<u8>,
    /// The lines of the next leaf.
    ahead: Ahead,
    /// Leaves asked for at once the last time, and how many of them are still to come.
    window: usize,
    asked_for: usize,
}

impl End {
    /// Lends row `i` of the copy.
    fn lend(&mut self, table: &Table, i: usize) -> Result<(&[u8], &[u8])> {
        // While this leaf's rows are looked at, the next one's lines come in.
        table.engine.store.frames.prefetch_some(&mut self.ahead);
        let (key, value) = self.copy.row(i);
        match value {
            Value::Inline(value) => Ok((key, value)),
            Value::Overflow(handle) => {
                self.large = large(&table.engine, Handle::decode(&handle))
                    .inspect_err(|_| self.done = true)?;
                Ok((key, &self.large))
            }
        }
    }
}

/// The rows of a range, in key order, as of one moment, however long the scan takes.
///
/// As an [`Iterator`] it gives owned rows. [`Rows::next_row`] lends them instead, without allocating.
#[derive(Debug)]
pub struct Rows {
    table: Table,
    cut: Arc<HeldCut>,
    span: Span,
    front: End,
    back: End,
    upcoming: Vec<PageId>,
}

/// Leaves asked for at once by a scan that goes on: two at its second leaf, then twice as many each time,
/// up to this.
const READ_AHEAD_MAX: usize = 32;

impl Rows {
    pub(crate) fn new(table: Table, cut: HeldCut, span: Span) -> Self {
        Self::at(table, Arc::new(cut), span)
    }

    /// At a cut that others hold too.
    pub(crate) fn at(table: Table, cut: Arc<HeldCut>, span: Span) -> Self {
        let done = span.is_empty();
        let end = || End { done, ..End::default() };
        Self { table, cut, span, front: end(), back: end(), upcoming: Vec::new() }
    }

    /// Lends the next row: key and value.
    ///
    /// # Errors
    /// `Io`, `Corrupt`; after an error the scan gives nothing more.
    pub fn next_row(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        if !self.advance(Direction::Forward)? {
            return Ok(None);
        }
        let i = self.front.at;
        self.front.at += 1;
        if self.back.started && self.has_met(Direction::Forward, i) {
            return Ok(None);
        }
        self.front.lend(&self.table, i).inspect_err(|_| self.back.done = true).map(Some)
    }

    /// Lends the next row from the other end: key and value.
    ///
    /// # Errors
    /// As [`Self::next_row`].
    pub fn next_row_back(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        if !self.advance(Direction::Backward)? {
            return Ok(None);
        }
        self.back.at -= 1;
        let i = self.back.at;
        if self.front.started && self.has_met(Direction::Backward, i) {
            return Ok(None);
        }
        self.back.lend(&self.table, i).inspect_err(|_| self.front.done = true).map(Some)
    }

    /// True if the row that one end is about to give was given by the other, which has started: then
    /// both are done.
    fn has_met(&mut self, direction: Direction, i: usize) -> bool {
        let (front, back) = (&mut self.front, &mut self.back);
        // An end that is done has given everything; one that is not stands in the leaf of the row that
        // it gave last.
        let met = match direction {
            Direction::Forward => back.done || front.copy.row(i).0 >= back.copy.row(back.at).0,
            Direction::Backward => {
                front.done || back.copy.row(i).0 <= front.copy.row(front.at - 1).0
            }
        };
        if met {
            front.done = true;
            back.done = true;
        }
        met
    }

    /// Makes sure that the end's copy has a row to give; false at the end of the scan.
    fn advance(&mut self, direction: Direction) -> Result<bool> {
        loop {
            let end = match direction {
                Direction::Forward => &self.front,
                Direction::Backward => &self.back,
            };
            if end.done {
                return Ok(false);
            }
            let has_row = match direction {
                Direction::Forward => end.started && end.at < end.last,
                Direction::Backward => end.started && end.at > end.first,
            };
            if has_row {
                return Ok(true);
            }
            if let Err(error) = self.next_leaf(direction) {
                self.front.done = true;
                self.back.done = true;
                return Err(error);
            }
        }
    }

    /// Copies the next leaf of the scan.
    fn next_leaf(&mut self, direction: Direction) -> Result<()> {
        let engine = &self.table.engine;
        let view = View::Cut(self.cut.commit);
        let root = &self.table.state.root;
        let end = match direction {
            Direction::Forward => &mut self.front,
            Direction::Backward => &mut self.back,
        };
        // Where the copy so far ends, the next one begins.
        let bound: Option<Vec<u8>> = match (direction, end.started) {
            (Direction::Forward, false) => Some(self.span.low.clone()),
            (Direction::Backward, false) => self.span.high.clone(),
            (Direction::Forward, true) => {
                let Some(high) = end.copy.high_fence() else {
                    end.done = true;
                    return Ok(());
                };
                Some(high.to_vec())
            }
            (Direction::Backward, true) => {
                let low = end.copy.low_fence();
                if low.is_empty() {
                    end.done = true;
                    return Ok(());
                }
                Some(low.to_vec())
            }
        };
        let past = match direction {
            Direction::Forward => {
                bound.as_ref().zip(self.span.high.as_ref()).is_some_and(|(at, high)| at >= high)
            }
            Direction::Backward => {
                end.started && bound.as_ref().is_some_and(|at| *at <= self.span.low)
            }
        };
        if past {
            end.done = true;
            return Ok(());
        }
        if end.started && end.asked_for == 0 {
            end.window = (end.window * 2).clamp(2, READ_AHEAD_MAX);
            end.asked_for = end.window;
            let window = end.window;
            let upcoming = &mut self.upcoming;
            engine.read(view, |session| {
                upcoming.clear();
                btree::upcoming(session, root, view, bound.as_deref(), window, direction, upcoming)
            })?;
            upcoming.retain(|page| engine.store.resident.get(*page).is_none());
            if upcoming.len() > 1 {
                // Read-ahead: what fails here is met again, with its error, below.
                let _ignored = engine.store.load_many(upcoming, view).is_err();
            }
        }
        end.asked_for = end.asked_for.saturating_sub(1);
        let copy = &mut end.copy;
        let found = engine.read(view, |session| {
            btree::seek_leaf(session, root, view, bound.as_deref(), direction, copy)
        })?;
        end.started = true;
        if !found {
            end.done = true;
            return Ok(());
        }
        let frames = &engine.store.frames;
        let hint = copy.next_hint().unwrap_or(FrameId::MAX);
        end.ahead = frames.plan_ahead(hint, copy.len(), copy.used_bytes());
        end.first = copy.lower_bound(&self.span.low);
        end.last = self.span.high.as_ref().map_or(copy.len(), |high| copy.lower_bound(high));
        end.at = match direction {
            Direction::Forward => end.first,
            Direction::Backward => end.last,
        };
        Ok(())
    }
}

impl Iterator for Rows {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_row().map(|row| row.map(Row::of)).transpose()
    }
}

impl DoubleEndedIterator for Rows {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.next_row_back().map(|row| row.map(Row::of)).transpose()
    }
}
