//! What kinds give back, whichever kind it was.

use super::erased::ErasedCursor;
use crate::store::pages::{Session, TurnSession};
use esker_base::PageId;
use esker_index::kind::{
    Ahead, Cursor, Existing, GroupWrites, Handle, PreparedGroup, PreparedWrite, Value,
};
use esker_index::pages::{ChildWord, Step, View};
use esker_index::{btree, fractal, hash};

/// A prepared write of any kind.
pub(crate) enum AnyPrepared<'a, 's> {
    BTree(btree::Prepared<'a, TurnSession<'s>>),
    Hash(hash::Prepared<'a, TurnSession<'s>>),
    Fractal(fractal::FractalPrepared<'a, TurnSession<'s>>),
    Custom(Box<dyn PreparedWrite + 'a>),
}

macro_rules! on_each {
    ($any:expr, $enum:ident, $each:ident => $call:expr) => {
        match $any {
            $enum::BTree($each) => $call,
            $enum::Hash($each) => $call,
            $enum::Fractal($each) => $call,
            $enum::Custom($each) => $call,
        }
    };
}

impl PreparedWrite for AnyPrepared<'_, '_> {
    #[inline]
    fn existing(&self) -> Existing<'_> {
        on_each!(self, AnyPrepared, each => each.existing())
    }
    #[inline]
    fn replaced(&self) -> Option<Handle> {
        on_each!(self, AnyPrepared, each => each.replaced())
    }
    #[inline]
    fn put(&mut self, value: Value<'_>) -> i64 {
        on_each!(self, AnyPrepared, each => each.put(value))
    }
    fn delete(&mut self) -> i64 {
        on_each!(self, AnyPrepared, each => each.delete())
    }
    fn is_sparse(&self) -> bool {
        on_each!(self, AnyPrepared, each => each.is_sparse())
    }
}

/// Prepared writes of any kind.
pub(crate) enum AnyGroup<'a, 's> {
    BTree(btree::Group<'a, TurnSession<'s>>),
    Hash(hash::Group<'a, TurnSession<'s>>),
    Fractal(fractal::FractalGroup<'a, TurnSession<'s>>),
    Custom(Box<dyn PreparedGroup + 'a>),
}

impl PreparedGroup for AnyGroup<'_, '_> {
    fn len(&self) -> usize {
        on_each!(self, AnyGroup, each => each.len())
    }
    fn apply(&mut self, writes: &dyn GroupWrites, replaced: &mut dyn FnMut(Handle)) -> i64 {
        on_each!(self, AnyGroup, each => each.apply(writes, replaced))
    }
    fn is_sparse(&self) -> bool {
        on_each!(self, AnyGroup, each => each.is_sparse())
    }
}

/// A cursor of any kind.
#[derive(Debug)]
pub(crate) enum AnyCursor {
    BTree(btree::TreeCursor),
    Hash(hash::HashCursor),
    Fractal(Box<fractal::FractalCursor>),
    Custom(Box<dyn ErasedCursor>),
}

impl AnyCursor {
    #[inline]
    pub(crate) fn next_in_memory(&mut self) -> Option<bool> {
        on_each!(self, AnyCursor, each => each.next_in_memory())
    }
    pub(crate) fn next(&mut self, pages: &Session<'_>, root: &ChildWord, view: View) -> Step<bool> {
        on_each!(self, AnyCursor, each => each.next(pages, root, view))
    }
    #[inline]
    pub(crate) fn row(&mut self) -> (&[u8], Value<'_>) {
        on_each!(self, AnyCursor, each => each.row())
    }
    pub(crate) fn upcoming(
        &mut self,
        pages: &Session<'_>,
        root: &ChildWord,
        view: View,
        out: &mut Vec<PageId>,
    ) -> Step<()> {
        on_each!(self, AnyCursor, each => each.upcoming(pages, root, view, out))
    }
    pub(crate) fn further(
        &mut self,
        pages: &Session<'_>,
        root: &ChildWord,
        view: View,
        out: &mut Vec<PageId>,
    ) -> Step<()> {
        on_each!(self, AnyCursor, each => each.further(pages, root, view, out))
    }
    pub(crate) fn ahead(&self) -> Option<Ahead> {
        on_each!(self, AnyCursor, each => each.ahead())
    }
}
