//! `scripts/bare-metal` over a made-up /proc and /sys: what it advises, sets and prints.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A machine on which all is well for 1,000 devices, but for what a test changes.
const READY: [(&str, &str); 15] = [
    ("proc/self/limits", "Max open files            1024                 4096                 files     \n"),
    ("proc/sys/fs/nr_open", "1048576\n"),
    ("proc/sys/fs/file-max", "9223372036854775807\n"),
    ("proc/sys/kernel/osrelease", "6.12.0-amd64\n"),
    ("proc/sys/kernel/io_uring_disabled", "0\n"),
    ("proc/sys/net/core/somaxconn", "4096\n"),
    ("proc/sys/net/core/rmem_max", "4194304\n"),
    ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
    ("proc/sys/net/ipv4/ip_local_reserved_ports", "47800-47810\n"),
    ("sys/devices/system/cpu/online", "0-1\n"),
    ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "performance\n"),
    ("sys/class/net/eth0/device/msi_irqs/40", "msix\n"),
    ("sys/class/net/eth0/queues/rx-0/rps_cpus", "3\n"),
    ("sys/class/net/eth0/queues/rx-1/rps_cpus", "0\n"),
    ("proc/irq/40/smp_affinity_list", "0-1\n"),
];

/// A folder with `proc` and `sys`, gone with its value.
struct Machine(PathBuf);

impl Machine {
    fn new(name: &str, files: &[(&str, &str)]) -> Self {
        let machine = Machine(std::env::temp_dir().join(format!("dispatch-bare-metal-{name}-{}", std::process::id())));
        fs::create_dir_all(&machine.0).unwrap();
        for (path, text) in files {
            machine.write(path, text);
        }
        machine
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.0.join(path)).unwrap().trim().to_owned()
    }

    /// The exit code and what was printed.
    fn run(&self, arguments: &[&str]) -> (i32, String) {
        let Output { status, stdout, stderr } =
            Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/bare-metal"))
                .args(["-d", "1000"])
                .args(arguments)
                .env("BARE_METAL_ROOT", &self.0)
                .output()
                .unwrap();
        (status.code().unwrap(), String::from_utf8([stdout, stderr].concat()).unwrap())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The lines that begin with `word`, which are one a setting.
fn names(text: &str, word: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix(word));
    lines.map(|line| line.trim().split(": ").next().unwrap().to_owned()).collect()
}

#[test]
fn a_machine_that_has_all_is_well() {
    let (code, text) = Machine::new("ready", &READY).run(&[]);
    assert_eq!((code, names(&text, "advised")), (0, vec![]), "{text}");
    assert_eq!(names(&text, "ok").len(), 10, "{text}");
}

#[test]
fn what_a_kernel_does_not_have_is_not_there_and_no_fault() {
    let (code, text) = Machine::new("empty", &[]).run(&["-l"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(names(&text, "not there").len(), text.lines().count(), "{text}");
}

#[test]
fn each_setting_that_falls_short_is_advised_with_its_reason() {
    for (path, value, name) in [
        ("proc/self/limits", "Max open files            1024                 1024                 files\n", "nofile"),
        ("proc/self/limits", "Max locked memory         65536                65536                bytes\n", "memlock"),
        ("proc/sys/fs/nr_open", "1024\n", "fs.nr_open"),
        ("proc/sys/fs/file-max", "1024\n", "fs.file-max"),
        ("proc/sys/kernel/osrelease", "5.15.0-91-generic\n", "kernel"),
        ("proc/sys/kernel/io_uring_disabled", "2\n", "kernel.io_uring_disabled"),
        ("proc/sys/net/core/somaxconn", "128\n", "net.core.somaxconn"),
        ("proc/sys/net/core/rmem_max", "212992\n", "net.core.rmem_max"),
        ("proc/sys/net/netfilter/nf_conntrack_max", "1024\n", "net.netfilter.nf_conntrack_max"),
        ("proc/sys/net/ipv4/ip_local_reserved_ports", "\n", "net.ipv4.ip_local_reserved_ports"),
        ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n", "governor of cpu1"),
        ("sys/devices/system/cpu/online", "0-2\n", "packet steering of eth0"),
        ("proc/irq/40/smp_affinity_list", "1\n", "interrupts of eth0"),
    ] {
        let machine = Machine::new("short", &READY);
        machine.write(path, value);
        let (code, text) = machine.run(&[]);
        assert_eq!((code, names(&text, "advised")), (1, vec![name.to_owned()]), "{text}");
        let line = text.lines().find(|line| line.starts_with("advised")).unwrap();
        assert_eq!(line.matches("; wanted: ").count(), 1, "{line}");
    }
}

#[test]
fn what_is_applied_is_well_and_what_was_more_stays() {
    let machine = Machine::new("apply", &READY);
    machine.write("proc/sys/net/core/somaxconn", "128\n");
    machine.write("proc/sys/net/ipv4/ip_local_reserved_ports", "40000\n");
    machine.write("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n");
    let ports = ["-o", "6001,47808-47809"];
    let (_, printed) = machine.run(&["-o", "6001,47808-47809", "--print-sysctl"]);
    for line in [
        "net.core.somaxconn = 4096",
        "net.core.rmem_max = 4194304",
        "net.ipv4.ip_local_reserved_ports = 40000,47808-47809",
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line} in {printed}");
    }
    assert!(!printed.contains("governor") && !printed.contains("ip_local_port_range"), "{printed}");
    assert_eq!(machine.read("proc/sys/net/core/somaxconn"), "128", "printing sets nothing");

    let (code, text) = machine.run(&[&ports[..], &["--apply"]].concat());
    assert_eq!(code, 0, "{text}");
    assert_eq!(machine.read("proc/sys/net/core/somaxconn"), "4096");
    assert_eq!(machine.read("proc/sys/net/core/rmem_max"), "4194304");
    assert_eq!(machine.read("proc/sys/net/ipv4/ip_local_reserved_ports"), "40000,47808-47809");
    assert_eq!(machine.read("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor"), "performance");
    assert_eq!(machine.run(&ports).0, 0);
}

#[test]
fn a_wrong_call_is_answered_with_one_line() {
    let machine = Machine::new("wrong", &READY);
    let ports = ["6001-", "2999-2000", "70000", "0", "1,65535-65536", "99999999999999999999"];
    let ports = ports.map(|ports| ["-o", ports]);
    let others = [&["--aply"][..], &["-d"], &["-d", "many"], &["-p", "nobody"]];
    for arguments in others.into_iter().chain(ports.iter().map(|ports| &ports[..])) {
        let (code, text) = machine.run(arguments);
        assert_eq!((code, text.lines().count()), (2, 1), "{arguments:?}: {text}");
        assert!(text.starts_with("bare-metal: "), "{text}");
    }
}
