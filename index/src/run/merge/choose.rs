//! Which source comes next.

use super::{Merge, Row, Source};
use crate::btree::common_bytes;
use crate::kind::Direction;
use esker_base::codec::head64;
use std::cmp::Ordering;

/// The largest head: of keys that do not begin with the base, and of sources at their end.
pub(super) const HEAD_MAX: u64 = u64::MAX;

impl Merge {
    /// The newest source of the smallest key. Others of the same key are shadowed and due. `last` won before.
    #[inline]
    pub(super) fn choose(&mut self, last: Option<usize>) -> Option<usize> {
        if let Some(last) = last
            && self.heads[last] < self.others_min
        {
            return Some(last);
        }
        let (mut best, mut least, mut second) = (0, HEAD_MAX, HEAD_MAX);
        for (i, &head) in self.heads.iter().enumerate() {
            let is_less = head < least;
            second = if is_less { least } else { second.min(head) };
            best = if is_less { i } else { best };
            least = if is_less { head } else { least };
        }
        self.others_min = second;
        if least < second {
            return Some(best);
        }
        self.choose_by_key(least)
    }

    /// As [`Self::choose`], where several sources have the smallest head.
    fn choose_by_key(&mut self, least: u64) -> Option<usize> {
        /// Collisions that cost as much as another base.
        const COLLISIONS_MAX: u32 = 8;
        let tied =
            |i: usize, source: &Source, heads: &[u64]| heads[i] == least && source.row != Row::End;
        let mut best: Option<usize> = None;
        let mut collides = false;
        for i in 0..self.sources.len() {
            if !tied(i, &self.sources[i], &self.heads) {
                continue;
            }
            self.sources[i].keep_key();
            let Some(before) = best else {
                best = Some(i);
                continue;
            };
            let order = self.order(i, before);
            collides |= order != Ordering::Equal;
            if order == Ordering::Less {
                best = Some(i);
            }
        }
        let winner = best?;
        let reports = self.config.report_large;
        let kept = if reports { self.sources[winner].large() } else { None };
        let first = self.shadowed_large.len();
        for i in winner + 1..self.sources.len() {
            if !tied(i, &self.sources[i], &self.heads) || self.order(i, winner) != Ordering::Equal {
                continue;
            }
            self.counts.shadowed += 1;
            self.due.push(i);
            let source = &mut self.sources[i];
            if reports
                && matches!(source.row, Row::Large | Row::ShadowedLarge)
                && let Some(handle) = source.large()
                && kept != Some(handle)
                && !self.shadowed_large[first..].contains(&handle)
            {
                self.shadowed_large.push(handle);
            }
        }
        self.collisions += u32::from(collides);
        if least == HEAD_MAX || self.collisions > COLLISIONS_MAX {
            self.choose_base(winner);
        }
        Some(winner)
    }

    /// How the keys of two sources follow each other, in the direction of the merge. Both have kept theirs.
    fn order(&self, a: usize, b: usize) -> Ordering {
        let order = self.sources[a].key.cmp(&self.sources[b].key);
        match self.config.direction {
            Direction::Forward => order,
            Direction::Backward => order.reverse(),
        }
    }

    /// Takes heads behind what the smallest key and the one after it share, less some bytes so that it lasts.
    #[cold]
    fn choose_base(&mut self, winner: usize) {
        const SPARE_BYTES: usize = 3;
        let mut next: Option<usize> = None;
        for i in 0..self.sources.len() {
            if self.sources[i].row == Row::End || i == winner {
                continue;
            }
            self.sources[i].keep_key();
            if self.order(i, winner) != Ordering::Equal
                && next.is_none_or(|next| self.order(i, next) == Ordering::Less)
            {
                next = Some(i);
            }
        }
        let key = &self.sources[winner].key;
        let shared = next.map_or(0, |next| common_bytes(key, &self.sources[next].key));
        key[..shared.saturating_sub(SPARE_BYTES)].clone_into(&mut self.base);
        for (head_of, source) in self.heads.iter_mut().zip(&self.sources) {
            if source.row != Row::End {
                *head_of = head(&self.base, &source.key, self.config.direction);
            }
        }
        self.collisions = 0;
        self.others_min = 0;
    }
}

/// The head of a key that is not before the smallest key, which begins with `base`.
#[inline]
pub(super) fn head(base: &[u8], key: &[u8], direction: Direction) -> u64 {
    // Byte by byte: the key was written a moment ago, and wider reads would wait for the write to end.
    let begins = key.len() >= base.len() && key.iter().zip(base).all(|(a, b)| a == b);
    match direction {
        _ if !begins => HEAD_MAX,
        Direction::Forward => head64(&key[base.len()..]),
        Direction::Backward => !head64(&key[base.len()..]),
    }
}
