//! What must be in the store, and the verdict on every answer.
//!
//! A value is a function of (record, version), so one byte per record, its version, is enough to
//! know what a get must return. With several threads any version is right that lies between the
//! last one acknowledged before the get and the next one after it.

use crate::generate::{Perm, mix, value_into};
use crate::keys::{Key, Keys, PLAIN_BYTES};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::*};
use std::sync::{Mutex, MutexGuard};
use xxhash_rust::xxh3::xxh3_64;

/// Seed of the insert order and of every thread's choices.
pub const SEED: u64 = 20_261_122;
/// Writers of one record queue on one of these, so that its versions grow one by one.
const STRIPES: usize = 1 << 16;
/// Room for records that YCSB d and e insert, beyond a quarter of the loaded ones.
const INSERTS_EXTRA: u64 = 4_000_000;
/// u64 fields before the versions in a saved state.
const SAVED_FIELDS: usize = 6;

/// The expected contents.
pub struct State {
    /// Records of a full load; ids from `n` up are YCSB inserts.
    pub n: u64,
    pub value_bytes: usize,
    pub keys: Keys,
    /// Per record: 0 = absent, else the version last written (1..=255, then 1 again).
    versions: Vec<AtomicU8>,
    stripes: Vec<Mutex<()>>,
    loaded: AtomicU64,
    inserted: AtomicU64,
    /// Whether records were loaded in the order of `perm` (else in id order).
    random: AtomicBool,
    perm: Perm,
}

/// The version after `version`.
pub fn next(version: u8) -> u8 {
    if version == 255 { 1 } else { version + 1 }
}

/// What a scanned entry adds to the checksum.
#[inline]
pub fn entry_sum(key: &[u8], value: &[u8]) -> u64 {
    let key = match <&[u8; PLAIN_BYTES]>::try_from(key) {
        Ok([_, _, _, _, _, _, _, _, tail @ ..]) => u64::from_le_bytes(*tail),
        Err(_) => xxh3_64(key),
    };
    xxh3_64(value).wrapping_add(key)
}

impl State {
    pub fn new(n: u64, value_bytes: usize, keys: Keys) -> State {
        let capacity = n + n / 4 + INSERTS_EXTRA;
        State {
            n,
            value_bytes,
            keys,
            versions: (0..capacity).map(|_| AtomicU8::new(0)).collect(),
            stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(),
            loaded: AtomicU64::new(0),
            inserted: AtomicU64::new(0),
            random: AtomicBool::new(false),
            perm: Perm::new(n, SEED),
        }
    }

    pub fn clear(&self, random: bool) {
        for version in &self.versions {
            version.store(0, Relaxed);
        }
        self.loaded.store(0, SeqCst);
        self.inserted.store(0, SeqCst);
        self.random.store(random, SeqCst);
    }

    pub fn loaded(&self) -> u64 {
        self.loaded.load(SeqCst)
    }

    pub fn set_loaded(&self, count: u64) {
        self.loaded.store(count, SeqCst);
    }

    /// Inserts so far.
    pub fn inserted(&self) -> u64 {
        self.inserted.load(SeqCst).min(self.capacity() - self.n)
    }

    /// The id of a new record; when there is no room left, of an earlier insert.
    pub fn insert(&self) -> u64 {
        self.n + self.inserted.fetch_add(1, SeqCst) % (self.capacity() - self.n)
    }

    /// The i-th loaded record's id.
    pub fn nth(&self, i: u64) -> u64 {
        if self.random.load(Relaxed) { self.perm.at(i) } else { i }
    }

    /// Ids are below this.
    pub fn capacity(&self) -> u64 {
        self.versions.len() as u64
    }

    #[inline]
    pub fn key(&self, id: u64) -> Key {
        self.keys.key(id, self.n)
    }

    /// A key that is not in the store, next to `id`'s.
    #[inline]
    pub fn absent_key(&self, id: u64) -> Key {
        self.keys.absent_key(id, self.n)
    }

    /// The record whose key this is, if it is one.
    #[inline]
    pub fn id(&self, key: &[u8]) -> Option<u64> {
        self.keys.id(key, self.n)
    }

    pub fn version(&self, id: u64) -> u8 {
        self.versions[id as usize].load(Acquire)
    }

    pub fn set_version(&self, id: u64, version: u8) {
        self.versions[id as usize].store(version, Release);
    }

    /// Held while one record is written.
    pub fn lock(&self, id: u64) -> MutexGuard<'_, ()> {
        self.stripes[mix(id) as usize % STRIPES].lock().expect("no writer panics")
    }

    /// Whether `value` may be what a get returned that began at version `before` and ended at
    /// version `after`. `scratch` saves an allocation.
    pub fn check(
        &self,
        id: u64,
        before: u8,
        after: u8,
        value: Option<&[u8]>,
        scratch: &mut Vec<u8>,
    ) -> bool {
        let Some(value) = value else { return before == 0 || after == 0 };
        if value.len() != self.value_bytes {
            return false;
        }
        scratch.resize(self.value_bytes, 0);
        // Up to the one in flight after the call: a reader that lost the processor for some ms may
        // see many go by on a hot key.
        let last = next(after);
        let mut version = before.max(1);
        for _ in 0..255 {
            value_into(id, version, scratch);
            if scratch[..] == *value {
                return true;
            }
            if version == last {
                break;
            }
            version = next(version);
        }
        false
    }

    /// Says on stderr what a wrong answer was.
    pub fn explain(&self, id: u64, before: u8, after: u8, value: Option<&[u8]>) {
        let what = match value {
            None => "not found".to_string(),
            Some(value) => {
                let mut scratch = vec![0; value.len()];
                let found = (1..=255u8).find(|version| {
                    value_into(id, *version, &mut scratch);
                    scratch == value
                });
                match found {
                    Some(version) => format!("version {version} of this record"),
                    None => format!("{} bytes never written under this key", value.len()),
                }
            }
        };
        eprintln!("WRONG: record {id}, versions {before}..={} allowed, got {what}", next(after));
    }

    /// Whether loaded records were deleted.
    pub fn has_gaps(&self) -> bool {
        (0..self.loaded()).any(|i| self.version(self.nth(i)) == 0)
    }

    /// (entries, checksum) that a full scan must find.
    pub fn expected_scan(&self) -> (u64, u64) {
        let mut value = vec![0; self.value_bytes];
        let (mut count, mut sum) = (0u64, 0u64);
        for id in 0..self.capacity() {
            let version = self.version(id);
            if version > 0 {
                value_into(id, version, &mut value);
                count += 1;
                sum = sum.wrapping_add(entry_sum(&self.key(id), &value));
            }
        }
        (count, sum)
    }

    /// Writes the state to `path`, for a later process.
    pub fn save(&self, path: &Path) -> std::io::Result<()> {
        let fields: [u64; SAVED_FIELDS] = [
            self.n,
            self.value_bytes as u64,
            self.keys as u64,
            self.loaded(),
            self.inserted(),
            u64::from(self.random.load(SeqCst)),
        ];
        let mut bytes: Vec<u8> = fields.iter().flat_map(|x| x.to_le_bytes()).collect();
        bytes.extend(self.versions.iter().map(|v| v.load(Relaxed)));
        fs::write(path, bytes)
    }

    /// Takes over what `save` wrote; false if there is nothing that fits.
    pub fn restore(&self, path: &Path) -> bool {
        let Ok(bytes) = fs::read(path) else { return false };
        if bytes.len() != self.versions.len() + SAVED_FIELDS * 8 {
            return false;
        }
        let (fields, versions) = bytes.split_at(SAVED_FIELDS * 8);
        let field = |i: usize| {
            u64::from_le_bytes(fields[i * 8..i * 8 + 8].try_into().expect("eight bytes"))
        };
        let fixed = [self.n, self.value_bytes as u64, self.keys as u64];
        if [field(0), field(1), field(2)] != fixed {
            return false;
        }
        self.loaded.store(field(3), SeqCst);
        self.inserted.store(field(4), SeqCst);
        self.random.store(field(5) != 0, SeqCst);
        for (version, saved) in self.versions.iter().zip(versions) {
            version.store(*saved, Relaxed);
        }
        true
    }
}
