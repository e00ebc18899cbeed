//! Locks, atomics and threads, in one place so that a controlled scheduler can replace them.
//!
//! The rest of the workspace takes them from here and nowhere else.

pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
pub use std::sync::{Arc, OnceLock, Weak};
pub use std::{thread, thread_local};

/// Waits a little for another thread: spins at first, then gives the processor away.
#[derive(Debug, Default)]
pub struct Backoff {
    step: u32,
}

impl Backoff {
    /// True if it has not waited for long.
    pub fn is_short(&self) -> bool {
        const STEPS_MAX: u32 = 1000;
        self.step < STEPS_MAX
    }
    /// Called once per failed try.
    pub fn wait(&mut self) {
        self.step += 1;
        if self.step < 6 {
            for _ in 0..1 << self.step {
                std::hint::spin_loop();
            }
        } else {
            thread::yield_now();
        }
    }
}

static NEXT_THREAD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static THREAD: usize = NEXT_THREAD.fetch_add(1, Ordering::Relaxed);
}

/// A number for the calling thread, counted from 0 in the order of first calls. Tells threads apart
/// that should keep to cache lines of their own.
#[inline]
pub fn thread_number() -> usize {
    THREAD.with(|number| *number)
}

/// Own cache line (two: adjacent lines are fetched together).
#[repr(align(128))]
#[derive(Debug, Default)]
struct Stripe(AtomicU64);

/// A counter that threads add to without meeting on a cache line.
#[derive(Debug, Default)]
pub struct Striped([Stripe; Striped::STRIPES]);

impl Striped {
    const STRIPES: usize = 16;

    /// Adds `n`.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0[thread_number() % Self::STRIPES].0.fetch_add(n, Ordering::Relaxed);
    }
    /// The sum so far; not a moment's, if others are adding.
    pub fn sum(&self) -> u64 {
        self.0.iter().map(|stripe| stripe.0.load(Ordering::Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stripes_add_up() {
        let counter = Striped::default();
        thread::scope(|scope| {
            for _ in 0..20 {
                scope.spawn(|| (0..100).for_each(|_| counter.add(2)));
            }
        });
        assert_eq!(counter.sum(), 4000);
    }
}
