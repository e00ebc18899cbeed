//! Groups that go on where a leaf ends, as sorted loads do: rows are appended together, and the leaves that they fill are made
//! by one split.

use super::branch::ENTRY_BYTES_MAX;
use super::leaf::{
    COUNT_AT, ENTRY_BYTES, HEAD_BYTES, HEADER_BYTES, HEAP_AT, LAST_AT, Leaf, RECORD_HEADER_BYTES,
    RUN_AT, compact, write_record,
};
use super::split::Cut;
use super::{pivot_between, set_u16, u16_at};
use crate::kind::{GroupWrite, GroupWrites, Value};
use esker_base::codec::head32;
use std::ops::Range;

/// Bytes that a row takes in a leaf without a prefix.
pub(crate) fn row_bytes(key: &[u8], value: &Value<'_>) -> usize {
    ENTRY_BYTES + RECORD_HEADER_BYTES + key.len() + value.stored_bytes()
}

/// Inserts `count` rows behind all others; writes without a value are passed over. Keys ascend, and there is room.
/// Returns how many rows that were. Costs a copy of the rows: slots move once.
pub(crate) fn append<'w>(
    body: &mut [u8],
    count: usize,
    write: &dyn Fn(usize) -> GroupWrite<'w>,
) -> i64 {
    let leaf = Leaf::new(body);
    let (mut rows, mut need) = (0, 0);
    for i in 0..count {
        let GroupWrite { key, value } = write(i);
        if let Some(value) = value {
            rows += 1;
            need += leaf.need_bytes(key, &value);
        }
    }
    if leaf.gap_bytes() < need {
        compact(body);
    }
    let leaf = Leaf::new(body);
    assert!(leaf.gap_bytes() >= need, "room was made before");
    let (old, prefix) = (leaf.len(), leaf.prefix_bytes);
    let mut heap = u16_at(body, HEAP_AT);
    let (slots, new_slots) =
        (HEADER_BYTES + old * HEAD_BYTES, HEADER_BYTES + (old + rows) * HEAD_BYTES);
    body.copy_within(slots..slots + old * 2, new_slots);
    let mut done = old;
    for i in 0..count {
        let GroupWrite { key, value } = write(i);
        let Some(value) = value else { continue };
        let suffix = &key[prefix..];
        heap -= RECORD_HEADER_BYTES + suffix.len() + value.stored_bytes();
        write_record(body, heap, suffix, &value);
        let head_at = HEADER_BYTES + done * HEAD_BYTES;
        body[head_at..head_at + HEAD_BYTES].copy_from_slice(&head32(suffix).to_le_bytes());
        set_u16(body, new_slots + done * 2, heap);
        done += 1;
    }
    if rows > 0 {
        let run =
            if u16_at(body, LAST_AT) + 1 == old { u16_at(body, RUN_AT) + rows } else { rows - 1 };
        set_u16(body, RUN_AT, run.min(0xffff));
        set_u16(body, LAST_AT, done - 1);
    }
    set_u16(body, COUNT_AT, done);
    set_u16(body, HEAP_AT, heap);
    i64::try_from(rows).expect("rows of a page")
}

/// After a first cut at the end of a leaf: the writes that follow inside the old fences fill new leaves. All of these are
/// made by one split, which costs a new branch, and not by one each. A leaf gets as much as fits a page whatever its fences are, and
/// about `aim_bytes` with the prefix that it will have. `leaves_max`: how many there may be, the first included.
pub(crate) fn cut_further(
    (content_bytes, aim_bytes): (usize, usize),
    leaves_max: usize,
    writes: &dyn GroupWrites,
    rest: Range<usize>,
    cuts: &mut Vec<Cut>,
) {
    let at = cuts[0].0;
    let mut pivot_bytes_left = content_bytes / 8;
    // Whatever is behind the writes belongs to the last new leaf.
    let free_of = |low: &[u8]| content_bytes - HEADER_BYTES - low.len();
    let mut free = free_of(&cuts[0].1);
    // Rows of the leaf in the making.
    let mut rows = 0;
    let mut before: Option<GroupWrite<'_>> = None;
    for i in rest {
        let write = writes.get(i);
        let need = write.value.as_ref().map_or(0, |value| row_bytes(write.key, value));
        // The upper fence is still unknown: at most a key, and mostly short.
        let is_enough = || {
            // In order to end here the upper fence will be near this key.
            let low = &cuts[cuts.len() - 1].1;
            let prefix = low.iter().zip(write.key).take_while(|(low, key)| low == key).count();
            let used = content_bytes - free + need;
            aim_bytes < content_bytes && used.saturating_sub((rows + 1) * prefix) > aim_bytes
        };
        if let Some(last) = before.as_ref()
            && (need + write.key.len() > free || is_enough())
        {
            let pivot = pivot_between(last.key, write.key);
            let Some(left) = pivot_bytes_left.checked_sub(pivot.len() + ENTRY_BYTES_MAX) else {
                return;
            };
            if cuts.len() >= leaves_max {
                return;
            }
            pivot_bytes_left = left;
            (free, rows) = (free_of(pivot), 0);
            cuts.push((at, pivot.to_vec()));
        }
        free = free.saturating_sub(need);
        rows += 1;
        before = Some(write);
    }
}

#[cfg(test)]
mod tests {
    use super::super::leaf;
    use super::*;

    /// xorshift64
    struct Rng(u64);

    impl Rng {
        fn below(&mut self, n: usize) -> usize {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            usize::try_from(self.0 % n as u64).unwrap()
        }
    }

    /// Writes of a size that is known.
    struct All<'a>(&'a [GroupWrite<'a>]);

    impl GroupWrites for All<'_> {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn get(&self, i: usize) -> GroupWrite<'_> {
            GroupWrites::get(self.0, i)
        }
    }

    /// Cuts leave about what was aimed at between them, in leaves with the prefix that their fences give them.
    #[test]
    fn leaves_of_a_sorted_load_get_what_was_aimed_at() {
        let keys: Vec<_> = (0..4000).map(|i| format!("{:08}", i * 7).into_bytes()).collect();
        let writes: Vec<_> = keys
            .iter()
            .map(|key| GroupWrite { key, value: Some(Value::Inline(&[7; 100])) })
            .collect();
        let leaves_of = |aim_bytes: usize| {
            let mut cuts = vec![(0, keys[0].clone())];
            cut_further((8128, aim_bytes), 64, &All(&writes), 0..writes.len(), &mut cuts);
            let pairs = cuts.windows(2).map(|pair| {
                let (low, high) = (&pair[0].1, &pair[1].1);
                let mut body = vec![0; 8128];
                leaf::init(&mut body, low, Some(high));
                let inside = writes.iter().filter(|w| w.key >= &low[..] && w.key < &high[..]);
                let inside: Vec<_> = inside.collect();
                append(&mut body, inside.len(), &|i| GroupWrite {
                    key: inside[i].key,
                    value: Some(Value::Inline(&[7; 100])),
                });
                Leaf::new(&body).used_bytes()
            });
            pairs.collect::<Vec<_>>()
        };
        let aimed = leaves_of(6000);
        assert!(aimed.len() > 20, "{}", aimed.len());
        assert!(aimed.iter().all(|used| (5850..=6000).contains(used)), "{aimed:?}");
        let full = leaves_of(8128);
        assert!(full.iter().all(|used| (7100..=8128).contains(used)), "{full:?}");
    }

    /// Appending a group gives the rows that inserting one after the other gives, whatever lies in the leaf before.
    #[test]
    fn a_group_is_appended_as_rows_are_inserted() {
        let mut rng = Rng(7);
        let (mut compared, mut squeezed) = (0, 0);
        for round in 0..2000 {
            let bytes = 512 << rng.below(3);
            let high = (round % 2 == 0).then_some(&b"key-9"[..]);
            let mut one = vec![0; bytes];
            leaf::init(&mut one, b"key-0", high);
            let mut keys: Vec<Vec<u8>> = (0..rng.below(20))
                .map(|_| format!("key-{}", rng.below(90_000)).into_bytes())
                .collect();
            keys.retain(|key| high.is_none_or(|high| &key[..] < high));
            keys.sort_unstable();
            keys.dedup();
            let values: Vec<Vec<u8>> = keys
                .iter()
                .map(|_| {
                    let bytes = rng.below(30);
                    vec![b'v'; bytes]
                })
                .collect();
            let before = rng.below(1 + keys.len());
            let value_of = |i: usize| match i % 7 {
                5 => None,
                6 => Some(Value::Tombstone),
                _ => Some(Value::Inline(&values[i])),
            };
            let put = |body: &mut [u8], i: usize, value: &Value<'_>| {
                let at = Leaf::new(body).search(&keys[i]).unwrap_err();
                leaf::insert(body, at, &keys[i], value);
            };
            let mut before = before;
            for i in 0..before {
                let value = Value::Inline(&values[i]);
                let leaf = Leaf::new(&one);
                if leaf.need_bytes(&keys[i], &value) > leaf.free_bytes() {
                    before = i;
                    break;
                }
                put(&mut one, i, &value);
            }
            // Leaves something to squeeze out.
            if before > 1 && rng.below(2) == 0 {
                leaf::remove(&mut one, 0);
            }
            let fits = |body: &[u8]| {
                let leaf = Leaf::new(body);
                let need =
                    |i: usize| value_of(i).map_or(0, |value| leaf.need_bytes(&keys[i], &value));
                (before..keys.len()).map(need).sum::<usize>() <= leaf.free_bytes()
            };
            if !fits(&one) {
                continue;
            }
            let gap = Leaf::new(&one).gap_bytes();
            let need: usize = (before..keys.len())
                .map(|i| value_of(i).map_or(0, |value| row_bytes(&keys[i], &value)))
                .sum();
            squeezed += usize::from(need > gap);
            compared += 1;
            let mut all = one.clone();
            for i in before..keys.len() {
                if let Some(value) = value_of(i) {
                    put(&mut one, i, &value);
                }
            }
            let count = keys.len() - before;
            let appended = append(&mut all, count, &|i| GroupWrite {
                key: &keys[before + i],
                value: value_of(before + i),
            });
            leaf::check_leaf(&all, true).unwrap();
            let rows = |body: &[u8]| -> Vec<(Vec<u8>, String)> {
                let leaf = Leaf::new(body);
                (0..leaf.len()).map(|i| (leaf.key(i), format!("{:?}", leaf.row(i).1))).collect()
            };
            assert_eq!(rows(&all), rows(&one), "round {round}");
            let values = (before..keys.len()).filter(|i| value_of(*i).is_some()).count();
            assert_eq!(appended, i64::try_from(values).unwrap());
            for next in 0..=Leaf::new(&one).len() {
                let (all, one) = (Leaf::new(&all), Leaf::new(&one));
                assert_eq!(
                    all.is_ascending(next),
                    one.is_ascending(next),
                    "round {round}, at {next}"
                );
            }
        }
        assert!(compared > 1000 && squeezed > 0, "{compared} compared, {squeezed} after squeezing");
    }
}
