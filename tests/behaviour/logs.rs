//! Proves what the log says of a session, and that whoever does not read it holds nobody up.

use std::io::PipeReader;

use serde_json::{Value, json};

use crate::harness::{
    BASES, Connection, Daemon, Datagrams, Device, Driver, Metrics, Setup, Transport, UPGRADE, eventually, free_port,
    join_target,
};

scenarios! {
    a_log_that_nobody_reads_holds_nobody_up,
    a_daemon_whose_log_nobody_reads_ends,
    a_daemon_whose_log_nobody_reads_ends_though_lines_find_no_room,
    the_lines_of_a_session_have_the_fields_of_its_join,
}

/// Lines that may wait for the output, and more than the pipe holds beside them.
const LINES_MAX: u64 = 10_000;

/// A daemon that logs all that it can to a pipe, and the end of the pipe that nobody reads.
fn unread(setup: Setup) -> (Daemon, PipeReader) {
    let (reader, writer) = std::io::pipe().unwrap();
    // The pipe comes in as standard input, and is both of the outputs.
    let to_pipe = ["sh", "-c", "exec \"$0\" \"$@\" >&0 2>&0 </dev/null"];
    (setup.stdin(writer.into()).under(&to_pipe).variable("LOG_LEVEL", "trace").start(), reader)
}

/// The same, whose log has no room for another line: the pipe is full, and so is what waits for it.
pub fn with_full_log(setup: Setup) -> (Daemon, PipeReader) {
    let (daemon, reader) = unread(setup);
    log_lines(&daemon, LINES_MAX);
    assert!(lines_dropped(&daemon) > 0.0);
    (daemon, reader)
}

/// Has the daemon log at least so many lines: each of these datagrams is one.
fn log_lines(daemon: &Daemon, count: u64) {
    let port = free_port();
    let driver = daemon.join_udp(port, "127.0.0.1");
    let stranger = Datagrams::bind("127.0.0.2");
    eventually("so many lines are logged", || {
        (0..200).for_each(|_| stranger.send(port, b"refused"));
        (daemon.count("datagrams_ignored_source") >= count).then_some(())
    });
    driver.leave();
}

/// Lines that found no room among those that wait for the output.
fn lines_dropped(daemon: &Daemon) -> f64 {
    Metrics::parse(daemon.fetch("/metrics").text()).value("dispatch_log_lines_dropped_total")
}

fn a_log_that_nobody_reads_holds_nobody_up(shards: usize) {
    let (daemon, reader) = unread(Setup::new(shards));
    let port = free_port();
    let mut driver = daemon.join_tcp(port, "127.0.0.1");
    let mut device = Device::connect("127.0.0.1", port);
    let addr = driver.opened();
    log_lines(&daemon, LINES_MAX);
    assert!(lines_dropped(&daemon) > 0.0);
    for _ in 0..100 {
        device.send(b"question");
        driver.received(&addr, b"question");
        driver.write(&addr, b"answer");
        device.expect(b"answer");
        assert_eq!(daemon.fetch(&format!("{}/healthz", BASES[0])).status, 200);
    }
    // Whoever comes and goes is a line, too.
    for _ in 0..20 {
        let another = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        drop(another);
        driver.closed(&addr);
        daemon.join_udp(port, "127.0.0.3").leave();
    }
    driver.leave();
    daemon.assert_baseline();
    drop(reader);
    daemon.assert_drains();
}

fn a_daemon_whose_log_nobody_reads_ends(shards: usize) {
    let (daemon, reader) = unread(Setup::new(shards));
    // More than the pipe holds.
    log_lines(&daemon, LINES_MAX / 5);
    assert_eq!(lines_dropped(&daemon), 0.0);
    daemon.assert_drains();
    drop(reader);
}

fn a_daemon_whose_log_nobody_reads_ends_though_lines_find_no_room(shards: usize) {
    let (daemon, reader) = with_full_log(Setup::new(shards));
    daemon.assert_drains();
    drop(reader);
}

fn the_lines_of_a_session_have_the_fields_of_its_join(shards: usize) {
    Setup::new(shards).secret("own").variable("SG_ENV", "production").run(|daemon| {
        for (transport, name, module) in [(Transport::Tcp, "tcp", "mod-4711"), (Transport::Udp, "udp", "mod-4712")] {
            let port = free_port();
            let target = join_target(BASES[0], transport, &port.to_string(), "127.0.0.1, ::1,10.1.2.3/8");
            let mut connection = Connection::open_from("127.0.0.5", daemon.api());
            let headers = format!("Authorization: Bearer own\r\n{UPGRADE}X-Module-ID: {module}\r\n");
            let answer = connection.request("GET", &target, &headers);
            assert_eq!(answer.status, 101);
            let (stream, pending) = connection.into_parts();
            Driver::new(stream, pending).leave();
            let fields = json!({
                "name": "session",
                "server_protocol": name,
                "server_port": port,
                "remote_ip": "127.0.0.5",
                "accepted": "127.0.0.1,::1,10.0.0.0/8",
                "event_source": module,
                "request_id": answer.header("x-request-id").unwrap(),
            });
            for message in ["driver joined", "driver left"] {
                let line = eventually(message, || {
                    let log = daemon.log();
                    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
                    lines.into_iter().find(|line| line["message"] == message && line["span"]["event_source"] == module)
                });
                assert_eq!(line["span"], fields, "{line}");
            }
        }
    });
}
