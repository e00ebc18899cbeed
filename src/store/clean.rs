//! Space comes back: pages given up are freed, and live images are moved out of segments that are
//! mostly dead.

use super::frame::FrameId;
use super::image::{Address, Codec, ImageHead, kind, segment_name};
use super::map::NodeId;
use super::pages::Session;
use super::segment::Segment;
use super::write_out::Lane;
use super::{Freed, FreedTree, State, Store, Writer, count};
use esker_base::sync::Ordering;
use esker_base::{CommitNo, Error, PageId, Result, SegmentId, TableId};
use esker_index::kind::Lead;
use esker_index::pages::{ChildWord, PageRead, Pages, Stop, View};

/// Cleaning goes on while dead bytes exceed this share of all segment bytes: at rest, when time costs
/// nothing,
pub(crate) const DEAD_PERCENT_REST: u64 = 12;
/// and under writes, when every byte moved competes with them (copying is about u/(1-u) per byte
/// written at utilisation u).
pub(crate) const DEAD_PERCENT_BUSY: u64 = 33;
/// On a full disk, when every byte counts.
pub(crate) const DEAD_PERCENT_FULL: u64 = 3;
/// Dead bytes that are not worth cleaning, in shares of the smallest segment.
const DEAD_SEGMENTS_MIN: u64 = 4;
/// Read at once from a victim.
const READ_BYTES: usize = 1 << 20;

/// Which segment to clean next, if any: the most dead bytes won per live byte copied, older first
/// among equals (ids grow with age). Cost-benefit as in Rosenblum and Ousterhout, "The design and
/// implementation of a log-structured file system", TOCS 1992, §3.6, with rank by id for age.
pub(crate) fn victim<'a>(
    table: impl Iterator<Item = (&'a SegmentId, &'a Segment)>,
    dead_percent_max: u64,
    dead_bytes_min: u64,
) -> Option<SegmentId> {
    let (mut bytes, mut dead) = (0, 0);
    let mut best: Option<(f64, SegmentId)> = None;
    for (age, (id, segment)) in table.enumerate() {
        bytes += segment.bytes;
        let unused = segment.bytes.saturating_sub(segment.live);
        // Segments without live bytes wait for a checkpoint, not for the cleaner.
        if segment.live == 0 || !segment.sealed {
            continue;
        }
        dead += unused;
        #[expect(clippy::cast_precision_loss, reason = "a score")]
        let score = unused as f64 / (segment.live as f64 + 4096.0) / (age as f64 + 8.0);
        if unused > segment.bytes / 20 && best.is_none_or(|(top, _)| score > top) {
            best = Some((score, *id));
        }
    }
    let worth = dead > dead_bytes_min && dead * 100 > bytes * dead_percent_max;
    best.filter(|_| worth).map(|(_, id)| id)
}

/// Adds a page that leads nowhere to what is freed unread: to the last range, if it follows that.
fn add_page(ranges: &mut Vec<super::OverflowRange>, page: PageId) {
    match ranges.last_mut() {
        Some(last) if last.first.0 + u64::from(last.pages) == page.0 => last.pages += 1,
        _ => ranges.push(super::OverflowRange { first: page, pages: 1 }),
    }
}

/// An image to move.
struct Move {
    head: ImageHead,
    old: Address,
    new: Address,
}

impl Store {
    /// Frees what was given up at commits that no cut precedes any more: one bounded step. `oldest` is the
    /// oldest live cut, or the newest published commit, at a moment in the turn. True if there is more to do.
    pub(crate) fn free_some(&self, oldest: CommitNo, limit: usize) -> Result<bool> {
        let mut done = 0;
        while done < limit {
            let (tree, freed) = {
                let mut state = self.state.lock();
                let tree = state.trees.iter().rposition(|tree| tree.commit <= oldest);
                let tree = tree.map(|i| state.trees[i]);
                let freed = match tree {
                    Some(_) => None,
                    None => state
                        .freed
                        .iter()
                        .position(|freed| freed.commit <= oldest)
                        .and_then(|i| state.freed.remove(i)),
                };
                (tree, freed)
            };
            match (tree, freed) {
                (Some(tree), _) => self.free_tree_root(tree)?,
                (None, Some(freed)) => {
                    let _writer = self.lock_writer();
                    for i in 0..u64::from(freed.count) {
                        self.free_page(PageId(freed.first.0 + i), freed.table)?;
                    }
                    self.state.lock().ids.give_back(freed.first, u64::from(freed.count));
                }
                (None, None) => return Ok(false),
            }
            done += 1;
        }
        Ok(true)
    }

    /// Replaces a tree by its children's trees and frees its root page. Children that lead nowhere are not read.
    fn free_tree_root(&self, tree: FreedTree) -> Result<()> {
        let word = ChildWord::new(tree.page, ChildWord::NO_HINT);
        let mut children: Vec<(PageId, Lead)> = Vec::new();
        let mut unread: Vec<super::OverflowRange> = Vec::new();
        loop {
            let missing = {
                let session = Session::new(self, tree.table);
                match session.read(&word, View::Current) {
                    Ok(page) => {
                        let parts = (page.level(), page.words(), page.body());
                        self.logic.leads(tree.table, parts, tree.lead, &mut |child, lead| {
                            children.push((child, lead));
                        });
                        // Neighbouring words may name one child; some say that there is none.
                        children.dedup();
                        children.retain(|(child, _)| *child != PageId::NONE);
                        self.logic.overflow(tree.table, page.level(), page.body(), &mut |range| {
                            unread.push(range);
                        });
                        break;
                    }
                    Err(Stop::Missing(page)) => page,
                    Err(stop) => {
                        return Err(Error::corrupt(
                            "tree",
                            self.disk.label(),
                            0,
                            format!("freeing {:?}: {stop:?}", tree.page),
                        ));
                    }
                }
            };
            self.load(missing, View::Current)?;
        }
        let _writer = self.lock_writer();
        {
            let mut state = self.state.lock();
            // Same entry: only this thread takes trees off, others only add.
            let at = state
                .trees
                .iter()
                .rposition(|other| other.page == tree.page && other.commit == tree.commit);
            state.trees.swap_remove(at.expect("nobody else takes trees off"));
            let level = tree.level.saturating_sub(1);
            let FreedTree { commit, table, .. } = tree;
            for (page, lead) in children {
                if lead == Lead::Nothing {
                    add_page(&mut unread, page);
                } else {
                    state.note_tree(FreedTree { commit, table, page, level, lead });
                }
            }
            for range in unread {
                let (first, count) = (range.first, range.pages);
                state.note_freed(Freed { commit, table, first, count });
            }
        }
        self.free_page(tree.page, tree.table)?;
        self.state.lock().ids.give_back(tree.page, 1);
        Ok(())
    }

    /// Takes a page out of memory and out of the map. The caller holds the writer lock.
    fn free_page(&self, page: PageId, table: TableId) -> Result<()> {
        if let Some(frame) = self.resident.get(page) {
            self.drop_frame(page, frame);
        }
        let mut state = self.state.lock();
        if let Some((old, _)) = state.overlay.remove(&page) {
            state.segments.remove(old)?;
            state.table_bytes.replace(table, old, Address::NONE);
        }
        self.install_in_map(&mut state, page, table, Address::NONE)
    }

    fn drop_frame(&self, page: PageId, frame: FrameId) {
        let header = self.frames.header(frame);
        header.latch_exclusive();
        let ours = header.page_id() == page;
        if ours {
            header.page.store(0, Ordering::Release);
            self.resident.remove(page, frame);
        }
        header.unlatch_exclusive();
        if ours {
            self.frames.retire(frame);
        }
    }

    /// True if more than this share of all segment bytes is dead, the open ones' included.
    pub(crate) fn is_worth_cleaning(&self, dead_percent_max: u64) -> bool {
        let (bytes, dead) = self.cleanable();
        let capacity_min = self.state.lock().segments.capacity_min();
        dead > capacity_min / DEAD_SEGMENTS_MIN && dead * 100 > bytes * dead_percent_max
    }

    /// Bytes of all segments, and dead ones in those that have live ones too: others wait for a checkpoint, or for a cut to
    /// be given up.
    pub(crate) fn cleanable(&self) -> (u64, u64) {
        let state = self.state.lock();
        state.segments.table.values().fold((0, 0), |(bytes, dead), segment| {
            let unused = segment.bytes.saturating_sub(segment.live);
            (bytes + segment.bytes, dead + if segment.live > 0 { unused } else { 0 })
        })
    }

    /// A pass of the cleaner at rest that wins less was in vain.
    pub(crate) fn gain_bytes_min(&self) -> u64 {
        self.state.lock().segments.capacity_min() / DEAD_SEGMENTS_MIN / 16
    }

    /// Ends the open segments, so that the cleaner may take them.
    pub(crate) fn seal_streams(&self) -> Result<()> {
        let mut writer = self.lock_writer();
        self.flush(&mut writer)?;
        writer.fresh.seal(&self.state)?;
        writer.moved.seal(&self.state)?;
        writer.second.seal(&self.state)
    }

    /// Moves the live images out of one segment, if the policy finds one worth it, and leaves all free that the checkpoint may write
    /// which lets go of it: one that could not end would leave nothing to go on with. Not while a checkpoint runs. Returns bytes moved, or
    /// `None` if there was nothing to do.
    pub(crate) fn clean_one(&self, dead_percent_max: u64) -> Result<Option<u64>> {
        let mut writer = self.lock_writer();
        let writer = &mut *writer;
        let free_bytes = self.disk.free_bytes()?;
        let (id, segment) = {
            let state = self.state.lock();
            if state.checkpoint_cut.is_some() {
                return Ok(None);
            }
            let capacity_min = state.segments.capacity_min();
            let checkpoint_bytes = state.map_bytes(self.options.page_bytes) + capacity_min / 16;
            let dead_bytes_min = match dead_percent_max {
                DEAD_PERCENT_FULL => 0,
                _ => capacity_min / DEAD_SEGMENTS_MIN,
            };
            let fits = |segment: &Segment| segment.live + checkpoint_bytes <= free_bytes;
            let table = &state.segments.table;
            let Some(mut id) = victim(table.iter(), dead_percent_max, dead_bytes_min) else {
                return Ok(None);
            };
            if !fits(&table[&id]) {
                let fitting = table.iter().filter(|(_, segment)| fits(segment));
                id = victim(fitting, dead_percent_max, dead_bytes_min)
                    .ok_or_else(|| Error::NoSpace { op: "clean", file: segment_name(id) })?;
            }
            (id, table[&id])
        };
        let moved = self.clean(writer, id, segment).inspect_err(|_| self.abandon(writer))?;
        count(&self.counters.cleaned_segments, 1);
        count(&self.counters.cleaned_bytes, moved);
        Ok(Some(moved))
    }

    fn clean(&self, writer: &mut Writer, id: SegmentId, segment: Segment) -> Result<u64> {
        let file = self.files.get(id)?;
        let mut moves: Vec<Move> = Vec::new();
        let mut moved = 0;
        let mut at = 0u64;
        let mut chunk: Vec<u8> = Vec::new();
        let mut chunk_at = 0u64;
        while at < segment.bytes {
            // Refill when what is left may not hold a whole image.
            let inside = usize::try_from(at - chunk_at).expect("inside the chunk");
            if chunk.len() - inside.min(chunk.len()) < usize::from(u16::MAX)
                && chunk_at + (chunk.len() as u64) < segment.bytes
            {
                let n = (segment.bytes - at).min(READ_BYTES as u64);
                chunk.resize(usize::try_from(n).expect("at most a chunk"), 0);
                file.read_at(at, &mut chunk)?;
                chunk_at = at;
            }
            let rest = &chunk[usize::try_from(at - chunk_at).expect("inside the chunk")..];
            let Some(bytes) = Codec::stored_bytes(rest).filter(|n| *n <= rest.len()) else {
                // Padding up to the next boundary; or damage, after which the next image that
                // begins at a boundary is found again, and what is lost stays live in this segment.
                at = (at / 4096 + 1) * 4096;
                continue;
            };
            let image = &rest[..bytes];
            let Ok(head) = writer.codec.open(image) else {
                at = (at / 4096 + 1) * 4096;
                continue;
            };
            let old = Address {
                segment: id,
                offset: u32::try_from(at).expect("segments are below 4 GiB"),
                number: head.number,
                bytes: u16::try_from(bytes).expect("images are below 64 KiB"),
            };
            if self.is_live(&mut self.state.lock(), &head, old)? {
                writer.image.clear();
                writer.image.extend_from_slice(image);
                let lane = self.lane_of_move(&head, old)?;
                let new = self.append(writer, head.number, lane)?;
                moves.push(Move { head, old, new });
                moved += bytes as u64;
                if writer.moved.is_full() || writer.second.is_full() {
                    self.finish_moves(writer, &mut moves)?;
                }
            }
            at += bytes as u64;
        }
        if moved > 0 && self.versions.count() > 0 {
            esker_base::mark::CLEANED_UNDER_CUT.hit();
        }
        self.finish_moves(writer, &mut moves)?;
        let mut state = self.state.lock();
        if state.segments.table.get(&id).is_some_and(|segment| segment.live > 0) {
            // Damage: what could not be read stays, and the segment is not chosen again.
            if let Some(segment) = state.segments.table.get_mut(&id) {
                segment.bytes = segment.live;
            }
        }
        Ok(moved)
    }

    /// True if the map says that this image is the newest of its page.
    fn is_live(&self, state: &mut State, head: &ImageHead, at: Address) -> Result<bool> {
        let load = &mut |node, address| self.load_map_node(node, address);
        if head.kind == kind::MAP {
            let node = NodeId::of_page(head.page);
            return Ok(state.map.copies(node, load)?.each().contains(&at));
        }
        Ok(state.map.get(head.page, load)? == at)
    }

    /// Where to move an image: the two of a map node stay apart.
    fn lane_of_move(&self, head: &ImageHead, at: Address) -> Result<Lane> {
        if head.kind != kind::MAP {
            return Ok(Lane::Moved);
        }
        let load = &mut |node, address| self.load_map_node(node, address);
        let copies = self.state.lock().map.copies(NodeId::of_page(head.page), load)?;
        Ok(if copies.second == at { Lane::Second } else { Lane::Moved })
    }

    fn finish_moves(&self, writer: &mut Writer, moves: &mut Vec<Move>) -> Result<()> {
        self.flush(writer)?;
        for Move { head, old, new } in moves.drain(..) {
            let mut state = self.state.lock();
            if !self.is_live(&mut state, &head, old)? {
                continue;
            }
            if head.kind == kind::MAP {
                let load = &mut |node, address| self.load_map_node(node, address);
                let node = NodeId::of_page(head.page);
                if state.map.moved(node, old, new, load)? {
                    state.segments.add(new);
                    state.segments.remove(old)?;
                }
                continue;
            }
            self.install_in_map(&mut state, head.page, head.table, new)?;
            drop(state);
            if let Some(frame) = self.resident.get(head.page) {
                let header = self.frames.header(frame);
                header.latch_shared();
                if header.page_id() == head.page && header.address() == old {
                    header.set_address(new);
                }
                header.unlatch_shared();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::StoreOptions;
    use super::*;
    use std::collections::BTreeMap;

    fn table(rows: &[(u32, u64, u64)]) -> BTreeMap<SegmentId, Segment> {
        rows.iter()
            .map(|&(id, bytes, live)| {
                (SegmentId(id), Segment { bytes, live, sealed: true, emptied: None })
            })
            .collect()
    }

    /// A fuzzer put it into a checkpoint, under a good checksum: four billion pages to be freed, one by one.
    #[test]
    fn what_was_never_handed_out_is_not_freed() {
        let options = StoreOptions { page_bytes: 1024, frames: 64, map_nodes: 4, compress: false };
        let mut state = Store::empty_state(&options);
        assert_eq!(state.ids.allocate(9), PageId(1));
        let (commit, table) = (CommitNo(1), TableId(1));
        for (first, count) in [(0, 1), (1, u32::MAX), (9, 2), (10, 1), (u64::MAX, 1)] {
            state.note_freed(Freed { commit, table, first: PageId(first), count });
            state.ids.give_back(PageId(first), u64::from(count));
        }
        for page in [0, 10, 1 << 40, u64::MAX] {
            let (page, lead) = (PageId(page), Lead::Anything);
            state.note_tree(FreedTree { commit, table, page, level: 1, lead });
        }
        assert!(state.freed.is_empty() && state.trees.is_empty() && state.ids.free.is_empty());
        state.note_freed(Freed { commit, table, first: PageId(1), count: 9 });
        let (page, lead) = (PageId(9), Lead::Anything);
        state.note_tree(FreedTree { commit, table, page, level: 1, lead });
        state.ids.give_back(PageId(9), 1);
        let found = (state.freed.len(), state.trees.len(), state.ids.free.len());
        assert_eq!(found, (1, 1, 1));
    }

    #[test]
    fn the_deadest_segment_is_cleaned_and_full_ones_are_left_alone() {
        let mib = 1 << 20;
        assert_eq!(victim(table(&[(1, mib, mib), (2, mib, mib)]).iter(), 12, mib / 4), None);
        let mixed = table(&[(1, mib, mib), (2, mib, mib / 2), (3, mib, mib / 10)]);
        assert_eq!(victim(mixed.iter(), 12, mib / 4), Some(SegmentId(3)));
        let empty = table(&[(1, mib, 0), (2, mib, mib)]);
        assert_eq!(victim(empty.iter(), 12, mib / 4), None, "empty segments wait for a checkpoint");
    }
}
