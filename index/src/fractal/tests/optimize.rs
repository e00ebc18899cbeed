//! Ranges that are merged because somebody asks for it.

use super::bench::{Bench, Random, key};

/// A table of several levels, with rows, deletes and ranges in all of them.
fn filled(seed: u64, keys: u32) -> (Bench, Random) {
    let (mut bench, mut random) = (Bench::tiny(), Random(seed * 7919));
    for round in 0..keys * 3 {
        let n = random.below(keys);
        match random.below(60) {
            0..10 => bench.delete(&key(n)),
            10 => bench.delete_range(&key(n), Some(&key(n + random.below(30)))),
            _ => bench.put(&key(n), format!("value of round {round}").as_bytes()),
        }
        bench.work(1, false);
    }
    (bench, random)
}

#[test]
fn an_optimized_range_is_in_one_run_of_each_node() {
    for seed in 1..9 {
        let (mut bench, mut random) = filled(seed, 6000);
        let before = bench.model.clone();
        for _ in 0..4 {
            let (a, b) = (random.below(6000), random.below(6000));
            let (low, high) = (key(a.min(b)), key(a.max(b)));
            bench.optimize((&low, Some(&high)), |_| {});
            let (runs, nodes) = bench.runs_of(&low, Some(&high));
            assert!(runs <= nodes, "{runs} runs in {nodes} nodes");
        }
        bench.optimize((&[], None), |_| {});
        let (runs, nodes) = bench.runs_of(&[], None);
        assert!(runs <= nodes, "{runs} runs in {nodes} nodes");
        // Nothing is left of what was deleted and overwritten.
        assert_eq!(bench.shape().rows, bench.model.len() as u64);
        // What a range takes from the memtable is counted about.
        let (counted, rows) = (bench.rows, i64::try_from(bench.model.len()).unwrap());
        assert!((counted - rows).abs() * 50 < rows, "{rows} rows counted as {counted}");
        assert_eq!(bench.model, before);
        bench.compare();
        bench.check();
        bench.check_pages();
    }
}

#[test]
fn what_was_written_before_is_merged_while_writers_go_on() {
    for seed in 1..9 {
        let (mut bench, mut random) = filled(seed, 4000);
        let marked: Vec<_> = (1000..1200).map(key).collect();
        for key in &marked {
            bench.put(key, b"before");
        }
        bench.optimize((&key(1000), Some(&key(1200))), |bench| {
            for _ in 0..10 {
                // Beside the range, so that what is in it can be told.
                let n = random.below(2800);
                bench.put(&key(if n < 1000 { n } else { n + 200 }), b"meanwhile");
            }
        });
        let (runs, nodes) = bench.runs_of(&key(1000), Some(&key(1200)));
        // A flush may add a run to a node that was merged already.
        assert!(runs <= nodes * 2, "{runs} runs in {nodes} nodes");
        bench.compare();
        bench.work_all(true);
        bench.compare();
        bench.check();
        bench.check_pages();
    }
}

#[test]
fn it_ends_under_writes_to_the_range_itself_and_after_work_was_given_up() {
    let (mut bench, mut random) = filled(3, 3000);
    let mut step = 0;
    bench.optimize((&[], None), |bench| {
        step += 1;
        if step % 7 == 0 && step < 300 {
            crate::kind::Kind::abandon_work(&bench.fractal);
        }
        for _ in 0..20 {
            bench.put(&key(random.below(3000)), b"meanwhile");
        }
    });
    bench.compare();
    bench.check();
}

#[test]
fn nothing_is_done_where_nothing_is_to_be_done() {
    let mut bench = Bench::tiny();
    bench.optimize((&[], None), |_| {});
    bench.put(b"key", b"value");
    bench.optimize((b"x", None), |_| {});
    assert_eq!(bench.built, 0);
    bench.optimize((&[], None), |_| {});
    assert_eq!(bench.runs_of(&[], None), (1, 1));
    let built = bench.built;
    bench.optimize((&[], None), |_| {});
    assert_eq!(bench.built, built);
    bench.compare();
}
