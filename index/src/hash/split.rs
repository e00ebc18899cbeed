//! Splits: one bucket becomes two by its next bit.
//!
//! | the bucket | new bucket | parent | new branch |
//! |---|---|---|---|
//! | is the root | two: both halves | | takes the root's id |
//! | is named by several words | upper half | replaced: half of the words name the new one | |
//! | by one, and the parent can take another bit | upper half | replaced by one of twice the words | |
//! | by one, and it cannot | | is divided first (`divide`) | |
//! | by one, and it is not worth dividing | upper half | replaced: the word names the new branch | over both halves |
//!
//! Everything is created before anything is published, so that a split is whole or has not begun: three new pages at
//! most, whatever the table's size. Then: new pages, the replaced parent, and last the bucket, whose latch is
//! held throughout: a reader that waits for it then finds that the parent is not current any more. The bucket keeps its id
//! and the lower half.
//!
//! All rows may go one way. Then only the way has become longer, and whoever needed room splits again:
//! that ends, since distinct keys differ in some round.

use super::Hash;
use super::branch::{Child, List, Locals};
use super::bucket::{self, Bucket};
use super::divide::{divide, level_with_branches};
use super::read::corrupt;
use super::way::{LOWEST_LEVEL, bits_max};
use super::write::path_to;
use crate::pages::{ChildWord, PageNew, PageRead, PageWrite, Step, TurnPages};
use esker_base::PageId;

/// A word for a page that was just made.
pub(crate) fn word_of(page: PageId) -> u64 {
    ChildWord::pack(page, ChildWord::NO_HINT)
}

/// Makes room on the way to `key`: splits a latched bucket, or divides a branch above it.
pub(crate) fn split<'a, P: TurnPages>(
    table: &Hash,
    pages: &'a P,
    root: &ChildWord,
    mut page: P::Write<'a>,
    key: &[u8],
) -> Step<()> {
    let (hash, bits_max) = (table.hasher, bits_max(pages.content_bytes()));
    let path = path_to(hash, pages, root, &page, key)?;
    let nodes = path.as_ref().map_or(&[][..], |path| &path.nodes);
    let is_full =
        nodes.last().is_some_and(|(node, slot)| Locals::new(node.body()).local(*slot) == bits_max);
    if is_full && divide(table, pages, nodes)? {
        return Ok(());
    }
    let bucket = Bucket::new(page.body());
    let place = bucket.place();
    let halves = place.halves(hash, key);
    let upper: Vec<bool> =
        (0..bucket.len()).map(|i| place.is_in_upper_half(hash, bucket.key(i))).collect();
    let mut right = pages.create(0, 0)?;
    bucket::build_some(right.body_mut(), halves[1], bucket, |i| upper[i]);
    let right_child = Child::bucket(word_of(right.id()));

    let Some((node, slot)) = nodes.last() else {
        let mut left = pages.create(0, 0)?;
        bucket::build_some(left.body_mut(), halves[0], bucket, |i| !upper[i]);
        let mut top = pages.replace(page.id(), LOWEST_LEVEL, 2)?;
        List::pair([Child::bucket(word_of(left.id())), right_child]).build(top.parts_mut());
        for changed in [left.id(), right.id(), page.id()] {
            table.filters.forget(changed);
        }
        pages.publish(left);
        pages.publish(right);
        pages.publish(top);
        return Ok(());
    };

    let (mut list, slot) = (List::of(node.words(), node.body()), *slot);
    let bits: u32 = nodes.iter().map(|(node, slot)| Locals::new(node.body()).local(*slot)).sum();
    if place.bits != bits {
        return Err(corrupt(&page, "a bucket that belongs elsewhere"));
    }
    let (mut level, mut below) = (node.level(), None);
    let left_child = Child::bucket(list.word(slot));
    if is_full {
        let above = nodes.len().checked_sub(2).map(|above| nodes[above].0.level());
        let Some(higher) = level_with_branches(level, above) else {
            return Err(corrupt(&page, "keys that have the same hash with every seed"));
        };
        level = higher;
        let mut branch = pages.create(LOWEST_LEVEL, 2)?;
        List::pair([left_child, right_child]).build(branch.parts_mut());
        list.set(slot..slot + 1, Child::branch(word_of(branch.id())));
        below = Some(branch);
    } else {
        list.split(slot, [left_child, right_child]);
    }
    let mut new = pages.replace(node.id(), level, list.area())?;
    list.build(new.parts_mut());
    table.filters.forget(right.id());
    pages.publish(right);
    if let Some(branch) = below {
        table.filters.forget(branch.id());
        pages.publish(branch);
    }
    pages.publish(new);
    esker_base::mark::HASH_SPLIT.hit();
    bucket::keep_some(page.body_mut(), halves[0], |i| !upper[i]);
    Ok(())
}
