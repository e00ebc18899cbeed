//! Following a key down, and reads.

use super::LEVELS_MAX;
use super::branch::{Pivots, Route};
use super::leaf::Leaf;
use crate::kind::Value;
use crate::pages::{ChildWord, PageRead, Pages, Step, Stop, View};
use esker_base::{CommitNo, PageId};

/// A branch on the way down, and those above it: kept in the stack frames of the descent.
pub(crate) struct Above<'x, R> {
    pub(crate) page: &'x R,
    pub(crate) up: Option<&'x Above<'x, R>>,
}

/// True if no branch above has been replaced since it was read.
#[inline]
pub(crate) fn all_current<'a, P: Pages>(
    pages: &'a P,
    above: Option<&Above<'_, P::Read<'a>>>,
) -> bool {
    let mut next = above;
    while let Some(node) = next {
        if !pages.is_current(node.page) {
            return false;
        }
        next = node.up;
    }
    true
}

/// A page below `parent` is not what the parent says: the tree has moved, or is damaged.
pub(crate) fn wrong_level<R: PageRead>(page: &R, wanted: u8) -> Stop {
    Stop::Corrupt {
        page: page.id(),
        detail: format!("level {}, its parent expects {wanted}", page.level()),
    }
}

/// The level below, or `Corrupt` where there can be none.
fn level_below<R: PageRead>(page: &R) -> Step<u8> {
    match page.level() {
        level @ 1..=LEVELS_MAX => Ok(level - 1),
        level => {
            Err(Stop::Corrupt { page: page.id(), detail: format!("a branch of level {level}") })
        }
    }
}

/// Goes down to a leaf and calls `f` with it, latched, once it is known to be the right one. `level` is
/// that of the page which `word` names, if that is known.
#[inline]
pub(crate) fn visit<'a, P: Pages, T>(
    pages: &'a P,
    word: &ChildWord,
    view: View,
    route: Route<'_>,
    f: impl FnOnce(&P::Read<'a>) -> T,
) -> Step<T> {
    visit_below(pages, word, view, route, None, None, |page, _| f(page))
}

/// As [`visit`]; `f` also gets the branch above the leaf, if it is not the root.
#[inline]
pub(crate) fn visit_with_parent<'a, P: Pages, T>(
    pages: &'a P,
    word: &ChildWord,
    view: View,
    route: Route<'_>,
    f: impl FnOnce(&P::Read<'a>, Option<&P::Read<'a>>) -> T,
) -> Step<T> {
    visit_below(pages, word, view, route, None, None, f)
}

pub(crate) fn visit_below<'a, P: Pages, T>(
    pages: &'a P,
    word: &ChildWord,
    view: View,
    route: Route<'_>,
    level: Option<u8>,
    above: Option<&Above<'_, P::Read<'a>>>,
    f: impl FnOnce(&P::Read<'a>, Option<&P::Read<'a>>) -> T,
) -> Step<T> {
    let moved = || view == View::Current && !all_current(pages, above);
    let page = match pages.read(word, view) {
        Ok(page) => page,
        // A page that the tree has given up may be gone for good.
        Err(Stop::Missing(_) | Stop::Corrupt { .. }) if moved() => return Err(Stop::Moved),
        Err(stop) => return Err(stop),
    };
    if level.is_some_and(|level| page.level() != level) {
        let wanted = level.unwrap_or(0);
        return Err(if moved() { Stop::Moved } else { wrong_level(&page, wanted) });
    }
    if page.level() == 0 {
        return if moved() {
            Err(Stop::Moved)
        } else {
            Ok(f(&page, above.map(|above| above.page)))
        };
    }
    let below = level_below(&page)?;
    let slot = Pivots::new(page.body()).child(route);
    let here = Above { page: &page, up: above };
    visit_below(pages, &page.words()[slot], view, route, Some(below), Some(&here), f)
}

/// Calls `f` with what a key holds, under the leaf's latch, and with the last commit that changed the
/// leaf. Costs a search per level, and one latch.
///
/// # Errors
/// As [`Pages::read`]; `Moved` if the tree changed on the way down.
#[inline]
pub fn get<P: Pages, T>(
    pages: &P,
    root: &ChildWord,
    view: View,
    key: &[u8],
    f: impl FnOnce(Option<Value<'_>>, CommitNo) -> T,
) -> Step<T> {
    visit(pages, root, view, Route::To(key), |page| {
        let leaf = Leaf::new(page.body());
        let value = leaf.search(key).ok().map(|i| leaf.row(i).1);
        f(value, page.changed_at())
    })
}

/// Brings in the leaf of a key that is about to be written, and the lines that the write will touch.
///
/// # Errors
/// As [`get`].
pub fn warm<P: Pages>(pages: &P, root: &ChildWord, key: &[u8]) -> Step<()> {
    get(pages, root, View::Current, key, |value, _| {
        std::hint::black_box(value.is_some());
    })
}

/// The leaf of a key, without bringing it in.
///
/// # Errors
/// As [`Pages::read`], for branches only.
pub fn leaf_of<P: Pages>(pages: &P, root: &ChildWord, view: View, key: &[u8]) -> Step<PageId> {
    let path = Path::down(pages, root, view, Route::To(key))?;
    Ok(path.leaf_word().page())
}

/// The branches on the way to a leaf, and the word that names the leaf.
pub(crate) struct Path<'a, P: Pages + 'a> {
    /// From the root down: the branch, and which child was taken.
    pub(crate) nodes: Vec<(P::Read<'a>, usize)>,
    root: u64,
}

impl<'a, P: Pages> Path<'a, P> {
    /// Goes down as far as level 1; the leaf is not touched unless it is the root.
    pub(crate) fn down(pages: &'a P, root: &ChildWord, view: View, route: Route<'_>) -> Step<Self> {
        let mut nodes: Vec<(P::Read<'a>, usize)> = Vec::with_capacity(4);
        let mut page = pages.read(root, view)?;
        let root = root.load();
        while page.level() > 0 {
            let below = level_below(&page)?;
            let slot = Pivots::new(page.body()).child(route);
            nodes.push((page, slot));
            if below == 0 {
                break;
            }
            let (parent, _) = nodes.last().expect("just pushed");
            let next = pages.read(&parent.words()[slot], view)?;
            if next.level() != below {
                return Err(wrong_level(&next, below));
            }
            page = next;
        }
        Ok(Self { nodes, root })
    }

    /// Names the leaf.
    pub(crate) fn leaf_word(&self) -> ChildWord {
        let bits = match self.nodes.last() {
            Some((branch, slot)) => branch.words()[*slot].load(),
            None => self.root,
        };
        ChildWord::new(ChildWord::page_of(bits), ChildWord::hint_of(bits))
    }
}

/// Where a key would stand, counted in rows, by the shape of the tree on its way down.
struct Rank {
    /// From the root down: child taken, children there.
    trail: Vec<(usize, usize)>,
    row: usize,
    rows: usize,
}

fn rank<P: Pages>(pages: &P, root: &ChildWord, view: View, route: Route<'_>) -> Step<Rank> {
    let path = Path::down(pages, root, view, route)?;
    let trail = path.nodes.iter().map(|(page, slot)| (*slot, page.words().len())).collect();
    let leaf = pages.read(&path.leaf_word(), view)?;
    if leaf.level() != 0 {
        return Err(Stop::Moved);
    }
    let leaf = Leaf::new(leaf.body());
    let row = match route {
        Route::To(key) | Route::Below(key) => leaf.lower_bound(key),
        Route::First => 0,
        Route::Last => leaf.len(),
    };
    Ok(Rank { trail, row, rows: leaf.len() })
}

/// About how many rows lie from `low` up to, not including, `high`: exact inside one leaf, else by the
/// number of children on the two ways down. Two leaves are read.
///
/// # Errors
/// As [`get`].
pub fn estimate_rows<P: Pages>(
    pages: &P,
    root: &ChildWord,
    view: View,
    low: &[u8],
    high: Option<&[u8]>,
) -> Step<u64> {
    let from = rank(pages, root, view, Route::To(low))?;
    let to = rank(pages, root, view, high.map_or(Route::Last, Route::Below))?;
    if from.trail.len() != to.trail.len() {
        return Err(Stop::Moved);
    }
    // Rows below a child, level by level from the leaves up.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    let of = |n: usize| n as f64;
    let mut size = f64::midpoint(of(from.rows), of(to.rows));
    let mut rows = of(to.row) - of(from.row);
    for ((from_slot, from_n), (to_slot, to_n)) in from.trail.iter().zip(&to.trail).rev() {
        rows += (of(*to_slot) - of(*from_slot)) * size;
        size *= f64::midpoint(of(*from_n), of(*to_n));
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate")]
    let rows = rows.max(0.0) as u64;
    Ok(rows)
}
