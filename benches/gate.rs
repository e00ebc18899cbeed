//! Question: what does each part of a fractal tree cost a random load: the log and the memtable alone (the ceiling),
//! then runs too, then merges too?
//!
//! Data: rows of 16-byte keys and 100-byte values in random order, single puts at `Os`, one database per step.
//! *ceiling* clears the table each time a memtable is almost full, so nothing is ever flushed; *flush* clears it when
//! its root holds almost as many runs as it may before it is merged; *merge* clears nothing. What is left is then at rest.
//! The memory is that of the comparisons (448 MiB), whose memtable takes a twelfth.
//!
//! `cargo bench --bench gate -- DIRECTORY [ROWS] [MEMORY_MIB]`, 30,000,000 rows unless said; run it under the cap of the
//! comparisons (`benches/peers/scripts/capped.sh 1024`).
//!
//! A surprise would be: a ceiling below twice the load of `RocksDB` in the same minute, or a *flush* far below the ceiling.
#![allow(clippy::print_stdout, reason = "it prints its result")]
#![allow(clippy::disallowed_methods, reason = "it measures time")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

use esker::{Durability, Index, Options, Result};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What a row counts for in a memtable, at least.
const ROW_BYTES: u64 = 116;
/// Runs that the root takes before it is merged, less one for the memtable that is filled meanwhile.
const RUNS: u64 = 6;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let Some(directory) = words.first().map(PathBuf::from) else {
        println!("gate: needs a directory to work in (see the top of the file); nothing measured");
        return Ok(());
    };
    let number = |i: usize, usual: u64| -> u64 {
        words.get(i).map_or(usual, |word| word.parse().expect("a number"))
    };
    let (rows, memory_mib) = (number(1, 30_000_000), number(2, 448));
    // The engine's index gets less than all memory: nine tenths of a twelfth stay below a memtable.
    let memtable_rows = (memory_mib << 20) / 12 / ROW_BYTES * 7 / 10;
    step(&directory, "ceiling", rows, memory_mib, memtable_rows)?;
    step(&directory, "flush", rows, memory_mib, memtable_rows * RUNS)?;
    step(&directory, "merge", rows, memory_mib, u64::MAX)
}

/// A key that looks random and is another one for each `i`.
fn key(i: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&i.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32).to_le_bytes());
    key[8..].copy_from_slice(&i.to_le_bytes());
    key
}

/// Half of it compresses.
fn fill(value: &mut [u8; 100], i: u64) {
    let mut x = i;
    for word in value[..48].as_chunks_mut::<8>().0 {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *word = x.to_le_bytes();
    }
}

fn step(place: &Path, name: &str, rows: u64, memory_mib: u64, clear_after: u64) -> Result<()> {
    let place = place.join(name);
    if place.exists() {
        std::fs::remove_dir_all(&place).expect("the directory of the last time goes");
    }
    let memory_bytes = usize::try_from(memory_mib << 20).expect("fits the address space");
    let db = Options::new().memory_bytes(memory_bytes).durability(Durability::Os).open(&place)?;
    let table = db.table("rows", Index::Fractal)?;
    let mut value = [b'.'; 100];
    let since = Instant::now();
    for i in 0..rows {
        if i > 0 && i % clear_after == 0 {
            table.clear()?;
        }
        fill(&mut value, i);
        table.put(key(i), value)?;
    }
    let returned_s = since.elapsed().as_secs_f64();
    db.settle()?;
    let idle_s = since.elapsed().as_secs_f64();
    let stats = db.stats();
    let user_bytes = rows * ROW_BYTES;
    println!(
        "{name:8} {:>9.0} puts/s, all idle {:>9.0}; bytes written ÷ bytes put: log {:.2}, images {:.2}",
        rows as f64 / returned_s,
        rows as f64 / idle_s,
        stats.log_bytes as f64 / user_bytes as f64,
        stats.image_bytes_written as f64 / user_bytes as f64,
    );
    drop(table);
    db.close()?;
    std::fs::remove_dir_all(&place).expect("the directory goes");
    Ok(())
}
