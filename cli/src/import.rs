//! Loading a file into a table.
//!
//! Rows go into the table in batches of `Os` durability: the death of the process loses none that
//! was written. One sync at the end, before success is reported, makes them all survive power
//! loss. Run again after a kill, the import writes the same rows under the same keys.

use crate::args::Import;
use crate::failure::{Ending, Failure, say};
use crate::input::{Format, Interrupt, Next, Row, Rows, Source};
use crate::key::Spec;
use crate::output;
use crate::progress::{Progress, count_rows, human};
use crate::rejects::Rejects;
use crate::tables;
use esker::{Database, Durability, Error, Index, Table};
use indicatif::HumanCount;
use std::io;

/// A batch ends with this many rows or bytes, whichever comes first.
const BATCH_ROWS_MAX: usize = 1000;
const BATCH_BYTES_MAX: u64 = 1 << 20;

pub(crate) fn import(args: &Import, json: bool) -> Result<Ending, Failure> {
    let source = Source::of(&args.file);
    let spec = Spec::parse(&args.key).map_err(|what| Failure::Usage(format!("--key: {what}")))?;
    let Some(format) = args.format.or_else(|| Format::of_path(&args.file)) else {
        let what = format!("say what format {} has: --format", source.name());
        return Err(Failure::Usage(what));
    };
    let trouble = |error| Failure::file(source.name(), error);
    let interrupt = Interrupt::listen().map_err(trouble)?;
    let progress = Progress::new(args.quiet);
    let input = source.open(progress.bar(), &interrupt).map_err(trouble)?;
    // The header is read before the database is touched: a wrong --key leaves nothing behind.
    let rows = match Rows::new(input, format, &spec, args.strings) {
        Err(_) if interrupt.is_set() => return Ok(Ending::Interrupted),
        rows => rows.map_err(trouble)?,
    };
    let rows = rows.map_err(|what| Failure::Usage(format!("{}: {what}", source.name())))?;
    progress.start();

    let db = tables::open_or_create(&args.dir)?;
    let table = tables::writable(&db, &args.table, args.index.wanted)?;
    let note = check_note(&db, &table, &spec)?;
    let rejects_path = args.rejects.clone().unwrap_or_else(|| source.rejects_path());
    let mut load = Load {
        db: &db,
        table: &table,
        note,
        rejects: Rejects::new(rejects_path),
        progress,
        pending: Vec::new(),
        pending_bytes: 0,
        line: 0,
    };
    let read = match load.run(rows, &interrupt) {
        Err(Stop::Failure(failure)) => return Err(failure),
        Err(Stop::Input { line, error }) => Err((line, error)),
        Ok(interrupted) => Ok(interrupted),
    };
    // Also when the input broke off: what was read is kept.
    load.commit()?;
    db.sync()?;
    // A file of the default name is ours, and says what was rejected last time.
    load.rejects.finish(args.rejects.is_none() && matches!(read, Ok(false)))?;
    let summary = load.summary(args, &source, matches!(read, Ok(true)));
    drop(load);
    drop(table);
    db.close()?;

    let interrupted = match read {
        Ok(interrupted) => interrupted,
        Err((line, error)) => {
            summary.tell();
            let what = format!("{} behind line {line}", source.name());
            return Err(Failure::file(what, error));
        }
    };
    summary.tell();
    if json {
        output::json(&summary.json)?;
    }
    Ok(match () {
        () if interrupted => Ending::Interrupted,
        () if summary.rejected > 0 => Ending::Negative,
        () => Ending::Fine,
    })
}

/// Compares with what was noted about the table. Gives the note to write, if there is none.
fn check_note(
    db: &Database,
    table: &Table,
    spec: &Spec,
) -> Result<Option<(Table, String)>, Failure> {
    let name = table.name();
    match tables::noted(db, name)? {
        Some(noted) if noted == *spec => Ok(None),
        Some(noted) => Err(Failure::Usage(format!(
            "table {name:?} was imported with --key {noted}; keys of another make would not fit in"
        ))),
        None => {
            if !spec.is_text() && table.rows()?.next_row()?.is_some() {
                return Err(Failure::Usage(format!(
                    "table {name:?} holds rows that were not imported; keys made of several fields, \
                     numbers or @line would not fit in"
                )));
            }
            let notes = db.table(tables::NOTES, Index::BTree)?;
            Ok(Some((notes, tables::note(spec))))
        }
    }
}

/// A row that waits for its batch.
struct Pending {
    line: u64,
    key: Vec<u8>,
    value: Vec<u8>,
}

/// Why reading stopped early.
enum Stop {
    /// The input could not be read on, behind this line.
    Input {
        line: u64,
        error: io::Error,
    },
    Failure(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

/// An import under way.
struct Load<'d> {
    db: &'d Database,
    table: &'d Table,
    /// Goes with the first batch.
    note: Option<(Table, String)>,
    rejects: Rejects,
    progress: Progress,
    pending: Vec<Pending>,
    pending_bytes: u64,
    /// The line of the last row read.
    line: u64,
}

impl Load<'_> {
    /// Reads and writes all rows but the last batch. Gives whether it was interrupted.
    fn run(&mut self, mut rows: Rows, interrupt: &Interrupt) -> Result<bool, Stop> {
        let mut row = Row::default();
        while !interrupt.is_set() {
            match rows.next(&mut row) {
                Ok(Next::End) => return Ok(false),
                Ok(Next::Row) => match check_key(&row.key) {
                    Ok(()) => self.add(&mut row)?,
                    Err(reason) => self.reject(row.line, &reason, &row.raw)?,
                },
                Ok(Next::Malformed(reason)) => self.reject(row.line, &reason, &row.raw)?,
                Err(_) if interrupt.is_set() => break,
                Err(error) => return Err(Stop::Input { line: self.line, error }),
            }
            self.line = row.line;
        }
        Ok(true)
    }

    fn reject(&mut self, line: u64, reason: &str, text: &[u8]) -> Result<(), Failure> {
        let progress = &self.progress;
        self.rejects.add(line, reason, text, |what| progress.suspend(|| say(what)))
    }

    fn add(&mut self, row: &mut Row) -> Result<(), Failure> {
        let (key, value) = (std::mem::take(&mut row.key), std::mem::take(&mut row.value));
        self.pending_bytes += (key.len() + value.len()) as u64;
        self.pending.push(Pending { line: row.line, key, value });
        if self.pending.len() >= BATCH_ROWS_MAX || self.pending_bytes >= BATCH_BYTES_MAX {
            self.commit()?;
        }
        Ok(())
    }

    /// Writes the batch.
    fn commit(&mut self) -> Result<(), Failure> {
        if self.pending.is_empty() && self.note.is_none() {
            return Ok(());
        }
        let mut batch = self.db.batch();
        batch.set_durability(Durability::Os);
        if let Some((notes, note)) = &self.note {
            batch.put(notes, self.table.name(), note);
        }
        for row in &self.pending {
            batch.put(self.table, &row.key, &row.value);
        }
        let pending = std::mem::take(&mut self.pending);
        self.pending_bytes = 0;
        let mut written = pending.len() as u64;
        match batch.commit() {
            // One row that the engine does not take must not keep the others out.
            Err(Error::Invalid { .. }) => written = self.commit_one_by_one(&pending)?,
            result => result?,
        }
        self.note = None;
        self.progress.add_rows(written);
        Ok(())
    }

    /// Writes the rows that the engine takes and rejects the others: a database made with small
    /// pages takes shorter keys than most. Gives how many were written.
    fn commit_one_by_one(&mut self, pending: &[Pending]) -> Result<u64, Failure> {
        if let Some((notes, note)) = &self.note {
            notes.put_with(self.table.name(), note, Durability::Os)?;
        }
        let mut written = 0;
        for row in pending {
            match self.table.put_with(&row.key, &row.value, Durability::Os) {
                Ok(()) => written += 1,
                Err(error @ Error::Invalid { .. }) => {
                    self.reject(row.line, &error.to_string(), &row.value)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(written)
    }

    fn summary(&self, args: &Import, source: &Source, interrupted: bool) -> Summary {
        self.progress.finish();
        let (rows, rejected) = (self.progress.rows(), self.rejects.count());
        let elapsed = self.progress.elapsed();
        let in_table = self.table.approximate_len();
        let json = serde_json::json!({
            "table": args.table,
            "rows": rows,
            "rejected": rejected,
            "rejects": self.rejects.path().map(|path| path.display().to_string()),
            "rows_in_table": in_table,
            "interrupted": interrupted,
            "seconds": elapsed.as_secs_f64(),
        });
        let mut lines: Vec<String> = self.rejects.more().into_iter().collect();
        if !args.quiet {
            let rejected_text = match rejected {
                0 => String::new(),
                _ => format!(", {} rejected", HumanCount(rejected)),
            };
            // Whether a row was new, a fractal table does not look.
            let about = if self.table.kind() == Index::Fractal { "about " } else { "" };
            lines.push(format!(
                "{}: {} in {} ({} rows/s){rejected_text}; table {} holds {about}{}",
                source.name(),
                count_rows(rows),
                human(elapsed),
                self.progress.rate(),
                args.table,
                HumanCount(in_table),
            ));
        }
        if interrupted {
            lines.push(
                "interrupted: what was read is kept; run it again to load the rest".to_owned(),
            );
        }
        Summary { lines, json, rejected }
    }
}

/// What to tell at the end.
struct Summary {
    lines: Vec<String>,
    json: serde_json::Value,
    rejected: u64,
}

impl Summary {
    fn tell(&self) {
        for line in &self.lines {
            say(line);
        }
    }
}

/// What the engine would say of a key, said of the row.
fn check_key(key: &[u8]) -> Result<(), String> {
    match key.len() {
        0 => Err("the key is empty".to_owned()),
        bytes if bytes > esker::KEY_BYTES_MAX => {
            Err(format!("a key of {bytes} bytes, at most {} are allowed", esker::KEY_BYTES_MAX))
        }
        _ => Ok(()),
    }
}
