//! Keys: a record's number becomes one, and comes back from it.
//!
//! Both kinds sort as the numbers of loaded records do (those of URLs as long as the numbers have ten
//! digits). Records from `n` on (YCSB's inserts) land at
//! random places between them, and so do absent keys. A key ends with 64 bits that look random: a
//! bijection of the number, from which it comes back.

use crate::generate::{mix, unmix};
use crate::store::Error;
use std::ops::Deref;
use std::str::FromStr;

/// Length of plain keys, and the most that any key has.
pub const PLAIN_BYTES: usize = 16;
pub const KEY_BYTES_MAX: usize = 112;

/// How keys are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keys {
    /// 8 bytes big-endian number, 8 bytes that look random (so that they do not compress).
    #[default]
    Plain,
    /// `https://www.HOST.com/section/2026/11/NUMBER-a-slug?q=RANDOM`: 72 to 106 bytes, of which
    /// neighbours share more than half.
    Url,
}

impl FromStr for Keys {
    type Err = Error;
    fn from_str(name: &str) -> Result<Keys, Error> {
        [Keys::Plain, Keys::Url]
            .into_iter()
            .find(|keys| keys.name() == name)
            .ok_or_else(|| format!("keys are plain or url, not {name}").into())
    }
}

impl Keys {
    pub fn name(self) -> &'static str {
        match self {
            Keys::Plain => "plain",
            Keys::Url => "url",
        }
    }

    /// No key is longer.
    #[allow(dead_code, reason = "only some engines must be told")]
    pub fn bytes_max(self) -> usize {
        match self {
            Keys::Plain => PLAIN_BYTES,
            Keys::Url => KEY_BYTES_MAX,
        }
    }

    /// Key of record `id` of a load of `n`.
    #[inline]
    pub fn key(self, id: u64, n: u64) -> Key {
        self.make(base(id, n), id, tail_of_id(id))
    }

    /// A key that is not in the store, next to `id`'s.
    #[inline]
    pub fn absent_key(self, id: u64, n: u64) -> Key {
        self.make(base(id, n), id, mix(id ^ 0x00AB_5E27_0000_0001))
    }

    /// The record whose key this is, if it is one.
    #[inline]
    pub fn id(self, key: &[u8], n: u64) -> Option<u64> {
        match self {
            Keys::Plain => {
                let key: &[u8; PLAIN_BYTES] = key.try_into().ok()?;
                let tail = u64::from_be_bytes(*key.last_chunk()?);
                let id = id_of_tail(tail);
                (plain(base(id, n), tail) == *key).then_some(id)
            }
            Keys::Url => {
                let id = id_of_tail(from_hex(key.last_chunk()?)?);
                (*self.key(id, n) == *key).then_some(id)
            }
        }
    }

    #[inline]
    fn make(self, base: u64, id: u64, tail: u64) -> Key {
        match self {
            Keys::Plain => Key::Plain(plain(base, tail)),
            Keys::Url => Key::Url(Url::new(base, mix(id), tail)),
        }
    }
}

/// The loaded record at whose place `id` is.
#[inline]
pub fn base(id: u64, n: u64) -> u64 {
    if id < n { id } else { mix(id ^ 0x0DD0_0DD0) % n }
}

/// What a key ends with.
#[inline]
fn tail_of_id(id: u64) -> u64 {
    mix(id.wrapping_mul(3).wrapping_add(1))
}

#[inline]
fn id_of_tail(tail: u64) -> u64 {
    const THIRD: u64 = 0xAAAA_AAAA_AAAA_AAAB; // 3 * THIRD == 1 modulo 2^64
    unmix(tail).wrapping_sub(1).wrapping_mul(THIRD)
}

#[inline]
fn plain(base: u64, tail: u64) -> [u8; PLAIN_BYTES] {
    let mut key = [0; PLAIN_BYTES];
    key[..8].copy_from_slice(&base.to_be_bytes());
    key[8..].copy_from_slice(&tail.to_be_bytes());
    key
}

/// The key before the one that a scan has come to. It costs next to nothing where keys are plain.
pub struct Previous {
    len: usize,
    bytes: [u8; KEY_BYTES_MAX],
}

impl Previous {
    /// There was none.
    pub fn none() -> Self {
        Self { len: 0, bytes: [0; KEY_BYTES_MAX] }
    }

    /// Says whether `key` is greater than the one before, and puts it in its place.
    #[inline]
    pub fn advance(&mut self, key: &[u8]) -> bool {
        if let Ok(key) = <[u8; PLAIN_BYTES]>::try_from(key)
            && matches!(self.len, 0 | PLAIN_BYTES)
        {
            let before = self.bytes.first_chunk().expect("longer than a plain key");
            let ascends = self.len == 0 || u128::from_be_bytes(key) > u128::from_be_bytes(*before);
            self.bytes[..PLAIN_BYTES].copy_from_slice(&key);
            self.len = PLAIN_BYTES;
            return ascends;
        }
        let ascends = self.len == 0 || *key > self.bytes[..self.len];
        // No key of ours is longer; what comes after one that is must be greater than its beginning.
        self.len = key.len().min(KEY_BYTES_MAX);
        self.bytes[..self.len].copy_from_slice(&key[..self.len]);
        ascends
    }
}

/// One key, wherever it is put; nothing is allocated.
#[derive(Clone)]
pub enum Key {
    Plain([u8; PLAIN_BYTES]),
    Url(Url),
}

impl Deref for Key {
    type Target = [u8];
    #[inline]
    fn deref(&self) -> &[u8] {
        match self {
            Key::Plain(key) => key,
            Key::Url(url) => &url.bytes[..url.len],
        }
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

/// Articles of a month, months of a section, sections of a host.
const ARTICLES: u64 = 512;
const MONTHS: u64 = 60;
const FIRST_YEAR: u64 = 2022;
/// Sorted, and none begins another: as everything before the number, for keys must sort as it does.
const SECTIONS: [&str; 8] =
    ["business", "culture", "environment", "health", "opinion", "politics", "science", "world"];
/// A host's name is four of them, as digits of its number.
const SYLLABLES: [&str; 16] = [
    "ba", "be", "bi", "bo", "da", "de", "di", "do", "ka", "ke", "ki", "ko", "ma", "me", "mi", "mo",
];
const WORDS: [&str; 32] = [
    "after", "again", "bank", "city", "court", "day", "europe", "final", "first", "games", "home",
    "how", "market", "meeting", "million", "music", "new", "night", "plan", "police", "prices",
    "report", "school", "six", "storm", "summit", "talks", "the", "train", "vote", "week", "why",
];

/// A URL of an article.
#[derive(Clone)]
pub struct Url {
    len: usize,
    bytes: [u8; KEY_BYTES_MAX],
}

impl Url {
    /// `base` says where it sorts; `slug` chooses the words.
    fn new(base: u64, slug: u64, tail: u64) -> Url {
        let mut url = Url { len: 0, bytes: [0; KEY_BYTES_MAX] };
        let month = base / ARTICLES;
        let section = month / MONTHS;
        let host = section / SECTIONS.len() as u64;
        url.push("https://www.");
        (0..4).rev().for_each(|digit| url.push(SYLLABLES[(host >> (4 * digit)) as usize & 15]));
        url.push(".com/");
        url.push(SECTIONS[section as usize % SECTIONS.len()]);
        url.push("/");
        url.push_number(FIRST_YEAR + month % MONTHS / 12, 4);
        url.push("/");
        url.push_number(month % 12 + 1, 2);
        url.push("/");
        url.push_number(base, 10);
        (0..=slug & 3).for_each(|i| {
            url.push("-");
            url.push(WORDS[(slug >> (8 * (i + 1))) as usize & 31]);
        });
        url.push("?q=");
        url.push_hex(tail);
        url
    }

    #[inline]
    fn push(&mut self, text: &str) {
        self.bytes[self.len..self.len + text.len()].copy_from_slice(text.as_bytes());
        self.len += text.len();
    }

    #[inline]
    fn push_number(&mut self, mut number: u64, digits: usize) {
        for byte in self.bytes[self.len..self.len + digits].iter_mut().rev() {
            *byte = b'0' + (number % 10) as u8;
            number /= 10;
        }
        self.len += digits;
    }

    #[inline]
    fn push_hex(&mut self, number: u64) {
        for (i, byte) in self.bytes[self.len..self.len + 16].iter_mut().enumerate() {
            *byte = b"0123456789abcdef"[(number >> (60 - 4 * i)) as usize & 15];
        }
        self.len += 16;
    }
}

fn from_hex(digits: &[u8; 16]) -> Option<u64> {
    digits.iter().try_fold(0, |number, digit| {
        Some(number << 4 | u64::from(char::from(*digit).to_digit(16)?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Keys; 2] = [Keys::Plain, Keys::Url];

    #[test]
    fn keys_sort_as_records_do() {
        // Steps that cross months, sections and hosts.
        for keys in KINDS {
            for step in [1, 511, 30_719, 245_759, 9_999_991] {
                let n = step * 1000;
                let made: Vec<_> = (0..1000).map(|i| keys.key(i * step, n)).collect();
                assert!(made.is_sorted_by(|a, b| **a < **b), "{keys:?} {step}");
            }
        }
    }

    #[test]
    fn ids_come_back_from_keys() {
        for keys in KINDS {
            for id in (0..3000).chain([u64::MAX / 5]) {
                assert_eq!(keys.id(&keys.key(id, 1000), 1000), Some(id));
                // An absent key may be the key of a record far beyond any that exists.
                let absent = keys.absent_key(id, 1000);
                assert!(keys.id(&absent, 1000).is_none_or(|id| id > 1 << 40));
            }
            for no_key in [&b""[..], &[0; 16], b"https://www.0123456789abcdef", &[255; 40]] {
                assert_eq!(keys.id(no_key, 1000), None);
            }
        }
    }

    #[test]
    fn absent_keys_and_inserts_lie_between_present_ones() {
        for keys in KINDS {
            for id in 1..999 {
                let (low, high) = (keys.key(id - 1, 1000), keys.key(id + 1, 1000));
                let absent = keys.absent_key(id, 1000);
                assert!(*low < *absent && *absent < *high && *absent != *keys.key(id, 1000));
                let insert = id + 1000;
                let at = base(insert, 1000);
                assert!(at == 0 || *keys.key(at - 1, 1000) < *keys.key(insert, 1000));
                assert!(*keys.key(insert, 1000) < *keys.key(at + 1, 1001));
            }
        }
    }

    #[test]
    fn what_does_not_ascend_is_noticed() {
        for keys in KINDS {
            let mut previous = Previous::none();
            let ascends = [5, 6, 9, 9, 8, 10].map(|id| previous.advance(&keys.key(id, 100)));
            assert_eq!(ascends, [true, true, true, false, false, true], "{keys:?}");
        }
        let mut previous = Previous::none();
        let ascends = [&b"a"[..], &[b'b'; 16], b"bb", b"a", &[b'c'; 200], &[b'c'; 16]];
        assert_eq!(
            ascends.map(|key| previous.advance(key)),
            [true, true, false, false, true, false]
        );
    }

    #[test]
    fn urls_look_like_urls() {
        let url = Keys::Url.key(1_234_567, 2_000_000);
        assert_eq!(
            std::str::from_utf8(&url).unwrap(),
            "https://www.bababade.com/business/2022/12/0001234567-train-first?q=9123c47a2e100aa6"
        );
        let lengths = (0..100_000).map(|id| Keys::Url.key(id * 7919, 1_000_000_000).len());
        let (least, most) = lengths.fold((999, 0), |(a, b), len| (len.min(a), len.max(b)));
        assert!(least >= 60 && most <= KEY_BYTES_MAX, "{least} to {most}");
    }
}
