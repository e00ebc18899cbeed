//! Following bits down.

use super::branch::{Locals, bits_of};
use super::way::{LOWEST_LEVEL, Route};
use crate::pages::{ChildWord, PageRead, Pages, Step, Stop, View};
use esker_base::{CommitNo, PageId};

/// A branch on the way down, and those above it: kept in the stack frames of the descent.
pub(crate) struct Above<'x, R> {
    page: &'x R,
    up: Option<&'x Above<'x, R>>,
}

/// True if no branch above has been replaced since it was read.
#[inline]
fn all_current<'a, P: Pages>(pages: &'a P, above: Option<&Above<'_, P::Read<'a>>>) -> bool {
    let mut next = above;
    while let Some(node) = next {
        if !pages.is_current(node.page) {
            return false;
        }
        next = node.up;
    }
    true
}

/// Damage that reading a single page does not show.
pub(crate) fn corrupt<R: PageRead>(page: &R, detail: &str) -> Stop {
    Stop::Corrupt { page: page.id(), detail: detail.to_owned() }
}

/// Checks the level of a page: levels fall on the way down, so that it ends.
#[inline]
pub(crate) fn check_level<R: PageRead>(page: &R, above: Option<u8>) -> Step<()> {
    let level = page.level();
    match above {
        Some(above) if level >= above => {
            Err(corrupt(page, &format!("a page of level {level} below {above}")))
        }
        _ => Ok(()),
    }
}

/// The local depth of a branch's child if that is a branch. The level says it of most that have none, without a
/// look at the body.
#[inline]
pub(crate) fn branch_at<R: PageRead>(branch: &R, slot: usize) -> Option<u32> {
    if branch.level() == LOWEST_LEVEL {
        return None;
    }
    let locals = Locals::new(branch.body());
    locals.is_branch(slot).then(|| locals.local(slot))
}

/// What a way down has led to.
pub(crate) enum Seen<'x, R> {
    /// The bucket, latched, and the branch above it, if it is not the root.
    Bucket(&'x R, Option<&'x R>),
    /// It is not in memory, and the key has been absent from it since this commit.
    Absent(CommitNo),
}

/// Goes down to a bucket and calls `f` with it once it is known to be the right one.
#[inline]
pub(crate) fn visit<'a, P: Pages, T>(
    pages: &'a P,
    root: &ChildWord,
    view: View,
    route: impl Route,
    f: impl FnOnce(&P::Read<'a>, Option<&P::Read<'a>>) -> T,
) -> Step<T> {
    visit_or_know(
        pages,
        root,
        view,
        route,
        |_| None,
        |seen| match seen {
            Seen::Bucket(page, above) => f(page, above),
            Seen::Absent(_) => unreachable!("nothing is known"),
        },
    )
}

/// As [`visit`]; `absent_since` may know that the key is absent from a page that is not in memory.
#[inline]
pub(crate) fn visit_or_know<'a, P: Pages, T>(
    pages: &'a P,
    root: &ChildWord,
    view: View,
    route: impl Route,
    absent_since: impl Fn(PageId) -> Option<CommitNo>,
    f: impl FnOnce(Seen<'_, P::Read<'a>>) -> T,
) -> Step<T> {
    visit_below(pages, root, view, route, None, absent_since, f)
}

fn visit_below<'a, P: Pages, T>(
    pages: &'a P,
    word: &ChildWord,
    view: View,
    mut route: impl Route,
    above: Option<&Above<'_, P::Read<'a>>>,
    absent_since: impl Fn(PageId) -> Option<CommitNo>,
    f: impl FnOnce(Seen<'_, P::Read<'a>>) -> T,
) -> Step<T> {
    let moved = || view == View::Current && !all_current(pages, above);
    let page = match pages.read_asked(word, view) {
        Ok(page) => page,
        Err(stop @ (Stop::Missing(_) | Stop::Corrupt { .. })) => {
            // First what is known, then whether it is of the right bucket.
            let since = match &stop {
                Stop::Missing(page) => absent_since(*page),
                _ => None,
            };
            return match since {
                // A page that the table has given up may be gone for good.
                _ if moved() => Err(Stop::Moved),
                Some(since) => Ok(f(Seen::Absent(since))),
                None => Err(stop),
            };
        }
        Err(stop) => return Err(stop),
    };
    if page.level() == 0 {
        return if moved() {
            Err(Stop::Moved)
        } else {
            Ok(f(Seen::Bucket(&page, above.map(|above| above.page))))
        };
    }
    if let Err(stop) = check_level(&page, above.map(|above| above.page.level())) {
        return Err(if moved() { Stop::Moved } else { stop });
    }
    let bits = bits_of(page.words());
    let slot = route.slot(bits);
    let next = &page.words()[slot];
    if let Some(local) = branch_at(&page, slot) {
        route.go_down(slot, bits, local);
    } else {
        route.ask_ahead(pages, next, bits);
    }
    let here = Above { page: &page, up: above };
    visit_below(pages, next, view, route, Some(&here), absent_since, f)
}

/// The branches on the way to a bucket, and the word that names the bucket.
pub(crate) struct Path<'a, P: Pages + 'a> {
    /// From the root down: the branch, and which word was taken.
    pub(crate) nodes: Vec<(P::Read<'a>, usize)>,
    root: u64,
}

impl<'a, P: Pages> Path<'a, P> {
    /// Goes down to the lowest branch; the bucket is not touched unless it is the root.
    pub(crate) fn down(
        pages: &'a P,
        root: &ChildWord,
        view: View,
        route: impl Route,
    ) -> Step<Self> {
        let (path, missing) = Self::down_in_memory(pages, root, view, route)?;
        missing.map_or(Ok(path), |page| Err(Stop::Missing(page)))
    }

    /// As `down`, but ends above a branch that is missing, and says which.
    pub(crate) fn down_in_memory(
        pages: &'a P,
        root: &ChildWord,
        view: View,
        mut route: impl Route,
    ) -> Step<(Self, Option<PageId>)> {
        let mut nodes: Vec<(P::Read<'a>, usize)> = Vec::with_capacity(4);
        let mut page = pages.read(root, view)?;
        let root = root.load();
        while page.level() > 0 {
            let (level, bits) = (page.level(), bits_of(page.words()));
            let slot = route.slot(bits);
            let branch = branch_at(&page, slot);
            nodes.push((page, slot));
            let Some(local) = branch else { break };
            route.go_down(slot, bits, local);
            let (parent, _) = nodes.last().expect("just pushed");
            page = match pages.read(&parent.words()[slot], view) {
                Ok(page) => page,
                Err(Stop::Missing(page)) => return Ok((Self { nodes, root }, Some(page))),
                Err(stop) => return Err(stop),
            };
            check_level(&page, Some(level))?;
            if page.level() == 0 {
                return Err(corrupt(&page, "a bucket instead of a branch"));
            }
        }
        Ok((Self { nodes, root }, None))
    }

    /// Names the bucket.
    pub(crate) fn bucket_word(&self) -> ChildWord {
        let bits = match self.nodes.last() {
            Some((branch, slot)) => branch.words()[*slot].load(),
            None => self.root,
        };
        ChildWord::new(ChildWord::page_of(bits), ChildWord::hint_of(bits))
    }
}
