//! Which messages of a port a tap is told of: those of one device address, one device, one driver, or all.
//!
//! **Invariants.** Addresses are canonical, so that an IPv4-mapped one means the IPv4 device.
//! **Not here.** What a message is (`protocol::tapped`).

use crate::protocol::message::{DeviceName, IpText};
use std::net::IpAddr;

/// What a tap asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TapFilter {
    /// The device; all where there is none.
    pub device: Option<TappedDevice>,
    /// The module id of the driver: what it sends, and what devices that it accepts send.
    pub module: Option<String>,
}

/// Which device a tap is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TappedDevice {
    ip: IpText,
    id_or_port: Option<u64>,
}

impl TapFilter {
    /// Whether it lets a message of this device pass, or one that is of no device. `has_module` says whether the driver with
    /// a module id has to do with it.
    pub fn wants(&self, device: Option<&DeviceName>, has_module: impl Fn(&str) -> bool) -> bool {
        let is_of_device = match (&self.device, device) {
            (Some(wanted), Some(device)) => wanted.is(device),
            _ => true,
        };
        is_of_device && self.module.as_deref().is_none_or(has_module)
    }
}

impl TappedDevice {
    /// Reads `IP`, `IP:ID`, or `[IP]:ID` for IPv6; the id is a UDP device's port.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Ok(ip) = text.parse() {
            return Some(TappedDevice { ip: IpText::new(ip), id_or_port: None });
        }
        let (ip, id) = text.rsplit_once(':')?;
        let ip: IpAddr = match ip.strip_prefix('[') {
            Some(bracketed) => IpAddr::V6(bracketed.strip_suffix(']')?.parse().ok()?),
            None => IpAddr::V4(ip.parse().ok()?),
        };
        let id = Some(id).filter(|id| id.bytes().all(|byte| byte.is_ascii_digit()))?;
        Some(TappedDevice { ip: IpText::new(ip), id_or_port: Some(id.parse().ok()?) })
    }

    fn is(&self, device: &DeviceName) -> bool {
        self.ip == device.ip && self.id_or_port.is_none_or(|id_or_port| id_or_port == device.id_or_port)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn device(ip: &str, id_or_port: u64) -> DeviceName {
        DeviceName { ip: IpText::new(ip.parse().unwrap()), id_or_port }
    }

    #[test]
    fn a_device_is_an_address_with_or_without_an_id() {
        let is = |text: &str, ip: &str, id| TappedDevice::parse(text).unwrap().is(&device(ip, id));
        assert!(is("10.0.0.1", "10.0.0.1", 9) && !is("10.0.0.1", "10.0.0.2", 9));
        assert!(is("::ffff:10.0.0.1", "10.0.0.1", 9) && is("::1", "::1", 0));
        assert!(is("10.0.0.1:7", "10.0.0.1", 7) && !is("10.0.0.1:7", "10.0.0.1", 8));
        assert!(is("[::1]:7", "::1", 7) && !is("[::1]:7", "::1", 8));
        for text in ["", "host", "10.0.0.1:", "10.0.0.1:x", "10.0.0.1:+1", "[10.0.0.1]:1", "[::1]", "10.0.0.0/8"] {
            assert_eq!(TappedDevice::parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_of_no_device_passes_a_filter_of_devices() {
        let filter = TapFilter { device: TappedDevice::parse("10.0.0.1"), module: Some("mod-1".into()) };
        assert!(filter.wants(None, |_| true));
        assert!(filter.wants(Some(&device("10.0.0.1", 1)), |module| module == "mod-1"));
        assert!(!filter.wants(Some(&device("10.0.0.1", 1)), |_| false));
        assert!(!filter.wants(Some(&device("10.0.0.2", 1)), |_| true));
    }
}
