//! Space set aside for the time when the disk is full.
//!
//! A file named `reserve` of blocks that nobody writes to. When there is no space left for a delete, a checkpoint or an open,
//! the file is removed and they try again with the space it had; other writes are refused
//! from then on, until there is space for the file again.

use super::Store;
use esker_base::sync::{AtomicBool, AtomicU64, Mutex, Ordering};
use esker_base::{Error, Result};
use esker_io::{Disk, OpenMode};

/// The file.
pub(crate) const RESERVE_NAME: &str = "reserve";
/// So many of the largest segments, and a smallest one or all nodes of the map, twice: the cleaner fills one before it can remove one,
/// and the checkpoints before and after that write such nodes.
const SEGMENTS: u64 = 2;

/// What is set aside.
#[derive(Debug, Default)]
pub(crate) struct DiskReserve {
    /// Length of the file; 0 if there is none.
    bytes: AtomicU64,
    /// It was needed, and has not come back yet.
    given_up: AtomicBool,
    /// Held while the file is made or removed.
    changing: Mutex<()>,
}

/// Removes the file, if it is there.
pub(crate) fn remove(disk: &dyn Disk) -> Result<bool> {
    let found = disk.list()?.iter().any(|name| name == RESERVE_NAME);
    if found {
        disk.remove(RESERVE_NAME)?;
        disk.sync_dir()?;
    }
    Ok(found)
}

impl DiskReserve {
    /// Bytes set aside now.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
    /// True if it was needed: only deletes may write.
    #[inline]
    pub(crate) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }
    pub(crate) fn note_given_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }
}

impl Store {
    /// Makes the reserve as large as it should be, if there is space for it and some to write.
    ///
    /// # Errors
    /// `NoSpace`; `Io`.
    pub(crate) fn take_reserve(&self) -> Result<()> {
        let reserve = &self.disk_reserve;
        let wanted = {
            let state = self.state.lock();
            let segments = &state.segments;
            let map_bytes = state.map_bytes(self.options.page_bytes);
            segments.victim_bytes_max() * SEGMENTS + segments.capacity_min().max(2 * map_bytes)
        };
        let _changing = reserve.changing.lock();
        let held = reserve.bytes();
        if held >= wanted {
            return Ok(());
        }
        if self.disk.free_bytes()? < wanted - held + wanted / 4 {
            let file = RESERVE_NAME.to_owned();
            return Err(Error::NoSpace { op: "set space aside", file });
        }
        let found = self.disk.list()?.iter().any(|name| name == RESERVE_NAME);
        let mode = if found { OpenMode::ReadWrite } else { OpenMode::Create };
        let made = self.disk.open(RESERVE_NAME, mode).and_then(|file| file.allocate(wanted));
        if let Err(error) = made {
            // Half a reserve would be taken for a whole one.
            if mode == OpenMode::Create {
                self.disk.remove(RESERVE_NAME)?;
            }
            return Err(error);
        }
        reserve.bytes.store(wanted, Ordering::Relaxed);
        reserve.given_up.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Looks, at open, whether there is a reserve.
    pub(crate) fn note_reserve(&self) -> Result<()> {
        if self.disk.list()?.iter().any(|name| name == RESERVE_NAME) {
            let bytes = self.disk.open(RESERVE_NAME, OpenMode::Read)?.len()?;
            self.disk_reserve.bytes.store(bytes, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Gives the reserve up. False if there is none to give.
    pub(crate) fn give_up_reserve(&self) -> bool {
        let reserve = &self.disk_reserve;
        let _changing = reserve.changing.lock();
        // A journal may hold on to the space of a removed file until the removal is durable.
        let removed = || self.disk.remove(RESERVE_NAME).and_then(|()| self.disk.sync_dir());
        let given = reserve.bytes() > 0 && removed().is_ok();
        if given {
            reserve.bytes.store(0, Ordering::Relaxed);
            reserve.note_given_up();
        }
        given
    }

    /// Runs what must succeed even on a full disk, and once more without the reserve.
    pub(crate) fn with_reserve<R>(&self, mut run: impl FnMut() -> Result<R>) -> Result<R> {
        match run() {
            Err(Error::NoSpace { .. }) if self.give_up_reserve() => run(),
            result => result,
        }
    }
}
