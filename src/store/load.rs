//! Bringing pages in, and making room for them.

use super::evict::Reach;
use super::frame::{FrameId, REFERENCED};
use super::give_back::Use;
use super::image::{self, Address, Codec, kind};
use super::segment::is_not_found;
use super::{Store, count};
use esker_base::sync::{Backoff, Ordering};
use esker_base::{Error, PageId, Result, SegmentId};
use esker_index::pages::View;
use esker_io::ReadRequest;
use std::time::Duration;

/// Frames evicted at a time by who finds none free.
const EVICT_BATCH: usize = 8;
/// Pages read ahead at a time, at most.
const AHEAD_PAGES_MAX: usize = 256;
/// A waiter gives up after this long without a free frame.
const FRAME_WAIT: Duration = Duration::from_millis(50);

/// What pages are brought in for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Read,
    /// To be changed, or replaced by others: the system's cache has no use for their images.
    Change,
}

/// Images next to each other, read at once.
#[derive(Debug)]
struct Stretch {
    segment: SegmentId,
    offset: u32,
    bytes: u32,
    sources: std::ops::Range<usize>,
}

/// Sorts by place, and finds what lies together.
fn stretches(sources: &mut [Source]) -> Vec<Stretch> {
    const BYTES_MAX: u32 = 256 << 10;
    const GAP_BYTES_MAX: u32 = 4096;
    sources.sort_by_key(|source| (source.address.segment, source.address.offset));
    let mut all: Vec<Stretch> = Vec::new();
    for (i, Source { address, .. }) in sources.iter().enumerate() {
        // A damaged map may name places that no segment has.
        let end = address.offset.checked_add(u32::from(address.bytes));
        if let Some(last) = all.last_mut()
            && let Some(end) = end
            && last.segment == address.segment
            && address.offset <= last.offset.saturating_add(last.bytes + GAP_BYTES_MAX)
            && end - last.offset <= BYTES_MAX
        {
            last.bytes = last.bytes.max(end - last.offset);
            last.sources.end = i + 1;
            continue;
        }
        all.push(Stretch {
            segment: address.segment,
            offset: address.offset,
            bytes: u32::from(address.bytes),
            sources: i..i + 1,
        });
    }
    all
}

/// Large buffers are kept by the threads that read: the system would clear their memory each time.
mod buffers {
    use esker_base::sync::Arc;
    use esker_io::{File, ReadRequest};
    use std::cell::RefCell;

    const KEPT_MAX: usize = 4;

    thread_local! {
        static KEPT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn request(
        file: Arc<dyn File>,
        offset: u64,
        bytes: usize,
        past_cache: bool,
    ) -> ReadRequest {
        let mut buf = KEPT.with_borrow_mut(Vec::pop).unwrap_or_default();
        buf.resize(bytes, 0);
        ReadRequest { file, offset, buf, past_cache, result: Ok(()) }
    }
    pub(super) fn give_back(request: ReadRequest) {
        KEPT.with_borrow_mut(|kept| {
            if kept.len() < KEPT_MAX {
                kept.push(request.buf);
            }
        });
    }
}

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
        self.load_for(pages, view, Why::Read)
    }

    /// As [`Self::load_many`], for pages that are about to be changed.
    pub(crate) fn load_to_change(&self, pages: &[PageId]) -> Result<()> {
        self.load_for(pages, View::Current, Why::Change)
    }

    /// As [`Self::load_many`].
    pub(crate) fn load_for(&self, pages: &[PageId], view: View, why: Why) -> Result<()> {
        let mut sources: Vec<Source> = Vec::with_capacity(pages.len());
        for (i, &page) in pages.iter().enumerate() {
            match self.source(page, view) {
                Ok(source) => sources.extend(source),
                Err(error) if i == 0 => return Err(error),
                Err(_) => {}
            }
        }
        let first = pages[0];
        if sources.is_empty() {
            return Ok(());
        }
        let stretches = stretches(&mut sources);
        let mut requests = Vec::with_capacity(stretches.len());
        for stretch in &stretches {
            match self.files.get(stretch.segment) {
                Ok(file) => {
                    let bytes = stretch.bytes as usize;
                    let past_cache = why == Why::Change;
                    let offset = u64::from(stretch.offset);
                    requests.push(buffers::request(file, offset, bytes, past_cache));
                }
                // A page moved and its segment went meanwhile: look again.
                Err(error) if is_not_found(&error) => {
                    let source = &sources[stretch.sources.start];
                    if self.still_at(source)? {
                        return Err(image::bad_image(source.address, "the segment is missing"));
                    }
                    return self.load_for(pages, view, why);
                }
                Err(error) => return Err(error),
            }
        }
        if let ([_], [request]) = (pages, &requests[..]) {
            self.note_miss(request);
        }
        let mut codec = Codec::new(self.database);
        let mut outcome = Ok(());
        self.disk.read_each(&mut requests, &mut |i, request| {
            let read = (&stretches[i], &sources[stretches[i].sources.clone()]);
            let first = self.bring_in_stretch(&mut codec, read, request, first);
            if first.is_err() {
                outcome = first;
            }
        });
        requests.into_iter().for_each(buffers::give_back);
        outcome
    }

    /// Brings in what was read of one stretch. An error if it stands in the way of the page `first`.
    fn bring_in_stretch(
        &self,
        codec: &mut Codec,
        (stretch, sources): (&Stretch, &[Source]),
        request: &mut ReadRequest,
        first: PageId,
    ) -> Result<()> {
        let whole = request.result.is_ok();
        let mut failed = Some(std::mem::replace(&mut request.result, Ok(())));
        let mut of_first = Ok(());
        for source in sources {
            let outcome = if whole {
                let at = (source.address.offset - stretch.offset) as usize;
                let image = &request.buf[at..at + usize::from(source.address.bytes)];
                count(&self.counters.page_reads, 1);
                count(&self.counters.page_read_bytes, u64::from(source.address.bytes));
                self.bring_in(codec, source, image)
            } else if sources.len() > 1 {
                // What stands in the way of one must not keep the others from being read.
                self.read_image(source.address)
                    .and_then(|image| self.bring_in(codec, source, &image))
            } else {
                failed.take().unwrap_or(Ok(())).map_err(|error| match error {
                    Error::Io { source: io, .. }
                        if io.kind() == std::io::ErrorKind::UnexpectedEof =>
                    {
                        image::bad_image(source.address, "the segment ends before it")
                    }
                    error => error,
                })
            };
            if source.page == first {
                of_first = outcome;
            }
        }
        of_first
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
        let frame = self.take_frame(Use::Read)?;
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
            drop(shard);
            drop(state);
            self.note_clean(frame);
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
    pub(crate) fn take_frame(&self, wanted: Use) -> Result<FrameId> {
        if let Some(frame) = self.take_frame_of_clean(wanted) {
            return Ok(frame);
        }
        self.counters.frame_stalls.during(&*self.disk, || self.wait_for_frame(wanted))
    }

    /// A free frame, or that of a clean page.
    fn take_frame_of_clean(&self, wanted: Use) -> Option<FrameId> {
        // So many frames that only wait for an epoch to end are enough: if a reader lost its processor under its pin,
        // everything would be evicted before it comes back.
        let coming_max = (self.frames.limit() as usize / 16).max(EVICT_BATCH);
        let mut backoff = Backoff::default();
        let is_given_back = self.frames.limit() < self.frames.count();
        // Nearly all of what is in memory is clean then.
        let is_read = is_given_back && wanted == Use::Read;
        let reach = if is_read { Reach::All } else { Reach::Some };
        // Where frames are given back, those that are free are for who writes.
        if is_read && self.is_clean_enough() && self.frames.available() < coming_max {
            self.evict(EVICT_BATCH, reach);
        }
        loop {
            if let Some(frame) = self.frames.take() {
                return Some(frame);
            }
            if (wanted == Use::Write || !self.is_clean_enough()) && self.take_back(wanted) {
                continue;
            }
            // A few frames that come and go are not enough: a descent whose pages push each other out
            // would never end.
            if self.frames.available() < coming_max && self.evict(EVICT_BATCH, reach) == EVICT_BATCH
            {
                continue;
            }
            if self.frames.available() == 0 || !backoff.is_short() {
                // Rather than to wait.
                if self.take_back(Use::Write) {
                    continue;
                }
                return None;
            }
            // Some are free, but for readers who may still look at them: those are quick.
            backoff.wait();
        }
    }

    #[cold]
    fn wait_for_frame(&self, wanted: Use) -> Result<FrameId> {
        const ROUNDS_MAX: usize = 10_000;
        /// Written at once: more than an ordinary batch of writes brings in, two milliseconds' worth.
        const PAGES_MAX: usize = 256;
        for _ in 0..ROUNDS_MAX {
            let want = (self.frames.count() as usize / 16).clamp(EVICT_BATCH, PAGES_MAX);
            let relieved = self.relieve(want);
            // What cannot be written, on a full disk, does not keep readers from what is clean.
            if let Some(frame) = self.take_frame_of_clean(wanted) {
                return Ok(frame);
            }
            relieved?;
        }
        Err(Error::invalid(
            "memory_bytes too small",
            format!("no frame of {} could be freed", self.frames.count()),
        ))
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
            })
            .inspect_err(|_| {
                self.evict(EVICT_BATCH, Reach::All);
            })?;
        }
        if self.evict(want, Reach::Some) < want && self.frames.available() == 0 {
            self.evict(want, Reach::All);
        }
        Ok(())
    }

    /// Writes dirty pages ahead of those who bring leaves in, as far as clean ones are missing, but no more than `most`.
    pub(crate) fn keep_clean(&self, most: usize) -> Result<()> {
        let missing = self.clean_missing().min(most);
        if missing > 0
            && let Some(mut writer) = self.writer.try_lock_for(FRAME_WAIT)
        {
            self.with_reserve(|| self.write_back(&mut writer, missing))?;
        }
        Ok(())
    }

    /// Pages that may be read ahead at a time: with more, those needed first would be pushed out again.
    pub(crate) fn read_ahead_max(&self) -> usize {
        (self.frames.limit() as usize / 16).min(AHEAD_PAGES_MAX)
    }

    /// True if there is memory enough for scans to have pages read long before they come to them.
    pub(crate) fn has_room_ahead(&self) -> bool {
        self.frames.count() as usize >= AHEAD_PAGES_MAX * 32
    }

    /// Frames that versions may occupy before they are written out.
    pub(crate) fn version_frames_max(&self) -> usize {
        self.frames.count() as usize * 15 / 100
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

#[cfg(test)]
mod tests {
    use super::Use;
    use crate::{Durability, Index, Options};
    use esker_base::sync::Arc;
    use esker_io::mem::MemDisk;

    /// A reader that loses its processor under its pin keeps frames from being used again: it is waited for, and what is in
    /// memory stays there.
    #[test]
    fn while_a_reader_is_pinned_not_everything_is_evicted() {
        let options = Options::new().page_bytes(1024).memory_bytes(2 << 20).background(false);
        let db = options.durability(Durability::Os).open_on(Arc::new(MemDisk::new())).unwrap();
        let table = db.table("t", Index::BTree).unwrap();
        (0..20_000u32).for_each(|n| table.put(format!("{n:05}"), [7; 100]).unwrap());
        db.checkpoint().unwrap();
        (0..20_000u32).for_each(|n| assert!(table.get(format!("{n:05}")).unwrap().is_some()));
        let store = &db.engine().store;
        let pin = store.frames.epochs().pin();
        let mut taken = Vec::new();
        while let Some(frame) = store.take_frame_of_clean(Use::Read) {
            taken.push(frame);
        }
        let gone = taken.len() + store.frames.available();
        assert!(gone < store.frames.count() as usize / 4, "{gone} of {}", store.frames.count());
        drop(pin);
        let frame = store.take_frame_of_clean(Use::Read).expect("its epoch has ended");
        taken.into_iter().chain([frame]).for_each(|frame| store.frames.give_back(frame));
        assert!(db.verify().unwrap().is_sound());
    }

    /// Of much more than memory holds, leaves come and go; a get reads its leaf, and nothing on the way there.
    #[test]
    fn what_leads_to_leaves_stays_in_memory() {
        for kind in [Index::BTree, Index::Fractal] {
            let options = Options::new().page_bytes(1024).memory_bytes(4 << 20).background(false);
            let db = options.durability(Durability::Os).open_on(Arc::new(MemDisk::new())).unwrap();
            let table = db.table("t", kind).unwrap();
            let key = |n: u64| format!("{:08}", n * 77_773 % 100_000);
            let value = |n: u64| [(n * 0x9e37_79b9).to_le_bytes(); 15].concat();
            (0..100_000).for_each(|n| table.put(key(n), value(n)).unwrap());
            db.settle().unwrap();
            let read = |range: std::ops::Range<u64>| {
                let before = db.stats().page_reads;
                let gets = range.end - range.start;
                range.for_each(|n| assert!(table.get(key(n * 31_337)).unwrap().is_some()));
                (db.stats().page_reads - before, gets)
            };
            read(0..20_000);
            let (reads, gets) = read(20_000..40_000);
            assert!(reads > gets / 2, "{kind:?}: memory is small: {reads} reads");
            // A filter errs now and then, and then a leaf is read in vain.
            assert!(reads * 100 <= gets * 110, "{kind:?}: {reads} reads for {gets} gets");
        }
    }

    /// The same while all leaves that come in become dirty, so that few pages are clean.
    #[test]
    fn what_leads_to_leaves_stays_in_memory_under_updates() {
        let options = Options::new().page_bytes(1024).memory_bytes(8 << 20).background(false);
        let db = options.durability(Durability::Os).open_on(Arc::new(MemDisk::new())).unwrap();
        let table = db.table("t", Index::BTree).unwrap();
        let key = |n: u64| format!("{:08}", n * 77_773 % 200_000);
        let value = |n: u64| [(n * 0x9e37_79b9).to_le_bytes(); 15].concat();
        (0..200_000).for_each(|n| table.put(key(n), value(n)).unwrap());
        db.settle().unwrap();
        let update = |batches: std::ops::Range<u64>| {
            let before = db.stats().page_reads;
            let rows = (batches.end - batches.start) * 100;
            for first in batches {
                let mut batch = db.batch();
                (0..100).for_each(|i| batch.put(&table, key((first * 100 + i) * 31_337), value(i)));
                batch.commit().unwrap();
            }
            (db.stats().page_reads - before, rows)
        };
        update(0..300);
        let (reads, rows) = update(300..600);
        assert!(reads > rows / 2, "memory is small: {reads} reads");
        assert!(reads * 100 <= rows * 102, "{reads} reads for {rows} rows");
    }
}
