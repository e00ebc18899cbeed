//! The elements of a JSON array, one at a time, however long the array is.
//!
//! A scanner cuts the text into elements by counting brackets; whether an element is JSON is for
//! its reader to say. JSON strings hold no line ends, so one that meets the end of its line is
//! broken: the element ends there, and the line after begins a new one. So a missing quote or
//! bracket costs the element it is in, not the rest of the array, if elements begin on lines of
//! their own.

use super::ROW_BYTES_MAX;
use super::lines::read_line;
use std::io::{self, BufRead};

/// Reads a JSON array element by element.
#[derive(Debug)]
pub(crate) struct Elements<R> {
    input: R,
    place: Place,
    /// The line that the next byte is in, counted from 1.
    line: u64,
    count: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before its opening bracket.
    Before,
    Inside,
    /// Behind its closing bracket.
    After,
    End,
}

/// One element, or what stands where one should.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Element {
    /// The line where it begins.
    pub(crate) line: u64,
    /// Counted from 1.
    pub(crate) number: u64,
    /// What is wrong with it, if that is known already.
    pub(crate) broken: Option<String>,
}

/// Where the scanner is within an element.
#[derive(Default)]
struct Scan {
    begun: bool,
    /// Brackets open.
    depth: usize,
    in_string: bool,
    escaped: bool,
    bytes: u64,
}

/// What to do with a byte.
enum Step {
    /// White space or a comma between two elements.
    Skip,
    Keep,
    /// Keep it; the element is complete.
    KeepAndEnd,
    /// The element ended before it.
    EndBefore,
    /// A string is not closed on its line: the element ends with this byte.
    Broken,
    CloseArray,
}

impl Scan {
    fn step(&mut self, byte: u8) -> Step {
        if self.in_string {
            match byte {
                b'\n' => return Step::Broken,
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return Step::Keep;
        }
        if self.depth == 0 {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b',' if !self.begun => return Step::Skip,
                b'\n' | b',' => return Step::EndBefore,
                b']' if self.begun => return Step::EndBefore,
                b']' => return Step::CloseArray,
                // Nothing that it could close.
                b'}' => return Step::KeepAndEnd,
                _ => {}
            }
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => {
                self.depth -= 1;
                if self.depth == 0 {
                    return Step::KeepAndEnd;
                }
            }
            _ => {}
        }
        Step::Keep
    }
}

impl<R: BufRead> Elements<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, place: Place::Before, line: 1, count: 0 }
    }

    /// Puts the text of the next element into `out`.
    pub(crate) fn read(&mut self, out: &mut Vec<u8>) -> io::Result<Option<Element>> {
        out.clear();
        match self.place {
            Place::Before => self.open()?,
            Place::Inside => {}
            Place::After => return self.read_after(out),
            Place::End => return Ok(None),
        }
        let mut scan = Scan::default();
        let mut line = self.line;
        loop {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                self.place = Place::End;
                let what = if scan.begun { "inside this element" } else { "before the array does" };
                return Ok(Some(self.element(line, Some(format!("the file ends {what}")))));
            }
            let mut taken = 0;
            let mut ended = None;
            for &byte in buffer {
                let step = scan.step(byte);
                if !matches!(step, Step::EndBefore) {
                    taken += 1;
                    self.line += u64::from(byte == b'\n');
                }
                match step {
                    Step::Skip => line = self.line,
                    Step::Keep | Step::KeepAndEnd | Step::Broken => {
                        scan.begun = true;
                        scan.bytes += 1;
                        if out.len() < ROW_BYTES_MAX {
                            out.push(byte);
                        }
                    }
                    Step::EndBefore | Step::CloseArray => {}
                }
                if !matches!(step, Step::Skip | Step::Keep) {
                    ended = Some(step);
                    break;
                }
            }
            self.input.consume(taken);
            let broken = match ended {
                None => continue,
                Some(Step::CloseArray) => {
                    self.place = Place::After;
                    return self.read_after(out);
                }
                Some(Step::Broken) => Some("a string is not closed on its line".to_owned()),
                Some(_) if scan.bytes > ROW_BYTES_MAX as u64 => Some(format!(
                    "a row of {} bytes, at most {ROW_BYTES_MAX} are allowed",
                    scan.bytes
                )),
                Some(_) => None,
            };
            return Ok(Some(self.element(line, broken)));
        }
    }

    fn element(&mut self, line: u64, broken: Option<String>) -> Element {
        self.count += 1;
        Element { line, number: self.count, broken }
    }

    /// Goes past the opening bracket, which the caller has seen to be there.
    fn open(&mut self) -> io::Result<()> {
        self.place = Place::Inside;
        loop {
            let buffer = self.input.fill_buf()?;
            let Some(&first) = buffer.first() else { return Ok(()) };
            self.input.consume(1);
            self.line += u64::from(first == b'\n');
            if first == b'[' {
                return Ok(());
            }
        }
    }

    /// Behind the array there may only be white space; what else there is, is given line by line.
    fn read_after(&mut self, out: &mut Vec<u8>) -> io::Result<Option<Element>> {
        loop {
            out.clear();
            let line = self.line;
            let read = read_line(&mut self.input, out)?;
            if read == 0 {
                self.place = Place::End;
                return Ok(None);
            }
            self.line += 1;
            if !out.trim_ascii().is_empty() {
                return Ok(Some(
                    self.element(line, Some("text behind the end of the array".into())),
                ));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Elements as (line, text or complaint).
    fn elements(text: &str) -> Vec<(u64, String)> {
        // A small buffer, so that elements straddle its end.
        let input = io::BufReader::with_capacity(3, text.as_bytes());
        let mut elements = Elements::new(input);
        let (mut found, mut out) = (Vec::new(), Vec::new());
        while let Some(element) = elements.read(&mut out).unwrap() {
            let text = String::from_utf8(out.clone()).unwrap();
            found.push((element.line, element.broken.map_or(text, |broken| format!("! {broken}"))));
        }
        found
    }

    fn owned(expected: &[(u64, &str)]) -> Vec<(u64, String)> {
        expected.iter().map(|(line, text)| (*line, (*text).to_owned())).collect()
    }

    #[test]
    fn elements_are_cut_at_their_brackets() {
        let text = " \n[ {\"a\":\"]},\\\"[\"} ,{\"b\":[1,{}]},\n\n  {\n\"c\":2}\n]\n";
        let expected =
            owned(&[(2, "{\"a\":\"]},\\\"[\"}"), (2, "{\"b\":[1,{}]}"), (4, "{\n\"c\":2}")]);
        assert_eq!(elements(text), expected);
        assert_eq!(elements("[]"), owned(&[]));
        assert_eq!(elements("[1, \"x\" ,null]"), owned(&[(1, "1"), (1, "\"x\" "), (1, "null")]));
    }

    #[test]
    fn a_broken_string_costs_its_element_only() {
        let text = "[\n{\"a\":\"x},\n{\"a\":\"y\"},\n}\n{\"a\":\"z\"}\n]";
        let expected = owned(&[
            (2, "! a string is not closed on its line"),
            (3, "{\"a\":\"y\"}"),
            (4, "}"),
            (5, "{\"a\":\"z\"}"),
        ]);
        assert_eq!(elements(text), expected);
    }

    #[test]
    fn what_is_missing_or_too_much_is_said() {
        assert_eq!(elements("[1"), owned(&[(1, "! the file ends inside this element")]));
        let cut = owned(&[(1, "{}"), (2, "! the file ends before the array does")]);
        assert_eq!(elements("[{},\n"), cut);
        let more = owned(&[
            (1, "{}"),
            (1, "! text behind the end of the array"),
            (3, "! text behind the end of the array"),
        ]);
        assert_eq!(elements("[{}] x\n\n,"), more);
    }
}
