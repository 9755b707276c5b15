//! Proves what SIGHUP does: settings are read again and reach every shard, nobody is dropped, what needs a restart is
//! named, and a bad file changes nothing.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::Signal;

use crate::harness::{BASES, Connection, Daemon, Device, Metrics, Setup, Transport, eventually, free_port};

scenarios! {
    a_secret_is_changed_and_no_driver_is_dropped,
    allow_lists_count_for_those_who_join_from_then_on,
    limits_are_raised_and_lowered,
    devices_beyond_a_lowered_limit_stay_and_the_next_waits,
    a_limit_of_a_source_counts_the_devices_that_are_there,
    rules_of_devices_reach_the_ports_that_are_open,
    devices_that_come_are_probed_as_the_settings_then_say,
    a_session_keeps_the_buffers_that_it_joined_with,
    the_log_level_is_reloaded,
    a_bad_file_keeps_the_settings_and_says_so,
    what_needs_a_restart_is_named_and_left_as_it_is,
    a_variable_goes_before_the_file_that_is_reloaded,
    metrics_open_and_close,
    very_many_signals_are_no_harm,
    a_signal_during_a_drain_changes_nothing,
}

const DONE: &str = "the settings were reloaded";
const REFUSED: &str = "the settings were not reloaded; those from before stay in force";

/// A folder of a configuration file and of secrets, gone with the value.
pub struct Folder(PathBuf);

impl Folder {
    pub fn with(config: &str) -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("dispatch-reload-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = Folder(std::env::temp_dir().join(name));
        std::fs::create_dir_all(&folder.0).unwrap();
        folder.write("d.toml", config);
        folder
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.0.join(name)).unwrap();
    }

    /// A daemon of this folder.
    pub fn setup(&self, shards: usize) -> Setup {
        let config = self.0.join("d.toml");
        let setup = Setup::new(shards).variable("DISPATCH_CONFIG", config.to_str().unwrap());
        setup.variable("SECRETS_PATH", self.0.to_str().unwrap())
    }

    /// Writes the configuration file, and has it reloaded.
    pub fn reload(&self, daemon: &Daemon, config: &str) {
        self.write("d.toml", config);
        reload(daemon, DONE);
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Sends the signal, and waits until the log says how that went.
fn reload(daemon: &Daemon, end: &str) {
    let ends = || daemon.log().matches(end).count();
    let before = ends();
    daemon.signal(Signal::HUP);
    eventually(end, || (ends() > before).then_some(()));
}

fn status_with(daemon: &Daemon, token: &str) -> u16 {
    let mut connection = Connection::open(daemon.api());
    connection.request("GET", BASES[0], &format!("Authorization: Bearer {token}\r\n")).status
}

/// The answers of several connections, which meet several shards.
fn statuses_with(daemon: &Daemon, token: &str) -> Vec<u16> {
    let mut statuses: Vec<u16> = (0..12).map(|_| status_with(daemon, token)).collect();
    statuses.dedup();
    statuses
}

fn metrics(daemon: &Daemon) -> Metrics {
    Metrics::parse(daemon.fetch("/metrics").text())
}

/// The lines of the log that have a text.
fn lines(daemon: &Daemon, text: &str) -> Vec<String> {
    daemon.log().lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
}

fn a_secret_is_changed_and_no_driver_is_dropped(shards: usize) {
    let folder = Folder::with("");
    folder.write("SERVER_SECRET", "old-sesame\n");
    folder.setup(shards).token("old-sesame").run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        folder.write("SERVER_SECRET_NEXT", "new-sesame\n");
        reload(daemon, DONE);
        assert_eq!(["old-sesame", "new-sesame"].map(|token| statuses_with(daemon, token)), [[200], [200]]);
        folder.write("SERVER_SECRET", "new-sesame");
        folder.remove("SERVER_SECRET_NEXT");
        reload(daemon, DONE);
        assert_eq!(["old-sesame", "new-sesame"].map(|token| statuses_with(daemon, token)), [[401], [200]]);
        device.send(b"still here");
        driver.received(&addr, b"still here");
        driver.write(&addr, b"and here");
        device.expect(b"and here");
        // Both, so that the harness gets in.
        folder.write("SERVER_SECRET_NEXT", "old-sesame");
        reload(daemon, DONE);
        let changed = lines(daemon, "a setting was changed");
        assert_eq!(changed.iter().filter(|line| line.contains("server_secret_next")).count(), 3, "{changed:#?}");
        assert!(changed.iter().all(|line| line.contains("********")), "{changed:#?}");
        assert!(!daemon.log().contains("sesame"), "a secret in the log");
    });
}

fn allow_lists_count_for_those_who_join_from_then_on(shards: usize) {
    let folder = Folder::with("allow_sources = ['127.0.0.0/8']\n");
    folder.setup(shards).run(|daemon| {
        let (port, other) = (free_port(), free_port());
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        folder.reload(daemon, &format!("allow_sources = ['127.0.0.2']\nallow_ports = [{other}]\n"));
        for _ in 0..2 * shards {
            assert_eq!(daemon.refusal(Transport::Tcp, &other.to_string(), "127.0.0.1").status, 403);
            assert_eq!(daemon.refusal(Transport::Tcp, &port.to_string(), "127.0.0.2").status, 403);
            daemon.join_tcp(other, "127.0.0.2").leave();
        }
        // Who is joined keeps what was allowed then, its next devices included.
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        driver.write(&addr, b"joined");
        device.expect(b"joined");
    });
}

fn limits_are_raised_and_lowered(shards: usize) {
    let folder = Folder::with("ports_max = 1\n");
    folder.setup(shards).run(|daemon| {
        let ports = [free_port(), free_port(), free_port()];
        let first = daemon.join_tcp(ports[0], "127.0.0.1");
        assert_eq!(daemon.refusal(Transport::Tcp, &ports[1].to_string(), "127.0.0.1").status, 503);
        folder.reload(daemon, "ports_max = 2\n");
        let second = daemon.join_tcp(ports[1], "127.0.0.1");
        assert_eq!(daemon.refusal(Transport::Tcp, &ports[2].to_string(), "127.0.0.1").status, 503);
        assert_eq!(metrics(daemon).value("dispatch_port_slots_limit"), 2.0);
        // Below what there is: nobody goes, and nobody comes.
        folder.reload(daemon, "ports_max = 1\nsessions_max = 1\n");
        assert_eq!(daemon.refusal(Transport::Tcp, &ports[0].to_string(), "127.0.0.1").status, 503);
        assert_eq!((daemon.held("sessions"), metrics(daemon).value("dispatch_session_slots_limit")), (2, 1.0));
        first.leave();
        second.leave();
        eventually("both have left", || {
            let metrics = metrics(daemon);
            let taken = metrics.value("dispatch_port_slots") + metrics.value("dispatch_session_slots");
            (taken == 0.0).then_some(())
        });
        daemon.join_tcp(ports[2], "127.0.0.1").leave();
        let changed = lines(daemon, "a setting was changed");
        assert!(changed.iter().any(|line| line.contains("ports_max") && line.contains("d.toml:1")), "{changed:#?}");
    });
}

fn devices_beyond_a_lowered_limit_stay_and_the_next_waits(shards: usize) {
    let folder = Folder::with("");
    folder.setup(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let mut devices: Vec<_> = (0..3).map(|_| Device::connect("127.0.0.1", port)).collect();
        let addrs: Vec<_> = devices.iter().map(|_| driver.opened()).collect();
        folder.reload(daemon, "devices_max = 2\n");
        let mut waiting = Device::connect("127.0.0.1", port);
        for (device, addr) in devices.iter_mut().zip(&addrs) {
            device.send(b"lives");
            driver.received(addr, b"lives");
        }
        let slots = |daemon: &Daemon| metrics(daemon).value("dispatch_device_slots");
        drop(devices.pop());
        driver.closed(&addrs[2]);
        // There are still two, so the fourth waits in the kernel.
        devices[0].send(b"alone");
        driver.received(&addrs[0], b"alone");
        assert!(slots(daemon) <= 2.0, "{}", slots(daemon));
        drop(devices.pop());
        driver.closed(&addrs[1]);
        let fourth = driver.opened();
        waiting.send(b"let in");
        driver.received(&fourth, b"let in");
        folder.reload(daemon, "");
        let _fifth = Device::connect("127.0.0.1", port);
        driver.opened();
    });
}

fn a_limit_of_a_source_counts_the_devices_that_are_there(shards: usize) {
    let folder = Folder::with("");
    folder.setup(shards).run(|daemon| {
        // Ports of several shards.
        let mut joined: Vec<_> = (0..2 * shards)
            .map(|_| {
                let port = free_port();
                (port, daemon.join_tcp(port, "127.0.0.0/8"))
            })
            .collect();
        let mut there: Vec<_> =
            joined.iter_mut().map(|(port, driver)| (Device::connect("127.0.0.7", *port), driver.opened())).collect();
        let refused = || daemon.count("devices_refused_source_limit");
        let (port, last) = joined.last_mut().unwrap();
        let (limit, port) = (there.len(), *port);
        // Nobody goes as it is met, and nobody comes.
        folder.reload(daemon, &format!("devices_per_source_max = {limit}\n"));
        Device::connect("127.0.0.7", port).is_disconnected();
        assert_eq!((refused(), daemon.held("devices")), (1, limit as u64));
        let _other_source = Device::connect("127.0.0.8", port);
        last.opened();
        // One that was there before the limit makes room as it goes.
        let (device, addr) = there.pop().unwrap();
        drop(device);
        last.closed(&addr);
        there.push((Device::connect("127.0.0.7", port), last.opened()));
        folder.reload(daemon, "");
        there.push((Device::connect("127.0.0.7", port), last.opened()));
        // It counts all of them, those that came while there was none included.
        folder.reload(daemon, &format!("devices_per_source_max = {}\n", limit + 1));
        Device::connect("127.0.0.7", port).is_disconnected();
        assert_eq!(refused(), 2);
    });
}

fn rules_of_devices_reach_the_ports_that_are_open(shards: usize) {
    let folder = Folder::with("");
    folder.setup(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.7,192.0.2.7");
        let mut old = Device::connect("127.0.0.7", port);
        let addr = driver.opened();
        folder.reload(daemon, &format!("replace_devices = [{port}]\n"));
        let _new = Device::connect("127.0.0.7", port);
        driver.closed(&addr);
        let addr = driver.opened();
        old.is_disconnected();
        folder.reload(daemon, "device_proxy_from = ['127.0.0.9', '::1']\n");
        for balancer in ["127.0.0.9", "::1"] {
            let mut balanced = Device::connect(balancer, port);
            balanced.send(b"PROXY TCP4 192.0.2.7 10.0.0.1 4711 80\r\n");
            let behind = driver.opened();
            drop(balanced);
            driver.closed(&behind);
        }
        folder.reload(daemon, &format!("device_idle_seconds_max = ['{port}=1', 600]\n"));
        driver.closed(&addr);
    });
}

fn devices_that_come_are_probed_as_the_settings_then_say(shards: usize) {
    let folder = Folder::with("device_keepalive_ms = 600000\n");
    folder.setup(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let before = Device::connect("127.0.0.1", port);
        driver.opened();
        folder.reload(daemon, "device_keepalive_ms = 300000\n");
        let after = Device::connect("127.0.0.1", port);
        driver.opened();
        let probed = [before, after].map(|device| device.probed_in_hundredths());
        assert!(probed[0] > 30_100 && probed[1] <= 30_100, "probed in {probed:?} hundredths of a second");
    });
}

fn a_session_keeps_the_buffers_that_it_joined_with(shards: usize) {
    let folder = Folder::with("");
    folder.setup(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        let small = "outbox_bytes_max = 204_800\nwrite_window_bytes_max = 4096\nmessage_bytes_max = 131_072\n";
        for config in [small, "write_window_bytes_max = 1_048_576\noutbox_bytes_max = 1_048_576\n", small] {
            folder.reload(daemon, config);
            let other_port = free_port();
            let other = daemon.join_tcp(other_port, "127.0.0.1");
            let data = vec![7; 200_000];
            driver.write(&addr, &data);
            device.expect(&data);
            device.send(&data);
            driver.received(&addr, &data);
            other.leave();
        }
    });
}

fn the_log_level_is_reloaded(shards: usize) {
    let folder = Folder::with("log_level = 'info'\n");
    folder.setup(shards).run(|daemon| {
        let level = || daemon.fetch("/api/server/log-level").member("filter");
        assert_eq!(level(), "info");
        folder.reload(daemon, "log_level = 'debug'\n");
        assert_eq!(level(), "debug");
        // An empty one is that of the settings, as they are.
        assert_eq!(daemon.ask("PUT", "/api/server/log-level?filter=info").status, 200);
        assert_eq!(daemon.ask("PUT", "/api/server/log-level?filter=").status, 200);
        assert_eq!(level(), "debug");
        // What was set by hand stays, where the settings say nothing new.
        assert_eq!(daemon.ask("PUT", "/api/server/log-level?filter=trace").status, 200);
        folder.reload(daemon, "log_level = 'debug'\nports_max = 7\n");
        assert_eq!(level(), "trace");
        folder.reload(daemon, "log_level = 'info'\n");
        assert_eq!(level(), "info");
        folder.reload(daemon, "");
        assert_eq!(level(), "debug");
    });
}

fn a_bad_file_keeps_the_settings_and_says_so(shards: usize) {
    let folder = Folder::with("ports_max = 1\n");
    folder.setup(shards).run(|daemon| {
        let driver = daemon.join_tcp(free_port(), "127.0.0.1");
        let before = metrics(daemon).value("dispatch_reload_success_timestamp_seconds");
        let mut failed = 0.0;
        for (text, part) in [
            ("ports_max = 2\nstal_ms_max = 5\n", "line 2, column 1: there is no setting"),
            ("ports_max = 2\nstall_ms_max = 5\n", "line 2, column 16"),
            ("ports_max = ", "line 1, column"),
            ("ports_max = 2\nserver_secret = ' '\n", "line 2, column 17 is empty"),
            ("ports_max = 2\nping_interval_ms = 80_000\n", "--driver-silence-ms-max"),
        ] {
            folder.write("d.toml", text);
            reload(daemon, REFUSED);
            failed += 1.0;
            let line = lines(daemon, REFUSED).pop().unwrap();
            assert!(line.contains("ERROR") && line.contains(part), "{line}");
            let metrics = metrics(daemon);
            let of = |name| metrics.value(name);
            assert_eq!((of("dispatch_reload_failing"), of("dispatch_reloads_failed_total")), (1.0, failed));
            assert_eq!(of("dispatch_reload_success_timestamp_seconds"), before);
            assert_eq!(daemon.refusal(Transport::Tcp, &free_port().to_string(), "127.0.0.1").status, 503);
        }
        folder.remove("d.toml");
        reload(daemon, REFUSED);
        assert!(lines(daemon, REFUSED).pop().unwrap().contains("cannot be read"));
        folder.reload(daemon, "ports_max = 2\n");
        let after = metrics(daemon);
        assert_eq!((after.value("dispatch_reload_failing"), after.value("dispatch_port_slots_limit")), (0.0, 2.0));
        assert!(after.value("dispatch_reload_success_timestamp_seconds") > before);
        daemon.join_tcp(free_port(), "127.0.0.1").leave();
        driver.leave();
    });
}

fn what_needs_a_restart_is_named_and_left_as_it_is(shards: usize) {
    const WAITS: &str = "a setting was changed that needs a restart";
    let folder = Folder::with("receive_buffers = 512\n");
    folder.setup(shards).run(|daemon| {
        // Host and port are flags here, and go before the file.
        folder.reload(daemon, "receive_buffers = 256\nring_entries = 64\nenvironment = 'staging'\nhost = '0.0.0.0'\n");
        let waiting = lines(daemon, WAITS);
        for name in ["receive_buffers", "ring_entries", "environment"] {
            assert!(waiting.iter().any(|line| line.contains("WARN") && line.contains(name)), "{name} {waiting:#?}");
        }
        assert_eq!(waiting.len(), 3, "{waiting:#?}");
        assert_eq!(metrics(daemon).value("dispatch_receive_buffers_limit"), 512.0);
        folder.reload(daemon, "receive_buffers = 512\n");
        assert_eq!(lines(daemon, WAITS).len(), 3);
    });
}

fn a_variable_goes_before_the_file_that_is_reloaded(shards: usize) {
    let folder = Folder::with("");
    folder.setup(shards).variable("DISPATCH_PORTS_MAX", "5").limit("sessions-max", 6).run(|daemon| {
        folder.write("DISPATCH_DEVICES_PER_PORT_MAX", "7");
        folder.reload(daemon, "ports_max = 1\nsessions_max = 2\ndevices_per_port_max = 3\n");
        let metrics = metrics(daemon);
        assert_eq!(metrics.value("dispatch_port_slots_limit"), 5.0);
        assert_eq!(metrics.value("dispatch_session_slots_limit"), 6.0);
        assert_eq!(metrics.value("dispatch_device_slots_per_port_limit"), 7.0);
    });
}

fn metrics_open_and_close(shards: usize) {
    let folder = Folder::with("");
    folder.setup(shards).run(|daemon| {
        let status = || Connection::open(daemon.api()).request("GET", "/metrics", "").status;
        assert_eq!(status(), 401);
        folder.reload(daemon, "metrics_open = true\n");
        assert!((0..12).all(|_| status() == 200));
        folder.reload(daemon, "");
        assert!((0..12).all(|_| status() == 401));
    });
}

fn very_many_signals_are_no_harm(shards: usize) {
    let folder = Folder::with("ports_max = 3\n");
    folder.setup(shards).run(|daemon| {
        let port = free_port();
        let mut driver = daemon.join_tcp(port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = driver.opened();
        for _ in 0..200 {
            daemon.signal(Signal::HUP);
            device.send(b"x");
            driver.received(&addr, b"x");
        }
        folder.write("d.toml", "ports_max = 4\n");
        // The last signal counts, however many there were before.
        daemon.signal(Signal::HUP);
        eventually("the last file is in force", || {
            (metrics(daemon).value("dispatch_port_slots_limit") == 4.0).then_some(())
        });
    });
}

fn a_signal_during_a_drain_changes_nothing(shards: usize) {
    let folder = Folder::with("");
    let mut daemon = folder.setup(shards).start();
    daemon.signal(Signal::TERM);
    daemon.signal(Signal::HUP);
    assert!(daemon.exits().success());
}
