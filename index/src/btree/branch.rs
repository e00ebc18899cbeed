//! Branch pages: the word area holds the children, the body the pivots between them.
//!
//! ```text
//!  0       2        4      8
//! | count | prefix | zero | heads: count × u32 | ends: count × u16 | prefix | pivots, one after the other |
//! ```
//!
//! `count` is one less than the number of children. The prefix is what all pivots have in common and
//! is kept once. `ends[i]` is where pivot i ends, counted from the first one. Heads are as in leaves.
//! A branch is written once and never changed.

use super::{common_bytes, set_u16, u16_at};
use crate::pages::ChildWord;
use esker_base::PageId;
use esker_base::codec::head32;
use std::cmp::Ordering;
use std::ops::Range;

const COUNT_AT: usize = 0;
const PREFIX_AT: usize = 2;
const ZERO_AT: usize = 4;
const HEADER_BYTES: usize = 8;
const HEAD_BYTES: usize = 4;
const ENTRY_BYTES: usize = HEAD_BYTES + 2;
const WORD_BYTES: usize = 8;
/// What a child takes beside its pivot.
pub(crate) const ENTRY_BYTES_MAX: usize = ENTRY_BYTES + WORD_BYTES;

/// Where to go from a branch, or from the root.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Route<'k> {
    /// To the leaf that holds this key, or would.
    To(&'k [u8]),
    /// To the leaf of the largest key below this one.
    Below(&'k [u8]),
    /// To the first leaf.
    First,
    /// To the last leaf.
    Last,
}

/// A branch's pivots, to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pivots<'a> {
    body: &'a [u8],
    count: usize,
    prefix: &'a [u8],
    keys_at: usize,
}

impl<'a> Pivots<'a> {
    /// A body that [`check_branch`] has accepted, or that this module has made.
    #[inline]
    pub(crate) fn new(body: &'a [u8]) -> Self {
        let (count, prefix_bytes) = (u16_at(body, COUNT_AT), u16_at(body, PREFIX_AT));
        let prefix_at = HEADER_BYTES + count * ENTRY_BYTES;
        let prefix = &body[prefix_at..prefix_at + prefix_bytes];
        Self { body, count, prefix, keys_at: prefix_at + prefix_bytes }
    }
    pub(crate) fn len(&self) -> usize {
        self.count
    }
    #[inline]
    fn heads(&self) -> &'a [[u8; HEAD_BYTES]] {
        self.body[HEADER_BYTES..HEADER_BYTES + self.count * HEAD_BYTES].as_chunks().0
    }
    /// Where pivot `i` ends; 0 for the one before the first.
    fn end(&self, i: Option<usize>) -> usize {
        let ends = HEADER_BYTES + self.count * HEAD_BYTES;
        i.map_or(0, |i| u16_at(self.body, ends + i * 2))
    }
    fn suffix(&self, i: usize) -> &'a [u8] {
        let (start, end) = (self.end(i.checked_sub(1)), self.end(Some(i)));
        &self.body[self.keys_at + start..self.keys_at + end]
    }
    /// Pivot `i`, whole.
    pub(crate) fn key(&self, i: usize) -> Vec<u8> {
        [self.prefix, self.suffix(i)].concat()
    }
    fn total_bytes(&self) -> usize {
        self.keys_at + self.end(self.count.checked_sub(1))
    }

    /// The child that a route leads to.
    #[inline]
    pub(crate) fn child(&self, route: Route<'_>) -> usize {
        let (key, above) = match route {
            Route::To(key) => (key, false),
            Route::Below(key) => (key, true),
            Route::First => return 0,
            Route::Last => return self.count,
        };
        if !self.prefix.is_empty() {
            match key.get(..self.prefix.len()).unwrap_or(key).cmp(self.prefix) {
                Ordering::Less => return 0,
                Ordering::Greater => return self.count,
                Ordering::Equal => {}
            }
        }
        let suffix = &key[self.prefix.len()..];
        let head = head32(suffix);
        let heads = self.heads();
        let mut from = heads.partition_point(|other| u32::from_le_bytes(*other) < head);
        let mut to = from;
        while to < heads.len() && u32::from_le_bytes(heads[to]) == head {
            to += 1;
        }
        // Pivots at or below the key (or only those below it) are to the left.
        while from < to {
            let middle = usize::midpoint(from, to);
            let pivot = self.suffix(middle);
            if pivot < suffix || (!above && pivot == suffix) {
                from = middle + 1;
            } else {
                to = middle;
            }
        }
        from
    }
}

/// Children and pivots of a branch in the making.
#[derive(Clone, Debug, Default)]
pub(crate) struct List {
    words: Vec<u64>,
    keys: Vec<u8>,
    ends: Vec<usize>,
}

impl List {
    /// All of a branch's.
    pub(crate) fn of(words: &[ChildWord], body: &[u8]) -> Self {
        let mut list = Self::default();
        list.extend(words, body, 0..words.len());
        list
    }
    /// Appends some of a branch's children with the pivots between them. What is there already must end
    /// with a pivot, or be empty.
    pub(crate) fn extend(&mut self, words: &[ChildWord], body: &[u8], children: Range<usize>) {
        let pivots = Pivots::new(body);
        for i in children.clone() {
            if i > children.start {
                self.push_pivot(&[pivots.prefix, pivots.suffix(i - 1)]);
            }
            self.words.push(words[i].load());
        }
    }
    pub(crate) fn push_pivot(&mut self, parts: &[&[u8]]) {
        for part in parts {
            self.keys.extend_from_slice(part);
        }
        self.ends.push(self.keys.len());
    }
    pub(crate) fn push_child(&mut self, page: PageId) {
        self.words.push(ChildWord::pack(page, ChildWord::NO_HINT));
    }
    pub(crate) fn push_word(&mut self, word: u64) {
        self.words.push(word);
    }
    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }
    pub(crate) fn clear(&mut self) {
        self.words.clear();
        self.keys.clear();
        self.ends.clear();
    }
    /// Bytes of content of a branch of all children and one more, above `pivot`, which is above all pivots.
    pub(crate) fn bytes_with(&self, pivot: &[u8]) -> usize {
        let count = self.ends.len() + 1;
        let first = if self.ends.is_empty() { pivot } else { self.pivot(0) };
        let prefix = common_bytes(first, pivot);
        let keys = prefix + self.keys.len() + pivot.len() - count * prefix;
        (count + 1) * WORD_BYTES + HEADER_BYTES + count * ENTRY_BYTES + keys
    }
    pub(crate) fn children(&self) -> usize {
        self.words.len()
    }
    pub(crate) fn pivot(&self, i: usize) -> &[u8] {
        &self.keys[self.start(i)..self.ends[i]]
    }
    /// Inserts a pivot and the child above it, after child `slot`.
    pub(crate) fn insert(&mut self, slot: usize, pivot: &[u8], child: PageId) {
        let start = self.start(slot);
        self.keys.splice(start..start, pivot.iter().copied());
        for end in &mut self.ends[slot..] {
            *end += pivot.len();
        }
        self.ends.insert(slot, start + pivot.len());
        self.words.insert(slot + 1, ChildWord::pack(child, ChildWord::NO_HINT));
    }
    /// How many children go to the left when this is too much for one page: half of the bytes, or all
    /// but the last after an insert at the end, which others will follow. Both sides fit: a pivot that does
    /// not share the prefix of all others stands at an end, and the one at the cut moves up.
    pub(crate) fn split_point(&self, at_end: bool, content_bytes: usize) -> usize {
        let n = self.words.len();
        let larger = |cut: usize| self.bytes(&(0..cut)).max(self.bytes(&(cut..n)));
        // What goes on at the end leaves the left one full.
        if at_end && let Some(cut) = (n / 2 + 1..n).rev().find(|cut| larger(*cut) <= content_bytes)
        {
            return cut;
        }
        let cut = (1..n).min_by_key(|&cut| larger(cut)).expect("two children or more");
        assert!(larger(cut) <= content_bytes, "a branch can be cut in two");
        cut
    }
    /// Bytes of content that a branch of some of the children takes.
    pub(crate) fn bytes(&self, children: &Range<usize>) -> usize {
        let count = children.len() - 1;
        let words = children.len() * WORD_BYTES;
        if count == 0 {
            return words + HEADER_BYTES;
        }
        let keys = self.ends[children.end - 2] - self.start(children.start);
        let prefix = self.prefix_bytes(children);
        words + HEADER_BYTES + count * ENTRY_BYTES + prefix + keys - count * prefix
    }
    /// Where pivot `i` begins.
    fn start(&self, i: usize) -> usize {
        i.checked_sub(1).map_or(0, |before| self.ends[before])
    }
    fn prefix_bytes(&self, children: &Range<usize>) -> usize {
        // Pivots ascend: what the first and the last share, all share.
        common_bytes(self.pivot(children.start), self.pivot(children.end - 2))
    }
    /// Fills a branch with some of the children.
    pub(crate) fn build(&self, children: Range<usize>, (words, body): (&mut [u64], &mut [u8])) {
        words.copy_from_slice(&self.words[children.clone()]);
        let count = children.len() - 1;
        let prefix = if count == 0 { 0 } else { self.prefix_bytes(&children) };
        set_u16(body, COUNT_AT, count);
        set_u16(body, PREFIX_AT, prefix);
        body[ZERO_AT..HEADER_BYTES].fill(0);
        let ends = HEADER_BYTES + count * HEAD_BYTES;
        let keys_at = HEADER_BYTES + count * ENTRY_BYTES + prefix;
        if count > 0 {
            body[keys_at - prefix..keys_at].copy_from_slice(&self.pivot(children.start)[..prefix]);
        }
        let mut end = 0;
        for i in 0..count {
            let suffix = &self.pivot(children.start + i)[prefix..];
            let at = keys_at + end;
            body[at..at + suffix.len()].copy_from_slice(suffix);
            end += suffix.len();
            let head = HEADER_BYTES + i * HEAD_BYTES;
            body[head..head + HEAD_BYTES].copy_from_slice(&head32(suffix).to_le_bytes());
            set_u16(body, ends + i * 2, end);
        }
    }
}

/// True if a branch with one more pivot, of the same prefix, fits a page, so that [`insert`] can make
/// it.
pub(crate) fn can_insert(words: usize, body: &[u8], pivot: &[u8], content_bytes: usize) -> bool {
    let pivots = Pivots::new(body);
    let extra = ENTRY_BYTES + (pivot.len().saturating_sub(pivots.prefix.len()));
    pivot.starts_with(pivots.prefix)
        && pivots.count > 0
        && (words + 1) * WORD_BYTES + pivots.total_bytes() + extra <= content_bytes
}

/// Copies a branch with one more pivot and child, after child `slot`.
pub(crate) fn insert(
    words: &[ChildWord],
    body: &[u8],
    slot: usize,
    pivot: &[u8],
    child: PageId,
    (new_words, new_body): (&mut [u64], &mut [u8]),
) {
    let old = Pivots::new(body);
    for (new, word) in new_words[..=slot].iter_mut().zip(words) {
        *new = word.load();
    }
    new_words[slot + 1] = ChildWord::pack(child, ChildWord::NO_HINT);
    for (new, word) in new_words[slot + 2..].iter_mut().zip(&words[slot + 1..]) {
        *new = word.load();
    }
    let (count, prefix) = (old.count, old.prefix.len());
    let suffix = &pivot[prefix..];
    set_u16(new_body, COUNT_AT, count + 1);
    set_u16(new_body, PREFIX_AT, prefix);
    new_body[ZERO_AT..HEADER_BYTES].fill(0);
    let (old_heads, new_heads) = (HEADER_BYTES, HEADER_BYTES);
    let at = slot * HEAD_BYTES;
    let end = count * HEAD_BYTES;
    new_body[new_heads..new_heads + at].copy_from_slice(&body[old_heads..old_heads + at]);
    new_body[new_heads + at..new_heads + at + HEAD_BYTES]
        .copy_from_slice(&head32(suffix).to_le_bytes());
    new_body[new_heads + at + HEAD_BYTES..new_heads + end + HEAD_BYTES]
        .copy_from_slice(&body[old_heads + at..old_heads + end]);
    let new_ends = HEADER_BYTES + (count + 1) * HEAD_BYTES;
    let start = old.end(slot.checked_sub(1));
    for i in 0..slot {
        set_u16(new_body, new_ends + i * 2, old.end(Some(i)));
    }
    set_u16(new_body, new_ends + slot * 2, start + suffix.len());
    for i in slot..count {
        set_u16(new_body, new_ends + (i + 1) * 2, old.end(Some(i)) + suffix.len());
    }
    let prefix_at = HEADER_BYTES + (count + 1) * ENTRY_BYTES;
    let keys_at = prefix_at + prefix;
    new_body[prefix_at..keys_at].copy_from_slice(old.prefix);
    let old_keys = &body[old.keys_at..old.total_bytes()];
    new_body[keys_at..keys_at + start].copy_from_slice(&old_keys[..start]);
    let next = keys_at + start + suffix.len();
    new_body[keys_at + start..next].copy_from_slice(suffix);
    new_body[next..next + old_keys.len() - start].copy_from_slice(&old_keys[start..]);
}

/// The part of a branch that need not be kept on disk: what comes after the pivots.
pub fn hole(body: &[u8]) -> Range<usize> {
    Pivots::new(body).total_bytes()..body.len()
}

/// Checks a branch that came from disk, so that everything else here may rely on it.
///
/// # Errors
/// What is wrong.
pub fn check_branch(words: usize, body: &[u8]) -> Result<(), String> {
    if body.len() < HEADER_BYTES {
        return Err(format!("{words} children leave {} bytes", body.len()));
    }
    let (count, prefix) = (u16_at(body, COUNT_AT), u16_at(body, PREFIX_AT));
    if count + 1 != words {
        return Err(format!("{words} children and {count} pivots"));
    }
    let keys_at = HEADER_BYTES + count * ENTRY_BYTES + prefix;
    if keys_at > body.len() || body[ZERO_AT..HEADER_BYTES] != [0; 4] {
        return Err(format!("{count} pivots with a prefix of {prefix} bytes do not fit"));
    }
    let ends = HEADER_BYTES + count * HEAD_BYTES;
    let keys = &body[keys_at..];
    let mut start = 0;
    let mut before: Option<&[u8]> = None;
    for i in 0..count {
        let end = u16_at(body, ends + i * 2);
        let key = keys.get(start..end).ok_or_else(|| format!("pivot {i} ends at {end}"))?;
        if before.is_some_and(|before| before >= key) {
            return Err(format!("pivot {i} is not above the one before"));
        }
        let head = &body[HEADER_BYTES + i * HEAD_BYTES..][..HEAD_BYTES];
        if head != head32(key).to_le_bytes() {
            return Err(format!("pivot {i} has another head than its key"));
        }
        before = Some(key);
        start = end;
    }
    Ok(())
}
