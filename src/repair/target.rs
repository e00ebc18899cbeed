//! Where the rows go: a new database, or nowhere, if only the loss is to be known.

use crate::batch::Batch;
use crate::catalog::Index;
use crate::db::Database;
use crate::range::KeySpan;
use crate::record::Record;
use crate::table::Table;
use esker_base::codec::Reader;
use esker_base::{Result, TableId};
use std::collections::BTreeMap;
use std::ops::Bound;

/// Most bytes of rows committed at a time.
const BATCH_BYTES_MAX: u64 = 1 << 20;

/// A table as it is called there.
#[derive(Debug)]
pub(super) struct TargetTable {
    pub(super) name: String,
    pub(super) kind: Index,
    table: Option<Table>,
}

/// Tables under the ids that they had.
#[derive(Debug)]
pub(super) struct Target {
    db: Option<Database>,
    pub(super) tables: BTreeMap<TableId, TargetTable>,
    batch: Option<Batch>,
    /// A batch is committed as soon as it has so many bytes. With one row more, of no more bytes than that, it is well
    /// below what the database takes.
    batch_bytes: u64,
}

/// What the log has done to losses.
pub(super) enum Effect {
    None,
    /// All of a table was deleted later: nothing of it is lost.
    Emptied(TableId),
}

impl Target {
    /// `db` is new, or nothing is written.
    pub(super) fn new(db: Option<Database>) -> Self {
        let limit = db.as_ref().map(|db| db.engine().options.write_set_bytes_max() / 4);
        let batch_bytes = limit.unwrap_or_default().min(BATCH_BYTES_MAX);
        Self { db, tables: BTreeMap::new(), batch: None, batch_bytes }
    }

    /// Makes a table; of another name if that is taken.
    pub(super) fn create(&mut self, id: TableId, name: &str, kind: Index) -> Result<()> {
        if self.tables.contains_key(&id) {
            return Ok(());
        }
        let mut name = name.to_owned();
        while self.tables.values().any(|table| table.name == name) {
            name = format!("recovered-{}-{name}", id.0);
        }
        let table = self.db.as_ref().map(|db| db.create_table(&name, kind)).transpose()?;
        self.tables.insert(id, TargetTable { name, kind, table });
        Ok(())
    }

    /// The table of an id; if its name is gone, a new one.
    fn table(&mut self, id: TableId) -> Result<Option<&Table>> {
        if !self.tables.contains_key(&id) {
            self.create(id, &recovered_name(id), Index::BTree)?;
        }
        Ok(self.tables[&id].table.as_ref())
    }

    fn batch(&mut self) -> Option<Batch> {
        self.batch.take().or_else(|| self.db.as_ref().map(Database::batch))
    }

    fn keep(&mut self, batch: Batch) -> Result<()> {
        if batch.bytes() >= self.batch_bytes {
            return batch.commit();
        }
        self.batch = Some(batch);
        Ok(())
    }

    /// Commits what was put and deleted so far.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.batch.take().map_or(Ok(()), Batch::commit)
    }

    pub(super) fn put(&mut self, id: TableId, key: &[u8], value: &[u8]) -> Result<()> {
        if value.len() as u64 >= self.batch_bytes {
            self.flush()?;
            return self.table(id)?.map_or(Ok(()), |table| table.put(key, value));
        }
        let Some(mut batch) = self.batch() else { return self.table(id).map(drop) };
        if let Some(table) = self.table(id)? {
            batch.put(table, key, value);
        }
        self.keep(batch)
    }

    pub(super) fn delete(&mut self, id: TableId, key: &[u8]) -> Result<()> {
        let Some(mut batch) = self.batch() else { return self.table(id).map(drop) };
        if let Some(table) = self.table(id)? {
            batch.delete(table, key);
        }
        self.keep(batch)
    }

    pub(super) fn delete_range(&mut self, id: TableId, span: &KeySpan) -> Result<()> {
        self.flush()?;
        let Some(table) = self.table(id)? else { return Ok(()) };
        if span.is_all() {
            return table.clear();
        }
        if !table.is_ordered() {
            // A table whose kind was not known when its rows were restored; such a range was never deleted from it.
            return Ok(());
        }
        table.delete_range(bounds(span))
    }

    /// Deletes the rows of a span whose keys are chosen.
    pub(super) fn delete_where(
        &mut self,
        id: TableId,
        span: &KeySpan,
        chosen: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<()> {
        self.flush()?;
        let Some(table) = self.table(id)?.cloned() else { return Ok(()) };
        for row in table.range(bounds(span))? {
            let row = row?;
            if chosen(row.key()) {
                self.delete(id, row.key())?;
            }
        }
        self.flush()
    }

    /// Carries out what a group of the log says; `None` if it cannot be read.
    pub(super) fn replay(&mut self, payload: &[u8]) -> Result<Option<Vec<Effect>>> {
        let mut reader = Reader::new(payload);
        let mut effects = Vec::new();
        while !reader.is_empty() {
            let Some(record) = Record::decode(&mut reader) else { return Ok(None) };
            effects.push(match record {
                Record::Put { table, key, value } => {
                    self.put(table, key, value)?;
                    Effect::None
                }
                Record::Delete { table, key } => {
                    self.delete(table, key)?;
                    Effect::None
                }
                Record::DeleteRange { table, low, high } => {
                    let span = KeySpan::new(low, high);
                    self.delete_range(table, &span)?;
                    if span.is_all() { Effect::Emptied(table) } else { Effect::None }
                }
                Record::ClearTable { table } => {
                    self.delete_range(table, &KeySpan::ALL)?;
                    Effect::Emptied(table)
                }
                Record::CreateTable { table, kind, name, custom } => {
                    let name = String::from_utf8_lossy(name).into_owned();
                    let kind = Index::of_code(kind, &String::from_utf8_lossy(custom));
                    let Some(kind) = kind else { return Ok(None) };
                    self.create_or_rename(table, &name, kind)?;
                    Effect::None
                }
                Record::DropTable { table } => {
                    self.drop_table(table)?;
                    Effect::Emptied(table)
                }
            });
        }
        Ok(Some(effects))
    }

    /// A table that the log makes: its pages may have been met already, without their name.
    fn create_or_rename(&mut self, id: TableId, name: &str, kind: Index) -> Result<()> {
        let kind = self.known(kind);
        let is_nameless =
            self.tables.get(&id).is_some_and(|table| table.name == recovered_name(id));
        if !is_nameless {
            return self.create(id, name, kind);
        }
        self.flush()?;
        let old = self.tables.remove(&id).expect("just seen");
        self.create(id, name, kind)?;
        let Some(rows) = old.table else { return Ok(()) };
        for row in rows.rows()? {
            let row = row?;
            self.put(id, row.key(), row.value())?;
        }
        self.flush()?;
        self.db.as_ref().map_or(Ok(()), |db| db.drop_table(&old.name))
    }

    /// The kind, or, if it is not registered here, one that holds its rows.
    pub(super) fn known(&self, kind: Index) -> Index {
        let is_known = match (&self.db, kind) {
            (Some(db), Index::Custom(name)) => db.has_kind(name),
            _ => true,
        };
        if is_known { kind } else { Index::BTree }
    }

    fn drop_table(&mut self, id: TableId) -> Result<()> {
        self.flush()?;
        let Some(table) = self.tables.remove(&id) else { return Ok(()) };
        self.db.as_ref().map_or(Ok(()), |db| db.drop_table(&table.name))
    }

    /// Ends with a checkpoint. The rows of each table.
    pub(super) fn finish(mut self) -> Result<BTreeMap<TableId, (String, Index, u64)>> {
        self.flush()?;
        let mut rows = BTreeMap::new();
        for (id, TargetTable { name, kind, table }) in std::mem::take(&mut self.tables) {
            let count = match table {
                Some(table) => {
                    let mut count = 0;
                    for row in table.rows()? {
                        row?;
                        count += 1;
                    }
                    count
                }
                None => 0,
            };
            rows.insert(id, (name, kind, count));
        }
        if let Some(db) = self.db.take() {
            db.sync()?;
            db.close()?;
        }
        Ok(rows)
    }
}

/// What a table is called whose name is gone.
pub(super) fn recovered_name(id: TableId) -> String {
    format!("recovered-{}", id.0)
}

fn bounds(span: &KeySpan) -> (Bound<&[u8]>, Bound<&[u8]>) {
    let high = span.high.as_ref().map_or(Bound::Unbounded, |high| Bound::Excluded(&high[..]));
    (Bound::Included(&span.low), high)
}
