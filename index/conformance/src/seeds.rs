//! Runs seeds on all cores, says which one failed, and cuts its script down.

use crate::script::{Op, Script};
use esker_io::answers::Answers;
use std::cell::RefCell;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, Once, OnceLock};
use std::time::Instant;

/// Failures that are enough to tell how rare they are.
const FAILURES_MAX: u64 = 20;

/// What the disk of a seed says of the system's cache: of two of three nothing; of the third that the cache has pages, or had no
/// room for them, by turns, so that frames are given back and taken again.
pub fn answers(seed: u64) -> Answers {
    match seed % 3 {
        0 => Answers::Turns { questions: [8, 16, 64, 256][(seed / 3 % 4) as usize], seed },
        _ => Answers::Unknown,
    }
}

/// Runs `run` for each seed below `count`, or as the environment says. Panics with the first seed
/// that fails.
pub fn each(count: u64, run: impl Fn(u64) + Sync) {
    each_reported(count, run, |_| {});
}

/// As [`each`]; after a failure, `report` is called with the seed.
///
/// `ESKER_TALLY=FILE`: seeds are run until 20 have failed, nothing is reported, and a line is added to
/// the file: how many seeds have ended, how many of them failed, how many had ended when the first failed, and how
/// many milliseconds had passed then.
#[expect(clippy::disallowed_methods, reason = "how long a failure took, of real time")]
pub fn each_reported(count: u64, run: impl Fn(u64) + Sync, report: impl Fn(u64)) {
    if let Some(seed) = from_env("ESKER_SEED") {
        run(seed);
        return;
    }
    let count = from_env("ESKER_SEEDS").unwrap_or(count);
    let tally = std::env::var_os("ESKER_TALLY");
    let began = Instant::now();
    let (ended, failures) = (AtomicU64::new(0), AtomicU64::new(0));
    let first = OnceLock::new();
    let failed = Mutex::new(None);
    let stop = AtomicBool::new(false);
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, std::num::NonZero::get) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count {
                        return;
                    }
                    let result = quietly(|| run(seed));
                    let ended = ended.fetch_add(1, Ordering::Relaxed) + 1;
                    if let Err(message) = result {
                        first.get_or_init(|| (ended, began.elapsed().as_millis()));
                        let failures = failures.fetch_add(1, Ordering::Relaxed) + 1;
                        let enough = tally.is_none() || failures >= FAILURES_MAX;
                        stop.fetch_or(enough, Ordering::Relaxed);
                        let mut failed = failed.lock().expect("nobody panics with it");
                        // The lowest seed, so that two runs tell the same.
                        if failed.as_ref().is_none_or(|(other, _)| seed < *other) {
                            *failed = Some((seed, message));
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("nobody panics with it");
    if let Some(file) = &tally {
        let mut lines = std::fs::OpenOptions::new().create(true).append(true).open(file);
        let lines = lines.as_mut().expect("the file of the tally");
        let (ended, failures) = (ended.into_inner(), failures.into_inner());
        let (until, millis) = first.into_inner().unwrap_or_default();
        writeln!(lines, "{ended} {failures} {until} {millis}").expect("the file of the tally");
    }
    if let Some((seed, message)) = failed {
        if tally.is_none() {
            report(seed);
        }
        panic!("seed {seed} failed (run it alone with ESKER_SEED={seed}): {message}");
    }
}

/// Prints what is being done, if `ESKER_TRACE` is set.
pub fn trace(text: impl FnOnce() -> String) {
    static ON: OnceLock<bool> = OnceLock::new();
    if *ON.get_or_init(|| std::env::var_os("ESKER_TRACE").is_some()) {
        eprintln!("{}", text());
    }
}

/// True if the environment asks for nothing special.
pub fn is_default() -> bool {
    from_env("ESKER_SEED").is_none() && from_env("ESKER_SEEDS").is_none()
}

/// A number from the environment.
pub fn from_env(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is not a number: {value}")))
}

thread_local! {
    /// While this is set, panics of this thread are noted here instead of printed.
    static NOTED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs something that may panic, and answers what the panic said and where.
pub fn quietly<R>(run: impl FnOnce() -> R) -> Result<R, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let noted = NOTED.with_borrow_mut(|noted| {
                noted.as_mut().map(|noted| *noted = info.to_string().replace('\n', " ")).is_some()
            });
            if !noted {
                usual(info);
            }
        }));
    });
    let before = NOTED.replace(Some(String::new()));
    let result = catch_unwind(AssertUnwindSafe(run));
    let noted = NOTED.replace(before);
    result.map_err(|_panic| {
        let text = noted.unwrap_or_default();
        text.strip_prefix("panicked at ").unwrap_or(&text).to_owned()
    })
}

/// Takes operations, then parts of operations, out of a script as long as it still fails.
pub fn shrink(script: &Script, fails: impl Fn(&Script)) -> Script {
    /// Runs at most.
    const TRIES: u32 = 3000;
    shrink_some(script, TRIES, fails)
}

/// As [`shrink`], with so many tries.
pub fn shrink_some(script: &Script, tries_max: u32, fails: impl Fn(&Script)) -> Script {
    let fails = |script: &Script| quietly(|| fails(script)).is_err();
    let mut script = script.clone();
    let mut tries = 0;
    let mut chunk = script.ops.len().div_ceil(2).max(1);
    loop {
        let mut cut = false;
        let mut at = 0;
        while at < script.ops.len() && tries < tries_max {
            let mut shorter = script.clone();
            shorter.ops.drain(at..(at + chunk).min(script.ops.len()));
            tries += 1;
            if fails(&shorter) {
                script = shorter;
                cut = true;
            } else {
                at += chunk;
            }
        }
        if tries >= tries_max {
            return script;
        }
        if chunk == 1 && !cut {
            break;
        }
        chunk = chunk.div_ceil(2).max(1);
    }
    for at in 0..script.ops.len() {
        let mut part = 0;
        while let Some(op) = without_part(&script.ops[at], part) {
            let mut shorter = script.clone();
            shorter.ops[at] = op;
            if fails(&shorter) {
                script = shorter;
            } else {
                part += 1;
            }
        }
    }
    script
}

/// A batch or transaction without one of its parts.
fn without_part(op: &Op, part: usize) -> Option<Op> {
    let mut op = op.clone();
    match &mut op {
        Op::Batch(writes, _) if part < writes.len() => drop(writes.remove(part)),
        Op::Transact(_, steps, ..) if part < steps.len() => drop(steps.remove(part)),
        _ => return None,
    }
    Some(op)
}

/// An operation as text, short enough to read.
pub fn brief(op: &Op) -> String {
    const CHARS_MAX: usize = 200;
    let text = format!("{op:?}");
    if text.len() <= CHARS_MAX { text } else { format!("{}...", &text[..CHARS_MAX]) }
}

/// Prints a script that a seed failed with, cut down.
#[allow(clippy::print_stderr, reason = "for who looks after the failure")]
pub fn print(seed: u64, short: &Script) {
    eprintln!("seed {seed} cut down to:\n{}", listing(short));
}

/// A script as text, a line an operation.
pub fn listing(script: &Script) -> String {
    let line = |op: &Op| format!("  {op:?}\n");
    format!("{:?}\n{}", script.settings, script.ops.iter().map(line).collect::<String>())
}
