//! About how many rows a range has.

use super::node::NodeParts;
use super::read::read_node;
use super::work::word_of;
use crate::btree;
use crate::pages::{ChildWord, PageRead, Pages, Step, View};
use crate::run::RunRef;

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
