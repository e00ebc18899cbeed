//! Where records lie in a bucket: each as near to its home as may be, in any order.
//!
//! An insert moves no record: it takes the gap nearest to the new one's home (`gaps`). Only where none is long enough
//! all are laid out anew; splits and merges do so anyway. Then they lie in the order of their marks, at distances that leave
//! gaps for whole records: records of one length, from the end of the body on, at multiples of it; others at multiples of
//! [`CELL_BYTES`], as long as that leaves room.

use super::bucket::{
    BITS_AT, Bucket, COUNT_AT, HEADER_BYTES, LONGEST_AT, MARK_BYTES, PREFIX_AT, SLOT_BYTES,
    USED_AT, front_bytes, home, slots_at,
};
use super::gaps::{CELL_BYTES, find_gap};
use super::set_u16;
use super::way::Place;
use std::cell::RefCell;
use std::ops::Range;

thread_local! {
    /// Where a bucket's old bytes lie while it is laid out anew.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// Rows that are given places.
    static ROWS: RefCell<Vec<Row>> = const { RefCell::new(Vec::new()) };
}

/// A row that is to be given a place.
#[derive(Clone, Copy, Debug)]
struct Row {
    home: usize,
    bytes: usize,
    at: usize,
}

impl Row {
    fn new(mark: u16, bytes: usize, body_bytes: usize) -> Self {
        Self { home: home(mark, body_bytes), bytes, at: 0 }
    }
    fn of(bucket: Bucket<'_>, i: usize, body_bytes: usize) -> Self {
        Self::new(bucket.mark(i), bucket.record(i).len(), body_bytes)
    }
    /// Where it would be if it were alone, at a multiple of `grain` before `end`.
    fn wanted(self, grain: usize, end: usize) -> usize {
        let from_end = end - self.home.saturating_sub(self.bytes / 2);
        end.saturating_sub((from_end + grain / 2) / grain * grain)
    }
}

/// What the places of rows should be multiples of, so that gaps between them are of use: what they all have, or else cells,
/// if there is room for that.
fn grain(rows: &[Row], room_bytes: usize) -> usize {
    let first = rows.first().map_or(1, |row| row.bytes);
    if rows.iter().all(|row| row.bytes == first) {
        return first;
    }
    let padded: usize = rows.iter().map(|row| row.bytes.next_multiple_of(CELL_BYTES)).sum();
    if padded <= room_bytes / CELL_BYTES * CELL_BYTES { CELL_BYTES } else { 1 }
}

/// Gives rows places between `room.start` and `room.end`, in their order, near their homes. They fit.
///
/// Who is in the way is moved either behind the one before or before the one behind: halfway between both, since what lies
/// between two ways to place all of them is a way too.
fn give_places(rows: &mut [Row], room: Range<usize>) {
    let (grain, end) = (grain(rows, room.len()), room.end);
    let start = end - room.len() / grain * grain;
    let mut left: usize = rows.iter().map(|row| row.bytes.next_multiple_of(grain)).sum();
    let (mut before, mut free) = (left, start);
    for row in &mut *rows {
        // Those that follow need so much.
        row.at = row.wanted(grain, end).max(free).min(end - left);
        let bytes = row.bytes.next_multiple_of(grain);
        left -= bytes;
        free = row.at + bytes;
    }
    let mut limit = end;
    for row in rows.iter_mut().rev() {
        let bytes = row.bytes.next_multiple_of(grain);
        before -= bytes;
        limit = row.wanted(grain, end).min(limit - bytes).max(start + before);
        let middle = usize::midpoint(row.at, limit);
        row.at = end - (end - middle).next_multiple_of(grain);
    }
}

/// Fills a bucket with rows of others.
fn build<'r>(
    body: &mut [u8],
    place: Place,
    from: impl Iterator<Item = (Bucket<'r>, usize)> + Clone,
) {
    let body_bytes = body.len();
    body.fill(0);
    ROWS.with_borrow_mut(|rows| {
        rows.clear();
        rows.extend(from.clone().map(|(from, i)| Row::of(from, i, body_bytes)));
        let front = front_bytes(rows.len());
        give_places(rows, front..body_bytes);
        set_u16(body, COUNT_AT, rows.len());
        set_u16(body, USED_AT, rows.iter().map(|row| row.bytes).sum());
        set_u16(body, LONGEST_AT, rows.iter().map(|row| row.bytes).max().unwrap_or(0));
        set_u16(body, BITS_AT, place.bits as usize);
        body[PREFIX_AT..HEADER_BYTES].copy_from_slice(&place.prefix.to_le_bytes());
        let slots = slots_at(rows.len());
        for (n, ((from, i), row)) in from.zip(rows.iter()).enumerate() {
            body[row.at..][..row.bytes].copy_from_slice(from.record(i));
            let mark_at = HEADER_BYTES + n * MARK_BYTES;
            body[mark_at..mark_at + MARK_BYTES].copy_from_slice(&from.marks()[i]);
            set_u16(body, slots + n * SLOT_BYTES, row.at);
        }
    });
}

/// Makes an empty bucket.
pub(crate) fn init(body: &mut [u8], place: Place) {
    build(body, place, std::iter::empty());
}

/// Makes a bucket of some rows of another: those that `wanted` says.
pub(crate) fn build_some(
    body: &mut [u8],
    place: Place,
    from: Bucket<'_>,
    wanted: impl Fn(usize) -> bool + Copy,
) {
    build(body, place, (0..from.len()).filter(move |i| wanted(*i)).map(|i| (from, i)));
}

/// Makes a bucket of the rows of two others.
pub(crate) fn build_joined(body: &mut [u8], place: Place, parts: [Bucket<'_>; 2]) {
    let [a, b] = parts;
    let (mut i, mut j) = (0, 0);
    build(
        body,
        place,
        std::iter::from_fn(move || {
            let from_a = i < a.len() && (j == b.len() || a.mark(i) <= b.mark(j));
            let (part, next) = if from_a { (a, &mut i) } else { (b, &mut j) };
            *next += 1;
            (*next <= part.len()).then(|| (part, *next - 1))
        }),
    );
}

/// Keeps the rows that `wanted` says.
pub(crate) fn keep_some(body: &mut [u8], place: Place, wanted: impl Fn(usize) -> bool + Copy) {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.clear();
        scratch.extend_from_slice(body);
        build_some(body, place, Bucket::new(scratch), wanted);
    });
}

/// Finds a place for a record of a row that is still to be counted in: where one more mark and slot leave room. Returns
/// where; it is zero. There is room ([`Bucket::has_room`]).
pub(super) fn make_room(body: &mut [u8], mark: u16, bytes: usize) -> usize {
    let front = front_bytes(Bucket::new(body).len() + 1);
    let found =
        clear_front(body, front).then(|| find_gap(Bucket::new(body), mark, bytes, front)).flatten();
    found.unwrap_or_else(|| lay_out(body, mark, bytes, front))
}

/// Moves the record that begins before `front`, if there is one, to a gap. False if there is no gap.
fn clear_front(body: &mut [u8], front: usize) -> bool {
    let bucket = Bucket::new(body);
    let lowest = bucket.slots().min().unwrap_or(front);
    if lowest >= front {
        return true;
    }
    // A mark and a slot are shorter than a record: it is the only one.
    let i = bucket.slots().position(|slot| slot == lowest).expect("it was just seen");
    let bytes = bucket.record(i).len();
    let Some(at) = find_gap(bucket, bucket.mark(i), bytes, front) else { return false };
    let slot_at = slots_at(bucket.len()) + i * SLOT_BYTES;
    body.copy_within(lowest..lowest + bytes, at);
    body[lowest..lowest + bytes].fill(0);
    set_u16(body, slot_at, at);
    true
}

/// Lays out all records anew, with room for one more, behind `front`. Returns where.
#[cold]
fn lay_out(body: &mut [u8], mark: u16, bytes: usize, front: usize) -> usize {
    let body_bytes = body.len();
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.clear();
        scratch.extend_from_slice(body);
        let old = Bucket::new(scratch);
        ROWS.with_borrow_mut(|rows| {
            rows.clear();
            rows.extend((0..old.len()).map(|i| Row::of(old, i, body_bytes)));
            let new = old.lower_bound(mark);
            rows.insert(new, Row::new(mark, bytes, body_bytes));
            give_places(rows, front..body_bytes);
            let new = rows.remove(new);
            body[front_bytes(old.len())..].fill(0);
            let slots = slots_at(old.len());
            for (i, row) in rows.iter().enumerate() {
                body[row.at..][..row.bytes].copy_from_slice(old.record(i));
                set_u16(body, slots + i * SLOT_BYTES, row.at);
            }
            new.at
        })
    })
}

/// The part of a bucket that need not be kept on disk: the largest gap.
pub(crate) fn hole(body: &[u8]) -> Range<usize> {
    let bucket = Bucket::new(body);
    let mut records: Vec<Range<usize>> = (0..bucket.len())
        .map(|i| bucket.slot(i)..bucket.slot(i) + bucket.record(i).len())
        .collect();
    records.sort_unstable_by_key(|record| record.start);
    let mut hole = 0..0;
    let mut end = front_bytes(bucket.len());
    let behind = body.len()..body.len();
    for record in records.into_iter().chain([behind]) {
        if record.start - end > hole.len() {
            hole = end..record.start;
        }
        end = record.end;
    }
    hole
}
