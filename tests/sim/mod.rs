//! The simulator: a seed becomes a script, and the script runs against the engine and a model at once.
//!
//! ```text
//!  seed ──▶ Choices ──▶ Script (settings, operations) ──▶ Runner ──▶ engine on a simulated disk
//!                                                           └─────▶ Known: states that may be found
//! ```
//!
//! A run draws nothing itself: the script says everything, so that it can be cut down without
//! changing its meaning. What may be found after a crash is a set of states: [`Known`].

pub(crate) mod choices;
pub(crate) mod fuzz;
pub(crate) mod generate;
pub(crate) mod known;
pub(crate) mod runner;
pub(crate) mod script;
pub(crate) mod seeds;
pub(crate) mod state;
pub(crate) mod transaction;

pub(crate) use choices::{Choices, Rng};
pub(crate) use known::Known;
pub(crate) use runner::Runner;
pub(crate) use script::{Op, Script, Settings};
pub(crate) use state::State;
