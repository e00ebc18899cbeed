//! What an index needs of the page store, and the rules that make it safe.
//!
//! # Pages
//!
//! A page is `page_bytes - 64` bytes of content (the store keeps 64 bytes for itself), in two parts:
//! a *word area* of [`ChildWord`]s, whose number is fixed when the page is made, and the *body*,
//! plain bytes that belong to the index. The store knows the words (it strips their hints on disk and
//! can walk a tree of any kind by them); the body is opaque to it.
//!
//! Level 0 pages are *leaves*: changed in place under an exclusive latch, read under a shared one.
//! Higher levels are *branches*: never changed once published, replaced as a whole under the same page id.
//! Only their words are updated, and only in their frame hints.
//!
//! # Reading
//!
//! [`Pages::read`] follows a word to the page as it stands at a [`View`]. Under [`View::Current`] the
//! tree may change on the way down, so the reader keeps its branches and, once it holds the leaf's
//! latch, asks [`Pages::is_current`] of each: if all still are, the leaf is the right one, because
//! whoever moves keys between leaves replaces a branch above them while holding the latch of every
//! leaf involved. Otherwise it starts again at the root. Under [`View::Cut`] nothing changes, and there is nothing to
//! check.
//!
//! # Writing
//!
//! Happens in the commit turn only: one thread at a time. Everything is made ready first
//! ([`TurnPages::write`] on each leaf, splits, room), and anything missing stops before a byte has
//! changed, or after a change that moves no key out of reach (a split) and is complete. Only then is
//! the log written, and from there nothing can fail.
//!
//! Publishing order of a change over many pages: new pages first, then replaced branches from the
//! top down, then leaves, whose exclusive latches are held all the time. (Bottom-up would let a reader
//! pass an old, still current grandparent and a new parent that no longer covers its key.)

use esker_base::sync::{AtomicU64, Ordering};
use esker_base::{CommitNo, PageId};
use std::fmt;
use std::ops::Range;

/// Why an index call stopped. Nothing has changed; the caller does what is asked and calls again.
#[derive(Debug)]
pub enum Stop {
    /// This page is not in memory: read it.
    Missing(PageId),
    /// The tree changed on the way down: start again at the root.
    Moved,
    /// The page carries a commit that is not published yet (a huge write set is being applied): wait
    /// for it, without a pin, and call again.
    Unpublished(CommitNo),
    /// The turn's reserve of frames or page ids is used up: leave the turn and refill it.
    Reserve,
    /// Background work has fallen behind so far that this write finds no room: leave the turn, and let it go on first.
    Behind,
    /// A page does not hold what its parent says.
    Corrupt {
        /// The page.
        page: PageId,
        /// What is wrong with it.
        detail: String,
    },
}

/// `Result` with [`Stop`].
pub type Step<T> = Result<T, Stop>;

/// Which state of the tree a reader sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// The newest published one.
    Current,
    /// As of this commit, for which a cut is held.
    Cut(CommitNo),
}

/// Names a child page: its id (high 40 bits) and a guess which frame it is in (low 24 bits).
#[repr(transparent)]
pub struct ChildWord(AtomicU64);

impl ChildWord {
    const HINT_BITS: u32 = 24;
    /// The hint that says nothing.
    pub const NO_HINT: u32 = (1 << Self::HINT_BITS) - 1;

    /// A word that names `page`.
    pub fn new(page: PageId, hint: u32) -> Self {
        Self(AtomicU64::new(Self::pack(page, hint)))
    }
    /// The bits of a word.
    pub fn pack(page: PageId, hint: u32) -> u64 {
        debug_assert!(page.0 < PageId::LIMIT, "page ids have 40 bits");
        page.0 << Self::HINT_BITS | u64::from(hint & Self::NO_HINT)
    }
    /// The page id in these bits.
    pub fn page_of(bits: u64) -> PageId {
        PageId(bits >> Self::HINT_BITS)
    }
    /// The frame hint in these bits.
    pub fn hint_of(bits: u64) -> u32 {
        u32::try_from(bits & u64::from(Self::NO_HINT)).expect("24 bits")
    }
    /// These bits with the hint taken out, as they lie on disk.
    pub fn without_hint(bits: u64) -> u64 {
        bits | u64::from(Self::NO_HINT)
    }
    /// All bits, read at once.
    pub fn load(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    /// The page.
    pub fn page(&self) -> PageId {
        Self::page_of(self.load())
    }
    /// Points the word at another page (roots only) or sets the hint.
    pub fn store(&self, page: PageId, hint: u32) {
        self.0.store(Self::pack(page, hint), Ordering::Relaxed);
    }
    /// Sets the hint if the word has not changed since `seen` was loaded.
    pub fn set_hint(&self, seen: u64, hint: u32) {
        let new = Self::pack(Self::page_of(seen), hint);
        // Losing the race means that somebody else set a hint: no harm.
        let _lost =
            self.0.compare_exchange(seen, new, Ordering::Relaxed, Ordering::Relaxed).is_err();
    }
}

impl fmt::Debug for ChildWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bits = self.load();
        write!(f, "{:?}@{}", Self::page_of(bits), Self::hint_of(bits))
    }
}

/// A page that may be read: a latched leaf, an immutable branch, or an old version.
pub trait PageRead {
    /// Its id.
    fn id(&self) -> PageId;
    /// 0 for a leaf.
    fn level(&self) -> u8;
    /// The last commit that changed it.
    fn changed_at(&self) -> CommitNo;
    /// The word area.
    fn words(&self) -> &[ChildWord];
    /// The body.
    fn body(&self) -> &[u8];
    /// Asks for some bytes of the body, so that they are on their way from memory when they are read. May do nothing.
    fn prefetch(&self, _body: Range<usize>) {}
}

/// A leaf under its exclusive latch, in the turn.
pub trait PageWrite: PageRead {
    /// The body, to be changed. The first call keeps the old version if a cut still sees it, marks the
    /// page dirty and stamps it with the turn's commit number; it cannot fail, since
    /// [`TurnPages::write`] set aside what it needs.
    fn body_mut(&mut self) -> &mut [u8];
    /// Releases the latch before the end of the turn would (only where no change of this turn may be
    /// seen half).
    fn release(self);
}

/// A new page that nobody else sees until [`TurnPages::publish`]. Dropping it gives it back.
pub trait PageNew {
    /// Its id.
    fn id(&self) -> PageId;
    /// The word area, for [`ChildWord::pack`]ed bits; zero at first.
    fn words_mut(&mut self) -> &mut [u64];
    /// The body; its content is undefined at first.
    fn body_mut(&mut self) -> &mut [u8];
    /// Both at once.
    fn parts_mut(&mut self) -> (&mut [u64], &mut [u8]);
}

/// Read access to the pages of one table, by one thread, while an epoch is pinned.
pub trait Pages {
    /// A readable page. Leaves hold their shared latch until dropped: hold one at a time, and briefly.
    type Read<'a>: PageRead
    where
        Self: 'a;

    /// Follows a word.
    ///
    /// # Errors
    /// `Missing`, `Corrupt`. (A stale hint is repaired on the way and is not an error.)
    fn read<'a>(&'a self, word: &ChildWord, view: View) -> Step<Self::Read<'a>>;
    /// Asks for some bytes of a page's content, so that they are on their way from memory when they are read. Only a
    /// guess, where the word's hint says; may do nothing.
    fn prefetch(&self, _word: &ChildWord, _content: Range<usize>) {}
    /// As [`Self::read`], by who has asked for the lines that it wants ([`Self::prefetch`]): `read` itself asks for those
    /// that a search of a leaf is likely to want first.
    ///
    /// # Errors
    /// As [`Self::read`].
    fn read_asked<'a>(&'a self, word: &ChildWord, view: View) -> Step<Self::Read<'a>> {
        self.read(word, view)
    }
    /// After a page was `Missing`: pages that lie beside it and are going to be wanted, too, though not at once. They may be
    /// read together with it.
    fn want_too(&self, _words: &[ChildWord]) {}
    /// True if this branch has not been replaced since it was read.
    fn is_current(&self, branch: &Self::Read<'_>) -> bool;
    /// Bytes of content in a page: words and body together.
    fn content_bytes(&self) -> usize;
}

/// Write access, in the commit turn.
pub trait TurnPages: Pages {
    /// How many bytes of content a leaf that is filled in order should get: as [`BuildPages::leaf_bytes`].
    fn leaf_bytes(&self) -> usize {
        self.content_bytes()
    }
    /// A leaf under its exclusive latch.
    type Write<'a>: PageWrite
    where
        Self: 'a;
    /// A page in the making.
    type New<'a>: PageNew
    where
        Self: 'a;

    /// Latches a leaf. Waits only for readers to let go of it.
    ///
    /// # Errors
    /// `Missing`, `Reserve`, `Corrupt`; `Moved` if the page is no longer a leaf.
    fn write<'a>(&'a self, word: &ChildWord) -> Step<Self::Write<'a>>;
    /// A new page under a new id.
    ///
    /// # Errors
    /// `Reserve`.
    fn create(&self, level: u8, words: usize) -> Step<Self::New<'_>>;
    /// A new page that takes the id of `page` (a branch, or a leaf whose exclusive latch this turn holds)
    /// when it is published. `word` is where the parent names it; its hint is set then.
    ///
    /// # Errors
    /// `Missing`, `Reserve`.
    fn replace(&self, page: PageId, level: u8, words: usize) -> Step<Self::New<'_>>;
    /// Makes the page readable under its id and returns the word that names it. What had the id before
    /// is no longer current, but stays readable to those who hold it and to cuts that see it.
    fn publish(&self, page: Self::New<'_>) -> u64;
    /// The page is no longer reachable from the current tree. Its id and space come back when no cut sees
    /// it.
    fn free(&self, page: PageId);
    /// The subtree below `word` is no longer reachable from the current tree; the store walks
    /// and frees it in the background, and remembers to over a crash.
    fn free_tree(&self, word: u64, level: u8);
    /// These pages are no longer reachable from the current tree: as [`Self::free`], for `count` ids from `first` on.
    fn free_range(&self, first: PageId, count: u32) {
        for i in 0..u64::from(count) {
            self.free(PageId(first.0 + i));
        }
    }
    /// How many more pages `create`, `replace` and `write` can hand out in this turn.
    fn reserve_left(&self) -> usize;
}

/// Pages built outside the turn: background work. They are nobody's until a turn makes something refer to them
/// ([`Kind::finish_work`](crate::kind::Kind::finish_work)); a crash before that gives them back. They may be written out and
/// evicted meanwhile, and are never changed.
pub trait BuildPages: Pages {
    /// A page in the making.
    type New<'a>: PageNew
    where
        Self: 'a;

    /// A new page under a new id. Pages built one after the other have consecutive ids, as a rule.
    ///
    /// # Errors
    /// `Reserve`.
    fn build(&self, level: u8, words: usize) -> Step<Self::New<'_>>;
    /// How many bytes of content a page of level 0 should have, so that its image, compressed, fills what one read
    /// of the medium brings: at most [`Pages::content_bytes`], which is also the answer where nothing is known.
    fn leaf_bytes(&self) -> usize {
        self.content_bytes()
    }
    /// Gives the page to the store and returns the word that names it. It can be read from now on, by who knows
    /// the word.
    fn keep(&self, page: Self::New<'_>) -> u64;
}
