//! Proves that a signal to stop ends the daemon whatever it is busy with: a log that nobody reads, or a start.

use std::io::PipeReader;
use std::os::unix::net::UnixListener;

use rustix::process::Signal;

use crate::harness::{BASES, Daemon, Metrics, Place, Setup, Taker, eventually};
use crate::stopping::HeldUp;

scenarios! {
    a_daemon_whose_log_nobody_reads_ends_in_time,
    a_second_signal_ends_a_daemon_whose_log_nobody_reads,
    a_signal_while_another_daemon_is_asked_ends_the_start,
}

/// Requests of one go, a line of the log each.
const BATCH: usize = 100;

/// A daemon whose log has no room for another line: the pipe is full, which nobody reads, and so is what waits for it.
fn with_full_log(setup: Setup) -> (Daemon, PipeReader) {
    let (unread, pipe) = std::io::pipe().unwrap();
    let to_pipe = ["sh", "-c", r#"exec "$@" >&0"#, "sh"];
    let daemon = setup.under(&to_pipe).stdin(pipe.into()).variable("LOG_LEVEL", "trace").start();
    let mut connection = daemon.connection();
    let requests = format!("GET {}/healthz HTTP/1.1\r\nHost: test\r\n\r\n", BASES[0]).repeat(BATCH);
    eventually("the log is full", || {
        connection.send(&requests);
        (0..BATCH).for_each(|_| assert_eq!(connection.response().status, 200));
        let metrics = Metrics::parse(daemon.fetch("/metrics").text());
        (metrics.series["dispatch_log_lines_dropped_total"] > 0.0).then_some(())
    });
    (daemon, unread)
}

fn a_daemon_whose_log_nobody_reads_ends_in_time(shards: usize) {
    let (mut daemon, _unread) = with_full_log(Setup::new(shards));
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exits().code(), Some(0));
}

fn a_second_signal_ends_a_daemon_whose_log_nobody_reads(shards: usize) {
    let (mut daemon, _unread) = with_full_log(HeldUp::setup(shards));
    let _held_up = HeldUp::by(&daemon);
    daemon.signal(Signal::TERM);
    eventually("it drains", || std::net::TcpStream::connect(daemon.api()).err());
    assert!(daemon.is_running(), "nothing held the drain up");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exits().code(), Some(130));
}

/// The test is the other daemon.
fn a_signal_while_another_daemon_is_asked_ends_the_start(shards: usize) {
    let place = Place::new();
    let meeting = UnixListener::bind(place.path()).unwrap();
    let mut daemon = place.of(Setup::new(shards)).variable("DISPATCH_TAKEOVER", "on").spawn();
    let mut old = Taker::over(meeting.accept().unwrap().0);
    assert_eq!(old.hear(), "{\"say\":\"hello\",\"version\":2}\n");
    // It has the same wait to go on with.
    daemon.signal(Signal::HUP);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exits().code(), Some(0));
}
