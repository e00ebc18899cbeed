//! Room in the log: preparing files, populating ahead, recycling. Everything here runs outside the
//! turn and may take its time or fail; either way the log stays as good as it was.

use crate::file::{LogFile, POPULATE_BYTES, Plan, Spare, make};
use crate::format::{
    BLOCK_BYTES, BODY_AT, CLOSE_ROOM_BYTES, FileHeader, GROUP_BYTES_MAX, GROUP_HEADER_BYTES,
    group_room, round_up,
};
use crate::stats::bump;
use crate::writer::{Files, Maintenance, Wal};
use esker_base::sync::{Arc, MutexGuard, Ordering};
use esker_base::{Error, Lsn, Result};
use std::time::Duration;

/// Released files kept for reuse, however little is written.
const SPARES_MIN: usize = 2;
/// A file smaller than this, or than a quarter of the usual size, is not worth making: on a full disk, tries would eat what is left bit by
/// bit.
const FILE_BYTES_MIN: u64 = 256 << 10;
/// How far ahead of the tail the log is populated, once half of that is left,
const POPULATE_AHEAD_BYTES: u64 = 4 << 20;
/// and how far where groups come fast: more milliseconds of a load than a thread waits for a processor, or a new file takes.
const POPULATE_AHEAD_BYTES_URGENT: u64 = 16 << 20;
/// Each file is so many times as large as the one before,
const GROWTH: u64 = 4;
/// and where groups come fast. A load meets few small ones, each of which takes a sync to make.
const GROWTH_URGENT: u64 = 16;
/// Who appends faster than this gets files without zeroes. Durable commits of many threads stay below; zeroes are written at
/// some 500 MB/s where nothing else uses the device.
const URGENT_BYTES_PER_SECOND: u64 = 64 << 20;

/// When and where the tail was when a file was last made.
#[derive(Debug)]
pub(crate) struct Making {
    at: Duration,
    position: Lsn,
}

impl Making {
    pub(crate) fn new(position: Lsn, at: Duration) -> Self {
        Self { at, position }
    }

    /// True if the tail has moved fast since this was last asked.
    fn is_urgent(&mut self, position: Lsn, now: Duration) -> bool {
        let taken = now.saturating_sub(self.at).as_micros();
        let bytes = position.0.saturating_sub(self.position.0);
        *self = Self::new(position, now);
        u128::from(bytes) * 1_000_000 > u128::from(URGENT_BYTES_PER_SECOND) * taken
    }
}

impl Wal {
    /// Outside the turn: makes room for a group of so many bytes; [`Wal::fits`] then says yes,
    /// unless others have taken it. May write and sync.
    ///
    /// # Errors
    /// `TooLarge`; `NoSpace`, `TooManyFiles` or `Io` if a file cannot be made ready. The log stays
    /// usable, and a later call may succeed.
    pub fn make_room(&self, payload_bytes: usize) -> Result<()> {
        const LIMIT: usize = GROUP_BYTES_MAX - GROUP_HEADER_BYTES;
        if payload_bytes > LIMIT {
            return Err(Error::TooLarge { bytes: payload_bytes as u64, limit_bytes: LIMIT as u64 });
        }
        let room = group_room(payload_bytes);
        if !self.populate_for(room)? {
            self.prepare(&mut self.making.lock(), room)?;
        }
        self.plan_upkeep();
        Ok(())
    }

    /// Populates where a group of `room` bytes would go; false if no file holds it.
    fn populate_for(&self, room: u64) -> Result<bool> {
        let _maintenance = self.maintenance.lock();
        let (current, at, ready) = {
            let files = self.files.lock();
            let (current, at) = self.current_of(&files);
            let ready = files.ready.iter().find(|file| file.holds(0, room)).map(Arc::clone);
            (current, at, ready)
        };
        if current.holds(at, room) {
            current.populate(at, at + room + CLOSE_ROOM_BYTES + POPULATE_BYTES)?;
        } else if let Some(ready) = ready {
            ready.populate(0, room + CLOSE_ROOM_BYTES)?;
        } else {
            return Ok(false);
        }
        Ok(true)
    }

    /// Work ahead of the tail, for a background thread: populates a stretch of the current file or the next one, makes the next file
    /// ready. True if there was something to do, and may be more. Call it when [`Wal::upkeep_due`] says so.
    ///
    /// # Errors
    /// As [`Wal::make_room`].
    pub fn upkeep(&self) -> Result<bool> {
        let (mut worked, is_next_due) = {
            let _maintenance = self.maintenance.lock();
            let (current, at, ready) = {
                let files = self.files.lock();
                let (current, at) = self.current_of(&files);
                (current, at, files.ready.front().map(Arc::clone))
            };
            current.settle(Lsn(current.start.0 + at));
            let mut worked = false;
            if !self.is_by_call() {
                // A step at a time: who waits for room gets it after the next.
                let end = at + self.populate_ahead_bytes();
                worked = current.populate_step(at, end)?;
                if let Some(ready) = ready.as_ref().filter(|_| !worked) {
                    worked = ready.populate_step(0, end.saturating_sub(current.body_bytes))?;
                }
            }
            (worked, ready.is_none() && at >= self.prepare_at(&current))
        };
        // Unless somebody is making one just now.
        if is_next_due && let Some(mut making) = self.making.try_lock() {
            self.prepare(&mut making, 0)?;
            worked = true;
        }
        self.plan_upkeep();
        Ok(worked)
    }

    /// How far ahead of the tail the log should be populated.
    fn populate_ahead_bytes(&self) -> u64 {
        if self.is_urgent() { POPULATE_AHEAD_BYTES_URGENT } else { POPULATE_AHEAD_BYTES }
    }

    /// The offset in a file from which the next one should be made.
    fn prepare_at(&self, current: &LogFile) -> u64 {
        if self.is_urgent() { 0 } else { current.body_bytes / 2 }
    }

    /// True if the last file was needed sooner than zeroes could be written.
    fn is_urgent(&self) -> bool {
        self.urgent.load(Ordering::Relaxed)
    }

    /// True if [`Wal::upkeep`] would do something. Costs two loads; meant for after each append.
    pub fn upkeep_due(&self) -> bool {
        self.position.load(Ordering::Relaxed) >= self.upkeep_at.load(Ordering::Relaxed)
    }

    /// Gives back the files wholly before `lsn`, which a durable checkpoint no longer needs. What
    /// is not durable yet and the current file stay.
    ///
    /// # Errors
    /// `Io` if a file cannot be removed; the next call tries again.
    pub fn release_before(&self, lsn: Lsn) -> Result<()> {
        let mut maintenance = self.maintenance.lock();
        {
            let mut files = self.files.lock();
            // A file that a sync is still to reach stays until then.
            let limit = lsn.min(self.durable());
            while files.live.len() > 1 && files.live[0].end() <= limit {
                let file = files.live.pop_front().expect("just seen");
                maintenance.spares.push(Spare {
                    name: file.name.clone(),
                    file: Arc::clone(&file.file),
                    file_bytes: file.file_bytes(),
                });
            }
        }
        let stretch = lsn.0.saturating_sub(maintenance.released.0);
        maintenance.released = maintenance.released.max(lsn);
        let trimmed = self.trim(&mut maintenance, stretch);
        self.count_spares(&maintenance);
        trimmed
    }

    /// Removes the files kept for reuse: their space is needed elsewhere.
    ///
    /// # Errors
    /// `Io` if a file cannot be removed.
    pub fn give_up_spares(&self) -> Result<()> {
        let mut maintenance = self.maintenance.lock();
        while let Some(spare) = maintenance.spares.pop() {
            self.disk.remove(&spare.name)?;
        }
        self.count_spares(&maintenance);
        Ok(())
    }

    /// Keeps the largest spares that are not beyond the usual size, and removes the others. As many
    /// stay as the last stretch between two releases took: the next one will take about as much,
    /// and each file that must be made anew is written twice. Removals need not be durable: files
    /// before the place where reading starts count for nothing.
    fn trim(&self, maintenance: &mut Maintenance, stretch: u64) -> Result<()> {
        let limit = self.options.file_bytes_max;
        let spares = &mut maintenance.spares;
        spares.sort_by_key(|spare| (spare.file_bytes <= limit, spare.file_bytes));
        let mut bytes: u64 = spares.iter().map(|spare| spare.file_bytes).sum();
        while let Some(first) = spares.first() {
            let few = spares.len() <= SPARES_MIN || bytes <= stretch;
            if first.file_bytes <= limit && few {
                break;
            }
            self.disk.remove(&first.name)?;
            bytes -= first.file_bytes;
            spares.remove(0);
        }
        Ok(())
    }

    /// Makes a file ready that follows the last one and holds a group of `room` bytes, unless there is one. Takes long (it
    /// syncs), so whoever needs only the next stretch of the current file does not wait for it.
    fn prepare(&self, making: &mut MutexGuard<'_, Making>, room: u64) -> Result<()> {
        let last = {
            let files = self.files.lock();
            if files.ready.iter().any(|file| file.holds(0, room)) {
                return Ok(());
            }
            Arc::clone(files.last())
        };
        let is_urgent = making.is_urgent(self.position(), self.disk.now());
        self.urgent.store(is_urgent, Ordering::Relaxed);
        let usual = self.usual_bytes(&last);
        let least_bytes = BODY_AT + round_up(room.max(1), BLOCK_BYTES) + CLOSE_ROOM_BYTES;
        // Whole blocks: the header of a file of another length is not taken for one.
        let worth_bytes = round_up((usual / 4).min(FILE_BYTES_MIN), BLOCK_BYTES);
        let least_bytes = least_bytes.max(worth_bytes);
        let plan = Plan {
            header: FileHeader {
                identity: self.identity,
                sequence: last.sequence + 1,
                start: last.end(),
                body_bytes: 0,
                durable: self.durable(),
            },
            wanted_bytes: round_up(usual.max(least_bytes), BLOCK_BYTES),
            least_bytes,
            populate_bytes: (room + CLOSE_ROOM_BYTES).max(POPULATE_BYTES),
            is_urgent,
        };
        let spare = {
            let mut maintenance = self.maintenance.lock();
            let spare = maintenance.spares.pop();
            self.count_spares(&maintenance);
            spare
        };
        let counter = match spare {
            Some(_) => &self.counters.files_recycled,
            None => &self.counters.files_created,
        };
        let made = Arc::new(make(self.disk.as_ref(), &plan, spare)?);
        bump(counter, 1);
        let mut files = self.files.lock();
        files.ready.push_back(made);
        // So that the turn does not allocate when it takes them.
        let ready = files.ready.len();
        files.live.reserve(ready);
        Ok(())
    }

    /// The current file and the tail's offset in its body, a moment ago.
    fn current_of(&self, files: &Files) -> (Arc<LogFile>, u64) {
        let current = Arc::clone(files.current());
        // The file changes under the lock that the caller holds; the position may have moved within
        // it.
        let at = self.position().0 - current.start.0;
        (current, at)
    }

    /// Says when there will next be something to do.
    pub(crate) fn plan_upkeep(&self) {
        let files = self.files.lock();
        let current = files.current();
        let mut at = u64::MAX;
        if !self.is_by_call() {
            // The first file that is not populated to its end.
            let ahead = [Some(current), files.ready.front()];
            let mut partly =
                ahead.iter().flatten().filter(|file| file.populated() < file.body_bytes);
            if let Some(file) = partly.next() {
                let left = self.populate_ahead_bytes() / 2;
                at = at.min((file.start.0 + file.populated() + 1).saturating_sub(left));
            }
        }
        if files.ready.is_empty() {
            at = at.min(current.start.0 + self.prepare_at(current));
        }
        self.upkeep_at.store(at, Ordering::Release);
    }

    /// Bytes that the next file takes beside what there is; 0 while one is ready.
    pub fn next_file_bytes(&self) -> u64 {
        let spare = self.maintenance.lock().spares.last().map_or(0, |spare| spare.file_bytes);
        let files = self.files.lock();
        if !files.ready.is_empty() {
            return 0;
        }
        self.usual_bytes(files.last()).saturating_sub(spare)
    }

    fn usual_bytes(&self, last: &LogFile) -> u64 {
        let growth = if self.is_urgent() { GROWTH_URGENT } else { GROWTH };
        (last.file_bytes() * growth).min(self.options.file_bytes_max)
    }

    fn count_spares(&self, maintenance: &Maintenance) {
        let spares = &maintenance.spares;
        let bytes = spares.iter().map(|spare| spare.file_bytes).sum();
        self.counters.spare_files.store(spares.len() as u64, Ordering::Relaxed);
        self.counters.spare_bytes.store(bytes, Ordering::Relaxed);
    }
}
