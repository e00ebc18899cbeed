//! Page images: a page as it lies in a segment.
//!
//! ```text
//!  0       2     3     4      6       8       12             20
//! | magic | cod | lvl | words| raw   | table | page id      | image number
//! 28             36      38      40      44        48
//! | changed_at   | holeat| stored| kind  | crc     | payload ...
//! ```
//!
//! `raw` is the length of the payload when uncompressed: the page's words (hints taken out) and its
//! body without the hole, which starts `holeat` bytes into the body and is as long as what is missing; or the fold of a page
//! of rows ([`Fold`]), whose number stands in the upper four bits of the codec and which has no words (since version 2).
//! `stored` is the length as stored; codec 1 is as is, 2 is lz4 (block format, without size). `crc` covers the database id and
//! everything else, so that an image of another place, page or database does not pass; the *image
//! number*, unique over the life of a database, also stands in the page map, so that an older image of
//! the same page does not pass either.
//!
//! Integers are little-endian.

use esker_base::checksum::seeded;
use esker_base::codec::Reader;
use esker_base::{CommitNo, DatabaseId, Error, PageId, Result, SegmentId, TableId};
use esker_index::fold::Fold;
use std::fmt;
use std::ops::Range;

/// First two bytes of every image.
const MAGIC: u16 = 0xE54B;
const MAGIC_AT: usize = 0;
const CODEC_AT: usize = MAGIC_AT + 2;
const LEVEL_AT: usize = CODEC_AT + 1;
const WORDS_AT: usize = LEVEL_AT + 1;
const RAW_AT: usize = WORDS_AT + 2;
const TABLE_AT: usize = RAW_AT + 2;
const PAGE_AT: usize = TABLE_AT + 4;
const NUMBER_AT: usize = PAGE_AT + 8;
const CHANGED_AT: usize = NUMBER_AT + 8;
const HOLE_AT: usize = CHANGED_AT + 8;
const STORED_AT: usize = HOLE_AT + 2;
const KIND_AT: usize = STORED_AT + 2;
const CRC_AT: usize = KIND_AT + 4;
/// Bytes before the payload.
pub(crate) const IMAGE_HEADER_BYTES: usize = CRC_AT + 4;
const _: () = assert!(IMAGE_HEADER_BYTES == 48);

/// On disk: never renumber.
const CODEC_RAW: u8 = 1;
const CODEC_LZ4: u8 = 2;
/// The number of a fold stands above the codec.
const FOLD_SHIFT: u32 = 4;

/// What a page is for. On disk: never renumber.
pub(crate) mod kind {
    /// A page of an index.
    pub(crate) const INDEX: u8 = 1;
    /// A piece of a value too large for its leaf.
    pub(crate) const OVERFLOW: u8 = 2;
    /// A node of the page map.
    pub(crate) const MAP: u8 = 3;
}

/// How the body of a page is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As it is, but for a part that need not be kept.
    Body {
        /// That part.
        hole: Range<usize>,
    },
    /// Folded, as a page of rows that has no children.
    Folded(Fold),
}

/// Where an image lies. 16 bytes in the page map:
/// `segment u32 | offset u32 | image number u48 | bytes u16`.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Address {
    pub(crate) segment: SegmentId,
    pub(crate) offset: u32,
    pub(crate) number: u64,
    pub(crate) bytes: u16,
}

impl Address {
    /// No image.
    pub(crate) const NONE: Self = Self { segment: SegmentId(0), offset: 0, number: 0, bytes: 0 };

    pub(crate) fn is_none(self) -> bool {
        self.bytes == 0
    }
    pub(crate) fn pack(self) -> [u64; 2] {
        [
            u64::from(self.segment.0) << 32 | u64::from(self.offset),
            self.number << 16 | u64::from(self.bytes),
        ]
    }
    #[expect(clippy::cast_possible_truncation, reason = "fields are cut out of words")]
    pub(crate) fn unpack([a, b]: [u64; 2]) -> Self {
        Self {
            segment: SegmentId((a >> 32) as u32),
            offset: a as u32,
            number: b >> 16,
            bytes: b as u16,
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}+{}#{}", self.segment, self.offset, self.number)
    }
}

/// What an image says about its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ImageHead {
    pub(crate) page: PageId,
    pub(crate) table: TableId,
    pub(crate) number: u64,
    pub(crate) changed_at: CommitNo,
    pub(crate) level: u8,
    pub(crate) kind: u8,
    pub(crate) words: u16,
}

/// Encodes and decodes images; holds scratch buffers.
#[derive(Debug)]
pub(crate) struct Codec {
    database: DatabaseId,
    raw: Vec<u8>,
    packed: Vec<u8>,
    content_bytes: usize,
}

impl Codec {
    pub(crate) fn new(database: DatabaseId) -> Self {
        Self { database, raw: Vec::new(), packed: Vec::new(), content_bytes: 0 }
    }

    /// Appends the image of a page to `out` and returns its length. `words` yields the word area as it
    /// goes to disk.
    #[expect(clippy::cast_possible_truncation, reason = "pages are below 64 KiB")]
    pub(crate) fn encode(
        &mut self,
        head: ImageHead,
        words: impl Iterator<Item = u64>,
        body: &[u8],
        form: &Form,
        compress: bool,
        out: &mut Vec<u8>,
    ) -> usize {
        self.raw.clear();
        for word in words {
            self.raw.extend_from_slice(&word.to_le_bytes());
        }
        debug_assert_eq!(self.raw.len(), usize::from(head.words) * 8);
        let (fold, hole_at) = match form {
            Form::Body { hole } => {
                self.raw.extend_from_slice(&body[..hole.start]);
                self.raw.extend_from_slice(&body[hole.end..]);
                self.content_bytes = self.raw.len();
                (0, hole.start)
            }
            Form::Folded(fold) => {
                debug_assert!(self.raw.is_empty(), "pages of rows have no children");
                self.content_bytes = fold.fold(body, &mut self.raw);
                (*fold as u8, 0)
            }
        };
        let raw_bytes = self.raw.len();
        let mut codec = CODEC_RAW;
        if compress && raw_bytes > 64 {
            self.packed.resize(lz4_flex::block::get_maximum_output_size(raw_bytes), 0);
            // Failure cannot happen with room for the worst case; storing raw is right anyway.
            if let Ok(packed) = lz4_flex::block::compress_into(&self.raw, &mut self.packed)
                && packed + raw_bytes / 8 <= raw_bytes
            {
                self.packed.truncate(packed);
                codec = CODEC_LZ4;
            }
        }
        let stored: &[u8] = if codec == CODEC_LZ4 { &self.packed } else { &self.raw };
        let mut header = [0u8; IMAGE_HEADER_BYTES];
        header[MAGIC_AT..CODEC_AT].copy_from_slice(&MAGIC.to_le_bytes());
        header[CODEC_AT] = codec | fold << FOLD_SHIFT;
        header[LEVEL_AT] = head.level;
        header[WORDS_AT..RAW_AT].copy_from_slice(&head.words.to_le_bytes());
        header[RAW_AT..TABLE_AT].copy_from_slice(&(raw_bytes as u16).to_le_bytes());
        header[TABLE_AT..PAGE_AT].copy_from_slice(&head.table.0.to_le_bytes());
        header[PAGE_AT..NUMBER_AT].copy_from_slice(&head.page.0.to_le_bytes());
        header[NUMBER_AT..CHANGED_AT].copy_from_slice(&head.number.to_le_bytes());
        header[CHANGED_AT..HOLE_AT].copy_from_slice(&head.changed_at.0.to_le_bytes());
        header[HOLE_AT..STORED_AT].copy_from_slice(&(hole_at as u16).to_le_bytes());
        header[STORED_AT..KIND_AT].copy_from_slice(&(stored.len() as u16).to_le_bytes());
        header[KIND_AT] = head.kind;
        let crc = seeded(&[self.database.0], &[&header[..CRC_AT], stored]);
        header[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(&header);
        out.extend_from_slice(stored);
        IMAGE_HEADER_BYTES + stored.len()
    }

    /// Bytes that what was encoded last takes of its page.
    pub(crate) fn content_bytes(&self) -> usize {
        self.content_bytes
    }

    /// Checks an image and returns what it says, without unpacking it.
    pub(crate) fn open(&self, image: &[u8]) -> Result<ImageHead, String> {
        let header: &[u8; IMAGE_HEADER_BYTES] =
            image.first_chunk().ok_or_else(|| "shorter than its header".to_owned())?;
        let head = Self::claims(image).ok_or_else(|| "no image begins here".to_owned())?;
        let stored = usize::from(u16::from_le_bytes([header[STORED_AT], header[STORED_AT + 1]]));
        let payload = image
            .get(IMAGE_HEADER_BYTES..IMAGE_HEADER_BYTES + stored)
            .ok_or_else(|| format!("{stored} stored bytes do not fit"))?;
        let crc = seeded(&[self.database.0], &[&header[..CRC_AT], payload]);
        let said = Reader::new(&header[CRC_AT..]).u32();
        if Some(crc) != said {
            return Err(format!("checksum {crc:08x}, expected {:08x}", said.unwrap_or_default()));
        }
        Ok(head)
    }

    /// What a header says, unchecked; `None` if none begins here.
    pub(crate) fn claims(image: &[u8]) -> Option<ImageHead> {
        let header: &[u8; IMAGE_HEADER_BYTES] = image.first_chunk()?;
        let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let u64_at = |at: usize| Reader::new(&header[at..]).u64();
        (u16_at(MAGIC_AT) == MAGIC).then_some(ImageHead {
            page: PageId(u64_at(PAGE_AT)?),
            table: TableId(Reader::new(&header[TABLE_AT..]).u32()?),
            number: u64_at(NUMBER_AT)?,
            changed_at: CommitNo(u64_at(CHANGED_AT)?),
            level: header[LEVEL_AT],
            kind: header[KIND_AT],
            words: u16_at(WORDS_AT),
        })
    }

    /// Length of the image that begins here, read from its unchecked header; `None` if none does.
    pub(crate) fn stored_bytes(image: &[u8]) -> Option<usize> {
        let header: &[u8; IMAGE_HEADER_BYTES] = image.first_chunk()?;
        (u16::from_le_bytes([header[0], header[1]]) == MAGIC).then(|| {
            IMAGE_HEADER_BYTES
                + usize::from(u16::from_le_bytes([header[STORED_AT], header[STORED_AT + 1]]))
        })
    }

    /// Unpacks an image that [`Self::open`] accepted. Words and body must have the page's full size;
    /// the hole is zeroed.
    pub(crate) fn unpack(
        &mut self,
        image: &[u8],
        words: &mut [u64],
        body: &mut [u8],
    ) -> Result<(), String> {
        let at = |at: usize| usize::from(u16::from_le_bytes([image[at], image[at + 1]]));
        let (raw_bytes, hole_start, stored) = (at(RAW_AT), at(HOLE_AT), at(STORED_AT));
        let payload = &image[IMAGE_HEADER_BYTES..IMAGE_HEADER_BYTES + stored];
        let (fold, codec) = (image[CODEC_AT] >> FOLD_SHIFT, image[CODEC_AT] % (1 << FOLD_SHIFT));
        let raw: &[u8] = match codec {
            CODEC_RAW if stored == raw_bytes => payload,
            CODEC_LZ4
                if fold == 0
                    && words.is_empty()
                    && hole_start <= raw_bytes
                    && raw_bytes <= body.len() =>
            {
                // At the end of the body; then what comes before the hole moves to the front. Of leaves that is little.
                let hole_bytes = body.len() - raw_bytes;
                decompress(payload, &mut body[hole_bytes..])?;
                body.copy_within(hole_bytes..hole_bytes + hole_start, 0);
                body[hole_start..hole_start + hole_bytes].fill(0);
                return Ok(());
            }
            CODEC_LZ4 => {
                self.raw.resize(raw_bytes, 0);
                decompress(payload, &mut self.raw)?;
                &self.raw
            }
            codec => return Err(format!("codec {codec} with {stored} of {raw_bytes} bytes")),
        };
        if fold > 0 {
            let fold = Fold::of(fold).ok_or_else(|| format!("fold {fold}"))?;
            if !words.is_empty() {
                return Err(format!("{fold:?} with {} children", words.len()));
            }
            return fold.unfold(raw, body);
        }
        let (raw_words, raw_body) = raw
            .split_at_checked(words.len() * 8)
            .ok_or_else(|| format!("{raw_bytes} bytes do not hold {} words", words.len()))?;
        for (word, bytes) in words.iter_mut().zip(raw_words.chunks_exact(8)) {
            let mut le = [0; 8];
            le.copy_from_slice(bytes);
            *word = u64::from_le_bytes(le);
        }
        if raw_body.len() > body.len() || hole_start > raw_body.len() {
            return Err(format!("{} bytes do not fit a body of {}", raw_body.len(), body.len()));
        }
        let hole_end = hole_start + (body.len() - raw_body.len());
        body[..hole_start].copy_from_slice(&raw_body[..hole_start]);
        body[hole_start..hole_end].fill(0);
        body[hole_end..].copy_from_slice(&raw_body[hole_start..]);
        Ok(())
    }
}

/// Decompresses to exactly as many bytes as there is room for.
fn decompress(packed: &[u8], raw: &mut [u8]) -> Result<(), String> {
    let n = lz4_flex::block::decompress_into(packed, raw).map_err(|e| format!("lz4: {e}"))?;
    if n != raw.len() {
        return Err(format!("unpacks to {n} bytes instead of {}", raw.len()));
    }
    Ok(())
}

/// The file of a segment.
pub(crate) fn segment_name(segment: SegmentId) -> String {
    format!("seg-{:08x}", segment.0)
}

/// The segment that a file name names.
pub(crate) fn segment_of_name(name: &str) -> Option<SegmentId> {
    let hex = name.strip_prefix("seg-")?;
    (hex.len() == 8).then(|| u32::from_str_radix(hex, 16).ok().map(SegmentId))?
}

/// An image is not what the map says should be there.
pub(crate) fn bad_image(address: Address, detail: impl Into<String>) -> Error {
    Error::corrupt(
        "page image",
        segment_name(address.segment),
        u64::from(address.offset),
        detail.into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(words: u16) -> ImageHead {
        ImageHead {
            page: PageId(7),
            table: TableId(3),
            number: 99,
            changed_at: CommitNo(12),
            level: 1,
            kind: kind::INDEX,
            words,
        }
    }

    #[test]
    fn images_round_trip_and_notice_every_flipped_bit() {
        let mut codec = Codec::new(DatabaseId(5));
        let body: Vec<u8> = (0..400u32).map(|i| u8::try_from(i / 7).unwrap()).collect();
        let words = [1u64 << 24, 2 << 24, 3 << 24];
        let form = Form::Body { hole: 100..200 };
        for compress in [false, true] {
            let mut image = Vec::new();
            let n =
                codec.encode(head(3), words.iter().copied(), &body, &form, compress, &mut image);
            assert_eq!((n, Some(n)), (image.len(), Codec::stored_bytes(&image)));
            assert_eq!(codec.open(&image).unwrap(), head(3));
            let (mut got_words, mut got) = ([0; 3], vec![9; 400]);
            codec.unpack(&image, &mut got_words, &mut got).unwrap();
            assert_eq!(got_words, words);
            assert_eq!((&got[..100], &got[200..]), (&body[..100], &body[200..]));
            assert_eq!(got[100..200], [0; 100]);
            for i in 0..image.len() * 8 {
                let mut bad = image.clone();
                bad[i / 8] ^= 1 << (i % 8);
                assert!(codec.open(&bad).is_err(), "bit {i}");
            }
            assert!(Codec::new(DatabaseId(6)).open(&image).is_err(), "another database");
        }
    }

    /// Checked against another implementation of CRC-32.
    #[test]
    fn golden_image() {
        let mut codec = Codec::new(DatabaseId(0x1122_3344_5566_7788));
        let (words, body) = ([2u64 << 24], b"left-a-hole-right");
        let mut image = Vec::new();
        let form = Form::Body { hole: 4..12 };
        codec.encode(head(1), words.iter().copied(), body, &form, true, &mut image);
        let golden = b"\x4b\xe5\x01\x01\x01\0\x11\0\x03\0\0\0\x07\0\0\0\0\0\0\0\x63\0\0\0\0\0\0\0\
            \x0c\0\0\0\0\0\0\0\x04\0\x11\0\x01\0\0\0\xf7\x89\x03\x5e\0\0\0\x02\0\0\0\0leftright";
        assert_eq!(image, golden);
    }

    /// Checked against another implementation of CRC-32.
    #[test]
    fn golden_image_of_a_leaf() {
        let mut codec = Codec::new(DatabaseId(0x1122_3344_5566_7788));
        // Two rows, hints, no fences: "a" is "one", "bc" is "2".
        let folded = b"\x02\0\x01\0\x01\0\0\0\xff\xff\x01\x02\0\0\x03\x01\0\0one2abc";
        let (mut body, mut again) = ([0xa5; 200], [0x5a; 200]);
        Fold::Leaf.unfold(folded, &mut body).unwrap();
        let (mut image, form) = (Vec::new(), Form::Folded(Fold::Leaf));
        let leaf = ImageHead { level: 0, ..head(0) };
        codec.encode(leaf, std::iter::empty(), &body, &form, true, &mut image);
        assert_eq!(codec.content_bytes(), 16 + 2 * (6 + 4) + 7);
        let golden = b"\x4b\xe5\x11\0\0\0\x19\0\x03\0\0\0\x07\0\0\0\0\0\0\0\x63\0\0\0\0\0\0\0\
            \x0c\0\0\0\0\0\0\0\0\0\x19\0\x01\0\0\0\xe8\x31\x3d\xf8";
        assert_eq!(image, [&golden[..], folded].concat());
        codec.unpack(&image, &mut [], &mut again).unwrap();
        assert_eq!(body, again);
        let refused = codec.unpack(&image, &mut [0], &mut again);
        assert!(refused.is_err(), "a leaf with a child: {refused:?}");
        image[CODEC_AT] = CODEC_RAW | 9 << FOLD_SHIFT;
        assert!(codec.unpack(&image, &mut [], &mut again).is_err(), "a fold that is not known");
    }

    #[test]
    fn addresses_pack() {
        let address =
            Address { segment: SegmentId(77), offset: 1 << 30, number: 1 << 40, bytes: 8000 };
        assert_eq!(Address::unpack(address.pack()), address);
        // Each field up to its end: the space that can be named is far beyond 4 GiB, and no field runs into another.
        let far = Address {
            segment: SegmentId(u32::MAX),
            offset: u32::MAX,
            number: (1 << 48) - 1,
            bytes: u16::MAX,
        };
        for (segment, offset, number) in [(1, 0, 0), (0, 1, 0), (0, 0, 1)] {
            let near = Address {
                segment: SegmentId(far.segment.0 * segment),
                offset: far.offset * offset,
                number: far.number * number,
                bytes: 1,
            };
            assert_eq!(Address::unpack(near.pack()), near);
        }
        assert_eq!(Address::unpack(far.pack()), far);
    }
}
