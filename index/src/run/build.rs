//! Rows in order become a run: leaves first, branches as leaves complete, the filter at the end.
//!
//! ```text
//!   rows → records, with whole keys → leaf     when the next row does not fit
//!                                      ↓ carry: word, and the pivot to its left
//!                      spine[0]: children of the next branch of level 1
//!                      spine[1]: children of the next branch of level 2 ...
//! ```
//!
//! How long a leaf's prefix is depends on its upper fence, and so on the row after it. Rows are therefore taken as long as
//! they might fit; when the next one shows that they do not, the leaf is cut before the last row that does. One row
//! always does (B3).
//!
//! Every step first gets its page and then changes something, so that a call that stopped with `Reserve` is made again as
//! it was.

use super::RunRef;
use super::filter::{FilterBuilder, key_hash};
use crate::btree::branch::List;
use crate::btree::leaf::{self, ENTRY_BYTES, HEADER_BYTES, RECORD_HEADER_BYTES, push_record};
use crate::btree::{common_bytes, pivot_between};
use crate::kind::Value;
use crate::pages::{BuildPages, PageNew, Step};

/// What a run is built like.
#[derive(Clone, Copy, Debug)]
pub struct RunConfig {
    /// Bytes of content in a page.
    pub content_bytes: usize,
    /// Bits of filter a key; 0 for no filter.
    pub filter_bits: u8,
}

/// Children of a branch to come.
#[derive(Debug, Default)]
struct Spine {
    /// The pivot to the left of the first child.
    low: Vec<u8>,
    list: List,
}

/// A page that is finished, on its way to the branch above it.
#[derive(Debug)]
struct Carry {
    level: u8,
    low: Vec<u8>,
    word: u64,
}

#[derive(Debug)]
enum Stage {
    Rows,
    /// Spines below this one are branches already.
    Branches(usize),
    Filter(FilterBuilder),
    Done,
}

/// Builds one run.
#[derive(Debug)]
pub struct RunBuilder {
    config: RunConfig,
    /// Rows of the next leaf.
    records: Vec<u8>,
    starts: Vec<u32>,
    /// Lower fence of the next leaf.
    fence: Vec<u8>,
    spine: Vec<Spine>,
    carry: Option<Carry>,
    hashes: Vec<u64>,
    stage: Stage,
    run: RunRef,
    pages_built: usize,
    first_key: Vec<u8>,
    /// The last key in a leaf.
    last_key: Vec<u8>,
}

impl RunBuilder {
    /// A run without rows.
    pub fn new(config: RunConfig) -> Self {
        Self {
            config,
            records: Vec::new(),
            starts: Vec::new(),
            fence: Vec::new(),
            spine: Vec::new(),
            carry: None,
            hashes: Vec::new(),
            stage: Stage::Rows,
            run: RunRef {
                tree: 0,
                level: 0,
                filter: 0,
                ranges: 0,
                rows: 0,
                tombstones: 0,
                pages: 0,
                has_large: false,
            },
            pages_built: 0,
            first_key: Vec::new(),
            last_key: Vec::new(),
        }
    }

    /// Adds a row; keys ascend strictly.
    ///
    /// # Errors
    /// As [`BuildPages::build`]: the row was not taken, and is to be added again.
    #[inline]
    pub fn add<P: BuildPages>(&mut self, pages: &P, key: &[u8], value: Value<'_>) -> Step<()> {
        debug_assert!(self.run.rows == 0 || self.high() < key, "R2: keys ascend");
        debug_assert!(matches!(self.stage, Stage::Rows), "not finished");
        while self.carry.is_some() || !self.may_fit(pages.leaf_bytes(), key, &value) {
            self.make_room(pages, key)?;
        }
        if self.run.rows == 0 {
            key.clone_into(&mut self.first_key);
        }
        let start = u32::try_from(self.records.len()).expect("rows of one page");
        self.starts.push(start);
        push_record(&mut self.records, key, &value);
        if self.config.filter_bits > 0 {
            self.hashes.push(key_hash(key));
        }
        self.run.rows += 1;
        self.run.tombstones += u64::from(value == Value::Tombstone);
        self.run.has_large |= matches!(value, Value::Overflow(_));
        Ok(())
    }

    /// True if the row may go into the leaf of those before it: it does unless a long pivot or a short prefix follows.
    /// A leaf is to have `leaf_bytes` of content.
    #[inline]
    fn may_fit(&self, leaf_bytes: usize, key: &[u8], value: &Value<'_>) -> bool {
        // The upper fence has a byte at least.
        const FENCE_BYTES_MIN: usize = 1;
        let count = self.starts.len() + 1;
        let row = RECORD_HEADER_BYTES + key.len() + value.stored_bytes();
        let bytes =
            HEADER_BYTES + self.fence.len() + self.records.len() + row + count * ENTRY_BYTES;
        // Any row fits a page of its own; what is to fill less than that gets the first row in any case.
        let most = if count == 1 { self.config.content_bytes } else { leaf_bytes };
        let room = most.min(self.config.content_bytes) - FENCE_BYTES_MIN;
        bytes <= room || bytes - count * common_bytes(&self.fence, key) <= room
    }

    #[cold]
    fn make_room<P: BuildPages>(&mut self, pages: &P, key: &[u8]) -> Step<()> {
        self.settle(pages)?;
        self.cut_leaf(pages, Some(key))
    }

    /// Key `i` of the rows of the next leaf.
    fn key(&self, i: usize) -> &[u8] {
        leaf::record_key(&self.records[self.starts[i] as usize..])
    }
    fn end(&self, count: usize) -> usize {
        self.starts.get(count).map_or(self.records.len(), |start| *start as usize)
    }

    /// How many rows go into a leaf, all of them if possible, and its upper fence. `next` is the key after them.
    fn choose_cut<'k>(&'k self, next: Option<&'k [u8]>) -> (usize, Option<&'k [u8]>) {
        let mut count = self.starts.len();
        let mut next = next;
        loop {
            let high = next.map(|next| pivot_between(self.key(count - 1), next));
            let fence_bytes = self.fence.len() + high.map_or(0, <[u8]>::len);
            let prefix = high.map_or(0, |high| common_bytes(&self.fence, high));
            let rows_bytes = self.end(count) + count * ENTRY_BYTES - count * prefix;
            if HEADER_BYTES + fence_bytes + rows_bytes <= self.config.content_bytes {
                return (count, high);
            }
            count -= 1;
            assert!(count > 0, "B3: one row fits");
            next = Some(self.key(count));
        }
    }

    /// Makes a leaf of the rows, or of as many as fit.
    fn cut_leaf<P: BuildPages>(&mut self, pages: &P, next: Option<&[u8]>) -> Step<()> {
        if self.starts.is_empty() {
            return Ok(());
        }
        debug_assert!(self.carry.is_none(), "settled before");
        let mut page = pages.build(0, 0)?;
        let (count, high) = self.choose_cut(next);
        let (starts, end) = (&self.starts[..count], self.end(count));
        leaf::build_of_records(page.body_mut(), &self.fence, high, &self.records[..end], starts);
        let next_fence = high.unwrap_or_default().to_vec();
        let last_key = self.key(count - 1).to_vec();
        let word = pages.keep(page);
        self.pages_built += 1;
        self.run.pages += 1;
        self.last_key = last_key;
        let low = std::mem::replace(&mut self.fence, next_fence);
        self.carry = Some(Carry { level: 0, low, word });
        self.records.drain(..end);
        self.starts.drain(..count);
        let moved = u32::try_from(end).expect("rows of one page");
        for start in &mut self.starts {
            *start -= moved;
        }
        Ok(())
    }

    /// Brings the finished page to its place in the spine.
    fn settle<P: BuildPages>(&mut self, pages: &P) -> Step<()> {
        while let Some(carry) = &mut self.carry {
            let level = usize::from(carry.level);
            if self.spine.len() == level {
                self.spine.push(Spine::default());
            }
            let spine = &mut self.spine[level];
            let children = spine.list.children();
            if children == 0 {
                spine.low = std::mem::take(&mut carry.low);
            } else if spine.list.bytes_with(&carry.low) <= self.config.content_bytes {
                spine.list.push_pivot(&[&carry.low]);
            } else {
                let mut page = pages.build(carry.level + 1, children)?;
                spine.list.build(0..children, page.parts_mut());
                let word = pages.keep(page);
                self.pages_built += 1;
                spine.list.clear();
                spine.list.push_word(carry.word);
                let low = std::mem::replace(&mut spine.low, std::mem::take(&mut carry.low));
                *carry = Carry { level: carry.level + 1, low, word };
                continue;
            }
            spine.list.push_word(carry.word);
            self.carry = None;
        }
        Ok(())
    }

    /// Builds what is missing. `None` if no row was added.
    ///
    /// # Errors
    /// As [`BuildPages::build`]; it is then called again.
    pub fn finish<P: BuildPages>(&mut self, pages: &P) -> Step<Option<RunRef>> {
        if self.run.rows == 0 {
            return Ok(None);
        }
        loop {
            self.settle(pages)?;
            match &mut self.stage {
                Stage::Rows if self.starts.is_empty() => self.stage = Stage::Branches(0),
                Stage::Rows => self.cut_leaf(pages, None)?,
                Stage::Branches(done) => {
                    let done = *done;
                    let level = u8::try_from(done).expect("few levels");
                    let is_top = done + 1 == self.spine.len();
                    let spine = &mut self.spine[done];
                    if is_top && let [root] = *spine.list.words() {
                        (self.run.tree, self.run.level) = (root, level);
                        let hashes = std::mem::take(&mut self.hashes);
                        self.stage = match self.config.filter_bits {
                            0 => Stage::Done,
                            bits => Stage::Filter(FilterBuilder::new(&hashes, bits)),
                        };
                        continue;
                    }
                    let children = spine.list.children();
                    let mut page = pages.build(level + 1, children)?;
                    spine.list.build(0..children, page.parts_mut());
                    let word = pages.keep(page);
                    self.pages_built += 1;
                    spine.list.clear();
                    let low = std::mem::take(&mut spine.low);
                    self.carry = Some(Carry { level: level + 1, low, word });
                    self.stage = Stage::Branches(done + 1);
                }
                Stage::Filter(filter) => {
                    self.run.filter = filter.finish(pages)?;
                    self.pages_built += filter.pages_built();
                    self.stage = Stage::Done;
                }
                Stage::Done => return Ok(Some(self.run)),
            }
        }
    }

    /// Pages built so far, of all levels.
    pub fn pages_built(&self) -> usize {
        let filter = if let Stage::Filter(filter) = &self.stage { filter.pages_built() } else { 0 };
        self.pages_built + filter
    }
    /// Leaves so far, that of the rows in hand included.
    pub fn len_pages(&self) -> usize {
        self.run.pages as usize + usize::from(!self.starts.is_empty())
    }
    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.run.rows
    }
    /// True if no row was added.
    pub fn is_empty(&self) -> bool {
        self.run.rows == 0
    }
    /// The first key; empty without rows.
    pub fn low(&self) -> &[u8] {
        &self.first_key
    }
    /// The last key; empty without rows.
    pub fn high(&self) -> &[u8] {
        if self.starts.is_empty() { &self.last_key } else { self.key(self.starts.len() - 1) }
    }
}
