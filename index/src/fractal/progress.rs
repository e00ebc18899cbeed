//! How far background work is: what it has read, and what is left until the root's runs have gone down and debt falls.
//!
//! A page of a flush costs about as much time as one of a merge, so pages tell how long work will take. What comes before
//! the root is flushed is known: the job under way, and the lowest nodes that are to be merged first.

use super::Fractal;
use super::node::{Child, NODE_LEVEL, NodeParts};
use super::work::Job;
use crate::kind::{Kind, Progress};
use esker_base::PageId;
use esker_base::sync::{AtomicU64, Ordering};

/// Written by who works, read by who asks; nothing else depends on it.
#[derive(Debug, Default)]
pub(crate) struct Forecast {
    /// Pages that jobs which have ended have read,
    ended_pages: AtomicU64,
    /// and with them the one under way.
    done_pages: AtomicU64,
    left_pages: AtomicU64,
    /// Children that may be merged or flushed before the root is,
    due: AtomicU64,
    /// and pages of one of them.
    due_pages: AtomicU64,
    /// Pages of merges between the job under way and the root's flush.
    between_pages: AtomicU64,
}

impl Fractal {
    pub(crate) fn progress_now(&self) -> Progress {
        Progress {
            done_pages: self.forecast.done_pages.load(Ordering::Relaxed),
            left_pages: self.forecast.left_pages.load(Ordering::Relaxed),
        }
    }

    /// The root is seen, and a job is to be chosen.
    pub(crate) fn note_due(&self, root: &NodeParts) {
        // A run of an upper child is its share of a flush of the root.
        let root_pages: u64 = root.runs.iter().map(|run| u64::from(run.run.pages)).sum();
        let share_pages = root_pages / root.children.len().max(1) as u64;
        let pages_of = |child: &Child| match child.level {
            NODE_LEVEL => u64::from(child.pages),
            _ => u64::from(child.runs) * share_pages,
        };
        let due = root.children.iter().filter(|child| self.is_child_due(child));
        let (count, pages) =
            due.fold((0, 0), |(count, pages), child| (count + 1, pages + pages_of(child)));
        self.forecast.due.store(count, Ordering::Relaxed);
        self.forecast.due_pages.store(pages / count.max(1), Ordering::Relaxed);
    }

    /// A job begins.
    pub(crate) fn note_begun(&self) {
        let count = self.forecast.due.load(Ordering::Relaxed);
        let count = count.min(self.quota.load(Ordering::Relaxed));
        let pages = count * self.forecast.due_pages.load(Ordering::Relaxed);
        self.forecast.between_pages.store(pages, Ordering::Relaxed);
    }

    /// A job has got on.
    pub(crate) fn note_progress(&self, job: &Job, root: PageId) {
        let Forecast { ended_pages, done_pages, left_pages, between_pages, .. } = &self.forecast;
        let Job::Merge(merge) = job else {
            // A filter makes debt no less; what is finished will be another job in a moment.
            left_pages.store(0, Ordering::Relaxed);
            return;
        };
        let (done, total) = merge.progress();
        done_pages.store(ended_pages.load(Ordering::Relaxed) + done, Ordering::Relaxed);
        let left = if merge.only.is_none() && merge.target == root {
            total - done
        } else {
            self.pages_until_flushed(total - done + between_pages.load(Ordering::Relaxed))
        };
        left_pages.store(left.max(1), Ordering::Relaxed);
    }

    /// A job has read all that it will.
    pub(crate) fn note_ended(&self, pages: u64) {
        let ended = self.forecast.ended_pages.fetch_add(pages, Ordering::Relaxed) + pages;
        self.forecast.done_pages.store(ended, Ordering::Relaxed);
    }

    /// Pages that will have been read when the root is flushed, after these: those of its runs, and of what is written
    /// meanwhile, which is all that there is room for, at a steady rate.
    fn pages_until_flushed(&self, before_pages: u64) -> u64 {
        // Leaves that were filled at random are two thirds full.
        let pages = |bytes: u64| u128::from(bytes) * 3 / 2 / self.config.content_bytes as u128;
        let runs = self.root_runs.load(Ordering::Relaxed);
        let before = u128::from(before_pages);
        let known = before + pages(runs * self.config.memtable_bytes);
        let room = pages(self.debt_bytes_max().saturating_sub(self.debt_bytes()));
        // All = known + room * before / all.
        let all = known.midpoint((known * known + 4 * room * before).isqrt());
        u64::try_from(all).unwrap_or(u64::MAX)
    }
}
