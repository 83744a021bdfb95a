//! Secrets as people write them: each means itself, or is refused with a reason.

use super::*;

const LONG: &str = "0123456789abcdef";

/// What a file of secrets, users or tokens gives when it has this content: secrets, faults or warnings.
fn given_file(key: &str, content: impl AsRef<[u8]>, mode: u32) -> Given {
    let given = Given::file("");
    let file = given.folder.path().join("secrets");
    fs::write(&file, content).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    write_private(&given.path(), format!("{key} = [{:?}]\n", file.display().to_string()));
    given
}

fn exposed(given: &Given) -> Vec<String> {
    given.config().auth_secrets.iter().map(|secret| secret.expose().to_owned()).collect()
}

#[test]
fn a_secret_of_the_environment_is_one_secret_whatever_is_in_it() {
    for secret in ["Ab,3kQ9,zz,0123456", "#startswithhash99", "x=\"a#b\" c 0123456", "a # b 0123456789"] {
        assert_eq!(exposed(&Given::file("").variable("TURNPIKE_AUTH_SECRET", secret)), [secret]);
    }
    let several = Given::file("").variable("TURNPIKE_AUTH_SECRET", "new,0123456789abc\nold-0123456789abc\n");
    assert_eq!(exposed(&several), ["new,0123456789abc", "old-0123456789abc"]);
    for (secret, why) in [(" hush", "starts or ends with a space"), ("\"hush\"", "stands in quotes")] {
        let faults = Given::file("").variable("TURNPIKE_AUTH_SECRET", secret).faults();
        assert!(faults[0].starts_with(&format!("environment: TURNPIKE_AUTH_SECRET: {why}")), "{faults:?}");
        assert!(!faults[0].contains("hush"), "{faults:?}");
    }
}

#[test]
fn a_user_of_the_environment_may_have_a_comma_in_the_password() {
    let given = Given::file("").variable("TURNPIKE_USER", "bob:Ab,cd:Efghijk");
    let users = given.config().users;
    assert_eq!((users.len(), users[0].password.expose()), (1, "Ab,cd:Efghijk"));
    let warnings = given.warnings();
    assert!(
        warnings.len() == 1 && warnings[0].contains("has a comma, which belongs to the password"),
        "{warnings:?}"
    );
    assert!(Given::file("").variable("TURNPIKE_USER", "bob:Ab,cdEfghijk").warnings().is_empty());
}

#[test]
fn a_line_of_a_file_means_itself() {
    for content in [
        format!("{LONG}\n"),
        format!("{LONG}\r\n"),
        LONG.to_owned(),
        format!("\u{feff}{LONG}\n"),
        format!("\u{feff}# comment\n\n{LONG}\n"),
    ] {
        assert_eq!(exposed(&given_file("auth-secret-file", &content, 0o600)), [LONG], "{content:?}");
    }
    let spaces = "my secret is long";
    assert_eq!(exposed(&given_file("auth-secret-file", spaces, 0o600)), [spaces]);
}

#[test]
fn what_is_ambiguous_in_a_file_is_refused_with_its_line() {
    for (line, why) in [
        ("hush-hush-hush-hush ", "starts or ends with a space"),
        (" hush-hush-hush-hush", "starts or ends with a space"),
        ("  # hush-hush-hush-hush", "is a comment behind a space"),
        ("#hush-hush-hush-hush", "starts with # and no space behind it"),
        ("hush-hush-hush-hush # old", "has a # behind a space"),
        ("'hush-hush-hush-hush'", "stands in quotes"),
        ("\u{feff}hush-hush-hush-hush", "the secret contains an invisible character"),
        ("hush-hush\u{200b}-hush-hush", "the secret contains an invisible character"),
        ("hush-hush\u{7}-hush-hush", "the secret contains a control character"),
    ] {
        let faults = given_file("auth-secret-file", format!("{LONG}\n{line}\n"), 0o600).faults();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(faults[0].starts_with(&format!("secrets:2:1: auth-secret-file: {why}")), "{faults:?}");
        assert!(!faults[0].contains("hush"), "{faults:?}");
    }
    let faults = given_file("auth-secret-file", [0xff, 0xfe, b'a', 0], 0o600).faults();
    assert!(faults[0].ends_with("can't be read: it is not UTF-8"), "{faults:?}");
}

#[test]
fn names_and_passwords_that_no_client_could_send_are_refused_at_once() {
    for (user, why) in [
        ("alice:0x0123456789abcdef0123456789abcdef", "the password looks like a key that coturn has made"),
        ("alice:hush\u{200b}-hush", "the password contains an invisible character"),
        ("al\u{378}ice:hush-hush", "the user name contains a character that is not allowed (RFC 8265"),
        ("alice:hush-\u{378}", "the password contains a character that is not allowed (RFC 8265"),
    ] {
        let given = Given::file(&format!("user = ['{user}']\n"));
        let faults = given.faults();
        assert!(faults[0].starts_with(&format!("turnpike.toml:1:9: user: {why}")), "{faults:?}");
        assert!(faults.len() == 1 && !faults[0].contains("hush"), "{faults:?}");
    }
    let long = format!("user = [\"alice:{}\"]\n", "x".repeat(509));
    assert_eq!(
        Given::file(&long).faults(),
        ["turnpike.toml:1:9: user: the password has more than 508 bytes"]
    );
    // One name in two forms: composed, and decomposed (RFC 8265 s. 4.2).
    let twice = "user = [\"\u{e9}:hush-hush\", \"e\u{301}:hush-hush\"]\n";
    assert!(Given::file(twice).faults()[0].contains("is given twice"));
    assert_eq!(
        Given::file("user = [\"alice:0x0123\"]\n").config().users.len(),
        1,
        "a password, if not a good one"
    );
}

#[test]
fn a_realm_that_clients_would_write_differently_is_refused() {
    let faults = Given::file(&format!("{CREDENTIALS}realm = \"re\u{301}alm\"\n")).faults();
    assert!(
        faults[0].ends_with("is not in its normal form (RFC 8265, OpaqueString): write \"r\u{e9}alm\""),
        "{faults:?}"
    );
    let faults = Given::file(&format!("{CREDENTIALS}realm = \"a\u{378}\"\n")).faults();
    assert!(faults[0].contains("contains a character that is not allowed"), "{faults:?}");
}

#[test]
fn weak_secrets_are_one_warning_for_each_source() {
    let text = "auth-secret = [\"short\"]\nuser = [\"alice:x\", \"bob:y\", \"carol:long-enough\"]\n";
    let warnings = Given::file(text).warnings();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    let start = "turnpike.toml:2:9: user: the password of \"alice\" has fewer than 8 characters";
    assert!(warnings[0].starts_with(start) && warnings[0].ends_with("so it is with 1 more"), "{warnings:?}");
    assert!(
        warnings[1].starts_with("turnpike.toml:1:16: auth-secret: a secret has fewer than 16"),
        "{warnings:?}"
    );
    let warnings = given_file("user-file", "alice:long-enough\nbob:x\n", 0o640).warnings();
    assert!(
        warnings.len() == 1 && warnings[0].starts_with("secrets:2:1: user-file: the password of"),
        "{warnings:?}"
    );
}

#[test]
fn files_of_secrets_that_everybody_can_read_are_warned_of() {
    for (key, content) in [
        ("auth-secret-file", LONG),
        ("user-file", "alice:long-enough"),
        ("user = [\"alice:long-enough\"]\nadmin-token-file", LONG),
    ] {
        let warnings = |mode| given_file(key, content, mode).warnings();
        let seen = warnings(0o644);
        assert!(
            seen.iter().any(|line| line.contains("access to its secrets (mode 0644): chmod o= ")),
            "{seen:?}"
        );
        assert!(
            !warnings(0o640).iter().any(|line| line.contains("access to its secrets")),
            "the group is fine"
        );
    }
    let given = Given::file("user = [\"alice:long-enough\"]\n");
    assert!(given.warnings().is_empty());
    fs::set_permissions(given.path(), fs::Permissions::from_mode(0o604)).unwrap();
    let warnings = given.warnings();
    assert!(
        warnings[0].starts_with("turnpike.toml: user: every user of this machine has access"),
        "{warnings:?}"
    );
    let public = given_file("auth-secret-file", LONG, 0o600);
    fs::set_permissions(public.path(), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(public.warnings().is_empty(), "there is no secret in it");
}
