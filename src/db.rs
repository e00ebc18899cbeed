//! The database: tables, transactions, snapshots, and the whole's upkeep.

use crate::background::Threads;
use crate::batch::Batch;
use crate::catalog::{Index, NAME_BYTES_MAX, TableState, is_id, is_name};
use crate::engine::Engine;
use crate::options::Options;
use crate::record::Record;
use crate::snapshot::Snapshot;
use crate::stats::Stats;
use crate::table::Table;
use crate::txn::{Isolation, Transaction};
use crate::verify::{self, Verified};
use esker_base::sync::{Arc, Mutex, Ordering};
use esker_base::{CommitNo, Error, Lsn, Result};
use std::fmt;
use std::path::Path;

/// A transaction that conflicted this often runs alone.
const TRIES_BEFORE_SOLO: u32 = 2;

/// An open database. Cheap to clone; it is closed when the last handle to it or to one of its tables is
/// dropped.
#[derive(Clone)]
pub struct Database {
    shared: Arc<Shared>,
}

/// Stops the threads when the last handle goes: of the database, or of a table.
pub(crate) struct Shared {
    engine: Arc<Engine>,
    threads: Mutex<Threads>,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database")
            .field("place", &self.shared.engine.store.disk.label())
            .finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if !self.engine.closed.load(Ordering::Acquire) {
            // What was acknowledged at less than `Sync` gets its sync, if it can be had.
            let position = self.engine.wal.position();
            if self.engine.check_writable().is_ok() {
                let _ignored = self.engine.sync_log(position).is_err();
            }
            self.stop();
        }
    }
}

impl Shared {
    fn stop(&self) {
        self.engine.closed.store(true, Ordering::Release);
        self.engine.wake.wake();
        self.engine.log_wake.wake();
        self.engine.work_wake.wake();
        self.engine.read_ahead.wake();
        self.engine.scan_ahead.wake();
        self.engine.write_behind.wake();
        self.threads.lock().join();
        self.engine.lock.lock().take();
    }
}

impl Database {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        let threads = Mutex::new(Threads::start(&engine));
        Self { shared: Arc::new(Shared { engine, threads }) }
    }

    fn handle(&self, state: Arc<TableState>) -> Table {
        let engine = Arc::clone(self.engine());
        Table { engine, state, _open: Arc::clone(&self.shared) }
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.shared.engine
    }

    /// Opens the database in a directory, making it if need be, with default [`Options`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Options::new().open(path)
    }

    /// A table, made if there is none of that name.
    ///
    /// # Errors
    /// `WrongKind` if it exists with another kind of index.
    pub fn table(&self, name: &str, kind: Index) -> Result<Table> {
        match self.open_table(name) {
            Ok(table) if table.kind() == kind => Ok(table),
            Ok(table) => Err(Error::WrongKind {
                name: name.to_owned(),
                found: table.kind().to_string(),
                wanted: kind.to_string(),
            }),
            Err(Error::UnknownTable { .. }) => match self.create_table(name, kind) {
                // Somebody else was faster.
                Err(Error::Invalid { what: "table exists", .. }) => self.table(name, kind),
                created => created,
            },
            Err(error) => Err(error),
        }
    }

    /// A table that exists.
    ///
    /// # Errors
    /// `UnknownTable`; `UnknownKind` if its kind of index was not registered at open.
    pub fn open_table(&self, name: &str) -> Result<Table> {
        let engine = self.engine();
        if engine.closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        let state =
            engine.find_table(name).ok_or_else(|| Error::UnknownTable { name: name.to_owned() })?;
        state.check_registered()?;
        Ok(self.handle(state))
    }

    /// A new table.
    ///
    /// # Errors
    /// `Invalid` if there is one of that name, or the name is empty or longer than 255 bytes.
    pub fn create_table(&self, name: &str, kind: Index) -> Result<Table> {
        if !is_name(name) {
            return Err(Error::invalid(
                "table name",
                format!("{} bytes, from 1 to {NAME_BYTES_MAX}", name.len()),
            ));
        }
        let custom = kind.custom_name().len();
        if custom > NAME_BYTES_MAX {
            return Err(Error::invalid("name of an index kind", format!("{custom} bytes")));
        }
        let engine = self.engine();
        let state = self.define(|turn, commit| {
            if engine.find_table(name).is_some() {
                return Err(Error::invalid("table exists", name));
            }
            let id = turn.next_table;
            if !is_id(id) {
                return Err(Error::invalid("table", "no database has had so many"));
            }
            if matches!(kind, Index::Custom(name) if !engine.options.kinds.has(name)) {
                return Err(Error::UnknownKind { kind: kind.to_string(), table: name.to_owned() });
            }
            let record = Record::CreateTable {
                table: id,
                kind: kind.code(),
                name: name.as_bytes(),
                custom: kind.custom_name().as_bytes(),
            };
            let lsn = engine.log_definition(turn, commit, &record);
            let made = engine.make_table(turn, id, name, kind, commit);
            Ok((lsn, made))
        })?;
        Ok(self.handle(state))
    }

    /// Removes a table and all its rows. Its pages are freed in the background.
    pub fn drop_table(&self, name: &str) -> Result<()> {
        let engine = self.engine();
        self.define(|turn, commit| {
            let table = engine
                .find_table(name)
                .ok_or_else(|| Error::UnknownTable { name: name.to_owned() })?;
            table.check_registered()?;
            let record = Record::DropTable { table: table.id };
            let lsn = engine.log_definition(turn, commit, &record);
            Ok((lsn, engine.unmake_table(turn, &table, commit)))
        })
    }

    /// Runs a change of the catalogue in a turn of its own. The change checks first, then logs, then
    /// carries out; if the last fails, only a new start can tell what holds.
    fn define<R>(
        &self,
        change: impl Fn(&mut crate::turn::Turn, CommitNo) -> Result<(Lsn, Result<R>)>,
    ) -> Result<R> {
        const RECORD_BYTES_MAX: usize = 2 * NAME_BYTES_MAX + 32;
        let engine = self.engine();
        engine.check_writable()?;
        let (lsn, result) = loop {
            let mut turn = engine.enter(0);
            engine.check_writable()?;
            if !engine.wal.fits(&turn.tail, RECORD_BYTES_MAX) {
                drop(turn);
                engine.make_log_room(RECORD_BYTES_MAX, true)?;
                continue;
            }
            engine.fill_reserve(&mut turn, 16)?;
            let commit = turn.last.next();
            let (lsn, result) = change(&mut turn, commit)?;
            if let Err(error) = &result {
                engine.poison(format!("the catalogue could not be changed: {error}"));
            }
            engine.row_cache.forget_all();
            engine.publish(&mut turn, commit);
            break (lsn, result);
        };
        let result = result?;
        engine.acknowledge(lsn, engine.options.durability)?;
        Ok(result)
    }

    /// The tables, by name; without those whose kind of index was not registered at open.
    pub fn tables(&self) -> Vec<Table> {
        let catalog = self.engine().catalog.read();
        let tables = catalog.by_name.values().filter(|table| table.check_registered().is_ok());
        tables.map(|state| self.handle(Arc::clone(state))).collect()
    }

    /// Begins a serialisable transaction.
    pub fn begin(&self) -> Transaction {
        self.begin_with(Isolation::Serializable)
    }

    /// Begins a transaction.
    pub fn begin_with(&self, isolation: Isolation) -> Transaction {
        Transaction::new(self.engine(), isolation)
    }

    /// Runs `body` in a transaction and commits it; on a conflict, again, the third time with all
    /// other writers waiting. `body` may return errors of its own type; they end the transaction.
    ///
    /// ```
    /// # fn main() -> esker::Result<()> {
    /// # let db = esker::Options::new().open_in_memory()?;
    /// let stock = db.table("stock", esker::Index::BTree)?;
    /// stock.put("apples", "3")?;
    /// let left = db.transact(|tx| {
    ///     let n: u64 = tx.get(&stock, "apples")?.map_or(0, |n| String::from_utf8_lossy(&n).parse().unwrap_or(0));
    ///     tx.put(&stock, "apples", (n - 1).to_string())?;
    ///     Ok::<_, esker::Error>(n - 1)
    /// })?;
    /// assert_eq!(left, 2);
    /// # Ok(()) }
    /// ```
    pub fn transact<R, E: From<Error> + ConflictCheck>(
        &self,
        mut body: impl FnMut(&mut Transaction) -> Result<R, E>,
    ) -> Result<R, E> {
        let engine = self.engine();
        let number = engine.next_transaction.fetch_add(1, Ordering::Relaxed);
        let mut solo = None;
        for attempt in 0.. {
            if attempt == TRIES_BEFORE_SOLO {
                solo = Some(Solo::enter(engine, number));
            }
            let mut tx = Transaction::numbered(engine, Isolation::Serializable, number);
            let result = body(&mut tx).and_then(|value| Ok(tx.commit().map(|()| value)?));
            match result {
                Err(error) if error.is_conflict() && attempt < 64 => {}
                result => {
                    drop(solo);
                    return result;
                }
            }
        }
        unreachable!("the loop returns")
    }

    /// All tables as of now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.engine())
    }

    /// Writes to be committed together, without reads.
    pub fn batch(&self) -> Batch {
        Batch::new(self.engine())
    }

    /// Makes everything acknowledged so far survive power loss.
    pub fn sync(&self) -> Result<()> {
        let engine = self.engine();
        engine.check_writable()?;
        engine.sync_log(engine.wal.position())
    }

    /// Writes a checkpoint now: reopening need not replay what came before.
    pub fn checkpoint(&self) -> Result<()> {
        self.engine().checkpoint()
    }

    /// Does the background work that is due at rest: checkpoint, freeing, cleaning. Returns when nothing is left.
    pub fn settle(&self) -> Result<()> {
        self.engine().settle()
    }

    /// Figures since the database was opened.
    pub fn stats(&self) -> Stats {
        Stats::of(self.engine())
    }

    /// Reads and checks every byte that the database relies on, as of the last checkpoint and now.
    ///
    /// # Errors
    /// Damage is not an error but listed in the result; errors are what kept the check from running.
    pub fn verify(&self) -> Result<Verified> {
        if self.engine().closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        verify::verify(self.engine())
    }

    /// Closes: a checkpoint, so that the next open has nothing to replay. Other handles then answer
    /// [`Error::Closed`]. Files may be copied afterwards: a backup.
    pub fn close(self) -> Result<()> {
        let engine = self.engine();
        if engine.closed.load(Ordering::Acquire) {
            return Ok(());
        }
        if engine.read_only {
            self.shared.stop();
            return Ok(());
        }
        let result = match engine.check_writable() {
            Ok(()) => match engine.checkpoint() {
                // No room for a checkpoint: the log has everything.
                Err(Error::NoSpace { .. }) => engine.sync_log(engine.wal.position()),
                result => result,
            },
            Err(error) => Err(error),
        };
        self.shared.stop();
        result
    }

    #[doc(hidden)]
    pub fn switch_validation_off_to_test_the_history_checker(&self) {
        self.engine().turn.lock().ring.validate = false;
    }
}

/// Errors that may be a conflict, so that [`Database::transact`] knows when to try again.
pub trait ConflictCheck {
    /// True if this is [`Error::Conflict`].
    fn is_conflict(&self) -> bool;
}

impl ConflictCheck for Error {
    fn is_conflict(&self) -> bool {
        Self::is_conflict(self)
    }
}

impl ConflictCheck for Box<dyn std::error::Error + Send + Sync> {
    fn is_conflict(&self) -> bool {
        self.downcast_ref::<Error>().is_some_and(Error::is_conflict)
    }
}

/// While this lives, only one transaction commits.
struct Solo<'a> {
    engine: &'a Engine,
}

impl<'a> Solo<'a> {
    fn enter(engine: &'a Engine, number: u64) -> Self {
        let mut turn = engine.enter(number);
        turn.solo = Some(number);
        drop(turn);
        Self { engine }
    }
}

impl Drop for Solo<'_> {
    fn drop(&mut self) {
        self.engine.turn.lock().solo = None;
        self.engine.solo_ended.notify_all();
    }
}

impl Engine {
    /// Appends a definition to the log. In the turn, after `fits`.
    fn log_definition(
        &self,
        turn: &mut crate::turn::Turn,
        commit: CommitNo,
        record: &Record<'_>,
    ) -> Lsn {
        let mut payload = Vec::new();
        record.encode(&mut payload);
        self.wal.append(&mut turn.tail, commit, &[&payload])
    }
}
