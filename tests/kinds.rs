//! Every kind of index through the conformance suite, kinds from outside, and kinds that are not there.
//!
//! Goal: what the engine promises holds for any kind. Method: `index/conformance`; scripts that found
//! something, as they were cut down.

use crate::fourth_kind::Trie;
use crate::sim::script::{Key, Shape, Span, Value};
use crate::sim::{Op, Script, Settings};
use esker::{Error, Index, Options};
use esker_conformance::subject::Subject;
use esker_conformance::{Effort, load, model};
use esker_index::btree::BTree;
use esker_io::sim::{CrashKind, SimDisk};
use std::ops::Bound;
use std::sync::Arc;

fn with_trie(options: Options) -> Options {
    options.index_kind("trie", || Trie)
}

#[test]
fn a_kind_from_outside_conforms() {
    let effort = Effort { histories: 15, ..Effort::SHORT };
    esker_conformance::run(Index::Custom("trie"), with_trie, effort);
}

/// As the fourth kind, but with an order: what is called through a table of functions must be no different.
#[test]
fn an_ordered_kind_from_outside_conforms() {
    let options = |options: Options| options.index_kind("tree", || BTree);
    esker_conformance::run(Index::Custom("tree"), options, Effort::SHORT);
}

#[test]
fn loads_and_little_memory_suit_every_kind() {
    for kind in Subject::KINDS {
        load::each(Subject::of(kind), 6);
    }
}

/// Runs a script that once failed.
fn replay(kind: Index, settings: Settings, ops: Vec<Op>) {
    let script = Script { settings: Settings { kinds: [kind; 3], ..settings }, ops };
    model::run(Subject::of(kind), &script, Arc::new(SimDisk::new(7)));
}

/// The end of a range that includes a key is a byte longer than the key, and went into a page as it was: a page
/// that could not be read again. So did, endlessly, bounds longer than a page.
#[test]
fn ranges_end_where_no_key_can() {
    let settings = Settings { shape: Shape::Long, ..Settings::TINY };
    let all = |low, high| Op::DeleteRange(0, Span::Between(low, high));
    replay(
        Index::Fractal,
        settings,
        vec![
            Op::Create(0),
            Op::Put(0, Key(3), Value { len: 3, salt: 1 }, None),
            Op::Put(0, Key(0), Value { len: 3, salt: 1 }, None),
            all(Bound::Included(Key(0)), Bound::Included(Key(3))),
            all(Bound::Excluded(Key(0)), Bound::Unbounded),
            Op::Verify,
            Op::Reopen { close: true },
            Op::CompareAll,
        ],
    );
    for kind in Subject::KINDS.into_iter().filter(|kind| *kind != Index::Hash) {
        let disk = SimDisk::new(1);
        let open = || Settings::TINY.options().open_on(Arc::new(disk.clone())).unwrap();
        let db = open();
        let table = db.create_table("t", kind).unwrap();
        let longest = vec![b'k'; 256];
        for key in [&b"a"[..], &b"k"[..], &longest, &b"kz"[..], &[0xff; 256], b"z"] {
            table.put(key, "row").unwrap();
        }
        let long = vec![b'k'; 5000];
        table.delete_range(&long[..]..).unwrap();
        let keys = |table: &esker::Table| -> Vec<Vec<u8>> {
            table.rows().unwrap().map(|row| row.unwrap().into_parts().0).collect()
        };
        assert_eq!(keys(&table), [b"a".to_vec(), b"k".to_vec(), longest.clone()], "{kind}");
        table.put([0xff; 256], "row").unwrap();
        table.delete_range(&[0xff; 300][..]..).unwrap();
        assert!(table.contains([0xff; 256]).unwrap(), "{kind}: it is below the range");
        table.delete_range(&b"b"[..]..&long[..]).unwrap();
        assert_eq!(keys(&table), [b"a".to_vec(), vec![0xff; 256]], "{kind}");
        db.close().unwrap();
        let db = open();
        let table = db.open_table("t").unwrap();
        assert_eq!(keys(&table), [b"a".to_vec(), vec![0xff; 256]], "{kind}");
        assert!(db.verify().unwrap().is_sound());
    }
}

/// A database with a table of a kind that nobody registers any more: the rest of it goes on.
#[test]
fn a_kind_that_is_not_registered_is_named() {
    let disk = SimDisk::new(3);
    let open = |register: fn(Options) -> Options, disk: &SimDisk| {
        register(Settings::TINY.options()).open_on(Arc::new(disk.clone()))
    };
    let db = open(with_trie, &disk).unwrap();
    let unknown = db.create_table("other", Index::Custom("other"));
    assert!(matches!(unknown, Err(Error::UnknownKind { .. })), "{unknown:?}");
    let table = db.create_table("t", Index::Custom("trie")).unwrap();
    let rest = db.create_table("rest", Index::BTree).unwrap();
    for n in 0..500u32 {
        table.put(n.to_le_bytes(), vec![7; 1 + n as usize]).unwrap();
    }
    db.checkpoint().unwrap();
    rest.put("key", "value").unwrap();

    let is_named = |result: esker::Result<()>| {
        assert!(
            matches!(&result, Err(Error::UnknownKind { kind, table }) if kind == "trie" && table == "t"),
            "{result:?}"
        );
    };
    // Nothing in the log is for it.
    let left = disk.crash_clone(CrashKind::All, 1);
    {
        let db = open(|options| options, &left).unwrap();
        assert_eq!(db.open_table("rest").unwrap().get("key").unwrap().unwrap(), b"value");
        is_named(db.open_table("t").and_then(|table| table.get("key")).map(drop));
        is_named(db.table("t", Index::Custom("trie")).and_then(|table| table.put("k", "v")));
        let found = db.verify().unwrap();
        assert!(found.is_sound(), "{:?}", found.damage);
        db.open_table("rest").unwrap().put("more", "rows").unwrap();
        db.settle().unwrap();
        db.close().unwrap();
    }
    // What was not known is as it was.
    {
        let db = open(with_trie, &left).unwrap();
        let table = db.open_table("t").unwrap();
        assert_eq!(table.rows().unwrap().count(), 500);
        assert!(db.verify().unwrap().is_sound());
        db.close().unwrap();
    }
    // The log has a row for it: that would be lost.
    table.put("key", "value").unwrap();
    let left = disk.crash_clone(CrashKind::All, 2);
    is_named(open(|options| options, &left).map(drop));
    let db = open(with_trie, &left).unwrap();
    assert_eq!(db.open_table("t").unwrap().get("key").unwrap().unwrap(), b"value");
}

/// One split made as many leaves as a page can tell apart, and a batch that is applied in pieces, or replayed, tried again and
/// again to set so many aside: more than it may.
#[test]
fn a_batch_in_pieces_splits_into_what_a_turn_may_set_aside() {
    for kind in [Index::BTree, Index::Fractal] {
        let options = Options::new().page_bytes(8192).memory_bytes(1 << 20).background(false);
        let db = options.open_on(Arc::new(SimDisk::new(1))).unwrap();
        let table = db.create_table("t", kind).unwrap();
        let mut batch = db.batch();
        batch.delete_range(&table, "a".."b");
        for n in 0..240u16 {
            batch.put(&table, n.to_be_bytes(), [7; 1000]);
        }
        batch.commit().unwrap();
        assert_eq!(table.rows().unwrap().count(), 240, "{kind:?}");
    }
}
