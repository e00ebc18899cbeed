//! How fast one table may be written while its background work is behind.
//!
//! Debt falls at once when a long piece of work ends, so writers that ran free until it reached its limit would then
//! stand still for seconds. Instead debt may grow only as fast as work gets on: along a line from where it was when the last piece
//! of work ended to the limit, over the time that a piece took lately. A piece that takes longer, and nobody knows by how much, is
//! expected to take as long again as it has taken: past three quarters of its time the line is a hyperbola. It never meets the
//! limit, and what it gains in a millisecond is more than a row even after many times the usual time, so writers are slow
//! then but do not stand.
//!
//! While no piece has ended, one is expected to take as long as it had taken when debt began to matter.
//!
//! Where the index says how much there is left to do before debt falls, that is known better: what is left, at the speed of the
//! last seconds. Each step of work then draws the line anew, from the debt that there is. So a piece that is longer than others
//! slows writers a little from its beginning on, and not much at its end (as progress does in Sears and Ramakrishnan, "bLSM",
//! SIGMOD 2012).

use esker_base::sync::{AtomicBool, AtomicU64, Mutex, Ordering};
use esker_index::kind::Progress;
use std::time::Duration;

/// Below this share of the limit (1 / `FREE`) nobody is slowed down.
pub(crate) const FREE: u64 = 4;
/// A piece of work counts if it takes this share of the limit (1 / `PIECE`) off the debt.
const PIECE: u64 = 8;
/// Of the time that a piece takes, and of the way to the limit, the share past which the line is no longer straight is 1 - 1 / `BENT`.
const BENT: u128 = 4;
/// No piece counts for more: work may have been kept from going on for other reasons.
const PIECE_NS_MAX: u64 = 30_000_000_000;
/// None counts for less, while it is not known how long they take.
const PIECE_NS_FIRST_MIN: u64 = 10_000_000;
/// The speed of work is that of about so long.
const SPEED_NS: u64 = 4_000_000_000;
/// Pages by which it is known.
const SPEED_PAGES_MIN: u64 = 256;
/// What is left is expected to take longer by a share of this (1 / `LATE`), and by so long,
const LATE: u64 = 8;
/// since a piece ends with work that is not counted.
const LATE_NS: u64 = 50_000_000;

/// The pace of one table's writers.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// When the work under way began, in ns; 0 if there is none.
    work_ns: AtomicU64,
    /// When the line begins, in ns; 0 while debt does not matter.
    began_ns: AtomicU64,
    /// Debt at that time.
    began_bytes: AtomicU64,
    /// In what time the line would meet the limit, in ns.
    line_ns: AtomicU64,
    /// When debt began to matter, or the last piece of work ended, in ns.
    piece_began_ns: AtomicU64,
    speed: Mutex<Speed>,
    /// How long pieces of work took lately, or the first one is expected to take, in ns; 0 before there was any.
    piece_ns: AtomicU64,
    /// A piece of work has ended.
    is_known: AtomicBool,
}

impl Pace {
    /// Debt that there may be at `now`, given that there is `debt_bytes`, which matters: less than `max_bytes`, unless that is 0.
    pub(crate) fn debt_bytes_max(&self, now: Duration, debt_bytes: u64, max_bytes: u64) -> u64 {
        let now_ns = nanos(now);
        let mut began_ns = self.began_ns.load(Ordering::Relaxed);
        if began_ns == 0 {
            // If two see it at once, either will do.
            self.begin(now_ns, debt_bytes);
            began_ns = now_ns;
        }
        let began_bytes = self.began_bytes.load(Ordering::Relaxed).max(max_bytes / FREE);
        let left_bytes = max_bytes.saturating_sub(began_bytes);
        let gone_ns = now_ns.saturating_sub(began_ns);
        began_bytes + way(left_bytes, gone_ns, self.line_ns.load(Ordering::Relaxed).max(1))
    }

    /// The line begins here.
    fn begin(&self, now_ns: u64, debt_bytes: u64) {
        if !self.is_known.load(Ordering::Relaxed) {
            let age_ns = match self.work_ns.load(Ordering::Relaxed) {
                0 => 0,
                work_ns => now_ns.saturating_sub(work_ns),
            };
            self.piece_ns.store(age_ns.clamp(PIECE_NS_FIRST_MIN, PIECE_NS_MAX), Ordering::Relaxed);
        }
        self.piece_began_ns.store(now_ns, Ordering::Relaxed);
        self.draw(now_ns, debt_bytes, self.piece_ns.load(Ordering::Relaxed));
    }

    fn draw(&self, now_ns: u64, debt_bytes: u64, line_ns: u64) {
        self.line_ns.store(line_ns, Ordering::Relaxed);
        self.began_bytes.store(debt_bytes, Ordering::Relaxed);
        self.began_ns.store(now_ns, Ordering::Relaxed);
    }

    /// Background work has got on so far, and there is so much debt.
    pub(crate) fn note_progress(&self, now: Duration, progress: Progress, debt_bytes: u64) {
        let now_ns = nanos(now);
        let Some(left_ns) = self.speed.lock().note(now_ns, progress) else { return };
        if self.began_ns.load(Ordering::Relaxed) != 0 {
            self.draw(now_ns, debt_bytes, left_ns + left_ns / LATE + LATE_NS);
        }
    }

    /// Background work goes on.
    pub(crate) fn note_work(&self, now: Duration) {
        if self.work_ns.load(Ordering::Relaxed) == 0 {
            self.work_ns.store(nanos(now), Ordering::Relaxed);
        }
    }

    /// There is no work to do.
    pub(crate) fn note_rest(&self) {
        self.work_ns.store(0, Ordering::Relaxed);
    }

    /// Background work has ended a piece, and debt has changed.
    pub(crate) fn note(&self, now: Duration, before_bytes: u64, after_bytes: u64, max_bytes: u64) {
        if before_bytes.saturating_sub(after_bytes) * PIECE < max_bytes || max_bytes == 0 {
            if after_bytes * FREE <= max_bytes {
                self.began_ns.store(0, Ordering::Relaxed);
            }
            return;
        }
        let now_ns = nanos(now);
        let piece_began_ns = self.piece_began_ns.load(Ordering::Relaxed);
        if self.began_ns.load(Ordering::Relaxed) != 0 {
            let took_ns = now_ns.saturating_sub(piece_began_ns).clamp(1, PIECE_NS_MAX);
            // A little less than it took: who is fast is to find the next piece of work waiting.
            let took_ns = took_ns - took_ns / 8;
            // Half of what was known: pieces of work differ, and load changes.
            let piece_ns = if self.is_known.load(Ordering::Relaxed) {
                self.piece_ns.load(Ordering::Relaxed).midpoint(took_ns)
            } else {
                took_ns
            };
            self.piece_ns.store(piece_ns, Ordering::Relaxed);
            self.is_known.store(true, Ordering::Relaxed);
        }
        self.work_ns.store(now_ns, Ordering::Relaxed);
        let still = after_bytes * FREE > max_bytes;
        self.piece_began_ns.store(now_ns, Ordering::Relaxed);
        let began_ns = if still { now_ns } else { 0 };
        self.draw(began_ns, after_bytes, self.piece_ns.load(Ordering::Relaxed));
    }
}

/// How fast work gets on.
#[derive(Debug, Default)]
struct Speed {
    /// When it was last seen, in ns, and what it had done; 0 if it was doing nothing that counts.
    at_ns: u64,
    done_pages: u64,
    /// In so long it has done so much.
    ns: u64,
    pages: u64,
}

impl Speed {
    /// How long what is left will take, in ns, if that is known.
    fn note(&mut self, now_ns: u64, progress: Progress) -> Option<u64> {
        let since_ns = std::mem::replace(&mut self.at_ns, now_ns);
        let before_pages = std::mem::replace(&mut self.done_pages, progress.done_pages);
        if since_ns != 0 {
            self.ns += now_ns.saturating_sub(since_ns);
            self.pages += progress.done_pages.saturating_sub(before_pages);
        }
        if self.ns > SPEED_NS {
            self.pages = share(self.pages, SPEED_NS, self.ns);
            self.ns = SPEED_NS;
        }
        if progress.left_pages == 0 {
            self.at_ns = 0;
            return None;
        }
        let is_known = self.pages >= SPEED_PAGES_MIN;
        is_known.then(|| share(progress.left_pages, self.ns, self.pages).min(PIECE_NS_MAX))
    }
}

/// `n` times `times`, divided.
fn share(n: u64, times: u64, divided: u64) -> u64 {
    let share = u128::from(n) * u128::from(times) / u128::from(divided.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}

/// How much of `left_bytes` may be used up after `gone_ns`, if all that takes `piece_ns`.
fn way(left_bytes: u64, gone_ns: u64, piece_ns: u64) -> u64 {
    let (left, gone, piece) = (u128::from(left_bytes), u128::from(gone_ns), u128::from(piece_ns));
    let way = match (gone * BENT).checked_sub(piece * (BENT - 1)) {
        None => left * gone / piece,
        // The last part of the way, of which a share remains that falls with the time gone; as steep as the line where they meet.
        Some(past) => {
            let rest = (left * piece).div_ceil(BENT * (piece + past));
            left - rest.min(left)
        }
    };
    u64::try_from(way).unwrap_or(left_bytes)
}

/// Never 0.
fn nanos(now: Duration) -> u64 {
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u64 = 1_000_000;
    const ROW_BYTES: u64 = 100;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A pace that knows that a piece takes so long; no debt matters.
    fn knowing(ms: u64) -> Pace {
        let pace = Pace::default();
        pace.debt_bytes_max(at(1), MAX / FREE, MAX);
        pace.note(at(1 + ms * 8 / 7), MAX, 0, MAX);
        assert!(pace.piece_ns.load(Ordering::Relaxed).abs_diff(ms * 1_000_000) < 1_000_000);
        pace
    }

    #[test]
    fn debt_follows_the_time_that_work_takes() {
        let pace = knowing(875);
        for ms in (0..650).step_by(50) {
            let line = pace.debt_bytes_max(at(2000 + ms), 260_000, MAX);
            let wanted = 260_000 + 740_000 * ms / 875;
            assert!(line.abs_diff(wanted) < 1000, "{ms}: {line}, not {wanted}");
        }
    }

    #[test]
    fn however_long_work_takes_writers_go_on() {
        let first = Pace::default();
        first.note_work(at(1500));
        for (name, pace) in [("known", knowing(500)), ("first", first)] {
            let mut line = pace.debt_bytes_max(at(2000), 250_000, MAX);
            // Ten times the time that it should take, in steps of the longest wait.
            for ms in (2100..7000).step_by(100) {
                let now = pace.debt_bytes_max(at(ms), line, MAX);
                assert!(now >= line + ROW_BYTES && now < MAX, "{name}, {ms}: {now} after {line}");
                line = now;
            }
        }
    }

    #[test]
    fn the_first_piece_is_expected_to_take_as_long_again_as_it_has() {
        let pace = Pace::default();
        pace.note_work(at(100));
        pace.note_rest();
        pace.note_work(at(1000));
        pace.note_work(at(1200));
        assert_eq!(pace.debt_bytes_max(at(1400), 250_000, MAX), 250_000);
        assert_eq!(pace.debt_bytes_max(at(1500), 260_000, MAX), 250_000 + 750_000 / 4);
    }

    #[test]
    fn a_piece_that_leaves_debt_starts_the_line_there() {
        let pace = Pace::default();
        pace.debt_bytes_max(at(1), 300_000, MAX);
        pace.note(at(1001), MAX, 600_000, MAX);
        assert_eq!(pace.debt_bytes_max(at(1001), 600_000, MAX), 600_000);
        // Too little to count: the line goes on.
        pace.note(at(1438), 800_000, 790_000, MAX);
        assert!(pace.debt_bytes_max(at(1438), 800_000, MAX).abs_diff(799_771) <= 1);
        // A piece of 3 s: known are 2 s, less an eighth, from now on.
        pace.note(at(4001), 990_000, 400_000, MAX);
        assert_eq!(pace.debt_bytes_max(at(4876), 400_000, MAX), 700_000);
    }

    /// A piece of 1.5 s after one of 0.5 s, as work says beforehand: writers are as fast at its end as at its beginning.
    #[test]
    fn a_long_piece_slows_writers_evenly() {
        const PAGES: u64 = 15_000;
        let pace = knowing(500);
        let mut debt = MAX / FREE;
        let step = |ms: u64, debt: u64| {
            let progress = Progress { done_pages: ms * 10, left_pages: PAGES - ms * 10 };
            pace.note_progress(at(2000 + ms), progress, debt);
        };
        (0..100).step_by(10).for_each(|ms| step(ms, debt));
        let mut before = debt;
        for ms in 100..1500 {
            if ms % 10 == 0 {
                step(ms, debt);
            }
            debt = debt.max(pace.debt_bytes_max(at(2000 + ms), debt, MAX));
            if ms % 100 == 99 {
                let wrote = debt - before;
                assert!((30_000..80_000).contains(&wrote), "{ms}: {wrote}");
                before = debt;
            }
        }
        assert!(debt > MAX * 9 / 10 && debt < MAX, "{debt}");
    }

    #[test]
    fn the_speed_of_work_is_that_of_the_last_seconds() {
        let mut speed = Speed::default();
        let progress = |done_pages, left_pages| Progress { done_pages, left_pages };
        let (ms, second) = (1_000_000, 1_000_000_000);
        assert_eq!(speed.note(ms, progress(0, 1000)), None);
        assert_eq!(speed.note(ms + second, progress(100, 1000)), None, "too few pages to tell");
        assert_eq!(speed.note(ms + 2 * second, progress(1000, 1000)), Some(2 * second));
        // Time in which nothing is done that counts is not counted.
        assert_eq!(speed.note(ms + 2 * second, progress(1000, 0)), None);
        assert_eq!(speed.note(ms + 60 * second, progress(1000, 500)), Some(second));
        // Ten times as fast from now on.
        for n in 1..=100 {
            speed.note(ms + (60 + n) * second, progress(1000 + 5000 * n, 5000));
        }
        let left_ns = speed.note(ms + 161 * second, progress(506_000, 5000));
        assert!(left_ns.is_some_and(|ns| ns.abs_diff(second) < second / 100), "{left_ns:?}");
    }

    #[test]
    fn no_limit_is_no_matter() {
        let pace = Pace::default();
        pace.note(at(1), 0, 0, 0);
        assert_eq!(pace.debt_bytes_max(at(1), 0, 0), 0);
    }
}
