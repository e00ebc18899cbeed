//! Counters of a log.

use esker_base::sync::{AtomicU64, Ordering};

/// Figures of a log since it was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WalStats {
    /// Bytes appended: groups with their headers, without padding of syncs.
    pub bytes: u64,
    /// Groups appended.
    pub groups: u64,
    /// Group commits, each of one or more file syncs.
    pub syncs: u64,
    /// Groups that these made durable; divided by `syncs`, the mean size of a group commit.
    pub synced_groups: u64,
    /// Most groups that one made durable.
    pub synced_groups_max: u64,
    /// Time in group commits, in nanoseconds.
    pub sync_ns: u64,
    /// The longest, in nanoseconds.
    pub sync_ns_max: u64,
    /// Files that hold groups a crash would need, with the current one.
    pub files: u64,
    /// Files made ready for what comes.
    pub ready_files: u64,
    /// Released files kept for reuse.
    pub spare_files: u64,
    /// Bytes that all these files take.
    pub disk_bytes: u64,
    /// Files made from nothing.
    pub files_created: u64,
    /// Files made from released ones.
    pub files_recycled: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) bytes: AtomicU64,
    pub(crate) groups: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) synced_groups: AtomicU64,
    pub(crate) synced_groups_max: AtomicU64,
    pub(crate) sync_ns: AtomicU64,
    pub(crate) sync_ns_max: AtomicU64,
    pub(crate) spare_files: AtomicU64,
    pub(crate) spare_bytes: AtomicU64,
    pub(crate) files_created: AtomicU64,
    pub(crate) files_recycled: AtomicU64,
}

/// Adds to a counter that has one writer at a time: a plain load and store, since a locked add
/// would be a tenth of an append.
pub(crate) fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed) + by, Ordering::Relaxed);
}

/// Raises a maximum that has one writer at a time.
pub(crate) fn raise(counter: &AtomicU64, to: u64) {
    if counter.load(Ordering::Relaxed) < to {
        counter.store(to, Ordering::Relaxed);
    }
}
