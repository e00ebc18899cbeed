//! Bytes that rot, files that are cut, swapped, missing or foreign.
//!
//! Goal: damage is reported, or the right data is given: never a wrong answer, never a panic. Method:
//! small databases on the simulated disk, each byte and sector of each file spoiled in turn, then
//! opened, read in every way, and verified.

use crate::sim::script::{Key, Shape, Value, table_name};
use crate::sim::{Choices, Known, Op, Rng, Runner, Settings, State, seeds};
use esker::{Database, Durability, Error, Index, Options, Result};
use esker_base::mark::{LOG_WITNESS, MAP_SECOND_IMAGE};
use esker_conformance::marks;
use esker_io::sim::{CrashKind, SimDisk};
use esker_io::{Disk, OpenMode};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// A table of each kind.
const SETTINGS: Settings = Settings { log_distance_bytes: 1 << 20, kinds: KINDS, ..Settings::TINY };
const KINDS: [Index; 3] = [Index::BTree, Index::Fractal, Index::Hash];

/// A database that was closed, or not, on a disk that nobody uses.
struct Image {
    disk: SimDisk,
    /// An older state of the same disk.
    older: SimDisk,
    /// States that may be found: what it holds, and, if it was not closed, what it held before the
    /// last commit, whose damage passes for a torn tail.
    states: Vec<State>,
}

/// All commits in one file of the log: what tells damage from a torn tail is only in other groups.
const LONG_LOG: Settings = Settings { log_file_bytes: 256 << 10, ..SETTINGS };

/// A table of each kind, large values, rows written over and over, and a log with commits in it.
fn image(seed: u64, closed: bool) -> Image {
    let disk = SimDisk::new(seed);
    let known = Arc::new(Mutex::new(Known::default()));
    let open: Arc<dyn Disk> = Arc::new(disk.clone());
    let settings = if closed { SETTINGS } else { LONG_LOG };
    let mut runner = Runner::open(open, settings, Arc::clone(&known)).unwrap();
    let mut rng = Rng::new(seed);
    let put = |rng: &mut Rng, most: u64| {
        let value = Value { len: rng.below(most) as u32, salt: rng.below(1 << 16) as u32 };
        Op::Put(rng.below(3) as u8, Key(rng.below(60) as u16), value, None)
    };
    let mut ops: Vec<Op> = (0..3).map(Op::Create).collect();
    ops.extend((0..150).map(|_| put(&mut rng, 150)));
    ops.push(Op::Checkpoint);
    ops.extend((0..40).map(|_| put(&mut rng, 150)));
    ops.extend((0..3).map(|tab| Op::Put(tab, Key(3), Value { len: 3000, salt: 5 }, None)));
    ops.push(Op::Checkpoint);
    for op in &ops {
        runner.step(op).unwrap();
        runner.check_bounds();
    }
    let older = disk.crash_clone(CrashKind::All, 0);
    for _ in 0..12 {
        runner.step(&put(&mut rng, 150)).unwrap();
        runner.check_bounds();
    }
    let states = {
        let known = known.lock().unwrap();
        let count = if closed { 1 } else { 2 };
        known.history.iter().rev().take(count).cloned().collect()
    };
    let disk = if closed {
        runner.step(&Op::Reopen { close: true }).unwrap();
        runner.db().clone().close().unwrap();
        disk.crash_clone(CrashKind::All, 0)
    } else {
        disk.crash_clone(CrashKind::None, 0)
    };
    Image { disk, older, states }
}

fn open(disk: &SimDisk) -> Result<Database> {
    SETTINGS.options().open_on(Arc::new(disk.clone()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Outcome {
    /// It did not open.
    Refused,
    /// It opened, and a read or the verification reported it.
    Reported,
    /// Nothing was wrong.
    Harmless,
    /// The last commit is missing, as if it had been torn.
    TornTail,
}
use Outcome::{Harmless, Refused, Reported, TornTail};

fn is_damage(error: &Error) -> bool {
    matches!(error, Error::Corrupt { .. })
}

/// Reads everything of one table, each way; answers whether damage was reported.
fn read_table(db: &Database, name: &str, wanted: &BTreeMap<Vec<u8>, Arc<[u8]>>) -> Result<bool> {
    let table = db.open_table(name)?;
    let mut damaged = false;
    let mut note = |error: Error| {
        assert!(is_damage(&error), "{name}: {error}");
        damaged = true;
    };
    for n in 0..70 {
        let key = Key(n).bytes(Shape::Short);
        match table.get(&key) {
            Ok(found) => {
                assert!(found.as_deref() == wanted.get(&key).map(|v| &v[..]), "{name} {n}: wrong");
            }
            Err(error) => note(error),
        }
    }
    let ordered = table.is_ordered();
    for back in if ordered { &[false, true][..] } else { &[false] } {
        let mut left: BTreeMap<&[u8], &[u8]> =
            wanted.iter().map(|(key, value)| (&key[..], &value[..])).collect();
        let mut rows = match if ordered { table.range(..) } else { table.rows() } {
            Ok(rows) => rows,
            Err(error) => {
                note(error);
                continue;
            }
        };
        loop {
            let row = if *back { rows.next_back() } else { rows.next() };
            match row {
                None => {
                    assert!(left.is_empty(), "{name}: a scan ended {} rows early", left.len());
                    break;
                }
                Some(Ok(row)) => {
                    let next = match (ordered, back) {
                        (false, _) => left.remove_entry(row.key()),
                        (true, false) => left.pop_first(),
                        (true, true) => left.pop_last(),
                    };
                    assert!(next == Some((row.key(), row.value())), "{name}: wrong row");
                }
                Some(Err(error)) => {
                    note(error);
                    break;
                }
            }
        }
    }
    Ok(damaged)
}

/// Opens a disk, reads all of it, verifies it. Panics at a wrong answer.
fn examine(disk: &SimDisk, states: &[State]) -> Outcome {
    let db = match open(disk) {
        Ok(db) => db,
        Err(error) => {
            assert!(is_damage(&error), "open: {error}");
            return Refused;
        }
    };
    // Which state it is, some key of the last commit tells; so try the newest first.
    let mut reported = false;
    let mut older = false;
    let matching = states.iter().position(|state| {
        let read = || {
            state.tables().any(|(name, generation)| {
                read_table(&db, name, state.rows(name, generation).unwrap()).unwrap()
            })
        };
        match seeds::quietly(read) {
            Ok(damaged) => {
                reported = damaged;
                true
            }
            Err(message) if states.len() == 1 || older => panic!("{message}"),
            Err(_) => {
                older = true;
                false
            }
        }
    });
    let matching = matching.expect("the last one panics");
    assert_eq!(db.tables().len(), states[0].tables().count(), "tables");
    match db.verify() {
        Ok(found) => {
            let error = found.damage.iter().find(|damage| !is_damage(&damage.error));
            assert!(error.is_none(), "{error:?}");
            assert!(!reported || !found.is_sound(), "verify did not see what a read saw");
            reported |= !found.is_sound();
        }
        Err(error) => {
            assert!(is_damage(&error), "verify: {error}");
            reported = true;
        }
    }
    match (reported, matching) {
        (true, _) => Reported,
        (false, 0) => Harmless,
        (false, _) => TornTail,
    }
}

/// Examines with the place in the message of a panic.
fn examine_at(disk: &SimDisk, states: &[State], place: impl FnOnce() -> String) -> Outcome {
    seeds::quietly(|| examine(disk, states))
        .unwrap_or_else(|message| panic!("{}: {message}", place()))
}

pub(crate) fn files(disk: &SimDisk) -> Vec<(String, u64)> {
    let mut names = disk.list().unwrap();
    names.sort();
    names
        .into_iter()
        .map(|name| {
            let bytes = disk.open(&name, OpenMode::Read).unwrap().len().unwrap();
            (name, bytes)
        })
        .collect()
}

fn file_kind(name: &str) -> &'static str {
    ["super", "checkpoint-", "seg-", "wal-"]
        .into_iter()
        .find(|prefix| name.starts_with(prefix))
        .unwrap_or("other")
}

type Counts = BTreeMap<(&'static str, Outcome), u64>;

/// Runs all cases on all cores; `case` answers a kind of file and an outcome.
fn count(cases: usize, case: impl Fn(usize) -> (&'static str, Outcome) + Sync) -> Counts {
    let counts = Mutex::new(Counts::new());
    let blocks = cases.div_ceil(64);
    seeds::each(blocks as u64, |block| {
        let first = block as usize * 64;
        for i in first..cases.min(first + 64) {
            let outcome = case(i);
            *counts.lock().unwrap().entry(outcome).or_insert(0) += 1;
        }
    });
    counts.into_inner().unwrap()
}

fn sum(counts: &Counts, kind: &str, outcomes: &[Outcome]) -> u64 {
    let of = |((name, outcome), count): (&(&'static str, Outcome), &u64)| {
        (*name == kind && outcomes.contains(outcome)).then_some(*count)
    };
    counts.iter().filter_map(of).sum()
}

#[test]
fn a_flipped_bit_is_reported_or_does_not_matter() {
    /// One byte in this many is tried; each in the files that are small.
    const STRIDE: usize = 5;
    for closed in [true, false] {
        let image = image(3, closed);
        let mut places = Vec::new();
        for (name, bytes) in files(&image.disk) {
            let content = read_file(&image.disk, &name);
            for (sector, content) in content.chunks(512).enumerate() {
                let stride = match (bytes, content.iter().all(|byte| *byte == 0)) {
                    (..2048, _) => 1,
                    (_, false) => STRIDE,
                    // Space that was only set aside.
                    (_, true) => 512,
                };
                let first = sector as u64 * 512;
                let sector = first..first + content.len() as u64;
                places.extend(sector.step_by(stride).map(|at| (name.clone(), at)));
            }
        }
        let counts = count(places.len(), |i| {
            let (name, at) = &places[i];
            let mut rng = Rng::new(i as u64);
            let at = at + rng.below(STRIDE as u64);
            let bit = 1 << rng.below(8);
            let disk = image.disk.crash_clone(CrashKind::All, 0);
            if disk.corrupt(name, at, bit).is_err() {
                return (file_kind(name), Harmless);
            }
            let outcome =
                examine_at(&disk, &image.states, || format!("{name}, byte {at}, bit {bit:#x}"));
            assert!(
                outcome != TornTail || file_kind(name) == "wal-",
                "{name}, byte {at}: a commit went missing"
            );
            (file_kind(name), outcome)
        });
        eprintln!("closed {closed}: {counts:?}");
        if !seeds::is_default() {
            continue;
        }
        assert!(sum(&counts, "checkpoint-", &[Refused]) > 100, "{counts:?}");
        assert!(sum(&counts, "seg-", &[Reported, Refused]) > 500, "{counts:?}");
        assert_eq!(sum(&counts, "super", &[Refused, Reported]), 0, "each slot is there twice");
        if !closed {
            assert!(sum(&counts, "wal-", &[Refused]) > 100, "{counts:?}");
            let torn = sum(&counts, "wal-", &[TornTail]);
            assert!(torn < 100, "{torn} flips cut the log: {counts:?}");
        }
        assert!(sum(&counts, "wal-", &[Harmless]) > 0, "{counts:?}");
    }
    marks::expect("damage", &[&LOG_WITNESS, &MAP_SECOND_IMAGE]);
}

#[test]
fn a_lost_or_misdirected_sector_is_reported_or_does_not_matter() {
    for closed in [true, false] {
        let image = image(4, closed);
        let sectors: Vec<_> = files(&image.disk)
            .into_iter()
            .flat_map(|(name, bytes)| {
                (0..bytes.div_ceil(512)).map(move |n| (name.clone(), n * 512))
            })
            .collect();
        let counts = count(sectors.len() * 3, |i| {
            let (name, at) = &sectors[i / 3];
            let disk = image.disk.crash_clone(CrashKind::All, 0);
            let (what, done) = match i % 3 {
                0 => ("zeroed".to_owned(), disk.zero_sector(name, *at)),
                1 => (
                    "an older one".to_owned(),
                    disk.copy_sector(&image.older, name, *at, name, *at),
                ),
                _ => {
                    let mut rng = Rng::new(i as u64);
                    let (other, from) = &sectors[rng.below(sectors.len() as u64) as usize];
                    let what = format!("that of {other} at {from}");
                    (what, disk.copy_sector(&image.disk, other, *from, name, *at))
                }
            };
            if done.is_err() {
                return (file_kind(name), Harmless);
            }
            let outcome =
                examine_at(&disk, &image.states, || format!("{name}, sector at {at}: {what}"));
            assert!(
                outcome != TornTail || file_kind(name) == "wal-",
                "{name}, sector at {at}, {what}: a commit went missing"
            );
            (file_kind(name), outcome)
        });
        eprintln!("closed {closed}: {counts:?}");
        if seeds::is_default() {
            assert!(sum(&counts, "seg-", &[Reported, Refused]) > 50, "{counts:?}");
        }
    }
}

#[test]
fn a_file_that_is_cut_is_reported_or_does_not_matter() {
    for closed in [true, false] {
        let image = image(5, closed);
        let mut cuts = Vec::new();
        for (name, bytes) in files(&image.disk) {
            for part in 0..24 {
                cuts.push((name.clone(), bytes * part / 24));
            }
            cuts.extend([1, 512, 4096].map(|less| (name.clone(), bytes.saturating_sub(less))));
        }
        let counts = count(cuts.len(), |i| {
            let (name, bytes) = &cuts[i];
            let disk = image.disk.crash_clone(CrashKind::All, 0);
            disk.open(name, OpenMode::ReadWrite).unwrap().set_len(*bytes).unwrap();
            let outcome = examine_at(&disk, &image.states, || format!("{name} cut to {bytes}"));
            assert!(
                outcome != TornTail || file_kind(name) == "wal-",
                "{name} cut to {bytes}: a commit went missing"
            );
            (file_kind(name), outcome)
        });
        assert!(sum(&counts, "checkpoint-", &[Refused]) > 20, "{counts:?}");
        assert!(sum(&counts, "seg-", &[Refused]) > 5, "{counts:?}");
    }
}

#[test]
fn a_missing_file_is_reported() {
    for closed in [true, false] {
        let image = image(6, closed);
        let mut refused = Vec::new();
        for (name, _) in files(&image.disk) {
            let disk = image.disk.crash_clone(CrashKind::All, 0);
            disk.remove(&name).unwrap();
            let outcome = examine_at(&disk, &image.states, || format!("without {name}"));
            assert!(matches!(outcome, Refused | Harmless), "without {name}: {outcome:?}");
            if outcome == Refused {
                refused.push(file_kind(&name));
            }
        }
        for kind in ["super", "checkpoint-", "seg-"] {
            assert!(refused.contains(&kind), "opened without {kind}");
        }
        if !closed {
            assert!(refused.contains(&"wal-"), "opened without its log");
        }
    }
}

/// A database so young that all it has is its log.
#[test]
fn a_young_database_without_its_superblock_is_not_taken_for_a_new_one() {
    let disk = SimDisk::new(9);
    let db = open(&disk).unwrap();
    let table = db.table("t", Index::BTree).unwrap();
    for n in 0..3 {
        table.put([n], "acknowledged").unwrap();
    }
    let left = disk.crash_clone(CrashKind::None, 0);
    left.remove("super").unwrap();
    let found = open(&left);
    assert!(matches!(found, Err(Error::Corrupt { .. })), "{found:?}");
}

pub(crate) fn read_file(disk: &SimDisk, name: &str) -> Vec<u8> {
    let file = disk.open(name, OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

pub(crate) fn write_file(disk: &SimDisk, name: &str, bytes: &[u8]) {
    if disk.list().unwrap().iter().any(|other| other == name) {
        disk.remove(name).unwrap();
    }
    let file = disk.open(name, OpenMode::Create).unwrap();
    file.write_at(0, bytes).unwrap();
    file.sync().unwrap();
    disk.sync_dir().unwrap();
}

#[test]
fn files_of_another_database_are_refused() {
    // Two databases that did the same.
    let ours = image(7, false);
    let theirs = SimDisk::new(70);
    {
        let db = open(&theirs).unwrap();
        for (name, generation) in ours.states[0].tables() {
            let table = db.table(name, Index::BTree).unwrap();
            for (key, value) in ours.states[0].rows(name, generation).unwrap() {
                table.put(key, [&value[..], b"!"].concat()).unwrap();
            }
            db.checkpoint().unwrap();
            table.put("k000", "theirs").unwrap();
        }
    }
    let mut mixed = 0;
    for (name, _) in files(&ours.disk) {
        for (other, _) in files(&theirs) {
            if file_kind(&name) != file_kind(&other) || name == "LOCK" {
                continue;
            }
            let disk = ours.disk.crash_clone(CrashKind::All, 0);
            write_file(&disk, &name, &read_file(&theirs, &other));
            mixed += 1;
            let place = || format!("{name} replaced by their {other}");
            let run = || {
                let opened = open(&disk);
                if matches!(opened, Err(Error::NotADatabase { .. })) {
                    return Refused;
                }
                drop(opened);
                let disk = ours.disk.crash_clone(CrashKind::All, 0);
                write_file(&disk, &name, &read_file(&theirs, &other));
                examine(&disk, &ours.states)
            };
            match seeds::quietly(run) {
                Ok(TornTail) => panic!("{}: a commit went missing", place()),
                Ok(_) => {}
                Err(message) => panic!("{}: {message}", place()),
            }
        }
    }
    assert!(mixed >= 6, "{mixed} mixtures");
}

/// CRC-32 as the formats use it.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }
        })
    })
}

/// Changes each header of a file that has one, and signs it again: magic (8 bytes), version, ..., crc. Returns how many.
fn forge_headers(bytes: &mut [u8], header_bytes: usize, change: impl Fn(&mut [u8])) -> u32 {
    let mut forged = 0;
    for header in bytes.chunks_mut(4096) {
        if header.len() < header_bytes + 4 {
            continue;
        }
        let crc = u32::from_le_bytes(header[header_bytes..header_bytes + 4].try_into().unwrap());
        if header[0] == 0x89 && crc32(&header[..header_bytes]) == crc {
            change(header);
            let crc = crc32(&header[..header_bytes]);
            header[header_bytes..header_bytes + 4].copy_from_slice(&crc.to_le_bytes());
            forged += 1;
        }
    }
    forged
}

/// As [`forge_headers`], in all files whose names begin with `prefix`.
fn forge_files(disk: &SimDisk, prefix: &str, header_bytes: usize, change: impl Fn(&mut [u8])) {
    let mut forged = 0;
    for (name, _) in files(disk).into_iter().filter(|(name, _)| name.starts_with(prefix)) {
        let mut bytes = read_file(disk, &name);
        forged += forge_headers(&mut bytes, header_bytes, &change);
        write_file(disk, &name, &bytes);
    }
    assert!(forged > 0, "no header found in {prefix}");
}

#[test]
fn a_newer_format_is_refused_with_both_versions() {
    let image = image(8, false);
    for (prefix, header_bytes, version) in [("super", 72, 3), ("wal-", 64, 1)] {
        let disk = image.disk.crash_clone(CrashKind::All, 0);
        forge_files(&disk, prefix, header_bytes, |header| {
            let version = u32::from_le_bytes(header[8..12].try_into().unwrap());
            header[8..12].copy_from_slice(&(version + 1).to_le_bytes());
        });
        let before: Vec<_> =
            files(&disk).into_iter().map(|(name, _)| read_file(&disk, &name)).collect();
        match open(&disk) {
            Err(Error::Format { found, supported }) => {
                assert_eq!((found, supported), (version + 1, version), "{prefix}");
            }
            other => panic!("{prefix}: {other:?}"),
        }
        let after: Vec<_> =
            files(&disk).into_iter().map(|(name, _)| read_file(&disk, &name)).collect();
        assert!(before == after, "{prefix}: what it cannot read, it changed");
    }
}

/// Whoever opens a database counts on from the numbers in it.
#[test]
fn numbers_as_large_as_numbers_go_are_damage() {
    let image = image(8, false);
    // Generations, positions, incarnations and sequences; not the random number of the database, which follows the version.
    for (prefix, header_bytes, numbers) in [("super", 72, 24..56), ("wal-", 64, 24..64)] {
        for at in numbers.step_by(8) {
            let disk = image.disk.crash_clone(CrashKind::All, 0);
            forge_files(&disk, prefix, header_bytes, |header| header[at..at + 8].fill(0xff));
            match open(&disk) {
                Err(error) if is_damage(&error) => {}
                other => panic!("{prefix}, byte {at}: {other:?}"),
            }
        }
    }
}

#[test]
fn a_directory_with_other_files_is_left_alone() {
    let disk = SimDisk::new(10);
    write_file(&disk, "notes.txt", b"not a database");
    for create in [true, false] {
        let opened = Options::new().create(create).open_on(Arc::new(disk.clone()));
        assert!(matches!(opened, Err(Error::NotADatabase { .. })), "{opened:?}");
        assert_eq!(read_file(&disk, "notes.txt"), b"not a database");
        assert_eq!(files(&disk).len(), 1, "{:?}", files(&disk));
    }
    let empty = SimDisk::new(11);
    let opened = Options::new().create(false).open_on(Arc::new(empty.clone()));
    assert!(matches!(opened, Err(Error::NotADatabase { .. })), "{opened:?}");
    assert_eq!(files(&empty).len(), 0);
    // A file in a database that is not ours is not touched either.
    let image = image(12, true);
    let mine = [
        "notes.txt",
        "wal-ffffffffffffffff",
        "wal-ffffffffffffffff.new",
        "wal-1",
        "seg-ffffffff",
        "seg-fffffffe",
        "seg-7ffffffe",
        "sort-algorithms",
        "sort-7",
        "seg-2",
    ];
    for name in mine {
        write_file(&image.disk, name, b"mine");
    }
    let db = open(&image.disk).unwrap();
    for name in mine {
        assert_eq!(read_file(&image.disk, name), b"mine");
    }
    // Nor does it count on from a number that it never came to.
    db.table("new", Index::BTree).unwrap().put("a", "b").unwrap();
    db.checkpoint().unwrap();
    let mut found = db.verify().unwrap();
    assert!(found.is_sound(), "{found:?}");
    found.strays.sort();
    assert_eq!(found.strays, ["seg-7ffffffe", "seg-fffffffe", "seg-ffffffff"]);
}

#[test]
fn rot_in_one_table_leaves_the_others() {
    for kind in KINDS {
        rot_one_table_of(kind);
    }
}

fn rot_one_table_of(kind: Index) {
    let disk = SimDisk::new(13);
    let db = open(&disk).unwrap();
    for tab in 0..2 {
        let table = db.table(&table_name(tab), kind).unwrap();
        for n in 0..200u16 {
            // Nothing that compresses: a place that is hit is then in a row, as a rule.
            let value: [u8; 100] = std::array::from_fn(|i| {
                (u32::from(n) * 100 + i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0]
            });
            table.put_with(n.to_be_bytes(), value, Durability::Os).unwrap();
        }
        db.checkpoint().unwrap();
    }
    db.close().unwrap();
    let (mut partly, mut both) = (0, 0);
    for (name, bytes) in files(&disk).into_iter().filter(|(name, _)| name.starts_with("seg-")) {
        for at in (100..bytes).step_by(1024) {
            let rotten = disk.crash_clone(CrashKind::All, 0);
            rotten.corrupt(&name, at, 1).unwrap();
            let Ok(db) = open(&rotten) else { continue };
            let good = (0..2u8).filter(|tab| {
                let table = db.open_table(&table_name(*tab)).unwrap();
                let rows = table.rows().unwrap();
                rows.map(|row| row.map(drop))
                    .collect::<Result<Vec<_>>>()
                    .is_ok_and(|all| all.len() == 200)
            });
            let good: Vec<_> = good.collect();
            // The page map is of all tables.
            both += usize::from(good.is_empty());
            if good.len() == 1 {
                partly += 1;
                let bad = table_name(1 - good[0]);
                let found = db.verify().unwrap();
                assert!(!found.is_sound(), "{name} at {at}");
                let other = table_name(good[0]);
                assert!(
                    found.damage.iter().all(|damage| damage.table.as_ref() != Some(&other)),
                    "{name} at {at}: {other} is whole, {bad} is not: {:?}",
                    found.damage
                );
                // The other one takes writes, too.
                db.open_table(&other).unwrap().put("new", "row").unwrap();
            }
        }
    }
    assert!(partly > 10, "{kind:?}: {partly} places harmed one table");
    assert!(both * 10 < partly, "{kind:?}: {both} places harmed both tables, {partly} one");
}
