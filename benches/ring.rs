//! Question: are reads that are made together faster, and cheaper, through `io_uring` or through threads?
//!
//! Data: a B-tree of 4 M rows (16 + 100 bytes, half compressible), 32 MiB of memory, opened in turns with `io_uring` and without; before each
//! part the page cache is dropped, where this user may (`/proc/sys/vm/drop_caches`; else the reads are of the page cache, and
//! it says so). *gets* reads random rows, 32 at a time by `multi_get`; *scan* reads 1 M rows from a random place.
//!
//! `cargo bench --bench ring -- DIRECTORY [ROWS]`
//!
//! A surprise would be: threads ahead on either figure.
#![allow(clippy::print_stdout, reason = "it prints its result")]
#![allow(clippy::disallowed_methods, reason = "it measures time")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]
#![allow(clippy::big_endian_bytes, reason = "keys in the order of their numbers")]

use esker::{Database, Durability, Index, Options, Result};
use std::path::{Path, PathBuf};
use std::time::Instant;

const TOGETHER: usize = 32;
const GETS: usize = 60_000;
const SCANNED: usize = 1_000_000;
const ROUNDS: usize = 3;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let Some(directory) = words.first().map(PathBuf::from) else {
        println!("ring: needs a directory to work in (see the top of the file); nothing measured");
        return Ok(());
    };
    let rows: u64 = words.get(1).map_or(4_000_000, |word| word.parse().expect("a number"));
    let place = directory.join("ring");
    if place.exists() {
        std::fs::remove_dir_all(&place).expect("the directory of the last time goes");
    }
    load(&place, rows)?;
    println!(
        "| reads through | gets, k/s | processor, µs each | scan, M rows/s | processor, µs a row |"
    );
    println!("|---|---:|---:|---:|---:|");
    for round in 0..ROUNDS {
        for io_uring in [true, false] {
            run(&place, rows, io_uring, round as u64)?;
        }
    }
    Ok(())
}

fn open(place: &Path, io_uring: bool) -> Result<Database> {
    Options::new().memory_bytes(32 << 20).durability(Durability::Os).io_uring(io_uring).open(place)
}

fn key(n: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&n.to_be_bytes());
    key[8..].copy_from_slice(&mix(n).to_be_bytes());
    key
}

fn mix(n: u64) -> u64 {
    let mut x = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn load(place: &Path, rows: u64) -> Result<()> {
    let db = open(place, true)?;
    let table = db.table("t", Index::BTree)?;
    for from in (0..rows).step_by(1000) {
        let mut batch = db.batch();
        for n in from..(from + 1000).min(rows) {
            let mut value = [b'.'; 100];
            for (i, chunk) in value[..48].chunks_mut(8).enumerate() {
                chunk.copy_from_slice(&mix(n ^ (i as u64) << 50).to_be_bytes());
            }
            batch.put(&table, key(n), value);
        }
        batch.commit()?;
    }
    db.close()
}

/// Seconds of processor time that this process has used, its threads and its part of the kernel included.
fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = text.rsplit(')').next().unwrap_or_default();
    let ticks = |i: usize| -> f64 {
        after.split_whitespace().nth(i).and_then(|word| word.parse().ok()).unwrap_or(0.0)
    };
    (ticks(11) + ticks(12)) / 100.0
}

fn run(place: &Path, rows: u64, io_uring: bool, round: u64) -> Result<()> {
    let db = open(place, io_uring)?;
    let table = db.table("t", Index::BTree)?;
    let drop_cache = || std::fs::write("/proc/sys/vm/drop_caches", "1").is_ok();
    let cold = drop_cache();
    let (started, used) = (Instant::now(), processor_seconds());
    for i in 0..(GETS / TOGETHER) as u64 {
        let keys: Vec<_> =
            (0..TOGETHER as u64).map(|j| key(mix(round << 40 | i << 8 | j) % rows)).collect();
        assert!(table.multi_get(&keys)?.iter().all(Option::is_some));
    }
    let (gets_s, gets_cpu) = (started.elapsed().as_secs_f64(), processor_seconds() - used);
    drop_cache();
    let (started, used) = (Instant::now(), processor_seconds());
    let mut scan = table.range(key(mix(round) % (rows / 2))..)?;
    let mut seen = 0;
    while seen < SCANNED && scan.next_row()?.is_some() {
        seen += 1;
    }
    let (scan_s, scan_cpu) = (started.elapsed().as_secs_f64(), processor_seconds() - used);
    println!(
        "| {}{} | {:.1} | {:.1} | {:.2} | {:.3} |",
        if io_uring { "io_uring" } else { "threads" },
        if cold { "" } else { " (page cache)" },
        GETS as f64 / gets_s / 1e3,
        gets_cpu * 1e6 / GETS as f64,
        seen as f64 / scan_s / 1e6,
        scan_cpu * 1e6 / seen as f64,
    );
    drop(scan);
    db.close()
}
