//! The vocabulary of Esker, with locks, atomics and threads that shuttle schedules.

#[path = "../../../../base/src/checksum.rs"]
pub mod checksum;
#[path = "../../../../base/src/codec.rs"]
pub mod codec;
#[path = "../../../../base/src/error.rs"]
pub mod error;
#[path = "../../../../base/src/id.rs"]
pub mod id;
#[path = "../../../../base/src/mark.rs"]
pub mod mark;
pub mod sync;

pub use error::{Error, Result};
pub use id::{CommitNo, DatabaseId, Lsn, PageId, SegmentId, TableId};

#[doc(hidden)]
pub use shuttle;
