//! Writing what cannot be latched at once, piece by piece; replay does the same.

use super::many::{Job, prepare_next};
use crate::conflict::{KeyMark, RangeMark};
use crate::engine::{Engine, Tries};
use crate::store::give_back::Use;
use crate::store::pages::TurnSession;
use crate::turn::Turn;
use esker_base::sync::Ordering;
use esker_base::{CommitNo, Error, Lsn, PageId, Result, TableId};
use esker_index::kind::PreparedGroup;
use esker_index::pages::{Step, Stop, View};

impl Engine {
    /// For write sets too large to latch, or that mix range deletes with other writes: the turn is held
    /// throughout, reads included, and readers wait for publication.
    pub(super) fn commit_chunked(&self, job: &mut Job<'_, '_>) -> Result<(Lsn, CommitNo)> {
        // What the turn will wait for is read in batches.
        let is_missing_seen = self.is_missing_seen.load(Ordering::Relaxed);
        let leaves = if is_missing_seen { self.leaves_of(job.set)? } else { Vec::new() };
        loop {
            let mut turn = self.enter_for(job)?;
            if !self.wal.fits(&turn.tail, job.payload.len()) {
                drop(turn);
                self.make_log_room(job.payload.len(), job.set.only_deletes())?;
                continue;
            }
            esker_base::mark::COMMIT_IN_PIECES.hit();
            let commit = turn.last.next();
            let lsn = {
                let Turn { tail, .. } = &mut *turn;
                self.wal.append(tail, commit, &[job.payload])
            };
            if let Err(error) = self.apply_chunked(&mut turn, job, commit, &leaves) {
                // The log has it, the pages have half of it: only a new start can tell.
                self.poison(format!("a commit could not be applied: {error}"));
                return Err(Error::Unknown { detail: error.to_string() });
            }
            job.commit_large(commit);
            self.forget_rows(job.set);
            self.publish(&mut turn, commit);
            return Ok((lsn, commit));
        }
    }

    /// Applies a write set piece by piece in a turn that is held. Also used by replay. `leaves`: where its points lay a
    /// moment ago, or nothing; those that are missing are read some points ahead.
    pub(crate) fn apply_chunked(
        &self,
        turn: &mut Turn,
        job: &Job<'_, '_>,
        commit: CommitNo,
        leaves: &[Option<PageId>],
    ) -> Result<()> {
        let set = job.set;
        let mut ahead = 0;
        for range in &set.ranges {
            let table = &set.tables[range.table as usize];
            let high = range.span.high.as_deref();
            let rows = self.in_turn(turn, table.id, commit, |session| {
                let low = &range.span.low;
                let plan = table.index.prepare_delete_range(session, &table.root, low, high)?;
                Ok(plan(&mut |old| self.free_large(session, &old)))
            })?;
            table.add_rows(rows);
            turn.ring.wrote_range(commit, RangeMark::new(table.id, &range.span.low, high));
        }
        let mut done = 0;
        while done < set.len() {
            if done >= ahead && ahead < leaves.len() {
                ahead = leaves.len().min(done + self.read_ahead());
                self.read_ahead_of(&leaves[done..ahead]);
            }
            let table = &set.tables[set.get(done).table as usize];
            let (applied, rows) = self.in_turn(turn, table.id, commit, |session| {
                let (_, mut group) = prepare_next(session, job, done)?;
                let rows = self.apply_group(session, &mut group, &job.writes_from(done));
                Ok((group.len(), rows))
            })?;
            table.add_rows(rows);
            for i in done..done + applied {
                turn.ring.wrote(commit, KeyMark::new(table.id, set.get(i).key));
            }
            done += applied;
        }
        Ok(())
    }

    fn read_ahead_of(&self, leaves: &[Option<PageId>]) {
        let mut missing: Vec<_> = leaves.iter().flatten().copied().collect();
        missing.sort_unstable();
        missing.dedup();
        missing.retain(|leaf| self.store.resident.get(*leaf).is_none());
        if !missing.is_empty() {
            // What fails here, or lies elsewhere by now, is met again when it is written to.
            let _ignored = self.store.load_to_change(&missing).is_err();
        }
    }

    /// Runs turn code until it is done, following up its stops with the turn held.
    pub(crate) fn in_turn<R>(
        &self,
        turn: &mut Turn,
        table: TableId,
        commit: CommitNo,
        mut step: impl FnMut(&TurnSession<'_>) -> Step<R>,
    ) -> Result<R> {
        let mut tries = Tries::default();
        loop {
            let Turn { cuts, reserve, .. } = &mut *turn;
            let session = TurnSession::new(&self.store, reserve, commit, cuts.newest());
            session.set_table(table);
            let stop = match step(&session) {
                Ok(result) => return Ok(result),
                Err(stop) => stop,
            };
            drop(session);
            match stop {
                Stop::Reserve => {
                    let want = turn.reserve.frames.len() + 32;
                    self.fill_reserve(turn, want)?;
                }
                Stop::Behind => self.catch_up_in_turn(turn)?,
                stop => self.follow_up(stop, View::Current, &mut tries)?,
            }
        }
    }

    /// Fills the reserve of a turn that the caller holds.
    pub(crate) fn fill_reserve(&self, turn: &mut Turn, want: usize) -> Result<()> {
        let want = want.min((self.store.frames.count() as usize / 4).max(16));
        while turn.reserve.frames.len() < want {
            turn.reserve.frames.push(self.store.take_frame(Use::Write)?);
        }
        let mut state = self.store.state.lock();
        while turn.reserve.pages.len() < want {
            turn.reserve.pages.push(state.ids.allocate(1));
        }
        Ok(())
    }
}
