//! The kinds of index as the engine uses them: one value per table, whatever its kind, and what the store must
//! know of pages.
//!
//! The kinds that Esker has are called directly; those registered by name go through a table of
//! functions ([`Erased`]).

use crate::catalog::Index;
use crate::options::Options;
use crate::store::pages::{BuildSession, Session, TurnSession};
use crate::store::{OverflowRange, PageLogic};
use crate::value;
use esker_base::sync::{Arc, RwLock};
use esker_base::{CommitNo, DatabaseId, PageId, TableId};
use esker_index::btree::{self, BTree};
use esker_index::fractal::{self, Fractal, FractalConfig};
use esker_index::hash::{self, Hash};
use esker_index::kind::{
    Ahead, CheckStep, Checker, Cursor, Direction, Existing, GroupWrites, Handle, Kind, Look,
    PreparedGroup, PreparedRange, PreparedWrite, Value, Work,
};
use esker_index::pages::{ChildWord, Step, View};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// The index of one table.
#[derive(Debug)]
pub(crate) enum AnyKind {
    BTree(BTree),
    Hash(Hash),
    Fractal(Fractal),
    Custom(Box<dyn Erased>),
    /// A kind of this name was not registered at open: the table cannot be used.
    Unregistered,
}

/// Kinds registered at open, by name.
#[derive(Clone, Default)]
pub(crate) struct Kinds {
    by_name: BTreeMap<&'static str, Arc<MakeKind>>,
}

/// Makes the index of one table.
type MakeKind = dyn Fn() -> Box<dyn Erased> + Send + Sync;

impl Kinds {
    /// True if a kind of this name was registered.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }
    pub(crate) fn insert<K: Kind>(
        &mut self,
        name: &'static str,
        make: impl Fn() -> K + Send + Sync + 'static,
    ) {
        self.by_name.insert(name, Arc::new(move || Box::new(Outside(make()))));
    }
}

impl fmt::Debug for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_name.keys()).finish()
    }
}

/// A kind from outside, as the engine calls it: [`Kind`] with the pages given, so that it can be called
/// through a table of functions.
pub(crate) trait Erased: fmt::Debug + Send + Sync {
    fn is_ordered(&self) -> bool;
    fn rank(&self, key: &[u8]) -> u64;
    fn check_page(&self, level: u8, words: usize, body: &[u8]) -> Result<(), String>;
    fn hole(&self, level: u8, body: &[u8]) -> Range<usize>;
    fn handles(&self, level: u8, body: &[u8], visit: &mut dyn FnMut(Handle));
    fn create(&self, pages: &TurnSession<'_>) -> Step<PageId>;
    fn get(
        &self,
        pages: &Session<'_>,
        root: &ChildWord,
        view: View,
        key: &[u8],
        f: &mut dyn FnMut(Option<Value<'_>>, CommitNo),
    ) -> Step<()>;
    fn warm(&self, pages: &Session<'_>, root: &ChildWord, key: &[u8], look: Look) -> Step<()>;
    fn page_of(
        &self,
        pages: &Session<'_>,
        root: &ChildWord,
        view: View,
        key: &[u8],
        look: Look,
    ) -> Step<Option<PageId>>;
    fn prepare<'a>(
        &'a self,
        pages: &'a TurnSession<'_>,
        root: &'a ChildWord,
        key: &'a [u8],
        new: Option<&Value<'_>>,
        look: Look,
    ) -> Step<Box<dyn PreparedWrite + 'a>>;
    fn prepare_group<'a>(
        &'a self,
        pages: &'a TurnSession<'_>,
        root: &'a ChildWord,
        writes: &dyn GroupWrites,
    ) -> Step<Box<dyn PreparedGroup + 'a>>;
    fn prepare_delete_range<'a>(
        &'a self,
        pages: &'a TurnSession<'_>,
        root: &'a ChildWord,
        low: &'a [u8],
        high: Option<&'a [u8]>,
    ) -> Step<Box<ApplyRange<'a>>>;
    fn tidy(&self, pages: &TurnSession<'_>, root: &ChildWord, key: &[u8]) -> Step<bool>;
    fn cursor(
        &self,
        low: &[u8],
        high: Option<&[u8]>,
        direction: Direction,
    ) -> Box<dyn ErasedCursor>;
    fn estimate_rows(
        &self,
        pages: &Session<'_>,
        root: &ChildWord,
        view: View,
        span: (&[u8], Option<&[u8]>),
        total: u64,
    ) -> Step<u64>;
    fn check(&self, root: PageId) -> Box<dyn ErasedChecker>;
    fn debt_bytes(&self) -> u64;
    fn debt_bytes_max(&self) -> u64;
    fn work(&self, pages: &BuildSession<'_>, root: &ChildWord, rest: bool) -> Step<Work>;
    fn upcoming_work(&self, pages: &BuildSession<'_>, out: &mut Vec<PageId>) -> Step<()>;
    fn finish_work(
        &self,
        pages: &TurnSession<'_>,
        root: &ChildWord,
        replaced: &mut dyn FnMut(Handle),
    ) -> Step<i64>;
    fn abandon_work(&self);
}

/// A prepared range delete, as a call.
type ApplyRange<'a> = dyn FnOnce(&mut dyn FnMut(Handle)) -> i64 + 'a;

/// Of outside the engine: a kind, a cursor or a checker, to be called through a table of functions.
#[derive(Debug)]
struct Outside<T>(T);

impl<K: Kind> Erased for Outside<K> {
    fn is_ordered(&self) -> bool {
        self.0.is_ordered()
    }
    fn rank(&self, key: &[u8]) -> u64 {
        self.0.rank(key)
    }
    fn check_page(&self, level: u8, words: usize, body: &[u8]) -> Result<(), String> {
        self.0.check_page(level, words, body)
    }
    fn hole(&self, level: u8, body: &[u8]) -> Range<usize> {
        self.0.hole(level, body)
    }
    fn handles(&self, level: u8, body: &[u8], visit: &mut dyn FnMut(Handle)) {
        self.0.handles(level, body, visit);
    }
    fn create(&self, pages: &TurnSession<'_>) -> Step<PageId> {
        self.0.create(pages)
    }
    fn get(
        &self,
        pages: &Session<'_>,
        root: &ChildWord,
        view: View,
        key: &[u8],
        f: &mut dyn FnMut(Option<Value<'_>>, CommitNo),
    ) -> Step<()> {
        self.0.get(pages, root, view, key, f)
    }
    fn warm(&self, pages: &Session<'_>, root: &ChildWord, key: &[u8], look: Look) -> Step<()> {
        self.0.warm(pages, root, key, look)
    }
    fn page_of(
        &self,
        pages: &Session<'_>,
        root: &ChildWord,
        view: View,
        key: &[u8],
        look: Look,
    ) -> Step<Option<PageId>> {
        self.0.page_of(pages, root, view, key, look)
    }
    fn prepare<'a>(
        &'a self,
        pages: &'a TurnSession<'_>,
        root: &'a ChildWord,
        key: &'a [u8],
        new: Option<&Value<'_>>,
        look: Look,
    ) -> Step<Box<dyn PreparedWrite + 'a>> {
        Ok(Box::new(self.0.prepare(pages, root, key, new, look)?))
    }
    fn prepare_group<'a>(
        &'a self,
        pages: &'a TurnSession<'_>,
        root: &'a ChildWord,
        writes: &dyn GroupWrites,
    ) -> Step<Box<dyn PreparedGroup + 'a>> {
        Ok(Box::new(self.0.prepare_group(pages, root, writes)?))
    }
    fn prepare_delete_range<'a>(
        &'a self,
        pages: &'a TurnSession<'_>,
        root: &'a ChildWord,
        low: &'a [u8],
        high: Option<&'a [u8]>,
    ) -> Step<Box<ApplyRange<'a>>> {
        let plan = self.0.prepare_delete_range(pages, root, low, high)?;
        Ok(Box::new(move |replaced| plan.apply(replaced)))
    }
    fn tidy(&self, pages: &TurnSession<'_>, root: &ChildWord, key: &[u8]) -> Step<bool> {
        self.0.tidy(pages, root, key)
    }
    fn cursor(
        &self,
        low: &[u8],
        high: Option<&[u8]>,
        direction: Direction,
    ) -> Box<dyn ErasedCursor> {
        Box::new(Outside(self.0.cursor(low, high, direction)))
    }
    fn estimate_rows(
        &self,
        pages: &Session<'_>,
        root: &ChildWord,
        view: View,
        (low, high): (&[u8], Option<&[u8]>),
        total: u64,
    ) -> Step<u64> {
        self.0.estimate_rows(pages, root, view, low, high, total)
    }
    fn check(&self, root: PageId) -> Box<dyn ErasedChecker> {
        Box::new(Outside(self.0.check(root)))
    }
    fn debt_bytes(&self) -> u64 {
        self.0.debt_bytes()
    }
    fn debt_bytes_max(&self) -> u64 {
        self.0.debt_bytes_max()
    }
    fn work(&self, pages: &BuildSession<'_>, root: &ChildWord, rest: bool) -> Step<Work> {
        self.0.work(pages, root, rest)
    }
    fn upcoming_work(&self, pages: &BuildSession<'_>, out: &mut Vec<PageId>) -> Step<()> {
        self.0.upcoming_work(pages, out)
    }
    fn finish_work(
        &self,
        pages: &TurnSession<'_>,
        root: &ChildWord,
        replaced: &mut dyn FnMut(Handle),
    ) -> Step<i64> {
        self.0.finish_work(pages, root, replaced)
    }
    fn abandon_work(&self) {
        self.0.abandon_work();
    }
}

/// [`Cursor`], with the pages given.
pub(crate) trait ErasedCursor: fmt::Debug + Send {
    fn next_in_memory(&mut self) -> Option<bool>;
    fn next(&mut self, pages: &Session<'_>, root: &ChildWord, view: View) -> Step<bool>;
    fn row(&mut self) -> (&[u8], Value<'_>);
    fn upcoming(
        &mut self,
        pages: &Session<'_>,
        root: &ChildWord,
        view: View,
        out: &mut Vec<PageId>,
    ) -> Step<()>;
    fn ahead(&self) -> Option<Ahead>;
}

impl<C: Cursor> ErasedCursor for Outside<C> {
    fn next_in_memory(&mut self) -> Option<bool> {
        self.0.next_in_memory()
    }
    fn next(&mut self, pages: &Session<'_>, root: &ChildWord, view: View) -> Step<bool> {
        self.0.next(pages, root, view)
    }
    fn row(&mut self) -> (&[u8], Value<'_>) {
        self.0.row()
    }
    fn upcoming(
        &mut self,
        pages: &Session<'_>,
        root: &ChildWord,
        view: View,
        out: &mut Vec<PageId>,
    ) -> Step<()> {
        self.0.upcoming(pages, root, view, out)
    }
    fn ahead(&self) -> Option<Ahead> {
        self.0.ahead()
    }
}

/// [`Checker`], with the pages given.
pub(crate) trait ErasedChecker: fmt::Debug {
    fn step(
        &mut self,
        pages: &Session<'_>,
        root: &ChildWord,
        view: View,
        visit: &mut dyn FnMut(Handle),
    ) -> Step<CheckStep>;
    fn skip(&mut self);
}

impl<C: Checker> ErasedChecker for Outside<C> {
    fn step(
        &mut self,
        pages: &Session<'_>,
        root: &ChildWord,
        view: View,
        visit: &mut dyn FnMut(Handle),
    ) -> Step<CheckStep> {
        self.0.step(pages, root, view, visit)
    }
    fn skip(&mut self) {
        self.0.skip();
    }
}

/// Calls the same on whatever kind it is. The engine lets no call reach a kind that is not registered.
macro_rules! on {
    ($any:expr, $kind:ident => $call:expr) => {
        match $any {
            AnyKind::BTree($kind) => $call,
            AnyKind::Hash($kind) => $call,
            AnyKind::Fractal($kind) => $call,
            AnyKind::Custom($kind) => $call,
            AnyKind::Unregistered => unreachable!("checked when a table is used"),
        }
    };
}

/// Where an index is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KindPlace {
    pub(crate) database: DatabaseId,
    pub(crate) table: TableId,
    pub(crate) page_bytes: usize,
}

impl AnyKind {
    /// The index of a new table, or of one that was opened.
    pub(crate) fn of(kind: Index, options: &Options, place: KindPlace) -> Self {
        let KindPlace { database, table, page_bytes } = place;
        match kind {
            Index::BTree => Self::BTree(BTree),
            // Each table has its own, which nobody can guess: or keys could be made that all collide.
            Index::Hash => {
                Self::Hash(Hash::new(database.0 ^ u64::from(table.0).wrapping_mul(Hash::SEED)))
            }
            Index::Fractal => {
                let memory_bytes = options.memory_bytes / 8 * 7;
                Self::Fractal(Fractal::new(FractalConfig::for_memory(memory_bytes, page_bytes)))
            }
            Index::Custom(name) => match options.kinds.by_name.get(name) {
                Some(make) => Self::Custom(make()),
                None => Self::Unregistered,
            },
        }
    }
    pub(crate) fn is_ordered(&self) -> bool {
        match self {
            Self::BTree(_) | Self::Fractal(_) | Self::Unregistered => true,
            Self::Hash(_) => false,
            Self::Custom(kind) => kind.is_ordered(),
        }
    }
    #[inline]
    pub(crate) fn rank(&self, key: &[u8]) -> u64 {
        on!(self, kind => kind.rank(key))
    }
    pub(crate) fn create(&self, pages: &TurnSession<'_>) -> Step<PageId> {
        on!(self, kind => kind.create(pages))
    }
    #[inline]
    pub(crate) fn get<T>(
        &self,
        pages: &Session<'_>,
        root: &ChildWord,
        view: View,
        key: &[u8],
        f: impl FnOnce(Option<Value<'_>>, CommitNo) -> T,
    ) -> Step<T> {
        match self {
            Self::BTree(kind) => kind.get(pages, root, view, key, f),
            Self::Hash(kind) => kind.get(pages, root, view, key, f),
            Self::Fractal(kind) => kind.get(pages, root, view, key, f),
            Self::Custom(kind) => {
                let (mut f, mut result) = (Some(f), None);
                kind.get(pages, root, view, key, &mut |value, changed_at| {
                    let f = f.take().expect("a get calls once");
                    result = Some(f(value, changed_at));
                })?;
                Ok(result.expect("a get calls once"))
            }
            Self::Unregistered => unreachable!("checked when a table is used"),
        }
    }
    #[inline]
    pub(crate) fn warm(
        &self,
        pages: &Session<'_>,
        root: &ChildWord,
        key: &[u8],
        look: Look,
    ) -> Step<()> {
        on!(self, kind => kind.warm(pages, root, key, look))
    }
    pub(crate) fn page_of(
        &self,
        pages: &Session<'_>,
        root: &ChildWord,
        view: View,
        key: &[u8],
        look: Look,
    ) -> Step<Option<PageId>> {
        on!(self, kind => kind.page_of(pages, root, view, key, look))
    }
    #[inline]
    pub(crate) fn prepare<'a, 's>(
        &'a self,
        pages: &'a TurnSession<'s>,
        root: &'a ChildWord,
        key: &'a [u8],
        new: Option<&Value<'_>>,
        look: Look,
    ) -> Step<AnyPrepared<'a, 's>> {
        Ok(match self {
            Self::BTree(kind) => AnyPrepared::BTree(kind.prepare(pages, root, key, new, look)?),
            Self::Hash(kind) => AnyPrepared::Hash(kind.prepare(pages, root, key, new, look)?),
            Self::Fractal(kind) => AnyPrepared::Fractal(kind.prepare(pages, root, key, new, look)?),
            Self::Custom(kind) => AnyPrepared::Custom(kind.prepare(pages, root, key, new, look)?),
            Self::Unregistered => unreachable!("checked when a table is used"),
        })
    }
    pub(crate) fn prepare_group<'a, 's>(
        &'a self,
        pages: &'a TurnSession<'s>,
        root: &'a ChildWord,
        writes: &dyn GroupWrites,
    ) -> Step<AnyGroup<'a, 's>> {
        Ok(match self {
            Self::BTree(kind) => AnyGroup::BTree(kind.prepare_group(pages, root, writes)?),
            Self::Hash(kind) => AnyGroup::Hash(kind.prepare_group(pages, root, writes)?),
            Self::Fractal(kind) => AnyGroup::Fractal(kind.prepare_group(pages, root, writes)?),
            Self::Custom(kind) => AnyGroup::Custom(kind.prepare_group(pages, root, writes)?),
            Self::Unregistered => unreachable!("checked when a table is used"),
        })
    }
    pub(crate) fn prepare_delete_range<'a>(
        &'a self,
        pages: &'a TurnSession<'_>,
        root: &'a ChildWord,
        low: &'a [u8],
        high: Option<&'a [u8]>,
    ) -> Step<Box<ApplyRange<'a>>> {
        match self {
            Self::BTree(kind) => {
                let plan = kind.prepare_delete_range(pages, root, low, high)?;
                Ok(Box::new(move |replaced| plan.apply(replaced)))
            }
            Self::Hash(kind) => {
                let plan = kind.prepare_delete_range(pages, root, low, high)?;
                Ok(Box::new(move |replaced| plan.apply(replaced)))
            }
            Self::Fractal(kind) => {
                let plan = kind.prepare_delete_range(pages, root, low, high)?;
                Ok(Box::new(move |replaced| plan.apply(replaced)))
            }
            Self::Custom(kind) => kind.prepare_delete_range(pages, root, low, high),
            Self::Unregistered => unreachable!("checked when a table is used"),
        }
    }
    pub(crate) fn tidy(&self, pages: &TurnSession<'_>, root: &ChildWord, key: &[u8]) -> Step<bool> {
        on!(self, kind => kind.tidy(pages, root, key))
    }
    pub(crate) fn cursor(
        &self,
        low: &[u8],
        high: Option<&[u8]>,
        direction: Direction,
    ) -> AnyCursor {
        match self {
            Self::BTree(kind) => AnyCursor::BTree(kind.cursor(low, high, direction)),
            Self::Hash(kind) => AnyCursor::Hash(kind.cursor(low, high, direction)),
            Self::Fractal(kind) => AnyCursor::Fractal(Box::new(kind.cursor(low, high, direction))),
            Self::Custom(kind) => AnyCursor::Custom(kind.cursor(low, high, direction)),
            Self::Unregistered => unreachable!("checked when a table is used"),
        }
    }
    pub(crate) fn estimate_rows(
        &self,
        pages: &Session<'_>,
        root: &ChildWord,
        view: View,
        span: (&[u8], Option<&[u8]>),
        total: u64,
    ) -> Step<u64> {
        let (low, high) = span;
        match self {
            Self::BTree(kind) => kind.estimate_rows(pages, root, view, low, high, total),
            Self::Hash(kind) => kind.estimate_rows(pages, root, view, low, high, total),
            Self::Fractal(kind) => kind.estimate_rows(pages, root, view, low, high, total),
            Self::Custom(kind) => kind.estimate_rows(pages, root, view, span, total),
            Self::Unregistered => unreachable!("checked when a table is used"),
        }
    }
    pub(crate) fn check(&self, root: PageId) -> Box<dyn ErasedChecker> {
        match self {
            Self::BTree(kind) => Box::new(Outside(kind.check(root))),
            Self::Hash(kind) => Box::new(Outside(kind.check(root))),
            Self::Fractal(kind) => Box::new(Outside(kind.check(root))),
            Self::Custom(kind) => kind.check(root),
            Self::Unregistered => unreachable!("checked when a table is used"),
        }
    }
    /// True if there may be background work.
    pub(crate) fn has_work(&self) -> bool {
        matches!(self, Self::Fractal(_) | Self::Custom(_))
    }
    /// Debt and its limit, in bytes; none for kinds without background work.
    pub(crate) fn debt(&self) -> (u64, u64) {
        match self {
            Self::BTree(_) | Self::Hash(_) | Self::Unregistered => (0, u64::MAX),
            Self::Fractal(kind) => (kind.debt_bytes(), kind.debt_bytes_max()),
            Self::Custom(kind) => (kind.debt_bytes(), kind.debt_bytes_max()),
        }
    }
    pub(crate) fn work(
        &self,
        pages: &BuildSession<'_>,
        root: &ChildWord,
        rest: bool,
    ) -> Step<Work> {
        match self {
            Self::BTree(_) | Self::Hash(_) | Self::Unregistered => Ok(Work::None),
            Self::Fractal(kind) => kind.work(pages, root, rest),
            Self::Custom(kind) => kind.work(pages, root, rest),
        }
    }
    pub(crate) fn upcoming_work(
        &self,
        pages: &BuildSession<'_>,
        out: &mut Vec<PageId>,
    ) -> Step<()> {
        on!(self, kind => kind.upcoming_work(pages, out))
    }
    pub(crate) fn finish_work(
        &self,
        pages: &TurnSession<'_>,
        root: &ChildWord,
        replaced: &mut dyn FnMut(Handle),
    ) -> Step<i64> {
        on!(self, kind => kind.finish_work(pages, root, replaced))
    }
    pub(crate) fn abandon_work(&self) {
        on!(self, kind => kind.abandon_work());
    }
}

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
    pub(crate) fn ahead(&self) -> Option<Ahead> {
        on_each!(self, AnyCursor, each => each.ahead())
    }
}

/// What the store must know of the pages of each table.
#[derive(Debug)]
pub(crate) struct Logic {
    content_bytes: usize,
    tables: RwLock<BTreeMap<TableId, Arc<AnyKind>>>,
}

impl Logic {
    pub(crate) fn new(content_bytes: usize) -> Self {
        Self { content_bytes, tables: RwLock::new(BTreeMap::new()) }
    }
    /// From now on, and for good (pages of dropped tables are still met), this table is of this kind.
    pub(crate) fn set(&self, table: TableId, kind: Arc<AnyKind>) {
        self.tables.write().insert(table, kind);
    }
    /// True if the kind of a table is, so that its pages say which others belong to it.
    pub(crate) fn is_known(&self, table: TableId) -> bool {
        self.kind(table).is_some_and(|kind| !matches!(*kind, AnyKind::Unregistered))
    }
    fn kind(&self, table: TableId) -> Option<Arc<AnyKind>> {
        self.tables.read().get(&table).cloned()
    }
}

impl PageLogic for Logic {
    fn check(&self, table: TableId, level: u8, words: usize, body: &[u8]) -> Result<(), String> {
        match self.kind(table).as_deref() {
            None => Err(format!("{table:?} is not in the catalogue")),
            Some(AnyKind::Unregistered) => Err("its kind of index is not registered".to_owned()),
            Some(any) => on!(any, kind => kind.check_page(level, words, body)),
        }
    }
    fn hole(&self, table: TableId, level: u8, body: &[u8]) -> Range<usize> {
        match self.kind(table).as_deref() {
            None | Some(AnyKind::Unregistered) => body.len()..body.len(),
            Some(any) => on!(any, kind => kind.hole(level, body)),
        }
    }
    fn overflow(
        &self,
        table: TableId,
        level: u8,
        body: &[u8],
        visit: &mut dyn FnMut(OverflowRange),
    ) {
        match self.kind(table).as_deref() {
            None | Some(AnyKind::Unregistered) => {}
            Some(any) => on!(any, kind => kind.handles(level, body, &mut |handle| {
                visit(value::Handle::decode(&handle).range(self.content_bytes));
            })),
        }
    }
}
