//! Configurations that the documentation shows.

use super::*;

/// The snippets of TOML on all pages, and the file that docs/migrate-from-coturn.md puts beside coturn's.
fn snippets() -> Vec<String> {
    let mut found = Vec::new();
    let docs = fs::read_dir(repository().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = docs.chain([repository().join("README.md")]);
    for page in pages.filter(|path| path.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(page).unwrap();
        let blocks = text.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned());
        found.extend(blocks);
        if let Some(column) = text.lines().find_map(|line| line.find("# turnpike.toml").filter(|at| *at > 0))
        {
            let block = text.split("# turnpike.toml\n").nth(1).unwrap().split("```").next().unwrap();
            found.push(block.lines().filter_map(|line| line.get(column..)).collect::<Vec<_>>().join("\n"));
        }
    }
    found
}

#[test]
fn every_snippet_of_the_documentation_is_good() {
    let snippets = snippets();
    assert!(snippets.len() >= 2, "{snippets:#?}");
    for snippet in snippets {
        let given = Given::file(&snippet).flags(&["--user", "alice:long-enough"]);
        let problems = given.load().err().map(|problems| problems.0).unwrap_or_default();
        // The files of secrets that they name are not there.
        let faults: Vec<_> = problems
            .iter()
            .filter(|problem| !problem.message.contains("can't be read: No such file"))
            .collect();
        assert!(faults.is_empty(), "{faults:#?} in:\n{snippet}");
    }
}
