//! Verification: every byte that the database relies on, read and checked.
//!
//! Passes, under a cut and with cleaning held off: the superblock's slots, the checkpoint's file and the log; every page of
//! every table through its tree (order, fences, levels, large values); every image that the page map names, and both images of
//! its nodes (checksum, identity, and that something leads to it); and the map against the segment
//! table (live bytes to the byte); and the names in the directory. What is damaged is reported with the table and the keys that it affects.

#[cfg(test)]
mod tests;

use crate::catalog::{Index, TableState};
use crate::engine::Engine;
use crate::kinds::ErasedChecker;
use crate::page_set::PageSet;
use crate::range::KeySpan;
use crate::store::image::{Address, Codec, ImageHead, kind, segment_name, segment_of_name};
use crate::store::superblock::{self, Superblock};
use crate::store::{FreedTree, Store, TableBytes};
use crate::table::HeldCut;
use crate::value::{self, Handle};
use esker_base::sync::{Arc, Ordering};
use esker_base::{CommitNo, Error, PageId, Result, TableId};
use esker_index::kind::CheckStep;
use esker_index::pages::{ChildWord, PageRead, Pages, View};
use std::collections::BTreeMap;

/// What [`Database::verify`](crate::Database::verify) found.
#[derive(Debug, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Verified {
    /// Tables walked.
    pub tables: u64,
    /// Rows met.
    pub rows: u64,
    /// Large values read.
    pub large_values: u64,
    /// Page images read from segments.
    pub images: u64,
    /// Bytes of them.
    pub image_bytes: u64,
    /// Images among them that nothing leads to: space that does not come back.
    pub unreached: u64,
    /// Segments and checkpoints in the directory that nothing names, such as one that could not be removed: space that
    /// comes back with the next open. No damage.
    pub strays: Vec<String>,
    /// Everything that is wrong, with the table it is in where that is known.
    pub damage: Vec<Damage>,
}

/// One thing that is wrong.
#[derive(Debug)]
#[non_exhaustive]
pub struct Damage {
    /// The table affected, if one is known.
    pub table: Option<String>,
    /// Its keys that are affected. `None`: they are not known, or have no order; it may be any.
    pub keys: Option<KeySpan>,
    /// There is a second copy, which serves: no table is affected.
    pub has_copy: bool,
    /// What is wrong.
    pub error: Error,
}

impl Damage {
    fn of(error: Error) -> Self {
        Self { table: None, keys: None, has_copy: false, error }
    }

    /// The same damage as `other`, met at the next keys of the same table.
    fn continues(&self, other: &Self) -> bool {
        let place = |damage: &Self| match &damage.error {
            Error::Corrupt { file, offset, .. } => Some((file.clone(), *offset)),
            _ => None,
        };
        let ends = other.keys.as_ref().map(|keys| keys.high.as_deref());
        let begins = self.keys.as_ref().map(|keys| Some(&keys.low[..]));
        self.table == other.table && place(self) == place(other) && ends.is_some() && ends == begins
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Damage {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let mut out = serializer.serialize_struct("Damage", 4)?;
        out.serialize_field("table", &self.table)?;
        out.serialize_field("keys", &self.keys)?;
        out.serialize_field("has_copy", &self.has_copy)?;
        out.serialize_field("error", &self.error.to_string())?;
        out.end()
    }
}

impl Verified {
    /// True if nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty()
    }

    /// Adds damage of a table, or joins it with what was met just before.
    fn add(&mut self, table: &str, keys: Option<KeySpan>, error: Error) {
        let damage = Damage { table: Some(table.to_owned()), keys, has_copy: false, error };
        match self.damage.last_mut() {
            Some(last) if damage.continues(last) => {
                last.keys.as_mut().expect("it has").high = damage.keys.expect("it has").high;
            }
            _ => self.damage.push(damage),
        }
    }

    fn has(&self, wanted: &str, at: u64) -> bool {
        self.damage.iter().any(|damage| {
            matches!(&damage.error, Error::Corrupt { file, offset, .. } if file == wanted && *offset == at)
        })
    }
}

pub(crate) fn verify(engine: &Arc<Engine>) -> Result<Verified> {
    // Nothing may be moved or freed meanwhile.
    let superblock = engine.maintenance.lock();
    // Nor does anybody wait for a checkpoint.
    engine.is_verifying.store(true, Ordering::Relaxed);
    let result = verify_all(engine, &superblock);
    engine.is_verifying.store(false, Ordering::Relaxed);
    result
}

fn verify_all(engine: &Arc<Engine>, superblock: &Superblock) -> Result<Verified> {
    let mut found = Verified::default();
    check_root(engine, superblock, &mut found)?;
    let trees_begin = found.damage.len();
    let (cut, mut reach) = Reach::begin(engine);
    walk_tables(engine, &mut found, &mut reach)?;
    if found.damage.len() == trees_begin {
        reach.walk(engine)?;
    }
    drop(cut);
    check_images(engine, &mut found, &reach)?;
    find_strays(engine, &mut found, superblock)?;
    Ok(found)
}

/// Checks what a restart begins with: superblock, checkpoint, log.
fn check_root(engine: &Engine, superblock: &Superblock, found: &mut Verified) -> Result<()> {
    let disk = &*engine.store.disk;
    for at in superblock::bad_slots(disk, superblock)? {
        let error = Error::corrupt("superblock", superblock::SUPER_NAME, at, "a slot is damaged");
        found.damage.push(Damage { has_copy: true, ..Damage::of(error) });
    }
    if let [first, second] = &mut found.damage[..] {
        (first.has_copy, second.has_copy) = (false, false);
    }
    match superblock::read_checkpoint(disk, superblock) {
        Ok(_) => {}
        Err(error @ Error::Corrupt { .. }) => found.damage.push(Damage::of(error)),
        Err(error) => return Err(error),
    }
    if engine.read_only {
        return Ok(());
    }
    match check_log(engine, superblock) {
        // What is being appended may look so: once more, with nobody appending.
        Err(Error::Corrupt { .. }) => {
            let _turn = engine.turn.lock();
            match check_log(engine, superblock) {
                Err(error @ Error::Corrupt { .. }) => found.damage.push(Damage::of(error)),
                checked => return checked,
            }
        }
        checked => return checked,
    }
    Ok(())
}

/// Reads what is in the log. The caller keeps maintenance away, so nothing is released meanwhile.
fn check_log(engine: &Engine, superblock: &Superblock) -> Result<()> {
    let disk = &*engine.store.disk;
    let end = engine.wal.position();
    let Superblock { database, incarnation, log_start, .. } = *superblock;
    if log_start >= end {
        return Ok(());
    }
    let mut reached = log_start;
    let visit = &mut |group: esker_wal::Group<'_>| {
        reached = group.end;
        // What was appended since is not looked at.
        if reached >= end { Err(Error::Closed) } else { Ok(()) }
    };
    match esker_wal::read(disk, database, incarnation, log_start, visit) {
        Err(Error::Closed) if reached >= end => Ok(()),
        Ok(read) if read.end < end => {
            let detail = format!("it ends at {:?}, and was written up to {end:?}", read.end);
            Err(Error::corrupt("log", disk.label(), 0, detail))
        }
        read => read.map(drop),
    }
}

/// Looks for segments and checkpoints that nothing names.
fn find_strays(engine: &Engine, found: &mut Verified, superblock: &Superblock) -> Result<()> {
    let store = &engine.store;
    // Segments are made, and forgotten, under it.
    let _writer = store.lock_writer();
    let newest = superblock::checkpoint_name(superblock.checkpoint);
    for name in store.disk.list()? {
        let is_stray = match segment_of_name(&name) {
            Some(id) => !store.state.lock().segments.table.contains_key(&id),
            None => name.starts_with("checkpoint-") && name != newest,
        };
        if is_stray {
            found.strays.push(name);
        }
    }
    Ok(())
}

/// Which pages something leads to, as of a cut: a table, or a list of what is to be freed.
#[derive(Debug)]
struct Reach {
    cut: CommitNo,
    pages: PageSet,
    /// Pages from here on are younger than the cut.
    next: u64,
    tables: Vec<Arc<TableState>>,
    trees: Vec<FreedTree>,
    complete: bool,
}

impl Reach {
    /// Takes a cut. The caller keeps maintenance away.
    fn begin(engine: &Arc<Engine>) -> (HeldCut, Self) {
        let mut turn = engine.turn.lock();
        let cut = turn.last;
        turn.cuts.take(cut);
        engine.hand_over_freed(&mut turn);
        let tables = engine.catalog.read().by_name.values().cloned().collect();
        let state = engine.store.state.lock();
        let (next, trees) = (state.ids.next, state.trees.clone());
        let mut reach =
            Self { cut, pages: PageSet::default(), next, tables, trees, complete: false };
        for freed in &state.freed {
            reach.pages.insert_range(freed.first, u64::from(freed.count));
        }
        // What background work builds; a part of it may belong to a table before this is over.
        for (first, count) in state.unattached.values().flatten() {
            reach.pages.insert_range(PageId(*first), *count);
        }
        drop(state);
        drop(turn);
        (HeldCut::adopt(engine, cut), reach)
    }

    /// Goes through everything by the words of its pages. Large values of tables were met on the way through
    /// their trees.
    fn walk(&mut self, engine: &Engine) -> Result<()> {
        let view = View::Cut(self.cut);
        let mut todo: Vec<(PageId, TableId, bool)> = Vec::new();
        for table in &self.tables {
            // Of the kinds that Esker has, children of level 1 are leaves; but from the root of a hash table a front may hang.
            let levels_count = !matches!(table.kind, Index::Custom(_));
            todo.push((table.root.page(), table.id, levels_count));
        }
        let of_tables = todo.len();
        for tree in &self.trees {
            todo.push((tree.page, tree.table, false));
        }
        let from = todo.split_off(of_tables);
        for (mut todo, owned) in [(todo, true), (from, false)] {
            while let Some((page, table, levels_count)) = todo.pop() {
                // What was given up was not looked at yet: it may lead back to itself.
                if !self.pages.insert(page) && !owned {
                    continue;
                }
                let word = ChildWord::new(page, ChildWord::NO_HINT);
                let (mut children, mut large) = (Vec::new(), Vec::new());
                let step = engine.read(table, view, |session| {
                    children.clear();
                    large.clear();
                    let page = session.read(&word, view)?;
                    children.extend(page.words().iter().map(ChildWord::page));
                    if !owned {
                        let logic = &engine.store.logic;
                        logic.overflow(table, page.level(), page.body(), &mut |range| {
                            large.push(range);
                        });
                    }
                    Ok(page.level())
                });
                let level = match step {
                    Ok(level) => level,
                    // Met again, or never needed.
                    Err(Error::Corrupt { .. }) => return Ok(()),
                    Err(error) => return Err(error),
                };
                for range in large {
                    self.pages.insert_range(range.first, u64::from(range.pages));
                }
                children.dedup();
                children.retain(|child| *child != PageId::NONE);
                let is_hash_root = |table: &Arc<TableState>| {
                    table.root.page() == page && matches!(table.kind, Index::Hash)
                };
                if levels_count && level == 1 && !self.tables.iter().any(is_hash_root) {
                    for child in children {
                        self.pages.insert(child);
                    }
                } else {
                    todo.extend(children.iter().map(|child| (*child, table, levels_count)));
                }
            }
        }
        self.complete = true;
        Ok(())
    }

    /// True if nothing leads to a page that was there at the cut.
    fn misses(&self, engine: &Engine, head: &ImageHead) -> bool {
        self.complete
            && head.changed_at <= self.cut
            && head.page.0 < self.next
            && !self.pages.contains(head.page)
            && engine.logic.is_known(head.table)
    }
}

fn walk_tables(engine: &Arc<Engine>, found: &mut Verified, reach: &mut Reach) -> Result<()> {
    let view = View::Cut(reach.cut);
    for table in reach.tables.clone() {
        if table.check_registered().is_err() {
            // Its images are checked below; what they mean is not known.
            continue;
        }
        found.tables += 1;
        // Leaf by leaf, so that memory stays bounded and every page may be loaded on the way.
        let mut walk = table.index.check(table.root.page());
        let mut handles = Vec::new();
        loop {
            handles.clear();
            let step = engine.read(table.id, view, |session| {
                walk.step(session, &table.root, view, &mut |handle| handles.push(handle))
            });
            let place =
                |walk: &dyn ErasedChecker| walk.place().map(|(low, high)| KeySpan::new(low, high));
            match step {
                Ok(CheckStep::Done) => break,
                Ok(CheckStep::Page { rows }) => found.rows += rows as u64,
                Ok(CheckStep::Wrong(detail)) => {
                    let error = Error::corrupt("tree", engine.store.disk.label(), 0, detail);
                    found.add(&table.name, place(&*walk), error);
                    walk.skip();
                }
                Err(error @ Error::Corrupt { .. }) => {
                    found.add(&table.name, place(&*walk), error);
                    walk.skip();
                }
                Err(error) => return Err(error),
            }
            for handle in &handles {
                let handle = Handle::decode(handle);
                found.large_values += 1;
                let range = handle.range(engine.store.frames.content_bytes());
                reach.pages.insert_range(range.first, u64::from(range.pages));
                match value::read(&engine.store, handle) {
                    Ok(_) => {}
                    Err(error @ Error::Corrupt { .. }) => {
                        found.add(&table.name, place(&*walk), error);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }
    Ok(())
}

/// Reads every image that the map names and recounts the segments' live bytes.
fn check_images(engine: &Engine, found: &mut Verified, reach: &Reach) -> Result<()> {
    let store = &engine.store;
    let _writer = store.lock_writer();
    let codec = Codec::new(store.database);
    let mut live: BTreeMap<_, u64> = BTreeMap::new();
    let mut table_bytes = TableBytes::default();
    let mut first_unreached = None;
    let next = store.state.lock().ids.next;
    let mut from = PageId(1);
    while from.0 < next {
        let page = from;
        from = PageId(page.0 + 1);
        let address = {
            let mut state = store.state.lock();
            match store.lookup(&mut state, page) {
                Ok(address) => {
                    // Many in a row have none.
                    from = store.skip_empty(&mut state, from).unwrap_or(from);
                    address
                }
                Err(error @ Error::Corrupt { .. }) => {
                    let load = &mut |node, address| store.load_map_node(node, address);
                    let in_map = state.map.skip_unreadable(page, load)?;
                    let in_overlay = state.overlay.range(from..in_map).next();
                    from = in_overlay.map_or(in_map, |(page, _)| *page);
                    drop(state);
                    // Many pages are behind one node of the map.
                    if !matches!(&error, Error::Corrupt { file, offset, .. } if found.has(file, *offset))
                    {
                        found.damage.push(Damage::of(error));
                    }
                    continue;
                }
                Err(error) => return Err(error),
            }
        };
        if address.is_none() {
            continue;
        }
        *live.entry(address.segment).or_insert(0) += u64::from(address.bytes);
        found.images += 1;
        found.image_bytes += u64::from(address.bytes);
        let checked = store
            .read_image(address)
            .and_then(|image| Store::check_image(&codec, &image, address, page, kind::INDEX));
        match checked {
            Ok(head) => {
                table_bytes.replace(head.table, Address::NONE, address);
                if reach.misses(engine, &head) {
                    found.unreached += 1;
                    first_unreached.get_or_insert(head);
                }
            }
            // Met already on the way through a tree, with the table's name.
            Err(Error::Corrupt { file, offset, .. }) if found.has(&file, offset) => {}
            Err(error @ Error::Corrupt { .. }) => {
                found.damage.push(Damage::of(error));
            }
            Err(error) => return Err(error),
        }
    }
    if let Some(ImageHead { page, table, changed_at, level, kind, .. }) = first_unreached {
        let detail = format!(
            "nothing leads to {} images, such as that of {page:?} of {table:?}, level {level}, kind {kind}, {changed_at:?}",
            found.unreached
        );
        let error = Error::corrupt("page map", store.disk.label(), 0, detail);
        found.damage.push(Damage::of(error));
    }
    let mut nodes = Vec::new();
    {
        let mut state = store.state.lock();
        let load = &mut |node, address| store.load_map_node(node, address);
        state.map.each_node(load, &mut |node, copies| nodes.push((node, copies)))?;
    }
    for (node, copies) in nodes {
        let before = found.damage.len();
        for at in copies.each() {
            *live.entry(at.segment).or_insert(0) += u64::from(at.bytes);
            found.images += 1;
            found.image_bytes += u64::from(at.bytes);
            match store.load_map_node(node, at) {
                Ok(_) => {}
                Err(Error::Corrupt { file, offset, .. }) if found.has(&file, offset) => {}
                Err(error @ Error::Corrupt { .. }) => {
                    found.damage.push(Damage::of(error));
                }
                Err(error) => return Err(error),
            }
        }
        if found.damage.len() == before + 1 {
            found.damage[before].has_copy = true;
            let load = &mut |node, address| store.load_map_node(node, address);
            store.state.lock().map.write_again(node, load)?;
        }
    }
    let state = store.state.lock();
    for (id, segment) in &state.segments.table {
        let counted = live.get(id).copied().unwrap_or(0);
        if counted != segment.live {
            let detail = format!("{counted} live bytes counted, {} recorded", segment.live);
            let error = Error::corrupt("segment table", segment_name(*id), 0, detail);
            found.damage.push(Damage::of(error));
        }
    }
    for table in engine.catalog.read().by_name.values() {
        let (counted, recorded) = (table_bytes.of(table.id), state.table_bytes.of(table.id));
        if counted != recorded && found.damage.is_empty() {
            let detail = format!("{counted} bytes of images counted, {recorded} recorded");
            let error = Error::corrupt("table", store.disk.label(), 0, detail);
            found.add(&table.name, None, error);
        }
    }
    Ok(())
}
