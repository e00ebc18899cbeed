//! Iteration: one bucket after the other, in the order of the hash, is copied out, and rows are lent out of the
//! copy.

use super::branch::{Locals, bits_of};
use super::bucket::Bucket;
use super::read::{Path, visit};
use super::way::{Along, Taken, behind, bits_max};
use crate::kind::{Ahead, Cursor, Value};
use crate::pages::{ChildWord, PageRead, Pages, Step, View};
use esker_base::PageId;
use std::cell::RefCell;

/// Pages asked for at once by an iteration that goes on: two at its second bucket, then twice as many each
/// time, up to this.
const READ_AHEAD_MAX: usize = 32;

/// All rows of a table, in no order that means anything.
#[derive(Debug)]
pub struct HashCursor {
    copy: Vec<u8>,
    /// The row it is at, plus one; 0 before the first.
    at: usize,
    count: usize,
    /// Where the next bucket begins; `None` at the end.
    next: Option<Vec<u16>>,
    next_hint: Option<u32>,
    used_bytes: (usize, usize),
    started: bool,
    /// Pages asked for at once the last time.
    window: usize,
}

impl HashCursor {
    pub(crate) fn new() -> Self {
        Self {
            copy: Vec::new(),
            at: 0,
            count: 0,
            next: Some(Vec::new()),
            next_hint: None,
            used_bytes: (0, 0),
            started: false,
            window: 1,
        }
    }

    fn fill(&mut self, body: &[u8]) {
        // Records lie everywhere: no part of it is worth leaving out.
        self.copy.clear();
        self.copy.extend_from_slice(body);
        self.used_bytes = (body.len(), 0);
        self.at = 0;
        self.count = Bucket::new(body).len();
        self.started = true;
    }

    /// Moves on behind the bucket that was just copied, which `trail` and a branch lead to.
    fn go_on<R: PageRead>(&mut self, trail: &[Taken], parent: Option<&R>, bits_max: u32) {
        self.next_hint = None;
        let (Some(parent), Some(digits)) = (parent, self.next.take()) else { return };
        let (bits, locals) = (bits_of(parent.words()), Locals::new(parent.body()));
        let digit = digits.get(trail.len()).copied().unwrap_or(0);
        let slot = usize::from(digit) >> (bits_max - bits);
        let next = parent.words().get(locals.run(slot).end).map(ChildWord::load);
        let hint = next.map(ChildWord::hint_of);
        self.next_hint = hint.filter(|hint| *hint != ChildWord::NO_HINT);
        self.next = behind(trail, Taken::new(slot, bits, locals.local(slot), bits_max), bits_max);
    }
}

impl Cursor for HashCursor {
    #[inline]
    fn next_in_memory(&mut self) -> Option<bool> {
        if self.at < self.count {
            self.at += 1;
            return Some(true);
        }
        self.next.is_none().then_some(false)
    }

    fn next<P: Pages>(&mut self, pages: &P, root: &ChildWord, view: View) -> Step<bool> {
        loop {
            if let Some(found) = self.next_in_memory() {
                return Ok(found);
            }
            let digits = self.next.clone().unwrap_or_default();
            let content_bytes = pages.content_bytes();
            let trail = RefCell::default();
            let along = Along::new(&digits, content_bytes, &trail);
            visit(pages, root, view, along, |bucket, above| {
                self.fill(bucket.body());
                self.go_on(&trail.borrow(), above, bits_max(content_bytes));
            })?;
        }
    }

    #[inline]
    fn row(&mut self) -> (&[u8], Value<'_>) {
        Bucket::new(&self.copy).row(self.at - 1)
    }

    fn upcoming<P: Pages>(
        &mut self,
        pages: &P,
        root: &ChildWord,
        view: View,
        out: &mut Vec<PageId>,
    ) -> Step<()> {
        let Some(mut digits) = self.next.clone() else { return Ok(()) };
        let window = if self.started { (self.window * 2).min(READ_AHEAD_MAX) } else { 1 };
        let (content_bytes, enough) = (pages.content_bytes(), out.len() + window);
        let trail = RefCell::default();
        loop {
            let along = Along::new(&digits, content_bytes, &trail);
            let (path, missing) = Path::down_in_memory(pages, root, view, along)?;
            let Some((branch, slot)) = path.nodes.last() else { break };
            let (words, locals) = (branch.words(), Locals::new(branch.body()));
            let children = locals.children_from(*slot);
            out.extend(children.take(enough - out.len()).map(|slot| words[slot].page()));
            if out.len() == enough || missing.is_some() {
                break;
            }
            let (last, bits, bits_max) = (words.len() - 1, bits_of(words), bits_max(content_bytes));
            let last = Taken::new(last, bits, locals.local(last), bits_max);
            let Some(next) = behind(&trail.borrow(), last, bits_max) else { break };
            digits = next;
        }
        self.window = window;
        Ok(())
    }

    fn ahead(&self) -> Option<Ahead> {
        let (rows, used_bytes) = (self.count, self.used_bytes);
        self.next_hint.map(|hint| Ahead { hint, rows, used_bytes })
    }
}
