//! What the machine is, and what others do to it meanwhile (Linux's `/proc`).

use std::fs::read_to_string;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::available_parallelism;
use std::time::Instant;

/// Ticks of `/proc/stat` in a second, on every Linux of today.
const TICKS_PER_SECOND: f64 = 100.0;
/// Nanoseconds that threads which have ended waited for a processor.
static WAITED: AtomicU64 = AtomicU64::new(0);

/// One paragraph about the machine.
pub(crate) fn facts(dir: &Path) -> String {
    let read = |path: &str| read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let field = |name: &str| {
        let mut fields = cpu.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(key, _)| key.trim() == name).map_or("?", |(_, value)| value.trim())
    };
    let df = Command::new("df").arg("--output=fstype").arg(dir).output();
    let df = df.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    format!(
        "Machine: {} cores of {} (family {}, model {}){}, Linux {}, {}, huge pages {}.\n",
        available_parallelism().map_or(1, usize::from),
        field("model name"),
        field("cpu family"),
        field("model"),
        if cpu.contains(" hypervisor ") { " in a virtual machine" } else { "" },
        read("/proc/sys/kernel/osrelease").trim(),
        df.unwrap_or_default().lines().last().unwrap_or("?"),
        read("/sys/kernel/mm/transparent_hugepage/enabled").trim(),
    )
}

/// Measures what others do while we measure.
#[derive(Debug)]
pub(crate) struct Watch {
    start: Instant,
    ticks: f64,
    waited: u64,
}

impl Watch {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now(), ticks: ticks_of_others(), waited: waited() }
    }
    /// Time since the start that our threads would have run but had no processor, as a share.
    pub(crate) fn waited(&self) -> f64 {
        (waited() - self.waited) as f64 / 1e9 / self.start.elapsed().as_secs_f64()
    }
    /// Processors that others used since the start, in user mode or stolen from the machine. (Kernel time
    /// would count write-back on our own behalf.)
    pub(crate) fn others(&self) -> f64 {
        let seconds = (ticks_of_others() - self.ticks) / TICKS_PER_SECOND;
        (seconds / self.start.elapsed().as_secs_f64()).max(0.0)
    }
}

/// Number `at` of a text.
fn number(text: &str, at: usize) -> Option<f64> {
    text.split_ascii_whitespace().nth(at)?.parse().ok()
}

/// Nanoseconds that this thread waited for a processor.
fn own_wait() -> u64 {
    let text = read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    number(&text, 1).unwrap_or(0.0) as u64
}

fn waited() -> u64 {
    own_wait() + WAITED.load(Ordering::Relaxed)
}

/// To be called at the end of a thread that measures.
pub(crate) fn count_wait() {
    WAITED.fetch_add(own_wait(), Ordering::Relaxed);
}

fn ticks_of_others() -> f64 {
    let read = |path| read_to_string(path).unwrap_or_default();
    let (all, own) = (read("/proc/stat"), read("/proc/self/stat"));
    // `cpu user nice system idle iowait irq softirq steal`; in our own line, user time is field 14, and
    // field 3 follows the name, which may hold spaces but ends with the last parenthesis.
    let others: Option<f64> = [1, 2, 8].iter().map(|&at| number(&all, at)).sum();
    let own = own.rsplit_once(')').and_then(|(_, fields)| number(fields, 11));
    others.unwrap_or(0.0) - own.unwrap_or(0.0)
}

/// MiB of the memory at `addresses` that are resident, and in huge pages.
pub(crate) fn resident(addresses: &Range<usize>) -> io::Result<(f64, f64)> {
    let (mut inside, mut resident, mut huge) = (false, 0.0, 0.0);
    for line in read_to_string("/proc/self/smaps")?.lines() {
        let mut words = line.split_ascii_whitespace();
        let name = words.next().unwrap_or_default();
        let number = |text| usize::from_str_radix(text, 16);
        if let Some((Ok(from), Ok(to))) =
            name.split_once('-').map(|(from, to)| (number(from), number(to)))
        {
            inside = from < addresses.end && to > addresses.start;
        } else if inside && let Some(Ok(kib)) = words.next().map(str::parse::<f64>) {
            match name {
                "Rss:" => resident += kib / 1024.0,
                "AnonHugePages:" => huge += kib / 1024.0,
                _ => {}
            }
        }
    }
    Ok((resident, huge))
}
