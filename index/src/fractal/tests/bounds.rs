//! How far behind background work may be, and how much of it one turn does.

use super::bench::{Bench, Random, key};
use crate::kind::Kind;

/// Pages that a turn touches, read and written: two for each node on the way to the one that is replaced. A new memtable
/// and its root are fewer.
const TURN_PAGES_A_LEVEL: usize = 2;

#[test]
fn debt_and_turns_are_bounded() {
    let mut turn_max = 0;
    for seed in 0..24_u32 {
        let (mut bench, mut random) = (Bench::tiny(), Random(u64::from(seed + 1) * 7919));
        let debt_max = bench.fractal.debt_bytes_max();
        let keys = [500, 4000, 30_000][usize::try_from(seed % 3).unwrap()];
        for round in 0..20_000 {
            let n = if seed % 4 == 3 { round } else { random.below(keys) };
            match random.below(300) {
                0 => bench.delete_range(&key(n), Some(&key(n + random.below(100)))),
                1..40 => bench.delete(&key(n)),
                _ => bench.put(&key(n), b"a value of some bytes"),
            }
            // As a writer that is slowed down from half of the limit on, and waits at it.
            while bench.fractal.debt_bytes() * 2 > debt_max {
                assert!(bench.work(1, false), "seed {seed}: debt that nobody can pay");
                if bench.fractal.debt_bytes() < debt_max {
                    break;
                }
            }
            assert!(bench.fractal.debt_bytes() < debt_max, "seed {seed}, round {round}");
            let shape_due = round % 500 == 0;
            if shape_due {
                let shape = bench.shape();
                let config = bench.fractal.config;
                assert!(shape.root_runs <= config.runs_hard(), "seed {seed}: {shape:?}");
                assert!(shape.runs_max <= config.runs_hard(), "seed {seed}: {shape:?}");
            }
        }
        let levels = bench.shape().levels;
        let bound = levels * TURN_PAGES_A_LEVEL + 2;
        assert!(bench.turn_max <= bound, "seed {seed}: {} pages, {levels} levels", bench.turn_max);
        turn_max = turn_max.max(bench.turn_max);
        bench.work_all(true);
        assert_eq!(bench.fractal.debt_bytes(), 0, "seed {seed}");
        bench.compare();
        bench.check();
        bench.check_pages();
    }
    assert!(turn_max > 2, "no turn had anything to do");
}
