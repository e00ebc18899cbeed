//! Crashes at every I/O operation, of every kind, again during recovery, and lives in a row.
//!
//! A history runs once on the simulated disk; before each operation of the disk, clones are taken as
//! crashes would leave it, and each is opened and compared with the states that may be found: by
//! another thread, since the engine is in the middle of a call then.

use crate::choices::mix;
use crate::generate::{self, Profile};
use crate::subject::Subject;
use crate::{Choices, Known, Op, Rng, Runner, Script, Settings, seeds};
use esker::{Durability, Error, Result};
use esker_io::sim::{CrashKind, Fault, FaultError, OpKind, SimDisk};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

/// How many ways there are to crash.
pub const KINDS: usize = CrashKind::ALL.len();

/// How deep crashes go: one during the recovery from one, and one more.
pub const DEPTH_MAX: u32 = 3;

/// Clones of a disk that wait to be looked at: one operation of a script may do many thousands of the
/// disk.
const WAITING_MAX: usize = 64;

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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Recoveries, by the kind of the crash.
    pub recoveries: [u64; KINDS],
    /// Recoveries, by depth.
    pub nested: [u64; DEPTH_MAX as usize],
    /// Recoveries that found the commit under way.
    pub newest: u64,
    /// Recoveries that did not.
    pub older: u64,
    /// A hash of all operations of all disks, with their names, offsets and bytes.
    pub trace: u64,
}

impl Tally {
    /// Adds another one.
    pub fn add(&mut self, other: &Self) {
        for (sum, more) in self.recoveries.iter_mut().zip(other.recoveries) {
            *sum += more;
        }
        for (sum, more) in self.nested.iter_mut().zip(other.nested) {
            *sum += more;
        }
        self.newest += other.newest;
        self.older += other.older;
        self.trace = self.trace.wrapping_add(other.trace);
    }

    /// All recoveries.
    pub fn total(&self) -> u64 {
        self.recoveries.iter().sum()
    }
}

/// Number `n` of the kinds; a single drop drops any one change.
pub fn kind(n: u64, disk: &SimDisk, draw: u64) -> CrashKind {
    match CrashKind::ALL[(n % KINDS as u64) as usize] {
        CrashKind::SingleDrop(_) => CrashKind::SingleDrop(draw % disk.pending_count().max(1)),
        kind => kind,
    }
}

/// The number of a kind.
pub fn index_of(kind: CrashKind) -> usize {
    let same = |other: &CrashKind| std::mem::discriminant(other) == std::mem::discriminant(&kind);
    CrashKind::ALL.iter().position(same).expect("all are in it")
}

/// Sends `per_operation` clones before each operation of the disk, each with the step of the history
/// that did it.
fn spread(
    disk: &SimDisk,
    known: &Arc<Mutex<Known>>,
    step: &Arc<AtomicUsize>,
    seed: u64,
    per_operation: u64,
    net: SyncSender<(usize, Crashed)>,
) {
    let (known, step) = (Arc::clone(known), Arc::clone(step));
    let mut rng = Rng::new(seed);
    disk.on_operation(Box::new(move |operation, disk| {
        let known = known.lock().expect("nobody panics with it");
        let first = rng.below(1 << 32);
        for i in 0..per_operation {
            // In turn, so that all are met equally often, and from a random one on.
            let kind = kind(first + i, disk, rng.below(1 << 32));
            let crashed = Crashed {
                disk: disk.crash_clone(kind, rng.below(1 << 32)),
                kind,
                operation,
                depth: 1,
                known: known.after_crash(kind == CrashKind::Kill),
            };
            // Nobody takes them once a failure was found.
            let _nobody = net.send((step.load(Ordering::Relaxed), crashed));
        }
    }));
}

/// Clones taken during a recovery; they are looked at after it.
#[derive(Clone, Default)]
struct Net(Arc<Mutex<Vec<Crashed>>>);

impl Net {
    /// Takes a clone before one in `one_in` operations of the recovery of `from`.
    fn spread(&self, from: &Crashed, one_in: u64, seed: u64) {
        let net = self.clone();
        let mut rng = Rng::new(seed);
        let depth = from.depth + 1;
        let known = from.known.clone();
        from.disk.on_operation(Box::new(move |operation, disk| {
            if !rng.one_in(one_in) {
                return;
            }
            let kind = kind(rng.below(KINDS as u64), disk, rng.below(1 << 32));
            net.0.lock().expect("nobody panics with it").push(Crashed {
                disk: disk.crash_clone(kind, rng.below(1 << 32)),
                kind,
                operation,
                depth,
                known: known.after_crash(kind == CrashKind::Kill),
            });
        }));
    }

    fn take(&self) -> Vec<Crashed> {
        std::mem::take(&mut *self.0.lock().expect("nobody panics with it"))
    }
}

/// Opens what a crash left, checks what is there, crashes again on the way, and goes on working.
fn recover(
    subject: Subject<'_>,
    crashed: Crashed,
    settings: Settings,
    rng: &mut Rng,
    tally: &mut Tally,
) {
    let net = Net::default();
    let nest = crashed.depth < DEPTH_MAX && rng.one_in(if crashed.depth == 1 { 12 } else { 3 });
    if nest {
        net.spread(&crashed, 12, rng.next());
    }
    let Crashed { disk, kind, operation, depth, known } = crashed;
    let at = format!("{kind:?} at operation {operation}, depth {depth}");
    let newest = known.now().clone();
    let known = Arc::new(Mutex::new(known));
    let mut go_on = |known: &Arc<Mutex<Known>>| -> Result<()> {
        let mut runner = Runner::open_with(
            subject.register,
            Arc::new(disk.clone()),
            settings,
            Arc::clone(known),
        )?;
        disk.clear_hook();
        runner.verify_all()?;
        runner.check_bounds();
        // Life goes on: in the crashed tables, with a table more, and over another start.
        let profile = Profile {
            ops: (2, 6),
            writes: true,
            durability: Some(Durability::Sync),
            kind: subject.kind,
        };
        let script = generate::script(rng, profile);
        for op in script.ops.iter().filter(|op| !matches!(op, Op::Settle)) {
            runner.step(op)?;
            runner.check_bounds();
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
    let found = known.lock().expect("nobody panics with it").history[0].clone();
    if found.same_rows(&newest) {
        tally.newest += 1;
    } else {
        tally.older += 1;
    }
    disk.clear_hook();
    tally.trace = tally.trace.wrapping_add(disk.trace_hash());
    for again in net.take() {
        recover(subject, again, settings, rng, tally);
    }
}

/// The script of a history.
pub fn script_of(subject: Subject<'_>, seed: u64, ops: usize) -> Script {
    let profile = Profile { ops: (ops, ops), writes: true, durability: None, kind: subject.kind };
    let mut script = generate::script(&mut Rng::new(seed), profile);
    // Whatever the seed: something of everything that matters here.
    script.ops.push(Op::Checkpoint);
    script.ops.push(Op::Settle);
    script.ops.push(Op::Reopen { close: true });
    script
}

/// The script of a history over large tables.
pub fn deep_script_of(subject: Subject<'_>, seed: u64, ops: usize) -> Script {
    let profile = Profile { ops: (ops, ops), writes: true, durability: None, kind: subject.kind };
    let mut script = generate::deep_script(&mut Rng::new(seed), profile);
    script.ops.push(Op::Settle);
    script
}

/// One history with so many crashes at every operation of the disk.
///
/// # Panics
/// If something is found that may not be.
pub fn history(
    subject: Subject<'_>,
    script: &Script,
    seed: u64,
    kinds_per_operation: u64,
) -> Tally {
    let disk = SimDisk::new(seed);
    disk.answer_residence(seeds::answers(seed));
    let known = Arc::new(Mutex::new(Known::default()));
    let step = Arc::new(AtomicUsize::new(0));
    let (net, caught) = sync_channel(WAITING_MAX);
    spread(&disk, &known, &step, seed, kinds_per_operation, net);
    let here = |i: usize| format!("in operation {i}, {}", seeds::brief(&script.ops[i]));
    let run = || {
        let shared = Arc::new(disk.clone());
        let mut runner = Runner::open_with(subject.register, shared, script.settings, known)
            .unwrap_or_else(|error| panic!("open: {error}"));
        for (i, op) in script.ops.iter().enumerate() {
            step.store(i, Ordering::Relaxed);
            if let Err(error) = runner.step(op) {
                panic!("{}: {error}", here(i));
            }
            runner.check_bounds();
        }
    };
    let mut tally = Tally::default();
    let mut rng = Rng::new(!seed);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| {
            let ran = seeds::quietly(run);
            disk.clear_hook();
            ran
        });
        let mut found = Ok(());
        for (i, crashed) in &caught {
            let settings = script.settings;
            found = seeds::quietly(|| recover(subject, crashed, settings, &mut rng, &mut tally))
                .map_err(|message| format!("{}: {message}", here(i)));
            if found.is_err() {
                break;
            }
        }
        drop(caught);
        let ran = running.join().expect("its panics were caught");
        if let Err(message) = found.and(ran) {
            panic!("{message}");
        }
    });
    tally.trace = tally.trace.wrapping_add(disk.trace_hash());
    tally
}

/// Runs `count` histories of `ops` operations; the first that fails is cut down, printed, and panics.
pub fn each(subject: Subject<'_>, count: u64, ops: usize, kinds_per_operation: u64) -> Tally {
    each_of(subject, count, kinds_per_operation, |seed| script_of(subject, seed, ops))
}

/// As [`each`], over large tables.
pub fn each_deep(subject: Subject<'_>, count: u64, ops: usize) -> Tally {
    each_of(subject, count, 1, |seed| deep_script_of(subject, seed, ops))
}

fn each_of(
    subject: Subject<'_>,
    count: u64,
    kinds_per_operation: u64,
    script_of: impl Fn(u64) -> Script + Sync,
) -> Tally {
    let tally = Mutex::new(Tally::default());
    seeds::each_reported(
        count,
        |seed| {
            let found = history(subject, &script_of(seed), seed, kinds_per_operation);
            tally.lock().expect("nobody panics with it").add(&found);
        },
        |seed| {
            let fails = |script: &Script| {
                let _tally = history(subject, script, seed, kinds_per_operation);
            };
            let short = seeds::shrink_some(&script_of(seed), SHRINK_TRIES, fails);
            seeds::print(seed, &short);
        },
    );
    tally.into_inner().expect("nobody panics with it")
}

/// Scripts tried when one is cut down: each is a history with thousands of recoveries.
const SHRINK_TRIES: u32 = 120;

/// What lives in a row have met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lives {
    /// How many there were.
    pub count: u64,
    /// How many of them ended with an error.
    pub errors: u64,
    /// As [`Tally::trace`].
    pub trace: u64,
}

/// Lives in a row: each begins with what the crash of the one before left, in the middle of whatever
/// it was doing, sometimes after an I/O error.
///
/// # Panics
/// If something is found that may not be.
pub fn lives(subject: Subject<'_>, seed: u64) -> Lives {
    const LIVES: u64 = 5;
    let mut trace = 0;
    let mut rng = Rng::new(seed);
    let mut disk = SimDisk::new(seed);
    disk.answer_residence(seeds::answers(seed));
    let known = Arc::new(Mutex::new(Known::default()));
    let profile = Profile { ops: (15, 60), writes: true, durability: None, kind: subject.kind };
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
                *hooked.0.lock().expect("nobody panics with it") =
                    Some(crash(disk, &hooked.1.lock().expect("nobody panics with it")));
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
        let shared = Arc::new(disk.clone());
        let opened = Runner::open_with(subject.register, shared, settings, Arc::clone(&known));
        let run = || -> Result<()> {
            let mut runner = opened?;
            for op in &ops {
                if slot.lock().expect("nobody panics with it").is_some() {
                    break;
                }
                match runner.step(op) {
                    Ok(()) => {}
                    // Nothing was written, and work may go on.
                    Err(Error::NoSpace { .. }) if runner.is_open() => {}
                    Err(error) => return Err(error),
                }
                // Without a fault, of which the last life has none.
                if last {
                    runner.check_bounds();
                }
            }
            if last { runner.verify_all() } else { Ok(()) }
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
        trace = mix(trace ^ disk.trace_hash());
        let crashed = slot.lock().expect("nobody panics with it").take();
        let (next, after) =
            crashed.unwrap_or_else(|| crash(&disk, &known.lock().expect("nobody panics with it")));
        disk = next;
        *known.lock().expect("nobody panics with it") = after;
    }
    Lives { count: LIVES, errors: ended_by_error, trace }
}

/// Runs `count` seeds of lives.
pub fn each_lives(subject: Subject<'_>, count: u64) -> Lives {
    let counts = Mutex::new(Lives::default());
    seeds::each(count, |seed| {
        let found = lives(subject, seed);
        let mut counts = counts.lock().expect("nobody panics with it");
        counts.count += found.count;
        counts.errors += found.errors;
        counts.trace = counts.trace.wrapping_add(found.trace);
    });
    counts.into_inner().expect("nobody panics with it")
}
