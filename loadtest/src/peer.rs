//! turnutils_peer: a UDP echo server with its flags; it echoes TCP on the same ports, too.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::engine::mmsg::Poller;
use crate::engine::open_socket;
use crate::engine::receive::RecvBatch;
use crate::modes::stop_flag;
use crate::peer_tcp;

/// Default of `-p`.
const DEFAULT_PORT: u16 = 3480;
/// Receive queue of each socket, bytes.
const SOCKET_BUFFER_BYTES: usize = 8 << 20;
/// Any datagram fits.
const DATAGRAM_BYTES: usize = 65_536;
/// Longest wait before a look at the stop flag, ns.
const TURN_NS: u64 = 50_000_000;

const USAGE: &str = "\
Usage: peer [options]
Options:
\t-p\tListening port, UDP and TCP (default: 3480); the next one is opened too
\t-d\tListening interface device
\t-L\tListening address (may be repeated; default: all)
\t-v\tVerbose
";

#[derive(Debug, Clone, PartialEq, Eq)]
struct Flags {
    port: u16,
    device: Option<String>,
    listen: Vec<IpAddr>,
    verbose: bool,
}

/// Runs turnutils_peer's command line, without the program's name, until a signal.
pub fn main(arguments: &[String]) -> ExitCode {
    let flags = match parse(arguments) {
        Ok(flags) => flags,
        Err(message) => {
            eprint!("peer: {message}\n{USAGE}");
            return ExitCode::from(1);
        }
    };
    match serve(&flags, &stop_flag()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peer: {error}");
            ExitCode::from(255)
        }
    }
}

fn parse(arguments: &[String]) -> Result<Flags, String> {
    let mut flags = Flags { port: DEFAULT_PORT, device: None, listen: Vec::new(), verbose: false };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut letters = argument.strip_prefix('-').unwrap_or_default().chars();
        if argument == "-v" {
            flags.verbose = true;
            continue;
        }
        let letter = letters.next().ok_or_else(|| format!("unexpected argument: {argument}"))?;
        if !matches!(letter, 'p' | 'd' | 'L') {
            return Err(format!("invalid option -- '{letter}'"));
        }
        let attached = letters.as_str();
        let value = if attached.is_empty() { rest.next().map(String::as_str) } else { Some(attached) };
        let value = value.ok_or_else(|| format!("option requires an argument -- '{letter}'"))?;
        match letter {
            'p' => flags.port = value.parse().map_err(|_| format!("-p: not a port: {value}"))?,
            'd' => flags.device = Some(value.to_owned()),
            _ => flags.listen.push(value.parse().map_err(|_| format!("-L: not an IP address: {value}"))?),
        }
    }
    if flags.listen.is_empty() {
        flags.listen = vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    }
    Ok(flags)
}

fn serve(flags: &Flags, stop: &AtomicBool) -> io::Result<()> {
    let mut sockets = Vec::new();
    for ip in &flags.listen {
        for port in [flags.port, flags.port.saturating_add(1)] {
            let address = SocketAddr::new(*ip, port);
            let socket = open_socket(address, flags.device.as_deref(), SOCKET_BUFFER_BYTES)
                .map_err(|error| io::Error::new(error.kind(), format!("cannot bind {address}: {error}")))?;
            if flags.verbose {
                println!("Start: {address}");
            }
            sockets.push(socket);
            // turnutils_peer needs no TCP: another program may have the port.
            let listening = peer_tcp::listen(address, flags.device.as_deref()).and_then(peer_tcp::serve);
            if let Err(error) = listening {
                eprintln!("peer: no TCP at {address}: {error}");
            }
        }
    }
    echo(&sockets, stop)?;
    if flags.verbose {
        for socket in &sockets {
            println!("End: {}", socket.local_addr()?);
        }
    }
    Ok(())
}

/// Sends every datagram back to its sender, until `stop`.
pub fn echo(sockets: &[UdpSocket], stop: &AtomicBool) -> io::Result<()> {
    let mut poller = Poller::new()?;
    for (index, socket) in sockets.iter().enumerate() {
        poller.add(socket.as_fd(), index as u64)?;
    }
    let mut batch = RecvBatch::new(DATAGRAM_BYTES);
    let mut ready = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        poller.wait(TURN_NS, &mut ready);
        for index in ready.drain(..) {
            let socket = &sockets[index as usize];
            // An error is an ICMP message about an earlier echo, which is nobody's concern here.
            if batch.recv(socket.as_fd()).is_ok() {
                batch.send_back(socket.as_fd());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Flags, String> {
        parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn flags_are_turnutils_peers() {
        let flags = parsed("-p 5000 -L 127.0.0.1 -L ::1 -v").expect("all known");
        assert_eq!((flags.port, flags.listen.len(), flags.verbose), (5000, 2, true));
        assert_eq!(parsed("").expect("all have defaults").listen.len(), 2);
        assert!(parsed("-x").is_err());
        assert!(parsed("-p").is_err());
        assert!(parsed("-p99999").is_err());
    }
}
