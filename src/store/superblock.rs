//! The superblock and the checkpoint files it names.
//!
//! File `super`: four slots of 4 KiB. Generation g is written to slots 2(g mod 2) and 2(g mod 2) + 1, so
//! the one before it stays intact until the next, also where a device leaves noise in the slots that it was
//! writing.
//!
//! ```text
//!  0                8        12       16            24           32
//! | magic           | version| 0      | database id | generation | checkpoint generation
//! 40               48               56               60       64       68
//! | log start lsn  | incarnation    | checkpoint crc | ck bytes| pages  | crc
//! ```
//!
//! File `checkpoint-<16 hex digits of its generation>`: magic, database id, generation, length and crc (40 bytes), then the
//! metadata, whose layout `checkpoint.rs` owns. Written and synced before the superblock that names it.
//!
//! A recovery writes a new superblock that names the same checkpoint with another start of the log.

#[cfg(test)]
mod tests;

use super::image::segment_of_name;
use esker_base::checksum::seeded;
use esker_base::codec::Reader;
use esker_base::{COUNT_LIMIT, DatabaseId, Error, Lsn, Result};
use esker_io::{Disk, OpenMode};

/// Newest format version that this build reads and writes.
pub(crate) const FORMAT_VERSION: u32 = 3;
/// The oldest that can be read: 1 has no folded images, 2 none of values longer than an eighth of a page.
const FORMAT_VERSION_MIN: u32 = 1;
/// The file.
pub(crate) const SUPER_NAME: &str = "super";
/// Name of a superblock file that is being created.
const SUPER_NEW: &str = "super.new";
const MAGIC: [u8; 8] = *b"\x89Esker\r\n";
const CHECKPOINT_MAGIC: [u8; 8] = *b"\x89EskCk\r\n";
const SLOT_BYTES: usize = 4096;
const SLOTS: usize = 4;
const CRC_AT: usize = 72;
const CHECKPOINT_HEADER_BYTES: usize = 40;
/// A checkpoint file larger than this is not one of ours.
const CHECKPOINT_BYTES_MAX: u64 = 1 << 32;

/// The root of everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) database: DatabaseId,
    pub(crate) generation: u64,
    /// Which checkpoint file.
    pub(crate) checkpoint: u64,
    /// Where replay begins.
    pub(crate) log_start: Lsn,
    pub(crate) incarnation: u64,
    pub(crate) checkpoint_crc: u32,
    pub(crate) checkpoint_bytes: u32,
    pub(crate) page_bytes: u32,
}

impl Superblock {
    fn encode(&self) -> [u8; SLOT_BYTES] {
        let mut slot = [0u8; SLOT_BYTES];
        slot[..8].copy_from_slice(&MAGIC);
        slot[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        slot[16..24].copy_from_slice(&self.database.0.to_le_bytes());
        slot[24..32].copy_from_slice(&self.generation.to_le_bytes());
        slot[32..40].copy_from_slice(&self.checkpoint.to_le_bytes());
        slot[40..48].copy_from_slice(&self.log_start.0.to_le_bytes());
        slot[48..56].copy_from_slice(&self.incarnation.to_le_bytes());
        slot[56..60].copy_from_slice(&self.checkpoint_crc.to_le_bytes());
        slot[60..64].copy_from_slice(&self.checkpoint_bytes.to_le_bytes());
        slot[64..68].copy_from_slice(&self.page_bytes.to_le_bytes());
        let crc = seeded(&[], &[&slot[..CRC_AT]]);
        slot[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        slot
    }

    /// What a slot holds: nothing readable, a newer format, or a superblock.
    fn decode(slot: &[u8]) -> Result<Option<Self>> {
        let mut reader = Reader::new(slot);
        let fields = (|| {
            let magic = reader.array::<8>()?;
            let version = reader.u32()?;
            let zero = reader.u32()?;
            let superblock = Self {
                database: DatabaseId(reader.u64()?),
                generation: reader.u64()?,
                checkpoint: reader.u64()?,
                log_start: Lsn(reader.u64()?),
                incarnation: reader.u64()?,
                checkpoint_crc: reader.u32()?,
                checkpoint_bytes: reader.u32()?,
                page_bytes: reader.u32()?,
            };
            let rest_zero = reader.u32()? == 0 && zero == 0;
            let crc = reader.u32()?;
            Some((magic, version, superblock, rest_zero, crc))
        })();
        let Some((magic, version, superblock, rest_zero, crc)) = fields else { return Ok(None) };
        if magic != MAGIC || crc != seeded(&[], &[&slot[..CRC_AT]]) {
            return Ok(None);
        }
        // Only after the checksum: a flipped bit in the version is damage, not a newer format.
        if !(FORMAT_VERSION_MIN..=FORMAT_VERSION).contains(&version) {
            return Err(Error::Format { found: version, supported: FORMAT_VERSION });
        }
        // What a recovery counts on from.
        let Self { generation, checkpoint, log_start, incarnation, .. } = superblock;
        let counted = [generation, checkpoint, log_start.0, incarnation];
        let is_possible = rest_zero && counted.iter().all(|number| *number < COUNT_LIMIT);
        Ok(is_possible.then_some(superblock))
    }
}

/// Writes the first superblock of a database, under its name only once it is whole.
pub(crate) fn create(disk: &dyn Disk, superblock: &Superblock) -> Result<()> {
    if disk.list()?.iter().any(|name| name == SUPER_NEW) {
        disk.remove(SUPER_NEW)?;
    }
    let file = disk.open(SUPER_NEW, OpenMode::Create)?;
    file.preallocate((SLOTS * SLOT_BYTES) as u64)?;
    for slot in slots_of(superblock) {
        file.write_at(slot, &superblock.encode())?;
    }
    file.sync()?;
    disk.rename(SUPER_NEW, SUPER_NAME)?;
    disk.sync_dir()
}

/// Writes the next generation and makes it durable.
///
/// # Errors
/// Once a slot may have been written, `Io`, whatever it was: nobody can tell then which generation a
/// crash would leave, so what either names must stay, and trying again with other files is
/// out of the question.
pub(crate) fn write(disk: &dyn Disk, superblock: &Superblock) -> Result<()> {
    let file = disk.open(SUPER_NAME, OpenMode::ReadWrite)?;
    let written = slots_of(superblock)
        .into_iter()
        .try_for_each(|slot| file.write_at(slot, &superblock.encode()))
        .and_then(|()| file.sync());
    written.map_err(|error| match error {
        Error::NoSpace { op, file } => {
            let source = std::io::ErrorKind::StorageFull.into();
            Error::Io { op, file, offset: 0, source }
        }
        error => error,
    })
}

/// Makes the superblock that was read durable in each of its two slots, one after the other. The process that wrote it may
/// have died before its sync, or its sync may have failed; the slots that the next generation goes to are then
/// the only ones that the device has.
///
/// A slot that does not hold it, because a crash tore it, comes first: the other may be the only good one, and what is being written may be
/// torn.
pub(crate) fn rewrite(disk: &dyn Disk, superblock: &Superblock) -> Result<()> {
    let file = disk.open(SUPER_NAME, OpenMode::ReadWrite)?;
    // A process that died in here may have left one slot on its way to the device: it arrives before the other is
    // touched. (If this very sync fails, nobody can tell which slot did not arrive: one more loss of power, in the next recovery and with
    // noise in the slot that is written first, is then one too many.)
    file.sync()?;
    let bad = bad_slots(disk, superblock)?;
    if !bad.is_empty() {
        esker_base::mark::SUPERBLOCK_TORN.hit();
    }
    let mut slots = slots_of(superblock);
    slots.sort_by_key(|slot| !bad.contains(slot));
    for slot in slots {
        file.write_at(slot, &superblock.encode())?;
        if let Err(error) = file.sync() {
            // The system may show what the device does not have. What stays good for whoever reads next is then
            // the other slot alone, and this one comes first again.
            let _cannot_be_helped = file.write_at(slot, &[0; SLOT_BYTES]);
            return Err(error);
        }
    }
    Ok(())
}

/// Offsets of the two slots of its generation.
fn slots_of(superblock: &Superblock) -> [u64; 2] {
    let first = (superblock.generation % 2) * 2;
    [first, first + 1].map(|slot| slot * SLOT_BYTES as u64)
}

/// The newest readable superblock.
///
/// # Errors
/// `NotADatabase` if the file is missing or holds nothing of ours; `Corrupt` if it is ours and no slot is good.
pub(crate) fn read(disk: &dyn Disk) -> Result<Superblock> {
    let not_ours =
        |detail: &str| Error::NotADatabase { path: disk.label(), detail: detail.to_owned() };
    let names = disk.list()?;
    if !names.iter().any(|name| name == SUPER_NAME) {
        return Err(not_ours("it has no file named super"));
    }
    let beside_ours = names.iter().any(|name| segment_of_name(name).is_some());
    let file = disk.open(SUPER_NAME, OpenMode::Read)?;
    let bytes = file.len()?;
    let mut newest: Option<Superblock> = None;
    let mut magic_seen = false;
    let mut slot = [0u8; SLOT_BYTES];
    for i in 0..SLOTS as u64 {
        if (i + 1) * SLOT_BYTES as u64 > bytes {
            break;
        }
        file.read_at(i * SLOT_BYTES as u64, &mut slot)?;
        magic_seen |= slot[..8] == MAGIC;
        if let Some(found) = Superblock::decode(&slot)?
            && newest.is_none_or(|newest| found.generation > newest.generation)
        {
            newest = Some(found);
        }
    }
    newest.ok_or_else(|| {
        if magic_seen || bytes == (SLOTS * SLOT_BYTES) as u64 || beside_ours {
            Error::corrupt("superblock", SUPER_NAME, 0, "no slot has a good checksum")
        } else {
            not_ours("its file super is not one of ours")
        }
    })
}

/// Offsets of the slots that should hold this superblock and do not. (Those of the generation before may be torn: that is what they
/// are for.)
pub(crate) fn bad_slots(disk: &dyn Disk, superblock: &Superblock) -> Result<Vec<u64>> {
    let file = disk.open(SUPER_NAME, OpenMode::Read)?;
    let bytes = file.len()?;
    let mut bad = Vec::new();
    let mut slot = [0u8; SLOT_BYTES];
    for at in slots_of(superblock) {
        let is_there = at + SLOT_BYTES as u64 <= bytes;
        if is_there {
            file.read_at(at, &mut slot)?;
        }
        if !is_there || Superblock::decode(&slot)? != Some(*superblock) {
            bad.push(at);
        }
    }
    Ok(bad)
}

/// Name of a checkpoint's file.
pub(crate) fn checkpoint_name(generation: u64) -> String {
    format!("checkpoint-{generation:016x}")
}

/// Writes a checkpoint's metadata and syncs the file (not the directory); returns its crc and length.
pub(crate) fn write_checkpoint(
    disk: &dyn Disk,
    database: DatabaseId,
    generation: u64,
    payload: &[u8],
) -> Result<(u32, u32)> {
    let name = checkpoint_name(generation);
    if disk.list()?.contains(&name) {
        disk.remove(&name)?;
    }
    let file = disk.open(&name, OpenMode::Create)?;
    let crc = seeded(&[database.0, generation], &[payload]);
    let mut bytes = Vec::with_capacity(CHECKPOINT_HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&CHECKPOINT_MAGIC);
    bytes.extend_from_slice(&database.0.to_le_bytes());
    bytes.extend_from_slice(&generation.to_le_bytes());
    bytes.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(payload);
    file.write_at(0, &bytes)?;
    file.sync()?;
    let length = u32::try_from(payload.len())
        .map_err(|error| Error::invalid("checkpoint too large", error.to_string()))?;
    Ok((crc, length))
}

/// Reads the metadata of the checkpoint that a superblock names.
pub(crate) fn read_checkpoint(disk: &dyn Disk, superblock: &Superblock) -> Result<Vec<u8>> {
    let name = checkpoint_name(superblock.checkpoint);
    let bad = |detail: String| Error::corrupt("checkpoint", name.clone(), 0, detail);
    if !disk.list()?.contains(&name) {
        return Err(bad("the file is missing".to_owned()));
    }
    let file = disk.open(&name, OpenMode::Read)?;
    let bytes = file.len()?;
    let wanted = CHECKPOINT_HEADER_BYTES as u64 + u64::from(superblock.checkpoint_bytes);
    if bytes != wanted || bytes > CHECKPOINT_BYTES_MAX {
        return Err(bad(format!("{bytes} bytes long, expected {wanted}")));
    }
    let mut all = vec![0; usize::try_from(bytes).expect("below 4 GiB")];
    file.read_at(0, &mut all)?;
    let payload = all.split_off(CHECKPOINT_HEADER_BYTES);
    let crc = seeded(&[superblock.database.0, superblock.checkpoint], &[&payload]);
    let mut header = Vec::with_capacity(CHECKPOINT_HEADER_BYTES);
    header.extend_from_slice(&CHECKPOINT_MAGIC);
    header.extend_from_slice(&superblock.database.0.to_le_bytes());
    header.extend_from_slice(&superblock.checkpoint.to_le_bytes());
    header.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    header.extend_from_slice(&crc.to_le_bytes());
    header.extend_from_slice(&[0; 4]);
    if crc != superblock.checkpoint_crc || header != all {
        return Err(bad("its checksum or header is not the one the superblock names".to_owned()));
    }
    Ok(payload)
}

/// The newest checkpoint file that is whole, whatever names it: its database, generation and metadata.
pub(crate) fn newest_checkpoint(disk: &dyn Disk) -> Result<Option<(DatabaseId, u64, Vec<u8>)>> {
    let mut names = disk.list()?;
    names.retain(|name| name.starts_with("checkpoint-"));
    names.sort();
    for name in names.iter().rev() {
        let file = disk.open(name, OpenMode::Read)?;
        let bytes = file.len()?;
        if !(CHECKPOINT_HEADER_BYTES as u64..=CHECKPOINT_BYTES_MAX).contains(&bytes) {
            continue;
        }
        let mut all = vec![0; usize::try_from(bytes).expect("below 4 GiB")];
        if file.read_at(0, &mut all).is_err() {
            continue;
        }
        let payload = all.split_off(CHECKPOINT_HEADER_BYTES);
        let mut header = Reader::new(&all);
        let fields = (|| {
            let magic = header.array::<8>()?;
            let database = DatabaseId(header.u64()?);
            Some((magic, database, header.u64()?, header.u64()?, header.u32()?))
        })();
        let Some((magic, database, generation, length, crc)) = fields else { continue };
        if magic == CHECKPOINT_MAGIC
            && length == payload.len() as u64
            && checkpoint_name(generation) == *name
            && crc == seeded(&[database.0, generation], &[&payload])
        {
            return Ok(Some((database, generation, payload)));
        }
    }
    Ok(None)
}
