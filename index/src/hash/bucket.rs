//! Buckets: leaf pages.
//!
//! ```text
//!  0       2      4         6      8        16
//! | count | used | longest | bits | prefix | marks: count × u16 | slots: count × u16 | records, with gaps between them |
//! record = key bytes u16 | value bytes u16 | key | value
//! ```
//!
//! A *mark* is the low 16 bits of a key's hash. Rows are in the order of their marks, which are spread evenly: so a
//! search begins where the mark should be, looks at a line or two, and then at the one record that it wants.
//! (Measured against one-byte tags in no order, compared eight at once: the same for rows of 100 bytes; where a bucket
//! holds some hundreds of rows, a get takes 370 ns instead of 430, and 130 instead of 310 if the key is absent, since
//! every 256th tag is the same. A million rows, frames' first lines fetched ahead as the store does.)
//! A slot is the offset of a record. Bit 15 of `value bytes` says that the value is a handle of 24 bytes. `used` is
//! what all records take; none takes more than `longest`, unless that is 0. `bits` and `prefix` are the bucket's [`Place`],
//! for checks. Bit 15 of `bits` says that the bucket belongs to the table's front; only there bit 14 of `value bytes` may be
//! set: a tombstone, without bytes.
//!
//! Records lie in no order, but each as near as may be to its *home*, which follows from the mark alone (`layout`). So a
//! get asks for the lines around the home before it has seen any of the page ([`around_home`]), and mostly finds its
//! record among them: one wait for memory instead of two. Slots say where a record really is: the home is a guess that
//! nothing else relies on. The gaps are zero, so that images compress.
//!
//! Integers are little-endian.

use super::layout::make_room;
use super::way::Place;
use super::{set_u16, u16_at};
use crate::kind::{Handle, Value};
use std::ops::Range;

pub(crate) use super::layout::{build_joined, build_some, fold, init, keep_some, unfold};

pub(super) const COUNT_AT: usize = 0;
pub(super) const USED_AT: usize = COUNT_AT + 2;
pub(super) const LONGEST_AT: usize = USED_AT + 2;
pub(super) const BITS_AT: usize = LONGEST_AT + 2;
pub(super) const PREFIX_AT: usize = BITS_AT + 2;
pub(super) const HEADER_BYTES: usize = PREFIX_AT + 8;
const _: () = assert!(HEADER_BYTES == 16);
pub(super) const MARK_BYTES: usize = 2;
/// Marks that a search compares at once.
const AROUND: usize = 32;
pub(super) const SLOT_BYTES: usize = 2;
pub(super) const RECORD_HEADER_BYTES: usize = 4;
pub(super) const OVERFLOW_BIT: usize = 1 << 15;
pub(super) const TOMBSTONE_BIT: usize = 1 << 14;
pub(super) const FLAGS: usize = OVERFLOW_BIT | TOMBSTONE_BIT;
/// In `bits`.
pub(super) const FRONT_BIT: usize = 1 << 15;

/// Homes are spread over a body behind this fraction of it, where marks and slots are, as a rule.
const FRONT_SHARE: usize = 16;
/// How far before and behind a home a get looks ahead: most records that are not longer lie there, if a bucket is
/// not almost full. (With 128 a get of 100 bytes in buckets nine tenths full takes 3 % longer; with 256 it is not faster, and
/// absent keys take 3 % longer.)
const HOME_BYTES: usize = 192;
/// Lines of a record that are asked for at once.
const RECORD_AHEAD_BYTES: usize = 512;

/// Where the middle of a record would best be, in a body of `body_bytes`.
#[inline]
pub(super) fn home(mark: u16, body_bytes: usize) -> usize {
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
pub(super) fn slots_at(count: usize) -> usize {
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
        let bits = u32::try_from(u16_at(self.body, BITS_AT) & !FRONT_BIT).expect("15 bits");
        let prefix = self.body[PREFIX_AT..].first_chunk().expect("inside the header");
        Place { bits, prefix: u64::from_le_bytes(*prefix), front: self.is_front() }
    }
    /// True if it belongs to a front.
    #[inline]
    pub(crate) fn is_front(self) -> bool {
        u16_at(self.body, BITS_AT) & FRONT_BIT != 0
    }
    #[inline]
    pub(super) fn marks(self) -> &'a [[u8; MARK_BYTES]] {
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
        let value = match value_bytes & FLAGS {
            0 => Value::Inline(&rest[..value_bytes]),
            OVERFLOW_BIT => {
                Value::Overflow(*rest.first_chunk().expect("checked: a handle follows"))
            }
            _ => Value::Tombstone,
        };
        (key, value)
    }
    pub(crate) fn key(self, i: usize) -> &'a [u8] {
        let at = self.slot(i);
        &self.body[at + RECORD_HEADER_BYTES..][..u16_at(self.body, at)]
    }
    /// All slots.
    #[inline]
    pub(super) fn slots(self) -> impl Iterator<Item = usize> {
        let slots = &self.body[slots_at(self.count)..front_bytes(self.count)];
        slots.as_chunks().0.iter().map(|slot| usize::from(u16::from_le_bytes(*slot)))
    }
    /// The bytes of row `i` in the heap.
    pub(super) fn record(self, i: usize) -> &'a [u8] {
        let at = self.slot(i);
        let value_bytes = u16_at(self.body, at + 2) & !FLAGS;
        &self.body[at..at + RECORD_HEADER_BYTES + u16_at(self.body, at) + value_bytes]
    }

    /// The first row with this mark or a larger one.
    #[inline]
    pub(super) fn lower_bound(self, mark: u16) -> usize {
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
            ask(at..at + self.longest().min(RECORD_AHEAD_BYTES));
            if self.key(i) == key {
                return Some(i);
            }
            i += 1;
        }
        None
    }

    /// No record has more bytes.
    #[inline]
    pub(super) fn longest(self) -> usize {
        match u16_at(self.body, LONGEST_AT) {
            0 => self.body.len(),
            longest => longest,
        }
    }
    /// The bytes of every record, if it is known that they are the same.
    #[inline]
    pub(super) fn each(self) -> Option<usize> {
        let longest = self.longest();
        (self.count > 0 && self.records_bytes() == self.count * longest).then_some(longest)
    }
    pub(super) fn body_bytes(self) -> usize {
        self.body.len()
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

fn write_record(body: &mut [u8], at: usize, key: &[u8], value: &Value<'_>) {
    let (bytes, flag): (&[u8], usize) = match value {
        Value::Inline(value) => (value, 0),
        Value::Overflow(handle) => (handle, OVERFLOW_BIT),
        Value::Tombstone => (&[], TOMBSTONE_BIT),
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
    let at = make_room(body, mark, bytes);
    write_record(body, at, key, value);
    let bucket = Bucket::new(body);
    let (count, used, i) = (bucket.len(), bucket.records_bytes(), bucket.lower_bound(mark));
    let longest = match (count, u16_at(body, LONGEST_AT)) {
        (0, _) => bytes,
        // Not known.
        (_, 0) => 0,
        (_, longest) => longest.max(bytes),
    };
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
    set_u16(body, LONGEST_AT, longest);
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
    let used = bucket.records_bytes() - old_bytes + new_bytes;
    write_record(body, at, key, value);
    body[at + new_bytes..at + old_bytes].fill(0);
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

/// Calls `visit` with the handle of every value that lies outside this bucket.
pub(crate) fn handles(body: &[u8], visit: &mut dyn FnMut(Handle)) {
    let bucket = Bucket::new(body);
    for i in 0..bucket.len() {
        if let (_, Value::Overflow(handle)) = bucket.row(i) {
            visit(handle);
        }
    }
}
