//! Crashes at every I/O operation, of every kind, again during recovery, and lives in a row.
//!
//! Goal: every acknowledged `Sync` commit survives, none is half there, none is invented, and what
//! was opened again works. Method: `index/conformance/src/crash.rs`, over every kind of index.
//!
//! The long run: `ESKER_LONG=FILE cargo test --release --test main crash::every_crash`
//! takes 200 histories of 2,000 operations, appends a line for each to FILE, and skips those that
//! are in it already.

use crate::sim::seeds;
use esker::{Durability, Index, Options};
use esker_conformance::crash::{self, KINDS, Tally, index_of, kind};
use esker_conformance::subject::Subject;
use esker_io::sim::{CrashKind, SimDisk};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::sync::{Arc, Mutex};

fn check(tally: &Tally) {
    let (total, by_kind) = (tally.total(), tally.recoveries);
    eprintln!("{total} recoveries; by kind {by_kind:?}; by depth {:?}", tally.nested);
    if !seeds::is_default() {
        return;
    }
    assert!(by_kind.iter().all(|count| count * 20 > total), "{by_kind:?}");
    assert!(tally.nested.iter().all(|count| *count > 100), "{:?}", tally.nested);
    assert!(tally.newest > 0 && tally.older > 0, "crashes in commits went one way only");
}

#[test]
fn every_crash_at_every_operation_leaves_what_was_promised() {
    if let Ok(results) = std::env::var("ESKER_LONG") {
        let done: BTreeSet<u64> = std::fs::read_to_string(&results)
            .unwrap_or_default()
            .lines()
            .filter_map(|line| line.split_whitespace().nth(1)?.parse().ok())
            .collect();
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&results).unwrap();
        let file = Mutex::new(file);
        seeds::each(200, |seed| {
            if done.contains(&seed) {
                return;
            }
            let script = (4..100)
                .map(|i| crash::script_of(Subject::DRAWN, seed, 500 * i))
                .find(|script| script.commits() >= 2000)
                .unwrap();
            let found = crash::history(Subject::DRAWN, &script, seed, 1);
            let (recoveries, nested) = (found.total(), &found.nested[1..]);
            let (ops, commits) = (script.ops.len(), script.commits());
            let line = format!(
                "seed {seed} operations {ops} commits {commits} recoveries {recoveries} nested {nested:?}"
            );
            writeln!(file.lock().unwrap(), "{line} failures 0").unwrap();
        });
        return;
    }
    check(&crash::each(Subject::DRAWN, 8, 200, 4));
}

#[test]
fn every_crash_of_b_trees() {
    check(&crash::each(Subject::of(Index::BTree), 15, 200, 3));
}

#[test]
fn every_crash_of_hash_tables() {
    check(&crash::each(Subject::of(Index::Hash), 15, 200, 3));
}

#[test]
fn every_crash_of_fractal_trees() {
    check(&crash::each(Subject::of(Index::Fractal), 20, 200, 3));
}

#[test]
fn lives_in_a_row_lose_nothing() {
    let (lives, errors) = crash::each_lives(Subject::DRAWN, 2000);
    if seeds::is_default() {
        assert!(errors * 25 > lives, "only {errors} of {lives} lives met an error");
    }
}

/// Two tables, one batch, power loss at every operation: both rows or none.
#[test]
fn a_batch_over_two_tables_is_whole_or_absent() {
    let open = |disk: &SimDisk| {
        Options::new()
            .page_bytes(1024)
            .memory_bytes(256 << 10)
            .log_file_bytes(32 << 10)
            .open_on(Arc::new(disk.clone()))
    };
    let disk = SimDisk::new(1);
    let db = open(&disk).unwrap();
    let a = db.table("a", Index::BTree).unwrap();
    let b = db.table("b", Index::BTree).unwrap();
    let left = Arc::new(Mutex::new(Vec::new()));
    let net = Arc::clone(&left);
    disk.on_operation(Box::new(move |operation, disk| {
        for i in 0..KINDS as u64 {
            let kind = kind(i, disk, operation);
            net.lock().unwrap().push((kind, disk.crash_clone(kind, operation)));
        }
    }));
    for round in 0..20u32 {
        let mut batch = db.batch();
        batch.put(&a, "row", round.to_le_bytes());
        batch.put(&b, "row", round.to_le_bytes());
        batch.commit().unwrap();
        for (kind, clone) in std::mem::take(&mut *left.lock().unwrap()) {
            let db = open(&clone).unwrap();
            let get = |name: &str| db.open_table(name).unwrap().get("row").unwrap();
            let (a, b) = (get("a"), get("b"));
            assert_eq!(a, b, "round {round}, {kind:?}");
            let found = a.map(|row| u32::from_le_bytes(row.try_into().unwrap()));
            let before = round.checked_sub(1);
            assert!(found == Some(round) || found == before, "round {round}, {kind:?}: {found:?}");
        }
    }
    disk.clear_hook();
}

/// `Os` may lose its newest commits to power loss, but only from the end, and nothing to the death
/// of the process.
#[test]
fn what_was_not_synced_goes_from_the_end_only() {
    let open = |disk: &SimDisk| {
        let options = Options::new().page_bytes(1024).memory_bytes(256 << 10);
        options.log_file_bytes(32 << 10).durability(Durability::Os).open_on(Arc::new(disk.clone()))
    };
    let disk = SimDisk::new(2);
    let db = open(&disk).unwrap();
    let table = db.table("t", Index::BTree).unwrap();
    db.sync().unwrap();
    let mut lost = BTreeMap::new();
    for n in 1..=60u32 {
        table.put(n.to_be_bytes(), [7; 100]).unwrap();
        for i in 0..KINDS as u64 {
            let kind = kind(i, &disk, u64::from(n));
            let db = open(&disk.crash_clone(kind, u64::from(n))).unwrap();
            let rows = db.open_table("t").unwrap().range(..).unwrap();
            let keys: Vec<u32> = rows
                .map(|row| u32::from_be_bytes(row.unwrap().key().try_into().unwrap()))
                .collect();
            assert_eq!(keys, (1..=keys.len() as u32).collect::<Vec<_>>(), "{n}, {kind:?}");
            if matches!(kind, CrashKind::Kill | CrashKind::All) {
                assert_eq!(keys.len(), n as usize, "{kind:?}");
            }
            *lost.entry(index_of(kind)).or_insert(0) += n as usize - keys.len();
        }
    }
    assert!(lost[&index_of(CrashKind::None)] > 0, "the disk lost nothing: {lost:?}");
}
