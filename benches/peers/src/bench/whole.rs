//! What concerns a store as a whole: full scans, rest, reopening, and kill -9.

use super::{Bench, Sample, Span, Worker};
use crate::keys::Previous;
use crate::metrics;
use crate::settings::Settings;
use crate::state::entry_sum;
use crate::store::{LOWEST, Result};
use crate::stores::{self, Acked};
use serde_json::json;
use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

/// How often a scan looks at the clock, in entries.
const SCAN_STRIDE: u64 = 65_536;
/// Bytes of the file that is mapped to count acknowledged writes.
const ACK_BYTES: usize = 4096;

/// Maps the file in which a child counts its acknowledged writes: it outlives kill -9.
pub(super) fn map_ack(path: &Path) -> Result<&'static AtomicU64> {
    let file =
        fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    file.set_len(ACK_BYTES as u64)?;
    // SAFETY: a new shared mapping of an open file; nothing else is at the address it gets.
    let map = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            ACK_BYTES,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            0,
        )
    };
    if map == libc::MAP_FAILED {
        return Err(std::io::Error::last_os_error().into());
    }
    // SAFETY: the mapping is page-aligned, as long as the atomic needs, and never unmapped.
    Ok(unsafe { &*map.cast::<AtomicU64>() })
}

impl Bench {
    /// The whole table, as often as the span says; every byte of every value is hashed, and count
    /// and sum must match.
    pub(super) fn scan(&self, span: Span) -> Result<Sample> {
        let expected = self.state.expected_scan();
        let mut all = self.scan_once(expected, span.limit_s)?;
        while all.seconds < span.min_s && !all.limited && all.ops > 0 {
            all.add(self.scan_once(expected, span.limit_s - all.seconds)?);
        }
        let rate = all.user_read_bytes as f64 / 1e6 / all.seconds;
        all.extra.insert("mb_per_s".into(), json!((rate * 10.0).round() / 10.0));
        Ok(all)
    }

    fn scan_once(&self, expected: (u64, u64), limit_s: f64) -> Result<Sample> {
        let mut session = self.store().session()?;
        self.checked_scan(expected, limit_s, |f| session.scan(&LOWEST, usize::MAX, f))
    }

    /// Has `scan` go through the whole table, and checks what it finds.
    pub(super) fn checked_scan(
        &self,
        expected: (u64, u64),
        limit_s: f64,
        scan: impl FnOnce(&mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<usize>,
    ) -> Result<Sample> {
        let ordered = self.store().ordered();
        let limit = Duration::from_secs_f64(limit_s);
        let (mut sum, mut sorted) = (0u64, true);
        let mut previous = Previous::none();
        let (mut bytes, mut count, mut limited) = (0u64, 0u64, false);
        let start = Instant::now();
        let got = scan(&mut |k, v| {
            sum = sum.wrapping_add(entry_sum(k, v));
            bytes += (k.len() + v.len()) as u64;
            if ordered {
                sorted &= previous.advance(k);
            }
            count += 1;
            limited = count.is_multiple_of(SCAN_STRIDE) && start.elapsed() > limit;
            !limited
        })? as u64;
        let seconds = start.elapsed().as_secs_f64();
        let mut wrong = u64::from(!sorted) + u64::from(got != count);
        if !limited && expected != (count, sum) {
            eprintln!("WRONG: scan: (entries, sum) {:?}, expected {expected:?}", (count, sum));
            wrong += 1;
        }
        Ok(Sample {
            ops: count,
            seconds,
            user_read_bytes: bytes,
            wrong,
            limited,
            ..Default::default()
        })
    }

    /// Leaves the store alone; what then counts is its size, and the bytes written meanwhile.
    pub(super) fn rest(&self) -> Sample {
        let start = Instant::now();
        std::thread::sleep(Duration::from_secs_f64(self.settings.rest_s));
        Sample { ops: 1, seconds: start.elapsed().as_secs_f64(), ..Default::default() }
    }

    /// Close, open, first get; `cold`: file pages are dropped from the page cache in between.
    pub(super) fn reopen(&mut self, cold: bool) -> Result<Sample> {
        let start = Instant::now();
        self.close()?;
        let close_s = start.elapsed().as_secs_f64();
        if cold {
            metrics::evict(&self.data());
        }
        let start = Instant::now();
        self.open(false)?;
        let open_s = start.elapsed().as_secs_f64();
        let state = &self.state;
        let loaded = state.loaded();
        let id = (0..loaded)
            .map(|i| state.nth((loaded / 3 + i) % loaded))
            .find(|id| state.version(*id) > 0)
            .ok_or("nothing is left to read")?;
        let mut worker = Worker::new(0, 5, state.value_bytes);
        self.get(&mut *self.store().session()?, &mut worker, id)?;
        let first_us = worker.latencies.max() as f64 / 1000.0;
        let mut sample = opened(open_s, first_us, worker.wrong);
        sample.extra.insert("close_s".into(), json!(close_s));
        Ok(sample)
    }

    /// Kills (-9) a child in the middle of fillrandom, times the next open, and counts the
    /// acknowledged writes that are gone; an engine that is said to lose none must not. The process
    /// dies, not the power: the page cache survives.
    pub(super) fn crash(&mut self) -> Result<Sample> {
        self.remove()?;
        let (acked, ran_s) = self.killed_load()?;
        let state = &self.state;
        state.clear(true);
        state.set_loaded(acked);
        (0..acked).for_each(|i| state.set_version(state.nth(i), 1));

        let start = Instant::now();
        self.open(false)?;
        let open_s = start.elapsed().as_secs_f64();
        let state = &self.state;
        let (mut lost, mut wrong, mut first_us, mut first_lost) = (0u64, 0u64, 0.0, None);
        let mut session = self.store().session()?;
        let (mut got, mut scratch) = (vec![], vec![]);
        for i in 0..acked {
            let id = state.nth(i);
            got.clear();
            let start = Instant::now();
            let found = session.get(&state.key(id), &mut |v| got.extend_from_slice(v))?;
            if i == 0 {
                first_us = start.elapsed().as_nanos() as f64 / 1000.0;
            }
            if !found {
                lost += 1;
                first_lost.get_or_insert(i);
            } else if !state.check(id, 1, 1, Some(&got), &mut scratch) {
                wrong += 1;
            }
        }
        // Nothing but what was asked for, and at most the commit that was under way.
        let mut entries = 0;
        session.scan(&LOWEST, usize::MAX, &mut |key, value| {
            entries += 1;
            let right = state
                .id(key)
                .is_some_and(|id| id < state.n && state.check(id, 1, 1, Some(value), &mut scratch));
            wrong += u64::from(!right);
            true
        })?;
        if entries > acked - lost + self.group as u64 {
            eprintln!("WRONG: {entries} entries, {lost} of {acked} acknowledged are lost");
            wrong += 1;
        }
        if lost > 0 && stores::find(&self.settings.engine)?.acked != Acked::Lost {
            eprintln!("WRONG: {lost} of {acked} acknowledged writes are lost");
            wrong += lost;
        }
        drop(session);
        // The store is left as it is, and nothing is expected of it.
        state.clear(true);
        let mut sample = opened(open_s, first_us, wrong);
        sample.extra.insert("acked".into(), json!(acked));
        sample.extra.insert("lost_acked".into(), json!(lost));
        sample.extra.insert("first_lost".into(), json!(first_lost));
        sample.extra.insert("ran_s".into(), json!(ran_s));
        Ok(sample)
    }

    /// (acknowledged writes, seconds) of a load that was killed when half of it was acknowledged.
    fn killed_load(&self) -> Result<(u64, f64)> {
        let ack = self.settings.dir.join(format!("{}.ack", self.settings.engine));
        fs::write(&ack, [0; 8])?;
        let child = Settings {
            keep: true,
            preload: false,
            min_s: 0.0,
            out: None,
            ack: Some(ack.clone()),
            ..self.settings.clone()
        };
        let mut child = Command::new(std::env::current_exe()?)
            .args(child.to_args("fillrandom"))
            .stdout(Stdio::null())
            .spawn()?;
        let counter = map_ack(&ack)?;
        let acked = || counter.load(std::sync::atomic::Ordering::Acquire);
        let start = Instant::now();
        while acked() < self.settings.n / 2
            && start.elapsed().as_secs_f64() < self.settings.fill_limit_s
            && child.try_wait()?.is_none()
        {
            std::thread::sleep(Duration::from_millis(2));
        }
        let ran_s = start.elapsed().as_secs_f64();
        child.kill()?;
        child.wait()?;
        let acked = acked();
        fs::remove_file(&ack)?;
        Ok((acked, ran_s))
    }
}

fn opened(open_s: f64, first_us: f64, wrong: u64) -> Sample {
    let mut sample =
        Sample { ops: 1, seconds: open_s + first_us / 1e6, wrong, ..Default::default() };
    sample.extra.insert("open_s".into(), json!(open_s));
    sample.extra.insert("first_get_us".into(), json!(first_us));
    sample
}
