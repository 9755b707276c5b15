//! What one driver's session is told of TCP devices, checked as it comes: order, content, place and end of every stream.
//!
//! **Invariants.** Every message is judged when it comes; a judgement needs only facts that were recorded before.
//! **Not here.** The session's own life (`session`), what arrives at devices (`record`).

use super::accept::AcceptList;
use super::pattern::{self, LOCATE_BYTES};
use super::record::DeviceRecord;
use super::tally::Count;
use super::world::World;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use uring_dispatch::protocol::message::{DeviceName, ToDriver};

/// Events that are kept to be printed with a violation.
const EVENTS_KEPT: usize = 64;
/// How long after a device's end a driver that reads may be without its CLOSED.
const CLOSED_TIME_MAX: Duration = Duration::from_secs(25);

/// What a session knows of TCP devices.
#[derive(Debug)]
pub struct TcpCheck {
    port: u16,
    accept: AcceptList,
    joined_at: Instant,
    devices: BTreeMap<u64, Seen>,
    gone: HashSet<u64>,
    events: VecDeque<(Instant, &'static str, u64, usize)>,
}

/// One device that the session was told of.
#[derive(Debug)]
struct Seen {
    ip: IpAddr,
    /// Which device it is and how far its stream has come, once that is known.
    place: Option<(Rc<DeviceRecord>, u64)>,
    unlocated: Vec<u8>,
}

impl TcpCheck {
    /// Nothing is known yet.
    pub fn new(port: u16, accept: AcceptList) -> Self {
        TcpCheck {
            port,
            accept,
            joined_at: Instant::now(),
            devices: BTreeMap::new(),
            gone: HashSet::new(),
            events: VecDeque::new(),
        }
    }

    /// Judges one message.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn take(&mut self, message: &[u8], world: &World) -> Result<(), String> {
        let message = ToDriver::decode(message)
            .map_err(|fault| format!("{fault}: {:02x?}", &message[..message.len().min(64)]))?;
        let (kind, device, data) = match message {
            ToDriver::Opened { device } => ("OPENED", device, &[][..]),
            ToDriver::Received { device, data } => ("RECEIVED", device, data),
            ToDriver::Closed { device } => ("CLOSED", device, &[][..]),
        };
        if self.events.len() == EVENTS_KEPT {
            self.events.pop_front();
        }
        self.events.push_back((Instant::now(), kind, device.id_or_port, data.len()));
        world.tally.one(Count::MessagesVerified);
        let judged = match message {
            ToDriver::Opened { .. } => self.opened(&device, world),
            ToDriver::Received { .. } => self.received(&device, data, world),
            ToDriver::Closed { .. } => self.closed(&device, world),
        };
        judged.map_err(|fault| {
            let seen = self.devices.get(&device.id_or_port).and_then(|seen| seen.place.as_ref());
            let who = seen.map_or_else(String::new, |(record, position)| format!("\n  at {position} of {record}"));
            format!("{kind}, {fault} ({device:?}){who}\n  last events: {}", self.events_of(device.id_or_port))
        })
    }

    fn opened(&mut self, device: &DeviceName, world: &World) -> Result<(), String> {
        let id = device.id_or_port;
        let ip = address(device)?;
        if !self.accept.accepts(ip) {
            return Err(format!("this driver accepts {:?}", self.accept.text()));
        }
        if self.gone.contains(&id) || self.devices.contains_key(&id) {
            return Err("this id was opened before".to_owned());
        }
        self.devices.insert(id, Seen { ip, place: None, unlocated: Vec::new() });
        world.tally.one(Count::DevicesAnnounced);
        Ok(())
    }

    fn received(&mut self, device: &DeviceName, data: &[u8], world: &World) -> Result<(), String> {
        let id = device.id_or_port;
        let Some(seen) = self.devices.get_mut(&id) else {
            return Err(format!(
                "the device {}",
                if self.gone.contains(&id) { "was closed" } else { "was not opened" }
            ));
        };
        if address(device)? != seen.ip {
            return Err(format!("it was opened as {}", seen.ip));
        }
        if data.is_empty() {
            return Err("no data".to_owned());
        }
        let (record, position) = match &mut seen.place {
            Some((record, position)) => {
                pattern::check(record.nonce, *position, data).map_err(|at| mismatch(data, at, world))?;
                *position += data.len() as u64;
                world.tally.add(Count::BytesVerifiedToDrivers, data.len() as u64);
                (record.clone(), *position)
            }
            None => {
                seen.unlocated.extend_from_slice(data);
                if seen.unlocated.len() < LOCATE_BYTES {
                    return Ok(());
                }
                let bytes = std::mem::take(&mut seen.unlocated);
                let place = locate(id, seen.ip, self.port, self.joined_at, &bytes, world)?;
                seen.place = Some(place.clone());
                place
            }
        };
        if position > record.offered.get() {
            return Err(format!("more came than was sent, {position} bytes"));
        }
        Ok(())
    }

    fn closed(&mut self, device: &DeviceName, world: &World) -> Result<(), String> {
        let id = device.id_or_port;
        if !self.devices.contains_key(&id) {
            return Err(format!(
                "the device {}",
                if self.gone.contains(&id) { "was closed" } else { "was not opened" }
            ));
        }
        let judged = self.judge_last_position(id, world);
        self.devices.remove(&id);
        self.gone.insert(id);
        judged
    }

    fn judge_last_position(&self, id: u64, world: &World) -> Result<(), String> {
        let Some(seen) = self.devices.get(&id) else { return Ok(()) };
        let Some((record, position)) = &seen.place else {
            world.tally.add(Count::BytesUnlocated, seen.unlocated.len() as u64);
            return Ok(());
        };
        match record.last_position.get() {
            None => record.last_position.set(Some(*position)),
            Some(other) if other == *position => world.tally.one(Count::LastPositionsVerified),
            Some(other) => return Err(format!("its stream ended at {position} here, at {other} for another driver")),
        }
        let ended_itself = record.half_closed_at.get().is_some()
            && record.first_close_at.get().is_none()
            && record.reads_at_once
            && record.has_warden
            && !world.is_draining();
        if ended_itself {
            world.tally.one(Count::TotalsVerified);
            if *position != record.offered.get() {
                return Err(format!(
                    "it ended in order, and its last {} bytes are missing",
                    record.offered.get() - position
                ));
            }
        }
        Ok(())
    }

    /// Devices that are open and known.
    pub fn located(&self) -> impl Iterator<Item = (u64, &Rc<DeviceRecord>)> {
        self.devices.iter().filter_map(|(id, seen)| seen.place.as_ref().map(|(record, _)| (*id, record)))
    }

    /// Devices that are open.
    pub fn open(&self) -> usize {
        self.devices.len()
    }

    /// An id whose device was closed.
    pub fn any_gone(&self) -> Option<u64> {
        self.gone.iter().next().copied()
    }

    /// A device that ended long ago and of which no CLOSED has come.
    pub fn overdue(&self) -> Option<String> {
        self.located().find_map(|(id, record)| {
            let late = record.ended_at.get()?.elapsed();
            (late > CLOSED_TIME_MAX).then(|| {
                format!(
                    "no CLOSED {:.1} s after the end of {record}\n  last events: {}",
                    late.as_secs_f64(),
                    self.events_of(id)
                )
            })
        })
    }

    /// Every open device as text.
    pub fn still_open(&self) -> String {
        let seen = self.devices.iter().take(8);
        seen.map(|(id, seen)| {
            format!(
                "\n  id {id} at {}: {}",
                seen.ip,
                seen.place
                    .as_ref()
                    .map_or_else(|| "unknown".to_owned(), |(record, position)| format!("{position} of {record}"))
            )
        })
        .collect()
    }

    fn events_of(&self, id: u64) -> String {
        let events = self.events.iter().filter(|(_, _, event_id, _)| *event_id == id);
        events
            .map(|(at, kind, _, len)| format!("{kind} {len} B {} ms ago", at.elapsed().as_millis()))
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// Finds out which device these first bytes are of.
fn locate(
    id: u64,
    ip: IpAddr,
    port: u16,
    joined_at: Instant,
    bytes: &[u8],
    world: &World,
) -> Result<(Rc<DeviceRecord>, u64), String> {
    let Some((nonce, position)) = pattern::locate(bytes, |nonce| world.device(nonce).is_some()) else {
        return Err(format!("its first bytes are of no device: {:02x?}", &bytes[..bytes.len().min(64)]));
    };
    let record = world.device(nonce).ok_or("its device was forgotten")?;
    if record.source != ip || record.port != port {
        return Err(format!("its bytes are of {record}"));
    }
    if position != 0 && joined_at < record.connecting_at {
        return Err(format!("the driver was there before, but the stream begins at {position} of {record}"));
    }
    match record.id.get() {
        None => record.id.set(Some(id)),
        Some(other) if other == id => {}
        Some(other) => return Err(format!("the same device had id {other} for another driver: {record}")),
    }
    pattern::check(nonce, position, bytes).map_err(|at| mismatch(bytes, at, world))?;
    world.tally.add(Count::BytesVerifiedToDrivers, bytes.len() as u64);
    Ok((record, position + bytes.len() as u64))
}

fn mismatch(data: &[u8], mismatch: pattern::Mismatch, world: &World) -> String {
    let rest = &data[mismatch.at..];
    let origin = pattern::locate(rest, |nonce| world.device(nonce).is_some());
    format!(
        "{mismatch:?} of {} bytes; from there on they are {}: {:02x?}",
        data.len(),
        origin.map_or_else(|| "of no device".to_owned(), |(nonce, at)| format!("those from {at} of {nonce:016x}")),
        &rest[..rest.len().min(48)]
    )
}

fn address(device: &DeviceName) -> Result<IpAddr, String> {
    let text = String::from_utf8_lossy(device.ip.as_bytes()).into_owned();
    text.parse().map_err(|_| format!("{text:?} is no address"))
}
