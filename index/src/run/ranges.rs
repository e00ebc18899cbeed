//! Ranges of keys that are deleted, as boundaries.
//!
//! ```text
//! ranges       [b, f)  [k, ∞)
//! boundaries   b → 1 · f → 0 · k → 1            rows of B-tree leaves; a range without end has no second row
//! ```
//!
//! Ranges are disjoint and not adjacent (R4), so boundaries alternate, and the first one above a key tells whether the
//! key is covered.

use super::{RunBuilder, RunConfig, RunRef};
use crate::btree::TreeCursor;
use crate::btree::branch::Route;
use crate::btree::leaf::{self, Leaf};
use crate::btree::read::visit;
use crate::kind::{Cursor, Direction, Value};
use crate::pages::{BuildPages, ChildWord, PageRead, Pages, Step, View};
use esker_base::{CommitNo, PageId};

const START: &[u8] = &[1];
const END: &[u8] = &[0];

fn is_start(value: &Value<'_>) -> bool {
    *value == Value::Inline(START)
}

/// From the first key up to, not including, the second one; without it, to the end.
pub type KeyRange = (Vec<u8>, Option<Vec<u8>>);

/// True if `key` lies below the end of a range.
fn is_below(key: &[u8], high: Option<&[u8]>) -> bool {
    high.is_none_or(|high| key < high)
}

/// Disjoint ranges, ascending.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    ranges: Vec<KeyRange>,
}

impl RangeSet {
    /// The ranges.
    pub fn ranges(&self) -> &[KeyRange] {
        &self.ranges
    }
    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
    /// How many.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Adds a range, and joins it with those it meets.
    pub fn insert(&mut self, low: &[u8], high: Option<&[u8]>) {
        if !is_below(low, high) {
            return;
        }
        // Those that end before it begins, and those that begin before it ends.
        let from =
            self.ranges.partition_point(|(_, end)| end.as_ref().is_some_and(|end| &end[..] < low));
        let to = high.map_or(self.ranges.len(), |high| {
            self.ranges.partition_point(|(start, _)| &start[..] <= high)
        });
        let met = &self.ranges[from..to.max(from)];
        let mut new = (low.to_vec(), high.map(<[u8]>::to_vec));
        if let (Some((first, _)), Some((_, last))) = (met.first(), met.last()) {
            if *first < new.0 {
                new.0.clone_from(first);
            }
            let reaches = |high: &Vec<u8>| last.as_ref().is_none_or(|last| last > high);
            if new.1.as_ref().is_some_and(reaches) {
                new.1.clone_from(last);
            }
        }
        self.ranges.splice(from..to.max(from), [new]);
    }

    /// The range that `key` lies in.
    pub fn find(&self, key: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
        let before = self.ranges.partition_point(|(low, _)| &low[..] <= key).checked_sub(1)?;
        let (low, high) = &self.ranges[before];
        is_below(key, high.as_deref()).then_some((&low[..], high.as_deref()))
    }
    /// The range that the keys right below `high` lie in; without it, the highest keys.
    pub fn find_below(&self, high: Option<&[u8]>) -> Option<(&[u8], Option<&[u8]>)> {
        let before = match high {
            None => self.ranges.len(),
            Some(high) => self.ranges.partition_point(|(low, _)| &low[..] < high),
        };
        let (low, end) = &self.ranges[before.checked_sub(1)?];
        let reaches = match (end, high) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(end), Some(high)) => &end[..] >= high,
        };
        reaches.then_some((&low[..], end.as_deref()))
    }
    /// True if `key` lies in a range.
    pub fn covers(&self, key: &[u8]) -> bool {
        self.find(key).is_some()
    }

    /// Everything that is in one or the other.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut all: Vec<&KeyRange> = self.ranges.iter().chain(&other.ranges).collect();
        all.sort_unstable();
        let mut union = Self::default();
        for (low, high) in all {
            union.append(low, high.as_deref());
        }
        union
    }
    /// Adds a range that begins at or above the last one's beginning.
    fn append(&mut self, low: &[u8], high: Option<&[u8]>) {
        match self.ranges.last_mut() {
            Some((_, None)) => {}
            Some((_, Some(end))) if &end[..] >= low => match high {
                Some(high) if high <= &end[..] => {}
                _ => self.ranges.last_mut().expect("there is one").1 = high.map(<[u8]>::to_vec),
            },
            _ => self.ranges.push((low.to_vec(), high.map(<[u8]>::to_vec))),
        }
    }

    /// What of it lies from `low` up to, not including, `high`.
    #[must_use]
    pub fn clipped(&self, low: &[u8], high: Option<&[u8]>) -> Self {
        let mut clipped = Self::default();
        for (start, end) in &self.ranges {
            let start = low.max(&start[..]);
            let end = match (end.as_deref(), high) {
                (Some(end), Some(high)) => Some(end.min(high)),
                (end, high) => end.or(high),
            };
            if is_below(start, end) {
                clipped.append(start, end);
            }
        }
        clipped
    }

    /// The boundaries, and whether a range starts there.
    pub fn boundaries(&self) -> impl Iterator<Item = (&[u8], bool)> {
        self.ranges.iter().flat_map(|(low, high)| {
            [Some((&low[..], true)), high.as_ref().map(|high| (&high[..], false))]
                .into_iter()
                .flatten()
        })
    }
    /// Adds a boundary above all others. What does not alternate is damage and is left out.
    pub fn push_boundary(&mut self, key: &[u8], starts: bool) {
        match self.ranges.last_mut() {
            Some((_, high @ None)) if !starts => *high = Some(key.to_vec()),
            Some((_, None)) => {}
            _ if starts => self.ranges.push((key.to_vec(), None)),
            _ => {}
        }
    }
    /// The ranges of a leaf of boundaries.
    pub fn of_leaf(body: &[u8]) -> Self {
        let leaf = Leaf::new(body);
        let mut set = Self::default();
        for i in 0..leaf.len() {
            set.push_boundary(&leaf.key(i), is_start(&leaf.row(i).1));
        }
        set
    }
}

/// Adds a range to a single leaf of boundaries and lays the result out in `new_body`. False if it does not fit; `new_body`
/// is then of no use.
pub fn edit_leaf(body: &[u8], low: &[u8], high: Option<&[u8]>, new_body: &mut [u8]) -> bool {
    let old = Leaf::new(body);
    let count = old.len();
    let starts_at = |i: usize| is_start(&old.row(i).1);
    let make = |new_body: &mut [u8], before: usize, after: usize| {
        let parts = [(old, 0..before), (old, after..count)];
        leaf::build(new_body, old.low(), old.high(), &parts);
    };
    if !is_below(low, high) {
        make(new_body, count, count);
        return true;
    }
    // Boundaries inside the range go, also those that it touches.
    let before = old.lower_bound(low);
    let after = high.map_or(count, |high| match old.search(high) {
        Ok(i) => i + 1,
        Err(i) => i,
    });
    let covered_before = before > 0 && starts_at(before - 1);
    let covered_after = after > 0 && starts_at(after - 1);
    make(new_body, before, after);
    let start = (!covered_before).then_some((low, START));
    let end = high.filter(|_| !covered_after).map(|high| (high, END));
    for (place, (key, value)) in (before..).zip([start, end].into_iter().flatten()) {
        let (leaf, value) = (Leaf::new(new_body), Value::Inline(value));
        if leaf.need_bytes(key, &value) > leaf.free_bytes() {
            return false;
        }
        leaf::insert(new_body, place, key, &value);
    }
    true
}

/// Keys around one that are all covered, or all not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coverage {
    /// The lowest.
    pub low: Vec<u8>,
    /// Where they end; `None` if nowhere.
    pub high: Option<Vec<u8>>,
    /// Whether a range covers them.
    pub covered: bool,
}

/// Whether a tree of boundaries covers `key`, and since which commit its leaf says so.
///
/// # Errors
/// As [`crate::btree::get`].
pub fn coverage<P: Pages>(
    pages: &P,
    root: &ChildWord,
    view: View,
    key: &[u8],
) -> Step<(Coverage, CommitNo)> {
    visit(pages, root, view, Route::To(key), |page| {
        let leaf = Leaf::new(page.body());
        let (above, covered) = state_at(leaf, key);
        let low = above.checked_sub(1).map_or_else(|| leaf.low().to_vec(), |at| leaf.key(at));
        let high = if above < leaf.len() {
            Some(leaf.key(above))
        } else {
            leaf.high().map(<[u8]>::to_vec)
        };
        (Coverage { low, high, covered }, page.changed_at())
    })
}

/// Whether a tree of boundaries covers `key`, and since which commit its leaf says so; without allocating.
///
/// # Errors
/// As [`crate::btree::get`].
pub fn covers<P: Pages>(
    pages: &P,
    root: &ChildWord,
    view: View,
    key: &[u8],
) -> Step<(bool, CommitNo)> {
    visit(pages, root, view, Route::To(key), |page| {
        (state_at(Leaf::new(page.body()), key).1, page.changed_at())
    })
}

/// Which boundary is the first above `key`, which lies between the fences, and whether the key is covered.
fn state_at(leaf: Leaf<'_>, key: &[u8]) -> (usize, bool) {
    let above = leaf.search(key).map_or_else(|at| at, |at| at + 1);
    let covered = match above.checked_sub(1) {
        Some(at) => is_start(&leaf.row(at).1),
        // An empty leaf is a whole tree without ranges.
        None => leaf.len() > 0 && !is_start(&leaf.row(0).1),
    };
    (above, covered)
}

/// Reads a whole tree of boundaries.
#[derive(Debug)]
pub struct RangeLoader {
    cursor: TreeCursor,
}

impl Default for RangeLoader {
    fn default() -> Self {
        Self { cursor: TreeCursor::new(&[], None, Direction::Forward) }
    }
}

impl RangeLoader {
    /// Reads on into `set`, which was empty at first; true when everything is there.
    ///
    /// # Errors
    /// As [`Pages::read`]; it is then called again.
    pub fn step<P: Pages>(
        &mut self,
        pages: &P,
        root: &ChildWord,
        view: View,
        set: &mut RangeSet,
    ) -> Step<bool> {
        const BOUNDARIES_AT_ONCE: usize = 4096;
        for _ in 0..BOUNDARIES_AT_ONCE {
            if !self.cursor.next(pages, root, view)? {
                return Ok(true);
            }
            let (key, value) = self.cursor.row();
            set.push_boundary(key, is_start(&value));
        }
        Ok(false)
    }

    /// Appends the pages that come next.
    ///
    /// # Errors
    /// As [`Cursor::upcoming`].
    pub fn upcoming<P: Pages>(
        &mut self,
        pages: &P,
        root: &ChildWord,
        view: View,
        out: &mut Vec<PageId>,
    ) -> Step<()> {
        self.cursor.upcoming(pages, root, view, out)
    }
}

/// Builds a tree of boundaries.
#[derive(Debug)]
pub struct RangesBuilder {
    builder: RunBuilder,
    /// Boundaries that are in it.
    done: usize,
}

impl RangesBuilder {
    /// An empty tree.
    pub fn new(content_bytes: usize) -> Self {
        let builder = RunBuilder::new(RunConfig { content_bytes, filter_bits: 0 });
        Self { builder, done: 0 }
    }

    /// Builds the tree of `set`, the same one at each call. `None` if it is empty.
    ///
    /// # Errors
    /// As [`BuildPages::build`]; it is then called again.
    pub fn step<P: BuildPages>(&mut self, pages: &P, set: &RangeSet) -> Step<Option<RunRef>> {
        for (key, starts) in set.boundaries().skip(self.done) {
            let value = if starts { START } else { END };
            self.builder.add(pages, key, Value::Inline(value))?;
            self.done += 1;
        }
        self.builder.finish(pages)
    }

    /// Pages built so far.
    pub fn pages_built(&self) -> usize {
        self.builder.pages_built()
    }
}
