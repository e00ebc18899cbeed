//! What a checkpoint may say, and what happens beside it and after its errors.

use super::*;
use crate::{Database, Durability, Index, Options};
use esker_base::sync::Arc;
use esker_io::Disk;
use esker_io::mem::MemDisk;
use esker_io::sim::{CrashKind, Fault, OpKind, SimDisk};
use std::time::Duration;

/// Whoever reads a checkpoint counts on from its numbers, hands its free page ids out, and frees what it says.
#[test]
fn numbers_that_no_checkpoint_writes_are_damage() {
    const NEXT: u64 = 50;
    let options = StoreOptions { page_bytes: 1024, frames: 64, map_nodes: 4, compress: false };
    let cut = CommitNo(9);
    let decodes = |cut: CommitNo, number: u64, change: &dyn Fn(&mut State)| {
        let mut state = Store::empty_state(&options);
        state.ids.next = NEXT;
        change(&mut state);
        let mut out = Vec::new();
        encode(&state, cut, number, b"engine", &mut out);
        try_decode(&out, &options).is_some()
    };
    let ids = |next: u64, free: (u64, u64)| {
        decodes(cut, 7, &move |state| state.ids = PageIds { next, free: vec![free] })
    };
    assert!(ids(NEXT, (1, NEXT - 1)) && ids(PAGES_MAX - 1, (PAGES_MAX - 2, 1)));
    assert!(
        !ids(PAGES_MAX, (1, 1)) && !ids(PageId::LIMIT, (1, 1)) && !ids(u64::MAX, (1, 1)),
        "ids beyond all there are"
    );
    let beyond = [(0, 3), (NEXT, 1), (1, NEXT), (NEXT - 1, 2), (2, u64::MAX), (u64::MAX, 2)];
    for free in beyond {
        assert!(!ids(NEXT, free), "{free:?} is free of {NEXT}");
    }
    let freed = |commit: u64, first: u64, count: u32| {
        let (table, first) = (TableId(1), PageId(first));
        let freed = Freed { commit: CommitNo(commit), table, first, count };
        decodes(cut, 7, &move |state| state.freed.push_back(freed))
    };
    assert!(freed(9, 1, 49) && freed(1, 49, 1));
    assert!(!freed(9, 0, 1) && !freed(9, 50, 1) && !freed(9, 2, 49) && !freed(9, 1 << 40, 1));
    // Two owners would write to what is given up twice.
    let all = |free: &[(u64, u64)], freed: &[(u64, u32)], trees: &[u64]| {
        let (commit, table, lead) = (CommitNo(9), TableId(1), Lead::Anything);
        decodes(cut, 7, &move |state| {
            state.ids.free = free.to_vec();
            state.freed.extend(freed.iter().map(|&(first, count)| {
                let first = PageId(first);
                Freed { commit, table, first, count }
            }));
            state.trees.extend(trees.iter().map(|&page| {
                let page = PageId(page);
                FreedTree { commit, table, page, level: 1, lead }
            }));
        })
    };
    assert!(all(&[(20, 5), (10, 10), (27, 1)], &[(25, 2), (1, 9)], &[28, 40]));
    assert!(!all(&[(20, 5), (10, 11)], &[], &[]) && !all(&[(7, 1), (7, 1)], &[], &[]));
    assert!(!all(&[(20, 5)], &[(24, 2)], &[]) && !all(&[(20, 5)], &[], &[20]));
    assert!(!all(&[], &[(3, 2), (4, 1)], &[]) && !all(&[], &[(3, 2)], &[4]));
    assert!(!all(&[], &[], &[30, 30]));
    let many = |count: u32| {
        let freed = Freed { commit: cut, table: TableId(1), first: PageId(1), count };
        decodes(cut, 7, &move |state| {
            state.ids.next = 1 << 30;
            state.freed.push_back(freed);
        })
    };
    assert!(many(FREED_PAGES_MAX) && !many(FREED_PAGES_MAX + 1));
    let tree = |page: u64| {
        let (commit, table, page) = (CommitNo(9), TableId(1), PageId(page));
        let tree = FreedTree { commit, table, page, level: 3, lead: Lead::Anything };
        decodes(cut, 7, &move |state| state.trees.push(tree))
    };
    assert!(tree(1) && tree(49) && !tree(0) && !tree(50) && !tree(u64::MAX));
    for large in [COUNT_LIMIT, u64::MAX] {
        assert!(!decodes(CommitNo(large), 7, &|_| ()), "commit {large}");
        assert!(!decodes(cut, large, &|_| ()), "image number {large}");
    }
    assert!(decodes(CommitNo(COUNT_LIMIT - 1), COUNT_LIMIT - 1, &|_| ()));
}

/// A database on whose threads nothing happens, with a table, and how to write each row of it. Where code is interpreted, a
/// second is over after a few writes, and a large log takes minutes to read: it is small, and not synced now and then.
fn database() -> (Database, impl Fn(u8)) {
    database_on(Arc::new(MemDisk::new()))
}

fn database_on(disk: Arc<dyn Disk>) -> (Database, impl Fn(u8)) {
    let options = Options::new().page_bytes(1024).memory_bytes(2 << 20).log_file_bytes(256 << 10);
    let options = options.durability(Durability::Os).sync_interval(Duration::from_hours(1));
    let db = options.background(false).open_on(disk).unwrap();
    let table = db.table("t", Index::BTree).unwrap();
    (db, move |round| {
        (0..100).for_each(|n| table.put(format!("{n:05}"), [round; 120]).unwrap());
    })
}

fn mapped(store: &Store, page: PageId) -> Address {
    store.state.lock().map.get(page, &mut |node, at| store.load_map_node(node, at)).unwrap()
}

/// Torture on real threads found this, once in twenty runs: who is short of frames writes versions out and takes their frames
/// while a checkpoint has collected them and waits for the writer's lock. Then the checkpoint found nothing to write, and left
/// out what its cut sees of those pages.
#[test]
fn a_version_written_out_after_it_was_collected_is_in_the_map() {
    let (db, put_all) = database();
    put_all(1);
    db.checkpoint().unwrap();
    put_all(2);
    let (engine, store) = (db.engine(), &db.engine().store);
    let cut = engine.take_cut();
    store.begin_checkpoint(cut);
    // Each leaf is dirty, and is kept in a frame as the cut sees it.
    put_all(3);
    let collected = store.versions.collect(|_, version| version.is_seen_by(cut));
    let in_frames = collected.iter().filter(|(_, version)| version.frame.is_some()).count();
    assert!(in_frames > 10, "{in_frames} versions lie in frames");
    store.spill_versions(&mut store.lock_writer(), 0).unwrap();
    assert_eq!(store.versions.in_frames(), 0);
    store.checkpoint_versions(&collected).unwrap();
    for (page, _) in &collected {
        let kept = store.versions.find(*page, cut).expect("the cut is held");
        assert_eq!(mapped(store, *page), kept.address, "{page:?}: another than the cut sees");
    }
    store.end_checkpoint().unwrap();
    engine.release_cut(cut);
    assert!(db.verify().unwrap().is_sound());
}

/// Images that are newer than the cut stay out of the map while it is written, and are in it afterwards.
#[test]
fn what_is_written_back_during_a_checkpoint_joins_the_map_after_it() {
    let (db, put_all) = database();
    put_all(1);
    let (engine, store) = (db.engine(), &db.engine().store);
    let cut = engine.take_cut();
    store.begin_checkpoint(cut);
    put_all(2);
    let changed = store.versions.collect(|_, version| version.is_seen_by(cut));
    assert!(changed.len() > 10, "{} pages were changed", changed.len());
    store.checkpoint_pages(cut).unwrap();
    let pages = || changed.iter().map(|(page, _)| *page);
    let before: Vec<_> = pages().map(|page| mapped(store, page)).collect();
    store.write_back(&mut store.lock_writer(), usize::MAX).unwrap();
    assert!(before.iter().copied().eq(pages().map(|page| mapped(store, page))));
    let newer: Vec<_> = {
        let state = store.state.lock();
        pages().map(|page| state.overlay.get(&page).expect("it was written back").0).collect()
    };
    store.end_checkpoint().unwrap();
    assert!(newer.iter().copied().eq(pages().map(|page| mapped(store, page))));
    assert!(newer.iter().all(|newer| !before.contains(newer)));
    engine.release_cut(cut);
    assert!(db.verify().unwrap().is_sound());
}

#[test]
fn an_end_that_met_an_error_is_made_up_for_by_the_next_checkpoint() {
    let disk = SimDisk::new(1);
    let (db, put_all) = database_on(Arc::new(disk.clone()));
    put_all(1);
    db.checkpoint().unwrap();
    let (engine, store) = (db.engine(), &db.engine().store);
    let cut = engine.take_cut();
    store.begin_checkpoint(cut);
    put_all(2);
    store.write_back(&mut store.lock_writer(), usize::MAX).unwrap();
    engine.release_cut(cut);
    // So that nodes are read when the overlay joins them.
    (0..2).for_each(|_| store.state.lock().map.shrink(0));
    disk.inject(Fault::new(OpKind::Read, 0).on("seg-").times(2));
    let left = || store.state.lock().overlay.len();
    let before = left();
    assert!(before > 10 && store.end_checkpoint().is_err());
    assert_eq!(left(), before, "nothing of it is lost");
    disk.clear_faults();
    db.checkpoint().unwrap();
    assert!(left() == 0 && db.verify().unwrap().is_sound());
}

/// Nodes of the map are read when it learns what has been written. Where that failed, the pages were neither dirty nor
/// in the map, and the next checkpoint let go of the log that they were in.
#[test]
fn pages_that_the_map_could_not_learn_of_are_written_again() {
    let disk = SimDisk::new(1);
    let (db, put_all) = database_on(Arc::new(disk.clone()));
    put_all(1);
    db.checkpoint().unwrap();
    put_all(2);
    let store = &db.engine().store;
    (0..2).for_each(|_| store.state.lock().map.shrink(0));
    disk.inject(Fault::new(OpKind::Read, 0).on("seg-").times(2));
    store.write_back(&mut store.lock_writer(), usize::MAX).unwrap_err();
    disk.clear_faults();
    db.checkpoint().unwrap();
    let (db, _) = database_on(Arc::new(disk.crash_clone(CrashKind::None, 1)));
    for row in db.open_table("t").unwrap().rows().unwrap() {
        assert_eq!(row.unwrap().value(), [2; 120]);
    }
    assert!(db.verify().unwrap().is_sound());
}

/// As above, where it is the write that failed.
#[test]
fn pages_whose_write_failed_are_written_again() {
    let disk = SimDisk::new(1);
    let (db, put_all) = database_on(Arc::new(disk.clone()));
    put_all(1);
    db.checkpoint().unwrap();
    put_all(2);
    let store = &db.engine().store;
    disk.inject(Fault::new(OpKind::Write, 0).on("seg-"));
    store.write_back(&mut store.lock_writer(), usize::MAX).unwrap_err();
    disk.clear_faults();
    db.checkpoint().unwrap();
    let (db, _) = database_on(Arc::new(disk.crash_clone(CrashKind::None, 1)));
    for row in db.open_table("t").unwrap().rows().unwrap() {
        assert_eq!(row.unwrap().value(), [2; 120]);
    }
    assert!(db.verify().unwrap().is_sound());
}
