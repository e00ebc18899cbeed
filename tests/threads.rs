//! Many threads on one database.
//!
//! Goal: threads do not disturb each other, whatever goes on in the background. Method: each thread has
//! rows of its own, between everybody else's in shared tables, and a map of what they must be; little
//! memory, checkpoints and cleaning all the time. And crashes while many wait for one sync.

use crate::sim::{Choices, Rng};
use esker::{Database, Durability, Error, Index, Options, Result, Table};
use esker_io::Disk;
use esker_io::mem::MemDisk;
use esker_io::sim::{CrashKind, SimDisk};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

const TABLES: usize = 2;

fn options() -> Options {
    Options::new()
        .page_bytes(1024)
        .memory_bytes(200 << 10)
        .log_file_bytes(64 << 10)
        .log_distance_bytes(32 << 10)
        .durability(Durability::Os)
        .merge_operator("append", |_, old, new| Some([old.unwrap_or_default(), new].concat()))
}

/// One thread's keys lie between those of all others.
fn key(rng: &mut Rng, thread: u8) -> Vec<u8> {
    let n = rng.below(150) as u8;
    vec![n / 10, n, thread]
}

fn own(rows: impl Iterator<Item = Result<(Vec<u8>, Vec<u8>)>>, thread: u8) -> Map {
    rows.map(Result::unwrap).filter(|(key, _)| key[2] == thread).collect()
}

fn expect(found: &Map, wanted: &Map, what: &str) {
    assert!(found == wanted, "{what}: {} rows instead of {}", found.len(), wanted.len());
}

fn parts(row: Result<esker::Row>) -> Result<(Vec<u8>, Vec<u8>)> {
    row.map(esker::Row::into_parts)
}

/// Runs a thread's transaction until it commits.
fn transact(db: &Database, table: &Table, keys: &[Vec<u8>], value: &[u8], map: &mut Map) {
    db.transact(|tx| {
        for key in keys {
            let found = tx.get(table, key)?;
            assert_eq!(found.as_ref(), map.get(key), "read in a transaction");
            tx.put(table, key, [key, value].concat())?;
        }
        Ok::<_, Error>(())
    })
    .unwrap();
    map.extend(keys.iter().map(|key| (key.clone(), [&key[..], value].concat())));
}

/// What one thread does.
fn work(db: &Database, tables: &[Table], thread: u8, steps: u32, maps: &mut [Map]) {
    let mut rng = Rng::new(u64::from(thread));
    let mut held = None;
    for step in 0..steps {
        let n = rng.below(TABLES as u64) as usize;
        let (table, map) = (&tables[n], &mut maps[n]);
        let key = key(&mut rng, thread);
        let len = rng.pick(&[3, 40, 110, 400, 3000]);
        let value = vec![step as u8; rng.below(len) as usize];
        match rng.below(16) {
            0..=4 => {
                table.put(&key, &value).unwrap();
                map.insert(key, value);
            }
            5 => {
                table.delete(&key).unwrap();
                map.remove(&key);
            }
            6 => assert_eq!(table.get(&key).unwrap().as_ref(), map.get(&key)),
            7 => {
                let swapped = table.compare_and_swap(
                    &key,
                    map.get(&key).map(|value| &value[..]),
                    Some(&value),
                );
                assert!(swapped.unwrap(), "nobody else writes this row");
                map.insert(key, value);
            }
            8 => {
                let value = &value[..value.len().min(50)];
                table.merge("append", &key, value).unwrap();
                let merged = map.entry(key.clone()).or_default();
                merged.extend_from_slice(value);
                if merged.len() > 2000 {
                    table.delete(&key).unwrap();
                    map.remove(&key);
                }
            }
            9 => {
                // A range that holds nobody else's rows.
                let range = key.clone()..=key.clone();
                table.delete_range(range).unwrap();
                map.remove(&key);
            }
            10 | 11 => {
                let mut keys = vec![key, self::key(&mut rng, thread), self::key(&mut rng, thread)];
                keys.sort();
                keys.dedup();
                transact(db, table, &keys, &value[..value.len().min(200)], map);
            }
            12 => {
                let mut batch = db.batch();
                for table in tables {
                    batch.put(table, &key, &value);
                }
                batch.commit().unwrap();
                for map in maps.iter_mut() {
                    map.insert(key.clone(), value.clone());
                }
            }
            13 => {
                let found = own(table.range(..).unwrap().map(parts), thread);
                expect(&found, map, "a scan");
            }
            14 => {
                let rows = table.range(..).unwrap().rev().map(parts);
                expect(&own(rows, thread), map, "a scan back");
            }
            _ => match held.take() {
                None => held = Some((db.snapshot(), maps.to_vec())),
                Some((snapshot, then)) => {
                    for (table, then) in tables.iter().zip(&then) {
                        let rows = snapshot.range(table, ..).unwrap().map(parts);
                        expect(&own(rows, thread), then, "a snapshot");
                    }
                }
            },
        }
    }
}

fn run(disk: Arc<dyn Disk>, threads: u8, steps: u32) {
    let db = options().open_on(Arc::clone(&disk)).unwrap();
    let tables: Vec<Table> =
        (0..TABLES).map(|n| db.table(&format!("t{n}"), Index::BTree).unwrap()).collect();
    let stop = AtomicBool::new(false);
    let maps: Vec<Vec<Map>> = std::thread::scope(|scope| {
        let (db, tables, stop) = (&db, &tables, &stop);
        let upkeep = scope.spawn(move || {
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) {
                rounds += 1;
                if rounds % 3 == 0 {
                    db.settle().unwrap();
                } else {
                    db.checkpoint().unwrap();
                }
                std::thread::yield_now();
            }
        });
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    let mut maps = vec![Map::new(); TABLES];
                    work(db, tables, thread, steps, &mut maps);
                    maps
                })
            })
            .collect();
        let maps = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        stop.store(true, Ordering::Relaxed);
        upkeep.join().unwrap();
        maps
    });
    let wanted: Vec<Map> =
        (0..TABLES).map(|n| maps.iter().flat_map(|maps| maps[n].clone()).collect()).collect();
    let check = |db: &Database| {
        for (n, wanted) in wanted.iter().enumerate() {
            let table = db.open_table(&format!("t{n}")).unwrap();
            let found: Map = table.range(..).unwrap().map(|row| parts(row).unwrap()).collect();
            expect(&found, wanted, "in the end");
        }
        let found = db.verify().unwrap();
        assert!(found.is_sound(), "{:?}", found.damage);
    };
    check(&db);
    drop(tables);
    drop(db);
    check(&options().open_on(disk).unwrap());
}

#[test]
fn threads_do_not_disturb_each_other() {
    run(Arc::new(MemDisk::new()), 4, 3000);
}

#[test]
fn nor_where_they_do_the_background_work_themselves() {
    run(Arc::new(SimDisk::new(1)), 4, 1500);
}

/// Group commit under crashes: what any writer was told is there, and no batch is half there.
#[test]
fn what_any_of_many_writers_was_told_survives() {
    const WRITERS: usize = 4;
    const ROUNDS: u32 = 60;
    let disk = SimDisk::new(3);
    let open =
        |disk: &SimDisk| options().durability(Durability::Sync).open_on(Arc::new(disk.clone()));
    let db = open(&disk).unwrap();
    let tables = ["a", "b"].map(|name| db.table(name, Index::BTree).unwrap());
    let counters = || Arc::new([const { AtomicU32::new(0) }; WRITERS]);
    let (begun, told) = (counters(), counters());
    let left = Arc::new(Mutex::new(Vec::new()));
    let numbers = |counters: &[AtomicU32; WRITERS]| {
        counters.each_ref().map(|counter| counter.load(Ordering::SeqCst))
    };
    let (net, before, after) = (Arc::clone(&left), Arc::clone(&told), Arc::clone(&begun));
    disk.on_operation(Box::new(move |operation, disk| {
        let kind = match CrashKind::ALL[(operation % CrashKind::ALL.len() as u64) as usize] {
            CrashKind::SingleDrop(_) => {
                CrashKind::SingleDrop(operation % disk.pending_count().max(1))
            }
            kind => kind,
        };
        // Others go on meanwhile: what was told before the crash, and begun after it, are the bounds.
        let told = numbers(&before);
        let clone = disk.crash_clone(kind, operation);
        net.lock().unwrap().push((kind, clone, told, numbers(&after)));
    }));
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (db, tables, begun, told) = (&db, &tables, &begun, &told);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    begun[writer].store(round + 1, Ordering::SeqCst);
                    let mut batch = db.batch();
                    for table in tables {
                        batch.put(table, [writer as u8, round as u8], [round as u8; 60]);
                    }
                    batch.commit().unwrap();
                    told[writer].store(round + 1, Ordering::SeqCst);
                }
            });
        }
    });
    disk.clear_hook();
    let left = std::mem::take(&mut *left.lock().unwrap());
    assert!(left.len() > 100, "{} crashes", left.len());
    for (kind, disk, told, begun) in left {
        let db = open(&disk).unwrap();
        let rows = ["a", "b"].map(|name| {
            let table = db.open_table(name).unwrap();
            table.range(..).unwrap().map(|row| parts(row).unwrap()).collect::<Map>()
        });
        assert!(rows[0] == rows[1], "{kind:?}: half a batch");
        for writer in 0..WRITERS {
            let found: Vec<u8> = rows[0]
                .keys()
                .filter(|key| usize::from(key[0]) == writer)
                .map(|key| key[1])
                .collect();
            let count = found.len() as u32;
            assert!(
                count >= told[writer] && count <= begun[writer],
                "{kind:?}: writer {writer} was told of {}, began {}, and {count} are there",
                told[writer],
                begun[writer]
            );
            assert!(found.iter().copied().eq(0..count as u8), "{kind:?}: {found:?}");
        }
    }
}
