//! Going down to a leaf.

use crate::pages::{ChildWord, PageRead, Pages, Step, Stop, TurnPages, View};
use std::fmt;

/// The branches on the way to a leaf, from the root down, and the leaf, latched for reading.
pub struct Way<'a, P: Pages + 'a> {
    /// Each with the number of the word that was taken in it.
    pub branches: Vec<(P::Read<'a>, usize)>,
    /// The leaf.
    pub leaf: P::Read<'a>,
}

impl<'a, P: Pages> Way<'a, P> {
    /// Goes down from the root, in each branch by the word that `choose` names. Levels must fall on the way, so
    /// that it ends, however damaged the pages are.
    ///
    /// # Errors
    /// As [`Pages::read`]; `Corrupt` where a level does not fall; `Moved` if the tree changed on the way, for
    /// a reader of the newest state.
    pub fn down(
        pages: &'a P,
        root: &ChildWord,
        view: View,
        mut choose: impl FnMut(&P::Read<'a>) -> usize,
    ) -> Step<Self> {
        let mut branches: Vec<(P::Read<'a>, usize)> = Vec::new();
        let mut page = pages.read(root, view);
        loop {
            let met = page.and_then(|page| match branches.last() {
                Some((above, _)) if above.level() <= page.level() => {
                    let detail = format!("level {} below {}", page.level(), above.level());
                    Err(Stop::Corrupt { page: page.id(), detail })
                }
                _ => Ok(page),
            });
            if let Ok(branch) = &met
                && branch.level() > 0
            {
                let slot = choose(branch);
                page = pages.read(&branch.words()[slot], view);
                branches.push((met?, slot));
                continue;
            }
            // Nothing can move out of a leaf that is latched: if all branches are still current, it is the right
            // one. And if they are not, what went wrong below them need not be wrong.
            let moved = |(branch, _): &(P::Read<'a>, usize)| !pages.is_current(branch);
            if view == View::Current && branches.iter().any(moved) {
                return Err(Stop::Moved);
            }
            return Ok(Self { branches, leaf: met? });
        }
    }
}

impl<'a, P: TurnPages> Way<'a, P> {
    /// Latches the leaf for writing: the branches above it, and the leaf. `root` is what the way began with.
    ///
    /// # Errors
    /// As [`TurnPages::write`].
    #[expect(clippy::type_complexity, reason = "two things that are used apart")]
    pub fn latch(
        self,
        pages: &'a P,
        root: &ChildWord,
    ) -> Step<(Vec<(P::Read<'a>, usize)>, P::Write<'a>)> {
        let Self { branches, leaf } = self;
        // The latch for readers has to go before the one for writers can be had. In the turn nobody else moves anything.
        drop(leaf);
        let word = branches.last().map_or(root, |(branch, slot)| &branch.words()[*slot]);
        let leaf = pages.write(word)?;
        Ok((branches, leaf))
    }
}

impl<P: Pages> fmt::Debug for Way<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let branches = self.branches.iter().map(|(branch, slot)| (branch.id(), slot));
        f.debug_list().entries(branches).entry(&self.leaf.id()).finish()
    }
}
