//! get, put, del, scan, export.

use crate::place::Place;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::process::Output;

fn filled(test: &str) -> Place {
    let place = Place::new(test);
    place.write("rows.ndjson", (b'a'..=b'h').map(row).collect::<String>());
    place.run("import db t rows.ndjson --key id --quiet").out(0);
    place
}

fn row(letter: u8) -> String {
    format!("{{\"id\":\"{}\"}}\n", char::from(letter))
}

/// The keys of a plain scan, one after the other.
fn scanned(place: &Place, line: &str) -> String {
    let out = place.run(&format!("scan db t {line}")).out(0);
    out.lines().map(|line| line.split('\t').next().unwrap()).collect()
}

#[test]
fn put_get_del() {
    let place = Place::new("rows_put");
    assert_eq!(place.run("put db t k v").out(0), "");
    assert_eq!(place.run("get db t k").out(0), "v\n");
    assert_eq!(place.run("get db t k --json").out(0), "{\"key\":\"k\",\"value_text\":\"v\"}\n");
    assert_eq!(place.run("put db t k 17 --json").out(0), "{\"key\":\"k\",\"put\":true}\n");
    assert_eq!(place.run("get db t k --json").out(0), "{\"key\":\"k\",\"value\":17}\n");
    assert_eq!(place.run("del db t k --json").out(0), "{\"key\":\"k\",\"deleted\":true}\n");
    assert_eq!(place.run("del db t k --json").out(1), "{\"key\":\"k\",\"deleted\":false}\n");
    let err = place.run("get db t k").err(1);
    assert_eq!(err, "esker: there is no row \"k\" in table \"t\"\n");
    assert_eq!(place.run("get db other k").err(1), "esker: there is no table \"other\"\n");
    place.run("del db other k").out(1);
    place.run("scan db other").out(1);
    place.run("export db other").out(1);
}

#[test]
fn keys_that_cannot_be_are_refused() {
    let place = Place::new("rows_refused");
    place.run("put db t k v").out(0);
    let long = "k".repeat(2049);
    assert!(place.run(&format!("put db t {long} v")).err(2).contains("2048"));
    let empty: Output = place.command("put db t").args(["", "v"]).output().unwrap();
    assert_eq!(empty.status.code(), Some(2));
    place.run("get db t xyz --hex").out(2);
    place.run("get db t").out(2);
    place.run("scan db t --limit many").out(2);
    place.run("frobnicate").out(2);
    assert_eq!(place.run("scan db t").out(0), "k\tv\n");
}

#[test]
fn scans_have_ends_direction_and_limit() {
    let place = filled("rows_scan");
    assert_eq!(scanned(&place, ""), "abcdefgh");
    assert_eq!(scanned(&place, "--from c --to f"), "cde");
    assert_eq!(scanned(&place, "--from c --to f --reverse"), "edc");
    assert_eq!(scanned(&place, "--limit 3"), "abc");
    assert_eq!(scanned(&place, "--limit 3 --reverse"), "hgf");
    assert_eq!(scanned(&place, "--limit 0"), "");
    assert_eq!(scanned(&place, "--prefix d"), "d");
    assert_eq!(scanned(&place, "--prefix dd"), "");
    assert_eq!(scanned(&place, "--from f --to c"), "");
    assert_eq!(scanned(&place, "--from 63 --to 65 --hex"), "cd");
    let json = place.run("scan db t --limit 2 --json").out(0);
    assert_eq!(
        json,
        "{\"key\":\"a\",\"value\":{\"id\":\"a\"}}\n{\"key\":\"b\",\"value\":{\"id\":\"b\"}}\n"
    );
}

#[test]
fn long_scans_are_whole_in_both_directions() {
    let place = Place::new("rows_long");
    let rows: String =
        (0..30_000).map(|i| format!("{{\"id\":{i},\"x\":\"{i:0>50}\"}}\n")).collect();
    place.write("rows.ndjson", &rows);
    place.run("import db t rows.ndjson --key id:int").out(0);
    assert_eq!(place.run("export db t").out(0), rows);
    let forward: Vec<_> = place.run("scan db t").out(0).lines().map(str::to_owned).collect();
    let mut backward: Vec<_> =
        place.run("scan db t --reverse").out(0).lines().map(str::to_owned).collect();
    backward.reverse();
    assert_eq!(forward.len(), 30_000);
    assert!(forward == backward);
}

#[test]
fn bytes_that_are_no_text_are_escaped_and_exact_in_json() {
    let place = Place::new("rows_bytes");
    let (key, value) = (OsStr::from_bytes(b"k\xff\t"), OsStr::from_bytes(b"v\\\xfe\n"));
    let put = place.command("put db t").args([key, value]).output().unwrap();
    assert_eq!(put.status.code(), Some(0));
    assert_eq!(place.run("scan db t").out(0), "k\\xff\\x09\tv\\\\xfe\\x0a\n");
    let json = "{\"key_hex\":\"6bff09\",\"value_hex\":\"765cfe0a\"}\n";
    assert_eq!(place.run("scan db t --json").out(0), json);
    assert_eq!(place.run("get db t 6bff09 --hex --json").out(0), json);
    let raw = place.command("get db t --hex 6bff09").output().unwrap();
    assert_eq!(raw.stdout, b"v\\\xfe\n\n");
    let err = place.run("export db t").err(0);
    assert_eq!(err, "values that are not JSON, printed as strings or hex: 1\n");
    assert_eq!(place.run("export db t").out(0), "{\"hex\":\"765cfe0a\"}\n");
    place.run("put db t 6bff09 {\"a\":[1,2]} --hex").out(0);
    assert_eq!(place.run("export db t").out(0), "{\"a\":[1,2]}\n");
}

#[test]
fn what_was_exported_can_be_imported() {
    let place = filled("rows_export");
    let exported = place.run("export db t").out(0);
    assert_eq!(exported, (b'a'..=b'h').map(row).collect::<String>());
    place.feed("import copy t - --format ndjson --key id", exported.as_bytes()).out(0);
    assert_eq!(place.run("scan copy t").out(0), place.run("scan db t").out(0));
}
