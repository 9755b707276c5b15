//! Proves that settings with which nobody could be served are refused at the start, and that those which are taken serve.

use crate::harness::{Daemon, Setup, free_port};

scenarios! {
    the_least_memory_for_drivers_admits_one,
}

/// The line with which a start is refused for what a setting says.
fn refusal(setup: Setup) -> String {
    let mut daemon: Daemon = setup.spawn();
    assert_eq!(daemon.exits().code(), Some(2));
    daemon.until_logged("\n");
    daemon.log()
}

fn the_least_memory_for_drivers_admits_one(shards: usize) {
    let with = |bytes| Setup::new(shards).limit("session-memory-bytes-max", bytes);
    let told = refusal(with(524_288));
    let least = told.split(" who takes ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).expect(&told);
    refusal(with(least - 1));
    with(least).run(|daemon| {
        let driver = daemon.join_tcp(free_port(), "127.0.0.1,127.0.0.2,::1");
        drop(driver);
    });
}
