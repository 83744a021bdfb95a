//! The rules themselves, and the places that are exempt.

use super::Finding;
use super::source::{Source, line_of, words};

/// Where `unsafe` may be written, each with a `// SAFETY:` line: system calls and their buffers.
const UNSAFE_PLACES: &[&str] = &[
    "driver/src/",
    "relay/tests/frames/wire.rs",
    "relay/tests/worker.rs",
    "offload/src/mapped.rs",
    "offload/src/ethtool.rs",
    "offload/src/link.rs",
    "ebpf/program/src/kernel/",
    "ebpf/program/src/generator.rs",
    "ebpf/program/src/select.rs",
    "ebpf/program/src/wrapper.rs",
    "testkit/src/own_namespace.rs",
    "loadtest/src/engine/mmsg.rs",
    "loadtest/src/engine/receive.rs",
];

/// The only module that may emit offload commands.
pub const OFFLOAD_MODULE: &str = "proto/src/server/offload.rs";

/// Longer functions and files are listed.
const FUNCTION_LINES: usize = 60;
const FILE_LINES: usize = 800;

/// What would give the core input, output, a clock, a thread or randomness of its own.
const IMPURE: &[(&str, &str)] = &[
    ("UdpSocket", "the driver owns the sockets"),
    ("TcpStream", "the driver owns the sockets"),
    ("TcpListener", "the driver owns the sockets"),
    ("ToSocketAddrs", "resolving names is input and output"),
    ("Instant::now", "time is the argument `now: Now`"),
    ("SystemTime", "time is the argument `now: Now`"),
    ("std::thread", "the core runs on its caller's thread"),
    ("thread::spawn", "the core runs on its caller's thread"),
    ("thread_rng", "randomness is a seed that the caller gives"),
    ("rand::rng", "randomness is a seed that the caller gives"),
    ("OsRng", "randomness is a seed that the caller gives"),
    ("from_os_rng", "randomness is a seed that the caller gives"),
    ("std::fs", "the core knows no files"),
    ("std::env", "configuration is an argument"),
    ("std::process", "the core starts and ends nothing"),
    ("println!", "the core prints nothing"),
    ("eprintln!", "the core prints nothing"),
    ("print!", "the core prints nothing"),
    ("eprint!", "the core prints nothing"),
];

/// Macros that say that something is not finished.
const LEFTOVERS: &[&str] = &["todo!", "unimplemented!", "dbg!"];

/// A type with this in its comment is no secret although its name ends like one.
const NO_SECRET: &str = "tidy: no secret";

/// Faults of a file of Rust.
pub fn source_faults(source: &Source, offload_exists: bool) -> Vec<Finding> {
    let mut faults = Vec::new();
    if source.path.starts_with("proto/src/") {
        faults.extend(impurities(source));
        if offload_exists && source.path != OFFLOAD_MODULE {
            faults.extend(emissions(source));
        }
    }
    faults.extend(misplaced_unsafe(source));
    faults.extend(printable_secrets(source));
    for leftover in LEFTOVERS {
        faults.extend(occurrences(source, leftover).map(|line| {
            finding(source, line, format!("`{leftover}` says that something is missing: finish it"))
        }));
    }
    faults
}

/// Faults of any text file: what belongs to somebody's machine and not to the project.
pub fn text_faults(path: &str, text: &str) -> Vec<Finding> {
    // The lock names the registry that every crate comes from.
    if path.ends_with("Cargo.lock") {
        return Vec::new();
    }
    // Joined here so that this file is not a finding itself.
    let needles = [
        ["/wo", "rk/"],
        ["/ro", "ot/"],
        [".pye", "nv"],
        ["pypi", ".org"],
        ["pythonhosted", ".org"],
        ["index.crates", ".io"],
        ["static.crates", ".io"],
        ["proxy.golang", ".org"],
    ]
    .map(|parts| parts.concat());
    let mut faults = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for needle in needles.iter().filter(|needle| line.contains(needle.as_str())) {
            let what = format!("`{needle}` belongs to one machine, not to the project");
            faults.push(Finding { path: path.to_owned(), line: index + 1, what });
        }
    }
    faults
}

/// Functions and files that do not fit our habit of one screen, and of about 800 lines.
pub fn lengths(source: &Source) -> Vec<Finding> {
    let mut notes: Vec<Finding> = source
        .functions()
        .into_iter()
        .filter(|function| function.lines > FUNCTION_LINES)
        .map(|function| {
            let what = format!("`{}` has {} lines, over {FUNCTION_LINES}", function.name, function.lines);
            finding(source, function.line, what)
        })
        .collect();
    let lines = source.text.lines().count();
    if lines > FILE_LINES {
        notes.push(finding(source, lines, format!("the file has {lines} lines, over {FILE_LINES}")));
    }
    notes
}

fn impurities(source: &Source) -> Vec<Finding> {
    // Tests come last in a file, and may use threads to stress what workers share.
    let tests =
        source.code.find("#[cfg(test)]\nmod ").map_or(usize::MAX, |start| line_of(&source.code, start));
    let mut faults = Vec::new();
    for (needle, why) in IMPURE {
        faults.extend(
            occurrences(source, needle)
                .filter(|line| *line < tests)
                .map(|line| finding(source, line, format!("`{needle}` in the pure core: {why}"))),
        );
    }
    faults
}

fn emissions(source: &Source) -> Vec<Finding> {
    let mut faults = Vec::new();
    for needle in ["Output::Offload", "Output::Withdraw"] {
        faults.extend(occurrences(source, needle).map(|line| {
            finding(source, line, format!("`{needle}` outside {OFFLOAD_MODULE}, the only one to emit it"))
        }));
    }
    faults
}

fn misplaced_unsafe(source: &Source) -> Vec<Finding> {
    if UNSAFE_PLACES.iter().any(|place| source.path.starts_with(place)) {
        return Vec::new();
    }
    occurrences(source, "unsafe")
        .map(|line| {
            finding(source, line, "`unsafe` outside the places listed in xtask/src/tidy/rules.rs".into())
        })
        .collect()
}

/// Types named `...Secret`, `...Password` or `...Key` whose derived `Debug` would print their bytes.
fn printable_secrets(source: &Source) -> Vec<Finding> {
    let mut faults = Vec::new();
    let code = &source.code;
    for (start, _) in words(code).filter(|(_, word)| matches!(*word, "struct" | "enum")) {
        let Some((_, name)) = words(&code[start..]).nth(1) else { continue };
        let is_secret =
            ["Secret", "Secrets", "Password", "Key", "Keys"].iter().any(|end| name.ends_with(end));
        let line = line_of(code, start);
        if is_secret && derives_debug(&code[..start]) && !is_exempt(&source.text, line) {
            faults.push(finding(
                source,
                line,
                format!("`{name}` derives Debug: write one that hides the bytes, or say `// {NO_SECRET}`"),
            ));
        }
    }
    faults
}

/// Whether the attributes that `before` ends with derive `Debug`.
fn derives_debug(before: &str) -> bool {
    // An item ends with `;` or a brace; what follows is this item's attributes and visibility.
    let attributes = before.rfind([';', '{', '}']).map_or(before, |end| &before[end..]);
    attributes.split("#[").any(|attribute| {
        let mut names = words(attribute).map(|(_, word)| word);
        names.any(|word| word == "derive") && names.any(|word| word == "Debug")
    })
}

fn is_exempt(text: &str, line: usize) -> bool {
    let mut above = text.lines().take(line).collect::<Vec<_>>().into_iter().rev();
    above.next().is_some_and(|own| own.contains(NO_SECRET))
        || above
            .take_while(|line| line.trim_start().starts_with("//") || line.trim_start().starts_with("#["))
            .any(|line| line.contains(NO_SECRET))
}

/// The lines on which `needle` stands in the code, not as a part of a longer name.
fn occurrences<'a>(source: &'a Source, needle: &'a str) -> impl Iterator<Item = usize> + 'a {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    source.code.match_indices(needle).filter_map(move |(start, _)| {
        let before = source.code[..start].chars().next_back();
        let after = source.code[start + needle.len()..].chars().next();
        let whole = !before.is_some_and(is_word) && (needle.ends_with('!') || !after.is_some_and(is_word));
        whole.then(|| line_of(&source.code, start))
    })
}

fn finding(source: &Source, line: usize, what: String) -> Finding {
    Finding { path: source.path.clone(), line, what }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(path: &str, text: &str) -> Vec<String> {
        let found = source_faults(&Source::new(path, text), true);
        found.into_iter().map(|fault| format!("{}: {}", fault.line, fault.what)).collect()
    }

    /// Asserts that there is exactly one fault, and that it is about `what`.
    fn assert_fault(path: &str, text: &str, what: &str) {
        let found = faults(path, text);
        assert!(found.len() == 1 && found[0].contains(what), "{text}: {found:?}");
    }

    #[test]
    fn the_core_may_not_be_impure() {
        for (text, what) in [
            ("let s = std::net::UdpSocket::bind(a);", "UdpSocket"),
            ("let now = Instant::now();", "Instant::now"),
            ("use std::time::SystemTime;", "SystemTime"),
            ("use std::thread;", "std::thread"),
            ("let mut r = rand::rng();", "rand::rng"),
            ("let r = thread_rng();", "thread_rng"),
            ("println!(\"x\");", "println!"),
            ("let v = std::env::var(n);", "std::env"),
        ] {
            assert_fault("proto/src/server/mod.rs", text, what);
            assert_eq!(faults("relay/src/start/run.rs", text), [""; 0], "only the core is pure");
        }
    }

    #[test]
    fn the_core_may_speak_of_time_and_addresses() {
        let text = "// UdpSocket\nuse std::net::SocketAddr;\nlet println = \"Instant::now\"; rand::rngs::X";
        assert_eq!(faults("proto/src/server/mod.rs", text), [""; 0]);
    }

    #[test]
    fn tests_of_the_core_may_use_threads() {
        let text = "fn f() {}\n#[cfg(test)]\nmod tests { use std::thread; }";
        assert_eq!(faults("proto/src/shared/mod.rs", text), [""; 0]);
    }

    #[test]
    fn unsafe_is_for_its_places_only() {
        assert_fault("relay/src/worker/mod.rs", "fn f() {}\nunsafe { g() }", "2: `unsafe`");
        assert_eq!(faults("driver/src/epoll.rs", "unsafe { g() }"), [""; 0]);
        assert_eq!(faults("proto/src/lib.rs", "#![forbid(unsafe_code)] // unsafe"), [""; 0]);
    }

    #[test]
    fn offload_commands_come_from_one_module() {
        assert_fault("proto/src/table/mod.rs", "out.push(Output::Offload(x));", "Output::Offload");
        assert_eq!(faults(OFFLOAD_MODULE, "out.push(Output::Offload(x));"), [""; 0]);
        assert_eq!(faults("relay/src/worker/mod.rs", "Output::Withdraw(x) => {}"), [""; 0]);
        let before = source_faults(&Source::new("proto/src/table/mod.rs", "Output::Offload"), false);
        assert_eq!(before, [], "no rule before there is an offload module");
    }

    #[test]
    fn a_secret_may_not_derive_debug() {
        let bad = "struct A;\n#[derive(Clone, Debug)]\n#[repr(C)]\npub struct AuthSecret(Vec<u8>);";
        assert_fault("relay/src/config/mod.rs", bad, "4: `AuthSecret`");
        assert_fault("proto/src/auth/mod.rs", "#[derive(Debug)]\nenum IntegrityKey { A }", "IntegrityKey");
        let good = "#[derive(Debug)]\nstruct A { x: u8 }\n#[derive(Clone)]\nstruct NonceKey([u8; 32]);";
        assert_eq!(faults("proto/src/auth/mod.rs", good), [""; 0]);
        let exempt = "/// A look-up key. tidy: no secret\n#[derive(Debug)]\nstruct FlowKey { port: u16 }";
        assert_eq!(faults("proto/src/table/mod.rs", exempt), [""; 0]);
    }

    #[test]
    fn leftovers_are_faults() {
        for leftover in LEFTOVERS {
            assert_fault("relay/src/start/run.rs", &format!("fn f() {{ {leftover}() }}"), leftover);
        }
        assert_eq!(faults("relay/src/start/run.rs", "// todo!()\nlet my_todo = 1;"), [""; 0]);
    }

    #[test]
    fn paths_of_a_machine_are_faults_in_any_file() {
        let path = ["/ro", "ot/x"].concat();
        let found = text_faults("README.md", &format!("one\nsee {path}\n"));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].line, 2);
        assert_eq!(text_faults("Cargo.lock", &path), []);
        assert_eq!(text_faults("README.md", "https://docs.rs and https://www.rfc-editor.org"), []);
    }

    #[test]
    fn long_functions_and_files_are_noted() {
        let body = "    x();\n".repeat(FUNCTION_LINES);
        let long = Source::new("a.rs", &format!("fn short() {{}}\nfn long() {{\n{body}}}\n"));
        let notes = lengths(&long);
        assert_eq!(notes.len(), 1);
        assert!(notes[0].what.contains("`long` has 62 lines"), "{notes:?}");
        let file = Source::new("b.rs", &"const A: u8 = 1;\n".repeat(FILE_LINES + 1));
        assert_eq!(lengths(&file).len(), 1);
    }
}
