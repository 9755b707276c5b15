//! Proves the limits of one source and of one token: right for all ports and shards together, and for nobody else.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{
    BASES, Connection, Daemon, Device, Driver, Event, Metrics, Setup, Transport, UPGRADE, eventually, free_port,
    join_target,
};

scenarios! {
    a_source_has_no_more_devices_than_it_may_on_all_ports_together,
    a_device_that_ends_makes_room_for_another_of_its_source,
    a_source_that_connects_too_often_is_refused_and_others_are_not,
    ports_of_all_shards_together_let_no_source_connect_more_often,
    a_source_is_refused_for_a_while_and_no_longer,
    what_sources_have_stands_in_the_metrics_beside_their_limits,
    sources_that_flap_are_listed_and_forgiven,
    a_source_that_no_driver_accepts_cannot_flap,
    what_is_asked_of_sources_that_flap_is_checked,
    a_token_has_no_more_sessions_than_it_may_on_all_shards_together,
}

/// Drivers on so many ports that each shard is home to one at least.
fn join_everywhere(daemon: &Daemon, shards: usize) -> Vec<(u16, Driver)> {
    let mut joined = Vec::new();
    let mut homes = BTreeSet::new();
    while homes.len() < shards {
        let port = free_port();
        joined.push((port, daemon.join_tcp(port, "127.0.0.0/8,::1")));
        homes.insert(daemon.fetch(&format!("{}/ports/tcp/{port}", BASES[0])).json()["shard"].as_u64().unwrap());
    }
    joined
}

/// The sources that are refused, as a query finds them.
pub fn flapping(daemon: &Daemon, query: &str) -> Vec<Value> {
    let response = daemon.fetch(&format!("{}/flapping{query}", BASES[1]));
    assert_eq!(response.status, 200, "{query}: {}", response.text());
    response.json()["items"].as_array().unwrap().clone()
}

/// Connects until a connection is refused as one too many; at a rate of one a second that is soon.
pub fn flap(daemon: &Daemon, source: &str, port: u16) {
    let counts = || (daemon.count("devices_opened"), daemon.count("devices_refused_flapping"));
    let (opened, refused) = counts();
    let mut there = Vec::new();
    eventually("the source flaps", || {
        there.push(Device::connect(source, port));
        // Nothing is under way when it is over.
        let now = eventually("it is let in or refused", || {
            let now = counts();
            (now.0 + now.1 == opened + refused + there.len() as u64).then_some(now)
        });
        (now.1 > refused).then_some(())
    });
}

/// Takes what drivers are told until each device that was opened is closed.
fn until_all_are_closed(daemon: &Daemon) {
    eventually("all devices are gone", || (daemon.held("devices") == 0).then_some(()));
}

fn a_source_has_no_more_devices_than_it_may_on_all_ports_together(shards: usize) {
    Setup::new(shards).limit("devices-per-source-max", 4).run(|daemon| {
        let joined = join_everywhere(daemon, shards);
        let ports: Vec<u16> = joined.iter().map(|(port, _)| *port).collect();
        let devices: Vec<Device> = (0..12).map(|at| Device::connect("127.0.0.7", ports[at % ports.len()])).collect();
        daemon.until_count("devices_refused_source_limit", 8);
        assert_eq!((daemon.count("devices_opened"), daemon.held("devices")), (4, 4));
        // Others have room of their own.
        let others: Vec<Device> = (0..4).map(|at| Device::connect("127.0.0.8", ports[at % ports.len()])).collect();
        daemon.until_count("devices_opened", 8);
        assert_eq!(daemon.count("devices_refused_source_limit"), 8);
        let refused = daemon.fetch(&format!("{}/refused?address=127.0.0.7", BASES[0])).json();
        assert_eq!(refused["items"][0]["reason"], "source_limit");
        drop((devices, others));
    });
}

fn a_device_that_ends_makes_room_for_another_of_its_source(shards: usize) {
    Setup::new(shards).limit("devices-per-source-max", 1).run(|daemon| {
        let mut joined = join_everywhere(daemon, shards);
        let ports: Vec<u16> = joined.iter().map(|(port, _)| *port).collect();
        for round in 0..4 {
            for (at, &port) in ports.iter().enumerate() {
                let device = Device::connect("127.0.0.1", port);
                let (_, driver) = &mut joined[at];
                let addr = driver.opened();
                Device::connect("127.0.0.1", ports[(at + 1) % ports.len()]).is_disconnected();
                match round {
                    0 => drop(device),
                    1 => device.reset(),
                    2 => driver.close(&addr),
                    _ => assert_eq!(daemon.ask("DELETE", &format!("{}/devices?expected=1", BASES[0])).status, 200),
                }
                driver.closed(&addr);
            }
        }
    });
}

fn a_source_that_connects_too_often_is_refused_and_others_are_not(shards: usize) {
    Setup::new(shards).limit("source-connects-per-second-max", 1).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.0/8");
        flap(daemon, "127.0.0.7", port);
        for _ in 0..3 {
            Device::connect("127.0.0.7", port).is_disconnected();
        }
        until_all_are_closed(daemon);
        while !matches!(driver.event(), Event::Closed(_)) {}
        let other = Device::connect("127.0.0.8", port);
        let addr = eventually("the other one is let in", || match driver.event() {
            Event::Opened(addr) if addr.ip == "127.0.0.8" => Some(addr),
            _ => None,
        });
        drop(other);
        driver.closed(&addr);
        // It began once, and is told of once.
        assert_eq!(daemon.count("sources_flapping"), 1);
        daemon.until_logged("a source connects too often: it is refused for a while");
        let refused = daemon.fetch(&format!("{}/refused?address=127.0.0.7", BASES[0])).json();
        let refused = &refused["items"][0];
        assert_eq!((&refused["reason"], &refused["what"]), (&"flapping".into(), &"device".into()));
        assert!(refused["times"].as_u64().unwrap() >= 4, "{refused}");
    });
}

fn ports_of_all_shards_together_let_no_source_connect_more_often(shards: usize) {
    const RATE: usize = 5;
    Setup::new(shards).limit("source-connects-per-second-max", RATE).run(|daemon| {
        let joined = join_everywhere(daemon, shards);
        let ports: Vec<u16> = joined.iter().map(|(port, _)| *port).collect();
        let begun = Instant::now();
        let devices: Vec<Device> = (0..40).map(|at| Device::connect("127.0.0.7", ports[at % ports.len()])).collect();
        eventually("all are let in or refused", || {
            (daemon.count("devices_opened") + daemon.count("devices_refused_flapping") == 40).then_some(())
        });
        // However long it took: so many at once, and then in step with the rate.
        let most = RATE as f64 * (1.0 + begun.elapsed().as_secs_f64()) + 1.0;
        let opened = daemon.count("devices_opened");
        assert!(opened >= RATE as u64 && opened as f64 <= most, "{opened} of {most} at most");
        drop(devices);
    });
}

fn a_source_is_refused_for_a_while_and_no_longer(shards: usize) {
    // Longer than the rate alone would keep it out.
    const REFUSED_MS: usize = 3_000;
    let setup = Setup::new(shards).limit("source-connects-per-second-max", 1).limit("source-refused-ms", REFUSED_MS);
    setup.run(|daemon| {
        let port = free_port();
        let _driver = daemon.join_tcp(port, "127.0.0.0/8");
        let start = Instant::now();
        flap(daemon, "127.0.0.7", port);
        let opened = daemon.count("devices_opened");
        eventually("it is let in again", || {
            let _device = Device::connect("127.0.0.7", port);
            (daemon.count("devices_opened") > opened).then_some(())
        });
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(REFUSED_MS as u64 - 300), "let in again after {took:?}");
    });
}

fn what_sources_have_stands_in_the_metrics_beside_their_limits(shards: usize) {
    let shown = |daemon: &Daemon, [used, limit]: [&str; 2]| {
        let metrics = Metrics::parse(daemon.fetch("/metrics").text());
        (metrics.value(used), metrics.value(limit))
    };
    let devices = ["dispatch_device_slots_per_source", "dispatch_device_slots_per_source_limit"];
    let refused = ["dispatch_sources_refused", "dispatch_source_connects_per_second_limit"];
    Setup::new(shards).limit("devices-per-source-max", 3).run(|daemon| {
        assert_eq!((shown(daemon, devices), shown(daemon, refused)), ((0.0, 3.0), (0.0, f64::INFINITY)));
        let joined = join_everywhere(daemon, shards);
        let sources = ["127.0.0.7", "127.0.0.8", "127.0.0.7", "127.0.0.7"];
        let connect = |(at, source): (usize, &str)| Device::connect(source, joined[at % joined.len()].0);
        let there: Vec<Device> = sources.into_iter().enumerate().map(connect).collect();
        daemon.until_count("devices_opened", 4);
        assert_eq!(shown(daemon, devices), (3.0, 3.0));
        drop(there);
        eventually("none is there any more", || (shown(daemon, devices).0 == 0.0).then_some(()));
    });
    let setup = Setup::new(shards).limit("source-connects-per-second-max", 1).limit("source-refused-ms", 600_000);
    setup.run(|daemon| {
        assert_eq!((shown(daemon, devices), shown(daemon, refused)), ((0.0, f64::INFINITY), (0.0, 1.0)));
        let joined = join_everywhere(daemon, shards);
        for (at, source) in ["127.0.1.1", "127.0.1.2", "127.0.1.3"].into_iter().enumerate() {
            flap(daemon, source, joined[at % joined.len()].0);
            assert_eq!(shown(daemon, refused).0, (at + 1) as f64);
        }
        assert_eq!(daemon.ask("DELETE", &format!("{}/flapping/127.0.1.2", BASES[0])).status, 200);
        assert_eq!(shown(daemon, refused).0, 2.0);
    });
}

fn sources_that_flap_are_listed_and_forgiven(shards: usize) {
    let setup = Setup::new(shards).limit("source-connects-per-second-max", 1).limit("source-refused-ms", 600_000);
    setup.run(|daemon| {
        let port = free_port();
        let _driver = daemon.join_tcp(port, "127.0.0.0/8,::1");
        assert!(flapping(daemon, "").is_empty());
        let sources = ["::1", "127.0.0.7", "127.0.0.8", "127.0.0.9"];
        sources.iter().for_each(|source| flap(daemon, source, port));
        let rows = flapping(daemon, "?sort=address");
        let addresses: Vec<&str> = rows.iter().map(|row| row["address"].as_str().unwrap()).collect();
        assert_eq!(addresses, sources, "{rows:?}");
        for row in &rows {
            let (since, until) = (row["since"].as_u64().unwrap(), row["until"].as_u64().unwrap());
            assert!(until - since == 600 && row["times"].as_u64().unwrap() >= 1, "{row}");
        }
        assert_eq!(flapping(daemon, "?address=127.0.0.8/31").len(), 2);
        assert_eq!(daemon.fetch("/api/server/flapping/127.0.0.8").member("address"), "127.0.0.8");
        // One, one whose colons are encoded, and what a filter finds.
        for target in ["/flapping/127.0.0.7", "/flapping/%3A%3A1", "/flapping?address=127.0.0.0/8&expected=2"] {
            let response = daemon.ask("DELETE", &format!("{}{target}", BASES[0]));
            let forgiven = if target.contains("expected") { 2 } else { 1 };
            assert_eq!((response.status, response.json()), (200, json!({ "forgiven": forgiven })), "{target}");
        }
        assert!(flapping(daemon, "").is_empty());
        daemon.until_logged("sources that flapped were forgiven by the operator");
        let opened = daemon.count("devices_opened");
        let _devices = sources.map(|source| Device::connect(source, port));
        daemon.until_count("devices_opened", opened + 4);
    });
}

fn a_source_that_no_driver_accepts_cannot_flap(shards: usize) {
    Setup::new(shards).limit("source-connects-per-second-max", 1).run(|daemon| {
        let port = free_port();
        let _driver = daemon.join_tcp(port, "127.0.0.1");
        (0..10).for_each(|_| Device::connect("127.0.0.2", port).is_disconnected());
        assert_eq!((daemon.count("devices_refused_source"), daemon.count("devices_refused_flapping")), (10, 0));
        assert!(flapping(daemon, "").is_empty());
    });
}

fn what_is_asked_of_sources_that_flap_is_checked(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for (target, parameter) in
            [("?port=1", "port"), ("?transport=tcp", "transport"), ("?backlog=true", "backlog"), ("?sort=id", "sort")]
        {
            let response = daemon.fetch(&format!("{}/flapping{target}", BASES[0]));
            assert_eq!((response.status, response.member("parameter").as_str()), (400, parameter), "{target}");
        }
        for target in ["127.0.0.1", "::1", "x", "127.0.0.0%2F8"] {
            for method in ["GET", "DELETE"] {
                assert_eq!(daemon.ask(method, &format!("{}/flapping/{target}", BASES[1])).status, 404, "{target}");
            }
        }
        let response = daemon.ask("DELETE", &format!("{}/flapping", BASES[1]));
        assert_eq!((response.status, response.member("parameter").as_str()), (422, "expected"));
        let response = daemon.ask("DELETE", &format!("{}/flapping?expected=1", BASES[1]));
        assert_eq!((response.status, response.json()["matching"].clone()), (409, 0.into()));
        assert_eq!(daemon.connection().request("DELETE", "/api/server/flapping/127.0.0.1", "").status, 401);
        assert_eq!(daemon.ask("PUT", "/api/server/flapping").status, 405);
    });
}

fn a_token_has_no_more_sessions_than_it_may_on_all_shards_together(shards: usize) {
    let setup = Setup::new(shards).secret("old").variable("PLACE_SERVER_SECRET_NEXT", "new");
    setup.limit("sessions-per-token-max", 3).run(|daemon| {
        let port = free_port();
        let target = join_target(BASES[0], Transport::Tcp, &port.to_string(), "127.0.0.1");
        let join = |token: &str| {
            let mut connection: Connection = daemon.connection();
            let headers = format!("Authorization: Bearer {token}\r\n{UPGRADE}");
            let response = connection.request("GET", &target, &headers);
            (response.status, response, connection)
        };
        let mut there: Vec<Connection> = (0..3)
            .map(|_| {
                let (status, _, connection) = join("old");
                assert_eq!(status, 101);
                connection
            })
            .collect();
        for _ in 0..6 {
            let (status, response, _) = join("old");
            let error = "no room for another session of this token (--sessions-per-token-max)";
            assert_eq!((status, response.member("error").as_str()), (429, error));
        }
        assert_eq!(daemon.count("joins_refused"), 6);
        let refused = daemon.fetch(&format!("{}/refused", BASES[0])).json();
        assert_eq!(refused["items"][0]["reason"], "too_many_of_token");
        // The other token has sessions of its own, and requests that are no joins are none.
        let (status, _, other) = join("new");
        assert_eq!(status, 101);
        assert_eq!(daemon.held("sessions"), 4);
        drop(there.pop());
        there.push(eventually("there is room again", || {
            let (status, _, connection) = join("old");
            (status == 101).then_some(connection)
        }));
        let mut device = Device::connect("127.0.0.1", port);
        device.send(b"x");
        daemon.until_count("device_bytes_received", 1);
        drop((there, other));
    });
}
