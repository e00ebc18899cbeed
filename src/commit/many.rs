//! Writing many keys of many tables at once: every leaf is latched before the log is written.

use crate::conflict::{KeyMark, RangeMark, ReadSet};
use crate::engine::{Engine, Tries};
use crate::kinds::AnyGroup;
use crate::options::Durability;
use crate::store::count;
use crate::store::pages::TurnSession;
use crate::turn::Turn;
use crate::value::NewValue;
use crate::write_set::WriteSet;
use esker_base::sync::{MutexGuard, Ordering};
use esker_base::{CommitNo, Error, Lsn, PageId, Result};
use esker_index::kind::{GroupWrite, GroupWrites, Look, PreparedGroup, Value};
use esker_index::pages::{Step, Stop, View};
use std::ops::Range;

/// Leaves that one commit has made sparse and that are looked at again after it.
const SPARSE_MAX: usize = 64;

/// Leaves that are asked for together, where memory has room for them: as deep as a disk likes, and deeper, since the first are worked
/// on while the last are read.
const READ_AHEAD_MAX: usize = 128;

/// Leaves that a commit has to read, up to which it is not worth asking whether memory will hold them.
const READ_FEW: usize = 128;

/// Rows up to which a leaf that is missing in the turn is brought in alone, not all of them once more.
const ROWS_FEW: usize = 32;

/// How often all leaves of a commit are brought in again, before it is applied one after the other.
const WARMED_MAX: u32 = 2;

/// Rows for which [`Engine::pages_of_rows`] counts pages.
const LATELY_ROWS: usize = 1 << 12;

/// Latched groups of one commit; more than this are applied one after the other, the turn held.
fn groups_max(frames: u32) -> usize {
    (frames as usize / 4).max(4)
}

impl Engine {
    /// Commits a write set atomically. `reads` must not have changed since `begin`. Returns the log
    /// position after it, if there was anything to write.
    pub(crate) fn write_many(
        &self,
        mut set: WriteSet,
        reads: Option<(&ReadSet, CommitNo)>,
        transaction: u64,
        durability: Durability,
    ) -> Result<Option<Lsn>> {
        self.check_writable()?;
        set.finish();
        let limit_bytes = self.options.write_set_bytes_max();
        if set.bytes() > limit_bytes {
            return Err(Error::TooLarge { bytes: set.bytes(), limit_bytes });
        }
        if set.is_empty() {
            return Ok(None);
        }
        if set.only_deletes() {
            self.make_way_for_deletes()?;
        } else {
            self.check_space()?;
        }
        for table in &set.tables {
            self.throttle(table, set.only_deletes())?;
        }
        let payload = set.records();
        let values = set.points().filter_map(|point| point.value);
        self.check_space_for_large(values.map(|value| self.large_pages(value)).sum())?;
        let mut large = self.make_large(&set)?;
        let mut job = Job { set: &set, large: &mut large, payload: &payload, reads, transaction };
        let (lsn, _) = if set.ranges.is_empty() {
            match self.warm_all(&set)? {
                Warmed::TooMany => self.commit_chunked(&mut job)?,
                Warmed::All { read } => self.commit_latched(&mut job, read)?,
            }
        } else if set.is_one_range() {
            self.commit_range(&mut job)?
        } else {
            self.warm_all(&set)?;
            self.commit_chunked(&mut job)?
        };
        count(&self.counters.commits, 1);
        self.acknowledge(lsn, durability)?;
        Ok(Some(lsn))
    }

    /// Fills the pages of all large values, by index of the point write.
    pub(crate) fn make_large<'s>(&'s self, set: &WriteSet) -> Result<Vec<(usize, NewValue<'s>)>> {
        let limit = self.max_inline_value_bytes();
        let values = set.points().filter_map(|point| point.value);
        let pages: usize = values.map(|value| self.large_pages(value)).sum();
        let pages_max = self.large_pages_max();
        if pages > pages_max {
            let bytes = |pages: usize| (pages * self.store.frames.content_bytes()) as u64;
            return Err(Error::TooLarge { bytes: bytes(pages), limit_bytes: bytes(pages_max) });
        }
        let mut large = Vec::new();
        for (i, point) in set.points().enumerate() {
            if let Some(value) = point.value
                && value.len() > limit
            {
                let table = set.tables[point.table as usize].id;
                large.push((i, NewValue::new(&self.store, table, value)?));
            }
        }
        Ok(large)
    }

    /// Asks for the leaves that a write set touches, so that their lines are on the way to the processor's cache, and brings in
    /// those that are not in memory, in batches of reads, as far as a quarter of memory goes. Which are not is looked up only
    /// while some are: each look costs a miss of the cache.
    ///
    /// Where most pages are dirty, those that are brought in push each other out. That is remembered, and later sets are then
    /// given up early.
    pub(crate) fn warm_all(&self, set: &WriteSet) -> Result<Warmed> {
        if set.len() > self.store.frames.limit() as usize / 4 {
            self.store.take_back_all();
        }
        let is_missing_seen = self.is_missing_seen.load(Ordering::Relaxed);
        let left = if is_missing_seen { groups_max(self.store.frames.count()) } else { 0 };
        let is_short = self.is_memory_short.load(Ordering::Relaxed);
        let few = if is_short { READ_FEW } else { usize::MAX };
        let mut warming =
            Warming { set, missing: Vec::new(), left, limit: left.saturating_sub(few) };
        let mut from = 0;
        while from < set.len() {
            let end = set.table_end(from);
            if !is_missing_seen && self.ask_ahead(set, from..end)? {
                from = end;
                continue;
            }
            let first = self.warm_one(&mut warming, from)?;
            if end - from > 1 {
                let last = self.warm_one(&mut warming, end - 1)?;
                self.warm_between(&mut warming, (from, first), (end - 1, last))?;
            }
            from = end;
        }
        if is_short && warming.is_over() {
            return Ok(Warmed::TooMany);
        }
        self.bring_in_missing(&mut warming);
        if is_missing_seen && warming.left == left {
            self.is_missing_seen.store(false, Ordering::Relaxed);
        }
        Ok(Warmed::All { read: left - warming.left })
    }

    /// The leaf of each point, as far as indexes can tell.
    pub(super) fn leaves_of(&self, set: &WriteSet) -> Result<Vec<Option<PageId>>> {
        set.points()
            .map(|point| {
                let table = &set.tables[point.table as usize];
                self.read(table.id, View::Current, |session| {
                    table.index.page_of(session, &table.root, View::Current, point.key, Look::Blind)
                })
            })
            .collect()
    }

    /// Asks for the lines that points of one table will touch, without a way down for each. False if its index cannot.
    fn ask_ahead(&self, set: &WriteSet, points: Range<usize>) -> Result<bool> {
        let table = &set.tables[set.get(points.start).table as usize];
        self.read(table.id, View::Current, |session| {
            Ok(points.clone().all(|i| table.index.ask_ahead(session, set.get(i).key)))
        })
    }

    /// As [`Self::warm_all`] for what lies between two points of a table, given with their leaves. By halves: sorted rows
    /// mostly fall into few leaves, and then most of them need no way down.
    fn warm_between(
        &self,
        warming: &mut Warming<'_>,
        low: (usize, Option<PageId>),
        high: (usize, Option<PageId>),
    ) -> Result<()> {
        let is_same = low.1.is_some() && low.1 == high.1;
        if high.0 - low.0 < 2 || is_same || warming.is_over() {
            return Ok(());
        }
        let middle = low.0.midpoint(high.0);
        let middle = (middle, self.warm_one(warming, middle)?);
        self.warm_between(warming, low, middle)?;
        self.warm_between(warming, middle, high)
    }

    /// Notes the leaf of a point if it is missing; returns it. Branches are read at once, leaves together.
    fn warm_one(&self, warming: &mut Warming<'_>, point: usize) -> Result<Option<PageId>> {
        let point = warming.set.get(point);
        let table = &warming.set.tables[point.table as usize];
        let leaf = self.read(table.id, View::Current, |session| {
            let root = &table.root;
            table.index.page_of(session, root, View::Current, point.key, Look::Blind)
        })?;
        if let Some(leaf) = leaf
            && warming.left > 0
            && self.store.resident.get(leaf).is_none()
            && !warming.missing.contains(&leaf)
        {
            warming.missing.push(leaf);
            warming.left -= 1;
            if warming.missing.len() >= self.read_ahead() {
                self.bring_in_missing(warming);
            }
        }
        Ok(leaf)
    }

    /// Pages that a commit will make or keep versions of, about: without them the turn would stop half way, and begin again.
    /// As many as its rows fill if all are new, or as the commits before needed for as many rows.
    fn pages_wanted(&self, set: &WriteSet, bytes: usize) -> usize {
        const FEW: usize = 4;
        let filled = bytes / self.store.frames.content_bytes() * 9 / 8 + FEW;
        let lately = self.pages_of_rows.load(Ordering::Relaxed) * set.len() / LATELY_ROWS;
        filled.max(lately * 5 / 4).min(groups_max(self.store.frames.count()) / 4)
    }
    /// Notes how many pages a commit of so many rows needed: the most of late. A few rows say little of many.
    fn note_pages(&self, pages: usize, rows: usize) {
        const ROWS_MIN: usize = 64;
        if rows < ROWS_MIN {
            return;
        }
        let lately = self.pages_of_rows.load(Ordering::Relaxed);
        let now = pages * LATELY_ROWS / rows;
        self.pages_of_rows.store(now.max(lately * 7 / 8), Ordering::Relaxed);
    }

    /// Leaves that are asked for together.
    pub(super) fn read_ahead(&self) -> usize {
        const LEAST: usize = 32;
        (self.store.frames.limit() as usize / 64).clamp(LEAST, READ_AHEAD_MAX)
    }

    fn bring_in_missing(&self, warming: &mut Warming<'_>) {
        if !warming.missing.is_empty() {
            // Read-ahead: what fails here is met again, with its error, when it is written to.
            let _ignored = self.store.load_to_change(&warming.missing).is_err();
            warming.missing.clear();
            if self.threads && self.store.clean_missing() > 0 {
                self.wake.wake();
            }
        }
    }

    /// The ordinary way: every leaf latched before the log is written.
    ///
    /// `read`: so many of them have just been read.
    fn commit_latched(&self, job: &mut Job<'_, '_>, read: usize) -> Result<(Lsn, CommitNo)> {
        let set = job.set;
        let mut latching = Latching::default();
        let pages = self.pages_wanted(set, job.payload.len());
        let most = groups_max(self.store.frames.count()) / 2;
        let mut is_set_aside = false;
        loop {
            let mut turn = self.enter_for(job)?;
            if !self.wal.fits(&turn.tail, job.payload.len()) {
                drop(turn);
                self.make_log_room(job.payload.len(), set.only_deletes())?;
                continue;
            }
            if !turn.reserve.holds(pages) && !is_set_aside {
                drop(turn);
                // For some commits at once. What fails here is met again, with its error, if it matters.
                let _ignored = self.set_aside(pages.max(most.min(4 * pages))).is_err();
                is_set_aside = true;
                continue;
            }
            let commit = turn.last.next();
            let Turn { tail, cuts, ring, reserve, .. } = &mut *turn;
            let frames = reserve.frames.len();
            let session = TurnSession::new(&self.store, reserve, commit, cuts.newest());
            let mut groups: Vec<(u32, AnyGroup<'_, '_>)> = Vec::new();
            let mut done = 0;
            let stop = loop {
                if done == set.len() {
                    break None;
                }
                if groups.len() >= groups_max(self.store.frames.count()) {
                    break Some(None);
                }
                match prepare_next(&session, job, done) {
                    Ok(group) => {
                        done += group.1.len();
                        groups.push(group);
                    }
                    Err(stop) => break Some(Some(stop)),
                }
            };
            let needed = session.frames_needed(frames);
            if let Some(stop) = stop {
                let changed = session.changed();
                drop(groups);
                drop(session);
                self.leave_early(turn, commit, changed);
                if matches!(stop, Some(Stop::Reserve)) {
                    esker_base::mark::COMMIT_RESERVE.hit();
                    // At once what the rest may need, too. What fails here is met again.
                    let all = (needed + 1) * set.len() / done.max(1);
                    let _ignored = self.set_aside(most.min(all)).is_err();
                }
                if !self.may_latch_again(stop, set, &mut latching)? {
                    return self.commit_chunked(job);
                }
                continue;
            }
            self.note_pages(needed, set.len());
            if latching.warmed == 0 && read > READ_FEW {
                self.is_memory_short.store(false, Ordering::Relaxed);
            }
            let lsn = self.wal.append(tail, commit, &[job.payload]);
            let mut done = 0;
            let mut rows: Vec<i64> = vec![0; set.tables.len()];
            let mut sparse: Vec<usize> = Vec::new();
            for (table, group) in &mut groups {
                let writes = job.writes_from(done);
                session.set_table(set.tables[*table as usize].id);
                rows[*table as usize] += self.apply_group(&session, group, &writes);
                if group.is_sparse() && sparse.len() < SPARSE_MAX {
                    sparse.push(done);
                }
                done += group.len();
            }
            job.commit_large(commit);
            if ring.is_recording() {
                for point in set.points() {
                    let table = set.tables[point.table as usize].id;
                    ring.wrote(commit, KeyMark::new(table, point.key));
                }
            }
            self.forget_rows(set);
            self.store.published.store(commit.0, Ordering::Release);
            drop(groups);
            drop(session);
            turn.last = commit;
            drop(turn);
            for (table, change) in set.tables.iter().zip(rows) {
                table.add_rows(change);
            }
            for i in sparse {
                let point = set.get(i);
                self.merge_leaf(&set.tables[point.table as usize], point.key);
            }
            return Ok((lsn, commit));
        }
    }

    /// After a stop of a commit that is latched (`None`: it has too many leaves), with the turn left: follows it up. False if
    /// the set is to be applied in pieces.
    fn may_latch_again(
        &self,
        stop: Option<Stop>,
        set: &WriteSet,
        latching: &mut Latching,
    ) -> Result<bool> {
        let Some(stop) = stop else { return Ok(false) };
        if let Stop::Missing(_) = stop {
            self.is_missing_seen.store(true, Ordering::Relaxed);
            esker_base::mark::COMMIT_MISSING.hit();
            count(&self.counters.commit_retries, 1);
            // The leaves push each other out of a memory that is too small for all: each try is in vain, and costs as
            // much as all before it.
            if latching.warmed == WARMED_MAX {
                if !self.store.take_back_all() {
                    self.is_memory_short.store(true, Ordering::Relaxed);
                    return Ok(false);
                }
                latching.warmed = 0;
            }
            if set.len() > ROWS_FEW {
                latching.warmed += 1;
                if self.warm_all(set)? == Warmed::TooMany {
                    return Ok(false);
                }
            } else if latching.tries.is_thrashing(set.len()) {
                return Ok(false);
            }
        } else if matches!(stop, Stop::Reserve) && latching.tries.is_spent() {
            return Ok(false);
        }
        self.follow_up(stop, View::Current, &mut latching.tries)?;
        Ok(true)
    }

    /// Applies a latched group; frees the large values it replaces. Returns the change in rows.
    pub(super) fn apply_group(
        &self,
        session: &TurnSession<'_>,
        group: &mut AnyGroup<'_, '_>,
        writes: &Writes<'_, '_, '_>,
    ) -> i64 {
        group.apply(writes, &mut |old| self.free_large(session, &old))
    }

    /// A single range delete, latched like an ordinary write.
    fn commit_range(&self, job: &mut Job<'_, '_>) -> Result<(Lsn, CommitNo)> {
        let range = &job.set.ranges[0];
        let table = &job.set.tables[range.table as usize];
        let mut tries = Tries::default();
        loop {
            let mut turn = self.enter_for(job)?;
            if !self.wal.fits(&turn.tail, job.payload.len()) {
                drop(turn);
                self.make_log_room(job.payload.len(), job.set.only_deletes())?;
                continue;
            }
            let (commit, step) = self.try_range(&mut turn, job);
            if let Some(commit) = commit {
                self.row_cache.forget_all();
                self.publish(&mut turn, commit);
            }
            drop(turn);
            match step {
                Err(stop) => self.follow_up(stop, View::Current, &mut tries)?,
                Ok((lsn, commit, rows)) => {
                    table.add_rows(rows);
                    self.merge_leaf(table, &range.span.low);
                    return Ok((lsn, commit));
                }
            }
        }
    }

    /// As [`Self::try_write_one`], for the one range delete of a job.
    fn try_range(
        &self,
        turn: &mut Turn,
        job: &Job<'_, '_>,
    ) -> (Option<CommitNo>, Step<(Lsn, CommitNo, i64)>) {
        let range = &job.set.ranges[0];
        let table = &job.set.tables[range.table as usize];
        let commit = turn.last.next();
        let Turn { tail, cuts, ring, reserve, .. } = turn;
        let session = TurnSession::new(&self.store, reserve, commit, cuts.newest());
        session.set_table(table.id);
        session.set_bounded();
        let high = range.span.high.as_deref();
        let low = &range.span.low;
        let plan = match table.index.prepare_delete_range(&session, &table.root, low, high) {
            Ok(plan) => plan,
            Err(stop) => return (session.changed().then_some(commit), Err(stop)),
        };
        let lsn = self.wal.append(tail, commit, &[job.payload]);
        let rows = plan(&mut |old| self.free_large(&session, &old));
        ring.wrote_range(commit, RangeMark::new(table.id, &range.span.low, high));
        (Some(commit), Ok((lsn, commit, rows)))
    }

    /// Enters the turn and validates what the job has read.
    pub(super) fn enter_for(&self, job: &Job<'_, '_>) -> Result<MutexGuard<'_, Turn>> {
        let turn = self.enter(job.transaction);
        self.check_writable()?;
        for table in &job.set.tables {
            if table.dropped.load(Ordering::Relaxed) {
                return Err(Error::UnknownTable { name: table.name.clone() });
            }
        }
        if let Some((reads, begin)) = job.reads
            && !turn.ring.is_unchanged(begin, reads)
        {
            count(&self.counters.conflicts, 1);
            return Err(Error::Conflict);
        }
        Ok(turn)
    }
}

/// What became of bringing in the leaves of a write set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Warmed {
    /// All that may be were brought in: so many had to be read.
    All { read: usize },
    /// Memory does not hold as many.
    TooMany,
}

/// How a commit that is latched gets on.
#[derive(Default)]
struct Latching {
    tries: Tries,
    /// How often its leaves were brought in again.
    warmed: u32,
}

/// Leaves of a write set that are to be read.
struct Warming<'a> {
    set: &'a WriteSet,
    missing: Vec<PageId>,
    /// How many more may be read.
    left: usize,
    /// With so many left it is given up.
    limit: usize,
}

impl Warming<'_> {
    fn is_over(&self) -> bool {
        self.limit > 0 && self.left <= self.limit
    }
}

/// One commit on its way.
#[derive(Debug)]
pub(crate) struct Job<'a, 's> {
    pub(crate) set: &'a WriteSet,
    pub(crate) large: &'a mut Vec<(usize, NewValue<'s>)>,
    pub(crate) payload: &'a [u8],
    pub(crate) reads: Option<(&'a ReadSet, CommitNo)>,
    pub(crate) transaction: u64,
}

impl<'a, 's> Job<'a, 's> {
    fn write(&self, i: usize) -> GroupWrite<'_> {
        let point = self.set.get(i);
        let large = match &self.large[..] {
            [] => None,
            large => large.binary_search_by_key(&i, |(at, _)| *at).ok(),
        };
        let value = point.value.map(|value| match large {
            Some(at) => Value::Overflow(self.large[at].1.handle.encode()),
            None => Value::Inline(value),
        });
        GroupWrite { key: point.key, value }
    }
    /// The writes to one table from `from` on.
    pub(super) fn writes_from(&self, from: usize) -> Writes<'_, 'a, 's> {
        Writes { job: self, from, len: self.set.table_end(from) - from }
    }
    pub(super) fn commit_large(&mut self, commit: CommitNo) {
        for (_, large) in self.large.iter_mut() {
            large.commit(commit);
        }
    }
}

/// Writes of a job to one table, as an index sees them.
pub(super) struct Writes<'j, 'a, 's> {
    job: &'j Job<'a, 's>,
    from: usize,
    len: usize,
}

impl GroupWrites for Writes<'_, '_, '_> {
    fn len(&self) -> usize {
        self.len
    }
    fn get(&self, i: usize) -> GroupWrite<'_> {
        self.job.write(self.from + i)
    }
}

/// Latches the next leaf and makes room in it for all of the following writes that fall into it.
pub(super) fn prepare_next<'a, 's>(
    session: &'a TurnSession<'s>,
    job: &Job<'a, '_>,
    done: usize,
) -> Step<(u32, AnyGroup<'a, 's>)> {
    let set = job.set;
    let first = set.get(done).table;
    let table = &set.tables[first as usize];
    session.set_table(table.id);
    let group = table.index.prepare_group(session, &table.root, &job.writes_from(done))?;
    Ok((first, group))
}
