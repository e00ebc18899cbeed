//! Where records lie in a bucket: each as near to its home as may be, in any order.
//!
//! An insert moves no record: it takes the gap nearest to the new one's home (`gaps`). Only where none is long enough
//! all are laid out anew; splits and merges do so anyway. Then they lie in the order of their marks, at distances that leave
//! gaps for whole records: records of one length, from the end of the body on, at multiples of it; others at multiples of
//! [`CELL_BYTES`], as long as that leaves room.

use super::bucket::{
    BITS_AT, Bucket, COUNT_AT, FLAGS, FRONT_BIT, HEADER_BYTES, LONGEST_AT, MARK_BYTES, PREFIX_AT,
    RECORD_HEADER_BYTES, SLOT_BYTES, USED_AT, front_bytes, home, slots_at,
};
use super::gaps::{CELL_BYTES, find_gap};
use super::way::Place;
use super::{set_u16, u16_at};
use crate::fold::{Rows, push_rows};
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

/// Fills a bucket: `sizes` are marks and bytes of its records, in order, and `fill` is called for each to write it.
fn build(
    body: &mut [u8],
    place: Place,
    sizes: impl Iterator<Item = ([u8; MARK_BYTES], usize)>,
    mut fill: impl FnMut(&mut [u8]),
) {
    let body_bytes = body.len();
    body.fill(0);
    ROWS.with_borrow_mut(|rows| {
        rows.clear();
        for (n, (mark, bytes)) in sizes.enumerate() {
            let mark_at = HEADER_BYTES + n * MARK_BYTES;
            body[mark_at..mark_at + MARK_BYTES].copy_from_slice(&mark);
            rows.push(Row::new(u16::from_le_bytes(mark), bytes, body_bytes));
        }
        let front = front_bytes(rows.len());
        give_places(rows, front..body_bytes);
        set_u16(body, COUNT_AT, rows.len());
        set_u16(body, USED_AT, rows.iter().map(|row| row.bytes).sum());
        set_u16(body, LONGEST_AT, rows.iter().map(|row| row.bytes).max().unwrap_or(0));
        set_u16(body, BITS_AT, place.bits as usize | if place.front { FRONT_BIT } else { 0 });
        body[PREFIX_AT..HEADER_BYTES].copy_from_slice(&place.prefix.to_le_bytes());
        let slots = slots_at(rows.len());
        for (n, row) in rows.iter().enumerate() {
            fill(&mut body[row.at..][..row.bytes]);
            set_u16(body, slots + n * SLOT_BYTES, row.at);
        }
    });
}

/// Fills a bucket with rows of others.
fn build_from<'r>(
    body: &mut [u8],
    place: Place,
    from: impl Iterator<Item = (Bucket<'r>, usize)> + Clone,
) {
    let sizes = from.clone().map(|(from, i)| (from.marks()[i], from.record(i).len()));
    let mut rows = from;
    build(body, place, sizes, |record| {
        let (from, i) = rows.next().expect("as many as sizes");
        record.copy_from_slice(from.record(i));
    });
}

/// Makes an empty bucket.
pub(crate) fn init(body: &mut [u8], place: Place) {
    build(body, place, std::iter::empty(), |_| {});
}

/// Makes a bucket of some rows of another: those that `wanted` says.
pub(crate) fn build_some(
    body: &mut [u8],
    place: Place,
    from: Bucket<'_>,
    wanted: impl Fn(usize) -> bool + Copy,
) {
    build_from(body, place, (0..from.len()).filter(move |i| wanted(*i)).map(|i| (from, i)));
}

/// Makes a bucket of the rows of two others.
pub(crate) fn build_joined(body: &mut [u8], place: Place, parts: [Bucket<'_>; 2]) {
    let [a, b] = parts;
    let (mut i, mut j) = (0, 0);
    build_from(
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

/// The numbers at the front of a bucket's fold: rows, bits and prefix of its [`Place`].
const FOLD_HEADER_BYTES: usize = 12;

/// Appends what there is to know of a bucket ([`Fold::Bucket`](crate::fold::Fold::Bucket)): the numbers, the marks, and the rows in their
/// order. Returns how many bytes of the page are taken.
pub(crate) fn fold(body: &[u8], out: &mut Vec<u8>) -> usize {
    let bucket = Bucket::new(body);
    out.extend_from_slice(&body[COUNT_AT..COUNT_AT + 2]);
    out.extend_from_slice(&body[BITS_AT..HEADER_BYTES]);
    out.extend_from_slice(bucket.marks().as_flattened());
    let row = |i| {
        let record = bucket.record(i);
        let (key_bytes, word) = (u16_at(record, 0), u16_at(record, 2));
        let (key, value) = record[RECORD_HEADER_BYTES..].split_at(key_bytes);
        (key, word, value)
    };
    push_rows(bucket.len(), row, out);
    front_bytes(bucket.len()) + bucket.records_bytes()
}

/// Lays out a bucket anew.
///
/// # Errors
/// What is wrong with the fold. [`check_bucket`](super::bucket_check::check_bucket) must see what comes of it.
pub(crate) fn unfold(folded: &[u8], body: &mut [u8]) -> Result<(), String> {
    let short = || format!("{} bytes are no bucket", folded.len());
    let (numbers, rest) = folded.split_first_chunk::<FOLD_HEADER_BYTES>().ok_or_else(short)?;
    let (count, bits) = (u16_at(numbers, 0), u16_at(numbers, 2));
    let prefix = u64::from_le_bytes(*numbers[4..].first_chunk().expect("eight bytes are left"));
    let (marks, rest) = rest.split_at_checked(count * MARK_BYTES).ok_or_else(short)?;
    let marks = marks.as_chunks::<MARK_BYTES>().0;
    let rows = Rows::new(rest, count, !FLAGS & 0xffff)?;
    let records_bytes = count * RECORD_HEADER_BYTES + rows.bytes();
    if front_bytes(count) + records_bytes > body.len().min(1 << 15) {
        return Err(format!("{count} rows do not fit a bucket of {} bytes", body.len()));
    }
    let front = bits & FRONT_BIT != 0;
    let place = Place { bits: u32::try_from(bits & !FRONT_BIT).expect("15 bits"), prefix, front };
    let sizes = marks.iter().enumerate();
    let sizes = sizes.map(|(i, mark)| (*mark, RECORD_HEADER_BYTES + rows.row_bytes(i)));
    let mut records = rows.iter();
    build(body, place, sizes, |record| {
        let (key, word, value) = records.next().expect("as many as sizes");
        set_u16(record, 0, key.len());
        set_u16(record, 2, word);
        record[RECORD_HEADER_BYTES..][..key.len()].copy_from_slice(key);
        record[RECORD_HEADER_BYTES + key.len()..].copy_from_slice(value);
    });
    Ok(())
}
