//! The fractal tree: a buffered B^ε-tree whose buffers are runs.
//!
//! ```text
//!   root: memtable · runs, newest first          writes go into the memtable, a B-tree
//!        /        |        \                     a full memtable becomes a run, as it is
//!   node: runs   node     node: runs             a full root merges its runs into its children
//!                        /    \
//!                     node    node: runs         the lowest nodes merge what they got into one run
//! ```
//!
//! A key's rows lie, newest first, in the memtable, in the runs of the root, in those of the node below it that has
//! the key, and so on. A write puts a row or a tombstone into the memtable and looks at nothing else. The trunk's nodes are
//! branches: immutable, replaced whole. Whatever background work changes (a filter for a run, a flush, a merge) it
//! builds outside the turn, in new pages, and then makes part of the table by replacing one node.
//!
//! | module | |
//! |---|---|
//! | `node` | bytes of a trunk node |
//! | `read` | following a key down |
//! | `recent` | which keys the memtable lacks |
//! | `write` | the memtable, and how it becomes a run |
//! | `scan` | rows of a range, merged from all runs |
//! | `gap` | tombstones that scans step over become ranges |
//! | `work` | background work, step by step, and its end in a turn |
//! | `choose` | what to do next |
//! | `filter_job`, `merge_job` | a filter for a run; a flush or a merge |
//! | `hand_down` | runs that overlap nothing below are not merged |
//! | `optimize` | ranges that callers want merged |
//! | `estimate` | about how many rows a range has |
//! | `plan` | new children for a node, and what to do when they do not fit |
//! | `progress` | how far background work is |
//! | `space` | how much background work writes, and what there is room for |
//! | `check` | a walk that checks everything |
//!
//! # Invariants
//!
//! - F1: of two rows of one key the one higher up in the trunk, or earlier among a node's runs, is the newer. A range
//!   tombstone of a run deletes rows that are older than the run.
//! - F2: every run has one owner, a node. In the turn in which that node no longer names it, its pages are given up, or a
//!   child of the node owns it.
//! - F3: a large value has one owner, a row; the row's handle moves with it from run to run, and is given up in the turn that
//!   publishes the merge that shadowed it.
//! - F4: a node's parent has its summary (leaves, runs, level).
//! - F5: only a run that was a memtable may have no filter.
//!
//! Sources: Bender et al., "An introduction to B^ε-trees and write-optimization" (;login: 2015); runs instead
//! of buffers, and filters, as in Conway et al., "`SplinterDB`" (ATC 2020); the trunk of nodes with runs is a
//! size-tiered B^ε-tree as described there, without branches shared between nodes.

mod check;
mod choose;
mod estimate;
mod filter_job;
mod gap;
mod hand_down;
mod kind;
mod merge_job;
pub(crate) mod node;
mod optimize;
mod plan;
mod progress;
mod read;
mod recent;
mod scan;
mod space;
#[cfg(test)]
mod tests;
mod work;
mod write;

pub use check::FractalCheck;
pub use scan::FractalCursor;
pub use write::{FractalGroup, FractalPrepared, FractalRange};

use esker_base::PageId;
use esker_base::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering};
use gap::Gaps;
use node::{CHILD_COST_BYTES, FIXED_COST_BYTES, NodeParts, RUN_COST_BYTES};
use optimize::Wishes;
use progress::Forecast;
use recent::Recent;
use space::Measured;
use std::collections::BTreeMap;
use work::Job;

/// Sizes of a fractal tree.
#[derive(Clone, Copy, Debug)]
pub struct FractalConfig {
    /// Bytes of content in a page.
    pub content_bytes: usize,
    /// Bytes of rows in a memtable, about, before it becomes a run.
    pub memtable_bytes: u64,
    /// Leaves of the runs of a lowest node, about, before it is divided.
    pub node_pages: u32,
}

impl FractalConfig {
    /// For a database that has this much memory for pages.
    pub fn for_memory(memory_bytes: usize, page_bytes: usize) -> Self {
        const MEMTABLE_BYTES_MAX: usize = 48 << 20;
        const NODE_BYTES_MAX: usize = 24 << 20;
        let pages = memory_bytes / page_bytes;
        let memtable_bytes = (memory_bytes / 12).clamp(page_bytes * 8, MEMTABLE_BYTES_MAX);
        let node_pages = (pages / 10).clamp(8, (NODE_BYTES_MAX / page_bytes).max(8));
        Self {
            content_bytes: page_bytes - 64,
            memtable_bytes: memtable_bytes as u64,
            node_pages: u32::try_from(node_pages).expect("bounded above"),
        }
    }

    /// Runs of a node at which it is flushed. A third of its page may go to runs; past half of that, work is due.
    pub(crate) fn runs_soft(&self) -> usize {
        (self.runs_hard() / 2).max(2)
    }
    /// Runs of a node at which writers wait.
    pub(crate) fn runs_hard(&self) -> usize {
        const RUNS_MAX: usize = 16;
        (self.content_bytes / 3 / RUN_COST_BYTES).clamp(4, RUNS_MAX)
    }
    /// Runs of a lowest node at which it may be merged, in its turn.
    pub(crate) fn runs_lowest(&self) -> usize {
        (self.runs_hard() / 4).max(2)
    }
    /// Bytes of a node's page that its children may take.
    pub(crate) fn children_bytes_max(&self) -> usize {
        self.content_bytes - FIXED_COST_BYTES - (self.runs_hard() + 2) * RUN_COST_BYTES
    }
    /// The longest pivot.
    pub(crate) fn pivot_bytes_max(&self) -> usize {
        (self.children_bytes_max() / 2).saturating_sub(CHILD_COST_BYTES)
    }
}

/// A fractal tree: what it keeps in memory beside its pages.
#[derive(Debug)]
pub struct Fractal {
    config: FractalConfig,
    /// Bytes of rows in the memtable since this start, about.
    filled_bytes: AtomicU64,
    /// Tombstones among them.
    memtable_tombstones: AtomicU64,
    /// Runs of the root, as last seen.
    root_runs: AtomicU64,
    /// Bytes of their leaves, about.
    root_bytes: AtomicU64,
    /// Bytes of all leaves, about.
    all_bytes: AtomicU64,
    /// What a merge of a lowest node writes, and a flush of the root beside its rows, about.
    fixed_bytes: AtomicU64,
    /// So much may work write before it gives space back.
    room_bytes: AtomicU64,
    /// So much does the piece under way write, about, if that is limited.
    job_bytes: AtomicU64,
    /// What merges of lowest nodes will write, while that is limited.
    measured: Mutex<Measured>,
    /// Whether lowest nodes should be merged, as the choice that is under way has found out.
    weighed: Mutex<BTreeMap<PageId, bool>>,
    /// Lowest nodes that are to be merged before the root is flushed again.
    quota: AtomicU64,
    /// A large value was put into the memtable, or may have been before this start.
    has_large: AtomicBool,
    /// One was put since this start, or seen in a run.
    kept_large: AtomicBool,
    gaps: Arc<Gaps>,
    recent: Recent,
    /// Rows that closed gaps have taken off the count twice.
    rows_owed: AtomicU64,
    wishes: Mutex<Wishes>,
    forecast: Forecast,
    job: Mutex<Job>,
}

impl Fractal {
    /// For a new table, or one that was opened.
    pub fn new(config: FractalConfig) -> Self {
        Self {
            config,
            filled_bytes: AtomicU64::new(0),
            memtable_tombstones: AtomicU64::new(0),
            root_runs: AtomicU64::new(0),
            root_bytes: AtomicU64::new(0),
            all_bytes: AtomicU64::new(0),
            fixed_bytes: AtomicU64::new(0),
            room_bytes: AtomicU64::new(u64::MAX),
            job_bytes: AtomicU64::new(u64::MAX),
            measured: Mutex::default(),
            weighed: Mutex::default(),
            quota: AtomicU64::new(0),
            has_large: AtomicBool::new(true),
            kept_large: AtomicBool::new(false),
            gaps: Arc::default(),
            recent: Recent::new(config.memtable_bytes),
            rows_owed: AtomicU64::new(0),
            wishes: Mutex::default(),
            forecast: Forecast::default(),
            job: Mutex::new(Job::default()),
        }
    }

    fn is_memtable_full(&self) -> bool {
        self.filled_bytes.load(Ordering::Relaxed) >= self.config.memtable_bytes
    }
    /// The root is seen, or becomes another.
    fn note_root(&self, root: &NodeParts) {
        self.root_runs.store(root.runs.len() as u64, Ordering::Relaxed);
        let pages: u64 = root.runs.iter().map(|run| u64::from(run.run.pages)).sum();
        let bytes = |pages| pages * self.config.content_bytes as u64;
        self.root_bytes.store(bytes(pages), Ordering::Relaxed);
        self.all_bytes.store(bytes(u64::from(root.pages())), Ordering::Relaxed);
        self.fixed_bytes.store(self.fixed_bytes_of(root), Ordering::Relaxed);
    }
    fn note_large(&self) {
        self.has_large.store(true, Ordering::Relaxed);
        self.kept_large.store(true, Ordering::Relaxed);
    }
    fn fill(&self, bytes: usize) {
        self.filled_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}
