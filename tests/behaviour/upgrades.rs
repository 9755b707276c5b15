//! Proves that a daemon can be replaced again and again under load: nobody is refused or reset, no datagram is lost, and
//! every driver is told the whole story of its devices.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::harness::{
    BASES, Connection, Daemon, Datagrams, Device, Driver, Event, Place, Setup, Story, Transport, UPGRADE, Until,
    eventually, free_port, join_target,
};

const UPGRADES: usize = 50;
/// Each daemon has another number of shards than the one before.
const SHARDS: [usize; 3] = [1, 3, 2];
/// How often a datagram is sent: what comes while no driver is joined fits into the socket's buffer.
const DATAGRAM_INTERVAL: Duration = Duration::from_millis(5);

/// What has happened.
#[derive(Default)]
struct Tally {
    joins: AtomicU64,
    devices: AtomicU64,
    answered: AtomicU64,
    goodbyes: AtomicU64,
}

impl Tally {
    fn one(count: &AtomicU64) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Joins, and fails where that is refused or the connection is reset.
fn join(api: SocketAddr, transport: Transport, port: u16) -> Driver {
    let target = join_target(BASES[1], transport, &port.to_string(), "127.0.0.1");
    let mut connection = Connection::open(api);
    let response = connection.request("GET", &target, &format!("Authorization: Bearer testing\r\n{UPGRADE}"));
    assert_eq!(response.status, 101, "{target}: {response:?}");
    let (stream, pending) = connection.into_parts();
    Driver::new(stream, pending)
}

/// Joins and leaves all the time.
fn come_and_go(api: SocketAddr, port: u16, tally: &Tally, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        let mut driver = join(api, Transport::Tcp, port);
        Tally::one(&tally.joins);
        // The daemon may be saying goodbye.
        driver.hang_up();
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A driver that joins again whenever it is told goodbye, and answers every device.
fn answer_devices(api: SocketAddr, port: u16, tally: &Tally, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        let mut driver = join(api, Transport::Tcp, port);
        let mut story = Story::default();
        while let Some(event) = driver.event_or_goodbye(done) {
            story.take(&event);
            if let Event::Received(addr, data) = event {
                driver.try_write(&addr, &data);
            }
        }
        if !done.load(Ordering::Relaxed) {
            assert_eq!(story.told(), story.closed(), "a device without its CLOSED");
            Tally::one(&tally.goodbyes);
        }
    }
}

/// A device that connects again and again. It is answered, or the daemon that had it ends it in good order.
fn be_devices(port: u16, tally: &Tally, done: &AtomicBool) {
    while !done.load(Ordering::Relaxed) {
        let mut device = Device::connect("127.0.0.1", port);
        Tally::one(&tally.devices);
        device.send(b"answer me");
        match device.try_take(9) {
            Ok(answer) if answer.is_empty() => {}
            Ok(answer) => {
                assert_eq!(answer, b"answer me");
                Tally::one(&tally.answered);
            }
            Err(error) => assert!(done.load(Ordering::Relaxed), "a device's connection: {error}"),
        }
    }
}

/// Sends numbered datagrams, and says before the last one how many they are.
fn send_datagrams(port: u16, count: &AtomicU64, done: &AtomicBool) {
    let sender = Datagrams::bind("127.0.0.1");
    let mut number = 0u64;
    while !done.load(Ordering::Relaxed) {
        sender.send(port, &number.to_be_bytes());
        number += 1;
        std::thread::sleep(DATAGRAM_INTERVAL);
    }
    count.store(number + 1, Ordering::Relaxed);
    sender.send(port, &number.to_be_bytes());
}

/// A driver that joins again whenever it is told goodbye, until it has each of the datagrams, once.
fn receive_datagrams(api: SocketAddr, port: u16, count: &AtomicU64, done: &AtomicBool) {
    let mut received = HashSet::new();
    let has_all = |received: &HashSet<u64>| {
        let count = count.load(Ordering::Relaxed);
        count > 0 && received.len() as u64 == count
    };
    while !has_all(&received) {
        let mut driver = join(api, Transport::Udp, port);
        while let Some(event) = driver.event_or_goodbye(&AtomicBool::new(false)) {
            let Event::Received(_, data) = event else { panic!("{event:?}") };
            let number = u64::from_be_bytes(data.try_into().unwrap());
            assert!(received.insert(number), "datagram {number} came twice");
            if has_all(&received) {
                return;
            }
        }
        assert!(!done.load(Ordering::Relaxed), "a goodbye after the last upgrade");
    }
}

fn upgraded(old: &mut Daemon, place: &Place, setup: Setup) -> Daemon {
    let new = place.take_over(setup);
    assert_eq!(old.exits().code(), Some(0));
    new
}

#[test]
fn fifty_upgrades_under_load_refuse_nobody_and_lose_nothing() {
    let place = Place::new();
    let (api, tcp, udp, other) = (free_port(), free_port(), free_port(), free_port());
    let setup = |at: usize| Setup::new(SHARDS[at % SHARDS.len()]).api_port(api).variable("LOG_LEVEL", "info");
    let mut daemon = place.of(setup(0)).start();
    let api = daemon.api();
    let (done, stopped, tally, sent) =
        (AtomicBool::new(false), AtomicBool::new(false), Tally::default(), AtomicU64::new(0));
    let (done, stopped, tally, sent) = (&done, &stopped, &tally, &sent);
    std::thread::scope(|scope| {
        let (until, until_stopped) = (Until(done), Until(stopped));
        scope.spawn(|| answer_devices(api, tcp, tally, done));
        scope.spawn(|| receive_datagrams(api, udp, sent, stopped));
        eventually("both ports are open", || (daemon.held("ports") == 2).then_some(()));
        scope.spawn(|| send_datagrams(udp, sent, done));
        scope.spawn(|| come_and_go(api, other, tally, done));
        (0..3).for_each(|_| drop(scope.spawn(|| be_devices(tcp, tally, done))));
        for at in 1..=UPGRADES {
            let (joins, answered) = (tally.joins.load(Ordering::Relaxed), tally.answered.load(Ordering::Relaxed));
            daemon = upgraded(&mut daemon, &place, setup(at));
            eventually("drivers and devices are served", || {
                let joined = tally.joins.load(Ordering::Relaxed) > joins + 2;
                (joined && tally.answered.load(Ordering::Relaxed) > answered + 2).then_some(())
            });
        }
        drop(until_stopped);
        drop(until);
    });
    let goodbyes = tally.goodbyes.load(Ordering::Relaxed);
    assert!(goodbyes >= UPGRADES as u64, "{goodbyes} goodbyes of {UPGRADES} daemons");
    eprintln!(
        "{UPGRADES} upgrades: {} joins, {} devices, {} of them answered, {} datagrams",
        tally.joins.load(Ordering::Relaxed),
        tally.devices.load(Ordering::Relaxed),
        tally.answered.load(Ordering::Relaxed),
        sent.load(Ordering::Relaxed)
    );
    daemon.assert_drains();
}
