//! What was found against what is wanted.

use super::Runner;
use crate::script::{Bounds, Walk};
use crate::state::{Row, State, brief, range};
use esker::{Index, Result, Rows, Table};
use std::collections::{BTreeMap, VecDeque};

impl Runner<'_> {
    /// Checks the structure of everything, and that nothing was left in the directory. Not while the disk fails: what
    /// cannot be removed stays until the next open.
    pub fn verify_all(&self) -> Result<()> {
        let strays = self.db().verify()?.strays;
        assert!(strays.is_empty(), "nothing names {strays:?}");
        self.verify()
    }

    /// Checks the structure of everything.
    pub fn verify(&self) -> Result<()> {
        let found = self.db().verify()?;
        assert!(found.is_sound(), "{:?}", found.damage);
        let state = self.now();
        let rows: usize = state
            .tables()
            .map(|(name, generation)| state.rows(name, generation).map_or(0, BTreeMap::len))
            .sum();
        // Who writes blindly keeps older rows, too.
        let blind = self.handles.values().any(|handle| writes_blindly(&handle.table));
        let met = usize::try_from(found.rows).expect("few");
        assert!(if blind { met >= rows } else { met == rows }, "verify met {met} of {rows} rows");
        assert_eq!(found.tables, state.tables().count() as u64);
        Ok(())
    }

    /// Compares all that can be read, both ways.
    pub fn compare_all(&self) -> Result<()> {
        let state = self.now();
        let found = State::read(self.db())?;
        assert!(state.same_rows(&found), "{}", state.difference(&found));
        for handle in self.handles.values() {
            let rows = state.rows(&handle.name, handle.generation).expect("it exists");
            let all: Bounds = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
            if handle.table.is_ordered() {
                walk_rows(handle.table.range(..)?, range(rows, &all).into(), Walk::LendingBack)?;
            }
            for (key, value) in rows {
                let found = handle.table.get(key)?;
                check_value(key, Some(value), found.as_deref());
            }
            if !writes_blindly(&handle.table) && !self.inexact.contains(&handle.generation) {
                assert_eq!(handle.table.approximate_len(), rows.len() as u64, "{}", handle.name);
            }
        }
        Ok(())
    }
}

/// True if the kind may write without looking: then rows are counted about.
pub(super) fn writes_blindly(table: &Table) -> bool {
    matches!(table.kind(), Index::Hash | Index::Fractal | Index::Custom(_))
}

/// All rows of a table without order, compared with what is wanted.
pub(super) fn check_unordered(rows: Rows, wanted: &VecDeque<Row>) -> Result<()> {
    let mut found: Vec<Row> =
        rows.map(|row| row.map(esker::Row::into_parts)).collect::<Result<_>>()?;
    found.sort();
    assert_eq!(found.len(), wanted.len(), "rows of a table without order");
    for (found, wanted) in found.iter().zip(wanted) {
        check_row(Some(wanted), Some(found));
    }
    Ok(())
}

pub(super) fn check_value(key: &[u8], wanted: Option<&[u8]>, found: Option<&[u8]>) {
    assert!(
        wanted == found,
        "{}: wanted {}, found {}",
        key.escape_ascii(),
        brief(wanted),
        brief(found)
    );
}

pub(super) fn check_row(wanted: Option<&Row>, found: Option<&Row>) {
    let text = |row: Option<&Row>| {
        row.map_or_else(
            || "the end".to_owned(),
            |(key, value)| format!("{}: {}", key.escape_ascii(), brief(Some(value))),
        )
    };
    assert!(wanted == found, "a scan gave {} instead of {}", text(found), text(wanted));
}

/// Walks a scan and compares it with what is wanted.
pub(super) fn walk_rows(mut rows: Rows, mut wanted: VecDeque<Row>, walk: Walk) -> Result<()> {
    for step in 0.. {
        let back = match walk {
            Walk::Forward | Walk::Lending => false,
            Walk::Backward | Walk::LendingBack => true,
            Walk::Both(bits) => bits >> (step % 32) & 1 == 1,
        };
        let lent =
            |row: Option<(&[u8], &[u8])>| row.map(|(key, value)| (key.to_vec(), value.to_vec()));
        let found = match walk {
            Walk::Lending => lent(rows.next_row()?),
            Walk::LendingBack => lent(rows.next_row_back()?),
            _ if back => rows.next_back().transpose()?.map(esker::Row::into_parts),
            _ => rows.next().transpose()?.map(esker::Row::into_parts),
        };
        let row = if back { wanted.pop_back() } else { wanted.pop_front() };
        check_row(row.as_ref(), found.as_ref());
        if row.is_none() {
            break;
        }
    }
    // The other end knows that it is over.
    let end = if matches!(walk, Walk::Backward | Walk::LendingBack) {
        rows.next()
    } else {
        rows.next_back()
    };
    let end = end.transpose()?.map(esker::Row::into_parts);
    check_row(None, end.as_ref());
    Ok(())
}
