//! Options of the administration.

use std::fs;

use super::*;

/// Options that need one another, so that they have no row in the table of single values.
pub(super) const TESTED: &[&str] =
    &["admin", "admin-token", "admin-token-file", "admin-tls-cert", "admin-tls-key"];

const TOKEN: &str = "0123456789abcdef";

#[test]
fn no_token_no_listener_on_loopback_neither() {
    for address in ["127.0.0.1:8080", "[::1]:8080", "192.0.2.1:8080"] {
        let faults = Given::file(&format!("{CREDENTIALS}admin = \"{address}\"\n")).faults();
        assert_eq!(faults.len(), 1, "{faults:?}");
        let start = format!("turnpike.toml:2:9: admin: \"{address}\": there is no admin-token");
        assert!(faults[0].starts_with(&start), "{faults:?}");
    }
    let empty = Given::file(&format!("{CREDENTIALS}admin = \"127.0.0.1:1\"\nadmin-token = []\n"));
    assert_eq!(empty.faults().len(), 1);
    let with_token = format!("{CREDENTIALS}admin = \"127.0.0.1:1\"\nadmin-token = [\"{TOKEN}\"]\n");
    let config = Given::file(&with_token).config();
    assert_eq!(config.admin, Some("127.0.0.1:1".parse().unwrap()));
    assert!(Given::file(&with_token).warnings().is_empty());
}

#[test]
fn tokens_come_from_lists_files_and_variables_with_their_scopes() {
    let tokens = |given: Given| -> Vec<(Vec<AdminScope>, String)> {
        let tokens = given.config().admin_tokens;
        tokens.iter().map(|token| (token.scopes.clone(), token.token.expose().to_owned())).collect()
    };
    let everything = vec![(vec![AdminScope::Admin], TOKEN.to_owned())];
    assert_eq!(tokens(Given::file(&format!("{CREDENTIALS}admin-token = [\"{TOKEN}\"]"))), everything);
    assert_eq!(tokens(Given::file(CREDENTIALS).variable("TURNPIKE_ADMIN_TOKEN", TOKEN)), everything);
    assert_eq!(tokens(Given::file(CREDENTIALS).flags(&["--admin-token", TOKEN])), everything);
    let given = Given::file(CREDENTIALS);
    let file = given.folder.path().join("tokens");
    fs::write(&file, format!("# tokens\n{TOKEN}\nmetrics:{TOKEN}1\nread, credentials:{TOKEN}2==\n")).unwrap();
    let file = file.to_str().unwrap().to_owned();
    assert_eq!(
        tokens(given.variable("TURNPIKE_ADMIN_TOKEN_FILE", &file)),
        [
            (vec![AdminScope::Admin], TOKEN.to_owned()),
            (vec![AdminScope::Metrics], format!("{TOKEN}1")),
            (vec![AdminScope::Read, AdminScope::Credentials], format!("{TOKEN}2==")),
        ]
    );
}

#[test]
fn bad_tokens_are_refused_without_showing_them() {
    for (token, expected) in [
        ("hush-hush", "the token has fewer than 16 characters"),
        ("hush hush hush hush", "the token contains another character than letters, digits and -._~+/="),
        ("change-me-please-soon", report::PLACEHOLDER),
    ] {
        let text = format!("{CREDENTIALS}admin = \"127.0.0.1:1\"\nadmin-token = [\"{token}\"]\n");
        assert_eq!(Given::file(&text).faults(), [format!("turnpike.toml:3:16: admin-token: {expected}")]);
    }
    let twice = format!("{CREDENTIALS}admin-token = [\"{TOKEN}\", \"{TOKEN}\"]\n");
    assert_eq!(Given::file(&twice).faults(), ["turnpike.toml:2:36: admin-token: a token is given twice"]);
    let given = Given::file(CREDENTIALS);
    let file = given.folder.path().join("tokens");
    fs::write(&file, format!("root:{TOKEN}\n")).unwrap();
    assert_eq!(
        given.variable("TURNPIKE_ADMIN_TOKEN_FILE", file.to_str().unwrap()).faults(),
        ["tokens:1:1: admin-token-file: the scope is none of metrics, read, credentials, admin"]
    );
}

#[test]
fn https_needs_certificate_and_key_and_plain_http_elsewhere_is_a_warning() {
    let with = |lines: &str| {
        Given::file(&format!("{CREDENTIALS}admin = \"192.0.2.1:1\"\nadmin-token = [\"{TOKEN}\"]\n{lines}"))
    };
    let warnings = with("").warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("is plain HTTP"), "{warnings:?}");
    let both = with("admin-tls-cert = \"c.pem\"\nadmin-tls-key = \"k.pem\"\n");
    assert!(both.warnings().is_empty());
    assert_eq!(both.config().admin_tls_cert, Some("c.pem".into()));
    assert_eq!(
        with("admin-tls-cert = \"c.pem\"\n").faults(),
        ["turnpike.toml:4:18: admin-tls-cert: is set without admin-tls-key: HTTPS needs both"]
    );
    assert_eq!(
        with("admin-tls-key = \"k.pem\"\n").faults(),
        ["turnpike.toml:4:17: admin-tls-key: is set without admin-tls-cert: HTTPS needs both"]
    );
    let unused = Given::file(&format!("{CREDENTIALS}admin-host = [\"x\"]\n")).warnings();
    assert_eq!(unused, ["turnpike.toml:2:15: admin-host: has no effect without admin"]);
}

#[test]
fn one_alternate_server_of_each_family_that_clients_can_reach() {
    for (line, expected) in [
        (
            r#"alternate-server = ["192.0.2.1:1", "192.0.2.2:1"]"#,
            r#"2:36: alternate-server: "192.0.2.2:1": 192.0.2.1:1 is the one of this family already"#,
        ),
        (
            r#"alternate-server = ["0.0.0.0:3478"]"#,
            r#"2:21: alternate-server: "0.0.0.0:3478": is not a server's address: clients must be able to reach it"#,
        ),
        (
            r#"alternate-server = ["turn.example.org"]"#,
            r#"2:21: alternate-server: "turn.example.org": is not IP:PORT, such as 192.0.2.7:3478 or [2001:db8::7]:3478"#,
        ),
    ] {
        let faults = Given::file(&format!("{CREDENTIALS}{line}\n")).faults();
        assert_eq!(faults, [format!("turnpike.toml:{expected}")]);
    }
}

#[test]
fn a_trial_attaches_nothing_to_an_interface_unless_it_is_told_to() {
    let offload = |text: &str| {
        let given = Given::file(text);
        let loader = Loader::new(Some(given.path()), []).with_quickstart(Quickstart::generate().unwrap());
        loader.load().unwrap().config.offload
    };
    assert_eq!(offload(""), Offload::Off);
    assert_eq!(offload("offload = \"auto\"\n"), Offload::Auto);
}

#[test]
fn a_trial_gets_an_administration_on_loopback_with_a_token_of_its_own() {
    let load = |text: &str| {
        let given = Given::file(text);
        let loader = Loader::new(Some(given.path()), []).with_quickstart(Quickstart::generate().unwrap());
        loader.load().unwrap().config
    };
    let config = load("");
    assert_eq!(config.admin, Some("127.0.0.1:0".parse().unwrap()));
    let token = config.quickstart.as_ref().unwrap().admin_token.as_ref().expect("one to print");
    assert_eq!(config.admin_tokens[0].token.expose(), token.expose());
    assert_eq!(token.expose().len(), 32);
    let config = load(&format!("admin = \"127.0.0.1:9\"\nadmin-token = [\"{TOKEN}\"]\n"));
    assert_eq!(config.admin, Some("127.0.0.1:9".parse().unwrap()));
    assert!(config.quickstart.unwrap().admin_token.is_none(), "a configured token isn't printed");
    assert_eq!(config.admin_tokens.len(), 1);
}

#[test]
fn the_configuration_in_force_is_shown_without_secrets() {
    let config = Given::file(
        "user = [\"alice:hush-1\"]\nauth-secret = [\"hush-2\", \"hush-3\"]\nadmin-token = [\"hush-hush-hush-hush\"]\n\
         port-range = \"50000-50100\"\nallow-peer = [\"10.0.0.0/8\"]\ncoalesce = 200\nmax-bitrate = \"2M\"\n",
    )
    .config();
    let shown = config.shown();
    assert_eq!(shown.len(), OPTIONS.len());
    assert!(!format!("{shown:?}").contains("hush"), "{shown:?}");
    let of = |key: &str| {
        let index = OPTIONS.iter().position(|spec| spec.key == key).expect("an option");
        shown[index].clone()
    };
    assert_eq!(of("auth-secret"), Shown::Secrets(2));
    assert_eq!(of("user"), Shown::Secrets(1));
    assert_eq!(of("port-range"), Shown::One("50000-50100".to_owned()));
    assert_eq!(of("allow-peer"), Shown::Many(vec!["10.0.0.0/8".to_owned()]));
    assert_eq!(of("coalesce"), Shown::One("200".to_owned()));
    assert_eq!(of("burst"), Shown::One("100".to_owned()));
    assert_eq!(of("max-bitrate"), Shown::One("2000000".to_owned()));
    assert_eq!(of("admin"), Shown::Nothing);
}

#[test]
fn a_token_without_a_listener_is_a_warning_unless_it_is_for_ctl() {
    let warnings = Given::file(&format!("{CREDENTIALS}admin-token = [\"{TOKEN}\"]\n")).warnings();
    assert_eq!(warnings, ["turnpike.toml:2:16: admin-token: has no effect without admin"]);
    assert!(Given::file(CREDENTIALS).variable("TURNPIKE_ADMIN_TOKEN", TOKEN).warnings().is_empty());
}

#[test]
fn a_quota_above_the_ports_is_a_warning() {
    let warnings =
        |lines: &str| Given::file(&format!("{CREDENTIALS}port-range = \"50000-50099\"\n{lines}")).warnings();
    assert_eq!(
        warnings("total-quota = 201\n"),
        [
            "turnpike.toml:3:15: total-quota: \"201\": is above what the relay has ports for: port-range (50000-50099) gives 200"
        ]
    );
    assert!(warnings("total-quota = 200\n").is_empty());
    let one = warnings("relay-address = [\"192.0.2.1\"]\nuser-quota = 101\n");
    assert!(one.len() == 1 && one[0].contains("user-quota") && one[0].ends_with("gives 100"), "{one:?}");
}

#[test]
fn coturns_keys_are_known_and_its_file_is_recognised() {
    let faults = Given::file(&format!(
        "listening-port = 3478\nno-multicast-peers = true\npkey-pwd = \"x\"\n{CREDENTIALS}"
    ))
    .faults();
    assert_eq!(
        faults,
        [
            "turnpike.toml:1:1: \"listening-port\": is coturn's; here it is `listen`",
            "turnpike.toml:2:1: \"no-multicast-peers\": is coturn's; here it is always so: leave it out",
            "turnpike.toml:3:1: \"pkey-pwd\": is coturn's; nothing here does it: see docs/migrate-from-coturn.md",
        ]
    );
    let faults =
        Given::file("# coturn\nuse-auth-secret\nstatic-auth-secret=hush-hush\nrealm=example.org\n").faults();
    let start = "turnpike.toml: is not TOML; it looks like coturn's turnserver.conf";
    assert!(faults.iter().any(|line| line.starts_with(start)), "{faults:?}");
    assert!(
        faults.contains(
            &"turnpike.toml:3:1: static-auth-secret: is coturn's; here it is `auth-secret`".to_owned()
        ),
        "{faults:?}"
    );
    assert!(!faults.iter().any(|line| line.contains("hush")), "{faults:?}");
}
