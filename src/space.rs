//! A disk that is full, or will be once memory is written out (DESIGN §8).
//!
//! Memory may hold more that is dirty than the disk has space for. No checkpoint could end then, no log would go, and
//! deletes would bring nothing. So free space and the reserve together always hold what is dirty: where they would
//! not, a checkpoint comes before the next write.

use crate::engine::Engine;
use crate::store::clean::DEAD_PERCENT_FULL;
use esker_base::sync::Ordering;
use esker_base::{Error, Result};

impl Engine {
    /// True if the disk may soon not hold all that is dirty. Costs two loads; looks at the disk when so much was
    /// dirtied since it last did that a quarter of the difference may be gone.
    #[inline]
    pub(crate) fn is_space_tight(&self) -> bool {
        let dirtied = self.store.dirtied.load(Ordering::Relaxed);
        dirtied >= self.space_check_at.load(Ordering::Relaxed) && self.look_at_space(dirtied)
    }

    #[cold]
    fn look_at_space(&self, dirtied: u64) -> bool {
        /// Fewer are not worth a checkpoint of their own.
        const PAGES_MIN: u64 = 16;
        let page_bytes = self.store.options.page_bytes as u64;
        let Ok(free_bytes) = self.store.disk.free_bytes() else { return false };
        let have_bytes = free_bytes + self.store.disk_reserve.bytes();
        let dirty = dirtied.min(self.store.frames.count().into());
        // A sixteenth for the nodes of the map; and what the cleaner fills before it can let a segment go.
        let kept_bytes = {
            let segments = &self.store.state.lock().segments;
            segments.capacity() + segments.capacity_min()
        };
        let need_bytes = dirty * page_bytes / 16 * 17 + kept_bytes;
        if dirty >= PAGES_MIN && have_bytes < need_bytes {
            return true;
        }
        let pages = have_bytes.saturating_sub(need_bytes) / page_bytes / 4;
        self.space_check_at.store(dirtied + pages.max(PAGES_MIN), Ordering::Relaxed);
        false
    }

    /// Writes a checkpoint before more is dirtied.
    #[cold]
    fn make_clean(&self) -> Result<()> {
        match self.checkpoint() {
            Err(Error::NoSpace { .. }) if self.make_space() => Ok(()),
            written => written,
        }
    }

    /// Log room for a group of `bytes`, before the turn. One that only deletes may use the reserve.
    pub(crate) fn make_log_room(&self, bytes: usize, deletes: bool) -> Result<()> {
        self.counters
            .log_stalls
            .during(&*self.store.disk, || self.make_log_room_now(bytes, deletes))
    }

    fn make_log_room_now(&self, bytes: usize, deletes: bool) -> Result<()> {
        let mut made = self.wal.make_room(bytes);
        if matches!(made, Err(Error::NoSpace { .. })) && self.make_space() {
            made = self.wal.make_room(bytes);
        }
        if deletes && matches!(made, Err(Error::NoSpace { .. })) {
            made = self.store.with_reserve(|| self.wal.make_room(bytes));
        }
        self.refuse_after_failed_sync(made)
    }

    /// Refuses writes that take space while the reserve is given up and cannot be had back.
    #[inline]
    pub(crate) fn check_space(&self) -> Result<()> {
        if self.store.disk_reserve.is_given_up() {
            return self.get_space_back();
        }
        if self.is_space_tight() { self.make_clean() } else { Ok(()) }
    }

    #[cold]
    fn get_space_back(&self) -> Result<()> {
        // A journal may hold on to the space of removed files until then.
        self.store.disk.sync_dir()?;
        match self.store.take_reserve() {
            Err(Error::NoSpace { .. }) if self.make_space() => self.store.take_reserve(),
            result => result,
        }
    }

    /// On a full disk: gives up what is kept for speed, and cleans to the last bit, with the reserve if
    /// need be. False if that brought nothing, or was tried since the last commit.
    pub(crate) fn make_space(&self) -> bool {
        let now = self.store.published().0 + 1;
        if self.space_sought_at.swap(now, Ordering::Relaxed) == now {
            return false;
        }
        let free_bytes = || self.store.disk.free_bytes().unwrap_or(0);
        let before = free_bytes();
        let result = self.try_make_space();
        self.note_failure(result);
        free_bytes() > before
    }

    fn try_make_space(&self) -> Result<()> {
        /// Each round removes a segment or is the last.
        const ROUNDS_MAX: usize = 1000;
        self.wal.give_up_spares()?;
        self.store.disk.sync_dir()?;
        self.checkpoint()?;
        self.store.disk.sync_dir()?;
        self.free_given_up()?;
        self.store.seal_streams()?;
        for _ in 0..ROUNDS_MAX {
            let cleaned = self.store.with_reserve(|| self.clean_up_to(DEAD_PERCENT_FULL, 1))?;
            self.checkpoint()?;
            self.store.disk.sync_dir()?;
            if cleaned == 0 {
                break;
            }
        }
        self.wal.give_up_spares()?;
        self.store.disk.sync_dir()?;
        // What is set aside was needed, or there was enough without it.
        let _ignored = self.store.take_reserve().is_err();
        Ok(())
    }
}
