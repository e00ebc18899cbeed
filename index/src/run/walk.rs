//! Ranges, followed along with keys that go one way.

use super::RangeSet;
use crate::kind::Direction;
use std::sync::Arc;

/// A set of ranges and where the keys are in it. Asking for the next key costs a comparison or two.
#[derive(Clone, Debug)]
pub(crate) struct RangeWalk {
    set: Arc<RangeSet>,
    direction: Direction,
    /// Forward, the first range that ends above the key; backward, how many begin at or below it.
    at: usize,
}

impl RangeWalk {
    pub(crate) fn new(set: Arc<RangeSet>, direction: Direction) -> Self {
        let at = match direction {
            Direction::Forward => 0,
            Direction::Backward => set.len(),
        };
        Self { set, direction, at }
    }

    /// True if a range covers `key`, which is not before those asked for so far.
    #[inline]
    pub(crate) fn covers(&mut self, key: &[u8]) -> bool {
        let ranges = self.set.ranges();
        let ends_above = |high: &Option<Vec<u8>>| high.as_ref().is_none_or(|high| key < &high[..]);
        match self.direction {
            Direction::Forward => {
                let rest = &ranges[self.at..];
                if rest.first().is_some_and(|(_, high)| !ends_above(high)) {
                    self.at += rest.partition_point(|(_, high)| !ends_above(high));
                }
                ranges.get(self.at).is_some_and(|(low, _)| &low[..] <= key)
            }
            Direction::Backward => {
                let rest = &ranges[..self.at];
                if rest.last().is_some_and(|(low, _)| &low[..] > key) {
                    self.at = rest.partition_point(|(low, _)| &low[..] <= key);
                }
                ranges[..self.at].last().is_some_and(|(_, high)| ends_above(high))
            }
        }
    }

    /// The range that covers the last key that was asked for.
    pub(crate) fn range(&self) -> (&[u8], Option<&[u8]>) {
        let at = match self.direction {
            Direction::Forward => self.at,
            Direction::Backward => self.at - 1,
        };
        let (low, high) = &self.set.ranges()[at];
        (low, high.as_deref())
    }
}
