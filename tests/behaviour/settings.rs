//! Proves that settings with which nobody could be served are refused at the start, and that those which are taken serve.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::harness::{Daemon, Setup, free_port, is_root, say_skipped};

scenarios! {
    the_least_memory_for_drivers_admits_one,
    two_daemons_on_one_port_in_either_family_are_one_too_many,
    receive_buffers_that_there_is_no_memory_for_are_one_line_and_a_failure,
    more_devices_than_descriptors_are_warned_of,
    a_start_without_a_thread_is_one_line_and_a_failure,
    a_folder_of_settings_that_may_not_be_entered_is_named,
}

/// The line with which a start is refused for what a setting says.
fn refusal(setup: Setup) -> String {
    let mut daemon: Daemon = setup.spawn();
    assert_eq!(daemon.exits().code(), Some(2));
    daemon.until_logged("\n");
    daemon.log()
}

fn a_folder_of_settings_that_may_not_be_entered_is_named(shards: usize) {
    let name = format!("dispatch-closed-{}-{}", std::process::id(), free_port());
    let folder = std::env::temp_dir().join(name);
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o000)).unwrap();
    let setup = Setup::new(shards).variable("SECRETS_PATH", folder.to_str().unwrap());
    let told = refusal(if is_root() { setup.with_no_privilege() } else { setup });
    fs::remove_dir(&folder).unwrap();
    assert!(told.contains(&format!("SECRETS_PATH: the folder {folder:?} may not be entered")), "{told}");
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

fn two_daemons_on_one_port_in_either_family_are_one_too_many(shards: usize) {
    if !Path::new("/proc/net/if_inet6").exists() {
        say_skipped("this host has no IPv6");
        return;
    }
    for (first, second) in [("0.0.0.0", "::"), ("::", "0.0.0.0")] {
        let port = free_port();
        let at = |host| Setup::new(shards).api_port(port).told_by_environment().variable("SG_SERVER_HOST", host);
        let daemon = at(first).start();
        let mut refused = at(second).spawn();
        assert_eq!(refused.exits().code(), Some(1), "{second} beside {first}");
        refused.until_logged("Address already in use");
        daemon.assert_drains();
    }
}

fn receive_buffers_that_there_is_no_memory_for_are_one_line_and_a_failure(shards: usize) {
    // 32 GiB, of 4 GiB.
    let setup = Setup::new(shards).limit("receive-buffers", 32_768).limit("receive-buffer-bytes", 1 << 20);
    let mut daemon = setup.under(&["prlimit", "--as=4294967296"]).spawn();
    assert_eq!(daemon.exits().code(), Some(1));
    daemon.until_logged("there is no memory for 32768 receive buffers (--receive-buffers) of 1048576 bytes");
}

fn more_devices_than_descriptors_are_warned_of(shards: usize) {
    const LINE: &str = "--devices-max is more than descriptors allow, which counts set=5000 devices_max=936";
    for (devices_max, warnings) in [(0, 0), (936, 0), (5_000, 1)] {
        let setup = Setup::new(shards).limit("devices-max", devices_max).under(&["prlimit", "--nofile=1000:1000"]);
        let daemon = setup.start();
        daemon.until_logged("dispatch serves");
        assert_eq!(daemon.log().matches(LINE).count(), warnings, "{devices_max}");
        daemon.assert_drains();
    }
}

fn a_start_without_a_thread_is_one_line_and_a_failure(shards: usize) {
    let setup = Setup::new(shards);
    let setup = if is_root() { setup.with_no_privilege() } else { setup };
    let mut daemon = setup.under(&["prlimit", "--nproc=1:1"]).spawn();
    assert_eq!(daemon.exits().code(), Some(1));
    daemon.until_logged("\n");
    let said = daemon.log();
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.starts_with("dispatch: the thread that writes the log cannot be started: "), "{said}");
}
