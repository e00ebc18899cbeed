//! Kinds from outside, as the engine calls them: through tables of functions.

use crate::store::pages::{BuildSession, Session, TurnSession};
use esker_base::{CommitNo, PageId};
use esker_index::fold::Fold;
use esker_index::kind::{
    Ahead, CheckStep, Checker, Cursor, Direction, GroupWrites, Handle, Kind, Lead, Look,
    PreparedGroup, PreparedRange, PreparedWrite, Progress, Value, Work,
};
use esker_index::pages::{ChildWord, Step, View};
use std::fmt;
use std::ops::Range;

/// A kind from outside, as the engine calls it: [`Kind`] with the pages given, so that it can be called
/// through a table of functions.
pub(crate) trait Erased: fmt::Debug + Send + Sync {
    fn is_ordered(&self) -> bool;
    fn rank(&self, key: &[u8]) -> u64;
    fn check_page(&self, level: u8, words: usize, body: &[u8]) -> Result<(), String>;
    fn fold(&self, level: u8) -> Option<Fold>;
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
    fn leads(
        &self,
        level: u8,
        words: &[ChildWord],
        body: &[u8],
        lead: Lead,
        visit: &mut dyn FnMut(PageId, Lead),
    );
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
    fn work_bytes(&self) -> u64;
    fn limit_work(&self, bytes: u64) -> bool;
    fn job_bytes(&self) -> u64;
    fn progress(&self) -> Progress;
    fn work(&self, pages: &BuildSession<'_>, root: &ChildWord, rest: bool) -> Step<Work>;
    fn upcoming_work(&self, pages: &BuildSession<'_>, out: &mut Vec<PageId>) -> Step<()>;
    fn finish_work(
        &self,
        pages: &TurnSession<'_>,
        root: &ChildWord,
        replaced: &mut dyn FnMut(Handle),
    ) -> Step<i64>;
    fn want_merged(&self, low: &[u8], high: Option<&[u8]>) -> u64;
    fn is_merged(&self, wish: u64) -> bool;
    fn abandon_work(&self);
}

/// A prepared range delete, as a call.
pub(crate) type ApplyRange<'a> = dyn FnOnce(&mut dyn FnMut(Handle)) -> i64 + 'a;

/// Of outside the engine: a kind, a cursor or a checker, to be called through a table of functions.
#[derive(Debug)]
pub(crate) struct Outside<T>(pub(crate) T);

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
    fn fold(&self, level: u8) -> Option<Fold> {
        self.0.fold(level)
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
    fn leads(
        &self,
        level: u8,
        words: &[ChildWord],
        body: &[u8],
        lead: Lead,
        visit: &mut dyn FnMut(PageId, Lead),
    ) {
        self.0.leads(level, words, body, lead, visit);
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
    fn work_bytes(&self) -> u64 {
        self.0.work_bytes()
    }
    fn limit_work(&self, bytes: u64) -> bool {
        self.0.limit_work(bytes)
    }
    fn job_bytes(&self) -> u64 {
        self.0.job_bytes()
    }
    fn progress(&self) -> Progress {
        self.0.progress()
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
    fn want_merged(&self, low: &[u8], high: Option<&[u8]>) -> u64 {
        self.0.want_merged(low, high)
    }
    fn is_merged(&self, wish: u64) -> bool {
        self.0.is_merged(wish)
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
    fn further(
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
    fn further(
        &mut self,
        pages: &Session<'_>,
        root: &ChildWord,
        view: View,
        out: &mut Vec<PageId>,
    ) -> Step<()> {
        self.0.further(pages, root, view, out)
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
    fn place(&self) -> Option<(&[u8], Option<&[u8]>)>;
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
    fn place(&self) -> Option<(&[u8], Option<&[u8]>)> {
        self.0.place()
    }
}
