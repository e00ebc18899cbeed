//! The command line, and what `run` and `pair` have in common on it.

use crate::keys::Keys;
use crate::store::{Error, Result};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;

/// Flags without a value.
const SWITCHES: &[&str] =
    &["--big", "--keep", "--topup", "--preload", "--resume", "--spread", "--control"];

/// Flags and plain words, taken one by one; what nobody took is an error.
pub struct Args {
    flags: BTreeMap<String, String>,
    pub words: Vec<String>,
}

impl Args {
    pub fn parse(list: &[String]) -> Result<Args> {
        let mut args = Args { flags: BTreeMap::new(), words: vec![] };
        let mut list = list.iter();
        while let Some(word) = list.next() {
            if SWITCHES.contains(&word.as_str()) {
                args.flags.insert(word.clone(), String::new());
            } else if word.starts_with("--") {
                let value = list.next().ok_or_else(|| format!("{word} needs a value"))?;
                args.flags.insert(word.clone(), value.clone());
            } else {
                args.words.push(word.clone());
            }
        }
        Ok(args)
    }

    pub fn text(&mut self, flag: &str) -> Option<String> {
        self.flags.remove(flag)
    }

    pub fn required(&mut self, flag: &str) -> Result<String> {
        self.text(flag).ok_or_else(|| format!("{flag} is missing").into())
    }

    /// A number; digits may be grouped by underscores.
    pub fn number<T: FromStr<Err: Into<Error>>>(&mut self, flag: &str, default: T) -> Result<T> {
        match self.text(flag) {
            None => Ok(default),
            Some(text) => text.replace('_', "").parse().map_err(|e: T::Err| {
                let e: Error = e.into();
                format!("{flag} {text}: {e}").into()
            }),
        }
    }

    pub fn switch(&mut self, flag: &str) -> bool {
        self.flags.remove(flag).is_some()
    }

    /// Complains about flags that nobody asked for.
    pub fn finish(&self) -> Result<()> {
        match self.flags.keys().next() {
            Some(flag) => Err(format!("unknown option {flag}").into()),
            None => Ok(()),
        }
    }
}

/// How one engine is run.
#[derive(Clone)]
pub struct Settings {
    pub engine: String,
    /// Where stores are made.
    pub dir: PathBuf,
    /// Records of a full load.
    pub n: u64,
    pub value_bytes: usize,
    pub keys: Keys,
    /// Threads of workloads that do not say.
    pub threads: usize,
    /// Total memory of the engine: cache plus write buffers.
    pub memory_mb: usize,
    /// Operations of workloads that do not say; 0 = half of n, at most a million.
    pub ops: u64,
    /// Seconds after which a workload stops.
    pub limit_s: f64,
    /// The same for loads and deletes.
    pub fill_limit_s: f64,
    /// Seconds that fillsync lasts.
    pub sync_s: f64,
    /// Seconds that a writing workload lasts at least.
    pub min_s: f64,
    /// The same for reads and scans.
    pub read_s: f64,
    /// Seconds that `rest` waits.
    pub rest_s: f64,
    /// Seconds that a workload runs unmeasured first.
    pub warm_s: f64,
    /// Writes per commit in fillrandom, overwrite, deleterandom; 0 = the engine's own.
    pub group: usize,
    /// The data is larger than memory.
    pub big: bool,
    /// Loads everything, sorted, unmeasured, before the first workload.
    pub preload: bool,
    /// Completes a fill that hit its limit.
    pub topup: bool,
    /// A thread that writes to the bare disk runs beside.
    pub control: bool,
    /// Leaves the store and the state for a later process.
    pub keep: bool,
    /// Copied to every line.
    pub tag: String,
    pub rep: u32,
    /// File that gets every line appended.
    pub out: Option<PathBuf>,
    /// Shared file in which fillrandom counts what was acknowledged; for the crash workload.
    pub ack: Option<PathBuf>,
}

impl Settings {
    /// Takes everything but the engine. `min_s` and `read_s` are the defaults of `--min-secs` and
    /// `--read-secs`.
    pub fn take(args: &mut Args, min_s: f64, read_s: f64) -> Result<Settings> {
        Ok(Settings {
            engine: String::new(),
            dir: args.text("--dir").map_or_else(|| std::env::temp_dir().join("peers"), Into::into),
            n: args.number("--n", 2_000_000)?,
            value_bytes: args.number("--value", 100)?,
            keys: args.text("--keys").map_or(Ok(Keys::default()), |name| name.parse())?,
            threads: args.number("--threads", 1)?,
            memory_mb: args.number("--memory-mb", 704)?,
            ops: args.number("--ops", 0)?,
            limit_s: args.number("--limit", 20.0)?,
            fill_limit_s: args.number("--fill-limit", 360.0)?,
            sync_s: args.number("--sync-secs", 4.0)?,
            min_s: args.number("--min-secs", min_s)?,
            read_s: args.number("--read-secs", read_s)?,
            rest_s: args.number("--rest-secs", 60.0)?,
            warm_s: args.number("--warm-secs", 0.0)?,
            group: args.number("--group", 0)?,
            big: args.switch("--big"),
            preload: args.switch("--preload"),
            topup: args.switch("--topup"),
            control: args.switch("--control"),
            keep: args.switch("--keep"),
            tag: args.text("--tag").unwrap_or_default(),
            rep: args.number("--rep", 1)?,
            out: args.text("--out").map(Into::into),
            ack: args.text("--ack").map(Into::into),
        })
    }

    /// The command line of a child process that runs `workloads` with these settings.
    pub fn to_args(&self, workloads: &str) -> Vec<String> {
        let mut args: Vec<String> = vec!["run".into()];
        let mut flag = |name: &str, value: String| args.extend([name.to_string(), value]);
        flag("--engine", self.engine.clone());
        flag("--workload", workloads.into());
        flag("--dir", self.dir.display().to_string());
        flag("--n", self.n.to_string());
        flag("--value", self.value_bytes.to_string());
        flag("--keys", self.keys.name().into());
        flag("--threads", self.threads.to_string());
        flag("--memory-mb", self.memory_mb.to_string());
        flag("--ops", self.ops.to_string());
        flag("--limit", self.limit_s.to_string());
        flag("--fill-limit", self.fill_limit_s.to_string());
        flag("--sync-secs", self.sync_s.to_string());
        flag("--min-secs", self.min_s.to_string());
        flag("--read-secs", self.read_s.to_string());
        flag("--rest-secs", self.rest_s.to_string());
        flag("--warm-secs", self.warm_s.to_string());
        flag("--group", self.group.to_string());
        flag("--tag", self.tag.clone());
        flag("--rep", self.rep.to_string());
        if let Some(path) = &self.out {
            flag("--out", path.display().to_string());
        }
        if let Some(path) = &self.ack {
            flag("--ack", path.display().to_string());
        }
        let switches = [
            ("--big", self.big),
            ("--preload", self.preload),
            ("--topup", self.topup),
            ("--control", self.control),
            ("--keep", self.keep),
        ];
        args.extend(switches.iter().filter(|(_, on)| *on).map(|(name, _)| name.to_string()));
        args
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_gets_the_same_settings() {
        let words = |list: &[&str]| list.iter().map(|s| s.to_string()).collect::<Vec<_>>();
        let given = words(&[
            "--n",
            "20_000",
            "--big",
            "--keys",
            "url",
            "--min-secs",
            "1.5",
            "--out",
            "x_y",
        ]);
        let mut args = Args::parse(&given).unwrap();
        let settings = Settings::take(&mut args, 60.0, 2.0).unwrap();
        args.finish().unwrap();
        assert_eq!((settings.n, settings.big, settings.min_s), (20_000, true, 1.5));
        assert_eq!(settings.keys, Keys::Url);

        let child = settings.to_args("scan");
        let mut args = Args::parse(&child[1..]).unwrap();
        assert_eq!(args.required("--workload").unwrap(), "scan");
        args.text("--engine");
        let again = Settings::take(&mut args, 0.0, 0.0).unwrap();
        args.finish().unwrap();
        assert_eq!(again.to_args("scan"), child);
    }
}
