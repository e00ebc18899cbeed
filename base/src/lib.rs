//! The vocabulary of Esker: ids, errors, codecs, checksums and locks.
//!
//! Everything here is pure: no I/O, no threads of its own, no unsafe code. Every other crate of the
//! workspace depends on this one, and this one on none of them.

pub mod checksum;
pub mod codec;
pub mod error;
pub mod id;
pub mod mark;
pub mod sync;

pub use error::{Error, Result};
pub use id::{COUNT_LIMIT, CommitNo, DatabaseId, Lsn, PageId, SegmentId, TableId};
