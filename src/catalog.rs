//! The catalogue: which tables there are.
//!
//! Kept whole in memory and in each checkpoint; changed by log records. In a checkpoint:
//!
//! ```text
//! next table id varint | count varint | (id varint, kind u8, root page varint, rows varint,
//!                                        name: length varint, bytes)*
//! ```

use esker_base::codec::{Reader, put_prefixed, put_varint};
use esker_base::sync::{Arc, AtomicBool, AtomicU64, Ordering};
use esker_base::{CommitNo, PageId, TableId};
use esker_index::pages::ChildWord;
use std::collections::BTreeMap;
use std::fmt;

/// The kind of index that a table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Index {
    /// Ordered; fast point reads and scans.
    BTree,
}

impl Index {
    /// On disk: never renumber. 2 is set aside for hash, 3 for fractal, 4 for custom kinds.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::BTree => 1,
        }
    }
    pub(crate) fn of_code(code: u8) -> Option<Self> {
        (code == 1).then_some(Self::BTree)
    }
    /// The name, as the command line spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::BTree => "btree",
        }
    }
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
    /// The commit that made it, or 0 if that was before this start: cuts before it do not know it.
    pub(crate) created_at: CommitNo,
    /// The root's page id never changes; its hint does.
    pub(crate) root: ChildWord,
    // Atomic.
    /// Rows, about: range deletes that drop whole subtrees do not count them.
    pub(crate) rows: AtomicU64,
    pub(crate) dropped: AtomicBool,
}

impl TableState {
    pub(crate) fn new(id: TableId, name: &str, kind: Index, root: PageId, rows: u64) -> Self {
        Self {
            created_at: CommitNo(0),
            id,
            name: name.to_owned(),
            kind,
            root: ChildWord::new(root, ChildWord::NO_HINT),
            rows: AtomicU64::new(rows),
            dropped: AtomicBool::new(false),
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
}

impl Catalog {
    pub(crate) fn insert(&mut self, table: Arc<TableState>) {
        self.by_id.insert(table.id, Arc::clone(&table));
        self.by_name.insert(table.name.clone(), table);
    }
    pub(crate) fn remove(&mut self, id: TableId) -> Option<Arc<TableState>> {
        let table = self.by_id.remove(&id)?;
        self.by_name.remove(&table.name);
        Some(table)
    }

    pub(crate) fn encode(&self, next: TableId, out: &mut Vec<u8>) {
        put_varint(out, u64::from(next.0));
        put_varint(out, self.by_id.len() as u64);
        for table in self.by_id.values() {
            put_varint(out, u64::from(table.id.0));
            out.push(table.kind.code());
            put_varint(out, table.root.page().0);
            put_varint(out, table.rows.load(Ordering::Relaxed));
            put_prefixed(out, table.name.as_bytes());
        }
    }

    /// Reads what [`Self::encode`] wrote: the tables and the next id.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(Self, TableId)> {
        let mut reader = Reader::new(bytes);
        let next = TableId(u32::try_from(reader.varint()?).ok()?);
        let mut catalog = Self::default();
        for _ in 0..reader.varint()? {
            let id = TableId(u32::try_from(reader.varint()?).ok()?);
            let kind = Index::of_code(reader.u8()?)?;
            let root = PageId(reader.varint()?);
            let rows = reader.varint()?;
            let name = std::str::from_utf8(reader.prefixed()?).ok()?;
            if root == PageId::NONE || root.0 >= PageId::LIMIT || id >= next {
                return None;
            }
            catalog.insert(Arc::new(TableState::new(id, name, kind, root, rows)));
        }
        reader.is_empty().then_some((catalog, next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_round_trips() {
        let mut catalog = Catalog::default();
        for (id, name) in [(1, "users"), (7, "clicks")] {
            let table = TableState::new(TableId(id), name, Index::BTree, PageId(9), 5);
            catalog.insert(Arc::new(table));
        }
        let mut out = Vec::new();
        catalog.encode(TableId(8), &mut out);
        let (read, next) = Catalog::decode(&out).unwrap();
        assert_eq!(next, TableId(8));
        assert_eq!(read.by_name["clicks"].id, TableId(7));
        assert_eq!(read.by_id[&TableId(1)].name, "users");
        assert!(Catalog::decode(&out[..out.len() - 1]).is_none());
    }
}
