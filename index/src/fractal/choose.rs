//! What to do next.

use super::Fractal;
use super::estimate::{covered_pages, covered_rows, ranges_of};
use super::filter_job::FilterJob;
use super::merge_job::MergeJob;
use super::node::{Child, NODE_LEVEL, NodeParts};
use super::read::{read_below, read_node};
use super::work::{Job, Outcome, word_of};
use crate::pages::{ChildWord, PageRead, Pages, Step, View};
use crate::run::RangeSet;
use esker_base::PageId;
use esker_base::sync::Ordering;

/// At rest, a lowest node is merged if this share of its leaves is not in its oldest run, or of its rows is garbage,
const REST_DELTA_PERCENT: u64 = 10;
/// and upper runs go down if they are this share of all, or what they delete is.
const REST_UPPER_PERCENT: u64 = 5;
/// Under writes, a lowest node is merged before its time if this share of its rows is garbage.
const GARBAGE_PERCENT: u64 = 50;

/// A node and where it is.
#[derive(Clone)]
pub(crate) struct NodePath {
    pub(crate) page: PageId,
    pub(crate) parent: Option<PageId>,
    pub(crate) low: Vec<u8>,
    pub(crate) high: Option<Vec<u8>>,
    pub(crate) parts: NodeParts,
}

/// What could be done, and how urgent it is.
struct Candidate {
    path: NodePath,
    /// The child to merge; `None`: flush the node.
    child: Option<usize>,
    urgency: u64,
}

impl Fractal {
    /// What to do next. Called again after each stop, and then does not look again at what it has seen: there may be more nodes
    /// than frames.
    pub(crate) fn choose<P: Pages>(&self, pages: &P, root: &ChildWord, rest: bool) -> Step<Job> {
        let job = self.choose_now(pages, root, rest)?;
        self.weighed.lock().clear();
        Ok(job)
    }

    fn choose_now<P: Pages>(&self, pages: &P, root: &ChildWord, rest: bool) -> Step<Job> {
        if self.gaps.is_open() {
            return Ok(Job::Finish(Box::new(Outcome { close_gap: true, ..Outcome::default() })));
        }
        let path = {
            let page = read_node(pages, root, View::Current)?;
            let parts = NodeParts::of(page.words(), page.body());
            NodePath { page: page.id(), parent: None, low: Vec::new(), high: None, parts }
        };
        let runs = path.parts.runs.len();
        self.note_root(&path.parts);
        self.note_due(&path.parts);
        if self.is_thrifty() {
            let job = self.choose_in_space(pages, &path)?;
            self.job_bytes.store(self.bytes_of_job(pages, &path, &job)?, Ordering::Relaxed);
            return Ok(job);
        }
        self.job_bytes.store(u64::MAX, Ordering::Relaxed);
        let quota = self.quota.load(Ordering::Relaxed);
        if runs >= self.config.runs_soft() {
            // Each flush gives every child a run: so that not all of them are full at once, some are merged, or flushed if
            // they have children, after each.
            let due = if quota == 0 { None } else { self.worst_child(&path) };
            if let Some(child) = due {
                self.quota.store(quota - 1, Ordering::Relaxed);
                if path.parts.children[child].level == NODE_LEVEL {
                    return Ok(merge_child(&path, child));
                }
                let below = descend(pages, &path, child)?;
                return self.flush(pages, &below);
            }
            let children = path.parts.children.len() as u64;
            let rounds = (self.config.runs_hard() - self.config.runs_lowest()) as u64 / 2;
            self.quota.store(children.div_ceil(rounds.max(1)), Ordering::Relaxed);
            return self.flush(pages, &path);
        }
        if let Some(job) = self.choose_wished(pages, &path)? {
            return Ok(job);
        }
        // A run that is about to be merged needs no filter any more.
        if let Some(run) = path.parts.runs.iter().rev().find(|run| run.frozen) {
            return Ok(Job::Filter(Box::new(FilterJob::new(run.run))));
        }
        let upper: u64 = path.parts.runs.iter().map(|run| u64::from(run.run.pages)).sum();
        let mut best: Option<Candidate> = None;
        self.candidates(pages, &path, rest, &mut best)?;
        if let Some(Candidate { path, child, .. }) = best {
            return match child {
                Some(child) => Ok(merge_child(&path, child)),
                None => self.flush(pages, &path),
            };
        }
        if !rest {
            return Ok(Job::Idle);
        }
        // A tombstone is short, and what it deletes need not be.
        let tombstones: u64 = path.parts.runs.iter().map(|run| run.run.tombstones).sum();
        let is_upper_much = runs > 0 && is_much(pages, &path, upper, tombstones)?;
        let ranges = ranges_of(pages, path.parts.runs.iter().map(|run| &run.run))?;
        if is_upper_much || is_covered_much(pages, &path, &ranges)? {
            return self.flush(pages, &path);
        }
        if runs < self.config.runs_hard() && self.is_memtable_due(pages, &path)? {
            return Ok(freeze(&path));
        }
        Ok(Job::Idle)
    }

    /// Whether the memtable deletes so much, or has so much, that it should go down at rest; not if it has few pages, unless
    /// what it deletes has more of its own.
    pub(crate) fn is_memtable_due<P: Pages>(&self, pages: &P, root: &NodePath) -> Step<bool> {
        /// Of a memtable that is worth it.
        const PAGES_MIN: u64 = 4;
        if let Some((_, list)) = root.parts.memtable.filter(|(_, list)| *list != 0) {
            let leaf = pages.read(&word_of(list), View::Current)?;
            let ranges = RangeSet::of_leaf(leaf.body());
            drop(leaf);
            if is_covered_much(pages, root, &ranges)? {
                return Ok(true);
            }
        }
        let filled = self.filled_bytes.load(Ordering::Relaxed);
        let page_bytes = self.config.content_bytes as u64;
        let tombstones = self.memtable_tombstones.load(Ordering::Relaxed);
        if filled < page_bytes * PAGES_MIN && (tombstones == 0 || !self.keeps_large(pages, root)?) {
            return Ok(false);
        }
        is_much(pages, root, filled / page_bytes, tombstones)
    }

    /// Whether runs have large values. After a start, as the first lowest node has them.
    pub(crate) fn keeps_large<P: Pages>(&self, pages: &P, root: &NodePath) -> Step<bool> {
        if self.kept_large.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let mut path = root.clone();
        loop {
            if path.parts.runs.iter().any(|run| run.run.has_large) {
                self.kept_large.store(true, Ordering::Relaxed);
                return Ok(true);
            }
            if path.parts.children.is_empty() {
                return Ok(false);
            }
            path = descend(pages, &path, 0)?;
        }
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
                let due = due || runs > 1;
                if due && worse && (runs >= soft || self.is_delta_much(pages, child, rest)?) {
                    let path = path.clone();
                    *best = Some(Candidate { path, child: Some(i), urgency: runs });
                }
                continue;
            }
            let below = descend(pages, path, i)?;
            self.candidates(pages, &below, rest, best)?;
            let worse = best.as_ref().is_none_or(|best| runs > best.urgency);
            if due && worse {
                *best = Some(Candidate { path: below, child: None, urgency: runs });
            }
        }
        Ok(())
    }

    fn is_delta_much<P: Pages>(&self, pages: &P, child: &Child, rest: bool) -> Step<bool> {
        let page = ChildWord::page_of(child.word);
        if let Some(known) = self.weighed.lock().get(&page) {
            return Ok(*known);
        }
        let is_much = is_delta_much(pages, child, rest)?;
        self.weighed.lock().insert(page, is_much);
        Ok(is_much)
    }

    /// The child that has most runs, of those that have many.
    fn worst_child(&self, path: &NodePath) -> Option<usize> {
        let children = path.parts.children.iter().enumerate();
        let due = children.filter(|(_, child)| self.is_child_due(child));
        due.max_by_key(|(_, child)| child.runs).map(|(i, _)| i)
    }

    /// Whether a child of the root may be merged, or flushed if it has children, before the root is.
    pub(crate) fn is_child_due(&self, child: &Child) -> bool {
        let is_lowest = child.level == NODE_LEVEL;
        let least = if is_lowest { self.config.runs_lowest() } else { self.config.runs_soft() };
        usize::from(child.runs) >= least
    }

    /// Flushes a node; first a child that could take no more.
    pub(crate) fn flush<P: Pages>(&self, pages: &P, path: &NodePath) -> Step<Job> {
        let hard = self.config.runs_hard();
        let full = path.parts.children.iter().position(|child| usize::from(child.runs) >= hard);
        if let Some(i) = full {
            if path.parts.children[i].level == NODE_LEVEL {
                return Ok(merge_child(path, i));
            }
            let below = descend(pages, path, i)?;
            return self.flush(pages, &below);
        }
        let flushed = path.parts.runs.iter().map(|run| run.run).collect();
        Ok(Job::Merge(Box::new(MergeJob::flush(path, flushed, self.is_thrifty()))))
    }
}

/// Child `i` of a node.
pub(crate) fn descend<P: Pages>(pages: &P, path: &NodePath, i: usize) -> Step<NodePath> {
    let children = &path.parts.children;
    let parent = path.parts.level();
    let page = read_below(pages, &word_of(children[i].word), View::Current, parent)?;
    Ok(NodePath {
        page: page.id(),
        parent: Some(path.page),
        low: if i == 0 { path.low.clone() } else { children[i].pivot.clone() },
        high: children.get(i + 1).map_or_else(|| path.high.clone(), |c| Some(c.pivot.clone())),
        parts: NodeParts::of(page.words(), page.body()),
    })
}

pub(crate) fn merge_child(path: &NodePath, child: usize) -> Job {
    Job::Merge(Box::new(MergeJob::of_child(path, child)))
}

pub(crate) fn freeze(root: &NodePath) -> Job {
    Job::Finish(Box::new(Outcome { target: root.page, freeze: true, ..Outcome::default() }))
}

/// Whether so many leaves above the lowest nodes are much of all, or what so many tombstones delete.
fn is_much<P: Pages>(pages: &P, root: &NodePath, upper: u64, tombstones: u64) -> Step<bool> {
    let rows = page_rows(pages, root)?;
    let all_rows = u64::from(root.parts.pages()).saturating_mul(rows);
    let upper_rows = upper.saturating_mul(rows).max(tombstones);
    Ok(upper_rows.saturating_mul(100) >= all_rows.saturating_mul(REST_UPPER_PERCENT))
}

/// Whether ranges cover much of all leaves: that is space to be had back, however few bytes the ranges take.
fn is_covered_much<P: Pages>(pages: &P, root: &NodePath, ranges: &RangeSet) -> Step<bool> {
    let covered = covered_pages(pages, &root.parts, (&[], None), ranges)?;
    Ok(covered > 0 && covered * 100 >= u64::from(root.parts.pages()) * REST_UPPER_PERCENT)
}

/// About how many rows a page of the lowest nodes holds, as the first of them has it. Never 0.
pub(crate) fn page_rows<P: Pages>(pages: &P, root: &NodePath) -> Step<u64> {
    let mut path = root.clone();
    while !path.parts.children.is_empty() {
        path = descend(pages, &path, 0)?;
    }
    let oldest = path.parts.runs.last().map(|run| run.run);
    Ok(oldest.map_or(1, |run| (run.rows / u64::from(run.pages).max(1)).max(1)))
}

/// Whether much of a lowest node is not in its oldest run, or is garbage.
fn is_delta_much<P: Pages>(pages: &P, child: &Child, rest: bool) -> Step<bool> {
    let page = read_node(pages, &word_of(child.word), View::Current)?;
    let parts = NodeParts::of(page.words(), page.body());
    drop(page);
    let Some((oldest, newer)) = parts.runs.split_last() else { return Ok(false) };
    let newer = || newer.iter().map(|run| &run.run);
    let pages_newer: u64 = newer().map(|run| u64::from(run.pages)).sum();
    if rest && pages_newer * 100 >= u64::from(child.pages) * REST_DELTA_PERCENT {
        return Ok(true);
    }
    let share = if rest { REST_DELTA_PERCENT } else { GARBAGE_PERCENT };
    let is_much = |rows: u64| rows > 0 && rows * 100 >= oldest.run.rows * share;
    // A tombstone is garbage at this depth, and what it deletes.
    let tombstones: u64 = newer().map(|run| run.tombstones).sum();
    if is_much(tombstones) {
        return Ok(true);
    }
    let ranges = ranges_of(pages, newer())?;
    if ranges.is_empty() {
        return Ok(false);
    }
    Ok(is_much(tombstones + covered_rows(pages, &oldest.run, &ranges)?))
}
