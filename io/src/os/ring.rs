//! Reads of a batch through `io_uring`: one system call for all, and no threads.
//!
//! A ring is taken from a list for each batch, so that batches of many threads do not wait for each other. Where the system
//! has no `io_uring`, or forbids it, nothing is read here, and the [pool](super::pool) does it.
//!
//! The kernel writes into the buffers of a batch until it has said that a read is done. So [`read`] does not return before
//! it has said so of each read that was submitted, whatever happens.

#![allow(
    unsafe_code,
    reason = "the kernel writes into buffers while the call that lent them waits"
)]

use crate::ReadRequest;
use esker_base::sync::{AtomicBool, Mutex, Ordering};
use io_uring::{IoUring, opcode, types};
use std::io;
use std::os::fd::AsRawFd;

/// Reads under way at once in one ring.
const DEPTH: usize = 64;
/// Rings kept; as many threads may read at once without making new ones.
const RINGS_MAX: usize = 8;

/// Rings that are not in use.
pub(super) struct Rings {
    idle: Mutex<Vec<IoUring>>,
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

    /// Carries a batch out, or answers false without having read anything.
    pub(super) fn read_batch(&self, requests: &mut [ReadRequest]) -> bool {
        if self.is_refused.load(Ordering::Relaxed)
            || requests.iter().any(|request| request.file.handle().is_none())
            || std::process::id() != self.process
        {
            return false;
        }
        let Some(mut ring) = self.take() else { return false };
        let mut is_whole = true;
        for chunk in requests.chunks_mut(DEPTH) {
            is_whole = is_whole && read(&mut ring, chunk);
            for request in chunk {
                request.finish();
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

    fn take(&self) -> Option<IoUring> {
        if let Some(ring) = self.idle.lock().pop() {
            return Some(ring);
        }
        match IoUring::new(u32::try_from(DEPTH).expect("a few")) {
            Ok(ring) => Some(ring),
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

/// Reads at most [`DEPTH`] requests; those whose `result` is an error afterwards were not read as a whole. False if the
/// ring is not to be used again.
fn read(ring: &mut IoUring, requests: &mut [ReadRequest]) -> bool {
    for (index, request) in requests.iter_mut().enumerate() {
        let fd = types::Fd(request.file.handle().expect("seen before").as_raw_fd());
        request.result = Err(unread());
        // Longer ones are finished as short ones.
        let bytes = u32::try_from(request.buf.len()).unwrap_or(u32::MAX);
        let entry = opcode::Read::new(fd, request.buf.as_mut_ptr(), bytes)
            .offset(request.offset)
            .build()
            .user_data(index as u64);
        // SAFETY: the descriptor and the buffer belong to the request, which is borrowed, and so neither closed nor moved
        // nor freed, until this function returns; it returns when every submitted read is done.
        unsafe { ring.submission().push(&entry) }.expect("a ring has room for a chunk");
    }
    let (mut submitted, mut done) = (0, 0);
    let mut is_usable = true;
    while done < submitted || (is_usable && submitted < requests.len()) {
        let want = if is_usable { requests.len() - done } else { submitted - done };
        match ring.submit_and_wait(want) {
            Ok(count) => submitted += count,
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR) => {}
                // Completions are taken below, and then there is room again.
                Some(libc::EAGAIN | libc::EBUSY) if done < submitted => {}
                // What was not submitted is not read; what was is waited for, since the kernel writes into it.
                _ if done < submitted && is_usable => is_usable = false,
                _ if done < submitted => std::thread::yield_now(),
                _ => is_usable = false,
            },
        }
        for completion in ring.completion() {
            done += 1;
            let index = usize::try_from(completion.user_data()).expect("an index");
            let request = &mut requests[index];
            let whole = u32::try_from(request.buf.len()).ok();
            if u32::try_from(completion.result()).ok() == whole && whole.is_some() {
                request.result = Ok(());
            }
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
