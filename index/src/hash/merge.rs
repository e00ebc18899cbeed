//! Merges: two buckets that differ in their last bit become one.
//!
//! The branch above is replaced by one that says so, with as few words as it then needs. If it needs one only,
//! the bucket takes its place: in the branch above, or as the root.

use super::Hash;
use super::branch::{Child, List};
use super::bucket::{self, Bucket};
use super::read::{Path, corrupt};
use super::way::{Place, ToKey};
use crate::pages::{ChildWord, PageNew, PageRead, PageWrite, Step, Stop, TurnPages, View};

/// A merged bucket is at most this full, so that the next inserts do not split it again.
const FILL_PERCENT_MAX: usize = 60;

/// Joins the bucket of `key` with the one beside it, if that is a bucket and both together fit well. Returns whether
/// anything changed: then there may be more to join.
///
/// # Errors
/// As [`TurnPages::write`]; `Missing` names a page that is not in memory.
pub(crate) fn tidy<P: TurnPages>(
    table: &Hash,
    pages: &P,
    root: &ChildWord,
    key: &[u8],
) -> Step<bool> {
    let hash = table.hasher;
    let path = Path::down(pages, root, View::Current, ToKey::new(hash, key))?;
    let Some((node, slot)) = path.nodes.last() else { return Ok(false) };
    let mut list = List::of(node.words(), node.body());
    let (locals, run) = (list.locals(), list.locals().run(*slot));
    let beside = run.start ^ run.len();
    if locals.is_branch(beside) || locals.local(beside) != locals.local(*slot) {
        return Ok(false);
    }
    if node.words()[beside].page() == node.words()[*slot].page() {
        return Err(corrupt(node, "the same child twice"));
    }
    let mut page = pages.write(&node.words()[*slot])?;
    let other = match pages.write(&node.words()[beside]) {
        // Worth a read only if it saves a page that would stay empty.
        Err(Stop::Missing(_)) if Bucket::new(page.body()).len() > 0 => return Ok(false),
        other => other?,
    };
    let (mine, its) = (Bucket::new(page.body()), Bucket::new(other.body()));
    let limit = match mine.len() {
        0 => page.body().len(),
        _ => page.body().len() * FILL_PERCENT_MAX / 100,
    };
    if mine.joined_bytes(its) > limit {
        return Ok(false);
    }
    let bits = mine.place().bits;
    if bits == 0 || bits != its.place().bits {
        return Err(corrupt(&page, "a bucket that belongs elsewhere"));
    }
    let place = Place::of(hash, key, bits - 1);
    let mut joined = vec![0; page.body().len()];
    bucket::build_joined(&mut joined, place, [mine, its]);

    let word = node.words()[*slot].load();
    let start = run.start & !run.len();
    list.set(start..start + 2 * run.len(), Child::bucket(word));
    list.halve();
    let alone = list.len() == 1;
    if alone && list.front.is_some() {
        // A front hangs from a branch. It goes first, once it is empty.
        return Ok(false);
    }
    for changed in [page.id(), other.id(), node.id()] {
        table.filters.forget(changed);
    }
    let new = match path.nodes.len().checked_sub(2).map(|above| &path.nodes[above]) {
        _ if !alone => {
            let mut new = pages.replace(node.id(), list.level(node.level()), list.area())?;
            list.build(new.parts_mut());
            new
        }
        None => {
            let mut new = pages.replace(node.id(), 0, 0)?;
            new.body_mut().copy_from_slice(&joined);
            pages.publish(new);
            pages.free(page.id());
            pages.free(other.id());
            return Ok(true);
        }
        Some((above, slot)) => {
            let mut list = List::of(above.words(), above.body());
            list.set(list.locals().run(*slot), Child::bucket(word));
            let mut new = pages.replace(above.id(), list.level(above.level()), list.area())?;
            list.build(new.parts_mut());
            new
        }
    };
    pages.publish(new);
    esker_base::mark::HASH_JOINED.hit();
    page.body_mut().copy_from_slice(&joined);
    if alone {
        esker_base::mark::HASH_BRANCH_GONE.hit();
        pages.free(node.id());
    }
    pages.free(other.id());
    Ok(true)
}
