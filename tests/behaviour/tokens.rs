//! Proves who is let in: by which secrets, and how an address whose tokens fail is slowed down.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{BASES, Connection, Daemon, Setup, Transport, UPGRADE, eventually, free_port, join_target};

scenarios! {
    both_secrets_are_let_in_and_a_third_is_not,
    neither_secret_reaches_the_log,
    a_flood_of_wrong_tokens_slows_its_own_address_alone,
    too_many_failed_tokens_are_429_unchecked_and_the_connection_ends,
    routes_without_a_token_are_never_slowed,
    good_drivers_share_an_address_with_misconfigured_ones,
    refused_tokens_are_logged_once_a_while_with_their_address,
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
        // Those of the guesser wait for almost 2 s, or are refused.
        assert!(
            median < Duration::from_millis(1_500),
            "a join of another address took {median:?}, at most {slowest:?}"
        );
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
            // One that was looked at sooner would not have waited at all.
            let alike = wrong.1.abs_diff(right.1) < wrong.1.min(right.1) / 2;
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
            // Had it been checked after its wait, the status would be 200.
            let expected = waits && status == 429 && time < Duration::from_secs(5);
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
