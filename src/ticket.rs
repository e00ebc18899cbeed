//! Tickets: commits that are under way to the device.

use crate::engine::Engine;
use esker_base::sync::{Arc, Mutex, Ordering};
use esker_base::{Lsn, Result};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// A commit that survives the death of the process already, and will survive power loss.
///
/// [`Ticket::wait`] waits for that; as a [`Future`] it needs no particular runtime. Dropped, the commit is
/// synced within [`Options::sync_interval`](crate::Options::sync_interval), like any at
/// [`Durability::Os`](crate::Durability::Os).
///
/// ```
/// # fn main() -> esker::Result<()> {
/// # let db = esker::Options::new().open_in_memory()?;
/// # let table = db.table("t", esker::Index::BTree)?;
/// let first = table.submit("a", "1")?;
/// let second = table.submit("b", "2")?;
/// second.wait()?; // one sync for both
/// assert!(first.is_durable());
/// # db.close() }
/// ```
#[must_use = "wait for it, or put at Durability::Os"]
pub struct Ticket {
    engine: Arc<Engine>,
    lsn: Lsn,
}

impl fmt::Debug for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ticket").field("durable", &self.is_durable()).finish_non_exhaustive()
    }
}

/// Tasks that wait for the log.
#[derive(Debug, Default)]
pub(crate) struct Waiters {
    waiting: Mutex<Vec<(Lsn, Waker)>>,
}

impl Waiters {
    fn add(&self, lsn: Lsn, waker: &Waker) {
        self.waiting.lock().push((lsn, waker.clone()));
    }
    /// The position that the last of them waits for.
    pub(crate) fn farthest(&self) -> Option<Lsn> {
        self.waiting.lock().iter().map(|(lsn, _)| *lsn).max()
    }
    /// Wakes those up to `durable`; all of them if none can be served any more.
    pub(crate) fn wake(&self, durable: Lsn) {
        let mut waiting = self.waiting.lock();
        for (_, waker) in waiting.extract_if(.., |(lsn, _)| *lsn <= durable) {
            waker.wake();
        }
    }
}

impl Ticket {
    /// `lsn`: the log position after the commit; `None` if nothing was written.
    pub(crate) fn new(engine: &Arc<Engine>, lsn: Option<Lsn>) -> Self {
        Self { engine: Arc::clone(engine), lsn: lsn.unwrap_or(Lsn(0)) }
    }

    /// True if the commit survives power loss.
    pub fn is_durable(&self) -> bool {
        self.engine.wal.durable() >= self.lsn
    }

    /// Returns when the commit survives power loss. One sync serves all who wait.
    ///
    /// # Errors
    /// `Unknown` if the sync failed: the commit may or may not survive.
    pub fn wait(self) -> Result<()> {
        self.engine.sync_log(self.lsn)
    }
}

impl Future for Ticket {
    type Output = Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let engine = &self.engine;
        // Without a thread to sync, or after a failure, there is nothing to wait for.
        let alone = !engine.threads || engine.closed.load(Ordering::Acquire);
        if self.is_durable() || alone || engine.wal.poisoned().is_some() {
            return Poll::Ready(engine.sync_log(self.lsn));
        }
        engine.waiters.add(self.lsn, context.waker());
        engine.log_wake.wake();
        // The thread may have ended between the question and the answer.
        if engine.closed.load(Ordering::Acquire) {
            engine.waiters.wake(Lsn(u64::MAX));
        }
        Poll::Pending
    }
}
