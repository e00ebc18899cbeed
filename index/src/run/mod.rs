//! Runs: immutable sorted trees, built bottom-up, with a filter and range tombstones beside them.
//!
//! ```text
//!   tree (levels 0, 1, ...)      filter (levels 65, 66, ...)        ranges (levels 0, 1, ...)
//!        branch                       root: lines, probes                leaf of boundaries:
//!       /      \                     /    |    \                         low → 1, high → 0, ...
//!    leaf ... leaf               block  block  block
//! ```
//!
//! The pages of a tree are those of the B-tree, bit for bit, so that everything that reads one reads a run. Its values
//! may be [`Value::Tombstone`](crate::kind::Value). A range tombstone of a run deletes what older runs hold, never
//! a row of its own.
//!
//! | module | |
//! |---|---|
//! | `build` | rows in order become leaves, branches and a filter |
//! | `filter` | a blocked Bloom filter in pages |
//! | `ranges` | disjoint ranges, in memory and in leaves |
//! | `walk` | ranges followed along with ascending or descending keys |
//! | `merge` | many sources become one, newest first |
//! | `pages` | the page ids of a run, without reading its leaves |
//! | `check` | everything about one run |
//!
//! # Invariants
//!
//! - R1: a run's pages are never changed, and everything is reached from its [`RunRef`].
//! - R2: B1–B3 hold for its trees; leaves are as full as their rows allow.
//! - R3: the filter admits every key of the tree.
//! - R4: ranges are disjoint and not adjacent: boundaries alternate, starting with a start.
//!
//! Sources: blocked Bloom filters as in Putze, Sanders, Singler, "Cache-, hash- and space-efficient Bloom filters"
//! (2007), with the probes of `RocksDB`'s `FastLocalBloom`.

pub mod build;
pub mod check;
pub mod filter;
pub mod merge;
pub mod pages;
pub mod ranges;
#[cfg(test)]
mod tests;
mod walk;

pub use build::{RunBuilder, RunConfig};
pub use check::{RunCheck, check_filter_page, filter_hole};
pub use merge::{Merge, MergeConfig, MergeCounts, MergeSource};
pub use pages::PageCollector;
pub use ranges::{Coverage, RangeLoader, RangeSet, RangesBuilder, coverage, edit_leaf};

/// Level of a filter's blocks.
pub const FILTER_BLOCK_LEVEL: u8 = 65;
/// Level of a filter's root, or of the lowest of its roots.
pub const FILTER_ROOT_LEVEL: u8 = 66;
/// Highest level of a filter's root.
pub const FILTER_LEVEL_MAX: u8 = 70;

/// Names a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunRef {
    /// Word of the tree's root.
    pub tree: u64,
    /// Level of the tree's root.
    pub level: u8,
    /// Word of the filter's root; 0 without one.
    pub filter: u64,
    /// Word of the root of the tree of range boundaries; 0 without one.
    pub ranges: u64,
    /// Rows, tombstones among them.
    pub rows: u64,
    /// Tombstones among the rows.
    pub tombstones: u64,
    /// Leaves of the tree.
    pub pages: u32,
    /// There may be handles of large values.
    pub has_large: bool,
}
