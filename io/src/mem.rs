//! A disk in memory, for databases that need not survive and for tests that need no crash.
//!
//! A file is a row of chunks, each under its own lock, so that reads and writes of different places go
//! on side by side; only a change of length stops the others. Chunks start as untouched zeroes, which
//! cost no memory. Syncs do nothing. A window store is a plain copy.

use crate::answers::{Answering, Answers};
use crate::name::{self, check_writable, end_of};
use crate::{Disk, File, Lock, OpenMode, ReadRequest, Residence, Window};
use esker_base::sync::{Arc, AtomicBool, Mutex, Ordering, RwLock};
use esker_base::{Error, Result};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const CHUNK_BYTES: usize = 256 << 10;
/// What [`Disk::free_bytes`] answers: the real limit is the memory of the machine.
const FREE_BYTES: u64 = 1 << 40;

/// A disk in memory. Clones share the contents, so a closed database can be opened again from one.
#[derive(Clone, Debug)]
pub struct MemDisk {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    files: RwLock<BTreeMap<String, Arc<Bytes>>>,
    locked: AtomicBool,
    answering: Mutex<Answering>,
    start: Instant,
}

/// The bytes of a file, which outlive its name as long as a handle is open.
#[derive(Debug, Default)]
struct Bytes {
    rows: RwLock<Rows>,
}

#[derive(Debug, Default)]
struct Rows {
    len: u64,
    /// Enough for `len`. Bytes beyond `len` are zero.
    chunks: Vec<RwLock<Box<[u8]>>>,
}

#[derive(Debug)]
struct MemFile {
    name: String,
    mode: OpenMode,
    bytes: Arc<Bytes>,
    disk: Arc<Shared>,
}

#[derive(Debug)]
struct MemWindow {
    file: Arc<Bytes>,
    offset: u64,
    bytes: u64,
}

#[derive(Debug)]
struct MemLock(Arc<Shared>);

impl MemDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                files: RwLock::default(),
                locked: AtomicBool::new(false),
                answering: Mutex::default(),
                start: Instant::now(),
            }),
        }
    }

    /// What files say of stretches that are about to be read.
    pub fn answer_residence(&self, answers: Answers) {
        self.shared.answering.lock().answers = answers;
    }
}

impl Default for MemDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl Disk for MemDisk {
    fn open(&self, name: &str, mode: OpenMode) -> Result<Arc<dyn File>> {
        name::check(name)?;
        let mut files = self.shared.files.write();
        let bytes = match (files.get(name), mode) {
            (Some(_), OpenMode::Create) => return Err(name::already_exists(name)),
            (Some(bytes), _) => Arc::clone(bytes),
            (None, OpenMode::Create) => {
                let bytes = Arc::new(Bytes::default());
                files.insert(name.to_owned(), Arc::clone(&bytes));
                bytes
            }
            (None, _) => return Err(name::not_found("open", name)),
        };
        let disk = Arc::clone(&self.shared);
        Ok(Arc::new(MemFile { name: name.to_owned(), mode, bytes, disk }))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        name::check(from)?;
        name::check(to)?;
        let mut files = self.shared.files.write();
        let bytes = files.remove(from).ok_or_else(|| name::not_found("rename", from))?;
        files.insert(to.to_owned(), bytes);
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<()> {
        name::check(name)?;
        let removed = self.shared.files.write().remove(name);
        removed.map(drop).ok_or_else(|| name::not_found("remove", name))
    }

    fn list(&self) -> Result<Vec<String>> {
        Ok(self.shared.files.read().keys().cloned().collect())
    }

    fn sync_dir(&self) -> Result<()> {
        Ok(())
    }

    fn lock(&self) -> Result<Box<dyn Lock>> {
        if self.shared.locked.swap(true, Ordering::Acquire) {
            return Err(Error::Locked { path: self.label() });
        }
        Ok(Box::new(MemLock(Arc::clone(&self.shared))))
    }

    fn free_bytes(&self) -> Result<u64> {
        Ok(FREE_BYTES)
    }

    fn read_batch(&self, requests: &mut [ReadRequest]) {
        for request in requests {
            request.result = request.file.read_at(request.offset, &mut request.buf);
        }
    }

    fn now(&self) -> Duration {
        self.shared.start.elapsed()
    }

    fn random(&self) -> u64 {
        name::os_random()
    }

    fn label(&self) -> String {
        "memory".to_owned()
    }
}

impl Lock for MemLock {}

impl Drop for MemLock {
    fn drop(&mut self) {
        self.0.locked.store(false, Ordering::Release);
    }
}

impl Rows {
    /// Lengthens to at least `len`.
    fn grow(&mut self, len: u64) {
        self.len = self.len.max(len);
        let count = index_of(self.len.next_multiple_of(CHUNK_BYTES as u64)).0;
        self.chunks.resize_with(count.max(self.chunks.len()), || {
            RwLock::new(vec![0; CHUNK_BYTES].into_boxed_slice())
        });
    }

    fn cut(&mut self, len: u64) {
        self.len = len;
        let (whole, rest) = index_of(len);
        self.chunks.truncate(whole + usize::from(rest > 0));
        // What a later extension uncovers must be zero.
        if let Some(last) = self.chunks.last_mut()
            && rest > 0
        {
            last.get_mut()[rest..].fill(0);
        }
    }

    fn write(&self, offset: u64, mut data: &[u8]) {
        let (mut index, mut at) = index_of(offset);
        while !data.is_empty() {
            let (now, later) = data.split_at(data.len().min(CHUNK_BYTES - at));
            self.chunks[index].write()[at..at + now.len()].copy_from_slice(now);
            (data, index, at) = (later, index + 1, 0);
        }
    }
}

/// Chunk, and place in it. A length in memory fits a `usize`.
fn index_of(offset: u64) -> (usize, usize) {
    let offset = usize::try_from(offset).expect("a file in memory is smaller than memory");
    (offset / CHUNK_BYTES, offset % CHUNK_BYTES)
}

impl File for MemFile {
    fn read_at(&self, offset: u64, mut buf: &mut [u8]) -> Result<()> {
        let end = end_of(&self.name, "read", offset, buf.len() as u64)?;
        let rows = self.bytes.rows.read();
        if end > rows.len {
            return Err(name::unexpected_eof(&self.name, offset));
        }
        let (mut index, mut at) = index_of(offset);
        while !buf.is_empty() {
            let step = buf.len().min(CHUNK_BYTES - at);
            let (now, later) = buf.split_at_mut(step);
            now.copy_from_slice(&rows.chunks[index].read()[at..at + step]);
            (buf, index, at) = (later, index + 1, 0);
        }
        Ok(())
    }

    fn residence(&self, _offset: u64, _bytes: usize) -> Residence {
        self.disk.answering.lock().next()
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        check_writable(self.mode, "write", self)?;
        let end = end_of(&self.name, "write", offset, data.len() as u64)?;
        if data.is_empty() {
            return Ok(());
        }
        let rows = self.bytes.rows.read();
        if end <= rows.len {
            rows.write(offset, data);
            return Ok(());
        }
        drop(rows);
        let mut rows = self.bytes.rows.write();
        rows.grow(end);
        rows.write(offset, data);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn start_write_out(&self, _offset: u64, _bytes: u64) -> Result<()> {
        Ok(())
    }

    fn len(&self) -> Result<u64> {
        Ok(self.bytes.rows.read().len)
    }

    fn set_len(&self, bytes: u64) -> Result<()> {
        check_writable(self.mode, "set length", self)?;
        end_of(&self.name, "set length", bytes, 0)?;
        let mut rows = self.bytes.rows.write();
        if bytes < rows.len {
            rows.cut(bytes);
        } else {
            rows.grow(bytes);
        }
        Ok(())
    }

    fn preallocate(&self, bytes: u64) -> Result<()> {
        check_writable(self.mode, "preallocate", self)?;
        end_of(&self.name, "preallocate", bytes, 0)?;
        self.bytes.rows.write().grow(bytes);
        Ok(())
    }

    fn window(&self, offset: u64, bytes: u64) -> Result<Arc<dyn Window>> {
        check_writable(self.mode, "map", self)?;
        name::check_window(&self.name, offset, bytes, self.len()?)?;
        Ok(Arc::new(MemWindow { file: Arc::clone(&self.bytes), offset, bytes }))
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl Window for MemWindow {
    fn store(&self, offset: u64, data: &[u8]) {
        name::assert_inside_window(offset, data.len() as u64, self.bytes);
        let rows = self.file.rows.read();
        let at = self.offset + offset;
        assert!(at + data.len() as u64 <= rows.len, "the file was cut under its window");
        rows.write(at, data);
    }

    fn populate(&self, offset: u64, bytes: u64) -> Result<()> {
        name::assert_inside_window(offset, bytes, self.bytes);
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }
}
