//! Taking a table apart: which page holds the newest rows of which keys, and which keys no page holds.
//!
//! A leaf of a B-tree says which keys it holds, between its fences, and the commit that changed it last: of two leaves that hold a
//! key the one changed later counts. So branches are not needed, and pages that were given up do no harm as long as what
//! took their place is there. A bucket of a hash says the same of hashes. In a fractal tree a key may lie in many
//! runs, and only the trunk says which is the newer: it is walked from the root, oldest run first.

use super::source::{Images, Page};
use super::target::Target;
use crate::catalog::Index;
use crate::kinds::{AnyKind, KindPlace, Logic};
use crate::options::Options;
use crate::range::KeySpan;
use crate::store::FreedTree;
use crate::value::Handle;
use esker_base::{CommitNo, DatabaseId, PageId, Result, TableId};
use esker_index::hash::Hash;
use esker_index::kind::{Kind, Value};
use esker_index::pages::{ChildWord, PageRead, View};
use esker_index::run::RangeSet;
use esker_index::run::check::admits;
use esker_index::salvage::{self, BucketPage, ChildPage, LeafPage, NodeSource};
use std::collections::{BTreeMap, BTreeSet};

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
    given_up: &BTreeSet<PageId>,
) -> Result<BTreeMap<TableId, Vec<Seen>>> {
    let mut found: BTreeMap<TableId, Vec<Seen>> = BTreeMap::new();
    for id in images.ids()? {
        if given_up.contains(&id) {
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
pub(super) fn given_up(images: &Images<'_>, trees: &[FreedTree]) -> Result<BTreeSet<PageId>> {
    let mut found = BTreeSet::new();
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

/// The hash of a table, as [`AnyKind::of`] makes it.
fn hash_of(database: DatabaseId, table: TableId, page_bytes: usize) -> Hash {
    let place = KindPlace { database, table, page_bytes };
    let options = Options::default();
    let logic = Logic::new(&options, page_bytes);
    match AnyKind::of(Index::Hash, &options, &logic, place) {
        AnyKind::Hash(hash) => hash,
        _ => unreachable!("asked for a hash"),
    }
}

/// The kind of a table of which only pages are left. `None`: none that is known here.
pub(super) fn guess_kind(
    images: &Images<'_>,
    database: DatabaseId,
    table: TableId,
    pages: &[Seen],
) -> Result<Option<Index>> {
    let hash = hash_of(database, table, images.page_bytes);
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

/// Numbers that order as bytes, from the lowest on.
#[expect(clippy::big_endian_bytes, reason = "numbers that order like keys")]
fn rank_key(rank: u64) -> Vec<u8> {
    if rank == 0 { Vec::new() } else { rank.to_be_bytes().to_vec() }
}

fn rank_span((first, last): (u64, u64)) -> (Vec<u8>, Option<Vec<u8>>) {
    (rank_key(first), last.checked_add(1).map(rank_key))
}

/// Takes a hash table apart: as a B-tree, with hashes for keys.
pub(super) fn hash(
    images: &Images<'_>,
    database: DatabaseId,
    table: TableId,
    pages: &[Seen],
    target: &mut Target,
) -> Result<Outcome> {
    let hash = hash_of(database, table, images.page_bytes);
    let mut holders = Vec::new();
    // Where hashes agree in all bits of a round, several buckets share what is one place here.
    let mut deep: Vec<(CommitNo, u64, PageId)> = Vec::new();
    for seen in pages.iter().filter(|seen| seen.level == 0) {
        let Some(page) = images.page(seen.page)? else { continue };
        let Ok(bucket) = BucketPage::new(&hash, 0, page.words().len(), page.body()) else {
            continue;
        };
        let Some(ranks) = bucket.ranks() else {
            deep.push((seen.changed_at, seen.number, seen.page));
            continue;
        };
        let (low, high) = rank_span(ranks);
        let (changed_at, number) = (seen.changed_at, seen.number);
        holders.push(Holder { page: seen.page, low, high, changed_at, number });
    }
    let (parts, mut lost) = assign(holders);
    let mut outcome = Outcome::default();
    let mut rows_of = |page: PageId, wants: &mut dyn FnMut(&[u8]) -> bool| -> Result<()> {
        let Some(page) = images.page(page)? else { return Ok(()) };
        let Ok(bucket) = BucketPage::new(&hash, 0, page.words().len(), page.body()) else {
            return Ok(());
        };
        for i in 0..bucket.len() {
            let (key, value) = bucket.row(i);
            if wants(key) {
                put(images, table, key, value, target, &mut outcome)?;
            }
        }
        Ok(())
    };
    deep.sort_unstable_by(|a, b| b.cmp(a));
    let mut met: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut filled = RangeSet::default();
    for (.., page) in deep {
        rows_of(page, &mut |key| {
            let rank = hash.rank(key);
            let is_free = lost.iter().any(|span| span.contains(&rank_key(rank)));
            let (low, high) = rank_span((rank & !0xffff_ffff, rank | 0xffff_ffff));
            filled.insert(&low, high.as_deref());
            is_free && met.insert(key.to_vec())
        })?;
    }
    for (span, page) in parts {
        rows_of(page, &mut |key| span.contains(&rank_key(hash.rank(key))))?;
    }
    // What is left of the surroundings of deep buckets is nothing that could be told apart here.
    lost.retain(|span| !filled.covers(&span.low));
    if !lost.is_empty() {
        outcome.lost_share = lost.iter().map(share_of_ranks).sum();
        outcome.lost.push(KeySpan::ALL);
    }
    Ok(outcome)
}

/// The share of all hashes that a span holds.
#[expect(clippy::cast_precision_loss, reason = "a share, about")]
fn share_of_ranks(span: &KeySpan) -> f64 {
    let rank = |key: &[u8]| esker_base::codec::head64(key) as f64 / 2f64.powi(64);
    span.high.as_ref().map_or(1.0, |high| rank(high)) - rank(&span.low)
}

/// What is done to the rows of a fractal tree, oldest first.
#[derive(Debug)]
enum Step {
    /// A range tombstone of a run deletes what is older.
    Delete(KeySpan),
    Leaf(PageId, KeySpan),
    /// A leaf of a run is gone: what older runs have for its keys no longer holds.
    Lost {
        span: KeySpan,
        filter: u64,
    },
    /// A branch of a run is gone: of its leaves it is not said which they are.
    Gap {
        span: KeySpan,
        filter: u64,
    },
    /// A trunk node is gone: its runs are there, and it is not known in which order.
    Trunk(KeySpan),
}

/// Walks a fractal tree.
struct Walk<'i, 'd> {
    images: &'i Images<'d>,
    visited: BTreeSet<PageId>,
    steps: Vec<Step>,
}

fn clip(span: &KeySpan, low: &[u8], high: Option<&[u8]>) -> Option<KeySpan> {
    let low = low.max(&span.low[..]);
    let high = match (high, span.high.as_deref()) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    high.is_none_or(|high| low < high).then(|| KeySpan::new(low, high))
}

/// Children with the keys between their pivots, clipped.
fn children_in(span: &KeySpan, children: &[ChildPage]) -> Vec<(KeySpan, PageId)> {
    let clipped = children.iter().enumerate().filter_map(|(i, (low, page))| {
        let low = low.as_deref().unwrap_or_default();
        let high = children.get(i + 1).and_then(|(high, _)| high.as_deref());
        Some((clip(span, low, high)?, *page))
    });
    clipped.collect()
}

impl Walk<'_, '_> {
    /// A page that is met for the first time.
    fn visit(&mut self, id: PageId) -> Result<Option<Page>> {
        // Met twice: damage, or a circle.
        if !self.visited.insert(id) {
            return Ok(None);
        }
        Ok(self.images.page(id)?.filter(Page::is_index))
    }

    fn node(&mut self, id: PageId, span: KeySpan) -> Result<()> {
        let page = self.visit(id)?;
        let node = page.as_ref().map(|page| salvage::node(page.level(), page.words(), page.body()));
        let Some(Ok(node)) = node else {
            self.steps.push(Step::Trunk(span));
            return Ok(());
        };
        drop(page);
        for (span, child) in children_in(&span, &node.children) {
            self.node(child, span)?;
        }
        for source in node.sources.iter().rev() {
            self.ranges(*source, &span)?;
            if source.tree != PageId::NONE {
                self.tree(source.tree, &span, source.filter, None)?;
            }
        }
        Ok(())
    }

    /// The leaves of a run, in order.
    fn tree(&mut self, id: PageId, span: &KeySpan, filter: u64, level: Option<u8>) -> Result<()> {
        let page = self.visit(id)?;
        let page = page.filter(|page| level.is_none_or(|level| level == page.level()));
        if let Some(page) = &page {
            if page.level() == 0 {
                let leaf = LeafPage::new(0, page.words().len(), page.body());
                if let Some(clipped) =
                    leaf.ok().and_then(|leaf| clip(span, leaf.low(), leaf.high()))
                    && clipped == *span
                {
                    self.steps.push(Step::Leaf(id, clipped));
                    return Ok(());
                }
            } else if let Ok(children) = salvage::branch(page.level(), page.words(), page.body()) {
                let below = page.level() - 1;
                for (span, child) in children_in(span, &children) {
                    self.tree(child, &span, filter, Some(below))?;
                }
                return Ok(());
            }
        }
        let span = span.clone();
        self.steps.push(match level {
            Some(0) => Step::Lost { span, filter },
            _ => Step::Gap { span, filter },
        });
        Ok(())
    }

    /// The range tombstones of a run.
    fn ranges(&mut self, source: NodeSource, span: &KeySpan) -> Result<()> {
        if source.ranges == PageId::NONE {
            return Ok(());
        }
        let mut walk = Walk { images: self.images, visited: BTreeSet::new(), steps: Vec::new() };
        walk.tree(source.ranges, &KeySpan::ALL, 0, None)?;
        self.visited.extend(walk.visited);
        let mut set = RangeSet::default();
        // Where a leaf that is gone ended: a range that ends next began there at the latest.
        let mut resumes: Option<Vec<u8>> = None;
        for step in walk.steps {
            match step {
                Step::Leaf(id, _) => {
                    let Some(page) = self.images.page(id)? else { continue };
                    let leaf = LeafPage::new(0, page.words().len(), page.body());
                    let Ok(leaf) = leaf.map_err(drop) else { continue };
                    if let Some(high) = resumes.take()
                        && leaf.begins_with_end()
                    {
                        set.push_boundary(&high, true);
                    }
                    leaf.add_ranges(&mut set);
                }
                // What they delete is not known, so nothing older holds.
                Step::Lost { span: gone, .. } | Step::Gap { span: gone, .. } => {
                    set.push_boundary(&gone.low, false);
                    if let Some(span) = clip(span, &gone.low, gone.high.as_deref()) {
                        self.steps.push(Step::Lost { span, filter: 0 });
                    }
                    resumes = gone.high;
                }
                Step::Delete(_) | Step::Trunk(_) => {}
            }
        }
        for (low, high) in set.clipped(&span.low, span.high.as_deref()).ranges() {
            self.steps.push(Step::Delete(KeySpan::new(low, high.as_deref())));
        }
        Ok(())
    }
}

/// Takes a fractal tree apart. `root`: if it is known; else the page that is one.
pub(super) fn fractal(
    images: &Images<'_>,
    table: TableId,
    root: Option<PageId>,
    pages: &[Seen],
    target: &mut Target,
) -> Result<Outcome> {
    let mut walk = Walk { images, visited: BTreeSet::new(), steps: Vec::new() };
    let root = match root {
        Some(root) => Some(root),
        None => newest_root(images, pages)?,
    };
    match root {
        Some(root) => walk.node(root, KeySpan::ALL)?,
        None => walk.steps.push(Step::Trunk(KeySpan::ALL)),
    }
    let Walk { visited, steps, .. } = walk;
    let gaps =
        steps.iter().filter(|step| matches!(step, Step::Gap { .. } | Step::Trunk(_))).count();
    // Leaves that nothing names.
    let mut loose: Vec<Seen> = Vec::new();
    if gaps > 0 {
        loose = pages.iter().filter(|seen| seen.level == 0).copied().collect();
        loose.retain(|seen| !visited.contains(&seen.page));
        loose.sort_by_key(|seen| (seen.changed_at, seen.number));
    }
    let mut outcome = Outcome::default();
    for step in steps {
        match step {
            Step::Delete(span) => target.delete_range(table, &span)?,
            Step::Leaf(id, span) => put_page(images, table, id, &span, target, &mut outcome)?,
            Step::Lost { span, filter } => {
                forget(images, table, &span, filter, target)?;
                outcome.lost.push(span);
            }
            // The only one: the leaves that nothing names are its own.
            Step::Gap { span, filter } if gaps == 1 => {
                let mut found: Vec<(KeySpan, PageId)> = Vec::new();
                for seen in &loose {
                    let Some(page) = images.page(seen.page)? else { continue };
                    let Ok(leaf) = LeafPage::new(0, page.words().len(), page.body()) else {
                        continue;
                    };
                    let keys = KeySpan::new(leaf.low(), leaf.high());
                    if !leaf.may_be_ranges()
                        && clip(&span, leaf.low(), leaf.high()) == Some(keys.clone())
                    {
                        found.push((keys, seen.page));
                    }
                }
                let mut covered = RangeSet::default();
                for (keys, page) in found {
                    put_page(images, table, page, &keys, target, &mut outcome)?;
                    covered.insert(&keys.low, keys.high.as_deref());
                }
                for gone in free_of(&covered, &span.low, span.high.as_deref()) {
                    forget(images, table, &gone, filter, target)?;
                    outcome.lost.push(gone);
                }
            }
            Step::Gap { span, .. } | Step::Trunk(span) => {
                // In the order in which they were changed last, which is about that of their rows.
                for seen in &loose {
                    let Some(page) = images.page(seen.page)? else { continue };
                    let leaf = LeafPage::new(0, page.words().len(), page.body());
                    if let Ok(leaf) = leaf.map_err(drop)
                        && !leaf.may_be_ranges()
                    {
                        put_leaf(images, table, leaf, &span, target, &mut outcome)?;
                    }
                }
                outcome.lost.push(span.clone());
                outcome.stale.push(span);
            }
        }
    }
    join(&mut outcome.lost);
    join(&mut outcome.stale);
    Ok(outcome)
}

fn put_page(
    images: &Images<'_>,
    table: TableId,
    id: PageId,
    span: &KeySpan,
    target: &mut Target,
    outcome: &mut Outcome,
) -> Result<()> {
    let Some(page) = images.page(id)? else {
        outcome.lost.push(span.clone());
        return Ok(());
    };
    match LeafPage::new(0, page.words().len(), page.body()) {
        Ok(leaf) => put_leaf(images, table, leaf, span, target, outcome),
        Err(_) => Ok(()),
    }
}

/// Takes rows back that a lost newer row may have replaced: those that the filter of its run, if it has one, admits.
fn forget(
    images: &Images<'_>,
    table: TableId,
    span: &KeySpan,
    filter: u64,
    target: &mut Target,
) -> Result<()> {
    if filter == 0 {
        return target.delete_range(table, span);
    }
    let word = ChildWord::new(ChildWord::page_of(filter), ChildWord::NO_HINT);
    // Without the filter it may be any.
    target.delete_where(table, span, &mut |key| {
        admits(images, &word, View::Current, key).unwrap_or(true)
    })
}

/// The page of a fractal table that has a memtable: its root.
fn newest_root(images: &Images<'_>, pages: &[Seen]) -> Result<Option<PageId>> {
    let mut roots: Vec<&Seen> = pages.iter().filter(|seen| salvage::is_node(seen.level)).collect();
    roots.sort_by_key(|seen| std::cmp::Reverse((seen.changed_at, seen.number)));
    for seen in roots {
        let Some(page) = images.page(seen.page)? else { continue };
        let node = salvage::node(page.level(), page.words(), page.body());
        if node.is_ok_and(|node| node.has_memtable) {
            return Ok(Some(seen.page));
        }
    }
    Ok(None)
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
    fn shares_of_hashes_add_up() {
        let spans = [(0, u64::MAX / 2), (u64::MAX / 2 + 1, u64::MAX)].map(rank_span);
        let share: f64 = spans
            .iter()
            .map(|(low, high)| share_of_ranks(&KeySpan::new(low, high.as_deref())))
            .sum();
        assert!((share - 1.0).abs() < 1e-9, "{share}");
    }

    #[test]
    fn spans_that_meet_are_joined() {
        let mut spans = vec![span("c", Some("d")), span("a", Some("b")), span("b", Some("c"))];
        join(&mut spans);
        assert_eq!(spans, [span("a", Some("d"))]);
    }
}
