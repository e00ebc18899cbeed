//! Merge operators: functions that turn an existing value and an operand into a new value.

use esker_base::sync::Arc;
use esker_base::{Error, Result};
use std::collections::BTreeMap;
use std::fmt;

/// `merge(key, existing, operand)` gives the new value, or `None` to remove the key.
pub type MergeFn = dyn Fn(&[u8], Option<&[u8]>, &[u8]) -> Option<Vec<u8>> + Send + Sync;

/// The operators registered at open.
#[derive(Clone, Default)]
pub(crate) struct Operators {
    by_name: BTreeMap<String, Arc<MergeFn>>,
}

impl Operators {
    pub(crate) fn insert(&mut self, name: &str, merge: Arc<MergeFn>) {
        self.by_name.insert(name.to_owned(), merge);
    }
    pub(crate) fn get(&self, name: &str) -> Result<Arc<MergeFn>> {
        let found = self.by_name.get(name).cloned();
        found.ok_or_else(|| Error::UnknownOperator { name: name.to_owned() })
    }
}

impl fmt::Debug for Operators {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_name.keys()).finish()
    }
}
