//! Input files: where they come from, what format they have, and their rows.

mod array;
#[cfg(test)]
#[path = "../../../fuzz/import.rs"]
mod fuzz;
mod lines;
mod separated;
mod source;

pub(crate) use source::{Interrupt, Source};

use crate::json;
use crate::key::Spec;
use array::Elements;
use clap::ValueEnum;
use lines::{Lines, without_end};
use separated::Separated;
use std::io::{self, BufRead};
use std::path::Path;

/// Longest text of a row: the longest value, and some room for white space.
const ROW_BYTES_MAX: usize = esker::VALUE_BYTES_MAX + (1 << 20);

/// Formats of input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// One JSON object a line.
    Ndjson,
    /// An array of JSON objects; what does not begin with a bracket is read as NDJSON.
    Json,
    /// Comma-separated values with a header row.
    Csv,
    /// Tab-separated values with a header row, without quoting.
    Tsv,
}

impl Format {
    /// By the extension of a file, that of gzip aside.
    pub(crate) fn of_path(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        match name.rsplit_once('.')?.1 {
            "ndjson" | "jsonl" => Some(Self::Ndjson),
            "json" => Some(Self::Json),
            "csv" => Some(Self::Csv),
            "tsv" | "tab" => Some(Self::Tsv),
            _ => None,
        }
    }
}

/// A row of the input; the vectors are used again for the next one.
#[derive(Debug, Default)]
pub(crate) struct Row {
    /// The line where it begins, counted from 1.
    pub(crate) line: u64,
    /// As it stands in the input.
    pub(crate) raw: Vec<u8>,
    pub(crate) key: Vec<u8>,
    /// As JSON.
    pub(crate) value: Vec<u8>,
}

/// What came next in the input.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Row,
    /// A row that cannot be used, and why; its line and text are there.
    Malformed(String),
    End,
}

/// The rows of an input.
pub(crate) struct Rows {
    spec: Spec,
    format: Reader,
}

enum Reader {
    Ndjson(Lines<Box<dyn BufRead>>),
    Array(Elements<Box<dyn BufRead>>),
    Separated(Box<Separated<Box<dyn BufRead>>>),
}

impl Rows {
    /// Begins to read.
    ///
    /// # Errors
    /// A sentence on the header row, in `Ok(Err(_))`.
    pub(crate) fn new(
        mut input: Box<dyn BufRead>,
        format: Format,
        spec: &Spec,
        strings: bool,
    ) -> io::Result<Result<Self, String>> {
        skip_byte_order_mark(&mut input)?;
        let separated = |input, separator| {
            let reader = Separated::new(input, separator, spec, strings)?;
            Ok::<_, io::Error>(reader.map(|reader| Reader::Separated(Box::new(reader))))
        };
        let reader = match format {
            Format::Json if begins_with_bracket(&mut input)? => {
                Ok(Reader::Array(Elements::new(input)))
            }
            Format::Ndjson | Format::Json => Ok(Reader::Ndjson(Lines::new(input))),
            Format::Csv => separated(input, b',')?,
            Format::Tsv => separated(input, b'\t')?,
        };
        Ok(reader.map(|format| Self { spec: spec.clone(), format }))
    }

    /// Reads the next row.
    pub(crate) fn next(&mut self, row: &mut Row) -> io::Result<Next> {
        let number = match &mut self.format {
            Reader::Separated(reader) => return reader.next(&self.spec, row),
            Reader::Ndjson(lines) => loop {
                row.raw.clear();
                let Some(line) = lines.read(&mut row.raw)? else { return Ok(Next::End) };
                row.line = line.number;
                if let Err(reason) = line.check() {
                    return Ok(Next::Malformed(reason));
                }
                if !without_end(&row.raw).trim_ascii().is_empty() {
                    break line.number;
                }
            },
            Reader::Array(elements) => {
                let Some(element) = elements.read(&mut row.raw)? else { return Ok(Next::End) };
                row.line = element.line;
                if let Some(reason) = element.broken {
                    return Ok(Next::Malformed(reason));
                }
                element.number
            }
        };
        Ok(match json::row(&row.raw, number, &self.spec, &mut row.key, &mut row.value) {
            Ok(()) => Next::Row,
            Err(reason) => Next::Malformed(reason),
        })
    }
}

/// Some programs write one at the beginning of text files.
fn skip_byte_order_mark(input: &mut impl BufRead) -> io::Result<()> {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    if input.fill_buf()?.starts_with(MARK) {
        input.consume(MARK.len());
    }
    Ok(())
}

/// Looks at the first byte that is not white space, as far as the first buffer shows it.
fn begins_with_bracket(input: &mut impl BufRead) -> io::Result<bool> {
    Ok(input.fill_buf()?.trim_ascii_start().starts_with(b"["))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What fuzzing has found stays found.
    #[test]
    fn the_corpus_is_read() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/import");
        for entry in std::fs::read_dir(folder).unwrap() {
            #[expect(clippy::disallowed_methods, reason = "the corpus lies on the real disk")]
            let data = std::fs::read(entry.unwrap().path()).unwrap();
            fuzz::rows(&data);
            fuzz::typed(&data);
        }
    }

    fn all(text: &'static [u8], format: Format, key: &str) -> Vec<String> {
        let spec = Spec::parse(key).unwrap();
        let mut rows = Rows::new(Box::new(text), format, &spec, false).unwrap().unwrap();
        let (mut found, mut row) = (Vec::new(), Row::default());
        loop {
            match rows.next(&mut row).unwrap() {
                Next::End => return found,
                Next::Row => found.push(String::from_utf8(row.value.clone()).unwrap()),
                Next::Malformed(reason) => found.push(format!("{}: {reason}", row.line)),
            }
        }
    }

    #[test]
    fn formats_are_known_by_extension() {
        let of = |name: &str| Format::of_path(Path::new(name));
        assert_eq!(of("a/b.csv"), Some(Format::Csv));
        assert_eq!(of("b.CSV.gz"), Some(Format::Csv));
        assert_eq!(of("b.x.jsonl"), Some(Format::Ndjson));
        assert_eq!(of("b.json.gz"), Some(Format::Json));
        assert_eq!(of("b.tsv"), Some(Format::Tsv));
        assert_eq!((of("b.gz"), of("b"), of("-")), (None, None, None));
    }

    #[test]
    fn blank_lines_and_a_byte_order_mark_are_skipped() {
        let text = b"\xef\xbb\xbf{\"id\":1}\n \r\n\n{\"id\":2}\r\nx\n{\"id\":3}";
        let expected = ["{\"id\":1}", "{\"id\":2}", "5: expected value, at column 1", "{\"id\":3}"];
        assert_eq!(all(text, Format::Ndjson, "id"), expected);
        assert_eq!(all(text, Format::Json, "id"), expected);
        assert_eq!(all(b"\xef\xbb\xbfid\n1\n", Format::Csv, "id"), ["{\"id\":1}"]);
    }

    #[test]
    fn arrays_and_lines_give_the_same_rows() {
        let expected = ["{\"id\":1}", "{\"id\":2}"];
        assert_eq!(all(b" [ {\"id\": 1}, {\"id\":\n2} ] ", Format::Json, "id"), expected);
        assert_eq!(all(b"{\"id\": 1}\n{\"id\": 2}", Format::Json, "id"), expected);
        assert!(all(b"", Format::Json, "id").is_empty());
    }
}
