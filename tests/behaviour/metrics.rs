//! Proves the metrics: their format, who gets them, and that they say what happens while it happens.

use crate::harness::{
    BASES, Daemon, Datagrams, Device, Event, Metrics, Setup, Transport, eventually, frame, free_port, join_target,
    pattern,
};

scenarios! {
    metrics_are_served_at_the_root_and_under_both_base_paths,
    metrics_need_the_token,
    open_metrics_need_no_token_and_nothing_else_is_open,
    what_is_connected_and_carried_is_in_the_metrics,
    endings_and_refusals_are_counted_by_kind,
    datagrams_are_counted_by_what_became_of_them,
    datagrams_that_the_kernel_drops_are_counted,
    the_opened_of_devices_that_were_there_before_a_driver_are_messages_too,
    every_limit_stands_beside_its_use,
    bytes_to_a_driver_count_while_they_flow,
    series_of_ports_can_be_switched_off,
    the_process_and_its_loops_are_measured,
    requests_are_timed_by_route,
}

fn scrape(daemon: &Daemon) -> Metrics {
    let response = daemon.fetch("/metrics");
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    Metrics::parse(response.text())
}

/// Scrapes until a series has reached this.
fn until(daemon: &Daemon, series: &str, least: f64) -> Metrics {
    eventually(&format!("{series} reaches {least}"), || {
        let metrics = scrape(daemon);
        (metrics.value(series) >= least).then_some(metrics)
    })
}

fn metrics_are_served_at_the_root_and_under_both_base_paths(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let families = |target: &str| Metrics::parse(daemon.fetch(target).text()).types;
        let root = families("/metrics");
        assert!(root.len() > 60, "{root:#?}");
        for base in BASES {
            assert_eq!(families(&format!("{base}/metrics")), root);
        }
        let head = daemon.connection().request("HEAD", "/metrics", "Authorization: testing\r\n");
        assert_eq!((head.status, head.body.len()), (200, 0));
        for target in ["/metrics/", "/metrics/x", "/api/server/metrics/"] {
            assert_eq!(daemon.fetch(target).status, 404, "{target}");
        }
    });
}

fn metrics_need_the_token(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for target in ["/metrics", "/api/server/metrics", "/api/dispatch/v1/metrics"] {
            for headers in ["", "Authorization: Bearer wrong\r\n"] {
                let response = daemon.connection().request("GET", target, headers);
                assert_eq!(response.status, 401);
                assert_eq!(response.text(), r#"{"error":"invalid authorisation token"}"#);
            }
        }
    });
}

fn open_metrics_need_no_token_and_nothing_else_is_open(shards: usize) {
    Setup::new(shards).variable("DISPATCH_METRICS_OPEN", "on").run(|daemon| {
        for headers in ["", "Authorization: Bearer wrong\r\n"] {
            let response = daemon.connection().request("GET", "/metrics", headers);
            assert_eq!(response.status, 200);
            Metrics::parse(response.text());
        }
        assert_eq!(daemon.connection().request("GET", BASES[0], "").status, 401);
        assert_eq!(daemon.connection().request("GET", &format!("{}/shards", BASES[1]), "").status, 401);
    });
}

fn what_is_connected_and_carried_is_in_the_metrics(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let (tcp, udp) = (free_port(), free_port());
        let mut driver = daemon.join_tcp(tcp, "127.0.0.1");
        let datagrams = daemon.join_udp(udp, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", tcp);
        let addr = driver.opened();
        device.send(b"hello");
        driver.received(&addr, b"hello");
        driver.write(&addr, b"bye");
        device.expect(b"bye");
        let series = format!("dispatch_port_written_bytes_total{{transport=\"tcp\",port=\"{tcp}\"}}");
        let metrics = until(daemon, &series, 3.0);
        for (series, value) in [
            ("dispatch_sessions{transport=\"tcp\"}", 1.0),
            ("dispatch_sessions{transport=\"udp\"}", 1.0),
            ("dispatch_ports{transport=\"tcp\"}", 1.0),
            ("dispatch_ports{transport=\"udp\"}", 1.0),
            ("dispatch_devices{transport=\"tcp\"}", 1.0),
            ("dispatch_session_slots", 2.0),
            ("dispatch_device_slots", 1.0),
            ("dispatch_port_slots", 2.0),
            ("dispatch_devices_opened_total", 1.0),
            ("dispatch_device_received_bytes_total", 5.0),
            ("dispatch_device_written_bytes_total", 3.0),
            ("dispatch_messages_to_drivers_total", 2.0),
            ("dispatch_messages_from_drivers_total", 1.0),
            ("dispatch_sessions_joined_total", 2.0),
            ("dispatch_port_changes_total{change=\"opened\"}", 2.0),
            (&format!("dispatch_port_drivers{{transport=\"udp\",port=\"{udp}\"}}"), 1.0),
            (&format!("dispatch_port_devices{{transport=\"tcp\",port=\"{tcp}\"}}"), 1.0),
            (&format!("dispatch_port_received_bytes_total{{transport=\"tcp\",port=\"{tcp}\"}}"), 5.0),
        ] {
            assert_eq!(metrics.value(series), value, "{series}");
        }
        let text = daemon.fetch("/metrics");
        assert!(text.text().contains(&format!("dispatch_build_info{{version=\"{}\"", env!("CARGO_PKG_VERSION"))));
        drop((driver, datagrams, device));
    });
}

fn endings_and_refusals_are_counted_by_kind(shards: usize) {
    Setup::new(shards).limit("devices-per-port-max", 1).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        Device::connect("127.0.0.2", port).is_disconnected();
        Device::connect("127.0.0.1", port).is_disconnected();
        device.half_close();
        driver.closed(&addr);
        driver.leave();
        let metrics = until(daemon, "dispatch_sessions_ended_total{ending=\"driver_closed\"}", 1.0);
        for series in [
            "dispatch_devices_refused_total{reason=\"source\"}",
            "dispatch_devices_refused_total{reason=\"limit\"}",
            "dispatch_devices_ended_total{ending=\"device_closed\"}",
        ] {
            assert_eq!(metrics.value(series), 1.0, "{series}");
        }
        let mut wire = daemon.wire(Transport::Tcp, port, "127.0.0.1");
        wire.send(&frame(0x82, b"nonsense"));
        until(daemon, "dispatch_sessions_ended_total{ending=\"undecodable\"}", 1.0);
        daemon.refusal(Transport::Tcp, &daemon.api().port().to_string(), "127.0.0.1");
        daemon.connection().request("GET", BASES[0], "");
        let metrics = scrape(daemon);
        assert_eq!(metrics.value("dispatch_joins_refused_total{reason=\"own_port\"}"), 1.0);
        assert_eq!(metrics.value("dispatch_tokens_refused_total{reason=\"wrong\"}"), 1.0);
        for (family, count) in [
            ("dispatch_devices_ended_total", "devices_ended"),
            ("dispatch_sessions_ended_total", "sessions_ended"),
            ("dispatch_joins_refused_total", "joins_refused"),
        ] {
            assert_eq!(metrics.sum(family), daemon.count(count) as f64, "{family}");
        }
    });
}

fn datagrams_are_counted_by_what_became_of_them(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_udp(port, "127.0.0.1");
        let (known, stranger) = (Datagrams::bind("127.0.0.1"), Datagrams::bind("127.0.0.2"));
        stranger.send(port, b"no");
        known.send(port, b"yes");
        let addr = crate::harness::Addr::new("127.0.0.1", known.port());
        driver.datagram(&addr, b"yes");
        driver.write(&addr, b"back");
        known.expect(b"back");
        driver.write(&crate::harness::Addr::new("127.0.0.1", 0), b"nowhere");
        let metrics = until(daemon, "dispatch_datagrams_dropped_total{reason=\"write\"}", 1.0);
        assert_eq!(metrics.value("dispatch_datagrams_received_total"), 1.0);
        assert_eq!(metrics.value("dispatch_datagrams_written_total"), 1.0);
        assert_eq!(metrics.value("dispatch_datagrams_dropped_total{reason=\"source\"}"), 1.0);
        assert_eq!(metrics.value("dispatch_device_received_bytes_total"), 3.0);
        assert_eq!(metrics.value("dispatch_device_written_bytes_total"), 4.0);
    });
}

fn datagrams_that_the_kernel_drops_are_counted(shards: usize) {
    const FLOOD: usize = 400;
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let driver = daemon.join_udp(port, "127.0.0.1");
        let device = Datagrams::bind("127.0.0.1");
        // What is sent to a stopped daemon fills the socket's buffer, and the rest goes to nobody.
        daemon.signal(rustix::process::Signal::STOP);
        (0..FLOOD).for_each(|_| device.send(port, &[7; 60_000]));
        daemon.signal(rustix::process::Signal::CONT);
        let metrics = until(daemon, "dispatch_datagrams_dropped_total{reason=\"kernel\"}", 1.0);
        let dropped = metrics.value("dispatch_datagrams_dropped_total{reason=\"kernel\"}");
        eventually("every datagram is accounted for", || {
            (scrape(daemon).value("dispatch_datagrams_received_total") + dropped == FLOOD as f64).then_some(())
        });
        drop(driver);
        // It stays when the socket is gone.
        daemon.until_count("ports_closed", 1);
        assert_eq!(scrape(daemon).value("dispatch_datagrams_dropped_total{reason=\"kernel\"}"), dropped);
    });
}

fn the_opened_of_devices_that_were_there_before_a_driver_are_messages_too(shards: usize) {
    const DEVICES: usize = 30;
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut first = daemon.join_tcp(port, "127.0.0.1");
        let devices: Vec<_> = (0..DEVICES).map(|_| Device::connect("127.0.0.1", port)).collect();
        (0..DEVICES).for_each(|_| drop(first.opened()));
        let mut late = daemon.join_tcp(port, "127.0.0.1");
        (0..DEVICES).for_each(|_| drop(late.opened()));
        until(daemon, "dispatch_messages_to_drivers_total", 2.0 * DEVICES as f64);
        drop(devices);
        for driver in [&mut first, &mut late] {
            (0..DEVICES).for_each(|_| assert!(matches!(driver.event(), Event::Closed(_))));
        }
        assert_eq!(scrape(daemon).value("dispatch_messages_to_drivers_total"), 4.0 * DEVICES as f64);
    });
}

fn every_limit_stands_beside_its_use(shards: usize) {
    let setup = Setup::new(shards).limit("sessions-max", 7).limit("ports-max", 5).limit("devices-max", 40);
    setup.limit("handshakes-max", 30).limit("receive-buffers", 64).run(|daemon| {
        let metrics = scrape(daemon);
        for (limit, value) in [
            ("dispatch_session_slots_limit", 7.0),
            ("dispatch_port_slots_limit", 5.0),
            ("dispatch_device_slots_limit", 40.0),
            ("dispatch_device_slots_per_port_limit", f64::INFINITY),
            ("dispatch_handshakes_limit", 30.0),
            ("dispatch_receive_buffers_limit", 64.0),
            ("dispatch_outbox_limit_bytes", 262_144.0),
            ("dispatch_credit_limit_bytes", 262_144.0),
        ] {
            assert_eq!(metrics.value(limit), value, "{limit}");
        }
        for used in ["dispatch_session_slots", "dispatch_port_slots", "dispatch_device_slots", "dispatch_outbox_bytes"]
        {
            assert_eq!(metrics.value(used), 0.0, "{used}");
        }
        assert!(metrics.value("dispatch_session_memory_limit_bytes") > 0.0);
        // The scrape itself is one; a connection before it may not have been closed yet.
        eventually("no other connection waits", || (scrape(daemon).value("dispatch_handshakes") == 1.0).then_some(()));
        let driver = daemon.join_tcp(free_port(), "127.0.0.1");
        assert!(scrape(daemon).value("dispatch_session_memory_bytes") > 524_288.0);
        drop(driver);
    });
}

fn bytes_to_a_driver_count_while_they_flow(shards: usize) {
    Setup::new(shards).limit("socket-bytes", 4_096).run(|daemon| {
        let port = free_port();
        let wire = daemon.wire(Transport::Tcp, port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        // The driver reads nothing: what its socket takes is counted, and what waits for it is seen.
        device.send_until_blocked(1, 8 << 20, std::time::Duration::from_millis(500));
        let metrics = until(daemon, "dispatch_outbox_bytes", 65_536.0);
        assert!(metrics.value("dispatch_driver_written_bytes_total") > 4_096.0);
        assert!(metrics.value("dispatch_outbox_waits_total") >= 1.0);
        let series = format!("dispatch_port_outbox_bytes{{transport=\"tcp\",port=\"{port}\"}}");
        assert!(metrics.value(&series) > 0.0 && metrics.value(&series) < metrics.value("dispatch_outbox_bytes"));
        device.reset();
        drop(wire);
        eventually("nothing waits", || (scrape(daemon).value("dispatch_outbox_bytes") == 0.0).then_some(()));
    });
}

fn series_of_ports_can_be_switched_off(shards: usize) {
    Setup::new(shards).variable("DISPATCH_METRICS_PORTS", "off").run(|daemon| {
        let driver = daemon.join_tcp(free_port(), "127.0.0.1");
        let metrics = scrape(daemon);
        assert!(!metrics.has("dispatch_port_drivers") && !metrics.types.contains_key("dispatch_port_drivers"));
        assert_eq!(metrics.value("dispatch_sessions{transport=\"tcp\"}"), 1.0);
        drop(driver);
    });
}

fn the_process_and_its_loops_are_measured(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let last = shards - 1;
        let metrics = until(daemon, &format!("dispatch_timer_lag_seconds_count{{shard=\"{last}\"}}"), 2.0);
        let fds = crate::harness::fds(daemon.pid()).len() as f64;
        // The scrape's own connection is one more.
        assert!((metrics.value("process_open_fds") - fds).abs() <= 2.0, "{fds}");
        assert!(metrics.value("process_max_fds") >= 256.0);
        assert!(metrics.value("process_resident_memory_bytes") > 1e6);
        assert!(metrics.value("process_virtual_memory_bytes") > metrics.value("process_resident_memory_bytes"));
        assert!(metrics.value("process_threads") > shards as f64);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
        assert!((now - 60.0..=now).contains(&metrics.value("process_start_time_seconds")));
        for shard in 0..shards {
            assert!(metrics.value(&format!("dispatch_loop_turn_seconds_count{{shard=\"{shard}\"}}")) >= 1.0);
            assert_eq!(metrics.value(&format!("dispatch_receive_buffers_lost{{shard=\"{shard}\"}}")), 0.0);
        }
        let mut driver = daemon.join_tcp(free_port(), "127.0.0.1");
        driver.send_message(tungstenite::Message::Ping(pattern(1, 0, 100).into()));
        let spent = metrics.value("process_cpu_seconds_total");
        eventually("processor time is counted", || {
            (scrape(daemon).value("process_cpu_seconds_total") > spent).then_some(())
        });
        drop(driver);
    });
}

fn requests_are_timed_by_route(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for target in ["/nope", BASES[0], BASES[1]] {
            daemon.fetch(target);
        }
        let target = join_target(BASES[1], Transport::Udp, &free_port().to_string(), "127.0.0.1");
        drop(daemon.upgrade(&target, ""));
        let name = "dispatch_http_request_duration_seconds_count";
        let metrics = until(daemon, &format!("{name}{{route=\"/udp_dispatch\"}}"), 1.0);
        assert_eq!(metrics.value(&format!("{name}{{route=\"none\"}}")), 1.0);
        assert_eq!(metrics.value(&format!("{name}{{route=\"/\"}}")), 2.0);
        assert!(metrics.value(&format!("{name}{{route=\"/healthz\"}}")) >= 1.0);
    });
}
