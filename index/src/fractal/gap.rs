//! Gaps: stretches of keys in which a scan met tombstones and no row.
//!
//! A queue leaves them at its front: each delete puts a tombstone there, and each look at the first row steps over
//! all of them. So a scan that has stepped over many says where, and the next delete, or background work, closes the
//! gap in a turn: one range among the memtable's, for everything below, instead of tombstones, which go from
//! the memtable a stretch at a time. The rows are the same before and after: nothing is logged.
//!
//! Why the range takes nothing away: as of the scan's cut no key of the gap has a row. What was written later is in
//! the memtable, as long as that is the one that the scan saw, and a memtable's ranges spare its own rows.

use super::Fractal;
use super::read::read_node;
use super::write::{ROW_BYTES, make_ranges};
use crate::btree::leaf::Leaf;
use crate::btree::{self, LeafCopy, seek_leaf};
use crate::kind::{Direction, PreparedRange, Value, max_key_bytes};
use crate::pages::{ChildWord, PageRead, PageWrite, Step, Stop, TurnPages, View};
use crate::run::edit_leaf;
use esker_base::PageId;
use esker_base::sync::{AtomicBool, AtomicU64, Mutex, Ordering};

/// Tombstones in a row that make a gap. A scan steps over so many in some microseconds; closing one costs as much.
pub(crate) const GAP_TOMBSTONES: u32 = 64;
/// Leaves of the memtable looked at in one turn.
const LEAVES_AT_ONCE: usize = 16;

/// Keys of which no run below the memtable has a row that counts.
#[derive(Clone, Debug)]
pub(crate) struct Gap {
    /// The memtable that the scan saw,
    pub(crate) memtable: PageId,
    /// and how many there had been when it began.
    pub(crate) freezes: u64,
    /// Where its tombstones begin, of those that have not gone yet.
    pub(crate) low: Vec<u8>,
    pub(crate) high: Option<Vec<u8>>,
    /// The memtable has the range.
    pub(crate) listed: bool,
}

/// The gap that was found last. In memory only.
#[derive(Debug, Default)]
pub(crate) struct Gaps {
    /// Memtables that have become runs since this start.
    freezes: AtomicU64,
    is_open: AtomicBool,
    gap: Mutex<Option<Gap>>,
}

impl Gaps {
    pub(crate) fn freezes(&self) -> u64 {
        self.freezes.load(Ordering::Acquire)
    }
    pub(crate) fn note_freeze(&self) {
        self.freezes.fetch_add(1, Ordering::AcqRel);
        self.take();
    }
    pub(crate) fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }
    /// One that is being closed is not put off by another.
    pub(crate) fn add(&self, gap: Gap) {
        let mut place = self.gap.lock();
        if place.as_ref().is_none_or(|gap| !gap.listed || gap.freezes != self.freezes()) {
            *place = Some(gap);
            self.is_open.store(true, Ordering::Relaxed);
        }
    }
    /// The newest one, which is then no longer open.
    pub(crate) fn take(&self) -> Option<Gap> {
        let mut place = self.gap.lock();
        self.is_open.store(false, Ordering::Relaxed);
        place.take()
    }
    fn put_back(&self, gap: Gap) {
        let mut place = self.gap.lock();
        if place.is_none() {
            *place = Some(gap);
            self.is_open.store(true, Ordering::Relaxed);
        }
    }
}

/// Tombstones of the memtable that lie next to each other.
struct Stretch {
    /// Where they begin, and where they end: the gap's end if `None`.
    low: Option<Vec<u8>>,
    end: Option<Vec<u8>>,
    count: u64,
    bytes: u64,
}

impl Fractal {
    /// Closes some more of the gap that a scan has found. True if there is more to close.
    pub(crate) fn close_gap<P: TurnPages>(&self, pages: &P, root: &ChildWord) -> Step<bool> {
        let Some(mut gap) = self.gaps.take() else { return Ok(false) };
        let more = self.try_close(pages, root, &mut gap);
        if matches!(more, Ok(true) | Err(Stop::Missing(_) | Stop::Reserve | Stop::Moved)) {
            self.gaps.put_back(gap);
        }
        more
    }

    fn try_close<P: TurnPages>(&self, pages: &P, root: &ChildWord, gap: &mut Gap) -> Step<bool> {
        let page = read_node(pages, root, View::Current)?;
        let [tree, ranges, ..] = page.words() else { return Ok(false) };
        if tree.page() != gap.memtable || self.gaps.freezes() != gap.freezes {
            return Ok(false);
        }
        if ranges.page() == PageId::NONE {
            drop(page);
            make_ranges(pages, root)?;
            return Ok(true);
        }
        if !gap.listed {
            let mut list = pages.write(ranges)?;
            let mut body = vec![0; list.body().len()];
            // Half of the list is for ranges that were deleted: when it is full, the memtable is.
            let fits = edit_leaf(list.body(), &gap.low, gap.high.as_deref(), &mut body)
                && Leaf::new(&body).free_bytes() >= body.len() / 2;
            if !fits {
                return Ok(false);
            }
            list.body_mut().copy_from_slice(&body);
            gap.listed = true;
        }
        let Stretch { low, end, count, bytes } = stretch(pages, tree, gap)?;
        if let Some(low) = low {
            let high = end.as_deref().or(gap.high.as_deref());
            let plan = btree::prepare_delete_range(pages, tree, &low, high)?;
            esker_base::mark::FRACTAL_GAP_CLOSED.hit();
            plan.apply(&mut |_| debug_assert!(false, "tombstones have no large values"));
            // Each has taken a row away, and a merge will, now that the range deletes it.
            self.rows_owed.fetch_add(count, Ordering::Relaxed);
            let filled = self.filled_bytes.load(Ordering::Relaxed);
            self.filled_bytes.store(filled.saturating_sub(bytes), Ordering::Relaxed);
        }
        let Some(end) = end else { return Ok(false) };
        gap.low = end;
        Ok(true)
    }
}

/// The first tombstones of what is left of a gap, as far as some leaves go.
fn stretch<P: TurnPages>(pages: &P, tree: &ChildWord, gap: &Gap) -> Step<Stretch> {
    let mut stretch = Stretch { low: None, end: None, count: 0, bytes: 0 };
    let mut copy = LeafCopy::default();
    let mut next = gap.low.clone();
    // From the gap's beginning, if there is no row before the first one: then no empty leaves are left behind there, gap
    // for gap.
    let mut has_rows = false;
    for _ in 0..LEAVES_AT_ONCE {
        seek_leaf(pages, tree, View::Current, Some(&next), Direction::Forward, &mut copy)?;
        let to = gap.high.as_ref().map_or(copy.len(), |high| copy.lower_bound(high));
        for i in copy.lower_bound(&next)..to {
            let (key, value) = copy.row(i);
            if value == Value::Tombstone {
                let low = || if has_rows { key.to_vec() } else { gap.low.clone() };
                stretch.low.get_or_insert_with(low);
                stretch.count += 1;
                stretch.bytes += (key.len() + ROW_BYTES) as u64;
            } else if stretch.low.is_some() {
                stretch.end = Some(key.to_vec());
                return Ok(stretch);
            } else {
                has_rows = true;
            }
        }
        match copy.high_fence() {
            Some(fence) if gap.high.as_deref().is_none_or(|high| fence < high) => {
                fence.clone_into(&mut next);
            }
            _ => return Ok(stretch),
        }
    }
    stretch.end = Some(next);
    Ok(stretch)
}

/// Follows what a scan steps over.
#[derive(Debug, Default)]
pub(crate) struct GapFinder {
    /// It has given a row: what it stepped over before the next one begins at a tombstone, else where it began.
    pub(crate) has_given: bool,
    tombstones: u32,
    first: Vec<u8>,
}

impl GapFinder {
    /// So many tombstones, from this one on, were stepped over.
    pub(crate) fn step_over(&mut self, tombstones: u32, first: &[u8]) {
        if tombstones > 0 {
            if self.tombstones == 0 {
                first.clone_into(&mut self.first);
            }
            self.tombstones = self.tombstones.saturating_add(tombstones);
        }
    }

    /// At a row, or at the end of a scan of `range`: the keys that were stepped over, if they make a gap.
    pub(crate) fn end(
        &mut self,
        row: Option<&[u8]>,
        (low, high): (&[u8], Option<&[u8]>),
        direction: Direction,
        content_bytes: usize,
    ) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
        let has_given = std::mem::replace(&mut self.has_given, row.is_some());
        if std::mem::take(&mut self.tombstones) < GAP_TOMBSTONES {
            return None;
        }
        // The first key above another one.
        let above = |key: &[u8]| [key, &[0]].concat();
        let gap = match direction {
            Direction::Forward => {
                let from = if has_given { self.first.clone() } else { low.to_vec() };
                (from, row.or(high).map(<[u8]>::to_vec))
            }
            Direction::Backward => {
                let to =
                    if has_given { Some(above(&self.first)) } else { high.map(<[u8]>::to_vec) };
                (row.map_or_else(|| low.to_vec(), above), to)
            }
        };
        let bytes_max = max_key_bytes(content_bytes);
        let fits = |key: &Vec<u8>| key.len() <= bytes_max;
        (fits(&gap.0) && gap.1.as_ref().is_none_or(fits)).then_some(gap)
    }
}
