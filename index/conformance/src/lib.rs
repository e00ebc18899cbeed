//! What every kind of index must pass, and the simulator that it runs on.
//!
//! ```text
//!  seed ──▶ Choices ──▶ Script (settings, operations) ──▶ Runner ──▶ engine on a simulated disk
//!                                                           └─────▶ Known: states that may be found
//! ```
//!
//! A run draws nothing itself: the script says everything, so that it can be cut down without
//! changing its meaning. What may be found after a crash is a set of states: [`Known`].
//!
//! [`run`] is the whole suite over one kind, for those that are registered with
//! [`Options::index_kind`]; the parts of it are [`model`], [`crash`], [`fault`] and [`load`]. What fails
//! panics with its seed, and where it was made of a script, prints that script, cut down. `ESKER_SEEDS=n`
//! runs n seeds instead of what was asked for, `ESKER_SEED=s` only this one; `ESKER_TRACE=1` prints each
//! operation.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "numbers are small, and what is drawn from is cut"
)]

pub mod choices;
pub mod crash;
pub mod exhaust;
pub mod fault;
#[allow(missing_docs, reason = "the profile's fields say it")]
pub mod generate;
pub mod known;
pub mod load;
pub mod marks;
pub mod model;
pub mod runner;
#[allow(missing_docs, reason = "operations are named after the calls they make")]
pub mod script;
pub mod seeds;
pub mod state;
pub mod subject;
#[allow(missing_docs, reason = "as in `script`")]
pub mod transaction;

pub use choices::{Choices, Rng};
pub use known::Known;
pub use runner::Runner;
pub use script::{Op, Script, Settings};
pub use state::State;

use esker::{Index, Options};
use subject::Subject;

/// How many seeds of each part.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Scripts against a model.
    pub models: u64,
    /// Histories that are crashed at every operation of the disk,
    pub histories: u64,
    /// with so many operations each,
    pub history_ops: usize,
    /// in so many ways at each.
    pub crashes_per_operation: u64,
    /// Rows of lives, five in each.
    pub lives: u64,
    /// Scripts in which the Nth operation of the disk fails.
    pub faults: u64,
    /// Loads, and databases with as little memory as they take.
    pub loads: u64,
}

impl Effort {
    /// Half a minute on two cores.
    pub const SHORT: Self = Self {
        models: 400,
        histories: 4,
        history_ops: 120,
        crashes_per_operation: 2,
        lives: 60,
        faults: 150,
        loads: 4,
    };
    /// Some minutes.
    pub const LONG: Self = Self {
        models: 5000,
        histories: 30,
        history_ops: 200,
        crashes_per_operation: 3,
        lives: 500,
        faults: 1500,
        loads: 20,
    };
}

/// Runs everything over tables of one kind; `options` registers it.
///
/// # Panics
/// With the seed, if the kind does not pass.
pub fn run(index: Index, options: impl Fn(Options) -> Options + Sync, effort: Effort) {
    let subject = Subject { kind: Some(index), register: &options };
    model::each_on_sim(subject, effort.models);
    load::each(subject, effort.loads);
    fault::each(subject, effort.faults);
    crash::each(subject, effort.histories, effort.history_ops, effort.crashes_per_operation);
    crash::each_lives(subject, effort.lives);
}
