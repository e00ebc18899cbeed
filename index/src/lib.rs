//! Indexes: page logic only.
//!
//! An index sees pages by [`PageId`](esker_base::PageId) through the traits of [`pages`]; never an
//! address, a file, a sync or a thread. It never waits for I/O: a page that is not in memory is
//! [`Stop::Missing`](pages::Stop::Missing), and whoever called reads it and calls again.

pub mod btree;
pub mod fold;
pub mod fractal;
pub mod hash;
pub mod kind;
pub mod leaves;
#[cfg(test)]
pub(crate) mod mock;
pub mod pages;
pub mod run;
pub mod salvage;
