//! Splits: one leaf becomes two, and the branches above learn of it.
//!
//! Everything is created before anything is published, so that a split is whole or has not begun. Then: new pages
//! first, replaced branches from the top down, the leaf last, whose latch is held throughout.

use super::branch::{self, List};
use super::leaf::{self, Leaf};
use super::read::Path;
use super::write::path_to;
use super::pivot_between;
use crate::pages::{ChildWord, PageNew, PageRead, PageWrite, Step, TurnPages};
use esker_base::PageId;

/// Pages of one change, in the making.
pub(crate) struct Pending<'a, P: TurnPages + 'a> {
    created: Vec<P::New<'a>>,
    /// From the leaves up.
    replaced: Vec<P::New<'a>>,
}

impl<'a, P: TurnPages> Pending<'a, P> {
    pub(crate) fn new() -> Self {
        Self { created: Vec::new(), replaced: Vec::new() }
    }
    pub(crate) fn replace(&mut self, new: P::New<'a>) {
        self.replaced.push(new);
    }
    /// Makes everything current, in the order that readers rely on.
    pub(crate) fn publish(self, pages: &'a P) {
        for new in self.created {
            pages.publish(new);
        }
        for new in self.replaced.into_iter().rev() {
            pages.publish(new);
        }
    }
}

/// Splits a latched leaf that is too full for `key`, which belongs at `at`.
pub(crate) fn split_for<'a, P: TurnPages>(
    pages: &'a P,
    root: &ChildWord,
    page: P::Write<'a>,
    key: &[u8],
    at: Result<usize, usize>,
) -> Step<()> {
    let leaf = Leaf::new(page.body());
    let (cut, pivot) = choose_cut(leaf, key, at);
    let path = path_to(pages, root, page.id(), key)?;
    split_leaf(pages, &path, page, cut, &pivot)
}

/// Splits a latched leaf in the middle, so that its rows fit between wider fences. It has two rows or more.
pub(crate) fn split_middle<'a, P: TurnPages>(
    pages: &'a P,
    root: &ChildWord,
    page: P::Write<'a>,
    key: &[u8],
) -> Step<()> {
    let leaf = Leaf::new(page.body());
    let (cut, pivot) = middle(leaf, 1, leaf.len() - 1);
    let path = path_to(pages, root, page.id(), key)?;
    split_leaf(pages, &path, page, cut, &pivot)
}

/// How many rows stay in the left leaf, and the pivot.
fn choose_cut(leaf: Leaf<'_>, key: &[u8], at: Result<usize, usize>) -> (usize, Vec<u8>) {
    let count = leaf.len();
    match at {
        // Others will follow at the same place: leave the left one full.
        Err(i) if i > 0 && leaf.is_ascending(i) => {
            (i, pivot_between(&leaf.key(i - 1), key).to_vec())
        }
        Err(0) if count == 1 => (0, pivot_between(key, &leaf.key(0)).to_vec()),
        Err(i) if count == 1 => (i, pivot_between(&leaf.key(0), key).to_vec()),
        _ => middle(leaf, 1, count - 1),
    }
}

/// The best place for a cut from `from` to `to`: near the middle of the bytes, with a short pivot.
fn middle(leaf: Leaf<'_>, from: usize, to: usize) -> (usize, Vec<u8>) {
    let half = leaf.used_bytes() / 2;
    let mut bytes = 0;
    let mut cut = from;
    for i in 0..to {
        let (key, value) = leaf.row(i);
        bytes += key.len() + value.stored_bytes() + 10;
        cut = i + 1;
        if bytes >= half {
            break;
        }
    }
    let cut = cut.clamp(from, to);
    // Among neighbours of the middle, the shortest pivot: branches then hold more of them.
    let spread = leaf.len() / 16;
    let around = cut.saturating_sub(spread).max(from)..=(cut + spread).min(to);
    let best = around.min_by_key(|&i| {
        let (left, right) = (leaf.row(i - 1).0, leaf.row(i).0);
        (super::common_bytes(left, right), i.abs_diff(cut))
    });
    let cut = best.unwrap_or(cut);
    (cut, pivot_between(&leaf.key(cut - 1), &leaf.key(cut)).to_vec())
}

/// Splits a latched leaf: rows from `cut` on, and keys from `pivot` on, go to a new one. `path` leads to
/// it; `None` if it is the root.
pub(crate) fn split_leaf<'a, P: TurnPages>(
    pages: &'a P,
    path: &Option<Path<'a, P>>,
    mut page: P::Write<'a>,
    cut: usize,
    pivot: &[u8],
) -> Step<()> {
    let leaf = Leaf::new(page.body());
    let (low, high, count) = (leaf.low().to_vec(), leaf.high().map(<[u8]>::to_vec), leaf.len());
    let mut right = pages.create(0, 0)?;
    leaf::build(right.body_mut(), pivot, high.as_deref(), &[(leaf, cut..count)]);
    let Some(path) = path else {
        let mut left = pages.create(0, 0)?;
        leaf::build(left.body_mut(), &low, Some(pivot), &[(leaf, 0..cut)]);
        let mut top = pages.replace(page.id(), 1, 2)?;
        two(&mut top, left.id(), pivot, right.id());
        pages.publish(left);
        pages.publish(right);
        pages.publish(top);
        return Ok(());
    };
    let mut pending = Pending::new();
    grow(pages, path, pivot, right.id(), &mut pending)?;
    pages.publish(right);
    pending.publish(pages);
    leaf::keep_rows(page.body_mut(), 0..cut, &low, Some(pivot));
    Ok(())
}

/// Fills a root with two children.
fn two<N: PageNew>(top: &mut N, left: PageId, pivot: &[u8], right: PageId) {
    let mut list = List::default();
    list.push_child(left);
    list.push_pivot(&[pivot]);
    list.push_child(right);
    list.build(0..2, top.parts_mut());
}

/// Makes the branches of a path with a new child in them, after the one that the path takes.
fn grow<'a, P: TurnPages>(
    pages: &'a P,
    path: &Path<'a, P>,
    pivot: &[u8],
    child: PageId,
    pending: &mut Pending<'a, P>,
) -> Step<()> {
    let content_bytes = pages.content_bytes();
    let (mut pivot, mut child) = (pivot.to_vec(), child);
    for (depth, (node, slot)) in path.nodes.iter().enumerate().rev() {
        let (words, body, level) = (node.words(), node.body(), node.level());
        if branch::can_insert(words.len(), body, &pivot, content_bytes) {
            let mut new = pages.replace(node.id(), level, words.len() + 1)?;
            branch::insert(words, body, *slot, &pivot, child, new.parts_mut());
            pending.replaced.push(new);
            return Ok(());
        }
        let mut list = List::of(words, body);
        list.insert(*slot, &pivot, child);
        let n = list.children();
        if list.bytes(&(0..n)) <= content_bytes {
            let mut new = pages.replace(node.id(), level, n)?;
            list.build(0..n, new.parts_mut());
            pending.replaced.push(new);
            return Ok(());
        }
        let cut = list.split_point(*slot + 2 == n);
        let mut right = pages.create(level, n - cut)?;
        list.build(cut..n, right.parts_mut());
        let up = list.pivot(cut - 1).to_vec();
        if depth == 0 {
            let mut left = pages.create(level, cut)?;
            list.build(0..cut, left.parts_mut());
            let mut top = pages.replace(node.id(), level + 1, 2)?;
            two(&mut top, left.id(), &up, right.id());
            pending.created.extend([left, right]);
            pending.replaced.push(top);
            return Ok(());
        }
        let mut left = pages.replace(node.id(), level, cut)?;
        list.build(0..cut, left.parts_mut());
        (pivot, child) = (up, right.id());
        pending.created.push(right);
        pending.replaced.push(left);
    }
    unreachable!("the root takes it or is split")
}
