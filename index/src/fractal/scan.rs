//! Scans: one lowest node after the other, the rows of everything above it and of itself merged.
//!
//! Where a range of a newer run covers a lowest node whole, nodes are not looked at up to the range's end: what is older
//! has no rows there. So a queue's first row is found at the same cost however much was deleted before it.

use super::gap::{Gap, GapFinder, Gaps};
use super::node::{Node, NodeParts};
use super::read::{read_below, read_node};
use crate::btree::leaf::Leaf;
use crate::kind::{Ahead, Cursor, Direction, Value};
use crate::pages::{ChildWord, PageRead, Pages, Step, View};
use crate::run::{Merge, MergeConfig, MergeSource, RangeLoader, RangeSet};
use esker_base::PageId;
use esker_base::sync::Arc;

/// Sources whose ranges are being read.
#[derive(Debug, Default)]
struct Opening {
    sources: Vec<MergeSource>,
    /// Source, and word of its ranges.
    pending: Vec<(usize, u64)>,
    loader: RangeLoader,
    set: RangeSet,
    /// The node of each source, by how many were above it, and where it begins and ends.
    nodes: Vec<(usize, Vec<u8>, Option<Vec<u8>>)>,
    memtable: PageId,
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
    /// What was asked for at first, on the side that the scan comes from.
    start: Option<Vec<u8>>,
    finder: GapFinder,
    gaps: Arc<Gaps>,
    /// Memtables that there had been when it began, and the one that it sees.
    freezes: u64,
    memtable: PageId,
}

fn word_of(bits: u64) -> ChildWord {
    ChildWord::new(ChildWord::page_of(bits), ChildWord::hint_of(bits))
}

impl FractalCursor {
    pub(crate) fn new(
        low: &[u8],
        high: Option<&[u8]>,
        direction: Direction,
        gaps: Arc<Gaps>,
    ) -> Self {
        Self {
            start: match direction {
                Direction::Forward => Some(low.to_vec()),
                Direction::Backward => high.map(<[u8]>::to_vec),
            },
            finder: GapFinder::default(),
            freezes: gaps.freezes(),
            gaps,
            memtable: PageId::NONE,
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
            let (low, high) = (opening.low.clone(), opening.high.clone());
            opening.nodes.push((opening.sources.len(), low, high));
            if let Some((tree, ranges)) = parts.memtable {
                opening.memtable = ChildWord::page_of(tree);
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
        let mut opening = self.opening.take().expect("made above");
        opening.leave_out_covered(self.direction, &self.low, self.high.as_deref());
        self.memtable = opening.memtable;
        let Opening { sources, low, high, .. } = opening;
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

impl FractalCursor {
    /// At a row or at the end: tells of the tombstones on the way, if they were many.
    fn note_gap(&mut self, at_row: bool, view: View, content_bytes: usize) {
        let row = match &mut self.merge {
            Some(merge) if at_row => Some(merge.row().0),
            _ => None,
        };
        // Backward, `low` is what was asked for, until the scan is done; forward, `high` is.
        let range = match self.direction {
            Direction::Forward => (self.start.as_deref().unwrap_or_default(), self.high.as_deref()),
            Direction::Backward => (&self.low[..], self.start.as_deref()),
        };
        let gap = self.finder.end(row, range, self.direction, content_bytes);
        if let (Some((low, high)), View::Cut(_)) = (gap, view) {
            let (memtable, freezes) = (self.memtable, self.freezes);
            self.gaps.add(Gap { memtable, freezes, low, high, listed: false });
        }
    }
}

impl Opening {
    /// If ranges of newer sources cover all of the lowest node that is left to be scanned: leaves older ones out, and
    /// goes on to where the ranges end.
    fn leave_out_covered(&mut self, direction: Direction, low: &[u8], high: Option<&[u8]>) {
        // Each step joins one range.
        const STEPS_MAX: usize = 16;
        let forward = direction == Direction::Forward;
        // Where what is covered ends, as seen from where the scan stands; `None`: nowhere.
        let mut end = match direction {
            Direction::Forward => Some(low.max(&self.low).to_vec()),
            Direction::Backward => match (high, &self.high) {
                (Some(a), Some(b)) => Some(a.min(b).to_vec()),
                (a, b) => a.or(b.as_deref()).map(<[u8]>::to_vec),
            },
        };
        let (mut last, mut steps) = (0, 0);
        'steps: while steps < STEPS_MAX {
            steps += 1;
            for (i, source) in self.sources.iter().enumerate() {
                let Some(set) = source.ranges.as_ref() else { continue };
                let node = self.nodes.iter().rfind(|(first, ..)| *first <= i);
                let (_, node_low, node_high) = node.expect("a source is of a node");
                let further = if forward {
                    let Some(from) = &end else { break 'steps };
                    let Some((_, to)) = set.find(from) else { continue };
                    let to = match (to, node_high.as_deref()) {
                        (Some(a), Some(b)) => Some(a.min(b)),
                        (a, b) => a.or(b),
                    };
                    if to.is_some_and(|to| to <= &from[..]) {
                        continue;
                    }
                    to.map(<[u8]>::to_vec)
                } else {
                    let Some((from, _)) = set.find_below(end.as_deref()) else { continue };
                    let from = from.max(&node_low[..]);
                    if end.as_ref().is_some_and(|end| from >= &end[..]) {
                        continue;
                    }
                    Some(from.to_vec())
                };
                end = further;
                last = last.max(i);
                continue 'steps;
            }
            break;
        }
        let covers_node = if forward {
            match (&end, &self.high) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(end), Some(high)) => end >= high,
            }
        } else {
            end.as_ref().is_some_and(|end| *end <= self.low)
        };
        if !covers_node {
            return;
        }
        self.sources.truncate(last + 1);
        if forward {
            self.high = end;
        } else {
            self.low = end.expect("known below");
        }
    }

    fn push(&mut self, tree: u64, ranges: u64, has_large: bool, has_tombstones: bool) {
        if ranges != 0 {
            self.pending.push((self.sources.len(), ranges));
        }
        let (ranges, is_counted) = (None, false);
        self.sources.push(MergeSource { tree, ranges, has_large, has_tombstones, is_counted });
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
                let found = merge.next(pages, view)?;
                let (tombstones, first) =
                    if found { merge.passed_before_row() } else { merge.passed_since_row() };
                self.finder.step_over(tombstones, first);
                if found || self.done {
                    self.note_gap(found, view, pages.content_bytes());
                    return Ok(found);
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

    fn further<P: Pages>(
        &mut self,
        pages: &P,
        _root: &ChildWord,
        view: View,
        out: &mut Vec<PageId>,
    ) -> Step<()> {
        match &mut self.merge {
            Some(merge) => merge.further(pages, view, out),
            None => Ok(()),
        }
    }

    fn ahead(&self) -> Option<Ahead> {
        self.merge.as_ref().and_then(Merge::ahead)
    }
}
