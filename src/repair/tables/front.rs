//! Which pages of a hash table are its front's, as far as is known.
//!
//! A front that was given up leaves images behind, with rows that have moved on, were written over or deleted since. Only the
//! table's root tells them from those of a front that is there: what hangs from its word is the front.

use super::{Outcome, Seen};
use crate::range::KeySpan;
use crate::repair::source::Images;
use esker_base::{PageId, Result};
use esker_index::pages::PageRead;
use esker_index::salvage::directory;
use std::collections::BTreeSet;

/// What is known of it.
#[derive(Debug)]
pub(super) enum Front {
    /// The root says that there is none.
    None,
    /// These pages, and no others.
    Whole(BTreeSet<PageId>),
    /// The root says that there is one, and a page of it cannot be read.
    Part,
    /// The root cannot be read, or is not known.
    Unknown,
}

/// What was found of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Have {
    /// A bucket.
    pub(super) any: bool,
    /// Buckets for all hashes.
    pub(super) all: bool,
}

impl Front {
    /// The front of a table with this root; of the last page that names one, if the root is not known.
    pub(super) fn of(images: &Images<'_>, root: Option<PageId>, pages: &[Seen]) -> Result<Self> {
        if let Some(root) = root {
            let Some(page) = images.page(root)? else { return Ok(Self::Unknown) };
            if page.level() == 0 {
                return Ok(Self::None);
            }
            let Ok(top) = directory(page.level(), page.words(), page.body()) else {
                return Ok(Self::Unknown);
            };
            return top.front.map_or(Ok(Self::None), |front| Self::below(images, front));
        }
        let mut newest = None;
        for seen in pages.iter().filter(|seen| seen.level > 0) {
            let Some(page) = images.page(seen.page)? else { continue };
            let top = directory(page.level(), page.words(), page.body());
            let front = top.ok().and_then(|top| top.front);
            newest = newest.max(front.map(|front| (seen.changed_at, seen.number, front)));
        }
        newest.map_or(Ok(Self::Unknown), |(.., front)| Self::below(images, front))
    }

    /// All that hangs from a word.
    fn below(images: &Images<'_>, front: PageId) -> Result<Self> {
        let mut found = BTreeSet::new();
        let mut todo = vec![front];
        while let Some(id) = todo.pop() {
            if !found.insert(id) {
                continue;
            }
            let Some(page) = images.page(id)? else { return Ok(Self::Part) };
            if page.level() > 0 {
                match directory(page.level(), page.words(), page.body()) {
                    Ok(branch) => todo.extend(branch.children),
                    Err(_) => return Ok(Self::Part),
                }
            }
        }
        Ok(Self::Whole(found))
    }

    /// True if a bucket that says so may be of it.
    pub(super) fn may_have(&self, page: PageId) -> bool {
        match self {
            Self::None => false,
            Self::Whole(pages) => pages.contains(&page),
            Self::Part | Self::Unknown => true,
        }
    }

    /// True if nothing says whether buckets that were found are of a front that is there.
    pub(super) fn is_guess(&self, images: &Images<'_>) -> bool {
        matches!(self, Self::Unknown) && images.has_searched()
    }

    /// Adds what may be lost or older than the newest.
    pub(super) fn tell_doubts(
        &self,
        images: &Images<'_>,
        root: Option<PageId>,
        have: Have,
        outcome: &mut Outcome,
    ) {
        let is_sure = match self {
            Self::None | Self::Whole(_) => true,
            // It may have been all of it.
            Self::Unknown if !have.any => !images.has_unreadable_beside(root),
            // Pages that the map names are there, and together they hold all.
            Self::Part | Self::Unknown => have.all && !images.has_searched(),
        };
        if !is_sure {
            outcome.stale.push(KeySpan::ALL);
            if !have.all {
                outcome.lost.push(KeySpan::ALL);
            }
        }
    }
}
