//! Any text as a file to import, and as a key.

#![no_main]
#![allow(dead_code, unused_imports, reason = "each target uses a part of it")]

#[path = "../../cli/src/failure.rs"]
mod failure;
#[path = "../import.rs"]
mod import;
#[path = "../../cli/src/input/mod.rs"]
mod input;
#[path = "../../cli/src/json.rs"]
mod json;
#[path = "../../cli/src/key.rs"]
mod key;
#[path = "../../cli/src/show.rs"]
mod show;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    import::rows(data);
    import::typed(data);
});
