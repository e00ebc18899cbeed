//! A read snapshot that is held while the store changes.

use super::{Bench, Sample, Span};
use crate::metrics;
use crate::store::Result;
use serde_json::{Map, Value, json};
use std::sync::mpsc::{Receiver, Sender, channel};

/// Seconds in which no snapshot fails to be read: all of it must be seen to be judged.
const READ_LIMIT_S: f64 = 1e6;

impl Bench {
    /// Updates at full speed, as long as the span says, while another thread holds a snapshot. Then
    /// that is read whole: every row must be as it was when the snapshot was taken. The first clock
    /// counts the updates alone; the second begins when the snapshot is dropped.
    pub(super) fn snapshot_hold(&self, span: Span) -> Result<Sample> {
        let expected = self.state.expected_scan();
        let (taken, is_taken) = channel();
        let (release, released) = channel();
        std::thread::scope(|scope| {
            let holder = scope.spawn(move || self.hold_snapshot(expected, taken, released));
            // Without a snapshot the holder's error is what is wrong.
            let updates = match is_taken.recv() {
                Ok(()) => Some(self.updates(span, 13)?),
                Err(_) => None,
            };
            let at_end = self.at_end_of_hold();
            drop(release);
            let read = holder.join().unwrap_or_else(|_| Err("the holder panicked".into()))?;
            let mut sample = updates.ok_or("a snapshot was taken, but not seen")?;
            sample.wrong += read.wrong;
            sample.user_read_bytes += read.user_read_bytes;
            sample.extra.extend(at_end);
            sample.extra.insert("held_rows".into(), json!(read.ops));
            sample.extra.insert("held_read_s".into(), json!(read.seconds));
            let rate = (read.ops as f64 / read.seconds.max(1e-9)).round();
            sample.extra.insert("held_rows_per_s".into(), json!(rate));
            Ok(sample)
        })
    }

    /// Takes a snapshot, says so, keeps it until the other end of `released` is dropped, reads it.
    fn hold_snapshot(
        &self,
        expected: (u64, u64),
        taken: Sender<()>,
        released: Receiver<()>,
    ) -> Result<Sample> {
        let mut snapshot = self.store().snapshot()?.ok_or("no snapshots")?;
        taken.send(())?;
        released.recv().ok();
        self.checked_scan(expected, READ_LIMIT_S, |f| snapshot.scan(f))
    }

    /// What the store takes just before the snapshot is read, and what it says of itself.
    fn at_end_of_hold(&self) -> Map<String, Value> {
        let store = self.store();
        let disk_bytes = metrics::disk_bytes(&self.data()).saturating_sub(store.reserve_bytes());
        let figures: Map<_, _> =
            store.figures().into_iter().map(|(name, x)| (name.to_string(), json!(x))).collect();
        let mut fields = Map::new();
        fields.insert("held_disk_bytes".into(), json!(disk_bytes));
        fields.insert("held_anon_bytes".into(), json!(metrics::rss().1));
        if !figures.is_empty() {
            fields.insert("held_figures".into(), Value::Object(figures));
        }
        fields
    }
}
