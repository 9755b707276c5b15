//! Proves what an operator learns of refusals and endings, from the list and from the log, and that what is logged can be
//! changed while the daemon runs.

use serde_json::{Value, json};

use crate::harness::{BASES, Connection, Daemon, Datagrams, Device, Setup, Transport, eventually, free_port};

scenarios! {
    every_kind_of_refusal_is_listed_with_address_port_and_reason,
    refusals_that_are_alike_are_one_and_a_hundred_are_kept,
    refusals_are_filtered_and_need_the_token,
    no_token_is_among_the_refusals,
    refusals_and_endings_have_address_port_and_reason_in_the_log,
    refused_tokens_of_each_address_are_logged,
    the_log_level_is_changed_while_the_daemon_runs,
    a_log_level_that_is_none_changes_nothing,
}

fn refused(daemon: &Daemon, query: &str) -> Vec<Value> {
    let response = daemon.fetch(&format!("{}/refused{query}", BASES[1]));
    assert_eq!(response.status, 200, "{query}: {}", response.text());
    response.json()["items"].as_array().unwrap().clone()
}

fn every_kind_of_refusal_is_listed_with_address_port_and_reason(shards: usize) {
    Setup::new(shards).limit("devices-per-port-max", 1).run(|daemon| {
        let (tcp, udp, own) = (free_port(), free_port(), daemon.api().port());
        let mut driver = daemon.join_tcp(tcp, "127.0.0.1");
        let datagrams = daemon.join_udp(udp, "127.0.0.1");
        let device = Device::connect("127.0.0.1", tcp);
        driver.opened();
        Device::connect("127.0.0.2", tcp).is_disconnected();
        Device::connect("127.0.0.1", tcp).is_disconnected();
        Datagrams::bind("127.0.0.3").send(udp, b"x");
        daemon.refusal(Transport::Tcp, &own.to_string(), "127.0.0.1");
        Connection::open_from("127.0.0.4", daemon.api()).request("GET", BASES[0], "");
        daemon.until_count("datagrams_ignored_source", 1);
        let list = refused(daemon, "");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        for (what, address, transport, port, reason) in [
            ("device", "127.0.0.2", json!("tcp"), json!(tcp), "source"),
            ("device", "127.0.0.1", json!("tcp"), json!(tcp), "limit"),
            ("datagram", "127.0.0.3", json!("udp"), json!(udp), "source"),
            ("join", "127.0.0.1", json!("tcp"), json!(own), "own_port"),
            ("token", "127.0.0.4", Value::Null, Value::Null, "invalid"),
        ] {
            let found = list.iter().find(|row| row["what"] == what && row["reason"] == reason);
            let found = found.unwrap_or_else(|| panic!("no {what} {reason} in {list:?}"));
            assert_eq!((&found["address"], &found["transport"]), (&address.into(), &transport), "{found}");
            assert_eq!((&found["port"], &found["times"]), (&port, &1.into()), "{found}");
            assert!((now - 60..=now + 1).contains(&found["time"].as_u64().unwrap()), "{found}");
        }
        assert_eq!(list.len(), 5);
        drop((datagrams, device));
    });
}

fn refusals_that_are_alike_are_one_and_a_hundred_are_kept(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let driver = daemon.join_udp(port, "127.0.0.1");
        let stranger = Datagrams::bind("127.0.0.2");
        (0..5).for_each(|_| stranger.send(port, b"x"));
        daemon.until_count("datagrams_ignored_source", 5);
        let list = refused(daemon, "");
        assert_eq!((list.len(), &list[0]["times"]), (1, &5.into()));
        (0..120).for_each(|host| Datagrams::bind(&format!("127.0.1.{host}")).send(port, b"x"));
        daemon.until_count("datagrams_ignored_source", 125);
        let list = refused(daemon, "?limit=1000");
        assert_eq!(list.len(), 100);
        // The newest first.
        assert_eq!(list[0]["address"], "127.0.1.119");
        assert!(list.iter().all(|row| row["address"] != "127.0.0.2"));
        drop(driver);
    });
}

fn refusals_are_filtered_and_need_the_token(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let ports = [free_port(), free_port()];
        let drivers = ports.map(|port| daemon.join_tcp(port, "127.0.0.1"));
        for (ip, port) in [("127.0.0.2", ports[0]), ("127.0.0.3", ports[0]), ("127.0.0.2", ports[1])] {
            Device::connect(ip, port).is_disconnected();
        }
        for (query, count) in [
            ("", 3),
            ("?address=127.0.0.2", 2),
            ("?address=127.0.0.0/24", 3),
            (&format!("?port={}", ports[1]), 1),
            ("?transport=udp", 0),
            ("?limit=2", 2),
        ] {
            assert_eq!(refused(daemon, query).len(), count, "{query}");
        }
        let response = daemon.fetch("/api/server/refused?module=x");
        assert_eq!((response.status, response.member("parameter").as_str()), (400, "module"));
        assert_eq!(daemon.connection().request("GET", "/api/server/refused", "").status, 401);
        assert_eq!(daemon.ask("DELETE", "/api/server/refused").status, 405);
        drop(drivers);
    });
}

fn no_token_is_among_the_refusals(shards: usize) {
    Setup::new(shards).secret("open-sesame").run(|daemon| {
        for target in [BASES[0], "/api/server/refused", "/metrics"] {
            daemon.connection().request("GET", target, "Authorization: Bearer close-sesame\r\n");
            daemon.connection().request("GET", &format!("{target}?bearer_token=close-sesame"), "");
        }
        for target in ["/api/server/refused", "/metrics", "/api/server/drivers", "/api/server/log-level"] {
            let response = daemon.fetch(target);
            assert!(response.status == 200 && !response.text().contains("sesame"), "{}", response.text());
        }
        let response = daemon.fetch("/api/server/refused?bearer_token=open-sesame");
        assert!(response.status == 200 && !response.text().contains("sesame"));
    });
}

fn refusals_and_endings_have_address_port_and_reason_in_the_log(shards: usize) {
    let setup = Setup::new(shards).secret("own").variable("SG_ENV", "production").variable("LOG_LEVEL", "trace");
    setup.run(|daemon| {
        let (tcp, udp, own) = (free_port(), free_port(), daemon.api().port());
        let mut driver = daemon.join_tcp(tcp, "127.0.0.1");
        let datagrams = daemon.join_udp(udp, "127.0.0.1");
        let device = Device::connect("127.0.0.1", tcp);
        driver.opened();
        Device::connect("127.0.0.2", tcp).is_disconnected();
        Datagrams::bind("127.0.0.3").send(udp, b"x");
        daemon.refusal(Transport::Tcp, &own.to_string(), "127.0.0.1");
        Connection::open_from("127.0.0.4", daemon.api()).request("GET", BASES[0], "");
        device.reset();
        driver.event();
        driver.leave();
        for (message, ip, port, reason) in [
            ("device refused", "127.0.0.2", tcp, "source"),
            ("datagram refused", "127.0.0.3", udp, "source"),
            ("join refused", "127.0.0.1", own, "the port is that of the daemon's own API"),
            ("token refused", "127.0.0.4", own, "invalid"),
            ("device ended", "127.0.0.1", tcp, "the device's connection failed: connection reset"),
            ("driver left", "127.0.0.1", tcp, "the driver closed"),
        ] {
            daemon.until_logged(message);
            let log = daemon.log();
            let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            let line = lines.into_iter().find(|line| line["message"] == message).unwrap();
            // A driver's lines are about its session, which has the fields.
            let field = |name: &str| if line[name].is_null() { line["span"][name].clone() } else { line[name].clone() };
            assert_eq!((field("remote_ip"), field("server_port")), (ip.into(), port.into()), "{line}");
            assert_eq!(field("reason"), reason, "{line}");
        }
        drop(datagrams);
    });
}

fn refused_tokens_of_each_address_are_logged(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for host in 1..=9 {
            let ip = format!("127.0.9.{host}");
            for _ in 0..3 {
                Connection::open_from(&ip, daemon.api()).request("GET", BASES[0], "Authorization: wrong\r\n");
            }
            daemon.until_logged(&ip);
        }
        let lines = daemon.log().lines().filter(|line| line.contains("token refused")).count();
        assert!((9..=9 * shards).contains(&lines), "{lines} lines");
    });
}

fn log_level(daemon: &Daemon) -> String {
    daemon.fetch("/api/server/log-level").member("filter")
}

fn the_log_level_is_changed_while_the_daemon_runs(shards: usize) {
    Setup::new(shards).variable("LOG_LEVEL", "info").run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let connect = |driver: &mut crate::harness::Driver| {
            let device = Device::connect("127.0.0.1", port);
            let addr = driver.opened();
            drop(device);
            driver.closed(&addr);
        };
        assert_eq!(log_level(daemon), "info");
        connect(&mut driver);
        for base in BASES {
            let response = daemon.ask("PUT", &format!("{base}/log-level?filter=debug"));
            assert_eq!((response.status, response.member("filter").as_str()), (200, "debug"));
        }
        assert!(!daemon.log().contains("device opened"));
        connect(&mut driver);
        daemon.until_logged("device opened");
        daemon.until_logged("what is logged was changed");
        let response = daemon.ask("PUT", "/api/server/log-level?filter=warn,uring_dispatch::shard=trace");
        assert!(response.member("filter").contains("uring_dispatch::shard=trace"), "{}", response.text());
        // An empty one is what the daemon started with.
        assert_eq!(daemon.ask("PUT", "/api/server/log-level?filter=").status, 200);
        assert_eq!(log_level(daemon), "info");
        eventually("the log is at rest", || {
            let before = daemon.log_bytes();
            std::thread::sleep(std::time::Duration::from_millis(50));
            (before == daemon.log_bytes()).then_some(())
        });
        let before = daemon.log_bytes();
        connect(&mut driver);
        assert_eq!(daemon.log_bytes(), before);
    });
}

fn a_log_level_that_is_none_changes_nothing(shards: usize) {
    Setup::new(shards).variable("LOG_LEVEL", "warn").run(|daemon| {
        for filter in ["loud", "edge=loud", "%5Bport=", &"a".repeat(1_025)] {
            let response = daemon.ask("PUT", &format!("/api/server/log-level?filter={filter}"));
            assert_eq!((response.status, response.member("parameter").as_str()), (400, "filter"), "{filter}");
        }
        assert_eq!(daemon.ask("PUT", "/api/server/log-level").status, 422);
        let response = daemon.connection().request("PUT", "/api/server/log-level?filter=off", "");
        assert_eq!(response.status, 401);
        let response = daemon.ask("DELETE", "/api/server/log-level");
        assert_eq!((response.status, response.header("allow")), (405, Some("GET, HEAD, PUT")));
        assert_eq!(log_level(daemon), "warn");
    });
}
