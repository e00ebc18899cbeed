//! Planted bugs: that they can be planted, and that the suite runs enough seeds to meet each of them.
//!
//! Goal: a green run means something. Method: `tests/plants/*.plant` are bugs, one each, with the test that must fail;
//! `.ci/plants` plants them and notes in `tests/plants/rates.tsv` how many seeds do fail. Here, without building
//! anything: the text of each plant is in the sources exactly once, its test exists, and the ordinary run takes ten
//! times the seeds that the rarest of them needs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Seeds of the tests that plants are caught by, as the ordinary run takes them.
pub(crate) const LIVES: u64 = 2000;
pub(crate) const FAULTS: u64 = 4000;
pub(crate) const MODELS: u64 = 8000;
pub(crate) const THREADS: u64 = 12;

const SEEDS: [(&str, u64); 4] = [
    ("crash::lives_in_a_row_lose_nothing", LIVES),
    ("fault::the_nth_operation_of_each_kind_fails", FAULTS),
    ("model::no_answer_differs_from_a_map", MODELS),
    ("threads::what_any_of_many_writers_was_told_survives", THREADS),
];

/// How many there are, at least.
const PLANTS_MIN: usize = 30;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every plant, by name.
fn plants() -> BTreeMap<String, String> {
    let files = std::fs::read_dir(root().join("tests/plants")).unwrap();
    let paths = files.map(|file| file.unwrap().path());
    let paths = paths.filter(|path| path.extension().is_some_and(|end| end == "plant"));
    paths
        .map(|path| (path.file_stem().unwrap().to_str().unwrap().to_owned(), text(&path)))
        .collect()
}

fn field<'p>(plant: &'p str, name: &str) -> Option<&'p str> {
    plant.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// The texts that a plant stands in place of.
fn replaced(plant: &str) -> Vec<&str> {
    let pieces = plant.split("@@ old\n").skip(1);
    pieces.map(|piece| piece.split_once("\n@@ new\n").expect("`@@ new` after `@@ old`").0).collect()
}

/// The sources of the engine, without tests.
fn sources() -> Vec<(PathBuf, String)> {
    let mut folders: Vec<_> =
        ["", "base", "io", "wal", "index"].map(|of| root().join(of).join("src")).into();
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs")
                && !path.file_stem().unwrap().to_str().unwrap().contains("tests")
            {
                let text = text(&path);
                found.push((path, text));
            }
        }
    }
    found
}

/// True if there is a test at a path as `cargo test` takes it: of a binary with modules in its module, of one without in
/// the binary, else in a module of the library.
fn is_test(name: &str, arguments: &str) -> bool {
    let words: Vec<&str> = arguments.split(' ').collect();
    let ["-p", package, target @ .., path] = &words[..] else { panic!("{name}: {arguments}") };
    let folder = package.strip_prefix("esker-").unwrap_or("");
    let (module, function) = path.rsplit_once("::").unwrap_or(("", path));
    let module = module.replace("::", "/");
    let module = module.strip_suffix("/tests").unwrap_or(&module);
    let place = match target {
        ["--test", "main"] => format!("tests/{module}"),
        ["--test", binary] => format!("tests/{binary}"),
        _ => format!("src/{module}"),
    };
    let place = root().join(folder).join(place);
    let files = [place.with_extension("rs"), place.join("mod.rs"), place.join("tests.rs")];
    let mut texts = files.iter().filter_map(|path| std::fs::read_to_string(path).ok());
    texts.any(|text| text.contains(&format!("fn {function}(")))
}

#[test]
fn every_plant_finds_its_lines_and_its_test() {
    let (plants, sources) = (plants(), sources());
    assert!(plants.len() >= PLANTS_MIN, "{} plants", plants.len());
    for (name, plant) in &plants {
        assert!(field(plant, "Plant").is_some_and(|what| what.ends_with('.')), "{name}: no Plant");
        let test = field(plant, "Test").unwrap_or_else(|| panic!("{name}: no Test"));
        assert!(is_test(name, test), "{name}: no test {test}");
        let replaced = replaced(plant);
        assert!(!replaced.is_empty(), "{name} changes nothing");
        for old in replaced {
            let count: usize = sources.iter().map(|(_, text)| text.matches(old).count()).sum();
            assert_eq!(count, 1, "{name}: this must be in the sources exactly once:\n{old}");
        }
    }
}

#[test]
fn the_suite_runs_ten_times_the_seeds_that_the_rarest_plant_needs() {
    let seeds = BTreeMap::from(SEEDS);
    let plants = plants();
    let rates = text(&root().join("tests/plants/rates.tsv"));
    for line in rates.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, _, ran, failed, _, _, test] = fields[..] else { panic!("{line}") };
        let [ran, failed] = [ran, failed].map(|count| count.parse::<u64>().unwrap());
        assert!(failed > 0, "{name} was not caught");
        let plant = plants.get(name).unwrap_or_else(|| panic!("no plant {name}"));
        assert_eq!(field(plant, "Test"), Some(test), "{name}: run `.ci/plants {name}`");
        if field(plant, "Seeds").is_none() {
            // The ordinary run does just what was done there.
            continue;
        }
        let (_, test) = test.rsplit_once(' ').unwrap();
        let planned = *seeds.get(test).unwrap_or_else(|| panic!("{name}: no seeds of {test}"));
        assert!(
            failed * planned >= 10 * ran,
            "{name}: {failed} of {ran} seeds fail, and the suite runs {planned}"
        );
    }
}
