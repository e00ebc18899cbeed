//! Scans: the rows of a range as of a cut.
//!
//! A cursor copies one page at a time (one memory copy under its latch, if it is the current page), then
//! lends rows out of the copy: nothing is locked between rows. What the cursor misses is read here, together with what it
//! is going to miss.

use crate::catalog::TableState;
use crate::engine::{Engine, Tries};
use crate::get::large;
use crate::kinds::AnyCursor;
use crate::range::Span;
use crate::read_ahead::{Claim, READ_NOW};
use crate::store::frame::Ahead;
use crate::store::pages::Session;
use crate::table::{HeldCut, Table};
use crate::value::Handle;
use esker_base::sync::Arc;
use esker_base::{PageId, Result};
use esker_index::kind::{Direction, Value};
use esker_index::pages::{ChildWord, Stop, View};

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
#[derive(Debug)]
struct End {
    cursor: AnyCursor,
    started: bool,
    done: bool,
    large: Vec<u8>,
    /// The lines of the next page.
    ahead: Ahead,
}

impl End {
    fn new(cursor: AnyCursor, done: bool) -> Self {
        Self { cursor, started: false, done, large: Vec::new(), ahead: Ahead::default() }
    }

    /// Has pages that will be needed later read by another thread, if there is one and memory for them.
    fn ask_further(
        &mut self,
        engine: &Engine,
        session: &Session<'_>,
        root: &ChildWord,
        view: View,
        further: &mut Vec<PageId>,
    ) {
        let store = &engine.store;
        if !engine.scan_ahead.is_running() || !store.has_room_ahead() {
            return;
        }
        further.clear();
        // What stands in the way here is met again by the cursor itself.
        if let Err(Stop::Missing(page)) = self.cursor.further(session, root, view, further) {
            further.push(page);
        }
        further.retain(|page| store.resident.get(*page).is_none());
        if !further.is_empty() {
            engine.scan_ahead.ask(further, view, store.read_ahead_max());
        }
    }

    /// Brings in a page that is missing, and what is going to be missing next.
    fn read_with_upcoming(
        &mut self,
        engine: &Engine,
        table: &TableState,
        (page, view): (PageId, View),
        tries: &mut Tries,
    ) {
        let store = &engine.store;
        let mut wanted = Vec::new();
        let session = || Session::new(store, table.id);
        if self.cursor.upcoming(&session(), &table.root, view, &mut wanted).is_err() {
            wanted.clear();
        }
        tries.read_ahead(store, page, &mut wanted);
        if wanted.is_empty() {
            return;
        }
        let later = wanted.get(READ_NOW..).unwrap_or_default();
        if !later.is_empty()
            && store.has_room_ahead()
            && engine.scan_ahead.ask(later, view, store.read_ahead_max())
        {
            wanted.truncate(READ_NOW);
        }
        wanted.insert(0, page);
        // An error is met again, and told, by who follows up the stop.
        let _ignored = store.load_many(&wanted, view).is_err();
    }

    /// Lends the row that the cursor is at.
    #[inline]
    fn lend(&mut self, table: &Table) -> Result<(&[u8], &[u8])> {
        // While this page's rows are looked at, the next one's lines come in.
        table.engine.store.frames.prefetch_some(&mut self.ahead);
        let (key, value) = self.cursor.row();
        match value {
            Value::Inline(value) => Ok((key, value)),
            Value::Overflow(handle) => {
                self.large = large(&table.engine, Handle::decode(&handle))
                    .inspect_err(|_| self.done = true)?;
                Ok((key, &self.large))
            }
            Value::Tombstone => unreachable!("cursors do not show them"),
        }
    }
}

/// The rows of a range, in key order, as of one moment, however long the scan takes.
///
/// As an [`Iterator`] it gives owned rows. [`Rows::next_row`] lends them instead, without allocating. The rows of
/// a table without order come in any, and have no back.
#[derive(Debug)]
pub struct Rows {
    table: Table,
    cut: Arc<HeldCut>,
    span: Span,
    front: End,
    /// Made when it is first asked for.
    back: Option<Box<End>>,
    missing: Vec<PageId>,
}

impl Rows {
    pub(crate) fn new(table: Table, cut: HeldCut, span: Span) -> Self {
        Self::at(table, Arc::new(cut), span)
    }

    /// At a cut that others hold too.
    pub(crate) fn at(table: Table, cut: Arc<HeldCut>, span: Span) -> Self {
        let cursor = table.state.index.cursor(&span.low, span.high.as_deref(), Direction::Forward);
        let front = End::new(cursor, span.is_empty());
        Self { table, cut, span, front, back: None, missing: Vec::new() }
    }

    /// Lends the next row: key and value.
    ///
    /// # Errors
    /// `Io`, `Corrupt`; after an error the scan gives nothing more.
    pub fn next_row(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        if self.front.done {
            return Ok(None);
        }
        let next = self.front.cursor.next_in_memory();
        let found = match next {
            Some(found) => found,
            None => self.look(Direction::Forward)?,
        };
        self.front.started = true;
        if !found {
            self.front.done = true;
            return Ok(None);
        }
        if self.back.is_some() && self.has_met(Direction::Forward) {
            return Ok(None);
        }
        self.front.lend(&self.table).map(Some)
    }

    /// Lends the next row from the other end: key and value.
    ///
    /// # Errors
    /// As [`Self::next_row`]; `Unordered` if the table has no order, and so no other end.
    pub fn next_row_back(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        if self.back.is_none() {
            let state = &self.table.state;
            state.check_ordered("the last row")?;
            let (low, high) = (&self.span.low, self.span.high.as_deref());
            let cursor = state.index.cursor(low, high, Direction::Backward);
            let done = self.span.is_empty() || self.front.done;
            self.back = Some(Box::new(End::new(cursor, done)));
        }
        let back = self.back.as_mut().expect("made above");
        if back.done {
            return Ok(None);
        }
        let found = match back.cursor.next_in_memory() {
            Some(found) => found,
            None => self.look(Direction::Backward)?,
        };
        let back = self.back.as_mut().expect("made above");
        back.started = true;
        if !found {
            back.done = true;
            return Ok(None);
        }
        if self.front.started && self.has_met(Direction::Backward) {
            return Ok(None);
        }
        self.back.as_mut().expect("made above").lend(&self.table).map(Some)
    }

    /// True if the row that one end is about to give was given by the other, which has started: then
    /// both are done.
    fn has_met(&mut self, direction: Direction) -> bool {
        let (front, back) = (&mut self.front, self.back.as_mut().expect("both ends are in use"));
        // An end that is done has given everything; one that is not stands at the row that it gave last.
        let met = match direction {
            Direction::Forward => {
                back.done || (back.started && front.cursor.row().0 >= back.cursor.row().0)
            }
            Direction::Backward => front.done || back.cursor.row().0 <= front.cursor.row().0,
        };
        if met {
            front.done = true;
            back.done = true;
        }
        met
    }

    /// Moves a cursor that must look at pages, and brings in what it needs; false at the end of the scan.
    #[cold]
    fn look(&mut self, direction: Direction) -> Result<bool> {
        let result = self.try_look(direction);
        if result.is_err() {
            self.front.done = true;
            if let Some(back) = &mut self.back {
                back.done = true;
            }
        }
        result
    }

    fn try_look(&mut self, direction: Direction) -> Result<bool> {
        let engine = &self.table.engine;
        let view = View::Cut(self.cut.commit);
        let root = &self.table.state.root;
        let end = match direction {
            Direction::Forward => &mut self.front,
            Direction::Backward => self.back.as_mut().expect("made before it is used"),
        };
        let mut tries = Tries::default();
        loop {
            let stop = {
                let session = Session::new(&engine.store, self.table.state.id);
                match end.cursor.next(&session, root, view) {
                    Ok(found) => {
                        if let Some(next) = end.cursor.ahead() {
                            let frames = &engine.store.frames;
                            end.ahead = frames.plan_ahead(next.hint, next.rows, next.used_bytes);
                        }
                        end.ask_further(engine, &session, root, view, &mut self.missing);
                        return Ok(found);
                    }
                    Err(stop) => stop,
                }
            };
            if let Stop::Missing(page) = stop {
                match engine.scan_ahead.claim(page, view, READ_NOW) {
                    Claim::Yours(pages) => {
                        // An error is met again, and told, by who goes there.
                        let _ignored = engine.store.load_many(&pages, view).is_err();
                        continue;
                    }
                    Claim::Waited if engine.store.resident.get(page).is_some() => continue,
                    Claim::Waited | Claim::Unknown => {
                        end.read_with_upcoming(engine, &self.table.state, (page, view), &mut tries);
                    }
                }
            }
            engine.follow_up(stop, view, &mut tries)?;
        }
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
