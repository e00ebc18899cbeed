//! tables, stat, verify, help.

use crate::place::Place;
use serde_json::Value;

fn filled(test: &str) -> Place {
    let place = Place::new(test);
    let rows: String = (0..3000).map(|i| format!("{i},x{i}\n")).collect();
    place.write("rows.csv", format!("id,x\n{rows}"));
    place.run("import db numbers rows.csv --key id:int,x --quiet").out(0);
    place.run("put db other k v").out(0);
    place
}

fn json(text: &str) -> Value {
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(text).unwrap()
}

#[test]
fn tables_are_listed() {
    let place = filled("report_tables");
    let out = place.run("tables db").out(0);
    let lines: Vec<Vec<_>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["table", "index", "rows", "key"]);
    assert_eq!(lines[1], ["numbers", "btree", "3,000", "id:int,x"]);
    assert_eq!(lines[2], ["other", "btree", "1"]);
    assert_eq!(lines.len(), 3);
    let tables = json(&place.run("tables db --json").out(0));
    assert_eq!(tables["tables"][0]["rows"], 3000);
    assert_eq!(tables["tables"][1]["key"], Value::Null);
}

#[test]
fn figures_are_printed() {
    let place = filled("report_stat");
    let out = place.run("stat db").out(0);
    assert!(out.contains("segment_bytes") && out.contains("rows of numbers"), "{out}");
    let stat = json(&place.run("stat db --json").out(0));
    assert!(stat["segment_bytes"].as_u64().unwrap() > 0, "{stat}");
    assert!(stat["gets"].is_u64() && stat["stalls_log"].is_u64());
    let tables: Vec<_> = stat["tables"].as_array().unwrap().iter().map(|t| &t["name"]).collect();
    assert_eq!(tables, ["esker.keys", "numbers", "other"]);
}

#[test]
fn a_sound_database_verifies() {
    let place = filled("report_verify");
    let out = place.run("verify db").out(0);
    assert!(out.starts_with("sound: 3 tables, 3,002 rows, "), "{out}");
    let report = json(&place.run("verify db --json").out(0));
    assert_eq!((&report["sound"], &report["rows"]), (&Value::Bool(true), &Value::from(3002)));
    assert_eq!(report["damage"], Value::Array(Vec::new()));
}

#[test]
fn help_goes_to_standard_output_and_ends_with_examples() {
    let place = Place::new("report_help");
    let help = place.run("--help").out(0);
    assert!(help.contains("EXIT CODES") && help.contains("EXAMPLES"), "{help}");
    let commands = [
        "import", "get", "put", "del", "scan", "tables", "stat", "verify", "repair", "torture",
        "export",
    ];
    for command in commands {
        assert!(help.contains(command), "{command}");
        let help = place.run(&format!("{command} --help")).out(0);
        assert!(help.contains("--json"), "{help}");
        let widest = help.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(110), "{command}: {widest:?}");
    }
    assert!(place.run("--version").out(0).starts_with("esker "));
    assert!(place.run("").err(2).contains("Usage"));
}
