//! Slots and checkpoints: their bytes, what is read where some are damaged, and who outlives a recovery.

use super::*;
use esker_base::sync::{Arc, Mutex};
use esker_io::sim::{CrashKind, Fault, OpKind, SimDisk};

/// Checked against another implementation of CRC-32.
#[test]
fn golden_superblock_and_checkpoint() {
    let superblock = Superblock {
        database: DatabaseId(0x1122_3344_5566_7788),
        generation: 9,
        checkpoint: 7,
        log_start: Lsn(0x10_0000),
        incarnation: 3,
        checkpoint_crc: 0xdead_beef,
        checkpoint_bytes: 0x1234,
        page_bytes: 8192,
    };
    let slot = superblock.encode();
    let golden = b"\x89Esker\r\n\x03\0\0\0\0\0\0\0\x88\x77\x66\x55\x44\x33\x22\x11\
        \x09\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\0\0\x10\0\0\0\0\0\x03\0\0\0\0\0\0\0\
        \xef\xbe\xad\xde\x34\x12\0\0\0\x20\0\0\0\0\0\0\x35\x8a\x38\xc8";
    assert_eq!(slot[..golden.len()], golden[..]);
    assert!(slot[golden.len()..].iter().all(|byte| *byte == 0));
    assert_eq!(Superblock::decode(&slot).unwrap(), Some(superblock));

    let disk = SimDisk::new(1);
    let (crc, bytes) = write_checkpoint(&disk, superblock.database, 7, b"metadata").unwrap();
    assert_eq!((crc, bytes), (0xbcb8_297f, 8));
    let file = disk.open("checkpoint-0000000000000007", OpenMode::Read).unwrap();
    let mut found = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_at(0, &mut found).unwrap();
    let golden = b"\x89EskCk\r\n\x88\x77\x66\x55\x44\x33\x22\x11\x07\0\0\0\0\0\0\0\
        \x08\0\0\0\0\0\0\0\x7f\x29\xb8\xbc\0\0\0\0metadata";
    assert_eq!(found, golden);
    let named = Superblock { checkpoint_crc: crc, checkpoint_bytes: bytes, ..superblock };
    assert_eq!(read_checkpoint(&disk, &named).unwrap(), b"metadata");
}

/// A recovery counts on from these.
#[test]
fn numbers_that_nobody_counted_to_are_no_superblock() {
    let good = Superblock {
        database: DatabaseId(u64::MAX),
        generation: 9,
        checkpoint: 7,
        log_start: Lsn(4096),
        incarnation: 3,
        checkpoint_crc: u32::MAX,
        checkpoint_bytes: u32::MAX,
        page_bytes: 8192,
    };
    let reads = |superblock: Superblock| {
        let slot = superblock.encode();
        Superblock::decode(&slot).unwrap() == Some(superblock)
    };
    assert!(reads(good));
    for large in [COUNT_LIMIT, u64::MAX] {
        assert!(!reads(Superblock { generation: large, ..good }));
        assert!(!reads(Superblock { checkpoint: large, ..good }));
        assert!(!reads(Superblock { log_start: Lsn(large), ..good }));
        assert!(!reads(Superblock { incarnation: large, ..good }));
    }
    assert!(reads(Superblock { generation: COUNT_LIMIT - 1, ..good }));
}

fn some(generation: u64) -> Superblock {
    Superblock {
        database: DatabaseId(7),
        generation,
        checkpoint: generation,
        log_start: Lsn(0),
        incarnation: 1,
        checkpoint_crc: 0,
        checkpoint_bytes: 0,
        page_bytes: 8192,
    }
}

fn put(disk: &SimDisk, name: &str, bytes: &[u8]) {
    disk.open(name, OpenMode::Create).unwrap().write_at(0, bytes).unwrap();
}

/// Who is told "not a database" makes a new one there.
#[test]
fn what_is_not_ours_is_told_from_what_is_damaged() {
    let is_ours = |files: &[(&str, &[u8])]| {
        let disk = SimDisk::new(1);
        for (name, bytes) in files {
            put(&disk, name, bytes);
        }
        match read(&disk) {
            Err(Error::NotADatabase { .. }) => false,
            Err(Error::Corrupt { .. }) => true,
            other => panic!("{other:?}"),
        }
    };
    let whole = [0; SLOTS * SLOT_BYTES];
    let mut damaged = some(9).encode();
    damaged[30] ^= 1;
    let segment = ("seg-00000001", &b"pages"[..]);
    assert!(!is_ours(&[]) && !is_ours(&[segment]));
    assert!(!is_ours(&[(SUPER_NAME, b"")]) && !is_ours(&[(SUPER_NAME, b"hello")]));
    assert!(!is_ours(&[(SUPER_NAME, &whole[1..])]));
    assert!(is_ours(&[(SUPER_NAME, b"hello"), segment]));
    assert!(is_ours(&[(SUPER_NAME, &whole)]));
    assert!(is_ours(&[(SUPER_NAME, &damaged)]));
}

#[test]
fn a_slot_of_a_version_that_never_was_is_refused_and_one_with_more_in_it_is_none() {
    let mut slot = some(9).encode();
    let mut with = |at: usize, byte: u8| {
        slot[at] = byte;
        let crc = seeded(&[], &[&slot[..CRC_AT]]);
        slot[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        Superblock::decode(&slot)
    };
    for version in [0, 4] {
        let found = with(8, version);
        assert!(matches!(found, Err(Error::Format { supported: 3, .. })), "{found:?}");
    }
    assert_eq!(with(8, 1).unwrap(), Some(some(9)));
    assert_eq!(with(13, 1).unwrap(), None);
    assert_eq!(with(13, 0).unwrap(), Some(some(9)));
    assert_eq!(with(70, 1).unwrap(), None);
}

/// A process that died may have left the file, of any length.
#[test]
fn what_an_earlier_try_has_left_is_in_the_way_of_none() {
    let disk = SimDisk::new(1);
    put(&disk, SUPER_NEW, &vec![9; 5 * SLOT_BYTES]);
    create(&disk, &some(8)).unwrap();
    assert_eq!(read(&disk).unwrap(), some(8));
    assert_eq!(bad_slots(&disk, &some(8)).unwrap(), []);
    assert_eq!(bad_slots(&disk, &some(9)).unwrap().len(), 2);
    put(&disk, &checkpoint_name(8), &[9; 500]);
    let (checkpoint_crc, checkpoint_bytes) =
        write_checkpoint(&disk, DatabaseId(7), 8, b"metadata").unwrap();
    let named = Superblock { checkpoint_crc, checkpoint_bytes, ..some(8) };
    assert_eq!(read_checkpoint(&disk, &named).unwrap(), b"metadata");
}

#[test]
fn the_newest_checkpoint_that_is_whole_is_found_under_its_own_name() {
    let disk = SimDisk::new(1);
    let newest = || newest_checkpoint(&disk).unwrap().map(|(_, generation, _)| generation);
    assert_eq!(newest(), None);
    for generation in [8, 9] {
        write_checkpoint(&disk, DatabaseId(7), generation, b"metadata").unwrap();
    }
    assert_eq!(newest(), Some(9));
    let file = disk.open(&checkpoint_name(9), OpenMode::ReadWrite).unwrap();
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_at(0, &mut bytes).unwrap();
    put(&disk, &checkpoint_name(11), &bytes);
    put(&disk, &checkpoint_name(12), &bytes[..CHECKPOINT_HEADER_BYTES - 1]);
    assert_eq!(newest(), Some(9));
    // The last of its metadata, its length, and the first of the magic.
    for (at, then) in [(bytes.len() - 1, 8), (24, 8), (0, 8)] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        file.write_at(0, &damaged).unwrap();
        assert_eq!(newest(), Some(then), "byte {at}");
    }
    file.write_at(0, &bytes).unwrap();
    assert_eq!(newest(), Some(9));
}

/// Generation 9 is durable and what 8 names is gone: however often a recovery dies, loses power in all ways, or is told
/// that a sync failed, 9 is what the next one reads.
#[test]
fn a_generation_outlives_every_end_of_its_recoveries() {
    let disk = SimDisk::new(1);
    create(&disk, &some(8)).unwrap();
    write(&disk, &some(9)).unwrap();
    let mut torn_twice = 0;
    recover_and_end(&disk, &some(9), 3, &mut torn_twice);
    assert!(torn_twice > 100, "{torn_twice} of the disks had a torn slot in a second recovery");
}

/// Rewrites `wanted` on a copy of the disk, ended before each operation and after the last in each way, and goes on with
/// what is left, `depth` times in all.
fn recover_and_end(disk: &SimDisk, wanted: &Superblock, depth: u32, torn_twice: &mut u32) {
    let mut left = ends(disk, |disk| rewrite(disk, wanted).unwrap());
    for sync in 0..3 {
        let failing = disk.crash_clone(CrashKind::Kill, 0);
        failing.inject(Fault::new(OpKind::Sync, sync));
        rewrite(&failing, wanted).unwrap_err();
        failing.clear_faults();
        left.push(failing);
    }
    for disk in left {
        assert_eq!(read(&disk).unwrap(), *wanted);
        let is_torn = !bad_slots(&disk, wanted).unwrap().is_empty();
        *torn_twice += u32::from(is_torn && depth < 3);
        if depth > 1 {
            recover_and_end(&disk, wanted, depth - 1, torn_twice);
        }
    }
}

/// The disks that are left if what `run` does ends before each operation, and after the last.
fn ends(disk: &SimDisk, run: impl FnOnce(&SimDisk)) -> Vec<SimDisk> {
    fn kinds(disk: &SimDisk) -> impl Iterator<Item = SimDisk> {
        let torn = (0..4).map(|seed| (CrashKind::Shorn, seed));
        let whole = [CrashKind::Kill, CrashKind::None].map(|kind| (kind, 0));
        torn.chain(whole).map(|(kind, seed)| disk.crash_clone(kind, seed))
    }
    let running = disk.crash_clone(CrashKind::Kill, 0);
    let left = Arc::new(Mutex::new(Vec::new()));
    let (watched, net) = (running.clone(), Arc::clone(&left));
    running.on_operation(Box::new(move |_, _| net.lock().extend(kinds(&watched))));
    run(&running);
    running.clear_hook();
    left.lock().extend(kinds(&running));
    std::mem::take(&mut *left.lock())
}
