//! The edges of the public API: what is refused, with which error, and what works just inside.
//!
//! Goal: each misuse has its own typed error and changes nothing. Method: one small test a case.

use esker::{
    Database, Durability, Error, Index, Isolation, KEY_BYTES_MAX, Options, Result, Table,
    VALUE_BYTES_MAX,
};
use esker_index::btree::BTree;
use esker_io::mem::MemDisk;
use esker_io::sim::{CrashKind, SimDisk};
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::Arc;

mod kinds;

fn memory() -> Database {
    Options::new().memory_bytes(8 << 20).open_in_memory().unwrap()
}

fn table(db: &Database) -> Table {
    db.table("t", Index::BTree).unwrap()
}

fn what<T: std::fmt::Debug>(result: Result<T>) -> &'static str {
    match result {
        Err(Error::Invalid { what, .. }) => what,
        other => panic!("{other:?}"),
    }
}

/// A directory that goes when the test ends.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("esker-{name}-{}", std::process::id()));
        let _none = std::fs::remove_dir_all(&path).is_err();
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _left = std::fs::remove_dir_all(&self.0).is_err();
    }
}

#[test]
fn an_empty_key_is_refused() {
    let db = memory();
    let table = table(&db);
    assert_eq!(what(table.put("", "v")), "empty key");
    assert_eq!(what(table.delete("")), "empty key");
    assert_eq!(what(table.put_if_absent("", "v")), "empty key");
    assert_eq!(what(table.compare_and_swap("", None, Some(b"v"))), "empty key");
    let mut batch = db.batch();
    batch.put(&table, "fine", "v");
    batch.put(&table, "", "v");
    batch.put(&table, "fine too", "v");
    assert_eq!(what(batch.commit()), "empty key");
    let mut tx = db.begin();
    assert_eq!(what(tx.put(&table, "", "v")), "empty key");
    assert!(matches!(tx.commit(), Err(Error::TransactionFailed)));
    assert_eq!(table.range(..).unwrap().count(), 0, "nothing of it was written");
    // Reading one finds nothing: there can be none.
    assert!(matches!(table.get(""), Ok(None) | Err(Error::Invalid { .. })));
}

#[test]
fn keys_and_values_up_to_the_limit_work_and_beyond_are_refused() {
    let db = Options::new().memory_bytes(320 << 20).open_in_memory().unwrap();
    let table = table(&db);
    let key = vec![b'k'; KEY_BYTES_MAX];
    table.put(&key, "longest key").unwrap();
    assert_eq!(table.get(&key).unwrap().unwrap(), b"longest key");
    assert_eq!(table.range(..).unwrap().next().unwrap().unwrap().key(), &key[..]);
    let longer = vec![b'k'; KEY_BYTES_MAX + 1];
    assert_eq!(what(table.put(&longer, "v")), "key too long");
    assert_eq!(what(table.delete(&longer)), "key too long");

    let value = vec![7; VALUE_BYTES_MAX];
    table.put("largest", &value).unwrap();
    assert!(table.get("largest").unwrap().unwrap() == value);
    let mut longer = value;
    longer.push(7);
    assert_eq!(what(table.put("larger", &longer)), "value too long");
    assert!(!table.contains("larger").unwrap());
    table.put("empty", "").unwrap();
    assert_eq!(table.get("empty").unwrap().unwrap(), b"");
}

/// Values around every size at which something changes, on pages of every size.
#[test]
fn every_length_of_key_and_value_comes_back() {
    for page_bytes in [1024, 4096, 32768] {
        let options = Options::new().page_bytes(page_bytes).memory_bytes(256 * page_bytes);
        let db = options.open_in_memory().unwrap();
        let table = table(&db);
        let content = page_bytes - 64;
        let mut lengths: Vec<usize> = (0..40).collect();
        let inline = esker_index::kind::max_inline_value_bytes(content);
        for size in [content / 8, inline, content / 3, content / 2, content, 2 * content] {
            lengths.extend(size.saturating_sub(20)..size + 20);
        }
        lengths.retain(|len| *len <= 60 * page_bytes);
        for (n, len) in lengths.iter().enumerate() {
            let key = format!("{n:05}");
            let value: Vec<u8> = (0..*len).map(|i| (i * 31 + n) as u8).collect();
            table.put(&key, &value).unwrap();
            assert!(table.get(&key).unwrap().unwrap() == value, "{page_bytes}: {len} bytes");
        }
        for (n, len) in lengths.iter().enumerate() {
            let value: Vec<u8> = (0..*len).map(|i| (i * 31 + n) as u8).collect();
            assert!(table.get(format!("{n:05}")).unwrap().unwrap() == value, "{len} bytes");
        }
        let longest = KEY_BYTES_MAX.min(page_bytes / 4 - 64);
        for len in (1..=longest).step_by(7) {
            table.put(vec![b'x'; len], len.to_le_bytes()).unwrap();
        }
        for len in (1..=longest).step_by(7) {
            let found = table.get(vec![b'x'; len]).unwrap().unwrap();
            assert_eq!(found, len.to_le_bytes(), "{page_bytes}: a key of {len} bytes");
        }
        assert!(db.verify().unwrap().is_sound());
    }
}

#[test]
fn a_transaction_that_is_too_large_says_so() {
    let db = memory();
    let table = table(&db);
    let megabyte = vec![1; 1 << 20];
    let mut tx = db.begin();
    let error = loop {
        if let Err(error) = tx.put(&table, format!("{tx:?}"), &megabyte) {
            break error;
        }
    };
    match error {
        Error::TooLarge { bytes, limit_bytes } => assert!(bytes > limit_bytes && limit_bytes > 0),
        error => panic!("{error}"),
    }
    assert!(matches!(tx.commit(), Err(Error::TransactionFailed)));
    let mut batch = db.batch();
    for n in 0..20u8 {
        batch.put(&table, [n], &megabyte);
    }
    assert!(matches!(batch.commit(), Err(Error::TooLarge { .. })));
    assert_eq!(table.range(..).unwrap().count(), 0);
    table.put("small", "works").unwrap();
}

/// Values just too long for a leaf take a page each: many of them fill memory long before their bytes do.
#[test]
fn a_batch_of_values_outside_leaves_is_taken_or_too_large() {
    let disk = SimDisk::new(1);
    let open = || Options::new().memory_bytes(4 << 20).open_on(Arc::new(disk.clone())).unwrap();
    let db = open();
    let table = table(&db);
    for count in [50u16, 200, 400, 900] {
        let mut batch = db.batch();
        for n in 0..count {
            batch.put(&table, n.to_be_bytes(), [n as u8; 1100]);
        }
        match batch.commit() {
            Ok(()) => assert_eq!(table.range(..).unwrap().count(), usize::from(count)),
            Err(Error::TooLarge { .. }) => {}
            Err(error) => panic!("{count} values: {error}"),
        }
        table.clear().unwrap();
    }
    let rows = (0..900u16).map(|n| (n.to_be_bytes(), [n as u8; 1100]));
    table.bulk_load(rows).unwrap();
    drop((table, db));
    assert_eq!(open().open_table("t").unwrap().range(..).unwrap().count(), 900);
}

#[test]
fn an_unknown_table_and_a_name_that_cannot_be_are_refused() {
    let db = memory();
    assert!(matches!(db.open_table("no"), Err(Error::UnknownTable { name }) if name == "no"));
    assert!(matches!(db.drop_table("no"), Err(Error::UnknownTable { name }) if name == "no"));
    assert_eq!(what(db.create_table("", Index::BTree)), "table name");
    assert_eq!(what(db.create_table(&"n".repeat(256), Index::BTree)), "table name");
    db.create_table(&"n".repeat(255), Index::BTree).unwrap();
    db.create_table("twice", Index::BTree).unwrap();
    assert_eq!(what(db.create_table("twice", Index::BTree)), "table exists");
    // Asking for it is not the same as making it.
    assert_eq!(db.table("twice", Index::BTree).unwrap().kind(), Index::BTree);
    assert_eq!(db.tables().len(), 2);
}

/// What needs an order is refused, by name and with what to do instead; it changes nothing.
#[test]
fn a_table_without_order_refuses_what_needs_one() {
    let db = memory();
    let (hash, other) = (db.table("h", Index::Hash).unwrap(), table(&db));
    hash.put("k", "v").unwrap();
    let refused = |call: &str, result: Result<()>| match result {
        Err(error @ Error::Unordered { .. }) => {
            let text = error.to_string();
            let said = ["\"h\"", "read all rows", "B-tree"].iter().all(|what| text.contains(what));
            assert!(said && text.len() < 200, "{call}: {text}");
        }
        other => panic!("{call}: {other:?}"),
    };
    refused("range", hash.range("a".."b").map(drop));
    refused("range of all", hash.range(..).map(drop));
    refused("prefix", hash.prefix("k").map(drop));
    refused("delete_range", hash.delete_range("a"..));
    refused("pop_first", hash.pop_first().map(drop));
    refused("pop_last", hash.pop_last().map(drop));
    refused("approximate_count", hash.approximate_count(.."b").map(drop));
    refused("rows from behind", hash.rows().unwrap().next_back().unwrap().map(drop));
    let snapshot = db.snapshot();
    refused("range of a snapshot", snapshot.range(&hash, "a"..).map(drop));
    refused("prefix of a snapshot", snapshot.prefix(&hash, "k").map(drop));
    let mut batch = db.batch();
    batch.put(&other, "of the batch", "v");
    batch.delete_range(&hash, "a".."z");
    batch.put(&hash, "l", "v");
    refused("batch", batch.commit());
    refused("range of a transaction", db.begin().range(&hash, "a"..).map(drop));
    refused("prefix of a transaction", db.begin().prefix(&hash, "k").map(drop));
    let mut tx = db.begin();
    tx.put(&hash, "l", "v").unwrap();
    refused("delete_range of a transaction", tx.delete_range(&hash, .."b"));
    assert!(matches!(tx.commit(), Err(Error::TransactionFailed)));
    assert!(hash.contains("k").unwrap() && !hash.contains("l").unwrap());
    assert!(!other.contains("of the batch").unwrap());
}

/// A kind that was not registered: no table of it is made, and one that is there waits for it.
#[test]
fn a_kind_that_is_not_registered_is_refused() {
    let disk = SimDisk::new(1);
    let open = |known: bool| {
        let options = Options::new().page_bytes(1024).memory_bytes(256 << 10);
        let options = if known { options.index_kind("mine", || BTree) } else { options };
        options.open_on(Arc::new(disk.clone())).unwrap()
    };
    let unknown = |result: Result<()>| match result {
        Err(Error::UnknownKind { kind, table }) => {
            assert_eq!((&kind[..], &table[..]), ("mine", "t"));
        }
        other => panic!("{other:?}"),
    };
    let db = open(false);
    unknown(db.table("t", Index::Custom("mine")).map(drop));
    unknown(db.create_table("t", Index::Custom("mine")).map(drop));
    assert!(db.tables().is_empty());
    db.close().unwrap();
    let db = open(true);
    let mine = db.table("t", Index::Custom("mine")).unwrap();
    assert_eq!((mine.kind(), mine.kind().name()), (Index::Custom("mine"), "mine"));
    db.table("other", Index::Hash).unwrap().put("k", "v").unwrap();
    for n in 0..300u32 {
        mine.put_with(n.to_be_bytes(), [n as u8; 50], Durability::Os).unwrap();
    }
    drop(mine);
    db.close().unwrap();
    let db = open(false);
    unknown(db.open_table("t").map(drop));
    unknown(db.table("t", Index::Custom("mine")).map(drop));
    unknown(db.drop_table("t"));
    assert_eq!(db.tables().len(), 1);
    assert_eq!(db.open_table("other").unwrap().get("k").unwrap().unwrap(), b"v");
    assert!(db.verify().unwrap().is_sound());
    db.settle().unwrap();
    db.close().unwrap();
    let db = open(true);
    let mine = db.open_table("t").unwrap();
    assert_eq!(mine.range(..).unwrap().count(), 300);
    assert_eq!(mine.get(7u32.to_be_bytes()).unwrap().unwrap(), [7; 50]);
    assert!(db.verify().unwrap().is_sound());
}

#[test]
fn there_may_be_many_tables() {
    let disk = SimDisk::new(1);
    let open = || {
        let options = Options::new().page_bytes(1024).memory_bytes(256 << 10);
        options.durability(Durability::Os).open_on(Arc::new(disk.clone())).unwrap()
    };
    let db = open();
    for n in 0..600u32 {
        let table = db.create_table(&format!("table {n}"), Index::BTree).unwrap();
        table.put(n.to_be_bytes(), "row").unwrap();
    }
    for n in (0..600).step_by(2) {
        db.drop_table(&format!("table {n}")).unwrap();
    }
    for close in [false, true] {
        assert_eq!(db.tables().len(), 300);
        db.settle().unwrap();
        if close {
            db.clone().close().unwrap();
        }
    }
    let db = open();
    let names: Vec<String> = db.tables().iter().map(|table| table.name().to_owned()).collect();
    assert!(names.is_sorted() && names.len() == 300, "{names:?}");
    for n in (1..600u32).step_by(2) {
        let table = db.open_table(&format!("table {n}")).unwrap();
        assert_eq!(table.get(n.to_be_bytes()).unwrap().unwrap(), b"row");
    }
    assert!(db.verify().unwrap().is_sound());
}

#[test]
fn a_dropped_table_is_gone_for_every_handle() {
    let db = memory();
    let old = table(&db);
    old.put("k", "v").unwrap();
    let snapshot = db.snapshot();
    let mut tx = db.begin();
    tx.put(&old, "k", "w").unwrap();
    let mut batch = db.batch();
    batch.put(&old, "k", "x");
    db.drop_table("t").unwrap();
    let gone = |result: Result<()>| {
        assert!(matches!(result, Err(Error::UnknownTable { .. })), "{result:?}");
    };
    gone(old.put("k", "v"));
    gone(old.delete("k"));
    gone(old.get("k").map(drop));
    gone(old.contains("k").map(drop));
    gone(old.multi_get(&["k"]).map(drop));
    gone(old.range(..).map(drop));
    gone(old.prefix("k").map(drop));
    gone(old.delete_range(..));
    gone(old.clear());
    gone(old.pop_first().map(drop));
    gone(old.compare_and_swap("k", Some(b"v"), None).map(drop));
    gone(old.approximate_count(..).map(drop));
    gone(snapshot.get(&old, "k").map(drop));
    gone(tx.commit());
    gone(batch.commit());
    gone(db.begin().get(&old, "k").map(drop));
    // One of the same name is another one.
    let new = table(&db);
    assert_eq!(new.get("k").unwrap(), None);
    new.put("k", "new").unwrap();
    gone(old.get("k").map(drop));
}

#[test]
fn a_table_of_another_database_is_refused() {
    let (one, two) = (memory(), memory());
    let (ours, theirs) = (table(&one), table(&two));
    let mut tx = one.begin();
    assert_eq!(what(tx.put(&theirs, "k", "v")), "table of another database");
    let mut batch = one.batch();
    batch.put(&ours, "k", "v");
    batch.delete(&theirs, "k");
    assert_eq!(what(batch.commit()), "table of another database");
    assert_eq!(what(one.begin().get(&theirs, "k")), "table of another database");
    assert!(!ours.contains("k").unwrap() && !theirs.contains("k").unwrap());
    theirs.put("k", "theirs").unwrap();
    let found = one.snapshot().get(&theirs, "k");
    assert!(found.is_err(), "a snapshot of one database reads another one: {found:?}");
}

#[test]
fn a_closed_database_answers_nothing() {
    let db = memory();
    let table = table(&db);
    table.put("k", "v").unwrap();
    let (snapshot, other) = (db.snapshot(), db.clone());
    let mut tx = db.begin();
    tx.put(&table, "k", "w").unwrap();
    let mut batch = db.batch();
    batch.put(&table, "k", "x");
    db.close().unwrap();
    let answers: [(&str, Result<()>); 14] = [
        ("put", table.put("k", "v")),
        ("get", table.get("k").map(drop)),
        ("range", table.range(..).map(drop)),
        ("clear", table.clear()),
        ("snapshot", snapshot.get(&table, "k").map(drop)),
        ("commit", tx.commit()),
        ("batch", batch.commit()),
        ("sync", other.sync()),
        ("checkpoint", other.checkpoint()),
        ("settle", other.settle()),
        ("verify", other.verify().map(drop)),
        ("open_table", other.open_table("t").map(drop)),
        ("create_table", other.create_table("u", Index::BTree).map(drop)),
        ("transact", other.transact(|tx| tx.put(&table, "k", "v"))),
    ];
    for (call, answer) in answers {
        assert!(matches!(answer, Err(Error::Closed)), "{call}: {answer:?}");
    }
    // Closing twice is no mistake.
    other.close().unwrap();
}

#[test]
fn settings_out_of_range_are_refused() {
    let open = |options: Options| options.open_in_memory();
    for bytes in [0, 512, 1000, 3 << 10, 64 << 10] {
        assert_eq!(what(open(Options::new().page_bytes(bytes))), "page_bytes out of range");
    }
    assert_eq!(what(open(Options::new().memory_bytes(0))), "memory_bytes too small");
    assert_eq!(what(open(Options::new().memory_bytes(100 << 10))), "memory_bytes too small");
    // The least that it names is enough, and what is set fixes nothing for later.
    for page_bytes in [1024, 8192, 32768] {
        let small = Options::new().page_bytes(page_bytes);
        let Err(Error::Invalid { detail, .. }) = open(small.clone().memory_bytes(1)) else {
            panic!("one byte of memory was enough")
        };
        let least: usize = detail.rsplit(' ').next().unwrap().parse().unwrap();
        let disk = MemDisk::new();
        let db = small.memory_bytes(least).open_on(Arc::new(disk.clone())).unwrap();
        let table = table(&db);
        for n in 0..2000u32 {
            table.put(n.to_be_bytes(), vec![n as u8; page_bytes / 8]).unwrap();
        }
        assert_eq!(table.range(..).unwrap().count(), 2000);
        db.close().unwrap();
        let again = Options::new().page_bytes(4096).memory_bytes(64 << 20);
        let db = again.open_on(Arc::new(disk)).unwrap();
        assert_eq!(db.open_table("t").unwrap().range(..).unwrap().count(), 2000);
    }
}

#[test]
fn small_log_files_and_distances_work_or_are_refused() {
    for bytes in [0, 1, 4096, 12 << 10, 64 << 10] {
        let options = Options::new()
            .page_bytes(1024)
            .memory_bytes(1 << 20)
            .log_file_bytes(bytes)
            .log_distance_bytes(bytes);
        let db = match options.open_on(Arc::new(SimDisk::new(bytes))) {
            Err(Error::Invalid { .. }) => continue,
            opened => opened.unwrap(),
        };
        let table = table(&db);
        for n in 0..300u32 {
            table.put(n.to_be_bytes(), vec![1; (n as usize * 37) % 9000]).unwrap();
        }
        assert_eq!(table.range(..).unwrap().count(), 300, "log files of {bytes} bytes");
    }
}

/// Replay takes as long as the log is, however fast the writers and however slow the disk.
#[test]
fn the_log_ends_at_twice_its_distance() {
    const DISTANCE_BYTES: u64 = 256 << 10;
    let dir = Scratch::new("distance");
    let options = Options::new().page_bytes(1024).memory_bytes(4 << 20).log_file_bytes(64 << 10);
    let options = options.log_distance_bytes(DISTANCE_BYTES).durability(Durability::Os);
    let db = options.open(&dir.0).unwrap();
    let table = table(&db);
    let mut longest = 0;
    for n in 0..30_000u32 {
        table.put((n % 5_000).to_be_bytes(), [n as u8; 400]).unwrap();
        longest = longest.max(db.stats().log_replay_bytes);
    }
    assert!(longest > DISTANCE_BYTES / 2, "{longest} bytes: checkpoints come too early");
    // And as much as goes on between two looks at it.
    assert!(longest < DISTANCE_BYTES * 5 / 2, "{longest} bytes");
    assert!(db.stats().stalls_checkpoint > 0);
    // Reading everything keeps nobody waiting for ever.
    assert!(db.verify().unwrap().is_sound());
    db.close().unwrap();
}

#[test]
fn a_transaction_that_failed_can_only_be_dropped() {
    let db = memory();
    let table = table(&db);
    let mut tx = db.begin();
    tx.put(&table, "good", "v").unwrap();
    assert_eq!(what(tx.put(&table, vec![0; 5000], "v")), "key too long");
    let failed = |result: Result<()>| {
        assert!(matches!(result, Err(Error::TransactionFailed)), "{result:?}");
    };
    failed(tx.get(&table, "good").map(drop));
    failed(tx.put(&table, "k", "v"));
    failed(tx.delete(&table, "k"));
    failed(tx.range(&table, ..).map(drop));
    failed(tx.delete_range(&table, ..));
    failed(tx.put_if_absent(&table, "k", "v").map(drop));
    failed(tx.merge(&table, "no", "k", "v"));
    failed(tx.commit());
    assert!(!table.contains("good").unwrap());
}

#[test]
fn transact_tries_again_and_hands_errors_out() {
    let db = memory();
    let table = table(&db);
    table.put("n", [0]).unwrap();
    let mut tries = 0;
    let answer: Result<u8> = db.transact(|tx| {
        tries += 1;
        let n = tx.get(&table, "n")?.unwrap()[0];
        if tries < 3 {
            // Somebody else is faster, twice.
            table.put("n", [n + 1])?;
        }
        tx.put(&table, "n", [n + 10])?;
        Ok(n + 10)
    });
    assert_eq!((answer.unwrap(), tries), (12, 3));
    assert_eq!(table.get("n").unwrap().unwrap(), [12]);
    // An error of the body's own ends it, without a trace.
    let refused: Result<(), Box<dyn std::error::Error + Send + Sync>> = db.transact(|tx| {
        tx.put(&table, "n", [99])?;
        Err("changed my mind".into())
    });
    assert_eq!(refused.unwrap_err().to_string(), "changed my mind");
    assert_eq!(table.get("n").unwrap().unwrap(), [12]);
}

/// The third try runs alone, so it ends, however busy the others are.
#[test]
fn a_long_transaction_gets_through_among_many_short_ones() {
    let db = memory();
    let table = table(&db);
    for n in 0..200u8 {
        table.put_with([n], [0], Durability::Os).unwrap();
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..3u8 {
            let (table, stop) = (&table, &stop);
            scope.spawn(move || {
                let mut n = thread;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    n = n.wrapping_add(7) % 200;
                    table.put_with([n], [thread], Durability::Os).unwrap();
                }
            });
        }
        for round in 0..10u8 {
            db.transact(|tx| {
                for n in 0..200u8 {
                    tx.get(&table, [n])?;
                }
                tx.put(&table, "result", [round])
            })
            .unwrap();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert_eq!(table.get("result").unwrap().unwrap(), [9]);
}

#[test]
fn merge_operators_are_found_by_name() {
    let options = Options::new().memory_bytes(8 << 20).merge_operator("max", |_, old, new| {
        Some(old.filter(|old| *old > new).unwrap_or(new).to_vec())
    });
    let db = options.open_in_memory().unwrap();
    let table = table(&db);
    for value in ["b", "c", "a"] {
        table.merge("max", "k", value).unwrap();
    }
    assert_eq!(table.get("k").unwrap().unwrap(), b"c");
    assert!(
        matches!(table.merge("min", "k", "a"), Err(Error::UnknownOperator { name }) if name == "min")
    );
    let mut tx = db.begin();
    tx.merge(&table, "max", "k", "d").unwrap();
    assert!(matches!(tx.merge(&table, "min", "k", "a"), Err(Error::UnknownOperator { .. })));
    drop(tx);
    assert_eq!(table.get("k").unwrap().unwrap(), b"c");
    db.transact(|tx| tx.merge(&table, "max", "k", "e")).unwrap();
    assert_eq!(table.get("k").unwrap().unwrap(), b"e");
}

#[test]
fn ranges_of_every_form_select_the_same_keys() {
    let db = memory();
    let table = table(&db);
    for key in ["a", "ab", "b", "b\0", "c", "\u{7f}"] {
        table.put(key, key).unwrap();
    }
    let keys = |rows: Result<esker::Rows>| -> Vec<String> {
        let rows = rows.unwrap().map(|row| String::from_utf8(row.unwrap().into_parts().0).unwrap());
        rows.collect()
    };
    assert_eq!(keys(table.range(..)), ["a", "ab", "b", "b\0", "c", "\u{7f}"]);
    assert_eq!(keys(table.range("ab".."c")), ["ab", "b", "b\0"]);
    assert_eq!(keys(table.range("ab"..="b")), ["ab", "b"]);
    assert_eq!(keys(table.range("c"..)), ["c", "\u{7f}"]);
    assert_eq!(keys(table.range(..="a")), ["a"]);
    assert_eq!(keys(table.range(.."ab")), ["a"]);
    assert_eq!(keys(table.range((Bound::Excluded("b"), Bound::Unbounded))), ["b\0", "c", "\u{7f}"]);
    let reversed = "c".."a";
    assert!(keys(table.range(reversed.clone())).is_empty());
    assert!(keys(table.range("b".."b")).is_empty());
    table.delete_range(reversed).unwrap();
    assert_eq!(keys(table.prefix("b")), ["b", "b\0"]);
    assert_eq!(keys(table.prefix("")).len(), 6);
    assert!(keys(table.prefix([0xff; 3])).is_empty());
    let mut both = table.range(..).unwrap();
    let mut key = |back: bool| {
        let row = if back { both.next_back() } else { both.next() };
        row.map(|row| row.unwrap().key().to_vec())
    };
    assert_eq!(key(true).unwrap(), b"\x7f");
    assert_eq!(key(false).unwrap(), b"a");
    assert_eq!(key(true).unwrap(), b"c");
    assert_eq!(key(true).unwrap(), b"b\0");
    assert_eq!(key(false).unwrap(), b"ab");
    assert_eq!(key(false).unwrap(), b"b");
    assert_eq!((key(false), key(true)), (None, None));
}

#[test]
fn counts_are_about_right() {
    let db = Options::new().page_bytes(1024).memory_bytes(4 << 20).open_in_memory().unwrap();
    let table = table(&db);
    for n in 0..20_000u32 {
        table.put_with(n.to_be_bytes(), [0; 20], Durability::Os).unwrap();
    }
    assert_eq!(table.approximate_len(), 20_000);
    for (low, high) in [(0u32, 20_000u32), (0, 10_000), (5_000, 6_000), (19_000, 20_000)] {
        let estimate = table.approximate_count(low.to_be_bytes()..high.to_be_bytes()).unwrap();
        let exact = u64::from(high - low);
        assert!(
            estimate * 3 >= exact && estimate <= exact * 3 + 200,
            "{low}..{high}: about {estimate}, not {exact}"
        );
    }
    assert!(table.approximate_count(1u32.to_be_bytes()..2u32.to_be_bytes()).unwrap() < 500);
}

#[test]
fn each_write_has_the_durability_it_asked_for() {
    let disk = SimDisk::new(1);
    let options =
        || Options::new().page_bytes(1024).memory_bytes(256 << 10).log_file_bytes(64 << 10);
    let open = |disk: &SimDisk| options().open_on(Arc::new(disk.clone())).unwrap();
    let db = options().durability(Durability::Buffered).open_on(Arc::new(disk.clone())).unwrap();
    let table = table(&db);
    db.sync().unwrap();
    let mut acknowledged = Vec::new();
    for n in 0..40u8 {
        let level = [Durability::Buffered, Durability::Os, Durability::Sync][usize::from(n % 3)];
        match n % 4 {
            0 => table.put_with([n], [n], level).unwrap(),
            1 => {
                let mut batch = db.batch();
                batch.put(&table, [n], [n]);
                batch.set_durability(level);
                batch.commit().unwrap();
            }
            _ => {
                let mut tx = db.begin();
                tx.put(&table, [n], [n]).unwrap();
                tx.set_durability(level);
                tx.commit().unwrap();
            }
        }
        acknowledged.push((n, level));
        let survives = |kind, least: Durability| {
            let db = open(&disk.crash_clone(kind, u64::from(n)));
            let table = db.open_table("t").unwrap();
            let last = acknowledged.iter().rposition(|(_, level)| *level >= least);
            for (n, _) in &acknowledged[..last.map_or(0, |last| last + 1)] {
                assert!(table.contains([*n]).unwrap(), "{kind:?} took {n} of {acknowledged:?}");
            }
            table.range(..).unwrap().count()
        };
        survives(CrashKind::Kill, Durability::Os);
        let left = survives(CrashKind::None, Durability::Sync);
        let synced = acknowledged.iter().rposition(|(_, level)| *level == Durability::Sync);
        assert!(left >= synced.map_or(0, |at| at + 1));
    }
}

#[test]
fn a_ticket_waits_for_the_device() {
    let disk = SimDisk::new(1);
    let options = || Options::new().page_bytes(1024).memory_bytes(256 << 10);
    let db = options().open_on(Arc::new(disk.clone())).unwrap();
    let table = table(&db);
    let survives = |key: &str, kind| {
        let db = options().open_on(Arc::new(disk.crash_clone(kind, 1))).unwrap();
        db.open_table("t").unwrap().contains(key).unwrap()
    };
    let first = table.submit("a", "1").unwrap();
    assert!(!first.is_durable() && !survives("a", CrashKind::None));
    assert!(survives("a", CrashKind::Kill));
    let mut batch = db.batch();
    batch.put(&table, "b", "2");
    let second = batch.submit().unwrap();
    let mut tx = db.begin();
    tx.put(&table, "c", "3").unwrap();
    let third = tx.submit().unwrap();
    second.wait().unwrap();
    assert!(first.is_durable() && survives("b", CrashKind::None));
    third.wait().unwrap();
    assert!(survives("c", CrashKind::None));
    // Nothing written, nothing to wait for.
    assert!(db.begin().submit().unwrap().is_durable());
}

#[test]
fn a_ticket_is_a_future_of_any_runtime() {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let block_on = |ticket: esker::Ticket| {
        let waker = Arc::new(Unpark(std::thread::current())).into();
        let mut ticket = Box::pin(ticket);
        loop {
            let poll = ticket.as_mut().poll(&mut std::task::Context::from_waker(&waker));
            match poll {
                std::task::Poll::Ready(result) => return result,
                std::task::Poll::Pending => std::thread::park(),
            }
        }
    };
    let scratch = Scratch::new("ticket");
    let db = Options::new().memory_bytes(8 << 20).open(&scratch.0).unwrap();
    let table = table(&db);
    std::thread::scope(|scope| {
        for thread in 0..3u8 {
            let (table, block_on) = (&table, &block_on);
            scope.spawn(move || {
                for n in 0..50u8 {
                    let ticket = table.submit([thread, n], [n]).unwrap();
                    block_on(ticket).unwrap();
                }
            });
        }
    });
    let late = table.submit("late", "row").unwrap();
    db.close().unwrap();
    let ended = block_on(late);
    assert!(matches!(ended, Ok(()) | Err(Error::Closed)), "{ended:?}");
}

#[test]
fn a_bulk_load_takes_ascending_keys_only() {
    let db = memory();
    let table = table(&db);
    let rows = |keys: &[u32]| keys.iter().map(|n| (n.to_be_bytes(), [7; 50])).collect::<Vec<_>>();
    let many: Vec<u32> = (0..30_000).collect();
    assert_eq!(table.bulk_load(rows(&many)).unwrap(), 30_000);
    assert_eq!(table.range(..).unwrap().count(), 30_000);
    assert_eq!(table.approximate_len(), 30_000);
    // Into rows that are there: replaced, and between them.
    assert_eq!(table.bulk_load(rows(&[5, 40_000, 50_000])).unwrap(), 3);
    assert_eq!(table.approximate_len(), 30_002);
    assert_eq!(what(table.bulk_load(rows(&[60_000, 60_000]))), "keys do not ascend");
    assert_eq!(what(table.bulk_load(rows(&[70_001, 70_000]))), "keys do not ascend");
    assert_eq!(what(table.bulk_load([("", "v")])), "empty key");
    assert_eq!(table.bulk_load(rows(&[])).unwrap(), 0);
    assert!(!table.contains(60_000u32.to_be_bytes()).unwrap());
    assert_eq!(table.range(..).unwrap().count(), 30_002);
    assert!(db.verify().unwrap().is_sound());
}

#[test]
fn a_copy_of_the_files_after_close_is_a_backup() {
    let (original, copy) = (Scratch::new("original"), Scratch::new("copy"));
    let options = || Options::new().memory_bytes(8 << 20);
    let db = options().open(&original.0).unwrap();
    let table = db.table("t", Index::BTree).unwrap();
    for n in 0..2000u32 {
        table.put_with(n.to_be_bytes(), vec![n as u8; 200], Durability::Os).unwrap();
    }
    table.put("large", vec![3; 300_000]).unwrap();
    db.close().unwrap();
    for entry in std::fs::read_dir(&original.0).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.0.join(path.file_name().unwrap())).unwrap();
    }
    // The original goes on; the copy does not notice.
    let db = options().open(&original.0).unwrap();
    db.open_table("t").unwrap().clear().unwrap();
    let backup = options().open(&copy.0).unwrap();
    let rows = backup.open_table("t").unwrap();
    assert_eq!(rows.range(..).unwrap().count(), 2001);
    assert!(rows.get("large").unwrap().unwrap() == vec![3; 300_000]);
    assert!(backup.verify().unwrap().is_sound());
    rows.put("more", "rows").unwrap();
}

#[test]
fn a_second_open_is_refused_until_the_first_ends() {
    let scratch = Scratch::new("twice");
    let open = || Options::new().memory_bytes(8 << 20).open(&scratch.0);
    let db = open().unwrap();
    table(&db).put("k", "v").unwrap();
    for _ in 0..3 {
        assert!(matches!(open(), Err(Error::Locked { .. })));
    }
    let links = Scratch::new("links");
    let link = links.0.join("link");
    std::os::unix::fs::symlink(&scratch.0, &link).unwrap();
    let by_link = Options::new().memory_bytes(8 << 20).open(&link);
    assert!(matches!(by_link, Err(Error::Locked { .. })), "{by_link:?}");
    db.close().unwrap();
    let db = open().unwrap();
    assert_eq!(table(&db).get("k").unwrap().unwrap(), b"v");
    // Any handle keeps it open, to the database or to a table.
    let (handle, other) = (table(&db), db.clone());
    drop(db);
    assert!(matches!(open(), Err(Error::Locked { .. })));
    drop(other);
    assert!(matches!(open(), Err(Error::Locked { .. })));
    handle.put("k", "w").unwrap();
    drop(handle);
    let db = open().unwrap();
    assert_eq!(table(&db).get("k").unwrap().unwrap(), b"w");
}

#[test]
fn a_place_that_cannot_hold_a_database_is_refused() {
    let scratch = Scratch::new("places");
    let file = scratch.0.join("file");
    #[expect(clippy::disallowed_methods, reason = "the test is about the real disk")]
    std::fs::write(&file, "text").unwrap();
    let open =
        |path: PathBuf, create| Options::new().memory_bytes(8 << 20).create(create).open(path);
    for create in [true, false] {
        let opened = open(file.clone(), create);
        assert!(matches!(opened, Err(Error::NotADatabase { .. } | Error::Io { .. })), "{opened:?}");
        let opened = open(scratch.0.clone(), create);
        assert!(matches!(opened, Err(Error::NotADatabase { .. })), "{opened:?}");
    }
    let missing = open(scratch.0.join("missing"), false);
    assert!(matches!(missing, Err(Error::NotADatabase { .. } | Error::Io { .. })), "{missing:?}");
    assert!(!scratch.0.join("missing").exists(), "create(false) made it");
    let db = open(scratch.0.join("new"), true).unwrap();
    table(&db).put("k", "v").unwrap();
    drop(db);
    assert!(open(scratch.0.join("new"), false).is_ok());
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "text");
}

#[test]
fn a_database_in_memory_works_like_any_other() {
    let disk = MemDisk::new();
    let options =
        || Options::new().page_bytes(1024).memory_bytes(200 << 10).durability(Durability::Os);
    let db = options().open_on(Arc::new(disk.clone())).unwrap();
    let rows = table(&db);
    for n in 0..5000u32 {
        rows.put(n.to_be_bytes(), [n as u8; 100]).unwrap();
    }
    rows.delete_range(1000u32.to_be_bytes()..4000u32.to_be_bytes()).unwrap();
    assert_eq!(rows.range(..).unwrap().count(), 2000);
    db.settle().unwrap();
    db.close().unwrap();
    let db = options().open_on(Arc::new(disk)).unwrap();
    let rows = db.open_table("t").unwrap();
    assert_eq!(rows.range(..).unwrap().count(), 2000);
    assert_eq!(rows.get(4500u32.to_be_bytes()).unwrap().unwrap(), [4500u32 as u8; 100]);
    assert!(db.verify().unwrap().is_sound());
}

#[test]
fn figures_move_with_what_is_done() {
    let disk = SimDisk::new(1);
    let options = Options::new().page_bytes(1024).memory_bytes(128 << 10).log_file_bytes(32 << 10);
    let db = options.open_on(Arc::new(disk)).unwrap();
    let rows = table(&db);
    let before = db.stats();
    for n in 0..1000u32 {
        rows.put(n.to_be_bytes(), [n as u8; 200]).unwrap();
    }
    for n in 0..1000u32 {
        rows.get(n.to_be_bytes()).unwrap();
    }
    rows.delete(5u32.to_be_bytes()).unwrap();
    let snapshot = db.snapshot();
    for n in 0..300u32 {
        rows.put(n.to_be_bytes(), [1; 200]).unwrap();
    }
    let held = db.stats();
    assert!(held.versions > 0 && held.versions_kept > 0, "{held:?}");
    drop(snapshot);
    let mut tx = db.begin();
    tx.get(&rows, [1]).unwrap();
    rows.put([1], [1]).unwrap();
    tx.put(&rows, [2], [2]).unwrap();
    assert!(tx.commit().is_err());
    db.checkpoint().unwrap();
    db.settle().unwrap();
    let after = db.stats();
    assert!(after.gets - before.gets >= 1000, "{after:?}");
    assert_eq!(after.puts - before.puts, 1301);
    assert_eq!(after.deletes - before.deletes, 1);
    assert!(after.commits - before.commits >= 1302);
    assert_eq!(after.conflicts, 1);
    assert!(after.last_commit > before.last_commit);
    assert!(after.evictions > 0 && after.page_reads > 0 && after.page_read_bytes > 0);
    assert!(after.pages_written > 0 && after.image_bytes_written > 0);
    assert!(after.log_syncs > before.log_syncs && after.log_bytes > before.log_bytes);
    assert!(after.checkpoints > before.checkpoints);
    assert!(after.segments > 0 && after.live_bytes <= after.segment_bytes);
    assert_eq!(after.versions, 0, "no snapshot is left");
    let of_table: Vec<_> = after.tables.iter().map(|t| (&t.name[..], t.kind, t.rows)).collect();
    assert_eq!(of_table, [("t", "btree", 1001)]);
    let fields = after.fields();
    assert!(fields.contains(&("puts", after.puts)) && fields.contains(&("gets", after.gets)));
}

/// After random overwrites and a rest, space is back (log apart).
#[test]
fn space_comes_back_at_rest() {
    let fill = |overwrite: bool| {
        let db = Options::new()
            .page_bytes(1024)
            .memory_bytes(512 << 10)
            .log_file_bytes(256 << 10)
            .durability(Durability::Os)
            .compress(false)
            .open_on(Arc::new(SimDisk::new(1)))
            .unwrap();
        let rows = table(&db);
        let value = |n: u32, round: u32| -> Vec<u8> {
            (0..100u32).map(|i| n.wrapping_mul(31).wrapping_add(i * round) as u8).collect()
        };
        for n in 0..20_000u32 {
            rows.put(n.to_be_bytes(), value(n, 0)).unwrap();
        }
        if overwrite {
            let mut n = 1u32;
            for _ in 0..40_000 {
                n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                rows.put((n >> 8).rem_euclid(20_000).to_be_bytes(), value(n, 1)).unwrap();
            }
        }
        db.settle().unwrap();
        let stats = db.stats();
        assert!(db.verify().unwrap().is_sound());
        (stats.segment_bytes, stats.live_bytes)
    };
    let (loaded, overwritten) = (fill(false), fill(true));
    assert!(
        overwritten.0 as f64 <= 1.3 * loaded.0 as f64,
        "{} bytes of segments after overwrites, {} after loading (live: {}, {})",
        overwritten.0,
        loaded.0,
        overwritten.1,
        loaded.1
    );
}

/// Leaves that deletes have emptied go, also where their neighbours are not in memory; what was in others takes no space.
#[test]
fn space_of_deleted_rows_comes_back_beyond_memory() {
    const ROWS: u32 = 12_000;
    let value = |n: u32| -> Vec<u8> {
        let mut state = u64::from(n) + 1;
        let byte = |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        };
        (0..700).map(byte).collect()
    };
    let options = Options::new().memory_bytes(2 << 20).durability(Durability::Os);
    let db = options.open_on(Arc::new(SimDisk::new(1))).unwrap();
    let rows = table(&db);
    for n in 0..ROWS {
        rows.put(n.to_be_bytes(), value(n)).unwrap();
    }
    // In order, then every other one of a part.
    for n in (0..ROWS / 2).chain((ROWS / 2..ROWS / 4 * 3).step_by(2)) {
        rows.delete(n.to_be_bytes()).unwrap();
    }
    db.settle().unwrap();
    let left = u64::from(ROWS / 2 - ROWS / 8) * 700;
    let live_bytes = db.stats().live_bytes;
    assert!(live_bytes < left / 10 * 12, "{live_bytes} bytes for rows of {left}");
    assert!(db.verify().unwrap().is_sound());
}

/// What a snapshot keeps cannot be cleaned; trying again for ever would write for ever.
#[test]
fn work_at_rest_ends_while_a_snapshot_is_held() {
    let db = Options::new()
        .page_bytes(1024)
        .memory_bytes(320 << 10)
        .log_file_bytes(16 << 10)
        .log_distance_bytes(8 << 10)
        .durability(Durability::Os)
        .open_on(Arc::new(SimDisk::new(1)))
        .unwrap();
    let rows = table(&db);
    let mut n = 1u32;
    let mut overwrite = |count: u32, len: usize| {
        for _ in 0..count {
            n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value: Vec<u8> = (0..len).map(|i| (n >> (i % 24)) as u8).collect();
            rows.put((n >> 8).rem_euclid(2_000).to_be_bytes(), value).unwrap();
        }
    };
    overwrite(4_000, 60);
    let mut held = Vec::new();
    for round in 0..40 {
        if round % 10 == 0 {
            held.push(db.snapshot());
        }
        overwrite(100, 60);
        let before = db.stats().checkpoints;
        db.settle().unwrap();
        let checkpoints = db.stats().checkpoints - before;
        assert!(checkpoints < 30, "round {round}: {checkpoints} checkpoints at rest");
    }
    drop(held);
    db.settle().unwrap();
    let stats = db.stats();
    assert!(stats.segment_bytes < stats.live_bytes * 3 / 2 + (64 << 10), "{stats:?}");
}

/// What was given up right before a checkpoint is freed after the next start.
#[test]
fn space_given_up_comes_back_after_a_restart() {
    let disk = SimDisk::new(1);
    let open = || {
        let options = Options::new().page_bytes(1024).memory_bytes(256 << 10);
        options.durability(Durability::Os).open_on(Arc::new(disk.clone())).unwrap()
    };
    let mut live_bytes = Vec::new();
    for round in 0..6 {
        let db = open();
        db.settle().unwrap();
        live_bytes.push(db.stats().live_bytes);
        let table = table(&db);
        for n in 0..300u32 {
            let len = if n % 10 == 0 { 3000 } else { 100 };
            let value: Vec<u8> = (0..len).map(|i| (n * 7 + i * i) as u8).collect();
            table.put(n.to_be_bytes(), value).unwrap();
        }
        db.checkpoint().unwrap();
        match round % 3 {
            0 => db.drop_table("t").unwrap(),
            1 => table.clear().unwrap(),
            _ => table.delete_range(1u32.to_be_bytes()..).unwrap(),
        }
        db.checkpoint().unwrap();
    }
    let (first, last) = (live_bytes[0], *live_bytes.last().unwrap());
    assert!(last < first + (20 << 10), "live bytes at each start: {live_bytes:?}");
}

/// Ids of pages that were freed are handed out again, also after a restart: the page map does not grow with every row
/// that ever was.
#[test]
fn page_ids_are_used_again_after_a_restart() {
    const ROUNDS: usize = 8;
    let disk = SimDisk::new(1);
    let mut images = Vec::new();
    for _ in 0..ROUNDS {
        let options = Options::new().page_bytes(1024).memory_bytes(256 << 10);
        let db = options.durability(Durability::Os).open_on(Arc::new(disk.clone())).unwrap();
        let table = table(&db);
        for n in 0..4000u32 {
            table.put(n.to_be_bytes(), [n as u8; 100]).unwrap();
        }
        table.clear().unwrap();
        db.settle().unwrap();
        images.push(db.verify().unwrap().images);
        db.close().unwrap();
    }
    // What a start has set aside and not used is given up.
    let grown = images[ROUNDS - 1] - images[1];
    assert!(grown <= 2 * ROUNDS as u64, "images of an empty table: {images:?}");
}

#[test]
fn snapshot_isolation_refuses_the_second_writer_only() {
    let db = memory();
    let table = table(&db);
    table.put("a", "1").unwrap();
    let mut one = db.begin_with(Isolation::Snapshot);
    assert_eq!(one.get(&table, "a").unwrap().unwrap(), b"1");
    table.put("a", "2").unwrap();
    assert_eq!(one.get(&table, "a").unwrap().unwrap(), b"1", "it reads as of its begin");
    one.put(&table, "b", "of one").unwrap();
    one.commit().unwrap();
    let mut two = db.begin_with(Isolation::Snapshot);
    two.put(&table, "a", "3").unwrap();
    table.put("a", "4").unwrap();
    assert!(matches!(two.commit(), Err(Error::Conflict)));
    let mut three = db.begin_with(Isolation::Snapshot);
    three.get_for_update(&table, "a").unwrap();
    three.put(&table, "c", "v").unwrap();
    table.put("a", "5").unwrap();
    assert!(matches!(three.commit(), Err(Error::Conflict)), "it claimed the row");
}

/// Errors say what to do, in one line.
#[test]
fn every_error_reads_well() {
    let db = memory();
    let table = table(&db);
    let errors = [
        table.put("", "v").unwrap_err(),
        table.put(vec![0; 3000], "v").unwrap_err(),
        db.open_table("no").unwrap_err(),
        table.merge("no", "k", "v").unwrap_err(),
        Error::Conflict,
        Error::Closed,
        Error::TransactionFailed,
    ];
    for error in errors {
        let text = error.to_string();
        assert!(text.len() > 10 && text.len() < 200 && !text.contains('\n'), "{text}");
    }
}

/// Leaves that a batch brings in push each other out where most pages are dirty: its commit does not begin again for each of them.
#[test]
fn batches_beyond_memory_seldom_begin_again() {
    const ROWS: u32 = 12_000;
    const BATCH: u32 = 100;
    for kind in [Index::BTree, Index::Hash] {
        let options = Options::new().memory_bytes(1 << 20).page_bytes(1024).background(false);
        let db = options.open_on(Arc::new(MemDisk::new())).unwrap();
        let table = db.table("t", kind).unwrap();
        // Each batch touches as many leaves as it has rows.
        let key = |i: u32| (i.wrapping_mul(0x9E37_79B1) % ROWS).to_le_bytes();
        for round in 0..4u32 {
            for batch in 0..ROWS / BATCH {
                let mut writes = db.batch();
                for i in 0..BATCH {
                    writes.put(&table, key(batch * BATCH + i), [round.to_le_bytes(); 20].concat());
                }
                writes.commit().unwrap();
            }
        }
        let stats = db.stats();
        assert!(stats.evictions > 10_000, "{kind:?}: all in memory");
        let batches = u64::from(4 * ROWS / BATCH);
        assert!(stats.commit_retries < 4 * batches, "{kind:?}: {stats:?}");
        let found = (0..ROWS).filter_map(|i| table.get(key(i)).unwrap());
        assert!(found.clone().count() > 1000);
        assert!(found.into_iter().all(|value| value == [3u32.to_le_bytes(); 20].concat()));
    }
}
