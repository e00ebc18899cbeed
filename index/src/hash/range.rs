//! Deleting everything: the only range of a table without order.

use super::Hash;
use super::branch::{Locals, front_of};
use super::bucket::{self, Bucket};
use super::read::Path;
use super::way::{Along, Place};
use crate::kind::{Handle, PreparedRange};
use crate::pages::{ChildWord, PageNew, PageRead, PageWrite, Step, TurnPages, View};
use std::cell::RefCell;

/// A delete of everything, ready to be carried out. Dropping it changes nothing.
pub struct Everything<'a, P: TurnPages + 'a> {
    table: &'a Hash,
    pages: &'a P,
    what: What<'a, P>,
}

enum What<'a, P: TurnPages + 'a> {
    /// The root is a bucket.
    Bucket(P::Write<'a>),
    /// It is a branch: the empty bucket in its place, and word and level of what hangs below.
    Trees(P::New<'a>, Vec<(u64, u8)>),
}

impl<P: TurnPages> std::fmt::Debug for Everything<'_, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Everything").finish_non_exhaustive()
    }
}

/// Makes ready to delete all rows.
pub(crate) fn prepare<'a, P: TurnPages>(
    table: &'a Hash,
    pages: &'a P,
    root: &ChildWord,
) -> Step<Everything<'a, P>> {
    let trail = RefCell::default();
    let along = Along::new(&[], pages.content_bytes(), &trail);
    let path = Path::down(pages, root, View::Current, along)?;
    let Some((top, _)) = path.nodes.first() else {
        return Ok(Everything { table, pages, what: What::Bucket(pages.write(root)?) });
    };
    let mut new = pages.replace(top.id(), 0, 0)?;
    bucket::init(new.body_mut(), Place::ROOT);
    let locals = Locals::new(top.body());
    let tree = |slot: usize| {
        let level = if locals.is_branch(slot) { top.level() - 1 } else { 0 };
        (top.words()[slot].load(), level)
    };
    let front = front_of(top.words()).map(|word| (word.load(), 1));
    let trees = locals.children_from(0).map(tree).chain(front).collect();
    Ok(Everything { table, pages, what: What::Trees(new, trees) })
}

impl<P: TurnPages> PreparedRange for Everything<'_, P> {
    fn apply(self, replaced: &mut dyn FnMut(Handle)) -> i64 {
        self.table.filters.forget_all();
        match self.what {
            What::Bucket(mut page) => {
                let rows = Bucket::new(page.body()).len();
                if rows > 0 {
                    bucket::handles(page.body(), replaced);
                    bucket::init(page.body_mut(), Place::ROOT);
                }
                -i64::try_from(rows).expect("rows of a bucket")
            }
            What::Trees(new, trees) => {
                self.pages.publish(new);
                self.table.lines.was_cleared();
                self.table.front.was_cleared();
                for (word, level) in trees {
                    self.pages.free_tree(word, level);
                }
                // Nobody has counted them; the table is empty in any case.
                -i64::MAX
            }
        }
    }
}
