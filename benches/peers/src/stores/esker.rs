//! Esker itself. The part of the engine's name after the dash is the kind of index.

use crate::store::{Batch, Cfg, Result, Rows, Session, Snapshot, Store};
use esker::{Database, Durability, Index, Options, Table};

struct Esker {
    db: Database,
    table: Table,
    durability: Durability,
    memory_bytes: usize,
}

pub fn open(name: &str, c: &Cfg) -> Result<Box<dyn Store>> {
    let kind = match name {
        "esker-btree" => Index::BTree,
        "esker-hash" => Index::Hash,
        "esker-fractal" => Index::Fractal,
        _ => return Err(format!("{name}: no such kind of index").into()),
    };
    let durability = if c.durable { Durability::Sync } else { Durability::Os };
    // To compare: threads read what is read together.
    let io_uring = std::env::var_os("ESKER_WITHOUT_IO_URING").is_none();
    let options = Options::new().memory_bytes(c.memory_bytes).durability(durability);
    let db = options.io_uring(io_uring).open(&c.dir)?;
    let table = db.table("t", kind)?;
    Ok(Box::new(Esker { db, table, durability, memory_bytes: c.memory_bytes }))
}

struct EskerSession<'a> {
    db: &'a Database,
    table: Table,
    ordered: bool,
}

impl Session for EskerSession<'_> {
    fn get(&mut self, key: &[u8], f: &mut dyn FnMut(&[u8])) -> Result<bool> {
        Ok(self.table.get_with(key, |value| f(value))?.is_some())
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        Ok(self.table.put(key, value)?)
    }

    fn delete(&mut self, key: &[u8]) -> Result<()> {
        Ok(self.table.delete(key)?)
    }

    fn write_batch(&mut self, batch: &Batch) -> Result<()> {
        let mut writes = self.db.batch();
        for (key, value) in batch.iter() {
            match value {
                Some(value) => writes.put(&self.table, key, value),
                None => writes.delete(&self.table, key),
            }
        }
        Ok(writes.commit()?)
    }

    fn scan(
        &mut self,
        start: &[u8],
        limit: usize,
        f: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<usize> {
        // A hash has no ranges: only whole scans are asked of it.
        let mut rows = if start.is_empty() || !self.ordered {
            self.table.rows()?
        } else {
            self.table.range(start..)?
        };
        each_row(&mut rows, limit, f)
    }
}

fn each_row(
    rows: &mut esker::Rows,
    limit: usize,
    f: &mut dyn FnMut(&[u8], &[u8]) -> bool,
) -> Result<usize> {
    let mut count = 0;
    while let Some((key, value)) = rows.next_row()? {
        count += 1;
        if !f(key, value) || count == limit {
            break;
        }
    }
    Ok(count)
}

struct EskerSnapshot {
    snapshot: esker::Snapshot,
    table: Table,
}

impl Snapshot for EskerSnapshot {
    fn scan(&mut self, f: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<usize> {
        each_row(&mut self.snapshot.rows(&self.table)?, usize::MAX, f)
    }
}

impl Store for Esker {
    fn ordered(&self) -> bool {
        self.table.kind() != Index::Hash
    }

    fn session<'a>(&'a self) -> Result<Box<dyn Session + 'a>> {
        Ok(Box::new(EskerSession {
            db: &self.db,
            table: self.table.clone(),
            ordered: self.table.kind() != Index::Hash,
        }))
    }

    fn snapshot<'a>(&'a self) -> Result<Option<Box<dyn Snapshot + 'a>>> {
        let (snapshot, table) = (self.db.snapshot(), self.table.clone());
        Ok(Some(Box::new(EskerSnapshot { snapshot, table })))
    }

    fn bulk_load(&self, rows: &mut Rows<'_>) -> Result<()> {
        let mut value = vec![];
        let rows = std::iter::from_fn(|| rows(&mut value).map(|key| (key, value.clone())));
        self.table.bulk_load(rows)?;
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(self.db.sync()?)
    }

    fn settle(&self) -> Result<()> {
        Ok(self.db.settle()?)
    }

    fn reserve_bytes(&self) -> u64 {
        // Log files beyond what a crash now would replay are kept for recycling; and there is what is set
        // aside for a full disk.
        let stats = self.db.stats();
        stats.log_file_bytes.saturating_sub(stats.log_replay_bytes) + stats.reserve_bytes
    }

    fn figures(&self) -> Vec<(&'static str, u64)> {
        self.db.stats().fields()
    }

    fn notes(&self) -> String {
        format!(
            "Esker {:?}: memory_bytes {} MiB is everything it uses, {:?}, otherwise defaults; single \
             puts are single commits; flush = sync of the log, settle = background work idle; disk \
             size without log files that wait to be written again",
            self.table.kind(),
            self.memory_bytes >> 20,
            self.durability
        )
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(self.db.close()?)
    }
}
