//! What background work leaves behind when it stops in the middle.

use crate::{Database, Durability, Index, Options};
use esker_base::PageId;
use esker_base::sync::Arc;
use esker_io::sim::{CrashKind, Fault, OpKind, SimDisk};

fn key(n: u32) -> String {
    format!("{n:05}")
}

/// The newest commit that a page in memory is of.
fn newest(db: &Database) -> u64 {
    let frames = &db.engine().store.frames;
    let headers = (0..frames.count()).map(|frame| frames.header(frame));
    let used = headers.filter(|header| header.page_id() != PageId::NONE);
    used.map(|header| header.commit().0).max().unwrap_or(0)
}

/// A turn that closes a gap changes the memtable's list of ranges and then meets a leaf that is not in memory. Whoever reads the
/// list waits until that is published: for ever, if the leaf cannot be read and nobody writes.
#[test]
fn what_a_turn_has_changed_before_it_stops_is_published() {
    let disk = SimDisk::new(1);
    let options = Options::new().page_bytes(1024).memory_bytes(2 << 20);
    let options = options.durability(Durability::Os);
    let db = options.open_on(Arc::new(disk.clone())).unwrap();
    let (table, other) =
        (db.table("t", Index::Fractal).unwrap(), db.table("other", Index::BTree).unwrap());
    (0..1000).for_each(|n| table.put(key(n), [0; 40]).unwrap());
    (100..900).for_each(|n| table.delete(key(n)).unwrap());
    (0..40_000).for_each(|n| other.put(key(n), [0; 100]).unwrap());
    db.checkpoint().unwrap();
    let mut failed = 0;
    for round in 0..20 {
        // A scan finds the gap; the leaves there are pushed out; the root and the list come in again.
        let row = table.range(key(100)..).unwrap().next();
        assert!(row.is_some_and(|row| row.unwrap().key() == key(900).as_bytes()));
        assert_eq!(other.rows().unwrap().count(), 40_000);
        assert_eq!(table.range(key(950)..).unwrap().count(), 50);
        disk.inject(Fault::new(OpKind::Read, 0).forever());
        failed += u32::from(db.engine().work_round(true).is_err());
        disk.clear_faults();
        let published = db.engine().store.published().0;
        assert!(newest(&db) <= published, "round {round}: {} of {published}", newest(&db));
    }
    assert!(failed > 0, "no page was missing");
}

/// A merge builds pages, a checkpoint writes what there is, and the power goes: the pages that had no owner yet have
/// none afterwards either, and are given back.
#[test]
fn what_a_checkpoint_saw_under_way_is_freed_after_a_crash() {
    let disk = SimDisk::new(1);
    let options = || Options::new().page_bytes(1024).memory_bytes(2 << 20).background(false);
    let options = || options().durability(Durability::Os);
    let db = options().open_on(Arc::new(disk.clone())).unwrap();
    let table = db.table("t", Index::Fractal).unwrap();
    let store = &db.engine().store;
    let is_written = |page: u64| {
        let map = &mut store.state.lock().map;
        let address = map.get(PageId(page), &mut |node, at| store.load_map_node(node, at));
        !address.unwrap().is_none()
    };
    let mut n = 0u32;
    let built = loop {
        assert!(n < 200_000, "no work under way has written anything");
        let key = n.wrapping_mul(2_654_435_761).to_le_bytes();
        table.put(key, [7; 60]).unwrap();
        n += 1;
        let ranges: Vec<_> = store.state.lock().unattached.values().flatten().copied().collect();
        let ids = ranges.iter().flat_map(|(first, n)| *first..first + n);
        let built: Vec<u64> = ids.filter(|page| is_written(*page)).collect();
        if built.len() > 8 {
            break built;
        }
    };
    db.checkpoint().unwrap();
    assert!(built.iter().all(|page| is_written(*page)), "work is still under way");
    let db = options().open_on(Arc::new(disk.crash_clone(CrashKind::None, 0))).unwrap();
    db.settle().unwrap();
    let found = db.verify().unwrap();
    assert!(found.is_sound(), "{:?}", found.damage);
}
