//! Which processors the server has, and which the load generator.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::fault::Fault;

/// How much is added to the nice value: high, but below the kernel's own threads.
const PRIORITY: i32 = -15;

/// Processors divided between both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// The server's, as `taskset -c` reads them.
    pub server: String,
    /// How many these are.
    pub server_threads: usize,
    /// The generator's, as text.
    pub generator: String,
    /// The generator's; empty if everybody may use all.
    pub generator_list: Vec<usize>,
    /// Threads of the load generator.
    pub generator_threads: usize,
}

/// The first half is the server's, the rest the generator's; a single processor is everybody's.
pub fn split(processors: usize) -> Split {
    let half = processors / 2;
    if half == 0 {
        return Split {
            server: "0".to_owned(),
            server_threads: 1,
            generator: "0".to_owned(),
            generator_list: Vec::new(),
            generator_threads: 1,
        };
    }
    let range = |from: usize, to: usize| if from == to { from.to_string() } else { format!("{from}-{to}") };
    let generator_list: Vec<usize> = (half..processors).collect();
    Split {
        server: range(0, half - 1),
        server_threads: half,
        generator: range(half, processors - 1),
        // One of several is left to the peer and the kernel.
        generator_threads: (generator_list.len() / 2).max(1),
        generator_list,
    }
}

/// Lets this thread, and what it will start, go before other processes until it is dropped: on a shared
/// machine their bursts would be measured, too. The servers inherit it, all alike.
pub struct Precedence {
    changed_session: bool,
}

/// Where the kernel keeps the nice value of this session; without such groups there is no file.
const SESSION: &str = "/proc/self/autogroup";

impl Precedence {
    /// A refusal makes the numbers noisier, not wrong.
    pub fn take() -> Precedence {
        let _ = rustix::process::nice(PRIORITY);
        // Processes are weighed within their session only, and sessions against each other. One that is not
        // at 0 is somebody else's choice, perhaps that of another run of this program.
        let is_usual = std::fs::read_to_string(SESSION).is_ok_and(|text| text.trim_end().ends_with("nice 0"));
        Precedence { changed_session: is_usual && std::fs::write(SESSION, PRIORITY.to_string()).is_ok() }
    }
}

impl Drop for Precedence {
    fn drop(&mut self) {
        if self.changed_session {
            let _ = std::fs::write(SESSION, "0");
        }
    }
}

/// Keeps this thread, and the threads that it will start, to some processors.
///
/// # Errors
/// If this process may not use one of them.
pub fn keep_to(processors: &[usize]) -> Result<(), Fault> {
    if processors.is_empty() {
        return Ok(());
    }
    let failed = |error| format!("processors {processors:?}: {error}");
    let allowed = sched_getaffinity(None).map_err(failed)?;
    let mut set = CpuSet::new();
    for &processor in processors {
        if processor >= CpuSet::MAX_CPU || !allowed.is_set(processor) {
            return Err(format!("this process may not use processor {processor}: give it all of them").into());
        }
        set.set(processor);
    }
    sched_setaffinity(None, &set).map_err(failed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_have_processors_of_their_own() {
        let two = split(2);
        assert_eq!((two.server.as_str(), two.generator.as_str(), two.generator_threads), ("0", "1", 1));
        let nine = split(9);
        assert_eq!((nine.server.as_str(), nine.server_threads), ("0-3", 4));
        assert_eq!((nine.generator.as_str(), nine.generator_threads), ("4-8", 2));
    }

    #[test]
    fn a_single_processor_is_shared() {
        let one = split(1);
        assert_eq!((one.server.as_str(), one.generator.as_str()), ("0", "0"));
        assert!(one.generator_list.is_empty());
    }
}
