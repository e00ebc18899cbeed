//! torture: tries, for a bounded time, to make databases lose data on the user's own machine.
//!
//! | module | |
//! |---|---|
//! | `history` | what is written, and the state that must be found |
//! | `life` | a process that writes real files, killed |
//! | `rot` | copies of these files, spoiled, read and repaired |
//! | `sim` | power cuts and I/O errors on the simulated disk, by the suite that all kinds of index pass |

mod history;
mod life;
mod rot;
mod sim;

use crate::args::Torture;
use crate::failure::{Ending, Failure, say};
use crate::input::Interrupt;
use crate::output::{self, Output};
use crate::progress::human;
use esker_conformance::Rng;
use history::Model;
use indicatif::{HumanCount, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::fmt;
use std::fs;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// One copy is spoiled after so many kills.
const KILLS_A_ROT: u64 = 2;

/// Why it ended early.
enum Stop {
    /// A promise does not hold.
    Broken(String),
    /// It could not go on.
    Trouble(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Trouble(failure)
    }
}

fn broken(what: impl fmt::Display) -> Stop {
    Stop::Broken(what.to_string())
}

#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    kills: life::Kills,
    rots: rot::Rots,
    sim: sim::Simulated,
}

struct Torturer<'a> {
    args: &'a Torture,
    seed: u64,
    rng: Rng,
    model: Model,
    interrupt: Interrupt,
    /// Also measures the time.
    bar: ProgressBar,
    tally: Tally,
}

pub(crate) fn torture(args: &Torture, json: bool) -> Result<Ending, Failure> {
    if let Some(first) = args.worker {
        history::work(&args.newdir.join("db"), args.seed.unwrap_or_default(), first, args.canary)?;
        return Ok(Ending::Fine);
    }
    let trouble = |source| Failure::file(args.newdir.display().to_string(), source);
    let is_ours = !args.newdir.exists();
    fs::create_dir_all(&args.newdir).map_err(trouble)?;
    if let Some(entry) = fs::read_dir(&args.newdir).map_err(trouble)?.next() {
        let name = entry.map_err(trouble)?.file_name();
        let what =
            format!("{} holds {}; name a new directory", args.newdir.display(), name.display());
        return Err(Failure::Usage(what));
    }
    // 32 bits, so that it can be typed.
    let seed = args.seed.unwrap_or_else(|| RandomState::new().build_hasher().finish() >> 32);
    let interrupt = Interrupt::listen().map_err(trouble)?;
    let bar = ProgressBar::hidden();
    let (rng, model) = (Rng::new(seed), Model::new(seed));
    let mut torturer = Torturer { args, seed, rng, model, interrupt, bar, tally: Tally::default() };
    torturer.show();
    let ended = torturer.run();
    torturer.bar.finish_and_clear();
    let broken = match ended {
        Ok(()) => None,
        Err(Stop::Broken(what)) => Some(what),
        Err(Stop::Trouble(failure)) => return Err(failure),
    };
    torturer.report(json, broken.as_deref())?;
    if broken.is_some() {
        return Ok(Ending::Negative);
    }
    fs::remove_dir_all(torturer.db_dir()).map_err(trouble)?;
    if is_ours {
        fs::remove_dir(&args.newdir).map_err(trouble)?;
    }
    Ok(if torturer.interrupt.is_set() { Ending::Interrupted } else { Ending::Fine })
}

impl Torturer<'_> {
    fn db_dir(&self) -> PathBuf {
        self.args.newdir.join("db")
    }

    fn show(&self) {
        let style = ProgressStyle::with_template("{bar:30} {percent:>3}%  {msg}");
        self.bar.set_style(style.expect("a constant that the tests run"));
        self.bar.set_length(self.args.seconds.max(1));
        if !self.args.quiet {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }

    /// Half the time real files, half the time the simulated disk, in turn.
    fn run(&mut self) -> Result<(), Stop> {
        let limit = Duration::from_secs(self.args.seconds);
        // Other seeds than the tests'.
        let next = AtomicU64::new(self.seed << 20);
        loop {
            let began = self.bar.elapsed();
            for _ in 0..KILLS_A_ROT {
                self.life()?;
            }
            self.rot()?;
            let real = self.bar.elapsed().saturating_sub(began);
            let until = (began + real * 2).min(limit);
            let is_over = || self.bar.elapsed() >= until || self.interrupt.is_set();
            let counts = sim::run(&next, is_over).map_err(Stop::Broken)?;
            self.tally.sim.add(counts);
            let Tally { kills, rots, sim } = self.tally;
            self.bar.set_position(self.bar.elapsed().min(limit).as_secs());
            self.bar.set_message(format!(
                "{} kills, {} spoiled copies, {} power cuts, {} I/O errors",
                kills.times,
                rots.copies,
                HumanCount(sim.cuts),
                HumanCount(sim.faults_met),
            ));
            if self.bar.elapsed() >= limit || self.interrupt.is_set() {
                return Ok(());
            }
        }
    }

    fn report(&self, json: bool, broken: Option<&str>) -> Result<(), Failure> {
        let Tally { kills, rots, sim } = self.tally;
        if let Some(what) = broken {
            say(&format_args!("broken: {what}"));
        }
        let elapsed = self.bar.elapsed();
        if json {
            return output::json(&json!({
                "held": broken.is_none(),
                "broken": broken,
                "seed": self.seed,
                "seconds": elapsed.as_secs_f64(),
                "kills": kills.times,
                "kills_in_recovery": kills.in_recovery,
                "commits": kills.commits,
                "spoiled_copies": rots.copies,
                "spoiled_refused": rots.refused,
                "spoiled_reported": rots.reported,
                "spoiled_harmless": rots.harmless,
                "repaired_whole": rots.restored,
                "repaired_partly": rots.restored_partly,
                "beyond_repair": rots.beyond_repair,
                "power_cuts": sim.cuts,
                "power_cuts_in_recovery": sim.cuts_in_recovery,
                "lives": sim.lives,
                "faults": sim.faults,
                "faults_met": sim.faults_met,
            }));
        }
        let count = HumanCount;
        let mut lines = vec![
            format!(
                "real files, process killed: {} times, {} of them while it opened; {} commits",
                count(kills.times),
                count(kills.in_recovery),
                count(kills.commits)
            ),
            format!(
                "real files, copies spoiled: {}; {} refused, {} reported by a read or verify, {} harmless",
                count(rots.copies),
                count(rots.refused),
                count(rots.reported),
                count(rots.harmless)
            ),
            format!(
                "  repaired: {} whole, {} with a list of what is lost, {} beyond repair",
                count(rots.restored),
                count(rots.restored_partly),
                count(rots.beyond_repair)
            ),
            format!(
                "simulated disk, power cut: {} times, {} of them during a recovery; {} lives in a row",
                count(sim.cuts),
                count(sim.cuts_in_recovery),
                count(sim.lives)
            ),
            format!(
                "simulated disk, operations failed: {} runs, {} of them with calls that said so",
                count(sim.faults),
                count(sim.faults_met)
            ),
        ];
        let time = human(elapsed);
        let seed = self.seed;
        lines.push(if broken.is_some() {
            format!("broken after {time}; seed {seed}; {} is kept", self.args.newdir.display())
        } else {
            format!("held for {time}: nothing acknowledged was lost, half there, or invented; seed {seed}")
        });
        let mut output = Output::new();
        for line in lines {
            output.line(line.as_bytes())?;
        }
        output.finish()
    }
}
