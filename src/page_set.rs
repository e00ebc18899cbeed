//! Sets of pages whose memory goes by what is in them, not by how large their numbers are: those come from files.

use esker_base::PageId;
use std::collections::BTreeMap;

const WORDS: usize = 64;
/// Pages of a piece of bits.
const PIECE_PAGES: u64 = 64 * WORDS as u64;

/// Pages, as bits by the piece; ranges longer than a piece as ranges.
#[derive(Debug, Default)]
pub(crate) struct PageSet {
    pieces: BTreeMap<u64, Box<[u64; WORDS]>>,
    /// First page to the page behind the last; they do not meet.
    ranges: BTreeMap<u64, u64>,
}

fn place(page: PageId) -> (u64, usize, u64) {
    let in_piece = page.0 % PIECE_PAGES;
    let word = usize::try_from(in_piece / 64).expect("below the words of a piece");
    (page.0 / PIECE_PAGES, word, 1 << (in_piece % 64))
}

impl PageSet {
    /// Returns whether it was not there.
    pub(crate) fn insert(&mut self, page: PageId) -> bool {
        let is_new = !self.contains(page);
        let (piece, word, bit) = place(page);
        self.pieces.entry(piece).or_insert_with(|| Box::new([0; WORDS]))[word] |= bit;
        is_new
    }

    pub(crate) fn insert_range(&mut self, first: PageId, count: u64) {
        let (mut begin, mut end) = (first.0, first.0.saturating_add(count));
        if count <= PIECE_PAGES {
            for page in begin..end {
                self.insert(PageId(page));
            }
            return;
        }
        while let Some((&other, &other_end)) = self.ranges.range(..=end).next_back() {
            if other_end < begin {
                break;
            }
            (begin, end) = (begin.min(other), end.max(other_end));
            self.ranges.remove(&other);
        }
        self.ranges.insert(begin, end);
    }

    pub(crate) fn contains(&self, page: PageId) -> bool {
        let (piece, word, bit) = place(page);
        self.pieces.get(&piece).is_some_and(|words| words[word] & bit != 0)
            || self.ranges.range(..=page.0).next_back().is_some_and(|(_, end)| page.0 < *end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_and_ranges_of_any_numbers_are_there_and_no_others() {
        let mut set = PageSet::default();
        let long = PIECE_PAGES + 1;
        assert!(set.insert(PageId(7)) && !set.insert(PageId(7)));
        set.insert_range(PageId(100), 3);
        set.insert_range(PageId(1 << 39), 1 << 38);
        set.insert_range(PageId(20 * long), long);
        // Before it, behind it, over the gap that is left, and within.
        set.insert_range(PageId(18 * long), long);
        set.insert_range(PageId(22 * long), long);
        set.insert_range(PageId(19 * long - 1), 3 * long + 1);
        set.insert_range(PageId(19 * long), long);
        set.insert_range(PageId(u64::MAX - long), u64::MAX);
        let inside = [
            7,
            100,
            102,
            18 * long,
            21 * long,
            23 * long - 1,
            1 << 39,
            (3 << 38) - 1,
            u64::MAX - 1,
        ];
        assert!(inside.iter().all(|page| set.contains(PageId(*page))));
        let beside = [0, 6, 8, 99, 103, 18 * long - 1, 23 * long, (1 << 39) - 1, 3 << 38];
        assert!(!beside.iter().any(|page| set.contains(PageId(*page))));
        assert!(!set.insert(PageId(19 * long)));
        assert_eq!((set.pieces.len(), set.ranges.len()), (2, 3));
    }
}
