//! The Nth operation of the disk fails: once, for a while, for ever.
//!
//! Seeded scripts with a fault injected, then without it, then opened again, compared all the way
//! with what may be there.

use crate::generate::{self, Profile};
use crate::subject::Subject;
use crate::{Choices, Known, Op, Rng, Runner, seeds};
use esker::{Error, Result};
use esker_io::sim::{CrashKind, Fault, FaultError, OpKind, SimDisk};
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

/// Runs a script with a fault in it. Returns whether any call failed.
///
/// # Panics
/// If anything but the due errors comes of it.
pub fn with_fault(subject: Subject<'_>, seed: u64, fault: Fault) -> bool {
    let mut rng = Rng::new(seed);
    let profile = Profile {
        ops: (20, 80),
        writes: seed.is_multiple_of(2),
        durability: None,
        kind: subject.kind,
    };
    let script = generate::script(&mut rng, profile);
    let disk = SimDisk::new(seed);
    let known = Arc::new(Mutex::new(Known::default()));
    let at_open = rng.one_in(4);
    if at_open {
        disk.inject(fault.clone());
    }
    let register = subject.register;
    let open = || {
        let (disk, known) = (Arc::new(disk.clone()), Arc::clone(&known));
        Runner::open_with(register, disk, script.settings, known)
    };
    let mut failed = false;
    let mut runner = match open() {
        Ok(runner) => runner,
        Err(error) => {
            assert!(at_open && is_due(&error), "open: {error}");
            failed = true;
            disk.clear_faults();
            open().unwrap_or_else(|error| panic!("opened without the fault: {error}"))
        }
    };
    if !at_open {
        disk.inject(fault);
    }
    let clear_at = rng.below(script.ops.len() as u64 + 1) as usize;
    for (i, op) in script.ops.iter().enumerate() {
        if i == clear_at {
            disk.clear_faults();
        }
        if let Err(error) = runner.step(op) {
            failed = true;
            assert!(is_due(&error), "operation {i}, {}: {error}", seeds::brief(op));
            if !runner.is_open() {
                disk.clear_faults();
                let again = runner.open_again();
                again.unwrap_or_else(|error| {
                    panic!("operation {i}, {}, then: {error}", seeds::brief(op))
                });
            }
        }
    }
    disk.clear_faults();
    // Refused or not, what is there can be read.
    runner.compare_all().unwrap_or_else(|error| panic!("read without the fault: {error}"));
    if rng.one_in(2) {
        // The power goes before anything could be put right.
        let kind = rng.pick(&CrashKind::ALL);
        let left = disk.crash_clone(kind, seed);
        let known =
            Arc::new(Mutex::new(known.lock().expect("nobody panics with it").after_crash(false)));
        let runner = Runner::open_with(register, Arc::new(left), script.settings, known)
            .unwrap_or_else(|error| panic!("after {kind:?}: {error}"));
        due(runner.verify_all());
    }
    runner.abandon();
    due(runner.open_again());
    due(runner.verify_all());
    due(runner.step(&Op::Checkpoint));
    due(runner.step(&Op::Reopen { close: true }));
    due(runner.compare_all());
    failed
}

/// The fault of a seed, and the number of its kind.
pub fn draw(seed: u64) -> (usize, Fault) {
    let mut rng = Rng::new(!seed);
    let kind = (seed % KINDS.len() as u64) as usize;
    let most = match KINDS[kind] {
        OpKind::Read => 12,
        _ => rng.pick(&[4, 30, 200]),
    };
    let fault = Fault::new(KINDS[kind], rng.below(most))
        .times(rng.pick(&[1, 1, 3, u64::MAX]))
        .on(rng.pick(&["", "", "", "wal-", "seg-", "checkpoint-", "super"]))
        .error(match KINDS[kind] {
            OpKind::Open => {
                rng.pick(&[FaultError::TooManyFiles, FaultError::Io, FaultError::NoSpace])
            }
            OpKind::Read | OpKind::SyncDir => FaultError::Io,
            _ => rng.pick(&[FaultError::Io, FaultError::NoSpace]),
        });
    (kind, fault)
}

/// Runs `count` seeds; returns how many calls failed with each kind of operation.
pub fn each(subject: Subject<'_>, count: u64) -> [u32; KINDS.len()] {
    let failed = Mutex::new([0; KINDS.len()]);
    seeds::each(count, |seed| {
        let (kind, fault) = draw(seed);
        let text = format!("{fault:?}");
        let met = seeds::quietly(|| with_fault(subject, seed, fault))
            .unwrap_or_else(|message| panic!("{text}: {message}"));
        failed.lock().expect("nobody panics with it")[kind] += u32::from(met);
    });
    failed.into_inner().expect("nobody panics with it")
}
