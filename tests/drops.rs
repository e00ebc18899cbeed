//! Tables that are dropped, and how much of them is read for it.
//!
//! Goal: a drop gives all space back, large values' too, and costs next to no reads where the pages can be found without. Method:
//! tables larger than memory on the simulated disk, without threads; counts of page reads.

use esker::{Database, Durability, Index, Options};
use esker_io::sim::{CrashKind, SimDisk};
use std::sync::Arc;

const ROWS: u32 = 30_000;
const LARGE_BYTES: usize = 3000;

fn open(disk: &SimDisk) -> Database {
    let options = Options::new().page_bytes(1024).memory_bytes(2 << 20);
    options.durability(Durability::Os).open_on(Arc::new(disk.clone())).unwrap()
}

/// In no order.
fn key(n: u32) -> [u8; 4] {
    n.wrapping_mul(0x9E37_79B1).to_be_bytes()
}

/// Does not pack.
fn value(n: u32, bytes: usize) -> Vec<u8> {
    let mut state = u64::from(n) + 1;
    let byte = |_| {
        state = state.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        (state >> 56) as u8
    };
    (0..bytes).map(byte).collect()
}

/// A table of five times as many bytes as there is memory, one row in `large_each` of which has a large value.
fn fill(disk: &SimDisk, large_each: u32) -> Database {
    let db = open(disk);
    db.table("other", Index::BTree).unwrap().put("stays", "here").unwrap();
    let table = db.table("t", Index::Fractal).unwrap();
    for n in 0..ROWS {
        let is_large = n % large_each == large_each - 1;
        table.put(key(n), value(n, if is_large { LARGE_BYTES } else { 100 })).unwrap();
    }
    drop(table);
    db.checkpoint().unwrap();
    db
}

/// What the table named has on disk.
fn table_bytes(db: &Database, name: &str) -> u64 {
    db.stats().tables.iter().find(|table| table.name == name).map_or(0, |table| table.bytes)
}

/// Nothing of a dropped table is left, and no page that nothing leads to.
fn expect_gone(db: &Database) {
    let stats = db.stats();
    assert!(stats.live_bytes < 64 << 10, "{} bytes live on", stats.live_bytes);
    let found = db.verify().unwrap();
    assert!(found.is_sound(), "{:?}", found.damage);
    let other = db.open_table("other").unwrap();
    assert_eq!(other.get("stays").unwrap().unwrap(), b"here");
}

#[test]
fn a_drop_reads_no_leaf() {
    let disk = SimDisk::new(1);
    let db = fill(&disk, u32::MAX);
    let pages = table_bytes(&db, "t") / 1024;
    assert!(pages > 3000, "{pages} pages");
    let before = db.stats().page_reads;
    db.drop_table("t").unwrap();
    db.settle().unwrap();
    let reads = db.stats().page_reads - before;
    eprintln!("{reads} reads to drop about {pages} pages");
    assert!(reads * 12 < pages, "{reads} reads to drop {pages} pages");
    expect_gone(&db);
}

#[test]
fn a_drop_frees_large_values() {
    let disk = SimDisk::new(2);
    let db = fill(&disk, 50);
    let pages = table_bytes(&db, "t") / 1024;
    assert!(pages > 4000, "{pages} pages");
    db.drop_table("t").unwrap();
    db.settle().unwrap();
    expect_gone(&db);
}

/// What is freed is listed in each checkpoint until it is: whenever the power goes, the rest is freed after the next start.
#[test]
fn a_drop_goes_on_after_a_crash() {
    for (seed, large_each) in [(3, u32::MAX), (4, 50)] {
        let disk = SimDisk::new(seed);
        let db = fill(&disk, large_each);
        db.drop_table("t").unwrap();
        let left = Arc::new(std::sync::Mutex::new(Vec::new()));
        let taken = Arc::clone(&left);
        disk.on_operation(Box::new(move |operation, disk| {
            if operation % 3 == 0 {
                taken.lock().unwrap().push(disk.crash_clone(CrashKind::Kill, operation));
            }
        }));
        db.checkpoint().unwrap();
        db.settle().unwrap();
        disk.clear_hook();
        drop(db);
        let left = std::mem::take(&mut *left.lock().unwrap());
        assert!(left.len() > 5, "{} crashes", left.len());
        for disk in left {
            let db = open(&disk);
            db.settle().unwrap();
            expect_gone(&db);
        }
    }
}
