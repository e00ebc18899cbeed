//! Random operations of every sort against plain maps.
//!
//! Goal: no answer differs, whatever came before. Method: seeded scripts on a simulated disk, with
//! tiny memory, pages and log files, and small key spaces; at the end all rows are compared, before and
//! after opening again, and the structure is verified.

use crate::api::Scratch;
use crate::plants::MODELS;
use crate::sim::seeds;
use esker_conformance::model;
use esker_conformance::subject::Subject;
use esker_io::mem::MemDisk;
use esker_io::os::OsDisk;
use esker_io::sim::SimDisk;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

#[test]
fn no_answer_differs_from_a_map() {
    let totals = model::each_on_sim(Subject::DRAWN, MODELS);
    if !seeds::is_default() {
        return;
    }
    // A run that never evicts, cleans, or meets a conflict has tested little.
    let reached = [
        "conflicts",
        "page_reads",
        "evictions",
        "versions_kept",
        "checkpoints",
        "cleaned_segments",
        "segments_removed",
        "stalls_log",
        "work_steps",
        "work_attached",
    ];
    for figure in reached {
        assert!(totals[figure] > 0, "{figure} stayed 0: {totals:?}");
    }
}

#[test]
fn nor_with_background_threads() {
    model::each(Subject::DRAWN, 300, || Arc::new(MemDisk::new()));
}

#[test]
fn nor_on_a_real_disk() {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // They live until the end of the test: the disk may be in use that long.
    let scratches = Mutex::new(Vec::new());
    model::each(Subject::DRAWN, 40, || {
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let scratch = Scratch::new(&format!("model-{n}"));
        let disk = OsDisk::open(&scratch.0, true).unwrap();
        scratches.lock().unwrap().push(scratch);
        Arc::new(disk)
    });
}

#[test]
fn the_same_seed_does_the_same_io() {
    seeds::each(20, |seed| {
        let hash = || {
            let disk = SimDisk::new(seed);
            let script = model::script_of(Subject::DRAWN, seed);
            model::run(Subject::DRAWN, &script, Arc::new(disk.clone()));
            disk.trace_hash()
        };
        assert_eq!(hash(), hash(), "the two runs of seed {seed} parted");
    });
}
