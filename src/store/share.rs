//! How much of memory is better left to the system's cache: the rule.
//!
//! A frame holds a page unpacked. The system's cache holds about two packed ones in the same memory, but a page that is found there
//! is copied, checked and unpacked, which takes several times as long as finding it in a frame; and the device takes several
//! times as long again. So frames that hold clean pages are worth their memory if what they hold is used often, and if
//! the cache has room for the rest anyway. Where most misses go to the device, they are not.
//!
//! Which is the case depends on the working set, which nobody knows; so the rule tries. It counts, over a *window* of misses,
//! operations, misses that the cache answered and misses that went to the device for want of cache. Where the last are so many
//! that half as many of them would save more than all that frames answer, it halves the frames for clean pages, waits until the
//! cache has taken up the memory, and looks whether operations have become cheaper. If not, it takes the step back, and tries
//! again later, each time after twice as long. The other way round if the cache answers nearly all misses.
//!
//! What is clean gives way to what is dirty, so the rule keeps still where writers had to take frames back.

/// What the device takes, if an answer of the system's cache (read, check, unpack) takes 1. Measured: 60 and 8 µs.
const DEVICE_COST: u64 = 8;
/// At least 1/32 of the frames is what clean leaves are left with.
pub(crate) const LEVEL_MAX: u32 = 5;
/// Windows to wait after a step that did not pay, at first and at most.
const WAIT_MIN: u32 = 8;
const WAIT_MAX: u32 = 256;
/// Operations are as cheap as before if they cost at most a sixteenth more: so far the counts are off by chance.
const CHANCE: u64 = 16;

/// What happened between two looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Window {
    /// Reads and writes of single rows.
    pub(crate) operations: u64,
    /// Pages that were missing, one at a time.
    pub(crate) misses: u64,
    /// Of these: the system's cache had them,
    pub(crate) cached: u64,
    /// or had not had the room to keep them.
    pub(crate) evicted: u64,
    /// Writers took frames back, or most of what is in memory is dirty.
    pub(crate) is_written: bool,
}

impl Window {
    /// Operations: some miss several pages, and some that miss are not counted.
    fn operations(&self) -> u64 {
        self.operations.max(self.misses).max(1)
    }
    fn cost(&self) -> u64 {
        self.cached + self.evicted * DEVICE_COST
    }
    /// True if operations of this window cost more than those of another, and not by chance.
    fn is_dearer_than(&self, other: &Self) -> bool {
        let own = u128::from(self.cost()) * u128::from(other.operations());
        let others = u128::from(other.cost()) * u128::from(self.operations());
        own > others + others / u128::from(CHANCE)
    }
    /// What misses at the device cost more than in the cache.
    fn lost_at_device(&self) -> u64 {
        self.evicted * (DEVICE_COST - 1)
    }
    fn hits(&self) -> u64 {
        self.operations.saturating_sub(self.misses)
    }
}

/// A step that is to be proved.
#[derive(Clone, Copy, Debug)]
struct Trial {
    from: u32,
    before: Window,
    /// Until the cache, or the frames, have taken up the memory.
    misses_left: u64,
    evicted_left: u64,
}

/// The rule, and what it found so far.
#[derive(Debug)]
pub(crate) struct Share {
    frames: u64,
    level: u32,
    trial: Option<Trial>,
    /// Windows in which to keep still, and how many it will be the next time.
    wait: u32,
    next_wait: u32,
}

impl Share {
    pub(crate) fn new(frames: u32) -> Self {
        Self { frames: frames.into(), level: 0, trial: None, wait: 0, next_wait: WAIT_MIN }
    }

    /// Misses to a window.
    pub(crate) fn window_misses(frames: u32) -> u64 {
        u64::from(frames / 4).max(32)
    }

    /// Clean leaves may have all frames, shifted right by this.
    pub(crate) fn level(&self) -> u32 {
        self.level
    }
    /// True while memory that writers gave clean may be given back again.
    pub(crate) fn may_trim(&self) -> bool {
        self.level > 0 && self.wait == 0
    }

    /// Something needs all frames, now.
    pub(crate) fn give_up(&mut self) {
        self.level = 0;
        self.trial = None;
        self.keep_still();
    }

    /// Looks at a window.
    pub(crate) fn note(&mut self, window: Window) {
        if window.is_written {
            // What would be measured now is something else.
            self.trial = None;
            if self.wait < WAIT_MIN {
                self.keep_still();
            }
            return;
        }
        if let Some(trial) = &mut self.trial {
            let is_settled = trial.misses_left == 0 || trial.evicted_left == 0;
            trial.misses_left = trial.misses_left.saturating_sub(window.misses);
            trial.evicted_left = trial.evicted_left.saturating_sub(window.evicted);
            if is_settled {
                self.judge(window);
            }
            return;
        }
        if self.wait > 0 {
            self.wait -= 1;
            return;
        }
        let lost = window.lost_at_device();
        if self.level < LEVEL_MAX && lost > window.cached && lost > 2 * window.hits() {
            self.try_level(self.level + 1, window);
        } else if self.level > 0 && window.cached > lost {
            self.try_level(self.level - 1, window);
        }
    }

    fn try_level(&mut self, level: u32, before: Window) {
        let moved = (self.frames >> self.level).abs_diff(self.frames >> level);
        let trial = Trial { from: self.level, before, misses_left: 4 * moved, evicted_left: moved };
        self.trial = Some(trial);
        self.level = level;
    }

    fn judge(&mut self, window: Window) {
        let Some(trial) = self.trial.take() else { return };
        if window.is_dearer_than(&trial.before) {
            self.level = trial.from;
            self.keep_still();
        } else {
            self.next_wait = WAIT_MIN;
        }
    }

    fn keep_still(&mut self) {
        self.wait = self.next_wait;
        self.next_wait = (self.next_wait * 2).min(WAIT_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Leaves that are used equally often, in a machine with room for so many packed ones beside the frames.
    #[derive(Clone, Copy)]
    struct Uniform {
        leaves: u64,
        frames: u64,
        cache: u64,
        /// So many of a thousand operations are on other leaves, of which frames hold all, down to this level.
        hot: u64,
        hot_level: u32,
    }

    impl Uniform {
        fn window(self, level: u32) -> Window {
            let operations = 100_000;
            let hot = operations * self.hot / 1000;
            let hot_missing = hot - (hot >> level.saturating_sub(self.hot_level));
            let cold = operations - hot;
            let frames = self.frames >> level;
            let cache = self.cache + 2 * (self.frames - frames);
            let misses = cold - cold * frames.min(self.leaves) / self.leaves;
            let cached = misses * cache.min(self.leaves) / self.leaves;
            Window {
                operations,
                misses: misses + hot_missing,
                cached: cached + hot_missing,
                evicted: misses - cached,
                is_written: false,
            }
        }
        /// Where the rule ends up, and how often it moved.
        fn settle(self) -> (u32, u32) {
            let mut share = Share::new(u32::try_from(self.frames).unwrap());
            let (mut moves, mut level) = (0, 0);
            for _ in 0..1000 {
                share.note(self.window(share.level()));
                moves += u32::from(share.level() != level);
                level = share.level();
            }
            (level, moves)
        }
    }

    const LARGE: Uniform =
        Uniform { leaves: 300_000, frames: 50_000, cache: 140_000, hot: 0, hot_level: 0 };

    #[test]
    fn of_much_more_than_memory_the_cache_has_most() {
        assert_eq!(LARGE.settle(), (LEVEL_MAX, LEVEL_MAX));
        assert_eq!(Uniform { cache: 10_000, ..LARGE }.settle().0, LEVEL_MAX);
        // With half of the frames, nearly all of it has room in the cache: less would not pay.
        let (level, moves) = Uniform { leaves: 200_000, ..LARGE }.settle();
        assert!(level == 1 && moves < 20, "{level}, {moves} moves");
    }

    #[test]
    fn where_the_cache_has_room_for_all_frames_keep_their_memory() {
        assert_eq!(Uniform { cache: 300_000, ..LARGE }.settle(), (0, 0));
        assert_eq!(Uniform { leaves: 50_000, ..LARGE }.settle(), (0, 0));
    }

    #[test]
    fn what_is_hot_stays_in_frames() {
        let hot = Uniform { leaves: 3_000_000, ..LARGE };
        // Most operations are answered by frames: not even tried.
        assert_eq!(Uniform { hot: 900, ..hot }.settle(), (0, 0));
        // Fewer of them are: tried, and then more and more seldom.
        let (level, moves) = Uniform { hot: 700, ..hot }.settle();
        assert!(level == 0 && (2..20).contains(&moves), "{level}, {moves} moves");
        // They fit half of the frames.
        let (level, moves) = Uniform { hot: 700, hot_level: 1, ..hot }.settle();
        assert!(level == 1 && (1..20).contains(&moves), "{level}, {moves} moves");
    }

    #[test]
    fn frames_come_back_when_the_cache_answers() {
        let mut share = Share::new(50_000);
        (0..100).for_each(|_| share.note(LARGE.window(share.level())));
        assert_eq!(share.level(), LEVEL_MAX);
        let small = Uniform { leaves: 60_000, ..LARGE };
        (0..100).for_each(|_| share.note(small.window(share.level())));
        assert_eq!(share.level(), 0);
    }

    #[test]
    fn under_writes_nothing_is_tried() {
        let mut share = Share::new(50_000);
        let written = Window { is_written: true, ..LARGE.window(0) };
        (0..100).for_each(|_| share.note(written));
        assert_eq!(share.level(), 0);
        (0..WAIT_MIN).for_each(|_| share.note(LARGE.window(0)));
        assert_eq!(share.level(), 0, "nor soon after");
        share.note(LARGE.window(0));
        assert!(share.level() == 1 && share.may_trim());
        share.note(written);
        assert!(share.level() == 1 && !share.may_trim(), "nor given back what they take");
        share.give_up();
        assert!(share.level() == 0 && !share.may_trim());
    }
}
