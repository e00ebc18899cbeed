//! Question: does a table used as a queue stay fast, however much has gone through it?
//!
//! Data: keys that ascend, 100-byte values, `Os`. Four parts, of a fractal tree unless said:
//! *fill* puts all rows at the back; *blind* deletes the first half in order without looking, looks, takes one out and looks again;
//! *pop* takes the other half out by `pop_first`. Then *queue*: as many rows again go through a queue of 1,000, a put and
//! a `pop_first` at a time. At ten points of each the time of a look at the first row is taken (the best of three: one is
//! interrupted now and then).
//!
//! `cargo bench --bench queue -- DIRECTORY [ROWS] [MEMORY_MIB] [btree]`, 10,000,000 rows and 256 MiB unless said.
//!
//! A surprise would be: a look that takes longer the more rows were deleted before it, or more space than the rows need
//! once the table is at rest.
#![allow(clippy::print_stdout, reason = "it prints its result")]
#![allow(clippy::disallowed_methods, reason = "it measures time")]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

use esker::{Database, Durability, Index, Options, Result, Table};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Rows that wait in the queue of the last part.
const WAITING: u64 = 1000;
const POINTS: u64 = 10;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let Some(directory) = words.first().map(PathBuf::from) else {
        println!("queue: needs a directory to work in (see the top of the file); nothing measured");
        return Ok(());
    };
    let number = |i: usize, usual: u64| -> u64 {
        words.get(i).map_or(usual, |word| word.parse().expect("a number"))
    };
    let (rows, memory_mib) = (number(1, 10_000_000), number(2, 256));
    let is_btree = words.get(3).is_some_and(|word| word == "btree");
    let kind = if is_btree { Index::BTree } else { Index::Fractal };
    let place = directory.join(kind.name());
    if place.exists() {
        std::fs::remove_dir_all(&place).expect("the directory of the last time goes");
    }
    run(&place, kind, rows, memory_mib)
}

fn key(n: u64) -> Vec<u8> {
    format!("{n:010}").into_bytes()
}

/// Half of it compresses.
fn value(n: u64) -> [u8; 100] {
    let mut value = [b'.'; 100];
    let mut x = n;
    for byte in &mut value[..50] {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = (x >> 56) as u8;
    }
    value
}

/// How long a look at the first row takes, which is number `wanted`.
fn look(table: &Table, wanted: u64) -> Result<Duration> {
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let since = Instant::now();
        let mut all = table.range(..)?;
        let first = all.next_row()?.map(|(key, _)| key.to_vec());
        best = best.min(since.elapsed());
        assert_eq!(first.as_deref(), Some(&key(wanted)[..]), "the first row");
    }
    Ok(best)
}

/// One part: `rows` steps, and the looks in between.
struct Part<'t> {
    table: &'t Table,
    name: &'static str,
    looks: Vec<f64>,
    since: Instant,
    looking: Duration,
}

impl<'t> Part<'t> {
    fn new(table: &'t Table, name: &'static str) -> Self {
        Self { table, name, looks: Vec::new(), since: Instant::now(), looking: Duration::ZERO }
    }
    fn look(&mut self, wanted: u64) -> Result<()> {
        let since = Instant::now();
        let took = look(self.table, wanted)?;
        self.looks.push(took.as_secs_f64() * 1e6);
        self.looking += since.elapsed();
        Ok(())
    }
    fn end(self, kind: Index, rows: u64) {
        let seconds = self.since.elapsed().as_secs_f64() - self.looking.as_secs_f64();
        let looks: Vec<String> = self.looks.iter().map(|us| format!("{us:.0}")).collect();
        println!(
            "{:8} {:6} {:>9.0} rows/s  look, µs: {}",
            kind.name(),
            self.name,
            rows as f64 / seconds,
            looks.join(" ")
        );
    }
}

fn run(place: &Path, kind: Index, rows: u64, memory_mib: u64) -> Result<()> {
    let memory_bytes = usize::try_from(memory_mib << 20).expect("fits the address space");
    let db = Options::new().memory_bytes(memory_bytes).durability(Durability::Os).open(place)?;
    let table = db.table("queue", kind)?;
    let every = (rows / 2 / POINTS).max(1);

    let mut part = Part::new(&table, "fill");
    for n in 0..rows {
        table.put(key(n), value(n))?;
        if n % (every * 2) == 0 {
            part.look(0)?;
        }
    }
    part.end(kind, rows);

    let mut part = Part::new(&table, "blind");
    for n in 0..rows / 2 {
        table.delete(key(n))?;
    }
    // The first looks pay for the deletes; whoever writes next makes it good.
    part.look(rows / 2)?;
    table.pop_first()?;
    part.look(rows / 2 + 1)?;
    part.end(kind, rows / 2);

    let mut part = Part::new(&table, "pop");
    for n in rows / 2 + 1..rows - WAITING {
        let first = table.pop_first()?.map(|(key, _)| key);
        assert_eq!(first.as_deref(), Some(&key(n)[..]));
        if n % every == 0 {
            part.look(n + 1)?;
        }
    }
    part.end(kind, rows / 2);

    let mut part = Part::new(&table, "queue");
    for n in rows..rows * 2 {
        table.put(key(n), value(n))?;
        let first = table.pop_first()?.map(|(key, _)| key);
        assert_eq!(first.as_deref(), Some(&key(n - WAITING)[..]));
        if n % (every * 2) == 0 {
            part.look(n + 1 - WAITING)?;
        }
    }
    part.end(kind, rows);
    finish(&db, &table, kind)
}

/// What is left at rest.
fn finish(db: &Database, table: &Table, kind: Index) -> Result<()> {
    db.settle()?;
    let stats = db.stats();
    let counted = table.approximate_len();
    println!(
        "{:8} rest   {} KiB alive of {} KiB for {WAITING} rows, counted as {counted}",
        kind.name(),
        stats.live_bytes >> 10,
        stats.segment_bytes >> 10,
    );
    Ok(())
}
