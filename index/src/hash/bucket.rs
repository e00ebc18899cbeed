//! Buckets: leaf pages.
//!
//! ```text
//!  0       2      4      6      8        16
//! | count | used | zero | bits | prefix | marks: count × u16 | slots: count × u16 | records, with gaps between them |
//! record = key bytes u16 | value bytes u16 | key | value
//! ```
//!
//! A *mark* is the low 16 bits of a key's hash. Rows are in the order of their marks, which are spread evenly: so a
//! search begins where the mark should be, looks at a line or two, and then at the one record that it wants.
//! (Measured against one-byte tags in no order, compared eight at once: the same for rows of 100 bytes; where a bucket
//! holds some hundreds of rows, a get takes 370 ns instead of 430, and 130 instead of 310 if the key is absent, since
//! every 256th tag is the same. A million rows, frames' first lines fetched ahead as the store does.)
//! A slot is the offset of a record. Bit 15 of `value bytes` says that the value is a handle of 24 bytes. `used` is
//! what all records take. `bits` and `prefix` are the bucket's [`Place`], for checks.
//!
//! Records lie in the order of their marks too, and each as near as the others let it to its *home*, which
//! follows from the mark alone. So a get asks for the lines around the home before it has seen any of the page
//! ([`around_home`]), and mostly finds its record among them: one wait for memory instead of two. Slots say where a record
//! really is: the home is a guess that nothing else relies on. The gaps are zero, so that images compress.
//!
//! Integers are little-endian.

use super::way::Place;
use super::{set_u16, u16_at};
use crate::kind::{Handle, Value};
use std::cell::RefCell;
use std::ops::Range;

pub(super) const COUNT_AT: usize = 0;
pub(super) const USED_AT: usize = COUNT_AT + 2;
pub(super) const ZERO_AT: usize = USED_AT + 2;
const BITS_AT: usize = ZERO_AT + 2;
const PREFIX_AT: usize = BITS_AT + 2;
pub(super) const HEADER_BYTES: usize = PREFIX_AT + 8;
const _: () = assert!(HEADER_BYTES == 16);
const MARK_BYTES: usize = 2;
/// Marks that a search compares at once.
const AROUND: usize = 32;
const SLOT_BYTES: usize = 2;
pub(super) const RECORD_HEADER_BYTES: usize = 4;
pub(super) const OVERFLOW_BIT: usize = 1 << 15;

/// Homes are spread over a body behind this fraction of it, where marks and slots are, as a rule.
const FRONT_SHARE: usize = 16;
/// How far before and behind a home a get looks ahead: most records that are not longer lie there, if a bucket is
/// not almost full. (With 128 a get of 100 bytes in buckets nine tenths full takes 3 % longer; with 256 it is not faster, and
/// absent keys take 3 % longer.)
const HOME_BYTES: usize = 192;
/// Lines of a record that are asked for at once.
const RECORD_AHEAD_BYTES: usize = 512;

thread_local! {
    /// Where a bucket's old bytes lie while it is laid out anew.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// Rows that are given places.
    static ROWS: RefCell<Vec<Row>> = const { RefCell::new(Vec::new()) };
}

/// Where the middle of a record would best be, in a body of `body_bytes`.
#[inline]
fn home(mark: u16, body_bytes: usize) -> usize {
    let front = HEADER_BYTES + body_bytes / FRONT_SHARE;
    front + ((usize::from(mark) * (body_bytes - front)) >> 16)
}

/// Where the record of a key with this hash in the first round lies, as a guess.
#[inline]
pub(crate) fn around_home(hash: u64, body_bytes: usize) -> Range<usize> {
    let home = home(mark_of(hash), body_bytes);
    home.saturating_sub(HOME_BYTES)..(home + HOME_BYTES).min(body_bytes)
}

/// Bytes at the front of a body that a search for a key reads: header, marks and slots of some dozens of rows.
pub(crate) const FRONT_AHEAD_BYTES: usize = 256;

/// The mark of a key with this hash in the first round.
#[inline]
pub(crate) fn mark_of(hash: u64) -> u16 {
    let [low, high, ..] = hash.to_le_bytes();
    u16::from_le_bytes([low, high])
}

/// Where the slots of a bucket with `count` rows begin.
#[inline]
fn slots_at(count: usize) -> usize {
    HEADER_BYTES + count * MARK_BYTES
}

/// Bytes of header, marks and slots.
pub(super) fn front_bytes(count: usize) -> usize {
    slots_at(count) + count * SLOT_BYTES
}

/// Bytes of a record.
fn record_bytes(key: &[u8], value: &Value<'_>) -> usize {
    RECORD_HEADER_BYTES + key.len() + value.stored_bytes()
}

/// A bucket, to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket<'a> {
    body: &'a [u8],
    count: usize,
}

impl<'a> Bucket<'a> {
    /// A body that [`check_bucket`](super::bucket_check::check_bucket) has accepted, or that this module has made.
    #[inline]
    pub(crate) fn new(body: &'a [u8]) -> Self {
        Self { body, count: u16_at(body, COUNT_AT) }
    }
    #[inline]
    pub(crate) fn len(self) -> usize {
        self.count
    }
    pub(crate) fn place(self) -> Place {
        let bits = u32::try_from(u16_at(self.body, BITS_AT)).expect("16 bits");
        let prefix = self.body[PREFIX_AT..].first_chunk().expect("inside the header");
        Place { bits, prefix: u64::from_le_bytes(*prefix) }
    }
    #[inline]
    fn marks(self) -> &'a [[u8; MARK_BYTES]] {
        self.body[HEADER_BYTES..slots_at(self.count)].as_chunks().0
    }
    #[inline]
    pub(crate) fn mark(self, i: usize) -> u16 {
        u16::from_le_bytes(self.marks()[i])
    }
    #[inline]
    pub(super) fn slot(self, i: usize) -> usize {
        u16_at(self.body, slots_at(self.count) + i * SLOT_BYTES)
    }
    /// Key and value of row `i`.
    #[inline]
    pub(crate) fn row(self, i: usize) -> (&'a [u8], Value<'a>) {
        let record = &self.body[self.slot(i)..];
        let (head, rest) = record.split_first_chunk::<RECORD_HEADER_BYTES>().expect("checked");
        let (key_bytes, value_bytes) = (u16_at(head, 0), u16_at(head, 2));
        let (key, rest) = rest.split_at(key_bytes);
        let value = match value_bytes & OVERFLOW_BIT {
            0 => Value::Inline(&rest[..value_bytes]),
            _ => Value::Overflow(*rest.first_chunk().expect("checked: a handle follows")),
        };
        (key, value)
    }
    pub(crate) fn key(self, i: usize) -> &'a [u8] {
        let at = self.slot(i);
        &self.body[at + RECORD_HEADER_BYTES..][..u16_at(self.body, at)]
    }
    /// The bytes of row `i` in the heap.
    fn record(self, i: usize) -> &'a [u8] {
        let at = self.slot(i);
        let value_bytes = u16_at(self.body, at + 2) & !OVERFLOW_BIT;
        &self.body[at..at + RECORD_HEADER_BYTES + u16_at(self.body, at) + value_bytes]
    }

    /// The first row with this mark or a larger one.
    #[inline]
    fn lower_bound(self, mark: u16) -> usize {
        let marks = self.marks();
        let below = |other: &[u8; MARK_BYTES]| u16::from_le_bytes(*other) < mark;
        // Marks are spread evenly: as a rule it is one of those around where it would be if they were exactly so.
        let guess = (usize::from(mark) * marks.len()) >> 16;
        let start = guess.saturating_sub(AROUND / 2).min(marks.len().saturating_sub(AROUND));
        let mut i = start;
        if let Some(around) = marks[start..].first_chunk::<AROUND>() {
            // All are compared, without a branch.
            i += around.iter().map(|other| usize::from(below(other))).sum::<usize>();
        }
        while i < marks.len() && below(&marks[i]) {
            i += 1;
        }
        while i > 0 && !below(&marks[i - 1]) {
            i -= 1;
        }
        i
    }
    /// Where a key is, whose mark is known.
    #[inline]
    pub(crate) fn find(self, mark: u16, key: &[u8]) -> Option<usize> {
        self.find_asking(mark, key, |_| {})
    }
    /// As [`Self::find`]; `ask` gets the bytes of each row that is looked at, before they are.
    #[inline]
    pub(crate) fn find_asking(
        self,
        mark: u16,
        key: &[u8],
        ask: impl Fn(Range<usize>),
    ) -> Option<usize> {
        let mut i = self.lower_bound(mark);
        while i < self.count && self.mark(i) == mark {
            let at = self.slot(i);
            ask(at..self.start(i + 1).min(at + RECORD_AHEAD_BYTES));
            if self.key(i) == key {
                return Some(i);
            }
            i += 1;
        }
        None
    }

    /// Where row `i` begins; the end of the body behind the last one.
    #[inline]
    fn start(self, i: usize) -> usize {
        if i < self.count { self.slot(i) } else { self.body.len() }
    }
    /// Where row `i` ends; 0 for what is before the first one.
    fn end(self, i: Option<usize>) -> usize {
        i.map_or(0, |i| self.slot(i) + self.record(i).len())
    }
    /// Bytes that records take.
    pub(super) fn records_bytes(self) -> usize {
        u16_at(self.body, USED_AT)
    }
    /// Bytes that rows and header take.
    pub(crate) fn used_bytes(self) -> usize {
        front_bytes(self.count) + self.records_bytes()
    }
    /// Bytes of a bucket with the rows of both.
    pub(crate) fn joined_bytes(self, other: Bucket<'_>) -> usize {
        front_bytes(self.count + other.count) + self.records_bytes() + other.records_bytes()
    }
    /// True if there is room for so much more, once records have moved.
    pub(crate) fn has_room(self, growth: Growth) -> bool {
        front_bytes(self.count + growth.rows) + self.records_bytes() + growth.bytes
            <= self.body.len()
    }
}

/// By how much writes make a bucket grow, at most.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Growth {
    rows: usize,
    bytes: usize,
}

impl Growth {
    /// Adds a row that is put at `at`.
    pub(crate) fn put(
        &mut self,
        bucket: Bucket<'_>,
        at: Option<usize>,
        key: &[u8],
        value: &Value<'_>,
    ) {
        let bytes = record_bytes(key, value);
        if let Some(i) = at {
            self.bytes += bytes.saturating_sub(bucket.record(i).len());
        } else {
            self.rows += 1;
            self.bytes += bytes;
        }
    }
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
    /// Where it would be if it were alone.
    fn wanted(self) -> usize {
        self.home.saturating_sub(self.bytes / 2)
    }
}

/// Gives rows places between `room.start` and `room.end`, in their order, near their homes. They fit.
///
/// Who is in the way is moved either behind the one before or before the one behind: halfway between both, since what lies
/// between two ways to place all of them is a way too.
fn give_places(rows: &mut [Row], room: Range<usize>) {
    let mut left: usize = rows.iter().map(|row| row.bytes).sum();
    let mut free = room.start;
    for row in &mut *rows {
        // Those that follow need so much.
        row.at = row.wanted().max(free).min(room.end - left);
        left -= row.bytes;
        free = row.at + row.bytes;
    }
    let mut before: usize = rows.iter().map(|row| row.bytes).sum();
    let mut limit = room.end;
    for row in rows.iter_mut().rev() {
        before -= row.bytes;
        let at = row.wanted().min(limit - row.bytes).max(room.start + before);
        limit = at;
        row.at = usize::midpoint(row.at, at);
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
        rows.extend(
            from.clone().map(|(from, i)| Row::new(from.mark(i), from.record(i).len(), body_bytes)),
        );
        let front = front_bytes(rows.len());
        give_places(rows, front..body_bytes);
        set_u16(body, COUNT_AT, rows.len());
        set_u16(body, USED_AT, rows.iter().map(|row| row.bytes).sum());
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

fn write_record(body: &mut [u8], at: usize, key: &[u8], value: &Value<'_>) {
    let (bytes, flag): (&[u8], usize) = match value {
        Value::Inline(value) => (value, 0),
        Value::Overflow(handle) => (handle, OVERFLOW_BIT),
        Value::Tombstone => unreachable!("only kinds that write blindly keep tombstones"),
    };
    set_u16(body, at, key.len());
    set_u16(body, at + 2, bytes.len() | flag);
    let key_at = at + RECORD_HEADER_BYTES;
    body[key_at..key_at + key.len()].copy_from_slice(key);
    body[key_at + key.len()..][..bytes.len()].copy_from_slice(bytes);
}

/// Moves as few rows around `i` as it takes to leave `bytes` free there, for a row with this mark, with all rows behind
/// `front`. Returns where. There is room.
fn make_room(body: &mut [u8], i: usize, mark: u16, bytes: usize, front: usize) -> usize {
    let bucket = Bucket::new(body);
    let (mut first, mut last, mut need) = (i, i, bytes);
    let room = loop {
        let start = bucket.end(first.checked_sub(1)).max(front);
        let end = bucket.start(last);
        if start + need <= end {
            break start..end;
        }
        // To either side in turn.
        if last < bucket.len() && (first == 0 || last - i <= i - first) {
            need += bucket.record(last).len();
            last += 1;
        } else {
            first = first.checked_sub(1).expect("room was made before");
            need += bucket.record(first).len();
        }
    };
    let body_bytes = body.len();
    if first == last {
        let row = Row::new(mark, bytes, body_bytes);
        return row.wanted().clamp(room.start, room.end - bytes);
    }
    ROWS.with_borrow_mut(|rows| {
        rows.clear();
        let bucket = Bucket::new(body);
        let old = |i| Row::new(bucket.mark(i), bucket.record(i).len(), body_bytes);
        rows.extend((first..i).map(old));
        rows.push(Row::new(mark, bytes, body_bytes));
        rows.extend((i..last).map(old));
        give_places(rows, room.clone());
        let new = rows.remove(i - first);
        move_rows(body, first, rows);
        new.at
    })
}

/// Moves rows, from row `first` on, to the places that they were given.
fn move_rows(body: &mut [u8], first: usize, rows: &[Row]) {
    SCRATCH.with_borrow_mut(|scratch| {
        let bucket = Bucket::new(body);
        let last = first + rows.len();
        let (slots, from) =
            (slots_at(bucket.len()), bucket.slot(first)..bucket.end(Some(last - 1)));
        scratch.clear();
        scratch.extend_from_slice(&body[from.clone()]);
        body[from.clone()].fill(0);
        for (i, row) in (first..last).zip(rows) {
            let slot_at = slots + i * SLOT_BYTES;
            let old = u16_at(body, slot_at) - from.start;
            body[row.at..][..row.bytes].copy_from_slice(&scratch[old..][..row.bytes]);
            set_u16(body, slot_at, row.at);
        }
    });
}

/// Inserts a row and returns where it is now. There is room for it ([`Bucket::has_room`]).
pub(crate) fn insert(body: &mut [u8], mark: u16, key: &[u8], value: &Value<'_>) -> usize {
    let bytes = record_bytes(key, value);
    let bucket = Bucket::new(body);
    let (count, used, i) = (bucket.len(), bucket.records_bytes(), bucket.lower_bound(mark));
    let front = front_bytes(count + 1);
    if bucket.start(0) < front {
        // The first row gives way to one more mark and slot.
        make_room(body, 0, 0, 0, front);
    }
    let at = make_room(body, i, mark, bytes, front);
    write_record(body, at, key, value);
    // The slots move up by one mark, those from `i` on by one slot too; the marks from `i` on by one.
    let (slots, mark_at) = (slots_at(count), HEADER_BYTES + i * MARK_BYTES);
    let (slot_at, end) = (slots + i * SLOT_BYTES, front_bytes(count));
    body.copy_within(slot_at..end, slot_at + MARK_BYTES + SLOT_BYTES);
    body.copy_within(slots..slot_at, slots + MARK_BYTES);
    body.copy_within(mark_at..slots, mark_at + MARK_BYTES);
    body[mark_at..mark_at + MARK_BYTES].copy_from_slice(&mark.to_le_bytes());
    set_u16(body, slot_at + MARK_BYTES, at);
    set_u16(body, COUNT_AT, count + 1);
    set_u16(body, USED_AT, used + bytes);
    i
}

/// Gives row `i` another value and returns where the row is now. There is room for it.
pub(crate) fn replace(body: &mut [u8], i: usize, key: &[u8], value: &Value<'_>) -> usize {
    let bucket = Bucket::new(body);
    let (at, old_bytes, mark) = (bucket.slot(i), bucket.record(i).len(), bucket.mark(i));
    let new_bytes = record_bytes(key, value);
    if at + new_bytes > bucket.start(i + 1) {
        remove(body, i);
        return insert(body, mark, key, value);
    }
    let used = bucket.records_bytes() - old_bytes + new_bytes;
    write_record(body, at, key, value);
    body[at..at + old_bytes.max(new_bytes)][new_bytes..].fill(0);
    set_u16(body, USED_AT, used);
    i
}

/// Removes row `i`.
pub(crate) fn remove(body: &mut [u8], i: usize) {
    let bucket = Bucket::new(body);
    let (at, bytes, count) = (bucket.slot(i), bucket.record(i).len(), bucket.len());
    let used = bucket.records_bytes() - bytes;
    let (slots, mark_at) = (slots_at(count), HEADER_BYTES + i * MARK_BYTES);
    let (slot_at, end) = (slots + i * SLOT_BYTES, front_bytes(count));
    body[at..at + bytes].fill(0);
    body.copy_within(mark_at + MARK_BYTES..slots, mark_at);
    body.copy_within(slots..slot_at, slots - MARK_BYTES);
    body.copy_within(slot_at + SLOT_BYTES..end, slot_at - MARK_BYTES);
    body[front_bytes(count - 1)..end].fill(0);
    set_u16(body, COUNT_AT, count - 1);
    set_u16(body, USED_AT, used);
}

/// The part of a bucket that need not be kept on disk: the largest gap.
pub(crate) fn hole(body: &[u8]) -> Range<usize> {
    let bucket = Bucket::new(body);
    let mut hole = 0..0;
    let mut end = front_bytes(bucket.len());
    for i in 0..=bucket.len() {
        let start = bucket.start(i);
        if start - end > hole.len() {
            hole = end..start;
        }
        if i < bucket.len() {
            end = bucket.end(Some(i));
        }
    }
    hole
}

/// Calls `visit` with the handle of every value that lies outside this bucket.
pub(crate) fn handles(body: &[u8], visit: &mut dyn FnMut(Handle)) {
    let bucket = Bucket::new(body);
    for i in 0..bucket.len() {
        if let (_, Value::Overflow(handle)) = bucket.row(i) {
            visit(handle);
        }
    }
}
