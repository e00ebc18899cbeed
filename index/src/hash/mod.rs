//! The hash table: an extendible hash whose directory is a trie of pages.
//!
//! ```text
//!            branch of 2^k words          the next k bits of the hash choose a word
//!       /      |      |        \
//!   bucket  bucket  bucket    branch      several words may name one child; a branch goes on behind
//!                            /      \     the bits that its words have in common
//!                        bucket   bucket
//! ```
//!
//! Bits are taken from the top, so buckets in the order of the trie are in the order of the hash
//! ([`Kind::rank`]). With 8 KiB pages a branch takes up to 9 bits; one that needs more is divided, and the trie grows
//! at the root: two branches and a bucket reach a hundred thousand buckets or more, and a branch more
//! does for some hundred times as many.
//!
//! | module | |
//! |---|---|
//! | `way` | which bits lead where; places |
//! | `branch`, `bucket`, `bucket_check` | bytes of a page: drawing, search, edit, check |
//! | `layout`, `gaps` | where records lie in a bucket |
//! | `read` | following bits down |
//! | `guess` | which frame a bucket is in |
//! | `absent` | what is known of buckets that are not in memory |
//! | `lines` | which keys have no row, without a look at any bucket |
//! | `front` | rows that wait for buckets which are not in memory |
//! | `wait` | writes to the front |
//! | `work` | moving rows from the front into their buckets |
//! | `write` | one key, or all keys of one bucket, made ready in the turn and then applied |
//! | `split`, `divide`, `merge`, `range` | changes over several pages |
//! | `cursor` | bucket by bucket |
//! | `check` | a walk that checks everything |
//!
//! # Invariants
//!
//! - H1: buckets have level 0, branches with buckets only level 1, other branches more, and any page less than the
//!   one above it.
//! - H2: a child is named by the 2^(k-l) words of a branch that share its first l bits, a branch by one bit at least.
//! - H3: some child of a branch needs all its bits; so a branch has two children at least.
//! - H4: a bucket with one row has room for another of the longest key and inline value: a split can
//!   always make room.
//! - H5: the root keeps its page id; growing and shrinking replace what is under it.
//!
//! Keys whose hashes agree in all bits are told apart by the hash with the next seed, and so on (`way`): nothing
//! relies on the hash being good but speed.
//!
//! Sources: Fagin, Nievergelt, Pippenger and Strong, "Extendible hashing" (TODS 1979).
//! The trie instead of one directory is ours, so that no change is larger than a few pages.

mod absent;
pub(crate) mod branch;
pub(crate) mod bucket;
pub(crate) mod bucket_check;
mod check;
mod cursor;
mod divide;
mod front;
mod gaps;
mod guess;
mod layout;
mod lines;
mod merge;
mod range;
mod read;
mod split;
#[cfg(test)]
mod tests;
mod wait;
pub(crate) mod way;
mod work;
mod write;

pub use absent::FilterMemory;
pub use check::Check;
pub use cursor::HashCursor;
pub use range::Everything;
pub use write::{Group, Prepared};

use crate::fold::Fold;
use crate::kind::{Direction, GroupWrites, Handle, Kind, Look, Value, Work};
use crate::pages::{
    BuildPages, ChildWord, PageRead, PageWrite, Pages, Step, Stop, TurnPages, View,
};
use absent::Filters;
use bucket::{Bucket, mark_of};
use esker_base::sync::Arc;
use esker_base::{CommitNo, PageId};
use front::{Front, shown};
use guess::Guesses;
use lines::Lines;
use read::Seen;
use std::ops::Range;
use way::ToKey;
use xxhash_rust::xxh3::xxh3_64_with_seed;

fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

fn set_u16(bytes: &mut [u8], at: usize, value: usize) {
    let value = u16::try_from(value).expect("offsets in a page have 16 bits");
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

/// How a table hashes its keys.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hasher {
    seed: u64,
    /// Bits of a hash that may vary.
    #[cfg(test)]
    mask: u64,
}

impl Hasher {
    /// The hash of a key in a round: `XXH3` is the same on all platforms and in all versions.
    #[inline]
    fn hash(self, key: &[u8], round: u32) -> u64 {
        let hash = xxh3_64_with_seed(key, self.seed.wrapping_add(u64::from(round)));
        #[cfg(test)]
        let hash = hash & self.mask;
        hash
    }
}

/// What became of a look into the front.
enum Got<T, F> {
    /// The key waits there.
    Waits(T),
    /// It does not: whom to tell what its bucket has.
    Not(F),
}

/// A hash table: keys in no order, one page read for a row.
#[derive(Debug)]
pub struct Hash {
    hasher: Hasher,
    filters: Filters,
    guesses: Guesses,
    lines: Lines,
    front: Front,
}

impl Default for Hash {
    fn default() -> Self {
        Self::new(Self::SEED)
    }
}

impl Hash {
    pub(crate) fn hasher(&self) -> Hasher {
        self.hasher
    }
    /// The seed of tables that have none of their own. On disk: must never change.
    pub const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

    /// Tables must be opened with the seed that they were made with. Every get of an absent key whose bucket is not in
    /// memory reads it.
    pub fn new(seed: u64) -> Self {
        Self::with_filters(seed, Arc::new(FilterMemory::new(0)))
    }

    /// As [`Self::new`], but most gets of absent keys read nothing, as far as this memory goes: some
    /// 130 bytes for a bucket of 50 rows.
    pub fn with_filters(seed: u64, memory: Arc<FilterMemory>) -> Self {
        let hasher = Hasher {
            seed,
            #[cfg(test)]
            mask: u64::MAX,
        };
        let guesses = Guesses::new(Arc::clone(&memory));
        let lines = Lines::new(Arc::clone(&memory));
        let front = Front::new(Arc::clone(&memory));
        Self { hasher, filters: Filters::new(memory), guesses, lines, front }
    }

    /// A row whose key has this hash is about to be put into a bucket that is latched.
    fn will_put<W: PageWrite>(&self, page: &mut W, first: u64) {
        self.filters.will_put(page, mark_of(first));
        self.lines.will_put(first);
    }

    /// The table is gone: gives its share of the memory for filters to others.
    pub fn retire(&self) {
        self.filters.retire();
        self.front.retire();
    }

    /// True if there may be background work.
    pub fn has_work(&self) -> bool {
        self.front.may_exist()
    }

    fn to_key<'k>(&self, key: &'k [u8], first: u64) -> ToKey<'k> {
        ToKey::hashed(self.hasher, key, first)
    }

    /// Calls `f` if the key waits in the front.
    #[cold]
    fn get_waiting<P: Pages, T, F: FnOnce(Option<Value<'_>>, CommitNo) -> T>(
        &self,
        pages: &P,
        root: &ChildWord,
        view: View,
        (key, first): (&[u8], u64),
        f: F,
    ) -> Step<Got<T, F>> {
        self.front.see(pages, root)?;
        if !self.front.may_wait(first, view) {
            return Ok(Got::Not(f));
        }
        let mut f = Some(f);
        let found = front::look(pages, root, view, self.to_key(key, first), |page, _| {
            let bucket = Bucket::new(page.body());
            let i = bucket.find(mark_of(first), key)?;
            f.take().map(|f| f(shown(bucket.row(i).1), page.changed_at()))
        })?;
        Ok(match (found.flatten(), f) {
            (Some(result), _) => Got::Waits(result),
            (None, f) => Got::Not(f.expect("nobody has called it")),
        })
    }

    /// The front's page that a key waits in, and so is written to; `None` if it does not wait.
    fn front_page_of<P: Pages>(
        &self,
        pages: &P,
        root: &ChildWord,
        (key, first): (&[u8], u64),
    ) -> Step<Option<PageId>> {
        let waits = self.front.may_wait(first, View::Current)
            && matches!(
                self.get_waiting(pages, root, View::Current, (key, first), |_, _| ())?,
                Got::Waits(())
            );
        if !waits {
            return Ok(None);
        }
        let Some(front) = front::word(pages, root, View::Current)? else { return Ok(None) };
        let path = read::Path::down(pages, &front, View::Current, self.to_key(key, first))?;
        Ok(Some(path.bucket_word().page()))
    }

    /// As `default`, but only the bits of `mask` tell keys apart.
    #[cfg(test)]
    fn weak(mask: u64) -> Self {
        let mut hash = Self::default();
        hash.hasher.mask = mask;
        hash
    }

    #[cfg(test)]
    fn hash(&self, key: &[u8], round: u32) -> u64 {
        self.hasher.hash(key, round)
    }
}

impl Kind for Hash {
    fn is_ordered(&self) -> bool {
        false
    }
    fn rank(&self, key: &[u8]) -> u64 {
        self.hasher.hash(key, 0)
    }

    fn check_page(&self, level: u8, words: usize, body: &[u8]) -> Result<(), String> {
        match level {
            0 => bucket_check::check_bucket(self.hasher, words, body),
            _ => branch::check_branch(level, words, body),
        }
    }
    fn fold(&self, level: u8) -> Option<Fold> {
        (level == 0).then_some(Fold::Bucket)
    }
    fn hole(&self, _level: u8, body: &[u8]) -> Range<usize> {
        branch::hole(body)
    }
    fn handles(&self, level: u8, body: &[u8], visit: &mut dyn FnMut(Handle)) {
        if level == 0 {
            bucket::handles(body, visit);
        }
    }

    fn create<P: TurnPages>(&self, pages: &P) -> Step<PageId> {
        write::create(pages)
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
        let first = self.hasher.hash(key, 0);
        let mark = mark_of(first);
        let holds = |since: &CommitNo| match view {
            View::Current => true,
            View::Cut(cut) => *since <= cut,
        };
        let f = if self.front.may_wait(first, view) {
            match self.get_waiting(pages, root, view, (key, first), f)? {
                Got::Waits(result) => return Ok(result),
                Got::Not(f) => f,
            }
        } else {
            f
        };
        let start = self.lines.now();
        if let Some(since) = self.lines.absent_since(first).filter(holds) {
            return Ok(f(None, since));
        }
        let absent_since = |page| {
            let since = self.filters.absent_since(page, mark).filter(holds);
            if since.is_none() {
                self.filters.want(page);
            }
            since
        };
        let route = ToKey::guessed(self, pages, key, first);
        read::visit_or_know(pages, root, view, route, absent_since, |seen| {
            let page = match seen {
                Seen::Bucket(page, _) => page,
                Seen::Absent(since) => return f(None, since),
            };
            let bucket = Bucket::new(page.body());
            let ask = |record| page.prefetch(record);
            let found = bucket.find_asking(mark, key, ask);
            if view == View::Current {
                let at = page.changed_at();
                self.filters.was_read(page.id(), bucket, at, found.is_some());
                if found.is_none() {
                    self.lines.was_absent(start, (self.hasher, first), (bucket, at));
                }
            }
            let value = found.and_then(|i| shown(bucket.row(i).1));
            f(value, page.changed_at())
        })
    }
    fn warm<P: Pages>(&self, pages: &P, root: &ChildWord, key: &[u8], look: Look) -> Step<()> {
        let first = self.hasher.hash(key, 0);
        if self.front.may_wait(first, View::Current)
            && let Got::Waits(()) =
                self.get_waiting(pages, root, View::Current, (key, first), |_, _| ())?
        {
            return Ok(());
        }
        let route = ToKey::guessed(self, pages, key, first);
        let want = |page| {
            self.filters.want(page);
            None
        };
        // Whatever is known: a write needs the bucket.
        let seen = read::visit_or_know(pages, root, View::Current, route, want, |seen| {
            let Seen::Bucket(page, _) = seen else { return };
            let bucket = Bucket::new(page.body());
            let found = bucket.find_asking(mark_of(first), key, |record| page.prefetch(record));
            self.filters.was_read(page.id(), bucket, page.changed_at(), found.is_some());
            std::hint::black_box(found.map(|i| bucket.row(i).1));
        });
        match seen {
            Err(Stop::Missing(page))
                if look == Look::Blind
                    && self.front.has_room()
                    && wait::is_bucket(self, pages, root, (key, first), page)? =>
            {
                // The row will wait.
                front::look(pages, root, View::Current, self.to_key(key, first), |_, _| ())
                    .map(|_| ())
            }
            seen => seen,
        }
    }
    #[inline]
    fn ask_ahead<P: Pages>(&self, pages: &P, key: &[u8]) -> bool {
        let first = self.hasher.hash(key, 0);
        if let Some(word) = self.guesses.word(first) {
            way::ask_for_record(pages, &word, first);
        }
        self.guesses.are_any()
    }
    fn page_of<P: Pages>(
        &self,
        pages: &P,
        root: &ChildWord,
        view: View,
        key: &[u8],
        look: Look,
    ) -> Step<Option<PageId>> {
        let first = self.hasher.hash(key, 0);
        let route = ToKey::hashed(self.hasher, key, first);
        let path = read::Path::down(pages, root, view, route)?;
        let word = path.bucket_word();
        if look == Look::Existing && view == View::Current {
            let known = self.filters.absent_since(word.page(), mark_of(first));
            if known.is_some() && !self.front.may_wait(first, view) {
                return Ok(None);
            }
        }
        if view == View::Current
            && let Some(front) = self.front_page_of(pages, root, (key, first))?
        {
            return Ok(Some(front));
        }
        way::ask_for_record(pages, &word, first);
        Ok(Some(word.page()))
    }

    type Prepared<'a, P: TurnPages + 'a> = Prepared<'a, P>;
    fn prepare<'a, P: TurnPages>(
        &'a self,
        pages: &'a P,
        root: &'a ChildWord,
        key: &'a [u8],
        new: Option<&Value<'_>>,
        look: Look,
    ) -> Step<Prepared<'a, P>> {
        write::prepare(self, pages, root, key, new, look)
    }

    type Group<'a, P: TurnPages + 'a> = Group<'a, P>;
    fn prepare_group<'a, P: TurnPages>(
        &'a self,
        pages: &'a P,
        root: &'a ChildWord,
        writes: &dyn GroupWrites,
    ) -> Step<Group<'a, P>> {
        write::prepare_group(self, pages, root, writes)
    }

    type Range<'a, P: TurnPages + 'a> = Everything<'a, P>;
    fn prepare_delete_range<'a, P: TurnPages>(
        &'a self,
        pages: &'a P,
        root: &'a ChildWord,
        low: &'a [u8],
        high: Option<&'a [u8]>,
    ) -> Step<Everything<'a, P>> {
        assert!(low.is_empty() && high.is_none(), "a table without order has no ranges");
        range::prepare(self, pages, root)
    }

    fn tidy<P: TurnPages>(&self, pages: &P, root: &ChildWord, key: &[u8]) -> Step<bool> {
        merge::tidy(self, pages, root, key)
    }

    type Cursor = HashCursor;
    fn cursor(&self, low: &[u8], high: Option<&[u8]>, direction: Direction) -> HashCursor {
        let everything = low.is_empty() && high.is_none() && direction == Direction::Forward;
        assert!(everything, "a table without order has no ranges");
        HashCursor::new(self.hasher)
    }

    type Check = Check;
    fn check(&self, root: PageId) -> Check {
        Check::new(self.hasher, root)
    }

    fn debt_bytes(&self) -> u64 {
        self.front.debt_bytes()
    }
    fn debt_bytes_max(&self) -> u64 {
        self.front.debt_bytes_max()
    }
    fn work_bytes(&self) -> u64 {
        self.front.work_bytes()
    }
    fn work<P: BuildPages>(&self, pages: &P, root: &ChildWord, rest: bool) -> Step<Work> {
        work::work(self, pages, root, rest)
    }
    fn upcoming_work<P: Pages>(&self, _pages: &P, out: &mut Vec<PageId>) -> Step<()> {
        work::upcoming(self, out);
        Ok(())
    }
    fn finish_work<P: TurnPages>(
        &self,
        pages: &P,
        root: &ChildWord,
        replaced: &mut dyn FnMut(Handle),
    ) -> Step<i64> {
        work::finish(self, pages, root, replaced)
    }
    fn abandon_work(&self) {
        *self.front.job.lock() = work::Job::default();
    }
}
