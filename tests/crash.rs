//! Crashes at every I/O operation, of every kind, again during recovery, and lives in a row.
//!
//! Goal: every acknowledged `Sync` commit survives, none is half there, none is invented, and what
//! was opened again works. Method: a history runs once on the simulated disk; before each operation of
//! the disk, clones are taken as crashes would leave it, and each is opened and compared with the
//! states that may be found.
//!
//! The long run: `ESKER_LONG=FILE cargo test --release --test main crash::every_crash`
//! takes 200 histories of 2,000 operations, appends a line for each to FILE, and skips those that
//! are in it already.

use crate::sim::generate::{self, Profile};
use crate::sim::{Choices, Known, Op, Rng, Runner, Script, Settings, seeds};
use esker::{Durability, Error, Options, Result};
use esker_io::sim::{CrashKind, Fault, FaultError, OpKind, SimDisk};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::sync::{Arc, Mutex};

const KINDS: usize = CrashKind::ALL.len();

/// How deep crashes go: one during the recovery from one, and one more.
const DEPTH_MAX: u32 = 3;

/// A disk after a crash, and what may be found on it.
struct Crashed {
    disk: SimDisk,
    kind: CrashKind,
    /// Operations of the disk before the crash.
    operation: u64,
    depth: u32,
    known: Known,
}

/// How often what was met.
#[derive(Default)]
struct Tally {
    recoveries: [u64; KINDS],
    nested: [u64; DEPTH_MAX as usize],
    /// Recoveries that found the commit under way, or did not.
    newest: u64,
    older: u64,
}

impl Tally {
    fn add(&mut self, other: &Self) {
        for (sum, more) in self.recoveries.iter_mut().zip(other.recoveries) {
            *sum += more;
        }
        for (sum, more) in self.nested.iter_mut().zip(other.nested) {
            *sum += more;
        }
        self.newest += other.newest;
        self.older += other.older;
    }

    fn total(&self) -> u64 {
        self.recoveries.iter().sum()
    }
}

/// Number `n` of the kinds; a single drop drops any one change.
fn kind(n: u64, disk: &SimDisk, draw: u64) -> CrashKind {
    match CrashKind::ALL[(n % KINDS as u64) as usize] {
        CrashKind::SingleDrop(_) => CrashKind::SingleDrop(draw % disk.pending_count().max(1)),
        kind => kind,
    }
}

fn index_of(kind: CrashKind) -> usize {
    let same = |other: &CrashKind| std::mem::discriminant(other) == std::mem::discriminant(&kind);
    CrashKind::ALL.iter().position(same).unwrap()
}

/// Collects what crashes at the operations of a disk would leave. They are looked at later: the
/// engine is in the middle of a call.
#[derive(Clone, Default)]
struct Net(Arc<Mutex<Vec<Crashed>>>);

impl Net {
    /// Takes `per_operation` clones before each operation of the disk.
    fn spread(&self, disk: &SimDisk, known: &Arc<Mutex<Known>>, seed: u64, per_operation: u64) {
        let (net, known) = (self.clone(), Arc::clone(known));
        let mut rng = Rng::new(seed);
        disk.on_operation(Box::new(move |operation, disk| {
            let known = known.lock().unwrap();
            let first = rng.below(1 << 32);
            for i in 0..per_operation {
                // In turn, so that all are met equally often, and from a random one on.
                let kind = kind(first + i, disk, rng.below(1 << 32));
                net.0.lock().unwrap().push(Crashed {
                    disk: disk.crash_clone(kind, rng.below(1 << 32)),
                    kind,
                    operation,
                    depth: 1,
                    known: known.after_crash(kind == CrashKind::Kill),
                });
            }
        }));
    }

    /// Takes a clone before one in `one_in` operations of the recovery of `from`.
    fn spread_over_recovery(&self, from: &Crashed, one_in: u64, seed: u64) {
        let net = self.clone();
        let mut rng = Rng::new(seed);
        let depth = from.depth + 1;
        let known = from.known.clone();
        from.disk.on_operation(Box::new(move |operation, disk| {
            if !rng.one_in(one_in) {
                return;
            }
            let kind = kind(rng.below(KINDS as u64), disk, rng.below(1 << 32));
            net.0.lock().unwrap().push(Crashed {
                disk: disk.crash_clone(kind, rng.below(1 << 32)),
                kind,
                operation,
                depth,
                known: known.after_crash(kind == CrashKind::Kill),
            });
        }));
    }

    fn take(&self) -> Vec<Crashed> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

/// Opens what a crash left, checks what is there, crashes again on the way, and goes on working.
fn recover(crashed: Crashed, settings: Settings, rng: &mut Rng, tally: &mut Tally) {
    let net = Net::default();
    let nest = crashed.depth < DEPTH_MAX && rng.one_in(if crashed.depth == 1 { 12 } else { 3 });
    if nest {
        net.spread_over_recovery(&crashed, 12, rng.next());
    }
    let Crashed { disk, kind, operation, depth, known } = crashed;
    let at = format!("{kind:?} at operation {operation}, depth {depth}");
    let newest = known.now().clone();
    let known = Arc::new(Mutex::new(known));
    let mut go_on = |known: &Arc<Mutex<Known>>| -> Result<()> {
        let mut runner = Runner::open(Arc::new(disk.clone()), settings, Arc::clone(known))?;
        disk.clear_hook();
        runner.verify()?;
        // Life goes on: in the crashed tables, with a table more, and over another start.
        let profile = Profile { ops: (2, 6), writes: true, durability: Some(Durability::Sync) };
        let script = generate::script(rng, profile);
        for op in script.ops.iter().filter(|op| !matches!(op, Op::Settle)) {
            runner.step(op)?;
        }
        if rng.one_in(8) {
            runner.step(&Op::Checkpoint)?;
            runner.step(&Op::Reopen { close: rng.one_in(2) })?;
            runner.verify()?;
        }
        runner.compare_all()
    };
    match seeds::quietly(|| go_on(&known)) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{at}: {error}"),
        Err(message) => panic!("{at}: {message}"),
    }
    tally.recoveries[index_of(kind)] += 1;
    tally.nested[depth as usize - 1] += 1;
    let found = known.lock().unwrap().history[0].clone();
    if found.same_rows(&newest) {
        tally.newest += 1;
    } else {
        tally.older += 1;
    }
    disk.clear_hook();
    for again in net.take() {
        recover(again, settings, rng, tally);
    }
}

/// One history with crashes at every operation.
fn history(seed: u64, ops: usize, kinds_per_operation: u64) -> Tally {
    let mut rng = Rng::new(seed);
    let profile = Profile { ops: (ops, ops), writes: true, durability: None };
    let mut script = generate::script(&mut rng, profile);
    // Whatever the seed: something of everything that matters here.
    script.ops.push(Op::Checkpoint);
    script.ops.push(Op::Reopen { close: true });
    let disk = SimDisk::new(seed);
    let known = Arc::new(Mutex::new(Known::default()));
    let net = Net::default();
    let mut tally = Tally::default();
    net.spread(&disk, &known, seed, kinds_per_operation);
    let mut runner =
        Runner::open(Arc::new(disk.clone()), script.settings, Arc::clone(&known)).unwrap();
    for (i, op) in script.ops.iter().enumerate() {
        let result = runner.step(op);
        let here = || format!("in operation {i}, {}", seeds::brief(op));
        if let Err(error) = result {
            panic!("{}: {error}", here());
        }
        for crashed in net.take() {
            seeds::quietly(|| recover(crashed, script.settings, &mut rng, &mut tally))
                .unwrap_or_else(|message| panic!("{}: {message}", here()));
        }
    }
    disk.clear_hook();
    tally
}

#[test]
fn every_crash_at_every_operation_leaves_what_was_promised() {
    let tally = Mutex::new(Tally::default());
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
            let found = history(seed, 2000, 1);
            let (recoveries, nested) = (found.total(), &found.nested[1..]);
            let line = format!("seed {seed} recoveries {recoveries} nested {nested:?}");
            writeln!(file.lock().unwrap(), "{line} failures 0").unwrap();
        });
        return;
    }
    seeds::each(50, |seed| {
        let found = history(seed, 200, 4);
        tally.lock().unwrap().add(&found);
    });
    if !seeds::is_default() {
        return;
    }
    let tally = tally.into_inner().unwrap();
    let (total, by_kind) = (tally.total(), tally.recoveries);
    eprintln!("{total} recoveries; by kind {by_kind:?}; by depth {:?}", tally.nested);
    assert!(by_kind.iter().all(|count| count * 20 > total), "{by_kind:?}");
    assert!(tally.nested.iter().all(|count| *count > 100), "{:?}", tally.nested);
    assert!(tally.newest > 0 && tally.older > 0, "crashes in commits went one way only");
}

/// Lives in a row: each begins with what the crash of the one before left, in the middle of whatever
/// it was doing, sometimes after an I/O error.
fn lives(seed: u64) -> (u64, u64) {
    const LIVES: u64 = 5;
    let mut rng = Rng::new(seed);
    let mut disk = SimDisk::new(seed);
    let known = Arc::new(Mutex::new(Known::default()));
    let profile = Profile { ops: (15, 60), writes: true, durability: None };
    let settings = generate::script(&mut rng, profile).settings;
    let mut ended_by_error = 0;
    for life in 0..LIVES {
        let last = life == LIVES - 1;
        let most = rng.pick(&[60, 400]);
        let at = rng.below(most);
        let draw = rng.next();
        let (crash_kind, crash_seed) = (rng.below(KINDS as u64), rng.next());
        let crash = move |disk: &SimDisk, known: &Known| {
            let kind = kind(crash_kind, disk, draw);
            seeds::trace(|| format!("crash: {kind:?}"));
            (disk.crash_clone(kind, crash_seed), known.after_crash(kind == CrashKind::Kill))
        };
        let slot = Arc::new(Mutex::new(None));
        let hooked = (Arc::clone(&slot), Arc::clone(&known));
        disk.on_operation(Box::new(move |operation, disk| {
            if operation == at && !last {
                *hooked.0.lock().unwrap() = Some(crash(disk, &hooked.1.lock().unwrap()));
            }
        }));
        if !last && rng.one_in(2) {
            let kinds =
                [OpKind::Sync, OpKind::SyncDir, OpKind::Write, OpKind::Names, OpKind::Allocate];
            let most = rng.pick(&[5, 30]);
            let fault = Fault::new(rng.pick(&kinds), rng.below(most));
            let fault = fault.error(rng.pick(&[FaultError::Io, FaultError::NoSpace]));
            seeds::trace(|| format!("{fault:?}"));
            disk.inject(fault);
        }
        seeds::trace(|| format!("life {life} of {settings:?}, until operation {at}"));
        let Script { ops, .. } = generate::script(&mut rng, profile);
        let opened = Runner::open(Arc::new(disk.clone()), settings, Arc::clone(&known));
        let run = || -> Result<()> {
            let mut runner = opened?;
            for op in &ops {
                if slot.lock().unwrap().is_some() {
                    break;
                }
                match runner.step(op) {
                    Ok(()) => {}
                    // Nothing was written, and work may go on.
                    Err(Error::NoSpace { .. }) if runner.is_open() => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        };
        match run() {
            Ok(()) => {}
            Err(
                Error::Io { .. }
                | Error::Unknown { .. }
                | Error::Poisoned { .. }
                | Error::NoSpace { .. },
            ) if !last => {
                ended_by_error += 1;
            }
            Err(error) => panic!("life {life}: {error}"),
        }
        disk.clear_hook();
        disk.clear_faults();
        let crashed = slot.lock().unwrap().take();
        let (next, after) = crashed.unwrap_or_else(|| crash(&disk, &known.lock().unwrap()));
        disk = next;
        *known.lock().unwrap() = after;
    }
    (LIVES, ended_by_error)
}

#[test]
fn lives_in_a_row_lose_nothing() {
    let counts = Mutex::new((0, 0));
    seeds::each(2000, |seed| {
        let (lives, errors) = lives(seed);
        let mut counts = counts.lock().unwrap();
        counts.0 += lives;
        counts.1 += errors;
    });
    let (lives, errors) = counts.into_inner().unwrap();
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
    let a = db.table("a", esker::Index::BTree).unwrap();
    let b = db.table("b", esker::Index::BTree).unwrap();
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
    let table = db.table("t", esker::Index::BTree).unwrap();
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
