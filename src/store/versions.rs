//! Old versions of pages, kept for the cuts that still see them.
//!
//! A version is what a page was from commit `changed_at` up to, not including, commit `until`. It lies in a
//! frame, in an image on disk, or both. A cut at `s` sees the version with
//! `changed_at <= s < until`, or the page itself if that has not changed since `s`.

use super::frame::FrameId;
use super::image::Address;
use esker_base::sync::{AtomicUsize, Mutex, Ordering};
use esker_base::{CommitNo, PageId, TableId};
use std::collections::BTreeMap;

const SHARDS: usize = 64;

/// One old version.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Version {
    pub(crate) changed_at: CommitNo,
    pub(crate) table: TableId,
    pub(crate) until: CommitNo,
    pub(crate) frame: Option<FrameId>,
    /// `NONE` if it has no image yet.
    pub(crate) address: Address,
}

impl Version {
    pub(crate) fn is_seen_by(&self, cut: CommitNo) -> bool {
        self.changed_at <= cut && cut < self.until
    }
}

/// By page, and by the commit that they began at.
type Shard = BTreeMap<(PageId, CommitNo), Version>;

/// All old versions, by page.
#[derive(Debug)]
pub(crate) struct Versions {
    /// Ordered maps, so that walking them does not depend on a hasher.
    shards: Vec<Mutex<Shard>>,
    count: AtomicUsize,
    in_frames: AtomicUsize,
}

impl Versions {
    pub(crate) fn new() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(BTreeMap::new())).collect(),
            count: AtomicUsize::new(0),
            in_frames: AtomicUsize::new(0),
        }
    }

    fn shard(&self, page: PageId) -> &Mutex<Shard> {
        #[expect(clippy::cast_possible_truncation, reason = "taken modulo the shards")]
        &self.shards[page.0 as usize % SHARDS]
    }

    /// Versions kept.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
    /// Versions that occupy a frame.
    pub(crate) fn in_frames(&self) -> usize {
        self.in_frames.load(Ordering::Relaxed)
    }

    /// Keeps a version. In the turn, before the page changes.
    pub(crate) fn keep(&self, page: PageId, version: Version) {
        if version.frame.is_some() {
            self.in_frames.fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let old = self.shard(page).lock().insert((page, version.changed_at), version);
        debug_assert!(old.is_none(), "a page changes once in a commit that a cut does not see");
    }

    /// The version that a cut sees, if an old one is what it sees.
    pub(crate) fn find(&self, page: PageId, cut: CommitNo) -> Option<Version> {
        if self.count() == 0 {
            return None;
        }
        let shard = self.shard(page).lock();
        let until_cut = (page, CommitNo(0))..=(page, cut);
        let (_, version) = shard.range(until_cut).next_back()?;
        version.is_seen_by(cut).then_some(*version)
    }

    /// Changes the version of `page` that began at `changed_at`, if it is still kept.
    pub(crate) fn update<R>(
        &self,
        page: PageId,
        changed_at: CommitNo,
        change: impl FnOnce(&mut Version) -> R,
    ) -> Option<R> {
        let mut shard = self.shard(page).lock();
        let version = shard.get_mut(&(page, changed_at))?;
        let before = version.frame.is_some();
        let result = change(version);
        match (before, version.frame.is_some()) {
            (false, true) => self.in_frames.fetch_add(1, Ordering::Relaxed),
            (true, false) => self.in_frames.fetch_sub(1, Ordering::Relaxed),
            _ => 0,
        };
        Some(result)
    }

    /// Every version that `pick` wants, in page order.
    pub(crate) fn collect(
        &self,
        mut pick: impl FnMut(PageId, &Version) -> bool,
    ) -> Vec<(PageId, Version)> {
        let mut found = Vec::new();
        if self.count() == 0 {
            return found;
        }
        for shard in &self.shards {
            let shard = shard.lock();
            let wanted = shard.iter().filter(|((page, _), version)| pick(*page, version));
            found.extend(wanted.map(|((page, _), version)| (*page, *version)));
        }
        found.sort_unstable_by_key(|(page, version)| (*page, version.changed_at));
        found
    }

    /// Drops the versions that no cut sees. `cuts` are those live at a moment in the turn when
    /// `published` was the newest commit; versions that ended later are left for the next time, since a cut
    /// taken after that moment may see them. Returns the frames set free.
    pub(crate) fn drop_unseen(&self, cuts: &[CommitNo], published: CommitNo) -> Vec<FrameId> {
        let mut frames = Vec::new();
        if self.count() == 0 {
            return frames;
        }
        for shard in &self.shards {
            shard.lock().retain(|_, version| {
                let keep =
                    version.until > published || cuts.iter().any(|cut| version.is_seen_by(*cut));
                if !keep {
                    self.count.fetch_sub(1, Ordering::Relaxed);
                    if let Some(frame) = version.frame {
                        self.in_frames.fetch_sub(1, Ordering::Relaxed);
                        frames.push(frame);
                    }
                }
                keep
            });
        }
        frames
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(from: u64, until: u64, frame: Option<FrameId>) -> Version {
        Version {
            changed_at: CommitNo(from),
            table: TableId(1),
            until: CommitNo(until),
            frame,
            address: Address::NONE,
        }
    }

    #[test]
    fn a_cut_sees_the_version_of_its_time() {
        let versions = Versions::new();
        let page = PageId(3);
        versions.keep(page, version(2, 5, Some(1)));
        versions.keep(page, version(5, 9, None));
        assert!(versions.find(page, CommitNo(1)).is_none());
        assert_eq!(versions.find(page, CommitNo(4)).unwrap().until, CommitNo(5));
        assert_eq!(versions.find(page, CommitNo(5)).unwrap().until, CommitNo(9));
        assert!(versions.find(page, CommitNo(9)).is_none());
        assert_eq!((versions.count(), versions.in_frames()), (2, 1));
    }

    #[test]
    fn only_what_no_cut_can_see_is_dropped() {
        let versions = Versions::new();
        versions.keep(PageId(1), version(2, 5, Some(7)));
        versions.keep(PageId(2), version(2, 8, Some(8)));
        assert_eq!(versions.drop_unseen(&[CommitNo(6)], CommitNo(7)), [7]);
        assert_eq!(versions.count(), 1, "page 2 ended after the moment of the list");
        assert_eq!(versions.drop_unseen(&[], CommitNo(8)), [8]);
        assert_eq!((versions.count(), versions.in_frames()), (0, 0));
    }
}
