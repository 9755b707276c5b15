//! The units in packaging/systemd fit the daemon: what they allow covers its defaults, and its restarts leave it time.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::Duration;

use uring_dispatch::config::{Environment, Invocation, devices_max};

fn unit(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/systemd").join(name)).unwrap()
}

/// The values of a setting, in the order of its lines.
fn values<'a>(unit: &'a str, name: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect()
}

fn seconds(unit: &str, name: &str) -> Duration {
    let value = values(unit, name)[0].strip_suffix('s').unwrap();
    Duration::from_secs(value.parse().unwrap())
}

#[test]
fn the_service_leaves_the_daemon_the_time_and_the_room_that_it_takes() {
    let service = unit("dispatch.service");
    let arguments = ["dispatch"].map(Into::into);
    let Ok(Invocation::Serve(loaded, _)) = Invocation::parse(arguments, &Environment::new([])) else {
        panic!("no daemon");
    };
    let config = loaded.config;
    assert!(seconds(&service, "TimeoutStopSec") > config.limits.drain_time_max);
    assert!(seconds(&service, "WatchdogSec") >= Duration::from_secs(2));
    let descriptors: u64 = values(&service, "LimitNOFILE")[0].parse().unwrap();
    assert!(devices_max(descriptors, 0) >= 100_000);
    // What `server` says that a ring may take.
    let ring_bytes = u64::from(config.limits.ring_entries) * 128;
    let locked_mib: u64 = values(&service, "LimitMEMLOCK")[0].strip_suffix('M').unwrap().parse().unwrap();
    assert!((locked_mib << 20) / ring_bytes >= 2 * 256);
}

#[test]
fn the_service_may_do_what_the_daemon_does_and_no_more_than_open_low_ports() {
    let service = unit("dispatch.service");
    for name in ["AmbientCapabilities", "CapabilityBoundingSet"] {
        assert_eq!(values(&service, name), ["CAP_NET_BIND_SERVICE"], "{name}");
    }
    let calls = values(&service, "SystemCallFilter");
    for call in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert!(calls[0].split(' ').any(|allowed| allowed == call), "{call}");
    }
    // Pinning and the raising of limits are among the resources.
    assert!(!calls[1..].iter().any(|line| line.contains("@resources")), "{calls:?}");
    for family in ["AF_INET", "AF_INET6", "AF_UNIX"] {
        assert!(values(&service, "RestrictAddressFamilies")[0].split(' ').any(|allowed| allowed == family), "{family}");
    }
    assert!(values(&service, "PrivateUsers").is_empty() && values(&service, "PrivateNetwork").is_empty());
    assert_eq!(values(&service, "Type"), ["notify", "notify-reload"], "the second where systemd knows it");
}

#[test]
fn the_socket_is_the_services_and_as_the_daemon_would_have_it() {
    let socket = unit("dispatch.socket");
    assert_eq!(values(&socket, "Backlog"), ["4096"]);
    assert_eq!(values(&socket, "ListenStream").len(), 1);
    assert!(values(&socket, "Accept").is_empty(), "one daemon serves all");
}
