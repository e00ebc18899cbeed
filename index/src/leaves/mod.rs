//! Parts for kinds that keep each row in one leaf: what is the same in all of them, whatever leads to the leaves.
//!
//! | a kind has | and gets |
//! |---|---|
//! | how rows lie in a leaf ([`LeafFormat`]) | prepared writes ([`LatchedLeaf`]), the delete of everything ([`DeleteAll`]) |
//! | which word of a branch leads on | the way to a leaf, safe beside writers ([`Way`]) |
//! | the way to the next leaf ([`LeafWalk`]) | a cursor ([`LeafCursor`]) and a check ([`LeafCheck`]) |
//!
//! They are made for few lines, not for speed: a row is found again at each step, and a cursor reads nothing ahead.
//! `examples/fourth_kind.rs` is written with all of them; a kind takes those that suit it.

#[cfg(test)]
mod tests;
mod walk;
mod way;
mod write;

pub use walk::{LeafCheck, LeafCursor, LeafWalk};
pub use way::Way;
pub use write::{DeleteAll, LatchedLeaf};

use crate::kind::{Handle, Value};
use std::fmt;
use std::ops::Range;

/// A row of a leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row<'b> {
    /// The key.
    pub key: &'b [u8],
    /// What it holds.
    pub value: Value<'b>,
    /// Where it stands, and where the next one does: in bytes or in rows, as the format has it.
    pub place: Range<usize>,
}

/// How rows lie in a leaf. The bodies that come here were made by [`Self::clear`] and [`Self::change`], or were accepted by
/// [`Kind::check_page`](crate::kind::Kind::check_page).
pub trait LeafFormat: fmt::Debug + Send + Sync + 'static {
    /// Makes a body a leaf without rows, whatever it was.
    fn clear(&self, body: &mut [u8]);
    /// The row at a place: 0, or the end of another row's. `None` behind the last one.
    fn row<'b>(&self, body: &'b [u8], at: usize) -> Option<Row<'b>>;
    /// Puts (`None`: deletes) what `key` holds, which there may be, and for which there is room.
    fn change(&self, body: &mut [u8], key: &[u8], value: Option<&Value<'_>>);
    /// True if a leaf that rows were deleted from should be tidied up
    /// ([`Kind::tidy`](crate::kind::Kind::tidy)).
    fn is_sparse(&self, _body: &[u8]) -> bool {
        false
    }

    /// All rows, in the order in which they lie.
    fn rows<'b>(&self, body: &'b [u8]) -> impl Iterator<Item = Row<'b>> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let row = self.row(body, at)?;
            at = row.place.end;
            Some(row)
        })
    }
    /// The row of a key. Looks at one after the other, unless the format knows better.
    fn find<'b>(&self, body: &'b [u8], key: &[u8]) -> Option<Row<'b>> {
        self.rows(body).find(|row| row.key == key)
    }
    /// Calls `visit` with the handle of each large value.
    fn each_handle(&self, body: &[u8], visit: &mut dyn FnMut(Handle)) {
        self.rows(body).filter_map(|row| row.value.handle()).for_each(visit);
    }
}
