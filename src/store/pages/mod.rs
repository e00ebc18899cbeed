//! The store as an index sees it: reading (here), writing in the turn (`turn`), building outside it (`build`).
#![allow(unsafe_code, reason = "page bodies are lent under latches and pins")]

mod build;
mod turn;

pub(crate) use build::{BuildReserve, BuildSession};
pub(crate) use turn::{Reserve, TurnSession};

use super::Store;
use super::epoch::Pin;
use super::frame::FrameId;
use super::image::kind;
use super::versions::Version;
use esker_base::sync::Ordering;
use esker_base::{CommitNo, PageId, TableId};
use esker_index::pages::{ChildWord, PageRead, Pages, Step, Stop, View};
use std::cell::{Cell, RefCell};
use std::ops::Range;

/// Read access for one thread, for as long as one call takes.
#[derive(Debug)]
pub(crate) struct Session<'s> {
    store: &'s Store,
    /// All pages that are read belong to it.
    table: Cell<TableId>,
    _pin: Pin<'s>,
    /// What may be read together with a page that is missing.
    wanted: RefCell<Vec<PageId>>,
}

/// A readable page; a latched leaf, or immutable under the session's pin.
#[derive(Debug)]
pub(crate) struct Read<'a> {
    store: &'a Store,
    frame: FrameId,
    page: PageId,
    latched: bool,
}

impl PageRead for Read<'_> {
    fn id(&self) -> PageId {
        self.page
    }
    #[inline]
    fn prefetch(&self, body: Range<usize>) {
        let skip = size_of_val(self.words());
        self.store.frames.prefetch(self.frame, skip + body.start..skip + body.end);
    }
    #[inline]
    fn level(&self) -> u8 {
        self.store.frames.header(self.frame).level.load(Ordering::Relaxed)
    }
    fn changed_at(&self) -> CommitNo {
        self.store.frames.header(self.frame).commit()
    }
    #[inline]
    fn words(&self) -> &[ChildWord] {
        self.store.frames.words(self.frame)
    }
    #[inline]
    fn body(&self) -> &[u8] {
        // SAFETY: a leaf is latched by this guard; anything else is immutable, and the session that
        // lent this guard was pinned before it found the page.
        unsafe { self.store.frames.body(self.frame) }
    }
}

impl Drop for Read<'_> {
    #[inline]
    fn drop(&mut self) {
        if self.latched {
            self.store.frames.header(self.frame).unlatch_shared();
        }
    }
}

impl<'s> Session<'s> {
    pub(crate) fn new(store: &'s Store, table: TableId) -> Self {
        let pin = store.frames.epochs().pin();
        Self { store, table: Cell::new(table), _pin: pin, wanted: RefCell::default() }
    }
    /// Pages that may be read together with the one that is missing.
    pub(crate) fn take_wanted(&self) -> Vec<PageId> {
        self.wanted.take()
    }

    /// Asks for bytes of the content of the page that `word` names, if its hint says where it is.
    #[inline]
    fn prefetch(&self, word: &ChildWord, content: Range<usize>) {
        let hint = ChildWord::hint_of(word.load());
        if hint < self.store.frames.count() {
            self.store.frames.prefetch(hint, content);
        }
    }
    /// As [`Self::prefetch`]: the lines that a search of a leaf reads first.
    #[inline]
    fn prefetch_front(&self, word: &ChildWord) {
        let hint = ChildWord::hint_of(word.load());
        if hint < self.store.frames.count() {
            self.store.frames.prefetch_front(hint);
        }
    }

    /// The frame that holds the current page which `word` names.
    #[inline]
    fn frame_of(&self, word: &ChildWord) -> Step<(PageId, FrameId)> {
        let bits = word.load();
        let (page, hint) = (ChildWord::page_of(bits), ChildWord::hint_of(bits));
        if hint < self.store.frames.end() && self.store.frames.header(hint).page_id() == page {
            return Ok((page, hint));
        }
        self.find_frame(word, bits, page)
    }

    #[cold]
    fn find_frame(&self, word: &ChildWord, bits: u64, page: PageId) -> Step<(PageId, FrameId)> {
        match self.store.resident.get(page) {
            Some(frame) if self.store.frames.header(frame).page_id() == page => {
                self.check_owner(page, frame)?;
                word.set_hint(bits, frame);
                Ok((page, frame))
            }
            _ => Err(Stop::Missing(page)),
        }
    }

    /// Checks that a page belongs to the table that is being read: whoever brought it in has checked it as a page of the
    /// table that its image names, and nothing else may be concluded from what is in it.
    fn check_owner(&self, page: PageId, frame: FrameId) -> Step<()> {
        let header = self.store.frames.header(frame);
        let owner = TableId(header.table.load(Ordering::Relaxed));
        if header.kind.load(Ordering::Relaxed) == kind::INDEX && owner == self.table.get() {
            return Ok(());
        }
        let detail = format!("it is another's: {owner:?}, read for {:?}", self.table.get());
        Err(Stop::Corrupt { page, detail })
    }

    /// The version of a page that `cut` sees, if an old one is what it sees.
    fn version(&self, page: PageId, cut: CommitNo) -> Step<Option<Read<'_>>> {
        match self.store.versions.find(page, cut) {
            Some(Version { frame: Some(frame), .. }) => {
                self.check_owner(page, frame)?;
                Ok(Some(Read { store: self.store, frame, page, latched: false }))
            }
            Some(_) => Err(Stop::Missing(page)),
            None => Ok(None),
        }
    }

    fn read_at(&self, word: &ChildWord, cut: CommitNo) -> Step<Read<'_>> {
        // A page that changes while we look, or is freed, has its version kept before it does: the
        // second look finds it.
        for _ in 0..3 {
            match self.read_current(word) {
                Ok(read) if read.changed_at() <= cut => return Ok(read),
                Ok(read) => {
                    let page = read.id();
                    drop(read);
                    if let Some(version) = self.version(page, cut)? {
                        return Ok(version);
                    }
                }
                Err(Stop::Missing(page)) => {
                    return self.version(page, cut)?.ok_or(Stop::Missing(page));
                }
                Err(Stop::Corrupt { page, detail }) => {
                    return self.version(page, cut)?.ok_or(Stop::Corrupt { page, detail });
                }
                Err(stop) => return Err(stop),
            }
        }
        Err(Stop::Corrupt {
            page: word.page(),
            detail: format!("it changed after {cut:?}, and no older version was kept"),
        })
    }

    #[inline]
    fn read_current(&self, word: &ChildWord) -> Step<Read<'_>> {
        loop {
            let (page, frame) = self.frame_of(word)?;
            let header = self.store.frames.header(frame);
            header.touch();
            if header.level.load(Ordering::Relaxed) > 0 {
                return Ok(Read { store: self.store, frame, page, latched: false });
            }
            header.latch_shared();
            if header.page_id() == page {
                // Only the chunks of a huge write set can be above the published number here.
                if header.changed_at.load(Ordering::Relaxed)
                    > self.store.published.load(Ordering::Acquire)
                {
                    let commit = header.commit();
                    header.unlatch_shared();
                    return Err(Stop::Unpublished(commit));
                }
                return Ok(Read { store: self.store, frame, page, latched: true });
            }
            header.unlatch_shared();
        }
    }
}

impl Pages for Session<'_> {
    type Read<'a>
        = Read<'a>
    where
        Self: 'a;

    #[inline]
    fn read<'a>(&'a self, word: &ChildWord, view: View) -> Step<Read<'a>> {
        self.prefetch_front(word);
        self.read_asked(word, view)
    }
    #[inline]
    fn read_asked<'a>(&'a self, word: &ChildWord, view: View) -> Step<Read<'a>> {
        match view {
            View::Current => self.read_current(word),
            View::Cut(cut) => self.read_at(word, cut),
        }
    }
    #[inline]
    fn prefetch(&self, word: &ChildWord, content: Range<usize>) {
        Session::prefetch(self, word, content);
    }
    #[cold]
    fn want_too(&self, words: &[ChildWord]) {
        self.wanted.borrow_mut().extend(words.iter().map(ChildWord::page));
    }
    #[inline]
    fn is_current(&self, branch: &Read<'_>) -> bool {
        self.store.frames.header(branch.frame).page_id() == branch.page
    }
    fn content_bytes(&self) -> usize {
        self.store.frames.content_bytes()
    }
}
