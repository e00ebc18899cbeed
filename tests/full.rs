//! Tables that have filled their disk, and from which rows are deleted one by one.
//!
//! Goal: deletes go through, and give back the space that they promise: then puts work again, without reopening. Method:
//! simulated disks whose size, rows and settings are drawn, of fractal tables first, then of all kinds, with large values, too.

use crate::sim::{Choices as _, Rng};
use esker::{Database, Durability, Error, Index, Options, Table};
use esker_io::sim::{CrashKind, SimDisk};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is drawn.
#[derive(Clone, Copy, Debug)]
struct Plan {
    index: Index,
    page_bytes: usize,
    pages: usize,
    capacity_bytes: u64,
    log_file_bytes: u64,
    value_bytes: usize,
    /// One value in so many is a large one, of 3 to 20 KiB.
    large_every: Option<u64>,
    /// In the order of keys, or not.
    puts_sorted: bool,
    deletes_sorted: bool,
}

impl Plan {
    fn draw(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let page_bytes = 1024 << rng.below(3);
        let pages = 128 << rng.below(3);
        // From twice what memory holds to many times as much.
        let capacity_bytes = (page_bytes * pages) as u64 * (4 + rng.below(12)) / 2;
        Self {
            index: Index::Fractal,
            page_bytes,
            pages,
            // What is set aside is not most of it.
            capacity_bytes: capacity_bytes.max(page_bytes as u64 * 1536),
            log_file_bytes: 16 << 10 << rng.below(3),
            value_bytes: [60, 200, 400, 700][rng.below(4) as usize],
            large_every: None,
            puts_sorted: rng.below(2) == 0,
            deletes_sorted: rng.below(2) == 0,
        }
    }
    /// Of any kind.
    fn draw_any(seed: u64) -> Self {
        let mut rng = Rng::new(!seed);
        let index = [Index::BTree, Index::Hash, Index::Fractal][rng.below(3) as usize];
        let large_every = [None, Some(1), Some(1), Some(5)][rng.below(4) as usize];
        Self { index, large_every, ..Self::draw(seed) }
    }
    fn open(&self, disk: &SimDisk) -> Database {
        Options::new()
            .page_bytes(self.page_bytes)
            .memory_bytes(self.page_bytes * self.pages)
            .log_file_bytes(self.log_file_bytes)
            .durability(Durability::Os)
            .open_on(Arc::new(disk.clone()))
            .unwrap()
    }
    fn key(&self, n: u32) -> [u8; 8] {
        let n = u64::from(n);
        let n = if self.puts_sorted { n } else { n.wrapping_mul(0x9e37_79b9_7f4a_7c15) };
        n.to_be_bytes()
    }
    /// Does not pack.
    fn value(&self, n: u32) -> Vec<u8> {
        let mut rng = Rng::new(u64::from(n));
        let is_large = self.large_every.is_some_and(|every| rng.below(every) == 0);
        let bytes =
            if is_large { (3 << 10) + rng.below(17 << 10) as usize } else { self.value_bytes };
        (0..bytes).map(|_| rng.below(256) as u8).collect()
    }
    /// Puts rows from `rows` on until there is no space; returns how many there are.
    fn fill(&self, table: &Table, mut rows: u32) -> u32 {
        let mut refused = 0;
        while refused < 5 {
            match table.put(self.key(rows), self.value(rows)) {
                Ok(()) => (rows, refused) = (rows + 1, 0),
                Err(Error::NoSpace { file, .. }) if !file.is_empty() => refused += 1,
                Err(error) => panic!("row {rows}: {error}"),
            }
        }
        rows
    }
    /// The rows of a range, in the order in which they are deleted.
    fn deleted(&self, rows: std::ops::Range<u32>) -> Vec<u32> {
        let mut order: Vec<u32> = rows.collect();
        if !self.deletes_sorted {
            order.sort_by_key(|n| n.wrapping_mul(0x9e37_79b1));
        }
        order
    }
    fn expect(&self, table: &Table, wanted: std::ops::Range<u32>) {
        let mut wanted: BTreeMap<_, _> = wanted.map(|n| (self.key(n), n)).collect();
        let mut before = None;
        for row in table.rows().unwrap() {
            let (key, value) = row.unwrap().into_parts();
            let n = wanted.remove(&key[..]).expect("a row that is wanted, once");
            assert!(value == self.value(n), "row {n} has another value");
            assert!(!table.is_ordered() || before < Some(key.clone()), "row {n} comes too late");
            before = Some(key);
        }
        assert!(wanted.is_empty(), "{} rows are missing", wanted.len());
    }
    /// Fills the disk, deletes half, puts again, three times.
    fn run(&self, seed: u64) {
        let disk = SimDisk::new(seed);
        disk.set_capacity(Some(self.capacity_bytes));
        let db = self.open(&disk);
        let table = db.table("t", self.index).unwrap();
        let (mut first, mut rows, mut most) = (0, 0, 0);
        for round in 0..3 {
            let before = rows;
            rows = self.fill(&table, rows);
            let filled = rows - before;
            most = most.max(filled);
            let held = rows - first;
            assert!(most > 20 && held > most / 2, "{self:?}, round {round}: full with {held} rows");
            // Half of the rows go, and then as many as it takes.
            let (old, part) = (rows, (rows - first).div_ceil(20));
            let delete = |rows: std::ops::Range<u32>| {
                for n in self.deleted(rows) {
                    let deleted = table.delete(self.key(n));
                    deleted.unwrap_or_else(|e| panic!("{self:?}, round {round}, delete {n}: {e}"));
                }
            };
            delete(first..first + part * 10);
            first += part * 10;
            while rows < old + part * 3 {
                match table.put(self.key(rows), self.value(rows)) {
                    Ok(()) => rows += 1,
                    Err(Error::NoSpace { .. }) => {
                        assert!(first + part < old, "{self:?}, round {round}: nothing comes back");
                        delete(first..first + part);
                        first += part;
                    }
                    Err(e) => panic!("{self:?}, round {round}, row {rows}: {e}"),
                }
            }
            self.expect(&table, first..rows);
            let found = db.verify().unwrap();
            assert!(found.is_sound(), "{self:?}, round {round}: {:?}", found.damage);
        }
        let left = self.open(&disk.crash_clone(CrashKind::Kill, seed));
        self.expect(&left.open_table("t").unwrap(), first..rows);
    }
}

/// The seeds that `name` in the environment says, or these.
fn seeds_of(name: &str, usual: &[u64]) -> Vec<u64> {
    crate::sim::seeds::from_env(name).map_or(usual.to_vec(), |seed| vec![seed])
}

#[test]
fn rows_deleted_one_by_one_make_room() {
    // Those that failed once: nothing came back, a delete found no space, or cleaning or the open at the end had no end.
    let usual = [
        0, 6, 11, 14, 15, 17, 20, 22, 23, 24, 25, 43, 45, 51, 59, 63, 65, 77, 82, 97, 131, 144, 186,
    ];
    for seed in seeds_of("FULL", &usual) {
        Plan::draw(seed).run(seed);
    }
}

#[test]
fn rows_of_any_kind_deleted_one_by_one_make_room() {
    for seed in seeds_of("FULL_ANY", &[1, 2, 5, 9, 10, 12, 15, 17, 19, 28, 59]) {
        Plan::draw_any(seed).run(seed);
    }
}
