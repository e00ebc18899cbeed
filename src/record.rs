//! What the log's groups hold: the effects of one commit, in order.
//!
//! ```text
//! record = kind u8 | table varint | fields by kind
//!   1 put           key, value      (each: length varint, bytes)
//!   2 delete        key
//!   3 delete range  low, has-high u8, high
//!   4 create table  kind u8, name, and, if the kind is 4 (custom), its name
//!   5 drop table
//!   6 clear table
//! ```
//!
//! Kind 7 is set aside for merge operands, 8 for absolute expiry times.

use crate::catalog::CUSTOM;
use esker_base::TableId;
use esker_base::codec::{Reader, put_prefixed, put_varint};

/// On disk: never renumber.
const PUT: u8 = 1;
const DELETE: u8 = 2;
const DELETE_RANGE: u8 = 3;
const CREATE_TABLE: u8 = 4;
const DROP_TABLE: u8 = 5;
const CLEAR_TABLE: u8 = 6;

/// One effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    Put {
        table: TableId,
        key: &'a [u8],
        value: &'a [u8],
    },
    Delete {
        table: TableId,
        key: &'a [u8],
    },
    DeleteRange {
        table: TableId,
        low: &'a [u8],
        high: Option<&'a [u8]>,
    },
    /// `custom` names the kind if it is [`CUSTOM`](crate::catalog::CUSTOM), else it is empty.
    CreateTable {
        table: TableId,
        kind: u8,
        name: &'a [u8],
        custom: &'a [u8],
    },
    DropTable {
        table: TableId,
    },
    ClearTable {
        table: TableId,
    },
}

impl<'a> Record<'a> {
    /// Appends the record.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mut head = |kind: u8, table: TableId| {
            out.push(kind);
            put_varint(out, u64::from(table.0));
        };
        match *self {
            Self::Put { table, key, value } => {
                head(PUT, table);
                put_prefixed(out, key);
                put_prefixed(out, value);
            }
            Self::Delete { table, key } => {
                head(DELETE, table);
                put_prefixed(out, key);
            }
            Self::DeleteRange { table, low, high } => {
                head(DELETE_RANGE, table);
                put_prefixed(out, low);
                out.push(u8::from(high.is_some()));
                if let Some(high) = high {
                    put_prefixed(out, high);
                }
            }
            Self::CreateTable { table, kind, name, custom } => {
                head(CREATE_TABLE, table);
                out.push(kind);
                put_prefixed(out, name);
                if kind == CUSTOM {
                    put_prefixed(out, custom);
                }
            }
            Self::DropTable { table } => head(DROP_TABLE, table),
            Self::ClearTable { table } => head(CLEAR_TABLE, table),
        }
    }

    /// Reads the next record; `None` if the bytes are not one.
    pub(crate) fn decode(reader: &mut Reader<'a>) -> Option<Self> {
        let kind = reader.u8()?;
        let table = TableId(u32::try_from(reader.varint()?).ok()?);
        Some(match kind {
            PUT => Self::Put { table, key: reader.prefixed()?, value: reader.prefixed()? },
            DELETE => Self::Delete { table, key: reader.prefixed()? },
            DELETE_RANGE => Self::DeleteRange {
                table,
                low: reader.prefixed()?,
                high: match reader.u8()? {
                    0 => None,
                    1 => Some(reader.prefixed()?),
                    _ => return None,
                },
            },
            CREATE_TABLE => {
                let (kind, name) = (reader.u8()?, reader.prefixed()?);
                let custom = if kind == CUSTOM { reader.prefixed()? } else { b"" };
                Self::CreateTable { table, kind, name, custom }
            }
            DROP_TABLE => Self::DropTable { table },
            CLEAR_TABLE => Self::ClearTable { table },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip_and_keep_their_bytes() {
        let table = TableId(300);
        let records = [
            Record::Put { table, key: b"k", value: b"value" },
            Record::Delete { table, key: b"" },
            Record::DeleteRange { table, low: b"a", high: Some(b"b") },
            Record::DeleteRange { table, low: b"", high: None },
            Record::CreateTable { table, kind: 1, name: b"name", custom: b"" },
            Record::CreateTable { table, kind: 4, name: b"name", custom: b"mine" },
            Record::DropTable { table },
            Record::ClearTable { table },
        ];
        let mut out = Vec::new();
        for record in &records {
            record.encode(&mut out);
        }
        assert_eq!(out[..11], [1, 0xAC, 2, 1, b'k', 5, b'v', b'a', b'l', b'u', b'e'], "golden");
        let mut reader = Reader::new(&out);
        for record in &records {
            assert_eq!(Record::decode(&mut reader).as_ref(), Some(record));
        }
        assert!(reader.is_empty());
        assert_eq!(Record::decode(&mut Reader::new(&[9, 1])), None, "unknown kind");
    }
}
