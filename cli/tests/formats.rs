//! Every format of input gives the same table.

use crate::place::{Place, gzip};

const EXPORTED: &str = "\
{\"id\":\"a\",\"n\":1,\"text\":\"x, \\\"y\\\"\"}
{\"id\":\"b\",\"n\":-2.50,\"text\":\"\"}
{\"id\":\"c\",\"n\":\"007\",\"text\":\"é\"}
";
const NDJSON: &str = "\
{\"id\": \"c\", \"n\": \"007\", \"text\": \"é\"}
{\"id\": \"a\", \"n\": 1, \"text\": \"x, \\\"y\\\"\"}
{\"id\": \"b\", \"n\": -2.50, \"text\": \"\"}
";
const CSV: &str = "id,n,text\nc,007,é\na,1,\"x, \"\"y\"\"\"\nb,-2.50,\n";
const TSV: &str = "id\tn\ttext\nc\t007\té\na\t1\tx, \"y\"\nb\t-2.50\t\n";

fn array() -> String {
    format!("[\n{}\n]\n", NDJSON.trim_end().replace('\n', ",\n"))
}

#[test]
fn every_format_plain_and_packed_gives_the_same_table() {
    let place = Place::new("formats");
    for (name, text) in [
        ("rows.ndjson", NDJSON),
        ("rows.jsonl", NDJSON),
        ("lines.json", NDJSON),
        ("rows.json", &array()),
        ("rows.csv", CSV),
        ("rows.tsv", TSV),
    ] {
        for packed in [false, true] {
            let file = if packed { format!("{name}.gz") } else { name.to_owned() };
            let bytes = if packed { gzip(text.as_bytes()) } else { text.into() };
            place.write(&file, bytes);
            let dir = format!("{file}.db");
            let ran = place.run(&format!("import {dir} t {file} --key id"));
            assert!(ran.err(0).contains("3 rows in "));
            assert_eq!(place.run(&format!("export {dir} t")).out(0), EXPORTED, "{file}");
        }
    }
}

#[test]
fn standard_input_and_files_without_an_extension_need_a_format() {
    let place = Place::new("formats_stdin");
    for (format, text) in [("ndjson", NDJSON), ("json", &array()), ("csv", CSV), ("tsv", TSV)] {
        for (packed, bytes) in [(false, text.into()), (true, gzip(text.as_bytes()))] {
            let dir = format!("{format}{packed}.db");
            let line = format!("import {dir} t - --format {format} --key id");
            place.feed(&line, &bytes).out(0);
            assert_eq!(place.run(&format!("export {dir} t")).out(0), EXPORTED, "{format}");
        }
    }
    place.write("data", CSV);
    assert!(place.run("import x t data --key id").err(2).contains("--format"));
    assert!(place.run("import x t - --key id").err(2).contains("--format"));
    place.run("import csv2.db t data --key id --format csv").out(0);
    assert!(!place.path("x").exists(), "a wrong command line leaves nothing behind");
}

#[test]
fn fields_of_csv_stay_strings_if_asked() {
    let place = Place::new("formats_strings");
    place.write("rows.csv", CSV);
    place.run("import db t rows.csv --key id --strings").out(0);
    let value = place.run("get db t b").out(0);
    assert_eq!(value, "{\"id\":\"b\",\"n\":\"-2.50\",\"text\":\"\"}\n");
}

#[test]
fn json_rows_keep_their_numbers_and_the_order_of_their_fields() {
    let place = Place::new("formats_spelling");
    let row = r#"{"z":123456789012345678901234567890,"a":1.10,"id":7,"e":1E2}"#;
    place.write("rows.ndjson", row);
    place.run("import db t rows.ndjson --key id").out(0);
    assert_eq!(place.run("export db t").out(0), format!("{row}\n"));
    assert_eq!(
        place.run("get db t 7 --json").out(0),
        format!("{{\"key\":\"7\",\"value\":{row}}}\n")
    );
}

#[test]
fn a_damaged_gzip_file_keeps_what_came_before_and_is_an_error() {
    let place = Place::new("formats_cut");
    let lines: String = (0..20_000).map(|i| format!("{{\"id\":{i}}}\n")).collect();
    let packed = gzip(lines.as_bytes());
    place.write("rows.ndjson.gz", &packed[..packed.len() / 2]);
    let err = place.run("import db t rows.ndjson.gz --key id:int").err(3);
    assert!(err.contains("rows.ndjson.gz behind line "), "{err}");
    assert_eq!(place.run("get db t 17").out(0), "{\"id\":17}\n");
}
