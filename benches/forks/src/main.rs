//! Measures the forks in Esker's design: which way is faster, before anything is built on it.
//!
//! Each fork is one module that states its question and its method, and prints a Markdown table of
//! medians, extremes, and ratios paired within a round. `RESULTS.md` keeps the answers.
//!
//! The trees are models, not the engine: keys of one size, no log, no eviction. What they share with it
//! is what the forks are about: frames, latches, epochs, and the shape of pages.

mod fork_arena;
mod fork_branches;
mod fork_pages;
mod fork_put;
mod frames;
mod machine;
mod page;
mod readers;
mod report;
mod rows;
mod tree;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

const USAGE: &str = "\
esker-forks put|branches|pages|arena|all [OPTIONS]
  --seconds S   measured time per side and round (3)
  --rounds N    rounds; each has every side in it (7)
  --rows N      rows in the trees (2000000)
  --dir DIR     where `put` keeps its files, 256 MiB (the system's temporary directory)";

/// What the command line says.
#[derive(Debug)]
struct Options {
    time: Duration,
    rounds: usize,
    rows: u64,
    dir: PathBuf,
}

fn parse(args: &[String]) -> Option<(&str, Options)> {
    let (command, rest) = args.split_first()?;
    let (time, dir) = (Duration::from_secs(3), std::env::temp_dir());
    let mut options = Options { time, rounds: 7, rows: 2_000_000, dir };
    for pair in rest.chunks(2) {
        let [name, text] = pair else { return None };
        match name.as_str() {
            "--seconds" => options.time = Duration::try_from_secs_f64(text.parse().ok()?).ok()?,
            "--rounds" => options.rounds = text.parse().ok()?,
            "--rows" => options.rows = text.parse().ok()?,
            "--dir" => options.dir = text.into(),
            _ => return None,
        }
    }
    Some((command, options))
}

fn main() -> ExitCode {
    let forks = [
        ("put", fork_put::run as fn(&Options) -> std::io::Result<()>),
        ("branches", fork_branches::run),
        ("pages", fork_pages::run),
        ("arena", fork_arena::run),
    ];
    let args: Vec<String> = std::env::args().skip(1).collect();
    let known = |command: &str| command == "all" || forks.iter().any(|(name, _)| *name == command);
    let Some((command, options)) = parse(&args).filter(|(command, _)| known(command)) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    println!("{}", machine::facts(&options.dir));
    for (name, run) in forks.iter().filter(|(name, _)| command == "all" || command == *name) {
        if let Err(error) = run(&options) {
            eprintln!("{name}: {error}");
            return ExitCode::from(3);
        }
    }
    ExitCode::SUCCESS
}
