//! The body of a page: slots grow up, rows grow down.
//!
//! ```text
//!  0       2      4     8
//! | count | rows | zero | slot: head u32, row u16, row bytes u16 | ... hole ... | row: key, value ... |
//! ```
//! `rows` is where the lowest row begins. Slots are in the order of keys. The *head* is the first four
//! bytes of the key (with zeroes behind a shorter one) as a number, so that most steps of a search look
//! at the slots only. In a branch values are empty, and row `i` is the shortest string that tells what
//! child `i` may hold from what is before it.

use crate::rows::KEY_BYTES;
use std::cmp::Ordering;
use std::ops::Range;

const ROWS_AT: usize = 2;
const SLOTS_AT: usize = 8;
/// Bytes of a slot.
pub(crate) const SLOT_BYTES: usize = 8;

fn u16_at(body: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([body[at], body[at + 1]]))
}

fn set_u16(body: &mut [u8], at: usize, value: usize) {
    let value = u16::try_from(value).expect("offsets in a page have 16 bits");
    body[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

/// Makes an empty page.
pub(crate) fn clear(body: &mut [u8]) {
    body[..SLOTS_AT].fill(0);
    set_u16(body, ROWS_AT, body.len());
}

/// Number of rows.
pub(crate) fn count(body: &[u8]) -> usize {
    u16_at(body, 0)
}

/// Key and value in slot `i`.
#[inline]
fn row(body: &[u8], i: usize) -> (&[u8], &[u8]) {
    let slot = SLOTS_AT + i * SLOT_BYTES;
    let (at, bytes) = (u16_at(body, slot + 4), u16_at(body, slot + 6));
    body[at..at + bytes].split_at(bytes.min(KEY_BYTES))
}

/// The least key.
pub(crate) fn first_key(body: &[u8]) -> &[u8] {
    row(body, 0).0
}

/// The shortest string above all keys in `left` and not above those in `right`.
pub(crate) fn separator(left: &[u8], right: &[u8]) -> Vec<u8> {
    let (below, first) = (row(left, count(left) - 1).0, first_key(right));
    let common = below.iter().zip(first).take_while(|(a, b)| a == b).count();
    first[..=common].to_vec()
}

fn head_of(key: &[u8]) -> u32 {
    if let [a, b, c, d, ..] = *key {
        return u32::from_be_bytes([a, b, c, d]);
    }
    (0..4).fold(0, |head, i| head << 8 | u32::from(key.get(i).copied().unwrap_or(0)))
}

/// How many rows are not above `key`.
#[inline]
pub(crate) fn rank(body: &[u8], key: &[u8]) -> usize {
    let wanted = head_of(key);
    let (mut low, mut left) = (0, count(body));
    while left > 0 {
        let half = left / 2;
        let slot = SLOTS_AT + (low + half) * SLOT_BYTES;
        let head = u32::from_le_bytes(body[slot..slot + 4].try_into().expect("four bytes"));
        let not_above = match head.cmp(&wanted) {
            Ordering::Less => true,
            Ordering::Greater => false,
            Ordering::Equal => row(body, low + half).0 <= key,
        };
        (low, left) = if not_above { (low + half + 1, left - half - 1) } else { (low, half) };
    }
    low
}

/// Copies the value of `key` out. False if it is not there.
#[inline]
pub(crate) fn get(body: &[u8], key: &[u8], value: &mut [u8]) -> bool {
    let Some(at) = rank(body, key).checked_sub(1) else { return false };
    let (found, bytes) = row(body, at);
    value[..bytes.len()].copy_from_slice(bytes);
    found == key
}

/// True if another row of `bytes` fits.
pub(crate) fn has_room(body: &[u8], bytes: usize) -> bool {
    let slots_end = SLOTS_AT + (count(body) + 1) * SLOT_BYTES;
    slots_end + bytes <= u16_at(body, ROWS_AT)
}

/// Inserts a row, for which there is room and whose key is not there yet.
pub(crate) fn insert(body: &mut [u8], key: &[u8], value: &[u8]) {
    let (count, rank) = (count(body), rank(body, key));
    let end = u16_at(body, ROWS_AT);
    let at = end - key.len() - value.len();
    body[at..at + key.len()].copy_from_slice(key);
    body[at + key.len()..end].copy_from_slice(value);
    let slot = SLOTS_AT + rank * SLOT_BYTES;
    body.copy_within(slot..SLOTS_AT + count * SLOT_BYTES, slot + SLOT_BYTES);
    body[slot..slot + 4].copy_from_slice(&head_of(key).to_le_bytes());
    set_u16(body, slot + 4, at);
    set_u16(body, slot + 6, end - at);
    set_u16(body, ROWS_AT, at);
    set_u16(body, 0, count + 1);
}

/// Moves all but the lower half of the rows into `right`. Both end up without gaps.
pub(crate) fn split(body: &mut [u8], right: &mut [u8]) {
    let old = body.to_vec();
    let half = count(&old) / 2;
    let fill = |to: &mut [u8], rows: Range<usize>| {
        clear(to);
        for (key, value) in rows.map(|i| row(&old, i)) {
            insert(to, key, value);
        }
    };
    fill(body, 0..half);
    fill(right, half..count(&old));
}

/// What of a leaf goes to disk: all but the hole.
pub(crate) fn image(body: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&body[..SLOTS_AT + count(body) * SLOT_BYTES]);
    out.extend_from_slice(&body[u16_at(body, ROWS_AT)..]);
}
