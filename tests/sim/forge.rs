//! Files that lie under good checksums.
//!
//! Damage is met by checksums, so what lies behind them is met by nobody, unless somebody signs what he has changed. Here
//! the bytes of a database are changed and then signed again: superblock, checkpoint, page images, groups of the log.
//! What it gives is wrong, of course; but there is no panic, no end of memory, and no call that does not return.

use super::Choices;
use super::choices::Bytes;
use super::fuzz::read_all;
use esker::{Index, Options};
use esker_base::checksum::seeded;
use esker_base::sync::OnceLock;
use esker_io::sim::{CrashKind, SimDisk};
use esker_io::{Disk, OpenMode};
use std::ops::Range;
use std::sync::Arc;

const SLOT_BYTES: usize = 4096;
const SLOT_CRC_AT: usize = 72;
const IMAGE_MAGIC: [u8; 2] = [0x4b, 0xe5];
const IMAGE_BYTES: usize = 48;
const GROUP_BYTES: usize = 32;

fn u16_at(bytes: &[u8], at: usize) -> usize {
    bytes.get(at..at + 2).map_or(0, |two| usize::from(u16::from_le_bytes([two[0], two[1]])))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |word| u32::from_le_bytes(word.try_into().unwrap()))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).map_or(0, |word| u64::from_le_bytes(word.try_into().unwrap()))
}

fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    if let Some(old) = bytes.get_mut(at..at + new.len()) {
        old.copy_from_slice(new);
    }
}

/// Something with a checksum of its own.
#[derive(Clone, Debug)]
struct Signed {
    file: String,
    at: usize,
    what: What,
}

#[derive(Clone, Copy, Debug)]
enum What {
    Image,
    Group { incarnation: u64, lsn: u64 },
}

impl Signed {
    /// The bytes that are covered, as far as they are there, and where the checksum stands.
    fn covers(&self, content: &[u8]) -> Option<(Range<usize>, usize)> {
        let rest = content.get(self.at..)?;
        let (bytes, crc_at) = match self.what {
            What::Image => (IMAGE_BYTES + u16_at(rest, 38), 44),
            What::Group { .. } => (u32_at(rest, 0) as usize, 4),
        };
        let least = match self.what {
            What::Image => IMAGE_BYTES,
            What::Group { .. } => GROUP_BYTES,
        };
        (least..=rest.len())
            .contains(&bytes)
            .then_some((self.at..self.at + bytes, self.at + crc_at))
    }

    fn crc(&self, database: u64, content: &[u8]) -> Option<(usize, u32)> {
        let (covered, crc_at) = self.covers(content)?;
        let (before, after) = (&content[covered.start..crc_at], &content[crc_at + 4..covered.end]);
        let crc = match self.what {
            What::Image => seeded(&[database], &[before, after]),
            What::Group { incarnation, lsn } => {
                seeded(&[database, incarnation, lsn], &[before, after])
            }
        };
        Some((crc_at, crc))
    }

    fn is_good(&self, database: u64, content: &[u8]) -> bool {
        self.crc(database, content).is_some_and(|(at, crc)| u32_at(content, at) == crc)
    }
}

/// A database, and where its checksums are.
struct Original {
    disk: SimDisk,
    database: u64,
    signed: Vec<Signed>,
}

fn read(disk: &SimDisk, name: &str) -> Vec<u8> {
    let file = disk.open(name, OpenMode::Read).unwrap();
    let mut content = vec![0; file.len().unwrap() as usize];
    file.read_at(0, &mut content).unwrap();
    content
}

fn original() -> &'static Original {
    static ORIGINAL: OnceLock<Original> = OnceLock::new();
    ORIGINAL.get_or_init(|| {
        let disk = SimDisk::new(1);
        // What is packed would not unpack once it is changed.
        let options = Options::new().page_bytes(1024).memory_bytes(128 << 10).compress(false);
        let db = options.log_file_bytes(16 << 10).open_on(Arc::new(disk.clone())).unwrap();
        let kinds = [("one", Index::BTree), ("two", Index::Hash), ("three", Index::Fractal)];
        for (name, kind) in kinds {
            let table = db.table(name, kind).unwrap();
            for n in 0..100u8 {
                table.put([n / 7, n], vec![n; usize::from(n) % 90]).unwrap();
            }
            table.put("large", vec![9; 4000]).unwrap();
            if kind == Index::Fractal {
                table.delete_range([3].as_slice()..[5].as_slice()).unwrap();
            }
        }
        db.table("dropped", Index::BTree).unwrap().put("a", "b").unwrap();
        db.settle().unwrap();
        db.drop_table("dropped").unwrap();
        db.checkpoint().unwrap();
        for (name, _) in kinds {
            let table = db.open_table(name).unwrap();
            (0..9u8).for_each(|n| table.put([n], [n]).unwrap());
            table.delete([3]).unwrap();
            table.clear().unwrap();
        }
        db.create_table("new", Index::Hash).unwrap();
        let disk = disk.crash_clone(CrashKind::All, 0);
        let database = u64_at(&read(&disk, "super"), 2 * SLOT_BYTES + 16);
        let signed = find_signed(&disk, database);
        let count =
            |image| signed.iter().filter(|s| matches!(s.what, What::Image) == image).count();
        assert!(
            count(true) > 20 && count(false) > 5,
            "{} images, {} groups",
            count(true),
            count(false)
        );
        Original { disk, database, signed }
    })
}

fn find_signed(disk: &SimDisk, database: u64) -> Vec<Signed> {
    let mut found = Vec::new();
    for file in disk.list().unwrap() {
        let content = read(disk, &file);
        if file.starts_with("seg-") {
            let begins = (0..content.len()).filter(|at| content[*at..].starts_with(&IMAGE_MAGIC));
            found.extend(begins.map(|at| Signed { file: file.clone(), at, what: What::Image }));
        } else if file.starts_with("wal-") {
            let (incarnation, start) = (u64_at(&content, 24), u64_at(&content, 40));
            found.extend((SLOT_BYTES..content.len()).step_by(8).map(|at| {
                let lsn = start + (at - SLOT_BYTES) as u64;
                Signed { file: file.clone(), at, what: What::Group { incarnation, lsn } }
            }));
        }
        found.retain(|signed| signed.file != file || signed.is_good(database, &content));
    }
    found
}

/// Makes every checksum right again.
fn sign(disk: &SimDisk, Original { database, signed, .. }: &Original) {
    let write = |name: &str, at: usize, bytes: &[u8]| {
        let file = disk.open(name, OpenMode::ReadWrite).unwrap();
        file.write_at(at as u64, bytes).unwrap();
    };
    for place in signed {
        let content = read(disk, &place.file);
        if let Some((at, crc)) = place.crc(*database, &content) {
            write(&place.file, at, &crc.to_le_bytes());
        }
    }
    let mut slots = read(disk, "super");
    for slot in slots.chunks_exact_mut(SLOT_BYTES) {
        let generation = u64_at(slot, 32);
        let name = format!("checkpoint-{generation:016x}");
        if disk.list().unwrap().contains(&name) {
            let content = read(disk, &name);
            let payload = content.get(40..).unwrap_or_default();
            let crc = seeded(&[u64_at(slot, 16), generation], &[payload]).to_le_bytes();
            let bytes = (payload.len() as u32).to_le_bytes();
            put(slot, 56, &crc);
            put(slot, 60, &bytes);
            if content.len() >= 40 {
                write(&name, 24, &u64::from(u32::from_le_bytes(bytes)).to_le_bytes());
                write(&name, 32, &crc);
            }
        }
        let crc = seeded(&[], &[&slot[..SLOT_CRC_AT]]).to_le_bytes();
        put(slot, SLOT_CRC_AT, &crc);
    }
    write("super", 0, &slots);
}

/// Changes a database as the bytes say, signs it, opens it, reads and writes.
pub(crate) fn forged(data: &[u8]) {
    let original = original();
    let disk = original.disk.crash_clone(CrashKind::All, 0);
    let names: Vec<String> = disk.list().unwrap();
    let metadata: Vec<&str> =
        names.iter().map(|name| &name[..]).filter(|name| name.starts_with("ch")).collect();
    let mut choices = Bytes(data);
    while !choices.is_exhausted() {
        // The metadata of a checkpoint, a slot, or inside something that is signed.
        let (name, range) = match choices.below(4) {
            0 => (choices.pick(&metadata).to_owned(), 40..1 << 16),
            1 => ("super".to_owned(), choices.below(4) as usize * SLOT_BYTES + 24..1 << 16),
            _ => {
                let place = &original.signed[choices.below(original.signed.len() as u64) as usize];
                let content = read(&disk, &place.file);
                let Some((covered, _)) = place.covers(&content) else { continue };
                (place.file.clone(), covered)
            }
        };
        let mut content = read(&disk, &name);
        let end = range.end.min(content.len());
        let Some(bytes) = end.checked_sub(range.start).filter(|bytes| *bytes > 0) else { continue };
        let most = if name == "super" { 48 } else { bytes as u64 };
        let at = range.start + choices.below(most.min(bytes as u64)) as usize;
        match choices.below(4) {
            0 => content[at] ^= 1 << choices.below(8),
            1 => content[at] = choices.below(256) as u8,
            2 => {
                let word = choices.below(1 << 32).to_le_bytes();
                put(&mut content, at, &word[..=choices.below(4) as usize]);
            }
            // A number as large as numbers go.
            _ => put(&mut content, at, &[0xff; 9][..=choices.below(8) as usize]),
        }
        let file = disk.open(&name, OpenMode::ReadWrite).unwrap();
        file.write_at(0, &content).unwrap();
    }
    sign(&disk, original);
    let _outcome = read_all(&disk).is_err();
}
