//! Appending: the part of the log that runs in the commit turn.
//!
//! [`Wal::fits`], [`Wal::append`] and [`Wal::seal`] do no I/O, wait for nothing and cannot fail.
//! What can is in [`crate::room`], outside the turn. They meet in two places: the populated length
//! of the current file, which only grows, and the queue of ready files, which only the turn takes
//! from.

use crate::Options;
use crate::file::{LogFile, Plan, Spare, make};
use crate::format::{
    BLOCK_BYTES, BODY_AT, BODY_BYTES_MIN, FileHeader, GROUP_BYTES_MAX, GROUP_HEADER_BYTES,
    GroupHeader, Identity, MARKER_BYTES, close, group_room, pad, parse_name, round_up, sign,
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

/// The log: shared by all threads.
#[derive(Debug)]
pub struct Wal {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: Options,
    pub(crate) identity: Identity,
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
            urgent: AtomicBool::new(false),
            counters: Counters::default(),
        };
        bump(&wal.counters.files_created, 1);
        wal.plan_upkeep();
        let scratch = Vec::with_capacity(SCRATCH_BYTES);
        Ok((wal, Tail { file, position: start, scratch }))
    }

    /// In the turn. True if [`Wal::append`] may be called for a payload of so many bytes, before
    /// the turn ends. No I/O, no waiting, no allocation.
    pub fn fits(&self, tail: &Tail, payload_bytes: usize) -> bool {
        if payload_bytes > GROUP_BYTES_MAX - GROUP_HEADER_BYTES {
            return false;
        }
        let room = group_room(payload_bytes);
        if tail.file.holds(tail.at(), room) {
            return tail.file.is_populated(tail.at(), room);
        }
        let files = self.files.lock();
        // The first that is large enough is the one that `switch` will end at.
        files
            .ready
            .iter()
            .find(|file| file.holds(0, room))
            .is_some_and(|file| file.is_populated(0, room))
    }

    /// In the turn, after [`Wal::fits`]. Copies a group into the window and returns the LSN just
    /// after it: when that is durable, the group is.
    ///
    /// # Panics
    /// If it does not fit.
    pub fn append(&self, tail: &mut Tail, commit: CommitNo, payload: &[&[u8]]) -> Lsn {
        let payload_bytes = payload.iter().map(|part| part.len()).sum::<usize>();
        assert!(payload_bytes <= GROUP_BYTES_MAX - GROUP_HEADER_BYTES, "make_room refuses this");
        let bytes = GROUP_HEADER_BYTES + payload_bytes;
        let room = group_room(payload_bytes);
        if !tail.file.holds(tail.at(), room) {
            self.switch(tail, room);
        }
        assert!(tail.file.is_populated(tail.at(), room), "append without fits");

        let lsn = tail.position;
        #[expect(clippy::cast_possible_truncation, reason = "at most GROUP_BYTES_MAX")]
        let header = GroupHeader { bytes: bytes as u32, lsn, commit, durable: self.durable() };
        let mut header = header.encode();
        if bytes <= SCRATCH_BYTES - GROUP_HEADER_BYTES {
            tail.scratch.clear();
            tail.scratch.extend_from_slice(&header);
            for part in payload {
                tail.scratch.extend_from_slice(part);
            }
            sign(self.identity, lsn, &mut tail.scratch);
            tail.scratch.resize(to_usize(room), 0);
            tail.file.window.store(tail.at(), &tail.scratch);
        } else {
            // The process may die in between: then the checksum does not fit, and the group is
            // torn.
            sign_parts(self.identity, lsn, &mut header, payload);
            let mut at = tail.at();
            for part in [&header[..]].iter().chain(payload) {
                tail.file.window.store(at, part);
                at += part.len() as u64;
            }
            let gap = [0; MARKER_BYTES];
            tail.file.window.store(at, &gap[..to_usize(room) - bytes]);
        }
        bump(&self.counters.bytes, bytes as u64);
        bump(&self.counters.groups, 1);
        self.move_to(tail, Lsn(lsn.0 + room))
    }

    /// In the turn: pads to a multiple of 4 KiB, so that what was appended so far can become
    /// durable without its blocks ever being written again (W5). Returns the position.
    pub fn seal(&self, tail: &mut Tail) -> Lsn {
        let end = round_up(tail.position.0, BLOCK_BYTES);
        if end != tail.position.0 {
            // Populated, since the block holds the end of a group.
            tail.file.window.store(tail.at(), &pad(self.identity, tail.position));
        }
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

    /// Goes on in the next ready file that holds `room` bytes. Files too small for it stay empty.
    #[cold]
    fn switch(&self, tail: &mut Tail, room: u64) {
        let mut files = self.files.lock();
        while !tail.file.holds(tail.at(), room) {
            tail.file.window.store(tail.at(), &close(self.identity, tail.position));
            let next = files.ready.pop_front().expect("append after fits: a ready file is there");
            tail.file = Arc::clone(&next);
            self.move_to(tail, next.start);
            // There is capacity: reserved when the file was made ready.
            files.live.push_back(next);
        }
        self.upkeep_at.store(tail.position.0, Ordering::Release);
    }
}
