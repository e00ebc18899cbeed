//! Scripts with tables of thousands of rows: trees of several levels that grow, are divided, and shrink again.
//!
//! The usual scripts have a few hundred keys, since each row is compared so often. Nodes of a trunk are not divided there, few
//! buckets are joined, and no gap of tombstones is met: so some scripts are made of few operations on many rows.

use super::{Generator, Profile, script};
use crate::choices::Choices;
use crate::script::{Key, Op, Script, Shape, Span, Tab, Walk, Write};
use std::ops::Bound;

/// Keys of a table.
const KEYS: u16 = 4000;
/// Rows of an operation, at most: a batch must fit memory.
const FILL_MAX: u64 = 200;
const ERASE_MAX: u64 = 500;

/// As [`script`], with tables that are large beside memory.
pub fn deep_script(choices: &mut impl Choices, profile: Profile) -> Script {
    let mut made = script(choices, Profile { ops: (1, 1), ..profile });
    if made.settings.shape == Shape::Binary {
        made.settings.shape = Shape::Short;
    }
    let (least, most) = profile.ops;
    let ops = least + choices.below((most - least) as u64 + 1) as usize;
    // Values of one length, so that there are many rows in what memory and disk there is.
    let bytes = choices.pick(&[8, 30, 60]);
    let is_queue = choices.one_in(3);
    let generator = Generator {
        choices,
        keys: u64::from(KEYS),
        value_bytes_max: 300,
        durability: profile.durability,
    };
    let mut deep = Deep { generator, bytes, is_queue, front: 0, back: 0, filled: 0, emptied: None };
    while made.ops.len() < ops && !deep.generator.choices.is_exhausted() {
        let op = deep.op();
        made.ops.push(op);
    }
    made
}

struct Deep<'c, C> {
    generator: Generator<'c, C>,
    /// Of each value.
    bytes: u32,
    /// Rows come at one end and go at the other.
    is_queue: bool,
    /// Where they go, and where they come.
    front: u16,
    back: u16,
    /// Operations that brought rows so far.
    filled: u32,
    /// All rows of the first table go, one stretch after the other: where the next one begins.
    emptied: Option<u16>,
}

impl<C: Choices> Deep<'_, C> {
    /// Mostly the first table: a deep one needs many rows.
    fn tab(&mut self) -> Tab {
        Tab::from(self.generator.choices.one_in(5))
    }

    fn count(&mut self, most: u64) -> u16 {
        self.generator.choices.below(most) as u16 + 1
    }

    fn anywhere(&mut self) -> Key {
        Key(self.generator.choices.below(u64::from(KEYS)) as u16)
    }

    fn fill(&mut self) -> Op {
        self.filled += 1;
        let count = self.count(FILL_MAX);
        let first = if self.is_queue { Key(self.back) } else { self.anywhere() };
        self.back = (self.back + count) % KEYS;
        let tab = self.tab();
        if self.generator.choices.one_in(4) {
            return Op::BulkLoad(tab, first, count.min(KEYS - first.0), self.bytes);
        }
        Op::Fill(tab, first, count, KEYS, self.bytes)
    }

    fn erase(&mut self) -> Op {
        let count = self.count(ERASE_MAX);
        let first = if self.is_queue { Key(self.front) } else { self.anywhere() };
        self.front = (self.front + count) % KEYS;
        let tab = self.tab();
        if self.generator.choices.one_in(6) {
            let high = Key(first.0.saturating_add(count));
            return Op::DeleteRange(
                tab,
                Span::Between(Bound::Included(first), Bound::Excluded(high)),
            );
        }
        Op::Erase(tab, first, count, KEYS)
    }

    fn op(&mut self) -> Op {
        if let Some(first) = self.emptied {
            let next = first + ERASE_MAX as u16;
            self.emptied = Some(next).filter(|next| *next < KEYS);
            return Op::Erase(0, Key(first), ERASE_MAX as u16, KEYS);
        }
        if self.filled < 12 {
            return self.fill();
        }
        if self.generator.choices.one_in(40) {
            (self.emptied, self.filled) = (Some(0), 0);
        }
        let generator = &mut self.generator;
        match generator.choices.below(24) {
            0..=8 => self.fill(),
            9..=11 => self.erase(),
            12 => Op::Settle,
            13 | 14 => {
                let walk = generator.choices.pick(&[Walk::Forward, Walk::Backward, Walk::Lending]);
                Op::Scan(self.tab(), Span::All, walk)
            }
            15 => Op::Put(self.tab(), self.generator.key(), self.generator.value(300), None),
            16 => Op::Batch(vec![(0, Write::Delete(generator.key()))], None),
            17 => Op::Pop(self.tab(), false),
            18 => Op::Snapshot(generator.slot()),
            19 => Op::CheckSnapshot(generator.slot()),
            20 => Op::DropSnapshot(generator.slot()),
            21 => Op::Optimize(self.tab(), Span::All),
            22 => Op::Checkpoint,
            _ if generator.choices.one_in(3) => Op::Reopen { close: generator.choices.one_in(2) },
            _ => Op::Create(1),
        }
    }
}
