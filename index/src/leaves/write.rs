//! Writes that wait to be applied.

use super::LeafFormat;
use crate::kind::{
    Existing, GroupWrite, GroupWrites, Handle, PreparedGroup, PreparedRange, PreparedWrite, Value,
};
use crate::pages::{ChildWord, PageNew, PageRead, PageWrite, Step, TurnPages, View};
use std::fmt;

/// A latched leaf with room for the writes that it was prepared for: a [`PreparedWrite`], or a
/// [`PreparedGroup`].
pub struct LatchedLeaf<'a, P: TurnPages + 'a, F> {
    format: &'a F,
    leaf: P::Write<'a>,
    key: &'a [u8],
    len: usize,
    deleted: bool,
}

impl<'a, P: TurnPages, F: LeafFormat> LatchedLeaf<'a, P, F> {
    /// For a write to `key`, which belongs to this leaf.
    pub fn for_write(format: &'a F, leaf: P::Write<'a>, key: &'a [u8]) -> Self {
        Self { format, leaf, key, len: 1, deleted: false }
    }
    /// For the first `len` writes of a group, which belong to this leaf.
    pub fn for_group(format: &'a F, leaf: P::Write<'a>, len: usize) -> Self {
        Self { format, leaf, key: &[], len, deleted: false }
    }

    fn change(&mut self, key: &[u8], value: Option<&Value<'_>>) -> i64 {
        let body = self.leaf.body_mut();
        let old = self.format.find(body, key).is_some();
        if old || value.is_some() {
            self.format.change(body, key, value);
        }
        self.deleted |= old && value.is_none();
        i64::from(value.is_some()) - i64::from(old)
    }
    fn should_be_tidied(&self) -> bool {
        self.deleted && self.format.is_sparse(self.leaf.body())
    }
}

impl<P: TurnPages, F: LeafFormat> PreparedWrite for LatchedLeaf<'_, P, F> {
    fn existing(&self) -> Existing<'_> {
        let row = self.format.find(self.leaf.body(), self.key);
        row.map_or(Existing::Absent, |row| Existing::Present(row.value))
    }
    fn put(&mut self, value: Value<'_>) -> i64 {
        self.change(self.key, Some(&value))
    }
    fn delete(&mut self) -> i64 {
        self.change(self.key, None)
    }
    fn is_sparse(&self) -> bool {
        self.should_be_tidied()
    }
}

impl<P: TurnPages, F: LeafFormat> PreparedGroup for LatchedLeaf<'_, P, F> {
    fn len(&self) -> usize {
        self.len
    }
    fn apply(&mut self, writes: &dyn GroupWrites, replaced: &mut dyn FnMut(Handle)) -> i64 {
        let mut grown = 0;
        for i in 0..self.len {
            let GroupWrite { key, value } = writes.get(i);
            let old = self.format.find(self.leaf.body(), key);
            old.and_then(|row| row.value.handle()).map(&mut *replaced);
            grown += self.change(key, value.as_ref());
        }
        grown
    }
    fn is_sparse(&self) -> bool {
        self.should_be_tidied()
    }
}

impl<P: TurnPages, F> fmt::Debug for LatchedLeaf<'_, P, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LatchedLeaf").field("leaf", &self.leaf.id()).finish_non_exhaustive()
    }
}

/// A delete of everything that waits to be applied: an empty leaf takes the place of the root.
pub struct DeleteAll<'a, P: TurnPages + 'a, F> {
    format: &'a F,
    pages: &'a P,
    what: What<'a, P>,
}

enum What<'a, P: TurnPages + 'a> {
    /// The root is a leaf.
    Leaf(P::Write<'a>),
    /// It is a branch: the leaf in its place, and what hangs under the branch, of which this is the level at most.
    Trees(P::New<'a>, Vec<u64>, u8),
}

impl<'a, P: TurnPages, F: LeafFormat> DeleteAll<'a, P, F> {
    /// Makes ready to delete everything. Neighbouring words of the root may name one page.
    ///
    /// # Errors
    /// As [`TurnPages::write`] and [`TurnPages::replace`].
    pub fn prepare(format: &'a F, pages: &'a P, root: &ChildWord) -> Step<Self> {
        let top = pages.read(root, View::Current)?;
        if top.level() == 0 {
            drop(top);
            return Ok(Self { format, pages, what: What::Leaf(pages.write(root)?) });
        }
        let mut words: Vec<u64> = top.words().iter().map(ChildWord::load).collect();
        words.dedup_by_key(|word| ChildWord::page_of(*word));
        let mut new = pages.replace(top.id(), 0, 0)?;
        format.clear(new.body_mut());
        Ok(Self { format, pages, what: What::Trees(new, words, top.level() - 1) })
    }
}

impl<P: TurnPages, F: LeafFormat> PreparedRange for DeleteAll<'_, P, F> {
    fn apply(self, replaced: &mut dyn FnMut(Handle)) -> i64 {
        match self.what {
            What::Leaf(mut leaf) => {
                let count = self.format.rows(leaf.body()).count();
                self.format.each_handle(leaf.body(), replaced);
                self.format.clear(leaf.body_mut());
                -i64::try_from(count).expect("rows of a page")
            }
            What::Trees(new, words, level) => {
                self.pages.publish(new);
                for word in words {
                    self.pages.free_tree(word, level);
                }
                // Nobody has counted them; the table is empty in any case.
                -i64::MAX
            }
        }
    }
}

impl<P: TurnPages, F> fmt::Debug for DeleteAll<'_, P, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeleteAll").finish_non_exhaustive()
    }
}
