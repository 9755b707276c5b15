//! The devices that the terminal's driver has heard of, and which of them is meant.
//!
//! **Invariants.** A device that is closed is forgotten; every message that is made names a device's own address.
//! **Not here.** The wire (`protocol::message`), what a typed line means (`typed`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::typed::Target;
use crate::policy::port_id::Transport;
use crate::protocol::message::{DeviceAddr, DeviceName, ToDriver};

/// Who is there. A session's devices: a new session starts with none, as ids may start again.
#[derive(Debug, Default)]
pub(super) struct Devices {
    connected: BTreeMap<u64, IpAddr>,
    last: Option<DeviceAddr>,
}

impl Devices {
    /// Takes note of what a message says of its device.
    pub(super) fn heard(&mut self, message: &ToDriver, transport: Transport) {
        let (ToDriver::Opened { device } | ToDriver::Closed { device } | ToDriver::Received { device, .. }) = message;
        let Some(ip) = address(device) else {
            return;
        };
        let device = DeviceAddr { ip: Some(ip), id_or_port: device.id_or_port };
        if matches!(message, ToDriver::Closed { .. }) {
            self.connected.remove(&device.id_or_port);
            if self.last == Some(device) {
                self.last = None;
            }
            return;
        }
        self.last = Some(device);
        if transport == Transport::Tcp {
            self.connected.insert(device.id_or_port, ip);
        }
    }

    /// The device that is meant, or why there is none.
    pub(super) fn find(&self, target: &Target) -> Result<DeviceAddr, String> {
        match target {
            Target::Last => {
                self.last.ok_or_else(|| "the last device is gone, or none has come yet: nothing is sent".to_owned())
            }
            Target::Id(id) => match self.connected.get(id) {
                Some(ip) => Ok(DeviceAddr { ip: Some(*ip), id_or_port: *id }),
                None => Err(format!("device {id} is not connected: nothing is sent")),
            },
            Target::Address(ip, port) => Ok(DeviceAddr { ip: Some(*ip), id_or_port: u64::from(*port) }),
        }
    }
}

fn address(device: &DeviceName) -> Option<IpAddr> {
    std::str::from_utf8(device.ip.as_bytes()).ok()?.parse().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::protocol::message::IpText;

    fn name(ip: &str, id_or_port: u64) -> DeviceName {
        DeviceName { ip: IpText::new(ip.parse().unwrap()), id_or_port }
    }

    #[test]
    fn the_last_device_is_the_last_that_connected_or_sent() {
        let mut devices = Devices::default();
        assert!(devices.find(&Target::Last).is_err());
        devices.heard(&ToDriver::Opened { device: name("10.0.0.1", 0) }, Transport::Tcp);
        devices.heard(&ToDriver::Opened { device: name("10.0.0.2", 1) }, Transport::Tcp);
        assert_eq!(devices.find(&Target::Last).unwrap().id_or_port, 1);
        devices.heard(&ToDriver::Received { device: name("10.0.0.1", 0), data: b"x" }, Transport::Tcp);
        assert_eq!(devices.find(&Target::Last).unwrap().id_or_port, 0);
    }

    #[test]
    fn a_closed_device_is_forgotten() {
        let mut devices = Devices::default();
        for id in [0, 1] {
            devices.heard(&ToDriver::Opened { device: name("10.0.0.1", id) }, Transport::Tcp);
        }
        assert_eq!(devices.find(&Target::Id(0)).unwrap().ip, Some("10.0.0.1".parse().unwrap()));
        devices.heard(&ToDriver::Closed { device: name("10.0.0.1", 0) }, Transport::Tcp);
        assert!(devices.find(&Target::Id(0)).is_err());
        assert_eq!(devices.find(&Target::Last).unwrap().id_or_port, 1);
        devices.heard(&ToDriver::Closed { device: name("10.0.0.1", 1) }, Transport::Tcp);
        assert!(devices.find(&Target::Last).is_err());
    }

    #[test]
    fn datagrams_leave_only_their_last_sender() {
        let mut devices = Devices::default();
        devices.heard(&ToDriver::Received { device: name("::1", 5000), data: b"" }, Transport::Udp);
        assert_eq!(devices.find(&Target::Last).unwrap().id_or_port, 5000);
        assert!(devices.connected.is_empty());
        let other = Target::Address("10.9.9.9".parse().unwrap(), 9);
        assert_eq!(devices.find(&other).unwrap(), DeviceAddr { ip: "10.9.9.9".parse().ok(), id_or_port: 9 });
    }
}
