//! A database whose bytes were changed and signed again: opened, read, verified, written.

#![no_main]

#[allow(dead_code, unused_imports, reason = "each target uses a part of it")]
#[path = "../../tests/sim/mod.rs"]
mod sim;

libfuzzer_sys::fuzz_target!(|data: &[u8]| sim::forge::forged(data));
