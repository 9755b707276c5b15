//! Proves that whoever is loud does not drown out the others: floods on one port leave the rest quick.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{
    Addr, BASES, Daemon, Device, Event, Opcode, Setup, Transport, Until, Wire, frame, free_port, pattern, write,
};

scenarios! {
    a_flood_of_writes_leaves_the_others_quick,
    a_flooding_device_leaves_the_others_quick,
    a_flood_of_tiny_writes_to_one_device_leaves_the_others_quick,
    connections_that_say_nothing_keep_nobody_out,
    drivers_that_join_and_leave_disturb_nobody,
}

/// Far above what a quiet daemon needs, and far below what a starved one takes.
const QUICK: Duration = Duration::from_millis(500);
/// Drivers and devices that are not part of a flood: enough that some live on whichever shard is flooded.
const BYSTANDERS: usize = 8;

/// A driver and its device, each exchange of which is timed.
struct Bystander {
    wire: Wire,
    device: Device,
    addr: Addr,
    times: Vec<Duration>,
}

impl Bystander {
    fn new(daemon: &Daemon) -> Self {
        let port = free_port();
        let mut wire = daemon.wire(Transport::Tcp, port, "127.0.0.9");
        let device = Device::connect("127.0.0.9", port);
        let addr = wire.event().addr().clone();
        Self { wire, device, addr, times: Vec::new() }
    }

    /// A ping, an event and a write, each answered before the next.
    fn exchange(&mut self) {
        let start = Instant::now();
        self.wire.send_frame(Opcode::Ping, b"quick?");
        assert_eq!(self.wire.frame().payload, b"quick?");
        self.device.send(b"there");
        assert_eq!(self.wire.event(), Event::Received(self.addr.clone(), b"there".to_vec()));
        self.wire.send_frame(Opcode::Binary, &write(&self.addr, b"and back"));
        self.device.expect(b"and back");
        self.times.push(start.elapsed());
    }
}

/// The time that so many of a hundred do not exceed.
fn percentile(mut times: Vec<Duration>, percent: usize) -> Duration {
    assert!(times.len() >= 3, "{} turns", times.len());
    times.sort_unstable();
    times[(times.len() - 1) * percent / 100]
}

/// Fails unless health checks and bystanders on each shard stay quick while `flood` runs until it is told to end.
fn assert_others_quick(daemon: &Daemon, flood: impl FnOnce(&AtomicBool) + Send) {
    let mut bystanders: Vec<_> = (0..BYSTANDERS).map(|_| Bystander::new(daemon)).collect();
    let (done, mut health) = (AtomicBool::new(false), Vec::new());
    std::thread::scope(|scope| {
        let until = Until(&done);
        scope.spawn(|| flood(&done));
        let deadline = Instant::now() + Duration::from_millis(2_500);
        while Instant::now() < deadline || health.len() < 3 {
            let start = Instant::now();
            assert_eq!(daemon.fetch(&format!("{}/healthz", BASES[0])).status, 200);
            health.push(start.elapsed());
            bystanders.iter_mut().for_each(Bystander::exchange);
        }
        drop(until);
    });
    // One shard of three answers every third of them.
    let health = percentile(health, 80);
    assert!(health < QUICK, "health checks take {health:?}");
    for bystander in bystanders {
        let exchange = percentile(bystander.times, 50);
        assert!(exchange < QUICK, "exchanges take {exchange:?}");
    }
}

fn a_flood_of_writes_leaves_the_others_quick(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let sink = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        let to = Addr::new("127.0.0.1", u64::from(sink.local_addr().unwrap().port()));
        let port = free_port();
        let many = frame(0x82, &write(&to, &[7; 100])).repeat(200);
        // Several, so that their shards together bring more than the port's can carry out.
        let wires: Vec<_> = (0..4).map(|_| daemon.wire(Transport::Udp, port, "127.0.0.1")).collect();
        assert_others_quick(daemon, move |done| {
            std::thread::scope(|scope| {
                for mut wire in wires {
                    let many = &many;
                    scope.spawn(move || {
                        while !done.load(Ordering::Relaxed) {
                            wire.send(many);
                        }
                    });
                }
            });
        });
        assert!(daemon.count("datagrams_written") > 10_000, "that was no flood");
    });
}

fn a_flooding_device_leaves_the_others_quick(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.wire(Transport::Tcp, port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        driver.event();
        assert_others_quick(daemon, move |done| {
            let part = pattern(1, 0, 1 << 20);
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    while !done.load(Ordering::Relaxed) {
                        device.send(&part);
                    }
                });
                while matches!(driver.event(), Event::Received(..)) {}
            });
        });
        assert!(daemon.count("device_bytes_received") > 16 << 20, "that was no flood");
    });
}

fn a_flood_of_tiny_writes_to_one_device_leaves_the_others_quick(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut wire = daemon.wire(Transport::Tcp, port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = wire.event().addr().clone();
        let many = frame(0x82, &write(&addr, b"x")).repeat(500);
        assert_others_quick(daemon, move |done| {
            std::thread::scope(|scope| {
                scope.spawn(move || {
                    while !done.load(Ordering::Relaxed) {
                        wire.send(&many);
                    }
                    wire.half_close();
                });
                device.drain();
            });
        });
        assert!(daemon.count("messages_from_drivers") > 10_000, "that was no flood");
    });
}

fn connections_that_say_nothing_keep_nobody_out(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let silent: Vec<_> = (0..300).map(|_| daemon.connection()).collect();
        assert_others_quick(daemon, |_| ());
        drop(silent);
    });
}

fn drivers_that_join_and_leave_disturb_nobody(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let ports: Vec<_> = (0..8).map(|_| free_port()).collect();
        assert_others_quick(daemon, |done| {
            let mut turn = 0;
            while !done.load(Ordering::Relaxed) {
                let port = ports[turn % ports.len()];
                let driver = daemon.join([Transport::Tcp, Transport::Udp][turn % 2], port, "127.0.0.1,::1");
                if turn % 3 == 0 {
                    driver.reset()
                } else {
                    driver.leave()
                }
                turn += 1;
            }
            assert!(turn > 20, "{turn} joins");
        });
    });
}
