//! Secrets where there are no quotes around them: in lines of files, and in variables of the environment.
//!
//! A secret means itself, to the byte. What may have been meant otherwise (a comment, a space that an editor
//! left behind, quotes that no shell has removed) is refused with a reason; in the configuration file, in quotes,
//! everything can be written.

/// What to do with a secret that can't stand alone.
const ELSEWHERE: &str = "a secret that is meant so belongs into the configuration file, in quotes";

/// What a line of a file stands for: nothing, or a secret with perhaps a name before it.
pub(super) type Entry<'a> = Result<Option<&'a str>, String>;

/// A line of `auth-secret-file`. A secret may start with `#`, so comments have a space behind it.
pub(super) fn secret_line(line: &str) -> Entry<'_> {
    let is_doubtful = |rest: &str| rest.starts_with(|next: char| !next.is_whitespace() && next != '#');
    match line.strip_prefix('#') {
        Some(rest) if is_doubtful(rest) => Err(format!(
            "starts with # and no space behind it: is it a comment (then write a space), or a secret? {ELSEWHERE}"
        )),
        Some(_) => Ok(None),
        None => entry(line),
    }
}

/// A line of `user-file`.
pub(super) fn user_line(line: &str) -> Entry<'_> {
    if line.starts_with('#') { Ok(None) } else { entry(line) }
}

/// A line of `admin-token-file`. No token has a space or `#` in it, so nothing is ambiguous.
pub(super) fn token_line(line: &str) -> Entry<'_> {
    let line = line.trim();
    Ok(Some(line).filter(|line| !line.is_empty() && !line.starts_with('#')))
}

/// A line of a variable: there are no comments.
pub(super) fn variable_line(line: &str) -> Entry<'_> {
    if line.trim().is_empty() {
        return Ok(None);
    }
    exact(line).map(Some)
}

/// A file's text without the byte order mark that some editors begin with.
pub(super) fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

fn entry(line: &str) -> Entry<'_> {
    let trimmed = line.trim();
    if trimmed.is_empty() {
        return Ok(None);
    }
    if trimmed.starts_with('#') {
        return Err("is a comment behind a space: a comment starts in the first column".to_owned());
    }
    let line = exact(line)?;
    if line.contains(" #") || line.contains("\t#") {
        return Err(format!("has a # behind a space: a comment stands on a line of its own; {ELSEWHERE}"));
    }
    Ok(Some(line))
}

fn exact(line: &str) -> Result<&str, String> {
    if line.trim() != line {
        return Err(format!("starts or ends with a space: remove it; {ELSEWHERE}"));
    }
    let is_quoted = |quote: char| line.len() > 1 && line.starts_with(quote) && line.ends_with(quote);
    if is_quoted('"') || is_quoted('\'') {
        return Err(format!("stands in quotes, which would be part of it: leave them out; {ELSEWHERE}"));
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_means_itself() {
        for secret in ["Ab,3kQ9,zz", "my secret is long", "x=\"a#b\" c", "a#b", "it's", "\"", "é"] {
            assert_eq!(secret_line(secret), Ok(Some(secret)));
            assert_eq!(user_line(secret), Ok(Some(secret)));
            assert_eq!(variable_line(secret), Ok(Some(secret)));
        }
        assert_eq!(variable_line("#startswithhash99"), Ok(Some("#startswithhash99")));
    }

    #[test]
    fn comments_and_empty_lines_are_none() {
        for line in ["", "  ", "#", "# comment", "#\tcomment", "## title ##"] {
            assert_eq!(
                (secret_line(line), user_line(line), token_line(line)),
                (Ok(None), Ok(None), Ok(None))
            );
        }
        assert_eq!(user_line("#alice:hush-hush"), Ok(None));
        assert_eq!(token_line("  metrics:0123456789abcdef "), Ok(Some("metrics:0123456789abcdef")));
    }

    #[test]
    fn what_is_ambiguous_is_refused_and_never_repeated() {
        for line in ["#hush", "hush ", "\u{a0}hush", "hush # old", "  # hush", "\"hush\"", "'hush'", "\thush"]
        {
            let why = secret_line(line).expect_err(line);
            assert!(!why.contains("hush"), "{why}");
        }
        for line in [" hush", "hush ", "\"hush\"", "'hush'"] {
            assert!(variable_line(line).is_err() && user_line(line).is_err(), "{line:?}");
        }
    }
}
