//! Proves that a tap sees a port as it is, in both directions.

use uring_dispatch::protocol::tapped::{TapEvent, Tapped};

use crate::harness::{Addr, BASES, Daemon, Datagrams, Device, Frame, Setup, Transport, Wire, free_port, pattern};

scenarios! {
    a_tap_sees_both_directions_of_a_device_in_order,
    a_tap_sees_datagrams_in_both_directions,
    what_came_with_a_balancers_header_is_tapped,
    a_message_for_two_drivers_is_tapped_once,
    a_tap_may_be_for_one_device,
    a_tap_may_be_for_one_driver,
    a_write_that_is_dropped_is_not_tapped,
    a_large_write_is_tapped_whole_in_parts,
    a_device_that_the_operator_disconnects_is_tapped_to_its_end,
    a_broadcast_is_tapped_and_so_is_every_write_of_a_burst,
}

/// A tap, spoken to in frames.
pub struct Tap(pub Wire);

impl Tap {
    /// A tap that has not been told whether its port is open.
    pub fn begin(daemon: &Daemon, transport: &str, port: u16, more: &str) -> Self {
        let target = format!("{}/tap?transport={transport}&port={port}{more}", BASES[1]);
        let connection = daemon.upgrade(&target, "").unwrap_or_else(|response| panic!("refused: {response:?}"));
        let (stream, pending) = connection.into_parts();
        Self(Wire::new(stream, pending))
    }

    /// A tap of a port that is open.
    pub fn open(daemon: &Daemon, transport: &str, port: u16, more: &str) -> Self {
        let mut tap = Self::begin(daemon, transport, port, more);
        tap.sees(&["port open"]);
        tap
    }

    /// The next message in words.
    pub fn next(&mut self) -> String {
        words(&self.0.data_frame())
    }

    /// Fails unless the next messages are these.
    pub fn sees(&mut self, expected: &[&str]) {
        for expected in expected {
            assert_eq!(self.next(), *expected);
        }
    }
}

/// A message in words.
fn words(frame: &Frame) -> String {
    assert_eq!(frame.first, 0x82, "no message: {frame:?}");
    let Tapped { time_us, event } = Tapped::decode(&frame.payload).unwrap();
    assert!(time_us > 1_700_000_000_000_000, "{time_us}");
    let text = |data: &[u8]| String::from_utf8_lossy(data).into_owned();
    match event {
        TapEvent::Opened { device } => format!("opened {:?} {}", device.ip, device.id_or_port),
        TapEvent::Closed { device } => format!("closed {:?} {}", device.ip, device.id_or_port),
        TapEvent::Received { device, data } => {
            format!("received {:?} {} {}", device.ip, device.id_or_port, text(data))
        }
        TapEvent::Write { device, module, data } => {
            format!("write {:?} {} by {module} {}", device.ip, device.id_or_port, text(data))
        }
        TapEvent::Close { device, module } => format!("close {:?} {} by {module}", device.ip, device.id_or_port),
        TapEvent::Dropped { count } => format!("dropped {count}"),
        TapEvent::PortOpen => "port open".to_owned(),
        TapEvent::PortClosed => "port closed".to_owned(),
    }
}

fn a_tap_sees_both_directions_of_a_device_in_order(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_as("mod-1", Transport::Tcp, port, "127.0.0.1");
        let mut tap = Tap::open(daemon, "tcp", port, "");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        for _ in 0..3 {
            device.send(b"ask");
            driver.received(&addr, b"ask");
            driver.write(&addr, b"answer");
            device.expect(b"answer");
        }
        driver.close(&addr);
        device.ends();
        driver.closed(&addr);
        tap.sees(&["opened 127.0.0.1 0"]);
        for _ in 0..3 {
            tap.sees(&["received 127.0.0.1 0 ask", "write 127.0.0.1 0 by mod-1 answer"]);
        }
        tap.sees(&["close 127.0.0.1 0 by mod-1", "closed 127.0.0.1 0"]);
    });
}

fn a_tap_sees_datagrams_in_both_directions(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_as("mod-1", Transport::Udp, port, "127.0.0.1");
        let mut tap = Tap::open(daemon, "udp", port, "");
        let device = Datagrams::bind("127.0.0.1");
        let addr = Addr::new("127.0.0.1", device.port());
        let largest = pattern(1, 0, 65_507);
        for data in [b"hi".as_slice(), b"", &largest] {
            device.send(port, data);
            driver.datagram(&addr, data);
            driver.write(&addr, data);
            let text = String::from_utf8_lossy(data);
            assert!(tap.next() == format!("received 127.0.0.1 {} {text}", device.port()));
            assert!(tap.next() == format!("write 127.0.0.1 {} by mod-1 {text}", device.port()));
        }
    });
}

fn what_came_with_a_balancers_header_is_tapped(shards: usize) {
    Setup::new(shards).variable("DISPATCH_DEVICE_PROXY_FROM", "127.0.0.9").run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_as("mod-1", Transport::Tcp, port, "192.0.2.7");
        let mut tap = Tap::open(daemon, "tcp", port, "");
        let mut device = Device::connect("127.0.0.9", port);
        device.send(b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\nfirst");
        let addr = driver.opened();
        driver.received(&addr, b"first");
        tap.sees(&["opened 192.0.2.7 0", "received 192.0.2.7 0 first"]);
        drop(device);
        tap.sees(&["closed 192.0.2.7 0"]);
    });
}

fn a_message_for_two_drivers_is_tapped_once(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut drivers = [daemon.join_tcp(port, "127.0.0.1"), daemon.join_tcp(port, "127.0.0.0/8")];
        let mut tap = Tap::open(daemon, "tcp", port, "");
        let mut device = Device::connect("127.0.0.1", port);
        device.send(b"once");
        for driver in &mut drivers {
            let addr = driver.opened();
            driver.received(&addr, b"once");
        }
        drivers[1].write(&Addr::new("127.0.0.1", 0), b"back");
        tap.sees(&["opened 127.0.0.1 0", "received 127.0.0.1 0 once", "write 127.0.0.1 0 by  back"]);
    });
}

fn a_tap_may_be_for_one_device(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_as("mod-1", Transport::Tcp, port, "127.0.0.0/8");
        let mut of_address = Tap::open(daemon, "tcp", port, "&device=127.0.0.2");
        let mut of_device = Tap::open(daemon, "tcp", port, "&device=127.0.0.1%3A2");
        let mut devices: Vec<_> = ["127.0.0.1", "127.0.0.2", "127.0.0.1"]
            .into_iter()
            .map(|source| {
                let device = Device::connect(source, port);
                (driver.opened(), device)
            })
            .collect();
        for (addr, device) in &mut devices {
            device.send(b"x");
            driver.received(addr, b"x");
            driver.write(addr, b"y");
            device.expect(b"y");
        }
        of_address.sees(&["opened 127.0.0.2 1", "received 127.0.0.2 1 x", "write 127.0.0.2 1 by mod-1 y"]);
        of_device.sees(&["opened 127.0.0.1 2", "received 127.0.0.1 2 x", "write 127.0.0.1 2 by mod-1 y"]);
        drop(devices);
        of_address.sees(&["closed 127.0.0.2 1"]);
        of_device.sees(&["closed 127.0.0.1 2"]);
    });
}

fn a_tap_may_be_for_one_driver(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut first = daemon.join_as("mod-1", Transport::Tcp, port, "127.0.0.0/16");
        let mut second = daemon.join_as("mod-2", Transport::Tcp, port, "127.0.0.2,127.1.0.1");
        let mut tap = Tap::open(daemon, "tcp", port, "&module=mod-2");
        let mut others = Device::connect("127.0.0.1", port);
        let addr = first.opened();
        others.send(b"to the first alone");
        first.received(&addr, b"to the first alone");
        let mut shared = Device::connect("127.0.0.2", port);
        let addr = first.opened();
        assert_eq!(second.opened(), addr);
        shared.send(b"to both");
        first.received(&addr, b"to both");
        second.received(&addr, b"to both");
        first.write(&addr, b"of the first");
        shared.expect(b"of the first");
        second.write(&addr, b"of the second");
        shared.expect(b"of the second");
        tap.sees(&["opened 127.0.0.2 1", "received 127.0.0.2 1 to both", "write 127.0.0.2 1 by mod-2 of the second"]);
        // Disconnected as its driver leaves.
        let mut own = Device::connect("127.1.0.1", port);
        second.opened();
        second.leave();
        own.ends();
        tap.sees(&["opened 127.1.0.1 2", "closed 127.1.0.1 2"]);
    });
}

fn a_write_that_is_dropped_is_not_tapped(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let mut tap = Tap::open(daemon, "tcp", port, "");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        driver.write(&Addr::new("127.0.0.1", 7), b"to nobody");
        driver.write(&addr, b"to it");
        device.expect(b"to it");
        tap.sees(&["opened 127.0.0.1 0", "write 127.0.0.1 0 by  to it"]);
    });
}

fn a_large_write_is_tapped_whole_in_parts(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let mut tap = Tap::open(daemon, "tcp", port, "");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        // Three parts, the last a short one.
        let data = pattern(3, 0, 140_000);
        driver.write(&addr, &data);
        device.expect(&data);
        tap.sees(&["opened 127.0.0.1 0"]);
        let mut seen = Vec::new();
        while seen.len() < data.len() {
            let frame = tap.0.data_frame();
            match Tapped::decode(&frame.payload).unwrap().event {
                TapEvent::Write { data, .. } => seen.extend_from_slice(data),
                other => panic!("{other:?}"),
            }
        }
        assert!(seen == data);
    });
}

fn a_device_that_the_operator_disconnects_is_tapped_to_its_end(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let mut tap = Tap::open(daemon, "tcp", port, "");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        assert_eq!(daemon.ask("DELETE", &format!("{}/devices/tcp/{port}/0", BASES[1])).status, 200);
        driver.closed(&addr);
        device.ends();
        tap.sees(&["opened 127.0.0.1 0", "closed 127.0.0.1 0"]);
    });
}

fn a_broadcast_is_tapped_and_so_is_every_write_of_a_burst(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_udp(port, "127.0.0.1");
        let mut tap = Tap::open(daemon, "udp", port, "");
        let device = Datagrams::bind("0.0.0.0");
        driver.write(&Addr::new("127.255.255.255", device.port()), b"who is there");
        device.expect(b"who is there");
        assert_eq!(tap.next(), format!("write 127.255.255.255 {} by  who is there", device.port()));
        // Read together, carried out together, and sent to the device in few sends.
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let mut tap = Tap::open(daemon, "tcp", port, "");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        tap.sees(&["opened 127.0.0.1 0"]);
        for number in 0..500 {
            driver.write(&addr, format!("{number:03}").as_bytes());
        }
        for number in 0..500 {
            device.expect(format!("{number:03}").as_bytes());
            assert_eq!(tap.next(), format!("write 127.0.0.1 0 by  {number:03}"));
        }
    });
}
