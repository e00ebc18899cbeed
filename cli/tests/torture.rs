//! torture, for seconds: that it tries what it says, and finds what is broken.

use crate::place::Place;
use serde_json::Value;
use std::fs;

#[test]
fn a_short_torture_holds_and_leaves_nothing() {
    let place = Place::new("torture_short");
    let out = place.run("torture new --seconds 2 --seed 5 --json").out(0);
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(
        (&report["held"], &report["seed"]),
        (&Value::Bool(true), &Value::from(5)),
        "{report}"
    );
    let figure = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("{name}: {report}"));
    for name in ["kills", "commits", "power_cuts", "lives", "faults"] {
        assert!(figure(name) > 0, "{name}: {report}");
    }
    let copies = figure("spoiled_copies");
    let read = figure("spoiled_refused") + figure("spoiled_reported") + figure("spoiled_harmless");
    let repaired = figure("repaired_whole") + figure("repaired_partly") + figure("beyond_repair");
    assert_eq!((read, repaired), (copies, copies), "{report}");
    assert!(!place.path("new").exists(), "it was made for this");
    fs::create_dir(place.path("there")).unwrap();
    let out = place.run("torture there --seconds 1 -q").out(0);
    let last = out.lines().last().unwrap();
    assert!(last.starts_with("held for ") && last.contains("; seed "), "{out}");
    assert_eq!(fs::read_dir(place.path("there")).unwrap().count(), 0);
}

#[test]
fn a_lie_is_found() {
    let place = Place::new("torture_canary");
    let ran = place.run("torture new --seconds 20 --seed 6 --canary");
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("commits were acknowledged"), "{ran:?}");
    assert!(ran.out.contains("seed 6; new is kept"), "{ran:?}");
    assert!(place.run("verify new/db").out(0).starts_with("sound: "));
}

#[test]
fn a_directory_in_use_is_refused() {
    let place = Place::new("torture_refused");
    fs::create_dir(place.path("dir")).unwrap();
    place.write("dir/letter.txt", "Dear reader");
    assert!(place.run("torture dir").err(2).contains("letter.txt"));
    assert_eq!(place.read("dir/letter.txt"), "Dear reader");
    place.run("torture new --seed 99999999999").err(2);
}
