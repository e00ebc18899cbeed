//! Import: keys, duplicates, rejected rows, running again.

use crate::place::Place;

/// Keys as `scan --json` prints them.
fn keys(place: &Place, scan: &str) -> Vec<String> {
    let out = place.run(&format!("scan db t --json {scan}")).out(0);
    let key = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        row["key"].to_string()
    };
    out.lines().map(key).collect()
}

#[test]
fn the_last_of_two_rows_of_one_key_stays() {
    let place = Place::new("import_duplicates");
    // In one batch, and far apart.
    let mut rows = String::from("id,n\na,1\na,2\n");
    for i in 0..5000 {
        rows.push_str(&format!("k{i},0\n"));
    }
    rows.push_str("b,1\nb,2\na,3\n");
    place.write("rows.csv", rows);
    let ran = place.run("import db t rows.csv --key id");
    assert!(ran.err(0).contains("5,005 rows in "), "all rows are counted");
    assert_eq!(place.run("get db t a").out(0), "{\"id\":\"a\",\"n\":3}\n");
    assert_eq!(place.run("get db t b").out(0), "{\"id\":\"b\",\"n\":2}\n");
    let tables = place.run("tables db --json").out(0);
    assert_eq!(
        tables,
        "{\"tables\":[{\"name\":\"t\",\"index\":\"btree\",\"rows\":5002,\"key\":\"id\"}]}\n"
    );
}

#[test]
fn several_fields_order_as_a_tuple() {
    let place = Place::new("import_composite");
    place.write("rows.csv", "x,n,y\na,10,p\nab,1,p\na,9,q\na b,1,p\na,9,p\n\"a,c\",-1,p\n");
    place.run("import db t rows.csv --key x,n:int,y").out(0);
    let expected = [
        r#"["a",9,"p"]"#,
        r#"["a",9,"q"]"#,
        r#"["a",10,"p"]"#,
        r#"["a b",1,"p"]"#,
        r#"["a,c",-1,"p"]"#,
        r#"["ab",1,"p"]"#,
    ];
    assert_eq!(keys(&place, ""), expected);
    assert_eq!(keys(&place, "--prefix a,"), expected[..3]);
    assert_eq!(keys(&place, "--prefix a"), expected);
    assert_eq!(keys(&place, "--prefix a,9,"), expected[..2]);
    assert_eq!(keys(&place, "--from a,9,q --to ab"), expected[1..5]);
    assert_eq!(keys(&place, "--from a,10 --limit 1 --reverse"), expected[5..]);
    assert_eq!(place.run("get db t a\\,c,-1,p").out(0), "{\"x\":\"a,c\",\"n\":-1,\"y\":\"p\"}\n");
    let scanned = place.run("scan db t --from a,c --to ab").out(2);
    assert_eq!(scanned, "", "c is not a number");
    let plain = place.run("scan db t --limit 1").out(0);
    assert!(plain.starts_with("a,9,p\t{"), "{plain}");
    let missing = place.run("get db t a,9").err(2);
    assert!(missing.contains("has 2 parts, the keys of this table have 3: x,n:int,y"), "{missing}");
    place.run("put db t z,-5,q new").out(0);
    assert_eq!(place.run("get db t z,-5,q").out(0), "new\n");
    place.run("del db t z,-5,q").out(0);
    place.run("get db t z,-5,q").out(1);
}

#[test]
fn lines_are_numbered_in_their_order() {
    let place = Place::new("import_lines");
    let rows: String = (1..=300).map(|i| format!("{{\"i\":{i}}}\n")).collect();
    place.write("rows.ndjson", format!("\n{rows}"));
    place.run("import db t rows.ndjson --key @line").out(0);
    let expected: Vec<String> = (2..=301).map(|line| line.to_string()).collect();
    assert_eq!(keys(&place, ""), expected);
    assert_eq!(place.run("get db t 11").out(0), "{\"i\":10}\n");
    assert_eq!(place.run("export db t").out(0), rows);
    place.write("array.json", "[{\"i\":1},{\"i\":2},\n3,{\"i\":4}]");
    place.run("import array.db t array.json --key @line").out(1);
    assert_eq!(place.run("get array.db t 4").out(0), "{\"i\":4}\n");
}

#[test]
fn rejected_rows_are_counted_shown_and_written_down() {
    let place = Place::new("import_rejects");
    let mut rows = b"{\"id\":1}\n{\"id\":}\n[]\n{\"x\":1}\n{\"id\":null}\n".to_vec();
    rows.extend_from_slice(b"{\"id\":\"\xff\"}\n{\"id\":\"\"}\n");
    rows.extend_from_slice(format!("{{\"id\":\"{}\"}}\n", "k".repeat(2049)).as_bytes());
    rows.extend_from_slice(format!("{{\"id\":\"{}\"}}\n{{\"id\":2}}", "k".repeat(2048)).as_bytes());
    place.write("rows.ndjson", rows);
    let err = place.run("import db t rows.ndjson --key id").err(1);
    assert!(err.starts_with("line 2: expected value, at column 7\nline 3: "), "{err}");
    assert!(err.contains("\n... and 2 more; all of them are in rows.ndjson.rejects\n"), "{err}");
    assert!(err.contains(": 3 rows in ") && err.contains(", 7 rejected; table t holds 3"), "{err}");
    let rejects = place.read("rows.ndjson.rejects");
    let rejects: Vec<serde_json::Value> =
        rejects.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let lines: Vec<_> = rejects.iter().map(|reject| reject["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(rejects[0]["text"], "{\"id\":}");
    assert_eq!(rejects[2]["reason"], "no field \"id\"");
    assert_eq!(rejects[4]["text_hex"], "7b226964223a22ff227d0a");
    assert_eq!(rejects[5]["reason"], "the key is empty");
    assert_eq!(rejects[6]["reason"], "a key of 2049 bytes, at most 2048 are allowed");
    // Mended, it leaves nothing to reject, and no old file that says otherwise.
    place.write("rows.ndjson", "{\"id\":1}\n");
    place.run("import db t rows.ndjson --key id").out(0);
    assert!(!place.path("rows.ndjson.rejects").exists());
}

#[test]
fn rejected_rows_go_where_they_are_told() {
    let place = Place::new("import_rejects_path");
    let line = "import db t - --format csv --key id --json";
    let out = place.feed(line, b"id,n\n1,2\n3\n").out(1);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((report["rows"].as_u64(), report["rejected"].as_u64()), (Some(1), Some(1)));
    assert_eq!(report["rejects"], "stdin.rejects");
    let expected = "{\"line\":3,\"reason\":\"1 field, the header has 2\",\"text\":\"3\"}\n";
    assert_eq!(place.read("stdin.rejects"), expected);
    place.feed(&format!("{line} --rejects other"), b"id,n\n1,2\n3\n").out(1);
    assert_eq!(place.read("other"), expected);
    let nowhere = place.feed(&format!("{line} --rejects no/where"), b"id,n\n1,2\n3\n").err(3);
    assert!(nowhere.contains("no/where") && nowhere.contains("--rejects"), "{nowhere}");
}

#[test]
fn running_again_changes_nothing() {
    let place = Place::new("import_again");
    let rows: String = (0..2500).map(|i| format!("k{},{i}\n", i % 2000)).collect();
    place.write("rows.csv", format!("id,n\n{rows}"));
    place.run("import db t rows.csv --key id").out(0);
    let first = place.run("scan db t").out(0);
    assert_eq!(first.lines().count(), 2000);
    place.run("import db t rows.csv --key id").out(0);
    assert_eq!(place.run("scan db t").out(0), first);
}

#[test]
fn a_table_keeps_the_make_of_its_keys() {
    let place = Place::new("import_note");
    place.write("rows.csv", "id,n\n1,2\n");
    place.run("import db t rows.csv --key id,n").out(0);
    let err = place.run("import db t rows.csv --key id").err(2);
    assert!(err.contains("was imported with --key id,n"), "{err}");
    place.run("put db typed k v").out(0);
    place.run("import db typed rows.csv --key id,n").out(2);
    place.run("import db typed rows.csv --key id").out(0);
    assert_eq!(place.run("scan db typed").out(0), "1\t{\"id\":1,\"n\":2}\nk\tv\n");
    assert!(place.run("put db esker.keys t x").err(2).contains("esker.keys"));
}

#[test]
fn what_cannot_work_is_said_before_anything_is_made() {
    let place = Place::new("import_refused");
    place.write("rows.csv", "id,n\n1,2\n");
    for (line, code, word) in [
        ("rows.csv --key nope", 2, "no column \"nope\"; the header names id, n"),
        ("rows.csv --key id,", 2, "--key"),
        ("rows.csv --key id --index tree", 2, "btree, hash, fractal"),
        ("rows.csv", 2, "--key"),
        ("none.csv --key id", 3, "none.csv"),
        (". --key id --format csv", 3, "directory"),
        ("/dev/null --key id --format csv", 2, "no header row"),
    ] {
        let err = place.run(&format!("import db t {line}")).err(code);
        assert!(err.contains(word), "{line}: {err}");
        assert!(!place.path("db").exists(), "{line}");
    }
    place.run("import db t /dev/null --key id --format ndjson").out(0);
}
