//! Databases that earlier builds have written.
//!
//! Goal: whatever is released opens what was written before it, reads all of it, and goes on with it. Method:
//! `tests/fixtures/` has databases of each version of the format, one that was closed and one that the process died over;
//! they hold what [`write`] writes, by the same calls. `ESKER_FIXTURE=1` writes those of this build's version, if they
//! are not there: once a version is released, its files stay as they are.
//!
//! A file holds a directory:
//!
//! ```text
//! (name bytes u8 | name | length u64 | sectors u32 | (number u32 | 512 bytes)*)*      sectors that are zero are left out
//! ```

use crate::damage::{files, read_file, write_file};
use esker::{Database, Durability, Index, Options, Result, Table};
use esker_io::sim::{CrashKind, SimDisk};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const SECTOR_BYTES: usize = 512;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn pack(disk: &SimDisk) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, _) in files(disk) {
        // What the engine makes anew, or does not need.
        if name == "LOCK" || name == "reserve" {
            continue;
        }
        let content = read_file(disk, &name);
        out.push(name.len() as u8);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&(content.len() as u64).to_le_bytes());
        let sectors = content.chunks(SECTOR_BYTES).enumerate();
        let sectors: Vec<_> = sectors.filter(|(_, s)| s.iter().any(|byte| *byte != 0)).collect();
        out.extend_from_slice(&(sectors.len() as u32).to_le_bytes());
        for (number, sector) in sectors {
            out.extend_from_slice(&(number as u32).to_le_bytes());
            out.extend_from_slice(sector);
            out.resize(out.len() + SECTOR_BYTES - sector.len(), 0);
        }
    }
    out
}

fn unpack(mut packed: &[u8]) -> SimDisk {
    fn take<'p>(packed: &mut &'p [u8], bytes: usize) -> &'p [u8] {
        let (taken, left) = packed.split_at(bytes);
        *packed = left;
        taken
    }
    let number = |packed: &mut &[u8], bytes| {
        let mut word = [0; 8];
        word[..bytes].copy_from_slice(take(packed, bytes));
        u64::from_le_bytes(word) as usize
    };
    let disk = SimDisk::new(77);
    while !packed.is_empty() {
        let bytes = number(&mut packed, 1);
        let name = str::from_utf8(take(&mut packed, bytes)).unwrap().to_owned();
        let mut content = vec![0; number(&mut packed, 8)];
        for _ in 0..number(&mut packed, 4) {
            let at = number(&mut packed, 4) * SECTOR_BYTES;
            let sector = take(&mut packed, SECTOR_BYTES);
            let bytes = SECTOR_BYTES.min(content.len() - at);
            content[at..at + bytes].copy_from_slice(&sector[..bytes]);
        }
        write_file(&disk, &name, &content);
    }
    disk
}

/// Larger pages since version 3, in which they hold longer values than before.
fn options(version: u32) -> Options {
    let page_bytes = if version < 3 { 1024 } else { 4096 };
    let options = Options::new().page_bytes(page_bytes).memory_bytes(1 << 20);
    options.log_file_bytes(32 << 10).background(false)
}

/// Rows by table.
type Model = BTreeMap<&'static str, BTreeMap<Vec<u8>, Vec<u8>>>;

const TABLES: [(&str, Index); 3] =
    [("ordered", Index::BTree), ("hashed", Index::Hash), ("written", Index::Fractal)];

/// Bytes that compress, or do not.
fn value(n: u32) -> Vec<u8> {
    let mut state = n.wrapping_mul(0x9E37_79B9) | 1;
    let next = |i: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if n.is_multiple_of(2) { (n + i / 16) as u8 } else { (state >> 24) as u8 }
    };
    (0..n * 7 % 90).map(next).collect()
}

fn key(n: u32) -> Vec<u8> {
    match n % 5 {
        0 => n.to_be_bytes().to_vec(),
        1 => format!("a/common/prefix/of/many/keys/{n}").into_bytes(),
        2 => vec![0xff; (n % 40) as usize + 1],
        _ => format!("k{:05}", n * 7919 % 100_000).into_bytes(),
    }
}

/// Everything that a database may hold: written with the public API, noted in the model.
struct Writer<'a> {
    db: &'a Database,
    version: u32,
    model: Model,
}

impl Writer<'_> {
    fn table(&self, name: &str) -> Table {
        self.db.open_table(name).unwrap()
    }
    fn put(&mut self, name: &'static str, key: Vec<u8>, value: Vec<u8>) {
        self.table(name).put(&key, &value).unwrap();
        self.model.get_mut(name).unwrap().insert(key, value);
    }
    fn delete(&mut self, name: &'static str, key: &[u8]) {
        self.table(name).delete(key).unwrap();
        self.model.get_mut(name).unwrap().remove(key);
    }
    fn delete_range(&mut self, name: &'static str, low: &[u8], high: &[u8]) {
        self.table(name).delete_range(low..high).unwrap();
        self.model.get_mut(name).unwrap().retain(|key, _| &key[..] < low || &key[..] >= high);
    }

    /// One of several rounds: rows of all kinds of keys and values, deletes, ranges, a commit over all tables.
    fn round(&mut self, round: u32) {
        for (name, kind) in TABLES {
            for n in round * 80..round * 80 + 120 {
                self.put(name, key(n), value(n + round));
            }
            self.put(name, b"large".to_vec(), value(89).repeat(30 + round as usize));
            if self.version >= 3 {
                // A quarter of a page each.
                for n in 0..5 + round {
                    self.put(name, format!("middle {n}").into_bytes(), value(89).repeat(10));
                }
            }
            for n in (round * 80..round * 80 + 110).step_by(9) {
                self.delete(name, &key(n));
            }
            if kind != Index::Hash {
                self.delete_range(name, b"k2", b"k25");
            }
        }
        let mut batch = self.db.batch();
        for (name, _) in TABLES {
            let (key, value) = (format!("of all {round}").into_bytes(), value(round));
            batch.put(&self.table(name), &key, &value);
            self.model.get_mut(name).unwrap().insert(key, value);
        }
        batch.commit().unwrap();
    }
}

/// Makes a database, with what there was at a version; it was closed, or has a tail of log behind its last checkpoint.
fn write(closed: bool, version: u32) -> (SimDisk, Model) {
    let disk = SimDisk::new(1);
    let options = options(version).durability(Durability::Os);
    let db = options.open_on(Arc::new(disk.clone())).unwrap();
    let mut writer = Writer { db: &db, version, model: Model::new() };
    for (name, kind) in TABLES {
        db.create_table(name, kind).unwrap();
        writer.model.insert(name, BTreeMap::new());
    }
    db.create_table("dropped", Index::BTree).unwrap().put("a row", "gone").unwrap();
    for round in 0..3 {
        writer.round(round);
        db.checkpoint().unwrap();
    }
    db.drop_table("dropped").unwrap();
    db.settle().unwrap();
    // Behind the checkpoint: what replay knows.
    for n in 0..60 {
        writer.put("ordered", key(n), value(n + 9));
        writer.put("written", key(n + 3), value(n + 9));
    }
    writer.delete_range("ordered", b"k8", b"k9");
    writer.delete_range("written", b"a/common/prefix/of/many/keys/2", b"b");
    writer.table("hashed").clear().unwrap();
    writer.model.get_mut("hashed").unwrap().clear();
    writer.put("hashed", b"after the clear".to_vec(), value(60));
    db.create_table("empty", Index::Hash).unwrap();
    writer.model.insert("empty", BTreeMap::new());
    let model = writer.model;
    if closed {
        db.close().unwrap();
        return (disk.crash_clone(CrashKind::All, 0), model);
    }
    (disk.crash_clone(CrashKind::Kill, 0), model)
}

fn expect(db: &Database, model: &Model) {
    let names: Vec<String> = db.tables().iter().map(|table| table.name().to_owned()).collect();
    assert!(model.keys().copied().eq(names.iter().map(String::as_str)), "{names:?}");
    for (name, wanted) in model {
        let table = db.open_table(name).unwrap();
        let rows: Result<BTreeMap<_, _>> =
            table.rows().unwrap().map(|row| row.map(esker::Row::into_parts)).collect();
        let rows = rows.unwrap();
        assert!(&rows == wanted, "{name}: {} rows, {} wanted", rows.len(), wanted.len());
        for (key, value) in wanted {
            assert_eq!(table.get(key).unwrap().as_ref(), Some(value), "{name}");
        }
    }
    let found = db.verify().unwrap();
    assert!(found.is_sound(), "{:?}", found.damage);
}

#[expect(clippy::disallowed_methods, reason = "fixtures lie on the real disk")]
#[test]
fn every_version_of_the_format_opens() {
    const PRESENT: u32 = 3;
    let mut seen = 0;
    let names = [
        ("format-1-closed", true, 1),
        ("format-1-killed", false, 1),
        ("format-2-closed", true, 2),
        ("format-2-killed", false, 2),
        ("format-3-closed", true, PRESENT),
        ("format-3-killed", false, PRESENT),
    ];
    for (name, closed, version) in names {
        let path = folder().join(name);
        let (disk, model) = write(closed, version);
        if version == PRESENT && !path.exists() && std::env::var_os("ESKER_FIXTURE").is_some() {
            std::fs::create_dir_all(folder()).unwrap();
            std::fs::write(&path, pack(&disk)).unwrap();
        }
        let packed = std::fs::read(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        let old = unpack(&packed);
        let db = options(version).open_on(Arc::new(old.clone())).unwrap();
        expect(&db, &model);
        // Life goes on with it.
        for (table, _) in TABLES {
            db.open_table(table).unwrap().put("new", "row").unwrap();
        }
        db.settle().unwrap();
        db.close().unwrap();
        let mut model = model;
        for (table, _) in TABLES {
            model.get_mut(table).unwrap().insert(b"new".to_vec(), b"row".to_vec());
        }
        expect(&options(version).open_on(Arc::new(old)).unwrap(), &model);
        seen += 1;
    }
    let there = std::fs::read_dir(folder()).unwrap().count();
    assert_eq!(seen, there, "a fixture that no test reads");
}
