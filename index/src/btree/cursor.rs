//! A cursor over a tree: rows out of a copy of one leaf after the other.

use super::scan::{LeafCopy, seek_leaf, upcoming};
use crate::kind::{Ahead, Cursor, Direction, Value};
use crate::pages::{ChildWord, Pages, Step, View};
use esker_base::PageId;

/// Pages asked for at once by a scan that goes on: two at its second leaf, then twice as many each time,
/// up to this.
const READ_AHEAD_MAX: usize = 32;
/// A scan that has come to this window asks for more before it is missing any: for so many leaves at a time,
const FURTHER: usize = 32;
/// when not more of those asked for than this are left. The device, and who unpacks, work on them meanwhile.
const ASKED_MIN: usize = 96;
/// The same where everything is going to be read: most of it comes in while what came before is worked on.
const EAGER_AHEAD: usize = 64;

/// Rows of a range of a tree; tombstones included.
#[derive(Debug)]
pub struct TreeCursor {
    direction: Direction,
    low: Vec<u8>,
    high: Option<Vec<u8>>,
    copy: LeafCopy,
    /// The row it is at, once `started`.
    at: usize,
    /// Rows of the copy inside the range that are still to come.
    first: usize,
    last: usize,
    started: bool,
    done: bool,
    /// Pages asked for at once the last time.
    window: usize,
    /// Leaves from the next one on that were asked for.
    asked: usize,
}

impl TreeCursor {
    /// Before the first row from `low` up to, not including, `high`, or behind the last one.
    pub fn new(low: &[u8], high: Option<&[u8]>, direction: Direction) -> Self {
        Self {
            direction,
            low: low.to_vec(),
            high: high.map(<[u8]>::to_vec),
            copy: LeafCopy::default(),
            at: 0,
            first: 0,
            last: 0,
            started: false,
            done: false,
            window: 1,
            asked: 0,
        }
    }

    /// Everything is going to be read: asks for as much as it may at once, from the start.
    #[must_use]
    pub fn eager(mut self) -> Self {
        self.window = EAGER_AHEAD;
        self
    }

    /// Goes on, forward, at the first key from `low` on, if that is further on.
    pub fn seek(&mut self, low: &[u8]) {
        debug_assert!(self.direction == Direction::Forward, "only forward");
        if low <= &self.low[..] {
            return;
        }
        low.clone_into(&mut self.low);
        if self.started && !self.done {
            self.first = self.first.max(self.copy.lower_bound(low)).min(self.last);
        }
    }

    /// Where the next leaf begins (or, backward, ends; `None` inside: at the end of the tree); `None` if the range ends
    /// with this one.
    #[expect(clippy::option_option, reason = "no next leaf, and a next leaf without a bound")]
    fn bound(&self) -> Option<Option<Vec<u8>>> {
        match (self.direction, self.started) {
            (Direction::Forward, false) => Some(Some(self.low.clone())),
            (Direction::Backward, false) => Some(self.high.clone()),
            (Direction::Forward, true) => {
                let fence = self.copy.high_fence()?;
                let next = if self.low.as_slice() > fence { &self.low[..] } else { fence };
                let inside = self.high.as_ref().is_none_or(|high| next < &high[..]);
                inside.then(|| Some(next.to_vec()))
            }
            (Direction::Backward, true) => {
                let fence = self.copy.low_fence();
                (fence > &self.low[..]).then(|| Some(fence.to_vec()))
            }
        }
    }

    /// How many of the rows that are still to come from the copy of this leaf come first, of those for which `is_before` is
    /// true: it is so for all that come before one of them.
    pub(crate) fn count_before(&mut self, is_before: impl Fn(&[u8]) -> bool) -> usize {
        let (mut from, mut to) = (0, self.last - self.first);
        while from < to {
            let middle = usize::midpoint(from, to);
            let row = match self.direction {
                Direction::Forward => self.first + middle,
                Direction::Backward => self.last - 1 - middle,
            };
            if is_before(self.copy.row(row).0) {
                from = middle + 1;
            } else {
                to = middle;
            }
        }
        from
    }

    #[inline]
    fn step(&mut self) -> bool {
        if self.first == self.last {
            return false;
        }
        match self.direction {
            Direction::Forward => {
                self.at = self.first;
                self.first += 1;
            }
            Direction::Backward => {
                self.last -= 1;
                self.at = self.last;
            }
        }
        true
    }
}

impl Cursor for TreeCursor {
    #[inline]
    fn next_in_memory(&mut self) -> Option<bool> {
        if self.step() {
            return Some(true);
        }
        self.done.then_some(false)
    }

    fn next<P: Pages>(&mut self, pages: &P, root: &ChildWord, view: View) -> Step<bool> {
        loop {
            if let Some(next) = self.next_in_memory() {
                return Ok(next);
            }
            let Some(bound) = self.bound() else {
                self.done = true;
                continue;
            };
            seek_leaf(pages, root, view, bound.as_deref(), self.direction, &mut self.copy)?;
            self.started = true;
            self.asked = self.asked.saturating_sub(1);
            self.first = self.copy.lower_bound(&self.low);
            let high = self.high.as_ref();
            self.last = high.map_or(self.copy.len(), |high| self.copy.lower_bound(high));
            self.last = self.last.max(self.first);
        }
    }

    #[inline]
    fn row(&mut self) -> (&[u8], Value<'_>) {
        self.copy.row(self.at)
    }

    fn upcoming<P: Pages>(
        &mut self,
        pages: &P,
        root: &ChildWord,
        view: View,
        out: &mut Vec<PageId>,
    ) -> Step<()> {
        let Some(bound) = self.bound() else { return Ok(()) };
        let window = match (self.started, self.window) {
            (_, EAGER_AHEAD) => EAGER_AHEAD,
            (true, window) => (window * 2).min(READ_AHEAD_MAX),
            (false, _) => 1,
        };
        let before = out.len();
        upcoming(pages, root, view, bound.as_deref(), 0..window, self.direction, out)?;
        self.window = window;
        self.asked = out.len() - before;
        Ok(())
    }

    fn further<P: Pages>(
        &mut self,
        pages: &P,
        root: &ChildWord,
        view: View,
        out: &mut Vec<PageId>,
    ) -> Step<()> {
        if self.window < READ_AHEAD_MAX || self.asked > ASKED_MIN {
            return Ok(());
        }
        let Some(bound) = self.bound() else { return Ok(()) };
        let (before, leaves) = (out.len(), self.asked..self.asked + FURTHER);
        upcoming(pages, root, view, bound.as_deref(), leaves, self.direction, out)?;
        self.asked += out.len() - before;
        Ok(())
    }

    fn ahead(&self) -> Option<Ahead> {
        let hint = self.copy.next_hint()?;
        Some(Ahead { hint, rows: self.copy.len(), used_bytes: self.copy.used_bytes() })
    }
}
