//! How much memory sessions may take where nothing is set, and how many devices fit the descriptors.
//!
//! **Invariants.** The tightest limit on the way up the control groups counts, and never more than the machine has.
//! **Not here.** Keeping to it (`edge`), raising the descriptor limit (`server`).

use rustix::process::{Resource, getrlimit};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Descriptors that devices leave to the API and its drivers, at least.
const DESCRIPTORS_RESERVED_MIN: u64 = 64;

/// What counts as memory where neither control group nor machine tells: enough to start with.
const MEMORY_BYTES_FALLBACK: u64 = 512 * 1024 * 1024;

/// How many devices the process may hold, given its descriptor limit and the setting (0 = as many as descriptors
/// allow).
///
/// The limit less a reserve of 5 %, at least 64, is never exceeded, whatever the setting; at least one device is.
pub fn devices_max(descriptors: u64, setting: usize) -> usize {
    let room = usize::try_from(descriptors.saturating_sub(reserve(descriptors))).unwrap_or(usize::MAX).max(1);
    if setting == 0 { room } else { setting.min(room) }
}

/// How many connections to the API may wait to join: the setting, but no more than half of the descriptors that are kept
/// from devices, so that the other half is there for drivers.
pub fn handshakes_max(descriptors: u64, setting: usize) -> usize {
    let room = usize::try_from(reserve(descriptors) / 2).unwrap_or(usize::MAX);
    setting.min(room)
}

fn reserve(descriptors: u64) -> u64 {
    (descriptors / 20).max(DESCRIPTORS_RESERVED_MIN)
}

/// Half of what this process may use: of its control group's limit, else of the machine's memory. In bytes.
pub fn session_memory_bytes_default() -> usize {
    let limit = memory_bytes(Path::new("/"));
    let half = process_bytes().map_or(limit, |bytes| bytes.min(limit)) / 2;
    usize::try_from(half).unwrap_or(usize::MAX)
}

/// What the process may use in all, with the system's files under `root`.
fn memory_bytes(root: &Path) -> u64 {
    let limits = [control_group_bytes(root), machine_bytes(root)];
    limits.into_iter().flatten().min().unwrap_or(MEMORY_BYTES_FALLBACK)
}

/// The process's own limits of data and of addresses, where they are set.
fn process_bytes() -> Option<u64> {
    [Resource::Data, Resource::As].into_iter().filter_map(|resource| getrlimit(resource).current).min()
}

/// The tightest memory limit of the groups that this process is in, of either version.
fn control_group_bytes(root: &Path) -> Option<u64> {
    let memberships = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let groups = root.join("sys/fs/cgroup");
    memberships
        .lines()
        .filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            if controllers.is_empty() {
                tightest(&groups, path, "memory.max")
            } else if controllers.split(',').any(|name| name == "memory") {
                tightest(&groups.join("memory"), path, "memory.limit_in_bytes")
            } else {
                None
            }
        })
        .min()
}

/// The smallest limit from the group `path` up to `mount`. In a container the path may be the host's, so that only the
/// top exists.
fn tightest(mount: &Path, path: &str, file: &str) -> Option<u64> {
    let below: PathBuf = Path::new(path).components().filter(|part| matches!(part, Component::Normal(_))).collect();
    below
        .ancestors()
        .filter_map(|group| fs::read_to_string(mount.join(group).join(file)).ok()?.trim().parse().ok())
        .min()
}

fn machine_bytes(root: &Path) -> Option<u64> {
    let information = fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let total = information.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kibibytes: u64 = total.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::environment::tests::Directory;
    use super::*;

    const MACHINE: (&str, &str) = ("proc/meminfo", "MemTotal:       1000 kB\nMemFree:  1 kB\n");

    #[test]
    fn devices_leave_a_reserve_of_descriptors_to_the_api_and_drivers() {
        assert_eq!(devices_max(1_024, 0), 960);
        assert_eq!(devices_max(100_000, 0), 95_000);
        assert_eq!(devices_max(100_000, 10), 10);
        assert_eq!(devices_max(1_024, 5_000), 960);
        assert_eq!(devices_max(10, 0), 1);
        assert_eq!(devices_max(u64::MAX, 0), usize::try_from(u64::MAX - u64::MAX / 20).unwrap());
    }

    #[test]
    fn connections_that_have_not_joined_leave_descriptors_to_drivers() {
        assert_eq!(handshakes_max(1_024, 512), 32);
        assert_eq!(handshakes_max(20_000, 512), 500);
        assert_eq!(handshakes_max(1_000_000, 512), 512);
    }

    #[test]
    fn the_tightest_limit_on_the_way_up_counts_in_version_two() {
        let root = Directory::with(&[
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/memory.max", "300000\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            MACHINE,
        ]);
        assert_eq!(memory_bytes(&root.0), 300_000);
    }

    #[test]
    fn a_container_whose_path_is_the_hosts_finds_the_limit_at_the_top() {
        let second = Directory::with(&[
            ("proc/self/cgroup", "0::/../../init.scope\n"),
            ("sys/fs/cgroup/memory.max", "200000\n"),
        ]);
        assert_eq!(memory_bytes(&second.0), 200_000);
        let first = Directory::with(&[
            ("proc/self/cgroup", "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "100000\n"),
            MACHINE,
        ]);
        assert_eq!(memory_bytes(&first.0), 100_000);
    }

    #[test]
    fn the_machines_memory_counts_where_there_is_no_limit_or_one_beyond_it() {
        let unlimited = [
            ("proc/self/cgroup", "4:memory:/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            MACHINE,
        ];
        assert_eq!(memory_bytes(&Directory::with(&unlimited).0), 1_024_000);
        assert_eq!(memory_bytes(&Directory::with(&[MACHINE]).0), 1_024_000);
        assert_eq!(memory_bytes(&Directory::with(&[]).0), MEMORY_BYTES_FALLBACK);
        assert!(session_memory_bytes_default() > 0);
    }
}
