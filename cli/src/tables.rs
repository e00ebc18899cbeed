//! Opening databases and tables, and what is known about the keys of a table.
//!
//! `import` notes in the table [`NOTES`] which fields the keys of a table are made of, in the
//! same commit as the first rows: table name → `{"key": "time_hour,carrier"}`. It is an ordinary
//! table; programs may read it.

use crate::failure::Failure;
use crate::key::Spec;
use esker::{Database, Error, Index, Options, Table};
use std::path::Path;

/// The table that holds the notes.
pub(crate) const NOTES: &str = "esker.keys";

/// Opens a database that exists.
pub(crate) fn open(dir: &Path) -> Result<Database, Failure> {
    Ok(Options::new().create(false).open(dir)?)
}

/// Opens a database, making it if need be.
pub(crate) fn open_or_create(dir: &Path) -> Result<Database, Failure> {
    Ok(Options::new().open(dir)?)
}

/// Opens or makes a table that rows are written to. `wanted`: the kind that it must have; else a table that
/// exists may have any, and a new one is a B-tree.
pub(crate) fn writable(db: &Database, name: &str, wanted: Option<Index>) -> Result<Table, Failure> {
    if name == NOTES {
        let what = format!("{NOTES} holds what import notes about tables; take another name");
        return Err(Failure::Usage(what));
    }
    Ok(match (wanted, db.open_table(name)) {
        (None, Ok(table)) => table,
        (None, Err(Error::UnknownTable { .. })) => db.table(name, Index::BTree)?,
        (None, Err(error)) => return Err(error.into()),
        (Some(kind), _) => db.table(name, kind)?,
    })
}

/// What the keys of a table are made of, if that was noted.
pub(crate) fn noted(db: &Database, table: &str) -> Result<Option<Spec>, Failure> {
    let notes = match db.open_table(NOTES) {
        Err(Error::UnknownTable { .. }) => return Ok(None),
        notes => notes?,
    };
    let Some(note) = notes.get(table)? else { return Ok(None) };
    let not_ours = || Failure::Usage(format!("the note on table {table} in {NOTES} is not ours"));
    let note: serde_json::Value = serde_json::from_slice(&note).map_err(|_error| not_ours())?;
    let key = note.get("key").and_then(|key| key.as_str()).ok_or_else(not_ours)?;
    Spec::parse(key).map(Some).map_err(|_error| not_ours())
}

/// What the keys of a table are made of; plain text if nothing was noted.
pub(crate) fn spec(db: &Database, table: &str) -> Result<Spec, Failure> {
    Ok(noted(db, table)?.unwrap_or_else(Spec::plain))
}

/// The note to write for a table.
pub(crate) fn note(spec: &Spec) -> String {
    serde_json::json!({ "key": spec.to_string() }).to_string()
}
