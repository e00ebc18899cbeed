//! Bytes that are well-formed and are not what should be there.
//!
//! Goal: nothing passes for good because it looks like it. Method: files of a twin, which has the same pages at the same
//! places under another identity; metadata with any one bit flipped.

use crate::damage::{files, read_file, write_file};
use esker::{Database, Durability, Error, Index, Options, Result};
use esker_io::sim::{CrashKind, SimDisk};
use std::sync::Arc;

/// No hash table: where its rows lie depends on the database.
const KINDS: [(&str, Index); 2] = [("btree", Index::BTree), ("fractal", Index::Fractal)];
const ROWS: u16 = 300;

fn open(disk: &SimDisk) -> Result<Database> {
    let options = Options::new().page_bytes(1024).memory_bytes(1 << 20).log_file_bytes(64 << 10);
    // Images of the same length, whatever is in them.
    let options = options.compress(false).background(false).durability(Durability::Os);
    options.open_on(Arc::new(disk.clone()))
}

/// A database that was closed, each of whose rows has the value `byte`.
fn database(seed: u64, byte: u8) -> SimDisk {
    let disk = SimDisk::new(seed);
    let db = open(&disk).unwrap();
    for (name, kind) in KINDS {
        let table = db.table(name, kind).unwrap();
        for n in 0..ROWS {
            table.put(n.to_be_bytes(), [byte; 40]).unwrap();
        }
        db.checkpoint().unwrap();
    }
    db.close().unwrap();
    disk.crash_clone(CrashKind::All, 0)
}

/// Two databases that did the same with other values have the same pages, under the same numbers, at the same places. What
/// tells their segments apart is the database's identity, under the checksum of each image.
#[test]
fn segments_of_a_twin_are_refused() {
    let (ours, theirs) = (database(1, b'o'), database(2, b't'));
    let names = |disk| files(disk).into_iter().map(|(name, _)| name);
    let segments: Vec<_> = names(&ours).filter(|name| name.starts_with("seg-")).collect();
    assert!(!segments.is_empty());
    assert!(names(&ours).eq(names(&theirs)), "twins");
    for name in &segments {
        let (mine, its) = (read_file(&ours, name), read_file(&theirs, name));
        assert_eq!(mine.len(), its.len(), "twins");
        assert!(mine != its);
        write_file(&ours, name, &its);
    }
    let Ok(db) = open(&ours) else { return };
    for (name, _) in KINDS {
        let table = db.open_table(name).unwrap();
        for n in 0..ROWS {
            match table.get(n.to_be_bytes()) {
                Err(Error::Corrupt { .. }) => {}
                found => panic!("{name}, row {n} of another database: {found:?}"),
            }
        }
    }
    assert!(!db.verify().is_ok_and(|found| found.is_sound()));
}

/// The superblock has the checksum of the checkpoint that it names, so each bit counts, and what the file would mean with
/// it flipped is not looked at.
#[test]
fn a_checkpoint_with_any_bit_flipped_is_refused() {
    let disk = database(3, b'v');
    let mut newest = files(&disk);
    newest.retain(|(name, _)| name.starts_with("checkpoint-"));
    let (name, bytes) = newest.pop().unwrap();
    assert!(bytes > 100);
    for at in 0..bytes {
        for bit in 0..8 {
            let rotten = disk.crash_clone(CrashKind::All, 0);
            rotten.corrupt(&name, at, 1 << bit).unwrap();
            match open(&rotten) {
                Err(Error::Corrupt { what: "checkpoint", .. }) => {}
                other => panic!("byte {at}, bit {bit}: {other:?}"),
            }
        }
    }
}
