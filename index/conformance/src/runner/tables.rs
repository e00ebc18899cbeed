//! Tables made and dropped, and the database closed and opened again.

use super::{Runner, SLOTS};
use crate::script::{Tab, table_name};
use crate::transaction::{Handle, OpenTransaction};
use esker::{Error, Result};

impl Runner<'_> {
    pub(super) fn create(&mut self, tab: Tab) -> Result<()> {
        let name = table_name(tab);
        let kind = self.settings.kinds[usize::from(tab)];
        if self.handles.contains_key(&name) {
            return match self.db().create_table(&name, kind) {
                Ok(_) => panic!("{name} was created twice"),
                Err(Error::Invalid { .. }) => Ok(()),
                Err(error) => Err(error),
            };
        }
        let generation = self.next_generation;
        self.next_generation += 1;
        let mut new = self.now();
        new.create(&name, generation);
        let made = self.commit(Some(new), None, |runner| runner.db().create_table(&name, kind));
        let table = match made {
            Ok(table) => table,
            // It is there for now.
            Err(error @ Error::Unknown { .. }) => {
                let table = self.db().open_table(&name)?;
                self.handles.insert(name.clone(), Handle { table, name, generation });
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        self.handles.insert(name.clone(), Handle { table, name, generation });
        Ok(())
    }

    pub(super) fn drop_table(&mut self, tab: Tab) -> Result<()> {
        let Some(handle) = self.existing(tab) else { return Ok(()) };
        let mut new = self.now();
        new.remove(&handle.name);
        let dropped = self.commit(Some(new), None, |runner| runner.db().drop_table(&handle.name));
        if !matches!(dropped, Ok(()) | Err(Error::Unknown { .. })) {
            return dropped;
        }
        self.handles.remove(&handle.name);
        let gone = handle.table.get(b"any");
        assert!(matches!(gone, Err(Error::UnknownTable { .. })), "{gone:?}");
        for slot in 0..SLOTS {
            let touches = |open: &mut OpenTransaction| open.log.touches(handle.generation);
            if let Some(open) = self.transactions[slot].take_if(touches) {
                if open.log.writes() && open.log.needs(handle.generation) {
                    let ended = open.tx.commit();
                    assert!(ended.is_err(), "a transaction on a dropped table was committed");
                } else {
                    match self.commit_transaction(open, None) {
                        Ok(()) | Err(Error::Conflict) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            self.scans[slot].take_if(|scan| scan.generation == handle.generation);
        }
        dropped
    }

    pub(super) fn reopen(&mut self, close: bool) -> Result<()> {
        self.scans = Default::default();
        self.tickets = Default::default();
        let left = std::mem::take(&mut self.snapshots);
        let open: Vec<_> = self.transactions.iter_mut().filter_map(Option::take).collect();
        self.take_stats();
        let db = self.db.take().expect("the database is open");
        if close {
            let other = db.clone();
            db.close()?;
            self.all_durable();
            assert!(matches!(other.sync(), Err(Error::Closed)), "another handle still writes");
            for open in open {
                let writes = open.log.writes();
                let result = open.tx.commit();
                assert!(!writes || matches!(result, Err(Error::Closed)), "{result:?}");
            }
            for held in left.iter().flatten() {
                held.check_closed();
            }
        } else {
            drop(open);
            drop(left);
            drop(db);
        }
        self.handles.clear();
        self.open_again()
    }
}
