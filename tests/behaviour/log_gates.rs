//! Proves that lines which a driver or a device can cause at will are few, and say what the others do.

use serde_json::Value;

use crate::harness::{BASES, Daemon, Setup, Transport, UPGRADE, join_target};
use crate::stopping::HeldUp;

scenarios! {
    a_join_that_is_refused_again_and_again_is_logged_once_for_each_port,
    a_device_that_is_let_go_is_logged_with_address_port_and_reason,
}

/// Joins of one go; each was a line.
const JOINS: usize = 500;

/// The lines with this message, of a log in JSON.
fn lines(daemon: &Daemon, message: &str) -> Vec<Value> {
    let log = daemon.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"] == message).collect()
}

fn in_production(shards: usize) -> Setup {
    Setup::new(shards).secret("own").variable("SG_ENV", "production")
}

fn a_join_that_is_refused_again_and_again_is_logged_once_for_each_port(shards: usize) {
    in_production(shards).flag("allow-ports", "1-9").run(|daemon| {
        let mut connection = daemon.connection();
        let mut refuse = |port: &str, times: usize| {
            let target = join_target(BASES[0], Transport::Tcp, port, "127.0.0.1");
            let head = format!("GET {target} HTTP/1.1\r\nHost: test\r\nAuthorization: own\r\n{UPGRADE}\r\n");
            connection.send(head.repeat(times));
            (0..times).for_each(|_| assert_eq!(connection.response().status, 403));
        };
        refuse("6001", JOINS);
        refuse("6002", 1);
        assert_eq!(daemon.count("joins_refused"), JOINS as u64 + 1);
        daemon.until_logged("\"server_port\":6002");
        // A machine that stands still may let the ten seconds pass.
        let of_first = lines(daemon, "join refused").into_iter().filter(|line| line["span"]["server_port"] == 6001);
        let count = of_first.inspect(|line| assert!(line["left_out"].is_u64(), "{line}")).count();
        assert!((1..JOINS / 10).contains(&count), "{count} lines");
    });
}

fn a_device_that_is_let_go_is_logged_with_address_port_and_reason(shards: usize) {
    let daemon = in_production(shards).limit("credit-wait-ms-max", 100).start();
    let mut held_up = HeldUp::by(&daemon);
    // Waits for credit, all of which the device holds.
    held_up.driver.write(&held_up.addr, b"more");
    daemon.until_logged("device let go");
    let line = lines(&daemon, "device let go: it holds most of its driver's write window").remove(0);
    assert!(line["server_port"].is_u64() && line["left_out"] == 0, "{line}");
    assert_eq!((&line["server_protocol"], &line["remote_ip"]), (&"tcp".into(), &"127.0.0.1".into()));
    assert_eq!(line["reason"], "it took nothing of what waited for it");
}
