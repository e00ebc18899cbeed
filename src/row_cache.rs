//! Rows that gets have had to read a page for: where few rows of a table much larger than memory are asked for most of the time,
//! each is worth a hundred bytes, and the page it is in is not worth eight thousand.
//!
//! Looked at only when a page is missing, so that what is in memory pays nothing for it. Its memory is a part of what frames have given
//! back (`store/share.rs`); while none has, there is no row cache. While it is not known to answer, it is a *sample*: a thirty-second
//! of the memory for the keys of a thirty-second of all hashes, which answers as large a share of what it is asked as all of the cache would
//! of everything, and costs other gets nothing (Waldspurger et al., "Efficient MRC construction with SHARDS", FAST 2015).
//!
//! # Why no get is stale
//!
//! Each shard has a number that every write to one of its keys raises. Who misses takes the number ([`Ticket`]), reads the row
//! from its page, and may put it here only if the number is still the same. A write raises it, and drops the row, *after* its page
//! was changed and *before* its commit is published: so who took the number before will not put an old row here, who takes it after reads
//! the new page, and nobody finds the old row once anybody could have seen the new one. The cache is switched on in the turn: no write is
//! then half way.
//!
//! A shard has two generations. Rows enter the young one, and again when they are found in the old one; when the young
//! one is full, it becomes the old one, and what nobody asked for meanwhile goes.

use crate::conflict::key_hash;
use crate::store::PageHasher;
use esker_base::TableId;
use esker_base::sync::{AtomicU64, AtomicUsize, Mutex, Ordering};
use std::collections::HashMap;
use std::hash::BuildHasherDefault;

const SHARDS: usize = 16;
/// Of what frames have given back, the cache takes at most so much: what is given up of it does not go at once.
const PERCENT_MAX: usize = 85;
/// A sample is 1 / this of memory and of hashes.
const SAMPLE: usize = 32;
/// A sample smaller than this tells nothing: then there is only the whole,
const SAMPLE_BYTES_MIN: usize = 64 << 10;
/// and none at all that would be smaller than this.
const BYTES_MIN: usize = 4 << 10;
/// Looks after which it is decided again.
const WINDOW: u64 = 256;
/// A sample that answers one look in so many becomes the whole, which, once it is full, becomes a sample if it answers less than one in
/// so many.
const GROW: u64 = 8;
const SHRINK: u64 = 32;
/// Bytes that the map takes for a row, about: twelve, a byte of control, and up to as much again that is free.
const ENTRY_BYTES: usize = 32;
/// A row that takes more than 1 / this of a generation stays out.
const ROW_SHARE: usize = 8;
/// Before a row: table, bytes of key and value.
const HEADER_BYTES: usize = 8;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct RowCache {
    /// 0: off.
    limit_bytes: AtomicUsize,
    /// Only keys whose hashes have none of these bits: 0, or a sample.
    mask: AtomicU64,
    looks: AtomicU64,
    hits: AtomicU64,
    /// Of both, at the last decision.
    looks_before: AtomicU64,
    hits_before: AtomicU64,
    shards: [Mutex<Shard>; SHARDS],
}

/// The right to put a row in, as long as nobody writes to it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticket {
    hash: u64,
    number: u64,
}

impl RowCache {
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.limit_bytes.load(Ordering::Relaxed) > 0
    }
    /// Rows found, since open.
    pub(crate) fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }
    /// Bytes that it takes, about.
    pub(crate) fn bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().bytes()).sum()
    }

    fn hash(table: TableId, key: &[u8]) -> u64 {
        key_hash(key) ^ u64::from(table.0).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        &self.shards[(hash >> 60) as usize % SHARDS]
    }

    /// The hash of a key that may be here; `None` for those that a sample leaves out.
    pub(crate) fn hash_of(&self, table: TableId, key: &[u8]) -> Option<u64> {
        let hash = Self::hash(table, key);
        (hash & self.mask.load(Ordering::Relaxed) == 0).then_some(hash)
    }

    /// The value of a row that is here, given to `found`; else the right to put it here.
    pub(crate) fn find<R>(
        &self,
        hash: u64,
        table: TableId,
        key: &[u8],
        found: impl FnOnce(&[u8]) -> R,
    ) -> Result<R, Ticket> {
        let capacity_bytes = self.capacity_bytes();
        let mut shard = self.shard(hash).lock();
        self.looks.fetch_add(1, Ordering::Relaxed);
        shard.find(hash, table, key, capacity_bytes).map(found).map_or_else(
            || Err(Ticket { hash, number: shard.number }),
            |result| {
                self.hits.fetch_add(1, Ordering::Relaxed);
                esker_base::mark::ROW_CACHED.hit();
                Ok(result)
            },
        )
    }

    /// Puts in what was read from a page after the ticket was taken.
    pub(crate) fn put(&self, ticket: Ticket, table: TableId, key: &[u8], value: &[u8]) {
        let capacity_bytes = self.capacity_bytes();
        let mut shard = self.shard(ticket.hash).lock();
        if shard.number == ticket.number {
            shard.put(ticket.hash, table, key, value, capacity_bytes);
        } else {
            esker_base::mark::ROW_OVERTAKEN.hit();
        }
    }

    /// A row was written: in the turn, after its page was changed, before the commit is published.
    #[inline]
    pub(crate) fn forget(&self, table: TableId, key: &[u8]) {
        if self.is_on() {
            self.forget_now(table, key);
        }
    }
    #[cold]
    fn forget_now(&self, table: TableId, key: &[u8]) {
        let hash = Self::hash(table, key);
        let mut shard = self.shard(hash).lock();
        shard.number += 1;
        let Shard { young, old, .. } = &mut *shard;
        if young.places.remove(&hash).or(old.places.remove(&hash)).is_some() {
            esker_base::mark::ROW_FORGOTTEN.hit();
        }
    }
    /// As [`Self::forget`], for any number of rows.
    pub(crate) fn forget_all(&self) {
        if self.is_on() {
            self.clear();
        }
    }
    fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            let number = shard.number + 1;
            *shard = Shard { number, ..Shard::default() };
        }
    }

    /// Decides how much memory it takes, of what frames have given back. `in_turn`: no write is half way, so it may be switched
    /// on.
    pub(crate) fn resize(&self, given_back_bytes: usize, in_turn: bool) {
        let most = given_back_bytes / 100 * PERCENT_MAX;
        let size = self.limit_bytes.load(Ordering::Relaxed);
        if most < BYTES_MIN {
            if size > 0 {
                self.limit_bytes.store(0, Ordering::Relaxed);
                self.clear();
            }
            return;
        }
        if size == 0 && !in_turn {
            return;
        }
        let was_sample = size == 0 || self.mask.load(Ordering::Relaxed) > 0;
        let is_sample = most / SAMPLE >= SAMPLE_BYTES_MIN && !self.is_worth_it(was_sample);
        let wanted = if is_sample { most / SAMPLE } else { most };
        self.mask.store(if is_sample { SAMPLE as u64 - 1 } else { 0 }, Ordering::Relaxed);
        self.limit_bytes.store(wanted, Ordering::Relaxed);
        if wanted < size {
            // Both generations may be longer than is now allowed.
            self.clear();
        }
    }

    /// Whether it answers enough to be the whole, or to stay so; what it was if that is not known yet.
    fn is_worth_it(&self, was_sample: bool) -> bool {
        let (looks, hits) = (self.looks.load(Ordering::Relaxed), self.hits());
        let new_looks = looks - self.looks_before.load(Ordering::Relaxed);
        if new_looks < WINDOW {
            return !was_sample;
        }
        let new_hits = hits - self.hits_before.load(Ordering::Relaxed);
        self.looks_before.store(looks, Ordering::Relaxed);
        self.hits_before.store(hits, Ordering::Relaxed);
        if !was_sample && self.bytes() < self.limit_bytes.load(Ordering::Relaxed) / 2 {
            // It began with the rows of the sample, and cannot answer much before others are here.
            return true;
        }
        let share = if was_sample { GROW } else { SHRINK };
        new_hits * share >= new_looks
    }

    /// Bytes of one generation of a shard.
    fn capacity_bytes(&self) -> usize {
        self.limit_bytes.load(Ordering::Relaxed) / SHARDS / 2
    }
}

#[derive(Debug, Default)]
struct Shard {
    /// Raised by each write to one of its keys.
    number: u64,
    young: Generation,
    old: Generation,
    scratch: Vec<u8>,
}

/// Rows one after the other, and where each begins, by hash.
#[derive(Debug, Default)]
struct Generation {
    rows: Vec<u8>,
    places: HashMap<u64, u32, BuildHasherDefault<PageHasher>>,
}

impl Generation {
    fn bytes(&self) -> usize {
        self.rows.len() + self.places.len() * ENTRY_BYTES
    }

    /// The whole row of a key: header, key, value.
    fn row(&self, hash: u64, table: TableId, key: &[u8]) -> Option<&[u8]> {
        let at = *self.places.get(&hash)? as usize;
        let (header, rest) = self.rows[at..].split_first_chunk::<HEADER_BYTES>()?;
        let [t0, t1, t2, t3, k0, k1, v0, v1] = *header;
        let key_bytes = usize::from(u16::from_le_bytes([k0, k1]));
        let value_bytes = usize::from(u16::from_le_bytes([v0, v1]));
        let is_it = u32::from_le_bytes([t0, t1, t2, t3]) == table.0 && &rest[..key_bytes] == key;
        is_it.then(|| &self.rows[at..at + HEADER_BYTES + key_bytes + value_bytes])
    }

    fn push(&mut self, hash: u64, row: &[u8]) {
        let Ok(at) = u32::try_from(self.rows.len()) else { return };
        self.rows.extend_from_slice(row);
        self.places.insert(hash, at);
    }
}

impl Shard {
    fn bytes(&self) -> usize {
        self.young.bytes() + self.old.bytes()
    }

    fn find(
        &mut self,
        hash: u64,
        table: TableId,
        key: &[u8],
        capacity_bytes: usize,
    ) -> Option<&[u8]> {
        let value_at = HEADER_BYTES + key.len();
        if self.young.row(hash, table, key).is_none() {
            let row = self.old.row(hash, table, key)?;
            self.scratch.clear();
            self.scratch.extend_from_slice(row);
            self.push_scratch(hash, capacity_bytes);
        }
        // It may be too long by now.
        let row = self.young.row(hash, table, key)?;
        Some(&row[value_at..])
    }

    fn put(&mut self, hash: u64, table: TableId, key: &[u8], value: &[u8], capacity_bytes: usize) {
        let (Ok(key_bytes), Ok(value_bytes)) =
            (u16::try_from(key.len()), u16::try_from(value.len()))
        else {
            return;
        };
        self.scratch.clear();
        self.scratch.extend_from_slice(&table.0.to_le_bytes());
        self.scratch.extend_from_slice(&key_bytes.to_le_bytes());
        self.scratch.extend_from_slice(&value_bytes.to_le_bytes());
        self.scratch.extend_from_slice(key);
        self.scratch.extend_from_slice(value);
        self.push_scratch(hash, capacity_bytes);
    }

    fn push_scratch(&mut self, hash: u64, capacity_bytes: usize) {
        let bytes = self.scratch.len() + ENTRY_BYTES;
        if bytes * ROW_SHARE > capacity_bytes {
            return;
        }
        if self.young.bytes() + bytes > capacity_bytes {
            esker_base::mark::ROW_GENERATION.hit();
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.rows.clear();
            self.young.places.clear();
        }
        self.young.push(hash, &self.scratch);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const TABLE: TableId = TableId(3);

    fn cache(bytes: usize) -> RowCache {
        let cache = RowCache::default();
        cache.resize(bytes, false);
        assert!(!cache.is_on(), "only in the turn");
        cache.resize(bytes, true);
        assert!(cache.is_on());
        cache
    }
    fn get(cache: &RowCache, key: u32) -> Result<Vec<u8>, Ticket> {
        let (key, hash) = (key.to_le_bytes(), RowCache::hash(TABLE, &key.to_le_bytes()));
        cache.find(hash, TABLE, &key, <[u8]>::to_vec)
    }
    fn put(cache: &RowCache, key: u32, value: &[u8]) {
        let ticket = get(cache, key).expect_err("it is not there yet");
        cache.put(ticket, TABLE, &key.to_le_bytes(), value);
    }

    #[test]
    fn rows_are_found_until_they_are_written() {
        let cache = cache(1 << 20);
        put(&cache, 1, b"one");
        assert_eq!(get(&cache, 1).unwrap(), b"one");
        let (key, hash) = (1u32.to_le_bytes(), RowCache::hash(TABLE, &1u32.to_le_bytes()));
        assert!(
            cache.find(hash, TableId(4), &key, |_| ()).is_err(),
            "another table, the same hash"
        );
        let late = get(&cache, 2).expect_err("it is not there yet");
        cache.forget(TABLE, &1u32.to_le_bytes());
        assert!(get(&cache, 1).is_err());
        // What was read before a write to its shard may be old.
        cache.forget(TABLE, &2u32.to_le_bytes());
        cache.put(late, TABLE, &2u32.to_le_bytes(), b"old");
        assert!(get(&cache, 2).is_err());
        put(&cache, 2, b"new");
        let late = get(&cache, 3).expect_err("it is not there yet");
        cache.forget_all();
        assert!(get(&cache, 2).is_err());
        cache.put(late, TABLE, &3u32.to_le_bytes(), b"old");
        assert!(get(&cache, 3).is_err());
    }

    #[test]
    fn what_is_asked_for_stays_and_memory_is_bounded() {
        let cache = cache(8 << 20);
        let limit = cache.limit_bytes.load(Ordering::Relaxed);
        put(&cache, 0, &[7; 50]);
        for key in 1..50_000 {
            put(&cache, key, &[1; 50]);
            if key % 500 == 0 {
                assert_eq!(get(&cache, 0).unwrap(), [7; 50], "after {key}");
            }
        }
        assert!(get(&cache, 1).is_err() && get(&cache, 49_999).is_ok());
        let bytes = cache.bytes();
        assert!(bytes <= limit && bytes > limit / 3, "{bytes} of {limit}");
        put(&cache, 60_000, &vec![1; limit / SHARDS]);
        assert!(get(&cache, 60_000).is_err(), "too large for it");
    }

    #[test]
    fn a_sample_becomes_the_whole_while_it_answers_and_goes_with_its_memory() {
        let cache = cache(8 << 20);
        let size = || cache.limit_bytes.load(Ordering::Relaxed);
        let most = (8 << 20) / 100 * PERCENT_MAX;
        let sample = most / SAMPLE;
        let wanted = || {
            let keys = (0..1600u32).filter(|n| cache.hash_of(TABLE, &n.to_le_bytes()).is_some());
            keys.count()
        };
        assert_eq!(size(), sample);
        assert!((25..100).contains(&wanted()), "{} of 1600", wanted());
        put(&cache, 1, b"one");
        let ask = |key: fn(u32) -> u32| {
            for n in 0..1000 {
                let _row = get(&cache, key(n)).is_ok();
            }
            cache.resize(8 << 20, false);
            (size(), wanted())
        };
        assert_eq!(ask(|_| 1), (most, 1600));
        assert_eq!(ask(|n| if n % 20 == 0 { 1 } else { n + 10 }), (most, 1600), "little is enough");
        assert!(get(&cache, 1).is_ok(), "what was there stays");
        assert_eq!(ask(|n| n + 10), (most, 1600), "it is not full yet");
        assert!(get(&cache, 1).is_ok(), "what was there stays");
        (2000..90_000).for_each(|key| put(&cache, key, &[1; 50]));
        put(&cache, 100_000, b"late");
        assert_eq!(ask(|n| n + 200_000).0, sample);
        assert!(get(&cache, 100_000).is_err(), "what may be too much went");
        cache.resize(1 << 20, false);
        assert_eq!(
            (size(), wanted()),
            ((1 << 20) / 100 * PERCENT_MAX, 1600),
            "too little for a sample"
        );
        cache.resize(0, false);
        assert!(!cache.is_on() && cache.bytes() == 0);
    }
}
