//! Keys: what fields of a row make one, and how people type and read it.
//!
//! `--key` names one field or several, each a *part* of the key:
//!
//! ```text
//! key   part, part, ...            one part for each field
//! text  the field's text, 0x00     no zero byte after the last part
//! int   8 bytes                    big-endian, sign bit flipped
//! ```
//!
//! The bytes order as the parts do, the first part first: zero is below every byte that a text
//! may hold (a text with a zero byte in it is refused where another part follows). A single text
//! is stored as it is, so programs and people meet the same key.
//!
//! On the command line the parts of a key stand between commas, as the fields do in `--key`; a
//! comma or a backslash that belongs to a part is written `\,` or `\\`. A key of one part is
//! typed as it is.

use crate::show;
use std::fmt;

/// Name of the pseudo-field that numbers the rows.
const LINE: &str = "@line";
/// Between two parts.
const SEPARATOR: u8 = 0;
const INT_BYTES: usize = 8;

/// How a part is written into the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Int,
    /// Not a field, but the number of the line.
    Line,
}

/// One part of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    field: String,
    kind: Kind,
}

/// What the keys of a table are made of: at least one part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    parts: Vec<Part>,
}

/// How much of a key a typed text must give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    Whole,
    /// The first parts, the last of them perhaps in part: for ranges and prefixes.
    Start,
}

impl Spec {
    /// Keys that are text of their own, not made of fields.
    pub(crate) fn plain() -> Self {
        Self { parts: vec![Part { field: String::new(), kind: Kind::Text }] }
    }

    /// Reads what `--key` says: names between commas, each with `:int` or `:text` (the default)
    /// after it if need be.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        for name in split(text.as_bytes()) {
            let name = String::from_utf8(name).expect("pieces of a text, cut at ASCII");
            let (field, kind) = match (name.strip_suffix(":int"), name.strip_suffix(":text")) {
                _ if name == LINE => (name.as_str(), Kind::Line),
                (Some(field), _) => (field, Kind::Int),
                (_, Some(field)) => (field, Kind::Text),
                _ => (name.as_str(), Kind::Text),
            };
            if field.is_empty() {
                return Err(format!("{text:?} names a field without a name"));
            }
            parts.push(Part { field: field.to_owned(), kind });
        }
        Ok(Self { parts })
    }

    /// True if its keys are one text: what people type into tables that were not imported.
    pub(crate) fn is_text(&self) -> bool {
        self.len() == 1 && self.parts[0].kind == Kind::Text
    }

    pub(crate) fn len(&self) -> usize {
        self.parts.len()
    }

    /// The name of the field that a part is taken from; none for the number of the line.
    pub(crate) fn field(&self, part: usize) -> Option<&str> {
        let part = &self.parts[part];
        (part.kind != Kind::Line).then_some(part.field.as_str())
    }

    /// Appends a part to a key, from the text of its field.
    pub(crate) fn push(&self, part: usize, text: &str, key: &mut Vec<u8>) -> Result<(), String> {
        let Part { field, kind } = &self.parts[part];
        match kind {
            Kind::Text => {
                let last = part + 1 == self.len();
                if !last && text.as_bytes().contains(&SEPARATOR) {
                    return Err(format!(
                        "field {field:?} holds a zero byte, which no key part may"
                    ));
                }
                key.extend_from_slice(text.as_bytes());
                if !last {
                    key.push(SEPARATOR);
                }
            }
            Kind::Int | Kind::Line => {
                let number = text.trim().parse().map_err(|error| not_int(field, text, &error))?;
                push_int(number, key);
            }
        }
        Ok(())
    }

    /// Appends the number of a line to a key.
    pub(crate) fn push_line(&self, part: usize, line: u64, key: &mut Vec<u8>) {
        debug_assert_eq!(self.parts[part].kind, Kind::Line, "the caller asked `field` first");
        push_int(i64::try_from(line).expect("no file has 2^63 lines"), key);
    }

    /// The key that a person means by a text.
    pub(crate) fn typed(&self, text: &[u8], extent: Extent) -> Result<Vec<u8>, String> {
        let single = self.len() == 1;
        let pieces = if single { vec![text.to_vec()] } else { split(text) };
        let too_few = extent == Extent::Whole && pieces.len() < self.len();
        if too_few || pieces.len() > self.len() {
            return Err(format!(
                "key {:?} has {} parts, the keys of this table have {}: {self}",
                String::from_utf8_lossy(text),
                pieces.len(),
                self.len()
            ));
        }
        let mut key = Vec::new();
        for (i, (piece, part)) in pieces.iter().zip(&self.parts).enumerate() {
            match part.kind {
                Kind::Text => {
                    key.extend_from_slice(piece);
                    if i + 1 < pieces.len() {
                        key.push(SEPARATOR);
                    }
                }
                // The text ended with a comma: what follows is open.
                _ if piece.is_empty() && i > 0 && extent == Extent::Start => {}
                _ => {
                    let text = String::from_utf8_lossy(piece);
                    let number =
                        text.parse().map_err(|error| not_int(&part.field, &text, &error))?;
                    push_int(number, &mut key);
                }
            }
        }
        if key.is_empty() && extent == Extent::Whole {
            return Err("the key is empty".to_owned());
        }
        Ok(key)
    }

    /// The parts of a key; none if it was not made by this spec.
    fn parts_of<'k>(&self, key: &'k [u8]) -> Option<Vec<Shown<'k>>> {
        let mut rest = key;
        let mut shown = Vec::with_capacity(self.len());
        for (i, part) in self.parts.iter().enumerate() {
            let last = i + 1 == self.len();
            if part.kind == Kind::Text {
                let end = if last {
                    rest.len()
                } else {
                    rest.iter().position(|byte| *byte == SEPARATOR)?
                };
                shown.push(Shown::Text(std::str::from_utf8(&rest[..end]).ok()?));
                rest = &rest[end..];
                rest = if last { rest } else { &rest[1..] };
            } else {
                let (bytes, after) = rest.split_first_chunk::<INT_BYTES>()?;
                shown.push(Shown::Int(int(*bytes)));
                rest = after;
            }
        }
        rest.is_empty().then_some(shown)
    }

    /// A key for reading.
    pub(crate) fn show(&self, key: &[u8], out: &mut Vec<u8>) {
        let Some(parts) = self.parts_of(key) else { return show::text(key, out) };
        let single = parts.len() == 1;
        for (i, part) in parts.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            match part {
                Shown::Int(number) => out.extend_from_slice(number.to_string().as_bytes()),
                Shown::Text(text) if single => show::text(text.as_bytes(), out),
                Shown::Text(text) => show::text(escape(text).as_bytes(), out),
            }
        }
    }

    /// A key as a member of a JSON object: `"key"` with its text or number, or an array of them
    /// if the key has several parts; `"key_hex"` if it is not made of text.
    pub(crate) fn json_member(&self, key: &[u8], out: &mut Vec<u8>) {
        let Some(parts) = self.parts_of(key) else {
            out.extend_from_slice(b"\"key_hex\":");
            return show::json_hex(key, out);
        };
        out.extend_from_slice(b"\"key\":");
        let single = parts.len() == 1;
        if !single {
            out.push(b'[');
        }
        for (i, part) in parts.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            match part {
                Shown::Int(number) => out.extend_from_slice(number.to_string().as_bytes()),
                Shown::Text(text) => show::json_text(text, out),
            }
        }
        if !single {
            out.push(b']');
        }
    }
}

/// A part of a key, read back.
enum Shown<'k> {
    Text(&'k str),
    Int(i64),
}

/// As `--key` would say it.
impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, part) in self.parts.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let name = &part.field;
            let suffix = match part.kind {
                Kind::Int => ":int",
                Kind::Text if name == LINE => ":text",
                Kind::Text if name.ends_with(":int") || name.ends_with(":text") => ":text",
                Kind::Text | Kind::Line => "",
            };
            write!(f, "{comma}{}{suffix}", escape(name))?;
        }
        Ok(())
    }
}

fn not_int(field: &str, text: &str, error: &std::num::ParseIntError) -> String {
    let text = text.escape_debug();
    if field == LINE {
        return format!("{text:.40} is not the number of a line: {error}");
    }
    format!("field {field:?} is {text:.40}, not a 64-bit integer: {error}")
}

#[expect(clippy::big_endian_bytes, reason = "the order of the bytes is the order of the numbers")]
fn push_int(number: i64, key: &mut Vec<u8>) {
    key.extend_from_slice(&(number ^ i64::MIN).to_be_bytes());
}

#[expect(clippy::big_endian_bytes, reason = "the inverse of `push_int`")]
fn int(bytes: [u8; INT_BYTES]) -> i64 {
    i64::from_be_bytes(bytes) ^ i64::MIN
}

/// Cuts a text at its commas, but for those with a backslash before them.
fn split(text: &[u8]) -> Vec<Vec<u8>> {
    let mut pieces = vec![Vec::new()];
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let piece = pieces.last_mut().expect("never empty");
        match (byte, bytes.peek()) {
            (b'\\', Some(&next @ (b',' | b'\\'))) => {
                piece.push(next);
                bytes.next();
            }
            (b',', _) => pieces.push(Vec::new()),
            _ => piece.push(byte),
        }
    }
    pieces
}

/// The inverse of [`split`] for one piece.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace(',', "\\,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(spec: &str, fields: &[&str]) -> Vec<u8> {
        let spec = Spec::parse(spec).unwrap();
        let mut key = Vec::new();
        for (i, text) in fields.iter().enumerate() {
            spec.push(i, text, &mut key).unwrap();
        }
        key
    }

    fn shown(spec: &str, key: &[u8]) -> (String, String) {
        let spec = Spec::parse(spec).unwrap();
        let (mut text, mut json) = (Vec::new(), Vec::new());
        spec.show(key, &mut text);
        spec.json_member(key, &mut json);
        (String::from_utf8(text).unwrap(), String::from_utf8(json).unwrap())
    }

    #[test]
    fn a_single_text_is_stored_and_typed_as_it_is() {
        let odd = "a,b\\,c";
        assert_eq!(key("name", &[odd]), odd.as_bytes());
        let typed = Spec::parse("name").unwrap().typed(odd.as_bytes(), Extent::Whole);
        assert_eq!(typed.unwrap(), odd.as_bytes());
        assert_eq!(shown("name", odd.as_bytes()).0, odd);
    }

    #[test]
    fn parts_order_as_their_fields_do() {
        let texts = ["", "\u{1}", " ", "a", "a b", "a,", "b", "é"];
        let numbers = ["-9223372036854775808", "-10", "-9", "0", "9", "10", "9223372036854775807"];
        let mut keys = Vec::new();
        for first in texts {
            for second in numbers {
                for third in texts {
                    keys.push(key("a,b:int,c", &[first, second, third]));
                }
            }
        }
        assert!(keys.is_sorted_by(|a, b| a < b));
    }

    #[test]
    fn what_is_shown_can_be_typed() {
        for fields in [["a", "-7", "b"], ["a,b\\", "12", ""], ["", "0", "\\,"]] {
            let spec = "x,n:int,y";
            let made = key(spec, &fields);
            let text = shown(spec, &made).0;
            let typed = Spec::parse(spec).unwrap().typed(text.as_bytes(), Extent::Whole).unwrap();
            assert_eq!(typed, made, "{text}");
        }
        assert_eq!(shown("x,n:int", &key("x,n:int", &["a", "5"])).1, r#""key":["a",5]"#);
        assert_eq!(shown("x", b"\xff"), ("\\xff".to_owned(), r#""key_hex":"ff""#.to_owned()));
    }

    #[test]
    fn a_start_may_be_cut_anywhere() {
        let spec = Spec::parse("t,n:int,u").unwrap();
        let typed = |text: &str| spec.typed(text.as_bytes(), Extent::Start).unwrap();
        let whole = key("t,n:int,u", &["day", "3", "xy"]);
        for start in ["", "d", "day", "day,", "day,3", "day,3,", "day,3,x", "day,3,xy"] {
            assert!(whole.starts_with(&typed(start)), "{start}");
        }
        assert!(!whole.starts_with(&typed("da,")));
        assert!(spec.typed(b"day,3", Extent::Whole).is_err());
        assert!(spec.typed(b"day,3,x,y", Extent::Start).is_err());
        assert!(spec.typed(b"day,three,x", Extent::Whole).is_err());
    }

    #[test]
    fn specs_read_as_they_are_written() {
        for text in ["id", "a,b:int,c", "@line", "a,@line", "a\\,b,c\\\\", "x:int:text", "dc:title"]
        {
            assert_eq!(Spec::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Spec::parse("a:text").unwrap().to_string(), "a");
        assert_eq!(Spec::parse("@line:text").unwrap().field(0), Some("@line"));
        assert_eq!(Spec::parse("@line").unwrap().field(0), None);
        for bad in ["", "a,", ",a", ":int"] {
            assert!(Spec::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_zero_byte_is_refused_where_it_would_end_a_part() {
        let spec = Spec::parse("a,b").unwrap();
        assert!(spec.push(0, "x\0y", &mut Vec::new()).is_err());
        assert!(spec.push(1, "x\0y", &mut Vec::new()).is_ok());
    }
}
