//! How full leaves should be, so that their images fill whole blocks of the medium.
//!
//! A leaf is read through the system's cache in blocks of 4 KiB. An image of a little more than one block costs two of
//! them, of which the second is mostly other leaves: half of the cache then holds what nobody asked for. So background
//! work, which decides itself how full a leaf is, stops where the image fills a block; how content compresses is
//! learnt from what was written last.

use super::segment::PACK_BYTES;
use esker_base::sync::{AtomicU32, Ordering};

/// Ratios are kept in units of 1 / `ONE`.
const ONE: usize = 1 << 16;
/// Leaves that are to fit are aimed this much below it (1 / `SLACK`): they do not compress all alike.
const SLACK: usize = 64;

/// How the leaves of one table compress.
#[derive(Debug, Default)]
pub(crate) struct Packing {
    /// Bytes of images per byte of content; 0 while nothing is known.
    ratio: AtomicU32,
}

impl Packing {
    /// Leaves with `raw` bytes of content were written as images of `stored` bytes.
    pub(crate) fn note(&self, raw: usize, stored: usize) {
        let Some(ratio) = (stored * ONE).checked_div(raw) else { return };
        let ratio = u32::try_from(ratio).unwrap_or(u32::MAX).max(1);
        self.ratio.store(ratio, Ordering::Relaxed);
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
        let packing = Packing::default();
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
            packing.note(raw, stored);
            let found = packing.leaf_bytes(8128);
            assert!(found <= aim && found >= aim - aim / SLACK - 2, "{raw} {stored}: {found}");
            if aim < 8128 {
                assert!(found * stored / raw <= 4096, "{raw} {stored}: {found}");
            }
        }
        packing.note(0, 0);
        assert_eq!(packing.leaf_bytes(8128), 8128, "no leaves, no news");
    }
}
