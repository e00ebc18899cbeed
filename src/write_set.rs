//! The writes of one commit, gathered before it.

use crate::catalog::TableState;
use crate::range::Span;
use crate::record::Record;
use esker_base::sync::Arc;

/// One write to one key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PointWrite {
    /// Index into `tables`.
    table: u32,
    /// Order of calls, among point and range writes.
    sequence: u32,
    /// Where its table's index wants it among the others.
    rank: u64,
    key: (usize, usize),
    /// `None` deletes.
    value: Option<(usize, usize)>,
}

/// One range delete.
#[derive(Clone, Debug)]
pub(crate) struct RangeWrite {
    pub(crate) table: u32,
    sequence: u32,
    pub(crate) span: Span,
}

/// Writes, in the order of calls until [`WriteSet::finish`], then sorted.
#[derive(Debug, Default)]
pub(crate) struct WriteSet {
    pub(crate) tables: Vec<Arc<TableState>>,
    points: Vec<PointWrite>,
    pub(crate) ranges: Vec<RangeWrite>,
    data: Vec<u8>,
}

/// What write sets are sorted by.
fn place<'k>(point: &PointWrite, key: &'k [u8]) -> (u32, u64, &'k [u8]) {
    (point.table, point.rank, key)
}

/// A write as [`WriteSet::points`] gives it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Point<'a> {
    pub(crate) table: u32,
    pub(crate) key: &'a [u8],
    pub(crate) value: Option<&'a [u8]>,
}

impl WriteSet {
    pub(crate) fn is_empty(&self) -> bool {
        self.points.is_empty() && self.ranges.is_empty()
    }
    /// About how much memory and log it takes.
    pub(crate) fn bytes(&self) -> u64 {
        (self.data.len() + self.points.len() * size_of::<PointWrite>()) as u64
    }

    fn table(&mut self, table: &Arc<TableState>) -> u32 {
        // Few tables, and mostly the one used last.
        let found = self.tables.iter().rposition(|other| other.id == table.id);
        let index = found.unwrap_or_else(|| {
            self.tables.push(Arc::clone(table));
            self.tables.len() - 1
        });
        u32::try_from(index).expect("tables are few")
    }
    fn sequence(&self) -> u32 {
        u32::try_from(self.points.len() + self.ranges.len()).expect("write sets are bounded")
    }
    fn keep(&mut self, bytes: &[u8]) -> (usize, usize) {
        let start = self.data.len();
        self.data.extend_from_slice(bytes);
        (start, self.data.len())
    }

    pub(crate) fn put(&mut self, table: &Arc<TableState>, key: &[u8], value: &[u8]) {
        self.point(table, key, Some(value));
    }
    pub(crate) fn delete(&mut self, table: &Arc<TableState>, key: &[u8]) {
        self.point(table, key, None);
    }
    fn point(&mut self, table: &Arc<TableState>, key: &[u8], value: Option<&[u8]>) {
        let rank = table.index.rank(key);
        let (table, sequence) = (self.table(table), self.sequence());
        let key = self.keep(key);
        let value = value.map(|value| self.keep(value));
        self.points.push(PointWrite { table, sequence, rank, key, value });
    }
    pub(crate) fn delete_range(&mut self, table: &Arc<TableState>, span: Span) {
        let (table, sequence) = (self.table(table), self.sequence());
        self.ranges.push(RangeWrite { table, sequence, span });
    }

    /// Sorts by table, rank and key; of several writes to a key the last one stays, and none that a later range delete covers.
    pub(crate) fn finish(&mut self) {
        let Self { points, ranges, data, .. } = self;
        let key_of = |point: &PointWrite| &data[point.key.0..point.key.1];
        let sorted = points
            .windows(2)
            .all(|pair| place(&pair[0], key_of(&pair[0])) < place(&pair[1], key_of(&pair[1])));
        if !sorted {
            points.sort_unstable_by(|a, b| {
                let places = place(a, key_of(a)).cmp(&place(b, key_of(b)));
                places.then(b.sequence.cmp(&a.sequence))
            });
            // Latest first among equal keys, so the first of each is the one to keep.
            points.dedup_by(|later, first| {
                later.table == first.table && key_of(later) == key_of(first)
            });
        }
        if !ranges.is_empty() {
            points.retain(|point| {
                !ranges.iter().any(|range| {
                    range.table == point.table
                        && range.sequence > point.sequence
                        && range.span.contains(key_of(point))
                })
            });
        }
    }

    /// Point writes.
    pub(crate) fn len(&self) -> usize {
        self.points.len()
    }
    /// True if there is one range delete and nothing else.
    pub(crate) fn is_one_range(&self) -> bool {
        self.ranges.len() == 1 && self.points.is_empty()
    }
    /// The i-th point write, after [`Self::finish`] in order.
    pub(crate) fn get(&self, i: usize) -> Point<'_> {
        let point = &self.points[i];
        Point {
            table: point.table,
            key: &self.data[point.key.0..point.key.1],
            value: point.value.map(|(start, end)| &self.data[start..end]),
        }
    }
    /// True if nothing is put.
    pub(crate) fn only_deletes(&self) -> bool {
        self.points.iter().all(|point| point.value.is_none())
    }
    /// Where the point writes to the table of the i-th one end.
    pub(crate) fn table_end(&self, i: usize) -> usize {
        let table = self.points[i].table;
        i + self.points[i..].partition_point(|point| point.table == table)
    }
    pub(crate) fn points(&self) -> impl Iterator<Item = Point<'_>> {
        (0..self.len()).map(|i| self.get(i))
    }

    /// The log records: range deletes first, since they precede what is left of the points.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for range in &self.ranges {
            let table = self.tables[range.table as usize].id;
            let high = range.span.high.as_deref();
            Record::DeleteRange { table, low: &range.span.low, high }.encode(out);
        }
        for point in self.points() {
            let table = self.tables[point.table as usize].id;
            match point.value {
                Some(value) => Record::Put { table, key: point.key, value }.encode(out),
                None => Record::Delete { table, key: point.key }.encode(out),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Index;
    use crate::kinds::AnyKind;
    use esker_base::{PageId, TableId};
    use esker_index::btree::BTree;

    #[test]
    fn the_last_write_stays_and_range_deletes_cover_what_came_before() {
        let index = Arc::new(AnyKind::BTree(BTree));
        let table = |id| {
            let index = Arc::clone(&index);
            Arc::new(TableState::new(TableId(id), "t", Index::BTree, index, PageId(1), 0))
        };
        let (a, b) = (table(1), table(2));
        let mut set = WriteSet::default();
        set.put(&a, b"x", b"old");
        set.put(&b, b"m", b"1");
        set.put(&a, b"k", b"gone");
        set.delete_range(&a, Span { low: b"a".to_vec(), high: Some(b"l".to_vec()) });
        set.put(&a, b"b", b"after");
        set.delete(&a, b"x");
        set.finish();
        let got: Vec<_> =
            set.points().map(|p| (p.table, p.key.to_vec(), p.value.map(<[u8]>::to_vec))).collect();
        assert_eq!(
            got,
            [
                (0, b"b".to_vec(), Some(b"after".to_vec())),
                (0, b"x".to_vec(), None),
                (1, b"m".to_vec(), Some(b"1".to_vec())),
            ]
        );
    }
}
