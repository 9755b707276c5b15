//! Proves that what has ended, and cannot say so to a driver that takes little or nothing, holds nothing up.

use std::time::Duration;

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::harness::{
    Addr, BASES, Connection, Daemon, Device, Driver, Event, Opcode, Setup, Transport, UPGRADE, Wire, close, eventually,
    frame, free_port, join_target, pattern, write,
};

scenarios! {
    devices_that_have_ended_keep_no_receive_buffer_from_others,
    a_drain_that_waits_for_a_slow_device_keeps_no_receive_buffer_from_others,
    a_driver_that_broke_the_protocol_goes_in_time_though_it_takes_a_little_now_and_then,
}

/// Fills what there is between a device and a driver that does not read.
fn flood(device: &mut Device) -> usize {
    device.send_until_blocked(1, 128 << 20, Duration::from_millis(500))
}

fn devices_that_have_ended_keep_no_receive_buffer_from_others(shards: usize) {
    const BUFFERS: usize = 16;
    const ENDED: usize = 3 * BUFFERS;
    Setup::new(shards).limit("receive-buffers", BUFFERS).run(|daemon| {
        let port = free_port();
        let mut slow = daemon.wire(Transport::Tcp, port, "127.0.0.1");
        let mut flooding = Device::connect("127.0.0.1", port);
        let first = slow.event().addr().clone();
        let mut ended: Vec<_> =
            (0..ENDED).map(|_| (Device::connect("127.0.0.1", port), slow.event().addr().clone())).collect();
        // Others of every shard.
        let mut others: Vec<_> = (0..4 * shards).map(|_| other(daemon)).collect();
        let sent = flood(&mut flooding);
        // From here on nobody can tell the driver anything.
        for (_, addr) in &ended {
            slow.send_frame(Opcode::Binary, &close(addr));
        }
        daemon.until_count("messages_from_drivers", ENDED as u64);
        for round in 0..3 {
            // What nobody takes any more.
            ended.iter_mut().for_each(|(device, _)| drop(device.try_send(&[round])));
            for (driver, device, addr) in &mut others {
                device.send(&[round]);
                driver.received(addr, &[round]);
            }
        }
        // Each is told of once, behind all that came before.
        let (mut taken, mut closed) = (0, 0);
        while closed < ENDED {
            match slow.event() {
                Event::Received(addr, data) if addr == first => {
                    assert!(data == pattern(1, taken, data.len()), "the stream differs at {taken}");
                    taken += data.len();
                }
                // It was read before the CLOSE was carried out.
                Event::Received(addr, _) => assert!(ended.iter().any(|(_, one)| *one == addr)),
                Event::Closed(addr) => {
                    let at = ended.iter().position(|(_, one)| *one == addr).expect("a device that is there");
                    ended.swap_remove(at);
                    closed += 1;
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(taken <= sent);
    });
}

fn a_drain_that_waits_for_a_slow_device_keeps_no_receive_buffer_from_others(shards: usize) {
    // Longer than the test waits for anything.
    let setup = Setup::new(shards).limit("drain-ms-max", 120_000).limit("credit-wait-ms-max", 120_000);
    let mut daemon = setup.limit("receive-buffers", 2).start();
    let port = free_port();
    let mut owing = daemon.wire(Transport::Tcp, port, "127.0.0.1");
    let deaf = Device::with_receive_buffer("127.0.0.1", port, Some(4_096)).unwrap();
    let addr = owing.event().addr().clone();
    owing.set_write_patience(Duration::from_millis(500));
    let too_much = frame(0x82, &write(&addr, &[7; 100_000])).repeat(100);
    assert!(owing.try_send(&too_much).is_err(), "a device that does not read takes it all");
    let mut chatting: Vec<_> = (0..8 * shards).map(|_| daemon.wire(Transport::Udp, free_port(), "127.0.0.1")).collect();
    let mut others: Vec<_> = (0..2 * shards).map(|_| other(&daemon)).collect();
    daemon.signal(Signal::TERM);
    for round in 0..20 {
        chatting.iter_mut().for_each(|driver| driver.send_frame(Opcode::Ping, b""));
        for (driver, device, addr) in &mut others {
            device.send(&[round]);
            driver.received(addr, &[round]);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    deaf.reset();
    for (driver, _, addr) in &mut others {
        driver.closed(addr);
        assert_eq!(driver.close_reason().0, 1001);
    }
    assert_eq!(daemon.exits().code(), Some(0));
}

fn other(daemon: &Daemon) -> (Driver, Device, Addr) {
    let port = free_port();
    let mut driver = daemon.join_tcp(port, "127.0.0.1");
    let device = Device::connect("127.0.0.1", port);
    let addr = driver.opened();
    (driver, device, addr)
}

fn a_driver_that_broke_the_protocol_goes_in_time_though_it_takes_a_little_now_and_then(shards: usize) {
    Setup::new(shards).limit("stall-ms-max", 3_000).run(|daemon| {
        let port = free_port();
        let mut driver = narrow(daemon, port);
        let mut breaking = driver.writer();
        let mut device = Device::connect("127.0.0.1", port);
        assert!(matches!(driver.event(), Event::Opened(_)));
        // So little at a time that all that is there would take it longer than the test waits.
        let mut take_a_little = || {
            std::thread::sleep(Duration::from_millis(100));
            driver.skim(300);
        };
        std::thread::scope(|scope| {
            let flooding = scope.spawn(|| flood(&mut device));
            while !flooding.is_finished() {
                take_a_little();
            }
        });
        breaking.send(&[0x82, 0x01, 0x00]);
        eventually("its place is free", || {
            take_a_little();
            (daemon.held("sessions") == 0).then_some(())
        });
        device.is_disconnected();
    });
}

/// A driver with a small receive buffer, so that taking a little shows at the daemon's end.
fn narrow(daemon: &Daemon, port: u16) -> Wire {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4 << 10).unwrap();
    socket.connect(&daemon.api().into()).unwrap();
    let mut connection = Connection::over(socket.into());
    let target =
        format!("{}&bearer_token=testing", join_target(BASES[1], Transport::Tcp, &port.to_string(), "127.0.0.1"));
    connection.send(format!("GET {target} HTTP/1.1\r\nHost: test\r\n{UPGRADE}\r\n"));
    assert_eq!(connection.head_only().status, 101);
    let (stream, pending) = connection.into_parts();
    Wire::new(stream, pending)
}
