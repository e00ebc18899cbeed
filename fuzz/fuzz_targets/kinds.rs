//! Any bytes as a page of any kind of index.

#![no_main]

#[path = "../kinds.rs"]
mod kinds;

libfuzzer_sys::fuzz_target!(|data: &[u8]| kinds::pages(data));
