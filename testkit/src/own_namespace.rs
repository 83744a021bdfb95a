//! A network namespace for one test's thread: nothing to name, nothing to remove.
#![allow(unsafe_code)]

use std::process::Command;
use std::{io, thread};

use crate::skip;

/// Runs a test in a network namespace of its own, whose loopback has an Ethernet's MTU; it goes with the thread.
/// Without the privilege to make one the test is skipped.
pub fn in_own_namespace(test: impl FnOnce() + Send + 'static) {
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let body = move || {
        // SAFETY: no pointers; it concerns the calling thread alone.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return skip(&name, &format!("there is no network namespace: {}", io::Error::last_os_error()));
        }
        let up = Command::new("ip").args(["link", "set", "lo", "up", "mtu", "1500"]).status();
        assert!(up.expect("iproute2 is installed").success(), "ip link set lo up");
        test();
    };
    if let Err(panic) = thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}
