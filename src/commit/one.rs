//! Writing one key.

use crate::catalog::TableState;
use crate::conflict::KeyMark;
use crate::engine::{Engine, Tries};
use crate::kinds::AnyPrepared;
use crate::options::Durability;
use crate::record::Record;
use crate::store::count_in_turn;
use crate::store::pages::TurnSession;
use crate::turn::Turn;
use crate::value::{Handle, NewValue};
use esker_base::sync::{Ordering, thread_local};
use esker_base::{CommitNo, Error, Lsn, Result};
use esker_index::kind::{Existing, Look, PreparedWrite, Value};
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
                self.check_space_for_large(self.large_pages(value))?;
                large = Some(NewValue::new(&self.store, table.id, value)?);
            }
        } else {
            self.make_way_for_deletes()?;
        }
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
        self.throttle(table, value.is_none())?;
        let mut is_warm = false;
        loop {
            // Who finds the turn free goes down once, in it. Who would have to wait brings the leaf in meanwhile, and its lines
            // into the cache; so does who has found a page missing.
            let free = if is_warm { None } else { self.try_enter() };
            let was_free = free.is_some();
            let mut turn = if let Some(turn) = free {
                turn
            } else {
                self.read(table.id, View::Current, |session| {
                    table.index.warm(session, &table.root, key, look)
                })?;
                self.enter(0)
            };
            is_warm = true;
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
                Err(Stop::Missing(_)) if was_free => {}
                Err(stop) => self.follow_up(stop, View::Current, &mut tries)?,
                Ok(OneWrite::Refused) => return Ok(None),
                Ok(OneWrite::Nothing(lsn)) => return Ok(Some(lsn)),
                Ok(OneWrite::Done { lsn, rows, sparse }) => {
                    if rows != 0 {
                        table.add_rows(rows);
                    }
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
        session.set_bounded();
        let changed = || session.changed().then_some(commit);
        // While the lines of its page, which it asks for if it can guess where that is, are on their way.
        table.index.ask_ahead_in_turn(&session, key);
        let staged = match expect {
            Expect::Anything if new.is_some() => self.wal.stage(tail, commit, payload),
            _ => None,
        };
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
        let lsn = match staged {
            Some(staged) => self.wal.append_staged(tail, &staged),
            None => self.wal.append(tail, commit, &[payload]),
        };
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
        let counters = &self.counters;
        count_in_turn(if new.is_some() { &counters.puts } else { &counters.deletes }, 1);
        if ring.is_recording() {
            ring.wrote(commit, KeyMark::new(table.id, key));
        }
        let sparse = prepared.is_sparse();
        self.row_cache.forget(table.id, key);
        // Before the latch goes: who reads the leaf then may see this commit.
        self.store.published.store(commit.0, Ordering::Release);
        (Some(commit), Ok(OneWrite::Done { lsn, rows, sparse }))
    }
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
