//! Goal: a simulated disk is worth what its likeness to a real one is. Method: one random script of
//! operations runs on all disks, the real one included, some of its writes through windows; every answer,
//! and all bytes, lengths and names at the end, must agree.

use crate::mem::MemDisk;
use crate::os::OsDisk;
use crate::scratch::Scratch;
use crate::sim::SimDisk;
use crate::{Disk, File, OpenMode, ReadRequest};
use esker_base::sync::Arc;
use esker_base::{Error, Result};
use std::hash::{DefaultHasher, Hash, Hasher};

const STEPS: usize = 300;
const SCRIPTS: u64 = 30;
const BYTES_MAX: u64 = 40_000;

struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: u64) -> u64 {
        // xorshift64* (Vigna 2016)
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % bound
    }

    fn name(&mut self) -> String {
        format!("file-{}", self.below(4))
    }

    fn bytes(&mut self, len: u64) -> Vec<u8> {
        let first = self.below(256);
        (0..len).map(|at| u8::try_from((first + at * 7) % 251).unwrap()).collect()
    }
}

/// What can be told apart from outside: the kind of an error, not its text.
fn outcome<T>(result: Result<T>) -> Result<T, String> {
    result.map_err(|error| match error {
        Error::Io { source, .. } => format!("{:?}", source.kind()),
        Error::Invalid { what, .. } => what.to_owned(),
        other => other.to_string(),
    })
}

/// Runs the script of a seed; answers all that was seen on the way and the contents at the end.
fn run(disk: &dyn Disk, seed: u64) -> Vec<String> {
    let mut rng = Rng(seed | 1);
    let mut seen = Vec::new();
    let mut open: Vec<Arc<dyn File>> = Vec::new();
    for step in 0..STEPS {
        let what = rng.below(16);
        let answer = match what {
            0 | 1 => {
                let mode = [OpenMode::Create, OpenMode::ReadWrite, OpenMode::Read];
                let mode = mode[usize::try_from(rng.below(3)).unwrap()];
                outcome(disk.open(&rng.name(), mode).map(|file| open.push(file)))
            }
            2 if step % 4 == 0 => outcome(disk.rename(&rng.name(), &rng.name())),
            3 if step % 4 == 0 => outcome(disk.remove(&rng.name())),
            4 => outcome(disk.sync_dir()),
            5 if open.len() > 6 => {
                open.remove(0);
                Ok(())
            }
            _ if open.is_empty() => continue,
            _ => {
                let file = &open[usize::try_from(rng.below(open.len() as u64)).unwrap()];
                on_file(&mut rng, what, &**file, &mut seen)
            }
        };
        seen.push(format!("{step} {what}: {answer:?}"));
    }
    for file in &open {
        let bytes = contents(&**file);
        seen.push(format!("{} {} {:x}", file.name(), bytes.len(), hash(&bytes)));
    }
    let mut names = disk.list().unwrap();
    names.sort();
    for name in names {
        let file = disk.open(&name, OpenMode::Read).unwrap();
        let bytes = contents(&*file);
        seen.push(format!("{name} {} {:x}", bytes.len(), hash(&bytes)));
        drop(file);
        disk.remove(&name).unwrap();
    }
    assert_eq!(disk.list().unwrap(), Vec::<String>::new());
    seen
}

fn on_file(
    rng: &mut Rng,
    what: u64,
    file: &dyn File,
    seen: &mut Vec<String>,
) -> Result<(), String> {
    let offset = rng.below(BYTES_MAX);
    let bytes = rng.below(9_000);
    match what {
        2 => outcome(file.set_len(offset)),
        3 => outcome(file.preallocate(offset)),
        4 => outcome(file.allocate(offset)),
        5 => outcome(file.sync()),
        6 => outcome(file.start_write_out(offset, bytes)),
        7 | 8 => {
            let mut buf = vec![0; usize::try_from(bytes).unwrap()];
            let result = outcome(file.read_at(offset, &mut buf));
            if result.is_ok() {
                seen.push(format!("{:x}", hash(&buf)));
            }
            result
        }
        9 | 10 => {
            let at = offset / 4096 * 4096;
            let data = rng.bytes(bytes);
            let skip = rng.below(100);
            outcome(file.window(at, bytes + skip).and_then(|window| {
                window.populate(skip, bytes)?;
                window.store(skip, &data);
                assert_eq!(window.bytes(), bytes + skip);
                Ok(())
            }))
        }
        _ => {
            let data = rng.bytes(bytes);
            outcome(file.write_at(offset, &data))
        }
    }
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}

fn contents(file: &dyn File) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(file.len().unwrap()).unwrap()];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn all_disks_answer_alike() {
    let scratch = Scratch::new("conformance");
    let os = OsDisk::open(&scratch.0, true).unwrap();
    for seed in 1..=SCRIPTS {
        let real = run(&os, seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let memory = run(&MemDisk::new(), seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let simulated = run(&SimDisk::new(seed), seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        for (index, line) in real.iter().enumerate() {
            assert!(
                line == &memory[index],
                "script {seed}: {line} but in memory {}",
                memory[index]
            );
            assert!(
                line == &simulated[index],
                "script {seed}: {line} but simulated {}",
                simulated[index]
            );
        }
        assert_eq!((real.len(), real.len()), (memory.len(), simulated.len()));
    }
}

fn disks(label: &str) -> (Scratch, Vec<Box<dyn Disk>>) {
    let scratch = Scratch::new(label);
    let os = OsDisk::open(&scratch.0, true).unwrap();
    let threads = OsDisk::open(&scratch.0.join("threads"), true).unwrap().io_uring(false);
    let (mem, sim) = (MemDisk::new(), SimDisk::new(1));
    (scratch, vec![Box::new(os), Box::new(threads), Box::new(mem), Box::new(sim)])
}

#[test]
fn a_batch_reads_in_place_and_each_request_has_its_own_result() {
    let (_scratch, disks) = disks("batch");
    for disk in disks {
        let file = disk.open("data", OpenMode::Create).unwrap();
        let all: Vec<u8> = (0..100 * 1000).map(|at| u8::try_from(at % 251).unwrap()).collect();
        file.write_at(0, &all).unwrap();
        for count in [0, 1, 2, 33, 100] {
            let mut requests: Vec<_> = (0..=count)
                .map(|at| ReadRequest::new(Arc::clone(&file), at * 1000, 1000))
                .collect();
            requests.push(ReadRequest::new(Arc::clone(&file), 99_500, 1000));
            disk.read_batch(&mut requests);
            let beyond = requests.pop().unwrap();
            assert!(matches!(beyond.result, Err(Error::Io { .. })), "{disk:?}");
            assert_eq!(beyond.buf.len(), 1000, "the buffer comes back also when the read fails");
            for (at, request) in requests.into_iter().enumerate().take(100) {
                request.result.unwrap();
                assert_eq!(request.buf, all[at * 1000..][..1000]);
            }
        }
    }
}

#[test]
fn odd_names_are_refused() {
    let (_scratch, disks) = disks("names");
    for disk in disks {
        for name in ["", ".", "..", "a/b", "/etc/passwd", "a\0b", "LOCK", &"x".repeat(256)] {
            for mode in [OpenMode::Create, OpenMode::Read] {
                let refused = disk.open(name, mode);
                assert!(matches!(refused, Err(Error::Invalid { .. })), "{name:?} on {disk:?}");
            }
            assert!(matches!(disk.rename("a", name), Err(Error::Invalid { .. })));
            assert!(matches!(disk.remove(name), Err(Error::Invalid { .. })));
        }
    }
}

#[test]
fn a_disk_is_locked_once_at_a_time() {
    let (_scratch, disks) = disks("lock");
    for disk in disks {
        let lock = disk.lock().unwrap();
        assert!(matches!(disk.lock(), Err(Error::Locked { .. })), "{disk:?}");
        drop(lock);
        drop(disk.lock().unwrap());
        drop(disk.lock().unwrap());
        assert_eq!(disk.list().unwrap(), Vec::<String>::new());
    }
}

#[test]
fn a_removed_file_stays_usable_while_it_is_open() {
    let (_scratch, disks) = disks("removed");
    for disk in disks {
        let file = disk.open("a", OpenMode::Create).unwrap();
        file.write_at(0, &[1; 5000]).unwrap();
        disk.remove("a").unwrap();
        disk.sync_dir().unwrap();
        let other = disk.open("a", OpenMode::Create).unwrap();
        assert_eq!(other.len().unwrap(), 0);
        assert_eq!(contents(&*file), [1; 5000]);
        file.sync().unwrap();
    }
}

#[test]
fn time_goes_on_and_random_numbers_differ() {
    let (_scratch, disks) = disks("time");
    for disk in disks {
        let before = disk.now();
        assert_ne!(disk.random(), disk.random());
        assert!(disk.now() >= before);
        assert!(disk.free_bytes().unwrap() > 0);
        assert!(!disk.label().is_empty());
    }
}
