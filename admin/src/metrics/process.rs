//! Figures of this process, by the names that every program uses for them.

use std::fmt;
use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;

use super::page::Page;
use super::plain;

/// What `/proc` says of this process; what it doesn't say is left out.
#[derive(Debug, Default)]
pub struct Process {
    cpu_secs: Option<f64>,
    resident_bytes: Option<u64>,
    virtual_bytes: Option<u64>,
    threads: Option<u64>,
    started_unix_secs: Option<u64>,
    open_files: Option<u64>,
    max_files: Option<u64>,
}

impl Process {
    /// Reads a handful of files.
    pub fn of_this() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let ticks_per_sec = rustix::param::clock_ticks_per_second().max(1);
        Self {
            open_files: open_files(),
            max_files: max_files(&limits),
            ..Self::of_stat(&stat, boot_time(&boot), ticks_per_sec, rustix::param::page_size() as u64)
        }
    }

    /// From a line of /proc/PID/stat (proc_pid_stat(5)): fields are counted from the end of the name,
    /// which may hold anything.
    fn of_stat(stat: &str, boot_unix_secs: Option<u64>, ticks_per_sec: u64, page_bytes: u64) -> Self {
        let fields: Vec<&str> =
            stat.rsplit_once(')').map_or_else(Vec::new, |(_, rest)| rest.split_whitespace().collect());
        // The first field after the name is number 3.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        let ticks = field(14).zip(field(15)).map(|(user, system)| user + system);
        Self {
            cpu_secs: ticks.map(|ticks| ticks as f64 / ticks_per_sec as f64),
            threads: field(20),
            started_unix_secs: boot_unix_secs
                .zip(field(22))
                .map(|(boot, ticks)| boot + ticks / ticks_per_sec),
            virtual_bytes: field(23),
            resident_bytes: field(24).map(|pages| pages * page_bytes),
            ..Self::default()
        }
    }
}

/// Counted by the kernel where it does that (since Linux 6.2, proc_pid_fd(5)): a relay has a file for each
/// port, and to read tens of thousands of names takes tens of milliseconds.
fn open_files() -> Option<u64> {
    const FOLDER: &str = "/proc/self/fd";
    let counted = fs::metadata(FOLDER).ok()?.len();
    if counted > 0 {
        return Some(counted);
    }
    // The folder that is being read is one of them.
    Some((fs::read_dir(FOLDER).ok()?.count() as u64).saturating_sub(1))
}

fn boot_time(stat: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn max_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

impl Collector for Process {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        let cpu = self.cpu_secs.map(|secs| (Vec::new(), secs));
        page.counter_f64("process_cpu_seconds", "CPU time of the process, in user and system mode.", cpu)?;
        let gauges = [
            ("process_resident_memory_bytes", "Memory of the process that is in RAM.", self.resident_bytes),
            ("process_virtual_memory_bytes", "Address space of the process.", self.virtual_bytes),
            ("process_threads", "Threads of the process.", self.threads),
            ("process_open_fds", "Open files of the process.", self.open_files),
            ("process_max_fds", "Files that the process may have open.", self.max_files),
            (
                "process_start_time_seconds",
                "When the process started, seconds since 1970.",
                self.started_unix_secs,
            ),
        ];
        for (name, help, value) in gauges {
            page.gauge(name, help, value.into_iter().flat_map(plain))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_blanks_moves_no_field() {
        let rest = "S 1 1 1 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 7 0 3000 123456 10 0";
        let process = Process::of_stat(&format!("42 (a) b (c) {rest}"), Some(1_000_000), 100, 4096);
        assert_eq!(process.cpu_secs, Some(2.0));
        assert_eq!(process.threads, Some(7));
        assert_eq!(process.started_unix_secs, Some(1_000_030));
        assert_eq!(process.virtual_bytes, Some(123_456));
        assert_eq!(process.resident_bytes, Some(40_960));
        assert!(Process::of_stat("", None, 100, 4096).cpu_secs.is_none());
    }

    #[test]
    fn open_files_are_counted() {
        let before = open_files().expect("/proc is mounted");
        let held: Vec<_> =
            (0..500).map(|_| fs::File::open("/proc/self/stat").expect("a descriptor is free")).collect();
        // Other tests open and close some meanwhile.
        let more = open_files().expect("/proc is mounted") - before;
        assert!((400..600).contains(&more), "{more} more");
        drop(held);
    }

    #[test]
    fn this_process_has_figures() {
        let process = Process::of_this();
        assert!(process.resident_bytes.is_some_and(|bytes| bytes > 100_000));
        assert!(process.open_files.is_some_and(|files| files >= 3));
        assert!(process.max_files.is_some_and(|files| files >= 3));
        assert!(process.started_unix_secs.is_some_and(|secs| secs > 1_500_000_000));
    }
}
