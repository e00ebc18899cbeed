//! The writes of one commit, gathered before it.

use crate::catalog::TableState;
use crate::range::Span;
use crate::record::Record;
use esker_base::codec::varint_bytes;
use esker_base::sync::Arc;
use std::borrow::Cow;

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
    /// The log records of the point writes, in the order of calls: what is sorted already goes to the log as it is.
    data: Vec<u8>,
    /// The calls did not come in the order of [`WriteSet::finish`], or a key came twice.
    is_unsorted: bool,
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
    fn key_of(&self, point: &PointWrite) -> &[u8] {
        &self.data[point.key.0..point.key.1]
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
        let id = self.tables[table as usize].id;
        match value {
            Some(value) => Record::Put { table: id, key, value }.encode(&mut self.data),
            None => Record::Delete { table: id, key }.encode(&mut self.data),
        }
        // A record ends with its fields.
        let end = self.data.len();
        let (key, value) = match value {
            Some(value) => {
                let start = end - value.len();
                let key_end = start - varint_bytes(value.len() as u64);
                ((key_end - key.len(), key_end), Some((start, end)))
            }
            None => ((end - key.len(), end), None),
        };
        let point = PointWrite { table, sequence, rank, key, value };
        self.is_unsorted = self.is_unsorted
            || self.points.last().is_some_and(|last| {
                place(last, self.key_of(last)) >= place(&point, self.key_of(&point))
            });
        self.points.push(point);
    }
    pub(crate) fn delete_range(&mut self, table: &Arc<TableState>, span: Span) {
        let (table, sequence) = (self.table(table), self.sequence());
        self.ranges.push(RangeWrite { table, sequence, span });
    }

    /// Sorts by table, rank and key; of several writes to a key the last one stays, and none that a later range delete covers.
    pub(crate) fn finish(&mut self) {
        let Self { points, ranges, data, .. } = self;
        let key_of = |point: &PointWrite| &data[point.key.0..point.key.1];
        if self.is_unsorted {
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
    pub(crate) fn records(&self) -> Cow<'_, [u8]> {
        if self.ranges.is_empty() && !self.is_unsorted {
            return Cow::Borrowed(&self.data);
        }
        let mut records = Vec::with_capacity(self.data.len());
        self.encode(&mut records);
        Cow::Owned(records)
    }

    fn encode(&self, out: &mut Vec<u8>) {
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

    /// What goes to the log is what [`WriteSet::points`] gives, whether the calls came in order or not.
    #[test]
    fn the_records_are_the_points() {
        let index = Arc::new(AnyKind::BTree(BTree));
        let tables: Vec<_> = (1..3)
            .map(|id| {
                let index = Arc::clone(&index);
                Arc::new(TableState::new(TableId(id), "t", Index::BTree, index, PageId(1), 0))
            })
            .collect();
        for calls in ["a b c", "b a", "a a", "a b- c", "c- b- a"] {
            let mut set = WriteSet::default();
            for (i, call) in calls.split(' ').enumerate() {
                let (key, value) = (&call.as_bytes()[..1], vec![b'v'; i * 150]);
                for table in &tables {
                    match call.len() {
                        1 => set.put(table, key, &value),
                        _ => set.delete(table, key),
                    }
                }
            }
            set.finish();
            let records = set.records();
            let mut reader = esker_base::codec::Reader::new(&records);
            for point in set.points() {
                let (table, key) = (set.tables[point.table as usize].id, point.key);
                let record = match point.value {
                    Some(value) => Record::Put { table, key, value },
                    None => Record::Delete { table, key },
                };
                assert_eq!(Record::decode(&mut reader), Some(record), "{calls}");
            }
            assert!(reader.is_empty(), "{calls}");
        }
        let mut set = WriteSet::default();
        for key in [b"a", b"b"] {
            set.put(&tables[0], key, b"v");
        }
        set.finish();
        assert!(matches!(set.records(), Cow::Borrowed(_)), "what is sorted is not copied");
    }
}
