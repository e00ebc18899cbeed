//! How much background work writes before it gives space back, and what there is room for.

use super::Fractal;
use super::choose::{NodePath, descend, freeze, merge_child};
use super::estimate::{covered_rows, ranges_of};
use super::filter_job::FilterJob;
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

/// Pages that a merge of a lowest node will write, by its page, and its leaves and runs: a table may have more lowest nodes than
/// memory holds.
pub(crate) type Measured = BTreeMap<PageId, ((u32, u8), u64)>;

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
        for job in [self.choose_wished(pages, root)?, best.flush].into_iter().flatten() {
            if self.fits(pages, &job)? {
                return Ok(job);
            }
        }
        if !root.parts.runs.is_empty()
            && let job = self.flush(pages, root)?
            && self.fits(pages, &job)?
        {
            return Ok(job);
        }
        // A large value takes no leaf.
        let pages_min = if self.has_large.load(Ordering::Relaxed) { 0 } else { 4 };
        let has_runs_max = root.parts.runs.len() >= self.config.runs_hard();
        let is_due = !has_runs_max && self.is_memtable_due(pages, root, pages_min)?;
        Ok(if is_due { freeze(root) } else { Job::Idle })
    }

    /// Nodes below this one: the merge that gives most back, and a flush of one that has runs.
    fn look_for_garbage<P: Pages>(&self, pages: &P, node: &NodePath, best: &mut Best) -> Step<()> {
        for (i, child) in node.parts.children.iter().enumerate() {
            if child.level != NODE_LEVEL {
                let below = descend(pages, node, i)?;
                self.look_for_garbage(pages, &below, best)?;
                if best.flush.is_none() && child.runs > 0 {
                    best.flush = Some(self.flush(pages, &below)?);
                }
            } else if child.runs > 1 {
                let written = self.merged_pages(pages, child)?;
                let gain = u64::from(child.pages).saturating_sub(written);
                let is_best = best.merge.as_ref().is_none_or(|(_, most)| gain > *most);
                let is_due = gain * 100 >= u64::from(child.pages) * GARBAGE_PERCENT;
                if is_best && is_due && self.has_room(self.bytes_of(written)) {
                    best.merge = Some((merge_child(node, i), gain));
                }
            }
        }
        Ok(())
    }

    /// Whether a job has room.
    fn fits<P: Pages>(&self, pages: &P, job: &Job) -> Step<bool> {
        let Job::Merge(merge) = job else { return Ok(true) };
        if let Some(only) = merge.only {
            let merged = self.merged_pages(pages, &merge.old[only])?;
            return Ok(self.has_room(self.bytes_of(merged)));
        }
        let flushed = merge.flushed.iter().map(|run| u64::from(run.pages)).sum();
        let fixed_bytes = merge.old.len() as u64 * RUN_FIXED_BYTES;
        Ok(self.has_room(self.bytes_of(flushed) + fixed_bytes))
    }
    /// About how many pages a merge of a lowest node will write: not what is deleted.
    fn merged_pages<P: Pages>(&self, pages: &P, child: &Child) -> Step<u64> {
        let (page, summary) = (ChildWord::page_of(child.word), (child.pages, child.runs));
        if let Some((_, known)) = self.measured.lock().get(&page).filter(|of| of.0 == summary) {
            return Ok(*known);
        }
        let merged = merged_pages(pages, child)?;
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
    flush: Option<Job>,
}

/// About how many pages a merge of a lowest node will write: not what is deleted.
fn merged_pages<P: Pages>(pages: &P, child: &Child) -> Step<u64> {
    let page = read_node(pages, &word_of(child.word), View::Current)?;
    let parts = NodeParts::of(page.words(), page.body());
    drop(page);
    let rows: u64 = parts.runs.iter().map(|run| run.run.rows).sum();
    let mut live = parts.runs.iter().fold(0, |all: i64, run| all.saturating_add(weight(&run.run)));
    if let Some((oldest, newer)) = parts.runs.split_last() {
        let ranges = ranges_of(pages, newer.iter().map(|run| &run.run))?;
        if !ranges.is_empty() {
            live = live.saturating_sub_unsigned(covered_rows(pages, &oldest.run, &ranges)?);
        }
    }
    let live = u64::try_from(live).unwrap_or(0).min(rows);
    Ok((u64::from(child.pages) * live).div_ceil(rows.max(1)) + 1)
}
