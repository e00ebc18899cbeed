//! What a database should hold: plain maps, cheap to copy.

use crate::script::Bounds;
use esker::{Database, Result};
use std::collections::BTreeMap;
use std::hash::{Hash as _, Hasher};
use std::ops::Bound;
use std::sync::Arc;

/// The rows of a table.
pub type Rows = BTreeMap<Vec<u8>, Arc<[u8]>>;

/// All tables with all rows. Copies share what they have in common.
#[derive(Clone, Debug, Default)]
pub struct State {
    tables: BTreeMap<String, Table>,
}

#[derive(Clone, Debug)]
struct Table {
    /// Tells a table from an earlier one of the same name.
    generation: u64,
    rows: Arc<Rows>,
}

/// A write, in bytes.
#[derive(Clone, Debug)]
pub enum Change {
    /// A row.
    Put(Vec<u8>, Vec<u8>),
    /// A key goes.
    Delete(Vec<u8>),
    /// All keys of a range go.
    DeleteRange(Bounds),
}

impl State {
    /// Adds an empty table.
    pub fn create(&mut self, name: &str, generation: u64) {
        self.tables.insert(name.to_owned(), Table { generation, rows: Arc::default() });
    }

    /// Takes a table out.
    pub fn remove(&mut self, name: &str) {
        self.tables.remove(name);
    }

    /// The generation of a table, if it exists.
    pub fn generation(&self, name: &str) -> Option<u64> {
        self.tables.get(name).map(|table| table.generation)
    }

    /// Names and generations.
    pub fn tables(&self) -> impl Iterator<Item = (&str, u64)> {
        self.tables.iter().map(|(name, table)| (&name[..], table.generation))
    }

    /// The rows of a table, if it exists with this generation.
    pub fn rows(&self, name: &str, generation: u64) -> Option<&Rows> {
        let table = self.tables.get(name)?;
        (table.generation == generation).then_some(&table.rows)
    }

    /// The value of a key in a table of this generation.
    pub fn get(&self, name: &str, generation: u64, key: &[u8]) -> Option<&[u8]> {
        self.rows(name, generation)?.get(key).map(|value| &value[..])
    }

    /// The rows of a range of a table of this generation.
    pub fn range(&self, name: &str, generation: u64, bounds: &Bounds) -> Vec<Row> {
        self.rows(name, generation).map_or_else(Vec::new, |rows| range(rows, bounds))
    }

    /// Does a write to a table that exists.
    pub fn change(&mut self, name: &str, change: &Change) {
        let table = self.tables.get_mut(name).expect("the table exists");
        let rows = Arc::make_mut(&mut table.rows);
        match change {
            Change::Put(key, value) => {
                rows.insert(key.clone(), value[..].into());
            }
            Change::Delete(key) => {
                rows.remove(key);
            }
            Change::DeleteRange(bounds) => {
                if !is_empty(bounds) {
                    rows.retain(|key, _| !contains(bounds, key));
                }
            }
        }
    }

    /// True if names and rows are the same, whatever the generations.
    pub fn same_rows(&self, other: &Self) -> bool {
        self.tables.len() == other.tables.len()
            && self.tables.iter().zip(&other.tables).all(|((name, table), (other_name, other))| {
                name == other_name
                    && (Arc::ptr_eq(&table.rows, &other.rows) || table.rows == other.rows)
            })
    }

    /// Feeds names and rows into a hash; as [`Self::same_rows`], whatever the generations.
    pub fn hash_rows(&self, hasher: &mut impl Hasher) {
        for (name, table) in &self.tables {
            name.hash(hasher);
            table.rows.hash(hasher);
        }
    }

    /// Everything that a database holds, read forward.
    pub fn read(db: &Database) -> Result<Self> {
        let mut state = Self::default();
        for table in db.tables() {
            let mut rows = Rows::new();
            for row in table.rows()? {
                let (key, value) = row?.into_parts();
                let key_again = key.clone();
                assert!(rows.insert(key, value.into()).is_none(), "{key_again:?} comes twice");
            }
            let rows = Arc::new(rows);
            state.tables.insert(table.name().to_owned(), Table { generation: 0, rows });
        }
        Ok(state)
    }

    /// The first differences, for people.
    pub fn difference(&self, found: &Self) -> String {
        let mut all = Vec::new();
        for name in self.tables.keys().chain(found.tables.keys()) {
            match (self.tables.get(name), found.tables.get(name)) {
                (Some(wanted), Some(found)) => {
                    for key in wanted.rows.keys().chain(found.rows.keys()) {
                        let (wanted, found) = (wanted.rows.get(key), found.rows.get(key));
                        if wanted != found {
                            all.push(format!(
                                "{name}, {}: wanted {}, found {}",
                                key.escape_ascii(),
                                brief(wanted.map(|value| &value[..])),
                                brief(found.map(|value| &value[..])),
                            ));
                        }
                    }
                }
                (Some(_), None) => all.push(format!("{name} is missing")),
                (None, Some(_)) => all.push(format!("{name} should not exist")),
                (None, None) => {}
            }
        }
        all.sort();
        all.dedup();
        let count = all.len();
        all.truncate(5);
        format!("{count} differences: {}", all.join("; "))
    }
}

/// A row, as scans give it.
pub type Row = (Vec<u8>, Vec<u8>);

/// The rows of a range.
pub fn range(rows: &Rows, bounds: &Bounds) -> Vec<Row> {
    if is_empty(bounds) {
        return Vec::new();
    }
    let rows = rows.range::<Vec<u8>, _>((bounds.0.as_ref(), bounds.1.as_ref()));
    rows.map(|(key, value)| (key.clone(), value.to_vec())).collect()
}

/// True if the range can hold nothing; the standard library's maps panic at some such ranges.
pub fn is_empty((low, high): &Bounds) -> bool {
    // The smallest key above another one is longer by a zero byte.
    let above = |key: &[u8]| [key, &[0]].concat();
    let low = match low {
        Bound::Included(low) => low.clone(),
        Bound::Excluded(low) => above(low),
        Bound::Unbounded => return matches!(high, Bound::Excluded(high) if high.is_empty()),
    };
    match high {
        Bound::Included(high) => low >= above(high),
        Bound::Excluded(high) => low >= *high,
        Bound::Unbounded => false,
    }
}

fn contains(bounds: &Bounds, key: &[u8]) -> bool {
    let above = match &bounds.0 {
        Bound::Included(low) => key >= &low[..],
        Bound::Excluded(low) => key > &low[..],
        Bound::Unbounded => true,
    };
    above
        && match &bounds.1 {
            Bound::Included(high) => key <= &high[..],
            Bound::Excluded(high) => key < &high[..],
            Bound::Unbounded => true,
        }
}

/// A value, short enough to print.
pub fn brief(value: Option<&[u8]>) -> String {
    value.map_or_else(
        || "nothing".to_owned(),
        |value| {
            let head = &value[..value.len().min(12)];
            format!("{} bytes {}", value.len(), head.escape_ascii())
        },
    )
}
