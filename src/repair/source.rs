//! What is left of a database: its root, its pages, and which of them count.

mod ids;

use crate::catalog::{Catalog, Index};
use crate::kinds::AnyKind;
use crate::options::Options;
use crate::store::checkpoint::{self, Metadata};
use crate::store::image::{Address, Codec, ImageHead, kind, segment_name, segment_of_name};
use crate::store::map::{Map, NodeId};
use crate::store::superblock::{self, Superblock};
use crate::store::{State, Store, StoreOptions, decode_map_node, map_fan};
use crate::value::Handle;
use esker_base::sync::Arc;
use esker_base::{CommitNo, DatabaseId, Error, PageId, Result, SegmentId, TableId};
use esker_index::pages::{ChildWord, PageRead, Pages, Step, Stop, View};
use esker_io::{Disk, File, OpenMode};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Pages kept in memory: branches and filters, which are asked for again and again.
const PAGES_KEPT: usize = 256;
/// Damaged places that are listed.
const DAMAGE_LISTED: usize = 1000;

/// What the database begins with, as far as it is there.
#[derive(Debug)]
pub(super) struct Root {
    pub(super) database: DatabaseId,
    pub(super) page_bytes: usize,
    pub(super) superblock: Option<Superblock>,
    pub(super) metadata: Option<(Metadata, Catalog)>,
    /// Why the others are not there.
    pub(super) damage: Vec<String>,
}

impl Root {
    /// Reads superblock and checkpoint, or what can take their place.
    ///
    /// # Errors
    /// `Format`; `NotADatabase` if nothing says whose the files are.
    pub(super) fn read(disk: &dyn Disk, options: &Options) -> Result<Self> {
        let mut damage = Vec::new();
        let superblock = match superblock::read(disk) {
            Ok(superblock) => Some(superblock),
            Err(error @ Error::Format { .. }) => return Err(error),
            Err(error) => {
                damage.push(error.to_string());
                None
            }
        };
        let payload = match &superblock {
            Some(superblock) => match superblock::read_checkpoint(disk, superblock) {
                Ok(payload) => Some((superblock.database, superblock.checkpoint, payload)),
                Err(error) => {
                    damage.push(error.to_string());
                    None
                }
            },
            None => superblock::newest_checkpoint(disk)?,
        };
        let database = superblock.map(|superblock| superblock.database);
        let database = database.or(payload.as_ref().map(|(database, ..)| *database));
        let database = match database {
            Some(database) => database,
            None => *esker_wal::databases(disk)?.first().ok_or_else(|| Error::NotADatabase {
                path: disk.label(),
                detail: "neither superblock, checkpoint nor log says which database it was"
                    .to_owned(),
            })?,
        };
        let codec = Codec::new(database);
        let page_bytes = match superblock.map(|superblock| superblock.page_bytes as usize) {
            Some(bytes) if bytes.is_power_of_two() && (1024..=32768).contains(&bytes) => bytes,
            _ => page_bytes(disk, &codec)?.unwrap_or(options.page_bytes),
        };
        let mut metadata = None;
        if let Some((_, generation, payload)) = payload {
            let options = store_options(page_bytes);
            let name = superblock::checkpoint_name(generation);
            match checkpoint::decode(&payload, &options, &name) {
                Ok(found) => {
                    let make = |_: TableId, _: Index| Arc::new(AnyKind::Unregistered);
                    match Catalog::decode(&found.engine, &make) {
                        Some((catalog, _)) => metadata = Some((found, catalog)),
                        None => damage.push(format!("the catalogue in {name} does not decode")),
                    }
                }
                Err(error) => damage.push(error.to_string()),
            }
        }
        Ok(Self { database, page_bytes, superblock, metadata, damage })
    }
}

fn store_options(page_bytes: usize) -> StoreOptions {
    StoreOptions { page_bytes, frames: 0, map_nodes: 0, compress: false }
}

/// The size of pages, which the nodes of the page map have.
fn page_bytes(disk: &dyn Disk, codec: &Codec) -> Result<Option<usize>> {
    let mut found = None;
    for (_, bytes) in segments(disk)? {
        each_image(codec, &bytes, &mut |_, head| {
            if let Ok(ImageHead { kind: kind::MAP, words, .. }) = head {
                found = Some(usize::from(words) * 8);
            }
        });
        if found.is_some() {
            break;
        }
    }
    Ok(found)
}

/// All segments, one after the other, as far as they can be read.
fn segments(disk: &dyn Disk) -> Result<impl Iterator<Item = (SegmentId, Vec<u8>)>> {
    let mut ids: Vec<SegmentId> =
        disk.list()?.iter().filter_map(|name| segment_of_name(name)).collect();
    ids.sort_unstable();
    Ok(ids.into_iter().filter_map(|id| {
        const BLOCK: usize = 4096;
        let file = disk.open(&segment_name(id), OpenMode::Read).ok()?;
        let mut bytes = vec![0; usize::try_from(file.len().ok()?).ok()?];
        if file.read_at(0, &mut bytes).is_err() {
            for (i, block) in bytes.chunks_mut(BLOCK).enumerate() {
                if file.read_at((i * BLOCK) as u64, block).is_err() {
                    block.fill(0);
                }
            }
        }
        Some((id, bytes))
    }))
}

/// What lies at a place of a segment: an image, or where one seems to have been, by its damaged header.
type Found = Result<ImageHead, Option<ImageHead>>;

/// Calls `visit` with every image of a segment, and with each stretch that is none and not empty.
fn each_image(codec: &Codec, bytes: &[u8], visit: &mut dyn FnMut(std::ops::Range<usize>, Found)) {
    let mut at = 0;
    let mut is_bad = false;
    while at < bytes.len() {
        let rest = &bytes[at..];
        if let Some(length) = Codec::stored_bytes(rest) {
            let image = rest.get(..length);
            if let Some(Ok(head)) = image.map(|image| codec.open(image)) {
                visit(at..at + length, Ok(head));
                (at, is_bad) = (at + length, false);
                continue;
            }
            visit(at..at + length.min(rest.len()), Err(Codec::claims(rest)));
            is_bad = true;
        } else if rest[0] != 0 && !is_bad {
            visit(at..at + 1, Err(None));
            is_bad = true;
        }
        at += 1;
    }
}

/// A page, read and unpacked.
#[derive(Debug)]
pub(super) struct LoadedPage {
    pub(super) head: ImageHead,
    words: Vec<ChildWord>,
    body: Vec<u8>,
}

/// A page that is kept by whoever reads it.
#[derive(Clone, Debug)]
pub(super) struct Page(Rc<LoadedPage>);

impl Page {
    pub(super) fn head(&self) -> &ImageHead {
        &self.0.head
    }
    pub(super) fn is_index(&self) -> bool {
        self.0.head.kind == kind::INDEX
    }
}

impl PageRead for Page {
    fn id(&self) -> PageId {
        self.0.head.page
    }
    fn level(&self) -> u8 {
        self.0.head.level
    }
    fn changed_at(&self) -> CommitNo {
        self.0.head.changed_at
    }
    fn words(&self) -> &[ChildWord] {
        &self.0.words
    }
    fn body(&self) -> &[u8] {
        &self.0.body
    }
}

/// Where the newest image of a page lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    At(Address),
    Nowhere,
    /// It was there, and is damaged.
    Lost,
}

/// The newest images, found by reading all segments.
#[derive(Debug, Default)]
struct Scan {
    /// By page: the commit that changed it last, and where it is; damaged ones without address.
    newest: BTreeMap<PageId, (CommitNo, u64, Option<Address>)>,
    /// Something is damaged that does not say which page it was.
    has_holes: bool,
}

#[derive(Debug)]
struct Inner {
    codec: Codec,
    map: Option<Map>,
    scan: Option<Scan>,
    files: BTreeMap<SegmentId, Option<Arc<dyn File>>>,
    pages: BTreeMap<PageId, Page>,
    damage: Vec<String>,
    damaged: u64,
    /// Some pages were found by scanning, and what they should be is not known.
    is_guessed: bool,
    /// Some pages were looked for by scanning.
    has_searched: bool,
    /// Pages that have an image, and it is damaged.
    unreadable: BTreeSet<PageId>,
}

/// The pages of a database, whoever keeps them now.
#[derive(Debug)]
pub(super) struct Images<'d> {
    disk: &'d dyn Disk,
    pub(super) page_bytes: usize,
    /// Images of later commits do not count: the log has those.
    limit: CommitNo,
    /// Page ids lie below, as far as is known.
    next: Option<u64>,
    inner: RefCell<Inner>,
}

impl<'d> Images<'d> {
    pub(super) fn new(disk: &'d dyn Disk, root: &Root, limit: CommitNo) -> Self {
        let state: Option<&State> = root.metadata.as_ref().map(|(metadata, _)| &metadata.state);
        let fan = map_fan(root.page_bytes);
        let map = state.map(|state| Map::open(fan, state.map.height(), state.map.root()));
        Self {
            disk,
            page_bytes: root.page_bytes,
            limit,
            next: state.map(|state| state.ids.next),
            inner: RefCell::new(Inner {
                codec: Codec::new(root.database),
                map,
                scan: None,
                files: BTreeMap::new(),
                pages: BTreeMap::new(),
                damage: Vec::new(),
                damaged: 0,
                is_guessed: false,
                has_searched: false,
                unreadable: BTreeSet::new(),
            }),
        }
    }

    /// True if some pages had to be found by reading everything, so that an old state may have been taken for the newest.
    pub(super) fn is_guessed(&self) -> bool {
        self.inner.borrow().is_guessed
    }

    /// True if the map did not say of all pages where they are: images of some that were given up may pass for them.
    pub(super) fn has_searched(&self) -> bool {
        self.inner.borrow().has_searched
    }

    /// True if a page that was asked for, other than this one, has a damaged image.
    pub(super) fn has_unreadable_beside(&self, page: Option<PageId>) -> bool {
        self.inner.borrow().unreadable.iter().any(|unreadable| Some(*unreadable) != page)
    }

    /// What was found damaged, and how much that was in all.
    pub(super) fn damage(&self) -> (Vec<String>, u64) {
        let inner = self.inner.borrow();
        (inner.damage.clone(), inner.damaged)
    }

    /// A page; `None` if it has no image, or a damaged one (which is noted).
    pub(super) fn page(&self, page: PageId) -> Result<Option<Page>> {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        if let Some(page) = inner.pages.get(&page) {
            return Ok(Some(page.clone()));
        }
        let address = match inner.place(self.disk, page, self.limit, self.page_bytes)? {
            Place::At(address) => address,
            Place::Nowhere => return Ok(None),
            Place::Lost => {
                inner.unreadable.insert(page);
                return Ok(None);
            }
        };
        match inner.load(self.disk, page, address, self.page_bytes - 64) {
            Ok(loaded) => {
                let loaded = Page(Rc::new(loaded));
                if inner.pages.len() >= PAGES_KEPT {
                    inner.pages.clear();
                }
                if loaded.head().level > 0 {
                    inner.pages.insert(page, loaded.clone());
                }
                Ok(Some(loaded))
            }
            Err(error) => {
                inner.note(&error);
                inner.unreadable.insert(page);
                Ok(None)
            }
        }
    }

    /// A large value; `None` if it is not whole.
    pub(super) fn large_value(&self, handle: Handle) -> Result<Option<Vec<u8>>> {
        let content_bytes = self.page_bytes - 64;
        if !handle.is_possible() {
            return Ok(None);
        }
        let bytes = usize::try_from(handle.bytes).expect("bounded above");
        let mut value = Vec::with_capacity(bytes);
        for i in 0..u64::from(handle.range(content_bytes).pages) {
            let page = self.page(PageId(handle.first.0 + i))?;
            let Some(page) = page.filter(|page| page.head().kind == kind::OVERFLOW) else {
                return Ok(None);
            };
            let part = (bytes - value.len()).min(page.body().len());
            value.extend_from_slice(&page.body()[..part]);
        }
        Ok(handle.is_of(&value).then_some(value))
    }
}

impl Inner {
    fn note(&mut self, error: &Error) {
        self.damaged += 1;
        if self.damage.len() < DAMAGE_LISTED {
            let text = error.to_string();
            if !self.damage.contains(&text) {
                self.damage.push(text);
            }
        }
    }

    fn read(&mut self, disk: &dyn Disk, address: Address) -> Result<Vec<u8>> {
        let open = || disk.open(&segment_name(address.segment), OpenMode::Read);
        let file = self.files.entry(address.segment).or_insert_with(|| open().ok());
        let mut image = vec![0; usize::from(address.bytes)];
        match file {
            Some(file) => file.read_at(u64::from(address.offset), &mut image)?,
            None => open().map(drop)?,
        }
        Ok(image)
    }

    /// Where a page lies: as the map says, or, where the map itself is gone, in the newest image there is.
    fn place(
        &mut self,
        disk: &dyn Disk,
        page: PageId,
        limit: CommitNo,
        page_bytes: usize,
    ) -> Result<Place> {
        if let Some(mut map) = self.map.take() {
            let load = &mut |node: NodeId, at: Address| {
                let image = self.read(disk, at)?;
                decode_map_node(&mut self.codec, &image, node, at, map_fan(page_bytes))
            };
            let found = map.get(page, load);
            self.map = Some(map);
            match found {
                Ok(address) if address.is_none() => return Ok(Place::Nowhere),
                Ok(address) => return Ok(Place::At(address)),
                Err(error) => self.note(&error),
            }
        }
        let scan = self.scan(disk, limit)?;
        let found = scan.newest.get(&page).copied();
        let has_holes = scan.has_holes;
        self.has_searched = true;
        // What is damaged may be newer than what takes its place.
        let is_lost = found.is_some_and(|(.., address)| address.is_none());
        self.is_guessed |= has_holes || is_lost || self.map.is_none();
        Ok(match found {
            None => Place::Nowhere,
            Some((.., None)) => Place::Lost,
            Some((.., Some(address))) => Place::At(address),
        })
    }

    /// Reads all segments, once.
    fn scan(&mut self, disk: &dyn Disk, limit: CommitNo) -> Result<&Scan> {
        if self.scan.is_none() {
            let mut scan = Scan::default();
            for (segment, bytes) in segments(disk)? {
                each_image(&self.codec, &bytes, &mut |place, found| {
                    let (head, is_whole) = match found {
                        Ok(head) => (head, true),
                        Err(Some(head)) => (head, false),
                        Err(None) => {
                            scan.has_holes = true;
                            return;
                        }
                    };
                    if head.kind == kind::MAP || head.changed_at > limit {
                        return;
                    }
                    let address = Address {
                        segment,
                        offset: u32::try_from(place.start).unwrap_or(u32::MAX),
                        number: head.number,
                        bytes: u16::try_from(place.len()).unwrap_or(u16::MAX),
                    };
                    let new = (head.changed_at, head.number, is_whole.then_some(address));
                    let old = scan.newest.entry(head.page).or_insert(new);
                    // Of two copies of one image the whole one.
                    if (old.0, old.1, old.2.is_some()) < (new.0, new.1, new.2.is_some()) {
                        *old = new;
                    }
                });
            }
            self.scan = Some(scan);
        }
        Ok(self.scan.as_ref().expect("made above"))
    }

    fn load(
        &mut self,
        disk: &dyn Disk,
        page: PageId,
        address: Address,
        content_bytes: usize,
    ) -> Result<LoadedPage> {
        let image = self.read(disk, address)?;
        let head = Store::check_image(&self.codec, &image, address, page, kind::INDEX)?;
        let bad = |detail: String| crate::store::image::bad_image(address, detail);
        let words = usize::from(head.words);
        let body = content_bytes.checked_sub(words * 8);
        let body = body.ok_or_else(|| bad(format!("{words} words do not fit a page")))?;
        let (mut words, mut body) = (vec![0; words], vec![0; body]);
        self.codec.unpack(&image, &mut words, &mut body).map_err(bad)?;
        let word = |bits: &u64| ChildWord::new(ChildWord::page_of(*bits), ChildWord::NO_HINT);
        Ok(LoadedPage { head, words: words.iter().map(word).collect(), body })
    }
}

impl Pages for Images<'_> {
    type Read<'a>
        = Page
    where
        Self: 'a;

    fn read(&self, word: &ChildWord, _view: View) -> Step<Page> {
        let page = word.page();
        match self.page(page) {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(Stop::Corrupt { page, detail: "it cannot be read".to_owned() }),
            Err(error) => Err(Stop::Corrupt { page, detail: error.to_string() }),
        }
    }
    fn is_current(&self, _branch: &Page) -> bool {
        true
    }
    fn content_bytes(&self) -> usize {
        self.page_bytes - 64
    }
}
