//! Writes in the commit turn: first everything that may stop, then the change, which cannot.

use super::branch::bits_of;
use super::bucket::{self, Bucket, Growth, mark_of};
use super::front::{check_is_front, shown};
use super::read::{Path, branch_at, check_level, corrupt};
use super::split::split;
use super::wait;
use super::way::{Place, Route, ToKey};
use super::{Hash, Hasher};
use crate::kind::{
    Existing, GroupWrite, GroupWrites, Handle, Look, PreparedGroup, PreparedWrite, Value,
};
use crate::pages::{ChildWord, PageNew, PageRead, PageWrite, Step, Stop, TurnPages, View};
use esker_base::PageId;

/// Makes an empty table and returns its root.
pub(crate) fn create<P: TurnPages>(pages: &P) -> Step<PageId> {
    let mut root = pages.create(0, 0)?;
    bucket::init(root.body_mut(), Place::ROOT);
    let id = root.id();
    pages.publish(root);
    Ok(id)
}

/// Latches the bucket that `route` leads to.
pub(super) fn latch<'a, P: TurnPages>(
    pages: &'a P,
    word: &ChildWord,
    mut route: impl Route,
    above: Option<u8>,
) -> Step<P::Write<'a>> {
    let page = pages.read_asked(word, View::Current)?;
    check_level(&page, above)?;
    let level = page.level();
    if level == 0 {
        drop(page);
        return pages.write(word);
    }
    let bits = bits_of(page.words());
    let slot = route.slot(bits);
    let next = &page.words()[slot];
    if let Some(local) = branch_at(&page, slot) {
        route.go_down(slot, bits, local);
        latch(pages, next, route, Some(level))
    } else {
        route.ask_ahead(pages, next, bits);
        pages.write(next)
    }
}

/// A key's bucket, latched, with room for the write it was prepared for. Dropping it changes nothing.
pub struct Prepared<'a, P: TurnPages + 'a> {
    table: &'a Hash,
    bucket: P::Write<'a>,
    key: &'a [u8],
    first: u64,
    at: Option<usize>,
    /// It goes into the front.
    waits: bool,
    deleted: bool,
}

impl<'a, P: TurnPages> Prepared<'a, P> {
    /// A write to the front, whose bucket this is.
    pub(super) fn waiting(
        table: &'a Hash,
        bucket: P::Write<'a>,
        (key, first): (&'a [u8], u64),
        at: Option<usize>,
    ) -> Self {
        Self { table, bucket, key, first, at, waits: true, deleted: false }
    }
    #[cold]
    fn wait(&mut self, value: Value<'_>) -> i64 {
        let key = (self.key, self.first);
        let (at, rows) = wait::put(self.table, &mut self.bucket, key, self.at, value);
        self.at = Some(at);
        rows
    }
}

impl<P: TurnPages> std::fmt::Debug for Prepared<'_, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prepared").field("at", &self.at).finish_non_exhaustive()
    }
}

/// See [`Kind::prepare`](crate::kind::Kind::prepare).
pub(crate) fn prepare<'a, P: TurnPages>(
    table: &'a Hash,
    pages: &'a P,
    root: &ChildWord,
    key: &'a [u8],
    new: Option<&Value<'_>>,
    look: Look,
) -> Step<Prepared<'a, P>> {
    let hash = table.hasher;
    let first = hash.hash(key, 0);
    let mark = mark_of(first);
    if table.front.may_wait(first, View::Current)
        && let Some(waiting) = wait::prepare_waiting(table, pages, root, (key, first), new)?
    {
        return Ok(waiting);
    }
    loop {
        let page = match latch(pages, root, ToKey::guessed(table, pages, key, first), None) {
            Err(Stop::Missing(page)) if look == Look::Blind => {
                let away = wait::prepare_away(table, pages, root, (key, first), new, page)?;
                return away.ok_or(Stop::Missing(page));
            }
            latched => latched?,
        };
        check_is_front(&page, false)?;
        let bucket = Bucket::new(page.body());
        let at = bucket.find_asking(mark, key, |record| page.prefetch(record));
        let mut growth = Growth::default();
        if let Some(value) = new {
            growth.put(bucket, at, key, value);
        }
        if bucket.has_room(growth) {
            let (bucket, waits, deleted) = (page, false, false);
            return Ok(Prepared { table, bucket, key, first, at, waits, deleted });
        }
        split(table, pages, root, page, key)?;
    }
}

impl<P: TurnPages> PreparedWrite for Prepared<'_, P> {
    fn existing(&self) -> Existing<'_> {
        match self.at {
            Some(i) => {
                let value = shown(Bucket::new(self.bucket.body()).row(i).1);
                value.map_or(Existing::Absent, Existing::Present)
            }
            None if self.waits => Existing::Unknown,
            None => Existing::Absent,
        }
    }
    fn put(&mut self, value: Value<'_>) -> i64 {
        if self.waits {
            return self.wait(value);
        }
        let mark = mark_of(self.first);
        if self.at.is_none() {
            self.table.will_put(&mut self.bucket, self.first);
        }
        let body = self.bucket.body_mut();
        if let Some(i) = self.at {
            self.at = Some(bucket::replace(body, i, self.key, &value));
            return 0;
        }
        self.at = Some(bucket::insert(body, mark, self.key, &value));
        1
    }
    fn delete(&mut self) -> i64 {
        if self.waits {
            return self.wait(Value::Tombstone);
        }
        let Some(i) = self.at.take() else { return 0 };
        bucket::remove(self.bucket.body_mut(), i);
        self.deleted = true;
        -1
    }
    fn is_sparse(&self) -> bool {
        self.deleted && is_sparse(self.bucket.body())
    }
}

/// Whether to try to merge a bucket after deletes: below a third, and then every eighth time (most
/// tries would be in vain).
fn is_sparse(body: &[u8]) -> bool {
    let bucket = Bucket::new(body);
    let len = bucket.len();
    len == 0 || (bucket.used_bytes() * 3 < body.len() && len.is_multiple_of(8))
}

/// The bucket of a group, or several, latched, with room for all writes that fall there.
///
/// Several only if keys agree in all bits of the first round: the writes come in the order of the first
/// hash and of the keys, so those to one such bucket need not follow each other.
pub struct Group<'a, P: TurnPages + 'a> {
    table: &'a Hash,
    bucket: P::Write<'a>,
    others: Vec<P::Write<'a>>,
    /// For each write the bucket it goes to, if there are several.
    targets: Vec<usize>,
    len: usize,
    /// It goes into the front.
    waits: bool,
    deleted: bool,
}

impl<'a, P: TurnPages> Group<'a, P> {
    /// So many writes to one bucket.
    pub(super) fn of(table: &'a Hash, bucket: P::Write<'a>, len: usize) -> Self {
        let (others, targets) = (Vec::new(), Vec::new());
        Self { table, bucket, others, targets, len, waits: false, deleted: false }
    }
    /// Writes to the front, whose buckets these are.
    pub(super) fn waiting(self) -> Self {
        Self { waits: true, ..self }
    }
}

impl<P: TurnPages> std::fmt::Debug for Group<'_, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Group").field("len", &self.len).finish_non_exhaustive()
    }
}

/// See [`Kind::prepare_group`](crate::kind::Kind::prepare_group).
///
/// # Panics
/// If there are no writes.
pub(crate) fn prepare_group<'a, P: TurnPages>(
    table: &'a Hash,
    pages: &'a P,
    root: &ChildWord,
    writes: &dyn GroupWrites,
) -> Step<Group<'a, P>> {
    let hash = table.hasher;
    let key = writes.get(0).key;
    let first = hash.hash(key, 0);
    table.front.see(pages, root)?;
    loop {
        let page = match latch(pages, root, ToKey::guessed(table, pages, key, first), None) {
            // Batches have their buckets read together, so only what waits already is written where it waits.
            Err(Stop::Missing(bucket)) => {
                let waits = table.front.may_have_rows()
                    && wait::any_waits(table, pages, root, writes, |_| false)?;
                let group = if waits {
                    wait::prepare_group_waiting(table, pages, root, writes)?
                } else {
                    None
                };
                return group.ok_or(Stop::Missing(bucket));
            }
            latched => latched?,
        };
        check_is_front(&page, false)?;
        let bucket = Bucket::new(page.body());
        let place = bucket.place();
        let is_inside =
            |other| if place.is_ranked() { place.covers(other) } else { other == first };
        if table.front.may_have_rows() && wait::any_waits(table, pages, root, writes, is_inside)? {
            drop(page);
            if let Some(group) = wait::prepare_group_waiting(table, pages, root, writes)? {
                return Ok(group);
            }
            return Err(Stop::Moved);
        }
        if !place.is_ranked() {
            drop(page);
            return prepare_deep_group(table, pages, root, writes, first);
        }
        match fitting(hash, bucket, writes, |first| place.covers(first)) {
            0 => split(table, pages, root, page, key)?,
            len => return Ok(Group::of(table, page, len)),
        }
    }
}

/// How many writes, from the first one on, are `inside`, if there is room for all of them; else 0.
pub(super) fn fitting(
    hash: Hasher,
    bucket: Bucket<'_>,
    writes: &dyn GroupWrites,
    inside: impl Fn(u64) -> bool,
) -> usize {
    let mut growth = Growth::default();
    for i in 0..writes.len() {
        let GroupWrite { key, value } = writes.get(i);
        let first = hash.hash(key, 0);
        // The first one is, or the bucket is damaged: then it is as good as any.
        if i > 0 && !inside(first) {
            return i;
        }
        if let Some(value) = value {
            growth.put(bucket, bucket.find(mark_of(first), key), key, &value);
            if !bucket.has_room(growth) {
                return 0;
            }
        }
    }
    writes.len()
}

/// All writes whose keys have the first round in common, with the buckets of all of them.
pub(super) fn prepare_deep_group<'a, P: TurnPages>(
    table: &'a Hash,
    pages: &'a P,
    root: &ChildWord,
    writes: &dyn GroupWrites,
    first: u64,
) -> Step<Group<'a, P>> {
    let hash = table.hasher;
    let mark = |key: &[u8]| mark_of(hash.hash(key, 0));
    'again: loop {
        let (mut buckets, mut growths) = (Vec::<P::Write<'a>>::new(), Vec::<Growth>::new());
        let mut targets = Vec::new();
        for i in 0..writes.len() {
            let GroupWrite { key, value } = writes.get(i);
            if hash.hash(key, 0) != first {
                break;
            }
            let path = Path::down(pages, root, View::Current, ToKey::new(hash, key))?;
            let word = path.bucket_word();
            let known = buckets.iter().position(|bucket| bucket.id() == word.page());
            let target = known.unwrap_or(buckets.len());
            if known.is_none() {
                buckets.push(pages.write(&word)?);
                growths.push(Growth::default());
            }
            targets.push(target);
            let Some(value) = value else { continue };
            let bucket = Bucket::new(buckets[target].body());
            growths[target].put(bucket, bucket.find(mark(key), key), key, &value);
            if !bucket.has_room(growths[target]) {
                split(table, pages, root, buckets.swap_remove(target), key)?;
                continue 'again;
            }
        }
        let len = targets.len();
        let bucket = buckets.remove(0);
        return Ok(Group { others: buckets, targets, ..Group::of(table, bucket, len) });
    }
}

impl<P: TurnPages> PreparedGroup for Group<'_, P> {
    fn len(&self) -> usize {
        self.len
    }
    fn apply(&mut self, writes: &dyn GroupWrites, replaced: &mut dyn FnMut(Handle)) -> i64 {
        let mut rows = 0;
        for i in 0..self.len {
            let GroupWrite { key, value } = writes.get(i);
            let page = match self.targets.get(i) {
                None | Some(0) => &mut self.bucket,
                Some(other) => &mut self.others[other - 1],
            };
            if self.waits {
                rows += wait::put_of_group(self.table, page, writes.get(i), replaced);
                continue;
            }
            let first = self.table.hasher.hash(key, 0);
            let mark = mark_of(first);
            let bucket = Bucket::new(page.body());
            let at = bucket.find(mark, key);
            if let Some(i) = at
                && let (_, Value::Overflow(handle)) = bucket.row(i)
            {
                replaced(handle);
            }
            match (at, value) {
                (Some(i), Some(value)) => {
                    bucket::replace(page.body_mut(), i, key, &value);
                }
                (None, Some(value)) => {
                    self.table.will_put(page, first);
                    bucket::insert(page.body_mut(), mark, key, &value);
                    rows += 1;
                }
                (Some(i), None) => {
                    bucket::remove(page.body_mut(), i);
                    self.deleted = true;
                    rows -= 1;
                }
                (None, None) => {}
            }
        }
        rows
    }
    fn is_sparse(&self) -> bool {
        let mut buckets = std::iter::once(&self.bucket).chain(&self.others);
        self.deleted && buckets.any(|bucket| is_sparse(bucket.body()))
    }
}

/// The branches above a bucket that is latched, and may be the root.
pub(crate) fn path_to<'a, P: TurnPages>(
    hash: Hasher,
    pages: &'a P,
    root: &ChildWord,
    bucket: &P::Write<'a>,
    key: &[u8],
) -> Step<Option<Path<'a, P>>> {
    // Reading the root would wait for its latch, which this turn holds, if it were the bucket.
    if root.page() == bucket.id() {
        return Ok(None);
    }
    let path = Path::down(pages, root, View::Current, ToKey::new(hash, key))?;
    if path.bucket_word().page() != bucket.id() {
        return Err(corrupt(bucket, "a bucket that another way leads to"));
    }
    Ok(Some(path))
}
