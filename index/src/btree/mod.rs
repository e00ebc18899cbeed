//! The B-tree: a B+tree whose leaves are changed in place and whose branches are replaced whole.
//!
//! ```text
//!              branch, level 2            words: children · body: pivots
//!             /        |       \
//!      branch, level 1 ...                child i holds keys from pivot i-1 up to, not including, pivot i
//!      /      |      \
//!   leaf ↔  leaf    leaf                  no sibling pointers: scans go by fences
//! ```
//!
//! | module | |
//! |---|---|
//! | `leaf`, `branch` | bytes of a page: drawing, search, edit, check |
//! | `fold` | leaves as images hold them |
//! | `read` | following a key down; point reads and estimates |
//! | `write` | one key, or all keys of one leaf, made ready in the turn and then applied |
//! | `split`, `merge`, `range` | changes over several pages |
//! | `scan` | leaf by leaf, forward and back |
//! | `cursor` | rows of a range, leaf by leaf |
//! | `check` | a walk that checks everything |
//! | `kind` | all of it as a [`Kind`](crate::kind::Kind) |
//!
//! # Invariants
//!
//! - B1: pivots and keys ascend strictly; a leaf's *fences* (lower, included; upper, excluded) are the pivots
//!   around it on the way down.
//! - B2: all leaves are level 0 and every child is one level below its parent.
//! - B3: a page with one row, the longest fences and the longest key and inline value fits: a split can
//!   always make room.
//! - B4: the root keeps its page id; growing and shrinking replace what is under it.
//!
//! Sources: prefix truncation, key heads and fences as in Leis et al., "`LeanStore`" (ICDE 2018) and
//! Graefe, "Modern B-tree techniques" (2011), §3.5 and §4.2; branches replaced whole are ours, so that
//! readers write nothing on the way down.

mod append;
pub(crate) mod branch;
mod check;
mod cursor;
pub(crate) mod fold;
mod kind;
pub(crate) mod leaf;
mod merge;
mod range;
pub(crate) mod read;
mod scan;
mod split;
pub(crate) mod write;

pub(crate) use append::row_bytes;
pub use branch::{check_branch, hole as branch_hole};
pub use check::Check;
pub use cursor::TreeCursor;
pub use kind::BTree;
pub use leaf::{check_leaf, overflow_handles};
pub use merge::merge_at;
pub use range::{RangePlan, prepare_delete_range};
pub use read::{estimate_rows, get, leaf_of, warm};
pub use scan::{LeafCopy, seek_leaf, upcoming};
pub use write::{Group, Prepared, create, prepare, prepare_group};

/// Longest way from root to leaf. Branches have two children at worst, as a rule hundreds.
pub(crate) const LEVELS_MAX: u8 = 40;

/// Length of the common prefix.
pub(crate) fn common_bytes(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The shortest key above `left` and not above `right`.
pub(crate) fn pivot_between<'k>(left: &[u8], right: &'k [u8]) -> &'k [u8] {
    debug_assert!(left < right, "B1");
    &right[..=common_bytes(left, right)]
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]))
}

pub(crate) fn set_u16(bytes: &mut [u8], at: usize, value: usize) {
    let value = u16::try_from(value).expect("offsets in a page have 16 bits");
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}
