//! The log as the engine uses it: appending, syncing, switching files, releasing, faults.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

#[allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]
mod common;

use common::{DATABASE, FaultDisk, Log, START, options, payload, read_all, read_from, up_to};
use esker_base::sync::{Arc, Mutex, Ordering, thread};
use esker_base::{CommitNo, Error, Lsn};
use esker_io::mem::MemDisk;
use esker_io::sim::{Fault, OpKind, SimDisk};
use esker_io::{Disk, OpenMode};
use esker_wal::{Options, Wal};

const SMALL: u64 = 16 << 10;

fn small(max: u64) -> (Arc<dyn Disk>, Log) {
    let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
    let log = Log::create(Arc::clone(&disk), options(SMALL, max)).unwrap();
    (disk, log)
}

#[test]
fn groups_round_trip_over_files() {
    let (disk, log) = small(4 * SMALL);
    let sizes = [0, 1, 7, 8, 130, 4000, 9000, 31, 16 << 10, 17 << 10, 100];
    for (n, bytes) in sizes.into_iter().cycle().take(200).enumerate() {
        let (_, end) = log.put(bytes).unwrap();
        if n % 7 == 0 {
            log.sync(end).unwrap();
            assert!(log.wal.durable() >= end);
            assert_eq!(log.turn.lock().tail.position().0 % 4096, 0, "sealed");
        }
    }
    let (commits, end) = read_from(disk.as_ref(), START).unwrap();
    assert_eq!(commits, up_to(200));
    assert_eq!(end.end, log.wal.position());
    let stats = log.wal.stats();
    assert_eq!(stats.groups, 200);
    assert!(stats.files > 5 && stats.syncs >= 29, "{stats:?}");
    assert_eq!(end.files.len() as u64, stats.files + stats.ready_files);
    assert_eq!(end.highest_sequence, end.files.len() as u64);
    assert_eq!(end.highest_incarnation, 1);
}

/// Nothing on the way is cut to 32 bits: positions and commits go over 2^32 like over any number.
#[test]
fn positions_and_commits_go_beyond_32_bits() {
    let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
    let start = Lsn((1 << 32) - (16 << 10));
    let options = options(SMALL, 4 * SMALL);
    let (wal, tail) = Wal::create(Arc::clone(&disk), options, 1, start).unwrap();
    let commit = CommitNo((1 << 32) - 50);
    let log = Log { wal, turn: Mutex::new(common::Turn { tail, commit }) };
    for n in 0..100 {
        log.put_sync(n * 37 % 900).unwrap();
    }
    let (commits, end) = read_from(disk.as_ref(), start).unwrap();
    assert_eq!(commits, (commit.0 + 1..=commit.0 + 100).collect::<Vec<_>>());
    assert!(end.end.0 > 1 << 32 && end.last_commit.0 > 1 << 32, "{end:?}");
}

#[test]
fn reading_starts_anywhere_a_tail_was() {
    let (disk, log) = small(4 * SMALL);
    let mut starts = vec![(0, log.turn.lock().tail.position())];
    for n in 1..120 {
        let (_, end) = log.put(n * 37 % 900).unwrap();
        if n % 5 == 0 {
            log.sync(end).unwrap();
        }
        starts.push((n, log.turn.lock().tail.position()));
    }
    for (n, from) in starts {
        let (commits, _) = read_from(disk.as_ref(), from).unwrap();
        let expected: Vec<_> = (n as u64 + 1..120).collect();
        assert_eq!(commits, expected, "from {from:?}");
    }
}

#[test]
fn a_group_larger_than_any_file_gets_one() {
    let (disk, log) = small(4 * SMALL);
    log.put(10).unwrap();
    // Smaller files made ready before are passed by.
    while log.wal.stats().ready_files == 0 {
        log.put(1000).unwrap();
        log.wal.upkeep().unwrap();
    }
    log.put(3 << 20).unwrap();
    log.put_sync(10).unwrap();
    let groups = log.wal.stats().groups;
    assert_eq!(read_all(disk.as_ref()).unwrap(), up_to(groups));
    assert!(matches!(log.wal.make_room(2 << 30), Err(Error::TooLarge { .. })));
    assert!(!log.wal.fits(&log.turn.lock().tail, 2 << 30));
}

/// The simulated disk refuses what a real one answers with a signal: a store to where the window was not populated.
#[test]
fn groups_are_stored_only_where_the_window_is_populated() {
    const LARGE: u64 = 4 << 20;
    let disk = SimDisk::new(3);
    let log = Log::create(Arc::new(disk.clone()), options(LARGE, LARGE)).unwrap();
    // Up to the end of what was populated when the file was made, which is not all of it.
    let mut groups = 0;
    while log.wal.fits(&log.turn.lock().tail, 4000) {
        log.put(4000).unwrap();
        groups += 1;
    }
    assert!((100..500).contains(&groups), "{groups} groups");
    // From there on, in this file and the next one, room is made before it is used.
    for _ in 0..1200 {
        log.put(4000).unwrap();
    }
    log.put_sync(1).unwrap();
    assert_eq!(read_all(&disk).unwrap(), up_to(groups + 1201));
}

#[test]
fn files_grow_up_to_the_limit() {
    let (disk, log) = small(8 * SMALL);
    for _ in 0..400 {
        log.put(1000).unwrap();
    }
    let sizes: Vec<_> = common::contents(disk.as_ref())
        .iter()
        .map(|(_, bytes)| bytes.len() as u64 / SMALL)
        .collect();
    // By four, or, where groups come fast, by more at once.
    assert_eq!((sizes[0], &sizes[2..4]), (1, &[8, 8][..]), "{sizes:?}");
    assert!([4, 8].contains(&sizes[1]), "{sizes:?}");
}

#[test]
fn released_files_are_recycled_and_their_old_groups_stay_dead() {
    let (disk, log) = small(SMALL);
    let mut released = START;
    for round in 0..50 {
        let first = log.turn.lock().commit.0 + 1;
        let from = log.turn.lock().tail.position();
        for n in 0..20 {
            log.put(700 + n).unwrap();
        }
        let (_, end) = log.put(9).unwrap();
        log.sync(end).unwrap();
        let last = log.turn.lock().commit.0;
        let (commits, _) = read_from(disk.as_ref(), from).unwrap();
        assert_eq!(commits, (first..=last).collect::<Vec<_>>(), "round {round}");
        log.wal.release_before(from).unwrap();
        released = from;
    }
    let stats = log.wal.stats();
    assert!(stats.files_recycled > 10, "{stats:?}");
    assert!(stats.files_created <= 6, "{stats:?}");
    assert!(stats.spare_files <= 2, "{stats:?}");
    assert!(disk.list().unwrap().len() <= 6);
    assert!(read_from(disk.as_ref(), released).is_ok());
    let error = read_all(disk.as_ref()).unwrap_err();
    assert!(error.is_corrupt(), "the start is gone, and that is no empty log: {error}");
}

#[test]
fn spares_follow_what_is_written() {
    let (_, log) = small(SMALL);
    let write = |bytes: u64| {
        let until = log.wal.position().0 + bytes;
        while log.wal.position().0 < until {
            log.put(1000).unwrap();
        }
        log.sync(log.wal.position()).unwrap();
        log.wal.release_before(log.wal.durable()).unwrap();
        log.wal.stats()
    };
    let busy = write(20 * SMALL);
    assert!((15..=20).contains(&busy.spare_files), "{busy:?}");
    let again = write(18 * SMALL);
    assert!(again.files_created <= busy.files_created + 4, "{again:?} after {busy:?}");
    let idle = write(1000);
    assert_eq!(idle.spare_files, 2);
    assert!(idle.disk_bytes <= 4 * SMALL, "{idle:?}");
}

#[test]
fn nothing_undurable_is_released() {
    let (disk, log) = small(SMALL);
    for _ in 0..100 {
        log.put(700).unwrap();
    }
    log.wal.release_before(log.wal.position()).unwrap();
    assert_eq!(read_all(disk.as_ref()).unwrap(), up_to(100));
}

#[test]
fn a_failed_sync_poisons() {
    let disk = FaultDisk::new(Arc::new(MemDisk::new()));
    let log = Log::create(disk.shared(), options(SMALL, SMALL)).unwrap();
    log.put_sync(10).unwrap();
    let durable = log.wal.durable();
    assert_eq!(log.wal.poisoned(), None);
    disk.faults.sync_fails.store(true, Ordering::SeqCst);
    let (_, end) = log.put(10).unwrap();
    assert!(matches!(log.sync(end), Err(Error::Unknown { .. })));
    disk.faults.sync_fails.store(false, Ordering::SeqCst);
    // A later sync would succeed and mean nothing.
    assert!(matches!(log.sync(end), Err(Error::Unknown { .. })));
    assert!(matches!(log.sync(Lsn(end.0 + (1 << 20))), Err(Error::Poisoned { .. })));
    assert!(log.wal.poisoned().unwrap().contains("injected"));
    assert_eq!(log.wal.durable(), durable);
    log.sync(durable).unwrap();
}

#[test]
fn all_who_wait_for_a_failed_sync_learn_of_it() {
    let disk = FaultDisk::new(Arc::new(MemDisk::new()));
    let log = Log::create(disk.shared(), options(SMALL, SMALL)).unwrap();
    disk.faults.sync_ms.store(30, Ordering::SeqCst);
    disk.faults.sync_fails.store(true, Ordering::SeqCst);
    // All appended before: who comes after the failure is told something else.
    let ends = [(); 4].map(|()| log.put(10).unwrap().1);
    thread::scope(|scope| {
        for end in ends {
            let log = &log;
            scope.spawn(move || assert!(matches!(log.sync(end), Err(Error::Unknown { .. }))));
        }
    });
    assert_eq!(
        disk.faults.syncs.load(Ordering::SeqCst),
        2,
        "the first file's, and one that failed"
    );
}

/// Where each group is synced, groups are written by calls, which can fail: what was not written is not said to be, nothing comes
/// behind it, and what came before is kept.
#[test]
fn a_failed_write_of_a_group_poisons() {
    let sim = SimDisk::new(1);
    let log = Log::create(Arc::new(sim.clone()), options(64 << 10, 64 << 10)).unwrap();
    for _ in 0..5 {
        log.put_sync(100).unwrap();
    }
    sim.inject(Fault::new(OpKind::Write, 0));
    let (before, end) = (log.wal.stats().groups, log.wal.position());
    assert!(matches!(log.put(100), Err(Error::Unknown { .. })));
    assert!(log.wal.poisoned().is_some());
    // One that was on its way when it failed; the engine begins no more.
    assert!(matches!(log.put(100), Err(Error::Unknown { .. } | Error::Poisoned { .. })));
    assert!(log.sync(Lsn(end.0 + 8)).is_err(), "what was lost");
    assert!(log.sync(end).is_ok(), "durable before");
    // It may have been written before it failed.
    let read = read_all(&sim).unwrap();
    assert!(read == up_to(before) || read == up_to(before + 1), "{read:?}");
}

/// Without syncs groups are stored, after one they are written by calls, and after many without one stored again; both ways lead to
/// the same log, and what a call writes needs no populated pages.
#[test]
fn groups_are_written_by_calls_while_they_are_synced() {
    let sim = SimDisk::new(1);
    let log = Log::create(Arc::new(sim.clone()), options(1 << 20, 8 << 20)).unwrap();
    let mut groups = 0;
    for round in 0..40 {
        for n in 0..[1, 3, 200][round % 3] {
            // Some are larger than a block, and some than what is put together for a store.
            log.put(1 + (n * 37 + round * 411) % [200, 9000, 40_000][round % 3]).unwrap();
            groups += 1;
            if log.wal.upkeep_due() {
                log.wal.upkeep().unwrap();
            }
        }
        log.sync(log.wal.position()).unwrap();
        assert_eq!(read_all(&sim).unwrap(), up_to(groups), "round {round}");
    }
}

/// A writer that is alone costs one write and one sync a group once the log has seen that it is; one group that is not sealed alone
/// ends that.
#[test]
fn a_lone_group_is_written_with_its_pad() {
    let sim = SimDisk::new(1);
    let log = Log::create(Arc::new(sim.clone()), options(1 << 20, 1 << 20)).unwrap();
    let operations_of = |bytes: usize| {
        let before = sim.operations();
        log.put_sync(bytes).unwrap();
        assert_eq!(log.wal.durable().0 % 4096, 0, "what is durable ends with a block");
        sim.operations() - before
    };
    for bytes in [100, 5000, 20_000, 100, 100, 100] {
        operations_of(bytes);
    }
    for bytes in [100, 5000, 20_000, 1] {
        assert_eq!(operations_of(bytes), 2, "{bytes} bytes");
    }
    // Two at once: the second shares no block with the first, which was padded.
    log.put(100).unwrap();
    log.put(100).unwrap();
    log.sync(log.wal.position()).unwrap();
    assert_eq!(operations_of(100), 3, "a write, a pad, a sync");
    assert_eq!(read_all(&sim).unwrap(), up_to(13));
}

#[test]
fn no_space_leaves_the_log_usable() {
    let disk = FaultDisk::new(Arc::new(MemDisk::new()));
    let log = Log::create(disk.shared(), options(SMALL, 4 * SMALL)).unwrap();
    disk.faults.no_space.store(true, Ordering::SeqCst);
    let error = loop {
        if let Err(error) = log.put(500) {
            break error;
        }
    };
    assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    let groups = log.wal.stats().groups;
    assert!(groups > 10);
    log.sync(log.wal.position()).unwrap();
    assert_eq!(read_all(&disk).unwrap(), up_to(groups));
    assert_eq!(disk.list().unwrap().len(), 1, "nothing half-made is left");
    disk.faults.no_space.store(false, Ordering::SeqCst);
    // Space for a smaller file than wanted is enough.
    disk.faults.file_bytes_max.store(SMALL, Ordering::SeqCst);
    for _ in 0..100 {
        log.put(500).unwrap();
    }
    assert_eq!(read_all(&disk).unwrap(), up_to(groups + 100));
}

/// A quarter of the usual size was not rounded to blocks: the file was written, synced and acknowledged, and no reader took it.
/// Files grow up to the largest, and a quarter of nine blocks is none.
#[test]
fn a_smaller_file_than_wanted_is_read_whatever_the_usual_size_is() {
    for blocks in 4..40 {
        let disk = FaultDisk::new(Arc::new(MemDisk::new()));
        let bytes = blocks * 4096;
        let log = Log::create(disk.shared(), options(bytes, bytes)).unwrap();
        disk.faults.file_bytes_max.store(bytes - 1, Ordering::SeqCst);
        for _ in 0..400 {
            log.put(500).unwrap();
        }
        log.sync(log.wal.position()).unwrap();
        assert!(log.wal.stats().files > 1, "{blocks} blocks");
        let read = read_all(&disk).unwrap_or_else(|error| panic!("{blocks} blocks: {error}"));
        assert_eq!(read, up_to(400), "{blocks} blocks");
    }
}

#[test]
fn a_file_that_could_not_be_named_is_made_again() {
    let disk = FaultDisk::new(Arc::new(MemDisk::new()));
    let log = Log::create(disk.shared(), options(SMALL, SMALL)).unwrap();
    for fails in [true, false, true, false] {
        disk.faults.dir_sync_fails.store(fails, Ordering::SeqCst);
        let error = (0..40).find_map(|_| log.put(600).err());
        assert_eq!(error.is_some(), fails);
        log.wal.release_before(log.wal.durable()).unwrap();
        log.sync(log.wal.position()).unwrap();
    }
    // Left behind by a try that could not even clean up.
    let next = 1 + read_from(&disk, log.wal.position()).unwrap().1.highest_sequence;
    disk.open(&format!("wal-{next:016x}.new"), OpenMode::Create).unwrap();
    for _ in 0..60 {
        log.put(600).unwrap();
    }
}

#[test]
fn upkeep_works_ahead() {
    let disk: Arc<dyn Disk> = Arc::new(MemDisk::new());
    let log = Log::create(disk, options(4 << 20, 8 << 20)).unwrap();
    let mut refused = 0;
    for _ in 0..20_000 {
        if log.wal.upkeep_due() {
            assert!(log.wal.upkeep().unwrap());
            while log.wal.upkeep().unwrap() {}
            assert!(!log.wal.upkeep_due(), "idle when there is nothing to do");
        }
        if !log.wal.fits(&log.turn.lock().tail, 1000) {
            refused += 1;
        }
        log.put(1000).unwrap();
    }
    assert_eq!(refused, 0, "upkeep keeps ahead");
    assert!(log.wal.stats().files >= 3);
}

/// Making a file syncs, which can take long; the rest of the current one is there meanwhile.
#[test]
fn a_file_in_the_making_holds_nobody_up() {
    let disk = FaultDisk::new(Arc::new(MemDisk::new()));
    let log = Log::create(disk.shared(), options(16 << 20, 16 << 20)).unwrap();
    while log.wal.position().0 < START.0 + (9 << 20) {
        log.put(1000).unwrap();
    }
    let gate = &disk.faults.gate;
    gate.set(true);
    thread::scope(|scope| {
        let upkeep = scope.spawn(|| log.wal.upkeep());
        while !gate.waiting.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        // More than what was populated.
        for _ in 0..5000 {
            log.put(1000).unwrap();
        }
        assert!(!gate.forced.load(Ordering::SeqCst), "writers waited for the next file");
        assert_eq!(log.wal.stats().ready_files, 0);
        gate.set(false);
        assert!(upkeep.join().unwrap().unwrap());
    });
    assert_eq!(log.wal.stats().ready_files, 1);
    // Whoever needs the file finds it made.
    log.wal.make_room(7 << 20).unwrap();
    assert_eq!(log.wal.stats().ready_files, 1);
}

#[test]
fn commits_share_syncs() {
    const THREADS: u64 = 8;
    const EACH: u64 = 25;
    let disk = FaultDisk::new(Arc::new(MemDisk::new()));
    let log = Log::create(disk.shared(), options(SMALL, 4 * SMALL)).unwrap();
    disk.faults.sync_ms.store(2, Ordering::SeqCst);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for n in 0..EACH {
                    let (_, end) = log.put(100 + n as usize).unwrap();
                    log.sync(end).unwrap();
                    assert!(log.wal.durable() >= end);
                    if n % 8 == 0 {
                        log.wal.upkeep().unwrap();
                    }
                }
            });
        }
    });
    let stats = log.wal.stats();
    assert_eq!(stats.synced_groups, THREADS * EACH);
    assert!(stats.syncs < THREADS * EACH / 2, "{stats:?}");
    assert!(stats.synced_groups_max > 2 && stats.sync_ns_max >= 1_000_000, "{stats:?}");
    let mut commits = read_all(&disk).unwrap();
    commits.sort_unstable();
    assert_eq!(commits, up_to(THREADS * EACH));
}

#[test]
fn releases_and_appends_go_on_together() {
    let (disk, log) = small(SMALL);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|n| {
                let log = &log;
                scope.spawn(move || {
                    for i in 0..300 {
                        let (_, end) = log.put((i * 31 + n) % 5000).unwrap();
                        if i % 4 == 0 {
                            log.sync(end).unwrap();
                        }
                    }
                })
            })
            .collect();
        while !writers.iter().all(thread::ScopedJoinHandle::is_finished) {
            log.wal.upkeep().unwrap();
            log.wal.release_before(log.wal.durable()).unwrap();
            thread::yield_now();
        }
    });
    let from = log.wal.durable();
    let (_, end) = log.put(10).unwrap();
    log.sync(end).unwrap();
    let (commits, _) = read_from(disk.as_ref(), from).unwrap();
    assert_eq!(commits.last(), Some(&901));
    // Whether one was while writers went on depends on who ran when.
    log.wal.release_before(log.wal.durable()).unwrap();
    let mut puts = 0;
    while log.wal.stats().files_recycled == 0 {
        log.put(1000).unwrap();
        puts += 1;
        assert!(puts < 1000, "released files are not used again");
    }
}

#[test]
fn a_new_log_needs_an_incarnation_and_a_sequence_of_its_own() {
    let (disk, log) = small(SMALL);
    log.put_sync(100).unwrap();
    let end = read_from(disk.as_ref(), START).unwrap().1;
    let start = Lsn(end.end.0.next_multiple_of(4096));
    let create = |incarnation, sequence| {
        let options = Options::new(DATABASE, incarnation);
        Wal::create(Arc::clone(&disk), options, sequence, start)
    };
    assert!(matches!(create(1, 5), Err(Error::Invalid { .. })));
    assert!(matches!(create(2, 1), Err(Error::Invalid { .. })));
    let (wal, tail) = create(end.highest_incarnation + 1, end.highest_sequence + 1).unwrap();
    let tail = Mutex::new(tail);
    let again = payload(CommitNo(1), 100);
    let end = wal.append(&mut tail.lock(), CommitNo(1), &[&again]);
    wal.sync_through(end, &|| wal.seal(&mut tail.lock())).unwrap();
    // Both are there until the old files are removed.
    assert_eq!(read_all(disk.as_ref()).unwrap(), [1]);
    let mut seen = Vec::new();
    let new = esker_wal::read(disk.as_ref(), DATABASE, 2, start, &mut |group| {
        seen.push(group.commit.0);
        Ok(())
    });
    assert_eq!(seen, [1]);
    assert_eq!(new.unwrap().highest_sequence, 2);
}

#[test]
fn errors_of_the_visitor_and_bad_positions_end_reading() {
    let (disk, log) = small(SMALL);
    log.put(100).unwrap();
    let stop = esker_wal::read(disk.as_ref(), DATABASE, 1, START, &mut |_| Err(Error::Closed));
    assert!(matches!(stop, Err(Error::Closed)));
    let odd = esker_wal::read(disk.as_ref(), DATABASE, 1, Lsn(START.0 + 4), &mut |_| Ok(()));
    assert!(matches!(odd, Err(Error::Invalid { .. })));
}

/// A log that is being written may be read: files are given other names meanwhile.
#[test]
fn a_file_that_was_renamed_since_it_was_listed_is_no_error() {
    let disk = FaultDisk::new(Arc::new(MemDisk::new()));
    let log = Log::create(disk.shared(), options(SMALL, SMALL)).unwrap();
    log.put_sync(100).unwrap();
    for gone in ["wal-0000000000000009", "wal-0000000000000000"] {
        *disk.faults.gone.lock() = Some(gone.to_owned());
        assert_eq!(read_all(&*disk.shared()).unwrap(), [1]);
    }
}
