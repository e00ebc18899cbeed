//! Background work: moves rows from the front into their buckets, in the order of the hash, round and round.
//!
//! A piece of it plans some buckets of the front ([`Job::rows`]), has their rows' buckets read together, and then moves
//! rows in turns that touch a bounded number of pages. What became of a row meanwhile is seen in the turn: it is moved as
//! it stands, or was deleted with everything else.
//!
//! A front that was there at the start is counted first (`front`): each turn counts the rows of some of its buckets, in order.

use super::Hash;
use super::branch::{Locals, bits_of};
use super::bucket::{self, Bucket, Growth, mark_of};
use super::front::{self, check_is_front, look, row_bytes};
use super::read::Path;
use super::split::split;
use super::way::{Along, Place, Taken, ToHash, ToKey, behind, bits_max};
use super::write::latch;
use crate::kind::{Handle, Value, Work};
use crate::pages::{
    BuildPages, ChildWord, PageRead, PageWrite, Pages, Step, Stop, TurnPages, View,
};
use esker_base::PageId;
use std::cell::RefCell;

/// Buckets that are read together.
const BUCKETS_AT_ONCE: usize = 64;
/// Buckets of the front that one step looks at.
const FRONT_BUCKETS_AT_ONCE: usize = 16;
/// Pages that one turn touches, about, before it leaves the rest to the next.
const TURN_PAGES_MAX: u32 = 36;

/// The piece of work under way.
#[derive(Debug, Default)]
pub(crate) struct Job {
    /// Where the next piece begins: rows with lower hashes have had their turn.
    next: u64,
    /// Rows that are to be moved, in the order of their hashes, each with its bucket; those from `at` on are left.
    rows: Vec<(u64, Vec<u8>, PageId)>,
    at: usize,
    /// Buckets that are to be brought in before the next turn.
    pages: Vec<PageId>,
    /// The last turn moved nothing, as the first bucket was missing.
    was_missing: bool,
    /// Each was asked for once: where memory is small they may push each other out.
    asked: Vec<PageId>,
}

/// A walk along the buckets of a front, from a hash on.
struct Walk<'w> {
    from: u64,
    digits: Option<Vec<u16>>,
    trail: &'w RefCell<Vec<Taken>>,
}

/// What a walk has met.
struct Met<T> {
    place: Place,
    is_last: bool,
    of: T,
}

impl<'w> Walk<'w> {
    fn new(from: u64, trail: &'w RefCell<Vec<Taken>>) -> Self {
        Self { from, digits: None, trail }
    }
    /// Goes to the next bucket and calls `f` with it; `None` if there is no front. Not to be called after the last one.
    fn next<P: Pages, T>(
        &mut self,
        pages: &P,
        root: &ChildWord,
        f: impl FnOnce(Bucket<'_>) -> T,
    ) -> Step<Option<Met<T>>> {
        let (content_bytes, trail) = (pages.content_bytes(), self.trail);
        let met = match &self.digits {
            None => {
                let route = ToHash::new(self.from, content_bytes, trail);
                look(pages, root, View::Current, route, |page, above| {
                    met(page, above, &trail.borrow(), content_bytes, f)
                })
            }
            Some(digits) => {
                let route = Along::new(digits, content_bytes, trail);
                look(pages, root, View::Current, route, |page, above| {
                    met(page, above, &trail.borrow(), content_bytes, f)
                })
            }
        }?;
        let Some((met, digits)) = met else { return Ok(None) };
        self.digits = digits;
        Ok(Some(met))
    }
}

fn met<R: PageRead, T>(
    page: &R,
    above: Option<&R>,
    trail: &[Taken],
    content_bytes: usize,
    f: impl FnOnce(Bucket<'_>) -> T,
) -> (Met<T>, Option<Vec<u16>>) {
    let bucket = Bucket::new(page.body());
    let digits = above.and_then(|above| next_digits(trail, above, page.id(), content_bytes));
    let met = Met { place: bucket.place(), is_last: digits.is_none(), of: f(bucket) };
    (met, digits)
}

/// Where the bucket after `page` begins, which `above` names.
fn next_digits<R: PageRead>(
    trail: &[Taken],
    above: &R,
    page: PageId,
    content_bytes: usize,
) -> Option<Vec<u16>> {
    let (bits, bits_max) = (bits_of(above.words()), bits_max(content_bytes));
    let slot = above.words()[..1 << bits].iter().position(|word| word.page() == page)?;
    let local = Locals::new(above.body()).local(slot);
    behind(trail, Taken::new(slot, bits, local, bits_max), bits_max)
}

/// The first hash behind a place; `None` at the end.
fn hash_behind(place: Place) -> Option<u64> {
    let last = if place.is_ranked() { Some(place.last_hash()) } else { None };
    last?.checked_add(1)
}

/// See [`Kind::work`](crate::kind::Kind::work).
pub(crate) fn work<P: BuildPages>(
    table: &Hash,
    pages: &P,
    root: &ChildWord,
    rest: bool,
) -> Step<Work> {
    let front = &table.front;
    front.see(pages, root)?;
    if !front.may_exist() {
        return Ok(Work::None);
    }
    let mut job = front.job.lock();
    if front.is_uncounted() {
        return bring_in_front(pages, root, front.counted_below(), &mut job);
    }
    if job.at == job.rows.len() {
        let due = front.may_have_rows() && (rest || front.is_due());
        if !due && rest {
            // It is empty: it goes.
            return Ok(Work::Finish);
        }
        if !due {
            return Ok(Work::None);
        }
        plan(table, pages, root, &mut job)?;
        if job.rows.is_empty() {
            return Ok(Work::More);
        }
    }
    bring_in(pages, &mut job)?;
    Ok(Work::Finish)
}

/// Looks at each page of a job, so that those which are missing are read.
fn bring_in<P: Pages>(pages: &P, job: &mut Job) -> Step<()> {
    let Job { pages: wanted, asked, .. } = job;
    for page in &*wanted {
        // Latched only for a moment.
        match pages.read(&ChildWord::new(*page, ChildWord::NO_HINT), View::Current) {
            Err(Stop::Missing(page)) if !asked.contains(&page) => {
                asked.push(page);
                return Err(Stop::Missing(page));
            }
            // Whatever it is, the turn meets it.
            _ => {}
        }
    }
    wanted.clear();
    asked.clear();
    Ok(())
}

/// Brings in buckets of the front, from a hash on.
fn bring_in_front<P: Pages>(pages: &P, root: &ChildWord, from: u64, job: &mut Job) -> Step<Work> {
    let trail = RefCell::default();
    let mut walk = Walk::new(from, &trail);
    for _ in 0..FRONT_BUCKETS_AT_ONCE {
        match walk.next(pages, root, |_| ()) {
            Ok(Some(met)) if !met.is_last => {}
            Err(Stop::Missing(page)) if !job.asked.contains(&page) => {
                job.asked.push(page);
                return Err(Stop::Missing(page));
            }
            Err(Stop::Missing(_)) | Ok(_) => break,
            Err(stop) => return Err(stop),
        }
    }
    job.asked.clear();
    Ok(Work::Finish)
}

/// Plans the next piece: rows of the front's buckets from where the last one ended, as far as their buckets can be read
/// together.
fn plan<P: Pages>(table: &Hash, pages: &P, root: &ChildWord, job: &mut Job) -> Step<()> {
    *job = Job { next: job.next, asked: std::mem::take(&mut job.asked), ..Job::default() };
    let mut rows: Vec<(u64, Vec<u8>, PageId)> = Vec::new();
    let mut buckets = 0;
    let mut next = job.next;
    let trail = RefCell::default();
    let mut walk = Walk::new(next, &trail);
    let mut looked_at = 0;
    while looked_at < FRONT_BUCKETS_AT_ONCE {
        let keys_of = |bucket: Bucket<'_>| -> Vec<(u64, Vec<u8>)> {
            let keys = (0..bucket.len()).map(|i| bucket.key(i));
            keys.map(|key| (table.hasher.hash(key, 0), key.to_vec())).collect()
        };
        let Some(Met { place, is_last, of: mut more }) = walk.next(pages, root, keys_of)? else {
            break;
        };
        more.sort_unstable();
        for (first, key) in more {
            let route = ToKey::hashed(table.hasher, &key, first);
            let bucket = Path::down(pages, root, View::Current, route)?.bucket_word().page();
            buckets += usize::from(rows.last().is_none_or(|(.., last)| *last != bucket));
            rows.push((first, key, bucket));
        }
        // Buckets that share a hash have no place where the next piece could begin.
        looked_at += usize::from(place.is_ranked());
        next = if is_last { 0 } else { hash_behind(place).unwrap_or(next) };
        if is_last || buckets >= BUCKETS_AT_ONCE {
            break;
        }
    }
    (job.next, job.rows) = (next, rows);
    job.want_rest();
    Ok(())
}

impl Job {
    /// The buckets of the rows that are left are to be brought in.
    fn want_rest(&mut self) {
        self.asked.clear();
        self.pages = self.rows[self.at..].iter().map(|(.., bucket)| *bucket).collect();
        self.pages.dedup();
        self.pages.truncate(2 * BUCKETS_AT_ONCE);
    }
}

/// See [`Kind::upcoming_work`](crate::kind::Kind::upcoming_work).
pub(crate) fn upcoming(table: &Hash, out: &mut Vec<PageId>) {
    out.extend_from_slice(&table.front.job.lock().pages);
}

/// See [`Kind::finish_work`](crate::kind::Kind::finish_work).
pub(crate) fn finish<P: TurnPages>(
    table: &Hash,
    pages: &P,
    root: &ChildWord,
    replaced: &mut dyn FnMut(Handle),
) -> Step<i64> {
    let front = &table.front;
    if front.is_uncounted() {
        return count(table, pages, root).map(|()| 0);
    }
    let mut job = front.job.lock();
    if job.at < job.rows.len() {
        return move_rows(table, pages, root, &mut job, replaced);
    }
    if front.give_up(pages, root)? {
        esker_base::mark::HASH_FRONT_GONE.hit();
    }
    Ok(0)
}

/// Counts rows of some of the front's buckets.
fn count<P: TurnPages>(table: &Hash, pages: &P, root: &ChildWord) -> Step<()> {
    let trail = RefCell::default();
    let mut walk = Walk::new(table.front.counted_below(), &trail);
    let (mut rows, mut below) = (Vec::new(), None);
    let mut looked_at = 0;
    loop {
        let of_row = |bucket: Bucket<'_>| -> Vec<(u64, usize)> {
            let row = |i| {
                let (key, value) = bucket.row(i);
                (table.hasher.hash(key, 0), row_bytes(key, &value))
            };
            (0..bucket.len()).map(row).collect()
        };
        let met = match walk.next(pages, root, of_row) {
            // What was counted so far counts.
            Err(Stop::Missing(_)) if below.is_some() => break,
            met => met?,
        };
        let Some(Met { place, is_last, of }) = met else { break };
        rows.extend(of);
        looked_at += 1;
        if is_last {
            below = None;
            break;
        }
        // Buckets that share a hash are counted together.
        let Some(next) = hash_behind(place) else { continue };
        below = Some(next);
        if looked_at >= FRONT_BUCKETS_AT_ONCE / 2 {
            break;
        }
    }
    esker_base::mark::HASH_FRONT_COUNTED.hit();
    table.front.were_counted(rows.into_iter(), below);
    Ok(())
}

/// Moves some rows of a job, and what they make of their buckets.
fn move_rows<P: TurnPages>(
    table: &Hash,
    pages: &P,
    root: &ChildWord,
    job: &mut Job,
    replaced: &mut dyn FnMut(Handle),
) -> Step<i64> {
    let Some(word) = front::word(pages, root, View::Current)? else {
        *job = Job::default();
        return Ok(0);
    };
    let (first, key, _) = &job.rows[job.at];
    let mut waiting = latch(pages, &word, ToKey::hashed(table.hasher, key, *first), None)?;
    check_is_front(&waiting, true)?;
    let place = Bucket::new(waiting.body()).place();
    let levels = |place: Place| 2 + 2 * place.bits.div_ceil(bits_max(pages.content_bytes()));
    let mut touched = levels(place);
    let (mut grown, mut moved, mut has_split) = (0, 0, false);
    let mut open: Option<P::Write<'_>> = None;
    while let Some((first, key, _)) = job.rows.get(job.at) {
        let here = Bucket::new(waiting.body());
        let is_here = if place.is_ranked() { place.covers(*first) } else { moved == 0 };
        let has_done = moved > 0 || has_split;
        if !is_here || (has_done && touched > TURN_PAGES_MAX) {
            break;
        }
        let Some(at) = here.find(mark_of(*first), key) else {
            // It went, with everything else.
            job.at += 1;
            continue;
        };
        let is_open = open.as_ref().is_some_and(|page| {
            let place = Bucket::new(page.body()).place();
            place.is_ranked() && place.covers(*first)
        });
        if !is_open {
            // One at a time: what was changed is not published before the turn ends.
            drop(open.take());
            match latch(pages, root, ToKey::hashed(table.hasher, key, *first), None) {
                Err(Stop::Reserve) if has_done => break,
                Err(Stop::Missing(_)) if has_done || !job.was_missing => {
                    // It went again: what is left is brought in together once more.
                    job.was_missing = !has_done;
                    job.want_rest();
                    break;
                }
                latched => open = Some(latched?),
            }
        }
        let Some(mut page) = open.take() else { break };
        check_is_front(&page, false)?;
        if !is_open {
            touched += levels(Bucket::new(page.body()).place());
        }
        let (key, value) = here.row(at);
        if !has_room(&page, (key, *first), value) {
            let split = split(table, pages, root, page, key);
            match split {
                Err(_) if has_done => break,
                split => split?,
            }
            has_split = true;
            touched += TURN_PAGES_MAX / 3;
            continue;
        }
        let bytes = row_bytes(key, &value);
        grown += settle(table, &mut page, (key, *first), value, replaced);
        bucket::remove(waiting.body_mut(), at);
        table.front.was_removed(*first, bytes, waiting.changed_at());
        open = Some(page);
        moved += 1;
        job.at += 1;
    }
    if moved > 0 {
        job.was_missing = false;
        esker_base::mark::HASH_FRONT_EMPTIED.hit();
    }
    Ok(grown)
}

fn has_room<W: PageWrite>(page: &W, (key, first): (&[u8], u64), value: Value<'_>) -> bool {
    let bucket = Bucket::new(page.body());
    let mut growth = Growth::default();
    if value != Value::Tombstone {
        growth.put(bucket, bucket.find(mark_of(first), key), key, &value);
    }
    bucket.has_room(growth)
}

/// Makes a row that has waited one of its bucket, or what it says of it. Returns by how much the count of rows was wrong.
fn settle<W: PageWrite>(
    table: &Hash,
    page: &mut W,
    (key, first): (&[u8], u64),
    value: Value<'_>,
    replaced: &mut dyn FnMut(Handle),
) -> i64 {
    let bucket = Bucket::new(page.body());
    let at = bucket.find(mark_of(first), key);
    if let Some(handle) = at.and_then(|i| bucket.row(i).1.handle()) {
        replaced(handle);
    }
    if at.is_none() {
        // Also of a tombstone: what was known of the bucket did not hold while a row waited.
        table.will_put(page, first);
    }
    let body = page.body_mut();
    match (at, value) {
        (None, Value::Tombstone) => 0,
        (Some(i), Value::Tombstone) => {
            bucket::remove(body, i);
            -1
        }
        (None, value) => {
            bucket::insert(body, mark_of(first), key, &value);
            0
        }
        (Some(i), value) => {
            bucket::replace(body, i, key, &value);
            -1
        }
    }
}
