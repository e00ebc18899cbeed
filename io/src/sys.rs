//! The system calls that `std` has no name for, each behind a safe function.
//!
//! All `unsafe` of this crate is here: calls with arguments that live for the call, and one mapping type
//! whose memory lives as long as it does.

#![allow(unsafe_code, reason = "system calls and mapped memory; each block says why it is sound")]

use crate::Residence;
use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Error, Result};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::{self, NonNull};

/// Memory that the kernel mapped, and unmaps when this is dropped.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the memory belongs to the value and to no thread; access to it is by raw pointer, and whoever
// dereferences one answers for races.
unsafe impl Send for Mapping {}
// SAFETY: as above; `&Mapping` gives out a pointer and a length, nothing more.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Private memory, zero until written. The kernel commits a page when it is first touched.
    pub(crate) fn anonymous(bytes: usize) -> Result<Self> {
        // The interpreter takes no other flags.
        let lazily = if cfg!(miri) { 0 } else { libc::MAP_NORESERVE };
        Self::map(bytes, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | lazily, None, 0)
    }

    /// A part of a file, shared with it. `offset` is a multiple of the page size.
    pub(crate) fn shared(file: &File, offset: u64, bytes: usize) -> Result<Self> {
        Self::map(bytes, libc::MAP_SHARED, Some(file.as_fd()), offset_of(offset)?)
    }

    fn map(
        bytes: usize,
        flags: libc::c_int,
        fd: Option<BorrowedFd<'_>>,
        offset: libc::off_t,
    ) -> Result<Self> {
        let fd = fd.map_or(-1, |fd| fd.as_raw_fd());
        let prot = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: no address is asked for, so the kernel picks one where nothing is mapped.
        let base = unsafe { libc::mmap(ptr::null_mut(), bytes, prot, flags, fd, offset) };
        if base == libc::MAP_FAILED {
            return Err(Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).expect("without MAP_FIXED nothing is mapped at 0");
        Ok(Self { base, bytes })
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// # Panics
    /// If `offset` lies outside.
    pub(crate) fn pointer_at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset <= self.bytes, "a pointer outside the mapping");
        // SAFETY: at most one past the end of the mapping, asserted above.
        unsafe { self.base.add(offset) }
    }

    /// Copies `data` to `offset`.
    ///
    /// # Panics
    /// If the range lies outside.
    pub(crate) fn store(&self, offset: usize, data: &[u8]) {
        assert!(
            offset <= self.bytes && data.len() <= self.bytes - offset,
            "{} bytes from {offset} do not lie inside a mapping of {} bytes",
            data.len(),
            self.bytes
        );
        let to = self.pointer_at(offset).as_ptr();
        // SAFETY: `to..to + data.len()` is mapped writable, asserted above. `data` cannot overlap it: no
        // reference into a mapping is ever made. One thread stores at a time (contract of `Window`), and
        // nobody in this process reads the mapping.
        unsafe { ptr::copy_nonoverlapping(data.as_ptr(), to, data.len()) };
    }

    /// Advises the kernel about a range that lies inside and begins on a page.
    pub(crate) fn advise(&self, offset: usize, bytes: usize, advice: libc::c_int) -> Result<()> {
        assert!(offset <= self.bytes && bytes <= self.bytes - offset, "advice outside the mapping");
        if cfg!(miri) {
            // It has no such call, and all of them are advice.
            return Err(io::ErrorKind::Unsupported.into());
        }
        let at = self.pointer_at(offset).as_ptr();
        // SAFETY: the range is mapped, asserted above, and no advice that callers in this crate give
        // unmaps it (POPULATE_WRITE, HUGEPAGE, DONTFORK, DONTNEED). DONTNEED makes the bytes of private memory zero, which who
        // asks for it answers for (`Arena::give_back`); those of a file stay.
        check(unsafe { libc::madvise(at.cast(), bytes, advice) })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `map` with this length and not unmapped since; whoever holds a pointer into it
        // holds the value that owns this one.
        let unmapped = check(unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) });
        debug_assert!(unmapped.is_ok(), "munmap refuses only what was never mapped");
    }
}

/// Opens a file of a directory. The descriptor is closed on exec and is none of 0, 1 and 2, so that a
/// stray print cannot reach it.
pub(crate) fn open_at(dir: BorrowedFd<'_>, name: &CStr, flags: libc::c_int) -> Result<File> {
    const MODE: libc::c_uint = 0o600;
    const FIRST_FD: libc::c_int = 3;
    let flags = flags | libc::O_CLOEXEC | libc::O_NOFOLLOW;
    let fd = retry(|| {
        // SAFETY: `name` is a string that ends with zero and lives through the call.
        unsafe { libc::openat(dir.as_raw_fd(), name.as_ptr(), flags, MODE) }
    })?;
    // SAFETY: the kernel has just given it to us alone.
    let low = unsafe { OwnedFd::from_raw_fd(fd) };
    if fd >= FIRST_FD {
        return Ok(low.into());
    }
    // SAFETY: duplicates a descriptor that `low` owns.
    let fd = retry(|| unsafe { libc::fcntl(low.as_raw_fd(), libc::F_DUPFD_CLOEXEC, FIRST_FD) })?;
    // SAFETY: the kernel has just given it to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

/// Renames a file within a directory.
pub(crate) fn rename_at(dir: BorrowedFd<'_>, from: &CStr, to: &CStr) -> Result<()> {
    let fd = dir.as_raw_fd();
    // SAFETY: both names are strings that end with zero and live through the call.
    check(unsafe { libc::renameat(fd, from.as_ptr(), fd, to.as_ptr()) })
}

/// Removes a file of a directory.
pub(crate) fn unlink_at(dir: BorrowedFd<'_>, name: &CStr) -> Result<()> {
    // SAFETY: `name` is a string that ends with zero and lives through the call.
    check(unsafe { libc::unlinkat(dir.as_raw_fd(), name.as_ptr(), 0) })
}

/// Tells the kernel not to read ahead. Advice: failure changes nothing.
pub(crate) fn advise_random(file: &File) {
    #[cfg(target_os = "linux")]
    // SAFETY: only takes numbers.
    unsafe {
        libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM)
    };
    #[cfg(not(target_os = "linux"))]
    let _: &File = file;
}

/// Starts writing a range out without waiting. Without `WAIT` flags this neither reports nor uses up a
/// write-back error, so its result says nothing of use.
pub(crate) fn start_write_out(file: &File, offset: u64, bytes: u64) -> Result<()> {
    let (offset, bytes) = (offset_of(offset)?, offset_of(bytes)?);
    #[cfg(target_os = "linux")]
    // SAFETY: only takes numbers.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), offset, bytes, libc::SYNC_FILE_RANGE_WRITE)
    };
    #[cfg(not(target_os = "linux"))]
    let _: (&File, i64, i64) = (file, offset, bytes);
    Ok(())
}

/// Reads what is in the page cache; an error of kind `WouldBlock` if that is nothing, `Unsupported`
/// if the system cannot tell.
pub(crate) fn read_cached(file: &File, offset: u64, buf: &mut [u8]) -> Result<usize> {
    #[cfg(target_os = "linux")]
    {
        let iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
        let (fd, offset) = (file.as_raw_fd(), offset_of(offset)?);
        // SAFETY: `iov` describes `buf`, which is ours to write and lives through the call.
        let count = unsafe { libc::preadv2(fd, &raw const iov, 1, offset, libc::RWF_NOWAIT) };
        usize::try_from(count).map_err(|_negative| Error::last_os_error())
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _: (&File, u64, &mut [u8]) = (file, offset, buf);
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Sets blocks aside, which read as zeroes, and extends the file over them; an error of kind `Unsupported` if the
/// file system, or the system, cannot.
pub(crate) fn allocate(file: &File, offset: u64, bytes: u64) -> Result<()> {
    #[cfg(target_os = "linux")]
    {
        let (fd, offset, bytes) = (file.as_raw_fd(), offset_of(offset)?, offset_of(bytes)?);
        // SAFETY: only takes numbers.
        retry(|| unsafe { libc::fallocate(fd, 0, offset, bytes) }).map(|_zero| ())
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _: (&File, u64, u64) = (file, offset, bytes);
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// Lets the page cache forget a file, as far as it is on the device.
#[cfg(all(test, target_os = "linux"))]
pub(crate) fn forget_cached(file: &File) {
    // SAFETY: no pointers; the descriptor is open.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}

/// False if most of a range is not in the page cache; true if it is, if some of it is yet to be written, or if the system
/// cannot tell. (A read with `RWF_NOWAIT` is no way to ask: it starts reading what is not there.)
pub(crate) fn is_cached(file: &File, offset: u64, bytes: usize) -> bool {
    let Some([cached, dirty, writing, ..]) = cachestat(file, offset, bytes) else { return true };
    dirty + writing > 0 || cached * CACHE_PAGE_BYTES * 2 >= bytes as u64
}

/// True if all of a range is in the page cache, if some of it is yet to be written, or if the system cannot tell.
pub(crate) fn is_cached_whole(file: &File, offset: u64, bytes: usize) -> bool {
    let Some([cached, dirty, writing, ..]) = cachestat(file, offset, bytes) else { return true };
    let pages = (offset + bytes as u64).div_ceil(CACHE_PAGE_BYTES) - offset / CACHE_PAGE_BYTES;
    dirty + writing > 0 || cached >= pages
}

/// Where a range lies that is about to be read.
pub(crate) fn residence(file: &File, offset: u64, bytes: usize) -> Residence {
    match cachestat(file, offset, bytes) {
        Some([cached, ..]) if cached * CACHE_PAGE_BYTES * 2 >= bytes as u64 => Residence::Cached,
        Some([_, _, _, evicted, _]) if evicted > 0 => Residence::Evicted,
        Some(_) => Residence::Unknown,
        // Linux before 6.5. It starts reading what is not there, which is about to be read anyway; whether that was there
        // before, it does not say.
        None => match read_cached(file, offset, &mut [0]) {
            Ok(1) => Residence::Cached,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Residence::Evicted,
            _ => Residence::Unknown,
        },
    }
}

const CACHE_PAGE_BYTES: u64 = 4096;

/// Pages of a range that are cached, dirty, being written, evicted, and of these lately; `None` if the system cannot tell.
fn cachestat(file: &File, offset: u64, bytes: usize) -> Option<[u64; 5]> {
    #[cfg(target_os = "linux")]
    {
        /// The same on all architectures.
        const SYS_CACHESTAT: libc::c_long = 451;
        let range = [offset, bytes as u64];
        let mut pages = [0u64; 5];
        // SAFETY: both arrays have the layout of what the call takes, two and five numbers of 64 bits, and live through it.
        let failed = unsafe {
            libc::syscall(SYS_CACHESTAT, file.as_raw_fd(), range.as_ptr(), pages.as_mut_ptr(), 0)
        };
        (failed == 0).then_some(pages)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _: (&File, u64, usize) = (file, offset, bytes);
        None
    }
}

/// Bytes that an ordinary user can still write to the file system.
pub(crate) fn free_bytes(dir: BorrowedFd<'_>) -> Result<u64> {
    // SAFETY: all fields are integers, for which zero is a value.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is ours to write and lives through the call.
    check(unsafe { libc::fstatvfs(dir.as_raw_fd(), &raw mut stat) })?;
    // The types of the fields differ between systems.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast, reason = "not so elsewhere")]
    Ok((stat.f_bavail as u64).saturating_mul(stat.f_frsize as u64))
}

fn offset_of(offset: u64) -> Result<libc::off_t> {
    offset.try_into().map_err(|_too_large| io::ErrorKind::InvalidInput.into())
}

fn check(result: libc::c_int) -> Result<()> {
    if result < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// Repeats a call that a signal interrupted.
fn retry(mut call: impl FnMut() -> libc::c_int) -> Result<libc::c_int> {
    loop {
        let answer = call();
        match check(answer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map(|()| answer),
        }
    }
}
