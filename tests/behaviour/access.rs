//! Proves who may do what: the ports, sources and destinations of drivers, both secrets, failing tokens, and that a
//! driver has no way to a device that only others accept.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{
    Addr, BASES, Connection, Daemon, Datagrams, Device, Event, Setup, Transport, UPGRADE, eventually, free_port,
    join_target, request,
};

scenarios! {
    a_port_outside_the_allowed_ranges_is_403_and_one_inside_is_open,
    the_apis_own_port_is_never_opened_for_tcp,
    a_source_outside_the_allowed_ones_is_403_and_one_inside_is_accepted,
    a_join_that_is_not_allowed_leaves_nothing_behind,
    what_is_allowed_is_decided_after_the_request_is_checked,
    datagrams_go_to_accepted_addresses_alone_where_egress_says_so,
    each_drivers_own_list_counts_for_its_datagrams,
    both_secrets_are_let_in_and_a_third_is_not,
    neither_secret_reaches_the_log,
    a_flood_of_wrong_tokens_slows_its_own_address_alone,
    too_many_failed_tokens_are_429_unchecked_and_the_connection_ends,
    routes_without_a_token_are_never_slowed,
    good_drivers_share_an_address_with_misconfigured_ones,
    refused_tokens_are_logged_once_a_while_with_their_address,
    a_driver_has_no_way_to_a_tcp_device_that_only_others_accept,
    a_driver_has_no_way_to_a_device_of_another_port,
    a_driver_has_no_way_to_datagrams_that_only_others_accept,
}

const EMPTY: &str = r#"{"udp_listeners":{},"tcp_listeners":{},"tcp_clients":{}}"#;

fn assert_nothing_is_open(daemon: &Daemon) {
    assert_eq!(daemon.statistics(), serde_json::from_str::<serde_json::Value>(EMPTY).unwrap());
}

/// Fails unless the join is refused with 403 for a reason with this text.
fn assert_forbidden(daemon: &Daemon, transport: Transport, port: u16, accept: &str, text: &str) {
    let response = daemon.refusal(transport, &port.to_string(), accept);
    assert_eq!(response.status, 403, "{transport:?} {port} {accept}: {response:?}");
    let reason = response.member("error");
    assert!(reason.contains(text), "{reason:?} says nothing of {text:?}");
    assert_eq!(response.json().as_object().unwrap().len(), 1, "{response:?}");
}

fn a_port_outside_the_allowed_ranges_is_403_and_one_inside_is_open(shards: usize) {
    let (low, high, single) = (free_port(), free_port(), free_port());
    let (low, high) = (low.min(high), low.max(high));
    let ranges = format!("{low}-{high}, {single}");
    Setup::new(shards).variable("DISPATCH_ALLOW_PORTS", &ranges).run(|daemon| {
        for transport in [Transport::Tcp, Transport::Udp] {
            for port in [low, high, single] {
                daemon.join(transport, port, "127.0.0.1").leave();
            }
            for port in [1, low - 1, 65_535] {
                assert_forbidden(daemon, transport, port, "127.0.0.1", "--allow-ports");
            }
        }
        assert_eq!(daemon.count("joins_refused"), 6);
    });
}

fn the_apis_own_port_is_never_opened_for_tcp(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = daemon.api().port();
        for accept in ["127.0.0.1", "::1", "0.0.0.0/0,::/0"] {
            assert_forbidden(daemon, Transport::Tcp, port, accept, "API");
        }
        // UDP has nothing to do with it.
        daemon.join_udp(port, "127.0.0.1").leave();
    });
}

fn a_source_outside_the_allowed_ones_is_403_and_one_inside_is_accepted(shards: usize) {
    let allowed = "127.0.0.0/28, 10.0.0.0/8, 192.168.0.7, ::1, 2001:db8::/32";
    Setup::new(shards).variable("DISPATCH_ALLOW_SOURCES", allowed).run(|daemon| {
        for transport in [Transport::Tcp, Transport::Udp] {
            for accept in [
                "127.0.0.1",
                "127.0.0.0/28",
                "127.0.0.8/29,10.0.0.0/8,10.1.0.0/16,10.2.3.4",
                "192.168.0.7,192.168.0.7/32",
                "::1,::ffff:127.0.0.1",
                "127.0.0.1,2001:db8:1::/48,2001:db8::5",
            ] {
                daemon.join(transport, free_port(), accept).leave();
            }
            for (accept, outside) in [
                ("127.0.0.16", "127.0.0.16 "),
                ("127.0.0.1,127.0.0.0/27", "127.0.0.0/27 "),
                ("10.0.0.0/7", "10.0.0.0/7 "),
                ("192.168.0.6/31", "192.168.0.6/31 "),
                ("0.0.0.0/0", "0.0.0.0/0 "),
                ("::1,::2", "::2 "),
                ("::/0", "::/0 "),
                ("2001:db8::/31", "2001:db8::/31 "),
                ("::ffff:11.0.0.1", "11.0.0.1 "),
                ("::ffff:0:0/96", "0.0.0.0/0 "),
            ] {
                assert_forbidden(daemon, transport, free_port(), accept, outside);
                assert_forbidden(daemon, transport, free_port(), accept, "--allow-sources");
            }
        }
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.9");
        let device = Device::connect("127.0.0.9", port);
        assert_eq!(driver.opened(), Addr::new("127.0.0.9", 0));
        drop(device);
    });
}

fn a_join_that_is_not_allowed_leaves_nothing_behind(shards: usize) {
    let setup = Setup::new(shards).limit("sessions-max", 1).variable("DISPATCH_ALLOW_SOURCES", "127.0.0.0/8");
    setup.variable("DISPATCH_ALLOW_PORTS", "20000-65535").run(|daemon| {
        for _ in 0..25 {
            assert_forbidden(daemon, Transport::Tcp, free_port(), "10.0.0.1", "10.0.0.1");
            assert_forbidden(daemon, Transport::Udp, 19_999, "127.0.0.1", "udp/19999");
        }
        assert_nothing_is_open(daemon);
        assert_eq!((daemon.held("sessions"), daemon.held("ports"), daemon.count("joins_refused")), (0, 0, 50));
        // A session that a refusal had kept would be the second.
        daemon.join_tcp(free_port(), "127.0.0.1").leave();
    });
}

fn what_is_allowed_is_decided_after_the_request_is_checked(shards: usize) {
    Setup::new(shards).variable("DISPATCH_ALLOW_PORTS", "2000").run(|daemon| {
        let status = |target: &str, headers: &str| daemon.connection().request("GET", target, headers).status;
        let right = "Authorization: Bearer testing\r\n";
        let target = |port, accept| join_target(BASES[0], Transport::Tcp, port, accept);
        assert_eq!(status(&target("2001", "127.0.0.1"), UPGRADE), 401);
        assert_eq!(status(&target("2001", "x"), &format!("{right}{UPGRADE}")), 400);
        assert_eq!(status(&target("2001", "127.0.0.1"), right), 426);
        assert_eq!(status(&target("2001", "127.0.0.1"), &format!("{right}{UPGRADE}")), 403);
    });
}

fn datagrams_go_to_accepted_addresses_alone_where_egress_says_so(shards: usize) {
    Setup::new(shards).variable("DISPATCH_UDP_EGRESS", "accepted").run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_udp(port, "127.0.0.1,127.0.1.0/24,::1");
        let stranger = Datagrams::bind("127.0.0.77");
        for (source, text) in [("127.0.0.1", "127.0.0.1"), ("127.0.1.9", "::ffff:127.0.1.9"), ("::1", "::1")] {
            let device = Datagrams::bind(source);
            driver.write(&Addr::new("127.0.0.77", stranger.port()), b"dropped");
            driver.write(&Addr::new("::ffff:127.0.0.77", stranger.port()), b"dropped");
            driver.write(&Addr::new("127.255.255.255", stranger.port()), b"dropped");
            driver.write(&Addr::new(text, device.port()), b"sent");
            device.expect(b"sent");
        }
        assert_eq!((daemon.count("datagrams_dropped_write"), daemon.count("datagrams_written")), (9, 3));
        // Nothing came before this.
        let own = Datagrams::bind("127.0.0.1");
        own.send(port, b"the session lives");
        driver.datagram(&Addr::new("127.0.0.1", own.port()), b"the session lives");
        daemon.join_udp(port, "127.0.0.77").write(&Addr::new("127.0.0.77", stranger.port()), b"accepted");
        stranger.expect(b"accepted");
    });
}

fn each_drivers_own_list_counts_for_its_datagrams(shards: usize) {
    Setup::new(shards).variable("DISPATCH_UDP_EGRESS", "accepted").run(|daemon| {
        let port = free_port();
        let mut first = daemon.join_udp(port, "127.0.0.1");
        let mut second = daemon.join_udp(port, "127.0.0.2");
        let (one, other) = (Datagrams::bind("127.0.0.1"), Datagrams::bind("127.0.0.2"));
        let (one_addr, other_addr) = (Addr::new("127.0.0.1", one.port()), Addr::new("127.0.0.2", other.port()));
        first.write(&other_addr, b"intruder");
        first.write(&one_addr, b"mine");
        one.expect(b"mine");
        second.write(&one_addr, b"intruder");
        second.write(&other_addr, b"mine");
        other.expect(b"mine");
        assert_eq!(daemon.count("datagrams_dropped_write"), 2);
    });
}

/// The status of an authorised request.
fn status_with(daemon: &Daemon, token: &str) -> u16 {
    daemon.connection().request("GET", BASES[0], &format!("Authorization: Bearer {token}\r\n")).status
}

fn both_secrets_are_let_in_and_a_third_is_not(shards: usize) {
    for variable in ["PLACE_SERVER_SECRET_NEXT", "SERVER_SECRET_NEXT"] {
        Setup::new(shards).secret("old-sesame").variable(variable, "new-sesame").run(|daemon| {
            for right in ["old-sesame", "new-sesame"] {
                assert_eq!(status_with(daemon, right), 200, "{right}");
                let target = join_target(BASES[1], Transport::Tcp, &free_port().to_string(), "127.0.0.1");
                let joined = daemon.connection().request("GET", &format!("{target}&bearer_token={right}"), UPGRADE);
                assert_eq!(joined.status, 101, "{right}");
            }
            for wrong in ["", "testing", "new-sesam", "new-sesame-", "New-sesame", "old-sesamenew-sesame"] {
                assert_eq!(status_with(daemon, wrong), 401, "{wrong:?}");
            }
        });
    }
}

fn neither_secret_reaches_the_log(shards: usize) {
    let setup = Setup::new(shards).secret("old-sesame").variable("SERVER_SECRET_NEXT", "new-sesame");
    setup.variable("LOG_LEVEL", "trace").run(|daemon| {
        for token in ["old-sesame", "new-sesame", "close-sesame"] {
            status_with(daemon, token);
        }
        daemon.until_logged("token refused");
        assert!(!daemon.log().contains("sesame"), "a token in the log");
    });
}

const GUESSER: &str = "127.0.0.9";

/// A request with this token from an address, on a connection of its own: its status, and how long the answer took.
fn ask_from(daemon: &Daemon, source: &str, token: &str) -> (u16, Duration) {
    let begun = Instant::now();
    let mut connection = Connection::open_from(source, daemon.api());
    let response = connection.request("GET", BASES[0], &format!("Authorization: Bearer {token}\r\n"));
    (response.status, begun.elapsed())
}

/// Runs a scenario while very many connections of one address send wrong tokens, so many that some are refused unchecked.
fn while_flooded<T>(daemon: &Daemon, shards: usize, scenario: impl FnOnce() -> T) -> T {
    // Each waits for its answer, so fewer than 40 would never fill a bucket.
    const GUESSERS_A_SHARD: usize = 64;
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..shards * GUESSERS_A_SHARD {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let (status, _) = ask_from(daemon, GUESSER, "wrong");
                    assert!(matches!(status, 401 | 429), "{status} for a wrong token");
                    std::thread::sleep(Duration::from_millis(5));
                }
            });
        }
        // Also where the scenario panics: else the guessers never end.
        let over = Over(&over);
        daemon.until_count("tokens_unchecked", 1);
        let result = scenario();
        drop(over);
        result
    })
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn a_flood_of_wrong_tokens_slows_its_own_address_alone(shards: usize) {
    const JOINS: usize = 41;
    Setup::new(shards).run(|daemon| {
        let begun = Instant::now();
        let mut joins = while_flooded(daemon, shards, || {
            let joins: Vec<Duration> = (0..JOINS)
                .map(|_| {
                    let begun = Instant::now();
                    daemon.join_tcp(free_port(), "127.0.0.1").leave();
                    begun.elapsed()
                })
                .collect();
            // Long enough for the rate to show.
            std::thread::sleep(Duration::from_secs(4).saturating_sub(begun.elapsed()));
            joins
        });
        let seconds = begun.elapsed().as_secs_f64();
        let checks = daemon.count("tokens_refused");
        let bound = shards as f64 * (81.0 + 20.0 * seconds);
        assert!((40..=bound as u64).contains(&checks), "{checks} checks in {seconds:.1} s, {bound:.0} are the bound");
        joins.sort_unstable();
        let (median, slowest) = (joins[JOINS / 2], joins[JOINS - 1]);
        assert!(median < Duration::from_millis(500), "a join of another address took {median:?}, at most {slowest:?}");
        // Once it is quiet, the guesser's address is as good as any.
        eventually("the address is let in again", || (ask_from(daemon, GUESSER, "testing").0 == 200).then_some(()));
    });
}

fn too_many_failed_tokens_are_429_unchecked_and_the_connection_ends(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let connection = while_flooded(daemon, shards, || {
            eventually("a right token is not looked at", || {
                let mut connection = Connection::open_from(GUESSER, daemon.api());
                let response = connection.request("GET", BASES[0], "Authorization: Bearer testing\r\n");
                let expected = r#"{"error":"too many failed tokens from this address"}"#;
                (response.status == 429).then(|| assert_eq!(response.text(), expected))?;
                assert_eq!(response.header("connection"), Some("close"));
                Some(connection)
            })
        });
        connection.ends();
    });
}

fn routes_without_a_token_are_never_slowed(shards: usize) {
    Setup::new(shards).run(|daemon| {
        while_flooded(daemon, shards, || {
            let mut connection = Connection::open_from(GUESSER, daemon.api());
            for _ in 0..20 {
                assert_eq!(connection.request("GET", "/api/server/healthz", "").status, 200);
                assert_eq!(connection.request("GET", "/api/server/nope", "").status, 404);
                assert_eq!(connection.request("PUT", "/api/server", "").status, 405);
            }
        });
    });
}

/// Sends so many wrong tokens at once that the next requests of the guesser's address wait for almost 2 s, and runs a
/// scenario then. On a busy machine the moment may be missed, so the scenario says whether it saw what it should, and
/// gets further tries.
fn while_slowed(daemon: &Daemon, scenario: impl Fn() -> Result<(), String>) {
    const AT_ONCE: usize = 100;
    const TRIES: usize = 5;
    let attempt = || {
        let unchecked = daemon.count("tokens_unchecked");
        let mut guessers: Vec<_> = (0..AT_ONCE).map(|_| Connection::open_from(GUESSER, daemon.api())).collect();
        let wrong = format!("GET {} HTTP/1.1\r\nHost: test\r\nAuthorization: wrong\r\n\r\n", BASES[0]);
        guessers.iter_mut().for_each(|guesser| guesser.send(&wrong));
        // A few failures leak, so that what comes next is not refused but waits.
        std::thread::sleep(Duration::from_millis(300));
        if daemon.count("tokens_unchecked") == unchecked {
            return Err("the guesses were too slow".to_owned());
        }
        scenario()
    };
    let mut missed = Vec::new();
    while missed.len() < TRIES {
        match attempt() {
            Ok(()) => return,
            Err(what) => missed.push(what),
        }
        // Until all is forgotten.
        std::thread::sleep(Duration::from_secs(5));
    }
    panic!("{missed:#?}");
}

// Which shard a connection meets is the kernel's choice, and each has its own buckets: so there is one.
#[test]
fn right_and_wrong_tokens_of_a_slowed_address_wait_alike() {
    Setup::new(1).run(|daemon| {
        while_slowed(daemon, || {
            let (wrong, right) = std::thread::scope(|scope| {
                let wrong = scope.spawn(|| ask_from(daemon, GUESSER, "wrong"));
                let right = scope.spawn(|| ask_from(daemon, GUESSER, "testing"));
                (wrong.join().unwrap(), right.join().unwrap())
            });
            let waited = wrong.1.min(right.1) > Duration::from_millis(500);
            let alike = wrong.1.abs_diff(right.1) < Duration::from_millis(250);
            let expected = (wrong.0, right.0) == (401, 200) && waited && alike;
            expected.then_some(()).ok_or_else(|| format!("wrong {wrong:?}, right {right:?}"))
        });
    });
}

#[test]
fn a_connection_that_waits_for_its_check_makes_room_for_others() {
    const HANDSHAKES_MAX: usize = 110;
    Setup::new(1).limit("handshakes-max", HANDSHAKES_MAX).run(|daemon| {
        while_slowed(daemon, || {
            let begun = Instant::now();
            let mut waiting = Connection::open_from(GUESSER, daemon.api());
            waiting.send(format!("GET {} HTTP/1.1\r\nHost: test\r\nAuthorization: testing\r\n\r\n", BASES[0]));
            std::thread::sleep(Duration::from_millis(100));
            let waits = !waiting.has_answer();
            let _others: Vec<_> = (0..HANDSHAKES_MAX).map(|_| daemon.connection()).collect();
            let (status, time) = (waiting.response().status, begun.elapsed());
            let expected = waits && status == 429 && time < Duration::from_secs(1);
            expected.then_some(()).ok_or_else(|| format!("waits: {waits}, {status} after {time:?}"))
        });
    });
}

fn good_drivers_share_an_address_with_misconfigured_ones(shards: usize) {
    Setup::new(shards).run(|daemon| {
        // As many as try again every second and are not slowed, and at first all at once.
        for _ in 0..3 {
            let begun = Instant::now();
            for _ in 0..18 {
                assert_eq!(ask_from(daemon, "127.0.0.1", "wrong").0, 401);
            }
            daemon.join_tcp(free_port(), "127.0.0.1").leave();
            std::thread::sleep(Duration::from_secs(1).saturating_sub(begun.elapsed()));
        }
        assert_eq!((daemon.count("tokens_refused"), daemon.count("tokens_unchecked")), (54, 0));
    });
}

fn refused_tokens_are_logged_once_a_while_with_their_address(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let mut connection = Connection::open_from(GUESSER, daemon.api());
        for _ in 0..30 {
            let headers = "Authorization: Bearer wrong\r\nX-Request-ID: request-of-the-guesser\r\n";
            assert_eq!(connection.request("GET", BASES[0], headers).status, 401);
        }
        daemon.until_logged("token refused");
        let log = daemon.log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("token refused")).collect();
        assert_eq!(lines.len(), 1, "{lines:#?}");
        assert!(lines[0].contains("WARN") && lines[0].contains(GUESSER), "{}", lines[0]);
        assert!(lines[0].contains("request-of-the-guesser") && !lines[0].contains("wrong"), "{}", lines[0]);
    });
}

const WRITE: u8 = 3;
const CLOSE: u8 = 4;

/// Every text that may stand for an IPv4 address, or for none.
fn texts_of(ip: &str) -> [String; 6] {
    [
        ip.to_owned(),
        format!("::ffff:{ip}"),
        "::ffff:7f00:1".to_owned(),
        format!("{ip} "),
        String::new(),
        "localhost".to_owned(),
    ]
}

fn a_driver_has_no_way_to_a_tcp_device_that_only_others_accept(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut owner = daemon.join_tcp(port, "127.0.0.1");
        let mut owned = Device::connect("127.0.0.1", port);
        let owned_addr = owner.opened();
        // It comes late, so that an introduction could betray the device as well.
        let mut other = daemon.join_tcp(port, "127.0.0.2,::1");
        let mut own = Device::connect("127.0.0.2", port);
        let own_addr = other.opened();
        assert_eq!((owned_addr.id, own_addr.clone()), (0, Addr::new("127.0.0.2", 1)));
        owned.send(b"secret");
        owner.received(&owned_addr, b"secret");
        let mut sent = 0;
        for ip in texts_of("127.0.0.1").iter().chain(&texts_of("127.0.0.2")).map(String::as_str) {
            for id in [owned_addr.id, 2, u64::MAX, 1 << 32, u64::from(owned.local().port())] {
                other.send(request(WRITE, ip, id, 8, b"intruder"));
                other.send(request(CLOSE, ip, id, 0, b""));
                sent += 2;
            }
        }
        // Its own device by the other's address is none of its own either.
        other.send(request(WRITE, "127.0.0.1", own_addr.id, 8, b"intruder"));
        other.send(request(CLOSE, "127.0.0.1", own_addr.id, 0, b""));
        // Commands of a driver keep their order, so this one's arrival says that those before have been decided on.
        other.write(&own_addr, b"mine");
        own.expect(b"mine");
        assert_eq!(daemon.count("writes_dropped"), sent + 2);
        owner.write(&owned_addr, b"owner");
        owned.expect(b"owner");
        owned.send(b"still here");
        owner.received(&owned_addr, b"still here");
        drop(owned);
        owner.closed(&owned_addr);
        // The next that it hears of, after all of this, is its own device.
        own.send(b"own");
        assert_eq!(other.event(), Event::Received(own_addr, b"own".to_vec()));
    });
}

fn a_driver_has_no_way_to_a_device_of_another_port(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let ports: Vec<u16> = (0..6).map(|_| free_port()).collect();
        let mut owners: Vec<_> = ports.iter().map(|port| daemon.join_tcp(*port, "127.0.0.1")).collect();
        let mut devices: Vec<_> = ports.iter().map(|port| Device::connect("127.0.0.1", *port)).collect();
        let addrs: Vec<_> = owners.iter_mut().map(|owner| owner.opened()).collect();
        // They are called alike, each on its own port.
        assert!(addrs.iter().all(|addr| *addr == Addr::new("127.0.0.1", 0)));
        owners[0].close(&addrs[0]);
        devices[0].ends();
        owners[0].closed(&addrs[0]);
        owners[0].close(&addrs[0]);
        owners[0].write(&addrs[0], b"intruder");
        daemon.until_count("writes_dropped", 2);
        for ((owner, device), addr) in owners.iter_mut().zip(&mut devices).zip(&addrs).skip(1) {
            owner.write(addr, b"mine");
            device.expect(b"mine");
        }
    });
}

fn a_driver_has_no_way_to_datagrams_that_only_others_accept(shards: usize) {
    Setup::new(shards).variable("DISPATCH_UDP_EGRESS", "accepted").run(|daemon| {
        let port = free_port();
        let mut owner = daemon.join_udp(port, "127.0.0.1");
        let mut other = daemon.join_udp(port, "127.0.0.2");
        let (owned, own) = (Datagrams::bind("127.0.0.1"), Datagrams::bind("127.0.0.2"));
        let (owned_addr, own_addr) = (Addr::new("127.0.0.1", owned.port()), Addr::new("127.0.0.2", own.port()));
        owned.send(port, b"secret");
        owner.datagram(&owned_addr, b"secret");
        let mut sent = 0;
        // The address that stands for this host is another way to the owner's device.
        for ip in texts_of("127.0.0.1").iter().map(String::as_str).chain(["0.0.0.0", "::", "127.255.255.255"]) {
            other.send(request(WRITE, ip, owned_addr.id, 8, b"intruder"));
            other.send(request(CLOSE, ip, owned_addr.id, 0, b""));
            sent += 2;
        }
        other.write(&own_addr, b"mine");
        own.expect(b"mine");
        assert_eq!(daemon.count("datagrams_dropped_write"), sent);
        owner.write(&owned_addr, b"owner");
        owned.expect(b"owner");
        own.send(port, b"own");
        other.datagram(&own_addr, b"own");
        assert_eq!(daemon.statistics()["udp_listeners"], json!({port.to_string(): 2}));
    });
}
