//! The filter of a memtable: what was put is never said to be lacking, while the root that names the memtable is current.
//!
//! Here is what a fractal tree does around it: puts in the turn, published after; a new root for a new memtable, then the
//! filter made empty; and a reader that looks whether its root is current when it is done.

use crate::recent::Recent;
use crate::run;
use esker_base::PageId;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;

const HASH: u64 = 0x0123_4567_89ab_cdef;
const OLD: PageId = PageId(7);
const NEW: PageId = PageId(8);

struct Table {
    /// The memtable that the root names.
    root: AtomicU64,
    /// The last commit.
    published: AtomicU64,
    recent: Recent,
}

impl Table {
    fn new() -> Self {
        let recent = Recent::new(1);
        recent.cover(OLD);
        Self { root: AtomicU64::new(OLD.0), published: AtomicU64::new(0), recent }
    }

    fn put(&self) {
        self.recent.will_put(HASH);
        self.published.store(1, Ordering::Release);
    }

    fn freeze(&self) {
        self.root.store(NEW.0, Ordering::Release);
        self.recent.cover(NEW);
    }

    /// Whether a memtable is known to lack the row, and which, by a reader that came down its root; `None` if that has changed.
    fn is_lacking(&self) -> Option<(PageId, bool)> {
        let root = self.root.load(Ordering::Acquire);
        let lacking = self.recent.is_lacking(PageId(root), HASH);
        (self.root.load(Ordering::Acquire) == root).then_some((PageId(root), lacking))
    }
}

#[test]
fn what_was_published_is_not_lacking() {
    run(3, || {
        let table = Arc::new(Table::new());
        let other = Arc::clone(&table);
        let reader = thread::spawn(move || {
            let was_put = other.published.load(Ordering::Acquire) == 1;
            let lacking = other.is_lacking();
            assert!(!was_put || lacking == Some((OLD, false)), "a row that was put is lacking");
        });
        table.put();
        reader.join().unwrap();
        assert_eq!(table.is_lacking(), Some((OLD, false)));
    });
}

#[test]
fn what_became_a_run_is_lacking_only_under_the_new_root() {
    run(3, || {
        let table = Arc::new(Table::new());
        table.put();
        let other = Arc::clone(&table);
        let reader = thread::spawn(move || {
            // Once it is known of the new one, it is lacking there; of the old one never.
            assert_ne!(other.is_lacking(), Some((OLD, true)), "the old memtable has the row");
        });
        table.freeze();
        reader.join().unwrap();
        assert_eq!(table.is_lacking(), Some((NEW, true)), "the new memtable is empty");
    });
}
