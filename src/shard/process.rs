//! What the kernel says of this process.
//!
//! **Invariants.** Asking holds the shard's loop up for some tens of microseconds at a time.
//! **Not here.** What is made of the numbers (`policy::metrics`).

use crate::policy::metrics::KernelCount;
use crate::shard::ring;
use rustix::param::{clock_ticks_per_second, page_size};
use rustix::process::{Resource, getrlimit};

/// Entries of a folder that are counted in one go.
const ENTRIES_BATCH: usize = 256;

/// The numbers at this moment; `None` where there is no `/proc`.
pub async fn count() -> Option<KernelCount> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name before may hold anything, blanks and brackets included (proc(5)); what follows begins with field 3.
    let (_, rest) = stat.rsplit_once(')')?;
    let fields: Vec<u64> = rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    let field = |number: usize| fields.get(number - 3).copied();
    Some(KernelCount {
        cpu_s: (field(14)? + field(15)?) as f64 / clock_ticks_per_second() as f64,
        threads: field(20)?,
        virtual_bytes: field(23)?,
        resident_bytes: field(24)? * page_size() as u64,
        descriptors: descriptors().await?,
        descriptors_max: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
    })
}

/// How many descriptors are open. Since Linux 6.2 the folder's size tells; before, its entries are counted in slices.
async fn descriptors() -> Option<u64> {
    let size = std::fs::metadata("/proc/self/fd").ok()?.len();
    if size > 0 {
        return Some(size);
    }
    let mut count = 0;
    for (at, entry) in std::fs::read_dir("/proc/self/fd").ok()?.enumerate() {
        count += u64::from(entry.is_ok());
        if at % ENTRIES_BATCH == ENTRIES_BATCH - 1 {
            ring::turn().await;
        }
    }
    Some(count)
}
