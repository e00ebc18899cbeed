//! The Nth operation of the disk fails: once, for a while, for ever; or the disk is full.
//!
//! Goal: each failure is an error that says what happened, nothing acknowledged is lost, and work
//! goes on where it can. Method: seeded scripts with a fault injected (`index/conformance/src/fault.rs`), and
//! databases that fill their disk.

use crate::plants::FAULTS;
use crate::sim::{Choices as _, Rng, Settings, State, seeds};
use esker::{Database, Durability, Error, Index, Options, Table};
use esker_base::mark::{OPEN_READ_ONLY, OPEN_WITHOUT_RESERVE, PAGES_ABANDONED};
use esker_conformance::fault::{self, ERRORS, KINDS, TIMES, Tally};
use esker_conformance::marks;
use esker_conformance::subject::Subject;
use esker_io::sim::{CrashKind, Fault, FaultError, OpKind, SimDisk};
use std::sync::Arc;
use std::time::Duration;

#[test]
fn the_nth_operation_of_each_kind_fails() {
    let tallies = fault::each(Subject::DRAWN, FAULTS);
    eprintln!("operation, how often, error: faults, of those met, of those calls that failed");
    let mut rare = Vec::new();
    for ([kind, times, error], Tally { drawn, met, failed }) in &tallies {
        let class = format!("{:?}, {}, {:?}", KINDS[*kind], TIMES[*times].0, ERRORS[*error]);
        eprintln!("{class}: {drawn}, {met}, {failed}");
        if *met < 15 {
            rare.push(class);
        }
    }
    if seeds::is_default() {
        assert!(rare.is_empty(), "hardly met: {rare:?}");
        // Three errors of an open, one of a read, two of the five others.
        assert_eq!(tallies.len(), (3 + 1 + 2 * 5) * TIMES.len(), "each class is drawn");
    }
    marks::expect("fault", &[&PAGES_ABANDONED, &OPEN_WITHOUT_RESERVE, &OPEN_READ_ONLY]);
}

fn options() -> Options {
    Settings::TINY.options()
}

fn open(disk: &SimDisk) -> Database {
    options().open_on(Arc::new(disk.clone())).unwrap()
}

fn key(n: u32) -> Vec<u8> {
    format!("key-{n:06}").into_bytes()
}

fn value(n: u32) -> Vec<u8> {
    (0..300u32).map(|i| (n * 7 + i * i) as u8).collect()
}

fn expect_rows(table: &Table, wanted: impl Iterator<Item = u32>) {
    let found: Vec<_> = table.range(..).unwrap().map(|row| row.unwrap().into_parts()).collect();
    let wanted: Vec<_> = wanted.map(|n| (key(n), value(n))).collect();
    assert!(found == wanted, "{} rows instead of {}", found.len(), wanted.len());
}

#[test]
fn after_a_failed_sync_writes_are_refused_until_reopened() {
    let mut met = 0;
    for nth in 0..40 {
        let disk = SimDisk::new(nth);
        let db = open(&disk);
        let table = db.table("t", Index::BTree).unwrap();
        disk.inject(Fault::new(OpKind::Sync, nth));
        let mut acknowledged = 0;
        let error = loop {
            match table.put(key(acknowledged), value(acknowledged)) {
                // It may hit a file that is being prepared: then another one is.
                Ok(()) if acknowledged > 200 => break None,
                Ok(()) => acknowledged += 1,
                Err(error) => break Some(error),
            }
        };
        let Some(error) = error else { continue };
        met += 1;
        assert!(
            matches!(error, Error::Unknown { .. } | Error::Poisoned { .. }),
            "nth {nth}: {error}"
        );
        // The device would take it now; nobody may believe that.
        for level in [Durability::Buffered, Durability::Os, Durability::Sync] {
            let refused = table.put_with("x", "y", level);
            assert!(matches!(refused, Err(Error::Poisoned { .. })), "nth {nth}: {refused:?}");
        }
        let mut batch = db.batch();
        batch.put(&table, "x", "y");
        let refused = [
            table.delete(key(0)),
            table.clear(),
            batch.commit(),
            db.sync(),
            db.checkpoint(),
            db.drop_table("t"),
            db.create_table("u", Index::BTree).map(drop),
            db.transact(|tx| tx.put(&table, "x", "y")),
        ];
        for refused in refused {
            assert!(matches!(refused, Err(Error::Poisoned { .. })), "nth {nth}: {refused:?}");
        }
        for n in 0..acknowledged {
            assert_eq!(table.get(key(n)).unwrap().unwrap(), value(n));
        }
        // What was acknowledged is there: after a restart, and after the loss of power in it.
        drop((table, db));
        for kind in [CrashKind::None, CrashKind::Kill, CrashKind::All] {
            let left = disk.crash_clone(kind, nth);
            let db = open(&left);
            let table = db.open_table("t").unwrap();
            let rows = table.range(..).unwrap().count() as u32;
            assert!(rows == acknowledged || rows == acknowledged + 1, "{kind:?}: {rows}");
            expect_rows(&table, 0..rows);
            table.put("x", "y").unwrap();
            // That open has shown the rows: from now on they stay.
            let db = open(&left.crash_clone(CrashKind::None, nth));
            let table = db.open_table("t").unwrap();
            assert_eq!(table.range("key".."l").unwrap().count() as u32, rows, "{kind:?}");
        }
    }
    assert!(met > 20, "only {met} syncs failed");
}

/// Once a slot may have been written nobody can tell which generation a crash leaves: there is no second try, for want of space
/// either.
#[test]
fn a_superblock_that_failed_is_not_tried_again() {
    let slots = [(OpKind::Write, 0), (OpKind::Write, 1), (OpKind::Sync, 0)];
    for (kind, nth) in slots {
        for error in [FaultError::Io, FaultError::NoSpace] {
            let what = format!("{kind:?} {nth}, {error:?}");
            let disk = SimDisk::new(nth);
            let db = open(&disk);
            let table = db.table("t", Index::BTree).unwrap();
            (0..40).for_each(|n| table.put(key(n), value(n)).unwrap());
            db.checkpoint().unwrap();
            (40..80).for_each(|n| table.put(key(n), value(n)).unwrap());
            disk.inject(Fault::new(kind, nth).on("super").error(error));
            let failed = db.checkpoint();
            assert!(matches!(failed, Err(Error::Io { .. })), "{what}: {failed:?}");
            let refused = table.put("x", "y");
            assert!(matches!(refused, Err(Error::Poisoned { .. })), "{what}: {refused:?}");
            expect_rows(&table, 0..80);
            for crash in [CrashKind::Kill, CrashKind::None, CrashKind::All] {
                let db = open(&disk.crash_clone(crash, nth));
                expect_rows(&db.open_table("t").unwrap(), 0..80);
            }
        }
    }
}

/// What a checkpoint that met the end of the disk has staged is not in any file: the next try writes all of it.
#[test]
fn a_checkpoint_that_is_tried_again_leaves_nothing_out() {
    let mut met = 0;
    for nth in 0..200 {
        let disk = SimDisk::new(nth);
        let db = open(&disk);
        let table = db.table("t", Index::BTree).unwrap();
        (0..300).for_each(|n| table.put(key(n), value(n)).unwrap());
        db.checkpoint().unwrap();
        (0..300).rev().for_each(|n| table.put(key(n), value(n + 1)).unwrap());
        disk.inject(Fault::new(OpKind::Write, nth).on("seg-").error(FaultError::NoSpace));
        db.checkpoint().unwrap();
        let is_met = disk.faults_met() > 0;
        met += u32::from(is_met);
        let db = open(&disk.crash_clone(CrashKind::None, nth));
        let table = db.open_table("t").unwrap();
        (0..300).for_each(|n| assert_eq!(table.get(key(n)).unwrap(), Some(value(n + 1)), "{nth}"));
        let found = db.verify().unwrap();
        assert!(found.is_sound(), "nth {nth}: {:?}", found.damage);
        if !is_met {
            break;
        }
    }
    assert!(met > 3, "{met} writes of a checkpoint failed");
}

/// Puts rows until the disk is full, also after what the engine can clean; returns how many there are.
fn fill(table: &Table) -> u32 {
    let (mut rows, mut refused) = (0, 0);
    while refused < 10 {
        match table.put(key(rows), value(rows)) {
            Ok(()) => (rows, refused) = (rows + 1, 0),
            Err(Error::NoSpace { .. }) => refused += 1,
            Err(error) => panic!("row {rows}: {error}"),
        }
    }
    rows
}

#[test]
fn a_full_disk_leaves_reads_and_deletes_and_writes_work_again_with_space() {
    for step in 0..24 {
        let disk = SimDisk::new(step);
        let db = open(&disk);
        let table = db.table("t", Index::BTree).unwrap();
        let other = db.table("other", Index::BTree).unwrap();
        other.put("stays", "here").unwrap();
        disk.set_capacity(Some((600 << 10) + step * 4096));
        let mut rows = fill(&table);
        assert!(rows > 100, "step {step}: the disk was full after {rows} rows");
        // Again and again: nothing of what is refused is kept, and making room by itself is no sin.
        let mut refused = 0;
        for _ in 0..20 {
            match table.put(key(rows), value(rows)) {
                Ok(()) => rows += 1,
                Err(Error::NoSpace { .. }) => refused += 1,
                Err(error) => panic!("step {step}: {error}"),
            }
        }
        assert!(refused > 0, "step {step}: the disk was not full");
        expect_rows(&table, 0..rows);
        assert_eq!(other.get("stays").unwrap().unwrap(), b"here");
        for n in 0..20 {
            table.delete(key(n)).unwrap_or_else(|error| panic!("step {step}, delete {n}: {error}"));
        }
        expect_rows(&table, 20..rows);
        // Somebody makes room.
        disk.set_capacity(Some(4 << 20));
        for n in 0..20 {
            table.put(key(n), value(n)).unwrap_or_else(|error| panic!("step {step}: {error}"));
        }
        db.checkpoint().unwrap();
        expect_rows(&table, 0..rows);
        assert!(db.verify().unwrap().is_sound());
        let left = disk.crash_clone(CrashKind::None, step);
        expect_rows(&open(&left).open_table("t").unwrap(), 0..rows);
    }
}

#[test]
fn deleting_makes_room_on_a_full_disk() {
    for step in 0..24 {
        let disk = SimDisk::new(step);
        let db = open(&disk);
        let table = db.table("t", Index::BTree).unwrap();
        let other = db.table("other", Index::BTree).unwrap();
        disk.set_capacity(Some((850 << 10) + step * 4096));
        let rows = fill(&table);
        match step % 3 {
            0 => {
                for n in 0..rows {
                    let deleted = table.delete(key(n));
                    deleted.unwrap_or_else(|error| panic!("step {step}, delete {n}: {error}"));
                }
            }
            1 => table.clear().unwrap_or_else(|error| panic!("step {step}, clear: {error}")),
            _ => db.drop_table("t").unwrap_or_else(|error| panic!("step {step}, drop: {error}")),
        }
        db.settle().unwrap_or_else(|error| panic!("step {step}, settle: {error}"));
        for n in 0..rows / 4 {
            let put = other.put(key(n), value(n));
            put.unwrap_or_else(|error| panic!("step {step}, row {n} after making room: {error}"));
        }
        expect_rows(&other, 0..rows / 4);
        let left = disk.crash_clone(CrashKind::None, step);
        expect_rows(&open(&left).open_table("other").unwrap(), 0..rows / 4);
    }
}

#[test]
fn a_full_disk_can_be_closed_and_opened() {
    for step in 0..24 {
        let disk = SimDisk::new(step);
        let db = open(&disk);
        let table = db.table("t", Index::BTree).unwrap();
        disk.set_capacity(Some((600 << 10) + step * 4096));
        let rows = fill(&table);
        drop(table);
        if step % 2 == 0 {
            match db.close() {
                Ok(()) | Err(Error::NoSpace { .. }) => {}
                Err(error) => panic!("step {step}, close: {error}"),
            }
        } else {
            drop(db);
        }
        // Recovery writes a new log: it may say that there is no room, but no more than that.
        match options().open_on(Arc::new(disk.clone())) {
            Ok(db) => expect_rows(&db.open_table("t").unwrap(), 0..rows),
            Err(Error::NoSpace { .. }) => {}
            Err(error) => panic!("step {step}, open: {error}"),
        }
        disk.set_capacity(None);
        let db = open(&disk);
        let table = db.open_table("t").unwrap();
        expect_rows(&table, 0..rows);
        table.put(key(rows), value(rows)).unwrap();
        assert!(db.verify().unwrap().is_sound());
    }
}

/// A failed operation makes a transaction unusable, the next row of a scan as any other.
#[test]
fn a_transaction_whose_scan_failed_can_only_be_dropped() {
    let disk = SimDisk::new(7);
    let db = open(&disk);
    let table = db.table("t", Index::BTree).unwrap();
    for n in 0..3000 {
        table.put(key(n), value(n)).unwrap();
    }
    db.checkpoint().unwrap();
    let mut tx = db.begin();
    tx.put(&table, key(1), b"other").unwrap();
    let mut rows = tx.range(&table, ..).unwrap();
    disk.inject(Fault::new(OpKind::Read, 0).forever());
    let failed = rows.find_map(Result::err);
    assert!(matches!(failed, Some(Error::Io { .. })), "{failed:?}");
    disk.clear_faults();
    assert!(matches!(tx.get(&table, key(1)), Err(Error::TransactionFailed)));
    assert!(matches!(tx.commit(), Err(Error::TransactionFailed)));
    assert_eq!(table.get(key(1)).unwrap().unwrap(), value(1)[..]);
}

#[test]
fn without_descriptors_calls_fail_and_later_succeed() {
    let disk = SimDisk::new(5);
    let db = open(&disk);
    let table = db.table("t", Index::BTree).unwrap();
    for n in 0..200 {
        table.put(key(n), value(n)).unwrap();
    }
    disk.inject(Fault::new(OpKind::Open, 0).forever().error(FaultError::TooManyFiles));
    let mut rows = 200;
    let error = loop {
        match table.put(key(rows), value(rows)) {
            Ok(()) => rows += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::TooManyFiles { .. }), "{error}");
    disk.clear_faults();
    table.put(key(rows), value(rows)).unwrap();
    expect_rows(&table, 0..=rows);
}

#[test]
fn a_failed_read_is_an_error_and_nothing_else() {
    let disk = SimDisk::new(6);
    let db = open(&disk);
    let table = db.table("t", Index::BTree).unwrap();
    for n in 0..600 {
        table.put(key(n), value(n)).unwrap();
    }
    db.checkpoint().unwrap();
    let mut failed = 0;
    for nth in 0..50 {
        disk.inject(Fault::new(OpKind::Read, nth % 4).times(1 + nth % 3));
        for n in (0..600).step_by(37).map(|n| (n + nth as u32 * 13) % 600) {
            match table.get(key(n)) {
                Ok(found) => assert_eq!(found.unwrap(), value(n)),
                Err(Error::Io { op, file, .. }) => {
                    assert!(op == "read" && file.starts_with("seg-"), "{op} {file}");
                    failed += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
        disk.clear_faults();
        table.put(key(nth as u32), value(nth as u32)).unwrap();
    }
    assert!(failed > 20, "{failed} reads failed");
    expect_rows(&table, 0..600);
}

/// What was acknowledged at `Os` more than an interval ago survives power loss, also where there are
/// no threads, once anything is done after the interval.
#[test]
fn the_sync_interval_is_kept_without_threads() {
    let disk = SimDisk::new(8);
    let db = options()
        .durability(Durability::Os)
        .sync_interval(Duration::from_secs(1))
        .open_on(Arc::new(disk.clone()))
        .unwrap();
    let table = db.table("t", Index::BTree).unwrap();
    for n in 0..10 {
        table.put(key(n), value(n)).unwrap();
        disk.advance(Duration::from_secs(2));
    }
    let left = disk.crash_clone(CrashKind::None, 1);
    let found = State::read(&open(&left)).unwrap();
    let rows = found.rows("t", 0).map_or(0, std::collections::BTreeMap::len);
    assert!(rows >= 9, "{rows} of 10 rows, written over 20 seconds, survived power loss");
}

/// A little room is enough for a little work: or work that is begun with room for all of it is given up as soon as it looks again,
/// and begun again, and a put waits for it without end.
#[test]
fn on_a_small_disk_work_with_room_for_all_of_it_ends() {
    let disk = SimDisk::new(2);
    let options = Options::new().page_bytes(2048).memory_bytes(1 << 20).log_file_bytes(32 << 10);
    let db = options.durability(Durability::Os).open_on(Arc::new(disk.clone())).unwrap();
    let table = db.table("t", Index::Fractal).unwrap();
    disk.set_capacity(Some(3584 << 10));
    let key = |n: u32| u64::from(n).to_be_bytes();
    // True if there was space.
    let put = |n: u32| {
        let mut rng = Rng::new(n.into());
        let value: Vec<u8> = (0..200).map(|_| rng.below(256) as u8).collect();
        match table.put(key(n), value) {
            Ok(()) => true,
            Err(Error::NoSpace { file, .. }) if !file.is_empty() => false,
            Err(error) => panic!("row {n}: {error}"),
        }
    };
    let (mut first, mut rows) = (0, 0);
    for _ in 0..3 {
        let mut refused = 0;
        while refused < 5 {
            if put(rows) { (rows, refused) = (rows + 1, 0) } else { refused += 1 }
        }
        // Half of the rows go, and then as many as it takes.
        let (old, part) = (rows, (rows - first).div_ceil(20));
        assert!(part > 50, "full with {part} rows");
        let mut delete = |rows: u32| {
            (first..first + rows).for_each(|n| table.delete(key(n)).unwrap());
            first += rows;
        };
        delete(part * 10);
        while rows < old + part * 3 {
            if put(rows) { rows += 1 } else { delete(part) }
        }
        assert_eq!(table.range(..).unwrap().count() as u32, rows - first);
        assert!(db.verify().unwrap().is_sound());
    }
}

/// What is dirty when the disk is full must find a place on it, or no checkpoint ends, no log goes, and deletes bring
/// nothing: however much memory there is beside the disk.
#[test]
fn a_disk_that_is_small_beside_memory_takes_rows_again() {
    let key = |n: u32| n.to_be_bytes();
    let value = |n: u32| -> Vec<u8> {
        let mut state = u64::from(n) + 1;
        let byte = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..700).map(byte).collect()
    };
    for (memory_bytes, kind) in [
        (2 << 20, Index::BTree),
        (2 << 20, Index::Fractal),
        (8 << 20, Index::BTree),
        (8 << 20, Index::Hash),
        (8 << 20, Index::Fractal),
        (32 << 20, Index::BTree),
        (32 << 20, Index::Hash),
        (32 << 20, Index::Fractal),
    ] {
        let at = format!("{kind:?}, {} MiB of memory", memory_bytes >> 20);
        let disk = SimDisk::new(1);
        disk.set_capacity(Some(24 << 20));
        let options = Options::new().memory_bytes(memory_bytes).log_file_bytes(1 << 20);
        let options = options.durability(Durability::Os);
        let db = options.open_on(Arc::new(disk.clone())).unwrap();
        let table = db.table("t", kind).unwrap();
        let mut rows = 0;
        let mut first = 0;
        for round in 0..3 {
            let mut refused = 0;
            while refused < 5 {
                match table.put(key(rows), value(rows)) {
                    Ok(()) => (rows, refused) = (rows + 1, 0),
                    Err(Error::NoSpace { .. }) => refused += 1,
                    Err(error) => panic!("{at}, row {rows}: {error}"),
                }
            }
            let bytes = (rows - first) * 700;
            assert!(bytes > 4 << 20, "{at}, round {round}: full with {bytes} bytes");
            let kept = rows - (rows - first) / 3;
            for n in first..kept {
                let deleted = table.delete(key(n));
                deleted.unwrap_or_else(|error| panic!("{at}, round {round}, delete {n}: {error}"));
            }
            first = kept;
            db.settle().unwrap_or_else(|error| panic!("{at}, round {round}, at rest: {error}"));
            let put = table.put(key(rows), value(rows));
            put.unwrap_or_else(|error| panic!("{at}, round {round}, after making room: {error}"));
            rows += 1;
        }
        for n in first..rows {
            assert_eq!(table.get(key(n)).unwrap().unwrap(), value(n)[..], "{at}, row {n}");
        }
        assert!(db.verify().unwrap().is_sound(), "{at}");
    }
}
