//! What is known of buckets that are not in memory: a small Bloom filter for each, so that a get of a key that is absent
//! mostly reads nothing.
//!
//! Filters are made once a bucket was missing, of buckets that are read or written from then on: a table that is in
//! memory has none. They live beside the pages and may go at any moment; nothing on disk knows of them.
//!
//! # Why an answer is right
//!
//! A filter of a page is made and added to only by who holds the page's latch, and only of the page as it is now. A
//! put adds its mark before its commit is published; a delete leaves the mark. So who finds no mark knows that the key was
//! absent from that page at that moment, and has been since the commit that the page had when the filter was made: at any cut
//! from that commit on. Who reads the newest state then checks that the branches on
//! the way are still current, as after reading the bucket.
//!
//! A split leaves the lower half a filter that says too much. A page that gains rows in another way, or whose id gets another
//! meaning, loses its filter first.

use super::bucket::Bucket;
use crate::pages::PageWrite;
use esker_base::sync::{Arc, AtomicBool, AtomicU64, AtomicUsize, Mutex, Ordering};
use esker_base::{CommitNo, PageId};
use std::collections::BTreeMap;

/// Bits a row, when a filter is made: 1 % to 2 % of absent keys are then taken for present ones.
const BITS_PER_ROW: usize = 10;
/// Bits set per row.
const PROBES: u32 = 4;
/// Words of the smallest filter: 25 rows may come until one that was made of few says little.
const WORDS_MIN: usize = 4;
/// Memory of a filter beside its words: its place in the map, about, its allocation, and its commit.
const OVERHEAD_BYTES: usize = 64;
const SHARDS: usize = 16;

/// Memory that the filters of all hash tables of a database, their lines and their guesses of frames, may take; and how much
/// the rows in their fronts may.
#[derive(Debug)]
pub struct FilterMemory {
    bytes_max: usize,
    /// Tables that have filters: each gets an equal share.
    tables: AtomicUsize,
    /// What guesses of frames take: an eighth at most.
    guesses_bytes: AtomicUsize,
    /// What lines take: a quarter at most.
    lines_bytes: AtomicUsize,
    /// Rows that wait in fronts: in pages, apart from all the rest.
    pub(super) fronts_bytes: AtomicUsize,
    pub(super) fronts_bytes_max: usize,
}

impl FilterMemory {
    /// So many bytes in all.
    pub const fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            tables: AtomicUsize::new(0),
            guesses_bytes: AtomicUsize::new(0),
            lines_bytes: AtomicUsize::new(0),
            fronts_bytes: AtomicUsize::new(0),
            fronts_bytes_max: 0,
        }
    }
    /// Rows of so many bytes in all may wait in fronts, about: none, unless this is said.
    #[must_use]
    pub const fn with_fronts(self, fronts_bytes_max: usize) -> Self {
        Self { fronts_bytes_max, ..self }
    }
    fn shard_bytes_max(&self) -> usize {
        let guesses_bytes = self.guesses_bytes.load(Ordering::Relaxed);
        let bytes = self.bytes_max - guesses_bytes - self.lines_bytes.load(Ordering::Relaxed);
        bytes / self.tables.load(Ordering::Relaxed).max(1) / SHARDS
    }
    /// Takes bytes for guesses, if there are so many.
    pub(crate) fn take_for_guesses(&self, bytes: usize) -> bool {
        take(&self.guesses_bytes, bytes, self.bytes_max / 8)
    }
    pub(crate) fn give_back_guesses(&self, bytes: usize) {
        self.guesses_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
    /// Takes bytes for lines, if there are so many.
    pub(crate) fn take_for_lines(&self, bytes: usize) -> bool {
        take(&self.lines_bytes, bytes, self.bytes_max / 4)
    }
    pub(crate) fn give_back_lines(&self, bytes: usize) {
        self.lines_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Adds bytes to what was taken, unless it would become more than `bytes_max`.
fn take(taken: &AtomicUsize, bytes: usize, bytes_max: usize) -> bool {
    let add = |taken| Some(taken + bytes).filter(|taken| *taken <= bytes_max);
    taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
}

#[derive(Debug)]
struct Filter {
    /// It was made of all rows as of this commit.
    since: CommitNo,
    words: Box<[u64]>,
}

impl Filter {
    fn of(bucket: Bucket<'_>, since: CommitNo) -> Self {
        let words = (bucket.len() * BITS_PER_ROW).div_ceil(64).max(WORDS_MIN);
        let mut filter = Self { since, words: vec![0; words].into() };
        for i in 0..bucket.len() {
            filter.add(bucket.mark(i));
        }
        filter
    }
    /// The bits of a mark: marks are even but have 16 bits only, all of which each bit depends on.
    fn probes(mark: u16, bits: usize) -> impl Iterator<Item = usize> {
        let mixed = (u64::from(mark) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mixed = (mixed ^ mixed >> 32).wrapping_mul(0xd6e8_feb8_6659_fd93);
        (0..PROBES).map(move |i| ((mixed >> (i * 16) & 0xffff) as usize * bits) >> 16)
    }
    fn add(&mut self, mark: u16) {
        for bit in Self::probes(mark, self.words.len() * 64) {
            self.words[bit / 64] |= 1 << (bit % 64);
        }
    }
    fn may_have(&self, mark: u16) -> bool {
        Self::probes(mark, self.words.len() * 64)
            .all(|bit| self.words[bit / 64] >> (bit % 64) & 1 == 1)
    }
    fn bytes(&self) -> usize {
        OVERHEAD_BYTES + self.words.len() * 8
    }
}

/// Some of the filters.
#[derive(Debug, Default)]
struct Shard {
    filters: BTreeMap<PageId, Filter>,
    bytes: usize,
    /// Filters go in a circle of page ids; those below went last.
    hand: PageId,
}

impl Shard {
    fn remove(&mut self, page: PageId) {
        if let Some(filter) = self.filters.remove(&page) {
            self.bytes -= filter.bytes();
        }
    }
    fn insert(&mut self, page: PageId, filter: Filter, bytes_max: usize) {
        self.remove(page);
        while self.bytes + filter.bytes() > bytes_max {
            let next = self.filters.range(self.hand..).next().or(self.filters.iter().next());
            let Some((&victim, _)) = next else { return };
            self.remove(victim);
            self.hand = PageId(victim.0 + 1);
        }
        self.bytes += filter.bytes();
        self.filters.insert(page, filter);
    }
}

/// The filters of a table.
#[derive(Debug)]
pub(crate) struct Filters {
    memory: Arc<FilterMemory>,
    /// True once a bucket was missing. Whoever makes a filter sets it under the latch of the page that it is of, so a writer
    /// of the page sees it.
    active: AtomicBool,
    /// The bucket that was missing last, plus one: its filter is made when it is there. A guess.
    wanted: AtomicU64,
    shards: Box<[Mutex<Shard>; SHARDS]>,
}

impl Filters {
    pub(crate) fn new(memory: Arc<FilterMemory>) -> Self {
        let shards = Box::new(std::array::from_fn(|_| Mutex::default()));
        Self { memory, active: AtomicBool::new(false), wanted: AtomicU64::new(0), shards }
    }
    fn shard(&self, page: PageId) -> &Mutex<Shard> {
        // Ids may be handed out in steps.
        let [.., high] = page.0.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
        &self.shards[usize::from(high) % SHARDS]
    }
    #[inline]
    fn is_active(&self) -> bool {
        self.active.load(Ordering::Relaxed)
    }
    fn activate(&self) {
        if !self.is_active() && !self.active.swap(true, Ordering::Relaxed) {
            self.memory.tables.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A bucket was missing: its filter is to be made once it is in memory.
    pub(crate) fn want(&self, page: PageId) {
        if self.memory.bytes_max > 0 {
            self.activate();
            self.wanted.store(page.0 + 1, Ordering::Relaxed);
        }
    }
    /// A bucket was read as it is now, and did (not) have a row that was asked for. Under its latch.
    #[inline]
    pub(crate) fn was_read(&self, page: PageId, bucket: Bucket<'_>, at: CommitNo, found: bool) {
        let wanted = self.wanted.load(Ordering::Relaxed) == page.0 + 1;
        if wanted || (!found && self.is_active()) {
            self.make(page, bucket, at, wanted);
        }
    }
    #[cold]
    fn make(&self, page: PageId, bucket: Bucket<'_>, at: CommitNo, anew: bool) {
        if anew {
            self.wanted.store(0, Ordering::Relaxed);
        }
        self.activate();
        let mut shard = self.shard(page).lock();
        if anew || !shard.filters.contains_key(&page) {
            shard.insert(page, Filter::of(bucket, at), self.memory.shard_bytes_max());
        }
    }
    /// The commit from which on a key with this mark has been absent from a bucket, if that is known.
    pub(crate) fn absent_since(&self, page: PageId, mark: u16) -> Option<CommitNo> {
        if !self.is_active() {
            return None;
        }
        let shard = self.shard(page).lock();
        let filter = shard.filters.get(&page)?;
        (!filter.may_have(mark)).then_some(filter.since)
    }

    /// A row with this mark is about to be put into a bucket. If there is no filter, one is made, unless the bucket holds
    /// something of the same commit already, which is not published.
    #[inline]
    pub(crate) fn will_put<W: PageWrite>(&self, page: &mut W, mark: u16) {
        if self.is_active() {
            self.add(page, mark);
        }
    }
    #[cold]
    fn add<W: PageWrite>(&self, page: &mut W, mark: u16) {
        let before = page.changed_at();
        page.body_mut();
        let is_published = page.changed_at() != before;
        let mut shard = self.shard(page.id()).lock();
        if let Some(filter) = shard.filters.get_mut(&page.id()) {
            filter.add(mark);
        } else if is_published {
            let mut filter = Filter::of(Bucket::new(page.body()), before);
            filter.add(mark);
            shard.insert(page.id(), filter, self.memory.shard_bytes_max());
        }
    }
    /// What is known of a page does not hold any more.
    #[inline]
    pub(crate) fn forget(&self, page: PageId) {
        if self.is_active() {
            self.shard(page).lock().remove(page);
        }
    }
    /// The table will not be read any more.
    pub(crate) fn retire(&self) {
        if self.is_active() {
            self.memory.tables.fetch_sub(1, Ordering::Relaxed);
        }
        self.forget_all();
    }
    /// Nothing that is known holds any more.
    pub(crate) fn forget_all(&self) {
        for shard in &*self.shards {
            *shard.lock() = Shard::default();
        }
    }
    /// Bytes that they take, about.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().bytes).sum()
    }
}
