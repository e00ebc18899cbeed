//! The commit turn in action. Two passes: the first latches what the writes touch and makes room, and may stop anywhere;
//! the second begins with the log append and cannot fail. See DESIGN.md §4.2.

use crate::catalog::TableState;
use crate::conflict::{KeyMark, RangeMark, ReadSet};
use crate::engine::{Engine, Tries};
use crate::kinds::{AnyGroup, AnyPrepared};
use crate::options::Durability;
use crate::record::Record;
use crate::store::count;
use crate::store::pages::TurnSession;
use crate::turn::Turn;
use crate::value::{Handle, NewValue};
use crate::write_set::WriteSet;
use esker_base::sync::{MutexGuard, Ordering};
use esker_base::{CommitNo, Error, Lsn, PageId, Result, TableId};
use esker_index::kind::{
    self, Existing, GroupWrite, GroupWrites, Look, PreparedGroup, PreparedWrite, Value,
};
use esker_index::pages::{Step, Stop, View};
use std::cell::RefCell;

thread_local! {
    /// The encoded log record of the write under way, so that a put allocates nothing.
    static PAYLOAD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}
/// A payload buffer that grew beyond this is not kept.
const PAYLOAD_BYTES_KEPT: usize = 1 << 20;

/// What must be true of a key for a conditional write to happen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expect<'a> {
    Anything,
    Absent,
    /// This value, given also as the handle under which it was read, if it is a large one.
    Value(&'a [u8], Option<Handle>),
}

impl Expect<'_> {
    fn look(self) -> Look {
        match self {
            Self::Anything => Look::Blind,
            Self::Absent | Self::Value(..) => Look::Existing,
        }
    }
}

/// Leaves that one commit has made sparse and that are looked at again after it.
const SPARSE_MAX: usize = 64;

/// Steps of tidying up after one delete.
const TIDY_STEPS_MAX: usize = 16;

/// Latched groups of one commit; more than this are applied one after the other, the turn held.
fn groups_max(frames: u32) -> usize {
    (frames as usize / 4).max(4)
}

impl Engine {
    /// Writes one key if it is as expected. Returns the log position after it if it was written.
    pub(crate) fn write_one(
        &self,
        table: &TableState,
        key: &[u8],
        value: Option<&[u8]>,
        expect: Expect<'_>,
        durability: Durability,
    ) -> Result<Option<Lsn>> {
        self.check_writable()?;
        self.check_key(key)?;
        let mut large = None;
        if let Some(value) = value {
            self.check_space()?;
            self.check_value(value)?;
            if value.len() > self.max_inline_value_bytes() {
                large = Some(NewValue::new(&self.store, table.id, value)?);
            }
        }
        count(if value.is_some() { &self.counters.puts } else { &self.counters.deletes }, 1);
        PAYLOAD.with_borrow_mut(|payload| {
            payload.clear();
            match value {
                Some(value) => Record::Put { table: table.id, key, value },
                None => Record::Delete { table: table.id, key },
            }
            .encode(payload);
            let written = self.write_prepared(table, key, value, large, expect, payload)?;
            if payload.capacity() > PAYLOAD_BYTES_KEPT {
                *payload = Vec::new();
            }
            if let Some(lsn) = written {
                self.acknowledge(lsn, durability)?;
            }
            Ok(written)
        })
    }

    fn write_prepared(
        &self,
        table: &TableState,
        key: &[u8],
        value: Option<&[u8]>,
        mut large: Option<NewValue<'_>>,
        expect: Expect<'_>,
        payload: &[u8],
    ) -> Result<Option<Lsn>> {
        let handle = large.as_ref().map(|large| large.handle.encode());
        let new = value.map(|value| match &handle {
            Some(handle) => Value::Overflow(*handle),
            None => Value::Inline(value),
        });
        let look = expect.look();
        let mut tries = Tries::default();
        self.throttle(table)?;
        loop {
            // Outside the turn: bring the leaf in, and its lines into the cache.
            self.read(View::Current, |session| table.index.warm(session, &table.root, key, look))?;
            let mut turn = self.enter(0);
            self.check_writable()?;
            if table.dropped.load(Ordering::Relaxed) {
                return Err(Error::UnknownTable { name: table.name.clone() });
            }
            if !self.wal.fits(&turn.tail, payload.len()) {
                drop(turn);
                self.make_log_room(payload.len(), value.is_none())?;
                continue;
            }
            let (commit, step) =
                self.try_write_one(&mut turn, table, key, new, &mut large, expect, payload);
            if let Some(commit) = commit {
                self.publish(&mut turn, commit);
            }
            drop(turn);
            match step {
                Err(stop) => self.follow_up(stop, View::Current, &mut tries)?,
                Ok(OneWrite::Refused) => return Ok(None),
                Ok(OneWrite::Nothing(lsn)) => return Ok(Some(lsn)),
                Ok(OneWrite::Done { lsn, rows, sparse }) => {
                    table.add_rows(rows);
                    count(&self.counters.commits, 1);
                    if sparse {
                        self.merge_leaf(table, key);
                    }
                    return Ok(Some(lsn));
                }
            }
        }
    }

    /// One write, in the turn, with log room made. Returns the commit to publish, if anything changed: if
    /// not the write, then splits, which move no key out of reach.
    #[expect(clippy::too_many_arguments, reason = "the hot path, cut in two")]
    #[inline]
    fn try_write_one(
        &self,
        turn: &mut Turn,
        table: &TableState,
        key: &[u8],
        new: Option<Value<'_>>,
        large: &mut Option<NewValue<'_>>,
        expect: Expect<'_>,
        payload: &[u8],
    ) -> (Option<CommitNo>, Step<OneWrite>) {
        let commit = turn.last.next();
        let Turn { tail, cuts, ring, reserve, .. } = turn;
        let session = TurnSession::new(&self.store, reserve, commit, cuts.newest());
        session.set_table(table.id);
        let changed = || session.changed().then_some(commit);
        let prepared = table.index.prepare(&session, &table.root, key, new.as_ref(), expect.look());
        let mut prepared = match prepared {
            Ok(prepared) => prepared,
            Err(stop) => return (changed(), Err(stop)),
        };
        if !is_expected(&prepared, expect) {
            return (changed(), Ok(OneWrite::Refused));
        }
        if new.is_none() && prepared.existing() == Existing::Absent {
            // Deleting what is not there changes nothing: no record, no commit.
            return (changed(), Ok(OneWrite::Nothing(tail.position())));
        }
        let lsn = self.wal.append(tail, commit, &[payload]);
        if let Some(old) = prepared.replaced() {
            self.free_large(&session, &old);
        }
        let rows = match new {
            Some(value) => prepared.put(value),
            None => prepared.delete(),
        };
        if let Some(large) = large {
            large.commit(commit);
        }
        if ring.is_recording() {
            ring.wrote(commit, KeyMark::new(table.id, key));
        }
        let sparse = prepared.is_sparse();
        // Before the latch goes: who reads the leaf then may see this commit.
        self.store.published.store(commit.0, Ordering::Release);
        (Some(commit), Ok(OneWrite::Done { lsn, rows, sparse }))
    }

    /// Leaves the turn without a commit; changes that move no key out of reach (splits) are published.
    fn leave_early(&self, mut turn: MutexGuard<'_, Turn>, commit: CommitNo, changed: bool) {
        if changed {
            self.publish(&mut turn, commit);
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
            let merged = table.index.tidy(&session, &table.root, key);
            let changed = session.changed();
            drop(session);
            self.leave_early(turn, commit, changed);
            match merged {
                Err(stop @ (Stop::Reserve | Stop::Moved)) => {
                    if self.follow_up(stop, View::Current, &mut tries).is_err() {
                        return;
                    }
                }
                // Small steps: there may be another one.
                Ok(true) => {}
                // A neighbour that is not in memory is not worth a read.
                _ => return,
            }
        }
    }

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
        if !set.only_deletes() {
            self.check_space()?;
        }
        for table in &set.tables {
            self.throttle(table)?;
        }
        let mut payload = Vec::with_capacity(usize::try_from(set.bytes()).unwrap_or(0));
        set.encode(&mut payload);
        let mut large = self.make_large(&set)?;
        let mut job = Job { set: &set, large: &mut large, payload: &payload, reads, transaction };
        let (lsn, _) = if set.ranges.is_empty() {
            self.warm_all(&set)?;
            self.commit_latched(&mut job)?
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

    /// Brings in the leaves that a write set touches, in batches of reads, as far as a quarter of
    /// memory goes.
    pub(crate) fn warm_all(&self, set: &WriteSet) -> Result<()> {
        let mut missing: Vec<PageId> = Vec::new();
        let limit = groups_max(self.store.frames.count());
        let mut loaded = 0;
        for point in set.points() {
            if loaded + missing.len() >= limit {
                break;
            }
            let table = &set.tables[point.table as usize];
            // Branches are read at once, leaves together.
            let leaf = self.read(View::Current, |session| {
                let root = &table.root;
                table.index.page_of(session, root, View::Current, point.key, Look::Blind)
            })?;
            let Some(leaf) = leaf else { continue };
            if self.store.resident.get(leaf).is_none() && missing.last() != Some(&leaf) {
                missing.push(leaf);
                if missing.len() == 32 {
                    loaded += missing.len();
                    // Read-ahead: what fails here is met again, with its error, below.
                    let _ignored = self.store.load_many(&missing, View::Current).is_err();
                    missing.clear();
                }
            }
        }
        if !missing.is_empty() {
            let _ignored = self.store.load_many(&missing, View::Current).is_err();
        }
        Ok(())
    }

    /// The ordinary way: every leaf latched before the log is written.
    fn commit_latched(&self, job: &mut Job<'_, '_>) -> Result<(Lsn, CommitNo)> {
        let set = job.set;
        let mut tries = Tries::default();
        loop {
            let mut turn = self.enter_for(job)?;
            if !self.wal.fits(&turn.tail, job.payload.len()) {
                drop(turn);
                self.make_log_room(job.payload.len(), set.only_deletes())?;
                continue;
            }
            let commit = turn.last.next();
            let Turn { tail, cuts, ring, reserve, .. } = &mut *turn;
            let session = TurnSession::new(&self.store, reserve, commit, cuts.newest());
            let mut groups: Vec<(u32, AnyGroup<'_, '_>)> = Vec::new();
            let stop = loop {
                let done: usize = groups.iter().map(|(_, group)| group.len()).sum();
                if done == set.len() {
                    break None;
                }
                if groups.len() >= groups_max(self.store.frames.count()) {
                    break Some(None);
                }
                match prepare_next(&session, job, done) {
                    Ok(group) => groups.push(group),
                    Err(stop) => break Some(Some(stop)),
                }
            };
            if let Some(stop) = stop {
                let changed = session.changed();
                drop(groups);
                drop(session);
                self.leave_early(turn, commit, changed);
                match stop {
                    Some(Stop::Reserve) if tries.is_spent() => {
                        return self.commit_chunked(job);
                    }
                    // The leaves push each other out of a memory that is too small for all.
                    Some(Stop::Missing(_)) if tries.is_thrashing(set.len()) => {
                        return self.commit_chunked(job);
                    }
                    Some(stop) => self.follow_up(stop, View::Current, &mut tries)?,
                    None => return self.commit_chunked(job),
                }
                continue;
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

    /// Applies a latched group; frees the large values it replaces. Returns the change in rows.
    fn apply_group(
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

    /// Gives up the pages of a large value that nothing refers to any more.
    pub(crate) fn free_large(&self, session: &TurnSession<'_>, old: &kind::Handle) {
        let range = Handle::decode(old).range(self.store.frames.content_bytes());
        session.note_freed(range.first, range.pages);
    }

    /// For write sets too large to latch, or that mix range deletes with other writes: the turn is held
    /// throughout, reads included, and readers wait for publication.
    fn commit_chunked(&self, job: &mut Job<'_, '_>) -> Result<(Lsn, CommitNo)> {
        loop {
            let mut turn = self.enter_for(job)?;
            if !self.wal.fits(&turn.tail, job.payload.len()) {
                drop(turn);
                self.make_log_room(job.payload.len(), job.set.only_deletes())?;
                continue;
            }
            let commit = turn.last.next();
            let lsn = {
                let Turn { tail, .. } = &mut *turn;
                self.wal.append(tail, commit, &[job.payload])
            };
            if let Err(error) = self.apply_chunked(&mut turn, job, commit) {
                // The log has it, the pages have half of it: only a new start can tell.
                self.poison(format!("a commit could not be applied: {error}"));
                return Err(Error::Unknown { detail: error.to_string() });
            }
            job.commit_large(commit);
            self.publish(&mut turn, commit);
            return Ok((lsn, commit));
        }
    }

    /// Applies a write set piece by piece in a turn that is held. Also used by replay.
    pub(crate) fn apply_chunked(
        &self,
        turn: &mut Turn,
        job: &Job<'_, '_>,
        commit: CommitNo,
    ) -> Result<()> {
        let set = job.set;
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
            turn.reserve.frames.push(self.store.take_frame()?);
        }
        let mut state = self.store.state.lock();
        while turn.reserve.pages.len() < want {
            turn.reserve.pages.push(state.ids.allocate(1));
        }
        Ok(())
    }

    /// Enters the turn and validates what the job has read.
    fn enter_for(&self, job: &Job<'_, '_>) -> Result<MutexGuard<'_, Turn>> {
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

    /// Longest value that stays in its leaf.
    pub(crate) fn max_inline_value_bytes(&self) -> usize {
        kind::max_inline_value_bytes(self.store.frames.content_bytes())
    }

    /// Pages that a value takes outside its leaf.
    pub(crate) fn large_pages(&self, value: &[u8]) -> usize {
        match value.len() {
            bytes if bytes > self.max_inline_value_bytes() => {
                bytes.div_ceil(self.store.frames.content_bytes())
            }
            _ => 0,
        }
    }

    /// Such pages of one commit hold their frames until its turn: half of all is what the rest can
    /// spare.
    pub(crate) fn large_pages_max(&self) -> usize {
        self.store.frames.count() as usize / 2
    }

    pub(crate) fn check_key(&self, key: &[u8]) -> Result<()> {
        let limit = kind::max_key_bytes(self.store.frames.content_bytes());
        if key.is_empty() {
            return Err(Error::invalid("empty key", "keys have at least one byte"));
        }
        if key.len() > limit {
            return Err(Error::invalid(
                "key too long",
                format!("{} bytes, at most {limit}", key.len()),
            ));
        }
        Ok(())
    }

    pub(crate) fn check_value(&self, value: &[u8]) -> Result<()> {
        if value.len() > crate::VALUE_BYTES_MAX {
            return Err(Error::invalid(
                "value too long",
                format!("{} bytes, at most {}", value.len(), crate::VALUE_BYTES_MAX),
            ));
        }
        let (bytes, limit_bytes) = (value.len() as u64, self.options.write_set_bytes_max());
        if bytes > limit_bytes {
            return Err(Error::TooLarge { bytes, limit_bytes });
        }
        Ok(())
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
        let large = self.large.binary_search_by_key(&i, |(at, _)| *at).ok();
        let value = point.value.map(|value| match large {
            Some(at) => Value::Overflow(self.large[at].1.handle.encode()),
            None => Value::Inline(value),
        });
        GroupWrite { key: point.key, value }
    }
    /// The writes to one table from `from` on.
    fn writes_from(&self, from: usize) -> Writes<'_, 'a, 's> {
        Writes { job: self, from, len: self.set.table_end(from) - from }
    }
    fn commit_large(&mut self, commit: CommitNo) {
        for (_, large) in self.large.iter_mut() {
            large.commit(commit);
        }
    }
}

/// Writes of a job to one table, as an index sees them.
struct Writes<'j, 'a, 's> {
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
fn prepare_next<'a, 's>(
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

/// How one write ended.
enum OneWrite {
    /// The key does not hold what was expected.
    Refused,
    /// There was nothing to do; what the caller has seen is durable with this position.
    Nothing(Lsn),
    Done {
        lsn: Lsn,
        /// By how many the rows have grown.
        rows: i64,
        sparse: bool,
    },
}

fn is_expected(prepared: &AnyPrepared<'_, '_>, expect: Expect<'_>) -> bool {
    match (expect, prepared.existing()) {
        (Expect::Anything, _) | (Expect::Absent, Existing::Absent) => true,
        (Expect::Value(wanted, _), Existing::Present(Value::Inline(found))) => wanted == found,
        (Expect::Value(_, handle), Existing::Present(Value::Overflow(found))) => {
            handle == Some(Handle::decode(&found))
        }
        (Expect::Absent | Expect::Value(..), _) => false,
    }
}
