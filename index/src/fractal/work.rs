//! Background work: filters for runs that were memtables, flushes of full nodes, merges of the lowest ones.
//!
//! Work is done outside the turn, in small steps, from pages that do not change, into pages that nobody sees. Its outcome is
//! one node to be replaced, in a turn; nodes above it get new summaries. Only background work changes anything below
//! the root, and only one piece of it is under way at a time; writers add runs in front of the root's.

use super::Fractal;
use super::node::{Child, LEVEL_UNKNOWN, NODE_LEVEL, Node, NodeParts, NodeRun};
use super::plan::{Grouping, build_node, fit, group_count};
use super::read::{level_of, read_node};
use crate::btree::{LeafCopy, pivot_between, seek_leaf};
use crate::kind::{Direction, Handle, Value, Work};
use crate::pages::{BuildPages, ChildWord, PageNew, PageRead, Pages, Step, Stop, TurnPages, View};
use crate::run::filter::{FilterBuilder, key_hash};
use crate::run::{
    Merge, MergeConfig, MergeSource, PageCollector, RangeLoader, RangeSet, RangesBuilder,
    RunBuilder, RunConfig, RunRef,
};
use esker_base::PageId;
use esker_base::sync::Ordering;
use std::sync::Arc;

/// Bits of filter a key. Runs above the lowest ones are asked by every get, so theirs are better.
const FILTER_BITS_UPPER: u8 = 16;
const FILTER_BITS_LOWEST: u8 = 10;
/// Rows handled in one step.
const ROWS_AT_ONCE: usize = 4096;
/// At rest, a lowest node is merged if this share of its leaves is not in its oldest run,
const REST_DELTA_PERCENT: u64 = 10;
/// and upper runs go down if they are this share of all.
const REST_UPPER_PERCENT: u64 = 5;

/// The piece of work under way.
#[derive(Debug, Default)]
pub(crate) enum Job {
    #[default]
    Idle,
    Filter(Box<FilterJob>),
    Merge(Box<MergeJob>),
    Finish(Box<Outcome>),
}

/// What a turn makes of a piece of work.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The node that is replaced, and a key of its range.
    target: PageId,
    key: Vec<u8>,
    /// Pages of the roots of the runs that go.
    gone: Vec<PageId>,
    /// Its children from now on.
    children: Option<Vec<Child>>,
    /// A run of the root that now has a filter.
    filtered: Option<RunRef>,
    /// The memtable becomes a run.
    freeze: bool,
    freed: Vec<(PageId, u32)>,
    large: Vec<Handle>,
    rows: i64,
}

fn word_of(bits: u64) -> ChildWord {
    ChildWord::new(ChildWord::page_of(bits), ChildWord::hint_of(bits))
}

/// By how many rows a run counts: its tombstones take away rows of older ones.
fn weight(run: &RunRef) -> i64 {
    i64::try_from(run.rows).unwrap_or(i64::MAX)
        - 2 * i64::try_from(run.tombstones).unwrap_or(i64::MAX / 2)
}

/// At how many leaves a run of about `total` is cut, so that all parts are of about the same size.
fn cut_pages(total: usize, node_pages: usize) -> usize {
    match (total + node_pages / 2) / node_pages {
        0 | 1 => node_pages * 2,
        parts => total / parts + 1,
    }
}

/// Makes the filter of a run that was a memtable.
#[derive(Debug)]
pub(crate) struct FilterJob {
    run: RunRef,
    /// Where the next leaf begins; `None` at the end.
    next: Option<Vec<u8>>,
    copy: LeafCopy,
    hashes: Vec<u64>,
    builder: Option<FilterBuilder>,
}

impl FilterJob {
    fn new(run: RunRef) -> Self {
        let run = RunRef { rows: 0, tombstones: 0, pages: 0, has_large: false, ..run };
        Self {
            run,
            next: Some(Vec::new()),
            copy: LeafCopy::default(),
            hashes: Vec::new(),
            builder: None,
        }
    }

    /// One step; the run with its filter at the end.
    fn step<P: BuildPages>(&mut self, pages: &P) -> Step<Option<RunRef>> {
        self.run.level = level_of(pages, self.run.tree, self.run.level)?;
        let tree = word_of(self.run.tree);
        let mut rows = 0;
        while let Some(next) = &self.next {
            if rows > ROWS_AT_ONCE {
                return Ok(None);
            }
            let (view, copy) = (View::Current, &mut self.copy);
            seek_leaf(pages, &tree, view, Some(next), Direction::Forward, copy)?;
            self.run.pages += 1;
            for i in 0..self.copy.len() {
                let (key, value) = self.copy.row(i);
                self.hashes.push(key_hash(key));
                self.run.tombstones += u64::from(value == Value::Tombstone);
                self.run.has_large |= matches!(value, Value::Overflow(_));
            }
            rows += self.copy.len();
            self.next = self.copy.high_fence().map(<[u8]>::to_vec);
        }
        self.run.rows = self.hashes.len() as u64;
        let builder =
            self.builder.get_or_insert_with(|| FilterBuilder::new(&self.hashes, FILTER_BITS_UPPER));
        self.run.filter = builder.finish(pages)?;
        Ok(Some(self.run))
    }
}

/// What becomes of one child of the node that is worked on.
#[derive(Debug)]
struct Task {
    merge: Merge,
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
    target: PageId,
    low: Vec<u8>,
    high: Option<Vec<u8>>,
    /// Its parent, if it has one.
    parent: Option<PageId>,
    /// Runs of the node that go down; none if only a child is merged.
    flushed: Vec<RunRef>,
    old: Vec<Child>,
    /// The one child that is merged; `None`: all get their share of what is flushed.
    only: Option<usize>,
    task: Option<Task>,
    done: usize,
    new: Vec<Child>,
    /// All runs that go, those of children included.
    consumed: Vec<RunRef>,
    known: Vec<(PageId, Arc<RangeSet>)>,
    loader: Option<(RangeLoader, RangeSet)>,
    collecting: Option<PageCollector>,
    collected: usize,
    grouping: Option<Grouping>,
    /// The parent's children, if the node is divided under it.
    divided: Option<Vec<Child>>,
    outcome: Outcome,
}

impl MergeJob {
    fn new(path: &NodePath, flushed: Vec<RunRef>, only: Option<usize>) -> Self {
        Self {
            target: path.page,
            low: path.low.clone(),
            high: path.high.clone(),
            parent: path.parent,
            consumed: flushed.clone(),
            flushed,
            old: path.parts.children.clone(),
            only,
            task: None,
            done: 0,
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

    /// Begins with child `i`, or with what will be the first children of a node that has none.
    fn start<P: Pages>(
        &mut self,
        pages: &P,
        config: &super::FractalConfig,
        i: usize,
    ) -> Step<Task> {
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
        let share = self.flushed.iter().map(|run| run.pages).fold(0, u32::saturating_add)
            / u32::try_from(self.old.len().max(1)).expect("children of a page");
        // A child that is not much larger than what comes is merged with it at once.
        let bottom = is_lowest
            && (self.only.is_some()
                || parts.runs.is_empty()
                || parts.pages() <= share.saturating_mul(2));
        let mut sources = self.flushed.clone();
        if bottom {
            sources.extend(parts.runs.iter().map(|run| run.run));
        }
        let mut merge_sources = Vec::with_capacity(sources.len());
        let mut ranges = RangeSet::default();
        for run in &sources {
            let set = self.ranges_of(pages, run)?;
            if let Some(set) = set.as_ref().filter(|_| !bottom) {
                ranges = ranges.union(&set.clipped(&low, high.as_deref()));
            }
            merge_sources.push(MergeSource::of_run(run, set));
        }
        let total = share + if bottom { parts.pages() } else { 0 };
        let cut_pages = cut_pages(total as usize, config.node_pages as usize);
        // Nothing below may stop from here on: this is what the task owns.
        if bottom {
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
        Ok(Task {
            merge: Merge::new(merge_sources, &low, high.as_deref(), merge_config),
            builder: RunBuilder::new(run_config),
            config: run_config,
            at_row: false,
            adding: false,
            bottom,
            cut_pages,
            merged: false,
            pivot: old.map_or(low, |child| child.pivot),
            ranges,
            ranges_builder: RangesBuilder::new(config.content_bytes),
            made: Vec::new(),
            below: (!bottom).then_some(parts),
            nodes: Vec::new(),
        })
    }

    /// One step; true when the outcome is ready.
    fn step<P: BuildPages>(&mut self, pages: &P, config: &super::FractalConfig) -> Step<bool> {
        if let Some(task) = &mut self.task {
            let more = task.step(pages, config)?;
            self.outcome.large.append(task.merge.shadowed_large());
            if more {
                return Ok(false);
            }
            let task = self.task.take().expect("just used");
            self.outcome.rows += task.made.iter().map(|(_, run)| weight(run)).sum::<i64>();
            self.new.extend(task.nodes);
            self.done += 1;
            return Ok(false);
        }
        if self.done < self.old.len().max(1) {
            let i = self.done;
            if self.only.is_some_and(|only| only != i) {
                self.new.push(self.old[i].clone());
                self.done += 1;
            } else {
                self.task = Some(self.start(pages, config, i)?);
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
    fn siblings<P: Pages>(
        &self,
        pages: &P,
        config: &super::FractalConfig,
    ) -> Step<Option<Vec<Child>>> {
        let (Some(parent), None) = (self.parent, self.only) else { return Ok(None) };
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

    /// Finds room for the new children.
    fn place<P: BuildPages>(&mut self, pages: &P, config: &super::FractalConfig) -> Step<bool> {
        if self.grouping.is_none() && !fit(config, &self.new) {
            let siblings = self.siblings(pages, config)?;
            let count = match &siblings {
                Some(_) => 2,
                None => group_count(config, &self.new),
            };
            self.divided = siblings;
            self.grouping = Some(Grouping::new(self.new.clone(), count));
        }
        if let Some(grouping) = &mut self.grouping {
            grouping.step(pages)?;
            let built = std::mem::take(&mut grouping.built);
            self.grouping = None;
            if let Some(divided) = &mut self.divided {
                let at =
                    divided.iter().position(|child| ChildWord::page_of(child.word) == self.target);
                let at = at.ok_or(Stop::Moved)?;
                divided.splice(at..=at, built);
            } else {
                // Fewer, and they fit now or are put together once more.
                self.new = built;
                return Ok(false);
            }
        }
        let outcome = &mut self.outcome;
        outcome.rows -= self.consumed.iter().map(weight).sum::<i64>();
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
    fn step<P: BuildPages>(&mut self, pages: &P, config: &super::FractalConfig) -> Step<bool> {
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

/// A node and where it is.
#[derive(Clone)]
struct NodePath {
    page: PageId,
    parent: Option<PageId>,
    low: Vec<u8>,
    high: Option<Vec<u8>>,
    parts: NodeParts,
}

/// What could be done, and how urgent it is.
struct Candidate {
    path: NodePath,
    /// The child to merge; `None`: flush the node.
    child: Option<usize>,
    urgency: u64,
}

impl Fractal {
    pub(crate) fn work_step<P: BuildPages>(
        &self,
        pages: &P,
        root: &ChildWord,
        rest: bool,
    ) -> Step<Work> {
        let mut job = self.job.lock();
        if matches!(*job, Job::Idle) {
            *job = self.choose(pages, root, rest)?;
        }
        let outcome = match &mut *job {
            Job::Idle => return Ok(Work::None),
            Job::Finish(_) => return Ok(Work::Finish),
            Job::Filter(filter) => filter.step(pages)?.map(|run| Outcome {
                target: root.page(),
                filtered: Some(run),
                ..Outcome::default()
            }),
            Job::Merge(merge) => {
                let done = merge.step(pages, &self.config)?;
                done.then(|| std::mem::take(&mut merge.outcome))
            }
        };
        let Some(outcome) = outcome else { return Ok(Work::More) };
        *job = Job::Finish(Box::new(outcome));
        Ok(Work::Finish)
    }

    /// Pages that the work under way is going to need.
    pub(crate) fn upcoming_pages<P: Pages>(&self, pages: &P, out: &mut Vec<PageId>) -> Step<()> {
        match &mut *self.job.lock() {
            Job::Merge(merge) => match (&mut merge.task, &merge.collecting) {
                (Some(task), _) => task.merge.upcoming(pages, View::Current, out),
                (None, Some(collecting)) => {
                    collecting.upcoming(out);
                    Ok(())
                }
                (None, None) => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// What to do next.
    fn choose<P: Pages>(&self, pages: &P, root: &ChildWord, rest: bool) -> Step<Job> {
        let path = {
            let page = read_node(pages, root, View::Current)?;
            let parts = NodeParts::of(page.words(), page.body());
            NodePath { page: page.id(), parent: None, low: Vec::new(), high: None, parts }
        };
        let runs = path.parts.runs.len();
        self.root_runs.store(runs as u64, Ordering::Relaxed);
        if let Some(run) = path.parts.runs.iter().rev().find(|run| run.frozen) {
            return Ok(Job::Filter(Box::new(FilterJob::new(run.run))));
        }
        if runs >= self.config.runs_soft() {
            return self.flush(pages, path);
        }
        let all_pages = u64::from(path.parts.pages());
        let upper: u64 = path.parts.runs.iter().map(|run| u64::from(run.run.pages)).sum();
        let is_upper_much = upper * 100 >= all_pages * REST_UPPER_PERCENT && runs > 0;
        let mut best: Option<Candidate> = None;
        self.candidates(pages, &path, rest, &mut best)?;
        if let Some(Candidate { path, child, .. }) = best {
            return match child {
                Some(child) => Ok(merge_child(&path, child)),
                None => self.flush(pages, path),
            };
        }
        if !rest {
            return Ok(Job::Idle);
        }
        if is_upper_much {
            return self.flush(pages, path);
        }
        let filled = self.filled_bytes.load(Ordering::Relaxed);
        let page_bytes = self.config.content_bytes as u64;
        let is_much = filled * 100 >= all_pages * page_bytes * REST_UPPER_PERCENT;
        if filled >= page_bytes * 4 && is_much && runs < self.config.runs_hard() {
            let outcome = Outcome { target: path.page, freeze: true, ..Outcome::default() };
            return Ok(Job::Finish(Box::new(outcome)));
        }
        Ok(Job::Idle)
    }

    /// The most urgent thing to do below a node.
    fn candidates<P: Pages>(
        &self,
        pages: &P,
        path: &NodePath,
        rest: bool,
        best: &mut Option<Candidate>,
    ) -> Step<()> {
        let soft = self.config.runs_soft() as u64;
        for (i, child) in path.parts.children.iter().enumerate() {
            let runs = u64::from(child.runs);
            let is_lowest = child.level == NODE_LEVEL;
            let due = runs >= soft || (rest && runs > u64::from(is_lowest));
            let worse = best.as_ref().is_none_or(|best| runs > best.urgency);
            if is_lowest {
                if due && worse && (runs >= soft || self.is_delta_much(pages, child)?) {
                    let path = path.clone();
                    *best = Some(Candidate { path, child: Some(i), urgency: runs });
                }
                continue;
            }
            let below = self.descend(pages, path, i)?;
            self.candidates(pages, &below, rest, best)?;
            let worse = best.as_ref().is_none_or(|best| runs > best.urgency);
            if due && worse {
                *best = Some(Candidate { path: below, child: None, urgency: runs });
            }
        }
        Ok(())
    }

    /// Whether much of a lowest node is not in its oldest run.
    fn is_delta_much<P: Pages>(&self, pages: &P, child: &Child) -> Step<bool> {
        let page = read_node(pages, &word_of(child.word), View::Current)?;
        let parts = NodeParts::of(page.words(), page.body());
        let newer: u64 = parts.runs.iter().rev().skip(1).map(|run| u64::from(run.run.pages)).sum();
        Ok(newer * 100 >= u64::from(child.pages) * REST_DELTA_PERCENT)
    }

    /// Child `i` of a node.
    fn descend<P: Pages>(&self, pages: &P, path: &NodePath, i: usize) -> Step<NodePath> {
        let children = &path.parts.children;
        let page = read_node(pages, &word_of(children[i].word), View::Current)?;
        Ok(NodePath {
            page: page.id(),
            parent: Some(path.page),
            low: if i == 0 { path.low.clone() } else { children[i].pivot.clone() },
            high: children.get(i + 1).map_or_else(|| path.high.clone(), |c| Some(c.pivot.clone())),
            parts: NodeParts::of(page.words(), page.body()),
        })
    }

    /// Flushes a node; first a child that could take no more.
    fn flush<P: Pages>(&self, pages: &P, path: NodePath) -> Step<Job> {
        let hard = self.config.runs_hard();
        let full = path.parts.children.iter().position(|child| usize::from(child.runs) >= hard);
        if let Some(i) = full {
            if path.parts.children[i].level == NODE_LEVEL {
                return Ok(merge_child(&path, i));
            }
            let below = self.descend(pages, &path, i)?;
            return self.flush(pages, below);
        }
        let flushed = path.parts.runs.iter().map(|run| run.run).collect();
        Ok(Job::Merge(Box::new(MergeJob::new(&path, flushed, None))))
    }

    /// Makes an outcome part of the tree.
    pub(crate) fn finish_job<P: TurnPages>(
        &self,
        pages: &P,
        root: &ChildWord,
        replaced: &mut dyn FnMut(Handle),
    ) -> Step<i64> {
        let mut job = self.job.lock();
        let Job::Finish(outcome) = &*job else { return Ok(0) };
        if outcome.freeze {
            self.freeze(pages, root, self.config.runs_hard())?;
            *job = Job::Idle;
            return Ok(0);
        }
        // From the root down: each node on the way, and which child was taken.
        let mut way: Vec<(PageId, NodeParts, usize)> = Vec::new();
        let mut page = read_node(pages, root, View::Current)?;
        let mut target = loop {
            let parts = NodeParts::of(page.words(), page.body());
            if page.id() == outcome.target {
                break parts;
            }
            let node = Node::new(page.body());
            if node.children() == 0 {
                return Err(Stop::Moved);
            }
            let child = node.child_of(&outcome.key);
            let next = read_node(pages, &page.words()[node.child_word(child)], View::Current)?;
            way.push((page.id(), parts, child));
            page = next;
        };
        drop(page);
        if let Some(run) = outcome.filtered {
            let tree = ChildWord::page_of(run.tree);
            let mut runs = target.runs.iter_mut();
            let old =
                runs.find(|old| ChildWord::page_of(old.run.tree) == tree).ok_or(Stop::Moved)?;
            *old = NodeRun { run, frozen: false };
        }
        target.runs.retain(|run| !outcome.gone.contains(&ChildWord::page_of(run.run.tree)));
        if let Some(children) = &outcome.children {
            target.children.clone_from(children);
        }
        let mut level = target.level();
        let (mut runs, mut leaves) = (target.runs.len(), target.pages());
        let mut news = vec![(outcome.target, target)];
        while let Some((id, mut parts, child)) = way.pop() {
            let summary = &mut parts.children[child];
            (summary.level, summary.pages) = (level, leaves);
            summary.runs = u8::try_from(runs).expect("a page holds fewer");
            (level, runs, leaves) = (parts.level(), parts.runs.len(), parts.pages());
            news.push((id, parts));
        }
        let root_runs = news.last().map_or(0, |(_, root)| root.runs.len());
        let mut made = Vec::with_capacity(news.len());
        for (id, parts) in &news {
            let mut new = pages.replace(*id, parts.level(), parts.words())?;
            parts.write(new.parts_mut());
            made.push(new);
        }
        for new in made {
            pages.publish(new);
        }
        let Job::Finish(outcome) = std::mem::take(&mut *job) else { unreachable!("matched above") };
        for (first, count) in outcome.freed {
            pages.free_range(first, count);
        }
        for handle in outcome.large {
            replaced(handle);
        }
        self.root_runs.store(root_runs as u64, Ordering::Relaxed);
        Ok(outcome.rows)
    }

    /// About how many rows lie in a range.
    pub(crate) fn estimate<P: Pages>(
        &self,
        pages: &P,
        root: &ChildWord,
        view: View,
        low: &[u8],
        high: Option<&[u8]>,
        total: u64,
    ) -> Step<u64> {
        if low.is_empty() && high.is_none() {
            return Ok(total);
        }
        let page = read_node(pages, root, view)?;
        let parts = NodeParts::of(page.words(), page.body());
        let mut rows = 0i64;
        if let Some((tree, _)) = parts.memtable {
            let found = crate::btree::estimate_rows(pages, &word_of(tree), view, low, high)?;
            rows += i64::try_from(found).unwrap_or(i64::MAX);
        }
        rows += estimate_node(pages, view, &parts, low, high)?;
        Ok(u64::try_from(rows).unwrap_or(0))
    }
}

fn merge_child(path: &NodePath, child: usize) -> Job {
    Job::Merge(Box::new(MergeJob::new(path, Vec::new(), Some(child))))
}

/// About how many rows of a range a node's runs have, and those below.
fn estimate_node<P: Pages>(
    pages: &P,
    view: View,
    parts: &NodeParts,
    low: &[u8],
    high: Option<&[u8]>,
) -> Step<i64> {
    let mut rows = 0i64;
    for run in &parts.runs {
        let RunRef { rows: all, tombstones, .. } = run.run;
        let found = crate::btree::estimate_rows(pages, &word_of(run.run.tree), view, low, high)?;
        // Tombstones are spread as the rows are.
        let share = if all == 0 { 0 } else { found.saturating_mul(2 * tombstones) / all };
        rows += i64::try_from(found).unwrap_or(i64::MAX) - i64::try_from(share).unwrap_or(0);
    }
    for (i, child) in parts.children.iter().enumerate() {
        let begins_after = i > 0 && high.is_some_and(|high| child.pivot.as_slice() >= high);
        let ends_before =
            parts.children.get(i + 1).is_some_and(|next| next.pivot.as_slice() <= low);
        if begins_after || ends_before {
            continue;
        }
        let page = read_node(pages, &word_of(child.word), view)?;
        let below = NodeParts::of(page.words(), page.body());
        rows += estimate_node(pages, view, &below, low, high)?;
    }
    Ok(rows)
}

const _: () = assert!(LEVEL_UNKNOWN > super::node::NODE_LEVEL_MAX);
