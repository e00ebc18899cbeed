//! What the system may refuse: descriptors, memory, a directory, any call at all.
//!
//! Each test runs the command under such a limit against a database that holds a table already, and looks
//! afterwards, without the limit: the command worked or said why not, the table is whole, nothing is
//! damaged, and the same command works now.

use crate::place::Place;
use std::fmt::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

const KEPT: usize = 500;
const ADDED: usize = 2000;

fn csv(rows: usize) -> String {
    let mut text = String::from("id,text\n");
    for n in 0..rows {
        writeln!(text, "{:06},{:->90}", n * 7919 % rows, n).unwrap();
    }
    text
}

/// A database with a table `kept`, and a file for another.
fn filled(test: &str) -> (Place, String) {
    let place = Place::new(test);
    place.write("kept.csv", csv(KEPT));
    place.write("added.csv", csv(ADDED));
    place.run("import db kept kept.csv --key id").out(0);
    let kept = place.run("scan db kept").out(0);
    assert_eq!(kept.lines().count(), KEPT);
    (place, kept)
}

/// How a command under a limit ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Worked,
    Refused(String),
    /// The process died: of memory that it could not get.
    Died,
    /// It had not begun: the system could not load it.
    NotLoaded,
}

/// Runs the command behind a line of the shell, or behind another command.
fn limited(place: &Place, before: &str, line: &str) -> End {
    const ABORT: i32 = 6;
    let script = format!("{before} \"$0\" \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_esker")])
        .args(line.split_whitespace())
        .current_dir(place.path(""))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    match (output.status.code(), output.status.signal()) {
        (Some(0), _) => End::Worked,
        (Some(3), _) => {
            assert!(said.lines().count() > 0, "{before}: no word");
            End::Refused(said)
        }
        (Some(2 | 126 | 127), _) if !said.starts_with("esker: ") => End::NotLoaded,
        (None, Some(ABORT)) | (Some(134), _) if said.contains("memory allocation") => End::Died,
        ended => panic!("{before} {line}: {ended:?}, {said}"),
    }
}

/// Imports a table under a limit, and again without it.
fn import(place: &Place, kept: &str, before: &str) -> End {
    let end = limited(place, before, "import db added added.csv --key id -q");
    assert!(place.run("scan db kept").out(0) == *kept, "{before}: {end:?}, rows are missing");
    assert!(place.run("verify db").out(0).starts_with("sound: "), "{before}: {end:?}");
    if end == End::Worked {
        assert_eq!(place.run("scan db added").out(0).lines().count(), ADDED, "{before}");
    }
    place.run("import db added added.csv --key id -q").out(0);
    assert_eq!(place.run("scan db added").out(0).lines().count(), ADDED, "{before}: {end:?}");
    end
}

#[test]
fn with_few_descriptors_a_command_works_or_says_why_not() {
    let (place, kept) = filled("limits_descriptors");
    let ends: Vec<End> = [4, 6, 8, 9, 10, 11, 12, 13, 14, 16, 20, 40]
        .iter()
        .map(|n| import(&place, &kept, &format!("ulimit -n {n}; exec")))
        .collect();
    for end in &ends {
        if let End::Refused(said) = end {
            assert!(said.contains("descriptors") || said.contains("open files"), "{said}");
        }
    }
    assert!(ends.iter().any(|end| matches!(end, End::Refused(_))), "{ends:?}");
    assert_eq!(ends.last(), Some(&End::Worked));
}

#[test]
fn with_little_memory_a_command_works_or_dies_and_nothing_is_lost() {
    let (place, kept) = filled("limits_memory");
    let ends: Vec<End> = [10, 20, 40, 60, 80, 120, 200, 400, 800, 64_000]
        .iter()
        .map(|mib| import(&place, &kept, &format!("ulimit -v {}; exec", mib << 10)))
        .collect();
    assert!(ends.iter().any(|end| *end != End::Worked), "{ends:?}");
    assert_eq!(ends.last(), Some(&End::Worked), "{ends:?}");
}

#[test]
fn a_directory_that_may_not_be_written_is_refused_and_left_alone() {
    let (place, _) = filled("limits_read_only");
    let files = || {
        let files = std::fs::read_dir(place.path("db")).unwrap().map(Result::unwrap);
        let mut files: Vec<_> =
            files.map(|file| (file.file_name(), std::fs::read(file.path()).unwrap())).collect();
        files.sort();
        files
    };
    // Who may do all needs a file system that lets nobody write.
    let mount = "mount --bind db db && mount -o remount,bind,ro db";
    let unshared = format!("unshare -m sh -c '{mount} && exec \"$0\" \"$@\"'");
    let bound = Command::new("unshare")
        .args(["-m", "sh", "-c", mount])
        .current_dir(place.path(""))
        .output();
    let before = if bound.is_ok_and(|output| output.status.success()) {
        unshared
    } else {
        let status = Command::new("chmod").arg("-R").arg("a-w").arg(place.path("db")).status();
        assert!(status.unwrap().success());
        if std::fs::File::create(place.path("db/probe")).is_ok() {
            eprintln!("skipped: this user may write everywhere, and may not mount");
            return;
        }
        "exec".to_owned()
    };
    let there = files();
    for line in ["put db kept k v", "del db kept 000001", "import db added added.csv --key id -q"] {
        let end = limited(&place, &before, line);
        let End::Refused(said) = end else { panic!("{line}: {end:?}") };
        assert!(said.contains("ead-only") || said.contains("ermission"), "{line}: {said}");
        assert!(files() == there, "{line}: a file was changed");
    }
    let status = Command::new("chmod").arg("-R").arg("u+w").arg(place.path("db")).status();
    assert!(status.unwrap().success());
    assert_eq!(place.run("scan db kept").out(0).lines().count(), KEPT);
}

/// Calls, the errors that they may end with, and the first that is not the loader's.
const CALLS: [(&str, &[&str], u32); 8] = [
    ("fsync,fdatasync", &["EIO", "ENOSPC"], 1),
    ("pwrite64", &["EIO", "ENOSPC"], 1),
    ("pread64", &["EIO"], 2),
    ("openat", &["EMFILE", "EIO"], 8),
    ("rename,renameat,renameat2", &["EIO"], 1),
    ("unlink,unlinkat", &["EIO"], 1),
    ("ftruncate", &["ENOSPC"], 1),
    ("mmap", &["ENOMEM"], 24),
];

/// The kernel says so, not the simulated disk: the Nth call of each thread fails, or all from there on. `ESKER_CALLS=n`: so many N
/// of each instead of two.
#[test]
fn a_call_of_the_system_that_fails_loses_nothing() {
    let strace = Command::new("strace").args(["-f", "-qq", "-o", "/dev/null", "true"]).output();
    if !strace.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: strace is not installed, or may not trace");
        return;
    }
    let count = std::env::var("ESKER_CALLS").map_or(2, |count| count.parse().unwrap());
    let (place, kept) = filled("limits_calls");
    let (mut tried, mut refused) = (0, 0);
    for (calls, errors, first) in CALLS {
        for error in errors {
            for nth in first..first + count {
                // The first once, the second for ever, and so on.
                let times = if (nth - first).is_multiple_of(2) { "" } else { "+" };
                let inject = format!("inject={calls}:error={error}:when={nth}{times}");
                let before =
                    format!("exec strace -f -qq -o /dev/null -e trace={calls} -e {inject}");
                tried += 1;
                refused += u32::from(import(&place, &kept, &before) != End::Worked);
            }
        }
    }
    eprintln!("{tried} imports, {refused} of them met their error");
    assert!(refused * 4 > tried, "{refused} imports of {tried} met their error");
}
