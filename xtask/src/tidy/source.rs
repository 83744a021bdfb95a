//! Rust source as the rules see it: the same lines, with comments, strings and characters blanked.

/// A file of Rust.
pub struct Source {
    /// Path below the repository's root, with `/`.
    pub path: String,
    /// As it is on disk.
    pub text: String,
    /// The same, but what is comment, string or character literal is spaces.
    pub code: String,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// The line of `fn`, counted from 1.
    pub line: usize,
    /// Lines from `fn` to the closing brace, both included.
    pub lines: usize,
}

impl Source {
    /// Reads a file's text.
    pub fn new(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned(), code: blank(text) }
    }

    /// The functions with a body, nested ones too.
    pub fn functions(&self) -> Vec<Function> {
        let mut found = Vec::new();
        for (start, _) in words(&self.code).filter(|(_, word)| *word == "fn") {
            let rest = &self.code[start + 2..];
            let name: String =
                rest.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            // A function pointer type has no name, a trait's declaration no body.
            let Some(end) = body_end(rest).filter(|_| !name.is_empty()) else { continue };
            let line = line_of(&self.code, start);
            let lines = rest[..end].matches('\n').count() + 1;
            found.push(Function { name, line, lines });
        }
        found
    }
}

/// The identifiers and keywords of blanked code, with their byte offsets.
pub fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut offset = 0;
    std::iter::from_fn(move || {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let start = offset + code[offset..].find(is_word)?;
        let length = code[start..].find(|c| !is_word(c)).unwrap_or(code.len() - start);
        offset = start + length;
        Some((start, &code[start..offset]))
    })
}

/// The line of a byte offset, counted from 1.
pub fn line_of(text: &str, offset: usize) -> usize {
    text[..offset].matches('\n').count() + 1
}

/// The offset just behind the closing brace of the first body, or `None` if `;` comes first.
fn body_end(code: &str) -> Option<usize> {
    let (mut braces, mut nested) = (0usize, 0usize);
    for (offset, byte) in code.bytes().enumerate() {
        match byte {
            b'{' => braces += 1,
            b'}' => {
                braces = braces.checked_sub(1)?;
                if braces == 0 {
                    return Some(offset + 1);
                }
            }
            // The semicolon of an array type in the signature, `[u8; 4]`, is not its end.
            b'[' | b'(' if braces == 0 => nested += 1,
            b']' | b')' if braces == 0 => nested = nested.saturating_sub(1),
            b';' if braces == 0 && nested == 0 => return None,
            _ => {}
        }
    }
    None
}

fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let after_word = code.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let literal = literal_length(rest, after_word);
        if literal > 0 {
            code.extend(rest[..literal].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        } else {
            code.push(first);
        }
        rest = &rest[literal.max(first.len_utf8())..];
    }
    code
}

/// The length in bytes of the comment, string or character that `text` starts with, or 0.
fn literal_length(text: &str, after_word: bool) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    if text.starts_with("/*") {
        return block_comment_length(text);
    }
    if text.starts_with('"') {
        return quoted_length(text, 1);
    }
    if text.starts_with('\'') {
        return character_length(text);
    }
    if !after_word && let Some(length) = prefixed_string_length(text) {
        return length;
    }
    0
}

fn block_comment_length(text: &str) -> usize {
    let (mut depth, mut offset) = (0usize, 0usize);
    loop {
        let rest = &text[offset..];
        match (rest.starts_with("/*"), rest.starts_with("*/"), rest.chars().next()) {
            (true, ..) => (depth, offset) = (depth + 1, offset + 2),
            (_, true, _) if depth == 1 => return offset + 2,
            (_, true, _) => (depth, offset) = (depth - 1, offset + 2),
            (_, _, Some(c)) => offset += c.len_utf8(),
            (_, _, None) => return text.len(),
        }
    }
}

/// A string with escapes whose content starts at `start`.
fn quoted_length(text: &str, start: usize) -> usize {
    let mut escaped = false;
    for (offset, c) in text[start..].char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return start + offset + 1,
            _ => {}
        }
    }
    text.len()
}

/// `'x'`, `'\n'`, `'\u{1F600}'`; 0 for a lifetime.
fn character_length(text: &str) -> usize {
    let mut characters = text[1..].chars();
    match characters.next() {
        Some('\\') => text[3..].find('\'').map_or(0, |end| 3 + end + 1),
        Some(c) if characters.next() == Some('\'') => 1 + c.len_utf8() + 1,
        _ => 0,
    }
}

/// Byte, C and raw strings and bytes: `b"..."`, `r#"..."#`, `b'x'`.
fn prefixed_string_length(text: &str) -> Option<usize> {
    let prefix =
        text.find(|c: char| !matches!(c, 'b' | 'c' | 'r')).filter(|length| (1..=2).contains(length))?;
    let rest = &text[prefix..];
    if text[..prefix].ends_with('r') {
        let hashes = rest.find(|c| c != '#').unwrap_or(0);
        let content = rest[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let length = content.find(&end).map_or(content.len(), |offset| offset + end.len());
        return Some(prefix + hashes + 1 + length);
    }
    match rest.chars().next() {
        Some('"') => Some(prefix + quoted_length(rest, 1)),
        Some('\'') => Some(prefix + character_length(rest)).filter(|length| *length > prefix),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> String {
        Source::new("a.rs", text).code
    }

    #[test]
    fn comments_are_blanked_and_lines_kept() {
        assert_eq!(code("a // unsafe\nb"), "a          \nb");
        assert_eq!(code("a /* x\n */ b"), "a     \n    b");
        assert_eq!(code("/* /* */ unsafe */b"), " ".repeat(18) + "b");
    }

    #[test]
    fn strings_and_characters_are_blanked() {
        for text in [r#"("un\"safe")"#, r##"(r#"un"safe"#)"##, r#"(b"unsafe")"#, r#"(c"unsafe")"#] {
            let code = code(text);
            assert!(code.starts_with('(') && code.ends_with(')'), "{text} became {code}");
            assert!(code[1..code.len() - 1].trim().is_empty(), "{text} became {code}");
        }
        assert_eq!(code(r"f('\'', b'{', '}')"), "f(    ,     ,    )");
    }

    #[test]
    fn lifetimes_and_names_are_no_literals() {
        for text in ["fn f<'a>(x: &'a str) {}", "let number = bar;", "r#type", "for c in bcr {}"] {
            assert_eq!(code(text), text);
        }
    }

    #[test]
    fn functions_are_measured_from_fn_to_brace() {
        let source = Source::new(
            "a.rs",
            "trait T { fn no(&self, x: [u8; 4]); }\nfn yes(a: [u8; 2]) {\n  if a {}\n}\n",
        );
        assert_eq!(source.functions(), [Function { name: "yes".into(), line: 2, lines: 3 }]);
    }

    #[test]
    fn braces_in_strings_do_not_end_a_function() {
        let source = Source::new("a.rs", "fn a() {\n  x(\"}\");\n  y('}');\n}\nfn b() {}");
        let lines: Vec<_> = source.functions().into_iter().map(|function| function.lines).collect();
        assert_eq!(lines, [4, 1]);
    }
}
