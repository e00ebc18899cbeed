//! Opening a database: making a new one, or recovering what is there.
//!
//! Recovery replays the log from the checkpoint's cut through the ordinary write path, and meanwhile writes every
//! group it has read into a new log under a new incarnation: what reads back now may still not be on
//! the device (a sync may have failed before). Only when the new log is durable and a new superblock
//! names it does the database serve. A crash anywhere before that leaves the old superblock and the
//! old log as they were.

use crate::background::replay_log_byte_ns;
use crate::bulk_load::is_sort_name;
use crate::catalog::{Catalog, Index, TableState};
use crate::conflict::{RangeMark, Ring};
use crate::db::Database;
use crate::engine::Engine;
use crate::kinds::{AnyKind, KindPlace, Logic};
use crate::options::Options;
use crate::replay::replay;
use crate::store::checkpoint::{self, Metadata};
use crate::store::image::segment_of_name;
use crate::store::pages::Reserve;
use crate::store::superblock::{self, Superblock};
use crate::store::{PageLogic, Store, StoreOptions, disk_reserve};
use crate::turn::{Cuts, Turn};
use esker_base::sync::{Arc, Ordering};
use esker_base::{CommitNo, DatabaseId, Error, Lsn, Result, TableId};
use esker_io::Disk;
use esker_io::mem::MemDisk;
use esker_wal::Wal;

/// Image numbers skipped at open, so that no orphan of the crashed run has one that is used again.
const NUMBERS_SKIPPED: u64 = 1 << 24;
/// Segments made since the last checkpoint, at most: as the smallest are of 128 pages, that is terabytes.
const SEGMENTS_SINCE_MAX: u32 = 1 << 24;
/// LSNs are block-aligned where a log begins.
const BLOCK_BYTES: u64 = 4096;
/// Level noted for a root whose height nobody looked up; freeing reads it from the page.
const ROOT_LEVEL: u8 = 15;

/// Opens or creates.
pub(crate) fn open(disk: Arc<dyn Disk>, options: Options) -> Result<Database> {
    let lock = disk.lock()?;
    let names = disk.list()?;
    let engine = if names.iter().any(|name| name == superblock::SUPER_NAME) {
        recover(&disk, &options)?
    } else {
        let ours = |name: &&String| segment_of_name(name).is_some();
        if let Some(name) = names.iter().find(ours) {
            return Err(Error::corrupt(
                "superblock",
                superblock::SUPER_NAME,
                0,
                format!("the file is missing, and {name} is there"),
            ));
        }
        // An interrupted creation leaves an empty log, never a used one.
        if esker_wal::is_used(&*disk)? {
            return Err(Error::corrupt(
                "superblock",
                superblock::SUPER_NAME,
                0,
                "the file is missing, and there is a log with something in it",
            ));
        }
        if !options.create {
            return Err(Error::NotADatabase {
                path: disk.label(),
                detail: "it has no file named super".to_owned(),
            });
        }
        let foreign = names.iter().find(|name| !is_ours(name));
        if let Some(name) = foreign {
            return Err(Error::NotADatabase {
                path: disk.label(),
                detail: format!("it holds other files, such as {name}"),
            });
        }
        create(&disk, &options)?
    };
    *engine.lock.lock() = Some(lock);
    // Later will do, where there is no space for it now.
    let _ignored = engine.store.take_reserve().is_err();
    Ok(Database::new(Arc::new(engine)))
}

/// Names that an interrupted creation may have left.
fn is_ours(name: &str) -> bool {
    name == "LOCK"
        || name == disk_reserve::RESERVE_NAME
        || ["wal-", "checkpoint-", "super"].iter().any(|prefix| name.starts_with(prefix))
}

fn wal_options(options: &Options, database: DatabaseId, incarnation: u64) -> esker_wal::Options {
    let mut wal = esker_wal::Options::new(database, incarnation);
    wal.file_bytes_max = options.log_file_bytes;
    wal.first_file_bytes = wal.first_file_bytes.min(options.log_file_bytes);
    wal
}

fn store_options(options: &Options, page_bytes: usize) -> StoreOptions {
    StoreOptions {
        page_bytes,
        frames: options.frames(page_bytes),
        // A map node takes as much memory as a page; a sixteenth of the budget.
        map_nodes: (options.memory_bytes / 16 / page_bytes).max(4),
        compress: options.compress,
    }
}

fn create(disk: &Arc<dyn Disk>, options: &Options) -> Result<Engine> {
    for name in disk.list()? {
        if is_ours(&name) && name != "LOCK" {
            disk.remove(&name)?;
        }
    }
    let database = DatabaseId(disk.random());
    let page_bytes = options.page_bytes;
    let (wal, tail) = Wal::create(Arc::clone(disk), wal_options(options, database, 1), 1, Lsn(0))?;
    let store_options = store_options(options, page_bytes);
    let logic = Arc::new(Logic::new(options, page_bytes));
    let store_logic: Arc<dyn PageLogic> = Arc::<Logic>::clone(&logic);
    let state = Store::empty_state(&store_options);
    let store =
        Store::new(Arc::clone(disk), database, store_options, store_logic, state, 1, CommitNo(0))?;
    let mut engine_part = Vec::new();
    Catalog::default().encode(TableId(1), &mut engine_part);
    let mut superblock = Superblock {
        database,
        generation: 1,
        checkpoint: 1,
        log_start: Lsn(0),
        incarnation: 1,
        checkpoint_crc: 0,
        checkpoint_bytes: 0,
        page_bytes: u32::try_from(page_bytes).expect("checked by Options"),
    };
    store.first_checkpoint(&engine_part, &mut superblock)?;
    superblock::create(&**disk, &superblock)?;
    let turn = new_turn(tail, CommitNo(0), TableId(1));
    let catalog = Catalog::default();
    Ok(Engine::new(options.clone(), store, logic, wal, turn, catalog, superblock))
}

fn new_turn(tail: esker_wal::Tail, last: CommitNo, next_table: TableId) -> Turn {
    Turn {
        tail,
        last,
        cuts: Cuts::default(),
        ring: Ring::new(last),
        reserve: Reserve::default(),
        solo: None,
        next_table,
    }
}

/// Recovers. On a full disk, with the space of the reserve; if that is not enough either, with a log in
/// memory, so that at least everything can be read.
fn recover(disk: &Arc<dyn Disk>, options: &Options) -> Result<Engine> {
    let no_space = |result: &Result<Engine>| matches!(result, Err(Error::NoSpace { .. }));
    let mut result = recover_with_log_on(disk, options, disk);
    if no_space(&result) && remove_stale_log_files(&**disk)? {
        esker_base::mark::OPEN_WITHOUT_STALE.hit();
        result = recover_with_log_on(disk, options, disk);
    }
    if no_space(&result) && disk_reserve::remove(&**disk)? {
        esker_base::mark::OPEN_WITHOUT_RESERVE.hit();
        // Each try leaves the log that it has begun.
        remove_stale_log_files(&**disk)?;
        result = recover_with_log_on(disk, options, disk);
        if let Ok(engine) = &result {
            engine.store.disk_reserve.note_given_up();
        }
    }
    if no_space(&result) {
        esker_base::mark::OPEN_READ_ONLY.hit();
        remove_stale_log_files(&**disk)?;
        let memory: Arc<dyn Disk> = Arc::new(MemDisk::new());
        result = recover_with_log_on(disk, options, &memory).map(|mut engine| {
            engine.read_only = true;
            engine
        });
    }
    result
}

/// Removes log files that recovery will not read. What the superblock says may be in the page cache only
/// (the process died before its sync), and then a loss of power would bring the one before
/// back, which names other files; so it is written again first, as a generation of its own.
fn remove_stale_log_files(disk: &dyn Disk) -> Result<bool> {
    let superblock = superblock::read(disk)?;
    let Superblock { database, incarnation, log_start, generation, .. } = superblock;
    let end = esker_wal::read(disk, database, incarnation, log_start, &mut |_| Ok(()))?;
    if end.stale.is_empty() {
        return Ok(false);
    }
    superblock::rewrite(disk, &superblock)?;
    superblock::write(disk, &Superblock { generation: generation + 1, ..superblock })?;
    for name in &end.stale {
        disk.remove(name)?;
    }
    disk.sync_dir()?;
    Ok(true)
}

fn recover_with_log_on(
    disk: &Arc<dyn Disk>,
    options: &Options,
    log_disk: &Arc<dyn Disk>,
) -> Result<Engine> {
    let superblock = superblock::read(&**disk)?;
    let database = superblock.database;
    let page_bytes = superblock.page_bytes as usize;
    if !page_bytes.is_power_of_two() || !(1024..=32768).contains(&page_bytes) {
        let detail = format!("pages of {page_bytes} bytes");
        return Err(Error::corrupt("superblock", superblock::SUPER_NAME, 0, detail));
    }
    let payload = superblock::read_checkpoint(&**disk, &superblock)?;
    let store_options = store_options(options, page_bytes);
    let name = superblock::checkpoint_name(superblock.checkpoint);
    let Metadata { commit, next_number, mut state, engine } =
        checkpoint::decode(&payload, &store_options, &name)?;
    let logic = Arc::new(Logic::new(options, page_bytes));
    let make = |table, kind| {
        let place = KindPlace { database, table, page_bytes };
        Arc::new(AnyKind::of(kind, options, &logic, place))
    };
    let (mut catalog, next_table) = Catalog::decode(&engine, &make)
        .filter(|(catalog, _)| catalog.by_id.values().all(|t| state.ids.has(t.root.page().0, 1)))
        .ok_or_else(|| Error::corrupt("catalogue", name.clone(), 0, "it does not decode"))?;
    check_segments(&**disk, &mut state)?;

    // Read once to know where the log ends and which names and numbers are taken; a damaged log is
    // found here, before anything is changed.
    let end = esker_wal::read(
        &**disk,
        database,
        superblock.incarnation,
        superblock.log_start,
        &mut |_| Ok(()),
    )?;
    let incarnation = end.highest_incarnation.max(superblock.incarnation) + 1;
    let start = Lsn(end.end.0.next_multiple_of(BLOCK_BYTES));
    let (wal, tail) = Wal::create(
        Arc::clone(log_disk),
        wal_options(options, database, incarnation),
        end.highest_sequence + 1,
        start,
    )?;
    let store = Store::new(
        Arc::clone(disk),
        database,
        store_options,
        Arc::<Logic>::clone(&logic),
        state,
        next_number + NUMBERS_SKIPPED,
        commit,
    )?;
    forget_freed(&store, &mut catalog);
    for table in catalog.by_id.values() {
        logic.set(table.id, Arc::clone(&table.index));
    }
    for (id, kind) in &catalog.dropped {
        logic.set(*id, make(*id, *kind));
    }
    let turn = new_turn(tail, commit, next_table);
    let engine = Engine::new(options.clone(), store, logic, wal, turn, catalog, superblock);
    engine.store.note_reserve()?;
    engine.is_recovering.store(true, Ordering::Relaxed);
    replay(&engine, &**disk, &superblock, commit)?;
    if !Arc::ptr_eq(disk, log_disk) {
        return Ok(engine);
    }

    let renewed = Superblock {
        generation: superblock.generation + 1,
        log_start: start,
        incarnation,
        ..superblock
    };
    adopt_log(&engine, &**disk, &superblock, renewed, &end.files)?;
    Ok(engine)
}

/// Forgets dropped tables of which nothing is left to free.
fn forget_freed(store: &Store, catalog: &mut Catalog) {
    let state = store.state.lock();
    let trees = state.trees.iter().map(|tree| tree.table);
    let waiting: std::collections::BTreeSet<TableId> =
        trees.chain(state.freed.iter().map(|freed| freed.table)).collect();
    catalog.dropped.retain(|id, _| waiting.contains(id));
}

/// Makes the new log, which holds all of the old one, the one that counts, and removes what then counts no more.
fn adopt_log(
    engine: &Engine,
    disk: &dyn Disk,
    old: &Superblock,
    renewed: Superblock,
    old_files: &[String],
) -> Result<()> {
    // The new log is durable before the superblock names it, and the directory too.
    let position = engine.wal.position();
    engine.sync_log(position)?;
    disk.sync_dir()?;
    superblock::rewrite(disk, old)?;
    superblock::write(disk, &renewed)?;
    *engine.maintenance.lock() = renewed;
    engine.is_recovering.store(false, Ordering::Relaxed);
    engine.checkpoint_lsn.store(renewed.log_start.0, Ordering::Relaxed);
    for name in old_files {
        disk.remove(name)?;
    }
    let kept = superblock::checkpoint_name(renewed.checkpoint);
    for name in disk.list()? {
        let is_old = name.starts_with("checkpoint-") && name != kept || name == "super.new";
        if is_old || is_sort_name(&name) {
            disk.remove(&name)?;
        }
    }
    Ok(())
}

/// Every segment that the checkpoint names must be there, whole; those it does not name are orphans
/// of the run that ended and are removed. Names of numbers that it cannot have come to are not Esker's: they stay.
fn check_segments(disk: &dyn Disk, state: &mut crate::store::State) -> Result<()> {
    let mut found = std::collections::BTreeSet::new();
    let ours = 0..state.segments.next.saturating_add(SEGMENTS_SINCE_MAX);
    for name in disk.list()? {
        let Some(id) = segment_of_name(&name).filter(|id| ours.contains(&id.0)) else { continue };
        if state.segments.table.contains_key(&id) {
            found.insert(id);
        } else {
            esker_base::mark::SEGMENT_ORPHANED.hit();
            disk.remove(&name)?;
        }
        // Ids are never reused, not even those of orphans.
        state.segments.next = state.segments.next.max(id.0.saturating_add(1));
    }
    for (id, segment) in &state.segments.table {
        let name = crate::store::image::segment_name(*id);
        if segment.live == 0 {
            continue;
        }
        if !found.contains(id) {
            return Err(Error::corrupt("segment", name, 0, "the file is missing"));
        }
        let bytes = disk.open(&name, esker_io::OpenMode::Read)?.len()?;
        if bytes < segment.bytes {
            let detail = format!("{bytes} bytes long, expected {}", segment.bytes);
            return Err(Error::corrupt("segment", name, bytes, detail));
        }
    }
    // Empty ones whose file went before the checkpoint that forgets them.
    state.segments.table.retain(|id, segment| segment.live > 0 || found.contains(id));
    Ok(())
}

impl Engine {
    /// Makes a table with an empty root. In the turn.
    pub(crate) fn make_table(
        &self,
        turn: &mut Turn,
        id: TableId,
        name: &str,
        kind: Index,
        commit: CommitNo,
    ) -> Result<Arc<TableState>> {
        let place = KindPlace {
            database: self.store.database,
            table: id,
            page_bytes: self.store.options.page_bytes,
        };
        let index = Arc::new(AnyKind::of(kind, &self.options, &self.logic, place));
        if matches!(*index, AnyKind::Unregistered) {
            let (kind, table) = (kind.to_string(), name.to_owned());
            return Err(Error::UnknownKind { kind, table });
        }
        self.logic.set(id, Arc::clone(&index));
        let root = self.in_turn(turn, id, commit, |session| index.create(session))?;
        let mut table = TableState::new(id, name, kind, index, root, 0);
        table.created_at = commit;
        let table = Arc::new(table);
        turn.next_table = turn.next_table.max(TableId(id.0 + 1));
        self.replay_log_byte_ns.fetch_max(replay_log_byte_ns(kind), Ordering::Relaxed);
        self.catalog.write().insert(Arc::clone(&table));
        Ok(table)
    }

    /// Takes a table out of the catalogue and gives up its pages. In the turn.
    pub(crate) fn unmake_table(
        &self,
        turn: &mut Turn,
        table: &TableState,
        commit: CommitNo,
    ) -> Result<()> {
        table.dropped.store(true, Ordering::Relaxed);
        table.index.retire();
        self.catalog.write().remove(table.id);
        // Whoever has read the table has read something else than what now holds.
        turn.ring.wrote_range(commit, RangeMark::new(table.id, b"", None));
        self.in_turn(turn, table.id, commit, |session| {
            use esker_index::pages::TurnPages;
            session.free_tree(table.root.load(), ROOT_LEVEL);
            Ok(())
        })
    }
}
