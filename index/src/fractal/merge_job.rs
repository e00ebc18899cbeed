//! Flushes and merges: the sources' rows, child by child, into new runs and new nodes.

use super::FractalConfig;
use super::choose::NodePath;
use super::estimate::covered_rows;
use super::hand_down::{KeySpan, Moving, hull, is_free_below, pivot_behind};
use super::node::{Child, LEVEL_UNKNOWN, NODE_LEVEL, NodeParts, NodeRun};
use super::plan::{Grouping, build_node, fit, group_count};
use super::read::{level_of, read_node};
use super::work::{
    FILTER_BITS_LOWEST, FILTER_BITS_UPPER, Outcome, ROWS_AT_ONCE, weight, weight_of, word_of,
};
use crate::btree::pivot_between;
use crate::kind::{Direction, Value};
use crate::pages::{BuildPages, ChildWord, PageRead, Pages, Step, Stop, View};
use crate::run::{
    Merge, MergeConfig, MergeSource, PageCollector, RangeLoader, RangeSet, RangesBuilder,
    RunBuilder, RunConfig, RunRef,
};
use esker_base::PageId;
use std::sync::Arc;

/// At how many leaves a run of about `total` is cut, so that all parts are of about the same size.
fn cut_pages(total: usize, node_pages: usize) -> usize {
    match (total + node_pages / 2) / node_pages {
        0 | 1 => node_pages * 2,
        parts => total / parts + 1,
    }
}

/// What becomes of one child of the node that is worked on.
#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "where a merge stands, in facts that do not exclude each other"
)]
pub(crate) struct Task {
    pub(crate) merge: Merge,
    builder: RunBuilder,
    config: RunConfig,
    /// The merge is at a row that the builder has not got yet.
    at_row: bool,
    /// The builder has begun with it: it is to be added, and nothing else done before.
    adding: bool,
    /// Everything is merged, so what is built is the oldest there is, and may be divided.
    bottom: bool,
    /// Leaves at which it is.
    cut_pages: usize,
    merged: bool,
    /// Where the run in the making begins.
    pivot: Vec<u8>,
    /// Ranges that the new run must keep, and their builder.
    ranges: RangeSet,
    ranges_builder: RangesBuilder,
    /// Runs made, with where each begins.
    made: Vec<(Vec<u8>, RunRef)>,
    /// The child as it was, if it keeps what it has below the new run.
    below: Option<NodeParts>,
    nodes: Vec<Child>,
}

/// A flush of a node, or a merge of one of its children.
#[derive(Debug)]
pub(crate) struct MergeJob {
    pub(crate) target: PageId,
    pub(crate) low: Vec<u8>,
    pub(crate) high: Option<Vec<u8>>,
    /// Its parent, if it has one.
    pub(crate) parent: Option<PageId>,
    /// Runs of the node that go down; none if only a child is merged.
    pub(crate) flushed: Vec<RunRef>,
    /// The node keeps runs.
    is_partial: bool,
    pub(crate) old: Vec<Child>,
    /// The one child that is merged; `None`: all get their share of what is flushed.
    pub(crate) only: Option<usize>,
    /// Space is short: children that need not be merged get a run more.
    is_thrifty: bool,
    /// First and last keys of the runs that go down, as they are found out before anything else.
    spans: Vec<Option<KeySpan>>,
    pub(crate) task: Option<Task>,
    /// Instead of a task: runs that a child takes over.
    pub(crate) moving: Option<Moving>,
    pub(crate) done: usize,
    /// Rows that the tasks have met, and those among them that were in memtables, for a check.
    rows_met: u64,
    rows_counted: u64,
    /// Leaves that the tasks have read, and that they will have, about.
    pages_read: u64,
    pages_total: u64,
    /// By how many rows count what was met in runs that were memtables.
    pub(crate) counted: i64,
    pub(crate) new: Vec<Child>,
    /// All runs that go, those of children included.
    pub(crate) consumed: Vec<RunRef>,
    pub(crate) known: Vec<(PageId, Arc<RangeSet>)>,
    pub(crate) loader: Option<(RangeLoader, RangeSet)>,
    pub(crate) collecting: Option<PageCollector>,
    pub(crate) collected: usize,
    pub(crate) grouping: Option<Grouping>,
    /// The parent's children, if the node is divided under it.
    pub(crate) divided: Option<Vec<Child>>,
    pub(crate) outcome: Outcome,
}

impl MergeJob {
    /// A flush of these runs of a node.
    pub(crate) fn flush(path: &NodePath, flushed: Vec<RunRef>, is_thrifty: bool) -> Self {
        Self { is_thrifty, ..Self::new(path, flushed, None) }
    }

    /// A merge of one child of a node.
    pub(crate) fn of_child(path: &NodePath, child: usize) -> Self {
        Self::new(path, Vec::new(), Some(child))
    }

    fn new(path: &NodePath, flushed: Vec<RunRef>, only: Option<usize>) -> Self {
        let children = &path.parts.children;
        let merged_pages = only.map_or(0, |only| children[only].pages);
        let pages = flushed.iter().map(|run| run.pages).chain([merged_pages]);
        Self {
            pages_read: 0,
            pages_total: pages.map(u64::from).sum(),
            target: path.page,
            low: path.low.clone(),
            high: path.high.clone(),
            parent: path.parent,
            consumed: flushed.clone(),
            is_partial: flushed.len() < path.parts.runs.len(),
            flushed,
            old: path.parts.children.clone(),
            only,
            is_thrifty: false,
            spans: Vec::new(),
            task: None,
            moving: None,
            done: 0,
            rows_met: 0,
            rows_counted: 0,
            counted: 0,
            new: Vec::new(),
            known: Vec::new(),
            loader: None,
            collecting: None,
            collected: 0,
            grouping: None,
            divided: None,
            outcome: Outcome::default(),
        }
    }

    /// The ranges of a run; read once.
    fn ranges_of<P: Pages>(&mut self, pages: &P, run: &RunRef) -> Step<Option<Arc<RangeSet>>> {
        if run.ranges == 0 {
            return Ok(None);
        }
        let page = ChildWord::page_of(run.ranges);
        if let Some((_, set)) = self.known.iter().find(|(other, _)| *other == page) {
            return Ok(Some(Arc::clone(set)));
        }
        let (loader, set) = self.loader.get_or_insert_with(Default::default);
        while !loader.step(pages, &word_of(run.ranges), View::Current, set)? {}
        let (_, set) = self.loader.take().expect("just used");
        let set = Arc::new(set);
        self.known.push((page, Arc::clone(&set)));
        Ok(Some(set))
    }

    /// Runs that go down of which a child gets something.
    fn coming(&self, low: &[u8], high: Option<&[u8]>) -> Vec<usize> {
        let comes = |i: &usize| {
            self.flushed[*i].ranges != 0
                || self.spans[*i].as_ref().is_some_and(|span| span.meets(low, high))
        };
        (0..self.flushed.len()).filter(comes).collect()
    }

    /// What comes to a child, all of it, if it overlaps nothing there.
    fn free_below<P: Pages>(
        &self,
        pages: &P,
        parts: &NodeParts,
        (low, high): (&[u8], Option<&[u8]>),
    ) -> Step<Option<(KeySpan, Vec<RunRef>)>> {
        let coming = self.coming(low, high);
        let runs: Vec<_> = coming.iter().map(|i| self.flushed[*i]).collect();
        let spans: Vec<_> = coming.iter().filter_map(|i| self.spans[*i].as_ref()).collect();
        if runs.iter().any(|run| run.ranges != 0) {
            return Ok(None);
        }
        let Some(span) = hull(&spans, (low, high)) else { return Ok(None) };
        Ok(is_free_below(pages, parts, &span)?.then_some((span, runs)))
    }

    /// Begins with child `i`, or with what will be the first children of a node that has none.
    fn start<P: Pages>(&mut self, pages: &P, config: &FractalConfig, i: usize) -> Step<()> {
        let old = self.old.get(i).cloned();
        let low = if i == 0 { self.low.clone() } else { self.old[i].pivot.clone() };
        let high = match self.old.get(i + 1) {
            Some(next) => Some(next.pivot.clone()),
            None => self.high.clone(),
        };
        let parts = match &old {
            None => NodeParts::default(),
            Some(child) => {
                let page = read_node(pages, &word_of(child.word), View::Current)?;
                NodeParts::of(page.words(), page.body())
            }
        };
        let is_lowest = old.as_ref().is_none_or(|child| child.level == NODE_LEVEL);
        let mut share = self.flushed.iter().map(|run| run.pages).fold(0, u32::saturating_add)
            / u32::try_from(self.old.len().max(1)).expect("children of a page");
        // Where new nodes behind this one begin, which stays as it is.
        let mut behind = None;
        if let (Some(child), None) = (&old, self.only) {
            if self.coming(&low, high.as_deref()).is_empty() {
                self.new.push(child.clone());
                self.done += 1;
                return Ok(());
            }
            if let Some((span, runs)) = self.free_below(pages, &parts, (&low, high.as_deref()))? {
                if is_lowest {
                    let all = runs.iter().map(|run| run.pages).fold(0, u32::saturating_add);
                    behind = pivot_behind(pages, config, &parts, &span, all)?;
                    if behind.is_some() {
                        share = all;
                    }
                }
                let moved_pages = runs.iter().map(|run| u64::from(run.pages)).sum();
                self.moving = Moving::new(config, child, &parts, runs);
                if self.moving.is_some() {
                    esker_base::mark::FRACTAL_HANDED_DOWN.hit();
                    self.pages_total = self.pages_total.saturating_sub(moved_pages);
                    return Ok(());
                }
            }
        }
        // New nodes take the place of none.
        let (old, parts) = match &behind {
            Some(_) => (None, NodeParts::default()),
            None => (old, parts),
        };
        // A child that is not much larger than what comes is merged with it at once, and so is one of which ranges
        // that come delete the most: that is less work now than later.
        let bottom = is_lowest
            && (self.only.is_some()
                || parts.runs.is_empty()
                || (parts.pages() <= share.saturating_mul(2) && !self.is_thrifty)
                || self.is_mostly_covered(pages, &parts, &low, high.as_deref())?);
        let mut sources = self.flushed.clone();
        if bottom {
            sources.extend(parts.runs.iter().map(|run| run.run));
        }
        let (merge_sources, ranges) =
            self.sources_of(pages, &sources, (&low, high.as_deref()), bottom)?;
        let total = if bottom { share.saturating_add(parts.pages()) } else { share };
        let cut_pages = cut_pages(total as usize, config.node_pages as usize);
        // Nothing below may stop from here on: this is what the task owns.
        if behind.is_some() {
            esker_base::mark::FRACTAL_BEHIND.hit();
            self.new.push(self.old[i].clone());
        }
        if bottom {
            if self.only.is_none() {
                self.pages_total += u64::from(parts.pages());
            }
            self.consumed.extend(parts.runs.iter().map(|run| run.run));
        }
        if let Some(child) = &old {
            self.outcome.freed.push((ChildWord::page_of(child.word), 1));
        }
        let merge_config = MergeConfig {
            direction: Direction::Forward,
            keep_tombstones: !bottom,
            report_large: true,
        };
        let run_config = RunConfig {
            content_bytes: config.content_bytes,
            filter_bits: if bottom { FILTER_BITS_LOWEST } else { FILTER_BITS_UPPER },
        };
        self.task = Some(Task {
            merge: Merge::new(merge_sources, &low, high.as_deref(), merge_config),
            builder: RunBuilder::new(run_config),
            config: run_config,
            at_row: false,
            adding: false,
            bottom,
            cut_pages,
            merged: false,
            pivot: behind.or_else(|| old.map(|child| child.pivot)).unwrap_or(low),
            ranges,
            ranges_builder: RangesBuilder::new(config.content_bytes),
            made: Vec::new(),
            below: (!bottom).then_some(parts),
            nodes: Vec::new(),
        });
        Ok(())
    }

    /// What is merged, and the ranges between `low` and `high` that go on: none, where nothing is below.
    fn sources_of<P: Pages>(
        &mut self,
        pages: &P,
        runs: &[RunRef],
        (low, high): (&[u8], Option<&[u8]>),
        bottom: bool,
    ) -> Step<(Vec<MergeSource>, RangeSet)> {
        let mut sources = Vec::with_capacity(runs.len());
        let mut ranges = RangeSet::default();
        for run in runs {
            let set = self.ranges_of(pages, run)?;
            if let Some(set) = set.as_ref().filter(|_| !bottom) {
                ranges = ranges.union(&set.clipped(low, high));
            }
            let mut source = MergeSource::of_run(run, set);
            // What was a memtable is not counted yet.
            source.is_counted = run.level == LEVEL_UNKNOWN;
            source.has_tombstones |= source.is_counted;
            sources.push(source);
        }
        Ok((sources, ranges))
    }

    /// Whether ranges of what is flushed delete most of a lowest node.
    fn is_mostly_covered<P: Pages>(
        &mut self,
        pages: &P,
        parts: &NodeParts,
        low: &[u8],
        high: Option<&[u8]>,
    ) -> Step<bool> {
        let mut ranges = RangeSet::default();
        for i in 0..self.flushed.len() {
            let run = self.flushed[i];
            if let Some(set) = self.ranges_of(pages, &run)? {
                ranges = ranges.union(&set.clipped(low, high));
            }
        }
        let (Some(oldest), false) = (parts.runs.last(), ranges.is_empty()) else {
            return Ok(false);
        };
        Ok(covered_rows(pages, &oldest.run, &ranges)? * 2 >= oldest.run.rows)
    }

    /// Leaves that were read, and that will have been in the end, about: never fewer.
    pub(crate) fn progress(&self) -> (u64, u64) {
        let read = self.pages_read + self.task.as_ref().map_or(0, |task| task.merge.leaves());
        (read, self.pages_total.max(read))
    }

    /// One step; true when the outcome is ready.
    pub(crate) fn step<P: BuildPages>(&mut self, pages: &P, config: &FractalConfig) -> Step<bool> {
        if let Some(task) = &mut self.task {
            let more = task.step(pages, config)?;
            self.outcome.large.append(task.merge.shadowed_large());
            if more {
                return Ok(false);
            }
            let task = self.task.take().expect("just used");
            self.outcome.rows += task.made.iter().map(|(_, run)| weight(run)).sum::<i64>();
            let (rows, tombstones) = task.merge.counted();
            self.counted += weight_of(rows, tombstones);
            self.rows_met += task.merge.counts().rows_in;
            self.rows_counted += rows;
            self.pages_read += task.merge.leaves();
            self.new.extend(task.nodes);
            self.done += 1;
            return Ok(false);
        }
        if let Some(moving) = &mut self.moving {
            if let Some(child) = moving.step(pages)? {
                self.outcome.freed.push((moving.page(), 1));
                self.consumed.retain(|run| !moving.has(run));
                self.new.push(child);
                self.moving = None;
                self.done += 1;
            }
            return Ok(false);
        }
        if let Some(run) = self.flushed.get(self.spans.len()) {
            self.spans.push(KeySpan::of(pages, run.tree)?);
            return Ok(false);
        }
        if self.done < self.old.len().max(1) {
            let i = self.done;
            if self.only.is_some_and(|only| only != i) {
                self.new.push(self.old[i].clone());
                self.done += 1;
            } else {
                self.start(pages, config, i)?;
            }
            return Ok(false);
        }
        while let Some(run) = self.consumed.get(self.collected).copied() {
            let level = level_of(pages, run.tree, run.level)?;
            let new = || PageCollector::new(&RunRef { level, ..run });
            let collecting = self.collecting.get_or_insert_with(new);
            if !collecting.step(pages, View::Current)? {
                return Ok(false);
            }
            self.outcome.freed.extend(collecting.ranges());
            self.collecting = None;
            self.collected += 1;
        }
        self.place(pages, config)
    }

    /// The children of the parent, if the node can be divided in two under it: it will have no runs, and there is
    /// room for one more child.
    fn siblings<P: Pages>(&self, pages: &P, config: &FractalConfig) -> Step<Option<Vec<Child>>> {
        let is_whole = self.only.is_none() && !self.is_partial;
        let Some(parent) = self.parent.filter(|_| is_whole) else { return Ok(None) };
        let word = ChildWord::pack(parent, ChildWord::NO_HINT);
        let page = read_node(pages, &word_of(word), View::Current)?;
        let mut children = NodeParts::of(page.words(), page.body()).children;
        // The longest pivot that there may be.
        let spare = Child { pivot: vec![0; config.pivot_bytes_max()], ..self.new[0].clone() };
        children.push(spare);
        let has_room = fit(config, &children);
        children.pop();
        Ok(has_room.then_some(children))
    }

    /// Whether the tasks have met each row of the runs that go once. Ranges let them step over some unmet.
    fn is_conserved(&self) -> bool {
        let known = self.consumed.iter().filter(|run| run.level != LEVEL_UNKNOWN);
        let rows = known.map(|run| run.rows).sum::<u64>() + self.rows_counted;
        let has_ranges = self.consumed.iter().any(|run| run.ranges != 0);
        self.rows_met == rows || (has_ranges && self.rows_met < rows)
    }

    /// Finds room for the new children.
    fn place<P: BuildPages>(&mut self, pages: &P, config: &FractalConfig) -> Step<bool> {
        if self.grouping.is_none() && !fit(config, &self.new) {
            let halves = Grouping::new(config, &self.new, 2);
            self.divided = if halves.len() == 2 { self.siblings(pages, config)? } else { None };
            let grouping = match &self.divided {
                Some(_) => halves,
                None => Grouping::new(config, &self.new, group_count(config, &self.new)),
            };
            self.grouping = Some(grouping);
        }
        if let Some(grouping) = &mut self.grouping {
            grouping.step(pages)?;
            let mut built = std::mem::take(&mut grouping.built);
            self.grouping = None;
            if let Some(divided) = &mut self.divided {
                let at =
                    divided.iter().position(|child| ChildWord::page_of(child.word) == self.target);
                let at = at.ok_or(Stop::Moved)?;
                // A first child does not say where it begins.
                built[0].pivot.clone_from(&divided[at].pivot);
                esker_base::mark::FRACTAL_BESIDE.hit();
                divided.splice(at..=at, built);
            } else {
                // Fewer, and they fit now or are put together once more.
                esker_base::mark::FRACTAL_BELOW.hit();
                self.new = built;
                return Ok(false);
            }
        }
        debug_assert!(self.is_conserved(), "each row is met once");
        let outcome = &mut self.outcome;
        // What was a memtable counts by what was met in it.
        let known = self.consumed.iter().filter(|run| run.level != LEVEL_UNKNOWN);
        let gone = known.map(weight).fold(self.counted, i64::saturating_add);
        outcome.rows = outcome.rows.saturating_sub(gone);
        outcome.key.clone_from(&self.low);
        if let (Some(divided), Some(parent)) = (self.divided.take(), self.parent) {
            outcome.freed.push((self.target, 1));
            outcome.target = parent;
            outcome.children = Some(divided);
            return Ok(true);
        }
        outcome.target = self.target;
        outcome.gone = self.flushed.iter().map(|run| ChildWord::page_of(run.tree)).collect();
        outcome.children = Some(std::mem::take(&mut self.new));
        Ok(true)
    }
}

impl Task {
    /// One step; false when everything is built.
    fn step<P: BuildPages>(&mut self, pages: &P, config: &FractalConfig) -> Step<bool> {
        let mut rows = 0;
        while !self.merged {
            if rows == ROWS_AT_ONCE {
                return Ok(true);
            }
            if !self.at_row {
                if !self.merge.next(pages, View::Current)? {
                    self.merged = true;
                    debug_assert!(self.merge.counts().is_balanced(), "no row is lost or doubled");
                    break;
                }
                self.at_row = true;
                rows += 1;
            }
            let (key, value) = self.merge.row();
            if self.bottom && !self.adding && self.builder.len_pages() > self.cut_pages {
                let pivot = pivot_between(self.builder.high(), key);
                if pivot.len() <= config.pivot_bytes_max() {
                    let pivot = pivot.to_vec();
                    let run = self.builder.finish(pages)?.expect("it has rows");
                    self.made.push((std::mem::replace(&mut self.pivot, pivot), run));
                    self.builder = RunBuilder::new(self.config);
                    continue;
                }
            }
            self.adding = true;
            self.builder.add(pages, key, value)?;
            (self.at_row, self.adding) = (false, false);
        }
        if self.builder.is_empty() && !self.ranges.is_empty() {
            // A run has a tree. A tombstone of a key that a range covers changes nothing.
            let (low, high) = &self.ranges.ranges()[0];
            let key: &[u8] = if low.is_empty() { &[0] } else { low };
            if high.as_ref().is_none_or(|high| key < &high[..]) {
                self.builder.add(pages, key, Value::Tombstone)?;
            }
        }
        if let Some(mut run) = self.builder.finish(pages)? {
            if let Some(ranges) = self.ranges_builder.step(pages, &self.ranges)? {
                run.ranges = ranges.tree;
            }
            self.made.push((std::mem::take(&mut self.pivot), run));
            self.builder = RunBuilder::new(self.config);
            self.ranges = RangeSet::default();
        }
        self.build_nodes(pages).map(|()| false)
    }

    /// Builds the nodes that take the child's place.
    fn build_nodes<P: BuildPages>(&mut self, pages: &P) -> Step<()> {
        if let Some(below) = &self.below {
            if self.nodes.is_empty() {
                let mut parts = below.clone();
                let pivot = match self.made.first() {
                    Some((pivot, run)) => {
                        parts.runs.insert(0, NodeRun { run: *run, frozen: false });
                        pivot.clone()
                    }
                    None => self.pivot.clone(),
                };
                self.nodes.push(build_node(pages, &parts, pivot)?);
            }
            return Ok(());
        }
        while let Some((pivot, run)) = self.made.get(self.nodes.len()) {
            let parts = NodeParts {
                runs: vec![NodeRun { run: *run, frozen: false }],
                ..NodeParts::default()
            };
            self.nodes.push(build_node(pages, &parts, pivot.clone())?);
        }
        Ok(())
    }
}
