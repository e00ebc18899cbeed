//! Buckets: leaf pages.
//!
//! ```text
//!  0       2      4         6      8        16
//! | count | heap | garbage | bits | prefix | marks: count × u16 | slots: count × u16 | free ... | records ... |
//!                                                                                              ↑ heap
//! record = key bytes u16 | value bytes u16 | key | value
//! ```
//!
//! A *mark* is the low 16 bits of a key's hash. Rows are in the order of their marks, which are spread evenly: so a
//! search begins where the mark should be, looks at a line or two, and then at the one record that it wants.
//! (Measured against one-byte tags in no order, compared eight at once: the same for rows of 100 bytes; where a bucket
//! holds some hundreds of rows, a get takes 370 ns instead of 430, and 130 instead of 310 if the key is absent, since
//! every 256th tag is the same. A million rows, frames' first lines fetched ahead as the store does.)
//! A slot is the offset of a record. Bit 15 of `value bytes` says that the value is a handle of 24 bytes. `garbage` is
//! what removed records left in the heap. `bits` and `prefix` are the bucket's [`Place`], for checks.
//!
//! Integers are little-endian.

use super::way::Place;
use super::{set_u16, u16_at};
use crate::kind::{Handle, Value};
use std::cell::RefCell;
use std::ops::Range;

pub(super) const COUNT_AT: usize = 0;
pub(super) const HEAP_AT: usize = COUNT_AT + 2;
pub(super) const GARBAGE_AT: usize = HEAP_AT + 2;
const BITS_AT: usize = GARBAGE_AT + 2;
const PREFIX_AT: usize = BITS_AT + 2;
pub(super) const HEADER_BYTES: usize = PREFIX_AT + 8;
const _: () = assert!(HEADER_BYTES == 16);
const MARK_BYTES: usize = 2;
/// Marks that a search compares at once.
const AROUND: usize = 32;
const SLOT_BYTES: usize = 2;
pub(super) const RECORD_HEADER_BYTES: usize = 4;
pub(super) const OVERFLOW_BIT: usize = 1 << 15;

thread_local! {
    /// Where a bucket's old bytes lie while it is laid out anew.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

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
        let from = self.lower_bound(mark);
        (from..self.count).take_while(|i| self.mark(*i) == mark).find(|i| self.key(*i) == key)
    }

    /// Bytes that records take, without garbage.
    fn records_bytes(self) -> usize {
        self.body.len() - u16_at(self.body, HEAP_AT) - u16_at(self.body, GARBAGE_AT)
    }
    /// Bytes that rows and header take.
    pub(crate) fn used_bytes(self) -> usize {
        front_bytes(self.count) + self.records_bytes()
    }
    /// Bytes of a bucket with the rows of both.
    pub(crate) fn joined_bytes(self, other: Bucket<'_>) -> usize {
        front_bytes(self.count + other.count) + self.records_bytes() + other.records_bytes()
    }
    /// True if there is room for so much more, after compaction.
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

/// Fills a bucket with a known number of rows.
struct Builder<'b> {
    body: &'b mut [u8],
    rows: usize,
    done: usize,
    heap: usize,
}

impl<'b> Builder<'b> {
    fn new(body: &'b mut [u8], rows: usize, place: Place) -> Self {
        set_u16(body, COUNT_AT, rows);
        set_u16(body, GARBAGE_AT, 0);
        set_u16(body, BITS_AT, place.bits as usize);
        body[PREFIX_AT..HEADER_BYTES].copy_from_slice(&place.prefix.to_le_bytes());
        let heap = body.len();
        Self { body, rows, done: 0, heap }
    }
    fn copy(&mut self, from: Bucket<'_>, i: usize) {
        let record = from.record(i);
        self.heap -= record.len();
        self.body[self.heap..][..record.len()].copy_from_slice(record);
        let mark_at = HEADER_BYTES + self.done * MARK_BYTES;
        self.body[mark_at..mark_at + MARK_BYTES].copy_from_slice(&from.marks()[i]);
        set_u16(self.body, slots_at(self.rows) + self.done * SLOT_BYTES, self.heap);
        self.done += 1;
    }
    fn finish(self) {
        assert_eq!(self.done, self.rows, "as many rows as announced");
        assert!(front_bytes(self.rows) <= self.heap, "the rows fit");
        set_u16(self.body, HEAP_AT, self.heap);
    }
}

/// Makes an empty bucket.
pub(crate) fn init(body: &mut [u8], place: Place) {
    Builder::new(body, 0, place).finish();
}

/// Makes a bucket of some rows of another: those that `wanted` says.
pub(crate) fn build_some(
    body: &mut [u8],
    place: Place,
    from: Bucket<'_>,
    wanted: impl Fn(usize) -> bool,
) {
    let rows = (0..from.len()).filter(|i| wanted(*i));
    let mut builder = Builder::new(body, rows.clone().count(), place);
    rows.for_each(|i| builder.copy(from, i));
    builder.finish();
}

/// Makes a bucket of the rows of two others.
pub(crate) fn build_joined(body: &mut [u8], place: Place, parts: [Bucket<'_>; 2]) {
    let [a, b] = parts;
    let mut builder = Builder::new(body, a.len() + b.len(), place);
    let mut i = 0;
    for j in 0..b.len() {
        while i < a.len() && a.mark(i) <= b.mark(j) {
            builder.copy(a, i);
            i += 1;
        }
        builder.copy(b, j);
    }
    (i..a.len()).for_each(|i| builder.copy(a, i));
    builder.finish();
}

/// Keeps the rows that `wanted` says, without garbage.
pub(crate) fn keep_some(body: &mut [u8], place: Place, wanted: impl Fn(usize) -> bool) {
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

/// Inserts a row and returns where it is now. There is room for it ([`Bucket::has_room`]).
pub(crate) fn insert(body: &mut [u8], mark: u16, key: &[u8], value: &Value<'_>) -> usize {
    let bytes = record_bytes(key, value);
    let bucket = Bucket::new(body);
    let (count, i) = (bucket.len(), bucket.lower_bound(mark));
    if u16_at(body, HEAP_AT) < front_bytes(count + 1) + bytes {
        let place = bucket.place();
        keep_some(body, place, |_| true);
    }
    let at = u16_at(body, HEAP_AT).checked_sub(bytes).expect("room was made before");
    assert!(front_bytes(count + 1) <= at, "room was made before");
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
    set_u16(body, HEAP_AT, at);
    i
}

/// Gives row `i` another value and returns where the row is now. There is room for it.
pub(crate) fn replace(body: &mut [u8], i: usize, key: &[u8], value: &Value<'_>) -> usize {
    let bucket = Bucket::new(body);
    let (at, old_bytes, mark) = (bucket.slot(i), bucket.record(i).len(), bucket.mark(i));
    let new_bytes = record_bytes(key, value);
    if new_bytes > old_bytes {
        remove(body, i);
        return insert(body, mark, key, value);
    }
    write_record(body, at, key, value);
    let garbage = u16_at(body, GARBAGE_AT) + old_bytes - new_bytes;
    set_u16(body, GARBAGE_AT, garbage);
    i
}

/// Removes row `i`.
pub(crate) fn remove(body: &mut [u8], i: usize) {
    let bucket = Bucket::new(body);
    let (at, bytes, count) = (bucket.slot(i), bucket.record(i).len(), bucket.len());
    let (slots, mark_at) = (slots_at(count), HEADER_BYTES + i * MARK_BYTES);
    let (slot_at, end) = (slots + i * SLOT_BYTES, front_bytes(count));
    body.copy_within(mark_at + MARK_BYTES..slots, mark_at);
    body.copy_within(slots..slot_at, slots - MARK_BYTES);
    body.copy_within(slot_at + SLOT_BYTES..end, slot_at - MARK_BYTES);
    set_u16(body, COUNT_AT, count - 1);
    if at == u16_at(body, HEAP_AT) {
        set_u16(body, HEAP_AT, at + bytes);
    } else {
        let garbage = u16_at(body, GARBAGE_AT) + bytes;
        set_u16(body, GARBAGE_AT, garbage);
    }
}

/// The part of a bucket that need not be kept on disk: what lies between slots and heap.
pub(crate) fn hole(body: &[u8]) -> Range<usize> {
    front_bytes(Bucket::new(body).len())..u16_at(body, HEAP_AT)
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
