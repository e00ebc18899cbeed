//! Appending: the part of the log that runs in the commit turn.
//!
//! [`Wal::fits`], [`Wal::append`] and [`Wal::seal`] wait for nothing and return no error. What can fail beforehand is in
//! [`crate::room`], outside the turn. They meet in two places: the populated length of the current file, which only grows,
//! and the queue of ready files, which only the turn takes from.
//!
//! # By store or by call
//!
//! Where groups come faster than syncs, they are stored through the window of the file: a few nanoseconds each, but its pages must be
//! populated, which dirties them, so that syncs write each of them twice, and write-protect them one by one. Where nearly each
//! group is synced, that is dearer than a system call: then groups are written by calls. [`Wal::seal`] begins that, and
//! [`BY_CALL_GROUPS`] groups without a seal end it. A call may fail where a store would not; then the log is
//! poisoned as by a failed sync, and [`Wal::failure`] says so to whoever appended. A writer that is alone will seal its next group, too:
//! that goes out with its pad in one call.

use crate::Options;
use crate::file::{LogFile, Plan, Spare, make};
use crate::format::{
    BLOCK_BYTES, BODY_AT, BODY_BYTES_MIN, FileHeader, GROUP_BYTES_MAX, GROUP_HEADER_BYTES,
    GroupHeader, Identity, MARKER_BYTES, Seed, close, group_room, pad, parse_name, round_up, sign,
    sign_parts, to_usize,
};
use crate::reader::survey;
use crate::room::Making;
use crate::stats::{Counters, WalStats, bump};
use esker_base::sync::{Arc, AtomicBool, AtomicU64, Condvar, Mutex, Ordering};
use esker_base::{CommitNo, Error, Lsn, Result};
use esker_io::Disk;
use std::collections::VecDeque;

/// A group up to this size is put together in the tail's scratch buffer and stored at once; a
/// larger one is stored in parts, since a second copy would cost more than a few calls.
const SCRATCH_BYTES: usize = 16 << 10;

/// So many groups after a seal are written by calls.
const BY_CALL_GROUPS: u32 = 64;
/// After so many seals of one group each, a group is written together with its pad.
const LONE_SEALS: u32 = 4;
/// Larger scratch buffers are not kept.
const SCRATCH_BYTES_KEPT: usize = 1 << 20;

/// The log: shared by all threads.
#[derive(Debug)]
pub struct Wal {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: Options,
    pub(crate) identity: Identity,
    pub(crate) seed: Seed,
    pub(crate) files: Mutex<Files>,
    /// Held while a file is made, syncs included. Taken before `maintenance`.
    pub(crate) making: Mutex<Making>,
    /// Held while files are populated or given back. Taken before `files`.
    pub(crate) maintenance: Mutex<Maintenance>,
    pub(crate) sync: Mutex<crate::commit::SyncState>,
    pub(crate) synced: Condvar,
    /// Everything before it is durable.
    pub(crate) durable: AtomicU64,
    /// The tail's position, for those outside the turn.
    pub(crate) position: AtomicU64,
    /// The position from which [`Wal::upkeep`] has something to do. Written under `files`.
    pub(crate) upkeep_at: AtomicU64,
    /// Groups are written by calls. Changes in the turn only.
    pub(crate) by_call: AtomicBool,
    /// There is a failure in `sync`.
    pub(crate) has_failed: AtomicBool,
    /// Groups are appended faster than zeroes can be written: see [`Making`]. A hint.
    pub(crate) urgent: AtomicBool,
    pub(crate) counters: Counters,
}

/// The files of the log, by position.
#[derive(Debug)]
pub(crate) struct Files {
    /// Not yet released; the last is the current one.
    pub(crate) live: VecDeque<Arc<LogFile>>,
    /// Ready to become the current one. Filled under `making`, emptied in the turn.
    pub(crate) ready: VecDeque<Arc<LogFile>>,
}

impl Files {
    pub(crate) fn current(&self) -> &Arc<LogFile> {
        self.live.back().expect("a log has a current file from the start")
    }

    /// The file that the next one follows.
    pub(crate) fn last(&self) -> &Arc<LogFile> {
        self.ready.back().unwrap_or_else(|| self.current())
    }
}

#[derive(Debug)]
pub(crate) struct Maintenance {
    pub(crate) spares: Vec<Spare>,
    /// Up to where files were given back.
    pub(crate) released: Lsn,
}

/// The right to append, and the position where. Lives in the mutex of the commit turn.
#[derive(Debug)]
pub struct Tail {
    file: Arc<LogFile>,
    position: Lsn,
    scratch: Vec<u8>,
    groups_since_seal: u32,
    /// So many seals in a row had one group before them.
    lone_seals: u32,
}

/// A group in the tail's scratch buffer, for where the tail was: see [`Wal::stage`].
#[derive(Debug)]
pub struct Staged {
    lsn: Lsn,
    bytes: usize,
}

impl Tail {
    /// Where the next group goes, unless it needs another file: everything appended so far lies
    /// before, everything later does not. Good as a start for [`crate::read()`].
    pub fn position(&self) -> Lsn {
        self.position
    }

    fn at(&self) -> u64 {
        self.position.0 - self.file.start.0
    }
}

impl Wal {
    /// Starts a log whose first byte is `start`. Files of other logs are left alone. When this
    /// returns, the first file is durable.
    ///
    /// # Errors
    /// `Invalid` if a file has the incarnation or a name has the sequence already: [`crate::End`]
    /// says which are free. `NotADatabase` or `Format` if there is a file of another database or a
    /// later version. What the disk reports.
    ///
    /// # Panics
    /// If `start` is no multiple of 4 KiB.
    pub fn create(
        disk: Arc<dyn Disk>,
        options: Options,
        first_sequence: u64,
        start: Lsn,
    ) -> Result<(Self, Tail)> {
        assert!(start.0.is_multiple_of(BLOCK_BYTES), "a log starts at a block");
        for found in survey(disk.as_ref(), options.database)? {
            let named = parse_name(&found.name).map_or(0, |name| name.sequence);
            let header = found.header.as_ref().ok();
            // An abandoned log of the same incarnation could later be read for this one.
            if header.is_some_and(|header| header.identity.incarnation == options.incarnation)
                || named >= first_sequence
            {
                return Err(Error::invalid(
                    "log incarnation or sequence in use",
                    format!(
                        "{} is there; asked for incarnation {} from sequence {first_sequence}",
                        found.name, options.incarnation
                    ),
                ));
            }
        }
        let identity = Identity { database: options.database, incarnation: options.incarnation };
        let file_bytes =
            options.first_file_bytes.min(options.file_bytes_max).max(BODY_AT + BODY_BYTES_MIN);
        let plan = Plan {
            header: FileHeader {
                identity,
                sequence: first_sequence,
                start,
                body_bytes: 0,
                durable: start,
            },
            wanted_bytes: round_up(file_bytes, BLOCK_BYTES),
            least_bytes: BODY_AT + BODY_BYTES_MIN,
            populate_bytes: crate::file::POPULATE_BYTES,
            is_urgent: false,
        };
        let file = Arc::new(make(disk.as_ref(), &plan, None)?);
        let making = Mutex::new(Making::new(start, disk.now()));
        let wal = Self {
            disk,
            options,
            identity,
            seed: identity.seed(),
            files: Mutex::new(Files {
                live: VecDeque::from([Arc::clone(&file)]),
                ready: VecDeque::new(),
            }),
            making,
            maintenance: Mutex::new(Maintenance { spares: Vec::new(), released: start }),
            sync: Mutex::default(),
            synced: Condvar::new(),
            durable: AtomicU64::new(start.0),
            position: AtomicU64::new(start.0),
            upkeep_at: AtomicU64::new(start.0),
            by_call: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            urgent: AtomicBool::new(false),
            counters: Counters::default(),
        };
        bump(&wal.counters.files_created, 1);
        wal.plan_upkeep();
        let scratch = Vec::with_capacity(SCRATCH_BYTES);
        Ok((wal, Tail { file, position: start, scratch, groups_since_seal: 0, lone_seals: 0 }))
    }

    /// True if groups are written by calls now. Exact in the turn.
    pub(crate) fn is_by_call(&self) -> bool {
        self.by_call.load(Ordering::Relaxed)
    }

    /// In the turn. True if [`Wal::append`] may be called for a payload of so many bytes, before
    /// the turn ends. No I/O, no waiting, no allocation.
    pub fn fits(&self, tail: &Tail, payload_bytes: usize) -> bool {
        if payload_bytes > GROUP_BYTES_MAX - GROUP_HEADER_BYTES {
            return false;
        }
        let room = group_room(payload_bytes);
        if tail.file.holds(tail.at(), room) {
            return self.is_by_call() || tail.file.is_populated(tail.at(), room);
        }
        let files = self.files.lock();
        // The first that is large enough is the one that `switch` will end at.
        files
            .ready
            .iter()
            .find(|file| file.holds(0, room))
            .is_some_and(|file| self.is_by_call() || file.is_populated(0, room))
    }

    /// In the turn, after [`Wal::fits`]. Copies a group into the file and returns the LSN just
    /// after it: when that is durable, the group is. Whether it is in the log at all, [`Wal::failure`] says.
    ///
    /// # Panics
    /// If it does not fit.
    pub fn append(&self, tail: &mut Tail, commit: CommitNo, payload: &[&[u8]]) -> Lsn {
        let payload_bytes = payload.iter().map(|part| part.len()).sum::<usize>();
        assert!(payload_bytes <= GROUP_BYTES_MAX - GROUP_HEADER_BYTES, "make_room refuses this");
        let bytes = GROUP_HEADER_BYTES + payload_bytes;
        let room = group_room(payload_bytes);
        let by_call = self.is_by_call();
        // The tail stays where the first group that was lost would begin.
        let lost = |tail: &Tail| Lsn(tail.position.0 + room);
        if by_call && self.has_failed.load(Ordering::Acquire)
            || !tail.file.holds(tail.at(), room) && !self.switch(tail, room)
        {
            return lost(tail);
        }
        assert!(by_call || tail.file.is_populated(tail.at(), room), "append without fits");

        let lsn = tail.position;
        let mut end = Lsn(lsn.0 + room);
        if by_call || bytes <= SCRATCH_BYTES - GROUP_HEADER_BYTES {
            self.put_together(tail, commit, bytes, payload);
            if by_call {
                let group_end = end;
                end = self.pad_if_lone(tail, end);
                if !self.write_group(tail, group_end) {
                    return lost(tail);
                }
            } else {
                tail.file.window.store(tail.at(), &tail.scratch);
            }
        } else {
            // The process may die in between: then the checksum does not fit, and the group is
            // torn.
            let mut header = self.header(tail, commit, bytes).encode();
            sign_parts(self.seed, lsn, &mut header, payload);
            let mut at = tail.at();
            for part in [&header[..]].iter().chain(payload) {
                tail.file.window.store(at, part);
                at += part.len() as u64;
            }
            let gap = [0; MARKER_BYTES];
            tail.file.window.store(at, &gap[..to_usize(room) - bytes]);
        }
        self.appended(tail, bytes, end);
        if by_call && tail.groups_since_seal > BY_CALL_GROUPS {
            self.by_call.store(false, Ordering::Relaxed);
            // What comes needs populated pages.
            self.upkeep_at.store(end.0, Ordering::Release);
        }
        end
    }

    /// In the turn, after [`Wal::fits`]: puts the group of a payload together, checksum and all, but does not append it. Who has
    /// asked for lines of memory can do that until they arrive. `None` if it is not worth it.
    pub fn stage(&self, tail: &mut Tail, commit: CommitNo, payload: &[u8]) -> Option<Staged> {
        let bytes = GROUP_HEADER_BYTES + payload.len();
        let room = group_room(payload.len());
        let is_small = bytes <= SCRATCH_BYTES - GROUP_HEADER_BYTES;
        if !is_small || self.is_by_call() || !tail.file.holds(tail.at(), room) {
            return None;
        }
        self.put_together(tail, commit, bytes, &[payload]);
        Some(Staged { lsn: tail.position, bytes })
    }

    /// As [`Wal::append`], of what was staged just now, in the same turn.
    ///
    /// # Panics
    /// If something was appended since, or it does not fit.
    pub fn append_staged(&self, tail: &mut Tail, staged: &Staged) -> Lsn {
        let (at, room) = (tail.at(), tail.scratch.len() as u64);
        assert!(staged.lsn == tail.position, "staged for another place");
        assert!(tail.file.is_populated(at, room), "append without fits");
        tail.file.window.store(at, &tail.scratch);
        self.appended(tail, staged.bytes, Lsn(staged.lsn.0 + room))
    }

    fn header(&self, tail: &Tail, commit: CommitNo, bytes: usize) -> GroupHeader {
        #[expect(clippy::cast_possible_truncation, reason = "at most GROUP_BYTES_MAX")]
        let bytes = bytes as u32;
        GroupHeader { bytes, lsn: tail.position, commit, durable: self.durable() }
    }

    /// Fills the scratch buffer with a group of so many bytes, for where the tail is.
    fn put_together(&self, tail: &mut Tail, commit: CommitNo, bytes: usize, payload: &[&[u8]]) {
        let header = self.header(tail, commit, bytes).encode();
        tail.scratch.clear();
        tail.scratch.extend_from_slice(&header);
        for part in payload {
            tail.scratch.extend_from_slice(part);
        }
        sign(self.seed, tail.position, &mut tail.scratch);
        tail.scratch.resize(to_usize(group_room(bytes - GROUP_HEADER_BYTES)), 0);
    }

    /// A group of so many bytes is there; the next one goes to `end`.
    fn appended(&self, tail: &mut Tail, bytes: usize, end: Lsn) -> Lsn {
        bump(&self.counters.bytes, bytes as u64);
        bump(&self.counters.groups, 1);
        tail.groups_since_seal += 1;
        self.move_to(tail, end)
    }

    /// Adds the pad to the group in the scratch buffer, which ends at `end`, if it is likely to be sealed alone. Returns where it
    /// ends then.
    fn pad_if_lone(&self, tail: &mut Tail, end: Lsn) -> Lsn {
        let is_likely = tail.lone_seals >= LONE_SEALS && tail.groups_since_seal == 0;
        if !is_likely || end.0.is_multiple_of(BLOCK_BYTES) {
            return end;
        }
        tail.scratch.extend_from_slice(&pad(self.seed, end));
        Lsn(round_up(end.0, BLOCK_BYTES))
    }

    /// Writes what is in the scratch buffer, a group that ends at `group_end`, with a call. A block that it is the first in is
    /// written whole, so that the system need not read what was there.
    fn write_group(&self, tail: &mut Tail, group_end: Lsn) -> bool {
        let (at, room) = (tail.at(), tail.scratch.len() as u64);
        let end = round_up(at + room, BLOCK_BYTES);
        if at.is_multiple_of(BLOCK_BYTES) || at / BLOCK_BYTES != (at + room - 1) / BLOCK_BYTES {
            tail.scratch.resize(to_usize(end - at), 0);
        }
        let written = self.write(&tail.file, at, &tail.scratch, group_end);
        if tail.scratch.capacity() > SCRATCH_BYTES_KEPT {
            tail.scratch = Vec::with_capacity(SCRATCH_BYTES);
        }
        written
    }

    /// In the turn. False if it failed, now or before: after a failure nothing is written any more, since what would come
    /// behind it must not be found without it.
    fn write(&self, file: &LogFile, at: u64, data: &[u8], end: Lsn) -> bool {
        if self.has_failed.load(Ordering::Acquire) {
            return false;
        }
        let written = file.file.write_at(BODY_AT + at, data);
        written.inspect_err(|error| self.fail(error.to_string(), end)).is_ok()
    }

    /// Puts a marker where the tail is; false if that failed.
    fn mark(&self, tail: &Tail, marker: &[u8]) -> bool {
        if tail.file.is_block_populated(tail.at()) {
            tail.file.window.store(tail.at(), marker);
            return true;
        }
        self.write(&tail.file, tail.at(), marker, tail.position)
    }

    /// In the turn: pads to a multiple of 4 KiB, so that what was appended so far can become
    /// durable without its blocks ever being written again (W5). Returns the position.
    pub fn seal(&self, tail: &mut Tail) -> Lsn {
        let end = round_up(tail.position.0, BLOCK_BYTES);
        if end != tail.position.0 && !self.mark(tail, &pad(self.seed, tail.position)) {
            return tail.position;
        }
        tail.lone_seals = if tail.groups_since_seal == 1 { tail.lone_seals + 1 } else { 0 };
        tail.groups_since_seal = 0;
        self.by_call.store(true, Ordering::Relaxed);
        self.move_to(tail, Lsn(end))
    }

    /// Everything before it is durable.
    pub fn durable(&self) -> Lsn {
        Lsn(self.durable.load(Ordering::Acquire))
    }

    /// Where the tail was a moment ago; exact in the turn.
    pub fn position(&self) -> Lsn {
        Lsn(self.position.load(Ordering::Acquire))
    }

    /// Figures since the log was created.
    pub fn stats(&self) -> WalStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        let files = self.files.lock();
        let in_use = files.live.iter().chain(&files.ready).map(|file| file.file_bytes());
        WalStats {
            bytes: get(&counters.bytes),
            groups: get(&counters.groups),
            syncs: get(&counters.syncs),
            synced_groups: get(&counters.synced_groups),
            synced_groups_max: get(&counters.synced_groups_max),
            sync_ns: get(&counters.sync_ns),
            sync_ns_max: get(&counters.sync_ns_max),
            files: files.live.len() as u64,
            ready_files: files.ready.len() as u64,
            spare_files: get(&counters.spare_files),
            disk_bytes: in_use.sum::<u64>() + get(&counters.spare_bytes),
            files_created: get(&counters.files_created),
            files_recycled: get(&counters.files_recycled),
        }
    }

    fn move_to(&self, tail: &mut Tail, position: Lsn) -> Lsn {
        tail.position = position;
        self.position.store(position.0, Ordering::Release);
        position
    }

    /// Goes on in the next ready file that holds `room` bytes. Files too small for it stay empty. False if this one could not be
    /// closed.
    #[cold]
    fn switch(&self, tail: &mut Tail, room: u64) -> bool {
        let mut files = self.files.lock();
        while !tail.file.holds(tail.at(), room) {
            if !self.mark(tail, &close(self.seed, tail.position)) {
                return false;
            }
            let next = files.ready.pop_front().expect("append after fits: a ready file is there");
            tail.file = Arc::clone(&next);
            self.move_to(tail, next.start);
            // There is capacity: reserved when the file was made ready.
            files.live.push_back(next);
        }
        self.upkeep_at.store(tail.position.0, Ordering::Release);
        true
    }
}
