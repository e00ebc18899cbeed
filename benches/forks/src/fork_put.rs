//! Fork 1: how does a put reach the kernel?
#![allow(unsafe_code, reason = "stores to a mapping of a file")]

use crate::Options;
use crate::readers::per;
use crate::report::Fork;
use memmap2::{Advice, MmapOptions, MmapRaw};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

const FORK: Fork = Fork {
    title: "Put at `Os`: log window against pwrite",
    question: "what does it cost to hand a record to the kernel, so that it outlives the process?",
    method: "140-byte records with a crc32, one after the other at multiples of 8, into 64 MiB files that \
        are zero-written, synced, in the page cache, and recycled (four in turn). *Window*: copy into a \
        shared mapping, made anew for each file and populated ahead in 1 MiB steps (MADV_POPULATE_WRITE); \
        the engine populates in a thread of its own, so that time has its own line and is not in the \
        others. *Unpopulated*: the same without populating. *pwrite*: one call per record. *Durable*: one \
        pwrite of 4 KiB and fdatasync per put. Flat out, and at 200,000 puts a second while another \
        thread syncs the files every second, as `Os` does. The clock is read once per burst of 64 puts.",
    sides: &["window", "unpopulated", "pwrite", "durable"],
    base: 0,
};
const WINDOW: usize = 0;
const PWRITE: usize = 2;
const DURABLE: usize = 3;

const FILES: usize = 4;
const FILE_BYTES: usize = 64 << 20;
const RECORD_BYTES: usize = 140;
const STRIDE_BYTES: usize = RECORD_BYTES.next_multiple_of(8);
const STEP_BYTES: usize = 1 << 20;
const BLOCK_BYTES: usize = 4096;
/// Puts between two looks at the clock.
const BURST: usize = 64;
/// From one burst to the next: 200,000 puts a second.
const PACE: Duration = Duration::from_micros(320);
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) fn run(options: &Options) -> io::Result<()> {
    let files = (0..FILES).map(|i| create(&options.dir, i)).collect::<io::Result<Vec<_>>>()?;
    FORK.run(options, |order, round| {
        for &side in order {
            if side == DURABLE {
                let nanos = round.quietly(|_| durable(&files[0], options.time))?;
                round.note("put, ns", side, nanos);
                continue;
            }
            let puts = round.quietly(|_| {
                files.iter().try_for_each(File::sync_data)?;
                put(&files, side, options.time, Duration::ZERO)
            })?;
            round.note("put, ns", side, puts.nanos(puts.bursts.iter().sum()));
            if side == WINDOW {
                round.note("populating, ns per put", side, puts.nanos(puts.populate));
            }
            for (measure, value) in round.quietly(|_| paced(&files, side, options.time))? {
                round.note(measure, side, value);
            }
        }
        Ok(())
    })
}

fn paced(files: &[File], side: usize, time: Duration) -> io::Result<[(&'static str, f64); 3]> {
    files.iter().try_for_each(File::sync_data)?;
    let mut puts = thread::scope(|scope| {
        let (stop, stopped) = channel::<()>();
        let syncs = scope.spawn(move || {
            while stopped.recv_timeout(SYNC_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                files.iter().try_for_each(File::sync_data)?;
            }
            Ok(())
        });
        let puts = put(files, side, time, PACE);
        drop(stop);
        syncs.join().expect("the syncing thread does not panic").and(puts)
    })?;
    let nanos = puts.nanos(puts.bursts.iter().sum());
    puts.bursts.sort_unstable();
    let last = puts.bursts.len() - 1;
    let micros = |at: usize| puts.bursts[at].as_secs_f64() * 1e6;
    Ok([
        ("put, paced, with syncs, ns", nanos),
        ("64 of these, 99.9th percentile, µs", micros(last - last / 1000)),
        ("64 of these, slowest, µs", micros(last)),
    ])
}

/// A file of zeroes, all durable, whose name is gone already.
fn create(dir: &Path, number: usize) -> io::Result<File> {
    let path = dir.join(format!("esker-forks-{}-{number}", std::process::id()));
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    let zeroes = vec![0; STEP_BYTES];
    for at in (0..FILE_BYTES).step_by(STEP_BYTES) {
        file.write_all_at(&zeroes, at as u64)?;
    }
    file.sync_all()?;
    Ok(file)
}

/// What a run of puts took.
#[derive(Debug, Default)]
struct Puts {
    bursts: Vec<Duration>,
    populate: Duration,
}

impl Puts {
    fn nanos(&self, time: Duration) -> f64 {
        per(time, self.bursts.len() * BURST)
    }
}

fn put(files: &[File], side: usize, time: Duration, pace: Duration) -> io::Result<Puts> {
    let (start, mut puts, mut record) = (Instant::now(), Puts::default(), [0x5A; RECORD_BYTES]);
    for file in files.iter().cycle() {
        let opened = Instant::now();
        let map = || MmapOptions::new().len(FILE_BYTES).map_raw(file);
        let window = if side == PWRITE { None } else { Some(map()?) };
        // Taking a file into use is part of its first burst.
        let mut extra = opened.elapsed();
        let (mut at, mut populated) = (0, 0);
        while at + BURST * STRIDE_BYTES <= FILE_BYTES {
            if side == WINDOW && at + BURST * STRIDE_BYTES > populated {
                let (began, window) = (Instant::now(), window.as_ref().expect("this side's"));
                window.advise_range(Advice::PopulateWrite, populated, STEP_BYTES)?;
                populated += STEP_BYTES;
                puts.populate += began.elapsed();
            }
            let began = Instant::now();
            for _ in 0..BURST {
                record[4..12].copy_from_slice(&(at as u64).to_le_bytes());
                let crc = crc32fast::hash(&record[4..]);
                record[..4].copy_from_slice(&crc.to_le_bytes());
                match &window {
                    Some(window) => store(window, at, &record),
                    None => file.write_all_at(&record, at as u64)?,
                }
                at += STRIDE_BYTES;
            }
            puts.bursts.push(began.elapsed() + std::mem::take(&mut extra));
            if start.elapsed() >= time {
                return Ok(puts);
            }
            while began.elapsed() < pace {
                std::hint::spin_loop();
            }
        }
    }
    unreachable!("a cycle has no end")
}

#[inline]
fn store(window: &MmapRaw, at: usize, record: &[u8; RECORD_BYTES]) {
    assert!(at + RECORD_BYTES <= window.len());
    // SAFETY: inside the mapping, asserted above.
    let to = unsafe { window.as_mut_ptr().add(at) };
    // SAFETY: mapped writable; no reference into the mapping is ever made, and nobody cuts the file, which
    // has no name.
    unsafe { to.copy_from_nonoverlapping(record.as_ptr(), RECORD_BYTES) };
}

/// Nanoseconds for a block that survives power loss.
fn durable(file: &File, time: Duration) -> io::Result<f64> {
    let (start, mut done) = (Instant::now(), 0);
    for at in (0..FILE_BYTES).step_by(BLOCK_BYTES).cycle() {
        if start.elapsed() >= time {
            break;
        }
        file.write_all_at(&[0xA5; BLOCK_BYTES], at as u64)?;
        file.sync_data()?;
        done += 1;
    }
    Ok(per(start.elapsed(), done))
}
