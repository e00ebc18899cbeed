//! Frames of an arena, latches and epochs: the store's (`src/store/frame.rs`, `epoch.rs`), reduced to
//! what the forks need.
//!
//! # Invariants
//!
//! - Content is written only by the tree's one writer: a leaf's under the exclusive latch; a branch's
//!   while the frame is not linked, or, where branches are latched, under the exclusive latch. The words
//!   of a branch are atomics and may be stored at any time.
//! - `page` is 0 in frames that are free or retired. Retired ones are reused only when every epoch
//!   pinned at their retirement has ended.
#![allow(unsafe_code, reason = "page memory is shared under latches that the compiler cannot see")]

use memmap2::{Advice, MmapOptions, MmapRaw};
use std::io;
use std::ops::Range;
use std::slice::{from_raw_parts, from_raw_parts_mut};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

/// Bytes of a frame before its content.
const HEADER_BYTES: usize = 64;
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// Threads that may read at once.
const READERS_MAX: usize = 8;
const WRITER: u32 = 1 << 31;

/// Number of a frame in the arena.
pub(crate) type FrameId = u32;

/// First bytes of a frame.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Header {
    latch: AtomicU32,
    pub(crate) level: AtomicU32,
    /// Written with release after the content, read with acquire before it.
    pub(crate) page: AtomicU64,
}
const _: () = assert!(size_of::<Header>() == HEADER_BYTES);

impl Header {
    /// Waits for a writer to leave, then holds off writers.
    #[inline]
    pub(crate) fn latch_shared(&self) {
        let mut step = 0;
        while self.latch.fetch_add(1, Ordering::Acquire) & WRITER != 0 {
            self.latch.fetch_sub(1, Ordering::Relaxed);
            while self.latch.load(Ordering::Relaxed) & WRITER != 0 {
                back_off(&mut step);
            }
        }
    }
    #[inline]
    pub(crate) fn unlatch_shared(&self) {
        self.latch.fetch_sub(1, Ordering::Release);
    }
    /// Holds off new readers, then waits for those inside. One writer at a time.
    pub(crate) fn latch_exclusive(&self) {
        let mut step = 0;
        self.latch.fetch_or(WRITER, Ordering::Acquire);
        while self.latch.load(Ordering::Acquire) != WRITER {
            back_off(&mut step);
        }
    }
    pub(crate) fn unlatch_exclusive(&self) {
        self.latch.fetch_and(!WRITER, Ordering::Release);
    }
}

/// Waits a little: spins at first, then gives the processor away.
pub(crate) fn back_off(step: &mut u32) {
    *step += 1;
    if *step < 6 {
        (0..1 << *step).for_each(|_| std::hint::spin_loop());
    } else {
        std::thread::yield_now();
    }
}

/// All frames.
#[derive(Debug)]
pub(crate) struct Frames {
    memory: MmapRaw,
    /// Where frames begin in `memory`.
    skip: usize,
    frame_bytes: usize,
    count: u32,
}

impl Frames {
    /// Reserves `count` frames of `frame_bytes` (a power of two), with or without huge pages.
    pub(crate) fn new(count: u32, frame_bytes: usize, huge_pages: bool) -> io::Result<Self> {
        assert!(frame_bytes.is_power_of_two() && frame_bytes > HEADER_BYTES);
        let bytes = (count as usize * frame_bytes).next_multiple_of(HUGE_PAGE_BYTES);
        let padded =
            MmapOptions::new().len(bytes + HUGE_PAGE_BYTES).no_reserve_swap().map_anon()?;
        let memory = MmapRaw::from(padded);
        let skip = memory.as_mut_ptr().align_offset(HUGE_PAGE_BYTES);
        let advice = if huge_pages { Advice::HugePage } else { Advice::NoHugePage };
        memory.advise_range(advice, skip, bytes)?;
        Ok(Self { memory, skip, frame_bytes, count })
    }

    /// Has the kernel commit all memory, which otherwise happens at the first touch.
    pub(crate) fn commit(&self) -> io::Result<()> {
        let bytes = self.count as usize * self.frame_bytes;
        self.memory.advise_range(Advice::PopulateWrite, self.skip, bytes)
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }
    pub(crate) fn content_bytes(&self) -> usize {
        self.frame_bytes - HEADER_BYTES
    }
    /// Where the frames are.
    pub(crate) fn addresses(&self) -> Range<usize> {
        let start = self.memory.as_mut_ptr().addr() + self.skip;
        start..start + self.count as usize * self.frame_bytes
    }

    /// Byte `offset` of a frame.
    #[inline]
    fn at(&self, frame: FrameId, offset: usize) -> *mut u8 {
        assert!(frame < self.count && offset < self.frame_bytes, "outside of the arena");
        let offset = self.skip + frame as usize * self.frame_bytes + offset;
        // SAFETY: `new` mapped `skip + count * frame_bytes` bytes; see the assertion.
        unsafe { self.memory.as_mut_ptr().add(offset) }
    }

    #[inline]
    #[expect(clippy::cast_ptr_alignment, reason = "frames are aligned to their size")]
    pub(crate) fn header(&self, frame: FrameId) -> &Header {
        // SAFETY: aligned; all atomics, for which the zeroes of fresh memory are valid, and which are
        // only ever reached through shared references.
        unsafe { &*self.at(frame, 0).cast::<Header>() }
    }

    /// The first `count` words of a branch.
    #[inline]
    #[expect(clippy::cast_ptr_alignment, reason = "the content begins at a multiple of 64")]
    pub(crate) fn words(&self, frame: FrameId, count: usize) -> &[AtomicU64] {
        assert!(count * 8 <= self.content_bytes());
        let words = self.at(frame, HEADER_BYTES).cast::<AtomicU64>();
        // SAFETY: inside the content, aligned; who takes a body of a branch leaves out the words.
        unsafe { from_raw_parts(words, count) }
    }

    /// The content from byte `skip` on.
    ///
    /// # Safety
    /// Nobody writes it while the slice lives (see the invariants above), and `skip` leaves out a branch's
    /// words.
    #[inline]
    pub(crate) unsafe fn body(&self, frame: FrameId, skip: usize) -> &[u8] {
        let (at, bytes) = (self.at(frame, HEADER_BYTES + skip), self.content_bytes() - skip);
        // SAFETY: inside the frame; not written meanwhile, by the contract above.
        unsafe { from_raw_parts(at, bytes) }
    }

    /// The content from byte `skip` on, to write.
    ///
    /// # Safety
    /// The caller is the tree's writer, holds the exclusive latch or has not linked the frame yet, and
    /// has no other slice of it; `skip` leaves out a branch's words.
    #[expect(clippy::mut_from_ref, reason = "exclusiveness comes from the latch, see Safety")]
    pub(crate) unsafe fn body_mut(&self, frame: FrameId, skip: usize) -> &mut [u8] {
        let (at, bytes) = (self.at(frame, HEADER_BYTES + skip), self.content_bytes() - skip);
        // SAFETY: inside the frame; exclusive, by the contract above.
        unsafe { from_raw_parts_mut(at, bytes) }
    }
}

/// Two cache lines, since adjacent ones are fetched together.
#[repr(align(128))]
#[derive(Debug)]
struct Slot(AtomicU64);

/// When may retired frames be reused?
#[derive(Debug)]
pub(crate) struct Epochs {
    /// Starts at 1: 0 in a slot means not pinned.
    now: Slot,
    slots: [Slot; READERS_MAX],
}

/// What was reachable when this was made stays readable while it lives.
#[derive(Debug)]
pub(crate) struct Pin<'a>(&'a AtomicU64);

impl Epochs {
    pub(crate) fn new() -> Self {
        let slots = [const { Slot(AtomicU64::new(0)) }; READERS_MAX];
        Self { now: Slot(AtomicU64::new(1)), slots }
    }
    /// Pins the current epoch in the slot of `reader`, which is one thread's own.
    #[inline]
    pub(crate) fn pin(&self, reader: usize) -> Pin<'_> {
        let slot = &self.slots[reader].0;
        let now = self.now.0.load(Ordering::Relaxed);
        // Compare and swap as in the engine, which looks for a free slot that way. Must be visible before
        // any later load: on x86 it is a full barrier already.
        let free = slot.compare_exchange(0, now, Ordering::SeqCst, Ordering::Relaxed);
        assert!(free.is_ok(), "two threads read under one number");
        #[cfg(not(target_arch = "x86_64"))]
        fence(Ordering::SeqCst);
        Pin(slot)
    }
    /// To be called after frames were taken out of reach: the epoch that must end first.
    pub(crate) fn retire(&self) -> u64 {
        fence(Ordering::SeqCst);
        self.now.0.fetch_add(1, Ordering::SeqCst)
    }
    /// The oldest epoch still pinned; what was retired at an older one is free.
    pub(crate) fn oldest_pinned(&self) -> u64 {
        fence(Ordering::SeqCst);
        let pinned = self.slots.iter().map(|slot| slot.0.load(Ordering::SeqCst));
        pinned.filter(|&epoch| epoch != 0).min().unwrap_or(u64::MAX)
    }
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.0.store(0, Ordering::Release);
    }
}
