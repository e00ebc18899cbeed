//! Background work of indexes: done by one thread at a time, in small steps, outside the turn; its outcome
//! becomes part of the table in one.
//!
//! Whoever holds the turn may have to let work go on (a huge write set that has been logged cannot turn back). So who holds
//! `Engine::work` does not wait for the turn for long: the outcome then waits, for whoever comes next.

use crate::catalog::TableState;
use crate::engine::{Engine, Tries};
use crate::pace;
use crate::read_ahead::READ_NOW;
use crate::space::Refused;
use crate::store::frame::FrameId;
use crate::store::give_back::Use;
use crate::store::pages::{BuildReserve, BuildSession, TurnSession};
use crate::store::{Freed, count};
use crate::turn::Turn;
use esker_base::sync::{Arc, MutexGuard, Ordering, thread};
use esker_base::{CommitNo, Error, Result, TableId};
use esker_index::kind::Work;
use esker_index::pages::{Stop, View};
use std::time::Duration;

/// Page ids set aside at a time: pages built one after the other get consecutive ids.
const IDS_AT_ONCE: u64 = 256;
/// Frames set aside at a time, at most.
const FRAMES_AT_ONCE: usize = 32;
/// Steps in one round of background work, so that the store thread looks after its other duties.
const STEPS_AT_ONCE: usize = 16;
/// Pages built before they are written, together.
const WRITE_AT_ONCE: usize = 64;
/// The same where callers do it: few, so that work is under way when other things happen, as it is with threads.
const STEPS_WITHOUT_THREADS: usize = 2;
/// How long the outcome of work waits for the turn before it is left to the next round.
const TURN_WAIT: Duration = Duration::from_millis(20);
/// A writer that waits for background work looks again after this long.
const DEBT_WAIT: Duration = Duration::from_millis(1);

/// What work under way has set aside.
#[derive(Debug, Default)]
pub(crate) struct Working {
    reserve: BuildReserve,
    /// The table it is for.
    table: Option<Arc<TableState>>,
    /// About how much it will write, once it has begun.
    pub(crate) limit_bytes: u64,
    /// Work was given up for want of space.
    pub(crate) refused: Option<Refused>,
}

impl Working {
    /// Pages may have been built.
    pub(crate) fn is_under_way(&self) -> bool {
        self.table.is_some()
    }
    /// Pages built and not written yet.
    pub(crate) fn unwritten_pages(&self) -> u64 {
        self.reserve.built.len() as u64
    }
    /// Frames set aside, that hold nothing yet.
    pub(crate) fn spare_frames(&mut self) -> &mut Vec<FrameId> {
        &mut self.reserve.frames
    }
}

/// How a round of work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Round {
    /// There is nothing to do for any table.
    Nothing,
    /// Something was done, and there may be more.
    More,
}

impl Engine {
    /// Some background work of indexes. `rest`: nobody is writing.
    pub(crate) fn work_round(&self, rest: bool) -> Result<Round> {
        let mut round = Round::Nothing;
        let mut steps = 0;
        let steps_max = if self.threads { STEPS_AT_ONCE } else { STEPS_WITHOUT_THREADS };
        // Perhaps no other table comes to it.
        self.abandon_dropped(&mut self.work.lock());
        for table in self.tables_to_work_on() {
            while steps < steps_max {
                let mut working = self.work.lock();
                let Some(table) = self.whose_turn(&mut working, &table) else { break };
                if !self.has_room_for_work(&mut working, &table)? {
                    let is_under_way = working.is_under_way();
                    drop(working);
                    if !self.find_room_for_work(&table, is_under_way)? {
                        break;
                    }
                    working = self.work.lock();
                }
                let step = self.work_step(&mut working, &table, rest, None);
                drop(working);
                self.worked.wake_all();
                if step? == Work::None {
                    break;
                }
                round = Round::More;
                steps += 1;
                if self.closed.load(Ordering::Relaxed) {
                    return Ok(round);
                }
            }
        }
        Ok(round)
    }

    /// Tables whose indexes have background work, farthest behind first.
    fn tables_to_work_on(&self) -> Vec<Arc<TableState>> {
        let catalog = self.catalog.read();
        let tables = catalog.by_id.values().filter(|table| table.index.has_work());
        let mut tables: Vec<_> = tables.cloned().collect();
        tables.sort_by_key(|table| std::cmp::Reverse(table.index.debt().0));
        tables
    }

    /// The table whose work is under way, else `wanted`; neither if it was dropped.
    fn whose_turn(
        &self,
        working: &mut Working,
        wanted: &Arc<TableState>,
    ) -> Option<Arc<TableState>> {
        self.abandon_dropped(working);
        let table = working.table.as_ref().unwrap_or(wanted);
        (!table.dropped.load(Ordering::Relaxed)).then(|| Arc::clone(table))
    }

    /// Writes what a step has built, or has a thread of its own do it. `alone`: who holds the turn waits for no other thread.
    fn write_what_was_built(
        &self,
        working: &mut Working,
        table: &TableState,
        alone: bool,
    ) -> Result<()> {
        let built = &mut working.reserve.built;
        let handed = if alone { Ok(false) } else { self.write_behind.hand_over(built) };
        let written = handed.and_then(|handed| {
            if handed {
                return Ok(());
            }
            self.store.with_reserve(|| self.store.write_built(built))
        });
        if let Err(error) = written {
            table.note_work(Some(&error));
            if matches!(error, Error::NoSpace { .. }) && !alone {
                self.give_up_for_space(working);
            }
            return Err(error);
        }
        Ok(())
    }

    /// There is no room for work to begin or go on. Under way, it waits for a checkpoint, which may let space go; else it is
    /// given up, and what it has built, so that deletes find the space. False if there is none.
    #[cold]
    fn find_room_for_work(&self, table: &TableState, is_under_way: bool) -> Result<bool> {
        let cleaned = if is_under_way { self.make_clean() } else { Ok(()) };
        if is_under_way {
            let mut working = self.work.lock();
            if cleaned.is_ok() && self.has_room_for_work(&mut working, table)? {
                return Ok(true);
            }
            self.give_up_for_space(&mut working);
        }
        table.note_work(Some(&Error::NoSpace { op: "merge", file: table.name.clone() }));
        self.worked.wake_all();
        match cleaned {
            Err(Error::NoSpace { .. }) | Ok(()) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn give_up_for_space(&self, working: &mut Working) {
        esker_base::mark::WORK_GIVEN_UP.hit();
        let table = working.table.as_ref().map(|table| table.id);
        self.abandon(working);
        working.refused = table.and_then(|table| self.refused(table));
    }

    fn abandon_dropped(&self, working: &mut Working) {
        if working.table.as_ref().is_some_and(|table| table.dropped.load(Ordering::Relaxed)) {
            self.abandon(working);
        }
    }

    /// One step for one table. `turn`: the caller holds it.
    fn work_step(
        &self,
        working: &mut Working,
        table: &Arc<TableState>,
        rest: bool,
        turn: Option<&mut Turn>,
    ) -> Result<Work> {
        let mut tries = Tries::default();
        let work = loop {
            let mut missing = Vec::new();
            let stop = {
                let build = BuildSession::new(&self.store, &mut working.reserve, table.id);
                match table.index.work(&build, &table.root, rest) {
                    Ok(work) => break work,
                    Err(stop) => {
                        // Read-ahead: what fails here is met again by the work itself.
                        if matches!(stop, Stop::Missing(_))
                            && table.index.upcoming_work(&build, &mut missing).is_err()
                        {
                            missing.clear();
                        }
                        stop
                    }
                }
            };
            working.table.get_or_insert_with(|| Arc::clone(table));
            let followed = match stop {
                Stop::Reserve if turn.is_none() && !self.has_room_for_work(working, table)? => {
                    return Ok(Work::More);
                }
                // There is room for it beside all that must be written, so it may have what was set aside, too.
                Stop::Reserve => {
                    self.store.with_reserve(|| self.fill_build_reserve(working, table.id))
                }
                Stop::Missing(page) => {
                    // Who holds the turn waits for no other thread.
                    let alone = turn.is_some();
                    if !alone
                        && self.read_ahead.wait_for(page)
                        && self.store.resident.get(page).is_some()
                    {
                        continue;
                    }
                    tries.read_ahead(&self.store, page, &mut missing);
                    if !missing.is_empty() {
                        let later = missing.get(READ_NOW..).unwrap_or_default();
                        if !alone
                            && self.read_ahead.ask(
                                later,
                                View::Current,
                                self.store.read_ahead_max(),
                            )
                        {
                            missing.truncate(READ_NOW);
                        }
                        missing.insert(0, page);
                        let _ignored = self.store.load_to_change(&missing).is_err();
                    }
                    self.follow_up(Stop::Missing(page), View::Current, &mut tries)
                }
                stop => self.follow_up(stop, View::Current, &mut tries),
            };
            if let Err(error) = followed {
                table.note_work(Some(&error));
                match error {
                    Error::Corrupt { .. } => self.abandon(working),
                    Error::NoSpace { .. } if turn.is_none() => self.give_up_for_space(working),
                    _ => {}
                }
                return Err(error);
            }
        };
        if working.reserve.built.len() >= WRITE_AT_ONCE || work == Work::Finish {
            self.write_what_was_built(working, table, turn.is_some())?;
        }
        // What is due may have no room.
        let is_short = work == Work::None && working.limit_bytes != u64::MAX;
        let short = is_short.then(|| Error::NoSpace { op: "merge", file: table.name.clone() });
        table.note_work(short.as_ref());
        count(&self.counters.work_steps, 1);
        if matches!(work, Work::None) {
            table.pace.note_rest();
        } else {
            let (now, (debt, _)) = (self.store.disk.now(), table.index.debt());
            table.pace.note_work(now);
            table.pace.note_progress(now, table.index.progress(), debt);
        }
        match work {
            // What was set aside before it was known that there is nothing to do: or no other table would
            // ever come to it.
            Work::None => self.release(working),
            Work::More => {
                working.table.get_or_insert_with(|| Arc::clone(table));
            }
            Work::Finish => {
                working.table.get_or_insert_with(|| Arc::clone(table));
                self.finish_work(working, table, turn)?;
            }
        }
        Ok(work)
    }

    /// Makes what was built part of the table, if the turn can be had.
    fn finish_work(
        &self,
        working: &mut Working,
        table: &Arc<TableState>,
        turn: Option<&mut Turn>,
    ) -> Result<()> {
        let (before, max) = table.index.debt();
        let result = self.publish_work(working, table, turn);
        let (after, _) = table.index.debt();
        table.pace.note(self.store.disk.now(), before, after, max);
        result
    }

    fn publish_work(
        &self,
        working: &mut Working,
        table: &Arc<TableState>,
        turn: Option<&mut Turn>,
    ) -> Result<()> {
        let mut tries = Tries::default();
        if let Some(turn) = turn {
            // In the middle of a commit that is not published: what this changes is published with it.
            let commit = turn.last.next();
            while let (_, Err(stop)) = self.try_finish(turn, table, commit) {
                match stop {
                    Stop::Reserve => {
                        let want = turn.reserve.frames.len() + 32;
                        self.fill_reserve(turn, want)?;
                    }
                    stop => self.follow_up(stop, View::Current, &mut tries)?,
                }
            }
            self.attach(working, table.id);
            return Ok(());
        }
        loop {
            let Some(mut turn) = self.turn.try_lock_for(TURN_WAIT) else { return Ok(()) };
            let commit = turn.last.next();
            let (changed, finished) = self.try_finish(&mut turn, table, commit);
            if finished.is_ok() {
                self.attach(working, table.id);
            }
            // However far it came: whoever reads what it has changed waits for that.
            if changed {
                self.publish(&mut turn, commit);
            }
            drop(turn);
            match finished {
                Ok(()) => return Ok(()),
                Err(Stop::Moved) => {
                    self.abandon(working);
                    return Ok(());
                }
                Err(stop) => self.follow_up(stop, View::Current, &mut tries)?,
            }
        }
    }

    /// One try, and whether it has changed anything: it may have, and then have stopped.
    fn try_finish(
        &self,
        turn: &mut Turn,
        table: &Arc<TableState>,
        commit: CommitNo,
    ) -> (bool, Result<(), Stop>) {
        let Turn { cuts, reserve, .. } = turn;
        let session = TurnSession::new(&self.store, reserve, commit, cuts.newest());
        session.set_table(table.id);
        session.set_bounded();
        let mut large = Vec::new();
        let rows = table.index.finish_work(&session, &table.root, &mut |handle| large.push(handle));
        let finished = rows.map(|rows| {
            for handle in &large {
                self.free_large(&session, handle);
            }
            table.add_rows(rows);
        });
        (session.changed(), finished)
    }

    /// What was built has an owner now; what was set aside and not used goes back.
    fn attach(&self, working: &mut Working, table: TableId) {
        count(&self.counters.work_attached, 1);
        let mut state = self.store.state.lock();
        state.unattached.remove(&table);
        working.reserve.built.clear();
        working.refused = None;
        self.built_pages.store(0, Ordering::Relaxed);
        let (first, left) = std::mem::take(&mut working.reserve.ids);
        if left > 0 {
            // They are the end of a range. A checkpoint that is being written counts them as free from now on, and
            // must not give them back a second time.
            for (_, start, n) in &mut state.unattached_at_cut {
                if *start + *n == first + left {
                    *n -= left.min(*n);
                }
            }
            state.ids.give_back(esker_base::PageId(first), left);
        }
        drop(state);
        for frame in working.reserve.frames.drain(..) {
            self.store.frames.give_back(frame);
        }
        working.table = None;
    }

    /// Gives up work that has failed or is of no use.
    fn abandon(&self, working: &mut Working) {
        let Some(table) = working.table.take() else { return };
        self.read_ahead.forget();
        table.index.abandon_work();
        self.release_of(working, &table);
    }

    /// No work is under way any more, and nothing refers to what was built.
    fn release(&self, working: &mut Working) {
        if let Some(table) = working.table.take() {
            self.release_of(working, &table);
        }
    }

    fn release_of(&self, working: &mut Working, table: &TableState) {
        for frame in working.reserve.frames.drain(..) {
            self.store.frames.give_back(frame);
        }
        working.reserve.ids = (0, 0);
        working.reserve.built.clear();
        self.built_pages.store(0, Ordering::Relaxed);
        let commit = self.store.published();
        let mut state = self.store.state.lock();
        // A checkpoint that is being written has them in one list or the other.
        if state.checkpoint_cut.is_some_and(|cut| commit <= cut) {
            state.unattached_at_cut.retain(|(other, ..)| *other != table.id);
        }
        for (first, n) in state.unattached.remove(&table.id).unwrap_or_default() {
            let (first, count) = (esker_base::PageId(first), u32::try_from(n).expect("small"));
            state.note_freed(Freed { commit, table: table.id, first, count });
        }
    }

    fn fill_build_reserve(&self, working: &mut Working, table: TableId) -> Result<()> {
        let want = FRAMES_AT_ONCE.min(self.store.frames.count() as usize / 16).max(4);
        while working.reserve.frames.len() < want {
            working.reserve.frames.push(self.store.take_frame(Use::Write)?);
            count(&self.built_pages, 1);
        }
        if working.reserve.ids.1 == 0 {
            let mut state = self.store.state.lock();
            let ids = state.ids.allocate_some(IDS_AT_ONCE);
            working.reserve.ids = ids;
            state.unattached.entry(table).or_default().push(ids);
        }
        Ok(())
    }

    /// Before a write that background work may have to make room for: waits the longer, the more is due.
    #[inline]
    pub(crate) fn throttle(&self, table: &TableState, deletes: bool) -> Result<()> {
        let (debt, max) = table.index.debt();
        if debt * pace::FREE <= max {
            return Ok(());
        }
        match self.pay_debt(table) {
            // They are what makes room.
            Err(Error::NoSpace { .. }) if deletes => Ok(()),
            paid => paid,
        }
    }

    #[cold]
    fn pay_debt(&self, table: &TableState) -> Result<()> {
        if !self.threads {
            return self.work_off(table);
        }
        self.work_wake.wake();
        if self.may_write_on(table)? {
            return Ok(());
        }
        self.counters.debt_stalls.during(&*self.store.disk, || self.wait_for_work(table))
    }

    /// Some work; at the limit, as much as it takes.
    fn work_off(&self, table: &TableState) -> Result<()> {
        loop {
            self.check_writable()?;
            let round = self.work_round(false)?;
            let (debt, max) = table.index.debt();
            if debt < max || round == Round::Nothing || !table.may_wait_for_work()? {
                return Ok(());
            }
        }
    }

    /// Whether the table's debt is where it may be by now.
    fn may_write_on(&self, table: &TableState) -> Result<bool> {
        let (debt, max) = table.index.debt();
        let allowed = table.pace.debt_bytes_max(self.store.disk.now(), debt, max);
        Ok(debt <= allowed && debt < max || !table.may_wait_for_work()?)
    }

    fn wait_for_work(&self, table: &TableState) -> Result<()> {
        while !self.may_write_on(table)? {
            let (debt, max) = table.index.debt();
            self.check_writable()?;
            if table.dropped.load(Ordering::Relaxed) {
                return Ok(());
            }
            if debt < max {
                // What is allowed grows with time, not with each step of work.
                thread::sleep(DEBT_WAIT);
            } else {
                self.worked.wait(DEBT_WAIT);
            }
        }
        Ok(())
    }

    /// A write found no room before background work has gone on.
    pub(crate) fn catch_up(&self) -> Result<()> {
        if self.is_space_short() && !self.let_work_make_space()? {
            return Err(Error::NoSpace { op: "merge in", file: self.store.disk.label() });
        }
        if self.threads {
            self.work_wake.wake();
            self.worked.wait(DEBT_WAIT);
            return self.check_writable();
        }
        self.work_round(false).map(|_| ())
    }

    /// As [`Self::catch_up`], for who holds the turn and cannot let go of it.
    pub(crate) fn catch_up_in_turn(&self, turn: &mut Turn) -> Result<()> {
        let mut working: MutexGuard<'_, Working> = self.work.lock();
        for table in self.tables_to_work_on() {
            for _ in 0..STEPS_AT_ONCE {
                let Some(table) = self.whose_turn(&mut working, &table) else { break };
                // There is no other way on.
                table.index.limit_work(u64::MAX);
                working.limit_bytes = u64::MAX;
                if self.work_step(&mut working, &table, false, Some(turn))? != Work::More {
                    break;
                }
            }
        }
        drop(working);
        thread::yield_now();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
