//! Taking a hash table apart: as a B-tree, with hashes for keys. Rows of its front (`front`) come before those of its buckets,
//! which are older.

use super::front::{Front, Have};
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
use esker_index::salvage::BucketPage;
use std::collections::{BTreeMap, BTreeSet};

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

/// Buckets of a table or of its front.
#[derive(Debug, Default)]
struct Buckets {
    holders: Vec<Holder>,
    /// Where hashes agree in all bits of a round, several buckets share what is one place here.
    deep: Vec<(CommitNo, u64, PageId)>,
}

impl Buckets {
    fn add(&mut self, seen: &Seen, bucket: &BucketPage<'_>) {
        let Seen { page, changed_at, number, .. } = *seen;
        let Some(ranks) = bucket.ranks() else {
            self.deep.push((changed_at, number, page));
            return;
        };
        let (low, high) = rank_span(ranks);
        self.holders.push(Holder { page, low, high, changed_at, number });
    }
}

/// The buckets of a table, and of its front.
fn buckets_of(
    images: &Images<'_>,
    hash: &Hash,
    pages: &[Seen],
    front: &Front,
) -> Result<(Buckets, Buckets)> {
    let (mut buckets, mut waiting) = (Buckets::default(), Buckets::default());
    for seen in pages.iter().filter(|seen| seen.level == 0) {
        let Some(page) = images.page(seen.page)? else { continue };
        let Ok(bucket) = BucketPage::new(hash, 0, page.words().len(), page.body()) else {
            continue;
        };
        if !bucket.is_front() {
            buckets.add(seen, &bucket);
        } else if front.may_have(seen.page) {
            waiting.add(seen, &bucket);
        }
    }
    buckets.deep.sort_unstable_by(|a, b| b.cmp(a));
    waiting.deep.sort_unstable_by(|a, b| b.cmp(a));
    Ok((buckets, waiting))
}

/// Takes a hash table apart. `root`: its page, if the catalogue is there.
pub(in crate::repair) fn hash(
    images: &Images<'_>,
    database: DatabaseId,
    table: TableId,
    root: Option<PageId>,
    pages: &[Seen],
    target: &mut Target,
) -> Result<Outcome> {
    let hash = hash_of(database, table, images.page_bytes);
    let front = Front::of(images, root, pages)?;
    let (Buckets { holders, deep }, waiting) = buckets_of(images, &hash, pages, &front)?;
    let changed_at: BTreeMap<PageId, CommitNo> =
        pages.iter().map(|seen| (seen.page, seen.changed_at)).collect();
    let (parts, mut lost) = assign(holders);
    let (waiting_parts, waiting_lost) = assign(waiting.holders);
    let mut outcome = Outcome::default();
    let have = Have {
        any: !waiting_parts.is_empty() || !waiting.deep.is_empty(),
        all: waiting_lost.is_empty() || !waiting.deep.is_empty(),
    };
    front.tell_doubts(images, root, have, &mut outcome);
    let is_guess = front.is_guess(images);
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
    // Whoever moves a row to its bucket changes that later than anybody has changed what the row waited in.
    let waits = |rank: &[u8], page: PageId| {
        !is_guess || holder_of(&parts, rank).is_none_or(|of| changed_at[&of] <= changed_at[&page])
    };
    let mut waited: BTreeSet<Vec<u8>> = BTreeSet::new();
    for (.., page) in waiting.deep {
        rows_of(page, &mut |key| {
            waits(&rank_key(hash.rank(key)), page) && waited.insert(key.to_vec())
        })?;
    }
    for (span, page) in waiting_parts {
        rows_of(page, &mut |key| {
            let rank = rank_key(hash.rank(key));
            span.contains(&rank) && waits(&rank, page) && waited.insert(key.to_vec())
        })?;
    }
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
    for (span, page) in &parts {
        rows_of(*page, &mut |key| {
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

/// Which page answers for a key.
fn holder_of(parts: &[(KeySpan, PageId)], key: &[u8]) -> Option<PageId> {
    let behind = parts.partition_point(|(span, _)| &span.low[..] <= key);
    let (span, page) = parts.get(behind.checked_sub(1)?)?;
    span.contains(key).then_some(*page)
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
