//! The table file: `# heading` lines, then `id | section | state | files | requirement`.

use std::fmt;

/// What we do about a requirement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Met, and shown by a test.
    Done,
    /// Not met on purpose; the requirement's text says why.
    Refused,
    /// Not met yet.
    Later,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Done => "done",
            State::Refused => "refused on purpose",
            State::Later => "later",
        })
    }
}

/// One requirement.
#[derive(Debug)]
pub struct Row {
    /// The heading it stands under.
    pub section: String,
    /// A letter and a number.
    pub id: String,
    /// RFC and section.
    pub reference: String,
    /// What we do about it.
    pub state: State,
    /// Where it is done, paths below the repository's root.
    pub files: Vec<String>,
    /// What is required.
    pub text: String,
}

/// Reads the table.
///
/// # Errors
/// When a line is not as described above, or an id comes twice.
pub fn parse(text: &str) -> Result<Vec<Row>, String> {
    let mut rows: Vec<Row> = Vec::new();
    let mut section = String::new();
    for (number, line) in text.lines().enumerate() {
        let fault = |what: &str| format!("line {} of the coverage table: {what}", number + 1);
        if let Some(heading) = line.strip_prefix("# ") {
            section = heading.to_owned();
        } else if !line.trim().is_empty() {
            let fields: Vec<&str> = line.splitn(5, '|').map(str::trim).collect();
            let [id, reference, state, files, text] = fields[..] else {
                return Err(fault("five fields between bars are needed"));
            };
            let state = match state {
                "done" => State::Done,
                "refused" => State::Refused,
                "later" => State::Later,
                _ => return Err(fault("the state is done, refused or later")),
            };
            if !super::scan::is_id(id) || rows.iter().any(|row| row.id == id) {
                return Err(fault("an id is a capital letter and a number, and comes once"));
            }
            rows.push(Row {
                section: section.clone(),
                id: id.to_owned(),
                reference: reference.to_owned(),
                state,
                files: files.split_whitespace().map(str::to_owned).collect(),
                text: text.to_owned(),
            });
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_lines_are_named() {
        for bad in ["S1 | 5 | done", "S1 | 5 | perhaps | | x", "s1 | 5 | done | | x", "S | 5 | done | | x"] {
            let error = parse(&format!("# A\n{bad}\n")).unwrap_err();
            assert!(error.starts_with("line 2 "), "{bad}: {error}");
        }
        assert!(parse("S1 | 5 | done | | x\nS1 | 5 | done | | x").is_err(), "an id comes once");
    }
}
