//! Pages of background work, built outside the turn.
#![allow(unsafe_code, reason = "pages that nobody else knows are filled")]

use super::{Read, Session};
use crate::store::frame::{DIRTY, FrameId};
use crate::store::image::kind;
use crate::store::{Store, count};
use esker_base::sync::Ordering;
use esker_base::{PageId, TableId};
use esker_index::pages::{BuildPages, ChildWord, PageNew, Pages, Step, Stop, View};
use std::cell::RefCell;

/// What background work on one table builds its pages from: frames, and page ids (first, count), which the store's state
/// remembers as unattached.
#[derive(Debug, Default)]
pub(crate) struct BuildReserve {
    pub(crate) frames: Vec<FrameId>,
    pub(crate) ids: (u64, u64),
    /// Pages built and not written yet, in order.
    pub(crate) built: Vec<FrameId>,
}

/// Building pages outside the turn, on behalf of one table.
#[derive(Debug)]
pub(crate) struct BuildSession<'s> {
    session: Session<'s>,
    reserve: RefCell<&'s mut BuildReserve>,
    table: TableId,
    leaf_bytes: usize,
}

impl<'s> BuildSession<'s> {
    pub(crate) fn new(store: &'s Store, reserve: &'s mut BuildReserve, table: TableId) -> Self {
        let session = Session::new(store, table);
        let leaf_bytes = store.packings.of(table).leaf_bytes(session.content_bytes());
        Self { session, reserve: RefCell::new(reserve), table, leaf_bytes }
    }
}

impl Pages for BuildSession<'_> {
    type Read<'a>
        = Read<'a>
    where
        Self: 'a;

    fn read<'a>(&'a self, word: &ChildWord, view: View) -> Step<Read<'a>> {
        let View::Current = view else { return self.session.read(word, view) };
        self.session.prefetch_front(word);
        let (page, frame) = self.session.frame_of(word)?;
        let header = self.session.store.frames.header(frame);
        // A page built here carries the commit that will attach it: it is not waited for.
        if header.level.load(Ordering::Relaxed) > 0 {
            header.touch();
            return Ok(Read { store: self.session.store, frame, page, latched: false });
        }
        header.touch();
        header.latch_shared();
        if header.page_id() == page {
            return Ok(Read { store: self.session.store, frame, page, latched: true });
        }
        header.unlatch_shared();
        Err(Stop::Missing(page))
    }
    fn is_current(&self, branch: &Read<'_>) -> bool {
        self.session.is_current(branch)
    }
    fn content_bytes(&self) -> usize {
        self.session.content_bytes()
    }
}

/// A page being built.
#[derive(Debug)]
pub(crate) struct Built<'a, 's> {
    build: &'a BuildSession<'s>,
    frame: FrameId,
    page: PageId,
    kept: bool,
}

impl PageNew for Built<'_, '_> {
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
        // SAFETY: nobody knows the frame before it is kept.
        unsafe { self.build.session.store.frames.parts_mut(self.frame) }
    }
}

impl Drop for Built<'_, '_> {
    fn drop(&mut self) {
        if !self.kept {
            // Its id stays unattached, and comes back with the others.
            self.build.reserve.borrow_mut().frames.push(self.frame);
        }
    }
}

impl<'s> BuildPages for BuildSession<'s> {
    type New<'a>
        = Built<'a, 's>
    where
        Self: 'a;

    fn build<'a>(&'a self, level: u8, words: usize) -> Step<Built<'a, 's>> {
        let mut reserve = self.reserve.borrow_mut();
        if reserve.ids.1 == 0 {
            return Err(Stop::Reserve);
        }
        let frame = reserve.frames.pop().ok_or(Stop::Reserve)?;
        let page = PageId(reserve.ids.0);
        reserve.ids = (reserve.ids.0 + 1, reserve.ids.1 - 1);
        let store = self.session.store;
        let header = store.frames.header(frame);
        header.table.store(self.table.0, Ordering::Relaxed);
        header.words.store(u16::try_from(words).expect("words fit a page"), Ordering::Relaxed);
        header.level.store(level, Ordering::Relaxed);
        header.kind.store(kind::INDEX, Ordering::Relaxed);
        // Above every cut taken so far: a checkpoint that runs does not count it in.
        header.changed_at.store(store.published().next().0, Ordering::Relaxed);
        // SAFETY: the frame is ours alone.
        let (word_area, _) = unsafe { store.frames.parts_mut(frame) };
        word_area.fill(0);
        Ok(Built { build: self, frame, page, kept: false })
    }
    fn leaf_bytes(&self) -> usize {
        self.leaf_bytes
    }

    fn keep(&self, mut page: Built<'_, '_>) -> u64 {
        page.kept = true;
        let store = self.session.store;
        let header = store.frames.header(page.frame);
        // Not referenced: merges must not push out what readers use.
        header.state.store(DIRTY, Ordering::Relaxed);
        header.page.store(page.page.0, Ordering::Release);
        count(&store.dirtied, 1);
        store.resident.insert(page.page, page.frame);
        self.reserve.borrow_mut().built.push(page.frame);
        ChildWord::pack(page.page, page.frame)
    }
}
