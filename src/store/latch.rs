//! The latch of a leaf: a word for readers and a writer.
//!
//! ```text
//! bit 31: a writer is inside, or waits for readers to leave | bits 0..31: readers, and who would like to be one
//! ```
//!
//! Held for microseconds, never over I/O; many at once only in the commit turn, so that nobody waits in a circle.

use esker_base::sync::{AtomicU32, Backoff, Ordering};

const WRITER: u32 = 1 << 31;

/// Zero is free.
#[repr(transparent)]
#[derive(Debug, Default)]
pub(crate) struct Latch(AtomicU32);

impl Latch {
    /// Waits for a writer to leave, then holds off writers.
    #[inline]
    pub(crate) fn lock_shared(&self) {
        let mut backoff = Backoff::default();
        while self.0.fetch_add(1, Ordering::Acquire) & WRITER != 0 {
            self.0.fetch_sub(1, Ordering::Relaxed);
            while self.0.load(Ordering::Relaxed) & WRITER != 0 {
                backoff.wait();
            }
        }
    }
    #[inline]
    pub(crate) fn unlock_shared(&self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
    /// Holds off new readers, then waits for those inside.
    pub(crate) fn lock_exclusive(&self) {
        let mut backoff = Backoff::default();
        while self.0.fetch_or(WRITER, Ordering::Acquire) & WRITER != 0 {
            backoff.wait();
        }
        while self.0.load(Ordering::Acquire) != WRITER {
            backoff.wait();
        }
    }
    /// Without waiting. False if anybody is inside, or tries to be.
    pub(crate) fn try_lock_exclusive(&self) -> bool {
        self.0.compare_exchange(0, WRITER, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }
    pub(crate) fn unlock_exclusive(&self) {
        self.0.fetch_and(!WRITER, Ordering::Release);
    }
    /// True if somebody holds it exclusively (for assertions).
    pub(crate) fn is_locked_exclusive(&self) -> bool {
        self.0.load(Ordering::Relaxed) & WRITER != 0
    }
}
