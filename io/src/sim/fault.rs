//! Errors on cue.

use std::io;

/// Classes of operations that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpKind {
    /// [`Disk::open`](crate::Disk::open), creation included.
    Open,
    /// [`File::read_at`](crate::File::read_at), each read of a batch included.
    Read,
    /// [`File::write_at`](crate::File::write_at) and [`File::set_len`](crate::File::set_len). A part
    /// of the bytes is written all the same.
    Write,
    /// [`File::sync`](crate::File::sync).
    Sync,
    /// [`Disk::rename`](crate::Disk::rename) and [`Disk::remove`](crate::Disk::remove).
    Names,
    /// [`Disk::sync_dir`](crate::Disk::sync_dir).
    SyncDir,
    /// [`File::preallocate`](crate::File::preallocate), [`File::window`](crate::File::window) and
    /// [`Window::populate`](crate::Window::populate).
    Allocate,
}

/// What an injected fault answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultError {
    /// `EIO`.
    Io,
    /// `ENOSPC`.
    NoSpace,
    /// `EMFILE`.
    TooManyFiles,
}

/// A rule that makes operations fail: the `at`-th of a kind, then some more.
#[derive(Clone, Debug)]
pub struct Fault {
    kind: OpKind,
    at: u64,
    times: u64,
    file_prefix: String,
    error: FaultError,
    /// Operations of this kind since the fault was injected.
    seen: u64,
}

impl Fault {
    /// Makes the operation fail, once, that is preceded by `at` of its kind, counted from the moment
    /// the fault is injected.
    pub fn new(kind: OpKind, at: u64) -> Self {
        Self { kind, at, times: 1, file_prefix: String::new(), error: FaultError::Io, seen: 0 }
    }

    /// Makes this many fail in a row.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// Makes all fail from there on.
    #[must_use]
    pub fn forever(self) -> Self {
        self.times(u64::MAX)
    }

    /// Counts and fails only operations on files whose name starts so.
    #[must_use]
    pub fn on(mut self, file_prefix: &str) -> Self {
        file_prefix.clone_into(&mut self.file_prefix);
        self
    }

    /// Answers another error than `EIO`.
    #[must_use]
    pub fn error(mut self, error: FaultError) -> Self {
        self.error = error;
        self
    }

    /// Counts the operation; true if it is to fail.
    pub(super) fn meets(&mut self, kind: OpKind, file: &str) -> bool {
        if kind != self.kind || !file.starts_with(&self.file_prefix) {
            return false;
        }
        let nth = self.seen;
        self.seen += 1;
        nth >= self.at && nth - self.at < self.times
    }

    pub(super) fn io_error(&self) -> io::Error {
        io::Error::from_raw_os_error(match self.error {
            FaultError::Io => EIO,
            FaultError::NoSpace => ENOSPC,
            FaultError::TooManyFiles => EMFILE,
        })
    }
}

const EIO: i32 = 5;
const EMFILE: i32 = 24;
pub(super) const ENOSPC: i32 = 28;
