//! Leaves as images hold them ([`Fold::Leaf`](crate::fold::Fold::Leaf)).
//!
//! ```text
//! 0        2      4     6           8            10
//! | count  | last | run | low bytes | high bytes | low fence | high fence | rows, with their keys after the prefix
//! ```
//!
//! What the numbers are: [`leaf`](super::leaf).

use super::leaf::{
    Builder, COUNT_AT, ENTRY_BYTES, FLAGS, HEAD_BYTES, HEADER_BYTES, HIGH_AT, LAST_AT, LOW_AT,
    Leaf, NO_HIGH, RECORD_HEADER_BYTES, RUN_AT,
};
use super::{set_u16, u16_at};
use crate::fold::{Rows, push_rows};
use esker_base::codec::head32;

const FOLD_HEADER_BYTES: usize = 10;

/// Appends what there is to know of a leaf. Returns how many bytes of the page are taken.
pub(crate) fn fold(body: &[u8], out: &mut Vec<u8>) -> usize {
    let leaf = Leaf::new(body);
    for at in [COUNT_AT, LAST_AT, RUN_AT, LOW_AT, HIGH_AT] {
        out.extend_from_slice(&body[at..at + 2]);
    }
    out.extend_from_slice(leaf.low());
    out.extend_from_slice(leaf.high().unwrap_or_default());
    let row = |i| {
        let record = &body[leaf.slot(i)..];
        let (key_bytes, word) = (u16_at(record, 0), u16_at(record, 2));
        let (key, rest) = record[RECORD_HEADER_BYTES..].split_at(key_bytes);
        (key, word, &rest[..word & !FLAGS])
    };
    push_rows(leaf.len(), row, out);
    leaf.used_bytes()
}

/// Lays out a leaf anew: records in the order of their keys.
///
/// # Errors
/// What is wrong with the fold. [`check_leaf`](super::check_leaf) must see what comes of it.
pub(crate) fn unfold(folded: &[u8], body: &mut [u8]) -> Result<(), String> {
    let short = || format!("{} bytes are no leaf", folded.len());
    let (numbers, rest) = folded.split_first_chunk::<FOLD_HEADER_BYTES>().ok_or_else(short)?;
    let [count, last, run, low, high] = [0, 2, 4, 6, 8].map(|at| u16_at(numbers, at));
    let (low, rest) = rest.split_at_checked(low).ok_or_else(short)?;
    let high_bytes = if high == NO_HIGH { 0 } else { high };
    let (high_fence, rest) = rest.split_at_checked(high_bytes).ok_or_else(short)?;
    let high = (high != NO_HIGH).then_some(high_fence);
    let rows = Rows::new(rest, count, !FLAGS & 0xffff)?;
    let front = HEADER_BYTES + count * ENTRY_BYTES;
    let records_bytes = count * RECORD_HEADER_BYTES + rows.bytes();
    let heap = (body.len().min(1 << 15))
        .checked_sub(low.len() + high_bytes + records_bytes)
        .filter(|heap| *heap >= front)
        .ok_or_else(|| format!("{count} rows do not fit a leaf of {} bytes", body.len()))?;
    let mut builder = Builder::new(body, count, low, high);
    builder.body[front..heap].fill(0);
    let (entries, records) = builder.body.split_at_mut(heap);
    let (heads, slots) = entries[HEADER_BYTES..front].split_at_mut(count * HEAD_BYTES);
    let heads = heads.as_chunks_mut::<HEAD_BYTES>().0.iter_mut();
    let slots = slots.as_chunks_mut::<2>().0.iter_mut();
    let (mut at, mut target) = (heap, records);
    for (((key, word, value), head), slot) in rows.iter().zip(heads).zip(slots) {
        let (record, more) = target.split_at_mut(RECORD_HEADER_BYTES + key.len() + value.len());
        set_u16(record, 0, key.len());
        set_u16(record, 2, word);
        record[RECORD_HEADER_BYTES..][..key.len()].copy_from_slice(key);
        record[RECORD_HEADER_BYTES + key.len()..].copy_from_slice(value);
        *head = head32(key).to_le_bytes();
        *slot = u16::try_from(at).expect("offsets in a page have 16 bits").to_le_bytes();
        at += record.len();
        target = more;
    }
    (builder.done, builder.heap) = (count, heap);
    builder.finish();
    set_u16(body, LAST_AT, last);
    set_u16(body, RUN_AT, run);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::leaf::{init, insert, overflow_handles, remove, replace};
    use super::*;
    use crate::btree::check_leaf;
    use crate::kind::Value;

    /// Rows put at random, some replaced and removed.
    fn leaf(content_bytes: usize, high: Option<&[u8]>) -> Vec<u8> {
        let mut body = vec![0xa5; content_bytes];
        init(&mut body, b"key-000", high);
        for n in 0..1000u32 {
            let random = n.wrapping_mul(2_654_435_761) >> 8;
            let key = format!("key-{:03}{}", random % 500, "x".repeat(random as usize % 9));
            let value = vec![n.to_le_bytes()[0]; (random >> 9) as usize % (content_bytes / 16)];
            let value = match n % 11 {
                0 => Value::Overflow([7; crate::kind::HANDLE_BYTES]),
                1 => Value::Tombstone,
                _ => Value::Inline(&value),
            };
            let leaf = Leaf::new(&body);
            let at = leaf.search(key.as_bytes());
            if leaf.growth_bytes(at, key.as_bytes(), &value) > leaf.free_bytes() {
                if let Ok(i) = at {
                    remove(&mut body, i);
                }
                continue;
            }
            match at {
                Ok(i) => replace(&mut body, i, key.as_bytes(), &value),
                Err(i) => insert(&mut body, i, key.as_bytes(), &value),
            }
        }
        body
    }

    #[test]
    fn leaves_come_back_and_cut_folds_do_not() {
        for (content_bytes, high) in [(1000, None), (1000, Some(&b"key-5"[..])), (8128, None)] {
            let body = leaf(content_bytes, high);
            check_leaf(&body, true).unwrap();
            let (mut folded, mut again) = (Vec::new(), vec![0x5a; content_bytes]);
            assert_eq!(fold(&body, &mut folded), Leaf::new(&body).used_bytes());
            unfold(&folded, &mut again).unwrap();
            check_leaf(&again, true).unwrap();
            let (old, new) = (Leaf::new(&body), Leaf::new(&again));
            assert!(old.len() > 3, "{} rows", old.len());
            assert_eq!((old.low(), old.high(), old.len()), (new.low(), new.high(), new.len()));
            assert!((0..old.len()).all(|i| old.row(i) == new.row(i)), "rows come back");
            assert_eq!(new.free_bytes(), new.gap_bytes(), "and nothing else");
            let mut handles = [0; 2];
            overflow_handles(&body, &mut |_| handles[0] += 1);
            overflow_handles(&again, &mut |_| handles[1] += 1);
            assert_eq!(handles[0], handles[1]);
            for at in [LAST_AT, RUN_AT] {
                assert_eq!(u16_at(&body, at), u16_at(&again, at), "hints at {at}");
            }
            let less = new.used_bytes() - 1;
            for cut in 0..folded.len() {
                assert!(unfold(&folded[..cut], &mut again).is_err(), "cut after {cut} bytes");
            }
            assert!(unfold(&folded, &mut vec![0; less]).is_err(), "a page that is too small");
        }
    }
}
