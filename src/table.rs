//! Tables: single operations, each a commit of its own.

use crate::bulk_load::BulkLoad;
use crate::catalog::{Index, TableState};
use crate::commit::Expect;
use crate::db::Shared;
use crate::engine::Engine;
use crate::get::{Found, find, get_with, large, prefetch};
use crate::options::Durability;
use crate::range::{KeyRange, Span};
use crate::rows::Rows;
use crate::ticket::Ticket;
use crate::work::Round;
use crate::write_set::WriteSet;
use esker_base::sync::{Arc, Ordering};
use esker_base::{CommitNo, Error, Result};
use esker_index::pages::View;
use std::fmt;

/// A table of a database: cheap to clone, usable from any thread.
///
/// Keys have 1 byte to [`KEY_BYTES_MAX`](crate::KEY_BYTES_MAX) (less with small pages), values up to
/// [`VALUE_BYTES_MAX`](crate::VALUE_BYTES_MAX). Every write is atomic and durable at the
/// database's level when it returns.
#[derive(Clone)]
pub struct Table {
    pub(crate) engine: Arc<Engine>,
    pub(crate) state: Arc<TableState>,
    /// Keeps the database open.
    pub(crate) _open: Arc<Shared>,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("name", &self.state.name)
            .field("kind", &self.state.kind)
            .finish_non_exhaustive()
    }
}

impl Table {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// Its kind of index.
    pub fn kind(&self) -> Index {
        self.state.kind
    }

    /// True if its rows come in the order of their keys, and ranges can be asked for.
    pub fn is_ordered(&self) -> bool {
        self.state.index.is_ordered()
    }

    /// Writes a row, replacing one of the same key.
    pub fn put(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<()> {
        self.put_with(key, value, self.engine.options.durability)
    }

    /// As [`Self::put`], at another durability.
    pub fn put_with(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
        durability: Durability,
    ) -> Result<()> {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.engine
            .write_one(&self.state, key, Some(value), Expect::Anything, durability)
            .map(|_| ())
    }

    /// As [`Self::put`], but returns as soon as the write survives the death of the process, with a
    /// [`Ticket`] to wait for its survival of power loss.
    pub fn submit(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Ticket> {
        let (key, value) = (key.as_ref(), value.as_ref());
        let lsn = self.engine.write_one(
            &self.state,
            key,
            Some(value),
            Expect::Anything,
            Durability::Os,
        )?;
        Ok(Ticket::new(&self.engine, lsn))
    }

    /// Loads rows whose keys ascend strictly, in commits of about a megabyte: leaves are filled to the
    /// brim. Returns how many. At [`Durability::Sync`] one sync at the end covers all of them. A table without order gathers up to an
    /// eighth of [`Options::memory_bytes`](crate::Options::memory_bytes) first (at most 128 MiB); of more it writes what is before
    /// once to a file without a name, sorted as it will lie in the table, and commits nothing before all rows are there.
    ///
    /// # Errors
    /// `Invalid` if a key is not above the one before; what was committed before stays, and so it does after a crash: the first rows
    /// by key, or, of a table without order, any.
    pub fn bulk_load<K: AsRef<[u8]>, V: AsRef<[u8]>>(
        &self,
        rows: impl IntoIterator<Item = (K, V)>,
    ) -> Result<u64> {
        let mut load = BulkLoad::new(self);
        for (key, value) in rows {
            load.push(key.as_ref(), value.as_ref())?;
        }
        load.finish()
    }

    /// Removes a row, if it is there.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<()> {
        let durability = self.engine.options.durability;
        self.engine
            .write_one(&self.state, key.as_ref(), None, Expect::Anything, durability)
            .map(|_| ())
    }

    /// Writes a row if there is none of that key. Returns whether it did.
    pub fn put_if_absent(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<bool> {
        let durability = self.engine.options.durability;
        let (key, value) = (key.as_ref(), value.as_ref());
        let written =
            self.engine.write_one(&self.state, key, Some(value), Expect::Absent, durability)?;
        Ok(written.is_some())
    }

    /// Replaces what a key holds, if that is `expected` (`None`: no row), by `new` (`None`: removes it). Returns
    /// whether it did.
    pub fn compare_and_swap(
        &self,
        key: impl AsRef<[u8]>,
        expected: Option<&[u8]>,
        new: Option<&[u8]>,
    ) -> Result<bool> {
        let key = key.as_ref();
        let durability = self.engine.options.durability;
        let Some(expected) = expected else {
            if new.is_none() {
                return Ok(!self.contains(key)?);
            }
            let written =
                self.engine.write_one(&self.state, key, new, Expect::Absent, durability)?;
            return Ok(written.is_some());
        };
        let cut = HeldCut::take(&self.engine);
        let handle = match find(&self.engine, &self.state, View::Cut(cut.commit), key)? {
            Some(Found::Large(handle)) => {
                if large(&self.engine, handle)? != expected {
                    return Ok(false);
                }
                Some(handle)
            }
            _ => None,
        };
        let expect = Expect::Value(expected, handle);
        Ok(self.engine.write_one(&self.state, key, new, expect, durability)?.is_some())
    }

    /// Applies a merge operator registered with
    /// [`Options::merge_operator`](crate::Options::merge_operator): the new value is
    /// `operator(key, existing, operand)`. Atomic, and retried when another writer comes between.
    pub fn merge(
        &self,
        operator: &str,
        key: impl AsRef<[u8]>,
        operand: impl AsRef<[u8]>,
    ) -> Result<()> {
        let (key, operand) = (key.as_ref(), operand.as_ref());
        let merge = self.engine.options.operators.get(operator)?;
        loop {
            let old = self.get(key)?;
            let new = merge(key, old.as_deref(), operand);
            if self.compare_and_swap(key, old.as_deref(), new.as_deref())? {
                return Ok(());
            }
        }
    }

    /// The value of a key.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        self.get_with(key, <[u8]>::to_vec)
    }

    /// Calls `f` with the value of a key, without allocating for it. The value cannot be kept beyond the call:
    ///
    /// ```compile_fail
    /// # fn keep(table: &esker::Table) -> esker::Result<()> {
    /// let mut kept: &[u8] = &[];
    /// table.get_with("key", |value| kept = value)?;
    /// assert!(!kept.is_empty());
    /// # Ok(()) }
    /// ```
    pub fn get_with<R>(
        &self,
        key: impl AsRef<[u8]>,
        f: impl FnOnce(&[u8]) -> R,
    ) -> Result<Option<R>> {
        self.engine.counters.gets.add(1);
        get_with(&self.engine, &self.state, key.as_ref(), f)
    }

    /// Whether a key has a row.
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool> {
        let key = key.as_ref();
        self.check_open()?;
        let state = &self.state;
        self.engine.read(state.id, View::Current, |session| {
            state.index.get(session, &state.root, View::Current, key, |value, _| value.is_some())
        })
    }

    /// The values of many keys, in the order of `keys`. Pages that are not in memory are read in
    /// batches. Each key is read on its own: take a snapshot to read them as of one moment.
    pub fn multi_get<K: AsRef<[u8]>>(&self, keys: &[K]) -> Result<Vec<Option<Vec<u8>>>> {
        self.check_open()?;
        prefetch(&self.engine, &self.state, View::Current, keys)?;
        keys.iter().map(|key| self.get(key)).collect()
    }

    /// The rows of a range, in key order, as of one moment. Reverse with [`Iterator::rev`].
    ///
    /// # Errors
    /// `Unordered` for a hash: read [`Self::rows`].
    pub fn range(&self, range: impl KeyRange) -> Result<Rows> {
        self.check_open()?;
        self.state.check_ordered("a range")?;
        Ok(Rows::new(self.clone(), HeldCut::take(&self.engine), Span::of(&range)))
    }

    /// All rows as of one moment: in key order if the index has one, else in any.
    pub fn rows(&self) -> Result<Rows> {
        self.check_open()?;
        Ok(Rows::new(self.clone(), HeldCut::take(&self.engine), Span::all()))
    }

    /// The rows whose keys begin with `prefix`.
    ///
    /// # Errors
    /// As [`Self::range`].
    pub fn prefix(&self, prefix: impl AsRef<[u8]>) -> Result<Rows> {
        self.check_open()?;
        self.state.check_ordered("a prefix")?;
        let span = Span::of_prefix(prefix.as_ref());
        Ok(Rows::new(self.clone(), HeldCut::take(&self.engine), span))
    }

    /// Removes all rows of a range. Whole pages of rows are dropped without being read.
    ///
    /// # Errors
    /// `Unordered` for a hash, unless the range is `..`.
    pub fn delete_range(&self, range: impl KeyRange) -> Result<()> {
        let span = Span::of(&range);
        if !span.is_all() {
            self.state.check_ordered("a range delete")?;
        }
        if span.is_empty() {
            return Ok(());
        }
        let mut set = WriteSet::default();
        set.delete_range(&self.state, span);
        self.engine.write_many(set, None, 0, self.engine.options.durability).map(|_| ())
    }

    /// Removes all rows.
    pub fn clear(&self) -> Result<()> {
        self.delete_range(..)
    }

    /// Merges a range: what background work would do for its rows some day is done now, so that scans of it read each
    /// page once, and what was deleted there comes back as space. Returns when that is done.
    ///
    /// A fractal tree moves all that was written to the range before the call down to its lowest nodes, each of which
    /// becomes one run. What is written meanwhile may stay above them. A B-tree and a hash have nothing to merge: they
    /// return at once.
    ///
    /// Cost: everything in the lowest nodes of the range is read and written once, and so is what their ways down from the
    /// root hold, of neighbouring keys too. It is done on this thread, in the steps and turns of background work, of which
    /// one piece is under way at a time: writers go on, and work that they wait for comes first. Rows do not change, so
    /// cuts and transactions do not see it; a crash leaves it half done, which loses nothing.
    ///
    /// # Errors
    /// `Unordered` for a part of a hash. `Io`, `NoSpace`, `Corrupt` of whatever background work was under way: then the
    /// range may be merged in part, and the rest is done in the background.
    pub fn optimize(&self, range: impl KeyRange) -> Result<()> {
        self.check_open()?;
        let span = Span::of(&range);
        if !span.is_all() {
            self.state.check_ordered("a range")?;
        }
        if span.is_empty() {
            return Ok(());
        }
        let wish = self.state.index.want_merged(&span.low, span.high.as_deref());
        while !self.state.index.is_merged(wish) {
            self.check_open()?;
            self.engine.check_writable()?;
            if self.engine.work_round(false)? == Round::Nothing {
                self.engine.catch_up()?;
            }
        }
        Ok(())
    }

    /// Removes the row with the smallest key and returns it.
    pub fn pop_first(&self) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        self.pop(false)
    }

    /// Removes the row with the largest key and returns it.
    pub fn pop_last(&self) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        self.pop(true)
    }

    fn pop(&self, last: bool) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        self.state.check_ordered("the first or last row")?;
        loop {
            let mut rows = self.range(..)?;
            let row = if last { rows.next_back() } else { rows.next() };
            let Some(row) = row.transpose()? else { return Ok(None) };
            let (key, value) = (row.key().to_vec(), row.value().to_vec());
            drop((row, rows));
            // Somebody else may have taken it: then there is another first row.
            if self.compare_and_swap(&key, Some(&value), None)? {
                return Ok(Some((key, value)));
            }
        }
    }

    /// About how many rows the table has. Free; exact unless range deletes dropped whole pages, or rows were written without a
    /// look at what was there: in fractal trees, and in hash tables beyond memory until background work has come to them.
    pub fn approximate_len(&self) -> u64 {
        self.state.rows.load(Ordering::Relaxed)
    }

    /// About how many rows a range has, from the shape of the tree: a few page visits.
    pub fn approximate_count(&self, range: impl KeyRange) -> Result<u64> {
        self.check_open()?;
        let (span, state) = (Span::of(&range), &self.state);
        if !span.is_all() {
            state.check_ordered("a range")?;
        }
        let total = self.approximate_len();
        self.engine.read(state.id, View::Current, |session| {
            let span = (&span.low[..], span.high.as_deref());
            state.index.estimate_rows(session, &state.root, View::Current, span, total)
        })
    }

    pub(crate) fn check_open(&self) -> Result<()> {
        check_open(&self.engine, &self.state)
    }
}

pub(crate) fn check_open(engine: &Engine, table: &TableState) -> Result<()> {
    if engine.closed.load(Ordering::Relaxed) {
        return Err(Error::Closed);
    }
    if table.dropped.load(Ordering::Relaxed) {
        return Err(Error::UnknownTable { name: table.name.clone() });
    }
    Ok(())
}

/// A cut, given back when dropped.
#[derive(Debug)]
pub(crate) struct HeldCut {
    engine: Arc<Engine>,
    pub(crate) commit: CommitNo,
}

impl HeldCut {
    pub(crate) fn take(engine: &Arc<Engine>) -> Self {
        Self { engine: Arc::clone(engine), commit: engine.take_cut() }
    }
    /// For a cut that was taken already.
    pub(crate) fn adopt(engine: &Arc<Engine>, commit: CommitNo) -> Self {
        Self { engine: Arc::clone(engine), commit }
    }
}

impl Drop for HeldCut {
    fn drop(&mut self) {
        self.engine.release_cut(self.commit);
    }
}
