//! A fourth kind of index, written against the public traits alone: a trie over the bits of a hash.
//!
//! ```text
//!   branch: 2^k words; each names the page of the keys whose next k bits are its number
//!     |  |  |  \____ neighbours that name one leaf share it, and halve it when it is full
//!   leaf leaf branch ____ k bits further down, where a leaf had a word to itself
//! ```
//!
//! A leaf (level 0): rows u16, bytes used u16, then the rows as they came: key length u16, value length u16
//! (0xffff: a handle), key, value. A branch (level 15 - depth) has words and nothing else.
//!
//! What a kind owes to the engine stands in `esker::index::kind`, how pages are read and changed in
//! `esker::index::pages`. This one does the least: rows are searched one by one, nothing is read ahead, and
//! deletes leave the leaves as they are, unless everything goes. Keys whose hashes agree in all
//! bits must fit into a page.
//!
//! `cargo run --example fourth_kind` uses it; `tests/kinds.rs` runs the conformance suite over it.

use esker::index::kind::{
    CheckStep, Checker, Cursor, Direction, Existing, GroupWrite, GroupWrites, HANDLE_BYTES, Handle,
    Kind, Look, PreparedGroup, PreparedRange, PreparedWrite, Value,
};
use esker::index::pages::{
    ChildWord, PageNew, PageRead, PageWrite, Pages, Step, Stop, TurnPages, View,
};
use esker::index::{CommitNo, PageId};
use std::ops::Range;

const ROOT_LEVEL: u8 = 15;
const HEAD_BYTES: usize = 4;
const OVERFLOW: usize = 0xffff;

/// The kind: it keeps nothing in memory.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trie;

/// FNV-1a, then a finaliser, so that all bits depend on all bytes.
fn hash(key: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    let hash = key.iter().fold(0xcbf2_9ce4_8422_2325, step);
    let hash = (hash ^ (hash >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    hash ^ (hash >> 32)
}

/// Words of a branch: they take a quarter to half of the page.
fn fan(content_bytes: usize) -> usize {
    1 << (content_bytes / 16).ilog2()
}

fn u16_at(body: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes([body[at], body[at + 1]]))
}

fn set_u16(body: &mut [u8], at: usize, n: usize) {
    let n = u16::try_from(n).expect("a page is smaller");
    body[at..at + 2].copy_from_slice(&n.to_le_bytes());
}

/// A row of a leaf that was checked, and where it lies.
struct Row<'a> {
    at: Range<usize>,
    key: &'a [u8],
    value: Value<'a>,
}

fn row_at(body: &[u8], at: usize) -> Row<'_> {
    let (key, rest) = body[at + 4..].split_at(u16_at(body, at));
    let value = match u16_at(body, at + 2) {
        OVERFLOW => Value::Overflow(rest[..HANDLE_BYTES].try_into().expect("so many bytes")),
        bytes => Value::Inline(&rest[..bytes]),
    };
    Row { at: at..at + row_bytes(key, &value), key, value }
}

fn rows(body: &[u8]) -> impl Iterator<Item = Row<'_>> {
    let (mut at, end) = (HEAD_BYTES, u16_at(body, 2));
    std::iter::from_fn(move || {
        let row = (at < end).then(|| row_at(body, at))?;
        at = row.at.end;
        Some(row)
    })
}

fn find<'a>(body: &'a [u8], key: &[u8]) -> Option<Row<'a>> {
    rows(body).find(|row| row.key == key)
}

fn row_bytes(key: &[u8], value: &Value<'_>) -> usize {
    4 + key.len() + value.stored_bytes()
}

fn clear(body: &mut [u8]) {
    set_u16(body, 0, 0);
    set_u16(body, 2, HEAD_BYTES);
}

fn insert(body: &mut [u8], key: &[u8], value: &Value<'_>) {
    let (count, at, end) =
        (u16_at(body, 0), u16_at(body, 2), u16_at(body, 2) + row_bytes(key, value));
    let (bytes, len) = match value {
        Value::Inline(bytes) => (*bytes, bytes.len()),
        Value::Overflow(handle) => (&handle[..], OVERFLOW),
        Value::Tombstone => unreachable!("only kinds that write blindly have them"),
    };
    set_u16(body, at, key.len());
    set_u16(body, at + 2, len);
    body[at + 4..end - bytes.len()].copy_from_slice(key);
    body[end - bytes.len()..end].copy_from_slice(bytes);
    set_u16(body, 0, count + 1);
    set_u16(body, 2, end);
}

/// Puts or deletes; returns by how many the rows have grown.
fn change(body: &mut [u8], key: &[u8], value: Option<&Value<'_>>) -> i64 {
    let old = find(body, key).map(|row| row.at);
    let grown = i64::from(value.is_some()) - i64::from(old.is_some());
    if let Some(at) = old {
        let (count, end) = (u16_at(body, 0), u16_at(body, 2));
        body.copy_within(at.end..end, at.start);
        set_u16(body, 0, count - 1);
        set_u16(body, 2, end - at.len());
    }
    value.inspect(|value| insert(body, key, value));
    grown
}

/// Which hashes a page has: those whose first `bits` bits are those of `first`.
#[derive(Clone, Copy, Debug)]
struct Part {
    first: u64,
    bits: u32,
}

impl Part {
    const ALL: Self = Self { first: 0, bits: 0 };

    fn has(self, hash: u64) -> bool {
        (hash ^ self.first).checked_shr(64 - self.bits).unwrap_or(0) == 0
    }
    /// The first hash behind it.
    fn behind(self) -> Option<u64> {
        self.first.checked_add(1u64.checked_shl(64 - self.bits)?)
    }
    /// In a branch that has this part: the word for `hash`, and the part of the page that it names.
    fn below(self, branch: &impl PageRead, hash: u64) -> Step<(usize, Self)> {
        let bits = branch.words().len().ilog2();
        if self.bits + bits > 64 {
            return Err(too_many(branch.id()));
        }
        let slot = usize::try_from(hash << self.bits >> (64 - bits)).expect("a few bits");
        let run = run(branch.words(), slot);
        let first = self.first | ((run.start as u64) << (64 - bits) >> self.bits);
        Ok((slot, Self { first, bits: self.bits + bits - run.len().ilog2() }))
    }
}

fn too_many(page: PageId) -> Stop {
    Stop::Corrupt { page, detail: "more keys of one hash than fit into a page".to_owned() }
}

/// The neighbouring words that name the same page as word `slot`.
fn run(words: &[ChildWord], slot: usize) -> Range<usize> {
    let same = |i: &usize| words[*i].page() == words[slot].page();
    let below = (0..slot).rev().take_while(same).count();
    slot - below..slot + (slot..words.len()).take_while(same).count()
}

/// The branches on the way down, with the word that was taken in each; and the leaf.
struct Way<'a, P: Pages + 'a> {
    branches: Vec<(P::Read<'a>, usize)>,
    leaf: P::Read<'a>,
}

impl<'a, P: Pages> Way<'a, P> {
    /// Goes down to the leaf of a hash. `part` is what the page that was read last should have.
    fn down(pages: &'a P, root: &ChildWord, view: View, hash: u64, part: &mut Part) -> Step<Self> {
        let mut branches: Vec<(P::Read<'a>, usize)> = Vec::new();
        let mut page = pages.read(root, view);
        while let Ok(branch) = page.as_ref()
            && branch.level() > 0
        {
            let (slot, below) = part.below(branch, hash)?;
            let next = pages.read(&branch.words()[slot], view);
            branches.push((std::mem::replace(&mut page, next)?, slot));
            *part = below;
        }
        // While the leaf is latched nothing can move out of it: if all branches are still current, it is the right one.
        let moved = |(branch, _): &(P::Read<'a>, usize)| !pages.is_current(branch);
        if view == View::Current && branches.iter().any(moved) {
            return Err(Stop::Moved);
        }
        Ok(Self { branches, leaf: page? })
    }
}

fn look<P: Pages, T>(
    pages: &P,
    root: &ChildWord,
    view: View,
    key: &[u8],
    f: impl FnOnce(Option<Value<'_>>, CommitNo) -> T,
) -> Step<T> {
    let leaf = Way::down(pages, root, view, hash(key), &mut Part::ALL.clone())?.leaf;
    Ok(f(find(leaf.body(), key).map(|row| row.value), leaf.changed_at()))
}

/// A latched leaf with room for the writes it was prepared for.
pub(crate) struct Latched<'a, P: TurnPages + 'a> {
    leaf: P::Write<'a>,
    key: &'a [u8],
    len: usize,
}

/// Latches the leaf of the first write, halving leaves until one has room for all writes that go there.
fn latch<'a, P: TurnPages>(
    pages: &'a P,
    root: &ChildWord,
    key: &'a [u8],
    writes: &dyn GroupWrites,
) -> Step<Latched<'a, P>> {
    loop {
        let mut part = Part::ALL;
        let first = hash(writes.get(0).key);
        let Way { branches, leaf } = Way::down(pages, root, View::Current, first, &mut part)?;
        // The latch for readers has to go before the one for writers can be had.
        drop(leaf);
        let word = branches.last().map_or(root, |(branch, slot)| &branch.words()[*slot]);
        let leaf = pages.write(word)?;
        let (body, mut len) = (leaf.body(), 0);
        let mut bytes = u16_at(body, 2);
        while len < writes.len() && part.has(hash(writes.get(len).key)) {
            let GroupWrite { key, value } = writes.get(len);
            let old = find(body, key).map_or(0, |row| row.at.len());
            bytes += value.map_or(0, |value| row_bytes(key, &value).saturating_sub(old));
            len += 1;
        }
        if bytes <= body.len() {
            return Ok(Latched { leaf, key, len });
        }
        split(pages, &branches, part, leaf)?;
    }
}

/// Halves a leaf. All is made before anything is published; and the leaf itself comes last.
fn split<'a, P: TurnPages>(
    pages: &'a P,
    branches: &[(P::Read<'a>, usize)],
    part: Part,
    mut leaf: P::Write<'a>,
) -> Step<()> {
    if part.bits == 64 {
        return Err(too_many(leaf.id()));
    }
    let fan = fan(pages.content_bytes());
    let mut halves = [vec![0; leaf.body().len()], vec![0; leaf.body().len()]];
    for half in &mut halves {
        clear(half);
    }
    for row in rows(leaf.body()) {
        let upper = hash(row.key) << part.bits >> 63;
        insert(&mut halves[usize::from(upper == 1)], row.key, &row.value);
    }
    let [lower, upper] = halves;
    let mut right = pages.create(0, 0)?;
    right.body_mut().copy_from_slice(&upper);
    let word = |page: PageId| ChildWord::pack(page, ChildWord::NO_HINT);
    let (own, other) = (word(leaf.id()), word(right.id()));
    let pair = |words: &mut [u64], own| {
        words[..fan / 2].fill(own);
        words[fan / 2..].fill(other);
    };
    let Some((parent, slot)) = branches.last() else {
        let mut left = pages.create(0, 0)?;
        left.body_mut().copy_from_slice(&lower);
        let mut top = pages.replace(leaf.id(), ROOT_LEVEL, fan)?;
        pair(top.words_mut(), word(left.id()));
        pages.publish(left);
        pages.publish(right);
        pages.publish(top);
        return Ok(());
    };
    let mut words: Vec<u64> = parent.words().iter().map(ChildWord::load).collect();
    let run = run(parent.words(), *slot);
    let mut below = None;
    if run.len() > 1 {
        words[run.start + run.len() / 2..run.end].fill(other);
    } else {
        let mut branch = pages.create(parent.level() - 1, fan)?;
        pair(branch.words_mut(), own);
        words[*slot] = word(branch.id());
        below = Some(branch);
    }
    let mut new = pages.replace(parent.id(), parent.level(), fan)?;
    new.words_mut().copy_from_slice(&words);
    pages.publish(right);
    below.map(|branch| pages.publish(branch));
    pages.publish(new);
    leaf.body_mut().copy_from_slice(&lower);
    Ok(())
}

impl<P: TurnPages> PreparedWrite for Latched<'_, P> {
    fn existing(&self) -> Existing<'_> {
        find(self.leaf.body(), self.key)
            .map_or(Existing::Absent, |row| Existing::Present(row.value))
    }
    fn replaced(&self) -> Option<Handle> {
        match self.existing() {
            Existing::Present(Value::Overflow(handle)) => Some(handle),
            _ => None,
        }
    }
    fn put(&mut self, value: Value<'_>) -> i64 {
        change(self.leaf.body_mut(), self.key, Some(&value))
    }
    fn delete(&mut self) -> i64 {
        change(self.leaf.body_mut(), self.key, None)
    }
    fn is_sparse(&self) -> bool {
        false
    }
}

impl<P: TurnPages> PreparedGroup for Latched<'_, P> {
    fn len(&self) -> usize {
        self.len
    }
    fn apply(&mut self, writes: &dyn GroupWrites, replaced: &mut dyn FnMut(Handle)) -> i64 {
        let body = self.leaf.body_mut();
        let write = |GroupWrite { key, value }| {
            if let Some(Value::Overflow(handle)) = find(body, key).map(|row| row.value) {
                replaced(handle);
            }
            change(body, key, value.as_ref())
        };
        (0..self.len).map(|i| writes.get(i)).map(write).sum()
    }
    fn is_sparse(&self) -> bool {
        false
    }
}

/// A leaf that takes the place of everything; and what hangs under the old root.
pub(crate) struct Everything<'a, P: TurnPages + 'a> {
    pages: &'a P,
    what: Result<P::Write<'a>, (P::New<'a>, Vec<u64>)>,
}

impl<P: TurnPages> PreparedRange for Everything<'_, P> {
    fn apply(self, replaced: &mut dyn FnMut(Handle)) -> i64 {
        match self.what {
            Ok(mut leaf) => {
                let count = u16_at(leaf.body(), 0);
                Trie.handles(0, leaf.body(), replaced);
                clear(leaf.body_mut());
                -i64::try_from(count).expect("rows of a page")
            }
            Err((root, words)) => {
                self.pages.publish(root);
                for word in words {
                    self.pages.free_tree(word, ROOT_LEVEL - 1);
                }
                // Nobody has counted them.
                -i64::MAX
            }
        }
    }
}

impl Kind for Trie {
    fn is_ordered(&self) -> bool {
        false
    }
    fn rank(&self, key: &[u8]) -> u64 {
        hash(key)
    }
    fn check_page(&self, level: u8, words: usize, body: &[u8]) -> Result<(), String> {
        if level > 0 {
            let is_branch = level <= ROOT_LEVEL && words == fan(words * 8 + body.len());
            return is_branch.then_some(()).ok_or_else(|| format!("{words} words, level {level}"));
        }
        let (count, end) = (u16_at(body, 0), u16_at(body, 2).min(body.len()));
        let (mut at, mut found) = (HEAD_BYTES, 0);
        while at + 4 <= end {
            let (key, value) = (u16_at(body, at), u16_at(body, at + 2));
            at += 4 + key + if value == OVERFLOW { HANDLE_BYTES } else { value };
            found += 1;
        }
        let whole = words == 0 && at == u16_at(body, 2) && at == end && found == count;
        whole.then_some(()).ok_or_else(|| format!("{found} rows in {at} bytes, not {count}"))
    }
    fn hole(&self, level: u8, body: &[u8]) -> Range<usize> {
        if level == 0 { u16_at(body, 2)..body.len() } else { 0..body.len() }
    }
    fn handles(&self, level: u8, body: &[u8], visit: &mut dyn FnMut(Handle)) {
        for row in rows(if level == 0 { body } else { &[0; HEAD_BYTES] }) {
            if let Value::Overflow(handle) = row.value {
                visit(handle);
            }
        }
    }

    fn create<P: TurnPages>(&self, pages: &P) -> Step<PageId> {
        let mut root = pages.create(0, 0)?;
        clear(root.body_mut());
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
        look(pages, root, view, key, f)
    }
    fn warm<P: Pages>(&self, pages: &P, root: &ChildWord, key: &[u8], _: Look) -> Step<()> {
        look(pages, root, View::Current, key, |_, _| ())
    }
    fn page_of<P: Pages>(
        &self,
        pages: &P,
        root: &ChildWord,
        view: View,
        key: &[u8],
        _: Look,
    ) -> Step<Option<PageId>> {
        match look(pages, root, view, key, |_, _| ()) {
            Err(Stop::Missing(page)) => Ok(Some(page)),
            looked => looked.map(|()| None),
        }
    }

    type Prepared<'a, P: TurnPages + 'a> = Latched<'a, P>;
    fn prepare<'a, P: TurnPages>(
        &'a self,
        pages: &'a P,
        root: &'a ChildWord,
        key: &'a [u8],
        new: Option<&Value<'_>>,
        _: Look,
    ) -> Step<Latched<'a, P>> {
        latch(pages, root, key, &[GroupWrite { key, value: new.copied() }])
    }
    type Group<'a, P: TurnPages + 'a> = Latched<'a, P>;
    fn prepare_group<'a, P: TurnPages>(
        &'a self,
        pages: &'a P,
        root: &'a ChildWord,
        writes: &dyn GroupWrites,
    ) -> Step<Latched<'a, P>> {
        latch(pages, root, &[], writes)
    }
    type Range<'a, P: TurnPages + 'a> = Everything<'a, P>;
    fn prepare_delete_range<'a, P: TurnPages>(
        &'a self,
        pages: &'a P,
        root: &'a ChildWord,
        _: &'a [u8],
        _: Option<&'a [u8]>,
    ) -> Step<Everything<'a, P>> {
        let top = pages.read(root, View::Current)?;
        if top.level() == 0 {
            drop(top);
            return Ok(Everything { pages, what: Ok(pages.write(root)?) });
        }
        let mut words: Vec<u64> = top.words().iter().map(ChildWord::load).collect();
        words.dedup_by_key(|word| ChildWord::page_of(*word));
        let mut new = pages.replace(top.id(), 0, 0)?;
        clear(new.body_mut());
        Ok(Everything { pages, what: Err((new, words)) })
    }
    fn tidy<P: TurnPages>(&self, _: &P, _: &ChildWord, _: &[u8]) -> Step<bool> {
        Ok(false)
    }

    type Cursor = TrieCursor;
    fn cursor(&self, _: &[u8], _: Option<&[u8]>, _: Direction) -> TrieCursor {
        TrieCursor { next: Some(0), leaf: vec![0; HEAD_BYTES], row: 0, at: HEAD_BYTES }
    }
    fn estimate_rows<P: Pages>(
        &self,
        _: &P,
        _: &ChildWord,
        _: View,
        _: &[u8],
        _: Option<&[u8]>,
        total: u64,
    ) -> Step<u64> {
        Ok(total)
    }
    type Check = TrieCheck;
    fn check(&self, _: PageId) -> TrieCheck {
        TrieCheck { next: Some(0), behind: None }
    }
}

/// All rows, in the order of the hash: one leaf after the other is copied.
#[derive(Debug)]
pub(crate) struct TrieCursor {
    /// Hashes from here on are still to come; `None` at the end.
    next: Option<u64>,
    leaf: Vec<u8>,
    /// Where the row lies that it is at, and the one behind it.
    row: usize,
    at: usize,
}

impl Cursor for TrieCursor {
    fn next_in_memory(&mut self) -> Option<bool> {
        if self.at < u16_at(&self.leaf, 2) {
            (self.row, self.at) = (self.at, row_at(&self.leaf, self.at).at.end);
            return Some(true);
        }
        self.next.is_none().then_some(false)
    }
    fn next<P: Pages>(&mut self, pages: &P, root: &ChildWord, view: View) -> Step<bool> {
        loop {
            if let Some(found) = self.next_in_memory() {
                return Ok(found);
            }
            let mut part = Part::ALL;
            let leaf = Way::down(pages, root, view, self.next.unwrap_or(0), &mut part)?.leaf;
            self.leaf = leaf.body().to_vec();
            (self.next, self.at) = (part.behind(), HEAD_BYTES);
        }
    }
    fn row(&mut self) -> (&[u8], Value<'_>) {
        let row = row_at(&self.leaf, self.row);
        (row.key, row.value)
    }
    fn upcoming<P: Pages>(
        &mut self,
        _: &P,
        _: &ChildWord,
        _: View,
        _: &mut Vec<PageId>,
    ) -> Step<()> {
        Ok(())
    }
}

/// A walk over all leaves and the ways to them.
#[derive(Debug)]
pub(crate) struct TrieCheck {
    next: Option<u64>,
    /// What comes after the page that was read last.
    behind: Option<u64>,
}

impl Checker for TrieCheck {
    fn step<P: Pages>(
        &mut self,
        pages: &P,
        root: &ChildWord,
        view: View,
        visit: &mut dyn FnMut(Handle),
    ) -> Step<CheckStep> {
        let Some(next) = self.next else { return Ok(CheckStep::Done) };
        let mut part = Part::ALL;
        let way = Way::down(pages, root, view, next, &mut part);
        self.behind = part.behind();
        let Way { branches, leaf } = way?;
        for (level, (branch, slot)) in (0..=ROOT_LEVEL).rev().zip(&branches) {
            let run = run(branch.words(), *slot);
            let aligned = run.len().is_power_of_two() && run.start.is_multiple_of(run.len());
            if branch.level() != level || !aligned {
                return Ok(CheckStep::Wrong(format!("{:?}: level or words", branch.id())));
            }
        }
        let mut keys: Vec<&[u8]> = rows(leaf.body()).map(|row| row.key).collect();
        keys.sort_unstable();
        let twice = keys.windows(2).any(|pair| pair[0] == pair[1]);
        if twice || keys.iter().any(|key| !part.has(hash(key))) {
            return Ok(CheckStep::Wrong(format!("{:?}: a row that belongs elsewhere", leaf.id())));
        }
        Trie.handles(0, leaf.body(), visit);
        self.next = self.behind;
        Ok(CheckStep::Page { rows: keys.len() })
    }
    fn skip(&mut self) {
        self.next = self.behind;
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
    println!(
        "who is {:?}",
        users.get(&user)?.map(|state| String::from_utf8_lossy(&state).into_owned())
    );
    println!("{} sessions, in the order of their hashes", sessions.rows()?.count());
    println!("verified: {}", db.verify()?.is_sound());
    Ok(())
}
