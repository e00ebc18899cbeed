//! A walk over everything: the trunk, and the trees, filters and ranges that it names.

use super::node::{NodeParts, NodeRun, check_node};
use super::read::read_node;
use crate::btree::Check;
use crate::kind::{CheckStep, Checker, Handle};
use crate::pages::{ChildWord, PageRead, Pages, Step, View};
use crate::run::RunCheck;
use crate::run::check::check_filter;
use esker_base::PageId;

#[derive(Debug)]
enum Item {
    /// A node, and what its parent says of it: leaves, runs, level. The root is looked up by its own word.
    Node {
        word: Option<u64>,
        says: Option<(u32, u8, u8)>,
    },
    Tree {
        word: u64,
        check: Check,
    },
    Run(Box<RunCheck>),
    Filter(u64),
}

/// How far a check has come.
#[derive(Debug)]
pub struct FractalCheck {
    todo: Vec<Item>,
}

fn word_of(bits: u64) -> ChildWord {
    ChildWord::new(ChildWord::page_of(bits), ChildWord::hint_of(bits))
}

impl FractalCheck {
    pub(crate) fn new() -> Self {
        Self { todo: vec![Item::Node { word: None, says: None }] }
    }

    fn tree(&mut self, word: u64) {
        if word != 0 {
            let check = Check::new(ChildWord::page_of(word), true);
            self.todo.push(Item::Tree { word, check });
        }
    }

    fn node<P: Pages>(
        &mut self,
        pages: &P,
        word: &ChildWord,
        view: View,
        says: Option<(u32, u8, u8)>,
    ) -> Step<CheckStep> {
        let page = read_node(pages, word, view)?;
        let wrong = |what: String| Ok(CheckStep::Wrong(format!("{:?}: {what}", page.id())));
        if let Err(what) = check_node(page.level(), page.words().len(), page.body()) {
            return wrong(what);
        }
        let parts = NodeParts::of(page.words(), page.body());
        let runs = u8::try_from(parts.runs.len()).expect("a node counts them in a byte");
        let is = (parts.pages(), runs, page.level());
        if says.is_some_and(|says| says != is) {
            return wrong(format!("leaves, runs, level: {is:?}, its parent says {says:?}"));
        }
        if parts.memtable.is_some() != says.is_none() {
            return wrong("the root has the memtable, and nobody else".to_owned());
        }
        for child in &parts.children {
            let says = Some((child.pages, child.runs, child.level));
            self.todo.push(Item::Node { word: Some(child.word), says });
        }
        for NodeRun { run, frozen } in &parts.runs {
            self.tree(run.ranges);
            if *frozen {
                self.tree(run.tree);
            } else {
                if run.filter != 0 {
                    self.todo.push(Item::Filter(run.filter));
                }
                self.todo.push(Item::Run(Box::new(RunCheck::new(*run))));
            }
        }
        if let Some((tree, ranges)) = parts.memtable {
            self.tree(ranges);
            self.tree(tree);
        }
        Ok(CheckStep::Page { rows: 0 })
    }
}

impl Checker for FractalCheck {
    fn step<P: Pages>(
        &mut self,
        pages: &P,
        root: &ChildWord,
        view: View,
        visit: &mut dyn FnMut(Handle),
    ) -> Step<CheckStep> {
        loop {
            let Some(item) = self.todo.last_mut() else { return Ok(CheckStep::Done) };
            match item {
                Item::Node { word, says } => {
                    let (word, says) = (*word, *says);
                    let item = self.todo.pop().expect("just seen");
                    let step = match word {
                        Some(word) => self.node(pages, &word_of(word), view, says),
                        None => self.node(pages, root, view, says),
                    };
                    if step.is_err() {
                        self.todo.push(item);
                    }
                    return step;
                }
                Item::Tree { word, check } => {
                    match check.step(pages, &word_of(*word), view, visit)? {
                        CheckStep::Done => {}
                        step => return Ok(step),
                    }
                }
                Item::Run(check) => match check.step(pages, view, visit)? {
                    CheckStep::Done => {}
                    step => return Ok(step),
                },
                Item::Filter(word) => {
                    if let Some(what) = check_filter(pages, &word_of(*word), view)? {
                        self.todo.pop();
                        return Ok(CheckStep::Wrong(what));
                    }
                }
            }
            self.todo.pop();
        }
    }

    fn skip(&mut self) {
        match self.todo.last_mut() {
            Some(Item::Tree { check, .. }) => check.skip(),
            Some(Item::Run(check)) => check.skip(),
            // A page that cannot be read: what it names is not reached.
            Some(Item::Node { .. } | Item::Filter(_)) => {
                self.todo.pop();
            }
            None => {}
        }
    }

    fn place(&self) -> Option<(&[u8], Option<&[u8]>)> {
        match self.todo.last()? {
            Item::Tree { check, .. } => check.place(),
            Item::Run(check) => check.place(),
            Item::Node { .. } | Item::Filter(_) => None,
        }
    }
}

/// Kept for the trait: a check starts at the root, whatever its page.
pub(crate) fn check(_root: PageId) -> FractalCheck {
    FractalCheck::new()
}
