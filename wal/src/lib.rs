//! The write-ahead log: knows groups of bytes, not their meaning.
//!
//! ```text
//!            released          read after a crash            ready
//!        ┌─────┴─────┐ ┌──────────────┴──────────────┐ ┌───────┴───────┐
//!        spare   spare   wal-…05   wal-…06   wal-…07       wal-…08
//!                            ↑ from               ↑ tail
//! ```
//!
//! An [`Lsn`] is a position in one endless sequence of bytes, cut into files ([`mod@format`] has
//! the drawing). A group is appended by a memory copy into a window of the current file
//! ([`Wal::append`]), under a mutex of the engine, the commit turn. That makes it safe from the
//! death of the process. [`Wal::sync_through`] makes it durable, many at a time. [`read()`] gives
//! all groups back, in order, up to the first that was lost.
//!
//! # What a log promises
//!
//! - W1: what [`read()`] gives is a prefix of what was appended: no group is missing before one
//!   that is there.
//! - W2: after any crash, the prefix holds everything before [`Wal::durable`].
//! - W3: damage is told from a torn tail. A bad group is damage if a later group or file header of
//!   the same incarnation says that it was once durable. (The last batch of groups has no later
//!   witness: there, damage passes for a torn tail.)
//! - W4: a file is durable, name and header, before the first group in it.
//! - W5: no 4 KiB block that holds a durable group is written again before its file is recycled.
//!
//! # Incarnations
//!
//! A log is never continued after a crash, since its tail may read back and still not be on the
//! device. Recovery starts a new log, under an incarnation no file has had
//! ([`End::highest_incarnation`]) and at a sequence no name has had ([`End::highest_sequence`]),
//! rewrites there what it relies on, and removes the old files ([`End::files`]) when the superblock
//! names the new log.
//!
//! # Who may call what
//!
//! [`Tail`] is the right to append: it lives in the turn's mutex. What takes it is called in the
//! turn; everything else from any thread at any time, outside the turn, since it may wait or take
//! the turn itself. Locks are taken in the order turn, making, maintenance, files; the sync state is taken
//! alone.

mod commit;
mod file;
pub mod format;
mod reader;
mod room;
mod salvage;
mod stats;
mod writer;

pub use esker_base::{CommitNo, DatabaseId, Lsn};
pub use reader::{End, Group, is_used, read};
pub use salvage::{LostGroups, Salvaged, databases, salvage};
pub use stats::WalStats;
pub use writer::{Staged, Tail, Wal};

/// Size of the first file of a log unless set: small, so that an empty database is.
pub const FIRST_FILE_BYTES: u64 = 1 << 20;
/// Limit of file sizes unless set.
pub const FILE_BYTES_MAX: u64 = 64 << 20;

/// What a log is created with.
#[derive(Clone, Debug)]
pub struct Options {
    /// In every file, so that a file of another database is refused.
    pub database: DatabaseId,
    /// Told apart from all earlier logs of the database by this number.
    pub incarnation: u64,
    /// Size of the first file, in bytes. Each later file is four times as large as the one before.
    pub first_file_bytes: u64,
    /// Where growth stops, in bytes; a group that needs more gets a larger file. Smaller: more
    /// files are prepared per byte. Larger: more space is held, and more is scanned after a crash.
    pub file_bytes_max: u64,
}

impl Options {
    /// The default sizes.
    pub fn new(database: DatabaseId, incarnation: u64) -> Self {
        Self {
            database,
            incarnation,
            first_file_bytes: FIRST_FILE_BYTES,
            file_bytes_max: FILE_BYTES_MAX,
        }
    }
}
