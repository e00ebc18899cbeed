//! Gets, seeks, YCSB mixes and durable puts, by one or more threads.

use super::{Bench, Sample, Span, Worker, Writes};
use crate::generate::{Zipf, value_into};
use crate::keys::Previous;
use crate::state::next;
use crate::store::{Result, Session};
use crate::workload::Workload;
use serde_json::json;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

/// Skew of the zipfian workloads.
const THETA: f64 = 0.99;
/// Calls that share one snapshot in readhold and seekhold10.
const HOLD_CALLS: u64 = 1000;

/// Calls `step` until a worker's share is done or time is up; that is noted in `limited`.
fn repeat(
    worker: &mut Worker,
    share: Span,
    limited: &AtomicBool,
    mut step: impl FnMut(&mut Worker) -> Result<()>,
) -> Result<()> {
    while !share.done(worker.ops, worker.elapsed_s()) {
        if worker.elapsed_s() >= share.limit_s {
            limited.store(true, Relaxed);
            break;
        }
        step(worker)?;
        worker.ops += 1;
    }
    Ok(())
}

/// What several workers did together.
fn gather(workers: Vec<Worker>) -> Sample {
    let first = workers.iter().map(|worker| worker.start).min().expect("a thread at least");
    let last = workers.iter().map(|worker| worker.last).max().expect("the same");
    let mut sample = Sample { seconds: (last - first).as_secs_f64(), ..Default::default() };
    for worker in workers {
        sample.ops += worker.ops;
        sample.user_write_bytes += worker.user_write_bytes;
        sample.user_read_bytes += worker.user_read_bytes;
        sample.wrong += worker.wrong;
        match &mut sample.latencies {
            None => sample.latencies = Some(worker.latencies),
            Some(all) => all.add(&worker.latencies).expect("same bounds"),
        }
    }
    sample.wrote = sample.user_write_bytes > 0;
    sample
}

impl Bench {
    /// Runs `f` on as many threads as the span says, until each did its share or time is up.
    fn threads(
        &self,
        span: Span,
        seed: u64,
        before: impl Fn(&mut dyn Session, u64) + Sync,
        f: impl Fn(&mut dyn Session, &mut Worker) -> Result<()> + Sync,
    ) -> Result<Sample> {
        let limited = AtomicBool::new(false);
        let workers = self.workers(span.threads, seed, |_, session, worker| {
            repeat(worker, span.share(span.threads), &limited, |w| {
                before(session, w.ops);
                f(session, w)
            })
        })?;
        Ok(Sample { limited: limited.into_inner(), ..gather(workers) })
    }

    /// Runs `f(thread, session, worker)` once on each of so many threads.
    fn workers(
        &self,
        threads: usize,
        seed: u64,
        f: impl Fn(usize, &mut dyn Session, &mut Worker) -> Result<()> + Sync,
    ) -> Result<Vec<Worker>> {
        let barrier = Barrier::new(threads + 1);
        let (store, value_bytes) = (self.store(), self.state.value_bytes);
        // Each worker times itself: on a busy machine this thread may wake up after they are done.
        let one = |thread: usize| -> Result<Worker> {
            let mut worker = Worker::new(thread, seed, value_bytes);
            let session = store.session();
            barrier.wait();
            let mut session = session?;
            worker.start = Instant::now();
            worker.last = worker.start;
            f(thread, &mut *session, &mut worker)?;
            Ok(worker)
        };
        std::thread::scope(|scope| {
            let handles: Vec<_> =
                (0..threads).map(|thread| scope.spawn(move || one(thread))).collect();
            barrier.wait();
            handles
                .into_iter()
                .map(|h| h.join().unwrap_or_else(|_| Err("a worker panicked".into())))
                .collect()
        })
    }

    pub(super) fn get(&self, session: &mut dyn Session, w: &mut Worker, id: u64) -> Result<()> {
        let key = self.state.key(id);
        let before = self.state.version(id);
        w.got.clear();
        let start = Instant::now();
        let got = &mut w.got;
        let found = session.get(&key, &mut |v| got.extend_from_slice(v))?;
        w.lap(start);
        let after = self.state.version(id);
        self.judge(w, id, before, after, found);
        w.user_read_bytes += (key.len() + w.got.len()) as u64;
        Ok(())
    }

    /// Counts `w.got` as wrong unless it may be the answer.
    fn judge(&self, w: &mut Worker, id: u64, before: u8, after: u8, found: bool) {
        let value = found.then_some(&w.got[..]);
        if !self.state.check(id, before, after, value, &mut w.scratch) {
            w.wrong += 1;
            self.state.explain(id, before, after, value);
        }
    }

    fn put(
        &self,
        session: &mut dyn Session,
        w: &mut Worker,
        id: u64,
        read_first: bool,
    ) -> Result<()> {
        let key = self.state.key(id);
        let _lock = self.state.lock(id);
        let old = self.state.version(id);
        value_into(id, next(old), &mut w.value);
        w.got.clear();
        let start = Instant::now();
        let mut found = true;
        if read_first {
            let got = &mut w.got;
            found = session.get(&key, &mut |v| got.extend_from_slice(v))?;
        }
        session.put(&key, &w.value)?;
        w.lap(start);
        self.state.set_version(id, next(old));
        if read_first {
            self.judge(w, id, old, old, found);
            w.user_read_bytes += (key.len() + w.got.len()) as u64;
        }
        w.user_write_bytes += (key.len() + self.state.value_bytes) as u64;
        Ok(())
    }

    fn insert(&self, session: &mut dyn Session, w: &mut Worker) -> Result<()> {
        self.put(session, w, self.state.insert(), false)
    }

    fn get_absent(&self, session: &mut dyn Session, w: &mut Worker, id: u64) -> Result<()> {
        let key = self.state.absent_key(id);
        let start = Instant::now();
        let found = session.get(&key, &mut |_| ())?;
        w.lap(start);
        w.wrong += u64::from(found);
        Ok(())
    }

    /// Seeks to a loaded record and reads `limit` entries.
    fn seek(&self, session: &mut dyn Session, w: &mut Worker, id: u64, limit: usize) -> Result<()> {
        let key = self.state.key(id);
        let (mut count, mut sum, mut bytes) = (0usize, 0u64, 0u64);
        let (mut found, mut sorted) = (false, true);
        let mut previous = Previous::none();
        let start = Instant::now();
        let got = session.scan(&key, limit, &mut |k, v| {
            if count == 0 {
                found = *k == *key;
            }
            sorted &= previous.advance(k);
            count += 1;
            sum = sum.wrapping_add(xxh3_64(v));
            bytes += (k.len() + v.len()) as u64;
            true
        })?;
        w.lap(start);
        std::hint::black_box(sum);
        // The first entry is the key itself, for it exists; the rest is sorted; there are `limit`
        // of them unless the table ended.
        let ended = id + limit as u64 * 2 >= self.state.n || self.state.loaded() < self.state.n;
        if !sorted || got != count || !found || (got != limit && !ended) {
            w.wrong += 1;
            eprintln!("WRONG: seek to record {id}: {got} of {limit} entries, sorted: {sorted}");
        }
        w.user_read_bytes += bytes;
        Ok(())
    }

    /// Gets, seeks and YCSB.
    pub(super) fn mix(&self, workload: &Workload, span: Span) -> Result<Sample> {
        let (state, name) = (&self.state, workload.name.as_str());
        let loaded = state.loaded();
        let zipf = Zipf::new(
            if name == "readzipf" || name.starts_with("ycsb") { loaded } else { 1 },
            THETA,
        );
        let hold = matches!(name, "readhold" | "seekhold10");
        // The same sequence for each engine, but never again: keys that the warm-up, or an earlier row, has just brought
        // in would be found where the engine keeps what was used last.
        let turn = self.mixes.fetch_add(1, Relaxed);
        let seed =
            name.bytes().fold(turn << 48, |a, b| a.wrapping_mul(131).wrapping_add(u64::from(b)));
        let uniform = |w: &mut Worker| state.nth(w.rng.below(loaded));
        let skewed = |w: &mut Worker| state.nth(zipf.scrambled(&mut w.rng));
        // The newest record is the likeliest.
        let latest = |w: &mut Worker| {
            let total = loaded + state.inserted();
            let at = total - 1 - zipf.rank(&mut w.rng).min(total - 1);
            if at >= loaded { state.n + (at - loaded) } else { state.nth(at) }
        };
        let refresh = |s: &mut dyn Session, done: u64| {
            if hold && done.is_multiple_of(HOLD_CALLS) {
                s.hold(false);
                s.hold(true);
            }
        };
        self.threads(span, seed, refresh, |s, w| match name {
            "readrandom" | "readhold" => {
                let id = uniform(w);
                self.get(s, w, id)
            }
            "readzipf" | "ycsb-c" => {
                let id = skewed(w);
                self.get(s, w, id)
            }
            "readmissing" => {
                let id = uniform(w);
                self.get_absent(s, w, id)
            }
            "seek10" | "seekhold10" => {
                let id = uniform(w);
                self.seek(s, w, id, 10)
            }
            "seek100" => {
                let id = uniform(w);
                self.seek(s, w, id, 100)
            }
            "ycsb-a" | "ycsb-b" | "ycsb-f" => {
                let percent = if name == "ycsb-b" { 5 } else { 50 };
                let write = w.rng.below(100) < percent;
                let id = skewed(w);
                if write { self.put(s, w, id, name == "ycsb-f") } else { self.get(s, w, id) }
            }
            "ycsb-d" | "ycsb-e" if w.rng.below(100) < 5 => self.insert(s, w),
            "ycsb-d" => {
                let id = latest(w);
                self.get(s, w, id)
            }
            "ycsb-e" => {
                let id = skewed(w);
                let limit = 1 + w.rng.below(100) as usize;
                self.seek(s, w, id, limit)
            }
            _ => unreachable!("Workload::parse knows the names"),
        })
    }

    /// Gets by all threads but one, as long as the span says; the one updates at full speed
    /// meanwhile.
    pub(super) fn read_while_writing(&self, span: Span) -> Result<Sample> {
        let (state, loaded) = (&self.state, self.state.loaded());
        let readers = span.threads - 1;
        let (reading, limited) = (AtomicUsize::new(readers), AtomicBool::new(false));
        let seed = 11 + (self.mixes.fetch_add(1, Relaxed) << 48);
        let mut workers = self.workers(span.threads, seed, |thread, s, w| {
            let uniform = |w: &mut Worker| state.nth(w.rng.below(loaded));
            if thread == 0 {
                // By the limit readers have ended, even one that never began.
                while reading.load(Relaxed) > 0 && w.elapsed_s() < span.limit_s {
                    let id = uniform(w);
                    self.put(s, w, id, false)?;
                    w.ops += 1;
                }
                return Ok(());
            }
            let result = repeat(w, span.share(readers), &limited, |w| {
                let id = uniform(w);
                self.get(s, w, id)
            });
            reading.fetch_sub(1, Relaxed);
            result
        })?;
        let writer = workers.remove(0);
        let mut sample = gather(workers);
        sample.limited = limited.into_inner();
        sample.wrote = true;
        sample.wrong += writer.wrong;
        sample.user_write_bytes = writer.user_write_bytes;
        sample.writes = Some(Writes {
            ops: writer.ops,
            seconds: writer.elapsed_s(),
            latencies: writer.latencies,
        });
        Ok(sample)
    }

    /// Single updates of random loaded records.
    pub(super) fn updates(&self, span: Span, seed: u64) -> Result<Sample> {
        let loaded = self.state.loaded();
        self.threads(
            span,
            seed,
            |_, _| (),
            |s, w| {
                let id = self.state.nth(w.rng.below(loaded));
                self.put(s, w, id, false)
            },
        )
    }

    /// Single durable puts.
    pub(super) fn fillsync(&self, span: Span) -> Result<Sample> {
        let mut sample = self.updates(span, 7 + span.threads as u64)?;
        sample.limited = false; // it is timed by design
        sample.extra.insert("durable".into(), json!(true));
        Ok(sample)
    }
}
