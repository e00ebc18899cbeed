//! The whole engine on a simulated disk, its threads' steps in an order that shuttle chooses.
//!
//! Goal: what three threads are told holds, whoever goes on at each access to shared memory. Method: two of them count, in
//! transactions over rows of a table; the third takes snapshots and writes checkpoints. Then the power goes.
#![cfg(test)]

use esker::{Database, Durability, Error, Index, Options, Table};
use esker_base::mark::{MAP_OVERLAY, VERSION_CHECKPOINTED};
use esker_io::sim::{CrashKind, SimDisk};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner, thread};
use std::sync::Arc;

/// Rows that are always equal: apart enough that they are not in one leaf.
const ROWS: [&[u8]; 2] = [b"a", b"z"];
const COUNTERS: u64 = 2;
/// What each thread counts.
const COUNTS: u64 = 2;

fn options() -> Options {
    Options::new()
        .page_bytes(1024)
        .memory_bytes(128 << 10)
        .log_file_bytes(16 << 10)
        .durability(Durability::Sync)
        .compress(false)
}

fn open(disk: &SimDisk) -> Database {
    options().open_on(Arc::new(disk.clone())).unwrap()
}

fn number(row: Option<&[u8]>) -> u64 {
    row.map_or(0, |value| u64::from_le_bytes(value[..8].try_into().unwrap()))
}

fn value(n: u64) -> Vec<u8> {
    [&n.to_le_bytes()[..], &[7; 100]].concat()
}

/// A database of more leaves than one, and the rows that are counted with.
fn filled(disk: &SimDisk, kind: Index) -> (Database, Table) {
    let db = open(disk);
    let table = db.table("t", kind).unwrap();
    for n in 0..20u8 {
        table.put_with([b'b' + n], [n; 150], Durability::Os).unwrap();
    }
    ROWS.iter().for_each(|row| table.put(row, value(0)).unwrap());
    (db, table)
}

fn count(db: &Database, table: &Table) {
    for _ in 0..COUNTS {
        let counted = db.transact(|tx| {
            for row in ROWS {
                let n = number(tx.get(table, row)?.as_deref());
                tx.put(table, row, value(n + 1))?;
            }
            Ok::<_, Error>(())
        });
        counted.unwrap();
    }
}

/// A snapshot sees both rows of one commit, before and after a checkpoint.
fn watch(db: &Database, table: &Table) {
    let mut last = 0;
    for _ in 0..2 {
        let snapshot = db.snapshot();
        let look = || ROWS.map(|row| number(snapshot.get(table, row).unwrap().as_deref()));
        let before = look();
        assert_eq!(before[0], before[1], "rows of two commits");
        assert!(before[0] >= last, "time goes back");
        last = before[0];
        db.checkpoint().unwrap();
        assert_eq!(look(), before, "a snapshot has changed");
        assert!(number(table.get(ROWS[0]).unwrap().as_deref()) >= last);
    }
}

fn expect_counted(table: &Table) {
    for row in ROWS {
        let found = number(table.get(row).unwrap().as_deref());
        assert_eq!(found, COUNTERS * COUNTS);
    }
}

fn history(kind: Index, prepare: fn(&Database)) {
    let disk = SimDisk::new(1);
    let (db, table) = filled(&disk, kind);
    prepare(&db);
    let run = |work: fn(&Database, &Table)| {
        let (db, table) = (db.clone(), table.clone());
        thread::spawn(move || work(&db, &table))
    };
    let threads = [run(count), run(count), run(watch)];
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    expect_counted(&table);
    let found = db.verify().unwrap();
    assert!(found.is_sound(), "{:?}", found.damage);
    drop((db, table));
    let db = open(&disk.crash_clone(CrashKind::None, 1));
    expect_counted(&db.open_table("t").unwrap());
    assert!(db.verify().unwrap().is_sound());
}

/// Rows of a table that is larger than memory, and how often all of them are put anew.
const MANY: u32 = 400;
const PASSES: u32 = 2;

fn large_row(n: u32, version: u32) -> (Vec<u8>, Vec<u8>) {
    (format!("{n:04}").into_bytes(), [&version.to_le_bytes()[..], &[n as u8; 300]].concat())
}

/// Checkpoints beside a writer whose pages are evicted while they run: those are newer than the cut, and go to an overlay until it has
/// ended; what the cut sees are versions. Then the power goes, and all that was synced is there.
fn checkpoints_beside_evictions(kind: Index) {
    let disk = SimDisk::new(1);
    let db = open(&disk);
    let table = db.table("t", kind).unwrap();
    for n in 0..MANY {
        let (key, value) = large_row(n, 0);
        table.put_with(key, value, Durability::Os).unwrap();
    }
    let writer = {
        let table = table.clone();
        thread::spawn(move || {
            for n in (1..=PASSES).flat_map(|pass| (0..MANY).map(move |n| (n, pass))) {
                let (key, value) = large_row(n.0, n.1);
                table.put_with(key, value, Durability::Os).unwrap();
            }
        })
    };
    let watcher = {
        let (db, table) = (db.clone(), table.clone());
        thread::spawn(move || {
            let snapshot = db.snapshot();
            let look = |n: u32| snapshot.get(&table, large_row(n, 0).0).unwrap();
            let before = [0, 49, 210].map(look);
            for _ in 0..3 {
                db.checkpoint().unwrap();
                assert!([0, 49, 210].map(look) == before, "a snapshot has changed");
            }
        })
    };
    writer.join().unwrap();
    watcher.join().unwrap();
    db.sync().unwrap();
    drop((db, table));
    let db = open(&disk.crash_clone(CrashKind::None, 1));
    let table = db.open_table("t").unwrap();
    for n in 0..MANY {
        let (key, value) = large_row(n, PASSES);
        assert!(table.get(key).unwrap() == Some(value), "row {n}");
    }
    assert!(db.verify().unwrap().is_sound());
}

fn from_env(name: &str, usual: usize) -> usize {
    std::env::var(name).map_or(usual, |n| n.parse().expect("a number"))
}

fn run(scheduler: impl Scheduler + 'static, kind: Index, prepare: fn(&Database)) {
    let mut config = Config::new();
    config.stack_size = 1 << 20;
    Runner::new(scheduler, config).run(move || history(kind, prepare));
}

/// Half of the schedules at random, half with threads of priorities that change now and then.
fn each_schedule(kind: Index) {
    const CHANGES: usize = 3;
    let half = from_env("ESKER_SCHEDULES", 100).div_ceil(2);
    let seed = from_env("ESKER_SEED", 1) as u64;
    run(RandomScheduler::new_from_seed(seed, half), kind, |_| {});
    run(PctScheduler::new_from_seed(seed, CHANGES, half), kind, |_| {});
}

#[test]
fn counting_in_a_btree() {
    each_schedule(Index::BTree);
}

#[test]
fn counting_in_a_hash_table() {
    each_schedule(Index::Hash);
}

#[test]
fn counting_in_a_fractal_tree() {
    each_schedule(Index::Fractal);
}

#[test]
fn checkpoints_beside_evictions_leave_nothing_out() {
    for kind in [Index::BTree, Index::Hash, Index::Fractal] {
        let half = from_env("ESKER_SCHEDULES", 100).div_ceil(20);
        let seed = from_env("ESKER_SEED", 1) as u64;
        let mut config = Config::new();
        config.stack_size = 1 << 20;
        // A thread takes many steps there.
        config.max_steps = shuttle::MaxSteps::None;
        let random = RandomScheduler::new_from_seed(seed, half);
        Runner::new(random, config.clone()).run(move || checkpoints_beside_evictions(kind));
        let few_changes = PctScheduler::new_from_seed(seed, 3, half);
        Runner::new(few_changes, config).run(move || checkpoints_beside_evictions(kind));
    }
    for mark in [&MAP_OVERLAY, &VERSION_CHECKPOINTED] {
        assert!(mark.hits() > 0, "{} was not met", mark.name());
    }
}

/// The schedules are of some use: this bug is found.
#[test]
#[should_panic(expected = "left == right")]
fn without_validation_counts_are_lost() {
    let scheduler = RandomScheduler::new_from_seed(1, 100);
    run(scheduler, Index::BTree, Database::switch_validation_off_to_test_the_history_checker);
}
