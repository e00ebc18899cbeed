//! Loads, updates and deletes by one thread.

use super::{Bench, Sample, Span, Worker};
use crate::generate::{Perm, value_into};
use crate::state::{SEED, next};
use crate::store::{Batch, Result, Session};
use serde_json::{Map, Value, json};
use std::sync::atomic::Ordering::Release;
use std::time::Instant;

/// Writes per commit of the sorted load.
const SORTED_GROUP: usize = 1000;
/// Writes per commit where a fill is completed unmeasured.
const TOPUP_GROUP: usize = 10_000;

/// One thread's commits of `group` writes each; single calls where that is one.
struct Writer<'a> {
    bench: &'a Bench,
    session: Box<dyn Session + 'a>,
    batch: Batch,
    worker: Worker,
    start: Instant,
    /// Writes of each second.
    by_second: Vec<u64>,
}

impl<'a> Writer<'a> {
    fn new(bench: &'a Bench, seed: u64, delete: bool) -> Result<Self> {
        let value_bytes = bench.state.value_bytes;
        Ok(Self {
            bench,
            session: bench.store().session()?,
            batch: Batch::new(value_bytes, delete),
            worker: Worker::new(0, seed, value_bytes),
            start: Instant::now(),
            by_second: Vec::new(),
        })
    }

    /// Adds one write, and makes it the expected answer.
    fn stage(&mut self, id: u64, version: u8) {
        let state = &self.bench.state;
        let key = state.key(id);
        self.batch.push_key(&key);
        let mut bytes = key.len();
        if version > 0 {
            bytes += state.value_bytes;
            let at = self.batch.values.len();
            self.batch.values.resize(at + state.value_bytes, 0);
            value_into(id, version, &mut self.batch.values[at..]);
        }
        self.worker.user_write_bytes += bytes as u64;
        state.set_version(id, version);
    }

    /// Commits what was staged.
    fn commit(&mut self, single: bool) -> Result<()> {
        let start = Instant::now();
        match (single, self.batch.delete) {
            (true, true) => self.session.delete(self.batch.key(0))?,
            (true, false) => self.session.put(self.batch.key(0), &self.batch.values)?,
            _ => self.session.write_batch(&self.batch)?,
        }
        self.worker.lap(start);
        let second = (self.worker.last - self.start).as_secs() as usize;
        if second >= self.by_second.len() {
            self.by_second.resize(second + 1, 0);
        }
        self.by_second[second] += self.batch.len() as u64;
        self.batch.clear();
        Ok(())
    }

    /// Writes in the worst second, in one of a hundred, and in the median one; the last is not whole.
    fn seconds(&self) -> Map<String, Value> {
        let mut seconds = self.by_second.clone();
        seconds.pop();
        seconds.sort_unstable();
        let at = |share: f64| seconds.get((seconds.len() as f64 * share) as usize);
        [("second_min_ops", 0.0), ("second_p1_ops", 0.01), ("second_p50_ops", 0.5)]
            .into_iter()
            .filter_map(|(name, share)| Some((name.to_string(), json!(at(share)?))))
            .collect()
    }
}

impl Bench {
    /// Loads every record, sorted and unmeasured, the fastest way an engine has.
    pub(super) fn preload(&mut self) -> Result<()> {
        let start = Instant::now();
        self.fresh(false)?;
        self.load_sorted()?;
        self.store().flush()?;
        self.store().settle()?;
        eprintln!("{} preload: {:.1}s", self.settings.engine, start.elapsed().as_secs_f64());
        Ok(())
    }

    /// Returns the bytes of all keys and values.
    fn load_sorted(&self) -> Result<u64> {
        let state = &self.state;
        let (mut ids, mut bytes) = (0..state.n, 0);
        self.store().bulk_load(&mut |value| {
            let id = ids.next()?;
            value.resize(state.value_bytes, 0);
            value_into(id, 1, value);
            state.set_version(id, 1);
            let key = state.key(id);
            bytes += (key.len() + value.len()) as u64;
            Some(key)
        })?;
        state.set_loaded(state.n);
        Ok(bytes)
    }

    /// Loads the records from the `from`-th on, in the order of the fill. Returns their bytes.
    fn top_up(&self, from: u64) -> Result<u64> {
        let mut writer = Writer::new(self, 0, false)?;
        let n = self.state.n;
        let mut i = from;
        while i < n {
            let end = (i + TOPUP_GROUP as u64).min(n);
            (i..end).for_each(|j| writer.stage(self.state.nth(j), 1));
            writer.commit(false)?;
            i = end;
        }
        self.state.set_loaded(n);
        Ok(writer.worker.user_write_bytes)
    }

    /// Every key once, sorted, the fastest way an engine has.
    pub(super) fn fillbulk(&self) -> Result<Sample> {
        let start = Instant::now();
        let user_write_bytes = self.load_sorted()?;
        Ok(Sample {
            ops: self.state.n,
            seconds: start.elapsed().as_secs_f64(),
            user_write_bytes,
            wrote: true,
            ..Default::default()
        })
    }

    /// Every key once, sorted.
    pub(super) fn fillseq(&mut self) -> Result<Sample> {
        self.fill(SORTED_GROUP, 0.0)
    }

    /// Every key once in random order; then overwrites until `min_s`.
    pub(super) fn fillrandom(&mut self) -> Result<Sample> {
        self.fill(self.group, self.settings.min_s)
    }

    fn fill(&mut self, group: usize, min_s: f64) -> Result<Sample> {
        let (state, n) = (&self.state, self.state.n);
        let limit_s = self.settings.fill_limit_s;
        let mut writer = Writer::new(self, 1, false)?;
        let mut sample = Sample { wrote: true, ..Default::default() };
        let start = Instant::now();
        let mut i = 0;
        while i < n {
            let end = (i + group as u64).min(n);
            (i..end).for_each(|j| writer.stage(state.nth(j), 1));
            writer.commit(group == 1)?;
            i = end;
            if let Some(ack) = self.ack {
                ack.store(i, Release);
            }
            if (writer.worker.last - start).as_secs_f64() > limit_s && i < n {
                sample.limited = true;
                break;
            }
        }
        state.set_loaded(i);
        sample.ops = i;
        let load_s = (writer.worker.last - start).as_secs_f64();
        sample.extra.insert("load_s".into(), json!(load_s));
        sample.extra.insert("load_ops_per_s".into(), json!((i as f64 / load_s).round()));
        if !sample.limited {
            let span = Span { threads: 1, ops: 0, min_s, limit_s: min_s };
            sample.ops += overwrite_until(&mut writer, group, span, start)?;
        }
        sample.extra.extend(writer.seconds());
        sample.seconds = (writer.worker.last - start).as_secs_f64();
        sample.user_write_bytes = writer.worker.user_write_bytes;
        sample.latencies = Some(writer.worker.latencies);
        drop(writer.session);
        if sample.limited && self.settings.topup {
            // Unmeasured: so that what follows works on all records.
            let start = Instant::now();
            sample.user_write_bytes += self.top_up(i)?;
            sample.extra.insert("topup_s".into(), json!(start.elapsed().as_secs_f64()));
        }
        Ok(sample)
    }

    /// Random updates of loaded records.
    pub(super) fn overwrite(&mut self, span: Span) -> Result<Sample> {
        let mut writer = Writer::new(self, 2, false)?;
        let start = Instant::now();
        let done = overwrite_until(&mut writer, self.group, span, start)?;
        Ok(Sample {
            ops: done,
            seconds: (writer.worker.last - start).as_secs_f64(),
            extra: writer.seconds(),
            latencies: Some(writer.worker.latencies),
            user_write_bytes: writer.worker.user_write_bytes,
            limited: done < span.ops,
            wrote: true,
            ..Default::default()
        })
    }

    /// Deletes half of the loaded records in random order.
    pub(super) fn deleterandom(&mut self) -> Result<Sample> {
        let (state, loaded) = (&self.state, self.state.loaded());
        let (order, half) = (Perm::new(loaded, SEED ^ 99), loaded / 2);
        let mut writer = Writer::new(self, 3, true)?;
        let mut limited = false;
        let start = Instant::now();
        let mut i = 0;
        while i < half {
            let end = (i + self.group as u64).min(half);
            (i..end).for_each(|j| writer.stage(state.nth(order.at(j)), 0));
            writer.commit(self.group == 1)?;
            i = end;
            if (writer.worker.last - start).as_secs_f64() > self.settings.fill_limit_s && i < half {
                limited = true;
                break;
            }
        }
        Ok(Sample {
            ops: i,
            seconds: (writer.worker.last - start).as_secs_f64(),
            extra: writer.seconds(),
            latencies: Some(writer.worker.latencies),
            user_write_bytes: writer.worker.user_write_bytes,
            limited,
            wrote: true,
            ..Default::default()
        })
    }
}

/// Updates random records for a span of time that began at `start`. Returns how many.
fn overwrite_until(
    writer: &mut Writer<'_>,
    group: usize,
    span: Span,
    start: Instant,
) -> Result<u64> {
    let state = &writer.bench.state;
    let loaded = state.loaded();
    let mut done = 0;
    loop {
        let elapsed_s = (writer.worker.last - start).as_secs_f64();
        if span.done(done, elapsed_s) || elapsed_s >= span.limit_s {
            return Ok(done);
        }
        for _ in 0..group {
            let id = state.nth(writer.worker.rng.below(loaded));
            writer.stage(id, next(state.version(id)));
        }
        writer.commit(group == 1)?;
        done += group as u64;
    }
}
