//! Runs a script against the engine and the model at once.
//!
//! A wrong answer panics. An error of the engine is given back: whether it was due is the caller's
//! to say. Either way [`Known`] is up to date: an operation that failed with anything but
//! [`Error::Unknown`] must have changed nothing.

use crate::known::Known;
use crate::script::{
    Bounds, Expect, Key, Op, Settings, Span, Step, Tab, Value, Walk, Write, table_name,
};
use crate::seeds;
use crate::state::{Change, Row, State, brief, range};
use crate::subject::{Register, unchanged};
use crate::transaction::{Handle, OpenTransaction, change_of, check_failure};
use esker::{Database, Durability, Error, Index, Isolation, Result, Rows, Snapshot, Table, Ticket};
use esker_io::Disk;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};

/// Slots for each of snapshots, scans and transactions.
pub const SLOTS: usize = 3;

/// A database that is open, and all that scripts hold of it.
pub struct Runner<'o> {
    register: Register<'o>,
    disk: Arc<dyn Disk>,
    settings: Settings,
    known: Arc<Mutex<Known>>,
    db: Option<Database>,
    handles: BTreeMap<String, Handle>,
    snapshots: [Option<HeldSnapshot>; SLOTS],
    scans: [Option<HeldScan>; SLOTS],
    transactions: [Option<OpenTransaction>; SLOTS],
    /// Each with the index of the state that its commit led to.
    tickets: [Option<(Ticket, usize)>; SLOTS],
    next_generation: u64,
    /// Tables whose count of rows is only an estimate.
    inexact: BTreeSet<u64>,
    /// Figures of all databases that were open, summed.
    pub totals: BTreeMap<&'static str, u64>,
}

struct HeldSnapshot {
    snapshot: Snapshot,
    state: State,
    handles: Vec<Handle>,
}

struct HeldScan {
    rows: Rows,
    wanted: VecDeque<Row>,
    generation: u64,
    /// The rows come in the order in which they are wanted.
    ordered: bool,
}

impl Runner<'static> {
    /// Opens a database that may not exist yet. Until this returns, `known` holds what may be found.
    pub fn open(disk: Arc<dyn Disk>, settings: Settings, known: Arc<Mutex<Known>>) -> Result<Self> {
        Self::open_with(&unchanged, disk, settings, known)
    }
}

impl<'o> Runner<'o> {
    /// As [`Runner::open`], with options changed by `register`.
    pub fn open_with(
        register: Register<'o>,
        disk: Arc<dyn Disk>,
        settings: Settings,
        known: Arc<Mutex<Known>>,
    ) -> Result<Self> {
        let mut runner = Self {
            register,
            disk,
            settings,
            known,
            db: None,
            handles: BTreeMap::new(),
            snapshots: Default::default(),
            scans: Default::default(),
            transactions: Default::default(),
            tickets: Default::default(),
            next_generation: 1,
            inexact: BTreeSet::new(),
            totals: BTreeMap::new(),
        };
        runner.open_again()?;
        runner.inexact.extend(runner.handles.values().map(|handle| handle.generation));
        Ok(runner)
    }

    /// What may be found now.
    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("nobody panics with it")
    }

    /// The database.
    pub fn db(&self) -> &Database {
        self.db.as_ref().expect("the database is open")
    }

    /// False after a restart that failed.
    pub fn is_open(&self) -> bool {
        self.db.is_some()
    }

    /// Opens what is there and finds out which of the candidates it is.
    pub fn open_again(&mut self) -> Result<()> {
        let options = (self.register)(self.settings.options());
        let db = options.open_on(Arc::clone(&self.disk))?;
        let found = State::read(&db)?;
        let candidates = self.known().candidates().to_vec();
        let Some(state) = candidates.iter().rev().find(|state| state.same_rows(&found)) else {
            let wanted = candidates.last().expect("never empty");
            panic!(
                "none of {} possible states was found; against the newest: {}",
                candidates.len(),
                wanted.difference(&found)
            );
        };
        self.handles.clear();
        for (name, generation) in state.tables() {
            let table = db.open_table(name)?;
            self.handles
                .insert(name.to_owned(), Handle { table, name: name.to_owned(), generation });
            self.next_generation = self.next_generation.max(generation + 1);
        }
        self.known().narrow(state.clone());
        self.db = Some(db);
        Ok(())
    }

    /// Drops everything that is open, without closing, and tells what the next open may find.
    pub fn abandon(&mut self) {
        self.scans = Default::default();
        self.transactions = Default::default();
        self.tickets = Default::default();
        self.snapshots = Default::default();
        self.handles.clear();
        self.take_stats();
        self.db = None;
    }

    fn take_stats(&mut self) {
        if let Some(db) = &self.db {
            for (name, value) in db.stats().fields() {
                *self.totals.entry(name).or_default() += value;
            }
        }
    }

    fn handle(&self, tab: Tab) -> Option<Handle> {
        self.handles.get(&table_name(tab)).cloned()
    }

    /// The table, or a check that it does not exist.
    fn existing(&self, tab: Tab) -> Option<Handle> {
        let handle = self.handle(tab);
        if handle.is_none() {
            let found = self.db().open_table(&table_name(tab));
            assert!(matches!(found, Err(Error::UnknownTable { .. })), "{found:?}");
        }
        handle
    }

    fn now(&self) -> State {
        self.known().now().clone()
    }

    fn changed(&self, handle: &Handle, change: &Change) -> State {
        let mut state = self.now();
        state.change(&handle.name, change);
        state
    }

    /// Runs a commit that leads to `new`, if it leads anywhere.
    fn commit<T>(
        &mut self,
        new: Option<State>,
        level: Option<Durability>,
        run: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<T> {
        // What changes nothing need not be written down, so it promises nothing.
        let changes = new.as_ref().is_some_and(|new| !new.same_rows(self.known().now()));
        self.known().in_flight = new.iter().cloned().collect();
        let result = run(self);
        let level = level.unwrap_or(self.settings.durability);
        let mut known = self.known();
        known.in_flight.clear();
        if let Some(new) = new {
            match &result {
                Ok(_) => {
                    known.history.push(new);
                    let last = known.last();
                    if changes && level >= Durability::Os {
                        known.returned = last;
                    }
                    if changes && level == Durability::Sync {
                        known.synced = last;
                    }
                }
                // It is applied, and the next open tells whether it stays.
                Err(Error::Unknown { .. }) => known.history.push(new),
                Err(_) => {}
            }
        }
        drop(known);
        result
    }

    /// Does one operation.
    pub fn step(&mut self, op: &Op) -> Result<()> {
        let result = self.do_step(op);
        seeds::trace(|| format!("{}: {result:?}", seeds::brief(op)));
        result
    }

    fn do_step(&mut self, op: &Op) -> Result<()> {
        let shape = self.settings.shape;
        match op {
            Op::Create(tab) => self.create(*tab),
            Op::Drop(tab) => self.drop_table(*tab),
            Op::Put(tab, key, value, level) => {
                let Some(handle) = self.existing(*tab) else { return Ok(()) };
                let (key, value) = (key.bytes(shape), value.bytes());
                let new = self.changed(&handle, &Change::Put(key.clone(), value.clone()));
                self.commit(Some(new), *level, |_| match level {
                    Some(level) => handle.table.put_with(&key, &value, *level),
                    None => handle.table.put(&key, &value),
                })
            }
            Op::Delete(tab, key) => {
                let Some(handle) = self.existing(*tab) else { return Ok(()) };
                let key = key.bytes(shape);
                let new = self.changed(&handle, &Change::Delete(key.clone()));
                self.commit(Some(new), None, |_| handle.table.delete(&key))
            }
            Op::PutIfAbsent(tab, key, value) => {
                let Some(handle) = self.existing(*tab) else { return Ok(()) };
                let (key, value) = (key.bytes(shape), value.bytes());
                let absent = self.row(&handle, &key).is_none();
                let new = self.changed(&handle, &Change::Put(key.clone(), value.clone()));
                let put = self.commit(absent.then_some(new), None, |_| {
                    handle.table.put_if_absent(&key, &value)
                })?;
                assert_eq!(put, absent, "put_if_absent of {}", key.escape_ascii());
                Ok(())
            }
            Op::Swap(tab, key, expect, new) => {
                let Some(handle) = self.existing(*tab) else { return Ok(()) };
                let (key, new) = (key.bytes(shape), new.map(Value::bytes));
                let old = self.row(&handle, &key);
                let expected = match expect {
                    Expect::Right => old.clone(),
                    Expect::Absent => None,
                    Expect::Wrong(value) => Some(value.bytes()),
                };
                let meets = expected == old;
                let change = match &new {
                    Some(new) => Change::Put(key.clone(), new.clone()),
                    None => Change::Delete(key.clone()),
                };
                let state = meets.then(|| self.changed(&handle, &change));
                let done = self.commit(state, None, |_| {
                    handle.table.compare_and_swap(&key, expected.as_deref(), new.as_deref())
                })?;
                assert_eq!(done, meets, "compare_and_swap of {}", key.escape_ascii());
                Ok(())
            }
            Op::Merge(tab, operator, key, operand) => {
                let Some(handle) = self.existing(*tab) else { return Ok(()) };
                let (key, operand) = (key.bytes(shape), operand.bytes());
                let old = self.row(&handle, &key);
                let change = match operator.apply(old.as_deref(), &operand) {
                    Some(new) => Change::Put(key.clone(), new),
                    None => Change::Delete(key.clone()),
                };
                let new = self.changed(&handle, &change);
                self.commit(Some(new), None, |_| {
                    handle.table.merge(operator.name(), &key, &operand)
                })
            }
            Op::DeleteRange(tab, span) => {
                let Some(handle) = self.existing(*tab) else { return Ok(()) };
                let ordered = handle.table.is_ordered();
                if !ordered {
                    refuse_range_delete(&handle, span.bounds(shape));
                }
                self.inexact.insert(handle.generation);
                let bounds = span.suits(ordered).bounds(shape);
                let new = self.changed(&handle, &Change::DeleteRange(bounds.clone()));
                self.commit(Some(new), None, |_| handle.table.delete_range(bounds))
            }
            Op::Clear(tab) => {
                let Some(handle) = self.existing(*tab) else { return Ok(()) };
                self.inexact.insert(handle.generation);
                let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
                let new = self.changed(&handle, &Change::DeleteRange(all));
                self.commit(Some(new), None, |_| handle.table.clear())
            }
            Op::Pop(tab, last) => {
                let Some(handle) = self.existing(*tab) else { return Ok(()) };
                if !handle.table.is_ordered() {
                    let popped = handle.table.pop_first();
                    assert!(matches!(popped, Err(Error::Unordered { .. })), "{popped:?}");
                    return Ok(());
                }
                let wanted = {
                    let known = self.known();
                    let rows = known.now().rows(&handle.name, handle.generation);
                    let rows = rows.expect("it exists").iter();
                    let mut rows = rows.map(|(key, value)| (key.clone(), value.to_vec()));
                    if *last { rows.next_back() } else { rows.next() }
                };
                let new = wanted
                    .as_ref()
                    .map(|(key, _)| self.changed(&handle, &Change::Delete(key.clone())));
                let popped = self.commit(new, None, |_| {
                    if *last { handle.table.pop_last() } else { handle.table.pop_first() }
                })?;
                assert!(popped == wanted, "popped {popped:?} instead of {wanted:?}");
                Ok(())
            }
            Op::Batch(writes, level) => self.batch(writes, *level),
            Op::Fill(tab, first, count, modulo, len) => {
                let writes: Vec<_> = (0..*count)
                    .map(|n| {
                        let value = Value { len: *len, salt: u32::from(n) };
                        (*tab, Write::Put(Key((first.0 + n) % modulo), value))
                    })
                    .collect();
                self.batch(&writes, None)
            }
            Op::BulkLoad(tab, first, count, len) => self.bulk_load(*tab, *first, *count, *len),
            Op::Submit(slot, tab, key, value) => {
                let Some(handle) = self.existing(*tab) else { return Ok(()) };
                let (key, value) = (key.bytes(shape), value.bytes());
                let new = self.changed(&handle, &Change::Put(key.clone(), value.clone()));
                let ticket = self.commit(Some(new), Some(Durability::Os), |_| {
                    handle.table.submit(&key, &value)
                })?;
                let commit = self.known().last();
                self.tickets[usize::from(*slot)] = Some((ticket, commit));
                Ok(())
            }
            Op::Wait(slot) => {
                let Some((ticket, commit)) = self.tickets[usize::from(*slot)].take() else {
                    return Ok(());
                };
                if !ticket.is_durable() {
                    ticket.wait()?;
                }
                let mut known = self.known();
                known.synced = known.synced.max(commit);
                known.returned = known.returned.max(commit);
                Ok(())
            }
            Op::Get(tab, key) => {
                let Some(handle) = self.existing(*tab) else { return Ok(()) };
                let key = key.bytes(shape);
                let wanted = self.row(&handle, &key);
                let found = handle.table.get(&key)?;
                check_value(&key, wanted.as_deref(), found.as_deref());
                let bytes = handle.table.get_with(&key, <[u8]>::len)?;
                assert_eq!(bytes, wanted.as_ref().map(Vec::len), "{}", key.escape_ascii());
                assert_eq!(handle.table.contains(&key)?, wanted.is_some());
                Ok(())
            }
            Op::MultiGet(tab, keys) => {
                let Some(handle) = self.existing(*tab) else { return Ok(()) };
                let keys: Vec<_> = keys.iter().map(|key| key.bytes(shape)).collect();
                let found = handle.table.multi_get(&keys)?;
                assert_eq!(found.len(), keys.len());
                for (key, found) in keys.iter().zip(found) {
                    check_value(key, self.row(&handle, key).as_deref(), found.as_deref());
                }
                Ok(())
            }
            Op::Scan(tab, span, walk) => {
                let Some(handle) = self.existing(*tab) else { return Ok(()) };
                if !handle.table.is_ordered() {
                    return self.scan_unordered(&handle, *span);
                }
                let bounds = span.bounds(shape);
                let rows = match span.prefix(shape) {
                    Some(prefix) => handle.table.prefix(prefix)?,
                    None => handle.table.range(bounds.clone())?,
                };
                let wanted = self.now().range(&handle.name, handle.generation, &bounds);
                walk_rows(rows, wanted.into(), *walk)
            }
            Op::Transact(isolation, steps, commit, level) => {
                let mut open = self.begin(*isolation);
                for step in steps {
                    let Some(handle) = self.existing(tab_of(step)) else { continue };
                    self.note_inexact(&handle, step);
                    let since = self.since(&open);
                    open.step(&handle, shape, step, &since)
                        .inspect_err(|error| check_failure(error, &since))?;
                }
                if *commit { self.commit_transaction(open, *level) } else { Ok(()) }
            }
            Op::Begin(slot, isolation) => {
                let open = self.begin(*isolation);
                self.transactions[usize::from(*slot)] = Some(open);
                Ok(())
            }
            Op::Step(slot, step) => {
                let Some(handle) = self.existing(tab_of(step)) else { return Ok(()) };
                self.note_inexact(&handle, step);
                let slot = usize::from(*slot);
                let Some(mut open) = self.transactions[slot].take() else { return Ok(()) };
                let since = self.since(&open);
                match open.step(&handle, shape, step, &since) {
                    Ok(()) => self.transactions[slot] = Some(open),
                    Err(error) => {
                        check_failure(&error, &since);
                        // From now on it can only be dropped.
                        let again = open.tx.get(&handle.table, b"any");
                        assert!(matches!(again, Err(Error::TransactionFailed)), "{again:?}");
                        let due = match &error {
                            Error::Conflict | Error::TooLarge { .. } => true,
                            Error::UnknownTable { .. } => {
                                open.log.is_older_than(handle.generation, &since)
                            }
                            _ => false,
                        };
                        if !due {
                            return Err(error);
                        }
                    }
                }
                Ok(())
            }
            Op::End(slot, commit) => {
                let open = self.transactions[usize::from(*slot)].take();
                match open {
                    Some(open) if *commit => match self.commit_transaction(open, None) {
                        Err(Error::Conflict) => Ok(()),
                        result => result,
                    },
                    _ => Ok(()),
                }
            }
            Op::Snapshot(slot) => {
                let held = HeldSnapshot {
                    snapshot: self.db().snapshot(),
                    state: self.now(),
                    handles: self.handles.values().cloned().collect(),
                };
                self.snapshots[usize::from(*slot)] = Some(held);
                Ok(())
            }
            Op::CheckSnapshot(slot) => self.check_snapshot(usize::from(*slot)),
            Op::DropSnapshot(slot) => {
                self.snapshots[usize::from(*slot)] = None;
                Ok(())
            }
            Op::OpenScan(slot, tab, span) => {
                let Some(handle) = self.existing(*tab) else { return Ok(()) };
                let ordered = handle.table.is_ordered();
                let bounds = span.suits(ordered).bounds(shape);
                let wanted = self.now().range(&handle.name, handle.generation, &bounds).into();
                let rows =
                    if ordered { handle.table.range(bounds)? } else { handle.table.rows()? };
                let generation = handle.generation;
                self.scans[usize::from(*slot)] =
                    Some(HeldScan { rows, wanted, generation, ordered });
                Ok(())
            }
            Op::ContinueScan(slot, rows, back) => {
                let Some(scan) = &mut self.scans[usize::from(*slot)] else { return Ok(()) };
                for _ in 0..*rows {
                    if !scan.ordered {
                        let found = scan.rows.next().transpose()?.map(esker::Row::into_parts);
                        let Some(found) = found else {
                            assert!(scan.wanted.is_empty(), "missing: {:?}", scan.wanted);
                            break;
                        };
                        let at = scan.wanted.iter().position(|row| *row == found);
                        let at = at.unwrap_or_else(|| panic!("a scan gave {found:?}"));
                        scan.wanted.remove(at);
                        continue;
                    }
                    let (found, wanted) = if *back {
                        (scan.rows.next_back(), scan.wanted.pop_back())
                    } else {
                        (scan.rows.next(), scan.wanted.pop_front())
                    };
                    let found = found.transpose()?.map(esker::Row::into_parts);
                    check_row(wanted.as_ref(), found.as_ref());
                }
                Ok(())
            }
            Op::Sync => {
                self.db().sync()?;
                self.all_durable();
                Ok(())
            }
            Op::Checkpoint => {
                self.db().checkpoint()?;
                self.all_durable();
                Ok(())
            }
            Op::Settle => self.db().settle(),
            Op::Verify => self.verify(),
            Op::CompareAll => self.compare_all(),
            Op::Reopen { close } => self.reopen(*close),
        }
    }

    fn note_inexact(&mut self, handle: &Handle, step: &Step) {
        if matches!(step, Step::Write(_, Write::DeleteRange(_))) {
            self.inexact.insert(handle.generation);
        }
    }

    fn all_durable(&self) {
        let mut known = self.known();
        known.synced = known.last();
        known.returned = known.last();
    }

    fn row(&self, handle: &Handle, key: &[u8]) -> Option<Vec<u8>> {
        self.known().now().get(&handle.name, handle.generation, key).map(<[u8]>::to_vec)
    }

    fn create(&mut self, tab: Tab) -> Result<()> {
        let name = table_name(tab);
        let kind = self.settings.kinds[usize::from(tab)];
        if self.handles.contains_key(&name) {
            return match self.db().create_table(&name, kind) {
                Ok(_) => panic!("{name} was created twice"),
                Err(Error::Invalid { .. }) => Ok(()),
                Err(error) => Err(error),
            };
        }
        let generation = self.next_generation;
        self.next_generation += 1;
        let mut new = self.now();
        new.create(&name, generation);
        let made = self.commit(Some(new), None, |runner| runner.db().create_table(&name, kind));
        let table = match made {
            Ok(table) => table,
            // It is there for now.
            Err(error @ Error::Unknown { .. }) => {
                let table = self.db().open_table(&name)?;
                self.handles.insert(name.clone(), Handle { table, name, generation });
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        self.handles.insert(name.clone(), Handle { table, name, generation });
        Ok(())
    }

    /// Ranges are refused, and all rows come in some order.
    fn scan_unordered(&self, handle: &Handle, span: Span) -> Result<()> {
        let refused = match span.prefix(self.settings.shape) {
            Some(prefix) => handle.table.prefix(prefix),
            None => handle.table.range(span.bounds(self.settings.shape)),
        };
        assert!(matches!(refused, Err(Error::Unordered { .. })), "{refused:?}");
        let all = Span::All.bounds(self.settings.shape);
        let wanted = self.now().range(&handle.name, handle.generation, &all).into();
        check_unordered(handle.table.rows()?, &wanted)
    }

    fn drop_table(&mut self, tab: Tab) -> Result<()> {
        let Some(handle) = self.existing(tab) else { return Ok(()) };
        let mut new = self.now();
        new.remove(&handle.name);
        let dropped = self.commit(Some(new), None, |runner| runner.db().drop_table(&handle.name));
        if !matches!(dropped, Ok(()) | Err(Error::Unknown { .. })) {
            return dropped;
        }
        self.handles.remove(&handle.name);
        let gone = handle.table.get(b"any");
        assert!(matches!(gone, Err(Error::UnknownTable { .. })), "{gone:?}");
        for slot in 0..SLOTS {
            let touches = |open: &mut OpenTransaction| open.log.touches(handle.generation);
            if let Some(open) = self.transactions[slot].take_if(touches) {
                if open.log.writes() && open.log.needs(handle.generation) {
                    let ended = open.tx.commit();
                    assert!(ended.is_err(), "a transaction on a dropped table was committed");
                } else {
                    match self.commit_transaction(open, None) {
                        Ok(()) | Err(Error::Conflict) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            self.scans[slot].take_if(|scan| scan.generation == handle.generation);
        }
        dropped
    }

    fn batch(&mut self, writes: &[(Tab, Write)], level: Option<Durability>) -> Result<()> {
        let mut new = self.now();
        let mut batch = self.db().batch();
        for (tab, write) in writes {
            let Some(handle) = self.existing(*tab) else { continue };
            let write = write.suits(handle.table.is_ordered());
            let change = change_of(&write, self.settings.shape);
            match &change {
                Change::Put(key, value) => batch.put(&handle.table, key, value),
                Change::Delete(key) => batch.delete(&handle.table, key),
                Change::DeleteRange(bounds) => {
                    self.inexact.insert(handle.generation);
                    batch.delete_range(&handle.table, bounds.clone());
                }
            }
            new.change(&handle.name, &change);
        }
        if let Some(level) = level {
            batch.set_durability(level);
        }
        let bytes = batch.bytes();
        match self.commit(Some(new), level, |_| batch.commit()) {
            // Some scripts ask for more than little memory allows.
            Err(Error::TooLarge { limit_bytes, .. }) if bytes > limit_bytes => Ok(()),
            result => result,
        }
    }

    /// The states from the begin of a transaction on.
    fn since(&self, open: &OpenTransaction) -> Vec<State> {
        self.known().history[open.log.begin..].to_vec()
    }

    fn bulk_load(&mut self, tab: Tab, first: Key, count: u16, len: u32) -> Result<()> {
        let Some(handle) = self.existing(tab) else { return Ok(()) };
        let mut rows: Vec<Row> = (0..count)
            .map(|n| {
                let key = Key(first.0 + n).bytes(self.settings.shape);
                (key, Value { len, salt: u32::from(n) }.bytes())
            })
            .collect();
        rows.sort();
        // It is cut into commits that nobody else knows: any number of rows may be there.
        let mut state = self.now();
        let states: Vec<State> = rows
            .iter()
            .map(|(key, value)| {
                state.change(&handle.name, &Change::Put(key.clone(), value.clone()));
                state.clone()
            })
            .collect();
        self.known().in_flight.clone_from(&states);
        let result = handle.table.bulk_load(rows.iter().map(|(key, value)| (key, value)));
        self.known().in_flight.clear();
        match result {
            Ok(loaded) => {
                assert_eq!(loaded, u64::from(count));
                let changes = states.last().is_some_and(|last| !last.same_rows(self.known().now()));
                let mut known = self.known();
                known.history.extend(states);
                let last = known.last();
                if changes && self.settings.durability >= Durability::Os {
                    known.returned = last;
                }
                if changes && self.settings.durability == Durability::Sync {
                    known.synced = last;
                }
                Ok(())
            }
            Err(error) => {
                let found = State::read(self.db())?;
                let mut known = self.known();
                if !found.same_rows(known.now()) {
                    let loaded = states.iter().position(|state| state.same_rows(&found));
                    let loaded = loaded.expect("a load that failed leaves a part of it");
                    known.history.extend_from_slice(&states[..=loaded]);
                }
                Err(error)
            }
        }
    }

    fn begin(&self, isolation: Isolation) -> OpenTransaction {
        let begin = self.known().last();
        OpenTransaction::new(self.db().begin_with(isolation), isolation, begin)
    }

    fn commit_transaction(
        &mut self,
        open: OpenTransaction,
        level: Option<Durability>,
    ) -> Result<()> {
        let since = self.since(&open);
        let OpenTransaction { mut tx, log } = open;
        let outcome = log.outcome(&since);
        let writes = log.writes();
        if let Some(level) = level {
            tx.set_durability(level);
        }
        let new = outcome.as_ref().ok().filter(|_| writes).cloned();
        let result = self.commit(new, level, |_| tx.commit());
        match (&result, outcome) {
            (Ok(()) | Err(Error::Unknown { .. }), Err(detail)) if writes => {
                panic!("a commit succeeded that must not: {detail}")
            }
            (Err(error), _) => check_failure(error, &since),
            _ => {}
        }
        result
    }

    fn check_snapshot(&self, slot: usize) -> Result<()> {
        let Some(held) = &self.snapshots[slot] else { return Ok(()) };
        let current = |handle: &Handle| {
            self.handles.get(&handle.name).is_some_and(|now| now.generation == handle.generation)
        };
        for handle in &held.handles {
            let found = held.snapshot.rows(&handle.table);
            if !current(handle) {
                assert!(matches!(found, Err(Error::UnknownTable { .. })), "dropped: {found:?}");
                continue;
            }
            let rows = held.state.rows(&handle.name, handle.generation).expect("it was there");
            let wanted: VecDeque<Row> =
                rows.iter().map(|(key, value)| (key.clone(), value.to_vec())).collect();
            let keys: Vec<_> = wanted.iter().step_by(7).map(|(key, _)| key.clone()).collect();
            let values = held.snapshot.multi_get(&handle.table, &keys)?;
            for (key, found) in keys.iter().zip(values) {
                check_value(key, rows.get(key).map(|value| &value[..]), found.as_deref());
            }
            if handle.table.is_ordered() {
                walk_rows(found?, wanted, Walk::Forward)?;
            } else {
                check_unordered(found?, &wanted)?;
            }
        }
        // Tables that are younger than the snapshot hold nothing in it.
        for handle in self.handles.values() {
            if held.state.generation(&handle.name) == Some(handle.generation) {
                continue;
            }
            match held.snapshot.get(&handle.table, b"k000") {
                Ok(None) | Err(Error::UnknownTable { .. }) => {}
                other => panic!("{} is younger than the snapshot: {other:?}", handle.name),
            }
            match held.snapshot.rows(&handle.table).and_then(Iterator::collect::<Result<Vec<_>>>) {
                Ok(rows) => assert!(rows.is_empty(), "{} is younger: {rows:?}", handle.name),
                Err(Error::UnknownTable { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Checks the structure of everything.
    pub fn verify(&self) -> Result<()> {
        let found = self.db().verify()?;
        assert!(found.is_sound(), "{:?}", found.damage);
        let state = self.now();
        let rows: usize = state
            .tables()
            .map(|(name, generation)| state.rows(name, generation).map_or(0, BTreeMap::len))
            .sum();
        // Who writes blindly keeps older rows, too.
        let blind = self.handles.values().any(|handle| writes_blindly(&handle.table));
        let met = usize::try_from(found.rows).expect("few");
        assert!(if blind { met >= rows } else { met == rows }, "verify met {met} of {rows} rows");
        assert_eq!(found.tables, state.tables().count() as u64);
        Ok(())
    }

    /// Compares all that can be read, both ways.
    pub fn compare_all(&self) -> Result<()> {
        let state = self.now();
        let found = State::read(self.db())?;
        assert!(state.same_rows(&found), "{}", state.difference(&found));
        for handle in self.handles.values() {
            let rows = state.rows(&handle.name, handle.generation).expect("it exists");
            let all: Bounds = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
            if handle.table.is_ordered() {
                walk_rows(handle.table.range(..)?, range(rows, &all).into(), Walk::LendingBack)?;
            }
            for (key, value) in rows {
                let found = handle.table.get(key)?;
                check_value(key, Some(value), found.as_deref());
            }
            if !writes_blindly(&handle.table) && !self.inexact.contains(&handle.generation) {
                assert_eq!(handle.table.approximate_len(), rows.len() as u64, "{}", handle.name);
            }
        }
        Ok(())
    }

    fn reopen(&mut self, close: bool) -> Result<()> {
        self.scans = Default::default();
        self.tickets = Default::default();
        let mut left = std::mem::take(&mut self.snapshots);
        let open: Vec<_> = self.transactions.iter_mut().filter_map(Option::take).collect();
        self.take_stats();
        let db = self.db.take().expect("the database is open");
        if close {
            let other = db.clone();
            db.close()?;
            self.all_durable();
            assert!(matches!(other.sync(), Err(Error::Closed)), "another handle still writes");
            for open in open {
                let writes = open.log.writes();
                let result = open.tx.commit();
                assert!(!writes || matches!(result, Err(Error::Closed)), "{result:?}");
            }
            for held in left.iter_mut().filter_map(Option::take) {
                if let Some(handle) = held.handles.first() {
                    let found = held.snapshot.get(&handle.table, b"any");
                    assert!(
                        matches!(found, Err(Error::Closed | Error::UnknownTable { .. })),
                        "{found:?}"
                    );
                }
            }
        } else {
            drop(open);
            drop(left);
            drop(db);
        }
        self.handles.clear();
        self.open_again()
    }
}

impl std::fmt::Debug for Runner<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Runner").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Drop for Runner<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.abandon();
        }
    }
}

/// True if the kind may write without looking: then rows are counted about.
fn writes_blindly(table: &Table) -> bool {
    matches!(table.kind(), Index::Fractal | Index::Custom(_))
}

fn tab_of(step: &Step) -> Tab {
    match step {
        Step::Get(tab, _)
        | Step::GetForUpdate(tab, _)
        | Step::Scan(tab, _)
        | Step::PutIfAbsent(tab, ..)
        | Step::Merge(tab, ..)
        | Step::Write(tab, _) => *tab,
    }
}

/// A table without order deletes no range but that of all keys.
fn refuse_range_delete(handle: &Handle, bounds: Bounds) {
    let all = matches!(&bounds, (Bound::Unbounded, Bound::Unbounded))
        || matches!(&bounds, (Bound::Included(low), Bound::Unbounded) if low.is_empty());
    if !all {
        let refused = handle.table.delete_range(bounds);
        assert!(matches!(refused, Err(Error::Unordered { .. })), "{refused:?}");
    }
}

/// All rows of a table without order, compared with what is wanted.
fn check_unordered(rows: Rows, wanted: &VecDeque<Row>) -> Result<()> {
    let mut found: Vec<Row> =
        rows.map(|row| row.map(esker::Row::into_parts)).collect::<Result<_>>()?;
    found.sort();
    assert_eq!(found.len(), wanted.len(), "rows of a table without order");
    for (found, wanted) in found.iter().zip(wanted) {
        check_row(Some(wanted), Some(found));
    }
    Ok(())
}

fn check_value(key: &[u8], wanted: Option<&[u8]>, found: Option<&[u8]>) {
    assert!(
        wanted == found,
        "{}: wanted {}, found {}",
        key.escape_ascii(),
        brief(wanted),
        brief(found)
    );
}

fn check_row(wanted: Option<&Row>, found: Option<&Row>) {
    let text = |row: Option<&Row>| {
        row.map_or_else(
            || "the end".to_owned(),
            |(key, value)| format!("{}: {}", key.escape_ascii(), brief(Some(value))),
        )
    };
    assert!(wanted == found, "a scan gave {} instead of {}", text(found), text(wanted));
}

/// Walks a scan and compares it with what is wanted.
fn walk_rows(mut rows: Rows, mut wanted: VecDeque<Row>, walk: Walk) -> Result<()> {
    for step in 0.. {
        let back = match walk {
            Walk::Forward | Walk::Lending => false,
            Walk::Backward | Walk::LendingBack => true,
            Walk::Both(bits) => bits >> (step % 32) & 1 == 1,
        };
        let lent =
            |row: Option<(&[u8], &[u8])>| row.map(|(key, value)| (key.to_vec(), value.to_vec()));
        let found = match walk {
            Walk::Lending => lent(rows.next_row()?),
            Walk::LendingBack => lent(rows.next_row_back()?),
            _ if back => rows.next_back().transpose()?.map(esker::Row::into_parts),
            _ => rows.next().transpose()?.map(esker::Row::into_parts),
        };
        let row = if back { wanted.pop_back() } else { wanted.pop_front() };
        check_row(row.as_ref(), found.as_ref());
        if row.is_none() {
            break;
        }
    }
    // The other end knows that it is over.
    let end = if matches!(walk, Walk::Backward | Walk::LendingBack) {
        rows.next()
    } else {
        rows.next_back()
    };
    let end = end.transpose()?.map(esker::Row::into_parts);
    check_row(None, end.as_ref());
    Ok(())
}
