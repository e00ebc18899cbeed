//! Reading what is left of a log that is damaged.
//!
//! [`read`](crate::read()) stops at damage, since what comes after it is no prefix. Here everything that
//! can still be told is given, and what lies between is listed. What comes behind a torn tail stays out, as
//! there: only where a later group or header says that a position was durable is it taken for damage.

use crate::format::{
    ALIGN, BLOCK_BYTES, BODY_AT, FileHeader, GROUP_HEADER_BYTES, Identity, Item, file_name,
    group_lsn, is_signed, parse_name, peek, round_up, to_usize,
};
use crate::reader::Group;
use esker_base::{CommitNo, DatabaseId, Lsn, Result};
use esker_io::{Disk, OpenMode};

/// A part of the log that was durable and cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostGroups {
    /// The file in which it begins.
    pub file: String,
    /// Where in the file.
    pub offset: u64,
    /// Where in the log.
    pub from: Lsn,
    /// Where the log goes on; `None`: nowhere.
    pub to: Option<Lsn>,
    /// The last commit before it; 0 if there is none.
    pub after: CommitNo,
    /// The first commit behind it, if there is one.
    pub before: Option<CommitNo>,
}

/// What was salvaged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvaged {
    /// The incarnation that was read.
    pub incarnation: u64,
    /// Groups given.
    pub groups: u64,
    /// The first commit; 0 if there is none.
    pub first_commit: CommitNo,
    /// The last commit; 0 if there is none.
    pub last_commit: CommitNo,
    /// What is missing.
    pub lost: Vec<LostGroups>,
}

/// The databases that headers of log files name, each once.
pub fn databases(disk: &dyn Disk) -> Result<Vec<DatabaseId>> {
    let mut found = Vec::new();
    for file in survey(disk)? {
        if let Some(header) = file.header
            && !found.contains(&header.identity.database)
        {
            found.push(header.identity.database);
        }
    }
    Ok(found)
}

/// Gives every group that can be read and that is part of the log, in order. `at`: incarnation and beginning of the log, if they
/// are known; else the incarnation that reaches furthest is read from its first file on.
///
/// # Errors
/// What the disk reports of files as such, or `visit`; not that something cannot be read.
pub fn salvage(
    disk: &dyn Disk,
    database: DatabaseId,
    at: Option<(u64, Lsn)>,
    visit: &mut dyn FnMut(Group<'_>) -> Result<()>,
) -> Result<Salvaged> {
    let files = survey(disk)?;
    let mut incarnations: Vec<u64> = match at {
        Some((incarnation, _)) => vec![incarnation],
        None => files
            .iter()
            .filter_map(|file| Some(file.header.as_ref()?.identity))
            .filter(|identity| identity.database == database)
            .map(|identity| identity.incarnation)
            .collect(),
    };
    incarnations.sort_unstable();
    incarnations.dedup();
    // A recovery that was interrupted leaves two; what it had copied is the beginning of what it read.
    let mut best: Option<Plan> = None;
    for incarnation in incarnations {
        let plan = Plan::of(&files, Identity { database, incarnation }, at.map(|at| at.1));
        if best.as_ref().is_none_or(|best| best.last_commit() <= plan.last_commit()) {
            best = Some(plan);
        }
    }
    let Some(plan) = best else { return Ok(Salvaged::default()) };
    plan.give(&files, visit)
}

#[derive(Debug)]
struct LogFile {
    name: String,
    sequence: u64,
    header: Option<FileHeader>,
    bytes: Vec<u8>,
}

/// All files of logs, in order. A file that cannot be read in full is read block by block.
fn survey(disk: &dyn Disk) -> Result<Vec<LogFile>> {
    let mut found = Vec::new();
    for name in disk.list()? {
        let Some(parsed) = parse_name(&name).filter(|name| !name.new) else { continue };
        let file = disk.open(&name, OpenMode::Read)?;
        let mut bytes = vec![0; to_usize(file.len()?)];
        if file.read_at(0, &mut bytes).is_err() {
            for (at, block) in (0..).zip(bytes.chunks_mut(to_usize(BLOCK_BYTES))) {
                // What cannot be read stays zero, which is no group.
                if file.read_at(at * BLOCK_BYTES, block).is_err() {
                    block.fill(0);
                }
            }
        }
        let block = bytes.get(..to_usize(BLOCK_BYTES).min(bytes.len())).unwrap_or_default();
        let header = match FileHeader::decode(block) {
            Ok(header) if header.sequence == parsed.sequence => Some(header),
            // A file on its way to be reused.
            Ok(_) => continue,
            Err(_) => None,
        };
        found.push(LogFile { name, sequence: parsed.sequence, header, bytes });
    }
    found.sort_by_key(|file| file.sequence);
    Ok(found)
}

/// A group that can be read.
#[derive(Clone, Copy, Debug)]
struct Place {
    file: usize,
    at: usize,
    bytes: usize,
    lsn: Lsn,
    end: Lsn,
    commit: CommitNo,
    durable: Lsn,
}

/// What can be read of one incarnation.
#[derive(Debug)]
struct Plan {
    incarnation: u64,
    groups: Vec<Place>,
    lost: Vec<LostGroups>,
}

/// Something between two groups, or behind the last.
#[derive(Debug)]
struct Hole {
    file: String,
    offset: u64,
    from: Lsn,
    to: Option<Lsn>,
    /// Groups before it.
    groups: usize,
    /// It is damage, whether anything says that it was durable or not.
    certain: bool,
}

impl Plan {
    fn last_commit(&self) -> CommitNo {
        self.groups.last().map_or(CommitNo(0), |group| group.commit)
    }

    fn of(files: &[LogFile], identity: Identity, from: Option<Lsn>) -> Self {
        let ours = |file: &LogFile| file.header.as_ref().is_none_or(|h| h.identity == identity);
        let members: Vec<usize> = (0..files.len()).filter(|i| ours(&files[*i])).collect();
        let starts = starts(files, &members);
        let mut groups: Vec<Place> = Vec::new();
        let mut holes: Vec<Hole> = Vec::new();
        // Where the next group is expected, once that is known.
        let mut next = from;
        // The file before says that there is this one.
        let mut is_due = from.is_some();
        let mut durable = Lsn(0);
        let mut last_sequence = None;
        for (&index, start) in members.iter().zip(starts) {
            let file = &files[index];
            let Some(start) = start else { continue };
            let body = file.bytes.get(to_usize(BODY_AT)..).unwrap_or_default();
            let said = file.header.as_ref().map_or(body.len() as u64, |header| header.body_bytes);
            let Some(end) = start.0.checked_add(said) else { continue };
            if let Some(header) = &file.header {
                durable = durable.max(header.durable);
            }
            if next.is_some_and(|next| end <= next.0) {
                continue;
            }
            if let Some(next) = next.filter(|next| *next < start) {
                let file = file_name(last_sequence.map_or(file.sequence, |last: u64| last + 1));
                let groups = groups.len();
                holes.push(Hole {
                    file,
                    offset: 0,
                    from: next,
                    to: Some(start),
                    groups,
                    certain: is_due,
                });
            }
            last_sequence = Some(file.sequence);
            let mut at = next.map_or(0, |next| next.0.saturating_sub(start.0));
            let mut hole: Option<u64> = None;
            is_due = false;
            while at < body.len() as u64 {
                let lsn = Lsn(start.0 + at);
                let head = &body[to_usize(at)..];
                let item = match hole {
                    // Most positions are settled here.
                    Some(_) if group_lsn(head) != Some(lsn) && !is_marker(head) => None,
                    _ => peek(identity, lsn, head, head.len() as u64),
                };
                let item = item.filter(|item| match item {
                    Item::Group(header) => is_signed(identity, lsn, &head[..header.bytes as usize]),
                    Item::Pad | Item::Close => true,
                });
                let Some(item) = item else {
                    hole.get_or_insert(at);
                    at += ALIGN;
                    continue;
                };
                if let Some(from) = hole.take() {
                    holes.push(Hole {
                        file: file.name.clone(),
                        offset: BODY_AT + from,
                        from: Lsn(start.0 + from),
                        to: Some(lsn),
                        groups: groups.len(),
                        certain: false,
                    });
                }
                match item {
                    Item::Pad => at = round_up(lsn.0, BLOCK_BYTES) - start.0,
                    Item::Close => {
                        is_due = true;
                        break;
                    }
                    Item::Group(header) => {
                        at = round_up(lsn.0 + u64::from(header.bytes), ALIGN) - start.0;
                        durable = durable.max(header.durable);
                        groups.push(Place {
                            file: index,
                            at: to_usize(BODY_AT + lsn.0 - start.0),
                            bytes: header.bytes as usize,
                            lsn,
                            end: Lsn(start.0 + at),
                            commit: header.commit,
                            durable: header.durable,
                        });
                    }
                }
            }
            let is_cut = (body.len() as u64) < said;
            if hole.is_some() || is_cut {
                let from = hole.unwrap_or(body.len() as u64);
                holes.push(Hole {
                    file: file.name.clone(),
                    offset: BODY_AT + from,
                    from: Lsn(start.0 + from),
                    to: None,
                    groups: groups.len(),
                    certain: is_cut,
                });
            }
            next = Some(if is_due || hole.is_some() { Lsn(end) } else { Lsn(start.0 + at) });
        }
        if is_due {
            let next = next.unwrap_or_default();
            let file = file_name(last_sequence.map_or(0, |last| last + 1));
            let groups = groups.len();
            holes.push(Hole { file, offset: 0, from: next, to: None, groups, certain: true });
        }
        Self::settle(identity.incarnation, groups, holes, durable)
    }

    /// Tells holes from the tail.
    fn settle(incarnation: u64, mut groups: Vec<Place>, holes: Vec<Hole>, header: Lsn) -> Self {
        let mut lost: Vec<LostGroups> = Vec::new();
        for hole in holes {
            let behind = &groups[hole.groups.min(groups.len())..];
            let said = behind.iter().map(|group| group.durable).max().unwrap_or_default();
            if !hole.certain && said.max(header) <= hole.from {
                // Nothing from here on was durable.
                groups.truncate(hole.groups);
                break;
            }
            let after = hole.groups.checked_sub(1).map_or(CommitNo(0), |i| groups[i].commit);
            let to = hole.to.or_else(|| behind.first().map(|group| group.lsn));
            let before = behind.first().map(|group| group.commit);
            // Only a pad or a close: commits are numbered one by one.
            if after.0 > 0 && before == Some(after.next()) {
                continue;
            }
            let Hole { file, offset, from, .. } = hole;
            match lost.last_mut() {
                // One after the other, with no group between.
                Some(last) if last.before == before && last.after == after => last.to = to,
                _ => lost.push(LostGroups { file, offset, from, to, after, before }),
            }
        }
        Self { incarnation, groups, lost }
    }

    fn give(
        self,
        files: &[LogFile],
        visit: &mut dyn FnMut(Group<'_>) -> Result<()>,
    ) -> Result<Salvaged> {
        for place in &self.groups {
            let payload = &files[place.file].bytes[place.at..place.at + place.bytes];
            visit(Group {
                lsn: place.lsn,
                end: place.end,
                commit: place.commit,
                payload: &payload[GROUP_HEADER_BYTES..],
            })?;
        }
        Ok(Salvaged {
            incarnation: self.incarnation,
            groups: self.groups.len() as u64,
            first_commit: self.groups.first().map_or(CommitNo(0), |group| group.commit),
            last_commit: self.last_commit(),
            lost: self.lost,
        })
    }
}

/// A pad or a close begins with all bits but one or none.
fn is_marker(head: &[u8]) -> bool {
    matches!(head, [0xfe | 0xff, 0xff, 0xff, 0xff, ..])
}

/// Where each file begins: as its header says, or, without one, as its neighbours do.
fn starts(files: &[LogFile], members: &[usize]) -> Vec<Option<Lsn>> {
    let header = |i: usize| files[members[i]].header.as_ref();
    let sequence = |i: usize| files[members[i]].sequence;
    (0..members.len())
        .map(|i| {
            if let Some(header) = header(i) {
                return Some(header.start);
            }
            let before = i.checked_sub(1).filter(|before| sequence(*before) + 1 == sequence(i));
            if let Some(before) = before.and_then(header) {
                return Some(before.end());
            }
            let after =
                (i + 1 < members.len() && sequence(i) + 1 == sequence(i + 1)).then_some(i + 1);
            let body = (files[members[i]].bytes.len() as u64).saturating_sub(BODY_AT);
            let start = after.and_then(header)?.start.0.checked_sub(body)?;
            Some(Lsn(start))
        })
        .collect()
}
