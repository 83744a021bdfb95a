//! `cargo xtask coverage`: which requirement of which RFC is met where, and shown by which test.
//!
//! ```text
//!   docs/rfc-coverage.table: section, id, state, files, requirement ─┐
//!   tests: `fn a7_...`, or `// Conformance A9, Q8` above one ────────┴─► docs/rfc-coverage.md
//! ```
//!
//! Faults: an id that the table doesn't have, a row said to be done without a test, a file that isn't
//! there. It doesn't judge whether a test shows what its id says.

mod scan;
mod table;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use scan::Test;
use table::{Row, State};

const TABLE: &str = "docs/rfc-coverage.table";
const PAGE: &str = "docs/rfc-coverage.md";
/// Tests named for one requirement; the others are counted.
const TESTS_SHOWN: usize = 4;

/// Writes docs/rfc-coverage.md.
///
/// # Errors
/// When [`check`] has something to say, or the page can't be written.
pub fn run(root: &Path) -> Result<(), String> {
    let coverage = Coverage::read(root)?;
    std::fs::write(root.join(PAGE), coverage.page()).map_err(|error| format!("{PAGE}: {error}"))?;
    println!("wrote {PAGE}");
    coverage.verdict()
}

/// Checks ids and rows, and writes nothing.
///
/// # Errors
/// For an unknown id, a done row without a test, a file that isn't there.
pub fn check(root: &Path) -> Result<(), String> {
    Coverage::read(root)?.verdict()
}

/// The table with what the tree says about it.
struct Coverage {
    rows: Vec<Row>,
    tests: BTreeMap<String, Vec<Test>>,
    faults: Vec<String>,
}

impl Coverage {
    fn read(root: &Path) -> Result<Coverage, String> {
        let text = std::fs::read_to_string(root.join(TABLE)).map_err(|error| format!("{TABLE}: {error}"))?;
        let rows = table::parse(&text)?;
        let mut coverage = Coverage { rows, tests: BTreeMap::new(), faults: Vec::new() };
        for path in crate::tidy::tracked_files(root)?.iter().filter(|path| path.ends_with(".rs")) {
            // This folder's own tests speak of ids that don't exist.
            if path.starts_with("xtask/") {
                continue;
            }
            // Not UTF-8 or deleted since: nothing to read here.
            let Ok(source) = std::fs::read_to_string(root.join(path)) else { continue };
            coverage.add(scan::scan(path, &source));
        }
        coverage.check_rows(|path| root.join(path).exists());
        Ok(coverage)
    }

    fn add(&mut self, found: Vec<scan::Mention>) {
        for scan::Mention { id, test, place } in found {
            // Other letters are no ids of ours: `v4_mapped` is about IPv4.
            if !self.rows.iter().any(|row| row.id[..1] == id[..1]) {
                continue;
            }
            if !self.rows.iter().any(|row| row.id == id) {
                self.faults.push(format!("{place}: there is no requirement {id} in {TABLE}"));
            }
            let Some(test) = test else { continue };
            let tests = self.tests.entry(id).or_default();
            if !tests.contains(&test) {
                tests.push(test);
            }
        }
    }

    fn check_rows(&mut self, exists: impl Fn(&str) -> bool) {
        for row in &self.rows {
            if row.state == State::Done && !self.tests.contains_key(&row.id) {
                self.faults.push(format!("{TABLE}: {} is said to be done, yet no test names it", row.id));
            }
            for file in row.files.iter().filter(|file| !exists(file)) {
                self.faults.push(format!("{TABLE}: {} names {file}, which isn't there", row.id));
            }
        }
    }

    fn verdict(&self) -> Result<(), String> {
        for fault in &self.faults {
            println!("{fault}");
        }
        let done = self.rows.iter().filter(|row| row.state == State::Done).count();
        println!("coverage: {} requirements, {done} done, {} faults", self.rows.len(), self.faults.len());
        match self.faults.len() {
            0 => Ok(()),
            count => Err(format!("{count} faults in the coverage")),
        }
    }

    fn page(&self) -> String {
        let mut page = String::from(INTRODUCTION);
        let mut section = "";
        for row in &self.rows {
            if row.section != section {
                section = &row.section;
                let _ = writeln!(page, "\n## {section}\n\n{HEAD}");
            }
            let files: Vec<_> = row.files.iter().map(|file| format!("`{file}`")).collect();
            let Row { id, reference, state, text, .. } = row;
            let tests = self.shown_tests(id);
            let _ =
                writeln!(page, "| {reference} | {id} | {text} | {} | {tests} | {state} |", files.join(" "));
        }
        page
    }

    fn shown_tests(&self, id: &str) -> String {
        let tests = self.tests.get(id).map_or(&[][..], Vec::as_slice);
        let mut shown: Vec<_> =
            tests.iter().take(TESTS_SHOWN).map(|test| format!("`{}` in {}", test.name, test.path)).collect();
        if tests.len() > TESTS_SHOWN {
            shown.push(format!("and {} more", tests.len() - TESTS_SHOWN));
        }
        shown.join("<br>")
    }
}

const INTRODUCTION: &str =
    "<!-- Written by `cargo xtask coverage` from docs/rfc-coverage.table and the tests. -->

# What is required, where it is done, and which test shows it

Ids are the ones that tests carry in their names (`fn a7_...`) or comments (`// Conformance A9, Q8`). \
RFC numbers stand in front of the sections; where a heading names the RFC, only the section does.
";
const HEAD: &str =
    "| section | id | requirement | where | tests | state |\n| --- | --- | --- | --- | --- | --- |";

#[cfg(test)]
mod tests {
    use super::*;

    fn coverage(table: &str, source: &str) -> Coverage {
        let rows = table::parse(table).expect("a table");
        let mut coverage = Coverage { rows, tests: BTreeMap::new(), faults: Vec::new() };
        coverage.add(scan::scan("proto/src/x.rs", source));
        coverage.check_rows(|path| path == "proto/src/x.rs");
        coverage
    }

    const ONE: &str = "# STUN\nS1 | 5 | done | proto/src/x.rs | Header checked\n";

    #[test]
    fn a_done_row_without_a_test_is_a_fault_and_one_with_a_test_is_not() {
        let without = coverage(ONE, "fn s1_is_no_test() {}");
        assert!(without.verdict().is_err());
        assert!(without.faults[0].contains("S1"), "{:?}", without.faults);
        let with = coverage(ONE, "#[test]\nfn s1_header() {}");
        assert_eq!(with.verdict(), Ok(()));
        assert!(with.page().contains(
            "| 5 | S1 | Header checked | `proto/src/x.rs` | `s1_header` in proto/src/x.rs | done |"
        ));
    }

    #[test]
    fn rows_for_later_need_no_test() {
        assert_eq!(coverage("# STUN\nS1 | 5 | later | | Header\n", "").verdict(), Ok(()));
    }

    #[test]
    fn an_unknown_id_is_a_fault_unless_its_letter_is_no_id_of_ours() {
        let unknown = coverage(ONE, "#[test]\nfn s1_s99_header() {}");
        assert!(unknown.faults[0].contains("S99"), "{:?}", unknown.faults);
        assert_eq!(coverage(ONE, "#[test]\nfn s1_header() {}\n#[test]\nfn v4_mapped() {}").faults, [""; 0]);
    }

    #[test]
    fn a_file_that_is_not_there_is_a_fault() {
        let gone = ONE.replace("x.rs", "y.rs");
        assert!(coverage(&gone, "#[test]\nfn s1_header() {}").faults[0].contains("y.rs"));
    }
}
