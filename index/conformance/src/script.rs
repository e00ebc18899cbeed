//! Scripts: what is done, in full.

use esker::{Durability, Index, Isolation, Options};
use std::ops::Bound;

/// Settings and operations.
#[derive(Clone, Debug)]
pub struct Script {
    pub settings: Settings,
    pub ops: Vec<Op>,
}

impl Script {
    /// Operations that commit something, if nothing is in their way.
    pub fn commits(&self) -> usize {
        let commits = |op: &&Op| {
            matches!(
                op,
                Op::Create(_)
                    | Op::Drop(_)
                    | Op::Put(..)
                    | Op::Delete(..)
                    | Op::PutIfAbsent(..)
                    | Op::Swap(..)
                    | Op::Merge(..)
                    | Op::DeleteRange(..)
                    | Op::Clear(_)
                    | Op::Pop(..)
                    | Op::Batch(..)
                    | Op::Fill(..)
                    | Op::Erase(..)
                    | Op::BulkLoad(..)
                    | Op::Submit(..)
                    | Op::Transact(_, _, true, _)
                    | Op::End(_, true)
            )
        };
        self.ops.iter().filter(commits).count()
    }
}

/// How the database of a script is opened, and what its keys look like.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub page_bytes: usize,
    pub pages: usize,
    pub log_file_bytes: u64,
    pub log_distance_bytes: u64,
    pub compress: bool,
    pub durability: Durability,
    pub shape: Shape,
    /// The kinds of tables, by number.
    pub kinds: [Index; 3],
}

impl Settings {
    /// Small, and everything durable.
    pub const TINY: Self = Self {
        page_bytes: 1024,
        pages: 128,
        log_file_bytes: 16 << 10,
        log_distance_bytes: 32 << 10,
        compress: true,
        durability: Durability::Sync,
        shape: Shape::Short,
        kinds: [Index::BTree; 3],
    };

    pub fn options(&self) -> Options {
        Options::new()
            .page_bytes(self.page_bytes)
            .memory_bytes(self.page_bytes * self.pages)
            .log_file_bytes(self.log_file_bytes)
            .log_distance_bytes(self.log_distance_bytes)
            .compress(self.compress)
            .durability(self.durability)
            .merge_operator("add", |_, old, operand| add(old, operand))
            .merge_operator("append", |_, old, operand| Some(append(old, operand)))
    }
}

/// What keys look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A few bytes.
    Short,
    /// A long prefix that all share.
    Shared,
    /// Any bytes, of any length, with 0x00 and 0xff among them.
    Binary,
    /// Up to a quarter of the smallest page, the longest that may be, with little in common.
    Long,
}

/// A key, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key(pub u16);

impl Key {
    /// Different numbers give different bytes.
    pub fn bytes(self, shape: Shape) -> Vec<u8> {
        let n = usize::from(self.0);
        match shape {
            Shape::Short => format!("k{n:03}").into_bytes(),
            Shape::Shared => {
                let mut key = b"a/long/prefix/that/all/keys/share/".repeat(4);
                key.extend_from_slice(format!("{n:04}").as_bytes());
                key
            }
            Shape::Long => {
                let mut key = format!("{}{n:04}", ['m', 'a', 'x'][n % 3]).into_bytes();
                key.resize([256, 255, 200, 20][n / 7 % 4], b'a' + (n % 26) as u8);
                key
            }
            Shape::Binary => {
                let mut key = vec![b'm'; if n % 4 == 3 { n * 5 % 180 } else { 0 }];
                let mut left = n + 1;
                while left > 0 {
                    key.push([0x00, 0x01, b'z', 0xff][(left - 1) % 4]);
                    left = (left - 1) / 4;
                }
                key
            }
        }
    }
}

/// A value, by length and a number that decides the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    pub len: u32,
    pub salt: u32,
}

impl Value {
    pub fn bytes(self) -> Vec<u8> {
        let salt = self.salt.to_le_bytes();
        let mut state = u64::from(self.salt) << 1 | 1;
        (0..self.len as usize)
            .map(|i| {
                if i < 4 {
                    return salt[i];
                }
                // Half of all values can be compressed.
                if self.salt.is_multiple_of(2) {
                    return salt[i % 4];
                }
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect()
    }
}

/// A table, by number.
pub type Tab = u8;

/// The name of a table.
pub fn table_name(tab: Tab) -> String {
    format!("table-{tab}")
}

/// A range of keys.
#[derive(Clone, Copy, Debug)]
pub enum Span {
    Between(Bound<Key>, Bound<Key>),
    /// Keys that begin with the first so many bytes of a key.
    Prefix(Key, u8),
    All,
}

impl Span {
    /// This range, or all keys if the table has no order.
    #[must_use]
    pub fn suits(self, ordered: bool) -> Self {
        if ordered { self } else { Self::All }
    }
}

/// A range of keys, in bytes.
pub type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

impl Span {
    /// As bounds; a prefix by the first key above it.
    pub fn bounds(self, shape: Shape) -> Bounds {
        match self {
            Self::Between(low, high) => {
                (low.map(|key| key.bytes(shape)), high.map(|key| key.bytes(shape)))
            }
            Self::Prefix(..) => {
                let prefix = self.prefix(shape).expect("it is one");
                let mut above = prefix.clone();
                while above.last() == Some(&0xff) {
                    above.pop();
                }
                let high = above.last_mut().map(|last| *last += 1);
                let high = high.map_or(Bound::Unbounded, |()| Bound::Excluded(above));
                (Bound::Included(prefix), high)
            }
            Self::All => (Bound::Unbounded, Bound::Unbounded),
        }
    }

    pub fn prefix(self, shape: Shape) -> Option<Vec<u8>> {
        let Self::Prefix(key, bytes) = self else { return None };
        let mut prefix = key.bytes(shape);
        prefix.truncate(usize::from(bytes));
        Some(prefix)
    }
}

/// How a scan is walked.
#[derive(Clone, Copy, Debug)]
pub enum Walk {
    Forward,
    Backward,
    /// From both ends: a bit a step.
    Both(u32),
    /// Forward without allocation.
    Lending,
    /// Backward without allocation.
    LendingBack,
}

/// A write to one table.
#[derive(Clone, Copy, Debug)]
pub enum Write {
    Put(Key, Value),
    Delete(Key),
    DeleteRange(Span),
}

impl Write {
    /// This write, as a table with or without order can do it.
    #[must_use]
    pub fn suits(self, ordered: bool) -> Self {
        match self {
            Self::DeleteRange(span) => Self::DeleteRange(span.suits(ordered)),
            write => write,
        }
    }
}

/// What `compare_and_swap` is told to expect.
#[derive(Clone, Copy, Debug)]
pub enum Expect {
    /// What is there.
    Right,
    /// No row.
    Absent,
    /// Something else.
    Wrong(Value),
}

#[derive(Clone, Copy, Debug)]
pub enum Operator {
    /// Adds numbers; the row goes when the sum is a multiple of five.
    Add,
    /// Appends, up to a limit.
    Append,
}

impl Operator {
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Append => "append",
        }
    }

    pub fn apply(self, old: Option<&[u8]>, operand: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Add => add(old, operand),
            Self::Append => Some(append(old, operand)),
        }
    }
}

fn number(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    let len = bytes.len().min(8);
    word[..len].copy_from_slice(&bytes[..len]);
    u64::from_le_bytes(word)
}

fn add(old: Option<&[u8]>, operand: &[u8]) -> Option<Vec<u8>> {
    let sum = old.map_or(0, number).wrapping_add(number(operand));
    (!sum.is_multiple_of(5)).then(|| sum.to_le_bytes().to_vec())
}

fn append(old: Option<&[u8]>, operand: &[u8]) -> Vec<u8> {
    const BYTES_MAX: usize = 700;
    let mut all = old.unwrap_or_default().to_vec();
    all.extend_from_slice(operand);
    let surplus = all.len().saturating_sub(BYTES_MAX);
    all.drain(..surplus);
    all
}

/// One step of a transaction.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Get(Tab, Key),
    GetForUpdate(Tab, Key),
    Scan(Tab, Span),
    PutIfAbsent(Tab, Key, Value),
    Merge(Tab, Operator, Key, Value),
    Write(Tab, Write),
}

impl Step {
    /// This step, as a table with or without order can do it.
    #[must_use]
    pub fn suits(self, ordered: bool) -> Self {
        match self {
            Self::Scan(tab, span) => Self::Scan(tab, span.suits(ordered)),
            Self::Write(tab, write) => Self::Write(tab, write.suits(ordered)),
            step => step,
        }
    }
}

/// One operation.
#[derive(Clone, Debug)]
pub enum Op {
    Create(Tab),
    Drop(Tab),
    Put(Tab, Key, Value, Option<Durability>),
    Delete(Tab, Key),
    PutIfAbsent(Tab, Key, Value),
    Swap(Tab, Key, Expect, Option<Value>),
    Merge(Tab, Operator, Key, Value),
    DeleteRange(Tab, Span),
    Clear(Tab),
    Pop(Tab, bool),
    Batch(Vec<(Tab, Write)>, Option<Durability>),
    /// A batch over many leaves: so many keys from this one on, modulo, with values of this length.
    Fill(Tab, Key, u16, u16, u32),
    /// A batch that deletes so many keys from this one on, modulo, one by one.
    Erase(Tab, Key, u16, u16),
    /// Rows in order: so many keys from this one on, with values of this length.
    BulkLoad(Tab, Key, u16, u32),
    /// A put that leaves a ticket in a slot, and waiting for it.
    Submit(u8, Tab, Key, Value),
    Wait(u8),
    Get(Tab, Key),
    MultiGet(Tab, Vec<Key>),
    Scan(Tab, Span, Walk),
    /// A transaction from begin to end: steps, whether it commits, and at which level.
    Transact(Isolation, Vec<Step>, bool, Option<Durability>),
    /// One of a few transactions that are open while other operations go on.
    Begin(u8, Isolation),
    Step(u8, Step),
    End(u8, bool),
    /// One of a few snapshots that are held.
    Snapshot(u8),
    CheckSnapshot(u8),
    DropSnapshot(u8),
    /// One of a few scans that are walked while other operations go on.
    OpenScan(u8, Tab, Span),
    ContinueScan(u8, u8, bool),
    Optimize(Tab, Span),
    Sync,
    Checkpoint,
    Settle,
    Verify,
    /// Compares all rows of all tables.
    CompareAll,
    /// Closes or drops the database and opens it again.
    Reopen {
        close: bool,
    },
}
