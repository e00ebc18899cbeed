//! Which keys have no row, as far as one line of the processor's cache can tell: most gets of absent keys then end
//! without a look at any page.
//!
//! ```text
//! line = since u64 | 448 bits          a bit that is set: no row of the line has it among its four
//! ```
//!
//! The first bits of a key's hash choose a line, the last ones its bits in it: so nothing that happens to buckets
//! concerns a line, and there is one wait for memory, whatever the table's size. It is a Bloom filter, turned around so that
//! zeroes say nothing. A line is made once the bucket of an absent key was read in vain; there is none in a table whose
//! keys are always found.
//!
//! # Why an answer is right
//!
//! A line is made of a bucket that holds all of its rows, under the bucket's latch, and only of what is published. A put
//! clears the bits of its row under the bucket's exclusive latch, in the turn, and before its commit is published; a delete sets
//! none. So the stores to a line come one after the other, but for those who make the same of the same bucket; and who
//! finds a bit set knows that the key had no row at that moment, and has had none since the commit that the bucket had when
//! the line was made. A put that was over before then is seen: it came before that in the order of each word's stores.
//!
//! A delete of everything gives the table other buckets without a latch on those before. Who makes a line therefore makes sure,
//! under a lock, that there was none since it began its way down.
//!
//! Lines are made anew in a larger directory once they have many rows. A put that is over wrote to the directory that is the
//! last one for whoever comes after it, or its bucket's latch came before whatever was made there.

use super::Hasher;
use super::absent::FilterMemory;
use super::bucket::Bucket;
use esker_base::CommitNo;
use esker_base::sync::{Arc, AtomicU32, AtomicU64, Mutex, OnceLock, Ordering};

/// Bits of the first directory.
const BITS_MIN: u32 = 4;
/// Each directory takes so many bits more than the one before: those before stay, since somebody may be reading there.
const BITS_STEP: u32 = 2;
/// Directories of a table: the largest has 2^22 lines.
const SIZES: usize = 10;
/// Words of a line that are bits.
const WORDS: usize = 7;
const LINE_BITS: u64 = 64 * WORDS as u64;
/// Bits set per row. Of absent keys, one in a thousand is taken for a present one with 20 rows a line, 3 % with 60.
const PROBES: u32 = 4;
const PROBE_BITS: u32 = 9;
/// Absent keys for which there is no line yet.
const ABSENT_MIN: u32 = 8;
/// Rows of a line beyond which a larger directory is wanted.
const ROWS_WANTED_MAX: usize = 60;
/// Rows of a line beyond which it is not worth making: half of the absent keys would pass.
const ROWS_MAX: usize = 200;

/// Some bits of those keys whose hashes begin alike.
#[repr(C, align(64))]
#[derive(Debug, Default)]
struct Line {
    /// All bits that are set were made as of this commit, or an earlier one.
    since: AtomicU64,
    words: [AtomicU64; WORDS],
}
#[cfg(not(loom))]
const _: () = assert!(size_of::<Line>() == 64);

/// The bits of a key: word and bit in it.
#[inline]
fn probes(hash: u64) -> impl Iterator<Item = (usize, u64)> {
    (0..PROBES).map(move |i| {
        let probe = hash >> (i * PROBE_BITS) & ((1 << PROBE_BITS) - 1);
        let bit = (probe * LINE_BITS) >> PROBE_BITS;
        (usize::try_from(bit / 64).expect("a word of a line"), 1 << (bit % 64))
    })
}

impl Line {
    #[inline]
    fn is_absent(&self, hash: u64) -> bool {
        // All four are looked at, so that there is one branch, which the processor may guess before the line has come.
        let found = probes(hash).map(|(word, bit)| self.words[word].load(Ordering::Acquire) & bit);
        found.fold(0, |all, one| all | one) != 0
    }
    /// Only one thread at a time puts, and nobody makes the line meanwhile.
    fn put(&self, hash: u64) {
        for (word, bit) in probes(hash) {
            let before = self.words[word].load(Ordering::Relaxed);
            if before & bit != 0 {
                self.words[word].store(before & !bit, Ordering::Release);
            }
        }
    }
    fn rows_bits(&self) -> usize {
        let clear = |word: &AtomicU64| word.load(Ordering::Relaxed).count_zeros() as usize;
        self.words.iter().map(clear).sum()
    }
    /// Makes it of all rows that belong to it.
    fn make(&self, hashes: impl Iterator<Item = u64>, at: CommitNo) {
        let mut words = [u64::MAX; WORDS];
        for hash in hashes {
            for (word, bit) in probes(hash) {
                words[word] &= !bit;
            }
        }
        // Before the bits that it holds for.
        self.since.fetch_max(at.0, Ordering::Relaxed);
        for (word, bits) in self.words.iter().zip(words) {
            word.store(bits, Ordering::Release);
        }
    }
}

/// The lines of a table.
#[derive(Debug)]
pub(crate) struct Lines {
    memory: Arc<FilterMemory>,
    directories: Box<[OnceLock<Box<[Line]>>; SIZES]>,
    /// How many there are; the last one is used.
    count: AtomicU32,
    /// About how often a larger one was wanted since the last one was made.
    wanted: AtomicU32,
    /// How often everything was deleted. Changed under `making`.
    cleared: AtomicU32,
    /// Held by who makes a line.
    making: Mutex<()>,
}

/// The state of a table when a way down began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Since(u32);

/// Bits that choose a line in the last of so many directories.
fn bits_of(count: u32) -> u32 {
    BITS_MIN + BITS_STEP * (count - 1)
}

impl Lines {
    pub(crate) fn new(memory: Arc<FilterMemory>) -> Self {
        Self {
            memory,
            directories: Box::default(),
            count: AtomicU32::new(0),
            wanted: AtomicU32::new(0),
            cleared: AtomicU32::new(0),
            making: Mutex::new(()),
        }
    }

    /// To be called before a way down that may lead to [`Self::was_absent`].
    #[inline]
    pub(crate) fn now(&self) -> Since {
        Since(self.cleared.load(Ordering::Acquire))
    }
    /// Everything was deleted: the table's root has been replaced, and nobody has put anything yet.
    pub(crate) fn was_cleared(&self) {
        let _making = self.making.lock();
        self.cleared.fetch_add(1, Ordering::Release);
    }

    /// The line of a key, and how many bits have chosen it.
    #[inline]
    fn line(&self, hash: u64) -> Option<(&Line, u32)> {
        let count = self.count.load(Ordering::Acquire);
        let last = count.checked_sub(1)?;
        let directory = self.directories[last as usize].get()?;
        let bits = bits_of(count);
        let line = usize::try_from(hash >> (64 - bits)).expect("few bits");
        Some((&directory[line], bits))
    }
    /// The commit since which the key with this hash has had no row, if that is known.
    #[inline]
    pub(crate) fn absent_since(&self, hash: u64) -> Option<CommitNo> {
        let (line, _) = self.line(hash)?;
        line.is_absent(hash).then(|| CommitNo(line.since.load(Ordering::Relaxed)))
    }
    /// A row of this hash is about to be put into its bucket, which is latched, in the turn.
    #[inline]
    pub(crate) fn will_put(&self, hash: u64) {
        if let Some((line, _)) = self.line(hash) {
            line.put(hash);
        }
    }
    /// The bucket of a hash was read as it is now, and did not have the key. Under its latch; the way down began at `start`.
    #[cold]
    pub(crate) fn was_absent(
        &self,
        start: Since,
        (hasher, hash): (Hasher, u64),
        (bucket, at): (Bucket<'_>, CommitNo),
    ) {
        let place = bucket.place();
        let count = self.count.load(Ordering::Acquire);
        let rows = |bits: u32| bits.checked_sub(place.bits).map(|more| bucket.len() >> more);
        let rows_now = if count == 0 { None } else { rows(bits_of(count)) };
        if rows_now.is_none_or(|rows| rows > ROWS_WANTED_MAX) {
            self.grow_at_last(count);
        }
        let Some((line, bits)) = self.line(hash) else { return };
        let Some(rows) = rows(bits).filter(|rows| *rows <= ROWS_MAX) else { return };
        // A bit for each probe of each row, and some more, since lines are not alike.
        let enough = PROBES as usize * (rows + rows / 4 + 8);
        if line.rows_bits() > enough {
            let _making = self.making.lock();
            if self.now() != start {
                return;
            }
            let hashes = (0..bucket.len()).map(|i| hasher.hash(bucket.key(i), 0));
            line.make(hashes.filter(|other| (other ^ hash) >> (64 - bits) == 0), at);
        }
    }
    /// Makes a larger directory, if one was wanted often enough: a few deep buckets are no reason to.
    fn grow_at_last(&self, count: u32) {
        let Some(next) = self.directories.get(count as usize) else { return };
        if next.get().is_some_and(|directory| directory.is_empty()) {
            // There was no memory.
            return;
        }
        let enough = if count == 0 { ABSENT_MIN } else { 1 << (bits_of(count) - 3) };
        if self.wanted.fetch_add(1, Ordering::Relaxed) < enough {
            return;
        }
        let directory = next.get_or_init(|| {
            let lines = 1 << bits_of(count + 1);
            let lines =
                if self.memory.take_for_lines(size_of::<Line>() * lines) { lines } else { 0 };
            (0..lines).map(|_| Line::default()).collect()
        });
        if !directory.is_empty() {
            self.wanted.store(0, Ordering::Relaxed);
            self.count.fetch_max(count + 1, Ordering::AcqRel);
        }
    }
    /// Bytes that they take.
    pub(crate) fn bytes(&self) -> usize {
        self.directories.iter().filter_map(OnceLock::get).map(|all| size_of_val(&**all)).sum()
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.memory.give_back_lines(self.bytes());
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::super::bucket::{init, insert, mark_of};
    use super::super::{Hash, way::Place};
    use super::*;
    use crate::kind::Value;

    const AT: CommitNo = CommitNo(5);

    fn hasher() -> Hasher {
        Hash::default().hasher()
    }
    fn hash(key: u32) -> u64 {
        hasher().hash(&key.to_le_bytes(), 0)
    }
    /// The root's bucket with some rows.
    fn bucket(keys: impl Iterator<Item = u32>) -> Vec<u8> {
        let mut body = vec![0; 8128];
        init(&mut body, Place::ROOT);
        for key in keys {
            insert(&mut body, mark_of(hash(key)), &key.to_le_bytes(), &Value::Inline(b"v"));
        }
        body
    }
    fn get_absent(lines: &Lines, start: Since, key: u32, body: &[u8], at: CommitNo) {
        lines.was_absent(start, (hasher(), hash(key)), (Bucket::new(body), at));
    }
    /// Lines with a directory, of which none is made.
    fn with_directory() -> Lines {
        let lines = Lines::new(Arc::new(FilterMemory::new(1 << 20)));
        let none = bucket(0..0);
        let start = lines.now();
        lines.was_cleared();
        (0..=ABSENT_MIN).for_each(|key| get_absent(&lines, start, key, &none, AT));
        assert!(lines.bytes() > 0);
        assert!((0..1000).all(|key| lines.absent_since(hash(key)).is_none()), "none was made");
        lines
    }

    #[test]
    fn a_line_knows_what_was_not_put() {
        let lines = with_directory();
        let body = bucket(0..100);
        (1000..9000).for_each(|key| get_absent(&lines, lines.now(), key, &body, AT));
        assert!((0..100).all(|key| lines.absent_since(hash(key)).is_none()));
        let known = (1000..9000).filter(|key| lines.absent_since(hash(*key)) == Some(AT)).count();
        assert!(known > 7900, "{known} of 8000");
        (100..150).for_each(|key| lines.will_put(hash(key)));
        assert!((0..150).all(|key| lines.absent_since(hash(key)).is_none()));
    }

    /// Else who still holds a bucket of before would say of keys that were put since that there are none.
    #[test]
    fn no_line_is_made_of_what_was_there_before_everything_was_deleted() {
        let lines = with_directory();
        let start = lines.now();
        lines.was_cleared();
        lines.will_put(hash(7));
        get_absent(&lines, start, 7, &bucket(0..0), AT);
        assert_eq!(lines.absent_since(hash(7)), None);
        get_absent(&lines, lines.now(), 8, &bucket(7..8), AT);
        assert_eq!(lines.absent_since(hash(7)), None);
    }

    #[test]
    fn what_many_deletes_left_is_made_anew() {
        let lines = with_directory();
        (0..20_000).for_each(|key| lines.will_put(hash(key)));
        let (full, none) = (bucket(0..300), bucket(0..0));
        (30_000..40_000).for_each(|key| get_absent(&lines, lines.now(), key, &full, AT));
        (0..20_000).for_each(|key| lines.will_put(hash(key)));
        let known = |since| {
            let is_known = |key: &u32| lines.absent_since(hash(*key)).is_some_and(|at| at >= since);
            (30_000..40_000).filter(is_known).count()
        };
        assert!(known(AT) < 5000, "{} of 10000 beside so many rows", known(AT));
        let later = CommitNo(9);
        (30_000..40_000).for_each(|key| get_absent(&lines, lines.now(), key, &none, later));
        assert!(known(later) > 9900, "{} of 10000", known(later));
    }

    #[test]
    fn they_keep_to_their_memory() {
        let memory = Arc::new(FilterMemory::new(1 << 16));
        let tables = [(); 20].map(|()| Lines::new(Arc::clone(&memory)));
        let body = bucket(0..300);
        for key in 1000..50_000 {
            let lines = &tables[key as usize % 20];
            get_absent(lines, lines.now(), key, &body, AT);
        }
        assert_eq!(tables.iter().map(Lines::bytes).sum::<usize>(), 1 << 14);
        drop(tables);
        assert!(memory.take_for_lines(1 << 14), "all of it came back");
    }
}
