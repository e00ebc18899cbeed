//! Coverage marks: places that a batch of tests must have met to have tested anything.
//!
//! A random history that never tore a log group, or never moved a page under a snapshot, says nothing about either. So such places
//! are marked, and the suites assert that theirs were met. With the feature `marks`, which the suites switch on
//! (and the command, which can run some of them), a hit costs a relaxed addition; without it nothing.

/// A place, and how often it was met by this process.
#[derive(Debug)]
pub struct Mark {
    name: &'static str,
    #[cfg(feature = "marks")]
    hits: std::sync::atomic::AtomicU64,
}

impl Mark {
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            #[cfg(feature = "marks")]
            hits: std::sync::atomic::AtomicU64::new(0),
        }
    }

    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Notes that it was met.
    #[inline]
    pub fn hit(&self) {
        #[cfg(feature = "marks")]
        self.hits.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    /// How often it was met.
    #[cfg(feature = "marks")]
    pub fn hits(&self) -> u64 {
        self.hits.load(std::sync::atomic::Ordering::Relaxed)
    }
}

macro_rules! marks {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        $($(#[$doc])* pub static $name: Mark = Mark::new(stringify!($name));)*
        /// All of them.
        pub static ALL: &[&Mark] = &[$(&$name,)*];
    };
}

marks! {
    /// The log ended in a group that was not whole.
    LOG_TORN_GROUP,
    /// Something behind a bad group said that it had been durable.
    LOG_WITNESS,
    /// Reading went on in the next file of the log.
    LOG_NEXT_FILE,
    /// A log file was used again.
    LOG_FILE_RECYCLED,
    /// A log file was made smaller than usual, for want of space.
    LOG_FILE_SMALLER,
    /// A recovery found one of the two copies of its superblock torn.
    SUPERBLOCK_TORN,
    /// A recovery removed a segment that no checkpoint names.
    SEGMENT_ORPHANED,
    /// A checkpoint that lists unfinished background work as to be freed.
    WORK_UNATTACHED,
    /// Opened on a full disk, once what the log had left was removed,
    OPEN_WITHOUT_STALE,
    /// once the reserve was given up,
    OPEN_WITHOUT_RESERVE,
    /// or only for reading.
    OPEN_READ_ONLY,
    /// The second image of a map node served.
    MAP_SECOND_IMAGE,
    /// A page newer than the checkpoint under way was written.
    MAP_OVERLAY,
    /// What was staged could not be written, and was dirty again.
    PAGES_ABANDONED,
    /// A get found its row in the row cache,
    ROW_CACHED,
    /// and did not put one there that was written meanwhile;
    ROW_OVERTAKEN,
    /// a write dropped one from it,
    ROW_FORGOTTEN,
    /// and one of its generations was full.
    ROW_GENERATION,
    /// A version was written by a checkpoint,
    VERSION_CHECKPOINTED,
    /// or had been written out before it came to it.
    VERSION_WRITTEN_BEFORE,
    /// Versions were written out to free their frames.
    VERSION_SPILLED,
    /// A version kept a segment from removal.
    VERSION_KEEPS_SEGMENT,
    /// The cleaner moved images while versions were kept.
    CLEANED_UNDER_CUT,
    /// A commit was applied in pieces.
    COMMIT_IN_PIECES,
    /// A commit of several rows left the turn to read what it was missing.
    COMMIT_MISSING,
    /// A commit found the turn's reserve of frames empty.
    COMMIT_RESERVE,
    /// A conflict over a key,
    CONFLICT_KEY,
    /// over a range,
    CONFLICT_RANGE,
    /// or because the ring no longer told.
    CONFLICT_FORGOTTEN,
    /// A B-tree's leaf was cut where ascending inserts go on.
    BTREE_CUT_AT_END,
    /// A row got a leaf for itself, since fences are long.
    BTREE_ROW_APART,
    /// Two leaves of a B-tree became one,
    BTREE_MERGED,
    /// and a root gave its place to its only child.
    BTREE_SHORTENED,
    /// A range delete unlinked subtrees.
    BTREE_UNLINKED,
    /// A bucket was split,
    HASH_SPLIT,
    /// or two were joined,
    HASH_JOINED,
    /// a branch with them.
    HASH_BRANCH_GONE,
    /// A branch that was full was divided.
    HASH_DIVIDED,
    /// A row went into the front, since its bucket was not in memory,
    HASH_WAITED,
    /// or did not, since the front was full.
    HASH_FRONT_FULL,
    /// Rows moved from the front into their buckets,
    HASH_FRONT_EMPTIED,
    /// until the front went,
    HASH_FRONT_GONE,
    /// or were counted after a start.
    HASH_FRONT_COUNTED,
    /// A memtable became a run.
    FRACTAL_FROZEN,
    /// An inner node took runs over by reference.
    FRACTAL_HANDED_DOWN,
    /// New nodes were made behind a lowest one.
    FRACTAL_BEHIND,
    /// Children that did not fit went into nodes beside theirs,
    FRACTAL_BESIDE,
    /// or below it.
    FRACTAL_BELOW,
    /// A gap of tombstones was closed.
    FRACTAL_GAP_CLOSED,
    /// Background work was given up for want of space.
    WORK_GIVEN_UP,
}

#[cfg(all(test, feature = "marks"))]
mod tests {
    use super::*;

    #[test]
    fn hits_are_counted_by_mark() {
        HASH_SPLIT.hit();
        HASH_SPLIT.hit();
        assert_eq!(
            (HASH_SPLIT.name(), HASH_SPLIT.hits(), HASH_JOINED.hits()),
            ("HASH_SPLIT", 2, 0)
        );
        assert!(ALL.iter().any(|mark| mark.name() == "HASH_SPLIT"));
    }
}
