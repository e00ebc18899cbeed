//! The bytes of a log file. Nobody else writes an offset.
//!
//! A file is a header block of 4 KiB and a body. All integers are little-endian.
//!
//! ```text
//!  0        8     12    16         24            32         40
//! | magic  | ver | zero | database | incarnation | sequence |
//!  40          48           56            64    68             4096
//! | start_lsn | body_bytes | durable_lsn | crc | zero ... zero |
//! ```
//! `crc` covers bytes 0..64 and is not seeded, so that a file of another database can be told from
//! a damaged one. Magic, version and crc keep their places in every later version, so that a newer
//! file can be told from a damaged one. The part that counts lies in one 512-byte sector: when a
//! file is recycled, a torn header is the old one or the new one.
//!
//! Body byte `i` has the LSN `start_lsn + i`. At a position that is a multiple of 8 lies one of
//!
//! ```text
//!  0        4     8      16       24        32
//! | bytes  | crc | lsn  | commit | durable | payload ... |      a group
//! | 2^32-2 | crc |                                              pad: go on at the next 4 KiB boundary
//! | 2^32-1 | crc |                                              close: go on in the next file
//! ```
//! or nothing that was written there in this incarnation. `bytes` counts header and payload,
//! without the zeroes up to the next multiple of 8. `crc` is seeded with database, incarnation and
//! LSN and covers everything but itself. `durable` is the LSN before which everything was durable
//! when the group was written.
//!
//! Why pads and closes are written out, and zeroes mean nothing: after a power loss, zeroes may
//! stand where a group was written and lost. If they meant "go on further down", a reader would
//! step over the lost group to a later one that survived.

use esker_base::checksum::{continued, seeded};
use esker_base::codec::Reader;
use esker_base::{COUNT_LIMIT, CommitNo, DatabaseId, Lsn};

/// Unit of padding and of file sizes: no block that holds a durable group is written again.
pub const BLOCK_BYTES: u64 = 4096;
/// Where the body starts in a file.
pub const BODY_AT: u64 = BLOCK_BYTES;
/// Version written, and the newest that is read.
pub const VERSION: u32 = 1;
/// Positions of groups are multiples of this.
pub const ALIGN: u64 = 8;
/// Groups leave the last block of a body free. So there is place for a close, wherever the tail ends
/// up and without writing a durable block again, and each file that is followed by another says so.
pub const CLOSE_ROOM_BYTES: u64 = BLOCK_BYTES;
/// Smallest body that holds a group.
pub const BODY_BYTES_MIN: u64 = BLOCK_BYTES + CLOSE_ROOM_BYTES;
/// Bytes of a group before its payload.
pub const GROUP_HEADER_BYTES: usize = 32;
/// Largest group, header included. Keeps a damaged length from asking for absurd amounts, and
/// leaves the top of the range to markers.
pub const GROUP_BYTES_MAX: usize = 1 << 30;
/// Bytes of a pad or close.
pub const MARKER_BYTES: usize = 8;

/// After PNG: a non-ASCII byte and both newlines show text-mode damage.
const MAGIC: [u8; 8] = *b"\x89wal\r\n\x1a\n";
const HEADER_CRC_AT: usize = 64;
const HEADER_BYTES: usize = HEADER_CRC_AT + size_of::<u32>();

/// On disk: never renumber.
const PAD: u32 = u32::MAX - 1;
const CLOSE: u32 = u32::MAX;

const _: () = assert!(HEADER_BYTES <= 512, "the header must lie in one sector");
const _: () = assert!(GROUP_BYTES_MAX < PAD as usize);
const _: () = assert!(MARKER_BYTES as u64 == ALIGN, "a marker fits wherever a group may start");

/// Rounds up to a multiple of `unit`, a power of two.
pub(crate) const fn round_up(bytes: u64, unit: u64) -> u64 {
    (bytes + unit - 1) & !(unit - 1)
}

/// A length in memory of something that is in memory, or is to be.
pub(crate) fn to_usize(bytes: u64) -> usize {
    usize::try_from(bytes).expect("lengths in memory fit its addresses")
}

/// Bytes that a group takes in the body.
pub(crate) const fn group_room(payload_bytes: usize) -> u64 {
    round_up((GROUP_HEADER_BYTES + payload_bytes) as u64, ALIGN)
}

/// Seeds every checksum of one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) database: DatabaseId,
    pub(crate) incarnation: u64,
}

impl Identity {
    /// What all checksums of the log begin with.
    pub(crate) fn seed(self) -> Seed {
        Seed(seeded(&[self.database.0, self.incarnation], &[]))
    }
}

/// The checksum of an [`Identity`], with which every other goes on: whoever signs many groups takes it once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seed(u32);

impl Seed {
    /// The checksum of what stands at `lsn`: its `first` four bytes, and what follows the place for the checksum.
    #[inline]
    fn crc(self, lsn: Lsn, first: [u8; 4], rest: &[&[u8]]) -> u32 {
        let mut head = [0; 12];
        head[..8].copy_from_slice(&lsn.0.to_le_bytes());
        head[8..].copy_from_slice(&first);
        continued(continued(self.0, &[&head]), rest)
    }
}

/// What a file says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) identity: Identity,
    pub(crate) sequence: u64,
    pub(crate) start: Lsn,
    pub(crate) body_bytes: u64,
    pub(crate) durable: Lsn,
}

/// Why a header block is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderFault {
    /// Damaged, or never a header.
    Damaged(&'static str),
    /// Whole, of a later version.
    Newer(u32),
}

impl FileHeader {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let aligned = [self.start.0, self.body_bytes].map(|at| at.is_multiple_of(BLOCK_BYTES));
        assert!(aligned == [true; 2], "a reader takes a file of whole blocks only: {self:?}");
        let mut out = Vec::with_capacity(to_usize(BLOCK_BYTES));
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        for word in [
            self.identity.database.0,
            self.identity.incarnation,
            self.sequence,
            self.start.0,
            self.body_bytes,
            self.durable.0,
        ] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        debug_assert_eq!(out.len(), HEADER_CRC_AT);
        let crc = seeded(&[], &[&out]);
        out.extend_from_slice(&crc.to_le_bytes());
        out.resize(to_usize(BLOCK_BYTES), 0);
        out
    }

    pub(crate) fn decode(block: &[u8]) -> Result<Self, HeaderFault> {
        Self::fields(block).unwrap_or(Err(HeaderFault::Damaged("cut short")))
    }

    fn fields(block: &[u8]) -> Option<Result<Self, HeaderFault>> {
        let damaged = |why| Some(Err(HeaderFault::Damaged(why)));
        let mut fields = Reader::new(block);
        if fields.array()? != MAGIC {
            return damaged("no magic number");
        }
        let version = fields.u32()?;
        let zero = fields.u32()?;
        let database = DatabaseId(fields.u64()?);
        let incarnation = fields.u64()?;
        let sequence = fields.u64()?;
        let start = Lsn(fields.u64()?);
        let body_bytes = fields.u64()?;
        let durable = Lsn(fields.u64()?);
        if fields.u32()? != seeded(&[], &[block.get(..HEADER_CRC_AT)?]) {
            return damaged("wrong checksum");
        }
        // After the checksum, so that a flipped bit in the version is damage.
        if version > VERSION {
            return Some(Err(HeaderFault::Newer(version)));
        }
        if version != VERSION || zero != 0 || fields.rest().iter().any(|&byte| byte != 0) {
            return damaged("version 0 or reserved bytes in use");
        }
        let aligned = start.0.is_multiple_of(BLOCK_BYTES) && body_bytes.is_multiple_of(BLOCK_BYTES);
        let end = start.0.checked_add(body_bytes);
        let bounded = body_bytes >= BODY_BYTES_MIN
            && end.is_some_and(|end| end < COUNT_LIMIT)
            && incarnation < COUNT_LIMIT
            && sequence < COUNT_LIMIT;
        // Nothing of this file was durable before it existed.
        if !aligned || !bounded || durable > start {
            return damaged("impossible position");
        }
        let identity = Identity { database, incarnation };
        Some(Ok(Self { identity, sequence, start, body_bytes, durable }))
    }

    pub(crate) fn end(&self) -> Lsn {
        Lsn(self.start.0 + self.body_bytes)
    }
}

/// A group but for its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GroupHeader {
    /// Header and payload.
    pub(crate) bytes: u32,
    pub(crate) lsn: Lsn,
    pub(crate) commit: CommitNo,
    pub(crate) durable: Lsn,
}

const GROUP_CRC_AT: usize = 4;
const GROUP_LSN_AT: usize = 8;
/// From a group's start to the end of what [`group_lsn`] looks at.
pub(crate) const GROUP_PEEK_BYTES: usize = GROUP_LSN_AT + size_of::<u64>();

impl GroupHeader {
    /// The header with a place for the checksum left empty.
    pub(crate) fn encode(&self) -> [u8; GROUP_HEADER_BYTES] {
        let mut out = [0; GROUP_HEADER_BYTES];
        out[..4].copy_from_slice(&self.bytes.to_le_bytes());
        out[8..16].copy_from_slice(&self.lsn.0.to_le_bytes());
        out[16..24].copy_from_slice(&self.commit.0.to_le_bytes());
        out[24..].copy_from_slice(&self.durable.0.to_le_bytes());
        out
    }
}

/// Fills in the checksum of a group whose header and payload lie in `group`.
pub(crate) fn sign(seed: Seed, lsn: Lsn, group: &mut [u8]) {
    let first = *group.first_chunk().expect("a group has a header");
    let crc = seed.crc(lsn, first, &[&group[GROUP_LSN_AT..]]);
    group[GROUP_CRC_AT..GROUP_LSN_AT].copy_from_slice(&crc.to_le_bytes());
}

/// As [`sign`], for a payload that lies elsewhere.
pub(crate) fn sign_parts(
    seed: Seed,
    lsn: Lsn,
    header: &mut [u8; GROUP_HEADER_BYTES],
    payload: &[&[u8]],
) {
    let mut rest = Vec::with_capacity(payload.len() + 1);
    rest.push(&header[GROUP_LSN_AT..]);
    rest.extend_from_slice(payload);
    let crc = seed.crc(lsn, *header.first_chunk().expect("longer than that"), &rest);
    header[GROUP_CRC_AT..GROUP_LSN_AT].copy_from_slice(&crc.to_le_bytes());
}

/// What stands at a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    Group(GroupHeader),
    Pad,
    Close,
}

/// Reads what stands at `lsn`, as far as the first bytes there tell: a group's checksum is still to
/// be verified by [`is_signed`]. `None` if nothing that was written there in this incarnation can
/// start like this. `room` is the number of bytes to the end of the body.
pub(crate) fn peek(identity: Identity, lsn: Lsn, head: &[u8], room: u64) -> Option<Item> {
    let mut fields = Reader::new(head);
    let bytes = fields.u32()?;
    let crc = fields.u32()?;
    if bytes == PAD || bytes == CLOSE {
        if identity.seed().crc(lsn, bytes.to_le_bytes(), &[]) != crc {
            return None;
        }
        // A pad stands inside a block: at its start there is nothing to pad.
        return match bytes {
            CLOSE => Some(Item::Close),
            _ if lsn.0.is_multiple_of(BLOCK_BYTES) => None,
            _ => Some(Item::Pad),
        };
    }
    let header = GroupHeader {
        bytes,
        lsn: Lsn(fields.u64()?),
        commit: CommitNo(fields.u64()?),
        durable: Lsn(fields.u64()?),
    };
    let length = bytes as usize;
    let possible = (GROUP_HEADER_BYTES..=GROUP_BYTES_MAX).contains(&length)
        && u64::from(bytes) <= room
        && header.lsn == lsn
        && header.commit.0 < COUNT_LIMIT
        // A group is written after all that it claims durable.
        && header.durable <= lsn;
    possible.then_some(Item::Group(header))
}

/// The LSN field of what may be a group, for scanning.
pub(crate) fn group_lsn(head: &[u8]) -> Option<Lsn> {
    let field = head.get(GROUP_LSN_AT..GROUP_PEEK_BYTES)?.first_chunk()?;
    Some(Lsn(u64::from_le_bytes(*field)))
}

/// Verifies the checksum of a whole group.
pub(crate) fn is_signed(identity: Identity, lsn: Lsn, group: &[u8]) -> bool {
    let Some((first, rest)) = group.split_first_chunk() else { return false };
    let Some((stored, rest)) = rest.split_first_chunk() else { return false };
    let crc = identity.seed().crc(lsn, *first, &[rest]);
    u32::from_le_bytes(*stored) == crc
}

/// Tells the reader to go on at the next block.
pub(crate) fn pad(seed: Seed, lsn: Lsn) -> [u8; MARKER_BYTES] {
    marker(PAD, seed, lsn)
}

/// Tells the reader to go on in the next file, which was durable, name and header, when this was
/// written.
pub(crate) fn close(seed: Seed, lsn: Lsn) -> [u8; MARKER_BYTES] {
    marker(CLOSE, seed, lsn)
}

fn marker(kind: u32, seed: Seed, lsn: Lsn) -> [u8; MARKER_BYTES] {
    let kind = kind.to_le_bytes();
    let mut out = [0; MARKER_BYTES];
    out[..4].copy_from_slice(&kind);
    out[4..].copy_from_slice(&seed.crc(lsn, kind, &[]).to_le_bytes());
    out
}

const NAME_PREFIX: &str = "wal-";
/// A file that has no valid header yet.
const NEW_SUFFIX: &str = ".new";

/// Name of a file of the log.
pub(crate) fn file_name(sequence: u64) -> String {
    format!("{NAME_PREFIX}{sequence:016x}")
}

/// Name of a file while it is being made.
pub(crate) fn new_file_name(sequence: u64) -> String {
    format!("{NAME_PREFIX}{sequence:016x}{NEW_SUFFIX}")
}

/// What a name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ParsedName {
    pub(crate) sequence: u64,
    /// It was being made.
    pub(crate) new: bool,
}

/// `None` if the file is not the log's.
pub(crate) fn parse_name(name: &str) -> Option<ParsedName> {
    let rest = name.strip_prefix(NAME_PREFIX)?;
    let (digits, new) = match rest.strip_suffix(NEW_SUFFIX) {
        Some(digits) => (digits, true),
        None => (rest, false),
    };
    let canonical = digits.len() == 16
        && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let sequence = u64::from_str_radix(digits, 16).ok()?;
    (canonical && sequence < COUNT_LIMIT).then_some(ParsedName { sequence, new })
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDENTITY: Identity =
        Identity { database: DatabaseId(0x1122_3344_5566_7788), incarnation: 3 };

    fn hex(bytes: &[u8]) -> String {
        use std::fmt::Write;
        bytes.iter().fold(String::new(), |mut out, byte| {
            write!(out, "{byte:02x}").unwrap();
            out
        })
    }

    fn header() -> FileHeader {
        FileHeader {
            identity: IDENTITY,
            sequence: 7,
            start: Lsn(0x10_0000),
            body_bytes: 0xf_f000,
            durable: Lsn(0xf_e000),
        }
    }

    #[test]
    fn golden_file_header() {
        let block = header().encode();
        assert_eq!(block.len() as u64, BLOCK_BYTES);
        // Checked against another implementation of CRC-32, as are the bytes below.
        let golden = concat!(
            "8977616c0d0a1a0a010000000000000088776655443322110300000000000000",
            "0700000000000000000010000000000000f00f000000000000e00f0000000000",
            "7344ac35",
        );
        assert_eq!(hex(&block[..HEADER_BYTES]), golden);
        assert_eq!(FileHeader::decode(&block), Ok(header()));
    }

    #[test]
    fn golden_group() {
        let lsn = Lsn(0x10_0040);
        let payload = b"payload";
        let header = GroupHeader { bytes: 39, lsn, commit: CommitNo(9), durable: Lsn(0x10_0000) };
        let mut group = header.encode().to_vec();
        group.extend_from_slice(payload);
        sign(IDENTITY.seed(), lsn, &mut group);
        assert_eq!(
            hex(&group),
            concat!(
                "27000000836cac9c400010000000000009000000000000000000100000000000",
                "7061796c6f6164"
            )
        );
        assert_eq!(peek(IDENTITY, lsn, &group, 39), Some(Item::Group(header)));
        assert!(is_signed(IDENTITY, lsn, &group));
        let mut apart = header.encode();
        sign_parts(IDENTITY.seed(), lsn, &mut apart, &[b"pay", b"", b"load"]);
        assert_eq!(apart, group[..GROUP_HEADER_BYTES]);
        assert_eq!(peek(IDENTITY, lsn, &group, 38), None, "past the end of the body");
        assert_eq!(peek(IDENTITY, Lsn(lsn.0 + 8), &group, 39), None, "of another place");
        let other = Identity { incarnation: 4, ..IDENTITY };
        assert!(!is_signed(other, lsn, &group), "of another incarnation");
        for length in [0, 3, 4, 7] {
            assert!(!is_signed(IDENTITY, lsn, &group[..length]), "{length} bytes");
        }
    }

    #[test]
    fn golden_markers() {
        let lsn = Lsn(0x10_0040);
        assert_eq!(hex(&pad(IDENTITY.seed(), lsn)), "feffffffca4c2d9a");
        assert_eq!(hex(&close(IDENTITY.seed(), lsn)), "ffffffffaf2b9122");
        assert_eq!(peek(IDENTITY, lsn, &pad(IDENTITY.seed(), lsn), 64), Some(Item::Pad));
        assert_eq!(peek(IDENTITY, lsn, &close(IDENTITY.seed(), lsn), 64), Some(Item::Close));
        assert_eq!(peek(IDENTITY, Lsn(lsn.0 + 8), &pad(IDENTITY.seed(), lsn), 64), None);
    }

    #[test]
    fn every_damaged_header_byte_is_seen() {
        let block = header().encode();
        for at in 0..block.len() {
            let mut bad = block.clone();
            bad[at] ^= 0x40;
            let fault = FileHeader::decode(&bad);
            assert!(matches!(fault, Err(HeaderFault::Damaged(_))), "byte {at}: {fault:?}");
        }
    }

    /// Good checksums do not make it a header.
    #[test]
    fn what_no_log_says_of_itself_is_damage() {
        let signed = |change: &dyn Fn(&mut [u8])| {
            let mut block = header().encode();
            change(&mut block);
            let crc = seeded(&[], &[&block[..HEADER_CRC_AT]]);
            block[HEADER_CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
            FileHeader::decode(&block)
        };
        let with = |at: usize, word: u64| {
            signed(&move |block| block[at..at + 8].copy_from_slice(&word.to_le_bytes()))
        };
        assert_eq!(with(40, 0x10_0000), Ok(header()));
        assert_eq!(header().end(), Lsn(0x1f_f000));
        assert!(with(32, COUNT_LIMIT - 1).is_ok(), "the last sequence");
        assert!(with(56, 0x10_0000).is_ok(), "durable up to its start");
        assert!(with(48, BODY_BYTES_MIN).is_ok(), "the smallest");
        let damaged = Err(HeaderFault::Damaged("impossible position"));
        for (at, word, why) in [
            (24, COUNT_LIMIT, "incarnation"),
            (32, COUNT_LIMIT, "sequence"),
            (40, COUNT_LIMIT, "start"),
            (40, u64::MAX - 4095, "start"),
            (40, 0x10_0800, "start within a block"),
            (48, u64::MAX - 4095, "end beyond all positions"),
            (48, COUNT_LIMIT, "end"),
            (40, COUNT_LIMIT - 0xf_f000, "end"),
            (48, 0xf_f008, "length within a block"),
            (48, BODY_BYTES_MIN - BLOCK_BYTES, "too short for a group"),
            (56, 0x10_0008, "durable before it was there"),
        ] {
            assert_eq!(with(at, word), damaged, "{why}: {word:#x}");
        }
        for (at, byte) in [(8, 0), (12, 1), (15, 1), (68, 1), (4095, 1)] {
            let fault = signed(&move |block| block[at] = byte);
            assert!(matches!(fault, Err(HeaderFault::Damaged(_))), "byte {at}: {fault:?}");
        }
        for length in [0, 8, HEADER_BYTES - 1] {
            let fault = FileHeader::decode(&header().encode()[..length]);
            assert!(matches!(fault, Err(HeaderFault::Damaged(_))), "{length} bytes: {fault:?}");
        }
    }

    #[test]
    fn what_no_log_writes_is_no_group() {
        let lsn = Lsn(0x10_0040);
        let good = GroupHeader { bytes: 39, lsn, commit: CommitNo(9), durable: lsn };
        let room = GROUP_BYTES_MAX as u64;
        let stands = |header: GroupHeader| {
            peek(IDENTITY, lsn, &header.encode(), room) == Some(Item::Group(header))
        };
        let [head, most] =
            [GROUP_HEADER_BYTES, GROUP_BYTES_MAX].map(|bytes| u32::try_from(bytes).unwrap());
        assert!(stands(good) && stands(GroupHeader { bytes: head, ..good }));
        assert!(stands(GroupHeader { bytes: most, ..good }));
        assert!(stands(GroupHeader { commit: CommitNo(COUNT_LIMIT - 1), ..good }));
        for bad in [
            GroupHeader { bytes: 0, ..good },
            GroupHeader { bytes: head - 1, ..good },
            GroupHeader { bytes: most + 1, ..good },
            GroupHeader { durable: Lsn(lsn.0 + 8), ..good },
            GroupHeader { lsn: Lsn(lsn.0 - 8), ..good },
            GroupHeader { commit: CommitNo(COUNT_LIMIT), ..good },
            GroupHeader { commit: CommitNo(u64::MAX), ..good },
        ] {
            assert!(!stands(bad), "{bad:?}");
        }
        for length in 0..GROUP_HEADER_BYTES {
            assert_eq!(peek(IDENTITY, lsn, &good.encode()[..length], room), None, "{length}");
        }
        let start = Lsn(0x10_0000);
        assert_eq!(peek(IDENTITY, start, &pad(IDENTITY.seed(), start), 64), None, "nothing to pad");
        let mut close = close(IDENTITY.seed(), lsn);
        close[4] ^= 1;
        assert_eq!(peek(IDENTITY, lsn, &close, 64), None, "not signed");
    }

    #[test]
    fn a_newer_version_is_named() {
        let mut block = header().encode();
        block[8] = 2;
        let crc = seeded(&[], &[&block[..HEADER_CRC_AT]]);
        block[HEADER_CRC_AT..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(FileHeader::decode(&block), Err(HeaderFault::Newer(2)));
    }

    #[test]
    fn names_round_trip() {
        let name = file_name(0xab);
        assert_eq!(name, "wal-00000000000000ab");
        assert_eq!(parse_name(&name), Some(ParsedName { sequence: 0xab, new: false }));
        assert_eq!(parse_name(&new_file_name(1)), Some(ParsedName { sequence: 1, new: true }));
        for name in ["wal-", "wal-1", "wal-00000000000000AB", "wal-+0000000000000ab", "seg-1"] {
            assert_eq!(parse_name(name), None, "{name}");
        }
        // Nobody has counted so far: a file of others, whatever is in it.
        let last = file_name(COUNT_LIMIT - 1);
        assert_eq!(parse_name(&last).map(|name| name.sequence), Some(COUNT_LIMIT - 1));
        for sequence in [COUNT_LIMIT, u64::MAX] {
            assert_eq!(parse_name(&file_name(sequence)), None);
            assert_eq!(parse_name(&new_file_name(sequence)), None);
        }
    }
}
