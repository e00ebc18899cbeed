//! The catalogue: which tables there are.
//!
//! Kept whole in memory and in each checkpoint; changed by log records. In a checkpoint:
//!
//! ```text
//! next table id varint | count varint | (id varint, kind u8, [name of the kind: length varint, bytes,]
//!                                        root page varint, rows varint, name: length varint, bytes)*
//! ```
//!
//! The kind of index has its own name if it is 4 (custom). Tables that were dropped, and have pages that are not
//! freed yet, come with root page 0: whoever frees the pages must know their kind.

use crate::kinds::AnyKind;
use crate::pace::Pace;
use esker_base::codec::{Reader, put_prefixed, put_varint};
use esker_base::sync::{Arc, AtomicBool, AtomicU8, AtomicU64, Mutex, Ordering};
use esker_base::{CommitNo, Error, PageId, Result, TableId};
use esker_index::pages::ChildWord;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// The kind of index that a table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Index {
    /// Ordered; fast point reads and scans.
    BTree,
    /// No order; the fastest point reads and writes, as long as the table's pages are in memory.
    Hash,
    /// Ordered; the fastest writes, above all of tables far larger than memory, and fast scans.
    Fractal,
    /// A kind of this name, registered with [`Options::index_kind`](crate::Options::index_kind).
    Custom(&'static str),
}

/// Longest name of a table, or of a kind of index, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 255;

/// Whether tables may have this name.
pub(crate) fn is_name(name: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&name.len())
}

/// Whether tables may have this id. Page images of the engine itself have 0; the last is never reached, so there is always a next.
pub(crate) fn is_id(id: TableId) -> bool {
    id > TableId(0) && id < TableId(u32::MAX)
}

/// The code of custom kinds, whose name follows.
pub(crate) const CUSTOM: u8 = 4;

impl Index {
    /// On disk: never renumber.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::BTree => 1,
            Self::Hash => 2,
            Self::Fractal => 3,
            Self::Custom(_) => CUSTOM,
        }
    }
    /// The name that goes with the code of a custom kind; else empty.
    pub(crate) fn custom_name(self) -> &'static str {
        match self {
            Self::Custom(name) => name,
            Self::BTree | Self::Hash | Self::Fractal => "",
        }
    }
    /// `custom` is the name, if the code says that there is one.
    pub(crate) fn of_code(code: u8, custom: &str) -> Option<Self> {
        match code {
            1 => Some(Self::BTree),
            2 => Some(Self::Hash),
            3 => Some(Self::Fractal),
            CUSTOM => Some(Self::Custom(interned(custom))),
            _ => None,
        }
    }
    /// The name, as the command line spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::BTree => "btree",
            Self::Hash => "hash",
            Self::Fractal => "fractal",
            Self::Custom(name) => name,
        }
    }
}

/// The name as a constant. Each name is kept once, for good: there are few.
fn interned(name: &str) -> &'static str {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock();
    if let Some(name) = names.get(name) {
        return name;
    }
    let name: &'static str = Box::leak(name.to_owned().into_boxed_str());
    names.insert(name);
    name
}

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One table, shared by all handles to it.
#[derive(Debug)]
pub(crate) struct TableState {
    // Fixed at creation.
    pub(crate) id: TableId,
    pub(crate) name: String,
    pub(crate) kind: Index,
    pub(crate) index: Arc<AnyKind>,
    /// The commit that made it, or 0 if that was before this start: cuts before it do not know it.
    pub(crate) created_at: CommitNo,
    /// The root's page id never changes; its hint does.
    pub(crate) root: ChildWord,
    // Atomic.
    /// Rows, about: range deletes that drop whole subtrees do not count them.
    pub(crate) rows: AtomicU64,
    pub(crate) dropped: AtomicBool,
    /// How the last step of background work ended: 0 well, 1 without space, 2 at something damaged.
    work_failed: AtomicU8,
    /// How fast it may be written while background work is behind.
    pub(crate) pace: Pace,
}

impl TableState {
    pub(crate) fn new(
        id: TableId,
        name: &str,
        kind: Index,
        index: Arc<AnyKind>,
        root: PageId,
        rows: u64,
    ) -> Self {
        Self {
            index,
            created_at: CommitNo(0),
            id,
            name: name.to_owned(),
            kind,
            root: ChildWord::new(root, ChildWord::NO_HINT),
            rows: AtomicU64::new(rows),
            dropped: AtomicBool::new(false),
            work_failed: AtomicU8::new(0),
            pace: Pace::default(),
        }
    }
    /// # Errors
    /// `UnknownKind` if the kind of index was not registered at open.
    #[inline]
    pub(crate) fn check_registered(&self) -> Result<()> {
        match *self.index {
            AnyKind::Unregistered => {
                Err(Error::UnknownKind { kind: self.kind.to_string(), table: self.name.clone() })
            }
            _ => Ok(()),
        }
    }
    /// # Errors
    /// `Unordered` if the index has no order, which `op` needs.
    pub(crate) fn check_ordered(&self, op: &'static str) -> Result<()> {
        if self.index.is_ordered() {
            return Ok(());
        }
        Err(Error::Unordered { table: self.name.clone(), op })
    }
    /// Remembers how a step of background work has ended.
    pub(crate) fn note_work(&self, error: Option<&Error>) {
        let failed = match error {
            None => 0,
            Some(Error::NoSpace { .. }) => 1,
            Some(_) => 2,
        };
        self.work_failed.store(failed, Ordering::Relaxed);
    }
    /// Whether it is of use to wait for background work.
    ///
    /// # Errors
    /// `NoSpace` if that is what it waits for itself.
    pub(crate) fn may_wait_for_work(&self) -> Result<bool> {
        match self.work_failed.load(Ordering::Relaxed) {
            0 => Ok(true),
            1 => Err(Error::NoSpace { op: "merge", file: self.name.clone() }),
            _ => Ok(false),
        }
    }
    pub(crate) fn add_rows(&self, change: i64) {
        // Never below zero: the count is an estimate once subtrees were dropped.
        let update = |rows: u64| Some(rows.saturating_add_signed(change));
        self.rows.fetch_update(Ordering::Relaxed, Ordering::Relaxed, update).ok();
    }
}

/// All tables.
#[derive(Debug, Default)]
pub(crate) struct Catalog {
    pub(crate) by_name: BTreeMap<String, Arc<TableState>>,
    pub(crate) by_id: BTreeMap<TableId, Arc<TableState>>,
    /// Dropped, with pages that may not be freed yet.
    pub(crate) dropped: BTreeMap<TableId, Index>,
}

impl Catalog {
    pub(crate) fn insert(&mut self, table: Arc<TableState>) {
        self.by_id.insert(table.id, Arc::clone(&table));
        self.by_name.insert(table.name.clone(), table);
    }
    pub(crate) fn remove(&mut self, id: TableId) -> Option<Arc<TableState>> {
        let table = self.by_id.remove(&id)?;
        self.by_name.remove(&table.name);
        self.dropped.insert(id, table.kind);
        Some(table)
    }

    /// True if there is, or was, a table with this id, or one has this name. Pages name their table, and are checked as those
    /// of its kind: a second one of another kind would take them for its own.
    pub(crate) fn has(&self, id: TableId, name: &str) -> bool {
        self.by_id.contains_key(&id)
            || self.dropped.contains_key(&id)
            || self.by_name.contains_key(name)
    }

    pub(crate) fn encode(&self, next: TableId, out: &mut Vec<u8>) {
        put_varint(out, u64::from(next.0));
        put_varint(out, (self.by_id.len() + self.dropped.len()) as u64);
        for table in self.by_id.values() {
            let rows = table.rows.load(Ordering::Relaxed);
            put_table(out, table.id, table.kind, table.root.page(), rows, &table.name);
        }
        for (id, kind) in &self.dropped {
            put_table(out, *id, *kind, PageId::NONE, 0, "");
        }
    }

    /// Reads what [`Self::encode`] wrote: the tables and the next id.
    pub(crate) fn decode(
        bytes: &[u8],
        make: &dyn Fn(TableId, Index) -> Arc<AnyKind>,
    ) -> Option<(Self, TableId)> {
        let mut reader = Reader::new(bytes);
        let next = TableId(u32::try_from(reader.varint()?).ok()?);
        if next == TableId(0) {
            return None;
        }
        let mut catalog = Self::default();
        for _ in 0..reader.varint()? {
            let id = TableId(u32::try_from(reader.varint()?).ok()?);
            let code = reader.u8()?;
            let custom = if code == CUSTOM { reader.prefixed()? } else { b"" };
            let kind = Index::of_code(code, std::str::from_utf8(custom).ok()?)?;
            let root = PageId(reader.varint()?);
            let rows = reader.varint()?;
            let name = std::str::from_utf8(reader.prefixed()?).ok()?;
            if root.0 >= PageId::LIMIT || id >= next || !is_id(id) || catalog.has(id, name) {
                return None;
            }
            if root == PageId::NONE {
                catalog.dropped.insert(id, kind);
                continue;
            }
            if !is_name(name) {
                return None;
            }
            catalog.insert(Arc::new(TableState::new(id, name, kind, make(id, kind), root, rows)));
        }
        reader.is_empty().then_some((catalog, next))
    }
}

fn put_table(out: &mut Vec<u8>, id: TableId, kind: Index, root: PageId, rows: u64, name: &str) {
    put_varint(out, u64::from(id.0));
    out.push(kind.code());
    if let Index::Custom(name) = kind {
        put_prefixed(out, name.as_bytes());
    }
    put_varint(out, root.0);
    put_varint(out, rows);
    put_prefixed(out, name.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_round_trips() {
        let make = |_, _| Arc::new(AnyKind::Unregistered);
        let mut catalog = Catalog::default();
        for (id, name, kind) in [
            (1, "users", Index::BTree),
            (7, "clicks", Index::Custom("mine")),
            (3, "old", Index::BTree),
        ] {
            let table =
                TableState::new(TableId(id), name, kind, make(TableId(id), kind), PageId(9), 5);
            catalog.insert(Arc::new(table));
        }
        catalog.remove(TableId(3));
        let mut out = Vec::new();
        catalog.encode(TableId(8), &mut out);
        let (read, next) = Catalog::decode(&out, &make).unwrap();
        assert_eq!(next, TableId(8));
        assert_eq!(read.by_name["clicks"].id, TableId(7));
        assert_eq!(read.by_name["clicks"].kind, Index::Custom("mine"));
        assert_eq!(read.by_id[&TableId(1)].name, "users");
        assert_eq!(read.dropped[&TableId(3)], Index::BTree);
        assert!(Catalog::decode(&out[..out.len() - 1], &make).is_none());
    }

    #[test]
    fn no_table_is_there_twice() {
        let make = |_, _| Arc::new(AnyKind::Unregistered);
        let decoded = |second: (u32, PageId, &str)| {
            let (id, root, name) = second;
            let mut out = vec![8, 3];
            put_table(&mut out, TableId(1), Index::BTree, PageId(9), 0, "users");
            put_table(&mut out, TableId(2), Index::Hash, PageId::NONE, 0, "");
            put_table(&mut out, TableId(id), Index::Hash, root, 0, name);
            Catalog::decode(&out, &make).is_some()
        };
        assert!(decoded((3, PageId(10), "clicks")) && decoded((3, PageId::NONE, "")));
        for second in [(1, PageId(10), "clicks"), (1, PageId::NONE, ""), (2, PageId(10), "clicks")]
        {
            assert!(!decoded(second), "{second:?}: an id is there twice");
        }
        assert!(!decoded((3, PageId(10), "users")), "a name is there twice");
        assert!(!decoded((0, PageId(10), "clicks")), "the engine's own images have table 0");
        assert!(!decoded((8, PageId(10), "clicks")), "it is still to come");
        assert!(!decoded((3, PageId(10), "")), "a name that no call takes");
        assert!(!decoded((3, PageId(PageId::LIMIT), "clicks")), "a page that cannot be");
    }
}
