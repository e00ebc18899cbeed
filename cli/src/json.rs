//! JSON rows, kept as they are spelled.
//!
//! A row is checked and its key fields are read, but it is stored as the text it came in, less
//! the white space between tokens: numbers keep their digits, fields their order.

use crate::key::Spec;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::Deserializer;
use serde_json::value::RawValue;
use std::fmt;

/// True if a text is one JSON value.
pub(crate) fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

/// Appends JSON without the white space between its tokens.
pub(crate) fn compact(text: &str, out: &mut Vec<u8>) {
    out.reserve(text.len());
    let (mut in_string, mut escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b' ' | b'\n' | b'\r' | b'\t' if !in_string => continue,
            _ => {}
        }
        out.push(byte);
    }
}

/// Makes key and value of a row from its text.
///
/// # Errors
/// A sentence on what is wrong with the row.
pub(crate) fn row(
    raw: &[u8],
    line: u64,
    spec: &Spec,
    key: &mut Vec<u8>,
    value: &mut Vec<u8>,
) -> Result<(), String> {
    let text = std::str::from_utf8(raw)
        .map_err(|error| format!("not UTF-8 from its byte {} on", error.valid_up_to() + 1))?;
    let mut parser = Deserializer::from_str(text);
    let picked = Fields { spec }
        .deserialize(&mut parser)
        .and_then(|picked| parser.end().map(|()| picked))
        .map_err(|error| complaint(&error))?;
    key.clear();
    for (part, found) in picked.iter().enumerate() {
        let Some(field) = spec.field(part) else {
            spec.push_line(part, line, key);
            continue;
        };
        let found = found.ok_or_else(|| format!("no field {field:?}"))?.get();
        match found.as_bytes()[0] {
            b'"' => {
                let text: String =
                    serde_json::from_str(found).map_err(|error| complaint(&error))?;
                spec.push(part, &text, key)?;
            }
            b'n' => return Err(format!("field {field:?} is null")),
            b'{' => return Err(format!("field {field:?} is an object, which no key part can be")),
            b'[' => return Err(format!("field {field:?} is an array, which no key part can be")),
            _ => spec.push(part, found, key)?,
        }
    }
    value.clear();
    compact(text, value);
    Ok(())
}

/// What the parser says, without "line 1", which a row does not have.
fn complaint(error: &serde_json::Error) -> String {
    let sentence = error.to_string();
    let what = sentence.rsplit_once(" at line ").map_or(sentence.as_str(), |(what, _)| what);
    match (error.line(), error.column()) {
        (0, _) => what.to_owned(),
        (1, column) => format!("{what}, at column {column}"),
        (line, column) => format!("{what}, at column {column} of its line {line}"),
    }
}

/// Reads the key fields of an object, each as the text it stands there as.
struct Fields<'s> {
    spec: &'s Spec,
}

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = Vec<Option<&'de RawValue>>;

    fn deserialize<D: serde::Deserializer<'de>>(
        self,
        deserializer: D,
    ) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = Vec<Option<&'de RawValue>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut picked = vec![None; self.spec.len()];
        let mut matches = Vec::with_capacity(self.spec.len());
        loop {
            matches.clear();
            let name = Name { spec: self.spec, matches: &mut matches };
            if map.next_key_seed(name)?.is_none() {
                return Ok(picked);
            }
            if matches.is_empty() {
                map.next_value::<IgnoredAny>()?;
            } else {
                // Of a field given twice, the last one counts, as with most readers of JSON.
                let value: &RawValue = map.next_value()?;
                for part in &matches {
                    picked[*part] = Some(value);
                }
            }
        }
    }

    fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Self::Value, E> {
        Err(E::custom("a row must be a JSON object, this is true or false"))
    }
    fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Self::Value, E> {
        Err(E::custom("a row must be a JSON object, this is a number"))
    }
    fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Self::Value, E> {
        Err(E::custom("a row must be a JSON object, this is a number"))
    }
    fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Self::Value, E> {
        Err(E::custom("a row must be a JSON object, this is a number"))
    }
    fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Self::Value, E> {
        Err(E::custom("a row must be a JSON object, this is a string"))
    }
    fn visit_unit<E: serde::de::Error>(self) -> Result<Self::Value, E> {
        Err(E::custom("a row must be a JSON object, this is null"))
    }
    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
        Err(A::Error::custom("a row must be a JSON object, this is an array"))
    }
}

/// Compares the name of a field with those of the key, without allocating.
struct Name<'s, 'm> {
    spec: &'s Spec,
    /// The parts that take this field.
    matches: &'m mut Vec<usize>,
}

impl<'de> DeserializeSeed<'de> for Name<'_, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a field")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<(), E> {
        self.matches.extend((0..self.spec.len()).filter(|i| self.spec.field(*i) == Some(name)));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, spec: &str) -> Result<(String, String), String> {
        let spec = Spec::parse(spec).unwrap();
        let (mut key, mut value) = (Vec::new(), Vec::new());
        row(text.as_bytes(), 1, &spec, &mut key, &mut value)?;
        Ok((String::from_utf8(key).unwrap(), String::from_utf8(value).unwrap()))
    }

    #[test]
    fn rows_keep_their_spelling() {
        let text = r#" { "big" : 123456789012345678901234567890, "id" : "a \" b\\", "x":1.50,
                        "id2":[ 1, { } ] } "#;
        let (key, value) = read(text, "id").unwrap();
        assert_eq!(key, "a \" b\\");
        assert_eq!(
            value,
            r#"{"big":123456789012345678901234567890,"id":"a \" b\\","x":1.50,"id2":[1,{}]}"#
        );
    }

    #[test]
    fn key_fields_may_be_text_numbers_and_truth_values() {
        assert_eq!(read(r#"{"a":"é","b":1.50,"c":true}"#, "a,b,c").unwrap().0, "é\x001.50\0true");
        assert_eq!(read(r#"{"a":"1","a":"2"}"#, "a").unwrap().0, "2");
    }

    #[test]
    fn complaints_say_what_and_where() {
        let complaint = |text: &str| read(text, "id").unwrap_err();
        assert_eq!(complaint(r#"{"id":}"#), "expected value, at column 7");
        assert_eq!(complaint("{\"id\":1,\n\"x\"}"), "expected `:`, at column 4 of its line 2");
        assert_eq!(complaint("[1]"), "a row must be a JSON object, this is an array, at column 1");
        assert_eq!(complaint(r#"{"x":1}"#), "no field \"id\"");
        assert_eq!(complaint(r#"{"id":null}"#), "field \"id\" is null");
        assert_eq!(
            complaint(r#"{"id":{}}"#),
            "field \"id\" is an object, which no key part can be"
        );
        assert_eq!(complaint(r#"{"id":1} x"#), "trailing characters, at column 10");
        assert!(read(r#"{"id":"x"}"#, "id:int").unwrap_err().contains("not a 64-bit integer"));
        let spec = Spec::plain();
        let broken = row(b"{\"a\":\"\xff\"}", 1, &spec, &mut Vec::new(), &mut Vec::new());
        assert_eq!(broken.unwrap_err(), "not UTF-8 from its byte 7 on");
    }

    #[test]
    fn nesting_does_not_cost_stack() {
        let deep = format!("{{\"id\":1,\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(read(&deep, "id").is_ok());
        assert!(is_json(&deep));
    }
}
