//! One JSON line per workload.

use super::{Bench, Sample};
use crate::metrics;
use crate::store::Result;
use crate::workload::Workload;
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

fn milli(x: f64) -> f64 {
    (x * 1000.0).round() / 1000.0
}

/// Of latencies in nanoseconds, in microseconds.
fn quantiles(latencies: &Histogram<u64>) -> [(&'static str, f64); 5] {
    let us = |quantile| milli(latencies.value_at_quantile(quantile) as f64 / 1000.0);
    [
        ("p50_us", us(0.5)),
        ("p99_us", us(0.99)),
        ("p999_us", us(0.999)),
        ("max_us", milli(latencies.max() as f64 / 1000.0)),
        ("mean_us", milli(latencies.mean() / 1000.0)),
    ]
}

/// Prints a line and appends it to `out`.
pub fn emit(out: Option<&Path>, line: &Value) -> Result<()> {
    println!("{line}");
    if let Some(path) = out {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(path)?;
        writeln!(file, "{line}")?;
    }
    Ok(())
}

impl Bench {
    pub(super) fn emit(&self, line: &Value) {
        if let Err(e) = emit(self.settings.out.as_deref(), line) {
            eprintln!("the line above is not in the file: {e}");
        }
    }

    pub(super) fn report(&self, w: &Workload, sample: Sample) -> Result<()> {
        let (settings, store) = (&self.settings, self.store());
        let rate = |seconds: f64| (sample.ops as f64 / seconds.max(1e-9)).round();
        let idle_s = sample.seconds + sample.flush_s + sample.settle_s;
        let reserve_bytes = store.reserve_bytes();
        let disk_bytes = metrics::disk_bytes(&self.data()).saturating_sub(reserve_bytes);

        let mut line = Map::new();
        let mut put = |name: &str, value: Value| line.insert(name.into(), value);
        put("engine", json!(settings.engine));
        put("workload", json!(w.name));
        put("threads", json!(w.threads));
        put("tag", json!(settings.tag));
        put("rep", json!(settings.rep));
        put("n", json!(settings.n));
        put("value", json!(settings.value_bytes));
        put("keys", json!(settings.keys.name()));
        put("group", json!(if w.grouped() { self.group } else { 1 }));
        put("memory_mb", json!(settings.memory_mb));
        put("loaded", json!(self.state.loaded()));
        put("ops", json!(sample.ops));
        put("rounds", json!(sample.rounds));
        put("seconds", json!((sample.seconds * 1e6).round() / 1e6));
        put("ops_per_s", json!(rate(sample.seconds)));
        if sample.idle {
            put("seconds_idle", json!((idle_s * 1e6).round() / 1e6));
            // Where writes go on beside the operations, only the writes are what idle waits for.
            if sample.writes.is_none() {
                put("ops_per_s_idle", json!(rate(idle_s)));
            }
            put("flush_s", json!(milli(sample.flush_s)));
            put("settle_s", json!(milli(sample.settle_s)));
        }
        if let Some(latencies) = &sample.latencies {
            for (name, us) in quantiles(latencies) {
                put(name, json!(us));
            }
        }
        if let Some(writes) = &sample.writes {
            let rate = |seconds: f64| json!((writes.ops as f64 / seconds.max(1e-9)).round());
            put("writes", json!(writes.ops));
            put("writes_per_s", rate(writes.seconds));
            if sample.idle {
                put("writes_per_s_idle", rate(writes.seconds + sample.flush_s + sample.settle_s));
            }
            for (name, us) in quantiles(&writes.latencies) {
                put(&format!("write_{name}"), json!(us));
            }
        }
        let calls = sample.ops + sample.writes.as_ref().map_or(0, |writes| writes.ops);
        let (worked, settled) = (&sample.worked, &sample.settled);
        put("cpu_s", json!(milli(worked.cpu)));
        put("cpu_s_settled", json!(milli(settled.cpu)));
        // What everyone else on the machine used meanwhile: the noise.
        put("other_cpu_s", json!(milli((worked.host_busy - worked.cpu).max(0.0))));
        put("iowait_s", json!(milli(worked.host_iowait)));
        put("read_calls_per_op", json!(milli(sample.read_calls as f64 / calls.max(1) as f64)));
        put("major_faults", json!(worked.major_faults));
        put("user_write_bytes", json!(sample.user_write_bytes));
        put("user_read_bytes", json!(sample.user_read_bytes));
        put("io_write_bytes", json!(settled.write));
        put("io_cancelled_bytes", json!(settled.cancelled));
        put("io_read_bytes", json!(worked.read));
        put("dev_write_bytes", json!(settled.dev_write));
        put("dev_read_bytes", json!(worked.dev_read));
        if sample.user_write_bytes > 0 {
            let times = |bytes: u64| milli(bytes as f64 / sample.user_write_bytes as f64);
            put("write_amp", json!(times(settled.write)));
            put("write_amp_dev", json!(times(settled.dev_write)));
        }
        put("disk_bytes", json!(disk_bytes));
        put("disk_reserve_bytes", json!(reserve_bytes));
        put("rss_peak", json!(sample.rss_peak));
        put("rss_anon", json!(sample.rss_anon));
        put("mem_limit", json!(metrics::mem_limit()));
        put("limited", json!(sample.limited));
        put("wrong", json!(sample.wrong));
        put("ts", json!(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs()));
        put("notes", json!(store.notes()));
        let figures = store.figures();
        if !figures.is_empty() {
            let figures: Map<_, _> =
                figures.into_iter().map(|(name, figure)| (name.into(), json!(figure))).collect();
            put("figures", Value::Object(figures));
        }
        line.extend(sample.extra);
        let beside = match (line.get("writes_per_s"), line.get("write_p99_us")) {
            (Some(rate), Some(p99)) => format!(" of gets; {rate} writes/s p99={p99}us beside them"),
            _ => String::new(),
        };
        let worst = match (line.get("p999_us"), line.get("max_us"), line.get("second_min_ops")) {
            (Some(p999), Some(max), Some(second)) => {
                format!(" p99.9={p999}us worst={max}us worst_second={second}")
            }
            _ => String::new(),
        };
        eprintln!(
            "{:<14} {:<17} ops={:<9} {:>9.3}s {:>11} op/s{beside} idle+{:.2}s disk={}MB wrong={}{}{worst}",
            settings.engine,
            w.label(),
            sample.ops,
            sample.seconds,
            line["ops_per_s"],
            sample.flush_s + sample.settle_s,
            disk_bytes >> 20,
            sample.wrong,
            if sample.limited { " LIMITED" } else { "" }
        );
        self.emit(&Value::Object(line));
        Ok(())
    }
}
