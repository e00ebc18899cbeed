//! Locks, permissions, forks, and the pool of readers.

use super::*;
use crate::Window;
use crate::scratch::Scratch;
use esker_base::sync::{AtomicUsize, Ordering};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

fn disk(label: &str) -> (Scratch, OsDisk) {
    let scratch = Scratch::new(label);
    let disk = OsDisk::open(&scratch.0, true).unwrap();
    (scratch, disk)
}

fn is_locked(result: &Result<Box<dyn Lock>>) -> bool {
    matches!(result, Err(Error::Locked { .. }))
}

// Parts of tests that run in a process of their own.

const DIRECTORY: &str = "ESKER_IO_TEST_DIRECTORY";

/// Runs one of the ignored tests below on a directory. `shell` goes before it, such as `ulimit -n 20;`.
fn child(test: &str, directory: &Path, shell: &str) -> Child {
    let exe = std::env::current_exe().unwrap();
    let run =
        format!("{shell} exec '{}' --exact os::tests::{test} --ignored --nocapture", exe.display());
    Command::new("sh")
        .args(["-c", &run])
        .env(DIRECTORY, directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Reads what a child says until it says this.
fn wait_for(child: &mut Child, word: &str) {
    let out = BufReader::new(child.stderr.as_mut().unwrap());
    assert!(out.lines().any(|line| line.unwrap().contains(word)), "the child never said {word}");
}

fn directory_of_child() -> Option<PathBuf> {
    std::env::var_os(DIRECTORY).map(PathBuf::from)
}

#[test]
#[ignore = "a part of another test"]
fn child_locks_and_waits() {
    let Some(path) = directory_of_child() else { return };
    let disk = OsDisk::open(&path, false).unwrap();
    let lock = disk.lock();
    let says = if is_locked(&lock) { "refused" } else { "locked" };
    io::Write::write_all(&mut io::stderr(), format!("{says}\n").as_bytes()).unwrap();
    let mut line = String::new();
    io::stdin().read_line(&mut line).unwrap();
}

#[test]
#[ignore = "a part of another test"]
fn child_runs_out_of_descriptors() {
    let Some(path) = directory_of_child() else { return };
    let disk = OsDisk::open(&path, false).unwrap();
    let mut open = Vec::new();
    let error = loop {
        match disk.open("a", OpenMode::Read) {
            Ok(file) => open.push(file),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::TooManyFiles { .. }), "{error}");
    assert!(open.len() > 1);
    open.clear();
    disk.open("a", OpenMode::Read).unwrap();
}

// The lock.

#[test]
fn another_process_is_refused_until_the_owner_dies() {
    let (scratch, disk) = disk("process");
    let mut owner = child("child_locks_and_waits", &scratch.0, "");
    wait_for(&mut owner, "locked");
    assert!(is_locked(&disk.lock()));
    owner.kill().unwrap();
    owner.wait().unwrap();

    let lock = disk.lock().unwrap();
    let mut second = child("child_locks_and_waits", &scratch.0, "");
    wait_for(&mut second, "refused");
    assert!(second.wait_with_output().unwrap().status.success());
    drop(lock);
    assert!(scratch.0.join(name::LOCK_NAME).exists());
}

#[test]
fn a_second_handle_is_refused_by_whatever_path() {
    let (scratch, disk) = disk("paths");
    let link = scratch.0.with_extension("link");
    std::os::unix::fs::symlink(&scratch.0, &link).unwrap();
    let by_link = OsDisk::open(&link, true);
    let dotted = OsDisk::open(&scratch.0.join("."), false).unwrap();
    fs::remove_file(&link).unwrap();
    let by_link = by_link.unwrap();

    let lock = disk.lock().unwrap();
    for other in [&disk, &by_link, &dotted] {
        assert!(is_locked(&other.lock()));
    }
    drop(lock);
    let lock = by_link.lock().unwrap();
    assert!(is_locked(&disk.lock()));
    drop(lock);
    disk.lock().unwrap();
}

#[test]
fn of_many_threads_one_gets_the_lock() {
    let (_scratch, disk) = disk("threads");
    for _ in 0..20 {
        let got = AtomicUsize::new(0);
        let barrier = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    barrier.wait();
                    let lock = disk.lock();
                    got.fetch_add(usize::from(lock.is_ok()), Ordering::Relaxed);
                    barrier.wait();
                });
            }
        });
        assert_eq!(got.into_inner(), 1);
    }
}

#[test]
#[allow(unsafe_code, reason = "std has no fork")]
fn a_forked_child_may_not_write_and_leaves_the_lock_alone() {
    let (scratch, disk) = disk("fork");
    let lock = disk.lock().unwrap();
    let file = disk.open("a", OpenMode::Create).unwrap();
    file.preallocate(4096).unwrap();
    // SAFETY: the child only makes calls of this crate and leaves by `_exit`. They allocate, which glibc
    // allows after fork, and take no lock that another thread may have held.
    let process = unsafe { libc::fork() };
    if process == 0 {
        let refused = file.write_at(0, &[1]).is_err()
            && file.sync().is_err()
            && file.preallocate(8192).is_err()
            && file.window(0, 4096).is_err()
            && disk.remove("a").is_err()
            && disk.rename("a", "b").is_err()
            && disk.sync_dir().is_err()
            && disk.open("b", OpenMode::Create).is_err();
        drop(lock);
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(!refused)) };
    }
    let mut status = 0;
    // SAFETY: `status` is ours to write and lives through the call.
    let waited = unsafe { libc::waitpid(process, &raw mut status, 0) };
    assert_eq!((waited, status), (process, 0));
    assert!(is_locked(&OsDisk::open(&scratch.0, false).unwrap().lock()));
    let mut other = child("child_locks_and_waits", &scratch.0, "");
    wait_for(&mut other, "refused");
    other.wait_with_output().unwrap();
    file.write_at(0, &[1]).unwrap();
}

// Directory and files.

#[test]
fn only_the_owner_may_look_in() {
    let (scratch, disk) = disk("modes");
    disk.open("a", OpenMode::Create).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&scratch.0), mode(&scratch.0.join("a"))), (0o700, 0o600));
    let _lock = disk.lock().unwrap();
    assert_eq!(mode(&scratch.0.join("LOCK")), 0o600);
}

#[test]
fn a_missing_directory_is_created_only_if_asked() {
    let scratch = Scratch::new("create");
    let path = scratch.0.join("deep").join("down");
    let missing = OsDisk::open(&path, false);
    assert!(
        matches!(missing, Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound)
    );
    OsDisk::open(&path, true).unwrap().open("a", OpenMode::Create).unwrap();
    OsDisk::open(&path, true).unwrap().open("a", OpenMode::Read).unwrap();
    let file = path.join("a");
    assert!(OsDisk::open(&file, false).is_err() && OsDisk::open(&file, true).is_err());
}

#[test]
fn links_and_folders_under_our_names_are_not_ours() {
    let (scratch, disk) = disk("links");
    let outside = Scratch::new("links-outside");
    fs::create_dir(&outside.0).unwrap();
    fs::File::create(outside.0.join("target")).unwrap();
    std::os::unix::fs::symlink(outside.0.join("target"), scratch.0.join("a")).unwrap();
    fs::create_dir(scratch.0.join("folder")).unwrap();
    for mode in [OpenMode::Read, OpenMode::ReadWrite, OpenMode::Create] {
        assert!(disk.open("a", mode).is_err());
    }
    assert_eq!(disk.list().unwrap(), Vec::<String>::new());
}

#[test]
fn a_moved_directory_is_still_the_same() {
    let (scratch, disk) = disk("moved");
    let moved = Scratch::new("moved-away");
    disk.open("a", OpenMode::Create).unwrap();
    fs::rename(&scratch.0, &moved.0).unwrap();
    fs::create_dir(&scratch.0).unwrap();
    disk.open("b", OpenMode::Create).unwrap();
    let mut names = disk.list().unwrap();
    names.sort();
    assert_eq!(names, ["a", "b"]);
    assert!(moved.0.join("b").exists() && !scratch.0.join("b").exists());
    disk.sync_dir().unwrap();
}

#[test]
fn running_out_of_descriptors_has_its_own_error() {
    let (scratch, disk) = disk("descriptors");
    disk.open("a", OpenMode::Create).unwrap();
    let child = child("child_runs_out_of_descriptors", &scratch.0, "ulimit -n 20;");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn programs_that_we_start_get_no_descriptor() {
    let (scratch, disk) = disk("exec");
    let _file = disk.open("a", OpenMode::Create).unwrap();
    let _lock = disk.lock().unwrap();
    let output = Command::new("ls").args(["-l", "/proc/self/fd"]).output().unwrap();
    let listing = String::from_utf8_lossy(&output.stdout);
    assert!(listing.contains("/proc/") && !listing.contains(&scratch.0.display().to_string()));
}

// The window.

fn window(disk: &OsDisk, bytes: u64) -> (Arc<dyn File>, Arc<dyn Window>) {
    let file = disk.open("log", OpenMode::Create).unwrap();
    file.preallocate(bytes).unwrap();
    let window = file.window(0, bytes).unwrap();
    (file, window)
}

#[test]
fn a_store_reads_back_at_once_and_from_another_handle() {
    let (_scratch, disk) = disk("window");
    let (file, window) = window(&disk, 1 << 20);
    for at in (0..1 << 20).step_by(65_536) {
        window.populate(at, 65_536).unwrap();
        window.store(at + 1000, &at.to_le_bytes());
        let mut bytes = [0; 8];
        file.read_at(at + 1000, &mut bytes).unwrap();
        assert_eq!(bytes, at.to_le_bytes());
    }
    file.sync().unwrap();
    let mut bytes = [0; 8];
    disk.open("log", OpenMode::Read).unwrap().read_at(1000, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 8]);
}

#[test]
fn populating_where_the_file_was_cut_is_an_error_not_a_signal() {
    let (_scratch, disk) = disk("cut");
    let (file, window) = window(&disk, 65_536);
    file.set_len(4096).unwrap();
    window.populate(0, 4096).unwrap();
    assert!(matches!(window.populate(0, 65_536), Err(Error::Io { op: "populate", .. })));
}

#[test]
#[should_panic(expected = "do not lie inside a window")]
fn a_store_outside_the_window_panics() {
    let (_scratch, disk) = disk("outside");
    let (_file, window) = window(&disk, 8192);
    window.store(8190, &[1; 3]);
}

// The pool.

/// A file that is never in the page cache and shows how many read it at once.
#[derive(Debug)]
struct SlowFile {
    cached: bool,
    now: AtomicUsize,
    most: AtomicUsize,
}

impl SlowFile {
    fn new(cached: bool) -> Arc<Self> {
        Arc::new(Self { cached, now: AtomicUsize::new(0), most: AtomicUsize::new(0) })
    }
}

impl File for SlowFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(2));
        self.now.fetch_sub(1, Ordering::SeqCst);
        buf.fill(u8::try_from(offset % 256).unwrap());
        if offset == 13 { Err(Error::Closed) } else { Ok(()) }
    }
    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        buf.fill(u8::try_from(offset % 256).unwrap());
        Ok(self.cached)
    }
    fn write_at(&self, _: u64, _: &[u8]) -> Result<()> {
        unreachable!("only reads")
    }
    fn sync(&self) -> Result<()> {
        unreachable!("only reads")
    }
    fn start_write_out(&self, _: u64, _: u64) -> Result<()> {
        unreachable!("only reads")
    }
    fn len(&self) -> Result<u64> {
        unreachable!("only reads")
    }
    fn set_len(&self, _: u64) -> Result<()> {
        unreachable!("only reads")
    }
    fn preallocate(&self, _: u64) -> Result<()> {
        unreachable!("only reads")
    }
    fn window(&self, _: u64, _: u64) -> Result<Arc<dyn Window>> {
        unreachable!("only reads")
    }
    fn name(&self) -> &'static str {
        "slow"
    }
}

fn requests(file: &Arc<SlowFile>, count: u64) -> Vec<ReadRequest> {
    (0..count).map(|at| ReadRequest::new(Arc::<SlowFile>::clone(file), at, 100)).collect()
}

#[test]
fn reads_that_wait_go_on_in_parallel() {
    let pool = Pool::new();
    let file = SlowFile::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for count in [0, 1, 2, 40, 3, 100] {
                    let mut requests = requests(&file, count);
                    pool.read_batch(&mut requests);
                    for (at, request) in requests.iter().enumerate() {
                        assert_eq!(request.buf, vec![u8::try_from(at).unwrap(); 100]);
                        assert_eq!(request.result.is_err(), at == 13);
                    }
                }
            });
        }
    });
    assert!(file.most.load(Ordering::SeqCst) > 8);
    assert!(pool.thread_count() <= 16);
}

/// Batches longer than a ring, from more threads than rings are kept for, with errors among them, in and past the page cache.
#[test]
fn batches_of_many_threads_do_not_mix() {
    let scratch = Scratch::new("mixed");
    for io_uring in [true, false] {
        let disk = OsDisk::open(&scratch.0, true).unwrap().io_uring(io_uring);
        let name = if io_uring { "ring" } else { "threads" };
        let file = disk.open(name, OpenMode::Create).unwrap();
        let all: Vec<u8> = (0..1_000_000_u32).map(|at| (at % 251).to_le_bytes()[0]).collect();
        file.write_at(0, &all).unwrap();
        file.sync().unwrap();
        std::thread::scope(|scope| {
            for thread in 0..12_u64 {
                let (disk, file, all) = (&disk, &file, &all);
                scope.spawn(move || {
                    for round in 0..20 {
                        #[cfg(target_os = "linux")]
                        sys::forget_cached(file.handle().unwrap());
                        let at =
                            |i: u64| (thread * 7919 + round * 104_729 + i * 1_299_709) % 1_000_100;
                        let bytes =
                            |i: u64| [90, 5000, 20_000, 100_000][usize::try_from(i % 4).unwrap()];
                        let mut requests: Vec<_> = (0..150)
                            .map(|i| ReadRequest {
                                past_cache: i % 5 > 0,
                                ..ReadRequest::new(Arc::clone(file), at(i), bytes(i))
                            })
                            .collect();
                        let mut ended = vec![0; requests.len()];
                        disk.read_each(&mut requests, &mut |i, request| {
                            ended[i] += 1;
                            let from = usize::try_from(request.offset).unwrap();
                            match all.get(from..from + request.buf.len()) {
                                Some(bytes) => assert!(request.buf == bytes, "request {i}"),
                                None => assert!(request.result.is_err(), "beyond the end"),
                            }
                        });
                        assert_eq!(ended, vec![1; requests.len()]);
                    }
                });
            }
        });
    }
}

/// What works on a read that has come may panic while others are under way: the kernel is done with all of them before their memory
/// goes.
#[test]
fn a_panic_beside_reads_waits_for_them() {
    let scratch = Scratch::new("panic");
    for io_uring in [true, false] {
        let disk = OsDisk::open(&scratch.0, true).unwrap().io_uring(io_uring);
        let name = if io_uring { "ring" } else { "threads" };
        let file = disk.open(name, OpenMode::Create).unwrap();
        file.write_at(0, &vec![7; 1 << 20]).unwrap();
        file.sync().unwrap();
        for round in 0..50 {
            #[cfg(target_os = "linux")]
            sys::forget_cached(file.handle().unwrap());
            let mut requests: Vec<_> = (0..100)
                .map(|i| ReadRequest {
                    past_cache: i % 2 > 0,
                    ..ReadRequest::new(Arc::clone(&file), i * 10_000, 5000)
                })
                .collect();
            let mut count = 0;
            let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                disk.read_each(&mut requests, &mut |_, request| {
                    assert!(request.buf.iter().all(|byte| *byte == 7));
                    count += 1;
                    assert!(count <= round, "on purpose");
                });
            }));
            assert!(panicked.is_err());
            drop(requests);
            // A ring that was left is whole.
            let mut again: Vec<_> =
                (0..10).map(|i| ReadRequest::new(Arc::clone(&file), i * 777, 100)).collect();
            disk.read_batch(&mut again);
            assert!(again.iter().all(|request| request.buf == [7; 100] && request.result.is_ok()));
        }
    }
}

#[test]
fn reads_that_need_not_wait_start_no_thread() {
    let pool = Pool::new();
    for (cached, count) in [(true, 100), (false, 1)] {
        pool.read_batch(&mut requests(&SlowFile::new(cached), count));
    }
    assert_eq!(pool.thread_count(), 0);
}

#[test]
fn reads_past_the_cache_are_exact_wherever_they_begin_and_end() {
    let (scratch, disk) = disk("direct");
    let all: Vec<u8> = (0..300_001u32).map(|at| (at * 7 / 3).to_le_bytes()[0]).collect();
    let file = disk.open("data", OpenMode::Create).unwrap();
    file.write_at(0, &all).unwrap();
    file.sync().unwrap();
    let handle = fs::File::open(scratch.0.join("data")).unwrap();
    let direct = direct::open(&handle);
    for (offset, bytes) in [
        (0, 65_536),
        (1, 65_536),
        (4095, 2),
        (4096, 4096),
        (100_003, 199_998),
        (299_999, 2),
        (5, 0),
    ] {
        let wanted = &all[offset..offset + bytes];
        let mut found = vec![0; bytes];
        file.read_past_cache(offset as u64, &mut found).unwrap();
        assert!(found == wanted, "{bytes} bytes from {offset}");
        // Not every file system has it.
        if let Some(direct) = &direct {
            found.fill(0);
            direct::read(direct, offset as u64, &mut found).unwrap();
            assert!(found == wanted, "{bytes} bytes from {offset}, past the cache");
        }
    }
    for (offset, bytes) in [(300_000, 2), (290_000, 65_536), (400_000, 1)] {
        let mut buf = vec![0; bytes];
        let beyond = file.read_past_cache(offset, &mut buf);
        assert!(
            matches!(&beyond, Err(Error::Io { source, .. })
            if source.kind() == io::ErrorKind::UnexpectedEof),
            "{beyond:?}"
        );
        if let Some(direct) = &direct {
            direct::read(direct, offset, &mut buf).unwrap_err();
        }
    }
}
