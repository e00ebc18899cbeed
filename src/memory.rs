//! Memory that the system's cache makes more of: when it is looked at, and by whom. What is decided, and done, is the
//! store's (`store/share.rs`, `store/give_back.rs`).

use crate::engine::Engine;
use crate::store::frame::FrameId;
use esker_base::Result;
use esker_base::sync::{AtomicU64, Ordering};

impl Engine {
    /// It is time to look whether the system's cache would make more of some frames.
    #[cold]
    pub(crate) fn share_or_wake(&self) {
        if self.threads {
            self.wake.wake();
        } else {
            self.note_failure(self.share_memory());
        }
    }

    /// Gives frames back to the system, if that makes more of their memory.
    pub(crate) fn share_memory(&self) -> Result<()> {
        if !self.store.is_share_due() {
            return Ok(());
        }
        let (own, get) = (&self.counters, |counter: &AtomicU64| counter.load(Ordering::Relaxed));
        self.store.decide_share(own.gets.sum() + get(&own.puts) + get(&own.deletes));
        if self.store.frames.limit() >= self.store.frames.count() {
            self.resize_row_cache();
            return Ok(());
        }
        // What was set aside of withdrawn frames is set aside again when it is needed. Who has the lock may be the caller.
        if let Some(mut turn) = self.turn.try_lock() {
            self.return_withdrawn(&mut turn.reserve.frames);
        }
        if let Some(mut working) = self.work.try_lock() {
            self.return_withdrawn(working.spare_frames());
        }
        let given = self.store.give_back_withdrawn();
        self.resize_row_cache();
        given
    }

    /// The row cache takes some of what frames have given back, and gives it up when they take it again.
    pub(crate) fn resize_row_cache(&self) {
        let bytes = self.store.frames.given_back() * self.store.options.page_bytes;
        if bytes == 0 && !self.row_cache.is_on() {
            return;
        }
        let turn = self.turn.try_lock();
        self.row_cache.resize(bytes, turn.is_some());
    }

    fn return_withdrawn(&self, frames: &mut Vec<FrameId>) {
        let limit = self.store.frames.limit();
        for frame in frames.extract_if(.., |frame| *frame >= limit) {
            self.store.frames.give_back(frame);
        }
    }
}
