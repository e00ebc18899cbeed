//! Rounds of measurements, and the table they make.
//!
//! A round measures every side once, beginning with another side each time. Ratios are formed within
//! a round, so that what slows the machine for a minute slows both sides of a ratio.

use crate::Options;
use crate::machine::Watch;
use std::io;
use std::thread::sleep;
use std::time::Duration;

/// A measurement in which our threads waited for a processor for a greater share of the time is repeated.
const WAIT_MAX: f64 = 0.04;
/// After so many repetitions a measurement is kept as it is.
const TRIES_MAX: usize = 40;

/// What a fork is about.
#[derive(Debug)]
pub(crate) struct Fork {
    pub(crate) title: &'static str,
    pub(crate) question: &'static str,
    pub(crate) method: &'static str,
    /// Ratios are formed to the side at `base`.
    pub(crate) sides: &'static [&'static str],
    pub(crate) base: usize,
}

/// A line of the table: per side, one value per round.
#[derive(Debug)]
struct Line {
    measure: String,
    sides: Vec<Vec<f64>>,
}

/// What one round measured.
#[derive(Debug, Default)]
pub(crate) struct Round {
    values: Vec<(String, usize, f64)>,
    repeated: usize,
    /// The greatest share of time that was spent waiting for a processor.
    waited: f64,
    /// Processors that others used, per measurement.
    others: Vec<f64>,
}

impl Round {
    /// Notes a value of one side. Each side has at most one per measure.
    pub(crate) fn note(&mut self, measure: impl Into<String>, side: usize, value: f64) {
        self.values.push((measure.into(), side, value));
    }

    /// Measures, and repeats that as long as others disturb it. What `measure` does before it renews the
    /// watch may be disturbed.
    pub(crate) fn quietly<T>(
        &mut self,
        mut measure: impl FnMut(&mut Watch) -> io::Result<T>,
    ) -> io::Result<T> {
        for tries in 1.. {
            let mut watch = Watch::start();
            let measured = measure(&mut watch)?;
            let waited = watch.waited();
            if waited <= WAIT_MAX || tries == TRIES_MAX {
                self.waited = self.waited.max(waited);
                self.others.push(watch.others());
                return Ok(measured);
            }
            self.repeated += 1;
            sleep(Duration::from_millis(200));
        }
        unreachable!("tries are limited")
    }
}

impl Fork {
    /// Runs the rounds and prints the table. `round` gets the order in which to take the sides.
    pub(crate) fn run(
        &self,
        options: &Options,
        mut round: impl FnMut(&[usize], &mut Round) -> io::Result<()>,
    ) -> io::Result<()> {
        let count = self.sides.len();
        let mut lines: Vec<Line> = Vec::new();
        let mut all = Round::default();
        for number in 0..options.rounds {
            let order: Vec<usize> = (0..count).map(|i| (number + i) % count).collect();
            round(&order, &mut all)?;
            for (measure, side, value) in all.values.drain(..) {
                let at = lines.iter().position(|line| line.measure == measure);
                let at = at.unwrap_or_else(|| {
                    lines.push(Line { measure, sides: vec![Vec::new(); count] });
                    lines.len() - 1
                });
                lines[at].sides[side].push(value);
            }
            eprintln!("{}: {} of {}", self.title, number + 1, options.rounds);
        }
        println!("## {}\n\nQuestion: {}\n\nMethod: {}\n", self.title, self.question, self.method);
        println!(
            "{} rounds, {:?} per side; {} measurements were repeated because our threads had to wait for \
             a processor (in those kept at most {:.1} % of the time). Others used {} processors \
             meanwhile. Median (least–most); ratios are paired.\n",
            options.rounds,
            options.time,
            all.repeated,
            100.0 * all.waited,
            spread(&all.others)
        );
        self.print(&lines);
        Ok(())
    }

    fn print(&self, lines: &[Line]) {
        let ratios: Vec<usize> = (0..self.sides.len()).filter(|&side| side != self.base).collect();
        let base = self.sides[self.base];
        let mut head: Vec<String> = self.sides.iter().map(ToString::to_string).collect();
        head.extend(ratios.iter().map(|&side| format!("{} ÷ {base}", self.sides[side])));
        println!("| | {} |\n|---{}|", head.join(" | "), "|---:".repeat(head.len()));
        for Line { measure, sides } in lines {
            let mut cells: Vec<String> = sides.iter().map(|values| spread(values)).collect();
            cells.extend(ratios.iter().map(|&side| {
                let paired = sides[side].iter().zip(&sides[self.base]);
                spread(&paired.map(|(value, base)| value / base).collect::<Vec<_>>())
            }));
            println!("| {measure} | {} |", cells.join(" | "));
        }
        println!();
    }
}

/// Median, least and most, as text.
fn spread(values: &[f64]) -> String {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let (Some(&least), Some(&most)) = (sorted.first(), sorted.last()) else {
        return "–".to_owned();
    };
    let median = f64::midpoint(sorted[sorted.len() / 2], sorted[(sorted.len() - 1) / 2]);
    match (number(least), number(most)) {
        (least, most) if least == most => number(median),
        (least, most) => format!("**{}** ({least}–{most})", number(median)),
    }
}

/// Three digits that count, or all before the point.
fn number(value: f64) -> String {
    let digits = if value >= 99.95 {
        0
    } else if value >= 9.995 {
        1
    } else {
        2
    };
    format!("{value:.digits$}")
}
