//! The simulator, which lies in `index/conformance`, and what the fuzz targets run on it.

pub(crate) mod forge;
pub(crate) mod fuzz;

pub(crate) use esker_conformance::{
    Choices, Known, Op, Rng, Runner, Script, Settings, State, choices, generate, script, seeds,
};
