//! Trunk nodes: which runs hold the rows of a range of keys, and how the range is divided below.
//!
//! ```text
//!  0      1       2      3     4          6          8
//! | 1    | flags | runs | 0   | children | key bytes | 0 (8 bytes)
//! 16
//! | runs: 32 bytes each | children: 8 bytes each | pivots, one after the other |
//!
//! run   = rows u64 | tombstones u64 | pages u32 | level u8 | flags u8 | 0 (10 bytes)
//! child = pages u32 | runs u8 | level u8 | end u16
//! words = [memtable, its ranges,] (tree, filter, ranges) of each run, children
//! ```
//!
//! Runs come newest first. The first child begins where the node does; `end` is where the pivot below a child
//! ends, counted from the first (0 for the first child, which has none). `level` is 255 if the root of the tree says it:
//! the tree was a memtable. A word without a page says that there is none.

use crate::btree::{LEVELS_MAX, set_u16, u16_at};
use crate::pages::ChildWord;
use crate::run::RunRef;
use esker_base::PageId;
use esker_base::codec::Reader;

/// Level of nodes without children; others are one above their highest child.
pub(crate) const NODE_LEVEL: u8 = 80;
/// Highest level of a node.
pub(crate) const NODE_LEVEL_MAX: u8 = 250;
/// A tree whose root says what level it has.
pub(crate) const LEVEL_UNKNOWN: u8 = 255;

const VERSION: u8 = 1;
pub(crate) const HEADER_BYTES: usize = 16;
const RUN_BYTES: usize = 32;
const CHILD_BYTES: usize = 8;
const WORD_BYTES: usize = 8;
const FLAG_MEMTABLE: u8 = 1;
const FLAG_LARGE: u8 = 1;
const FLAG_FROZEN: u8 = 2;
/// Words of the memtable.
pub(crate) const MEMTABLE_WORDS: usize = 2;
/// Words of a run.
pub(crate) const RUN_WORDS: usize = 3;
/// What a run takes of a node's content.
pub(crate) const RUN_COST_BYTES: usize = RUN_BYTES + RUN_WORDS * WORD_BYTES;
/// What a child takes, without its pivot.
pub(crate) const CHILD_COST_BYTES: usize = CHILD_BYTES + WORD_BYTES;
/// What a node takes, without runs and children.
pub(crate) const FIXED_COST_BYTES: usize = HEADER_BYTES + MEMTABLE_WORDS * WORD_BYTES;

/// A node, to read in place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node<'a> {
    body: &'a [u8],
    has_memtable: bool,
    runs: usize,
    children: usize,
}

impl<'a> Node<'a> {
    /// A body that [`check_node`] has accepted, or that this module has made.
    #[inline]
    pub(crate) fn new(body: &'a [u8]) -> Self {
        Self {
            body,
            has_memtable: body[1] & FLAG_MEMTABLE != 0,
            runs: usize::from(body[2]),
            children: u16_at(body, 4),
        }
    }
    pub(crate) fn runs(&self) -> usize {
        self.runs
    }
    pub(crate) fn children(&self) -> usize {
        self.children
    }
    pub(crate) fn has_memtable(&self) -> bool {
        self.has_memtable
    }
    /// Where the words of run `i` begin.
    #[inline]
    pub(crate) fn run_word(&self, i: usize) -> usize {
        if self.has_memtable { MEMTABLE_WORDS + i * RUN_WORDS } else { i * RUN_WORDS }
    }
    /// Where the word of child `i` is.
    #[inline]
    pub(crate) fn child_word(&self, i: usize) -> usize {
        self.run_word(self.runs) + i
    }
    fn run_at(&self, i: usize) -> &'a [u8] {
        &self.body[HEADER_BYTES + i * RUN_BYTES..][..RUN_BYTES]
    }
    /// The level of a run's tree, if it is known.
    #[inline]
    pub(crate) fn run_level(&self, i: usize) -> Option<u8> {
        let level = self.run_at(i)[20];
        (level != LEVEL_UNKNOWN).then_some(level)
    }
    fn child_at(&self, i: usize) -> &'a [u8] {
        let at = HEADER_BYTES + self.runs * RUN_BYTES + i * CHILD_BYTES;
        &self.body[at..at + CHILD_BYTES]
    }
    fn keys_at(&self) -> usize {
        HEADER_BYTES + self.runs * RUN_BYTES + self.children * CHILD_BYTES
    }
    fn used_bytes(&self) -> usize {
        self.keys_at() + u16_at(self.body, 6)
    }
    /// Where child `i` begins; for the first one, where the node does (it has no pivot).
    #[inline]
    pub(crate) fn pivot(&self, i: usize) -> &'a [u8] {
        let end = |i: usize| u16_at(self.child_at(i), 6);
        let start = i.checked_sub(1).map_or(0, end);
        &self.body[self.keys_at() + start..self.keys_at() + end(i)]
    }
    /// The child that holds `key`. There are some.
    #[inline]
    pub(crate) fn child_of(&self, key: &[u8]) -> usize {
        let (mut from, mut to) = (1, self.children);
        while from < to {
            let middle = usize::midpoint(from, to);
            if self.pivot(middle) <= key {
                from = middle + 1;
            } else {
                to = middle;
            }
        }
        from - 1
    }
    /// The child that holds the largest key below `key`.
    pub(crate) fn child_below(&self, key: &[u8]) -> usize {
        let child = self.child_of(key);
        if child > 0 && self.pivot(child) == key { child - 1 } else { child }
    }
}

/// A child of a node in the making.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Child {
    pub(crate) word: u64,
    /// Where it begins; of no meaning for the first one.
    pub(crate) pivot: Vec<u8>,
    /// Leaves of its runs, and of those below it.
    pub(crate) pages: u32,
    /// Runs of its own.
    pub(crate) runs: u8,
    /// Its level.
    pub(crate) level: u8,
}

/// A run of a node, and whether it was a memtable and has no filter yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeRun {
    pub(crate) run: RunRef,
    pub(crate) frozen: bool,
}

/// A node taken apart, to be changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeParts {
    /// Tree and ranges; the root has it.
    pub(crate) memtable: Option<(u64, u64)>,
    pub(crate) runs: Vec<NodeRun>,
    pub(crate) children: Vec<Child>,
}

/// The word's bits, or 0 if it names nothing.
fn bits_of(word: &ChildWord) -> u64 {
    let bits = word.load();
    if ChildWord::page_of(bits) == PageId::NONE { 0 } else { bits }
}

impl NodeParts {
    /// Of a node that was checked.
    pub(crate) fn of(words: &[ChildWord], body: &[u8]) -> Self {
        let node = Node::new(body);
        let memtable = node.has_memtable.then(|| (bits_of(&words[0]), bits_of(&words[1])));
        let runs = (0..node.runs).map(|i| {
            let mut reader = Reader::new(node.run_at(i));
            let mut field = || reader.u64().expect("32 bytes");
            let (rows, tombstones) = (field(), field());
            let pages = reader.u32().expect("32 bytes");
            let record = node.run_at(i);
            let (level, flags) = (record[20], record[21]);
            let word = |n: usize| bits_of(&words[node.run_word(i) + n]);
            NodeRun {
                run: RunRef {
                    tree: word(0),
                    level,
                    filter: word(1),
                    ranges: word(2),
                    rows,
                    tombstones,
                    pages,
                    has_large: flags & FLAG_LARGE != 0,
                },
                frozen: flags & FLAG_FROZEN != 0,
            }
        });
        let children = (0..node.children).map(|i| {
            let record = node.child_at(i);
            Child {
                word: words[node.child_word(i)].load(),
                pivot: node.pivot(i).to_vec(),
                pages: Reader::new(record).u32().expect("8 bytes"),
                runs: record[4],
                level: record[5],
            }
        });
        Self { memtable, runs: runs.collect(), children: children.collect() }
    }

    /// The level that a node of these parts has.
    pub(crate) fn level(&self) -> u8 {
        self.children.iter().map(|child| child.level + 1).max().unwrap_or(NODE_LEVEL)
    }
    /// How many words it has.
    pub(crate) fn words(&self) -> usize {
        let memtable = if self.memtable.is_some() { MEMTABLE_WORDS } else { 0 };
        memtable + self.runs.len() * RUN_WORDS + self.children.len()
    }
    /// Bytes of content that it takes.
    pub(crate) fn bytes(&self) -> usize {
        FIXED_COST_BYTES + self.runs.len() * RUN_COST_BYTES + self.children_bytes()
    }
    /// Bytes of content that its children take.
    pub(crate) fn children_bytes(&self) -> usize {
        let pivots: usize = self.children.iter().skip(1).map(|child| child.pivot.len()).sum();
        self.children.len() * CHILD_COST_BYTES + pivots
    }
    /// Leaves of its runs, and of those below it.
    pub(crate) fn pages(&self) -> u32 {
        let runs = self.runs.iter().map(|run| run.run.pages);
        let children = self.children.iter().map(|child| child.pages);
        runs.chain(children).fold(0, u32::saturating_add)
    }

    /// Fills a page of [`Self::level`] and [`Self::words`]. It fits.
    pub(crate) fn write(&self, (words, body): (&mut [u64], &mut [u8])) {
        let mut all = Vec::with_capacity(self.words());
        if let Some((tree, ranges)) = self.memtable {
            all.extend([tree, ranges]);
        }
        for NodeRun { run, .. } in &self.runs {
            all.extend([run.tree, run.filter, run.ranges]);
        }
        all.extend(self.children.iter().map(|child| child.word));
        words.copy_from_slice(&all);
        body.fill(0);
        body[0] = VERSION;
        body[1] = if self.memtable.is_some() { FLAG_MEMTABLE } else { 0 };
        body[2] = u8::try_from(self.runs.len()).expect("a page holds fewer");
        set_u16(body, 4, self.children.len());
        let mut at = HEADER_BYTES;
        for NodeRun { run, frozen } in &self.runs {
            let record = &mut body[at..at + RUN_BYTES];
            record[..8].copy_from_slice(&run.rows.to_le_bytes());
            record[8..16].copy_from_slice(&run.tombstones.to_le_bytes());
            record[16..20].copy_from_slice(&run.pages.to_le_bytes());
            record[20] = run.level;
            record[21] = u8::from(run.has_large) * FLAG_LARGE + u8::from(*frozen) * FLAG_FROZEN;
            at += RUN_BYTES;
        }
        let mut end = 0;
        let mut key_at = at + self.children.len() * CHILD_BYTES;
        for (i, child) in self.children.iter().enumerate() {
            let pivot: &[u8] = if i == 0 { b"" } else { &child.pivot };
            end += pivot.len();
            body[key_at..key_at + pivot.len()].copy_from_slice(pivot);
            key_at += pivot.len();
            let record = &mut body[at..at + CHILD_BYTES];
            record[..4].copy_from_slice(&child.pages.to_le_bytes());
            record[4] = child.runs;
            record[5] = child.level;
            set_u16(record, 6, end);
            at += CHILD_BYTES;
        }
        set_u16(body, 6, end);
    }
}

/// The part of a node that need not be kept on disk.
pub(crate) fn hole(body: &[u8]) -> std::ops::Range<usize> {
    Node::new(body).used_bytes()..body.len()
}

/// Checks a node that came from disk.
///
/// # Errors
/// What is wrong.
pub(crate) fn check_node(level: u8, words: usize, body: &[u8]) -> Result<(), String> {
    if body.len() < HEADER_BYTES || body[0] != VERSION || body[3] != 0 || body[8..16] != [0; 8] {
        return Err("not a trunk node".to_owned());
    }
    let (flags, runs, children) = (body[1], usize::from(body[2]), u16_at(body, 4));
    let memtable = if flags & FLAG_MEMTABLE != 0 { MEMTABLE_WORDS } else { 0 };
    if flags & !FLAG_MEMTABLE != 0 || words != memtable + runs * RUN_WORDS + children {
        return Err(format!("{words} words for {runs} runs and {children} children"));
    }
    let node = Node::new(body);
    let keys = body.get(node.keys_at()..node.keys_at() + u16_at(body, 6));
    let keys = keys.ok_or_else(|| format!("{runs} runs and {children} children do not fit"))?;
    for i in 0..runs {
        let record = node.run_at(i);
        let (level, flags) = (record[20], record[21]);
        let has_level = level <= LEVELS_MAX || level == LEVEL_UNKNOWN;
        if !has_level || flags & !(FLAG_LARGE | FLAG_FROZEN) != 0 || record[22..] != [0; 10] {
            return Err(format!("run {i} is of level {level}, with flags {flags}"));
        }
    }
    let (mut start, mut before, mut highest): (usize, &[u8], u8) = (0, b"", NODE_LEVEL - 1);
    for i in 0..children {
        let (level, end) = (node.child_at(i)[5], u16_at(node.child_at(i), 6));
        let pivot = keys.get(start..end).ok_or_else(|| format!("pivot {i} ends at {end}"))?;
        if (i == 0) != pivot.is_empty() || i > 0 && pivot <= before {
            return Err(format!("pivot {i} is not above the one before"));
        }
        if !(NODE_LEVEL..NODE_LEVEL_MAX).contains(&level) {
            return Err(format!("child {i} is of level {level}"));
        }
        (start, before, highest) = (end, pivot, highest.max(level));
    }
    if start != keys.len() || level != highest + 1 {
        return Err(format!("level {level} above children of level {highest}"));
    }
    Ok(())
}
