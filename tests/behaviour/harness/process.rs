//! What the operating system says of a process, and the ports and limits that the tests themselves need.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Resource, getrlimit, setrlimit};
use socket2::SockRef;

/// The first port of the tests; the last is below the ephemeral range, so that no outgoing connection takes one.
const PORT_FIRST: u32 = 20_000;
const PORT_COUNT: u32 = 12_000;

/// Held while a program is started, and while ports are probed: until it runs, a new process holds a copy of every socket.
static STARTING: Mutex<()> = Mutex::new(());

/// Starts a program, which runs when this returns.
pub fn started(command: &mut Command) -> Child {
    try_started(command).unwrap()
}

/// The same, or why it cannot be started.
pub fn try_started(command: &mut Command) -> std::io::Result<Child> {
    let _starting = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    command.spawn()
}

/// A port that nobody has bound, for TCP and UDP and in both families; no two calls of a process get the same one.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let offset = std::process::id().wrapping_mul(977);
    let _probing = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..PORT_COUNT {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = PORT_FIRST + offset.wrapping_add(turn) % PORT_COUNT;
        let port = u16::try_from(port).unwrap();
        // An IPv6 socket takes the port in both families, where the host has both.
        let tcp = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|_| ipv4_only(TcpListener::bind, port));
        let udp = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|_| ipv4_only(UdpSocket::bind, port));
        if tcp.is_ok() && udp.is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}

/// Binds in the one family that a host without IPv6 has.
fn ipv4_only<T>(bind: impl Fn((Ipv4Addr, u16)) -> std::io::Result<T>, port: u16) -> std::io::Result<T> {
    if Path::new("/proc/net/if_inet6").exists() {
        return Err(std::io::ErrorKind::AddrInUse.into());
    }
    bind((Ipv4Addr::UNSPECIFIED, port))
}

/// Bounds every wait on a socket, also for whoever connects to it.
pub fn bounded<S: AsFd>(socket: S) -> S {
    SockRef::from(&socket).set_read_timeout(Some(super::PATIENCE)).unwrap();
    SockRef::from(&socket).set_write_timeout(Some(super::PATIENCE)).unwrap();
    socket
}

/// Whether the tests run as root, which some scenarios need to become someone else.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Raises the descriptor limit of the tests as far as it goes, and says how far that is.
pub fn raise_descriptor_limit() -> u64 {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    limit.current.unwrap_or(u64::MAX)
}

/// What each open descriptor of a process leads to, sorted.
pub fn fds(pid: u32) -> Vec<String> {
    let mut targets: Vec<String> = std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .flatten()
        .filter_map(|entry| std::fs::read_link(entry.path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .collect();
    targets.sort();
    targets
}

/// Resident memory of a process.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Time that all threads of a process have spent on a CPU.
pub fn cpu_time(pid: u32) -> Duration {
    let nanos = std::fs::read_dir(format!("/proc/{pid}/task"))
        .unwrap()
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .map(|stat| stat.split_whitespace().next().unwrap().parse::<u64>().unwrap())
        .sum();
    Duration::from_nanos(nanos)
}

/// Takes away every variable that the daemon reads; secrets and settings are looked for where there are none.
pub fn clear_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"DISPATCH_")) {
        command.env_remove(name);
    }
    for name in [
        "SG_SERVER_HOST",
        "SG_SERVER_PORT",
        "SG_PROCESS_COUNT",
        "SG_ENV",
        "LOG_LEVEL",
        "RUST_LOG",
        "PLACE_SERVER_SECRET",
        "SERVER_SECRET",
        "PLACE_SERVER_SECRET_NEXT",
        "SERVER_SECRET_NEXT",
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "WATCHDOG_PID",
        "LISTEN_FDS",
        "LISTEN_PID",
        "LISTEN_FDNAMES",
    ] {
        command.env_remove(name);
    }
    command.env("SECRETS_PATH", "/nonexistent").env("CONFIGURATION_DIRECTORY", "/nonexistent");
}

/// The binary where every user may run it, wherever the build stands; gone with the value.
pub struct PublicBinary(PathBuf);

impl PublicBinary {
    pub fn new() -> Self {
        use std::os::unix::fs::PermissionsExt;
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("dispatch-{}-{count}", std::process::id()));
        std::fs::copy(env!("CARGO_BIN_EXE_dispatch"), &path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for PublicBinary {
    fn drop(&mut self) {
        // A test that fails has more to say than that this does.
        let _ = std::fs::remove_file(&self.0);
    }
}
