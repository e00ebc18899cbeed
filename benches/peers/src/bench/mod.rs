//! Runs workloads on one engine, one after the other, and reports each.
//!
//! A workload is prepared (a fresh directory, or what the one before left), perhaps warmed up, then
//! measured in rounds: one, unless it consumes its store before `min_s` seconds are over. Each
//! round has two clocks: the last call returned, and everything flushed with background work idle.
//!
//! `fill` loads, updates and deletes; `mix` reads and mixes; `hold` writes under
//! a snapshot; `whole` scans, reopens and kills;
//! `report` turns a measurement into a line.

mod fill;
mod hold;
mod mix;
pub mod report;
mod whole;

use crate::control::Control;
use crate::generate::Rng;
use crate::metrics::{self, Counters};
use crate::settings::Settings;
use crate::state::{SEED, State};
use crate::store::{Cfg, Result, Store};
use crate::stores;
use crate::workload::{READ_WHILE_WRITING, SNAPSHOT_HOLD, Workload};
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

/// Longest latency the histograms hold, in nanoseconds.
const LATENCY_NS_MAX: u64 = 600_000_000_000;

/// How long a workload goes on: `ops` operations and at least `min_s` seconds of them, but not
/// beyond `limit_s`.
#[derive(Clone, Copy)]
struct Span {
    threads: usize,
    ops: u64,
    min_s: f64,
    limit_s: f64,
}

impl Span {
    fn done(&self, ops: u64, elapsed_s: f64) -> bool {
        ops >= self.ops && elapsed_s >= self.min_s
    }

    /// What each of so many threads has to do.
    fn share(self, threads: usize) -> Span {
        Span { ops: self.ops.div_ceil(threads as u64), ..self }
    }
}

/// What one workload did.
#[derive(Default)]
struct Sample {
    ops: u64,
    /// Until the last call returned.
    seconds: f64,
    /// After that: making everything durable, and waiting for background work.
    flush_s: f64,
    settle_s: f64,
    rounds: u32,
    latencies: Option<Histogram<u64>>,
    /// Writes that went on beside what `ops` counts.
    writes: Option<Writes>,
    user_write_bytes: u64,
    user_read_bytes: u64,
    wrong: u64,
    /// Stopped at a time limit before its operations were done.
    limited: bool,
    /// Whether anything was written.
    wrote: bool,
    /// Whether it was then flushed and settled, so that there is a second clock.
    idle: bool,
    /// Until the last call returned.
    worked: Counters,
    read_calls: u64,
    /// Until everything was idle.
    settled: Counters,
    rss_peak: u64,
    rss_anon: u64,
    extra: Map<String, Value>,
}

/// Writes by a thread of their own.
struct Writes {
    ops: u64,
    /// Until the last one returned.
    seconds: f64,
    latencies: Histogram<u64>,
}

impl Sample {
    fn add(&mut self, round: Sample) {
        self.ops += round.ops;
        self.seconds += round.seconds;
        self.flush_s += round.flush_s;
        self.settle_s += round.settle_s;
        self.rounds += 1;
        match (&mut self.latencies, round.latencies) {
            (Some(all), Some(more)) => all.add(&more).expect("same bounds"),
            (all, more) => *all = all.take().or(more),
        }
        self.user_write_bytes += round.user_write_bytes;
        self.user_read_bytes += round.user_read_bytes;
        self.wrong += round.wrong;
        self.limited |= round.limited;
        self.wrote |= round.wrote;
        self.idle &= round.idle;
        self.worked.add(&round.worked);
        self.read_calls += round.read_calls;
        self.settled.add(&round.settled);
        self.rss_peak = self.rss_peak.max(round.rss_peak);
        self.rss_anon = round.rss_anon;
        self.extra.extend(round.extra);
    }
}

/// One thread's bookkeeping.
struct Worker {
    rng: Rng,
    latencies: Histogram<u64>,
    /// A value to be written, a value read, and room to check it.
    value: Vec<u8>,
    got: Vec<u8>,
    scratch: Vec<u8>,
    /// When it began, and when its last timed call ended.
    start: Instant,
    last: Instant,
    ops: u64,
    user_write_bytes: u64,
    user_read_bytes: u64,
    wrong: u64,
}

impl Worker {
    fn new(thread: usize, seed: u64, value_bytes: usize) -> Worker {
        let now = Instant::now();
        Worker {
            rng: Rng::new(SEED ^ seed.wrapping_mul(7919) ^ ((thread as u64) << 40)),
            latencies: Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("valid bounds"),
            value: vec![0; value_bytes],
            got: Vec::with_capacity(value_bytes),
            scratch: Vec::with_capacity(value_bytes),
            start: now,
            last: now,
            ops: 0,
            user_write_bytes: 0,
            user_read_bytes: 0,
            wrong: 0,
        }
    }

    fn elapsed_s(&self) -> f64 {
        (self.last - self.start).as_secs_f64()
    }

    /// A call that began at `start` has returned.
    #[inline]
    fn lap(&mut self, start: Instant) {
        let end = Instant::now();
        self.last = end;
        let ns = (end - start).as_nanos().clamp(1, u128::from(LATENCY_NS_MAX)) as u64;
        self.latencies.saturating_record(ns);
    }
}

/// One engine under test.
pub struct Bench {
    settings: Settings,
    state: Arc<State>,
    /// The open store, and whether it was opened durable.
    store: Option<(Box<dyn Store>, bool)>,
    ack: Option<&'static AtomicU64>,
    /// Writes per commit where workloads are grouped.
    group: usize,
    /// Runs of mixes so far: none draws the keys that another drew.
    mixes: AtomicU64,
    pub wrong: u64,
}

impl Bench {
    pub fn new(settings: Settings) -> Result<Bench> {
        let natural = stores::find(&settings.engine)?.group;
        fs::create_dir_all(&settings.dir)?;
        metrics::watch_device(&settings.dir);
        let ack = match &settings.ack {
            Some(path) => Some(whole::map_ack(path)?),
            None => None,
        };
        Ok(Bench {
            state: Arc::new(State::new(settings.n, settings.value_bytes, settings.keys)),
            store: None,
            ack,
            group: if settings.group > 0 { settings.group } else { natural },
            mixes: AtomicU64::new(0),
            wrong: 0,
            settings,
        })
    }

    fn data(&self) -> PathBuf {
        self.settings.dir.join(format!("{}.data", self.settings.engine))
    }

    fn state_file(&self) -> PathBuf {
        self.settings.dir.join(format!("{}.state", self.settings.engine))
    }

    fn store(&self) -> &dyn Store {
        &*self.store.as_ref().expect("a workload runs on an open store").0
    }

    /// Opens the store, unless it is open with this durability.
    fn open(&mut self, durable: bool) -> Result<()> {
        if self.store.as_ref().is_some_and(|(_, d)| *d == durable) {
            return Ok(());
        }
        self.close()?;
        fs::create_dir_all(self.data())?;
        let cfg = Cfg {
            dir: self.data(),
            memory_bytes: self.settings.memory_mb << 20,
            durable,
            threads: self.settings.threads.max(2),
            big: self.settings.big,
            n: self.settings.n,
            expected: Arc::clone(&self.state),
        };
        self.store = Some((stores::open(&self.settings.engine, &cfg)?, durable));
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        match self.store.take() {
            Some((store, _)) => store.close(),
            None => Ok(()),
        }
    }

    fn remove(&mut self) -> Result<()> {
        self.close()?;
        if self.data().exists() {
            fs::remove_dir_all(self.data())?;
        }
        if self.state_file().exists() {
            fs::remove_file(self.state_file())?;
        }
        Ok(())
    }

    /// An empty store; `random` is the order in which it will be loaded.
    fn fresh(&mut self, random: bool) -> Result<()> {
        self.remove()?;
        self.state.clear(random);
        self.open(false)
    }

    /// Runs every workload of the list.
    pub fn run(&mut self, workloads: &[Workload]) -> Result<()> {
        if self.settings.preload {
            self.preload()?;
        } else if !workloads[0].fresh() && !self.state.restore(&self.state_file()) {
            return Err("no saved state: start with --preload, fillseq or fillrandom".into());
        }
        for (i, workload) in workloads.iter().enumerate() {
            // Before a rest nobody tells the engine to do what is due.
            let settle = workloads.get(i + 1).is_none_or(|next| next.name != "rest");
            self.one(workload, settle)?;
        }
        self.close()?;
        if self.settings.keep {
            self.state.save(&self.state_file())?;
            Ok(())
        } else {
            self.remove()
        }
    }

    /// Brings the store to where a round of the workload starts.
    fn prepare(&mut self, w: &Workload) -> Result<()> {
        match w.name.as_str() {
            "fillseq" | "fillbulk" | "crash" => self.fresh(false),
            "fillrandom" => self.fresh(true),
            "fillsync" => self.open(true),
            // It may take several rounds, which should be alike.
            "deleterandom" if self.settings.min_s > 0.0 => self.preload(),
            _ => self.open(false),
        }
    }

    fn one(&mut self, w: &Workload, settle: bool) -> Result<()> {
        self.prepare(w)?;
        if let Some(why) = self.why_skipped(w) {
            eprintln!("{} {}: skipped ({why})", self.settings.engine, w.label());
            self.emit(&json!({
                "engine": self.settings.engine, "workload": w.name, "threads": w.threads,
                "tag": self.settings.tag, "rep": self.settings.rep, "skipped": why,
            }));
            return Ok(());
        }
        if self.settings.warm_s > 0.0 && w.warms_up() {
            let warm_s = self.settings.warm_s;
            let span = Span { ops: u64::MAX / 2, limit_s: warm_s, ..self.span(w) };
            self.wrong += self.work(w, span)?.wrong;
        }
        let mut all = self.measure(w, settle)?;
        while w.repeats() && !all.limited && all.seconds < self.settings.min_s {
            self.prepare(w)?;
            all.add(self.measure(w, settle)?);
        }
        self.wrong += all.wrong;
        self.report(w, all)
    }

    fn why_skipped(&self, w: &Workload) -> Option<&'static str> {
        let store = self.store();
        match w.name.as_str() {
            _ if w.seeks() && !store.ordered() => Some("unordered engine"),
            _ if w.seeks() && self.state.has_gaps() => Some("records were deleted"),
            "fillsync" if !store.can_sync() => Some("no durable single put"),
            SNAPSHOT_HOLD if matches!(store.snapshot(), Ok(None)) => Some("no snapshots"),
            "crash" if !store.can_crash() => Some("no crash recovery without flush"),
            _ => None,
        }
    }

    /// One round, with both clocks (the second only with `settle`) and everything counted.
    fn measure(&mut self, w: &Workload, settle: bool) -> Result<Sample> {
        let own_read_calls = Counters::own_read_calls();
        metrics::reset_peak_rss();
        let before = Counters::now();
        let control = self.settings.control.then(|| Control::start(&self.settings.dir));
        let mut sample = self.work(w, self.span(w))?;
        if let Some(control) = control {
            sample.extra.extend(control?.stop()?);
        }
        sample.worked = Counters::now().since(&before);
        sample.read_calls = sample.worked.read_calls.saturating_sub(own_read_calls);
        (sample.rss_peak, sample.rss_anon) = metrics::rss();
        if sample.wrote && settle {
            let start = Instant::now();
            self.store().flush()?;
            sample.flush_s = start.elapsed().as_secs_f64();
            let start = Instant::now();
            self.store().settle()?;
            sample.settle_s = start.elapsed().as_secs_f64();
            sample.idle = true;
            metrics::sync_file_system(&self.settings.dir)?;
        }
        sample.settled = Counters::now().since(&before);
        sample.rounds = 1;
        Ok(sample)
    }

    /// The timed part.
    fn work(&mut self, w: &Workload, span: Span) -> Result<Sample> {
        match w.name.as_str() {
            "fillseq" => self.fillseq(),
            "fillbulk" => self.fillbulk(),
            "fillrandom" => self.fillrandom(),
            "overwrite" => self.overwrite(span),
            "deleterandom" => self.deleterandom(),
            "fillsync" => self.fillsync(span),
            SNAPSHOT_HOLD => self.snapshot_hold(span),
            READ_WHILE_WRITING => self.read_while_writing(span),
            "scan" | "scandeleted" => self.scan(span),
            "rest" => Ok(self.rest()),
            "reopen" => self.reopen(false),
            "reopencold" => self.reopen(true),
            "crash" => self.crash(),
            _ => self.mix(w, span),
        }
    }

    /// How long a workload lasts by the settings. Loads and deletes have a limit of their own.
    fn span(&self, w: &Workload) -> Span {
        let s = &self.settings;
        let most = if s.ops > 0 { s.ops } else { (s.n / 2).min(1_000_000) };
        let min_s = if w.writes() { s.min_s } else { s.read_s };
        let ops = match w.name.as_str() {
            _ if w.ops > 0 => w.ops,
            // Such a row lasts as long as it is told to, however slow the engine is.
            _ if w.only_reported() && min_s > 0.0 => 1,
            "seek10" | "seekhold10" => most / 4,
            "seek100" | "ycsb-e" => most / 10,
            "fillsync" => u64::MAX / 2,
            _ => most,
        };
        let span =
            Span { threads: w.threads, ops: ops.max(1), min_s, limit_s: s.limit_s.max(min_s) };
        match w.name.as_str() {
            "fillsync" => Span { min_s: 0.0, limit_s: s.sync_s.max(min_s), ..span },
            _ => span,
        }
    }
}
