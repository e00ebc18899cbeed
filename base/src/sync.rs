//! Locks, atomics and threads, in one place so that a controlled scheduler can replace them.
//!
//! The rest of the workspace takes them from here and nowhere else.

pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use std::sync::atomic::{
    AtomicBool, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
pub use std::sync::{Arc, OnceLock, Weak};
pub use std::thread;

/// Waits a little for another thread: spins at first, then gives the processor away.
#[derive(Debug, Default)]
pub struct Backoff {
    step: u32,
}

impl Backoff {
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
