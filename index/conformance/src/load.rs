//! Many rows at once, and memory for few of them.
//!
//! A load of ten times what memory holds, crashed at some operations of the disk, then read, changed,
//! emptied; and a database opened with as few frames as it takes, with keys and values of the
//! largest sizes. In the end nothing that is not needed may be left in the segments.

use crate::subject::Subject;
use crate::{Choices, Rng, Settings, State, crash, seeds};
use esker::{Database, Durability, Error, Result, Table};
use esker_io::sim::{CrashKind, SimDisk};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// The fewest pages of memory that a database opens with.
const PAGES_MIN: usize = 112;

fn settings(durability: Durability) -> Settings {
    Settings { pages: PAGES_MIN, durability, ..Settings::TINY }
}

fn open(subject: Subject<'_>, disk: &SimDisk, settings: &Settings) -> Result<Database> {
    (subject.register)(settings.options()).open_on(Arc::new(disk.clone()))
}

fn sound(db: &Database, when: &str) -> Result<()> {
    let found = db.verify()?;
    assert!(found.is_sound(), "{when}: {:?}", found.damage);
    Ok(())
}

fn expect(table: &Table, wanted: &Map, when: &str) -> Result<()> {
    let mut found = Map::new();
    let mut last = None;
    for row in table.rows()? {
        let (key, value) = row?.into_parts();
        assert!(
            !table.is_ordered() || last.as_ref().is_none_or(|last| *last < key),
            "{when}: {} is out of order",
            key.escape_ascii()
        );
        last = Some(key.clone());
        let twice = found.insert(key, value);
        assert!(twice.is_none(), "{when}: {last:?} comes twice");
    }
    assert!(found == *wanted, "{when}: {} rows, not the {} wanted", found.len(), wanted.len());
    let keys: Vec<&Vec<u8>> = wanted.keys().step_by(5).collect();
    for (key, found) in keys.iter().zip(table.multi_get(&keys)?) {
        assert!(found.as_ref() == wanted.get(*key), "{when}: get of {}", key.escape_ascii());
    }
    for key in keys {
        let above = [key, &b"\0none"[..]].concat();
        assert!(table.get(&above)?.is_none(), "{when}: what was never put");
    }
    Ok(())
}

/// Rows in order: some with long keys, some with values that lie outside their pages.
fn rows(seed: u64, count: u32) -> Map {
    let mut rng = Rng::new(seed);
    let long_keys = rng.one_in(4);
    let bytes_max = rng.pick(&[60, 120, 400]);
    (0..count)
        .map(|n| {
            let mut key = format!("row/{:06}", n * 3).into_bytes();
            if long_keys && n % 5 == 0 {
                key.resize(256, b'k');
            }
            let bytes = if rng.one_in(100) { 3000 } else { rng.below(bytes_max) };
            let value = (0..bytes).map(|i| ((i * i * u64::from(n)) >> 3) as u8).collect();
            (key, value)
        })
        .collect()
}

/// Loads, crashes meanwhile, and lives on.
///
/// # Panics
/// If anything is found that may not be.
pub fn bulk(subject: Subject<'_>, seed: u64) {
    let result = try_bulk(subject, seed);
    result.unwrap_or_else(|error| panic!("{error}"));
}

fn try_bulk(subject: Subject<'_>, seed: u64) -> Result<()> {
    let mut rng = Rng::new(!seed);
    let settings = settings(Durability::Sync);
    let disk = SimDisk::new(seed);
    disk.answer_residence(seeds::answers(seed));
    let db = open(subject, &disk, &settings)?;
    let table = db.create_table("t", subject.kind_of(seed))?;
    let mut wanted = rows(seed, 3000);
    let left = Arc::new(Mutex::new(Vec::new()));
    let net = Arc::clone(&left);
    let mut draws = rng.clone();
    disk.on_operation(Box::new(move |operation, disk| {
        if draws.one_in(150) {
            let kind = crash::kind(draws.next() % 64, disk, draws.next());
            let clone = disk.crash_clone(kind, operation);
            net.lock().expect("nobody panics with it").push((operation, kind, clone));
        }
    }));
    let loaded = table.bulk_load(wanted.iter())?;
    assert_eq!(loaded, wanted.len() as u64, "rows loaded");
    disk.clear_hook();
    for (operation, kind, left) in std::mem::take(&mut *left.lock().expect("nobody panics")) {
        let when = format!("{kind:?} at operation {operation} of a load");
        let db = open(subject, &left, &settings).unwrap_or_else(|error| panic!("{when}: {error}"));
        let table = db.open_table("t")?;
        let found = State::read(&db)?;
        let found = found.rows("t", 0).expect("it exists").len();
        // Whole commits, from the first one on.
        let part: Map = wanted.clone().into_iter().take(found).collect();
        expect(&table, &part, &when)?;
        sound(&db, &when)?;
    }
    expect(&table, &wanted, "after a load")?;
    sound(&db, "after a load")?;
    // More rows between those that are there, in order again.
    let more: Map = rows(seed + 1, 2000)
        .into_iter()
        .map(|(mut key, value)| {
            key[9] = b'x';
            (key, value)
        })
        .collect();
    table.bulk_load(more.iter())?;
    wanted.extend(more);
    expect(&table, &wanted, "after another load")?;
    let keys: Vec<Vec<u8>> = wanted.keys().cloned().collect();
    for _ in 0..1500 {
        let key = &keys[rng.below(keys.len() as u64) as usize];
        if rng.one_in(3) {
            table.delete(key)?;
            wanted.remove(key);
        } else {
            let value = vec![rng.next() as u8; rng.below(200) as usize];
            table.put(key, &value)?;
            wanted.insert(key.clone(), value);
        }
    }
    if table.is_ordered() {
        let (low, high) = (&keys[keys.len() / 4], &keys[keys.len() / 2]);
        table.delete_range(low..high)?;
        wanted.retain(|key, _| key < low || key >= high);
    }
    expect(&table, &wanted, "after changes")?;
    drop(table);
    let db = reopened(subject, db, &disk, &settings, seed)?;
    let table = db.open_table("t")?;
    expect(&table, &wanted, "after a restart")?;
    db.settle()?;
    expect(&table, &wanted, "at rest")?;
    sound(&db, "at rest")?;
    empty(&db, &table, &wanted, seed)
}

fn reopened(
    subject: Subject<'_>,
    db: Database,
    disk: &SimDisk,
    settings: &Settings,
    seed: u64,
) -> Result<Database> {
    if seed.is_multiple_of(2) {
        db.close()?;
        return open(subject, disk, settings);
    }
    drop(db);
    open(subject, disk, settings)
}

/// Empties the table, one way or another; then next to nothing is alive in the segments.
fn empty(db: &Database, table: &Table, rows: &Map, seed: u64) -> Result<()> {
    if seed.is_multiple_of(3) {
        for key in rows.keys() {
            table.delete(key)?;
        }
    } else {
        table.clear()?;
    }
    expect(table, &Map::new(), "emptied")?;
    db.settle()?;
    sound(db, "emptied")?;
    if !seed.is_multiple_of(3) {
        let live = db.stats().live_bytes;
        assert!(live < 64 << 10, "{live} bytes are alive of an empty table");
    }
    table.put("again", "a row")?;
    assert_eq!(table.get("again")?.as_deref(), Some(&b"a row"[..]));
    Ok(())
}

/// As few frames as it takes, and all the largest sizes.
///
/// # Panics
/// If anything is found that may not be.
pub fn little_memory(subject: Subject<'_>, seed: u64) {
    let result = try_little_memory(subject, seed);
    result.unwrap_or_else(|error| panic!("{error}"));
}

fn try_little_memory(subject: Subject<'_>, seed: u64) -> Result<()> {
    let mut rng = Rng::new(seed);
    let page_bytes = rng.pick(&[1024, 1024, 4096, 8192]);
    let settings = Settings { page_bytes, ..settings(Durability::Buffered) };
    let less = (subject.register)(settings.options()).memory_bytes(page_bytes * 100);
    let refused = less.open_on(Arc::new(SimDisk::new(seed)));
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    let disk = SimDisk::new(seed);
    let db = open(subject, &disk, &settings)?;
    let table = db.create_table("t", subject.kind_of(seed))?;
    let mut wanted = Map::new();
    let key_bytes_max = (page_bytes / 4).min(esker::KEY_BYTES_MAX) as u64;
    let inline_max = esker::index::kind::max_inline_value_bytes(page_bytes - 64) as u64;
    let kinds = rng.pick(&[3, 6]);
    for round in 0..2500u64 {
        let n = rng.below(1200);
        let mut key = format!("{:05}", n * 7919 % 1200).into_bytes();
        if n.is_multiple_of(kinds) {
            key.resize(key_bytes_max as usize, b'l');
        }
        let bytes = match rng.below(12) {
            0 => inline_max,
            1 => inline_max + 1,
            2 if round % 3 == 0 => page_bytes as u64 * 3,
            _ => rng.below(inline_max),
        };
        match rng.below(10) {
            0 => {
                table.delete(&key)?;
                wanted.remove(&key);
            }
            1 => {
                assert!(table.get(&key)? == wanted.get(&key).cloned(), "{}", key.escape_ascii());
            }
            _ => {
                let value = vec![round as u8; bytes as usize];
                table.put(&key, &value)?;
                wanted.insert(key, value);
            }
        }
        if round % 500 == 250 {
            // Many pages at once, and a snapshot that must not see it.
            let snapshot = db.snapshot();
            let before = wanted.len();
            let mut batch = db.batch();
            for n in 0..40u64 {
                let key = format!("{:05}b", rng.below(1200)).into_bytes();
                let value = vec![n as u8; 50];
                batch.put(&table, &key, &value);
                wanted.insert(key, value);
            }
            batch.commit()?;
            let rows = snapshot.rows(&table)?.collect::<Result<Vec<_>>>()?;
            assert_eq!(rows.len(), before, "rows of a snapshot");
        }
    }
    let too_long = vec![b'x'; key_bytes_max as usize + 1];
    assert!(matches!(
        table.put(&too_long, "v"),
        Err(Error::TooLarge { .. } | Error::Invalid { .. })
    ));
    expect(&table, &wanted, "with little memory")?;
    let stats = db.stats();
    assert!(stats.evictions > 0, "everything fitted into memory");
    assert!(stats.cache_pages <= PAGES_MIN as u64, "{} frames", stats.cache_pages);
    sound(&db, "with little memory")?;
    db.sync()?;
    let left = disk.crash_clone(CrashKind::None, seed);
    let again = open(subject, &left, &settings)?;
    expect(&again.open_table("t")?, &wanted, "after the loss of power")?;
    sound(&again, "after the loss of power")?;
    drop(again);
    db.settle()?;
    expect(&table, &wanted, "at rest")?;
    sound(&db, "at rest")
}

/// Runs `count` seeds of each.
pub fn each(subject: Subject<'_>, count: u64) {
    seeds::each(count, |seed| bulk(subject, seed));
    seeds::each(count, |seed| little_memory(subject, seed));
}
