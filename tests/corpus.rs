//! Replays the corpus of the fuzz targets.
//!
//! Goal: what fuzzing has found stays found. Method: each file under `fuzz/corpus/` goes through the
//! function that its target runs.

use crate::sim::{Choices, Rng, forge, fuzz, seeds};

#[path = "../fuzz/kinds.rs"]
mod kinds;

fn replay(target: &str, run: fn(&[u8])) {
    let folder = format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR"));
    let mut count = 0;
    for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder}: {error}")) {
        let path = entry.unwrap().path();
        #[expect(clippy::disallowed_methods, reason = "the corpus lies on the real disk")]
        let data = std::fs::read(&path).unwrap();
        let result = std::panic::catch_unwind(|| run(&data));
        assert!(result.is_ok(), "{} failed", path.display());
        count += 1;
    }
    assert!(count > 0, "{folder} is empty");
}

#[test]
fn operations() {
    replay("operations", fuzz::operations);
}

#[test]
fn crash() {
    replay("crash", fuzz::crash);
}

#[test]
fn directory() {
    replay("directory", fuzz::directory);
}

#[test]
fn forged() {
    replay("forged", forge::forged);
    // Few inputs are of interest to who looks for branches, and each is another lie.
    seeds::each(600, |seed| {
        let mut rng = Rng::new(seed);
        let bytes = 4 + rng.below(12);
        let data: Vec<u8> = (0..bytes).map(|_| rng.below(256) as u8).collect();
        forge::forged(&data);
    });
}

#[test]
fn log() {
    replay("log", fuzz::log);
}

#[test]
fn pages() {
    replay("pages", fuzz::pages);
}

#[test]
fn kinds_of_index() {
    replay("kinds", kinds::pages);
}
