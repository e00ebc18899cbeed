//! Fork 2: how does a reader pass the branches of a tree?

use crate::Options;
use crate::machine::{Watch, count_wait};
use crate::readers::{floor, gets, per};
use crate::report::Fork;
use crate::rows::{key_of, value_of};
use crate::tree::Tree;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const FORK: Fork = Fork {
    title: "Branches: replaced whole against latched",
    question: "what do shared latches on the way down cost, and what does replacing whole pages cost \
        the writer?",
    method: "One tree (8 KiB pages, huge pages), random gets, both sides on the same memory. *Replaced*: \
        an epoch pin, no latch on branches, a check of the path under the leaf's latch. *Latched*: a shared \
        latch on every page, the child's before the parent's is let go. Leaves are latched on both sides. \
        Beside a writer: one thread reads, another inserts new rows in random order, 250 and then a sleep \
        of a millisecond less the time they took, splits included (it replaces branches, or changes them \
        under exclusive latches), into a tree made anew. ns per get are as one thread sees them: two \
        threads together do twice as many. The floor (random numbers and keys) is in every figure.",
    sides: &["replaced", "latched"],
    base: 0,
};

const PAGE_BYTES: usize = 8192;
/// Rows that the writer inserts per tick.
const TICK_ROWS: u64 = 250;
const TICK: Duration = Duration::from_millis(1);

pub(crate) fn run(options: &Options) -> io::Result<()> {
    let &Options { rows, time, .. } = options;
    let quiet = Tree::new(rows, PAGE_BYTES, true)?;
    quiet.load(0..rows);
    let mut seed = 0;
    FORK.run(options, |order, round| {
        round.note("floor, ns", FORK.base, floor(rows, time));
        for (threads, &side) in [1, 2].iter().flat_map(|n| order.iter().map(move |s| (*n, s))) {
            seed += 1;
            let read = if side == 0 { gets::<false> } else { gets::<true> };
            let nanos = round.quietly(|_| Ok(read(&quiet, rows, threads, time, seed)))?;
            round.note(format!("get, {threads} thread(s), ns"), side, nanos);
        }
        for &side in order {
            seed += 1;
            let read = if side == 0 { beside_writer::<false> } else { beside_writer::<true> };
            for (measure, value) in round.quietly(|watch| read(options, seed, watch))? {
                round.note(measure, side, value);
            }
        }
        Ok(())
    })
}

fn beside_writer<const LATCHED: bool>(
    options: &Options,
    seed: u64,
    watch: &mut Watch,
) -> io::Result<[(&'static str, f64); 4]> {
    let &Options { rows, time, .. } = options;
    // The writer ends when readers do, which is after at most about this many ticks.
    let ticks = time.as_millis() as u64 + 1000;
    let tree = &Tree::new(rows + ticks * TICK_ROWS, PAGE_BYTES, true)?;
    tree.load(0..rows);
    *watch = Watch::start();
    let stop = &AtomicBool::new(false);
    let write = || {
        let mut writer = tree.writer();
        let (start, mut busy, pages) = (Instant::now(), Duration::ZERO, writer.pages());
        let mut new = rows..rows + ticks * TICK_ROWS;
        while !stop.load(Ordering::Relaxed) && !new.is_empty() {
            let began = Instant::now();
            for id in new.by_ref().take(TICK_ROWS as usize) {
                writer.insert::<LATCHED>(&key_of(id), &value_of(id));
            }
            busy += began.elapsed();
            thread::sleep(TICK.saturating_sub(began.elapsed()));
        }
        count_wait();
        let (rows, pages) = ((new.start - rows) as f64, (writer.pages() - pages) as f64);
        (per(busy, rows as usize), rows / start.elapsed().as_secs_f64(), 100.0 * pages / rows)
    };
    let (get, (put, rate, pages)) = thread::scope(|scope| {
        let writer = scope.spawn(write);
        let get = gets::<LATCHED>(tree, rows, 1, time, seed);
        stop.store(true, Ordering::Relaxed);
        (get, writer.join().expect("the writer does not panic"))
    });
    Ok([
        ("get beside a writer, ns", get),
        ("put beside a reader, ns", put),
        ("puts a second beside a reader", rate),
        ("splits per 100 of these puts", pages),
    ])
}
