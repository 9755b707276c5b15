//! Two machines of one test, each a network namespace that goes with its last user, and the link between them.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;
use std::time::Duration;

use crate::harness::{
    Connection, Daemon, Device, Driver, PATIENCE, Setup, Transport, UPGRADE, Wire, is_root, join_target, say_skipped,
};
use crate::relay::{Damage, Relay, Weather};

/// The addresses of the daemon's machine and of the other.
pub const HERE: &str = "10.99.0.1";
pub const THERE: &str = "10.99.0.2";

/// A machine here, where the daemon runs, and one there.
pub struct Network {
    here: File,
    there: File,
    relay: Relay,
}

impl Network {
    /// Both machines and a good link, or a word on why they cannot be had.
    pub fn new() -> Option<Self> {
        if !is_root() {
            say_skipped("only root can make network namespaces");
            return None;
        }
        match (machine(HERE, THERE), machine(THERE, HERE)) {
            (Ok((here, near)), Ok((there, far))) => Some(Self { here, there, relay: Relay::new(near, far) }),
            (Err(reason), _) | (_, Err(reason)) => {
                say_skipped(&format!("no network namespace with a TUN device: {reason}"));
                None
            }
        }
    }

    /// Changes what the link does.
    pub fn set(&self, weather: Weather) {
        self.relay.set(weather);
    }

    /// The other machine is gone: no packet passes any more.
    pub fn cut(&self) {
        self.set(Weather { cut: true, ..Weather::default() });
    }

    pub fn damage(&self) -> &Damage {
        self.relay.damage()
    }

    /// Runs a scenario against a daemon on its machine, which proves that nothing is left behind. The thread is there,
    /// too, and reaches the daemon by the loopback.
    pub fn run(&self, setup: Setup, scenario: impl FnOnce(&Daemon) + Send) {
        // All addresses, as the other machine is to reach the API; the variable of the scenario goes before the harness's.
        let setup = setup.told_by_environment().variable("SG_SERVER_HOST", "0.0.0.0");
        inside(&self.here, || setup.run(scenario));
    }

    /// Runs this on the other machine; a socket stays there, whoever uses it.
    pub fn there<T: Send>(&self, run: impl FnOnce() -> T + Send) -> T {
        inside(&self.there, run)
    }

    /// A device of the other machine.
    pub fn device(&self, port: u16) -> Device {
        Device::over(self.connect(port)).unwrap()
    }

    /// A driver on the other machine.
    pub fn driver(&self, daemon: &Daemon, transport: Transport, port: u16, accept: &str) -> Driver {
        let (stream, pending) = self.upgraded(daemon, transport, port, accept);
        Driver::new(stream, pending)
    }

    /// A driver on the other machine that does nothing by itself.
    pub fn wire(&self, daemon: &Daemon, transport: Transport, port: u16, accept: &str) -> Wire {
        let (stream, pending) = self.upgraded(daemon, transport, port, accept);
        Wire::new(stream, pending)
    }

    fn upgraded(&self, daemon: &Daemon, transport: Transport, port: u16, accept: &str) -> (TcpStream, Vec<u8>) {
        let mut connection = Connection::over(self.connect(daemon.api().port()));
        let target = join_target("/api/server", transport, &port.to_string(), accept);
        let response = connection.request("GET", &target, &format!("Authorization: Bearer testing\r\n{UPGRADE}"));
        assert_eq!(response.status, 101, "{response:?}");
        connection.into_parts()
    }

    fn connect(&self, port: u16) -> TcpStream {
        let address: SocketAddr = format!("{HERE}:{port}").parse().unwrap();
        self.there(|| TcpStream::connect_timeout(&address, PATIENCE).unwrap())
    }
}

/// A new namespace with an address, and its end of a link to another address.
fn machine(own: &str, other: &str) -> Result<(File, File), String> {
    let (own, other) = (own.to_owned(), other.to_owned());
    let made = std::thread::spawn(move || {
        // SAFETY: it changes the network namespace of this thread alone, which ends with this closure.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            return Err(format!("unshare: {}", std::io::Error::last_os_error()));
        }
        let link = tun()?;
        ip(&["link", "set", "lo", "up"])?;
        ip(&["addr", "add", &own, "peer", &other, "dev", "wire"])?;
        ip(&["link", "set", "wire", "up"])?;
        let namespace = File::open("/proc/thread-self/ns/net").map_err(|error| error.to_string())?;
        Ok((namespace, link))
    });
    made.join().unwrap()
}

/// A TUN device named `wire` in the namespace of this thread.
fn tun() -> Result<File, String> {
    let fault = |error: std::io::Error| format!("/dev/net/tun: {error}");
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun").map_err(fault)?;
    // SAFETY: zero is a value of every member.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, byte) in request.ifr_name.iter_mut().zip(*b"wire") {
        *to = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which outlives the call.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) } != 0 {
        return Err(fault(std::io::Error::last_os_error()));
    }
    Ok(file)
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(arguments).output().map_err(|error| format!("ip: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)))
}

/// Runs this on a thread of its own in a namespace.
fn inside<T: Send>(namespace: &File, run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let entered = scope.spawn(|| {
            // SAFETY: it changes the network namespace of this thread alone, which ends with this closure.
            let result = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
            assert_eq!(result, 0, "setns: {}", std::io::Error::last_os_error());
            run()
        });
        entered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Fails unless this takes between these times; says what it gave.
pub fn within<T>(what: &str, least: Duration, most: Duration, run: impl FnOnce() -> T) -> T {
    let start = std::time::Instant::now();
    let result = run();
    let took = start.elapsed();
    assert!((least..=most).contains(&took), "{what}: {took:?}, not {least:?} to {most:?}");
    result
}
