//! When cleaning at rest has done what it can.
//!
//! Every pass of the cleaner is followed by a checkpoint, which writes nodes of the page map anew and so makes dead
//! bytes of its own. Mostly a pass wins more than that; but where versions for a cut hold segments, or the map is
//! large beside what is left to clean, passes could follow each other for ever, and each would write.

use esker_base::CommitNo;

/// Passes in a row that may win nothing.
const VAIN_MAX: u32 = 4;

/// What passes of the cleaner have brought since something else last changed.
#[derive(Debug, Default)]
pub(crate) struct RestCleaning {
    /// The newest commit, and the number of page versions kept: other values, other things to clean.
    state: (CommitNo, usize),
    /// The fewest dead bytes after a pass.
    lowest_bytes: u64,
    vain: u32,
}

impl RestCleaning {
    /// True if another pass may win something.
    pub(crate) fn goes_on(&mut self, state: (CommitNo, usize), dead_bytes: u64) -> bool {
        if self.state != state {
            *self = Self { state, lowest_bytes: dead_bytes, vain: 0 };
        }
        self.vain < VAIN_MAX
    }

    /// A pass and its checkpoint have left so many dead bytes.
    pub(crate) fn note(&mut self, dead_bytes: u64, gain_bytes_min: u64) {
        if dead_bytes + gain_bytes_min <= self.lowest_bytes {
            self.lowest_bytes = dead_bytes;
            self.vain = 0;
        } else {
            self.vain += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_that_win_nothing_come_to_an_end() {
        let mut cleaning = RestCleaning::default();
        let state = (CommitNo(7), 3);
        let mut dead_bytes = 1000;
        for _ in 0..5 {
            assert!(cleaning.goes_on(state, dead_bytes));
            dead_bytes -= 100;
            cleaning.note(dead_bytes, 100);
        }
        let mut passes = 0;
        while cleaning.goes_on(state, dead_bytes) {
            dead_bytes = if passes % 2 == 0 { 500 } else { 460 };
            cleaning.note(dead_bytes, 100);
            passes += 1;
        }
        assert_eq!(passes, VAIN_MAX);
        assert!(cleaning.goes_on((CommitNo(8), 3), dead_bytes), "a commit changes that");
    }
}
