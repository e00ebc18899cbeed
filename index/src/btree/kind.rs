//! The B-tree as a [`Kind`].

use super::{Check, Group, Prepared, RangePlan, TreeCursor};
use crate::fold::Fold;
use crate::kind::{Direction, GroupWrites, Handle, Kind, Look, Value};
use crate::pages::{ChildWord, Pages, Step, TurnPages, View};
use esker_base::{CommitNo, PageId};
use std::ops::Range;

/// Ordered; reads and writes touch one leaf.
#[derive(Clone, Copy, Debug, Default)]
pub struct BTree;

impl Kind for BTree {
    fn check_page(&self, level: u8, words: usize, body: &[u8]) -> Result<(), String> {
        match level {
            0 if words != 0 => Err(format!("a leaf with {words} children")),
            0 => super::check_leaf(body, false),
            _ => super::check_branch(words, body),
        }
    }
    fn fold(&self, level: u8) -> Option<Fold> {
        (level == 0).then_some(Fold::Leaf)
    }
    fn hole(&self, _level: u8, body: &[u8]) -> Range<usize> {
        super::branch_hole(body)
    }
    fn handles(&self, level: u8, body: &[u8], visit: &mut dyn FnMut(Handle)) {
        if level == 0 {
            super::overflow_handles(body, visit);
        }
    }

    fn create<P: TurnPages>(&self, pages: &P) -> Step<PageId> {
        super::create(pages)
    }

    #[inline]
    fn get<P: Pages, T>(
        &self,
        pages: &P,
        root: &ChildWord,
        view: View,
        key: &[u8],
        f: impl FnOnce(Option<Value<'_>>, CommitNo) -> T,
    ) -> Step<T> {
        super::get(pages, root, view, key, f)
    }
    #[inline]
    fn warm<P: Pages>(&self, pages: &P, root: &ChildWord, key: &[u8], _look: Look) -> Step<()> {
        super::warm(pages, root, key)
    }
    fn page_of<P: Pages>(
        &self,
        pages: &P,
        root: &ChildWord,
        view: View,
        key: &[u8],
        _look: Look,
    ) -> Step<Option<PageId>> {
        super::leaf_of(pages, root, view, key).map(Some)
    }

    type Prepared<'a, P: TurnPages + 'a> = Prepared<'a, P>;
    #[inline]
    fn prepare<'a, P: TurnPages>(
        &'a self,
        pages: &'a P,
        root: &'a ChildWord,
        key: &'a [u8],
        new: Option<&Value<'_>>,
        _look: Look,
    ) -> Step<Prepared<'a, P>> {
        super::prepare(pages, root, key, new)
    }

    type Group<'a, P: TurnPages + 'a> = Group<'a, P>;
    fn prepare_group<'a, P: TurnPages>(
        &'a self,
        pages: &'a P,
        root: &'a ChildWord,
        writes: &dyn GroupWrites,
    ) -> Step<Group<'a, P>> {
        super::prepare_group(pages, root, writes)
    }

    type Range<'a, P: TurnPages + 'a> = RangePlan<'a, P>;
    fn prepare_delete_range<'a, P: TurnPages>(
        &'a self,
        pages: &'a P,
        root: &'a ChildWord,
        low: &'a [u8],
        high: Option<&'a [u8]>,
    ) -> Step<RangePlan<'a, P>> {
        super::prepare_delete_range(pages, root, low, high)
    }

    fn tidy<P: TurnPages>(&self, pages: &P, root: &ChildWord, key: &[u8]) -> Step<bool> {
        super::merge_at(pages, root, key)
    }

    type Cursor = TreeCursor;
    fn cursor(&self, low: &[u8], high: Option<&[u8]>, direction: Direction) -> TreeCursor {
        TreeCursor::new(low, high, direction)
    }

    fn estimate_rows<P: Pages>(
        &self,
        pages: &P,
        root: &ChildWord,
        view: View,
        low: &[u8],
        high: Option<&[u8]>,
        _total: u64,
    ) -> Step<u64> {
        super::estimate_rows(pages, root, view, low, high)
    }

    type Check = Check;
    fn check(&self, root: PageId) -> Check {
        Check::new(root, false)
    }
}
