//! Range deletes: whole subtrees are unlinked, and rows removed one by one only in the two leaves at the
//! ends.
//!
//! ```text
//!                 fork: children i+1 .. j-1 go                  pivot before child j: the boundary
//!               /                     \
//!      left side: children        right side: children
//!      after the way go           before the way go
//!            |                         |
//!      leaf of `low`:             leaf of the last key below `high`:
//!      rows from low on go,       rows below high go,
//!      high fence = boundary      low fence = boundary
//! ```

use super::branch::{List, Pivots, Route};
use super::leaf::{self, Leaf};
use super::read::Path;
use super::split::{Pending, split_middle};
use crate::kind::{Handle, PreparedRange, Value};
use crate::pages::{ChildWord, PageNew, PageRead, PageWrite, Step, Stop, TurnPages, View};
use std::ops::Range;

/// A leaf at one end of the range.
struct Edge<'a, P: TurnPages + 'a> {
    leaf: P::Write<'a>,
    /// Rows that go.
    rows: Range<usize>,
    low: Vec<u8>,
    high: Option<Vec<u8>>,
    /// The fences change.
    refence: bool,
}

/// A range delete, ready to be carried out. Dropping it changes nothing.
pub struct RangePlan<'a, P: TurnPages + 'a> {
    pages: &'a P,
    pending: Pending<'a, P>,
    edges: Vec<Edge<'a, P>>,
    /// Subtrees that go: word and level.
    trees: Vec<(u64, u8)>,
    /// Rows in them, about.
    dropped_rows: i64,
}

impl<P: TurnPages> std::fmt::Debug for RangePlan<'_, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RangePlan").field("trees", &self.trees.len()).finish_non_exhaustive()
    }
}

/// Makes ready to delete all keys from `low` up to, not including, `high`.
///
/// # Errors
/// As [`TurnPages::write`]; `Moved` after a split that makes room for wider fences.
pub fn prepare_delete_range<'a, P: TurnPages>(
    pages: &'a P,
    root: &ChildWord,
    low: &[u8],
    high: Option<&[u8]>,
) -> Step<RangePlan<'a, P>> {
    let mut plan = RangePlan {
        pages,
        pending: Pending::new(),
        edges: Vec::new(),
        trees: Vec::new(),
        dropped_rows: 0,
    };
    let from = Path::down(pages, root, View::Current, Route::To(low))?;
    if low.is_empty() && high.is_none() && !from.nodes.is_empty() {
        return plan.everything(&from);
    }
    let to = high.map_or(Route::Last, Route::Below);
    let to = Path::down(pages, root, View::Current, to)?;
    let left = pages.write(&from.leaf_word())?;
    if from.leaf_word().page() == to.leaf_word().page() {
        plan.edge(left, low, high, None, None);
        return Ok(plan);
    }
    let fork = from.nodes.iter().zip(&to.nodes).position(|((_, a), (_, b))| a != b);
    let fork = fork.expect("the ways end in different leaves");
    let (node, i) = &from.nodes[fork];
    let j = to.nodes[fork].1;
    if j < *i {
        // `low` is above `high`, which callers rule out.
        return Ok(plan);
    }
    let boundary = Pivots::new(node.body()).key(j - 1);
    let right = pages.write(&to.leaf_word())?;
    if !fits(Leaf::new(left.body()), low, high, None, Some(&boundary)) {
        split_middle(pages, root, left, low)?;
        return Err(Stop::Moved);
    }
    if !fits(Leaf::new(right.body()), low, high, Some(&boundary), None) {
        let key = Leaf::new(right.body()).low().to_vec();
        split_middle(pages, root, right, &key)?;
        return Err(Stop::Moved);
    }
    let rows = usize::midpoint(Leaf::new(left.body()).len(), Leaf::new(right.body()).len());

    // From the leaves up, as `Pending` wants it.
    let n = from.nodes.len();
    for depth in (fork + 1..n).rev() {
        let (node, slot) = &from.nodes[depth];
        plan.shrink(node, 0..slot + 1, None, rows)?;
        let (node, slot) = &to.nodes[depth];
        plan.shrink(node, *slot..node.words().len(), None, rows)?;
    }
    plan.shrink(node, 0..i + 1, Some(j..node.words().len()), rows)?;
    plan.edge(left, low, high, None, Some(boundary.clone()));
    plan.edge(right, low, high, Some(boundary), None);
    Ok(plan)
}

/// True if what is left of a leaf fits between its new fences.
fn fits(
    leaf: Leaf<'_>,
    low: &[u8],
    high: Option<&[u8]>,
    new_low: Option<&[u8]>,
    new_high: Option<&[u8]>,
) -> bool {
    let (from, to) = rows_inside(leaf, low, high);
    let low = new_low.unwrap_or(leaf.low());
    let high = new_high.or(leaf.high());
    // Header and fences count twice below, once too often.
    let empty = leaf.bytes_between(0..0, low, high);
    let bytes = leaf.bytes_between(0..from, low, high)
        + leaf.bytes_between(to..leaf.len(), low, high)
        - empty;
    bytes <= leaf.used_bytes() + leaf.free_bytes()
}

fn rows_inside(leaf: Leaf<'_>, low: &[u8], high: Option<&[u8]>) -> (usize, usize) {
    let from = leaf.lower_bound(low);
    let to = high.map_or(leaf.len(), |high| leaf.lower_bound(high));
    (from, to.max(from))
}

impl<'a, P: TurnPages> RangePlan<'a, P> {
    /// All rows of a tree with branches: the root becomes an empty leaf.
    fn everything(mut self, path: &Path<'a, P>) -> Step<Self> {
        let (root, _) = &path.nodes[0];
        let mut new = self.pages.replace(root.id(), 0, 0)?;
        leaf::init(new.body_mut(), b"", None);
        self.pending.replace(new);
        self.drop_children(root, 0..root.words().len());
        self.dropped_rows = i64::MAX;
        Ok(self)
    }

    fn drop_children(&mut self, node: &P::Read<'a>, children: Range<usize>) {
        for word in &node.words()[children] {
            self.trees.push((word.load(), node.level() - 1));
        }
    }

    /// Replaces a branch by one with some of its children, in one or two stretches; the others go.
    fn shrink(
        &mut self,
        node: &P::Read<'a>,
        first: Range<usize>,
        second: Option<Range<usize>>,
        rows: usize,
    ) -> Step<()> {
        let (words, body) = (node.words(), node.body());
        let second = second.unwrap_or(words.len()..words.len());
        let kept = first.len() + second.len();
        if kept == words.len() {
            return Ok(());
        }
        let mut list = List::default();
        list.extend(words, body, first.clone());
        if !second.is_empty() {
            // The boundary: what was on the left of the second stretch.
            list.push_pivot(&[&Pivots::new(body).key(second.start - 1)]);
            list.extend(words, body, second.clone());
        }
        let mut new = self.pages.replace(node.id(), node.level(), kept)?;
        list.build(0..kept, new.parts_mut());
        self.pending.replace(new);
        esker_base::mark::BTREE_UNLINKED.hit();
        self.drop_children(node, 0..first.start);
        self.drop_children(node, first.end..second.start);
        let fan = u32::from(node.level()) - 1;
        let per_child =
            (rows.max(1) as u64).saturating_mul((words.len() as u64).saturating_pow(fan));
        let dropped = per_child.saturating_mul((words.len() - kept) as u64);
        let dropped = i64::try_from(dropped).unwrap_or(i64::MAX);
        self.dropped_rows = self.dropped_rows.saturating_add(dropped);
        Ok(())
    }

    fn edge(
        &mut self,
        page: P::Write<'a>,
        low: &[u8],
        high: Option<&[u8]>,
        new_low: Option<Vec<u8>>,
        new_high: Option<Vec<u8>>,
    ) {
        let leaf = Leaf::new(page.body());
        let (from, to) = rows_inside(leaf, low, high);
        let (old_low, old_high) = (leaf.low().to_vec(), leaf.high().map(<[u8]>::to_vec));
        let low = new_low.unwrap_or_else(|| old_low.clone());
        let high = new_high.or_else(|| old_high.clone());
        let refence = low != old_low || high != old_high;
        self.edges.push(Edge { leaf: page, rows: from..to, low, high, refence });
    }

    /// True if the delete changes nothing.
    pub fn is_empty(&self) -> bool {
        self.trees.is_empty() && self.edges.iter().all(|edge| edge.rows.is_empty() && !edge.refence)
    }
}

impl<P: TurnPages> PreparedRange for RangePlan<'_, P> {
    /// `replaced` gets the handles of the edge leaves only: those of dropped subtrees are met when
    /// they are freed. The count is about right if subtrees were dropped.
    fn apply(self, replaced: &mut dyn FnMut(Handle)) -> i64 {
        let Self { pages, pending, edges, trees, dropped_rows } = self;
        pending.publish(pages);
        let mut rows = dropped_rows;
        for Edge { leaf: mut page, rows: gone, low, high, refence } in edges {
            let leaf = Leaf::new(page.body());
            for i in gone.clone() {
                if let (_, Value::Overflow(handle)) = leaf.row(i) {
                    replaced(handle);
                }
            }
            rows = rows.saturating_add(i64::try_from(gone.len()).expect("rows of a leaf"));
            if gone.is_empty() && !refence {
                continue;
            }
            let count = leaf.len();
            let mut body = vec![0; page.body().len()];
            let parts = [(leaf, 0..gone.start), (leaf, gone.end..count)];
            leaf::build(&mut body, &low, high.as_deref(), &parts);
            page.body_mut().copy_from_slice(&body);
        }
        for (word, level) in trees {
            pages.free_tree(word, level);
        }
        rows.saturating_neg()
    }
}
