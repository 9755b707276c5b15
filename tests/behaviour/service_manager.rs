//! Proves what a service manager relies on: it is told when the daemon is ready and when it stops, the watchdog is fed, and
//! sockets that it hands over are served.

use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::harness::{
    BASES, Connection, Daemon, Device, Manager, Setup, Transport, UPGRADE, eventually, free_port, join_target,
};

scenarios! {
    a_manager_is_told_that_the_daemon_is_ready_and_that_it_stops,
    the_watchdog_is_fed_from_the_start_and_while_the_daemon_serves,
    a_manager_that_takes_no_notice_does_not_hold_the_daemon_up,
    readiness_needs_no_token_and_is_200_while_the_daemon_serves,
    a_listener_that_is_handed_over_is_served_and_outlives_the_daemon,
    a_driver_that_came_before_the_daemon_has_bounded_buffers_as_any_other,
    every_listener_that_is_handed_over_is_served,
    a_restart_serves_where_the_settings_say_and_not_where_the_store_listens,
    what_is_handed_over_and_is_no_listener_is_one_line_and_a_failure,
    what_is_handed_over_to_another_process_is_left_alone,
}

/// Starts the daemon with its standard input as the one socket that is handed over.
const HANDING: [&str; 4] =
    ["sh", "-c", "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=api exec \"$@\"", "sh"];
/// Starts the daemon with listeners on a port of 127.0.0.1 and 127.0.0.2, of which the second is handed over twice.
const HANDING_THREE: &str = "\
import os, socket, sys
port = int(sys.argv[1])
one, two = (socket.create_server((host, port)) for host in ('127.0.0.1', '127.0.0.2'))
for at, listener in enumerate([os.dup(one.fileno()), os.dup(two.fileno()), os.dup(two.fileno())]):
    os.dup2(listener, 13 + at)
for at in range(3):
    os.dup2(13 + at, 3 + at)
    os.set_inheritable(3 + at, True)
    os.close(13 + at)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='3')
os.execv(sys.argv[2], sys.argv[2:])
";

fn a_manager_is_told_that_the_daemon_is_ready_and_that_it_stops(shards: usize) {
    let manager = Manager::new();
    let mut daemon = manager.watch(Setup::new(shards)).start();
    let ready = manager.until("READY=1");
    let status = format!("STATUS={shards} shards serve at {}", daemon.api());
    assert!(ready.contains(&status), "{ready:?}");
    daemon.signal(Signal::TERM);
    manager.until("STOPPING=1");
    assert_eq!(daemon.exits().code(), Some(0));
    manager.take_notices();
    assert_eq!(manager.stored(), vec!["stored-api"; shards], "what the next daemon may need, and nothing else");
}

fn the_watchdog_is_fed_from_the_start_and_while_the_daemon_serves(shards: usize) {
    let manager = Manager::new();
    let daemon = manager.watch(Setup::new(shards).variable("WATCHDOG_USEC", "2000000")).start();
    assert!(manager.notice_within(Duration::from_secs(10)).unwrap().starts_with("READY=1\n"));
    for _ in 0..3 {
        assert_eq!(manager.notice_within(Duration::from_secs(10)).as_deref(), Some("WATCHDOG=1\n"));
    }
    daemon.assert_drains();
}

fn a_manager_that_takes_no_notice_does_not_hold_the_daemon_up(shards: usize) {
    let manager = Manager::new();
    let mut daemon = manager.watch(Setup::new(shards).variable("WATCHDOG_USEC", "100000")).start();
    // The watchdog is fed at every beat of the shards, and a socket holds some ten notices.
    std::thread::sleep(Duration::from_secs(4));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exits().code(), Some(0));
}

fn readiness_needs_no_token_and_is_200_while_the_daemon_serves(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for base in BASES {
            let mut connection = daemon.connection();
            for method in ["GET", "HEAD"] {
                let response = connection.request(method, &format!("{base}/readyz"), "");
                assert_eq!((response.status, response.body.len()), (200, 0), "{method}: {response:?}");
            }
        }
    });
}

fn handed(socket: OwnedFd, setup: Setup) -> Setup {
    setup.stdin(socket).under(&HANDING)
}

/// Asks for the version, on a connection that may be older than the daemon.
fn assert_served(mut connection: Connection) {
    assert_eq!(connection.request("GET", "/api/server/version", "").status, 200);
}

fn a_listener_that_is_handed_over_is_served_and_outlives_the_daemon(shards: usize) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let api = listener.local_addr().unwrap();
    for _ in 0..2 {
        let before: Vec<_> = (0..20).map(|_| Connection::open(api)).collect();
        let setup = handed(listener.try_clone().unwrap().into(), Setup::new(shards).api_port(api.port()));
        let daemon = setup.start();
        before.into_iter().for_each(assert_served);
        (0..50).map(|_| Connection::open(api)).for_each(assert_served);
        let own = daemon.refusal(Transport::Tcp, &api.port().to_string(), "127.0.0.1");
        assert_eq!((own.status, &*own.member("error")), (403, "the port is that of the daemon's own API"));
        daemon.assert_drains();
        // Its manager still listens, so a connection waits for the next daemon.
        drop(TcpStream::connect(api).unwrap());
    }
}

fn a_driver_that_came_before_the_daemon_has_bounded_buffers_as_any_other(shards: usize) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let api = listener.local_addr().unwrap();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.connect(&api.into()).unwrap();
    let setup = Setup::new(shards).api_port(api.port()).limit("socket-bytes", 4_096);
    let daemon = handed(listener.into(), setup).start();
    let port = free_port();
    let target = join_target(BASES[1], Transport::Tcp, &port.to_string(), "127.0.0.1");
    let mut early = Connection::over(socket.into());
    early.send(format!("GET {target}&bearer_token=testing HTTP/1.1\r\nHost: test\r\n{UPGRADE}\r\n"));
    assert_eq!(early.head_only().status, 101);
    let mut device = Device::connect("127.0.0.1", port);
    device.send_until_blocked(1, 64 << 20, Duration::from_millis(700));
    let rows = daemon.fetch(&format!("{}/drivers", BASES[1])).json();
    let taken = rows["items"][0]["bytes_written"].as_u64().unwrap();
    // By itself the kernel would take several MiB.
    assert!(0 < taken && taken < 256 << 10, "the kernel has taken {taken} bytes");
    drop((device, early));
    daemon.assert_drains();
}

fn every_listener_that_is_handed_over_is_served(shards: usize) {
    let port = free_port();
    let setup = Setup::new(shards).api_port(port).under(&["python3", "-c", HANDING_THREE, &port.to_string()]);
    let daemon = setup.start();
    for _ in 0..20 {
        for host in ["127.0.0.1", "127.0.0.2"] {
            assert_served(Connection::open((host.parse::<Ipv4Addr>().unwrap(), port).into()));
        }
    }
    daemon.assert_drains();
}

fn a_restart_serves_where_the_settings_say_and_not_where_the_store_listens(shards: usize) {
    let (mut manager, before, after) = (Manager::new(), free_port(), free_port());
    let mut daemon = manager.watch(Setup::new(shards).api_port(before)).start();
    manager.until("READY=1");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exits().code(), Some(0));
    manager.take_notices();
    let daemon = manager.hand_stored(Setup::new(shards).api_port(after)).start();
    manager.until("READY=1");
    assert_eq!(daemon.api().port(), after);
    assert_served(Connection::open(daemon.api()));
    assert!(manager.stored().is_empty(), "it still listens at {before}");
    eventually("nobody listens there any more", || TcpStream::connect(("127.0.0.1", before)).err());
    daemon.assert_drains();
}

/// What a daemon says that does not start.
fn refusal_of(mut daemon: Daemon) -> String {
    assert_eq!(daemon.exits().code(), Some(1));
    eventually("the reason", || {
        let said = daemon.log();
        let mut reasons = said.lines().filter(|line| line.starts_with("dispatch: "));
        let reason = reasons.next()?;
        assert_eq!(reasons.next(), None, "{said}");
        Some(reason.to_owned())
    })
}

fn what_is_handed_over_and_is_no_listener_is_one_line_and_a_failure(shards: usize) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let file = std::fs::File::open("/dev/null").unwrap();
    for socket in [OwnedFd::from(connected), datagrams.into(), file.into()] {
        let said = refusal_of(handed(socket, Setup::new(shards).secret("own")).spawn());
        let expected = "the service manager hands over \"api\", which is no listening TCP socket";
        assert!(said.contains(expected), "{said}");
    }
    // One descriptor was promised and is not there, or the variables make no sense.
    for (number, count) in [("3<&-", "1"), ("3<&0", "some"), ("3<&0", "4000000000")] {
        let script = format!("exec {number} </dev/null; LISTEN_PID=$$ LISTEN_FDS={count} exec \"$@\"");
        let said = refusal_of(Setup::new(shards).secret("own").under(&["sh", "-c", &script, "sh"]).spawn());
        assert!(said.contains("what the service manager hands over cannot be taken"), "{said}");
    }
}

fn what_is_handed_over_to_another_process_is_left_alone(shards: usize) {
    Setup::new(shards).variable("LISTEN_PID", "1").variable("LISTEN_FDS", "1").run(|daemon| {
        assert_served(daemon.connection());
    });
}
