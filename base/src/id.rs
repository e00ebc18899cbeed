//! Newtypes for every number that names something, so that one cannot pass for another.

use std::fmt;

/// What is counted (commits, generations, bytes of log, ...) stays below: a step a nanosecond takes 146 years to get here. What a disk says
/// to be at or above it is damage, so whoever reads numbers need not fear to count on from them.
pub const COUNT_LIMIT: u64 = 1 << 62;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $inner:ty, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub $inner);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
    };
}

id!(
    /// Names a page for its whole life, wherever its image lies. Below 2^40; 0 names no page.
    PageId, u64, "page "
);
id!(
    /// Names one segment file. Never reused.
    SegmentId, u32, "segment "
);
id!(
    /// A byte position in the write-ahead log. Grows for ever, across files and incarnations.
    Lsn, u64, "lsn "
);
id!(
    /// The order of commits. 0 is before the first.
    CommitNo, u64, "commit "
);
id!(
    /// Names a table for its whole life; names are never reused for ids. 0 is the engine itself.
    TableId, u32, "table "
);
id!(
    /// Random number in every file of one database, so that files of another are refused.
    DatabaseId, u64, "database "
);

impl PageId {
    /// Names no page.
    pub const NONE: Self = Self(0);
    /// Page ids stay below this, so that a child word has room for a frame hint.
    pub const LIMIT: u64 = 1 << 40;
}

impl CommitNo {
    /// The number after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}
