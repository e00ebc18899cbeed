//! Writes in the commit turn: first everything that may stop, then the change, which cannot.

use super::append;
use super::branch::{Pivots, Route};
use super::leaf::{self, Leaf};
use super::pivot_between;
use super::read::Path;
use super::split::{self, split_for, split_leaf};
use crate::kind::{Existing, GroupWrite, GroupWrites, Handle, PreparedGroup, PreparedWrite, Value};
use crate::pages::{ChildWord, PageNew, PageRead, PageWrite, Step, TurnPages, View};
use esker_base::PageId;
use std::ops::Range;

/// Makes an empty tree and returns its root, which stays the root for good (B4).
///
/// # Errors
/// `Reserve`.
pub fn create<P: TurnPages>(pages: &P) -> Step<PageId> {
    let mut root = pages.create(0, 0)?;
    leaf::init(root.body_mut(), b"", None);
    let id = root.id();
    pages.publish(root);
    Ok(id)
}

/// Latches the leaf of a key.
pub(crate) fn latch_leaf<'a, P: TurnPages>(
    pages: &'a P,
    word: &ChildWord,
    key: &[u8],
) -> Step<P::Write<'a>> {
    let page = pages.read(word, View::Current)?;
    if page.level() == 0 {
        drop(page);
        return pages.write(word);
    }
    let slot = Pivots::new(page.body()).child(Route::To(key));
    let next = &page.words()[slot];
    if page.level() == 1 { pages.write(next) } else { latch_leaf(pages, next, key) }
}

/// A key's leaf, latched, with room for the write it was prepared for. Dropping it changes nothing.
pub struct Prepared<'a, P: TurnPages + 'a> {
    leaf: P::Write<'a>,
    key: &'a [u8],
    at: Result<usize, usize>,
    deleted: bool,
}

impl<P: TurnPages> std::fmt::Debug for Prepared<'_, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("at", &self.at).finish_non_exhaustive()
    }
}

/// Latches a key's leaf and makes room for its new value (`None`: it will be deleted, or only looked
/// at). Splits that this takes stay, whatever becomes of the write.
///
/// # Errors
/// As [`TurnPages::write`] and [`TurnPages::create`].
pub fn prepare<'a, P: TurnPages>(
    pages: &'a P,
    root: &ChildWord,
    key: &'a [u8],
    new: Option<&Value<'_>>,
) -> Step<Prepared<'a, P>> {
    loop {
        let page = latch_leaf(pages, root, key)?;
        let leaf = Leaf::new(page.body());
        let at = leaf.search(key);
        if new.is_none_or(|value| leaf.growth_bytes(at, key, value) <= leaf.free_bytes()) {
            if let Some(value) = new {
                // What it will write: on its way while the log takes its copy.
                page.prefetch(leaf.place_of(at, key, value));
            }
            return Ok(Prepared { leaf: page, key, at, deleted: false });
        }
        split_for(pages, root, page, key, at)?;
    }
}

impl<P: TurnPages> Prepared<'_, P> {
    /// What the leaf has for the key.
    #[inline]
    pub(crate) fn row(&self) -> Option<Value<'_>> {
        self.at.ok().map(|i| Leaf::new(self.leaf.body()).row(i).1)
    }
}

impl<P: TurnPages> PreparedWrite for Prepared<'_, P> {
    #[inline]
    fn existing(&self) -> Existing<'_> {
        self.row().map_or(Existing::Absent, Existing::Present)
    }
    /// Also takes a value that needs no more room than the one prepared for.
    #[inline]
    fn put(&mut self, value: Value<'_>) -> i64 {
        let body = self.leaf.body_mut();
        match self.at {
            Ok(i) => {
                leaf::replace(body, i, self.key, &value);
                0
            }
            Err(i) => {
                leaf::insert(body, i, self.key, &value);
                self.at = Ok(i);
                1
            }
        }
    }
    fn delete(&mut self) -> i64 {
        let Ok(i) = self.at else { return 0 };
        leaf::remove(self.leaf.body_mut(), i);
        self.at = Err(i);
        self.deleted = true;
        -1
    }
    /// Not after every delete: most tries to join leaves would be in vain.
    fn is_sparse(&self) -> bool {
        self.deleted && is_sparse(self.leaf.body())
    }
}

/// Whether to try to merge a leaf after deletes: below a third, and then every eighth time.
fn is_sparse(body: &[u8]) -> bool {
    let leaf = Leaf::new(body);
    leaf.len() == 0 || (leaf.used_bytes() * 3 < body.len() && leaf.len().is_multiple_of(8))
}

/// A leaf, latched, with room for all writes of a group that fall into it.
pub struct Group<'a, P: TurnPages + 'a> {
    leaf: P::Write<'a>,
    len: usize,
    deleted: bool,
}

impl<P: TurnPages> std::fmt::Debug for Group<'_, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("len", &self.len).finish_non_exhaustive()
    }
}

/// Latches the leaf of the first write and makes room in it, by splits if need be, for all writes
/// that fall into it. No later group of the same turn meets this leaf again.
///
/// # Errors
/// As [`prepare`].
///
/// # Panics
/// If there are no writes.
pub fn prepare_group<'a, P: TurnPages>(
    pages: &'a P,
    root: &ChildWord,
    writes: &dyn GroupWrites,
) -> Step<Group<'a, P>> {
    let first = writes.get(0);
    loop {
        let page = latch_leaf(pages, root, first.key)?;
        let leaf = Leaf::new(page.body());
        let fit = Fit::of(leaf, writes, pages.content_bytes() - pages.leaf_bytes());
        if fit.fitting == fit.inside {
            return Ok(Group { leaf: page, len: fit.inside, deleted: false });
        }
        let at = leaf.search(first.key);
        // Writes that go on where the leaf ends are cut where it is full; so are those that
        // would not fit even if they had the leaf for themselves.
        let at_end = at == Err(leaf.len()) || leaf.len() < 2;
        if at_end && fit.fitting > 0 {
            let (last, next) = (writes.get(fit.fitting - 1).key, writes.get(fit.fitting).key);
            let cut = leaf.lower_bound(next);
            let below = cut.checked_sub(1).map(|i| leaf.key(i));
            let below = below.as_deref().filter(|key| *key > last).unwrap_or(last);
            let mut cuts = vec![(cut, pivot_between(below, next).to_vec())];
            if split::fits(leaf, &[&cuts[0]]) {
                if cut == leaf.len() {
                    append::cut_further(
                        (pages.content_bytes(), pages.leaf_bytes()),
                        leaves_at_once(pages.reserve_left()),
                        writes,
                        fit.fitting..fit.inside,
                        &mut cuts,
                    );
                }
                let path = path_to(pages, root, page.id(), first.key)?;
                split_leaf(pages, path.as_ref(), page, &cuts)?;
                continue;
            }
        }
        split_for(pages, root, page, first.key, at)?;
    }
}

/// How many leaves a split makes, of what the turn has set aside for all new pages: what was set aside for this one may be all
/// that there is. A few, however little that is, for the turn to get more.
fn leaves_at_once(reserve_left: usize) -> usize {
    /// For branches on the way, each of which may be split.
    const BRANCHES: usize = 8;
    reserve_left.saturating_sub(BRANCHES).clamp(6, 64)
}

/// The branches above a leaf that is latched, and may be the root.
pub(crate) fn path_to<'a, P: TurnPages>(
    pages: &'a P,
    root: &ChildWord,
    leaf: PageId,
    key: &[u8],
) -> Step<Option<Path<'a, P>>> {
    // Reading the root would wait for its latch, which this turn holds, if it were the leaf.
    if root.page() == leaf {
        return Ok(None);
    }
    Path::down(pages, root, View::Current, Route::To(key)).map(Some)
}

/// How many writes fall into a leaf, and how many of these fit.
struct Fit {
    inside: usize,
    fitting: usize,
}

impl Fit {
    /// `spare_bytes`: what a leaf that is filled in order should leave free.
    fn of(leaf: Leaf<'_>, writes: &dyn GroupWrites, spare_bytes: usize) -> Self {
        let high = leaf.high();
        let mut free = leaf.free_bytes();
        let mut fitting = 0;
        // Where one goes to the end, all that follow do.
        let mut is_at_end = false;
        let count = writes.len();
        while fitting < count {
            let write = writes.get(fitting);
            if high.is_some_and(|high| write.key >= high) {
                return Self { inside: fitting, fitting };
            }
            let growth = write.value.as_ref().map_or(0, |value| {
                if is_at_end {
                    return leaf.need_bytes(write.key, value);
                }
                let at = leaf.search(write.key);
                is_at_end = at == Err(leaf.len());
                if is_at_end && leaf.is_ascending(leaf.len()) {
                    free = free.saturating_sub(spare_bytes);
                }
                leaf.growth_bytes(at, write.key, value)
            });
            let Some(rest) = free.checked_sub(growth) else { break };
            free = rest;
            fitting += 1;
        }
        let inside = high.map_or(count, |high| below(writes, fitting..count, high));
        Self { inside, fitting }
    }
}

/// The first of these writes whose key is not below `high`, found by halving: there may be a hundred thousand that would go to a
/// leaf which must first be split a thousand times.
fn below(writes: &dyn GroupWrites, range: Range<usize>, high: &[u8]) -> usize {
    let (mut from, mut to) = (range.start, range.end);
    while from < to {
        let middle = usize::midpoint(from, to);
        if writes.get(middle).key < high {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    from
}

impl<P: TurnPages> PreparedGroup for Group<'_, P> {
    fn len(&self) -> usize {
        self.len
    }
    fn apply(&mut self, writes: &dyn GroupWrites, replaced: &mut dyn FnMut(Handle)) -> i64 {
        let mut rows = 0;
        for i in 0..self.len {
            let GroupWrite { key, value } = writes.get(i);
            let leaf = Leaf::new(self.leaf.body());
            if i == 0 && self.len > 1 && leaf.search(key) == Err(leaf.len()) {
                return append::append(self.leaf.body_mut(), self.len, &|i| writes.get(i));
            }
            let at = leaf.search(key);
            if let Ok(i) = at
                && let (_, Value::Overflow(handle)) = leaf.row(i)
            {
                replaced(handle);
            }
            match (at, value) {
                (Ok(i), Some(value)) => leaf::replace(self.leaf.body_mut(), i, key, &value),
                (Err(i), Some(value)) => {
                    leaf::insert(self.leaf.body_mut(), i, key, &value);
                    rows += 1;
                }
                (Ok(i), None) => {
                    leaf::remove(self.leaf.body_mut(), i);
                    self.deleted = true;
                    rows -= 1;
                }
                (Err(_), None) => {}
            }
        }
        rows
    }
    fn is_sparse(&self) -> bool {
        self.deleted && is_sparse(self.leaf.body())
    }
}
