//! Somebody else's XDP program on an interface, for as long as a test wants.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// Loads a program that passes everything, attaches it by a link, says its number, and waits for the end of its input:
/// the link goes with the process. `bpf(2)`: BPF_PROG_LOAD, BPF_LINK_CREATE, BPF_OBJ_GET_INFO_BY_FD.
const SCRIPT: &str = "
import ctypes, os, socket, struct, sys
device, name = sys.argv[1], sys.argv[2].encode()
libc = ctypes.CDLL(None, use_errno=True)
def bpf(command, attributes):
    text = ctypes.create_string_buffer(attributes, 128)
    result = libc.syscall({'x86_64': 321}.get(os.uname().machine, 280), command, text, len(text))
    if result < 0:
        sys.exit(f'bpf({command}): {os.strerror(ctypes.get_errno())}')
    return result
code = ctypes.create_string_buffer(struct.pack('<BBhi', 0xb7, 0, 0, 2) + struct.pack('<BBhi', 0x95, 0, 0, 0))
license = ctypes.create_string_buffer(b'GPL')
load = struct.pack('<IIQQIIQII', 6, 2, ctypes.addressof(code), ctypes.addressof(license), 0, 0, 0, 0, 0)
program = bpf(5, load + name.ljust(16, b'\\0'))
link = bpf(28, struct.pack('<IIII', program, socket.if_nametoindex(device), 37, 4))
info = ctypes.create_string_buffer(64)
bpf(15, struct.pack('<IIQ', program, len(info), ctypes.addressof(info)))
print(struct.unpack('<II', info[:8])[1], flush=True)
sys.stdin.read()
";

/// Somebody else's XDP program: it leaves the interface when this is dropped.
pub struct Occupied {
    process: Child,
    /// The kernel's number of the program.
    pub id: u32,
}

impl Occupied {
    /// Attaches a program of that name, natively. `python` is `python3`, in the namespace of the interface.
    pub fn new(mut python: Command, device: &str, name: &str) -> Occupied {
        python.args(["-c", SCRIPT, device, name]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = python.spawn().expect("python3 can be started");
        let mut line = String::new();
        let output = process.stdout.take().expect("it is a pipe");
        BufReader::new(output).read_line(&mut line).expect("it can be read");
        let id = line.trim().parse().unwrap_or_else(|_| panic!("no program on {device}: {line:?}"));
        Occupied { process, id }
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        // Its input ends: so does it, and the link with it.
        drop(self.process.stdin.take());
        // Whatever it says then is no matter of the test.
        let _ = self.process.wait();
    }
}
