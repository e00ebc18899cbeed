//! Background work: checkpoints, freeing, cleaning, keeping frames free, syncing the log at intervals.
//!
//! Either on two threads of the database, or, with a simulated disk or without
//! [`Options::background`](crate::Options::background), in steps on the callers' threads.

use crate::catalog::Index;
use crate::engine::{Engine, Wake};
use crate::read_ahead::{scan_ahead_thread, work_ahead_thread};
use crate::store::clean::{DEAD_PERCENT_BUSY, DEAD_PERCENT_FULL, DEAD_PERCENT_REST};
use crate::store::count;
use crate::store::segment::SEGMENT_PAGES_MIN;
use crate::store::superblock::{self, Superblock};
use crate::work::Round;
use crate::write_behind::write_behind_thread;
use esker_base::sync::{Arc, Ordering, thread};
use esker_base::{CommitNo, Error, Lsn, Result};
use std::time::Duration;

/// A checkpoint is due when replay is estimated to take this long,
const REPLAY_NS_MAX: u64 = 1_000_000_000;
/// from what a dirty page costs (read, unpack, at the depth of a batch)
const REPLAY_PAGE_NS: u64 = 12_000;
/// and a byte of log,
const REPLAY_LOG_BYTE_NS: u64 = 5;
/// or one where there are tables that replay takes longer for: memtables are built anew, split by split.
const REPLAY_LOG_BYTE_NS_FRACTAL: u64 = 7;
/// A checkpoint is due, too, when so much was written since the last one, of what is alive.
const PINNED_PERCENT_MAX: u64 = 25;
/// So many times the distance at which a checkpoint starts at the latest, and writers wait for it.
const LOG_DISTANCES_MAX: u64 = 2;
/// They look this often whether it has ended.
const CHECKPOINT_LOOK: Duration = Duration::from_millis(20);
/// Then one write goes on all the same: there may be no thread that writes checkpoints.
const CHECKPOINT_WAIT_MAX: Duration = Duration::from_secs(10);
/// The store thread looks around this often when nobody wakes it.
const TICK: Duration = Duration::from_millis(200);
/// The work thread looks around this often under writes.
const WORK_TICK: Duration = Duration::from_millis(20);
/// Without a commit for this long, the database is at rest.
const REST: Duration = Duration::from_secs(2);
/// Bytes moved by the cleaner in one step.
const CLEAN_STEP_BYTES: u64 = 8 << 20;
/// Pages freed in one step.
const FREE_STEP: usize = 1024;

/// What replay of a byte of log is estimated to take for a table of this kind, at most.
pub(crate) fn replay_log_byte_ns(kind: Index) -> u64 {
    match kind {
        Index::BTree | Index::Hash => REPLAY_LOG_BYTE_NS,
        Index::Fractal | Index::Custom(_) => REPLAY_LOG_BYTE_NS_FRACTAL,
    }
}

/// The threads of a database.
#[derive(Debug, Default)]
pub(crate) struct Threads {
    handles: Vec<thread::JoinHandle<()>>,
}

impl Threads {
    pub(crate) fn start(engine: &Arc<Engine>) -> Self {
        if !engine.threads {
            return Self::default();
        }
        let spawn = |name: &str, run: fn(&Engine)| {
            let engine = Arc::clone(engine);
            thread::Builder::new().name(name.to_owned()).spawn(move || run(&engine))
        };
        let handles = [
            spawn("esker-store", store_thread),
            spawn("esker-log", log_thread),
            spawn("esker-work", work_thread),
            spawn("esker-ahead", work_ahead_thread),
            spawn("esker-scan", scan_ahead_thread),
            spawn("esker-scan", scan_ahead_thread),
            spawn("esker-behind", write_behind_thread),
        ];
        // Without a thread its work is done when callers need it, as with a simulated disk.
        Self { handles: handles.into_iter().flatten().collect() }
    }

    /// Waits for the threads, which end once the engine is closed.
    pub(crate) fn join(&mut self) {
        for handle in self.handles.drain(..) {
            // A panicked thread has poisoned the engine; there is nothing more to do with it here.
            let _ignored = handle.join().is_err();
        }
    }
}

/// Waits for a wake-up or until `timeout`; false if it was the timeout.
fn wait(wake: &Wake, timeout: Duration) -> bool {
    let mut pending = wake.pending.lock();
    if !*pending {
        wake.condvar.wait_for(&mut pending, timeout);
    }
    std::mem::take(&mut *pending)
}

fn store_thread(engine: &Engine) {
    let guard = PoisonOnPanic(engine);
    let mut seen = CommitNo(0);
    let mut since = engine.store.disk.now();
    while !engine.closed.load(Ordering::Acquire) {
        let woken = wait(&engine.wake, TICK);
        let published = engine.store.published();
        let now = engine.store.disk.now();
        if published != seen {
            seen = published;
            since = now;
        }
        engine.background_step();
        if !woken && now.saturating_sub(since) > REST {
            engine.rest_step();
        }
    }
    std::mem::forget(guard);
}

/// Merges and the like: apart from the store thread, which compresses and writes meanwhile what is built here.
fn work_thread(engine: &Engine) {
    let guard = PoisonOnPanic(engine);
    let mut seen = CommitNo(0);
    while !engine.closed.load(Ordering::Acquire) {
        let published = engine.store.published();
        // Nothing new, nothing to do: who is at rest is looked after by the store thread.
        let timeout = if published == seen { TICK } else { WORK_TICK };
        wait(&engine.work_wake, timeout);
        if published == seen && engine.store.published() == seen {
            continue;
        }
        seen = published;
        while engine.work_under_writes() && !engine.closed.load(Ordering::Acquire) {}
    }
    std::mem::forget(guard);
}

fn log_thread(engine: &Engine) {
    let guard = PoisonOnPanic(engine);
    let interval = engine.options.sync_interval;
    let mut synced_at = engine.store.disk.now();
    while !engine.closed.load(Ordering::Acquire) {
        wait(&engine.log_wake, interval.min(TICK));
        loop {
            // The log first: without it writers wait, without the memory they are slower.
            let more = engine.upkeep_log() || engine.store.frames.populate();
            if !more || engine.closed.load(Ordering::Acquire) {
                break;
            }
        }
        if let Some(farthest) = engine.waiters.farthest() {
            // A failure is told to each of them when they look.
            let failed = engine.sync_log(farthest).is_err();
            engine.waiters.wake(if failed { Lsn(u64::MAX) } else { engine.wal.durable() });
        }
        let now = engine.store.disk.now();
        if now.saturating_sub(synced_at) >= interval {
            synced_at = now;
            let position = engine.wal.position();
            if position > engine.wal.durable() && engine.check_writable().is_ok() {
                // Failure poisons the database: the next write reports it.
                let _ignored = engine.sync_log(position).is_err();
            }
        }
    }
    engine.waiters.wake(Lsn(u64::MAX));
    std::mem::forget(guard);
}

/// A background thread that panics leaves work undone that others wait for.
pub(crate) struct PoisonOnPanic<'a>(pub(crate) &'a Engine);

impl Drop for PoisonOnPanic<'_> {
    fn drop(&mut self) {
        self.0.poison("a background thread panicked".to_owned());
    }
}

impl Engine {
    /// Bytes of log that a crash now would replay.
    fn log_behind_bytes(&self) -> u64 {
        self.wal.position().0.saturating_sub(self.checkpoint_lsn.load(Ordering::Relaxed))
    }

    /// True if replay would take too long, if too much that is dead waits for it, or if it was asked for.
    pub(crate) fn is_checkpoint_due(&self) -> bool {
        let log_bytes = self.log_behind_bytes();
        let pages = self.store.dirtied.load(Ordering::Relaxed);
        log_bytes > self.options.log_distance_bytes
            || pages * REPLAY_PAGE_NS + log_bytes * self.replay_log_byte_ns.load(Ordering::Relaxed)
                > REPLAY_NS_MAX
            || self.store.written_bytes.load(Ordering::Relaxed) > self.pinned_bytes_max()
            || self.checkpoint_wanted.load(Ordering::Relaxed)
            || self.is_space_tight()
    }

    /// A writer that has gone far beyond where a checkpoint was due waits until the store thread has tried one: the log is as long as
    /// what it takes to replay it, whatever the disk. Holding nothing.
    pub(crate) fn wait_for_checkpoint(&self) -> Result<()> {
        let max_bytes = self.options.log_distance_bytes.saturating_mul(LOG_DISTANCES_MAX);
        let max_bytes = max_bytes.max(self.options.log_file_bytes);
        if self.log_behind_bytes() <= max_bytes {
            return Ok(());
        }
        let stalls = &self.counters.checkpoint_stalls;
        stalls.during(&*self.store.disk, || {
            let began = self.store.disk.now();
            while self.is_checkpoint_awaited.load(Ordering::Acquire)
                && self.log_behind_bytes() > max_bytes
                && self.store.disk.now().saturating_sub(began) < CHECKPOINT_WAIT_MAX
                && !self.is_verifying.load(Ordering::Relaxed)
            {
                self.check_writable()?;
                self.checkpointed.wait(CHECKPOINT_LOOK);
            }
            Ok(())
        })
    }

    /// Bytes of images that may be written between two checkpoints: what they replace stays on the disk
    /// until the second.
    fn pinned_bytes_max(&self) -> u64 {
        /// Segments of the smallest size; less is not worth a checkpoint.
        const LEAST: u64 = 16;
        let share = self.store.live_bytes.load(Ordering::Relaxed) * PINNED_PERCENT_MAX / 100;
        share.max(LEAST * SEGMENT_PAGES_MIN * self.store.options.page_bytes as u64)
    }

    /// One round of background work under writes.
    pub(crate) fn background_step(&self) {
        if self.check_writable().is_err() {
            return;
        }
        self.note_failure(self.keep_frames_free());
        if self.threads {
            self.note_failure(self.share_memory());
            self.resize_row_cache();
        }
        if !self.threads {
            self.note_failure(self.work_round(self.is_space_short()));
        }
        if self.is_checkpoint_due() {
            let is_tight = self.is_space_tight();
            let before = self.store.counters.image_bytes_written.load(Ordering::Relaxed);
            self.note_failure(self.checkpoint());
            let wrote = self.store.counters.image_bytes_written.load(Ordering::Relaxed) - before;
            self.note_failure(self.free_given_up());
            // While there is still room to move what lives beside the dead.
            let percent = if is_tight { DEAD_PERCENT_FULL } else { DEAD_PERCENT_BUSY };
            self.note_failure(self.clean_up_to(percent, wrote.max(CLEAN_STEP_BYTES)));
            if is_tight {
                self.note_failure(self.clean_where_little_is_left());
            }
        }
        if self.is_checkpoint_awaited.swap(false, Ordering::AcqRel) {
            self.checkpointed.wake_all();
        }
    }

    /// Some of the indexes' background work. True if there may be more.
    fn work_under_writes(&self) -> bool {
        if self.check_writable().is_err() {
            return false;
        }
        let round = self.work_round(self.is_space_short());
        let more = matches!(round, Ok(Round::More));
        self.note_failure(round);
        more
    }

    /// One round of background work at rest: write out, free, clean, until nothing is left to do.
    /// Returns whether anything was done.
    pub(crate) fn rest_step(&self) -> bool {
        if self.check_writable().is_err() {
            return false;
        }
        let result = self.rest_step_with_space();
        let progressed = matches!(result, Ok(true));
        self.note_failure(result);
        progressed
    }

    fn rest_step_with_space(&self) -> Result<bool> {
        match self.try_rest_step() {
            Err(Error::NoSpace { .. }) if self.make_space() => self.try_rest_step(),
            result => result,
        }
    }

    fn try_rest_step(&self) -> Result<bool> {
        let worked = self.work_round(true)? == Round::More;
        if worked {
            return Ok(true);
        }
        let freed = self.free_given_up()?;
        let cleaned = self.clean_at_rest()?;
        let log_behind = self.log_behind_bytes() > 0;
        let waiting = {
            let state = self.store.state.lock();
            !state.segments.removable(u64::MAX).is_empty()
        };
        let due = freed || cleaned > 0 || log_behind || (waiting && self.can_remove());
        if due {
            self.checkpoint()?;
        }
        if cleaned > 0 {
            let (_, dead_bytes) = self.store.cleanable();
            self.rest_cleaning.lock().note(dead_bytes, self.store.gain_bytes_min());
        }
        Ok(due)
    }

    /// A pass of the cleaner, if it may win something. Returns bytes moved.
    fn clean_at_rest(&self) -> Result<u64> {
        let state = (self.store.published(), self.store.versions.count());
        let (_, dead_bytes) = self.store.cleanable();
        if !self.rest_cleaning.lock().goes_on(state, dead_bytes) {
            return Ok(0);
        }
        if self.store.is_worth_cleaning(DEAD_PERCENT_REST) {
            // The open segments hold their share of what is dead.
            self.store.seal_streams()?;
        }
        self.clean_up_to(DEAD_PERCENT_REST, CLEAN_STEP_BYTES * 4)
    }

    /// Whether a checkpoint would let a segment go: not if versions are what keeps them.
    fn can_remove(&self) -> bool {
        self.store.versions.count() == 0
    }

    pub(crate) fn note_failure<T>(&self, result: Result<T>) {
        match result {
            // Space may come back; readers and later writers find out for themselves. What is damaged
            // stays so; the rest is served.
            Ok(_)
            | Err(
                Error::NoSpace { .. }
                | Error::TooManyFiles { .. }
                | Error::Corrupt { .. }
                | Error::Closed
                | Error::Poisoned { .. },
            ) => {}
            Err(error) => self.poison(error.to_string()),
        }
    }

    /// Writes back and evicts ahead of need.
    fn keep_frames_free(&self) -> Result<()> {
        let want = (self.store.frames.limit() as usize / 32).max(8);
        if self.store.frames.available() < want {
            self.store.relieve(want)?;
        }
        // What is written sooner may be written once more: not where there is hardly space for it.
        if self.threads && !self.is_space_short() {
            self.store.keep_clean(2 * want)?;
        }
        Ok(())
    }

    /// Frees pages that no cut sees any more. True if something was freed.
    pub(crate) fn free_given_up(&self) -> Result<bool> {
        let _maintenance = self.maintenance.lock();
        let oldest = {
            let mut turn = self.turn.lock();
            self.hand_over_freed(&mut turn);
            turn.cuts.oldest().unwrap_or(turn.last)
        };
        let mut any = false;
        loop {
            let before = {
                let state = self.store.state.lock();
                (state.freed.len(), state.trees.len())
            };
            let more = self.store.free_some(oldest, FREE_STEP)?;
            let after = {
                let state = self.store.state.lock();
                (state.freed.len(), state.trees.len())
            };
            any |= before != after;
            if !more {
                return Ok(any);
            }
        }
    }

    /// Moves what turns gave up to where freeing finds it. In the turn.
    pub(crate) fn hand_over_freed(&self, turn: &mut crate::turn::Turn) {
        if turn.reserve.freed.is_empty() && turn.reserve.trees.is_empty() {
            return;
        }
        let mut state = self.store.state.lock();
        turn.reserve.freed.drain(..).for_each(|freed| state.note_freed(freed));
        turn.reserve.trees.drain(..).for_each(|tree| state.note_tree(tree));
    }

    /// Gives back the page ids that turns have set aside, so that a checkpoint lists them as free. In the turn.
    fn give_back_ids(&self, turn: &mut crate::turn::Turn) {
        let mut state = self.store.state.lock();
        for page in turn.reserve.pages.drain(..) {
            state.ids.give_back(page, 1);
        }
    }

    /// Cleans until the policy is content or `limit_bytes` were moved; returns bytes moved.
    pub(crate) fn clean_up_to(&self, dead_percent_max: u64, limit_bytes: u64) -> Result<u64> {
        let _maintenance = self.maintenance.lock();
        // What is moved takes space until a checkpoint lets go of where it was. Much at a time: the checkpoint writes map nodes anew,
        // all of them where pages lie in no order, and on a small disk they are as much as little that was moved brings.
        let free_bytes = self.store.disk.free_bytes()?;
        let limit_bytes = limit_bytes.min((free_bytes / 2).max(1));
        let mut moved = 0;
        while moved < limit_bytes {
            match self.store.clean_one(dead_percent_max) {
                Ok(Some(bytes)) => moved += bytes.max(1),
                Ok(None) => break,
                // A checkpoint gives back what was moved already.
                Err(Error::NoSpace { .. }) if moved > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(moved)
    }

    /// Writes a checkpoint now.
    pub(crate) fn checkpoint(&self) -> Result<()> {
        let mut superblock = self.maintenance.lock();
        self.check_writable()?;
        if self.is_recovering.load(Ordering::Relaxed) {
            // Half of the log would count as all of it. Whoever asks is looking for space.
            return Err(Error::NoSpace { op: "checkpoint", file: self.store.disk.label() });
        }
        // The last one may have met an error where it ends.
        self.store.end_checkpoint()?;
        let started = self.store.disk.now();
        self.checkpoint_wanted.store(false, Ordering::Relaxed);
        let mut engine_part = Vec::new();
        let (cut, lsn, dirtied) = {
            let mut turn = self.turn.lock();
            let cut = turn.last;
            turn.cuts.take(cut);
            self.hand_over_freed(&mut turn);
            self.give_back_ids(&mut turn);
            let dirtied = self.store.begin_checkpoint(cut);
            self.space_check_at.store(0, Ordering::Relaxed);
            self.catalog.read().encode(turn.next_table, &mut engine_part);
            (cut, self.wal.seal(&mut turn.tail), dirtied)
        };
        let write = || self.write_checkpoint(cut, lsn, &engine_part, *superblock);
        let written = match write() {
            Err(Error::NoSpace { .. }) => self
                .wal
                .give_up_spares()
                .and_then(|()| self.store.disk.sync_dir())
                .and_then(|()| self.store.with_reserve(write)),
            written => written,
        };
        let ended = self.store.end_checkpoint();
        self.release_cut(cut);
        let (freeze, new) = match written {
            Ok(written) => written,
            Err(error) => {
                // At most so many are dirty still.
                self.store.dirtied.fetch_add(dirtied, Ordering::Relaxed);
                self.poison_unless_passing(&error);
                return Err(error);
            }
        };
        let old = std::mem::replace(&mut *superblock, new);
        self.checkpoint_lsn.store(lsn.0, Ordering::Relaxed);
        self.checkpointed.wake_all();
        self.store.remove_segments(freeze)?;
        self.wal.release_before(lsn)?;
        self.store.disk.remove(&superblock::checkpoint_name(old.checkpoint))?;
        // Where there is no space for it now, the next checkpoint tries again.
        let _ignored = self.store.take_reserve().is_err();
        let took = self.store.disk.now().saturating_sub(started);
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        count(&self.store.counters.checkpoint_ns, ns);
        ended.inspect_err(|error| self.poison_unless_passing(error))
    }

    /// After an error of a checkpoint: another one may do better only where there was no space, or no descriptor.
    fn poison_unless_passing(&self, error: &Error) {
        if !matches!(error, Error::NoSpace { .. } | Error::TooManyFiles { .. }) {
            self.poison(error.to_string());
        }
    }

    fn write_checkpoint(
        &self,
        cut: CommitNo,
        lsn: Lsn,
        engine_part: &[u8],
        old: Superblock,
    ) -> Result<(u64, Superblock)> {
        self.sync_log(lsn)?;
        self.store.checkpoint_pages(cut)?;
        let next = Superblock {
            generation: old.generation + 1,
            checkpoint: old.generation + 1,
            log_start: lsn,
            ..old
        };
        self.store.checkpoint_commit(cut, engine_part, next)
    }

    /// Does all background work that is due at rest, and returns when there is none.
    pub(crate) fn settle(&self) -> Result<()> {
        // Bounded: every round frees, cleans or checkpoints something, or is the last.
        for _ in 0..10_000 {
            self.check_writable()?;
            if !self.rest_step_with_space()? {
                break;
            }
        }
        Ok(())
    }
}
