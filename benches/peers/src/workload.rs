//! The names of the workloads, and what is true of each.

use crate::store::Result;

/// Every workload, in the order of the tables.
pub const NAMES: &[&str] = &[
    "fillseq",
    "fillbulk",
    "fillrandom",
    "overwrite",
    "fillsync",
    "readrandom",
    "readhold",
    "readzipf",
    "readmissing",
    "seek10",
    "seekhold10",
    "seek100",
    "scan",
    "ycsb-a",
    "ycsb-b",
    "ycsb-c",
    "ycsb-d",
    "ycsb-e",
    "ycsb-f",
    READ_WHILE_WRITING,
    SNAPSHOT_HOLD,
    "deleterandom",
    "scandeleted",
    "rest",
    "reopen",
    "reopencold",
    "crash",
];

/// One thread writes and is counted apart; the others read.
pub const READ_WHILE_WRITING: &str = "readwhilewriting";

/// A snapshot is held while the store changes.
pub const SNAPSHOT_HOLD: &str = "snapshothold";

/// One row: `name[@threads][:ops]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    pub name: String,
    pub threads: usize,
    /// 0 = the workload's default.
    pub ops: u64,
}

impl Workload {
    /// Parses a comma-separated list.
    pub fn parse_list(list: &str, threads: usize) -> Result<Vec<Workload>> {
        let specs: Result<Vec<_>> =
            list.split(',').filter(|s| !s.is_empty()).map(|s| Self::parse(s, threads)).collect();
        let specs = specs?;
        if specs.is_empty() { Err("no workload given".into()) } else { Ok(specs) }
    }

    fn parse(spec: &str, threads: usize) -> Result<Workload> {
        let (spec, ops) = match spec.split_once(':') {
            Some((spec, ops)) => (spec, ops.replace('_', "").parse()?),
            None => (spec, 0),
        };
        let (name, threads) = match spec.split_once('@') {
            Some((name, threads)) => (name, threads.parse()?),
            None => (spec, threads),
        };
        if !NAMES.contains(&name) {
            return Err(format!("unknown workload {name}").into());
        }
        // One thread writes, so that there must be another to read.
        let threads = if name == READ_WHILE_WRITING { threads.max(2) } else { threads };
        Ok(Workload { name: name.to_string(), threads, ops })
    }

    pub fn label(&self) -> String {
        if self.threads > 1 {
            format!("{} T={}", self.name, self.threads)
        } else {
            self.name.clone()
        }
    }

    /// Starts from an empty directory.
    pub fn fresh(&self) -> bool {
        matches!(self.name.as_str(), "fillseq" | "fillbulk" | "fillrandom" | "crash")
    }

    /// Consumes what it works on, so that a longer run means another round on a fresh directory.
    pub fn repeats(&self) -> bool {
        matches!(self.name.as_str(), "fillseq" | "fillbulk" | "deleterandom")
    }

    /// Changes the store, so that it has a second clock: all written and idle.
    pub fn writes(&self) -> bool {
        matches!(
            self.name.as_str(),
            "fillseq"
                | "fillbulk"
                | "fillrandom"
                | "overwrite"
                | "fillsync"
                | "deleterandom"
                | "ycsb-a"
                | "ycsb-b"
                | "ycsb-d"
                | "ycsb-e"
                | "ycsb-f"
                | READ_WHILE_WRITING
                | SNAPSHOT_HOLD
        )
    }

    /// Reported, but no claim is made from it.
    pub fn only_reported(&self) -> bool {
        matches!(self.name.as_str(), READ_WHILE_WRITING | SNAPSHOT_HOLD)
    }

    /// Writes in groups where the engine (or `--group`) says so.
    pub fn grouped(&self) -> bool {
        matches!(self.name.as_str(), "fillrandom" | "overwrite" | "deleterandom" | "crash")
    }

    /// May run unmeasured first.
    pub fn warms_up(&self) -> bool {
        !self.fresh()
            && !matches!(
                self.name.as_str(),
                "deleterandom" | "scan" | "scandeleted" | "rest" | "reopen" | "reopencold"
            )
    }

    /// Needs an ordered engine.
    pub fn seeks(&self) -> bool {
        matches!(self.name.as_str(), "seek10" | "seekhold10" | "seek100" | "ycsb-e")
    }

    pub fn measure(&self) -> Measure {
        Measure::of(&self.name)
    }
}

/// What a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Operations a second.
    Rate,
    /// Milliseconds until a store answers: less is better.
    Time,
    /// Bytes on disk: less is better.
    Space,
}

impl Measure {
    pub fn of(name: &str) -> Measure {
        match name {
            "reopen" | "reopencold" | "crash" => Measure::Time,
            "rest" => Measure::Space,
            _ => Measure::Rate,
        }
    }

    /// The field of a line that says it.
    pub fn field(self) -> &'static str {
        match self {
            Measure::Rate => "ops_per_s",
            Measure::Time => "seconds",
            Measure::Space => "disk_bytes",
        }
    }

    pub fn more_is_better(self) -> bool {
        self == Measure::Rate
    }
}

/// Where a row goes in a table.
pub fn position(name: &str) -> usize {
    NAMES.iter().position(|x| *x == name).unwrap_or(NAMES.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_parse() {
        let list = Workload::parse_list("fillrandom,readrandom@2:1_000", 1).unwrap();
        assert_eq!(list[0], Workload { name: "fillrandom".into(), threads: 1, ops: 0 });
        assert_eq!(list[1], Workload { name: "readrandom".into(), threads: 2, ops: 1000 });
        let list = Workload::parse_list("readwhilewriting,readwhilewriting@3", 1).unwrap();
        assert_eq!([list[0].threads, list[1].threads], [2, 3]);
        assert!(Workload::parse_list("fillrandom,nonsense", 1).is_err());
        assert!(Workload::parse_list("", 1).is_err());
    }
}
