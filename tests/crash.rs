//! Crashes at every I/O operation, of every kind, again during recovery, and lives in a row.
//!
//! Goal: every acknowledged `Sync` commit survives, none is half there, none is invented, and what
//! was opened again works. Method: `index/conformance/src/crash.rs`, over every kind of index.
//!
//! The long run: `ESKER_LONG=FILE cargo test --release --test main crash::every_crash`
//! takes 200 histories of 2,000 operations, appends a line for each to FILE, and skips those that
//! are in it already.

use crate::plants::LIVES;
use crate::sim::seeds;
use esker::{Durability, Index, Options};
use esker_base::checksum::seeded;
use esker_base::mark::{
    BTREE_MERGED, BTREE_SHORTENED, BTREE_UNLINKED, CLEANED_UNDER_CUT, FRACTAL_BELOW,
    FRACTAL_BESIDE, FRACTAL_GAP_CLOSED, FRACTAL_HANDED_DOWN, HASH_DIVIDED, HASH_FRONT_COUNTED,
    HASH_FRONT_EMPTIED, HASH_JOINED, HASH_WAITED, LOG_FILE_SMALLER, LOG_NEXT_FILE, LOG_TORN_GROUP,
    OPEN_READ_ONLY, OPEN_WITHOUT_RESERVE, OPEN_WITHOUT_STALE, PAGES_ABANDONED, SEGMENT_ORPHANED,
    SUPERBLOCK_TORN, VERSION_KEEPS_SEGMENT, WORK_UNATTACHED,
};
use esker_conformance::crash::{self, KINDS, Tally, index_of, kind};
use esker_conformance::subject::Subject;
use esker_conformance::{exhaust, marks};
use esker_io::sim::{CrashKind, SimDisk};
use esker_io::{Disk, OpenMode};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
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
    marks::expect("crash", &[&LOG_TORN_GROUP, &LOG_NEXT_FILE, &SUPERBLOCK_TORN, &SEGMENT_ORPHANED]);
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

/// Tables of thousands of rows, so that trunks have several levels and are divided, buckets are joined, and gaps are closed.
#[test]
fn every_crash_of_large_tables() {
    for (kind, count) in [(Index::Fractal, 20), (Index::Hash, 8), (Index::BTree, 4)] {
        let tally = crash::each_deep(Subject::of(kind), count, 60);
        eprintln!("{kind}: {} recoveries, by depth {:?}", tally.total(), tally.nested);
    }
    let all = [&SEGMENT_ORPHANED, &WORK_UNATTACHED, &VERSION_KEEPS_SEGMENT, &CLEANED_UNDER_CUT];
    let kinds = [&BTREE_MERGED, &BTREE_SHORTENED, &BTREE_UNLINKED, &HASH_JOINED, &HASH_DIVIDED];
    let front = [&HASH_WAITED, &HASH_FRONT_EMPTIED, &HASH_FRONT_COUNTED];
    let fractal = [&FRACTAL_HANDED_DOWN, &FRACTAL_BESIDE, &FRACTAL_BELOW, &FRACTAL_GAP_CLOSED];
    marks::expect("crash of large tables", &[&all[..], &kinds, &front, &fractal].concat());
}

/// Nothing drawn: all scripts of up to two operations; `ESKER_LENGTH=n` takes all up to n, `ESKER_KIND=name` one kind of table.
#[test]
fn every_crash_of_all_short_scripts() {
    let length = seeds::from_env("ESKER_LENGTH").unwrap_or(2) as u32;
    let wanted = std::env::var("ESKER_KIND").ok();
    let is_wanted = |kind: &Index| wanted.as_ref().is_none_or(|name| name == kind.name());
    for kind in Subject::KINDS.into_iter().filter(is_wanted) {
        for level in [Durability::Sync, Durability::Os] {
            let tally = exhaust::each(Subject::of(kind), level, length);
            eprintln!("{kind}, {level:?}: {tally:?}");
            if seeds::is_default() {
                assert!(tally.recoveries > 10 * tally.scripts, "{tally:?}");
            }
        }
    }
}

#[test]
fn lives_in_a_row_lose_nothing() {
    let lives = crash::each_lives(Subject::DRAWN, LIVES);
    if seeds::is_default() {
        assert!(lives.errors * 25 > lives.count, "few met an error: {lives:?}");
    }
    let on_full_disks =
        [&LOG_FILE_SMALLER, &OPEN_WITHOUT_STALE, &OPEN_WITHOUT_RESERVE, &OPEN_READ_ONLY];
    marks::expect("lives", &[&on_full_disks[..], &[&PAGES_ABANDONED]].concat());
}

/// Whatever a seed does once it does again, over crashes, faults, and what comes after them: a failure can be looked at.
#[test]
fn the_same_seed_does_the_same_io_over_crashes() {
    const SEEDS: u64 = 6;
    let kinds = [Index::BTree, Index::Hash, Index::Fractal].map(Subject::of);
    for subject in [Subject::DRAWN].into_iter().chain(kinds) {
        let traces = Mutex::new(BTreeSet::new());
        let errors = AtomicU64::new(0);
        seeds::each(SEEDS, |seed| {
            let script = crash::script_of(subject, seed, 60);
            let run = || (crash::history(subject, &script, seed, 1), crash::lives(subject, seed));
            let (first, again) = (run(), run());
            assert_eq!(first, again, "the two runs of seed {seed} of {:?} parted", subject.kind);
            errors.fetch_add(first.1.errors, Ordering::Relaxed);
            traces.lock().unwrap().extend([first.0.trace, first.1.trace]);
        });
        if seeds::is_default() {
            let found = traces.into_inner().unwrap().len() as u64;
            assert_eq!(found, 2 * SEEDS, "different runs have the same trace");
            assert!(errors.into_inner() > 0, "no life of {:?} met an error", subject.kind);
        }
    }
}

/// Numbers and checksums of all page images in the segments of a disk.
fn images(disk: &SimDisk) -> Vec<(u64, u32)> {
    const HEADER_BYTES: usize = 48;
    let read = |name: &str| {
        let file = disk.open(name, OpenMode::Read).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(0, &mut bytes).unwrap();
        bytes
    };
    let u64_at =
        |bytes: &[u8], at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
    let slots = read("super");
    let database = slots.chunks(4096).map(|slot| u64_at(slot, 16)).max().unwrap();
    let mut found = Vec::new();
    for name in disk.list().unwrap().iter().filter(|name| name.starts_with("seg-")) {
        let bytes = read(name);
        let mut at = 0;
        while at + HEADER_BYTES <= bytes.len() {
            let header = &bytes[at..at + HEADER_BYTES];
            let stored = usize::from(u16::from_le_bytes([header[38], header[39]]));
            let payload = bytes.get(at + HEADER_BYTES..at + HEADER_BYTES + stored);
            let crc = u32::from_le_bytes(header[44..48].try_into().unwrap());
            let is_image = |payload: &&[u8]| {
                header[..2] == [0x4b, 0xe5]
                    && seeded(&[database], &[&header[..44], *payload]) == crc
            };
            at += match payload.filter(is_image) {
                Some(_) => {
                    found.push((u64_at(header, 20), crc));
                    HEADER_BYTES + stored
                }
                None => 1,
            };
        }
    }
    found
}

/// An image that a crash has left in a segment that nobody names must not be taken for a newer one, wherever a device
/// may bring it back: so no number is given twice, whatever became of the process that gave it.
#[test]
fn no_image_number_is_given_twice() {
    let mut numbers: BTreeMap<u64, u32> = BTreeMap::new();
    let mut disk = SimDisk::new(3);
    for life in 0..8u32 {
        let options = Options::new().page_bytes(1024).memory_bytes(160 << 10);
        let options = options.log_file_bytes(32 << 10).log_distance_bytes(1 << 20);
        let db = options.durability(Durability::Os).open_on(Arc::new(disk.clone())).unwrap();
        let table = db.table("t", Index::BTree).unwrap();
        for n in 0..600u32 {
            // More than memory holds: pages are written without a checkpoint.
            table.put((n * 7 % 400).to_be_bytes(), vec![(life + n) as u8; 500]).unwrap();
            if n == 300 {
                db.checkpoint().unwrap();
            }
        }
        assert!(db.stats().evictions > 100, "everything fits into memory");
        for (number, crc) in images(&disk) {
            let before = *numbers.entry(number).or_insert(crc);
            assert_eq!(before, crc, "life {life}: image {number} is two images");
        }
        disk = disk.crash_clone(CrashKind::Kill, u64::from(life));
    }
    assert!(numbers.len() > 1000, "{} images", numbers.len());
}

/// A superblock that a device was writing when the power went may be noise in both slots: the other two are not touched
/// before it is durable, nor by a recovery of what one or two processes left that died before their syncs.
#[test]
fn noise_in_the_block_under_way_takes_one_superblock_at_most() {
    const ROWS: u32 = 40;
    let open = |disk: &SimDisk| {
        let options = Options::new().page_bytes(1024).memory_bytes(160 << 10);
        let options = options.log_file_bytes(32 << 10).durability(Durability::Sync);
        options.open_on(Arc::new(disk.clone()))
    };
    // What is left if the device or the process stops before each operation of `work`.
    let crashes = |disk: &SimDisk, seeds: u64, work: &mut dyn FnMut()| {
        let left = Arc::new(Mutex::new(Vec::new()));
        let net = Arc::clone(&left);
        disk.on_operation(Box::new(move |operation, disk| {
            for seed in 0..seeds {
                let clone = disk.crash_clone(CrashKind::Shorn, operation * seeds + seed);
                net.lock().unwrap().push((CrashKind::Shorn, clone));
            }
            net.lock()
                .unwrap()
                .push((CrashKind::Kill, disk.crash_clone(CrashKind::Kill, operation)));
        }));
        work();
        disk.clear_hook();
        let mut left = std::mem::take(&mut *left.lock().unwrap());
        left.push((CrashKind::Kill, disk.crash_clone(CrashKind::Kill, 0)));
        left
    };
    let expect_rows = |disk: &SimDisk, after: &str| {
        let opened = open(disk).and_then(|db| db.table("t", Index::BTree));
        let table = opened.unwrap_or_else(|error| panic!("{after}: {error}"));
        for n in 0..ROWS {
            let found = table.get(n.to_be_bytes()).unwrap();
            assert!(found.is_some_and(|value| value == [n as u8; 60]), "{after}: row {n}");
        }
    };
    let disk = SimDisk::new(11);
    let db = open(&disk).unwrap();
    let table = db.table("t", Index::BTree).unwrap();
    for n in 0..ROWS {
        table.put(n.to_be_bytes(), [n as u8; 60]).unwrap();
        if n % 10 == 9 && n + 1 < ROWS {
            db.checkpoint().unwrap();
        }
    }
    let slots = |disk: &SimDisk| {
        let mut bytes = vec![0; 16 << 10];
        disk.open("super", OpenMode::Read).unwrap().read_at(0, &mut bytes).unwrap();
        bytes
    };
    let before = slots(&disk);
    let (mut recoveries, mut written) = (0, 0);
    for (kind, left) in crashes(&disk, 16, &mut || db.checkpoint().unwrap()) {
        if kind != CrashKind::Kill {
            expect_rows(&left, "noise");
            recoveries += 1;
            continue;
        }
        // Where the device may not have what the process wrote, all four slots may be noise in the end: one draw in fifteen.
        // That is so at the second write and at the sync.
        written += u64::from(slots(&left) != before);
        let seeds = if (1..=3).contains(&written) { 64 } else { 4 };
        for (kind, again) in crashes(&left, seeds, &mut || expect_rows(&left, "kill")) {
            if kind != CrashKind::Kill {
                expect_rows(&again, "kill, then noise");
                recoveries += 1;
                continue;
            }
            // Two processes died, each before a sync: two blocks are under way at once.
            for (_, third) in crashes(&again, 4, &mut || expect_rows(&again, "two kills")) {
                expect_rows(&third, "two kills, then noise");
                recoveries += 1;
            }
        }
    }
    assert!(recoveries > 1000, "{recoveries} recoveries");
}

/// Who has waited for a ticket has a commit that survives the loss of power, and all before it.
#[test]
fn a_commit_whose_ticket_was_waited_for_survives() {
    let disk = SimDisk::new(8);
    let open = |disk: &SimDisk| {
        let options = Options::new().page_bytes(1024).memory_bytes(256 << 10);
        options.open_on(Arc::new(disk.clone())).unwrap()
    };
    let db = open(&disk);
    let table = db.table("t", Index::BTree).unwrap();
    for round in 0..20u8 {
        let mut tickets: Vec<_> =
            (0..4).map(|n| table.submit([round, n], [round; 40]).unwrap()).collect();
        // Any of them, or the last, by waiting or by awaiting.
        let waited = tickets.swap_remove(usize::from(round) % 4);
        if round % 2 == 0 {
            waited.wait().unwrap();
        } else {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            let ready = std::pin::pin!(waited).poll(&mut context);
            assert!(
                matches!(ready, std::task::Poll::Ready(Ok(()))),
                "there is no thread to wait for"
            );
        }
        let left = open(&disk.crash_clone(CrashKind::None, u64::from(round)));
        let table = left.open_table("t").unwrap();
        for n in 0..=round % 4 {
            assert_eq!(table.get([round, n]).unwrap(), Some(vec![round; 40]), "{round} {n}");
        }
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
