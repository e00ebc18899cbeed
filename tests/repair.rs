//! Damage found by `verify`, and survived: which tables and keys it affects.
//!
//! Goal: rot is found before it answers, the report names a range of keys around everything that it took, and what it did not
//! take is still there. Method: small databases of all kinds on the simulated disk, their page images told apart by
//! their headers and destroyed one by one.

mod front;

use crate::sim::{Choices, Rng, seeds};
use esker::{Database, Error, Index, KeySpan, Options, RepairReport, RepairedTable};
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

/// A write that went elsewhere leaves an image of the same page with a good checksum: only its number tells that it is old.
#[test]
fn an_older_image_of_the_same_page_does_not_pass() {
    for (name, kind) in KINDS {
        let disk = SimDisk::new(7);
        let db = options().compress(false).open_on(Arc::new(disk.clone())).unwrap();
        let table = db.table(name, kind).unwrap();
        let mut wanted = Rows::new();
        for round in 0..3u8 {
            for n in 0..200u32 {
                let value = vec![round; 60];
                table.put(n.to_be_bytes(), &value).unwrap();
                wanted.insert(n.to_be_bytes().to_vec(), value);
            }
            db.checkpoint().unwrap();
        }
        drop(table);
        drop(db);
        let (all, mut refused) = (images(&disk), 0);
        for image in live_images(&disk).iter().filter(|image| image.kind != MAP) {
            let same = |old: &&Image| old.page == image.page && old.bytes == image.bytes;
            let older = all.iter().filter(same).find(|old| old.number < image.number);
            let Some(older) = older else { continue };
            let swapped = disk.crash_clone(CrashKind::All, 0);
            let bytes = |image: &Image| {
                let from = image.offset as usize;
                read_file(&disk, &image.file)[from..from + image.bytes as usize].to_vec()
            };
            for (at, (new, old)) in bytes(image).iter().zip(bytes(older)).enumerate() {
                swapped.corrupt(&image.file, image.offset + at as u64, new ^ old).unwrap();
            }
            // Refused, or never read.
            refused += match open(&swapped) {
                Ok(db) => unreadable(&db, name, &wanted).len(),
                Err(Error::Corrupt { .. }) => 1,
                Err(error) => panic!("{error}"),
            };
        }
        // Leaves of runs are written once, under a page id of their own.
        assert!(refused > 0 || kind == Index::Fractal, "{name}: nothing was noticed");
    }
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

fn rows_of(table: &esker::Table) -> Rows {
    let rows = table.rows().unwrap().map(|row| row.unwrap().into_parts());
    rows.collect()
}

/// Scans until an error, from one end; answers whether there was one. It gives nothing more then, from either end.
fn scan_ends_at_damage(table: &esker::Table, wanted: &Rows, back: bool) -> bool {
    let Ok(mut rows) = table.rows() else { return true };
    let mut given = 0;
    loop {
        match if back { rows.next_back() } else { rows.next() } {
            None => {
                assert_eq!(given, wanted.len(), "{}: a scan ended early", table.name());
                return false;
            }
            Some(Ok(row)) => {
                assert_eq!(wanted.get(row.key()).map(|v| &v[..]), Some(row.value()));
                given += 1;
            }
            Some(Err(error)) => {
                assert!(matches!(error, Error::Corrupt { .. }), "{error}");
                assert!(rows.next().is_none(), "{}: a scan went on", table.name());
                assert!(!table.is_ordered() || rows.next_back().is_none(), "{}", table.name());
                return true;
            }
        }
    }
}

/// What rots in one table keeps nobody from the others: reads, writes, checkpoints and restarts go on.
#[test]
fn rot_in_one_table_leaves_the_others_of_every_kind() {
    let (disk, all) = sample(4, 200);
    let ids: BTreeMap<u32, &str> = (1..).zip(KINDS.map(|(name, _)| name)).collect();
    let mut harmed: BTreeMap<&str, u32> = BTreeMap::new();
    for image in live_images(&disk).iter().filter(|image| image.kind != MAP) {
        let rotten = disk.crash_clone(CrashKind::All, 0);
        destroy(&rotten, image);
        let name = ids[&image.table];
        let db = open(&rotten).unwrap();
        let table = db.open_table(name).unwrap();
        let mut met = scan_ends_at_damage(&table, &all[name], false);
        if table.is_ordered() {
            met |= scan_ends_at_damage(&table, &all[name], true);
        }
        *harmed.entry(name).or_default() += u32::from(met);
        let others = || all.iter().filter(|(other, _)| **other != name);
        for (other, wanted) in others() {
            let table = db.open_table(other).unwrap();
            assert_eq!(rows_of(&table), *wanted, "{image:?}");
            table.put("new", "row").unwrap();
        }
        db.checkpoint().unwrap();
        drop((table, db));
        let db = open(&rotten.crash_clone(CrashKind::None, 0)).unwrap();
        for (other, wanted) in others() {
            let table = db.open_table(other).unwrap();
            assert_eq!(table.get("new").unwrap().unwrap(), b"row", "{image:?}");
            assert_eq!(rows_of(&table).len(), wanted.len() + 1, "{image:?}");
        }
    }
    assert!(harmed.len() == 3 && harmed.values().all(|count| *count > 5), "{harmed:?}");
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

/// A database with a past: what each key ever held, and what it holds.
struct Past {
    disk: SimDisk,
    /// By table and key: everything that was acknowledged.
    ever: BTreeMap<(&'static str, Vec<u8>), BTreeSet<Vec<u8>>>,
    newest: BTreeMap<&'static str, Rows>,
}

/// Rows written over and over, ranges deleted, tables emptied, checkpoints in between; what came last is only in the log.
fn past(seed: u64, rows: u64) -> Past {
    let disk = SimDisk::new(seed);
    let db = open(&disk).unwrap();
    let mut rng = Rng::new(seed);
    let mut past = Past { disk: disk.clone(), ever: BTreeMap::new(), newest: BTreeMap::new() };
    let key = |n: u64| format!("key {n:05}").into_bytes();
    let tables = KINDS.map(|(name, kind)| db.table(name, kind).unwrap());
    let dropped = db.table("dropped", Index::BTree).unwrap();
    (0..rows / 2).for_each(|n| dropped.put(key(n), "gone").unwrap());
    let rounds = 3 + rng.below(3);
    for round in 0..rounds {
        for (table, (name, kind)) in tables.iter().zip(KINDS) {
            let wanted = past.newest.entry(name).or_default();
            for _ in 0..if round + 1 == rounds { rows / 8 } else { rows } {
                let n = rng.below(rows);
                match rng.below(40) {
                    0 if kind != Index::Hash => {
                        let to = n + rng.below(rows / 10 + 1);
                        table.delete_range(key(n)..key(to)).unwrap();
                        wanted.retain(|k, _| *k < key(n) || *k >= key(to));
                    }
                    1..8 => {
                        table.delete(key(n)).unwrap();
                        wanted.remove(&key(n));
                    }
                    draw => {
                        let large = draw == 8 && rng.below(3) == 0;
                        let len = if large { 2000 + rng.below(2000) } else { 4 + rng.below(90) };
                        let value: Vec<u8> = (0..len).map(|_| rng.below(256) as u8).collect();
                        table.put(key(n), &value).unwrap();
                        past.ever.entry((name, key(n))).or_default().insert(value.clone());
                        wanted.insert(key(n), value);
                    }
                }
            }
            if rng.below(12) == 0 {
                table.clear().unwrap();
                wanted.clear();
            }
        }
        if round == 1 {
            db.drop_table("dropped").unwrap();
        }
        match rng.below(3) {
            _ if round + 1 == rounds => {}
            0 => db.settle().unwrap(),
            _ => db.checkpoint().unwrap(),
        }
    }
    past.disk = disk.crash_clone(CrashKind::None, seed);
    past
}

fn repair(disk: &SimDisk) -> esker::Result<(RepairReport, BTreeMap<String, Rows>)> {
    let before: Vec<_> = names(disk, "").iter().map(|name| read_file(disk, name)).collect();
    let new = SimDisk::new(99);
    let target: Arc<dyn Disk> = Arc::new(new.clone());
    let report = options().repair_on(Arc::new(disk.clone()), Some(target))?;
    let after: Vec<_> = names(disk, "").iter().map(|name| read_file(disk, name)).collect();
    assert!(before == after, "the damaged database was written to");
    let db = open(&new).unwrap();
    assert!(db.verify().unwrap().is_sound());
    let tables = db.tables().into_iter().map(|table| {
        let rows = table.rows().unwrap().map(|row| {
            let row = row.unwrap();
            (row.key().to_vec(), row.value().to_vec())
        });
        (table.name().to_owned(), rows.collect())
    });
    Ok((report, tables.collect()))
}

/// What a repair may give, and what it must; the rows that are missing or old.
fn check_repair(past: &Past, disk: &SimDisk, place: &str) -> Option<(RepairReport, usize)> {
    let (report, tables) = match repair(disk) {
        Ok(repaired) => repaired,
        // Nothing says whose the files are.
        Err(Error::NotADatabase { .. }) => return None,
        Err(error) => panic!("{place}: {error}"),
    };
    let summary = || format!("{place}: {report:#?}");
    let mut changed = 0;
    for (i, (name, wanted)) in (1..).zip(KINDS.map(|(name, _)| (name, &past.newest[name]))) {
        let nameless = format!("recovered-{i}");
        let found = tables.get(name).or_else(|| tables.get(&nameless)).cloned().unwrap_or_default();
        let is_it = |table: &&RepairedTable| table.name == name || table.name == nameless;
        let told = report.tables.iter().find(is_it).cloned();
        let told = told.unwrap_or_default();
        // What is damaged behind everything that is known to be durable passes for a torn tail.
        let log_is_whole = report.lost_log.is_empty() && !place.contains("log spoiled");
        for (key, value) in &found {
            let ever = past.ever.get(&(name, key.clone()));
            assert!(ever.is_some_and(|ever| ever.contains(value)), "{name} {key:?} {}", summary());
            if wanted.get(key) != Some(value) {
                changed += 1;
                let is_told = told.stale.iter().any(|span| span.contains(key));
                assert!(
                    is_told || report.may_be_stale || !log_is_whole,
                    "{name}: {:?} is old; {}",
                    key.escape_ascii().to_string(),
                    summary()
                );
            }
        }
        for key in wanted.keys().filter(|key| !found.contains_key(*key)) {
            changed += 1;
            let is_told = told.lost.iter().any(|span| span.contains(key));
            let no_table = told.name.is_empty() && !report.has_checkpoint;
            assert!(
                is_told || no_table || report.may_be_stale || !log_is_whole,
                "{name}: {:?} is missing; {}",
                key.escape_ascii().to_string(),
                summary()
            );
        }
    }
    if report.has_checkpoint {
        assert!(!tables.contains_key("dropped"), "{}", summary());
    }
    Some((report, changed))
}

#[test]
fn repairing_what_is_whole_loses_nothing() {
    seeds::each(40, |seed| {
        let past = past(seed, 60 + seed % 5 * 60);
        let (report, changed) = check_repair(&past, &past.disk, &format!("seed {seed}")).unwrap();
        assert!(report.is_complete() && changed == 0, "{report:#?}");
        assert!(report.has_superblock && report.has_checkpoint && report.damaged == 0);
        open(&past.disk).unwrap().close().unwrap();
        let (report, changed) = check_repair(&past, &past.disk, &format!("seed {seed}")).unwrap();
        assert!(report.is_complete() && changed == 0, "{report:#?}");
    });
}

/// What is committed at a time fits the memory that the repair is given.
#[test]
fn a_repair_does_with_as_little_memory_as_the_database() {
    let disk = SimDisk::new(600);
    let db = open(&disk).unwrap();
    let mut wanted = BTreeMap::new();
    for (name, kind) in KINDS {
        let table = db.table(name, kind).unwrap();
        let mut rows = Rows::new();
        for n in 0..2000u16 {
            let len = match n % 500 {
                7 => 50_000,
                8..20 => 8000,
                _ => 100,
            };
            let value: Vec<u8> = (0..len).map(|i| (i * 7 + u32::from(n)) as u8).collect();
            table.put(n.to_be_bytes(), &value).unwrap();
            rows.insert(n.to_be_bytes().to_vec(), value);
        }
        wanted.insert(name.to_owned(), rows);
        // Of the last table, something is in the log only.
        if kind != Index::Fractal {
            db.checkpoint().unwrap();
        }
    }
    drop(db);
    let (report, tables) = repair(&disk).unwrap();
    assert!(report.is_complete() && report.log_groups > 0, "{report:#?}");
    assert!(tables == wanted);
}

#[test]
fn one_damaged_image_costs_what_was_in_it() {
    let mut met = BTreeMap::new();
    for seed in 0..3 {
        let past = past(100 + seed, 300);
        for image in live_images(&past.disk) {
            let rotten = past.disk.crash_clone(CrashKind::All, 0);
            destroy(&rotten, &image);
            let place = format!("seed {seed}, {image:?}");
            let (report, changed) = check_repair(&past, &rotten, &place).unwrap();
            assert!(!report.may_be_stale && report.lost_log.is_empty(), "{place}: {report:#?}");
            if image.kind == MAP {
                assert!(report.is_complete() && changed == 0, "{place}: {report:#?}");
                continue;
            }
            for (id, table) in report.tables.iter().enumerate() {
                // By name as by id, but for two.
                let id = [1, 3, 2][id];
                if id != image.table {
                    assert!(table.lost.is_empty() && table.stale.is_empty(), "{place}: {table:?}");
                }
                let all = table.lost.iter().any(KeySpan::is_all);
                let share = if table.index == "hash" { table.lost_share } else { f64::from(all) };
                let is_tree = matches!(&table.index[..], "btree" | "hash");
                let is_large = past.newest[&table.name[..]].len() > 100;
                assert!(!is_tree || !is_large || share < 0.3, "{place}: {report:#?}");
                if is_tree && image.level > 0 {
                    assert!(table.lost.is_empty(), "{place}: branches are not needed");
                }
            }
            let part = (image.table, image.level);
            *met.entry(part).or_insert(0) += changed;
        }
    }
    eprintln!("rows lost by (table, level): {met:?}");
    assert!(met.values().any(|changed| *changed > 0), "{met:?}");
}

#[test]
fn without_the_map_pages_are_found_by_reading_everything() {
    for seed in 0..6 {
        let past = past(200 + seed, 200);
        let rotten = past.disk.crash_clone(CrashKind::All, 0);
        for image in images(&rotten).iter().filter(|image| image.kind == MAP) {
            destroy(&rotten, image);
        }
        let (report, changed) = check_repair(&past, &rotten, &format!("seed {seed}")).unwrap();
        assert!(report.damaged > 0, "{report:#?}");
        assert_eq!(changed, 0, "seed {seed}: {report:#?}");
    }
}

#[test]
fn without_a_file_the_rest_is_restored() {
    let mut met: BTreeMap<String, (u32, usize)> = BTreeMap::new();
    for seed in 0..8 {
        let past = past(300 + seed, 150);
        let all = names(&past.disk, "");
        let mut cases: Vec<Vec<String>> = all.iter().map(|name| vec![name.clone()]).collect();
        let prefixed = |prefixes: &[&str]| -> Vec<String> {
            all.iter().filter(|n| prefixes.iter().any(|p| n.starts_with(p))).cloned().collect()
        };
        cases.push(prefixed(&["super", "checkpoint-"]));
        cases.push(prefixed(&["super", "wal-"]));
        cases.push(prefixed(&["super", "checkpoint-", "wal-"]));
        for case in cases {
            let rotten = past.disk.crash_clone(CrashKind::All, 0);
            for name in &case {
                rotten.remove(name).unwrap();
            }
            let place = format!("seed {seed} without {case:?}");
            let repaired = check_repair(&past, &rotten, &place);
            let kind = case.iter().map(|n| &n[..3]).collect::<BTreeSet<_>>();
            let kind = kind.into_iter().collect::<Vec<_>>().join("+");
            let Some((report, changed)) = repaired else {
                assert_eq!(kind, "che+sup+wal", "{place}");
                continue;
            };
            let entry = met.entry(kind.clone()).or_default();
            *entry = (entry.0 + 1, entry.1 + changed);
            match &kind[..] {
                "sup" | "che" => assert_eq!(changed, 0, "{place}: {report:#?}"),
                _ => {}
            }
            assert!(changed == 0 || !report.is_complete(), "{place}: {report:#?}");
        }
    }
    eprintln!("cases and rows changed, without: {met:?}");
}

#[test]
fn a_damaged_log_costs_the_commits_that_it_lost() {
    let mut gaps = 0;
    for seed in 0..60 {
        let past = past(400 + seed % 10, 150);
        let mut rng = Rng::new(seed);
        let mut spoil = || {
            let rotten = past.disk.crash_clone(CrashKind::All, 0);
            let log = names(&rotten, "wal-");
            for _ in 0..=rng.below(3) {
                let name = &log[rng.below(log.len() as u64) as usize];
                let bytes = read_file(&rotten, name).len() as u64;
                rotten.corrupt(name, 4096 + rng.below(bytes - 4096), 4).unwrap();
            }
            rotten
        };
        // Most of it is space that was only set aside.
        let refused = (0..60).find_map(|_| {
            let rotten = spoil();
            open(&rotten.crash_clone(CrashKind::All, 0)).is_err().then_some(rotten)
        });
        let Some(rotten) = refused else { continue };
        let (report, changed) = check_repair(&past, &rotten, &format!("seed {seed}")).unwrap();
        for lost in &report.lost_log {
            assert!(lost.file.starts_with("wal-"), "{lost:?}");
            assert!(lost.before_commit.is_none_or(|b| b > lost.after_commit + 1), "{lost:?}");
        }
        gaps += usize::from(!report.lost_log.is_empty());
        assert!(changed < 120, "seed {seed}: {changed} rows for some bytes; {report:#?}");
    }
    assert!(gaps > 10, "{gaps} logs with a gap");
}

#[test]
fn whatever_rots_nothing_is_invented() {
    seeds::each(120, |seed| {
        let past = past(500 + seed, 60 + seed % 3 * 60);
        let mut rng = Rng::new(seed);
        let rotten = past.disk.crash_clone(CrashKind::All, 0);
        let mut files = names(&rotten, "");
        files.retain(|name| name != "LOCK" && name != "reserve");
        let mut place = format!("seed {seed}");
        for _ in 0..=rng.below(12) {
            let name = &files[rng.below(files.len() as u64) as usize];
            let bytes = read_file(&rotten, name).len() as u64;
            if bytes == 0 {
                continue;
            }
            let at = rng.below(bytes);
            match rng.below(4) {
                0 => rotten.zero_sector(name, at).unwrap(),
                1 => rotten.copy_sector(&rotten.clone(), name, rng.below(bytes), name, at).unwrap(),
                _ => rotten.corrupt(name, at, 1 << rng.below(8)).unwrap(),
            }
            let note = if name.starts_with("wal-") { " (log spoiled)" } else { "" };
            place = format!("{place}, {name} {at}{note}");
        }
        check_repair(&past, &rotten, &place);
    });
}

#[test]
fn a_repair_refuses_what_it_should() {
    let (disk, _) = sample(9, 20);
    let taken = SimDisk::new(1);
    taken.open("notes.txt", OpenMode::Create).unwrap();
    let refused = options().repair_on(Arc::new(disk.clone()), Some(Arc::new(taken)));
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    let empty = options().repair_on(Arc::new(SimDisk::new(2)), None);
    assert!(matches!(empty, Err(Error::NotADatabase { .. })), "{empty:?}");
    let db = open(&disk).unwrap();
    let in_use = options().repair_on(Arc::new(disk.clone()), None);
    assert!(matches!(in_use, Err(Error::Locked { .. })), "{in_use:?}");
    db.close().unwrap();
    let report = options().repair_on(Arc::new(disk), None).unwrap();
    assert!(report.is_complete() && report.tables.len() == 3, "{report:?}");
}
