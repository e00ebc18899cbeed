//! Which keys the memtable lacks, as far as one line of the processor's cache can tell: most gets then need no way down
//! the memtable's tree.
//!
//! A blocked Bloom filter in memory, of all keys that were put into the memtable since it began. A memtable that was there
//! when the database was opened has none; the next one has.
//!
//! # Why an answer is right
//!
//! Bits are set in the turn, before the row's leaf is changed and before the commit is published; nothing takes one back before
//! the memtable has become a run. So who finds one that is not set knows that the memtable it covers lacks the key at that
//! moment, and has lacked it from its beginning on. The bits are cleared for the next memtable after the new root was
//! published: who met them then finds, in the end, that the root which it has read is not current any more, as it
//! would if the rows had moved otherwise.

use esker_base::PageId;
use esker_base::sync::{AtomicU64, OnceLock, Ordering};

/// Bytes of rows in a memtable for which there is a line: 16 bits a row of 128 bytes.
const ROWS_BYTES_PER_LINE: u64 = 4096;
/// Lines that are given memory together, once one of them is used.
const CHUNK_LINES: usize = if cfg!(loom) { 1 } else { 64 };
const LINE_WORDS: usize = 8;
/// Bits set per row.
const PROBES: u32 = 4;
const PROBE_BITS: u32 = 9;
const _: () = assert!(1 << PROBE_BITS == LINE_WORDS * 64);

#[repr(align(64))]
#[derive(Debug, Default)]
struct Line([AtomicU64; LINE_WORDS]);

/// The bits of a key: word and bit in it.
#[inline]
fn probes(hash: u64) -> impl Iterator<Item = (usize, u64)> {
    (0..PROBES).map(move |i| {
        let bit = hash >> (i * PROBE_BITS) & ((1 << PROBE_BITS) - 1);
        (usize::try_from(bit / 64).expect("a word of a line"), 1 << (bit % 64))
    })
}

/// The keys of the memtable, about.
#[derive(Debug)]
pub(crate) struct Recent {
    /// The root of the memtable's tree; 0 if it is none of which all keys are known.
    covers: AtomicU64,
    lines: u64,
    chunks: Box<[OnceLock<Box<[Line]>>]>,
}

impl Recent {
    /// For memtables of about so many bytes of rows.
    pub(crate) fn new(memtable_bytes: u64) -> Self {
        let lines = memtable_bytes.div_ceil(ROWS_BYTES_PER_LINE).clamp(1, u64::from(u32::MAX));
        let chunks = usize::try_from(lines).expect("32 bits").div_ceil(CHUNK_LINES);
        let chunks = (0..chunks).map(|_| OnceLock::new()).collect();
        Self { covers: AtomicU64::new(0), lines, chunks }
    }

    /// Chunk and line of a key.
    #[inline]
    fn place(&self, hash: u64) -> (usize, usize) {
        let line = usize::try_from(((hash >> 32) * self.lines) >> 32).expect("below `lines`");
        (line / CHUNK_LINES, line % CHUNK_LINES)
    }
    /// True if it is known that a memtable, named by its tree's root, lacks the key with this hash. Holds if the table's
    /// root, read before, is still current after it.
    #[inline]
    pub(crate) fn is_lacking(&self, tree: PageId, hash: u64) -> bool {
        if self.covers.load(Ordering::Acquire) != tree.0 {
            return false;
        }
        let (chunk, line) = self.place(hash);
        let Some(lines) = self.chunks[chunk].get() else { return true };
        let words = &lines[line].0;
        // All four are looked at, so that there is one branch, which the processor may guess before the line has come.
        let lacks = probes(hash).map(|(word, bit)| !words[word].load(Ordering::Acquire) & bit);
        lacks.fold(0, |all, one| all | one) != 0
    }
    /// A row with this hash is about to be put into the memtable, in the turn.
    pub(crate) fn will_put(&self, hash: u64) {
        if self.covers.load(Ordering::Relaxed) == 0 {
            return;
        }
        let (chunk, line) = self.place(hash);
        let lines =
            self.chunks[chunk].get_or_init(|| (0..CHUNK_LINES).map(|_| Line::default()).collect());
        for (word, bit) in probes(hash) {
            // Only who is in the turn writes here.
            let before = lines[line].0[word].load(Ordering::Relaxed);
            if before & bit == 0 {
                lines[line].0[word].store(before | bit, Ordering::Release);
            }
        }
    }
    /// In the turn, after the root that names it was published: the memtable is a new one, and empty.
    pub(crate) fn cover(&self, tree: PageId) {
        for line in self.chunks.iter().filter_map(OnceLock::get).flat_map(|lines| lines.iter()) {
            for word in &line.0 {
                word.store(0, Ordering::Release);
            }
        }
        self.covers.store(tree.0, Ordering::Release);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::run::filter::key_hash;

    fn hash(key: u64) -> u64 {
        key_hash(&key.to_le_bytes())
    }

    #[test]
    fn it_knows_what_was_not_put() {
        let recent = Recent::new(128 * 3000);
        recent.will_put(hash(1));
        assert!(
            !recent.is_lacking(PageId(7), hash(2)),
            "nothing is known of a memtable that was there"
        );
        recent.cover(PageId(7));
        assert!(recent.is_lacking(PageId(7), hash(1)));
        (0..3000).for_each(|key| recent.will_put(hash(key)));
        assert!((0..3000).all(|key| !recent.is_lacking(PageId(7), hash(key))));
        let lacking = (3000..13_000).filter(|key| recent.is_lacking(PageId(7), hash(*key))).count();
        assert!(lacking > 9900, "{lacking} of 10000");
        assert!(!recent.is_lacking(PageId(8), hash(5000)), "another memtable");
        recent.cover(PageId(8));
        assert!(recent.is_lacking(PageId(8), hash(1)));
        assert!(!recent.is_lacking(PageId(7), hash(1)));
    }
}
