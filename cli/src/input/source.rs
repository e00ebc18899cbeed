//! Where input comes from: a file or standard input, packed with gzip or not.

use indicatif::ProgressBar;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

/// Bytes of one read of the input.
const READ_BYTES: usize = 256 << 10;
/// What gzip files begin with.
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
/// How often a wait for standard input looks whether it should end.
const WAIT: Duration = Duration::from_millis(50);

/// Set when the user asks to stop.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Asks for a stop at the first SIGINT or SIGTERM, and ends the process at the second.
    pub(crate) fn listen() -> io::Result<Self> {
        let new = Self::default();
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            let code = crate::failure::INTERRUPTED;
            signal_hook::flag::register_conditional_shutdown(signal, code, Arc::clone(&new.0))?;
            signal_hook::flag::register(signal, Arc::clone(&new.0))?;
        }
        Ok(new)
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// An input as the command line names it.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    Stdin,
    File(PathBuf),
}

impl Source {
    /// `-` is standard input.
    pub(crate) fn of(path: &Path) -> Self {
        if path.as_os_str() == "-" { Self::Stdin } else { Self::File(path.to_owned()) }
    }

    /// For messages.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Stdin => "standard input".to_owned(),
            Self::File(path) => path.display().to_string(),
        }
    }

    /// Where rejected rows go unless told otherwise.
    pub(crate) fn rejects_path(&self) -> PathBuf {
        match self {
            Self::Stdin => PathBuf::from("stdin.rejects"),
            Self::File(path) => {
                let mut name = path.clone().into_os_string();
                name.push(".rejects");
                PathBuf::from(name)
            }
        }
    }

    /// Begins to read; the bar moves with what is read.
    #[expect(clippy::disallowed_methods, reason = "an input file is no part of a database")]
    pub(crate) fn open(
        &self,
        bar: &ProgressBar,
        interrupt: &Interrupt,
    ) -> io::Result<Box<dyn BufRead>> {
        let raw: Box<dyn Read> = match self {
            Self::Stdin => Box::new(Stdin::start(interrupt.clone())),
            Self::File(path) => {
                let file = File::open(path)?;
                let metadata = file.metadata()?;
                if metadata.is_dir() {
                    return Err(io::ErrorKind::IsADirectory.into());
                }
                // Pipes and devices have no length.
                if metadata.is_file() {
                    bar.set_length(metadata.len());
                }
                Box::new(file)
            }
        };
        let mut input = bar.wrap_read(raw);
        let mut magic = Vec::new();
        input.by_ref().take(GZIP_MAGIC.len() as u64).read_to_end(&mut magic)?;
        let packed = magic == GZIP_MAGIC;
        let whole = BufReader::with_capacity(READ_BYTES, Cursor::new(magic).chain(input));
        if !packed {
            return Ok(Box::new(whole));
        }
        let unpacked = flate2::bufread::MultiGzDecoder::new(whole);
        Ok(Box::new(BufReader::with_capacity(READ_BYTES, unpacked)))
    }
}

/// Standard input, read by a thread of its own, so that a wait for it can be interrupted.
struct Stdin {
    chunks: Receiver<io::Result<Vec<u8>>>,
    chunk: Cursor<Vec<u8>>,
    interrupt: Interrupt,
}

impl Stdin {
    fn start(interrupt: Interrupt) -> Self {
        let (sender, chunks) = mpsc::sync_channel(2);
        // Not joined: it may wait for input for ever, and ends with the process.
        std::thread::spawn(move || {
            let mut input = io::stdin().lock();
            loop {
                let mut chunk = vec![0; READ_BYTES];
                let read = match input.read(&mut chunk) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    read => read,
                };
                let ended = !matches!(read, Ok(bytes) if bytes > 0);
                let sent = sender.send(read.map(|bytes| {
                    chunk.truncate(bytes);
                    chunk
                }));
                if ended || sent.is_err() {
                    return;
                }
            }
        });
        Self { chunks, chunk: Cursor::default(), interrupt }
    }
}

impl Read for Stdin {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.chunk.read(out)?;
            if read > 0 {
                return Ok(read);
            }
            match self.chunks.recv_timeout(WAIT) {
                Ok(chunk) => self.chunk = Cursor::new(chunk?),
                // Also at the end: whoever wrote into the pipe was interrupted too, perhaps in the
                // middle of a row.
                Err(_) if self.interrupt.is_set() => return Err(io::Error::other("interrupted")),
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}
