//! torture, for seconds: that it tries what it says, and finds what is broken.

use crate::place::Place;
use serde_json::Value;
use std::fs;

#[test]
fn a_short_torture_holds_and_leaves_nothing() {
    let place = Place::new("torture_short");
    let parts = ["kills", "commits", "power_cuts", "lives", "faults"];
    let torture = |seconds: u32| {
        let out = place.run(&format!("torture new --seconds {seconds} --seed 5 --json")).out(0);
        let report: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(
            (&report["held"], &report["seed"]),
            (&Value::Bool(true), &Value::from(5)),
            "{report}"
        );
        report
    };
    // Where the machine is busy, two seconds may be over before each part had its turn.
    let mut reports = [2, 10, 40].into_iter().map(torture);
    let is_whole = |report: &Value| parts.iter().all(|name| report[name].as_u64() > Some(0));
    let report = reports.find(is_whole).expect("each part has its turn");
    let figure = |name: &str| report[name].as_u64().unwrap_or_else(|| panic!("{name}: {report}"));
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
