//! CSV and TSV: a header row, then one record a row.
//!
//! CSV is RFC 4180: a field may stand in double quotes, and hold commas, line ends and doubled
//! quotes there. A quote inside a field that does not begin with one is text. Text behind a
//! closing quote is an error; the csv crate would drop the quotes and go on. TSV has no quoting:
//! what stands between two tabs is the field.
//!
//! A quote that is never closed would swallow the lines behind it. So when a record of several
//! lines is malformed, only its first line counts as such, and reading goes on with the second.
//!
//! # What a field becomes
//!
//! A number if it is spelled as JSON spells one, without exponent and with at most 15 digits, so
//! that every reader of JSON gets it exactly; else a string. The spelling is kept either way.

use super::lines::{Lines, without_end};
use super::{Next, Row};
use crate::key::Spec;
use crate::show;
use std::io::{self, BufRead};

/// A quote may stay open for this long.
const QUOTED_BYTES_MAX: usize = 4 << 20;
/// Digits that a double holds exactly, whatever they are.
const NUMBER_DIGITS_MAX: usize = 15;

/// Reads CSV or TSV.
pub(crate) struct Separated<R> {
    lines: Lines<R>,
    fields: Fields,
    /// Names of the columns, each as JSON with the colon: `"year":`.
    names: Vec<Vec<u8>>,
    /// The column of each part of the key; none for the number of the line.
    key_columns: Vec<Option<usize>>,
    /// Every field stays a string.
    strings: bool,
}

/// The fields of one record, taken out of their quotes.
struct Fields {
    separator: u8,
    /// Whether quotes mean something.
    quoting: bool,
    text: Vec<u8>,
    /// Where each field ends in `text`.
    ends: Vec<usize>,
    /// The last line ended inside quotes.
    open: bool,
}

/// What a record is after one more line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Record {
    Complete,
    /// A quote is open.
    Open,
    /// Text behind the closing quote of this field, counted from 1.
    Trailing(usize),
}

impl<R: BufRead> Separated<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// A sentence on what is wrong with it, in `Ok(Err(_))`.
    pub(crate) fn new(
        input: R,
        separator: u8,
        spec: &Spec,
        strings: bool,
    ) -> io::Result<Result<Self, String>> {
        let mut new = Self {
            lines: Lines::new(input),
            fields: Fields::new(separator),
            names: Vec::new(),
            key_columns: Vec::new(),
            strings,
        };
        let mut raw = Vec::new();
        let header = match new.record(&mut raw)? {
            None => return Ok(Err("there is no header row".to_owned())),
            Some((_, Err(reason))) => return Ok(Err(format!("the header row: {reason}"))),
            Some((_, Ok(()))) => new.fields.all(),
        };
        let mut names: Vec<String> = Vec::new();
        for name in header {
            let Ok(name) = std::str::from_utf8(name) else {
                return Ok(Err("the header row is not UTF-8".to_owned()));
            };
            if names.iter().any(|other| other == name) {
                return Ok(Err(format!("the header row names {name:?} twice")));
            }
            names.push(name.to_owned());
        }
        for part in 0..spec.len() {
            let Some(field) = spec.field(part) else {
                new.key_columns.push(None);
                continue;
            };
            let Some(column) = names.iter().position(|name| name == field) else {
                let names = names.join(", ");
                return Ok(Err(format!("there is no column {field:?}; the header names {names}")));
            };
            new.key_columns.push(Some(column));
        }
        new.names = names
            .iter()
            .map(|name| {
                let mut json = Vec::new();
                show::json_text(name, &mut json);
                json.push(b':');
                json
            })
            .collect();
        Ok(Ok(new))
    }

    pub(crate) fn next(&mut self, spec: &Spec, row: &mut Row) -> io::Result<Next> {
        let Some((line, read)) = self.record(&mut row.raw)? else { return Ok(Next::End) };
        row.line = line;
        Ok(match read.and_then(|()| self.row(spec, row)) {
            Ok(()) => Next::Row,
            Err(reason) => Next::Malformed(reason),
        })
    }

    /// Reads a record, its text into `raw`, its fields into `self.fields`. Gives its first line.
    fn record(&mut self, raw: &mut Vec<u8>) -> io::Result<Option<(u64, Result<(), String>)>> {
        loop {
            raw.clear();
            let Some(first) = self.lines.read(raw)? else { return Ok(None) };
            if without_end(raw).is_empty() {
                continue;
            }
            if let Err(reason) = first.check() {
                return Ok(Some((first.number, Err(reason))));
            }
            let first_bytes = raw.len();
            self.fields.begin();
            let mut record = self.fields.feed(raw);
            while record == Record::Open && raw.len() <= QUOTED_BYTES_MAX {
                let so_far = raw.len();
                if self.lines.read(raw)?.is_none() {
                    break;
                }
                record = self.fields.feed(&raw[so_far..]);
            }
            let fits = self.names.is_empty() || self.fields.len() == self.names.len();
            let mut reason = match record {
                Record::Complete if fits => return Ok(Some((first.number, Ok(())))),
                Record::Complete => self.wrong_count(),
                Record::Open => "a quote is opened and never closed".to_owned(),
                Record::Trailing(field) => {
                    format!("text behind the closing quote of field {field}")
                }
            };
            if raw.len() > first_bytes && record != Record::Open {
                reason.push_str(", if the quote open at the end of the line is meant");
            }
            self.lines.give_back(&raw[first_bytes..]);
            raw.truncate(first_bytes);
            return Ok(Some((first.number, Err(reason))));
        }
    }

    fn wrong_count(&self) -> String {
        let (found, wanted) = (self.fields.len(), self.names.len());
        let s = if found == 1 { "" } else { "s" };
        format!("{found} field{s}, the header has {wanted}")
    }

    /// Makes key and value of the fields.
    fn row(&self, spec: &Spec, row: &mut Row) -> Result<(), String> {
        let all = std::str::from_utf8(&self.fields.text).map_err(|error| {
            format!("not UTF-8 from byte {} of its fields on", error.valid_up_to() + 1)
        })?;
        row.key.clear();
        for (part, column) in self.key_columns.iter().enumerate() {
            match column {
                None => spec.push_line(part, row.line, &mut row.key),
                Some(column) => spec.push(part, self.fields.get(all, *column)?, &mut row.key)?,
            }
        }
        row.value.clear();
        row.value.push(b'{');
        for (column, name) in self.names.iter().enumerate() {
            if column > 0 {
                row.value.push(b',');
            }
            row.value.extend_from_slice(name);
            let field = self.fields.get(all, column)?;
            if !self.strings && is_number(field) {
                row.value.extend_from_slice(field.as_bytes());
            } else {
                show::json_text(field, &mut row.value);
            }
        }
        row.value.push(b'}');
        Ok(())
    }
}

impl Fields {
    fn new(separator: u8) -> Self {
        let quoting = separator == b',';
        Self { separator, quoting, text: Vec::new(), ends: Vec::new(), open: false }
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn all(&self) -> Vec<&[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.text[start..*end]).collect()
    }

    /// A field out of `all`, the text of all fields.
    fn get<'t>(&self, all: &'t str, i: usize) -> Result<&'t str, String> {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        // Bytes of one character on both sides of a separator.
        all.get(start..self.ends[i]).ok_or_else(|| format!("field {} is not UTF-8", i + 1))
    }

    fn begin(&mut self) {
        self.text.clear();
        self.ends.clear();
        self.open = false;
    }

    /// Takes in a line, with its end.
    fn feed(&mut self, line: &[u8]) -> Record {
        let content = without_end(line);
        let mut rest = content;
        loop {
            let quoted = self.open || (self.quoting && rest.first() == Some(&b'"'));
            if quoted {
                if !self.open {
                    rest = &rest[1..];
                }
                let Some(after) = self.take_quoted(rest) else {
                    self.text.extend_from_slice(&line[content.len()..]);
                    return Record::Open;
                };
                rest = after;
                if !matches!(rest.first(), None | Some(b',')) {
                    return Record::Trailing(self.len() + 1);
                }
            } else {
                let end = rest.iter().position(|byte| *byte == self.separator);
                let (field, after) = rest.split_at(end.unwrap_or(rest.len()));
                self.text.extend_from_slice(field);
                rest = after;
            }
            self.ends.push(self.text.len());
            match rest.split_first() {
                Some((_separator, after)) => rest = after,
                None => return Record::Complete,
            }
        }
    }

    /// Takes a field up to its closing quote and gives what is behind that; none if it stays open.
    fn take_quoted<'l>(&mut self, mut rest: &'l [u8]) -> Option<&'l [u8]> {
        loop {
            let end = rest.iter().position(|byte| *byte == b'"');
            self.open = end.is_none();
            self.text.extend_from_slice(&rest[..end.unwrap_or(rest.len())]);
            rest = &rest[end? + 1..];
            if rest.first() != Some(&b'"') {
                return Some(rest);
            }
            self.text.push(b'"');
            rest = &rest[1..];
        }
    }
}

/// True for what JSON spells the same way and every reader of JSON gets exactly.
fn is_number(field: &str) -> bool {
    let digits = field.strip_prefix('-').unwrap_or(field);
    let (whole, fraction) = match digits.split_once('.') {
        Some((_, "")) => return false,
        Some(parts) => parts,
        None => (digits, ""),
    };
    !whole.is_empty()
        && whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit())
        && (whole == "0" || !whole.starts_with('0'))
        && whole.len() + fraction.len() <= NUMBER_DIGITS_MAX
}

#[cfg(test)]
mod tests;
