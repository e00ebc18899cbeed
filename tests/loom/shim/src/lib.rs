//! `esker_base::sync` as far as the modules under test use it, with loom's atomics in the place of the processor's.

/// See `base/src/sync.rs`.
pub mod sync {
    pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

    /// Gives way at once: spinning makes no other schedule.
    #[derive(Debug, Default)]
    pub struct Backoff;

    impl Backoff {
        /// Lets the others run.
        pub fn wait(&mut self) {
            loom::thread::yield_now();
        }
    }

    /// All threads begin their search at one slot: the most that can go wrong.
    pub fn thread_number() -> usize {
        0
    }
}
