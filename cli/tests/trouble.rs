//! Bad luck: kills, interrupts, closed pipes, locks, damage.

use crate::place::Place;
use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Command};

/// So much more than pipes and buffers hold that batches are written before the last byte is taken.
const ROWS: u32 = 60_000;

fn rows() -> String {
    let row = |i: u32| {
        // Each id twice, in an order that jumps about.
        let id = i * 7919 % (ROWS / 2);
        format!("{{\"id\":\"{id}\",\"at\":{i},\"text\":\"{i:0>40}\"}}\n")
    };
    (0..ROWS).map(row).collect()
}

/// Starts an import from standard input and feeds it the beginning of `rows`, with a cut line at
/// its end.
fn begin(place: &Place, rows: &str, part: usize) -> Child {
    let mut child = place.spawn("import db t - --format ndjson --key id");
    let bytes = &rows.as_bytes()[..rows.len() * part / 4];
    child.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    child
}

#[test]
fn an_import_killed_and_run_again_gives_the_same_table() {
    let place = Place::new("trouble_kill");
    let rows = rows();
    place.write("rows.ndjson", &rows);
    place.run("import whole t rows.ndjson --key id").out(0);
    let whole = place.run("scan whole t").out(0);
    assert_eq!(whole.lines().count(), ROWS as usize / 2);
    for part in [1, 3, 2] {
        let mut child = begin(&place, &rows, part);
        child.kill().unwrap();
        child.wait().unwrap();
        let there = place.run("scan db t --limit 1").out(0);
        assert_eq!(there.lines().count(), 1, "batches before the kill are there");
        assert!(place.run("verify db").out(0).starts_with("sound: "));
    }
    place.run("import db t rows.ndjson --key id").out(0);
    assert!(place.run("scan db t").out(0) == whole);
}

#[test]
fn an_interrupt_keeps_what_was_read() {
    let place = Place::new("trouble_interrupt");
    let rows = rows();
    let mut child = begin(&place, &rows, 2);
    // It waits for more when the signal comes.
    let stdin = child.stdin.take();
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let status = child.wait().unwrap();
    drop(stdin);
    assert_eq!(status.code(), Some(130));
    let mut err = String::new();
    child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
    assert!(err.contains("interrupted") && !err.contains("rejected"), "{err}");
    let there = place.run("scan db t").out(0).lines().count();
    assert!(there > 1000, "{there} rows");
    place.feed("import db t - --format ndjson --key id", rows.as_bytes()).out(0);
    assert_eq!(place.run("scan db t").out(0).lines().count(), ROWS as usize / 2);
}

#[test]
fn a_reader_that_stops_reading_is_no_failure() {
    let place = Place::new("trouble_pipe");
    place.feed("import db t - --format ndjson --key id -q", rows().as_bytes()).out(0);
    for line in ["scan db t", "scan db t --json", "export db t"] {
        let mut child = place.spawn(line);
        let mut some = [0; 100];
        child.stdout.take().unwrap().read_exact(&mut some).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()), "{line}");
    }
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = place.command("scan db t").stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("standard output"));
}

#[test]
fn a_database_in_use_is_refused() {
    let place = Place::new("trouble_lock");
    place.write("rows.csv", "id\n1\n");
    let db = esker::Database::open(place.path("db")).unwrap();
    db.table("t", esker::Index::BTree).unwrap().put("k", "v").unwrap();
    for line in ["get db t k", "put db t k v", "stat db", "import db t rows.csv --key id"] {
        let err = place.run(line).err(3);
        assert!(err.contains("already open"), "{line}: {err}");
    }
    db.close().unwrap();
    assert_eq!(place.run("get db t k").out(0), "v\n");
}

#[test]
fn what_is_no_database_is_refused_and_left_alone() {
    let place = Place::new("trouble_none");
    fs::create_dir(place.path("dir")).unwrap();
    place.write("dir/letter.txt", "Dear reader");
    place.write("file", "Dear reader");
    for line in ["get", "put", "scan", "del"] {
        let rest = match line {
            "scan" => "",
            "put" => "k v",
            _ => "k",
        };
        for dir in ["dir", "file"] {
            let ran = place.run(&format!("{line} {dir} t {rest}"));
            assert_eq!(ran.code, 3, "{line} {dir}: {ran:?}");
            assert!(ran.err.contains(dir), "{ran:?}");
        }
    }
    let names = fs::read_dir(place.path("dir")).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.filter(|name| name != "LOCK").collect::<Vec<_>>(), ["letter.txt"]);
    for line in ["get none t k", "scan none t", "tables none", "stat none", "verify none"] {
        let err = place.run(line).err(3);
        assert!(err.contains("none"), "{line}: {err}");
        assert!(!place.path("none").exists(), "reading makes no database");
    }
}

/// Changes a byte in the middle of every file whose name begins so.
fn damage(place: &Place, begin: &str) {
    for entry in fs::read_dir(place.path("db")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with(begin) {
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x40;
            fs::write(&path, bytes).unwrap();
        }
    }
}

#[test]
fn damage_is_found_and_said() {
    let place = Place::new("trouble_damage");
    place.feed("import db t - --format ndjson --key id -q", rows().as_bytes()).out(0);
    damage(&place, "seg-");
    let found = place.run("verify db");
    assert_eq!(found.code, 1, "{found:?}");
    assert!(found.out.contains("damaged") && found.err.contains("seg-"), "{found:?}");
    let report = place.run("verify db --json").out(1);
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["sound"], false);
    assert!(!report["damage"].as_array().unwrap().is_empty());
    let err = place.run("scan db t").err(4);
    assert!(err.contains("seg-") && err.contains("damaged"), "{err}");
    place.run("export db t").out(4);
    // Every slot of the superblock.
    let super_path = place.path("db/super");
    let bytes: Vec<u8> = fs::read(&super_path).unwrap().iter().map(|byte| byte ^ 0x10).collect();
    fs::write(super_path, bytes).unwrap();
    assert!(place.run("stat db").err(4).contains("super"));
    assert!(place.run("verify db").err(4).contains("super"));
}
