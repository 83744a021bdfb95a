// The systemd unit: systemd understands it, and it keeps the rights that it claims to do without.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";

import { PROGRAMS, temporaryFolder } from "../../admin/dashboard/tests/support.js";

const UNIT = new URL("../systemd/turnpike.service", import.meta.url);
const OPERATIONS = new URL("../../docs/operations.md", import.meta.url);

/** What a relay with io_uring, epoll, the kernel's data path and its administration was seen to call (strace). */
const SEEN = `accept4 access arch_prctl bind bpf brk clock_gettime clone3 close connect epoll_create1 epoll_ctl epoll_wait
  eventfd2 execve exit exit_group fchmod fcntl fsync ftruncate futex getdents64 geteuid getpid getrandom getsockname
  getsockopt gettid io_uring_enter io_uring_register io_uring_setup ioctl listen lseek madvise membarrier mmap mprotect
  mremap munmap newfstatat openat poll ppoll prctl pread64 prlimit64 pwrite64 read readlink recvfrom recvmmsg recvmsg
  restart_syscall rseq rt_sigaction rt_sigprocmask rt_sigreturn sched_getaffinity sendmmsg sendmsg sendto
  set_robust_list set_tid_address setsockopt shutdown sigaltstack socket socketpair statx uname unlink write
  writev`.split(/\s+/);

/** The unit as a file of its own, with the program that was just built: systemd wants to see it. */
function installed(t) {
  const file = join(temporaryFolder(t), "turnpike.service");
  writeFileSync(file, readFileSync(UNIT, "utf8").replaceAll("/usr/bin/turnpike", PROGRAMS.relay));
  return file;
}

const analyze = (...args) => execFileSync("systemd-analyze", args, { encoding: "utf8", stdio: "pipe" });

test("systemd understands the unit", (t) => {
  const said = execFileSync("sh", ["-c", 'systemd-analyze verify --man=no "$1" 2>&1', "sh", installed(t)], { encoding: "utf8" });
  assert.equal(said, "");
});

test("a misspelled setting would be noticed", (t) => {
  const file = installed(t);
  writeFileSync(file, readFileSync(file, "utf8").replace("NoNewPrivileges", "NoNewPrivilege"));
  const said = execFileSync("sh", ["-c", 'systemd-analyze verify --man=no "$1" 2>&1; true', "sh", file], { encoding: "utf8" });
  assert.match(said, /NoNewPrivilege/);
});

test("the unit is exposed as little as the documentation says", (t) => {
  const said = analyze("security", "--offline=true", "--no-pager", "--threshold=25", installed(t));
  const [, exposure] = said.match(/Overall exposure level for turnpike.service: ([\d.]+)/);
  assert.ok(Number(exposure) <= 2.5, said);
  const [, documented] = readFileSync(OPERATIONS, "utf8").match(/exposure level of (\d\.\d)/);
  assert.equal(exposure, documented);
});

test("the filter of system calls lets io_uring, bpf and membarrier through, and nothing that mounts or debugs", () => {
  const filter = readFileSync(UNIT, "utf8").split("\n").filter((line) => line.startsWith("SystemCallFilter="));
  const names = (set) => analyze("syscall-filter", set).split("\n").slice(1).map((line) => line.trim()).filter((line) => line && !line.startsWith("#"));
  const expand = (name) => (name.startsWith("@") ? names(name).flatMap(expand) : [name]);
  const allowed = new Set();
  for (const line of filter) {
    const value = line.slice("SystemCallFilter=".length);
    const denies = value.startsWith("~");
    for (const name of value.replace("~", "").split(/\s+/).flatMap(expand)) denies ? allowed.delete(name) : allowed.add(name);
  }
  for (const name of SEEN) assert.ok(allowed.has(name), name);
  for (const name of ["mount", "ptrace", "init_module", "kexec_load", "setuid", "keyctl", "reboot", "chroot"]) {
    assert.ok(!allowed.has(name), name);
  }
});
