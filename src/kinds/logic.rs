//! What the store must know of the pages of each table.

use super::{AnyKind, on};
use crate::options::Options;
use crate::store::image::Form;
use crate::store::{OverflowRange, PageLogic};
use crate::value;
use esker_base::sync::{Arc, RwLock};
use esker_base::{PageId, TableId};
use esker_index::hash::FilterMemory;
use esker_index::kind::{Kind, Lead};
use esker_index::pages::ChildWord;
use std::collections::BTreeMap;

/// What the store must know of the pages of each table.
#[derive(Debug)]
pub(crate) struct Logic {
    content_bytes: usize,
    /// What all hash tables share.
    pub(super) filter_memory: Arc<FilterMemory>,
    tables: RwLock<BTreeMap<TableId, Arc<AnyKind>>>,
}

impl Logic {
    pub(crate) fn new(options: &Options, page_bytes: usize) -> Self {
        let content_bytes = page_bytes - 64;
        let filter_memory = FilterMemory::new(options.filter_bytes_max())
            .with_fronts(options.front_bytes_max(page_bytes));
        let filter_memory = Arc::new(filter_memory);
        Self { content_bytes, filter_memory, tables: RwLock::new(BTreeMap::new()) }
    }
    /// From now on, and for good (pages of dropped tables are still met), this table is of this kind.
    pub(crate) fn set(&self, table: TableId, kind: Arc<AnyKind>) {
        self.tables.write().insert(table, kind);
    }
    /// True if the kind of a table is, so that its pages say which others belong to it.
    pub(crate) fn is_known(&self, table: TableId) -> bool {
        self.kind(table).is_some_and(|kind| !matches!(*kind, AnyKind::Unregistered))
    }
    fn kind(&self, table: TableId) -> Option<Arc<AnyKind>> {
        self.tables.read().get(&table).cloned()
    }
}

impl PageLogic for Logic {
    fn check(&self, table: TableId, level: u8, words: usize, body: &[u8]) -> Result<(), String> {
        match self.kind(table).as_deref() {
            None => Err(format!("{table:?} is not in the catalogue")),
            Some(AnyKind::Unregistered) => Err("its kind of index is not registered".to_owned()),
            Some(any) => on!(any, kind => kind.check_page(level, words, body)),
        }
    }
    fn form(&self, table: TableId, level: u8, body: &[u8]) -> Form {
        match self.kind(table).as_deref() {
            None | Some(AnyKind::Unregistered) => Form::Body { hole: body.len()..body.len() },
            Some(any) => on!(any, kind => match kind.fold(level) {
                Some(fold) => Form::Folded(fold),
                None => Form::Body { hole: kind.hole(level, body) },
            }),
        }
    }
    fn leads(
        &self,
        table: TableId,
        (level, words, body): (u8, &[ChildWord], &[u8]),
        lead: Lead,
        visit: &mut dyn FnMut(PageId, Lead),
    ) {
        match self.kind(table).as_deref() {
            None | Some(AnyKind::Unregistered) => {
                for word in words {
                    visit(word.page(), Lead::Anything);
                }
            }
            Some(any) => on!(any, kind => kind.leads(level, words, body, lead, visit)),
        }
    }
    fn overflow(
        &self,
        table: TableId,
        level: u8,
        body: &[u8],
        visit: &mut dyn FnMut(OverflowRange),
    ) {
        match self.kind(table).as_deref() {
            None | Some(AnyKind::Unregistered) => {}
            Some(any) => on!(any, kind => kind.handles(level, body, &mut |handle| {
                visit(value::Handle::decode(&handle).range(self.content_bytes));
            })),
        }
    }
}
