//! What the fuzz targets run, here so that their corpus is replayed as ordinary tests, too.

use super::choices::Bytes;
use super::generate::{self, Profile};
use super::{Choices, Known, Op, Runner};
use esker::{Error, Index, Options, Result};
use esker_base::sync::OnceLock;
use esker_index::btree;
use esker_index::fold::Fold;
use esker_io::sim::{CrashKind, SimDisk};
use esker_io::{Disk, OpenMode};
use std::sync::{Arc, Mutex};

/// Operations made from bytes, against the model.
pub(crate) fn operations(data: &[u8]) {
    let mut choices = Bytes(data);
    let profile = Profile { ops: (300, 300), writes: false, durability: None, kind: None };
    let mut script = generate::script(&mut choices, profile);
    script.ops.extend([Op::Verify, Op::Reopen { close: false }, Op::CompareAll]);
    let known = Arc::new(Mutex::new(Known::default()));
    let mut runner = Runner::open(Arc::new(SimDisk::new(1)), script.settings, known).unwrap();
    for op in &script.ops {
        runner.step(op).unwrap_or_else(|error| panic!("{op:?}: {error}"));
    }
}

/// Operations made from bytes, then a crash in the middle of them, at an operation and of a kind made
/// from bytes as well.
pub(crate) fn crash(data: &[u8]) {
    let mut choices = Bytes(data);
    let at = choices.below(400);
    let kind = choices.pick(&CrashKind::ALL);
    let seed = choices.below(256);
    let profile = Profile { ops: (150, 150), writes: true, durability: None, kind: None };
    let script = generate::script(&mut choices, profile);
    let disk = SimDisk::new(1);
    let known = Arc::new(Mutex::new(Known::default()));
    let left = Arc::new(Mutex::new(None));
    let (slot, seen) = (Arc::clone(&left), Arc::clone(&known));
    let crash = move |disk: &SimDisk, known: &Known| {
        let kind = match kind {
            CrashKind::SingleDrop(_) => CrashKind::SingleDrop(seed % disk.pending_count().max(1)),
            kind => kind,
        };
        (disk.crash_clone(kind, seed), known.after_crash(kind == CrashKind::Kill))
    };
    disk.on_operation(Box::new(move |operation, disk| {
        if operation == at {
            *slot.lock().unwrap() = Some(crash(disk, &seen.lock().unwrap()));
        }
    }));
    let mut runner =
        Runner::open(Arc::new(disk.clone()), script.settings, Arc::clone(&known)).unwrap();
    for op in &script.ops {
        if left.lock().unwrap().is_some() {
            break;
        }
        runner.step(op).unwrap_or_else(|error| panic!("{op:?}: {error}"));
    }
    disk.clear_hook();
    let crashed = left.lock().unwrap().take();
    let (disk, known) = crashed.unwrap_or_else(|| crash(&disk, &known.lock().unwrap()));
    let known = Arc::new(Mutex::new(known));
    let mut runner = Runner::open(Arc::new(disk), script.settings, known).unwrap();
    for op in [Op::Verify, Op::Checkpoint, Op::Reopen { close: true }, Op::CompareAll] {
        runner.step(&op).unwrap();
    }
}

fn options() -> Options {
    Options::new().page_bytes(1024).memory_bytes(128 << 10).log_file_bytes(16 << 10)
}

/// A small database with a table of each kind, large values and a log, made once.
fn directory_image() -> &'static SimDisk {
    static IMAGE: OnceLock<SimDisk> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let disk = SimDisk::new(1);
        let db = options().open_on(Arc::new(disk.clone())).unwrap();
        for (name, kind) in [("one", Index::BTree), ("two", Index::Hash), ("three", Index::Fractal)]
        {
            let table = db.table(name, kind).unwrap();
            // Of a fractal table: more than a memtable.
            for n in 0..120u8 {
                table.put([n / 7, n], vec![n; usize::from(n) * 3]).unwrap();
            }
            table.put("large", vec![9; 4000]).unwrap();
            db.settle().unwrap();
            db.checkpoint().unwrap();
            for n in 0..20u8 {
                table.put([n], [n]).unwrap();
            }
        }
        disk.crash_clone(CrashKind::All, 0)
    })
}

/// A database whose files are changed as the bytes say, opened, read and verified: errors are fine,
/// panics are not.
pub(crate) fn directory(data: &[u8]) {
    let disk = directory_image().crash_clone(CrashKind::All, 0);
    let mut names = disk.list().unwrap();
    names.sort();
    let mut choices = Bytes(data);
    while !choices.is_exhausted() {
        let name = choices.pick(&names.iter().map(|name| &name[..]).collect::<Vec<_>>());
        let Ok(file) = disk.open(name, OpenMode::ReadWrite) else { continue };
        let bytes = file.len().unwrap();
        let at = choices.below(bytes.max(1));
        // Any of these may fail on a file that was cut.
        let _done = match choices.below(6) {
            0 => disk.corrupt(name, at, 1 << choices.below(8)),
            1 => disk.corrupt(name, at, choices.below(256) as u8),
            2 => disk.zero_sector(name, at),
            3 => file.set_len(at),
            4 => {
                let word = choices.below(1 << 32).to_le_bytes();
                file.write_at(at, &word[..=choices.below(8) as usize])
            }
            _ => {
                let other = choices.pick(&names.iter().map(|name| &name[..]).collect::<Vec<_>>());
                disk.copy_sector(&disk, other, choices.below(1 << 16), name, at)
            }
        }
        .is_err();
    }
    let _outcome = read_all(&disk).is_err();
}

pub(super) fn read_all(disk: &SimDisk) -> Result<()> {
    let db = options().open_on(Arc::new(disk.clone()))?;
    for table in db.tables() {
        for row in table.rows()? {
            match row {
                // A get may meet other pages than the scan: filters.
                Ok(row) => match table.contains(row.key()) {
                    Ok(found) => assert!(found),
                    Err(Error::Corrupt { .. }) => {}
                    Err(error) => return Err(error),
                },
                Err(Error::Corrupt { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        // The first one says if there is no order, and so no way back.
        let back = table.rows()?.rev();
        let _rows = back.take_while(Result::is_ok).count();
        let _put = table.put("new", "row").is_err();
    }
    db.verify()?;
    db.checkpoint()?;
    db.settle()
}

/// A disk whose only files are the log's, read as a log: never a panic.
pub(crate) fn log(data: &[u8]) {
    let disk = SimDisk::new(1);
    let mut choices = Bytes(data);
    let sequence = choices.below(4);
    let name = format!("wal-{sequence:016x}");
    let file = disk.open(&name, OpenMode::Create).unwrap();
    file.write_at(0, choices.0).unwrap();
    let read =
        esker_wal::read(&disk, esker_wal::DatabaseId(1), 1, esker_wal::Lsn(0), &mut |group| {
            assert!(group.payload.len() <= data.len(), "a group larger than its file");
            Ok(())
        });
    let _outcome = read.is_err();
}

/// Any bytes as the body of a page: what is accepted can be read. The first byte says how many children
/// it has, 0 for a leaf.
pub(crate) fn pages(data: &[u8]) {
    let Some((&children, body)) = data.split_first() else { return };
    if children > 0 {
        if btree::check_branch(usize::from(children), body).is_ok() {
            let hole = btree::branch_hole(body);
            assert!(hole.start <= hole.end && hole.end <= body.len());
        }
        return;
    }
    if btree::check_leaf(body, false).is_ok() {
        let (mut folded, mut again) = (Vec::new(), vec![0; body.len()]);
        assert!(Fold::Leaf.fold(body, &mut folded) <= body.len());
        Fold::Leaf.unfold(&folded, &mut again).unwrap();
        btree::check_leaf(&again, false).unwrap();
        let mut twice = Vec::new();
        Fold::Leaf.fold(&again, &mut twice);
        assert_eq!(folded, twice, "what comes back is the same leaf");
        let mut handles = 0;
        btree::overflow_handles(body, &mut |_| handles += 1);
        assert!(handles * esker_index::kind::HANDLE_BYTES <= body.len(), "{handles} handles");
    }
}
