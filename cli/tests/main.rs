//! The command, run as users run it.
//!
//! Each test has a directory of its own and runs the built binary in it: arguments and files go
//! in, exit code, standard output and standard error come out.

#![allow(clippy::disallowed_methods, reason = "tests make, damage and read files")]
#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]
#![allow(clippy::format_collect, clippy::format_push_string, reason = "input is made for reading")]

mod formats;
mod import;
mod kinds;
mod limits;
mod mounted;
mod place;
mod repair;
mod report;
mod rows;
mod shipped;
mod torture;
mod trouble;
