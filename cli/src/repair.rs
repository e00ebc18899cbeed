//! repair: a new database of what is left of a damaged one.

use crate::args::Repair;
use crate::failure::{Ending, Failure, say};
use crate::output::{self, Output};
use crate::report::keys_json;
use esker::{LostLog, Options, RepairReport, RepairedTable};
use indicatif::HumanCount;
use serde_json::{Value, json};

/// Damaged places shown on standard error.
const SHOWN_MAX: usize = 10;

pub(crate) fn repair(args: &Repair, json: bool) -> Result<Ending, Failure> {
    let options = Options::new();
    let report = match &args.newdir {
        Some(new) => options.repair(&args.dir, new)?,
        None => options.examine(&args.dir)?,
    };
    for damage in report.damage.iter().take(SHOWN_MAX) {
        say(&format_args!("damage: {damage}"));
    }
    let more = report.damaged.saturating_sub(SHOWN_MAX as u64);
    if more > 0 {
        say(&format_args!("... and {more} more; --json lists up to a thousand"));
    }
    if json {
        output::json(&as_json(&report))?;
    } else {
        let mut output = Output::new();
        for line in lines(&report, args) {
            output.line(line.as_bytes())?;
        }
        output.finish()?;
    }
    Ok(if report.is_complete() { Ending::Fine } else { Ending::Negative })
}

/// The report for reading.
fn lines(report: &RepairReport, args: &Repair) -> Vec<String> {
    let mut lines = Vec::new();
    if !report.has_superblock {
        lines.push(
            "note: there is no superblock; the newest checkpoint that is whole was taken"
                .to_owned(),
        );
    }
    if !report.has_checkpoint {
        lines.push("note: there is no checkpoint, so tables lost their names".to_owned());
    }
    if report.may_be_stale {
        lines.push(
            "note: pages were found by reading everything; any row may be older than the newest"
                .to_owned(),
        );
    }
    for table in &report.tables {
        lines.extend(lines_of(table));
    }
    lines.extend(report.lost_log.iter().map(line_of));
    let rows = HumanCount(report.tables.iter().map(|table| table.rows).sum());
    let count = report.tables.len();
    let verdict = if report.is_complete() { "complete" } else { "partial" };
    lines.push(match &args.newdir {
        Some(new) => format!("{verdict}: {count} tables, {rows} rows in {}", new.display()),
        // Rows are counted where they are written.
        None => format!("{verdict}: {count} tables; nothing was written"),
    });
    lines
}

fn lines_of(table: &RepairedTable) -> impl Iterator<Item = String> {
    let name = &table.name;
    let lost = table.lost.iter().map(move |span| {
        if table.index == "hash" {
            // Its keys have no order, so a span says nothing.
            format!("lost: table {name:?}: about {:.1} % of its rows", table.lost_share * 100.0)
        } else {
            format!("lost: table {name:?}: rows with {span}")
        }
    });
    let stale = table.stale.iter();
    lost.chain(stale.map(move |span| {
        format!(
            "old: table {name:?}: rows with {span} may be older than the newest, or were deleted"
        )
    }))
}

fn line_of(lost: &LostLog) -> String {
    let place = format!("{} from byte {} on", lost.file, lost.offset);
    let after = lost.after_commit;
    match lost.before_commit {
        Some(before) => format!("lost: the commits between {after} and {before} ({place})"),
        None => format!("lost: the commits after {after} ({place})"),
    }
}

fn as_json(report: &RepairReport) -> Value {
    let tables = report.tables.iter().map(|table| {
        json!({
            "name": table.name,
            "index": table.index,
            "rows": table.rows,
            "lost": table.lost.iter().map(keys_json).collect::<Vec<_>>(),
            "lost_share": table.lost_share,
            "stale": table.stale.iter().map(keys_json).collect::<Vec<_>>(),
        })
    });
    let lost_log = report.lost_log.iter().map(|lost| {
        json!({
            "file": lost.file,
            "offset": lost.offset,
            "after_commit": lost.after_commit,
            "before_commit": lost.before_commit,
        })
    });
    json!({
        "complete": report.is_complete(),
        "tables": tables.collect::<Vec<_>>(),
        "log_groups": report.log_groups,
        "lost_log": lost_log.collect::<Vec<_>>(),
        "has_superblock": report.has_superblock,
        "has_checkpoint": report.has_checkpoint,
        "may_be_stale": report.may_be_stale,
        "damaged": report.damaged,
        "damage": report.damage,
    })
}
