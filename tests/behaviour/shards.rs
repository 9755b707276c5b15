//! Proves that a daemon which is told nothing has a shard for each core that it may use, and that no shard is special.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{BASES, Connection, Device, Setup, eventually, free_port, started};

/// A daemon that was told its port and nothing else.
pub struct Plain {
    child: Child,
    api: SocketAddr,
}

impl Plain {
    /// Starts it by these words and with these flags, and waits until it serves.
    pub fn start(wrapper: &[&str], flags: &[&str]) -> Self {
        let port = free_port();
        let mut words = wrapper.to_vec();
        words.push(env!("CARGO_BIN_EXE_dispatch"));
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).args(["-p", &port.to_string()]).args(flags);
        let nowhere = ["SECRETS_PATH", "CONFIGURATION_DIRECTORY"].map(|name| (name, "/nonexistent"));
        command.env_clear().envs(nowhere).stdin(Stdio::null()).stdout(Stdio::null());
        let plain = Self { child: started(&mut command), api: (Ipv4Addr::LOCALHOST, port).into() };
        eventually("the daemon listens", || TcpStream::connect(plain.api).ok());
        let health = plain.connection().request("GET", &format!("{}/healthz", BASES[0]), "");
        assert_eq!(health.status, 200);
        plain
    }

    pub fn api(&self) -> SocketAddr {
        self.api
    }

    /// A new connection to the API.
    pub fn connection(&self) -> Connection {
        Connection::open(self.api)
    }

    /// Ends it by SIGTERM.
    pub fn ends(mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        eventually("the daemon exits", || self.child.try_wait().unwrap())
    }

    /// The names of its shards' threads, and the cores that they may run on.
    fn threads(&self) -> (BTreeSet<String>, Vec<Vec<usize>>) {
        let task = |name: &str| format!("/proc/{}/task/{name}", self.child.id());
        let threads =
            std::fs::read_dir(task("")).unwrap().map(|thread| thread.unwrap().file_name().into_string().unwrap());
        let shards = threads.filter_map(|thread| {
            let name = std::fs::read_to_string(task(&format!("{thread}/comm"))).ok()?;
            let name = name.trim().to_owned();
            name.starts_with("shard-").then(|| (name, cores(&task(&thread))))
        });
        shards.unzip()
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        // Both fail where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The cores that a process or a thread may run on, such as `0-3,8`, by its folder in /proc.
fn cores(folder: &str) -> Vec<usize> {
    let status = std::fs::read_to_string(format!("{folder}/status")).unwrap();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
    let range = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        first.parse().unwrap()..=last.parse().unwrap()
    };
    list.trim().split(',').flat_map(range).collect()
}

/// Fails unless it has so many shards, each pinned to one of these cores that is its own.
fn assert_pinned(daemon: &Plain, count: usize, allowed: &[usize]) {
    let (names, cores) = daemon.threads();
    assert_eq!(names, (0..count).map(|shard| format!("shard-{shard}")).collect());
    assert!(cores.iter().all(|cores| cores.len() == 1), "pinned to {cores:?}");
    let cores: BTreeSet<usize> = cores.into_iter().flatten().collect();
    assert!(cores.len() == count && cores.iter().all(|core| allowed.contains(core)), "{cores:?} of {allowed:?}");
}

#[test]
fn there_is_a_pinned_shard_for_each_core_that_the_daemon_may_use() {
    let allowed = cores("/proc/self");
    // A container may have less time than cores.
    let count = std::thread::available_parallelism().unwrap().get();
    for flags in [&[][..], &["-w", "0"]] {
        let daemon = Plain::start(&[], flags);
        assert_pinned(&daemon, count, &allowed);
        assert!(daemon.ends().success());
        let last = allowed.last().unwrap();
        let daemon = Plain::start(&["taskset", "-c", &last.to_string()], flags);
        assert_pinned(&daemon, 1, &[*last]);
        assert!(daemon.ends().success());
    }
}

#[test]
fn no_shard_is_special() {
    const COUNT: usize = 60;
    Setup::new(3).run(|daemon| {
        let mut joined: Vec<_> = (0..COUNT)
            .map(|_| {
                let port = free_port();
                (port, daemon.join_tcp(port, "127.0.0.1"))
            })
            .collect();
        let devices: Vec<_> = joined.iter().map(|(port, _)| Device::connect("127.0.0.1", *port)).collect();
        for (_, driver) in &mut joined {
            assert_eq!(driver.opened().id, 0);
        }
        let shards = daemon.shards();
        let shards = shards["shards"].as_array().unwrap();
        assert_eq!(shards.len(), 3);
        for name in ["sessions", "ports", "devices"] {
            let held: Vec<u64> = shards.iter().map(|shard| shard[name].as_u64().unwrap()).collect();
            assert!(held.iter().all(|count| *count > 0), "{name} of the shards: {held:?}");
            assert_eq!(held.iter().sum::<u64>(), COUNT as u64, "{name}");
        }
        drop(devices);
    });
}
