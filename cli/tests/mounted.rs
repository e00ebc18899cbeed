//! A file system of 24 MiB that runs full, and is emptied, again and again.
//!
//! What the simulated disk does on cue (`tests/fault.rs`) the kernel does here: `ext4` in a file, where this user may mount
//! one, and memory. A page of the log's mapping that the file system has no room for would end the process.
//! `ESKER_FILLS=n`: so many times instead of three.

use crate::place::Place;
use esker::{Database, Durability, Error, Index, Options, Table};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const BYTES: u64 = 24 << 20;
const VALUE_BYTES: usize = 700;

/// Mounted as long as it lives.
struct Mounted(PathBuf);

impl Mounted {
    /// `None`, with a printed reason, where that cannot be.
    fn new(place: &Place, kind: &str) -> Option<Self> {
        let (image, at) = (place.path("image"), place.path(kind));
        std::fs::create_dir(&at).unwrap();
        std::fs::File::create(&image).unwrap().set_len(BYTES).unwrap();
        let (image, path) = (image.to_str().unwrap(), at.to_str().unwrap());
        let size = format!("size={BYTES}");
        let commands: &[&[&str]] = match kind {
            "ext4" => &[&["mkfs.ext4", "-q", "-F", image], &["mount", "-o", "loop", image, path]],
            _ => &[&["mount", "-t", kind, "-o", &size, kind, path]],
        };
        for command in commands {
            let ran = Command::new(command[0]).args(&command[1..]).output();
            if !ran.is_ok_and(|output| output.status.success()) {
                eprintln!("skipped: {} does not work here", command.join(" "));
                return None;
            }
        }
        Some(Self(at))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("-l").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

fn key(n: u32) -> String {
    format!("{n:010}")
}

/// Does not pack.
fn value(n: u32) -> Vec<u8> {
    let mut state = u64::from(n) + 1;
    let byte = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        u8::try_from(state & 0xff).expect("a byte")
    };
    (0..VALUE_BYTES).map(byte).collect()
}

/// Puts rows from `rows` on until there is no space; returns how many there are.
fn fill(table: &Table, mut rows: u32) -> u32 {
    let mut refused = 0;
    while refused < 5 {
        match table.put(key(rows), value(rows)) {
            Ok(()) => (rows, refused) = (rows + 1, 0),
            Err(Error::NoSpace { .. }) => refused += 1,
            Err(error) => panic!("row {rows}: {error}"),
        }
    }
    rows
}

/// Calls again while background work gives space back: what of it is under way holds some.
fn persist(what: &str, at: &Mounted, mut call: impl FnMut() -> Result<(), Error>) {
    const TRIES: u32 = 500;
    let mut last = None;
    for _ in 0..TRIES {
        match call() {
            Ok(()) => return,
            Err(error @ Error::NoSpace { .. }) => last = Some(error),
            Err(error) => panic!("{what}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let files = Command::new("ls").arg("-ls").arg(at.0.join("db")).output().unwrap();
    panic!("{what}: {last:?}; {}", String::from_utf8_lossy(&files.stdout));
}

fn expect(table: &Table, wanted: std::ops::Range<u32>) {
    let rows = table.rows().unwrap().map(|row| row.unwrap().into_parts());
    let mut next = wanted.start;
    for (found, content) in rows {
        assert!(
            found == key(next).as_bytes() && content == value(next),
            "row {next} of {wanted:?}"
        );
        next += 1;
    }
    assert_eq!(next, wanted.end, "rows are missing");
}

/// Memory may hold a third of the disk.
fn open(path: &PathBuf) -> Database {
    let options = Options::new().memory_bytes(8 << 20).durability(Durability::Os);
    options.log_file_bytes(1 << 20).open(path).unwrap()
}

fn fills(kind: &str, index: Index) {
    let name = format!("mounted_{kind}_{index:?}");
    // A run that was killed has left it.
    let left = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&name).join(kind);
    Command::new("umount").arg("-l").arg(left).output().ok();
    let place = Place::new(&name);
    let Some(mounted) = Mounted::new(&place, kind) else { return };
    let count = std::env::var("ESKER_FILLS").map_or(3, |count| count.parse().unwrap());
    let path = mounted.0.join("db");
    let mut db = open(&path);
    let mut first = 0;
    let mut rows = 0;
    for round in 0..count {
        let table = db.table("t", index).unwrap();
        rows = fill(&table, rows);
        let bytes = u64::from(rows - first) * VALUE_BYTES as u64;
        assert!(bytes > BYTES / 6, "round {round}: full with {bytes} bytes");
        expect(&table, first..rows);
        // A part goes, by a range or one by one; then there is room. (Rows of a fractal tree that are deleted one by one go when a
        // merge has written what is left, and that takes space of its own, which is not always there.)
        let kept = rows - (rows - first) / 3;
        if round % 2 == 0 || index == Index::Fractal {
            persist("delete a range", &mounted, || table.delete_range(key(first)..key(kept)));
        } else {
            (first..kept).for_each(|n| persist("delete", &mounted, || table.delete(key(n))));
        }
        first = kept;
        persist("settle", &mounted, || db.settle());
        persist("put", &mounted, || table.put(key(rows), value(rows)));
        rows += 1;
        expect(&table, first..rows);
        drop(table);
        // Closed, or as after the death of the process.
        if round % 3 == 0 {
            db.close().unwrap();
        } else {
            drop(db);
        }
        db = open(&path);
        assert!(db.verify().unwrap().is_sound());
        expect(&db.open_table("t").unwrap(), first..rows);
    }
    db.close().unwrap();
    drop(mounted);
}

#[test]
fn a_full_file_system_on_a_device_takes_rows_again() {
    fills("ext4", Index::BTree);
}

#[test]
fn a_full_file_system_in_memory_takes_rows_again() {
    fills("tmpfs", Index::BTree);
}

#[test]
fn a_full_file_system_with_a_fractal_table_takes_rows_again() {
    fills("ext4", Index::Fractal);
    fills("tmpfs", Index::Fractal);
}
