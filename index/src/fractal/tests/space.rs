//! Work in little space: what is deleted goes, whatever is to be merged at last.

use super::bench::{Bench, Random, key};
use crate::kind::Kind as _;

/// A table of several levels, all of it merged.
fn filled(seed: u64, keys: u32) -> Bench {
    let mut bench = Bench::tiny();
    for n in 0..keys {
        let n = if seed.is_multiple_of(2) { n } else { n * 7919 % keys };
        bench.put(&key(n), b"a value of some bytes, more than a tombstone has");
        bench.work(2, false);
    }
    bench.work_all(true);
    bench.mock.evict_all();
    bench
}

#[test]
fn what_is_deleted_goes_with_room_for_a_flush_and_a_node() {
    for seed in 1..5 {
        let (mut bench, mut random) = (filled(seed, 9000), Random(seed * 7919));
        let before = bench.shape();
        assert!(before.levels > 2, "{before:?}");
        let mut left: Vec<u32> = (0..9000).collect();
        let mut peak = 0;
        // A lowest node as large as they come, and a memtable, with what their runs take beside rows.
        let room_pages: u32 = 16 * 2 + 9 * 2;
        assert!(bench.fractal.limit_work(u64::from(room_pages) * 960));
        while left.len() > 1800 {
            let n = left.swap_remove(random.below(u32::try_from(left.len()).unwrap()) as usize);
            bench.delete(&key(n));
            bench.work(3, true);
            peak = peak.max(bench.mock.page_ids().len());
        }
        bench.compare();
        bench.check();
        bench.work_all(true);
        let after = bench.shape();
        // Trees have branches and filters beside their leaves, and small runs fill little of their pages.
        let most = before.pages as usize * 2;
        assert!(peak < most, "{peak} pages at the most, {before:?}");
        assert!(after.pages * 2 < before.pages, "{after:?} of {before:?}");
        bench.compare();
        bench.check();
        bench.check_pages();
        bench.fractal.limit_work(u64::MAX);
        bench.optimize((&[], None), |_| {});
        assert_eq!(bench.rows, i64::try_from(bench.model.len()).unwrap());
        bench.compare();
        bench.check_pages();
    }
}

/// Where a flush of all runs of the root has no room, the oldest go down alone: nothing was merged any more.
#[test]
fn the_oldest_runs_go_down_alone_in_little_room() {
    for seed in 1..5 {
        let (mut bench, mut random) = (filled(seed, 9000), Random(seed * 7919));
        let before = bench.shape();
        while bench.shape().root_runs < 5 {
            for _ in 0..100 {
                bench.delete(&key(random.below(9000)));
            }
        }
        // The root has some 65 pages.
        bench.fractal.limit_work(45 * 960);
        bench.work_all(true);
        let after = bench.shape();
        assert!(after.root_runs == 0 && after.pages < before.pages, "{after:?} of {before:?}");
        bench.compare();
        bench.check();
        bench.check_pages();
    }
}

/// Writes of all forms under limits that change, below which nothing may be possible.
#[test]
fn limits_may_change_at_any_time() {
    for seed in 1..7 {
        let (mut bench, mut random) = (filled(seed, 3000), Random(seed * 7919));
        for round in 0..5000 {
            let n = random.below(3000);
            match random.below(40) {
                0..24 => bench.delete(&key(n)),
                24 => bench.delete_range(&key(n), Some(&key(n + random.below(200)))),
                _ => bench.put(&key(n), format!("value of round {round}").as_bytes()),
            }
            if random.one_in(300) {
                let pages = [0, 8, 24, 48, 96, u64::MAX / 960][random.below(6) as usize];
                bench.fractal.limit_work(pages * 960);
            }
            bench.work(2, random.one_in(2));
            if round % 1000 == 0 {
                bench.compare();
                bench.check();
            }
        }
        bench.fractal.limit_work(u64::MAX);
        bench.work_all(true);
        bench.compare();
        bench.check();
        bench.check_pages();
    }
}
