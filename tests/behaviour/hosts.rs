//! Proves how the daemon is on hosts that lack something: it starts and serves with what there is, or says in one line what
//! is missing.

use std::process::Command;

use serde_json::json;

use crate::harness::{Addr, Daemon, Datagrams, Device, Driver, Run, Setup, Transport, free_port, is_root, say_skipped};

scenarios! {
    io_uring_that_is_refused_is_one_line,
    a_kernel_without_io_uring_is_one_line,
    a_kernel_that_is_too_old_is_one_line,
    too_little_locked_memory_is_one_line,
    a_host_without_ipv6_serves_ipv4,
    ipv6_alone_is_503_on_a_host_without_it_and_leaves_nothing,
}

/// Starts a program without what its first argument names, and ends with 77 where this machine does not let it.
const LACKING: &str = "\
import ctypes, errno, os, platform, struct, sys

libc = ctypes.CDLL(None, use_errno=True)
IO_URING_SETUP = 425
SOCKET = {'x86_64': 41}.get(platform.machine(), 198)
AF_INET6 = 10
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, FILTER = 22, 38, 2
UNAME26 = 0x0020000

def refuse(error, call, *first):
    # Of the kernel's description of a call, its number stands at 0 and its first argument at 16.
    wanted = list(zip((0, 16), (call, *first)))
    program = b''
    for at, (offset, value) in enumerate(wanted):
        program += struct.pack('HBBI', 0x20, 0, 0, offset)
        program += struct.pack('HBBI', 0x15, 0, 2 * (len(wanted) - at) - 1, value)
    program += struct.pack('HBBI', 6, 0, 0, 0x00050000 | error) + struct.pack('HBBI', 6, 0, 0, 0x7fff0000)
    code = ctypes.create_string_buffer(program)
    head = struct.pack('HxxxxxxP', len(program) // 8, ctypes.addressof(code))
    return libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, FILTER, head, 0, 0)

lacks = {
    'leave for io_uring': lambda: refuse(errno.EPERM, IO_URING_SETUP),
    'io_uring': lambda: refuse(errno.ENOSYS, IO_URING_SETUP),
    'ipv6': lambda: refuse(errno.EAFNOSUPPORT, SOCKET, AF_INET6),
    'a new kernel': lambda: libc.personality(UNAME26) < 0,
}
if lacks[sys.argv[1]]():
    sys.exit(77)
os.execvp(sys.argv[2], sys.argv[2:])
";

/// What starts a program on a host that lacks this; nothing, and that is said, where this machine cannot be like one.
fn lacking(what: &'static str) -> Option<[&'static str; 4]> {
    let wrapper = ["python3", "-c", LACKING, what];
    // The shell ends with 126 or 127 where there is no Python.
    let mut trial = Command::new("sh");
    trial.args(["-c", "exec \"$@\"", "sh"]).args(wrapper).arg("true");
    match Run::of(&mut trial).unwrap().status.code() {
        Some(0) => Some(wrapper),
        Some(77 | 126 | 127) => {
            say_skipped(&format!("no program can be started here without {what}"));
            None
        }
        code => panic!("a program without {what} ended with {code:?}"),
    }
}

/// The one line that a daemon says which does not start; it ends with 1.
fn refused(setup: impl FnOnce(&str) -> Setup) -> String {
    let file = std::env::temp_dir().join(format!("dispatch-refused-{}-{}", std::process::id(), free_port()));
    let to_file = format!("exec \"$0\" \"$@\" 2>\"{}\"", file.display());
    let mut daemon = setup(&to_file).spawn();
    let status = daemon.exits();
    let said = std::fs::read_to_string(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.lines().count() == 1 && said.ends_with('\n'), "{said}");
    said
}

fn assert_refused(shards: usize, host: &[&str], causes: &[&str]) {
    let said = refused(|to_file| Setup::new(shards).under(&["sh", "-c", to_file]).under(host));
    for cause in causes {
        assert!(said.contains(cause), "{said:?} says nothing of {cause:?}");
    }
}

const CAUSES: [&str; 3] =
    ["kernel.io_uring_disabled", "seccomp", "io_uring_setup, io_uring_enter and io_uring_register"];

fn io_uring_that_is_refused_is_one_line(shards: usize) {
    let Some(host) = lacking("leave for io_uring") else { return };
    assert_refused(shards, &host, &[&["io_uring is refused", "not permitted"], &CAUSES[..]].concat());
}

fn a_kernel_without_io_uring_is_one_line(shards: usize) {
    let Some(host) = lacking("io_uring") else { return };
    assert_refused(shards, &host, &[&["io_uring is refused", "not implemented"], &CAUSES[..]].concat());
}

fn a_kernel_that_is_too_old_is_one_line(shards: usize) {
    let Some(host) = lacking("a new kernel") else { return };
    assert_refused(shards, &host, &["Linux 6.0 or newer is needed", "this is 2.6."]);
}

fn too_little_locked_memory_is_one_line(shards: usize) {
    let limited = ["sh", "-c", "ulimit -l 64; exec \"$0\" \"$@\""];
    let said = refused(|to_file| {
        let setup = Setup::new(shards).under(&["sh", "-c", to_file]).under(&limited);
        // What root locks is not counted.
        if is_root() { setup.with_no_privilege() } else { setup }
    });
    let need = format!("{shards} rings of 1024 entries need up to {} KiB", shards * 128);
    for cause in [&need, "the limit (ulimit -l) is 64 KiB", "--ring-entries", "--workers"] {
        assert!(said.contains(cause), "{said:?} says nothing of {cause:?}");
    }
}

/// Fails unless a device on IPv4 and its driver hear each other, for TCP and for datagrams.
fn assert_serves(port: u16, tcp: &mut Driver, udp: &mut Driver) {
    let mut device = Device::connect("127.0.0.1", port);
    let addr = tcp.opened();
    device.send(b"by TCP");
    tcp.received(&addr, b"by TCP");
    tcp.write(&addr, b"and back");
    device.expect(b"and back");
    drop(device);
    tcp.closed(&addr);
    let datagrams = Datagrams::bind("127.0.0.1");
    let addr = Addr::new("127.0.0.1", datagrams.port());
    datagrams.send(port, b"by UDP");
    udp.datagram(&addr, b"by UDP");
    udp.write(&addr, b"and back");
    datagrams.expect(b"and back");
}

fn a_host_without_ipv6_serves_ipv4(shards: usize) {
    let Some(host) = lacking("ipv6") else { return };
    Setup::new(shards).under(&host).run(|daemon| {
        for accept in ["127.0.0.1,::1", "::/0,0.0.0.0/0", "127.0.0.1"] {
            let port = free_port();
            let (mut tcp, mut udp) = (daemon.join_tcp(port, accept), daemon.join_udp(port, accept));
            assert_serves(port, &mut tcp, &mut udp);
        }
    });
}

fn assert_no_family(daemon: &Daemon, transport: Transport, port: u16, accept: &str) {
    let response = daemon.refusal(transport, &port.to_string(), accept);
    let error = "the host has no socket of the address family that accept asks for";
    assert_eq!((response.status, response.member("error").as_str()), (503, error), "{transport:?} {accept}");
}

fn ipv6_alone_is_503_on_a_host_without_it_and_leaves_nothing(shards: usize) {
    let Some(host) = lacking("ipv6") else { return };
    Setup::new(shards).under(&host).run(|daemon| {
        let transports = [Transport::Tcp, Transport::Udp];
        for transport in transports {
            (0..5).for_each(|_| assert_no_family(daemon, transport, free_port(), "::1"));
            assert_no_family(daemon, transport, free_port(), "::/0,fe80::1");
        }
        assert_eq!((daemon.held("sessions"), daemon.held("ports")), (0, 0));
        // On a port that is open it harms nobody.
        let port = free_port();
        let (mut tcp, mut udp) = (daemon.join_tcp(port, "127.0.0.1"), daemon.join_udp(port, "127.0.0.1"));
        transports.into_iter().for_each(|transport| assert_no_family(daemon, transport, port, "::1"));
        assert_serves(port, &mut tcp, &mut udp);
        let key = port.to_string();
        let one = json!({"udp_listeners": {&key: 1}, "tcp_listeners": {&key: 1}, "tcp_clients": {&key: 0}});
        daemon.until_statistics(&one);
    });
}
