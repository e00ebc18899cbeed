//! Verification: every byte that the database relies on, read and checked.
//!
//! Three passes, under a cut and with cleaning held off: every page of every table through its tree (order, fences,
//! levels, large values), every image that the page map names (checksum, identity), and the map against
//! the segment table (live bytes to the byte).

use crate::engine::Engine;
use crate::store::image::{Address, Codec, kind, segment_name};
use crate::store::{Store, TableBytes};
use crate::table::HeldCut;
use crate::value::{self, Handle};
use esker_base::sync::Arc;
use esker_base::{Error, PageId, Result};
use esker_index::kind::CheckStep;
use esker_index::pages::View;
use std::collections::BTreeMap;

/// What [`Database::verify`](crate::Database::verify) found.
#[derive(Debug, Default)]
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
    /// Everything that is wrong, with the table it is in where that is known.
    pub damage: Vec<Damage>,
}

/// One thing that is wrong.
#[derive(Debug)]
#[non_exhaustive]
pub struct Damage {
    /// The table affected, if one is known.
    pub table: Option<String>,
    /// What is wrong.
    pub error: Error,
}

impl Verified {
    /// True if nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.damage.is_empty()
    }

    fn has(&self, wanted: &str, at: u64) -> bool {
        self.damage.iter().any(|damage| {
            matches!(&damage.error, Error::Corrupt { file, offset, .. } if file == wanted && *offset == at)
        })
    }
}

pub(crate) fn verify(engine: &Arc<Engine>) -> Result<Verified> {
    let mut found = Verified::default();
    let cut = HeldCut::take(engine);
    walk_tables(engine, &cut, &mut found)?;
    drop(cut);
    check_images(engine, &mut found)?;
    Ok(found)
}

fn walk_tables(engine: &Arc<Engine>, cut: &HeldCut, found: &mut Verified) -> Result<()> {
    let view = View::Cut(cut.commit);
    let tables: Vec<_> = engine.catalog.read().by_name.values().cloned().collect();
    for table in tables {
        if table.check_registered().is_err() {
            // Its images are checked below; what they mean is not known.
            continue;
        }
        found.tables += 1;
        let mut damaged = |error: Error| {
            found.damage.push(Damage { table: Some(table.name.clone()), error });
        };
        // Leaf by leaf, so that memory stays bounded and every page may be loaded on the way.
        let mut walk = table.index.check(table.root.page());
        let mut handles = Vec::new();
        loop {
            handles.clear();
            let step = engine.read(view, |session| {
                walk.step(session, &table.root, view, &mut |handle| handles.push(handle))
            });
            match step {
                Ok(CheckStep::Done) => break,
                Ok(CheckStep::Page { rows }) => found.rows += rows as u64,
                Ok(CheckStep::Wrong(detail)) => {
                    damaged(Error::corrupt("tree", engine.store.disk.label(), 0, detail));
                    walk.skip();
                }
                Err(error @ Error::Corrupt { .. }) => {
                    damaged(error);
                    walk.skip();
                }
                Err(error) => return Err(error),
            }
            for handle in &handles {
                let handle = Handle::decode(handle);
                found.large_values += 1;
                match value::read(&engine.store, handle, crate::VALUE_BYTES_MAX as u64) {
                    Ok(_) => {}
                    Err(error @ Error::Corrupt { .. }) => damaged(error),
                    Err(error) => return Err(error),
                }
            }
        }
    }
    Ok(())
}

/// Reads every image that the map names and recounts the segments' live bytes.
fn check_images(engine: &Engine, found: &mut Verified) -> Result<()> {
    let store = &engine.store;
    // Nothing may be moved or freed meanwhile.
    let _maintenance = engine.maintenance.lock();
    let _writer = store.lock_writer();
    let codec = Codec::new(store.database);
    let mut live: BTreeMap<_, u64> = BTreeMap::new();
    let mut table_bytes = TableBytes::default();
    let next = store.state.lock().ids.next;
    for page in (1..next).map(PageId) {
        let address = {
            let mut state = store.state.lock();
            match store.lookup(&mut state, page) {
                Ok(address) => address,
                Err(error @ Error::Corrupt { .. }) => {
                    drop(state);
                    found.damage.push(Damage { table: None, error });
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
            Ok(head) => table_bytes.replace(head.table, Address::NONE, address),
            // Met already on the way through a tree, with the table's name.
            Err(Error::Corrupt { file, offset, .. }) if found.has(&file, offset) => {}
            Err(error @ Error::Corrupt { .. }) => {
                found.damage.push(Damage { table: None, error });
            }
            Err(error) => return Err(error),
        }
    }
    let mut state = store.state.lock();
    let state = &mut *state;
    let load = &mut |node, address| store.load_map_node(node, address);
    state.map.each_node(next, load, &mut |address| {
        *live.entry(address.segment).or_insert(0) += u64::from(address.bytes);
        found.images += 1;
        found.image_bytes += u64::from(address.bytes);
    })?;
    for (id, segment) in &state.segments.table {
        let counted = live.get(id).copied().unwrap_or(0);
        if counted != segment.live {
            let detail = format!("{counted} live bytes counted, {} recorded", segment.live);
            let error = Error::corrupt("segment table", segment_name(*id), 0, detail);
            found.damage.push(Damage { table: None, error });
        }
    }
    for table in engine.catalog.read().by_name.values() {
        let (counted, recorded) = (table_bytes.of(table.id), state.table_bytes.of(table.id));
        if counted != recorded && found.damage.is_empty() {
            let detail = format!("{counted} bytes of images counted, {recorded} recorded");
            let error = Error::corrupt("table", store.disk.label(), 0, detail);
            found.damage.push(Damage { table: Some(table.name.clone()), error });
        }
    }
    Ok(())
}
