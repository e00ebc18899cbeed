//! What work says of how far it is.

use super::bench::{Bench, Random, key};
use crate::kind::{Kind, Progress};

/// What is said to be left before debt falls is about what is then read: writers are paced by it. Now and then all children of
/// a node are full at once, which nobody foresees (in nodes as tiny as these, before a third of all flushes): then more is said to be left as
/// work goes on.
#[test]
fn what_is_left_is_about_what_is_read_until_the_root_is_flushed() {
    let mut bench = Bench::tiny();
    let mut random = Random(1);
    let debt_max = bench.fractal.debt_bytes_max();
    // What was said since the last flush; flushes, and those of which it was about right.
    let (mut said, mut flushes, mut foreseen) = (Vec::<Progress>::new(), 0, 0);
    for n in 0..60_000 {
        bench.put(&key(random.below(1_000_000)), &[b'v'; 100]);
        // At a speed at which debt comes near its limit.
        let steps =
            if bench.fractal.debt_bytes() * 8 > debt_max * 7 { 4 } else { u32::from(n % 24 == 0) };
        for _ in 0..steps {
            let before = bench.fractal.debt_bytes();
            bench.work(1, false);
            let now = bench.fractal.progress();
            if bench.fractal.debt_bytes() < before {
                // The first ones found a small tree.
                let (mut off, mut all) = (0, 0);
                for said in said.drain(..).filter(|_| n > 20_000) {
                    let read = now.done_pages - said.done_pages;
                    (off, all) = (off + said.left_pages.abs_diff(read), all + read);
                }
                flushes += u32::from(all > 0);
                foreseen += u32::from(off * 2 < all);
            } else if now.left_pages > 0 && before > 0 {
                said.push(now);
            }
        }
    }
    assert!(flushes > 20, "{flushes} flushes");
    assert!(foreseen * 2 > flushes, "{foreseen} of {flushes} flushes were foreseen");
}
