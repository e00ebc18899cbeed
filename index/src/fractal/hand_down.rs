//! Runs that overlap nothing below the node that is flushed: they are not merged with anything.
//!
//! Keys that are written in ascending order make such runs. An upper child takes them over as they are, by their words; a
//! lowest one stays as it is, and what comes is written once, into new nodes beside it. So a row of a sorted load is
//! written twice, in a memtable and in a lowest node, however many levels are between them.

use super::FractalConfig;
use super::filter_job::FilterJob;
use super::node::{Child, LEVEL_UNKNOWN, NODE_LEVEL, NodeParts, NodeRun};
use super::plan::build_node;
use super::read::read_node;
use super::work::word_of;
use crate::btree::{TreeCursor, pivot_between};
use crate::kind::{Cursor, Direction};
use crate::pages::{BuildPages, ChildWord, PageRead, Pages, Step, View};
use crate::run::RunRef;

/// The first key of a run, and the last.
#[derive(Clone, Debug)]
pub(crate) struct KeySpan {
    pub(crate) first: Vec<u8>,
    pub(crate) last: Vec<u8>,
}

impl KeySpan {
    /// That of a tree; `None` if it has no row.
    pub(crate) fn of<P: Pages>(pages: &P, tree: u64) -> Step<Option<Self>> {
        let end = |direction| {
            let mut cursor = TreeCursor::new(&[], None, direction);
            let found = cursor.next(pages, &word_of(tree), View::Current)?;
            Ok(found.then(|| cursor.row().0.to_vec()))
        };
        let (Some(first), Some(last)) = (end(Direction::Forward)?, end(Direction::Backward)?)
        else {
            return Ok(None);
        };
        Ok(Some(Self { first, last }))
    }

    /// True if a key from `low` up to, not including, `high` may be in it.
    pub(crate) fn meets(&self, low: &[u8], high: Option<&[u8]>) -> bool {
        self.last.as_slice() >= low && high.is_none_or(|high| self.first.as_slice() < high)
    }
    fn is_inside(&self, low: &[u8], high: Option<&[u8]>) -> bool {
        self.first.as_slice() >= low && high.is_none_or(|high| self.last.as_slice() < high)
    }
}

/// True if a tree has a row from `low` up to, not including, `high`.
pub(crate) fn has_rows<P: Pages>(
    pages: &P,
    tree: u64,
    low: &[u8],
    high: Option<&[u8]>,
) -> Step<bool> {
    TreeCursor::new(low, high, Direction::Forward).next(pages, &word_of(tree), View::Current)
}

/// From the first to the last key of these spans, if they lie in a range and do not overlap.
pub(crate) fn hull(spans: &[&KeySpan], (low, high): (&[u8], Option<&[u8]>)) -> Option<KeySpan> {
    let mut sorted = spans.to_vec();
    sorted.sort_by(|a, b| a.first.cmp(&b.first));
    let are_apart = sorted.windows(2).all(|pair| pair[0].last < pair[1].first);
    let (first, last) = (sorted.first()?, sorted.last()?);
    let hull = KeySpan { first: first.first.clone(), last: last.last.clone() };
    (are_apart && hull.is_inside(low, high)).then_some(hull)
}

/// Whether all runs in a node and below it are beside a span, which then lies in one of the lowest nodes. Cost: a
/// descent in each run on the way there.
pub(crate) fn is_free_below<P: Pages>(pages: &P, parts: &NodeParts, span: &KeySpan) -> Step<bool> {
    let mut parts = parts.clone();
    // The next key after the last one.
    let end = [&span.last[..], &[0]].concat();
    loop {
        for NodeRun { run, .. } in &parts.runs {
            if has_rows(pages, run.tree, &span.first, Some(&end))? {
                return Ok(false);
            }
        }
        let begins = |child: &Child, key: &[u8]| child.pivot.as_slice() <= key;
        let behind = parts.children.iter().skip(1).take_while(|child| begins(child, &span.first));
        let i = behind.count();
        if parts.children.get(i + 1).is_some_and(|next| begins(next, &span.last)) {
            return Ok(false);
        }
        let Some(child) = parts.children.get(i) else { return Ok(true) };
        let page = read_node(pages, &word_of(child.word), View::Current)?;
        parts = NodeParts::of(page.words(), page.body());
    }
}

/// Where a new node with this span begins behind a lowest node that stays as it is; `None` if it must not, or if one of
/// both would be small.
pub(crate) fn pivot_behind<P: Pages>(
    pages: &P,
    config: &FractalConfig,
    parts: &NodeParts,
    span: &KeySpan,
    span_pages: u32,
) -> Step<Option<Vec<u8>>> {
    let is_small = |pages: u32| pages < config.node_pages / 2;
    // A range of the node may go on where the new one is.
    let has_ranges = parts.runs.iter().any(|run| run.run.ranges != 0);
    if has_ranges || is_small(parts.pages()) || is_small(span_pages) {
        return Ok(None);
    }
    let mut last: Option<Vec<u8>> = None;
    for NodeRun { run, .. } in &parts.runs {
        let end = KeySpan::of(pages, run.tree)?.map(|span| span.last);
        last = last.max(end);
    }
    let Some(last) = last.filter(|last| *last < span.first) else { return Ok(None) };
    let pivot = pivot_between(&last, &span.first).to_vec();
    Ok((pivot.len() <= config.pivot_bytes_max()).then_some(pivot))
}

/// Runs on their way into an upper node.
#[derive(Debug)]
pub(crate) struct Moving {
    /// The node as it was.
    old: Child,
    parts: NodeParts,
    /// Newest first.
    runs: Vec<RunRef>,
    /// How many of them are ready.
    ready: usize,
    /// One that was a memtable needs a filter.
    filter: Option<FilterJob>,
}

impl Moving {
    /// `None` for a lowest node, and if there would be more runs than a node may have.
    pub(crate) fn new(
        config: &FractalConfig,
        old: &Child,
        parts: &NodeParts,
        runs: Vec<RunRef>,
    ) -> Option<Self> {
        let fits = parts.runs.len() + runs.len() <= config.runs_hard();
        (old.level != NODE_LEVEL && fits).then(|| Self {
            old: old.clone(),
            parts: parts.clone(),
            runs,
            ready: 0,
            filter: None,
        })
    }

    /// The filter in the making.
    pub(crate) fn filter(&self) -> Option<&FilterJob> {
        self.filter.as_ref()
    }
    /// The node that is replaced.
    pub(crate) fn page(&self) -> esker_base::PageId {
        ChildWord::page_of(self.old.word)
    }
    /// True if it moves this run.
    pub(crate) fn has(&self, run: &RunRef) -> bool {
        self.runs.iter().any(|moved| ChildWord::page_of(moved.tree) == ChildWord::page_of(run.tree))
    }

    /// One step; the node with the runs at the end.
    pub(crate) fn step<P: BuildPages>(&mut self, pages: &P) -> Step<Option<Child>> {
        if let Some(run) = self.runs.get_mut(self.ready) {
            if run.level == LEVEL_UNKNOWN {
                let filter = self.filter.get_or_insert_with(|| FilterJob::new(*run));
                let Some(filtered) = filter.step(pages)? else { return Ok(None) };
                *run = filtered;
                self.filter = None;
            }
            self.ready += 1;
            return Ok(None);
        }
        let mut parts = self.parts.clone();
        let moved = self.runs.iter().map(|run| NodeRun { run: *run, frozen: false });
        parts.runs.splice(0..0, moved);
        build_node(pages, &parts, self.old.pivot.clone()).map(Some)
    }
}
