//! Nodes that are divided in two under their parent.

use super::bench::{Bench, Random, key};
use crate::kind::Kind;

/// The first child of a node does not say where it begins. A node that was divided, and was not the first of its
/// parent's children, lost that bound: everything before it in the parent was out of reach.
#[test]
fn a_node_divided_beside_others_hides_none_of_them() {
    let mut bench = Bench::tiny();
    let debt_max = bench.fractal.debt_bytes_max();
    for n in 0..24_000 {
        bench.put(&key(n), b"a value of some bytes");
        if n % 40 == 39 {
            bench.delete(&key(n - 20));
        }
        while bench.fractal.debt_bytes() * 2 > debt_max {
            bench.work(1, false);
        }
        if n % 2000 == 0 {
            bench.compare();
        }
    }
    bench.compare();
    bench.check();
}

/// Where pivots are long, a merge may make more children at once than two nodes hold: then their node is not divided in
/// two.
#[test]
fn a_node_of_very_many_new_children_is_divided_into_as_many_as_it_takes() {
    let long = |n: u32| [&[b'p'; 120][..], &key(n)].concat();
    for seed in 1..8 {
        let (mut bench, mut random) = (Bench::tiny(), Random(seed));
        let debt_max = bench.fractal.debt_bytes_max();
        for _ in 0..60 {
            let (first, count) = (random.below(4000), random.below(160));
            for n in first..first + count {
                bench.put(&long(n), &[b'.'; 60]);
                while bench.fractal.debt_bytes() > debt_max {
                    bench.work(1, false);
                }
            }
        }
        bench.compare();
        bench.check();
    }
}
