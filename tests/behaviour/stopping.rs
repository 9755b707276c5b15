//! Proves that what comes while the daemon stops does not cut the stop short: a takeover, a signal that is the first one,
//! connections that say nothing, a manager that takes nothing.

use std::io::{IoSlice, Write};
use std::mem::MaybeUninit;
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::Signal;

use crate::harness::{
    Addr, Daemon, Device, Driver, Manager, Place, Setup, Taker, bounded, eventually, free_port, pattern,
};
use crate::takeover::goodbye;

scenarios! {
    a_daemon_that_is_stopping_is_not_taken_over,
    a_signal_to_a_daemon_that_was_taken_over_is_the_first,
    a_daemon_that_is_not_told_to_go_accepts_nothing,
    connections_that_say_nothing_do_not_use_up_a_stop,
    a_pause_waits_for_those_who_have_begun_to_speak_alone,
}

/// More than fits into the sockets to a device that does not read.
const HELD_BYTES: usize = 1_000_000;

/// A driver and its device, which holds a drain up until it reads.
pub struct HeldUp {
    pub driver: Driver,
    device: Device,
    pub addr: Addr,
}

impl HeldUp {
    pub fn setup(shards: usize) -> Setup {
        Setup::new(shards).limit("drain-ms-max", 60_000).limit("flush-ms-max", 60_000)
    }

    pub fn by(daemon: &Daemon) -> Self {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        driver.write(&addr, &pattern(1, 0, HELD_BYTES));
        daemon.until_count("device_bytes_written", 1);
        Self { driver, device, addr }
    }

    /// Reads, and sees everything end in good order.
    fn release(mut self) {
        self.device.expect(&pattern(1, 0, HELD_BYTES));
        self.device.ends();
        drop(self.device);
        self.driver.closed(&self.addr);
        goodbye(&mut self.driver);
    }
}

fn a_daemon_that_is_stopping_is_not_taken_over(shards: usize) {
    let place = Place::new();
    let mut daemon = place.of(HeldUp::setup(shards)).start();
    let held_up = HeldUp::by(&daemon);
    let mut taker = Taker::meet(&place);
    taker.ask();
    daemon.signal(Signal::TERM);
    daemon.until_logged("told to stop: draining");
    taker.say(r#"{"say":"ready"}"#);
    let line = taker.hear();
    assert!(line.contains("the daemon is stopping"), "{line}");
    held_up.release();
    assert_eq!(daemon.exits().code(), Some(0));
    assert!(daemon.log().contains("dispatch ends end=Drained"));
}

fn a_signal_to_a_daemon_that_was_taken_over_is_the_first(shards: usize) {
    for signals in [1, 2] {
        let place = Place::new();
        let mut daemon = place.of(HeldUp::setup(shards)).start();
        let held_up = HeldUp::by(&daemon);
        let mut taker = Taker::meet(&place);
        taker.ask();
        taker.have_it_pause();
        taker.take_over();
        daemon.until_logged("another daemon has taken over: draining");
        daemon.signal(Signal::TERM);
        daemon.until_logged("told to stop: draining already");
        if signals == 1 {
            held_up.release();
            assert_eq!(daemon.exits().code(), Some(0));
        } else {
            daemon.signal(Signal::TERM);
            assert_eq!(daemon.exits().code(), Some(130));
        }
    }
}

/// The test is the old daemon.
fn a_daemon_that_is_not_told_to_go_accepts_nothing(shards: usize) {
    let place = Place::new();
    let meeting = bounded(UnixListener::bind(place.path()).unwrap());
    let api = TcpListener::bind("127.0.0.1:0").unwrap();
    let _waiting = TcpStream::connect(api.local_addr().unwrap()).unwrap();
    let mut daemon = place.of(Setup::new(shards)).variable("DISPATCH_TAKEOVER", "on").spawn();
    let mut old = Taker::over(meeting.accept().unwrap().0);
    assert_eq!(old.hear(), "{\"say\":\"hello\",\"version\":2}\n");
    old.say(r#"{"say":"sockets","meetings":1,"api":1,"tls":0,"ports":0}"#);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let handed = [meeting.as_fd(), api.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&handed)));
    sendmsg(old.wire(), &[IoSlice::new(b".")], &mut control, SendFlags::empty()).unwrap();
    assert_eq!(old.hear(), "{\"say\":\"ready\"}\n");
    old.say(r#"{"say":"sockets","meetings":0,"api":0,"tls":0,"ports":0}"#);
    assert_eq!(old.hear(), "{\"say\":\"taken\"}\n");
    drop(old);
    assert_eq!(daemon.exits().code(), Some(1));
    eventually("it says why", || daemon.log().contains("the other daemon has gone").then_some(()));
    api.set_nonblocking(true).unwrap();
    api.accept().expect("the connection waits for the old daemon");
}

fn connections_that_say_nothing_do_not_use_up_a_stop(shards: usize) {
    // A machine that is busy elsewhere may take the time that is left.
    assert!((0..5).any(|_| stops_in_time_beside_silent_connections(shards)), "the time did not suffice");
}

fn stops_in_time_beside_silent_connections(shards: usize) -> bool {
    let manager = Manager::new();
    let mut daemon = manager.watch(Setup::new(shards).limit("drain-ms-max", 3_000)).start();
    manager.until("READY=1");
    let port = free_port();
    let mut driver = daemon.join_tcp(port, "127.0.0.1");
    let device = Device::connect("127.0.0.1", port);
    let addr = driver.opened();
    let _silent: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(daemon.api()).unwrap()).collect();
    manager.fill();
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exits().code(), Some(0));
    let in_time = daemon.log().contains("dispatch ends end=Drained");
    if in_time {
        driver.closed(&addr);
        goodbye(&mut driver);
    }
    drop(device);
    in_time
}

fn a_pause_waits_for_those_who_have_begun_to_speak_alone(shards: usize) {
    const LINE: &str = "not all who had just connected were answered before the API paused";
    let place = Place::new();
    let daemon = place.of(Setup::new(shards)).start();
    let mut connections: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(daemon.api()).unwrap()).collect();
    for begun in ["", "GET /api/server/healthz HTTP/1.1\r\n"] {
        connections.iter_mut().for_each(|connection| connection.write_all(begun.as_bytes()).unwrap());
        let mut taker = Taker::meet(&place);
        taker.ask();
        taker.have_it_pause();
        if begun.is_empty() {
            assert!(!daemon.log().contains(LINE), "it waited for the silent ones");
        } else {
            daemon.until_logged(LINE);
        }
        drop(taker);
        // In the second round that of the first is there.
        daemon.until_logged("not taken over: the daemon goes on");
    }
    drop(connections);
    daemon.assert_baseline();
    daemon.assert_drains();
}
