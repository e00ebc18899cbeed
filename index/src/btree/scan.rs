//! Scans: one leaf after the other is copied out, and rows are lent out of the copy.

use super::branch::{Pivots, Route};
use super::leaf::{Leaf, hole, row_at, slots_at};
use super::read::{Path, visit_with_parent};
use crate::kind::{Direction, Value, max_key_bytes};
use crate::pages::{ChildWord, PageRead, Pages, Step, View};
use esker_base::PageId;
use std::cell::RefCell;
use std::ops::Range;

/// Memory of a copy.
#[derive(Debug, Default)]
struct Buffers {
    body: Vec<u8>,
    /// The prefix, and room for the rest of the longest key.
    key: Vec<u8>,
}

thread_local! {
    /// Of scans that have ended: making them anew costs a short scan a tenth of its time.
    static SPARES: RefCell<Vec<Buffers>> = const { RefCell::new(Vec::new()) };
}
const SPARES_MAX: usize = 4;

/// A copy of a leaf; reused for the next one.
#[derive(Debug, Default)]
pub struct LeafCopy {
    buffers: Buffers,
    prefix_bytes: usize,
    next_hint: Option<u32>,
    used: (usize, usize),
    slots_at: usize,
}

impl LeafCopy {
    fn leaf(&self) -> Leaf<'_> {
        Leaf::new(&self.buffers.body)
    }
    fn fill(&mut self, body: &[u8]) {
        if self.buffers.body.is_empty() {
            // A thread that ends has none.
            let spare = SPARES.try_with(|spares| spares.borrow_mut().pop());
            self.buffers = spare.ok().flatten().unwrap_or_default();
        }
        let Buffers { body: copy, key } = &mut self.buffers;
        // Without the hole: its lines need not come in.
        copy.resize(body.len(), 0);
        let hole = hole(body);
        copy[..hole.start].copy_from_slice(&body[..hole.start]);
        copy[hole.end..].copy_from_slice(&body[hole.end..]);
        self.slots_at = slots_at(body);
        self.used = (hole.start, body.len() - hole.end);
        let prefix = Leaf::new(body).prefix();
        self.prefix_bytes = prefix.len();
        let room = max_key_bytes(body.len()) + SHORT_BYTES;
        if key.len() < room {
            key.resize(room, 0);
        }
        key[..prefix.len()].copy_from_slice(prefix);
    }
    /// Bytes used at the front and at the back of the leaf: about those of its neighbours, too.
    pub fn used_bytes(&self) -> (usize, usize) {
        self.used
    }
    /// The hint where the scan's next leaf is in memory, if its parent has one.
    pub fn next_hint(&self) -> Option<u32> {
        self.next_hint
    }
    /// Rows in the copy.
    ///
    /// # Panics
    /// Here and below, if no leaf was copied yet.
    pub fn len(&self) -> usize {
        self.leaf().len()
    }
    /// True if the leaf has no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Where the next leaf begins; `None` if this is the last one.
    pub fn high_fence(&self) -> Option<&[u8]> {
        self.leaf().high()
    }
    /// Where this leaf begins; empty if it is the first one.
    pub fn low_fence(&self) -> &[u8] {
        self.leaf().low()
    }
    /// Rows with keys below `key`.
    pub fn lower_bound(&self, key: &[u8]) -> usize {
        self.leaf().lower_bound(key)
    }
    /// The value of row `i`.
    pub fn value(&self, i: usize) -> Value<'_> {
        self.leaf().row(i).1
    }
    /// Key and value of row `i`. The key is put together in a buffer of the copy.
    #[inline]
    pub fn row(&mut self, i: usize) -> (&[u8], Value<'_>) {
        let Buffers { body, key } = &mut self.buffers;
        let (suffix, rest, value) = row_at(body, self.slots_at + i * 2);
        let target = &mut key[self.prefix_bytes..];
        // A copy of fixed length, even if not all of it is key, costs a third of one that is exact.
        match (rest.first_chunk::<SHORT_BYTES>(), target.first_chunk_mut::<SHORT_BYTES>()) {
            (Some(from), Some(to)) if suffix.len() <= SHORT_BYTES => *to = *from,
            _ => target[..suffix.len()].copy_from_slice(suffix),
        }
        (&key[..self.prefix_bytes + suffix.len()], value)
    }
}

impl Drop for LeafCopy {
    fn drop(&mut self) {
        if !self.buffers.body.is_empty() {
            let buffers = std::mem::take(&mut self.buffers);
            let kept = SPARES.try_with(|spares| {
                let mut spares = spares.borrow_mut();
                if spares.len() < SPARES_MAX {
                    spares.push(buffers);
                }
            });
            // A thread that ends keeps none.
            let _ended = kept.is_err();
        }
    }
}

/// Key ends up to this long are copied at once.
const SHORT_BYTES: usize = 16;

fn route(bound: Option<&[u8]>, direction: Direction) -> Route<'_> {
    match (direction, bound) {
        (Direction::Forward, Some(key)) => Route::To(key),
        (Direction::Forward, None) => Route::First,
        (Direction::Backward, Some(key)) => Route::Below(key),
        (Direction::Backward, None) => Route::Last,
    }
}

/// Copies the leaf from which a scan goes on: forward, the one that holds `bound`; backward, that of
/// the largest key below `bound`; without one, the first or the last. False if there is none.
///
/// # Errors
/// As [`super::get`].
pub fn seek_leaf<P: Pages>(
    pages: &P,
    root: &ChildWord,
    view: View,
    bound: Option<&[u8]>,
    direction: Direction,
    copy: &mut LeafCopy,
) -> Step<bool> {
    let route = route(bound, direction);
    visit_with_parent(pages, root, view, route, |leaf, parent| {
        copy.fill(leaf.body());
        copy.next_hint = parent.and_then(|parent| {
            let slot = Pivots::new(parent.body()).child(route);
            let next = match direction {
                Direction::Forward => slot + 1,
                Direction::Backward => slot.checked_sub(1)?,
            };
            let hint = ChildWord::hint_of(parent.words().get(next)?.load());
            (hint != ChildWord::NO_HINT).then_some(hint)
        });
        true
    })
}

/// Appends the pages of the next leaves of a scan, counted from that of `bound`: those numbered by `leaves`, as far as
/// one branch names them; if it names none of them, those of the branch that follows.
///
/// # Errors
/// As [`super::get`], for branches only. `Missing` may name the branch that follows.
pub fn upcoming<P: Pages>(
    pages: &P,
    root: &ChildWord,
    view: View,
    bound: Option<&[u8]>,
    leaves: Range<usize>,
    direction: Direction,
    out: &mut Vec<PageId>,
) -> Step<()> {
    let path = Path::down(pages, root, view, route(bound, direction))?;
    let Some(((branch, slot), above)) = path.nodes.split_last() else { return Ok(()) };
    let words = branch.words();
    let left = match direction {
        Direction::Forward => words.len() - slot,
        Direction::Backward => slot + 1,
    };
    if leaves.start < left {
        let first = match direction {
            Direction::Forward => *slot,
            Direction::Backward => words.len() - 1 - slot,
        };
        append(words, first + leaves.start..first + leaves.end, direction, out);
    } else if let Some((parent, slot)) = above.last() {
        let next = match direction {
            Direction::Forward => Some(slot + 1),
            Direction::Backward => slot.checked_sub(1),
        };
        let Some(next) = next.and_then(|next| parent.words().get(next)) else { return Ok(()) };
        let branch = pages.read(next, view)?;
        if branch.level() == 1 {
            append(branch.words(), leaves.start - left..leaves.end - left, direction, out);
        }
    }
    Ok(())
}

/// Appends the pages of some children, counted from the side that a scan comes from, as far as there are such.
fn append(words: &[ChildWord], which: Range<usize>, direction: Direction, out: &mut Vec<PageId>) {
    let (skip, count) = (which.start, which.len());
    match direction {
        Direction::Forward => out.extend(words.iter().skip(skip).take(count).map(ChildWord::page)),
        Direction::Backward => {
            out.extend(words.iter().rev().skip(skip).take(count).map(ChildWord::page));
        }
    }
}
