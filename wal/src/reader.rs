//! Reading a log back after a crash, and telling a torn tail from damage.
//!
//! Reading goes from group to group and ends at the first position x where neither a good group nor
//! a good marker stands. Everything before x has been read without a gap (W1). Then the rest of the
//! log is searched for a witness (W3): a group, or a file header, that says that x was durable when
//! it was written. If there is one, x is damaged. If not, x was being written, or nothing was ever
//! written there.
//!
//! The witness need not be reachable: every position of the rest is tried. A group knows its own
//! position and its checksum is seeded with it, so that old bytes of a recycled file and bytes
//! inside payloads do not count.

use crate::format::{
    ALIGN, BLOCK_BYTES, BODY_AT, FileHeader, GROUP_HEADER_BYTES, GROUP_PEEK_BYTES, GroupHeader,
    HeaderFault, Identity, Item, MARKER_BYTES, VERSION, file_name, group_lsn, is_signed,
    parse_name, peek, round_up, to_usize,
};
use esker_base::sync::Arc;
use esker_base::{CommitNo, DatabaseId, Error, Lsn, Result};
use esker_io::{Disk, File, OpenMode};

/// Files are read in pieces of this, and of whole groups where those are larger.
const READ_BYTES: u64 = 1 << 20;

/// A group as it was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group<'a> {
    /// Where it starts.
    pub lsn: Lsn,
    /// What [`crate::Wal::append`] returned for it.
    pub end: Lsn,
    /// The number it was appended with.
    pub commit: CommitNo,
    /// The bytes it was appended with.
    pub payload: &'a [u8],
}

/// What there was to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Just after the last group; a new log may start at the next multiple of 4 KiB, or anywhere
    /// later.
    pub end: Lsn,
    /// Commit of the last group; 0 if there was none.
    pub last_commit: CommitNo,
    /// Number of groups.
    pub groups: u64,
    /// Highest sequence in a name or a header. A new log must start above it.
    pub highest_sequence: u64,
    /// Highest incarnation in a header, at least the one that was read. A new log must have a
    /// higher one.
    pub highest_incarnation: u64,
    /// Names of all files of all logs of the database, read or stale, whole or damaged, in order.
    pub files: Vec<String>,
    /// Those of them that reading again from the same place would not touch: they may be removed at
    /// any time.
    pub stale: Vec<String>,
}

/// A file that has a name of the log.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) name: String,
    /// Bytes after the header block.
    body_bytes: u64,
    file: Arc<dyn File>,
    pub(crate) header: Result<FileHeader, &'static str>,
}

/// Opens all files that have names of the log, in order of their names.
pub(crate) fn survey(disk: &dyn Disk, database: DatabaseId) -> Result<Vec<Found>> {
    let mut names = disk.list()?;
    names.retain(|name| parse_name(name).is_some());
    names.sort();
    let mut found = Vec::with_capacity(names.len());
    for name in names {
        let file = match disk.open(&name, OpenMode::Read) {
            // Kept for reuse when the names were listed, and has another one by now: somebody else writes this log. Whoever
            // misses what was in it will say so.
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                continue;
            }
            opened => opened?,
        };
        let length = file.len()?;
        let mut block = vec![0; to_usize(length.min(BLOCK_BYTES))];
        file.read_at(0, &mut block)?;
        let header = match FileHeader::decode(&block) {
            Ok(header) if header.identity.database != database => {
                return Err(Error::NotADatabase {
                    path: name,
                    detail: format!(
                        "a log file of {:?}, not of {database:?}",
                        header.identity.database
                    ),
                });
            }
            Ok(header) => Ok(header),
            Err(HeaderFault::Newer(found)) => {
                return Err(Error::Format { found, supported: VERSION });
            }
            Err(HeaderFault::Damaged(why)) => Err(why),
        };
        found.push(Found { name, body_bytes: length.saturating_sub(BODY_AT), file, header });
    }
    Ok(found)
}

/// True if any file of a log, of whatever database, holds more than a fresh file does, or is damaged.
///
/// # Errors
/// What the disk reports.
pub fn is_used(disk: &dyn Disk) -> Result<bool> {
    for name in disk.list()? {
        let Some(parsed) = parse_name(&name) else { continue };
        if parsed.new {
            continue;
        }
        let file = disk.open(&name, OpenMode::Read)?;
        // A file under its own name had a header and a zeroed body once.
        if file.len()? < BODY_AT + GROUP_HEADER_BYTES as u64 {
            return Ok(true);
        }
        let mut head = [0; GROUP_HEADER_BYTES];
        file.read_at(BODY_AT, &mut head)?;
        let mut block = vec![0; to_usize(BLOCK_BYTES)];
        file.read_at(0, &mut block)?;
        if head != [0; GROUP_HEADER_BYTES] || FileHeader::decode(&block).is_err() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Reads every group from `from`, which is a start, a tail position or an end of a group of this
/// incarnation, in order. Nothing may be appended or released meanwhile. At the end it scans the
/// rest of the last file and those made ready behind it.
///
/// # Errors
/// `Corrupt` if something that was durable does not read back. `NotADatabase` or `Format` if there
/// is a file of another database or a later version. What the disk or `visit` reports.
pub fn read(
    disk: &dyn Disk,
    database: DatabaseId,
    incarnation: u64,
    from: Lsn,
    visit: &mut dyn FnMut(Group<'_>) -> Result<()>,
) -> Result<End> {
    if !from.0.is_multiple_of(ALIGN) {
        return Err(Error::invalid("log position", format!("{from:?} is no start of a group")));
    }
    let found = survey(disk, database)?;
    let sequences = found.iter().flat_map(|file| {
        let header = file.header.as_ref().map_or(0, |header| header.sequence);
        [header, parse_name(&file.name).map_or(0, |name| name.sequence)]
    });
    let incarnations =
        found.iter().filter_map(|file| Some(file.header.as_ref().ok()?.identity.incarnation));
    let mut end = End {
        end: from,
        last_commit: CommitNo(0),
        groups: 0,
        highest_sequence: sequences.max().unwrap_or(0),
        highest_incarnation: incarnations.max().unwrap_or(0).max(incarnation),
        files: found.iter().map(|file| file.name.clone()).collect(),
        stale: Vec::new(),
    };
    let log = Log::of(&found, Identity { database, incarnation });
    log.read(disk, &mut end, visit)?;
    let first = log.locate(from).map_or(0, |(index, _)| log.members[index].sequence);
    let needed = |name: &String| {
        let members = log.members.iter().filter(|member| member.sequence >= first);
        members.map(|member| &member.found.name).any(|member| member == name)
    };
    end.stale = end.files.iter().filter(|name| !needed(name)).cloned().collect();
    Ok(end)
}

/// A file of the log that is being read.
#[derive(Debug)]
struct Member<'a> {
    found: &'a Found,
    sequence: u64,
    /// Claims to belong here, by its name at least.
    header: Option<&'a FileHeader>,
}

/// The files of one incarnation, in order, and damaged ones that may be of it.
#[derive(Debug)]
struct Log<'a> {
    identity: Identity,
    members: Vec<Member<'a>>,
}

/// Why reading stopped in a file.
#[derive(Debug, PartialEq, Eq)]
enum Stop {
    /// At a close: there is a next file.
    Closed,
    /// Nothing good stands here.
    Bad,
}

impl<'a> Log<'a> {
    fn of(found: &'a [Found], identity: Identity) -> Self {
        let members = found.iter().filter_map(|found| {
            let name = parse_name(&found.name).filter(|name| !name.new)?;
            let header = found.header.as_ref().ok();
            // A header that does not fit the name: a file on its way to be reused.
            let ours = header.is_none_or(|header| {
                header.identity == identity && header.sequence == name.sequence
            });
            ours.then_some(Member { found, sequence: name.sequence, header })
        });
        // `found` is in order of names, which is that of sequences.
        Self { identity, members: members.collect() }
    }

    fn read(
        &self,
        disk: &dyn Disk,
        end: &mut End,
        visit: &mut dyn FnMut(Group<'_>) -> Result<()>,
    ) -> Result<()> {
        let Some((mut index, mut header)) = self.locate(end.end) else {
            let damaged = self.members.iter().find(|member| member.header.is_none());
            let file = damaged.map_or_else(|| disk.label(), |member| member.found.name.clone());
            let detail =
                format!("no file of incarnation {} holds {:?}", self.identity.incarnation, end.end);
            return Err(Error::corrupt("log", file, 0, detail));
        };
        loop {
            let member = &self.members[index];
            // The length was durable before the name: a crash cannot have cut the file, and where it was
            // cut nothing is left to witness what is gone.
            if member.found.body_bytes < header.body_bytes {
                let detail = format!(
                    "cut short: {} bytes long, its header says {}",
                    BODY_AT + member.found.body_bytes,
                    BODY_AT + header.body_bytes
                );
                let offset = BODY_AT + member.found.body_bytes;
                return Err(Error::corrupt("log file", &member.found.name, offset, detail));
            }
            let mut body = Body::new(member.found, header.start, header.body_bytes);
            if self.read_body(&mut body, end, visit)? == Stop::Bad {
                let Some(witness) = self.witness(index, &mut body, end.end)? else {
                    return Ok(());
                };
                esker_base::mark::LOG_WITNESS.hit();
                let offset = BODY_AT + (end.end.0 - header.start.0);
                let detail = format!("{witness} says that {:?} was durable", end.end);
                return Err(Error::corrupt("log group", &member.found.name, offset, detail));
            }
            // A file is closed when the next one is durable: it cannot be missing.
            let Some(next) = self.next(index).filter(|next| next.1.start == header.end()) else {
                let name = file_name(member.sequence.saturating_add(1));
                let detail = format!("should be there and start at {:?}", header.end());
                return Err(Error::corrupt("log file", name, 0, detail));
            };
            esker_base::mark::LOG_NEXT_FILE.hit();
            (index, header) = next;
            end.end = header.start;
        }
    }

    /// The file that holds a position.
    fn locate(&self, lsn: Lsn) -> Option<(usize, &'a FileHeader)> {
        let holds = |(index, member): (usize, &Member<'a>)| {
            let header = member.header?;
            (header.start <= lsn && lsn < header.end()).then_some((index, header))
        };
        self.members.iter().enumerate().rev().find_map(holds)
    }

    fn next(&self, index: usize) -> Option<(usize, &'a FileHeader)> {
        let next = self.members.get(index + 1)?;
        let follows = next.sequence - 1 == self.members[index].sequence;
        Some((index + 1, next.header?)).filter(|_| follows)
    }

    /// Reads groups from `end.end` on and moves it along.
    fn read_body(
        &self,
        body: &mut Body<'_>,
        end: &mut End,
        visit: &mut dyn FnMut(Group<'_>) -> Result<()>,
    ) -> Result<Stop> {
        loop {
            let lsn = end.end;
            let at = lsn.0 - body.start.0;
            let item = match body.head(at)? {
                Some((head, room)) => peek(self.identity, lsn, head, room),
                None => None,
            };
            match item {
                None => return Ok(Stop::Bad),
                Some(Item::Close) => return Ok(Stop::Closed),
                Some(Item::Pad) => end.end = Lsn(round_up(lsn.0, BLOCK_BYTES)),
                Some(Item::Group(header)) => {
                    let group = body.bytes(at, u64::from(header.bytes))?;
                    if !is_signed(self.identity, lsn, group) {
                        esker_base::mark::LOG_TORN_GROUP.hit();
                        return Ok(Stop::Bad);
                    }
                    end.end = after(&header);
                    end.last_commit = header.commit;
                    end.groups += 1;
                    visit(Group {
                        lsn,
                        end: end.end,
                        commit: header.commit,
                        payload: &group[GROUP_HEADER_BYTES..],
                    })?;
                }
            }
        }
    }

    /// Finds something behind `lsn`, where reading stopped, that says that `lsn` was durable.
    fn witness(&self, index: usize, body: &mut Body<'_>, lsn: Lsn) -> Result<Option<String>> {
        if let Some(group) = self.witness_in(body, lsn.0 - body.start.0 + ALIGN, lsn)? {
            return Ok(Some(group));
        }
        // Where the next file starts, if it has lost its header.
        let mut start = self.members[index].header.map(FileHeader::end);
        let mut sequence = self.members[index].sequence;
        for member in &self.members[index + 1..] {
            sequence = sequence.saturating_add(1);
            if sequence != member.sequence {
                (start, sequence) = (None, member.sequence);
            }
            let bytes = member.header.map_or(member.found.body_bytes, |header| header.body_bytes);
            if let Some(header) = member.header {
                if header.durable > lsn {
                    return Ok(Some(format!("the header of {}", member.found.name)));
                }
                start = Some(header.start);
            }
            // Where that cannot be, there are no groups.
            let Some((first, after)) =
                start.and_then(|first| Some((first, first.0.checked_add(bytes)?)))
            else {
                continue;
            };
            let mut body = Body::new(member.found, first, bytes);
            if let Some(group) = self.witness_in(&mut body, 0, lsn)? {
                return Ok(Some(group));
            }
            start = Some(Lsn(after));
        }
        Ok(None)
    }

    /// As [`Log::witness`], in one file from body offset `at`.
    fn witness_in(&self, body: &mut Body<'_>, mut at: u64, lsn: Lsn) -> Result<Option<String>> {
        let first = body.start.0;
        while let Some((head, room)) = body.head(at)? {
            let start = first + at;
            // Most positions are settled here.
            let here = |&step: &usize| group_lsn(&head[step..]) == Some(Lsn(start + step as u64));
            let steps = (0..head.len().saturating_sub(GROUP_PEEK_BYTES - 1)).step_by(MARKER_BYTES);
            let Some(step) = steps.clone().find(here) else {
                at += steps.len().max(1) as u64 * ALIGN;
                continue;
            };
            at += step as u64;
            let here = Lsn(first + at);
            let room = room - step as u64;
            let head = body.head(at)?.map_or(&[][..], |(head, _)| head);
            let item = peek(self.identity, here, head, room);
            at += ALIGN;
            if let Some(Item::Group(header)) = item {
                let group = body.bytes(at - ALIGN, u64::from(header.bytes))?;
                if is_signed(self.identity, here, group) {
                    if header.durable > lsn {
                        return Ok(Some(format!("the group at {here:?} in {}", body.found.name)));
                    }
                    // Nothing inside it is a group.
                    at = after(&header).0 - first;
                }
            }
        }
        Ok(None)
    }
}

fn after(header: &GroupHeader) -> Lsn {
    Lsn(round_up(header.lsn.0 + u64::from(header.bytes), ALIGN))
}

/// Buffered access to the body of a file, as far as it is there.
#[derive(Debug)]
struct Body<'a> {
    found: &'a Found,
    start: Lsn,
    /// What can be read, which is less than the header says if the file was cut.
    bytes: u64,
    buffer: Vec<u8>,
    /// Body offset of the buffer.
    buffer_at: u64,
}

impl<'a> Body<'a> {
    fn new(found: &'a Found, start: Lsn, body_bytes: u64) -> Self {
        let bytes = body_bytes.min(found.body_bytes);
        Self { found, start, bytes, buffer: Vec::new(), buffer_at: 0 }
    }

    /// What is buffered from `at` on: at least the head of a group, unless the body ends before.
    /// Also how far it is to the end. `None` if that is nothing.
    fn head(&mut self, at: u64) -> Result<Option<(&[u8], u64)>> {
        let room = self.bytes.saturating_sub(at);
        if room == 0 {
            return Ok(None);
        }
        let skip = self.buffer_from(at, room.min(GROUP_HEADER_BYTES as u64))?;
        Ok(Some((&self.buffer[skip..], room)))
    }

    /// `count` bytes from `at` on, which lie in the body.
    fn bytes(&mut self, at: u64, count: u64) -> Result<&[u8]> {
        let skip = self.buffer_from(at, count)?;
        Ok(&self.buffer[skip..skip + to_usize(count)])
    }

    /// Sees to it that `count` bytes from `at` on are buffered; returns where in the buffer.
    fn buffer_from(&mut self, at: u64, count: u64) -> Result<usize> {
        debug_assert!(at + count <= self.bytes);
        let buffered = self.buffer_at..=self.buffer_at + self.buffer.len() as u64;
        if !(buffered.contains(&at) && buffered.contains(&(at + count))) {
            let length = count.max(READ_BYTES).min(self.bytes - at);
            self.buffer.resize(to_usize(length), 0);
            self.found.file.read_at(BODY_AT + at, &mut self.buffer)?;
            self.buffer_at = at;
        }
        Ok(to_usize(at - self.buffer_at))
    }
}
