//! A latch lets one writer in, or readers, and whoever comes in sees what was done before.

use crate::latch::Latch;
use crate::run;
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

/// A leaf: what the latch guards.
struct Leaf {
    latch: Latch,
    // SAFETY of all accesses: loom reports two at once of which one writes.
    rows: UnsafeCell<u64>,
}

impl Leaf {
    fn new() -> Arc<Self> {
        Arc::new(Self { latch: Latch::default(), rows: UnsafeCell::new(0) })
    }
    fn read(&self) -> u64 {
        self.latch.lock_shared();
        // SAFETY: under the shared latch.
        let rows = self.rows.with(|rows| unsafe { *rows });
        self.latch.unlock_shared();
        rows
    }
    fn add(&self) {
        // SAFETY: under the exclusive latch.
        self.rows.with_mut(|rows| unsafe { *rows += 1 });
        self.latch.unlock_exclusive();
    }
    fn write(&self) {
        self.latch.lock_exclusive();
        self.add();
    }
    fn try_write(&self) -> bool {
        let locked = self.latch.try_lock_exclusive();
        if locked {
            self.add();
        }
        locked
    }
}

#[test]
fn a_writer_and_a_reader() {
    run(3, || {
        let leaf = Leaf::new();
        let other = Arc::clone(&leaf);
        let reader = thread::spawn(move || other.read());
        leaf.write();
        assert!(reader.join().unwrap() <= 1);
        assert_eq!(leaf.read(), 1);
    });
}

#[test]
fn two_writers() {
    run(3, || {
        let leaf = Leaf::new();
        let other = Arc::clone(&leaf);
        let writer = thread::spawn(move || other.write());
        leaf.write();
        writer.join().unwrap();
        assert_eq!(leaf.read(), 2);
        assert!(!leaf.latch.is_locked_exclusive());
    });
}

#[test]
fn who_only_tries_disturbs_no_reader() {
    run(3, || {
        let leaf = Leaf::new();
        let other = Arc::clone(&leaf);
        let trying = thread::spawn(move || u64::from(other.try_write()));
        leaf.read();
        let tried = trying.join().unwrap();
        assert_eq!(leaf.read(), tried);
        assert!(leaf.try_write(), "nobody is inside");
    });
}

#[test]
fn who_only_tries_disturbs_no_writer() {
    run(3, || {
        let leaf = Leaf::new();
        let other = Arc::clone(&leaf);
        let trying = thread::spawn(move || u64::from(other.try_write()));
        leaf.write();
        let tried = trying.join().unwrap();
        assert_eq!(leaf.read(), 1 + tried);
    });
}
