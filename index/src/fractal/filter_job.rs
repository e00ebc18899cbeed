//! Filters for runs that were memtables.

use super::read::level_of;
use super::work::{FILTER_BITS_UPPER, ROWS_AT_ONCE, word_of};
use crate::btree::{LeafCopy, seek_leaf};
use crate::kind::{Direction, Value};
use crate::pages::{BuildPages, Step, View};
use crate::run::RunRef;
use crate::run::filter::{FilterBuilder, key_hash};

/// Makes the filter of a run that was a memtable.
#[derive(Debug)]
pub(crate) struct FilterJob {
    pub(crate) run: RunRef,
    /// That it has, about.
    pub(crate) leaves: u32,
    /// Where the next leaf begins; `None` at the end.
    pub(crate) next: Option<Vec<u8>>,
    pub(crate) copy: LeafCopy,
    pub(crate) hashes: Vec<u64>,
    pub(crate) builder: Option<FilterBuilder>,
}

impl FilterJob {
    pub(crate) fn new(run: RunRef) -> Self {
        let leaves = run.pages;
        let run = RunRef { rows: 0, tombstones: 0, pages: 0, has_large: false, ..run };
        Self {
            run,
            leaves,
            next: Some(Vec::new()),
            copy: LeafCopy::default(),
            hashes: Vec::new(),
            builder: None,
        }
    }

    /// One step; the run with its filter at the end.
    pub(crate) fn step<P: BuildPages>(&mut self, pages: &P) -> Step<Option<RunRef>> {
        self.run.level = level_of(pages, self.run.tree, self.run.level)?;
        let tree = word_of(self.run.tree);
        let mut rows = 0;
        while let Some(next) = &self.next {
            if rows > ROWS_AT_ONCE {
                return Ok(None);
            }
            let (view, copy) = (View::Current, &mut self.copy);
            seek_leaf(pages, &tree, view, Some(next), Direction::Forward, copy)?;
            self.run.pages += 1;
            for i in 0..self.copy.len() {
                let (key, value) = self.copy.row(i);
                self.hashes.push(key_hash(key));
                self.run.tombstones += u64::from(value == Value::Tombstone);
                self.run.has_large |= matches!(value, Value::Overflow(_));
            }
            rows += self.copy.len();
            self.next = self.copy.high_fence().map(<[u8]>::to_vec);
        }
        self.run.rows = self.hashes.len() as u64;
        let builder =
            self.builder.get_or_insert_with(|| FilterBuilder::new(&self.hashes, FILTER_BITS_UPPER));
        self.run.filter = builder.finish(pages)?;
        Ok(Some(self.run))
    }
}
