//! One file of the log, and how it is made.
//!
//! A file gets its final name only when its header is durable, and is used only when that name is
//! durable too:
//!
//! ```text
//! new file, or a spare under its old name
//!   → blocks to the full length → header → populate → sync → rename → sync the directory → ready
//! ```
//! The blocks are zeroes that were written, so that a sync of a group finds no metadata to write: half the time of a
//! durable commit on ext4. Whoever appends faster than zeroes can be written (a load, which does not wait for syncs)
//! gets blocks that are only set aside.
//!
//! A crash on the way leaves a `.new` file, or a file whose header does not fit its name; both
//! count for nothing. A file under its own name therefore had a good header once: a bad one is
//! damage.

use crate::format::{BLOCK_BYTES, BODY_AT, CLOSE_ROOM_BYTES, FileHeader, file_name, new_file_name};
use esker_base::sync::{Arc, AtomicU64, Ordering};
use esker_base::{Error, Lsn, Result};
use esker_io::{Disk, File, OpenMode, Window};
use std::io::ErrorKind;

/// Files are populated in steps of this.
pub(crate) const POPULATE_BYTES: u64 = 1 << 20;

/// A file with groups, or ready for them.
#[derive(Debug)]
pub(crate) struct LogFile {
    pub(crate) name: String,
    pub(crate) sequence: u64,
    pub(crate) start: Lsn,
    pub(crate) body_bytes: u64,
    pub(crate) file: Arc<dyn File>,
    /// The body.
    pub(crate) window: Arc<dyn Window>,
    /// Bytes of the body that stores may touch, those before the tail apart, which nobody stores to any more. A
    /// multiple of the block, and only growing.
    populated: AtomicU64,
    /// Bytes of the body that no store touches any more, as the window was told.
    settled: AtomicU64,
}

impl LogFile {
    pub(crate) fn end(&self) -> Lsn {
        Lsn(self.start.0 + self.body_bytes)
    }

    pub(crate) fn file_bytes(&self) -> u64 {
        BODY_AT + self.body_bytes
    }

    /// True if there is place for `room` bytes at body offset `at`, populated or not.
    pub(crate) fn holds(&self, at: u64, room: u64) -> bool {
        at + room + CLOSE_ROOM_BYTES <= self.body_bytes
    }

    /// True if `room` bytes at `at`, which the file holds, may be stored, and a marker wherever the
    /// tail may then be.
    pub(crate) fn is_populated(&self, at: u64, room: u64) -> bool {
        at + room + CLOSE_ROOM_BYTES <= self.populated()
    }

    pub(crate) fn populated(&self) -> u64 {
        self.populated.load(Ordering::Acquire)
    }

    /// True if a marker at `at` may be stored.
    pub(crate) fn is_block_populated(&self, at: u64) -> bool {
        at / BLOCK_BYTES * BLOCK_BYTES + BLOCK_BYTES <= self.populated()
    }

    /// Everything before LSN `end` is appended, and not stored to again: tells the window, unless it is too little to
    /// be worth the call.
    pub(crate) fn settle(&self, end: Lsn) {
        const BYTES_MIN: u64 = 128 << 10;
        let end = end.0.saturating_sub(self.start.0).min(self.body_bytes);
        let end = end / BLOCK_BYTES * BLOCK_BYTES;
        let from = self.settled.load(Ordering::Relaxed);
        if end < from + BYTES_MIN {
            return;
        }
        // Two at once settle the same pages twice: no harm.
        self.settled.store(end, Ordering::Relaxed);
        self.window.settle(from, end - from);
    }

    /// Makes at least `tail..bytes` of the body, as far as it goes, fit for stores. One caller at a time.
    pub(crate) fn populate(&self, tail: u64, bytes: u64) -> Result<()> {
        while self.populate_step(tail, bytes)? {}
        Ok(())
    }

    /// As [`Self::populate`], but no more than a step. True if that took anything.
    pub(crate) fn populate_step(&self, tail: u64, bytes: u64) -> Result<bool> {
        // What lies before was stored to, or written by calls.
        let at = self.populated().max(tail / BLOCK_BYTES * BLOCK_BYTES);
        if at >= bytes.min(self.body_bytes) {
            return Ok(false);
        }
        let step = (self.body_bytes - at).min(POPULATE_BYTES - at % POPULATE_BYTES);
        self.window.populate(at, step)?;
        self.populated.store(at + step, Ordering::Release);
        Ok(true)
    }
}

/// A released file, under its old name.
#[derive(Debug)]
pub(crate) struct Spare {
    pub(crate) name: String,
    pub(crate) file: Arc<dyn File>,
    pub(crate) file_bytes: u64,
}

/// Which file to make.
#[derive(Debug)]
pub(crate) struct Plan {
    /// All but the length, which depends on what can be had.
    pub(crate) header: FileHeader,
    /// Length of the file if there is space.
    pub(crate) wanted_bytes: u64,
    /// Length without which the file is of no use.
    pub(crate) least_bytes: u64,
    /// How much of the body to populate.
    pub(crate) populate_bytes: u64,
    /// The file is needed sooner than zeroes can be written: its blocks are only set aside.
    pub(crate) is_urgent: bool,
}

/// Makes a file ready, out of `spare` if there is one. On an error nothing of it is left, if the
/// disk lets go of it.
pub(crate) fn make(disk: &dyn Disk, plan: &Plan, spare: Option<Spare>) -> Result<LogFile> {
    let source = match spare {
        Some(spare) => {
            esker_base::mark::LOG_FILE_RECYCLED.hit();
            spare
        }
        None => create(disk, new_file_name(plan.header.sequence))?,
    };
    let mut name = source.name.clone();
    let made = outfit(disk, plan, &source, &mut name);
    if made.is_err() {
        // A sync that failed cannot be repeated on the same file. If the removal fails too, the
        // file stays behind as garbage that the next try replaces, or the next open removes.
        disk.remove(&name).ok();
    }
    made
}

fn create(disk: &dyn Disk, name: String) -> Result<Spare> {
    let file = match disk.open(&name, OpenMode::Create) {
        // Left by a try that failed.
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::AlreadyExists => {
            disk.remove(&name)?;
            disk.open(&name, OpenMode::Create)?
        }
        opened => opened?,
    };
    Ok(Spare { name, file, file_bytes: 0 })
}

fn outfit(disk: &dyn Disk, plan: &Plan, source: &Spare, name: &mut String) -> Result<LogFile> {
    let file = &source.file;
    let least = plan.least_bytes.max(source.file_bytes);
    let file_bytes = allocate(file.as_ref(), plan, least)?;
    let header = FileHeader { body_bytes: file_bytes - BODY_AT, ..plan.header };
    file.write_at(0, &header.encode())?;
    let made = LogFile {
        name: file_name(header.sequence),
        sequence: header.sequence,
        start: header.start,
        body_bytes: header.body_bytes,
        file: Arc::clone(file),
        window: file.window(BODY_AT, header.body_bytes)?,
        populated: AtomicU64::new(0),
        settled: AtomicU64::new(0),
    };
    made.populate(0, plan.populate_bytes)?;
    file.sync()?;
    disk.rename(name, &made.name)?;
    name.clone_from(&made.name);
    disk.sync_dir()?;
    Ok(made)
}

/// Gives the file the bytes that the plan wants, or `least` if there is no space for more. Returns the length.
fn allocate(file: &dyn File, plan: &Plan, least: u64) -> Result<u64> {
    let wanted = plan.wanted_bytes.max(least);
    let allocated = if plan.is_urgent { file.allocate(wanted) } else { file.preallocate(wanted) };
    match allocated {
        Ok(()) => Ok(wanted),
        Err(Error::NoSpace { .. }) if least < wanted => {
            if file.len()? > least {
                file.set_len(least)?;
            }
            file.preallocate(least)?;
            esker_base::mark::LOG_FILE_SMALLER.hit();
            Ok(least)
        }
        Err(error) => Err(error),
    }
}
