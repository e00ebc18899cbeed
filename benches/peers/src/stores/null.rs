//! The floor: no store at all, so that what remains is the generator, the clock and the
//! verification.
//!
//! A write does nothing, for the harness itself keeps the version of every record. A get turns the
//! key back into the record's number and makes the value anew from the version; a scan does so
//! record by record.

use crate::generate::value_into;
use crate::keys::base;
use crate::state::State;
use crate::store::{Batch, Cfg, Held, Result, Session, Snapshot, Store};
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

    /// Shows a record to `f` if it exists and is not below `start`. Says whether to go on.
    #[inline]
    fn see(
        &mut self,
        id: u64,
        start: &[u8],
        left: &mut usize,
        f: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> bool {
        let key = self.state.key(id);
        if *start > *key || !self.make(id) {
            return true;
        }
        *left -= 1;
        f(&key, &self.value) && *left > 0
    }

    /// Records that were inserted between the loaded ones, sorted by their keys: (the loaded one at
    /// whose place it is, it).
    fn inserts(&self) -> Vec<(u64, u64)> {
        let (state, n) = (self.state, self.state.n);
        let mut inserts: Vec<_> = (n..n + state.inserted()).map(|id| (base(id, n), id)).collect();
        inserts.sort_unstable_by(|a, b| {
            a.0.cmp(&b.0).then_with(|| state.key(a.1).cmp(&state.key(b.1)))
        });
        inserts
    }
}

impl Session for NullSession<'_> {
    fn get(&mut self, key: &[u8], f: &mut dyn FnMut(&[u8])) -> Result<bool> {
        let Some(id) = self.state.id(key) else { return Ok(false) };
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
        let (state, n) = (self.state, self.state.n);
        // A seek is to a key; whole scans are from below all.
        let first = state.id(start).map_or(0, |id| base(id, n));
        let inserts = if limit > SEEK_ENTRIES_MAX { self.inserts() } else { vec![] };
        let mut inserts = inserts.into_iter().peekable();
        let mut left = limit;
        for loaded in first..n {
            let before = |(at, id): &(u64, u64)| {
                *at < loaded || *at == loaded && *state.key(*id) < *state.key(loaded)
            };
            while let Some((_, id)) = inserts.next_if(before) {
                if !self.see(id, start, &mut left, f) {
                    return Ok(limit - left);
                }
            }
            if !self.see(loaded, start, &mut left, f) {
                return Ok(limit - left);
            }
        }
        for (_, id) in inserts {
            if !self.see(id, start, &mut left, f) {
                break;
            }
        }
        Ok(limit - left)
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
