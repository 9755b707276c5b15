//! Proves that a wall clock that jumps changes nothing for anyone: limits go by the clock that only runs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{Device, Setup, free_port, say_skipped};

scenarios! {
    a_wall_clock_that_jumps_by_days_lets_nobody_go,
}

/// Where distributions put libfaketime.
const LIBRARIES: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

/// The file that says how far the daemon's wall clock is off; it goes with this.
struct Offset(PathBuf);

impl Offset {
    fn new(shards: usize) -> Self {
        let offset = Self(std::env::temp_dir().join(format!("dispatch-clock-{}-{shards}", std::process::id())));
        offset.set("+0");
        offset
    }

    fn set(&self, text: &str) {
        // Renamed, as the daemon may read it at any time.
        let new = self.0.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &self.0).unwrap();
    }
}

impl Drop for Offset {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// What `date` says of a time this many days from now.
fn day(days: i64) -> String {
    let output = Command::new("date").args(["-u", "-d", &format!("{days} days"), "+%Y-%m-%d"]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn a_wall_clock_that_jumps_by_days_lets_nobody_go(shards: usize) {
    let Some(library) = LIBRARIES.iter().find(|library| Path::new(library).exists()) else {
        say_skipped("libfaketime is not installed");
        return;
    };
    let offset = Offset::new(shards);
    let setup = Setup::new(shards)
        .under(&["env", &format!("LD_PRELOAD={library}")])
        .variable("FAKETIME_TIMESTAMP_FILE", &offset.0.to_string_lossy())
        .variable("FAKETIME_NO_CACHE", "1")
        .variable("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .limit("ping-interval-ms", 300)
        .limit("driver-silence-ms-max", 1_500)
        .limit("stall-ms-max", 1_500)
        .limit("device-keepalive-ms", 1_000);
    setup.run(|daemon| {
        let (tcp, udp) = (free_port(), free_port());
        let mut driver = daemon.join_tcp(tcp, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", tcp);
        let addr = driver.opened();
        let mut datagrams = daemon.join_udp(udp, "127.0.0.1");
        let udp_device = crate::harness::Datagrams::bind("127.0.0.1");
        let udp_addr = crate::harness::Addr::new("127.0.0.1", udp_device.port());
        for days in [3, -3, 400, 0] {
            offset.set(&format!("{days:+}d"));
            let until = Instant::now() + Duration::from_millis(800);
            while Instant::now() < until {
                device.send(b"what day is it?");
                driver.received(&addr, b"what day is it?");
                driver.write(&addr, b"who knows");
                device.expect(b"who knows");
                udp_device.send(udp, b"tick");
                datagrams.datagram(&udp_addr, b"tick");
                std::thread::sleep(Duration::from_millis(20));
            }
            daemon.fetch("/nowhere");
            if days != 0 {
                daemon.until_logged(&day(days));
            }
        }
        assert_eq!((daemon.held("sessions"), daemon.held("devices")), (2, 1));
    });
}
