//! What each kind of crash may leave, and how faults behave.

use super::inode::Image;
use super::names::InodeNo;
use super::pages::SECTOR_BYTES;
use super::rng::Rng;
use super::*;
use std::collections::{BTreeMap, BTreeSet};

const SEEDS: u64 = 200;

fn create(disk: &SimDisk, name: &str, data: &[u8]) -> Arc<dyn File> {
    let file = disk.open(name, OpenMode::Create).unwrap();
    file.write_at(0, data).unwrap();
    file
}

/// A file that no crash can touch.
fn create_durable(disk: &SimDisk, name: &str, data: &[u8]) -> Arc<dyn File> {
    let file = create(disk, name, data);
    file.sync().unwrap();
    disk.sync_dir().unwrap();
    file
}

fn read(disk: &SimDisk, name: &str) -> Option<Vec<u8>> {
    let file = disk.open(name, OpenMode::Read).ok()?;
    let mut bytes = vec![0; pages::usize_of(file.len().unwrap())];
    file.read_at(0, &mut bytes).unwrap();
    Some(bytes)
}

/// What crashes of a kind leave of one file, over many seeds.
fn outcomes(disk: &SimDisk, kind: CrashKind, name: &str) -> BTreeSet<Option<Vec<u8>>> {
    (0..SEEDS).map(|seed| read(&disk.crash_clone(kind, seed), name)).collect()
}

// What a crash may leave, in general.

/// Everything that a file and the directory have been since their last sync, kept apart from the disk.
#[derive(Default)]
struct History {
    contents: BTreeMap<InodeNo, Vec<Vec<u8>>>,
    names: Vec<BTreeMap<String, InodeNo>>,
}

impl History {
    fn note(&mut self, disk: &SimDisk) {
        let state = disk.state();
        self.names.push(state.names.live.clone());
        for (&number, inode) in &state.inodes {
            self.contents.entry(number).or_default().push(bytes_of(&inode.live));
        }
    }

    fn check_names(&self, left: &State) {
        let mut seen = BTreeSet::new();
        for (name, number) in &left.names.live {
            assert!(seen.insert(*number), "one file has two names");
            let known = self.names.iter().any(|names| names.get(name) == Some(number));
            assert!(known, "{name} never was file {number}");
        }
        for name in self.names[0].keys() {
            let always = self.names.iter().all(|names| names.contains_key(name));
            assert!(!always || left.names.live.contains_key(name), "{name} was always there");
        }
    }

    fn check_contents(&self, kind: CrashKind, before: &State, left: &State) {
        for (number, inode) in &left.inodes {
            let left = bytes_of(&inode.live);
            let history = &self.contents[number];
            let lengths = history.iter().map(Vec::len);
            let range = lengths.clone().min().unwrap()..=lengths.max().unwrap();
            assert!(range.contains(&left.len()), "length {} out of {range:?}", left.len());
            for (index, sector) in left.chunks(512).enumerate() {
                let known = history.iter().any(|past| is_sector(past, index, sector));
                let never_synced = || {
                    let page = index as u64 * SECTOR_BYTES / pages::PAGE_BYTES as u64;
                    before.inodes[number].durable.pages.page(page).is_none()
                };
                let may_be_noise = match kind {
                    CrashKind::Garbage => never_synced(),
                    CrashKind::Shorn => before.inodes[number].pending.iter().any(|pending| {
                        let block = index as u64 / 8;
                        pending.change.range().is_some_and(|(offset, bytes)| {
                            pages::pages_of(offset, bytes).contains(&block)
                        })
                    }),
                    _ => false,
                };
                assert!(
                    known || may_be_noise,
                    "{kind:?}: sector {index} of file {number} never had these bytes"
                );
            }
        }
    }
}

fn bytes_of(image: &Image) -> Vec<u8> {
    let mut bytes = vec![0; pages::usize_of(image.len)];
    image.pages.read(0, &mut bytes);
    bytes
}

/// True if the file had these bytes in this sector; beyond its end it had zeroes.
fn is_sector(past: &[u8], index: usize, sector: &[u8]) -> bool {
    let start = (index * 512).min(past.len());
    let there = (past.len() - start).min(sector.len());
    past[start..start + there] == sector[..there] && sector[there..].iter().all(|&byte| byte == 0)
}

#[test]
fn a_crash_leaves_only_what_was_there_since_the_last_sync() {
    for seed in 0..60 {
        let mut rng = Rng::new(seed);
        let mut disk = SimDisk::new(seed);
        let mut open: Vec<Arc<dyn File>> = Vec::new();
        let mut history = History::default();
        history.note(&disk);
        for _ in 0..80 {
            random_step(&mut rng, &disk, &mut open, &mut history);
            history.note(&disk);
            let kind = match CrashKind::ALL[pages::usize_of(rng.below(12))] {
                CrashKind::SingleDrop(_) => CrashKind::SingleDrop(rng.below(10)),
                kind => kind,
            };
            let left = disk.crash_clone(kind, rng.next());
            history.check_names(&left.state());
            history.check_contents(kind, &disk.state(), &left.state());
            if rng.coin(1) && kind != CrashKind::Kill {
                disk = left;
                open.clear();
                history = History::default();
                history.note(&disk);
            }
        }
    }
}

fn random_step(
    rng: &mut Rng,
    disk: &SimDisk,
    open: &mut Vec<Arc<dyn File>>,
    history: &mut History,
) {
    let name = |rng: &mut Rng| format!("file-{}", rng.below(3));
    let at = rng.below(20_000);
    let pick = pages::usize_of(rng.below(open.len().max(1) as u64));
    // Many of these fail, as they may: there is no such file, or there is one already.
    let _tried: bool = match (rng.below(12), open.get(pick)) {
        (0, _) => disk.open(&name(rng), OpenMode::Create).map(|file| open.push(file)).is_ok(),
        (1, _) => disk.rename(&name(rng), &name(rng)).is_ok(),
        (2, _) if rng.coin(3) => disk.remove(&name(rng)).is_ok(),
        (3, _) if rng.coin(4) => {
            history.names.clear();
            disk.sync_dir().is_ok()
        }
        (4, Some(file)) => file.set_len(at).is_ok(),
        (5, Some(file)) => file.preallocate(at).is_ok(),
        (6, Some(file)) => {
            let numbers: Vec<InodeNo> = disk.state().inodes.keys().copied().collect();
            file.sync().unwrap();
            for number in numbers {
                if disk.state().inodes[&number].pending.is_empty() {
                    history.contents.remove(&number);
                }
            }
            true
        }
        (_, Some(file)) => {
            let byte = u8::try_from(rng.below(256)).unwrap();
            file.write_at(at, &vec![byte; pages::usize_of(rng.below(3000))]).is_ok()
        }
        _ => false,
    };
}

// What each kind does.

#[test]
fn what_was_synced_survives_every_kind() {
    let disk = SimDisk::new(1);
    let file = create_durable(&disk, "a", &[1; 10_000]);
    file.write_at(20_000, &[2; 10_000]).unwrap();
    create(&disk, "b", &[3; 100]);
    for kind in CrashKind::ALL {
        for left in outcomes(&disk, kind, "a") {
            assert_eq!(left.unwrap()[..10_000], [1; 10_000], "{kind:?}");
        }
    }
}

#[test]
fn what_is_shorn_takes_its_block_along_and_nothing_else() {
    let disk = SimDisk::new(1);
    let file = create_durable(&disk, "a", &[1; 12_288]);
    file.write_at(5000, &[2; 10]).unwrap();
    let (mut kept, mut lost) = (false, false);
    for left in outcomes(&disk, CrashKind::Shorn, "a").into_iter().flatten() {
        assert!(left[..4096] == [1; 4096] && left[8192..] == [1; 4096]);
        kept |= left[4096..5000] == [1; 904];
        lost |= left[4096..4110].iter().any(|byte| *byte != 1);
    }
    assert!(kept && lost);
}

#[test]
fn the_sync_of_a_file_does_not_keep_its_name() {
    let disk = SimDisk::new(1);
    create(&disk, "a", &[1; 100]).sync().unwrap();
    let kept = BTreeSet::from([Some(vec![1; 100])]);
    let lost = BTreeSet::from([None]);
    let both = BTreeSet::from([None, Some(vec![1; 100])]);
    for kind in CrashKind::ALL {
        let expected = match kind {
            CrashKind::Kill | CrashKind::All => &kept,
            CrashKind::None | CrashKind::SingleDrop(_) => &lost,
            _ => &both,
        };
        assert_eq!(outcomes(&disk, kind, "a"), *expected, "{kind:?}");
    }
}

#[test]
fn the_sync_of_the_directory_does_not_keep_contents() {
    let disk = SimDisk::new(1);
    create(&disk, "a", &[1; 100]);
    disk.sync_dir().unwrap();
    assert_eq!(read(&disk.crash_clone(CrashKind::None, 0), "a"), Some(Vec::new()));
}

#[test]
fn a_rename_is_all_or_nothing_and_keeps_one_of_the_two() {
    let disk = SimDisk::new(1);
    create_durable(&disk, "current", b"old");
    create(&disk, "new", b"new").sync().unwrap();
    disk.rename("new", "current").unwrap();
    let mut seen = BTreeSet::new();
    for kind in CrashKind::ALL {
        for seed in 0..SEEDS {
            let left = disk.crash_clone(kind, seed);
            let current = read(&left, "current").expect("one of the two");
            let new = read(&left, "new");
            match &current[..] {
                b"old" => {}
                b"new" => assert_eq!(new, None, "the file has moved"),
                other => panic!("{other:?}"),
            }
            seen.insert((current, new));
        }
    }
    assert_eq!(seen.len(), 3, "old alone, old beside new, new alone: {seen:?}");
}

#[test]
fn a_prefix_never_holds_a_later_write_without_the_earlier() {
    let disk = SimDisk::new(1);
    let file = create_durable(&disk, "a", &[0; 3]);
    for at in 0..3 {
        file.write_at(at, &[1]).unwrap();
    }
    let expected = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]];
    let expected = BTreeSet::from(expected.map(|bytes| Some(bytes.to_vec())));
    assert_eq!(outcomes(&disk, CrashKind::Prefix, "a"), expected);
    // The three are in one sector, which goes out as it stands in memory.
    assert_eq!(outcomes(&disk, CrashKind::Subset, "a"), expected);
    assert_eq!(outcomes(&disk, CrashKind::Torn512, "a"), expected);
}

#[test]
fn a_subset_keeps_each_write_as_a_whole() {
    let disk = SimDisk::new(1);
    let file = create_durable(&disk, "a", &[0; 4096]);
    file.write_at(0, &[1; 1024]).unwrap();
    file.write_at(2048, &[2; 1024]).unwrap();
    let left = outcomes(&disk, CrashKind::Subset, "a");
    assert_eq!(left.len(), 4);
    for bytes in left.into_iter().flatten() {
        assert!([[0; 1024], [1; 1024]].contains(bytes[..1024].as_array().unwrap()));
        assert!([[0; 1024], [2; 1024]].contains(bytes[2048..3072].as_array().unwrap()));
    }
}

#[test]
fn a_write_is_torn_between_sectors_and_never_in_one() {
    let disk = SimDisk::new(1);
    let file = create_durable(&disk, "a", &[0; 8192]);
    file.write_at(0, &[1; 8192]).unwrap();
    for (kind, unit) in [(CrashKind::Torn512, 512), (CrashKind::Torn4096, 4096)] {
        let mut torn = false;
        for bytes in outcomes(&disk, kind, "a").into_iter().flatten() {
            for sector in bytes.chunks(unit) {
                assert!(sector.iter().all(|&byte| byte == sector[0]));
            }
            torn |= bytes.iter().any(|&byte| byte != bytes[0]);
        }
        assert!(torn, "{kind:?}");
    }
}

#[test]
fn a_torn_length_lies_between() {
    let disk = SimDisk::new(1);
    let file = create_durable(&disk, "a", &[1; 100]);
    file.set_len(200).unwrap();
    let lengths: BTreeSet<usize> = outcomes(&disk, CrashKind::Torn512, "a")
        .into_iter()
        .map(|left| left.unwrap().len())
        .collect();
    assert!(lengths.contains(&100) && lengths.contains(&200) && lengths.len() > 10);
    assert!(lengths.iter().all(|length| (100..=200).contains(length)));
}

#[test]
fn garbage_stays_out_of_what_was_synced() {
    let disk = SimDisk::new(1);
    create_durable(&disk, "other", &[9; 4096]);
    let file = create_durable(&disk, "a", &[1; 4096]);
    file.write_at(4096, &[2; 8192]).unwrap();
    let (mut noise, mut stale) = (false, false);
    for bytes in outcomes(&disk, CrashKind::Garbage, "a").into_iter().flatten() {
        assert_eq!(bytes[..4096], [1; 4096]);
        noise |= bytes[4096..].iter().any(|byte| ![0, 1, 2, 9].contains(byte));
        stale |= bytes[4096..].contains(&9);
    }
    assert!(noise && stale);
}

#[test]
fn one_file_keeps_everything_and_another_nothing() {
    let disk = SimDisk::new(1);
    let a = create_durable(&disk, "a", &[0; 5000]);
    let b = create_durable(&disk, "b", &[0; 5000]);
    for file in [&a, &b] {
        file.write_at(0, &[1; 2000]).unwrap();
        file.write_at(3000, &[1; 2000]).unwrap();
    }
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let left = disk.crash_clone(CrashKind::ReorderByFile, seed);
        let whole = ["a", "b"].map(|name| match read(&left, name).unwrap() {
            bytes if bytes == [0; 5000] => false,
            bytes => {
                assert!(bytes[..2000] == [1; 2000] && bytes[3000..] == [1; 2000]);
                true
            }
        });
        seen.insert(whole);
    }
    assert_eq!(seen.len(), 4);
}

#[test]
fn a_single_drop_loses_one_change() {
    let disk = SimDisk::new(1);
    let file = create_durable(&disk, "a", &[0; 4096]);
    for sector in 0..4 {
        file.write_at(sector * 512, &[1; 512]).unwrap();
    }
    create(&disk, "b", &[]);
    assert_eq!(disk.pending_count(), 5);
    for index in 0..4 {
        let left = disk.crash_clone(CrashKind::SingleDrop(index as u64), 0);
        let bytes = read(&left, "a").unwrap();
        let lost: Vec<usize> = (0..4).filter(|at| bytes[at * 512] == 0).collect();
        assert_eq!(lost, [index]);
        assert!(read(&left, "b").is_some());
    }
    let left = disk.crash_clone(CrashKind::SingleDrop(4), 0);
    assert!(read(&left, "b").is_none());
}

#[test]
fn a_kill_loses_nothing_and_syncs_nothing() {
    let disk = SimDisk::new(1);
    let _file = create(&disk, "a", &[1; 100]);
    let killed = disk.crash_clone(CrashKind::Kill, 0);
    assert_eq!(read(&killed, "a"), Some(vec![1; 100]));
    assert_eq!(killed.pending_count(), disk.pending_count());
    assert_eq!(read(&killed.crash_clone(CrashKind::None, 0), "a"), None);
}

#[test]
fn a_kill_may_cut_a_write_or_store_at_any_byte() {
    let disk = SimDisk::new(1);
    let file = create_durable(&disk, "a", &[0; 4096]);
    let window = file.window(0, 4096).unwrap();
    window.populate(0, 4096).unwrap();
    let lengths: Arc<Mutex<BTreeSet<usize>>> = Arc::default();
    let seen = Arc::clone(&lengths);
    disk.on_operation(Box::new(move |_, disk| {
        for bytes in outcomes(disk, CrashKind::Kill, "a").into_iter().flatten() {
            let written = bytes.iter().take_while(|&&byte| byte == 1).count();
            assert!(bytes[written..].iter().all(|&byte| byte == 0));
            seen.lock().insert(written);
        }
    }));
    window.store(0, &[1; 300]);
    disk.clear_hook();
    let lengths = lengths.lock();
    assert!(lengths.contains(&0) && lengths.contains(&300) && lengths.len() > 20, "{lengths:?}");
}

// Faults.

#[test]
fn bytes_of_a_failed_sync_read_back_and_never_become_durable() {
    let disk = SimDisk::new(1);
    let file = create_durable(&disk, "a", &[1; 4096]);
    file.write_at(0, &[2; 512]).unwrap();
    file.write_at(4096, &[2; 512]).unwrap();
    disk.inject(Fault::new(OpKind::Sync, 0));
    assert!(matches!(file.sync(), Err(Error::Io { op: "sync", .. })));
    file.sync().unwrap();
    assert_eq!(read(&disk, "a").unwrap()[..512], [2; 512]);
    let left = read(&disk.crash_clone(CrashKind::All, 0), "a").unwrap();
    assert_eq!(left[..4096], [1; 4096]);
    assert_eq!(left[4096..], [0; 512], "the length is kept");

    // What is written again is there, with its sector as it stands in memory.
    file.write_at(100, &[3]).unwrap();
    file.sync().unwrap();
    let left = read(&disk.crash_clone(CrashKind::None, 0), "a").unwrap();
    assert_eq!((left[0], left[100], left[511], left[512]), (2, 3, 2, 1));
}

#[test]
fn a_fault_counts_operations_of_its_kind_and_files() {
    let disk = SimDisk::new(1);
    let log = create_durable(&disk, "log-1", &[0; 100]);
    let data = create_durable(&disk, "data", &[0; 100]);
    disk.inject(Fault::new(OpKind::Sync, 1).times(2).on("log-"));
    let answers: Vec<bool> = (0..5)
        .map(|_| {
            data.sync().unwrap();
            log.write_at(0, &[1]).unwrap();
            log.sync().is_ok()
        })
        .collect();
    assert_eq!(answers, [true, false, false, true, true]);
    disk.inject(Fault::new(OpKind::Read, 0).forever());
    for _ in 0..3 {
        log.read_at(0, &mut [0]).unwrap_err();
    }
    disk.clear_faults();
    log.read_at(0, &mut [0]).unwrap();
}

#[test]
fn each_kind_of_operation_can_fail() {
    let disk = SimDisk::new(1);
    let file = create_durable(&disk, "a", &[0; 4096]);
    let window = file.window(0, 4096).unwrap();
    let fail = |kind| disk.inject(Fault::new(kind, 0));
    fail(OpKind::Open);
    disk.open("a", OpenMode::Read).unwrap_err();
    fail(OpKind::Read);
    file.read_at(0, &mut [0]).unwrap_err();
    fail(OpKind::Sync);
    file.sync().unwrap_err();
    fail(OpKind::Names);
    disk.rename("a", "b").unwrap_err();
    fail(OpKind::Names);
    disk.remove("a").unwrap_err();
    fail(OpKind::SyncDir);
    disk.sync_dir().unwrap_err();
    fail(OpKind::Allocate);
    file.preallocate(8192).unwrap_err();
    fail(OpKind::Allocate);
    window.populate(0, 1).unwrap_err();
    fail(OpKind::Allocate);
    file.window(0, 4096).unwrap_err();
    disk.inject(Fault::new(OpKind::Open, 0).error(FaultError::TooManyFiles));
    assert!(matches!(disk.open("b", OpenMode::Create), Err(Error::TooManyFiles { .. })));
    disk.inject(Fault::new(OpKind::Write, 0).error(FaultError::NoSpace));
    assert!(matches!(file.write_at(0, &[1; 100]), Err(Error::NoSpace { .. })));
    assert_eq!(disk.list().unwrap(), ["a"]);
    assert!(read(&disk, "a").unwrap().len() >= 4096, "no fault is left");
}

#[test]
fn a_full_disk_takes_a_part_and_works_again_with_more_room() {
    let disk = SimDisk::new(1);
    let file = create_durable(&disk, "a", &[1; 4096]);
    disk.set_capacity(Some(3 * 4096));
    assert_eq!(disk.free_bytes().unwrap(), 2 * 4096);
    let full = file.write_at(4096, &[2; 4 * 4096]);
    assert!(matches!(full, Err(Error::NoSpace { .. })));
    assert_eq!((file.len().unwrap(), disk.free_bytes().unwrap()), (3 * 4096, 0));
    file.write_at(0, &[3; 3 * 4096]).unwrap();
    assert!(matches!(file.preallocate(4 * 4096), Err(Error::NoSpace { .. })));
    disk.set_capacity(Some(5 * 4096));
    file.preallocate(5 * 4096).unwrap();
    file.set_len(0).unwrap();
    assert_eq!(disk.used_bytes(), 0);
}

#[test]
fn bytes_at_rest_can_be_damaged() {
    let disk = SimDisk::new(1);
    create_durable(&disk, "a", &[1; 2000]);
    let old = disk.crash_clone(CrashKind::Kill, 0);
    disk.corrupt("a", 700, 0x80).unwrap();
    assert_eq!(read(&disk, "a").unwrap()[700], 0x81);
    assert_eq!(read(&disk.crash_clone(CrashKind::None, 0), "a").unwrap()[700], 0x81);
    disk.copy_sector(&old, "a", 600, "a", 600).unwrap();
    assert_eq!(read(&disk, "a"), Some(vec![1; 2000]));
    disk.zero_sector("a", 1999).unwrap();
    let bytes = read(&disk, "a").unwrap();
    assert_eq!((bytes[1535], bytes[1536], bytes.len()), (1, 0, 2000));
    disk.corrupt("a", 2000, 1).unwrap_err();
    disk.corrupt("b", 0, 1).unwrap_err();
}

// Replays.

#[test]
fn a_seed_replays() {
    let run = |seed| {
        let mut rng = Rng::new(seed);
        let disk = SimDisk::new(7);
        let (mut open, mut history) = (Vec::new(), History::default());
        for _ in 0..100 {
            random_step(&mut rng, &disk, &mut open, &mut history);
        }
        let left = disk.crash_clone(CrashKind::Garbage, seed);
        let names = left.list().unwrap();
        let bytes: Vec<_> = names.iter().map(|name| read(&left, name)).collect();
        (disk.trace_hash(), disk.operations(), disk.now(), disk.random(), names, bytes)
    };
    for seed in 0..20 {
        assert_eq!(run(seed), run(seed));
        assert_ne!(run(seed).0, run(seed + 1).0);
    }
}

#[test]
fn the_hook_sees_each_mutating_operation_before_it_happens() {
    let disk = SimDisk::new(1);
    let seen: Arc<Mutex<Vec<(u64, usize)>>> = Arc::default();
    let hook_seen = Arc::clone(&seen);
    disk.on_operation(Box::new(move |index, disk| {
        hook_seen.lock().push((index, disk.list().unwrap().len()));
        // What the hook does is not hooked.
        disk.sync_dir().unwrap();
    }));
    let file = disk.open("a", OpenMode::Create).unwrap();
    file.write_at(0, &[1; 100]).unwrap();
    file.len().unwrap();
    file.sync().unwrap();
    disk.remove("a").unwrap();
    assert_eq!(*seen.lock(), [(0, 0), (2, 1), (4, 1), (6, 1)]);
    assert_eq!(disk.operations(), 8);
}

#[test]
#[should_panic(expected = "not populated")]
fn a_store_to_a_page_that_was_not_populated_panics() {
    let disk = SimDisk::new(1);
    let file = create(&disk, "a", &[0; 8192]);
    let window = file.window(0, 8192).unwrap();
    window.populate(0, 4096).unwrap();
    window.store(4000, &[1; 97]);
}

#[test]
fn contents_go_when_nothing_can_reach_them() {
    let disk = SimDisk::new(1);
    let file = create_durable(&disk, "a", &[1; 5000]);
    disk.remove("a").unwrap();
    drop(file);
    assert_eq!(disk.used_bytes(), 8192, "a crash may bring the name back");
    disk.sync_dir().unwrap();
    assert_eq!(disk.used_bytes(), 0);
}

#[test]
fn a_crash_unlocks() {
    let disk = SimDisk::new(1);
    let _lock = disk.lock().unwrap();
    assert!(matches!(disk.clone().lock(), Err(Error::Locked { .. })));
    disk.crash_clone(CrashKind::Kill, 0).lock().unwrap();
}
