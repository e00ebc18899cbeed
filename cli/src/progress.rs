//! How far an import is: a bar on standard error, if that is a terminal.

use indicatif::{HumanCount, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::time::Duration;

/// Redraws a second.
const REDRAW_HZ: u8 = 10;

/// The progress of one import. Hidden where standard error is no terminal.
#[derive(Debug)]
pub(crate) struct Progress {
    /// Also measures the time, hidden or not.
    bar: ProgressBar,
    quiet: bool,
    rows: u64,
}

impl Progress {
    pub(crate) fn new(quiet: bool) -> Self {
        Self { bar: ProgressBar::hidden(), quiet, rows: 0 }
    }

    /// To be moved by what reads the input.
    pub(crate) fn bar(&self) -> &ProgressBar {
        &self.bar
    }

    /// Shows the bar, once it is known whether the input has an end.
    pub(crate) fn start(&self) {
        let template = if self.bar.length().is_some() {
            "{bar:30} {percent:>3}%  {msg}  {eta} left"
        } else {
            "{spinner} {binary_bytes} read  {msg}"
        };
        let style = ProgressStyle::with_template(template).expect("a constant that is tested");
        self.bar.set_style(style);
        if !self.quiet {
            self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(REDRAW_HZ));
        }
    }

    /// Counts rows that were written.
    pub(crate) fn add_rows(&mut self, rows: u64) {
        self.rows += rows;
        self.bar.set_message(format!("{}, {}/s", count_rows(self.rows), self.rate()));
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.bar.elapsed()
    }

    /// Rows a second so far, with separators.
    pub(crate) fn rate(&self) -> HumanCount {
        let ms = self.elapsed().as_millis().max(1);
        let rate = u128::from(self.rows) * 1000 / ms;
        HumanCount(u64::try_from(rate).unwrap_or(u64::MAX))
    }

    /// Runs something that writes to the terminal.
    pub(crate) fn suspend<R>(&self, write: impl FnOnce() -> R) -> R {
        self.bar.suspend(write)
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// A number of rows for reading.
pub(crate) fn count_rows(rows: u64) -> String {
    let s = if rows == 1 { "" } else { "s" };
    format!("{} row{s}", HumanCount(rows))
}

/// A time for reading: `1.25 s`, or minutes and more in words.
pub(crate) fn human(time: Duration) -> String {
    if time < Duration::from_mins(2) {
        format!("{:.2} s", time.as_secs_f64())
    } else {
        HumanDuration(time).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_styles_are_accepted() {
        let progress = Progress::new(true);
        progress.start();
        progress.bar().set_length(10);
        progress.start();
    }
}
