//! Replay: the log, from the checkpoint's cut on, applied to the pages through the ordinary write path and copied into a new log.
//!
//! On a real disk three threads share it: one reads and checks the old log, the caller copies and applies it, and a third
//! gets memory and the new log's file ready and syncs what was copied. A second of puts at full speed is then replayed in
//! less than a second.

use crate::catalog::{Index, is_id, is_name};
use crate::commit::Job;
use crate::engine::Engine;
use crate::range::Span;
use crate::record::Record;
use crate::store::superblock::Superblock;
use crate::write_set::WriteSet;
use esker_base::codec::Reader;
use esker_base::sync::{AtomicBool, Ordering, thread};
use esker_base::{CommitNo, Error, Result, TableId};
use esker_io::Disk;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

/// Bytes of log that are replayed at a time, at most: their leaves are read together, and the more rows go to one leaf at once
/// the less each costs.
const REPLAY_BYTES_MAX: usize = 16 << 20;
/// It is not more than this part of memory (1 / this): they are held twice, beside what they are written to.
const REPLAY_SHARE: usize = 32;
/// Bytes that the reader hands over at a time, and how many such it may be ahead.
const BATCH_BYTES: usize = 1 << 20;
const BATCHES_AHEAD: usize = 4;
/// What was copied is synced in such steps: a sync of all of it at the end would be waited for.
const SYNC_BYTES: u64 = 16 << 20;

/// Groups of the log, one after the other.
#[derive(Debug, Default)]
struct Groups {
    payloads: Vec<u8>,
    /// The commit of each, and where its payload ends.
    ends: Vec<(CommitNo, usize)>,
}

impl Groups {
    fn push(&mut self, commit: CommitNo, payload: &[u8]) {
        self.payloads.extend_from_slice(payload);
        self.ends.push((commit, self.payloads.len()));
    }
    fn iter(&self) -> impl Iterator<Item = (CommitNo, &[u8])> {
        let mut from = 0;
        self.ends.iter().map(move |(commit, end)| {
            let payload = &self.payloads[from..*end];
            from = *end;
            (*commit, payload)
        })
    }
}

/// Applies the log to the pages and copies it into the new log. `from`: the commit of the checkpoint.
///
/// # Errors
/// As [`esker_wal::read`], and whatever a write may meet.
pub(crate) fn replay(
    engine: &Engine,
    disk: &dyn Disk,
    superblock: &Superblock,
    from: CommitNo,
) -> Result<()> {
    let read = |give: &mut dyn FnMut(Groups) -> Result<()>| {
        let (mut batch, mut newest) = (Groups::default(), CommitNo(0));
        let (database, start) = (superblock.database, superblock.log_start);
        esker_wal::read(disk, database, superblock.incarnation, start, &mut |group| {
            if group.commit <= newest {
                return Err(bad_record("its commit is not newer than the one before"));
            }
            newest = group.commit;
            if group.commit > from {
                batch.push(group.commit, group.payload);
            }
            if batch.payloads.len() < BATCH_BYTES {
                return Ok(());
            }
            give(std::mem::take(&mut batch))
        })?;
        give(batch)
    };
    let mut replayer = Replayer::new(engine);
    if !engine.store.disk.threads() {
        read(&mut |batch| replayer.take(batch))?;
        return replayer.finish();
    }
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        let _done = SetOnDrop(&is_done);
        scope.spawn(|| get_ready(engine, &is_done));
        let (sender, receiver) = sync_channel(BATCHES_AHEAD);
        let reader = scope.spawn(move || {
            // Nobody takes any more: there was an error, which the other one has.
            read(&mut |batch| sender.send(batch).map_err(|_unsent| Error::Closed))
        });
        // The channel ends with this, and with it the reader.
        let taken = receiver.into_iter().try_for_each(|batch| replayer.take(batch));
        let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        taken.and(read)?;
        replayer.finish()
    })
}

/// Tells others that the work is over, even if it panicked.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Gets memory and log ready, as the log thread will from then on, until `is_done`: a replay touches all its frames and the new
/// log for the first time, and clearing them takes the kernel as long as replaying does.
fn get_ready(engine: &Engine, is_done: &AtomicBool) {
    while !is_done.load(Ordering::Relaxed) {
        let position = engine.wal.position();
        if position.0 >= engine.wal.durable().0 + SYNC_BYTES {
            // A failure poisons the database: whoever opens it meets that at the next sync.
            let _ignored = engine.sync_log(position).is_err();
        }
        if !(engine.upkeep_log() || engine.store.frames.populate()) {
            thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Gathers what is read, and applies it when it is much.
struct Replayer<'e> {
    engine: &'e Engine,
    pending: Vec<Groups>,
    pending_bytes: usize,
    bytes_max: usize,
}

impl<'e> Replayer<'e> {
    fn new(engine: &'e Engine) -> Self {
        let bytes_max = (engine.options.memory_bytes / REPLAY_SHARE).min(REPLAY_BYTES_MAX);
        Self { engine, pending: Vec::new(), pending_bytes: 0, bytes_max }
    }

    fn take(&mut self, batch: Groups) -> Result<()> {
        let engine = self.engine;
        for (commit, payload) in batch.iter() {
            while !engine.wal.fits(&engine.turn.lock().tail, payload.len()) {
                engine.wal.make_room(payload.len())?;
            }
            engine.wal.append(&mut engine.turn.lock().tail, commit, &[payload]);
        }
        self.pending_bytes += batch.payloads.len();
        self.pending.push(batch);
        if self.pending_bytes < self.bytes_max {
            return Ok(());
        }
        self.pending_bytes = 0;
        replay_some(engine, &std::mem::take(&mut self.pending))
    }

    fn finish(self) -> Result<()> {
        replay_some(self.engine, &self.pending)
    }
}

fn bad_record(detail: &str) -> Error {
    Error::corrupt("log record", "wal", 0, detail)
}

/// Good checksums do not make it a row that a call has let through.
fn check_row(engine: &Engine, key: &[u8], value: Option<&[u8]>) -> Result<()> {
    engine.check_logged(key, value).map_err(|error| bad_record(&error.to_string()))
}

/// Applies some groups. Nobody looks yet, so the writes of all of them are one sorted set, in which the
/// last write to a key stays; only changes of the catalogue come between.
fn replay_some(engine: &Engine, batches: &[Groups]) -> Result<()> {
    let mut set = WriteSet::default();
    let mut last = None;
    // Values outside leaves hold their frames until the set is applied: not too many at once.
    let mut large_pages = 0;
    for (commit, payload) in batches.iter().flat_map(Groups::iter) {
        if large_pages > engine.large_pages_max() / 4 {
            replay_set(engine, std::mem::take(&mut set), last)?;
            large_pages = 0;
        }
        let mut reader = Reader::new(payload);
        while !reader.is_empty() {
            let record = Record::decode(&mut reader)
                .ok_or_else(|| bad_record("it has a good checksum and does not decode"))?;
            let table_of = |id: TableId| {
                let table = engine.catalog.read().by_id.get(&id).cloned();
                let table =
                    table.ok_or_else(|| bad_record("it names a table that does not exist"))?;
                // What the log holds for it would be lost.
                table.check_registered()?;
                Ok::<_, Error>(table)
            };
            match record {
                Record::Put { table, key, value } => {
                    check_row(engine, key, Some(value))?;
                    large_pages += engine.large_pages(value);
                    set.put(&table_of(table)?, key, value);
                }
                Record::Delete { table, key } => {
                    check_row(engine, key, None)?;
                    set.delete(&table_of(table)?, key);
                }
                Record::DeleteRange { table, low, high } => {
                    let table = table_of(table)?;
                    let span = Span { low: low.to_vec(), high: high.map(<[u8]>::to_vec) };
                    if span.is_empty() || !(span.is_all() || table.index.is_ordered()) {
                        return Err(bad_record("it deletes a range that its table cannot have"));
                    }
                    set.delete_range(&table, span);
                }
                Record::ClearTable { table } => {
                    set.delete_range(&table_of(table)?, Span { low: Vec::new(), high: None });
                }
                Record::CreateTable { table, kind, name, custom } => {
                    replay_set(engine, std::mem::take(&mut set), last)?;
                    let custom = std::str::from_utf8(custom)
                        .map_err(|error| bad_record(&format!("index kind: {error}")))?;
                    let kind = Index::of_code(kind, custom)
                        .ok_or_else(|| bad_record("unknown index kind"))?;
                    let name = std::str::from_utf8(name)
                        .map_err(|error| bad_record(&format!("table name: {error}")))?;
                    if !is_id(table) || !is_name(name) || engine.catalog.read().has(table, name) {
                        return Err(bad_record("it makes a table that is there or cannot be"));
                    }
                    let mut turn = engine.turn.lock();
                    engine.make_table(&mut turn, table, name, kind, commit)?;
                    // Or the next reads would wait for it.
                    engine.publish(&mut turn, commit);
                }
                Record::DropTable { table } => {
                    let table = table_of(table)?;
                    replay_set(engine, std::mem::take(&mut set), last)?;
                    let mut turn = engine.turn.lock();
                    engine.unmake_table(&mut turn, &table, commit)?;
                    engine.publish(&mut turn, commit);
                }
            }
        }
        last = Some(commit);
    }
    replay_set(engine, set, last)
}

/// Applies writes whose last commit is `commit`, after reading the leaves they touch in batches.
fn replay_set(engine: &Engine, mut set: WriteSet, commit: Option<CommitNo>) -> Result<()> {
    let Some(commit) = commit else { return Ok(()) };
    set.finish();
    let _all_or_too_many = engine.warm_all(&set)?;
    let mut large = engine.make_large(&set)?;
    let mut turn = engine.turn.lock();
    {
        let job = Job { set: &set, large: &mut large, payload: &[], reads: None, transaction: 0 };
        engine.apply_chunked(&mut turn, &job, commit, &[])?;
    }
    for (_, value) in &mut large {
        value.commit(commit);
    }
    engine.publish(&mut turn, commit);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Database, Durability, Options};
    use esker_base::COUNT_LIMIT;
    use esker_base::sync::Arc;
    use esker_io::OpenMode;
    use esker_io::mem::MemDisk;
    use esker_io::sim::{CrashKind, SimDisk};

    fn open(disk: impl Disk + 'static) -> Result<Database> {
        let options = Options::new().page_bytes(1024).memory_bytes(1 << 20);
        options.durability(Durability::Os).open_on(Arc::new(disk))
    }

    fn in_memory(disk: &SimDisk) -> MemDisk {
        let copy = MemDisk::new();
        for name in disk.list().unwrap() {
            let file = disk.open(&name, OpenMode::Read).unwrap();
            let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
            file.read_at(0, &mut bytes).unwrap();
            copy.open(&name, OpenMode::Create).unwrap().write_at(0, &bytes).unwrap();
        }
        copy
    }

    /// Opens a database in whose log groups of these commits, counted from the newest, and payloads follow what calls have written: a row
    /// in `t`, a B-tree, and a hash table. On one thread, and on three.
    fn opened_with(groups: &dyn Fn(TableId, TableId) -> Vec<(u64, Vec<u8>)>) -> Result<Database> {
        let disk = SimDisk::new(1);
        let db = open(disk.clone()).unwrap();
        let table = db.table("t", Index::BTree).unwrap();
        let hash = db.table("h", Index::Hash).unwrap();
        table.put("k", "v").unwrap();
        let engine = db.engine();
        let newest = engine.turn.lock().last.0;
        for (ahead, payload) in groups(table.state.id, hash.state.id) {
            engine.wal.make_room(payload.len()).unwrap();
            let commit = CommitNo(newest + ahead);
            engine.wal.append(&mut engine.turn.lock().tail, commit, &[&payload]);
        }
        let disk = disk.crash_clone(CrashKind::Kill, 1);
        let on_three = open(in_memory(&disk));
        let on_one = open(disk);
        match (&on_one, &on_three) {
            (Ok(_), Ok(_)) | (Err(Error::Corrupt { .. }), Err(Error::Corrupt { .. })) => on_three,
            other => panic!("{other:?}"),
        }
    }

    fn encoded(records: &[Record<'_>]) -> Vec<u8> {
        let mut payload = Vec::new();
        for record in records {
            record.encode(&mut payload);
        }
        payload
    }

    /// What a log must not hold is damage, whatever its checksum: never a panic, nor a row that no call could have written.
    #[test]
    fn records_that_no_call_writes_are_damage() {
        let long = vec![b'k'; 5000];
        let (first, last) = (&b"a"[..], &b"b"[..]);
        let made = |id: u32, kind, name| {
            let table = TableId(id);
            encoded(&[Record::CreateTable { table, kind, name, custom: b"\xff" }])
        };
        let bad = |table: TableId, hash: TableId| {
            let unknown = TableId(99);
            let records = [
                Record::Put { table, key: b"", value: b"v" },
                Record::Put { table, key: &long, value: b"v" },
                Record::Delete { table, key: b"" },
                Record::Delete { table, key: &long },
                Record::DeleteRange { table, low: last, high: Some(first) },
                Record::DeleteRange { table: hash, low: first, high: Some(last) },
                Record::Put { table: unknown, key: b"k", value: b"v" },
                Record::Delete { table: unknown, key: b"k" },
                Record::DeleteRange { table: unknown, low: first, high: None },
                Record::ClearTable { table: unknown },
                Record::DropTable { table: unknown },
            ];
            let drop_twice = encoded(&[Record::DropTable { table }; 2]);
            let put = encoded(&[Record::Put { table, key: b"k", value: b"v" }]);
            let others = [
                put[..put.len() - 1].to_vec(),
                [&put[..], &[0]].concat(),
                drop_twice,
                made(0, 1, b"new"),
                made(u32::MAX, 1, b"new"),
                made(table.0, 1, b"new"),
                made(99, 1, b"t"),
                made(99, 0, b"new"),
                made(99, 5, b"new"),
                made(99, crate::catalog::CUSTOM, b"new"),
                made(99, 1, b"\xff"),
                made(99, 1, b""),
                made(99, 1, &[b'n'; 256]),
            ];
            records.iter().map(|record| encoded(&[*record])).chain(others).collect::<Vec<_>>()
        };
        let count = bad(TableId(1), TableId(2)).len();
        for which in 0..count {
            let opened = opened_with(&|table, hash| vec![(1, bad(table, hash)[which].clone())]);
            assert!(matches!(opened, Err(Error::Corrupt { .. })), "{which}: {opened:?}");
        }
        let good = opened_with(&|_, _| vec![(1, made(99, 1, &[b'n'; 255]))]).unwrap();
        assert_eq!(good.tables().len(), 3);
    }

    /// Commits are numbered in order. Among those that a checkpoint has, nobody looks.
    #[test]
    fn commits_that_go_back_are_damage() {
        let put = |table, value: &[u8]| encoded(&[Record::Put { table, key: b"k", value }]);
        let make = |id, name| {
            encoded(&[Record::CreateTable { table: TableId(id), kind: 1, name, custom: b"" }])
        };
        let rows = |numbers: [u64; 3]| {
            opened_with(&|table, _| {
                let payloads = [put(table, &[1; 800]), make(99, b"new"), put(table, &[2; 800])];
                numbers.into_iter().zip(payloads).collect()
            })
        };
        let db = rows([1, 2, 9]).unwrap();
        assert_eq!(db.open_table("t").unwrap().get("k").unwrap(), Some(vec![2; 800]));
        let db = rows([1, 2, COUNT_LIMIT]).unwrap();
        let value = db.open_table("t").unwrap().get("k").unwrap();
        assert_eq!(value, Some(vec![1; 800]), "nobody counts so far: there the log ends");
        for numbers in [[1, 1, 2], [5, 2, 6], [1, 5, 2], [0, 1, 2]] {
            let opened = rows(numbers);
            assert!(matches!(opened, Err(Error::Corrupt { .. })), "{numbers:?}: {opened:?}");
        }
    }
}
