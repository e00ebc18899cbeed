//! What a pairing prints: the machine, then per peer a table of ratios and one of costs, then every
//! configuration.

use super::{NULL, Pairing, RAWSYNC, is_rawsync_row};
use crate::keys::Keys;
use crate::metrics;
use crate::stores::{self, Acked};
use crate::table::{human, median};
use crate::workload::{Measure, Workload};
use serde_json::Value;

/// Ratios of which fewer exist are marked.
const PAIRS_MIN: usize = 3;
const MB: f64 = 1e6;

pub(super) fn print(pairing: &Pairing) {
    let s = &pairing.settings;
    println!("{}\n", metrics::machine());
    println!("    peers {}\n", quoted_args());
    println!(
        "{} records of {} + {} bytes, {} MiB of memory a side, writes last at least {} s, {} \
         repetitions. A ratio says how many times better {} is than the peer (faster, or smaller on \
         disk), as median [min–max] of the paired repetitions. The first ratio counts until the last \
         call returned, the second until everything is durable and background work idle.\n",
        s.n,
        if s.keys == Keys::Plain { "16" } else { "72 to 106 (URLs)" },
        s.value_bytes,
        s.memory_mb,
        s.min_s,
        pairing.reps,
        pairing.a
    );
    for block in &pairing.blocks {
        for peer in &block.peers {
            println!(
                "### {} and {peer}, {} writes a commit in grouped rows\n",
                pairing.a, block.group
            );
            let pair = Pair { pairing, group: block.group, peer };
            pair.rates();
            pair.writes_beside();
            pair.snapshots();
            pair.stalls();
            if peer != RAWSYNC {
                pair.costs();
            }
        }
    }
    println!("### Configurations\n");
    for block in &pairing.blocks {
        let engines = [NULL, &pairing.a].into_iter().chain(block.peers.iter().map(String::as_str));
        for engine in engines {
            if let Some(notes) = pairing.notes(block.group, engine) {
                println!("- **{engine}**, groups of {}: {notes}", block.group);
            }
        }
    }
    for failure in &pairing.failures {
        println!("\n**FAILED: {failure}**");
    }
}

/// The command line, for copying into a shell.
fn quoted_args() -> String {
    let quote = |arg: String| {
        if arg.contains([';', ' ']) { format!("'{arg}'") } else { arg }
    };
    std::env::args().skip(1).map(quote).collect::<Vec<_>>().join(" ")
}

/// Where a row is found: which list, which workload of it.
#[derive(Clone, Copy)]
struct Row<'a> {
    list: usize,
    at: usize,
    workload: &'a Workload,
}

impl Pairing {
    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.lists.iter().enumerate().flat_map(|(list, l)| {
            l.workloads.iter().enumerate().map(move |(at, workload)| Row { list, at, workload })
        })
    }

    fn line(&self, group: usize, engine: &str, rep: u32, row: Row<'_>) -> Option<&Value> {
        self.lines.get(&self.side(row.list, group, engine, rep))?.get(row.at)
    }

    /// A field of one row, one value per repetition that has it.
    fn values(&self, group: usize, engine: &str, row: Row<'_>, field: &str) -> Vec<f64> {
        let first = u32::from(engine != NULL || self.a == NULL);
        (first..=self.reps)
            .filter_map(|rep| self.line(group, engine, rep, row)?[field].as_f64())
            .collect()
    }

    /// What the engine says of itself, plain and (where there is a durable row) durable.
    fn notes(&self, group: usize, engine: &str) -> Option<String> {
        let mut notes: Vec<&str> = vec![];
        for rep in 0..=self.reps {
            for row in self.rows() {
                let text = self.line(group, engine, rep, row).and_then(|l| l["notes"].as_str());
                if let Some(text) = text.filter(|text| !notes.contains(text)) {
                    notes.push(text);
                }
            }
        }
        let what = stores::find(engine)
            .map_or(String::new(), |engine| format!("{}; {}. ", engine.what, engine.acked.words()));
        (!notes.is_empty()).then(|| what + &notes.join(" — and: "))
    }
}

/// A and one peer.
struct Pair<'a> {
    pairing: &'a Pairing,
    group: usize,
    peer: &'a str,
}

impl Pair<'_> {
    fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.pairing.rows().filter(|row| self.peer != RAWSYNC || is_rawsync_row(row.workload))
    }

    fn rates(&self) {
        let (a, peer) = (&self.pairing.a, self.peer);
        println!(
            "| row | ratio | ratio, all idle | {a} | {peer} | {a}, idle | {peer}, idle | null | \
             p99 µs | others' CPU, cores |"
        );
        println!("|---|---|---|---:|---:|---:|---:|---:|---:|---:|");
        for row in self.rows() {
            let label = row.workload.label();
            let what = if self.has(row, "writes_per_s") { ", gets" } else { "" };
            if let Some(why) = self.why_skipped(row) {
                println!("| {label} | skipped: {why} | | | | | | | | |");
                continue;
            }
            let measure = row.workload.measure();
            let field = measure.field();
            println!(
                "| {label}{what} | {} | {} | {} | {} | {} | {} | {} | {} / {} | {} / {} |",
                self.ratio(row, field, measure),
                self.ratio(row, "ops_per_s_idle", Measure::Rate),
                self.figure(a, row, field, measure),
                self.figure(peer, row, field, measure),
                self.figure(a, row, "ops_per_s_idle", Measure::Rate),
                self.figure(peer, row, "ops_per_s_idle", Measure::Rate),
                self.figure(NULL, row, field, measure),
                self.figure(a, row, "p99_us", Measure::Rate),
                self.figure(peer, row, "p99_us", Measure::Rate),
                self.others(a, row),
                self.others(peer, row),
            );
        }
        println!();
    }

    /// The writes that went on beside the gets of a row.
    fn writes_beside(&self) {
        let rows: Vec<_> = self.rows().filter(|row| self.has(*row, "writes_per_s")).collect();
        if rows.is_empty() {
            return;
        }
        let (a, peer) = (&self.pairing.a, self.peer);
        println!(
            "| writes beside the gets | ratio | ratio, all idle | {a} | {peer} | {a}, idle | \
             {peer}, idle | null | p99 µs |"
        );
        println!("|---|---|---|---:|---:|---:|---:|---:|---:|");
        for row in rows {
            let figure = |engine: &str, field: &str| self.figure(engine, row, field, Measure::Rate);
            println!(
                "| {}, writes | {} | {} | {} | {} | {} | {} | {} | {} / {} |",
                row.workload.label(),
                self.ratio(row, "writes_per_s", Measure::Rate),
                self.ratio(row, "writes_per_s_idle", Measure::Rate),
                figure(a, "writes_per_s"),
                figure(peer, "writes_per_s"),
                figure(a, "writes_per_s_idle"),
                figure(peer, "writes_per_s_idle"),
                figure(NULL, "writes_per_s"),
                figure(a, "write_p99_us"),
                figure(peer, "write_p99_us"),
            );
        }
        println!();
    }

    /// What held snapshots cost in space, and how fast they then were read.
    fn snapshots(&self) {
        let rows: Vec<_> = self.rows().filter(|row| self.has(*row, "held_rows_per_s")).collect();
        if rows.is_empty() {
            return;
        }
        println!(
            "| snapshot | ratio of disk space while held | disk, MiB, while held | afterwards | \
             anonymous memory, MiB, while held | rows a second when it was read |"
        );
        println!("|---|---|---:|---:|---:|---:|");
        for row in rows {
            let both = |field: &str| {
                let one = |engine: &str| self.figure(engine, row, field, Measure::Rate);
                format!("{} / {}", one(&self.pairing.a), one(self.peer))
            };
            println!(
                "| {} | {} | {} | {} | {} | {} |",
                row.workload.label(),
                self.ratio(row, "held_disk_bytes", Measure::Space),
                both("held_disk_bytes"),
                both("disk_bytes"),
                both("held_anon_bytes"),
                both("held_rows_per_s"),
            );
        }
        println!();
    }

    /// How evenly rows were written, each "A / peer": of repetitions, the median and the worst.
    fn stalls(&self) {
        let rows: Vec<_> = self.rows().filter(|row| self.has(*row, "second_min_ops")).collect();
        if rows.is_empty() {
            return;
        }
        println!(
            "| row | p99.9 µs | worst call, ms | worst second, writes | second in a hundred | \
             median second |"
        );
        println!("|---|---:|---:|---:|---:|---:|");
        for row in rows {
            let both = |field: &str, scale: f64, worst: fn(f64, f64) -> f64| {
                let one = |engine: &str| self.median_and_worst(engine, row, field, scale, worst);
                format!("{} / {}", one(&self.pairing.a), one(self.peer))
            };
            println!(
                "| {} | {} | {} | {} | {} | {} |",
                row.workload.label(),
                both("p999_us", 1.0, f64::max),
                both("max_us", 1e-3, f64::max),
                both("second_min_ops", 1.0, f64::min),
                both("second_p1_ops", 1.0, f64::min),
                both("second_p50_ops", 1.0, f64::min),
            );
        }
        println!();
    }

    /// Whether a line of this row has a field.
    fn has(&self, row: Row<'_>, field: &str) -> bool {
        [self.pairing.a.as_str(), self.peer]
            .iter()
            .any(|engine| !self.pairing.values(self.group, engine, row, field).is_empty())
    }

    fn median_and_worst(
        &self,
        engine: &str,
        row: Row<'_>,
        field: &str,
        scale: f64,
        worst: fn(f64, f64) -> f64,
    ) -> String {
        // As operations a second are written, where they are that.
        let unit = if field.starts_with("second") { "ops_per_s" } else { field };
        let values: Vec<f64> = self
            .pairing
            .values(self.group, engine, row, field)
            .into_iter()
            .map(|value| value * scale)
            .collect();
        let (Some(middle), Some(worst)) = (median(&values), values.iter().copied().reduce(worst))
        else {
            return "–".into();
        };
        let middle = human(middle, unit);
        let worst = human(worst, unit);
        if worst == middle { middle } else { format!("{middle} ({worst})") }
    }

    /// Bytes, calls, memory and processor time, each "A / peer".
    fn costs(&self) {
        println!(
            "| row | write amplification: the device | pages dirtied | read calls per op | major faults | \
             CPU µs per op | anonymous memory MB | disk MB | reserve MB beside it |"
        );
        println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|");
        for row in self.rows().filter(|row| self.why_skipped(*row).is_none()) {
            let both = |get: &dyn Fn(&Value) -> Option<f64>| {
                let one = |engine: &str| {
                    let values: Vec<f64> = (1..=self.pairing.reps)
                        .filter_map(|rep| get(self.pairing.line(self.group, engine, rep, row)?))
                        .collect();
                    median(&values).map_or("–".into(), |m| format!("{m:.2}"))
                };
                format!("{} / {}", one(&self.pairing.a), one(self.peer))
            };
            let field = |name: &'static str| move |l: &Value| l[name].as_f64();
            let mb = |name: &'static str| move |l: &Value| Some(l[name].as_f64()? / MB);
            let rated = row.workload.measure() == Measure::Rate;
            println!(
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                row.workload.label(),
                both(&field("write_amp_dev")),
                both(&field("write_amp")),
                both(&field("read_calls_per_op")),
                both(&field("major_faults")),
                both(&|l| {
                    let cpu_s = l["cpu_s_settled"].as_f64().filter(|_| rated)?;
                    let calls = l["ops"].as_f64()? + l["writes"].as_f64().unwrap_or(0.0);
                    Some(cpu_s * 1e6 / calls.max(1.0))
                }),
                both(&mb("rss_anon")),
                both(&mb("disk_bytes")),
                both(&mb("disk_reserve_bytes")),
            );
        }
        println!();
    }

    fn why_skipped(&self, row: Row<'_>) -> Option<String> {
        [self.pairing.a.as_str(), self.peer].iter().find_map(|engine| {
            let why = self.pairing.line(self.group, engine, 1, row)?["skipped"].as_str()?;
            Some(format!("{engine}: {why}"))
        })
    }

    /// The paired ratios, so turned that more is better for A.
    fn ratio(&self, row: Row<'_>, field: &str, measure: Measure) -> String {
        let value = |engine: &str, rep| {
            self.pairing.line(self.group, engine, rep, row)?[field].as_f64().filter(|x| *x > 0.0)
        };
        let ratios: Vec<f64> = (1..=self.pairing.reps)
            .filter_map(|rep| {
                let ratio = value(&self.pairing.a, rep)? / value(self.peer, rep)?;
                Some(if measure.more_is_better() { ratio } else { 1.0 / ratio })
            })
            .collect();
        let Some(middle) = median(&ratios) else { return "–".into() };
        let min = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let max = ratios.iter().copied().fold(0.0, f64::max);
        let mut text = format!("**{middle:.2}** [{min:.2}–{max:.2}]");
        if ratios.len() < PAIRS_MIN {
            text += &format!(" only {} pairs", ratios.len());
        }
        let may_lose =
            row.workload.writes() && row.workload.name != "fillsync" && !self.is_bar(field);
        if row.workload.only_reported() || may_lose {
            text += " no bar";
        }
        text
    }

    /// Whether a claim can be made against this peer's writes by this clock.
    fn is_bar(&self, field: &str) -> bool {
        match stores::find(self.peer).map(|engine| engine.acked) {
            Ok(Acked::Logged) => true,
            Ok(Acked::Written) => field == "ops_per_s",
            _ => false,
        }
    }

    fn figure(&self, engine: &str, row: Row<'_>, field: &str, measure: Measure) -> String {
        let values = self.pairing.values(self.group, engine, row, field);
        let Some(x) = median(&values) else { return "–".into() };
        let limited = self
            .pairing
            .line(self.group, engine, 1, row)
            .is_some_and(|l| l["limited"] == true && field == "ops_per_s");
        let text = match measure {
            Measure::Time => human(x * 1000.0, field) + " ms",
            _ => human(x, field),
        };
        if limited { text + " (stopped)" } else { text }
    }

    /// Cores that others kept busy while the row ran: the worst repetition.
    fn others(&self, engine: &str, row: Row<'_>) -> String {
        if row.workload.measure() == Measure::Time {
            return "–".into();
        }
        let worst = (1..=self.pairing.reps)
            .filter_map(|rep| {
                let line = self.pairing.line(self.group, engine, rep, row)?;
                Some(line["other_cpu_s"].as_f64()? / line["seconds"].as_f64()?.max(0.01))
            })
            .reduce(f64::max);
        worst.map_or("–".into(), |x| format!("{x:.2}"))
    }
}
