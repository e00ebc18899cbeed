//! The lock on a directory: `flock` against other processes, a table against this one.

use super::Directory;
use crate::{Lock, name, sys};
use esker_base::sync::{Arc, Mutex};
use esker_base::{Error, Result};
use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

/// Device and inode of each lock file that this process holds.
static HELD: Mutex<BTreeSet<(u64, u64)>> = Mutex::new(BTreeSet::new());

#[derive(Debug)]
struct OsLock {
    key: (u64, u64),
    file: fs::File,
    directory: Arc<Directory>,
}

pub(super) fn lock(directory: &Arc<Directory>) -> Result<Box<dyn Lock>> {
    directory.check_process()?;
    let c_name = CString::new(name::LOCK_NAME).expect("a constant without a zero byte");
    let error = || directory.error("lock", name::LOCK_NAME);
    let flags = libc::O_RDWR | libc::O_CREAT;
    let file = sys::open_at(directory.handle.as_fd(), &c_name, flags).map_err(error())?;
    let meta = file.metadata().map_err(error())?;
    let key = (meta.dev(), meta.ino());

    // Held until the answer is known, so that of two threads one gets the lock.
    let mut held = HELD.lock();
    let locked = || Error::Locked { path: directory.path.display().to_string() };
    if held.contains(&key) {
        return Err(locked());
    }
    match file.try_lock() {
        Ok(()) => {}
        Err(fs::TryLockError::WouldBlock) => return Err(locked()),
        Err(fs::TryLockError::Error(source)) => return Err(error()(source)),
    }
    held.insert(key);
    Ok(Box::new(OsLock { key, file, directory: Arc::clone(directory) }))
}

impl Lock for OsLock {}

impl Drop for OsLock {
    fn drop(&mut self) {
        // A forked child has the lock in common with its parent, so only the parent may end it. And
        // the parent must say so: closing the file ends the lock only once each child that is between
        // fork and exec has closed it too.
        if self.directory.check_process().is_ok() {
            let mut held = HELD.lock();
            let unlocked = self.file.unlock();
            debug_assert!(unlocked.is_ok(), "flock refuses to unlock only what is no file");
            held.remove(&self.key);
        }
    }
}
