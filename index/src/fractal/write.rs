//! Writes: into the memtable, which becomes a run when it is full.

use super::Fractal;
use super::node::{LEVEL_UNKNOWN, NodeParts, NodeRun, RUN_COST_BYTES};
use super::read::{Search, read_node};
use super::recent::Recent;
use crate::btree::{self, leaf};
use crate::kind::{
    BlindWrites, Existing, GroupWrite, GroupWrites, Handle, Look, PreparedGroup, PreparedRange,
    PreparedWrite, Value, max_key_bytes,
};
use crate::pages::{ChildWord, PageNew, PageRead, PageWrite, Step, Stop, TurnPages, View};
use crate::run::filter::key_hash;
use crate::run::{RunRef, edit_leaf};
use esker_base::PageId;
use esker_base::sync::Ordering;
use std::borrow::Cow;

/// Bytes of a row in a leaf beside its key and value.
pub(crate) const ROW_BYTES: usize = 14;
/// What a range counts for in a memtable.
const RANGE_BYTES: usize = 64;

/// Makes an empty table.
pub(crate) fn create<P: TurnPages>(recent: &Recent, pages: &P) -> Step<PageId> {
    let mut memtable = pages.create(0, 0)?;
    leaf::init(memtable.body_mut(), b"", None);
    let tree = memtable.id();
    let parts = NodeParts {
        memtable: Some((ChildWord::pack(memtable.id(), ChildWord::NO_HINT), 0)),
        ..NodeParts::default()
    };
    let mut root = pages.create(parts.level(), parts.words())?;
    parts.write(root.parts_mut());
    let id = root.id();
    pages.publish(memtable);
    pages.publish(root);
    recent.cover(tree);
    Ok(id)
}

impl Fractal {
    /// The words of the memtable: its tree and its ranges. Makes a new memtable if this one is full and there is room
    /// for another run.
    fn memtable<P: TurnPages>(&self, pages: &P, root: &ChildWord) -> Step<(ChildWord, ChildWord)> {
        if self.is_memtable_full() {
            self.freeze(pages, root, self.config.runs_hard())?;
        }
        let page = read_node(pages, root, View::Current)?;
        let copy = |word: &ChildWord| ChildWord::new(word.page(), ChildWord::hint_of(word.load()));
        match page.words() {
            [tree, ranges, ..] => Ok((copy(tree), copy(ranges))),
            _ => Err(Stop::Corrupt { page: page.id(), detail: "a root without memtable".into() }),
        }
    }

    /// Turns the memtable into a run, as it is, unless the root has `runs_max` runs already. Returns whether it did.
    pub(crate) fn freeze<P: TurnPages>(
        &self,
        pages: &P,
        root: &ChildWord,
        runs_max: usize,
    ) -> Step<bool> {
        let page = read_node(pages, root, View::Current)?;
        let mut parts = NodeParts::of(page.words(), page.body());
        let Some((tree, ranges)) = parts.memtable else {
            return Err(Stop::Corrupt {
                page: page.id(),
                detail: "a root without memtable".into(),
            });
        };
        let fits = parts.bytes() + RUN_COST_BYTES <= self.config.content_bytes;
        if parts.runs.len() >= runs_max || !fits {
            return Ok(false);
        }
        let filled_bytes = self.filled_bytes.load(Ordering::Relaxed);
        let leaf_bytes = self.config.content_bytes as u64;
        let run = RunRef {
            tree,
            level: LEVEL_UNKNOWN,
            filter: 0,
            ranges,
            // Counted when its filter is made.
            rows: 0,
            tombstones: 0,
            pages: u32::try_from(filled_bytes * 3 / 2 / leaf_bytes + 1).unwrap_or(u32::MAX),
            has_large: self.has_large.load(Ordering::Relaxed),
        };
        parts.runs.insert(0, NodeRun { run, frozen: true });
        let mut memtable = pages.create(0, 0)?;
        leaf::init(memtable.body_mut(), b"", None);
        let tree = memtable.id();
        parts.memtable = Some((ChildWord::pack(memtable.id(), ChildWord::NO_HINT), 0));
        let mut new = pages.replace(page.id(), parts.level(), parts.words())?;
        parts.write(new.parts_mut());
        pages.publish(memtable);
        pages.publish(new);
        esker_base::mark::FRACTAL_FROZEN.hit();
        self.recent.cover(tree);
        self.filled_bytes.store(0, Ordering::Relaxed);
        self.memtable_tombstones.store(0, Ordering::Relaxed);
        self.has_large.store(false, Ordering::Relaxed);
        self.note_root(&parts);
        self.gaps.note_freeze();
        Ok(true)
    }

    pub(crate) fn prepare_write<'a, P: TurnPages>(
        &'a self,
        pages: &'a P,
        root: &'a ChildWord,
        key: &'a [u8],
        new: Option<&Value<'_>>,
        look: Look,
    ) -> Step<FractalPrepared<'a, P>> {
        let (tree, _) = self.memtable(pages, root)?;
        let inner = btree::prepare(pages, &tree, key, Some(new.unwrap_or(&Value::Tombstone)))?;
        let below = match (look, inner.row()) {
            (Look::Existing, None) => {
                let search =
                    Search::new(self, View::Current, key, |value: Option<Value<'_>>, _| {
                        Below::Known(value.map(|value| match value {
                            Value::Inline(value) => OwnedValue::Inline(value.to_vec()),
                            Value::Overflow(handle) => OwnedValue::Overflow(handle),
                            Value::Tombstone => unreachable!("searches do not show them"),
                        }))
                    });
                search.run(pages, root, true)?
            }
            _ => Below::Unknown,
        };
        Ok(FractalPrepared { fractal: self, inner, key, below })
    }

    pub(crate) fn prepare_writes<'a, P: TurnPages>(
        &'a self,
        pages: &'a P,
        root: &'a ChildWord,
        writes: &dyn GroupWrites,
    ) -> Step<FractalGroup<'a, P>> {
        let (tree, _) = self.memtable(pages, root)?;
        let inner = btree::prepare_group(pages, &tree, &BlindWrites(writes))?;
        Ok(FractalGroup { fractal: self, inner })
    }

    pub(crate) fn prepare_range<'a, P: TurnPages>(
        &'a self,
        pages: &'a P,
        root: &'a ChildWord,
        low: &'a [u8],
        high: Option<&'a [u8]>,
    ) -> Step<FractalRange<'a, P>> {
        loop {
            let (tree, ranges) = self.memtable(pages, root)?;
            if ranges.page() == PageId::NONE {
                make_ranges(pages, root)?;
                continue;
            }
            let list = pages.write(&ranges)?;
            let mut body = vec![0; list.body().len()];
            // Boundaries lie in pages as keys do, and may be no longer.
            let bytes_max = max_key_bytes(pages.content_bytes());
            let (from, to) = match (shortened(low, bytes_max), high) {
                // No key is as high: nothing goes.
                (None, _) => (Cow::Borrowed(low), Some(Cow::Borrowed(low))),
                (Some(low), None) => (low, None),
                (Some(low), Some(high)) => (low, shortened(high, bytes_max)),
            };
            if !edit_leaf(list.body(), &from, to.as_deref(), &mut body) {
                drop(list);
                // A run's list is its own; the next memtable begins without one.
                if !self.freeze(pages, root, usize::MAX)? {
                    return Err(Stop::Behind);
                }
                continue;
            }
            let rows = btree::prepare_delete_range(pages, &tree, low, high)?;
            return Ok(FractalRange { fractal: self, rows, list, body });
        }
    }
}

/// A bound of at most `bytes_max` bytes that has the same keys below it; `None` if all keys are below. Bounds may be
/// longer than any key: by a byte to include one, and by anything as users give them.
fn shortened(bound: &[u8], bytes_max: usize) -> Option<Cow<'_, [u8]>> {
    if bound.len() <= bytes_max {
        return Some(Cow::Borrowed(bound));
    }
    // Its beginning is the highest key below it; the next one differs from that in its last byte that can be higher.
    let mut next = bound[..bytes_max].to_vec();
    while next.pop_if(|last| *last == 0xff).is_some() {}
    *next.last_mut()? += 1;
    Some(Cow::Owned(next))
}

/// Gives the memtable an empty list of ranges.
pub(crate) fn make_ranges<P: TurnPages>(pages: &P, root: &ChildWord) -> Step<()> {
    let page = read_node(pages, root, View::Current)?;
    let mut parts = NodeParts::of(page.words(), page.body());
    let mut list = pages.create(0, 0)?;
    leaf::init(list.body_mut(), b"", None);
    let word = ChildWord::pack(list.id(), ChildWord::NO_HINT);
    parts.memtable = parts.memtable.map(|(tree, _)| (tree, word));
    let mut new = pages.replace(page.id(), parts.level(), parts.words())?;
    parts.write(new.parts_mut());
    pages.publish(list);
    pages.publish(new);
    Ok(())
}

/// What older runs have for a key, if that was asked for.
enum Below {
    Unknown,
    Known(Option<OwnedValue>),
}

enum OwnedValue {
    Inline(Vec<u8>),
    Overflow(Handle),
}

/// A write to one key, waiting to be applied.
pub struct FractalPrepared<'a, P: TurnPages + 'a> {
    fractal: &'a Fractal,
    inner: btree::Prepared<'a, P>,
    key: &'a [u8],
    below: Below,
}

impl<P: TurnPages> std::fmt::Debug for FractalPrepared<'_, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FractalPrepared").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<P: TurnPages> FractalPrepared<'_, P> {
    /// By how much a memtable's row counts: tombstones take away what older runs have.
    fn weight(row: Option<Value<'_>>) -> i64 {
        match row {
            None => 0,
            Some(Value::Tombstone) => -1,
            Some(_) => 1,
        }
    }
    fn write(&mut self, value: Value<'_>) -> i64 {
        let before = Self::weight(self.inner.row());
        let after = match value {
            // Where it is known that there is nothing to take away, a tombstone takes nothing away.
            Value::Tombstone if matches!(self.below, Below::Known(None)) => 0,
            value => Self::weight(Some(value)),
        };
        if before == 0 {
            self.fractal.fill(self.key.len() + value.stored_bytes() + ROW_BYTES);
        }
        if value == Value::Tombstone && before >= 0 {
            self.fractal.memtable_tombstones.fetch_add(1, Ordering::Relaxed);
        }
        if matches!(value, Value::Overflow(_)) {
            self.fractal.note_large();
        }
        if self.inner.row().is_none() {
            self.fractal.recent.will_put(key_hash(self.key));
        }
        self.inner.put(value);
        after - before + self.fractal.take_owed()
    }
}

impl<P: TurnPages> PreparedWrite for FractalPrepared<'_, P> {
    fn existing(&self) -> Existing<'_> {
        match self.inner.row() {
            Some(Value::Tombstone) => Existing::Absent,
            Some(value) => Existing::Present(value),
            None => match &self.below {
                Below::Unknown => Existing::Unknown,
                Below::Known(None) => Existing::Absent,
                Below::Known(Some(OwnedValue::Inline(value))) => {
                    Existing::Present(Value::Inline(value))
                }
                Below::Known(Some(OwnedValue::Overflow(handle))) => {
                    Existing::Present(Value::Overflow(*handle))
                }
            },
        }
    }
    /// The memtable's own; what older runs have is met when they are merged (F3).
    fn replaced(&self) -> Option<Handle> {
        self.inner.replaced()
    }
    #[inline]
    fn put(&mut self, value: Value<'_>) -> i64 {
        self.write(value)
    }
    fn delete(&mut self) -> i64 {
        self.write(Value::Tombstone)
    }
    fn is_sparse(&self) -> bool {
        self.fractal.gaps.is_open()
    }
}

/// Writes that fall into one leaf of the memtable, waiting to be applied.
pub struct FractalGroup<'a, P: TurnPages + 'a> {
    fractal: &'a Fractal,
    inner: btree::Group<'a, P>,
}

impl<P: TurnPages> std::fmt::Debug for FractalGroup<'_, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FractalGroup").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<P: TurnPages> PreparedGroup for FractalGroup<'_, P> {
    fn len(&self) -> usize {
        self.inner.len()
    }
    /// Counts every row as new, and every delete as one of an older run's.
    fn apply(&mut self, writes: &dyn GroupWrites, replaced: &mut dyn FnMut(Handle)) -> i64 {
        let (mut bytes, mut deletes) = (0, 0);
        for i in 0..self.inner.len() {
            let GroupWrite { key, value } = writes.get(i);
            self.fractal.recent.will_put(key_hash(key));
            bytes += key.len() + value.map_or(0, |value| value.stored_bytes()) + ROW_BYTES;
            deletes += i64::from(value.is_none());
            if let Some(Value::Overflow(_)) = value {
                self.fractal.note_large();
            }
        }
        self.fractal.fill(bytes);
        self.fractal.memtable_tombstones.fetch_add(deletes.unsigned_abs(), Ordering::Relaxed);
        let new = self.inner.apply(&BlindWrites(writes), replaced);
        new - 2 * deletes.min(new) + self.fractal.take_owed()
    }
    fn is_sparse(&self) -> bool {
        self.fractal.gaps.is_open()
    }
}

/// A range delete, waiting to be applied.
pub struct FractalRange<'a, P: TurnPages + 'a> {
    fractal: &'a Fractal,
    /// The memtable's rows go at once.
    rows: btree::RangePlan<'a, P>,
    /// For older runs.
    list: P::Write<'a>,
    body: Vec<u8>,
}

impl<P: TurnPages> std::fmt::Debug for FractalRange<'_, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FractalRange").field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl<P: TurnPages> PreparedRange for FractalRange<'_, P> {
    /// How many rows of older runs go is not known before they are merged.
    fn apply(mut self, replaced: &mut dyn FnMut(Handle)) -> i64 {
        self.fractal.fill(RANGE_BYTES);
        self.list.body_mut().copy_from_slice(&self.body);
        self.rows.apply(replaced)
    }
}
