//! Whether a suite met what it is there to meet: see [`esker_base::mark`].

use crate::seeds;
use esker_base::mark::{ALL, Mark};

/// Asserts that this process has met each of these, and prints how often it met which.
///
/// Asks for nothing where the environment asks for other seeds than the suite has.
///
/// # Panics
/// With those that it has not met.
pub fn expect(suite: &str, wanted: &[&Mark]) {
    let met: Vec<String> = ALL
        .iter()
        .filter(|mark| mark.hits() > 0)
        .map(|mark| format!("{} {}", mark.name(), mark.hits()))
        .collect();
    eprintln!("{suite} met {} of {} marks: {}", met.len(), ALL.len(), met.join(", "));
    if seeds::is_default() {
        let missed: Vec<_> =
            wanted.iter().filter(|mark| mark.hits() == 0).map(|mark| mark.name()).collect();
        assert!(missed.is_empty(), "{suite} has not met {missed:?}");
    }
}
