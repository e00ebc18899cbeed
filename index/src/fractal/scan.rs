//! Scans: one lowest node after the other, the rows of everything above it and of itself merged.

use super::node::{Node, NodeParts};
use super::read::{read_below, read_node};
use crate::btree::leaf::Leaf;
use crate::kind::{Ahead, Cursor, Direction, Value};
use crate::pages::{ChildWord, PageRead, Pages, Step, View};
use crate::run::{Merge, MergeConfig, MergeSource, RangeLoader, RangeSet};
use esker_base::PageId;
use std::sync::Arc;

/// Sources whose ranges are being read.
#[derive(Debug, Default)]
struct Opening {
    sources: Vec<MergeSource>,
    /// Source, and word of its ranges.
    pending: Vec<(usize, u64)>,
    loader: RangeLoader,
    set: RangeSet,
    low: Vec<u8>,
    high: Option<Vec<u8>>,
}

/// Rows of a range of a fractal tree.
#[derive(Debug)]
pub struct FractalCursor {
    direction: Direction,
    low: Vec<u8>,
    high: Option<Vec<u8>>,
    opening: Option<Opening>,
    merge: Option<Merge>,
    /// Ranges read so far, by the page of their root: upper runs are sources of many nodes.
    known: Vec<(PageId, Arc<RangeSet>)>,
    done: bool,
}

fn word_of(bits: u64) -> ChildWord {
    ChildWord::new(ChildWord::page_of(bits), ChildWord::hint_of(bits))
}

impl FractalCursor {
    pub(crate) fn new(low: &[u8], high: Option<&[u8]>, direction: Direction) -> Self {
        Self {
            direction,
            low: low.to_vec(),
            high: high.map(<[u8]>::to_vec),
            opening: None,
            merge: None,
            known: Vec::new(),
            done: false,
        }
    }

    /// The sources of the lowest node at which what is left begins, and where that node ends.
    fn sources<P: Pages>(&self, pages: &P, root: &ChildWord, view: View) -> Step<Opening> {
        let mut opening = Opening { low: Vec::new(), high: None, ..Opening::default() };
        let mut page = read_node(pages, root, view)?;
        loop {
            let (words, body) = (page.words(), page.body());
            let parts = NodeParts::of(words, body);
            if let Some((tree, ranges)) = parts.memtable {
                let leaf = pages.read(&word_of(tree), view)?;
                let is_empty = leaf.level() == 0 && Leaf::new(leaf.body()).len() == 0;
                drop(leaf);
                if !is_empty || ranges != 0 {
                    opening.push(tree, ranges, true, true);
                }
            }
            for run in &parts.runs {
                let tombstones = run.frozen || run.run.tombstones > 0;
                opening.push(run.run.tree, run.run.ranges, run.run.has_large, tombstones);
            }
            let node = Node::new(body);
            if node.children() == 0 {
                return Ok(opening);
            }
            let child = match (self.direction, &self.high) {
                (Direction::Forward, _) => node.child_of(&self.low),
                (Direction::Backward, Some(high)) => node.child_below(high),
                (Direction::Backward, None) => node.children() - 1,
            };
            if child > 0 {
                opening.low = node.pivot(child).to_vec();
            }
            if child + 1 < node.children() {
                opening.high = Some(node.pivot(child + 1).to_vec());
            }
            let next = read_below(pages, &words[node.child_word(child)], view, page.level())?;
            page = next;
        }
    }

    /// Opens the next lowest node.
    fn open<P: Pages>(&mut self, pages: &P, root: &ChildWord, view: View) -> Step<()> {
        if self.opening.is_none() {
            self.opening = Some(self.sources(pages, root, view)?);
        }
        let opening = self.opening.as_mut().expect("made above");
        while let Some((source, word)) = opening.pending.last().copied() {
            let page = ChildWord::page_of(word);
            let known = self.known.iter().find(|(other, _)| *other == page);
            let set = if let Some((_, set)) = known {
                Arc::clone(set)
            } else {
                while !opening.loader.step(pages, &word_of(word), view, &mut opening.set)? {}
                opening.loader = RangeLoader::default();
                let set = Arc::new(std::mem::take(&mut opening.set));
                self.known.push((page, Arc::clone(&set)));
                set
            };
            opening.sources[source].ranges = Some(set);
            opening.pending.pop();
        }
        let Opening { sources, low, high, .. } = self.opening.take().expect("made above");
        let from = if low > self.low { &low } else { &self.low };
        let to = match (&high, &self.high) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.as_ref().or(b.as_ref()),
        };
        let config =
            MergeConfig { direction: self.direction, keep_tombstones: false, report_large: false };
        self.merge = Some(Merge::new(sources, from, to.map(|to| &to[..]), config));
        // What is left after it.
        match self.direction {
            Direction::Forward => match high {
                Some(next) if self.high.as_ref().is_none_or(|high| next < *high) => self.low = next,
                _ => self.done = true,
            },
            Direction::Backward => {
                if low > self.low {
                    self.high = Some(low);
                } else {
                    self.done = true;
                }
            }
        }
        Ok(())
    }
}

impl Opening {
    fn push(&mut self, tree: u64, ranges: u64, has_large: bool, has_tombstones: bool) {
        if ranges != 0 {
            self.pending.push((self.sources.len(), ranges));
        }
        self.sources.push(MergeSource { tree, ranges: None, has_large, has_tombstones });
    }
}

impl Cursor for FractalCursor {
    #[inline]
    fn next_in_memory(&mut self) -> Option<bool> {
        match &mut self.merge {
            Some(merge) => match merge.next_in_memory()? {
                true => Some(true),
                false if self.done => Some(false),
                false => None,
            },
            None => None,
        }
    }

    fn next<P: Pages>(&mut self, pages: &P, root: &ChildWord, view: View) -> Step<bool> {
        loop {
            if let Some(merge) = &mut self.merge {
                if merge.next(pages, view)? {
                    return Ok(true);
                }
                if self.done {
                    return Ok(false);
                }
                self.merge = None;
            }
            self.open(pages, root, view)?;
        }
    }

    #[inline]
    fn row(&mut self) -> (&[u8], Value<'_>) {
        self.merge.as_mut().expect("at a row").row()
    }

    fn upcoming<P: Pages>(
        &mut self,
        pages: &P,
        _root: &ChildWord,
        view: View,
        out: &mut Vec<PageId>,
    ) -> Step<()> {
        match (&mut self.merge, &mut self.opening) {
            (Some(merge), _) => merge.upcoming(pages, view, out),
            (None, Some(opening)) => match opening.pending.last() {
                Some((_, word)) => opening.loader.upcoming(pages, &word_of(*word), view, out),
                None => Ok(()),
            },
            (None, None) => Ok(()),
        }
    }

    fn ahead(&self) -> Option<Ahead> {
        self.merge.as_ref().and_then(Merge::ahead)
    }
}
