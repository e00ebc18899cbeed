//! Standard output: lines, buffered, with errors handled.

use crate::failure::Failure;
use std::io::{self, BufWriter, StdoutLock, Write};

const BUFFER_BYTES: usize = 64 << 10;

/// Standard output, held for the whole command.
#[derive(Debug)]
pub(crate) struct Output {
    out: BufWriter<StdoutLock<'static>>,
}

impl Output {
    pub(crate) fn new() -> Self {
        Self { out: BufWriter::with_capacity(BUFFER_BYTES, io::stdout().lock()) }
    }

    /// Writes bytes and a line end.
    pub(crate) fn line(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.out.write_all(bytes).and_then(|()| self.out.write_all(b"\n"));
        written.map_err(Failure::Output)
    }

    /// Must be called at the end: dropped, the rest would be lost in silence.
    pub(crate) fn finish(mut self) -> Result<(), Failure> {
        self.out.flush().map_err(Failure::Output)
    }
}

/// Prints one JSON value on a line.
pub(crate) fn json(value: &serde_json::Value) -> Result<(), Failure> {
    let mut output = Output::new();
    output.line(value.to_string().as_bytes())?;
    output.finish()
}
