//! The command line.

#![expect(clippy::doc_markdown, reason = "doc comments are help texts here")]

use crate::input::Format;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};
use esker::Index;
use std::ffi::OsString;
use std::path::PathBuf;

const KEYS_HELP: &str = "\
KEYS
  A key is typed as it is. Where a table was imported with several key fields, the parts of a key
  stand between commas, in the order of --key; a comma or backslash that belongs to a part is typed
  \\, or \\\\. --from, --to and --prefix may give the first parts only; `a,` is all keys whose first
  part is a, `a` also those whose first part merely begins with it. --hex takes keys as they are in
  the table, in hexadecimal.";

const EXIT_HELP: &str = "\
EXIT CODES
  0  done
  1  not found, rows rejected, damage found, not all restored, or a promise broken
  2  the command line cannot be right
  3  input, output, or the database is in use
  4  the database is damaged
  130  interrupted";

const EXAMPLES: &str = "\
EXAMPLES
  esker import flights.db flights data/flights.csv.gz --key time_hour,carrier,flight,origin
  esker get flights.db flights 2013-01-01T10:00:00Z,UA,1545,EWR
  esker scan flights.db flights --prefix 2013-01-01T10: --limit 5
  esker export flights.db flights > flights.ndjson
  esker verify flights.db";

fn after_help() -> String {
    format!("{KEYS_HELP}\n\n{EXIT_HELP}\n\n{EXAMPLES}")
}

/// Works with Esker databases: directories that hold tables of keys and values.
///
/// Data goes to standard output; progress, summaries and errors go to standard error.
#[derive(Debug, Parser)]
#[command(name = "esker", version, after_long_help = after_help(), verbatim_doc_comment)]
pub(crate) struct Esker {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Print results as JSON, one object a line.
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Import(Import),
    Get(Get),
    Put(Put),
    Del(Del),
    Scan(Scan),
    Tables(Tables),
    Stat(Stat),
    Verify(Verify),
    Repair(Repair),
    Torture(Torture),
    Export(Export),
}

/// Load a file into a table: one row for each of its rows, as JSON, under a key made of fields.
///
/// The database and the table are made if need be. A row replaces one of the same key; of two rows
/// of one key in the file, the later one stays. Rows that cannot be used are counted, the first
/// ones shown, and all of them written to FILE.rejects, one JSON object each: line, reason, text. The
/// exit code is then 1.
///
/// Batches of rows are written so that they survive the death of the process; before success is
/// reported, all of them are made to survive power loss. If the command is killed, run it again:
/// the table ends up the same.
#[derive(Debug, Args)]
#[command(after_long_help = IMPORT_HELP, verbatim_doc_comment)]
pub(crate) struct Import {
    /// The database: a directory.
    pub(crate) dir: PathBuf,
    /// The table.
    pub(crate) table: String,
    /// The input, plain or packed with gzip; - for standard input.
    pub(crate) file: PathBuf,
    /// The fields that make the key, in order, between commas. @line is the number of the line.
    #[arg(long, value_name = "FIELD[,FIELD...]")]
    pub(crate) key: String,
    /// The format, if the name of the file does not tell.
    #[arg(long)]
    pub(crate) format: Option<Format>,
    #[command(flatten)]
    pub(crate) index: Kind,
    /// Where rejected rows are written [default: FILE.rejects, stdin.rejects].
    #[arg(long, value_name = "PATH")]
    pub(crate) rejects: Option<PathBuf>,
    /// CSV and TSV: keep every field a string, numbers too.
    #[arg(long)]
    pub(crate) strings: bool,
    /// Show neither progress nor summary.
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

const IMPORT_HELP: &str = "\
FORMATS
  ndjson (.ndjson .jsonl)  one JSON object a line
  json (.json)             an array of objects, or NDJSON if it does not begin with a bracket
  csv (.csv)               the first row names the fields; double quotes around fields
  tsv (.tsv .tab)          the same with tabs, and no quoting
  Blank lines are skipped. A JSON row is stored as it is spelled, less white space. A field of CSV or
  TSV becomes a number if JSON spells it so, with at most 15 digits and no exponent, else a string.

KEYS
  A key field is text: a JSON string, number or truth value, or what stands in the column. One field
  is stored as it is. Several are stored one after the other with a zero byte between them, so that
  rows order by the first field, then the second, and so on. Text orders by its bytes: 10 comes
  before 9. FIELD:int stores a field as a 64-bit integer instead, and orders it as one.
  @line is such an integer: the line where the row begins, counted from 1, header included; in a
  JSON array the number of the element.

KINDS OF INDEX
  btree    rows in order; good at everything, best where reads matter as much as writes
  hash     no order, so no --from, --to, --prefix, --reverse; the fastest get and put of single rows
  fractal  rows in order; the fastest import, above all of more data than memory holds
  A table keeps its kind for good. README.md says more: Which index?

EXAMPLES
  esker import flights.db flights data/flights.csv.gz --key time_hour,carrier,flight,origin
  esker import shop.db orders orders.ndjson --key customer,order:int
  esker import shop.db sessions sessions.csv --key id --index hash
  zcat log.gz | esker import log.db lines - --format ndjson --key @line";

/// Print the value of a key, as it is stored, and a line end.
#[derive(Debug, Args)]
#[command(after_long_help = KEYS_HELP, verbatim_doc_comment)]
pub(crate) struct Get {
    /// The database: a directory.
    pub(crate) dir: PathBuf,
    /// The table.
    pub(crate) table: String,
    /// The key; see KEYS in --help.
    pub(crate) key: OsString,
    #[command(flatten)]
    pub(crate) hex: Hex,
}

/// Write one row, durably. The database and the table are made if need be.
#[derive(Debug, Args)]
#[command(after_long_help = KEYS_HELP, verbatim_doc_comment)]
pub(crate) struct Put {
    /// The database: a directory.
    pub(crate) dir: PathBuf,
    /// The table.
    pub(crate) table: String,
    /// Its key; see KEYS in --help.
    pub(crate) key: OsString,
    /// Its value.
    pub(crate) value: OsString,
    #[command(flatten)]
    pub(crate) index: Kind,
    #[command(flatten)]
    pub(crate) hex: Hex,
}

/// Remove one row, durably.
#[derive(Debug, Args)]
#[command(after_long_help = KEYS_HELP, verbatim_doc_comment)]
pub(crate) struct Del {
    /// The database: a directory.
    pub(crate) dir: PathBuf,
    /// The table.
    pub(crate) table: String,
    /// The key; see KEYS in --help.
    pub(crate) key: OsString,
    #[command(flatten)]
    pub(crate) hex: Hex,
}

/// Print rows in the order of their keys: key, tab, value.
///
/// The rows of a hash table have no order: they come in any, and --from, --to, --prefix and --reverse are
/// refused.
///
/// Control characters and bytes that are not UTF-8 are printed as \xNN; backslashes are left alone.
/// With --json a row is {"key": ..., "value": ...}. The key is a text or a number, or an array of
/// them if it has several parts, or "key_hex" if it is not text; the value is the JSON that is
/// stored, or "value_text" if it is other text, or "value_hex".
#[derive(Debug, Args)]
#[command(after_long_help = KEYS_HELP, verbatim_doc_comment)]
pub(crate) struct Scan {
    /// The database: a directory.
    pub(crate) dir: PathBuf,
    /// The table.
    pub(crate) table: String,
    /// The first key.
    #[arg(long, value_name = "KEY")]
    pub(crate) from: Option<OsString>,
    /// Where to stop: rows with keys below this one.
    #[arg(long, value_name = "KEY")]
    pub(crate) to: Option<OsString>,
    /// Only keys that begin so.
    #[arg(long, value_name = "KEY")]
    pub(crate) prefix: Option<OsString>,
    /// From the last row to the first.
    #[arg(long)]
    pub(crate) reverse: bool,
    /// At most this many rows.
    #[arg(long, value_name = "N")]
    pub(crate) limit: Option<u64>,
    #[command(flatten)]
    pub(crate) hex: Hex,
}

/// List the tables: name, kind of index, rows, and what their keys were imported from.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Tables {
    /// The database: a directory.
    pub(crate) dir: PathBuf,
}

/// Print figures about the database: space, log, cache, tables. Without --json, those that are not 0.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Stat {
    /// The database: a directory.
    pub(crate) dir: PathBuf,
}

/// Read every byte that the database relies on and check it. Exit code 1 if damage is found.
///
/// Says which tables and which of their keys the damage affects. `esker repair` makes a database of what is left.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Verify {
    /// The database: a directory.
    pub(crate) dir: PathBuf,
}

/// Make a new database of what is left of a damaged one, and say what is lost. Exit code 1 if anything is.
///
/// The damaged database is not written to, so there is no harm in trying. Without NEWDIR nothing is
/// written at all: the report says what would come of it. Tables keep their names and kinds of index.
///
/// The report, on standard output: the keys of each table whose rows may be gone, and those whose rows
/// may be older than the newest; which commits are gone from the log; and a last line that begins with
/// `complete` if every row was restored as it was last, else with `partial`. Damage that was met goes to
/// standard error. A database in which pages had to be found by reading everything may be complete, but
/// that cannot be known: it is `partial`, too.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Repair {
    /// The damaged database: a directory.
    pub(crate) dir: PathBuf,
    /// The new one: a directory that does not exist, or is empty.
    pub(crate) newdir: Option<PathBuf>,
}

/// Try to make databases lose data on this machine, for a bounded time, and report what was tried.
///
/// Half of the time, in NEWDIR: a process writes to tables of all kinds and is killed, over and over, and
/// what it left is compared, row by row, with what was acknowledged; copies are spoiled (bits, sectors,
/// ends of files), read, and repaired, and every row must be right, or reported. The other half, in memory:
/// the power of simulated disks is cut at every one of their operations, also while a database recovers,
/// and their operations fail. Exit code 1 if a promise is broken; NEWDIR then keeps what there is to see.
///
/// It cannot tell whether a device keeps what it said was synced: only pulling the plug can.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Torture {
    /// Where: a directory that does not exist, or is empty. Some 50 MB; removed when all went well.
    pub(crate) newdir: PathBuf,
    /// For how long. What is under way at the end is finished, which takes some seconds more.
    #[arg(long, value_name = "N", default_value_t = 60)]
    pub(crate) seconds: u64,
    /// What to draw from; a run that is not named one takes any, and says which [default: random].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(..1 << 32))]
    pub(crate) seed: Option<u64>,
    /// Acknowledge a commit that was not made, to see that it is found: exit code 1 is right then.
    #[arg(long)]
    pub(crate) canary: bool,
    /// Show no progress.
    #[arg(long, short)]
    pub(crate) quiet: bool,
    /// Be the process that is killed, from this commit on.
    #[arg(long, hide = true)]
    pub(crate) worker: Option<u64>,
}

/// Print the values of a table as NDJSON, in the order of their keys (of a hash table: in any).
///
/// What `import` stored comes out as it went in, row by row. A value that is not JSON (`put` stores
/// what it is given) comes out as a JSON string, or as {"hex": ...} if it is not text either; their
/// number is said on standard error. Keys are not printed: `scan --json` has them.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Export {
    /// The database: a directory.
    pub(crate) dir: PathBuf,
    /// The table.
    pub(crate) table: String,
}

#[derive(Debug, Args)]
pub(crate) struct Hex {
    /// Keys are given in hexadecimal, as they are in the table.
    #[arg(long)]
    pub(crate) hex: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Kind {
    /// The kind of index. A table that exists keeps its own [default for new tables: btree].
    #[arg(id = "index", long = "index", value_name = "KIND", value_parser = index_parser())]
    pub(crate) wanted: Option<Index>,
}

/// The kinds that a table may be made with here.
const KINDS: [Index; 3] = [Index::BTree, Index::Hash, Index::Fractal];

fn index_parser() -> impl TypedValueParser<Value = Index> {
    PossibleValuesParser::new(KINDS.map(Index::name)).map(|name| {
        let kind = KINDS.into_iter().find(|kind| kind.name() == name);
        kind.expect("clap lets no other name pass")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Esker::command().debug_assert();
    }
}
