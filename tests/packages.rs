//! What is packaged fits the daemon: manual pages and completions, the kernel settings, the image's commands, the seccomp
//! profile, and the times and limits of the examples.
#![allow(clippy::unwrap_used)]

// Compiled in and not started as a program, so that it is never an old one.
#[path = "../examples/manual.rs"]
mod manual;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use uring_dispatch::config::{Config, Environment, Invocation, devices_max, settings};
use uring_dispatch::edge::routes;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// A folder of this test, gone with its value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let folder = Folder(std::env::temp_dir().join(format!("dispatch-packages-{name}-{}", std::process::id())));
        fs::create_dir_all(&folder.0).unwrap();
        folder
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn parse(arguments: &[&str]) -> Invocation {
    Invocation::parse(arguments.iter().map(Into::into), &Environment::new([])).unwrap()
}

fn served(arguments: &[&str]) -> Config {
    match parse(arguments) {
        Invocation::Serve(loaded, _) => loaded.config,
        other => panic!("no daemon: {other:?}"),
    }
}

fn run(script: &str, arguments: &[&str], variables: &[(&str, &Path)]) -> Output {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(script);
    Command::new(script).args(arguments).envs(variables.iter().copied()).output().unwrap()
}

#[test]
fn what_is_released_says_of_which_commit_and_time_it_is() {
    let bash = |script: &str, commit: &str| {
        let mut command = Command::new("bash");
        command.args(["-euc", script]).current_dir(env!("CARGO_MANIFEST_DIR"));
        let output = command.env("SOURCE_DATE_EPOCH", "86399").env("DISPATCH_COMMIT", commit).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let say = r#". scripts/release-environment; echo "$(env | grep ^DISPATCH_ | sort)""#;
    let time = "DISPATCH_BUILD_TIME=1970-01-01T23:59:59Z\n";
    // Of sources without their history the first build tells the second.
    assert_eq!(bash(say, "0123abcd"), format!("{time}DISPATCH_COMMIT=0123abcd\n"));
    if Path::new(env!("CARGO_MANIFEST_DIR")).join(".git").exists() {
        let head = bash("git rev-parse HEAD", "");
        let said = bash(say, "");
        assert!(said.starts_with(&format!("{time}DISPATCH_COMMIT={}", head.trim())), "{said}");
    }
}

#[test]
fn the_manual_and_the_completions_have_every_setting() {
    let folder = Folder::new("manual");
    manual::write(&folder.0).unwrap();
    let written = |path: &str| fs::read_to_string(folder.0.join(path)).unwrap();
    let page = written("man/dispatch.1").replace('\\', "");
    assert!(page.contains(env!("CARGO_PKG_VERSION")), "{page}");
    let shells = ["dispatch", "_dispatch", "dispatch.fish"].map(|name| written(&format!("completions/{name}")));
    for setting in settings() {
        let Some(flag) = setting.flag else { continue };
        let long = flag.split("--").nth(1).unwrap().split(' ').next().unwrap();
        assert!(page.contains(&format!("--{long}")) && page.contains(&setting.variable), "{flag}: {page}");
        assert!(shells.iter().all(|shell| shell.contains(long)), "{flag}");
    }
    for command in ["listen", "tap", "check-config"] {
        assert!(written(&format!("man/dispatch-{command}.1")).contains(".SH OPTIONS"), "{command}");
    }
}

#[test]
fn the_kernel_settings_are_what_the_machines_check_wants_each_with_a_reason() {
    let drop_in = read("packaging/debian/sysctl.conf");
    let machine = Folder::new("sysctl");
    let mut names = Vec::new();
    let mut has_reason = false;
    for line in drop_in.lines() {
        let Some((name, value)) = line.split_once(" = ") else {
            has_reason = line.starts_with('#');
            continue;
        };
        assert!(has_reason, "{line} has no reason");
        let file = machine.0.join("proc/sys").join(name.replace('.', "/"));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, value).unwrap();
        names.push(name.to_owned());
    }
    let range = machine.0.join("proc/sys/net/ipv4/ip_local_port_range");
    fs::write(range, "32768 60999").unwrap();
    let checked = run("bare-metal", &["-d", "100000"], &[("BARE_METAL_ROOT", &machine.0)]);
    let lines = String::from_utf8(checked.stdout).unwrap();
    assert!(names.len() >= 8, "{names:?}");
    for name in names {
        let is_well =
            |line: &str| line.strip_prefix("ok ").is_some_and(|rest| rest.trim().starts_with(&format!("{name}: ")));
        assert!(lines.lines().any(is_well), "{name}: {lines}");
    }
}

#[test]
fn no_script_of_the_package_starts_or_ends_the_daemon_in_an_upgrade() {
    let told = |script: &str| -> Vec<String> {
        let text = read(&format!("packaging/debian/{script}"));
        text.lines().map(str::trim).filter(|line| line.starts_with("systemctl")).map(str::to_owned).collect()
    };
    assert_eq!(told("postinst"), ["systemctl daemon-reload || true"]);
    assert_eq!(told("postrm"), ["systemctl daemon-reload || true"]);
    assert_eq!(told("prerm").len(), 1);
    // What dpkg tells each of them in an upgrade: the one that ends the daemon does nothing then.
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/debian/prerm");
    let traced = Command::new("sh").arg("-x").arg(script).args(["upgrade", "2.0.0"]).output().unwrap();
    let trace = String::from_utf8(traced.stderr).unwrap();
    assert!(traced.status.success() && trace.contains("exit 0") && !trace.contains("systemctl"), "{trace}");
}

/// The JSON array behind a word of the Dockerfile.
fn instruction(word: &str) -> Vec<String> {
    let dockerfile = read("Dockerfile").replace("\\\n", "");
    let line = dockerfile.lines().find(|line| line.starts_with(word)).unwrap_or_else(|| panic!("{word}"));
    serde_json::from_str(&line[line.find('[').unwrap()..]).unwrap()
}

#[test]
fn the_image_starts_as_existing_compose_files_start_it() {
    let (entry, command, check) = (instruction("ENTRYPOINT"), instruction("CMD"), instruction("HEALTHCHECK"));
    for command in [
        command,
        ["/dispatch", "-b", "0.0.0.0", "-p", "8080"].map(str::to_owned).to_vec(),
        ["-b", "0.0.0.0", "-p", "8080"].map(str::to_owned).to_vec(),
    ] {
        let arguments: Vec<&str> = entry.iter().chain(&command).map(String::as_str).collect();
        assert_eq!(served(&arguments).api_address.to_string(), "0.0.0.0:8080", "{arguments:?}");
    }
    let arguments: Vec<&str> = check.iter().map(String::as_str).collect();
    assert!(matches!(parse(&arguments), Invocation::Health(_)), "{arguments:?}");
    let path = check.last().unwrap().split_once(":8080").unwrap().1;
    assert!(routes::text().contains(path), "{path}");
}

/// What stands behind a key of one of the examples, as a number.
fn number(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.trim().strip_prefix(key)).unwrap_or_else(|| panic!("{key}"));
    line.trim_start_matches(':').trim().trim_end_matches('s').parse().unwrap()
}

#[test]
fn the_examples_leave_the_daemon_the_time_and_the_room_that_it_takes() {
    let (compose, pod) = (read("packaging/docker/compose.yml"), read("packaging/kubernetes/dispatch.yaml"));
    let config = served(&["dispatch"]);
    let drain_seconds_max = config.limits.drain_time_max.as_secs();
    assert!(number(&compose, "stop_grace_period") > drain_seconds_max);
    assert!(number(&pod, "terminationGracePeriodSeconds") > drain_seconds_max);
    assert!(devices_max(number(&compose, "nofile"), 0) >= 100_000);
    assert!(number(&compose, "memlock") >= 256 * 2 * 128 * u64::from(config.limits.ring_entries));
    for path in pod.lines().filter_map(|line| line.trim().strip_prefix("path: ")) {
        assert!(routes::text().contains(path), "{path}");
    }
    assert_eq!(pod.matches("path: /api/dispatch/v1/").count(), 2);
}

/// A default profile with a rule of every kind.
fn default_profile() -> Value {
    let rule = |names: &[&str], more: Value| {
        let mut rule = json!({"names": names, "action": "SCMP_ACT_ALLOW"});
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        rule
    };
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 1,
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]},
        ],
        "syscalls": [
            rule(&["read", "write"], json!({})),
            rule(&["socket"], json!({"args": [{"index": 0, "value": 40, "op": "SCMP_CMP_NE"}]})),
            rule(&["io_uring_setup", "acct"], json!({"action": "SCMP_ACT_ERRNO"})),
            rule(&["mount"], json!({"includes": {"caps": ["CAP_SYS_ADMIN"]}})),
            rule(&["clone"], json!({"excludes": {"caps": ["CAP_SYS_ADMIN"], "arches": ["s390"]}})),
            rule(&["clone3"], json!({"action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": {"caps": ["CAP_SYS_ADMIN"]}})),
            rule(&["arch_prctl"], json!({"includes": {"arches": ["amd64"]}})),
            rule(&["arm_fadvise64_64"], json!({"includes": {"arches": ["arm64"]}})),
            rule(&["ptrace"], json!({"includes": {"minKernel": "4.8"}})),
            rule(&["a_later_call"], json!({"includes": {"minKernel": "99.1"}})),
        ],
    })
}

#[test]
fn the_seccomp_profile_is_the_default_for_no_capability_with_the_calls_of_io_uring() {
    let folder = Folder::new("seccomp");
    let input = folder.0.join("default.json");
    fs::write(&input, default_profile().to_string()).unwrap();
    let profile = |architecture: &str| -> Value {
        let made = run("seccomp-profile", &[input.to_str().unwrap(), architecture], &[]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        serde_json::from_slice(&made.stdout).unwrap()
    };
    let intel = profile("amd64");
    let allowed = |profile: &Value| -> Vec<String> {
        let rules = profile["syscalls"].as_array().unwrap().iter();
        let names =
            rules.filter(|rule| rule["action"] == "SCMP_ACT_ALLOW").map(|rule| rule["names"].as_array().unwrap());
        names.flatten().map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    let rings = ["io_uring_setup", "io_uring_enter", "io_uring_register"];
    let common = ["read", "write", "socket", "clone"];
    assert_eq!(allowed(&intel), [&common[..], &["arch_prctl", "ptrace"], &rings].concat());
    assert_eq!(allowed(&profile("arm64")), [&common[..], &["arm_fadvise64_64", "ptrace"], &rings].concat());
    assert_eq!(intel["architectures"], json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"]));
    assert_eq!((&intel["defaultAction"], &intel["defaultErrnoRet"]), (&json!("SCMP_ACT_ERRNO"), &json!(1)));
    // Conditions are for engines alone, and other answers than "denied" stay.
    let text = intel.to_string();
    assert!(!text.contains("includes") && !text.contains("excludes") && !text.contains("archMap"), "{text}");
    assert!(text.contains(r#""errnoRet":38"#) && text.contains("SCMP_CMP_NE"), "{text}");

    fs::write(&input, json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}).to_string()).unwrap();
    for arguments in [&[input.to_str().unwrap()][..], &[input.to_str().unwrap(), "vax"], &["/nonexistent"]] {
        let refused = run("seccomp-profile", arguments, &[]);
        let line = String::from_utf8(refused.stderr).unwrap();
        assert!(!refused.status.success() && line.starts_with("seccomp-profile: "), "{arguments:?}: {line}");
    }
}
