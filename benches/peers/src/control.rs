//! What the bare disk does beside an engine at work: a thread that writes 4 KiB in place and has it synced, at a
//! steady, gentle pace, so that stalls of the device are told apart from stalls of the engine.

use crate::store::Result;
use crate::syncloop::{Block, WRITE_BYTES};
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// From the end of one write to the begin of the next.
const PAUSE: Duration = Duration::from_millis(10);

/// A control thread at work.
pub struct Control {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<std::io::Result<Histogram<u64>>>,
}

impl Control {
    /// Makes a file in `dir` and begins to write to it.
    pub fn start(dir: &Path) -> Result<Self> {
        let block = Block::create(&dir.join("control"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let mut latencies = Histogram::<u64>::new_with_bounds(1, 600_000_000_000, 3)?;
        let thread = std::thread::spawn(move || {
            for n in 0.. {
                if stopped.load(Relaxed) {
                    break;
                }
                let start = Instant::now();
                block.write_and_sync(n)?;
                latencies.saturating_record(start.elapsed().as_nanos() as u64);
                std::thread::sleep(PAUSE);
            }
            Ok(latencies)
        });
        Ok(Self { stop, thread })
    }

    /// Ends it. Returns what a line says of it.
    pub fn stop(self) -> Result<Map<String, Value>> {
        self.stop.store(true, Relaxed);
        let latencies = self.thread.join().map_err(|_| "the control thread panicked")??;
        let us = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
        let figures = [
            ("control_writes", json!(latencies.len())),
            ("control_bytes", json!(latencies.len() * WRITE_BYTES as u64)),
            ("control_p50_us", json!(us(0.5))),
            ("control_p999_us", json!(us(0.999))),
            ("control_max_us", json!(latencies.max() as f64 / 1000.0)),
        ];
        Ok(figures.map(|(name, value)| (name.to_string(), value)).into_iter().collect())
    }
}
