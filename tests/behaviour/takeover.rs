//! Proves that a daemon takes the sockets of another over, that nothing is lost by it, and that a takeover which fails
//! changes nothing.

use std::net::TcpStream;
use std::sync::atomic::AtomicBool;

use rustix::process::Signal;

use crate::harness::{
    Addr, Daemon, Datagrams, Device, Driver, Manager, Place, Run, Setup, Taker, Transport, eventually, free_port,
};

scenarios! {
    the_other_daemon_tells_its_drivers_and_ends_and_this_one_serves,
    devices_and_datagrams_wait_for_the_driver_to_come_back,
    datagrams_that_the_kernel_dropped_before_are_not_counted_again,
    a_port_whose_driver_does_not_come_back_is_closed,
    many_drivers_are_all_told_and_come_back,
    a_takeover_that_breaks_off_leaves_the_daemon_as_it_was,
    a_takeover_of_nobody_is_one_line_and_a_failure,
    a_place_that_a_daemon_left_behind_is_made_anew,
    the_sockets_are_left_with_the_manager_for_the_next_daemon,
}

/// A number of shards that is another.
const fn other(shards: usize) -> usize {
    shards % 3 + 1
}

pub fn goodbye(driver: &mut Driver) {
    assert_eq!(driver.close_reason().0, 1001);
    driver.ends();
}

fn assert_serves(driver: &mut Driver, device: &mut Device) {
    let addr = driver.opened();
    device.send(b"there");
    driver.received(&addr, b"there");
    driver.write(&addr, b"and back");
    device.expect(b"and back");
}

fn the_other_daemon_tells_its_drivers_and_ends_and_this_one_serves(shards: usize) {
    let (place, api, port) = (Place::new(), free_port(), free_port());
    let mut old = place.of(Setup::new(shards).api_port(api)).start();
    let mut driver = old.join_tcp(port, "127.0.0.1");
    let mut device = Device::connect("127.0.0.1", port);
    assert_serves(&mut driver, &mut device);
    let new = place.take_over(Setup::new(other(shards)).api_port(api));
    device.ends();
    drop(device);
    driver.closed(&Addr::new("127.0.0.1", 0));
    goodbye(&mut driver);
    assert_eq!(old.exits().code(), Some(0));
    let mut driver = new.join_tcp(port, "127.0.0.1");
    let mut device = Device::connect("127.0.0.1", port);
    assert_serves(&mut driver, &mut device);
    drop((driver, device));
    eventually("the port is closed", || Device::try_connect("127.0.0.1", port).err());
    new.assert_drains();
    eventually("the API is closed", || TcpStream::connect(("127.0.0.1", api)).err());
}

fn devices_and_datagrams_wait_for_the_driver_to_come_back(shards: usize) {
    let (place, api, tcp, udp) = (Place::new(), free_port(), free_port(), free_port());
    let mut old = place.of(Setup::new(shards).api_port(api)).start();
    let (mut driver, mut receiver) = (old.join_tcp(tcp, "127.0.0.1"), old.join_udp(udp, "127.0.0.1"));
    let new = place.take_over(Setup::new(other(shards)).api_port(api));
    goodbye(&mut driver);
    goodbye(&mut receiver);
    assert_eq!(old.exits().code(), Some(0));
    let mut devices: Vec<_> = (0..20).map(|_| Device::connect("127.0.0.1", tcp)).collect();
    let sender = Datagrams::bind("127.0.0.1");
    for (at, device) in devices.iter_mut().enumerate() {
        device.send(&[at as u8]);
        sender.send(udp, &[at as u8]);
    }
    // A driver of the other family takes nothing that is not its own.
    let elsewhere = new.join_tcp(tcp, "::1");
    let (mut driver, mut receiver) = (new.join_tcp(tcp, "127.0.0.1"), new.join_udp(udp, "127.0.0.1"));
    let from = Addr::new("127.0.0.1", sender.port());
    (0..20).for_each(|at| receiver.datagram(&from, &[at]));
    let mut data: Vec<u8> = Vec::new();
    let mut opened = 0;
    while data.len() < devices.len() {
        match driver.event() {
            crate::harness::Event::Opened(_) => opened += 1,
            crate::harness::Event::Received(_, part) => data.extend(part),
            other => panic!("{other:?}"),
        }
    }
    data.sort_unstable();
    assert_eq!((opened, data), (20, (0..20).collect()));
    drop((elsewhere, driver, receiver, devices));
    new.assert_drains();
}

fn datagrams_that_the_kernel_dropped_before_are_not_counted_again(shards: usize) {
    let (place, api, port) = (Place::new(), free_port(), free_port());
    let mut old = place.of(Setup::new(shards).api_port(api)).start();
    let mut driver = old.join_udp(port, "127.0.0.1");
    let sender = Datagrams::bind("127.0.0.1");
    // A daemon that is told to stand still may take some more before it does.
    let overflow = |daemon: &Daemon| {
        eventually("some were dropped", || {
            daemon.signal(Signal::STOP);
            (0..400).for_each(|_| sender.send(port, &[7; 60_000]));
            daemon.signal(Signal::CONT);
            Some(daemon.count("datagrams_dropped_kernel")).filter(|&count| count > 0)
        })
    };
    let before = overflow(&old);
    let new = place.take_over(Setup::new(other(shards)).api_port(api));
    while driver.event_or_goodbye(&AtomicBool::new(false)).is_some() {}
    assert_eq!(old.exits().code(), Some(0));
    let _driver = new.join_udp(port, "127.0.0.1");
    assert_eq!(new.count("datagrams_dropped_kernel"), 0, "{before} were counted by the daemon before");
    overflow(&new);
}

fn a_port_whose_driver_does_not_come_back_is_closed(shards: usize) {
    let (place, api, port) = (Place::new(), free_port(), free_port());
    let mut old = place.of(Setup::new(shards).api_port(api)).start();
    let driver = old.join_tcp(port, "127.0.0.1");
    let new = place.take_over(Setup::new(shards).api_port(api).limit("takeover-wait-ms-max", 2_000));
    drop(driver);
    assert_eq!(old.exits().code(), Some(0));
    new.until_logged("no driver came back to a port that was handed over");
    eventually("the port is closed", || Device::try_connect("127.0.0.1", port).err());
    drop(new.join_tcp(port, "127.0.0.1"));
    new.assert_drains();
}

/// More than one wave of them.
fn many_drivers_are_all_told_and_come_back(shards: usize) {
    const PORTS: usize = 25;
    let (place, api) = (Place::new(), free_port());
    let mut old = place.of(Setup::new(shards).api_port(api).variable("LOG_LEVEL", "info")).start();
    let ports: Vec<u16> = (0..PORTS).map(|_| free_port()).collect();
    let transport = |at: usize| [Transport::Tcp, Transport::Udp][at % 2];
    let join_all = |daemon: &Daemon| -> Vec<Driver> {
        (0..10 * PORTS).map(|at| daemon.join(transport(at % PORTS), ports[at % PORTS], "127.0.0.1")).collect()
    };
    let mut drivers = join_all(&old);
    let new = place.take_over(Setup::new(other(shards)).api_port(api).variable("LOG_LEVEL", "info"));
    drivers.iter_mut().for_each(goodbye);
    assert_eq!(old.exits().code(), Some(0));
    assert!(old.log().contains("dispatch ends end=Drained"), "the time did not suffice");
    let drivers = join_all(&new);
    assert_eq!(new.held("ports"), PORTS as u64);
    drop(drivers);
    new.assert_drains();
}

fn a_takeover_that_breaks_off_leaves_the_daemon_as_it_was(shards: usize) {
    let place = Place::new();
    let daemon = place.of(Setup::new(shards)).start();
    let (port, second) = (free_port(), free_port());
    let mut driver = daemon.join_tcp(port, "127.0.0.1");
    let mut device = Device::connect("127.0.0.1", port);
    assert_serves(&mut driver, &mut device);
    for (round, last) in
        ["hello", "ready", "ready and nonsense", "ready and late", "nonsense", "version"].into_iter().enumerate()
    {
        let mut taker = Taker::meet(&place);
        match last {
            "nonsense" => taker.say("give me all"),
            "version" => {
                taker.say(r#"{"say":"hello","version":1}"#);
                assert!(taker.hear().contains("different versions"));
            }
            _ => taker.ask(),
        }
        if last.starts_with("ready") {
            taker.have_it_pause();
        }
        match last {
            "ready and nonsense" => taker.say("no"),
            "ready and late" => {
                daemon.until_logged("the other daemon did not answer in time");
                assert!(!taker.hear().contains("go"), "both would accept");
            }
            _ => {}
        }
        drop(taker);
        let failed = || daemon.log().matches("not taken over: the daemon goes on").count() > round;
        eventually("it says that it goes on", || failed().then_some(()));
        device.send(b"still");
        driver.received(&Addr::new("127.0.0.1", 0), b"still");
        let mut another = Device::connect("127.0.0.1", port);
        assert_serves(&mut driver, &mut another);
        another.hang_up();
        driver.closed(&Addr::new("127.0.0.1", round as u64 + 1));
        let mut newcomer = daemon.join_tcp(second, "127.0.0.1");
        assert_serves(&mut newcomer, &mut Device::connect("127.0.0.1", second));
    }
    drop((driver, device));
    daemon.assert_baseline();
    daemon.assert_drains();
}

fn a_takeover_of_nobody_is_one_line_and_a_failure(shards: usize) {
    let place = Place::new();
    let workers = shards.to_string();
    let refused = Run::binary(&["-w", &workers, "--takeover", "--takeover-socket", place.path()], &[]);
    assert_eq!((refused.status.code(), refused.stderr.lines().count()), (Some(1), 1), "{}", refused.stderr);
    assert!(refused.stderr.contains("no daemon answers at"), "{}", refused.stderr);
    // What is no daemon's is left alone.
    std::fs::write(place.path(), "somebody's").unwrap();
    let port = free_port().to_string();
    let refused = Run::binary(&["-p", &port, "-w", &workers, "--takeover-socket", place.path()], &[]);
    assert!(refused.stderr.contains("no socket can be made at"), "{}", refused.stderr);
    assert_eq!(std::fs::read_to_string(place.path()).unwrap(), "somebody's");
    std::fs::remove_file(place.path()).unwrap();
    // Nor is the place of another daemon to be had.
    let daemon = place.of(Setup::new(shards)).start();
    let port = free_port().to_string();
    let refused = Run::binary(&["-p", &port, "-w", &workers, "--takeover-socket", place.path()], &[]);
    assert_eq!((refused.status.code(), refused.stderr.lines().count()), (Some(1), 1), "{}", refused.stderr);
    assert!(refused.stderr.contains("no socket can be made at"), "{}", refused.stderr);
    daemon.assert_drains();
}

fn a_place_that_a_daemon_left_behind_is_made_anew(shards: usize) {
    let (place, api) = (Place::new(), free_port());
    let mut killed = place.of(Setup::new(shards).api_port(api)).start();
    killed.signal(Signal::KILL);
    killed.exits();
    let mut old = place.of(Setup::new(shards).api_port(api)).start();
    let new = place.take_over(Setup::new(shards).api_port(api));
    assert_eq!(old.exits().code(), Some(0));
    new.assert_drains();
}

fn the_sockets_are_left_with_the_manager_for_the_next_daemon(shards: usize) {
    let (mut manager, api, tcp, udp) = (Manager::new(), free_port(), free_port(), free_port());
    let mut old = manager.watch(Setup::new(shards).api_port(api)).start();
    manager.until("READY=1");
    let (mut driver, mut receiver) = (old.join_tcp(tcp, "127.0.0.1"), old.join_udp(udp, "127.0.0.1"));
    old.signal(Signal::TERM);
    goodbye(&mut driver);
    goodbye(&mut receiver);
    assert_eq!(old.exits().code(), Some(0));
    manager.take_notices();
    assert_eq!(manager.stored(), [vec!["stored-api"; shards], vec!["stored-port"; 2]].concat());
    // Nobody listens, and nobody is refused.
    let mut device = Device::connect("127.0.0.1", tcp);
    let sender = Datagrams::bind("127.0.0.1");
    sender.send(udp, b"waits");
    let waiting = TcpStream::connect(("127.0.0.1", api)).unwrap();
    let new = manager.hand_stored(Setup::new(other(shards)).api_port(api)).start();
    let (mut driver, mut receiver) = (new.join_tcp(tcp, "127.0.0.1"), new.join_udp(udp, "127.0.0.1"));
    assert_serves(&mut driver, &mut device);
    receiver.datagram(&Addr::new("127.0.0.1", sender.port()), b"waits");
    manager.until("READY=1");
    assert!(manager.stored().is_empty(), "they are the daemon's again");
    drop((driver, receiver, device, waiting));
    let taken = new.try_join(Transport::Tcp, &api.to_string(), "127.0.0.1");
    assert_eq!(taken.err().map(|response| response.status), Some(403), "the port of the API");
    new.assert_drains();
}
