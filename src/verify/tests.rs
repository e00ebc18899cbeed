//! Verification, and repair, of databases whose files say what no database comes to.

use crate::{Database, Durability, Index, Options};
use esker_base::PageId;
use esker_base::sync::Arc;
use esker_io::sim::{CrashKind, SimDisk};

fn options() -> Options {
    let options = Options::new().page_bytes(1024).memory_bytes(1 << 20);
    options.background(false).durability(Durability::Os)
}

fn database(disk: &SimDisk) -> Database {
    options().open_on(Arc::new(disk.clone())).unwrap()
}

fn put_rows(db: &Database, from: u32) {
    let table = db.table("t", Index::BTree).unwrap();
    (from..from + 500).for_each(|n| table.put(format!("{n:05}"), [7; 50]).unwrap());
    db.checkpoint().unwrap();
}

/// A bit for each page that was ever handed out, or a list of them, was more memory than there is.
#[test]
fn how_many_pages_a_checkpoint_says_there_were_costs_nothing() {
    let disk = SimDisk::new(1);
    let db = database(&disk);
    put_rows(&db, 0);
    {
        let mut state = db.engine().store.state.lock();
        state.ids.next = 1 << 38;
        state.ids.give_back(PageId(1 << 20), 1 << 37);
    }
    for step in 1..3 {
        put_rows(&db, 500 * step);
        assert!(db.verify().unwrap().is_sound());
    }
    drop(db);
    let disk = disk.crash_clone(CrashKind::All, 1);
    let db = database(&disk);
    let found = db.verify().unwrap();
    assert!(found.is_sound(), "{found:?}");
    assert_eq!(found.rows, 1500);
    drop(db);
    let disk = disk.crash_clone(CrashKind::All, 1);
    let report = options().repair_on(Arc::new(disk), Some(Arc::new(SimDisk::new(2)))).unwrap();
    assert!(report.is_complete() && report.tables[0].rows == 1500, "{report:?}");
}
