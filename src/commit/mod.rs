//! The commit turn in action. Two passes: the first latches what the writes touch and makes room, and may stop anywhere;
//! the second begins with the log append and cannot fail. See DESIGN.md §4.2.

mod chunked;
mod limits;
mod many;
mod one;

pub(crate) use many::Job;
pub(crate) use one::Expect;

use crate::catalog::TableState;
use crate::engine::{Engine, Tries};
use crate::store::pages::TurnSession;
use crate::turn::Turn;
use crate::value::Handle;
use crate::write_set::WriteSet;
use esker_base::CommitNo;
use esker_base::sync::MutexGuard;
use esker_index::kind;
use esker_index::pages::{Stop, View};

/// Steps of tidying up after one delete.
const TIDY_STEPS_MAX: usize = 16;

impl Engine {
    /// Leaves the turn without a commit; changes that move no key out of reach (splits) are published.
    fn leave_early(&self, mut turn: MutexGuard<'_, Turn>, commit: CommitNo, changed: bool) {
        if changed {
            self.publish(&mut turn, commit);
        }
    }

    /// The rows that a write set has changed are not in the row cache any more. In the turn, before it is published.
    fn forget_rows(&self, set: &WriteSet) {
        if !self.row_cache.is_on() {
            return;
        }
        if !set.ranges.is_empty() {
            self.row_cache.forget_all();
        }
        for point in set.points() {
            self.row_cache.forget(set.tables[point.table as usize].id, point.key);
        }
    }

    /// Joins a leaf that has become sparse with a neighbour. A matter of space and scan speed only: whatever stands in
    /// the way, the leaf stays as it is.
    fn merge_leaf(&self, table: &TableState, key: &[u8]) {
        let mut tries = Tries::default();
        for _ in 0..TIDY_STEPS_MAX {
            let mut turn = self.turn.lock();
            let commit = turn.last.next();
            let Turn { cuts, reserve, .. } = &mut *turn;
            let session = TurnSession::new(&self.store, reserve, commit, cuts.newest());
            session.set_table(table.id);
            session.set_bounded();
            let merged = table.index.tidy(&session, &table.root, key);
            let changed = session.changed();
            drop(session);
            self.leave_early(turn, commit, changed);
            match merged {
                Err(stop @ (Stop::Reserve | Stop::Moved | Stop::Missing(_))) => {
                    if self.follow_up(stop, View::Current, &mut tries).is_err() {
                        return;
                    }
                }
                // Small steps: there may be another one.
                Ok(true) => {}
                _ => return,
            }
        }
    }

    /// Gives up the pages of a large value that nothing refers to any more.
    pub(crate) fn free_large(&self, session: &TurnSession<'_>, old: &kind::Handle) {
        let range = Handle::decode(old).range(self.store.frames.content_bytes());
        session.note_freed(range.first, range.pages);
    }
}
