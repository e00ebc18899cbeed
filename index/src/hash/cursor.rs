//! Iteration: one bucket after the other, in the order of the hash, is copied out, and rows are lent out of the
//! copy. Rows whose keys wait in the front are left out of it; the front's own rows come at the end.

use super::Hasher;
use super::branch::{Locals, bits_of};
use super::bucket::{self, Bucket, mark_of};
use super::front::{self, check_is_front, look, shown};
use super::read::{Path, visit};
use super::way::{Along, Taken, ToKey, behind, bits_max};
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
    hasher: Hasher,
    copy: Vec<u8>,
    /// The copy may hold rows that are not to be shown.
    is_raw: bool,
    /// It has come to the front.
    in_front: bool,
    /// A bucket of the front, of this view; empty at first.
    front_copy: Vec<u8>,
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
    pub(crate) fn new(hasher: Hasher) -> Self {
        Self {
            hasher,
            copy: Vec::new(),
            is_raw: false,
            in_front: false,
            front_copy: Vec::new(),
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
        (self.at, self.count) = (0, 0);
        self.is_raw = true;
        self.started = true;
    }

    /// Leaves out of the copy what is not to be shown. `front`: the table has one.
    fn sift<P: Pages>(&mut self, pages: &P, root: &ChildWord, view: View, front: bool) -> Step<()> {
        let raw = Bucket::new(&self.copy);
        if front {
            let mut hidden = vec![false; raw.len()];
            if view == View::Current {
                self.front_copy.clear();
            }
            for (i, hidden) in hidden.iter_mut().enumerate() {
                let (key, value) = raw.row(i);
                *hidden = if self.in_front {
                    shown(value).is_none()
                } else {
                    waits(pages, root, view, (self.hasher, key), &mut self.front_copy)?
                };
            }
            if hidden.contains(&true) {
                let place = raw.place();
                bucket::keep_some(&mut self.copy, place, |i| !hidden[i]);
            }
        }
        self.count = Bucket::new(&self.copy).len();
        self.is_raw = false;
        Ok(())
    }

    /// Moves on behind the bucket that was just copied, which `trail` and a branch lead to.
    fn go_on<R: PageRead>(&mut self, trail: &[Taken], parent: Option<&R>, bits_max: u32) {
        self.next_hint = None;
        let (Some(parent), Some(digits)) = (parent, self.next.take()) else { return };
        let (bits, locals) = (bits_of(parent.words()), Locals::new(parent.body()));
        let digit = digits.get(trail.len()).copied().unwrap_or(0);
        let slot = usize::from(digit) >> (bits_max - bits);
        let next = parent.words()[..1 << bits].get(locals.run(slot).end).map(ChildWord::load);
        let hint = next.map(ChildWord::hint_of);
        self.next_hint = hint.filter(|hint| *hint != ChildWord::NO_HINT);
        self.next = behind(trail, Taken::new(slot, bits, locals.local(slot), bits_max), bits_max);
    }

    /// Where the way of the bucket begins that comes next.
    fn top(&self, root: &ChildWord, front: Option<&ChildWord>) -> ChildWord {
        let word = front.filter(|_| self.in_front).unwrap_or(root).load();
        ChildWord::new(ChildWord::page_of(word), ChildWord::hint_of(word))
    }
}

/// Whether a key waits in the front. `copy` is of the bucket that was asked last.
fn waits<P: Pages>(
    pages: &P,
    root: &ChildWord,
    view: View,
    (hasher, key): (Hasher, &[u8]),
    copy: &mut Vec<u8>,
) -> Step<bool> {
    let first = hasher.hash(key, 0);
    let is_its = |copy: &[u8]| {
        let place = Bucket::new(copy).place();
        place.is_ranked() && place.covers(first)
    };
    if copy.is_empty() || !is_its(copy) {
        let found = look(pages, root, view, ToKey::hashed(hasher, key, first), |page, _| {
            copy.clear();
            copy.extend_from_slice(page.body());
        })?;
        if found.is_none() {
            return Ok(false);
        }
    }
    Ok(Bucket::new(copy).find(mark_of(first), key).is_some())
}

impl Cursor for HashCursor {
    #[inline]
    fn next_in_memory(&mut self) -> Option<bool> {
        if self.at < self.count {
            self.at += 1;
            return Some(true);
        }
        (self.next.is_none() && self.in_front && !self.is_raw).then_some(false)
    }

    fn next<P: Pages>(&mut self, pages: &P, root: &ChildWord, view: View) -> Step<bool> {
        loop {
            if let Some(found) = self.next_in_memory() {
                return Ok(found);
            }
            let front = front::word(pages, root, view)?;
            if self.is_raw {
                self.sift(pages, root, view, front.is_some())?;
                continue;
            }
            if self.next.is_none() {
                // Behind the last bucket.
                self.in_front = true;
                self.next = front.as_ref().map(|_| Vec::new());
                continue;
            }
            let digits = self.next.clone().unwrap_or_default();
            let content_bytes = pages.content_bytes();
            let trail = RefCell::default();
            let along = Along::new(&digits, content_bytes, &trail);
            let top = self.top(root, front.as_ref());
            visit(pages, &top, view, along, |bucket, above| {
                check_is_front(bucket, self.in_front)?;
                self.fill(bucket.body());
                self.go_on(&trail.borrow(), above, bits_max(content_bytes));
                Ok(())
            })??;
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
        let front = front::word(pages, root, view)?;
        let top = self.top(root, front.as_ref());
        loop {
            let along = Along::new(&digits, content_bytes, &trail);
            let (path, missing) = Path::down_in_memory(pages, &top, view, along)?;
            let Some((branch, slot)) = path.nodes.last() else { break };
            let (words, locals) = (branch.words(), Locals::new(branch.body()));
            let children = locals.children_from(*slot);
            out.extend(children.take(enough - out.len()).map(|slot| words[slot].page()));
            if out.len() == enough || missing.is_some() {
                break;
            }
            let (bits, bits_max) = (bits_of(words), bits_max(content_bytes));
            let last = (1 << bits) - 1;
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
