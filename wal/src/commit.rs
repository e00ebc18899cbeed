//! Group commit: one sync stream for all who wait.
//!
//! Greedy, without a timer: whoever finds no sync running leads the next one. It seals the tail, so
//! that everything appended up to then goes along, syncs, publishes the durable LSN and wakes all.
//! Those who came during a sync wait for it; most are then in the next batch, which one of them
//! leads at once. The slower the device, the larger the batches.

use crate::stats::{bump, raise};
use crate::writer::Wal;
use esker_base::sync::{Arc, Ordering};
use esker_base::{Error, Lsn, Result};

#[derive(Debug, Default)]
pub(crate) struct SyncState {
    running: bool,
    failure: Option<Failure>,
}

/// A sync, or the writing of a group, failed. What was not durable then may or may not become so, and nobody can tell: see
/// "What a failed sync means" in `esker_io`.
#[derive(Debug)]
struct Failure {
    detail: String,
    /// Where the tail was.
    position: Lsn,
}

impl Failure {
    /// What it means for the bytes before `lsn`.
    fn error(&self, lsn: Lsn) -> Error {
        let detail = self.detail.clone();
        if lsn <= self.position { Error::Unknown { detail } } else { Error::Poisoned { detail } }
    }
}

/// Gives up the lead, whatever happens to the leader.
struct Lead<'a>(&'a Wal);

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.0.sync.lock().running = false;
        self.0.synced.notify_all();
    }
}

impl Wal {
    /// Returns when everything before `lsn` is durable. `seal` is called at most once per try,
    /// without a lock of the log: it takes the turn, calls [`Wal::seal`] and returns what that
    /// returned.
    ///
    /// # Errors
    /// `Unknown` if a sync failed, now or earlier, before the bytes at `lsn` were durable, and they
    /// were appended by then: they may or may not survive. `Poisoned` if `lsn` lies beyond what was
    /// appended when the sync failed.
    ///
    /// # Panics
    /// If `lsn` was never reached by the tail.
    pub fn sync_through(&self, lsn: Lsn, seal: &dyn Fn() -> Lsn) -> Result<()> {
        if self.durable() >= lsn {
            return Ok(());
        }
        let mut state = self.sync.lock();
        loop {
            if self.durable() >= lsn {
                return Ok(());
            }
            if let Some(failure) = &state.failure {
                return Err(failure.error(lsn));
            }
            if state.running {
                self.synced.wait(&mut state);
                continue;
            }
            state.running = true;
            drop(state);
            {
                let lead = Lead(self);
                self.lead(lsn, seal);
                drop(lead);
            }
            state = self.sync.lock();
        }
    }

    /// From now on nothing is appended or synced. What lies before `position` may be in the log or not.
    pub(crate) fn fail(&self, detail: String, position: Lsn) {
        self.sync.lock().failure.get_or_insert(Failure { detail, position });
        self.has_failed.store(true, Ordering::Release);
    }

    /// After an append whose group ends at `lsn`: why it is not known to be in the log, where a store is as good as a sync. Costs a
    /// load.
    pub fn failure(&self, lsn: Lsn) -> Option<Error> {
        if !self.has_failed.load(Ordering::Acquire) {
            return None;
        }
        let state = self.sync.lock();
        state.failure.as_ref().map(|failure| failure.error(lsn))
    }

    /// What poisoned the log: after a failed sync nothing may be appended.
    pub fn poisoned(&self) -> Option<String> {
        self.sync.lock().failure.as_ref().map(|failure| failure.detail.clone())
    }

    /// One group commit.
    fn lead(&self, lsn: Lsn, seal: &dyn Fn() -> Lsn) {
        let target = seal();
        // A group before it could not be written.
        if self.has_failed.load(Ordering::Acquire) {
            return;
        }
        assert!(target >= lsn, "waiting for {lsn:?}, but the tail is at {target:?}");
        let groups = self.counters.groups.load(Ordering::Relaxed);
        let durable = self.durable();
        let started = self.disk.now();
        let failed = self.sync_files(durable, target).err();
        let taken = self.disk.now().saturating_sub(started).as_nanos();
        if let Some(error) = failed {
            self.fail(error.to_string(), self.position());
            return;
        }
        self.durable.store(target.0, Ordering::Release);
        let counters = &self.counters;
        let taken = u64::try_from(taken).unwrap_or(u64::MAX);
        let batch = groups - counters.synced_groups.load(Ordering::Relaxed);
        bump(&counters.syncs, 1);
        bump(&counters.synced_groups, batch);
        raise(&counters.synced_groups_max, batch);
        bump(&counters.sync_ns, taken);
        raise(&counters.sync_ns_max, taken);
    }

    /// Syncs what lies between, oldest first.
    fn sync_files(&self, durable: Lsn, target: Lsn) -> Result<()> {
        let files: Vec<_> = {
            let files = self.files.lock();
            let between = files.live.iter().filter(|f| f.start < target && f.end() > durable);
            between.map(Arc::clone).collect()
        };
        files.iter().try_for_each(|file| {
            file.settle(target);
            file.file.sync()
        })
    }
}
