//! Proves the lists of ports, drivers and devices: what they show, how they are filtered, ordered and paged, and that
//! what a filter finds is disconnected exactly where as many match as are expected.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{BASES, Daemon, Device, Setup, Transport, eventually, free_port};

scenarios! {
    every_list_needs_the_token,
    a_port_is_listed_with_what_it_carries,
    a_driver_is_listed_with_who_it_is,
    a_device_is_listed_with_what_it_sent_and_got,
    filters_find_what_they_say_and_nothing_else,
    idle_devices_are_told_from_those_that_send,
    what_waits_for_a_device_is_a_backlog,
    pages_are_stable_while_devices_come_and_go,
    rows_come_in_the_order_that_is_asked_for,
    a_parameter_that_is_not_understood_is_400_by_name,
    what_is_not_there_is_404,
    a_device_is_disconnected_and_its_driver_told,
    a_driver_is_disconnected_with_1008,
    a_driver_that_reads_nothing_is_disconnected_as_well,
    many_are_disconnected_where_exactly_as_many_match,
    with_another_number_expected_nothing_happens,
    hundreds_of_devices_are_paged_through,
}

const LISTS: [&str; 3] = ["ports", "drivers", "devices"];

fn list(daemon: &Daemon, what: &str) -> Value {
    let response = daemon.fetch(&format!("{}/{what}", BASES[1]));
    assert_eq!(response.status, 200, "{what}: {}", response.text());
    response.json()
}

fn items(daemon: &Daemon, what: &str) -> Vec<Value> {
    let page = list(daemon, what);
    let items = page["items"].as_array().unwrap().clone();
    if page["next"].is_null() && !what.contains("after=") {
        assert_eq!(page["total"], items.len(), "{what}");
    }
    items
}

fn ids(daemon: &Daemon, what: &str) -> Vec<u64> {
    items(daemon, what).iter().map(|item| item["id"].as_u64().unwrap()).collect()
}

fn every_list_needs_the_token(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for base in BASES {
            for path in LISTS.iter().copied().chain(["ports/tcp/1", "drivers/1", "devices/tcp/1/1"]) {
                let target = format!("{base}/{path}");
                for method in ["GET", "DELETE"].into_iter().filter(|method| *method == "GET" || !path.contains("port"))
                {
                    let response = daemon.connection().request(method, &target, "");
                    assert_eq!(response.status, 401, "{method} {target}");
                }
            }
            let response = daemon.connection().request("DELETE", &format!("{base}/ports"), "");
            assert_eq!((response.status, response.header("allow")), (405, Some("GET, HEAD")));
            let response = daemon.connection().request("PUT", &format!("{base}/devices"), "");
            assert_eq!((response.status, response.header("allow")), (405, Some("GET, HEAD, DELETE")));
        }
        for what in LISTS {
            assert_eq!(list(daemon, what), serde_json::json!({"items": [], "total": 0, "next": null}));
        }
    });
}

fn a_port_is_listed_with_what_it_carries(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let (tcp, udp) = (free_port(), free_port());
        let mut driver = daemon.join_tcp(tcp, "127.0.0.1");
        let other = daemon.join_udp(udp, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", tcp);
        let addr = driver.opened();
        device.send(b"hello");
        driver.received(&addr, b"hello");
        let ports = items(daemon, "ports");
        assert_eq!((ports.len(), &ports[0]["transport"], &ports[1]["transport"]), (2, &"tcp".into(), &"udp".into()));
        let one = list(daemon, &format!("ports/tcp/{tcp}"));
        assert_eq!(one, ports[0]);
        for (name, value) in [("port", u64::from(tcp)), ("drivers", 1), ("devices", 1), ("bytes_received", 5)] {
            assert_eq!(one[name], value, "{one}");
        }
        assert!(one["shard"].as_u64().unwrap() < shards as u64);
        assert_eq!(items(daemon, "ports?transport=udp")[0]["port"], udp);
        assert_eq!(items(daemon, &format!("ports?port={tcp}")).len(), 1);
        drop((driver, other, device));
    });
}

fn a_driver_is_listed_with_who_it_is(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let driver = daemon.join_as("mod-1", Transport::Tcp, port, "127.0.0.1,10.0.0.0/8");
        let nameless = daemon.join_tcp(port, "127.0.0.1");
        let drivers = items(daemon, "drivers?module=mod-1");
        assert_eq!(drivers.len(), 1);
        let one = &drivers[0];
        assert_eq!(
            (&one["address"], &one["module"], &one["port"]),
            (&"127.0.0.1".into(), &"mod-1".into(), &port.into())
        );
        assert_eq!(one["accept"], "127.0.0.1,10.0.0.0/8");
        assert!(one["remote_port"].as_u64().unwrap() > 0);
        for time in ["since", "last_seen"] {
            assert!((before - 2..=before + 10).contains(&one[time].as_u64().unwrap()), "{one}");
        }
        let same = list(daemon, &format!("drivers/{}", one["id"]));
        assert_eq!(same["module"], "mod-1");
        let all = items(daemon, "drivers");
        assert!(all.len() == 2 && all.iter().any(|driver| driver["module"].is_null()), "{all:?}");
        driver.leave();
        eventually("the driver is not listed any more", || {
            items(daemon, "drivers?module=mod-1").is_empty().then_some(())
        });
        drop(nameless);
    });
}

fn a_device_is_listed_with_what_it_sent_and_got(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.0/8");
        let mut device = Device::connect("127.0.0.7", port);
        let addr = driver.opened();
        device.send(b"hello");
        driver.received(&addr, b"hello");
        driver.write(&addr, b"bye");
        device.expect(b"bye");
        let target = format!("devices/tcp/{port}/0");
        eventually("the bytes are listed", || (list(daemon, &target)["bytes_written"] == 3).then_some(()));
        let one = list(daemon, &target);
        assert_eq!((&one["address"], &one["bytes_received"], &one["id"]), (&"127.0.0.7".into(), &5.into(), &0.into()));
        assert_eq!(one["remote_port"], device.local().port());
        assert_eq!(one["backlog_bytes"], 0);
        drop(driver);
    });
}

fn filters_find_what_they_say_and_nothing_else(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let (first, second) = (free_port(), free_port());
        let one = daemon.join_as("mod-1", Transport::Tcp, first, "127.0.0.0/8,::1");
        let two = daemon.join_as("mod-2", Transport::Tcp, second, "127.0.0.0/8");
        let mut devices: Vec<Device> =
            ["127.0.0.1", "127.0.0.2", "127.0.1.1", "::1"].iter().map(|ip| Device::connect(ip, first)).collect();
        devices.extend(["127.0.0.1", "127.0.1.1"].iter().map(|ip| Device::connect(ip, second)));
        daemon.until_count("devices_opened", 6);
        for (filter, count) in [
            ("", 6),
            ("address=127.0.0.1", 2),
            ("address=127.0.1.0/24", 2),
            ("address=127.0.0.2,::1", 2),
            ("address=10.0.0.0/8", 0),
            (&format!("port={first}"), 4),
            (&format!("port={first}&address=127.0.0.0/24"), 2),
            ("transport=udp", 0),
            ("module=mod-2", 2),
            ("module=mod", 0),
            (&format!("module=mod-1&port={second}"), 0),
            ("backlog=true", 0),
            ("backlog=false", 6),
            ("idle_seconds_min=3600", 0),
        ] {
            assert_eq!(items(daemon, &format!("devices?{filter}")).len(), count, "{filter}");
        }
        assert_eq!(items(daemon, &format!("drivers?port={second}"))[0]["module"], "mod-2");
        assert_eq!(items(daemon, "drivers?address=127.0.0.1").len(), 2);
        assert_eq!(items(daemon, "drivers?address=::/0").len(), 0);
        drop((one, two, devices));
    });
}

fn idle_devices_are_told_from_those_that_send(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let silent = Device::connect("127.0.0.1", port);
        driver.opened();
        let mut busy = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        eventually("the silent one is idle", || {
            busy.send(b"x");
            driver.received(&addr, b"x");
            (ids(daemon, "devices?idle_seconds_min=2") == [0]).then_some(())
        });
        assert_eq!(ids(daemon, "devices?sort=-last_seen&limit=2")[0], 1);
        drop(silent);
    });
}

fn what_waits_for_a_device_is_a_backlog(shards: usize) {
    Setup::new(shards).limit("socket-bytes", 4_096).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let slow = Device::with_receive_buffer("127.0.0.1", port, Some(4_096)).unwrap();
        let addr = driver.opened();
        let quick = Device::connect("127.0.0.1", port);
        driver.opened();
        driver.write(&addr, &[7; 200_000]);
        eventually("bytes wait", || (ids(daemon, "devices?backlog=true") == [0]).then_some(()));
        let drivers = items(daemon, "drivers?sort=-credit_bytes");
        assert!(drivers[0]["credit_bytes"].as_u64().unwrap() >= 200_000, "{drivers:?}");
        slow.reset();
        eventually("nothing waits", || ids(daemon, "devices?backlog=true").is_empty().then_some(()));
        drop(quick);
    });
}

/// What no two connected devices share: only together are the numbers of both ends one of a kind.
fn name(device: &Value) -> (u64, u64) {
    (device["port"].as_u64().unwrap(), device["remote_port"].as_u64().unwrap())
}

/// Pages through a list, with something done between pages.
fn page_through(daemon: &Daemon, what: &str, mut between: impl FnMut(usize)) -> Vec<Value> {
    let mut found = Vec::new();
    let mut after = String::new();
    for turn in 0.. {
        let page = list(daemon, &format!("{what}{after}"));
        found.extend(page["items"].as_array().unwrap().iter().cloned());
        let Some(next) = page["next"].as_str() else { break };
        after = format!("&after={next}");
        between(turn);
    }
    found
}

fn pages_are_stable_while_devices_come_and_go(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let ports = [free_port(), free_port(), free_port()];
        let drivers = ports.map(|port| daemon.join_tcp(port, "127.0.0.1"));
        let mut devices: Vec<Device> = (0..60).map(|at| Device::connect("127.0.0.1", ports[at % 3])).collect();
        daemon.until_count("devices_opened", 60);
        let all = page_through(daemon, "devices?limit=1000", |_| {});
        assert_eq!(all.len(), 60);
        // Those that stay are met once each, whatever comes and goes between pages.
        let staying = devices.split_off(30);
        let names: BTreeSet<(u64, u64)> =
            staying.iter().map(|device| (device.peer_port().into(), device.local().port().into())).collect();
        let mut passing = devices;
        let found = page_through(daemon, "devices?limit=7", |turn| {
            passing.pop();
            passing.push(Device::connect("127.0.0.1", ports[turn % 3]));
        });
        let found: Vec<(u64, u64)> = found.iter().map(name).collect();
        let once: BTreeSet<(u64, u64)> = found.iter().copied().collect();
        assert_eq!(once.len(), found.len(), "one was met twice");
        assert!(once.is_superset(&names), "one was not met");
        drop(drivers);
    });
}

fn rows_come_in_the_order_that_is_asked_for(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let ports = [free_port(), free_port()];
        let drivers = ports.map(|port| daemon.join_tcp(port, "127.0.0.0/8"));
        let mut devices = Vec::new();
        for at in 0..20 {
            let mut device = Device::connect(&format!("127.0.0.{}", 30 - at), ports[at % 2]);
            device.send(&vec![1; (at * 7) % 20 + 1]);
            devices.push(device);
        }
        eventually("all was received", || (daemon.count("device_bytes_received") == 210).then_some(()));
        let bytes = |sort: &str| -> Vec<u64> {
            let rows = page_through(daemon, &format!("devices?limit=3&sort={sort}"), |_| {});
            rows.iter().map(|row| row["bytes_received"].as_u64().unwrap()).collect()
        };
        assert_eq!(bytes("bytes_received"), (1..=20).collect::<Vec<_>>());
        assert_eq!(bytes("-bytes_received"), (1..=20).rev().collect::<Vec<_>>());
        let rows = page_through(daemon, "devices?sort=address", |_| {});
        let addresses: Vec<&str> = rows.iter().map(|row| row["address"].as_str().unwrap()).collect();
        assert_eq!(addresses[0], "127.0.0.11");
        assert_eq!(addresses[19], "127.0.0.30");
        drop(drivers);
    });
}

fn a_parameter_that_is_not_understood_is_400_by_name(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let long = format!("module={}", "a".repeat(600));
        for (query, parameter) in [
            ("devices?limit=0", "limit"),
            ("devices?limit=1001", "limit"),
            ("devices?sort=colour", "sort"),
            ("devices?after=1", "after"),
            ("devices?adress=127.0.0.1", "adress"),
            ("devices?address=localhost", "address"),
            ("devices?expected=1", "expected"),
            ("drivers?port=1&port=2", "port"),
            ("ports?module=x", "module"),
            (&format!("drivers?{long}"), "module"),
        ] {
            let response = daemon.fetch(&format!("{}/{query}", BASES[0]));
            assert_eq!((response.status, response.member("parameter").as_str()), (400, parameter), "{query}");
            assert!(!response.member("restriction").is_empty());
        }
        // The token may stand in the query, and is no filter.
        let response = daemon.connection().request("GET", "/api/server/ports?bearer_token=testing", "");
        assert_eq!(response.status, 200);
    });
}

fn what_is_not_there_is_404(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let driver = daemon.join_tcp(port, "127.0.0.1");
        for path in [
            "ports/tcp/1".to_owned(),
            format!("ports/udp/{port}"),
            "ports/sctp/1".to_owned(),
            "ports/tcp/0".to_owned(),
            "drivers/999999999".to_owned(),
            "drivers/x".to_owned(),
            format!("devices/tcp/{port}/0"),
            format!("devices/udp/{port}/0"),
            format!("devices/tcp/{port}/-1"),
        ] {
            for method in ["GET", "DELETE"].into_iter().filter(|method| *method == "GET" || !path.starts_with("ports"))
            {
                let response = daemon.ask(method, &format!("{}/{path}", BASES[1]));
                assert_eq!(response.status, 404, "{method} {path}");
            }
        }
        drop(driver);
    });
}

fn a_device_is_disconnected_and_its_driver_told(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        let target = format!("{}/devices/tcp/{port}/0", BASES[0]);
        let response = daemon.ask("DELETE", &target);
        assert_eq!((response.status, response.text()), (200, r#"{"disconnected":1}"#));
        driver.closed(&addr);
        device.ends();
        drop(device);
        eventually("it is not there any more", || (daemon.ask("DELETE", &target).status == 404).then_some(()));
        daemon.until_logged("end=\"operator\"");
        daemon.until_logged("disconnected by the operator");
    });
}

fn a_driver_is_disconnected_with_1008(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let stays = daemon.join_tcp(port, "127.0.0.1");
        let id = ids(daemon, "drivers?sort=since&limit=1")[0];
        let first = ids(daemon, "drivers").into_iter().min().unwrap();
        assert!(id >= first);
        let mine = items(daemon, "drivers");
        let mine = mine.iter().find(|row| row["remote_port"] == driver.local_port()).unwrap()["id"].clone();
        assert_eq!(daemon.ask("DELETE", &format!("{}/drivers/{mine}", BASES[1])).status, 200);
        assert_eq!(driver.close_reason(), (1008, "disconnected by the operator".to_owned()));
        driver.ends();
        drop(driver);
        eventually("one is left", || (items(daemon, "drivers").len() == 1).then_some(()));
        drop(stays);
    });
}

fn a_driver_that_reads_nothing_is_disconnected_as_well(shards: usize) {
    Setup::new(shards).limit("socket-bytes", 4_096).run(|daemon| {
        let port = free_port();
        let wire = daemon.wire(Transport::Tcp, port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        device.send_until_blocked(1, 8 << 20, Duration::from_millis(300));
        let stuck = ids(daemon, "drivers?backlog=true");
        assert_eq!(stuck.len(), 1);
        assert_eq!(daemon.ask("DELETE", &format!("{}/drivers/{}", BASES[1], stuck[0])).status, 200);
        eventually("the driver is gone", || items(daemon, "drivers").is_empty().then_some(()));
        daemon.until_logged("end=\"operator\"");
        drop(wire);
    });
}

fn many_are_disconnected_where_exactly_as_many_match(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let ports = [free_port(), free_port(), free_port()];
        let drivers = ports.map(|port| daemon.join_tcp(port, "127.0.0.0/8"));
        let devices: Vec<Device> = (0..60)
            .map(|at| Device::connect(if at % 2 == 0 { "127.0.0.1" } else { "127.0.0.2" }, ports[at % 3]))
            .collect();
        daemon.until_count("devices_opened", 60);
        let response = daemon.ask("DELETE", &format!("{}/devices?address=127.0.0.2&expected=30", BASES[0]));
        assert_eq!((response.status, response.text()), (200, r#"{"disconnected":30}"#));
        eventually("the others are left", || (list(daemon, "devices")["total"] == 30).then_some(()));
        assert!(items(daemon, "devices?address=127.0.0.2").is_empty());
        let response = daemon.ask("DELETE", &format!("{}/drivers?expected=3", BASES[0]));
        assert_eq!((response.status, response.text()), (200, r#"{"disconnected":3}"#));
        eventually("nobody is left", || (list(daemon, "ports")["total"] == 0).then_some(()));
        assert_eq!(daemon.ask("DELETE", &format!("{}/devices?expected=0", BASES[0])).status, 200);
        drop((drivers, devices));
    });
}

fn with_another_number_expected_nothing_happens(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let ports = [free_port(), free_port()];
        let drivers = ports.map(|port| daemon.join_tcp(port, "127.0.0.1"));
        let devices: Vec<Device> = (0..10).map(|at| Device::connect("127.0.0.1", ports[at % 2])).collect();
        daemon.until_count("devices_opened", 10);
        for expected in [0, 9, 11, 100_000] {
            for (what, matching) in [("devices", 10u64), ("drivers", 2)] {
                let response = daemon.ask("DELETE", &format!("{}/{what}?expected={expected}", BASES[1]));
                assert_eq!(response.status, 409, "{what} {expected}");
                // Of many more than expected, only so many are counted.
                let said = response.json()["matching"].as_u64().unwrap();
                assert!(said != expected && said <= matching, "{said} of {matching}");
            }
        }
        let response = daemon.ask("DELETE", &format!("{}/devices?address=127.0.0.1", BASES[1]));
        assert_eq!((response.status, response.member("parameter").as_str()), (422, "expected"));
        let response = daemon.ask("DELETE", &format!("{}/devices?expected=10&addres=127.0.0.9", BASES[1]));
        assert_eq!((response.status, response.member("parameter").as_str()), (400, "addres"));
        // What chooses a page of those that match would have more disconnected than the page shows.
        for (name, value) in [("limit", "10"), ("sort", "id"), ("after", "id~0~0")] {
            let target = format!("{}/devices?expected=10&{name}={value}", BASES[0]);
            let response = daemon.ask("DELETE", &target);
            assert_eq!((response.status, response.member("parameter").as_str()), (400, name));
            assert_eq!(response.member("restriction"), "is for GET alone");
        }
        assert_eq!((list(daemon, "devices")["total"].clone(), daemon.count("devices_ended")), (10.into(), 0));
        assert_eq!(daemon.count("sessions_ended"), 0);
        drop((drivers, devices));
    });
}

fn hundreds_of_devices_are_paged_through(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let ports = [free_port(), free_port(), free_port()];
        let drivers = ports.map(|port| daemon.join_tcp(port, "127.0.0.1"));
        let devices: Vec<Device> = (0..400).map(|at| Device::connect("127.0.0.1", ports[at % 3])).collect();
        daemon.until_count("devices_opened", 400);
        let found = page_through(daemon, "devices?limit=100&sort=-since", |_| {});
        let remotes: BTreeSet<(u64, u64)> = found.iter().map(name).collect();
        assert_eq!((found.len(), remotes.len()), (400, 400));
        drop((drivers, devices));
    });
}
