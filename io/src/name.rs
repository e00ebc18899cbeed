//! What all disks agree on: file names, and where time and randomness come from.

use crate::{File, OpenMode};
use esker_base::{Error, Result};
use std::hash::{BuildHasher, RandomState};
use std::io;

/// The file that [`crate::os::OsDisk`] locks; no disk lists it or lets it be opened.
pub(crate) const LOCK_NAME: &str = "LOCK";
const NAME_BYTES_MAX: usize = 255;

/// Refuses what is not a plain file name.
pub(crate) fn check(name: &str) -> Result<()> {
    let plain = !name.is_empty()
        && name.len() <= NAME_BYTES_MAX
        && name != "."
        && name != ".."
        && name != LOCK_NAME
        && !name.contains(['/', '\0']);
    if plain { Ok(()) } else { Err(Error::invalid("not a plain file name", format!("{name:?}"))) }
}

/// There is no file of this name.
pub(crate) fn not_found(op: &'static str, name: &str) -> Error {
    Error::from_io(op, name, 0, io::ErrorKind::NotFound.into())
}

/// There is a file of this name already.
pub(crate) fn already_exists(name: &str) -> Error {
    Error::from_io("create", name, 0, io::ErrorKind::AlreadyExists.into())
}

/// A read reaches past the end.
pub(crate) fn unexpected_eof(name: &str, offset: u64) -> Error {
    Error::from_io("read", name, offset, io::ErrorKind::UnexpectedEof.into())
}

/// A handle that was opened with [`OpenMode::Read`] was asked to write. The operating system says the
/// same with EBADF.
pub(crate) fn check_writable(mode: OpenMode, op: &'static str, file: &dyn File) -> Result<()> {
    const EBADF: i32 = 9;
    if mode == OpenMode::Read {
        return Err(Error::from_io(op, file.name(), 0, io::Error::from_raw_os_error(EBADF)));
    }
    Ok(())
}

/// The last byte plus one of a range, or an error where the operating system would say EINVAL.
pub(crate) fn end_of(name: &str, op: &'static str, offset: u64, bytes: u64) -> Result<u64> {
    offset.checked_add(bytes).filter(|end| i64::try_from(*end).is_ok()).ok_or_else(|| {
        Error::from_io(op, name, offset, io::Error::from(io::ErrorKind::InvalidInput))
    })
}

/// 64 random bits. The keys of a `RandomState` come from the operating system and differ each time.
pub(crate) fn os_random() -> u64 {
    RandomState::new().hash_one(0_u64)
}

/// Windows begin on a page of the operating system.
pub(crate) const WINDOW_ALIGN: u64 = 4096;

/// Refuses a window that the operating system could not map, or whose stores could kill the process.
pub(crate) fn check_window(name: &str, offset: u64, bytes: u64, len: u64) -> Result<()> {
    let end = end_of(name, "map", offset, bytes)?;
    if bytes == 0 || !offset.is_multiple_of(WINDOW_ALIGN) || end > len {
        return Err(Error::invalid(
            "a window must begin on a page and lie inside the file",
            format!("{name}: {bytes} bytes from {offset}, the file has {len}"),
        ));
    }
    Ok(())
}

/// # Panics
/// If the range is not inside the window.
pub(crate) fn assert_inside_window(offset: u64, bytes: u64, window_bytes: u64) {
    assert!(
        offset <= window_bytes && bytes <= window_bytes - offset,
        "{bytes} bytes from {offset} do not lie inside a window of {window_bytes} bytes"
    );
}
