//! The bare disk under a durable put: 4 KiB written in place, then fdatasync, again and again.
//!
//! The file is written with zeros and synced first, so that no sync has to allocate blocks or
//! convert unwritten ones. That makes it the best case of any log on this disk with one writer.

use crate::bench::report::emit;
use crate::metrics::{Counters, watch_device};
use crate::settings::Args;
use crate::store::Result;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const FILE_BYTES: u64 = 64 << 20;
pub const WRITE_BYTES: usize = 4096;

pub fn main(words: &[String]) -> Result<()> {
    let mut args = Args::parse(words)?;
    let dir = args.required("--dir")?;
    let seconds = args.number("--secs", 4.0)?;
    let out = args.text("--out");
    args.finish()?;
    emit(out.as_ref().map(Path::new), &run(Path::new(&dir), seconds)?)
}

/// Loops for `seconds` and returns a line as `run` prints them, for workload fillsync.
pub fn run(dir: &Path, seconds: f64) -> Result<Value> {
    fs::create_dir_all(dir)?;
    watch_device(dir);
    timed(&Block::create(&dir.join("syncloop"))?, Duration::from_secs_f64(seconds))
}

/// A file of written blocks; it goes when this does.
pub struct Block {
    file: fs::File,
    path: PathBuf,
}

impl Block {
    pub fn create(path: &Path) -> Result<Self> {
        let file = fs::OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
        // Block by block: the page cache remembers the size of a write, and would count more than a
        // block for each later one.
        for offset in (0..FILE_BYTES).step_by(WRITE_BYTES) {
            file.write_all_at(&[0; WRITE_BYTES], offset)?;
        }
        file.sync_all()?;
        Ok(Self { file, path: path.to_path_buf() })
    }

    /// Writes the `n`-th block, round and round, and has it synced.
    pub fn write_and_sync(&self, n: u64) -> std::io::Result<()> {
        self.file.write_all_at(&[0x5A; WRITE_BYTES], n * WRITE_BYTES as u64 % FILE_BYTES)?;
        self.file.sync_data()
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        fs::remove_file(&self.path).ok();
    }
}

fn timed(block: &Block, limit: Duration) -> Result<Value> {
    let mut latencies = Histogram::<u64>::new_with_bounds(1, 600_000_000_000, 3)?;
    let before = Counters::now();
    let start = Instant::now();
    let mut ops = 0;
    while start.elapsed() < limit {
        let call = Instant::now();
        block.write_and_sync(ops)?;
        latencies.saturating_record(call.elapsed().as_nanos() as u64);
        ops += 1;
    }
    let seconds = start.elapsed().as_secs_f64();
    let used = Counters::now().since(&before);
    let us = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(json!({
        "engine": "rawsync", "workload": "fillsync", "threads": 1, "ops": ops,
        "seconds": seconds, "ops_per_s": (ops as f64 / seconds).round(),
        "p50_us": us(0.5), "p99_us": us(0.99), "p999_us": us(0.999),
        "cpu_s": used.cpu, "other_cpu_s": (used.host_busy - used.cpu).max(0.0),
        "wrong": 0, "limited": false,
        "notes": "one thread: 4 KiB pwrite + fdatasync in a 64 MiB file written with zeros before",
    }))
}
