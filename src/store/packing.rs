//! How full leaves should be, so that their images fill whole blocks of the medium.
//!
//! A leaf is read through the system's cache in blocks of 4 KiB. An image of a little more than one block costs two of
//! them, of which the second is mostly other leaves: half of the cache then holds what nobody asked for. So whoever
//! decides how full a leaf is (background work, and sorted loads of more than memory holds) stops where the image fills a block; how content
//! compresses is learnt from what was written last.

use super::segment::PACK_BYTES;
use esker_base::TableId;
use esker_base::sync::{AtomicU32, Ordering};

/// Ratios are kept in units of 1 / `ONE`.
const ONE: usize = 1 << 16;
/// Leaves that are to fit are aimed this much below it (1 / `SLACK`): they do not compress all alike.
const SLACK: usize = 64;
/// A leaf counts for so much (1 / `WEIGHT`) of what is known afterwards.
const WEIGHT: u32 = 8;
const TABLES: usize = 64;

/// How the leaves of all tables compress. Two tables may share an entry: they are then not packed well, no more.
#[derive(Debug)]
pub(crate) struct Packings([Packing; TABLES]);

impl Default for Packings {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Packing::default()))
    }
}

impl Packings {
    pub(crate) fn of(&self, table: TableId) -> &Packing {
        &self.0[table.0 as usize % TABLES]
    }
}

/// How the leaves of one table compress.
#[derive(Debug, Default)]
pub(crate) struct Packing {
    /// Bytes of images per byte of content; 0 while nothing is known.
    ratio: AtomicU32,
}

impl Packing {
    /// A leaf with `raw` bytes of content was written as an image of `stored` bytes. One caller at a time.
    pub(crate) fn note(&self, raw: usize, stored: usize) {
        let Some(ratio) = (stored * ONE).checked_div(raw) else { return };
        let ratio = u32::try_from(ratio).unwrap_or(u32::MAX / 2).clamp(1, u32::MAX / 2);
        let known = self.ratio.load(Ordering::Relaxed);
        let ratio = if known == 0 { ratio } else { known - known / WEIGHT + ratio / WEIGHT };
        self.ratio.store(ratio.max(1), Ordering::Relaxed);
    }

    /// Bytes of content that a leaf should have. `content_bytes` if nothing is known, or if whole blocks would leave
    /// more than a quarter of the page empty.
    pub(crate) fn leaf_bytes(&self, content_bytes: usize) -> usize {
        let ratio = self.ratio.load(Ordering::Relaxed) as usize;
        let block = usize::try_from(PACK_BYTES).expect("a few thousand");
        let blocks = content_bytes * ratio / ONE / block;
        if blocks == 0 {
            return content_bytes;
        }
        let aim = blocks * block * ONE / ratio;
        let aim = aim - aim / SLACK;
        if aim * 4 < content_bytes * 3 { content_bytes } else { aim.min(content_bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_fill_whole_blocks_where_little_is_lost() {
        let packings = Packings::default();
        let packing = packings.of(TableId(5));
        assert_eq!(packing.leaf_bytes(8128), 8128, "nothing is known");
        let cases = [
            // Content, its image, bytes of content to aim at.
            (8000, 4200, 4096 * 8000 / 4200),
            (8000, 2000, 8128),
            (8000, 4960, 4096 * 8000 / 4960),
            (8000, 6000, 8128),
            (8000, 8048, 8128),
        ];
        for (raw, stored, aim) in cases {
            for _ in 0..100 {
                packing.note(raw, stored);
            }
            let found = packing.leaf_bytes(8128);
            assert!(found <= aim && found >= aim - aim / SLACK - 2, "{raw} {stored}: {found}");
            if aim < 8128 {
                assert!(found * stored / raw <= 4096, "{raw} {stored}: {found}");
            }
        }
        packing.note(0, 0);
        assert_eq!(packing.leaf_bytes(8128), 8128, "no content, no news");
        assert_eq!(packings.of(TableId(6)).leaf_bytes(8128), 8128, "another table");
    }
}
