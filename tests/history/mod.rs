//! Concurrent transactions on real threads, recorded and checked.
//!
//! Goal: every history is one that some serial order explains (or, where it was asked for, one that
//! snapshot isolation allows), and single operations are linearizable. Method: lists that are only
//! ever appended to tell the order of versions; the dependencies that follow from it must have no cycle
//! ([`check`]). With validation switched off, the checker must find one.

mod check;
mod linear;

use crate::sim::{Choices, Rng, seeds};
use check::{Event, Level, Micro};
use esker::{Database, Error, Index, Isolation, Options, Result, Table, Transaction};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// How a list is stored.
#[derive(Clone, Copy, Debug)]
enum Shape {
    /// One row holds the whole list.
    Value,
    /// A row for each element, found by a scan.
    Rows,
    /// One row holds the newest element, and each element is written by who has read the one before.
    Register,
}

#[derive(Clone, Copy, Debug)]
struct Workload {
    kind: Index,
    shape: Shape,
    isolation: Isolation,
    threads: u64,
    /// Transactions of each thread.
    transactions: u64,
    keys: u64,
    validate: bool,
}

const USUAL: Workload = Workload {
    kind: Index::BTree,
    shape: Shape::Value,
    isolation: Isolation::Serializable,
    threads: 4,
    transactions: 150,
    keys: 4,
    validate: true,
};

const KINDS: [Index; 3] = [Index::BTree, Index::Hash, Index::Fractal];

/// Little memory, so that pages come and go while transactions run.
fn database() -> Database {
    Options::new().page_bytes(1024).memory_bytes(160 << 10).open_in_memory().unwrap()
}

fn numbers(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

fn read(tx: &mut Transaction, table: &Table, shape: Shape, key: u8) -> Result<Vec<u32>> {
    match shape {
        Shape::Value | Shape::Register => {
            Ok(tx.get(table, [key])?.map_or_else(Vec::new, |list| numbers(&list)))
        }
        Shape::Rows => tx.prefix(table, [key])?.map(|row| Ok(numbers(&row?.1)[0])).collect(),
    }
}

fn append(
    tx: &mut Transaction,
    table: &Table,
    shape: Shape,
    key: u8,
    element: u32,
) -> Result<Vec<u32>> {
    let old = read(tx, table, shape, key)?;
    match shape {
        Shape::Value => {
            let list = old.iter().chain([&element]).flat_map(|n| n.to_le_bytes());
            tx.put(table, [key], list.collect::<Vec<_>>())?;
        }
        Shape::Register => tx.put(table, [key], element.to_le_bytes())?,
        Shape::Rows => {
            let at = (old.len() as u32).to_be_bytes();
            tx.put(table, [&[key], &at[..]].concat(), element.to_le_bytes())?;
        }
    }
    Ok(old)
}

/// Runs a workload and gives what was seen, a last read of everything included.
fn record(seed: u64, workload: Workload) -> Vec<Event> {
    let Workload { kind, shape, keys, .. } = workload;
    let db = database();
    if !workload.validate {
        db.switch_validation_off_to_test_the_history_checker();
    }
    let table = db.table("lists", kind).unwrap();
    // Neighbours, so that keys do not all lie in one leaf.
    let ballast = db.table("ballast", kind).unwrap();
    for n in 0..300u16 {
        ballast.put(n.to_be_bytes(), [n as u8; 300]).unwrap();
    }
    for key in 0..keys as u8 {
        table.put([key, 0xff], [0; 400]).unwrap();
        table.delete([key, 0xff]).unwrap();
    }
    let (clock, next) = (AtomicU64::new(0), AtomicU32::new(1));
    let now = || clock.fetch_add(1, Ordering::SeqCst);
    let transaction = |rng: &mut Rng, process: u64, only_reads: bool| {
        let start = now();
        let mut tx = db.begin_with(workload.isolation);
        let mut micros = Vec::new();
        let mut body = || -> Result<()> {
            for n in 0..if only_reads { keys } else { 1 + rng.below(4) } {
                if only_reads {
                    micros.push(Micro::Read(n as u8, read(&mut tx, &table, shape, n as u8)?));
                    continue;
                }
                let key = rng.below(keys) as u8;
                if rng.one_in(2) {
                    let element = next.fetch_add(1, Ordering::Relaxed);
                    // Known before it is written: others may see it although this one fails.
                    micros.push(Micro::Append(key, element));
                    let old = append(&mut tx, &table, shape, key, element)?;
                    micros.insert(micros.len() - 1, Micro::Read(key, old));
                } else {
                    micros.push(Micro::Read(key, read(&mut tx, &table, shape, key)?));
                }
                if rng.one_in(4) {
                    let n = rng.below(300) as u16;
                    assert_eq!(ballast.get(n.to_be_bytes())?.unwrap(), [n as u8; 300]);
                }
                std::thread::yield_now();
            }
            Ok(())
        };
        let result = body().and_then(|()| tx.commit());
        let committed = match result {
            Ok(()) => true,
            Err(Error::Conflict) => false,
            Err(error) => panic!("{error}"),
        };
        Event { process, start, end: now(), committed, micros }
    };
    let mut events: Vec<Event> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workload.threads)
            .map(|process| {
                let transaction = &transaction;
                scope.spawn(move || {
                    let mut rng = Rng::new(seed << 8 | process);
                    (0..workload.transactions)
                        .map(|_| transaction(&mut rng, process, false))
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    events.push(transaction(&mut Rng::new(seed), workload.threads, true));
    assert!(db.verify().unwrap().is_sound());
    if matches!(shape, Shape::Register) {
        // What is broken here shows in the check, too.
        let valid = check::registers_to_lists(&mut events);
        assert!(valid.is_ok() || !workload.validate, "{valid:?}");
    }
    events
}

fn expect(seeds: u64, workload: Workload, level: Level) {
    let (mut committed, mut failed) = (0, 0);
    let first = seeds::from_env("ESKER_SEED");
    let count = if first.is_some() { 1 } else { seeds::from_env("ESKER_SEEDS").unwrap_or(seeds) };
    let first = first.unwrap_or(0);
    for seed in first..first + count {
        let events = record(seed, workload);
        committed += events.iter().filter(|event| event.committed).count();
        failed += events.iter().filter(|event| !event.committed).count();
        check::check(&events, level)
            .unwrap_or_else(|error| panic!("seed {seed}, {workload:?}: {error}"));
    }
    eprintln!("{workload:?}: {committed} committed, {failed} conflicts");
    assert!(failed > 0, "nothing ever ran at the same time");
}

#[test]
fn lists_in_rows_are_serializable() {
    for kind in KINDS {
        expect(6, Workload { kind, ..USUAL }, Level::Serializable);
    }
}

#[test]
fn lists_of_rows_are_serializable() {
    for kind in [Index::BTree, Index::Fractal] {
        expect(6, Workload { kind, shape: Shape::Rows, ..USUAL }, Level::Serializable);
    }
}

#[test]
fn registers_are_serializable() {
    for kind in KINDS {
        let workload = Workload { kind, shape: Shape::Register, keys: 6, ..USUAL };
        expect(6, workload, Level::Serializable);
    }
}

#[test]
fn snapshot_isolation_is_kept_where_it_was_asked_for() {
    for (kind, shape) in [
        (Index::BTree, Shape::Value),
        (Index::Hash, Shape::Value),
        (Index::Fractal, Shape::Rows),
        (Index::BTree, Shape::Register),
        (Index::Fractal, Shape::Register),
    ] {
        let workload = Workload { kind, shape, isolation: Isolation::Snapshot, ..USUAL };
        expect(4, workload, Level::Snapshot);
    }
}

/// The checker notices when it matters: without validation, histories go wrong.
#[test]
fn without_validation_the_checker_finds_violations() {
    for shape in [Shape::Value, Shape::Rows, Shape::Register] {
        for isolation in [Isolation::Serializable, Isolation::Snapshot] {
            let workload = Workload { shape, isolation, validate: false, keys: 2, ..USUAL };
            let level = match isolation {
                Isolation::Serializable => Level::Serializable,
                Isolation::Snapshot => Level::Snapshot,
            };
            let found = (0..50).any(|seed| {
                let events = record(seed, workload);
                check::check(&events, level).is_err()
            });
            assert!(found, "{workload:?}: 50 histories without a violation");
        }
    }
}

/// Snapshot isolation lets both of two crossing writers through, and the checker tells the levels
/// apart by it.
#[test]
fn write_skew_tells_the_levels_apart() {
    let run = |isolation| {
        let db = database();
        let table = db.table("lists", Index::BTree).unwrap();
        let mut one = db.begin_with(isolation);
        let mut two = db.begin_with(isolation);
        for (tx, writes) in [(&mut one, 1u8), (&mut two, 2)] {
            for key in [1, 2] {
                assert!(read(tx, &table, Shape::Value, key).unwrap().is_empty());
            }
            append(tx, &table, Shape::Value, writes, u32::from(writes)).unwrap();
        }
        let committed = [one.commit(), two.commit()].map(|result| match result {
            Ok(()) => true,
            Err(Error::Conflict) => false,
            Err(error) => panic!("{error}"),
        });
        let event = |n: u8, committed| Event {
            process: u64::from(n),
            start: 0,
            end: 10,
            committed,
            micros: vec![
                Micro::Read(1, Vec::new()),
                Micro::Read(2, Vec::new()),
                Micro::Append(n, u32::from(n)),
            ],
        };
        let mut events = vec![event(1, committed[0]), event(2, committed[1])];
        let lists = [1, 2].map(|key| {
            let list = table.get([key]).unwrap().map_or_else(Vec::new, |list| numbers(&list));
            Micro::Read(key, list)
        });
        events.push(Event {
            process: 3,
            start: 11,
            end: 12,
            committed: true,
            micros: lists.into(),
        });
        events
    };
    let skewed = run(Isolation::Snapshot);
    assert!(skewed.iter().all(|event| event.committed), "snapshot isolation lets both through");
    check::check(&skewed, Level::Snapshot).unwrap();
    assert!(check::check(&skewed, Level::Serializable).is_err());
    let serial = run(Isolation::Serializable);
    assert_eq!(serial.iter().filter(|event| event.committed).count(), 2, "one must give way");
    check::check(&serial, Level::Serializable).unwrap();
}

/// Money moves between accounts in two tables; every way of reading all of them sees the same sum.
#[test]
fn every_reader_sees_the_same_sum() {
    const ACCOUNTS: u64 = 40;
    const SUM: i64 = 1000 * ACCOUNTS as i64;
    let db = database();
    let kinds = [Index::Hash, Index::Fractal];
    let tables = [0, 1].map(|n| db.table(&format!("bank-{n}"), kinds[n]).unwrap());
    let account = |n: u64| (&tables[(n % 2) as usize], n.to_be_bytes());
    for n in 0..ACCOUNTS {
        let (table, key) = account(n);
        table.put(key, 1000i64.to_le_bytes()).unwrap();
    }
    let amount = |bytes: &[u8]| i64::from_le_bytes(bytes.try_into().unwrap());
    let move_money = |rng: &mut Rng| {
        let (from, to) = (rng.below(ACCOUNTS), rng.below(ACCOUNTS));
        let by = rng.below(100) as i64;
        db.transact(|tx| {
            if from == to {
                return Ok(());
            }
            let ((a, a_key), (b, b_key)) = (account(from), account(to));
            let a_old = amount(&tx.get(a, a_key)?.unwrap());
            let b_old = amount(&tx.get(b, b_key)?.unwrap());
            tx.put(a, a_key, (a_old - by).to_le_bytes())?;
            tx.put(b, b_key, (b_old + by).to_le_bytes())
        })
        .unwrap();
    };
    let sum_up = |rng: &mut Rng| -> i64 {
        match rng.below(3) {
            0 => {
                let snapshot = db.snapshot();
                std::thread::yield_now();
                let rows = tables.iter().flat_map(|table| snapshot.rows(table).unwrap());
                rows.map(|row| amount(row.unwrap().value())).sum()
            }
            1 => db
                .transact(|tx| {
                    let mut sum = 0;
                    for table in &tables {
                        for row in tx.rows(table)? {
                            sum += amount(&row?.1);
                        }
                    }
                    Ok::<_, Error>(sum)
                })
                .unwrap(),
            _ => db
                .transact(|tx| {
                    let mut sum = 0;
                    for n in 0..ACCOUNTS {
                        let (table, key) = account(n);
                        sum += amount(&tx.get(table, key)?.unwrap());
                    }
                    Ok::<_, Error>(sum)
                })
                .unwrap(),
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (move_money, sum_up) = (&move_money, &sum_up);
            scope.spawn(move || {
                let mut rng = Rng::new(thread);
                for _ in 0..400 {
                    if thread % 2 == 0 {
                        move_money(&mut rng);
                    } else {
                        assert_eq!(sum_up(&mut rng), SUM);
                    }
                }
            });
        }
    });
    assert_eq!(sum_up(&mut Rng::new(9)), SUM);
}
