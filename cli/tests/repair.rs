//! verify and repair on what is damaged: which tables and keys, and what is left.

use crate::place::Place;
use serde_json::Value;
use std::fs;

const ROWS: u32 = 20_000;

/// Two tables in order, one without; the value of each row begins with its key and a word that is in no other table.
fn filled(test: &str) -> Place {
    let place = Place::new(test);
    let rows = |word: &str| -> String {
        (0..ROWS)
            .map(|i| format!("{{\"id\":\"{i:05}\",\"{word}\":\"{}\"}}\n", text(word, i)))
            .collect()
    };
    for (table, index) in [("apples", "btree"), ("pears", "fractal"), ("plums", "hash")] {
        let line = format!("import db {table} - --format ndjson --key id -q --index {index}");
        place.feed(&line, rows(table).as_bytes()).out(0);
    }
    place
}

/// A text that no other row has any part of, so that it does not compress away.
fn text(word: &str, n: u32) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut z = u64::from(n) << 8 | u64::from(word.as_bytes()[1]);
    for _ in 0..3 {
        z = (z ^ (z >> 30)).wrapping_add(1).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    }
    (0..10).map(|i| char::from(DIGITS[(z >> (i * 6) & 63) as usize])).collect()
}

fn segments(place: &Place) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let paths = fs::read_dir(place.path("db")).unwrap().map(|entry| entry.unwrap().path());
    let segments =
        paths.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("seg-"));
    segments.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// Spoils the page of a row, and older images of it, where they are left.
fn spoil(place: &Place, word: &str, n: u32) {
    // Its ends may have been taken together with what is beside them.
    let text = &text(word, n)[2..8];
    let mut spoiled = 0;
    for (path, mut bytes) in segments(place) {
        let is_here = |at: &usize| bytes[*at..].starts_with(text.as_bytes());
        let places: Vec<_> = (0..bytes.len()).filter(is_here).collect();
        spoiled += places.len();
        for at in places {
            bytes[at] ^= 1;
        }
        fs::write(path, bytes).unwrap();
    }
    assert!(spoiled > 0, "{text} is in no page");
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The span of keys in a JSON report, as numbers.
fn span(keys: &Value) -> std::ops::Range<u32> {
    let end = |name: &str, missing: u32| {
        keys[name].as_str().map_or(missing, |key| key[..5].parse().unwrap())
    };
    end("from", 0)..end("to", ROWS)
}

#[test]
fn what_is_whole_is_restored_whole() {
    let place = filled("repair_whole");
    let before = place.run("scan db apples").out(0);
    let seen = place.run("repair db").out(0);
    assert_eq!(seen, "complete: 4 tables; nothing was written\n");
    let out = place.run("repair db new").out(0);
    assert_eq!(out, "complete: 4 tables, 60,003 rows in new\n");
    assert!(place.run("scan new apples").out(0) == before);
    assert!(place.run("verify new").out(0).starts_with("sound: "));
    // Key fields were noted in a table; it was restored with the others.
    assert_eq!(place.run("tables new --json").out(0), place.run("tables db --json").out(0));
    let report = json(&place.run("repair db --json").out(0));
    assert_eq!((&report["complete"], &report["damaged"]), (&Value::Bool(true), &Value::from(0)));
}

#[test]
fn damage_is_named_by_table_and_key_and_the_rest_is_served_and_restored() {
    let place = filled("repair_rot");
    let apples = place.run("scan db apples").out(0);
    let pears = place.run("scan db pears").out(0);
    // In the middle of a page of the first table.
    spoil(&place, "apples", 7000);
    let found = place.run("verify db");
    assert_eq!(found.code, 1, "{found:?}");
    assert!(found.err.contains("table \"apples\", keys "), "{found:?}");
    assert!(!found.err.contains("pears") && !found.err.contains("plums"), "{found:?}");
    let report = json(&place.run("verify db --json").out(1));
    let damage = report["damage"].as_array().unwrap();
    assert_eq!((damage.len(), &damage[0]["table"]), (1, &"apples".into()), "{report}");
    let keys = span(&damage[0]["keys"]);
    assert!(keys.contains(&7000) && keys.len() < 1000, "{report}");
    // The others, and the rest of this one, are served.
    assert!(place.run("scan db pears").out(0) == pears);
    assert_eq!(place.run("scan db plums").out(0).lines().count(), ROWS as usize);
    place.run("scan db apples").out(4);
    place.run("get db apples 07000").out(4);
    place.run(&format!("get db apples {:05}", keys.end)).out(0);
    place.run("put db pears new row").out(0);
    place.run("del db pears new").out(0);
    let report = json(&place.run("repair db new --json").out(1));
    let table = &report["tables"][0];
    assert_eq!((&table["name"], report["tables"].as_array().unwrap().len()), (&"apples".into(), 4));
    let gone = span(&table["lost"][0]);
    assert!(gone.contains(&7000) && gone.len() < 1000, "{report}");
    let left = place.run("scan new apples").out(0);
    let wanted: String = apples
        .lines()
        .filter(|line| !gone.contains(&line[..5].parse().unwrap()))
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(left == wanted, "{} rows of {}", left.lines().count(), wanted.lines().count());
    assert!(place.run("scan new pears").out(0) == pears);
    assert!(place.run("verify new").out(0).starts_with("sound: "));
    let text = place.run("repair db").out(1);
    assert!(text.contains("lost: table \"apples\": rows with keys from \"0"), "{text}");
    assert_eq!(text.lines().last().unwrap(), "partial: 4 tables; nothing was written");
    // A page of the table without order.
    spoil(&place, "plums", 7000);
    let text = place.run("repair db").out(1);
    assert!(
        text.contains("lost: table \"plums\": about ") && text.contains(" % of its rows"),
        "{text}"
    );
}

#[test]
fn a_database_without_superblock_or_checkpoint_is_restored() {
    let place = filled("repair_root");
    let plums = place.run("scan db plums").out(0).lines().count();
    fs::remove_file(place.path("db/super")).unwrap();
    place.run("stat db").err(4);
    let text = place.run("repair db without-super").out(0);
    assert!(
        text.contains("note: there is no superblock") && text.contains("complete: 4 tables"),
        "{text}"
    );
    assert_eq!(place.run("scan without-super plums").out(0).lines().count(), plums);
    for entry in fs::read_dir(place.path("db")).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("checkpoint-") {
            fs::remove_file(path).unwrap();
        }
    }
    let text = place.run("repair db nameless").out(1);
    assert!(text.contains("tables lost their names") && text.contains("may be older"), "{text}");
    let tables = json(&place.run("tables nameless --json").out(0));
    let names: Vec<_> =
        tables["tables"].as_array().unwrap().iter().map(|table| &table["name"]).collect();
    assert!(
        names.len() == 4
            && names.iter().all(|name| name.as_str().unwrap().starts_with("recovered-")),
        "{names:?}"
    );
}

#[test]
fn a_repair_refuses_what_it_should() {
    let place = filled("repair_refused");
    fs::create_dir(place.path("taken")).unwrap();
    place.write("taken/letter.txt", "Dear reader");
    assert!(place.run("repair db taken").err(2).contains("letter.txt"));
    place.run("repair db db").err(2);
    assert!(place.run("repair none new").err(3).contains("none"));
    assert!(!place.path("new").exists(), "there was nothing to restore");
    place.run("repair taken").err(3);
    let db = esker::Database::open(place.path("db")).unwrap();
    assert!(place.run("repair db new").err(3).contains("already open"));
    db.close().unwrap();
}
