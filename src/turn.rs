//! The commit turn's state: what one committer at a time may touch.

use crate::conflict::Ring;
use crate::store::pages::Reserve;
use esker_base::{CommitNo, TableId};
use esker_wal::Tail;
use std::collections::BTreeMap;

/// Guarded by the turn mutex.
#[derive(Debug)]
pub(crate) struct Turn {
    /// Where the log goes on.
    pub(crate) tail: Tail,
    /// The newest commit number given out.
    pub(crate) last: CommitNo,
    pub(crate) cuts: Cuts,
    pub(crate) ring: Ring,
    pub(crate) reserve: Reserve,
    /// The transaction that runs alone, if one does: all others wait at the door.
    pub(crate) solo: Option<u64>,
    pub(crate) next_table: TableId,
}

/// Live cuts, with how many hold each.
#[derive(Debug, Default)]
pub(crate) struct Cuts {
    live: BTreeMap<CommitNo, usize>,
}

impl Cuts {
    pub(crate) fn take(&mut self, commit: CommitNo) {
        *self.live.entry(commit).or_insert(0) += 1;
    }
    /// True if that was the last holder.
    pub(crate) fn release(&mut self, commit: CommitNo) -> bool {
        let holders = self.live.get_mut(&commit).expect("released once per take");
        *holders -= 1;
        let last = *holders == 0;
        if last {
            self.live.remove(&commit);
        }
        last
    }
    pub(crate) fn newest(&self) -> Option<CommitNo> {
        self.live.last_key_value().map(|(commit, _)| *commit)
    }
    pub(crate) fn oldest(&self) -> Option<CommitNo> {
        self.live.first_key_value().map(|(commit, _)| *commit)
    }
    pub(crate) fn all(&self) -> Vec<CommitNo> {
        self.live.keys().copied().collect()
    }
}
