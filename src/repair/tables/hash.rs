//! Taking a hash table apart: as a B-tree, with hashes for keys. Rows of its front come before those of its buckets, which are
//! older.

use super::{Holder, Outcome, Seen, assign, put};
use crate::catalog::Index;
use crate::kinds::{AnyKind, KindPlace, Logic};
use crate::options::Options;
use crate::range::KeySpan;
use crate::repair::source::Images;
use crate::repair::target::Target;
use esker_base::{CommitNo, DatabaseId, PageId, Result, TableId};
use esker_index::hash::Hash;
use esker_index::kind::{Kind, Value};
use esker_index::pages::PageRead;
use esker_index::run::RangeSet;
use esker_index::salvage::{BucketPage, names_front};
use std::collections::BTreeSet;

/// The hash of a table, as [`AnyKind::of`] makes it.
pub(super) fn hash_of(database: DatabaseId, table: TableId, page_bytes: usize) -> Hash {
    let place = KindPlace { database, table, page_bytes };
    let options = Options::default();
    let logic = Logic::new(&options, page_bytes);
    match AnyKind::of(Index::Hash, &options, &logic, place) {
        AnyKind::Hash(hash) => hash,
        _ => unreachable!("asked for a hash"),
    }
}

/// Numbers that order as bytes, from the lowest on.
#[expect(clippy::big_endian_bytes, reason = "numbers that order like keys")]
fn rank_key(rank: u64) -> Vec<u8> {
    if rank == 0 { Vec::new() } else { rank.to_be_bytes().to_vec() }
}

fn rank_span((first, last): (u64, u64)) -> (Vec<u8>, Option<Vec<u8>>) {
    (rank_key(first), last.checked_add(1).map(rank_key))
}

/// Takes a hash table apart.
pub(in crate::repair) fn hash(
    images: &Images<'_>,
    database: DatabaseId,
    table: TableId,
    pages: &[Seen],
    target: &mut Target,
) -> Result<Outcome> {
    let hash = hash_of(database, table, images.page_bytes);
    let mut holders = Vec::new();
    // Where hashes agree in all bits of a round, several buckets share what is one place here.
    let mut deep: Vec<(CommitNo, u64, PageId)> = Vec::new();
    // The same of the front.
    let (mut front_holders, mut front_deep) = (Vec::new(), Vec::new());
    for seen in pages.iter().filter(|seen| seen.level == 0) {
        let Some(page) = images.page(seen.page)? else { continue };
        let Ok(bucket) = BucketPage::new(&hash, 0, page.words().len(), page.body()) else {
            continue;
        };
        let (deep, holders) = if bucket.is_front() {
            (&mut front_deep, &mut front_holders)
        } else {
            (&mut deep, &mut holders)
        };
        let Some(ranks) = bucket.ranks() else {
            deep.push((seen.changed_at, seen.number, seen.page));
            continue;
        };
        let (low, high) = rank_span(ranks);
        let (changed_at, number) = (seen.changed_at, seen.number);
        holders.push(Holder { page: seen.page, low, high, changed_at, number });
    }
    let (parts, mut lost) = assign(holders);
    let mut outcome = Outcome::default();
    let is_named = names_a_front(images, pages)?;
    let has_front = !front_holders.is_empty() || !front_deep.is_empty();
    let (front_parts, front_lost) = assign(front_holders);
    if is_named != has_front || (is_named && front_deep.is_empty() && !front_lost.is_empty()) {
        // Some of what waited is gone, or it is not said whether it still did.
        outcome.stale.push(KeySpan::ALL);
        if is_named {
            outcome.lost.push(KeySpan::ALL);
        }
    }
    let mut rows_of = |page: PageId, wants: &mut dyn FnMut(&[u8]) -> bool| -> Result<()> {
        let Some(page) = images.page(page)? else { return Ok(()) };
        let Ok(bucket) = BucketPage::new(&hash, 0, page.words().len(), page.body()) else {
            return Ok(());
        };
        for i in 0..bucket.len() {
            let (key, value) = bucket.row(i);
            if wants(key) && value != Value::Tombstone {
                put(images, table, key, value, target, &mut outcome)?;
            }
        }
        Ok(())
    };
    let mut waited: BTreeSet<Vec<u8>> = BTreeSet::new();
    front_deep.sort_unstable_by(|a, b| b.cmp(a));
    for (.., page) in front_deep {
        rows_of(page, &mut |key| waited.insert(key.to_vec()))?;
    }
    for (span, page) in front_parts {
        rows_of(page, &mut |key| {
            span.contains(&rank_key(hash.rank(key))) && waited.insert(key.to_vec())
        })?;
    }
    deep.sort_unstable_by(|a, b| b.cmp(a));
    let mut met: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut filled = RangeSet::default();
    for (.., page) in deep {
        rows_of(page, &mut |key| {
            let rank = hash.rank(key);
            let is_free = lost.iter().any(|span| span.contains(&rank_key(rank)));
            let (low, high) = rank_span((rank & !0xffff_ffff, rank | 0xffff_ffff));
            filled.insert(&low, high.as_deref());
            is_free && !waited.contains(key) && met.insert(key.to_vec())
        })?;
    }
    for (span, page) in parts {
        rows_of(page, &mut |key| {
            !waited.contains(key) && span.contains(&rank_key(hash.rank(key)))
        })?;
    }
    // What is left of the surroundings of deep buckets is nothing that could be told apart here.
    lost.retain(|span| !filled.covers(&span.low));
    if !lost.is_empty() {
        outcome.lost_share = lost.iter().map(share_of_ranks).sum();
        outcome.lost.push(KeySpan::ALL);
    }
    Ok(outcome)
}

/// Whether one of the pages, the root, says that the table has a front.
fn names_a_front(images: &Images<'_>, pages: &[Seen]) -> Result<bool> {
    for seen in pages.iter().filter(|seen| seen.level > 0) {
        let Some(page) = images.page(seen.page)? else { continue };
        if names_front(page.level(), page.words(), page.body()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The share of all hashes that a span holds.
#[expect(clippy::cast_precision_loss, reason = "a share, about")]
fn share_of_ranks(span: &KeySpan) -> f64 {
    let rank = |key: &[u8]| esker_base::codec::head64(key) as f64 / 2f64.powi(64);
    span.high.as_ref().map_or(1.0, |high| rank(high)) - rank(&span.low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_hashes_add_up() {
        let spans = [(0, u64::MAX / 2), (u64::MAX / 2 + 1, u64::MAX)].map(rank_span);
        let share: f64 = spans
            .iter()
            .map(|(low, high)| share_of_ranks(&KeySpan::new(low, high.as_deref())))
            .sum();
        assert!((share - 1.0).abs() < 1e-9, "{share}");
    }
}
