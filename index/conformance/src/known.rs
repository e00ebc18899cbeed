//! What is known outside the database, and so what may be found in it.

use crate::state::State;

/// The states that commits led through since the database was opened, and how far they were promised.
#[derive(Clone, Debug)]
pub struct Known {
    /// The state found at open, then the state after each commit.
    pub history: Vec<State>,
    /// Up to here, power loss takes nothing.
    pub synced: usize,
    /// Up to here, the death of the process takes nothing.
    pub returned: usize,
    /// The states after the commits that are under way.
    pub in_flight: Vec<State>,
}

impl Default for Known {
    fn default() -> Self {
        Self { history: vec![State::default()], synced: 0, returned: 0, in_flight: Vec::new() }
    }
}

impl Known {
    /// The newest state.
    pub fn now(&self) -> &State {
        self.history.last().expect("it begins with the state at open")
    }

    /// Index of the newest state.
    pub fn last(&self) -> usize {
        self.history.len() - 1
    }

    /// What is known after a crash now: of the process only, or of the machine.
    #[must_use]
    pub fn after_crash(&self, process_only: bool) -> Self {
        // The next crash, before an open has shown anything, may still take what was not synced.
        let mut history = self.history[self.synced..].to_vec();
        history.extend_from_slice(&self.in_flight);
        let returned = if process_only { self.returned - self.synced } else { 0 };
        Self { history, synced: 0, returned, in_flight: Vec::new() }
    }

    /// The states that may be found by an open now: the oldest first.
    pub fn candidates(&self) -> &[State] {
        &self.history[self.returned..]
    }

    /// A successful open has shown this state: there is no other any more.
    pub fn narrow(&mut self, found: State) {
        *self = Self { history: vec![found], synced: 0, returned: 0, in_flight: Vec::new() };
    }
}
