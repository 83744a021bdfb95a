//! One command of a chore: run it, show its output, measure it, count what its tests said.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A command as a shell takes it: quoted where that is needed.
pub fn command_line(program: &str, arguments: &[&str]) -> String {
    let words = std::iter::once(program).chain(arguments.iter().copied());
    shlex::try_join(words).expect("arguments have no NUL")
}

/// How many tests passed, failed, and could not run here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tests that passed, skipped ones not included.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    /// Tests that printed `SKIPPED:` because this machine lacks something.
    pub skipped: u64,
}

impl Counts {
    /// Adds what one line of a test runner's output says: tests that could not run are among the passed ones
    /// until [`Counts::without_skipped`].
    fn read_line(&mut self, line: &str) {
        if line.starts_with("SKIPPED:") {
            self.skipped += 1;
        }
        // node --test: "ℹ pass 5", "ℹ fail 0".
        if let Some((word, number)) = line.strip_prefix("\u{2139} ").and_then(|rest| rest.split_once(' ')) {
            let number = number.trim().parse::<u64>().unwrap_or(0);
            match word {
                "pass" => self.passed += number,
                "fail" => self.failed += number,
                "skipped" => {
                    self.passed += number;
                    self.skipped += number;
                }
                _ => {}
            }
        }
        // libtest: "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; ..."
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let result = result.split_once(". ").map_or(result, |(_, numbers)| numbers);
        for part in result.split("; ") {
            match part.split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse::<u64>().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse::<u64>().unwrap_or(0),
                _ => {}
            }
        }
    }

    /// libtest knows no skipped tests: one that says `SKIPPED:` has passed for it.
    fn without_skipped(self) -> Counts {
        Counts { passed: self.passed.saturating_sub(self.skipped), ..self }
    }

    /// Both together.
    pub fn plus(self, other: Counts) -> Counts {
        Counts {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
        }
    }
}

/// What became of a step.
pub struct Report {
    /// Its name in the table.
    pub name: &'static str,
    /// The command to run it again.
    pub rerun: String,
    /// Whether it succeeded.
    pub ok: bool,
    /// How long it took.
    pub took: Duration,
    /// What its tests said.
    pub counts: Counts,
}

impl Report {
    /// Runs a function as a step.
    pub fn of(
        name: &'static str,
        rerun: impl Into<String>,
        work: impl FnOnce() -> Result<Counts, String>,
    ) -> Report {
        let rerun = rerun.into();
        println!("\n== {name}: {rerun}");
        let start = Instant::now();
        let done = work();
        if let Err(why) = &done {
            println!("{name} failed: {why}\n  run it again with: {rerun}");
        }
        Report { name, rerun, ok: done.is_ok(), took: start.elapsed(), counts: done.unwrap_or_default() }
    }
}

/// Runs a cargo command and shows its output.
///
/// Counts go into `counts` also when the command fails.
///
/// # Errors
/// When it cannot be started or does not end with exit code 0.
pub fn cargo(
    root: &Path,
    arguments: &[&str],
    environment: &[(&str, &str)],
    counts: &mut Counts,
) -> Result<(), String> {
    let mut command = Command::new("cargo");
    command.args(arguments).envs(environment.iter().copied()).current_dir(root);
    run_command(&mut command, &command_line("cargo", arguments), counts)
}

/// Runs any command, which messages call `shown`, and shows its output.
///
/// Counts go into `counts` also when the command fails.
///
/// # Errors
/// When it cannot be started or does not end with exit code 0; with `CI=true` also when a test was skipped.
pub fn run_command(command: &mut Command, shown: &str, counts: &mut Counts) -> Result<(), String> {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start {shown}: {error}"))?;
    let told = show_output(&mut child).without_skipped();
    *counts = counts.plus(told);
    let status = child.wait().map_err(|error| format!("cannot wait for {shown}: {error}"))?;
    judge(shown, status, told, forbids_skipping())
}

fn judge(shown: &str, status: ExitStatus, told: Counts, forbids_skipping: bool) -> Result<(), String> {
    match told.skipped {
        _ if !status.success() => Err(format!("{shown} ended with {status}")),
        1.. if forbids_skipping => Err(format!("{shown}: {} SKIPPED, and CI=true forbids it", told.skipped)),
        _ => Ok(()),
    }
}

/// Whether everything has to run.
fn forbids_skipping() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

/// Says that a step can't run here, and counts it.
///
/// # Errors
/// With `CI=true`, which forbids skipping.
pub fn skip(why: &str, counts: &mut Counts) -> Result<(), String> {
    if forbids_skipping() {
        return Err(format!("{why}, and CI=true forbids skipping"));
    }
    println!("SKIPPED: {why}");
    *counts = counts.plus(Counts { skipped: 1, ..Counts::default() });
    Ok(())
}

/// Copies both outputs of a child to ours as they come, and counts its tests.
fn show_output(child: &mut Child) -> Counts {
    let stdout = child.stdout.take().expect("was piped");
    let stderr = child.stderr.take().expect("was piped");
    std::thread::scope(|scope| {
        let errors = scope.spawn(|| copy_lines(stderr, std::io::stderr()));
        copy_lines(stdout, std::io::stdout()).plus(errors.join().expect("copying lines does not panic"))
    })
}

fn copy_lines(from: impl std::io::Read, mut to: impl Write) -> Counts {
    let mut counts = Counts::default();
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        counts.read_line(&String::from_utf8_lossy(&line));
        // A closed terminal must not end the checks.
        let _ = to.write_all(&line);
        line.clear();
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_what_the_test_runner_reports() {
        let mut counts = Counts::default();
        counts.read_line("running 7 tests");
        counts.read_line("test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out");
        counts.read_line("test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out");
        counts.read_line("SKIPPED: interop because not root");
        assert_eq!(counts, Counts { passed: 7, failed: 3, skipped: 1 });
        counts.read_line("\u{2139} pass 4\n");
        counts.read_line("\u{2139} fail 1\n");
        counts.read_line("\u{2139} duration_ms 12\n");
        assert_eq!(counts, Counts { passed: 11, failed: 4, skipped: 1 });
        assert_eq!(counts.without_skipped(), Counts { passed: 10, failed: 4, skipped: 1 });
    }

    #[test]
    fn nodes_skipped_tests_are_no_passed_ones_either() {
        let mut counts = Counts::default();
        for line in ["\u{2139} pass 4\n", "\u{2139} fail 0\n", "\u{2139} skipped 2\n"] {
            counts.read_line(line);
        }
        assert_eq!(counts.without_skipped(), Counts { passed: 4, failed: 0, skipped: 2 });
    }

    #[test]
    fn a_skipped_test_fails_where_everything_has_to_run() {
        let skipped = Counts { skipped: 1, ..Counts::default() };
        judge("a test", ExitStatus::default(), skipped, false).unwrap();
        judge("a test", ExitStatus::default(), skipped, true).unwrap_err();
        judge("a test", ExitStatus::default(), Counts::default(), true).unwrap();
    }

    #[test]
    fn a_failed_command_is_an_error_that_names_it() {
        let mut counts = Counts::default();
        let error = cargo(Path::new("."), &["no-such-chore"], &[], &mut counts).unwrap_err();
        assert!(error.contains("no-such-chore"), "{error}");
    }
}
