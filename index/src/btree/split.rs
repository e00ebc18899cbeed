//! Splits: one leaf becomes two, and the branches above learn of it.
//!
//! Everything is created before anything is published, so that a split is whole or has not begun. Then: new pages
//! first, replaced branches from the top down, the leaf last, whose latch is held throughout.

use super::branch::{self, List};
use super::leaf::{self, Leaf};
use super::pivot_between;
use super::read::Path;
use super::write::path_to;
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

/// Where a leaf is cut: how many rows lie on the left, and the pivot there.
pub(crate) type Cut = (usize, Vec<u8>);

/// Splits a latched leaf that is too full for `key`, which belongs at `at`.
pub(crate) fn split_for<'a, P: TurnPages>(
    pages: &'a P,
    root: &ChildWord,
    page: P::Write<'a>,
    key: &[u8],
    at: Result<usize, usize>,
) -> Step<()> {
    let cuts = choose_cuts(Leaf::new(page.body()), key, at);
    let path = path_to(pages, root, page.id(), key)?;
    split_leaf(pages, path.as_ref(), page, &cuts)
}

/// Splits a latched leaf in the middle, so that its rows fit between wider fences. It has two rows or more.
pub(crate) fn split_middle<'a, P: TurnPages>(
    pages: &'a P,
    root: &ChildWord,
    page: P::Write<'a>,
    key: &[u8],
) -> Step<()> {
    let cuts = middle_cuts(Leaf::new(page.body()));
    let path = path_to(pages, root, page.id(), key)?;
    split_leaf(pages, path.as_ref(), page, &cuts)
}

fn choose_cuts(leaf: Leaf<'_>, key: &[u8], at: Result<usize, usize>) -> Vec<Cut> {
    let count = leaf.len();
    match at {
        // Others will follow at the same place: leave the left one full.
        Err(i) if i > 0 && leaf.is_ascending(i) => {
            let cut = (i, pivot_between(&leaf.key(i - 1), key).to_vec());
            if fits(leaf, &[&cut]) {
                esker_base::mark::BTREE_CUT_AT_END.hit();
                return vec![cut];
            }
        }
        Err(0) if count == 1 => return vec![(0, pivot_between(key, &leaf.key(0)).to_vec())],
        _ => {}
    }
    match at {
        Err(1) if count == 1 => vec![(1, pivot_between(&leaf.key(0), key).to_vec())],
        _ => middle_cuts(leaf),
    }
}

/// True if all parts of a leaf that is cut so fit their pages: the new fences may be longer than the
/// old ones.
pub(crate) fn fits(leaf: Leaf<'_>, cuts: &[&Cut]) -> bool {
    let page_bytes = leaf.used_bytes() + leaf.free_bytes();
    let (mut from, mut low) = (0, leaf.low());
    for (cut, pivot) in cuts {
        if leaf.bytes_between(from..*cut, low, Some(pivot)) > page_bytes {
            return false;
        }
        (from, low) = (*cut, pivot);
    }
    leaf.bytes_between(from..leaf.len(), low, leaf.high()) <= page_bytes
}

fn cut_at(leaf: Leaf<'_>, cut: usize) -> Cut {
    (cut, pivot_between(&leaf.key(cut - 1), &leaf.key(cut)).to_vec())
}

/// Cuts a leaf of two rows or more near the middle; where long pivots do not allow that, elsewhere,
/// or around the row in the middle, which then has a leaf for itself (B3). One of these fits: with the middle row
/// apart, each side has half of the bytes at most, and one new fence.
fn middle_cuts(leaf: Leaf<'_>) -> Vec<Cut> {
    let last = leaf.len() - 1;
    let cut = middle(leaf, 1, last);
    if fits(leaf, &[&cut]) {
        return vec![cut];
    }
    let middle = cut.0;
    let mut others: Vec<usize> = (1..=last).collect();
    others.sort_unstable_by_key(|other| other.abs_diff(middle));
    for other in others {
        let cut = cut_at(leaf, other);
        if fits(leaf, &[&cut]) {
            return vec![cut];
        }
    }
    esker_base::mark::BTREE_ROW_APART.hit();
    let apart = (1..last).map(|row| [cut_at(leaf, row), cut_at(leaf, row + 1)]);
    let found = apart.into_iter().find(|[before, after]| fits(leaf, &[before, after]));
    found.expect("the row in the middle of the bytes can be put apart").to_vec()
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

/// Splits a latched leaf at one or two places: rows and keys from each cut on go to a new leaf. `path` leads
/// to it; `None` if it is the root.
pub(crate) fn split_leaf<'a, P: TurnPages>(
    pages: &'a P,
    path: Option<&Path<'a, P>>,
    mut page: P::Write<'a>,
    cuts: &[Cut],
) -> Step<()> {
    let leaf = Leaf::new(page.body());
    let low = leaf.low().to_vec();
    let (kept, first_pivot) = &cuts[0];
    let mut made = Vec::with_capacity(cuts.len());
    let mut news = Vec::with_capacity(cuts.len());
    for (i, (cut, pivot)) in cuts.iter().enumerate() {
        let (end, high) = match cuts.get(i + 1) {
            Some((end, high)) => (*end, Some(&high[..])),
            None => (leaf.len(), leaf.high()),
        };
        let mut new = pages.create(0, 0)?;
        leaf::build(new.body_mut(), pivot, high, &[(leaf, *cut..end)]);
        news.push((pivot.clone(), new.id()));
        made.push(new);
    }
    let Some(path) = path else {
        let mut left = pages.create(0, 0)?;
        leaf::build(left.body_mut(), &low, Some(first_pivot), &[(leaf, 0..*kept)]);
        let mut top = pages.replace(page.id(), 1, news.len() + 1)?;
        new_root(&mut top, left.id(), &news);
        pages.publish(left);
        for new in made {
            pages.publish(new);
        }
        pages.publish(top);
        return Ok(());
    };
    let mut pending = Pending::new();
    grow(pages, path, news, &mut pending)?;
    for new in made {
        pages.publish(new);
    }
    pending.publish(pages);
    leaf::keep_rows(page.body_mut(), 0..*kept, &low, Some(first_pivot));
    Ok(())
}

/// Fills a root with the children that it was split into.
fn new_root<N: PageNew>(top: &mut N, left: PageId, rights: &[(Vec<u8>, PageId)]) {
    let mut list = List::default();
    list.push_child(left);
    for (pivot, right) in rights {
        list.push_pivot(&[pivot]);
        list.push_child(*right);
    }
    list.build(0..rights.len() + 1, top.parts_mut());
}

/// Makes the branches of a path with new children in them, after the one that the path takes.
fn grow<'a, P: TurnPages>(
    pages: &'a P,
    path: &Path<'a, P>,
    mut news: Vec<(Vec<u8>, PageId)>,
    pending: &mut Pending<'a, P>,
) -> Step<()> {
    let content_bytes = pages.content_bytes();
    for (depth, (node, slot)) in path.nodes.iter().enumerate().rev() {
        let (words, body, level) = (node.words(), node.body(), node.level());
        if let [(pivot, child)] = &news[..]
            && branch::can_insert(words.len(), body, pivot, content_bytes)
        {
            let mut new = pages.replace(node.id(), level, words.len() + 1)?;
            branch::insert(words, body, *slot, pivot, *child, new.parts_mut());
            pending.replaced.push(new);
            return Ok(());
        }
        let mut list = List::of(words, body);
        for (i, (pivot, child)) in news.iter().enumerate() {
            list.insert(slot + i, pivot, *child);
        }
        let n = list.children();
        if list.bytes(&(0..n)) <= content_bytes {
            let mut new = pages.replace(node.id(), level, n)?;
            list.build(0..n, new.parts_mut());
            pending.replaced.push(new);
            return Ok(());
        }
        let cut = list.split_point(slot + news.len() + 1 == n, content_bytes);
        let mut right = pages.create(level, n - cut)?;
        list.build(cut..n, right.parts_mut());
        let up = (list.pivot(cut - 1).to_vec(), right.id());
        if depth == 0 {
            let mut left = pages.create(level, cut)?;
            list.build(0..cut, left.parts_mut());
            let mut top = pages.replace(node.id(), level + 1, 2)?;
            new_root(&mut top, left.id(), &[up]);
            pending.created.extend([left, right]);
            pending.replaced.push(top);
            return Ok(());
        }
        let mut left = pages.replace(node.id(), level, cut)?;
        list.build(0..cut, left.parts_mut());
        news = vec![up];
        pending.created.push(right);
        pending.replaced.push(left);
    }
    unreachable!("the root takes it or is split")
}
