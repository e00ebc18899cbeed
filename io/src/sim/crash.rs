//! What a crash leaves: from each pending change, a legal choice.
//!
//! A sector goes to the device as it stood in memory at some moment. So what is drawn for a sector is
//! how many of the changes that touch it are there: with a change come all earlier ones of the same
//! sector, and never a later one alone. Sectors are drawn apart from each other, apart from the
//! length, and apart from names.

use super::inode::{Change, Image, Inode};
use super::names::{self, InodeNo, Names};
use super::pages::{PAGE_BYTES, Page, SECTOR_BYTES, units_of, usize_of};
use super::rng::Rng;
use esker_base::sync::Arc;
use std::collections::BTreeMap;

/// How the machine stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashKind {
    /// The process dies, the machine goes on: nothing is lost, and what was not synced is still not.
    Kill,
    /// Power loss; only what was synced is there.
    None,
    /// Power loss; everything is there.
    All,
    /// Power loss; of each file, and of the names, the changes up to some point are there.
    Prefix,
    /// Power loss; each change is there or not.
    Subset,
    /// Power loss; each 512-byte sector of each change is there or not, and lengths may lie between.
    Torn512,
    /// As [`CrashKind::Torn512`] in units of 4096 bytes.
    Torn4096,
    /// As [`CrashKind::Torn512`], and never-synced places that were lost hold zeroes, noise, or
    /// what another file holds.
    Garbage,
    /// As [`CrashKind::Torn4096`], and any block that was being written may hold noise: all of its 4096 bytes, those too
    /// that were synced before.
    Shorn,
    /// Power loss; each file keeps everything or nothing.
    ReorderByFile,
    /// Power loss; each name is there or not, the contents of all files are there, or of none.
    Names,
    /// Power loss; everything is there but the pending change of this index, of
    /// [`SimDisk::pending_count`](super::SimDisk::pending_count).
    SingleDrop(u64),
}

impl CrashKind {
    /// Each kind once; [`CrashKind::SingleDrop`] with index 0.
    pub const ALL: [Self; 12] = [
        Self::Kill,
        Self::None,
        Self::All,
        Self::Prefix,
        Self::Subset,
        Self::Torn512,
        Self::Torn4096,
        Self::Garbage,
        Self::Shorn,
        Self::ReorderByFile,
        Self::Names,
        Self::SingleDrop(0),
    ];

    fn unit_bytes(self) -> u64 {
        if matches!(self, Self::Torn4096 | Self::Shorn) { PAGE_BYTES as u64 } else { SECTOR_BYTES }
    }

    fn tears(self) -> bool {
        matches!(self, Self::Torn512 | Self::Torn4096 | Self::Garbage | Self::Shorn)
    }
}

/// Leaves of `names` and `inodes` what a crash of this kind leaves. Not for [`CrashKind::Kill`].
pub(super) fn crash(
    kind: CrashKind,
    rng: &mut Rng,
    names: &mut Names,
    inodes: &mut BTreeMap<InodeNo, Inode>,
) {
    let choice = Choice {
        kind,
        // Nearly nothing, half, nearly everything: the extremes find other bugs than the middle.
        eighths: [1, 4, 7][usize_of(rng.below(3))],
        contents: rng.coin(4),
        dropped_seq: dropped_seq(kind, names, inodes),
    };
    let donors: Vec<Image> = match kind {
        CrashKind::Garbage => inodes.values().map(|inode| inode.durable.clone()).collect(),
        _ => Vec::new(),
    };
    crash_names(&choice, rng, names);
    for inode in inodes.values_mut() {
        let mut image = crash_contents(&choice, rng, inode, &donors);
        // What lies beyond the end is gone: a file that grows again reads as zeroes there.
        image.pages.cut(image.len);
        *inode = Inode { durable: image.clone(), live: image, ..Inode::default() };
    }
    inodes.retain(|number, _| names.refer_to(*number));
}

struct Choice {
    kind: CrashKind,
    /// Chance that a change or sector is kept.
    eighths: u64,
    /// For [`CrashKind::Names`]: whether contents are kept.
    contents: bool,
    dropped_seq: Option<u64>,
}

fn dropped_seq(kind: CrashKind, names: &Names, inodes: &BTreeMap<InodeNo, Inode>) -> Option<u64> {
    let CrashKind::SingleDrop(index) = kind else { return None };
    let mut all: Vec<u64> = names.pending.iter().map(|(seq, _)| *seq).collect();
    all.extend(inodes.values().flat_map(|inode| &inode.pending).map(|pending| pending.seq));
    all.sort_unstable();
    all.get(usize_of(index)).copied()
}

fn crash_names(choice: &Choice, rng: &mut Rng, names: &mut Names) {
    let count = names.pending.len() as u64;
    let prefix = rng.below(count + 1);
    let whole = rng.coin(4);
    let mut left = names.durable.clone();
    for (index, (seq, change)) in names.pending.iter().enumerate() {
        let keep = match choice.kind {
            CrashKind::None => false,
            CrashKind::All | CrashKind::Kill => true,
            CrashKind::Prefix => (index as u64) < prefix,
            CrashKind::ReorderByFile => whole || rng.coin(4),
            CrashKind::SingleDrop(_) => Some(*seq) != choice.dropped_seq,
            _ => rng.coin(choice.eighths),
        };
        if keep {
            names::apply(&mut left, change);
        }
    }
    *names = Names { live: left.clone(), durable: left, pending: Vec::new() };
}

fn crash_contents(choice: &Choice, rng: &mut Rng, inode: &Inode, donors: &[Image]) -> Image {
    let kind = choice.kind;
    let prefix = rng.below(inode.pending.len() as u64 + 1);
    let whole = rng.coin(4);
    let mut image = inode.durable.clone();
    if inode.pending.is_empty() {
        return image;
    }
    // Where all or nothing is kept there is nothing to copy.
    let uniform = match kind {
        CrashKind::None => Some(false),
        CrashKind::All | CrashKind::Kill => Some(true),
        CrashKind::ReorderByFile => Some(whole),
        CrashKind::Names => Some(choice.contents),
        CrashKind::SingleDrop(_) => {
            let mut seqs = inode.pending.iter().map(|pending| pending.seq);
            (!seqs.any(|seq| Some(seq) == choice.dropped_seq)).then_some(true)
        }
        _ => None,
    };
    match uniform {
        Some(false) => return image,
        Some(true) if !inode.lost_writes => return inode.live.clone(),
        _ => {}
    }
    let keep = |rng: &mut Rng, index: usize, seq: u64| match kind {
        _ if uniform.is_some() => true,
        CrashKind::Prefix => (index as u64) < prefix,
        CrashKind::SingleDrop(_) => Some(seq) != choice.dropped_seq,
        _ => rng.coin(choice.eighths),
    };

    let mut sectors = Sectors::new(inode, kind.unit_bytes());
    let mut kept_lengths = Vec::new();
    for (index, pending) in inode.pending.iter().enumerate() {
        let Some(units) = sectors.units(&pending.change) else {
            kept_lengths.push((index, keep(rng, index, pending.seq)));
            continue;
        };
        let once = (!kind.tears()).then(|| keep(rng, index, pending.seq));
        for unit in units {
            if once.unwrap_or_else(|| keep(rng, index, pending.seq)) {
                sectors.keep_up_to(unit, index);
            }
        }
    }

    let mut kept_lengths = kept_lengths.into_iter();
    for (index, pending) in inode.pending.iter().enumerate() {
        if let Change::Length { from, to } = pending.change {
            let kept = kept_lengths.next().is_some_and(|(_, kept)| kept);
            if kept {
                let torn = kind.tears() && rng.coin(2);
                let to = if torn { between(rng, from, to) } else { to };
                image.apply(&Change::Length { from, to });
            }
            continue;
        }
        for unit in sectors.units(&pending.change).unwrap_or(0..0) {
            if sectors.has(unit, index) {
                let unit_bytes = kind.unit_bytes();
                image.apply_part(&pending.change, unit * unit_bytes, unit_bytes);
            }
        }
    }
    match kind {
        CrashKind::Garbage => spoil(rng, inode, &mut image, &sectors, donors),
        CrashKind::Shorn => shear(rng, &mut image, &sectors),
        _ => {}
    }
    image
}

/// Fills some of the blocks that pending changes touch with noise: few, so that as a rule not all copies of a thing
/// are among them, or half of them.
fn shear(rng: &mut Rng, image: &mut Image, blocks: &Sectors) {
    let noise = noise_page(rng);
    let eighths = [1, 4][usize_of(rng.below(2))];
    for block in blocks.touched() {
        if block * (PAGE_BYTES as u64) < image.len && rng.coin(eighths) {
            image.pages.set_page(block, Arc::clone(&noise));
        }
    }
}

/// A length from one to the other.
fn between(rng: &mut Rng, a: u64, b: u64) -> u64 {
    let (low, high) = (a.min(b), a.max(b));
    low + rng.below(high - low + 1)
}

/// How many of the pending changes each sector of a file holds.
struct Sectors {
    unit_bytes: u64,
    first: u64,
    /// One more than the index of the last change that is there; 0 for none, [`UNTOUCHED`] if no
    /// change reaches the sector.
    versions: Vec<u32>,
}

const UNTOUCHED: u32 = u32::MAX;

impl Sectors {
    fn new(inode: &Inode, unit_bytes: u64) -> Self {
        let ranges = inode.pending.iter().filter_map(|pending| pending.change.range());
        let units = ranges.map(|(offset, bytes)| units_of(offset, bytes, unit_bytes));
        let (first, end) = units
            .fold((u64::MAX, 0), |(first, end), unit| (first.min(unit.start), end.max(unit.end)));
        let versions = vec![UNTOUCHED; usize_of(end.saturating_sub(first))];
        let mut sectors = Self { unit_bytes, first, versions };
        for pending in &inode.pending {
            for unit in sectors.units(&pending.change).unwrap_or(0..0) {
                sectors.versions[usize_of(unit - first)] = 0;
            }
        }
        sectors
    }

    fn units(&self, change: &Change) -> Option<std::ops::Range<u64>> {
        change.range().map(|(offset, bytes)| units_of(offset, bytes, self.unit_bytes))
    }

    fn keep_up_to(&mut self, unit: u64, index: usize) {
        self.versions[usize_of(unit - self.first)] =
            u32::try_from(index).expect("fewer pending changes than 2^32") + 1;
    }

    fn has(&self, unit: u64, index: usize) -> bool {
        self.version(unit).is_some_and(|version| version as usize > index)
    }

    /// The sectors that a change reaches.
    fn touched(&self) -> impl Iterator<Item = u64> {
        let units = (0..self.versions.len() as u64).map(|at| self.first + at);
        let touched = |(unit, version): (u64, &u32)| (*version != UNTOUCHED).then_some(unit);
        units.zip(&self.versions).filter_map(touched)
    }

    /// None if no change reaches the sector.
    fn version(&self, unit: u64) -> Option<u32> {
        let at = usize_of(unit.checked_sub(self.first)?);
        self.versions.get(at).copied().filter(|&version| version != UNTOUCHED)
    }
}

/// Fills what was lost, in places that no sync ever covered, with what a device may hold there.
fn spoil(rng: &mut Rng, inode: &Inode, image: &mut Image, sectors: &Sectors, donors: &[Image]) {
    const UNITS: u64 = PAGE_BYTES as u64 / SECTOR_BYTES;
    let noise = noise_page(rng);
    for page in 0..image.len.div_ceil(PAGE_BYTES as u64) {
        if inode.durable.pages.page(page).is_some() {
            continue;
        }
        let lost: Vec<u64> = (page * UNITS..(page + 1) * UNITS)
            .filter(|&unit| {
                let grown = unit * SECTOR_BYTES >= inode.durable.len;
                sectors.version(unit).map_or(grown, |version| version == 0)
            })
            .collect();
        let filling: Arc<Page> = match rng.below(4) {
            0 => Arc::clone(&noise),
            1 => match stale_page(rng, donors) {
                Some(page) => page,
                None => continue,
            },
            _ => continue,
        };
        if lost.len() as u64 == UNITS {
            image.pages.set_page(page, filling);
            continue;
        }
        for unit in lost {
            let at = usize_of((unit % UNITS) * SECTOR_BYTES);
            let bytes = &filling[at..at + usize_of(SECTOR_BYTES)];
            image.pages.write(unit * SECTOR_BYTES, bytes);
        }
    }
}

fn noise_page(rng: &mut Rng) -> Arc<Page> {
    let mut page = [0; PAGE_BYTES];
    for word in page.as_chunks_mut::<8>().0 {
        *word = rng.next().to_le_bytes();
    }
    Arc::new(page)
}

/// Some page of some file, as if its block had been given to this one.
fn stale_page(rng: &mut Rng, donors: &[Image]) -> Option<Arc<Page>> {
    let donor = donors.get(usize_of(rng.below(donors.len().max(1) as u64)))?;
    let pages = donor.len.div_ceil(PAGE_BYTES as u64);
    if pages == 0 {
        return None;
    }
    donor.pages.page(rng.below(pages)).cloned()
}
