//! The engine: what all handles of a database share, and how calls go on when an index stops.

use crate::background::replay_log_byte_ns;
use crate::catalog::{Catalog, TableState};
use crate::kinds::Logic;
use crate::options::{Durability, Options};
use crate::read_ahead::ReadAhead;
use crate::rest::RestCleaning;
use crate::row_cache::RowCache;
use crate::store::give_back::Use;
use crate::store::pages::Session;
use crate::store::superblock::Superblock;
use crate::store::{Stalls, Store};
use crate::ticket::Waiters;
use crate::turn::Turn;
use crate::work::Working;
use crate::write_behind::WriteBehind;
use esker_base::sync::{
    Arc, AtomicBool, AtomicU64, AtomicUsize, Backoff, Condvar, Mutex, MutexGuard, Ordering, RwLock,
    Striped,
};
use esker_base::{CommitNo, Error, Lsn, PageId, Result, TableId};
use esker_index::pages::{Step, Stop, View};
use esker_wal::Wal;
use std::time::Duration;

/// After this many stops in a row an operation gives up: a tree cannot change under it that often.
const STOPS_MAX: u32 = 100_000;
/// The same page missing this often in a row, although reading it succeeds, is damage.
const SAME_MISSING_MAX: u32 = 1_000;

/// Everything shared.
#[derive(Debug)]
pub(crate) struct Engine {
    // Fixed after open.
    pub(crate) options: Options,
    /// Background work runs on threads of its own.
    pub(crate) threads: bool,
    pub(crate) lock: Mutex<Option<Box<dyn esker_io::Lock>>>,
    // Provide their own synchronisation.
    pub(crate) store: Store,
    /// The kinds of all tables, which the store shares.
    pub(crate) logic: Arc<Logic>,
    pub(crate) wal: Wal,
    pub(crate) turn: Mutex<Turn>,
    /// Woken when the transaction that runs alone has ended.
    pub(crate) solo_ended: Condvar,
    pub(crate) catalog: RwLock<Catalog>,
    /// Held by whoever does background work of indexes: one at a time. Never waits for the turn while others wait
    /// for it: see `work.rs`.
    pub(crate) work: Mutex<Working>,
    /// Woken when background work has come further.
    pub(crate) worked: Wake,
    /// Held by whoever checkpoints, cleans or frees: one at a time. The newest superblock.
    pub(crate) maintenance: Mutex<Superblock>,
    /// The log is being replayed into a new one that nothing names yet: a checkpoint now would cut off both.
    pub(crate) is_recovering: AtomicBool,
    /// Opened on a disk too full for a log: nothing can be written.
    pub(crate) read_only: bool,
    /// Why writes are refused, if they are.
    poison: Mutex<Option<String>>,
    // Atomic.
    poisoned: AtomicBool,
    pub(crate) closed: AtomicBool,
    /// Where the log stood at the last checkpoint.
    pub(crate) checkpoint_lsn: AtomicU64,
    pub(crate) checkpoint_wanted: AtomicBool,
    /// One is due, and the store thread has not tried since.
    pub(crate) is_checkpoint_awaited: AtomicBool,
    /// Woken when it has.
    pub(crate) checkpointed: Wake,
    /// Nothing may be moved, freed or checkpointed: everything is being read.
    pub(crate) is_verifying: AtomicBool,
    /// What replay of a byte of log is estimated to take: that of the dearest kind of table that there was since the database was opened.
    pub(crate) replay_log_byte_ns: AtomicU64,
    /// The commit, plus one, at which space was last looked for on a full disk.
    pub(crate) space_sought_at: AtomicU64,
    /// How many pages dirtied since the last checkpoint are the next reason to look at the disk's free space.
    pub(crate) space_check_at: AtomicU64,
    /// Pages that the background work under way has built.
    pub(crate) built_pages: AtomicU64,
    /// The log position at which deletes on a full disk next let background work make space.
    pub(crate) delete_work_at: AtomicU64,
    pub(crate) rest_cleaning: Mutex<RestCleaning>,
    pub(crate) next_transaction: AtomicU64,
    pub(crate) counters: EngineCounters,
    pub(crate) wake: Wake,
    pub(crate) log_wake: Wake,
    /// A group commit lately found leaves that were not in memory.
    pub(crate) is_missing_seen: AtomicBool,
    /// Leaves that a group commit brought in were gone before it was through.
    pub(crate) is_memory_short: AtomicBool,
    /// Pages that group commits needed of late, at most, for a number of rows.
    pub(crate) pages_of_rows: AtomicUsize,
    pub(crate) work_wake: Wake,
    /// For background work, and for scans.
    pub(crate) read_ahead: ReadAhead,
    pub(crate) row_cache: RowCache,
    pub(crate) scan_ahead: ReadAhead,
    pub(crate) write_behind: WriteBehind,
    pub(crate) waiters: Waiters,
    /// When the log was last synced at an interval, without threads.
    synced_at: Mutex<Duration>,
}

/// Wakes a background thread.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    pub(crate) pending: Mutex<bool>,
    pub(crate) condvar: Condvar,
}

impl Wake {
    pub(crate) fn wake(&self) {
        let mut pending = self.pending.lock();
        if !*pending {
            *pending = true;
            self.condvar.notify_one();
        }
    }
    /// Wakes all who wait just now.
    pub(crate) fn wake_all(&self) {
        self.condvar.notify_all();
    }
    /// Waits for [`Self::wake_all`], or until `timeout`.
    pub(crate) fn wait(&self, timeout: Duration) {
        let mut pending = self.pending.lock();
        self.condvar.wait_for(&mut pending, timeout);
    }
}

/// Counters of the engine; each is only ever added to.
#[derive(Debug, Default)]
pub(crate) struct EngineCounters {
    /// On the read path: no line that readers of different leaves share.
    pub(crate) gets: Striped,
    /// Rows written and deleted by single operations, each of which is a commit. In the turn.
    pub(crate) puts: AtomicU64,
    pub(crate) deletes: AtomicU64,
    /// Other commits.
    pub(crate) commits: AtomicU64,
    pub(crate) conflicts: AtomicU64,
    pub(crate) commit_retries: AtomicU64,
    pub(crate) log_stalls: Stalls,
    pub(crate) checkpoint_stalls: Stalls,
    pub(crate) debt_stalls: Stalls,
    pub(crate) work_steps: AtomicU64,
    pub(crate) work_attached: AtomicU64,
    pub(crate) reserve_refills: Stalls,
}

/// Pages that an operation was missing lately. One of them missing again was pushed out by the others.
const RECENT_PAGES: usize = 32;
/// When that has happened so often, and again so often, the operation makes room by writing dirty pages.
const PUSHED_OUT_TO_RELIEVE: u32 = 16;
/// So often an operation goes on where there is no space to write dirty pages to.
const PUSHED_OUT_MAX: u32 = 64 * PUSHED_OUT_TO_RELIEVE;

/// How one operation's stops are followed up.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    stops: u32,
    same_missing: u32,
    last_missing: PageId,
    /// Pages read ahead the last time.
    ahead: Vec<PageId>,
    /// The pages that were missing last, as a ring, and how often one came again.
    recent: [PageId; RECENT_PAGES],
    next_recent: usize,
    pushed_out: u32,
    backoff: Backoff,
}

impl Tries {
    /// What may be read together with a page that is missing, of what is going to be needed. Nothing if this page was
    /// read ahead just now: then the frames are too few, and pages push each other out.
    pub(crate) fn read_ahead(&mut self, store: &Store, page: PageId, wanted: &mut Vec<PageId>) {
        // A ring of pages that push each other out would never end: at last only what is missing is read.
        if self.ahead.contains(&page) || self.pushed_out > 0 {
            wanted.clear();
        }
        wanted.retain(|other| *other != page && store.resident.get(*other).is_none());
        wanted.truncate(store.read_ahead_max());
        self.ahead.clone_from(wanted);
    }
    /// Notes that a page is missing; true if it was missing lately.
    fn is_pushed_out(&mut self, page: PageId) -> bool {
        if self.recent.contains(&page) {
            self.pushed_out += 1;
            return true;
        }
        self.recent[self.next_recent] = page;
        self.next_recent = (self.next_recent + 1) % RECENT_PAGES;
        false
    }
    /// True if it is time to try something else.
    pub(crate) fn is_spent(&self) -> bool {
        self.stops > 12
    }
    /// True if far more pages were missing than `keys` keys have on their ways.
    pub(crate) fn is_thrashing(&self, keys: usize) -> bool {
        self.stops as usize > 64 + 4 * keys
    }
}

impl Engine {
    pub(crate) fn new(
        options: Options,
        store: Store,
        logic: Arc<Logic>,
        wal: Wal,
        turn: Turn,
        catalog: Catalog,
        superblock: Superblock,
    ) -> Self {
        let threads = options.background && store.disk.threads();
        let kinds = catalog.by_id.values().map(|table| table.kind);
        let byte_ns = kinds.map(replay_log_byte_ns).max().unwrap_or(0);
        Self {
            threads,
            replay_log_byte_ns: AtomicU64::new(byte_ns),
            options,
            lock: Mutex::new(None),
            store,
            logic,
            checkpoint_lsn: AtomicU64::new(superblock.log_start.0),
            wal,
            turn: Mutex::new(turn),
            solo_ended: Condvar::new(),
            catalog: RwLock::new(catalog),
            work: Mutex::new(Working::default()),
            worked: Wake::default(),
            maintenance: Mutex::new(superblock),
            is_recovering: AtomicBool::new(false),
            read_only: false,
            poison: Mutex::new(None),
            poisoned: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            checkpoint_wanted: AtomicBool::new(false),
            is_checkpoint_awaited: AtomicBool::new(false),
            checkpointed: Wake::default(),
            is_verifying: AtomicBool::new(false),
            space_sought_at: AtomicU64::new(0),
            space_check_at: AtomicU64::new(0),
            built_pages: AtomicU64::new(0),
            delete_work_at: AtomicU64::new(0),
            rest_cleaning: Mutex::default(),
            next_transaction: AtomicU64::new(1),
            counters: EngineCounters::default(),
            wake: Wake::default(),
            log_wake: Wake::default(),
            is_missing_seen: AtomicBool::new(true),
            is_memory_short: AtomicBool::new(false),
            pages_of_rows: AtomicUsize::new(0),
            work_wake: Wake::default(),
            read_ahead: ReadAhead::default(),
            row_cache: RowCache::default(),
            scan_ahead: ReadAhead::default(),
            write_behind: WriteBehind::default(),
            waiters: Waiters::default(),
            synced_at: Mutex::new(Duration::ZERO),
        }
    }

    /// Runs index code that reads a table once; `None` if it stopped, for want of a page as a rule.
    pub(crate) fn read_in_memory<R>(
        &self,
        table: TableId,
        mut step: impl FnMut(&Session<'_>) -> Step<R>,
    ) -> Option<R> {
        step(&Session::new(&self.store, table)).ok()
    }

    /// Runs index code that reads a table until it is done, following up its stops.
    pub(crate) fn read<R>(
        &self,
        table: TableId,
        view: View,
        mut step: impl FnMut(&Session<'_>) -> Step<R>,
    ) -> Result<R> {
        let mut tries = Tries::default();
        loop {
            let (stop, mut wanted) = {
                let session = Session::new(&self.store, table);
                match step(&session) {
                    Ok(result) => return Ok(result),
                    Err(stop) => (stop, session.take_wanted()),
                }
            };
            if let Stop::Missing(page) = stop
                && !wanted.is_empty()
            {
                tries.read_ahead(&self.store, page, &mut wanted);
                wanted.insert(0, page);
                // An error is met again, and told, below.
                let _ignored = self.store.load_many(&wanted, view).is_err();
            }
            self.follow_up(stop, view, &mut tries)?;
        }
    }

    /// Does what a stop asks for. The caller holds neither pin nor latch nor (but for huge write
    /// sets) the turn.
    pub(crate) fn follow_up(&self, stop: Stop, view: View, tries: &mut Tries) -> Result<()> {
        tries.stops += 1;
        match stop {
            Stop::Missing(page) => {
                if tries.last_missing == page {
                    tries.same_missing += 1;
                } else {
                    tries.same_missing = 0;
                    tries.last_missing = page;
                }
                if tries.same_missing > SAME_MISSING_MAX {
                    return Err(self.corrupt(page, "a parent names it, but it has no image"));
                }
                if tries.is_pushed_out(page)
                    && tries.pushed_out.is_multiple_of(PUSHED_OUT_TO_RELIEVE)
                {
                    self.relieve_thrashing(tries)?;
                }
                let loaded = self.store.load(page, view);
                if self.store.is_share_due() {
                    self.share_or_wake();
                }
                match loaded {
                    // A reader that was overtaken may ask for a page that was given up and freed since:
                    // then the way down is another one now.
                    Err(Error::Corrupt { .. })
                        if view == View::Current && tries.same_missing == 0 =>
                    {
                        Ok(())
                    }
                    loaded => loaded,
                }
            }
            Stop::Moved => {
                if tries.stops > STOPS_MAX {
                    return Err(self.corrupt(PageId::NONE, "the tree does not hold still"));
                }
                tries.backoff.wait();
                Ok(())
            }
            Stop::Unpublished(commit) => self.wait_published(commit),
            Stop::Reserve => {
                if tries.stops > STOPS_MAX {
                    return Err(Error::invalid(
                        "memory_bytes too small",
                        "an operation needs more pages at once than may be set aside",
                    ));
                }
                self.set_aside(8 << tries.stops.min(12))
            }
            Stop::Behind => self.catch_up(),
            Stop::Corrupt { page, detail } => Err(self.corrupt(page, &detail)),
        }
    }

    /// An operation whose pages push each other out: clean ones can always be evicted, so the dirty ones, which may
    /// hold nearly all frames, would stay for ever. They are written, so that there is room for what is needed.
    #[cold]
    fn relieve_thrashing(&self, tries: &Tries) -> Result<()> {
        if self.store.take_back_all() {
            return Ok(());
        }
        let frames = self.store.frames.count();
        match self.store.relieve(frames as usize / 4) {
            // Then it has to do with the others; but not for long.
            Err(Error::NoSpace { .. }) if tries.pushed_out < PUSHED_OUT_MAX => Ok(()),
            // Many times over, since others may be what pushes them out.
            Ok(()) if tries.pushed_out / PUSHED_OUT_TO_RELIEVE > frames.saturating_mul(4) => {
                Err(Error::invalid(
                    "memory_bytes too small",
                    format!("an operation needs more pages at once than {frames} frames hold"),
                ))
            }
            relieved => relieved,
        }
    }

    fn corrupt(&self, page: PageId, detail: &str) -> Error {
        Error::corrupt("page", self.store.disk.label(), 0, format!("{page:?}: {detail}"))
    }

    /// Waits until a commit is published.
    ///
    /// # Errors
    /// `Corrupt` if nobody is about to: a page that was read says so, and lies.
    fn wait_published(&self, commit: CommitNo) -> Result<()> {
        let mut backoff = Backoff::default();
        while self.store.published() < commit {
            // Whose commit it is holds the turn until it is published, or writing ends for good.
            let turn = self.turn.try_lock();
            self.check_writable()?;
            if turn.is_some() && self.store.published() < commit {
                return Err(self.corrupt(PageId::NONE, "it is of a commit that was never made"));
            }
            drop(turn);
            backoff.wait();
        }
        Ok(())
    }

    /// Sets aside frames and page ids for the turn: at least `want`, as far as memory allows.
    pub(crate) fn set_aside(&self, want: usize) -> Result<()> {
        self.counters.reserve_refills.during(&*self.store.disk, || self.refill_reserve(want))
    }

    fn refill_reserve(&self, want: usize) -> Result<()> {
        let limit = (self.store.frames.count() as usize / 4).max(16);
        let want = want.clamp(16, limit);
        // Ids may run out alone: pages that are replaced take frames, and give some back.
        let lacking = want.saturating_sub(self.turn.lock().reserve.frames.len());
        let mut frames = Vec::with_capacity(lacking);
        let mut failed = Ok(());
        while frames.len() < lacking {
            match self.store.take_frame(Use::Write) {
                Ok(frame) => frames.push(frame),
                Err(error) => {
                    failed = Err(error);
                    break;
                }
            }
        }
        if self.store.disk.threads() && self.store.frames.is_populate_due() {
            self.log_wake.wake();
        }
        let mut turn = self.turn.lock();
        let reserve = &mut turn.reserve;
        {
            // Not one for each frame: many frames go to versions and to pages that have their id.
            let mut state = self.store.state.lock();
            while reserve.pages.len() < want {
                reserve.pages.push(state.ids.allocate(1));
            }
        }
        // What is beyond the limit goes back: many writers may have found the reserve empty at once.
        for frame in frames {
            if reserve.frames.len() < limit {
                reserve.frames.push(frame);
            } else {
                self.store.frames.give_back(frame);
            }
        }
        failed
    }

    /// Enters the commit turn; waits at the door while another transaction runs alone.
    pub(crate) fn enter(&self, transaction: u64) -> MutexGuard<'_, Turn> {
        let mut turn = self.turn.lock();
        while turn.solo.is_some_and(|solo| solo != transaction) {
            self.solo_ended.wait(&mut turn);
        }
        turn
    }

    /// As [`Self::enter`] for a write of its own, but does not wait.
    #[inline]
    pub(crate) fn try_enter(&self) -> Option<MutexGuard<'_, Turn>> {
        self.turn.try_lock().filter(|turn| turn.solo.is_none())
    }

    /// Publishes a commit. In the turn.
    pub(crate) fn publish(&self, turn: &mut Turn, commit: CommitNo) {
        turn.last = commit;
        self.store.published.store(commit.0, Ordering::Release);
    }

    /// Takes a cut at the newest commit.
    pub(crate) fn take_cut(&self) -> CommitNo {
        let mut turn = self.turn.lock();
        let cut = turn.last;
        turn.cuts.take(cut);
        cut
    }

    /// Gives a cut back, and the versions that only it saw.
    pub(crate) fn release_cut(&self, cut: CommitNo) {
        let (cuts, published) = {
            let mut turn = self.turn.lock();
            if !turn.cuts.release(cut) || self.store.versions.count() == 0 {
                return;
            }
            (turn.cuts.all(), turn.last)
        };
        let frames = self.store.versions.drop_unseen(&cuts, published);
        for frame in &frames {
            self.store.frames.retire(*frame);
        }
    }

    /// Refuses writes after a failed sync or write.
    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(Error::Closed);
        }
        if self.read_only {
            return Err(Error::NoSpace { op: "make a log", file: self.store.disk.label() });
        }
        if self.poisoned.load(Ordering::Acquire) {
            let detail = self.poison.lock().clone().unwrap_or_default();
            return Err(Error::Poisoned { detail });
        }
        Ok(())
    }

    /// From now on writes are refused.
    pub(crate) fn poison(&self, detail: String) {
        let mut poison = self.poison.lock();
        poison.get_or_insert(detail);
        self.poisoned.store(true, Ordering::Release);
    }

    /// Waits until the log is durable through `lsn`.
    pub(crate) fn sync_log(&self, lsn: Lsn) -> Result<()> {
        let seal = || {
            let mut turn = self.turn.lock();
            self.wal.seal(&mut turn.tail)
        };
        self.wal.sync_through(lsn, &seal).inspect_err(|error| self.poison(error.to_string()))
    }

    /// After a commit: waits for the durability asked for, and lets background work begin.
    pub(crate) fn acknowledge(&self, lsn: Lsn, durability: Durability) -> Result<()> {
        if durability == Durability::Sync {
            self.sync_log(lsn)?;
        } else if let Some(error) = self.wal.failure(lsn) {
            self.poison(error.to_string());
            return Err(error);
        }
        if self.wal.upkeep_due() {
            if self.threads {
                self.log_wake.wake();
            } else {
                self.upkeep_log();
            }
        }
        if !self.threads && durability < Durability::Sync {
            self.sync_at_interval();
        }
        if self.is_checkpoint_due() {
            if self.threads {
                self.is_checkpoint_awaited.store(true, Ordering::Release);
                self.wake.wake();
                self.wait_for_checkpoint()?;
            } else {
                self.background_step();
            }
        }
        Ok(())
    }

    /// Where no thread does it: syncs the log if the last time is an interval ago.
    fn sync_at_interval(&self) {
        let now = self.store.disk.now();
        let mut synced_at = self.synced_at.lock();
        if now.saturating_sub(*synced_at) >= self.options.sync_interval {
            *synced_at = now;
            drop(synced_at);
            // Failure poisons the database: the next write reports it.
            let _ignored = self.sync_log(self.wal.position()).is_err();
        }
    }

    /// Work ahead of the log's tail. True if there was some. What fails here is met again by who needs
    /// it, but for a sync.
    pub(crate) fn upkeep_log(&self) -> bool {
        self.refuse_after_failed_sync(self.wal.upkeep()).unwrap_or(false)
    }

    /// Whatever was being synced: after a failure nobody knows what the device still takes.
    pub(crate) fn refuse_after_failed_sync<R>(&self, result: Result<R>) -> Result<R> {
        if let Err(error @ Error::Io { op: "sync", .. }) = &result {
            self.poison(error.to_string());
            self.check_writable()?;
        }
        result
    }

    /// The table of a name.
    pub(crate) fn find_table(&self, name: &str) -> Option<Arc<TableState>> {
        self.catalog.read().by_name.get(name).cloned()
    }
}
