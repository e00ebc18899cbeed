//! Merges: a sparse leaf goes into its neighbour, and branches that have become empty with it.

use super::branch::{List, Pivots, Route};
use super::leaf::{self, Leaf};
use super::read::Path;
use crate::pages::{ChildWord, PageNew, PageRead, PageWrite, Step, Stop, TurnPages, View};
use esker_base::PageId;

/// A merged leaf is at most this full, so that the next inserts do not split it again.
const FILL_PERCENT_MAX: usize = 75;

/// Joins the leaf of `key` with a neighbour, if both together fit well, and shortens a tree whose root has
/// one child. Returns whether anything changed.
///
/// # Errors
/// As [`TurnPages::write`]; `Missing` names a neighbour of an empty leaf that is not in memory.
pub fn merge_at<P: TurnPages>(pages: &P, root: &ChildWord, key: &[u8]) -> Step<bool> {
    let path = Path::down(pages, root, View::Current, Route::To(key))?;
    let Some((top, _)) = path.nodes.first() else { return Ok(false) };
    if top.words().len() == 1 {
        return shorten(pages, root, &path);
    }
    // The lowest branch that has a neighbour to offer; those below it have one child each and go
    // with the leaf.
    let fork = path.nodes.iter().rposition(|(node, _)| node.words().len() > 1);
    let fork = fork.expect("the root has two");
    let (node, slot) = &path.nodes[fork];
    let to_right = slot + 1 < node.words().len();
    let other_slot = if to_right { slot + 1 } else { slot - 1 };
    let route = if to_right { Route::First } else { Route::Last };
    let other_word = &node.words()[other_slot];
    let page = pages.write(&path.leaf_word())?;
    let other_path = match node.level() {
        1 => Ok(None),
        _ => Path::down(pages, other_word, View::Current, route).map(Some),
    };
    let mut other = match other_path.and_then(|path| match path {
        None => pages.write(other_word),
        Some(path) => pages.write(&path.leaf_word()),
    }) {
        // Worth a read only if it saves a page that would stay empty.
        Err(Stop::Missing(_)) if Leaf::new(page.body()).len() > 0 => return Ok(false),
        other => other?,
    };
    let (mine, its) = (Leaf::new(page.body()), Leaf::new(other.body()));
    let (left, right) = if to_right { (mine, its) } else { (its, mine) };
    let (low, high) = (left.low().to_vec(), right.high().map(<[u8]>::to_vec));
    let high = high.as_deref();
    let bytes = left.bytes_between(0..left.len(), &low, high)
        + right.bytes_between(0..right.len(), &low, high);
    let limit = match mine.len() {
        0 => page.body().len(),
        _ => page.body().len() * FILL_PERCENT_MAX / 100,
    };
    if bytes > limit {
        return Ok(false);
    }

    let (words, body) = (node.words(), node.body());
    let mut list = List::default();
    list.extend(words, body, 0..*slot);
    if *slot > 0 && slot + 1 < words.len() {
        // The pivot on my left now bounds my right neighbour, which takes my keys.
        list.push_pivot(&[&Pivots::new(body).key(slot - 1)]);
    }
    list.extend(words, body, slot + 1..words.len());
    let n = list.children();
    let mut new = pages.replace(node.id(), node.level(), n)?;
    list.build(0..n, new.parts_mut());

    let mut merged = vec![0; other.body().len()];
    let parts = [(left, 0..left.len()), (right, 0..right.len())];
    leaf::build(&mut merged, &low, high, &parts);
    pages.publish(new);
    other.body_mut().copy_from_slice(&merged);
    pages.free(page.id());
    esker_base::mark::BTREE_MERGED.hit();
    for (gone, _) in &path.nodes[fork + 1..] {
        pages.free(gone.id());
    }
    Ok(true)
}

/// Puts the only child of the root in its place.
fn shorten<'a, P: TurnPages>(pages: &'a P, root: &ChildWord, path: &Path<'a, P>) -> Step<bool> {
    esker_base::mark::BTREE_SHORTENED.hit();
    let root: PageId = root.page();
    if let [_, (child, _), ..] = &path.nodes[..] {
        let mut new = pages.replace(root, child.level(), child.words().len())?;
        let (words, body) = new.parts_mut();
        for (word, from) in words.iter_mut().zip(child.words()) {
            *word = from.load();
        }
        body.copy_from_slice(child.body());
        pages.publish(new);
        pages.free(child.id());
        return Ok(true);
    }
    let leaf = pages.write(&path.leaf_word())?;
    let mut new = pages.replace(root, 0, 0)?;
    new.body_mut().copy_from_slice(leaf.body());
    pages.publish(new);
    pages.free(leaf.id());
    Ok(true)
}
