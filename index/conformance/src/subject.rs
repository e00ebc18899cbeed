//! What is tested.

use esker::{Index, Options};
use std::fmt;

/// Changes the options of a database before it is opened: registers kinds.
pub type Register<'o> = &'o (dyn Fn(Options) -> Options + Sync);

/// Registers nothing.
pub fn unchanged(options: Options) -> Options {
    options
}

/// The kind of index that all tables of a test have.
#[derive(Clone, Copy)]
pub struct Subject<'o> {
    /// The kind; without one, each script draws kinds of those that Esker has.
    pub kind: Option<Index>,
    /// Registers it.
    pub register: Register<'o>,
}

impl Subject<'static> {
    /// Whatever kinds the scripts draw.
    pub const DRAWN: Self = Self { kind: None, register: &unchanged };

    /// A kind that Esker has.
    pub const fn of(kind: Index) -> Self {
        Self { kind: Some(kind), register: &unchanged }
    }
}

impl Subject<'_> {
    /// The kinds that Esker has.
    pub const KINDS: [Index; 3] = [Index::BTree, Index::Hash, Index::Fractal];

    /// The kind, for tests that have tables of one kind only.
    pub fn kind_of(&self, seed: u64) -> Index {
        self.kind.unwrap_or(Self::KINDS[(seed % 3) as usize])
    }
}

impl fmt::Debug for Subject<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").field("kind", &self.kind).finish_non_exhaustive()
    }
}
