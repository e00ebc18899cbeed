//! Snapshots and scans that a script holds while it does other things.

use super::Runner;
use super::compare::{check_row, check_unordered, check_value, walk_rows};
use crate::script::{Span, Tab, Walk};
use crate::state::{Row, State};
use crate::transaction::Handle;
use esker::{Error, Result, Rows, Snapshot};
use std::collections::VecDeque;

pub(super) struct HeldSnapshot {
    snapshot: Snapshot,
    state: State,
    handles: Vec<Handle>,
}

pub(super) struct HeldScan {
    rows: Rows,
    wanted: VecDeque<Row>,
    pub(super) generation: u64,
    /// The rows come in the order in which they are wanted.
    ordered: bool,
}

impl HeldSnapshot {
    /// A snapshot of a database that was closed gives nothing more.
    pub(super) fn check_closed(&self) {
        let Some(handle) = self.handles.first() else { return };
        let found = self.snapshot.get(&handle.table, b"any");
        let closed = matches!(found, Err(Error::Closed | Error::UnknownTable { .. }));
        assert!(closed, "{found:?}");
    }
}

impl Runner<'_> {
    pub(super) fn hold_snapshot(&self) -> HeldSnapshot {
        HeldSnapshot {
            snapshot: self.db().snapshot(),
            state: self.now(),
            handles: self.handles.values().cloned().collect(),
        }
    }

    pub(super) fn open_scan(&mut self, slot: u8, tab: Tab, span: Span) -> Result<()> {
        let shape = self.settings.shape;
        let Some(handle) = self.existing(tab) else { return Ok(()) };
        let ordered = handle.table.is_ordered();
        let bounds = span.suits(ordered).bounds(shape);
        let wanted = self.now().range(&handle.name, handle.generation, &bounds).into();
        let rows = if ordered { handle.table.range(bounds)? } else { handle.table.rows()? };
        let generation = handle.generation;
        self.scans[usize::from(slot)] = Some(HeldScan { rows, wanted, generation, ordered });
        Ok(())
    }

    pub(super) fn continue_scan(&mut self, slot: u8, rows: u8, back: bool) -> Result<()> {
        let Some(scan) = &mut self.scans[usize::from(slot)] else { return Ok(()) };
        for _ in 0..rows {
            if !scan.ordered {
                let found = scan.rows.next().transpose()?.map(esker::Row::into_parts);
                let Some(found) = found else {
                    assert!(scan.wanted.is_empty(), "missing: {:?}", scan.wanted);
                    break;
                };
                let at = scan.wanted.iter().position(|row| *row == found);
                let at = at.unwrap_or_else(|| panic!("a scan gave {found:?}"));
                scan.wanted.remove(at);
                continue;
            }
            let (found, wanted) = if back {
                (scan.rows.next_back(), scan.wanted.pop_back())
            } else {
                (scan.rows.next(), scan.wanted.pop_front())
            };
            let found = found.transpose()?.map(esker::Row::into_parts);
            check_row(wanted.as_ref(), found.as_ref());
        }
        Ok(())
    }

    pub(super) fn check_snapshot(&self, slot: usize) -> Result<()> {
        let Some(held) = &self.snapshots[slot] else { return Ok(()) };
        let current = |handle: &Handle| {
            self.handles.get(&handle.name).is_some_and(|now| now.generation == handle.generation)
        };
        for handle in &held.handles {
            let found = held.snapshot.rows(&handle.table);
            if !current(handle) {
                assert!(matches!(found, Err(Error::UnknownTable { .. })), "dropped: {found:?}");
                continue;
            }
            let rows = held.state.rows(&handle.name, handle.generation).expect("it was there");
            let wanted: VecDeque<Row> =
                rows.iter().map(|(key, value)| (key.clone(), value.to_vec())).collect();
            let keys: Vec<_> = wanted.iter().step_by(7).map(|(key, _)| key.clone()).collect();
            let values = held.snapshot.multi_get(&handle.table, &keys)?;
            for (key, found) in keys.iter().zip(values) {
                check_value(key, rows.get(key).map(|value| &value[..]), found.as_deref());
            }
            if handle.table.is_ordered() {
                walk_rows(found?, wanted, Walk::Forward)?;
            } else {
                check_unordered(found?, &wanted)?;
            }
        }
        // Tables that are younger than the snapshot hold nothing in it.
        for handle in self.handles.values() {
            if held.state.generation(&handle.name) == Some(handle.generation) {
                continue;
            }
            match held.snapshot.get(&handle.table, b"k000") {
                Ok(None) | Err(Error::UnknownTable { .. }) => {}
                other => panic!("{} is younger than the snapshot: {other:?}", handle.name),
            }
            match held.snapshot.rows(&handle.table).and_then(Iterator::collect::<Result<Vec<_>>>) {
                Ok(rows) => assert!(rows.is_empty(), "{} is younger: {rows:?}", handle.name),
                Err(Error::UnknownTable { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
