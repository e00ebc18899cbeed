//! The lines of a hash table: none says of a key that was put that there is none.
//!
//! Here is what a hash table does around them: a bucket under its latch, puts in the turn, a delete of everything that gives the
//! table another bucket; and in `absent` and `bucket` as much of those modules as the lines ask for.

#[path = "../../../index/src/hash/lines.rs"]
mod lines;

use crate::latch::Latch;
use crate::run;
use esker_base::CommitNo;
use lines::{Lines, Since};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use loom::thread;

mod absent {
    /// There is enough.
    #[derive(Debug)]
    pub(crate) struct FilterMemory;

    impl FilterMemory {
        pub(crate) fn take_for_lines(&self, _bytes: usize) -> bool {
            true
        }
        pub(crate) fn give_back_lines(&self, _bytes: usize) {}
    }
}

mod bucket {
    pub(crate) struct Place {
        pub(crate) bits: u32,
    }

    /// The root's bucket, with one row or none.
    #[derive(Clone, Copy)]
    pub(crate) struct Bucket<'b> {
        pub(crate) rows: &'b [[u8; 8]],
    }

    impl<'b> Bucket<'b> {
        pub(crate) fn place(&self) -> Place {
            Place { bits: 0 }
        }
        pub(crate) fn len(&self) -> usize {
            self.rows.len()
        }
        pub(crate) fn key(&self, i: usize) -> &'b [u8] {
            &self.rows[i]
        }
    }
}

/// Keys are their own hashes.
#[derive(Clone, Copy, Debug)]
struct Hasher;

impl Hasher {
    fn hash(self, key: &[u8], _round: u32) -> u64 {
        u64::from_le_bytes(key.try_into().expect("keys of eight bytes"))
    }
}

const HASH: u64 = 0x0123_4567_89ab_cdef;
const AT: CommitNo = CommitNo(5);

#[derive(Default)]
struct Page {
    latch: Latch,
    has_row: UnsafeCell<bool>,
}

struct Table {
    lines: Lines,
    /// Which of the buckets is the table's.
    root: AtomicUsize,
    buckets: [Page; 2],
    published: AtomicU64,
}

impl Table {
    /// With a directory of lines, none of which is made.
    fn new() -> Self {
        let table = Self {
            lines: Lines::new(std::sync::Arc::new(absent::FilterMemory)),
            root: AtomicUsize::new(0),
            buckets: Default::default(),
            published: AtomicU64::new(0),
        };
        let before = table.lines.now();
        table.lines.was_cleared();
        for _ in 0..10 {
            table.look_in_vain(before, &[]);
        }
        assert!(table.lines.bytes() > 0 && !table.is_known_absent());
        table
    }

    fn look_in_vain(&self, start: Since, rows: &[[u8; 8]]) {
        self.lines.was_absent(start, (Hasher, HASH), (bucket::Bucket { rows }, AT));
    }

    fn is_known_absent(&self) -> bool {
        self.lines.absent_since(HASH).is_some()
    }

    /// A get that the lines know nothing of. Whether the row is there; `None` if the root has changed meanwhile.
    fn get(&self) -> Option<bool> {
        let start = self.lines.now();
        let root = self.root.load(Ordering::Acquire);
        let page = &self.buckets[root];
        page.latch.lock_shared();
        let found = (self.root.load(Ordering::Acquire) == root).then(|| {
            // SAFETY: under the shared latch.
            let found = page.has_row.with(|row| unsafe { *row });
            if !found {
                self.look_in_vain(start, &[]);
            }
            found
        });
        page.latch.unlock_shared();
        found
    }

    /// In the turn.
    fn put(&self) {
        let page = &self.buckets[self.root.load(Ordering::Relaxed)];
        page.latch.lock_exclusive();
        self.lines.will_put(HASH);
        // SAFETY: under the exclusive latch.
        page.has_row.with_mut(|row| unsafe { *row = true });
        self.published.fetch_add(1, Ordering::Release);
        page.latch.unlock_exclusive();
    }

    /// In the turn: another bucket takes the place of the one before, which is not latched.
    fn clear(&self) {
        self.root.store(1, Ordering::Release);
        self.lines.was_cleared();
    }
}

#[test]
fn a_line_made_beside_a_put_does_not_hide_it() {
    run(3, || {
        let table = Arc::new(Table::new());
        let other = Arc::clone(&table);
        let reader = thread::spawn(move || {
            other.get();
            let was_put = other.published.load(Ordering::Acquire) == 1;
            assert!(!(was_put && other.is_known_absent()), "a row that was put is absent");
        });
        table.put();
        assert!(!table.is_known_absent(), "the row was put");
        reader.join().unwrap();
        assert_eq!((table.get(), table.is_known_absent()), (Some(true), false));
    });
}

#[test]
fn a_line_made_of_what_was_deleted_hides_nothing() {
    run(3, || {
        let table = Arc::new(Table::new());
        let other = Arc::clone(&table);
        let reader = thread::spawn(move || {
            other.get();
        });
        table.clear();
        table.put();
        assert!(!table.is_known_absent(), "the row was put");
        reader.join().unwrap();
        assert_eq!((table.get(), table.is_known_absent()), (Some(true), false));
    });
}
