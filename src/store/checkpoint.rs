//! Checkpoints: a cut written out, so that recovery may start from it.
//!
//! The steps and why in this order: DESIGN.md §4.6. The metadata of a checkpoint is a sequence of varints:
//!
//! ```text
//! commit | next image number | map height | two images of the map's root (4 numbers each)
//! | next page id | free ranges: count, (first, count)*
//! | to free: count, (commit, table, page, level + 1 or 0 for a range of pages, pages)*
//! | segment table (segment.rs) | bytes by table: count, (table, bytes)* | engine's part: length, bytes
//! ```

use super::frame::{DIRTY, PINNED};
use super::image::Address;
use super::map::{Copies, Map};
use super::segment::Segments;
use super::superblock::{self, Superblock};
use super::versions::Version;
use super::{
    Freed, FreedTree, PageIds, State, Store, StoreOptions, TableBytes, Writer, count, map_fan,
};
use esker_base::codec::{Reader, put_prefixed, put_varint};
use esker_base::sync::Ordering;
use esker_base::{COUNT_LIMIT, CommitNo, Error, PageId, Result, SegmentId, TableId};
use esker_index::kind::Lead;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Pages written per hold of the writer lock, so that those who wait for frames get their turn.
const BATCH_PAGES: usize = 256;

/// What a checkpoint's file says, decoded.
#[derive(Debug)]
pub(crate) struct Metadata {
    pub(crate) commit: CommitNo,
    pub(crate) next_number: u64,
    pub(crate) state: State,
    pub(crate) engine: Vec<u8>,
}

impl Store {
    /// Writes every page that is dirty as of `cut`, which the caller holds. Sets the store to keep newer images apart until
    /// [`Self::end_checkpoint`].
    pub(crate) fn checkpoint_pages(&self, cut: CommitNo) -> Result<()> {
        let mut frame = 0;
        while frame < self.frames.end() {
            let mut writer = self.lock_writer();
            let mut staged = 0;
            while frame < self.frames.end() && staged < BATCH_PAGES {
                let header = self.frames.header(frame);
                let state = header.state.load(Ordering::Relaxed);
                if state & DIRTY != 0
                    && state & PINNED == 0
                    && header.commit() <= cut
                    && self.stage_or_abandon(&mut writer, Some(frame))?
                {
                    staged += 1;
                    if writer.fresh.is_full() {
                        self.flush(&mut writer)?;
                    }
                }
                frame += 1;
            }
            self.flush(&mut writer)?;
        }
        self.checkpoint_versions(&self.versions.collect(|_, version| version.is_seen_by(cut)))
    }

    /// Writes the versions that a checkpoint's cut sees. They were collected without a lock: what happened to them since then
    /// is seen here.
    fn checkpoint_versions(&self, collected: &[(PageId, Version)]) -> Result<()> {
        for batch in collected.chunks(BATCH_PAGES) {
            let mut writer = self.lock_writer();
            for (page, version) in batch {
                // As it is now, under the writer's lock: it may have been written out, to free its frame, since it was collected.
                let address = self.versions.update(*page, version.changed_at, |now| now.address);
                let address = address.unwrap_or(version.address);
                if address.is_none() {
                    self.stage_version(&mut writer, *page, version, true)
                        .inspect_err(|_| self.abandon(&mut writer))?;
                } else {
                    // The map may not know.
                    esker_base::mark::VERSION_WRITTEN_BEFORE.hit();
                    let mut state = self.state.lock();
                    let load = &mut |node, at| self.load_map_node(node, at);
                    if state.map.get(*page, load)? != address {
                        self.install_in_map(&mut state, *page, version.table, address)?;
                    }
                }
                if writer.fresh.is_full() {
                    self.flush(&mut writer)?;
                }
            }
            self.flush(&mut writer)?;
        }
        Ok(())
    }

    /// Writes the map and the metadata, syncs everything that the superblock will refer to, and
    /// writes the superblock. Returns the freeze number to pass to [`Self::remove_segments`].
    pub(crate) fn checkpoint_commit(
        &self,
        cut: CommitNo,
        engine: &[u8],
        mut superblock: Superblock,
    ) -> Result<(u64, Superblock)> {
        let mut writer = self.lock_writer();
        let writer = &mut *writer;
        let freeze = {
            let mut state = self.state.lock();
            state.segments.freezes += 1;
            state.segments.freezes
        };
        self.write_map(writer).inspect_err(|_| self.abandon(writer))?;
        let mut payload = Vec::new();
        {
            let mut state = self.state.lock();
            encode(&state, cut, writer.next_number, engine, &mut payload);
            state.map.shrink(self.options.map_nodes);
        }
        for id in std::mem::take(&mut writer.unsynced) {
            if let Err(error) = self.files.get(id).and_then(|file| file.sync()) {
                writer.unsynced.insert(id);
                return Err(error);
            }
        }
        writer.fresh.leave_block();
        writer.moved.leave_block();
        writer.second.leave_block();
        let (crc, bytes) = superblock::write_checkpoint(
            &*self.disk,
            self.database,
            superblock.checkpoint,
            &payload,
        )?;
        self.disk.sync_dir()?;
        superblock.checkpoint_crc = crc;
        superblock.checkpoint_bytes = bytes;
        superblock::write(&*self.disk, &superblock)?;
        count(&self.counters.checkpoints, 1);
        Ok((freeze, superblock))
    }

    /// Writes the metadata of a database that has nothing yet.
    pub(crate) fn first_checkpoint(
        &self,
        engine: &[u8],
        superblock: &mut Superblock,
    ) -> Result<()> {
        let mut payload = Vec::new();
        encode(&self.state.lock(), CommitNo(0), 1, engine, &mut payload);
        let (crc, bytes) = superblock::write_checkpoint(
            &*self.disk,
            self.database,
            superblock.checkpoint,
            &payload,
        )?;
        superblock.checkpoint_crc = crc;
        superblock.checkpoint_bytes = bytes;
        self.disk.sync_dir()
    }

    fn write_map(&self, writer: &mut Writer) -> Result<()> {
        let height = self.state.lock().map.height();
        for level in 0..height {
            let dirty = self.state.lock().map.dirty(level);
            let mut written = Vec::with_capacity(dirty.len());
            for node in dirty {
                written.push((node, self.stage_map_node(writer, node)?));
                if writer.fresh.is_full() || writer.second.is_full() {
                    self.flush(writer)?;
                }
            }
            // Only what is in the file may be referred to: after an error the nodes are still dirty.
            self.flush(writer)?;
            for (node, address) in written {
                self.wrote_map_node(node, address)?;
            }
        }
        Ok(())
    }

    /// Begins: from now on images newer than `cut` stay out of the map. In the turn. Returns how many pages were dirtied
    /// since the last one.
    pub(crate) fn begin_checkpoint(&self, cut: CommitNo) -> u64 {
        let mut state = self.state.lock();
        assert!(state.checkpoint_cut.is_none(), "one checkpoint at a time");
        state.checkpoint_cut = Some(cut);
        state.unattached_at_cut = state
            .unattached
            .iter()
            .flat_map(|(table, ranges)| ranges.iter().map(|(first, n)| (*table, *first, *n)))
            .collect();
        if !state.unattached_at_cut.is_empty() {
            esker_base::mark::WORK_UNATTACHED.hit();
        }
        self.dirtied.swap(0, Ordering::Relaxed)
    }

    /// Ends, whether it succeeded or not: the overlay joins the map. Where that fails the checkpoint has not ended, and this is
    /// to be called again.
    pub(crate) fn end_checkpoint(&self) -> Result<()> {
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.checkpoint_cut.is_none() {
            return Ok(());
        }
        while let Some((page, (address, table))) = state.overlay.pop_first() {
            match self.replace_in_map(state, page, address) {
                Ok(old) => state.table_bytes.replace(table, old, Address::NONE),
                Err(error) => {
                    state.overlay.insert(page, (address, table));
                    return Err(error);
                }
            }
        }
        state.checkpoint_cut = None;
        // What the checkpoint itself wrote pins nothing any more.
        self.written_bytes.store(0, Ordering::Relaxed);
        self.live_bytes.store(state.segments.totals().1, Ordering::Relaxed);
        Ok(())
    }

    /// Removes segments that neither the durable checkpoint, nor the map, nor a kept version refers to.
    pub(crate) fn remove_segments(&self, freeze: u64) -> Result<usize> {
        let writer = self.lock_writer();
        let candidates = self.state.lock().segments.removable(freeze);
        if candidates.is_empty() {
            return Ok(0);
        }
        let kept: BTreeSet<SegmentId> = self
            .versions
            .collect(|_, version| !version.address.is_none())
            .iter()
            .map(|(_, version)| version.address.segment)
            .collect();
        let mut removed = 0;
        for id in candidates {
            if kept.contains(&id) {
                esker_base::mark::VERSION_KEEPS_SEGMENT.hit();
                continue;
            }
            if writer.unsynced.contains(&id) {
                continue;
            }
            self.files.remove(id)?;
            self.state.lock().segments.table.remove(&id);
            removed += 1;
        }
        count(&self.counters.segments_removed, removed as u64);
        Ok(removed)
    }
}

/// What a checkpoint says was handed out is below: then as many are left, and no run comes to their end.
const PAGES_MAX: u64 = PageId::LIMIT / 2;
/// Pages to free at once, at most: a large value has fewer.
const FREED_PAGES_MAX: u32 = 1 << 20;
/// In place of a count: no page of this tree refers to large values.
const LEAD_PAGES: u32 = 2;

fn put_address(out: &mut Vec<u8>, address: Address) {
    put_varint(out, u64::from(address.segment.0));
    put_varint(out, u64::from(address.offset));
    put_varint(out, address.number);
    put_varint(out, u64::from(address.bytes));
}

fn read_address(reader: &mut Reader<'_>) -> Option<Address> {
    Some(Address {
        segment: SegmentId(u32::try_from(reader.varint()?).ok()?),
        offset: u32::try_from(reader.varint()?).ok()?,
        number: reader.varint()?,
        bytes: u16::try_from(reader.varint()?).ok()?,
    })
}

fn encode(state: &State, cut: CommitNo, next_number: u64, engine: &[u8], out: &mut Vec<u8>) {
    put_varint(out, cut.0);
    put_varint(out, next_number);
    put_varint(out, u64::from(state.map.height()));
    for copy in state.map.root().each() {
        put_address(out, copy);
    }
    put_varint(out, state.ids.next);
    put_varint(out, state.ids.free.len() as u64);
    for (first, n) in &state.ids.free {
        put_varint(out, *first);
        put_varint(out, *n);
    }
    let to_free: Vec<[u64; 5]> = state
        .trees
        .iter()
        .filter(|tree| tree.commit <= cut)
        .map(|tree| {
            let table = u64::from(tree.table.0);
            let lead = if tree.lead == Lead::Pages { LEAD_PAGES } else { 1 };
            [tree.commit.0, table, tree.page.0, u64::from(tree.level) + 1, u64::from(lead)]
        })
        .chain(state.freed.iter().filter(|freed| freed.commit <= cut).map(|freed| {
            let table = u64::from(freed.table.0);
            [freed.commit.0, table, freed.first.0, 0, u64::from(freed.count)]
        }))
        .chain(state.unattached_at_cut.iter().map(|(table, first, count)| {
            // The run that builds them ends with a crash, or with a later checkpoint.
            [cut.0, u64::from(table.0), *first, 0, *count]
        }))
        .collect();
    put_varint(out, to_free.len() as u64);
    for field in to_free.into_iter().flatten() {
        put_varint(out, field);
    }
    state.segments.encode(state.overlay.values().map(|(address, _)| *address), out);
    let mut table_bytes = state.table_bytes.clone();
    for (address, table) in state.overlay.values() {
        table_bytes.replace(*table, *address, Address::NONE);
    }
    put_varint(out, table_bytes.0.len() as u64);
    for (table, bytes) in table_bytes.0 {
        put_varint(out, u64::from(table.0));
        put_varint(out, bytes);
    }
    put_prefixed(out, engine);
}

/// Decodes a checkpoint's metadata.
pub(crate) fn decode(payload: &[u8], options: &StoreOptions, name: &str) -> Result<Metadata> {
    try_decode(payload, options)
        .ok_or_else(|| Error::corrupt("checkpoint", name, 0, "its metadata does not decode"))
}

/// True if a page is free twice, or will be: two owners would write to it.
fn has_any_twice(ids: &PageIds, freed: &VecDeque<Freed>, trees: &[FreedTree]) -> bool {
    let to_free = freed.iter().map(|freed| (freed.first.0, u64::from(freed.count)));
    let roots = trees.iter().map(|tree| (tree.page.0, 1));
    let mut ranges: Vec<(u64, u64)> =
        ids.free.iter().copied().chain(to_free).chain(roots).filter(|(_, n)| *n > 0).collect();
    ranges.sort_unstable();
    ranges.windows(2).any(|pair| pair[1].0 - pair[0].0 < pair[0].1)
}

fn try_decode(payload: &[u8], options: &StoreOptions) -> Option<Metadata> {
    let mut reader = Reader::new(payload);
    let commit = CommitNo(reader.varint()?);
    let next_number = reader.varint()?;
    if commit.0 >= COUNT_LIMIT || next_number >= COUNT_LIMIT {
        return None;
    }
    let height = u8::try_from(reader.varint()?).ok().filter(|h| (1..=16).contains(h))?;
    let root = Copies { first: read_address(&mut reader)?, second: read_address(&mut reader)? };
    let mut ids = PageIds { next: reader.varint()?, free: Vec::new() };
    if !(1..PAGES_MAX).contains(&ids.next) {
        return None;
    }
    for _ in 0..reader.varint()? {
        let (first, count) = (reader.varint()?, reader.varint()?);
        ids.free.push(ids.has(first, count).then_some((first, count))?);
    }
    let mut trees = Vec::new();
    let mut freed = VecDeque::new();
    for _ in 0..reader.varint()? {
        let commit = CommitNo(reader.varint()?);
        let table = TableId(u32::try_from(reader.varint()?).ok()?);
        let page = PageId(reader.varint()?);
        let level = u8::try_from(reader.varint()?).ok()?;
        let n = u32::try_from(reader.varint()?).ok()?;
        if !ids.has(page.0, if level == 0 { u64::from(n) } else { 1 }) || n > FREED_PAGES_MAX {
            return None;
        }
        match level {
            0 => freed.push_back(Freed { commit, table, first: page, count: n }),
            level => {
                let lead = if n == LEAD_PAGES { Lead::Pages } else { Lead::Anything };
                trees.push(FreedTree { commit, table, page, level: level - 1, lead });
            }
        }
    }
    if has_any_twice(&ids, &freed, &trees) {
        return None;
    }
    let segments = Segments::decode(&mut reader, options.page_bytes)?;
    let mut table_bytes = TableBytes::default();
    for _ in 0..reader.varint()? {
        let table = TableId(u32::try_from(reader.varint()?).ok()?);
        table_bytes.0.insert(table, reader.varint()?);
    }
    let engine = reader.prefixed()?.to_vec();
    reader.is_empty().then(|| Metadata {
        commit,
        next_number,
        state: State {
            map: Map::open(map_fan(options.page_bytes), height, root),
            overlay: BTreeMap::new(),
            checkpoint_cut: None,
            segments,
            table_bytes,
            ids,
            freed,
            trees,
            unattached: BTreeMap::new(),
            unattached_at_cut: Vec::new(),
        },
        engine,
    })
}

#[cfg(test)]
mod tests {
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
        let options =
            Options::new().page_bytes(1024).memory_bytes(2 << 20).log_file_bytes(256 << 10);
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
}
