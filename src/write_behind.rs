//! Writing what background work builds, on a thread of its own: packing and writing pages takes as long as merging the
//! rows of the next ones.
//!
//! Nothing depends on when these pages are written. Until then they are dirty pages like others, which a checkpoint
//! or eviction may write as well; pages given up meanwhile are passed over.

use crate::background::PoisonOnPanic;
use crate::engine::Engine;
use crate::store::frame::FrameId;
use esker_base::sync::{Condvar, Mutex, Ordering};
use esker_base::{Error, Result};
use std::collections::VecDeque;

/// Batches that wait: with more, the work waits, since it would fill memory with dirty pages.
const BATCHES_MAX: usize = 4;

/// Batches handed over, and what became of them.
#[derive(Debug, Default)]
pub(crate) struct WriteBehind {
    state: Mutex<State>,
    /// There is a batch, or it is over.
    handed: Condvar,
    /// A batch was written, or failed.
    done: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Each of pages of one table, built one after the other.
    batches: VecDeque<Vec<FrameId>>,
    /// The first error since somebody asked.
    failed: Option<Error>,
    /// There is a thread that writes.
    is_running: bool,
}

impl WriteBehind {
    /// Hands over `frames` and leaves it empty; false if nobody would write them. Waits while too many are waiting.
    ///
    /// # Errors
    /// What writing an earlier batch failed with. `frames` is left as it is.
    pub(crate) fn hand_over(&self, frames: &mut Vec<FrameId>) -> Result<bool> {
        let mut state = self.state.lock();
        while state.is_running && state.failed.is_none() && state.batches.len() >= BATCHES_MAX {
            self.done.wait(&mut state);
        }
        if let Some(error) = state.failed.take() {
            return Err(error);
        }
        if !state.is_running {
            return Ok(false);
        }
        state.batches.push_back(std::mem::take(frames));
        self.handed.notify_one();
        Ok(true)
    }

    /// The thread is to look whether the engine is closed.
    pub(crate) fn wake(&self) {
        let _state = self.state.lock();
        self.handed.notify_all();
    }
}

/// What the thread does until the engine is closed.
pub(crate) fn write_behind_thread(engine: &Engine) {
    let behind = &engine.write_behind;
    let panicked = PoisonOnPanic(engine);
    let running = NotRunning(behind);
    behind.state.lock().is_running = true;
    loop {
        let mut batch = {
            let mut state = behind.state.lock();
            while state.batches.is_empty() && !engine.closed.load(Ordering::Acquire) {
                behind.handed.wait(&mut state);
            }
            if engine.closed.load(Ordering::Acquire) {
                break;
            }
            let Some(batch) = state.batches.pop_front() else { continue };
            behind.done.notify_all();
            batch
        };
        if let Err(error) = engine.store.with_reserve(|| engine.store.write_built(&mut batch)) {
            let mut state = behind.state.lock();
            state.failed.get_or_insert(error);
            behind.done.notify_all();
        }
    }
    drop(running);
    std::mem::forget(panicked);
}

/// However the thread ends, nobody waits for it.
struct NotRunning<'a>(&'a WriteBehind);

impl Drop for NotRunning<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.is_running = false;
        // The frames are dirty pages; the last checkpoint, or the log, has what is in them.
        state.batches.clear();
        self.0.done.notify_all();
    }
}
