//! The page ids of a run, as its branches and filter roots name them: leaves and filter blocks are not read.

use super::{FILTER_LEVEL_MAX, FILTER_ROOT_LEVEL, RunRef};
use crate::btree::LEVELS_MAX;
use crate::pages::{ChildWord, PageRead, Pages, Step, Stop, View};
use esker_base::PageId;

/// Pages read in one step, at most.
const READS_AT_ONCE: usize = 64;

/// A walk over the branches of a run.
#[derive(Debug)]
pub struct PageCollector {
    /// Pages to read: word, and level if that is known.
    todo: Vec<(u64, Option<u8>)>,
    /// First page and count, as they were met and, at the end, in order.
    found: Vec<(PageId, u32)>,
    done: bool,
}

impl PageCollector {
    /// Before the first page of a run.
    pub fn new(run: &RunRef) -> Self {
        let mut collector = Self { todo: Vec::new(), found: Vec::new(), done: false };
        // The root of the ranges says itself what level it has: it is read, even if it is a leaf.
        let others = [run.ranges, run.filter];
        collector.todo.extend(others.iter().filter(|word| **word != 0).map(|word| (*word, None)));
        collector.child(run.tree, run.level);
        collector
    }

    fn add(&mut self, page: PageId) {
        match self.found.last_mut() {
            Some((first, count)) if first.0 + u64::from(*count) == page.0 => *count += 1,
            _ => self.found.push((page, 1)),
        }
    }
    fn child(&mut self, word: u64, level: u8) {
        if matches!(level, 1..=LEVELS_MAX | FILTER_ROOT_LEVEL..=FILTER_LEVEL_MAX) {
            self.todo.push((word, Some(level)));
        } else {
            self.add(ChildWord::page_of(word));
        }
    }

    /// Walks on; true when everything is found.
    ///
    /// # Errors
    /// As [`Pages::read`]; it is then called again.
    pub fn step<P: Pages>(&mut self, pages: &P, view: View) -> Step<bool> {
        for _ in 0..READS_AT_ONCE {
            let Some((word, level)) = self.todo.last().copied() else {
                if !self.done {
                    self.done = true;
                    self.join();
                }
                return Ok(true);
            };
            let word = ChildWord::new(ChildWord::page_of(word), ChildWord::hint_of(word));
            let page = pages.read(&word, view)?;
            if level.is_some_and(|level| level != page.level()) {
                let detail = format!("level {}, its parent expects {level:?}", page.level());
                return Err(Stop::Corrupt { page: page.id(), detail });
            }
            self.todo.pop();
            self.add(page.id());
            let first = self.todo.len();
            for child in page.words() {
                self.child(child.load(), page.level().saturating_sub(1));
            }
            // The first child is walked first: its pages were built first.
            self.todo[first..].reverse();
        }
        Ok(false)
    }

    /// Puts what was found in order and joins neighbours.
    fn join(&mut self) {
        let mut found = std::mem::take(&mut self.found);
        found.sort_unstable();
        for (first, count) in found {
            match self.found.last_mut() {
                Some((before, n)) if before.0 + u64::from(*n) == first.0 => *n += count,
                _ => self.found.push((first, count)),
            }
        }
    }

    /// First page and count of what was found, ascending once the walk is over.
    pub fn ranges(&self) -> &[(PageId, u32)] {
        &self.found
    }

    /// Appends the pages that are read next.
    pub fn upcoming(&self, out: &mut Vec<PageId>) {
        let next = self.todo.iter().rev().take(READS_AT_ONCE);
        out.extend(next.map(|(word, _)| ChildWord::page_of(*word)));
    }
}
