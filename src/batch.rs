//! Batches: writes that are committed together, without reads.

use crate::engine::Engine;
use crate::options::Durability;
use crate::range::{KeyRange, Span};
use crate::table::{Table, check_open};
use crate::ticket::Ticket;
use crate::write_set::WriteSet;
use esker_base::sync::Arc;
use esker_base::{Error, Result};

/// Writes gathered in memory until [`Batch::commit`] makes them visible and durable at once. Of
/// several writes to one key the last one counts.
#[derive(Debug)]
pub struct Batch {
    engine: Arc<Engine>,
    set: WriteSet,
    durability: Durability,
    failed: Option<Error>,
}

impl Batch {
    pub(crate) fn new(engine: &Arc<Engine>) -> Self {
        Self {
            durability: engine.options.durability,
            engine: Arc::clone(engine),
            set: WriteSet::default(),
            failed: None,
        }
    }

    /// What the commit survives; the database's level unless set.
    pub fn set_durability(&mut self, durability: Durability) {
        self.durability = durability;
    }

    /// Writes a row. An error is reported by [`Self::commit`], which then writes nothing.
    pub fn put(&mut self, table: &Table, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let (key, value) = (key.as_ref(), value.as_ref());
        if self
            .accepts(table, |engine| engine.check_key(key).and_then(|()| engine.check_value(value)))
        {
            self.set.put(&table.state, key, value);
        }
    }

    /// Removes a row, if it is there.
    pub fn delete(&mut self, table: &Table, key: impl AsRef<[u8]>) {
        let key = key.as_ref();
        if self.accepts(table, |engine| engine.check_key(key)) {
            self.set.delete(&table.state, key);
        }
    }

    /// Removes all rows of a range.
    pub fn delete_range(&mut self, table: &Table, range: impl KeyRange) {
        let span = Span::of(&range);
        let check = |_: &Engine| {
            if span.is_all() { Ok(()) } else { table.state.check_ordered("a range delete") }
        };
        if self.accepts(table, check) && !span.is_empty() {
            self.set.delete_range(&table.state, span);
        }
    }

    fn accepts(&mut self, table: &Table, check: impl FnOnce(&Engine) -> Result<()>) -> bool {
        if self.failed.is_some() {
            return false;
        }
        let checked = if Arc::ptr_eq(&table.engine, &self.engine) {
            check_open(&self.engine, &table.state).and_then(|()| check(&self.engine))
        } else {
            Err(Error::invalid("table of another database", table.name()))
        };
        let limit_bytes = self.engine.options.write_set_bytes_max();
        self.failed = match checked {
            Err(error) => Some(error),
            Ok(()) if self.set.bytes() > limit_bytes => {
                Some(Error::TooLarge { bytes: self.set.bytes(), limit_bytes })
            }
            Ok(()) => None,
        };
        self.failed.is_none()
    }

    /// About how many bytes the batch holds.
    pub fn bytes(&self) -> u64 {
        self.set.bytes()
    }

    /// Commits, and returns as soon as the commit survives the death of the process, with a [`Ticket`]
    /// to wait for its survival of power loss.
    ///
    /// # Errors
    /// As [`Self::commit`].
    pub fn submit(self) -> Result<Ticket> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let lsn = self.engine.write_many(self.set, None, 0, Durability::Os)?;
        Ok(Ticket::new(&self.engine, lsn))
    }

    /// Commits all of it, or, on an error, nothing.
    ///
    /// # Errors
    /// The first error of the calls before, `TooLarge`, `NoSpace`, `Poisoned`; `Unknown` if the sync failed.
    pub fn commit(self) -> Result<()> {
        match self.failed {
            Some(error) => Err(error),
            None => self.engine.write_many(self.set, None, 0, self.durability).map(|_| ()),
        }
    }
}
