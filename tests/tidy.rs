//! Keeps the shape of the repository: which part may know which, and that DESIGN.md names what is
//! there.
//!
//! Goal: what the documents say is so. Method: the manifests and the documents are read as text.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Our own crates in a section of a manifest.
fn own_dependencies(manifest: &str, section: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut inside = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line == format!("[{section}]");
        } else if inside && let Some((name, _)) = line.split_once(['=', '.']) {
            let name = name.trim();
            if name.starts_with("esker") {
                found.insert(name.to_owned());
            }
        }
    }
    found
}

#[test]
fn dependencies_point_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = [
        ("base", &[][..]),
        ("io", &["esker-base"]),
        ("wal", &["esker-base", "esker-io"]),
        ("index", &["esker-base"]),
        (".", &["esker-base", "esker-io", "esker-wal", "esker-index"]),
        ("index/conformance", &["esker", "esker-base", "esker-io"]),
        ("cli", &["esker", "esker-conformance"]),
    ]
    .into();
    for (folder, allowed) in allowed {
        let manifest = text(&format!("{folder}/Cargo.toml"));
        let found = own_dependencies(&manifest, "dependencies");
        let allowed: BTreeSet<_> = allowed.iter().map(|name| (*name).to_owned()).collect();
        let surplus: Vec<_> = found.difference(&allowed).collect();
        assert!(surplus.is_empty(), "{folder} depends on {surplus:?}");
        assert!(manifest.contains("[lints]\nworkspace = true"), "{folder} is not linted");
    }
}

/// All files and folders, by their path from the root.
fn walk(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name == "target" || name == ".git" {
            continue;
        }
        let relative = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            walk(&path, found);
            found.insert(relative + "/");
        } else {
            found.insert(relative);
        }
    }
}

#[test]
fn design_names_what_is_there() {
    let mut there = BTreeSet::new();
    walk(&root(), &mut there);
    let design = text("DESIGN.md");
    let mut checked = 0;
    for (n, line) in design.lines().enumerate() {
        for part in line.split('`').skip(1).step_by(2) {
            let is_path = part.strip_suffix(".rs").is_some() || part.ends_with('/');
            if !is_path || !part.chars().all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c)) {
                continue;
            }
            checked += 1;
            let found =
                there.iter().any(|path| path == part || path.ends_with(&format!("/{part}")));
            assert!(found, "DESIGN.md, line {}: there is no {part}", n + 1);
        }
    }
    assert!(checked > 20, "only {checked} paths were found in DESIGN.md");
}

#[test]
fn trust_names_tests_that_there_are() {
    let mut there = BTreeSet::new();
    walk(&root(), &mut there);
    let mut tests = BTreeSet::new();
    for path in there.iter().filter(|path| path.strip_suffix(".rs").is_some()) {
        for line in text(path).lines().filter_map(|line| line.trim().strip_prefix("fn ")) {
            tests.extend(line.strip_suffix("() {").map(str::to_owned));
        }
    }
    let mut checked = 0;
    for part in text("tests/TRUST.md").split('`').skip(1).step_by(2) {
        // Tests are sentences; what has fewer words is something else.
        if part.matches('_').count() < 3 || part.contains(['(', ' ', '/']) {
            continue;
        }
        checked += 1;
        let is_there = match part.strip_suffix('*') {
            Some(start) => tests.iter().any(|test| test.starts_with(start)),
            None => tests.contains(part),
        };
        assert!(is_there || part == "let_underscore_must_use", "there is no test {part}");
    }
    assert!(checked > 60, "only {checked} tests were found in TRUST.md");
}

#[test]
fn every_error_is_in_the_tests() {
    let source = text("base/src/error.rs");
    let body = source.split("pub enum Error {").nth(1).unwrap().split("\n}\n").next().unwrap();
    let variants: Vec<_> = body
        .lines()
        .filter(|line| line.starts_with("    ") && !line.starts_with("     "))
        .map(|line| line.trim().trim_end_matches([',', '{', ' ']))
        .filter(|name| name.starts_with(|c: char| c.is_ascii_uppercase()))
        .collect();
    assert!(variants.len() > 10, "{variants:?}");
    let mut tests = String::new();
    for file in ["api", "crash", "damage", "fault", "model"] {
        tests += &text(&format!("tests/{file}.rs"));
    }
    for variant in variants {
        // There is one kind of index so far, so none can be the wrong one.
        if variant != "WrongKind" {
            assert!(tests.contains(&format!("Error::{variant}")), "no test meets {variant}");
        }
    }
}
