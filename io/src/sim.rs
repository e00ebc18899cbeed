//! A disk in memory that crashes, tears, forgets and fails on cue, from a seed.
//!
//! ```text
//!  names:   live ──── pending link / unlink / rename ────▶ durable     (sync_dir)
//!  file:    live ──── pending write / length ────────────▶ durable     (sync, this file only)
//!                              │
//!                   crash_clone(kind, seed): durable plus a legal choice of what is pending
//! ```
//!
//! Syncing a file does not make its name durable: the strict reading of POSIX; real file systems are
//! kinder. All bytes are in copy-on-write pages, so a crash clone copies pointers and what is pending,
//! and a test can take one before each operation of a run ([`SimDisk::on_operation`]).
//!
//! The clock moves a microsecond per operation; randomness and the order of [`Disk::list`] come from
//! the seed. So two runs with one seed that ask for the same operations have the same
//! [`SimDisk::trace_hash`].
//!
//! # Failed syncs
//!
//! An injected failure of [`File::sync`] drops what was written since the last sync: it still reads
//! back, the next sync succeeds, and no crash leaves any of it, until something is written to the same
//! 512-byte sector again. Linux does so. Lengths and names are not dropped.
//!
//! # Not simulated
//!
//! Directories in directories, latencies, and writes that a device acknowledges at a sync and loses all the
//! same ([`SimDisk::copy_sector`] from an older clone makes such a state).

mod crash;
mod fault;
mod file;
mod inode;
mod names;
mod pages;
mod rng;
mod state;
#[cfg(test)]
mod tests;

pub use crash::CrashKind;
pub use fault::{Fault, FaultError, OpKind};

use crate::answers::Answers;
use crate::name;
use crate::{Disk, File, Lock, OpenMode, ReadRequest};
use esker_base::sync::{Arc, Mutex, MutexGuard};
use esker_base::{Error, Result};
use file::SimFile;
use inode::Change;
use names::{InodeNo, NameChange};
use pages::SECTOR_BYTES;
use state::State;
use std::fmt;
use std::time::Duration;

/// What [`SimDisk::on_operation`] calls: with the number of operations before, and the disk.
pub type Hook = Box<dyn FnMut(u64, &SimDisk) + Send>;

/// A simulated disk. Clones are the same disk; [`SimDisk::crash_clone`] makes another one.
#[derive(Clone)]
pub struct SimDisk {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// Absent while it runs, so that what it does to the disk does not call it again.
    hook: Mutex<Option<Hook>>,
}

#[derive(Debug)]
struct SimLock(SimDisk);

impl SimDisk {
    /// An empty disk whose randomness comes from `seed`.
    pub fn new(seed: u64) -> Self {
        Self::from_state(State::new(seed))
    }

    fn from_state(state: State) -> Self {
        Self { shared: Arc::new(Shared { state: Mutex::new(state), hook: Mutex::new(None) }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock()
    }

    /// The disk as the machine would find it after a crash at this moment. `seed` decides what the
    /// kind leaves open. This disk is not changed, and the two share no further fate.
    ///
    /// The new disk is not locked and has no faults and no hook; its capacity is the same, and its
    /// operation counter and trace start anew.
    #[must_use]
    pub fn crash_clone(&self, kind: CrashKind, seed: u64) -> Self {
        Self::from_state(self.state().after_crash(kind, seed))
    }

    /// Number of changes that a power loss now may lose; see [`CrashKind::SingleDrop`].
    pub fn pending_count(&self) -> u64 {
        let state = self.state();
        let contents: usize = state.inodes.values().map(|inode| inode.pending.len()).sum();
        (contents + state.names.pending.len()) as u64
    }

    /// Makes operations fail from now on.
    pub fn inject(&self, fault: Fault) {
        self.state().faults.push(fault);
    }

    /// Takes all injected faults away.
    pub fn clear_faults(&self) {
        self.state().faults.clear();
    }

    /// Operations that injected faults have made fail so far.
    pub fn faults_met(&self) -> u64 {
        self.state().faults_met
    }

    /// What files say of stretches that are about to be read.
    pub fn answer_residence(&self, answers: Answers) {
        self.state().answering.answers = answers;
    }

    /// Limits what all files together take, in pages of 4096 bytes; writes that need more fail with
    /// [`Error::NoSpace`] after a part. Nothing is taken from files that are larger already.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.state().capacity_bytes = bytes;
    }

    /// Bytes that all files together take.
    pub fn used_bytes(&self) -> u64 {
        self.state().used_bytes()
    }

    /// Number of mutating operations begun so far: creations, renames, removals, writes, window stores,
    /// populates, length changes, preallocations and syncs.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// A hash of all operations so far, reads included, with their names, offsets and bytes.
    pub fn trace_hash(&self) -> u64 {
        self.state().trace
    }

    /// Moves the clock.
    pub fn advance(&self, by: Duration) {
        self.state().now += by;
    }

    /// Calls `hook` before each mutating operation with the number of operations before it. The hook
    /// may use the disk, crash clones above all; what it does itself does not call it again. A write
    /// that is about to happen counts as under way: a crash clone may hold it in part.
    pub fn on_operation(&self, hook: Hook) {
        *self.shared.hook.lock() = Some(hook);
    }

    /// Takes the hook away.
    pub fn clear_hook(&self) {
        *self.shared.hook.lock() = None;
    }

    /// Damages a byte at rest: `xor` is applied to what is read and to what is durable.
    pub fn corrupt(&self, name: &str, offset: u64, xor: u8) -> Result<()> {
        self.rewrite(name, offset, 1, |bytes| bytes[0] ^= xor)
    }

    /// Damages a sector at rest: the 512 bytes around `offset` become zero.
    pub fn zero_sector(&self, name: &str, offset: u64) -> Result<()> {
        self.rewrite(name, offset / SECTOR_BYTES * SECTOR_BYTES, SECTOR_BYTES, |bytes| {
            bytes.fill(0);
        })
    }

    /// Replaces the 512 bytes around `offset` by those around `from_offset` of a file of `from`: an
    /// earlier clone for a stale sector, this disk for a misdirected write.
    pub fn copy_sector(
        &self,
        from: &Self,
        from_name: &str,
        from_offset: u64,
        name: &str,
        offset: u64,
    ) -> Result<()> {
        let mut old = vec![0; pages::usize_of(SECTOR_BYTES)];
        {
            let mut state = from.state();
            let number = number_of(&state, "open", from_name)?;
            let at = from_offset / SECTOR_BYTES * SECTOR_BYTES;
            state.inode(number).live.pages.read(at, &mut old);
        }
        let at = offset / SECTOR_BYTES * SECTOR_BYTES;
        self.rewrite(name, at, SECTOR_BYTES, |bytes| bytes.copy_from_slice(&old[..bytes.len()]))
    }

    /// Changes bytes below the length, in what is read and in what is durable.
    fn rewrite(
        &self,
        name: &str,
        offset: u64,
        bytes: u64,
        change: impl Fn(&mut [u8]),
    ) -> Result<()> {
        let mut state = self.state();
        let number = number_of(&state, "open", name)?;
        let inode = state.inode(number);
        if offset >= inode.live.len {
            return Err(name::unexpected_eof(name, offset));
        }
        for image in [&mut inode.live, &mut inode.durable] {
            let count = bytes.min(image.len.saturating_sub(offset));
            if count > 0 {
                let mut buf = vec![0; pages::usize_of(count)];
                image.pages.read(offset, &mut buf);
                change(&mut buf);
                image.pages.write(offset, &buf);
            }
        }
        Ok(())
    }

    /// Counts a mutating operation and calls the hook, without a lock held. Answers the number of the
    /// operation.
    fn begin(
        &self,
        op: &str,
        file: &str,
        numbers: [u64; 2],
        change: Option<(InodeNo, &Change)>,
    ) -> u64 {
        let number = {
            let mut state = self.state();
            let number = state.operations;
            state.operations += 1;
            let data = match change {
                Some((_, Change::Write { data, .. })) => &data[..],
                _ => &[],
            };
            state.note(op, file, numbers, data);
            if let Some((inode, change)) = change {
                state.in_flight.insert(number, (inode, change.clone()));
            }
            number
        };
        let hook = self.shared.hook.lock().take();
        if let Some(mut hook) = hook {
            hook(number, self);
            // Unless the hook has put another one in its place.
            self.shared.hook.lock().get_or_insert(hook);
        }
        number
    }
}

fn number_of(state: &State, op: &'static str, name: &str) -> Result<InodeNo> {
    state.names.live.get(name).copied().ok_or_else(|| name::not_found(op, name))
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("SimDisk")
            .field("names", &state.names.live)
            .field("operations", &state.operations)
            .finish_non_exhaustive()
    }
}

impl Disk for SimDisk {
    fn open(&self, name: &str, mode: OpenMode) -> Result<Arc<dyn File>> {
        name::check(name)?;
        let create = mode == OpenMode::Create;
        if create {
            self.begin("create", name, [0, 0], None);
        }
        let mut state = self.state();
        if !create {
            state.note("open", name, [0, 0], &[]);
        }
        state.fault(OpKind::Open, if create { "create" } else { "open" }, name)?;
        let number = match (state.names.live.get(name).copied(), create) {
            (Some(_), true) => return Err(name::already_exists(name)),
            (Some(number), false) => number,
            (None, true) => state.create(name),
            (None, false) => return Err(name::not_found("open", name)),
        };
        state.inode(number).handles += 1;
        drop(state);
        Ok(Arc::new(SimFile::new(self.clone(), name.to_owned(), number, mode)))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        name::check(from)?;
        name::check(to)?;
        self.begin("rename", &format!("{from}/{to}"), [0, 0], None);
        let mut state = self.state();
        state.fault(OpKind::Names, "rename", from)?;
        let inode = number_of(&state, "rename", from)?;
        if from != to {
            state.change_names(NameChange::Rename { to: to.to_owned(), inode });
            state.reap();
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<()> {
        name::check(name)?;
        self.begin("remove", name, [0, 0], None);
        let mut state = self.state();
        state.fault(OpKind::Names, "remove", name)?;
        let inode = number_of(&state, "remove", name)?;
        state.change_names(NameChange::Unlink { name: name.to_owned(), inode });
        state.reap();
        Ok(())
    }

    fn list(&self) -> Result<Vec<String>> {
        let mut state = self.state();
        state.note("list", "", [0, 0], &[]);
        let mut names: Vec<String> = state.names.live.keys().cloned().collect();
        state.rng.shuffle(&mut names);
        Ok(names)
    }

    fn sync_dir(&self) -> Result<()> {
        self.begin("sync_dir", "", [0, 0], None);
        let mut state = self.state();
        state.fault(OpKind::SyncDir, "sync", "directory")?;
        state.names.sync();
        state.reap();
        Ok(())
    }

    fn lock(&self) -> Result<Box<dyn Lock>> {
        let mut state = self.state();
        if state.locked {
            drop(state);
            return Err(Error::Locked { path: self.label() });
        }
        state.locked = true;
        drop(state);
        Ok(Box::new(SimLock(self.clone())))
    }

    fn free_bytes(&self) -> Result<u64> {
        const UNLIMITED: u64 = 1 << 40;
        let state = self.state();
        let capacity = state.capacity_bytes.unwrap_or(UNLIMITED);
        Ok(capacity.saturating_sub(state.used_bytes()))
    }

    fn read_batch(&self, requests: &mut [ReadRequest]) {
        for request in requests {
            request.result = request.file.read_at(request.offset, &mut request.buf);
        }
    }

    fn now(&self) -> Duration {
        let mut state = self.state();
        state.note("now", "", [0, 0], &[]);
        state.now
    }

    fn random(&self) -> u64 {
        let mut state = self.state();
        state.note("random", "", [0, 0], &[]);
        state.rng.next()
    }

    fn label(&self) -> String {
        "simulated disk".to_owned()
    }

    fn threads(&self) -> bool {
        false
    }
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.0.state().locked = false;
    }
}
