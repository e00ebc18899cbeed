//! Lines of an input, with their numbers, and a way to give some back.

use super::ROW_BYTES_MAX;
use std::io::{self, BufRead};

/// Reads line by line.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    input: R,
    /// Lines read so far, which is the number of the last one.
    number: u64,
    /// Lines given back, read again before the input: those from `returned_at` on.
    returned: Vec<u8>,
    returned_at: usize,
}

/// One line read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// Counted from 1.
    pub(crate) number: u64,
    /// Its length, with its end; more than was kept if it was too long.
    pub(crate) bytes: u64,
}

impl Line {
    /// What is wrong if not all of the line was kept.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.bytes > ROW_BYTES_MAX as u64 {
            let bytes = self.bytes;
            return Err(format!("a row of {bytes} bytes, at most {ROW_BYTES_MAX} are allowed"));
        }
        Ok(())
    }
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, number: 0, returned: Vec::new(), returned_at: 0 }
    }

    /// Appends the next line, with its end, to `out`; of one longer than [`ROW_BYTES_MAX`] only
    /// that much.
    pub(crate) fn read(&mut self, out: &mut Vec<u8>) -> io::Result<Option<Line>> {
        let returned = &self.returned[self.returned_at..];
        let bytes = if returned.is_empty() {
            read_line(&mut self.input, out)?
        } else {
            let end = returned.iter().position(|byte| *byte == b'\n');
            let line = &returned[..end.map_or(returned.len(), |end| end + 1)];
            out.extend_from_slice(line);
            self.returned_at += line.len();
            line.len() as u64
        };
        if bytes == 0 {
            return Ok(None);
        }
        self.number += 1;
        Ok(Some(Line { number: self.number, bytes }))
    }

    /// Gives the last lines read back, to be read again.
    pub(crate) fn give_back(&mut self, lines: &[u8]) {
        self.number -= lines.split_inclusive(|byte| *byte == b'\n').count() as u64;
        let still = self.returned.split_off(self.returned_at);
        self.returned.clear();
        self.returned.extend_from_slice(lines);
        self.returned.extend_from_slice(&still);
        self.returned_at = 0;
    }
}

/// Appends one line to `out`, as far as it is kept, and returns its length.
pub(super) fn read_line(input: &mut impl BufRead, out: &mut Vec<u8>) -> io::Result<u64> {
    let mut bytes = 0;
    loop {
        let buffer = match input.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            buffer => buffer?,
        };
        let end = buffer.iter().position(|byte| *byte == b'\n');
        let piece = &buffer[..end.map_or(buffer.len(), |end| end + 1)];
        let kept = ROW_BYTES_MAX.saturating_sub(usize::try_from(bytes).unwrap_or(usize::MAX));
        out.extend_from_slice(&piece[..piece.len().min(kept)]);
        let taken = piece.len();
        input.consume(taken);
        bytes += taken as u64;
        if end.is_some() || taken == 0 {
            return Ok(bytes);
        }
    }
}

/// A line without its end.
pub(super) fn without_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(lines: &mut Lines<&[u8]>) -> Option<(u64, String)> {
        let mut out = Vec::new();
        let line = lines.read(&mut out).unwrap()?;
        Some((line.number, String::from_utf8(out).unwrap()))
    }

    #[test]
    fn lines_given_back_are_read_again_under_their_numbers() {
        let mut lines = Lines::new(&b"a\nb\nc\nd"[..]);
        for expected in [(1, "a\n"), (2, "b\n"), (3, "c\n")] {
            assert_eq!(next(&mut lines).unwrap(), (expected.0, expected.1.to_owned()));
        }
        lines.give_back(b"b\nc\n");
        assert_eq!(next(&mut lines).unwrap(), (2, "b\n".to_owned()));
        lines.give_back(b"b\n");
        for expected in [(2, "b\n"), (3, "c\n"), (4, "d")] {
            assert_eq!(next(&mut lines).unwrap(), (expected.0, expected.1.to_owned()));
        }
        assert_eq!(next(&mut lines), None);
        lines.give_back(b"d");
        assert_eq!(next(&mut lines).unwrap(), (4, "d".to_owned()));
        assert_eq!(next(&mut lines), None);
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_and_measured() {
        let mut input = vec![b'x'; ROW_BYTES_MAX + 10];
        input.extend_from_slice(b"\nnext\n");
        let mut lines = Lines::new(&input[..]);
        let mut out = Vec::new();
        let line = lines.read(&mut out).unwrap().unwrap();
        assert_eq!((line.bytes, out.len()), (ROW_BYTES_MAX as u64 + 11, ROW_BYTES_MAX));
        assert!(line.check().unwrap_err().starts_with("a row of "));
        out.clear();
        assert!(lines.read(&mut out).unwrap().unwrap().check().is_ok());
        assert_eq!(out, b"next\n");
    }
}
