//! Ranges of keys, as callers write them.

use std::fmt;
use std::ops::{Bound, Range, RangeFrom, RangeFull, RangeInclusive, RangeTo, RangeToInclusive};

/// Keys in a report: from `low` up to, not including, `high`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct KeySpan {
    /// The first key.
    pub low: Vec<u8>,
    /// Where they end; `None`: nowhere.
    pub high: Option<Vec<u8>>,
}

impl KeySpan {
    /// All keys.
    pub const ALL: Self = Self { low: Vec::new(), high: None };

    pub(crate) fn new(low: &[u8], high: Option<&[u8]>) -> Self {
        Self { low: low.to_vec(), high: high.map(<[u8]>::to_vec) }
    }
    /// One key.
    pub(crate) fn one(key: &[u8]) -> Self {
        Self { low: key.to_vec(), high: Some([key, &[0]].concat()) }
    }
    /// True if `key` is among them.
    pub fn contains(&self, key: &[u8]) -> bool {
        &self.low[..] <= key && self.high.as_ref().is_none_or(|high| key < &high[..])
    }
    /// True if these are all keys.
    pub fn is_all(&self) -> bool {
        self.low.is_empty() && self.high.is_none()
    }
}

impl fmt::Display for KeySpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.high {
            None if self.low.is_empty() => f.write_str("all keys"),
            None => write!(f, "keys from \"{}\" on", self.low.escape_ascii()),
            Some(high) if self.low.is_empty() => {
                write!(f, "keys below \"{}\"", high.escape_ascii())
            }
            Some(high) if high.strip_suffix(&[0]) == Some(&self.low) => {
                write!(f, "key \"{}\"", self.low.escape_ascii())
            }
            Some(high) => write!(
                f,
                "keys from \"{}\" up to, not including, \"{}\"",
                self.low.escape_ascii(),
                high.escape_ascii()
            ),
        }
    }
}

/// Anything that names a range of keys: each of std's range types over anything that is bytes.
///
/// ```
/// # fn takes(_: impl esker::KeyRange) {}
/// takes(..);
/// takes("2026-11-01".."2026-11-02");
/// takes(b"a".to_vec()..=b"f".to_vec());
/// takes(&b"a"[..]..);
/// ```
pub trait KeyRange {
    /// The lower and the upper end.
    fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>);
}

impl KeyRange for RangeFull {
    fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (Bound::Unbounded, Bound::Unbounded)
    }
}
impl<K: AsRef<[u8]>> KeyRange for Range<K> {
    fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (Bound::Included(self.start.as_ref()), Bound::Excluded(self.end.as_ref()))
    }
}
impl<K: AsRef<[u8]>> KeyRange for RangeInclusive<K> {
    fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (Bound::Included(self.start().as_ref()), Bound::Included(self.end().as_ref()))
    }
}
impl<K: AsRef<[u8]>> KeyRange for RangeFrom<K> {
    fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (Bound::Included(self.start.as_ref()), Bound::Unbounded)
    }
}
impl<K: AsRef<[u8]>> KeyRange for RangeTo<K> {
    fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (Bound::Unbounded, Bound::Excluded(self.end.as_ref()))
    }
}
impl<K: AsRef<[u8]>> KeyRange for RangeToInclusive<K> {
    fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (Bound::Unbounded, Bound::Included(self.end.as_ref()))
    }
}
impl<K: AsRef<[u8]>> KeyRange for (Bound<K>, Bound<K>) {
    fn bounds(&self) -> (Bound<&[u8]>, Bound<&[u8]>) {
        (self.0.as_ref().map(AsRef::as_ref), self.1.as_ref().map(AsRef::as_ref))
    }
}

/// A range in the engine's own form: from `low`, up to, not including, `high`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) low: Vec<u8>,
    pub(crate) high: Option<Vec<u8>>,
}

impl Span {
    /// Of all keys.
    pub(crate) fn all() -> Self {
        Self { low: Vec::new(), high: None }
    }
    /// True if it is that.
    pub(crate) fn is_all(&self) -> bool {
        self.low.is_empty() && self.high.is_none()
    }
    pub(crate) fn of(range: &impl KeyRange) -> Self {
        let (low, high) = range.bounds();
        let low = match low {
            Bound::Included(key) => key.to_vec(),
            Bound::Excluded(key) => just_after(key),
            Bound::Unbounded => Vec::new(),
        };
        let high = match high {
            Bound::Included(key) => Some(just_after(key)),
            Bound::Excluded(key) => Some(key.to_vec()),
            Bound::Unbounded => None,
        };
        Self { low, high }
    }

    /// All keys that begin with `prefix`.
    pub(crate) fn of_prefix(prefix: &[u8]) -> Self {
        let mut high = prefix.to_vec();
        while let Some(last) = high.pop() {
            if last < 0xff {
                high.push(last + 1);
                return Self { low: prefix.to_vec(), high: Some(high) };
            }
        }
        Self { low: prefix.to_vec(), high: None }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.high.as_ref().is_some_and(|high| *high <= self.low)
    }
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        key >= &self.low[..] && self.high.as_ref().is_none_or(|high| key < &high[..])
    }
}

/// The smallest key above `key`.
fn just_after(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_where_the_next_one_begins() {
        assert_eq!(Span::of_prefix(b"ab").high.unwrap(), b"ac");
        assert_eq!(Span::of_prefix(b"a\xff").high.unwrap(), b"b");
        assert_eq!(Span::of_prefix(b"\xff\xff").high, None);
        assert_eq!(Span::of_prefix(b"").high, None);
    }

    #[test]
    fn inclusive_ends_are_half_open_ones_a_byte_longer() {
        let span = Span::of(&(b"a".to_vec()..=b"b".to_vec()));
        assert!(span.contains(b"b") && !span.contains(b"b\0"));
        assert!(Span::of(&("b".."a")).is_empty());
    }
}
