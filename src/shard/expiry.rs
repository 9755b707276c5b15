//! Devices that end by themselves: idle for too long, or connected for too long.
//!
//! **Invariants.** One task a shard looks through the ports that set such a bound, in slices; there is no timer a device. A
//! device ends after its time and never before, by a second and a thirty-second part of that time late at most. Where the
//! shard itself stood still, or a device is not read as its drivers are slow, that is not held against it.
//! **Not here.** What the bounds are (`policy::port_rules`), and what counts as activity (`device`).

use super::Shard;
use crate::policy::ending::DeviceEnd;
use crate::policy::port_rules::DeviceRules;
use crate::shard::device::Device;
use crate::shard::port::Port;
use crate::shard::ring;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

/// Time between looks at the clock.
const STEP: Duration = Duration::from_secs(1);
/// Seconds between two looks by which is known that the shard stood still.
const STOOD_STILL_S: u32 = 3;
/// Devices that are looked at in one go, and that end in one go.
const SLICE_DEVICES: usize = 256;
const SLICE_ENDINGS: usize = 16;
/// A port is looked through again after this part of its time at the earliest, and after so many seconds at the latest.
const LOOKS_A_TIME: u32 = 32;
const PAUSE_S_MAX: u32 = 60;

/// Ends devices for as long as the process lives. A task of the shard.
pub async fn watch(shard: Rc<Shard>) {
    let clock = &shard.resources.clock_s;
    let mut due: HashMap<_, u32> = HashMap::new();
    let mut seen_s = clock.get();
    let mut rules = DeviceRules::default();
    loop {
        tokio::time::sleep(STEP).await;
        let now_s = clock.get();
        let stood_still = now_s.saturating_sub(std::mem::replace(&mut seen_s, now_s)) >= STOOD_STILL_S;
        // What devices sent meanwhile is taken before the next look.
        if stood_still {
            continue;
        }
        let is_changed = shard.resources.rules().devices != rules;
        if is_changed {
            rules = shard.resources.rules().devices.clone();
            due.clear();
        }
        if rules.end_none() {
            continue;
        }
        let ports: Vec<_> = {
            let ports = shard.ports.borrow();
            due.retain(|id, _| ports.contains_key(id));
            let is_due = |id, port: &Rc<Port>| {
                port.ledger().time_s_min().is_some() && due.get(id).is_none_or(|at_s| *at_s <= now_s)
            };
            ports.iter().filter(|(id, port)| is_due(*id, port)).map(|(id, port)| (*id, Rc::downgrade(port))).collect()
        };
        for (id, port) in ports {
            due.insert(id, look_through(port, now_s).await);
        }
    }
}

/// Ends the devices of a port whose time is over, and says when to look again.
async fn look_through(port: Weak<Port>, now_s: u32) -> u32 {
    let mut next = Some(0);
    let Some(time_s) = port.upgrade().and_then(|port| port.ledger().time_s_min()) else { return now_s };
    let mut earliest_s = now_s.saturating_add(time_s);
    while let Some(from) = next.take() {
        let Some(port) = port.upgrade() else { break };
        let (mut seen, mut over) = (0, Vec::new());
        port.visit_devices(from, SLICE_DEVICES, |device| {
            (seen, next) = (seen + 1, Some(device.id() + 1));
            match device.due() {
                // It is not idle that is not read.
                Some((at_s, DeviceEnd::Idle)) if at_s <= now_s && device.is_held_back() => earliest_s = now_s,
                Some((at_s, end)) if at_s <= now_s => over.push((device.clone(), end)),
                Some((at_s, _)) => earliest_s = earliest_s.min(at_s),
                None => {}
            }
        });
        // Only the port's owner keeps it while this waits.
        drop(port);
        if seen < SLICE_DEVICES {
            next = None;
        }
        for some in over.chunks(SLICE_ENDINGS) {
            some.iter().for_each(|(device, end): &(Rc<Device>, _)| device.end(*end));
            ring::turn().await;
        }
        if over.is_empty() && next.is_some() {
            ring::turn().await;
        }
    }
    earliest_s.max(now_s.saturating_add((time_s / LOOKS_A_TIME).clamp(1, PAUSE_S_MAX)))
}
