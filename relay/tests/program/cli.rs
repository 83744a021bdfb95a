//! The program as its users call it: output, exit codes, nothing secret where it doesn't belong.

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use turnpike_testkit::PATIENCE;
use turnpike_testkit::certificate::Certificate;
use turnpike_testkit::process::{Outcome, Process};

use super::relay::run;

fn turnpike(arguments: &[&str]) -> Command {
    let mut command = super::relay::turnpike();
    command.args(arguments);
    command
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
fn the_examples_lack_nothing_but_secrets_of_one_s_own() {
    let examples = examples();
    assert!(!examples.is_empty());
    for file in examples {
        for command in ["check-config", "--config"] {
            let (code, stdout, stderr) = run(&mut turnpike(&[command, &file]));
            assert_eq!((code, stdout.as_str()), (Some(2), ""), "{stderr}");
            assert!(stderr.lines().all(|line| line.contains("placeholder")), "{stderr}");
            assert!(!stderr.contains("change-me"), "{stderr}");
        }
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

/// How `run` ends within a moment: its exit code, or none if it became ready.
fn verdict_of_run(file: &str) -> Option<i32> {
    let process = Process::start(turnpike(&["run", "--config", file]));
    match process.wait_for_line("turnpike ready", PATIENCE) {
        Ok(_) => None,
        Err(_) => Some(process.wait(PATIENCE).code.expect("it ends by itself")),
    }
}

/// What check-config says is what run does, for the file at this path.
fn assert_one_verdict(file: &str) -> bool {
    let (checked, _, why) = run(&mut turnpike(&["check-config", file]));
    let ran = verdict_of_run(file);
    assert_eq!(checked, ran.or(Some(0)), "{why}{}", std::fs::read_to_string(file).unwrap());
    checked == Some(0)
}

#[test]
fn check_config_says_ok_to_what_run_accepts_and_to_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| format!("{:?}", folder.path().join(name).display().to_string());
    std::fs::write(folder.path().join("text"), "no certificate, no database\n").unwrap();
    std::fs::write(folder.path().join("bad-users"), "al\u{378}ice:long-enough\n").unwrap();
    std::fs::write(folder.path().join("latin1"), b"al\xefce:long-enough\n").unwrap();
    let [own, other] = ["own", "other"].map(|name| {
        let made = Certificate::new(&["turn.example.org"]);
        made.write(folder.path(), name)
    });
    let pair = |cert: &str, key: &str| format!("tls-cert = [{cert:?}]\ntls-key = [{key:?}]\n");
    let text = folder.path().join("text").display().to_string();
    let own_pair = pair(&own[0], &own[1]);
    let admin = "admin = \"127.0.0.1:0\"\nadmin-token = [\"0123456789abcdef\"]\n";
    for (is_good, lines) in [
        (true, String::new()),
        (true, admin.to_owned()),
        (true, format!("user-database = {}", at("new.sqlite"))),
        (true, "realm = \"r\u{e9}alm\"".to_owned()),
        (true, "external-address = [\"192.0.2.1=127.0.0.1\"]".to_owned()),
        (true, own_pair.clone()),
        (true, format!("{own_pair}listen-tls = [\"127.0.0.1:0\"]\nno-tcp = true\nno-udp = true")),
        (true, "no-udp = true".to_owned()),
        (false, "no-udp = true\nno-tcp = true".to_owned()),
        (false, "listen-tls = [\"127.0.0.1:0\"]".to_owned()),
        (false, pair(&own[0], &other[1])),
        (false, pair(&own[0], "missing")),
        (false, pair(&text, &own[1])),
        (false, format!("user-database = {}", at("missing/users.sqlite"))),
        (false, format!("user-database = {}", at("text"))),
        (false, format!("user-database = {}", at(""))),
        (false, "realm = \"re\u{301}alm\"".to_owned()),
        (false, "realm = \"a\u{378}\"".to_owned()),
        (false, "external-address = [\"2001:db8::1\"]".to_owned()),
        (false, "external-address = [\"192.0.2.1=10.0.0.1\"]".to_owned()),
        (false, format!("user-file = [{}]", at("bad-users"))),
        (false, format!("user-file = [{}]", at("latin1"))),
        (false, format!("auth-secret-file = [{}]", at("missing"))),
        (false, format!("{admin}admin-tls-cert = {0}\nadmin-tls-key = {0}", at("text"))),
        (false, format!("{admin}admin-tls-cert = {0}\nadmin-tls-key = {0}", at("missing"))),
        (false, "admin = \"127.0.0.1:0\"".to_owned()),
    ] {
        let text = format!(
            "listen = [\"127.0.0.1:0\"]\nrelay-address = [\"127.0.0.1\"]\noffload = \"off\"\nworkers = 1\n\
             user = [\"alice:long-enough\"]\n{lines}\n"
        );
        let file = folder.path().join("turnpike.toml");
        std::fs::write(&file, &text).unwrap();
        assert_eq!(assert_one_verdict(file.to_str().unwrap()), is_good, "{lines}");
    }
}

/// With secrets of their own and free ports of loopback instead of an address of somewhere else.
#[test]
fn the_examples_run_once_their_placeholders_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    for example in examples() {
        let text = std::fs::read_to_string(&example).unwrap();
        let own = |line: &str| match line.split_once(" = ") {
            Some(("listen", _)) => "listen = [\"127.0.0.1:0\"]".to_owned(),
            Some(("relay-address", _)) => "relay-address = [\"127.0.0.1\"]".to_owned(),
            Some(("external-address", _)) => "external-address = [\"203.0.113.9=127.0.0.1\"]".to_owned(),
            Some(("admin", _)) => "admin = \"127.0.0.1:0\"".to_owned(),
            _ => line.replace("change-me", "0123456789abcdef"),
        };
        let mut lines: Vec<_> = text.lines().map(own).collect();
        for key in ["listen", "relay-address", "offload"] {
            let value = if key == "offload" { "\"off\"" } else { "[\"127.0.0.1\"]" };
            let value = if key == "listen" { "[\"127.0.0.1:0\"]" } else { value };
            if !lines.iter().any(|line| line.starts_with(&format!("{key} = "))) {
                lines.insert(0, format!("{key} = {value}"));
            }
        }
        let file = folder.path().join("turnpike.toml");
        std::fs::write(&file, lines.join("\n")).unwrap();
        assert!(assert_one_verdict(file.to_str().unwrap()), "{example}");
    }
}

#[test]
fn addresses_that_are_taken_or_not_there_are_warnings_of_check_config_that_say_what_run_does() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("turnpike.toml");
    let holder = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let text = format!(
        "listen = [\"{taken}\", \"192.0.2.254:1\"]\nrelay-address = [\"192.0.2.253\"]\nadmin = \"192.0.2.252:1\"\n\
         admin-token = [\"0123456789abcdef\"]\nuser = [\"alice:long-enough\"]\n"
    );
    std::fs::write(&file, text).unwrap();
    let (code, _, stderr) = run(turnpike(&["check-config"]).arg(&file));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains(&format!("listen: \"{taken}\": is in use now")), "{stderr}");
    for (address, then) in [
        ("listen: \"192.0.2.254:1\"", "run waits for it"),
        ("relay-address: \"192.0.2.253\"", "run waits for it"),
        ("admin: \"192.0.2.252:1\"", "run waits for it"),
    ] {
        let expected = format!("{address}: is not an address of this host now: {then}\n");
        assert!(stderr.contains(&expected), "{stderr}");
    }
}

#[test]
fn few_open_files_for_many_ports_are_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("turnpike.toml");
    std::fs::write(&file, "listen = [\"127.0.0.1:0\"]\nuser = [\"alice:long-enough\"]\n").unwrap();
    let script =
        format!("ulimit -n 1000; exec {} check-config {}", env!("CARGO_BIN_EXE_turnpike"), file.display());
    let (code, _, stderr) = run(Command::new("sh").args(["-c", &script]));
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stderr.contains("port-range: 16384 relayed addresses need as many open files"), "{stderr}");
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

// Nothing that the host's network may still deliver ends the program.
#[test]
fn addresses_that_are_not_there_are_waited_for_and_named() {
    let arguments = ["--user", "alice:hush-hush", "--listen=192.0.2.253:0", "--relay-address=192.0.2.254"];
    let mut command = turnpike(&arguments);
    command.args(["--offload", "off"]);
    let process = Process::start(command);
    let waiting = process.wait_for(PATIENCE, |line| line.contains("waiting for").then(|| line.to_owned()));
    let waiting = waiting.expect("it says so, and goes on");
    for missing in
        ["the listener 192.0.2.253:", "the relay address 192.0.2.254: no interface of this host has it"]
    {
        assert!(waiting.contains(missing), "{waiting}");
    }
    process.signal(Signal::TERM);
    let Outcome { code, output } = process.wait(PATIENCE);
    assert!(code == Some(0) && !output.contains("turnpike ready"), "{code:?}\n{output}");
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

#[test]
fn a_file_of_coturns_becomes_one_that_is_accepted_and_its_report_has_no_secret() {
    let folder = tempfile::tempdir().unwrap();
    let [cert, key] = Certificate::new(&["turn.example.org"]).write(folder.path(), "own");
    let theirs = folder.path().join("turnserver.conf");
    let text = format!(
        "realm=turn.example.org\nstatic-auth-secret=hush-hush-hush-hush\ncert={cert}\npkey={key}\nno-cli\nmobility\n"
    );
    std::fs::write(&theirs, text).unwrap();
    let theirs = theirs.display().to_string();
    let (code, toml, report) = run(&mut turnpike(&["import-coturn", &theirs]));
    assert_eq!(code, Some(0), "{report}");
    assert!(toml.contains("auth-secret = [\"hush-hush-hush-hush\"]") && !report.contains("hush"), "{report}");
    assert!(report.contains(&format!("{theirs}:5: no-cli: not needed: always")), "{report}");
    assert!(report.contains(&format!("{theirs}:6: mobility: not supported: not yet: RFC 8016")), "{report}");
    let last = "4 taken over, 2 changed in meaning, 1 not needed, 1 not supported, 0 unsafe";
    assert_eq!(report.lines().last(), Some(last), "{report}");
    let ours = folder.path().join("turnpike.toml");
    std::fs::write(&ours, toml).unwrap();
    let (code, said, why) = run(&mut turnpike(&["check-config", &ours.display().to_string()]));
    assert_eq!((code, said.trim_end().ends_with(": ok")), (Some(0), true), "{why}");
    // With what its database has for its realm, and for all.
    let db = folder.path().join("turndb");
    let tables = "CREATE TABLE turn_secret (realm, value); CREATE TABLE allowed_peer_ip (realm, ip_range);
        CREATE TABLE denied_peer_ip (realm, ip_range); CREATE TABLE turn_realm_option (realm, opt, value);
        CREATE TABLE turnusers_lt (realm, name, hmackey);
        INSERT INTO turn_secret VALUES ('turn.example.org', 'hush-from-the-database'), ('other', 'hush-of-another');
        INSERT INTO denied_peer_ip VALUES ('', '192.0.2.0-192.0.2.255');";
    rusqlite::Connection::open(&db).unwrap().execute_batch(tables).unwrap();
    std::fs::write(&theirs, "realm=turn.example.org\nuse-auth-secret\n").unwrap();
    let db = db.display().to_string();
    let (code, toml, report) = run(&mut turnpike(&["import-coturn", &theirs, "--db", &db]));
    assert_eq!(code, Some(0), "{report}");
    assert!(toml.contains("auth-secret = [\"hush-from-the-database\"]\n"), "{toml}");
    assert!(toml.contains("deny-peer = [\"192.0.2.0/24\"]") && !report.contains("hush"), "{toml}{report}");
    let (code, _, why) = run(&mut turnpike(&["import-coturn", &theirs, "--db", &theirs]));
    assert!(code == Some(1) && why.contains("not a database"), "{why}");
    let (code, _, why) = run(&mut turnpike(&["import-coturn", "/nowhere/turnserver.conf"]));
    assert!(code == Some(1) && why.contains("/nowhere/turnserver.conf: No such file"), "{why}");
}
