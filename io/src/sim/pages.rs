//! The bytes of a simulated file: a two-level array of 4 KiB pages, copied only when written.
//!
//! A clone copies one pointer per mebibyte. A page that was never written is absent and reads as
//! zeroes; a page of written zeroes is one shared page, so that preallocation costs no memory.

use esker_base::sync::{Arc, OnceLock};

pub(super) const PAGE_BYTES: usize = 4096;
/// What a device writes as a whole.
pub(super) const SECTOR_BYTES: u64 = 512;
const CHUNK_PAGES: usize = 256;

pub(super) type Page = [u8; PAGE_BYTES];
type Chunk = [Option<Arc<Page>>; CHUNK_PAGES];

#[derive(Clone, Debug, Default)]
pub(super) struct Pages {
    chunks: Vec<Option<Arc<Chunk>>>,
    allocated: u64,
}

impl Pages {
    /// Number of pages that were written, which is what the file takes from the device.
    pub(super) fn allocated(&self) -> u64 {
        self.allocated
    }

    pub(super) fn page(&self, index: u64) -> Option<&Arc<Page>> {
        let (chunk, at) = place(index);
        self.chunks.get(chunk)?.as_ref()?[at].as_ref()
    }

    pub(super) fn set_page(&mut self, index: u64, page: Arc<Page>) {
        *self.slot(index) = Some(page);
    }

    /// Pages of a range that a write to it would have to allocate.
    pub(super) fn missing(&self, offset: u64, bytes: u64) -> u64 {
        pages_of(offset, bytes).filter(|&page| self.page(page).is_none()).count() as u64
    }

    pub(super) fn read(&self, offset: u64, buf: &mut [u8]) {
        for (page, at, range) in pieces(offset, buf.len()) {
            let buf = &mut buf[range];
            match self.page(page) {
                Some(bytes) => buf.copy_from_slice(&bytes[at..at + buf.len()]),
                None => buf.fill(0),
            }
        }
    }

    pub(super) fn write(&mut self, offset: u64, data: &[u8]) {
        for (page, at, range) in pieces(offset, data.len()) {
            let slot = self.slot(page);
            let bytes = Arc::make_mut(slot.get_or_insert_with(zero_page));
            bytes[at..at + range.len()].copy_from_slice(&data[range]);
        }
    }

    /// Writes zeroes, which allocates.
    pub(super) fn zero(&mut self, offset: u64, bytes: u64) {
        for page in pages_of(offset, bytes) {
            let slot = self.slot(page);
            let first = page * PAGE_BYTES as u64;
            let from = offset.saturating_sub(first).min(PAGE_BYTES as u64);
            let to = (offset + bytes - first).min(PAGE_BYTES as u64);
            match slot {
                Some(old) if from > 0 || to < PAGE_BYTES as u64 => {
                    if !Arc::ptr_eq(old, &zero_page()) {
                        let range = usize_of(from)..usize_of(to);
                        Arc::make_mut(old)[range].fill(0);
                    }
                }
                _ => *slot = Some(zero_page()),
            }
        }
    }

    /// Forgets everything from `len` on: it reads as zeroes.
    pub(super) fn cut(&mut self, len: u64) {
        let keep = len.div_ceil(PAGE_BYTES as u64);
        let (chunk, at) = place(keep);
        for dropped in self.chunks.drain((chunk + usize::from(at > 0)).min(self.chunks.len())..) {
            self.allocated -= dropped.map_or(0, |chunk| chunk.iter().flatten().count() as u64);
        }
        if at > 0
            && let Some(Some(last)) = self.chunks.get_mut(chunk)
            && last[at..].iter().any(Option::is_some)
        {
            for slot in &mut Arc::make_mut(last)[at..] {
                self.allocated -= u64::from(slot.take().is_some());
            }
        }
        let rest = usize_of(len % PAGE_BYTES as u64);
        if rest > 0 && self.page(keep - 1).is_some_and(|page| page[rest..].iter().any(|&b| b != 0))
        {
            let slot = self.slot(keep - 1);
            Arc::make_mut(slot.as_mut().expect("just seen"))[rest..].fill(0);
        }
    }

    /// The slot of a page that is about to be filled.
    fn slot(&mut self, index: u64) -> &mut Option<Arc<Page>> {
        let (chunk, at) = place(index);
        if chunk >= self.chunks.len() {
            self.chunks.resize_with(chunk + 1, || None);
        }
        let chunk =
            self.chunks[chunk].get_or_insert_with(|| Arc::new([const { None }; CHUNK_PAGES]));
        let slot = &mut Arc::make_mut(chunk)[at];
        self.allocated += u64::from(slot.is_none());
        slot
    }
}

/// The page that all written zeroes share.
pub(super) fn zero_page() -> Arc<Page> {
    static ZERO: OnceLock<Arc<Page>> = OnceLock::new();
    Arc::clone(ZERO.get_or_init(|| Arc::new([0; PAGE_BYTES])))
}

/// The pages that a range touches.
pub(super) fn pages_of(offset: u64, bytes: u64) -> std::ops::Range<u64> {
    units_of(offset, bytes, PAGE_BYTES as u64)
}

/// The units of `unit_bytes` that a range touches.
pub(super) fn units_of(offset: u64, bytes: u64, unit_bytes: u64) -> std::ops::Range<u64> {
    if bytes == 0 {
        return 0..0;
    }
    offset / unit_bytes..(offset + bytes).div_ceil(unit_bytes)
}

/// A range cut at page borders: page, first byte in the page, bytes of the buffer.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let in_page = usize_of(at % PAGE_BYTES as u64);
        let step = (PAGE_BYTES - in_page).min(len - done);
        done += step;
        (step > 0).then(|| (at / PAGE_BYTES as u64, in_page, done - step..done))
    })
}

fn place(index: u64) -> (usize, usize) {
    let index = usize_of(index);
    (index / CHUNK_PAGES, index % CHUNK_PAGES)
}

pub(super) fn usize_of(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a simulated file is smaller than memory")
}
