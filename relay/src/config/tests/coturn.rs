//! coturn's files become ours: those of the projects that tell their users to run coturn, with what they mean.

use turnpike_testkit::certificate::Certificate;

use super::super::coturn::{Fate, Imported, Origin, Stored, import, tables};
use super::*;

/// As long as a shared secret should be.
const SECRET: &str = "a-shared-secret-of-thirty-two-ch";
const INVENTED: &str = "invented-invented-invented";

/// A file of coturn's, and the configuration that was made of it.
struct Import {
    imported: Imported,
    config: Config,
}

impl Import {
    /// `CERT` and `KEY` in the text are files that there are.
    #[track_caller]
    fn of(text: &str) -> Import {
        Import::with(text, &[])
    }

    /// The same with what its database has.
    #[track_caller]
    fn with(text: &str, stored: &[Stored]) -> Import {
        let files = tempfile::tempdir().expect("a folder");
        let [cert, key] = Certificate::new(&["turn.example.org"]).write(files.path(), "own");
        let imported = import(&text.replace("CERT", &cert).replace("KEY", &key), stored, INVENTED);
        let loaded = Given::file(&imported.toml).load();
        let config = loaded.unwrap_or_else(|problems| panic!("{problems}\n{}", imported.toml)).config;
        // Each line that says something has its remark, and no remark a value.
        let said = (1..).zip(text.lines()).filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        for (number, line) in said {
            let told = imported.remarks.iter().filter(|remark| remark.origin == Origin::Line(number)).count();
            assert_eq!(told, 1, "of {line:?}");
        }
        let told = format!("{:?}", imported.remarks);
        assert!(!told.contains(SECRET) && !told.contains("passw0rd") && !told.contains(INVENTED), "{told}");
        Import { imported, config }
    }

    /// What is remarked about an option.
    fn fates(&self, name: &str) -> Vec<Fate> {
        let remarks = self.imported.remarks.iter().filter(|remark| remark.name == name);
        remarks.map(|remark| remark.fate).collect()
    }

    fn secrets(&self) -> Vec<&str> {
        self.config.auth_secrets.0.iter().map(Secret::expose).collect()
    }
}

fn addresses(list: &[&str]) -> Vec<std::net::SocketAddr> {
    list.iter().map(|text| text.parse().expect("an address")).collect()
}

fn prefixes(list: &[&str]) -> Vec<ipnet::IpNet> {
    list.iter().map(|text| text.parse().expect("a prefix")).collect()
}

#[test]
fn nextcloud_talk() {
    let talk = Import::of(&format!(
        "listening-port=3478\nfingerprint\nuse-auth-secret\nstatic-auth-secret={SECRET}\n\
         realm=cloud.example.org\ntotal-quota=0\nbps-capacity=0\nstale-nonce\nno-multicast-peers\n"
    ));
    assert_eq!((talk.secrets(), &*talk.config.realm), (vec![SECRET], "cloud.example.org"));
    // Our default is the same port, on all addresses.
    assert!(talk.config.listen.is_empty() && talk.config.total_quota.is_none());
    assert_eq!(talk.fates("bps-capacity"), [Fate::NotNeeded], "0 turns it off");
    assert_eq!(talk.fates("TCP relaying"), [Fate::Changed]);
}

#[test]
fn matrix_synapse() {
    let matrix = Import::of(&format!(
        "use-auth-secret\nstatic-auth-secret={SECRET}\nrealm=turn.example.org\n\n# no service inside\nno-tcp-relay\n\
         denied-peer-ip=10.0.0.0-10.255.255.255\ndenied-peer-ip=192.168.0.0-192.168.255.255\n\
         denied-peer-ip=172.16.0.0-172.31.255.255\ndenied-peer-ip=198.18.0.0-198.19.255.255\n\
         denied-peer-ip=::ffff:0.0.0.0-::ffff:255.255.255.255\ndenied-peer-ip=fc00::-fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff\n\
         allowed-peer-ip=10.0.0.1\nuser-quota=12\ntotal-quota=1200\n\
         cert=CERT\npkey=KEY\nexternal-ip=203.0.113.9\nno-multicast-peers\nno-tlsv1\nno-tlsv1_1\n"
    ));
    let config = &matrix.config;
    assert_eq!(config.allow_peer, prefixes(&["10.0.0.1/32"]));
    let denied = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "198.18.0.0/15", "fc00::/7"];
    assert_eq!(config.deny_peer, prefixes(&denied));
    assert_eq!(matrix.fates("denied-peer-ip").iter().filter(|fate| **fate == Fate::NotNeeded).count(), 1);
    assert_eq!((config.user_quota.map(u32::from), config.total_quota.map(u32::from)), (Some(12), Some(1200)));
    assert_eq!((config.tls_cert.len(), config.tls_key.len(), config.external_address.len()), (1, 1, 1));
    assert!(matrix.fates("TCP relaying").is_empty() && !config.allow_tcp_relay, "off in both");
}

#[test]
fn jitsi_meet() {
    let jitsi = Import::of(&format!(
        "use-auth-secret\nkeep-address-family\nstatic-auth-secret={SECRET}\nrealm=meet.example.org\ncert=CERT\npkey=KEY\n\
         no-multicast-peers\nno-cli\nno-loopback-peers\nno-tcp-relay\nno-tcp\nlistening-port=3478\n\
         tls-listening-port=5350\nno-tlsv1_2\ncipher-list=ECDHE+AESGCM\nsyslog\n\
         denied-peer-ip=0.0.0.0-0.255.255.255\nexternal-ip=203.0.113.9/10.0.0.5\n"
    ));
    let config = &jitsi.config;
    assert_eq!(config.default_address_family, DefaultFamily::Keep);
    assert!(config.no_tcp && config.admin.is_none());
    assert_eq!(config.listen_tls, addresses(&["0.0.0.0:5350", "[::]:5350"]));
    assert_eq!(config.tls_min_version, TlsVersion::V13);
    assert_eq!(config.deny_peer, prefixes(&["0.0.0.0/8"]));
    assert!(jitsi.imported.toml.contains("external-address = [\"203.0.113.9=10.0.0.5\"]"));
    assert_eq!(jitsi.fates("external-ip"), [Fate::Changed], "the private part is no allowed peer");
    for name in ["no-cli", "no-loopback-peers", "cipher-list", "syslog"] {
        assert_eq!(jitsi.fates(name), [Fate::NotNeeded], "{name}");
    }
}

#[test]
fn big_blue_button() {
    let button = Import::of(&format!(
        "listening-port=3478\ntls-listening-port=443\nlistening-ip=192.0.2.7\nlistening-ip=2001:db8::7\n\
         relay-ip=192.0.2.7\nmin-port=32769\nmax-port=65535\nfingerprint\nlt-cred-mech\nuse-auth-secret\n\
         static-auth-secret={SECRET}\nrealm=bbb.example.org\ncert=CERT\npkey=KEY\nkeep-address-family\nno-cli\n\
         dh-file=/etc/turnserver/dhp.pem\nlog-file=/var/log/turnserver/coturn.log\nsimple-log\nno-rfc5780\n\
         no-stun-backward-compatibility\nresponse-origin-only-with-rfc5780\nVerbose\n"
    ));
    let config = &button.config;
    assert_eq!(config.listen, addresses(&["192.0.2.7:3478", "[2001:db8::7]:3478"]));
    assert_eq!(config.listen_tls, addresses(&["192.0.2.7:443", "[2001:db8::7]:443"]));
    assert_eq!(config.relay_address, ["192.0.2.7".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(config.port_range, PortRange { first: 32769, last: 65535 });
    assert_eq!((config.log_level, button.fates("Verbose")), (LogLevel::Debug, vec![Fate::Changed]));
}

#[test]
fn janus() {
    let janus = Import::of(
        "listening-port=3479\naux-server=192.0.2.7:443\nmin-port=50000\nlt-cred-mech\n\
         user=janus:passw0rd-of-janus\nuser = other:0xbc807ee29df3c9ffa736523fb2c4e8ee\n\
         realm=\"janus.example.org\"\nmax-bps=125000\nno-tls\ncert=CERT\npkey=KEY\ncli-password=passw0rd\n\
         web-admin\nprometheus\nalternate-server=192.0.2.8\nno-software-attribute\nallow-loopback-peers\n\
         max-allocate-lifetime=1800\nrfc5766-channel-numbers\n",
    );
    let config = &janus.config;
    assert_eq!(config.listen, addresses(&["0.0.0.0:3479", "[::]:3479", "192.0.2.7:443"]));
    assert_eq!(config.port_range, PortRange { first: 50000, last: 65535 });
    let users: Vec<_> = config.users.0.iter().map(|user| (&*user.name, user.password.expose())).collect();
    assert_eq!(users, [("janus", "passw0rd-of-janus")]);
    assert_eq!(janus.fates("user"), [Fate::TakenOver, Fate::NotSupported], "a key without its password");
    assert_eq!(config.max_bitrate.map(u64::from), Some(1_000_000), "bits");
    assert!(config.tls_cert.is_empty() && config.admin.is_none() && !config.allow_loopback_peers);
    assert_eq!(janus.fates("allow-loopback-peers"), [Fate::Unsafe]);
    assert_eq!(config.alternate_server, addresses(&["192.0.2.8:3478"]));
    assert_eq!((&config.software, config.max_lifetime_secs), (&None, 1800));
    assert!(config.rfc5766_channel_numbers);
    for name in ["cli-password", "web-admin", "prometheus"] {
        assert_eq!(janus.fates(name), [Fate::Changed], "{name}");
    }
}

#[test]
fn without_credentials_nobody_gets_in_by_those_that_were_invented_but_the_operator() {
    // Debian's own, all else of which is a comment, and coturn's example, of which all is.
    for text in
        ["# listening-port=3478\nsyslog\n", "# realm=example.org\n#no-auth\n", "no-auth\nserver-relay\n"]
    {
        let bare = Import::of(text);
        assert_eq!((bare.secrets(), bare.config.users.0.len()), (vec![INVENTED], 0));
        assert_eq!(bare.fates("credentials"), [Fate::Unsafe]);
        assert_eq!(bare.fates("realm"), [Fate::Changed]);
    }
    let from_database = Import::of("use-auth-secret\nredis-userdb=\"ip=127.0.0.1 password=passw0rd\"\n");
    assert_eq!(from_database.fates("use-auth-secret"), [Fate::Changed]);
    assert_eq!(from_database.fates("redis-userdb"), [Fate::NotSupported]);
}

#[test]
fn a_shared_secret_turns_users_off_as_it_does_there_and_weak_ones_are_said() {
    let import =
        Import::of("user=alice:passw0rd-of-alice\nstatic-auth-secret=north\nstatic-auth-secret=south\n");
    assert_eq!((import.secrets(), import.config.users.0.len()), (vec!["north", "south"], 0));
    assert_eq!(import.fates("user"), [Fate::NotNeeded]);
    assert_eq!(import.fates("static-auth-secret"), [Fate::Unsafe, Fate::Unsafe]);
}

#[test]
fn the_database_adds_secrets_peers_and_limits() {
    let limit = |name: &str, value: &str| Stored::Limit { name: name.to_owned(), value: value.to_owned() };
    let stored = [
        Stored::Secret(SECRET.to_owned()),
        Stored::Allowed("10.0.0.1".to_owned()),
        Stored::Denied("10.0.0.0-10.255.255.255".to_owned()),
        limit("max-bps", "125000"),
        limit("user-quota", "7"),
        limit("web-admin", "1"),
        Stored::Users(3),
    ];
    let import = Import::with("use-auth-secret\nrealm=example.org\nuser-quota=5\n", &stored);
    assert_eq!((import.secrets(), import.config.user_quota.map(u32::from)), (vec![SECRET], Some(7)));
    assert_eq!(import.config.max_bitrate.map(u64::from), Some(1_000_000));
    assert_eq!(import.config.allow_peer, prefixes(&["10.0.0.1/32"]));
    assert_eq!(import.config.deny_peer, prefixes(&["10.0.0.0/8"]));
    assert_eq!(
        (import.fates("turn_secret"), import.fates("turnusers_lt")),
        (vec![Fate::TakenOver], vec![Fate::NotNeeded])
    );
    // Without use-auth-secret coturn looks at the users, of whom it has nothing that is of use here.
    let users = Import::with("realm=example.org\n", &stored);
    assert_eq!((users.secrets(), users.fates("turn_secret")), (vec![INVENTED], vec![Fate::NotNeeded]));
    assert_eq!(users.fates("turnusers_lt"), [Fate::NotSupported]);
}

#[test]
fn what_is_allowed_there_in_spite_of_a_denial_is_allowed_here() {
    let import = Import::of(
        "allowed-peer-ip=10.0.0.0-10.0.0.255\ndenied-peer-ip=10.0.0.7\ndenied-peer-ip=10.0.0.0-10.0.1.255\n",
    );
    assert_eq!(import.config.allow_peer, prefixes(&["10.0.0.0/24"]));
    assert_eq!(import.config.deny_peer, prefixes(&["10.0.0.0/23"]), "the more specific one wins");
    let odd =
        Import::of("denied-peer-ip=192.0.2.1-192.0.2.6\naux-server=192.0.2.7:443\nlistening-port=443\n");
    assert_eq!(
        odd.config.listen,
        addresses(&["0.0.0.0:443", "[::]:443"]),
        "a wildcard covers all of its family"
    );
    let expected = ["192.0.2.1/32", "192.0.2.2/31", "192.0.2.4/31", "192.0.2.6/32"];
    assert_eq!(odd.config.deny_peer, prefixes(&expected));
}

#[test]
fn what_nobody_understands_is_said_and_left_out() {
    let import = Import::of(
        "listening-ip=eth0\nmin-port=60000\nmax-port=50000\nmax-bps=a-lot\ndenied-peer-ip=10.0.0.9-10.0.0.1\n\
         no-such-option=1\nmax-allocate-lifetime=1\nstatic-auth-secret:passw0rd\n",
    );
    assert_eq!(import.fates("static-auth-secret"), [Fate::NotSupported], "and its secret is not shown");
    for name in ["listening-ip", "max-bps", "denied-peer-ip", "no-such-option", "max-allocate-lifetime"] {
        assert_eq!(import.fates(name), [Fate::NotSupported], "{name}");
    }
    assert_eq!(import.fates("min-port, max-port"), [Fate::NotSupported]);
    assert_eq!(import.config.port_range, Config::default().port_range);
}

/// What some option may have as its value, and what none may.
const VALUES: &[&str] = &[
    "",
    "0",
    "1",
    "off",
    "443",
    "3478",
    "65535",
    "70000",
    "-1",
    "eth0",
    "192.0.2.7",
    "192.0.2.7:443",
    "2001:db8::7",
    "[2001:db8::7]:443",
    "0.0.0.0",
    "::",
    "127.0.0.1",
    "224.0.0.1",
    "192.0.2.1/10.0.0.1",
    "192.0.2.1/2001:db8::1",
    "10.0.0.0-10.255.255.255",
    "0.0.0.0-255.255.255.255",
    "::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
    "::ffff:10.0.0.1",
    "alice:passw0rd-of-alice",
    "alice:another-passw0rd",
    "alice:",
    "b\u{e9}:passw0rd",
    "example.org",
    "e\u{301}xample",
    "\u{202e}",
    "a\"b\\c",
    "4294967296",
    "18446744073709551615",
    "debug",
    "ipv6",
    "keep",
    "#",
    "'''",
];

/// Lines of any options, each with a value that some option may have: what they become is accepted, whatever they mean
/// together.
#[test]
fn whatever_is_imported_is_accepted() {
    use proptest::prelude::*;
    use proptest::test_runner::TestRunner;
    let page = tables();
    let cells = page.lines().filter(|line| line.starts_with("| `")).filter_map(|line| line.split('|').nth(1));
    let names = cells.flat_map(|cell| cell.split(',')).map(|name| name.trim().trim_matches('`').to_owned());
    // What certificates are there, the file doesn't decide.
    let names: Vec<String> = names.filter(|name| !["cert", "pkey"].contains(&&**name)).collect();
    let line = (0..names.len(), 0..VALUES.len());
    let check = |lines: Vec<(usize, usize)>| {
        let lines = lines.iter().map(|(name, value)| format!("{}={}\n", names[*name], VALUES[*value]));
        let text: String = lines.collect();
        let imported = import(&text, &[], INVENTED);
        let problems = Given::file(&imported.toml).load().err().map(|problems| problems.to_string());
        prop_assert!(
            problems.is_none(),
            "{}\nof\n{text}\nwhich became\n{}",
            problems.unwrap_or_default(),
            imported.toml
        );
        Ok(())
    };
    TestRunner::deterministic().run(&proptest::collection::vec(line, 0..12), check).unwrap();
}

/// Lines that the table says are taken over reach an option, unless they only take something away.
#[test]
fn the_table_and_the_import_agree() {
    for line in tables().lines().filter(|line| line.starts_with("| `")) {
        let names = line.split('|').nth(1).expect("a cell");
        for name in names.split(',').map(|name| name.trim().trim_matches('`')) {
            let remarks = import(&format!("{name}=\n"), &[], INVENTED).remarks;
            let own = remarks.iter().find(|remark| remark.origin == Origin::Line(1)).expect("a remark");
            let is_admins = ["cli", "web-admin", "prometheus"].iter().any(|part| name.starts_with(part));
            assert_eq!(
                own.why.contains("admin-token-file"),
                is_admins && own.fate == Fate::Changed,
                "{own:?}"
            );
            assert_ne!(own.why, "no option of coturn 4.17, nor of 4.6.1");
        }
    }
}

#[test]
fn the_page_about_coturn_is_up_to_date() {
    let page = fs::read_to_string(repository().join("docs/migrate-from-coturn.md")).expect("the page");
    assert!(page.contains(&tables()), "docs/migrate-from-coturn.md is out of date: run `cargo xtask docs`");
}
