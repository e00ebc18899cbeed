//! A walk over a whole tree that checks every page and how they hang together (B1, B2).

use super::LEVELS_MAX;
use super::branch::{Pivots, Route, check_branch};
use super::leaf::{Leaf, check_leaf};
use crate::kind::{CheckStep, Checker, Handle, Value};
use crate::pages::{ChildWord, PageRead, Pages, Step, View};
use esker_base::PageId;

/// How far a walk has come. One call of [`Check::step`] checks one leaf and the way to it.
#[derive(Debug)]
pub struct Check {
    root: PageId,
    /// Where the next leaf begins; `None` at the end.
    next: Option<Vec<u8>>,
    /// Where the page that was last looked at begins and ends.
    begin: Vec<u8>,
    end: Option<Vec<u8>>,
    /// Leaves may have tombstones.
    tombstones: bool,
}

impl Check {
    /// Starts at the first leaf. `tombstones`: leaves may have such.
    pub fn new(root: PageId, tombstones: bool) -> Self {
        Self { root, next: Some(Vec::new()), begin: Vec::new(), end: None, tombstones }
    }

    /// Where the next leaf begins; `None` at the end.
    pub fn next_low(&self) -> Option<&[u8]> {
        self.next.as_deref()
    }
}

impl Checker for Check {
    fn skip(&mut self) {
        self.next.clone_from(&self.end);
    }

    fn place(&self) -> Option<(&[u8], Option<&[u8]>)> {
        Some((&self.begin, self.end.as_deref()))
    }

    /// Checks the next leaf and the branches above it.
    fn step<P: Pages>(
        &mut self,
        pages: &P,
        root: &ChildWord,
        view: View,
        visit: &mut dyn FnMut(Handle),
    ) -> Step<CheckStep> {
        let Some(next) = self.next.clone() else { return Ok(CheckStep::Done) };
        self.end = None;
        self.begin.clone_from(&next);
        let wrong = |page: PageId, what: String| Ok(CheckStep::Wrong(format!("{page:?}: {what}")));
        let mut word = ChildWord::new(root.page(), ChildWord::hint_of(root.load()));
        if word.page() != self.root {
            return wrong(word.page(), format!("the root was {:?}", self.root));
        }
        let mut level: Option<u8> = None;
        let mut low: Vec<u8> = Vec::new();
        loop {
            let page = pages.read(&word, view)?;
            if level.is_some_and(|level| level != page.level()) || page.level() > LEVELS_MAX {
                return wrong(page.id(), format!("level {} under {level:?}", page.level()));
            }
            if page.level() == 0 {
                let body = page.body();
                if let Err(what) = check_leaf(body, self.tombstones) {
                    return wrong(page.id(), what);
                }
                let leaf = Leaf::new(body);
                if leaf.low() != low || leaf.high() != self.end.as_deref() {
                    let (is, says) = ((leaf.low(), leaf.high()), (&low, &self.end));
                    let what = format!("its fences are {is:?}, its parent's pivots {says:?}");
                    return wrong(page.id(), what);
                }
                for i in 0..leaf.len() {
                    if let (_, Value::Overflow(handle)) = leaf.row(i) {
                        visit(handle);
                    }
                }
                self.next.clone_from(&self.end);
                return Ok(CheckStep::Page { rows: leaf.len() });
            }
            let (words, body) = (page.words(), page.body());
            if let Err(what) = check_branch(words.len(), body) {
                return wrong(page.id(), what);
            }
            let pivots = Pivots::new(body);
            let slot = pivots.child(Route::To(&next));
            if slot > 0 {
                low = pivots.key(slot - 1);
            }
            let end = (slot < pivots.len()).then(|| pivots.key(slot)).or(self.end.take());
            if end.as_ref().is_some_and(|end| *end <= low) {
                return wrong(page.id(), "its pivots are not between its parent's".to_owned());
            }
            self.end = end;
            level = Some(page.level() - 1);
            let bits = words[slot].load();
            word = ChildWord::new(ChildWord::page_of(bits), ChildWord::hint_of(bits));
        }
    }
}
