//! A table beside a map that says what it should hold, and its background work, step by step.

use super::super::node::NodeParts;
use super::super::read::read_node;
use super::super::work::word_of;
use super::super::*;
use crate::kind::{
    CheckStep, Checker, Cursor, Direction, Existing, Kind, Look, PreparedRange, PreparedWrite,
    Value, Work,
};
use crate::mock::Mock;
use crate::pages::{ChildWord, PageRead, Stop, View};
use esker_base::PageId;
use std::collections::{BTreeMap, BTreeSet};

pub(super) type Model = BTreeMap<Vec<u8>, Vec<u8>>;

pub(super) type Row = (Vec<u8>, Vec<u8>);

/// Chance.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub(super) fn below(&mut self, n: u32) -> u32 {
        u32::try_from(self.next() >> 33).unwrap() % n
    }
    pub(super) fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }
}

pub(super) fn key(n: u32) -> Vec<u8> {
    format!("{n:08}").into_bytes()
}

/// What a walk over the trunk found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shape {
    pub(super) nodes: usize,
    pub(super) lowest: usize,
    pub(super) levels: usize,
    /// Runs of the root, and of the node that has most of all others.
    pub(super) root_runs: usize,
    pub(super) runs_max: usize,
    /// Runs on the way to a key, at most; the memtable is one.
    pub(super) way_max: usize,
    /// Rows of all runs, tombstones included.
    pub(super) rows: u64,
    pub(super) pages: u32,
}

pub(super) struct Bench {
    pub(super) mock: Mock,
    pub(super) fractal: Fractal,
    pub(super) root: ChildWord,
    pub(super) model: Model,
    /// As the engine counts them.
    pub(super) rows: i64,
    /// Most pages touched in one turn of background work, and built in one step.
    pub(super) turn_max: usize,
    pub(super) step_max: usize,
    pub(super) built: usize,
}

impl Bench {
    pub(super) fn new(config: FractalConfig) -> Self {
        let (mock, fractal) = (Mock::new(config.content_bytes), Fractal::new(config));
        let root = mock.settle(|| fractal.create(&mock));
        let root = ChildWord::new(root, ChildWord::NO_HINT);
        let model = Model::new();
        Self { mock, fractal, root, model, rows: 0, turn_max: 0, step_max: 0, built: 0 }
    }
    /// With small pages: up to 5 runs a node.
    pub(super) fn tiny() -> Self {
        Self::new(FractalConfig { content_bytes: 960, memtable_bytes: 8 << 10, node_pages: 16 })
    }

    fn write(&mut self, key: &[u8], new: Option<&[u8]>, look: Look) {
        self.mock.begin();
        let value = new.map(Value::Inline);
        let (fractal, mock, root) = (&self.fractal, &self.mock, &self.root);
        let mut prepared = loop {
            match fractal.prepare(mock, root, key, value.as_ref(), look) {
                Ok(prepared) => break prepared,
                Err(Stop::Missing(page)) => mock.load(page),
                Err(Stop::Reserve) => mock.refill(),
                Err(Stop::Moved) => {}
                Err(stop) => panic!("{stop:?}"),
            }
        };
        if look == Look::Existing {
            let old = self.model.get(key).map(|value| Value::Inline(value));
            let old = old.map_or(Existing::Absent, Existing::Present);
            assert_eq!(prepared.existing(), old);
        }
        self.rows += match value {
            Some(value) => prepared.put(value),
            None => prepared.delete(),
        };
        let sparse = prepared.is_sparse();
        drop(prepared);
        match new {
            Some(value) => self.model.insert(key.to_vec(), value.to_vec()),
            None => self.model.remove(key),
        };
        if sparse {
            self.tidy(key);
        }
    }
    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) {
        self.write(key, Some(value), Look::Blind);
    }
    pub(super) fn delete(&mut self, key: &[u8]) {
        self.write(key, None, Look::Blind);
    }
    /// A delete that looks first; of a key that has a row.
    pub(super) fn take(&mut self, key: &[u8]) {
        self.write(key, None, Look::Existing);
    }
    pub(super) fn tidy(&mut self, key: &[u8]) {
        self.mock.begin();
        while self.mock.settle(|| self.fractal.tidy(&self.mock, &self.root, key)) {}
    }
    pub(super) fn delete_range(&mut self, low: &[u8], high: Option<&[u8]>) {
        self.mock.begin();
        let (fractal, mock, root) = (&self.fractal, &self.mock, &self.root);
        let plan = mock.settle(|| fractal.prepare_delete_range(mock, root, low, high));
        self.rows += plan.apply(&mut |_| {});
        self.model.retain(|key, _| &key[..] < low || high.is_some_and(|high| &key[..] >= high));
    }

    /// Some steps of background work; false when there is nothing to do.
    pub(super) fn work(&mut self, steps: usize, rest: bool) -> bool {
        for _ in 0..steps {
            let before = self.mock.counts();
            let (fractal, mock, root) = (&self.fractal, &self.mock, &self.root);
            let work = mock.settle(|| fractal.work(mock, root, rest));
            let built = mock.counts().built - before.built;
            self.step_max = self.step_max.max(built);
            self.built += built;
            match work {
                Work::None => return false,
                Work::More => {}
                Work::Finish => {
                    mock.begin();
                    let before = mock.counts();
                    let rows = loop {
                        match fractal.finish_work(mock, root, &mut |_| {}) {
                            Ok(rows) => break rows,
                            Err(Stop::Missing(page)) => mock.load(page),
                            Err(Stop::Reserve) => mock.refill(),
                            Err(Stop::Moved) => {
                                fractal.abandon_work();
                                break 0;
                            }
                            Err(stop) => panic!("{stop:?}"),
                        }
                    };
                    let after = mock.counts();
                    let touched = after.written - before.written + after.read - before.read;
                    self.turn_max = self.turn_max.max(touched);
                    self.rows += rows;
                }
            }
        }
        true
    }
    /// Merges a range; writes come in between if asked for.
    pub(super) fn optimize(
        &mut self,
        (low, high): (&[u8], Option<&[u8]>),
        mut between: impl FnMut(&mut Self),
    ) {
        let wish = self.fractal.want_merged(low, high);
        let mut steps = 0;
        while !self.fractal.is_merged(wish) {
            self.work(1, false);
            between(self);
            steps += 1;
            assert!(steps < 100_000, "it is never merged");
        }
    }

    /// Background work until there is none.
    pub(super) fn work_all(&mut self, rest: bool) {
        let mut rounds = 0;
        while self.work(1, rest) {
            rounds += 1;
            assert!(rounds < 100_000, "work has no end");
        }
    }

    pub(super) fn get(&self, view: View, key: &[u8]) -> Option<Vec<u8>> {
        let (fractal, mock, root) = (&self.fractal, &self.mock, &self.root);
        mock.settle(|| {
            fractal.get(mock, root, view, key, |value, _| match value {
                Some(Value::Inline(value)) => Some(value.to_vec()),
                _ => None,
            })
        })
    }
    /// The first rows of a range, and pages read for them.
    pub(super) fn scan(
        &self,
        view: View,
        (low, high): (&[u8], Option<&[u8]>),
        direction: Direction,
        rows_max: usize,
    ) -> (Vec<Row>, usize) {
        let (fractal, mock, root) = (&self.fractal, &self.mock, &self.root);
        let before = mock.counts().read;
        let mut cursor = fractal.cursor(low, high, direction);
        let mut rows = Vec::new();
        while rows.len() < rows_max {
            let next = cursor.next_in_memory();
            if !next.unwrap_or_else(|| mock.settle(|| cursor.next(mock, root, view))) {
                break;
            }
            let (key, value) = cursor.row();
            let Value::Inline(value) = value else { panic!("{value:?}") };
            rows.push((key.to_vec(), value.to_vec()));
        }
        (rows, mock.counts().read - before)
    }
    /// The first row as of now, and pages read for it.
    pub(super) fn first(&self, direction: Direction) -> (Option<Vec<u8>>, usize) {
        let view = self.mock.cut();
        let (rows, pages) = self.scan(view, (&[], None), direction, 1);
        self.mock.release_cuts();
        (rows.into_iter().next().map(|(key, _)| key), pages)
    }

    /// The whole table is as the model says, forward and backward, by a cut.
    pub(super) fn compare(&self) {
        let view = self.mock.cut();
        self.compare_at(view, &self.model);
        self.mock.release_cuts();
    }
    pub(super) fn compare_at(&self, view: View, model: &Model) {
        let wanted: Vec<_> =
            model.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        let (rows, _) = self.scan(view, (&[], None), Direction::Forward, usize::MAX);
        assert!(rows == wanted, "forward: {} rows, {} wanted", rows.len(), wanted.len());
        let (mut rows, _) = self.scan(view, (&[], None), Direction::Backward, usize::MAX);
        rows.reverse();
        assert!(rows == wanted, "backward: {} rows, {} wanted", rows.len(), wanted.len());
    }

    /// Everything that the kind checks of itself; and every page is reached, once work is not under way.
    pub(super) fn check(&self) {
        let (mock, root) = (&self.mock, &self.root);
        let mut check = self.fractal.check(root.page());
        loop {
            match mock.settle(|| check.step(mock, root, View::Current, &mut |_| {})) {
                CheckStep::Done => break,
                CheckStep::Page { .. } => {}
                CheckStep::Wrong(what) => panic!("{what}"),
            }
        }
    }
    pub(super) fn check_pages(&self) {
        let mut found = BTreeSet::new();
        let mut open = vec![self.root.page()];
        while let Some(page) = open.pop() {
            if page != PageId::NONE && found.insert(page) {
                open.extend(self.mock.page(page).words().iter().map(ChildWord::page));
            }
        }
        let all: BTreeSet<PageId> = self.mock.page_ids().into_iter().collect();
        assert_eq!(all, found, "pages that nothing leads to");
    }

    pub(super) fn shape(&self) -> Shape {
        let mut shape = Shape::default();
        let page = self.mock.settle(|| read_node(&self.mock, &self.root, View::Current));
        let parts = NodeParts::of(page.words(), page.body());
        shape.root_runs = parts.runs.len();
        shape.pages = parts.pages();
        self.walk(&parts, 1, 1, &mut shape);
        shape
    }
    /// Runs on the ways down that have a row of a range, or may delete some, and nodes at the ends of these ways.
    pub(super) fn runs_of(&self, low: &[u8], high: Option<&[u8]>) -> (usize, usize) {
        self.runs_below(self.root.page(), (low, high))
    }
    fn runs_below(&self, page: PageId, (low, high): (&[u8], Option<&[u8]>)) -> (usize, usize) {
        let word = ChildWord::new(page, ChildWord::NO_HINT);
        let page = self.mock.settle(|| read_node(&self.mock, &word, View::Current));
        let parts = NodeParts::of(page.words(), page.body());
        let has_rows = |tree: u64, ranges: u64| {
            let mut cursor = crate::btree::TreeCursor::new(low, high, Direction::Forward);
            ranges != 0
                || self.mock.settle(|| cursor.next(&self.mock, &word_of(tree), View::Current))
        };
        let memtable = parts.memtable.is_some_and(|(tree, ranges)| has_rows(tree, ranges));
        let runs = parts.runs.iter().filter(|run| has_rows(run.run.tree, run.run.ranges)).count();
        let (mut runs, mut nodes) = (usize::from(memtable) + runs, 0);
        for (i, child) in parts.children.iter().enumerate() {
            let begins_after = i > 0 && high.is_some_and(|high| child.pivot.as_slice() >= high);
            let next = parts.children.get(i + 1);
            if begins_after || next.is_some_and(|next| next.pivot.as_slice() <= low) {
                continue;
            }
            let below = self.runs_below(ChildWord::page_of(child.word), (low, high));
            (runs, nodes) = (runs + below.0, nodes + below.1);
        }
        (runs, if parts.children.is_empty() { 1 } else { nodes })
    }
    fn walk(&self, parts: &NodeParts, levels: usize, above: usize, shape: &mut Shape) {
        let way = above + parts.runs.len();
        shape.nodes += 1;
        shape.levels = shape.levels.max(levels);
        shape.way_max = shape.way_max.max(way);
        shape.rows += parts.runs.iter().map(|run| run.run.rows).sum::<u64>();
        if levels > 1 {
            shape.runs_max = shape.runs_max.max(parts.runs.len());
        }
        if parts.children.is_empty() {
            shape.lowest += 1;
        }
        for child in &parts.children {
            let word = word_of(child.word);
            let page = self.mock.settle(|| read_node(&self.mock, &word, View::Current));
            let below = NodeParts::of(page.words(), page.body());
            self.walk(&below, levels + 1, way, shape);
        }
    }
}
