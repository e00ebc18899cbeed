//! Where bytes leave the process: the only crate that calls the operating system.
//!
//! Three implementations of the same traits:
//!
//! | | |
//! |---|---|
//! | [`os::OsDisk`] | a directory of the operating system |
//! | [`mem::MemDisk`] | memory only, for databases that need not survive |
//! | [`sim::SimDisk`] | memory that crashes, tears, forgets and fails on cue, from a seed |
//!
//! # What a crash may leave
//!
//! *The process dies* (killed, panicked): every write and every window store that returned stays.
//!
//! *Power loss*: of everything written to a file since its last successful [`File::sync`], any subset
//! of 512-byte sectors may be there, in any order, each with its old or its new bytes, or, inside a part
//! of the file that was never synced, with zeroes or garbage. A file's length is one more such thing:
//! it may be the old one, the new one, or one between. A device that was writing a block of 4096 bytes when the power went
//! may leave anything in it, in bytes too that were synced before: who needs them does not write into their block again.
//! Of names created, renamed and removed since
//! the last [`Disk::sync_dir`], any subset may be there; a rename is all or nothing. Syncing a file does not make
//! its name durable, nor the other way round.
//!
//! # What a failed sync means
//!
//! The bytes written since the last successful sync may be lost although they still read back from
//! the page cache, and the next sync may succeed without having written them (Linux marks the pages
//! clean). So whoever sees a sync fail stops acknowledging writes; a later open rewrites what it
//! relies on before it syncs.
//!
//! # Short counts
//!
//! Are absorbed here: reads and writes are whole or an error.

#![allow(clippy::disallowed_methods, reason = "this is the one crate that may touch the disk")]

pub mod answers;
pub mod arena;
#[cfg(test)]
mod conformance;
pub mod mem;
mod name;
pub mod os;
#[cfg(test)]
mod scratch;
pub mod sim;
mod sys;

use esker_base::Result;
use esker_base::sync::Arc;
use std::fmt;
use std::time::Duration;

/// How [`Disk::open`] treats the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Must exist; only reads.
    Read,
    /// Must exist.
    ReadWrite,
    /// Must not exist; is created empty. The name is durable only after [`Disk::sync_dir`].
    Create,
}

/// A place that holds named files: one directory on one device, or a stand-in for it. Also the only
/// source of time and randomness, so that a simulation replays.
///
/// All methods may be called from many threads at once. Names are plain file names without a
/// separator.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Opens a file.
    ///
    /// # Errors
    /// `Io` with kind `NotFound` or `AlreadyExists`, `TooManyFiles`, `NoSpace`, `Io`.
    fn open(&self, name: &str, mode: OpenMode) -> Result<Arc<dyn File>>;
    /// Gives `from` the name `to`, replacing a file of that name. Durable after [`Disk::sync_dir`].
    fn rename(&self, from: &str, to: &str) -> Result<()>;
    /// Removes a name. Open handles stay usable. Durable after [`Disk::sync_dir`].
    fn remove(&self, name: &str) -> Result<()>;
    /// All names, in no particular order.
    fn list(&self) -> Result<Vec<String>>;
    /// Makes creations, renames and removals durable. They are not, before this returns.
    fn sync_dir(&self) -> Result<()>;
    /// Takes the database for this process and this handle alone, until the guard is dropped or the
    /// process dies.
    ///
    /// # Errors
    /// `Locked` at once if another process, or another handle of this one, has it.
    fn lock(&self) -> Result<Box<dyn Lock>>;
    /// Bytes that can still be written.
    fn free_bytes(&self) -> Result<u64>;
    /// Carries out all reads, at the depth that the device likes, and returns when all have ended.
    /// Each request carries its own result.
    fn read_batch(&self, requests: &mut [ReadRequest]);
    /// As [`Disk::read_batch`], but hands each request to `done`, with its place, as soon as it has ended, in any order, on the
    /// caller's thread: what is done with one goes on beside the reads of the others.
    fn read_each(
        &self,
        requests: &mut [ReadRequest],
        done: &mut dyn FnMut(usize, &mut ReadRequest),
    ) {
        self.read_batch(requests);
        requests.iter_mut().enumerate().for_each(|(i, request)| done(i, request));
    }
    /// Time since some fixed moment; never runs backwards.
    fn now(&self) -> Duration;
    /// A random number (seeded in a simulation).
    fn random(&self) -> u64;
    /// What to call this place in messages, such as its path.
    fn label(&self) -> String;
    /// True if background work may run on threads of its own; a simulation answers false, and the
    /// engine then works step by step on the caller's thread.
    fn threads(&self) -> bool {
        true
    }
}

/// Where a stretch of a file lies, as the system's cache sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residence {
    /// In the cache, most of it.
    Cached,
    /// On the device, since the cache had no room to keep it.
    Evicted,
    /// On the device for other reasons, or the system does not say.
    Unknown,
}

/// Proof that the database is locked; dropping it unlocks.
pub trait Lock: Send + Sync + fmt::Debug {}

/// Positional I/O on one file.
///
/// Methods may be called from many threads at once; the caller keeps overlapping reads and writes
/// apart. Reading where nothing was ever written, below the length, gives zeroes.
pub trait File: Send + Sync + fmt::Debug {
    /// Fills `buf` from `offset`. Reading past the end is an `Io` error of kind `UnexpectedEof`.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;
    /// Fills `buf` like [`File::read_at`] and answers true, or answers false at once if that would mean
    /// to wait for the device; `buf` then holds anything.
    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        self.read_at(offset, buf).map(|()| true)
    }
    /// As [`File::read_at`], for much that is read in one go: what is not in the system's cache does not come in there, where
    /// that can be had.
    fn read_past_cache(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.read_at(offset, buf)
    }
    /// Where a stretch lies that is about to be read.
    fn residence(&self, _offset: u64, _bytes: usize) -> Residence {
        Residence::Unknown
    }
    /// Writes all of `data`, growing the file if needed. On an error any part may have been written.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()>;
    /// Makes earlier writes, window stores and the length durable (`fdatasync`).
    fn sync(&self) -> Result<()>;
    /// Asks the system to start writing out this range, without waiting and without any promise.
    fn start_write_out(&self, offset: u64, bytes: u64) -> Result<()>;
    /// Length in bytes.
    fn len(&self) -> Result<u64>;
    /// True if the length is 0.
    fn is_empty(&self) -> Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or extends the file; an extension reads as zeroes.
    fn set_len(&self, bytes: u64) -> Result<()>;
    /// Makes sure that bytes `0..bytes` have blocks on the device, by writing zeroes beyond the
    /// present length, so that later writes there change no metadata and cannot run out of space.
    fn preallocate(&self, bytes: u64) -> Result<()>;
    /// As [`File::preallocate`], but without writing where the system can set blocks aside: a hundred times as quick,
    /// reads as zeroes as well, and cannot run out of space later; but the first write to each place changes
    /// metadata, which makes its sync slower.
    fn allocate(&self, bytes: u64) -> Result<()> {
        self.preallocate(bytes)
    }
    /// Maps `offset..offset + bytes`, which must lie inside preallocated space, for stores that cost no system
    /// call. `offset` is a multiple of 4096.
    fn window(&self, offset: u64, bytes: u64) -> Result<Arc<dyn Window>>;
    /// Name of the file.
    fn name(&self) -> &str;
    /// The system's file, for reads past this trait, if there is one.
    fn handle(&self) -> Option<&std::fs::File> {
        None
    }
    /// The same file, opened for reads of whole blocks past the system's cache, if that can be had.
    fn direct_handle(&self) -> Option<&std::fs::File> {
        None
    }
}

/// A stretch of a file that is written like memory.
///
/// A store is in the kernel when it returns: the death of the process cannot lose it. It is durable
/// after [`File::sync`]. One thread stores at a time, but reads and syncs may go on meanwhile.
pub trait Window: Send + Sync + fmt::Debug {
    /// Copies `data` to `offset` bytes from the start of the window. Never fails: the range was
    /// populated.
    ///
    /// # Panics
    /// If the range lies outside the window.
    fn store(&self, offset: u64, data: &[u8]);
    /// Brings the pages of this range in, so that stores to it neither fault nor fail. Reports an
    /// error where a store would have been a signal.
    fn populate(&self, offset: u64, bytes: u64) -> Result<()>;
    /// Says that nobody stores to this range any more: what was stored stays, and syncs of the file need not
    /// guard against stores to it. A hint, for whole pages inside; a store would still work, and fault.
    fn settle(&self, _offset: u64, _bytes: u64) {}
    /// Length in bytes.
    fn bytes(&self) -> u64;
}

/// One read of a batch.
#[derive(Debug)]
pub struct ReadRequest {
    /// The file.
    pub file: Arc<dyn File>,
    /// First byte.
    pub offset: u64,
    /// Filled as a whole; its length says how much to read.
    pub buf: Vec<u8>,
    /// What is not in the system's cache need not come in there: nobody will read it again, or it is about to change. A hint.
    pub past_cache: bool,
    /// How it ended; `Ok` before it was submitted.
    pub result: Result<()>,
}

impl ReadRequest {
    /// A request for `bytes` bytes.
    pub fn new(file: Arc<dyn File>, offset: u64, bytes: usize) -> Self {
        Self { file, offset, buf: vec![0; bytes], past_cache: false, result: Ok(()) }
    }
}
