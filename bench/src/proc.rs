//! What /proc tells of a process and of sockets.
//!
//! **Invariants.** Nothing is cached: each call reads anew.
//! **Not here.** What a number means for a run.

use std::collections::BTreeMap;
use std::fs;
use std::io;

const PAGE_BYTES: u64 = 4096;

/// What one thread has used since its start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ThreadTime {
    /// Time on a core.
    pub cpu_ns: u64,
    /// Time that it was ready and had to wait for a core.
    pub waited_ns: u64,
}

/// What each thread of a process has used, by thread id.
///
/// # Errors
/// Where the process is gone. A thread that ends meanwhile is left out.
pub fn thread_times(pid: u32) -> io::Result<BTreeMap<u32, ThreadTime>> {
    let mut times = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let entry = entry?;
        let thread = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) else { continue };
        if let (Some(thread), Some(time)) = (thread, thread_time(&text)) {
            times.insert(thread, time);
        }
    }
    Ok(times)
}

fn thread_time(schedstat: &str) -> Option<ThreadTime> {
    let mut columns = schedstat.split_ascii_whitespace().map(str::parse);
    Some(ThreadTime { cpu_ns: columns.next()?.ok()?, waited_ns: columns.next()?.ok()? })
}

/// Resident memory of a process in bytes, counted page by page where the kernel lets us: `statm` may be off by some
/// pages a core.
///
/// # Errors
/// Where the process is gone.
pub fn exact_resident_bytes(pid: u32) -> io::Result<u64> {
    let Ok(text) = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { return resident_bytes(pid) };
    let kib = text.lines().find_map(|line| line.strip_prefix("Rss:")?.split_ascii_whitespace().next()?.parse().ok());
    kib.map(|kib: u64| kib << 10).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Resident memory of a process in bytes.
///
/// # Errors
/// Where the process is gone.
pub fn resident_bytes(pid: u32) -> io::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages = text.split_ascii_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.map(|pages| pages * PAGE_BYTES).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Open descriptors of a process.
///
/// # Errors
/// Where the process is gone.
pub fn descriptors(pid: u32) -> io::Result<u64> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count() as u64)
}

/// Datagrams that the kernel dropped at sockets bound to this local port, of both families.
///
/// # Errors
/// Where /proc/net cannot be read.
pub fn datagrams_dropped(port: u16) -> io::Result<u64> {
    let mut dropped = 0;
    for table in ["/proc/net/udp", "/proc/net/udp6"] {
        let text = fs::read_to_string(table)?;
        dropped += text.lines().skip(1).filter_map(|line| drops_of(line, port)).sum::<u64>();
    }
    Ok(dropped)
}

/// The last column of a socket's line, where its local port is this one.
fn drops_of(line: &str, port: u16) -> Option<u64> {
    let mut columns = line.split_ascii_whitespace();
    let (_, local_port) = columns.nth(1)?.rsplit_once(':')?;
    (u16::from_str_radix(local_port, 16).ok()? == port).then(|| columns.last()?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drops_of_a_port_are_the_last_column_of_its_line() {
        let line =
            "  52: 00000000:5DC0 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0000 17";
        assert_eq!(drops_of(line, 24_000), Some(17));
        assert_eq!(drops_of(line, 24_001), None);
    }

    #[test]
    fn the_time_of_a_thread_is_the_first_two_columns() {
        assert_eq!(thread_time("120 30 7\n"), Some(ThreadTime { cpu_ns: 120, waited_ns: 30 }));
        assert_eq!(thread_time("x"), None);
        let times = thread_times(std::process::id()).expect("this process");
        assert!(times.values().any(|time| time.cpu_ns > 0), "{times:?}");
    }

    #[test]
    fn this_process_has_memory_and_descriptors() {
        assert!(resident_bytes(std::process::id()).expect("this process") > 0);
        assert!(exact_resident_bytes(std::process::id()).expect("this process") > 0);
        assert!(descriptors(std::process::id()).expect("this process") > 2);
    }
}
