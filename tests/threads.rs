//! Many threads on one database.
//!
//! Goal: threads do not disturb each other, whatever goes on in the background. Method: each thread has
//! rows of its own, between everybody else's in shared tables, and a map of what they must be; little
//! memory, checkpoints and cleaning all the time. And crashes while many wait for one sync.

use crate::plants::THREADS;
use crate::sim::{Choices, Rng, seeds};
use esker::{Database, Durability, Error, Index, Options, Result, Table};
use esker_io::Disk;
use esker_io::answers::Answers;
use esker_io::mem::MemDisk;
use esker_io::sim::{CrashKind, SimDisk};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

const TABLES: usize = 2;

/// The kinds of both tables.
const KINDS: [[Index; TABLES]; 4] = [
    [Index::BTree; TABLES],
    [Index::Hash; TABLES],
    [Index::Fractal; TABLES],
    [Index::Fractal, Index::Hash],
];

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
            9 if table.is_ordered() => {
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
                let found = own(table.rows().unwrap().map(parts), thread);
                expect(&found, map, "a scan");
            }
            14 if table.is_ordered() => {
                let rows = table.range(..).unwrap().rev().map(parts);
                expect(&own(rows, thread), map, "a scan back");
            }
            _ => match held.take() {
                None => held = Some((db.snapshot(), maps.to_vec())),
                Some((snapshot, then)) => {
                    for (table, then) in tables.iter().zip(&then) {
                        let rows = snapshot.rows(table).unwrap().map(parts);
                        expect(&own(rows, thread), then, "a snapshot");
                    }
                }
            },
        }
    }
}

fn run(disk: Arc<dyn Disk>, threads: u8, steps: u32, kinds: [Index; TABLES]) {
    let db = options().open_on(Arc::clone(&disk)).unwrap();
    let tables: Vec<Table> =
        (0..TABLES).map(|n| db.table(&format!("t{n}"), kinds[n]).unwrap()).collect();
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
            let found: Map = table.rows().unwrap().map(|row| parts(row).unwrap()).collect();
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

/// Fewer under an interpreter, which takes a thousand times as long.
fn steps(usual: u32) -> u32 {
    if cfg!(miri) { usual / 50 } else { usual }
}

#[test]
fn threads_do_not_disturb_each_other() {
    for kinds in KINDS {
        run(Arc::new(MemDisk::new()), 4, steps(2000), kinds);
    }
}

#[test]
fn nor_where_they_do_the_background_work_themselves() {
    for kinds in KINDS {
        run(Arc::new(SimDisk::new(1)), 4, steps(1000), kinds);
    }
}

/// Frames are given back to the system and taken again while others read and write: the system's cache says by turns that it has
/// all pages, and that it has no room for them.
#[test]
fn frames_come_and_go_under_readers_and_writers() {
    const ROWS: u64 = 20_000;
    let key = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    for kind in [Index::BTree, Index::Hash, Index::Fractal] {
        let disk = MemDisk::new();
        let db = options().memory_bytes(512 << 10).open_on(Arc::new(disk.clone())).unwrap();
        let table = db.table("t", kind).unwrap();
        (0..ROWS).for_each(|n| table.put(key(n), [n as u8; 100]).unwrap());
        db.checkpoint().unwrap();
        disk.answer_residence(Answers::Turns { questions: 256, seed: 1 });
        let (seen, running) = (AtomicU64::new(0), AtomicU64::new(4));
        std::thread::scope(|scope| {
            let (table, seen, running) = (&table, &seen, &running);
            for thread in 0..4 {
                scope.spawn(move || {
                    let mut rng = Rng::new(thread);
                    // Until frames were seen to go and to come back a few times; that is seen early, or never.
                    for _ in 0..steps(200_000) {
                        let n = rng.below(ROWS);
                        if rng.below(100) == 0 {
                            table.put(key(n), [n as u8; 100]).unwrap();
                        } else {
                            assert_eq!(table.get(key(n)).unwrap(), Some(vec![n as u8; 100]));
                        }
                        if seen.load(Ordering::Relaxed) > 6 {
                            break;
                        }
                    }
                    running.fetch_sub(1, Ordering::Relaxed);
                });
            }
            let mut before = 0;
            while running.load(Ordering::Relaxed) > 0 {
                let now = db.stats().cache_pages_given_back;
                seen.fetch_add(u64::from(now != before), Ordering::Relaxed);
                before = now;
                std::thread::yield_now();
            }
        });
        assert!(cfg!(miri) || seen.into_inner() > 0, "{kind:?}: nothing was given back");
        assert!(db.verify().unwrap().is_sound());
    }
}

/// Gets of absent keys teach what is absent, while rows are put one by one, and everything is deleted now and then.
#[test]
fn what_was_put_is_found_whoever_looks_for_absent_keys() {
    const ROUNDS: u32 = 60;
    const ROWS: u32 = 400;
    let key = |round: u32, n: u32| [round.to_be_bytes(), n.to_be_bytes()].concat();
    for kind in [Index::Hash, Index::Fractal] {
        let options = options().memory_bytes(2 << 20);
        let db = options.open_on(Arc::new(MemDisk::new())).unwrap();
        let table = db.table("t", kind).unwrap();
        // Rows that are there: all of this round before this one.
        let there = AtomicU64::new(0);
        let found = std::thread::scope(|scope| {
            let readers = [1, 2].map(|seed| {
                let (table, there) = (&table, &there);
                scope.spawn(move || {
                    let (mut rng, mut found) = (Rng::new(seed), 0);
                    loop {
                        let before = there.load(Ordering::Acquire);
                        let (round, rows) = ((before >> 32) as u32, before as u32);
                        if round == ROUNDS {
                            return found;
                        }
                        let n = rng.below(u64::from(ROWS)) as u32;
                        assert_eq!(table.get(key(u32::MAX, n)).unwrap(), None);
                        let got = table.get(key(round, n)).unwrap();
                        let after = (there.load(Ordering::Acquire) >> 32) as u32;
                        if n < rows && after == round {
                            assert!(got.is_some(), "row {n} of round {round}, {rows} rows");
                            found += 1;
                        }
                    }
                })
            });
            for round in 0..ROUNDS {
                there.store(u64::from(round) << 32, Ordering::Release);
                for n in 0..ROWS {
                    table.put(key(round, n), [7; 50]).unwrap();
                    there.fetch_add(1, Ordering::Release);
                }
                there.store(u64::from(round + 1) << 32, Ordering::Release);
                table.clear().unwrap();
            }
            readers.map(|reader| reader.join().unwrap())
        });
        assert!(found.iter().sum::<u32>() > 0, "nobody read while rows came");
    }
}

/// A commit that cannot be latched at once is applied piece by piece; nobody sees a part of it.
#[test]
fn a_commit_in_pieces_is_seen_as_a_whole() {
    const ROUNDS: u32 = 300;
    let number = |found: Option<Vec<u8>>| {
        found.map_or(0, |value| u32::from_be_bytes(value[..4].try_into().unwrap()))
    };
    for kind in [Index::BTree, Index::Fractal] {
        let db = options().open_on(Arc::new(MemDisk::new())).unwrap();
        let table = db.table("t", kind).unwrap();
        let stop = AtomicBool::new(false);
        let seen = AtomicU32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let (first, last) =
                        (number(table.get("a").unwrap()), number(table.get("z").unwrap()));
                    assert!(last >= first, "the first row of commit {first}, the last of {last}");
                    let rows = db.snapshot();
                    let ends = ["a", "z"].map(|key| number(rows.get(&table, key).unwrap()));
                    assert_eq!(ends[0], ends[1], "a snapshot");
                    seen.fetch_add(u32::from(ends[0] > 0), Ordering::Relaxed);
                }
            });
            // On a busy machine the reader may not run for a while.
            let unread = || seen.load(Ordering::Relaxed) == 0;
            for round in (1..=100 * ROUNDS).take_while(|round| *round <= ROUNDS || unread()) {
                let mut value = round.to_be_bytes().to_vec();
                value.resize(100, round as u8);
                // The range among single rows is what makes it one of those commits.
                let mut batch = db.batch();
                batch.delete_range(&table, "m05".."m20");
                batch.put(&table, "a", &value);
                for n in 0..80 {
                    batch.put(&table, format!("m{n:02}"), &value);
                }
                batch.put(&table, "z", &value);
                batch.commit().unwrap();
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(seen.into_inner() > 0, "nobody read while commits went on");
    }
}

/// A value with pages of its own is compared before the turn; who was overtaken meanwhile is refused in it.
#[test]
fn swaps_of_large_values_lose_no_update() {
    const THREADS: usize = 4;
    const ADDED: u32 = 250;
    for kind in [Index::BTree, Index::Hash] {
        let db = options().memory_bytes(2 << 20).open_on(Arc::new(MemDisk::new())).unwrap();
        let table = db.table("t", kind).unwrap();
        let value = |count: u32| count.to_be_bytes().repeat(1000);
        table.put("counter", value(0)).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    for _ in 0..ADDED {
                        loop {
                            let old = table.get("counter").unwrap().unwrap();
                            let count = u32::from_be_bytes(old[..4].try_into().unwrap());
                            assert!(old == value(count), "parts of two values");
                            let new = value(count + 1);
                            if table.compare_and_swap("counter", Some(&old), Some(&new)).unwrap() {
                                break;
                            }
                        }
                    }
                });
            }
        });
        let wanted = value(ADDED * THREADS as u32);
        assert!(table.get("counter").unwrap() == Some(wanted), "{kind:?}: an update is lost");
    }
}

/// Pages that are changed right after a checkpoint has taken its cut are written as the cut sees them.
#[test]
fn a_checkpoint_writes_what_its_cut_sees() {
    const ROWS: u32 = 400;
    let open = |disk: &SimDisk| {
        let options = Options::new().page_bytes(1024).memory_bytes(2 << 20);
        options.durability(Durability::Os).open_on(Arc::new(disk.clone())).unwrap()
    };
    // Every page has rows of both sorts: those that are not, only the checkpoint has.
    let is_changed_late = |n: u32| n.is_multiple_of(2);
    for kind in [Index::BTree, Index::Hash] {
        let disk = SimDisk::new(5);
        let db = open(&disk);
        let table = db.table("t", kind).unwrap();
        let put = |n: u32, round: u8| table.put(n.to_be_bytes(), [round; 60]).unwrap();
        (0..ROWS).for_each(|n| put(n, 1));
        db.checkpoint().unwrap();
        (0..ROWS).for_each(|n| put(n, 2));
        let (begin, begun) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel();
        let late = std::thread::scope(|scope| {
            let (put, table) = (&put, &table);
            scope.spawn(move || {
                begun.recv().unwrap();
                (0..ROWS).filter(|n| is_changed_late(*n)).for_each(|n| put(n, 3));
                // Nobody waits any more if it took too long.
                drop(end.send(table.get(0u32.to_be_bytes()).unwrap()));
            });
            let slot = Arc::new(Mutex::new(None));
            let (seen, mut before) = (Arc::clone(&slot), 0);
            // The first operation pads the log, in the turn; the second syncs it, when no page is written yet.
            disk.on_operation(Box::new(move |_, _| {
                before += 1;
                if before == 2 {
                    begin.send(()).unwrap();
                    *seen.lock().unwrap() = ended.recv_timeout(Duration::from_mins(1)).ok();
                }
            }));
            db.checkpoint().unwrap();
            disk.clear_hook();
            slot.lock().unwrap().take()
        });
        assert_eq!(late, Some(Some(vec![3; 60])), "writers wait for the sync of a checkpoint");
        let expect = |disk: &SimDisk, late: &[u8]| {
            let db = open(disk);
            let table = db.open_table("t").unwrap();
            for n in 0..ROWS {
                let found = table.get(n.to_be_bytes()).unwrap().unwrap();
                let rounds = if is_changed_late(n) { late } else { &[2] };
                assert!(rounds.contains(&found[0]), "{kind:?}: row {n} is of {}", found[0]);
                assert!(found == [found[0]; 60], "{kind:?}: row {n}");
            }
            assert!(db.verify().unwrap().is_sound());
        };
        // The sync of the log may or may not have taken the late ones along.
        expect(&disk.crash_clone(CrashKind::None, 1), &[2, 3]);
        db.sync().unwrap();
        expect(&disk.crash_clone(CrashKind::None, 2), &[3]);
    }
}

/// What is committed and synced while a checkpoint writes lies in files of the log that it must not give back.
#[test]
fn a_checkpoint_keeps_the_log_behind_its_cut() {
    const ROWS: u32 = 800;
    let open = |disk: &SimDisk| {
        let options = Options::new().page_bytes(1024).memory_bytes(2 << 20);
        let options = options.log_file_bytes(16 << 10).durability(Durability::Os);
        options.open_on(Arc::new(disk.clone())).unwrap()
    };
    let disk = SimDisk::new(6);
    let db = open(&disk);
    let table = db.table("t", Index::BTree).unwrap();
    let put = |n: u32, round: u8| table.put(n.to_be_bytes(), [round; 60]).unwrap();
    (0..ROWS).for_each(|n| put(n, 1));
    // Then the checkpoint has nothing of the log to sync, and begins with pages.
    db.sync().unwrap();
    let (begin, begun) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel();
    let late = std::thread::scope(|scope| {
        let (put, db) = (&put, &db);
        scope.spawn(move || {
            begun.recv().unwrap();
            (0..ROWS).for_each(|n| put(n, 2));
            db.sync().unwrap();
            end.send(()).unwrap();
        });
        let slot = Arc::new(Mutex::new(None));
        let (seen, mut before) = (Arc::clone(&slot), 0);
        disk.on_operation(Box::new(move |_, _| {
            before += 1;
            if before == 2 {
                begin.send(()).unwrap();
                *seen.lock().unwrap() = ended.recv_timeout(Duration::from_mins(1)).ok();
            }
        }));
        db.checkpoint().unwrap();
        disk.clear_hook();
        slot.lock().unwrap().take()
    });
    assert_eq!(late, Some(()), "commits wait for the pages of a checkpoint");
    // Files that were given back are written anew.
    (ROWS..ROWS * 2).for_each(|n| put(n, 2));
    db.sync().unwrap();
    let db = open(&disk.crash_clone(CrashKind::None, 1));
    let table = db.open_table("t").unwrap();
    for n in 0..ROWS * 2 {
        assert_eq!(table.get(n.to_be_bytes()).unwrap(), Some(vec![2; 60]), "row {n}");
    }
}

const WRITERS: usize = 3;
/// Rows of each writer; together more than fits in memory.
const ROWS: u32 = 120;

type Rounds = [AtomicU32; WRITERS];

fn rounds() -> Arc<Rounds> {
    Arc::new([const { AtomicU32::new(0) }; WRITERS])
}

fn numbers(rounds: &Rounds) -> [u32; WRITERS] {
    rounds.each_ref().map(|round| round.load(Ordering::SeqCst))
}

/// The row that a writer writes in a round, in each table.
fn row_of(writer: usize, round: u32) -> ([u8; 2], Vec<u8>) {
    let row = round * 7 % ROWS;
    let mut value = round.to_be_bytes().to_vec();
    value.resize(20 + (round as usize * 37) % 250, round as u8);
    ([row as u8, writer as u8], value)
}

/// A disk after a crash, and which round of each writer was the last that may not be missing, and the
/// last that may be there.
struct Left {
    disk: SimDisk,
    kind: CrashKind,
    least: [u32; WRITERS],
    most: [u32; WRITERS],
}

impl Left {
    fn check(&self, db: &Database) {
        let maps = ["a", "b"].map(|name| {
            let table = db.open_table(name).unwrap();
            table.rows().unwrap().map(|row| parts(row).unwrap()).collect::<Map>()
        });
        assert!(maps[0] == maps[1], "{:?}: half a batch", self.kind);
        for writer in 0..WRITERS {
            let found: Map = maps[0]
                .iter()
                .filter(|(key, _)| usize::from(key[1]) == writer)
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            let round = |value: &Vec<u8>| u32::from_be_bytes(value[..4].try_into().unwrap());
            let last = found.values().map(round).max().unwrap_or(0);
            let (least, most) = (self.least[writer], self.most[writer]);
            assert!(
                last >= least && last <= most,
                "{:?}: writer {writer} ends with {last}, not with {least} to {most}",
                self.kind
            );
            let wanted: Map = (1..=last)
                .map(|round| row_of(writer, round))
                .map(|(key, value)| (key.to_vec(), value))
                .collect();
            let place = format!("{:?}: writer {writer}, after round {last}", self.kind);
            expect(&found, &wanted, &place);
        }
        let found = db.verify().unwrap();
        assert!(found.is_sound(), "{:?}: {:?}", self.kind, found.damage);
    }
}

/// Writers on several threads, a thread that checkpoints and cleans all the time, and crashes.
fn crashes_among_threads(seed: u64) -> usize {
    const ROUNDS: u32 = 250;
    let disk = SimDisk::new(seed);
    let open = |disk: &SimDisk| options().open_on(Arc::new(disk.clone())).unwrap();
    let db = open(&disk);
    let kinds = KINDS[(seed % 4) as usize];
    let tables =
        [("a", kinds[0]), ("b", kinds[1])].map(|(name, kind)| db.table(name, kind).unwrap());
    db.sync().unwrap();
    let (begun, returned, synced) = (rounds(), rounds(), rounds());
    let left = Arc::new(Mutex::new(Vec::new()));
    let net = Arc::clone(&left);
    let known = [&begun, &returned, &synced].map(Arc::clone);
    let mut rng = Rng::new(seed);
    disk.on_operation(Box::new(move |_, disk| {
        if !rng.one_in(12) {
            return;
        }
        let kind = match rng.pick(&CrashKind::ALL) {
            CrashKind::SingleDrop(_) => {
                CrashKind::SingleDrop(rng.next() % disk.pending_count().max(1))
            }
            kind => kind,
        };
        let [begun, returned, synced] = &known;
        // The others go on meanwhile: what was known before is the least, what is known after the most.
        let least = numbers(if kind == CrashKind::Kill { returned } else { synced });
        let disk = disk.crash_clone(kind, rng.next());
        net.lock().unwrap().push(Left { disk, kind, least, most: numbers(begun) });
    }));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (db, tables, stop) = (&db, &tables, &stop);
        let (begun, returned, synced) = (&begun, &returned, &synced);
        let upkeep = scope.spawn(move || {
            for round in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                if round % 5 == 4 { db.settle().unwrap() } else { db.checkpoint().unwrap() }
            }
        });
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn(move || {
                    for round in 1..=ROUNDS {
                        let (key, value) = row_of(writer, round);
                        begun[writer].store(round, Ordering::SeqCst);
                        let mut batch = db.batch();
                        for table in tables {
                            batch.put(table, key, &value);
                        }
                        let sync = round % 8 == 0;
                        batch.set_durability(if sync { Durability::Sync } else { Durability::Os });
                        batch.commit().unwrap();
                        returned[writer].store(round, Ordering::SeqCst);
                        if sync {
                            synced[writer].store(round, Ordering::SeqCst);
                        }
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        upkeep.join().unwrap();
    });
    disk.clear_hook();
    let left = std::mem::take(&mut *left.lock().unwrap());
    for left in &left {
        left.check(&open(&left.disk));
    }
    left.len()
}

/// What any writer was told is there, and no batch is half there, whenever the machine stops.
#[test]
fn what_any_of_many_writers_was_told_survives() {
    let crashes = AtomicU32::new(0);
    seeds::each(THREADS, |seed| {
        let count = crashes_among_threads(seed) as u32;
        crashes.fetch_add(count, Ordering::Relaxed);
    });
    if seeds::is_default() {
        let crashes = crashes.into_inner();
        assert!(crashes > 500, "{crashes} crashes");
    }
}

/// Rows that are many times what scans ask for ahead, and more than memory: by two scans at once in each direction, with
/// threads that read for them, while everything is changed.
#[test]
fn scans_beyond_memory_give_every_row_whoever_reads_ahead() {
    const ROWS: u32 = 100_000;
    for kind in [Index::BTree, Index::Fractal] {
        let options = Options::new().page_bytes(1024).memory_bytes(10 << 20);
        let db = options.durability(Durability::Os).open_on(Arc::new(MemDisk::new())).unwrap();
        let table = db.table("t", kind).unwrap();
        let value = |n: u32| [n.wrapping_mul(0x9e37_79b1).to_le_bytes(); 25].concat();
        for n in 0..ROWS {
            let n = (u64::from(n) * 77_773 % u64::from(ROWS)) as u32;
            table.put(n.to_be_bytes(), value(n)).unwrap();
        }
        db.settle().unwrap();
        let reads = db.stats().page_reads;
        let scans: Vec<_> = (0..4).map(|_| table.range(..).unwrap()).collect();
        std::thread::scope(|scope| {
            for (i, mut rows) in scans.into_iter().enumerate() {
                scope.spawn(move || {
                    for n in 0..ROWS {
                        let (wanted, row) = match i % 2 {
                            0 => (n, rows.next_row()),
                            _ => (ROWS - 1 - n, rows.next_row_back()),
                        };
                        let (key, found) = row.unwrap().expect("a row more");
                        assert_eq!((key, found), (&wanted.to_be_bytes()[..], &value(wanted)[..]));
                    }
                    assert!(rows.next().is_none() && rows.next_back().is_none());
                });
            }
            for n in (0..ROWS).step_by(3) {
                table.delete(n.to_be_bytes()).unwrap();
                table.put((n + 1).to_be_bytes(), b"later").unwrap();
            }
        });
        assert!(db.stats().page_reads > reads + 5_000, "{kind:?}: not beyond memory");
    }
}
