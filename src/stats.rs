//! Figures about a database, in one struct of plain numbers: `Debug`, [`Stats::fields`], and with the
//! feature `serde`, `Serialize`.

use crate::engine::Engine;
use esker_base::sync::{AtomicU64, Ordering};

/// Space and rows of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct TableStats {
    /// Its name.
    pub name: String,
    /// Its kind of index.
    pub kind: &'static str,
    /// Rows, about.
    pub rows: u64,
    /// Bytes of its pages on disk, as they were last written.
    pub bytes: u64,
    /// Bytes of rows, about, that background work is behind.
    pub debt_bytes: u64,
    /// Where writers wait for it; `u64::MAX` if the kind of index has none.
    pub debt_bytes_limit: u64,
}

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Figures since the database was opened; sizes are as of now.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize))]
        #[non_exhaustive]
        pub struct Stats {
            $($(#[$doc])* pub $name: u64,)*
            /// By table.
            pub tables: Vec<TableStats>,
        }

        impl Stats {
            /// Name and value of every figure but those by table, for reports and serialisers.
            pub fn fields(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

stats! {
    /// Point reads.
    gets,
    /// Rows written by single operations.
    puts,
    /// Rows deleted by single operations.
    deletes,
    /// Commits, single operations included.
    commits,
    /// Transactions that ended in a conflict.
    conflicts,
    /// Times that a commit of several rows began again, as a page that it changes was not in memory.
    commit_retries,
    /// The number of the newest commit.
    last_commit,
    /// Frames for pages.
    cache_pages,
    /// Frames that are free.
    cache_pages_free,
    /// Frames whose memory was given back to the system, as its cache makes more of it; they are taken again when they are
    /// needed. Not counted as free.
    cache_pages_given_back,
    /// Bytes that rows take which gets have had to read pages for, in memory that frames have given back.
    row_cache_bytes,
    /// Gets that found their row there.
    row_cache_hits,
    /// Pages read from segments.
    page_reads,
    /// Bytes of them.
    page_read_bytes,
    /// Page images written to segments, the cleaner's included.
    pages_written,
    /// Bytes of them.
    image_bytes_written,
    /// Pages evicted.
    evictions,
    /// Old page versions kept for cuts, since open.
    versions_kept,
    /// Old page versions held now.
    versions,
    /// Bytes of groups appended to the log.
    log_bytes,
    /// Groups appended to the log.
    log_groups,
    /// Syncs of the log.
    log_syncs,
    /// Groups made durable by them.
    log_synced_groups,
    /// Time spent in syncs of the log, in nanoseconds.
    log_sync_ns,
    /// The longest of them.
    log_sync_ns_max,
    /// Bytes of log that a crash now would replay.
    log_replay_bytes,
    /// Checkpoints written.
    checkpoints,
    /// Time spent on them, in nanoseconds.
    checkpoint_ns,
    /// Segments cleaned.
    cleaned_segments,
    /// Bytes moved by the cleaner.
    cleaned_bytes,
    /// Segments removed.
    segments_removed,
    /// Segment files now.
    segments,
    /// Bytes in them.
    segment_bytes,
    /// Bytes in them that are alive.
    live_bytes,
    /// Bytes of the log's files.
    log_file_bytes,
    /// Bytes set aside for a full disk.
    reserve_bytes,
    /// Times that an operation found no free frame.
    stalls_frames,
    /// The longest that one took to have one, in nanoseconds.
    stalls_frames_ns_max,
    /// Times that a commit found no room in the log.
    stalls_log,
    /// The longest that making room took, in nanoseconds.
    stalls_log_ns_max,
    /// Times that a writer waited for a checkpoint, as the log had grown by twice
    /// [`Options::log_distance_bytes`](crate::Options::log_distance_bytes).
    stalls_checkpoint,
    /// The longest of those waits, in nanoseconds.
    stalls_checkpoint_ns_max,
    /// Times that a commit found the turn's reserve of frames empty.
    stalls_reserve,
    /// The longest that filling it took, in nanoseconds: waits for frames are part of it.
    stalls_reserve_ns_max,
    /// Steps of the indexes' background work.
    work_steps,
    /// Outcomes of background work that became part of their tables.
    work_attached,
    /// Most pages that one turn has read, changed and made, where it was of one row, one range or one outcome of background
    /// work.
    turn_pages_max,
    /// Times that a writer waited for background work.
    debt_stalls,
    /// The longest that one waited, in nanoseconds.
    debt_stalls_ns_max,
}

impl Stats {
    pub(crate) fn of(engine: &Engine) -> Self {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (store, own, wal) = (&engine.store.counters, &engine.counters, engine.wal.stats());
        let (segments, segment_bytes, live_bytes, table_bytes) = {
            let state = engine.store.state.lock();
            let (bytes, live) = state.segments.totals();
            (state.segments.table.len() as u64, bytes, live, state.table_bytes.clone())
        };
        let tables = engine.catalog.read();
        let tables = tables.by_name.values().map(|table| {
            let (debt_bytes, debt_bytes_limit) = table.index.debt();
            TableStats {
                name: table.name.clone(),
                kind: table.kind.name(),
                rows: get(&table.rows),
                bytes: table_bytes.of(table.id),
                debt_bytes,
                debt_bytes_limit,
            }
        });
        Self {
            gets: own.gets.sum(),
            puts: get(&own.puts),
            deletes: get(&own.deletes),
            commits: get(&own.commits) + get(&own.puts) + get(&own.deletes),
            conflicts: get(&own.conflicts),
            commit_retries: get(&own.commit_retries),
            last_commit: engine.store.published().0,
            cache_pages: u64::from(engine.store.frames.count()),
            cache_pages_free: engine.store.frames.available() as u64,
            cache_pages_given_back: engine.store.frames.given_back() as u64,
            row_cache_bytes: engine.row_cache.bytes() as u64,
            row_cache_hits: engine.row_cache.hits(),
            page_reads: get(&store.page_reads),
            page_read_bytes: get(&store.page_read_bytes),
            pages_written: get(&store.pages_written),
            image_bytes_written: get(&store.image_bytes_written),
            evictions: get(&store.evictions),
            versions_kept: get(&store.versions_kept),
            versions: engine.store.versions.count() as u64,
            log_bytes: wal.bytes,
            log_groups: wal.groups,
            log_syncs: wal.syncs,
            log_synced_groups: wal.synced_groups,
            log_sync_ns: wal.sync_ns,
            log_sync_ns_max: wal.sync_ns_max,
            log_replay_bytes: engine.wal.position().0.saturating_sub(get(&engine.checkpoint_lsn)),
            checkpoints: get(&store.checkpoints),
            checkpoint_ns: get(&store.checkpoint_ns),
            cleaned_segments: get(&store.cleaned_segments),
            cleaned_bytes: get(&store.cleaned_bytes),
            segments_removed: get(&store.segments_removed),
            segments,
            segment_bytes,
            live_bytes,
            log_file_bytes: wal.disk_bytes,
            reserve_bytes: engine.store.disk_reserve.bytes(),
            stalls_frames: get(&store.frame_stalls.count),
            stalls_frames_ns_max: get(&store.frame_stalls.ns_max),
            stalls_log: get(&own.log_stalls.count),
            stalls_log_ns_max: get(&own.log_stalls.ns_max),
            stalls_checkpoint: get(&own.checkpoint_stalls.count),
            stalls_checkpoint_ns_max: get(&own.checkpoint_stalls.ns_max),
            stalls_reserve: get(&own.reserve_refills.count),
            stalls_reserve_ns_max: get(&own.reserve_refills.ns_max),
            work_steps: get(&own.work_steps),
            work_attached: get(&own.work_attached),
            turn_pages_max: get(&store.turn_pages_max),
            debt_stalls: get(&own.debt_stalls.count),
            debt_stalls_ns_max: get(&own.debt_stalls.ns_max),
            tables: tables.collect(),
        }
    }
}
