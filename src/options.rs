//! Settings, and how a database is opened with them.

use crate::db::Database;
use crate::kinds::Kinds;
use crate::merge::{MergeFn, Operators};
use crate::open;
use esker_base::sync::Arc;
use esker_base::{Error, Result};
use esker_index::kind::Kind;
use esker_io::Disk;
use esker_io::mem::MemDisk;
use esker_io::os::OsDisk;
use std::path::Path;
use std::time::Duration;

/// What an acknowledged write survives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// The process dies or the power goes: either costs at most the last
    /// [`Options::sync_interval`].
    Buffered,
    /// The death of the process costs nothing; power loss costs at most the last
    /// [`Options::sync_interval`].
    Os,
    /// Power loss costs nothing. One sync of the device, shared by all who wait for one.
    #[default]
    Sync,
}

/// Smallest and largest page, in bytes.
const PAGE_BYTES: std::ops::RangeInclusive<usize> = 1024..=32768;
/// Pages that the engine needs to work at all.
const FRAMES_MIN: usize = 96;

/// How to open a database. Every setting has a default that suits most uses.
///
/// ```
/// # fn main() -> esker::Result<()> {
/// let db = esker::Options::new()
///     .memory_bytes(64 << 20)
///     .durability(esker::Durability::Os)
///     .open_in_memory()?;
/// # db.close() }
/// ```
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct Options {
    pub(crate) memory_bytes: usize,
    pub(crate) durability: Durability,
    pub(crate) sync_interval: Duration,
    pub(crate) page_bytes: usize,
    pub(crate) create: bool,
    pub(crate) compress: bool,
    pub(crate) log_distance_bytes: u64,
    pub(crate) log_file_bytes: u64,
    pub(crate) operators: Operators,
    pub(crate) kinds: Kinds,
    pub(crate) background: bool,
    pub(crate) io_uring: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            memory_bytes: 256 << 20,
            durability: Durability::Sync,
            sync_interval: Duration::from_secs(1),
            page_bytes: 8192,
            create: true,
            compress: true,
            log_distance_bytes: 256 << 20,
            log_file_bytes: 64 << 20,
            operators: Operators::default(),
            kinds: Kinds::default(),
            background: true,
            io_uring: true,
        }
    }
}

impl Options {
    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Memory for everything: cached pages, kept versions, the page map, write sets. Default 256 MiB;
    /// at least 100 pages. Smaller: more device reads and writes. Larger: less for the operating
    /// system, whose page cache holds compressed pages as a second cache; while that makes more of it, and nothing is
    /// written, up to seven eighths are given back to it ([`Stats::cache_pages_given_back`](crate::Stats::cache_pages_given_back)).
    #[must_use]
    pub fn memory_bytes(mut self, bytes: usize) -> Self {
        self.memory_bytes = bytes;
        self
    }

    /// What a write survives once it returns, unless the call says otherwise. Default
    /// [`Durability::Sync`].
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// At most this much of what was acknowledged at [`Durability::Os`] or
    /// [`Durability::Buffered`] is lost when the power goes. Default one second. Shorter: more syncs.
    #[must_use]
    pub fn sync_interval(mut self, interval: Duration) -> Self {
        self.sync_interval = interval;
        self
    }

    /// Bytes of a page in memory; a power of two from 1 KiB (for tests) to 32 KiB, fixed when the database is
    /// created, ignored when it exists. Default 8 KiB. Keys may be a quarter of it, up to 2 KiB.
    #[must_use]
    pub fn page_bytes(mut self, bytes: usize) -> Self {
        self.page_bytes = bytes;
        self
    }

    /// Whether a database that does not exist is created. Default yes.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.create = create;
        self
    }

    /// Whether pages are compressed (lz4) on disk. Default yes. Without: more bytes, less work.
    #[must_use]
    pub fn compress(mut self, compress: bool) -> Self {
        self.compress = compress;
        self
    }

    /// A checkpoint starts at the latest when the log has grown by this much; at twice as much, writers wait for it
    /// (not while [`Database::verify`](crate::Database::verify) reads everything). Default 256 MiB.
    /// Smaller: faster reopening after a crash, more bytes written.
    #[must_use]
    pub fn log_distance_bytes(mut self, bytes: u64) -> Self {
        self.log_distance_bytes = bytes;
        self
    }

    /// Largest size of a log file, but for groups that need more. Default 64 MiB.
    #[must_use]
    pub fn log_file_bytes(mut self, bytes: u64) -> Self {
        self.log_file_bytes = bytes;
        self
    }

    /// Registers a merge operator. `merge(key, existing, operand)` gives the new value, or `None`
    /// to remove the key. It runs outside all locks and may run more than once for one call.
    #[must_use]
    pub fn merge_operator(
        mut self,
        name: &str,
        merge: impl Fn(&[u8], Option<&[u8]>, &[u8]) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let merge: Arc<MergeFn> = Arc::new(merge);
        self.operators.insert(name, merge);
        self
    }

    /// Registers a kind of index of your own, for tables made with [`Index::Custom`](crate::Index::Custom). `make` is called for
    /// each table of that kind. A database whose tables need kinds that are not registered opens; those tables are
    /// unusable until it is opened with them.
    #[must_use]
    pub fn index_kind<K: Kind>(
        mut self,
        name: &'static str,
        make: impl Fn() -> K + Send + Sync + 'static,
    ) -> Self {
        self.kinds.insert(name, make);
        self
    }

    /// Whether checkpoints, cleaning and write-back run on threads of their own. Default yes. Without,
    /// they run inside the calls that make them necessary: slower, and the same every time.
    #[must_use]
    pub fn background(mut self, background: bool) -> Self {
        self.background = background;
        self
    }

    /// Whether reads that are made together (ahead of a scan, for `multi_get`, for merges) go through `io_uring`, where the system
    /// allows it, rather than through threads. Default yes.
    #[must_use]
    pub fn io_uring(mut self, io_uring: bool) -> Self {
        self.io_uring = io_uring;
        self
    }

    /// Opens the database in the directory `path`.
    ///
    /// # Errors
    /// `Locked` if it is open already; `NotADatabase`, `Format`, `Corrupt`; `Io`, `NoSpace`,
    /// `TooManyFiles`; `Invalid` if a setting is out of its range.
    pub fn open(self, path: impl AsRef<Path>) -> Result<Database> {
        self.check()?;
        let disk = OsDisk::open(path.as_ref(), self.create)?.io_uring(self.io_uring);
        self.open_on(Arc::new(disk))
    }

    /// Opens a database that lives in memory only: the same engine on a disk of memory.
    pub fn open_in_memory(self) -> Result<Database> {
        self.open_on(Arc::new(MemDisk::new()))
    }

    /// Opens the database on a disk of your own, such as a simulated one.
    pub fn open_on(self, disk: Arc<dyn Disk>) -> Result<Database> {
        self.check()?;
        open::open(disk, self)
    }

    fn check(&self) -> Result<()> {
        if !self.page_bytes.is_power_of_two() || !PAGE_BYTES.contains(&self.page_bytes) {
            return Err(Error::invalid(
                "page_bytes out of range",
                format!("{}; a power of two in {PAGE_BYTES:?}", self.page_bytes),
            ));
        }
        if self.memory_bytes / 8 * 7 < self.page_bytes * FRAMES_MIN {
            let least = self.page_bytes * FRAMES_MIN / 7 * 8 + 8;
            return Err(Error::invalid(
                "memory_bytes too small",
                format!("{}; at least {least}", self.memory_bytes),
            ));
        }
        Ok(())
    }

    /// Frames for pages: seven eighths of the budget.
    pub(crate) fn frames(&self, page_bytes: usize) -> u32 {
        let frames = (self.memory_bytes / 8 * 7 / page_bytes).max(FRAMES_MIN);
        u32::try_from(frames.min(1 << 23)).expect("bounded above")
    }

    /// Memory for what is known of hash buckets that are not in memory.
    pub(crate) fn filter_bytes_max(&self) -> usize {
        self.memory_bytes / 32
    }

    /// Bytes of rows that may wait in the fronts of hash tables: with the gaps between them some eighth of the memory. None where
    /// that is a few pages.
    pub(crate) fn front_bytes_max(&self, page_bytes: usize) -> usize {
        const PAGES_MIN: usize = 4;
        let bytes = self.memory_bytes / 12;
        if bytes < PAGES_MIN * page_bytes { 0 } else { bytes }
    }

    /// Largest write set of one transaction or batch.
    pub(crate) fn write_set_bytes_max(&self) -> u64 {
        (self.memory_bytes as u64 / 4).min(256 << 20)
    }
}
