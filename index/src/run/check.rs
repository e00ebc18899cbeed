//! Checks of a run: its filter's pages, and everything together.

use super::filter::{self, Header, LINE_BYTES, PROBES_MAX, fanout, lines_in_block};
use super::{FILTER_BLOCK_LEVEL, FILTER_LEVEL_MAX, FILTER_ROOT_LEVEL, RunRef};
use crate::btree::{Check, LeafCopy, seek_leaf};
use crate::kind::{CheckStep, Checker, Direction, Handle, Value};
use crate::pages::{ChildWord, PageRead, Pages, Step, Stop, View};
use esker_base::PageId;
use std::ops::Range;

/// Checks a filter page that came from disk, so that everything else may rely on it.
///
/// # Errors
/// What is wrong.
pub fn check_filter_page(level: u8, words: usize, body: &[u8]) -> Result<(), String> {
    const WORD_BYTES: usize = 8;
    let content_bytes = words * WORD_BYTES + body.len();
    match level {
        FILTER_BLOCK_LEVEL if words == 0 && body.len() >= LINE_BYTES => Ok(()),
        FILTER_ROOT_LEVEL..=FILTER_LEVEL_MAX if content_bytes >= LINE_BYTES => {
            let header = Header::of(body).ok_or("a filter root without room for its header")?;
            let span = (fanout(content_bytes) as u64).pow(u32::from(level - FILTER_ROOT_LEVEL));
            let blocks = u64::from(header.lines).div_ceil(lines_in_block(content_bytes) as u64);
            if blocks == 0 || blocks.div_ceil(span) != words as u64 {
                return Err(format!("a filter of {} lines with {words} children", header.lines));
            }
            if header.probes == 0 || header.probes > PROBES_MAX || header.zero != 0 {
                return Err(format!("a filter with {} probes", header.probes));
            }
            Ok(())
        }
        _ => Err(format!("a filter page of level {level} with {words} children")),
    }
}

/// The part of a filter page that need not be kept on disk: zeroes at its end.
pub fn filter_hole(body: &[u8]) -> Range<usize> {
    let used = body.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    used..body.len()
}

/// Rows of a leaf that are compared with the filter, and with what the run says.
#[derive(Debug)]
struct LeafRows {
    copy: LeafCopy,
    at: usize,
    tombstones: u64,
}

/// A walk over a run that checks its tree, that its filter admits every key, and what its [`RunRef`] says.
#[derive(Debug)]
pub struct RunCheck {
    run: RunRef,
    tree: Check,
    leaf: LeafRows,
    /// Where the leaf that is compared with the filter begins.
    begin: Option<Vec<u8>>,
    rows: u64,
    pages: u32,
    ended: bool,
}

impl RunCheck {
    /// Before the first leaf.
    pub fn new(run: RunRef) -> Self {
        Self {
            run,
            tree: Check::new(ChildWord::page_of(run.tree), true),
            leaf: LeafRows { copy: LeafCopy::default(), at: 0, tombstones: 0 },
            begin: None,
            rows: 0,
            pages: 0,
            ended: false,
        }
    }

    /// Goes on behind the leaf that was last looked at.
    pub fn skip(&mut self) {
        self.begin = None;
        self.tree.skip();
    }

    /// The keys of the leaf that was last looked at.
    pub fn place(&self) -> Option<(&[u8], Option<&[u8]>)> {
        self.tree.place()
    }

    /// Checks the next leaf, and calls `visit` with the handles in it.
    ///
    /// # Errors
    /// As [`Pages::read`]; it is then called again.
    pub fn step<P: Pages>(
        &mut self,
        pages: &P,
        view: View,
        visit: &mut dyn FnMut(Handle),
    ) -> Step<CheckStep> {
        let run = self.run;
        let tree = word_of(run.tree);
        if self.begin.is_none() {
            let begin = self.tree.next_low().map(<[u8]>::to_vec);
            match self.tree.step(pages, &tree, view, visit)? {
                CheckStep::Page { .. } => (self.begin, self.leaf.at) = (begin, 0),
                CheckStep::Done if !self.ended => {
                    self.ended = true;
                    return Ok(self.totals().map_or(CheckStep::Done, CheckStep::Wrong));
                }
                other => return Ok(other),
            }
        }
        let leaf = &mut self.leaf;
        if leaf.at == 0 {
            let bound = self.begin.as_deref();
            seek_leaf(pages, &tree, view, bound, Direction::Forward, &mut leaf.copy)?;
        }
        while leaf.at < leaf.copy.len() {
            let (key, value) = leaf.copy.row(leaf.at);
            if run.filter != 0 && !admits(pages, &word_of(run.filter), view, key)? {
                self.begin = None;
                return Ok(CheckStep::Wrong(format!("the filter does not admit {key:?}")));
            }
            if !run.has_large && matches!(value, Value::Overflow(_)) {
                self.begin = None;
                return Ok(CheckStep::Wrong("a large value in a run without".to_owned()));
            }
            leaf.tombstones += u64::from(value == Value::Tombstone);
            leaf.at += 1;
        }
        let rows = leaf.copy.len();
        self.rows += rows as u64;
        self.pages += 1;
        self.begin = None;
        Ok(CheckStep::Page { rows })
    }

    /// What the run says and does not hold.
    fn totals(&self) -> Option<String> {
        let said = (self.run.rows, self.run.tombstones, self.run.pages);
        let found = (self.rows, self.leaf.tombstones, self.pages);
        (said != found).then(|| format!("rows, tombstones, leaves: {found:?}, not {said:?}"))
    }
}

fn word_of(bits: u64) -> ChildWord {
    ChildWord::new(ChildWord::page_of(bits), ChildWord::hint_of(bits))
}

/// Whether the filter admits a key, every page on the way checked.
///
/// # Errors
/// As [`Pages::read`]; `Corrupt` if a page is not as it should be.
pub fn admits<P: Pages>(pages: &P, root: &ChildWord, view: View, key: &[u8]) -> Step<bool> {
    let page = pages.read(root, view)?;
    let checked = check_filter_page(page.level(), page.words().len(), page.body());
    if let Err(detail) = checked {
        return Err(Stop::Corrupt { page: page.id(), detail });
    }
    filter::may_contain(pages, root, view, filter::key_hash(key))
}

/// The pages of a filter, roots and blocks, with what is wrong with each: for a walk that checks everything.
///
/// # Errors
/// As [`Pages::read`].
pub fn check_filter<P: Pages>(pages: &P, root: &ChildWord, view: View) -> Step<Option<String>> {
    let mut todo: Vec<(u64, Option<u8>)> = vec![(root.load(), None)];
    while let Some((bits, level)) = todo.pop() {
        let page = pages.read(&word_of(bits), view)?;
        let wrong = |id: PageId, what: String| Ok(Some(format!("{id:?}: {what}")));
        if level.is_some_and(|level| level != page.level()) {
            return wrong(page.id(), format!("level {} under {level:?}", page.level()));
        }
        if let Err(what) = check_filter_page(page.level(), page.words().len(), page.body()) {
            return wrong(page.id(), what);
        }
        todo.extend(page.words().iter().map(|word| (word.load(), Some(page.level() - 1))));
    }
    Ok(None)
}
