//! Esker: an embedded storage engine. One library, one directory of files, an index chosen table by
//! table.
//!
//! ```
//! # fn main() -> esker::Result<()> {
//! use esker::{Durability, Index, Options};
//!
//! let db = Options::new().open_in_memory()?; // or Database::open("directory")
//! let events = db.table("events", Index::BTree)?;
//! let mut batch = db.batch();
//! batch.put(&events, "2026-11-01T10:00", "started");
//! batch.put(&events, "2026-11-01T10:05", "stopped");
//! batch.commit()?; // both or neither, and they survive power loss
//! events.put_with("2026-11-01T10:06", "idle", Durability::Os)?; // survives the process
//! for row in events.range("2026-11-01T10:05"..)? {
//!     let row = row?;
//!     println!("{:?} = {:?}", row.key(), row.value());
//! }
//! # db.close() }
//! ```
//!
//! | module | |
//! |---|---|
//! | `db`, `table`, `txn`, `snapshot`, `batch`, `rows`, `ticket` | what users hold |
//! | `engine`, `turn`, `commit`, `write_set`, `conflict` | the commit turn |
//! | `open`, `record`, `catalog`, `background`, `work` | recovery, the log's meaning, upkeep, indexes' background work |
//! | `store` | pages, versions, segments, checkpoint, cleaning |
//! | `kinds`, `value` | the kinds of index as the engine calls them; values outside leaves |
//! | `verify`, `stats`, `options`, `range`, `merge` | |
//!
//! DESIGN.md explains the whole.

#![allow(
    clippy::needless_pass_by_value,
    reason = "ranges are passed by value, as to the collections of std"
)]

mod background;
mod batch;
mod catalog;
mod commit;
mod conflict;
mod db;
mod engine;
mod kinds;
mod merge;
mod open;
mod options;
mod range;
mod record;
mod rows;
mod snapshot;
mod stats;
mod store;
mod table;
mod ticket;
mod turn;
mod txn;
mod value;
mod verify;
mod work;
mod write_set;

pub use batch::Batch;
pub use catalog::Index;
pub use db::{ConflictCheck, Database};
pub use esker_base::{Error, Result};
pub use merge::MergeFn;
pub use options::{Durability, Options};
pub use range::KeyRange;
pub use rows::{Row, Rows};
pub use snapshot::Snapshot;
pub use stats::{Stats, TableStats};
pub use table::Table;
pub use ticket::Ticket;
pub use txn::{Isolation, Transaction, TransactionRows};
pub use verify::{Damage, Verified};

/// Longest key, in bytes, with pages of the default size: a quarter of a page.
pub const KEY_BYTES_MAX: usize = 2048;
/// Longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 64 << 20;
