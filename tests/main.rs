//! Black-box tests of Esker, over its public API only.
//!
//! One binary, so that two cores link once. `ESKER_SEEDS=n` runs n seeds instead of the default of
//! each test, `ESKER_SEED=s` only this one; `ESKER_TRACE=1` prints each operation.

#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    reason = "tests"
)]
#![allow(clippy::big_endian_bytes, reason = "keys that sort like their numbers")]

mod api;
mod bulk;
mod corpus;
mod crash;
mod damage;
mod drops;
mod fault;
mod fixtures;
#[path = "../examples/fourth_kind.rs"]
mod fourth_kind;
mod full;
mod hermitage;
mod history;
mod identity;
mod kinds;
mod model;
mod plants;
mod repair;
mod sim;
mod threads;
mod tidy;
