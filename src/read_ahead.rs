//! Reading ahead for background work on a thread of its own, so that the device, unpacking and merging are busy
//! at the same time.
//!
//! Who works says which pages come next, reads the first few itself and goes on; the others come in meanwhile. A page that
//! is on its way when it is needed is waited for. What fails here is met again, and reported, by the work itself.

use crate::background::PoisonOnPanic;
use crate::engine::Engine;
use esker_base::PageId;
use esker_base::sync::{Condvar, Mutex, Ordering};
use esker_index::pages::View;
use std::collections::VecDeque;

/// Pages that the work reads itself when it stops: a batch of them takes little longer than one.
pub(crate) const READ_NOW: usize = 8;
/// Pages in one batch of reads.
const BATCH: usize = 32;

/// Pages asked for, and those under way.
#[derive(Debug, Default)]
pub(crate) struct ReadAhead {
    state: Mutex<State>,
    /// Pages were asked for, or it is over.
    asked: Condvar,
    /// A batch has come in, or has failed.
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct State {
    asked: VecDeque<PageId>,
    under_way: Vec<PageId>,
    /// There is a thread that reads.
    is_running: bool,
}

impl ReadAhead {
    /// Asks for pages; false if nobody would read them.
    pub(crate) fn ask(&self, pages: &[PageId], queue_max: usize) -> bool {
        let mut state = self.state.lock();
        if !state.is_running {
            return false;
        }
        // What was asked for first is needed first, and what does not fit is read when it is missing.
        let room = queue_max.saturating_sub(state.asked.len());
        state.asked.extend(pages.iter().take(room));
        self.asked.notify_one();
        true
    }

    /// Waits for a page that is on its way; false if it is not.
    pub(crate) fn wait_for(&self, page: PageId) -> bool {
        let mut state = self.state.lock();
        let mut waited = false;
        while state.is_running && (state.under_way.contains(&page) || state.asked.contains(&page)) {
            waited = true;
            self.arrived.wait(&mut state);
        }
        waited
    }

    /// What was asked for is not wanted any more.
    pub(crate) fn forget(&self) {
        self.state.lock().asked.clear();
        self.arrived.notify_all();
    }

    /// The thread is to look whether the engine is closed.
    pub(crate) fn wake(&self) {
        let _state = self.state.lock();
        self.asked.notify_all();
    }
}

/// What the thread does until the engine is closed.
pub(crate) fn read_ahead_thread(engine: &Engine) {
    let ahead = &engine.read_ahead;
    let panicked = PoisonOnPanic(engine);
    let running = NotRunning(ahead);
    ahead.state.lock().is_running = true;
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        {
            let mut state = ahead.state.lock();
            state.under_way.clear();
            ahead.arrived.notify_all();
            while state.asked.is_empty() && !engine.closed.load(Ordering::Acquire) {
                ahead.asked.wait(&mut state);
            }
            if engine.closed.load(Ordering::Acquire) {
                break;
            }
            let n = state.asked.len().min(BATCH);
            batch.clear();
            batch.extend(state.asked.drain(..n));
            state.under_way.extend_from_slice(&batch);
        }
        batch.retain(|page| engine.store.resident.get(*page).is_none());
        if !batch.is_empty() {
            let _met_again = engine.store.load_many(&batch, View::Current).is_err();
        }
    }
    drop(running);
    std::mem::forget(panicked);
}

/// However the thread ends, nobody waits for it.
struct NotRunning<'a>(&'a ReadAhead);

impl Drop for NotRunning<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.is_running = false;
        state.asked.clear();
        state.under_way.clear();
        self.0.arrived.notify_all();
    }
}
