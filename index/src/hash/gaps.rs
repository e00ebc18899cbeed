//! Gaps between the records of a bucket: which is nearest to a record's home.
//!
//! Nothing on disk says where gaps are. They follow from the slots, of which all are looked at, and from the lengths
//! of records: known without a look if all are the same, else only those near the home are looked at first, whose lines
//! whoever comes to write has asked for.

use super::bucket::{Bucket, home};
use std::ops::Range;

/// Bytes of a cell, unless all records have the same length: that is a cell then.
pub(super) const CELL_BYTES: usize = 16;
/// In larger bodies, cells are longer.
const CELLS_MAX: usize = 512;
/// How far around a home a gap is looked for first, if records have to be looked at for it.
const NEAR_BYTES: usize = 384;

/// A body in cells of the same length, counted from its end: which of them have a byte of a record.
struct Cells {
    end: usize,
    bytes: usize,
    /// 2^32 ÷ `bytes`, rounded up: offsets have 15 bits, so a product is exact in its upper half.
    reciprocal: u64,
    busy: [bool; CELLS_MAX],
}

impl Cells {
    fn new(body_bytes: usize, cell_bytes: usize) -> Self {
        let bytes = cell_bytes.max(body_bytes.div_ceil(CELLS_MAX));
        let reciprocal = (1_u64 << 32).div_ceil(bytes as u64);
        Self { end: body_bytes, bytes, reciprocal, busy: [false; CELLS_MAX] }
    }
    /// The cell of a byte.
    #[inline]
    fn cell(&self, at: usize) -> usize {
        let cell = ((self.end - 1 - at) as u64 * self.reciprocal) >> 32;
        usize::try_from(cell).expect("15 bits")
    }
    #[inline]
    fn cover(&mut self, record: Range<usize>) {
        let (first, last) = (self.cell(record.end - 1), self.cell(record.start));
        self.busy[first..=last].fill(true);
    }
    /// As [`Self::cover`], for a record that is not longer than a cell.
    #[inline]
    fn cover_short(&mut self, record: Range<usize>) {
        for at in [record.start, record.end - 1] {
            self.busy[self.cell(at) % CELLS_MAX] = true;
        }
    }
    /// The free cells nearest to `wanted` that hold `bytes`, all inside `room`. Returns where they begin.
    fn nearest(&self, wanted: usize, bytes: usize, room: &Range<usize>) -> Option<usize> {
        let need = bytes.div_ceil(self.bytes);
        let first = (self.end - room.end).div_ceil(self.bytes);
        let last = ((self.end - room.start) / self.bytes).checked_sub(need)?;
        let is_free = |cell: usize| self.busy[cell..cell + need].iter().all(|busy| !busy);
        let from_end = self.end - wanted + self.bytes / 2;
        let middle = (from_end / self.bytes).saturating_sub(need).clamp(first, last.max(first));
        let mut found = None;
        for distance in 0..=last.saturating_sub(first) {
            let (down, up) = (middle.checked_sub(distance), middle + distance);
            found = down.filter(|cell| *cell >= first && *cell <= last && is_free(*cell));
            found = found.or_else(|| (up <= last && is_free(up)).then_some(up));
            if found.is_some() {
                break;
            }
        }
        found.map(|cell| self.end - (cell + need) * self.bytes)
    }
}

/// Where a record would best be, for a row with this mark, of the gaps behind `front` that are long enough.
pub(super) fn find_gap(bucket: Bucket<'_>, mark: u16, bytes: usize, front: usize) -> Option<usize> {
    let body_bytes = bucket.body_bytes();
    let wanted = home(mark, body_bytes).saturating_sub(bytes / 2).min(body_bytes - bytes);
    if let Some(each) = bucket.each() {
        let mut cells = Cells::new(body_bytes, each);
        for slot in bucket.slots() {
            cells.cover_short(slot..slot + each);
        }
        return cells.nearest(wanted, bytes, &(front..body_bytes));
    }
    let start = wanted.saturating_sub(NEAR_BYTES).max(front);
    let near = start..(wanted + bytes + NEAR_BYTES).min(body_bytes).max(start);
    gap_in(bucket, wanted, bytes, near).or_else(|| gap_in(bucket, wanted, bytes, front..body_bytes))
}

/// As [`find_gap`], of those inside `room`; only records that reach into it are looked at.
fn gap_in(bucket: Bucket<'_>, wanted: usize, bytes: usize, room: Range<usize>) -> Option<usize> {
    let mut cells = Cells::new(bucket.body_bytes(), CELL_BYTES);
    let longest = bucket.longest();
    for (i, slot) in bucket.slots().enumerate() {
        if slot < room.end && slot + longest > room.start {
            cells.cover(slot..slot + bucket.record(i).len());
        }
    }
    cells.nearest(wanted, bytes, &room)
}
