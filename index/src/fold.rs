//! Rows of a leaf as they lie in an image: in columns, and without what follows from them.
//!
//! ```text
//! header of the kind | key bytes, low | key bytes, high | value words, low | value words, high | values | keys
//! ```
//!
//! In memory a row has a head or mark, a slot and a record with its lengths; most of these differ from row to row in a way that
//! no compression finds, so that of a row of 116 bytes, half of it compressible, they make a tenth of the image. Here lengths stand together
//! byte by byte, where they are all but nothing if rows are alike, and slots and heads are made anew. Rows of 16-byte keys
//! and 100 bytes of which half repeats take 73.2 bytes each after lz4 as they lie in memory and 64.4 folded. Values come before keys: a
//! compressor that looks less closely where it has found nothing for long (`lz4_flex` does) has 68.0 the other way round.
//!
//! A *value word* is a value's length with the flags of its kind in the upper bits. Whoever reads a fold must check the page
//! that comes of it: only lengths are checked here.

use crate::{btree, hash};

/// What a folded page is. On disk: never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Fold {
    /// A leaf of the B-tree, which the fractal tree uses too.
    Leaf = 1,
    /// A bucket of the hash.
    Bucket = 2,
}

impl Fold {
    /// What a number on disk stands for.
    pub fn of(number: u8) -> Option<Self> {
        [Self::Leaf, Self::Bucket].into_iter().find(|fold| *fold as u8 == number)
    }

    /// Appends the fold of a page to `out`; returns how many bytes of the body hold something. A microsecond for 8 KiB.
    pub fn fold(self, body: &[u8], out: &mut Vec<u8>) -> usize {
        match self {
            Self::Leaf => btree::fold::fold(body, out),
            Self::Bucket => hash::bucket::fold(body, out),
        }
    }

    /// Lays a page out in `body`, all of which is written.
    ///
    /// # Errors
    /// What is wrong with the fold; `body` then holds anything.
    pub fn unfold(self, folded: &[u8], body: &mut [u8]) -> Result<(), String> {
        match self {
            Self::Leaf => btree::fold::unfold(folded, body),
            Self::Bucket => hash::bucket::unfold(folded, body),
        }
    }
}

/// Bytes of lengths for each row.
const LENGTHS_BYTES: usize = 4;

/// A row: key, value word, value.
pub(crate) type FoldedRow<'a> = (&'a [u8], usize, &'a [u8]);

/// Appends rows in columns; `row` gives the i-th.
pub(crate) fn push_rows<'a>(count: usize, row: impl Fn(usize) -> FoldedRow<'a>, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + count * LENGTHS_BYTES, 0);
    for i in 0..count {
        let (key, word, value) = row(i);
        let [key_low, key_high, ..] = key.len().to_le_bytes();
        let [word_low, word_high, ..] = word.to_le_bytes();
        let bytes = [key_low, key_high, word_low, word_high];
        for (column, byte) in bytes.into_iter().enumerate() {
            out[start + column * count + i] = byte;
        }
        out.extend_from_slice(value);
    }
    for i in 0..count {
        out.extend_from_slice(row(i).0);
    }
}

/// Rows in columns, to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    count: usize,
    lengths: &'a [u8],
    keys: &'a [u8],
    values: &'a [u8],
    /// Bits of a value word that say how long it is.
    length_bits: usize,
}

impl<'a> Rows<'a> {
    /// The `count` rows that are all of `folded`; or what is wrong.
    pub(crate) fn new(folded: &'a [u8], count: usize, length_bits: usize) -> Result<Self, String> {
        let short = || format!("{} bytes do not hold {count} rows", folded.len());
        let (lengths, rest) = folded.split_at_checked(count * LENGTHS_BYTES).ok_or_else(short)?;
        let mut rows = Self { count, lengths, keys: &[], values: rest, length_bits };
        let keys_bytes: usize = (0..count).map(|i| rows.key_bytes(i)).sum();
        let values_bytes: usize = (0..count).map(|i| rows.word(i) & length_bits).sum();
        (rows.values, rows.keys) = rest.split_at_checked(values_bytes).ok_or_else(short)?;
        if rows.keys.len() != keys_bytes {
            return Err(format!("{} bytes of keys, not {keys_bytes}", rows.keys.len()));
        }
        Ok(rows)
    }
    #[inline]
    fn two(&self, column: usize, i: usize) -> usize {
        let [low, high] = [column, column + 1].map(|column| self.lengths[column * self.count + i]);
        usize::from(u16::from_le_bytes([low, high]))
    }
    #[inline]
    pub(crate) fn key_bytes(&self, i: usize) -> usize {
        self.two(0, i)
    }
    #[inline]
    fn word(&self, i: usize) -> usize {
        self.two(2, i)
    }
    /// Bytes of key and value of row `i`.
    #[inline]
    pub(crate) fn row_bytes(&self, i: usize) -> usize {
        self.key_bytes(i) + (self.word(i) & self.length_bits)
    }
    /// Bytes of all keys and values.
    pub(crate) fn bytes(&self) -> usize {
        self.keys.len() + self.values.len()
    }
    /// One after the other.
    #[inline]
    pub(crate) fn iter(self) -> impl Iterator<Item = FoldedRow<'a>> {
        let (mut keys, mut values) = (self.keys, self.values);
        (0..self.count).map(move |i| {
            let (key, value);
            (key, keys) = keys.split_at(self.key_bytes(i));
            (value, values) = values.split_at(self.word(i) & self.length_bits);
            (key, self.word(i), value)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_and_wrong_lengths_are_told() {
        let long = [7u8; 700];
        let rows: [FoldedRow<'_>; 4] =
            [(b"a", 3, b"one"), (b"", 0x8002, b"HH"), (b"key", 0, b""), (&long, 700, &long)];
        let mut folded = vec![0xAA];
        push_rows(rows.len(), |i| rows[i], &mut folded);
        let folded = &folded[1..];
        let read = Rows::new(folded, rows.len(), 0x7fff).unwrap();
        assert_eq!(read.iter().collect::<Vec<_>>(), rows);
        assert_eq!(read.bytes(), 1 + 3 + 2 + 3 + 1400);
        assert_eq!((read.row_bytes(1), read.row_bytes(3)), (2, 1400));
        for cut in 0..folded.len() {
            assert!(Rows::new(&folded[..cut], rows.len(), 0x7fff).is_err(), "{cut}");
        }
        assert!(Rows::new(&[folded, b"x"].concat(), rows.len(), 0x7fff).is_err(), "too long");
        assert!(Rows::new(&[], usize::MAX / 8, 0x7fff).is_err(), "a forged count");
        assert_eq!(Fold::of(1), Some(Fold::Leaf));
        assert_eq!((Fold::of(2), Fold::of(0), Fold::of(3)), (Some(Fold::Bucket), None, None));
    }
}
