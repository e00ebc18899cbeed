//! Random operations of every sort against plain maps.
//!
//! Goal: no answer differs, whatever came before. Method: seeded scripts on a simulated disk, with
//! tiny memory, pages and log files, and small key spaces; at the end all rows are compared, before and
//! after opening again, and the structure is verified.

use crate::api::Scratch;
use crate::plants::MODELS;
use crate::sim::{Script, Settings, seeds};
use esker::Durability;
use esker_base::mark::{
    BTREE_CUT_AT_END, BTREE_MERGED, BTREE_SHORTENED, BTREE_UNLINKED, CLEANED_UNDER_CUT,
    COMMIT_IN_PIECES, COMMIT_MISSING, COMMIT_RESERVE, CONFLICT_KEY, CONFLICT_RANGE, FRACTAL_BEHIND,
    FRACTAL_BELOW, FRACTAL_BESIDE, FRACTAL_FROZEN, FRACTAL_GAP_CLOSED, FRACTAL_HANDED_DOWN,
    HASH_BRANCH_GONE, HASH_DIVIDED, HASH_FRONT_EMPTIED, HASH_FRONT_FULL, HASH_FRONT_GONE,
    HASH_JOINED, HASH_SPLIT, HASH_WAITED, VERSION_KEEPS_SEGMENT, VERSION_SPILLED, WORK_UNATTACHED,
};
use esker_conformance::subject::Subject;
use esker_conformance::{marks, model};
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
        "cache_pages_given_back",
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
    let store = [&WORK_UNATTACHED, &VERSION_SPILLED, &VERSION_KEEPS_SEGMENT, &CLEANED_UNDER_CUT];
    let commits =
        [&COMMIT_IN_PIECES, &COMMIT_MISSING, &COMMIT_RESERVE, &CONFLICT_KEY, &CONFLICT_RANGE];
    let btree = [&BTREE_CUT_AT_END, &BTREE_MERGED, &BTREE_SHORTENED, &BTREE_UNLINKED];
    let hash = [&HASH_SPLIT, &HASH_JOINED, &HASH_BRANCH_GONE, &HASH_DIVIDED];
    let front = [&HASH_WAITED, &HASH_FRONT_FULL, &HASH_FRONT_EMPTIED, &HASH_FRONT_GONE];
    let fractal = [
        &FRACTAL_FROZEN,
        &FRACTAL_HANDED_DOWN,
        &FRACTAL_BEHIND,
        &FRACTAL_BESIDE,
        &FRACTAL_BELOW,
        &FRACTAL_GAP_CLOSED,
    ];
    marks::expect("model", &[&store[..], &commits, &btree, &hash, &front, &fractal].concat());
}

/// The same operations over each kind of index, at each level of durability, in several memories and layouts: each answer is that of
/// the map, so all are the same.
#[test]
fn nor_with_other_settings() {
    const SETTINGS: u64 = 4;
    seeds::each(50, |seed| {
        let script = model::script_of(Subject::DRAWN, seed);
        for kind in Subject::KINDS {
            for durability in [Durability::Sync, Durability::Os, Durability::Buffered] {
                for other in 0..SETTINGS {
                    // Those of another script: its page and memory sizes, log and compression.
                    let settings = model::script_of(Subject::DRAWN, seed + 50 * other).settings;
                    let shape = script.settings.shape;
                    let settings = Settings { kinds: [kind; 3], durability, shape, ..settings };
                    let script = Script { settings, ops: script.ops.clone() };
                    model::run(Subject::of(kind), &script, Arc::new(SimDisk::new(seed)));
                }
            }
        }
    });
}

#[test]
fn nor_with_background_threads() {
    model::each(Subject::DRAWN, 300, |seed| {
        let disk = MemDisk::new();
        disk.answer_residence(seeds::answers(seed));
        Arc::new(disk)
    });
}

#[test]
fn nor_on_a_real_disk() {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // They live until the end of the test: the disk may be in use that long.
    let scratches = Mutex::new(Vec::new());
    model::each(Subject::DRAWN, 40, |_| {
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
            disk.answer_residence(seeds::answers(seed));
            let script = model::script_of(Subject::DRAWN, seed);
            model::run(Subject::DRAWN, &script, Arc::new(disk.clone()));
            disk.trace_hash()
        };
        assert_eq!(hash(), hash(), "the two runs of seed {seed} parted");
    });
}
