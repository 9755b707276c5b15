//! Proves that a machine that vanishes without a word is noticed in time, be it a driver's or a device's.

use std::time::Duration;

use crate::harness::{Device, Event, Opcode, Setup, Transport, eventually, free_port, pattern};
use crate::network::{Network, THERE, within};
use crate::relay::Weather;

scenarios! {
    a_driver_whose_machine_is_gone_is_let_go_after_its_silence,
    a_driver_whose_machine_is_gone_is_let_go_though_a_little_is_delivered_to_it,
    a_driver_whose_machine_is_gone_while_it_is_delivered_to_is_let_go,
    an_idle_device_whose_machine_is_gone_is_found_by_keepalive,
    a_device_whose_machine_is_gone_after_a_write_is_found_by_keepalive,
    a_device_whose_machine_is_gone_under_a_write_is_let_go_after_its_timeout,
    a_link_that_comes_back_in_time_loses_nothing,
}

const SECOND: Duration = Duration::from_secs(1);
/// What anything here may take: less than each default (a silence of 75 s, a stall of 20 s, a keepalive of 40 s, a timeout
/// of 120 s), and more than a busy machine adds.
const MOST: Duration = Duration::from_secs(18);

/// Limits under which a driver that is gone is soon let go, and its socket given up.
fn quick(shards: usize) -> Setup {
    Setup::new(shards)
        .limit("ping-interval-ms", 500)
        .limit("driver-silence-ms-max", 2_000)
        .limit("linger-ms-max", 500)
        .limit("flush-ms-max", 500)
}

fn a_driver_whose_machine_is_gone_is_let_go_after_its_silence(shards: usize) {
    let Some(network) = Network::new() else { return };
    network.run(quick(shards), |daemon| {
        let port = free_port();
        let mut gone = network.wire(daemon, Transport::Tcp, port, "127.0.0.0/8");
        let mut stays = daemon.wire(Transport::Tcp, port, "127.0.0.1");
        within("the silent driver is let go", 3 * SECOND / 2, MOST, || {
            gone.send_frame(Opcode::Ping, b"alive");
            assert_eq!(gone.frame().payload, b"alive");
            network.cut();
            while daemon.count("sessions_silent") == 0 {
                stays.send_frame(Opcode::Pong, b"alive");
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        daemon.until_logged("close_code=1011");
        eventually("its place is free", || (daemon.held("sessions") == 1).then_some(()));
        let _device = Device::connect("127.0.0.1", port);
        stays.event();
    });
}

fn a_driver_whose_machine_is_gone_is_let_go_though_a_little_is_delivered_to_it(shards: usize) {
    let Some(network) = Network::new() else { return };
    network.run(quick(shards), |daemon| {
        let port = free_port();
        let mut gone = network.wire(daemon, Transport::Tcp, port, "127.0.0.1");
        let mut stays = daemon.join_tcp(port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = stays.opened();
        assert_eq!(gone.event(), Event::Opened(addr.clone()));
        within("the driver is let go", Duration::ZERO, MOST, || {
            network.cut();
            while daemon.held("sessions") > 1 {
                device.send(b"x");
                stays.received(&addr, b"x");
                std::thread::sleep(Duration::from_millis(100));
            }
        });
    });
}

fn a_driver_whose_machine_is_gone_while_it_is_delivered_to_is_let_go(shards: usize) {
    let Some(network) = Network::new() else { return };
    let setup = Setup::new(shards).limit("stall-ms-max", 1_500).limit("linger-ms-max", 500).limit("flush-ms-max", 500);
    network.run(setup, |daemon| {
        let port = free_port();
        let mut gone = network.wire(daemon, Transport::Tcp, port, "127.0.0.1");
        let mut stays = daemon.join_tcp(port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = stays.opened();
        assert_eq!(gone.event(), Event::Opened(addr.clone()));
        network.cut();
        let data = pattern(1, 0, 4 << 20);
        std::thread::scope(|scope| {
            scope.spawn(|| device.send(&data));
            within("the other driver gets all of it", Duration::ZERO, MOST, || stays.received(&addr, &data));
        });
        daemon.until_count("sessions_stalled", 1);
        eventually("its place is free", || (daemon.held("sessions") == 1).then_some(()));
    });
}

fn an_idle_device_whose_machine_is_gone_is_found_by_keepalive(shards: usize) {
    let Some(network) = Network::new() else { return };
    network.run(Setup::new(shards).limit("device-keepalive-ms", 1_000), |daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, THERE);
        let _device = network.device(port);
        let addr = driver.opened();
        // Three probes that are not answered.
        within("the idle device is found", Duration::from_millis(2_900), MOST, || {
            network.cut();
            driver.closed(&addr);
        });
    });
}

fn a_device_whose_machine_is_gone_after_a_write_is_found_by_keepalive(shards: usize) {
    let Some(network) = Network::new() else { return };
    network.run(Setup::new(shards).limit("device-keepalive-ms", 1_000), |daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, THERE);
        let mut device = network.device(port);
        let addr = driver.opened();
        driver.write(&addr, b"hello");
        device.expect(b"hello");
        device.send(b"hello yourself");
        driver.received(&addr, b"hello yourself");
        within("the idle device is found", Duration::from_millis(2_900), MOST, || {
            network.cut();
            driver.closed(&addr);
        });
    });
}

fn a_device_whose_machine_is_gone_under_a_write_is_let_go_after_its_timeout(shards: usize) {
    let Some(network) = Network::new() else { return };
    let setup = Setup::new(shards).limit("device-user-timeout-ms", 2_000).limit("device-keepalive-ms", 30_000);
    network.run(setup, |daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, &format!("{THERE},127.0.0.1"));
        let _gone = network.device(port);
        let gone_addr = driver.opened();
        let mut stays = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        within("the device is let go", Duration::from_millis(1_900), MOST, || {
            network.cut();
            driver.write(&gone_addr, b"nobody hears this");
            driver.write(&addr, b"served on");
            stays.expect(b"served on");
            driver.closed(&gone_addr);
        });
        driver.write(&addr, b"and on");
        stays.expect(b"and on");
    });
}

fn a_link_that_comes_back_in_time_loses_nothing(shards: usize) {
    let Some(network) = Network::new() else { return };
    network.run(Setup::new(shards), |daemon| {
        let port = free_port();
        let mut driver = network.driver(daemon, Transport::Tcp, port, THERE);
        let mut device = network.device(port);
        let addr = driver.opened();
        let (up, down) = (pattern(1, 0, 2 << 20), pattern(2, 0, 2 << 20));
        let mut sender = device.another_handle();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..3 {
                    network.cut();
                    std::thread::sleep(Duration::from_millis(500));
                    network.set(Weather::default());
                    std::thread::sleep(Duration::from_secs(1));
                }
            });
            let sent = scope.spawn(|| sender.send(&up));
            for part in down.chunks(50_000).take(4) {
                driver.write(&addr, part);
            }
            driver.received(&addr, &up);
            device.expect(&down[..200_000]);
            sent.join().unwrap();
        });
    });
}
