//! Esker: an embedded storage engine (being put together).
#![allow(dead_code, unreachable_pub, reason = "the engine above these modules follows")]

mod catalog;
mod conflict;
mod merge;
mod range;
mod record;
mod store;
