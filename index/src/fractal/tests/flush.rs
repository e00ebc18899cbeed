//! Flushes while writes go on.

use super::bench::{Bench, key};
use crate::kind::Kind as _;

/// What came while a flush was under way stays where it is: the flush takes the runs away that it began with, and no
/// others.
#[test]
fn a_flush_takes_only_the_runs_that_it_began_with() {
    // How many rows are written between two steps of work: more than a memtable comes while a flush lasts.
    for between in [10, 20, 40] {
        let mut bench = Bench::tiny();
        let (mut n, mut came) = (0, 0);
        for _ in 0..1500 {
            let before = bench.shape().root_runs;
            for _ in 0..between {
                bench.put(&key(n * 7919 % 20_000), b"a value of some bytes");
                n += 1;
            }
            came += usize::from(bench.shape().root_runs > before);
            bench.work(1, false);
            while bench.fractal.debt_bytes() * 2 > bench.fractal.debt_bytes_max() {
                bench.work(1, false);
            }
        }
        assert!(came > 20, "{came} runs came between {between} rows");
        bench.compare();
        bench.check();
        bench.work_all(true);
        bench.compare();
        bench.check_pages();
    }
}
