//! The program as its users call it: output, exit codes, nothing secret where it doesn't belong.

use std::path::Path;
use std::process::{Command, Output};

fn turnpike(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_turnpike"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TURNPIKE_")) {
        command.env_remove(name);
    }
    command.args(arguments);
    command
}

fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the program starts");
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn examples() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let files = std::fs::read_dir(folder).expect("examples").map(|entry| entry.unwrap().path());
    files
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .map(|path| path.display().to_string())
        .collect()
}

#[test]
fn the_program_accepts_its_examples_but_does_not_run_them() {
    let examples = examples();
    assert!(!examples.is_empty());
    for file in examples {
        let (code, stdout, stderr) = run(&mut turnpike(&["check-config", &file]));
        assert_eq!((code, stdout), (Some(0), format!("{file}: ok\n")), "{stderr}");
        assert!(stderr.lines().all(|line| line.starts_with(&format!("warning: {file}:"))), "{stderr}");
        let (code, stdout, stderr) = run(&mut turnpike(&["--config", &file]));
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
        assert!(stderr.contains("placeholder") && !stderr.contains("change-me"), "{stderr}");
    }
}

#[test]
fn a_bad_file_gives_one_line_per_fault_and_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("turnpike.toml");
    std::fs::write(&file, "user = [\"hush-hush\"]\nport-range = \"60000-50000\"\nprot = 1\n").unwrap();
    let expected = format!(
        "{0}:1:9: user: has no colon: write NAME:PASSWORD (the value is not shown)\n\
         {0}:2:14: port-range: \"60000-50000\": the first port is above the last\n\
         {0}:3:1: unknown key \"prot\": `turnpike run --help` lists the keys\n",
        file.display()
    );
    for arguments in [["check-config"], ["--config"]] {
        let result = run(turnpike(&arguments).arg(&file));
        assert_eq!(result, (Some(2), String::new(), expected.clone()), "{arguments:?}");
    }
}

#[test]
fn without_credentials_the_relay_does_not_start() {
    for arguments in [&[][..], &["run"], &["run", "--listen", "127.0.0.1:0"]] {
        let (code, stdout, stderr) = run(&mut turnpike(arguments));
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
        assert!(stderr.starts_with("command line: --user: missing"), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
}

#[test]
fn unknown_flags_and_features_of_later_versions_are_refused() {
    for (flag, expected) in
        [("--turbo=1", "unexpected argument '--turbo'"), ("--offload=yes", "is none of auto, off, require")]
    {
        let (code, _, stderr) = run(&mut turnpike(&["run", "--user", "alice:hush-hush", flag]));
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains(expected) && !stderr.contains("hush-hush"), "{stderr}");
    }
}

#[test]
fn a_relay_address_of_another_host_is_refused_at_the_start() {
    let arguments =
        ["--user", "alice:hush-hush", "--listen", "127.0.0.1:0", "--relay-address", "192.0.2.254"];
    let (code, stdout, stderr) = run(&mut turnpike(&arguments));
    assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
    assert!(stderr.contains("relay-address: \"192.0.2.254\": no interface of this host has it"), "{stderr}");
    assert!(!stderr.contains("hush-hush"), "{stderr}");
}

#[test]
fn credentials_come_from_flags_environment_and_files() {
    let folder = tempfile::tempdir().unwrap();
    let secrets = folder.path().join("secrets");
    std::fs::write(&secrets, "north\n").unwrap();
    let config = folder.path().join("turnpike.toml");
    std::fs::write(&config, "auth-secret = [\"north\", \"south\"]\n").unwrap();
    let ask = ["credentials", "--user", "alice", "--ttl", "1h", "--json"];
    let before = now();
    let mut answers = vec![
        run(turnpike(&ask).args(["--auth-secret", "north"])),
        run(turnpike(&ask).env("TURNPIKE_AUTH_SECRET", "north")),
        run(turnpike(&ask).arg("--auth-secret-file").arg(&secrets)),
        run(turnpike(&ask).arg("--config").arg(&config)),
    ];
    let after = now();
    for (code, stdout, stderr) in answers.drain(..) {
        assert_eq!((code, stderr.as_str()), (Some(0), ""));
        let answer: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
        let username = answer["username"].as_str().unwrap();
        let (expiry, name) = username.split_once(':').unwrap();
        assert_eq!((name, answer["ttl_secs"].as_u64()), ("alice", Some(3600)));
        assert!((before + 3600..=after + 3600).contains(&expiry.parse().unwrap()), "{username}");
        assert_eq!(answer["password"], hmac_sha1_base64("north", username));
    }
    let (code, stdout, _) = run(turnpike(&ask[..3]).args(["--auth-secret", "north"]));
    assert_eq!(code, Some(0));
    assert!(stdout.starts_with("username: ") && stdout.contains("\npassword: "), "{stdout}");
}

#[test]
fn credentials_without_a_secret_or_with_a_bad_duration_fail() {
    let (code, stdout, stderr) = run(&mut turnpike(&["credentials", "--user", "alice"]));
    assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
    assert!(stderr.contains("no auth-secret or auth-secret-file"), "{stderr}");
    for ttl in ["0", "1w", "-1h", "", "h"] {
        let arguments = ["credentials", "--user", "a", "--auth-secret", "hush-hush", &format!("--ttl={ttl}")];
        let (code, _, stderr) = run(&mut turnpike(&arguments));
        assert_eq!(code, Some(2), "{ttl}");
        assert!(!stderr.contains("hush-hush"), "{stderr}");
    }
}

#[test]
fn help_names_every_option_and_no_value_of_the_environment() {
    let (code, stdout, _) = run(turnpike(&["run", "--help"]).env("TURNPIKE_AUTH_SECRET", "hush-hush"));
    assert_eq!(code, Some(0));
    for spec in turnpike::config::OPTIONS {
        assert!(stdout.contains(&format!("--{}", spec.key)), "{}", spec.key);
        assert!(stdout.contains(&spec.variable()), "{}", spec.key);
    }
    assert!(!stdout.contains("hush-hush"));
}

#[test]
fn probe_reference_and_version_answer() {
    let (code, stdout, _) = run(&mut turnpike(&["probe"]));
    assert_eq!(code, Some(0));
    assert!(stdout.contains("epoll      yes") && stdout.contains("data path  "), "{stdout}");
    let (code, stdout, _) = run(&mut turnpike(&["config-reference"]));
    assert_eq!((code, stdout), (Some(0), turnpike::config::reference_markdown()));
    let (code, stdout, _) = run(&mut turnpike(&["--version"]));
    assert_eq!((code, stdout), (Some(0), format!("turnpike {}\n", env!("CARGO_PKG_VERSION"))));
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

fn hmac_sha1_base64(key: &str, text: &str) -> String {
    use base64::Engine;
    use hmac::Mac;
    let mut mac = hmac::Hmac::<sha1::Sha1>::new_from_slice(key.as_bytes()).unwrap();
    mac.update(text.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes())
}
