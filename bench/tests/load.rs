//! Runs `dispatch-load` against the real daemon: every scenario for a second with small numbers, and what it says of it.
//!
//! **Invariants.** Ports below 20,000, a block for each test; only the daemon that a test started is signalled.
//! **Not here.** Speed.
#![allow(clippy::unwrap_used, missing_docs)]

use dispatch_bench::daemon::{Daemon, Launch};
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

/// Ports of one test: the API's, then those of devices.
const BLOCK_PORTS: u16 = 30;
const PORTS_END: u16 = 19_900;

/// The daemon's program, built beside this test's own.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let folder = Path::new(env!("CARGO_BIN_EXE_dispatch-load")).parent().unwrap();
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
        let built = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--bin", "dispatch", "--manifest-path"])
            .arg(manifest)
            .arg("--target-dir")
            .arg(folder.parent().unwrap())
            .status();
        assert!(built.unwrap().success(), "the daemon was not built");
        folder.parent().unwrap().join("debug/dispatch")
    })
}

/// The first of a block of ports that nobody uses.
fn free_block() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let spread = std::process::id() as u16 % 100 * BLOCK_PORTS;
    loop {
        let first = 16_000 + spread + NEXT.fetch_add(BLOCK_PORTS, Ordering::Relaxed);
        assert!(first + BLOCK_PORTS < PORTS_END, "no block of ports is free");
        if (first..first + BLOCK_PORTS).all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()) {
            return first;
        }
    }
}

/// Starts the daemon, runs the tool with these arguments, and ends the daemon.
fn run(shards: usize, arguments: &str) -> Output {
    let first_port = free_block();
    let launch = Launch {
        program: program().to_owned(),
        api: SocketAddr::from((Ipv4Addr::LOCALHOST, first_port)),
        shards,
        flags: vec!["--pin=off".to_owned()],
        token: "of a test".to_owned(),
        log_level: "warn".to_owned(),
        log: Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("load-{first_port}.log")),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let daemon = Daemon::start(&launch).await.unwrap();
        let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_dispatch-load"))
            .args(arguments.split(' '))
            .args(["--url", &format!("http://{}/api/server", launch.api), "--token", &launch.token, "--json"])
            .args(["--first-port", &(first_port + 1).to_string(), "--pid", &daemon.pid().to_string()])
            .args(["--duration", "1", "--warm-up", "0.2"])
            .kill_on_drop(true)
            .output()
            .await;
        output.unwrap()
    })
}

/// The outcome of a run that passes, of which this many devices were told of.
fn passes(shards: usize, arguments: &str) -> Value {
    let output = run(shards, arguments);
    let text = String::from_utf8_lossy(&output.stdout);
    let outcome: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {output:?}"));
    assert!(output.status.success(), "{arguments}: {outcome:#}");
    assert_eq!(outcome["passed"], true, "{outcome:#}");
    assert_eq!(outcome["faults"], 0, "{outcome:#}");
    assert!(outcome["seconds"].as_f64().unwrap() >= 1.0, "{outcome:#}");
    assert!(outcome["daemon"]["cores"].is_f64() && outcome["tool"]["cores"].is_f64(), "{outcome:#}");
    outcome
}

/// The same, where messages arrived and none was lost.
fn delivers(shards: usize, arguments: &str) -> Value {
    let outcome = passes(shards, arguments);
    assert!(outcome["messages"].as_u64().unwrap() > 0, "{outcome:#}");
    assert_eq!(outcome["lost"], outcome["lost_datagrams"], "{outcome:#}");
    let latency = &outcome["latency_us"];
    let percentiles: Vec<f64> =
        ["p50", "p90", "p99", "p99_9", "max"].iter().map(|name| latency[name].as_f64().unwrap()).collect();
    assert!(percentiles[0] > 0.0 && percentiles.is_sorted(), "{latency}");
    assert!(outcome["daemon"]["cpu_ns_a_message"].as_f64().unwrap() > 0.0, "{outcome:#}");
    assert!(!outcome["series"].as_array().unwrap().is_empty(), "{outcome:#}");
    outcome
}

#[test]
fn devices_send_as_fast_as_messages_arrive() {
    let outcome = delivers(1, "ingress --devices 10 --under-way 8");
    assert_eq!(outcome["opened"], 10);
    assert_eq!(outcome["closed"], 10);
}

#[test]
fn devices_send_several_messages_of_a_mix_at_once() {
    delivers(2, "ingress --devices 5 --batch 8 --size 24:1,64:5,5000:1,200000:1");
}

#[test]
fn a_rate_is_a_rate_for_devices() {
    let outcome = delivers(1, "ingress --devices 10 --rate 200");
    let rate = outcome["messages_per_s"].as_f64().unwrap();
    assert!((100.0..=220.0).contains(&rate), "{outcome:#}");
    assert!(outcome["lateness_us"]["max"].as_f64().unwrap() > 0.0, "{outcome:#}");
}

#[test]
fn drivers_send_to_devices() {
    delivers(2, "egress --devices 10 --under-way 4");
    delivers(1, "egress --devices 10 --rate 200 --size 24:1,1000:1");
}

#[test]
fn round_trips_are_timed() {
    delivers(2, "echo --devices 10 --rate 200");
    delivers(1, "echo --devices 3 --rate 0");
}

#[test]
fn datagrams_are_sent_and_may_be_lost() {
    let outcome = delivers(1, "udp --devices 4 --rate 200");
    assert_eq!(outcome["opened"], 0);
    delivers(2, "udp --devices 4 --size 1000");
}

#[test]
fn large_messages_are_whole() {
    delivers(1, "bulk --devices 2");
}

#[test]
fn idle_devices_are_held() {
    let outcome = passes(1, "idle --devices 100");
    assert_eq!(outcome["opened"], 100);
    assert!(outcome["daemon"]["resident_bytes_a_device"].is_f64(), "{outcome:#}");
}

#[test]
fn devices_come_for_one_message() {
    let outcome = delivers(1, "churn --devices 8 --rate 50 --sources 4");
    assert_eq!(outcome["opened"], outcome["sent"]);
    delivers(2, "churn --devices 8 --rate 0");
    delivers(1, "churn --devices 2 --rate 10 --size 1000000");
}

#[test]
fn every_driver_of_a_port_gets_every_message() {
    let outcome = delivers(2, "fanout --devices 6 --drivers 3 --under-way 4");
    assert_eq!(outcome["opened"], 18);
}

#[test]
fn many_ports_have_a_driver_each() {
    let outcome = delivers(2, "ports --devices 24 --ports 12 --under-way 4");
    assert_eq!(outcome["opened"], 24);
}

#[test]
fn everything_goes_at_once() {
    delivers(2, "mixed --devices 20 --rate 200 --sources 4");
}

#[test]
fn several_threads_share_a_load() {
    for scenario in ["ingress", "egress", "echo --rate 100"] {
        delivers(1, &format!("{scenario} --devices 6 --under-way 4 --cpus 0,0"));
    }
}

#[test]
fn a_session_comes_to_be_where_it_is_asked_for() {
    delivers(2, "ingress --devices 4 --under-way 4 --place home");
    delivers(2, "ingress --devices 4 --under-way 4 --place away");
    let output = run(1, "ingress --devices 4 --place away");
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

#[test]
fn a_daemon_that_is_not_there_is_one_line() {
    let output = Command::new(env!("CARGO_BIN_EXE_dispatch-load"))
        .args(["ingress", "--url", &format!("http://127.0.0.1:{}", free_block())])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(String::from_utf8_lossy(&output.stderr).lines().count(), 1, "{output:?}");
}
