//! Single operations on one key are linearizable: there is an order of them, within the times of the
//! calls, in which each answers as if it were alone (Wing and Gong, 1993).

use crate::sim::{Choices, Rng};
use esker::{Error, Index, Table};
use std::collections::BTreeSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};

type Value = Option<u64>;

#[derive(Clone, Copy, Debug)]
enum Call {
    Get(Value),
    Put(u64),
    Delete,
    PutIfAbsent(u64, bool),
    Swap(Value, Value, bool),
    Pop(Value),
}

#[derive(Clone, Copy, Debug)]
struct Timed {
    start: u64,
    end: u64,
    call: Call,
}

/// What the call makes of a value, if it may answer as it did.
fn apply(call: Call, value: Value) -> Option<Value> {
    match call {
        Call::Get(found) => (found == value).then_some(value),
        Call::Put(new) => Some(Some(new)),
        Call::Delete => Some(None),
        Call::PutIfAbsent(new, put) => {
            (put == value.is_none()).then_some(if put { Some(new) } else { value })
        }
        Call::Swap(expected, new, done) => {
            (done == (expected == value)).then_some(if done { new } else { value })
        }
        Call::Pop(found) => (found == value).then_some(None),
    }
}

/// True if some order of the calls explains all answers.
fn is_linearizable(calls: &[Timed], first: Value, last: Value) -> bool {
    // States seen: which calls are placed, and the value then.
    let mut seen = BTreeSet::new();
    let mut open = vec![(0u32, first)];
    let all = (1u32 << calls.len()) - 1;
    while let Some((placed, value)) = open.pop() {
        if !seen.insert((placed, value)) {
            continue;
        }
        if placed == all {
            if value == last {
                return true;
            }
            continue;
        }
        let left = || (0..calls.len()).filter(|i| placed >> i & 1 == 0);
        // Only a call that started before all others left have ended may be next.
        let limit = left().map(|i| calls[i].end).min().expect("some are left");
        for i in left().filter(|i| calls[*i].start <= limit) {
            if let Some(next) = apply(calls[i].call, value) {
                open.push((placed | 1 << i, next));
            }
        }
    }
    false
}

/// A value by its number. Some do not fit a leaf.
fn bytes(id: u64) -> Vec<u8> {
    let mut bytes = id.to_le_bytes().to_vec();
    bytes.resize(if id.is_multiple_of(3) { 700 } else { 8 }, id as u8);
    bytes
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}

fn call(table: &Table, rng: &mut Rng, id: u64) -> Result<Call, Error> {
    let number = |bytes: Vec<u8>| number(&bytes);
    let get = || table.get("key").map(|value| value.map(number));
    Ok(match rng.below(8) {
        0 | 1 => Call::Get(get()?),
        2 | 3 => {
            table.put("key", bytes(id))?;
            Call::Put(id)
        }
        4 => {
            table.delete("key")?;
            Call::Delete
        }
        5 => Call::PutIfAbsent(id, table.put_if_absent("key", bytes(id))?),
        6 if table.is_ordered() => Call::Pop(table.pop_first()?.map(|(_, value)| number(value))),
        _ => {
            // What it expects was true a moment ago.
            let expected = get()?;
            std::thread::yield_now();
            let new = (!rng.one_in(3)).then_some(id);
            let (old, next) = (expected.map(bytes), new.map(bytes));
            let done = table.compare_and_swap("key", old.as_deref(), next.as_deref())?;
            Call::Swap(expected, new, done)
        }
    })
}

#[test]
fn single_operations_are_linearizable() {
    for kind in super::KINDS {
        is_every_round_linearizable(kind);
    }
}

fn is_every_round_linearizable(kind: Index) {
    const THREADS: u64 = 3;
    const CALLS: u64 = 6;
    const ROUNDS: u64 = 600;
    let db = super::database();
    let table = db.table("registers", kind).unwrap();
    let clock = AtomicU64::new(0);
    let now = || clock.fetch_add(1, Ordering::SeqCst);
    let barrier = Barrier::new(THREADS as usize);
    let worker = |thread: u64| {
        let mut rng = Rng::new(thread);
        let mut rounds = Vec::new();
        for round in 0..ROUNDS {
            barrier.wait();
            let first = table.get("key").unwrap();
            barrier.wait();
            let mut calls = Vec::new();
            for n in 0..CALLS {
                let id = (round * THREADS + thread) * CALLS + n + 1;
                let start = now();
                let call = call(&table, &mut rng, id).unwrap();
                calls.push(Timed { start, end: now(), call });
            }
            barrier.wait();
            rounds.push((first, calls, table.get("key").unwrap()));
        }
        rounds
    };
    let mut all: Vec<Vec<_>> = std::thread::scope(|scope| {
        let worker = &worker;
        let threads: Vec<_> =
            (0..THREADS).map(|thread| scope.spawn(move || worker(thread))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let number = |value: &Option<Vec<u8>>| value.as_deref().map(number);
    let mut overlapping = 0;
    for round in 0..ROUNDS as usize {
        let (first, last) = (number(&all[0][round].0), number(&all[0][round].2));
        let calls: Vec<Timed> =
            all.iter_mut().flat_map(|rounds| std::mem::take(&mut rounds[round].1)).collect();
        assert!(
            is_linearizable(&calls, first, last),
            "round {round}: from {first:?} to {last:?} by {calls:#?}"
        );
        overlapping += usize::from(
            calls.iter().any(|a| calls.iter().any(|b| a.start < b.start && b.start < a.end)),
        );
    }
    assert!(overlapping > 10, "only {overlapping} rounds had calls at the same time");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checker_tells_right_from_wrong() {
        let call = |start, end, call| Timed { start, end, call };
        let put = call(0, 1, Call::Put(7));
        assert!(is_linearizable(&[put, call(2, 3, Call::Get(Some(7)))], None, Some(7)));
        assert!(!is_linearizable(&[put, call(2, 3, Call::Get(None))], None, Some(7)), "stale");
        let during = call(0, 3, Call::Put(7));
        assert!(is_linearizable(&[during, call(1, 2, Call::Get(None))], None, Some(7)));
        let twice = [Call::PutIfAbsent(1, true), Call::PutIfAbsent(2, true)];
        assert!(!is_linearizable(&twice.map(|one| call(0, 9, one)), None, Some(2)), "both won");
        let popped = [Call::Pop(Some(5)), Call::Pop(Some(5))];
        assert!(!is_linearizable(&popped.map(|one| call(0, 9, one)), Some(5), None), "twice");
    }
}
