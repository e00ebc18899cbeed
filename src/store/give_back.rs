//! Giving frames back to the system, where its cache makes more of their memory, and taking them again.
//!
//! How many clean leaves may stay is decided in `share.rs`, from what is counted here: one miss in a few asks the system, before it
//! reads, whether its cache has the page. The store thread (or, without threads, who is missing a page) then
//! withdraws frames from the top, evicts what is clean there and writes what is dirty, and gives back their memory.
//!
//! Who reads evicts a clean page while there are as many as may stay. Who writes takes frames back first.

use super::Store;
use super::frame::{DIRTY, FrameId, PINNED, WRITING};
use super::share::{Share, Window};
use esker_base::sync::{AtomicBool, AtomicU32, AtomicU64, Backoff, Mutex, Ordering};
use esker_base::{PageId, Result};
use esker_io::{ReadRequest, Residence};
use std::ops::Range;

/// One miss in so many asks where the page lies: a system call of half a microsecond.
const ASK_EVERY: u64 = 4;
/// Frames kept however few clean pages may stay: what one operation may need.
const FRAMES_MIN: u32 = 32;
/// Frames looked at to count what sorts of pages there are.
const CENSUS_FRAMES: u32 = 1 << 13;

/// What a frame is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// A page that is on the disk, and is clean.
    Read,
    /// A new page, or a copy.
    Write,
}

/// What was counted, and what follows from it.
#[derive(Debug)]
pub(crate) struct Sharing {
    rule: Mutex<Rule>,
    // Atomic.
    /// So many clean pages may stay while frames are given back.
    clean_max: AtomicU32,
    /// A window has ended.
    is_due: AtomicBool,
    /// Since the last look.
    misses: AtomicU64,
    cached: AtomicU64,
    evicted: AtomicU64,
    /// Frames that writers took back.
    demanded: AtomicU32,
}

#[derive(Debug)]
struct Rule {
    share: Share,
    /// Operations at the last look, if there was one.
    operations: Option<u64>,
}

/// Pages in memory, about.
#[derive(Clone, Copy, Debug, Default)]
struct Census {
    dirty: u32,
    /// Clean, and no leaves.
    leading: u32,
}

impl Sharing {
    pub(crate) fn new(frames: u32) -> Self {
        Self {
            rule: Mutex::new(Rule { share: Share::new(frames), operations: None }),
            clean_max: AtomicU32::new(u32::MAX),
            is_due: AtomicBool::new(false),
            misses: AtomicU64::new(0),
            cached: AtomicU64::new(0),
            evicted: AtomicU64::new(0),
            demanded: AtomicU32::new(0),
        }
    }
}

impl Store {
    /// Counts a page that is missing alone, and is about to be read.
    pub(crate) fn note_miss(&self, request: &ReadRequest) {
        let sharing = &self.sharing;
        let misses = sharing.misses.fetch_add(1, Ordering::Relaxed) + 1;
        if misses.is_multiple_of(ASK_EVERY) {
            match request.file.residence(request.offset, request.buf.len()) {
                Residence::Cached => super::count(&sharing.cached, 1),
                Residence::Evicted => super::count(&sharing.evicted, 1),
                Residence::Unknown => {}
            }
            if misses >= Share::window_misses(self.frames.count()) {
                sharing.is_due.store(true, Ordering::Relaxed);
            }
        }
    }

    /// True if [`Self::decide_share`] has something to look at.
    pub(crate) fn is_share_due(&self) -> bool {
        self.sharing.is_due.load(Ordering::Relaxed)
    }

    /// Decides how many clean pages may stay, after so many operations since open, and withdraws frames beyond.
    pub(crate) fn decide_share(&self, operations: u64) {
        let sharing = &self.sharing;
        if !sharing.is_due.swap(false, Ordering::Relaxed) {
            return;
        }
        let take = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
        let frames = self.frames.count();
        let demanded = sharing.demanded.swap(0, Ordering::Relaxed);
        let mut rule = sharing.rule.lock();
        let before = rule.operations.replace(operations);
        let mut window = Window {
            operations: operations - before.unwrap_or(operations),
            misses: take(&sharing.misses),
            cached: take(&sharing.cached) * ASK_EVERY,
            evicted: take(&sharing.evicted) * ASK_EVERY,
            is_written: demanded > frames / 32,
        };
        if before.is_none() || (rule.share.level() == 0 && window.evicted == 0) {
            return;
        }
        let census = self.census();
        window.is_written |= census.dirty > frames / 4;
        rule.share.note(window);
        let level = rule.share.level();
        let clean = if level == 0 { u32::MAX } else { (frames >> level) + census.leading };
        sharing.clean_max.store(clean, Ordering::Relaxed);
        if rule.share.may_trim() {
            let versions = u32::try_from(self.versions.in_frames()).unwrap_or(u32::MAX);
            let need = [clean, census.dirty, versions, frames / 32];
            let need = need.into_iter().fold(0, u32::saturating_add).max(FRAMES_MIN);
            if need.saturating_add(frames / 16) < self.frames.limit() {
                self.frames.lower(need);
            }
        }
    }

    fn census(&self) -> Census {
        let end = self.frames.end();
        let step = end.div_ceil(CENSUS_FRAMES).max(1);
        let mut census = Census::default();
        for frame in (0..end).step_by(step as usize) {
            let header = self.frames.header(frame);
            if header.page_id() == PageId::NONE {
                continue;
            }
            if header.has(DIRTY | WRITING | PINNED) {
                census.dirty += step;
            } else if header.level.load(Ordering::Relaxed) > 0 {
                census.leading += step;
            }
        }
        census
    }

    /// Frees what is in use of withdrawn frames, and gives their memory to the system.
    pub(crate) fn give_back_withdrawn(&self) -> Result<()> {
        /// For readers to leave what was evicted under them.
        const WAITS_MAX: u32 = 64;
        let stretches = self.frames.to_collect();
        let mut written = Ok(());
        for stretch in &stretches {
            let mut writer = self.lock_writer();
            self.evict_all(stretch);
            if written.is_ok() {
                written = self.write_all(&mut writer, stretch);
                self.evict_all(stretch);
            }
            drop(writer);
        }
        let mut backoff = Backoff::default();
        let mut waits = 0;
        while !self.frames.to_collect().is_empty() && waits < WAITS_MAX {
            backoff.wait();
            waits += 1;
        }
        self.frames.give_to_system(&mut self.lock_writer());
        if !stretches.is_empty() {
            let end = self.frames.end();
            self.clean.drop_from(end);
        }
        written
    }

    fn evict_all(&self, stretch: &Range<FrameId>) {
        let mut evicted = 0;
        for frame in stretch.clone() {
            let page = self.frames.header(frame).page_id();
            let is_gone = page != PageId::NONE && self.evict_clean(frame, page);
            evicted += u64::from(is_gone);
        }
        super::count(&self.counters.evictions, evicted);
    }

    fn write_all(&self, writer: &mut super::Writer, stretch: &Range<FrameId>) -> Result<()> {
        for frame in stretch.clone() {
            self.stage_or_abandon(writer, Some(frame))?;
            if writer.fresh.is_full() {
                self.flush(writer)?;
            }
        }
        self.flush(writer)
    }

    /// True if so many clean pages are in memory that one of them has to go for another one.
    pub(crate) fn is_clean_enough(&self) -> bool {
        self.frames.limit() < self.frames.count()
            && self.clean.len() >= self.sharing.clean_max.load(Ordering::Relaxed) as usize
    }

    /// Takes some frames back, if any are given back: more at a time for who writes.
    pub(crate) fn take_back(&self, wanted: Use) -> bool {
        let back = self.frames.raise(wanted == Use::Write);
        if wanted == Use::Write {
            self.sharing.demanded.fetch_add(back, Ordering::Relaxed);
        }
        back > 0
    }

    /// Takes all frames back, for the time being; false if none were given back.
    pub(crate) fn take_back_all(&self) -> bool {
        if self.frames.limit() >= self.frames.count() {
            return false;
        }
        self.sharing.rule.lock().share.give_up();
        self.sharing.clean_max.store(u32::MAX, Ordering::Relaxed);
        while self.frames.raise(false) > 0 {}
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Database, Durability, Index, Options, Table};
    use esker_base::sync::Arc;
    use esker_io::answers::Answers;
    use esker_io::sim::SimDisk;

    const ROWS: u64 = 40_000;

    fn key(n: u64) -> String {
        format!("{:08}", n * 77_773 % ROWS)
    }

    fn value(n: u64) -> [u8; 100] {
        [n.to_le_bytes()[0]; 100]
    }

    /// Many more pages than frames.
    fn larger_than_memory(kind: Index, answers: Answers) -> (SimDisk, Database, Table) {
        let disk = SimDisk::new(1);
        let options = Options::new().page_bytes(1024).memory_bytes(512 << 10);
        let db = options.durability(Durability::Os).open_on(Arc::new(disk.clone())).unwrap();
        let table = db.table("t", kind).unwrap();
        (0..ROWS).for_each(|n| table.put(key(n), value(n)).unwrap());
        db.settle().unwrap();
        disk.answer_residence(answers);
        (disk, db, table)
    }

    fn read(table: &Table, gets: u64) {
        for n in 0..gets {
            let n = n * 31_337 % ROWS;
            assert_eq!(table.get(key(n)).unwrap(), Some(value(n).to_vec()), "row {n}");
        }
    }

    #[test]
    fn frames_are_given_back_and_come_back_when_they_are_written_to() {
        for kind in [Index::BTree, Index::Hash, Index::Fractal] {
            let always = Answers::Always(Residence::Evicted);
            let (_, db, table) = larger_than_memory(kind, always);
            let (frames, stalls) = (db.stats().cache_pages, db.stats().stalls_frames);
            read(&table, 20_000);
            let given_back = db.stats().cache_pages_given_back;
            // Of this hash table half of memory is branches, which stay.
            assert!(given_back > frames / 4, "{kind:?}: {given_back} of {frames}");
            read(&table, 10_000);
            let stats = db.stats();
            // But for a few: more of what leads to leaves may have come in.
            let least = given_back.saturating_sub(frames / 8);
            assert!(stats.cache_pages_given_back >= least, "{kind:?}: they stay there");
            assert_eq!(stats.stalls_frames, stalls, "{kind:?}");

            // Half of memory becomes dirty.
            let mut least = given_back;
            for n in 0..frames / 2 {
                table.put(format!("x{n:07}"), [1; 900]).unwrap();
                let stats = db.stats();
                least = least.min(stats.cache_pages_given_back);
                let waited = stats.stalls_frames > stalls;
                assert!(least == 0 || !waited, "{kind:?}: waited, and {least} were given back");
            }
            // With a thirty-second of the frames for clean leaves, two fifths may stay with the system.
            let most = (frames / 4).max(given_back / 2);
            assert!(least < most, "{kind:?}: {least} of {given_back} given back, of {frames}");
            read(&table, 1000);
            assert!(db.verify().unwrap().is_sound());
        }
    }

    /// A hundred rows in as many pages, asked for again and again and written to now and then, in all ways.
    #[test]
    fn rows_that_are_asked_for_often_are_cached_and_never_stale() {
        const HOT: u64 = 100;
        for kind in [Index::BTree, Index::Hash, Index::Fractal] {
            let always = Answers::Always(Residence::Evicted);
            let (_, db, table) = larger_than_memory(kind, always);
            read(&table, 10_000);
            let mut hot: std::collections::BTreeMap<String, Option<Vec<u8>>> =
                (0..HOT).map(|n| (key(n), Some(value(n).to_vec()))).collect();
            let keys: Vec<String> = hot.keys().cloned().collect();
            let mut state = 1u64;
            let mut random = |below: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) % below
            };
            for n in 0..100_000u64 {
                let name = keys[usize::try_from(random(HOT)).unwrap()].clone();
                let new = n.to_le_bytes().repeat(5);
                match random(1000) {
                    0 => table.put(&name, &new).unwrap(),
                    1 => table.delete(&name).unwrap(),
                    2 => {
                        let mut batch = db.batch();
                        batch.put(&table, &name, &new);
                        batch.put(&table, &keys[0], &new);
                        batch.commit().unwrap();
                        hot.insert(keys[0].clone(), Some(new.clone()));
                    }
                    3 if kind != Index::Hash => {
                        table.delete_range(&name[..]..=&name[..]).unwrap();
                        hot.insert(name, None);
                        continue;
                    }
                    4 => {
                        let old = hot[&name].clone();
                        assert!(table.compare_and_swap(&name, old.as_deref(), Some(&new)).unwrap());
                    }
                    5 => db.transact(|tx| tx.put(&table, &name, &new)).unwrap(),
                    _ => {
                        assert_eq!(table.get(&name).unwrap(), hot[&name], "{kind:?}, {n}: {name}");
                        if n % 64 == 0 {
                            let cold = HOT + random(ROWS - HOT);
                            let row = table.get(key(cold)).unwrap();
                            assert_eq!(row, Some(value(cold).to_vec()));
                        }
                        continue;
                    }
                }
                let is_deleted = table.get(&name).unwrap().is_none();
                hot.insert(name, (!is_deleted).then_some(new));
            }
            let stats = db.stats();
            assert!(stats.row_cache_hits > 500, "{kind:?}: {} hits", stats.row_cache_hits);
            for (name, value) in hot {
                assert_eq!(table.get(&name).unwrap(), value, "{kind:?}: {name}");
            }
        }
    }

    #[test]
    fn frames_come_back_when_the_cache_answers() {
        let (disk, db, table) =
            larger_than_memory(Index::BTree, Answers::Always(Residence::Evicted));
        read(&table, 10_000);
        assert!(db.stats().cache_pages_given_back > 0);
        disk.answer_residence(Answers::Always(Residence::Cached));
        read(&table, 40_000);
        assert_eq!(db.stats().cache_pages_given_back, 0);
        assert!(db.verify().unwrap().is_sound());
    }

    #[test]
    fn where_the_cache_answers_nothing_is_given_back() {
        for residence in [Residence::Cached, Residence::Unknown] {
            let (_, db, table) = larger_than_memory(Index::BTree, Answers::Always(residence));
            read(&table, 20_000);
            assert_eq!(db.stats().cache_pages_given_back, 0, "{residence:?}");
        }
    }

    /// A batch whose leaves are more than what is left takes back what it needs.
    #[test]
    fn a_batch_has_all_frames() {
        let (_, db, table) = larger_than_memory(Index::BTree, Answers::Always(Residence::Evicted));
        read(&table, 10_000);
        assert!(db.stats().cache_pages_given_back > db.stats().cache_pages / 2);
        let mut batch = db.batch();
        let rows = db.stats().cache_pages / 3;
        (0..rows).for_each(|n| batch.put(&table, key(n), value(n)));
        batch.commit().unwrap();
        assert_eq!(db.stats().cache_pages_given_back, 0);
        read(&table, 1000);
    }
}
