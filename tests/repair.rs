//! Damage found by `verify`, and survived: which tables and keys it affects.
//!
//! Goal: rot is found before it answers, the report names a range of keys around everything that it took, and what it did not
//! take is still there. Method: small databases of all kinds on the simulated disk, their page images told apart by
//! their headers and destroyed one by one.

use crate::sim::{Choices, Rng};
use esker::{Database, Error, Index, Options};
use esker_io::sim::{CrashKind, SimDisk};
use esker_io::{Disk, OpenMode};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

const KINDS: [(&str, Index); 3] =
    [("btree", Index::BTree), ("hash", Index::Hash), ("fractal", Index::Fractal)];

fn options() -> Options {
    Options::new()
        .page_bytes(1024)
        .memory_bytes(256 << 10)
        .log_file_bytes(64 << 10)
        .log_distance_bytes(256 << 10)
}

fn open(disk: &SimDisk) -> esker::Result<Database> {
    options().open_on(Arc::new(disk.clone()))
}

fn read_file(disk: &SimDisk, name: &str) -> Vec<u8> {
    let file = disk.open(name, OpenMode::Read).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

fn names(disk: &SimDisk, prefix: &str) -> Vec<String> {
    let mut names = disk.list().unwrap();
    names.retain(|name| name.starts_with(prefix));
    names.sort();
    names
}

/// A page image as its header describes it.
#[derive(Clone, Debug)]
struct Image {
    file: String,
    offset: u64,
    bytes: u64,
    level: u8,
    table: u32,
    page: u64,
    number: u64,
    kind: u8,
}

const OVERFLOW: u8 = 2;
const MAP: u8 = 3;

/// All images, alive or not.
fn images(disk: &SimDisk) -> Vec<Image> {
    let mut found = Vec::new();
    for file in names(disk, "seg-") {
        let all = read_file(disk, &file);
        let mut at = 0;
        while at + 48 <= all.len() {
            let head = &all[at..at + 48];
            let u64_at = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap());
            if head[..2] != [0x4b, 0xe5] {
                at += 1;
                continue;
            }
            let bytes = 48 + u64::from(u16::from_le_bytes([head[38], head[39]]));
            found.push(Image {
                file: file.clone(),
                offset: at as u64,
                bytes,
                level: head[3],
                table: u32::from_le_bytes(head[8..12].try_into().unwrap()),
                page: u64_at(12),
                number: u64_at(20),
                kind: head[40],
            });
            at += bytes as usize;
        }
    }
    found
}

/// The newest image of each page, and both of each map node: what a settled database relies on.
fn live_images(disk: &SimDisk) -> Vec<Image> {
    let mut newest: BTreeMap<(bool, u64), Vec<Image>> = BTreeMap::new();
    for image in images(disk) {
        newest.entry((image.kind == MAP, image.page)).or_default().push(image);
    }
    newest
        .into_values()
        .flat_map(|mut all| {
            // A moved image keeps its number: only one of them is alive, the later one.
            all.sort_by_key(|image| (image.number, image.file.clone(), image.offset));
            let count = if all[0].kind == MAP { 2 } else { 1 };
            all.split_off(all.len().saturating_sub(count))
        })
        .collect()
}

fn destroy(disk: &SimDisk, image: &Image) {
    let at = image.offset + image.bytes / 2;
    disk.corrupt(&image.file, at, 0x10).unwrap();
}

/// Tables of each kind, with large values and deleted rows, closed. The rows by table.
fn sample(seed: u64, rows: u64) -> (SimDisk, BTreeMap<&'static str, Rows>) {
    let disk = SimDisk::new(seed);
    let db = open(&disk).unwrap();
    let mut all = BTreeMap::new();
    let mut rng = Rng::new(seed);
    for (name, kind) in KINDS {
        let table = db.table(name, kind).unwrap();
        let mut wanted = Rows::new();
        for _ in 0..rows * 2 {
            let key = format!("key {:05}", rng.below(rows)).into_bytes();
            if rng.below(6) == 0 {
                table.delete(&key).unwrap();
                wanted.remove(&key);
                continue;
            }
            let len = if rng.below(60) == 0 { 2500 } else { 10 + rng.below(80) };
            let value: Vec<u8> = (0..len).map(|_| rng.below(256) as u8).collect();
            table.put(&key, &value).unwrap();
            wanted.insert(key, value);
        }
        all.insert(name, wanted);
    }
    db.settle().unwrap();
    db.close().unwrap();
    (disk, all)
}

/// Reads a table by key; the keys whose reads were refused.
fn unreadable(db: &Database, name: &str, wanted: &Rows) -> BTreeSet<Vec<u8>> {
    let table = db.open_table(name).unwrap();
    let mut refused = BTreeSet::new();
    for (key, value) in wanted {
        match table.get(key) {
            Ok(found) => assert_eq!(found.as_ref(), Some(value), "{name}: {key:?}"),
            Err(Error::Corrupt { .. }) => {
                refused.insert(key.clone());
            }
            Err(error) => panic!("{name}: {key:?}: {error}"),
        }
    }
    refused
}

#[test]
fn one_damaged_image_of_a_map_node_takes_nothing() {
    let (disk, all) = sample(1, 400);
    let nodes: Vec<Image> =
        live_images(&disk).into_iter().filter(|image| image.kind == MAP).collect();
    assert!(nodes.len() > 6, "{} images of map nodes", nodes.len());
    for node in &nodes {
        let other =
            nodes.iter().find(|other| other.page == node.page && other.number != node.number);
        assert_ne!(node.file, other.unwrap().file, "in segments apart");
        let rotten = disk.crash_clone(CrashKind::All, 0);
        destroy(&rotten, node);
        let db = open(&rotten).unwrap();
        let found = db.verify().unwrap();
        let [damage] = &found.damage[..] else { panic!("{node:?}: {:?}", found.damage) };
        assert!(damage.has_copy && damage.table.is_none(), "{damage:?}");
        for (name, wanted) in &all {
            assert!(unreadable(&db, name, wanted).is_empty(), "{node:?}");
        }
        // Closing writes a checkpoint, and the node twice again.
        db.close().unwrap();
        let db = open(&rotten).unwrap();
        let found = db.verify().unwrap();
        assert!(found.is_sound(), "{node:?}: {:?}", found.damage);
    }
}

#[test]
fn verify_names_the_table_and_the_keys_of_every_damaged_page() {
    let (disk, all) = sample(2, 400);
    let ids: BTreeMap<u32, &str> = (1..).zip(KINDS.map(|(name, _)| name)).collect();
    let mut met: BTreeMap<&str, u32> = BTreeMap::new();
    for image in live_images(&disk).iter().filter(|image| image.kind != MAP) {
        let rotten = disk.crash_clone(CrashKind::All, 0);
        destroy(&rotten, image);
        let db = open(&rotten).unwrap();
        let found = db.verify().unwrap();
        let damage: Vec<_> = found.damage.iter().filter(|damage| damage.table.is_some()).collect();
        if damage.is_empty() {
            // Given up, and not alive.
            for (name, wanted) in &all {
                assert!(unreadable(&db, name, wanted).is_empty(), "{image:?}: {:?}", found.damage);
            }
            continue;
        }
        let name = ids[&image.table];
        assert!(damage.iter().all(|damage| damage.table.as_deref() == Some(name)), "{damage:?}");
        for (other, wanted) in &all {
            let refused = unreadable(&db, other, wanted);
            assert!(*other == name || refused.is_empty(), "{image:?}: {other}, too");
            for key in refused {
                let named = |damage: &&esker::Damage| {
                    damage.keys.as_ref().is_none_or(|keys| keys.contains(&key))
                };
                assert!(damage.iter().copied().any(|d| named(&d)), "{image:?}: {key:?} {damage:?}");
            }
        }
        if name == "btree" && image.kind != OVERFLOW && image.level == 0 {
            let keys = damage[0].keys.as_ref().unwrap();
            let share = all[name].keys().filter(|key| keys.contains(key)).count();
            assert!(share * 8 < all[name].len(), "{keys}: {share} rows");
        }
        let part = match (image.kind, image.level) {
            (OVERFLOW, _) => "large value",
            (_, 0) => "leaf",
            (_, 65..=70) => "filter",
            _ => "branch",
        };
        *met.entry(part).or_default() += 1;
    }
    for part in ["leaf", "branch", "filter", "large value"] {
        assert!(met.get(part).is_some_and(|count| *count > 1), "{part}: {met:?}");
    }
}

#[test]
fn verify_finds_a_damaged_superblock_checkpoint_and_log() {
    let (disk, _) = sample(3, 40);
    let mut slots = BTreeSet::new();
    for checkpoints in 1..3 {
        for slot in 0..4 {
            let rotten = disk.crash_clone(CrashKind::All, 0);
            let db = open(&rotten).unwrap();
            (0..checkpoints).for_each(|_| db.checkpoint().unwrap());
            rotten.corrupt("super", slot * 4096 + 20, 1).unwrap();
            let found = db.verify().unwrap();
            match &found.damage[..] {
                // The generation before the newest.
                [] => {}
                [damage] => {
                    assert!(damage.has_copy, "{damage:?}");
                    assert!(damage.error.to_string().contains("super"), "{damage:?}");
                    slots.insert(slot);
                }
                more => panic!("slot {slot}: {more:?}"),
            }
        }
    }
    assert_eq!(slots.len(), 4, "each slot is looked at in its turn");
    let rotten = disk.crash_clone(CrashKind::All, 0);
    let db = open(&rotten).unwrap();
    let table = db.open_table("btree").unwrap();
    for n in 0..20u8 {
        table.put([n], [n; 40]).unwrap();
    }
    assert!(db.verify().unwrap().is_sound());
    let log = names(&rotten, "wal-").into_iter().find(|name| read_file(&rotten, name)[4096] != 0);
    rotten.corrupt(&log.unwrap(), 4096 + 40, 1).unwrap();
    let found = db.verify().unwrap();
    assert_eq!(found.damage.len(), 1, "{:?}", found.damage);
    assert!(found.damage[0].error.to_string().contains("log"), "{:?}", found.damage);
    let checkpoint = names(&rotten, "checkpoint-").pop().unwrap();
    rotten.corrupt(&checkpoint, 60, 1).unwrap();
    let found = db.verify().unwrap();
    assert_eq!(found.damage.len(), 2, "{:?}", found.damage);
}
