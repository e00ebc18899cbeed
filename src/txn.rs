//! Transactions: optimistic, over any tables of one database.
//!
//! A transaction has a *begin number*. What it reads is as of that number, or it moves the number
//! forward after checking that nothing it has read so far was written since. At commit, in the
//! turn, the same check decides. See DESIGN.md §6.

use crate::conflict::{KeyMark, RangeMark, ReadSet};
use crate::engine::Engine;
use crate::get::find_whole;
use crate::options::Durability;
use crate::range::{KeyRange, Span};
use crate::rows::Rows;
use crate::store::count;
use crate::table::{HeldCut, Table, check_open};
use crate::ticket::Ticket;
use crate::value::Handle;
use crate::write_set::WriteSet;
use esker_base::sync::{Arc, AtomicBool, Ordering};
use esker_base::{CommitNo, Error, Lsn, Result, TableId};
use esker_index::kind::Value;
use esker_index::pages::View;
use std::collections::BTreeMap;
use std::fmt;

/// What concurrent transactions may notice of each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// Nothing: some order of running them one by one gives the same result.
    #[default]
    Serializable,
    /// Each reads as of its begin; two that write the same key conflict, but one may write what another only read.
    Snapshot,
}

/// A transaction. Dropped without [`Transaction::commit`], it leaves no trace.
///
/// Any method may answer [`Error::Conflict`]; after that, and after any other error, the transaction
/// can only be dropped. [`Database::transact`](crate::Database::transact) does that and tries again.
pub struct Transaction {
    engine: Arc<Engine>,
    number: u64,
    isolation: Isolation,
    begin: CommitNo,
    /// Once it scans, everything is read at this cut.
    cut: Option<Arc<HeldCut>>,
    /// Under snapshot isolation: the keys written.
    reads: ReadSet,
    writes: BTreeMap<(TableId, Vec<u8>), Write>,
    /// Ranges deleted, in order, with the tables' handles.
    ranges: Vec<(Table, Span)>,
    tables: BTreeMap<TableId, Table>,
    write_bytes: u64,
    failed: bool,
    /// A scan of rows has failed since it began; none until there is one.
    scan_failed: Option<Arc<AtomicBool>>,
    entered: bool,
    pub(crate) durability: Durability,
}

/// What a transaction has written to a key.
#[derive(Clone, Debug)]
enum Write {
    Put(Vec<u8>),
    Delete,
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction")
            .field("begin", &self.begin)
            .field("isolation", &self.isolation)
            .field("writes", &self.writes.len())
            .finish_non_exhaustive()
    }
}

impl Transaction {
    pub(crate) fn new(engine: &Arc<Engine>, isolation: Isolation) -> Self {
        let number = engine.next_transaction.fetch_add(1, Ordering::Relaxed);
        Self::numbered(engine, isolation, number)
    }

    /// With the number of an earlier try, so that it may go on running alone.
    pub(crate) fn numbered(engine: &Arc<Engine>, isolation: Isolation, number: u64) -> Self {
        let (begin, cut) = {
            let mut turn = engine.turn.lock();
            let begin = turn.last;
            turn.ring.enter(begin);
            let snapshot = isolation == Isolation::Snapshot;
            if snapshot {
                turn.cuts.take(begin);
            }
            (begin, snapshot)
        };
        Self {
            number,
            isolation,
            begin,
            cut: cut.then(|| Arc::new(HeldCut::adopt(engine, begin))),
            reads: ReadSet::default(),
            writes: BTreeMap::new(),
            ranges: Vec::new(),
            tables: BTreeMap::new(),
            write_bytes: 0,
            failed: false,
            scan_failed: None,
            entered: true,
            durability: engine.options.durability,
            engine: Arc::clone(engine),
        }
    }

    /// What the commit survives; the database's level unless set.
    pub fn set_durability(&mut self, durability: Durability) {
        self.durability = durability;
    }

    fn check_usable(&self) -> Result<()> {
        let scan_failed = |failed: &Arc<AtomicBool>| failed.load(Ordering::Relaxed);
        if self.failed || self.scan_failed.as_ref().is_some_and(scan_failed) {
            return Err(Error::TransactionFailed);
        }
        Ok(())
    }

    /// Runs one operation; an error makes the transaction unusable.
    fn guard<R>(&mut self, run: impl FnOnce(&mut Self) -> Result<R>) -> Result<R> {
        self.check_usable()?;
        run(self).inspect_err(|_| self.failed = true)
    }

    /// The value of a key, this transaction's own writes included.
    pub fn get(&mut self, table: &Table, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        self.guard(|tx| tx.read_key(table, key.as_ref(), false))
    }

    /// As [`Self::get`]; the commit fails if anybody else writes the key meanwhile, under snapshot isolation too.
    pub fn get_for_update(
        &mut self,
        table: &Table,
        key: impl AsRef<[u8]>,
    ) -> Result<Option<Vec<u8>>> {
        self.guard(|tx| tx.read_key(table, key.as_ref(), true))
    }

    /// Whether a key has a row.
    pub fn contains(&mut self, table: &Table, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.get(table, key)?.is_some())
    }

    /// What this transaction itself has last done to a key.
    fn own_write(&self, table: &Table, key: &[u8]) -> Option<Write> {
        let own = self.writes.get(&(table.state.id, key.to_vec())).cloned();
        let deleted = || {
            let of_table = |other: &Table| other.state.id == table.state.id;
            self.ranges.iter().any(|(other, span)| of_table(other) && span.contains(key))
        };
        own.or_else(|| deleted().then_some(Write::Delete))
    }

    fn read_key(&mut self, table: &Table, key: &[u8], update: bool) -> Result<Option<Vec<u8>>> {
        self.check_table(table)?;
        self.engine.check_key(key)?;
        match self.own_write(table, key) {
            Some(Write::Put(value)) => return Ok(Some(value)),
            Some(Write::Delete) => return Ok(None),
            None => {}
        }
        self.engine.counters.gets.add(1);
        let found = self.read_committed(table, key)?;
        // Only now: what is read for the first time may well have changed since the begin.
        if self.isolation == Isolation::Serializable || update {
            self.reads.add_key(KeyMark::new(table.state.id, key));
        }
        Ok(found)
    }

    fn read_committed(&mut self, table: &Table, key: &[u8]) -> Result<Option<Vec<u8>>> {
        loop {
            if let Some(cut) = &self.cut {
                return find_whole(&self.engine, &table.state, View::Cut(cut.commit), key);
            }
            let (found, changed_at) =
                self.engine.read(table.state.id, View::Current, |session| {
                    let state = &table.state;
                    let (root, view) = (&state.root, View::Current);
                    state.index.get(session, root, view, key, |value, changed_at| {
                        let value = value.and_then(|value| match value {
                            Value::Inline(value) => Some(Ok(value.to_vec())),
                            Value::Overflow(handle) => Some(Err(Handle::decode(&handle))),
                            Value::Tombstone => None,
                        });
                        (value, changed_at)
                    })
                })?;
            if changed_at > self.begin {
                // The page is newer than what was read so far. If none of that has changed, we
                // might as well have begun now.
                self.move_begin(changed_at)?;
                continue;
            }
            match found {
                None => return Ok(None),
                Some(Ok(value)) => return Ok(Some(value)),
                // A large value's pages hold still only under a cut.
                Some(Err(_)) => self.cut_at_begin().map(|_| ())?,
            }
        }
    }

    /// Moves the begin number to now, at least to `least`, if nothing read so far has changed.
    fn move_begin(&mut self, least: CommitNo) -> Result<()> {
        let turn = self.engine.turn.lock();
        debug_assert!(turn.last >= least);
        if !turn.ring.is_unchanged(self.begin, &self.reads) {
            count(&self.engine.counters.conflicts, 1);
            return Err(Error::Conflict);
        }
        self.begin = turn.last;
        Ok(())
    }

    /// The cut at which this transaction reads from now on, at its begin number or later.
    fn cut_at_begin(&mut self) -> Result<Arc<HeldCut>> {
        if let Some(cut) = &self.cut {
            return Ok(Arc::clone(cut));
        }
        {
            let mut turn = self.engine.turn.lock();
            if !turn.ring.is_unchanged(self.begin, &self.reads) {
                count(&self.engine.counters.conflicts, 1);
                return Err(Error::Conflict);
            }
            self.begin = turn.last;
            let begin = self.begin;
            turn.cuts.take(begin);
        }
        let cut = Arc::new(HeldCut::adopt(&self.engine, self.begin));
        self.cut = Some(Arc::clone(&cut));
        Ok(cut)
    }

    /// The rows of a range in key order, this transaction's own writes included.
    pub fn range(&mut self, table: &Table, range: impl KeyRange) -> Result<TransactionRows> {
        self.guard(|tx| {
            table.state.check_ordered("a range")?;
            tx.scan(table, Span::of(&range))
        })
    }

    /// All rows, this transaction's own writes included: in key order if the index has one, else in any.
    pub fn rows(&mut self, table: &Table) -> Result<TransactionRows> {
        self.guard(|tx| tx.scan(table, Span::all()))
    }

    /// The rows whose keys begin with `prefix`.
    pub fn prefix(&mut self, table: &Table, prefix: impl AsRef<[u8]>) -> Result<TransactionRows> {
        self.guard(|tx| {
            table.state.check_ordered("a prefix")?;
            tx.scan(table, Span::of_prefix(prefix.as_ref()))
        })
    }

    fn scan(&mut self, table: &Table, span: Span) -> Result<TransactionRows> {
        self.check_table(table)?;
        let cut = self.cut_at_begin()?;
        let id = table.state.id;
        if self.isolation == Isolation::Serializable {
            self.reads.add_range(RangeMark::new(id, &span.low, span.high.as_deref()));
        }
        let from = (id, span.low.clone());
        let own = self
            .writes
            .range(from..)
            .take_while(|((table, key), _)| *table == id && span.contains(key))
            .map(|((_, key), write)| {
                let value = match write {
                    Write::Put(value) => Some(value.clone()),
                    Write::Delete => None,
                };
                (key.clone(), value)
            })
            .collect::<Vec<_>>();
        let deleted = self
            .ranges
            .iter()
            .filter(|(other, _)| other.state.id == id)
            .map(|(_, span)| span.clone())
            .collect();
        let failed = Arc::clone(self.scan_failed.get_or_insert_default());
        Ok(TransactionRows {
            failed,
            rows: Rows::at(table.clone(), cut, span),
            own,
            own_at: 0,
            deleted,
            ahead: None,
            ordered: table.state.index.is_ordered(),
        })
    }

    /// Writes a row.
    pub fn put(
        &mut self,
        table: &Table,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<()> {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.guard(|tx| {
            tx.engine.check_value(value)?;
            tx.keep(table, key, Write::Put(value.to_vec()))
        })
    }

    /// Removes a row, if it is there.
    pub fn delete(&mut self, table: &Table, key: impl AsRef<[u8]>) -> Result<()> {
        self.guard(|tx| tx.keep(table, key.as_ref(), Write::Delete))
    }

    /// Writes a row if there is none of that key. Returns whether it did.
    pub fn put_if_absent(
        &mut self,
        table: &Table,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<bool> {
        if self.get_for_update(table, key.as_ref())?.is_some() {
            return Ok(false);
        }
        self.put(table, key, value).map(|()| true)
    }

    /// Applies a merge operator to a row; reads it.
    pub fn merge(
        &mut self,
        table: &Table,
        operator: &str,
        key: impl AsRef<[u8]>,
        operand: impl AsRef<[u8]>,
    ) -> Result<()> {
        let (key, operand) = (key.as_ref(), operand.as_ref());
        let merge = self.guard(|tx| tx.engine.options.operators.get(operator))?;
        let old = self.get_for_update(table, key)?;
        match merge(key, old.as_deref(), operand) {
            Some(new) => self.put(table, key, new),
            None => self.delete(table, key),
        }
    }

    /// Removes all rows of a range.
    pub fn delete_range(&mut self, table: &Table, range: impl KeyRange) -> Result<()> {
        let span = Span::of(&range);
        self.guard(|tx| {
            tx.check_table(table)?;
            if !span.is_all() {
                table.state.check_ordered("a range delete")?;
            }
            if span.is_empty() {
                return Ok(());
            }
            let id = table.state.id;
            let covered: Vec<_> = tx
                .writes
                .range((id, span.low.clone())..)
                .map(|(at, _)| at)
                .take_while(|(table, key)| *table == id && span.contains(key))
                .cloned()
                .collect();
            for at in covered {
                tx.writes.remove(&at);
            }
            if tx.isolation == Isolation::Snapshot {
                tx.reads.add_range(RangeMark::new(id, &span.low, span.high.as_deref()));
            }
            tx.tables.entry(id).or_insert_with(|| table.clone());
            tx.ranges.push((table.clone(), span));
            Ok(())
        })
    }

    fn keep(&mut self, table: &Table, key: &[u8], write: Write) -> Result<()> {
        self.check_table(table)?;
        self.engine.check_key(key)?;
        self.write_bytes += key.len() as u64
            + match &write {
                Write::Put(value) => value.len() as u64,
                Write::Delete => 0,
            };
        let limit_bytes = self.engine.options.write_set_bytes_max();
        if self.write_bytes > limit_bytes {
            return Err(Error::TooLarge { bytes: self.write_bytes, limit_bytes });
        }
        let id = table.state.id;
        if self.isolation == Isolation::Snapshot {
            self.reads.add_key(KeyMark::new(id, key));
        }
        self.tables.entry(id).or_insert_with(|| table.clone());
        self.writes.insert((id, key.to_vec()), write);
        Ok(())
    }

    fn check_table(&self, table: &Table) -> Result<()> {
        if !Arc::ptr_eq(&table.engine, &self.engine) {
            return Err(Error::invalid("table of another database", table.name()));
        }
        check_open(&self.engine, &table.state)?;
        match &self.cut {
            // Run again, the transaction begins later and knows the table.
            Some(cut) if table.state.created_at > cut.commit => Err(Error::Conflict),
            _ => Ok(()),
        }
    }

    /// Commits.
    ///
    /// # Errors
    /// `Conflict`: nothing was written. `Unknown`: the sync failed; whether the commit survives shows
    /// when the database is reopened.
    pub fn commit(mut self) -> Result<()> {
        let durability = self.durability;
        self.write(durability).map(|_| ())
    }

    /// Commits, and returns as soon as the commit survives the death of the process, with a [`Ticket`]
    /// to wait for its survival of power loss.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn submit(mut self) -> Result<Ticket> {
        let lsn = self.write(Durability::Os)?;
        Ok(Ticket::new(&self.engine, lsn))
    }

    fn write(&mut self, durability: Durability) -> Result<Option<Lsn>> {
        self.check_usable()?;
        let mut set = WriteSet::default();
        for (table, span) in self.ranges.drain(..) {
            set.delete_range(&table.state, span);
        }
        for ((id, key), write) in &self.writes {
            let table = &self.tables[id].state;
            match write {
                Write::Put(value) => set.put(table, key, value),
                Write::Delete => set.delete(table, key),
            }
        }
        if set.is_empty() {
            // What it read was as of its begin: as if it had run then.
            return Ok(None);
        }
        let reads = Some((&self.reads, self.begin));
        self.engine.write_many(set, reads, self.number, durability)
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if self.entered {
            self.engine.turn.lock().ring.leave();
        }
    }
}

/// A key that the transaction has written, and its value; `None` if it is deleted.
type OwnRow = (Vec<u8>, Option<Vec<u8>>);

/// The rows of a range as a transaction sees them. Forward only. After an error the transaction can only be dropped.
#[derive(Debug)]
pub struct TransactionRows {
    /// Tells the transaction.
    failed: Arc<AtomicBool>,
    rows: Rows,
    /// In key order, and how many were given.
    own: Vec<OwnRow>,
    own_at: usize,
    deleted: Vec<Span>,
    ahead: Option<(Vec<u8>, Vec<u8>)>,
    /// The committed rows come in key order, as the transaction's own do.
    ordered: bool,
}

impl TransactionRows {
    fn next_own(&mut self) -> Option<OwnRow> {
        let row = self.own.get(self.own_at).cloned()?;
        self.own_at += 1;
        Some(row)
    }
    /// Without order: the committed rows first, but for those that the transaction has overwritten, then its own.
    fn next_unordered(&mut self) -> Option<Result<(Vec<u8>, Vec<u8>)>> {
        for row in self.rows.by_ref() {
            let row = match row {
                Ok(row) => row.into_parts(),
                Err(error) => return Some(Err(error)),
            };
            let own = self.own.binary_search_by(|(key, _)| key.cmp(&row.0)).is_ok();
            if !own && !self.deleted.iter().any(|span| span.contains(&row.0)) {
                return Some(Ok(row));
            }
        }
        while let Some((key, value)) = self.next_own() {
            if let Some(value) = value {
                return Some(Ok((key, value)));
            }
        }
        None
    }
    fn next_ordered(&mut self) -> Option<Result<(Vec<u8>, Vec<u8>)>> {
        loop {
            if self.ahead.is_none() {
                match self.rows.next() {
                    Some(Ok(row)) => self.ahead = Some(row.into_parts()),
                    Some(Err(error)) => return Some(Err(error)),
                    None => {}
                }
            }
            let own_key = self.own.get(self.own_at).map(|(key, _)| key);
            match (own_key, &self.ahead) {
                (None, None) => return None,
                (Some(own), Some((key, _))) if own > key => {}
                (Some(own), ahead) => {
                    if ahead.as_ref().is_some_and(|(key, _)| own == key) {
                        self.ahead = None;
                    }
                    if let (key, Some(value)) = self.next_own().expect("looked at") {
                        return Some(Ok((key, value)));
                    }
                    continue;
                }
                (None, Some(_)) => {}
            }
            let row = self.ahead.take().expect("matched above");
            if !self.deleted.iter().any(|span| span.contains(&row.0)) {
                return Some(Ok(row));
            }
        }
    }
}

impl Iterator for TransactionRows {
    type Item = Result<(Vec<u8>, Vec<u8>)>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = if self.ordered { self.next_ordered() } else { self.next_unordered() };
        if matches!(row, Some(Err(_))) {
            self.failed.store(true, Ordering::Relaxed);
        }
        row
    }
}
