//! Question: does `memory_bytes` hold while far more than that is loaded and read, and how soon does a
//! database answer after it was killed in the middle of a load?
//!
//! Data: rows of 16-byte keys and 100-byte values in random order, single puts at `Os`. A child process
//! loads until it is killed with SIGKILL halfway; the parent opens what is left, loads the rest, and
//! reads at random. Private memory (`RssAnon`) is sampled twenty times a second.
//!
//! `cargo bench --bench memory -- DIRECTORY [ROWS] [MEMORY_MIB]`, 20,000,000 rows and 256 MiB unless said.
//!
//! A surprise would be: more than `memory_bytes` and 15 %, or a first answer later than 2 seconds.
#![allow(clippy::print_stdout, reason = "it prints its result")]
#![allow(clippy::disallowed_methods, reason = "it measures time")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

use esker::{Durability, Error, Index, Options, Result, Table};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let child = words.first().is_some_and(|word| word == "child");
    let words = &words[usize::from(child)..];
    let Some(directory) = words.first().map(PathBuf::from) else {
        println!(
            "memory: needs a directory to work in (see the top of the file); nothing measured"
        );
        return Ok(());
    };
    let number = |i: usize, usual: u64| -> u64 {
        words.get(i).map_or(usual, |word| word.parse().expect("a number"))
    };
    let (rows, memory_mib) = (number(1, 20_000_000), number(2, 256));
    if child {
        return load(&directory, memory_mib, rows);
    }
    run(&directory, rows, memory_mib)
}

fn open(directory: &Path, memory_mib: u64) -> Result<Table> {
    let bytes = usize::try_from(memory_mib * MIB).expect("fits the address space");
    let options = Options::new().memory_bytes(bytes).durability(Durability::Os);
    options.open(directory)?.table("rows", Index::BTree)
}

/// Key number `i` of a fixed order that looks random.
fn key(i: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&i.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32).to_le_bytes());
    key[8..].copy_from_slice(&i.to_le_bytes());
    key
}

/// Half of it compresses.
fn value(i: u64) -> [u8; 100] {
    let mut value = [b'.'; 100];
    let mut x = i;
    for byte in &mut value[..50] {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        *byte = x.to_le_bytes()[7];
    }
    value
}

fn load(directory: &Path, memory_mib: u64, rows: u64) -> Result<()> {
    let table = open(directory, memory_mib)?;
    for i in 0..rows {
        table.put(key(i), value(i))?;
    }
    Ok(())
}

/// Private memory of a process, in bytes.
fn private_bytes(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Rows that the child has certainly written, by the statistics of its files: the log and segments grow.
fn wait_for_half(child: &mut Child, directory: &Path, rows: u64) -> u64 {
    let mut most = 0;
    let begun = Instant::now();
    loop {
        std::thread::sleep(Duration::from_millis(50));
        most = most.max(private_bytes(child.id()));
        let files = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let bytes: u64 = files
            .filter(|file| file.file_name().to_string_lossy().starts_with("seg-"))
            .filter_map(|file| Some(file.metadata().ok()?.len()))
            .sum();
        // About 90 bytes a row on the disk, and at least a while.
        if bytes > rows * 45 || begun.elapsed() > Duration::from_mins(15) {
            return most;
        }
        if child.try_wait().expect("the child is ours").is_some() {
            return most;
        }
    }
}

fn run(directory: &Path, rows: u64, memory_mib: u64) -> Result<()> {
    let bound = memory_mib * MIB * 115 / 100;
    let me = std::env::current_exe().expect("this program has a path");
    let _absent = std::fs::remove_dir_all(directory).is_err();
    let begun = Instant::now();
    let mut child = Command::new(me)
        .arg("child")
        .arg(directory)
        .args([rows.to_string(), memory_mib.to_string()])
        .spawn()
        .expect("this program runs");
    let most_child = wait_for_half(&mut child, directory, rows);
    child.kill().expect("the child runs");
    child.wait().expect("the child was killed");
    println!("killed after {:.0?}; private memory up to {} MiB", begun.elapsed(), most_child / MIB);

    let most = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                most.fetch_max(private_bytes(std::process::id()), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let result = after_kill(directory, rows, memory_mib);
        done.store(true, Ordering::Relaxed);
        result
    })?;
    let most = most.into_inner().max(most_child);
    println!(
        "private memory up to {} MiB of {memory_mib} MiB: {:.3} of memory_bytes ({})",
        most / MIB,
        most as f64 / (memory_mib * MIB) as f64,
        if most <= bound { "within 15 %" } else { "beyond 15 %" }
    );
    Ok(())
}

fn after_kill(directory: &Path, rows: u64, memory_mib: u64) -> Result<()> {
    let begun = Instant::now();
    let table = open(directory, memory_mib)?;
    let first = table.get(key(0))?;
    println!("first get {:.0?} after the open began", begun.elapsed());
    assert_eq!(first.as_deref(), Some(&value(0)[..]), "the first row was acknowledged");
    let kept = table.approximate_len();
    // What was acknowledged is a prefix of the order of puts.
    for i in (0..kept).step_by(usize::try_from(kept / 1000 + 1).expect("small")) {
        assert_eq!(table.get(key(i))?.as_deref(), Some(&value(i)[..]), "row {i} of {kept}");
    }
    assert!(kept == rows || table.get(key(kept + 10))?.is_none(), "{kept} rows are all");
    let begun = Instant::now();
    for i in kept..rows {
        table.put(key(i), value(i))?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{kept} rows kept; the others at {:.0} puts/s", (rows - kept) as f64 / seconds);
    let begun = Instant::now();
    let reads = rows / 10;
    let mut i = 1_u64;
    for _ in 0..reads {
        i = i.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let i = (i >> 20) % rows;
        if table.get(key(i))?.as_deref() != Some(&value(i)[..]) {
            return Err(Error::invalid("wrong answer", format!("row {i}")));
        }
    }
    println!("{reads} random gets at {:.0}/s", reads as f64 / begun.elapsed().as_secs_f64());
    Ok(())
}
