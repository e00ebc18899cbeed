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

#[cfg(test)]
mod tests;

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
