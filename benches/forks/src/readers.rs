//! Random gets by one or more threads.

use crate::machine::count_wait;
use crate::rows::{VALUE_BYTES, is_value_of, key_of, random};
use crate::tree::Tree;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

/// Gets between two looks at the clock.
const STRIDE: u32 = 256;

/// Nanoseconds per get as each of `threads` sees them, over random rows of the first `rows`. Another
/// `seed` gives other rows.
pub(crate) fn gets<const LATCHED: bool>(
    tree: &Tree,
    rows: u64,
    threads: usize,
    time: Duration,
    seed: u64,
) -> f64 {
    let start = &Barrier::new(threads);
    let read = |reader: usize| {
        start.wait();
        let mut value = [0; VALUE_BYTES];
        let nanos = timed(rows, time, seed << 8 | reader as u64, |id| {
            let found = tree.get::<LATCHED>(reader, &key_of(id), &mut value);
            assert!(found && is_value_of(&value, id), "wrong answer for row {id}");
        });
        count_wait();
        nanos
    };
    thread::scope(|scope| {
        let readers: Vec<_> = (0..threads).map(|i| scope.spawn(move || read(i))).collect();
        let nanos = readers.into_iter().map(|reader| reader.join().expect("no reader panics"));
        nanos.sum::<f64>() / threads as f64
    })
}

/// What the loop around a get costs: random numbers and keys.
pub(crate) fn floor(rows: u64, time: Duration) -> f64 {
    timed(rows, time / 4, 0, |id| {
        std::hint::black_box(key_of(id));
    })
}

fn timed(rows: u64, time: Duration, seed: u64, mut get: impl FnMut(u64)) -> f64 {
    let (start, mut number, mut done) = (Instant::now(), seed << 32, 0);
    while start.elapsed() < time {
        for _ in 0..STRIDE {
            get(random(number, rows));
            number += 1;
        }
        done += STRIDE;
    }
    per(start.elapsed(), done as usize)
}

/// Nanoseconds per thing.
pub(crate) fn per(time: Duration, things: usize) -> f64 {
    time.as_secs_f64() * 1e9 / things as f64
}
