//! One simulated file: what programs read, what the device has, and the changes between the two.

use super::pages::{PAGE_BYTES, Pages, SECTOR_BYTES};
use esker_base::sync::Arc;

/// Contents at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pub(super) pages: Pages,
    pub(super) len: u64,
}

/// One thing that was done to a file and may reach the device on its own.
#[derive(Clone, Debug)]
pub(super) enum Change {
    /// Bytes were written; the length is a change of its own.
    Write { offset: u64, data: Arc<[u8]> },
    /// Zeroes were written.
    Zero { offset: u64, bytes: u64 },
    /// The file grew or was cut.
    Length { from: u64, to: u64 },
}

/// A change that no sync has covered yet.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    /// Orders the pending changes of all files and names of a disk.
    pub(super) seq: u64,
    pub(super) change: Change,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    pub(super) live: Image,
    pub(super) durable: Image,
    pub(super) pending: Vec<Pending>,
    /// A failed sync dropped writes, so `live` is more than `durable` and `pending`.
    pub(super) lost_writes: bool,
    /// Open files; the contents go when these and the names are gone.
    pub(super) handles: usize,
}

impl Change {
    /// Offset and bytes of the data; none for a length.
    pub(super) fn range(&self) -> Option<(u64, u64)> {
        match self {
            Self::Write { offset, data } => Some((*offset, data.len() as u64)),
            Self::Zero { offset, bytes } => Some((*offset, *bytes)),
            Self::Length { .. } => None,
        }
    }

    /// The first `bytes` of the data.
    pub(super) fn cut(&self, bytes: u64) -> Self {
        match self {
            Self::Write { offset, data } => {
                let bytes = super::pages::usize_of(bytes);
                Self::Write { offset: *offset, data: data[..bytes].into() }
            }
            Self::Zero { offset, .. } => Self::Zero { offset: *offset, bytes },
            Self::Length { .. } => self.clone(),
        }
    }
}

impl Image {
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Write { offset, data } => self.pages.write(*offset, data),
            Change::Zero { offset, bytes } => self.pages.zero(*offset, *bytes),
            Change::Length { to, .. } => {
                if *to < self.len {
                    self.pages.cut(*to);
                }
                self.len = *to;
            }
        }
    }

    /// The part of a change of data that lies in `offset..offset + bytes`.
    pub(super) fn apply_part(&mut self, change: &Change, offset: u64, bytes: u64) {
        let Some((start, count)) = change.range() else { return };
        let from = start.max(offset);
        let to = (start + count).min(offset + bytes);
        if from >= to {
            return;
        }
        match change {
            Change::Write { data, .. } => {
                let range =
                    super::pages::usize_of(from - start)..super::pages::usize_of(to - start);
                self.pages.write(from, &data[range]);
            }
            _ => self.pages.zero(from, to - from),
        }
    }
}

impl Inode {
    /// Does a change that the device has not seen.
    pub(super) fn change(&mut self, seq: &mut u64, change: Change) {
        // The new length goes before the bytes: a prefix of the list is then a file that is longer
        // than what was written to it, which is the case that programs forget.
        if let Some((offset, bytes)) = change.range() {
            let (from, to) = (self.live.len, offset + bytes);
            if bytes == 0 {
                return;
            }
            if to > from {
                self.note(seq, Change::Length { from, to });
            }
        }
        if let Change::Length { from, to } = change
            && to < from
        {
            // What a cut takes away is zero in memory from then on, so a sector that is written again
            // later never goes out with what was there before.
            self.note(seq, Change::Zero { offset: to, bytes: from - to });
        }
        self.note(seq, change);
    }

    fn note(&mut self, seq: &mut u64, change: Change) {
        self.live.apply(&change);
        let change = if self.lost_writes { self.whole_sectors(change) } else { change };
        self.pending.push(Pending { seq: *seq, change });
        *seq += 1;
    }

    /// Whole sectors go out as they stand in memory, with bytes in them that a failed sync had dropped.
    fn whole_sectors(&self, change: Change) -> Change {
        let Some((offset, bytes)) = change.range() else { return change };
        let offset_down = offset / SECTOR_BYTES * SECTOR_BYTES;
        let end = (offset + bytes).next_multiple_of(SECTOR_BYTES).min(self.live.len);
        let mut data = vec![0; super::pages::usize_of(end - offset_down)];
        self.live.pages.read(offset_down, &mut data);
        Change::Write { offset: offset_down, data: data.into() }
    }

    pub(super) fn sync(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        if self.lost_writes {
            // Bytes that a failed sync dropped stay in `live` only.
            for pending in pending {
                self.durable.apply(&pending.change);
            }
            self.durable.len = self.live.len;
        } else {
            self.durable = self.live.clone();
        }
    }

    /// Linux after a write-back error: the pages count as clean and still read back. The length is
    /// kept by the file system and not dropped.
    pub(super) fn fail_sync(&mut self) {
        let count = self.pending.len();
        self.pending.retain(|pending| pending.change.range().is_none());
        self.lost_writes |= self.pending.len() < count;
    }

    /// Bytes taken from the device.
    pub(super) fn allocated_bytes(&self) -> u64 {
        self.live.pages.allocated() * PAGE_BYTES as u64
    }
}
