use super::*;

/// Rows as (line, value or complaint).
fn rows_of(text: &[u8], separator: u8, key: &str) -> Vec<(u64, String)> {
    let spec = Spec::parse(key).unwrap();
    let mut input = Separated::new(text, separator, &spec, false).unwrap().unwrap();
    let (mut rows, mut row) = (Vec::new(), Row::default());
    loop {
        let found = match input.next(&spec, &mut row).unwrap() {
            Next::End => return rows,
            Next::Row => String::from_utf8(row.value.clone()).unwrap(),
            Next::Malformed(reason) => format!("! {reason}"),
        };
        rows.push((row.line, found));
    }
}

fn csv(text: &str) -> Vec<(u64, String)> {
    rows_of(text.as_bytes(), b',', "@line")
}

fn owned(expected: &[(u64, &str)]) -> Vec<(u64, String)> {
    expected.iter().map(|(line, text)| (*line, (*text).to_owned())).collect()
}

#[test]
fn fields_become_members_in_the_order_of_the_header() {
    let text = "id,name,n\n1,\"Smith, \"\"J\"\"\",2.50\r\n\n2,,x\n3,a b,007";
    let expected = owned(&[
        (2, r#"{"id":1,"name":"Smith, \"J\"","n":2.50}"#),
        (4, r#"{"id":2,"name":"","n":"x"}"#),
        (5, r#"{"id":3,"name":"a b","n":"007"}"#),
    ]);
    assert_eq!(csv(text), expected);
}

#[test]
fn line_ends_of_windows_are_no_part_of_a_field() {
    let expected = owned(&[(2, r#"{"a":1,"b":"x"}"#), (3, r#"{"a":"l\r\nm","b":2}"#)]);
    assert_eq!(csv("a,b\r\n1,\"x\"\r\n\"l\r\nm\",2\r\n"), expected);
    assert_eq!(rows_of(b"a\tb\r\n1\tx\r\n", b'\t', "a"), owned(&[(2, r#"{"a":1,"b":"x"}"#)]));
}

#[test]
fn records_may_have_several_lines() {
    let text = "a,b\n1,\"x\n\ny\"\n2,z\n";
    let expected = owned(&[(2, r#"{"a":1,"b":"x\n\ny"}"#), (5, r#"{"a":2,"b":"z"}"#)]);
    assert_eq!(csv(text), expected);
}

#[test]
fn a_quote_that_stays_open_costs_its_line_only() {
    let never = "a,b\n1,\"x\n2,y\n3,z\n";
    let expected = owned(&[
        (2, "! a quote is opened and never closed"),
        (3, r#"{"a":2,"b":"y"}"#),
        (4, r#"{"a":3,"b":"z"}"#),
    ]);
    assert_eq!(csv(never), expected);
    let late = "a,b\n1,\"x\n2,y\n3,\"z\"\n4,w";
    let expected = owned(&[
        (
            2,
            "! text behind the closing quote of field 2, if the quote open at the end of the line \
             is meant",
        ),
        (3, r#"{"a":2,"b":"y"}"#),
        (4, r#"{"a":3,"b":"z"}"#),
        (5, r#"{"a":4,"b":"w"}"#),
    ]);
    assert_eq!(csv(late), expected);
}

#[test]
fn quotes_inside_plain_fields_are_text_and_text_behind_quotes_is_refused() {
    let expected = owned(&[
        (2, r#"{"a":"5\" disk","b":"x"}"#),
        (3, "! text behind the closing quote of field 1"),
        (4, r#"{"a":"","b":""}"#),
    ]);
    assert_eq!(csv("a,b\n5\" disk,x\n\"Hi\" he said,y\n\"\",\n"), expected);
}

#[test]
fn malformed_records_say_why() {
    let found = csv("a,b\n1\n1,2,3\n1,2\n");
    let expected = owned(&[
        (2, "! 1 field, the header has 2"),
        (3, "! 3 fields, the header has 2"),
        (4, r#"{"a":1,"b":2}"#),
    ]);
    assert_eq!(found, expected);
    let bytes = rows_of(b"a,b\n\xff,1\n\xc3,\xa9\n2,3\n", b',', "@line");
    assert_eq!(
        bytes.iter().map(|(_, found)| found.starts_with('!')).collect::<Vec<_>>(),
        [true, true, false]
    );
    assert!(rows_of(b"a\nx\n", b',', "a:int")[0].1.contains("not a 64-bit integer"));
}

#[test]
fn tabs_separate_and_quotes_are_text() {
    let expected = owned(&[(2, r#"{"a":"\"x","b":"y,z"}"#), (3, r#"{"a":"","b":""}"#)]);
    assert_eq!(rows_of(b"a\tb\n\"x\ty,z\n\t\n", b'\t', "@line"), expected);
}

#[test]
fn headers_are_checked() {
    let refused = |text: &[u8], key: &str| {
        let spec = Spec::parse(key).unwrap();
        Separated::new(text, b',', &spec, false).unwrap().map(|_| ()).unwrap_err()
    };
    assert_eq!(refused(b"", "id"), "there is no header row");
    assert_eq!(refused(b"a,b\n", "id"), "there is no column \"id\"; the header names a, b");
    assert_eq!(refused(b"a,a\n", "a"), "the header row names \"a\" twice");
    assert_eq!(refused(b"a,\xff\n", "a"), "the header row is not UTF-8");
}

#[test]
fn numbers_are_what_json_spells_so_and_a_double_holds() {
    for number in ["0", "-0", "7", "-12", "1.50", "0.25", "123456789012345", "1234567890.1234"] {
        assert!(is_number(number), "{number}");
        assert!(serde_json::from_str::<f64>(number).is_ok(), "{number}");
    }
    for other in
        ["", "-", "007", "+1", "1.", ".5", "1e5", "NA", "1234567890123456", "1 ", "--1", "1.2.3"]
    {
        assert!(!is_number(other), "{other}");
    }
}
