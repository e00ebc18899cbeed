//! Random operations of every sort against plain maps.
//!
//! Goal: no answer differs, whatever came before. Method: seeded scripts on a simulated disk, with
//! tiny memory, pages and log files, and small key spaces; at the end all rows are compared, before and
//! after opening again, and the structure is verified.

use crate::api::Scratch;
use crate::sim::generate::{self, Profile};
use crate::sim::{Known, Op, Rng, Runner, Script, seeds};
use esker_io::Disk;
use esker_io::mem::MemDisk;
use esker_io::os::OsDisk;
use esker_io::sim::SimDisk;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What operations are put behind each script.
const ENDING: [Op; 5] =
    [Op::CompareAll, Op::Verify, Op::Reopen { close: false }, Op::CompareAll, Op::Verify];

fn script_of(seed: u64) -> Script {
    let ops = [60, 120, 120, 500][(seed % 4) as usize];
    let profile = Profile { ops: (ops / 4, ops), writes: false, durability: None };
    let mut script = generate::script(&mut Rng::new(seed), profile);
    script.ops.extend(ENDING);
    script
}

/// Runs a script; nothing may fail.
fn run(script: &Script, disk: Arc<dyn Disk>) -> BTreeMap<&'static str, u64> {
    let known = Arc::new(Mutex::new(Known::default()));
    let mut runner = Runner::open(disk, script.settings, known).unwrap();
    for (i, op) in script.ops.iter().enumerate() {
        if let Err(error) = runner.step(op) {
            panic!("operation {i}, {}: {error}", seeds::brief(op));
        }
    }
    runner.abandon();
    std::mem::take(&mut runner.totals)
}

fn shrink_and_print(seed: u64, run: impl Fn(&Script)) {
    let short = seeds::shrink(&script_of(seed), run);
    eprintln!("seed {seed} cut down to:\n{}", seeds::listing(&short));
}

#[test]
fn no_answer_differs_from_a_map() {
    let totals = Mutex::new(BTreeMap::new());
    let on_sim = |script: &Script| run(script, Arc::new(SimDisk::new(7)));
    seeds::each_reported(
        20_000,
        |seed| {
            let figures = on_sim(&script_of(seed));
            let mut totals = totals.lock().unwrap();
            for (name, value) in figures {
                *totals.entry(name).or_insert(0) += value;
            }
        },
        |seed| shrink_and_print(seed, |script| drop(on_sim(script))),
    );
    if !seeds::is_default() {
        return;
    }
    // A run that never evicts, cleans, or meets a conflict has tested little.
    let totals = totals.into_inner().unwrap();
    let reached = [
        "conflicts",
        "page_reads",
        "evictions",
        "versions_kept",
        "checkpoints",
        "cleaned_segments",
        "segments_removed",
        "stalls_log",
    ];
    for figure in reached {
        assert!(totals[figure] > 0, "{figure} stayed 0: {totals:?}");
    }
}

#[test]
fn nor_with_background_threads() {
    let on_memory = |script: &Script| run(script, Arc::new(MemDisk::new()));
    seeds::each_reported(
        300,
        |seed| drop(on_memory(&script_of(seed))),
        |seed| shrink_and_print(seed, |script| drop(on_memory(script))),
    );
}

#[test]
fn nor_on_a_real_disk() {
    let on_disk = |script: &Script| {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let scratch = Scratch::new(&format!("model-{n}"));
        run(script, Arc::new(OsDisk::open(&scratch.0, true).unwrap()))
    };
    seeds::each_reported(
        40,
        |seed| drop(on_disk(&script_of(seed))),
        |seed| shrink_and_print(seed, |script| drop(on_disk(script))),
    );
}

#[test]
fn the_same_seed_does_the_same_io() {
    seeds::each(20, |seed| {
        let hash = || {
            let disk = SimDisk::new(seed);
            run(&script_of(seed), Arc::new(disk.clone()));
            disk.trace_hash()
        };
        assert_eq!(hash(), hash(), "the two runs of seed {seed} parted");
    });
}
