//! The command `esker`: import, read, write and check Esker databases.
//!
//! | module | |
//! |---|---|
//! | `args` | the command line and its help |
//! | `import`, `rejects`, `progress` | loading a file |
//! | `input`, `json` | formats of input |
//! | `rows` | get, put, del, scan, export |
//! | `report` | tables, stat, verify |
//! | `repair` | repair |
//! | `torture` | torture |
//! | `key`, `tables` | how keys are made of fields; which fields a table was imported with |
//! | `show`, `output` | bytes as text and JSON; standard output |
//! | `failure` | exit codes and errors |

mod args;
mod failure;
mod import;
mod input;
mod json;
mod key;
mod output;
mod progress;
mod rejects;
mod repair;
mod report;
mod rows;
mod show;
mod tables;
mod torture;

use args::{Command, Esker};
use clap::Parser;
use failure::{Ending, Failure};
use std::process::ExitCode;

fn main() -> ExitCode {
    let esker = Esker::parse();
    match run(&esker) {
        Ok(ending) => ending.into(),
        // `esker scan ... | head` is no failure.
        Err(failure) if failure.is_broken_pipe() => ExitCode::SUCCESS,
        Err(failure) => {
            failure::say(&format_args!("esker: {failure}"));
            failure.code()
        }
    }
}

fn run(esker: &Esker) -> Result<Ending, Failure> {
    let json = esker.json;
    match &esker.command {
        Command::Import(args) => import::import(args, json),
        Command::Get(args) => rows::get(args, json),
        Command::Put(args) => rows::put(args, json),
        Command::Del(args) => rows::del(args, json),
        Command::Scan(args) => rows::scan(args, json),
        Command::Export(args) => rows::export(args),
        Command::Tables(args) => report::tables(args, json),
        Command::Stat(args) => report::stat(args, json),
        Command::Verify(args) => report::verify(args, json),
        Command::Repair(args) => repair::repair(args, json),
        Command::Torture(args) => torture::torture(args, json),
    }
}
