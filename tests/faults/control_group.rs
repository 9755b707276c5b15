//! A control group with a memory limit of its own, of either version; it goes with this.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::harness::{is_root, say_skipped};

/// One group.
pub struct ControlGroup {
    path: PathBuf,
    is_first_version: bool,
}

impl ControlGroup {
    /// A group with this limit, or a word on why it cannot be had.
    pub fn new(bytes: u64) -> Option<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !is_root() {
            say_skipped("only root can make control groups");
            return None;
        }
        let Some((parent, is_first_version)) = parent() else {
            say_skipped("no control group with a memory controller");
            return None;
        };
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = parent.join(format!("dispatch-{}-{number}", std::process::id()));
        let limit = path.join(if is_first_version { "memory.limit_in_bytes" } else { "memory.max" });
        if let Err(error) = fs::create_dir(&path).and_then(|()| fs::write(&limit, bytes.to_string())) {
            say_skipped(&format!("{}: {error}", limit.display()));
            let _ = fs::remove_dir(&path);
            return None;
        }
        Some(Self { path, is_first_version })
    }

    /// The words before a command that make it run in the group.
    pub fn wrapper(&self) -> [String; 3] {
        let enter = format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", self.path.display());
        ["sh".into(), "-c".into(), enter]
    }

    /// The most memory that was in use at a time.
    pub fn peak_bytes(&self) -> u64 {
        self.number(if self.is_first_version { "memory.max_usage_in_bytes" } else { "memory.peak" })
    }

    /// Counts the memory of TCP sockets, up to a limit of its own. The first version does not do so by itself, and the
    /// second always counts it with the rest.
    pub fn count_sockets(&self, bytes: u64) {
        if self.is_first_version {
            // Not every kernel has it; then there is nothing to count.
            let _ = fs::write(self.path.join("memory.kmem.tcp.limit_in_bytes"), bytes.to_string());
        }
    }

    /// The most memory of TCP sockets at a time, where it is counted apart.
    pub fn peak_socket_bytes(&self) -> u64 {
        if self.is_first_version { self.number("memory.kmem.tcp.max_usage_in_bytes") } else { 0 }
    }

    /// How many processes of it the kernel has killed for want of memory.
    pub fn killed(&self) -> u64 {
        let name = if self.is_first_version { "memory.oom_control" } else { "memory.events" };
        let text = fs::read_to_string(self.path.join(name)).unwrap();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")).map_or(0, |count| count.trim().parse().unwrap())
    }

    fn number(&self, name: &str) -> u64 {
        fs::read_to_string(self.path.join(name)).map_or(0, |text| text.trim().parse().unwrap())
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        // A process that was just killed may take a moment to leave it.
        for _ in 0..100 {
            match fs::remove_dir(&self.path) {
                Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                    std::thread::sleep(std::time::Duration::from_millis(50));
                }
                _ => return,
            }
        }
        eprintln!("{} is left behind", self.path.display());
    }
}

/// Where a group can be made, and whether that is of the first version: below our own there, and beside it in the
/// second, where a group with processes has no groups below it.
fn parent() -> Option<(PathBuf, bool)> {
    let memberships = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = |wanted: &dyn Fn(&str) -> bool| {
        memberships.lines().find_map(|line| {
            let (controllers, path) =
                line.splitn(3, ':').skip(1).collect::<Vec<_>>().try_into().ok().map(|[a, b]: [&str; 2]| (a, b))?;
            wanted(controllers).then(|| path.trim_start_matches('/').to_owned())
        })
    };
    let first = Path::new("/sys/fs/cgroup/memory");
    if let Some(path) = own(&|controllers| controllers.split(',').any(|name| name == "memory")) {
        let below = first.join(path);
        return below.join("memory.limit_in_bytes").exists().then_some((below, true));
    }
    let path = own(&str::is_empty)?;
    let group = Path::new("/sys/fs/cgroup").join(path);
    let beside = if group.join("memory.max").exists() { group.parent()?.to_owned() } else { group };
    let controllers = fs::read_to_string(beside.join("cgroup.subtree_control")).ok()?;
    controllers.split_whitespace().any(|name| name == "memory").then_some((beside, false))
}
