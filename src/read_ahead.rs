//! Reading ahead on threads of their own, so that the device, unpacking and merging are busy at the same time: one for
//! background work, two for scans.
//!
//! Who goes on says which pages come next, reads the first few itself and goes on; the others come in meanwhile. A page that
//! is being read when it is needed is waited for; one that is only asked for is read by who needs it, with
//! those behind it. What fails here is met again, and reported, by who needs it.

use crate::background::PoisonOnPanic;
use crate::engine::Engine;
use crate::store::load::Why;
use esker_base::PageId;
use esker_base::sync::{AtomicBool, Condvar, Mutex, Ordering};
use esker_index::pages::View;
use std::collections::VecDeque;

/// Pages that are read by who stops: a batch of them takes little longer than one.
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
    /// As in the state, to look at first.
    is_running: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    asked: VecDeque<(PageId, View)>,
    under_way: Vec<PageId>,
    /// Threads that read.
    threads: usize,
}

/// What has become of a page that was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// It came in, or failed to, while this was waited for.
    Waited,
    /// These pages are the caller's to read, since nobody has begun to: this one and those behind it, or, if it is being
    /// read, those that come next.
    Yours(Vec<PageId>),
    Unknown,
}

impl ReadAhead {
    /// True if there is a thread that reads.
    pub(crate) fn is_running(&self) -> bool {
        self.is_running.load(Ordering::Relaxed)
    }

    /// Asks for pages; false if nobody would read them.
    pub(crate) fn ask(&self, pages: &[PageId], view: View, queue_max: usize) -> bool {
        let mut state = self.state.lock();
        if state.threads == 0 {
            return false;
        }
        // What was asked for first is needed first, and what does not fit is read when it is missing.
        let room = queue_max.saturating_sub(state.asked.len());
        for page in pages.iter().take(room) {
            if !state.under_way.contains(page) && !state.is_asked(*page) {
                state.asked.push_back((*page, view));
            }
        }
        self.asked.notify_one();
        true
    }

    /// Waits for a page that is on its way; false if it is not.
    pub(crate) fn wait_for(&self, page: PageId) -> bool {
        let mut state = self.state.lock();
        let mut waited = false;
        while state.threads > 0 && (state.under_way.contains(&page) || state.is_asked(page)) {
            waited = true;
            self.arrived.wait(&mut state);
        }
        waited
    }

    /// For who is missing a page: takes up to `count` pages off the queue, that one first if it is there. If there are none
    /// to take, waits for it while it is being read.
    pub(crate) fn claim(&self, page: PageId, view: View, count: usize) -> Claim {
        let mut state = self.state.lock();
        let mut waited = false;
        let first = loop {
            let is_under_way = state.threads > 0 && state.under_way.contains(&page);
            let wanted =
                |asked: &(PageId, View)| asked.1 == view && (asked.0 == page || is_under_way);
            let first = state.asked.iter().position(wanted);
            match first {
                Some(first) => break first,
                None if !is_under_way && waited => return Claim::Waited,
                None if !is_under_way => return Claim::Unknown,
                None => self.arrived.wait(&mut state),
            }
            waited = true;
        };
        let same = state.asked.iter().skip(first).take(count).take_while(|asked| asked.1 == view);
        let end = first + same.count();
        Claim::Yours(state.asked.drain(first..end).map(|asked| asked.0).collect())
    }

    /// What was asked for is not wanted any more.
    pub(crate) fn forget(&self) {
        self.state.lock().asked.clear();
        self.arrived.notify_all();
    }

    /// The threads are to look whether the engine is closed.
    pub(crate) fn wake(&self) {
        let _state = self.state.lock();
        self.asked.notify_all();
    }

    fn begin(&self) {
        self.state.lock().threads += 1;
        self.is_running.store(true, Ordering::Relaxed);
    }

    fn end(&self) {
        let mut state = self.state.lock();
        state.threads -= 1;
        // After a panic nobody else would say that those were not read.
        state.under_way.clear();
        if state.threads == 0 {
            self.is_running.store(false, Ordering::Relaxed);
            state.asked.clear();
        }
        self.arrived.notify_all();
    }

    /// Reads what is asked for until the engine is closed.
    fn run(&self, engine: &Engine, why: Why) {
        let panicked = PoisonOnPanic(engine);
        self.begin();
        let running = Running(self);
        let mut batch = Vec::with_capacity(BATCH);
        let mut begun = Vec::with_capacity(BATCH);
        loop {
            let view = {
                let mut state = self.state.lock();
                state.under_way.retain(|page| !begun.contains(page));
                self.arrived.notify_all();
                while state.asked.is_empty() && !engine.closed.load(Ordering::Acquire) {
                    self.asked.wait(&mut state);
                }
                if engine.closed.load(Ordering::Acquire) {
                    break;
                }
                let view = state.asked[0].1;
                let same = state.asked.iter().take(BATCH).take_while(|asked| asked.1 == view);
                let n = same.count();
                batch.clear();
                batch.extend(state.asked.drain(..n).map(|asked| asked.0));
                state.under_way.extend_from_slice(&batch);
                begun.clone_from(&batch);
                view
            };
            batch.retain(|page| engine.store.resident.get(*page).is_none());
            if !batch.is_empty() {
                let _met_again = engine.store.load_for(&batch, view, why).is_err();
            }
        }
        drop(running);
        std::mem::forget(panicked);
    }
}

impl State {
    fn is_asked(&self, page: PageId) -> bool {
        self.asked.iter().any(|asked| asked.0 == page)
    }
}

/// The thread that reads for background work.
pub(crate) fn work_ahead_thread(engine: &Engine) {
    engine.read_ahead.run(engine, Why::Change);
}

/// One of two threads that read for scans: while one waits for the device, the other unpacks.
pub(crate) fn scan_ahead_thread(engine: &Engine) {
    engine.scan_ahead.run(engine, Why::Read);
}

/// However the thread ends, nobody waits for it.
struct Running<'a>(&'a ReadAhead);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use esker_base::CommitNo;

    fn pages(ids: impl IntoIterator<Item = u64>) -> Vec<PageId> {
        ids.into_iter().map(PageId).collect()
    }

    #[test]
    fn who_is_missing_a_page_reads_what_nobody_has_begun_to() {
        let (ahead, view) = (ReadAhead::default(), View::Current);
        assert!(!ahead.ask(&pages(1..=9), view, 100), "nobody would read them");
        assert_eq!(ahead.claim(PageId(1), view, 4), Claim::Unknown);
        ahead.begin();
        assert!(
            ahead.is_running() && ahead.ask(&pages(1..=9), view, 7),
            "what does not fit is left"
        );
        assert!(ahead.ask(&pages(2..=8), view, 100), "nothing twice");
        assert_eq!(ahead.claim(PageId(9), view, 4), Claim::Unknown);
        assert_eq!(ahead.claim(PageId(3), View::Cut(CommitNo(1)), 4), Claim::Unknown);
        assert_eq!(ahead.claim(PageId(3), view, 4), Claim::Yours(pages(3..=6)));
        // While it is being read, those that come next.
        ahead.state.lock().under_way = pages([3]);
        assert_eq!(ahead.claim(PageId(3), view, 2), Claim::Yours(pages(1..=2)));
        assert_eq!(ahead.claim(PageId(3), view, 9), Claim::Yours(pages(7..=8)));
        // And if there are none, it is waited for.
        let waited = std::thread::scope(|scope| {
            let waits = scope.spawn(|| ahead.claim(PageId(3), view, 9));
            while !waits.is_finished() {
                ahead.state.lock().under_way.clear();
                ahead.arrived.notify_all();
                std::thread::yield_now();
            }
            waits.join().unwrap()
        });
        assert!([Claim::Waited, Claim::Unknown].contains(&waited), "{waited:?}");
        ahead.end();
        assert!(!ahead.is_running() && !ahead.wait_for(PageId(3)));
    }
}
