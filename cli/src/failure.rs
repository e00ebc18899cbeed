//! How a command ends: exit codes, and errors in words.

use esker::Error;
use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

/// SIGINT or SIGTERM ended the command.
pub(crate) const INTERRUPTED: i32 = 130;

/// How a command that could do its work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Fine,
    /// Not found, rows rejected, damage found, not all restored, or a promise broken.
    Negative,
    /// The user asked to stop.
    Interrupted,
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        Self::from(match ending {
            Ending::Fine => 0,
            Ending::Negative => 1,
            Ending::Interrupted => u8::try_from(INTERRUPTED).expect("below 256"),
        })
    }
}

/// Why a command could not do its work.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line, or a header row, cannot be right.
    Usage(String),
    /// The engine's word.
    Engine(Error),
    /// A file that is no part of a database.
    File { what: String, source: io::Error },
    /// Standard output.
    Output(io::Error),
}

impl Failure {
    pub(crate) fn file(what: impl Into<String>, source: io::Error) -> Self {
        Self::File { what: what.into(), source }
    }

    /// True if nobody reads the output any more, which is not worth a word.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Engine(Error::UnknownTable { .. }) => 1,
            Self::Usage(_)
            | Self::Engine(
                Error::Invalid { .. }
                | Error::WrongKind { .. }
                | Error::Unordered { .. }
                | Error::UnknownKind { .. }
                | Error::TooLarge { .. },
            ) => 2,
            Self::Engine(Error::Corrupt { .. }) => 4,
            Self::Engine(_) | Self::File { .. } | Self::Output(_) => 3,
        })
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(what) => f.write_str(what),
            // What the engine says of its calls, said of this command's.
            Self::Engine(Error::Unordered { table, .. }) => write!(
                f,
                "the keys of table {table:?} have no order, so --from, --to, --prefix and --reverse mean \
                 nothing there; scan all of it, or import it with --index btree or --index fractal"
            ),
            Self::Engine(Error::UnknownKind { kind, table }) => write!(
                f,
                "table {table:?} has an index of a kind of its own, {kind:?}; only the program that made it \
                 can use it"
            ),
            Self::Engine(error) => write!(f, "{error}"),
            Self::File { what, source } => write!(f, "{what}: {source}"),
            Self::Output(source) => write!(f, "cannot write to standard output: {source}"),
        }
    }
}

/// Prints a line to standard error. If nobody can read it, there is nobody to tell.
pub(crate) fn say(what: &(impl fmt::Display + ?Sized)) {
    writeln!(io::stderr().lock(), "{what}").ok();
}
