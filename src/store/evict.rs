//! Which clean pages stay in memory: a clock (second chance) over leaves, and a slower one over what leads to them.
//!
//! Where most frames are dirty, few are left for the clock to go over, and it comes round quickly: far quicker than a page that leads to
//! a few hundred leaves is used again. So those have a hand of their own, which moves on with the pages that are evicted, and goes
//! round [`ROUNDS`] times while as many go as there are frames, however few of them are clean.

use super::frame::{DIRTY, FrameId, PINNED, REFERENCED, WRITING};
use super::{Store, count};
use esker_base::PageId;
use esker_base::sync::{Mutex, Ordering};
use std::collections::VecDeque;

/// Frames taken off a queue at a time.
const BATCH: usize = 32;
/// How often the hand may pass by each frame in one call: as often as one that is used has chances.
const CHANCES: usize = 5;
/// A share of memory that leading pages have to themselves, however many leaves are dirty: one part of so many.
const LEADING_SHARE: usize = 2;
/// Leaves that are kept clean, or frames that are kept free: one part of memory of so many.
const CLEAN_SHARE: usize = 16;
/// How often the hand over leading pages comes round while all of memory is replaced once.
const ROUNDS: usize = 4;

/// Frames that hold a clean page, those first that are next. A frame whose page became dirty, or was given up, is dropped when it
/// is met.
#[derive(Debug, Default)]
pub(crate) struct Clean {
    queues: Mutex<Queues>,
}

#[derive(Debug, Default)]
struct Queues {
    leaves: VecDeque<FrameId>,
    /// Pages that lead to others, or save reading them.
    leading: VecDeque<FrameId>,
    /// Leading frames that the hand is yet to pass by, times the number of frames.
    due: usize,
}

/// Which queue a frame stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Leaf,
    Leading,
}

/// What may be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// What memory can spare: if that is not enough, some of what is dirty should be written.
    Some,
    /// Whatever is clean.
    All,
}

/// What became of a frame that was to be evicted.
enum Evicted {
    Yes,
    /// It was used, or is in use.
    Later,
    NotClean,
}

impl Queues {
    fn of(&mut self, sort: Sort) -> &mut VecDeque<FrameId> {
        match sort {
            Sort::Leaf => &mut self.leaves,
            Sort::Leading => &mut self.leading,
        }
    }

    /// Moves some frames whose turn it is to `batch`, at most `most`.
    fn take(&mut self, reach: Reach, frames: usize, most: usize, batch: &mut Vec<FrameId>) -> Sort {
        let due = self.due / frames;
        if due > 0 && !self.leading.is_empty() {
            let n = BATCH.min(most).min(due).min(self.leading.len());
            self.due -= n * frames;
            batch.extend(self.leading.drain(..n));
            return Sort::Leading;
        }
        let kept = if reach == Reach::Some { self.kept(frames) } else { 0 };
        if self.leaves.len() > kept {
            let n = BATCH.min(most).min(self.leaves.len() - kept);
            batch.extend(self.leaves.drain(..n));
            return Sort::Leaf;
        }
        if reach == Reach::All || self.leading.len() * LEADING_SHARE > frames {
            let n = BATCH.min(most).min(self.leading.len());
            batch.extend(self.leading.drain(..n));
        }
        Sort::Leading
    }

    /// Leaves that are not to be evicted, while there are dirty ones that could be written instead.
    fn kept(&self, frames: usize) -> usize {
        let dirty = frames.saturating_sub(self.leaves.len() + self.leading.len());
        (frames / CLEAN_SHARE).min(dirty / 2)
    }

    /// So many pages were evicted.
    fn went(&mut self, count: usize, frames: usize) {
        // One round at a time is enough, however many went.
        let most = self.leading.len() * frames;
        self.due = (self.due + count * ROUNDS * self.leading.len()).min(most);
    }
}

impl Clean {
    /// How many.
    pub(crate) fn len(&self) -> usize {
        let queues = self.queues.lock();
        queues.leaves.len() + queues.leading.len()
    }

    /// Drops all frames from `end` on.
    pub(crate) fn drop_from(&self, end: FrameId) {
        let mut queues = self.queues.lock();
        queues.leaves.retain(|frame| *frame < end);
        queues.leading.retain(|frame| *frame < end);
    }
}

impl Store {
    /// A frame's page has become clean, or came in: it may be evicted, in its turn.
    pub(crate) fn note_clean(&self, frame: FrameId) {
        let sort = if self.frames.header(frame).is_leading() { Sort::Leading } else { Sort::Leaf };
        self.clean.queues.lock().of(sort).push_back(frame);
    }

    /// So many pages should be written so that writers find clean leaves to evict, and need not write themselves.
    pub(crate) fn clean_missing(&self) -> usize {
        let frames = self.frames.limit() as usize;
        let queues = self.clean.queues.lock();
        (2 * queues.kept(frames)).saturating_sub(queues.leaves.len() + self.frames.available())
    }

    /// Evicts up to `want` clean pages that were not used lately; returns how many.
    pub(crate) fn evict(&self, want: usize, reach: Reach) -> usize {
        let frames = self.frames.limit().max(1) as usize;
        let mut evicted = 0;
        let mut left = self.clean.len() * CHANCES;
        let mut batch: Vec<FrameId> = Vec::with_capacity(BATCH);
        while evicted < want && left > 0 {
            let sort = self.clean.queues.lock().take(reach, frames, left, &mut batch);
            if batch.is_empty() {
                break;
            }
            left -= batch.len();
            let mut kept: Vec<FrameId> = Vec::with_capacity(BATCH);
            let (before, mut met) = (evicted, 0);
            while evicted < want && met < batch.len() {
                match self.try_evict(batch[met]) {
                    Evicted::Yes => evicted += 1,
                    Evicted::Later => kept.push(batch[met]),
                    Evicted::NotClean => {}
                }
                met += 1;
            }
            let mut queues = self.clean.queues.lock();
            let queue = queues.of(sort);
            queue.extend(kept);
            batch.drain(..).skip(met).rev().for_each(|frame| queue.push_front(frame));
            queues.went(evicted - before, frames);
        }
        count(&self.counters.evictions, evicted as u64);
        evicted
    }

    fn try_evict(&self, frame: FrameId) -> Evicted {
        let header = self.frames.header(frame);
        let page = PageId(header.page.load(Ordering::Relaxed));
        let state = header.state.load(Ordering::Relaxed);
        // It comes back into the queue when it has been written.
        if page == PageId::NONE || state & (DIRTY | WRITING | PINNED) != 0 {
            return Evicted::NotClean;
        }
        if state & REFERENCED != 0 {
            header.clear(REFERENCED);
            header.give_lives();
            return Evicted::Later;
        }
        if header.take_life() {
            return Evicted::Later;
        }
        if !header.try_latch_exclusive() {
            return Evicted::Later;
        }
        if self.evict_latched(frame, page) { Evicted::Yes } else { Evicted::NotClean }
    }

    /// Evicts a page if it is clean and nobody is at it, whether it was used or not.
    pub(crate) fn evict_clean(&self, frame: FrameId, page: PageId) -> bool {
        let header = self.frames.header(frame);
        !header.has(DIRTY | WRITING | PINNED)
            && header.try_latch_exclusive()
            && self.evict_latched(frame, page)
    }

    /// Unlatches a frame, and evicts the page if that is still there and clean.
    fn evict_latched(&self, frame: FrameId, page: PageId) -> bool {
        let header = self.frames.header(frame);
        let still = header.page_id() == page && !header.has(DIRTY | WRITING | PINNED);
        if still {
            header.page.store(0, Ordering::Release);
            self.resident.remove(page, frame);
        }
        header.unlatch_exclusive();
        if still {
            self.frames.retire(frame);
        }
        still
    }
}
