//! The front: rows whose buckets are not in memory wait in a small hash table before the table, so that whoever puts
//! blindly reads nothing.
//!
//! ```text
//!   root: 2^k words · one more ──→ front: a trie of its own, same hash, same pages
//!    |  |  |                          |        |
//!   buckets, hundreds of thousands    buckets, some hundreds: each holds rows for a stretch of the table's buckets
//! ```
//!
//! A row in the front, which may be a tombstone, is newer than what its bucket says. Whoever writes a key that waits writes
//! it in the front; every other write goes to the bucket if that is in memory, else, blind, into the front. What is in all fronts beyond
//! their bound is debt, for which writers wait as for that of merges; only where work cannot go on are there puts that read
//! their bucket. Work has many buckets read at once, so a put that waits for it takes less time than one that reads. So only background work (`work`) changes front and bucket in one turn: it moves rows, bucket by bucket in the
//! order of the hash, after it has had many buckets read together.
//!
//! # What is known without a look
//!
//! A table without waiting rows costs its readers one load ([`Front::may_wait`]). Else there is a count of rows for each
//! stretch of hashes; most keys that do not wait find it zero. Counts and sizes are kept in the turn, before what they
//! are of is published, so who finds nothing may go on to the bucket: a row that came since is as good as one that comes
//! after, and one that has left since is in the bucket, whose latch is waited for. Readers of cuts may rely on it only if
//! nothing has left the front since. After a start the rows are counted anew (`work`); until then the front counts as full.

use super::absent::FilterMemory;
use super::branch::{List, front_of};
use super::bucket::{self, Bucket};
use super::read::visit;
use super::split::word_of;
use super::way::{Place, Route};
use super::work::Job;
use crate::kind::Value;
use crate::pages::{ChildWord, PageNew, PageRead, Pages, Step, Stop, TurnPages, View};
use esker_base::CommitNo;
use esker_base::sync::{
    Arc, AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Mutex, OnceLock, Ordering,
};

/// Bytes of a row in a bucket beside its key and value.
const ROW_BYTES: usize = 8;
/// So many bytes of rows may wait for each count.
const BYTES_PER_COUNT: usize = 32;
const COUNTS_MIN: usize = 1 << 10;
const COUNTS_MAX: usize = 1 << 20;

/// What is known of the rows that wait.
const NONE: u8 = 0;
const SOME: u8 = 1;
/// They were there at the start, and not all of them are counted yet.
const UNCOUNTED: u8 = 2;
/// Nobody has looked yet.
const UNSEEN: u8 = 3;

/// The front of a table: what is kept in memory beside its pages.
#[derive(Debug)]
pub(crate) struct Front {
    pub(super) memory: Arc<FilterMemory>,
    state: AtomicU8,
    /// There is one, whether rows wait in it or not.
    exists: AtomicBool,
    /// Rows that wait, and their bytes.
    rows: AtomicUsize,
    bytes: AtomicUsize,
    /// How many rows with these first bits of their hash wait; 255 says nothing any more.
    counts: OnceLock<Box<[AtomicU8]>>,
    /// While not all are counted: rows with lower hashes are.
    counted_below: AtomicU64,
    /// The last commit that took rows out of it.
    removed_at: AtomicU64,
    /// Bytes of content in a page, once one was seen.
    content_bytes: AtomicUsize,
    pub(super) job: Mutex<Job>,
}

/// A row's bytes, as the front counts them.
pub(super) fn row_bytes(key: &[u8], value: &Value<'_>) -> usize {
    key.len() + value.stored_bytes() + ROW_BYTES
}

/// By how much a row that waits counts: nobody knows whether its bucket has the key. What is too much is taken off when it
/// moves: a count that may end at zero could not be made good.
pub(super) fn weight(value: Value<'_>) -> i64 {
    i64::from(value != Value::Tombstone)
}

/// What a row of a front shows.
pub(super) fn shown(value: Value<'_>) -> Option<Value<'_>> {
    Some(value).filter(|value| *value != Value::Tombstone)
}

impl Front {
    pub(crate) fn new(memory: Arc<FilterMemory>) -> Self {
        Self {
            memory,
            state: AtomicU8::new(UNSEEN),
            exists: AtomicBool::new(false),
            rows: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            counts: OnceLock::new(),
            counted_below: AtomicU64::new(0),
            removed_at: AtomicU64::new(0),
            content_bytes: AtomicUsize::new(0),
            job: Mutex::default(),
        }
    }

    /// False if a key with this hash does not wait, at a view.
    #[inline]
    pub(crate) fn may_wait(&self, first: u64, view: View) -> bool {
        let state = self.state.load(Ordering::Acquire);
        (state != NONE || view != View::Current) && self.may_wait_then(state, first, view)
    }
    #[cold]
    fn may_wait_then(&self, state: u8, first: u64, view: View) -> bool {
        let is_here = match state {
            NONE => false,
            SOME => self.count(first).is_none_or(|count| count.load(Ordering::Acquire) > 0),
            _ => true,
        };
        let may_have_left = || match view {
            View::Current => false,
            View::Cut(cut) => cut.0 < self.removed_at.load(Ordering::Acquire),
        };
        is_here || may_have_left()
    }
    /// True if it is not known to be empty.
    #[inline]
    pub(crate) fn may_have_rows(&self) -> bool {
        self.state.load(Ordering::Acquire) != NONE
    }
    /// True if there is one, as far as is known, or nobody has looked yet.
    pub(crate) fn may_exist(&self) -> bool {
        self.exists.load(Ordering::Relaxed) || self.is_unseen()
    }
    fn is_unseen(&self) -> bool {
        self.state.load(Ordering::Acquire) == UNSEEN
    }
    pub(super) fn is_uncounted(&self) -> bool {
        self.state.load(Ordering::Acquire) == UNCOUNTED
    }
    fn counts(&self) -> &[AtomicU8] {
        self.counts.get_or_init(|| {
            let counts = (self.memory.fronts_bytes_max / BYTES_PER_COUNT)
                .next_power_of_two()
                .clamp(COUNTS_MIN, COUNTS_MAX);
            (0..counts).map(|_| AtomicU8::new(0)).collect()
        })
    }
    fn count(&self, first: u64) -> Option<&AtomicU8> {
        let counts = self.counts.get()?;
        counts.get(usize::try_from(first >> (64 - counts.len().ilog2())).expect("some bits"))
    }

    /// Looks whether there is one, if nobody has.
    pub(crate) fn see<P: Pages>(&self, pages: &P, root: &ChildWord) -> Step<()> {
        if self.is_unseen() {
            let exists = word(pages, root, View::Current)?.is_some();
            self.content_bytes.store(pages.content_bytes(), Ordering::Relaxed);
            if exists {
                self.exists.store(true, Ordering::Relaxed);
            }
            let state = if exists { UNCOUNTED } else { NONE };
            // Else somebody else has looked, and may have gone on since.
            let (new, old) = (Ordering::AcqRel, Ordering::Relaxed);
            let _seen = self.state.compare_exchange(UNSEEN, state, new, old).is_err();
        }
        Ok(())
    }

    /// True if a row may come to wait. Beyond the bound, too, where writers are slowed down; it says no if they were not.
    pub(crate) fn has_room(&self) -> bool {
        let max = self.memory.fronts_bytes_max;
        let is_full = || {
            let bytes = self.memory.fronts_bytes.load(Ordering::Relaxed);
            bytes >= max + max / 2 || self.is_uncounted()
        };
        max > 0 && !is_full()
    }
    /// True if rows should move on: it is three quarters full, or its rows are to be counted.
    pub(super) fn is_due(&self) -> bool {
        let bytes = self.memory.fronts_bytes.load(Ordering::Relaxed);
        let is_much = bytes > self.memory.fronts_bytes_max / 4 * 3;
        self.is_uncounted() || (is_much && self.bytes.load(Ordering::Relaxed) > 0)
    }
    /// Bytes of all fronts beyond their bound, as far as they are of this one.
    pub(crate) fn debt_bytes(&self) -> u64 {
        let all = self.memory.fronts_bytes.load(Ordering::Relaxed);
        let beyond = all.saturating_sub(self.memory.fronts_bytes_max);
        beyond.min(self.bytes.load(Ordering::Relaxed)) as u64
    }
    /// Bytes of buckets that a step of work will have changed.
    pub(crate) fn work_bytes(&self) -> u64 {
        const PAGES: usize = 16;
        if self.may_have_rows() {
            (PAGES * self.content_bytes.load(Ordering::Relaxed)) as u64
        } else {
            0
        }
    }
    /// Writers wait when it is so much.
    pub(crate) fn debt_bytes_max(&self) -> u64 {
        const LEAST: usize = 1 << 16;
        (self.memory.fronts_bytes_max / 2).max(LEAST) as u64
    }

    /// In the turn: a row with this hash comes to wait.
    pub(super) fn will_insert(&self, first: u64, bytes: usize) {
        let state = self.state.load(Ordering::Relaxed);
        if state == UNCOUNTED && first >= self.counted_below.load(Ordering::Relaxed) {
            return;
        }
        self.take_in(first, bytes);
        if state == NONE {
            self.state.store(SOME, Ordering::Release);
        }
    }
    fn take_in(&self, first: u64, bytes: usize) {
        self.counts();
        if let Some(count) = self.count(first) {
            count.store(count.load(Ordering::Relaxed).saturating_add(1), Ordering::Release);
        }
        self.rows.fetch_add(1, Ordering::Relaxed);
        self.add_bytes(bytes);
    }
    /// In the turn: a row that waits gets another value.
    pub(super) fn was_replaced(&self, first: u64, old_bytes: usize, new_bytes: usize) {
        if !self.is_uncounted() || first < self.counted_below() {
            self.add_bytes(new_bytes.saturating_sub(old_bytes));
            self.sub_bytes(old_bytes.saturating_sub(new_bytes));
        }
    }
    fn add_bytes(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.memory.fronts_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
    fn sub_bytes(&self, bytes: usize) {
        let old = self.bytes.load(Ordering::Relaxed);
        let bytes = bytes.min(old);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.memory.fronts_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
    /// In the turn, once the row is in its bucket: it leaves, as of this commit. All are counted.
    pub(super) fn was_removed(&self, first: u64, bytes: usize, at: CommitNo) {
        self.removed_at.store(at.0, Ordering::Release);
        self.sub_bytes(bytes);
        if let Some(count) = self.count(first) {
            let n = count.load(Ordering::Relaxed);
            if n != u8::MAX {
                count.store(n.saturating_sub(1), Ordering::Release);
            }
        }
        if self.rows.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.state.store(NONE, Ordering::Release);
        }
    }
    /// Rows are counted up to this hash.
    pub(super) fn counted_below(&self) -> u64 {
        self.counted_below.load(Ordering::Relaxed)
    }
    /// In the turn: these rows, of hashes from [`Self::counted_below`] up to, not including, the one given, are counted; all are if
    /// there is none.
    pub(super) fn were_counted(
        &self,
        rows: impl Iterator<Item = (u64, usize)>,
        below: Option<u64>,
    ) {
        rows.for_each(|(first, bytes)| self.take_in(first, bytes));
        self.counted_below.store(below.unwrap_or(u64::MAX), Ordering::Relaxed);
        if below.is_none() {
            let state = if self.rows.load(Ordering::Relaxed) > 0 { SOME } else { NONE };
            self.state.store(state, Ordering::Release);
        }
    }
    /// In the turn: it is no more.
    fn is_gone(&self) {
        self.exists.store(false, Ordering::Relaxed);
        self.sub_bytes(usize::MAX);
        self.rows.store(0, Ordering::Relaxed);
        self.state.store(NONE, Ordering::Release);
        for count in self.counts.get().into_iter().flatten() {
            count.store(0, Ordering::Release);
        }
    }
    /// Everything was deleted, with what waited.
    pub(super) fn was_cleared(&self) {
        // Which commit does it is not known here: cuts look for themselves until rows leave again.
        let has_rows = self.may_have_rows();
        self.removed_at.fetch_max(if has_rows { u64::MAX } else { 0 }, Ordering::Release);
        self.is_gone();
    }
    /// The table is gone.
    pub(crate) fn retire(&self) {
        self.sub_bytes(usize::MAX);
    }

    /// Gives the table one, whose root is a branch.
    pub(super) fn make<P: TurnPages>(&self, pages: &P, root: &ChildWord) -> Step<ChildWord> {
        let top = pages.read(root, View::Current)?;
        let mut list = List::of(top.words(), top.body());
        let mut page = pages.create(0, 0)?;
        bucket::init(page.body_mut(), Place::FRONT);
        let front = word_of(page.id());
        list.front = Some(front);
        let mut new = pages.replace(top.id(), top.level(), list.area())?;
        list.build(new.parts_mut());
        pages.publish(page);
        pages.publish(new);
        self.exists.store(true, Ordering::Relaxed);
        Ok(ChildWord::new(ChildWord::page_of(front), ChildWord::NO_HINT))
    }
    /// Takes it away again, if no row waits. Returns whether it did.
    pub(super) fn give_up<P: TurnPages>(&self, pages: &P, root: &ChildWord) -> Step<bool> {
        let top = pages.read(root, View::Current)?;
        if self.may_have_rows() || top.level() == 0 {
            return Ok(false);
        }
        let mut list = List::of(top.words(), top.body());
        if let Some(front) = list.front.take() {
            let mut new = pages.replace(top.id(), top.level(), list.area())?;
            list.build(new.parts_mut());
            pages.publish(new);
            pages.free_tree(front, 1);
        }
        self.is_gone();
        Ok(true)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.retire();
    }
}

/// Names the front, if the table has one.
pub(crate) fn word<P: Pages>(pages: &P, root: &ChildWord, view: View) -> Step<Option<ChildWord>> {
    let top = pages.read(root, view)?;
    let copy = |word: &ChildWord| ChildWord::new(word.page(), ChildWord::hint_of(word.load()));
    Ok(if top.level() == 0 { None } else { front_of(top.words()).map(copy) })
}

/// Calls `f` with the front's bucket at the end of a route, once it is known to be the right one; `None` if there is no
/// front.
pub(crate) fn look<'a, P: Pages, T>(
    pages: &'a P,
    root: &ChildWord,
    view: View,
    route: impl Route,
    f: impl FnOnce(&P::Read<'a>, Option<&P::Read<'a>>) -> T,
) -> Step<Option<T>> {
    let top = pages.read(root, view)?;
    if top.level() == 0 {
        return Ok(None);
    }
    let Some(word) = front_of(top.words()) else { return Ok(None) };
    let moved = || view == View::Current && !pages.is_current(&top);
    let visited = visit(pages, word, view, route, |page, above| {
        if moved() {
            return Err(Stop::Moved);
        }
        check_is_front(page, true)?;
        Ok(f(page, above))
    });
    match visited {
        Ok(found) => found.map(Some),
        Err(Stop::Missing(_) | Stop::Corrupt { .. }) if moved() => Err(Stop::Moved),
        Err(stop) => Err(stop),
    }
}

/// A bucket is where such buckets are: in a front, or not.
pub(crate) fn check_is_front<R: PageRead>(page: &R, front: bool) -> Step<()> {
    if Bucket::new(page.body()).is_front() == front {
        return Ok(());
    }
    Err(super::read::corrupt(page, "a bucket of a front elsewhere, or another one in it"))
}
