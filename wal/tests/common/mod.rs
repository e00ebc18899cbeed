//! What the tests share: a log with its turn, payloads that name their commit, and a disk with
//! faults.
use esker_base::sync::{Arc, AtomicBool, AtomicU64, Condvar, Mutex, Ordering, thread};
use esker_base::{CommitNo, DatabaseId, Error, Lsn, Result};
use esker_io::{Disk, File, Lock, OpenMode, ReadRequest, Window};
use esker_wal::{End, Options, Tail, Wal};
use std::time::Duration;

pub const DATABASE: DatabaseId = DatabaseId(0xdb);
pub const START: Lsn = Lsn(0x4000);

/// A log in the hands of an engine.
#[derive(Debug)]
pub struct Log {
    pub wal: Wal,
    pub turn: Mutex<Turn>,
}

#[derive(Debug)]
pub struct Turn {
    pub tail: Tail,
    pub commit: CommitNo,
}

pub fn options(first: u64, max: u64) -> Options {
    Options { first_file_bytes: first, file_bytes_max: max, ..Options::new(DATABASE, 1) }
}

impl Log {
    pub fn create(disk: Arc<dyn Disk>, options: Options) -> Result<Self> {
        let (wal, tail) = Wal::create(disk, options, 1, START)?;
        Ok(Self { wal, turn: Mutex::new(Turn { tail, commit: CommitNo(0) }) })
    }

    /// Appends a group of the given size; returns its commit and end.
    pub fn put(&self, bytes: usize) -> Result<(CommitNo, Lsn)> {
        loop {
            let mut turn = self.turn.lock();
            if self.wal.fits(&turn.tail, bytes) {
                let commit = turn.commit.next();
                turn.commit = commit;
                let payload = payload(commit, bytes);
                let (one, two) = payload.split_at(bytes / 3);
                // Of four groups, one is put together ahead, one is not after all, and two are appended at once.
                let tail = &mut turn.tail;
                let staged = match commit.0 % 4 {
                    0 => self.wal.stage(tail, commit, &payload),
                    1 => self.wal.stage(tail, commit, b"stopped").and(None),
                    _ => None,
                };
                let end = match staged {
                    Some(staged) => self.wal.append_staged(tail, &staged),
                    None => self.wal.append(tail, commit, &[one, two]),
                };
                drop(turn);
                return self.wal.failure(end).map_or(Ok((commit, end)), Err);
            }
            drop(turn);
            self.wal.make_room(bytes)?;
        }
    }

    pub fn sync(&self, lsn: Lsn) -> Result<()> {
        self.wal.sync_through(lsn, &|| self.wal.seal(&mut self.turn.lock().tail))
    }

    pub fn put_sync(&self, bytes: usize) -> Result<CommitNo> {
        let (commit, end) = self.put(bytes)?;
        self.sync(end)?;
        Ok(commit)
    }
}

/// Bytes that only this commit has.
pub fn payload(commit: CommitNo, bytes: usize) -> Vec<u8> {
    let mut state = commit.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(bytes).collect()
}

/// Reads the log back; checks each payload. Returns the commits.
pub fn read_from(disk: &dyn Disk, from: Lsn) -> Result<(Vec<u64>, End)> {
    let mut commits = Vec::new();
    let mut last = from;
    let end = esker_wal::read(disk, DATABASE, 1, from, &mut |group| {
        assert_eq!(group.payload, payload(group.commit, group.payload.len()), "{:?}", group.commit);
        assert!(group.lsn >= last && group.end > group.lsn);
        last = group.end;
        commits.push(group.commit.0);
        Ok(())
    })?;
    assert_eq!(end.groups, commits.len() as u64);
    assert_eq!(end.last_commit.0, commits.last().copied().unwrap_or(0));
    assert!(end.end >= last);
    Ok((commits, end))
}

pub fn read_all(disk: &dyn Disk) -> Result<Vec<u64>> {
    read_from(disk, START).map(|(commits, _)| commits)
}

pub fn up_to(commit: u64) -> Vec<u64> {
    (1..=commit).collect()
}

/// A disk in front of another one, with faults.
#[derive(Clone, Debug)]
pub struct FaultDisk {
    pub inner: Arc<dyn Disk>,
    pub faults: Arc<Faults>,
}

#[derive(Debug, Default)]
pub struct Faults {
    pub sync_ms: AtomicU64,
    pub syncs: AtomicU64,
    pub sync_fails: AtomicBool,
    pub no_space: AtomicBool,
    /// Files may not grow beyond this; 0 is no limit.
    pub file_bytes_max: AtomicU64,
    pub dir_sync_fails: AtomicBool,
    pub gate: Gate,
    /// Is listed, and gone when it is opened.
    pub gone: Mutex<Option<String>>,
}

/// Holds syncs of the directory up while it is closed.
#[derive(Debug, Default)]
pub struct Gate {
    closed: Mutex<bool>,
    changed: Condvar,
    pub waiting: AtomicBool,
    /// Somebody waited so long that the test has failed.
    pub forced: AtomicBool,
}

impl Gate {
    pub fn set(&self, closed: bool) {
        *self.closed.lock() = closed;
        self.changed.notify_all();
    }
    fn pass(&self) {
        let mut closed = self.closed.lock();
        while *closed && !self.forced.load(Ordering::SeqCst) {
            self.waiting.store(true, Ordering::SeqCst);
            if self.changed.wait_for(&mut closed, Duration::from_secs(20)).timed_out() {
                self.forced.store(true, Ordering::SeqCst);
            }
        }
    }
}

#[derive(Debug)]
struct FaultFile {
    inner: Arc<dyn File>,
    faults: Arc<Faults>,
}

impl FaultDisk {
    pub fn new(inner: Arc<dyn Disk>) -> Self {
        Self { inner, faults: Arc::default() }
    }
    pub fn shared(&self) -> Arc<dyn Disk> {
        Arc::new(self.clone())
    }
}

fn failure(op: &'static str, file: &str) -> Error {
    Error::Io { op, file: file.to_owned(), offset: 0, source: std::io::Error::other("injected") }
}

impl Disk for FaultDisk {
    fn open(&self, name: &str, mode: OpenMode) -> Result<Arc<dyn File>> {
        let inner = self.inner.open(name, mode)?;
        Ok(Arc::new(FaultFile { inner, faults: Arc::clone(&self.faults) }))
    }
    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.inner.rename(from, to)
    }
    fn remove(&self, name: &str) -> Result<()> {
        self.inner.remove(name)
    }
    fn list(&self) -> Result<Vec<String>> {
        let mut names = self.inner.list()?;
        names.extend(self.faults.gone.lock().clone());
        Ok(names)
    }
    fn sync_dir(&self) -> Result<()> {
        self.faults.gate.pass();
        if self.faults.dir_sync_fails.load(Ordering::SeqCst) {
            return Err(failure("sync", "directory"));
        }
        self.inner.sync_dir()
    }
    fn lock(&self) -> Result<Box<dyn Lock>> {
        self.inner.lock()
    }
    fn free_bytes(&self) -> Result<u64> {
        self.inner.free_bytes()
    }
    fn read_batch(&self, requests: &mut [ReadRequest]) {
        self.inner.read_batch(requests);
    }
    fn now(&self) -> Duration {
        self.inner.now()
    }
    fn random(&self) -> u64 {
        self.inner.random()
    }
    fn label(&self) -> String {
        self.inner.label()
    }
}

impl File for FaultFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.inner.read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.inner.write_at(offset, data)
    }
    fn sync(&self) -> Result<()> {
        self.faults.syncs.fetch_add(1, Ordering::SeqCst);
        let ms = self.faults.sync_ms.load(Ordering::SeqCst);
        if ms > 0 {
            thread::sleep(Duration::from_millis(ms));
        }
        if self.faults.sync_fails.load(Ordering::SeqCst) {
            return Err(failure("sync", self.name()));
        }
        self.inner.sync()
    }
    fn start_write_out(&self, offset: u64, bytes: u64) -> Result<()> {
        self.inner.start_write_out(offset, bytes)
    }
    fn len(&self) -> Result<u64> {
        self.inner.len()
    }
    fn set_len(&self, bytes: u64) -> Result<()> {
        self.inner.set_len(bytes)
    }
    fn preallocate(&self, bytes: u64) -> Result<()> {
        let limit = self.faults.file_bytes_max.load(Ordering::SeqCst);
        let small = self.inner.len()? >= bytes;
        if !small && (self.faults.no_space.load(Ordering::SeqCst) || (limit > 0 && bytes > limit)) {
            self.inner.preallocate(limit.min(bytes))?;
            return Err(Error::NoSpace { op: "preallocate", file: self.name().to_owned() });
        }
        self.inner.preallocate(bytes)
    }
    fn window(&self, offset: u64, bytes: u64) -> Result<Arc<dyn Window>> {
        self.inner.window(offset, bytes)
    }
    fn name(&self) -> &str {
        self.inner.name()
    }
}

/// The files of a disk, whole.
pub fn contents(disk: &dyn Disk) -> Vec<(String, Vec<u8>)> {
    let mut names = disk.list().unwrap();
    names.sort();
    let read = |name: String| {
        let file = disk.open(&name, OpenMode::Read).unwrap();
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_at(0, &mut bytes).unwrap();
        (name, bytes)
    };
    names.into_iter().map(read).collect()
}

/// Changes one byte.
pub fn flip(disk: &dyn Disk, name: &str, at: u64, mask: u8) {
    let file = disk.open(name, OpenMode::ReadWrite).unwrap();
    let mut byte = [0];
    file.read_at(at, &mut byte).unwrap();
    byte[0] ^= mask;
    file.write_at(at, &byte).unwrap();
}
