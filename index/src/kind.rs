//! What a kind of index is: the trait that the B-tree, the hash, the fractal tree and kinds from outside
//! implement, and that the engine is written against.
//!
//! An index is made once per open table and shared by all threads; what it keeps in memory beside its
//! pages is its own business, and may be lost at any moment: pages are the truth. Every call
//! may stop ([`Stop`]); it is then called again from the start, after what it asked
//! for was done.
//!
//! A new kind begins with little: much of [`Kind`] has a default, and [`leaves`](crate::leaves) has ready-made parts
//! for kinds that keep each row in one leaf.
//!
//! # What the engine promises
//!
//! - Writes come one at a time, in the commit turn ([`TurnPages`]), each first prepared and then, once
//!   nothing can fail any more, applied. Between prepare and apply the turn is not left.
//! - Several writes of one commit are prepared before the first is applied; [`Kind::prepare_group`] of the
//!   rest never meets what a group of the same commit has prepared, since groups take keys in
//!   the order of [`Kind::rank`].
//! - [`Work`] is asked for from one thread at a time.
//!
//! # What an index promises
//!
//! - The root keeps its page id for as long as the table lives, and everything is reached from it.
//! - Readers at a [`View`] see what that view's commits have written, and nothing of a commit that is not
//!   published; the rules of [`pages`](crate::pages) make it so.
//! - A page that its [`Kind::check_page`] has accepted makes none of its code panic.

use crate::fold::Fold;
use crate::pages::{BuildPages, ChildWord, Pages, Step, Stop, TurnPages, View};
use esker_base::codec::head64;
use esker_base::{CommitNo, PageId};
use std::fmt;
use std::ops::Range;

/// Bytes of the handle of a value that lies outside its page.
pub const HANDLE_BYTES: usize = 24;
/// Names a value that lies outside its page; only the engine knows what it means.
pub type Handle = [u8; HANDLE_BYTES];

/// What a page keeps for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// The value itself.
    Inline(&'a [u8]),
    /// Where it is.
    Overflow(Handle),
    /// There is none: what older pages say of this key no longer holds. Only kinds that write blindly
    /// keep such, and they never show them.
    Tombstone,
}

impl Value<'_> {
    /// Bytes that it takes in a page.
    pub fn stored_bytes(&self) -> usize {
        self.stored().len()
    }
    /// These bytes.
    pub fn stored(&self) -> &[u8] {
        match self {
            Self::Inline(value) => value,
            Self::Overflow(handle) => handle,
            Self::Tombstone => &[],
        }
    }
    /// Where it is, if it lies outside its page.
    pub fn handle(&self) -> Option<Handle> {
        match self {
            Self::Overflow(handle) => Some(*handle),
            Self::Inline(_) | Self::Tombstone => None,
        }
    }
}

/// Longest key, for pages with this much content: a quarter of the page, 2 KiB of 8 KiB.
pub fn max_key_bytes(content_bytes: usize) -> usize {
    (content_bytes + 64) / 4
}

/// Longest value that stays in its page, for pages with this much content: 1.9 KiB of 8 KiB.
///
/// What a page has room for beside the longest key and, in a leaf, fences as long on both sides; never less than an eighth, which pages of
/// 1 KiB and less keep to. (The limit was an eighth for all before format version 3: then a value of 1 KiB took a page of its own.)
pub fn max_inline_value_bytes(content_bytes: usize) -> usize {
    /// Headers of a page and of its rows.
    const HEADERS_BYTES: usize = 72;
    let beside = 3 * max_key_bytes(content_bytes) + HEADERS_BYTES;
    content_bytes.saturating_sub(beside).max(content_bytes / 8)
}

/// Which way a scan goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Keys ascend.
    Forward,
    /// Keys descend.
    Backward,
}

/// Whether a write must know what its key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// It overwrites whatever is there: kinds that can then read nothing.
    Blind,
    /// It depends on it.
    Existing,
}

/// What is known of a key before a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing<'a> {
    /// Nobody has looked ([`Look::Blind`]).
    Unknown,
    /// It has no row.
    Absent,
    /// Its row.
    Present(Value<'a>),
}

/// One write of a group.
#[derive(Clone, Copy, Debug)]
pub struct GroupWrite<'w> {
    /// The key.
    pub key: &'w [u8],
    /// What to put; `None` deletes.
    pub value: Option<Value<'w>>,
}

/// Writes to one table, no key twice, in the order of [`Kind::rank`] and key.
pub trait GroupWrites {
    /// How many.
    fn len(&self) -> usize;
    /// True if there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The i-th.
    fn get(&self, i: usize) -> GroupWrite<'_>;
}

impl GroupWrites for [GroupWrite<'_>] {
    fn len(&self) -> usize {
        self.len()
    }
    fn get(&self, i: usize) -> GroupWrite<'_> {
        self[i]
    }
}

impl<const N: usize> GroupWrites for [GroupWrite<'_>; N] {
    fn len(&self) -> usize {
        N
    }
    fn get(&self, i: usize) -> GroupWrite<'_> {
        self[i]
    }
}

/// Writes in which a delete puts a tombstone.
pub(crate) struct BlindWrites<'w>(pub(crate) &'w dyn GroupWrites);

impl GroupWrites for BlindWrites<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn get(&self, i: usize) -> GroupWrite<'_> {
        let GroupWrite { key, value } = self.0.get(i);
        GroupWrite { key, value: Some(value.unwrap_or(Value::Tombstone)) }
    }
}

/// A write that only waits to be applied. Dropping it changes nothing.
pub trait PreparedWrite {
    /// What the key holds now.
    fn existing(&self) -> Existing<'_>;
    /// The large value that no page refers to any more once this write is applied: as a rule what the key holds.
    #[inline]
    fn replaced(&self) -> Option<Handle> {
        match self.existing() {
            Existing::Present(value) => value.handle(),
            Existing::Unknown | Existing::Absent => None,
        }
    }
    /// Puts the value that was prepared for. Returns by how many the rows have grown, as far as that is known.
    fn put(&mut self, value: Value<'_>) -> i64;
    /// Removes the key. Returns as [`Self::put`].
    fn delete(&mut self) -> i64;
    /// True if what was written to should be tidied up ([`Kind::tidy`]).
    fn is_sparse(&self) -> bool {
        false
    }
}

/// Writes to pages that are latched, waiting to be applied. Dropping it changes nothing.
#[expect(clippy::len_without_is_empty, reason = "never empty")]
pub trait PreparedGroup {
    /// How many writes, from the first one on, it holds: one at least.
    fn len(&self) -> usize;
    /// Applies the writes it was prepared for, and calls `replaced` with every handle that nothing refers
    /// to any more. Returns by how many the rows have grown, as far as that is known.
    fn apply(&mut self, writes: &dyn GroupWrites, replaced: &mut dyn FnMut(Handle)) -> i64;
    /// True if what was written to should be tidied up ([`Kind::tidy`]).
    fn is_sparse(&self) -> bool {
        false
    }
}

/// A range delete that only waits to be applied. Dropping it changes nothing.
pub trait PreparedRange {
    /// Carries it out; as [`PreparedGroup::apply`].
    fn apply(self, replaced: &mut dyn FnMut(Handle)) -> i64;
}

/// The rows of a range, one after the other, as of a view that does not change. Owned: no latch is held between
/// calls.
pub trait Cursor: fmt::Debug + Send {
    /// Goes to the next row without looking at pages: `None` if it must look.
    fn next_in_memory(&mut self) -> Option<bool>;
    /// Goes to the next row; false at the end. May stop, and then be called again.
    ///
    /// # Errors
    /// As [`Pages::read`].
    fn next<P: Pages>(&mut self, pages: &P, root: &ChildWord, view: View) -> Step<bool>;
    /// The row it is at. Never a [`Value::Tombstone`].
    fn row(&mut self) -> (&[u8], Value<'_>);
    /// Appends pages that it is going to need and that may not be in memory, the next one first: read together, they
    /// cost little more than one. Called when [`Self::next`] has met a page that is missing.
    ///
    /// # Errors
    /// As [`Pages::read`], for pages above them.
    fn upcoming<P: Pages>(
        &mut self,
        _pages: &P,
        _root: &ChildWord,
        _view: View,
        _out: &mut Vec<PageId>,
    ) -> Step<()> {
        Ok(())
    }
    /// Appends pages that it is going to need later than those of which it has told, if it is time to have them read: others
    /// do that while it goes on. Called when [`Self::next`] has gone to another page.
    ///
    /// # Errors
    /// As [`Pages::read`], for pages above them. A page that is `Missing` is then read meanwhile, too.
    fn further<P: Pages>(
        &mut self,
        _pages: &P,
        _root: &ChildWord,
        _view: View,
        _out: &mut Vec<PageId>,
    ) -> Step<()> {
        Ok(())
    }
    /// Where the page after this one is, if that is known: its lines are then fetched while this one's rows are
    /// looked at.
    fn ahead(&self) -> Option<Ahead> {
        None
    }
}

/// A guess at the next page of a scan.
#[derive(Clone, Copy, Debug)]
pub struct Ahead {
    /// The frame, as its [`ChildWord`] has it.
    pub hint: u32,
    /// Rows in it.
    pub rows: usize,
    /// Bytes used at the front and at the back of its body.
    pub used_bytes: (usize, usize),
}

/// What one step of a check found.
#[derive(Debug, PartialEq, Eq)]
pub enum CheckStep {
    /// The walk is over.
    Done,
    /// A page, and all is well with it.
    Page {
        /// Rows in it.
        rows: usize,
    },
    /// Something is wrong; [`Checker::skip`] goes on behind it.
    Wrong(String),
}

/// A walk over everything that a table consists of, page by page.
pub trait Checker: fmt::Debug {
    /// Checks the next page, and how it hangs together with the others, and calls `visit` with the handles
    /// that it refers to.
    ///
    /// # Errors
    /// As [`Pages::read`].
    fn step<P: Pages>(
        &mut self,
        pages: &P,
        root: &ChildWord,
        view: View,
        visit: &mut dyn FnMut(Handle),
    ) -> Step<CheckStep>;
    /// Goes on behind the page that was last looked at.
    fn skip(&mut self);
    /// The keys that the page last looked at holds, or was to hold: from the first up to, not including, the second
    /// (`None`: to the end). `None` if they are not known, or have no order.
    fn place(&self) -> Option<(&[u8], Option<&[u8]>)> {
        None
    }
}

/// What is below a page, as whoever frees a whole tree must know: only what leads on is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lead {
    /// Neither pages nor large values.
    Nothing,
    /// Pages perhaps, but no large values.
    Pages,
    /// Perhaps both.
    Anything,
}

/// How far background work is, in pages that it reads, about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Read since this start.
    pub done_pages: u64,
    /// To be read before debt falls again; 0 where that is not known.
    pub left_pages: u64,
}

/// How far background work has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// There is nothing to do.
    None,
    /// There is more to do.
    More,
    /// What was built waits for [`Kind::finish_work`], in a turn.
    Finish,
}

/// A kind of index.
///
/// Everything is generic over the pages, so that calls inline; the engine also uses kinds through a
/// table of functions, for those that are registered by name.
pub trait Kind: fmt::Debug + Send + Sync + 'static {
    /// True if [`Kind::cursor`] gives keys in order, from either end, for any range.
    fn is_ordered(&self) -> bool {
        true
    }
    /// The writes of a commit come in the order of this, and of their keys where it is the same: neighbours
    /// should go to the same page.
    fn rank(&self, key: &[u8]) -> u64 {
        head64(key)
    }

    /// Checks a page that came from disk, so that all other code may rely on it.
    ///
    /// # Errors
    /// What is wrong.
    fn check_page(&self, level: u8, words: usize, body: &[u8]) -> Result<(), String>;
    /// How to fold pages of this level, if they are made like leaves of the B-tree or buckets of the hash. They have no children.
    fn fold(&self, _level: u8) -> Option<Fold> {
        None
    }
    /// The part of a body that need not be kept on disk, where it is not folded.
    fn hole(&self, _level: u8, body: &[u8]) -> Range<usize> {
        body.len()..body.len()
    }
    /// Calls `visit` with every handle that a page refers to.
    fn handles(&self, level: u8, body: &[u8], visit: &mut dyn FnMut(Handle));

    /// Calls `visit` with every page that the words of a page name ([`PageId::NONE`] perhaps, or one twice in a row), and with what
    /// is below it. `lead` is what is below this page.
    fn leads(
        &self,
        _level: u8,
        words: &[ChildWord],
        _body: &[u8],
        _lead: Lead,
        visit: &mut dyn FnMut(PageId, Lead),
    ) {
        for word in words {
            visit(word.page(), Lead::Anything);
        }
    }

    /// Makes an empty table and returns its root, which stays the root for good.
    ///
    /// # Errors
    /// `Reserve`.
    fn create<P: TurnPages>(&self, pages: &P) -> Step<PageId>;

    /// Calls `f` with what a key holds (never a tombstone), and with a commit up to which nothing has changed it since.
    ///
    /// # Errors
    /// As [`Pages::read`]; `Moved` if the table changed on the way.
    fn get<P: Pages, T>(
        &self,
        pages: &P,
        root: &ChildWord,
        view: View,
        key: &[u8],
        f: impl FnOnce(Option<Value<'_>>, CommitNo) -> T,
    ) -> Step<T>;
    /// Brings in what a write to `key` will touch.
    ///
    /// # Errors
    /// As [`Kind::get`].
    #[inline]
    fn warm<P: Pages>(&self, pages: &P, root: &ChildWord, key: &[u8], _look: Look) -> Step<()> {
        // The search, too: its lines are then in the processor's cache.
        self.get(pages, root, View::Current, key, |value, _| {
            std::hint::black_box(value.is_some());
        })
    }
    /// Asks for the lines that a write to `key` will touch, if the index can guess without a way down in which frame they
    /// are. False if it never can.
    #[inline]
    fn ask_ahead<P: Pages>(&self, _pages: &P, _key: &[u8]) -> bool {
        false
    }
    /// The page that a get of `key`, or a write to it, is going to need and that may not be in memory, without bringing
    /// it in. The default is what a get is missing first.
    ///
    /// # Errors
    /// As [`Kind::get`], for pages above it.
    fn page_of<P: Pages>(
        &self,
        pages: &P,
        root: &ChildWord,
        view: View,
        key: &[u8],
        _look: Look,
    ) -> Step<Option<PageId>> {
        match self.get(pages, root, view, key, |_, _| ()) {
            Err(Stop::Missing(page)) => Ok(Some(page)),
            looked => looked.map(|()| None),
        }
    }

    /// See [`Kind::prepare`].
    type Prepared<'a, P: TurnPages + 'a>: PreparedWrite;
    /// Latches what a write to `key` changes and makes room for `new` (`None`: it will be deleted, or only looked at).
    ///
    /// # Errors
    /// As [`TurnPages::write`] and [`TurnPages::create`]. What was changed so far has moved no key out of reach.
    fn prepare<'a, P: TurnPages>(
        &'a self,
        pages: &'a P,
        root: &'a ChildWord,
        key: &'a [u8],
        new: Option<&Value<'_>>,
        look: Look,
    ) -> Step<Self::Prepared<'a, P>>;

    /// See [`Kind::prepare_group`].
    type Group<'a, P: TurnPages + 'a>: PreparedGroup;
    /// Latches the page of the first write and makes room in it for all that fall into it.
    ///
    /// # Errors
    /// As [`Kind::prepare`].
    fn prepare_group<'a, P: TurnPages>(
        &'a self,
        pages: &'a P,
        root: &'a ChildWord,
        writes: &dyn GroupWrites,
    ) -> Step<Self::Group<'a, P>>;

    /// See [`Kind::prepare_delete_range`].
    type Range<'a, P: TurnPages + 'a>: PreparedRange;
    /// Makes ready to delete all keys from `low` up to, not including, `high`. A kind without order is only asked
    /// to delete everything.
    ///
    /// # Errors
    /// As [`Kind::prepare`].
    fn prepare_delete_range<'a, P: TurnPages>(
        &'a self,
        pages: &'a P,
        root: &'a ChildWord,
        low: &'a [u8],
        high: Option<&'a [u8]>,
    ) -> Step<Self::Range<'a, P>>;

    /// Joins what a delete has left sparse around `key`. Returns whether anything changed.
    ///
    /// # Errors
    /// As [`Kind::prepare`]; `Missing` only where a read is worth it, such as for the neighbour of an empty leaf.
    fn tidy<P: TurnPages>(&self, _pages: &P, _root: &ChildWord, _key: &[u8]) -> Step<bool> {
        Ok(false)
    }

    /// See [`Kind::cursor`].
    type Cursor: Cursor;
    /// A cursor before the first row from `low` up to, not including, `high`, or behind the last one. A kind
    /// without order is only asked for everything, forward.
    fn cursor(&self, low: &[u8], high: Option<&[u8]>, direction: Direction) -> Self::Cursor;

    /// About how many rows lie in a range; `total` is what the engine has counted in all, and the default. A kind without
    /// order is only asked for everything.
    ///
    /// # Errors
    /// As [`Kind::get`].
    fn estimate_rows<P: Pages>(
        &self,
        _pages: &P,
        _root: &ChildWord,
        _view: View,
        _low: &[u8],
        _high: Option<&[u8]>,
        total: u64,
    ) -> Step<u64> {
        Ok(total)
    }

    /// See [`Kind::check`].
    type Check: Checker;
    /// A walk over the whole table.
    fn check(&self, root: PageId) -> Self::Check;

    /// Bytes of background work that are due, about; writers are slowed down as it grows past `debt_bytes_max`.
    fn debt_bytes(&self) -> u64 {
        0
    }
    /// Debt at which writers wait.
    fn debt_bytes_max(&self) -> u64 {
        u64::MAX
    }
    /// Bytes of pages that background work will have written, about, before it gives space back: on a full disk so much
    /// is kept for it.
    fn work_bytes(&self) -> u64 {
        0
    }
    /// The next piece of work may write about so many bytes before it gives space back; at first any number. Where nothing
    /// that is due fits, there is nothing to do. False if this kind cannot tell how much it will write.
    fn limit_work(&self, _bytes: u64) -> bool {
        false
    }
    /// About how many bytes the piece of work under way writes, all in all, if that was limited when it began; else any number.
    fn job_bytes(&self) -> u64 {
        u64::MAX
    }
    /// How far background work is.
    fn progress(&self) -> Progress {
        Progress::default()
    }
    /// Does some background work, outside the turn: reads pages, and builds new ones that nobody sees. `rest`: nobody is
    /// writing, so that work which only saves space or reading time is welcome too. A bounded step: about as
    /// much as a hundred pages.
    ///
    /// # Errors
    /// As [`Pages::read`] and [`BuildPages::build`]. It is then called again and goes on where it stopped.
    fn work<P: BuildPages>(&self, _pages: &P, _root: &ChildWord, _rest: bool) -> Step<Work> {
        Ok(Work::None)
    }
    /// Appends pages that the work under way is going to need and that may not be in memory: called when [`Kind::work`] has
    /// met one that is missing.
    ///
    /// # Errors
    /// As [`Pages::read`].
    fn upcoming_work<P: Pages>(&self, _pages: &P, _out: &mut Vec<PageId>) -> Step<()> {
        Ok(())
    }
    /// Makes what was built part of the table, in a turn, and calls `replaced` with every handle that nothing refers to any
    /// more; returns by how many the rows have grown.
    ///
    /// # Errors
    /// `Missing`, `Reserve`: it is called again. `Moved`: what was built is of no use; the engine frees its pages.
    fn finish_work<P: TurnPages>(
        &self,
        _pages: &P,
        _root: &ChildWord,
        _replaced: &mut dyn FnMut(Handle),
    ) -> Step<i64> {
        Ok(0)
    }
    /// Asks for a range to be merged: for [`Kind::work`] to do there, before anything that nobody waits for, whatever makes
    /// later reads cheaper. Returns a number for [`Kind::is_merged`]. A kind that has nothing to merge is done at once.
    fn want_merged(&self, _low: &[u8], _high: Option<&[u8]>) -> u64 {
        0
    }
    /// Whether all that a range had at the time of [`Kind::want_merged`] is merged. [`Kind::work`] makes it so sooner or
    /// later, unless it fails.
    fn is_merged(&self, _wish: u64) -> bool {
        true
    }
    /// Forgets work under way: it failed, and its pages are freed.
    fn abandon_work(&self) {}
}
