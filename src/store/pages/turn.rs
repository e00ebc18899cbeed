//! Pages in the commit turn: leaves latched for writing, new pages, and the versions that cuts keep.
#![allow(unsafe_code, reason = "page bodies are lent under exclusive latches")]

use super::{Read, Session};
use crate::store::frame::{DIRTY, FrameId, REFERENCED, WRITING};
use crate::store::image::{Address, kind};
use crate::store::versions::Version;
use crate::store::{Freed, FreedTree, Store, count};
use esker_base::sync::Ordering;
use esker_base::{CommitNo, PageId, TableId};
use esker_index::kind::Lead;
use esker_index::pages::{
    ChildWord, PageNew, PageRead, PageWrite, Pages, Step, Stop, TurnPages, View,
};
use std::cell::{Cell, RefCell};
use std::ops::Range;

/// What the turn lends to the indexes: frames and page ids set aside, and where to put what they give
/// up. Lives in the turn's state.
#[derive(Debug, Default)]
pub(crate) struct Reserve {
    pub(crate) frames: Vec<FrameId>,
    pub(crate) pages: Vec<PageId>,
    pub(crate) freed: Vec<Freed>,
    pub(crate) trees: Vec<FreedTree>,
}

impl Reserve {
    /// True if so many pages can be made.
    pub(crate) fn holds(&self, pages: usize) -> bool {
        self.frames.len() >= pages && self.pages.len() >= pages
    }
}

/// Write access in the turn, on behalf of one commit.
#[derive(Debug)]
pub(crate) struct TurnSession<'s> {
    session: Session<'s>,
    reserve: RefCell<&'s mut Reserve>,
    commit: CommitNo,
    /// The newest live cut; pages that changed at or before it must be kept.
    newest_cut: Option<CommitNo>,
    /// Frames promised to `Write` guards for the versions they may have to keep.
    promised: Cell<usize>,
    /// Whether anything was changed under this commit's number.
    changed: Cell<bool>,
    /// Pages read, latched and made, each time that it was.
    touched: Cell<u32>,
    /// That number is bounded, and the greatest is kept.
    is_bounded: Cell<bool>,
}

impl<'s> TurnSession<'s> {
    pub(crate) fn new(
        store: &'s Store,
        reserve: &'s mut Reserve,
        commit: CommitNo,
        newest_cut: Option<CommitNo>,
    ) -> Self {
        Self {
            session: Session::new(store, TableId(0)),
            reserve: RefCell::new(reserve),
            commit,
            newest_cut,
            promised: Cell::new(0),
            changed: Cell::new(false),
            touched: Cell::new(0),
            is_bounded: Cell::new(false),
        }
    }
    /// Pages read and created from now on belong to this table.
    pub(crate) fn set_table(&self, table: TableId) {
        self.session.table.set(table);
    }
    /// True if any page carries this commit's number.
    pub(crate) fn changed(&self) -> bool {
        self.changed.get()
    }
    /// Frames that were taken or promised since the reserve had so many.
    pub(crate) fn frames_needed(&self, before: usize) -> usize {
        (before + self.promised.get()).saturating_sub(self.reserve.borrow().frames.len())
    }
    fn touch(&self) {
        self.touched.set(self.touched.get() + 1);
    }
    /// This turn is of one row, one range or one outcome of background work: however large the table, it has little to do.
    pub(crate) fn set_bounded(&self) {
        self.is_bounded.set(true);
    }
    pub(crate) fn note_freed(&self, first: PageId, count: u32) {
        self.reserve.borrow_mut().freed.push(Freed {
            commit: self.commit,
            table: self.session.table.get(),
            first,
            count,
        });
    }
    fn must_keep(&self, changed_at: CommitNo) -> bool {
        self.newest_cut.is_some_and(|cut| changed_at <= cut)
    }
    fn new_page(
        &self,
        page: PageId,
        level: u8,
        words: usize,
        old: Option<FrameId>,
    ) -> Step<New<'_, 's>> {
        if self.reserve_left() == 0 {
            return Err(Stop::Reserve);
        }
        let frame = self.reserve.borrow_mut().frames.pop().expect("reserve_left counted it");
        let header = self.session.store.frames.header(frame);
        self.touch();
        header.table.store(self.session.table.get().0, Ordering::Relaxed);
        header.words.store(u16::try_from(words).expect("words fit a page"), Ordering::Relaxed);
        header.level.store(level, Ordering::Relaxed);
        header.kind.store(kind::INDEX, Ordering::Relaxed);
        header.changed_at.store(self.commit.0, Ordering::Relaxed);
        // SAFETY: the frame is ours alone.
        let (word_area, _) = unsafe { self.session.store.frames.parts_mut(frame) };
        word_area.fill(0);
        Ok(New { turn: self, frame, page, old, published: false })
    }

    /// Keeps the old content of a page that is about to go from `frame`: as its image on disk if that is
    /// current, else in `clone_into` or, without one, in the frame itself. Returns the frame that
    /// became the version, if one did.
    fn keep(&self, page: PageId, frame: FrameId, clone_into: Option<FrameId>) -> Option<FrameId> {
        let store = self.session.store;
        let header = store.frames.header(frame);
        count(&store.counters.versions_kept, 1);
        let clean = !header.has(DIRTY | WRITING) && !header.address().is_none();
        let kept = match clone_into {
            _ if clean => None,
            Some(clone) => {
                // SAFETY: the exclusive latch is held; the clone is ours alone.
                unsafe { store.frames.copy(frame, clone) };
                Some(clone)
            }
            None => Some(frame),
        };
        store.versions.keep(
            page,
            Version {
                changed_at: header.commit(),
                table: TableId(header.table.load(Ordering::Relaxed)),
                until: self.commit,
                frame: kept,
                address: if clean { header.address() } else { Address::NONE },
            },
        );
        kept
    }
}

impl Drop for TurnSession<'_> {
    fn drop(&mut self) {
        let (pages, counters) = (u64::from(self.touched.get()), &self.session.store.counters);
        // Turns come one after the other: nobody else writes it.
        if self.is_bounded.get() && pages > counters.turn_pages_max.load(Ordering::Relaxed) {
            counters.turn_pages_max.store(pages, Ordering::Relaxed);
        }
    }
}

impl Pages for TurnSession<'_> {
    type Read<'a>
        = Read<'a>
    where
        Self: 'a;

    #[inline]
    fn read<'a>(&'a self, word: &ChildWord, view: View) -> Step<Read<'a>> {
        self.session.prefetch_front(word);
        self.read_asked(word, view)
    }
    #[inline]
    fn prefetch(&self, word: &ChildWord, content: Range<usize>) {
        self.session.prefetch(word, content);
    }
    /// As a reader's, but the turn never waits for publication: what is newer is its own.
    fn read_asked<'a>(&'a self, word: &ChildWord, view: View) -> Step<Read<'a>> {
        self.touch();
        let View::Current = view else { return self.session.read_asked(word, view) };
        loop {
            let (page, frame) = self.session.frame_of(word)?;
            let header = self.session.store.frames.header(frame);
            header.touch();
            let leaf = header.level.load(Ordering::Relaxed) == 0;
            if leaf {
                header.latch_shared();
                if header.page_id() != page {
                    header.unlatch_shared();
                    continue;
                }
            }
            return Ok(Read { store: self.session.store, frame, page, latched: leaf });
        }
    }
    fn is_current(&self, branch: &Read<'_>) -> bool {
        self.session.is_current(branch)
    }
    fn content_bytes(&self) -> usize {
        self.session.content_bytes()
    }
}

/// A leaf under its exclusive latch.
#[derive(Debug)]
pub(crate) struct Write<'a, 's> {
    turn: &'a TurnSession<'s>,
    frame: FrameId,
    page: PageId,
    promised: bool,
    begun: bool,
}

impl PageRead for Write<'_, '_> {
    fn id(&self) -> PageId {
        self.page
    }
    fn level(&self) -> u8 {
        0
    }
    fn changed_at(&self) -> CommitNo {
        self.turn.session.store.frames.header(self.frame).commit()
    }
    fn words(&self) -> &[ChildWord] {
        self.turn.session.store.frames.words(self.frame)
    }
    #[inline]
    fn prefetch(&self, body: Range<usize>) {
        // Leaves have no words before their body.
        self.turn.session.store.frames.prefetch(self.frame, body);
    }
    fn body(&self) -> &[u8] {
        // SAFETY: the exclusive latch is held.
        unsafe { self.turn.session.store.frames.body(self.frame) }
    }
}

impl PageWrite for Write<'_, '_> {
    fn body_mut(&mut self) -> &mut [u8] {
        let store = self.turn.session.store;
        if !self.begun {
            self.begun = true;
            let header = store.frames.header(self.frame);
            if self.promised {
                self.promised = false;
                self.turn.promised.set(self.turn.promised.get() - 1);
                if self.turn.must_keep(header.commit()) {
                    let clone = self.turn.reserve.borrow_mut().frames.pop();
                    let clone = clone.expect("the guard was promised a frame");
                    if self.turn.keep(self.page, self.frame, Some(clone)).is_none() {
                        self.turn.reserve.borrow_mut().frames.push(clone);
                    }
                }
            }
            header.changed_at.store(self.turn.commit.0, Ordering::Relaxed);
            let state = header.state.load(Ordering::Acquire);
            if state & DIRTY == 0 {
                count(&store.dirtied, 1);
            }
            // Most are dirty already: a locked instruction less.
            if state & (DIRTY | REFERENCED) != DIRTY | REFERENCED {
                header.set(DIRTY | REFERENCED);
            }
            self.turn.changed.set(true);
        }
        // SAFETY: the exclusive latch is held, and `&mut self` excludes other slices.
        unsafe { store.frames.body_mut(self.frame) }
    }
    fn release(self) {}
}

impl Drop for Write<'_, '_> {
    fn drop(&mut self) {
        if self.promised {
            self.turn.promised.set(self.turn.promised.get() - 1);
        }
        self.turn.session.store.frames.header(self.frame).unlatch_exclusive();
    }
}

/// A page in the making.
#[derive(Debug)]
pub(crate) struct New<'a, 's> {
    turn: &'a TurnSession<'s>,
    frame: FrameId,
    page: PageId,
    /// The branch frame that this page takes the id of; latched exclusively until published.
    old: Option<FrameId>,
    published: bool,
}

impl PageNew for New<'_, '_> {
    fn id(&self) -> PageId {
        self.page
    }
    fn words_mut(&mut self) -> &mut [u64] {
        self.parts_mut().0
    }
    fn body_mut(&mut self) -> &mut [u8] {
        self.parts_mut().1
    }
    fn parts_mut(&mut self) -> (&mut [u64], &mut [u8]) {
        // SAFETY: nobody knows the frame before it is published.
        unsafe { self.turn.session.store.frames.parts_mut(self.frame) }
    }
}

impl Drop for New<'_, '_> {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        let store = self.turn.session.store;
        let mut reserve = self.turn.reserve.borrow_mut();
        reserve.frames.push(self.frame);
        match self.old {
            None => reserve.pages.push(self.page),
            Some(old) => {
                if store.frames.header(old).level.load(Ordering::Relaxed) > 0 {
                    store.frames.header(old).unlatch_exclusive();
                }
            }
        }
    }
}

impl<'s> TurnPages for TurnSession<'s> {
    /// While all pages have frames, nothing is read, and full leaves need fewer of them.
    fn leaf_bytes(&self) -> usize {
        let (store, content_bytes) = (self.session.store, self.session.content_bytes());
        match store.counters.evictions.load(Ordering::Relaxed) {
            0 => content_bytes,
            _ => store.packings.of(self.session.table.get()).leaf_bytes(content_bytes),
        }
    }
    type Write<'a>
        = Write<'a, 's>
    where
        Self: 'a;
    type New<'a>
        = New<'a, 's>
    where
        Self: 'a;

    fn write<'a>(&'a self, word: &ChildWord) -> Step<Write<'a, 's>> {
        self.touch();
        loop {
            self.session.prefetch_front(word);
            let (page, frame) = self.session.frame_of(word)?;
            let header = self.session.store.frames.header(frame);
            if header.level.load(Ordering::Relaxed) > 0 {
                return Err(Stop::Moved);
            }
            header.latch_exclusive();
            if header.page_id() != page {
                header.unlatch_exclusive();
                continue;
            }
            let promised = self.must_keep(header.commit());
            if promised && self.reserve_left() == 0 {
                header.unlatch_exclusive();
                return Err(Stop::Reserve);
            }
            self.promised.set(self.promised.get() + usize::from(promised));
            return Ok(Write { turn: self, frame, page, promised, begun: false });
        }
    }

    fn create<'a>(&'a self, level: u8, words: usize) -> Step<New<'a, 's>> {
        let page = self.reserve.borrow_mut().pages.pop().ok_or(Stop::Reserve)?;
        self.new_page(page, level, words, None).inspect_err(|_| {
            self.reserve.borrow_mut().pages.push(page);
        })
    }

    fn replace<'a>(&'a self, page: PageId, level: u8, words: usize) -> Step<New<'a, 's>> {
        let store = self.session.store;
        loop {
            let frame = store.resident.get(page).ok_or(Stop::Missing(page))?;
            let header = store.frames.header(frame);
            if header.page_id() != page {
                return Err(Stop::Missing(page));
            }
            let branch = header.level.load(Ordering::Relaxed) > 0;
            if branch {
                // Keeps eviction and write-back away until the new page has taken over.
                header.latch_exclusive();
                if header.page_id() != page {
                    header.unlatch_exclusive();
                    continue;
                }
            } else {
                debug_assert!(
                    header.is_latched_exclusive(),
                    "a leaf is replaced by who latched it"
                );
            }
            return self.new_page(page, level, words, Some(frame)).inspect_err(|_| {
                if branch {
                    header.unlatch_exclusive();
                }
            });
        }
    }

    fn publish(&self, mut new: New<'_, '_>) -> u64 {
        let store = self.session.store;
        new.published = true;
        self.changed.set(true);
        let header = store.frames.header(new.frame);
        header.state.store(DIRTY | REFERENCED, Ordering::Relaxed);
        header.page.store(new.page.0, Ordering::Release);
        count(&store.dirtied, 1);
        // The new page is known before the old one is gone: a reader that finds neither would read
        // an old image from disk.
        let Some(old) = new.old else {
            store.resident.insert(new.page, new.frame);
            return ChildWord::pack(new.page, new.frame);
        };
        let old_header = store.frames.header(old);
        let branch = old_header.level.load(Ordering::Relaxed) > 0;
        let kept = self.must_keep(old_header.commit()) && self.keep(new.page, old, None).is_some();
        store.resident.insert(new.page, new.frame);
        old_header.page.store(0, Ordering::Release);
        if branch {
            old_header.unlatch_exclusive();
        }
        if !kept {
            store.frames.retire(old);
        }
        ChildWord::pack(new.page, new.frame)
    }

    fn free(&self, page: PageId) {
        self.note_freed(page, 1);
    }

    fn free_range(&self, first: PageId, count: u32) {
        self.note_freed(first, count);
    }

    fn free_tree(&self, word: u64, level: u8) {
        let page = ChildWord::page_of(word);
        let (commit, table) = (self.commit, self.session.table.get());
        self.reserve.borrow_mut().trees.push(FreedTree {
            commit,
            table,
            page,
            level,
            lead: Lead::Anything,
        });
    }

    fn reserve_left(&self) -> usize {
        let reserve = self.reserve.borrow();
        (reserve.frames.len().saturating_sub(self.promised.get())).min(reserve.pages.len())
    }
}
