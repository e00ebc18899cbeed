//! The way down: a branch that was replaced is noticed by who came through it.
//!
//! A split moves rows out of a leaf and says so in a new branch. A reader that went through the old one must not take the
//! leaf's word for it that there is no such row: after it has latched the leaf it looks whether the branch is current.
//! Here are the rules of `Pages` and `TurnPages` (`index/src/pages.rs`) over the engine's latch and epochs.

use crate::epoch::Epochs;
use crate::latch::Latch;
use crate::run;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

const BRANCH: u64 = 1;

#[derive(Default)]
struct Leaf {
    latch: Latch,
    has_row: UnsafeCell<bool>,
}

/// Two frames for a branch, which points to a leaf; the row that is looked for moves from leaf 0 to leaf 1.
struct Tree {
    epochs: Epochs,
    /// The frame where the branch is: a hint.
    hint: AtomicU64,
    pages: [AtomicU64; 2],
    children: [UnsafeCell<usize>; 2],
    leaves: [Leaf; 2],
}

impl Tree {
    fn new() -> Self {
        let first = Leaf { has_row: UnsafeCell::new(true), ..Leaf::default() };
        Self {
            epochs: Epochs::new(),
            hint: AtomicU64::new(0),
            pages: [AtomicU64::new(BRANCH), AtomicU64::new(0)],
            children: [UnsafeCell::new(0), UnsafeCell::new(0)],
            leaves: [first, Leaf::default()],
        }
    }

    fn is_current(&self, frame: usize) -> bool {
        self.pages[frame].load(Ordering::Acquire) == BRANCH
    }

    /// Whether the row is there; `None` if the way has changed meanwhile.
    fn get(&self) -> Option<bool> {
        let _pin = self.epochs.pin();
        let frame = self.hint.load(Ordering::Relaxed) as usize;
        if !self.is_current(frame) {
            return None;
        }
        // SAFETY: branches do not change, and this one stays under the pin; loom reports it otherwise.
        let leaf = &self.leaves[self.children[frame].with(|child| unsafe { *child })];
        leaf.latch.lock_shared();
        let found = self.is_current(frame).then(|| {
            // SAFETY: under the shared latch.
            leaf.has_row.with(|row| unsafe { *row })
        });
        leaf.latch.unlock_shared();
        found
    }

    /// Splits: under the latches of both leaves the row moves, and a new branch takes the place of the old one.
    fn split(&self) -> bool {
        for leaf in &self.leaves {
            leaf.latch.lock_exclusive();
        }
        for (leaf, row) in self.leaves.iter().zip([false, true]) {
            // SAFETY: under the exclusive latch.
            leaf.has_row.with_mut(|has| unsafe { *has = row });
        }
        // SAFETY: nobody knows frame 1.
        self.children[1].with_mut(|child| unsafe { *child = 1 });
        self.pages[1].store(BRANCH, Ordering::Release);
        self.pages[0].store(0, Ordering::Release);
        self.hint.store(1, Ordering::Relaxed);
        let free = self.epochs.retire() < self.epochs.oldest_pinned();
        for leaf in &self.leaves {
            leaf.latch.unlock_exclusive();
        }
        if free {
            // Used for something else.
            // SAFETY: no pin is left from when it was within reach; loom reports it otherwise.
            self.children[0].with_mut(|child| unsafe { *child = 99 });
        }
        free
    }
}

#[test]
fn a_row_that_moves_is_never_missed() {
    run(3, || {
        let tree = Arc::new(Tree::new());
        let other = Arc::clone(&tree);
        let reader = thread::spawn(move || {
            let found = other.get();
            assert_ne!(found, Some(false), "the row is in one leaf or the other");
        });
        tree.split();
        reader.join().unwrap();
        assert_eq!(tree.get(), Some(true));
    });
}
