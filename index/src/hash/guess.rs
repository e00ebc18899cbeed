//! Which frame a bucket is in, guessed from the hash alone: its lines are then on their way from memory while the branches
//! are gone down, a chain of loads of which each needs the one before.
//!
//! As a directory of one level: the frames that buckets were last found in, by the first bits of the hash. It grows
//! with the bits that branches take. Nothing relies on it: a wrong guess asks for some lines in vain.

use super::absent::FilterMemory;
use crate::pages::ChildWord;
use esker_base::PageId;
use esker_base::sync::{Arc, AtomicU32, OnceLock, Ordering};

/// Bits of the first directory.
const BITS_MIN: u32 = 8;
/// Directories of a table: the largest has 2^22 frames.
const SIZES: usize = 15;

/// The guesses of a table.
#[derive(Debug)]
pub(crate) struct Guesses {
    memory: Arc<FilterMemory>,
    /// Each has twice the frames of the one before. The last one is used; those before stay, since somebody may be
    /// reading there.
    directories: Box<[OnceLock<Box<[AtomicU32]>>; SIZES]>,
    /// How many there are.
    count: AtomicU32,
    /// About how often something was learnt since the last one was made.
    learnt: AtomicU32,
}

impl Guesses {
    pub(crate) fn new(memory: Arc<FilterMemory>) -> Self {
        Self {
            memory,
            directories: Box::default(),
            count: AtomicU32::new(0),
            learnt: AtomicU32::new(0),
        }
    }

    /// The frame of the bucket that a hash leads to.
    #[inline]
    fn slot(&self, hash: u64) -> Option<&AtomicU32> {
        let last = self.count.load(Ordering::Relaxed).checked_sub(1)?;
        let directory = self.directories[last as usize].get()?;
        Some(&directory[usize::try_from(hash >> (64 - BITS_MIN - last)).expect("few bits")])
    }
    /// True if anything was learnt.
    #[inline]
    pub(crate) fn are_any(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 0
    }
    /// A word with the guess for a hash as its hint, to ask for lines.
    #[inline]
    pub(crate) fn word(&self, hash: u64) -> Option<ChildWord> {
        let frame = self.slot(hash)?.load(Ordering::Relaxed);
        (frame != ChildWord::NO_HINT).then(|| ChildWord::new(PageId(0), frame))
    }
    /// The bucket of a hash, below branches that take so many bits, is in another frame than was guessed.
    #[cold]
    pub(crate) fn learn(&self, hash: u64, bits: u32, frame: u32) {
        let count = self.count.load(Ordering::Relaxed);
        if count == 0 || bits >= BITS_MIN + count {
            self.grow_at_last(count);
        }
        if let Some(slot) = self.slot(hash) {
            slot.store(frame, Ordering::Relaxed);
        }
    }
    /// Makes a larger directory, if this was called often enough: a few deep branches are no reason to.
    fn grow_at_last(&self, count: u32) {
        let Some(next) = self.directories.get(count as usize) else { return };
        if next.get().is_some_and(|directory| directory.is_empty()) {
            // There was no memory.
            return;
        }
        let enough = if count == 0 { 0 } else { 1 << (BITS_MIN + count - 2) };
        if self.learnt.fetch_add(1, Ordering::Relaxed) < enough {
            return;
        }
        let directory = next.get_or_init(|| {
            let frames = 1 << (BITS_MIN + count);
            let frames =
                if self.memory.take_for_guesses(size_of::<u32>() * frames) { frames } else { 0 };
            (0..frames).map(|_| AtomicU32::new(ChildWord::NO_HINT)).collect()
        });
        if !directory.is_empty() {
            self.learnt.store(0, Ordering::Relaxed);
            self.count.fetch_max(count + 1, Ordering::Release);
        }
    }
    /// Bytes that they take.
    pub(crate) fn bytes(&self) -> usize {
        self.directories.iter().filter_map(OnceLock::get).map(|all| size_of_val(&**all)).sum()
    }
}

impl Drop for Guesses {
    fn drop(&mut self) {
        self.memory.give_back_guesses(self.bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guess(guesses: &Guesses, hash: u64) -> Option<u32> {
        guesses.word(hash).map(|word| ChildWord::hint_of(word.load()))
    }

    #[test]
    fn what_was_learnt_last_is_guessed() {
        let memory = Arc::new(FilterMemory::new(1 << 22));
        let guesses = Guesses::new(Arc::clone(&memory));
        assert_eq!(guess(&guesses, 7 << 56), None);
        guesses.learn(7 << 56, 3, 70);
        guesses.learn(8 << 56, 3, 80);
        guesses.learn(7 << 56, 3, 71);
        assert_eq!(guess(&guesses, (7 << 56) + 5), Some(71));
        assert_eq!(guess(&guesses, u64::MAX), None);
        assert_eq!(guesses.bytes(), 1 << 10);
        for n in 0..200_000_u32 {
            guesses.learn(u64::from(n) << 48, 16, n % 1000);
        }
        assert_eq!(guesses.bytes(), (1 << 19) - (1 << 10), "as many as the bits call for");
        let last = 199_999_u32;
        assert_eq!(guess(&guesses, u64::from(last) << 48), Some(last % 1000));
    }

    #[test]
    fn they_keep_to_their_memory() {
        let memory = Arc::new(FilterMemory::new(1 << 16));
        let tables = [(); 3].map(|()| Guesses::new(Arc::clone(&memory)));
        for n in 0..300_000_u32 {
            tables[n as usize % 3].learn(u64::from(n) << 44, 20, n % 1000);
        }
        let bytes: usize = tables.iter().map(Guesses::bytes).sum();
        assert!((1 << 12..=1 << 13).contains(&bytes), "{bytes}");
        drop(tables);
        let one = Guesses::new(memory);
        for n in 0..300_000_u32 {
            one.learn(u64::from(n) << 44, 20, n % 1000);
        }
        assert_eq!(one.bytes(), 7 << 10, "all that the others had");
    }
}
