//! Rust source as the rules see it: the same lines, with comments, strings and characters blanked.

use proc_macro2::{Span, TokenStream, TokenTree};

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

/// Everything but names, punctuation and numbers becomes spaces. What no compiler would read is left as it is.
fn blank(text: &str) -> String {
    let Ok(tokens) = text.parse::<TokenStream>() else { return text.to_owned() };
    let mut code: Vec<u8> = text.bytes().map(|byte| if byte == b'\n' { b'\n' } else { b' ' }).collect();
    uncover(tokens, text, &mut code);
    String::from_utf8(code).expect("whole tokens of UTF-8, and spaces")
}

/// Puts the tokens back that are code.
fn uncover(tokens: TokenStream, text: &str, code: &mut [u8]) {
    let mut put = |span: Span| {
        let range = span.byte_range();
        code[range.clone()].copy_from_slice(&text.as_bytes()[range]);
    };
    let mut groups = Vec::new();
    for token in tokens {
        match token {
            // A documentation comment is read as an attribute, all of whose tokens have its place.
            token if is_comment(&text[token.span().byte_range()]) => {}
            TokenTree::Ident(ident) => put(ident.span()),
            TokenTree::Punct(punct) => put(punct.span()),
            TokenTree::Literal(literal) if literal.to_string().starts_with(|c: char| c.is_ascii_digit()) => {
                put(literal.span());
            }
            TokenTree::Literal(_) => {}
            TokenTree::Group(group) => {
                put(group.span_open());
                put(group.span_close());
                groups.push(group.stream());
            }
        }
    }
    for group in groups {
        uncover(group, text, code);
    }
}

fn is_comment(text: &str) -> bool {
    text.starts_with("//") || text.starts_with("/*")
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
