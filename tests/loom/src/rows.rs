//! The row cache: no get finds a row that was overwritten before it began, nor an older one than the get before it.
//!
//! Here is what the engine does around it: a page under a latch, a write in the turn, which changes the page, has the row forgotten and
//! publishes, all under the latch; and gets that find no page in memory.

use crate::row_cache::RowCache;
use crate::run;
use esker_base::TableId;
use esker_base::sync::Mutex;
use loom::sync::Arc;
use loom::thread;

const TABLE: TableId = TableId(1);
const KEY: &[u8] = b"k";

struct Table {
    /// The row, in its page.
    page: Mutex<u8>,
    turn: Mutex<()>,
    cache: RowCache,
}

impl Table {
    fn new() -> Self {
        Self { page: Mutex::new(1), turn: Mutex::new(()), cache: RowCache::default() }
    }

    /// Frames have given back so much.
    fn resize(&self, bytes: usize) {
        let _turn = self.turn.lock();
        self.cache.resize(bytes, true);
    }

    fn put(&self, value: u8) {
        let _turn = self.turn.lock();
        let mut page = self.page.lock();
        *page = value;
        self.cache.forget(TABLE, KEY);
    }

    fn get(&self) -> u8 {
        if !self.cache.is_on() {
            return *self.page.lock();
        }
        let Some(hash) = self.cache.hash_of(TABLE, KEY) else {
            return *self.page.lock();
        };
        match self.cache.find(hash, TABLE, KEY, |value| value[0]) {
            Ok(value) => value,
            Err(ticket) => {
                let value = *self.page.lock();
                self.cache.put(ticket, TABLE, KEY, &[value]);
                value
            }
        }
    }
}

#[test]
fn gets_never_go_back() {
    run(3, || {
        let table = Arc::new(Table::new());
        table.resize(1 << 20);
        let other = Arc::clone(&table);
        let writer = thread::spawn(move || other.put(2));
        let (first, second) = (table.get(), table.get());
        assert!(first <= second, "{first}, then {second}");
        writer.join().unwrap();
        assert_eq!(table.get(), 2, "what was written before");
    });
}

#[test]
fn nor_while_it_is_switched_on_and_off() {
    run(3, || {
        let table = Arc::new(Table::new());
        let other = Arc::clone(&table);
        let writer = thread::spawn(move || other.put(2));
        table.resize(1 << 20);
        let first = table.get();
        table.resize(0);
        table.resize(1 << 20);
        let second = table.get();
        assert!(first <= second, "{first}, then {second}");
        writer.join().unwrap();
        assert_eq!(table.get(), 2, "what was written before");
    });
}

#[test]
fn nor_by_two_who_fill_it() {
    run(2, || {
        let table = Arc::new(Table::new());
        table.resize(1 << 20);
        let [writer, reader] = [Arc::clone(&table), Arc::clone(&table)];
        let threads = [
            thread::spawn(move || writer.put(2)),
            thread::spawn(move || {
                reader.get();
            }),
        ];
        let first = table.get();
        let second = table.get();
        assert!(first <= second, "{first}, then {second}");
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(table.get(), 2, "what was written before");
    });
}
