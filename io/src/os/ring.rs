//! Reads of a batch through `io_uring`: one system call for all, and no threads.
//!
//! A ring is taken from a list for each batch, so that batches of many threads do not wait for each other. Where the system
//! has no `io_uring`, or forbids it, nothing is read here, and the [pool](super::pool) does it.
//!
//! The kernel writes into the buffers of a batch until it has said that a read is done. So [`read`] is not left before
//! it has said so of each read that was submitted, whatever happens.

#![allow(
    unsafe_code,
    reason = "the kernel writes into buffers while the call that lent them waits"
)]

use super::direct::BLOCK_BYTES;
use super::pool::LARGE_READ_BYTES;
use crate::ReadRequest;
use crate::sys::{self, Mapping};
use esker_base::sync::{AtomicBool, Mutex, Ordering};
use io_uring::{IoUring, opcode, types};
use std::io;
use std::os::fd::AsRawFd;

/// Reads under way at once in one ring.
const DEPTH: usize = 128;
/// Reads that are waited for together: each wait costs a sleep and a wake-up, and what has come is worked on while others come.
const WAIT_FOR: usize = 8;
/// Rings kept; as many threads may read at once without making new ones.
const RINGS_MAX: usize = 8;

/// What a read past the cache may be long, with the blocks that it lies in: each of those under way,
const SLOT_BYTES: usize = 4 * BLOCK_BYTES;
/// and a few.
const LARGE_SLOT_BYTES: usize = (256 << 10) + 2 * BLOCK_BYTES;
const LARGE_SLOTS: usize = 4;
const SLOTS_BYTES: usize = DEPTH * SLOT_BYTES + LARGE_SLOTS * LARGE_SLOT_BYTES;

/// A ring, and where its reads past the cache arrive: whole blocks, at addresses of blocks.
struct Ring {
    ring: IoUring,
    /// A slot for each read under way, and the large ones behind them; in memory as far as they were used.
    slots: Option<Mapping>,
}

/// Rings that are not in use.
pub(super) struct Rings {
    idle: Mutex<Vec<Ring>>,
    /// The system said no, or the user did.
    is_refused: AtomicBool,
    /// A child of this process shares their memory with it.
    process: u32,
}

impl std::fmt::Debug for Rings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rings").field("is_refused", &self.is_refused).finish_non_exhaustive()
    }
}

impl Rings {
    pub(super) fn new(is_wanted: bool) -> Self {
        Self {
            idle: Mutex::default(),
            is_refused: AtomicBool::new(!is_wanted),
            process: std::process::id(),
        }
    }

    /// Carries a batch out and hands each request to `done` when it has ended, or answers false without having read anything.
    pub(super) fn read_each(
        &self,
        requests: &mut [ReadRequest],
        done: &mut dyn FnMut(usize, &mut ReadRequest),
    ) -> bool {
        if self.is_refused.load(Ordering::Relaxed)
            || requests.iter().any(|request| request.file.handle().is_none())
            || std::process::id() != self.process
        {
            return false;
        }
        let Some(mut ring) = self.take() else { return false };
        let mut is_whole = true;
        for (i, chunk) in requests.chunks_mut(DEPTH).enumerate() {
            let mut done = |index: usize, request: &mut ReadRequest| {
                request.finish();
                done(i * DEPTH + index, request);
            };
            let mut ended = [false; DEPTH];
            is_whole = is_whole && read(&mut ring, chunk, &mut ended, &mut done);
            for (index, request) in chunk.iter_mut().enumerate().filter(|(i, _)| !ended[*i]) {
                request.result = Err(unread());
                done(index, request);
            }
        }
        if is_whole {
            let mut idle = self.idle.lock();
            if idle.len() < RINGS_MAX {
                idle.push(ring);
            }
        }
        true
    }

    fn take(&self) -> Option<Ring> {
        if let Some(ring) = self.idle.lock().pop() {
            return Some(ring);
        }
        match IoUring::new(u32::try_from(DEPTH).expect("a few")) {
            // Without slots all reads go through the cache.
            Ok(ring) => Some(Ring { ring, slots: Mapping::anonymous(SLOTS_BYTES).ok() }),
            Err(error) => {
                // Too few descriptors, or too little memory: another time.
                if !matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM))
                {
                    self.is_refused.store(true, Ordering::Relaxed);
                }
                None
            }
        }
    }
}

/// How one request is read.
struct Way {
    fd: types::Fd,
    to: *mut u8,
    offset: u64,
    bytes: u32,
    /// For a read past the cache: where in the slots what was asked for begins.
    slot: Option<usize>,
}

/// The way of a request that is the `index`-th of a chunk, of which `large` had large slots so far.
fn way(slots: Option<&Mapping>, index: usize, large: &mut usize, request: &mut ReadRequest) -> Way {
    let handle = request.file.handle().expect("seen before");
    let skip = usize::try_from(request.offset % BLOCK_BYTES as u64).expect("part of a block");
    let (bytes, end) = (request.buf.len(), skip + request.buf.len());
    let is_large = bytes >= LARGE_READ_BYTES;
    let slot = match end {
        ..=SLOT_BYTES if request.past_cache => Some(index * SLOT_BYTES),
        ..=LARGE_SLOT_BYTES if (is_large || request.past_cache) && *large < LARGE_SLOTS => {
            Some(DEPTH * SLOT_BYTES + *large * LARGE_SLOT_BYTES)
        }
        _ => None,
    };
    if let Some(slot) = slot
        && let Some(slots) = slots
        && let Some(direct) = request.file.direct_handle()
        && !(if is_large { sys::is_cached } else { sys::is_cached_whole })(
            handle,
            request.offset,
            bytes,
        )
    {
        *large += usize::from(slot >= DEPTH * SLOT_BYTES);
        return Way {
            fd: types::Fd(direct.as_raw_fd()),
            to: slots.pointer_at(slot).as_ptr(),
            offset: request.offset - skip as u64,
            bytes: u32::try_from(end.next_multiple_of(BLOCK_BYTES)).expect("a slot at most"),
            slot: Some(slot + skip),
        };
    }
    Way {
        fd: types::Fd(handle.as_raw_fd()),
        to: request.buf.as_mut_ptr(),
        offset: request.offset,
        // Longer ones are finished as short ones.
        bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
        slot: None,
    }
}

/// Reads that the kernel has, or may have: it writes where they say until it has told that they are done, so that is waited for even if
/// whoever works on what has come panics.
struct UnderWay<'r> {
    ring: &'r mut IoUring,
    submitted: usize,
    done: usize,
}

impl UnderWay<'_> {
    /// Hands what was pushed to the kernel and waits for `want` completions; false if the ring is not to be used again.
    fn wait(&mut self, want: usize) -> bool {
        match self.ring.submit_and_wait(want) {
            Ok(count) => self.submitted += count,
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR) => {}
                // Completions are taken after this, and then there is room again.
                Some(libc::EAGAIN | libc::EBUSY) if self.done < self.submitted => {}
                _ => return false,
            },
        }
        true
    }

    /// A read that has ended: its index, and how it did.
    fn next(&mut self) -> Option<(usize, i32)> {
        let completion = self.ring.completion().next()?;
        self.done += 1;
        let index = usize::try_from(completion.user_data()).expect("an index");
        Some((index, completion.result()))
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        while self.done < self.submitted {
            if !self.wait(self.submitted - self.done) {
                std::thread::yield_now();
            }
            while self.next().is_some() {}
        }
    }
}

/// Reads at most [`DEPTH`] requests and hands each that has `ended` to `done`, whole or with an error as its `result`. False if the
/// ring is not to be used again.
fn read(
    Ring { ring, slots }: &mut Ring,
    requests: &mut [ReadRequest],
    ended: &mut [bool; DEPTH],
    done: &mut dyn FnMut(usize, &mut ReadRequest),
) -> bool {
    let (mut arrives_at, mut large) = ([None; DEPTH], 0);
    for (index, request) in requests.iter_mut().enumerate() {
        request.result = Err(unread());
        let way = way(slots.as_ref(), index, &mut large, request);
        arrives_at[index] = way.slot;
        let entry = opcode::Read::new(way.fd, way.to, way.bytes)
            .offset(way.offset)
            .build()
            .user_data(index as u64);
        // SAFETY: the descriptors and the buffer belong to the request, which is borrowed, and the slot to the ring, which is, too;
        // so they are neither closed nor moved nor freed until this function is left, and no slot is another request's; it
        // is left, in whatever way, when every submitted read is done (`UnderWay`). `done` gets a request only after its own is.
        unsafe { ring.submission().push(&entry) }.expect("a ring has room for a chunk");
    }
    let mut under_way = UnderWay { ring, submitted: 0, done: 0 };
    let mut is_usable = true;
    while under_way.done < under_way.submitted
        || (is_usable && under_way.submitted < requests.len())
    {
        let left = if is_usable { requests.len() } else { under_way.submitted } - under_way.done;
        if !under_way.wait(left.min(WAIT_FOR)) {
            // What was not submitted is not read; what was is waited for.
            if !is_usable {
                std::thread::yield_now();
            }
            is_usable = false;
        }
        while let Some((index, result)) = under_way.next() {
            let request = &mut requests[index];
            let wanted = request.buf.len();
            match (arrives_at[index], &*slots, usize::try_from(result)) {
                (None, _, Ok(read)) if read == wanted => request.result = Ok(()),
                // The last block may end with the file.
                (Some(at), Some(slots), Ok(read)) if read >= at % BLOCK_BYTES + wanted => {
                    let from = slots.pointer_at(at).as_ptr();
                    // SAFETY: so many bytes of the slot were read, and the kernel is done with it; nothing else refers to it.
                    let read = unsafe { std::slice::from_raw_parts(from, wanted) };
                    request.buf.copy_from_slice(read);
                    request.result = Ok(());
                }
                _ => {}
            }
            ended[index] = true;
            done(index, request);
        }
    }
    is_usable
}

fn unread() -> esker_base::Error {
    esker_base::Error::from_io("read", "", 0, io::ErrorKind::Interrupted.into())
}

impl ReadRequest {
    /// Reads in the ordinary way what did not come whole: that tells what was wrong, or finds that nothing is.
    fn finish(&mut self) {
        if self.result.is_err() {
            self.result = self.file.read_at(self.offset, &mut self.buf);
        }
    }
}
