//! The fractal tree as a [`Kind`].

use super::check::{FractalCheck, check};
use super::node::{NODE_LEVEL, NodeParts, NodeRun, check_node, hole};
use super::read::{Search, read_node};
use super::{Fractal, FractalCursor, FractalGroup, FractalPrepared, FractalRange, write};
use crate::btree;
use crate::fold::Fold;
use crate::kind::{Direction, GroupWrites, Handle, Kind, Lead, Look, Progress, Value, Work};
use crate::pages::{BuildPages, ChildWord, PageRead, Pages, Step, Stop, TurnPages, View};
use crate::run::filter::key_hash;
use crate::run::{FILTER_BLOCK_LEVEL, FILTER_ROOT_LEVEL, check_filter_page, filter_hole};
use esker_base::sync::{Arc, Ordering};
use esker_base::{CommitNo, PageId};
use std::ops::Range;

impl Kind for Fractal {
    fn check_page(&self, level: u8, words: usize, body: &[u8]) -> Result<(), String> {
        match level {
            0 if words != 0 => Err(format!("a leaf with {words} children")),
            0 => btree::check_leaf(body, true),
            1..FILTER_BLOCK_LEVEL => btree::check_branch(words, body),
            FILTER_BLOCK_LEVEL..NODE_LEVEL => check_filter_page(level, words, body),
            NODE_LEVEL.. => check_node(level, words, body),
        }
    }
    fn fold(&self, level: u8) -> Option<Fold> {
        (level == 0).then_some(Fold::Leaf)
    }
    fn hole(&self, level: u8, body: &[u8]) -> Range<usize> {
        match level {
            ..FILTER_BLOCK_LEVEL => btree::branch_hole(body),
            FILTER_BLOCK_LEVEL..NODE_LEVEL => filter_hole(body),
            NODE_LEVEL.. => hole(body),
        }
    }
    fn handles(&self, level: u8, body: &[u8], visit: &mut dyn FnMut(Handle)) {
        if level == 0 {
            btree::overflow_handles(body, visit);
        }
    }
    /// Leaves and filter blocks are not read to be freed, unless they may hold handles.
    fn leads(
        &self,
        level: u8,
        words: &[ChildWord],
        body: &[u8],
        lead: Lead,
        visit: &mut dyn FnMut(PageId, Lead),
    ) {
        if level >= NODE_LEVEL {
            return leads_of_node(&NodeParts::of(words, body), visit);
        }
        let below = match level {
            1 | FILTER_ROOT_LEVEL if lead == Lead::Pages => Lead::Nothing,
            _ => lead,
        };
        for word in words {
            visit(word.page(), below);
        }
    }

    fn create<P: TurnPages>(&self, pages: &P) -> Step<PageId> {
        write::create(&self.recent, pages)
    }

    fn get<P: Pages, T>(
        &self,
        pages: &P,
        root: &ChildWord,
        view: View,
        key: &[u8],
        f: impl FnOnce(Option<Value<'_>>, CommitNo) -> T,
    ) -> Step<T> {
        Search::new(self, view, key, f).run(pages, root, false)
    }
    fn warm<P: Pages>(&self, pages: &P, root: &ChildWord, key: &[u8], look: Look) -> Step<()> {
        if look == Look::Existing {
            return self.get(pages, root, View::Current, key, |value, _| {
                std::hint::black_box(value.is_some());
            });
        }
        let page = read_node(pages, root, View::Current)?;
        let Some(tree) = page.words().first() else { return Ok(()) };
        // The line that the write will touch.
        std::hint::black_box(self.recent.is_lacking(tree.page(), key_hash(key)));
        btree::warm(pages, tree, key)
    }
    fn page_of<P: Pages>(
        &self,
        pages: &P,
        root: &ChildWord,
        view: View,
        key: &[u8],
        look: Look,
    ) -> Step<Option<PageId>> {
        if look == Look::Blind {
            let page = read_node(pages, root, view)?;
            let Some(tree) = page.words().first() else { return Ok(None) };
            return btree::leaf_of(pages, tree, view, key).map(Some);
        }
        match self.get(pages, root, view, key, |_, _| ()) {
            Ok(()) => Ok(None),
            Err(Stop::Missing(page)) => Ok(Some(page)),
            Err(stop) => Err(stop),
        }
    }

    type Prepared<'a, P: TurnPages + 'a> = FractalPrepared<'a, P>;
    #[inline]
    fn prepare<'a, P: TurnPages>(
        &'a self,
        pages: &'a P,
        root: &'a ChildWord,
        key: &'a [u8],
        new: Option<&Value<'_>>,
        look: Look,
    ) -> Step<FractalPrepared<'a, P>> {
        self.prepare_write(pages, root, key, new, look)
    }

    type Group<'a, P: TurnPages + 'a> = FractalGroup<'a, P>;
    fn prepare_group<'a, P: TurnPages>(
        &'a self,
        pages: &'a P,
        root: &'a ChildWord,
        writes: &dyn GroupWrites,
    ) -> Step<FractalGroup<'a, P>> {
        self.prepare_writes(pages, root, writes)
    }

    type Range<'a, P: TurnPages + 'a> = FractalRange<'a, P>;
    fn prepare_delete_range<'a, P: TurnPages>(
        &'a self,
        pages: &'a P,
        root: &'a ChildWord,
        low: &'a [u8],
        high: Option<&'a [u8]>,
    ) -> Step<FractalRange<'a, P>> {
        self.prepare_range(pages, root, low, high)
    }

    /// Closes a gap that a scan has found, wherever it is; background work does the rest.
    fn tidy<P: TurnPages>(&self, pages: &P, root: &ChildWord, _key: &[u8]) -> Step<bool> {
        let more = self.close_gap(pages, root);
        if matches!(more, Err(Stop::Missing(_))) {
            // Not worth a read; the next scan finds it again.
            self.gaps.take();
            return Ok(false);
        }
        more
    }

    type Cursor = FractalCursor;
    fn cursor(&self, low: &[u8], high: Option<&[u8]>, direction: Direction) -> FractalCursor {
        FractalCursor::new(low, high, direction, Arc::clone(&self.gaps))
    }

    fn estimate_rows<P: Pages>(
        &self,
        pages: &P,
        root: &ChildWord,
        view: View,
        low: &[u8],
        high: Option<&[u8]>,
        total: u64,
    ) -> Step<u64> {
        super::estimate::estimate(pages, root, view, low, high, total)
    }

    type Check = FractalCheck;
    fn check(&self, root: PageId) -> FractalCheck {
        check(root)
    }

    fn debt_bytes(&self) -> u64 {
        // It grows byte by byte, whether a memtable becomes a run or not: writers are paced by it.
        let memtable_bytes = self.config.memtable_bytes;
        let runs = self.root_runs.load(Ordering::Relaxed);
        let held_bytes = runs * memtable_bytes + self.filled_bytes.load(Ordering::Relaxed);
        held_bytes.saturating_sub((self.config.runs_soft() as u64 + 1) * memtable_bytes)
    }
    fn debt_bytes_max(&self) -> u64 {
        let runs = self.config.runs_hard() - self.config.runs_soft();
        runs as u64 * self.config.memtable_bytes
    }
    fn work_bytes(&self) -> u64 {
        self.written_bytes()
    }
    fn limit_work(&self, bytes: u64) -> bool {
        let was_limited = self.room_bytes.swap(bytes, Ordering::Relaxed) != u64::MAX;
        if was_limited && bytes == u64::MAX {
            self.measured.lock().clear();
        }
        true
    }
    fn job_bytes(&self) -> u64 {
        self.job_bytes.load(Ordering::Relaxed)
    }
    fn progress(&self) -> Progress {
        self.progress_now()
    }
    fn work<P: BuildPages>(&self, pages: &P, root: &ChildWord, rest: bool) -> Step<Work> {
        self.work_step(pages, root, rest)
    }
    fn upcoming_work<P: Pages>(&self, pages: &P, out: &mut Vec<PageId>) -> Step<()> {
        self.upcoming_pages(pages, out)
    }
    fn finish_work<P: TurnPages>(
        &self,
        pages: &P,
        root: &ChildWord,
        replaced: &mut dyn FnMut(Handle),
    ) -> Step<i64> {
        self.finish_job(pages, root, replaced)
    }
    fn want_merged(&self, low: &[u8], high: Option<&[u8]>) -> u64 {
        self.add_wish(low, high)
    }
    fn is_merged(&self, wish: u64) -> bool {
        self.is_granted(wish)
    }
    fn abandon_work(&self) {
        *self.job.lock() = super::work::Job::default();
        self.weighed.lock().clear();
    }
}

fn leads_of_node(parts: &NodeParts, visit: &mut dyn FnMut(PageId, Lead)) {
    let mut go = |word: u64, lead| visit(ChildWord::page_of(word), lead);
    if let Some((tree, ranges)) = parts.memtable {
        go(tree, Lead::Anything);
        go(ranges, Lead::Pages);
    }
    for NodeRun { run, .. } in &parts.runs {
        let lead = match (run.has_large, run.level) {
            (true, _) => Lead::Anything,
            (false, 0) => Lead::Nothing,
            (false, _) => Lead::Pages,
        };
        go(run.tree, lead);
        go(run.filter, Lead::Pages);
        go(run.ranges, Lead::Pages);
    }
    for child in &parts.children {
        go(child.word, Lead::Anything);
    }
}
