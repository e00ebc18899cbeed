//! Splits: one bucket becomes two by its next bit.
//!
//! A split makes at most three new pages, whatever the table's size, and changes the bucket:
//!
//! | the bucket | new bucket | parent | new branch |
//! |---|---|---|---|
//! | is the root | two: both halves | | takes the root's id |
//! | is named by several words | upper half | replaced: half of the words name the new one | |
//! | by one, and the parent can take another bit | upper half | replaced by one of twice the words | |
//! | by one, and it cannot | upper half | replaced: the word names the new branch | over both halves |
//!
//! Everything is created before anything is published, so that a split is whole or has not begun. Then:
//! new pages, the replaced parent, and last the bucket, whose latch is held throughout: a reader that waits for
//! it then finds that the parent is not current any more. The bucket keeps its id and the lower half.
//!
//! All rows may go one way. Then only the way has become longer, and whoever needed room splits again:
//! that ends, since distinct keys differ in some round.

use super::Hash;
use super::branch::List;
use super::bucket::{self, Bucket};
use super::read::corrupt;
use super::way::{ROOT_LEVEL, bits_max};
use super::write::path_to;
use crate::pages::{ChildWord, PageNew, PageRead, PageWrite, Step, TurnPages};
use esker_base::PageId;

/// A word for a page that was just made.
fn word_of(page: PageId) -> u64 {
    ChildWord::pack(page, ChildWord::NO_HINT)
}

/// Splits a latched bucket on the way to `key`.
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
    let bucket = Bucket::new(page.body());
    let place = bucket.place();
    let halves = place.halves(hash, key, bits_max);
    let upper: Vec<bool> =
        (0..bucket.len()).map(|i| place.is_in_upper_half(hash, bucket.key(i), bits_max)).collect();
    let mut right = pages.create(0, 0)?;
    bucket::build_some(right.body_mut(), halves[1], bucket, |i| upper[i]);
    let right_word = word_of(right.id());

    let Some((node, slot)) = nodes.last() else {
        let mut left = pages.create(0, 0)?;
        bucket::build_some(left.body_mut(), halves[0], bucket, |i| !upper[i]);
        let mut top = pages.replace(page.id(), ROOT_LEVEL, 2)?;
        List::pair(word_of(left.id()), right_word).build(top.parts_mut());
        for changed in [left.id(), right.id(), page.id()] {
            table.filters.forget(changed);
        }
        pages.publish(left);
        pages.publish(right);
        pages.publish(top);
        return Ok(());
    };

    let (mut list, mut slot) = (List::of(node.words(), node.body()), *slot);
    let depth = u32::try_from(nodes.len() - 1).expect("few branches");
    if place.bits != depth * bits_max + list.locals().local(slot) {
        return Err(corrupt(&page, "a bucket that belongs elsewhere"));
    }
    let mut below = None;
    if list.locals().local(slot) < bits_max {
        if list.locals().run(slot).len() == 1 {
            list.double();
            slot *= 2;
        }
        let run = list.locals().run(slot);
        let middle = run.start + run.len() / 2;
        let left_word = list.word(slot);
        list.set_bucket(run.start..middle, left_word);
        list.set_bucket(middle..run.end, right_word);
    } else {
        let level = node.level() - 1;
        if level == 0 {
            return Err(corrupt(&page, "keys that have the same hash with every seed"));
        }
        let mut branch = pages.create(level, 2)?;
        List::pair(list.word(slot), right_word).build(branch.parts_mut());
        list.set_branch(slot, word_of(branch.id()));
        below = Some(branch);
    }
    let mut new = pages.replace(node.id(), node.level(), list.len())?;
    list.build(new.parts_mut());
    table.filters.forget(right.id());
    pages.publish(right);
    if let Some(branch) = below {
        table.filters.forget(branch.id());
        pages.publish(branch);
    }
    pages.publish(new);
    bucket::keep_some(page.body_mut(), halves[0], |i| !upper[i]);
    Ok(())
}
