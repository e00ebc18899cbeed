//! What keys and values may be, and where a value goes.

use crate::engine::Engine;
use esker_base::{Error, Result};
use esker_index::kind;

impl Engine {
    /// Longest value that stays in its leaf.
    pub(crate) fn max_inline_value_bytes(&self) -> usize {
        kind::max_inline_value_bytes(self.store.frames.content_bytes())
    }

    /// Pages that a value takes outside its leaf.
    pub(crate) fn large_pages(&self, value: &[u8]) -> usize {
        match value.len() {
            bytes if bytes > self.max_inline_value_bytes() => {
                bytes.div_ceil(self.store.frames.content_bytes())
            }
            _ => 0,
        }
    }

    /// Such pages of one commit hold their frames until its turn: half of all is what the rest can
    /// spare.
    pub(crate) fn large_pages_max(&self) -> usize {
        self.store.frames.count() as usize / 2
    }

    pub(crate) fn check_key(&self, key: &[u8]) -> Result<()> {
        let limit = kind::max_key_bytes(self.store.frames.content_bytes());
        if key.is_empty() {
            return Err(Error::invalid("empty key", "keys have at least one byte"));
        }
        if key.len() > limit {
            return Err(Error::invalid(
                "key too long",
                format!("{} bytes, at most {limit}", key.len()),
            ));
        }
        Ok(())
    }

    fn check_value_len(value: &[u8]) -> Result<()> {
        if value.len() > crate::VALUE_BYTES_MAX {
            return Err(Error::invalid(
                "value too long",
                format!("{} bytes, at most {}", value.len(), crate::VALUE_BYTES_MAX),
            ));
        }
        Ok(())
    }

    /// What a log may say was written: limits that depend on memory are not of its time.
    pub(crate) fn check_logged(&self, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        self.check_key(key)?;
        value.map_or(Ok(()), Self::check_value_len)
    }

    pub(crate) fn check_value(&self, value: &[u8]) -> Result<()> {
        Self::check_value_len(value)?;
        let (bytes, limit_bytes) = (value.len() as u64, self.options.write_set_bytes_max());
        if bytes > limit_bytes {
            return Err(Error::TooLarge { bytes, limit_bytes });
        }
        Ok(())
    }
}
