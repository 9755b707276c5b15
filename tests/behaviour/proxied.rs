//! Proves the addresses of remotes behind balancers and proxies: whom the PROXY protocol's header names, from listed addresses
//! alone, counts for everything; whom an HTTP header names is shown in the log.

use std::net::SocketAddr;

use serde_json::Value;

use crate::harness::{
    Addr, BASES, Connection, Daemon, Device, Driver, Setup, Transport, UPGRADE, eventually, free_port, join_target,
    pattern,
};

scenarios! {
    a_device_has_the_address_that_its_balancers_header_names,
    what_came_with_the_header_is_received_after_opened,
    a_header_may_come_in_pieces,
    the_named_address_is_the_one_that_is_accepted_or_refused,
    a_device_of_one_family_may_come_through_a_balancer_of_the_other,
    limits_of_a_source_are_about_the_named_address,
    a_listed_balancer_without_a_header_is_refused,
    a_listed_balancer_that_says_nothing_is_let_go,
    a_balancers_own_connection_is_no_device,
    whoever_is_not_listed_is_not_believed,
    a_driver_has_the_address_that_its_balancers_header_names,
    a_listed_balancer_of_the_api_without_a_header_is_ended,
    a_balancers_health_check_of_the_api_is_answered,
    wrong_tokens_count_for_the_named_address,
    a_listed_proxys_header_is_shown_in_the_log,
}

const BALANCER: &str = "127.0.0.9";
const REMOTE: &str = "192.0.2.7:4711";
const REMOTE_V6: &str = "[2001:db8::7]:4711";

/// A balancer before devices.
fn setup(shards: usize) -> Setup {
    Setup::new(shards).variable("DISPATCH_DEVICE_PROXY_FROM", &format!("{BALANCER},::1"))
}

/// The header of version 1.
fn line(remote: &str) -> Vec<u8> {
    let remote: SocketAddr = remote.parse().unwrap();
    let (family, local) = if remote.is_ipv4() { ("TCP4", "10.0.0.1") } else { ("TCP6", "fd00::1") };
    format!("PROXY {family} {} {local} {} 80\r\n", remote.ip(), remote.port()).into_bytes()
}

/// The header of version 2.
fn binary(remote: &str) -> Vec<u8> {
    let remote: SocketAddr = remote.parse().unwrap();
    let (family, mut addresses) = match remote.ip() {
        std::net::IpAddr::V4(ip) => (0x11, [ip.octets(), [10, 0, 0, 1]].concat()),
        std::net::IpAddr::V6(ip) => (0x21, [ip.octets(), [0; 16]].concat()),
    };
    addresses.extend(remote.port().to_be_bytes());
    addresses.extend([0, 80]);
    binary_of(0x21, family, &addresses)
}

fn binary_of(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length, rest].concat()
}

/// A device that comes through the balancer, with these bytes sent at once.
fn through(port: u16, bytes: &[u8]) -> Device {
    let mut device = Device::connect(BALANCER, port);
    device.send(bytes);
    device
}

fn refused(daemon: &Daemon) -> Vec<Value> {
    daemon.fetch(&format!("{}/refused", BASES[0])).json()["items"].as_array().unwrap().clone()
}

fn opened_and_closed(driver: &mut Driver, ip: &str, id: u64, device: Device) {
    let addr = Addr::new(ip, id);
    assert_eq!(driver.opened(), addr);
    drop(device);
    driver.closed(&addr);
}

fn a_device_has_the_address_that_its_balancers_header_names(shards: usize) {
    setup(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "192.0.2.0/24,2001:db8::/32");
        let headers = [line(REMOTE), binary(REMOTE), line(REMOTE_V6), binary(REMOTE_V6)];
        for (id, header) in headers.iter().enumerate() {
            let ip = if id < 2 { "192.0.2.7" } else { "2001:db8::7" };
            let mut device = through(port, header);
            let addr = driver.opened();
            assert_eq!(addr, Addr::new(ip, id as u64));
            device.send(b"there");
            driver.received(&addr, b"there");
            driver.write(&addr, b"back");
            device.expect(b"back");
            let listed = daemon.fetch(&format!("{}/devices/tcp/{port}/{id}", BASES[0])).json();
            assert_eq!((&listed["address"], &listed["remote_port"]), (&ip.into(), &4711.into()));
            drop(device);
            driver.closed(&addr);
        }
        daemon.until_logged("remote_ip=2001:db8::7");
    });
}

fn what_came_with_the_header_is_received_after_opened(shards: usize) {
    setup(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "192.0.2.7");
        let addr = Addr::new("192.0.2.7", 0);
        let data = pattern(7, 0, 300_000);
        let mut device = through(port, &[line(REMOTE), b"first".to_vec()].concat());
        assert_eq!(driver.opened(), addr);
        driver.received(&addr, b"first");
        std::thread::scope(|scope| {
            scope.spawn(|| device.send(&data));
            driver.received(&addr, &data);
        });
        let addr = Addr::new("192.0.2.7", 1);
        std::thread::scope(|scope| {
            scope.spawn(|| through(port, &[binary(REMOTE), data.clone()].concat()));
            assert_eq!(driver.opened(), addr);
            driver.received(&addr, &data);
        });
        driver.closed(&addr);
        assert_eq!(daemon.count("device_bytes_received"), 600_005);
    });
}

fn a_header_may_come_in_pieces(shards: usize) {
    setup(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "192.0.2.7");
        for (id, header) in [line(REMOTE), binary(REMOTE)].into_iter().enumerate() {
            let mut device = Device::connect(BALANCER, port);
            for byte in &header {
                device.send(&[*byte]);
                std::thread::yield_now();
            }
            device.send(b"x");
            let addr = Addr::new("192.0.2.7", id as u64);
            assert_eq!(driver.opened(), addr);
            driver.received(&addr, b"x");
            drop(device);
            driver.closed(&addr);
        }
    });
}

fn the_named_address_is_the_one_that_is_accepted_or_refused(shards: usize) {
    setup(shards).run(|daemon| {
        let port = free_port();
        // The balancer's own address is accepted, which means nothing.
        let mut driver = daemon.join_tcp(port, &format!("{BALANCER},192.0.2.8"));
        through(port, &line(REMOTE)).is_disconnected();
        assert_eq!(daemon.count("devices_refused_source"), 1);
        let row = &refused(daemon)[0];
        assert_eq!((&row["address"], &row["reason"]), (&"192.0.2.7".into(), &"source".into()));
        let device = through(port, &line("192.0.2.8:1"));
        opened_and_closed(&mut driver, "192.0.2.8", 0, device);
    });
}

fn a_device_of_one_family_may_come_through_a_balancer_of_the_other(shards: usize) {
    setup(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "2001:db8::7");
        let device = through(port, &line(REMOTE_V6));
        opened_and_closed(&mut driver, "2001:db8::7", 0, device);
        // Another port: the one before may be open still when it is joined again, and its ids go on.
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "192.0.2.7");
        let mut device = Device::connect("::1", port);
        device.send(&binary(REMOTE));
        opened_and_closed(&mut driver, "192.0.2.7", 0, device);
    });
}

fn limits_of_a_source_are_about_the_named_address(shards: usize) {
    setup(shards).limit("devices-per-source-max", 1).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "192.0.2.0/24");
        let devices: Vec<Device> = (1..=3).map(|host| through(port, &line(&format!("192.0.2.{host}:1")))).collect();
        let mut opened: Vec<String> = (0..3).map(|_| driver.opened().ip).collect();
        opened.sort_unstable();
        assert_eq!(opened, ["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        through(port, &line("192.0.2.2:2")).is_disconnected();
        assert_eq!(daemon.count("devices_refused_source_limit"), 1);
        drop(devices);
    });
}

fn a_listed_balancer_without_a_header_is_refused(shards: usize) {
    setup(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "0.0.0.0/0");
        let long = binary_of(0x21, 0x11, &[0; 600]);
        for (bytes, reason) in [
            (&b"hello"[..], "proxy_header_missing"),
            (b"PROXY TCP4 192.0.2.7\r\n", "proxy_header_malformed"),
            (&long, "proxy_header_too_long"),
        ] {
            through(port, bytes).is_disconnected();
            eventually("it is listed", || {
                let rows = refused(daemon);
                let row = rows.iter().find(|row| row["reason"] == reason)?;
                assert_eq!((&row["what"], &row["address"]), (&"device".into(), &BALANCER.into()), "{row}");
                assert_eq!(row["port"], port);
                Some(())
            });
        }
        assert_eq!((daemon.count("devices_refused_proxy"), daemon.count("devices_opened")), (3, 0));
        daemon.until_logged("a connection of a listed balancer was ended: it sends no PROXY header");
        // Others are served.
        let device = through(port, &line(REMOTE));
        opened_and_closed(&mut driver, "192.0.2.7", 0, device);
    });
}

fn a_listed_balancer_that_says_nothing_is_let_go(shards: usize) {
    setup(shards).run(|daemon| {
        let port = free_port();
        let _driver = daemon.join_tcp(port, "0.0.0.0/0");
        let mut silent = Device::connect(BALANCER, port);
        through(port, b"PROXY TCP4").is_disconnected();
        silent.is_disconnected();
        daemon.until_count("devices_refused_proxy", 2);
        assert_eq!(refused(daemon)[0]["reason"], "proxy_header_late");
    });
}

fn a_balancers_own_connection_is_no_device(shards: usize) {
    setup(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "0.0.0.0/0");
        for check in [&b"PROXY UNKNOWN\r\n"[..], &binary_of(0x20, 0, &[]), &binary_of(0x20, 0x11, &[0; 12])] {
            through(port, check).is_disconnected();
        }
        // One that names itself, as HAProxy's checks do, and one that connects and closes.
        let mut check = Device::connect(BALANCER, port);
        let own = check.local().to_string();
        check.send(&line(&own));
        check.is_disconnected();
        drop(Device::connect(BALANCER, port));
        daemon.until_count("balancer_checks", 5);
        assert!(refused(daemon).is_empty());
        let device = through(port, &line(REMOTE));
        opened_and_closed(&mut driver, "192.0.2.7", 0, device);
    });
}

fn whoever_is_not_listed_is_not_believed(shards: usize) {
    setup(shards).variable("DISPATCH_PROXY_FROM", BALANCER).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "0.0.0.0/0");
        let mut device = Device::connect("127.0.0.8", port);
        device.send(&line(REMOTE));
        let addr = driver.opened();
        assert_eq!(addr.ip, "127.0.0.8");
        driver.received(&addr, &line(REMOTE));
        let mut connection = Connection::open_from("127.0.0.8", daemon.api());
        connection.send(line(REMOTE));
        assert_eq!(connection.response().status, 400);
        drop(device);
    });
}

fn a_driver_has_the_address_that_its_balancers_header_names(shards: usize) {
    Setup::new(shards).variable("DISPATCH_PROXY_FROM", BALANCER).run(|daemon| {
        let port = free_port();
        for (header, ip) in [(line(REMOTE), "192.0.2.7"), (binary(REMOTE_V6), "2001:db8::7")] {
            let mut connection = Connection::open_from(BALANCER, daemon.api());
            let target = join_target(BASES[0], Transport::Tcp, &port.to_string(), "127.0.0.1");
            let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer testing\r\n{UPGRADE}\r\n");
            // In one go: what comes behind the header is the request.
            connection.send([header, request.into_bytes()].concat());
            assert_eq!(connection.head_only().status, 101);
            let (stream, pending) = connection.into_parts();
            let mut driver = Driver::new(stream, pending);
            let listed = daemon.fetch(&format!("{}/drivers", BASES[0])).json()["items"][0].clone();
            assert_eq!((&listed["address"], &listed["remote_port"]), (&ip.into(), &4711.into()));
            daemon.until_logged(&format!("remote_ip={ip}"));
            let device = Device::connect("127.0.0.1", port);
            let addr = driver.opened();
            drop(device);
            driver.closed(&addr);
            driver.leave();
            eventually("the driver is not listed any more", || {
                (daemon.fetch(&format!("{}/drivers", BASES[0])).json()["total"] == 0).then_some(())
            });
        }
    });
}

fn a_listed_balancer_of_the_api_without_a_header_is_ended(shards: usize) {
    Setup::new(shards).variable("DISPATCH_PROXY_FROM", BALANCER).run(|daemon| {
        let mut connection = Connection::open_from(BALANCER, daemon.api());
        connection.send("GET /api/server/healthz HTTP/1.1\r\nHost: x\r\n\r\n");
        connection.ends();
        daemon.until_count("connections_refused_proxy", 1);
        let row = &refused(daemon)[0];
        assert_eq!((&row["what"], &row["reason"]), (&"connection".into(), &"proxy_header_missing".into()));
        assert_eq!((&row["address"], &row["port"]), (&BALANCER.into(), &Value::Null));
        daemon.until_logged("a connection of a listed balancer was ended");
    });
}

fn a_balancers_health_check_of_the_api_is_answered(shards: usize) {
    Setup::new(shards).variable("DISPATCH_PROXY_FROM", BALANCER).run(|daemon| {
        for check in [b"PROXY UNKNOWN\r\n".to_vec(), binary_of(0x20, 0, &[])] {
            let mut connection = Connection::open_from(BALANCER, daemon.api());
            connection.send(check);
            assert_eq!(connection.request("GET", "/api/server/healthz", "").status, 200);
        }
        drop(Connection::open_from(BALANCER, daemon.api()));
        daemon.until_count("balancer_checks", 3);
        assert_eq!(daemon.count("connections_refused_proxy"), 0);
    });
}

fn wrong_tokens_count_for_the_named_address(shards: usize) {
    Setup::new(shards).variable("DISPATCH_PROXY_FROM", BALANCER).run(|daemon| {
        let mut connection = Connection::open_from(BALANCER, daemon.api());
        connection.send(line(REMOTE));
        assert_eq!(connection.request("GET", BASES[0], "Authorization: Bearer wrong\r\n").status, 401);
        let row = &refused(daemon)[0];
        assert_eq!((&row["what"], &row["address"]), (&"token".into(), &"192.0.2.7".into()));
        daemon.until_logged("remote_ip=192.0.2.7");
    });
}

fn a_listed_proxys_header_is_shown_in_the_log(shards: usize) {
    Setup::new(shards).variable("DISPATCH_FORWARDED_FROM", BALANCER).run(|daemon| {
        for (source, header, told) in [
            (BALANCER, "X-Forwarded-For: 198.51.100.1, 192.0.2.1", "192.0.2.1"),
            (BALANCER, "Forwarded: for=\"[2001:db8::2]:4711\";proto=https", "2001:db8::2"),
            ("127.0.0.8", "X-Forwarded-For: 192.0.2.3", "127.0.0.8"),
        ] {
            let mut connection = Connection::open_from(source, daemon.api());
            let headers = format!("Authorization: Bearer wrong\r\n{header}\r\n");
            assert_eq!(connection.request("GET", BASES[0], &headers).status, 401);
            daemon.until_logged(&format!("token refused remote_ip={told}"));
        }
        assert!(!daemon.log().contains("192.0.2.3") && !daemon.log().contains("198.51.100.1"));
        let port = free_port();
        let target = join_target(BASES[0], Transport::Tcp, &port.to_string(), "127.0.0.1");
        let mut connection = Connection::open_from(BALANCER, daemon.api());
        let headers = format!("Authorization: Bearer testing\r\nX-Forwarded-For: 192.0.2.4\r\n{UPGRADE}");
        assert_eq!(connection.request("GET", &target, &headers).status, 101);
        daemon.until_logged("remote_ip=192.0.2.4");
        // Beside the log, the address is the connection's.
        let listed = daemon.fetch(&format!("{}/drivers", BASES[0])).json();
        assert_eq!(listed["items"][0]["address"], BALANCER);
    });
}
