//! `esker_base` as far as the modules under test use it, with loom's atomics in the place of the processor's.

/// See `base/src/id.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitNo(pub u64);
/// See `base/src/id.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageId(pub u64);

/// See `base/src/id.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableId(pub u32);

/// See `base/src/mark.rs`: nobody counts here.
pub mod mark {
    /// A mark.
    #[derive(Debug)]
    pub struct Mark;

    impl Mark {
        /// Nothing.
        pub fn hit(&self) {}
    }

    #[allow(missing_docs, reason = "see the engine's")]
    mod all {
        use super::Mark;
        pub static ROW_CACHED: Mark = Mark;
        pub static ROW_OVERTAKEN: Mark = Mark;
        pub static ROW_FORGOTTEN: Mark = Mark;
        pub static ROW_GENERATION: Mark = Mark;
    }
    pub use all::*;
}

/// See `base/src/sync.rs`.
pub mod sync {
    pub use loom::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

    pub use std::sync::Arc;

    /// As the standard library's: who finds a value sees what was done before it was put there.
    #[derive(Debug)]
    pub struct OnceLock<T> {
        is_there: AtomicU32,
        value: std::sync::OnceLock<T>,
    }

    impl<T> OnceLock<T> {
        /// Without a value.
        pub fn new() -> Self {
            Self { is_there: AtomicU32::new(0), value: std::sync::OnceLock::new() }
        }
        /// The value, if there is one.
        pub fn get(&self) -> Option<&T> {
            if self.is_there.load(Ordering::Acquire) == 0 { None } else { self.value.get() }
        }
        /// The value, made if there was none.
        pub fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
            if self.get().is_none() {
                self.value.get_or_init(make);
                self.is_there.store(1, Ordering::Release);
            }
            self.value.get().expect("just made")
        }
    }

    impl<T> Default for OnceLock<T> {
        fn default() -> Self {
            Self::new()
        }
    }

    /// A mutex that nobody poisons.
    #[derive(Debug)]
    pub struct Mutex<T>(loom::sync::Mutex<T>);

    impl<T> Mutex<T> {
        /// With a value.
        pub fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }
        /// Waits for it.
        pub fn lock(&self) -> loom::sync::MutexGuard<'_, T> {
            self.0.lock().expect("nobody panics with it")
        }
    }

    impl<T: Default> Default for Mutex<T> {
        fn default() -> Self {
            Self::new(T::default())
        }
    }

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
