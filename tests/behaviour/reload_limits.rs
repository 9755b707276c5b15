//! Proves that a reload reaches what is counted by token and by source, the ages of devices, and who is believed about
//! addresses: on every shard, and with nobody dropped who is there.

use std::io::Read;

use crate::harness::{
    BASES, Connection, Daemon, Device, Metrics, Transport, UPGRADE, eventually, free_port, join_target,
};
use crate::reload::Folder;
use crate::sources::{flap, flapping};

scenarios! {
    sessions_of_a_token_follow_their_limit,
    balancers_of_the_api_are_listed_and_no_longer,
    proxies_whose_headers_are_logged_are_listed_and_no_longer,
    the_age_of_devices_reaches_those_that_are_there,
    connects_of_a_source_are_limited_and_no_longer,
    a_source_is_refused_for_as_long_as_was_set_when_that_began,
}

const BALANCER: &str = "127.0.0.9";

/// The status of one's own join, as a driver gets it.
fn refusal_status(daemon: &Daemon, port: u16) -> u16 {
    daemon.refusal(Transport::Tcp, &port.to_string(), "127.0.0.1").status
}

fn sessions_of_a_token_follow_their_limit(shards: usize) {
    let folder = Folder::with("sessions_per_token_max = 1\n");
    folder.setup(shards).run(|daemon| {
        let port = free_port();
        let mut first = daemon.join_tcp(port, "127.0.0.1");
        // However many connections, and so shards, are tried.
        (0..2 * shards).for_each(|_| assert_eq!(refusal_status(daemon, port), 429));
        folder.reload(daemon, "sessions_per_token_max = 2\n");
        let second = daemon.join_tcp(port, "127.0.0.1");
        (0..2 * shards).for_each(|_| assert_eq!(refusal_status(daemon, port), 429));
        // Another secret beside it has sessions of its own, and takes none of these.
        folder.reload(daemon, "sessions_per_token_max = 1\nserver_secret_next = 'another'\n");
        assert_eq!((refusal_status(daemon, port), daemon.held("sessions")), (429, 2));
        let metrics = Metrics::parse(daemon.fetch("/metrics").text());
        assert_eq!(metrics.value("dispatch_session_slots_per_token_limit"), 1.0);
        second.leave();
        eventually("the second has left", || (daemon.held("sessions") == 1).then_some(()));
        assert_eq!(refusal_status(daemon, port), 429);
        // The first was there all the time.
        let device = Device::connect("127.0.0.1", port);
        let addr = first.opened();
        drop(device);
        first.closed(&addr);
        first.leave();
        eventually("there is room", || daemon.try_join(Transport::Tcp, &port.to_string(), "127.0.0.1").ok()).leave();
        folder.reload(daemon, "");
        let many: Vec<_> = (0..4).map(|_| daemon.join_tcp(port, "127.0.0.1")).collect();
        drop(many);
    });
}

/// Whether the API serves this source without a header before its request.
fn is_served(daemon: &Daemon, source: &str) -> bool {
    let mut connection = Connection::open_from(source, daemon.api());
    connection.send("GET /api/server/healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let (mut stream, mut answer) = connection.into_parts();
    // A reset ends it as well.
    let _ = stream.read_to_end(&mut answer);
    answer.starts_with(b"HTTP/1.1 200")
}

fn balancers_of_the_api_are_listed_and_no_longer(shards: usize) {
    let folder = Folder::with("");
    folder.setup(shards).run(|daemon| {
        let mut before = Connection::open_from(BALANCER, daemon.api());
        assert_eq!(before.request("GET", "/api/server/healthz", "").status, 200);
        for round in 1..3 {
            folder.reload(daemon, &format!("proxy_from = ['{BALANCER}']\n"));
            for _ in 0..4 * shards {
                assert!(!is_served(daemon, BALANCER));
                assert!(is_served(daemon, "127.0.0.8"));
            }
            assert_eq!(daemon.count("connections_refused_proxy"), (round * 4 * shards) as u64);
            let mut named = Connection::open_from(BALANCER, daemon.api());
            named.send("PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\n");
            assert_eq!(named.request("GET", BASES[0], "Authorization: Bearer wrong\r\n").status, 401);
            let refused = daemon.fetch(&format!("{}/refused?address=192.0.2.7", BASES[0])).json();
            assert_ne!(refused["total"], 0, "{refused}");
            // Whose it is was settled as it came.
            assert_eq!(before.request("GET", "/api/server/healthz", "").status, 200);
            folder.reload(daemon, "proxy_from = 'none'\n");
            assert!((0..4 * shards).all(|_| is_served(daemon, BALANCER)));
        }
    });
}

fn proxies_whose_headers_are_logged_are_listed_and_no_longer(shards: usize) {
    let folder = Folder::with("");
    folder.setup(shards).run(|daemon| {
        let mut named = 0;
        // Joins of several connections, which meet several shards, each with an address of its own.
        let mut joins = |is_listed: bool| {
            for _ in 0..4 * shards {
                named += 1;
                let (port, address) = (free_port(), format!("192.0.2.{named}"));
                let target = join_target(BASES[0], Transport::Tcp, &port.to_string(), "127.0.0.1");
                let mut connection = Connection::open_from(BALANCER, daemon.api());
                let headers = format!("Authorization: Bearer testing\r\nX-Forwarded-For: {address}\r\n{UPGRADE}");
                assert_eq!(connection.request("GET", &target, &headers).status, 101);
                let about = format!("server_port={port}");
                let line = eventually("the join is in the log", || {
                    let log = daemon.log();
                    log.lines().find(|line| line.contains("driver joined") && line.contains(&about)).map(str::to_owned)
                });
                let told = if is_listed { &*address } else { BALANCER };
                assert!(line.contains(&format!("remote_ip={told}")), "{line}");
            }
        };
        joins(false);
        folder.reload(daemon, &format!("forwarded_from = ['{BALANCER}']\n"));
        joins(true);
        folder.reload(daemon, "");
        joins(false);
    });
}

fn the_age_of_devices_reaches_those_that_are_there(shards: usize) {
    let folder = Folder::with("");
    folder.setup(shards).run(|daemon| {
        let (port, other) = (free_port(), free_port());
        let (mut driver, mut other_driver) = (daemon.join_tcp(port, "127.0.0.1"), daemon.join_tcp(other, "127.0.0.1"));
        let aged =
            || Metrics::parse(daemon.fetch("/metrics").text()).value("dispatch_devices_ended_total{ending=\"aged\"}");
        let mut there = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        folder.reload(daemon, &format!("device_age_seconds_max = ['{port}=1']\n"));
        driver.closed(&addr);
        there.ends();
        assert_eq!(aged(), 1.0);
        // From here on those of the other port end, and those of this one stay, however old.
        folder.reload(daemon, &format!("device_age_seconds_max = ['{other}=1']\n"));
        let mut stays = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        for _ in 0..2 {
            let _ends = Device::connect("127.0.0.1", other);
            let ended = other_driver.opened();
            other_driver.closed(&ended);
        }
        stays.send(b"still here");
        driver.received(&addr, b"still here");
        assert_eq!(aged(), 3.0);
        // A longer one takes the place of a shorter one before that is over, and none that of any.
        folder.reload(daemon, &format!("device_age_seconds_max = ['{other}=1', 3600]\n"));
        let _ends = Device::connect("127.0.0.1", other);
        let ended = other_driver.opened();
        other_driver.closed(&ended);
        folder.reload(daemon, "");
        stays.send(b"and still");
        driver.received(&addr, b"and still");
        assert_eq!(aged(), 4.0);
    });
}

/// Connects so often at once, and says how many were let in.
fn let_in(daemon: &Daemon, source: &str, port: u16, times: u64) -> u64 {
    let (opened, refused) = (daemon.count("devices_opened"), daemon.count("devices_refused_flapping"));
    let there: Vec<Device> = (0..times).map(|_| Device::connect(source, port)).collect();
    let let_in = eventually("all are let in or refused", || {
        let let_in = daemon.count("devices_opened") - opened;
        (let_in + daemon.count("devices_refused_flapping") - refused == times).then_some(let_in)
    });
    drop(there);
    let_in
}

fn connects_of_a_source_are_limited_and_no_longer(shards: usize) {
    let folder = Folder::with("");
    folder.setup(shards).run(|daemon| {
        // Ports of several shards.
        let ports: Vec<u16> = (0..2 * shards).map(|_| free_port()).collect();
        let _drivers: Vec<_> = ports.iter().map(|port| daemon.join_tcp(*port, "127.0.0.0/8")).collect();
        let limited = "source_connects_per_second_max = 1\nsource_refused_ms = 600_000\n";
        for round in 0..2 {
            assert_eq!(let_in(daemon, "127.0.0.7", ports[0], 20), 20);
            folder.reload(daemon, limited);
            flap(daemon, "127.0.0.7", ports[0]);
            assert!(ports.iter().all(|port| let_in(daemon, "127.0.0.7", *port, 2) == 0));
            assert_eq!((flapping(daemon, "").len(), daemon.count("sources_flapping")), (1, round + 1));
            // A reload of something else leaves it refused.
            folder.reload(daemon, &format!("ports_max = 1000\n{limited}"));
            assert_eq!((let_in(daemon, "127.0.0.7", ports[0], 1), flapping(daemon, "").len()), (0, 1));
            // Without a limit nobody is refused, nor once there is one again.
            folder.reload(daemon, "");
            assert!(flapping(daemon, "").is_empty());
        }
        folder.reload(daemon, "source_connects_per_second_max = 1000\n");
        assert_eq!(let_in(daemon, "127.0.0.7", ports[0], 20), 20);
    });
}

fn a_source_is_refused_for_as_long_as_was_set_when_that_began(shards: usize) {
    let config = |ms: u32| format!("source_connects_per_second_max = 1\nsource_refused_ms = {ms}\n");
    let folder = Folder::with(&config(600_000));
    folder.setup(shards).run(|daemon| {
        let port = free_port();
        let _driver = daemon.join_tcp(port, "127.0.0.0/8");
        let seconds = |source: &str| {
            let row = flapping(daemon, &format!("?address={source}")).remove(0);
            row["until"].as_u64().unwrap() - row["since"].as_u64().unwrap()
        };
        flap(daemon, "127.0.0.7", port);
        folder.reload(daemon, &config(300_000));
        flap(daemon, "127.0.0.8", port);
        assert_eq!((seconds("127.0.0.7"), seconds("127.0.0.8")), (600, 300));
        // Who flaps from here on is soon let in again.
        folder.reload(daemon, &config(1_000));
        flap(daemon, "127.0.0.6", port);
        eventually("it is let in again", || (let_in(daemon, "127.0.0.6", port, 1) == 1).then_some(()));
        assert_eq!((seconds("127.0.0.7"), seconds("127.0.0.8")), (600, 300));
    });
}
