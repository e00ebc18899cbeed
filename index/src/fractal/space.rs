//! How much background work writes before it gives space back, and what there is room for.

use super::Fractal;
use super::choose::{NodePath, descend, freeze, merge_child, page_rows};
use super::estimate::{covered_rows, packed_pages, ranges_of};
use super::filter_job::FilterJob;
use super::merge_job::MergeJob;
use super::node::{Child, NODE_LEVEL, NodeParts};
use super::read::read_node;
use super::work::{Job, weight, word_of};
use crate::pages::{ChildWord, PageRead, Pages, Step, View};
use esker_base::PageId;
use esker_base::sync::Ordering;
use std::collections::BTreeMap;

/// A lowest node is merged if so much of it is garbage.
const GARBAGE_PERCENT: u64 = 10;

/// What a small run takes in a node beside its rows: headers, branch, filter, and the node itself.
const RUN_FIXED_BYTES: u64 = 1024;

/// What a merge of a lowest node will do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Merged {
    /// Leaves that it writes, about: not what is deleted.
    pages: u64,
    /// Rows that may take the place of large values, each of which takes pages of its own.
    over_large: u64,
}

/// That, by the node's page, and its leaves and runs: a table may have more lowest nodes than memory holds.
pub(crate) type Measured = BTreeMap<PageId, ((u32, u8), Merged)>;

impl Fractal {
    /// What is kept for background work: a flush of what the root's runs and the memtable hold, and then a merge of a lowest
    /// node, before either gives anything back; and a memtable of deletes that make them give more.
    pub(crate) fn written_bytes(&self) -> u64 {
        let root_bytes = self.root_bytes.load(Ordering::Relaxed);
        let held_bytes = root_bytes + self.filled_bytes.load(Ordering::Relaxed);
        let more_bytes =
            (2 * self.config.memtable_bytes).min(self.all_bytes.load(Ordering::Relaxed));
        self.fixed_bytes.load(Ordering::Relaxed) + held_bytes + more_bytes
    }
    /// Of these, what does not depend on how much the root holds.
    pub(crate) fn fixed_bytes_of(&self, root: &NodeParts) -> u64 {
        let lowest = root.children.iter().filter(|child| child.level == NODE_LEVEL);
        let largest_pages = lowest.map(|child| u64::from(child.pages)).max().unwrap_or(0);
        let node_pages = u64::from(self.config.node_pages) * 2;
        let lowest_pages = node_pages.min(root.pages().into()).max(largest_pages);
        self.bytes_of(lowest_pages + lowest_pages / 2)
            + root.children.len() as u64 * RUN_FIXED_BYTES
    }
    /// True if work may not write as much as it likes.
    pub(crate) fn is_thrifty(&self) -> bool {
        self.room_bytes.load(Ordering::Relaxed) != u64::MAX
    }
    /// An eighth more than estimated.
    fn has_room(&self, bytes: u64) -> bool {
        bytes + bytes / 8 <= self.room_bytes.load(Ordering::Relaxed)
    }

    /// What to do next where there is little space: what gives most of it back, of what there is room for. A flush merges no
    /// child that it need not, so it writes what comes down and no more; then the nodes in which most is deleted are merged.
    pub(crate) fn choose_in_space<P: Pages>(&self, pages: &P, root: &NodePath) -> Step<Job> {
        // What was a memtable is counted first: what it deletes is not written.
        if let Some(run) = root.parts.runs.iter().rev().find(|run| run.frozen) {
            return Ok(Job::Filter(Box::new(FilterJob::new(run.run))));
        }
        let mut best = Best::default();
        self.look_for_garbage(pages, root, &mut best)?;
        if let Some((job, _)) = best.merge {
            return Ok(job);
        }
        if let Some(job) = self.choose_wished(pages, root)?
            && self.fits(pages, root, &job)?
        {
            return Ok(job);
        }
        for node in best.flush.iter().chain([root]) {
            if let Some(job) = self.flush_in_space(pages, root, node)? {
                return Ok(job);
            }
        }
        if root.parts.runs.len() >= self.config.runs_hard() {
            return Ok(Job::Idle);
        }
        let is_filled = self.filled_bytes.load(Ordering::Relaxed) > 0;
        let is_due =
            is_filled && self.keeps_large(pages, root)? || self.is_memtable_due(pages, root)?;
        Ok(if is_due { freeze(root) } else { Job::Idle })
    }

    /// Nodes below this one: the merge that gives most back, and a flush of one that has runs.
    fn look_for_garbage<P: Pages>(&self, pages: &P, node: &NodePath, best: &mut Best) -> Step<()> {
        for (i, child) in node.parts.children.iter().enumerate() {
            if child.level != NODE_LEVEL {
                let below = descend(pages, node, i)?;
                self.look_for_garbage(pages, &below, best)?;
                if best.flush.is_none() && child.runs > 0 {
                    best.flush = Some(below);
                }
            } else if child.runs > 1 {
                let merged = self.merged(pages, child)?;
                let gain = u64::from(child.pages).saturating_sub(merged.pages);
                let gain = gain.saturating_add(merged.over_large);
                let is_best = best.merge.as_ref().is_none_or(|(_, most)| gain > *most);
                let is_due = gain.saturating_mul(100) >= u64::from(child.pages) * GARBAGE_PERCENT;
                if is_best && is_due && self.has_room(self.bytes_of(merged.pages)) {
                    best.merge = Some((merge_child(node, i), gain));
                }
            }
        }
        Ok(())
    }

    /// A flush of a node: of its oldest runs, where not of all there is room for. Those are older than what stays, too.
    fn flush_in_space<P: Pages>(
        &self,
        pages: &P,
        root: &NodePath,
        node: &NodePath,
    ) -> Step<Option<Job>> {
        let runs = &node.parts.runs;
        if runs.is_empty() {
            return Ok(None);
        }
        let mut job = self.flush(pages, node)?;
        for stay in 1..runs.len() {
            if self.fits(pages, root, &job)? {
                break;
            }
            if matches!(&job, Job::Merge(merge) if merge.only.is_some()) {
                return Ok(None);
            }
            let oldest = runs[stay..].iter().map(|run| run.run).collect();
            job = Job::Merge(Box::new(MergeJob::flush(node, oldest, true)));
        }
        Ok(self.fits(pages, root, &job)?.then_some(job))
    }

    /// Whether a job has room.
    fn fits<P: Pages>(&self, pages: &P, root: &NodePath, job: &Job) -> Step<bool> {
        Ok(self.has_room(self.bytes_of_job(pages, root, job)?))
    }
    /// About how many bytes a job writes.
    pub(crate) fn bytes_of_job<P: Pages>(
        &self,
        pages: &P,
        root: &NodePath,
        job: &Job,
    ) -> Step<u64> {
        let merge = match job {
            Job::Merge(merge) => merge,
            // A row takes more than eight times as much in a leaf.
            Job::Filter(filter) => return Ok(self.bytes_of(u64::from(filter.leaves) / 8 + 2)),
            Job::Idle | Job::Finish(_) => return Ok(0),
        };
        if let Some(only) = merge.only {
            return Ok(self.bytes_of(self.merged(pages, &merge.old[only])?.pages));
        }
        let mut flushed = 0;
        for run in &merge.flushed {
            let is_mostly_tombstones = run.tombstones > run.rows / 2;
            flushed += if is_mostly_tombstones {
                packed_pages(pages, run, page_rows(pages, root)?, self.bytes_of(1))?
            } else {
                run.pages.into()
            };
        }
        Ok(self.bytes_of(flushed) + merge.old.len() as u64 * RUN_FIXED_BYTES)
    }
    /// What a merge of a lowest node will do.
    fn merged<P: Pages>(&self, pages: &P, child: &Child) -> Step<Merged> {
        let (page, summary) = (ChildWord::page_of(child.word), (child.pages, child.runs));
        if let Some((_, known)) = self.measured.lock().get(&page).filter(|of| of.0 == summary) {
            return Ok(*known);
        }
        let merged = merged(pages, child)?;
        self.measured.lock().insert(page, (summary, merged));
        Ok(merged)
    }
    fn bytes_of(&self, pages: u64) -> u64 {
        pages * self.config.content_bytes as u64
    }
}

/// What was found below a node.
#[derive(Default)]
struct Best {
    /// With how many pages it gives back.
    merge: Option<(Job, u64)>,
    /// One that has runs.
    flush: Option<NodePath>,
}

/// That, by what the runs of the node say of themselves.
fn merged<P: Pages>(pages: &P, child: &Child) -> Step<Merged> {
    let page = read_node(pages, &word_of(child.word), View::Current)?;
    let parts = NodeParts::of(page.words(), page.body());
    drop(page);
    let runs = || parts.runs.iter().map(|run| &run.run);
    let rows = runs().map(|run| run.rows).fold(0, u64::saturating_add);
    let mut live = runs().fold(0, |all: i64, run| all.saturating_add(weight(run)));
    if let Some((oldest, newer)) = parts.runs.split_last() {
        let ranges = ranges_of(pages, newer.iter().map(|run| &run.run))?;
        if !ranges.is_empty() {
            live = live.saturating_sub_unsigned(covered_rows(pages, &oldest.run, &ranges)?);
        }
    }
    let live = u64::try_from(live).unwrap_or(0).min(rows);
    let newer = runs().rposition(|run| run.has_large).unwrap_or(0);
    Ok(Merged {
        pages: u64::from(child.pages).saturating_mul(live).div_ceil(rows.max(1)) + 1,
        over_large: runs().take(newer).map(|run| run.rows).fold(0, u64::saturating_add),
    })
}
