//! The kinds of index: chosen at import, shown, kept, and what a table without order refuses.

use crate::place::Place;
use esker::{Index, Options};
use esker_index::btree::BTree;
use serde_json::Value;

const KINDS: [&str; 3] = ["btree", "hash", "fractal"];
const ROWS: usize = 27_004;

/// Imports the data that the repository ships.
fn flights(place: &Place, kind: &str) -> String {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../data/flights.csv.gz");
    let key = "time_hour,carrier,flight,origin";
    place.run(&format!("import {kind}.db flights {file} --key {key} --index {kind}")).err(0)
}

/// Lines of output, sorted.
fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn the_flights_load_into_a_table_of_each_kind_and_come_back() {
    let place = Place::new("kinds_flights");
    let mut first: Option<(String, String)> = None;
    for kind in KINDS {
        let err = flights(&place, kind);
        let about = if kind == "fractal" { "about " } else { "" };
        assert!(err.contains(&format!("table flights holds {about}27,004")), "{err}");
        let flight = place.run(&format!("get {kind}.db flights 2013-01-01T10:00:00Z,UA,1545,EWR"));
        assert!(
            flight.out(0).starts_with("{\"year\":2013,\"month\":1,\"day\":1,\"dep_time\":517,")
        );
        place.run(&format!("get {kind}.db flights 2013-01-01T10:00:00Z,UA,1545,XXX")).err(1);

        let scanned = place.run(&format!("scan {kind}.db flights")).out(0);
        let exported = place.run(&format!("export {kind}.db flights")).out(0);
        let (scanned_first, exported_first) =
            first.get_or_insert_with(|| (scanned.clone(), exported.clone()));
        assert_eq!(scanned.lines().count(), ROWS, "{kind}");
        if kind == "hash" {
            assert!(sorted(&scanned) == sorted(scanned_first));
            assert!(sorted(&exported) == sorted(exported_first));
        } else {
            assert!(scanned == *scanned_first && exported == *exported_first, "{kind}: in order");
            let prefix = "--prefix 2013-01-01T10:";
            let morning = place.run(&format!("scan {kind}.db flights {prefix}")).out(0);
            assert_eq!(morning.lines().count(), 6);
            let back = place.run(&format!("scan {kind}.db flights {prefix} --reverse")).out(0);
            let mut back: Vec<_> = back.lines().collect();
            back.reverse();
            assert_eq!(back, morning.lines().collect::<Vec<_>>());
        }
        let some = place.run(&format!("scan {kind}.db flights --limit 3 --json")).out(0);
        assert_eq!(some.lines().count(), 3);
        assert!(place.run(&format!("verify {kind}.db")).out(0).starts_with("sound: 2 tables, "));
    }
}

#[test]
fn the_kind_of_a_table_is_shown() {
    let place = Place::new("kinds_shown");
    for kind in KINDS {
        place.run(&format!("put db {kind}s k v --index {kind}")).out(0);
    }
    place.run("put db plain k v").out(0);
    let tables = place.run("tables db").out(0);
    let kinds: Vec<_> = tables.lines().skip(1).map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(kinds, ["btree", "fractal", "hash", "btree"].map(Some));
    let stat = place.run("stat db").out(0);
    for kind in KINDS {
        let line = stat.lines().find(|line| line.starts_with(&format!("index of {kind}s ")));
        assert!(line.is_some_and(|line| line.ends_with(&format!(" {kind}"))), "{stat}");
    }
    let stat: Value = serde_json::from_str(&place.run("stat db --json").out(0)).unwrap();
    let kinds = stat["tables"].as_array().unwrap().iter().map(|table| table["index"].as_str());
    assert_eq!(kinds.collect::<Vec<_>>(), ["btree", "fractal", "hash", "btree"].map(Some));
}

#[test]
fn a_table_keeps_its_kind() {
    let place = Place::new("kinds_kept");
    place.write("rows.csv", "id,x\na,1\nb,2\n");
    for kind in ["hash", "fractal"] {
        let import = format!("import db {kind} rows.csv --key id -q");
        place.run(&format!("{import} --index {kind}")).out(0);
        // Not asked for: whatever it is.
        place.run(&import).out(0);
        place.run(&format!("put db {kind} c 3")).out(0);
        for command in
            [format!("{import} --index btree"), format!("put db {kind} c 4 --index btree")]
        {
            let err = place.run(&command).err(2);
            assert!(err.contains(&format!("is a {kind} table, not a btree table")), "{err}");
        }
        let scanned = place.run(&format!("scan db {kind}")).out(0);
        let rows = ["a\t{\"id\":\"a\",\"x\":1}", "b\t{\"id\":\"b\",\"x\":2}", "c\t3"];
        assert_eq!(sorted(&scanned), rows);
        place.run(&format!("del db {kind} a")).out(0);
        place.run(&format!("del db {kind} a")).out(1);
        assert_eq!(place.run(&format!("export db {kind}")).out(0).lines().count(), 2);
    }
    let err = place.run("import db t rows.csv --key id --index tree").err(2);
    assert!(err.contains("btree, hash, fractal"), "{err}");
    let err = place.run("put db t k v --index lsm").err(2);
    assert!(err.contains("btree, hash, fractal"), "{err}");
    assert!(!place.run("tables db").out(0).contains("t  "), "no table was made");
}

#[test]
fn a_table_without_order_says_what_it_cannot_do_and_what_to_do_instead() {
    let place = Place::new("kinds_unordered");
    place.run("put db t k v --index hash").out(0);
    for scan in
        ["--from a", "--to z", "--prefix k", "--prefix=", "--reverse", "--reverse --limit 1"]
    {
        let ran = place.run(&format!("scan db t {scan}"));
        assert_eq!((ran.code, &ran.out[..]), (2, ""), "{scan}");
        let said = ["have no order", "scan all of it", "--index btree"];
        assert!(said.iter().all(|what| ran.err.contains(what)), "{scan}: {}", ran.err);
    }
    assert_eq!(place.run("scan db t").out(0), "k\tv\n");
    assert_eq!(place.run("scan db t --limit 0").out(0), "");
}

/// A kind that a program brought along is beyond the command, but the rest of the database is not.
#[test]
fn a_kind_that_is_not_known_is_named() {
    let place = Place::new("kinds_unknown");
    let options = Options::new().index_kind("mine", || BTree);
    let db = options.open(place.path("db")).unwrap();
    db.table("odd", Index::Custom("mine")).unwrap().put("k", "v").unwrap();
    db.table("even", Index::Hash).unwrap().put("k", "v").unwrap();
    db.close().unwrap();
    for command in ["get db odd k", "scan db odd", "put db odd k w", "export db odd"] {
        let err = place.run(command).err(2);
        assert!(err.contains("\"odd\"") && err.contains("\"mine\""), "{command}: {err}");
    }
    assert_eq!(place.run("get db even k").out(0), "v\n");
    assert!(place.run("stat db").out(0).contains("mine"));
    assert!(place.run("verify db").out(0).starts_with("sound: 1 tables"));
}
