//! A process that writes real files, killed in the middle of it.

use super::history::{COUNT_KEY, Model, TABLES, options};
use super::{Stop, Torturer, broken};
use crate::failure::Failure;
use esker::{Database, Table};
use esker_conformance::Choices as _;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Longest life: opening takes a part of it.
const LIFE_MS_MAX: u64 = 400;

/// Counts of this part.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kills {
    pub(super) times: u64,
    /// Of them, before the first commit.
    pub(super) in_recovery: u64,
    pub(super) commits: u64,
}

impl Torturer<'_> {
    /// One life: a worker that is killed, and what it left, compared.
    pub(super) fn life(&mut self) -> Result<(), Stop> {
        let first = self.model.commits + 1;
        let mut worker = self.spawn(first)?;
        let mut pipe = worker.stdout.take().expect("it is piped");
        let reader = std::thread::spawn(move || {
            let mut said = Vec::new();
            pipe.read_to_end(&mut said).map(|_| said)
        });
        let life_ms = 1 + self.rng.below(LIFE_MS_MAX);
        std::thread::sleep(Duration::from_millis(life_ms));
        let ended = worker.try_wait().map_err(trouble)?;
        worker.kill().map_err(trouble)?;
        worker.wait().map_err(trouble)?;
        let said = reader.join().expect("it only reads").map_err(trouble)?;
        if let Some(status) = ended
            && !self.interrupt.is_set()
        {
            let what = "the process that writes the database".to_owned();
            let source = std::io::Error::other(format!("it ended by itself: {status}"));
            return Err(Stop::Trouble(Failure::File { what, source }));
        }
        // What is cut is the line of a commit that was not said in full.
        let said = String::from_utf8(said).expect("it says numbers");
        let last = said.rsplit_once('\n').map_or(first - 1, |(lines, _)| {
            lines.lines().last().and_then(|line| line.parse().ok()).expect("a number a line")
        });
        self.check(last)?;
        self.tally.kills.times += 1;
        self.tally.kills.in_recovery += u64::from(last < first);
        self.tally.kills.commits += (last + 1).saturating_sub(first);
        Ok(())
    }

    fn spawn(&self, first: u64) -> Result<Child, Stop> {
        let program = std::env::current_exe().map_err(trouble)?;
        let mut command = Command::new(program);
        command.arg("torture").arg(&self.args.newdir);
        command.args(["--seed", &self.seed.to_string(), "--worker", &first.to_string()]);
        if self.args.canary {
            command.arg("--canary");
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command.spawn().map_err(trouble)
    }

    /// Opens what a killed worker left: everything up to `acknowledged` must be there, perhaps one commit more.
    fn check(&mut self, acknowledged: u64) -> Result<(), Stop> {
        let db = match options().open(self.db_dir()) {
            Ok(db) => db,
            // It was killed before there was one.
            Err(esker::Error::NotADatabase { .. }) if acknowledged == 0 => return Ok(()),
            Err(error) => return Err(broken(format_args!("after a kill: {error}"))),
        };
        let mut found = Vec::new();
        for (name, kind) in TABLES {
            let table = db.table(name, kind).map_err(Failure::from)?;
            let count = table.get(COUNT_KEY).map_err(broken)?;
            found.push(
                count.map_or(0, |bytes| bytes.try_into().map_or(u64::MAX, u64::from_le_bytes)),
            );
        }
        let commits = found[0];
        if found.iter().any(|other| *other != commits) {
            return Err(broken(format_args!("a commit is in some tables only: {found:?}")));
        }
        if commits < acknowledged || commits > acknowledged + 1 {
            let what = format!("{acknowledged} commits were acknowledged, {commits} are there");
            return Err(broken(what));
        }
        if commits > 0 {
            self.model.advance(commits);
            self.compare(&db)?;
        }
        let verified = db.verify().map_err(broken)?;
        if let Some(damage) = verified.damage.first() {
            return Err(broken(format_args!("verify after a kill: {}", damage.error)));
        }
        // Else its log is replayed by the next worker once more.
        if self.rng.one_in(2) {
            db.close().map_err(Failure::from)?;
        }
        Ok(())
    }

    fn compare(&self, db: &Database) -> Result<(), Stop> {
        for (tab, (name, _)) in TABLES.iter().enumerate() {
            let table = db.open_table(name).map_err(broken)?;
            if let Err(what) = same_rows(&table, &self.model, tab) {
                let commits = self.model.commits;
                return Err(broken(format_args!("after {commits} commits, table {name}: {what}")));
            }
        }
        Ok(())
    }
}

fn trouble(source: std::io::Error) -> Stop {
    Stop::Trouble(Failure::file("a process that writes the database", source))
}

/// Compares all rows. An error says what is wrong.
pub(super) fn same_rows(table: &Table, model: &Model, tab: usize) -> Result<(), String> {
    let wanted = &model.tables[tab];
    let mut rows = 0;
    for row in table.rows().map_err(|error| error.to_string())? {
        let row = row.map_err(|error| error.to_string())?;
        rows += 1;
        if wanted.get(row.key()).is_none_or(|value| value != row.value()) {
            return Err(format!(
                "row \"{}\" is not as it was written last",
                row.key().escape_ascii()
            ));
        }
    }
    if rows != wanted.len() {
        return Err(format!("{rows} rows instead of {}", wanted.len()));
    }
    Ok(())
}
