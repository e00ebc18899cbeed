//! Taking a fractal tree apart: the trunk is walked from the root, oldest run first, and what is gone takes back what it may
//! have hidden.

use super::{Outcome, Seen, free_of, join, put_leaf};
use crate::range::KeySpan;
use crate::repair::source::{Images, Page};
use crate::repair::target::Target;
use esker_base::{PageId, Result, TableId};
use esker_index::pages::{ChildWord, PageRead, View};
use esker_index::run::RangeSet;
use esker_index::run::check::admits;
use esker_index::salvage::{self, ChildPage, LeafPage, NodeSource};
use std::collections::BTreeSet;

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
pub(in crate::repair) fn fractal(
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
                fill_gap(images, table, (&span, filter), &loose, target, &mut outcome)?;
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

/// Puts leaves that nothing names where a branch of a run is gone, and takes back what older runs have for the rest of its keys.
fn fill_gap(
    images: &Images<'_>,
    table: TableId,
    (span, filter): (&KeySpan, u64),
    loose: &[Seen],
    target: &mut Target,
    outcome: &mut Outcome,
) -> Result<()> {
    let mut found: Vec<(KeySpan, PageId)> = Vec::new();
    for seen in loose {
        let Some(page) = images.page(seen.page)? else { continue };
        let Ok(leaf) = LeafPage::new(0, page.words().len(), page.body()) else { continue };
        let keys = KeySpan::new(leaf.low(), leaf.high());
        let is_inside = clip(span, leaf.low(), leaf.high()).as_ref() == Some(&keys);
        if is_inside && !leaf.may_be_ranges() {
            found.push((keys, seen.page));
        }
    }
    let mut covered = RangeSet::default();
    for (keys, page) in found {
        put_page(images, table, page, &keys, target, outcome)?;
        covered.insert(&keys.low, keys.high.as_deref());
    }
    for gone in free_of(&covered, &span.low, span.high.as_deref()) {
        forget(images, table, &gone, filter, target)?;
        outcome.lost.push(gone);
    }
    Ok(())
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
