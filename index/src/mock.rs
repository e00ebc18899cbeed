//! Pages in memory, for the tests of the kinds: no frames, no disk, one thread.
//!
//! A page is an immutable snapshot behind an `Rc`, so that nothing here is unsafe: a write guard
//! changes a copy, which becomes the page when the guard goes. What the real store would answer with a deadlock is a
//! panic here: reading a leaf that is latched exclusively, writing one that is latched at all, replacing a page
//! twice at once, replacing a leaf that is not latched, freeing a page twice.
//!
//! Cuts work: [`Mock::cut`] takes one, and pages that change afterwards keep their old versions.
//! [`Mock::evict`] makes a page [`Stop::Missing`] until [`Mock::load`]; [`Mock::set_reserve`] limits how
//! many pages a turn gets before [`Stop::Reserve`]. [`Mock::settle`] does what stops ask for.
#![allow(dead_code, reason = "what the tests of one kind do not need, those of another do")]

use crate::pages::{
    BuildPages, ChildWord, PageNew, PageRead, PageWrite, Pages, Step, Stop, TurnPages, View,
};
use esker_base::{CommitNo, PageId};
use std::cell::{Cell, Ref, RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// A page as it stands.
#[derive(Debug)]
pub(crate) struct Page {
    id: PageId,
    level: u8,
    changed_at: CommitNo,
    words: Vec<ChildWord>,
    body: Vec<u8>,
    /// Readers, or -1 for a writer.
    latch: Cell<i32>,
}

#[derive(Debug)]
struct State {
    pages: BTreeMap<PageId, Rc<Page>>,
    /// Old states that a cut may see, oldest first.
    versions: BTreeMap<PageId, Vec<Rc<Page>>>,
    absent: BTreeSet<PageId>,
    replacing: BTreeSet<PageId>,
    freed: Vec<PageId>,
    next: u64,
    commit: CommitNo,
    newest_cut: Option<CommitNo>,
    reserve: usize,
    reserve_left: usize,
    counts: Counts,
}

/// Pages touched so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Read, at any view.
    pub(crate) read: usize,
    /// Built outside turns.
    pub(crate) built: usize,
    /// Created, replaced or latched in turns.
    pub(crate) written: usize,
}

impl State {
    /// Takes the current state of a page away, and keeps it if a cut sees it.
    fn retire(&mut self, page: PageId) -> Option<Rc<Page>> {
        let old = self.pages.remove(&page)?;
        if self.newest_cut.is_some_and(|cut| old.changed_at <= cut) {
            self.versions.entry(page).or_default().push(Rc::clone(&old));
        }
        Some(old)
    }
}

/// Pages of one table.
#[derive(Debug)]
pub(crate) struct Mock {
    content_bytes: usize,
    state: RefCell<State>,
}

impl Mock {
    /// Without pages, at commit 1.
    pub(crate) fn new(content_bytes: usize) -> Self {
        let state = State {
            pages: BTreeMap::new(),
            versions: BTreeMap::new(),
            absent: BTreeSet::new(),
            replacing: BTreeSet::new(),
            freed: Vec::new(),
            next: 1,
            commit: CommitNo(1),
            newest_cut: None,
            reserve: usize::MAX,
            reserve_left: usize::MAX,
            counts: Counts::default(),
        };
        Self { content_bytes, state: RefCell::new(state) }
    }
    fn state(&self) -> Ref<'_, State> {
        self.state.borrow()
    }
    fn state_mut(&self) -> RefMut<'_, State> {
        self.state.borrow_mut()
    }

    /// Pages touched so far.
    pub(crate) fn counts(&self) -> Counts {
        self.state().counts
    }

    /// Begins the next commit: pages that change from now on carry its number, which it returns.
    pub(crate) fn begin(&self) -> CommitNo {
        let mut state = self.state_mut();
        state.commit = state.commit.next();
        state.commit
    }
    /// Takes a cut behind the current commit and begins the next one.
    pub(crate) fn cut(&self) -> View {
        let cut = self.state().commit;
        self.state_mut().newest_cut = Some(cut);
        self.begin();
        View::Cut(cut)
    }
    /// Lets go of all cuts and old versions.
    pub(crate) fn release_cuts(&self) {
        let mut state = self.state_mut();
        state.newest_cut = None;
        state.versions.clear();
    }

    /// This page is not in memory until it is loaded.
    pub(crate) fn evict(&self, page: PageId) {
        let mut state = self.state_mut();
        let page = state.pages.get(&page).expect("a page that exists");
        assert_eq!(page.latch.get(), 0, "{:?} is latched", page.id);
        let page = page.id;
        state.absent.insert(page);
    }
    /// No leaf is in memory.
    pub(crate) fn evict_leaves(&self) {
        for page in self.page_ids() {
            if self.page(page).level == 0 {
                self.evict(page);
            }
        }
    }
    /// Nothing is in memory.
    pub(crate) fn evict_all(&self) {
        self.page_ids().into_iter().for_each(|page| self.evict(page));
    }
    /// Brings a page in.
    pub(crate) fn load(&self, page: PageId) {
        self.state_mut().absent.remove(&page);
    }
    /// Brings everything in.
    pub(crate) fn load_all(&self) {
        self.state_mut().absent.clear();
    }
    /// How many new pages can be handed out between two refills.
    pub(crate) fn set_reserve(&self, pages: usize) {
        let mut state = self.state_mut();
        (state.reserve, state.reserve_left) = (pages, pages);
    }
    /// Fills the reserve.
    pub(crate) fn refill(&self) {
        let mut state = self.state_mut();
        state.reserve_left = state.reserve;
    }

    /// Calls `f` until it does not stop any more, and does in between what it asks for.
    pub(crate) fn settle<T>(&self, mut f: impl FnMut() -> Step<T>) -> T {
        for _ in 0..100_000 {
            match f() {
                Ok(value) => return value,
                Err(Stop::Missing(page)) => self.load(page),
                Err(Stop::Reserve) => self.refill(),
                Err(Stop::Moved) => {}
                Err(stop) => panic!("{stop:?}"),
            }
        }
        panic!("it stops for ever");
    }

    /// Ids of all pages that were not freed.
    pub(crate) fn page_ids(&self) -> Vec<PageId> {
        self.state().pages.keys().copied().collect()
    }
    /// Ids of pages that were freed, in order.
    pub(crate) fn freed(&self) -> Vec<PageId> {
        self.state().freed.clone()
    }
    /// Ids of all pages that child words lead to, `root` included.
    pub(crate) fn reachable(&self, root: PageId) -> BTreeSet<PageId> {
        let mut found = BTreeSet::new();
        let mut open = vec![root];
        while let Some(page) = open.pop() {
            if found.insert(page) {
                open.extend(self.page(page).words.iter().map(ChildWord::page));
            }
        }
        found
    }
    /// A page as it stands, latched or not, in memory or not.
    pub(crate) fn page(&self, page: PageId) -> Rc<Page> {
        Rc::clone(self.state().pages.get(&page).unwrap_or_else(|| panic!("{page:?} is gone")))
    }
    /// Changes the body of a page behind everybody's back.
    pub(crate) fn damage(&self, page: PageId, change: impl FnOnce(&mut [u8])) {
        let old = self.page(page);
        let mut body = old.body.clone();
        change(&mut body);
        self.install(&old, body, old.changed_at);
    }

    fn install(&self, old: &Page, body: Vec<u8>, changed_at: CommitNo) {
        let words = old.words.iter().map(|word| ChildWord::new(word.page(), ChildWord::NO_HINT));
        let (words, latch) = (words.collect(), Cell::new(0));
        let new = Page { id: old.id, level: old.level, changed_at, words, body, latch };
        self.state_mut().pages.insert(old.id, Rc::new(new));
    }
    fn current(&self, page: PageId) -> Step<Rc<Page>> {
        let state = self.state();
        if state.absent.contains(&page) {
            return Err(Stop::Missing(page));
        }
        let detail = || "there is no such page, or it was freed".to_owned();
        let found = state.pages.get(&page).ok_or_else(|| Stop::Corrupt { page, detail: detail() });
        found.map(Rc::clone)
    }
    fn make(&self, id: PageId, level: u8, words: usize, replaces: bool) -> Step<MockNew<'_>> {
        let body_bytes = self.content_bytes.checked_sub(words * 8).expect("words fit a page");
        let mut state = self.state_mut();
        state.reserve_left = state.reserve_left.checked_sub(1).ok_or(Stop::Reserve)?;
        // The body of a new page is undefined.
        let (words, body) = (vec![0; words], vec![0xa5; body_bytes]);
        Ok(MockNew { mock: self, id, level, words, body, replaces, published: false })
    }
    fn make_new(&self, level: u8, words: usize) -> Step<MockNew<'_>> {
        let id = PageId(self.state().next);
        let new = self.make(id, level, words, false)?;
        self.state_mut().next += 1;
        Ok(new)
    }
    fn take(&self, mut new: MockNew<'_>) -> u64 {
        new.published = true;
        let mut state = self.state_mut();
        if new.replaces {
            state.replacing.remove(&new.id);
            state.retire(new.id).expect("what is replaced is there");
        }
        let words = new
            .words
            .iter()
            .map(|bits| ChildWord::new(ChildWord::page_of(*bits), ChildWord::hint_of(*bits)));
        let page = Page {
            id: new.id,
            level: new.level,
            changed_at: state.commit,
            words: words.collect(),
            body: std::mem::take(&mut new.body),
            latch: Cell::new(0),
        };
        state.pages.insert(new.id, Rc::new(page));
        ChildWord::pack(new.id, ChildWord::NO_HINT)
    }
}

impl PageRead for Page {
    fn id(&self) -> PageId {
        self.id
    }
    fn level(&self) -> u8 {
        self.level
    }
    fn changed_at(&self) -> CommitNo {
        self.changed_at
    }
    fn words(&self) -> &[ChildWord] {
        &self.words
    }
    fn body(&self) -> &[u8] {
        &self.body
    }
}

/// A readable page.
#[derive(Debug)]
pub(crate) struct MockRead {
    page: Rc<Page>,
    latched: bool,
}

impl Drop for MockRead {
    fn drop(&mut self) {
        if self.latched {
            self.page.latch.set(self.page.latch.get() - 1);
        }
    }
}

impl PageRead for MockRead {
    fn id(&self) -> PageId {
        self.page.id
    }
    fn level(&self) -> u8 {
        self.page.level
    }
    fn changed_at(&self) -> CommitNo {
        self.page.changed_at
    }
    fn words(&self) -> &[ChildWord] {
        &self.page.words
    }
    fn body(&self) -> &[u8] {
        &self.page.body
    }
}

impl Pages for Mock {
    type Read<'a> = MockRead;

    fn read(&self, word: &ChildWord, view: View) -> Step<MockRead> {
        let page = word.page();
        self.state_mut().counts.read += 1;
        if let View::Cut(cut) = view {
            let state = self.state();
            let current = state.pages.get(&page).filter(|page| page.changed_at <= cut);
            if current.is_none() {
                let versions = state.versions.get(&page).map_or(&[][..], |versions| versions);
                let version = versions.iter().rev().find(|page| page.changed_at <= cut);
                let detail = format!("no version for {cut:?}");
                let version = version.ok_or(Stop::Corrupt { page, detail })?;
                return Ok(MockRead { page: Rc::clone(version), latched: false });
            }
        }
        let page = self.current(page)?;
        let latched = page.level == 0;
        if latched {
            assert!(page.latch.get() >= 0, "deadlock: {:?} is latched exclusively", page.id);
            page.latch.set(page.latch.get() + 1);
        }
        Ok(MockRead { page, latched })
    }
    fn is_current(&self, branch: &MockRead) -> bool {
        assert!(branch.page.level > 0, "asked of branches");
        let state = self.state();
        state.pages.get(&branch.page.id).is_some_and(|page| Rc::ptr_eq(page, &branch.page))
    }
    fn content_bytes(&self) -> usize {
        self.content_bytes
    }
}

/// A leaf under its exclusive latch.
#[derive(Debug)]
pub(crate) struct MockWrite<'a> {
    mock: &'a Mock,
    page: Rc<Page>,
    changed: Option<Vec<u8>>,
}

impl PageRead for MockWrite<'_> {
    fn id(&self) -> PageId {
        self.page.id
    }
    fn level(&self) -> u8 {
        0
    }
    fn changed_at(&self) -> CommitNo {
        match self.changed {
            None => self.page.changed_at,
            Some(_) => self.mock.state().commit,
        }
    }
    fn words(&self) -> &[ChildWord] {
        &self.page.words
    }
    fn body(&self) -> &[u8] {
        self.changed.as_ref().unwrap_or(&self.page.body)
    }
}

impl PageWrite for MockWrite<'_> {
    fn body_mut(&mut self) -> &mut [u8] {
        self.changed.get_or_insert_with(|| self.page.body.clone())
    }
    fn release(self) {}
}

impl Drop for MockWrite<'_> {
    fn drop(&mut self) {
        self.page.latch.set(0);
        let Some(body) = self.changed.take() else { return };
        let mut state = self.mock.state_mut();
        // Unless it was replaced or freed under this guard.
        if state.pages.get(&self.page.id).is_some_and(|page| Rc::ptr_eq(page, &self.page)) {
            state.retire(self.page.id);
            let commit = state.commit;
            drop(state);
            self.mock.install(&self.page, body, commit);
        }
    }
}

/// A page in the making.
#[derive(Debug)]
pub(crate) struct MockNew<'a> {
    mock: &'a Mock,
    id: PageId,
    level: u8,
    words: Vec<u64>,
    body: Vec<u8>,
    replaces: bool,
    published: bool,
}

impl PageNew for MockNew<'_> {
    fn id(&self) -> PageId {
        self.id
    }
    fn words_mut(&mut self) -> &mut [u64] {
        &mut self.words
    }
    fn body_mut(&mut self) -> &mut [u8] {
        &mut self.body
    }
    fn parts_mut(&mut self) -> (&mut [u64], &mut [u8]) {
        (&mut self.words, &mut self.body)
    }
}

impl Drop for MockNew<'_> {
    fn drop(&mut self) {
        if !self.published {
            let mut state = self.mock.state_mut();
            state.reserve_left = state.reserve_left.saturating_add(1);
            if self.replaces {
                state.replacing.remove(&self.id);
            }
        }
    }
}

impl TurnPages for Mock {
    type Write<'a> = MockWrite<'a>;
    type New<'a> = MockNew<'a>;

    fn write<'a>(&'a self, word: &ChildWord) -> Step<MockWrite<'a>> {
        self.state_mut().counts.written += 1;
        let page = self.current(word.page())?;
        if page.level > 0 {
            return Err(Stop::Moved);
        }
        assert_eq!(page.latch.get(), 0, "deadlock: {:?} is latched", page.id);
        page.latch.set(-1);
        Ok(MockWrite { mock: self, page, changed: None })
    }
    fn create(&self, level: u8, words: usize) -> Step<MockNew<'_>> {
        self.state_mut().counts.written += 1;
        self.make_new(level, words)
    }
    fn replace(&self, page: PageId, level: u8, words: usize) -> Step<MockNew<'_>> {
        self.state_mut().counts.written += 1;
        let old = self.current(page)?;
        assert!(old.level > 0 || old.latch.get() < 0, "a leaf is replaced by who latched it");
        assert!(!self.state().replacing.contains(&page), "deadlock: {page:?} is being replaced");
        let new = self.make(page, level, words, true)?;
        self.state_mut().replacing.insert(page);
        Ok(new)
    }
    fn publish(&self, page: MockNew<'_>) -> u64 {
        self.take(page)
    }
    fn free(&self, page: PageId) {
        let mut state = self.state_mut();
        assert!(state.retire(page).is_some(), "{page:?} is freed twice");
        state.absent.remove(&page);
        state.freed.push(page);
    }
    fn free_tree(&self, word: u64, _level: u8) {
        let page = self.page(ChildWord::page_of(word));
        let mut before = None;
        for child in page.words.iter().map(ChildWord::page) {
            // Neighbouring words may name the same child.
            if before.replace(child) != Some(child) {
                self.free_tree(ChildWord::pack(child, ChildWord::NO_HINT), 0);
            }
        }
        self.free(page.id);
    }
    fn reserve_left(&self) -> usize {
        self.state().reserve_left
    }
}

impl BuildPages for Mock {
    type New<'a> = MockNew<'a>;

    fn build(&self, level: u8, words: usize) -> Step<MockNew<'_>> {
        self.state_mut().counts.built += 1;
        self.make_new(level, words)
    }
    fn keep(&self, page: MockNew<'_>) -> u64 {
        self.take(page)
    }
}

mod tests {
    use super::*;

    #[test]
    fn cuts_see_old_versions_and_stops_are_settled() {
        let mock = Mock::new(960);
        let leaf = mock.settle(|| TurnPages::create(&mock, 0, 0));
        let word = ChildWord::new(leaf.id(), ChildWord::NO_HINT);
        mock.publish(leaf);
        let read = |view| mock.settle(|| mock.read(&word, view)).body()[0];
        let cut = mock.cut();
        mock.evict_all();
        mock.settle(|| mock.write(&word)).body_mut()[0] = 7;
        assert_eq!((read(cut), read(View::Current)), (0xa5, 7));
        mock.set_reserve(1);
        let built = mock.settle(|| mock.build(0, 0));
        assert!(matches!(mock.build(0, 0), Err(Stop::Reserve)));
        let built = ChildWord::page_of(mock.keep(built));
        assert_eq!(mock.page_ids(), [word.page(), built]);
        mock.free(built);
        assert_eq!(mock.freed(), [built]);
    }
}
