//! The page store: pages by id, in frames while they are used, as images in segments for good.
//!
//! | module | |
//! |---|---|
//! | `epoch` | when memory that readers may still look at can be used again |
//! | `frame` | the arena's frames, their headers and latches (the only unsafe code) |
//! | `free` | which frames may be taken |
//! | `share`, `give_back` | how much memory is better left to the system's cache; giving it back |
//! | `pages` | what an index sees: [`pages::Session`] to read, [`pages::TurnSession`] to write |
//! | `versions` | old versions kept for cuts |
//! | `load` | bringing pages in, and making room for them |
//! | `write_out` | writing dirty pages to segments |
//! | `image`, `segment`, `map` | the formats and tables of what is on disk |
//! | `checkpoint`, `superblock` | a cut written out |
//! | `disk_reserve` | space kept for a full disk |
//! | `clean` | moving live images out of mostly dead segments; freeing pages |
//!
//! Locks, in order: `writer`, `state`, then shards of `resident` and `versions`. Whoever holds
//! `writer` never waits for the commit turn. Latches of leaves come before all of them.

pub(crate) mod checkpoint;
pub(crate) mod clean;
pub(crate) mod disk_reserve;
pub(crate) mod epoch;
mod evict;
pub(crate) mod frame;
mod free;
pub(crate) mod give_back;
pub(crate) mod image;
mod latch;
pub(crate) mod load;
pub(crate) mod map;
pub(crate) mod packing;
pub(crate) mod pages;
pub(crate) mod segment;
mod share;
pub(crate) mod superblock;
pub(crate) mod versions;
pub(crate) mod write_out;

use esker_base::sync::{Arc, AtomicU64, Mutex, Ordering};
use esker_base::{CommitNo, DatabaseId, Error, PageId, Result, SegmentId, TableId};
use esker_index::kind::Lead;
use esker_index::pages::ChildWord;
use esker_io::Disk;
use frame::{FrameId, Frames};
use image::{Address, Codec, Form};
use map::Map;
use segment::{Files, Segments, Stream};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use versions::Versions;

/// What the store must know of the pages of an index, and cannot: their bodies are opaque to it.
pub(crate) trait PageLogic: Send + Sync + std::fmt::Debug {
    /// Checks a page that came from disk, so that the index may rely on it.
    fn check(&self, table: TableId, level: u8, words: usize, body: &[u8]) -> Result<(), String>;
    /// How a page is written.
    fn form(&self, table: TableId, level: u8, body: &[u8]) -> Form;
    /// Calls `visit` with every page that a page (its level, words and body) refers to, and with what is below that; `lead` is
    /// what is below the page itself.
    fn leads(
        &self,
        table: TableId,
        page: (u8, &[ChildWord], &[u8]),
        lead: Lead,
        visit: &mut dyn FnMut(PageId, Lead),
    );
    /// Calls `visit` with every overflow value that a page refers to.
    fn overflow(
        &self,
        table: TableId,
        level: u8,
        body: &[u8],
        visit: &mut dyn FnMut(OverflowRange),
    );
}

/// The pages of a value too large for its leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OverflowRange {
    pub(crate) first: PageId,
    pub(crate) pages: u32,
}

/// Pages given up at a commit, to be freed when no cut sees them any more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Freed {
    pub(crate) commit: CommitNo,
    pub(crate) table: TableId,
    pub(crate) first: PageId,
    pub(crate) count: u32,
}

/// A subtree given up at a commit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FreedTree {
    pub(crate) commit: CommitNo,
    pub(crate) table: TableId,
    pub(crate) page: PageId,
    pub(crate) level: u8,
    /// What is below its root. Never [`Lead::Nothing`].
    pub(crate) lead: Lead,
}

/// Sizes and limits, fixed at open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StoreOptions {
    /// Bytes of a frame.
    pub(crate) page_bytes: usize,
    /// Number of frames.
    pub(crate) frames: u32,
    /// Map nodes kept in memory when clean.
    pub(crate) map_nodes: usize,
    /// lz4 for page images.
    pub(crate) compress: bool,
}

/// What is on disk and where; guarded by `Store::state`.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) map: Map,
    /// While a checkpoint runs: images newer than its cut.
    pub(crate) overlay: BTreeMap<PageId, (Address, TableId)>,
    /// The cut of the running checkpoint.
    pub(crate) checkpoint_cut: Option<CommitNo>,
    pub(crate) segments: Segments,
    /// Bytes of images by table; table 0 is the map.
    pub(crate) table_bytes: TableBytes,
    pub(crate) ids: PageIds,
    pub(crate) freed: VecDeque<Freed>,
    pub(crate) trees: Vec<FreedTree>,
    /// Page ids handed out for pages that background work builds and nothing refers to yet: (first,
    /// count), by table.
    pub(crate) unattached: BTreeMap<TableId, Vec<(u64, u64)>>,
    /// Those, as of the cut of the running checkpoint: a recovery from it gives them back.
    pub(crate) unattached_at_cut: Vec<(TableId, u64, u64)>,
}

impl State {
    /// These pages are to be freed. What a page under a good checksum may say, and cannot be, is not: pages that were never handed
    /// out.
    pub(crate) fn note_freed(&mut self, freed: Freed) {
        if self.ids.has(freed.first.0, u64::from(freed.count)) {
            self.freed.push_back(freed);
        }
    }
    /// As [`Self::note_freed`], of a tree.
    pub(crate) fn note_tree(&mut self, tree: FreedTree) {
        if self.ids.has(tree.page.0, 1) {
            self.trees.push(tree);
        }
    }
    /// Bytes of all nodes of the map, in both images, and a few more: no checkpoint writes more of them. One that follows changes of
    /// pages in no order writes them all.
    pub(crate) fn map_bytes(&self, page_bytes: usize) -> u64 {
        let bytes = self.table_bytes.of(TableId(0));
        bytes + bytes / 8 + 4 * page_bytes as u64
    }
}

/// Bytes of live images, by table.
#[derive(Clone, Debug, Default)]
pub(crate) struct TableBytes(pub(crate) BTreeMap<TableId, u64>);

impl TableBytes {
    /// One image of a table takes the place of another; either may be none.
    pub(crate) fn replace(&mut self, table: TableId, old: Address, new: Address) {
        let bytes = self.0.entry(table).or_insert(0);
        *bytes = bytes.saturating_add(u64::from(new.bytes)).saturating_sub(u64::from(old.bytes));
        if *bytes == 0 {
            self.0.remove(&table);
        }
    }
    pub(crate) fn of(&self, table: TableId) -> u64 {
        self.0.get(&table).copied().unwrap_or(0)
    }
}

/// Page ids to hand out.
#[derive(Clone, Debug)]
pub(crate) struct PageIds {
    pub(crate) next: u64,
    /// (first, count), last in first out.
    pub(crate) free: Vec<(u64, u64)>,
}

/// Ranges of free page ids kept; what comes beyond is given up (ids, not space).
const FREE_RANGES_MAX: usize = 1 << 16;

impl PageIds {
    pub(crate) fn new() -> Self {
        Self { next: 1, free: Vec::new() }
    }
    /// True if all of these were handed out once.
    pub(crate) fn has(&self, first: u64, count: u64) -> bool {
        first > PageId::NONE.0 && first.checked_add(count).is_some_and(|end| end <= self.next)
    }
    /// A range of `count` ids.
    pub(crate) fn allocate(&mut self, count: u64) -> PageId {
        let recent = self.free.len().saturating_sub(64);
        let fit = self.free[recent..].iter().rposition(|(_, n)| *n >= count);
        if let Some(i) = fit.map(|i| i + recent) {
            let (first, n) = self.free[i];
            if n == count {
                self.free.remove(i);
            } else {
                self.free[i] = (first + count, n - count);
            }
            return PageId(first);
        }
        let first = self.next;
        self.next += count;
        assert!(self.next < PageId::LIMIT, "2^40 pages are petabytes");
        PageId(first)
    }
    /// A range of at most `count` ids, for pages that are built one after the other: the longest of those given back lately, if it is
    /// worth it. Else the map grew with every piece of work, whose pages are given back in shorter ranges than it takes.
    pub(crate) fn allocate_some(&mut self, count: u64) -> (u64, u64) {
        /// Of a shorter range there would be too many.
        const WORTH: u64 = 8;
        let recent = self.free.len().saturating_sub(64);
        let longest = self.free[recent..].iter().map(|(_, n)| *n).max().unwrap_or(0);
        let count = if longest < WORTH { count } else { longest.min(count) };
        (self.allocate(count).0, count)
    }
    /// Those that were never handed out, whatever signed it that they were, are nobody's to give back.
    pub(crate) fn give_back(&mut self, first: PageId, count: u64) {
        if !self.has(first.0, count) {
            return;
        }
        if let Some((start, n)) = self.free.last_mut() {
            if *start + *n == first.0 {
                *n += count;
                return;
            }
            if first.0 + count == *start {
                *start = first.0;
                *n += count;
                return;
            }
        }
        if self.free.len() < FREE_RANGES_MAX {
            self.free.push((first.0, count));
        }
    }
}

/// Everything that writes to segments; guarded by `Store::writer`.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) codec: Codec,
    /// Pages written back, and pages moved by the cleaner.
    pub(crate) fresh: Stream,
    pub(crate) moved: Stream,
    /// Second images of map nodes: apart from the first.
    pub(crate) second: Stream,
    pub(crate) next_number: u64,
    pub(crate) unsynced: BTreeSet<SegmentId>,
    pub(crate) pending: Vec<write_out::Pending>,
    pub(crate) image: Vec<u8>,
    /// Where write-back goes on.
    pub(crate) hand: u32,
}

/// A fast hasher for page ids: they are handed out in order, so multiplying spreads them.
#[derive(Default)]
pub(crate) struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = (self.0 ^ n).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23);
    }
}

type Shard = Mutex<HashMap<u64, FrameId, BuildHasherDefault<PageHasher>>>;

/// Which frame holds which page.
#[derive(Debug)]
pub(crate) struct Resident {
    shards: Vec<Shard>,
}

impl Resident {
    fn new() -> Self {
        Self { shards: (0..64).map(|_| Mutex::default()).collect() }
    }
    #[expect(clippy::cast_possible_truncation, reason = "taken modulo the shards")]
    pub(crate) fn shard(&self, page: PageId) -> &Shard {
        &self.shards[page.0 as usize % self.shards.len()]
    }
    pub(crate) fn get(&self, page: PageId) -> Option<FrameId> {
        self.shard(page).lock().get(&page.0).copied()
    }
    pub(crate) fn insert(&self, page: PageId, frame: FrameId) {
        self.shard(page).lock().insert(page.0, frame);
    }
    /// Removes the entry if it still names `frame`.
    pub(crate) fn remove(&self, page: PageId, frame: FrameId) {
        let mut shard = self.shard(page).lock();
        if shard.get(&page.0) == Some(&frame) {
            shard.remove(&page.0);
        }
    }
}

/// Counters of the store; each only ever grows.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) page_reads: AtomicU64,
    pub(crate) page_read_bytes: AtomicU64,
    pub(crate) pages_written: AtomicU64,
    pub(crate) image_bytes_written: AtomicU64,
    pub(crate) evictions: AtomicU64,
    pub(crate) versions_kept: AtomicU64,
    pub(crate) frame_stalls: Stalls,
    pub(crate) checkpoints: AtomicU64,
    pub(crate) checkpoint_ns: AtomicU64,
    pub(crate) cleaned_segments: AtomicU64,
    pub(crate) cleaned_bytes: AtomicU64,
    pub(crate) segments_removed: AtomicU64,
    pub(crate) turn_pages_max: AtomicU64,
}

/// How often somebody waited for one reason, and for how long at most.
#[derive(Debug, Default)]
pub(crate) struct Stalls {
    pub(crate) count: AtomicU64,
    pub(crate) ns_max: AtomicU64,
}

impl Stalls {
    /// Counts a wait, and measures it.
    pub(crate) fn during<R>(&self, disk: &dyn Disk, wait: impl FnOnce() -> R) -> R {
        count(&self.count, 1);
        let began = disk.now();
        let result = wait();
        let waited = disk.now().saturating_sub(began).as_nanos();
        self.ns_max.fetch_max(u64::try_from(waited).unwrap_or(u64::MAX), Ordering::Relaxed);
        result
    }
}

/// Adds to a counter.
pub(crate) fn count(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// As [`count`], for one that is added to in the turn only: without a locked instruction, which would wait for all stores
/// before it.
#[inline]
pub(crate) fn count_in_turn(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed) + n, Ordering::Relaxed);
}

/// The store.
#[derive(Debug)]
pub(crate) struct Store {
    // Fixed after open.
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) database: DatabaseId,
    pub(crate) options: StoreOptions,
    pub(crate) logic: Arc<dyn PageLogic>,
    // Provide their own synchronisation.
    pub(crate) frames: Frames,
    pub(crate) resident: Resident,
    pub(crate) versions: Versions,
    pub(crate) files: Files,
    pub(crate) counters: Counters,
    /// How leaves compress.
    pub(crate) packings: packing::Packings,
    // See the module's docs for their order.
    pub(crate) writer: Mutex<Writer>,
    pub(crate) state: Mutex<State>,
    /// Frames that hold a clean page: the hands of the clock go over these only. Innermost.
    pub(crate) clean: evict::Clean,
    // Atomic.
    /// The newest commit that readers may see.
    pub(crate) published: AtomicU64,
    /// Pages dirtied since the last checkpoint, about.
    pub(crate) dirtied: AtomicU64,
    /// Bytes of images written since the last checkpoint ended: about what it pins.
    pub(crate) written_bytes: AtomicU64,
    /// Bytes of live images at the last checkpoint.
    pub(crate) live_bytes: AtomicU64,
    pub(crate) disk_reserve: disk_reserve::DiskReserve,
    pub(crate) sharing: give_back::Sharing,
}

impl Store {
    /// A store over what `state` says is on disk.
    pub(crate) fn new(
        disk: Arc<dyn Disk>,
        database: DatabaseId,
        options: StoreOptions,
        logic: Arc<dyn PageLogic>,
        state: State,
        next_number: u64,
        published: CommitNo,
    ) -> Result<Self> {
        let live_bytes = AtomicU64::new(state.segments.totals().1);
        Ok(Self {
            frames: Frames::new(options.frames, options.page_bytes)?,
            files: Files::new(Arc::clone(&disk)),
            writer: Mutex::new(Writer {
                codec: Codec::new(database),
                fresh: Stream::default(),
                moved: Stream::default(),
                second: Stream::default(),
                next_number,
                unsynced: BTreeSet::new(),
                pending: Vec::new(),
                image: Vec::new(),
                hand: 0,
            }),
            state: Mutex::new(state),
            clean: evict::Clean::default(),
            resident: Resident::new(),
            versions: Versions::new(),
            counters: Counters::default(),
            packings: packing::Packings::default(),
            published: AtomicU64::new(published.0),
            dirtied: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            live_bytes,
            disk_reserve: disk_reserve::DiskReserve::default(),
            sharing: give_back::Sharing::new(options.frames),
            disk,
            database,
            options,
            logic,
        })
    }

    /// An empty state.
    pub(crate) fn empty_state(options: &StoreOptions) -> State {
        State {
            map: Map::new(map_fan(options.page_bytes)),
            overlay: BTreeMap::new(),
            checkpoint_cut: None,
            segments: Segments {
                next: 1,
                page_bytes: options.page_bytes as u64,
                ..Segments::default()
            },
            table_bytes: TableBytes::default(),
            ids: PageIds::new(),
            freed: VecDeque::new(),
            trees: Vec::new(),
            unattached: BTreeMap::new(),
            unattached_at_cut: Vec::new(),
        }
    }

    /// The newest commit that readers may see.
    pub(crate) fn published(&self) -> CommitNo {
        CommitNo(self.published.load(Ordering::Acquire))
    }

    /// Entries of a map node read from its image.
    pub(crate) fn load_map_node(
        &self,
        node: map::NodeId,
        address: Address,
    ) -> Result<Box<[Address]>> {
        let image = self.read_image(address)?;
        let fan = map_fan(self.options.page_bytes);
        decode_map_node(&mut Codec::new(self.database), &image, node, address, fan)
    }

    /// Where the newest image of a page lies.
    pub(crate) fn lookup(&self, state: &mut State, page: PageId) -> Result<Address> {
        if let Some((address, _)) = state.overlay.get(&page) {
            return Ok(*address);
        }
        state.map.get(page, &mut |node, address| self.load_map_node(node, address))
    }

    /// The first page from `page` on that may have an image.
    pub(crate) fn skip_empty(&self, state: &mut State, page: PageId) -> Result<PageId> {
        let load = &mut |node, address| self.load_map_node(node, address);
        let in_map = state.map.skip_empty(page, load)?;
        let in_overlay = state.overlay.range(page..in_map).next();
        Ok(in_overlay.map_or(in_map, |(page, _)| *page))
    }

    /// Reads the bytes of an image, unchecked.
    pub(crate) fn read_image(&self, address: Address) -> Result<Vec<u8>> {
        let mut image = vec![0; usize::from(address.bytes)];
        self.files.get(address.segment)?.read_at(u64::from(address.offset), &mut image).map_err(
            |error| match error {
                Error::Io { source, .. } if source.kind() == std::io::ErrorKind::UnexpectedEof => {
                    image::bad_image(address, "the segment ends before it")
                }
                error => error,
            },
        )?;
        count(&self.counters.page_reads, 1);
        count(&self.counters.page_read_bytes, u64::from(address.bytes));
        Ok(image)
    }

    /// Checks that an image is the one that the map means.
    pub(crate) fn check_image(
        codec: &Codec,
        image: &[u8],
        address: Address,
        page: PageId,
        kind: u8,
    ) -> Result<image::ImageHead> {
        let head = codec.open(image).map_err(|detail| image::bad_image(address, detail))?;
        let is_kind =
            head.kind == kind || (kind == image::kind::INDEX && head.kind == image::kind::OVERFLOW);
        if head.page != page || head.number != address.number || !is_kind {
            return Err(image::bad_image(
                address,
                format!(
                    "it is image {} of {:?}, kind {}; the map means image {} of {page:?}",
                    head.number, head.page, head.kind, address.number
                ),
            ));
        }
        Ok(head)
    }
}

/// Entries of a map node, from its image.
pub(crate) fn decode_map_node(
    codec: &mut Codec,
    image: &[u8],
    node: map::NodeId,
    address: Address,
    fan: usize,
) -> Result<Box<[Address]>> {
    let head = Store::check_image(codec, image, address, node.page(), image::kind::MAP)?;
    let mut words = vec![0u64; usize::from(head.words)];
    let bad = |detail: String| image::bad_image(address, detail);
    codec.unpack(image, &mut words, &mut []).map_err(bad)?;
    if words.len() != fan * 2 {
        return Err(bad(format!("a map node of {} words, expected {}", words.len(), fan * 2)));
    }
    Ok(words.chunks_exact(2).map(|pair| Address::unpack([pair[0], pair[1]])).collect())
}

/// Addresses in a map node.
pub(crate) fn map_fan(page_bytes: usize) -> usize {
    page_bytes / 16
}
