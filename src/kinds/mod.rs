//! The kinds of index as the engine uses them: one value per table, whatever its kind, and what the store must
//! know of pages.
//!
//! The kinds that Esker has are called directly; those registered by name go through a table of
//! functions (`erased`).

mod any;
mod erased;
mod logic;

pub(crate) use any::{AnyCursor, AnyGroup, AnyPrepared};
pub(crate) use logic::Logic;

use crate::catalog::Index;
use crate::options::Options;
use crate::store::pages::{BuildSession, Session, TurnSession};
pub(crate) use erased::ErasedChecker;
use erased::{ApplyRange, Erased, Outside};
use esker_base::sync::Arc;
use esker_base::{CommitNo, DatabaseId, PageId, TableId};
use esker_index::btree::BTree;
use esker_index::fractal::{Fractal, FractalConfig};
use esker_index::hash::Hash;
use esker_index::kind::{
    Direction, GroupWrites, Handle, Kind, Look, PreparedRange, Progress, Value, Work,
};
use esker_index::pages::{ChildWord, Step, View};
use std::collections::BTreeMap;
use std::fmt;

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
use on;

/// Where an index is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KindPlace {
    pub(crate) database: DatabaseId,
    pub(crate) table: TableId,
    pub(crate) page_bytes: usize,
}

impl AnyKind {
    /// The index of a new table, or of one that was opened.
    pub(crate) fn of(kind: Index, options: &Options, logic: &Logic, place: KindPlace) -> Self {
        let KindPlace { database, table, page_bytes } = place;
        match kind {
            Index::BTree => Self::BTree(BTree),
            // Each table has its own, which nobody can guess: or keys could be made that all collide.
            Index::Hash => {
                let seed = database.0 ^ u64::from(table.0).wrapping_mul(Hash::SEED);
                Self::Hash(Hash::with_filters(seed, Arc::clone(&logic.filter_memory)))
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
    #[inline]
    pub(crate) fn ask_ahead(&self, pages: &Session<'_>, key: &[u8]) -> bool {
        match self {
            Self::Hash(kind) => kind.ask_ahead(pages, key),
            // Those that are called through a table of functions are not asked for so little.
            _ => false,
        }
    }
    /// As [`Self::ask_ahead`], in the turn.
    #[inline]
    pub(crate) fn ask_ahead_in_turn(&self, pages: &TurnSession<'_>, key: &[u8]) {
        if let Self::Hash(kind) = self {
            kind.ask_ahead(pages, key);
        }
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
    /// The table was dropped: nobody will read it.
    pub(crate) fn retire(&self) {
        if let Self::Hash(kind) = self {
            kind.retire();
        }
    }
    /// True if there may be background work.
    pub(crate) fn has_work(&self) -> bool {
        match self {
            Self::Fractal(_) | Self::Custom(_) => true,
            Self::Hash(kind) => kind.has_work(),
            Self::BTree(_) | Self::Unregistered => false,
        }
    }
    /// Debt and its limit, in bytes; none for kinds without background work.
    pub(crate) fn debt(&self) -> (u64, u64) {
        match self {
            Self::BTree(_) | Self::Unregistered => (0, u64::MAX),
            Self::Hash(kind) => (kind.debt_bytes(), kind.debt_bytes_max()),
            Self::Fractal(kind) => (kind.debt_bytes(), kind.debt_bytes_max()),
            Self::Custom(kind) => (kind.debt_bytes(), kind.debt_bytes_max()),
        }
    }
    /// Bytes that background work will have written before it gives space back.
    pub(crate) fn work_bytes(&self) -> u64 {
        match self {
            Self::BTree(_) | Self::Unregistered => 0,
            Self::Hash(kind) => kind.work_bytes(),
            Self::Fractal(kind) => kind.work_bytes(),
            Self::Custom(kind) => kind.work_bytes(),
        }
    }
    /// The next piece of work may write so many bytes. False if the kind cannot tell.
    pub(crate) fn limit_work(&self, bytes: u64) -> bool {
        on!(self, kind => kind.limit_work(bytes))
    }
    pub(crate) fn job_bytes(&self) -> u64 {
        on!(self, kind => kind.job_bytes())
    }
    /// How far background work is.
    pub(crate) fn progress(&self) -> Progress {
        match self {
            Self::BTree(_) | Self::Hash(_) | Self::Unregistered => Progress::default(),
            Self::Fractal(kind) => kind.progress(),
            Self::Custom(kind) => kind.progress(),
        }
    }
    pub(crate) fn work(
        &self,
        pages: &BuildSession<'_>,
        root: &ChildWord,
        rest: bool,
    ) -> Step<Work> {
        match self {
            Self::BTree(_) | Self::Unregistered => Ok(Work::None),
            Self::Hash(kind) => kind.work(pages, root, rest),
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
    pub(crate) fn want_merged(&self, low: &[u8], high: Option<&[u8]>) -> u64 {
        on!(self, kind => kind.want_merged(low, high))
    }
    pub(crate) fn is_merged(&self, wish: u64) -> bool {
        on!(self, kind => kind.is_merged(wish))
    }
    pub(crate) fn abandon_work(&self) {
        on!(self, kind => kind.abandon_work());
    }
}
