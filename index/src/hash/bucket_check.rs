//! Checks a bucket that came from disk.

use super::bucket::{
    Bucket, COUNT_AT, FLAGS, HEADER_BYTES, OVERFLOW_BIT, RECORD_HEADER_BYTES, TOMBSTONE_BIT,
    front_bytes, mark_of,
};
use super::way::bits_max;
use super::{Hasher, u16_at};
use crate::kind::{HANDLE_BYTES, max_inline_value_bytes, max_key_bytes};

/// Offsets have 15 bits.
const BODY_BYTES_MAX: usize = 1 << 15;

/// Which bytes belong to a record.
struct Taken([u64; BODY_BYTES_MAX / 64]);

impl Default for Taken {
    fn default() -> Self {
        Self([0; BODY_BYTES_MAX / 64])
    }
}

impl Taken {
    /// Takes bytes inside a body; false if one of them is taken.
    fn take(&mut self, at: usize, bytes: usize) -> bool {
        let (end, mut at, mut are_free) = (at + bytes, at, true);
        while at < end {
            let (word, bit) = (&mut self.0[at / 64], at % 64);
            let here = (64 - bit).min(end - at);
            let mask = (u64::MAX >> (64 - here)) << bit;
            are_free &= *word & mask == 0;
            *word |= mask;
            at += here;
        }
        are_free
    }
}

/// Checks a bucket that came from disk, so that everything else here may rely on it.
///
/// # Errors
/// What is wrong.
pub(crate) fn check_bucket(hash: Hasher, words: usize, body: &[u8]) -> Result<(), String> {
    if body.len() < HEADER_BYTES || body.len() > BODY_BYTES_MAX || words != 0 {
        return Err(format!("a bucket of {} bytes with {words} children", body.len()));
    }
    let count = u16_at(body, COUNT_AT);
    if front_bytes(count) > body.len() {
        return Err(format!("{count} rows in {} bytes", body.len()));
    }
    let bucket = Bucket::new(body);
    let place = bucket.place();
    if place.bits > u32::from(u8::MAX) * bits_max(body.len()) || !place.is_clean() {
        return Err(format!("{place:?}"));
    }
    let round = place.round();
    let (key_bytes_max, value_bytes_max) =
        (max_key_bytes(body.len()), max_inline_value_bytes(body.len()));
    let (mut used, front) = (0, front_bytes(count));
    let mut taken = Taken::default();
    for i in 0..count {
        let at = bucket.slot(i);
        let record = body.get(at..).filter(|_| at >= front);
        let record = record.filter(|record| record.len() >= RECORD_HEADER_BYTES);
        let record = record.ok_or_else(|| format!("row {i} is not inside the bucket"))?;
        let (key_bytes, value) = (u16_at(record, 0), u16_at(record, 2));
        let value_bytes = value & !FLAGS;
        let value_fits = match value & FLAGS {
            0 => value_bytes <= value_bytes_max,
            OVERFLOW_BIT => value_bytes == HANDLE_BYTES,
            TOMBSTONE_BIT => value_bytes == 0 && place.front,
            _ => false,
        };
        let bytes = RECORD_HEADER_BYTES + key_bytes + value_bytes;
        if bytes > record.len() || key_bytes > key_bytes_max || !value_fits {
            return Err(format!("row {i}: key of {key_bytes}, value of {value_bytes} bytes"));
        }
        if bytes > bucket.longest() || !taken.take(at, bytes) {
            return Err(format!("row {i} overlaps another, or is longer than the longest"));
        }
        let key = bucket.key(i);
        let first = hash.hash(key, 0);
        let last = if round == 0 { first } else { hash.hash(key, round) };
        if bucket.mark(i) != mark_of(first) || !place.covers(last) {
            return Err(format!("row {i} has another hash than its mark and its place"));
        }
        if i > 0 && bucket.mark(i - 1) > bucket.mark(i) {
            return Err(format!("row {i} is not in the order of marks"));
        }
        used += bytes;
    }
    if used != bucket.records_bytes() {
        return Err(format!("{used} bytes of rows, not {}", bucket.records_bytes()));
    }
    Ok(())
}
