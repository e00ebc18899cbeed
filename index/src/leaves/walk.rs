//! Going from leaf to leaf: all rows, and the check of everything.

use super::{LeafFormat, Way};
use crate::kind::{CheckStep, Checker, Cursor, Handle, Value};
use crate::pages::{ChildWord, PageRead, Pages, Step, View};
use std::fmt;

/// Where a walk over all leaves is. What it keeps must outlast changes to the tree (a key, not a page), and is not
/// moved on by [`Self::way`] alone, which may stop.
pub trait LeafWalk: fmt::Debug + Send {
    /// The way to the next leaf; `None` at the end. If it stops, [`Self::go_on`] must still lead behind the page that could
    /// not be read.
    ///
    /// # Errors
    /// As [`Way::down`].
    fn way<'a, P: Pages>(
        &mut self,
        pages: &'a P,
        root: &ChildWord,
        view: View,
    ) -> Step<Option<Way<'a, P>>>;
    /// Goes on behind the last [`Self::way`].
    fn go_on(&mut self);
    /// Checks how the pages of a way, which the last [`Self::way`] gave, hang together. Each of them was
    /// accepted by [`Kind::check_page`](crate::kind::Kind::check_page) when it came from disk.
    ///
    /// # Errors
    /// What is wrong.
    fn check<P: Pages>(&self, way: &Way<'_, P>) -> Result<(), String>;
}

/// All rows, in the order of a walk: each leaf is copied under its latch.
#[derive(Debug)]
pub struct LeafCursor<F, W> {
    format: F,
    walk: W,
    /// The leaf; empty before the first.
    leaf: Vec<u8>,
    /// The place of the row that it is at, and of the next.
    row: usize,
    next: usize,
    is_over: bool,
}

impl<F, W> LeafCursor<F, W> {
    /// Before the first row of a walk.
    pub fn new(format: F, walk: W) -> Self {
        Self { format, walk, leaf: Vec::new(), row: 0, next: 0, is_over: false }
    }
}

impl<F: LeafFormat, W: LeafWalk> Cursor for LeafCursor<F, W> {
    fn next_in_memory(&mut self) -> Option<bool> {
        if !self.leaf.is_empty()
            && let Some(row) = self.format.row(&self.leaf, self.next)
        {
            (self.row, self.next) = (self.next, row.place.end);
            return Some(true);
        }
        self.is_over.then_some(false)
    }
    fn next<P: Pages>(&mut self, pages: &P, root: &ChildWord, view: View) -> Step<bool> {
        loop {
            if let Some(found) = self.next_in_memory() {
                return Ok(found);
            }
            match self.walk.way(pages, root, view)? {
                Some(way) => {
                    way.leaf.body().clone_into(&mut self.leaf);
                    self.next = 0;
                    self.walk.go_on();
                }
                None => self.is_over = true,
            }
        }
    }
    fn row(&mut self) -> (&[u8], Value<'_>) {
        let row = self.format.row(&self.leaf, self.row).expect("it is at a row");
        (row.key, row.value)
    }
}

/// A check of all leaves of a walk, and of the ways to them.
#[derive(Debug)]
pub struct LeafCheck<F, W> {
    format: F,
    walk: W,
}

impl<F, W> LeafCheck<F, W> {
    /// Before the first leaf of a walk.
    pub fn new(format: F, walk: W) -> Self {
        Self { format, walk }
    }
}

impl<F: LeafFormat, W: LeafWalk> Checker for LeafCheck<F, W> {
    fn step<P: Pages>(
        &mut self,
        pages: &P,
        root: &ChildWord,
        view: View,
        visit: &mut dyn FnMut(Handle),
    ) -> Step<CheckStep> {
        let Some(way) = self.walk.way(pages, root, view)? else { return Ok(CheckStep::Done) };
        let body = way.leaf.body();
        let mut keys: Vec<&[u8]> = self.format.rows(body).map(|row| row.key).collect();
        keys.sort_unstable();
        let twice = keys.windows(2).any(|pair| pair[0] == pair[1]);
        let once = if twice { Err("a key twice".to_owned()) } else { Ok(()) };
        if let Err(what) = once.and_then(|()| self.walk.check(&way)) {
            return Ok(CheckStep::Wrong(format!("{:?}: {what}", way.leaf.id())));
        }
        self.format.each_handle(body, visit);
        self.walk.go_on();
        Ok(CheckStep::Page { rows: keys.len() })
    }
    fn skip(&mut self) {
        self.walk.go_on();
    }
}
