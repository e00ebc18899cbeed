//! Reads of a script.

use super::Runner;
use super::compare::{check_unordered, check_value, walk_rows};
use crate::script::{Key, Span, Tab, Walk};
use crate::transaction::Handle;
use esker::{Error, Result};

impl Runner<'_> {
    pub(super) fn get(&mut self, tab: Tab, key: Key) -> Result<()> {
        let shape = self.settings.shape;
        let Some(handle) = self.existing(tab) else { return Ok(()) };
        let key = key.bytes(shape);
        let wanted = self.row(&handle, &key);
        let found = handle.table.get(&key)?;
        check_value(&key, wanted.as_deref(), found.as_deref());
        let bytes = handle.table.get_with(&key, <[u8]>::len)?;
        assert_eq!(bytes, wanted.as_ref().map(Vec::len), "{}", key.escape_ascii());
        assert_eq!(handle.table.contains(&key)?, wanted.is_some());
        Ok(())
    }

    pub(super) fn multi_get(&mut self, tab: Tab, keys: &[Key]) -> Result<()> {
        let shape = self.settings.shape;
        let Some(handle) = self.existing(tab) else { return Ok(()) };
        let keys: Vec<_> = keys.iter().map(|key| key.bytes(shape)).collect();
        let found = handle.table.multi_get(&keys)?;
        assert_eq!(found.len(), keys.len());
        for (key, found) in keys.iter().zip(found) {
            check_value(key, self.row(&handle, key).as_deref(), found.as_deref());
        }
        Ok(())
    }

    pub(super) fn scan(&mut self, tab: Tab, span: Span, walk: Walk) -> Result<()> {
        let shape = self.settings.shape;
        let Some(handle) = self.existing(tab) else { return Ok(()) };
        if !handle.table.is_ordered() {
            return self.scan_unordered(&handle, span);
        }
        let bounds = span.bounds(shape);
        let rows = match span.prefix(shape) {
            Some(prefix) => handle.table.prefix(prefix)?,
            None => handle.table.range(bounds.clone())?,
        };
        let wanted = self.now().range(&handle.name, handle.generation, &bounds);
        walk_rows(rows, wanted.into(), walk)
    }

    /// Ranges are refused, and all rows come in some order.
    pub(super) fn scan_unordered(&self, handle: &Handle, span: Span) -> Result<()> {
        let refused = match span.prefix(self.settings.shape) {
            Some(prefix) => handle.table.prefix(prefix),
            None => handle.table.range(span.bounds(self.settings.shape)),
        };
        assert!(matches!(refused, Err(Error::Unordered { .. })), "{refused:?}");
        let all = Span::All.bounds(self.settings.shape);
        let wanted = self.now().range(&handle.name, handle.generation, &all).into();
        check_unordered(handle.table.rows()?, &wanted)
    }
}
