//! Transactions that are open while other operations go on, and what their reads may have been.

use crate::script::{Operator, Shape, Step, Write};
use crate::state::{Change, Row, State, brief, is_empty};
use esker::{Error, Isolation, Result, Table, Transaction};
use std::ops::Bound;

/// A table as the runner knows it.
#[derive(Clone, Debug)]
pub struct Handle {
    pub table: Table,
    pub name: String,
    pub generation: u64,
}

/// A transaction with all that it did.
#[derive(Debug)]
pub struct OpenTransaction {
    pub tx: Transaction,
    pub log: Log,
}

/// What a transaction did.
#[derive(Debug)]
pub struct Log {
    isolation: Isolation,
    /// Index of the state at which it began.
    pub begin: usize,
    did: Vec<(Handle, Did)>,
}

#[derive(Debug)]
enum Did {
    Got(Vec<u8>, Option<Vec<u8>>),
    Had(Vec<u8>, bool),
    Scanned(crate::script::Bounds, Vec<Row>),
    Merged(Operator, Vec<u8>, Vec<u8>),
    Wrote(Change),
    /// Read as if it were written: nobody else may write it meanwhile.
    Claimed(Vec<u8>),
}

impl Did {
    fn reads(&self) -> bool {
        match self {
            Self::Scanned(bounds, _) => !is_empty(bounds),
            Self::Wrote(_) => false,
            _ => true,
        }
    }

    fn writes(&self) -> bool {
        match self {
            Self::Wrote(Change::DeleteRange(bounds)) => !is_empty(bounds),
            Self::Wrote(_) | Self::Merged(..) => true,
            _ => false,
        }
    }
}

impl OpenTransaction {
    pub fn new(tx: Transaction, isolation: Isolation, begin: usize) -> Self {
        Self { tx, log: Log { isolation, begin, did: Vec::new() } }
    }

    /// Does a step and checks what it answers. `since` are the states from its begin on.
    pub fn step(
        &mut self,
        handle: &Handle,
        shape: Shape,
        step: &Step,
        since: &[State],
    ) -> Result<()> {
        let table = &handle.table;
        let ordered = table.is_ordered();
        let did = match step.suits(ordered) {
            Step::Get(_, key) => {
                let key = key.bytes(shape);
                let value = self.tx.get(table, &key)?;
                Did::Got(key, value)
            }
            Step::GetForUpdate(_, key) => {
                let key = key.bytes(shape);
                let value = self.tx.get_for_update(table, &key)?;
                self.log.did.push((handle.clone(), Did::Claimed(key.clone())));
                Did::Got(key, value)
            }
            Step::Scan(_, span) => {
                let rows = match span.prefix(shape) {
                    _ if !ordered => self.tx.rows(table)?,
                    Some(prefix) => self.tx.prefix(table, prefix)?,
                    None => self.tx.range(table, span.bounds(shape))?,
                };
                let mut rows = rows.collect::<Result<Vec<_>>>()?;
                if !ordered {
                    rows.sort();
                }
                Did::Scanned(span.bounds(shape), rows)
            }
            Step::PutIfAbsent(_, key, value) => {
                let (key, value) = (key.bytes(shape), value.bytes());
                let put = self.tx.put_if_absent(table, &key, &value)?;
                self.log.did.push((handle.clone(), Did::Claimed(key.clone())));
                self.log.did.push((handle.clone(), Did::Had(key.clone(), !put)));
                if !put {
                    self.log.check(since);
                    return Ok(());
                }
                Did::Wrote(Change::Put(key, value))
            }
            Step::Merge(_, operator, key, operand) => {
                let (key, operand) = (key.bytes(shape), operand.bytes());
                self.tx.merge(table, operator.name(), &key, &operand)?;
                self.log.did.push((handle.clone(), Did::Claimed(key.clone())));
                Did::Merged(operator, key, operand)
            }
            Step::Write(_, write) => {
                let change = change_of(&write, shape);
                match &change {
                    Change::Put(key, value) => self.tx.put(table, key, value)?,
                    Change::Delete(key) => self.tx.delete(table, key)?,
                    Change::DeleteRange(bounds) => self.tx.delete_range(table, bounds.clone())?,
                }
                Did::Wrote(change)
            }
        };
        self.log.did.push((handle.clone(), did));
        self.log.check(since);
        Ok(())
    }
}

impl Log {
    /// True if it read or wrote this table.
    pub fn touches(&self, generation: u64) -> bool {
        self.did.iter().any(|(handle, _)| handle.generation == generation)
    }

    /// True if it may not commit once this table is gone. (Under snapshot isolation it may have
    /// read it.)
    pub fn needs(&self, generation: u64) -> bool {
        let reads = self.isolation == Isolation::Serializable;
        self.did
            .iter()
            .filter(|(handle, _)| handle.generation == generation)
            .any(|(_, did)| did.writes() || reads && did.reads())
    }

    /// True if it reads as of a time when there was no such table.
    pub fn is_older_than(&self, generation: u64, since: &[State]) -> bool {
        let mut then = since[0].tables();
        self.isolation == Isolation::Snapshot && then.all(|(_, other)| other != generation)
    }

    /// All that was read so far must be one state's, from the begin on, own writes included.
    fn check(&self, since: &[State]) {
        let possible = match self.isolation {
            Isolation::Serializable => since,
            Isolation::Snapshot => &since[..1],
        };
        let mut wrong = None;
        for state in possible {
            match self.replay(state) {
                Ok(_) => return,
                Err(detail) => wrong = Some(detail),
            }
        }
        panic!(
            "{:?} transaction read what no state from its begin on holds: {wrong:?}",
            self.isolation
        )
    }

    /// The state after all that was done, if what was read is what this state holds.
    fn replay(&self, state: &State) -> Result<State, String> {
        let mut state = state.clone();
        for (handle, did) in &self.did {
            let (name, generation) = (&handle.name[..], handle.generation);
            match did {
                Did::Got(key, found) => {
                    let wanted = state.get(name, generation, key);
                    if wanted != found.as_deref() {
                        let (wanted, found) = (brief(wanted), brief(found.as_deref()));
                        let key = key.escape_ascii();
                        return Err(format!("{name}, {key}: wanted {wanted}, found {found}"));
                    }
                }
                Did::Had(key, found) => {
                    if state.get(name, generation, key).is_some() != *found {
                        return Err(format!("{name}, {}: there is {found}", key.escape_ascii()));
                    }
                }
                Did::Scanned(bounds, found) => {
                    let wanted = state.range(name, generation, bounds);
                    if wanted != *found {
                        let (wanted, found) = (wanted.len(), found.len());
                        return Err(format!("{name}: a scan of {found} rows instead of {wanted}"));
                    }
                }
                Did::Merged(operator, key, operand) => {
                    let old = state.get(name, generation, key);
                    let change = match operator.apply(old, operand) {
                        Some(new) => Change::Put(key.clone(), new),
                        None => Change::Delete(key.clone()),
                    };
                    change_table(&mut state, handle, &change);
                }
                Did::Wrote(change) => change_table(&mut state, handle, change),
                Did::Claimed(_) => {}
            }
        }
        Ok(state)
    }

    /// The state that its commit leads to, if it may succeed now.
    pub fn outcome(&self, since: &[State]) -> Result<State, String> {
        let now = since.last().expect("there is always one");
        match self.isolation {
            Isolation::Serializable => self.replay(now),
            Isolation::Snapshot => {
                // Nobody may have written since the begin what it writes or claimed.
                for (handle, did) in &self.did {
                    let bounds = match did {
                        Did::Wrote(Change::DeleteRange(bounds)) => bounds.clone(),
                        Did::Wrote(Change::Put(key, _) | Change::Delete(key))
                        | Did::Merged(_, key, _)
                        | Did::Claimed(key) => {
                            (Bound::Included(key.clone()), Bound::Included(key.clone()))
                        }
                        _ => continue,
                    };
                    let rows =
                        |state: &State| state.range(&handle.name, handle.generation, &bounds);
                    let first = rows(&since[0]);
                    if since.iter().any(|state| rows(state) != first) {
                        return Err(format!("{bounds:?} was written by another one"));
                    }
                }
                self.replay(&since[0])?;
                Ok(self.effect(now))
            }
        }
    }

    /// What its writes make of a state.
    fn effect(&self, state: &State) -> State {
        let mut state = state.clone();
        for (handle, did) in &self.did {
            match did {
                Did::Wrote(change) => change_table(&mut state, handle, change),
                Did::Merged(operator, key, operand) => {
                    let old = state.get(&handle.name, handle.generation, key);
                    let change = match operator.apply(old, operand) {
                        Some(new) => Change::Put(key.clone(), new),
                        None => Change::Delete(key.clone()),
                    };
                    change_table(&mut state, handle, &change);
                }
                _ => {}
            }
        }
        state
    }

    /// True if its commit changes anything that is written down.
    pub fn writes(&self) -> bool {
        self.did.iter().any(|(_, did)| did.writes())
    }
}

/// A conflict needs somebody to conflict with. `since` are the states from the transaction's begin on.
pub fn check_failure(error: &Error, since: &[State]) {
    assert!(
        !error.is_conflict() || since.len() > 1,
        "a conflict, and nobody else has committed anything"
    );
}

fn change_table(state: &mut State, handle: &Handle, change: &Change) {
    if matches!(change, Change::DeleteRange(bounds) if is_empty(bounds)) {
        return;
    }
    // It may have been created after the state that is looked at.
    if state.generation(&handle.name) != Some(handle.generation) {
        state.create(&handle.name, handle.generation);
    }
    state.change(&handle.name, change);
}

pub fn change_of(write: &Write, shape: Shape) -> Change {
    match *write {
        Write::Put(key, value) => Change::Put(key.bytes(shape), value.bytes()),
        Write::Delete(key) => Change::Delete(key.bytes(shape)),
        Write::DeleteRange(span) => Change::DeleteRange(span.bounds(shape)),
    }
}
