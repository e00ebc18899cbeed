//! The parts with a format of nothing but small rows, on pages in memory.

use super::{DeleteAll, LatchedLeaf, LeafCheck, LeafCursor, LeafFormat, LeafWalk, Row, Way};
use crate::kind::{
    CheckStep, Checker, Cursor, Existing, GroupWrite, GroupWrites, HANDLE_BYTES, PreparedGroup,
    PreparedRange, PreparedWrite, Value,
};
use crate::mock::Mock;
use crate::pages::{ChildWord, PageNew, PageRead, PageWrite, Pages, Step, Stop, TurnPages, View};
use esker_base::PageId;

const CONTENT_BYTES: usize = 448;
/// A value of this byte is large, and its handle full of the key.
const LARGE: u8 = 0xff;

/// Rows, then (key, value), a byte each. A handle follows at a fixed place.
#[derive(Clone, Copy, Debug)]
struct Bytes;

impl LeafFormat for Bytes {
    fn clear(&self, body: &mut [u8]) {
        body[0] = 0;
    }
    fn row<'b>(&self, body: &'b [u8], at: usize) -> Option<Row<'b>> {
        if at >= usize::from(body[0]) {
            return None;
        }
        let (key, value) = (&body[1 + 2 * at..2 + 2 * at], &body[2 + 2 * at..3 + 2 * at]);
        let value = match value[0] {
            LARGE => Value::Overflow([key[0]; HANDLE_BYTES]),
            _ => Value::Inline(value),
        };
        Some(Row { key, value, place: at..at + 1 })
    }
    fn change(&self, body: &mut [u8], key: &[u8], value: Option<&Value<'_>>) {
        let old = self.find(body, key).map(|row| row.place.start);
        let count = usize::from(body[0]);
        let at = old.unwrap_or(count);
        if let Some(value) = value {
            let byte = value.handle().map_or(value.stored()[0], |_| LARGE);
            body[1 + 2 * at..3 + 2 * at].copy_from_slice(&[key[0], byte]);
            body[0] += u8::from(old.is_none());
        } else {
            body.copy_within(3 + 2 * at..=2 * count, 1 + 2 * at);
            body[0] -= 1;
        }
    }
    fn is_sparse(&self, body: &[u8]) -> bool {
        body[0] < 2
    }
}

/// A root of level 1 whose n-th word names a leaf with the n-th of these rows.
fn tree(mock: &Mock, leaves: &[&[(u8, u8)]]) -> ChildWord {
    let words: Vec<u64> = leaves.iter().map(|rows| leaf(mock, rows)).collect();
    let mut root = mock.create(1, words.len()).unwrap();
    root.words_mut().copy_from_slice(&words);
    word(mock.publish(root))
}

fn leaf(mock: &Mock, rows: &[(u8, u8)]) -> u64 {
    let mut leaf = mock.create(0, 0).unwrap();
    Bytes.clear(leaf.body_mut());
    for (key, value) in rows {
        Bytes.change(leaf.body_mut(), &[*key], Some(&value_of(&[*key], &[*value])));
    }
    mock.publish(leaf)
}

fn value_of<'v>(key: &[u8], value: &'v [u8]) -> Value<'v> {
    match value[0] {
        LARGE => Value::Overflow([key[0]; HANDLE_BYTES]),
        _ => Value::Inline(value),
    }
}

fn word(bits: u64) -> ChildWord {
    ChildWord::new(ChildWord::page_of(bits), ChildWord::NO_HINT)
}

fn rows_of(mock: &Mock, page: PageId) -> Vec<(u8, u8)> {
    let page = mock.page(page);
    Bytes.rows(page.body()).map(|row| (row.key[0], row.value.stored()[0])).collect()
}

fn id_at(mock: &Mock, root: &ChildWord, slot: usize) -> PageId {
    mock.page(root.page()).words()[slot].page()
}

/// Through the words of a root of level 1; `wrong` is what the check says.
#[derive(Debug)]
struct Walk {
    slot: usize,
    wrong: Option<usize>,
}

impl LeafWalk for Walk {
    fn way<'a, P: Pages>(
        &mut self,
        pages: &'a P,
        root: &ChildWord,
        view: View,
    ) -> Step<Option<Way<'a, P>>> {
        if self.slot >= pages.read(root, view)?.words().len() {
            return Ok(None);
        }
        Way::down(pages, root, view, |_| self.slot).map(Some)
    }
    fn go_on(&mut self) {
        self.slot += 1;
    }
    fn check<P: Pages>(&self, way: &Way<'_, P>) -> Result<(), String> {
        assert_eq!(way.branches.len(), 1);
        if self.wrong == Some(self.slot) { Err("as told".to_owned()) } else { Ok(()) }
    }
}

#[test]
fn a_way_leads_through_what_was_chosen() {
    let mock = Mock::new(CONTENT_BYTES);
    let root = tree(&mock, &[&[(1, 1)], &[(2, 2)]]);
    for slot in 0..2 {
        let way = Way::down(&mock, &root, View::Current, |_| slot).unwrap();
        assert_eq!(way.leaf.id(), id_at(&mock, &root, slot));
        let (branches, mut leaf) = way.latch(&mock, &root).unwrap();
        assert_eq!((branches[0].0.id(), branches[0].1), (root.page(), slot));
        Bytes.change(leaf.body_mut(), b"k", Some(&Value::Inline(b"v")));
    }
    assert_eq!(rows_of(&mock, id_at(&mock, &root, 1)), [(2, 2), (b'k', b'v')]);
    // A root that is a leaf.
    let root = word(leaf(&mock, &[(9, 9)]));
    let way = Way::down(&mock, &root, View::Current, |_| unreachable!()).unwrap();
    let (branches, leaf) = way.latch(&mock, &root).unwrap();
    assert!(branches.is_empty());
    assert_eq!(leaf.id(), root.page());
}

#[test]
fn a_way_that_moved_is_gone_again_and_a_cut_does_not_move() {
    let mock = Mock::new(CONTENT_BYTES);
    let root = tree(&mock, &[&[(1, 1)], &[(2, 2)]]);
    let cut = mock.cut();
    let replace = || {
        let mut new = mock.replace(root.page(), 1, 2).unwrap();
        let words = [id_at(&mock, &root, 1), id_at(&mock, &root, 0)];
        new.words_mut()
            .copy_from_slice(&words.map(|page| ChildWord::pack(page, ChildWord::NO_HINT)));
        mock.publish(new);
    };
    let moved = Way::down(&mock, &root, View::Current, |_| {
        replace();
        0
    });
    assert!(matches!(moved, Err(Stop::Moved)), "{moved:?}");
    let way = Way::down(&mock, &root, cut, |_| {
        replace();
        0
    });
    let first = way.unwrap().leaf;
    assert_eq!(Bytes.row(first.body(), 0).unwrap().key, [1]);
    drop(first);
    // What is missing below a branch that was replaced is not asked for.
    mock.evict_leaves();
    let missing = Way::down(&mock, &root, View::Current, |_| 0);
    assert!(matches!(missing, Err(Stop::Missing(_))), "{missing:?}");
    let moved = Way::down(&mock, &root, View::Current, |_| {
        replace();
        0
    });
    assert!(matches!(moved, Err(Stop::Moved)), "{moved:?}");
}

#[test]
fn a_way_ends_where_branches_lead_in_a_circle() {
    let mock = Mock::new(CONTENT_BYTES);
    let root = tree(&mock, &[&[(1, 1)]]);
    let mut new = mock.replace(root.page(), 1, 1).unwrap();
    new.words_mut()[0] = ChildWord::pack(root.page(), ChildWord::NO_HINT);
    mock.publish(new);
    let found = Way::down(&mock, &root, View::Current, |_| 0);
    assert!(matches!(&found, Err(Stop::Corrupt { page, .. }) if *page == root.page()), "{found:?}");
}

#[test]
fn a_latched_leaf_is_a_write_and_a_group() {
    let mock = Mock::new(CONTENT_BYTES);
    let page = word(leaf(&mock, &[(1, 1), (2, LARGE)]));
    {
        let mut write = LatchedLeaf::<Mock, _>::for_write(&Bytes, mock.write(&page).unwrap(), &[2]);
        let handle = [2; HANDLE_BYTES];
        assert_eq!(write.existing(), Existing::Present(Value::Overflow(handle)));
        assert_eq!(write.replaced(), Some(handle));
        assert_eq!(write.put(Value::Inline(&[7])), 0);
        assert_eq!(write.replaced(), None);
        assert_eq!(write.existing(), Existing::Present(Value::Inline(&[7])));
        assert!(!PreparedWrite::is_sparse(&write));
        assert_eq!(write.delete(), -1);
        assert_eq!(write.existing(), Existing::Absent);
        assert_eq!(write.delete(), 0);
        assert!(PreparedWrite::is_sparse(&write), "one row is left");
        assert_eq!(write.put(Value::Inline(&[8])), 1);
    }
    let put = |key: &'static [u8], value| GroupWrite { key, value: Some(value) };
    let writes = [
        put(&[2], Value::Overflow([2; HANDLE_BYTES])),
        put(&[3], Value::Overflow([3; HANDLE_BYTES])),
        put(&[4], Value::Inline(&[4])),
    ];
    let mut gone = Vec::new();
    let mut apply = |writes: &dyn GroupWrites, len| {
        let mut group = LatchedLeaf::<Mock, _>::for_group(&Bytes, mock.write(&page).unwrap(), len);
        assert_eq!(group.len(), len);
        group.apply(writes, &mut |handle| gone.push(handle[0]))
    };
    assert_eq!(apply(&writes, 2), 1, "the third one is another leaf's");
    assert_eq!(
        rows_of(&mock, page.page()),
        [(1, 1), (2, 2), (3, 3)],
        "handles by their first byte"
    );
    let deletes = [&[2], &[3], &[9]].map(|key| GroupWrite { key, value: None });
    assert_eq!(apply(&deletes, 3), -2);
    assert_eq!(gone, [2, 3]);
    assert_eq!(rows_of(&mock, page.page()), [(1, 1)]);
}

#[test]
fn everything_goes_from_a_leaf_and_from_a_tree() {
    let mock = Mock::new(CONTENT_BYTES);
    let mut gone = Vec::new();
    let root = word(leaf(&mock, &[(1, 1), (2, LARGE)]));
    let plan = DeleteAll::prepare(&Bytes, &mock, &root).unwrap();
    assert_eq!(plan.apply(&mut |handle| gone.push(handle[0])), -2);
    assert_eq!(gone, [2]);
    assert_eq!(rows_of(&mock, root.page()), []);

    let root = tree(&mock, &[&[(1, 1)], &[(2, LARGE)]]);
    let leaves = [0, 1].map(|slot| id_at(&mock, &root, slot));
    drop(DeleteAll::prepare(&Bytes, &mock, &root).unwrap());
    assert_eq!(rows_of(&mock, leaves[0]), [(1, 1)], "dropped, it changes nothing");
    DeleteAll::prepare(&Bytes, &mock, &root).unwrap().apply(&mut |_| {});
    assert_eq!(rows_of(&mock, root.page()), []);
    assert_eq!(mock.freed(), leaves, "the store finds the large value on its way");
}

#[test]
fn a_cursor_gives_all_rows_of_a_cut_and_goes_on_after_a_stop() {
    let mock = Mock::new(CONTENT_BYTES);
    let root = tree(&mock, &[&[(1, 1), (2, LARGE)], &[], &[(3, 3)]]);
    let cut = mock.cut();
    {
        let mut write = mock.write(&word(ChildWord::pack(id_at(&mock, &root, 2), 0))).unwrap();
        Bytes.change(write.body_mut(), &[4], Some(&Value::Inline(&[4])));
    }
    for (view, last) in [(cut, 3), (View::Current, 4)] {
        mock.evict_leaves();
        let mut cursor = LeafCursor::new(Bytes, Walk { slot: 0, wrong: None });
        assert_eq!(cursor.next_in_memory(), None);
        let mut keys = Vec::new();
        while mock.settle(|| cursor.next(&mock, &root, view)) {
            let (key, value) = cursor.row();
            assert_eq!(value, value_of(key, if key[0] == 2 { &[LARGE] } else { key }));
            keys.push(key[0]);
        }
        assert!(keys.iter().copied().eq(1..=last), "{keys:?} at {view:?}");
        assert_eq!(cursor.next_in_memory(), Some(false));
    }
}

#[test]
fn a_check_reports_and_goes_on() {
    let mock = Mock::new(CONTENT_BYTES);
    let root = tree(&mock, &[&[(1, 1)], &[(2, LARGE)], &[(3, 3), (4, LARGE)]]);
    mock.damage(id_at(&mock, &root, 0), |body| body[..5].copy_from_slice(&[2, 1, 1, 1, 2]));
    let mut check = LeafCheck::new(Bytes, Walk { slot: 0, wrong: Some(1) });
    let mut handles = Vec::new();
    let mut step = |skip: bool| {
        if skip {
            check.skip();
        }
        check.step(&mock, &root, View::Current, &mut |handle| handles.push(handle[0])).unwrap()
    };
    let twice = step(false);
    assert!(matches!(&twice, CheckStep::Wrong(what) if what.contains("twice")), "{twice:?}");
    assert_eq!(twice, step(false), "it stays where it is");
    let told = step(true);
    assert!(matches!(&told, CheckStep::Wrong(what) if what.contains("as told")), "{told:?}");
    assert_eq!(step(true), CheckStep::Page { rows: 2 });
    assert_eq!(step(false), CheckStep::Done);
    assert_eq!(handles, [4]);
}
