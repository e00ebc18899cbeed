//! A B-tree in memory, with both ways to pass its branches.
//!
//! A branch is an array of words, one per child, and a body with their least keys. A *word* is a page id
//! (40 bits) and the frame where that page was last seen (24 bits). Pages are the same either way, so
//! what differs is the way alone:
//!
//! - `LATCHED = false`: branches are replaced whole. A reader pins the epoch, follows words, latches the
//!   leaf, and checks that the branches it came by are still current (their frames still name them).
//! - `LATCHED = true`: branches are changed in place. A reader latches each page shared, the child before it
//!   lets go of the parent.
//!
//! One writer at a time (a mutex, as in the engine's commit turn), which may therefore go down without
//! latches. The two ways must not be mixed while threads run. The root is always a branch; rows are not
//! removed.
#![allow(unsafe_code, reason = "page bodies are lent under latches and pins")]

use crate::frames::{Epochs, FrameId, Frames, back_off};
use crate::page;
use crate::rows::{KEY_BYTES, Key, Value, key_of, value_of};
use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

const LEVELS_MAX: usize = 8;
/// Memory is reserved for leaves with this share of rows; random insertion fills 69 % or more.
const FILL_MIN: f64 = 0.55;
/// Bytes of content per row, slot included.
const ROW_BYTES: f64 = 124.0;
/// Bytes of a branch per child: word, slot, and up to eight of key on average.
const CHILD_BYTES: usize = 8 + page::SLOT_BYTES + 8;
const FRAME_BITS: u32 = 24;

fn word(page: u64, frame: FrameId) -> u64 {
    page << FRAME_BITS | u64::from(frame)
}

/// Page and frame that a word names.
#[inline]
fn named(word: u64) -> (u64, FrameId) {
    (word >> FRAME_BITS, (word & ((1 << FRAME_BITS) - 1)) as FrameId)
}

#[derive(Debug)]
pub(crate) struct Tree {
    frames: Frames,
    epochs: Epochs,
    /// Word of the root.
    root: AtomicU64,
    /// Most children of a branch.
    fanout: usize,
    spare: Mutex<Spare>,
}

/// Where new pages come from.
#[derive(Debug, Default)]
struct Spare {
    next_frame: FrameId,
    next_page: u64,
    /// Frames given up, with the epoch that must end first.
    retired: VecDeque<(u64, FrameId)>,
}

/// A branch on the way down, and which child was taken.
#[derive(Clone, Copy, Debug, Default)]
struct Step {
    frame: FrameId,
    child: usize,
}

/// The right to write.
#[derive(Debug)]
pub(crate) struct Writer<'t> {
    tree: &'t Tree,
    spare: MutexGuard<'t, Spare>,
}

impl Tree {
    /// An empty tree with memory for `rows` in random order.
    pub(crate) fn new(rows: u64, page_bytes: usize, huge_pages: bool) -> io::Result<Self> {
        let leaves = rows as f64 * ROW_BYTES / (page_bytes as f64 * FILL_MIN);
        let frames = Frames::new(leaves as u32 + 64, page_bytes, huge_pages)?;
        let fanout = frames.content_bytes() / CHILD_BYTES;
        let (epochs, root) = (Epochs::new(), AtomicU64::new(0));
        let tree = Self { frames, epochs, root, fanout, spare: Mutex::default() };
        let mut writer = tree.writer();
        let (leaf, root) = (writer.create(0), writer.create(1));
        writer.add_child(named(root).1, 0, &[], leaf);
        tree.root.store(root, Ordering::Release);
        drop(writer);
        Ok(tree)
    }

    /// Inserts rows.
    pub(crate) fn load(&self, ids: Range<u64>) {
        let mut writer = self.writer();
        ids.for_each(|id| writer.insert::<false>(&key_of(id), &value_of(id)));
    }

    /// Copies the value of `key` out. `reader` is a number that no other thread uses now.
    #[inline]
    pub(crate) fn get<const LATCHED: bool>(
        &self,
        reader: usize,
        key: &Key,
        value: &mut Value,
    ) -> bool {
        let _pin = (!LATCHED).then(|| self.epochs.pin(reader));
        let mut step = 0;
        loop {
            let get = if LATCHED { Self::get_latched } else { Self::get_pinned };
            match get(self, key, value) {
                Some(found) => return found,
                None => back_off(&mut step),
            }
        }
    }

    /// `None`: the tree changed on the way down. The caller is pinned.
    fn get_pinned(&self, key: &Key, value: &mut Value) -> Option<bool> {
        let mut path = [(0, 0); LEVELS_MAX];
        let mut depth = 0;
        let is_current = |page, frame| self.page(frame) == page;
        let (mut page, mut frame) = named(self.root.load(Ordering::Acquire));
        while is_current(page, frame) && self.level(frame) > 0 {
            path[depth] = (page, frame);
            depth += 1;
            (page, frame) = self.follow(frame, key);
        }
        if !is_current(page, frame) {
            return None;
        }
        let header = self.frames.header(frame);
        header.latch_shared();
        let is_right = path[..depth].iter().all(|&(page, frame)| is_current(page, frame));
        // SAFETY: a latched leaf.
        let found = is_right.then(|| page::get(unsafe { self.frames.body(frame, 0) }, key, value));
        header.unlatch_shared();
        found
    }

    /// `None`: the tree changed on the way down.
    fn get_latched(&self, key: &Key, value: &mut Value) -> Option<bool> {
        let root = self.root.load(Ordering::Acquire);
        let (_, mut frame) = named(root);
        self.frames.header(frame).latch_shared();
        let mut is_current = self.root.load(Ordering::Acquire) == root;
        while is_current && self.level(frame) > 0 {
            let (page, below) = self.follow(frame, key);
            self.frames.header(below).latch_shared();
            self.frames.header(frame).unlatch_shared();
            // A frame is only a hint here too.
            is_current = self.page(below) == page;
            frame = below;
        }
        // SAFETY: a latched leaf, if what named it was current.
        let found =
            is_current.then(|| page::get(unsafe { self.frames.body(frame, 0) }, key, value));
        self.frames.header(frame).unlatch_shared();
        found
    }

    #[inline]
    fn page(&self, frame: FrameId) -> u64 {
        self.frames.header(frame).page.load(Ordering::Acquire)
    }
    #[inline]
    fn level(&self, frame: FrameId) -> u32 {
        self.frames.header(frame).level.load(Ordering::Relaxed)
    }
    /// The keys of a branch.
    ///
    /// # Safety
    /// The caller holds a latch, or a pin where branches are not changed, or is the writer and does not
    /// change this branch meanwhile.
    unsafe fn keys(&self, branch: FrameId) -> &[u8] {
        // SAFETY: only the writer changes branches, as the contract of `body` demands; without words.
        unsafe { self.frames.body(branch, self.fanout * 8) }
    }
    fn words(&self, branch: FrameId) -> &[AtomicU64] {
        self.frames.words(branch, self.fanout)
    }
    /// Page and frame where a branch has `key`. The caller may look at it.
    #[inline]
    fn follow(&self, branch: FrameId, key: &Key) -> (u64, FrameId) {
        // SAFETY: by the contract above.
        let child = page::rank(unsafe { self.keys(branch) }, key) - 1;
        named(self.words(branch)[child].load(Ordering::Acquire))
    }

    /// Waits for the right to write.
    pub(crate) fn writer(&self) -> Writer<'_> {
        Writer { tree: self, spare: self.spare.lock().expect("no writer panicked") }
    }
    pub(crate) fn frames(&self) -> &Frames {
        &self.frames
    }
    /// Levels of pages.
    pub(crate) fn levels(&self) -> u32 {
        self.level(named(self.root.load(Ordering::Acquire)).1) + 1
    }
    /// Lends the content of each leaf, in the order in which they were made, until `look` says no.
    pub(crate) fn leaves(&self, mut look: impl FnMut(&[u8]) -> bool) {
        let _writer = self.writer();
        for frame in 0..self.frames.count() {
            if self.page(frame) != 0 && self.level(frame) == 0 {
                // SAFETY: nobody writes, since the right to is ours.
                if !look(unsafe { self.frames.body(frame, 0) }) {
                    break;
                }
            }
        }
    }
}

impl Writer<'_> {
    /// Inserts a row whose key is not there yet.
    pub(crate) fn insert<const LATCHED: bool>(&mut self, key: &Key, value: &Value) {
        let (tree, frames) = (self.tree, &self.tree.frames);
        let mut path = [Step::default(); LEVELS_MAX];
        let mut depth = 0;
        let (_, mut leaf) = named(tree.root.load(Ordering::Relaxed));
        while tree.level(leaf) > 0 {
            // SAFETY: the writer, who changes nothing now.
            let child = page::rank(unsafe { tree.keys(leaf) }, key) - 1;
            path[depth] = Step { frame: leaf, child };
            (_, leaf) = named(tree.words(leaf)[child].load(Ordering::Relaxed));
            depth += 1;
        }
        let path = &path[..depth];
        // SAFETY: only the writer writes; others may read at the same time.
        let splits = !page::has_room(unsafe { frames.body(leaf, 0) }, KEY_BYTES + value.len());
        // The branches that change: from the leaf up to the first with room, or all.
        let first = path.iter().rposition(|step| self.has_room(step.frame));
        let path = (path, first.unwrap_or(0));
        let latched = if LATCHED && splits { &path.0[path.1..] } else { &[] };
        for step in latched {
            frames.header(step.frame).latch_exclusive();
        }
        frames.header(leaf).latch_exclusive();
        if splits {
            self.split::<LATCHED>(path, leaf, key, value);
        } else {
            // SAFETY: the writer, under the exclusive latch.
            page::insert(unsafe { frames.body_mut(leaf, 0) }, key, value);
        }
        frames.header(leaf).unlatch_exclusive();
        for step in latched {
            frames.header(step.frame).unlatch_exclusive();
        }
    }

    /// Splits a leaf and the full branches above it; those of `path` from `first` on change. New frames
    /// are linked by one store, to the lowest place that does not change; only then does what they replace
    /// cease to be current. The leaf's latch, held all the time, keeps readers who came by old branches
    /// from taking it for theirs.
    fn split<const LATCHED: bool>(
        &mut self,
        (path, first): (&[Step], usize),
        leaf: FrameId,
        key: &Key,
        value: &Value,
    ) {
        let tree = self.tree;
        // What the level above learns: a word for the child that was split, and the new child.
        let mut child = word(tree.page(leaf), leaf);
        let mut new = self.create(0);
        // SAFETY: the writer, under the exclusive latch.
        let left = unsafe { tree.frames.body_mut(leaf, 0) };
        // SAFETY: the writer has not linked the frame yet.
        let right = unsafe { tree.frames.body_mut(named(new).1, 0) };
        page::split(left, right);
        let mut separator = page::separator(left, right);
        page::insert(if key[..] < separator[..] { left } else { right }, key, value);
        let mut overflows = true;
        for step in path[first..].iter().rev() {
            let frame = if LATCHED { step.frame } else { self.copy(step.frame) };
            tree.words(frame)[step.child].store(child, Ordering::Relaxed);
            child = word(tree.page(frame), frame);
            overflows = !self.has_room(frame);
            if !overflows {
                self.add_child(frame, step.child + 1, &separator, new);
                break;
            }
            let (upper_separator, upper) = self.split_branch(frame);
            let half = self.children(frame);
            let (to, skip) = if step.child < half { (frame, 0) } else { (named(upper).1, half) };
            self.add_child(to, step.child + 1 - skip, &separator, new);
            (separator, new) = (upper_separator, upper);
        }
        if overflows {
            let root = self.create(tree.level(path[0].frame) + 1);
            self.add_child(named(root).1, 0, &[], child);
            self.add_child(named(root).1, 1, &separator, new);
            child = root;
        }
        let above = path[..first].last();
        let link = above.map_or(&tree.root, |above| &tree.words(above.frame)[above.child]);
        link.store(child, Ordering::Release);
        for step in if LATCHED { &[] } else { &path[first..] } {
            tree.frames.header(step.frame).page.store(0, Ordering::Release);
            self.spare.retired.push_back((tree.epochs.retire(), step.frame));
        }
    }

    fn has_room(&self, branch: FrameId) -> bool {
        // SAFETY: the writer, who changes nothing now.
        let fits = page::has_room(unsafe { self.tree.keys(branch) }, KEY_BYTES);
        fits && self.children(branch) < self.tree.fanout
    }

    fn children(&self, branch: FrameId) -> usize {
        // SAFETY: the writer, who changes nothing now.
        page::count(unsafe { self.tree.keys(branch) })
    }

    /// The keys of a branch that is latched, or not linked yet.
    #[expect(clippy::mut_from_ref, reason = "exclusiveness comes from the latch")]
    fn keys_mut(&self, branch: FrameId) -> &mut [u8] {
        // SAFETY: the writer, by the contract above; callers hold one slice of a branch at a time; no words.
        unsafe { self.tree.frames.body_mut(branch, self.tree.fanout * 8) }
    }

    /// Moves the upper half of a branch's children to a new one. Returns its least key and its word.
    fn split_branch(&mut self, frame: FrameId) -> (Vec<u8>, u64) {
        let upper = self.create(self.tree.level(frame));
        let keys = self.keys_mut(named(upper).1);
        page::split(self.keys_mut(frame), keys);
        let moved = &self.tree.words(frame)[self.children(frame)..];
        copy_words(moved, self.tree.words(named(upper).1));
        (page::first_key(keys).to_vec(), upper)
    }

    /// Adds a child to a branch that is not full.
    fn add_child(&mut self, frame: FrameId, at: usize, key: &[u8], word: u64) {
        let words = self.tree.words(frame);
        for i in (at..self.children(frame)).rev() {
            words[i + 1].store(words[i].load(Ordering::Relaxed), Ordering::Relaxed);
        }
        words[at].store(word, Ordering::Relaxed);
        page::insert(self.keys_mut(frame), key, &[]);
    }

    /// A copy of a branch under the same page id, not linked yet.
    fn copy(&mut self, from: FrameId) -> FrameId {
        let (tree, to) = (self.tree, self.take());
        copy_words(tree.words(from), tree.words(to));
        // SAFETY: the writer, who does not change this one.
        self.keys_mut(to).copy_from_slice(unsafe { tree.keys(from) });
        self.stamp(to, tree.page(from), tree.level(from));
        to
    }

    /// A new page, not linked yet; returns its word.
    fn create(&mut self, level: u32) -> u64 {
        let frame = self.take();
        let words = if level > 0 { self.tree.fanout } else { 0 };
        // SAFETY: the writer has not linked the frame yet; without words.
        page::clear(unsafe { self.tree.frames.body_mut(frame, words * 8) });
        self.spare.next_page += 1;
        self.stamp(frame, self.spare.next_page, level);
        word(self.spare.next_page, frame)
    }

    fn stamp(&self, frame: FrameId, page: u64, level: u32) {
        let header = self.tree.frames.header(frame);
        header.level.store(level, Ordering::Relaxed);
        header.page.store(page, Ordering::Release);
    }

    /// A frame that nobody reads.
    fn take(&mut self) -> FrameId {
        if let Some(&(epoch, frame)) = self.spare.retired.front()
            && epoch < self.tree.epochs.oldest_pinned()
        {
            self.spare.retired.pop_front();
            return frame;
        }
        self.spare.next_frame += 1;
        self.spare.next_frame - 1
    }

    /// Pages made so far, copies not counted.
    pub(crate) fn pages(&self) -> u64 {
        self.spare.next_page
    }
}

/// As many words as both have.
fn copy_words(from: &[AtomicU64], to: &[AtomicU64]) {
    for (from, to) in from.iter().zip(to) {
        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::readers::gets;
    use std::time::Duration;

    /// `gets` checks every answer. Small pages, so that branches and the root split too.
    fn rows_are_found_while_others_come<const LATCHED: bool>() {
        let (rows, more) = (10_000, 200_000);
        let tree = Tree::new(more, 1024, false).unwrap();
        tree.load(0..rows);
        std::thread::scope(|scope| {
            scope.spawn(|| gets::<LATCHED>(&tree, rows, 2, Duration::from_secs(1), 0));
            let mut writer = tree.writer();
            (rows..more).for_each(|id| writer.insert::<LATCHED>(&key_of(id), &value_of(id)));
        });
        gets::<LATCHED>(&tree, more, 2, Duration::from_secs(1), 1);
    }

    #[test]
    fn with_branches_replaced() {
        rows_are_found_while_others_come::<false>();
    }

    #[test]
    fn with_branches_latched() {
        rows_are_found_while_others_come::<true>();
    }
}
