//! Epochs: when may memory that readers might still look at be used again?
//!
//! A reader *pins* the current epoch in a slot of its own before it follows any reference, and
//! clears the slot when it is done. Whoever takes an object out of reach notes the epoch and moves
//! the counter on; the object's memory may be reused once no slot holds that epoch or an older one.
//!
//! Cost of a pin: one compare-and-swap on a cache line that no other thread writes, and one store.
//! Pins last microseconds: nobody may wait for I/O or for another thread's commit while pinned.
//!
//! Source: K. Fraser, "Practical lock-freedom", 2004, §5.2.3; simplified, since objects here are
//! frames of a fixed arena and never returned to the system.

use esker_base::sync::{AtomicU64, Backoff, Ordering, fence, thread_number};

/// More threads than this at once wait for a free slot.
const SLOTS: usize = if cfg!(loom) { 2 } else { 128 };

/// Own cache line (two: adjacent lines are fetched together).
#[repr(align(128))]
#[derive(Debug)]
struct Slot(AtomicU64);

/// The counter and the slots.
#[derive(Debug)]
pub(crate) struct Epochs {
    /// Atomic. Starts at 1, since 0 in a slot means free.
    now: Slot,
    slots: Box<[Slot]>,
}

/// While this lives, what was reachable when it was made stays readable.
#[derive(Debug)]
pub(crate) struct Pin<'a> {
    slot: &'a AtomicU64,
}

impl Epochs {
    pub(crate) fn new() -> Self {
        Self {
            now: Slot(AtomicU64::new(1)),
            slots: (0..SLOTS).map(|_| Slot(AtomicU64::new(0))).collect(),
        }
    }

    /// Pins the current epoch.
    pub(crate) fn pin(&self) -> Pin<'_> {
        // Threads keep to lines of their own, as long as there are enough.
        let first = thread_number() % SLOTS;
        let mut backoff = Backoff::default();
        loop {
            for i in 0..SLOTS {
                let slot = &self.slots[(first + i) % SLOTS].0;
                let now = self.now.0.load(Ordering::Relaxed);
                if slot.load(Ordering::Relaxed) == 0
                    && slot.compare_exchange(0, now, Ordering::SeqCst, Ordering::Relaxed).is_ok()
                {
                    full_fence_after_rmw();
                    return Pin { slot };
                }
            }
            backoff.wait();
        }
    }

    /// To be called after objects were taken out of reach: returns the epoch to pass to
    /// [`Self::ended`] for them.
    pub(crate) fn retire(&self) -> u64 {
        fence(Ordering::SeqCst);
        self.now.0.fetch_add(1, Ordering::SeqCst)
    }

    /// The oldest epoch that is still pinned; `u64::MAX` if none is. Objects retired at an older epoch
    /// are free.
    pub(crate) fn oldest_pinned(&self) -> u64 {
        fence(Ordering::SeqCst);
        self.slots
            .iter()
            .map(|slot| slot.0.load(Ordering::SeqCst))
            .filter(|&epoch| epoch != 0)
            .min()
            .unwrap_or(u64::MAX)
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.slot.store(0, Ordering::Release);
    }
}

/// The pin must be visible before any later load of the reader. On x86 the compare-and-swap is a
/// full barrier already (a second one costs 20 ns a get); elsewhere a fence is needed.
#[inline]
fn full_fence_after_rmw() {
    #[cfg(all(target_arch = "x86_64", not(loom)))]
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(any(not(target_arch = "x86_64"), loom))]
    fence(Ordering::SeqCst);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_pin_holds_back_what_was_retired_after_it() {
        let epochs = Epochs::new();
        let before = epochs.retire();
        assert!(before < epochs.oldest_pinned(), "nobody is pinned");
        let pin = epochs.pin();
        let after = epochs.retire();
        assert!(before < epochs.oldest_pinned(), "retired before the pin: free");
        assert!(after >= epochs.oldest_pinned(), "retired under the pin: held");
        let second = epochs.pin();
        drop(pin);
        assert!(after < epochs.oldest_pinned(), "the second pin came later");
        drop(second);
    }
}
