//! Queues: rows go in at one end and out at the other. What was taken out costs the next look at the first row
//! nothing.

use super::bench::{Bench, Random, key};
use crate::kind::Direction;

const VALUE: &[u8] = b"twenty bytes of value";

/// Fills a queue of `rows` rows and takes all but the last 50 out, with a look before each; returns the most pages read
/// by one look behind the first hundred.
fn drain(rows: u32, from: Direction, work: bool) -> usize {
    let mut bench = Bench::tiny();
    for n in 0..rows {
        bench.put(&key(n), VALUE);
        bench.work(2, false);
    }
    bench.compare();
    let mut most = 0;
    for n in 0..rows - 50 {
        let (first, pages) = bench.first(from);
        let wanted = match from {
            Direction::Forward => key(n),
            Direction::Backward => key(rows - 1 - n),
        };
        assert_eq!(first.as_ref(), Some(&wanted));
        if n > 100 {
            most = most.max(pages);
        }
        bench.take(&wanted);
        if work {
            bench.work(1, false);
        }
    }
    bench.compare();
    bench.check();
    bench.work_all(true);
    bench.compare();
    bench.check_pages();
    // Those that ranges delete are counted until they are merged.
    assert!((50..300).contains(&bench.rows), "{} rows, as they are counted", bench.rows);
    most
}

#[test]
fn a_look_at_the_first_row_costs_the_same_however_many_were_taken() {
    for from in [Direction::Forward, Direction::Backward] {
        for work in [false, true] {
            let most = [500, 4000, 16_000].map(|rows| drain(rows, from, work));
            // Up to 5 runs in each of two nodes on the way, two to three pages each.
            assert!(most.iter().all(|most| *most <= 80), "{from:?}, work {work}: {most:?} pages");
        }
    }
}

#[test]
fn one_look_over_many_deletes_makes_the_next_one_short() {
    for (rows, work) in [(4000, false), (4000, true), (20_000, true)] {
        let mut bench = Bench::tiny();
        for n in 0..rows {
            bench.put(&key(n), VALUE);
            bench.work(2, false);
        }
        for n in 0..rows - 10 {
            bench.delete(&key(n));
            if work {
                bench.work(1, false);
            }
        }
        let (first, _) = bench.first(Direction::Forward);
        assert_eq!(first, Some(key(rows - 10)));
        bench.work_all(false);
        let (first, pages) = bench.first(Direction::Forward);
        assert_eq!(first, Some(key(rows - 10)));
        assert!(pages <= 60, "{pages} pages read for the first of {rows} rows, work {work}");
        bench.work_all(true);
        bench.compare();
        bench.check_pages();
        let shape = bench.shape();
        assert!(shape.rows <= 100, "{shape:?}: {rows} rows were deleted, and are still there");
    }
}

#[test]
fn deleted_rows_are_reclaimed_while_the_queue_goes_on() {
    // A queue of 500 rows; 30,000 go through it.
    let mut bench = Bench::tiny();
    let (mut most, mut most_rows) = (0, 0);
    for n in 0..30_000u32 {
        bench.put(&key(n), VALUE);
        if n >= 500 {
            let (first, pages) = bench.first(Direction::Forward);
            assert_eq!(first, Some(key(n - 500)));
            most = most.max(pages);
            bench.take(&key(n - 500));
        }
        bench.work(2, false);
        if n % 500 == 0 {
            most_rows = most_rows.max(bench.shape().rows);
        }
    }
    assert!(most <= 80, "{most} pages for one look");
    // Five runs of a memtable each in the root, and as much in the lowest nodes.
    assert!(most_rows < 5000, "{most_rows} rows and tombstones in runs for 500 rows");
    bench.work_all(true);
    bench.compare();
    bench.check_pages();
    assert!((500..800).contains(&bench.rows), "{} rows, as they are counted", bench.rows);
}

#[test]
fn gaps_take_no_row_away() {
    for seed in 1..40 {
        let mut bench = Bench::tiny();
        let mut random = Random(seed * 7919);
        let keys = 3000;
        for n in 0..keys {
            if random.below(4) > 0 {
                bench.put(&key(n), VALUE);
            }
        }
        let mut held = None;
        for round in 0..60 {
            let from = random.below(keys);
            let to = from + random.below(400);
            for n in from..to.min(keys) {
                if !random.one_in(50) {
                    bench.delete(&key(n));
                }
            }
            if random.one_in(3) {
                let (from, to) = (key(random.below(keys)), key(random.below(keys)));
                bench.delete_range((&from).min(&to), Some((&from).max(&to)));
            }
            // Scans by a cut, before and after other writes.
            let view = bench.mock.cut();
            let model = bench.model.clone();
            for _ in 0..random.below(30) {
                bench.put(&key(random.below(keys)), &round.to_string().into_bytes());
            }
            bench.compare_at(view, &model);
            match &held {
                Some((view, model)) if random.one_in(3) => {
                    bench.compare_at(*view, model);
                    held = None;
                    bench.mock.release_cuts();
                }
                None if random.one_in(2) => held = Some((view, model)),
                _ => {}
            }
            match random.below(3) {
                0 => bench.tidy(b""),
                1 => drop(bench.work(random.below(20) as usize, random.one_in(2))),
                _ => {}
            }
            for n in [random.below(keys), random.below(keys)] {
                let got = bench.get(crate::pages::View::Current, &key(n));
                assert_eq!(got.as_ref(), bench.model.get(&key(n)));
            }
        }
        bench.mock.release_cuts();
        bench.compare();
        bench.check();
        bench.work_all(true);
        bench.compare();
        bench.check_pages();
    }
}
