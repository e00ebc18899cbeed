//! Copies of the real files, spoiled: found, read around, repaired.

use super::history::{TABLES, options};
use super::{Stop, Torturer, broken};
use crate::failure::Failure;
use esker::{Database, Error, RepairReport, RepairedTable};
use esker_conformance::Choices as _;
use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;

const SECTOR_BYTES: u64 = 512;

/// Counts of this part.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rots {
    pub(super) copies: u64,
    /// Copies that did not open.
    pub(super) refused: u64,
    /// Copies whose damage a read or verify reported.
    pub(super) reported: u64,
    /// Copies in which what was spoiled was not in use.
    pub(super) harmless: u64,
    /// Copies that a repair restored whole,
    pub(super) restored: u64,
    /// and in part, with a list of what is lost.
    pub(super) restored_partly: u64,
    /// Copies of which nothing says that they are a database.
    pub(super) beyond_repair: u64,
}

impl Torturer<'_> {
    /// Spoils a copy of the database, and looks what is made of it.
    pub(super) fn rot(&mut self) -> Result<(), Stop> {
        if self.model.commits == 0 {
            return Ok(());
        }
        let db = options().open(self.db_dir()).map_err(broken)?;
        db.close().map_err(Failure::from)?;
        let (copy, repaired) = (self.args.newdir.join("rot"), self.args.newdir.join("repaired"));
        let trouble = |source| Stop::Trouble(Failure::file(copy.display().to_string(), source));
        let names = copy_files(&self.db_dir(), &copy).map_err(trouble)?;
        let mut spoiled = Vec::new();
        for _ in 0..=self.rng.below(3) {
            let name = &names[usize::try_from(self.rng.below(names.len() as u64)).expect("few")];
            let done = self.spoil(&copy.join(name)).map_err(trouble)?;
            spoiled.extend(done.map(|what| format!("{name}: {what}")));
        }
        let place = spoiled.join(", ");
        self.tally.rots.copies += 1;
        // Repaired first: what opens it may write to it.
        self.repair(&copy, &repaired, &place)?;
        match options().background(false).create(false).open(&copy) {
            Ok(db) => {
                let reported = self.read(&db, &place)?;
                let rots = &mut self.tally.rots;
                *(if reported { &mut rots.reported } else { &mut rots.harmless }) += 1;
            }
            Err(Error::Corrupt { .. } | Error::NotADatabase { .. }) => self.tally.rots.refused += 1,
            Err(error) => return Err(broken(format_args!("{place}: {error}"))),
        }
        fs::remove_dir_all(&copy).map_err(trouble)?;
        fs::remove_dir_all(&repaired).map_err(trouble)
    }

    /// Spoils a file at a place where something is, if one is found; says how.
    fn spoil(&mut self, path: &Path) -> io::Result<Option<String>> {
        /// Files are mostly space that was only set aside.
        const TRIES: u32 = 50;
        let mut file = OpenOptions::new().read(true).write(true).open(path)?;
        let bytes = file.metadata()?.len();
        for _ in 0..TRIES {
            let at = self.rng.below(bytes.max(1));
            let mut byte = [0];
            file.seek(SeekFrom::Start(at))?;
            if file.read(&mut byte)? == 0 || byte[0] == 0 {
                continue;
            }
            return Ok(Some(match self.rng.below(6) {
                0 => {
                    file.set_len(at)?;
                    format!("cut to {at} bytes")
                }
                1 => {
                    let from = at / SECTOR_BYTES * SECTOR_BYTES;
                    file.seek(SeekFrom::Start(from))?;
                    let zeroes = SECTOR_BYTES.min(bytes - from);
                    io::copy(&mut io::repeat(0).take(zeroes), &mut file)?;
                    format!("sector of byte {at} zeroed")
                }
                _ => {
                    let bit = 1 << self.rng.below(8);
                    file.seek(SeekFrom::Start(at))?;
                    file.write_all(&[byte[0] ^ bit])?;
                    format!("bit {bit:#x} of byte {at} flipped")
                }
            }));
        }
        Ok(None)
    }

    /// Reads everything: right, or reported. Answers whether anything was.
    fn read(&self, db: &Database, place: &str) -> Result<bool, Stop> {
        let broken = |what: &dyn std::fmt::Display| broken(format_args!("{place}: {what}"));
        let is_damage = |error: &Error| matches!(error, Error::Corrupt { .. });
        let mut reported = false;
        for ((name, _), wanted) in TABLES.iter().zip(&self.model.tables) {
            let table = db.open_table(name).map_err(|error| broken(&error))?;
            let mut rows = 0;
            let mut whole = true;
            for row in table.rows().map_err(|error| broken(&error))? {
                match row {
                    Ok(row) if wanted.get(row.key()).is_some_and(|v| v == row.value()) => rows += 1,
                    Ok(row) => {
                        return Err(broken(&format_args!(
                            "{name}: wrong row {}",
                            row.key().escape_ascii()
                        )));
                    }
                    Err(error) if is_damage(&error) => {
                        whole = false;
                        break;
                    }
                    Err(error) => return Err(broken(&error)),
                }
            }
            if whole && rows != wanted.len() {
                return Err(broken(&format_args!("{name}: {rows} rows of {}", wanted.len())));
            }
            reported |= !whole;
            for (key, value) in wanted {
                match table.get(key) {
                    Ok(Some(found)) if found == *value => {}
                    Ok(_) => {
                        return Err(broken(&format_args!("{name}: a get of a row found no such")));
                    }
                    Err(error) if is_damage(&error) => reported = true,
                    Err(error) => return Err(broken(&error)),
                }
            }
        }
        let verified = db.verify();
        let is_sound = match &verified {
            Ok(verified) => verified.is_sound(),
            Err(error) if is_damage(error) => false,
            Err(error) => return Err(broken(error)),
        };
        if reported && is_sound {
            return Err(broken(&"verify did not see what a read saw"));
        }
        Ok(reported || !is_sound)
    }

    /// Repairs the copy, and checks that nothing is invented and all that is missing is said.
    fn repair(&mut self, copy: &Path, new: &Path, place: &str) -> Result<(), Stop> {
        let broken = |what: &dyn std::fmt::Display| broken(format_args!("repair, {place}: {what}"));
        let report = match options().repair(copy, new) {
            Ok(report) => report,
            Err(Error::NotADatabase { .. }) => {
                self.tally.rots.beyond_repair += 1;
                return Ok(());
            }
            Err(error @ (Error::NoSpace { .. } | Error::Io { .. })) => {
                return Err(Failure::from(error).into());
            }
            Err(error) => return Err(broken(&error)),
        };
        let db = options().create(false).open(new).map_err(|error| broken(&error))?;
        if !db.verify().map_err(|error| broken(&error))?.is_sound() {
            return Err(broken(&"what was restored is damaged"));
        }
        for (tab, (name, _)) in TABLES.iter().enumerate() {
            self.check_table(&db, &report, tab, name).map_err(|what| broken(&what))?;
        }
        db.close().map_err(Failure::from)?;
        let rots = &mut self.tally.rots;
        *(if report.is_complete() { &mut rots.restored } else { &mut rots.restored_partly }) += 1;
        Ok(())
    }

    fn check_table(
        &self,
        db: &Database,
        report: &RepairReport,
        tab: usize,
        name: &str,
    ) -> Result<(), String> {
        // Tables without a name have the numbers in which they were made.
        let nameless = format!("recovered-{}", tab + 1);
        let is_it = |table: &&RepairedTable| table.name == name || table.name == nameless;
        let told = report.tables.iter().find(is_it);
        // Then any row may be missing, or old.
        let all_told = told.is_none() && !report.has_checkpoint
            || report.may_be_stale
            || !report.lost_log.is_empty();
        let wanted = &self.model.tables[tab];
        let mut found = BTreeSet::new();
        if let Some(told) = told {
            let table = db.open_table(&told.name).map_err(|error| error.to_string())?;
            for row in table.rows().map_err(|error| error.to_string())? {
                let row = row.map_err(|error| error.to_string())?;
                let key = || row.key().escape_ascii().to_string();
                if !self.model.was_written(tab, row.key(), row.value()) {
                    return Err(format!("{name}: row {} was never written", key()));
                }
                let is_newest = wanted.get(row.key()).is_some_and(|value| value == row.value());
                if !is_newest
                    && !all_told
                    && !told.stale.iter().any(|span| span.contains(row.key()))
                {
                    return Err(format!("{name}: row {} is old, and nothing says so", key()));
                }
                found.insert(row.key().to_vec());
            }
        }
        for key in wanted.keys().filter(|key| !found.contains(*key)) {
            let is_told = told.is_some_and(|told| told.lost.iter().any(|span| span.contains(key)));
            if !is_told && !all_told {
                return Err(format!(
                    "{name}: row {} is missing, and nothing says so",
                    key.escape_ascii()
                ));
            }
        }
        Ok(())
    }
}

/// Copies the files that matter; gives their names.
fn copy_files(from: &Path, to: &Path) -> io::Result<Vec<String>> {
    fs::create_dir(to)?;
    let mut names = Vec::new();
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name().into_string().expect("the engine's names are ASCII");
        if name != "LOCK" && name != "reserve" {
            fs::copy(from.join(&name), to.join(&name))?;
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}
