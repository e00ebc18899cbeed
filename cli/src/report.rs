//! Commands about the database: tables, stat, verify.

use crate::args::{Stat, Tables, Verify};
use crate::failure::{Ending, Failure, say};
use crate::output::{self, Output};
use crate::show;
use crate::tables::{self, NOTES};
use comfy_table::{CellAlignment, Table, presets};
use esker::{Damage, KeySpan};
use indicatif::{HumanBytes, HumanCount};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Damaged places shown on standard error.
const SHOWN_MAX: usize = 10;

/// A table on the screen: columns, two spaces between them, no lines.
fn screen(header: &[&str], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&i) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn print(table: &Table) -> Result<(), Failure> {
    let mut output = Output::new();
    for line in table.lines() {
        output.line(line.trim_end().as_bytes())?;
    }
    output.finish()
}

pub(crate) fn tables(args: &Tables, json: bool) -> Result<Ending, Failure> {
    let db = tables::open(&args.dir)?;
    let mut rows = Vec::new();
    for table in db.tables() {
        // What import notes is shown as the keys of the tables that it is about.
        if table.name() != NOTES {
            let noted = tables::noted(&db, table.name())?.map(|spec| spec.to_string());
            rows.push((table, noted));
        }
    }
    if json {
        let tables = rows.iter().map(|(table, noted)| {
            json!({
                "name": table.name(),
                "index": table.kind().name(),
                "rows": table.approximate_len(),
                "key": noted,
            })
        });
        output::json(&json!({ "tables": tables.collect::<Vec<_>>() }))?;
    } else {
        let mut shown = screen(&["table", "index", "rows", "key"], &[2]);
        for (table, noted) in &rows {
            shown.add_row([
                table.name().escape_debug().to_string(),
                table.kind().to_string(),
                HumanCount(table.approximate_len()).to_string(),
                noted.clone().unwrap_or_default(),
            ]);
        }
        print(&shown)?;
    }
    drop(rows);
    db.close()?;
    Ok(Ending::Fine)
}

pub(crate) fn stat(args: &Stat, json: bool) -> Result<Ending, Failure> {
    let db = tables::open(&args.dir)?;
    let stats = db.stats();
    if json {
        let mut figures: Map<String, Value> = stats
            .fields()
            .into_iter()
            .map(|(name, figure)| (name.to_owned(), figure.into()))
            .collect();
        let tables = stats
            .tables
            .iter()
            .map(|table| json!({ "name": table.name, "index": table.kind, "rows": table.rows, "bytes": table.bytes }));
        figures.insert("tables".to_owned(), tables.collect());
        output::json(&Value::Object(figures))?;
    } else {
        let mut shown = screen(&["figure", "value"], &[1]);
        for (name, figure) in stats.fields() {
            if figure > 0 {
                shown.add_row([name.to_owned(), human(name, figure)]);
            }
        }
        for table in &stats.tables {
            let name = format!("index of {}", table.name.escape_debug());
            shown.add_row([name, table.kind.to_owned()]);
            let name = format!("rows of {}", table.name.escape_debug());
            shown.add_row([name, HumanCount(table.rows).to_string()]);
            let name = format!("bytes of {}", table.name.escape_debug());
            shown.add_row([name, HumanBytes(table.bytes).to_string()]);
        }
        print(&shown)?;
    }
    db.close()?;
    Ok(Ending::Fine)
}

/// A figure with the unit that its name ends in.
fn human(name: &str, figure: u64) -> String {
    if name.ends_with("_bytes") {
        HumanBytes(figure).to_string()
    } else if name.ends_with("_ns") || name.ends_with("_ns_max") {
        format!("{:.3} ms", Duration::from_nanos(figure).as_secs_f64() * 1e3)
    } else {
        HumanCount(figure).to_string()
    }
}

/// Which table and keys damage affects, before a colon; nothing if that is not known.
fn affected(damage: &Damage) -> String {
    if damage.has_copy {
        return "a copy serves instead, nothing is lost: ".to_owned();
    }
    let Some(table) = &damage.table else { return String::new() };
    let keys =
        damage.keys.as_ref().map_or("any key may be affected".to_owned(), KeySpan::to_string);
    format!("table {table:?}, {keys}: ")
}

/// Keys as a member of a JSON object: as text, and if they are none, in hexadecimal.
pub(crate) fn keys_json(keys: &KeySpan) -> Value {
    let mut members = Map::new();
    let mut end = |name: &str, key: &[u8]| {
        if let Ok(text) = std::str::from_utf8(key) {
            members.insert(name.to_owned(), text.into());
        } else {
            let mut hex = Vec::new();
            show::json_hex(key, &mut hex);
            let hex = String::from_utf8(hex).expect("hexadecimal digits");
            members.insert(format!("{name}_hex"), hex.trim_matches('"').into());
        }
    };
    end("from", &keys.low);
    if let Some(high) = &keys.high {
        end("to", high);
    }
    Value::Object(members)
}

pub(crate) fn verify(args: &Verify, json: bool) -> Result<Ending, Failure> {
    let db = tables::open(&args.dir)?;
    let found = db.verify()?;
    for damage in found.damage.iter().take(SHOWN_MAX) {
        say(&format_args!("damage: {}{}", affected(damage), damage.error));
    }
    if found.damage.len() > SHOWN_MAX {
        let more = found.damage.len() - SHOWN_MAX;
        say(&format_args!("... and {more} more; --json lists all of them"));
    }
    if json {
        let damage = found.damage.iter().map(|damage| {
            json!({
                "table": damage.table,
                "keys": damage.keys.as_ref().map(keys_json),
                "has_copy": damage.has_copy,
                "error": damage.error.to_string(),
            })
        });
        output::json(&json!({
            "sound": found.is_sound(),
            "tables": found.tables,
            "rows": found.rows,
            "large_values": found.large_values,
            "images": found.images,
            "image_bytes": found.image_bytes,
            "damage": damage.collect::<Vec<_>>(),
        }))?;
    } else {
        let verdict = match found.damage.len() {
            0 => "sound".to_owned(),
            1 => "1 thing is damaged".to_owned(),
            more => format!("{more} things are damaged"),
        };
        let mut output = Output::new();
        let line = format!(
            "{verdict}: {} tables, {} rows, {} page images of {} read",
            found.tables,
            HumanCount(found.rows),
            HumanCount(found.images),
            HumanBytes(found.image_bytes),
        );
        output.line(line.as_bytes())?;
        output.finish()?;
    }
    if !found.is_sound() {
        // Closing would write a checkpoint over what there is to look at.
        return Ok(Ending::Negative);
    }
    db.close()?;
    Ok(Ending::Fine)
}
