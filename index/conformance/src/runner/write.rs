//! Writes of a script: one key, many, ranges.

use super::Runner;
use crate::script::{Bounds, Expect, Key, Operator, Span, Step, Tab, Value, Write};
use crate::state::{Change, Row, State};
use crate::transaction::{Handle, change_of};
use esker::{Durability, Error, Result};
use std::ops::Bound;

impl Runner<'_> {
    pub(super) fn put(
        &mut self,
        tab: Tab,
        key: Key,
        value: Value,
        level: Option<Durability>,
    ) -> Result<()> {
        let shape = self.settings.shape;
        let Some(handle) = self.existing(tab) else { return Ok(()) };
        let (key, value) = (key.bytes(shape), value.bytes());
        let new = self.changed(&handle, &Change::Put(key.clone(), value.clone()));
        self.commit(Some(new), level, |_| match level {
            Some(level) => handle.table.put_with(&key, &value, level),
            None => handle.table.put(&key, &value),
        })
    }

    pub(super) fn delete(&mut self, tab: Tab, key: Key) -> Result<()> {
        let shape = self.settings.shape;
        let Some(handle) = self.existing(tab) else { return Ok(()) };
        let key = key.bytes(shape);
        let new = self.changed(&handle, &Change::Delete(key.clone()));
        self.commit(Some(new), None, |_| handle.table.delete(&key))
    }

    pub(super) fn put_if_absent(&mut self, tab: Tab, key: Key, value: Value) -> Result<()> {
        let shape = self.settings.shape;
        let Some(handle) = self.existing(tab) else { return Ok(()) };
        let (key, value) = (key.bytes(shape), value.bytes());
        let absent = self.row(&handle, &key).is_none();
        let new = self.changed(&handle, &Change::Put(key.clone(), value.clone()));
        let put =
            self.commit(absent.then_some(new), None, |_| handle.table.put_if_absent(&key, &value))?;
        assert_eq!(put, absent, "put_if_absent of {}", key.escape_ascii());
        Ok(())
    }

    pub(super) fn swap(
        &mut self,
        tab: Tab,
        key: Key,
        expect: Expect,
        new: Option<Value>,
    ) -> Result<()> {
        let shape = self.settings.shape;
        let Some(handle) = self.existing(tab) else { return Ok(()) };
        let (key, new) = (key.bytes(shape), new.map(Value::bytes));
        let old = self.row(&handle, &key);
        let expected = match expect {
            Expect::Right => old.clone(),
            Expect::Absent => None,
            Expect::Wrong(value) => Some(value.bytes()),
        };
        let meets = expected == old;
        let change = match &new {
            Some(new) => Change::Put(key.clone(), new.clone()),
            None => Change::Delete(key.clone()),
        };
        let state = meets.then(|| self.changed(&handle, &change));
        let done = self.commit(state, None, |_| {
            handle.table.compare_and_swap(&key, expected.as_deref(), new.as_deref())
        })?;
        assert_eq!(done, meets, "compare_and_swap of {}", key.escape_ascii());
        Ok(())
    }

    pub(super) fn merge(
        &mut self,
        tab: Tab,
        operator: Operator,
        key: Key,
        operand: Value,
    ) -> Result<()> {
        let shape = self.settings.shape;
        let Some(handle) = self.existing(tab) else { return Ok(()) };
        let (key, operand) = (key.bytes(shape), operand.bytes());
        let old = self.row(&handle, &key);
        let change = match operator.apply(old.as_deref(), &operand) {
            Some(new) => Change::Put(key.clone(), new),
            None => Change::Delete(key.clone()),
        };
        let new = self.changed(&handle, &change);
        self.commit(Some(new), None, |_| handle.table.merge(operator.name(), &key, &operand))
    }

    pub(super) fn delete_range(&mut self, tab: Tab, span: Span) -> Result<()> {
        let shape = self.settings.shape;
        let Some(handle) = self.existing(tab) else { return Ok(()) };
        let ordered = handle.table.is_ordered();
        if !ordered {
            refuse_range_delete(&handle, span.bounds(shape));
        }
        self.inexact.insert(handle.generation);
        let bounds = span.suits(ordered).bounds(shape);
        let new = self.changed(&handle, &Change::DeleteRange(bounds.clone()));
        self.commit(Some(new), None, |_| handle.table.delete_range(bounds))
    }

    pub(super) fn clear(&mut self, tab: Tab) -> Result<()> {
        let Some(handle) = self.existing(tab) else { return Ok(()) };
        self.inexact.insert(handle.generation);
        let all = (Bound::Unbounded, Bound::Unbounded);
        let new = self.changed(&handle, &Change::DeleteRange(all));
        self.commit(Some(new), None, |_| handle.table.clear())
    }

    pub(super) fn pop(&mut self, tab: Tab, last: bool) -> Result<()> {
        let Some(handle) = self.existing(tab) else { return Ok(()) };
        if !handle.table.is_ordered() {
            let popped = handle.table.pop_first();
            assert!(matches!(popped, Err(Error::Unordered { .. })), "{popped:?}");
            return Ok(());
        }
        let wanted = {
            let known = self.known();
            let rows = known.now().rows(&handle.name, handle.generation);
            let rows = rows.expect("it exists").iter();
            let mut rows = rows.map(|(key, value)| (key.clone(), value.to_vec()));
            if last { rows.next_back() } else { rows.next() }
        };
        let new =
            wanted.as_ref().map(|(key, _)| self.changed(&handle, &Change::Delete(key.clone())));
        let popped = self.commit(new, None, |_| {
            if last { handle.table.pop_last() } else { handle.table.pop_first() }
        })?;
        assert!(popped == wanted, "popped {popped:?} instead of {wanted:?}");
        Ok(())
    }

    pub(super) fn fill(
        &mut self,
        tab: Tab,
        first: Key,
        count: u16,
        modulo: u16,
        len: u32,
    ) -> Result<()> {
        let writes: Vec<_> = (0..count)
            .map(|n| {
                let value = Value { len, salt: u32::from(n) };
                (tab, Write::Put(Key((first.0 + n) % modulo), value))
            })
            .collect();
        self.batch(&writes, None)
    }

    pub(super) fn erase(&mut self, tab: Tab, first: Key, count: u16, modulo: u16) -> Result<()> {
        let writes: Vec<_> =
            (0..count).map(|n| (tab, Write::Delete(Key((first.0 + n) % modulo)))).collect();
        self.batch(&writes, None)
    }

    pub(super) fn submit(&mut self, slot: u8, tab: Tab, key: Key, value: Value) -> Result<()> {
        let shape = self.settings.shape;
        let Some(handle) = self.existing(tab) else { return Ok(()) };
        let (key, value) = (key.bytes(shape), value.bytes());
        let new = self.changed(&handle, &Change::Put(key.clone(), value.clone()));
        let ticket =
            self.commit(Some(new), Some(Durability::Os), |_| handle.table.submit(&key, &value))?;
        let commit = self.known().last();
        self.tickets[usize::from(slot)] = Some((ticket, commit));
        Ok(())
    }

    pub(super) fn wait(&mut self, slot: u8) -> Result<()> {
        let Some((ticket, commit)) = self.tickets[usize::from(slot)].take() else {
            return Ok(());
        };
        if !ticket.is_durable() {
            ticket.wait()?;
        }
        let mut known = self.known();
        known.synced = known.synced.max(commit);
        known.returned = known.returned.max(commit);
        Ok(())
    }

    pub(super) fn batch(
        &mut self,
        writes: &[(Tab, Write)],
        level: Option<Durability>,
    ) -> Result<()> {
        let mut new = self.now();
        let mut batch = self.db().batch();
        for (tab, write) in writes {
            let Some(handle) = self.existing(*tab) else { continue };
            let write = write.suits(handle.table.is_ordered());
            let change = change_of(&write, self.settings.shape);
            match &change {
                Change::Put(key, value) => batch.put(&handle.table, key, value),
                Change::Delete(key) => batch.delete(&handle.table, key),
                Change::DeleteRange(bounds) => {
                    self.inexact.insert(handle.generation);
                    batch.delete_range(&handle.table, bounds.clone());
                }
            }
            new.change(&handle.name, &change);
        }
        if let Some(level) = level {
            batch.set_durability(level);
        }
        let bytes = batch.bytes();
        match self.commit(Some(new), level, |_| batch.commit()) {
            // Some scripts ask for more than little memory allows.
            Err(Error::TooLarge { limit_bytes, .. }) if bytes > limit_bytes => Ok(()),
            result => result,
        }
    }

    pub(super) fn bulk_load(&mut self, tab: Tab, first: Key, count: u16, len: u32) -> Result<()> {
        let Some(handle) = self.existing(tab) else { return Ok(()) };
        let mut rows: Vec<Row> = (0..count)
            .map(|n| {
                let key = Key(first.0 + n).bytes(self.settings.shape);
                (key, Value { len, salt: u32::from(n) }.bytes())
            })
            .collect();
        rows.sort();
        // It is cut into commits that nobody else knows: any number of rows may be there.
        let mut state = self.now();
        let states: Vec<State> = rows
            .iter()
            .map(|(key, value)| {
                state.change(&handle.name, &Change::Put(key.clone(), value.clone()));
                state.clone()
            })
            .collect();
        self.known().in_flight.clone_from(&states);
        match handle.table.bulk_load(rows.iter().map(|(key, value)| (key, value))) {
            Ok(loaded) => {
                assert_eq!(loaded, u64::from(count));
                let changes = states.last().is_some_and(|last| !last.same_rows(self.known().now()));
                let mut known = self.known();
                known.in_flight.clear();
                known.history.extend(states);
                let last = known.last();
                if changes && self.settings.durability >= Durability::Os {
                    known.returned = last;
                }
                if changes && self.settings.durability == Durability::Sync {
                    known.synced = last;
                }
                Ok(())
            }
            Err(error) => {
                self.note_part_of_load(states);
                Err(error)
            }
        }
    }

    /// A load that met an error keeps the commits before it: some of the first `states`. Which, a look tells; if that
    /// fails, too, the next open does.
    fn note_part_of_load(&mut self, states: Vec<State>) {
        let found = State::read(self.db());
        let mut known = self.known();
        known.in_flight.clear();
        match found {
            Ok(found) if found.same_rows(known.now()) => {}
            Ok(found) => {
                let loaded = states.iter().position(|state| state.same_rows(&found));
                let loaded = loaded.expect("a load that failed leaves a part of it");
                known.history.extend_from_slice(&states[..=loaded]);
            }
            Err(_) => {
                known.history.extend(states);
                drop(known);
                self.abandon();
            }
        }
    }

    pub(super) fn note_inexact(&mut self, handle: &Handle, step: &Step) {
        if matches!(step, Step::Write(_, Write::DeleteRange(_))) {
            self.inexact.insert(handle.generation);
        }
    }
}

/// A table without order deletes no range but that of all keys.
pub(super) fn refuse_range_delete(handle: &Handle, bounds: Bounds) {
    let all = matches!(&bounds, (Bound::Unbounded, Bound::Unbounded))
        || matches!(&bounds, (Bound::Included(low), Bound::Unbounded) if low.is_empty());
    if !all {
        let refused = handle.table.delete_range(bounds);
        assert!(matches!(refused, Err(Error::Unordered { .. })), "{refused:?}");
    }
}
