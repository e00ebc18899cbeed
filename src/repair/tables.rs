//! Taking a table apart: which page holds the newest rows of which keys, and which keys no page holds.
//!
//! A leaf of a B-tree says which keys it holds, between its fences, and the commit that changed it last: of two leaves that hold a
//! key the one changed later counts. So branches are not needed, and pages that were given up do no harm as long as what
//! took their place is there. A bucket of a hash says the same of hashes. In a fractal tree a key may lie in many
//! runs, and only the trunk says which is the newer: it is walked from the root, oldest run first.

mod fractal;
mod front;
mod hash;

use super::source::{Images, Page};
use super::target::Target;
use crate::catalog::Index;
use crate::page_set::PageSet;
use crate::range::KeySpan;
use crate::store::FreedTree;
use crate::value::Handle;
use esker_base::{CommitNo, DatabaseId, PageId, Result, TableId};
use esker_index::kind::Value;
use esker_index::pages::{ChildWord, PageRead};
use esker_index::run::RangeSet;
use esker_index::salvage::{self, BucketPage, LeafPage};
use std::collections::BTreeMap;

pub(super) use fractal::fractal;
pub(super) use hash::hash;

/// A page of a table, without its content.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    pub(super) page: PageId,
    pub(super) level: u8,
    changed_at: CommitNo,
    number: u64,
}

/// What became of a table.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    /// Keys that may have had rows which are gone.
    pub(super) lost: Vec<KeySpan>,
    /// Keys whose rows may be older than the newest.
    pub(super) stale: Vec<KeySpan>,
    /// Of a table without order: the share of its keys that is lost.
    pub(super) lost_share: f64,
}

/// All pages of indexes, by table, but for those that were given up.
pub(super) fn sweep(
    images: &Images<'_>,
    given_up: &PageSet,
) -> Result<BTreeMap<TableId, Vec<Seen>>> {
    let mut found: BTreeMap<TableId, Vec<Seen>> = BTreeMap::new();
    for id in images.ids()? {
        if given_up.contains(id) {
            continue;
        }
        if let Some(page) = images.page(id)?.filter(Page::is_index) {
            let head = page.head();
            found.entry(head.table).or_default().push(Seen {
                page: id,
                level: head.level,
                changed_at: head.changed_at,
                number: head.number,
            });
        }
    }
    Ok(found)
}

/// The pages of trees that were given up and not freed yet.
pub(super) fn given_up(images: &Images<'_>, trees: &[FreedTree]) -> Result<PageSet> {
    let mut found = PageSet::default();
    let mut todo: Vec<PageId> = trees.iter().map(|tree| tree.page).collect();
    while let Some(id) = todo.pop() {
        if id == PageId::NONE || !found.insert(id) {
            continue;
        }
        if let Some(page) = images.page(id)?.filter(Page::is_index) {
            todo.extend(page.words().iter().map(ChildWord::page));
        }
    }
    Ok(found)
}

/// The kind of a table of which only pages are left. `None`: none that is known here.
pub(super) fn guess_kind(
    images: &Images<'_>,
    database: DatabaseId,
    table: TableId,
    pages: &[Seen],
) -> Result<Option<Index>> {
    let hash = hash::hash_of(database, table, images.page_bytes);
    let mut kind = None;
    for seen in pages {
        let Some(page) = images.page(seen.page)? else { continue };
        let (level, words, body) = (page.level(), page.words(), page.body());
        if BucketPage::new(&hash, level, words.len(), body).is_ok() {
            return Ok(Some(Index::Hash));
        }
        if salvage::node(level, words, body).is_ok() || salvage::is_filter(level, words.len(), body)
        {
            return Ok(Some(Index::Fractal));
        }
        if let Ok(leaf) = LeafPage::new(level, words.len(), body) {
            if leaf.has_tombstones() {
                return Ok(Some(Index::Fractal));
            }
            kind = Some(Index::BTree);
        }
    }
    Ok(kind)
}

/// Something that holds all keys of a span, as of a commit.
#[derive(Debug)]
struct Holder {
    page: PageId,
    low: Vec<u8>,
    high: Option<Vec<u8>>,
    changed_at: CommitNo,
    number: u64,
}

/// Which page answers for which keys, in order, and the keys for which none does.
fn assign(mut holders: Vec<Holder>) -> (Vec<(KeySpan, PageId)>, Vec<KeySpan>) {
    holders.sort_by_key(|holder| std::cmp::Reverse((holder.changed_at, holder.number)));
    let mut covered = RangeSet::default();
    let mut parts = Vec::new();
    for holder in &holders {
        let (low, high) = (&holder.low[..], holder.high.as_deref());
        let free = free_of(&covered, low, high);
        parts.extend(free.into_iter().map(|span| (span, holder.page)));
        covered.insert(low, high);
    }
    parts.sort();
    (parts, free_of(&covered, b"", None))
}

/// What of a span is not in a set.
fn free_of(set: &RangeSet, low: &[u8], high: Option<&[u8]>) -> Vec<KeySpan> {
    let mut free = Vec::new();
    let mut at = Some(low.to_vec());
    for (from, to) in set.clipped(low, high).ranges() {
        let begin = at.take().expect("ranges ascend, and only the last has no end");
        if begin < *from {
            free.push(KeySpan { low: begin, high: Some(from.clone()) });
        }
        at.clone_from(to);
        if at.is_none() {
            return free;
        }
    }
    if let Some(begin) = at
        && high.is_none_or(|high| &begin[..] < high)
    {
        free.push(KeySpan { low: begin, high: high.map(<[u8]>::to_vec) });
    }
    free
}

/// Takes a B-tree apart. `is_sure`: it is one; else it may be a fractal tree that has lost all pages that would say so.
pub(super) fn btree(
    images: &Images<'_>,
    table: TableId,
    is_sure: bool,
    pages: &[Seen],
    target: &mut Target,
) -> Result<Outcome> {
    let mut holders = Vec::new();
    for seen in pages.iter().filter(|seen| seen.level == 0) {
        let Some(page) = images.page(seen.page)? else { continue };
        let Ok(leaf) = LeafPage::new(0, page.words().len(), page.body()) else { continue };
        if !is_sure && leaf.may_be_ranges() {
            continue;
        }
        holders.push(Holder {
            page: seen.page,
            low: leaf.low().to_vec(),
            high: leaf.high().map(<[u8]>::to_vec),
            changed_at: seen.changed_at,
            number: seen.number,
        });
    }
    let (parts, lost) = assign(holders);
    let mut outcome = Outcome { lost, ..Outcome::default() };
    for (span, page) in parts {
        let Some(page) = images.page(page)? else { continue };
        let Ok(leaf) = LeafPage::new(0, page.words().len(), page.body()) else { continue };
        put_leaf(images, table, leaf, &span, target, &mut outcome)?;
    }
    Ok(outcome)
}

/// Writes the rows of a leaf that lie in a span; a tombstone deletes.
fn put_leaf(
    images: &Images<'_>,
    table: TableId,
    leaf: LeafPage<'_>,
    span: &KeySpan,
    target: &mut Target,
    outcome: &mut Outcome,
) -> Result<()> {
    for i in 0..leaf.len() {
        let (key, value) = leaf.row(i);
        if !span.contains(&key) {
            continue;
        }
        if value == Value::Tombstone {
            target.delete(table, &key)?;
        } else {
            put(images, table, &key, value, target, outcome)?;
        }
    }
    Ok(())
}

fn put(
    images: &Images<'_>,
    table: TableId,
    key: &[u8],
    value: Value<'_>,
    target: &mut Target,
    outcome: &mut Outcome,
) -> Result<()> {
    let large = match value {
        Value::Inline(value) => return target.put(table, key, value),
        Value::Overflow(handle) => images.large_value(Handle::decode(&handle))?,
        Value::Tombstone => None,
    };
    if let Some(large) = large {
        return target.put(table, key, &large);
    }
    outcome.lost.push(KeySpan::one(key));
    // What older runs have for it no longer holds.
    target.delete(table, key)
}

/// Joins spans that meet.
pub(super) fn join(spans: &mut Vec<KeySpan>) {
    let mut set = RangeSet::default();
    for span in spans.iter() {
        set.insert(&span.low, span.high.as_deref());
    }
    *spans = set.ranges().iter().map(|(low, high)| KeySpan::new(low, high.as_deref())).collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(page: u64, low: &str, high: Option<&str>, changed_at: u64) -> Holder {
        Holder {
            page: PageId(page),
            low: low.into(),
            high: high.map(Into::into),
            changed_at: CommitNo(changed_at),
            number: page,
        }
    }

    fn span(low: &str, high: Option<&str>) -> KeySpan {
        KeySpan::new(low.as_bytes(), high.map(str::as_bytes))
    }

    #[test]
    fn of_two_leaves_of_a_key_the_one_changed_later_counts() {
        let (parts, lost) = assign(vec![
            // Split at m later; its right half is gone.
            holder(1, "", None, 5),
            holder(2, "", Some("m"), 9),
            // Joined with its neighbour earlier.
            holder(3, "q", Some("t"), 3),
        ]);
        assert_eq!(
            parts,
            [(span("", Some("m")), PageId(2)), (span("m", None), PageId(1))],
            "what is left of the older one"
        );
        assert_eq!(lost, []);
        let (parts, lost) = assign(vec![holder(2, "", Some("m"), 9), holder(3, "q", Some("t"), 3)]);
        assert_eq!(parts.len(), 2);
        assert_eq!(lost, [span("m", Some("q")), span("t", None)]);
        assert_eq!(assign(Vec::new()).1, [KeySpan::ALL]);
    }

    #[test]
    fn spans_that_meet_are_joined() {
        let mut spans = vec![span("c", Some("d")), span("a", Some("b")), span("b", Some("c"))];
        join(&mut spans);
        assert_eq!(spans, [span("a", Some("d"))]);
    }
}
