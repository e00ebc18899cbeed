//! Open files, and windows into them.

use super::{Directory, direct};
use crate::{File, OpenMode, Residence, Window, name, sys};
use esker_base::sync::Arc;
use esker_base::{Error, Result};
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::OnceLock;

/// Zeroes are written in steps of one page of the system. Larger ones would be kept in the page cache as
/// larger units, of which a store through a window dirties, and a sync then writes, the whole: a
/// megabyte per sync instead of a block. Costs about a millisecond per megabyte filled.
const ZERO_BYTES: usize = 4096;
static ZEROES: [u8; ZERO_BYTES] = [0; ZERO_BYTES];

#[derive(Debug)]
pub(super) struct OsFile {
    directory: Arc<Directory>,
    name: String,
    mode: OpenMode,
    handle: Arc<fs::File>,
    /// The same file, for reads past the page cache, if that can be had: opened when it is first wanted.
    direct: OnceLock<Option<fs::File>>,
}

#[derive(Debug)]
struct OsWindow {
    mapping: sys::Mapping,
    bytes: u64,

    // For populating.
    handle: Arc<fs::File>,
    path: String,
    /// Of the window in the file.
    offset: u64,
}

impl OsFile {
    pub(super) fn new(
        directory: Arc<Directory>,
        name: String,
        mode: OpenMode,
        handle: fs::File,
    ) -> Self {
        Self { directory, name, mode, handle: Arc::new(handle), direct: OnceLock::new() }
    }

    fn direct(&self) -> Option<&fs::File> {
        self.direct.get_or_init(|| direct::open(&self.handle)).as_ref()
    }

    /// Refuses to write where that is not right.
    fn check_write(&self, op: &'static str) -> Result<()> {
        self.directory.check_process()?;
        name::check_writable(self.mode, op, self)
    }

    fn error(&self, op: &'static str, offset: u64) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::from_io(op, &self.directory.path_of(&self.name), offset, source)
    }
}

impl File for OsFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.handle.read_exact_at(buf, offset).map_err(self.error("read", offset))
    }

    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        // Short counts, ends of file and errors are the business of `read_at`.
        Ok(sys::read_cached(&self.handle, offset, buf).is_ok_and(|count| count == buf.len()))
    }

    fn read_past_cache(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if !sys::is_cached(&self.handle, offset, buf.len())
            && let Some(direct) = self.direct()
            && direct::read(direct, offset, buf).is_ok()
        {
            return Ok(());
        }
        // Whatever that failed on, the ordinary way tells.
        self.read_at(offset, buf)
    }

    fn residence(&self, offset: u64, bytes: usize) -> Residence {
        sys::residence(&self.handle, offset, bytes)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.check_write("write")?;
        self.handle.write_all_at(data, offset).map_err(self.error("write", offset))
    }

    fn sync(&self) -> Result<()> {
        self.directory.check_process()?;
        self.handle.sync_data().map_err(self.error("sync", 0))
    }

    fn start_write_out(&self, offset: u64, bytes: u64) -> Result<()> {
        sys::start_write_out(&self.handle, offset, bytes).map_err(self.error("write out", offset))
    }

    fn len(&self) -> Result<u64> {
        Ok(self.handle.metadata().map_err(self.error("stat", 0))?.len())
    }

    fn set_len(&self, bytes: u64) -> Result<()> {
        self.check_write("set length")?;
        self.handle.set_len(bytes).map_err(self.error("set length", bytes))
    }

    fn preallocate(&self, bytes: u64) -> Result<()> {
        self.check_write("preallocate")?;
        let mut offset = self.len()?;
        while offset < bytes {
            let step =
                usize::try_from(bytes - offset).map_or(ZERO_BYTES, |left| left.min(ZERO_BYTES));
            let written = self.handle.write_all_at(&ZEROES[..step], offset);
            written.map_err(self.error("preallocate", offset))?;
            offset += step as u64;
        }
        Ok(())
    }

    fn allocate(&self, bytes: u64) -> Result<()> {
        self.check_write("allocate")?;
        let offset = self.len()?;
        if offset >= bytes {
            return Ok(());
        }
        match sys::allocate(&self.handle, offset, bytes - offset) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => self.preallocate(bytes),
            allocated => allocated.map_err(self.error("allocate", offset)),
        }
    }

    fn window(&self, offset: u64, bytes: u64) -> Result<Arc<dyn Window>> {
        self.check_write("map")?;
        name::check_window(&self.name, offset, bytes, self.len()?)?;
        let length = usize::try_from(bytes)
            .map_err(|_too_large| self.error("map", offset)(io::ErrorKind::OutOfMemory.into()))?;
        let mapping = sys::Mapping::shared(&self.handle, offset, length)
            .map_err(self.error("map", offset))?;
        // A child that stored here would write into its parent's log.
        #[cfg(target_os = "linux")]
        mapping.advise(0, length, libc::MADV_DONTFORK).map_err(self.error("map", offset))?;
        Ok(Arc::new(OsWindow {
            mapping,
            bytes,
            handle: Arc::clone(&self.handle),
            path: self.directory.path_of(&self.name),
            offset,
        }))
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn handle(&self) -> Option<&fs::File> {
        Some(&self.handle)
    }

    fn direct_handle(&self) -> Option<&fs::File> {
        self.direct()
    }
}

impl OsWindow {
    /// Brings pages in with the error, not the signal, if the device says no.
    fn fault_in(&self, offset: u64, bytes: u64) -> io::Result<()> {
        let (at, length) = (index(offset), index(bytes));
        #[cfg(target_os = "linux")]
        loop {
            let Err(error) = self.mapping.advise(at, length, libc::MADV_POPULATE_WRITE) else {
                return Ok(());
            };
            match error.raw_os_error() {
                Some(libc::EINVAL) => break, // Linux before 5.14
                Some(libc::EINTR | libc::EAGAIN) => {}
                // What a store would have got as SIGBUS; the kernel does not say which of these it is.
                Some(libc::EFAULT) => {
                    return Err(io::Error::other(
                        "the file was cut, the disk is full or the device failed",
                    ));
                }
                _ => return Err(error),
            }
        }
        // Writing each byte back through the kernel gives the page its block and brings it into the
        // page cache; the first store to it then takes a fault that has nothing left to fail on.
        // Nobody stores to pages that are not populated, so no store is undone.
        let mut page = vec![0; length];
        self.handle.read_exact_at(&mut page, self.offset + offset)?;
        self.handle.write_all_at(&page, self.offset + offset)?;
        debug_assert!(at + length <= index(self.bytes), "asserted by populate");
        Ok(())
    }
}

impl Window for OsWindow {
    fn store(&self, offset: u64, data: &[u8]) {
        name::assert_inside_window(offset, data.len() as u64, self.bytes);
        self.mapping.store(index(offset), data);
    }

    fn populate(&self, offset: u64, bytes: u64) -> Result<()> {
        name::assert_inside_window(offset, bytes, self.bytes);
        if bytes == 0 {
            return Ok(());
        }
        // Advice is given on whole pages; a mapping begins on one.
        let first = offset / name::WINDOW_ALIGN * name::WINDOW_ALIGN;
        self.fault_in(first, offset + bytes - first)
            .map_err(|source| Error::from_io("populate", &self.path, self.offset + offset, source))
    }

    /// Takes the pages out of the address space, all with one flush of the TLBs. Otherwise each sync write-protects
    /// every dirty page that is mapped, with a flush on every processor for each.
    fn settle(&self, offset: u64, bytes: u64) {
        name::assert_inside_window(offset, bytes, self.bytes);
        let first = offset.next_multiple_of(name::WINDOW_ALIGN);
        let end = (offset + bytes) / name::WINDOW_ALIGN * name::WINDOW_ALIGN;
        #[cfg(target_os = "linux")]
        if first < end {
            // Of a shared mapping of a file: its pages, dirty as they are, stay in the page cache.
            // Only a hint: if the kernel does not take it, syncs are slower.
            let _ignored =
                self.mapping.advise(index(first), index(end - first), libc::MADV_DONTNEED).is_err();
        }
        #[cfg(not(target_os = "linux"))]
        let _unused = (first, end);
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// An offset in a window, which is mapped.
fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("a mapping is no larger than the address space")
}
