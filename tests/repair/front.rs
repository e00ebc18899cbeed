//! Rows of a hash table that wait in its front (`index/src/hash/front.rs`), after damage.
//!
//! Goal: they are restored as they were last, and neither what their buckets have for them nor an older front comes back. Method: a
//! hash table larger than memory, whose rows are written over blindly, its front filled, emptied, given up and made anew; then
//! files removed, map nodes destroyed, images destroyed one by one.

use super::*;
use esker_base::mark::HASH_WAITED;

const ROWS: u64 = 2500;

/// How a history ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Rows wait, and the last checkpoint says so.
    Waiting,
    /// None do any more; pages of the front lie where they were.
    GivenUp,
    /// All was deleted, and some rows were put after that.
    Cleared,
}

const ENDS: [End; 3] = [End::Waiting, End::GivenUp, End::Cleared];

impl Past {
    fn write(&mut self, table: &esker::Table, rng: &mut Rng, writes: u64) {
        for _ in 0..writes {
            let key = format!("key {:05}", rng.below(ROWS)).into_bytes();
            let wanted = self.newest.entry("hash").or_default();
            if rng.below(5) == 0 {
                table.delete(&key).unwrap();
                wanted.remove(&key);
                continue;
            }
            let len = if rng.below(60) == 0 { 1500 } else { 20 + rng.below(120) };
            let value: Vec<u8> = (0..len).map(|_| rng.below(256) as u8).collect();
            table.put(&key, &value).unwrap();
            self.ever.entry(("hash", key.clone())).or_default().insert(value.clone());
            wanted.insert(key, value);
        }
    }
}

fn past_with_front(seed: u64, end: End) -> Past {
    let disk = SimDisk::new(seed);
    let db = open(&disk).unwrap();
    let mut rng = Rng::new(seed);
    let mut past = Past { disk: disk.clone(), ever: BTreeMap::new(), newest: BTreeMap::new() };
    // As others expect them, by their ids.
    let [_, table, _] = KINDS.map(|(name, kind)| {
        past.newest.entry(name).or_default();
        db.table(name, kind).unwrap()
    });
    past.write(&table, &mut rng, ROWS * 2);
    for _ in 0..=rng.below(2) {
        let writes = 100 + rng.below(400);
        past.write(&table, &mut rng, writes);
        db.checkpoint().unwrap();
        past.write(&table, &mut rng, 100);
        if rng.below(2) == 0 {
            db.settle().unwrap();
        }
    }
    // A front that was given up, and another.
    past.write(&table, &mut rng, 150);
    db.checkpoint().unwrap();
    past.write(&table, &mut rng, 50);
    db.settle().unwrap();
    let waited = HASH_WAITED.hits();
    past.write(&table, &mut rng, 150);
    assert!(HASH_WAITED.hits() > waited, "seed {seed}: no row waits");
    db.checkpoint().unwrap();
    match end {
        End::Waiting => {}
        End::GivenUp => {
            past.write(&table, &mut rng, 20);
            db.settle().unwrap();
        }
        End::Cleared => {
            table.clear().unwrap();
            past.newest.insert("hash", Rows::new());
            past.write(&table, &mut rng, 200);
            db.checkpoint().unwrap();
        }
    }
    // The log has these.
    past.write(&table, &mut rng, 20);
    past.disk = disk.crash_clone(CrashKind::None, seed);
    past
}

fn each_past(seeds: u64, mut f: impl FnMut(&Past, &str)) {
    for (seed, end) in (0..seeds).flat_map(|seed| ENDS.map(|end| (seed, end))) {
        f(&past_with_front(seed, end), &format!("seed {seed}, {end:?}"));
    }
}

#[test]
fn rows_that_wait_are_restored() {
    each_past(8, |past, place| {
        let (report, changed) = check_repair(past, &past.disk, place).unwrap();
        assert!(report.is_complete() && changed == 0, "{place}: {changed} of {report:#?}");
    });
}

#[test]
fn rows_that_wait_are_found_without_the_map() {
    each_past(8, |past, place| {
        let rotten = past.disk.crash_clone(CrashKind::All, 0);
        for image in images(&rotten).iter().filter(|image| image.kind == MAP) {
            destroy(&rotten, image);
        }
        let (report, changed) = check_repair(past, &rotten, place).unwrap();
        assert_eq!(changed, 0, "{place}: {report:#?}");
    });
}

#[test]
fn rows_that_wait_are_found_without_superblock_and_checkpoint() {
    let mut met: BTreeMap<String, usize> = BTreeMap::new();
    each_past(8, |past, place| {
        for gone in
            [&["super"][..], &["checkpoint-"], &["super", "checkpoint-"], &["super", "wal-"]]
        {
            let rotten = past.disk.crash_clone(CrashKind::All, 0);
            for name in gone.iter().flat_map(|prefix| names(&rotten, prefix)) {
                rotten.remove(&name).unwrap();
            }
            let place = format!("{place}, without {gone:?}");
            let (report, changed) = check_repair(past, &rotten, &place).unwrap();
            *met.entry(format!("{} {gone:?}", place.split(", ").nth(1).unwrap())).or_default() +=
                changed;
            assert!(changed == 0 || !report.is_complete(), "{place}: {report:#?}");
        }
    });
    eprintln!("{met:#?}");
}

#[test]
fn one_damaged_image_of_a_table_with_a_front() {
    each_past(2, |past, place| {
        let mut rng = Rng::new(1);
        let is_of_hash =
            |image: &Image| image.table == 2 && (image.level > 0 || rng.below(12) == 0);
        for image in live_images(&past.disk).into_iter().filter(is_of_hash) {
            let rotten = past.disk.crash_clone(CrashKind::All, 0);
            destroy(&rotten, &image);
            let place = format!("{place}, {image:?}");
            let (report, _) = check_repair(past, &rotten, &place).unwrap();
            assert!(!report.may_be_stale && report.lost_log.is_empty(), "{place}: {report:#?}");
        }
    });
}
