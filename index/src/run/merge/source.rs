//! One source of a merge: its cursor, what shadows it, and the row it is at.

use super::super::walk::RangeWalk;
use super::{MergeConfig, MergeSource};
use crate::btree::TreeCursor;
use crate::kind::{Cursor, Direction, Handle, Value};
use crate::pages::ChildWord;

/// What a source's row is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row {
    Inline,
    Large,
    /// It is shadowed, and waits for others of the same key only because they may have the same handle.
    ShadowedLarge,
    Tombstone,
    /// There is none any more.
    End,
}

#[derive(Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "what is known of a source, in facts that do not exclude each other"
)]
pub(super) struct Source {
    pub(super) tree: ChildWord,
    pub(super) cursor: TreeCursor,
    /// What newer sources delete of it.
    pub(super) shadow: Option<RangeWalk>,
    /// It may be stepped over where it is shadowed.
    pub(super) may_skip: bool,
    /// There may be others than inline values.
    pub(super) is_mixed: bool,
    pub(super) is_counted: bool,
    /// What the cursor said when a page was fetched.
    pub(super) fetched: Option<bool>,
    /// Shadowed rows in a row, for the way back.
    pub(super) shadowed_in_row: u32,
    pub(super) row: Row,
    /// The row's key, once it was needed.
    pub(super) key: Vec<u8>,
    pub(super) has_key: bool,
}

impl Source {
    pub(super) fn new(
        source: &MergeSource,
        shadow: Option<RangeWalk>,
        (low, high): (&[u8], Option<&[u8]>),
        config: MergeConfig,
    ) -> Self {
        let (page, hint) = (ChildWord::page_of(source.tree), ChildWord::hint_of(source.tree));
        Self {
            tree: ChildWord::new(page, hint),
            // A merge reads its sources to their ends; a scan may stop at any row.
            cursor: match TreeCursor::new(low, high, config.direction) {
                cursor if config.report_large => cursor.eager(),
                cursor => cursor,
            },
            shadow,
            may_skip: !(config.report_large && source.has_large || source.is_counted),
            is_mixed: source.has_large || source.has_tombstones || source.is_counted,
            is_counted: source.is_counted,
            fetched: None,
            shadowed_in_row: 0,
            row: Row::Inline,
            key: Vec::new(),
            has_key: false,
        }
    }
    #[inline]
    pub(super) fn next_in_memory(&mut self) -> Option<bool> {
        self.fetched.take().or_else(|| self.cursor.next_in_memory())
    }
    /// Copies the key of its row out.
    pub(super) fn keep_key(&mut self) {
        if !self.has_key {
            self.cursor.row().0.clone_into(&mut self.key);
            self.has_key = true;
        }
    }
    pub(super) fn large(&mut self) -> Option<Handle> {
        match self.cursor.row().1 {
            Value::Overflow(handle) => Some(handle),
            _ => None,
        }
    }
    /// Steps over the range that shadows its row, or what is left of it.
    pub(super) fn skip_shadow(
        &mut self,
        (low, high): (&[u8], Option<&[u8]>),
        direction: Direction,
    ) {
        // On the way back a cursor is made anew, which costs a descent.
        const ROWS_BEFORE_DESCENT: u32 = 64;
        let Some(shadow) = &self.shadow else { return };
        let (from, to) = shadow.range();
        self.shadowed_in_row += 1;
        match (direction, to) {
            (Direction::Forward, Some(to)) if high.is_none_or(|high| to < high) => {
                self.cursor.seek(to);
            }
            (Direction::Forward, _) => self.row = Row::End,
            (Direction::Backward, _) if from <= low => self.row = Row::End,
            (Direction::Backward, _) if self.shadowed_in_row >= ROWS_BEFORE_DESCENT => {
                self.cursor = TreeCursor::new(low, Some(from), direction);
                self.shadowed_in_row = 0;
            }
            (Direction::Backward, _) => {}
        }
    }
}
