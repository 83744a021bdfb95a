//! The program with an administration on loopback, configured by a file that a test may change.

use std::net::{SocketAddr, TcpStream};
use std::ops::Deref;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;
use turnpike_testkit::http::{TOKEN, exchange};
use turnpike_testkit::process::Process;
use turnpike_testkit::server::{Configured, without_options};
use turnpike_testkit::{PASSWORD, PATIENCE, USER};

/// The program that is ready; killed when dropped.
pub struct Relay(Configured);

impl Relay {
    /// With the usual user, and whatever `lines` add to its configuration.
    #[track_caller]
    pub fn start(lines: &str) -> Relay {
        Relay::start_in(tempfile::tempdir().expect("a folder"), lines)
    }

    /// The same in a folder that has files which `lines` name.
    #[track_caller]
    pub fn start_in(folder: TempDir, lines: &str) -> Relay {
        let text = format!(
            "listen = [\"127.0.0.1:0\"]\nrelay-address = [\"127.0.0.1\"]\nallow-loopback-peers = true\n\
             user = [\"{USER}:{PASSWORD}\"]\nworkers = 2\nunauthenticated-rate = 0\nlog-format = \"json\"\n\
             admin = \"127.0.0.1:0\"\nadmin-token = [\"{TOKEN}\"]\nmax-queue-delay = 10000\n{lines}"
        );
        Relay(Configured::start(turnpike(), folder, &text))
    }

    /// The listener for UDP.
    pub fn server(&self) -> SocketAddr {
        self.at("listen=")
    }

    /// An address that its first line names.
    #[track_caller]
    pub fn at(&self, field: &str) -> SocketAddr {
        self.field(field).parse().expect("an address")
    }

    /// The administration's listener.
    pub fn admin(&self) -> SocketAddr {
        let (_, admin) = self.field("admin=").trim_end_matches('/').split_once("://").expect("a URL");
        admin.parse().expect("an address")
    }

    /// A request with the token; status and body.
    pub fn http(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
        request(self.admin(), method, path, body)
    }

    /// The same, which has to succeed.
    #[track_caller]
    pub fn json(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let (status, text) = self.http(method, path, body);
        assert!((200..300).contains(&status), "{method} {path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// `turnpike ctl` with these arguments: exit code, stdout, stderr.
    pub fn ctl(&self, arguments: &[&str]) -> (Option<i32>, String, String) {
        run(self.ctl_command().arg("ctl").args(arguments))
    }

    /// The program that knows where this one is administered, and by which token.
    pub fn ctl_command(&self) -> Command {
        let mut command = turnpike();
        command
            .env("TURNPIKE_ADMIN_TOKEN", TOKEN)
            .env("TURNPIKE_ADMIN_URL", format!("http://{}", self.admin()));
        command
    }

    /// The process by itself.
    pub fn into_process(self) -> Process {
        self.0.into_process()
    }

    /// Ends it by SIGTERM; gives its log.
    #[track_caller]
    pub fn stop(self) -> String {
        self.0.stop()
    }
}

impl Deref for Relay {
    type Target = Configured;

    fn deref(&self) -> &Configured {
        &self.0
    }
}

/// A request to an administration, with the token; status and body.
pub fn request(admin: SocketAddr, method: &str, path: &str, body: Option<&Value>) -> (u16, String) {
    let stream = TcpStream::connect(admin).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    exchange(stream, method, path, &body.map_or_else(String::new, Value::to_string))
}

/// The program, with none of our own environment.
pub fn turnpike() -> Command {
    without_options(Command::new(turnpike_testkit::binary(env!("CARGO_BIN_EXE_turnpike"))))
}

/// Runs a command to its end: exit code, stdout, stderr.
pub fn run(command: &mut Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (status.code(), text(stdout), text(stderr))
}
