//! Commands as the documentation prints them: the lines with `$` of its ```console blocks.

/// One block, in the order of the file.
#[derive(Debug, PartialEq, Eq)]
pub struct Block {
    /// Its commands.
    pub commands: Vec<PrintedCommand>,
}

/// One command.
#[derive(Debug, PartialEq, Eq)]
pub struct PrintedCommand {
    /// Line of the file, from 1.
    pub line: usize,
    /// As printed, without the `$`; may have several lines.
    pub text: String,
}

/// What becomes of a command.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// It ends by itself, with status 0.
    Ends,
    /// It serves until it is stopped; what follows talks to it.
    Serves,
    /// It shows what happens until it is stopped.
    Streams,
}

/// The blocks of a page.
pub fn of(page: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut current: Option<Vec<PrintedCommand>> = None;
    let mut continues = false;
    for (index, line) in page.lines().enumerate() {
        match &mut current {
            None if line == "```console" => current = Some(Vec::new()),
            None => {}
            Some(_) if line.starts_with("```") => {
                blocks.extend(current.take().map(|commands| Block { commands }));
                continues = false;
            }
            Some(commands) => {
                if continues && let Some(last) = commands.last_mut() {
                    last.text.push('\n');
                    last.text.push_str(line);
                } else if let Some(text) = line.strip_prefix("$ ") {
                    commands.push(PrintedCommand { line: index + 1, text: text.to_owned() });
                } else {
                    continue;
                }
                continues = line.ends_with(['\\', '|']) || line.ends_with("&&");
            }
        }
    }
    blocks
}

impl PrintedCommand {
    /// What becomes of it.
    pub fn kind(&self) -> Kind {
        let words: Vec<&str> = self.text.split_whitespace().collect();
        match words.as_slice() {
            ["turnpike", flag, ..] if flag.starts_with("--") || *flag == "run" => Kind::Serves,
            ["turnpike-loadtest", "reflect" | "peer", ..] => Kind::Serves,
            ["curl", flags, ..] if flags.starts_with("-N") => Kind::Streams,
            _ => Kind::Ends,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_the_lines_with_a_dollar_and_what_continues_them() {
        let page = "a\n```console\n$ one   # why\noutput\n$ two |\n    three \\\n    four\nmore\n```\n$ not one\n\
                    ```text\n$ nor this\n```\n";
        let [block] = of(page).try_into().expect("one block");
        let texts: Vec<_> = block.commands.iter().map(|found| (found.line, found.text.as_str())).collect();
        assert_eq!(texts, [(3, "one   # why"), (5, "two |\n    three \\\n    four")]);
    }

    #[test]
    fn a_relay_serves_and_its_other_commands_end() {
        let kind = |text: &str| PrintedCommand { line: 1, text: text.to_owned() }.kind();
        for serves in ["turnpike --config x", "turnpike run --user a:b", "turnpike-loadtest reflect"] {
            assert_eq!(kind(serves), Kind::Serves, "{serves}");
        }
        for ends in ["turnpike probe", "turnpike-loadtest loss x", "sudo turnpike check-config x"] {
            assert_eq!(kind(ends), Kind::Ends, "{ends}");
        }
        assert_eq!(kind("curl -NsH x y"), Kind::Streams);
    }
}
