//! The Nth operation of the disk fails: once, for a while, for ever.
//!
//! Seeded scripts with a fault injected, then without it, then opened again, compared all the way
//! with what may be there.

use crate::generate::{self, Profile};
use crate::subject::Subject;
use crate::{Choices, Known, Op, Rng, Runner, Script, seeds};
use esker::{Error, Result};
use esker_io::sim::{CrashKind, Fault, FaultError, OpKind, SimDisk};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Operations of the disk that can fail.
pub const KINDS: [OpKind; 7] = [
    OpKind::Open,
    OpKind::Read,
    OpKind::Write,
    OpKind::Sync,
    OpKind::Names,
    OpKind::SyncDir,
    OpKind::Allocate,
];

/// True if an error may come of a failed operation of the disk.
fn is_due(error: &Error) -> bool {
    matches!(
        error,
        Error::Io { .. }
            | Error::NoSpace { .. }
            | Error::TooManyFiles { .. }
            | Error::Unknown { .. }
            | Error::Poisoned { .. }
    )
}

fn due<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("without the fault: {error}"))
}

/// How often a fault makes operations fail.
pub const TIMES: [(&str, u64); 3] = [("once", 1), ("a while", 3), ("for ever", u64::MAX)];

/// What a fault answers.
pub const ERRORS: [FaultError; 3] = [FaultError::Io, FaultError::NoSpace, FaultError::TooManyFiles];

/// What came of a fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Operations of the disk failed.
    pub met: bool,
    /// A call of the database failed.
    pub failed: bool,
}

/// A script and what it runs on.
struct Case<'s> {
    subject: Subject<'s>,
    script: Script,
    disk: SimDisk,
    known: Arc<Mutex<Known>>,
    rng: Rng,
}

impl<'s> Case<'s> {
    fn open(&self, disk: &SimDisk, known: Known) -> Result<Runner<'s>> {
        let known = Arc::new(Mutex::new(known));
        let register = self.subject.register;
        Runner::open_with(register, Arc::new(disk.clone()), self.script.settings, known)
    }

    fn first_open(&self) -> Result<Runner<'s>> {
        let (disk, known) = (Arc::new(self.disk.clone()), Arc::clone(&self.known));
        Runner::open_with(self.subject.register, disk, self.script.settings, known)
    }

    /// The power goes now, and the fault with it: what was promised must be there.
    fn crash(&mut self) {
        let kind = self.rng.pick(&CrashKind::ALL);
        let left = self.disk.crash_clone(kind, self.rng.below(1 << 32));
        let known = self.known.lock().expect("nobody panics with it").after_crash(false);
        let runner = self.open(&left, known);
        let runner = runner.unwrap_or_else(|error| panic!("after {kind:?}: {error}"));
        due(runner.verify_all());
    }

    /// Runs the operations. The fault goes before one of them, and the power of a copy of the disk goes after
    /// the one that met the fault first, and at the end. Returns whether any call failed.
    fn run(&mut self, runner: &mut Runner<'_>) -> bool {
        let ops = std::mem::take(&mut self.script.ops);
        // Rather late: what has not been met by then never is.
        let mut draw = || self.rng.below(ops.len() as u64 + 1) as usize;
        let clear_at = draw().max(draw());
        let (mut failed, mut crashed) = (false, false);
        for (i, op) in ops.iter().enumerate() {
            if i == clear_at {
                self.disk.clear_faults();
            }
            if let Err(error) = runner.step(op) {
                failed = true;
                assert!(is_due(&error), "operation {i}, {}: {error}", seeds::brief(op));
                if !runner.is_open() {
                    self.disk.clear_faults();
                    let again = runner.open_again();
                    again.unwrap_or_else(|error| {
                        panic!("operation {i}, {}, then: {error}", seeds::brief(op))
                    });
                }
            }
            if i < clear_at && self.disk.faults_met() > 0 {
                runner.note_bounds();
            } else {
                runner.check_bounds();
            }
            if !crashed && self.disk.faults_met() > 0 {
                crashed = true;
                self.crash();
            }
        }
        failed
    }
}

/// Runs a script with a fault in it, then without it, with losses of power at several moments.
///
/// # Panics
/// If anything but the due errors comes of it.
pub fn with_fault(subject: Subject<'_>, seed: u64, fault: Fault) -> Outcome {
    let mut rng = Rng::new(seed);
    let profile = Profile {
        ops: (20, 80),
        writes: seed.is_multiple_of(2),
        durability: None,
        kind: subject.kind,
    };
    let script = generate::script(&mut rng, profile);
    let (disk, known) = (SimDisk::new(seed), Arc::new(Mutex::new(Known::default())));
    disk.answer_residence(seeds::answers(seed));
    let mut case = Case { subject, script, disk: disk.clone(), known, rng };
    let at_open = case.rng.one_in(4);
    if at_open {
        disk.inject(fault.clone());
    }
    let mut failed = false;
    let mut runner = match case.first_open() {
        Ok(runner) => runner,
        Err(error) => {
            assert!(at_open && is_due(&error), "open: {error}");
            failed = true;
            disk.clear_faults();
            let runner = case.first_open();
            runner.unwrap_or_else(|error| panic!("opened without the fault: {error}"))
        }
    };
    if !at_open {
        disk.inject(fault);
    }
    failed |= case.run(&mut runner);
    disk.clear_faults();
    // Refused or not, what is there can be read.
    runner.compare_all().unwrap_or_else(|error| panic!("read without the fault: {error}"));
    if case.rng.one_in(2) {
        // The power goes before anything could be put right.
        case.crash();
    }
    runner.abandon();
    due(runner.open_again());
    due(runner.verify_all());
    due(runner.step(&Op::Checkpoint));
    due(runner.step(&Op::Reopen { close: true }));
    due(runner.compare_all());
    Outcome { met: disk.faults_met() > 0, failed }
}

/// What is drawn for a seed.
#[derive(Clone, Debug)]
pub struct Draw {
    /// Indices into [`KINDS`], [`TIMES`] and [`ERRORS`].
    pub class: [usize; 3],
    /// The fault.
    pub fault: Fault,
}

/// The fault of a seed.
pub fn draw(seed: u64) -> Draw {
    let mut rng = Rng::new(!seed);
    let kind = (seed % KINDS.len() as u64) as usize;
    let most = match KINDS[kind] {
        OpKind::Read => rng.pick(&[1, 2, 6]),
        OpKind::Open | OpKind::Names | OpKind::Allocate => rng.pick(&[2, 4, 12]),
        OpKind::SyncDir => 12,
        OpKind::Write | OpKind::Sync => rng.pick(&[4, 20, 100]),
    };
    let times = rng.pick(&[0, 0, 1, 2]);
    let error = match KINDS[kind] {
        OpKind::Open => rng.pick(&[0, 1, 2]),
        OpKind::Read => 0,
        _ => rng.pick(&[0, 1]),
    };
    let fault = Fault::new(KINDS[kind], rng.below(most)).times(TIMES[times].1).error(ERRORS[error]);
    // The directory has no name.
    let fault = match KINDS[kind] {
        OpKind::SyncDir => fault,
        _ => fault.on(rng.pick(&["", "", "", "", "wal-", "seg-", "checkpoint-", "super"])),
    };
    Draw { class: [kind, times, error], fault }
}

/// Faults of a class: how many were drawn, how many of them made an operation of the disk fail, and how many a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Seeds.
    pub drawn: u32,
    /// Those in which an operation of the disk failed.
    pub met: u32,
    /// Those in which a call of the database failed.
    pub failed: u32,
}

/// Runs `count` seeds; returns the figures of each class that was drawn, by [`Draw::class`].
pub fn each(subject: Subject<'_>, count: u64) -> BTreeMap<[usize; 3], Tally> {
    let tallies = Mutex::new(BTreeMap::<_, Tally>::new());
    seeds::each(count, |seed| {
        let Draw { class, fault } = draw(seed);
        let text = format!("{fault:?}");
        let outcome = seeds::quietly(|| with_fault(subject, seed, fault))
            .unwrap_or_else(|message| panic!("{text}: {message}"));
        let mut tallies = tallies.lock().expect("nobody panics with it");
        let tally = tallies.entry(class).or_default();
        tally.drawn += 1;
        tally.met += u32::from(outcome.met);
        tally.failed += u32::from(outcome.failed);
    });
    tallies.into_inner().expect("nobody panics with it")
}
