//! The virtual machine itself.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Network cards: which of them are connected, their names here, and what they are. Those with a driver that comes first
/// are the machine's first ones.
const CARDS: [(u8, &str, &str); 6] = [
    (0, "a", "virtio-net-pci"),
    (0, "b", "virtio-net-pci"),
    (1, "c", "virtio-net-pci"),
    (1, "d", "virtio-net-pci"),
    (2, "e", "virtio-net-pci"),
    (2, "f", "vmxnet3"),
];

/// A machine takes a minute; without KVM many.
const DEADLINE: Duration = Duration::from_secs(2400);
/// How long a machine with KVM may take until its kernel runs our tests; some hosts' KVM never does.
const KVM_PATIENCE: Duration = Duration::from_secs(30);
/// In front of what the machine has to say to us.
const MARK: &str = "turnpike-guest: ";

/// What became of a machine.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The kernel's release.
    pub release: String,
    /// Whether all tests passed.
    pub ok: bool,
    /// How many tests.
    pub tests: String,
    /// How many results there are in it.
    parts: usize,
}

/// What the machine's results are of, in their order.
const PARTS: [&str; 3] = ["frames: ", ", VLANs and bonds: ", ", on virtio_net: "];

/// Runs a machine to its end and shows what it prints: with KVM, or without where that starts no kernel.
///
/// # Errors
/// When it can't be started or doesn't end.
pub fn run(image: &Path, initrd: &Path) -> Result<Outcome, String> {
    if Path::new("/dev/kvm").exists() {
        match run_with("kvm", KVM_PATIENCE, image, initrd) {
            Ok(outcome) if !outcome.release.is_empty() => return Ok(outcome),
            Ok(_) => println!("KVM has ended without a sign of the kernel"),
            Err(error) => println!("{error}"),
        }
    }
    println!("without KVM: everything is emulated, and takes minutes");
    run_with("tcg,thread=multi", DEADLINE, image, initrd)
}

/// `patience` is for the first line of ours.
fn run_with(accelerator: &str, patience: Duration, image: &Path, initrd: &Path) -> Result<Outcome, String> {
    let mut machine = Command::new("qemu-system-x86_64")
        .args(["-accel", accelerator])
        // Without a register and a kind of page tables that hosts support in different ways.
        .args(["-cpu", "max,-arch-capabilities,la57=off", "-smp", "2", "-m", "1024"])
        .args(["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"])
        .args(CARDS.iter().flat_map(|(hub, card, model)| {
            let (port, device) = (format!("hubport,id={card},hubid={hub}"), format!("{model},netdev={card}"));
            ["-netdev".to_owned(), port, "-device".to_owned(), device]
        }))
        .arg("-kernel")
        .arg(image)
        .arg("-initrd")
        .arg(initrd)
        .args(["-append", "console=ttyS0 panic=-1 quiet"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start qemu-system-x86_64: {error}"))?;
    let lines = lines(&mut machine)?;
    let begin = Instant::now();
    let mut outcome = Outcome::default();
    loop {
        let patience = if outcome.release.is_empty() { patience } else { DEADLINE };
        match lines.recv_timeout((begin + patience).saturating_duration_since(Instant::now())) {
            Ok(line) => {
                println!("{line}");
                outcome.read(&line);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                let _ = machine.kill().and_then(|()| machine.wait());
                let (what, secs) = (accelerator, patience.as_secs());
                return Err(format!("the virtual machine ({what}) has not come further within {secs} s"));
            }
        }
    }
    let status = machine.wait().map_err(|error| format!("the virtual machine is lost: {error}"))?;
    if !status.success() {
        return Err(format!("qemu-system-x86_64 ended with {status}"));
    }
    Ok(outcome)
}

fn lines(machine: &mut Child) -> Result<Receiver<String>, String> {
    let output = machine.stdout.take().ok_or("the machine's output is not ours")?;
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    Ok(lines)
}

impl Outcome {
    fn read(&mut self, line: &str) {
        // The console may have something in front of it.
        if let Some((_, said)) = line.split_once(MARK) {
            if let Some(release) = said.strip_prefix("release ") {
                release.clone_into(&mut self.release);
            }
            self.ok |= said == "ended with 0 0 0";
        } else if let Some((_, result)) = line.split_once("test result: ") {
            let result = result.split("; 0 ignored").next().unwrap_or_default();
            let joint = PARTS.get(self.parts).unwrap_or(&", ");
            self.parts += 1;
            self.tests = format!("{}{joint}{result}", self.tests);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_last_line_says_how_it_went() {
        let mut outcome = Outcome::default();
        outcome.read("\u{1b}cturnpike-guest: release 6.1.0-56-cloud-amd64");
        outcome.read("test result: ok. 11 passed; 0 failed; 0 ignored; 0 measured; 1 filtered out");
        outcome.read("test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured; 31 filtered out");
        outcome.read("test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 11 filtered out");
        assert!(!outcome.ok, "it may still crash");
        outcome.read("turnpike-guest: ended with 0 0 0");
        assert!(outcome.ok);
        assert_eq!(outcome.release, "6.1.0-56-cloud-amd64");
        let tests = "frames: ok. 11 passed; 0 failed, VLANs and bonds: ok. 7 passed; 0 failed, on virtio_net: \
                     ok. 1 passed; 0 failed";
        assert_eq!(outcome.tests, tests);
        let mut failed = Outcome::default();
        failed.read("turnpike-guest: ended with 0 101 0");
        assert!(!failed.ok);
    }
}
