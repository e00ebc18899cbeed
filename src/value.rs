//! Values too large for a leaf: pages of their own, named by a handle in the leaf.
//!
//! ```text
//! handle, 24 bytes:  first page id u64 | value bytes u64 | crc of the value u32 | zero u32
//! ```
//!
//! The pages have consecutive ids and are never changed. They are made before the commit turn and
//! held in memory until the turn has stamped them, so that no checkpoint can contain pages of a
//! commit that never was.
#![allow(unsafe_code, reason = "fills frames that nobody else knows")]

use crate::VALUE_BYTES_MAX;
use crate::store::frame::{DIRTY, FrameId, PINNED, REFERENCED};
use crate::store::give_back::Use;
use crate::store::image::kind;
use crate::store::{OverflowRange, Store};
use esker_base::checksum::seeded;
use esker_base::codec::Reader;
use esker_base::sync::Ordering;
use esker_base::{CommitNo, Error, PageId, Result, TableId};
use esker_index::kind::HANDLE_BYTES;

const _: () = assert!(HANDLE_BYTES == 24);

/// What a leaf keeps of a large value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handle {
    pub(crate) first: PageId,
    pub(crate) bytes: u64,
    crc: u32,
}

impl Handle {
    pub(crate) fn encode(self) -> [u8; HANDLE_BYTES] {
        let mut out = [0; HANDLE_BYTES];
        out[..8].copy_from_slice(&self.first.0.to_le_bytes());
        out[8..16].copy_from_slice(&self.bytes.to_le_bytes());
        out[16..20].copy_from_slice(&self.crc.to_le_bytes());
        out
    }
    pub(crate) fn decode(bytes: &[u8; HANDLE_BYTES]) -> Self {
        let mut reader = Reader::new(bytes);
        let mut field = || reader.u64().expect("24 bytes");
        let (first, bytes) = (PageId(field()), field());
        Self { first, bytes, crc: reader.u32().expect("24 bytes") }
    }
    /// True if these are the bytes that it was made for.
    pub(crate) fn is_of(self, value: &[u8]) -> bool {
        self.bytes == value.len() as u64 && self.crc == seeded(&[], &[value])
    }
    /// True if there can be such a value. A good checksum does not make it so.
    pub(crate) fn is_possible(self) -> bool {
        self.bytes <= VALUE_BYTES_MAX as u64 && self.first.0 < PageId::LIMIT
    }
    /// The pages of the value: none, if it cannot be.
    pub(crate) fn range(self, content_bytes: usize) -> OverflowRange {
        let bytes = if self.is_possible() { self.bytes } else { 0 };
        let pages = bytes.div_ceil(content_bytes as u64);
        OverflowRange { first: self.first, pages: u32::try_from(pages).expect("bounded") }
    }
}

/// The pages of a value before its commit.
#[derive(Debug)]
pub(crate) struct NewValue<'s> {
    store: &'s Store,
    pub(crate) handle: Handle,
    frames: Vec<FrameId>,
    committed: bool,
}

impl<'s> NewValue<'s> {
    /// Fills pages with a value. Not in the turn, and without a pin.
    pub(crate) fn new(store: &'s Store, table: TableId, value: &[u8]) -> Result<Self> {
        let content_bytes = store.frames.content_bytes();
        let pages = value.len().div_ceil(content_bytes);
        let first = store.state.lock().ids.allocate(pages as u64);
        let crc = seeded(&[], &[value]);
        let handle = Handle { first, bytes: value.len() as u64, crc };
        let mut new = Self { store, handle, frames: Vec::with_capacity(pages), committed: false };
        for (i, part) in value.chunks(content_bytes).enumerate() {
            let frame = store.take_frame(Use::Write)?;
            let header = store.frames.header(frame);
            header.table.store(table.0, Ordering::Relaxed);
            header.words.store(0, Ordering::Relaxed);
            header.level.store(0, Ordering::Relaxed);
            header.kind.store(kind::OVERFLOW, Ordering::Relaxed);
            header.changed_at.store(0, Ordering::Relaxed);
            // SAFETY: the frame is ours alone until its page id is set.
            let body = unsafe { store.frames.body_mut(frame) };
            body[..part.len()].copy_from_slice(part);
            body[part.len()..].fill(0);
            header.state.store(DIRTY | REFERENCED | PINNED, Ordering::Relaxed);
            let page = PageId(first.0 + i as u64);
            header.page.store(page.0, Ordering::Release);
            store.resident.insert(page, frame);
            new.frames.push(frame);
        }
        Ok(new)
    }

    /// In the turn: from now on these pages are part of `commit`.
    pub(crate) fn commit(&mut self, commit: CommitNo) {
        self.committed = true;
        super::store::count(&self.store.dirtied, self.frames.len() as u64);
        for &frame in &self.frames {
            let header = self.store.frames.header(frame);
            header.changed_at.store(commit.0, Ordering::Relaxed);
            header.clear(PINNED);
        }
    }
}

impl Drop for NewValue<'_> {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        for (i, &frame) in self.frames.iter().enumerate() {
            let header = self.store.frames.header(frame);
            header.page.store(0, Ordering::Release);
            header.clear(PINNED);
            self.store.resident.remove(PageId(self.handle.first.0 + i as u64), frame);
            self.store.frames.retire(frame);
        }
        let pages = self.handle.range(self.store.frames.content_bytes()).pages;
        self.store.state.lock().ids.give_back(self.handle.first, u64::from(pages));
    }
}

/// Reads a large value back.
///
/// # Errors
/// `Corrupt` if its pages do not give the value that was written.
pub(crate) fn read(store: &Store, handle: Handle) -> Result<Vec<u8>> {
    let damaged = |detail: String| Error::corrupt("large value", store.disk.label(), 0, detail);
    if !handle.is_possible() {
        let Handle { first, bytes, .. } = handle;
        return Err(damaged(format!("its handle says {bytes} bytes from {first:?}")));
    }
    let content_bytes = store.frames.content_bytes();
    let bytes = usize::try_from(handle.bytes).expect("limited above");
    let range = handle.range(content_bytes);
    let mut out = Vec::with_capacity(bytes);
    // Read-ahead in batches: a large value is read at the device's depth.
    let pages: Vec<PageId> =
        (0..u64::from(range.pages)).map(|i| PageId(handle.first.0 + i)).collect();
    for batch in pages.chunks(32) {
        if batch.len() > 1 {
            store.load_many(batch, esker_index::pages::View::Current)?;
        }
        for page in batch {
            let part = (bytes - out.len()).min(content_bytes);
            store.read_overflow(*page, part, &mut out)?;
        }
    }
    if !handle.is_of(&out) {
        return Err(damaged(format!("{} bytes from {:?}: wrong checksum", bytes, handle.first)));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever frees, reads or lists the pages of a value counts them, whatever signed the handle.
    #[test]
    fn a_handle_of_what_cannot_be_has_no_pages() {
        let pages = |first: u64, bytes: u64| {
            let mut handle = Handle { first: PageId(first), bytes, crc: 0 };
            handle = Handle::decode(&handle.encode());
            (handle.is_possible(), handle.range(960).pages)
        };
        let most = VALUE_BYTES_MAX as u64;
        assert_eq!(pages(7, 961), (true, 2));
        assert_eq!(pages(PageId::LIMIT - 1, most), (true, 69906));
        for (first, bytes) in [(7, most + 1), (7, u64::MAX), (PageId::LIMIT, 1), (u64::MAX, 961)] {
            assert_eq!(pages(first, bytes), (false, 0), "{first}, {bytes}");
        }
    }
}
