//! Writing dirty pages to segments.
//!
//! A page is copied into a stream's buffer under its shared latch and marked clean and *writing*; when
//! the buffer is in the file, the map learns the new address and the mark goes. A page that changes
//! meanwhile is dirty again and will be written again. All of it happens under the `writer` lock, so
//! there is never more than one copy of a page under way.

use super::frame::{DIRTY, FrameId, PINNED, REFERENCED, WRITING};
use super::image::{Address, Form, ImageHead, kind};
use super::map::{Copies, NodeId};
use super::versions::Version;
use super::{State, Store, Writer, count};
use esker_base::sync::{MutexGuard, Ordering};
use esker_base::{CommitNo, PageId, Result, TableId};
use esker_index::pages::ChildWord;

/// Which stream an image goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    /// What was changed.
    Fresh,
    /// What the cleaner moves.
    Moved,
    /// The second images of map nodes.
    Second,
}

/// A page whose image is in a buffer but not yet in the file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pending {
    /// The page as it stood in its frame.
    Page { frame: FrameId, page: PageId, table: TableId, changed_at: CommitNo, address: Address },
    /// A kept version; `into_map` if the running checkpoint's cut sees it.
    Version { page: PageId, table: TableId, changed_at: CommitNo, address: Address, into_map: bool },
}

impl Store {
    /// Copies a dirty page into the stream. False if there is nothing to write (any more).
    #[allow(unsafe_code, reason = "reads a page body under its latch")]
    pub(crate) fn stage(&self, writer: &mut Writer, frame: FrameId) -> Result<bool> {
        let header = self.frames.header(frame);
        header.latch_shared();
        let page = header.page_id();
        let state = header.state.load(Ordering::Acquire);
        if page == PageId::NONE || state & DIRTY == 0 || state & (WRITING | PINNED) != 0 {
            header.unlatch_shared();
            return Ok(false);
        }
        let changed_at = header.commit();
        header.set(WRITING);
        header.clear(DIRTY);
        // SAFETY: the shared latch is held.
        let body = unsafe { self.frames.body(frame) };
        let number = self.encode(writer, frame, page, body);
        // Before the latch goes: then the page may be replaced, and the frame be another table's.
        let table = self.table_of(frame);
        header.unlatch_shared();
        match self.append(writer, number, Lane::Fresh) {
            Ok(address) => {
                writer.pending.push(Pending::Page { frame, page, table, changed_at, address });
                Ok(true)
            }
            Err(error) => {
                header.set(DIRTY);
                header.clear(WRITING);
                Err(error)
            }
        }
    }

    /// Encodes a page into `writer.image`; returns the image's number.
    fn encode(&self, writer: &mut Writer, frame: FrameId, page: PageId, body: &[u8]) -> u64 {
        let header = self.frames.header(frame);
        let number = writer.next_number;
        writer.next_number += 1;
        let head = ImageHead {
            page,
            table: self.table_of(frame),
            number,
            changed_at: header.commit(),
            level: header.level.load(Ordering::Relaxed),
            kind: header.kind.load(Ordering::Relaxed),
            words: header.words.load(Ordering::Relaxed),
        };
        let form = match head.kind {
            kind::INDEX => self.logic.form(head.table, head.level, body),
            _ => Form::Body { hole: body.len()..body.len() },
        };
        let words = self.frames.words(frame).iter().map(|w| ChildWord::without_hint(w.load()));
        writer.image.clear();
        let compress = self.options.compress;
        let (is_leaf, table) = (head.kind == kind::INDEX && head.level == 0, head.table);
        writer.codec.encode(head, words, body, &form, compress, &mut writer.image);
        if is_leaf {
            self.packings.of(table).note(writer.codec.content_bytes(), writer.image.len());
        }
        number
    }

    /// Appends `writer.image` to a stream.
    pub(crate) fn append(&self, writer: &mut Writer, number: u64, lane: Lane) -> Result<Address> {
        let stream = match lane {
            Lane::Fresh => &mut writer.fresh,
            Lane::Moved => &mut writer.moved,
            Lane::Second => &mut writer.second,
        };
        let result =
            stream.append(&writer.image, number, &self.files, &self.state, &mut writer.unsynced);
        count(&self.written_bytes, writer.image.len() as u64);
        count(&self.counters.pages_written, 1);
        count(&self.counters.image_bytes_written, writer.image.len() as u64);
        result
    }

    /// Copies a kept version into the stream.
    #[allow(unsafe_code, reason = "reads an immutable page body under a pin")]
    pub(crate) fn stage_version(
        &self,
        writer: &mut Writer,
        page: PageId,
        version: &Version,
        into_map: bool,
    ) -> Result<bool> {
        let _pin = self.frames.epochs().pin();
        // Under the pin, look again: the version may be gone, and its frame with it.
        let Some(frame) = self.versions.update(page, version.changed_at, |v| v.frame).flatten()
        else {
            return Ok(false);
        };
        // SAFETY: versions are immutable, and the frame is not reused under the pin.
        let body = unsafe { self.frames.body(frame) };
        if into_map {
            esker_base::mark::VERSION_CHECKPOINTED.hit();
        }
        let number = self.encode(writer, frame, page, body);
        let address = self.append(writer, number, Lane::Fresh)?;
        let changed_at = version.changed_at;
        let table = self.table_of(frame);
        writer.pending.push(Pending::Version { page, table, changed_at, address, into_map });
        Ok(true)
    }

    /// Writes the buffers and lets the map know. On an error every page of it is dirty again.
    pub(crate) fn flush(&self, writer: &mut Writer) -> Result<()> {
        self.try_flush(writer).inspect_err(|_| self.abandon(writer))
    }

    fn try_flush(&self, writer: &mut Writer) -> Result<()> {
        let streams = [&mut writer.fresh, &mut writer.moved, &mut writer.second];
        streams.into_iter().try_for_each(|stream| stream.flush(&self.state))?;
        if writer.pending.is_empty() {
            return Ok(());
        }
        self.install_all(&writer.pending)?;
        for item in &writer.pending {
            match *item {
                Pending::Page { frame, page, address, .. } => self.wrote(frame, page, address),
                Pending::Version { page, changed_at, address, .. } => {
                    self.versions.update(page, changed_at, |v| v.address = address);
                }
            }
        }
        writer.pending.clear();
        Ok(())
    }

    /// Lets the map know. On an error it knows of some of them: they are there, and are written once more.
    fn install_all(&self, pending: &[Pending]) -> Result<()> {
        let mut state = self.state.lock();
        for item in pending {
            match *item {
                Pending::Page { page, table, changed_at, address, .. } => {
                    self.install(&mut state, page, table, address, changed_at)?;
                }
                Pending::Version { page, table, address, into_map: true, .. } => {
                    self.install_in_map(&mut state, page, table, address)?;
                }
                Pending::Version { .. } => {}
            }
        }
        Ok(())
    }

    /// A page's image is in the file.
    fn wrote(&self, frame: FrameId, page: PageId, address: Address) {
        let header = self.frames.header(frame);
        header.latch_shared();
        // The frame may have been given up and hold another page by now.
        if header.page_id() == page {
            header.set_address(address);
            header.clear(WRITING);
        }
        let is_clean = header.page_id() == page && !header.has(DIRTY);
        header.unlatch_shared();
        if is_clean {
            self.note_clean(frame);
        }
    }

    /// Gives up what is in the buffers: the pages are dirty again.
    pub(crate) fn abandon(&self, writer: &mut Writer) {
        for item in writer.pending.drain(..) {
            esker_base::mark::PAGES_ABANDONED.hit();
            if let Pending::Page { frame, page, .. } = item {
                let header = self.frames.header(frame);
                header.latch_shared();
                if header.page_id() == page {
                    header.set(DIRTY);
                    header.clear(WRITING);
                }
                header.unlatch_shared();
            }
        }
    }

    /// The newest image of a page, whose content is of commit `changed_at`, lies at `address`.
    fn install(
        &self,
        state: &mut State,
        page: PageId,
        table: TableId,
        address: Address,
        changed_at: CommitNo,
    ) -> Result<()> {
        if state.checkpoint_cut.is_some_and(|cut| changed_at > cut) {
            esker_base::mark::MAP_OVERLAY.hit();
            state.segments.add(address);
            let old = state.overlay.insert(page, (address, table));
            let old = old.map_or(Address::NONE, |(old, _)| old);
            state.segments.remove(old)?;
            state.table_bytes.replace(table, old, address);
            return Ok(());
        }
        self.install_in_map(state, page, table, address)
    }

    pub(crate) fn install_in_map(
        &self,
        state: &mut State,
        page: PageId,
        table: TableId,
        address: Address,
    ) -> Result<()> {
        let old = self.replace_in_map(state, page, address)?;
        if !address.is_none() {
            state.segments.add(address);
        }
        state.table_bytes.replace(table, old, address);
        Ok(())
    }

    /// Names another image in the map, and gives up the one named so far. On an error nothing has changed.
    pub(crate) fn replace_in_map(
        &self,
        state: &mut State,
        page: PageId,
        address: Address,
    ) -> Result<Address> {
        let load = &mut |node, at| self.load_map_node(node, at);
        let old = state.map.set(page, address, load)?;
        if let Err(error) = state.segments.remove(old) {
            state.map.set(page, old, load)?;
            return Err(error);
        }
        Ok(old)
    }

    /// The table that a frame's page belongs to.
    fn table_of(&self, frame: FrameId) -> TableId {
        TableId(self.frames.header(frame).table.load(Ordering::Relaxed))
    }

    /// Writes up to `want` dirty pages that were not used lately, then older ones, and returns how many.
    pub(crate) fn write_back(&self, writer: &mut Writer, want: usize) -> Result<usize> {
        let mut written = 0;
        let count = self.frames.end();
        for step in 0..u64::from(count) * 2 {
            if written >= want {
                break;
            }
            writer.hand = (writer.hand + 1) % count;
            let header = self.frames.header(writer.hand);
            let state = header.state.load(Ordering::Relaxed);
            if state & DIRTY == 0 || header.page.load(Ordering::Relaxed) == 0 {
                continue;
            }
            // First round: leave alone what was used since the hand came by.
            if step < u64::from(count) && state & REFERENCED != 0 {
                header.clear(REFERENCED);
                continue;
            }
            written += usize::from(self.stage_or_abandon(writer, None)?);
            if writer.fresh.is_full() {
                self.flush(writer)?;
            }
        }
        self.flush(writer)?;
        Ok(written)
    }

    /// Writes pages that were built one after the other, in that order: whoever reads them in order later
    /// reads long stretches. Those that were written or given up meanwhile are passed over.
    pub(crate) fn write_built(&self, built: &mut Vec<FrameId>) -> Result<()> {
        let mut writer = self.lock_writer();
        for frame in built.drain(..) {
            self.stage_or_abandon(&mut writer, Some(frame))?;
            if writer.fresh.is_full() {
                self.flush(&mut writer)?;
            }
        }
        self.flush(&mut writer)
    }

    /// Stages the page at the hand (or in `frame`); on an error gives up the whole buffer.
    pub(crate) fn stage_or_abandon(
        &self,
        writer: &mut Writer,
        frame: Option<FrameId>,
    ) -> Result<bool> {
        let frame = frame.unwrap_or(writer.hand);
        self.stage(writer, frame).inspect_err(|_| self.abandon(writer))
    }

    /// Writes versions out until at most `keep` occupy frames.
    pub(crate) fn spill_versions(&self, writer: &mut Writer, keep: usize) -> Result<()> {
        let mut excess = self.versions.in_frames().saturating_sub(keep);
        if excess == 0 {
            return Ok(());
        }
        let candidates = self.versions.collect(|_, version| version.frame.is_some());
        for (page, version) in &candidates {
            if excess == 0 {
                break;
            }
            if version.address.is_none() {
                self.stage_version(writer, *page, version, false)
                    .inspect_err(|_| self.abandon(writer))?;
                if writer.fresh.is_full() {
                    self.flush(writer)?;
                }
            }
            excess -= 1;
        }
        self.flush(writer)?;
        let mut excess = self.versions.in_frames().saturating_sub(keep);
        for (page, version) in &candidates {
            if excess == 0 {
                break;
            }
            let frame = self
                .versions
                .update(*page, version.changed_at, |v| {
                    if v.address.is_none() { None } else { v.frame.take() }
                })
                .flatten();
            if let Some(frame) = frame {
                esker_base::mark::VERSION_SPILLED.hit();
                self.frames.retire(frame);
                excess -= 1;
            }
        }
        Ok(())
    }

    /// Copies a map node into the streams, twice.
    pub(crate) fn stage_map_node(&self, writer: &mut Writer, node: NodeId) -> Result<Copies> {
        let first = self.stage_map_copy(writer, node, Lane::Fresh)?;
        let second = self.stage_map_copy(writer, node, Lane::Second)?;
        Ok(Copies { first, second })
    }

    fn stage_map_copy(&self, writer: &mut Writer, node: NodeId, lane: Lane) -> Result<Address> {
        let number = writer.next_number;
        writer.next_number += 1;
        let state = self.state.lock();
        let entries = state.map.entries(node);
        let head = ImageHead {
            page: node.page(),
            table: TableId(0),
            number,
            changed_at: CommitNo(0),
            level: node.level,
            kind: kind::MAP,
            words: u16::try_from(entries.len() * 2).expect("map nodes are pages"),
        };
        writer.image.clear();
        let words = entries.iter().flat_map(|address| address.pack());
        let compress = self.options.compress;
        writer.codec.encode(
            head,
            words,
            &[],
            &Form::Body { hole: 0..0 },
            compress,
            &mut writer.image,
        );
        drop(state);
        self.append(writer, number, lane)
    }

    /// A map node's images are in their files.
    pub(crate) fn wrote_map_node(&self, node: NodeId, copies: Copies) -> Result<()> {
        let mut state = self.state.lock();
        let old = state.map.written(node, copies, &mut |node, at| self.load_map_node(node, at))?;
        for (new, old) in copies.each().into_iter().zip(old.each()) {
            state.segments.add(new);
            state.segments.remove(old)?;
            state.table_bytes.replace(TableId(0), old, new);
        }
        Ok(())
    }

    /// The writer lock.
    pub(crate) fn lock_writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock()
    }
}
