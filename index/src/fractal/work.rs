//! Background work: filters for runs that were memtables, flushes of full nodes, merges of the lowest ones.
//!
//! Work is done outside the turn, in small steps, from pages that do not change, into pages that nobody sees. Its outcome is
//! one node to be replaced, in a turn; nodes above it get new summaries. Only background work changes anything below
//! the root, and only one piece of it is under way at a time; writers add runs in front of the root's.

use super::Fractal;
use super::filter_job::FilterJob;
use super::merge_job::MergeJob;
use super::node::{Child, LEVEL_UNKNOWN, Node, NodeParts, NodeRun};
use super::read::{read_below, read_node};
use crate::btree::upcoming;
use crate::kind::{Direction, Handle, Work};
use crate::pages::{BuildPages, ChildWord, PageNew, PageRead, Pages, Step, Stop, TurnPages, View};
use crate::run::RunRef;
use esker_base::PageId;
use esker_base::sync::Ordering;

/// Bits of filter a key. Runs above the lowest ones are asked by every get, so theirs are better.
pub(crate) const FILTER_BITS_UPPER: u8 = 16;
pub(crate) const FILTER_BITS_LOWEST: u8 = 10;
/// Rows handled in one step.
pub(crate) const ROWS_AT_ONCE: usize = 4096;
/// Leaves read ahead for a filter.
const LEAVES_AHEAD: usize = 64;

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
    pub(crate) target: PageId,
    pub(crate) key: Vec<u8>,
    /// Pages of the roots of the runs that go.
    pub(crate) gone: Vec<PageId>,
    /// Its children from now on.
    pub(crate) children: Option<Vec<Child>>,
    /// A run of the root that now has a filter.
    pub(crate) filtered: Option<RunRef>,
    /// The memtable becomes a run.
    pub(crate) freeze: bool,
    /// Some more of the gap that a scan has found is closed.
    pub(crate) close_gap: bool,
    pub(crate) freed: Vec<(PageId, u32)>,
    pub(crate) large: Vec<Handle>,
    pub(crate) rows: i64,
}

pub(crate) fn word_of(bits: u64) -> ChildWord {
    ChildWord::new(ChildWord::page_of(bits), ChildWord::hint_of(bits))
}

/// By how many rows a run counts: its tombstones take away rows of older ones.
pub(crate) fn weight(run: &RunRef) -> i64 {
    weight_of(run.rows, run.tombstones)
}
pub(crate) fn weight_of(rows: u64, tombstones: u64) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX) - 2 * i64::try_from(tombstones).unwrap_or(i64::MAX / 2)
}

/// Leaves that a filter is going to need.
fn upcoming_of<P: Pages>(pages: &P, filter: &FilterJob, out: &mut Vec<PageId>) -> Step<()> {
    let Some(next) = &filter.next else { return Ok(()) };
    let (tree, view, forward) = (word_of(filter.run.tree), View::Current, Direction::Forward);
    upcoming(pages, &tree, view, Some(next), 0..LEAVES_AHEAD, forward, out)
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
            self.note_begun();
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
                if done {
                    self.note_ended(merge.progress().1);
                }
                done.then(|| std::mem::take(&mut merge.outcome))
            }
        };
        let Some(outcome) = outcome else {
            self.note_progress(&job, root.page());
            return Ok(Work::More);
        };
        *job = Job::Finish(Box::new(outcome));
        self.note_progress(&job, root.page());
        Ok(Work::Finish)
    }

    /// Pages that the work under way is going to need.
    pub(crate) fn upcoming_pages<P: Pages>(&self, pages: &P, out: &mut Vec<PageId>) -> Step<()> {
        match &mut *self.job.lock() {
            Job::Merge(merge) => match (&mut merge.task, &merge.collecting, &merge.moving) {
                (Some(task), ..) => task.merge.upcoming(pages, View::Current, out),
                (None, Some(collecting), _) => {
                    collecting.upcoming(out);
                    Ok(())
                }
                (None, None, Some(moving)) => {
                    moving.filter().map_or(Ok(()), |filter| upcoming_of(pages, filter, out))
                }
                (None, None, None) => Ok(()),
            },
            Job::Filter(filter) => upcoming_of(pages, filter, out),
            Job::Idle | Job::Finish(_) => Ok(()),
        }
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
        if outcome.close_gap {
            self.close_gap(pages, root)?;
            *job = Job::Idle;
            return Ok(self.take_owed());
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
            let word = &page.words()[node.child_word(child)];
            let next = read_below(pages, word, View::Current, page.level())?;
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
        if let Some((_, root)) = news.last() {
            self.note_root(root);
        }
        Ok(outcome.rows + self.take_owed())
    }

    /// Rows that closed gaps have taken off the count twice.
    pub(crate) fn take_owed(&self) -> i64 {
        if self.rows_owed.load(Ordering::Relaxed) == 0 {
            return 0;
        }
        i64::try_from(self.rows_owed.swap(0, Ordering::Relaxed)).unwrap_or(i64::MAX)
    }
}

const _: () = assert!(LEVEL_UNKNOWN > super::node::NODE_LEVEL_MAX);
