//! What the database of a torture holds: made of a seed and the numbers of commits, so that nothing must be noted.
//!
//! Commit n writes the number n into every table, and changes some rows. Which, and to what, follows from the seed and n, so
//! the state after n commits can be made anew, and each value says which commit wrote it.

use crate::failure::Failure;
use esker::{Batch, Database, Durability, Index, Options, Result, Table};
use esker_conformance::{Choices as _, Rng};
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;

/// One table of each kind.
pub(super) const TABLES: [(&str, Index); 3] =
    [("btree", Index::BTree), ("hash", Index::Hash), ("fractal", Index::Fractal)];
/// The key of the row that says how many commits there were.
pub(super) const COUNT_KEY: &[u8] = b"commits";
/// Keys of a table.
const KEYS: u64 = 3000;
/// One commit in so many is made to survive power loss.
const SYNC_ONE_IN: u64 = 16;
/// In a canary: the commit that is acknowledged and not made, counted from the worker's first.
const LIE_AFTER: u64 = 20;

/// Rows of a table.
pub(super) type Rows = BTreeMap<Vec<u8>, Vec<u8>>;

/// So small that within a second there are many log files, checkpoints and cleaned segments.
pub(super) fn options() -> Options {
    Options::new()
        .page_bytes(4096)
        .memory_bytes(2 << 20)
        .log_file_bytes(256 << 10)
        .log_distance_bytes(1 << 20)
        .durability(Durability::Os)
}

enum Change {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    /// From the first key to before the second one.
    DeleteRange(Vec<u8>, Vec<u8>),
    DeleteAll,
}

fn key(n: u64) -> Vec<u8> {
    format!("key {n:05}").into_bytes()
}

/// The changes of commit `n`, with the number of the table.
fn changes(seed: u64, n: u64) -> Vec<(usize, Change)> {
    let mut rng = Rng::new(seed ^ n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut changes = Vec::new();
    let draw = rng.below(1000);
    for (tab, (_, kind)) in TABLES.iter().enumerate() {
        let at = rng.below(KEYS);
        match draw {
            0..900 => {
                for i in 0..=rng.below(3) {
                    let bytes = match rng.below(200) {
                        0 => 4096 + rng.below(16 << 10),
                        _ => 16 + rng.below(300),
                    };
                    let mut value = n.to_le_bytes().to_vec();
                    // One byte in four drawn: it compresses, but not to nothing.
                    value.resize_with(usize::try_from(bytes).expect("small"), || {
                        if rng.one_in(4) { rng.below(256).to_le_bytes()[0] } else { b'.' }
                    });
                    changes.push((tab, Change::Put(key((at + i * 7) % KEYS), value)));
                }
            }
            900..970 => changes.push((tab, Change::Delete(key(at)))),
            970..999 if *kind != Index::Hash => {
                changes.push((tab, Change::DeleteRange(key(at), key(at + rng.below(60)))));
            }
            999 if n % 3 == tab as u64 => changes.push((tab, Change::DeleteAll)),
            _ => {}
        }
    }
    changes
}

/// Commits until it is killed, or nobody reads its standard output, and says each commit there.
pub(super) fn work(
    dir: &Path,
    seed: u64,
    first: u64,
    canary: bool,
) -> std::result::Result<(), Failure> {
    let db = options().open(dir)?;
    let tables = open_tables(&db)?;
    let mut said = io::stdout().lock();
    let mut say = |n: u64| {
        let line = format!("{n}\n");
        said.write_all(line.as_bytes()).and_then(|()| said.flush()).map_err(Failure::Output)
    };
    for n in first.. {
        if canary && n == first + LIE_AFTER {
            say(n)?;
            loop {
                std::thread::park();
            }
        }
        commit(&db, &tables, seed, n)?;
        say(n)?;
    }
    Ok(())
}

fn open_tables(db: &Database) -> Result<[Table; 3]> {
    let [a, b, c] = TABLES;
    Ok([db.table(a.0, a.1)?, db.table(b.0, b.1)?, db.table(c.0, c.1)?])
}

fn commit(db: &Database, tables: &[Table; 3], seed: u64, n: u64) -> Result<()> {
    let mut batch: Batch = db.batch();
    if n.is_multiple_of(SYNC_ONE_IN) {
        batch.set_durability(Durability::Sync);
    }
    for (tab, change) in changes(seed, n) {
        let table = &tables[tab];
        match change {
            Change::Put(key, value) => batch.put(table, key, value),
            Change::Delete(key) => batch.delete(table, key),
            Change::DeleteRange(low, high) => batch.delete_range(table, low..high),
            Change::DeleteAll => batch.delete_range(table, ..),
        }
    }
    for table in tables {
        batch.put(table, COUNT_KEY, n.to_le_bytes());
    }
    batch.commit()
}

/// What the tables must hold.
#[derive(Clone, Debug)]
pub(super) struct Model {
    seed: u64,
    /// Commits so far.
    pub(super) commits: u64,
    pub(super) tables: [Rows; 3],
}

impl Model {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, commits: 0, tables: [Rows::new(), Rows::new(), Rows::new()] }
    }

    /// Goes on to the state after `commits` commits.
    pub(super) fn advance(&mut self, commits: u64) {
        for n in self.commits + 1..=commits {
            for (tab, change) in changes(self.seed, n) {
                let rows = &mut self.tables[tab];
                match change {
                    Change::Put(key, value) => drop(rows.insert(key, value)),
                    Change::Delete(key) => drop(rows.remove(&key)),
                    Change::DeleteRange(low, high) => {
                        rows.retain(|key, _| *key < low || *key >= high);
                    }
                    Change::DeleteAll => rows.clear(),
                }
            }
        }
        self.commits = self.commits.max(commits);
        for rows in &mut self.tables {
            rows.insert(COUNT_KEY.to_vec(), self.commits.to_le_bytes().to_vec());
        }
    }

    /// True if some commit so far wrote this row.
    pub(super) fn was_written(&self, tab: usize, key: &[u8], value: &[u8]) -> bool {
        let Some((n, _)) = value.split_first_chunk() else { return false };
        let n = u64::from_le_bytes(*n);
        if n == 0 || n > self.commits {
            return false;
        }
        if key == COUNT_KEY {
            return value.len() == 8;
        }
        changes(self.seed, n).iter().any(|(of, change)| {
            *of == tab && matches!(change, Change::Put(k, v) if k == key && v == value)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_is_the_same_however_far_it_goes_at_once() {
        let (mut far, mut steps) = (Model::new(3), Model::new(3));
        far.advance(4000);
        (0..=4000).step_by(50).for_each(|n| steps.advance(n));
        assert_eq!(far.tables, steps.tables);
        assert!(far.tables.iter().all(|rows| rows.len() > 50), "there is something to lose");
        for (tab, rows) in far.tables.iter().enumerate() {
            for (key, value) in rows {
                assert!(far.was_written(tab, key, value));
                let mut other = value.clone();
                *other.last_mut().unwrap() ^= 1;
                assert!(!far.was_written(tab, key, &other) || key == COUNT_KEY);
            }
        }
    }
}
