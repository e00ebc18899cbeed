//! Bulk loads of tables without order, longer than the part of memory in which they are sorted.

use esker::{Durability, Error, Index, Options, Table};
use esker_io::Disk;
use esker_io::sim::{CrashKind, SimDisk};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// Rows of a load: three parts of four mebibytes, and some.
const ROWS: u32 = 60_000;
/// Rows that were there before: every so many.
const BEFORE_EVERY: u32 = 7;

fn key(n: u32) -> [u8; 4] {
    n.to_be_bytes()
}
/// Does not pack.
fn value(n: u32, version: u32) -> Vec<u8> {
    let mut state = u64::from(n) << 8 | u64::from(version);
    let byte = |_| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 56) as u8
    };
    (0..200 + n as usize % 50).map(byte).collect()
}
fn options() -> Options {
    Options::new().memory_bytes(32 << 20).log_file_bytes(4 << 20).durability(Durability::Os)
}
fn load(table: &Table) -> esker::Result<u64> {
    table.bulk_load((0..ROWS).map(|n| (key(n), value(n, 2))))
}
fn has_sort_file(disk: &SimDisk) -> bool {
    disk.list().unwrap().iter().any(|name| name.starts_with("sort-"))
}

/// Checks that each row is as before the load or as after it; returns how many are as after it.
fn check(table: &Table) -> u32 {
    let (mut loaded, mut found) = (0, BTreeSet::new());
    for row in table.rows().unwrap() {
        let (key, bytes) = row.unwrap().into_parts();
        let n = u32::from_be_bytes(key[..].try_into().unwrap());
        assert!(found.insert(n), "row {n} twice");
        if bytes == value(n, 2) {
            loaded += 1;
        } else {
            assert!(n % BEFORE_EVERY == 0 && bytes == value(n, 1), "row {n}");
        }
    }
    assert!((0..ROWS).step_by(BEFORE_EVERY as usize).all(|n| found.contains(&n)), "rows are lost");
    loaded
}

/// A database with rows in a hash table.
fn before(disk: &SimDisk) -> (esker::Database, Table) {
    let db = options().open_on(Arc::new(disk.clone())).unwrap();
    let table = db.table("t", Index::Hash).unwrap();
    let rows = (0..ROWS).step_by(BEFORE_EVERY as usize);
    table.bulk_load(rows.map(|n| (key(n), value(n, 1)))).unwrap();
    db.sync().unwrap();
    (db, table)
}

#[test]
fn a_load_longer_than_memory_is_sorted_and_survives_crashes() {
    let disk = SimDisk::new(5);
    let (db, table) = before(&disk);
    let began = disk.operations();
    let crashed = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&crashed);
    let mut seed = 0;
    disk.on_operation(Box::new(move |operation, disk| {
        // The name of the file, which is there for one operation, is not to stay.
        let is_named = has_sort_file(disk);
        if is_named || (operation - began).is_multiple_of(4) {
            seed += 1;
            let kind = [CrashKind::Kill, CrashKind::All, CrashKind::None, CrashKind::Subset];
            let clone = disk.crash_clone(kind[seed as usize % kind.len()], seed);
            sink.lock().unwrap().push((is_named, clone));
        }
    }));
    assert_eq!(load(&table).unwrap(), u64::from(ROWS));
    disk.clear_hook();
    assert_eq!(check(&table), ROWS);
    assert_eq!(table.approximate_len(), u64::from(ROWS));
    assert!(db.verify().unwrap().is_sound());
    assert!(!has_sort_file(&disk));
    let crashed = std::mem::take(&mut *crashed.lock().unwrap());
    assert!(crashed.iter().any(|(is_named, _)| *is_named), "it was not sorted in a file");
    let mut parts = 0;
    for (_, disk) in &crashed {
        let db = options().open_on(Arc::new(disk.clone())).unwrap();
        let loaded = check(&db.open_table("t").unwrap());
        parts += usize::from(loaded > 0 && loaded < ROWS);
        assert!(db.verify().unwrap().is_sound());
        assert!(!has_sort_file(disk));
    }
    assert!(parts > 3, "{parts} of {} crashes left a part of the load", crashed.len());
}

#[test]
fn where_the_file_has_no_room_rows_are_loaded_as_they_come() {
    let mut loads = 0;
    for capacity_mib in [12, 24, 32, 40, 64] {
        let disk = SimDisk::new(6);
        let (db, table) = before(&disk);
        disk.set_capacity(Some(capacity_mib << 20));
        match load(&table) {
            Ok(_) => {
                assert_eq!(check(&table), ROWS, "{capacity_mib} MiB");
                loads += 1;
            }
            Err(Error::NoSpace { .. }) => {
                check(&table);
            }
            Err(error) => panic!("{capacity_mib} MiB: {error}"),
        }
        assert!(db.verify().unwrap().is_sound());
        assert!(!has_sort_file(&disk));
    }
    assert!((1..5).contains(&loads), "{loads} of 5 loads found space");
}
