//! Everything that a simulated disk is, behind its one lock.

use super::crash::{self, CrashKind};
use super::fault::{ENOSPC, Fault, OpKind};
use super::inode::{Change, Inode};
use super::names::{InodeNo, NameChange, Names};
use super::pages::PAGE_BYTES;
use super::rng::{Rng, mix};
use crate::answers::Answering;
use esker_base::{Error, Result};
use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

/// How far the clock moves per operation.
const TICK: Duration = Duration::from_micros(1);

#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) names: Names,
    pub(super) inodes: BTreeMap<InodeNo, Inode>,
    next_inode: InodeNo,
    seq: u64,
    pub(super) locked: bool,
    pub(super) rng: Rng,
    pub(super) now: Duration,

    /// Changes that were begun and have not returned, by the number of their operation.
    pub(super) in_flight: BTreeMap<u64, (InodeNo, Change)>,
    /// Mutating operations begun.
    pub(super) operations: u64,
    pub(super) trace: u64,

    pub(super) faults: Vec<Fault>,
    /// Operations that a fault made fail.
    pub(super) faults_met: u64,
    pub(super) capacity_bytes: Option<u64>,
    pub(super) answering: Answering,
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            names: Names::default(),
            inodes: BTreeMap::new(),
            next_inode: 1,
            seq: 0,
            locked: false,
            rng: Rng::new(seed),
            now: Duration::ZERO,
            in_flight: BTreeMap::new(),
            operations: 0,
            trace: seed,
            faults: Vec::new(),
            faults_met: 0,
            capacity_bytes: None,
            answering: Answering::default(),
        }
    }

    /// Adds to the trace and moves the clock.
    pub(super) fn note(&mut self, op: &str, file: &str, numbers: [u64; 2], data: &[u8]) {
        self.now += TICK;
        let mut hash = mix(self.trace ^ hash_bytes(op.as_bytes()));
        hash = mix(hash ^ hash_bytes(file.as_bytes()));
        for number in numbers {
            hash = mix(hash ^ number);
        }
        self.trace = mix(hash ^ hash_bytes(data));
    }

    /// Fails if a fault is due for this operation.
    pub(super) fn fault(&mut self, kind: OpKind, op: &'static str, file: &str) -> Result<()> {
        let mut due = None;
        // Each rule counts the operation, also when another one makes it fail.
        for fault in &mut self.faults {
            if fault.meets(kind, file) {
                due = Some(fault.io_error());
            }
        }
        self.faults_met += u64::from(due.is_some());
        due.map_or(Ok(()), |error| Err(Error::from_io(op, file, 0, error)))
    }

    pub(super) fn inode(&mut self, number: InodeNo) -> &mut Inode {
        self.inodes.get_mut(&number).expect("an open file keeps its contents")
    }

    pub(super) fn create(&mut self, name: &str) -> InodeNo {
        let inode = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(inode, Inode::default());
        self.change_names(NameChange::Link { name: name.to_owned(), inode });
        inode
    }

    pub(super) fn change_names(&mut self, change: NameChange) {
        self.names.change(&mut self.seq, change);
    }

    /// Does a change, or as much of it as fits the capacity.
    pub(super) fn change(
        &mut self,
        number: InodeNo,
        op: &'static str,
        file: &str,
        change: Change,
    ) -> Result<()> {
        let fits = self.fitting_bytes(number, &change);
        let wanted = change.range().map_or(0, |(_, bytes)| bytes);
        let cut = (fits < wanted).then(|| change.cut(fits));
        let inode = self.inodes.get_mut(&number).expect("an open file keeps its contents");
        if let Some(cut) = cut {
            inode.change(&mut self.seq, cut);
            let error = io::Error::from_raw_os_error(ENOSPC);
            return Err(Error::from_io(op, file, 0, error));
        }
        inode.change(&mut self.seq, change);
        Ok(())
    }

    /// Does a part of a change, as a failed write does.
    pub(super) fn change_in_part(&mut self, number: InodeNo, change: &Change) {
        let Some((_, bytes)) = change.range() else { return };
        let done = self.rng.below(bytes + 1).min(self.fitting_bytes(number, change));
        let inode = self.inodes.get_mut(&number).expect("an open file keeps its contents");
        inode.change(&mut self.seq, change.cut(done));
    }

    /// How many bytes of a change of data there is room for.
    fn fitting_bytes(&self, number: InodeNo, change: &Change) -> u64 {
        let Some((offset, bytes)) = change.range() else { return 0 };
        let Some(capacity) = self.capacity_bytes else { return bytes };
        let free_pages = capacity.saturating_sub(self.used_bytes()) / PAGE_BYTES as u64;
        let pages = &self.inodes[&number].live.pages;
        if pages.missing(offset, bytes) <= free_pages {
            return bytes;
        }
        let mut left = free_pages;
        for page in super::pages::pages_of(offset, bytes) {
            if pages.page(page).is_none() {
                if left == 0 {
                    return (page * PAGE_BYTES as u64).saturating_sub(offset);
                }
                left -= 1;
            }
        }
        bytes
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.inodes.values().map(Inode::allocated_bytes).sum()
    }

    /// Frees the contents of files that nothing can reach any more.
    pub(super) fn reap(&mut self) {
        let names = &self.names;
        self.inodes.retain(|number, inode| inode.handles > 0 || names.refer_to(*number));
    }

    /// The disk after a crash. What was in flight arrived, did not, or in part.
    pub(super) fn after_crash(&self, kind: CrashKind, seed: u64) -> Self {
        let mut left = self.clone();
        left.rng = Rng::new(mix(seed ^ 0x6372_6173_685f_6b64));
        for (number, change) in std::mem::take(&mut left.in_flight).into_values() {
            let Some((_, bytes)) = change.range() else { continue };
            let done = match left.rng.below(3) {
                0 => 0,
                1 => bytes,
                _ => left.rng.below(bytes + 1),
            }
            .min(left.fitting_bytes(number, &change));
            if let Some(inode) = left.inodes.get_mut(&number) {
                inode.change(&mut left.seq, change.cut(done));
            }
        }
        for inode in left.inodes.values_mut() {
            inode.handles = 0;
        }
        if kind != CrashKind::Kill {
            crash::crash(kind, &mut left.rng, &mut left.names, &mut left.inodes);
        }
        left.reap();
        left.locked = false;
        left.operations = 0;
        left.trace = seed;
        left.faults.clear();
        left.faults_met = 0;
        left
    }
}

/// A hash for traces: eight bytes at a time, the length first.
fn hash_bytes(data: &[u8]) -> u64 {
    let (words, rest) = data.as_chunks::<8>();
    let mut hash = data.len() as u64;
    for word in words {
        hash =
            (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    for &byte in rest {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    mix(hash)
}
