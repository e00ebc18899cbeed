//! Rows that could not be used: counted, the first ones shown, all of them written down.
//!
//! The file has one JSON object a line: `{"line":7,"reason":"...","text":"..."}`, with
//! `"text_hex"` for a row that is not UTF-8.

use crate::failure::Failure;
use crate::show;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Rows shown on standard error.
const SHOWN_MAX: u64 = 5;

/// The rejected rows of one import.
#[derive(Debug)]
pub(crate) struct Rejects {
    path: PathBuf,
    /// Made for the first row.
    file: Option<BufWriter<File>>,
    count: u64,
}

impl Rejects {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, file: None, count: 0 }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// The file, if there is anything in it.
    pub(crate) fn path(&self) -> Option<&PathBuf> {
        (self.count > 0).then_some(&self.path)
    }

    /// Writes a row down. `show` is called with a line for the user, if there is one.
    #[expect(clippy::disallowed_methods, reason = "the file is no part of a database")]
    pub(crate) fn add(
        &mut self,
        line: u64,
        reason: &str,
        text: &[u8],
        show: impl FnOnce(&str),
    ) -> Result<(), Failure> {
        self.count += 1;
        if self.count <= SHOWN_MAX {
            show(&format!("line {line}: {reason}"));
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => {
                let made = File::create(&self.path).map_err(|error| {
                    trouble(&self.path, "give another place with --rejects", error)
                })?;
                none.insert(BufWriter::new(made))
            }
        };
        let mut record = format!("{{\"line\":{line},\"reason\":").into_bytes();
        show::json_text(reason, &mut record);
        if let Ok(text) = std::str::from_utf8(text) {
            record.extend_from_slice(b",\"text\":");
            show::json_text(text.trim_end_matches(['\r', '\n']), &mut record);
        } else {
            record.extend_from_slice(b",\"text_hex\":");
            show::json_hex(text, &mut record);
        }
        record.extend_from_slice(b"}\n");
        file.write_all(&record).map_err(|error| trouble(&self.path, "is the disk full?", error))
    }

    /// Writes the file out; without rejected rows, removes the one of an earlier run.
    #[expect(clippy::disallowed_methods, reason = "the file is no part of a database")]
    pub(crate) fn finish(&mut self, remove_old: bool) -> Result<(), Failure> {
        match &mut self.file {
            Some(file) => {
                file.flush().map_err(|error| trouble(&self.path, "is the disk full?", error))
            }
            None if remove_old => match std::fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let what = format!("cannot remove the old {}", self.path.display());
                    Err(Failure::file(what, error))
                }
                _ => Ok(()),
            },
            None => Ok(()),
        }
    }

    /// What to say on standard error about rows that were not shown.
    pub(crate) fn more(&self) -> Option<String> {
        let path = self.path.display();
        match self.count.saturating_sub(SHOWN_MAX) {
            _ if self.count == 0 => None,
            0 => Some(format!("written to {path}")),
            more => Some(format!("... and {more} more; all of them are in {path}")),
        }
    }
}

fn trouble(path: &Path, hint: &str, error: io::Error) -> Failure {
    let what = format!("cannot write rejected rows to {} ({hint})", path.display());
    Failure::file(what, error)
}
