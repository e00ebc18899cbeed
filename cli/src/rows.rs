//! Commands on rows: get, put, del, scan, export.

use crate::args::{Del, Export, Get, Put, Scan};
use crate::failure::{Ending, Failure, say};
use crate::key::{Extent, Spec};
use crate::output::Output;
use crate::show;
use crate::tables;
use esker::{Database, Rows, Table};
use indicatif::HumanCount;
use std::ffi::OsStr;
use std::ops::Bound;
use std::os::unix::ffi::OsStrExt;

/// A key as typed.
fn typed(spec: &Spec, text: &OsStr, hex: bool, extent: Extent) -> Result<Vec<u8>, Failure> {
    let key = if hex {
        show::from_hex(&text.to_string_lossy())
    } else {
        spec.typed(text.as_bytes(), extent)
    };
    key.map_err(Failure::Usage)
}

/// `{"key":...` so far.
fn json_of(spec: &Spec, key: &[u8]) -> Vec<u8> {
    let mut line = b"{".to_vec();
    spec.json_member(key, &mut line);
    line
}

fn print(line: &[u8]) -> Result<(), Failure> {
    let mut output = Output::new();
    output.line(line)?;
    output.finish()
}

fn not_found(spec: &Spec, key: &[u8], table: &Table) -> Ending {
    let mut text = Vec::new();
    spec.show(key, &mut text);
    let (text, table) = (String::from_utf8_lossy(&text), table.name());
    say(&format_args!("esker: there is no row {text:?} in table {table:?}"));
    Ending::Negative
}

pub(crate) fn get(args: &Get, json: bool) -> Result<Ending, Failure> {
    let db = tables::open(&args.dir)?;
    let table = db.open_table(&args.table)?;
    let spec = tables::spec(&db, &args.table)?;
    let key = typed(&spec, &args.key, args.hex.hex, Extent::Whole)?;
    let Some(value) = table.get(&key)? else { return Ok(not_found(&spec, &key, &table)) };
    if json {
        let mut line = json_of(&spec, &key);
        line.push(b',');
        show::value_member(&value, &mut line);
        line.push(b'}');
        print(&line)?;
    } else {
        print(&value)?;
    }
    close(db, table)
}

pub(crate) fn put(args: &Put, json: bool) -> Result<Ending, Failure> {
    let db = tables::open_or_create(&args.dir)?;
    let spec = tables::spec(&db, &args.table)?;
    let key = typed(&spec, &args.key, args.hex.hex, Extent::Whole)?;
    let table = tables::writable(&db, &args.table, args.index.wanted)?;
    table.put(&key, args.value.as_bytes())?;
    if json {
        let mut line = json_of(&spec, &key);
        line.extend_from_slice(b",\"put\":true}");
        print(&line)?;
    }
    close(db, table)
}

pub(crate) fn del(args: &Del, json: bool) -> Result<Ending, Failure> {
    let db = tables::open(&args.dir)?;
    let table = db.open_table(&args.table)?;
    let spec = tables::spec(&db, &args.table)?;
    let key = typed(&spec, &args.key, args.hex.hex, Extent::Whole)?;
    let found = table.contains(&key)?;
    if found {
        table.delete(&key)?;
    }
    if json {
        let mut line = json_of(&spec, &key);
        line.extend_from_slice(format!(",\"deleted\":{found}}}").as_bytes());
        print(&line)?;
    }
    if !found {
        return Ok(not_found(&spec, &key, &table));
    }
    close(db, table)
}

pub(crate) fn scan(args: &Scan, json: bool) -> Result<Ending, Failure> {
    let db = tables::open(&args.dir)?;
    let table = db.open_table(&args.table)?;
    let spec = tables::spec(&db, &args.table)?;
    let start = |text: &Option<_>| {
        let typed = |text| typed(&spec, text, args.hex.hex, Extent::Start);
        text.as_deref().map(typed).transpose()
    };
    let mut rows = match (start(&args.from)?, start(&args.to)?, start(&args.prefix)?) {
        (None, None, None) => table.rows()?,
        (from, to, prefix) => table.range(bounds(from, to, prefix))?,
    };
    let mut output = Output::new();
    let mut line = Vec::new();
    let mut left = args.limit.unwrap_or(u64::MAX);
    while left > 0
        && let Some((key, value)) = next(&mut rows, args.reverse)?
    {
        left -= 1;
        line.clear();
        if json {
            line.push(b'{');
            spec.json_member(key, &mut line);
            line.push(b',');
            show::value_member(value, &mut line);
            line.push(b'}');
        } else {
            spec.show(key, &mut line);
            line.push(b'\t');
            show::text(value, &mut line);
        }
        output.line(&line)?;
    }
    output.finish()?;
    drop(rows);
    close(db, table)
}

fn next(rows: &mut Rows, reverse: bool) -> esker::Result<Option<(&[u8], &[u8])>> {
    if reverse { rows.next_row_back() } else { rows.next_row() }
}

/// The range in which keys are not below `from`, below `to`, and begin with `prefix`.
fn bounds(
    from: Option<Vec<u8>>,
    to: Option<Vec<u8>>,
    prefix: Option<Vec<u8>>,
) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    let ends = [to, prefix.as_deref().and_then(behind)];
    let low = prefix.max(from).map_or(Bound::Unbounded, Bound::Included);
    let high = ends.into_iter().flatten().min().map_or(Bound::Unbounded, Bound::Excluded);
    (low, high)
}

/// The smallest key above all that begin with `prefix`, if there is one.
fn behind(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte < 0xff)?;
    let mut key = prefix[..=last].to_vec();
    key[last] += 1;
    Some(key)
}

pub(crate) fn export(args: &Export) -> Result<Ending, Failure> {
    let db = tables::open(&args.dir)?;
    let table = db.open_table(&args.table)?;
    let mut rows = table.rows()?;
    let mut output = Output::new();
    let mut line = Vec::new();
    let mut others = 0;
    while let Some((_key, value)) = rows.next_row()? {
        line.clear();
        if !show::value_line(value, &mut line) {
            others += 1;
        }
        output.line(&line)?;
    }
    output.finish()?;
    drop(rows);
    if others > 0 {
        let count = HumanCount(others);
        say(&format_args!("values that are not JSON, printed as strings or hex: {count}"));
    }
    close(db, table)
}

/// Closes the database, so that the next open has nothing to replay.
fn close(db: Database, table: Table) -> Result<Ending, Failure> {
    drop(table);
    db.close()?;
    Ok(Ending::Fine)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_narrowest_ends_count() {
        let key = |text: &str| Some(text.as_bytes().to_vec());
        let included = |text: &str| Bound::Included(text.as_bytes().to_vec());
        let excluded = |text: &str| Bound::Excluded(text.as_bytes().to_vec());
        assert_eq!(bounds(None, None, None), (Bound::Unbounded, Bound::Unbounded));
        assert_eq!(bounds(None, None, key("ab")), (included("ab"), excluded("ac")));
        assert_eq!(bounds(key("aa"), key("ad"), key("ab")), (included("ab"), excluded("ac")));
        assert_eq!(bounds(key("abc"), key("abd"), key("ab")), (included("abc"), excluded("abd")));
        assert_eq!(behind(b"a\xff\xff"), key("b"));
        assert_eq!(behind(b"\xff"), None);
    }
}
