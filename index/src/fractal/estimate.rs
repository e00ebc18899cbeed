//! About how many rows a range has.

use super::node::NodeParts;
use super::read::read_node;
use super::work::word_of;
use crate::btree::{self, LeafCopy, seek_leaf};
use crate::kind::{Direction, Value};
use crate::pages::{ChildWord, PageRead, Pages, Step, View};
use crate::run::{RangeLoader, RangeSet, RunRef};

/// About how many rows lie in a range.
pub(crate) fn estimate<P: Pages>(
    pages: &P,
    root: &ChildWord,
    view: View,
    low: &[u8],
    high: Option<&[u8]>,
    total: u64,
) -> Step<u64> {
    if low.is_empty() && high.is_none() {
        return Ok(total);
    }
    let page = read_node(pages, root, view)?;
    let parts = NodeParts::of(page.words(), page.body());
    let mut rows = 0i64;
    if let Some((tree, _)) = parts.memtable {
        let found = btree::estimate_rows(pages, &word_of(tree), view, low, high)?;
        rows += i64::try_from(found).unwrap_or(i64::MAX);
    }
    rows += estimate_node(pages, view, &parts, low, high)?;
    Ok(u64::try_from(rows).unwrap_or(0))
}

/// About how many rows of a range a node's runs have, and those below.
fn estimate_node<P: Pages>(
    pages: &P,
    view: View,
    parts: &NodeParts,
    low: &[u8],
    high: Option<&[u8]>,
) -> Step<i64> {
    let mut rows = 0i64;
    for run in &parts.runs {
        let RunRef { rows: all, tombstones, .. } = run.run;
        let found = btree::estimate_rows(pages, &word_of(run.run.tree), view, low, high)?;
        // Tombstones are spread as the rows are.
        let share = found.saturating_mul(2 * tombstones).checked_div(all).unwrap_or(0);
        rows += i64::try_from(found).unwrap_or(i64::MAX) - i64::try_from(share).unwrap_or(0);
    }
    for (i, child) in parts.children.iter().enumerate() {
        let begins_after = i > 0 && high.is_some_and(|high| child.pivot.as_slice() >= high);
        let ends_before =
            parts.children.get(i + 1).is_some_and(|next| next.pivot.as_slice() <= low);
        if begins_after || ends_before {
            continue;
        }
        let page = read_node(pages, &word_of(child.word), view)?;
        let below = NodeParts::of(page.words(), page.body());
        rows += estimate_node(pages, view, &below, low, high)?;
    }
    Ok(rows)
}

/// Ranges looked at, of many.
const RANGES_MAX: usize = 16;

/// The ranges of some runs, together.
pub(crate) fn ranges_of<'r, P: Pages>(
    pages: &P,
    runs: impl Iterator<Item = &'r RunRef>,
) -> Step<RangeSet> {
    let mut all = RangeSet::default();
    for run in runs.filter(|run| run.ranges != 0) {
        let (mut loader, mut set) = (RangeLoader::default(), RangeSet::default());
        while !loader.step(pages, &word_of(run.ranges), View::Current, &mut set)? {}
        all = if all.is_empty() { set } else { all.union(&set) };
    }
    Ok(all)
}

/// About how many rows of a run lie in ranges; of many ranges some are looked at.
pub(crate) fn covered_rows<P: Pages>(pages: &P, run: &RunRef, ranges: &RangeSet) -> Step<u64> {
    let ranges = ranges.ranges();
    let step = ranges.len().div_ceil(RANGES_MAX).max(1);
    let mut rows = 0u64;
    for (low, high) in ranges.iter().step_by(step) {
        let (tree, view) = (word_of(run.tree), View::Current);
        let found = btree::estimate_rows(pages, &tree, view, low, high.as_deref())?;
        rows = rows.saturating_add(found.saturating_mul(step as u64));
    }
    Ok(rows.min(run.rows))
}

/// About how many leaves below a node of the keys from `low` up to `high` lie in ranges, as [`covered_rows`].
pub(crate) fn covered_pages<P: Pages>(
    pages: &P,
    parts: &NodeParts,
    (low, high): (&[u8], Option<&[u8]>),
    ranges: &RangeSet,
) -> Step<u64> {
    let mut covered = 0;
    for (i, child) in parts.children.iter().enumerate() {
        let low = if i == 0 { low } else { &child.pivot };
        let high = parts.children.get(i + 1).map_or(high, |next| Some(&next.pivot[..]));
        let inside = ranges.clipped(low, high);
        let Some((from, to)) = inside.ranges().first() else { continue };
        if &from[..] <= low && to.as_deref() == high {
            covered += u64::from(child.pages);
            continue;
        }
        let page = read_node(pages, &word_of(child.word), View::Current)?;
        let below = NodeParts::of(page.words(), page.body());
        drop(page);
        covered += covered_pages(pages, &below, (low, high), &inside)?;
        // Upper runs of a node are few next to what is below; of a lowest one, the oldest has most.
        if let (true, Some(oldest)) = (below.children.is_empty(), below.runs.last()) {
            let rows = covered_rows(pages, &oldest.run, &inside)?;
            covered +=
                (u64::from(oldest.run.pages) * rows).checked_div(oldest.run.rows).unwrap_or(0);
        }
    }
    Ok(covered)
}

/// About how many leaves the rows of a run take when they are written anew. A run that was a memtable may have many more: where
/// rows were deleted before they went down, its leaves are nearly empty. `page_rows` is what a leaf holds of rows with values.
pub(crate) fn packed_pages<P: Pages>(
    pages: &P,
    run: &RunRef,
    page_rows: u64,
    content_bytes: u64,
) -> Step<u64> {
    let mut first = LeafCopy::default();
    seek_leaf(pages, &word_of(run.tree), View::Current, Some(&[]), Direction::Forward, &mut first)?;
    let keys = (0..first.len()).map(|i| btree::row_bytes(first.row(i).0, &Value::Tombstone) as u64);
    let tombstone_bytes = keys.max().unwrap_or(content_bytes);
    let tombstone_pages = run.tombstones.saturating_mul(tombstone_bytes) / content_bytes;
    let values = run.rows.saturating_sub(run.tombstones);
    // Values may be longer here than in the leaf that was looked at.
    let share = u64::from(run.pages).saturating_mul(values) / run.rows.max(1);
    let value_pages = (values / page_rows).max(share);
    Ok((tombstone_pages + value_pages + 1).min(run.pages.into()))
}
