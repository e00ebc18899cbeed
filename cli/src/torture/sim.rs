//! Power cuts and failing operations, on the simulated disk: no process can cut its own power.

use esker_conformance::subject::Subject;
use esker_conformance::{crash, fault, seeds};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Operations of a history that is crashed at each operation of its disk.
const HISTORY_OPS: usize = 60;

/// Counts of this part.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Simulated {
    /// Recoveries from a power cut, at every operation of the disk, also during recoveries.
    pub(super) cuts: u64,
    /// Of them, in another recovery.
    pub(super) cuts_in_recovery: u64,
    /// Lives in a row, each from what the crash of the one before left.
    pub(super) lives: u64,
    /// Scripts in which an operation of the disk fails.
    pub(super) faults: u64,
    /// Of them, such that a call answered with an error.
    pub(super) faults_met: u64,
}

impl Simulated {
    pub(super) fn add(&mut self, other: Self) {
        self.cuts += other.cuts;
        self.cuts_in_recovery += other.cuts_in_recovery;
        self.lives += other.lives;
        self.faults += other.faults;
        self.faults_met += other.faults_met;
    }
}

/// What one seed tells. Panics if a promise does not hold.
fn one(seed: u64) -> Simulated {
    let all = Subject::DRAWN;
    let mut counts = Simulated::default();
    match seed % 8 {
        0 => {
            let script = crash::script_of(all, seed, HISTORY_OPS);
            let tally = crash::history(all, &script, seed, 1);
            counts.cuts = tally.total();
            counts.cuts_in_recovery = tally.nested[1..].iter().sum();
        }
        1..4 => counts.lives = crash::lives(all, seed).count,
        _ => {
            counts.faults = 1;
            let outcome = fault::with_fault(all, seed, fault::draw(seed).fault);
            counts.faults_met = u64::from(outcome.failed);
        }
    }
    counts
}

/// Runs seeds from `next` on, on all cores, until `is_over`, and at least one a core. An error says which seed failed, and how.
pub(super) fn run(
    next: &AtomicU64,
    is_over: impl Fn() -> bool + Sync,
) -> Result<Simulated, String> {
    let sum = Mutex::new(Simulated::default());
    let failed = Mutex::new(None);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    match seeds::quietly(|| one(seed)) {
                        Ok(counts) => sum.lock().expect("nobody panics with it").add(counts),
                        Err(message) => {
                            stop.store(true, Ordering::Relaxed);
                            let message = format!("simulated disk, seed {seed}: {message}");
                            failed.lock().expect("nobody panics with it").get_or_insert(message);
                        }
                    }
                    if stop.load(Ordering::Relaxed) || is_over() {
                        return;
                    }
                }
            });
        }
    });
    match failed.into_inner().expect("nobody panics with it") {
        Some(message) => Err(message),
        None => Ok(sum.into_inner().expect("nobody panics with it")),
    }
}
