//! Leaf pages.
//!
//! ```text
//!  0       2      4        6          8           10       12     14    16
//! | count | heap | garbage| low bytes| high bytes | prefix | last | run |
//! 16
//! | heads: count × u32 | slots: count × u16 | free ... | heap ... | high fence | low fence |
//!                                                      ↑ heap
//! record = key bytes u16 | value bytes u16 | key without prefix | value
//! ```
//!
//! All keys of a leaf begin with what its fences have in common; that *prefix* is not repeated: it is the
//! first `prefix` bytes of the low fence. A *head* is the four bytes of a key after the prefix, as a number that
//! orders like the key. A slot is the offset of a record. `high bytes` is 0xFFFF if there is no
//! upper fence. Bit 15 of a record's `value bytes` says that the value is a handle of 24 bytes, bit 14 that it is a
//! tombstone, without bytes (in fractal tables only).
//! `garbage` is what removed records left in the heap. `last` and `run` are hints for splits: where the last
//! insert went, and how many before it went one place further each time.
//!
//! Integers are little-endian.

use super::{common_bytes, set_u16, u16_at};
use crate::kind::{HANDLE_BYTES, Handle, Value, max_inline_value_bytes, max_key_bytes};
use esker_base::codec::head32;
use std::cell::RefCell;
use std::cmp::Ordering;
use std::ops::Range;

pub(super) const COUNT_AT: usize = 0;
pub(super) const HEAP_AT: usize = COUNT_AT + 2;
const GARBAGE_AT: usize = HEAP_AT + 2;
pub(super) const LOW_AT: usize = GARBAGE_AT + 2;
pub(super) const HIGH_AT: usize = LOW_AT + 2;
const PREFIX_AT: usize = HIGH_AT + 2;
pub(super) const LAST_AT: usize = PREFIX_AT + 2;
pub(super) const RUN_AT: usize = LAST_AT + 2;
pub(crate) const HEADER_BYTES: usize = RUN_AT + 2;
const _: () = assert!(HEADER_BYTES == 16);
pub(super) const HEAD_BYTES: usize = 4;
/// Head and slot of a row.
pub(crate) const ENTRY_BYTES: usize = HEAD_BYTES + 2;
pub(crate) const RECORD_HEADER_BYTES: usize = 4;
pub(super) const NO_HIGH: usize = 0xffff;
const OVERFLOW_BIT: usize = 1 << 15;
const TOMBSTONE_BIT: usize = 1 << 14;
pub(super) const FLAGS: usize = OVERFLOW_BIT | TOMBSTONE_BIT;

thread_local! {
    /// Where a leaf is laid out anew before it replaces the old layout.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A leaf, to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leaf<'a> {
    body: &'a [u8],
    count: usize,
    pub(super) prefix_bytes: usize,
}

impl<'a> Leaf<'a> {
    /// A body that [`check_leaf`] has accepted, or that this module has made.
    #[inline]
    pub(crate) fn new(body: &'a [u8]) -> Self {
        Self { body, count: u16_at(body, COUNT_AT), prefix_bytes: u16_at(body, PREFIX_AT) }
    }
    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.count
    }
    fn low_bytes(&self) -> usize {
        u16_at(self.body, LOW_AT)
    }
    /// The lower fence, included.
    pub(crate) fn low(&self) -> &'a [u8] {
        &self.body[self.body.len() - self.low_bytes()..]
    }
    /// The upper fence, excluded.
    pub(crate) fn high(&self) -> Option<&'a [u8]> {
        let bytes = u16_at(self.body, HIGH_AT);
        if bytes == NO_HIGH {
            return None;
        }
        let end = self.body.len() - self.low_bytes();
        Some(&self.body[end - bytes..end])
    }
    /// What all keys begin with.
    pub(crate) fn prefix(&self) -> &'a [u8] {
        &self.low()[..self.prefix_bytes]
    }
    #[inline]
    fn heads(&self) -> &'a [[u8; HEAD_BYTES]] {
        let (heads, _) =
            self.body[HEADER_BYTES..HEADER_BYTES + self.count * HEAD_BYTES].as_chunks();
        heads
    }
    #[inline]
    pub(super) fn slot(&self, i: usize) -> usize {
        u16_at(self.body, HEADER_BYTES + self.count * HEAD_BYTES + i * 2)
    }
    /// The key after the prefix, and the value.
    #[inline]
    pub(crate) fn row(&self, i: usize) -> (&'a [u8], Value<'a>) {
        let record = &self.body[self.slot(i)..];
        let (key_bytes, value_bytes) = (u16_at(record, 0), u16_at(record, 2));
        let (key, rest) = record[RECORD_HEADER_BYTES..].split_at(key_bytes);
        (key, value_of(value_bytes, rest))
    }
    #[inline]
    fn suffix(&self, i: usize) -> &'a [u8] {
        let at = self.slot(i);
        let bytes = u16_at(self.body, at);
        &self.body[at + RECORD_HEADER_BYTES..at + RECORD_HEADER_BYTES + bytes]
    }
    /// The whole key.
    pub(crate) fn key(&self, i: usize) -> Vec<u8> {
        [self.prefix(), self.suffix(i)].concat()
    }
    /// Bytes of a record in the heap.
    fn record_bytes(&self, i: usize) -> usize {
        let at = self.slot(i);
        let value_bytes = u16_at(self.body, at + 2) & !FLAGS;
        RECORD_HEADER_BYTES + u16_at(self.body, at) + value_bytes
    }

    /// Where a key is, or where it would go. The key lies between the fences.
    #[inline]
    pub(crate) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        debug_assert!(self.low() <= key && self.high().is_none_or(|high| key < high), "B1");
        let Some(suffix) = key.get(self.prefix_bytes..) else { return Err(0) };
        self.search_suffix(suffix)
    }

    #[inline]
    fn search_suffix(&self, suffix: &[u8]) -> Result<usize, usize> {
        let head = head32(suffix);
        let heads = self.heads();
        let mut from = heads.partition_point(|other| u32::from_le_bytes(*other) < head);
        // As a rule at most one head is the same.
        let mut to = from;
        while to < heads.len() && u32::from_le_bytes(heads[to]) == head {
            to += 1;
        }
        while from < to {
            let middle = usize::midpoint(from, to);
            match self.suffix(middle).cmp(suffix) {
                Ordering::Equal => return Ok(middle),
                Ordering::Less => from = middle + 1,
                Ordering::Greater => to = middle,
            }
        }
        Err(from)
    }

    /// Rows with keys below `key`, which may lie outside the fences.
    pub(crate) fn lower_bound(&self, key: &[u8]) -> usize {
        let prefix = self.prefix();
        match key.get(..prefix.len()).unwrap_or(key).cmp(prefix) {
            Ordering::Less => 0,
            Ordering::Greater => self.count,
            Ordering::Equal => {
                self.search_suffix(&key[prefix.len()..]).unwrap_or_else(|place| place)
            }
        }
    }

    pub(super) fn gap_bytes(&self) -> usize {
        u16_at(self.body, HEAP_AT) - HEADER_BYTES - self.count * ENTRY_BYTES
    }
    /// Bytes that rows may still take, after compaction.
    pub(crate) fn free_bytes(&self) -> usize {
        self.gap_bytes() + u16_at(self.body, GARBAGE_AT)
    }
    /// Bytes that rows, fences and header take.
    pub(crate) fn used_bytes(&self) -> usize {
        self.body.len() - self.free_bytes()
    }
    /// Bytes that a new row takes.
    pub(crate) fn need_bytes(&self, key: &[u8], value: &Value<'_>) -> usize {
        ENTRY_BYTES + RECORD_HEADER_BYTES + key.len() - self.prefix_bytes + value.stored_bytes()
    }
    /// Bytes that putting a row takes beyond what is free in the row it replaces.
    pub(crate) fn growth_bytes(
        &self,
        at: Result<usize, usize>,
        key: &[u8],
        value: &Value<'_>,
    ) -> usize {
        let need = self.need_bytes(key, value);
        match at {
            Ok(i) => need.saturating_sub(ENTRY_BYTES + self.record_bytes(i)),
            Err(_) => need,
        }
    }
    /// The bytes that putting a row will write, but for head and slot; if the leaf is compacted first, others.
    #[inline]
    pub(crate) fn place_of(
        &self,
        at: Result<usize, usize>,
        key: &[u8],
        value: &Value<'_>,
    ) -> Range<usize> {
        if let Ok(i) = at {
            return self.slot(i)..self.slot(i) + self.record_bytes(i);
        }
        let heap = u16_at(self.body, HEAP_AT);
        heap.saturating_sub(self.need_bytes(key, value) - ENTRY_BYTES)..heap
    }
    /// True if the last inserts went up one place at a time and the next one at `i` goes on so.
    pub(crate) fn is_ascending(&self, i: usize) -> bool {
        const RUN_MIN: usize = 6;
        let run = u16_at(self.body, RUN_AT);
        (run >= RUN_MIN || run + 1 >= self.count) && u16_at(self.body, LAST_AT) + 1 == i
    }

    /// Bytes of a leaf that holds some of these rows between other fences.
    pub(crate) fn bytes_between(
        &self,
        rows: Range<usize>,
        low: &[u8],
        high: Option<&[u8]>,
    ) -> usize {
        let prefix = high.map_or(0, |high| common_bytes(low, high));
        let rows_bytes: usize =
            rows.map(|i| ENTRY_BYTES + self.record_bytes(i) + self.prefix_bytes - prefix).sum();
        HEADER_BYTES + low.len() + high.map_or(0, <[u8]>::len) + rows_bytes
    }
}

/// Where the slots of a leaf begin.
pub(crate) fn slots_at(body: &[u8]) -> usize {
    HEADER_BYTES + u16_at(body, COUNT_AT) * HEAD_BYTES
}

/// The row of the slot at `slot_at`: key after the prefix, all bytes from the key on, value.
#[inline]
pub(crate) fn row_at(body: &[u8], slot_at: usize) -> (&[u8], &[u8], Value<'_>) {
    let record = &body[u16_at(body, slot_at)..];
    let (head, rest) = record.split_first_chunk::<RECORD_HEADER_BYTES>().expect("checked");
    let (key_bytes, value_bytes) = (u16_at(head, 0), u16_at(head, 2));
    let (key, after) = rest.split_at(key_bytes);
    (key, rest, value_of(value_bytes, after))
}

/// The value that `value_bytes` of a record announces, at the start of `rest`.
#[inline]
fn value_of(value_bytes: usize, rest: &[u8]) -> Value<'_> {
    match value_bytes & FLAGS {
        0 => Value::Inline(&rest[..value_bytes]),
        OVERFLOW_BIT => Value::Overflow(*rest.first_chunk().expect("checked: a handle follows")),
        _ => Value::Tombstone,
    }
}

/// Fills a leaf from front to back.
pub(super) struct Builder<'b> {
    pub(super) body: &'b mut [u8],
    rows: usize,
    pub(super) done: usize,
    pub(super) heap: usize,
    prefix_bytes: usize,
}

impl<'b> Builder<'b> {
    /// A leaf that will have `rows` rows between these fences.
    pub(super) fn new(body: &'b mut [u8], rows: usize, low: &[u8], high: Option<&[u8]>) -> Self {
        let low_at = body.len() - low.len();
        body[low_at..].copy_from_slice(low);
        let heap = low_at - high.map_or(0, <[u8]>::len);
        body[heap..low_at].copy_from_slice(high.unwrap_or_default());
        let prefix_bytes = high.map_or(0, |high| common_bytes(low, high));
        set_u16(body, COUNT_AT, rows);
        set_u16(body, GARBAGE_AT, 0);
        set_u16(body, LOW_AT, low.len());
        set_u16(body, HIGH_AT, high.map_or(NO_HIGH, <[u8]>::len));
        set_u16(body, PREFIX_AT, prefix_bytes);
        set_u16(body, LAST_AT, 0);
        set_u16(body, RUN_AT, 0);
        Self { body, rows, done: 0, heap, prefix_bytes }
    }

    /// Copies rows of another leaf that lie between the fences.
    fn copy(&mut self, from: Leaf<'_>, rows: Range<usize>) {
        let from_prefix = from.prefix();
        for i in rows {
            let record = &from.body[from.slot(i)..][..from.record_bytes(i)];
            let suffix_bytes = u16_at(record, 0);
            let (add, skip): (&[u8], usize) = if self.prefix_bytes >= from_prefix.len() {
                (&[], self.prefix_bytes - from_prefix.len())
            } else {
                (&from_prefix[self.prefix_bytes..], 0)
            };
            let rest = &record[RECORD_HEADER_BYTES + skip..];
            self.heap -= RECORD_HEADER_BYTES + add.len() + rest.len();
            let at = self.heap;
            set_u16(self.body, at, add.len() + suffix_bytes - skip);
            self.body[at + 2..at + 4].copy_from_slice(&record[2..4]);
            let key_at = at + RECORD_HEADER_BYTES;
            self.body[key_at..key_at + add.len()].copy_from_slice(add);
            self.body[key_at + add.len()..][..rest.len()].copy_from_slice(rest);
            let head = head32(&self.body[key_at..key_at + add.len() + suffix_bytes - skip]);
            let head_at = HEADER_BYTES + self.done * HEAD_BYTES;
            self.body[head_at..head_at + HEAD_BYTES].copy_from_slice(&head.to_le_bytes());
            set_u16(self.body, HEADER_BYTES + self.rows * HEAD_BYTES + self.done * 2, at);
            self.done += 1;
        }
    }

    pub(super) fn finish(self) {
        assert_eq!(self.done, self.rows, "as many rows as announced");
        assert!(HEADER_BYTES + self.rows * ENTRY_BYTES <= self.heap, "B3: it fits");
        set_u16(self.body, HEAP_AT, self.heap);
    }
}

/// Makes an empty leaf.
pub(crate) fn init(body: &mut [u8], low: &[u8], high: Option<&[u8]>) {
    Builder::new(body, 0, low, high).finish();
}

/// Makes a leaf of rows of others, in order, between new fences.
pub(crate) fn build(
    body: &mut [u8],
    low: &[u8],
    high: Option<&[u8]>,
    parts: &[(Leaf<'_>, Range<usize>)],
) {
    let rows = parts.iter().map(|(_, rows)| rows.len()).sum();
    let mut builder = Builder::new(body, rows, low, high);
    for (leaf, rows) in parts {
        builder.copy(*leaf, rows.clone());
    }
    builder.finish();
}

/// Lays `parts` out and copies the result over `body`, which `parts` may borrow a copy of.
fn relayout(body: &mut [u8], make: impl FnOnce(Leaf<'_>, &mut [u8])) {
    SCRATCH.with_borrow_mut(|scratch| {
        scratch.clear();
        scratch.extend_from_slice(body);
        make(Leaf::new(scratch), body);
    });
}

/// Keeps some rows of a leaf, between new fences, and drops the rest.
pub(crate) fn keep_rows(body: &mut [u8], rows: Range<usize>, low: &[u8], high: Option<&[u8]>) {
    relayout(body, |old, body| build(body, low, high, &[(old, rows)]));
}

/// Squeezes the garbage out.
pub(super) fn compact(body: &mut [u8]) {
    relayout(body, |old, body| {
        let (last, run) = (u16_at(body, LAST_AT), u16_at(body, RUN_AT));
        build(body, old.low(), old.high(), &[(old, 0..old.len())]);
        set_u16(body, LAST_AT, last);
        set_u16(body, RUN_AT, run);
    });
}

/// The bytes of a value, and its flag.
#[inline]
fn stored<'v>(value: &'v Value<'_>) -> (&'v [u8], usize) {
    match value {
        Value::Inline(value) => (value, 0),
        Value::Overflow(handle) => (handle, OVERFLOW_BIT),
        Value::Tombstone => (&[], TOMBSTONE_BIT),
    }
}

/// Appends a row to `records`, as in a heap but with its whole key.
#[inline]
pub(crate) fn push_record(records: &mut Vec<u8>, key: &[u8], value: &Value<'_>) {
    let (bytes, flag) = stored(value);
    let mut header = [0; RECORD_HEADER_BYTES];
    set_u16(&mut header, 0, key.len());
    set_u16(&mut header, 2, bytes.len() | flag);
    records.extend_from_slice(&header);
    records.extend_from_slice(key);
    records.extend_from_slice(bytes);
}

/// The key of a record with its whole key.
pub(crate) fn record_key(record: &[u8]) -> &[u8] {
    &record[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + u16_at(record, 0)]
}

/// Makes a leaf of records with whole keys, which stand one after the other and begin at `starts`.
pub(crate) fn build_of_records(
    body: &mut [u8],
    low: &[u8],
    high: Option<&[u8]>,
    records: &[u8],
    starts: &[u32],
) {
    let rows = starts.len();
    let mut builder = Builder::new(body, rows, low, high);
    let prefix = builder.prefix_bytes;
    let (front, heap) =
        builder.body[..builder.heap].split_at_mut(HEADER_BYTES + rows * ENTRY_BYTES);
    let records_bytes = records.len() - rows * prefix;
    let mut at = front.len() + heap.len().checked_sub(records_bytes).expect("B3: it fits");
    builder.heap = at;
    let mut target = &mut heap[at - front.len()..];
    let (heads, slots) = front[HEADER_BYTES..].split_at_mut(rows * HEAD_BYTES);
    let heads = heads.as_chunks_mut::<HEAD_BYTES>().0.iter_mut();
    let slots = slots.as_chunks_mut::<2>().0.iter_mut();
    let ends = starts.iter().skip(1).map(|end| *end as usize).chain([records.len()]);
    for (((head, slot), start), end) in heads.zip(slots).zip(starts).zip(ends) {
        let record = &records[*start as usize..end];
        let (header, rest) = record.split_first_chunk::<RECORD_HEADER_BYTES>().expect("a record");
        let (key_bytes, rest) = (u16_at(header, 0) - prefix, &rest[prefix..]);
        let (to, more) = target.split_at_mut(RECORD_HEADER_BYTES + rest.len());
        set_u16(to, 0, key_bytes);
        to[2..RECORD_HEADER_BYTES].copy_from_slice(&header[2..]);
        to[RECORD_HEADER_BYTES..].copy_from_slice(rest);
        *head = head32(&rest[..key_bytes]).to_le_bytes();
        *slot = u16::try_from(at).expect("offsets in a page have 16 bits").to_le_bytes();
        at += RECORD_HEADER_BYTES + rest.len();
        target = more;
    }
    builder.done = rows;
    builder.finish();
}

pub(super) fn write_record(body: &mut [u8], at: usize, suffix: &[u8], value: &Value<'_>) {
    let (bytes, flag) = stored(value);
    set_u16(body, at, suffix.len());
    set_u16(body, at + 2, bytes.len() | flag);
    let key_at = at + RECORD_HEADER_BYTES;
    body[key_at..key_at + suffix.len()].copy_from_slice(suffix);
    body[key_at + suffix.len()..][..bytes.len()].copy_from_slice(bytes);
}

/// Inserts a row at `i`. There is room: `need_bytes` were free.
pub(crate) fn insert(body: &mut [u8], i: usize, key: &[u8], value: &Value<'_>) {
    let leaf = Leaf::new(body);
    let need = leaf.need_bytes(key, value);
    if leaf.gap_bytes() < need {
        compact(body);
    }
    let leaf = Leaf::new(body);
    assert!(leaf.gap_bytes() >= need, "room was made before");
    let (count, prefix) = (leaf.count, leaf.prefix_bytes);
    let suffix = &key[prefix..];
    let at = u16_at(body, HEAP_AT) - (need - ENTRY_BYTES);
    write_record(body, at, suffix, value);
    // The slots move up by one head, those from `i` on by one slot too; the heads from `i` on by one.
    let slots = HEADER_BYTES + count * HEAD_BYTES;
    let end = slots + count * 2;
    body.copy_within(slots + i * 2..end, slots + i * 2 + ENTRY_BYTES);
    body.copy_within(slots..slots + i * 2, slots + HEAD_BYTES);
    let head_at = HEADER_BYTES + i * HEAD_BYTES;
    body.copy_within(head_at..slots, head_at + HEAD_BYTES);
    body[head_at..head_at + HEAD_BYTES].copy_from_slice(&head32(suffix).to_le_bytes());
    set_u16(body, slots + HEAD_BYTES + i * 2, at);
    set_u16(body, COUNT_AT, count + 1);
    set_u16(body, HEAP_AT, at);
    let (last, run) = (u16_at(body, LAST_AT), u16_at(body, RUN_AT));
    set_u16(body, RUN_AT, if last + 1 == i { (run + 1).min(0xffff) } else { 0 });
    set_u16(body, LAST_AT, i);
}

/// Gives row `i` another value. There is room: `growth_bytes` were free.
pub(crate) fn replace(body: &mut [u8], i: usize, key: &[u8], value: &Value<'_>) {
    let leaf = Leaf::new(body);
    let (at, old_bytes) = (leaf.slot(i), leaf.record_bytes(i));
    let new_bytes = leaf.need_bytes(key, value) - ENTRY_BYTES;
    let suffix = &key[leaf.prefix_bytes..];
    if new_bytes <= old_bytes {
        write_record(body, at, suffix, value);
        let garbage = u16_at(body, GARBAGE_AT) + old_bytes - new_bytes;
        set_u16(body, GARBAGE_AT, garbage);
        return;
    }
    remove(body, i);
    let (last, run) = (u16_at(body, LAST_AT), u16_at(body, RUN_AT));
    insert(body, i, key, value);
    set_u16(body, LAST_AT, last);
    set_u16(body, RUN_AT, run);
}

/// Removes row `i`.
pub(crate) fn remove(body: &mut [u8], i: usize) {
    let leaf = Leaf::new(body);
    let (at, bytes, count) = (leaf.slot(i), leaf.record_bytes(i), leaf.count);
    let slots = HEADER_BYTES + count * HEAD_BYTES;
    let head_at = HEADER_BYTES + i * HEAD_BYTES;
    body.copy_within(head_at + HEAD_BYTES..slots, head_at);
    body.copy_within(slots..slots + i * 2, slots - HEAD_BYTES);
    body.copy_within(slots + i * 2 + 2..slots + count * 2, slots - HEAD_BYTES + i * 2);
    set_u16(body, COUNT_AT, count - 1);
    if at == u16_at(body, HEAP_AT) {
        set_u16(body, HEAP_AT, at + bytes);
    } else {
        set_u16(body, GARBAGE_AT, u16_at(body, GARBAGE_AT) + bytes);
        // So that the image gets smaller with it.
        body[at..at + bytes].fill(0);
    }
}

/// The part of a leaf that holds nothing: what lies between slots and heap.
pub(super) fn hole(body: &[u8]) -> Range<usize> {
    let start = HEADER_BYTES + u16_at(body, COUNT_AT) * ENTRY_BYTES;
    start..u16_at(body, HEAP_AT)
}

/// Calls `visit` with the handle of every value that lies outside this leaf.
pub fn overflow_handles(body: &[u8], visit: &mut dyn FnMut(Handle)) {
    let leaf = Leaf::new(body);
    for i in 0..leaf.len() {
        if let (_, Value::Overflow(handle)) = leaf.row(i) {
            visit(handle);
        }
    }
}

/// Checks a leaf that came from disk, so that everything else here may rely on it. `tombstones`: it may have
/// such.
///
/// # Errors
/// What is wrong.
pub fn check_leaf(body: &[u8], tombstones: bool) -> Result<(), String> {
    if body.len() < HEADER_BYTES || body.len() > 1 << 15 {
        return Err(format!("a leaf of {} bytes", body.len()));
    }
    let (count, heap) = (u16_at(body, COUNT_AT), u16_at(body, HEAP_AT));
    let (low, high) = (u16_at(body, LOW_AT), u16_at(body, HIGH_AT));
    let key_bytes_max = max_key_bytes(body.len());
    let high_bytes = if high == NO_HIGH { 0 } else { high };
    if low > key_bytes_max || high_bytes > key_bytes_max {
        return Err(format!("fences of {low} and {high} bytes"));
    }
    let heap_end = (body.len() - HEADER_BYTES)
        .checked_sub(low + high_bytes)
        .map(|rest| HEADER_BYTES + rest)
        .ok_or("fences longer than the page")?;
    if heap > heap_end || HEADER_BYTES + count * ENTRY_BYTES > heap {
        return Err(format!("{count} rows, heap from {heap} to {heap_end}"));
    }
    let low_fence = &body[body.len() - low..];
    let high_fence = (high != NO_HIGH).then(|| &body[heap_end..heap_end + high]);
    let prefix = high_fence.map_or(0, |high| common_bytes(low_fence, high));
    if high_fence.is_some_and(|high| high <= low_fence) {
        return Err("the upper fence is not above the lower one".to_owned());
    }
    if u16_at(body, PREFIX_AT) != prefix {
        return Err(format!("prefix {}, the fences share {prefix}", u16_at(body, PREFIX_AT)));
    }
    let slots = HEADER_BYTES + count * HEAD_BYTES;
    let value_bytes_max = max_inline_value_bytes(body.len());
    let mut used = 0;
    let mut before: Option<(u32, &[u8])> = None;
    for i in 0..count {
        let at = u16_at(body, slots + i * 2);
        let record = body.get(at..heap_end).filter(|_| at >= heap);
        let record = record.filter(|record| record.len() >= RECORD_HEADER_BYTES);
        let record = record.ok_or_else(|| format!("row {i} lies outside the heap"))?;
        let (key_bytes, value) = (u16_at(record, 0), u16_at(record, 2));
        let value_bytes = value & !FLAGS;
        let value_fits = match value & FLAGS {
            0 => value_bytes <= value_bytes_max,
            OVERFLOW_BIT => value_bytes == HANDLE_BYTES,
            TOMBSTONE_BIT => value_bytes == 0 && tombstones,
            _ => false,
        };
        let bytes = RECORD_HEADER_BYTES + key_bytes + value_bytes;
        if bytes > record.len() || prefix + key_bytes > key_bytes_max || !value_fits {
            return Err(format!("row {i}: key of {key_bytes}, value of {value_bytes} bytes"));
        }
        let key = &record[RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + key_bytes];
        let head = head32(key);
        if body[HEADER_BYTES + i * HEAD_BYTES..][..HEAD_BYTES] != head.to_le_bytes() {
            return Err(format!("row {i} has another head than its key"));
        }
        // Where heads ascend, so do keys.
        if before.is_some_and(|(other, before)| other > head || other == head && before >= key) {
            return Err(format!("row {i} is not above the one before"));
        }
        before = Some((head, key));
        used += bytes;
    }
    if used + u16_at(body, GARBAGE_AT) != heap_end - heap {
        return Err(format!("{used} bytes of rows in a heap of {}", heap_end - heap));
    }
    // Keys ascend, so the first and the last tell whether all are inside.
    let leaf = Leaf::new(body);
    if count > 0 {
        let (first, last) = (leaf.suffix(0), leaf.suffix(count - 1));
        let below = first < &low_fence[prefix..];
        if below || high_fence.is_some_and(|high| last >= &high[prefix..]) {
            return Err("a row lies outside the fences".to_owned());
        }
    }
    Ok(())
}
