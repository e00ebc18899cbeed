//! Transactions of a script, in one go or step by step.

use super::Runner;
use crate::script::{Step, Tab};
use crate::state::State;
use crate::transaction::{OpenTransaction, check_failure};
use esker::{Durability, Error, Isolation, Result};

impl Runner<'_> {
    pub(super) fn transact(
        &mut self,
        isolation: Isolation,
        steps: &[Step],
        commit: bool,
        level: Option<Durability>,
    ) -> Result<()> {
        let shape = self.settings.shape;
        let mut open = self.begin(isolation);
        for step in steps {
            let Some(handle) = self.existing(tab_of(step)) else { continue };
            self.note_inexact(&handle, step);
            let since = self.since(&open);
            open.step(&handle, shape, step, &since)
                .inspect_err(|error| check_failure(error, &since))?;
        }
        if commit { self.commit_transaction(open, level) } else { Ok(()) }
    }

    pub(super) fn step_in(&mut self, slot: u8, step: &Step) -> Result<()> {
        let shape = self.settings.shape;
        let Some(handle) = self.existing(tab_of(step)) else { return Ok(()) };
        self.note_inexact(&handle, step);
        let slot = usize::from(slot);
        let Some(mut open) = self.transactions[slot].take() else { return Ok(()) };
        let since = self.since(&open);
        match open.step(&handle, shape, step, &since) {
            Ok(()) => self.transactions[slot] = Some(open),
            Err(error) => {
                check_failure(&error, &since);
                // From now on it can only be dropped.
                let again = open.tx.get(&handle.table, b"any");
                assert!(matches!(again, Err(Error::TransactionFailed)), "{again:?}");
                let due = match &error {
                    Error::Conflict | Error::TooLarge { .. } => true,
                    Error::UnknownTable { .. } => open.log.is_older_than(handle.generation, &since),
                    _ => false,
                };
                if !due {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    pub(super) fn end(&mut self, slot: u8, commit: bool) -> Result<()> {
        let open = self.transactions[usize::from(slot)].take();
        match open {
            Some(open) if commit => match self.commit_transaction(open, None) {
                Err(Error::Conflict) => Ok(()),
                result => result,
            },
            _ => Ok(()),
        }
    }

    /// The states from the begin of a transaction on.
    pub(super) fn since(&self, open: &OpenTransaction) -> Vec<State> {
        self.known().history[open.log.begin..].to_vec()
    }

    pub(super) fn begin(&self, isolation: Isolation) -> OpenTransaction {
        let begin = self.known().last();
        OpenTransaction::new(self.db().begin_with(isolation), isolation, begin)
    }

    pub(super) fn commit_transaction(
        &mut self,
        open: OpenTransaction,
        level: Option<Durability>,
    ) -> Result<()> {
        let since = self.since(&open);
        let OpenTransaction { mut tx, log } = open;
        let outcome = log.outcome(&since);
        let writes = log.writes();
        if let Some(level) = level {
            tx.set_durability(level);
        }
        let new = outcome.as_ref().ok().filter(|_| writes).cloned();
        let result = self.commit(new, level, |_| tx.commit());
        match (&result, outcome) {
            (Ok(()) | Err(Error::Unknown { .. }), Err(detail)) if writes => {
                panic!("a commit succeeded that must not: {detail}")
            }
            (Err(error), _) => check_failure(error, &since),
            _ => {}
        }
        result
    }
}

pub(super) fn tab_of(step: &Step) -> Tab {
    match step {
        Step::Get(tab, _)
        | Step::GetForUpdate(tab, _)
        | Step::Scan(tab, _)
        | Step::PutIfAbsent(tab, ..)
        | Step::Merge(tab, ..)
        | Step::Write(tab, _) => *tab,
    }
}
