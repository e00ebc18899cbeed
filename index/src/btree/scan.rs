//! Scans: one leaf after the other is copied out, and rows are lent out of the copy.

use super::Value;
use super::branch::Route;
use super::leaf::Leaf;
use super::read::{Path, visit};
use crate::pages::{ChildWord, PageRead, Pages, Step, View};
use esker_base::PageId;

/// Which way a scan goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Keys ascend.
    Forward,
    /// Keys descend.
    Backward,
}

/// A copy of a leaf; reused for the next one.
#[derive(Debug, Default)]
pub struct LeafCopy {
    body: Vec<u8>,
    key: Vec<u8>,
    prefix_bytes: usize,
}

impl LeafCopy {
    fn leaf(&self) -> Leaf<'_> {
        Leaf::new(&self.body)
    }
    fn fill(&mut self, body: &[u8]) {
        self.body.clear();
        self.body.extend_from_slice(body);
        let prefix = Leaf::new(body).prefix();
        self.key.clear();
        self.key.extend_from_slice(prefix);
        self.prefix_bytes = prefix.len();
    }
    /// Rows in the copy.
    ///
    /// # Panics
    /// Here and below, if no leaf was copied yet.
    pub fn len(&self) -> usize {
        self.leaf().len()
    }
    /// True if the leaf has no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Where the next leaf begins; `None` if this is the last one.
    pub fn high_fence(&self) -> Option<&[u8]> {
        self.leaf().high()
    }
    /// Where this leaf begins; empty if it is the first one.
    pub fn low_fence(&self) -> &[u8] {
        self.leaf().low()
    }
    /// Rows with keys below `key`.
    pub fn lower_bound(&self, key: &[u8]) -> usize {
        self.leaf().lower_bound(key)
    }
    /// The value of row `i`.
    pub fn value(&self, i: usize) -> Value<'_> {
        self.leaf().row(i).1
    }
    /// Key and value of row `i`. The key is put together in a buffer of the copy.
    #[inline]
    pub fn row(&mut self, i: usize) -> (&[u8], Value<'_>) {
        let (suffix, value) = Leaf::new(&self.body).row(i);
        self.key.truncate(self.prefix_bytes);
        self.key.extend_from_slice(suffix);
        (&self.key, value)
    }
}

fn route(bound: Option<&[u8]>, direction: Direction) -> Route<'_> {
    match (direction, bound) {
        (Direction::Forward, Some(key)) => Route::To(key),
        (Direction::Forward, None) => Route::First,
        (Direction::Backward, Some(key)) => Route::Below(key),
        (Direction::Backward, None) => Route::Last,
    }
}

/// Copies the leaf from which a scan goes on: forward, the one that holds `bound`; backward, that of
/// the largest key below `bound`; without one, the first or the last. False if there is none.
///
/// # Errors
/// As [`super::get`].
pub fn seek_leaf<P: Pages>(
    pages: &P,
    root: &ChildWord,
    view: View,
    bound: Option<&[u8]>,
    direction: Direction,
    copy: &mut LeafCopy,
) -> Step<bool> {
    visit(pages, root, view, route(bound, direction), |leaf| {
        copy.fill(leaf.body());
        true
    })
}

/// Appends the pages of the next leaves of a scan, at most `count`, beginning with that of `bound`: as many as
/// one branch names.
///
/// # Errors
/// As [`super::get`], for branches only.
pub fn upcoming<P: Pages>(
    pages: &P,
    root: &ChildWord,
    view: View,
    bound: Option<&[u8]>,
    count: usize,
    direction: Direction,
    out: &mut Vec<PageId>,
) -> Step<()> {
    let path = Path::down(pages, root, view, route(bound, direction))?;
    if let Some((branch, slot)) = path.nodes.last() {
        let words = branch.words();
        match direction {
            Direction::Forward => {
                out.extend(words[*slot..].iter().take(count).map(ChildWord::page));
            }
            Direction::Backward => {
                out.extend(words[..=*slot].iter().rev().take(count).map(ChildWord::page));
            }
        }
    }
    Ok(())
}
