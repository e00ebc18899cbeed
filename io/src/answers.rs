//! What disks in memory say when they are asked for [`Residence`]: they have no cache, so a test says what it wants to hear.

use crate::Residence;

/// What a disk in memory says of stretches that are about to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answers {
    /// [`Residence::Unknown`].
    #[default]
    Unknown,
    /// Always the same.
    Always(Residence),
    /// Cached or evicted, so many questions long, in an order that the seed draws.
    Turns {
        /// How many questions are answered alike, at least 1.
        questions: u64,
        /// Tells orders apart.
        seed: u64,
    },
}

/// Answers, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answering {
    pub(crate) answers: Answers,
    asked: u64,
}

impl Answering {
    pub(crate) fn next(&mut self) -> Residence {
        self.asked += 1;
        match self.answers {
            Answers::Unknown => Residence::Unknown,
            Answers::Always(residence) => residence,
            Answers::Turns { questions, seed } => {
                let turn = (self.asked - 1) / questions.max(1);
                let drawn = (seed ^ turn).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                if drawn >> 63 == 0 { Residence::Evicted } else { Residence::Cached }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_last_and_change() {
        let answers = Answers::Turns { questions: 3, seed: 5 };
        let mut answering = Answering { answers, asked: 0 };
        let all: Vec<_> = (0..300).map(|_| answering.next()).collect();
        assert!(all.chunks(3).all(|turn| turn.iter().all(|answer| *answer == turn[0])));
        for residence in [Residence::Cached, Residence::Evicted] {
            let n = all.iter().filter(|answer| **answer == residence).count();
            assert!(n > 90, "{residence:?}: {n}");
        }
        assert_eq!(Answering::default().next(), Residence::Unknown);
    }
}
