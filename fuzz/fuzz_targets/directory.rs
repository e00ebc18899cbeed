//! A database whose files were changed: opened, read, verified.

#![no_main]

#[allow(dead_code, unused_imports, reason = "each target uses a part of it")]
#[path = "../../tests/sim/mod.rs"]
mod sim;

libfuzzer_sys::fuzz_target!(|data: &[u8]| sim::fuzz::directory(data));
