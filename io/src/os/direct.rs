//! Reads past the page cache.
//!
//! What a scan of much more than memory reads is not read again soon, but in the page cache it costs a page, a copy, and
//! another page that has to go: a third of a scan's processor time. Pages that others read again would be
//! what goes. The same holds for a page that is read to be changed: its image is out of date as soon as it is in memory.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

/// What offsets, lengths and addresses are multiples of.
pub(super) const BLOCK_BYTES: usize = 4096;

thread_local! {
    /// Where blocks arrive; as large as the largest read so far.
    static BLOCKS: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Opens an open file once more, for [`read`]; `None` if the system does not do that.
pub(super) fn open(file: &File) -> Option<File> {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECT | libc::O_CLOEXEC)
            .open(path)
            .ok()
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _: &File = file;
        None
    }
}

/// Fills `buf` from `offset` with one call, through whole blocks.
pub(super) fn read(file: &File, offset: u64, buf: &mut [u8]) -> io::Result<()> {
    let skip = usize::try_from(offset % BLOCK_BYTES as u64).expect("part of a block");
    let end = skip + buf.len();
    let bytes = end.next_multiple_of(BLOCK_BYTES);
    BLOCKS.with_borrow_mut(|blocks| {
        if blocks.len() < bytes + BLOCK_BYTES {
            blocks.resize(bytes + BLOCK_BYTES, 0);
        }
        let first = blocks.as_ptr().align_offset(BLOCK_BYTES);
        let blocks = blocks.get_mut(first..first + bytes).ok_or(io::ErrorKind::InvalidInput)?;
        // The last block may end with the file.
        if file.read_at(blocks, offset - skip as u64)? < end {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buf.copy_from_slice(&blocks[skip..end]);
        Ok(())
    })
}
