//! What is left of a damaged database, put into a new one.
//!
//! ```text
//!  superblock ─▶ checkpoint ─▶ page map ─▶ images ─▶ rows ─┐
//!       └──────────────────────────────────▶ log ──────────┴─▶ new database, and a list of what is lost
//! ```
//!
//! Nothing of the old directory is written to. Each step has something to fall back on: without a superblock the newest
//! checkpoint that is whole, without a map (or a part of it) all images in all segments, of which the newest of a page counts,
//! without a catalogue what pages say of their tables. Images of commits that the log has do not count where
//! the checkpoint is known, and the log is replayed as far as it can be read, what lies between two
//! readable parts left out.
//!
//! | module | |
//! |---|---|
//! | `source` | superblock, checkpoint, pages |
//! | `tables` | taking tables apart |
//! | `target` | the new database; replaying the log |
//!
//! # What is promised
//!
//! - No row is invented: each was once written, or is by the log.
//! - A row that is missing lies in a span that is listed as lost, or was written by a commit of the log that is listed.
//! - Superblock, checkpoint and page map intact (one image of each of its nodes): no row is older than the newest, but
//!   for those listed as stale, and where commits of the log are lost.
//! - Else [`RepairReport::may_be_stale`] says that it may be.
//!
//! Memory: some hundred bytes a page, and the log.

mod source;
mod tables;
mod target;

use crate::catalog::Index;
use crate::db::Database;
use crate::options::Options;
use crate::page_set::PageSet;
use crate::range::KeySpan;
use crate::store::Freed;
use esker_base::sync::Arc;
use esker_base::{CommitNo, Error, Lsn, PageId, Result, TableId};
use esker_io::Disk;
use esker_io::os::OsDisk;
use source::{Images, Root};
use std::collections::BTreeMap;
use std::path::Path;
use tables::Outcome;
use target::{Effect, Target, recovered_name};

/// One table after a repair.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RepairedTable {
    /// Its name; `recovered-N` if that is gone.
    pub name: String,
    /// Its kind of index.
    pub index: String,
    /// Rows in the new database.
    pub rows: u64,
    /// Keys that may have had rows which are gone. A table without order: all, see `lost_share`.
    pub lost: Vec<KeySpan>,
    /// Of a table without order: about which share of its rows is gone.
    pub lost_share: f64,
    /// Keys whose rows may be older than the newest, or were deleted.
    pub stale: Vec<KeySpan>,
}

/// A part of the log that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LostLog {
    /// The file in which it begins.
    pub file: String,
    /// Where in the file.
    pub offset: u64,
    /// The last commit before it that is there.
    pub after_commit: u64,
    /// The first commit behind it, if there is any.
    pub before_commit: Option<u64>,
}

/// What a repair has found, restored and lost.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct RepairReport {
    /// The tables, by name.
    pub tables: Vec<RepairedTable>,
    /// Groups of the log that were replayed.
    pub log_groups: u64,
    /// What is missing of the log. Rows that the commits between wrote are missing, or as they were before.
    pub lost_log: Vec<LostLog>,
    /// A superblock was found.
    pub has_superblock: bool,
    /// The checkpoint's file was found, with the names of the tables.
    pub has_checkpoint: bool,
    /// Pages had to be found by reading everything: what was restored may be older than the newest.
    pub may_be_stale: bool,
    /// Everything damaged that was met, up to a thousand.
    pub damage: Vec<String>,
    /// How much that was in all.
    pub damaged: u64,
}

impl RepairReport {
    /// True if every row was restored, as it was last.
    pub fn is_complete(&self) -> bool {
        let whole = |table: &RepairedTable| table.lost.is_empty() && table.stale.is_empty();
        !self.may_be_stale && self.lost_log.is_empty() && self.tables.iter().all(whole)
    }
}

impl Options {
    /// Restores what is left of the database in `damaged` into a new one in `new`, which must not exist or be empty. See
    /// [`Database::repair`].
    ///
    /// # Errors
    /// As [`Database::repair`].
    pub fn repair(self, damaged: impl AsRef<Path>, new: impl AsRef<Path>) -> Result<RepairReport> {
        let from = OsDisk::open(damaged.as_ref(), false)?;
        let to = OsDisk::open(new.as_ref(), true)?;
        self.repair_on(Arc::new(from), Some(Arc::new(to)))
    }

    /// As [`Options::repair`], without writing anything: what would be restored, and what is lost.
    ///
    /// # Errors
    /// As [`Database::repair`].
    pub fn examine(self, damaged: impl AsRef<Path>) -> Result<RepairReport> {
        self.repair_on(Arc::new(OsDisk::open(damaged.as_ref(), false)?), None)
    }

    /// As [`Options::repair`], on disks of your own; without a new one nothing is written.
    ///
    /// # Errors
    /// As [`Database::repair`].
    pub fn repair_on(
        self,
        damaged: Arc<dyn Disk>,
        new: Option<Arc<dyn Disk>>,
    ) -> Result<RepairReport> {
        repair(&*damaged, new, self)
    }
}

/// What pages are left, and what they are of.
struct Left<'a> {
    images: Images<'a>,
    root: &'a Root,
}

fn repair(disk: &dyn Disk, new: Option<Arc<dyn Disk>>, options: Options) -> Result<RepairReport> {
    // Who cannot take the lock for want of rights may read all the same.
    let lock = match disk.lock() {
        Err(error @ Error::Locked { .. }) => return Err(error),
        lock => lock.ok(),
    };
    let root = Root::read(disk, &options)?;
    let target = match new {
        Some(new) => {
            if let Some(name) = new.list()?.iter().find(|name| *name != "LOCK") {
                let detail = format!("{} holds {name}", new.label());
                return Err(Error::invalid("directory not empty", detail));
            }
            let options = options.page_bytes(root.page_bytes).create(true);
            Some(options.durability(crate::Durability::Buffered).open_on(new)?)
        }
        None => None,
    };
    let mut target = Target::new(target);
    let mut report = RepairReport {
        has_superblock: root.superblock.is_some(),
        has_checkpoint: root.metadata.is_some(),
        damage: root.damage.clone(),
        ..RepairReport::default()
    };
    let limit = newest_commit_of_pages(disk, &root)?;
    let left = Left { images: Images::new(disk, &root, limit), root: &root };
    let mut outcomes = left.restore_tables(&mut target)?;
    left.replay(disk, &mut target, &mut outcomes, &mut report)?;
    let (damage, damaged) = left.images.damage();
    report.damage.extend(damage);
    report.damaged = damaged + root.damage.len() as u64;
    report.may_be_stale = left.images.is_guessed();
    for (id, (name, kind, rows)) in target.finish()? {
        let Outcome { lost, stale, lost_share } = outcomes.remove(&id).unwrap_or_default();
        let index = kind.to_string();
        report.tables.push(RepairedTable { name, index, rows, lost, lost_share, stale });
    }
    report.tables.sort_by(|a, b| a.name.cmp(&b.name));
    drop(lock);
    Ok(report)
}

/// Up to which commit pages count: what comes later is in the log.
fn newest_commit_of_pages(disk: &dyn Disk, root: &Root) -> Result<CommitNo> {
    if let Some((metadata, _)) = &root.metadata {
        return Ok(metadata.commit);
    }
    let log = esker_wal::salvage(disk, root.database, log_start(root), &mut |_| Ok(()))?;
    Ok(match (root.superblock.is_some(), log.first_commit) {
        // The log begins where the checkpoint ended.
        (true, CommitNo(first @ 1..)) => CommitNo(first - 1),
        (false, CommitNo(1..)) => log.last_commit,
        _ => CommitNo(u64::MAX),
    })
}

fn log_start(root: &Root) -> Option<(u64, Lsn)> {
    root.superblock.map(|superblock| (superblock.incarnation, superblock.log_start))
}

impl Left<'_> {
    fn restore_tables(&self, target: &mut Target) -> Result<BTreeMap<TableId, Outcome>> {
        let Self { images, root } = self;
        let mut outcomes = BTreeMap::new();
        let state = root.metadata.as_ref().map(|(metadata, _)| &metadata.state);
        let mut given_up = match state {
            Some(state) => tables::given_up(images, &state.trees)?,
            None => PageSet::default(),
        };
        for Freed { first, count, .. } in state.iter().flat_map(|state| &state.freed) {
            given_up.insert_range(*first, u64::from(*count));
        }
        for (first, count) in state.iter().flat_map(|state| &state.ids.free) {
            given_up.insert_range(PageId(*first), *count);
        }
        let pages = tables::sweep(images, &given_up)?;
        let none = Vec::new();
        if let Some((_, catalog)) = &root.metadata {
            for table in catalog.by_id.values() {
                target.create(table.id, &table.name, target.known(table.kind))?;
                let pages = pages.get(&table.id).unwrap_or(&none);
                let root = Some(table.root.page());
                outcomes.insert(table.id, self.restore(table.id, table.kind, root, pages, target)?);
            }
            return Ok(outcomes);
        }
        for (id, pages) in &pages {
            let kind = tables::guess_kind(images, root.database, *id, pages)?;
            let Some(kind) = kind else { continue };
            target.create(*id, &recovered_name(*id), kind)?;
            outcomes.insert(*id, self.restore(*id, kind, None, pages, target)?);
        }
        Ok(outcomes)
    }

    fn restore(
        &self,
        id: TableId,
        kind: Index,
        root: Option<PageId>,
        pages: &[tables::Seen],
        target: &mut Target,
    ) -> Result<Outcome> {
        let images = &self.images;
        let outcome = match kind {
            Index::BTree => tables::btree(images, id, root.is_some(), pages, target)?,
            Index::Hash => tables::hash(images, self.root.database, id, root, pages, target)?,
            Index::Fractal => tables::fractal(images, id, root, pages, target)?,
            // What its pages mean only its own code knows.
            Index::Custom(_) => Outcome { lost: vec![KeySpan::ALL], ..Outcome::default() },
        };
        target.flush()?;
        Ok(outcome)
    }

    fn replay(
        &self,
        disk: &dyn Disk,
        target: &mut Target,
        outcomes: &mut BTreeMap<TableId, Outcome>,
        report: &mut RepairReport,
    ) -> Result<()> {
        let root = self.root;
        let from = root.metadata.as_ref().map_or(CommitNo(0), |(metadata, _)| metadata.commit);
        let mut groups = 0;
        let mut first = None;
        let mut unreadable = Vec::new();
        let log = esker_wal::salvage(disk, root.database, log_start(root), &mut |group| {
            if group.commit <= from {
                return Ok(());
            }
            first.get_or_insert(group.commit);
            match target.replay(group.payload)? {
                Some(effects) => {
                    for effect in effects {
                        if let Effect::Emptied(table) = effect {
                            outcomes.remove(&table);
                        }
                    }
                    groups += 1;
                }
                None => unreadable.push(group.commit),
            }
            Ok(())
        })?;
        report.log_groups = groups;
        report.lost_log = log.lost.iter().map(LostLog::of).collect();
        // Without a superblock nothing says where the log begins but the numbers of its commits, and nothing that there is one.
        let begins_late = first.is_some_and(|first| first > from.next());
        let is_older = first.is_none() && log.groups > 0 && log.last_commit < from;
        if root.superblock.is_none() && (log.incarnation == 0 || begins_late || is_older) {
            let before_commit = first.map(|first: CommitNo| first.0);
            let (file, after_commit) = (disk.label(), from.0);
            report.lost_log.insert(0, LostLog { file, offset: 0, after_commit, before_commit });
        }
        for commit in unreadable {
            report.damage.push(format!("the log's group of {commit:?} does not decode"));
            report.lost_log.push(LostLog {
                file: disk.label(),
                offset: 0,
                after_commit: commit.0 - 1,
                before_commit: Some(commit.0 + 1),
            });
        }
        Ok(())
    }
}

impl LostLog {
    fn of(lost: &esker_wal::LostGroups) -> Self {
        Self {
            file: lost.file.clone(),
            offset: lost.offset,
            after_commit: lost.after.0,
            before_commit: lost.before.map(|commit| commit.0),
        }
    }
}

impl Database {
    /// Restores what is left of a damaged database into a new one, in a directory that does not exist or is empty, and says
    /// what is lost. The damaged one is not written to. Tables keep names and kinds; kinds of your own are not taken
    /// apart, but for what the log has.
    ///
    /// Reads everything up to three times; memory as for a database with default [`Options`], some hundred bytes a page,
    /// and the log.
    ///
    /// # Errors
    /// `Locked` if it is open; `NotADatabase` if neither superblock, checkpoint nor log says which database it was; `Format`;
    /// `Invalid` if the new directory is not empty; what keeps the new one from being written. Damage is no error.
    pub fn repair(damaged: impl AsRef<Path>, new: impl AsRef<Path>) -> Result<RepairReport> {
        Options::new().repair(damaged, new)
    }

    pub(crate) fn has_kind(&self, name: &str) -> bool {
        self.engine().options.kinds.has(name)
    }
}
