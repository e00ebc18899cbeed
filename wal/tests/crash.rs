//! Crashes at every operation, of every kind, and lives in a row, on the simulated disk.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "tests")]

#[allow(dead_code, unreachable_pub, reason = "each test binary uses a part")]
mod common;

use common::{DATABASE, Log, START, options, payload, read_from};
use esker_base::sync::{Arc, Mutex};
use esker_base::{CommitNo, Error, Lsn, Result};
use esker_io::Disk;
use esker_io::sim::{CrashKind, Fault, FaultError, OpKind, SimDisk};
use esker_wal::{End, Options, Tail, Wal};

/// What the world outside the disk knows at some moment.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// Where a checkpoint says to start reading, and the last commit before.
    from: (Lsn, u64),
    /// Last commit that was acknowledged as durable.
    synced: u64,
    /// Last commit that was appended.
    appended: u64,
    /// Last commit begun.
    begun: u64,
}

/// The commits that are there must be one run from the checkpoint on, with all that were promised.
fn check(disk: &SimDisk, known: &Known, kind: CrashKind) {
    let (commits, _) = read_from(disk, known.from.0)
        .unwrap_or_else(|error| panic!("{kind:?}, {known:?}: {error}"));
    let first = known.from.1 + 1;
    let run: Vec<_> = (first..first + commits.len() as u64).collect();
    assert_eq!(commits, run, "{kind:?}, {known:?}");
    let last = commits.last().copied().unwrap_or(known.from.1);
    assert!(last >= known.synced && last <= known.begun, "{kind:?}, {known:?}: up to {last}");
    if kind == CrashKind::Kill {
        assert!(last >= known.appended, "{known:?}: the process died, and {last} is the last");
    }
}

#[test]
fn every_crash_at_every_operation_leaves_what_was_promised() {
    let disk = SimDisk::new(7);
    let log = Log::create(Arc::new(disk.clone()), options(12 << 10, 16 << 10)).unwrap();
    let known = Known { from: (START, 0), synced: 0, appended: 0, begun: 0 };
    let known = Arc::new(Mutex::new(known));
    let hook_known = Arc::clone(&known);
    disk.on_operation(Box::new(move |operation, disk| {
        let known = *hook_known.lock();
        for kind in CrashKind::ALL {
            let pending = disk.pending_count().max(1);
            let kind = match kind {
                CrashKind::SingleDrop(_) => CrashKind::SingleDrop(operation % pending),
                kind => kind,
            };
            check(&disk.crash_clone(kind, operation), &known, kind);
        }
    }));
    let mut cut = (START, 0);
    for n in 1..160u64 {
        known.lock().begun = n;
        let (_, end) = log.put((n * 331 % 2500) as usize).unwrap();
        known.lock().appended = n;
        if n % 3 == 0 {
            log.sync(end).unwrap();
            known.lock().synced = n;
        }
        if n % 20 == 0 {
            cut = (log.turn.lock().tail.position(), n);
        }
        // The checkpoint of that cut is done when the log has gone on, into other files at times.
        if n % 20 == 13 && n > 20 {
            log.sync(cut.0).unwrap();
            let mut known = known.lock();
            (known.from, known.synced) = (cut, known.synced.max(cut.1));
            drop(known);
            log.wal.release_before(cut.0).unwrap();
        }
        if n % 2 == 0 {
            log.wal.upkeep().unwrap();
        }
    }
    disk.clear_hook();
    let stats = log.wal.stats();
    assert!(stats.files_recycled > 3 && stats.files_created > 3, "{stats:?}");
}

/// What a superblock holds: which log counts, and from where.
#[derive(Clone, Copy, Debug)]
struct Superblock {
    incarnation: u64,
    from: Lsn,
    /// Last commit of the checkpoint.
    commit: u64,
}

/// One life of an engine that keeps nothing but its log.
struct Life {
    wal: Wal,
    tail: Mutex<Tail>,
    commit: u64,
    /// A checkpoint under way.
    cut: Option<(Lsn, u64)>,
}

struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// Everything that survives outside the log's files, and what the outside was told.
#[derive(Clone, Copy, Debug)]
struct World {
    superblock: Option<Superblock>,
    synced: u64,
    /// What the next open must find: more than what was synced if only the process died.
    appended: u64,
    begun: u64,
}

fn small(incarnation: u64) -> Options {
    Options {
        first_file_bytes: 12 << 10,
        file_bytes_max: 24 << 10,
        ..Options::new(DATABASE, incarnation)
    }
}

impl Life {
    /// Recovery as the crate's documentation tells it.
    fn open(disk: &SimDisk, world: &Mutex<World>) -> Result<Self> {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let Some(superblock) = world.lock().superblock else {
            // Nothing was ever promised: start from nothing.
            for name in disk.list()? {
                disk.remove(&name)?;
            }
            let (wal, tail) = Wal::create(shared, small(1), 1, START)?;
            let named = Superblock { incarnation: 1, from: START, commit: 0 };
            world.lock().superblock = Some(named);
            return Ok(Self { wal, tail: Mutex::new(tail), commit: 0, cut: None });
        };
        let mut groups = Vec::new();
        let end = esker_wal::read(
            disk,
            DATABASE,
            superblock.incarnation,
            superblock.from,
            &mut |group| {
                assert_eq!(group.payload, payload(group.commit, group.payload.len()));
                groups.push((group.commit, group.payload.to_vec()));
                Ok(())
            },
        )?;
        let End { highest_incarnation, highest_sequence, ref files, .. } = end;
        let incarnation = highest_incarnation + 1;
        let start = Lsn(end.end.0.next_multiple_of(4096));
        let (wal, tail) = Wal::create(shared, small(incarnation), highest_sequence + 1, start)?;
        let mut life = Self { wal, tail: Mutex::new(tail), commit: superblock.commit, cut: None };
        for (commit, payload) in groups {
            assert_eq!(commit.0, life.commit + 1, "a gap");
            life.append(&payload)?;
        }
        life.sync()?;
        let mut known = world.lock();
        assert!(life.commit >= known.appended && life.commit <= known.begun, "{known:?}, {end:?}");
        known.superblock = Some(Superblock { incarnation, from: start, commit: superblock.commit });
        // What was read is now what there is.
        (known.synced, known.appended, known.begun) = (life.commit, life.commit, life.commit);
        drop(known);
        for name in files {
            disk.remove(name)?;
        }
        Ok(life)
    }

    fn append(&mut self, payload: &[u8]) -> Result<()> {
        loop {
            let mut tail = self.tail.lock();
            if self.wal.fits(&tail, payload.len()) {
                self.commit += 1;
                let end = self.wal.append(&mut tail, CommitNo(self.commit), &[payload]);
                return self.wal.failure(end).map_or(Ok(()), Err);
            }
            drop(tail);
            self.wal.make_room(payload.len())?;
        }
    }

    fn sync(&self) -> Result<()> {
        self.wal.sync_through(self.wal.position(), &|| self.wal.seal(&mut self.tail.lock()))
    }

    /// Works until something fails.
    fn run(&mut self, rng: &mut Rng, world: &Mutex<World>) -> Result<()> {
        for _ in 0..20 + rng.below(60) {
            match rng.below(10) {
                0..=5 => {
                    let next = CommitNo(self.commit + 1);
                    world.lock().begun = next.0;
                    let bytes = [40, 600, 3000, 30_000][(rng.below(100) / 33) as usize];
                    self.append(&payload(next, rng.below(bytes) as usize))?;
                    world.lock().appended = next.0;
                }
                6 | 7 => {
                    self.sync()?;
                    world.lock().synced = self.commit;
                }
                8 => drop(self.wal.upkeep()?),
                _ => {
                    let next = (self.tail.lock().position(), self.commit);
                    let Some((from, commit)) = self.cut.replace(next) else { continue };
                    self.wal.sync_through(from, &|| self.wal.seal(&mut self.tail.lock()))?;
                    let mut known = world.lock();
                    known.synced = known.synced.max(commit);
                    let superblock = known.superblock.as_mut().unwrap();
                    (superblock.from, superblock.commit) = (from, commit);
                    drop(known);
                    self.wal.release_before(from)?;
                }
            }
        }
        Ok(())
    }
}

fn lives(seed: u64) {
    let mut rng = Rng(seed);
    let mut disk = SimDisk::new(seed);
    let world = Mutex::new(World { superblock: None, synced: 0, appended: 0, begun: 0 });
    let world = Arc::new(world);
    for life in 0..5 {
        let last = life == 4;
        // The crash comes at one operation of this life, opening included.
        let at = rng.below(200);
        let kind = CrashKind::ALL[rng.below(CrashKind::ALL.len() as u64) as usize];
        let kind = match kind {
            CrashKind::SingleDrop(_) => CrashKind::SingleDrop(rng.below(10)),
            kind => kind,
        };
        let crashed = Arc::new(Mutex::new(None));
        let (slot, known, crash_seed) =
            (Arc::clone(&crashed), Arc::clone(&world), rng.below(1 << 40));
        let crash = move |disk: &SimDisk| {
            let kind = match kind {
                CrashKind::SingleDrop(n) => CrashKind::SingleDrop(n % disk.pending_count().max(1)),
                kind => kind,
            };
            let mut known = *known.lock();
            if kind != CrashKind::Kill {
                known.appended = known.synced;
            }
            (disk.crash_clone(kind, crash_seed), known)
        };
        let hooked = crash.clone();
        if !last {
            disk.on_operation(Box::new(move |operation, disk| {
                if operation == at {
                    *slot.lock() = Some(hooked(disk));
                }
            }));
            match rng.below(4) {
                0 => disk.inject(Fault::new(OpKind::Sync, rng.below(12))),
                1 => {
                    let kinds = [OpKind::Allocate, OpKind::SyncDir, OpKind::Names, OpKind::Write];
                    let fault = Fault::new(kinds[rng.below(4) as usize], rng.below(12));
                    let error = [FaultError::Io, FaultError::NoSpace][rng.below(2) as usize];
                    disk.inject(fault.error(error));
                }
                _ => {}
            }
        }
        let run = Life::open(&disk, &world).and_then(|mut life| {
            loop {
                match life.run(&mut rng, &world) {
                    Ok(()) => return Ok(()),
                    Err(error) if life.wal.poisoned().is_some() => return Err(error),
                    // Failed making room or tidying up: the log is still good.
                    Err(Error::Io { .. } | Error::NoSpace { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        });
        match run {
            Ok(()) | Err(Error::Unknown { .. } | Error::Io { .. } | Error::NoSpace { .. }) => {}
            Err(error) => panic!("seed {seed}, life {life}: {error}"),
        }
        disk.clear_hook();
        let (next, known) = crashed.lock().take().unwrap_or_else(|| crash(&disk));
        (disk, *world.lock()) = (next, known);
    }
}

#[test]
fn lives_in_a_row_lose_nothing() {
    let seeds =
        std::env::var("ESKER_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(400);
    for seed in 0..seeds {
        lives(seed);
    }
}

#[test]
fn a_crash_while_a_log_is_made_leaves_the_next_try_free() {
    let disk = SimDisk::new(3);
    disk.on_operation(Box::new(|operation, disk| {
        for kind in CrashKind::ALL {
            let clone = disk.crash_clone(kind, operation);
            let end = esker_wal::read(&clone, DATABASE, 5, START, &mut |_| Ok(()));
            assert!(end.unwrap_err().is_corrupt(), "nobody was told of this log");
            let options = Options { first_file_bytes: 8 << 10, ..Options::new(DATABASE, 2) };
            Wal::create(Arc::new(clone), options, 9, START).unwrap();
        }
    }));
    Wal::create(Arc::new(disk.clone()), small(1), 1, START).unwrap();
}
