//! What must be bounded, whatever a script does.

use super::Runner;
use std::collections::BTreeMap;

/// Pages that a turn of one row, one range or one outcome of background work reads, changes and makes, at most. Tables of
/// scripts have few levels; what counts is that the bound does not depend on how many rows there are.
const TURN_PAGES_MAX: u64 = 64;
/// Bytes of rows in memory for each byte of log, at most: rows that are short take more there.
const ROW_BYTES_PER_LOG_BYTE: u64 = 4;

/// Figures after the last step.
#[derive(Debug, Default)]
pub(super) struct Bounds {
    log_bytes: u64,
    /// Debt of each table.
    debt_bytes: BTreeMap<String, u64>,
    /// Opened again, and nothing written since: debt is what it was at the last checkpoint, which may have come in the middle of
    /// a large write, and what the log has on top; a table sees all of it when it is first written to.
    pub(super) is_reopened: bool,
    /// Looked at since it was opened.
    pub(super) is_seen: bool,
}

impl Runner<'_> {
    /// Checks that no table's background work is farther behind than it may be, and that no turn has done more than it may.
    ///
    /// Who writes waits at the limit. So beyond it there is at most what was written in one step, and a memtable that became a
    /// run before it was full: less than half the limit.
    pub fn check_bounds(&mut self) {
        self.look_at_bounds(true);
    }

    /// Notes how far behind background work is, where it may be any distance: it fails, and deletes go on.
    pub fn note_bounds(&mut self) {
        self.look_at_bounds(false);
    }

    fn look_at_bounds(&mut self, is_bounded: bool) {
        let Some(db) = &self.db else { return };
        let stats = db.stats();
        let pages = stats.turn_pages_max;
        assert!(pages <= TURN_PAGES_MAX, "a turn of {pages} pages");
        let is_reopened = self.bounds.is_reopened;
        let written = match stats.log_bytes.checked_sub(self.bounds.log_bytes) {
            Some(bytes) if !is_reopened || self.bounds.is_seen => bytes,
            // The count has begun anew.
            _ => 0,
        };
        self.bounds.is_seen = true;
        self.bounds.is_reopened = is_reopened && written == 0;
        self.bounds.log_bytes = stats.log_bytes;
        let known = std::mem::take(&mut self.bounds.debt_bytes);
        for table in &stats.tables {
            let limit = table.debt_bytes_limit;
            let before = known.get(&table.name).copied().unwrap_or(0);
            let step = limit.saturating_add(limit / 2 + written * ROW_BYTES_PER_LOG_BYTE);
            // Another table may be what was written to.
            let max = before.max(if written == 0 { limit } else { step });
            let debt = table.debt_bytes;
            assert!(
                debt <= max || is_reopened || !is_bounded,
                "{}: debt of {debt} bytes ({before} before, {written} written), limit {limit}",
                table.name
            );
            self.bounds.debt_bytes.insert(table.name.clone(), debt);
        }
    }
}

/// Adds a figure to sums; of maxima, keeps the greater.
pub fn add_figure(totals: &mut BTreeMap<&'static str, u64>, name: &'static str, value: u64) {
    let sum = totals.entry(name).or_default();
    *sum = if name.ends_with("_max") { value.max(*sum) } else { *sum + value };
}
