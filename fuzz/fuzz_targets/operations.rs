//! Operations made from bytes, against plain maps.

#![no_main]

#[allow(dead_code, unused_imports, reason = "each target uses a part of it")]
#[path = "../../tests/sim/mod.rs"]
mod sim;

libfuzzer_sys::fuzz_target!(|data: &[u8]| sim::fuzz::operations(data));
