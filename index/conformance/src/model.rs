//! Random operations of every sort against plain maps.
//!
//! Scripts on a disk with tiny memory, pages and log files, and small key spaces; at the end all
//! rows are compared, before and after opening again and settling, and the structure is verified.

use crate::generate::{self, Profile};
use crate::runner::add_figure;
use crate::script::Shape;
use crate::subject::Subject;
use crate::{Known, Op, Rng, Runner, Script, seeds};
use esker_io::Disk;
use esker_io::sim::SimDisk;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// What operations are put behind each script.
const ENDING: [Op; 7] = [
    Op::CompareAll,
    Op::Verify,
    Op::Reopen { close: false },
    Op::CompareAll,
    Op::Settle,
    Op::Verify,
    Op::CompareAll,
];

/// One script in so many has large tables.
const DEEP_ONE_IN: u64 = 16;

/// Figures of all databases of a run, summed.
pub type Totals = BTreeMap<&'static str, u64>;

/// The script of a seed.
pub fn script_of(subject: Subject<'_>, seed: u64) -> Script {
    let ops = [60, 120, 120, 500][(seed % 4) as usize];
    let profile =
        Profile { ops: (ops / 4, ops), writes: false, durability: None, kind: subject.kind };
    let mut rng = Rng::new(seed);
    let mut script = match seed % DEEP_ONE_IN {
        5 => generate::deep_script(&mut rng, Profile { ops: (40, 80), ..profile }),
        _ => generate::script(&mut rng, profile),
    };
    if seed % 16 == 9 {
        script.settings.shape = Shape::Long;
    }
    script.ops.extend(ENDING);
    script
}

/// Runs a script; nothing may fail.
///
/// # Panics
/// If an answer is wrong, or an error.
pub fn run(subject: Subject<'_>, script: &Script, disk: Arc<dyn Disk>) -> Totals {
    let known = Arc::new(Mutex::new(Known::default()));
    let opened = Runner::open_with(subject.register, disk, script.settings, known);
    let mut runner = opened.unwrap_or_else(|error| panic!("open: {error}"));
    for (i, op) in script.ops.iter().enumerate() {
        if let Err(error) = runner.step(op) {
            panic!("operation {i}, {}: {error}", seeds::brief(op));
        }
        runner.check_bounds();
    }
    runner.verify_all().unwrap_or_else(|error| panic!("verify: {error}"));
    runner.abandon();
    std::mem::take(&mut runner.totals)
}

/// Runs `count` seeds on a disk each; the first that fails is cut down, printed, and panics.
pub fn each(
    subject: Subject<'_>,
    count: u64,
    disk: impl Fn(u64) -> Arc<dyn Disk> + Sync,
) -> Totals {
    let totals = Mutex::new(Totals::new());
    seeds::each_reported(
        count,
        |seed| {
            let figures = run(subject, &script_of(subject, seed), disk(seed));
            let mut totals = totals.lock().expect("nobody panics with it");
            for (name, value) in figures {
                add_figure(&mut totals, name, value);
            }
        },
        |seed| {
            let fails = |script: &Script| drop(run(subject, script, disk(seed)));
            let short = seeds::shrink(&script_of(subject, seed), fails);
            seeds::print(seed, &short);
        },
    );
    totals.into_inner().expect("nobody panics with it")
}

/// As [`each`], on simulated disks.
pub fn each_on_sim(subject: Subject<'_>, count: u64) -> Totals {
    each(subject, count, |seed| {
        let disk = SimDisk::new(7);
        disk.answer_residence(seeds::answers(seed));
        Arc::new(disk)
    })
}
