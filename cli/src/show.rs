//! Bytes as text: for reading, and in JSON.
//!
//! For reading, UTF-8 stands as it is; control characters and bytes that are not UTF-8 become
//! `\xNN`. That keeps a row on its line. It cannot always be read back: JSON is for that.

use crate::json;
use std::io::Write;

/// Appends bytes for reading.
pub(crate) fn text(bytes: &[u8], out: &mut Vec<u8>) {
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            let mut buffer = [0; 4];
            let encoded = character.encode_utf8(&mut buffer).as_bytes();
            if character.is_control() {
                escape(encoded, out);
            } else {
                out.extend_from_slice(encoded);
            }
        }
        escape(chunk.invalid(), out);
    }
}

fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        write!(out, "\\x{byte:02x}").expect("memory");
    }
}

/// Appends a value as a member of a JSON object: `"value"` if it is JSON, `"value_text"` if it is
/// other text, `"value_hex"` if it is neither.
pub(crate) fn value_member(value: &[u8], out: &mut Vec<u8>) {
    match std::str::from_utf8(value) {
        Ok(text) if json::is_json(text) => {
            out.extend_from_slice(b"\"value\":");
            json::compact(text, out);
        }
        Ok(text) => {
            out.extend_from_slice(b"\"value_text\":");
            json_text(text, out);
        }
        Err(_) => {
            out.extend_from_slice(b"\"value_hex\":");
            json_hex(value, out);
        }
    }
}

/// Appends a value as one line of NDJSON: itself if it is JSON, else as a JSON string, or, if it
/// is not text, as an object `{"hex": ...}`. Returns whether it was JSON.
pub(crate) fn value_line(value: &[u8], out: &mut Vec<u8>) -> bool {
    match std::str::from_utf8(value) {
        Ok(text) if json::is_json(text) => {
            json::compact(text, out);
            return true;
        }
        Ok(text) => json_text(text, out),
        Err(_) => {
            out.extend_from_slice(b"{\"hex\":");
            json_hex(value, out);
            out.push(b'}');
        }
    }
    false
}

/// Appends a text as a JSON string.
pub(crate) fn json_text(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("memory");
}

/// Appends bytes as a JSON string of hexadecimal digits.
pub(crate) fn json_hex(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in bytes {
        write!(out, "{byte:02x}").expect("memory");
    }
    out.push(b'"');
}

/// Bytes from hexadecimal digits.
pub(crate) fn from_hex(text: &str) -> Result<Vec<u8>, String> {
    let wrong = || format!("{text:?} is not hexadecimal: an even number of digits 0-9, a-f");
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(wrong());
    }
    let bytes = (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16));
    bytes.collect::<Result<_, _>>().map_err(|error| format!("{text:?} is not hexadecimal: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_stays_and_the_rest_is_escaped() {
        assert_eq!(made(|out| text("é,\\ 日".as_bytes(), out)), "é,\\ 日");
        assert_eq!(made(|out| text(b"a\tb\nc\0\xff\xc3", out)), "a\\x09b\\x0ac\\x00\\xff\\xc3");
    }

    #[test]
    fn a_value_is_json_text_or_neither() {
        assert_eq!(made(|out| value_member(b"{ \"a\" : 1.0 }", out)), "\"value\":{\"a\":1.0}");
        assert_eq!(
            made(|out| value_member(b"say \"hi\"", out)),
            "\"value_text\":\"say \\\"hi\\\"\""
        );
        assert_eq!(made(|out| value_member(b"\xff\x00", out)), "\"value_hex\":\"ff00\"");
        assert_eq!(made(|out| assert!(value_line(b"17", out))), "17");
        assert_eq!(made(|out| assert!(!value_line(b"seventeen", out))), "\"seventeen\"");
        assert_eq!(made(|out| assert!(!value_line(b"\xff", out))), "{\"hex\":\"ff\"}");
    }

    #[test]
    fn hexadecimal_reads_back() {
        assert_eq!(from_hex("00fFa1").unwrap(), [0, 0xff, 0xa1]);
        for bad in ["0", "0g", "+1", "é0"] {
            assert!(from_hex(bad).is_err(), "{bad}");
        }
    }
}
