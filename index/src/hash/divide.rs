//! Dividing a branch that cannot take another bit: by its first bit, into two that begin one bit later and can.
//!
//! | the branch | new branches | replaced | given up |
//! |---|---|---|---|
//! | hangs below one that can take another bit for it | both halves | its parent | it |
//! | hangs below one that cannot | | that one is divided first | |
//! | is the root | both halves | the root: one bit, over both | |
//!
//! As a B-tree, the trie grows at the top, so that branches stay half full and more: about 25 bytes of frames a
//! bucket. A call divides one branch, three new pages at most; who needs more calls again. A half with one child is no
//! branch: the child takes its place. Where few children have made a branch so deep, since some hashes
//! agree in more bits than it is likely, halves would have one child again and again: such a branch is left as it
//! is, and another one hung below it.
//!
//! Both halves are new pages: who has read the parent before and comes to the branch after must not take the half for the
//! whole. No key moves between buckets, so none is latched; a reader on its way through the parent finds that it is not
//! current any more.

use super::Hash;
use super::branch::{Child, Half, List, Locals};
use super::split::word_of;
use super::way::{LOWEST_LEVEL, ROOT_LEVEL, bits_max};
use crate::pages::{PageNew, PageRead, Step, TurnPages};

/// A branch is worth dividing if it has a child for so many words.
const WORDS_PER_CHILD_MAX: usize = 8;

/// The level of a branch that gets a branch below it, below one of level `above`; `None` if there is no room
/// between.
pub(crate) fn level_with_branches(level: u8, above: Option<u8>) -> Option<u8> {
    if level > LOWEST_LEVEL {
        return Some(level);
    }
    let level = above.map_or(ROOT_LEVEL, |above| above - 1);
    (level > LOWEST_LEVEL).then_some(level)
}

/// Divides one of the branches on a way, from the root down, of which the last one can take no more bits where the way
/// goes. False if that is not worth it: nothing has changed then.
pub(crate) fn divide<'a, P: TurnPages>(
    table: &Hash,
    pages: &'a P,
    nodes: &[(P::Read<'a>, usize)],
) -> Step<bool> {
    let bits_max = bits_max(pages.content_bytes());
    let mut at = nodes.len() - 1;
    let list = loop {
        let (node, _) = &nodes[at];
        let list = List::of(node.words(), node.body());
        if list.children() * WORDS_PER_CHILD_MAX < list.len() {
            return Ok(false);
        }
        match at.checked_sub(1).map(|above| &nodes[above]) {
            Some((above, slot)) if Locals::new(above.body()).local(*slot) == bits_max => at -= 1,
            _ => break list,
        }
    };
    let node = &nodes[at].0;
    let halves = [list.half(false), list.half(true)];
    let mut new = Vec::with_capacity(2);
    let mut child_of = |half: &Half| -> Step<Child> {
        match half {
            Half::Child(child) => Ok(*child),
            Half::Branch(list) => {
                let mut page = pages.create(list.level(node.level()), list.len())?;
                list.build(page.parts_mut());
                let child = Child::branch(word_of(page.id()));
                new.push(page);
                Ok(child)
            }
        }
    };
    let children = [child_of(&halves[0])?, child_of(&halves[1])?];
    let above = at.checked_sub(1).map(|above| &nodes[above]);
    let (replaced, list, level) = if let Some((above, slot)) = above {
        let mut list = List::of(above.words(), above.body());
        list.split(*slot, children);
        let level = list.level(above.level());
        (above.id(), list, level)
    } else {
        let level = match node.level() {
            LOWEST_LEVEL => ROOT_LEVEL,
            u8::MAX => return Ok(false),
            level => level + 1,
        };
        let mut top = List::pair(children);
        top.front = list.front;
        (node.id(), top, level)
    };
    let mut top = pages.replace(replaced, level, list.area())?;
    list.build(top.parts_mut());
    for page in new {
        table.filters.forget(page.id());
        pages.publish(page);
    }
    pages.publish(top);
    esker_base::mark::HASH_DIVIDED.hit();
    if replaced != node.id() {
        table.filters.forget(node.id());
        pages.free(node.id());
    }
    Ok(true)
}
