//! What single pages say by themselves, for putting together what is left of a table when others are gone.
//!
//! Everything here checks the page first, so it may be given any bytes.

use crate::btree::LEVELS_MAX;
use crate::btree::branch::{Pivots, check_branch};
use crate::btree::leaf::{Leaf, check_leaf};
use crate::fractal::node::{NODE_LEVEL, NODE_LEVEL_MAX, NodeParts, check_node};
use crate::hash::Hash;
use crate::hash::branch::{check_branch as check_directory, front_of};
use crate::hash::bucket::Bucket;
use crate::hash::bucket_check::check_bucket;
use crate::kind::Value;
use crate::pages::ChildWord;
use crate::run::{FILTER_BLOCK_LEVEL, FILTER_LEVEL_MAX, RangeSet, check_filter_page};
use esker_base::PageId;

/// A leaf of a B-tree, of a memtable, of a run, or of a run's ranges.
#[derive(Clone, Copy, Debug)]
pub struct LeafPage<'a>(Leaf<'a>);

impl<'a> LeafPage<'a> {
    /// # Errors
    /// Why it is none.
    pub fn new(level: u8, words: usize, body: &'a [u8]) -> Result<Self, String> {
        if level != 0 || words != 0 {
            return Err(format!("a leaf of level {level} with {words} children"));
        }
        check_leaf(body, true)?;
        Ok(Self(Leaf::new(body)))
    }
    /// The lower fence, included.
    pub fn low(&self) -> &'a [u8] {
        self.0.low()
    }
    /// The upper fence, excluded.
    pub fn high(&self) -> Option<&'a [u8]> {
        self.0.high()
    }
    /// Rows.
    #[expect(clippy::len_without_is_empty, reason = "a page, no collection")]
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// The i-th.
    pub fn row(&self, i: usize) -> (Vec<u8>, Value<'a>) {
        (self.0.key(i), self.0.row(i).1)
    }
    /// True if it has tombstones, as only leaves of fractal trees do.
    pub fn has_tombstones(&self) -> bool {
        (0..self.len()).any(|i| self.0.row(i).1 == Value::Tombstone)
    }
    /// True if these may be boundaries of ranges instead of rows.
    pub fn may_be_ranges(&self) -> bool {
        self.len() > 0 && (0..self.len()).all(|i| matches!(self.0.row(i).1, Value::Inline([0 | 1])))
    }
    /// True if the first of its boundaries is the end of a range.
    pub fn begins_with_end(&self) -> bool {
        self.len() > 0 && self.0.row(0).1 == Value::Inline(&[0])
    }
    /// The boundaries in it, added to those of the leaves before it.
    pub fn add_ranges(&self, set: &mut RangeSet) {
        for i in 0..self.len() {
            let (key, value) = self.row(i);
            set.push_boundary(&key, value == Value::Inline(&[1]));
        }
    }
}

/// True if a page of this level is a branch of a B-tree.
pub fn is_branch(level: u8) -> bool {
    (1..=LEVELS_MAX).contains(&level)
}

/// A child, and the pivot below it, which the first one does not have.
pub type ChildPage = (Option<Vec<u8>>, PageId);

/// The children of a branch of a B-tree.
///
/// # Errors
/// Why it is none.
pub fn branch(level: u8, words: &[ChildWord], body: &[u8]) -> Result<Vec<ChildPage>, String> {
    if !is_branch(level) {
        return Err(format!("a branch of level {level}"));
    }
    check_branch(words.len(), body)?;
    let pivots = Pivots::new(body);
    let child = |(i, word): (usize, &ChildWord)| {
        let pivot = i.checked_sub(1).map(|before| pivots.key(before));
        (pivot, word.page())
    };
    Ok(words.iter().enumerate().map(child).collect())
}

/// A bucket of a hash table.
#[derive(Clone, Copy, Debug)]
pub struct BucketPage<'a> {
    bucket: Bucket<'a>,
}

impl<'a> BucketPage<'a> {
    /// # Errors
    /// Why it is none of a table with this hash.
    pub fn new(hash: &Hash, level: u8, words: usize, body: &'a [u8]) -> Result<Self, String> {
        if level != 0 {
            return Err(format!("a bucket of level {level}"));
        }
        check_bucket(hash.hasher(), words, body)?;
        Ok(Self { bucket: Bucket::new(body) })
    }
    /// The first and the last [`rank`](crate::kind::Kind::rank) of its keys; `None` if it shares them with other buckets.
    pub fn ranks(&self) -> Option<(u64, u64)> {
        let place = self.bucket.place();
        let rest = u64::MAX.checked_shr(place.bits).unwrap_or(0);
        place.is_ranked().then_some((place.prefix, place.prefix | rest))
    }
    /// True if it belongs to the table's front: its rows and tombstones are newer than those of other buckets.
    pub fn is_front(&self) -> bool {
        self.bucket.is_front()
    }
    /// Rows.
    #[expect(clippy::len_without_is_empty, reason = "a page, no collection")]
    pub fn len(&self) -> usize {
        self.bucket.len()
    }
    /// The i-th.
    pub fn row(&self, i: usize) -> (&'a [u8], Value<'a>) {
        self.bucket.row(i)
    }
}

/// A branch of a hash table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryPage {
    /// Its children, each once.
    pub children: Vec<PageId>,
    /// The root of the table's front, if this is the table's root and it has one.
    pub front: Option<PageId>,
}

/// What a branch of a hash table says.
///
/// # Errors
/// Why it is none.
pub fn directory(level: u8, words: &[ChildWord], body: &[u8]) -> Result<DirectoryPage, String> {
    check_directory(level, words.len(), body)?;
    let front = front_of(words).map(ChildWord::page);
    let named = words.len() - usize::from(front.is_some());
    let mut children: Vec<PageId> = words[..named].iter().map(ChildWord::page).collect();
    children.dedup();
    Ok(DirectoryPage { children, front })
}

/// True if a page is one of a filter.
pub fn is_filter(level: u8, words: usize, body: &[u8]) -> bool {
    (FILTER_BLOCK_LEVEL..=FILTER_LEVEL_MAX).contains(&level)
        && check_filter_page(level, words, body).is_ok()
}

/// A run of a trunk node, or its memtable. Page 0: it has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeSource {
    /// Root of its rows.
    pub tree: PageId,
    /// Word of the root of its filter.
    pub filter: u64,
    /// Root of its ranges.
    pub ranges: PageId,
}

/// A trunk node of a fractal tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePage {
    /// The root of a table has it.
    pub has_memtable: bool,
    /// The memtable, if it has one, and the runs: newest first.
    pub sources: Vec<NodeSource>,
    /// Its children.
    pub children: Vec<ChildPage>,
}

/// True if a page of this level is a trunk node.
pub fn is_node(level: u8) -> bool {
    (NODE_LEVEL..=NODE_LEVEL_MAX).contains(&level)
}

/// What a trunk node says.
///
/// # Errors
/// Why it is none.
pub fn node(level: u8, words: &[ChildWord], body: &[u8]) -> Result<NodePage, String> {
    if !is_node(level) {
        return Err(format!("a trunk node of level {level}"));
    }
    check_node(level, words.len(), body)?;
    let parts = NodeParts::of(words, body);
    let page = ChildWord::page_of;
    let memtable = parts.memtable.map(|(tree, ranges)| NodeSource {
        tree: page(tree),
        filter: 0,
        ranges: page(ranges),
    });
    let runs = parts.runs.iter().map(|run| NodeSource {
        tree: page(run.run.tree),
        filter: run.run.filter,
        ranges: page(run.run.ranges),
    });
    let children = parts.children.iter().enumerate();
    Ok(NodePage {
        has_memtable: memtable.is_some(),
        sources: memtable.into_iter().chain(runs).collect(),
        children: children
            .map(|(i, child)| ((i > 0).then(|| child.pivot.clone()), page(child.word)))
            .collect(),
    })
}
