//! Processor time: the whole machine's, one process's, and that of everybody who isn't part of the
//! measurement.
//!
//! What a relay costs is not only what its process is charged: the kernel does most of the work, partly in
//! interrupts that are charged to whoever was running. So the machine's busy time is what counts, less what
//! processes that have nothing to do with the measurement used, less what an idle machine uses anyway.

use std::fs;
use std::time::Duration;

use turnpike_loadtest::engine::mmsg::mono_ns;

/// Ticks per second of the times in /proc (USER_HZ, fixed on every architecture that Linux supports here).
const TICKS_PER_SEC: f64 = 100.0;

/// A reading of all clocks at one time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    at_ns: u64,
    /// Idle, waiting for disks and stolen by the host, all processors, ticks.
    unused_ticks: u64,
    /// Time that the server's threads ran, ns.
    server_ns: u64,
    /// The same of processes that aren't part of the measurement, ticks.
    foreign_ticks: u64,
}

/// Processor time used between two readings.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Used {
    /// Wall time, seconds.
    pub wall_secs: f64,
    /// Processor seconds of the whole machine, less those of foreign processes.
    pub system_secs: f64,
    /// Processor seconds of the server's process.
    pub server_secs: f64,
    /// Processor seconds of processes that aren't part of the measurement.
    pub foreign_secs: f64,
}

impl Reading {
    /// Reads everything at the start of a measurement: what takes long comes first, outside of it.
    pub fn begin(server: Option<u32>) -> Reading {
        let foreign_ticks = foreign_ticks(server);
        let server_ns = server.map_or(0, process_ns);
        Reading { foreign_ticks, server_ns, unused_ticks: unused_ticks(), at_ns: mono_ns() }
    }

    /// What was used since [`Reading::begin`] with the same server.
    pub fn end(&self, server: Option<u32>) -> Used {
        let at_ns = mono_ns();
        let unused_ticks = unused_ticks();
        let server_ns = server.map_or(0, process_ns);
        let now = Reading { at_ns, unused_ticks, server_ns, foreign_ticks: foreign_ticks(server) };
        self.until(&now, processors())
    }

    fn until(&self, now: &Reading, processors: usize) -> Used {
        let secs = |from: u64, to: u64| to.saturating_sub(from) as f64 / TICKS_PER_SEC;
        let wall_secs = now.at_ns.saturating_sub(self.at_ns) as f64 / 1e9;
        let busy_secs = wall_secs * processors as f64 - secs(self.unused_ticks, now.unused_ticks);
        let foreign_secs = secs(self.foreign_ticks, now.foreign_ticks);
        Used {
            wall_secs,
            system_secs: (busy_secs - foreign_secs).max(0.0),
            server_secs: now.server_ns.saturating_sub(self.server_ns) as f64 / 1e9,
            foreign_secs,
        }
    }
}

/// Processor seconds per second that the machine uses when nothing is measured.
pub fn idle_baseline(over: Duration) -> f64 {
    let begin = Reading::begin(None);
    std::thread::sleep(over);
    let used = begin.end(None);
    if used.wall_secs > 0.0 { used.system_secs / used.wall_secs } else { 0.0 }
}

/// Processors that are online.
pub fn processors() -> usize {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    stat.lines().filter(|line| is_processor(line)).count().max(1)
}

fn is_processor(line: &str) -> bool {
    line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

/// Resident memory of a process and the most it ever was, KiB.
pub fn resident_kib(pid: u32) -> Option<u64> {
    kib_value(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmRSS:")
}

/// The kernel's own memory that can't be reclaimed, where sockets are, KiB.
pub fn kernel_kib() -> Option<u64> {
    kib_value(&fs::read_to_string("/proc/meminfo").ok()?, "SUnreclaim:")
}

fn kib_value(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key))?.split_whitespace().next()?.parse().ok()
}

fn unused_ticks() -> u64 {
    fs::read_to_string("/proc/stat").map_or(0, |stat| unused_of(&stat))
}

/// Idle, iowait and steal of the first line of /proc/stat. Busy time is what remains of the wall clock: it
/// includes interrupts of an idle processor, which the sampled columns beside these miss.
fn unused_of(stat: &str) -> u64 {
    let numbers: Vec<u64> = stat
        .lines()
        .next()
        .map(|line| line.split_whitespace().skip(1).filter_map(|n| n.parse().ok()).collect())
        .unwrap_or_default();
    [3, 4, 7].iter().filter_map(|&column: &usize| numbers.get(column)).sum()
}

/// Time that a process's threads ran, in the scheduler's own nanoseconds (the first number of schedstat):
/// the ticks of /proc/PID/stat are too coarse for a second of light load. A thread that has ended is
/// forgotten; the servers keep theirs.
fn process_ns(pid: u32) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let of_thread = |path: std::path::PathBuf| {
        fs::read_to_string(path.join("schedstat")).ok()?.split_whitespace().next()?.parse::<u64>().ok()
    };
    threads.flatten().filter_map(|entry| of_thread(entry.path())).sum()
}

/// Datagrams that the kernel dropped before any socket because a processor's backlog was full, on the whole
/// machine since it started: the second number of each line, hexadecimal.
pub fn backlog_drops() -> u64 {
    let text = fs::read_to_string("/proc/net/softnet_stat").unwrap_or_default();
    backlog_drops_of(&text)
}

fn backlog_drops_of(text: &str) -> u64 {
    let dropped = |line: &str| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok();
    text.lines().filter_map(dropped).sum()
}

/// Time of all processes but the kernel's, the server and this program. Children that have ended count at
/// the parent that waited for them, so that short-lived ones aren't forgotten.
fn foreign_ticks(server: Option<u32>) -> u64 {
    let own = std::process::id();
    let Ok(folder) = fs::read_dir("/proc") else { return 0 };
    let pids = folder.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|&pid| pid != own && Some(pid) != server)
        .filter_map(|pid| Times::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?))
        .filter(|times| !times.is_kernel)
        .map(|times| times.own_ticks + times.children_ticks)
        .sum()
}

/// The times of one line of /proc/PID/stat.
#[derive(Debug, PartialEq, Eq)]
struct Times {
    is_kernel: bool,
    own_ticks: u64,
    children_ticks: u64,
}

impl Times {
    fn parse(stat: &str) -> Option<Times> {
        /// The kernel's thread that starts all others.
        const KTHREADD: &str = "2";
        // The name is in parentheses and may contain anything, also parentheses.
        let (head, rest) = stat.rsplit_once(')')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Times {
            is_kernel: fields.get(1) == Some(&KTHREADD) || head.starts_with("2 ("),
            own_ticks: number(11)? + number(12)?,
            children_ticks: number(13)? + number(14)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_time_is_idle_iowait_and_steal() {
        assert_eq!(unused_of("cpu  1 2 3 400 50 6 7 8 0 0\ncpu0 0 0 0 0\n"), 458);
        assert_eq!(unused_of(""), 0);
    }

    #[test]
    fn a_process_name_with_parentheses_hides_nothing() {
        let line = "77 (a) b (c)) S 1 77 77 0 -1 4194560 9 9 0 0 11 12 13 14 20 0 1 0 5 6";
        let times = Times { is_kernel: false, own_ticks: 23, children_ticks: 27 };
        assert_eq!(Times::parse(line), Some(times));
        let thread = "15 (ksoftirqd/0) S 2 0 0 0 -1 69238848 0 0 0 0 0 9 0 0 20 0 1 0 5 0";
        assert!(Times::parse(thread).is_some_and(|times| times.is_kernel));
    }

    #[test]
    fn what_others_use_is_not_ours() {
        let begin = Reading { at_ns: 0, unused_ticks: 0, server_ns: 10, foreign_ticks: 100 };
        let end =
            Reading { at_ns: 2_000_000_000, unused_ticks: 250, server_ns: 500_000_010, foreign_ticks: 150 };
        let used = begin.until(&end, 2);
        assert_eq!((used.wall_secs, used.system_secs), (2.0, 1.0), "4 s, less 2.5 unused, less 0.5 foreign");
        assert_eq!((used.server_secs, used.foreign_secs), (0.5, 0.5));
    }

    #[test]
    fn backlog_drops_are_hexadecimal_and_summed_over_processors() {
        assert_eq!(backlog_drops_of("0000ffff 0000001f 00000000\n00000001 00000001 0\n"), 32);
        assert_eq!(backlog_drops_of(""), 0);
    }

    #[test]
    fn this_machine_can_be_read() {
        let begin = Reading::begin(Some(std::process::id()));
        let spin_until = mono_ns() + 100_000_000;
        while mono_ns() < spin_until {}
        let used = begin.end(Some(std::process::id()));
        assert!(used.wall_secs >= 0.1);
        assert!(used.server_secs >= 0.01, "it was spinning: {used:?}");
        assert!(resident_kib(std::process::id()).is_some_and(|kib| kib > 100));
        assert!(kernel_kib().is_some_and(|kib| kib > 100));
    }
}
