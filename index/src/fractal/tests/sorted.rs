//! Keys in ascending order: they are not written once a level.

use super::bench::{Bench, Random, key};

/// Pages written below the memtables, for each leaf of the table in the end.
fn written(bench: &Bench) -> f64 {
    f64::from(u32::try_from(bench.built).unwrap()) / f64::from(bench.shape().pages)
}

#[test]
fn ascending_keys_are_written_once_below_the_memtable() {
    let mut bench = Bench::tiny();
    for n in 0..60_000 {
        bench.put(&key(n), b"a value of some bytes");
        if n % 8 == 0 {
            bench.work(1, false);
        }
    }
    bench.work_all(false);
    let (shape, written) = (bench.shape(), written(&bench));
    assert!(shape.levels >= 3, "{shape:?}");
    // Of 15 leaves each, in a node with a branch, a filter and a page of its own, and filters of two memtables. Merged at
    // each level they were 5.9.
    assert!(written < 1.7, "{written:.2} pages written for each leaf of {shape:?}");
    bench.compare();
    bench.check();
    bench.check_pages();
    bench.work_all(true);
    assert_eq!(bench.rows, 60_000);
    bench.compare();
    bench.check();
    bench.check_pages();
}

#[test]
fn a_sorted_load_among_other_writes_is_right() {
    for seed in 1..9 {
        let (mut bench, mut random) = (Bench::tiny(), Random(seed * 7919));
        // What lies before and behind, and some of it is deleted while sorted keys come between.
        for n in (0..8000).filter(|n| n % 3 == 0) {
            bench.put(&key(n), b"was there before");
            bench.work(1, false);
        }
        for n in 4000..12_000 {
            let old = random.below(4000);
            match random.below(400) {
                0 => bench.delete_range(&key(old), Some(&key(old + random.below(50)))),
                1 => bench.delete(&key(n - random.below(2000))),
                2 => bench.put(&key(n - random.below(2000)), b"once more"),
                3..10 if seed % 2 == 0 => bench.put(&key(old), b"meanwhile"),
                _ => {}
            }
            bench.put(&key(n), b"in order");
            if random.one_in(4) {
                bench.work(1, false);
            }
            if n % 1000 == 0 {
                bench.compare();
                bench.check();
            }
        }
        bench.work_all(seed % 3 == 0);
        bench.compare();
        bench.check();
        bench.check_pages();
        bench.optimize((&[], None), |_| {});
        assert_eq!(bench.shape().rows, bench.model.len() as u64);
        bench.compare();
        bench.check_pages();
    }
}
