//! What `base/src/sync.rs` has, so that shuttle decides at each step who goes on.
//!
//! Atomics are the processor's, with a step before each access: the engine puts them into memory of its own, where shuttle's
//! would not fit. What the steps do is sequentially consistent, as in shuttle's own: what weaker orders allow is a matter of
//! `tests/loom`. Waits that end after a while may end at once.

pub use shuttle::thread;
pub use std::sync::atomic::Ordering;
pub use std::sync::{Arc, OnceLock, Weak};

use std::ops::{Deref, DerefMut};
use std::time::Duration;

/// A place where another thread may go on. None outside of shuttle's threads: statics are made and dropped there.
fn step() {
    shuttle::sync::atomic::AtomicBool::new(false).load(Ordering::SeqCst);
}

/// A step; accesses are ordered as they are.
pub fn fence(_order: Ordering) {
    step();
}

macro_rules! atomic {
    ($($name:ident $std:ident $of:ty: [$($number:ident)*];)*) => { $(
        /// See the standard library's.
        #[repr(transparent)]
        #[derive(Debug, Default)]
        pub struct $name(std::sync::atomic::$std);

        #[allow(missing_docs, reason = "see the standard library's")]
        impl $name {
            pub const fn new(value: $of) -> Self {
                Self(std::sync::atomic::$std::new(value))
            }
            pub fn load(&self, order: Ordering) -> $of {
                step();
                self.0.load(order)
            }
            pub fn store(&self, value: $of, order: Ordering) {
                step();
                self.0.store(value, order);
            }
            pub fn swap(&self, value: $of, order: Ordering) -> $of {
                step();
                self.0.swap(value, order)
            }
            pub fn compare_exchange(
                &self,
                old: $of,
                new: $of,
                good: Ordering,
                bad: Ordering,
            ) -> Result<$of, $of> {
                step();
                self.0.compare_exchange(old, new, good, bad)
            }
            pub fn compare_exchange_weak(
                &self,
                old: $of,
                new: $of,
                good: Ordering,
                bad: Ordering,
            ) -> Result<$of, $of> {
                self.compare_exchange(old, new, good, bad)
            }
            pub fn fetch_or(&self, value: $of, order: Ordering) -> $of {
                step();
                self.0.fetch_or(value, order)
            }
            pub fn fetch_and(&self, value: $of, order: Ordering) -> $of {
                step();
                self.0.fetch_and(value, order)
            }
            pub fn fetch_update(
                &self,
                good: Ordering,
                bad: Ordering,
                change: impl FnMut($of) -> Option<$of>,
            ) -> Result<$of, $of> {
                step();
                self.0.fetch_update(good, bad, change)
            }
            pub fn get_mut(&mut self) -> &mut $of {
                self.0.get_mut()
            }
            pub fn into_inner(self) -> $of {
                self.0.into_inner()
            }
            $(
                pub fn $number(&self, value: $of, order: Ordering) -> $of {
                    step();
                    self.0.$number(value, order)
                }
            )*
        }
    )* };
}

atomic! {
    AtomicBool AtomicBool bool: [];
    AtomicU8 AtomicU8 u8: [fetch_add fetch_sub fetch_max fetch_min];
    AtomicU16 AtomicU16 u16: [fetch_add fetch_sub fetch_max fetch_min];
    AtomicU32 AtomicU32 u32: [fetch_add fetch_sub fetch_max fetch_min];
    AtomicU64 AtomicU64 u64: [fetch_add fetch_sub fetch_max fetch_min];
    AtomicUsize AtomicUsize usize: [fetch_add fetch_sub fetch_max fetch_min];
}

/// A lock without poisoning, as `parking_lot`'s.
#[derive(Debug, Default)]
pub struct Mutex<T: ?Sized>(shuttle::sync::Mutex<T>);

/// Of a [`Mutex`]; empty while a [`Condvar`] waits.
#[derive(Debug)]
pub struct MutexGuard<'a, T: ?Sized> {
    lock: &'a Mutex<T>,
    inner: Option<shuttle::sync::MutexGuard<'a, T>>,
}

impl<T> Mutex<T> {
    /// A lock around a value.
    pub const fn new(value: T) -> Self {
        Self(shuttle::sync::Mutex::new(value))
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits for it.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        let inner = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        MutexGuard { lock: self, inner: Some(inner) }
    }
    /// `None` if another thread has it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock().ok().map(|inner| MutexGuard { lock: self, inner: Some(inner) })
    }
    /// Waits for some steps.
    pub fn try_lock_for(&self, _timeout: Duration) -> Option<MutexGuard<'_, T>> {
        const TRIES: usize = 4;
        (0..TRIES).find_map(|_| {
            let guard = self.try_lock();
            if guard.is_none() {
                thread::yield_now();
            }
            guard
        })
    }
    /// Nobody else can have it.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.inner.as_ref().expect("nobody looks while it waits")
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().expect("nobody looks while it waits")
    }
}

/// Whether a wait ended by itself.
#[derive(Clone, Copy, Debug)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// True if nobody woke it.
    pub fn timed_out(&self) -> bool {
        self.0
    }
}

/// As `parking_lot`'s.
#[derive(Debug, Default)]
pub struct Condvar(shuttle::sync::Condvar);

impl Condvar {
    /// Nobody waits.
    pub const fn new() -> Self {
        Self(shuttle::sync::Condvar::new())
    }
    /// Lets go of the lock until woken.
    pub fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let inner = guard.inner.take().expect("one wait at a time");
        guard.inner = Some(self.0.wait(inner).unwrap_or_else(std::sync::PoisonError::into_inner));
    }
    /// Lets go of the lock for some steps; nobody wakes it.
    pub fn wait_for<T>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        _timeout: Duration,
    ) -> WaitTimeoutResult {
        drop(guard.inner.take());
        thread::yield_now();
        guard.inner = guard.lock.lock().inner.take();
        WaitTimeoutResult(true)
    }
    /// Wakes one that waits.
    pub fn notify_one(&self) {
        self.0.notify_one();
    }
    /// Wakes all that wait.
    pub fn notify_all(&self) {
        self.0.notify_all();
    }
}

/// As `parking_lot`'s.
#[derive(Debug, Default)]
pub struct RwLock<T: ?Sized>(shuttle::sync::RwLock<T>);

pub use shuttle::sync::{RwLockReadGuard, RwLockWriteGuard};

impl<T> RwLock<T> {
    /// A lock around a value.
    pub const fn new(value: T) -> Self {
        Self(shuttle::sync::RwLock::new(value))
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Waits for writers.
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
    /// Waits for all.
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
    /// Nobody else can have it.
    pub fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Gives way at once: spinning makes no other schedule.
#[derive(Debug, Default)]
pub struct Backoff {
    steps: u32,
}

impl Backoff {
    /// True if it has not waited for long.
    pub fn is_short(&self) -> bool {
        self.steps < 20
    }
    /// Called once per failed try.
    pub fn wait(&mut self) {
        self.steps += 1;
        thread::yield_now();
    }
}

/// A number for the calling thread.
pub fn thread_number() -> usize {
    thread::current().id().into()
}

/// A counter.
#[derive(Debug, Default)]
pub struct Striped(std::sync::atomic::AtomicU64);

impl Striped {
    /// Adds `n`. No step: nothing depends on it.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }
    /// The sum so far.
    pub fn sum(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a thread has for itself. All of shuttle's threads are one of the system's.
pub struct Local<T: 'static>(pub &'static thread::LocalKey<T>);

impl<T> std::fmt::Debug for Local<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Local").finish_non_exhaustive()
    }
}

impl<T> Local<std::cell::RefCell<T>> {
    /// Calls `with` with the value.
    pub fn with_borrow_mut<R>(&self, with: impl FnOnce(&mut T) -> R) -> R {
        self.0.with(|value| with(&mut value.borrow_mut()))
    }
}

/// See [`std::thread_local`].
#[macro_export]
macro_rules! local_of_thread {
    ($(#[$doc:meta])* static $name:ident: $of:ty = const { $init:expr };) => {
        $(#[$doc])*
        static $name: $crate::sync::Local<$of> = {
            $crate::shuttle::thread_local! { static INNER: $of = $init; }
            $crate::sync::Local(&INNER)
        };
    };
}

pub use crate::local_of_thread as thread_local;
