//! A disk that is full, or will be once memory is written out (DESIGN §8).
//!
//! Memory may hold more that is dirty than the disk has space for. No checkpoint could end then, no log would go, and
//! deletes would bring nothing. So free space and the reserve together always hold what is dirty: where they would
//! not, a checkpoint comes before the next write.
//!
//! Background work writes before it gives space back. Puts leave it room: where free space would not hold what it is going to
//! write, too, they wait for it, and are refused when it can do no more. Short of that, work is told how much it may write, and does
//! what fits; what finds no room waits, or is given up with what it has built. Deletes always go through, and let it write
//! less; they let it make space before they have taken what is left for it.

use crate::catalog::TableState;
use crate::engine::Engine;
use crate::rest::RestCleaning;
use crate::store::clean::DEAD_PERCENT_FULL;
use crate::work::{Round, Working};
use esker_base::sync::Ordering;
use esker_base::{Error, Lsn, Result, TableId};

/// What the disk has space for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// All that memory holds, and what background work is going to write.
    Enough,
    /// All that memory holds.
    Short,
    /// Not that: a checkpoint comes first.
    Tight,
}

/// What is there, and what it is needed for, in bytes.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_field_names, reason = "units")]
struct Need {
    /// Free, the reserve included.
    have_bytes: u64,
    /// What is dirty.
    dirty_bytes: u64,
    /// What the cleaner fills before it can let a segment go, and what the checkpoints before and after it write of the map.
    kept_bytes: u64,
    /// As that, for the victim which takes least.
    kept_least_bytes: u64,
    /// The map.
    map_bytes: u64,
    /// The log since the last checkpoint: whoever opens the database after a crash copies it.
    log_bytes: u64,
    /// What background work is going to write, of all tables.
    work_bytes: u64,
}

/// Space that background work found too little.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refused {
    table: TableId,
    free_bytes: u64,
    at: Lsn,
}

impl Need {
    /// What there must be space for whatever happens.
    fn least_bytes(&self) -> u64 {
        self.dirty_bytes + self.kept_bytes + self.log_bytes
    }
}

impl Engine {
    /// What the disk has space for. Costs two loads; looks at the disk when so much was dirtied since it last did that a
    /// quarter of the difference may be gone.
    #[inline]
    fn room(&self) -> Room {
        let dirtied = self.store.dirtied.load(Ordering::Relaxed);
        if dirtied < self.space_check_at.load(Ordering::Relaxed) {
            return Room::Enough;
        }
        self.look_at_space(dirtied)
    }

    /// True if the disk may soon not hold all that is dirty.
    #[inline]
    pub(crate) fn is_space_tight(&self) -> bool {
        self.room() == Room::Tight
    }

    /// True if work that only saves space should be done, although there are writes.
    pub(crate) fn is_space_short(&self) -> bool {
        self.room() != Room::Enough
    }

    #[cold]
    fn look_at_space(&self, dirtied: u64) -> Room {
        /// Fewer are not worth a checkpoint of their own.
        const PAGES_MIN: u64 = 16;
        let Ok(need) = self.need(dirtied) else { return Room::Enough };
        let Need { have_bytes, work_bytes, log_bytes, .. } = need;
        let page_bytes = self.store.options.page_bytes as u64;
        let is_clean = dirtied < PAGES_MIN && log_bytes < PAGES_MIN * page_bytes;
        if !is_clean && have_bytes < need.least_bytes() {
            return Room::Tight;
        }
        // A quarter more: for deletes, which make it more.
        let need_bytes = need.least_bytes() + work_bytes + work_bytes / 4;
        if work_bytes > 0 && have_bytes < need_bytes {
            return Room::Short;
        }
        let pages = have_bytes.saturating_sub(need_bytes) / page_bytes / 4;
        // Others may take space meanwhile.
        let pages = pages.min(self.store.frames.count().into());
        self.space_check_at.store(dirtied + pages.max(PAGES_MIN), Ordering::Relaxed);
        Room::Enough
    }

    fn need(&self, dirtied: u64) -> Result<Need> {
        let page_bytes = self.store.options.page_bytes as u64;
        let have_bytes = self.store.disk.free_bytes()? + self.store.disk_reserve.bytes();
        let dirty = dirtied.min(self.store.frames.count().into());
        let (victim_bytes, victim_least_bytes, capacity_min, map_bytes) = {
            let state = self.store.state.lock();
            let segments = &state.segments;
            let map_bytes = state.map_bytes(self.store.options.page_bytes);
            let (most, least) = (segments.victim_bytes_max(), segments.victim_bytes_min());
            (most, least, segments.capacity_min(), map_bytes)
        };
        let checkpoints_bytes = (2 * map_bytes).max(capacity_min / 2);
        let kept_bytes = victim_bytes + checkpoints_bytes;
        let kept_least_bytes = victim_least_bytes + checkpoints_bytes;
        let dirty_bytes = dirty * page_bytes;
        let tables = self.catalog.read();
        let work_bytes = tables.by_id.values().map(|table| table.index.work_bytes()).sum::<u64>();
        // What is under way has written some of it.
        let built_bytes = self.built_pages.load(Ordering::Relaxed) * page_bytes;
        let work_bytes = work_bytes.saturating_sub(built_bytes);
        let log_bytes =
            self.wal.position().0.saturating_sub(self.checkpoint_lsn.load(Ordering::Relaxed));
        Ok(Need {
            have_bytes,
            dirty_bytes,
            kept_bytes,
            kept_least_bytes,
            map_bytes,
            log_bytes,
            work_bytes,
        })
    }

    /// Whether there is space for background work: to begin a piece of it, all that may be written, or, for a kind that keeps to
    /// a limit, what is left; to go on, that of a step, or all that is left to write: where that is less it would be given
    /// up, and begun again, for ever. What it has dirtied must find its place, too, or no checkpoint ends.
    pub(crate) fn has_room_for_work(
        &self,
        working: &mut Working,
        table: &TableState,
    ) -> Result<bool> {
        /// It looks again when it has built so many, which may be dirty beside others.
        const STEP_PAGES: u64 = 128;
        /// At least so many are always to be written.
        const LEAST_PAGES: u64 = 4;
        let need = self.need(self.store.dirtied.load(Ordering::Relaxed))?;
        let left_bytes = need.have_bytes.saturating_sub(need.dirty_bytes + need.kept_least_bytes);
        let page_bytes = self.store.options.page_bytes as u64;
        let step_bytes = STEP_PAGES * page_bytes;
        let is_enough = left_bytes >= need.work_bytes + need.work_bytes / 4;
        if working.is_under_way() {
            let built_pages = self.built_pages.load(Ordering::Relaxed);
            let written_bytes = built_pages.saturating_sub(working.unwritten_pages()) * page_bytes;
            let job_bytes = working.limit_bytes.min(table.index.job_bytes());
            // It may come to more than estimated.
            let rest_bytes = job_bytes.saturating_sub(written_bytes).max(LEAST_PAGES * page_bytes);
            return Ok(is_enough || left_bytes >= step_bytes.min(rest_bytes));
        }
        // Who has had to give the reserve up does first what brings most back.
        let is_roomy = is_enough && !self.store.disk_reserve.is_given_up();
        working.limit_bytes = if is_roomy { u64::MAX } else { left_bytes };
        let is_limited = table.index.limit_work(working.limit_bytes);
        if is_enough {
            return Ok(true);
        }
        // What is deleted is not written: how much that is nobody knows before. What was in vain is not tried again before
        // there is more space, or more was deleted.
        let wanted_bytes = table.index.work_bytes();
        let in_vain = working.refused.is_some_and(|refused| {
            refused.table == table.id
                && need.have_bytes < refused.free_bytes + step_bytes
                && self.wal.position().0 < refused.at.0 + wanted_bytes / 16
        });
        let least_bytes = if is_limited { page_bytes } else { step_bytes.max(wanted_bytes / 2) };
        Ok(!in_vain && left_bytes >= least_bytes)
    }

    /// What there was too little of when work was given up.
    pub(crate) fn refused(&self, table: TableId) -> Option<Refused> {
        let free_bytes = self.need(0).ok()?.have_bytes;
        Some(Refused { table, free_bytes, at: self.wal.position() })
    }

    /// Writes a checkpoint before more is dirtied.
    #[cold]
    pub(crate) fn make_clean(&self) -> Result<()> {
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
        if !deletes {
            self.make_clean_for_log()?;
        }
        let mut made = self.wal.make_room(bytes);
        if matches!(made, Err(Error::NoSpace { .. })) && self.make_space() {
            made = self.wal.make_room(bytes);
        }
        if deletes && matches!(made, Err(Error::NoSpace { .. })) {
            made = self.store.with_reserve(|| self.wal.make_room(bytes));
        }
        self.refuse_after_failed_sync(made)
    }

    /// True if there is no space for so much beside all that is dirty.
    fn is_tight_beside(&self, more_bytes: u64) -> Result<bool> {
        let need = self.need(self.store.dirtied.load(Ordering::Relaxed))?;
        Ok(need.have_bytes < need.least_bytes() + more_bytes)
    }

    /// Refuses large values of so many pages, all dirty at once, if there is no space for them.
    pub(crate) fn check_space_for_large(&self, pages: usize) -> Result<()> {
        let pages = pages as u64;
        let dirtied = self.store.dirtied.load(Ordering::Relaxed);
        if pages == 0 || dirtied + pages < self.space_check_at.load(Ordering::Relaxed) {
            return Ok(());
        }
        let bytes = pages * self.store.options.page_bytes as u64 / 16 * 17;
        if !self.is_tight_beside(bytes)? {
            return Ok(());
        }
        self.make_clean()?;
        if self.is_tight_beside(bytes)? {
            let file = self.store.disk.label();
            return Err(Error::NoSpace { op: "keep space for a large value in", file });
        }
        Ok(())
    }

    /// A new file of the log takes space that what is dirty needs: where that would not be left, a checkpoint comes first, which
    /// lets go of the files before.
    fn make_clean_for_log(&self) -> Result<()> {
        let file_bytes = self.wal.next_file_bytes();
        if file_bytes == 0 || !self.is_tight_beside(file_bytes)? {
            return Ok(());
        }
        match self.make_clean() {
            // There may be enough for the file.
            Err(Error::NoSpace { .. }) => Ok(()),
            made => made,
        }
    }

    /// Refuses writes that take space while the reserve is given up and cannot be had back.
    #[inline]
    pub(crate) fn check_space(&self) -> Result<()> {
        if self.store.disk_reserve.is_given_up() {
            return self.get_space_back();
        }
        match self.room() {
            Room::Enough => Ok(()),
            Room::Tight => self.make_clean(),
            Room::Short => self.wait_for_space(),
        }
    }

    /// Lets background work make space, as long as there is any to do.
    #[cold]
    fn wait_for_space(&self) -> Result<()> {
        while self.is_space_short() {
            if self.is_space_tight() {
                self.make_clean()?;
            } else if !self.let_work_make_space()? && self.is_space_short() {
                let file = self.store.disk.label();
                return Err(Error::NoSpace { op: "keep space for merges in", file });
            }
        }
        Ok(())
    }

    /// Lets background work make space before deletes have taken what is left for it: not at each of them.
    #[inline]
    pub(crate) fn make_way_for_deletes(&self) -> Result<()> {
        match self.room() {
            Room::Enough => Ok(()),
            room => self.work_for_deletes(room),
        }
    }

    #[cold]
    fn work_for_deletes(&self, room: Room) -> Result<()> {
        /// Of log: fewer do not change what there is to do. A checkpoint that must come first does not wait for them.
        const PAGES: u64 = 4;
        let is_early = self.wal.position().0 < self.delete_work_at.load(Ordering::Relaxed);
        if is_early && room != Room::Tight {
            return Ok(());
        }
        let worked = self.make_space_for_deletes();
        // Checkpoints end a page of the log, too.
        let next = self.wal.position().0 + PAGES * self.store.options.page_bytes as u64;
        self.delete_work_at.store(next, Ordering::Relaxed);
        worked
    }

    fn make_space_for_deletes(&self) -> Result<()> {
        loop {
            let made = match self.room() {
                Room::Enough => return Ok(()),
                Room::Tight => self.make_clean_for_deletes().map(|()| true),
                Room::Short => self.let_work_make_space(),
            };
            match made {
                Ok(true) => {}
                Ok(false) | Err(Error::NoSpace { .. }) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    fn make_clean_for_deletes(&self) -> Result<()> {
        self.make_clean()?;
        self.clean_where_little_is_left()
    }

    /// After a checkpoint that leaves little, what the cleaner can win: what deletes change is written anew, and where that lay is not
    /// free before the cleaner comes by. It needs space itself, so it must not come too late.
    pub(crate) fn clean_where_little_is_left(&self) -> Result<()> {
        let need = self.need(self.store.dirtied.load(Ordering::Relaxed))?;
        if need.have_bytes < need.least_bytes() + need.map_bytes {
            self.make_space();
        }
        Ok(())
    }

    #[cold]
    fn get_space_back(&self) -> Result<()> {
        loop {
            // A journal may hold on to the space of removed files until then.
            self.store.disk.sync_dir()?;
            match self.store.take_reserve() {
                Err(Error::NoSpace { .. }) if self.let_work_make_space()? => {}
                result => return result,
            }
        }
    }

    /// A round of background work, or, where there is none to do, what else there is to make space. False if nothing is left
    /// to try.
    pub(crate) fn let_work_make_space(&self) -> Result<bool> {
        self.check_writable()?;
        match self.work_round(true) {
            Ok(Round::More) => Ok(true),
            Ok(Round::Nothing) | Err(Error::NoSpace { .. }) => {
                let was_given_up = self.store.disk_reserve.is_given_up();
                // What it frees may be what the reserve has now.
                Ok(self.make_space() || was_given_up && !self.store.disk_reserve.is_given_up())
            }
            Err(error) => Err(error),
        }
    }

    /// On a full disk: gives up what is kept for speed, and cleans to the last bit, with the reserve if
    /// need be. False if that brought nothing, or was tried since the last commit. Not while the log is replayed: it takes
    /// checkpoints.
    pub(crate) fn make_space(&self) -> bool {
        if self.is_recovering.load(Ordering::Relaxed) {
            return false;
        }
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
        /// Moved between two checkpoints: several segments, so that they win more than the checkpoint writes, and not so much that
        /// it waits long.
        const PASS_BYTES: u64 = 32 << 20;
        self.wal.give_up_spares()?;
        self.store.disk.sync_dir()?;
        self.checkpoint()?;
        self.store.disk.sync_dir()?;
        self.free_given_up()?;
        self.store.seal_streams()?;
        // On a small disk checkpoints may make as much dead as is cleaned.
        let (mut cleaning, begun) = (RestCleaning::default(), self.store.published());
        while cleaning.goes_on((begun, 0), self.store.cleanable().1) {
            let cleaned =
                self.store.with_reserve(|| self.clean_up_to(DEAD_PERCENT_FULL, PASS_BYTES))?;
            self.checkpoint()?;
            self.store.disk.sync_dir()?;
            if cleaned == 0 {
                break;
            }
            cleaning.note(self.store.cleanable().1, self.store.gain_bytes_min());
        }
        self.wal.give_up_spares()?;
        self.store.disk.sync_dir()?;
        // What is set aside was needed, or there was enough without it.
        let _ignored = self.store.take_reserve().is_err();
        Ok(())
    }
}
