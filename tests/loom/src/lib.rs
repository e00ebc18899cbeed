//! The latch of leaves and the epochs under every schedule of two or three threads, with the reorderings that the memory
//! model allows: the engine's own sources, over loom's atomics.
//!
//! `cargo test --release` runs them. `LOOM_MAX_PREEMPTIONS=n` limits how often a thread is stopped where it need not wait;
//! the tests say how often they take.

#![cfg(test)]
#![allow(dead_code, reason = "the tests use a part of what the engine does")]

#[path = "../../../src/store/epoch.rs"]
mod epoch;
#[path = "../../../src/store/latch.rs"]
mod latch;
#[path = "../../../index/src/fractal/recent.rs"]
mod recent;

#[path = "../../../src/row_cache.rs"]
mod row_cache;

/// As much of these modules as the row cache asks for.
mod conflict {
    pub(crate) fn key_hash(key: &[u8]) -> u64 {
        u64::from(key[0])
    }
}
mod store {
    pub(crate) type PageHasher = std::hash::DefaultHasher;
}

mod epochs;
mod hash;
mod latches;
mod memtables;
mod rows;
mod ways;

/// Runs all schedules in which a thread is stopped so often, at most, where it need not wait.
fn run(preemptions: usize, test: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = model.preemption_bound.or(Some(preemptions));
    // Who spins takes many steps.
    model.max_branches = 50_000;
    model.check(test);
}
