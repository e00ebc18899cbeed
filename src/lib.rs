//! Esker: an embedded storage engine. One library, one directory of files, an index chosen table by
//! table.
//!
//! ```
//! # fn main() -> esker::Result<()> {
//! use esker::{Durability, Index, Options};
//!
//! let db = Options::new().open_in_memory()?; // or Database::open("shop.db")
//! let orders = db.table("orders", Index::BTree)?; // in order, read as often as written
//! let sessions = db.table("sessions", Index::Hash)?; // no order: one row at a time
//! let clicks = db.table("clicks", Index::Fractal)?; // in order, written far more than read
//! db.transact(|tx| {
//!     tx.put(&orders, "ann/2026-11-01", "3 apples")?;
//!     tx.put(&sessions, "6b1f", "ann")?;
//!     tx.put(&clicks, "2026-11-01T10:00", "ann: buy")
//! })?; // all three or none, and they survive power loss
//! clicks.put_with("2026-11-01T10:05", "ann: leave", Durability::Os)?; // survives the process
//! for row in orders.prefix("ann/")? {
//!     let row = row?;
//!     println!("{:?} = {:?}", row.key(), row.value());
//! }
//! assert_eq!(sessions.get("6b1f")?, Some(b"ann".to_vec()));
//! assert_eq!(clicks.range("2026-11-01".."2026-11-02")?.count(), 2);
//! # db.close() }
//! ```
//!
//! # Kinds of index
//!
//! Each table has one, for good; log, transactions, snapshots, crash safety and space are the same for all.
//!
//! - [`Index::BTree`]: keys in order. Good at everything: take it unless one of the others is clearly better.
//! - [`Index::Hash`]: no order, so ranges, prefixes and first rows are refused ([`Error::Unordered`]) and
//!   [`Table::rows`] gives rows in any. A get or put of one key touches one page, by the shortest way.
//! - [`Index::Fractal`]: keys in order. A write reads nothing and is written out in long runs, so tables may be far
//!   larger than memory; reads pay a little more. Calls that must know what a key holds ([`Table::put_if_absent`],
//!   [`Table::compare_and_swap`], [`Table::merge`]) read, and give that advantage away.
//! - [`Index::Custom`]: your own, an `esker_index::kind::Kind` that is registered with [`Options::index_kind`].
//!
//! README.md compares them under "Which index?".
//!
//! # Inside
//!
//! | module | |
//! |---|---|
//! | `db`, `table`, `txn`, `snapshot`, `batch`, `rows`, `ticket` | what users hold |
//! | `engine`, `turn`, `commit`, `write_set`, `conflict` | the commit turn |
//! | `open`, `record`, `catalog`, `background`, `work`, `space` | recovery, the log's meaning, upkeep, indexes' background work, a full disk |
//! | `store` | pages, versions, segments, checkpoint, cleaning |
//! | `kinds`, `value` | the kinds of index as the engine calls them; values outside leaves |
//! | `verify`, `repair` | finding damage; what is left, into another directory |
//! | `stats`, `options`, `range`, `merge` | |
//!
//! DESIGN.md explains the whole.

#![allow(
    clippy::needless_pass_by_value,
    reason = "ranges are passed by value, as to the collections of std"
)]

mod background;
mod batch;
mod bulk_load;
mod catalog;
mod commit;
mod conflict;
mod db;
mod engine;
mod get;
mod kinds;
mod memory;
mod merge;
mod open;
mod options;
mod pace;
mod page_set;
mod range;
mod read_ahead;
mod record;
mod repair;
mod replay;
mod rest;
mod row_cache;
mod rows;
mod snapshot;
mod space;
mod stats;
mod store;
mod table;
mod ticket;
mod turn;
mod txn;
mod value;
mod verify;
mod work;
mod write_behind;
mod write_set;

pub use batch::Batch;
pub use catalog::Index;
pub use db::{ConflictCheck, Database};
pub use esker_base::{Error, Result};
pub use merge::MergeFn;
pub use options::{Durability, Options};
pub use range::{KeyRange, KeySpan};
pub use repair::{LostLog, RepairReport, RepairedTable};
pub use rows::{Row, Rows};
pub use snapshot::Snapshot;
pub use stats::{Stats, TableStats};
pub use table::Table;
pub use ticket::Ticket;
pub use txn::{Isolation, Transaction, TransactionRows};
pub use verify::{Damage, Verified};

/// What a kind of index of your own is written against: the trait, the pages it is given, and parts for it. Registered with
/// [`Options::index_kind`]; `examples/fourth_kind.rs` is one.
pub mod index {
    pub use esker_base::{CommitNo, PageId};
    pub use esker_index::{fold, kind, leaves, pages};
}

/// Longest key, in bytes, with pages of the default size: a quarter of a page.
pub const KEY_BYTES_MAX: usize = 2048;
/// Longest value, in bytes.
pub const VALUE_BYTES_MAX: usize = 64 << 20;
