//! Ranges that callers want merged: what runs above the lowest nodes hold of them goes down, and each of their lowest nodes
//! becomes one run.
//!
//! It is background work like other work, done piece by piece, each of which ends in a turn; what is due because
//! writers wait for it comes first. Wishes are kept in memory only: a crash forgets them, and loses nothing else.

use super::Fractal;
use super::choose::{NodePath, descend, merge_child};
use super::hand_down::has_rows;
use super::node::{NODE_LEVEL, NODE_LEVEL_MAX, NodeRun};
use super::work::{Job, Outcome};
use crate::pages::{ChildWord, Pages, Step};
use esker_base::PageId;
use std::collections::VecDeque;

/// Wishes, first come, first served.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    /// Granted so far, and so the number of the first in the queue.
    granted: u64,
    queue: VecDeque<Wish>,
}

#[derive(Debug)]
struct Wish {
    low: Vec<u8>,
    high: Option<Vec<u8>>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// The memtable becomes a run, if it has anything of the range and is still the one that there was after so many.
    Memtable { freezes: u64 },
    /// These runs of the root go down.
    Root { runs: Vec<PageId> },
    /// Nodes on the way to a key are flushed, those below the given level first, and the lowest one is merged.
    Nodes { next: Vec<u8>, below: u8, tried: bool },
}

impl Wishes {
    fn add(&mut self, low: &[u8], high: Option<&[u8]>, freezes: u64) -> u64 {
        let stage = Stage::Memtable { freezes };
        self.queue.push_back(Wish { low: low.to_vec(), high: high.map(<[u8]>::to_vec), stage });
        self.granted + self.queue.len() as u64 - 1
    }
    fn grant(&mut self) {
        if self.queue.pop_front().is_some() {
            self.granted += 1;
        }
    }
}

impl Fractal {
    pub(crate) fn add_wish(&self, low: &[u8], high: Option<&[u8]>) -> u64 {
        self.wishes.lock().add(low, high, self.gaps.freezes())
    }
    pub(crate) fn is_granted(&self, wish: u64) -> bool {
        wish < self.wishes.lock().granted
    }

    /// What is to be done next for the first wish.
    pub(crate) fn choose_wished<P: Pages>(&self, pages: &P, root: &NodePath) -> Step<Option<Job>> {
        let mut wishes = self.wishes.lock();
        while let Some(wish) = wishes.queue.front_mut() {
            if let Some(job) = self.towards(pages, root, wish)? {
                return Ok(Some(job));
            }
            wishes.grant();
        }
        Ok(None)
    }

    /// The next piece of work for a wish; `None` if all is done.
    fn towards<P: Pages>(&self, pages: &P, root: &NodePath, wish: &mut Wish) -> Step<Option<Job>> {
        let Wish { low, high, stage } = wish;
        loop {
            match stage {
                Stage::Memtable { freezes } => {
                    let is_in_memtable = *freezes == self.gaps.freezes()
                        && match root.parts.memtable {
                            Some((tree, ranges)) => {
                                ranges != 0 || has_rows(pages, tree, low, high.as_deref())?
                            }
                            None => false,
                        };
                    if is_in_memtable {
                        let target = root.page;
                        let outcome = Outcome { target, freeze: true, ..Outcome::default() };
                        return Ok(Some(Job::Finish(Box::new(outcome))));
                    }
                    let runs = root.parts.runs.iter();
                    let runs = runs.map(|run| ChildWord::page_of(run.run.tree)).collect();
                    *stage = Stage::Root { runs };
                }
                Stage::Root { runs } => {
                    for NodeRun { run, .. } in &root.parts.runs {
                        if runs.contains(&ChildWord::page_of(run.tree))
                            && (run.ranges != 0 || has_rows(pages, run.tree, low, high.as_deref())?)
                        {
                            return self.flush(pages, root).map(Some);
                        }
                    }
                    *stage =
                        Stage::Nodes { next: low.clone(), below: NODE_LEVEL_MAX, tried: false };
                }
                Stage::Nodes { next, below, tried } => {
                    let mut path = root.clone();
                    let (lowest, i) = loop {
                        let children = &path.parts.children;
                        if children.is_empty() {
                            return Ok(None);
                        }
                        let begins = |i: usize| children[i].pivot.as_slice() <= next.as_slice();
                        let i = (1..children.len()).take_while(|i| begins(*i)).last().unwrap_or(0);
                        if children[i].level == NODE_LEVEL {
                            break (path, i);
                        }
                        path = descend(pages, &path, i)?;
                        let level = path.parts.level();
                        if level < *below && !path.parts.runs.is_empty() {
                            let job = self.flush(pages, &path)?;
                            // Else something below has to make room first.
                            if matches!(&job, Job::Merge(merge) if merge.target == path.page && merge.only.is_none())
                            {
                                *below = level;
                            }
                            return Ok(Some(job));
                        }
                    };
                    let node = descend(pages, &lowest, i)?;
                    let is_merged = match &node.parts.runs[..] {
                        [] => true,
                        [NodeRun { run, .. }] => run.tombstones == 0 && run.ranges == 0,
                        _ => false,
                    };
                    // Once is enough: a flush may come in between, and the next one, for ever.
                    if !is_merged && !*tried {
                        *tried = true;
                        return Ok(Some(merge_child(&lowest, i)));
                    }
                    match node.high {
                        Some(end) if high.as_ref().is_none_or(|high| end < *high) => {
                            *stage =
                                Stage::Nodes { next: end, below: NODE_LEVEL_MAX, tried: false };
                        }
                        _ => return Ok(None),
                    }
                }
            }
        }
    }
}
