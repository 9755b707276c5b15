//! Proves that a shard whose loop does not turn is noticed: the watchdog is not fed, and the others say who is silent; and
//! that nothing else waits for it without end: no reload, no stop, no takeover.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::unistd::Pid;
use rustix::process::Signal;

use crate::harness::{BASES, Daemon, Manager, Place, Setup, Taker, eventually, free_port, say_skipped};

scenarios! {
    a_shard_that_does_not_turn_starves_the_watchdog,
    a_reload_that_a_shard_does_not_take_is_over_all_the_same,
    a_signal_to_stop_is_heard_while_a_reload_waits_for_a_shard,
    a_takeover_that_waits_for_a_shard_is_over_in_time,
    a_certificate_that_does_not_come_is_not_waited_for,
}

/// The watchdog's time; it is fed once a second, or as soon as every shard has told a beat.
const WATCHDOG: Duration = Duration::from_secs(3);
/// A thread that stands still until this goes. Belongs to the thread that has made it.
struct Standstill(Pid);

impl Standstill {
    /// Stops the daemon's last shard.
    fn of_the_last_shard(daemon: &Daemon, shards: usize) -> Option<Self> {
        let standstill = Self::of(daemon, &format!("shard-{}", shards - 1));
        if standstill.is_none() {
            say_skipped("threads cannot be traced here");
        }
        standstill
    }

    /// Stops the daemon's thread of this name; `None` where tracing is not allowed.
    fn of(daemon: &Daemon, name: &str) -> Option<Self> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap();
        let is_named =
            |id: &i32| std::fs::read_to_string(format!("/proc/{id}/comm")).is_ok_and(|found| found.trim() == name);
        let mut ids = tasks.flatten().filter_map(|task| task.file_name().to_str()?.parse().ok());
        let thread = Pid::from_raw(ids.find(is_named).expect("the shard's thread"));
        match ptrace::seize(thread, ptrace::Options::empty()) {
            Err(Errno::EPERM | Errno::EACCES | Errno::ENOSYS) => return None,
            seized => seized.unwrap(),
        }
        let standstill = Self(thread);
        ptrace::interrupt(thread).unwrap();
        eventually("the thread stands still", || {
            let stat = std::fs::read_to_string(format!("/proc/{thread}/stat")).unwrap();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('t')).then_some(())
        });
        Some(standstill)
    }
}

impl Drop for Standstill {
    fn drop(&mut self) {
        // A thread that is gone meanwhile needs nothing.
        let _ = ptrace::detach(self.0, None);
    }
}

/// What a shard that lives says of readiness; `None` where the one that was asked says nothing.
fn readiness(api: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect(api).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    write!(stream, "GET {}/readyz HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n", BASES[1]).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok().map(|_| answer)
}

fn is_fed(manager: &Manager) -> bool {
    manager.notice_within(2 * WATCHDOG).is_some_and(|notice| notice == "WATCHDOG=1\n")
}

/// As it does not from a folder on a server that is gone.
fn a_certificate_that_does_not_come_is_not_waited_for(shards: usize) {
    let folder = std::env::temp_dir();
    Setup::new(shards).flag("tls-device-certs", folder.to_str().unwrap()).limit("request-head-ms-max", 2_000).run(
        |daemon| {
            let joined = |port: u16, more: &str| {
                let target = format!("{}/tls_dispatch?port={port}&accept=127.0.0.1{more}", BASES[1]);
                daemon.upgrade(&target, "").map(drop).map_err(|refused| (refused.status, refused.text().to_owned()))
            };
            let (status, reason) = joined(free_port(), "&tls=nowhere").unwrap_err();
            assert!(status == 400 && reason.contains("nowhere.crt cannot be read"), "{status} {reason}");
            // So far there is the one alone that reads files.
            let Some(standstill) = Standstill::of(daemon, "certificates") else {
                say_skipped("threads cannot be traced here");
                return;
            };
            for _ in 0..2 {
                let (status, reason) = joined(free_port(), "&tls=nowhere").unwrap_err();
                assert!(status == 503 && reason.contains("was not there in time"), "{status} {reason}");
            }
            // What is made in memory is another thread's.
            eventually("a join by what is in memory", || joined(free_port(), "").ok());
            drop(standstill);
            assert_eq!(joined(free_port(), "&tls=nowhere").unwrap_err().0, 400);
        },
    );
}

fn a_shard_that_does_not_turn_starves_the_watchdog(shards: usize) {
    let manager = Manager::new();
    let time_us = WATCHDOG.as_micros().to_string();
    let daemon = manager.watch(Setup::new(shards).variable("WATCHDOG_USEC", &time_us)).start();
    manager.until("READY=1");
    assert!(is_fed(&manager));
    let last = shards - 1;
    let Some(standstill) = Standstill::of_the_last_shard(&daemon, shards) else { return };
    daemon.until_logged("shards do not turn: the watchdog is not fed");
    if shards > 1 {
        let said = eventually("the shards that live say who is silent", || {
            readiness(daemon.api()).filter(|answer| answer.starts_with("HTTP/1.1 503 "))
        });
        assert!(said.ends_with(&format!(r#"{{"error":"no answer from the shards [{last}]"}}"#)), "{said}");
    }
    // What was told before it stood still may come yet.
    while manager.notice_within(Duration::from_millis(1)).is_some() {}
    assert!(!is_fed(&manager), "fed for a shard that stands still");
    drop(standstill);
    assert!(is_fed(&manager), "all shards turn");
    eventually("it is ready", || readiness(daemon.api()).filter(|answer| answer.starts_with("HTTP/1.1 200 ")));
}

/// Whether a shard that lives answers, and says who does not.
fn assert_others_serve(daemon: &Daemon, shards: usize) {
    if shards > 1 {
        eventually("the shards that live accept", || {
            readiness(daemon.api()).filter(|answer| answer.starts_with("HTTP/1.1 503 "))
        });
    }
}

fn a_reload_that_a_shard_does_not_take_is_over_all_the_same(shards: usize) {
    let manager = Manager::new();
    let mut daemon = manager.watch(Setup::new(shards)).start();
    manager.until("READY=1");
    let Some(standstill) = Standstill::of_the_last_shard(&daemon, shards) else { return };
    daemon.signal(Signal::HUP);
    manager.until("RELOADING=1");
    daemon.until_logged("shards have not taken the settings in time");
    manager.until("READY=1");
    drop(standstill);
    daemon.signal(Signal::HUP);
    daemon.until_logged("the settings were reloaded");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.exits().code(), Some(0));
}

fn a_signal_to_stop_is_heard_while_a_reload_waits_for_a_shard(shards: usize) {
    let mut daemon = Setup::new(shards).limit("drain-ms-max", 60_000).start();
    let Some(standstill) = Standstill::of_the_last_shard(&daemon, shards) else { return };
    daemon.signal(Signal::HUP);
    daemon.until_logged("told to reload: reading the settings");
    eventually("the settings are read", || {
        let mut tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.pid())).unwrap().flatten();
        let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        (!tasks.any(|task| name(task).trim() == "reload")).then_some(())
    });
    daemon.signal(Signal::TERM);
    daemon.until_logged("told to stop: draining");
    assert!(!daemon.log().contains("have not taken the settings"), "it waited for the reload");
    drop(standstill);
    assert_eq!(daemon.exits().code(), Some(0));
}

fn a_takeover_that_waits_for_a_shard_is_over_in_time(shards: usize) {
    let place = Place::new();
    let daemon = place.of(Setup::new(shards)).start();
    let mut taker = Taker::meet(&place);
    taker.ask();
    let Some(standstill) = Standstill::of_the_last_shard(&daemon, shards) else { return };
    taker.say(r#"{"say":"ready"}"#);
    let line = taker.hear();
    assert!(line.contains("its shards do not answer in time"), "{line}");
    daemon.until_logged("not taken over: the daemon goes on");
    assert_others_serve(&daemon, shards);
    // Nor is one that begins now.
    let mut taker = Taker::meet(&place);
    taker.say(r#"{"say":"hello","version":2}"#);
    let line = taker.hear();
    assert!(line.contains("its shards do not answer in time"), "{line}");
    drop(standstill);
    eventually("all shards serve", || readiness(daemon.api()).filter(|answer| answer.starts_with("HTTP/1.1 200 ")));
    daemon.assert_drains();
}
