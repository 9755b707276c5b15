//! What a process used between two moments: time on cores, thread by thread, and memory.
//!
//! **Invariants.** A thread that began in between counts from nothing; one that ended is left out.
//! **Not here.** Which moments those are (`run`).

use dispatch_bench::proc::{self, ThreadTime};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

/// A process at one moment.
#[derive(Debug)]
pub struct Moment {
    at: Instant,
    threads: BTreeMap<u32, ThreadTime>,
}

/// What a process used.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Usage {
    /// Time on cores, of all threads.
    pub cpu_ns: u64,
    /// The same as a share of the time that passed: 1.0 is one core.
    pub cores: f64,
    /// The share of the thread that used most.
    pub busiest_thread: f64,
    /// The share of the time for which the thread that waited most had no core though it could have used one.
    pub most_waiting_thread: f64,
}

impl Moment {
    /// A process as it is.
    ///
    /// # Errors
    /// Where it is gone.
    pub fn of(pid: u32) -> io::Result<Moment> {
        Ok(Moment { at: Instant::now(), threads: proc::thread_times(pid)? })
    }

    /// What it has used until `later`.
    pub fn until(&self, later: &Moment) -> Usage {
        usage(&self.threads, &later.threads, later.at.saturating_duration_since(self.at))
    }
}

fn usage(from: &BTreeMap<u32, ThreadTime>, until: &BTreeMap<u32, ThreadTime>, passed: Duration) -> Usage {
    let passed_ns = (passed.as_nanos() as f64).max(1.0);
    let mut usage = Usage::default();
    for (thread, time) in until {
        let before = from.get(thread).copied().unwrap_or_default();
        let cpu_ns = time.cpu_ns.saturating_sub(before.cpu_ns);
        let waited_ns = time.waited_ns.saturating_sub(before.waited_ns);
        usage.cpu_ns += cpu_ns;
        usage.busiest_thread = usage.busiest_thread.max(cpu_ns as f64 / passed_ns);
        usage.most_waiting_thread = usage.most_waiting_thread.max(waited_ns as f64 / passed_ns);
    }
    usage.cores = usage.cpu_ns as f64 / passed_ns;
    usage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_add_up_and_the_busiest_is_known() {
        let time = |cpu_ns, waited_ns| ThreadTime { cpu_ns, waited_ns };
        let from = BTreeMap::from([(1, time(1_000, 0)), (2, time(500, 0)), (3, time(9, 9))]);
        let until = BTreeMap::from([(1, time(1_400, 50)), (2, time(1_300, 0)), (4, time(100, 0))]);
        let usage = usage(&from, &until, Duration::from_nanos(1_000));
        assert_eq!(usage.cpu_ns, 1_300);
        assert!((usage.cores - 1.3).abs() < 1e-9 && (usage.busiest_thread - 0.8).abs() < 1e-9, "{usage:?}");
        assert!((usage.most_waiting_thread - 0.05).abs() < 1e-9, "{usage:?}");
    }
}
