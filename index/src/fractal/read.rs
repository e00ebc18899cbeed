//! Following a key down: through the memtable, and the runs of each node on the way.

use super::Fractal;
use super::node::{LEVEL_UNKNOWN, NODE_LEVEL, NODE_LEVEL_MAX, Node};
use super::recent::Recent;
use crate::btree::branch::Route;
use crate::btree::leaf::Leaf;
use crate::btree::read::{Above, all_current, visit_below};
use crate::kind::Value;
use crate::pages::{ChildWord, PageRead, Pages, Step, Stop, View};
use crate::run::{filter, ranges};
use esker_base::{CommitNo, PageId};
use std::cell::Cell;

/// What one tree has for a key.
enum Seen<T> {
    /// A row, or that there is none: the search is over.
    Over(T),
    Nothing,
}

/// One search. `f` is called once, by the first tree that has something to say, or at the end.
pub(crate) struct Search<'k, F> {
    recent: &'k Recent,
    pub(crate) view: View,
    pub(crate) key: &'k [u8],
    hash: Cell<Option<u64>>,
    /// Up to here nothing has changed what was seen.
    changed_at: Cell<CommitNo>,
    f: Cell<Option<F>>,
}

/// Reads the root, or a node of which nothing is known.
pub(crate) fn read_node<'a, P: Pages>(
    pages: &'a P,
    word: &ChildWord,
    view: View,
) -> Step<P::Read<'a>> {
    read_below(pages, word, view, NODE_LEVEL_MAX + 1)
}

/// Reads a node and checks that it is one, of a level below `parent`: so every way down ends.
pub(crate) fn read_below<'a, P: Pages>(
    pages: &'a P,
    word: &ChildWord,
    view: View,
    parent: u8,
) -> Step<P::Read<'a>> {
    let page = pages.read(word, view)?;
    if !(NODE_LEVEL..parent).contains(&page.level()) {
        let detail = format!("level {}, a trunk node below {parent} was expected", page.level());
        return Err(Stop::Corrupt { page: page.id(), detail });
    }
    Ok(page)
}

impl<'k, F> Search<'k, F> {
    pub(crate) fn new(fractal: &'k Fractal, view: View, key: &'k [u8], f: F) -> Self {
        Self {
            recent: &fractal.recent,
            view,
            key,
            hash: Cell::new(None),
            changed_at: Cell::new(CommitNo(0)),
            f: Cell::new(Some(f)),
        }
    }

    fn hash(&self) -> u64 {
        self.hash.get().unwrap_or_else(|| {
            let hash = filter::key_hash(self.key);
            self.hash.set(Some(hash));
            hash
        })
    }
    fn note(&self, changed_at: CommitNo) {
        self.changed_at.set(self.changed_at.get().max(changed_at));
    }

    fn answer<T>(&self, value: Option<Value<'_>>) -> T
    where
        F: FnOnce(Option<Value<'_>>, CommitNo) -> T,
    {
        let f = self.f.take().expect("a search answers once");
        f(value, self.changed_at.get())
    }

    /// From the root. `skip_memtable`: what the memtable's tree holds is known already.
    pub(crate) fn run<P: Pages, T>(
        &self,
        pages: &P,
        root: &ChildWord,
        skip_memtable: bool,
    ) -> Step<T>
    where
        F: FnOnce(Option<Value<'_>>, CommitNo) -> T,
    {
        match self.node(pages, root, None, skip_memtable)? {
            Seen::Over(result) => Ok(result),
            Seen::Nothing => Ok(self.answer(None)),
        }
    }

    fn node<'a, P: Pages, T>(
        &self,
        pages: &'a P,
        word: &ChildWord,
        above: Option<&Above<'_, P::Read<'a>>>,
        skip_memtable: bool,
    ) -> Step<Seen<T>>
    where
        F: FnOnce(Option<Value<'_>>, CommitNo) -> T,
    {
        let moved = || self.view == View::Current && !all_current(pages, above);
        let parent = above.map_or(NODE_LEVEL_MAX + 1, |above| above.page.level());
        let page = match read_below(pages, word, self.view, parent) {
            // A page that the trunk has given up may be anything by now.
            Err(Stop::Missing(_) | Stop::Corrupt { .. }) if moved() => return Err(Stop::Moved),
            read => read?,
        };
        if moved() {
            return Err(Stop::Moved);
        }
        let here = Above { page: &page, up: above };
        let node = Node::new(page.body());
        if node.has_memtable()
            && let Seen::Over(result) = self.memtable(pages, &here, skip_memtable)?
        {
            return Ok(Seen::Over(result));
        }
        for i in 0..node.runs() {
            if let Seen::Over(result) = self.one_run(pages, &here, node, i)? {
                return Ok(Seen::Over(result));
            }
        }
        if node.children() > 0 {
            let child = &page.words()[node.child_word(node.child_of(self.key))];
            return self.node(pages, child, Some(&here), false);
        }
        // As long as the nodes are current, so is everything that they name: filters that said no, too.
        if self.view == View::Current && !all_current(pages, Some(&here)) {
            return Err(Stop::Moved);
        }
        Ok(Seen::Nothing)
    }

    fn memtable<'a, P: Pages, T>(
        &self,
        pages: &'a P,
        here: &Above<'_, P::Read<'a>>,
        skip_tree: bool,
    ) -> Step<Seen<T>>
    where
        F: FnOnce(Option<Value<'_>>, CommitNo) -> T,
    {
        let [tree, ranges, ..] = here.page.words() else { unreachable!("checked") };
        if skip_tree {
            // It is known.
        } else if self.view == View::Current && self.recent.is_lacking(tree.page(), self.hash()) {
            // It has lacked the key since this root was made, or longer.
            self.note(here.page.changed_at());
        } else {
            let seen = visit_below(
                pages,
                tree,
                self.view,
                Route::To(self.key),
                None,
                Some(here),
                |leaf, _| {
                    self.note(leaf.changed_at());
                    self.look(leaf.body())
                },
            )?;
            if let Seen::Over(result) = seen {
                return Ok(Seen::Over(result));
            }
        }
        self.ranges(pages, here, ranges, true)
    }

    /// What a leaf has for the key.
    fn look<T>(&self, body: &[u8]) -> Seen<T>
    where
        F: FnOnce(Option<Value<'_>>, CommitNo) -> T,
    {
        let leaf = Leaf::new(body);
        let Ok(i) = leaf.search(self.key) else { return Seen::Nothing };
        Seen::Over(match leaf.row(i).1 {
            Value::Tombstone => self.answer(None),
            value => self.answer(Some(value)),
        })
    }

    /// Whether ranges of what was just looked at delete what is below.
    fn ranges<'a, P: Pages, T>(
        &self,
        pages: &'a P,
        here: &Above<'_, P::Read<'a>>,
        word: &ChildWord,
        changes: bool,
    ) -> Step<Seen<T>>
    where
        F: FnOnce(Option<Value<'_>>, CommitNo) -> T,
    {
        if word.page() == PageId::NONE {
            return Ok(Seen::Nothing);
        }
        let covers = ranges::covers(pages, word, self.view, self.key);
        let current = || self.view != View::Current || all_current(pages, Some(here));
        match covers {
            Ok(_) | Err(Stop::Missing(_) | Stop::Corrupt { .. }) if !current() => Err(Stop::Moved),
            Err(stop) => Err(stop),
            Ok((covered, changed_at)) => {
                if changes {
                    self.note(changed_at);
                }
                Ok(if covered { Seen::Over(self.answer(None)) } else { Seen::Nothing })
            }
        }
    }

    fn one_run<'a, P: Pages, T>(
        &self,
        pages: &'a P,
        here: &Above<'_, P::Read<'a>>,
        node: Node<'_>,
        i: usize,
    ) -> Step<Seen<T>>
    where
        F: FnOnce(Option<Value<'_>>, CommitNo) -> T,
    {
        let at = node.run_word(i);
        let [tree, filter, ranges] = &here.page.words()[at..at + 3] else {
            unreachable!("checked")
        };
        let has_tree = tree.page() != PageId::NONE;
        if has_tree && self.admits(pages, here, filter)? {
            let level = node.run_level(i);
            let route = Route::To(self.key);
            let seen = visit_below(pages, tree, self.view, route, level, Some(here), |leaf, _| {
                self.look(leaf.body())
            })?;
            if let Seen::Over(result) = seen {
                return Ok(Seen::Over(result));
            }
        }
        self.ranges(pages, here, ranges, false)
    }

    /// True if a filter admits the key, or there is none.
    fn admits<'a, P: Pages>(
        &self,
        pages: &'a P,
        here: &Above<'_, P::Read<'a>>,
        filter: &ChildWord,
    ) -> Step<bool> {
        if filter.page() == PageId::NONE {
            return Ok(true);
        }
        match filter::may_contain(pages, filter, self.view, self.hash()) {
            Err(Stop::Missing(_) | Stop::Corrupt { .. })
                if self.view == View::Current && !all_current(pages, Some(here)) =>
            {
                Err(Stop::Moved)
            }
            admits => admits,
        }
    }
}

/// The level of a tree whose root says it.
pub(crate) fn level_of<P: Pages>(pages: &P, word: u64, known: u8) -> Step<u8> {
    if known != LEVEL_UNKNOWN {
        return Ok(known);
    }
    let word = ChildWord::new(ChildWord::page_of(word), ChildWord::hint_of(word));
    Ok(pages.read(&word, View::Current)?.level())
}
