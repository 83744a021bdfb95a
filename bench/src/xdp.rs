//! What an XDP program of the server did: its work is in no process's processor time.
//!
//! The kernel counts a program's runs and their time while `kernel.bpf_stats_enabled` is 1, and tells both
//! in /proc/PID/fdinfo of whoever holds the program.

use std::fs;

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";
/// BPF_PROG_TYPE_XDP (linux/bpf.h).
const XDP: &str = "prog_type:\t6";

/// Lets the kernel count until it is dropped; for all servers alike.
pub struct Counting {
    before: Option<String>,
}

impl Counting {
    /// Where it is not possible, nothing is counted.
    pub fn switch_on() -> Counting {
        // Whoever has switched it on already will switch it off.
        let before = fs::read_to_string(SWITCH).ok().filter(|text| text.trim() == "0");
        let before = before.filter(|_| fs::write(SWITCH, "1").is_ok());
        Counting { before }
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = fs::write(SWITCH, before);
        }
    }
}

/// Runs of all XDP programs of a process, and how long they took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Runs {
    /// How many.
    pub count: u64,
    /// Nanoseconds.
    pub ns: u64,
}

impl Runs {
    /// Those of a process so far.
    pub fn of(pid: u32) -> Runs {
        let Ok(folder) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return Runs::default() };
        let texts = folder.flatten().filter_map(|entry| fs::read_to_string(entry.path()).ok());
        let mut programs: Vec<(u64, Runs)> = texts.filter_map(|text| parse(&text)).collect();
        // A program may be held by several descriptors.
        programs.sort_by_key(|(id, runs)| (*id, runs.count));
        programs.dedup_by_key(|(id, _)| *id);
        programs.iter().fold(Runs::default(), |sum, (_, runs)| Runs {
            count: sum.count + runs.count,
            ns: sum.ns + runs.ns,
        })
    }

    /// Those since an earlier reading.
    pub fn since(&self, earlier: &Runs) -> Runs {
        Runs { count: self.count.saturating_sub(earlier.count), ns: self.ns.saturating_sub(earlier.ns) }
    }
}

/// The program's id and runs, if the descriptor is one of an XDP program.
fn parse(text: &str) -> Option<(u64, Runs)> {
    if !text.lines().any(|line| line == XDP) {
        return None;
    }
    let number = |name: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse::<u64>().ok())
    };
    Some((number("prog_id")?, Runs { count: number("run_cnt")?, ns: number("run_time_ns")? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROGRAM: &str = "pos:\t0\nflags:\t02000002\nprog_type:\t6\nprog_jited:\t1\nmemlock:\t4096\nprog_id:\t12\nrun_time_ns:\t7000\nrun_cnt:\t10\nrecursion_misses:\t0\n";

    #[test]
    fn an_xdp_program_is_told_from_other_descriptors() {
        assert_eq!(parse(PROGRAM), Some((12, Runs { count: 10, ns: 7000 })));
        assert_eq!(parse(&PROGRAM.replace("prog_type:\t6", "prog_type:\t3")), None);
        assert_eq!(parse("pos:\t0\nflags:\t02\n"), None);
    }

    #[test]
    fn a_process_without_programs_has_no_runs() {
        assert_eq!(Runs::of(std::process::id()), Runs::default());
        let later = Runs { count: 5, ns: 50 };
        assert_eq!(later.since(&Runs { count: 2, ns: 20 }), Runs { count: 3, ns: 30 });
    }
}
