//! Public addresses that names and STUN servers tell: asked at the start, each minute, and when addresses change.
//!
//! The system's resolver may take its time, so nobody else is on this thread. What was told stays in force while
//! nobody answers: a server that is silent says nothing about the address.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::{info, warn};
use turnpike_proto::wire::{Class, Message, MessageBuilder, TransactionId, attr, method};

use crate::config::PublicAddress;
use crate::setup;

/// How often everything is asked again.
const PERIOD: Duration = Duration::from_secs(60);
/// How often what was never answered is asked.
const FIRST_PERIOD: Duration = Duration::from_secs(5);
/// How long a STUN server may take: three times, then it is silent.
const STUN_TIMEOUTS: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(1)];

/// Who is asked about which relay address.
pub type Question = (PublicAddress, IpAddr);

/// What names and STUN servers have told.
#[derive(Debug, Default)]
pub struct Publics {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    questions: Vec<Question>,
    answers: HashMap<Question, IpAddr>,
    /// They are new, or the network is another one: not to wait for the next minute.
    asked: bool,
}

impl Publics {
    /// Everything that was told.
    pub fn answers(&self) -> HashMap<Question, IpAddr> {
        self.lock().answers.clone()
    }

    /// Asks from now on, and at once.
    pub fn ask(&self, questions: &[Question]) {
        let mut state = self.lock();
        if questions.is_empty() && state.questions.is_empty() {
            return;
        }
        state.questions = questions.to_vec();
        state.answers.retain(|question, _| questions.contains(question));
        state.asked = true;
        self.changed.notify_one();
    }

    /// Asks everything once, and waits for the network meanwhile. Whether an answer is another one than before.
    pub fn ask_all(&self, questions: &[Question]) -> bool {
        questions.iter().fold(false, |has_changed, question| has_changed | self.ask_one(question))
    }

    /// When to ask again: sooner while something was never answered.
    pub fn pause(&self, questions: &[Question]) -> Duration {
        let answers = &self.lock().answers;
        if questions.iter().all(|question| answers.contains_key(question)) { PERIOD } else { FIRST_PERIOD }
    }

    /// Waits until it is time to ask, or there is something new to be asked. Gives what that is.
    pub fn wait(&self, until: Instant) -> Vec<Question> {
        let mut state = self.lock();
        loop {
            let patience = until.saturating_duration_since(Instant::now());
            if state.asked || !state.questions.is_empty() && patience.is_zero() {
                state.asked = false;
                return state.questions.clone();
            }
            // Without a question there is no need to look at the clock.
            let patience = if state.questions.is_empty() { PERIOD } else { patience };
            let waited = self.changed.wait_timeout(state, patience);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Whether the answer is another one than before.
    fn ask_one(&self, question: &Question) -> bool {
        let (source, local) = question;
        match find(source, *local) {
            Ok(public) => {
                let mut state = self.lock();
                if !state.questions.contains(question) {
                    return false;
                }
                let before = state.answers.insert(question.clone(), public);
                drop(state);
                if before != Some(public) {
                    info!("external-address {source}: {local} is {public} in public");
                }
                before != Some(public)
            }
            Err(error) => {
                let kept = match self.lock().answers.get(question) {
                    Some(public) => format!("{public} stays in force"),
                    None => format!("{local} is not relayed from"),
                };
                warn!("external-address {source}: {error}; {kept}");
                false
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The public address of a local one. Waits for the network.
fn find(source: &PublicAddress, local: IpAddr) -> io::Result<IpAddr> {
    match source {
        PublicAddress::Ip(ip) => Ok(*ip),
        PublicAddress::Name(name) => Ok(lookup(name, 0, local)?.ip()),
        PublicAddress::Stun { host, port } => {
            ask_stun_server(local, lookup(host, *port, local)?, &STUN_TIMEOUTS)
        }
    }
}

/// The first address of a name that has the family of `like`.
fn lookup(name: &str, port: u16, like: IpAddr) -> io::Result<SocketAddr> {
    let mut found = (name, port).to_socket_addrs()?;
    found.find(|address| address.is_ipv4() == like.is_ipv4()).ok_or_else(|| {
        let family = if like.is_ipv4() { "IPv4" } else { "IPv6" };
        io::Error::other(format!("{name} has no {family} address"))
    })
}

/// Asks a STUN server which address it sees (RFC 8489 s. 2).
fn ask_stun_server(local: IpAddr, server: SocketAddr, timeouts: &[Duration]) -> io::Result<IpAddr> {
    let socket = UdpSocket::bind((local, 0))?;
    socket.connect(server)?;
    let seed = setup::seed()?;
    let id = TransactionId(*seed.first_chunk().expect("a seed has more than twelve bytes"));
    let request = MessageBuilder::request(method::BINDING, id).finish();
    for timeout in timeouts {
        socket.send(&request)?;
        let end = Instant::now() + *timeout;
        while let Some(patience) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            socket.set_read_timeout(Some(patience))?;
            let mut answer = [0; 1500];
            match socket.recv(&mut answer) {
                Ok(len) => {
                    if let Some(public) = mapped_address(&answer[..len], id) {
                        return Ok(public);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
    Err(io::Error::other(format!("{server} does not answer")))
}

/// What a success answer to this very request says, unless it can be nobody's address.
fn mapped_address(answer: &[u8], id: TransactionId) -> Option<IpAddr> {
    let message = Message::parse(answer).ok()?;
    let is_it = (message.class(), message.method()) == (Class::Success, method::BINDING);
    if !is_it || message.transaction_id() != id {
        return None;
    }
    let ip = message.xor_address(attr::XOR_MAPPED_ADDRESS)?.ok()?.ip();
    (!ip.is_unspecified() && !ip.is_multicast()).then_some(ip)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    /// A STUN server that answers each request with what `answer` makes of it.
    fn server(answers: Vec<fn(&Message<'_>) -> Vec<u8>>) -> SocketAddr {
        let socket = UdpSocket::bind((LOCAL, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        thread::spawn(move || {
            let mut buffer = [0; 1500];
            let (len, client) = socket.recv_from(&mut buffer).unwrap();
            let request = Message::parse(&buffer[..len]).unwrap();
            for answer in answers {
                socket.send_to(&answer(&request), client).unwrap();
            }
        });
        address
    }

    fn told(id: TransactionId, public: &str) -> Vec<u8> {
        let request = MessageBuilder::request(method::BINDING, id).finish();
        let request = Message::parse(&request).unwrap();
        let public = public.parse().unwrap();
        MessageBuilder::success(&request).xor_address(attr::XOR_MAPPED_ADDRESS, public).finish()
    }

    // RFC 8489 s. 6.3.3: an answer has the transaction's id
    #[test]
    fn only_the_servers_answer_to_this_request_counts() {
        let address = server(vec![
            |_| b"no STUN".to_vec(),
            |_| told(TransactionId([1; 12]), "203.0.113.66:1"),
            |request| MessageBuilder::error(request, turnpike_proto::ErrorCode::BadRequest).finish(),
            |request| told(request.transaction_id(), "0.0.0.0:9"),
            |request| told(request.transaction_id(), "203.0.113.9:4711"),
        ]);
        let public = ask_stun_server(LOCAL, address, &[Duration::from_secs(20)]).unwrap();
        assert_eq!(public, IpAddr::from([203, 0, 113, 9]));
    }

    #[test]
    fn a_silent_server_is_an_error() {
        let silent = UdpSocket::bind((LOCAL, 0)).unwrap();
        let error =
            ask_stun_server(LOCAL, silent.local_addr().unwrap(), &[Duration::from_millis(5); 2]).unwrap_err();
        assert!(error.to_string().ends_with("does not answer"), "{error}");
    }

    #[test]
    fn a_name_has_to_have_the_family_of_the_relay_address() {
        assert_eq!(find(&PublicAddress::Name("127.0.0.1".to_owned()), LOCAL).unwrap(), LOCAL);
        let error = lookup("127.0.0.1", 0, "::1".parse().unwrap()).unwrap_err();
        assert_eq!(error.to_string(), "127.0.0.1 has no IPv6 address");
    }

    #[test]
    fn an_answer_stays_in_force_while_nobody_answers() {
        let publics = Publics::default();
        let question = (PublicAddress::Name("127.0.0.1".to_owned()), LOCAL);
        publics.ask(std::slice::from_ref(&question));
        assert!(publics.ask_one(&question), "it is new");
        assert!(!publics.ask_one(&question), "it is the same");
        assert_eq!(publics.answers()[&question], LOCAL);
        let other = (PublicAddress::Name("127.0.0.2".to_owned()), LOCAL);
        publics.ask(&[question.clone(), other.clone()]);
        assert!(publics.answers().contains_key(&question));
        publics.ask(std::slice::from_ref(&other));
        assert!(publics.answers().is_empty(), "nobody wants to know it any more");
        assert!(!publics.ask_one(&question));
    }
}
