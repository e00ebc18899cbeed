//! Any bytes as a page of any kind of index: what its check accepts can be read.
//!
//! ```text
//! | kind: B-tree, hash, fractal | level | children u16 | children that are there | body |
//! ```

use esker_base::{CommitNo, PageId};
use esker_index::btree::{BTree, LeafCopy, seek_leaf};
use esker_index::fold::Fold;
use esker_index::fractal::{Fractal, FractalConfig};
use esker_index::hash::Hash;
use esker_index::kind::{CheckStep, Checker, Cursor, Direction, HANDLE_BYTES, Kind, Look, Value};
use esker_index::pages::{ChildWord, PageRead, Pages, Step, Stop, View};
use esker_index::run::filter;

/// The one page that there is; its children are missing.
#[derive(Debug)]
struct Page {
    level: u8,
    words: Vec<ChildWord>,
    body: Vec<u8>,
}

const ID: PageId = PageId(1);
/// Content of the smallest page that a database may have.
const CONTENT_BYTES_MIN: usize = 1024 - 64;

#[derive(Debug)]
struct Read<'a>(&'a Page);

impl PageRead for Read<'_> {
    fn id(&self) -> PageId {
        ID
    }
    fn level(&self) -> u8 {
        self.0.level
    }
    fn changed_at(&self) -> CommitNo {
        CommitNo(1)
    }
    fn words(&self) -> &[ChildWord] {
        &self.0.words
    }
    fn body(&self) -> &[u8] {
        &self.0.body
    }
}

impl Pages for Page {
    type Read<'a> = Read<'a>;

    fn read<'a>(&'a self, word: &ChildWord, _view: View) -> Step<Read<'a>> {
        if word.page() == ID { Ok(Read(self)) } else { Err(Stop::Missing(word.page())) }
    }
    fn is_current(&self, _branch: &Read<'_>) -> bool {
        true
    }
    fn content_bytes(&self) -> usize {
        self.words.len() * size_of::<ChildWord>() + self.body.len()
    }
}

/// What the fuzz target runs, and the replay of its corpus.
pub(crate) fn pages(data: &[u8]) {
    let Some((&[kind, level, few, many, mask], body)) = data.split_first_chunk() else { return };
    // No page has more.
    let children = u16::from_le_bytes([few, many]) % 4096;
    let word = |i: u16| match mask >> (i % 8) & 1 {
        0 => 0,
        _ => ChildWord::pack(PageId(u64::from(i) + 2), ChildWord::NO_HINT),
    };
    let words: Vec<_> = (0..children)
        .map(|i| ChildWord::new(ChildWord::page_of(word(i)), ChildWord::NO_HINT))
        .collect();
    let page = Page { level, words, body: body.to_vec() };
    if page.content_bytes() < CONTENT_BYTES_MIN {
        return;
    }
    read_as(kind, &page);
    // The same bytes as an image holds a page.
    for fold in [Fold::Leaf, Fold::Bucket] {
        let mut unfolded = vec![0xa5; page.content_bytes()];
        if fold.unfold(body, &mut unfolded).is_ok() {
            read_as(kind, &Page { level: 0, words: Vec::new(), body: unfolded });
        }
    }
}

fn read_as(kind: u8, page: &Page) {
    match kind % 3 {
        0 => read(&BTree, page),
        1 => read(&Hash::default(), page),
        _ => {
            let config = FractalConfig {
                content_bytes: page.content_bytes(),
                memtable_bytes: 8 << 10,
                node_pages: 8,
            };
            read(&Fractal::new(config), page);
        }
    }
}

fn read<K: Kind>(kind: &K, page: &Page) {
    if kind.check_page(page.level, page.words.len(), &page.body).is_err() {
        return;
    }
    let body = &page.body;
    let mut through = body.clone();
    if let Some(fold) = kind.fold(page.level) {
        let mut folded = Vec::new();
        fold.fold(body, &mut folded);
        fold.unfold(&folded, &mut through).unwrap();
        let mut twice = Vec::new();
        fold.fold(&through, &mut twice);
        assert_eq!(folded, twice, "another page came back");
    } else {
        let hole = kind.hole(page.level, body);
        assert!(hole.start <= hole.end && hole.end <= body.len(), "{hole:?}");
        // What is in the hole is lost on the way through the disk: the page must not miss it.
        through[hole].fill(0);
    }
    let again = kind.check_page(page.level, page.words.len(), &through);
    assert!(again.is_ok(), "after a way through the disk: {again:?}");
    let mut handles = 0;
    kind.handles(page.level, body, &mut |_| handles += 1);
    assert!(handles * HANDLE_BYTES <= body.len(), "{handles} handles");

    let root = ChildWord::new(ID, ChildWord::NO_HINT);
    // Keys that may be in the page, and some that are not.
    let mut keys: Vec<&[u8]> = vec![b"", b"k", &[0xff; 300]];
    keys.extend((0..body.len()).step_by(37).map(|at| &body[at..(at + at % 20).min(body.len())]));
    // A leaf is only asked for keys between its fences: branches lead no others there.
    let mut whole = true;
    if page.level == 0 && kind.is_ordered() {
        let mut leaf = LeafCopy::default();
        let found = seek_leaf(page, &root, View::Current, None, Direction::Forward, &mut leaf);
        assert!(found.is_ok_and(|found| found));
        rows(&mut leaf);
        let (low, high) = (leaf.low_fence(), leaf.high_fence());
        keys.retain(|key| *key >= low && high.is_none_or(|high| *key < high));
        whole = low.is_empty() && high.is_none();
    }
    for view in [View::Current, View::Cut(CommitNo(1))] {
        for key in &keys {
            let got = kind.get(page, &root, view, key, |value, _| {
                assert!(!matches!(value, Some(Value::Tombstone)), "a get shows no tombstone");
            });
            only_stops_that_may_be(got);
            for look in [Look::Blind, Look::Existing] {
                only_stops_that_may_be(kind.page_of(page, &root, view, key, look));
                only_stops_that_may_be(kind.warm(page, &root, key, look));
            }
            only_stops_that_may_be(filter::may_contain(page, &root, view, filter::key_hash(key)));
            only_stops_that_may_be(filter::block_of(page, &root, view, filter::key_hash(key)));
        }
        let (low, high): (&[u8], _) =
            if kind.is_ordered() { (b"a", Some(&b"x"[..])) } else { (b"", None) };
        if whole {
            only_stops_that_may_be(kind.estimate_rows(page, &root, view, low, high, 10));
        }
        for direction in [Direction::Forward, Direction::Backward] {
            if whole && (direction == Direction::Forward || kind.is_ordered()) {
                scan(kind.cursor(b"", None, direction), page, &root, view);
            }
        }
    }
    let mut check = kind.check(ID);
    // A page that the check accepts may still not be what its own keys say.
    for _ in 0..page.words.len() + 3 {
        match check.step(page, &root, View::Current, &mut |_| {}) {
            Ok(CheckStep::Done) => break,
            Ok(CheckStep::Page { .. }) => {}
            Ok(CheckStep::Wrong(_)) | Err(_) => check.skip(),
        }
    }
}

/// The rows of a leaf ascend between its fences.
fn rows(leaf: &mut LeafCopy) {
    let mut before = None;
    for i in 0..leaf.len() {
        let key = leaf.row(i).0.to_vec();
        assert!(before.is_none_or(|before| before < key), "row {i} is not above the one before");
        let (low, high) = (leaf.low_fence(), leaf.high_fence());
        let inside = &key[..] >= low && high.is_none_or(|high| &key[..] < high);
        assert!(inside, "row {i} lies outside the fences");
        before = Some(key);
    }
}

fn scan(mut cursor: impl Cursor, page: &Page, root: &ChildWord, view: View) {
    // Every row takes a byte at least.
    for _ in 0..=page.body.len() {
        let next = match cursor.next_in_memory() {
            Some(found) => Ok(found),
            None => cursor.next(page, root, view),
        };
        match next {
            Ok(true) => assert!(cursor.row().1 != Value::Tombstone, "a scan shows no tombstone"),
            Ok(false) => return,
            Err(stop) => {
                let mut pages = Vec::new();
                only_stops_that_may_be(cursor.upcoming(page, root, view, &mut pages));
                return only_stops_that_may_be::<()>(Err(stop));
            }
        }
    }
    panic!("a scan that does not end");
}

/// Where only reads are made, nothing can be short.
fn only_stops_that_may_be<T>(step: Step<T>) {
    if let Err(stop) = step {
        let may_be = matches!(stop, Stop::Missing(_) | Stop::Moved | Stop::Corrupt { .. });
        assert!(may_be, "{stop:?}");
    }
}
