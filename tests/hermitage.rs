//! The ten cases of the Hermitage: anomalies by name, each with two or three transactions in one
//! thread, at both isolation levels, with every kind of index.
//!
//! Goal: what each level must prevent cannot be had. Method: the interleavings of the Hermitage,
//! over keys 1 and 2 with 10 and 20. An answer of `Conflict` is always a way out.

use esker::{Database, Error, Index, Isolation, Options, Result, Table, Transaction};

/// Every kind of index at both levels.
fn cases() -> impl Iterator<Item = (Index, Isolation)> {
    let kinds = [Index::BTree, Index::Hash, Index::Fractal].into_iter();
    kinds.flat_map(|kind| [Isolation::Serializable, Isolation::Snapshot].map(|level| (kind, level)))
}

struct Case {
    db: Database,
    table: Table,
    level: Isolation,
}

impl Case {
    fn new((kind, level): (Index, Isolation)) -> Self {
        let options = Options::new().page_bytes(1024).memory_bytes(160 << 10);
        let db = options.open_in_memory().unwrap();
        let table = db.table("test", kind).unwrap();
        table.put([1], [10]).unwrap();
        table.put([2], [20]).unwrap();
        Self { db, table, level }
    }

    fn begin(&self) -> Transaction {
        self.db.begin_with(self.level)
    }

    fn set(&self, tx: &mut Transaction, key: u8, value: u8) {
        tx.put(&self.table, [key], [value]).unwrap();
    }

    /// The value, or `None` if the transaction has to give up.
    fn get(&self, tx: &mut Transaction, key: u8) -> Option<u8> {
        match tx.get(&self.table, [key]) {
            Ok(value) => Some(value.map_or(0, |value| value[0])),
            Err(Error::Conflict | Error::TransactionFailed) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Keys of the rows whose value is a multiple of three, or `None` if the transaction has to
    /// give up.
    fn multiples_of_three(&self, tx: &mut Transaction) -> Option<Vec<u8>> {
        let rows = match tx.rows(&self.table) {
            Ok(rows) => rows.collect::<Result<Vec<_>>>().unwrap(),
            Err(Error::Conflict | Error::TransactionFailed) => return None,
            Err(error) => panic!("{error}"),
        };
        let rows = rows.into_iter().filter(|(_, value)| value[0] % 3 == 0);
        let mut keys: Vec<u8> = rows.map(|(key, _)| key[0]).collect();
        keys.sort_unstable();
        Some(keys)
    }

    fn now(&self) -> (u8, u8) {
        let value = |key: u8| self.table.get([key]).unwrap().unwrap()[0];
        (value(1), value(2))
    }
}

/// True if it committed, false if it conflicted.
fn commits(tx: Transaction) -> bool {
    match tx.commit() {
        Ok(()) => true,
        Err(Error::Conflict | Error::TransactionFailed) => false,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn g0_write_cycles() {
    for (kind, level) in cases() {
        let case = Case::new((kind, level));
        let (mut one, mut two) = (case.begin(), case.begin());
        case.set(&mut one, 1, 11);
        case.set(&mut two, 1, 12);
        case.set(&mut one, 2, 21);
        assert!(commits(one));
        case.set(&mut two, 2, 22);
        let wanted = if commits(two) { (12, 22) } else { (11, 21) };
        assert_eq!(case.now(), wanted, "{kind}, {level:?}");
    }
}

#[test]
fn g1a_aborted_reads() {
    for (kind, level) in cases() {
        let case = Case::new((kind, level));
        let (mut one, mut two) = (case.begin(), case.begin());
        case.set(&mut one, 1, 101);
        assert_eq!(case.get(&mut two, 1), Some(10));
        drop(one);
        assert_eq!(case.get(&mut two, 1), Some(10));
        assert!(commits(two));
        assert_eq!(case.now(), (10, 20));
    }
}

#[test]
fn g1b_intermediate_reads() {
    for (kind, level) in cases() {
        let case = Case::new((kind, level));
        let (mut one, mut two) = (case.begin(), case.begin());
        case.set(&mut one, 1, 101);
        assert_eq!(case.get(&mut two, 1), Some(10));
        case.set(&mut one, 1, 11);
        assert!(commits(one));
        let again = case.get(&mut two, 1);
        assert!(matches!(again, Some(10) | None), "{kind}, {level:?}: {again:?}");
    }
}

#[test]
fn g1c_circular_information_flow() {
    for (kind, level) in cases() {
        let case = Case::new((kind, level));
        let (mut one, mut two) = (case.begin(), case.begin());
        case.set(&mut one, 1, 11);
        case.set(&mut two, 2, 22);
        assert_eq!(case.get(&mut one, 2), Some(20));
        assert_eq!(case.get(&mut two, 1), Some(10));
        assert!(commits(one));
        // Each has missed the other's write: no serial order does that.
        assert_eq!(commits(two), level == Isolation::Snapshot, "{kind}, {level:?}");
    }
}

#[test]
fn otv_observed_transaction_vanishes() {
    for (kind, level) in cases() {
        let case = Case::new((kind, level));
        let (mut one, mut two) = (case.begin(), case.begin());
        case.set(&mut one, 1, 11);
        case.set(&mut one, 2, 19);
        case.set(&mut two, 1, 12);
        assert!(commits(one));
        let mut three = case.begin();
        assert_eq!(case.get(&mut three, 1), Some(11));
        case.set(&mut two, 2, 18);
        assert_eq!(case.get(&mut three, 2), Some(19));
        let _either = commits(two);
        let again = (case.get(&mut three, 2), case.get(&mut three, 1));
        assert!(matches!(again.0, Some(19) | None), "{kind}, {level:?}: {again:?}");
        assert!(matches!(again.1, Some(11) | None), "{kind}, {level:?}: {again:?}");
    }
}

#[test]
fn pmp_predicate_many_preceders() {
    for (kind, level) in cases() {
        let case = Case::new((kind, level));
        let (mut one, mut two) = (case.begin(), case.begin());
        assert_eq!(case.multiples_of_three(&mut one), Some(vec![]));
        case.set(&mut two, 3, 30);
        assert!(commits(two));
        let again = case.multiples_of_three(&mut one);
        assert!(again.as_ref().is_none_or(Vec::is_empty), "{kind}, {level:?}: {again:?}");
    }
}

/// The predicate is met by a write instead of a read.
#[test]
fn pmp_of_a_range_delete() {
    for (kind, level) in cases() {
        let case = Case::new((kind, level));
        if !case.table.is_ordered() {
            continue;
        }
        let (mut one, mut two) = (case.begin(), case.begin());
        // Each row gets ten more; the other deletes the rows that are 20.
        for key in [1, 2] {
            let old = case.get(&mut one, key).unwrap();
            case.set(&mut one, key, old + 10);
        }
        for key in [1, 2] {
            if case.get(&mut two, key) == Some(20) {
                two.delete_range(&case.table, [key]..=[key]).unwrap();
            }
        }
        assert!(commits(one));
        assert!(!commits(two), "{kind}, {level:?}: it deleted a row that is 30 by now");
        assert_eq!(case.now(), (20, 30));
    }
}

#[test]
fn p4_lost_update() {
    for (kind, level) in cases() {
        let case = Case::new((kind, level));
        let (mut one, mut two) = (case.begin(), case.begin());
        assert_eq!(case.get(&mut one, 1), Some(10));
        assert_eq!(case.get(&mut two, 1), Some(10));
        case.set(&mut one, 1, 11);
        case.set(&mut two, 1, 12);
        assert!(commits(one));
        assert!(!commits(two), "{kind}, {level:?}");
        assert_eq!(case.now(), (11, 20));
    }
}

#[test]
fn g_single_read_skew() {
    for (kind, level) in cases() {
        let case = Case::new((kind, level));
        let (mut one, mut two) = (case.begin(), case.begin());
        assert_eq!(case.get(&mut one, 1), Some(10));
        assert_eq!(case.get(&mut two, 1), Some(10));
        assert_eq!(case.get(&mut two, 2), Some(20));
        case.set(&mut two, 1, 12);
        case.set(&mut two, 2, 18);
        assert!(commits(two));
        let other = case.get(&mut one, 2);
        assert!(matches!(other, Some(20) | None), "{kind}, {level:?}: {other:?}");
    }
}

/// Read skew by scans.
#[test]
fn g_single_with_predicates() {
    for (kind, level) in cases() {
        let case = Case::new((kind, level));
        let (mut one, mut two) = (case.begin(), case.begin());
        assert_eq!(case.multiples_of_three(&mut one), Some(vec![]));
        case.set(&mut two, 1, 12);
        assert!(commits(two));
        let again = case.multiples_of_three(&mut one);
        assert!(again.as_ref().is_none_or(Vec::is_empty), "{kind}, {level:?}: {again:?}");
    }
}

/// Read skew by a write: it deletes by what it has read, and the commit must fail.
#[test]
fn g_single_with_a_write() {
    for (kind, level) in cases() {
        let case = Case::new((kind, level));
        let (mut one, mut two) = (case.begin(), case.begin());
        assert_eq!(case.get(&mut one, 1), Some(10));
        case.set(&mut two, 1, 12);
        case.set(&mut two, 2, 18);
        assert!(commits(two));
        let deleted = match case.get(&mut one, 2) {
            Some(20) => one.delete(&case.table, [2]).is_ok(),
            _ => false,
        };
        assert!(
            !(deleted && commits(one)),
            "{kind}, {level:?}: it deleted a row that is 18 by now"
        );
        assert_eq!(case.now(), (12, 18));
    }
}

#[test]
fn g2_item_write_skew() {
    for (kind, level) in cases() {
        let case = Case::new((kind, level));
        let (mut one, mut two) = (case.begin(), case.begin());
        for tx in [&mut one, &mut two] {
            assert_eq!((case.get(tx, 1), case.get(tx, 2)), (Some(10), Some(20)));
        }
        case.set(&mut one, 1, 11);
        case.set(&mut two, 2, 21);
        assert!(commits(one));
        assert_eq!(commits(two), level == Isolation::Snapshot, "{kind}, {level:?}");
    }
}

/// Write skew by scans: each adds a row that the other's scan has missed.
#[test]
fn g2_anti_dependency_cycles() {
    for (kind, level) in cases() {
        let case = Case::new((kind, level));
        let (mut one, mut two) = (case.begin(), case.begin());
        for tx in [&mut one, &mut two] {
            assert_eq!(case.multiples_of_three(tx), Some(vec![]));
        }
        case.set(&mut one, 3, 30);
        case.set(&mut two, 4, 42);
        assert!(commits(one));
        assert_eq!(commits(two), level == Isolation::Snapshot, "{kind}, {level:?}");
    }
}

/// Write skew by a scan and a range delete: the ring knows ranges of both, and they are compared with each other.
#[test]
fn g2_of_a_scan_and_a_range_delete() {
    for (kind, level) in cases() {
        let case = Case::new((kind, level));
        if !case.table.is_ordered() {
            continue;
        }
        let (mut one, mut two) = (case.begin(), case.begin());
        let seen = one.range(&case.table, [1]..[2]).unwrap().collect::<Result<Vec<_>>>().unwrap();
        assert_eq!(seen.len(), 1);
        assert_eq!(case.get(&mut two, 3), Some(0));
        case.set(&mut one, 3, 30);
        // What `one` has read goes, and what `one` writes was read here: in no order do both make sense.
        two.delete_range(&case.table, [1]..[2]).unwrap();
        assert!(commits(two));
        assert_eq!(commits(one), level == Isolation::Snapshot, "{kind}, {level:?}");
    }
}
