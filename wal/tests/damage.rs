//! Damage and torn tails: what was durable is never silently missing, and nothing makes the reader panic.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

#[allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]
mod common;

use common::{DATABASE, Log, START, contents, flip, options, read_all, read_from, up_to};
use esker_base::checksum::seeded;
use esker_base::sync::Arc;
use esker_base::{DatabaseId, Error, Lsn};
use esker_io::mem::MemDisk;
use esker_io::{Disk, OpenMode};
use esker_wal::format::{BLOCK_BYTES, BODY_AT};
use esker_wal::{Options, Wal};
use proptest::prelude::*;

/// A log of several files, in which the last groups say what was durable before them.
struct Synced {
    disk: Arc<dyn Disk>,
    groups: u64,
    /// Groups that end before the position that the last group says was durable.
    witnessed: u64,
    witnessed_end: Lsn,
}

fn synced(recycle: bool) -> Synced {
    let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
    let log = Log::create(Arc::clone(&disk), options(8 << 10, 16 << 10)).unwrap();
    if recycle {
        // Fill the files with groups of earlier positions.
        for _ in 0..60 {
            log.put_sync(1000).unwrap();
            log.wal.release_before(log.wal.durable()).unwrap();
        }
    }
    for n in 0..30 {
        let (_, end) = log.put(n * 67 % 1500).unwrap();
        if n % 5 == 0 {
            log.sync(end).unwrap();
        }
    }
    for n in 0..3 {
        log.put_sync(50 + n).unwrap();
    }
    let witnessed_end = log.wal.durable();
    let witnessed = log.turn.lock().commit.0;
    log.put_sync(10).unwrap();
    Synced { disk, groups: log.turn.lock().commit.0, witnessed, witnessed_end }
}

#[test]
fn every_flipped_byte_is_seen_or_harmless() {
    let log = synced(false);
    let whole = contents(log.disk.as_ref());
    assert!(whole.len() >= 4, "several files");
    assert_eq!(read_all(log.disk.as_ref()).unwrap(), up_to(log.groups));
    let (mut seen, mut harmless) = (0, 0);
    for (name, bytes) in &whole {
        for at in 0..bytes.len() as u64 {
            let mask = 1 << (at % 8);
            flip(log.disk.as_ref(), name, at, mask);
            match read_all(log.disk.as_ref()) {
                Err(error) => {
                    assert!(error.is_corrupt(), "{name} byte {at}: {error}");
                    seen += 1;
                }
                Ok(commits) => {
                    assert_eq!(commits, up_to(commits.len() as u64));
                    assert!(commits.len() as u64 >= log.witnessed, "{name} byte {at}: shorter");
                    harmless += 1;
                }
            }
            flip(log.disk.as_ref(), name, at, mask);
        }
    }
    assert_eq!(read_all(log.disk.as_ref()).unwrap(), up_to(log.groups));
    assert!(seen > 10_000 && harmless > 1000, "{seen} seen, {harmless} harmless");
}

#[test]
fn a_damaged_group_is_named() {
    let log = synced(false);
    let name = contents(log.disk.as_ref())[0].0.clone();
    flip(log.disk.as_ref(), &name, BODY_AT + 20, 1);
    match read_all(log.disk.as_ref()) {
        Err(Error::Corrupt { file, offset, .. }) => {
            assert_eq!((file, offset), (name, BODY_AT));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_missing_or_shortened_file_is_seen() {
    let whole = contents(synced(false).disk.as_ref());
    let needed = whole.iter().filter(|(_, bytes)| {
        // Files whose first group the last one knew to be durable.
        let start = u64::from_le_bytes(*bytes[40..].first_chunk().unwrap());
        Lsn(start) < synced(false).witnessed_end
    });
    for (name, bytes) in needed {
        let log = synced(false);
        log.disk.remove(name).unwrap();
        assert!(read_all(log.disk.as_ref()).unwrap_err().is_corrupt(), "{name} missing");
        for cut in [0, 10, BLOCK_BYTES, bytes.len() as u64 - BLOCK_BYTES] {
            let log = synced(false);
            log.disk.open(name, OpenMode::ReadWrite).unwrap().set_len(cut).unwrap();
            match read_all(log.disk.as_ref()) {
                Err(error) => assert!(error.is_corrupt(), "{name} cut to {cut}: {error}"),
                Ok(commits) => assert!(commits.len() as u64 >= log.witnessed, "{name} to {cut}"),
            }
        }
    }
}

#[test]
fn a_tail_torn_anywhere_is_cut_there() {
    for recycled in [false, true] {
        let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
        let log = Log::create(Arc::clone(&disk), options(16 << 10, 16 << 10)).unwrap();
        if recycled {
            for _ in 0..40 {
                log.put_sync(1500).unwrap();
                log.wal.release_before(log.wal.durable()).unwrap();
            }
        }
        let from = log.turn.lock().tail.position();
        let first = log.turn.lock().commit.0;
        let (_, end) = log.put(100).unwrap();
        log.sync(end).unwrap();
        let before = contents(disk.as_ref());
        let mut ends = Vec::new();
        while ends.len() < 12 {
            ends.push(log.put(ends.len() * 97).unwrap().1);
        }
        // Of the bytes stored since the sync, only those up to the cut are there.
        for (name, after) in contents(disk.as_ref()) {
            let Some((_, before)) = before.iter().find(|(other, _)| *other == name) else {
                continue;
            };
            let changed = before.iter().zip(&after).position(|(one, other)| one != other);
            let Some(changed) = changed else { continue };
            let file = disk.open(&name, OpenMode::ReadWrite).unwrap();
            let start = u64::from_le_bytes(*after[40..].first_chunk().unwrap());
            let same = before.iter().rev().zip(after.iter().rev());
            let last = after.len() - same.take_while(|(one, other)| one == other).count();
            for cut in changed..last {
                file.write_at(cut as u64, &before[cut..]).unwrap();
                let (commits, _) = read_from(disk.as_ref(), from).unwrap();
                let reached = start + cut as u64 - BODY_AT;
                // Eight bytes of zeroes end a group where a cut may fall without harm.
                let whole = ends.iter().filter(|end| end.0 <= reached).count() as u64;
                // And a pad goes to the end of its block, which may come after its group.
                let least = |end: u64| end - if end.is_multiple_of(4096) { 4095 } else { 8 };
                let most = ends.iter().filter(|end| least(end.0) <= reached).count() as u64;
                let all: Vec<_> = (first + 1..=first + 1 + most).collect();
                assert!(commits.len() as u64 > whole && all.starts_with(&commits), "cut at {cut}");
                file.write_at(cut as u64, &after[cut..]).unwrap();
            }
        }
    }
}

#[test]
fn a_lost_group_is_not_stepped_over() {
    // A group that fills its block to the end; the next one starts a block and survives.
    let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
    let log = Log::create(Arc::clone(&disk), options(16 << 10, 16 << 10)).unwrap();
    log.put(100).unwrap();
    let lost = log.turn.lock().tail.position();
    let rest = BLOCK_BYTES - lost.0 % BLOCK_BYTES;
    log.put(rest as usize - 32).unwrap();
    assert_eq!(log.turn.lock().tail.position().0 % BLOCK_BYTES, 0);
    log.put(10).unwrap();
    let name = disk.list().unwrap().remove(0);
    let file = disk.open(&name, OpenMode::ReadWrite).unwrap();
    file.write_at(BODY_AT + lost.0 - START.0, &vec![0; rest as usize]).unwrap();
    assert_eq!(read_all(disk.as_ref()).unwrap(), [1]);
}

#[test]
fn old_content_of_recycled_files_is_no_witness() {
    let log = synced(true);
    let error = read_all(log.disk.as_ref()).unwrap_err();
    assert!(error.is_corrupt(), "the start was released: {error}");
    // The last group torn: nothing behind it, of whatever age, makes that damage.
    let from = log.witnessed_end;
    let mut last = Vec::new();
    esker_wal::read(log.disk.as_ref(), DATABASE, 1, from, &mut |group| {
        last.push(group.lsn.0);
        Ok(())
    })
    .unwrap();
    assert_eq!(last.len(), 1);
    for (name, bytes) in contents(log.disk.as_ref()) {
        let start = u64::from_le_bytes(*bytes[40..].first_chunk().unwrap());
        let length = bytes.len() as u64 - BODY_AT;
        if (start..start + length).contains(&last[0]) {
            flip(log.disk.as_ref(), &name, BODY_AT + last[0] - start + 20, 1);
        }
    }
    assert_eq!(read_from(log.disk.as_ref(), from).unwrap().0, []);
}

#[test]
fn files_of_other_databases_and_later_versions_are_refused() {
    let log = synced(false);
    let other = Options { first_file_bytes: 8 << 10, ..Options::new(DatabaseId(7), 9) };
    let other_disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
    let (_wal, _tail) = Wal::create(Arc::clone(&other_disk), other, 50, START).unwrap();
    let (name, mut bytes) = contents(other_disk.as_ref()).remove(0);
    let file = log.disk.open(&name, OpenMode::Create).unwrap();
    file.write_at(0, &bytes).unwrap();
    let refused = read_all(log.disk.as_ref());
    assert!(matches!(refused, Err(Error::NotADatabase { path, .. }) if path == name));
    bytes[8] = 9;
    let crc = seeded(&[], &[&bytes[..64]]);
    bytes[64..68].copy_from_slice(&crc.to_le_bytes());
    file.write_at(0, &bytes).unwrap();
    let refused = esker_wal::read(other_disk.as_ref(), DATABASE, 1, START, &mut |_| Ok(()));
    assert!(matches!(refused, Err(Error::NotADatabase { .. })));
    let refused = read_all(log.disk.as_ref());
    assert!(matches!(refused, Err(Error::Format { found: 9, supported: 1 })));
}

/// What to do to a file: overwrite at a place, or cut.
fn mischief() -> impl Strategy<Value = (usize, u64, Vec<u8>, bool)> {
    let bytes = prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..600),
        (1..9000usize).prop_map(|count| vec![0; count]),
        (1..64usize).prop_map(|count| vec![0xff; count]),
    ];
    (any::<usize>(), 0..20_000u64, bytes, proptest::bool::weighted(0.1))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn mischief_never_panics_nor_invents(acts in proptest::collection::vec(mischief(), 1..6)) {
        let log = synced(false);
        let names: Vec<_> = contents(log.disk.as_ref()).into_iter().map(|(name, _)| name).collect();
        for (which, at, bytes, cut) in acts {
            let file = log.disk.open(&names[which % names.len()], OpenMode::ReadWrite).unwrap();
            if cut {
                file.set_len(at).unwrap();
            } else {
                file.write_at(at, &bytes).unwrap();
            }
        }
        if let Ok(commits) = read_all(log.disk.as_ref()) {
            prop_assert_eq!(&commits, &up_to(commits.len() as u64));
        }
    }

    #[test]
    fn noise_never_panics(
        bytes in proptest::collection::vec(any::<u8>(), 0..9000),
        start in prop_oneof![Just(START.0), any::<u64>().prop_map(|lsn| lsn & !4095)],
        body in prop_oneof![Just(8192), any::<u64>().prop_map(|lsn| lsn & !4095)],
        from in any::<u32>(),
    ) {
        let mut block = b"\x89wal\r\n\x1a\n\x01\0\0\0\0\0\0\0".to_vec();
        for word in [DATABASE.0, 1, 1, start, body, start] {
            block.extend_from_slice(&word.to_le_bytes());
        }
        let crc = seeded(&[], &[&block]);
        block.extend_from_slice(&crc.to_le_bytes());
        block.resize(4096, 0);
        block.extend_from_slice(&bytes);
        let disk = MemDisk::new();
        for (name, content) in [
            ("wal-0000000000000001", &block[..]),
            ("wal-0000000000000002", &bytes[..]),
            ("wal-0000000000000003.new", &bytes[..]),
            ("wal-ffffffffffffffff", &block[..]),
        ] {
            disk.open(name, OpenMode::Create).unwrap().write_at(0, content).unwrap();
        }
        for from in [start, start.saturating_add(u64::from(from) & !7), !7] {
            drop(esker_wal::read(&disk, DATABASE, 1, Lsn(from), &mut |_| Ok(())));
        }
    }
}
