//! Question: what does one get, one put at `Os`, and one row of a scan cost in memory?
//!
//! Data: 200,000 rows of 16-byte keys and 100-byte values, all cached; a directory under the system's
//! place for temporary files. `cargo bench --bench operations`.
//!
//! A surprise would be: a get above one microsecond, a put above two, a row above fifty nanoseconds.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use esker::{Durability, Index, Options};
use std::hint::black_box;

const ROWS: u64 = 200_000;

fn key(i: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&i.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32).to_le_bytes());
    key[8..].copy_from_slice(&i.to_le_bytes());
    key
}

fn operations(criterion: &mut Criterion) {
    let directory = std::env::temp_dir().join(format!("esker-bench-{}", std::process::id()));
    let options = Options::new().memory_bytes(128 << 20).durability(Durability::Os);
    let db = options.open(&directory).expect("a place for temporary files");
    let table = db.table("rows", Index::BTree).expect("a new table");
    for i in 0..ROWS {
        table.put(key(i), [7; 100]).expect("room");
    }
    let mut n = 0_u64;
    let mut next = || {
        n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        key((n >> 20) % ROWS)
    };
    criterion.bench_function("get", |bench| {
        bench.iter(|| table.get_with(next(), <[u8]>::len).expect("sound"));
    });
    criterion.bench_function("put at Os", |bench| {
        bench.iter(|| table.put(next(), [8; 100]).expect("room"));
    });
    let mut group = criterion.benchmark_group("scan");
    group.throughput(Throughput::Elements(ROWS));
    group.bench_function("all rows", |bench| {
        bench.iter(|| {
            let mut rows = table.range(..).expect("open");
            while let Some((key, value)) = rows.next_row().expect("sound") {
                black_box((key[0], value[0]));
            }
        });
    });
    group.finish();
    drop(table);
    db.close().expect("room for a checkpoint");
    let _left = std::fs::remove_dir_all(&directory).is_err();
}

criterion_group!(benches, operations);
criterion_main!(benches);
