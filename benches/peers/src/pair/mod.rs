//! One engine against others, in turns: A B A B A B, each time in a fresh process on a fresh store.
//!
//! The rows come in lists. Every repetition runs a whole list on A, then on each peer, so that the
//! two sides of one ratio are as close in time as the list is short, and what the machine does
//! meanwhile hits both. The null engine runs each list once, as the floor.
//!
//! Both sides commit groups of the same size: the larger of what the two engines do by themselves.
//! A list with grouped writes therefore runs on A once for every group size among the peers.
//!
//! With `--out` every finished repetition is appended, and `--resume` takes what is there instead of
//! measuring it again.

mod report;

use crate::keys::Keys;
use crate::metrics;
use crate::settings::{Args, Settings};
use crate::store::Result;
use crate::stores;
use crate::syncloop;
use crate::workload::Workload;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

/// The name of the bare sync loop among peers.
const RAWSYNC: &str = "rawsync";
const NULL: &str = "null";

/// Workloads that share a store, one after the other.
struct List {
    text: String,
    workloads: Vec<Workload>,
    /// Whether the size of groups makes a difference.
    grouped: bool,
}

/// A and the peers it meets at one group size.
struct Block {
    group: usize,
    peers: Vec<String>,
}

/// One engine going through one list once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Side {
    list: usize,
    group: usize,
    engine: String,
    rep: u32,
}

struct Pairing {
    a: String,
    blocks: Vec<Block>,
    lists: Vec<List>,
    reps: u32,
    null_s: f64,
    settings: Settings,
    /// One line per workload, in order.
    lines: BTreeMap<Side, Vec<Value>>,
    failures: Vec<String>,
}

pub fn main(words: &[String]) -> Result<()> {
    let mut args = Args::parse(words)?;
    let a = args.required("--a")?;
    let peers = args.required("--b")?;
    let lists = args.required("--workload")?;
    let reps = args.number("--reps", 3)?;
    let null_s = args.number("--null-secs", 1.0)?;
    let resume = args.switch("--resume");
    let settings = Settings::take(&mut args, 60.0, 2.0)?;
    args.finish()?;
    let mut pairing = Pairing {
        blocks: blocks(&a, &peers, settings.group)?,
        a,
        lists: parse_lists(&lists, settings.threads)?,
        reps,
        null_s,
        settings,
        lines: BTreeMap::new(),
        failures: vec![],
    };
    if resume {
        pairing.resume()?;
    }
    pairing.run()?;
    report::print(&pairing);
    match pairing.failures.len() {
        0 => Ok(()),
        _ => Err(pairing.failures.join("; ").into()),
    }
}

/// Lists are separated by semicolons.
fn parse_lists(text: &str, threads: usize) -> Result<Vec<List>> {
    text.split(';')
        .map(|list| {
            let workloads = Workload::parse_list(list, threads)?;
            let grouped = workloads.iter().any(Workload::grouped);
            Ok(List { text: list.to_string(), workloads, grouped })
        })
        .collect()
}

/// Sorts the peers by the group size that they share with A.
fn blocks(a: &str, peers: &str, group: usize) -> Result<Vec<Block>> {
    let own = stores::find(a)?.group;
    let mut by_group = BTreeMap::<usize, Vec<String>>::new();
    for peer in peers.split(',').filter(|s| !s.is_empty()) {
        let theirs = if peer == RAWSYNC { 1 } else { stores::find(peer)?.group };
        let shared = if group > 0 { group } else { own.max(theirs) };
        by_group.entry(shared).or_default().push(peer.to_string());
    }
    Ok(by_group.into_iter().map(|(group, peers)| Block { group, peers }).collect())
}

impl Pairing {
    /// The side of that engine; one for all groups where they make no difference.
    fn side(&self, list: usize, group: usize, engine: &str, rep: u32) -> Side {
        let group = if self.lists[list].grouped { group } else { 1 };
        Side { list, group, engine: engine.to_string(), rep }
    }

    /// Every side of every repetition, in the order in which they run.
    fn sides(&self) -> Vec<Side> {
        let mut sides = vec![];
        for list in 0..self.lists.len() {
            let mut side = |group, engine: &str, rep| {
                let side = self.side(list, group, engine, rep);
                if !sides.contains(&side) {
                    sides.push(side);
                }
            };
            for block in &self.blocks {
                side(block.group, NULL, 0);
            }
            for rep in 1..=self.reps {
                for block in &self.blocks {
                    side(block.group, &self.a, rep);
                    block.peers.iter().for_each(|peer| side(block.group, peer, rep));
                }
            }
        }
        sides
    }

    /// Identifies lines of the same comparison in a file.
    fn tag(&self, side: &Side) -> String {
        let s = &self.settings;
        // Said only where they are not as ever, so that files of before go on.
        let keys = match s.keys {
            Keys::Plain => String::new(),
            keys => format!(" keys={}", keys.name()),
        };
        format!(
            "pair {} n={} value={} memory={} ops={} limit={} fill={} sync={} min={} read={} warm={} \
             rest={} group={} T={} big={} preload={}{keys}",
            self.lists[side.list].text,
            s.n,
            s.value_bytes,
            s.memory_mb,
            s.ops,
            s.limit_s,
            s.fill_limit_s,
            s.sync_s,
            s.min_s,
            s.read_s,
            s.warm_s,
            s.rest_s,
            side.group,
            s.threads,
            s.big,
            s.preload
        )
    }

    /// Takes the finished repetitions out of `--out`.
    fn resume(&mut self) -> Result<()> {
        let path = self.settings.out.as_ref().ok_or("--resume needs --out")?;
        let text = if path.exists() { fs::read_to_string(path)? } else { String::new() };
        let saved: Vec<Value> = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
        for side in self.sides() {
            let tag = self.tag(&side);
            let lines: Vec<_> = saved
                .iter()
                .filter(|l| l["tag"] == tag && l["engine"] == side.engine && l["rep"] == side.rep)
                .cloned()
                .collect();
            if lines.len() == self.lists[side.list].workloads.len() {
                eprintln!("== {}: taken from the file", self.title(&side));
                self.lines.insert(side, lines);
            }
        }
        Ok(())
    }

    fn title(&self, side: &Side) -> String {
        format!(
            "{}, list {} of {}, repetition {} of {}, groups of {}",
            side.engine,
            side.list + 1,
            self.lists.len(),
            side.rep,
            self.reps,
            side.group
        )
    }

    fn run(&mut self) -> Result<()> {
        fs::create_dir_all(&self.settings.dir)?;
        for side in self.sides() {
            if self.lines.contains_key(&side) {
                continue;
            }
            eprintln!("== {}", self.title(&side));
            // What the side before left to be written back is not this one's.
            metrics::sync_file_system(&self.settings.dir)?;
            let (lines, failed) = match side.engine.as_str() {
                RAWSYNC => (self.rawsync(&side)?, false),
                _ => self.child(&side)?,
            };
            if failed {
                self.failures.push(self.title(&side));
            } else if let Some(path) = &self.settings.out {
                let mut file = fs::OpenOptions::new().create(true).append(true).open(path)?;
                for line in &lines {
                    writeln!(file, "{line}")?;
                }
            }
            self.lines.insert(side, lines);
        }
        Ok(())
    }

    /// Runs a list on one engine in a process of its own. Returns the lines and whether it failed.
    fn child(&self, side: &Side) -> Result<(Vec<Value>, bool)> {
        let list = &self.lists[side.list];
        let mut settings = Settings {
            engine: side.engine.clone(),
            dir: self.settings.dir.join(format!("pair-{}", side.engine)),
            tag: self.tag(side),
            group: side.group,
            rep: side.rep,
            out: None,
            ack: None,
            keep: false,
            preload: self.settings.preload || !list.workloads[0].fresh(),
            ..self.settings.clone()
        };
        if side.engine == NULL {
            settings.min_s = settings.min_s.min(self.null_s);
            settings.read_s = settings.read_s.min(self.null_s);
            settings.sync_s = settings.sync_s.min(self.null_s);
            settings.warm_s = 0.0;
            settings.rest_s = 0.0;
        }
        let output = Command::new(std::env::current_exe()?)
            .args(settings.to_args(&list.text))
            .stderr(Stdio::inherit())
            .output()?;
        if settings.dir.exists() {
            fs::remove_dir_all(&settings.dir)?;
        }
        let text = String::from_utf8(output.stdout)?;
        let lines: Vec<Value> = text.lines().filter_map(|l| serde_json::from_str(l).ok()).collect();
        let failed = !output.status.success() || lines.len() != list.workloads.len();
        Ok((lines, failed))
    }

    /// The same rows for the bare disk, which has one: durable puts by one thread.
    fn rawsync(&self, side: &Side) -> Result<Vec<Value>> {
        let seconds = self.settings.sync_s.max(self.settings.min_s);
        let line = |w: &Workload| -> Result<Value> {
            let mut line = if is_rawsync_row(w) {
                syncloop::run(&self.settings.dir, seconds)?
            } else {
                json!({
                    "engine": RAWSYNC, "workload": w.name, "threads": w.threads,
                    "skipped": "no such row",
                })
            };
            line["tag"] = json!(self.tag(side));
            line["rep"] = json!(side.rep);
            Ok(line)
        };
        self.lists[side.list].workloads.iter().map(line).collect()
    }
}

fn is_rawsync_row(w: &Workload) -> bool {
    w.name == "fillsync" && w.threads == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(blocks: Vec<Block>, lists: &str) -> Vec<String> {
        let pairing = Pairing {
            a: "mem".into(),
            blocks,
            lists: parse_lists(lists, 1).unwrap(),
            reps: 2,
            null_s: 1.0,
            settings: Settings::take(&mut Args::parse(&[]).unwrap(), 0.0, 0.0).unwrap(),
            lines: BTreeMap::new(),
            failures: vec![],
        };
        let sides = pairing.sides();
        sides.iter().map(|s| format!("{} {} {} {}", s.list, s.rep, s.engine, s.group)).collect()
    }

    #[test]
    fn sides_alternate_list_by_list() {
        let blocks = blocks("mem", "null,rawsync", 0).unwrap();
        let turns = ["0 null", "1 mem", "1 null", "1 rawsync", "2 mem", "2 null", "2 rawsync"];
        let both: Vec<_> =
            (0..2).flat_map(|list| turns.map(|turn| format!("{list} {turn} 1"))).collect();
        assert_eq!(order(blocks, "scan,seek10;fillrandom"), both);
    }

    #[test]
    fn a_runs_once_for_every_group_that_matters() {
        let blocks =
            || [1, 100].map(|group| Block { group, peers: vec![format!("peer{group}")] }).into();
        assert_eq!(
            order(blocks(), "scan"),
            [
                "0 0 null 1",
                "0 1 mem 1",
                "0 1 peer1 1",
                "0 1 peer100 1",
                "0 2 mem 1",
                "0 2 peer1 1",
                "0 2 peer100 1"
            ]
        );
        let grouped = order(blocks(), "overwrite");
        assert_eq!(grouped[2..6], ["0 1 mem 1", "0 1 peer1 1", "0 1 mem 100", "0 1 peer100 100"]);
    }
}
