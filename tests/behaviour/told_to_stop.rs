//! Proves that a signal to stop ends the daemon whatever it is busy with: a log that nobody reads, or a start.

use std::os::unix::net::UnixListener;

use rustix::process::Signal;

use crate::harness::{Place, Setup, Taker, eventually};
use crate::logs::with_full_log;
use crate::stopping::HeldUp;

scenarios! {
    a_second_signal_ends_a_daemon_whose_log_nobody_reads,
    a_signal_while_another_daemon_is_asked_ends_the_start,
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
