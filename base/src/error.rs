//! One error type for the workspace, sorted by what the caller can do about it.

use std::{fmt, io};

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, sorted by what the caller can do about it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// Another transaction won. Nothing was written; run yours again (`transact` does).
    Conflict,
    /// The request cannot be right, whatever the state of the database: fix the call.
    Invalid {
        /// What is wrong, e.g. `"key too long"`.
        what: &'static str,
        /// The figures: what was given and what is allowed.
        detail: String,
    },
    /// There is no table of this name, or it was dropped under the handle.
    UnknownTable {
        /// The name asked for.
        name: String,
    },
    /// The table exists with another kind of index than the one asked for.
    WrongKind {
        /// The table.
        name: String,
        /// Its kind.
        found: String,
        /// The kind asked for.
        wanted: String,
    },
    /// The write set of a transaction or batch exceeds the limit. Commit in smaller parts.
    TooLarge {
        /// Size of the write set.
        bytes: u64,
        /// Limit, a share of `memory_bytes`.
        limit_bytes: u64,
    },
    /// This transaction saw an error earlier and can only be dropped.
    TransactionFailed,
    /// No room on the disk. Reads and deletes go on; writes work again once space is free.
    NoSpace {
        /// What was being done.
        op: &'static str,
        /// The file that could not grow.
        file: String,
    },
    /// The process or the system has no file descriptors left. Raise the limit; nothing was lost.
    TooManyFiles {
        /// The file that could not be opened.
        file: String,
    },
    /// The device said no.
    Io {
        /// What was being done: `"read"`, `"write"`, `"sync"`, ...
        op: &'static str,
        /// The file.
        file: String,
        /// Byte offset in the file, 0 where it has no meaning.
        offset: u64,
        /// What the operating system said.
        source: io::Error,
    },
    /// Bytes are not what was written there. The rest of the database may still be readable.
    Corrupt {
        /// The structure that is damaged.
        what: &'static str,
        /// The file.
        file: String,
        /// Byte offset in the file.
        offset: u64,
        /// What was expected and what was found.
        detail: String,
    },
    /// The directory is not an Esker database, or a file in it belongs to another one.
    NotADatabase {
        /// The directory or file.
        path: String,
        /// What was found there.
        detail: String,
    },
    /// Written in a format that this build cannot read. Nothing was changed.
    Format {
        /// Version found on disk.
        found: u32,
        /// Newest version that this build reads.
        supported: u32,
    },
    /// The database is open already, in this process or another.
    Locked {
        /// The directory.
        path: String,
    },
    /// The commit was applied but its sync failed: it may or may not survive. Writes are refused
    /// until the database is reopened.
    Unknown {
        /// What failed.
        detail: String,
    },
    /// An earlier sync or write failed; writes are refused until the database is reopened.
    Poisoned {
        /// The failure that poisoned the database.
        detail: String,
    },
    /// A merge operator that a table needs was not registered at open.
    UnknownOperator {
        /// Its name.
        name: String,
    },
    /// The table's index has no order (a hash): it has no ranges, no prefixes, no first row. Read all rows with
    /// `Table::rows`, or keep the table in a B-tree or a fractal tree.
    Unordered {
        /// The table.
        table: String,
        /// What was asked of it.
        op: &'static str,
    },
    /// The kind of index of a table was not registered at open (`Options::index_kind`).
    UnknownKind {
        /// The name of the kind.
        kind: String,
        /// The table that needs it.
        table: String,
    },
    /// The database was closed under this handle.
    Closed,
}

impl Error {
    /// Sorts an error of the operating system by what the caller can do.
    pub fn from_io(op: &'static str, file: &str, offset: u64, source: io::Error) -> Self {
        // EMFILE and ENFILE have no `ErrorKind`.
        const EMFILE: i32 = 24;
        const ENFILE: i32 = 23;
        match source.kind() {
            // A sync that failed is a failed sync, whatever the reason: what it should have made durable may be
            // gone, and with space it would "succeed".
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded if op != "sync" => {
                Self::NoSpace { op, file: file.to_owned() }
            }
            _ if matches!(source.raw_os_error(), Some(EMFILE | ENFILE)) => {
                Self::TooManyFiles { file: file.to_owned() }
            }
            _ => Self::Io { op, file: file.to_owned(), offset, source },
        }
    }

    /// Bytes on disk are not what was written.
    pub fn corrupt(
        what: &'static str,
        file: impl Into<String>,
        offset: u64,
        detail: impl Into<String>,
    ) -> Self {
        Self::Corrupt { what, file: file.into(), offset, detail: detail.into() }
    }

    /// The request cannot be right.
    pub fn invalid(what: &'static str, detail: impl Into<String>) -> Self {
        Self::Invalid { what, detail: detail.into() }
    }

    /// True if the same transaction may succeed when it is run again.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict)
    }

    /// True if stored bytes are damaged.
    pub fn is_corrupt(&self) -> bool {
        matches!(self, Self::Corrupt { .. })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict => {
                write!(f, "another transaction changed what this one read; run it again")
            }
            Self::Invalid { what, detail } => write!(f, "{what}: {detail}"),
            Self::UnknownTable { name } => write!(f, "there is no table {name:?}"),
            Self::WrongKind { name, found, wanted } => {
                write!(f, "table {name:?} is a {found} table, not a {wanted} table")
            }
            Self::TooLarge { bytes, limit_bytes } => write!(
                f,
                "a write set of {bytes} bytes is over the limit of {limit_bytes}; commit in smaller \
                 parts or raise memory_bytes"
            ),
            Self::TransactionFailed => {
                write!(f, "this transaction saw an error earlier and can only be dropped")
            }
            Self::NoSpace { op, file } => {
                write!(f, "no space left on the disk ({op} {file}); delete something or add space")
            }
            Self::TooManyFiles { file } => write!(
                f,
                "too many open files (opening {file}); raise the descriptor limit (ulimit -n)"
            ),
            Self::Io { op, file, offset, source } => {
                write!(f, "{op} of {file} at byte {offset} failed: {source}")
            }
            Self::Corrupt { what, file, offset, detail } => {
                write!(f, "{what} in {file} at byte {offset} is damaged: {detail}")
            }
            Self::NotADatabase { path, detail } => {
                write!(f, "{path} is not an Esker database: {detail}")
            }
            Self::Format { found, supported } => write!(
                f,
                "the database has format version {found}; this build reads up to version \
                 {supported}; use a newer build"
            ),
            Self::Locked { path } => write!(f, "the database {path} is already open"),
            Self::Unknown { detail } => write!(
                f,
                "the commit may or may not survive ({detail}); reopen the database to find out"
            ),
            Self::Poisoned { detail } => write!(
                f,
                "writes are refused since an earlier failure ({detail}); reopen the database"
            ),
            Self::UnknownOperator { name } => {
                write!(f, "merge operator {name:?} was not registered when the database was opened")
            }
            Self::Unordered { table, op } => write!(
                f,
                "{op} of table {table:?}, whose index has no order; read all rows instead, or keep the table in a B-tree or a fractal tree"
            ),
            Self::UnknownKind { kind, table } => write!(
                f,
                "table {table:?} has an index of kind {kind:?}, which was not registered when the database was opened"
            ),
            Self::Closed => write!(f, "the database was closed"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
