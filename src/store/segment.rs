//! Segments: append-only files of page images, and the table of what is alive in them.
//!
//! A segment is written once, front to back, then *sealed*, and removed when nothing refers to it any
//! more. Its live bytes are the images that the page map or the overlay refers to.

use super::image::{Address, segment_name};
use esker_base::codec::{Reader, put_varint};
use esker_base::sync::{Arc, Mutex};
use esker_base::{Error, Result, SegmentId};
use esker_io::{Disk, File, OpenMode};
use std::collections::{BTreeMap, BTreeSet};

/// Smallest capacity of a segment, in pages: 1 MiB of the usual ones.
pub(crate) const SEGMENT_PAGES_MIN: u64 = 128;
/// Largest capacity of a segment.
const SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// Images up to this do not straddle its multiples, if the hole stays within `HOLE_MAX`.
pub(crate) const PACK_BYTES: u64 = 4096;
const HOLE_MAX: u64 = PACK_BYTES / 16;
/// Images that nearly fill a block, one after the other, may leave a larger hole: then the first begins a block, and so do
/// those that follow.
const NEARLY_BYTES: u64 = PACK_BYTES - PACK_BYTES / 8;
/// Larger holes take so much of all that is appended at most (1 / `HOLES`).
const HOLES: u64 = 32;
/// A stream's buffer is written when it holds this much.
const BUFFER_BYTES: usize = 512 << 10;
/// Segment files kept open.
const OPEN_FILES_MAX: usize = 256;

/// What is known of one segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Bytes appended.
    pub(crate) bytes: u64,
    /// Bytes of images that the map or the overlay refers to.
    pub(crate) live: u64,
    /// No stream appends to it any more.
    pub(crate) sealed: bool,
    /// If nothing is alive: how many times the map had been frozen when that came about.
    pub(crate) emptied: Option<u64>,
}

/// The table of segments.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    pub(crate) table: BTreeMap<SegmentId, Segment>,
    pub(crate) next: u32,
    pub(crate) page_bytes: u64,
    /// Freezes of the map begun so far.
    pub(crate) freezes: u64,
}

impl Segments {
    /// An image at `address` is referred to from now on.
    pub(crate) fn add(&mut self, address: Address) {
        if let Some(segment) = self.table.get_mut(&address.segment) {
            segment.live += u64::from(address.bytes);
            segment.emptied = None;
        } else {
            debug_assert!(address.is_none(), "an image in no segment");
        }
    }
    /// One reference to an image less.
    ///
    /// # Errors
    /// The table, or who referred to the image, is wrong. Nothing has changed.
    pub(crate) fn remove(&mut self, address: Address) -> Result<()> {
        if address.is_none() {
            return Ok(());
        }
        let miscounted = |detail: String| {
            Error::corrupt("segment table", segment_name(address.segment), 0, detail)
        };
        let Some(segment) = self.table.get_mut(&address.segment) else {
            return Err(miscounted(format!("{address:?} is alive in a segment that is not")));
        };
        let Some(live) = segment.live.checked_sub(u64::from(address.bytes)) else {
            let (bytes, live) = (address.bytes, segment.live);
            return Err(miscounted(format!(
                "{address:?} of {bytes} bytes, in all {live} are alive"
            )));
        };
        segment.live = live;
        if live == 0 {
            segment.emptied = Some(self.freezes);
        }
        Ok(())
    }
    /// No stream appends to it any more.
    pub(crate) fn seal(&mut self, id: SegmentId) {
        let freezes = self.freezes;
        if let Some(segment) = self.table.get_mut(&id) {
            segment.sealed = true;
            if segment.live == 0 {
                segment.emptied.get_or_insert(freezes);
            }
        }
    }
    /// Sealed segments without live bytes that emptied before freeze number `freeze`.
    pub(crate) fn removable(&self, freeze: u64) -> Vec<SegmentId> {
        self.table
            .iter()
            .filter(|(_, s)| s.sealed && s.live == 0 && s.emptied.is_some_and(|at| at < freeze))
            .map(|(id, _)| *id)
            .collect()
    }
    /// Capacity of a segment that is made now: an eighth of what there is.
    pub(crate) fn capacity(&self) -> u64 {
        let capacity = (self.totals().0 / 8).next_power_of_two();
        capacity.clamp(self.capacity_min(), SEGMENT_BYTES_MAX)
    }
    /// What the cleaner may have to fill before it can let a segment go: as much as the largest that there is holds, for new ones
    /// are smaller where there is little space.
    pub(crate) fn victim_bytes_max(&self) -> u64 {
        let largest = self.table.values().map(|segment| segment.bytes).max().unwrap_or(0);
        largest.clamp(self.capacity_min(), self.capacity())
    }
    /// What the cleaner fills at least before it can let a segment go: where space is too short for the victim it likes best, it takes
    /// the smallest.
    pub(crate) fn victim_bytes_min(&self) -> u64 {
        let full = self.table.values().filter(|segment| segment.sealed && segment.live > 0);
        let smallest = full.map(|segment| segment.live).min().unwrap_or(0);
        smallest.clamp(self.capacity_min(), self.victim_bytes_max())
    }
    /// The smallest capacity.
    pub(crate) fn capacity_min(&self) -> u64 {
        SEGMENT_PAGES_MIN * self.page_bytes
    }
    /// (appended, live) bytes of all segments.
    pub(crate) fn totals(&self) -> (u64, u64) {
        self.table.values().fold((0, 0), |(b, l), s| (b + s.bytes, l + s.live))
    }
    /// Appends the table to a checkpoint's metadata, less what `overlay` holds.
    pub(crate) fn encode(&self, overlay: impl Iterator<Item = Address>, out: &mut Vec<u8>) {
        let mut table = self.table.clone();
        for address in overlay {
            if let Some(segment) = table.get_mut(&address.segment) {
                segment.live = segment.live.saturating_sub(u64::from(address.bytes));
            }
        }
        put_varint(out, u64::from(self.next));
        put_varint(out, table.len() as u64);
        for (id, segment) in table {
            put_varint(out, u64::from(id.0));
            put_varint(out, segment.bytes);
            put_varint(out, segment.live);
        }
    }
    /// Reads what [`Self::encode`] wrote. All segments are sealed: nothing appends to them again.
    pub(crate) fn decode(reader: &mut Reader<'_>, page_bytes: usize) -> Option<Self> {
        // As many numbers are left, and no run comes to their end.
        let next = u32::try_from(reader.varint()?).ok().filter(|next| *next < u32::MAX / 2)?;
        let count = reader.varint()?;
        let mut table = BTreeMap::new();
        for _ in 0..count {
            let id = SegmentId(u32::try_from(reader.varint()?).ok()?);
            let (bytes, live) = (reader.varint()?, reader.varint()?);
            let emptied = (live == 0).then_some(0);
            if live > bytes || bytes > u64::from(u32::MAX) || id.0 >= next {
                return None;
            }
            table.insert(id, Segment { bytes, live, sealed: true, emptied });
        }
        Some(Self { table, next, page_bytes: page_bytes as u64, freezes: 1 })
    }
}

/// Open segment files, a bounded number of them.
#[derive(Debug)]
pub(crate) struct Files {
    disk: Arc<dyn Disk>,
    open: Mutex<BTreeMap<SegmentId, Arc<dyn File>>>,
}

impl Files {
    pub(crate) fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, open: Mutex::new(BTreeMap::new()) }
    }
    /// The file of a segment.
    pub(crate) fn get(&self, id: SegmentId) -> Result<Arc<dyn File>> {
        let mut open = self.open.lock();
        if let Some(file) = open.get(&id) {
            return Ok(Arc::clone(file));
        }
        let file = self.disk.open(&segment_name(id), OpenMode::Read)?;
        while open.len() >= OPEN_FILES_MAX {
            // Oldest id first: cold data, as a rule, and any choice is right.
            open.pop_first();
        }
        open.insert(id, Arc::clone(&file));
        Ok(file)
    }
    fn create(&self, id: SegmentId) -> Result<Arc<dyn File>> {
        let file = self.disk.open(&segment_name(id), OpenMode::Create)?;
        self.open.lock().insert(id, Arc::clone(&file));
        Ok(file)
    }
    /// Forgets a segment and removes its file.
    pub(crate) fn remove(&self, id: SegmentId) -> Result<()> {
        self.open.lock().remove(&id);
        self.disk.remove(&segment_name(id))
    }
}

#[derive(Debug)]
struct OpenSegment {
    id: SegmentId,
    file: Arc<dyn File>,
    capacity: u64,
    /// Where the buffer begins in the file.
    at: u64,
}

/// Appends images to one segment after the other.
#[derive(Debug, Default)]
pub(crate) struct Stream {
    open: Option<OpenSegment>,
    buffer: Vec<u8>,
    holes: Holes,
}

/// Where images begin, so that reading one brings few blocks.
#[derive(Debug, Default)]
struct Holes {
    /// The last image nearly filled a block.
    nearly: bool,
    /// Bytes that larger holes may take now.
    credit: u64,
}

impl Holes {
    /// Bytes to leave out before an image of `bytes` that could begin at `at`: at most a block.
    fn before(&mut self, at: u64, bytes: u64) -> u64 {
        let hole = PACK_BYTES - at % PACK_BYTES;
        let nearly = (NEARLY_BYTES..=PACK_BYTES).contains(&bytes);
        let follows = std::mem::replace(&mut self.nearly, nearly) && nearly;
        self.credit = (self.credit + bytes / HOLES).min(PACK_BYTES);
        if bytes > PACK_BYTES || hole >= bytes {
            return 0;
        }
        if hole <= HOLE_MAX {
            return hole;
        }
        if !follows || hole > self.credit {
            return 0;
        }
        self.credit -= hole;
        hole
    }
}

/// With less free space than so many segments of the usual capacity, new ones are of the smallest.
const ROOMY: u64 = 8;

impl Stream {
    /// Places an image of `image`'s length at the end of the stream and copies it into the buffer.
    /// It is in the file after the next [`Self::flush`].
    pub(crate) fn append(
        &mut self,
        image: &[u8],
        number: u64,
        files: &Files,
        segments: &Mutex<super::State>,
        unsynced: &mut BTreeSet<SegmentId>,
    ) -> Result<Address> {
        let bytes = image.len() as u64;
        let needs_new = match &self.open {
            None => true,
            Some(open) => open.at + self.buffer.len() as u64 + PACK_BYTES + bytes > open.capacity,
        };
        if needs_new {
            self.seal(segments)?;
            let free_bytes = files.disk.free_bytes()?;
            let mut state = segments.lock();
            let id = SegmentId(state.segments.next);
            // On a disk that is nearly full the cleaner has to do with little space at a time.
            let capacity = match state.segments.capacity() {
                usual if free_bytes / ROOMY < usual => state.segments.capacity_min(),
                usual => usual,
            };
            let capacity = capacity.max(2 * (bytes + PACK_BYTES));
            let no_more =
                || Error::corrupt("segment table", segment_name(id), 0, "no more numbers");
            state.segments.next = id.0.checked_add(1).ok_or_else(no_more)?;
            drop(state);
            let file = files.create(id)?;
            segments.lock().segments.table.insert(id, Segment::default());
            self.open = Some(OpenSegment { id, file, capacity, at: 0 });
        }
        let open = self.open.as_ref().expect("opened above");
        // Each time: a checkpoint syncs and forgets, and the segment may go on after it.
        unsynced.insert(open.id);
        let at = open.at + self.buffer.len() as u64;
        let hole = usize::try_from(self.holes.before(at, bytes)).expect("a block at most");
        self.buffer.resize(self.buffer.len() + hole, 0);
        let offset = open.at + self.buffer.len() as u64;
        self.buffer.extend_from_slice(image);
        Ok(Address {
            segment: open.id,
            offset: u32::try_from(offset).expect("segments are below 4 GiB"),
            number,
            bytes: u16::try_from(bytes).expect("images are below 64 KiB"),
        })
    }

    /// True if the buffer should be written.
    pub(crate) fn is_full(&self) -> bool {
        self.buffer.len() >= BUFFER_BYTES
    }

    /// Writes the buffer to the file.
    ///
    /// # Errors
    /// On an error the buffer is given up with everything in it: the caller still has the pages.
    pub(crate) fn flush(&mut self, segments: &Mutex<super::State>) -> Result<()> {
        let Some(open) = &mut self.open else { return Ok(()) };
        if self.buffer.is_empty() {
            return Ok(());
        }
        let written = open.file.write_at(open.at, &self.buffer);
        let bytes = self.buffer.len() as u64;
        self.buffer.clear();
        match written {
            Ok(()) => {
                open.file.start_write_out(open.at, bytes)?;
                open.at += bytes;
                if let Some(segment) = segments.lock().segments.table.get_mut(&open.id) {
                    segment.bytes = open.at;
                }
                Ok(())
            }
            // Nothing refers to what is in it: it may be written over, and tries do not leave a row of empty files.
            Err(error @ Error::NoSpace { .. }) if open.at == 0 => Err(error),
            Err(error) => {
                // What the file holds beyond `at` is unknown; leave it and go on in another.
                let id = open.id;
                self.open = None;
                segments.lock().segments.seal(id);
                Err(error)
            }
        }
    }

    /// After a sync of what was flushed: goes on in the next block, since a device that is writing a block when the power
    /// goes may leave anything in all of it. Nothing is written here: the hole is there once something follows it.
    pub(crate) fn leave_block(&mut self) {
        debug_assert!(self.buffer.is_empty(), "what is in the buffer has its addresses");
        if let Some(open) = &mut self.open {
            open.at = open.at.next_multiple_of(PACK_BYTES);
        }
    }

    /// Ends the open segment, after a flush.
    pub(crate) fn seal(&mut self, segments: &Mutex<super::State>) -> Result<()> {
        self.flush(segments)?;
        if let Some(open) = self.open.take() {
            segments.lock().segments.seal(open.id);
        }
        Ok(())
    }
}

/// A file that is not there although something refers to it.
pub(crate) fn is_not_found(error: &Error) -> bool {
    matches!(error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_removable_one_freeze_after_it_emptied() {
        let mut segments = Segments { next: 2, freezes: 5, ..Segments::default() };
        let id = SegmentId(1);
        segments.table.insert(id, Segment::default());
        let image = Address { segment: id, offset: 0, number: 1, bytes: 100 };
        segments.add(image);
        segments.seal(id);
        assert!(segments.removable(9).is_empty(), "an image is alive");
        segments.remove(image).unwrap();
        assert!(segments.removable(5).is_empty(), "freeze 5 may have written the reference");
        assert_eq!(segments.removable(6), [id]);
    }

    /// Images of nearly a block begin blocks, soon after others were between them, and holes stay few.
    #[test]
    fn images_that_fill_a_block_begin_one() {
        let mut holes = Holes::default();
        let (mut at, mut images, mut begin, mut straddle) = (0, 0, 0, 0);
        for i in 0..10_000u64 {
            let is_other = i % 100 == 0;
            let bytes = if is_other { 700 + i % 5000 } else { 3900 + i % 130 };
            at += holes.before(at, bytes);
            begin += u64::from(at % PACK_BYTES == 0);
            straddle += u64::from(!is_other && at % PACK_BYTES + bytes > PACK_BYTES);
            at += bytes;
            images += bytes;
        }
        assert!(begin > 9000 && straddle < 800, "{begin} begin a block, {straddle} straddle");
        assert!(at - images < images / 16, "{} bytes of holes", at - images);
        // Of images of all sizes hardly any is moved: the next one would straddle again.
        let (mut at, mut images) = (0, 0);
        for i in 0..10_000u64 {
            let bytes = 2000 + i * 7919 % 3000;
            at += holes.before(at, bytes) + bytes;
            images += bytes;
        }
        assert!(at - images < images / 40, "{} bytes of holes", at - images);
    }

    #[test]
    fn a_count_that_is_too_small_is_reported_and_left() {
        let mut segments = Segments { next: 2, freezes: 5, ..Segments::default() };
        let id = SegmentId(1);
        segments.table.insert(id, Segment { bytes: 100, live: 99, sealed: true, emptied: None });
        let before = segments.table[&id];
        let image = Address { segment: id, offset: 0, number: 1, bytes: 100 };
        let elsewhere = Address { segment: SegmentId(7), ..image };
        for wrong in [image, elsewhere] {
            assert!(matches!(segments.remove(wrong), Err(Error::Corrupt { .. })));
        }
        assert_eq!(segments.table[&id], before);
        assert!(segments.removable(9).is_empty());
    }

    #[test]
    fn the_table_round_trips() {
        let mut segments = Segments { next: 9, ..Segments::default() };
        let full = Segment { bytes: 1000, live: 700, sealed: true, emptied: None };
        segments.table.insert(SegmentId(3), full);
        segments.table.insert(SegmentId(8), Segment { bytes: 50, ..Segment::default() });
        let inside = Address { segment: SegmentId(3), offset: 0, number: 1, bytes: 200 };
        let mut out = Vec::new();
        segments.encode([inside].into_iter(), &mut out);
        let mut reader = Reader::new(&out);
        let read = Segments::decode(&mut reader, 1024).unwrap();
        assert!(reader.is_empty());
        assert_eq!(read.table[&SegmentId(3)].live, 500, "the overlay dies with the process");
        assert_eq!((read.next, read.table[&SegmentId(8)].bytes), (9, 50));
    }
}
