//! Proves that a daemon that is killed and started again gets its drivers and devices back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{
    BASES, Connection, Datagrams, Device, Driver, Setup, Transport, UPGRADE, eventually, free_port, join_target,
};

scenarios! {
    fifty_drivers_are_back_after_a_kill_and_their_ports_work,
}

const DRIVERS: usize = 50;
/// The first wait of the drivers in the field, which doubles up to the last.
const BACK_OFF: [u64; 5] = [1, 2, 4, 8, 10];

/// Joins as a driver in the field does: at once, then after waits that double. Says how many attempts that took.
fn join_with_back_off(api: SocketAddr, transport: Transport, port: u16) -> (Driver, usize) {
    let target = join_target(BASES[0], transport, &port.to_string(), "127.0.0.1");
    for (attempt, wait) in BACK_OFF.into_iter().enumerate() {
        if let Some(driver) = try_join(api, &target) {
            return (driver, attempt + 1);
        }
        std::thread::sleep(Duration::from_secs(wait));
    }
    panic!("{port} is not joined after {BACK_OFF:?}");
}

fn try_join(api: SocketAddr, target: &str) -> Option<Driver> {
    let stream = std::net::TcpStream::connect_timeout(&api, Duration::from_secs(5)).ok()?;
    let mut connection = Connection::over(stream);
    let head = format!("GET {target} HTTP/1.1\r\nHost: test\r\nAuthorization: Bearer testing\r\n{UPGRADE}\r\n");
    connection.try_send(&head).ok()?;
    // Whatever is not 101 is a reason to wait and try again.
    let response = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| connection.head_only())).ok()?;
    (response.status == 101).then(|| {
        let (stream, pending) = connection.into_parts();
        Driver::new(stream, pending)
    })
}

fn fifty_drivers_are_back_after_a_kill_and_their_ports_work(shards: usize) {
    let api_port = free_port();
    let ports: Vec<_> = (0..DRIVERS).map(|_| free_port()).collect();
    let transport = |at: usize| [Transport::Tcp, Transport::Udp][at % 2];
    let mut daemon = Setup::new(shards).api_port(api_port).start();
    let api = daemon.api();
    let before: Vec<_> =
        ports.iter().enumerate().map(|(at, &port)| join_with_back_off(api, transport(at), port).0).collect();
    let devices: Vec<_> = ports.iter().step_by(2).map(|&port| Device::connect("127.0.0.1", port)).collect();
    eventually("all devices are there", || (daemon.held("devices") == devices.len() as u64).then_some(()));
    daemon.signal(Signal::KILL);
    daemon.exits();
    let start = Instant::now();
    let (daemon, mut after) = std::thread::scope(|scope| {
        let joining: Vec<_> = before
            .into_iter()
            .enumerate()
            .map(|(at, mut driver)| {
                let port = ports[at];
                scope.spawn(move || {
                    driver.ends();
                    join_with_back_off(api, transport(at), port)
                })
            })
            .collect();
        std::thread::sleep(Duration::from_millis(500));
        let daemon = Setup::new(shards).api_port(api_port).start();
        (daemon, joining.into_iter().map(|join| join.join().unwrap()).collect::<Vec<_>>())
    });
    let took = start.elapsed();
    assert!(took < Duration::from_secs(12), "the drivers are back after {took:?}");
    let mut attempts = BTreeMap::new();
    after.iter().for_each(|(_, count)| *attempts.entry(*count).or_insert(0) += 1);
    assert!(attempts.keys().all(|&count| count <= 4), "{attempts:?}");
    drop(devices);
    for (at, (driver, _)) in after.iter_mut().enumerate() {
        assert_works(driver, transport(at), ports[at]);
    }
    let statistics = daemon.statistics();
    assert_eq!(statistics["tcp_listeners"].as_object().unwrap().len(), DRIVERS / 2);
    assert_eq!(statistics["udp_listeners"].as_object().unwrap().len(), DRIVERS / 2);
    drop(after);
}

fn assert_works(driver: &mut Driver, transport: Transport, port: u16) {
    match transport {
        Transport::Tcp => {
            let mut device = Device::connect("127.0.0.1", port);
            let addr = driver.opened();
            assert_eq!(addr.id, 0, "ids start afresh");
            device.send(b"back?");
            driver.received(&addr, b"back?");
            driver.write(&addr, b"back");
            device.expect(b"back");
        }
        Transport::Udp => {
            let device = Datagrams::bind("127.0.0.1");
            device.send(port, b"back?");
            driver.datagram(&crate::harness::Addr::new("127.0.0.1", device.port()), b"back?");
        }
    }
}
