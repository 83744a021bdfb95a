//! `ARCHITECTURE.md` names what is there, and its code map leaves nothing out.
//!
//! A row names paths from the root; the ones behind the first may be written from its folder. Where a row names
//! something inside of a folder `src`, rows cover everything in it: the row of the whole crate stands for its other
//! folders only, and for `lib.rs`.

use std::collections::BTreeSet;

use super::Finding;

/// The document that this is about.
pub const ARCHITECTURE: &str = "ARCHITECTURE.md";
/// What begins the map, and what ends it.
const MAP: &str = "## Code map";
/// What counts as source.
const SOURCES: &[&str] = &[".rs", ".js", ".css", ".html", ".py", ".sh"];
/// What counts as a path in prose although it has no slash.
const FILES: &[&str] = &[".rs", ".md", ".js", ".sh", ".json"];

/// Paths that the document names and that are not among `paths`, and sources that no row covers.
pub fn faults(text: &str, paths: &[String]) -> Vec<Finding> {
    let mut faults = Vec::new();
    let mut covered = BTreeSet::new();
    let mut is_map = false;
    for (index, line) in text.lines().enumerate() {
        if line.starts_with("## ") {
            is_map = line == MAP;
        }
        let row = line.strip_prefix("| ").filter(|row| is_map && row.starts_with('`'));
        let (cell, prose) = row.and_then(|row| row.split_once(" | ")).unwrap_or(("", line));
        let named = row_paths(cell);
        let unknown_rows = named.iter().filter(|path| !paths.iter().any(|known| covers(path, known)));
        let unknown = prose_paths(prose).into_iter().filter(|path| !is_known(path, paths));
        for path in unknown_rows.cloned().chain(unknown) {
            faults.push(finding(
                ARCHITECTURE,
                index + 1,
                format!("there is no `{path}`: name what is there"),
            ));
        }
        covered.extend(named);
    }
    let missing = paths.iter().filter(|path| is_source(path) && !is_covered(path, &covered));
    let what =
        |path: &String| finding(path, 1, format!("no row of the code map in {ARCHITECTURE} covers it"));
    faults.extend(missing.map(what));
    faults
}

/// The paths of a row's first cell, from the root.
fn row_paths(cell: &str) -> Vec<String> {
    let tokens: Vec<String> = quoted(cell).flat_map(expanded).collect();
    let Some(first) = tokens.first() else { return Vec::new() };
    let root = first.split('/').next().unwrap_or_default().to_owned();
    let folder = first.trim_end_matches('/').rsplit_once('/').map_or("", |(folder, _)| folder);
    let from_root = |path: &String| {
        let is_whole = path.starts_with(&format!("{root}/")) || path.contains("/src/") || folder.is_empty();
        let is_whole = is_whole || path.matches('/').count() == 1 && path.ends_with('/') && folder == root;
        if is_whole || path.starts_with("docs/") || path.contains("/tests/") {
            path.clone()
        } else {
            format!("{folder}/{path}")
        }
    };
    tokens.iter().map(from_root).collect()
}

/// What stands between backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// `a/{b,c}.rs` is two paths.
fn expanded(token: &str) -> Vec<String> {
    let braces = token.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)));
    match braces {
        Some((before, (names, after))) => {
            names.split(',').map(|name| format!("{before}{name}{after}")).collect()
        }
        None => vec![token.to_owned()],
    }
}

/// What looks like a path in prose: not a command, a route of HTTP or a pattern.
fn prose_paths(prose: &str) -> Vec<String> {
    let is_path = |token: &&str| {
        let is_named = token.contains('/') || FILES.iter().any(|end| token.ends_with(end));
        is_named && !token.starts_with(['/', '.']) && !token.contains([' ', '*', '<', '('])
    };
    quoted(prose).filter(is_path).flat_map(expanded).collect()
}

/// Whether a tracked file is this path, lies below it, or has it as its end.
fn is_known(path: &str, paths: &[String]) -> bool {
    let inside = format!("/{}", path.trim_end_matches('/'));
    paths.iter().any(|known| {
        let known = format!("/{known}");
        known.match_indices(&inside).any(|(start, _)| {
            let after = &known[start + inside.len()..];
            after.is_empty() && !path.ends_with('/') || after.starts_with('/')
        })
    })
}

fn covers(row: &str, path: &str) -> bool {
    path.strip_prefix(row).is_some_and(|rest| rest.is_empty() || row.ends_with('/'))
}

fn is_covered(path: &str, rows: &BTreeSet<String>) -> bool {
    let Some(end) = path.find("/src/").map(|start| start + "/src/".len()) else {
        return rows.iter().any(|row| covers(row, path));
    };
    let src = &path[..end];
    let is_detailed = rows.iter().any(|row| row.len() > src.len() && row.starts_with(src));
    let is_front = path[end..] == *"lib.rs";
    // A file beside a folder of the same name is its front: a row of the one covers the other.
    let folder = format!("{}/", path.trim_end_matches(".rs"));
    let is_of = |row: &str| {
        let is_inside = row.strip_suffix(".rs").and_then(|stem| path.strip_prefix(stem));
        covers(row, path) || row == folder || is_inside.is_some_and(|rest| rest.starts_with('/'))
    };
    rows.iter().any(|row| is_of(row) && (!is_detailed || is_front || row.len() > src.len()))
}

fn is_source(path: &str) -> bool {
    path.contains('/') && SOURCES.iter().any(|end| path.ends_with(end))
}

fn finding(path: &str, line: usize, what: String) -> Finding {
    Finding { path: path.to_owned(), line, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Architecture\n\n## Code map\n\n| Folder | What |\n| --- | --- |\n\
        | `core/` | All. |\n| `core/src/{a,b}.rs`, `deep/` | The `inner.rs` of it. |\n| `small/` | Little. |\n\n\
        ## Path\n\nFirst `deep/inner.rs`, then `GET /v1/x`.\n";

    fn faults_of(text: &str, paths: &[&str]) -> Vec<String> {
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        faults(text, &paths).into_iter().map(|fault| format!("{}: {}", fault.path, fault.what)).collect()
    }

    const WHOLE: [&str; 6] = [
        "core/src/a.rs",
        "core/src/b.rs",
        "core/src/deep/inner.rs",
        "core/src/lib.rs",
        "core/tests/all.rs",
        "small/src/main.rs",
    ];

    #[test]
    fn a_map_of_what_is_there_is_good() {
        assert_eq!(faults_of(TEXT, &WHOLE), [""; 0]);
    }

    #[test]
    fn a_source_without_a_row_is_a_fault_also_below_the_row_of_its_crate() {
        for path in ["core/src/new.rs", "other/src/lib.rs", "other/run.py"] {
            let paths = [WHOLE.as_slice(), &[path]].concat();
            let found = faults_of(TEXT, &paths);
            assert!(found.len() == 1 && found[0].starts_with(path), "{found:?}");
        }
        let paths = [WHOLE.as_slice(), &["small/src/new.rs", "core/src/deep.rs", "core/Cargo.toml"]].concat();
        assert_eq!(faults_of(TEXT, &paths), [""; 0], "no details there, a folder's front, no source");
    }

    #[test]
    fn a_path_that_is_not_there_is_a_fault_in_rows_and_in_prose() {
        let found = faults_of(TEXT, &WHOLE[1..]);
        assert!(found.len() == 1 && found[0].contains("`core/src/a.rs`"), "{found:?}");
        let text = TEXT.replace("`deep/inner.rs`", "`deep/outer.rs`");
        let found = faults_of(&text, &WHOLE);
        assert!(found.len() == 1 && found[0].contains("`deep/outer.rs`"), "{found:?}");
    }
}
