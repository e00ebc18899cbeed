//! The same calls on tables of every kind of index, alone and beside each other.
//!
//! Goal: what does not need an order works alike for all kinds, and what each kind says of itself is so.
//! Method: one small test a promise, run for each kind; small pages and little memory, so that a few
//! thousand rows make buckets split, and memtables become runs that are flushed and merged.

use super::{Scratch, memory};
use esker::{Database, Durability, Error, Index, Options, Table};
use esker_io::sim::SimDisk;
use std::collections::BTreeMap;
use std::sync::Arc;

const KINDS: [Index; 3] = [Index::BTree, Index::Hash, Index::Fractal];

/// Small, and with all upkeep on this thread: the same every time.
fn options() -> Options {
    Options::new()
        .page_bytes(1024)
        .memory_bytes(256 << 10)
        .log_file_bytes(256 << 10)
        .durability(Durability::Os)
}

fn small(disk: &SimDisk) -> Database {
    options().open_on(Arc::new(disk.clone())).unwrap()
}

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// All rows; each key must come once.
fn all<E: std::fmt::Debug>(rows: impl Iterator<Item = Result<(Vec<u8>, Vec<u8>), E>>) -> Map {
    let mut map = Map::new();
    for row in rows {
        let (key, value) = row.unwrap();
        assert!(map.insert(key.clone(), value).is_none(), "{key:?} came twice");
    }
    map
}

fn all_of(table: &Table) -> Map {
    all(table.rows().unwrap().map(|row| row.map(esker::Row::into_parts)))
}

fn key(n: u32) -> [u8; 4] {
    n.to_be_bytes()
}

/// Of a length that depends on `n`: some lie outside their pages.
fn value(n: u32, round: u32) -> Vec<u8> {
    let len = if n.is_multiple_of(97) { 3000 } else { 20 + n % 60 };
    (0..len).map(|i| (n.wrapping_mul(31) + i * (round + 1)) as u8).collect()
}

/// Puts, overwrites and deletes, and what is left.
fn fill(table: &Table, rows: u32) -> Map {
    let mut map = Map::new();
    for round in 0..2 {
        for n in (0..rows).filter(|n| round == 0 || n % 3 == 0) {
            table.put(key(n), value(n, round)).unwrap();
            map.insert(key(n).to_vec(), value(n, round));
        }
    }
    for n in (0..rows).step_by(7) {
        table.delete(key(n)).unwrap();
        map.remove(&key(n)[..]);
    }
    map
}

#[test]
fn kinds_have_names() {
    assert_eq!(KINDS.map(Index::name), ["btree", "hash", "fractal"]);
    assert_eq!(Index::Custom("mine").to_string(), "mine");
    let db = memory();
    for kind in KINDS {
        let table = db.table(&format!("of {kind}"), kind).unwrap();
        table.put("k", "v").unwrap();
        assert!(format!("{table:?}").contains(&format!("{kind:?}")));
    }
    let stats = db.stats().tables;
    let kinds: Vec<_> = stats.iter().map(|table| (&table.name[..], table.kind)).collect();
    assert_eq!(kinds, [("of btree", "btree"), ("of fractal", "fractal"), ("of hash", "hash")]);
}

#[test]
fn a_table_of_another_kind_is_refused() {
    let db = memory();
    for kind in KINDS {
        assert_eq!(db.table(kind.name(), kind).unwrap().kind(), kind);
    }
    for kind in KINDS {
        for wanted in KINDS.into_iter().chain([Index::Custom("mine")]).filter(|k| *k != kind) {
            match db.table(kind.name(), wanted) {
                Err(error @ Error::WrongKind { .. }) => {
                    let text = error.to_string();
                    assert!(text.contains(&format!("is a {kind} table, not a {wanted} table")));
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(db.open_table(kind.name()).unwrap().kind(), kind);
    }
}

#[test]
fn rows_of_each_kind_come_once_from_tables_snapshots_and_transactions() {
    for kind in KINDS {
        let db = small(&SimDisk::new(1));
        let table = db.table("t", kind).unwrap();
        assert_eq!(table.rows().unwrap().count(), 0);
        let map = fill(&table, 2000);
        assert!(all_of(&table) == map, "{kind}");
        if kind != Index::Hash {
            let keys = table.rows().unwrap().map(|row| row.unwrap().key().to_vec());
            assert!(keys.eq(map.keys().cloned()), "{kind}: in order");
        }
        let snapshot = db.snapshot();
        table.put(key(1), "later").unwrap();
        table.delete(key(2)).unwrap();
        table.put("new", "later").unwrap();
        let rows = snapshot.rows(&table).unwrap().map(|row| row.map(esker::Row::into_parts));
        assert!(all(rows) == map, "{kind}: the snapshot");
        drop(snapshot);

        // A transaction sees its own writes among them.
        let mut now = all_of(&table);
        let mut tx = db.begin();
        for n in [3, 4, 97, 5000] {
            tx.put(&table, key(n), format!("own {n}")).unwrap();
            now.insert(key(n).to_vec(), format!("own {n}").into_bytes());
        }
        for n in [4, 5, 194, 6000] {
            tx.delete(&table, key(n)).unwrap();
            now.remove(&key(n)[..]);
        }
        assert!(all(tx.rows(&table).unwrap()) == now, "{kind}: the transaction");
        tx.commit().unwrap();
        assert!(all_of(&table) == now, "{kind}: after it");

        let mut tx = db.begin();
        tx.put(&table, "before", "gone").unwrap();
        tx.delete_range(&table, ..).unwrap();
        tx.put(&table, key(8), "own").unwrap();
        tx.delete(&table, key(9)).unwrap();
        let left = Map::from([(key(8).to_vec(), b"own".to_vec())]);
        assert_eq!(all(tx.rows(&table).unwrap()), left, "{kind}: a transaction that cleared");
        assert_eq!(tx.get(&table, key(10)).unwrap(), None);
        drop(tx);
        assert!(all_of(&table) == now, "{kind}: dropped");
        assert!(db.verify().unwrap().is_sound());
    }
}

#[test]
fn everything_can_be_deleted_from_each_kind() {
    for kind in KINDS {
        let db = small(&SimDisk::new(1));
        let (table, other) = (db.table("t", kind).unwrap(), db.table("other", kind).unwrap());
        for how in ["clear", "delete_range", "batch", "transaction"] {
            let map = fill(&table, 1500);
            assert!(all_of(&table) == map, "{kind}, before {how}");
            let snapshot = db.snapshot();
            let mut left = Map::new();
            match how {
                "clear" => table.clear().unwrap(),
                "delete_range" => table.delete_range(..).unwrap(),
                "batch" => {
                    let mut batch = db.batch();
                    batch.put(&table, "before", "gone");
                    batch.delete_range(&table, ..);
                    batch.put(&table, "behind", "stays");
                    batch.put(&other, how, "stays");
                    batch.commit().unwrap();
                    left.insert(b"behind".to_vec(), b"stays".to_vec());
                }
                _ => {
                    let delete = |tx: &mut esker::Transaction| {
                        tx.delete_range(&table, ..)?;
                        tx.put(&other, how, "stays")
                    };
                    db.transact(delete).unwrap();
                }
            }
            assert_eq!(all_of(&table), left, "{kind}, after {how}");
            assert_eq!(table.get(key(1)).unwrap(), None);
            let rows = snapshot.rows(&table).unwrap().map(|row| row.map(esker::Row::into_parts));
            assert!(all(rows) == map, "{kind}: the snapshot before {how}");
            table.clear().unwrap();
            if kind != Index::Fractal {
                assert_eq!(table.approximate_len(), 0, "{kind}");
            }
        }
        assert_eq!(all_of(&other).len(), 2);
        db.settle().unwrap();
        assert!(db.verify().unwrap().is_sound());
        assert_eq!(table.rows().unwrap().count(), 0);
    }
}

/// One that holds no key is a range all the same.
#[test]
fn a_table_without_order_refuses_to_delete_any_range() {
    let db = memory();
    let table = db.table("t", Index::Hash).unwrap();
    table.put("a", "row").unwrap();
    let is_refused = |result: Result<(), Error>, how: &str| {
        assert!(matches!(&result, Err(Error::Unordered { .. })), "{how}: {result:?}");
    };
    for (low, high) in [("a", "b"), ("b", "b"), ("b", "a"), ("", "")] {
        is_refused(table.delete_range(low..high), "table");
        let mut batch = db.batch();
        batch.delete_range(&table, low..high);
        is_refused(batch.commit(), "batch");
        let mut tx = db.begin();
        is_refused(tx.delete_range(&table, low..high), "transaction");
        assert!(table.contains("a").unwrap(), "{low}..{high}");
    }
    let ordered = db.table("ordered", Index::BTree).unwrap();
    ordered.put("a", "row").unwrap();
    ordered.delete_range("b".."a").unwrap();
    assert!(ordered.contains("a").unwrap());
}

#[test]
fn conditions_and_merges_see_the_rows_of_each_kind() {
    for kind in KINDS {
        let options = options().merge_operator("append", |_, old, new| {
            let sum = [old.unwrap_or(b""), new].concat();
            (sum.len() < 2000).then_some(sum)
        });
        let db = options.open_on(Arc::new(SimDisk::new(1))).unwrap();
        let table = db.table("t", kind).unwrap();
        fill(&table, 1500);
        // Rows that lie in the memtable, in buckets, in runs: here, there, and deleted.
        for (n, there) in
            [(1, true), (97, true), (7, false), (0, false), (1499, true), (9999, false)]
        {
            let old = table.get(key(n)).unwrap();
            assert_eq!(old.is_some(), there, "{kind}: {n}");
            assert_eq!(table.put_if_absent(key(n), "first").unwrap(), !there, "{kind}: {n}");
            assert!(!table.put_if_absent(key(n), "second").unwrap());
            let now = old.unwrap_or_else(|| b"first".to_vec());
            assert!(!table.compare_and_swap(key(n), Some(b"other"), Some(b"x")).unwrap());
            assert!(!table.compare_and_swap(key(n), None, Some(b"x")).unwrap());
            assert!(table.compare_and_swap(key(n), Some(&now), Some(b"ab")).unwrap());
            table.merge("append", key(n), "cd").unwrap();
            db.transact(|tx| tx.merge(&table, "append", key(n), "ef")).unwrap();
            assert_eq!(table.get(key(n)).unwrap().unwrap(), b"abcdef");
            table.merge("append", key(n), vec![7; 1990]).unwrap();
            table.merge("append", key(n), vec![7; 1990]).unwrap();
            assert_eq!(table.get(key(n)).unwrap(), None, "{kind}: merged away");
            table.merge("append", key(n), vec![8; 1990]).unwrap();
            assert!(table.get(key(n)).unwrap().unwrap() == vec![8; 1990], "a large value");
            assert!(table.compare_and_swap(key(n), Some(&[8; 1990]), None).unwrap());
            assert!(table.compare_and_swap(key(n), None, None).unwrap());
        }
        assert!(db.verify().unwrap().is_sound());
    }
}

#[test]
fn large_values_of_each_kind_come_back_and_give_up_their_space() {
    for kind in KINDS {
        let db = small(&SimDisk::new(1));
        let table = db.table("t", kind).unwrap();
        let large = |n: u32, round: u32| -> Vec<u8> {
            (0..n * 700).map(|i| (i ^ i >> 8).wrapping_mul(n + round) as u8).collect()
        };
        for round in 0..6 {
            for n in 0..40 {
                table.put(key(n), large(n, round)).unwrap();
            }
            for n in 0..40 {
                assert!(table.get(key(n)).unwrap().unwrap() == large(n, round), "{kind}: {n}");
            }
        }
        let rows = all_of(&table);
        assert!((0..40).all(|n| rows[&key(n)[..]] == large(n, 5)) && rows.len() == 40);
        assert!(db.verify().unwrap().large_values >= 38, "{kind}");
        table.clear().unwrap();
        // Fractal tables meet shadowed values when runs are merged: rows that follow make them.
        fill(&table, 2000);
        table.clear().unwrap();
        fill(&table, 10);
        db.checkpoint().unwrap();
        db.settle().unwrap();
        assert!(db.verify().unwrap().is_sound());
        let live_bytes = db.stats().live_bytes;
        assert!(live_bytes < 150 << 10, "{kind}: {live_bytes} bytes are left");
    }
}

#[test]
fn many_keys_are_read_at_once_from_each_kind() {
    for kind in KINDS {
        let disk = SimDisk::new(1);
        let db = small(&disk);
        let map = fill(&db.table("t", kind).unwrap(), 3000);
        db.close().unwrap();
        let db = small(&disk);
        let table = db.open_table("t").unwrap();
        let keys: Vec<_> = (0..3100).rev().step_by(3).map(key).collect();
        let expected: Vec<_> = keys.iter().map(|key| map.get(&key[..]).cloned()).collect();
        assert!(table.multi_get(&keys).unwrap() == expected, "{kind}");
        assert!(db.snapshot().multi_get(&table, &keys).unwrap() == expected, "{kind}");
        assert_eq!(table.multi_get(&[[0u8; 0]; 0]).unwrap(), Vec::<Option<Vec<u8>>>::new());
    }
}

#[test]
fn an_optimized_range_of_each_kind_keeps_its_rows() {
    for kind in KINDS {
        let db = small(&SimDisk::new(1));
        let table = db.table("t", kind).unwrap();
        let mut map = fill(&table, 3000);
        let (snapshot, before) = (db.snapshot(), map.clone());
        if kind == Index::Hash {
            let refused = table.optimize(key(1)..key(2));
            assert!(matches!(refused, Err(Error::Unordered { .. })), "{refused:?}");
        } else {
            table.delete_range(key(500)..key(700)).unwrap();
            map.retain(|k, _| !(&key(500)[..]..&key(700)[..]).contains(&&k[..]));
            table.optimize(key(400)..key(900)).unwrap();
            // What holds nothing costs nothing.
            table.optimize(key(9)..key(3)).unwrap();
            assert!(all_of(&table) == map, "{kind}");
        }
        table.optimize(..).unwrap();
        assert!(all_of(&table) == map, "{kind}");
        let rows = snapshot.rows(&table).unwrap().map(|row| row.map(esker::Row::into_parts));
        assert!(all(rows) == before, "{kind}: the snapshot");
        drop(snapshot);
        db.settle().unwrap();
        assert!(db.verify().unwrap().is_sound());
        db.drop_table("t").unwrap();
        let gone = table.optimize(..);
        assert!(matches!(gone, Err(Error::UnknownTable { .. })), "{gone:?}");
    }
}

#[test]
fn counts_of_each_kind_are_about_right() {
    for kind in KINDS {
        let db = small(&SimDisk::new(1));
        let table = db.table("t", kind).unwrap();
        for n in 0..8000 {
            table.put(key(n), [7; 30]).unwrap();
        }
        assert_eq!(table.approximate_len(), 8000, "{kind}: keys that are all new are counted");
        for n in 0..2000 {
            table.delete(key(n * 4)).unwrap();
        }
        db.settle().unwrap();
        // A fractal table learns which rows a delete or an overwrite has shadowed when it merges them.
        let (len, count) = (table.approximate_len(), table.approximate_count(..).unwrap());
        assert!((5700..=6300).contains(&len), "{kind}: about {len}");
        assert!((3000..=12_000).contains(&count), "{kind}: about {count}");
        if kind != Index::Hash {
            let some = table.approximate_count(key(2000)..key(4000)).unwrap();
            assert!((500..=4500).contains(&some), "{kind}: about {some} of 1500");
        }
    }
}

#[test]
fn tables_of_each_kind_are_there_after_a_restart() {
    for close in [true, false] {
        let disk = SimDisk::new(1);
        let db = small(&disk);
        let mut maps = Vec::new();
        for kind in KINDS {
            maps.push(fill(&db.table(kind.name(), kind).unwrap(), 1200));
        }
        if close {
            db.close().unwrap();
        } else {
            db.checkpoint().unwrap();
            for (kind, map) in KINDS.into_iter().zip(&mut maps) {
                let table = db.open_table(kind.name()).unwrap();
                table.put("late", "row").unwrap();
                table.delete(key(1)).unwrap();
                map.insert(b"late".to_vec(), b"row".to_vec());
                map.remove(&key(1)[..]);
            }
            drop(db);
        }
        for _ in 0..2 {
            let db = small(&disk);
            for (kind, map) in KINDS.into_iter().zip(&mut maps) {
                let table = db.table(kind.name(), kind).unwrap();
                assert!(all_of(&table) == *map, "{kind}, closed: {close}");
                table.put("more", kind.name()).unwrap();
                map.insert(b"more".to_vec(), kind.name().into());
            }
            assert!(db.verify().unwrap().is_sound());
        }
    }
}

/// On real files, with threads: the kinds beside each other in one commit, and after it.
#[test]
fn kinds_share_transactions() {
    let scratch = Scratch::new("kinds");
    let open = || Options::new().memory_bytes(8 << 20).open(&scratch.0).unwrap();
    let db = open();
    let tables = KINDS.map(|kind| db.table(kind.name(), kind).unwrap());
    std::thread::scope(|scope| {
        for thread in 0..3u32 {
            let (db, tables) = (&db, &tables);
            scope.spawn(move || {
                for n in 0..60 {
                    let n = n * 3 + thread;
                    let write = |tx: &mut esker::Transaction| {
                        for table in tables {
                            let sum = tx.get(table, "sum")?.map_or(0, |sum| sum[0]);
                            tx.put(table, "sum", [sum.wrapping_add(1)])?;
                            tx.put(table, key(n), value(n, 0))?;
                        }
                        tx.set_durability(Durability::Os);
                        Ok(())
                    };
                    db.transact::<_, Error>(write).unwrap();
                }
            });
        }
    });
    let first = all_of(&tables[0]);
    assert_eq!((first.len(), first[&b"sum"[..]][0]), (181, 180));
    assert!(tables.iter().all(|table| all_of(table) == first));
    drop(tables);
    db.close().unwrap();
    let db = open();
    let tables = db.tables();
    assert_eq!(tables.iter().map(Table::kind).collect::<Vec<_>>(), [KINDS[0], KINDS[2], KINDS[1]]);
    assert!(tables.iter().all(|table| all_of(table) == first));
}

/// Memtables are only as large as memory for all of them allows, and background work goes round.
#[test]
fn there_may_be_many_fractal_tables() {
    let disk = SimDisk::new(1);
    let db = options().memory_bytes(1 << 20).open_on(Arc::new(disk.clone())).unwrap();
    let tables: Vec<_> =
        (0..40).map(|n| db.table(&format!("t{n:02}"), Index::Fractal).unwrap()).collect();
    for n in 0..400 {
        for (i, table) in (0..).zip(&tables) {
            table.put(key(n * 7919 % 400), value(n + i, 0)).unwrap();
        }
    }
    db.settle().unwrap();
    for (i, table) in (0..).zip(&tables) {
        let rows = all_of(table);
        assert_eq!(rows.len(), 400, "table {i}");
        assert!((0..400).all(|n| rows[&key(n * 7919 % 400)[..]] == value(n + i, 0)));
    }
    for n in (0..40).step_by(2) {
        db.drop_table(&format!("t{n:02}")).unwrap();
    }
    drop(tables);
    db.settle().unwrap();
    assert!(db.verify().unwrap().is_sound());
    db.close().unwrap();
    let db = options().memory_bytes(1 << 20).open_on(Arc::new(disk)).unwrap();
    assert_eq!(db.tables().len(), 20);
    assert!(db.tables().iter().all(|table| table.rows().unwrap().count() == 400));
}

/// What a dropped table took comes back, whatever its kind and however far its background work is.
#[test]
fn a_dropped_table_of_each_kind_gives_its_space_back() {
    /// Of the page map, which has room for every page id that was ever handed out, and each node twice.
    const MAP_BYTES: u64 = 2 * (16 << 10);
    for kind in KINDS {
        let disk = SimDisk::new(1);
        let db = small(&disk);
        db.table("stays", Index::BTree).unwrap().put("k", "v").unwrap();
        db.checkpoint().unwrap();
        db.settle().unwrap();
        let empty = db.stats();
        let mut full_bytes = 0;
        for round in 0..3 {
            let table = db.table("t", kind).unwrap();
            fill(&table, 4000);
            if round == 1 {
                db.settle().unwrap();
            }
            full_bytes = db.stats().segment_bytes;
            db.drop_table("t").unwrap();
        }
        db.settle().unwrap();
        let left = db.stats();
        let case = format!("{kind}: {} live bytes, once {}", left.live_bytes, empty.live_bytes);
        assert!(left.live_bytes <= empty.live_bytes + MAP_BYTES, "{case}");
        assert!(
            left.segment_bytes * 2 < full_bytes.max(left.live_bytes * 4),
            "{case}; {} bytes of segments, {full_bytes} before",
            left.segment_bytes
        );
        assert!(db.verify().unwrap().is_sound());
        // Nothing of it comes back with a restart either.
        db.close().unwrap();
        let db = small(&disk);
        db.settle().unwrap();
        assert!(db.stats().live_bytes <= empty.live_bytes + MAP_BYTES, "{case}, reopened");
        assert_eq!(db.tables().len(), 1);
    }
}

#[test]
fn most_gets_of_absent_keys_of_a_hash_table_read_nothing() {
    const GETS: u32 = 4000;
    const ROWS: u32 = 12_000;
    let options = Options::new().memory_bytes(2 << 20).durability(Durability::Os);
    let disk = SimDisk::new(7);
    let reads = |db: &Database, from: u32| {
        let hash = db.table("h", Index::Hash).unwrap();
        let before = db.stats().page_reads;
        for n in from..from + GETS {
            assert_eq!(hash.get(key(n)).unwrap(), None);
        }
        db.stats().page_reads - before
    };
    let db = options.clone().open_on(Arc::new(disk.clone())).unwrap();
    let hash = db.table("h", Index::Hash).unwrap();
    for n in 0..ROWS {
        hash.put(key(n), [7; 200]).unwrap();
    }
    let many: Vec<[u8; 4]> = (ROWS - 500..ROWS + 1500).map(key).collect();
    let found = hash.multi_get(&many).unwrap();
    assert!(found.iter().enumerate().all(|(i, value)| value.is_some() == (i < 500)));
    // Of a table that has outgrown memory while it was filled, and of one that was opened.
    let filled = reads(&db, ROWS);
    assert!(filled < u64::from(GETS) / 10, "{filled} reads");
    db.close().unwrap();
    let db = options.open_on(Arc::new(disk)).unwrap();
    let buckets = reads(&db, ROWS + GETS);
    let opened = reads(&db, ROWS + 2 * GETS);
    assert!(opened < u64::from(GETS) / 20, "{opened} reads, after {buckets}");
}
