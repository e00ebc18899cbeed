//! Question: what does one get and one put of each kind of index cost, in time, allocations, page faults, system calls and bytes?
//!
//! Data: rows of 16-byte keys and 100-byte values, half of which compress, in random order, all in memory; `Os`. Of each kind: *get* of
//! rows that are there, *absent* keys between them, and *put* over rows that are there. Processor time, allocations,
//! faults and calls are those of the thread that asks; wall time is given beside. Bytes are of the whole database, over a put's loop
//! and the checkpoint after it.
//!
//! `cargo bench --bench budget -- DIRECTORY [ROWS] [OPERATIONS] [KIND]`: 2,000,000 rows and operations of all kinds unless said. To
//! see in which function the time goes: `perf record` of the binary with a KIND; to count instructions, and misses of a simulated cache:
//! `valgrind --tool=cachegrind` with two numbers of OPERATIONS, and the difference of both.
//!
//! A surprise would be: an allocation in a get, more than two in a put, a call to the system in most operations.
#![allow(clippy::print_stdout, reason = "it prints its result")]
#![allow(
    clippy::disallowed_methods,
    reason = "it measures time, and reads what the system says of the thread"
)]
#![allow(clippy::cast_precision_loss, reason = "figures for people")]

use esker::{Database, Durability, Index, Options, Result, Table};
use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let Some(directory) = words.first().map(PathBuf::from) else {
        println!(
            "budget: needs a directory to work in (see the top of the file); nothing measured"
        );
        return Ok(());
    };
    let number = |i: usize| -> u64 {
        words.get(i).map_or(2_000_000, |word| word.parse().expect("a number"))
    };
    let (rows, operations) = (number(1), number(2));
    println!(
        "| kind | operation | ns of the processor | ns | allocations | faults | reads and writes by call | log bytes | image bytes |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|---:|---:|");
    for kind in [Index::BTree, Index::Hash, Index::Fractal] {
        if words.get(3).is_none_or(|word| word == kind.name()) {
            let place = directory.join(format!("budget-{}", kind.name()));
            if place.exists() {
                std::fs::remove_dir_all(&place).expect("the directory of the last time goes");
            }
            run(&place, kind, rows, operations)?;
            std::fs::remove_dir_all(&place).expect("nobody has it open");
        }
    }
    Ok(())
}

fn run(place: &std::path::Path, kind: Index, rows: u64, operations: u64) -> Result<()> {
    // Four times the rows: nothing is evicted.
    let memory = usize::try_from(rows * 464).expect("rows that fit memory").max(64 << 20);
    let options = Options::new().memory_bytes(memory).durability(Durability::Os);
    let db = options.open(place)?;
    let table = db.table("rows", kind)?;
    for n in 0..rows {
        table.put(key(scatter(n, rows)), value(n))?;
    }
    table.optimize(..)?;
    db.checkpoint()?;
    let mut line = Line { db: &db, kind, operations };
    line.measure("get", |n| {
        let found = table.get_with(key(scatter(n, rows)), |value| value[0])?;
        assert!(black_box(found).is_some(), "every row is there");
        Ok(())
    })?;
    line.measure("absent", |n| {
        let found = table.get_with(absent(scatter(n, rows)), |value| value[0])?;
        assert!(black_box(found).is_none(), "no such row was put");
        Ok(())
    })?;
    line.measure("put", |n| put(&table, n, rows))?;
    drop(table);
    db.close()
}

fn put(table: &Table, n: u64, rows: u64) -> Result<()> {
    table.put(key(scatter(n, rows)), value(n ^ 1))
}

/// A row far from those of the numbers before; all of them, if `n` counts up, for numbers of rows with no prime factors but 2
/// and 5.
fn scatter(n: u64, rows: u64) -> u64 {
    // The golden section, ending in 7.
    let step = rows * 618 / 10_000 * 10 + 7;
    n.wrapping_mul(step) % rows
}

fn key(row: u64) -> [u8; 16] {
    let mut key = *b"000000000000row-";
    let mut left = row;
    for byte in key[..12].iter_mut().rev() {
        *byte = b'0' + u8::try_from(left % 10).expect("a digit");
        left /= 10;
    }
    key
}

fn absent(row: u64) -> [u8; 16] {
    let mut key = key(row);
    key[15] = b'+';
    key
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

/// What the system has counted of this thread so far.
#[derive(Clone, Copy, Debug)]
struct Usage {
    processor_ns: u64,
    faults: u64,
    calls: u64,
}

impl Usage {
    fn now() -> Self {
        let read = |name: &str| {
            std::fs::read_to_string(format!("/proc/thread-self/{name}")).unwrap_or_default()
        };
        let nth = |text: &str, n: usize| {
            text.split_whitespace().nth(n).and_then(|word| word.parse().ok()).unwrap_or(0)
        };
        // After the name, which may hold blanks: the eighth field.
        let stat = read("stat");
        let stat = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let io = read("io");
        let io = |name: &str| {
            let line = io.lines().find(|line| line.starts_with(name));
            line.map_or(0, |line| nth(line, 1))
        };
        Self {
            processor_ns: nth(&read("schedstat"), 0),
            faults: nth(stat, 7),
            calls: io("syscr:") + io("syscw:"),
        }
    }
}

struct Line<'d> {
    db: &'d Database,
    kind: Index,
    operations: u64,
}

impl Line<'_> {
    fn measure(&mut self, name: &str, mut operation: impl FnMut(u64) -> Result<()>) -> Result<()> {
        let stats = self.db.stats();
        let (before, since) = (Usage::now(), Instant::now());
        let mut done = Ok(());
        let allocated = allocation_counter::measure(|| {
            done = (0..self.operations).try_for_each(&mut operation);
        });
        let (wall_ns, after) = (since.elapsed().as_nanos(), Usage::now());
        done?;
        self.db.checkpoint()?;
        let now = self.db.stats();
        let each = |figure: u64| figure as f64 / self.operations as f64;
        println!(
            "| {} | {name} | {:.0} | {:.0} | {:.3} | {:.4} | {:.4} | {:.0} | {:.0} |",
            self.kind.name(),
            each(after.processor_ns - before.processor_ns),
            wall_ns as f64 / self.operations as f64,
            each(allocated.count_total),
            each(after.faults - before.faults),
            each(after.calls - before.calls),
            each(now.log_bytes - stats.log_bytes),
            each(now.image_bytes_written - stats.image_bytes_written),
        );
        Ok(())
    }
}
