//! A blocked Bloom filter in pages: one key touches one line of 64 bytes.
//!
//! ```text
//! block, level 65: | line 0 | line 1 | ...          as many as fit the page
//! root, level 66:  | lines u32 | probes u16 | zero u16 |         words: blocks
//! root, level 67:  | ... |                                        words: roots of level 66; only for huge filters
//! ```
//!
//! `lines` counts those below the page. All blocks but the last, and all lower roots but the last, are full.
//! The upper half of a key's hash chooses the line, the lower half the bits in it.

use super::{FILTER_BLOCK_LEVEL, FILTER_LEVEL_MAX, FILTER_ROOT_LEVEL};
use crate::pages::{BuildPages, ChildWord, PageNew, PageRead, Pages, Step, Stop, View};
use esker_base::PageId;
use xxhash_rust::xxh3::xxh3_64_with_seed;

pub(crate) const LINE_BYTES: usize = 64;
const LINE_BITS: u64 = 512;
const LINE_WORDS: usize = 8;
pub(crate) const HEADER_BYTES: usize = 8;
const WORD_BYTES: usize = 8;
pub(crate) const PROBES_MAX: u16 = 16;
/// Blocks that are read together: a read of so many takes little longer than one of one.
const BLOCKS_AT_ONCE: usize = 8;
const SEED: u64 = 0x6573_6b65_7272_756e;

/// The hash of a key that filters are asked with.
#[inline]
pub fn key_hash(key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, SEED)
}

/// Lines in a block.
pub(crate) fn lines_in_block(content_bytes: usize) -> usize {
    content_bytes / LINE_BYTES
}
/// Most children of a root.
pub(crate) fn fanout(content_bytes: usize) -> usize {
    (content_bytes - HEADER_BYTES) / WORD_BYTES
}

/// The line of a key.
#[inline]
fn line_of(hash: u64, lines: u32) -> usize {
    let line = ((hash >> 32) * u64::from(lines)) >> 32;
    usize::try_from(line).expect("below `lines`")
}

/// The bits of a key in its line, one after the other.
#[inline]
fn probes(hash: u64, count: u16) -> impl Iterator<Item = usize> {
    const GOLDEN: u32 = 0x9e37_79b9;
    let mut state = u32::try_from(hash & u64::from(u32::MAX)).expect("32 bits");
    (0..count).map(move |_| {
        let bit = state >> 23;
        state = state.wrapping_mul(GOLDEN);
        bit as usize
    })
}

/// What a root says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) lines: u32,
    pub(crate) probes: u16,
    pub(crate) zero: u16,
}

impl Header {
    pub(crate) fn of(body: &[u8]) -> Option<Self> {
        let mut reader = esker_base::codec::Reader::new(body);
        let (lines, probes, zero) = (reader.u32()?, reader.u16()?, reader.u16()?);
        Some(Self { lines, probes, zero })
    }
    fn write(self, body: &mut [u8]) {
        body.fill(0);
        body[..4].copy_from_slice(&self.lines.to_le_bytes());
        body[4..6].copy_from_slice(&self.probes.to_le_bytes());
    }
}

/// The block of a hash: its word, and where the line begins in it; and how many probes.
struct Place {
    word: ChildWord,
    line_at: usize,
    probes: u16,
}

fn corrupt<R: PageRead>(page: &R, what: &str) -> Stop {
    Stop::Corrupt { page: page.id(), detail: format!("filter: {what}") }
}

fn place<P: Pages>(pages: &P, root: &ChildWord, view: View, hash: u64) -> Step<Place> {
    let content_bytes = pages.content_bytes();
    let mut page = pages.read(root, view)?;
    let header = Header::of(page.body()).ok_or_else(|| corrupt(&page, "no header"))?;
    let line = line_of(hash, header.lines);
    let in_block = lines_in_block(content_bytes);
    let (mut block, line_at) = (line / in_block, line % in_block * LINE_BYTES);
    loop {
        let level = page.level();
        if !(FILTER_ROOT_LEVEL..=FILTER_LEVEL_MAX).contains(&level) {
            return Err(corrupt(&page, "a root of another level"));
        }
        let below = u32::from(level - FILTER_ROOT_LEVEL);
        let span = fanout(content_bytes).pow(below);
        let bits = page.words().get(block / span).ok_or_else(|| corrupt(&page, "few children"))?;
        block %= span;
        if below == 0 {
            let bits = bits.load();
            let word = ChildWord::new(ChildWord::page_of(bits), ChildWord::hint_of(bits));
            return Ok(Place { word, line_at, probes: header.probes });
        }
        let next = pages.read(bits, view)?;
        if next.level() + 1 != level {
            return Err(corrupt(&next, "not below its parent"));
        }
        page = next;
    }
}

/// False if no key with this hash is in the run. Reads the root and one block.
///
/// # Errors
/// As [`Pages::read`]. Under [`View::Current`] the caller makes sure that the run is still current, also after an
/// error.
#[inline]
pub fn may_contain<P: Pages>(pages: &P, root: &ChildWord, view: View, hash: u64) -> Step<bool> {
    let content_bytes = pages.content_bytes();
    // As a rule there is one root; its words are then used where they are, so that their hints get better.
    let page = pages.read(root, view)?;
    if page.level() != FILTER_ROOT_LEVEL {
        let place = place(pages, root, view, hash)?;
        return test(pages, &place.word, view, place.line_at, (hash, place.probes));
    }
    let header = Header::of(page.body()).ok_or_else(|| corrupt(&page, "no header"))?;
    let line = line_of(hash, header.lines);
    let in_block = lines_in_block(content_bytes);
    let words = page.words();
    let block = line / in_block;
    let word = words.get(block).ok_or_else(|| corrupt(&page, "few children"))?;
    let admits = test(pages, word, view, line % in_block * LINE_BYTES, (hash, header.probes));
    if matches!(admits, Err(Stop::Missing(_))) {
        // Every block is asked about sooner or later, and they were built, and so written, one after the other.
        let first = block / BLOCKS_AT_ONCE * BLOCKS_AT_ONCE;
        pages.want_too(&words[first..words.len().min(first + BLOCKS_AT_ONCE)]);
    }
    admits
}

#[inline]
fn test<P: Pages>(
    pages: &P,
    word: &ChildWord,
    view: View,
    line_at: usize,
    (hash, count): (u64, u16),
) -> Step<bool> {
    let block = pages.read(word, view)?;
    let line = block.body().get(line_at..).and_then(<[u8]>::first_chunk::<LINE_BYTES>);
    let Some(line) = line.filter(|_| block.level() == FILTER_BLOCK_LEVEL) else {
        return Err(corrupt(&block, "not a block"));
    };
    // All bits are looked at, so that there is one branch: the processor may guess it, and go on to the next run's
    // filter before this line has come.
    let found = probes(hash, count).map(|bit| line[bit / 8] >> (bit % 8) & 1);
    Ok(found.fold(1, |all, one| all & one) == 1)
}

/// The block that [`may_contain`] would read, without bringing it in.
///
/// # Errors
/// As [`may_contain`], for roots only.
pub fn block_of<P: Pages>(pages: &P, root: &ChildWord, view: View, hash: u64) -> Step<PageId> {
    Ok(place(pages, root, view, hash)?.word.page())
}

/// Makes the pages of a filter.
#[derive(Debug)]
pub(crate) struct FilterBuilder {
    bits: Vec<u64>,
    probes: u16,
    /// Pages of the level in the making, and lines below each.
    made: Vec<(u64, u32)>,
    /// Those of the level below, of which the first `used` have a parent.
    below: Vec<(u64, u32)>,
    used: usize,
    level: u8,
    pages_built: usize,
}

/// Bits to test for a key: what is best for lines of 512 bits, a little less than for one large filter.
fn probes_for(bits_per_key: u8) -> u16 {
    (u16::from(bits_per_key) * 3 / 5).clamp(1, PROBES_MAX)
}

impl FilterBuilder {
    pub(crate) fn new(hashes: &[u64], bits_per_key: u8) -> Self {
        let bits = hashes.len() as u64 * u64::from(bits_per_key);
        let lines = u32::try_from(bits.div_ceil(LINE_BITS).max(1)).unwrap_or(u32::MAX);
        let probes_count = probes_for(bits_per_key);
        let mut bits = vec![0u64; lines as usize * LINE_WORDS];
        for hash in hashes {
            let (line, _) = bits[line_of(*hash, lines) * LINE_WORDS..]
                .split_first_chunk_mut::<LINE_WORDS>()
                .expect("a whole line");
            for bit in probes(*hash, probes_count) {
                line[bit / 64] |= 1 << (bit % 64);
            }
        }
        Self {
            bits,
            probes: probes_count,
            made: Vec::new(),
            below: Vec::new(),
            used: 0,
            level: FILTER_BLOCK_LEVEL,
            pages_built: 0,
        }
    }

    pub(crate) fn pages_built(&self) -> usize {
        self.pages_built
    }

    /// Builds the rest and returns the root's word. After an error it is called again.
    pub(crate) fn finish<P: BuildPages>(&mut self, pages: &P) -> Step<u64> {
        let content_bytes = pages.content_bytes();
        let block_words = lines_in_block(content_bytes) * LINE_WORDS;
        let fanout = fanout(content_bytes);
        while self.level == FILTER_BLOCK_LEVEL {
            let rest = &self.bits[(self.made.len() * block_words).min(self.bits.len())..];
            if rest.is_empty() {
                self.next_level();
                break;
            }
            let rest = &rest[..rest.len().min(block_words)];
            let mut page = pages.build(FILTER_BLOCK_LEVEL, 0)?;
            let body = page.body_mut();
            body.fill(0);
            for (bytes, word) in body.as_chunks_mut::<WORD_BYTES>().0.iter_mut().zip(rest) {
                *bytes = word.to_le_bytes();
            }
            let lines = u32::try_from(rest.len() / LINE_WORDS).expect("lines of one page");
            self.made.push((pages.keep(page), lines));
            self.pages_built += 1;
        }
        loop {
            let rest = &self.below[self.used..];
            if rest.is_empty() {
                if let [(root, _)] = self.made[..] {
                    return Ok(root);
                }
                self.next_level();
                continue;
            }
            let children = &rest[..rest.len().min(fanout)];
            let mut page = pages.build(self.level, children.len())?;
            let lines = children.iter().map(|(_, lines)| lines).sum();
            let (words, body) = page.parts_mut();
            for (word, (child, _)) in words.iter_mut().zip(children) {
                *word = *child;
            }
            Header { lines, probes: self.probes, zero: 0 }.write(body);
            self.used += children.len();
            self.made.push((pages.keep(page), lines));
            self.pages_built += 1;
        }
    }

    fn next_level(&mut self) {
        self.below = std::mem::take(&mut self.made);
        self.used = 0;
        self.level += 1;
    }
}
