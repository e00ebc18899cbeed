//! New children for a node, and where to put those that its page has no room for.
//!
//! A node that would have too many is divided: into two under its parent, if it has no runs left and the parent has
//! room; else its children go into new nodes below it. Either replaces one node, so readers see all of it or nothing.

use super::FractalConfig;
use super::node::{CHILD_COST_BYTES, Child, NodeParts};
use crate::pages::{BuildPages, PageNew, Step};

/// Builds the page of a node and returns its parent's summary of it.
///
/// # Errors
/// `Reserve`.
pub(crate) fn build_node<P: BuildPages>(
    pages: &P,
    parts: &NodeParts,
    pivot: Vec<u8>,
) -> Step<Child> {
    let level = parts.level();
    let mut page = pages.build(level, parts.words())?;
    parts.write(page.parts_mut());
    let word = pages.keep(page);
    Ok(Child {
        word,
        pivot,
        pages: parts.pages(),
        runs: u8::try_from(parts.runs.len()).expect("a page holds fewer"),
        level,
    })
}

/// Children being put into new nodes, group by group.
#[derive(Debug)]
pub(crate) struct Grouping {
    groups: Vec<Vec<Child>>,
    pub(crate) built: Vec<Child>,
}

impl Grouping {
    /// Into `count` groups of about as many bytes each, or more if a node has no room for so many. Two children always find
    /// room, so there are fewer groups than children.
    pub(crate) fn new(config: &FractalConfig, children: &[Child], count: usize) -> Self {
        let bytes: usize = children.iter().map(cost).sum();
        let share = bytes.div_ceil(count.max(2));
        let mut groups: Vec<Vec<Child>> = vec![Vec::new()];
        let mut filled = 0;
        for child in children {
            let last = groups.last_mut().expect("one at least");
            let is_full = filled >= share || filled + cost(child) > config.children_bytes_max();
            if is_full && !last.is_empty() {
                filled = 0;
                groups.push(Vec::new());
            }
            filled += cost(child);
            groups.last_mut().expect("one at least").push(child.clone());
        }
        Self { groups, built: Vec::new() }
    }

    /// How many groups there are.
    pub(crate) fn len(&self) -> usize {
        self.groups.len()
    }

    /// Builds a node for each group.
    ///
    /// # Errors
    /// `Reserve`; it is then called again.
    pub(crate) fn step<P: BuildPages>(&mut self, pages: &P) -> Step<()> {
        while let Some(group) = self.groups.get(self.built.len()) {
            let parts = NodeParts { children: group.clone(), ..NodeParts::default() };
            let pivot = group[0].pivot.clone();
            self.built.push(build_node(pages, &parts, pivot)?);
        }
        Ok(())
    }
}

/// What a child takes of its parent's page.
pub(crate) fn cost(child: &Child) -> usize {
    CHILD_COST_BYTES + child.pivot.len()
}

/// True if these children have room in a node's page, whatever its runs.
pub(crate) fn fit(config: &FractalConfig, children: &[Child]) -> bool {
    children.iter().map(cost).sum::<usize>() <= config.children_bytes_max()
}

/// Into how many groups children that do not fit are put: about as many as each then has.
pub(crate) fn group_count(config: &FractalConfig, children: &[Child]) -> usize {
    let bytes: usize = children.iter().map(cost).sum();
    let least = bytes.div_ceil(config.children_bytes_max() / 2);
    let most = children.len() / 2;
    children.len().isqrt().max(least).clamp(2, most.max(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the lengths of pivots: each group has room in a node, and there are fewer groups than children.
    #[test]
    fn groups_fit_nodes_and_are_fewer_than_children() {
        let config = FractalConfig { content_bytes: 960, memtable_bytes: 8 << 10, node_pages: 16 };
        let longest = config.pivot_bytes_max();
        for count in 3..40_usize {
            for step in [0, 1, 7, longest / 3, longest / 2, longest] {
                let pivot =
                    |i: usize| vec![0; if step == 0 { 1 } else { (i * step) % (longest + 1) }];
                let child = |i| Child { word: 0, pivot: pivot(i), pages: 1, runs: 1, level: 1 };
                let children: Vec<Child> = (0..count).map(child).collect();
                for groups in [2, group_count(&config, &children)] {
                    let grouping = Grouping::new(&config, &children, groups);
                    assert!(
                        grouping.groups.iter().all(|group| fit(&config, group)),
                        "{count} {step}"
                    );
                    assert!(grouping.len() < count, "{count} {step}");
                }
            }
        }
    }
}
