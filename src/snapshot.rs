//! Snapshots: all tables as of one moment.

use crate::catalog::TableState;
use crate::engine::Engine;
use crate::get::{find_whole, prefetch};
use crate::range::{KeyRange, Span};
use crate::rows::Rows;
use crate::table::{HeldCut, Table, check_open};
use esker_base::sync::Arc;
use esker_base::{Error, Result};
use esker_index::pages::View;

/// All tables as of one moment. Owned and `Send`; takes no lock and stops no writer. While it lives,
/// what it sees and has been overwritten since takes space.
///
/// A table that is younger than the snapshot, or was dropped since, is unknown to it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    engine: Arc<Engine>,
    cut: Arc<HeldCut>,
}

impl Snapshot {
    pub(crate) fn new(engine: &Arc<Engine>) -> Self {
        Self { engine: Arc::clone(engine), cut: Arc::new(HeldCut::take(engine)) }
    }
    fn view(&self) -> View {
        View::Cut(self.cut.commit)
    }
    fn state<'t>(&self, table: &'t Table) -> Result<&'t TableState> {
        if !Arc::ptr_eq(&table.engine, &self.engine) {
            return Err(Error::invalid("table of another database", table.name()));
        }
        check_open(&self.engine, &table.state)?;
        if table.state.created_at > self.cut.commit {
            return Err(Error::UnknownTable { name: table.name().to_owned() });
        }
        Ok(&table.state)
    }

    /// The value of a key.
    pub fn get(&self, table: &Table, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>> {
        find_whole(&self.engine, self.state(table)?, self.view(), key.as_ref())
    }

    /// Whether a key has a row.
    pub fn contains(&self, table: &Table, key: impl AsRef<[u8]>) -> Result<bool> {
        Ok(self.get(table, key)?.is_some())
    }

    /// The values of many keys, in the order of `keys`, read in batches.
    pub fn multi_get<K: AsRef<[u8]>>(
        &self,
        table: &Table,
        keys: &[K],
    ) -> Result<Vec<Option<Vec<u8>>>> {
        prefetch(&self.engine, self.state(table)?, self.view(), keys)?;
        keys.iter().map(|key| self.get(table, key)).collect()
    }

    /// The rows of a range, in key order.
    pub fn range(&self, table: &Table, range: impl KeyRange) -> Result<Rows> {
        self.state(table)?.check_ordered("a range")?;
        Ok(Rows::at(table.clone(), Arc::clone(&self.cut), Span::of(&range)))
    }

    /// All rows: in key order if the index has one, else in any.
    pub fn rows(&self, table: &Table) -> Result<Rows> {
        self.state(table)?;
        Ok(Rows::at(table.clone(), Arc::clone(&self.cut), Span::all()))
    }

    /// The rows whose keys begin with `prefix`.
    pub fn prefix(&self, table: &Table, prefix: impl AsRef<[u8]>) -> Result<Rows> {
        self.state(table)?.check_ordered("a prefix")?;
        Ok(Rows::at(table.clone(), Arc::clone(&self.cut), Span::of_prefix(prefix.as_ref())))
    }
}
