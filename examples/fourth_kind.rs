//! A fourth kind of index, written against the public traits alone: a trie over the bits of a hash.
//!
//! ```text
//!   branch: 2^k words; word n names the page of the keys whose next k bits are n
//!     |  |  |  \____ neighbours that name one leaf share it, and halve it when it is full
//!   leaf leaf branch ____ k bits further down, where a leaf had a word to itself
//! ```
//!
//! A leaf (level 0): bytes used u16, then the rows as they came: key length u16, value length u16 (0xffff: a
//! handle), key, value. A branch has words and nothing else; the level of the root is as high as there are groups
//! of k bits in a hash, and falls by one on the way down.
//!
//! What a kind owes to the engine stands in `esker::index::kind`, how pages are read and changed in
//! `esker::index::pages`; `esker::index::leaves` has parts for kinds that keep each row in one leaf. This kind does the
//! least: rows are searched one by one, nothing is read ahead, and deletes leave the leaves as they are,
//! unless everything goes. Keys whose hashes agree in all bits must fit into a page.
//!
//! `cargo run --example fourth_kind` uses it; `tests/kinds.rs` runs the conformance suite over it.

use esker::index::kind::{
    Direction, GroupWrite, GroupWrites, HANDLE_BYTES, Handle, Kind, Look, Value,
};
use esker::index::leaves::{
    DeleteAll, LatchedLeaf, LeafCheck, LeafCursor, LeafFormat, LeafWalk, Row, Way,
};
use esker::index::pages::{ChildWord, PageNew, PageRead, Pages, Step, Stop, TurnPages, View};
use esker::index::{CommitNo, PageId};
use std::ops::{Range, RangeInclusive};

const HEAD_BYTES: usize = 2;
const ROW_HEAD_BYTES: usize = 4;
/// In the place of a value's length: its handle follows.
const OVERFLOW: usize = 0xffff;

/// The kind. It keeps nothing in memory beside its pages.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trie;

// What a leaf looks like.

fn u16_at(body: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([body[at], body[at + 1]]))
}

fn set_u16(body: &mut [u8], at: usize, n: usize) {
    let n = u16::try_from(n).expect("a page is smaller");
    body[at..at + 2].copy_from_slice(&n.to_le_bytes());
}

fn row_bytes(key: &[u8], value: &Value<'_>) -> usize {
    ROW_HEAD_BYTES + key.len() + value.stored_bytes()
}

impl LeafFormat for Trie {
    fn clear(&self, body: &mut [u8]) {
        set_u16(body, 0, HEAD_BYTES);
    }

    fn row<'b>(&self, body: &'b [u8], at: usize) -> Option<Row<'b>> {
        let at = at.max(HEAD_BYTES);
        if at >= u16_at(body, 0) {
            return None;
        }
        let (key, rest) = body[at + ROW_HEAD_BYTES..].split_at(u16_at(body, at));
        let value = match u16_at(body, at + 2) {
            OVERFLOW => Value::Overflow(rest[..HANDLE_BYTES].try_into().expect("so many bytes")),
            bytes => Value::Inline(&rest[..bytes]),
        };
        Some(Row { key, value, place: at..at + row_bytes(key, &value) })
    }

    fn change(&self, body: &mut [u8], key: &[u8], value: Option<&Value<'_>>) {
        let mut used = u16_at(body, 0);
        if let Some(old) = self.find(body, key).map(|row| row.place) {
            body.copy_within(old.end..used, old.start);
            used -= old.len();
        }
        if let Some(value) = value {
            let (key_at, bytes) = (used + ROW_HEAD_BYTES, value.stored());
            let value_at = key_at + key.len();
            set_u16(body, used, key.len());
            set_u16(body, used + 2, value.handle().map_or(bytes.len(), |_| OVERFLOW));
            body[key_at..value_at].copy_from_slice(key);
            used = value_at + bytes.len();
            body[value_at..used].copy_from_slice(bytes);
        }
        set_u16(body, 0, used);
    }
}

/// Checks a leaf that came from disk: after this, [`LeafFormat::row`] may rely on it.
fn check_leaf(body: &[u8]) -> Result<(), String> {
    let used = u16_at(body, 0);
    let mut at = HEAD_BYTES;
    while at + ROW_HEAD_BYTES <= used.min(body.len()) {
        let (key, value) = (u16_at(body, at), u16_at(body, at + 2));
        at += ROW_HEAD_BYTES + key + if value == OVERFLOW { HANDLE_BYTES } else { value };
    }
    let whole = at == used && used <= body.len();
    whole.then_some(()).ok_or_else(|| format!("rows of {at} bytes, {used} used"))
}

// What leads to a leaf.

/// FNV-1a, then a finaliser, so that all bits depend on all bytes.
fn hash(key: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = key.iter().fold(0xcbf2_9ce4_8422_2325, step);
    let hash = (hash ^ (hash >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^ (hash >> 32)
}

/// How many bits a branch takes (its words fill a quarter to half of the page), and the level of a root.
fn shape(content_bytes: usize) -> (u32, u8) {
    let bits = (content_bytes / 16).ilog2();
    (bits, u8::try_from(64 / bits).expect("a hash has 64 bits"))
}

/// The words of a branch that lead to a hash, all naming one page, and the hashes which that page has.
fn fork(branch: &impl PageRead, hash: u64) -> (Range<usize>, RangeInclusive<u64>) {
    let words = branch.words();
    let bits = words.len().ilog2();
    // Bits of a hash that are left for the pages below.
    let rest = 64 - bits * (64 / bits + 1 - u32::from(branch.level()));
    let slot = hash >> rest & ((1 << bits) - 1);
    let slot = usize::try_from(slot).expect("a few bits");
    let same = |i: &usize| words[*i].page() == words[slot].page();
    let before = (0..slot).rev().take_while(same).count();
    let run = slot - before..slot + (slot..words.len()).take_while(same).count();
    let first = (hash >> rest) - before as u64;
    let last = first + (run.len() - 1) as u64;
    (run, first << rest..=(last << rest | ((1 << rest) - 1)))
}

fn down<'a, P: Pages>(pages: &'a P, root: &ChildWord, view: View, hash: u64) -> Step<Way<'a, P>> {
    Way::down(pages, root, view, |branch| fork(branch, hash).0.start)
}

// Writing: all that may stop happens here, before the log is written.

/// Latches the leaf of the first write, halving leaves until one has room for all writes that go there. Also
/// returns how many these are.
fn latch<'a, P: TurnPages>(
    pages: &'a P,
    root: &ChildWord,
    writes: &dyn GroupWrites,
) -> Step<(P::Write<'a>, usize)> {
    let first = hash(writes.get(0).key);
    loop {
        let (branches, leaf) = down(pages, root, View::Current, first)?.latch(pages, root)?;
        let parent = branches.last().map(|(branch, _)| branch);
        let hashes = parent.map_or(0..=u64::MAX, |parent| fork(parent, first).1);
        let body = leaf.body();
        let (mut len, mut bytes) = (0, u16_at(body, 0));
        while len < writes.len() && hashes.contains(&hash(writes.get(len).key)) {
            let GroupWrite { key, value } = writes.get(len);
            let old = Trie.find(body, key).map_or(0, |row| row.place.len());
            bytes += value.map_or(0, |value| row_bytes(key, &value).saturating_sub(old));
            len += 1;
        }
        if bytes <= body.len() {
            return Ok((leaf, len));
        }
        split(pages, parent, &leaf, first)?;
    }
}

/// Puts two leaves, with half of the hashes each, in the place of one: under the branch above it if that has more
/// than one word for it, else under a new branch that takes the leaf's own page id (and so may be the root).
fn split<'a, P: TurnPages>(
    pages: &'a P,
    parent: Option<&P::Read<'a>>,
    leaf: &P::Write<'a>,
    hash_there: u64,
) -> Step<()> {
    let (bits, top) = shape(pages.content_bytes());
    let (run, hashes) = parent.map_or((0..1, 0..=u64::MAX), |parent| fork(parent, hash_there));
    let mut halves = [pages.create(0, 0)?, pages.create(0, 0)?];
    for half in &mut halves {
        Trie.clear(half.body_mut());
    }
    let middle = hashes.start() + (hashes.end() - hashes.start()) / 2;
    for row in Trie.rows(leaf.body()) {
        let half = &mut halves[usize::from(hash(row.key) > middle)];
        Trie.change(half.body_mut(), row.key, Some(&row.value));
    }
    let shared = parent.filter(|_| run.len() > 1);
    let (mut branch, run) = match shared {
        Some(parent) => {
            let mut branch = pages.replace(parent.id(), parent.level(), 1 << bits)?;
            let words = parent.words().iter().map(ChildWord::load);
            branch.words_mut().iter_mut().zip(words).for_each(|(to, word)| *to = word);
            (branch, run)
        }
        None => match parent.map_or(top, |parent| parent.level() - 1) {
            0 => {
                let detail = "more keys of one hash than fit into a page".to_owned();
                return Err(Stop::Corrupt { page: leaf.id(), detail });
            }
            level => (pages.replace(leaf.id(), level, 1 << bits)?, 0..1 << bits),
        },
    };
    // New pages first, then what makes them known: nobody meets half of a split.
    let [lower, upper] = halves.map(|half| pages.publish(half));
    let middle = run.start + run.len() / 2;
    branch.words_mut()[run.start..middle].fill(lower);
    branch.words_mut()[middle..run.end].fill(upper);
    pages.publish(branch);
    if shared.is_some() {
        pages.free(leaf.id());
    }
    Ok(())
}

// All of it, as the engine knows it.

impl Kind for Trie {
    fn is_ordered(&self) -> bool {
        false
    }
    fn rank(&self, key: &[u8]) -> u64 {
        hash(key)
    }
    fn check_page(&self, level: u8, words: usize, body: &[u8]) -> Result<(), String> {
        let (bits, top) = shape(words * 8 + body.len());
        match level {
            0 if words == 0 => check_leaf(body),
            _ if level <= top && words == 1 << bits => Ok(()),
            _ => Err(format!("{words} words at level {level}")),
        }
    }
    fn hole(&self, level: u8, body: &[u8]) -> Range<usize> {
        if level == 0 { u16_at(body, 0)..body.len() } else { 0..body.len() }
    }
    fn handles(&self, level: u8, body: &[u8], visit: &mut dyn FnMut(Handle)) {
        if level == 0 {
            self.each_handle(body, visit);
        }
    }

    fn create<P: TurnPages>(&self, pages: &P) -> Step<PageId> {
        let mut root = pages.create(0, 0)?;
        self.clear(root.body_mut());
        Ok(ChildWord::page_of(pages.publish(root)))
    }
    fn get<P: Pages, T>(
        &self,
        pages: &P,
        root: &ChildWord,
        view: View,
        key: &[u8],
        f: impl FnOnce(Option<Value<'_>>, CommitNo) -> T,
    ) -> Step<T> {
        let leaf = down(pages, root, view, hash(key))?.leaf;
        Ok(f(self.find(leaf.body(), key).map(|row| row.value), leaf.changed_at()))
    }

    type Prepared<'a, P: TurnPages + 'a> = LatchedLeaf<'a, P, Self>;
    fn prepare<'a, P: TurnPages>(
        &'a self,
        pages: &'a P,
        root: &'a ChildWord,
        key: &'a [u8],
        new: Option<&Value<'_>>,
        _: Look,
    ) -> Step<LatchedLeaf<'a, P, Self>> {
        let (leaf, _) = latch(pages, root, &[GroupWrite { key, value: new.copied() }])?;
        Ok(LatchedLeaf::for_write(self, leaf, key))
    }
    type Group<'a, P: TurnPages + 'a> = LatchedLeaf<'a, P, Self>;
    fn prepare_group<'a, P: TurnPages>(
        &'a self,
        pages: &'a P,
        root: &'a ChildWord,
        writes: &dyn GroupWrites,
    ) -> Step<LatchedLeaf<'a, P, Self>> {
        let (leaf, len) = latch(pages, root, writes)?;
        Ok(LatchedLeaf::for_group(self, leaf, len))
    }
    type Range<'a, P: TurnPages + 'a> = DeleteAll<'a, P, Self>;
    fn prepare_delete_range<'a, P: TurnPages>(
        &'a self,
        pages: &'a P,
        root: &'a ChildWord,
        _: &'a [u8],
        _: Option<&'a [u8]>,
    ) -> Step<DeleteAll<'a, P, Self>> {
        DeleteAll::prepare(self, pages, root)
    }

    type Cursor = LeafCursor<Self, Walk>;
    fn cursor(&self, _: &[u8], _: Option<&[u8]>, _: Direction) -> LeafCursor<Self, Walk> {
        LeafCursor::new(Self, Walk::START)
    }
    type Check = LeafCheck<Self, Walk>;
    fn check(&self, _: PageId) -> LeafCheck<Self, Walk> {
        LeafCheck::new(Self, Walk::START)
    }
}

/// From leaf to leaf, in the order of the hashes.
#[derive(Debug)]
pub(crate) struct Walk {
    /// Hashes from here on are still to come; `None` at the end.
    next: Option<u64>,
    /// As `next`, behind the page that was looked at last.
    behind: Option<u64>,
}

impl Walk {
    const START: Self = Self { next: Some(0), behind: None };
}

impl LeafWalk for Walk {
    fn way<'a, P: Pages>(
        &mut self,
        pages: &'a P,
        root: &ChildWord,
        view: View,
    ) -> Step<Option<Way<'a, P>>> {
        let Some(next) = self.next else { return Ok(None) };
        self.behind = None;
        let choose = |branch: &P::Read<'a>| {
            let (run, hashes) = fork(branch, next);
            self.behind = hashes.end().checked_add(1);
            run.start
        };
        Way::down(pages, root, view, choose).map(Some)
    }
    fn go_on(&mut self) {
        self.next = self.behind;
    }
    fn check<P: Pages>(&self, way: &Way<'_, P>) -> Result<(), String> {
        let mut hashes = 0..=u64::MAX;
        for (depth, (branch, _)) in (0..).zip(&way.branches) {
            let (run, below) = fork(branch, self.next.unwrap_or(0));
            let aligned = run.len().is_power_of_two() && run.start.is_multiple_of(run.len());
            let top = 64 / branch.words().len().ilog2();
            if u32::from(branch.level()) + depth != top || !aligned {
                return Err(format!("{:?}: its level or its words", branch.id()));
            }
            hashes = below;
        }
        let strayed = Trie.rows(way.leaf.body()).any(|row| !hashes.contains(&hash(row.key)));
        if strayed { Err("a row that belongs elsewhere".to_owned()) } else { Ok(()) }
    }
}

#[allow(clippy::print_stdout, reason = "an example")]
#[allow(dead_code, reason = "the test has this file as a module")]
fn main() -> esker::Result<()> {
    use esker::{Index, Options};

    let db = Options::new().index_kind("trie", || Trie).open_in_memory()?;
    let sessions = db.table("sessions", Index::Custom("trie"))?;
    let users = db.table("users", Index::BTree)?;
    db.transact(|tx| {
        for n in 0..1000u32 {
            tx.put(&sessions, n.to_le_bytes(), format!("user {}", n % 7))?;
        }
        tx.put(&users, "user 3", "signed in")
    })?;
    let user = sessions.get(10u32.to_le_bytes())?.unwrap_or_default();
    println!("session 10 is of {}", String::from_utf8_lossy(&user));
    let state = users.get(&user)?.unwrap_or_default();
    println!("who is {}", String::from_utf8_lossy(&state));
    println!("{} sessions, in the order of their hashes", sessions.rows()?.count());
    println!("verified: {}", db.verify()?.is_sound());
    Ok(())
}
