//! Bringing pages in, and making room for them.

use super::frame::{DIRTY, FrameId, PINNED, REFERENCED, WRITING};
use super::image::{self, Address, Codec, kind};
use super::segment::is_not_found;
use super::{Store, count};
use esker_base::sync::Ordering;
use esker_base::{Error, PageId, Result};
use esker_index::pages::View;
use esker_io::ReadRequest;
use std::time::Duration;

/// Frames tried per sweep of eviction, at most this many times the frames wanted.
const SWEEP_FACTOR: usize = 64;
/// Frames evicted at a time by who finds none free.
const EVICT_BATCH: usize = 8;
/// A waiter gives up after this long without a free frame.
const FRAME_WAIT: Duration = Duration::from_millis(50);

/// What a page is loaded from.
#[derive(Clone, Copy, Debug)]
struct Source {
    page: PageId,
    address: Address,
    /// For an old version: the commit it began at.
    version: Option<esker_base::CommitNo>,
}

impl Store {
    /// Brings a page into memory, as `view` needs it. The caller holds no pin and no latch.
    ///
    /// # Errors
    /// `Corrupt` if the image is damaged, or the map knows no image; `Io`; `NoSpace` if there is no
    /// frame and dirty pages cannot be written.
    pub(crate) fn load(&self, page: PageId, view: View) -> Result<()> {
        self.load_many(&[page], view)
    }

    /// As [`Self::load`], for many pages with one batch of reads. Pages that cannot be had are an
    /// error only if they are the first one asked for: the others are read-ahead.
    pub(crate) fn load_many(&self, pages: &[PageId], view: View) -> Result<()> {
        let mut sources: Vec<Source> = Vec::with_capacity(pages.len());
        for (i, &page) in pages.iter().enumerate() {
            match self.source(page, view) {
                Ok(source) => sources.extend(source),
                Err(error) if i == 0 => return Err(error),
                Err(_) => {}
            }
        }
        let first = pages[0];
        let mut requests = Vec::with_capacity(sources.len());
        for source in &sources {
            match self.files.get(source.address.segment) {
                Ok(file) => requests.push(ReadRequest::new(
                    file,
                    u64::from(source.address.offset),
                    usize::from(source.address.bytes),
                )),
                // The page moved and its segment went meanwhile: look again.
                Err(error) if is_not_found(&error) => {
                    if self.still_at(source)? {
                        return Err(image::bad_image(source.address, "the segment is missing"));
                    }
                    return self.load_many(pages, view);
                }
                Err(error) => return Err(error),
            }
        }
        if requests.is_empty() {
            return Ok(());
        }
        self.disk.read_batch(&mut requests);
        let mut codec = Codec::new(self.database);
        for (source, request) in sources.iter().zip(requests) {
            let outcome = request
                .result
                .map_err(|error| match error {
                    Error::Io { source: io, .. }
                        if io.kind() == std::io::ErrorKind::UnexpectedEof =>
                    {
                        image::bad_image(source.address, "the segment ends before it")
                    }
                    error => error,
                })
                .and_then(|()| self.bring_in(&mut codec, source, &request.buf));
            if source.page == first {
                outcome?;
            }
        }
        Ok(())
    }

    /// Where to read a page from; `None` if it is in memory already.
    fn source(&self, page: PageId, view: View) -> Result<Option<Source>> {
        if let View::Cut(cut) = view
            && let Some(version) = self.versions.find(page, cut)
        {
            let source =
                Source { page, address: version.address, version: Some(version.changed_at) };
            return Ok(version.frame.is_none().then_some(source));
        }
        let mut state = self.state.lock();
        let address = self.lookup(&mut state, page)?;
        if let Some(frame) = self.resident.get(page)
            && self.frames.header(frame).page_id() == page
        {
            return Ok(None);
        }
        if address.is_none() {
            return Err(Error::corrupt(
                "page map",
                self.disk.label(),
                0,
                format!("it has no image of {page:?}, which a parent names"),
            ));
        }
        Ok(Some(Source { page, address, version: None }))
    }

    /// True if the page would be read from the same place again.
    fn still_at(&self, source: &Source) -> Result<bool> {
        match source.version {
            Some(changed_at) => Ok(self
                .versions
                .update(source.page, changed_at, |version| version.address == source.address)
                .unwrap_or(false)),
            None => Ok(self.lookup(&mut self.state.lock(), source.page)? == source.address),
        }
    }

    /// Puts an image that was read into a frame and makes it known.
    #[allow(unsafe_code, reason = "fills a frame that nobody else knows")]
    fn bring_in(&self, codec: &mut Codec, source: &Source, image: &[u8]) -> Result<()> {
        let address = source.address;
        let head = Self::check_image(codec, image, address, source.page, kind::INDEX)?;
        let bad = |detail: String| image::bad_image(address, detail);
        if usize::from(head.words) * 8 > self.frames.content_bytes() {
            return Err(bad(format!("{} words do not fit a page", head.words)));
        }
        let frame = self.take_frame()?;
        let header = self.frames.header(frame);
        header.table.store(head.table.0, Ordering::Relaxed);
        header.words.store(head.words, Ordering::Relaxed);
        header.level.store(head.level, Ordering::Relaxed);
        header.kind.store(head.kind, Ordering::Relaxed);
        header.changed_at.store(head.changed_at.0, Ordering::Relaxed);
        header.set_address(address);
        // SAFETY: the frame is ours alone until its page id is set.
        let (words, body) = unsafe { self.frames.parts_mut(frame) };
        let unpacked = codec.unpack(image, words, body).and_then(|()| {
            if head.kind == kind::OVERFLOW {
                return Ok(());
            }
            self.logic.check(head.table, head.level, words.len(), body)
        });
        if let Err(detail) = unpacked {
            self.frames.give_back(frame);
            return Err(bad(detail));
        }
        header.set(REFERENCED);
        match source.version {
            Some(changed_at) => {
                let taken = self.versions.update(source.page, changed_at, |version| {
                    let free = version.frame.is_none();
                    if free {
                        version.frame = Some(frame);
                    }
                    free
                });
                if taken != Some(true) {
                    self.frames.give_back(frame);
                }
            }
            None => self.make_known(source, frame)?,
        }
        Ok(())
    }

    /// Publishes a loaded frame, unless the page came in, or moved, meanwhile: then what was read may be
    /// old.
    fn make_known(&self, source: &Source, frame: FrameId) -> Result<()> {
        let page = source.page;
        let mut state = self.state.lock();
        let unmoved = self.lookup(&mut state, page)? == source.address;
        let mut shard = self.resident.shard(page).lock();
        let taken =
            shard.get(&page.0).is_some_and(|&other| self.frames.header(other).page_id() == page);
        if unmoved && !taken {
            self.frames.header(frame).page.store(page.0, Ordering::Release);
            shard.insert(page.0, frame);
        } else {
            // Somebody else brought it in, or the caller will find it missing and ask again.
            drop(shard);
            drop(state);
            self.frames.give_back(frame);
        }
        Ok(())
    }

    /// A free frame, made free if need be. The caller holds no pin and no latch, and not the writer
    /// lock.
    pub(crate) fn take_frame(&self) -> Result<FrameId> {
        let mut rounds = 0;
        loop {
            if let Some(frame) = self.frames.take() {
                return Ok(frame);
            }
            // A few frames that come and go are not enough: a descent whose pages push each other out
            // would never end.
            if self.evict(EVICT_BATCH) == EVICT_BATCH {
                continue;
            }
            rounds += 1;
            count(&self.counters.frame_stalls, 1);
            self.relieve((self.frames.count() as usize / 8).clamp(EVICT_BATCH, 64))?;
            if rounds > 10_000 {
                return Err(Error::invalid(
                    "memory_bytes too small",
                    format!("no frame of {} could be freed", self.frames.count()),
                ));
            }
        }
    }

    /// Makes frames free: writes dirty pages and evicts.
    pub(crate) fn relieve(&self, want: usize) -> Result<()> {
        if let Some(mut writer) = self.writer.try_lock_for(FRAME_WAIT) {
            self.with_reserve(|| {
                self.spill_versions(&mut writer, self.version_frames_max())?;
                if self.frames.available() < want {
                    self.write_back(&mut writer, want)?;
                }
                Ok(())
            })?;
        }
        self.evict(want);
        Ok(())
    }

    /// Pages that may be read ahead at a time: with more, those needed first would be pushed out again.
    pub(crate) fn read_ahead_max(&self) -> usize {
        const PAGES_MAX: usize = 128;
        (self.frames.count() as usize / 16).min(PAGES_MAX)
    }

    /// Frames that versions may occupy before they are written out.
    pub(crate) fn version_frames_max(&self) -> usize {
        self.frames.count() as usize * 15 / 100
    }

    /// Evicts up to `want` clean pages that were not used lately; returns how many.
    pub(crate) fn evict(&self, want: usize) -> usize {
        let frames = self.frames.count();
        let mut evicted = 0;
        let sweep = (want * SWEEP_FACTOR).max(frames as usize / 4).min(frames as usize * 2 + 2);
        for _ in 0..sweep {
            if evicted >= want {
                break;
            }
            let frame = self.evict_hand.fetch_add(1, Ordering::Relaxed) % frames;
            let header = self.frames.header(frame);
            let page = PageId(header.page.load(Ordering::Relaxed));
            let state = header.state.load(Ordering::Relaxed);
            if page == PageId::NONE || state & (DIRTY | WRITING | PINNED) != 0 {
                continue;
            }
            if state & REFERENCED != 0 {
                header.clear(REFERENCED);
                continue;
            }
            if !header.try_latch_exclusive() {
                continue;
            }
            let still = header.page_id() == page && !header.has(DIRTY | WRITING | PINNED);
            if still {
                header.page.store(0, Ordering::Release);
                self.resident.remove(page, frame);
            }
            header.unlatch_exclusive();
            if still {
                self.frames.retire(frame);
                evicted += 1;
            }
        }
        count(&self.counters.evictions, evicted as u64);
        evicted
    }

    /// Appends an overflow page's content to `out`: up to `bytes` bytes.
    #[allow(unsafe_code, reason = "reads an immutable page body under a pin")]
    pub(crate) fn read_overflow(
        &self,
        page: PageId,
        bytes: usize,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        loop {
            {
                let _pin = self.frames.epochs().pin();
                if let Some(frame) = self.resident.get(page)
                    && self.frames.header(frame).page_id() == page
                {
                    let header = self.frames.header(frame);
                    if header.kind.load(Ordering::Relaxed) != kind::OVERFLOW {
                        return Err(Error::corrupt(
                            "overflow page",
                            self.disk.label(),
                            0,
                            format!("{page:?} is a page of an index"),
                        ));
                    }
                    header.touch();
                    // SAFETY: overflow pages are immutable, and the frame is not reused under the pin.
                    let body = unsafe { self.frames.body(frame) };
                    out.extend_from_slice(&body[..bytes]);
                    return Ok(());
                }
            }
            self.load(page, View::Current)?;
        }
    }
}
