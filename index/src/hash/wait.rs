//! Writes to the front, in the turn: of keys that wait, and blind ones of keys whose buckets are not in memory.

use super::bucket::{self, Bucket, Growth, mark_of};
use super::front::{self, check_is_front, row_bytes, weight};
use super::read::Path;
use super::split::split;
use super::way::ToKey;
use super::write::{Group, Prepared, fitting, latch, prepare_deep_group};
use super::{Hash, branch};
use crate::kind::{BlindWrites, GroupWrite, GroupWrites, Handle, Value};
use crate::pages::{ChildWord, PageRead, PageWrite, Pages, Step, TurnPages, View};
use esker_base::PageId;

/// The front's bucket of a key, latched, and where in it the key is, with room for a value if that is given.
struct Waiting<W> {
    page: W,
    at: Option<usize>,
}

/// `None` if there is no front.
fn latch_waiting<'a, P: TurnPages>(
    table: &Hash,
    pages: &'a P,
    root: &ChildWord,
    (key, first): (&[u8], u64),
    value: Option<&Value<'_>>,
) -> Step<Option<Waiting<P::Write<'a>>>> {
    let Some(word) = front::word(pages, root, View::Current)? else { return Ok(None) };
    loop {
        let page = latch(pages, &word, ToKey::hashed(table.hasher, key, first), None)?;
        check_is_front(&page, true)?;
        let bucket = Bucket::new(page.body());
        let at = bucket.find(mark_of(first), key);
        let mut growth = Growth::default();
        if let Some(value) = value {
            growth.put(bucket, at, key, value);
        }
        if bucket.has_room(growth) {
            return Ok(Some(Waiting { page, at }));
        }
        split(table, pages, &word, page, key)?;
    }
}

/// A write to a key that waits; `None` if it does not.
#[cold]
pub(super) fn prepare_waiting<'a, P: TurnPages>(
    table: &'a Hash,
    pages: &'a P,
    root: &ChildWord,
    (key, first): (&'a [u8], u64),
    new: Option<&Value<'_>>,
) -> Step<Option<Prepared<'a, P>>> {
    table.front.see(pages, root)?;
    if !table.front.may_wait(first, View::Current) {
        return Ok(None);
    }
    // First whether it waits: no room is made for what goes elsewhere.
    match latch_waiting(table, pages, root, (key, first), None)? {
        Some(Waiting { page, at: Some(at) }) => {
            let mut growth = Growth::default();
            let bucket = Bucket::new(page.body());
            growth.put(bucket, Some(at), key, new.unwrap_or(&Value::Tombstone));
            if bucket.has_room(growth) {
                return Ok(Some(Prepared::waiting(table, page, (key, first), Some(at))));
            }
        }
        _ => return Ok(None),
    }
    prepare_new(table, pages, root, (key, first), new)
}

/// A write that goes into the front, whether its key waits there or not. `None` if there is no front.
fn prepare_new<'a, P: TurnPages>(
    table: &'a Hash,
    pages: &'a P,
    root: &ChildWord,
    (key, first): (&'a [u8], u64),
    new: Option<&Value<'_>>,
) -> Step<Option<Prepared<'a, P>>> {
    let value = Some(new.unwrap_or(&Value::Tombstone));
    let waiting = latch_waiting(table, pages, root, (key, first), value)?;
    Ok(waiting.map(|Waiting { page, at }| Prepared::waiting(table, page, (key, first), at)))
}

/// A blind write whose way down was missing this page; `None` if that is no bucket, or the row cannot wait.
#[cold]
pub(super) fn prepare_away<'a, P: TurnPages>(
    table: &'a Hash,
    pages: &'a P,
    root: &ChildWord,
    (key, first): (&'a [u8], u64),
    new: Option<&Value<'_>>,
    missing: PageId,
) -> Step<Option<Prepared<'a, P>>> {
    if !may_come_to_wait(table, pages, root, (key, first), missing)? {
        return Ok(None);
    }
    let prepared = prepare_new(table, pages, root, (key, first), new)?;
    if prepared.is_some() {
        esker_base::mark::HASH_WAITED.hit();
    }
    Ok(prepared)
}

/// Whether a row may wait whose way down was missing a page: the bucket. Makes the front if there is none.
fn may_come_to_wait<P: TurnPages>(
    table: &Hash,
    pages: &P,
    root: &ChildWord,
    (key, first): (&[u8], u64),
    missing: PageId,
) -> Step<bool> {
    if !is_bucket(table, pages, root, (key, first), missing)? {
        return Ok(false);
    }
    table.front.see(pages, root)?;
    if !table.front.has_room() {
        esker_base::mark::HASH_FRONT_FULL.hit();
        return Ok(false);
    }
    if front::word(pages, root, View::Current)?.is_none() {
        table.front.make(pages, root)?;
    }
    Ok(true)
}

/// True if this page, which is missing, is the bucket of a key below a branch that could name a front.
pub(super) fn is_bucket<P: Pages>(
    table: &Hash,
    pages: &P,
    root: &ChildWord,
    (key, first): (&[u8], u64),
    missing: PageId,
) -> Step<bool> {
    if table.front.memory.fronts_bytes_max == 0
        || missing == root.page()
        || !branch::List::has_room_for_front(pages.content_bytes())
    {
        return Ok(false);
    }
    let route = ToKey::hashed(table.hasher, key, first);
    let (path, branch) = Path::down_in_memory(pages, root, View::Current, route)?;
    Ok(branch.is_none() && path.bucket_word().page() == missing)
}

/// Whether a key of a group waits, among the writes that are `inside` a bucket.
#[cold]
pub(super) fn any_waits<P: TurnPages>(
    table: &Hash,
    pages: &P,
    root: &ChildWord,
    writes: &dyn GroupWrites,
    inside: impl Fn(u64) -> bool,
) -> Step<bool> {
    for i in 0..writes.len() {
        let key = writes.get(i).key;
        let first = table.hasher.hash(key, 0);
        if i > 0 && !inside(first) {
            return Ok(false);
        }
        if !table.front.may_wait(first, View::Current) {
            continue;
        }
        // None of its pages is latched: whoever has latched one has taken all writes that fall there.
        let route = ToKey::hashed(table.hasher, key, first);
        let found = front::look(pages, root, View::Current, route, |page, _| {
            Bucket::new(page.body()).find(mark_of(first), key).is_some()
        })?;
        if found == Some(true) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// All writes that fall into one bucket of the front, if there is one.
#[cold]
pub(super) fn prepare_group_waiting<'a, P: TurnPages>(
    table: &'a Hash,
    pages: &'a P,
    root: &ChildWord,
    writes: &dyn GroupWrites,
) -> Step<Option<Group<'a, P>>> {
    let Some(word) = front::word(pages, root, View::Current)? else { return Ok(None) };
    let writes = BlindWrites(writes);
    let key = writes.get(0).key;
    let first = table.hasher.hash(key, 0);
    loop {
        let page = latch(pages, &word, ToKey::hashed(table.hasher, key, first), None)?;
        check_is_front(&page, true)?;
        let bucket = Bucket::new(page.body());
        let place = bucket.place();
        if !place.is_ranked() {
            drop(page);
            let group = prepare_deep_group(table, pages, &word, &writes, first)?;
            return Ok(Some(group.waiting()));
        }
        match fitting(table.hasher, bucket, &writes, |first| place.covers(first)) {
            0 => split(table, pages, &word, page, key)?,
            len => return Ok(Some(Group::of(table, page, len).waiting())),
        }
    }
}

/// Puts a value or a tombstone into a bucket of the front. Returns where it is, and by how many the rows have grown, as far
/// as that is known.
pub(super) fn put<W: PageWrite>(
    table: &Hash,
    page: &mut W,
    (key, first): (&[u8], u64),
    at: Option<usize>,
    value: Value<'_>,
) -> (usize, i64) {
    let bytes = row_bytes(key, &value);
    let Some(i) = at else {
        table.front.will_insert(first, bytes);
        let at = bucket::insert(page.body_mut(), mark_of(first), key, &value);
        return (at, weight(value));
    };
    let old = Bucket::new(page.body()).row(i).1;
    let (old_bytes, old_weight) = (row_bytes(key, &old), weight(old));
    table.front.was_replaced(first, old_bytes, bytes);
    let at = bucket::replace(page.body_mut(), i, key, &value);
    (at, weight(value) - old_weight)
}

/// As [`put`], for a write of a group; tells of the large value that it replaces.
pub(super) fn put_of_group<W: PageWrite>(
    table: &Hash,
    page: &mut W,
    write: GroupWrite<'_>,
    replaced: &mut dyn FnMut(Handle),
) -> i64 {
    let first = table.hasher.hash(write.key, 0);
    let bucket = Bucket::new(page.body());
    let at = bucket.find(mark_of(first), write.key);
    if let Some(handle) = at.and_then(|i| bucket.row(i).1.handle()) {
        replaced(handle);
    }
    put(table, page, (write.key, first), at, write.value.unwrap_or(Value::Tombstone)).1
}
