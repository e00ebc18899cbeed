//! A table beside a map that says what it should hold.

use super::super::*;
use crate::kind::{
    CheckStep, Checker, Cursor, Existing, GroupWrite, HANDLE_BYTES, PreparedGroup, PreparedRange,
    PreparedWrite, Work, max_inline_value_bytes, max_key_bytes,
};
use crate::mock::Mock;
use crate::pages::Stop;
use std::collections::BTreeMap;
use std::rc::Rc;

pub(super) const TINY: usize = 1024 - 64;
pub(super) const USUAL: usize = 8192 - 64;

pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub(super) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() >> 33).unwrap() % n
    }
    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Owned {
    Inline(Vec<u8>),
    Overflow(Handle),
}

impl Owned {
    pub(super) fn of(value: Value<'_>) -> Self {
        match value {
            Value::Inline(bytes) => Self::Inline(bytes.to_vec()),
            Value::Overflow(handle) => Self::Overflow(handle),
            Value::Tombstone => panic!("never shown"),
        }
    }
    pub(super) fn lend(&self) -> Value<'_> {
        match self {
            Self::Inline(bytes) => Value::Inline(bytes),
            Self::Overflow(handle) => Value::Overflow(*handle),
        }
    }
}

/// The writes that are still to be prepared or applied.
pub(super) struct Rest<'w>(pub(super) &'w [GroupWrite<'w>]);

impl GroupWrites for Rest<'_> {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn get(&self, i: usize) -> GroupWrite<'_> {
        self.0[i]
    }
}

pub(super) type Model = BTreeMap<Vec<u8>, Owned>;

/// A table, what it should hold, and the chance that decides what happens next.
pub(super) struct Bench {
    pub(super) hash: Rc<Hash>,
    pub(super) mock: Mock,
    pub(super) root: ChildWord,
    pub(super) model: Model,
    pub(super) random: Random,
    pub(super) keys: usize,
    pub(super) rows: i64,
    /// Large values that the table refers to.
    pub(super) large: i64,
    /// Writes that went into the front.
    pub(super) waited: usize,
    /// A key, and what it has held lately.
    pub(super) watched: Vec<u8>,
    pub(super) seen: Vec<Option<Owned>>,
}

impl Bench {
    pub(super) fn new(mut hash: Hash, content_bytes: usize, keys: usize, seed: u64) -> Self {
        // Filters for all buckets, or for some.
        let memory = if seed.is_multiple_of(2) { 1 << 20 } else { 1 << 14 };
        // No front, a small one, or one that is never full.
        let front = [1 << 30, 20 * content_bytes, 0][usize::try_from(seed % 3).unwrap()];
        let memory = Arc::new(FilterMemory::new(memory).with_fronts(front));
        hash.front = Front::new(Arc::clone(&memory));
        hash.guesses = Guesses::new(Arc::clone(&memory));
        hash.lines = Lines::new(Arc::clone(&memory));
        hash.filters = Filters::new(memory);
        let hash = Rc::new(hash);
        let mock = Mock::new(content_bytes);
        let root = mock.settle(|| hash.create(&mock));
        let root = ChildWord::new(root, ChildWord::NO_HINT);
        let (model, random) = (Model::new(), Random(seed));
        let (watched, seen) = (Vec::new(), Vec::new());
        let (rows, large, waited) = (0, 0, 0);
        Self { hash, mock, root, model, random, keys, rows, large, waited, watched, seen }
    }

    pub(super) fn key(&mut self) -> Vec<u8> {
        let n = self.random.below(self.keys);
        let mut key = format!("key {n}").into_bytes();
        if n.is_multiple_of(17) {
            key.resize(max_key_bytes(self.mock.content_bytes()), b'.');
        }
        key
    }
    pub(super) fn value(&mut self) -> Owned {
        let most = max_inline_value_bytes(self.mock.content_bytes());
        match self.random.below(10) {
            0 => Owned::Overflow([self.random.below(256).try_into().unwrap(); HANDLE_BYTES]),
            1 => Owned::Inline(vec![b'v'; most]),
            _ => Owned::Inline(vec![b'w'; self.random.below(most / 4)]),
        }
    }
    pub(super) fn writes(&mut self, n: usize, deletes: usize) -> Vec<(Vec<u8>, Option<Owned>)> {
        let mut writes = BTreeMap::new();
        for _ in 0..n {
            let put = self.random.below(100) >= deletes;
            let value = put.then(|| self.value());
            writes.insert(self.key(), value);
        }
        let mut writes: Vec<_> = writes.into_iter().collect();
        writes.sort_by_key(|(key, _)| (self.hash.rank(key), key.clone()));
        writes
    }

    pub(super) fn write_one(&mut self, key: &[u8], new: Option<&Owned>) {
        self.mock.begin();
        let (hash, mock, root) = (&self.hash, &self.mock, &self.root);
        let value = new.map(Owned::lend);
        let look = if self.random.one_in(2) { Look::Existing } else { Look::Blind };
        if self.random.one_in(2) {
            mock.settle(|| hash.warm(mock, root, key, look));
        }
        let mut prepared = mock.settle(|| hash.prepare(mock, root, key, value.as_ref(), look));
        let old = self.model.get(key);
        let shown = match prepared.existing() {
            Existing::Present(value) => Some(Some(Owned::of(value))),
            Existing::Absent => Some(None),
            Existing::Unknown => {
                assert_eq!(look, Look::Blind);
                self.waited += 1;
                None
            }
        };
        if let Some(shown) = shown {
            assert_eq!(shown.as_ref(), old);
            let handle = match old {
                Some(Owned::Overflow(handle)) => Some(*handle),
                _ => None,
            };
            assert_eq!(prepared.replaced(), handle);
        }
        self.large -= i64::from(prepared.replaced().is_some());
        self.rows += match value {
            Some(value) => prepared.put(value),
            None => prepared.delete(),
        };
        let sparse = prepared.is_sparse();
        drop(prepared);
        self.note(key, new);
        if sparse {
            self.tidy(key);
        }
    }

    pub(super) fn note(&mut self, key: &[u8], new: Option<&Owned>) {
        self.large += i64::from(matches!(new, Some(Owned::Overflow(_))));
        if key == self.watched {
            self.seen.push(new.cloned());
        }
        match new {
            Some(value) => self.model.insert(key.to_vec(), value.clone()),
            None => self.model.remove(key),
        };
    }
    pub(super) fn tidy(&self, key: &[u8]) {
        // Buckets that are not in memory are left alone, as a rule.
        self.mock.load_all();
        self.mock.begin();
        while self.mock.settle(|| self.hash.tidy(&self.mock, &self.root, key)) {}
    }

    /// All groups of a commit are prepared before the first is applied.
    pub(super) fn write_many(&mut self, writes: &[(Vec<u8>, Option<Owned>)]) {
        self.mock.begin();
        let lent: Vec<GroupWrite<'_>> = writes
            .iter()
            .map(|(key, value)| GroupWrite { key, value: value.as_ref().map(Owned::lend) })
            .collect();
        let (hash, mock, root) = (&self.hash, &self.mock, &self.root);
        let groups = mock.settle(|| {
            let (mut groups, mut done) = (Vec::new(), 0);
            while done < lent.len() {
                let group = hash.prepare_group(mock, root, &Rest(&lent[done..]))?;
                assert!(group.len() > 0);
                done += group.len();
                groups.push(group);
            }
            Ok(groups)
        });
        let mut replaced = Vec::new();
        let (mut done, mut sparse) = (0, Vec::new());
        for mut group in groups {
            self.rows += group.apply(&Rest(&lent[done..]), &mut |handle| replaced.push(handle));
            if group.is_sparse() {
                sparse.extend(done..done + group.len());
            }
            done += group.len();
        }
        let mut handles = Vec::new();
        for (key, value) in writes {
            if let Some(Owned::Overflow(handle)) = self.model.get(key) {
                handles.push(*handle);
            }
            self.note(key, value.as_ref());
        }
        if self.hash.front.may_have_rows() {
            assert!(replaced.iter().all(|handle| handles.contains(handle)));
        } else {
            assert_eq!(replaced, handles);
        }
        self.large -= i64::try_from(replaced.len()).unwrap();
        for i in sparse {
            self.tidy(&writes[i].0);
        }
    }

    pub(super) fn delete_all(&mut self) {
        self.mock.begin();
        let (hash, mock, root) = (&self.hash, &self.mock, &self.root);
        mock.settle(|| hash.prepare_delete_range(mock, root, b"", None)).apply(&mut |_| {});
        self.model.clear();
        (self.rows, self.large) = (0, 0);
    }

    /// One piece of background work; false if there is none.
    pub(super) fn work(&mut self, rest: bool) -> bool {
        let (hash, mock, root) = (&self.hash, &self.mock, &self.root);
        match mock.settle(|| hash.work(mock, root, rest)) {
            Work::None => return false,
            Work::More => {}
            Work::Finish => {
                if self.random.one_in(4) {
                    mock.evict_leaves();
                }
                mock.begin();
                let mut replaced = 0;
                self.rows += mock.settle(|| hash.finish_work(mock, root, &mut |_| replaced += 1));
                self.large -= replaced;
            }
        }
        true
    }
    /// Moves all that waits.
    pub(super) fn drain(&mut self) {
        while self.work(true) && self.hash.front.may_exist() {}
    }
    /// As if the table had been closed and opened.
    pub(super) fn reopen(&mut self) {
        let fronts = self.hash.front.memory.fronts_bytes_max;
        let memory = Arc::new(FilterMemory::new(1 << 20).with_fronts(fronts));
        let mut hash = Hash::with_filters(0, memory);
        hash.hasher = self.hash.hasher;
        self.hash = Rc::new(hash);
    }

    /// All rows of a view, by what is left of a cursor.
    pub(super) fn rest(&self, cursor: &mut HashCursor, view: View) -> Model {
        let mut rows = Model::new();
        while self.mock.settle(|| cursor.next(&self.mock, &self.root, view)) {
            let (key, value) = cursor.row();
            let before = rows.insert(key.to_vec(), Owned::of(value));
            assert_eq!(before, None, "a row twice");
        }
        rows
    }

    pub(super) fn check(&mut self) {
        let is_drained = self.random.one_in(2);
        if is_drained {
            self.drain();
        }
        let mut check = self.hash.check(self.root.page());
        let (mut rows, mut handles) = (0, 0);
        loop {
            let visit = &mut |_| handles += 1;
            match check.step(&self.mock, &self.root, View::Current, visit) {
                Ok(CheckStep::Done) => break,
                Ok(CheckStep::Page { rows: more }) => rows += more,
                Ok(CheckStep::Wrong(what)) => panic!("{what}"),
                Err(Stop::Missing(page)) => self.mock.load(page),
                Err(stop) => panic!("{stop:?}"),
            }
        }
        assert!(rows >= self.model.len());
        if is_drained || !self.hash.front.may_have_rows() {
            assert_eq!(rows, self.model.len());
            assert_eq!(self.rows, i64::try_from(rows).unwrap());
        }
        assert_eq!(handles, self.large, "large values");
        let reached: Vec<PageId> = self.mock.reachable(self.root.page()).into_iter().collect();
        assert_eq!(reached, self.mock.page_ids(), "no page is lost");
        for _ in 0..50 {
            let key = self.key();
            self.get(&key);
        }
    }
    pub(super) fn get(&self, key: &[u8]) {
        let (hash, mock, root) = (&self.hash, &self.mock, &self.root);
        let owned = |value: Option<Value<'_>>, _| value.map(Owned::of);
        let found = mock.settle(|| hash.get(mock, root, View::Current, key, owned));
        assert_eq!(found.as_ref(), self.model.get(key));
        let page = mock.settle(|| hash.page_of(mock, root, View::Current, key, Look::Blind));
        assert_eq!(mock.page(page.unwrap()).level(), 0);
    }

    /// `steps` commits, then everything is deleted.
    pub(super) fn run(&mut self, steps: usize) {
        let mut held: Option<(HashCursor, View, Model, Model)> = None;
        for step in 0..steps {
            let deletes = if step * 2 < steps { 20 } else { 70 };
            match self.random.below(200) {
                0 => self.delete_all(),
                1..40 => {
                    let n = 1 + self.random.below(60);
                    let writes = self.writes(n, deletes);
                    self.write_many(&writes);
                }
                40..44 => self.mock.evict_all(),
                44 if self.random.one_in(10) => self.reopen(),
                44 => {
                    let rest = self.random.one_in(4);
                    self.work(rest);
                }
                45..60 => {
                    let pages = self.mock.page_ids();
                    self.mock.evict(pages[self.random.below(pages.len())]);
                }
                60..70 => {
                    self.mock.evict_leaves();
                    for _ in 0..20 {
                        let key = self.key();
                        self.get(&key);
                    }
                }
                70..75 if held.is_none() => {
                    let (view, mut cursor) = (self.mock.cut(), HashCursor::new(self.hash.hasher()));
                    let mut seen = Model::new();
                    for _ in 0..self.random.below(40) {
                        if self.mock.settle(|| cursor.next(&self.mock, &self.root, view)) {
                            let (key, value) = cursor.row();
                            seen.insert(key.to_vec(), Owned::of(value));
                        }
                    }
                    held = Some((cursor, view, seen, self.model.clone()));
                }
                _ => {
                    let write = self.writes(1, deletes);
                    self.write_one(&write[0].0, write[0].1.as_ref());
                }
            }
            if self.random.one_in(40)
                && let Some((mut cursor, view, seen, model)) = held.take()
            {
                let mut rows = self.rest(&mut cursor, view);
                let (some, others) = (seen.len(), rows.len());
                rows.extend(seen);
                assert_eq!(rows.len(), some + others, "each row once");
                assert_eq!(rows, model);
                self.mock.release_cuts();
            }
            if self.random.one_in(50) {
                self.check();
                let mut cursor = HashCursor::new(self.hash.hasher());
                let rows = self.rest(&mut cursor, View::Current);
                assert_eq!(rows, self.model);
            }
        }
        self.drain();
        self.mock.load_all();
        self.check();
        let keys: Vec<Vec<u8>> = self.model.keys().cloned().collect();
        for key in keys {
            self.write_one(&key, None);
        }
        self.check();
        assert_eq!(self.mock.page_ids(), [self.root.page()], "back to one empty bucket");
    }
}
