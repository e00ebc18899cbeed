//! Frames: the arena's memory, cut into pages with a runtime header each.
//!
//! ```text
//!  0       4       8               16              24       28     30     31
//! | latch | state | page id       | changed_at    | table  | words| level| kind|
//! 32                              48                              64
//! | address of the image on disk  | spare                         | content ...
//! ```
//!
//! # Invariants
//!
//! - `table`, `words`, `level` and `kind` are set while nobody else knows the frame and stay as they are
//!   until it is reused, which happens only after every epoch pinned when it was given up has ended.
//!   So a reader that found `page` to be the id it wants, under a pin, may rely on them.
//! - The content of a leaf is written under the exclusive latch and read under the shared one.
//! - The content of any other page is not written after `page` was set, but for its words, which are
//!   atomics.
//! - `page` is 0 in frames that are free, retired, or hold an old version.
//!
//! This is the only module of the engine that touches page memory through raw pointers.
#![allow(unsafe_code, reason = "page memory is shared under latches that the compiler cannot see")]
#![allow(clippy::cast_ptr_alignment, reason = "frames are aligned to their size, headers to 64")]

use super::Writer;
use super::free::FreeFrames;
use super::image::Address;
use esker_base::sync::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Mutex, Ordering};
use esker_base::{CommitNo, PageId, Result};
use esker_index::pages::ChildWord;
use esker_io::arena::{Arena, HUGE_PAGE_BYTES};
use std::collections::VecDeque;
use std::ops::Range;

use super::epoch::Epochs;
use super::latch::Latch;

/// Bytes of a frame that the store keeps for itself.
pub(crate) const HEADER_BYTES: usize = 64;

/// The content differs from the image at `address`, or there is none.
pub(crate) const DIRTY: u32 = 1;
/// Used since the clock hand last came by.
pub(crate) const REFERENCED: u32 = 2;
/// A copy is on its way to a segment: not to be evicted yet.
pub(crate) const WRITING: u32 = 4;
/// Not to be evicted: it is being made, or waits for the commit that names it.
pub(crate) const PINNED: u32 = 8;

/// A number in the state: how often the clock hand passes by a page that is not used, before it goes.
const LIFE: u32 = 1 << 8;
const LIVES: u32 = 3 * LIFE;

/// Header, heads and slots of a leaf of some seventy rows.
const PREFETCH_LINES: usize = 7;

/// Memory is populated at most so far ahead of use.
const POPULATE_AHEAD_BYTES_MAX: usize = 64 << 20;

/// Number of a frame in the arena.
pub(crate) type FrameId = u32;

/// The runtime header of a frame. All atomics; what orders them is said per field.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Header {
    latch: Latch,
    pub(crate) state: AtomicU32,
    /// Written with release after the content, read with acquire before it.
    pub(crate) page: AtomicU64,
    /// Under the latch (leaves) or fixed.
    pub(crate) changed_at: AtomicU64,
    pub(crate) table: AtomicU32,
    pub(crate) words: AtomicU16,
    pub(crate) level: AtomicU8,
    pub(crate) kind: AtomicU8,
    /// Under the latch; written by the store's writer only.
    pub(crate) address: [AtomicU64; 2],
    spare: [AtomicU64; 2],
}
const _: () = assert!(size_of::<Header>() == HEADER_BYTES);

impl Header {
    pub(crate) fn page_id(&self) -> PageId {
        PageId(self.page.load(Ordering::Acquire))
    }
    pub(crate) fn commit(&self) -> CommitNo {
        CommitNo(self.changed_at.load(Ordering::Relaxed))
    }
    pub(crate) fn has(&self, bits: u32) -> bool {
        self.state.load(Ordering::Acquire) & bits != 0
    }
    pub(crate) fn set(&self, bits: u32) {
        self.state.fetch_or(bits, Ordering::AcqRel);
    }
    pub(crate) fn clear(&self, bits: u32) {
        self.state.fetch_and(!bits, Ordering::AcqRel);
    }
    /// True if the page leads to others, or saves reading them.
    pub(crate) fn is_leading(&self) -> bool {
        self.level.load(Ordering::Relaxed) > 0
    }
    /// Gives a page that [leads](Self::is_leading) more lives than the others have.
    pub(crate) fn give_lives(&self) {
        if self.is_leading() {
            self.set(LIVES);
        }
    }
    /// Takes a life; false if it has none.
    pub(crate) fn take_life(&self) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        if state & LIVES == 0 {
            return false;
        }
        // If the state changed meanwhile, the page keeps this life, too.
        let (less, relaxed) = (state - LIFE, Ordering::Relaxed);
        let _kept = self.state.compare_exchange(state, less, relaxed, relaxed).is_err();
        true
    }
    /// Marks as used, without a write if it is marked already.
    #[inline]
    pub(crate) fn touch(&self) {
        if self.state.load(Ordering::Relaxed) & REFERENCED == 0 {
            self.state.fetch_or(REFERENCED, Ordering::Relaxed);
        }
    }
    pub(crate) fn address(&self) -> Address {
        Address::unpack([
            self.address[0].load(Ordering::Relaxed),
            self.address[1].load(Ordering::Relaxed),
        ])
    }
    pub(crate) fn set_address(&self, address: Address) {
        let [a, b] = address.pack();
        self.address[0].store(a, Ordering::Relaxed);
        self.address[1].store(b, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn latch_shared(&self) {
        self.latch.lock_shared();
    }
    #[inline]
    pub(crate) fn unlatch_shared(&self) {
        self.latch.unlock_shared();
    }
    #[inline]
    pub(crate) fn latch_exclusive(&self) {
        self.latch.lock_exclusive();
    }
    #[inline]
    pub(crate) fn try_latch_exclusive(&self) -> bool {
        self.latch.try_lock_exclusive()
    }
    #[inline]
    pub(crate) fn unlatch_exclusive(&self) {
        self.latch.unlock_exclusive();
    }
    /// For assertions.
    pub(crate) fn is_latched_exclusive(&self) -> bool {
        self.latch.is_locked_exclusive()
    }
}

/// Which lines of a frame were asked for, and which are still to come.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    frame: FrameId,
    per_row: usize,
    line: usize,
    front: usize,
    hole: usize,
    end: usize,
}

/// All frames.
#[derive(Debug)]
pub(crate) struct Frames {
    arena: Arena,
    frame_bytes: usize,
    count: u32,
    epochs: Epochs,
    free: Mutex<FreeFrames>,
    /// As `free` says: frames from `limit` on are not to be taken, and from `end` on nothing is in use.
    limit: AtomicU32,
    end: AtomicU32,
    /// Given up, with the epoch that must end first.
    retired: Mutex<VecDeque<(u64, FrameId)>>,
    /// About how many frames are free, but for those withdrawn, or in `retired`.
    available: AtomicUsize,
    /// The first frame that was not taken since it was last given back, or at all: they are taken in their order.
    fresh: AtomicU32,
    /// The first frame that was last given back.
    given_from: AtomicU32,
    /// Frames before it have memory, or will be given it by who first touches them.
    populated: AtomicU32,
}

impl Frames {
    /// Reserves memory for `count` frames of `frame_bytes` (a power of two).
    pub(crate) fn new(count: u32, frame_bytes: usize) -> Result<Self> {
        assert!(frame_bytes.is_power_of_two() && frame_bytes >= 512);
        let arena = Arena::reserve(count as usize * frame_bytes)?;
        Ok(Self {
            arena,
            frame_bytes,
            count,
            epochs: Epochs::new(),
            free: Mutex::new(FreeFrames::new(count, piece_frames(count, frame_bytes))),
            limit: AtomicU32::new(count),
            end: AtomicU32::new(count),
            retired: Mutex::new(VecDeque::new()),
            available: AtomicUsize::new(count as usize),
            fresh: AtomicU32::new(0),
            given_from: AtomicU32::new(0),
            populated: AtomicU32::new(0),
        })
    }

    pub(crate) fn epochs(&self) -> &Epochs {
        &self.epochs
    }
    pub(crate) fn count(&self) -> u32 {
        self.count
    }
    /// How many may be in use just now.
    pub(crate) fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }
    /// Nothing is in use from here on: the memory may have been given back, and reading it would take some.
    #[inline]
    pub(crate) fn end(&self) -> FrameId {
        self.end.load(Ordering::Relaxed)
    }
    /// Bytes of content in a frame.
    pub(crate) fn content_bytes(&self) -> usize {
        self.frame_bytes - HEADER_BYTES
    }
    /// Frames that are free, or will be when epochs end.
    pub(crate) fn available(&self) -> usize {
        self.available.load(Ordering::Relaxed)
    }

    fn at(&self, frame: FrameId) -> *mut u8 {
        assert!(frame < self.count, "frame number out of the arena");
        // SAFETY: the arena has `count * frame_bytes` bytes, and `frame < count`.
        unsafe { self.arena.base().as_ptr().add(frame as usize * self.frame_bytes) }
    }

    /// The header of a frame.
    #[inline]
    pub(crate) fn header(&self, frame: FrameId) -> &Header {
        // SAFETY: the frame begins with a `Header`, aligned since frames are, all atomics, for which
        // the arena's zeroes are valid and which are only ever reached through shared references.
        unsafe { &*self.at(frame).cast::<Header>() }
    }

    /// Asks for the lines that a search of a leaf reads first, so that they arrive together with the
    /// header's: the latch that comes before the search would make them wait for it.
    #[inline]
    pub(crate) fn prefetch_front(&self, frame: FrameId) {
        self.prefetch(frame, 0..PREFETCH_LINES * 64 - HEADER_BYTES);
    }

    /// Asks for bytes of the content of a frame. What it holds by now does not matter.
    #[inline]
    pub(crate) fn prefetch(&self, frame: FrameId, content: Range<usize>) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let at = self.at(frame);
            let end = (HEADER_BYTES + content.end).min(self.frame_bytes);
            // Who begins at the front will look at the header, too.
            let first = if content.start == 0 { 0 } else { (HEADER_BYTES + content.start) / 64 };
            for line in first..end.div_ceil(64) {
                // SAFETY: a prefetch reads nothing; the address is inside the frame.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(line * 64).cast()) };
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _no_hint = (frame, content);
    }

    /// A plan to ask for the lines of a frame while `rows` rows of another are looked at: `front` bytes of
    /// content and the last `back`.
    pub(crate) fn plan_ahead(
        &self,
        frame: FrameId,
        rows: usize,
        (front, back): (usize, usize),
    ) -> Ahead {
        let lines_max = self.frame_bytes / 64;
        let front = ((HEADER_BYTES + front).div_ceil(64)).min(lines_max);
        let back = back.div_ceil(64).min(lines_max - front);
        let end = if frame < self.count { front + back } else { 0 };
        let hole = lines_max - front - back;
        Ahead { frame, per_row: end.div_ceil(rows.max(1)), line: 0, front, hole, end }
    }

    /// Asks for some more lines. What the frame holds by now does not matter.
    #[inline]
    pub(crate) fn prefetch_some(&self, ahead: &mut Ahead) {
        #[cfg(target_arch = "x86_64")]
        if ahead.line < ahead.end {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let at = self.at(ahead.frame);
            for _ in 0..ahead.per_row {
                let skip = if ahead.line < ahead.front { 0 } else { ahead.hole };
                let line = at.wrapping_add((ahead.line + skip) * 64);
                // SAFETY: a prefetch reads nothing; a plan's lines are inside the frame, or just behind.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
                ahead.line += 1;
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _no_hint = ahead;
    }

    fn content(&self, frame: FrameId) -> *mut u8 {
        // SAFETY: `frame_bytes > HEADER_BYTES`.
        unsafe { self.at(frame).add(HEADER_BYTES) }
    }

    /// The words of a page.
    ///
    /// The caller holds an epoch pin (or the frame itself) and found the page it wants there.
    pub(crate) fn words(&self, frame: FrameId) -> &[ChildWord] {
        let words = usize::from(self.header(frame).words.load(Ordering::Relaxed));
        debug_assert!(words * 8 <= self.content_bytes());
        // SAFETY: the word area is the first `words * 8` bytes of the content, 8-aligned; words are
        // atomics and never reached as plain bytes while the frame is known to others.
        unsafe { std::slice::from_raw_parts(self.content(frame).cast::<ChildWord>(), words) }
    }

    /// The body of a page.
    ///
    /// # Safety
    /// Nobody may write the body while the slice lives: the caller holds the frame's latch, or the page is
    /// immutable (a branch, an old version, an overflow page) and cannot be reused: the caller holds
    /// an epoch pin from before it found the page there.
    pub(crate) unsafe fn body(&self, frame: FrameId) -> &[u8] {
        let skip = usize::from(self.header(frame).words.load(Ordering::Relaxed)) * 8;
        let at = self.content(frame).wrapping_add(skip);
        // SAFETY: inside the content; not written meanwhile, by the contract above.
        unsafe { std::slice::from_raw_parts(at, self.content_bytes() - skip) }
    }

    /// The body of a page, to write.
    ///
    /// # Safety
    /// The caller holds the exclusive latch, or the frame is not known to anybody else; and has no other
    /// slice of it.
    #[expect(clippy::mut_from_ref, reason = "exclusiveness comes from the latch, see Safety")]
    pub(crate) unsafe fn body_mut(&self, frame: FrameId) -> &mut [u8] {
        let skip = usize::from(self.header(frame).words.load(Ordering::Relaxed)) * 8;
        let at = self.content(frame).wrapping_add(skip);
        // SAFETY: inside the content; exclusive, by the contract above.
        unsafe { std::slice::from_raw_parts_mut(at, self.content_bytes() - skip) }
    }

    /// Words and body of a frame that nobody else knows, to fill.
    ///
    /// # Safety
    /// The frame is not known to anybody else, and the caller has no other slice of it.
    #[expect(clippy::mut_from_ref, reason = "exclusiveness comes from ownership, see Safety")]
    pub(crate) unsafe fn parts_mut(&self, frame: FrameId) -> (&mut [u64], &mut [u8]) {
        let words = usize::from(self.header(frame).words.load(Ordering::Relaxed));
        // SAFETY: as `words`, but exclusive by the contract above, so plain integers will do.
        let word_area =
            unsafe { std::slice::from_raw_parts_mut(self.content(frame).cast::<u64>(), words) };
        // SAFETY: the body does not overlap the word area; exclusive by the contract above.
        (word_area, unsafe { self.body_mut(frame) })
    }

    /// Copies a page's words and body into a frame that nobody else knows.
    ///
    /// # Safety
    /// `from` is latched (shared suffices) or immutable; `to` is not known to anybody else.
    pub(crate) unsafe fn copy(&self, from: FrameId, to: FrameId) {
        let (source, target) = (self.header(from), self.header(to));
        target.table.store(source.table.load(Ordering::Relaxed), Ordering::Relaxed);
        target.words.store(source.words.load(Ordering::Relaxed), Ordering::Relaxed);
        target.level.store(source.level.load(Ordering::Relaxed), Ordering::Relaxed);
        target.kind.store(source.kind.load(Ordering::Relaxed), Ordering::Relaxed);
        target.changed_at.store(source.changed_at.load(Ordering::Relaxed), Ordering::Relaxed);
        // SAFETY: `to` is ours alone.
        let (words, body) = unsafe { self.parts_mut(to) };
        for (word, from) in words.iter_mut().zip(self.words(from)) {
            *word = from.load();
        }
        // SAFETY: `from` is latched or immutable.
        body.copy_from_slice(unsafe { self.body(from) });
    }

    /// Takes a free frame; `None` if there is none now. Its header is reset.
    pub(crate) fn take(&self) -> Option<FrameId> {
        let frame = {
            let mut free = self.free.lock();
            if free.is_empty() {
                self.reclaim(&mut free);
            }
            let frame = free.pop()?;
            debug_assert!(frame < free.limit(), "withdrawn frames are not taken");
            // Under the lock, so that it only grows.
            if frame >= self.fresh.load(Ordering::Relaxed) {
                self.fresh.store(frame + 1, Ordering::Relaxed);
            }
            frame
        };
        self.available.fetch_sub(1, Ordering::Relaxed);
        let header = self.header(frame);
        debug_assert_eq!(header.page.load(Ordering::Relaxed), 0);
        header.state.store(0, Ordering::Relaxed);
        header.set_address(Address::NONE);
        Some(frame)
    }

    /// True if [`Self::populate`] would do something.
    pub(crate) fn is_populate_due(&self) -> bool {
        self.populated.load(Ordering::Relaxed) < self.populate_goal().min(self.limit())
    }

    /// Half as much again as was used, at all or since memory was last given back, so that little use takes little memory.
    fn populate_goal(&self) -> u32 {
        let fresh = self.fresh.load(Ordering::Relaxed);
        let used = fresh.saturating_sub(self.given_from.load(Ordering::Relaxed));
        let ahead = POPULATE_AHEAD_BYTES_MAX / self.frame_bytes;
        fresh.saturating_add((used / 2).min(u32::try_from(ahead).unwrap_or(u32::MAX)))
    }

    /// Gives memory to frames that will be taken next: the kernel takes its time to clear it, and whoever touches it first
    /// would wait. One huge page at most; true if there is more to do. For one background thread.
    pub(crate) fn populate(&self) -> bool {
        let goal = self.populate_goal().min(self.limit());
        let fresh = self.fresh.load(Ordering::Relaxed);
        // What was taken by now is being touched.
        let at = self.populated.load(Ordering::Relaxed).max(fresh) as usize * self.frame_bytes;
        let end = (at + 1).next_multiple_of(HUGE_PAGE_BYTES).min(self.arena.bytes());
        if at >= goal as usize * self.frame_bytes {
            return false;
        }
        let end_frame = u32::try_from(end / self.frame_bytes).unwrap_or(u32::MAX);
        let is_able = self.arena.populate(at, end - at);
        let populated = if is_able { end_frame.min(self.count) } else { self.count };
        self.populated.store(populated, Ordering::Relaxed);
        self.is_populate_due()
    }

    /// Gives back a frame that nobody else ever knew.
    pub(crate) fn give_back(&self, frame: FrameId) {
        self.header(frame).page.store(0, Ordering::Release);
        let mut free = self.free.lock();
        if free.push(frame) {
            self.available.fetch_add(1, Ordering::Relaxed);
        } else {
            self.note_border(&free);
        }
    }

    /// Gives up a frame that others may still be reading. `page` is 0 already.
    pub(crate) fn retire(&self, frame: FrameId) {
        debug_assert_eq!(self.header(frame).page.load(Ordering::Relaxed), 0);
        let mut retired = self.retired.lock();
        let epoch = self.epochs.retire();
        retired.push_back((epoch, frame));
        self.available.fetch_add(1, Ordering::Relaxed);
    }

    fn reclaim(&self, free: &mut FreeFrames) {
        let mut retired = self.retired.lock();
        if retired.is_empty() {
            return;
        }
        let oldest = self.epochs.oldest_pinned();
        let mut withdrawn = 0;
        while let Some(&(epoch, frame)) = retired.front() {
            if epoch >= oldest {
                break;
            }
            retired.pop_front();
            withdrawn += usize::from(!free.push(frame));
        }
        if withdrawn > 0 {
            self.available.fetch_sub(withdrawn, Ordering::Relaxed);
            self.note_border(free);
        }
    }

    fn note_border(&self, free: &FreeFrames) {
        self.limit.store(free.limit(), Ordering::Relaxed);
        self.end.store(free.end(), Ordering::Relaxed);
    }

    /// Frames from about `limit` on are not to be taken any more, and what is free of them is collected. True if there are more
    /// of them now.
    pub(crate) fn lower(&self, limit: FrameId) -> bool {
        let mut free = self.free.lock();
        let before = free.limit();
        self.available.fetch_sub(free.lower(limit), Ordering::Relaxed);
        self.note_border(&free);
        free.limit() < before
    }

    /// Some frames that were withdrawn may be taken again: at least one, if any becomes free by it; with `ahead`, as many more
    /// as are populated ahead. Returns how many.
    pub(crate) fn raise(&self, ahead: bool) -> u32 {
        if self.limit() >= self.count {
            return 0;
        }
        let goal = if ahead { self.populate_goal() } else { 0 };
        let mut free = self.free.lock();
        let (before, mut back) = (free.limit(), 0);
        while (back == 0 || free.limit() < goal)
            && let Some(n) = free.raise()
        {
            back += n;
        }
        self.available.fetch_add(back, Ordering::Relaxed);
        self.note_border(&free);
        free.limit() - before
    }

    /// Collects withdrawn frames that epochs kept, and says which stretches hold frames that are still in use.
    pub(crate) fn to_collect(&self) -> Vec<Range<FrameId>> {
        if self.end() == self.limit() {
            return Vec::new();
        }
        let mut free = self.free.lock();
        self.reclaim(&mut free);
        free.to_collect()
    }

    /// Gives the memory of withdrawn frames back to the system, piece by piece.
    ///
    /// Nobody has a reference into a frame that was collected. Of those who know its number, readers and turns had it under a
    /// pin, which has ended; whoever writes to segments latches frames that may be others' by now, and is kept out by its lock;
    /// and the clock's hand, for which zero in a header is no page and no latch.
    pub(crate) fn give_to_system(&self, _writer: &mut Writer) {
        loop {
            let mut free = self.free.lock();
            let Some(piece) = free.next_to_give() else { return };
            let frames = free.frames_of(piece);
            let at = frames.start as usize * self.frame_bytes;
            let bytes = frames.len() * self.frame_bytes;
            // SAFETY: see above; and headers are atomics, for all of which zero is a value.
            if !unsafe { self.arena.give_back(at, bytes) } {
                return;
            }
            free.note_given_back(piece);
            self.fresh.fetch_min(free.limit(), Ordering::Relaxed);
            self.populated.fetch_min(free.limit(), Ordering::Relaxed);
            self.given_from.store(self.fresh.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// Frames whose memory the system has.
    pub(crate) fn given_back(&self) -> usize {
        if self.limit() >= self.count { 0 } else { self.free.lock().given_back() }
    }
}

/// Frames whose memory goes back to the system together: a huge page of them, or a sixteenth of all where these are few, but whole
/// pages of the system.
fn piece_frames(count: u32, frame_bytes: usize) -> u32 {
    const SYSTEM_PAGE_BYTES: usize = 4096;
    let few = (count as usize * frame_bytes / 16).next_power_of_two();
    let bytes = few.clamp(SYSTEM_PAGE_BYTES, HUGE_PAGE_BYTES);
    u32::try_from((bytes / frame_bytes).max(1)).expect("a part of `count`")
}
