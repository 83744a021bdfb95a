//! Ids in Rust sources: in the names of tests, and in comments that say `Conformance A9, Q8`.

/// A test, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test {
    /// Path below the repository's root.
    pub path: String,
    /// Name of its function.
    pub name: String,
}

/// An id that was found.
#[derive(Debug)]
pub struct Mention {
    /// A capital letter and a number.
    pub id: String,
    /// The test that is named or commented so; none for comments elsewhere.
    pub test: Option<Test>,
    /// Path and line.
    pub place: String,
}

/// Whether a text is a capital letter and a number.
pub fn is_id(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(|letter| letter.is_ascii_uppercase())
        && !chars.as_str().is_empty()
        && chars.all(|digit| digit.is_ascii_digit())
}

/// Finds the ids in one file.
pub fn scan(path: &str, source: &str) -> Vec<Mention> {
    let mut scanner = Scanner { path, found: Vec::new(), waiting: Vec::new(), is_test: false, inside: None };
    for (index, line) in source.lines().enumerate() {
        scanner.line(index + 1, line);
    }
    scanner.flush(None);
    scanner.found
}

struct Scanner<'a> {
    path: &'a str,
    found: Vec<Mention>,
    /// Ids of the comments above, which may turn out to be a test's.
    waiting: Vec<(String, usize)>,
    /// `#[test]` stands above.
    is_test: bool,
    /// The test whose body this is, and its indentation.
    inside: Option<(Test, usize)>,
}

impl Scanner<'_> {
    fn line(&mut self, number: usize, line: &str) {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        if code.starts_with("//") {
            let ids = commented_ids(code).into_iter().map(|id| (id, number));
            self.waiting.extend(ids);
        } else if code.starts_with("#[") {
            self.is_test |= code.starts_with("#[test]");
        } else if let Some(name) = function_name(code).filter(|_| self.is_test) {
            let test = Test { path: self.path.to_owned(), name: name.to_owned() };
            self.waiting.extend(named_ids(name).map(|id| (id, number)));
            self.flush(Some(&test));
            self.inside = Some((test, indent));
        } else {
            let inside = self.inside.as_ref().map(|(test, _)| test.clone());
            self.flush(inside.as_ref());
            if code == "}" && self.inside.as_ref().is_some_and(|(_, start)| *start == indent) {
                self.inside = None;
            }
        }
    }

    fn flush(&mut self, test: Option<&Test>) {
        self.is_test = false;
        for (id, line) in self.waiting.drain(..) {
            let place = format!("{}:{line}", self.path);
            self.found.push(Mention { id, test: test.cloned(), place });
        }
    }
}

fn function_name(code: &str) -> Option<&str> {
    let rest = code.strip_prefix("pub ").unwrap_or(code);
    let rest = rest.strip_prefix("async ").unwrap_or(rest).strip_prefix("fn ")?;
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

/// The ids that a name begins with: `s3_s29_sample` has two.
fn named_ids(name: &str) -> impl Iterator<Item = String> + '_ {
    name.split('_').map(str::to_ascii_uppercase).take_while(|part| is_id(part))
}

/// `Conformance A9, Q8 and S1 to S3`: ids up to the first word that is neither an id nor joins two.
fn commented_ids(comment: &str) -> Vec<String> {
    let Some((_, list)) = comment.split_once("onformance ") else { return Vec::new() };
    let mut ids: Vec<String> = Vec::new();
    let mut range = false;
    for word in list.split_whitespace() {
        let id = word.trim_end_matches([',', '.', ':', ';', ')']);
        match word {
            "and" => {}
            "to" => range = true,
            _ if !is_id(id) => break,
            _ => {
                if let Some(last) = ids.last().filter(|_| std::mem::take(&mut range)) {
                    ids.extend(between(&last.clone(), id));
                }
                ids.push(id.to_owned());
                if word.ends_with(['.', ':', ';', ')']) {
                    break;
                }
            }
        }
    }
    ids
}

/// The ids between two of the same letter.
fn between(first: &str, last: &str) -> Vec<String> {
    let number = |id: &str| id[1..].parse::<u32>().unwrap_or(0);
    (number(first) + 1..number(last)).map(|number| format!("{}{number}", &first[..1])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(source: &str) -> Vec<(String, Option<String>)> {
        scan("a.rs", source).into_iter().map(|m| (m.id, m.test.map(|test| test.name))).collect()
    }

    fn pairs(list: &[(&str, Option<&str>)]) -> Vec<(String, Option<String>)> {
        list.iter().map(|(id, test)| (id.to_string(), test.map(str::to_owned))).collect()
    }

    #[test]
    fn names_of_tests_begin_with_their_ids() {
        let source = "#[test]\nfn s3_s29_sample_q1() {\n}\nfn s4_helper() {}\n";
        let test = Some("s3_s29_sample_q1");
        assert_eq!(found(source), pairs(&[("S3", test), ("S29", test)]));
    }

    #[test]
    fn comments_above_a_test_and_in_it_are_its_own() {
        let source = "// Conformance A9, Q8\n#[test]\nfn quota() {\n    // Conformance Q4\n    x();\n}\n";
        let test = Some("quota");
        assert_eq!(found(source), pairs(&[("A9", test), ("Q8", test), ("Q4", test)]));
    }

    #[test]
    fn comments_elsewhere_belong_to_no_test() {
        let source =
            "#[test]\nfn one() {\n}\n\n/// Gone at once (conformance R2, Q9): see there\nfn two() {}\n";
        assert_eq!(found(source), pairs(&[("R2", None), ("Q9", None)]));
    }

    #[test]
    fn ranges_and_sentences_are_understood() {
        assert_eq!(commented_ids("// conformance S4 to S7 and Q1."), ["S4", "S5", "S6", "S7", "Q1"]);
        assert_eq!(commented_ids("// Conformance A14: ports that A15"), ["A14"]);
        assert_eq!(commented_ids("// conformance tests"), [""; 0]);
    }
}
