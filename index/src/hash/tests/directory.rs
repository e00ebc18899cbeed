//! Large directories: what they cost in branches, and what an operation touches.

use super::bench::{Bench, Owned, TINY};
use super::*;

/// Branches and buckets of a table.
fn pages_of(bench: &Bench) -> (usize, usize) {
    let ids = bench.mock.page_ids();
    let branches = ids.iter().filter(|id| bench.mock.page(**id).level() > 0).count();
    (branches, ids.len() - branches)
}

/// Puts rows until a table has so many buckets; returns the most pages that one put has created, replaced or latched.
fn grow(bench: &mut Bench, next: &mut u32, buckets: usize) -> usize {
    let mut most = 0;
    while pages_of(bench).1 < buckets {
        for _ in 0..buckets / 4 {
            let before = bench.mock.counts().written;
            let key = next.to_le_bytes();
            bench.write_one(&key, Some(&Owned::Inline(vec![1; 80])));
            most = most.max(bench.mock.counts().written - before);
            *next += 1;
        }
    }
    most
}

#[test]
fn branches_stay_few_and_puts_small_however_large_the_directory() {
    // 6 bits a branch: two levels of branches reach 2^12 buckets.
    let mut bench = Bench::new(Hash::default(), TINY, 1, 3);
    let mut next = 0;
    for bits in [6, 9, 11, 12, 13, 14, 15] {
        let most = grow(&mut bench, &mut next, 1 << bits);
        let (branches, buckets) = pages_of(&bench);
        assert!(branches * 20 <= buckets + 40, "{branches} branches over {buckets} buckets");
        // Each of up to four branches divided, three pages and the bucket; then splits.
        assert!(most <= 24, "{most} pages for one put");
    }
    bench.check();
    for n in (0..next).step_by(7) {
        bench.write_one(&n.to_le_bytes(), None);
    }
    bench.check();
}
