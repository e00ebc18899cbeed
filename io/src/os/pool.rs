//! Threads that read in parallel, because one device read at a time leaves a solid-state disk idle.
//!
//! What is in the page cache is read on the caller's thread; only reads that have to wait for the device
//! are handed out, and the caller takes its share of them. Threads start when a batch first has use
//! for them and stay until the disk is closed.

use crate::{File, ReadRequest};
use esker_base::Result;
use esker_base::sync::{Arc, AtomicUsize, Condvar, Mutex, Ordering, thread};
use std::collections::VecDeque;

/// Random cold reads of 4 KiB at depth 32 on the 2-core virtual machine this was built on (busy, so give
/// or take a fifth): one at a time 15,000 a second, 4 threads 46,000, 8 threads 55,000, 16 threads
/// 53,000, 32 threads 46,000. Disks that are further away like it deeper.
const THREADS_MAX: usize = 16;

/// A read of this much is one of many that go on to the end of something large: none of it is wanted again soon.
pub(super) const LARGE_READ_BYTES: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Pool {
    shared: Arc<Shared>,
    threads: Mutex<Vec<thread::JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    /// One entry per thread that a batch would like to have.
    batches: VecDeque<Arc<Batch>>,
    idle: usize,
    closed: bool,
}

/// Reads of one call that are not in the page cache.
#[derive(Debug)]
struct Batch {
    next: AtomicUsize,
    jobs: Vec<Mutex<Job>>,
    left: Mutex<usize>,
    done: Condvar,
}

#[derive(Debug)]
struct Job {
    /// Place in the caller's slice.
    index: usize,
    file: Arc<dyn File>,
    offset: u64,
    buf: Vec<u8>,
    past_cache: bool,
    result: Result<()>,
}

fn read(file: &dyn File, offset: u64, buf: &mut [u8], past_cache: bool) -> Result<()> {
    if past_cache { file.read_past_cache(offset, buf) } else { file.read_at(offset, buf) }
}

impl Pool {
    pub(super) fn new() -> Self {
        Self { shared: Arc::default(), threads: Mutex::default() }
    }

    pub(super) fn read_batch(&self, requests: &mut [ReadRequest]) {
        let mut missing = Vec::new();
        let single = requests.len() == 1;
        for (index, request) in requests.iter_mut().enumerate() {
            request.past_cache |= request.buf.len() >= LARGE_READ_BYTES;
            let cached = if single || request.past_cache {
                Ok(false)
            } else {
                request.file.read_cached(request.offset, &mut request.buf)
            };
            request.result = Ok(());
            if !matches!(cached, Ok(true)) {
                missing.push(index);
            }
        }
        if let [index] = missing[..] {
            let ReadRequest { file, offset, buf, past_cache, result } = &mut requests[index];
            *result = read(&**file, *offset, buf, *past_cache);
            return;
        }
        if missing.is_empty() {
            return;
        }

        // The buffers travel with the jobs and come back, so that threads own what they work on.
        let jobs = missing.into_iter().map(|index| {
            let request = &mut requests[index];
            Mutex::new(Job {
                index,
                file: Arc::clone(&request.file),
                offset: request.offset,
                buf: std::mem::take(&mut request.buf),
                past_cache: request.past_cache,
                result: Ok(()),
            })
        });
        let batch = Arc::new(Batch::new(jobs.collect()));
        self.offer(&batch);
        batch.work();
        batch.wait();
        for job in &batch.jobs {
            let mut job = job.lock();
            let request = &mut requests[job.index];
            request.buf = std::mem::take(&mut job.buf);
            request.result = std::mem::replace(&mut job.result, Ok(()));
        }
    }

    #[cfg(test)]
    pub(super) fn thread_count(&self) -> usize {
        self.threads.lock().len()
    }

    /// Puts a batch where threads find it, and starts threads if too few are idle.
    fn offer(&self, batch: &Arc<Batch>) {
        // The caller is one more.
        let helpers = (batch.jobs.len() - 1).min(THREADS_MAX);
        let idle = {
            let mut queue = self.shared.queue.lock();
            queue.batches.extend((0..helpers).map(|_| Arc::clone(batch)));
            queue.idle
        };
        for _ in 0..helpers.min(idle) {
            self.shared.work.notify_one();
        }
        if idle < helpers {
            let mut threads = self.threads.lock();
            for _ in idle..helpers.min(THREADS_MAX.saturating_sub(threads.len()) + idle) {
                let shared = Arc::clone(&self.shared);
                let builder = thread::Builder::new().name("esker-read".to_owned());
                // Without a thread the caller does the work itself.
                let Ok(thread) = builder.spawn(move || shared.run()) else { break };
                threads.push(thread);
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.queue.lock().closed = true;
        self.shared.work.notify_all();
        for thread in self.threads.get_mut().drain(..) {
            // A thread that panicked has said so on its own.
            let _panicked: bool = thread.join().is_err();
        }
    }
}

impl Shared {
    fn run(&self) {
        let mut queue = self.queue.lock();
        loop {
            if let Some(batch) = queue.batches.pop_front() {
                drop(queue);
                batch.work();
                queue = self.queue.lock();
            } else if queue.closed {
                return;
            } else {
                queue.idle += 1;
                self.work.wait(&mut queue);
                queue.idle -= 1;
            }
        }
    }
}

impl Batch {
    fn new(jobs: Vec<Mutex<Job>>) -> Self {
        let left = Mutex::new(jobs.len());
        Self { next: AtomicUsize::new(0), jobs, left, done: Condvar::new() }
    }

    /// Carries out jobs until none is left to begin.
    fn work(&self) {
        while let Some(job) = self.jobs.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let mut job = job.lock();
            let Job { file, offset, buf, past_cache, result, .. } = &mut *job;
            *result = read(&**file, *offset, buf, *past_cache);
            drop(job);
            let mut left = self.left.lock();
            *left -= 1;
            if *left == 0 {
                self.done.notify_one();
            }
        }
    }

    fn wait(&self) {
        let mut left = self.left.lock();
        while *left > 0 {
            self.done.wait(&mut left);
        }
    }
}
