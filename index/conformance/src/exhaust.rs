//! All short scripts, and a crash at each operation of the disk of each.
//!
//! Chance meets the usual over and over and the corner now and then; here nothing is drawn. Scripts are the sequences
//! over [`alphabet`]. Crashes come in the last operation of a script only, since those in the operations before are crashes of a
//! shorter one. What they leave is looked at once: disks that hold the same bytes, of which the same is known, are the
//! same disk.

use crate::choices::mix;
use crate::known::Known;
use crate::runner::Runner;
use crate::script::{Key, Op, Settings, Shape, Span, Value, Write};
use crate::seeds;
use crate::subject::Subject;
use esker::{Durability, Index, Result};
use esker_io::sim::{CrashKind, SimDisk};
use esker_io::{Disk, OpenMode};
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// All runs have the same seed, so that what differs differs because of the script.
const SEED: u64 = 1;

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Scripts run.
    pub scripts: u64,
    /// What crashes left, each once.
    pub recoveries: u64,
    /// What crashes left that had been looked at.
    pub equal: u64,
}

/// What scripts consist of: over two keys of one table, and one more of another.
pub fn alphabet(kind: Index) -> Vec<Op> {
    let small = |salt| Value { len: 20, salt };
    // Pages of its own, a quarter of a log file.
    let large = Value { len: 3500, salt: 7 };
    let one = Span::Between(std::ops::Bound::Included(Key(0)), std::ops::Bound::Excluded(Key(1)));
    let range = if kind == Index::Hash { Op::Clear(0) } else { Op::DeleteRange(0, one) };
    vec![
        Op::Put(0, Key(0), small(1), None),
        Op::Put(0, Key(1), large, None),
        Op::Delete(0, Key(0)),
        range,
        Op::Batch(vec![(0, Write::Put(Key(0), small(2))), (1, Write::Delete(Key(0)))], None),
        Op::Batch(vec![(0, Write::Delete(Key(1))), (1, Write::Put(Key(0), small(3)))], None),
        // Enough for a leaf to be split, or for the memtable to become a run.
        Op::Fill(0, Key(0), 30, 200, 40),
        Op::Checkpoint,
        Op::Settle,
        Op::Reopen { close: true },
        Op::Reopen { close: false },
    ]
}

/// The script of a number: of length 1 come first, then those of length 2, and so on.
pub fn script(alphabet: &[Op], mut number: u64) -> Vec<Op> {
    let letters = alphabet.len() as u64;
    let mut ops = Vec::new();
    loop {
        ops.push(alphabet[(number % letters) as usize].clone());
        number /= letters;
        if number == 0 {
            ops.reverse();
            return ops;
        }
        number -= 1;
    }
}

/// How many scripts there are up to a length.
pub fn scripts(alphabet: &[Op], length: u32) -> u64 {
    (1..=length).map(|length| (alphabet.len() as u64).pow(length)).sum()
}

/// What a crash left, and what is known of it.
struct Left {
    disk: SimDisk,
    kind: CrashKind,
    operation: u64,
    known: Known,
}

/// Takes what each kind of crash leaves now: nothing unsynced is kept, or all of it, or all but one change.
fn take(disk: &SimDisk, operation: u64, known: &Known, left: &mut Vec<Left>) {
    let single = (0..disk.pending_count()).map(CrashKind::SingleDrop);
    for kind in [CrashKind::Kill, CrashKind::None, CrashKind::All].into_iter().chain(single) {
        let known = known.after_crash(kind == CrashKind::Kill);
        left.push(Left { disk: disk.crash_clone(kind, SEED), kind, operation, known });
    }
}

/// A number for the bytes of a disk and the states that may be found on it.
fn digest(left: &Left) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut names = left.disk.list().expect("there are no faults");
    names.sort();
    for name in names {
        let file = left.disk.open(&name, OpenMode::Read).expect("it was listed");
        let mut bytes = vec![0; file.len().expect("no faults") as usize];
        file.read_at(0, &mut bytes).expect("no faults");
        (name, bytes).hash(&mut hasher);
    }
    for state in left.known.candidates() {
        state.hash_rows(&mut hasher);
    }
    // What was not synced may still go.
    (left.kind == CrashKind::Kill, left.disk.pending_count()).hash(&mut hasher);
    hasher.finish()
}

/// Opens what is left, looks at all of it, writes, and loses the power again.
fn recover(subject: Subject<'_>, settings: Settings, left: Left) -> Result<()> {
    let known = Arc::new(Mutex::new(left.known));
    let open = |disk: &SimDisk, known| {
        Runner::open_with(subject.register, Arc::new(disk.clone()), settings, known)
    };
    let mut runner = open(&left.disk, Arc::clone(&known))?;
    runner.verify_all()?;
    for tab in 0..2 {
        runner.step(&Op::Put(tab, Key(5), Value { len: 9, salt: 9 }, Some(Durability::Sync)))?;
    }
    let known = known.lock().expect("nobody panics with it").after_crash(false);
    let again = left.disk.crash_clone(CrashKind::None, SEED);
    open(&again, Arc::new(Mutex::new(known)))?.compare_all()
}

/// Runs a script, and crashes in the last operation of it.
fn crash_in_last(subject: Subject<'_>, settings: Settings, ops: &[Op]) -> Result<Vec<Left>> {
    let disk = SimDisk::new(SEED);
    let known = Arc::new(Mutex::new(Known::default()));
    let shared: Arc<dyn Disk> = Arc::new(disk.clone());
    let mut runner = Runner::open_with(subject.register, shared, settings, Arc::clone(&known))?;
    let tables = [0, 1].map(Op::Create);
    let (last, before) = ops.split_last().expect("no script is empty");
    for op in tables.iter().chain(before) {
        runner.step(op)?;
    }
    let left = Arc::new(Mutex::new(Vec::new()));
    let (net, seen) = (Arc::clone(&left), Arc::clone(&known));
    disk.on_operation(Box::new(move |operation, disk| {
        let known = seen.lock().expect("nobody panics with it");
        take(disk, operation, &known, &mut net.lock().expect("nobody panics with it"));
    }));
    let done = runner.step(last);
    disk.clear_hook();
    let mut left = std::mem::take(&mut *left.lock().expect("nobody panics with it"));
    take(&disk, disk.operations(), &known.lock().expect("nobody panics with it"), &mut left);
    done.map(|()| left)
}

/// Settings of a kind and a level: as small as can be.
fn settings(kind: Index, durability: Durability) -> Settings {
    Settings {
        kinds: [kind; 3],
        durability,
        compress: false,
        shape: Shape::Short,
        ..Settings::TINY
    }
}

/// Runs all scripts up to a length, at a level of durability.
///
/// # Panics
/// If a crash leaves what may not be, with the script.
pub fn each(subject: Subject<'_>, durability: Durability, length: u32) -> Tally {
    let kind = subject.kind_of(0);
    let (alphabet, settings) = (alphabet(kind), settings(kind, durability));
    let seen = Mutex::new(HashSet::new());
    let (recoveries, equal) = (AtomicU64::new(0), AtomicU64::new(0));
    let count = scripts(&alphabet, length);
    seeds::each(count, |number| {
        let ops = script(&alphabet, number);
        let run = || crash_in_last(subject, settings, &ops);
        let left = match seeds::quietly(run) {
            Ok(Ok(left)) => left,
            Ok(Err(error)) => panic!("{ops:?}: {error}"),
            Err(message) => panic!("{ops:?}: {message}"),
        };
        for left in left {
            let digest = mix(digest(&left));
            if !seen.lock().expect("nobody panics with it").insert(digest) {
                equal.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let at = format!("{:?} before operation {}, {ops:?}", left.kind, left.operation);
            match seeds::quietly(|| recover(subject, settings, left)) {
                Ok(Ok(())) => recoveries.fetch_add(1, Ordering::Relaxed),
                Ok(Err(error)) => panic!("{at}: {error}"),
                Err(message) => panic!("{at}: {message}"),
            };
        }
    });
    Tally { scripts: count, recoveries: recoveries.into_inner(), equal: equal.into_inner() }
}
