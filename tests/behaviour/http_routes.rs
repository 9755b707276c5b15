//! Proves the routes, the token, and the order in which requests are refused.

use serde_json::json;

use crate::harness::{BASES, Daemon, Device, Setup, Transport, UPGRADE, eventually, free_port, join_target};

scenarios! {
    both_base_paths_serve_the_same_routes,
    health_and_version_need_no_token,
    the_version_has_exactly_the_keys_that_tools_read,
    every_form_of_the_right_token_is_taken,
    a_wrong_or_missing_token_is_401_and_nothing_more,
    a_header_without_the_token_beats_a_query_with_it,
    no_token_reaches_the_log,
    refusals_come_in_their_order,
    an_unknown_route_is_404,
    a_wrong_method_is_405_and_says_what_is_allowed,
    a_join_without_upgrade_is_426,
    every_answer_has_a_request_id_of_its_own,
    idle_statistics_have_no_keys,
    statistics_count_drivers_and_devices_while_a_port_is_open,
    a_module_id_stands_in_the_log_lines_of_its_session,
}

const AUTH: &str = "Authorization: Bearer testing\r\n";

fn both_base_paths_serve_the_same_routes(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for base in BASES {
            assert_eq!(daemon.fetch(base).status, 200, "{base}");
            assert_eq!(daemon.fetch(&format!("{base}/")).status, 200, "{base}/");
            let empty = serde_json::json!({"udp_listeners": {}, "tcp_listeners": {}, "tcp_clients": {}});
            daemon.until_statistics(&empty);
            assert_eq!([daemon.fetch(base).json(), daemon.fetch(&format!("{base}/")).json()], [empty.clone(), empty]);
            for route in ["healthz", "version"] {
                assert_eq!(daemon.fetch(&format!("{base}/{route}")).status, 200, "{base}/{route}");
            }
            for transport in [Transport::Tcp, Transport::Udp] {
                let target = join_target(base, transport, &free_port().to_string(), "127.0.0.1");
                assert!(daemon.upgrade(&target, "").is_ok(), "{target}");
            }
        }
    });
}

fn health_and_version_need_no_token(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for base in BASES {
            for route in ["healthz", "version"] {
                let target = format!("{base}/{route}");
                assert_eq!(daemon.connection().request("GET", &target, "").status, 200);
                let wrong = "Authorization: Bearer wrong\r\n";
                assert_eq!(daemon.connection().request("GET", &target, wrong).status, 200);
            }
        }
    });
}

fn the_version_has_exactly_the_keys_that_tools_read(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let response = daemon.fetch("/api/dispatch/v1/version");
        assert!(response.header("content-type").unwrap().starts_with("application/json"));
        let version = response.json();
        let mut keys: Vec<_> = version.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(keys, ["build_time", "commit", "platform_version", "service", "version"]);
        assert_eq!(version["service"], "dispatch");
        assert!(version["version"].as_str().unwrap().contains(env!("CARGO_PKG_VERSION")), "{version}");
    });
}

fn every_form_of_the_right_token_is_taken(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for header in [
            "Bearer testing",
            "bearer testing",
            "BEARER testing",
            "testing",
            "Bearer    testing",
            "Bearer testing  ",
            "  testing \t",
        ] {
            let response = daemon.connection().request("GET", BASES[0], &format!("Authorization: {header}\r\n"));
            assert_eq!(response.status, 200, "{header:?}");
        }
        for query in ["bearer_token=testing", "bearer_token=%20testing+", "a=b&bearer_token=testing&c"] {
            let response = daemon.connection().request("GET", &format!("{}?{query}", BASES[0]), "");
            assert_eq!(response.status, 200, "{query:?}");
        }
        let lower = daemon.connection().request("GET", BASES[0], "authorization: Bearer testing\r\n");
        assert_eq!(lower.status, 200, "the name of a header in lower case");
    });
}

fn assert_unauthorised(daemon: &Daemon, target: &str, headers: &str) {
    let response = daemon.connection().request("GET", target, headers);
    assert_eq!(response.status, 401, "{target} with {headers:?}");
    assert_eq!(response.text(), r#"{"error":"invalid authorisation token"}"#);
}

fn a_wrong_or_missing_token_is_401_and_nothing_more(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let join = join_target(BASES[0], Transport::Tcp, &free_port().to_string(), "127.0.0.1");
        for target in [BASES[0], BASES[1], "/api/server/", &join] {
            assert_unauthorised(daemon, target, "");
            for token in ["wrong", "Bearer wrong", "Bearer Testing", "TESTING", "testin", "testing1", "Bearer", ""] {
                assert_unauthorised(daemon, target, &format!("Authorization: {token}\r\n"));
            }
        }
        assert_unauthorised(daemon, &format!("{}?bearer_token=Testing", BASES[0]), "");
        assert_unauthorised(daemon, &format!("{}?bearer_token=", BASES[0]), "");
    });
}

fn a_header_without_the_token_beats_a_query_with_it(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let target = format!("{}?bearer_token=testing", BASES[0]);
        for header in ["", "Bearer", "Bearer ", "wrong"] {
            assert_unauthorised(daemon, &target, &format!("Authorization: {header}\r\n"));
        }
    });
}

fn no_token_reaches_the_log(shards: usize) {
    Setup::new(shards).secret("open-sesame").variable("LOG_LEVEL", "trace").run(|daemon| {
        let join = join_target(BASES[0], Transport::Tcp, &free_port().to_string(), "127.0.0.1");
        for token in ["open-sesame", "close-sesame"] {
            for target in [BASES[0], "/api/server/nope", "/api/server/tcp_dispatch"] {
                daemon.connection().request("GET", target, &format!("Authorization: Bearer {token}\r\n"));
                daemon.connection().request("GET", &format!("{target}?bearer_token={token}"), "");
            }
            let response = daemon.connection().request("GET", &format!("{join}&bearer_token={token}"), UPGRADE);
            assert_eq!(response.status == 101, token == "open-sesame");
        }
        let last = daemon.upgrade(&join, "X-Module-ID: mod-last\r\n");
        daemon.until_logged("mod-last");
        assert!(!daemon.log().contains("sesame"), "a token in the log");
        drop(last);
    });
}

fn refusals_come_in_their_order(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let taken = std::net::TcpListener::bind(("0.0.0.0", free_port())).unwrap();
        let taken = taken.local_addr().unwrap().port();
        let status = |method: &str, target: &str, headers: &str| {
            daemon.connection().request(method, &format!("{}{target}", BASES[1]), headers).status
        };
        assert_eq!(status("POST", "/nope", ""), 404);
        assert_eq!(status("POST", "/tcp_dispatch", ""), 405);
        assert_eq!(status("GET", "/tcp_dispatch", ""), 401);
        assert_eq!(status("GET", "/tcp_dispatch", AUTH), 422);
        assert_eq!(status("GET", "/tcp_dispatch?port=70000&accept=127.0.0.1", AUTH), 400);
        assert_eq!(status("GET", &format!("/tcp_dispatch?port={taken}&accept=127.0.0.1"), AUTH), 426);
        let upgrade = format!("{AUTH}{UPGRADE}");
        assert_eq!(status("GET", "/tcp_dispatch?accept=127.0.0.1", &upgrade), 422);
        assert_eq!(status("GET", "/tcp_dispatch?port=0&accept=127.0.0.1", &upgrade), 400);
        assert_eq!(status("GET", &format!("/tcp_dispatch?port={taken}&accept=127.0.0.1"), &upgrade), 409);
    });
}

fn an_unknown_route_is_404(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for target in
            ["/api", "/api/dispatch", "/api/dispatch/v2", "/api/server/nope", "/api/serverx", "/api/server/healthz/x"]
        {
            assert_eq!(daemon.fetch(target).status, 404, "{target}");
        }
    });
}

fn a_wrong_method_is_405_and_says_what_is_allowed(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for route in ["", "/healthz", "/version", "/tcp_dispatch", "/udp_dispatch"] {
            for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
                let target = format!("{}{route}", BASES[0]);
                let response = daemon.connection().request(method, &target, AUTH);
                assert_eq!(response.status, 405, "{method} {target}");
                let allow = response.header("allow").unwrap().to_owned();
                assert!(allow.split(',').any(|allowed| allowed.trim() == "GET"), "{allow}");
            }
        }
    });
}

fn a_join_without_upgrade_is_426(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for transport in [Transport::Tcp, Transport::Udp] {
            let target = join_target(BASES[0], transport, &free_port().to_string(), "127.0.0.1");
            let response = daemon.connection().request("GET", &target, AUTH);
            assert_eq!(response.status, 426);
            assert!(response.header("upgrade").unwrap().eq_ignore_ascii_case("websocket"));
        }
        assert_eq!(daemon.statistics(), json!({"udp_listeners": {}, "tcp_listeners": {}, "tcp_clients": {}}));
    });
}

fn every_answer_has_a_request_id_of_its_own(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let join = join_target(BASES[0], Transport::Tcp, &free_port().to_string(), "127.0.0.1");
        let mut ids = std::collections::BTreeSet::new();
        let mut answers = 0;
        for (method, target, headers, status) in [
            ("GET", "/api/server/healthz", "", 200),
            ("GET", "/api/server/healthz", "", 200),
            ("GET", "/api/server", "", 401),
            ("GET", "/nope", "", 404),
            ("POST", "/api/server", "", 405),
            ("GET", "/api/server/tcp_dispatch", AUTH, 422),
            ("GET", "/api/server/tcp_dispatch?port=0&accept=1.2.3.4", AUTH, 400),
            ("GET", &join, AUTH, 426),
            ("GET", &join, &format!("{AUTH}{UPGRADE}"), 101),
        ] {
            let response = daemon.connection().request(method, target, headers);
            assert_eq!(response.status, status, "{method} {target}");
            let id = response.header("x-request-id").unwrap_or_else(|| panic!("no id in {response:?}"));
            assert!(id.len() >= 8, "{id:?}");
            ids.insert(id.to_owned());
            answers += 1;
        }
        assert_eq!(ids.len(), answers, "an id twice");
    });
}

fn idle_statistics_have_no_keys(shards: usize) {
    Setup::new(shards).run(|daemon| {
        assert_eq!(daemon.statistics(), json!({"udp_listeners": {}, "tcp_listeners": {}, "tcp_clients": {}}));
    });
}

fn statistics_count_drivers_and_devices_while_a_port_is_open(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let (tcp, udp) = (free_port(), free_port());
        let (t, u) = (tcp.to_string(), udp.to_string());
        let mut first = daemon.join_tcp(tcp, "127.0.0.1");
        assert_eq!(daemon.statistics(), json!({"udp_listeners": {}, "tcp_listeners": {&t: 1}, "tcp_clients": {&t: 0}}));
        let second = daemon.join_tcp(tcp, "127.0.0.2");
        let third = daemon.join_udp(udp, "127.0.0.1");
        let fourth = daemon.join_udp(tcp, "127.0.0.1");
        let device = Device::connect("127.0.0.1", tcp);
        let addr = first.opened();
        let all = json!({"udp_listeners": {&u: 1, &t: 1}, "tcp_listeners": {&t: 2}, "tcp_clients": {&t: 1}});
        assert_eq!(daemon.statistics(), all);
        first.close(&addr);
        first.closed(&addr);
        daemon.until_statistics(
            &json!({"udp_listeners": {&u: 1, &t: 1}, "tcp_listeners": {&t: 2}, "tcp_clients": {&t: 0}}),
        );
        fourth.leave();
        second.leave();
        daemon.until_statistics(&json!({"udp_listeners": {&u: 1}, "tcp_listeners": {&t: 1}, "tcp_clients": {&t: 0}}));
        first.leave();
        third.leave();
        daemon.until_statistics(&json!({"udp_listeners": {}, "tcp_listeners": {}, "tcp_clients": {}}));
        drop(device);
    });
}

fn a_module_id_stands_in_the_log_lines_of_its_session(shards: usize) {
    Setup::new(shards).run(|daemon| {
        daemon.join_as("mod-4711", Transport::Tcp, free_port(), "127.0.0.1").leave();
        daemon.join_tcp(free_port(), "127.0.0.1").leave();
        for (what, told) in [("driver joined", 2), ("driver left", 2)] {
            let lines = eventually(what, || {
                let log = daemon.log();
                let lines: Vec<_> = log.lines().filter(|line| line.contains(what)).map(str::to_owned).collect();
                (lines.len() == told).then_some(lines)
            });
            let of_it = lines.iter().filter(|line| line.contains("event_source=\"mod-4711\"")).count();
            assert_eq!(of_it, 1, "{lines:#?}");
        }
    });
}
