//! Fork 3: how large is a page?

use crate::Options;
use crate::machine::Watch;
use crate::page;
use crate::readers::{floor, gets, per};
use crate::report::Fork;
use crate::rows::{key_of, value_of};
use crate::tree::Tree;
use lz4_flex::block::{compress_into, decompress_into, get_maximum_output_size};
use std::io;
use std::time::{Duration, Instant};

const FORK: Fork = Fork {
    title: "Page size",
    question: "what do smaller or larger pages cost in memory, on disk, and in writing?",
    method: "A tree per size, made anew in each round by inserting rows in random order; puts are timed \
        over the second half, in place with the slots above moved, splits included (the floor: making up \
        key and value). Then random gets. Then leaves in the order in which they were made, at least \
        200,000 rows of them, become images: a 48-byte header, and the content without the hole as lz4; \
        values are half compressible. The image is also what one random update of a leaf costs to write.",
    sides: &["4 KiB", "8 KiB", "16 KiB"],
    base: 1,
};

const IMAGE_HEADER_BYTES: usize = 48;
const IMAGE_ROWS: usize = 200_000;

pub(crate) fn run(options: &Options) -> io::Result<()> {
    let &Options { rows, time, .. } = options;
    let half = (rows - rows / 2) as usize;
    let mut seed = 0;
    FORK.run(options, |order, round| {
        round.note("floor of a get, ns", FORK.base, floor(rows, time));
        let start = Instant::now();
        for id in rows / 2..rows {
            std::hint::black_box((key_of(id), value_of(id)));
        }
        round.note("floor of a put, ns", FORK.base, per(start.elapsed(), half));
        for &side in order {
            let (tree, put) = round.quietly(|watch| {
                let tree = Tree::new(rows, 4096 << side, true)?;
                tree.load(0..rows / 2);
                *watch = Watch::start();
                let start = Instant::now();
                tree.load(rows / 2..rows);
                Ok((tree, per(start.elapsed(), half)))
            })?;
            round.note("put, ns", side, put);
            for threads in [1, 2] {
                seed += 1;
                let nanos =
                    round.quietly(|_| Ok(gets::<false>(&tree, rows, threads, time, seed)))?;
                round.note(format!("get, {threads} thread(s), ns"), side, nanos);
            }
            round.note("levels", side, f64::from(tree.levels()));
            for (measure, value) in round.quietly(|_| Ok(images(&tree)))? {
                round.note(measure, side, value);
            }
        }
        Ok(())
    })
}

fn images(tree: &Tree) -> [(&'static str, f64); 9] {
    let content_bytes = tree.frames().content_bytes();
    let mut raw = Vec::new();
    let mut packed = vec![0; get_maximum_output_size(content_bytes)];
    let mut back = vec![0; content_bytes];
    let (mut leaves, mut rows, mut raw_bytes, mut image_bytes) = (0, 0, 0, 0);
    let (mut compress, mut decompress) = (Duration::ZERO, Duration::ZERO);
    tree.leaves(|body| {
        page::image(body, &mut raw);
        let start = Instant::now();
        let bytes = compress_into(&raw, &mut packed).expect("room for the worst case");
        compress += start.elapsed();
        let start = Instant::now();
        let length = decompress_into(&packed[..bytes], &mut back).expect("just compressed");
        decompress += start.elapsed();
        assert!(back[..length] == raw, "lz4 gives back what it got");
        leaves += 1;
        rows += page::count(body);
        raw_bytes += raw.len();
        image_bytes += IMAGE_HEADER_BYTES + bytes;
        rows < IMAGE_ROWS
    });
    let mean = |sum: usize, count: usize| sum as f64 / count as f64;
    [
        ("rows per leaf", mean(rows, leaves)),
        ("leaf fill, %", 100.0 * mean(raw_bytes, leaves * content_bytes)),
        ("content without hole, bytes per row", mean(raw_bytes, rows)),
        ("image, bytes per row", mean(image_bytes, rows)),
        ("image, bytes (written per random update)", mean(image_bytes, leaves)),
        ("compress, ns per row", per(compress, rows)),
        ("compress, µs per leaf", per(compress, leaves) / 1e3),
        ("decompress, ns per row", per(decompress, rows)),
        ("decompress, µs per leaf", per(decompress, leaves) / 1e3),
    ]
}
