//! The floor: no store at all, so that what remains is the generator, the clock and the
//! verification.
//!
//! A write does nothing, for the harness itself keeps the version of every record. A get turns the
//! key back into the record's number and makes the value anew from the version; a scan does so
//! record by record.

use crate::generate::{id_of, key_of, value_into};
use crate::state::State;
use crate::store::{Batch, Cfg, Held, Key, Result, Session, Snapshot, Store};
use std::sync::Arc;

/// Scans longer than this include the records that YCSB inserted between the loaded ones; a seek
/// that sorted them first would cost more than all the rest.
const SEEK_ENTRIES_MAX: usize = 100_000;

struct Null(Arc<State>);

pub fn open(c: &Cfg) -> Result<Box<dyn Store>> {
    Ok(Box::new(Null(Arc::clone(&c.expected))))
}

struct NullSession<'a> {
    state: &'a State,
    value: Vec<u8>,
    /// The versions of a snapshot.
    held: Option<Vec<u8>>,
}

impl NullSession<'_> {
    /// Makes the current value of a record, if it has one.
    fn make(&mut self, id: u64) -> bool {
        if id >= self.state.capacity() {
            return false;
        }
        let version = match &self.held {
            None => self.state.version(id),
            Some(versions) => versions[id as usize],
        };
        if version > 0 {
            value_into(id, version, &mut self.value);
        }
        version > 0
    }

    /// Keys that were inserted between the loaded ones, sorted.
    fn inserts(&self) -> Vec<(Key, u64)> {
        let n = self.state.n;
        let mut inserts: Vec<_> =
            (n..n + self.state.inserted()).map(|id| (key_of(id, n), id)).collect();
        inserts.sort_unstable();
        inserts
    }
}

impl Session for NullSession<'_> {
    fn get(&mut self, key: &[u8], f: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let Some(id) = id_of(key, self.state.n) else { return Ok(false) };
        let found = self.make(id);
        if found {
            f(&self.value);
        }
        Ok(found)
    }

    fn put(&mut self, _key: &[u8], _value: &[u8]) -> Result<()> {
        Ok(())
    }

    fn delete(&mut self, _key: &[u8]) -> Result<()> {
        Ok(())
    }

    fn write_batch(&mut self, _batch: &Batch) -> Result<()> {
        Ok(())
    }

    fn scan(
        &mut self,
        start: &[u8],
        limit: usize,
        f: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<usize> {
        let n = self.state.n;
        let first = u64::from_be_bytes(start[..8].try_into()?);
        let inserts = if limit > SEEK_ENTRIES_MAX { self.inserts() } else { vec![] };
        let mut inserts = inserts.into_iter().peekable();
        let mut count = 0;
        for loaded in first..=n {
            // Past the last loaded record there may be inserts.
            let key = if loaded < n { key_of(loaded, n) } else { [255; 16] };
            while let Some((inserted, id)) = inserts.next_if(|(inserted, _)| *inserted < key) {
                if *start <= inserted[..] && self.make(id) {
                    count += 1;
                    if !f(&inserted, &self.value) || count == limit {
                        return Ok(count);
                    }
                }
            }
            if loaded < n && *start <= key[..] && self.make(loaded) {
                count += 1;
                if !f(&key, &self.value) || count == limit {
                    return Ok(count);
                }
            }
        }
        Ok(count)
    }
}

impl Store for Null {
    fn session<'a>(&'a self) -> Result<Box<dyn Session + 'a>> {
        let value = vec![0; self.0.value_bytes];
        Ok(Box::new(NullSession { state: &self.0, value, held: None }))
    }

    fn snapshot<'a>(&'a self) -> Result<Option<Box<dyn Snapshot + 'a>>> {
        let (state, value) = (&*self.0, vec![0; self.0.value_bytes]);
        let held = Some((0..state.capacity()).map(|id| state.version(id)).collect());
        Ok(Some(Box::new(Held(Box::new(NullSession { state, value, held })))))
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn can_crash(&self) -> bool {
        false
    }

    fn notes(&self) -> String {
        "no store: writes do nothing, reads make the value anew from the version that the harness \
         keeps; seeks leave out records inserted by YCSB; nothing is synced"
            .into()
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
