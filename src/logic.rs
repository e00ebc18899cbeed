//! What the store must know of the B-tree's pages.

use crate::store::{OverflowRange, PageLogic};
use crate::value::Handle;
use esker_index::btree;
use std::ops::Range;

/// The B-tree's page logic, as the store calls it.
#[derive(Debug)]
pub(crate) struct BTreeLogic {
    pub(crate) content_bytes: usize,
}

impl PageLogic for BTreeLogic {
    fn check(&self, level: u8, words: usize, body: &[u8]) -> Result<(), String> {
        if level == 0 {
            if words != 0 {
                return Err(format!("a leaf with {words} children"));
            }
            btree::check_leaf(body)
        } else {
            btree::check_branch(words, body)
        }
    }
    fn hole(&self, level: u8, body: &[u8]) -> Range<usize> {
        if level == 0 { btree::leaf_hole(body) } else { btree::branch_hole(body) }
    }
    fn overflow(&self, body: &[u8], visit: &mut dyn FnMut(OverflowRange)) {
        btree::overflow_handles(body, &mut |handle| {
            visit(Handle::decode(&handle).range(self.content_bytes));
        });
    }
}
