//! Makes scripts from choices.
//!
//! Swarm testing: each script leaves a random part of the operations out and does others more often,
//! since what happens rarely next to everything else happens often where it is nearly alone.

mod deep;

use crate::choices::Choices;
use crate::runner::SLOTS;
use crate::script::{
    Expect, Key, Op, Operator, Script, Settings, Shape, Span, Step, Tab, Value, Walk, Write,
};
use esker::{Durability, Index, Isolation};
use std::ops::Bound;

pub use deep::deep_script;

/// What a script is for.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// Number of operations: at least, and at most.
    pub ops: (usize, usize),
    /// Mostly operations that write.
    pub writes: bool,
    /// Everything at this level, if given.
    pub durability: Option<Durability>,
    /// All tables of this kind, if given.
    pub kind: Option<Index>,
}

const TABLES: u64 = 3;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Put,
    Delete,
    PutIfAbsent,
    Swap,
    Merge,
    DeleteRange,
    Clear,
    Pop,
    Batch,
    BulkLoad,
    Submit,
    Wait,
    Get,
    MultiGet,
    Scan,
    Transact,
    Begin,
    Step,
    End,
    Snapshot,
    CheckSnapshot,
    DropSnapshot,
    OpenScan,
    ContinueScan,
    Create,
    Drop,
    Optimize,
    Sync,
    Checkpoint,
    Settle,
    Verify,
    CompareAll,
    Reopen,
}

/// Each kind with its weight, and its weight where writes count.
const KINDS: [(Kind, u64, u64); 33] = [
    (Kind::Put, 60, 60),
    (Kind::Delete, 16, 16),
    (Kind::PutIfAbsent, 6, 6),
    (Kind::Swap, 8, 6),
    (Kind::Merge, 8, 6),
    (Kind::DeleteRange, 6, 6),
    (Kind::Clear, 1, 1),
    (Kind::Pop, 6, 4),
    (Kind::Batch, 14, 14),
    (Kind::BulkLoad, 3, 3),
    (Kind::Submit, 8, 10),
    (Kind::Wait, 6, 6),
    (Kind::Get, 12, 2),
    (Kind::MultiGet, 4, 1),
    (Kind::Scan, 12, 2),
    (Kind::Transact, 12, 12),
    (Kind::Begin, 5, 3),
    (Kind::Step, 20, 10),
    (Kind::End, 7, 5),
    (Kind::Snapshot, 4, 3),
    (Kind::CheckSnapshot, 4, 1),
    (Kind::DropSnapshot, 4, 3),
    (Kind::OpenScan, 3, 1),
    (Kind::ContinueScan, 8, 1),
    (Kind::Create, 4, 4),
    (Kind::Drop, 2, 2),
    (Kind::Optimize, 3, 3),
    (Kind::Sync, 2, 2),
    (Kind::Checkpoint, 4, 4),
    (Kind::Settle, 2, 3),
    (Kind::Verify, 1, 0),
    (Kind::CompareAll, 2, 0),
    (Kind::Reopen, 2, 2),
];

struct Generator<'c, C> {
    choices: &'c mut C,
    keys: u64,
    /// Longest value of a single put.
    value_bytes_max: u32,
    durability: Option<Durability>,
}

/// Makes a script.
pub fn script(choices: &mut impl Choices, profile: Profile) -> Script {
    let mut settings = Settings {
        page_bytes: choices.pick(&[1024, 1024, 1024, 2048, 4096]),
        pages: choices.pick(&[112, 128, 200, 300]),
        log_file_bytes: choices.pick(&[16 << 10, 32 << 10, 128 << 10]),
        log_distance_bytes: choices.pick(&[8 << 10, 32 << 10, 256 << 10]),
        compress: !choices.one_in(3),
        durability: profile.durability.unwrap_or_else(|| {
            choices.pick(&[
                Durability::Sync,
                Durability::Sync,
                Durability::Os,
                Durability::Buffered,
            ])
        }),
        shape: choices.pick(&[Shape::Short, Shape::Short, Shape::Shared, Shape::Binary]),
        kinds: choices.pick(&[
            [Index::BTree; 3],
            [Index::Hash; 3],
            [Index::Fractal; 3],
            [Index::Fractal; 3],
            [Index::BTree, Index::Hash, Index::Fractal],
            [Index::Fractal, Index::BTree, Index::Hash],
        ]),
    };
    if let Some(kind) = profile.kind {
        settings.kinds = [kind; 3];
    }
    let keys = choices.pick(&[4, 20, 100, 400]);
    let value_bytes_max = choices.pick(&[40, 300, 1200, 12_000]);
    let (least, most) = profile.ops;
    let ops = least + choices.below((most - least) as u64 + 1) as usize;
    let mut weights = [0; KINDS.len()];
    for (weight, (kind, all, writes)) in weights.iter_mut().zip(KINDS) {
        let usual = if profile.writes { writes } else { all };
        *weight = usual * choices.pick(&[0, 1, 1, 4]);
        if kind == Kind::Put {
            *weight = (*weight).max(20);
        }
    }
    let total: u64 = weights.iter().sum();
    let mut generator =
        Generator { choices, keys, value_bytes_max, durability: profile.durability };
    let mut script = Script { settings, ops: vec![Op::Create(0)] };
    while script.ops.len() < ops && !generator.choices.is_exhausted() {
        let mut at = generator.choices.below(total);
        let (_, (kind, ..)) = weights
            .iter()
            .zip(KINDS)
            .find(|(weight, _)| {
                let found = at < **weight;
                at = at.saturating_sub(**weight);
                found
            })
            .expect("below the sum");
        script.ops.push(generator.op(kind));
    }
    script
}

impl<C: Choices> Generator<'_, C> {
    fn tab(&mut self) -> Tab {
        if self.choices.one_in(2) { 0 } else { self.choices.below(TABLES) as Tab }
    }

    fn key(&mut self) -> Key {
        let most = if self.choices.one_in(3) { self.keys.min(4) } else { self.keys };
        Key(self.choices.below(most) as u16)
    }

    fn value(&mut self, bytes_max: u32) -> Value {
        let bytes_max = u64::from(self.value_bytes_max.min(bytes_max));
        let most = match self.choices.below(8) {
            0..=3 => 12,
            4 | 5 => 300,
            6 => 1100,
            _ => 12_000,
        };
        let len = self.choices.below(bytes_max.min(most) + 1) as u32;
        Value { len, salt: self.choices.below(1 << 16) as u32 }
    }

    fn level(&mut self) -> Option<Durability> {
        if self.durability.is_some() || !self.choices.one_in(3) {
            return None;
        }
        Some(self.choices.pick(&[Durability::Sync, Durability::Os, Durability::Buffered]))
    }

    fn isolation(&mut self) -> Isolation {
        if self.choices.one_in(3) { Isolation::Snapshot } else { Isolation::Serializable }
    }

    fn slot(&mut self) -> u8 {
        self.choices.below(SLOTS as u64) as u8
    }

    fn bound(&mut self) -> Bound<Key> {
        match self.choices.below(7) {
            0 => Bound::Unbounded,
            1 | 2 => Bound::Excluded(self.key()),
            _ => Bound::Included(self.key()),
        }
    }

    fn span(&mut self) -> Span {
        match self.choices.below(8) {
            0 => Span::All,
            1 | 2 => Span::Prefix(self.key(), self.choices.pick(&[0, 1, 2, 3, 40, 138, 139, 200])),
            3 | 4 => {
                // A few keys.
                let low = self.key();
                let high = Key(low.0 + self.choices.below(12) as u16);
                Span::Between(Bound::Included(low), Bound::Excluded(high))
            }
            _ => Span::Between(self.bound(), self.bound()),
        }
    }

    fn operator(&mut self) -> Operator {
        self.choices.pick(&[Operator::Add, Operator::Append])
    }

    fn write(&mut self, bytes_max: u32) -> Write {
        match self.choices.below(12) {
            0 => Write::DeleteRange(self.span()),
            1..=3 => Write::Delete(self.key()),
            _ => Write::Put(self.key(), self.value(bytes_max)),
        }
    }

    fn batch(&mut self) -> Op {
        if self.choices.one_in(4) {
            let count = self.choices.pick(&[60, 200]);
            let bytes = self.choices.pick(&[0, 20, 60]);
            return Op::Fill(self.tab(), self.key(), count, self.keys as u16, bytes);
        }
        let writes = (0..self.choices.below(8)).map(|_| (self.tab(), self.write(3000))).collect();
        Op::Batch(writes, self.level())
    }

    fn step(&mut self) -> Step {
        let tab = self.tab();
        match self.choices.below(12) {
            0..=2 => Step::Get(tab, self.key()),
            3 => Step::GetForUpdate(tab, self.key()),
            4 | 5 => Step::Scan(tab, self.span()),
            6 => Step::PutIfAbsent(tab, self.key(), self.value(600)),
            7 => Step::Merge(tab, self.operator(), self.key(), self.value(600)),
            _ => Step::Write(tab, self.write(600)),
        }
    }

    fn op(&mut self, kind: Kind) -> Op {
        match kind {
            Kind::Put => Op::Put(self.tab(), self.key(), self.value(u32::MAX), self.level()),
            Kind::Delete => Op::Delete(self.tab(), self.key()),
            Kind::PutIfAbsent => Op::PutIfAbsent(self.tab(), self.key(), self.value(u32::MAX)),
            Kind::Swap => {
                let expect = match self.choices.below(4) {
                    0 => Expect::Absent,
                    1 => Expect::Wrong(self.value(u32::MAX)),
                    _ => Expect::Right,
                };
                let new = (!self.choices.one_in(3)).then(|| self.value(u32::MAX));
                Op::Swap(self.tab(), self.key(), expect, new)
            }
            Kind::Merge => Op::Merge(self.tab(), self.operator(), self.key(), self.value(600)),
            Kind::DeleteRange => Op::DeleteRange(self.tab(), self.span()),
            Kind::Clear => Op::Clear(self.tab()),
            Kind::Pop => Op::Pop(self.tab(), self.choices.one_in(2)),
            Kind::Batch => self.batch(),
            Kind::BulkLoad => {
                let bytes = self.choices.pick(&[5, 100, 400]);
                Op::BulkLoad(self.tab(), self.key(), self.choices.below(80) as u16, bytes)
            }
            Kind::Submit => Op::Submit(self.slot(), self.tab(), self.key(), self.value(u32::MAX)),
            Kind::Wait => Op::Wait(self.slot()),
            Kind::Get => Op::Get(self.tab(), self.key()),
            Kind::MultiGet => {
                let keys = (0..self.choices.below(20)).map(|_| self.key()).collect();
                Op::MultiGet(self.tab(), keys)
            }
            Kind::Scan => {
                let walk = match self.choices.below(5) {
                    0 => Walk::Forward,
                    1 => Walk::Backward,
                    2 => Walk::Both(self.choices.below(1 << 32) as u32),
                    3 => Walk::Lending,
                    _ => Walk::LendingBack,
                };
                Op::Scan(self.tab(), self.span(), walk)
            }
            Kind::Transact => {
                let steps = (0..self.choices.below(8)).map(|_| self.step()).collect();
                Op::Transact(self.isolation(), steps, !self.choices.one_in(4), self.level())
            }
            Kind::Begin => Op::Begin(self.slot(), self.isolation()),
            Kind::Step => Op::Step(self.slot(), self.step()),
            Kind::End => Op::End(self.slot(), !self.choices.one_in(4)),
            Kind::Snapshot => Op::Snapshot(self.slot()),
            Kind::CheckSnapshot => Op::CheckSnapshot(self.slot()),
            Kind::DropSnapshot => Op::DropSnapshot(self.slot()),
            Kind::OpenScan => Op::OpenScan(self.slot(), self.tab(), self.span()),
            Kind::ContinueScan => {
                Op::ContinueScan(self.slot(), self.choices.below(30) as u8, self.choices.one_in(3))
            }
            Kind::Create => Op::Create(self.choices.below(TABLES) as Tab),
            Kind::Drop => Op::Drop(self.choices.below(TABLES) as Tab),
            Kind::Optimize => Op::Optimize(self.tab(), self.span()),
            Kind::Sync => Op::Sync,
            Kind::Checkpoint => Op::Checkpoint,
            Kind::Settle => Op::Settle,
            Kind::Verify => Op::Verify,
            Kind::CompareAll => Op::CompareAll,
            Kind::Reopen => Op::Reopen { close: self.choices.one_in(2) },
        }
    }
}
