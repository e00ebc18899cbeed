//! Runs a script against the engine and the model at once.
//!
//! A wrong answer panics. An error of the engine is given back: whether it was due is the caller's
//! to say. Either way [`Known`] is up to date: an operation that failed with anything but
//! [`Error::Unknown`] must have changed nothing.

mod bounds;
mod compare;
mod held;
mod read;
mod tables;
mod transact;
mod write;

use crate::known::Known;
use crate::script::{Op, Settings, Tab, table_name};
use crate::seeds;
use crate::state::{Change, State};
use crate::subject::{Register, unchanged};
use crate::transaction::{Handle, OpenTransaction};
use bounds::Bounds;
pub use bounds::add_figure;
use esker::{Database, Durability, Error, Result, Ticket};
use esker_io::Disk;
use held::{HeldScan, HeldSnapshot};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

/// Slots for each of snapshots, scans and transactions.
pub const SLOTS: usize = 3;
/// Work at rest that does not end would write for ever.
const SETTLE_CHECKPOINTS_MAX: u64 = 200;

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
    /// Figures of all databases that were open, summed; of those that are maxima, the greatest.
    pub totals: BTreeMap<&'static str, u64>,
    bounds: Bounds,
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
            bounds: Bounds::default(),
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

    /// False after a restart that failed, or an operation of which only the next open can tell what became of it.
    pub fn is_open(&self) -> bool {
        self.db.is_some()
    }

    /// Opens what is there and finds out which of the candidates it is.
    pub fn open_again(&mut self) -> Result<()> {
        (self.bounds.is_reopened, self.bounds.is_seen) = (true, false);
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
                add_figure(&mut self.totals, name, value);
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
        match op {
            Op::Create(tab) => self.create(*tab),
            Op::Drop(tab) => self.drop_table(*tab),
            Op::Put(tab, key, value, level) => self.put(*tab, *key, *value, *level),
            Op::Delete(tab, key) => self.delete(*tab, *key),
            Op::PutIfAbsent(tab, key, value) => self.put_if_absent(*tab, *key, *value),
            Op::Swap(tab, key, expect, new) => self.swap(*tab, *key, *expect, *new),
            Op::Merge(tab, operator, key, operand) => self.merge(*tab, *operator, *key, *operand),
            Op::DeleteRange(tab, span) => self.delete_range(*tab, *span),
            Op::Clear(tab) => self.clear(*tab),
            Op::Pop(tab, last) => self.pop(*tab, *last),
            Op::Batch(writes, level) => self.batch(writes, *level),
            Op::Fill(tab, first, count, modulo, len) => {
                self.fill(*tab, *first, *count, *modulo, *len)
            }
            Op::Erase(tab, first, count, modulo) => self.erase(*tab, *first, *count, *modulo),
            Op::BulkLoad(tab, first, count, len) => self.bulk_load(*tab, *first, *count, *len),
            Op::Submit(slot, tab, key, value) => self.submit(*slot, *tab, *key, *value),
            Op::Wait(slot) => self.wait(*slot),
            Op::Get(tab, key) => self.get(*tab, *key),
            Op::MultiGet(tab, keys) => self.multi_get(*tab, keys),
            Op::Scan(tab, span, walk) => self.scan(*tab, *span, *walk),
            Op::Transact(isolation, steps, commit, level) => {
                self.transact(*isolation, steps, *commit, *level)
            }
            Op::Begin(slot, isolation) => {
                let open = self.begin(*isolation);
                self.transactions[usize::from(*slot)] = Some(open);
                Ok(())
            }
            Op::Step(slot, step) => self.step_in(*slot, step),
            Op::End(slot, commit) => self.end(*slot, *commit),
            Op::Snapshot(slot) => {
                self.snapshots[usize::from(*slot)] = Some(self.hold_snapshot());
                Ok(())
            }
            Op::CheckSnapshot(slot) => self.check_snapshot(usize::from(*slot)),
            Op::DropSnapshot(slot) => {
                self.snapshots[usize::from(*slot)] = None;
                Ok(())
            }
            Op::OpenScan(slot, tab, span) => self.open_scan(*slot, *tab, *span),
            Op::ContinueScan(slot, rows, back) => self.continue_scan(*slot, *rows, *back),
            Op::Optimize(tab, span) => {
                let Some(handle) = self.existing(*tab) else { return Ok(()) };
                let bounds = span.suits(handle.table.is_ordered()).bounds(self.settings.shape);
                handle.table.optimize(bounds)
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
            Op::Settle => self.settle(),
            Op::Verify => self.verify(),
            Op::CompareAll => self.compare_all(),
            Op::Reopen { close } => self.reopen(*close),
        }
    }

    /// Work at rest ends, whatever cuts hold on to.
    fn settle(&self) -> Result<()> {
        let before = self.db().stats().checkpoints;
        self.db().settle()?;
        let checkpoints = self.db().stats().checkpoints - before;
        assert!(checkpoints <= SETTLE_CHECKPOINTS_MAX, "{checkpoints} checkpoints at rest");
        Ok(())
    }

    fn all_durable(&self) {
        let mut known = self.known();
        known.synced = known.last();
        known.returned = known.last();
    }

    fn row(&self, handle: &Handle, key: &[u8]) -> Option<Vec<u8>> {
        self.known().now().get(&handle.name, handle.generation, key).map(<[u8]>::to_vec)
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
