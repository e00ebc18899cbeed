//! How fast one table may be written while its background work is behind.
//!
//! Debt falls at once when a long piece of work ends, so writers that ran free until it reached its limit would then
//! stand still for seconds. Instead debt may grow only as fast as work gets on: along a line from where it was when the last piece
//! of work ended to the limit, over the time that a piece took lately. Past that time the line flattens and never reaches the
//! limit; writers are slow then but do not stand.

use esker_base::sync::{AtomicU64, Ordering};
use std::time::Duration;

/// Below this share of the limit (1 / `FREE`) nobody is slowed down.
pub(crate) const FREE: u64 = 4;
/// A piece of work counts if it takes this share of the limit (1 / `PIECE`) off the debt.
const PIECE: u64 = 8;
/// Shares of the line are in units of 1 / `ONE`.
const ONE: u64 = 1 << 16;
/// Share of the line that is straight; past it, what is left halves each time that so much passes as was left there.
const STRAIGHT: u64 = ONE / 4 * 3;
/// No piece counts for more: work may have been kept from going on for other reasons.
const PIECE_NS_MAX: u64 = 30_000_000_000;

/// The pace of one table's writers.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    /// When the piece of work under way was first seen to matter, in ns; 0 if it does not.
    began_ns: AtomicU64,
    /// Debt at that time.
    began_bytes: AtomicU64,
    /// How long pieces of work took lately, in ns; 0 while that is not known.
    piece_ns: AtomicU64,
}

impl Pace {
    /// Debt that there may be at `now`.
    pub(crate) fn debt_bytes_max(&self, now: Duration, debt_bytes: u64, max_bytes: u64) -> u64 {
        let now_ns = nanos(now);
        let piece_ns = self.piece_ns.load(Ordering::Relaxed);
        let began_ns = self.began_ns.load(Ordering::Relaxed);
        if began_ns == 0 {
            // If two see it at once, either will do.
            self.began_bytes.store(debt_bytes, Ordering::Relaxed);
            self.began_ns.store(now_ns, Ordering::Relaxed);
        }
        if began_ns == 0 || piece_ns == 0 {
            return max_bytes;
        }
        let began_bytes = self.began_bytes.load(Ordering::Relaxed).max(max_bytes / FREE);
        let left_bytes = max_bytes.saturating_sub(began_bytes);
        let gone_ns = now_ns.saturating_sub(began_ns).min(piece_ns.saturating_mul(ONE));
        let time = u128::from(gone_ns) * u128::from(ONE) / u128::from(piece_ns);
        let share = u128::from(share_of(u64::try_from(time).unwrap_or(u64::MAX)));
        let way = u128::from(left_bytes) * share / u128::from(ONE);
        began_bytes + u64::try_from(way).unwrap_or(left_bytes)
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
        let began_ns = self.began_ns.load(Ordering::Relaxed);
        if began_ns != 0 {
            let took_ns = now_ns.saturating_sub(began_ns).clamp(1, PIECE_NS_MAX);
            let known_ns = self.piece_ns.load(Ordering::Relaxed);
            // Half of what was known: pieces of work differ, and load changes.
            // A little less than it took: who is fast is to find the next piece of work waiting.
            let took_ns = took_ns - took_ns / 8;
            let piece_ns = if known_ns == 0 { took_ns } else { known_ns.midpoint(took_ns) };
            self.piece_ns.store(piece_ns, Ordering::Relaxed);
        }
        let still = after_bytes * FREE > max_bytes;
        self.began_bytes.store(after_bytes, Ordering::Relaxed);
        self.began_ns.store(if still { now_ns } else { 0 }, Ordering::Relaxed);
    }
}

/// Of the way to the limit, after so much of the time that a piece of work takes: straight at first, then ever flatter.
fn share_of(time: u64) -> u64 {
    let Some(past) = time.checked_sub(STRAIGHT) else { return time };
    let left = ONE - STRAIGHT;
    // Halved for each whole `left`, and along a line between.
    let halves = u32::try_from(past / left).unwrap_or(u32::MAX);
    let here = left.checked_shr(halves).unwrap_or(0);
    ONE - here + here / 2 * (past % left) / left
}

/// Never 0.
fn nanos(now: Duration) -> u64 {
    u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u64 = 1000;

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn debt_follows_the_time_that_work_takes_and_never_meets_the_limit() {
        let pace = Pace::default();
        assert_eq!(pace.debt_bytes_max(at(10), 300, MAX), MAX, "nothing is known");
        assert_eq!(pace.debt_bytes_max(at(500), 900, MAX), MAX, "nothing is known yet");
        pace.note(at(1010), 1000, 100, MAX);
        // A piece takes a second, less an eighth.
        assert_eq!(
            pace.debt_bytes_max(at(2000), 260, MAX),
            MAX,
            "the first one only starts the clock"
        );
        let mut last = 0;
        for ms in (2000..2650).step_by(50) {
            let line = pace.debt_bytes_max(at(ms), 260, MAX);
            let wanted = 260 + 740 * (ms - 2000) / 875;
            assert!(line.abs_diff(wanted) <= 1, "{ms}: {line}, not {wanted}");
            last = line;
        }
        for ms in (2650..5000).step_by(50) {
            let line = pace.debt_bytes_max(at(ms), 260, MAX);
            assert!(line >= last && line < MAX, "{ms}: {line} after {last}");
            last = line;
        }
    }

    #[test]
    fn a_piece_that_leaves_debt_starts_the_line_there() {
        let pace = Pace::default();
        pace.debt_bytes_max(at(1), 300, MAX);
        pace.note(at(1001), 1000, 600, MAX);
        assert_eq!(pace.debt_bytes_max(at(1001), 600, MAX), 600);
        // Too little to count: the line goes on.
        pace.note(at(1438), 800, 790, MAX);
        assert_eq!(pace.debt_bytes_max(at(1438), 800, MAX), 799);
        // A piece of 3 s: known are 2 s, less an eighth, from now on.
        pace.note(at(4001), 990, 400, MAX);
        assert_eq!(pace.debt_bytes_max(at(4876), 400, MAX), 700);
    }

    #[test]
    fn no_limit_is_no_matter() {
        let pace = Pace::default();
        pace.note(at(1), 0, 0, 0);
        assert_eq!(pace.debt_bytes_max(at(1), 0, 0), 0);
    }
}
