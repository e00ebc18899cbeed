//! A directory of the operating system.
//!
//! The directory is opened once and files are reached through its descriptor, so renaming or replacing
//! the directory under an open database leads nowhere else. Our file names are never followed as
//! symbolic links; the path to the directory may hold some.
//!
//! # One process at a time
//!
//! `LOCK` is locked with `flock` and never removed: a removed lock file could be locked by one process
//! while another creates and locks a new one. A table of this process, by device and inode, says no to
//! a second handle also where file locks belong to the process (some network file systems).
//!
//! A child made by `fork` shares descriptors and lock with its parent. Operations that write compare
//! the process id with that of the opener and refuse; windows are not mapped in the child at all; and
//! dropping the guard there leaves the lock with the parent. (A child that goes on to `exec` keeps no
//! descriptor.)
//!
//! # Durability of the directory itself
//!
//! [`OsDisk::open`] with `create` syncs the parents of the directories that it makes.

mod direct;
mod file;
mod lock;
mod pool;
#[cfg(target_os = "linux")]
mod ring;
#[cfg(test)]
mod tests;

use crate::{Disk, File, Lock, OpenMode, ReadRequest, name, sys};
use esker_base::sync::Arc;
use esker_base::{Error, Result};
use file::OsFile;
use pool::Pool;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Only the owner may look in.
const DIRECTORY_MODE: u32 = 0o700;

/// A directory.
#[derive(Debug)]
pub struct OsDisk {
    directory: Arc<Directory>,
    pool: Pool,
    #[cfg(target_os = "linux")]
    rings: ring::Rings,
    start: Instant,
}

/// What files need of their disk.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    handle: fs::File,
    /// The process that opened it; see [`Directory::check_process`].
    process: u32,
}

impl OsDisk {
    /// Opens the directory `path`, creating it (and its parents) if `create`.
    ///
    /// # Errors
    /// `Io` of kind `NotFound`, `NotADirectory` and others.
    pub fn open(path: &Path, create: bool) -> Result<Self> {
        let error = |op| move |source| Error::from_io(op, &path.display().to_string(), 0, source);
        if create {
            create_durably(path).map_err(error("create directory"))?;
        }
        let handle = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_CLOEXEC)
            .open(path)
            .map_err(error("open directory"))?;
        let process = std::process::id();
        let directory = Arc::new(Directory { path: path.to_owned(), handle, process });
        Ok(Self {
            directory,
            pool: Pool::new(),
            #[cfg(target_os = "linux")]
            rings: ring::Rings::new(true),
            start: Instant::now(),
        })
    }

    /// Whether batches of reads go through `io_uring` where the system allows it, rather than through threads. Default yes.
    #[must_use]
    pub fn io_uring(mut self, is_wanted: bool) -> Self {
        #[cfg(target_os = "linux")]
        {
            self.rings = ring::Rings::new(is_wanted);
        }
        let _: (&mut Self, bool) = (&mut self, is_wanted);
        self
    }
}

/// Creates a directory and its parents, each durable in the one above.
fn create_durably(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
        Ok(()) => {}
        // A link to a directory is welcome too; what is no directory is found when it is opened.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            create_durably(parent.ok_or(error)?)?;
            match fs::DirBuilder::new().mode(DIRECTORY_MODE).create(path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => other?,
            }
        }
        Err(error) => return Err(error),
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

impl Directory {
    /// For messages: the path of a file.
    fn path_of(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }

    fn error<'a>(
        &'a self,
        op: &'static str,
        name: &'a str,
    ) -> impl FnOnce(io::Error) -> Error + 'a {
        move |source| Error::from_io(op, &self.path_of(name), 0, source)
    }

    /// Refuses to write in a child of the process that opened the directory.
    fn check_process(&self) -> Result<()> {
        let process = std::process::id();
        if process == self.process {
            return Ok(());
        }
        Err(Error::invalid(
            "the database belongs to the process that opened it",
            format!("opened by {}, used by its child {process}", self.process),
        ))
    }
}

/// The name for the system.
fn c_name(name: &str) -> Result<CString> {
    name::check(name)?;
    Ok(CString::new(name).expect("a checked name holds no zero byte"))
}

impl Disk for OsDisk {
    fn open(&self, name: &str, mode: OpenMode) -> Result<Arc<dyn File>> {
        let directory = &self.directory;
        let c_name = c_name(name)?;
        let (op, flags) = match mode {
            OpenMode::Read => ("open", libc::O_RDONLY),
            OpenMode::ReadWrite => ("open", libc::O_RDWR),
            OpenMode::Create => ("create", libc::O_RDWR | libc::O_CREAT | libc::O_EXCL),
        };
        if mode != OpenMode::Read {
            directory.check_process()?;
        }
        let handle = sys::open_at(directory.handle.as_fd(), &c_name, flags)
            .map_err(directory.error(op, name))?;
        sys::advise_random(&handle);
        Ok(Arc::new(OsFile::new(Arc::clone(directory), name.to_owned(), mode, handle)))
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let directory = &self.directory;
        directory.check_process()?;
        sys::rename_at(directory.handle.as_fd(), &c_name(from)?, &c_name(to)?)
            .map_err(directory.error("rename", from))
    }

    fn remove(&self, name: &str) -> Result<()> {
        let directory = &self.directory;
        directory.check_process()?;
        sys::unlink_at(directory.handle.as_fd(), &c_name(name)?)
            .map_err(directory.error("remove", name))
    }

    fn list(&self) -> Result<Vec<String>> {
        let directory = &self.directory;
        let path = descriptor_path(&directory.handle).unwrap_or_else(|| directory.path.clone());
        let error = || directory.error("list", "");
        let mut names = Vec::new();
        for entry in fs::read_dir(path).map_err(error())? {
            let entry = entry.map_err(error())?;
            // What is not a file, or has a name that is not text, is not ours.
            let is_file = entry.file_type().map_err(error())?.is_file();
            if let (true, Ok(name)) = (is_file, entry.file_name().into_string())
                && name != name::LOCK_NAME
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn sync_dir(&self) -> Result<()> {
        let directory = &self.directory;
        directory.check_process()?;
        directory.handle.sync_all().map_err(directory.error("sync", ""))
    }

    fn lock(&self) -> Result<Box<dyn Lock>> {
        lock::lock(&self.directory)
    }

    fn free_bytes(&self) -> Result<u64> {
        let directory = &self.directory;
        sys::free_bytes(directory.handle.as_fd()).map_err(directory.error("statvfs", ""))
    }

    fn read_batch(&self, requests: &mut [ReadRequest]) {
        // A single read is best made by who wants it.
        #[cfg(target_os = "linux")]
        if requests.len() > 1 && self.rings.read_each(requests, &mut |_, _| {}) {
            return;
        }
        self.pool.read_batch(requests);
    }

    fn read_each(
        &self,
        requests: &mut [ReadRequest],
        done: &mut dyn FnMut(usize, &mut ReadRequest),
    ) {
        #[cfg(target_os = "linux")]
        if requests.len() > 1 && self.rings.read_each(requests, done) {
            return;
        }
        self.pool.read_batch(requests);
        requests.iter_mut().enumerate().for_each(|(i, request)| done(i, request));
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn random(&self) -> u64 {
        name::os_random()
    }

    fn label(&self) -> String {
        self.directory.path.display().to_string()
    }
}

/// A path that leads to an open directory wherever it has been moved to, where the system has such.
fn descriptor_path(handle: &fs::File) -> Option<PathBuf> {
    use std::os::fd::AsRawFd;
    let path = PathBuf::from(format!("/proc/self/fd/{}", handle.as_raw_fd()));
    path.exists().then_some(path)
}
