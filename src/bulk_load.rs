//! Bulk loads (`Table::bulk_load`).
//!
//! Rows come in the order of their keys. A kind with that order fills leaves one after the other. One without it has
//! [`Kind::rank`](esker_index::kind::Kind::rank): in the order of keys each row would go to another page, which is read and written
//! for it once more. So a load of such a kind that is longer than a part of memory is sorted by rank first, outside of the database:
//! parts of it are sorted in memory, written one after the other to a file that has no name any more, and merged, as sorting
//! has been done since tapes (Knuth, The Art of Computer Programming 3, §5.4). What of it a crash leaves is then no beginning of
//! the rows by key but one by rank.
//!
//! ```text
//!   rows by key ──→ part in memory ──→ sorted by rank ──→ file: part | part | part ──→ merged by rank ──→ commits of a megabyte
//!   part  = pieces of 16 KiB, each behind a checksum of 4 bytes: a stream of rows
//!   row   = rank (8 bytes) · key · value, both behind their length (a varint)
//! ```

#[cfg(test)]
mod tests;

use crate::catalog::TableState;
use crate::engine::Engine;
use crate::options::Durability;
use crate::table::Table;
use crate::write_set::WriteSet;
use esker_base::checksum;
use esker_base::codec::{Reader, put_prefixed};
use esker_base::sync::Arc;
use esker_base::{Error, Lsn, Result};
use esker_io::{Disk, File, OpenMode};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What one commit of a load takes.
const COMMIT_BYTES: u64 = 1 << 20;
/// Memory below which sorting is not worth it.
const PART_BYTES_MIN: usize = 4 << 20;
/// Bytes of rows behind a checksum.
const PIECE_BYTES: usize = 16 << 10;
const CHECKSUM_BYTES: usize = 4;
/// Pieces that are written, or read for one part, together, at most.
const PIECES_MAX: usize = 16;
/// Bits of a rank by which passes differ: each takes four times as many rows as all before it.
const PASS_BITS: u32 = 2;
/// Names of files that rows are sorted in: this and sixteen digits.
const SORT_PREFIX: &str = "sort-";

fn sort_name(seed: u64) -> String {
    format!("{SORT_PREFIX}{seed:016x}")
}

/// True if that is the name of a file that rows were sorted in when the process died, between the two calls that make it and
/// take its name. Any other name is somebody else's.
pub(crate) fn is_sort_name(name: &str) -> bool {
    let seed =
        name.strip_prefix(SORT_PREFIX).and_then(|digits| u64::from_str_radix(digits, 16).ok());
    seed.is_some_and(|seed| name == sort_name(seed))
}

/// A load under way.
pub(crate) struct BulkLoad<'t> {
    table: &'t Table,
    /// The last key: they ascend.
    last: Vec<u8>,
    rows: u64,
    commits: Commits<'t>,
    /// Rows that are sorted first.
    sorter: Option<Sorter>,
}

impl<'t> BulkLoad<'t> {
    pub(crate) fn new(table: &'t Table) -> Self {
        let engine = &*table.engine;
        let part_bytes = usize::try_from(engine.options.write_set_bytes_max() / 2);
        let part_bytes = part_bytes.unwrap_or(usize::MAX);
        let is_sorted = !table.is_ordered() && part_bytes >= PART_BYTES_MIN;
        let sorter = is_sorted.then(|| Sorter::new(Arc::clone(&engine.store.disk), part_bytes));
        let commits =
            Commits { engine, table: &table.state, set: WriteSet::default(), large_pages: 0 };
        Self { table, last: Vec::new(), rows: 0, commits, sorter }
    }

    /// Takes one more row.
    pub(crate) fn push(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let engine = &*self.table.engine;
        engine.check_key(key)?;
        engine.check_value(value)?;
        if key <= &self.last[..] {
            return Err(Error::invalid("keys do not ascend", format!("row {}", self.rows)));
        }
        self.last.clear();
        self.last.extend_from_slice(key);
        self.rows += 1;
        let Some(sorter) = &mut self.sorter else { return self.commits.push(key, value) };
        sorter.push(self.table.state.index.rank(key), key, value);
        if !sorter.is_full() {
            return Ok(());
        }
        if sorter.has_room()? {
            match sorter.write_part() {
                Err(Error::NoSpace { .. }) => {}
                written => return written,
            }
        }
        // What there is goes into the table now, and then the file goes.
        sorter.drain(|key, value| self.commits.push(key, value))
    }

    /// Commits what is left. Returns how many rows that were.
    pub(crate) fn finish(mut self) -> Result<u64> {
        if let Some(mut sorter) = self.sorter.take() {
            sorter.drain(|key, value| self.commits.push(key, value))?;
        }
        let lsn = self.commits.commit()?;
        let engine = &*self.table.engine;
        if engine.options.durability == Durability::Sync {
            engine.sync_log(lsn.unwrap_or_else(|| engine.wal.position()))?;
        }
        Ok(self.rows)
    }
}

/// Rows on their way into a table.
struct Commits<'t> {
    engine: &'t Engine,
    table: &'t Arc<TableState>,
    set: WriteSet,
    large_pages: usize,
}

impl Commits<'_> {
    fn push(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let limit_bytes = COMMIT_BYTES.min(self.engine.options.write_set_bytes_max() / 2);
        self.set.put(self.table, key, value);
        self.large_pages += self.engine.large_pages(value);
        let is_much = self.large_pages > self.engine.large_pages_max() / 4;
        if self.set.bytes() >= limit_bytes || is_much {
            self.commit()?;
        }
        Ok(())
    }
    fn commit(&mut self) -> Result<Option<Lsn>> {
        self.large_pages = 0;
        self.engine.write_many(std::mem::take(&mut self.set), None, 0, Durability::Os)
    }
}

/// What rows are sorted by: pass, and rank in it. The passes with fewest rows come first.
type Order = (u32, u64);

fn order_of(rank: u64) -> Order {
    (u64::BITS / PASS_BITS - rank.trailing_zeros() / PASS_BITS, rank)
}

/// Where a row of the part in memory is.
struct Entry {
    rank: u64,
    at: usize,
}

/// Sorts rows.
struct Sorter {
    disk: Arc<dyn Disk>,
    /// For a part in memory, and for all that is read of parts while they are merged.
    part_bytes: usize,
    /// The part in memory, in the order in which its rows came.
    rows: Vec<u8>,
    entries: Vec<Entry>,
    file: Option<SortFile>,
}

/// The parts that memory had no room for.
struct SortFile {
    file: Arc<dyn File>,
    /// Of the checksums: with it and their place.
    seed: u64,
    /// Where each part ends; the next one begins there.
    ends: Vec<u64>,
}

impl Sorter {
    fn new(disk: Arc<dyn Disk>, part_bytes: usize) -> Self {
        Self { disk, part_bytes, rows: Vec::new(), entries: Vec::new(), file: None }
    }

    fn push(&mut self, rank: u64, key: &[u8], value: &[u8]) {
        self.entries.push(Entry { rank, at: self.rows.len() });
        push_row(&mut self.rows, rank, key, value);
    }
    fn is_full(&self) -> bool {
        self.rows.len() + self.entries.len() * size_of::<Entry>() >= self.part_bytes
    }

    /// Whether the file may take one more part: if memory will hold some pieces of each of them, and the disk keeps as much space as
    /// the file takes, for its rows in the table, before it goes.
    fn has_room(&self) -> Result<bool> {
        const PIECES_MIN: usize = 4;
        let (parts, bytes) =
            self.file.as_ref().map_or((0, 0), |file| (file.ends.len(), file.end()));
        if (parts + 1) * PIECES_MIN * PIECE_BYTES > self.part_bytes {
            return Ok(false);
        }
        Ok(bytes + 2 * self.part_bytes as u64 <= self.disk.free_bytes()?)
    }

    /// Moves the part in memory to the file. On an error it stays where it is.
    fn write_part(&mut self) -> Result<()> {
        self.sort();
        if self.file.is_none() {
            self.file = Some(SortFile::create(&*self.disk)?);
        }
        let file = self.file.as_mut().expect("made above");
        let mut out = PieceWriter::new(file);
        for entry in &self.entries {
            let (row, _) = row_of(&self.rows[entry.at..]).expect("put together here");
            out.push(row.bytes)?;
        }
        let end = out.finish()?;
        file.ends.push(end);
        self.rows.clear();
        self.entries.clear();
        Ok(())
    }

    fn sort(&mut self) {
        self.entries.sort_unstable_by_key(|entry| (order_of(entry.rank), entry.at));
    }

    /// Hands over all rows: in order, if any were written, else in the order in which they came. It is empty then.
    fn drain(&mut self, mut each: impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
        let Some(file) = self.file.take() else {
            for entry in &self.entries {
                let (row, _) = row_of(&self.rows[entry.at..]).expect("put together here");
                each(row.key, row.value)?;
            }
            self.rows.clear();
            self.entries.clear();
            return Ok(());
        };
        self.sort();
        // A part has what was read last in memory, and, while it is checked, what is read now.
        let pieces = self.part_bytes / 2 / file.ends.len().max(1) / (PIECE_BYTES + CHECKSUM_BYTES);
        let mut parts = file.parts(pieces.clamp(1, PIECES_MAX));
        // Those of the file, then, last, that in memory.
        let mut heap = BinaryHeap::new();
        for (i, part) in parts.iter_mut().enumerate() {
            heap.extend(part.order()?.map(|order| Reverse((order, i))));
        }
        let in_memory = parts.len();
        let mut entries = self.entries.iter();
        let mut next = entries.next();
        heap.extend(next.map(|entry| Reverse((order_of(entry.rank), in_memory))));
        while let Some(Reverse((_, i))) = heap.pop() {
            let order = if let Some(part) = parts.get_mut(i) {
                part.take(&mut each)?;
                part.order()?
            } else {
                let entry = next.take().expect("it was in the heap");
                let (row, _) = row_of(&self.rows[entry.at..]).expect("put together here");
                each(row.key, row.value)?;
                next = entries.next();
                next.map(|entry| order_of(entry.rank))
            };
            heap.extend(order.map(|order| Reverse((order, i))));
        }
        self.rows.clear();
        self.entries.clear();
        Ok(())
    }
}

impl SortFile {
    /// A file whose name is gone at once: when it is closed, by whatever, so is its space.
    fn create(disk: &dyn Disk) -> Result<Self> {
        let seed = disk.random();
        let name = sort_name(seed);
        let file = disk.open(&name, OpenMode::Create)?;
        disk.remove(&name)?;
        Ok(Self { file, seed, ends: Vec::new() })
    }
    fn end(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }
    fn parts(&self, pieces: usize) -> Vec<PartReader> {
        let begins = [0].into_iter().chain(self.ends.iter().copied());
        let parts = begins.zip(&self.ends);
        parts
            .map(|(at, end)| PartReader {
                file: Arc::clone(&self.file),
                seed: self.seed,
                at,
                end: *end,
                pieces,
                rows: Vec::new(),
                taken: 0,
            })
            .collect()
    }
}

/// A row as it lies in a part.
struct Row<'a> {
    rank: u64,
    key: &'a [u8],
    value: &'a [u8],
    /// All of it.
    bytes: &'a [u8],
}

fn push_row(out: &mut Vec<u8>, rank: u64, key: &[u8], value: &[u8]) {
    out.extend_from_slice(&rank.to_le_bytes());
    put_prefixed(out, key);
    put_prefixed(out, value);
}

/// The first row of some bytes, and what is behind it; `None` if they do not hold all of it.
fn row_of(bytes: &[u8]) -> Option<(Row<'_>, &[u8])> {
    let mut reader = Reader::new(bytes);
    let (rank, key, value) = (reader.u64()?, reader.prefixed()?, reader.prefixed()?);
    let rest = reader.rest();
    let bytes = &bytes[..bytes.len() - rest.len()];
    Some((Row { rank, key, value, bytes }, rest))
}

/// Writes a part.
struct PieceWriter<'f> {
    file: &'f dyn File,
    seed: u64,
    at: u64,
    piece: Vec<u8>,
    out: Vec<u8>,
}

impl<'f> PieceWriter<'f> {
    fn new(file: &'f SortFile) -> Self {
        let (seed, at) = (file.seed, file.end());
        Self {
            file: &*file.file,
            seed,
            at,
            piece: Vec::with_capacity(PIECE_BYTES),
            out: Vec::new(),
        }
    }
    fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE_BYTES - self.piece.len()));
            self.piece.extend_from_slice(now);
            bytes = later;
            if self.piece.len() == PIECE_BYTES {
                self.end_piece()?;
            }
        }
        Ok(())
    }
    fn end_piece(&mut self) -> Result<()> {
        let at = self.at + self.out.len() as u64;
        let sum = checksum::seeded(&[self.seed, at], &[&self.piece]);
        self.out.extend_from_slice(&sum.to_le_bytes());
        self.out.append(&mut self.piece);
        if self.out.len() >= PIECES_MAX * PIECE_BYTES { self.write() } else { Ok(()) }
    }
    fn write(&mut self) -> Result<()> {
        self.file.write_at(self.at, &self.out)?;
        self.at += self.out.len() as u64;
        self.out.clear();
        Ok(())
    }
    /// Returns where the part ends.
    fn finish(mut self) -> Result<u64> {
        if !self.piece.is_empty() {
            self.end_piece()?;
        }
        self.write()?;
        Ok(self.at)
    }
}

/// Reads a part.
struct PartReader {
    file: Arc<dyn File>,
    seed: u64,
    at: u64,
    end: u64,
    /// Read together.
    pieces: usize,
    rows: Vec<u8>,
    /// Bytes of `rows` that were handed over.
    taken: usize,
}

impl PartReader {
    /// Where the next row belongs, which is in memory then; `None` at the end.
    fn order(&mut self) -> Result<Option<Order>> {
        loop {
            if let Some((row, _)) = row_of(&self.rows[self.taken..]) {
                return Ok(Some(order_of(row.rank)));
            }
            if self.at == self.end {
                let is_whole = self.taken == self.rows.len();
                return if is_whole { Ok(None) } else { Err(self.corrupt("a row is cut off")) };
            }
            self.read()?;
        }
    }
    /// Hands over the next row, after [`Self::order`] found one.
    fn take(&mut self, each: &mut impl FnMut(&[u8], &[u8]) -> Result<()>) -> Result<()> {
        let (row, _) = row_of(&self.rows[self.taken..]).expect("its order was told");
        self.taken += row.bytes.len();
        each(row.key, row.value)
    }
    fn read(&mut self) -> Result<()> {
        self.rows.drain(..self.taken);
        self.taken = 0;
        let all = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let mut read = vec![0; all.min(self.pieces * (PIECE_BYTES + CHECKSUM_BYTES))];
        self.file.read_at(self.at, &mut read)?;
        for piece in read.chunks(PIECE_BYTES + CHECKSUM_BYTES) {
            let Some((sum, rows)) = piece.split_first_chunk::<CHECKSUM_BYTES>() else {
                return Err(self.corrupt("a piece is cut off"));
            };
            if u32::from_le_bytes(*sum) != checksum::seeded(&[self.seed, self.at], &[rows]) {
                return Err(self.corrupt("checksum of a piece"));
            }
            self.rows.extend_from_slice(rows);
            self.at += piece.len() as u64;
        }
        Ok(())
    }
    #[cold]
    fn corrupt(&self, detail: &str) -> Error {
        Error::corrupt("rows of a bulk load", SORT_PREFIX, self.at, detail)
    }
}
