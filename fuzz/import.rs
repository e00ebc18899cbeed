//! Any text as a file to import: each row comes once, as JSON, with a key that can be shown.
//!
//! ```text
//! | format | key | values are strings | text |
//! ```

use crate::input::{Format, Next, Row, Rows};
use crate::key::{Extent, Spec};
use std::io::Cursor;

const FORMATS: [Format; 4] = [Format::Ndjson, Format::Json, Format::Csv, Format::Tsv];
const KEYS: [&str; 5] = ["id", "a:int", "a,b", "@line", "a:int,id,@line"];

/// What the fuzz target runs, and the replay of its corpus.
pub(crate) fn rows(data: &[u8]) {
    let Some((&[format, key, strings], text)) = data.split_first_chunk() else { return };
    let spec = Spec::parse(KEYS[usize::from(key) % KEYS.len()]).expect("these are keys");
    let format = FORMATS[usize::from(format) % FORMATS.len()];
    let input = Box::new(Cursor::new(text.to_vec()));
    let opened = Rows::new(input, format, &spec, strings % 2 == 1).expect("memory can be read");
    let Ok(mut rows) = opened else { return };
    let mut row = Row::default();
    // A row takes a byte at least.
    for _ in 0..text.len() + 2 {
        match rows.next(&mut row).expect("memory can be read") {
            Next::End => return,
            Next::Malformed(reason) => assert!(!reason.is_empty()),
            Next::Row => {
                let value: serde_json::Result<serde_json::Value> =
                    serde_json::from_slice(&row.value);
                assert!(value.is_ok(), "{value:?} of {}", row.value.escape_ascii());
                let mut shown = Vec::new();
                spec.show(&row.key, &mut shown);
                // What is shown can be typed, if it is text without escapes; no text is no key (`import.rs` refuses it).
                if spec.len() == 1 && !row.key.is_empty() && !shown.contains(&b'\\') {
                    let typed = spec.typed(&shown, Extent::Whole);
                    assert_eq!(typed.as_ref(), Ok(&row.key), "{}", shown.escape_ascii());
                }
                shown.clear();
                spec.json_member(&row.key, &mut shown);
                let member = [b"{", &shown[..], b"}"].concat();
                let member: serde_json::Result<serde_json::Value> = serde_json::from_slice(&member);
                assert!(member.is_ok(), "{member:?}");
            }
        }
    }
    panic!("more rows than bytes");
}

/// Any text typed as a key: refused, or a key that can be shown.
pub(crate) fn typed(data: &[u8]) {
    let Some((&key, text)) = data.split_first() else { return };
    let spec = Spec::parse(KEYS[usize::from(key) % KEYS.len()]).expect("these are keys");
    for extent in [Extent::Whole, Extent::Start] {
        if let Ok(key) = spec.typed(text, extent) {
            spec.show(&key, &mut Vec::new());
        }
    }
}
