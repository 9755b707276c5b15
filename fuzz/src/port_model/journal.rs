//! The naive model: who is joined for what, and so which events of which device each driver must get.
//!
//! **Invariants.** It uses neither roster nor subscription: membership is a list of bit sets.

use super::script::{SOURCES, SourceSet};
use std::collections::BTreeMap;
use std::net::IpAddr;
use uring_dispatch::policy::roster::SessionId;

/// What has happened, and what follows from it.
#[derive(Default)]
pub struct Journal {
    joined: Vec<(SessionId, SourceSet)>,
    devices: BTreeMap<u64, Connected>,
    due: BTreeMap<(SessionId, u64), Due>,
}

struct Connected {
    source: usize,
    has_ended: bool,
}

/// What one driver must get of one device.
#[derive(Debug, Clone, Default)]
pub struct Due {
    /// The driver was joined when the device connected.
    pub from_the_start: bool,
    /// The device's data, each as it was sent.
    pub data: Vec<Vec<u8>>,
    /// The device has ended.
    pub has_ended: bool,
}

impl Journal {
    /// A driver has joined.
    pub fn joined(&mut self, session: SessionId, sources: SourceSet) {
        self.joined.push((session, sources));
        for (&device, connected) in &self.devices {
            if sources.holds(connected.source) && !connected.has_ended {
                self.due.insert((session, device), Due::default());
            }
        }
    }

    /// A driver has left: it gets nothing more.
    pub fn left(&mut self, session: SessionId) {
        self.joined.retain(|(joined, _)| *joined != session);
        self.due.retain(|(joined, _), _| *joined != session);
    }

    /// A device has connected.
    pub fn connected(&mut self, device: u64, ip: IpAddr) {
        let source = index(ip);
        self.devices.insert(device, Connected { source, has_ended: false });
        for (session, _) in self.joined.iter().filter(|(_, sources)| sources.holds(source)) {
            self.due.insert((*session, device), Due { from_the_start: true, ..Due::default() });
        }
    }

    /// Data of a device was read.
    pub fn delivered(&mut self, device: u64, ip: IpAddr, data: &[u8]) {
        assert_eq!(self.devices[&device].source, index(ip));
        for ((_, _), due) in self.due.iter_mut().filter(|((_, known), _)| *known == device) {
            due.data.push(data.to_vec());
        }
    }

    /// A device has left its port's table.
    pub fn ended(&mut self, device: u64) {
        self.devices.get_mut(&device).expect("a device ends after it connected").has_ended = true;
        for ((_, _), due) in self.due.iter_mut().filter(|((_, known), _)| *known == device) {
            due.has_ended = true;
        }
    }

    /// What a driver must have got by the time that everything has come to rest.
    pub fn due(&self, session: SessionId) -> impl Iterator<Item = (u64, &Due)> {
        self.due.iter().filter(move |((joined, _), _)| *joined == session).map(|((_, device), due)| (*device, due))
    }

    /// The drivers that accept a source, in the order of joining.
    pub fn accepting(&self, source: usize) -> Vec<SessionId> {
        self.joined.iter().filter(|(_, sources)| sources.holds(source)).map(|(session, _)| *session).collect()
    }

    /// The source of a device.
    pub fn source_of(&self, device: u64) -> usize {
        self.devices[&device].source
    }
}

fn index(ip: IpAddr) -> usize {
    let text = ip.to_string();
    SOURCES.iter().position(|source| *source == text).expect("a device comes from a known source")
}
