//! Directories for tests.

use std::path::PathBuf;

/// A directory that goes with the test.
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    /// Names a directory and does not create it.
    pub(crate) fn new(label: &str) -> Self {
        let name = format!("esker-io-{label}-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A test that failed early may not have made it.
        let _removed: bool = std::fs::remove_dir_all(&self.0).is_ok();
    }
}
