//! Fork 4: huge pages for the arena?

use crate::Options;
use crate::machine::resident;
use crate::readers::{floor, gets, per};
use crate::report::Fork;
use crate::tree::Tree;
use std::io;
use std::time::Instant;

const FORK: Fork = Fork {
    title: "Arena: with huge pages against without",
    question: "what do 2 MiB pages save on random access, and does the kernel give them?",
    method: "A tree (8 KiB pages) in an arena aligned to 2 MiB, with MADV_HUGEPAGE or MADV_NOHUGEPAGE, \
        made anew for each side in each round: the arena is committed at once (MADV_POPULATE_WRITE), rows \
        are put in random order, then random gets, branches replaced. What the kernel gave is from smaps.",
    sides: &["huge pages", "4 KiB pages"],
    base: 0,
};

const PAGE_BYTES: usize = 8192;

pub(crate) fn run(options: &Options) -> io::Result<()> {
    let &Options { rows, time, .. } = options;
    let mut seed = 0;
    FORK.run(options, |order, round| {
        round.note("floor of a get, ns", FORK.base, floor(rows, time));
        for &side in order {
            let (tree, commit, put) = round.quietly(|_| {
                let tree = Tree::new(rows, PAGE_BYTES, side == 0)?;
                let mib = tree.frames().addresses().len() >> 20;
                let start = Instant::now();
                tree.frames().commit()?;
                let committed = Instant::now();
                tree.load(0..rows);
                let put = per(committed.elapsed(), rows as usize);
                Ok((tree, per(committed - start, mib) / 1e3, put))
            })?;
            round.note("commit, µs per MiB", side, commit);
            round.note("put, ns", side, put);
            for threads in [1, 2] {
                seed += 1;
                let nanos =
                    round.quietly(|_| Ok(gets::<false>(&tree, rows, threads, time, seed)))?;
                round.note(format!("get, {threads} thread(s), ns"), side, nanos);
            }
            let (resident, huge) = resident(&tree.frames().addresses())?;
            round.note("resident, MiB", side, resident);
            round.note("of it in huge pages, %", side, 100.0 * huge / resident);
        }
        Ok(())
    })
}
