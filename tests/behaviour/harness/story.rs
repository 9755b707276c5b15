//! What one driver may be told of the devices of a TCP port, whatever happens on it.

use std::collections::HashMap;

use super::Wire;
use super::message::{Addr, Event};

/// Checks the contract for each device: OPENED first, RECEIVED while it is open, CLOSED last, and each of both once.
#[derive(Default)]
pub struct Story {
    devices: HashMap<u64, Seen>,
}

struct Seen {
    addr: Addr,
    closed: bool,
    bytes: usize,
}

impl Story {
    /// Takes the next event; fails where it must not come. Returns how many bytes of that device came before it.
    pub fn take(&mut self, event: &Event) -> usize {
        let addr = event.addr();
        let seen = self.devices.get_mut(&addr.id);
        if let Event::Opened(_) = event {
            assert!(seen.is_none(), "{event:?}, an id that was there before");
            self.devices.insert(addr.id, Seen { addr: addr.clone(), closed: false, bytes: 0 });
            return 0;
        }
        let seen = seen.unwrap_or_else(|| panic!("{event:?} before OPENED"));
        assert_eq!(seen.addr, *addr, "one id, two addresses");
        assert!(!seen.closed, "{event:?} after CLOSED");
        let before = seen.bytes;
        match event {
            Event::Received(_, data) => seen.bytes += data.len(),
            _ => seen.closed = true,
        }
        before
    }

    /// Takes events up to the goodbye of a daemon that stops.
    pub fn take_to_goodbye(&mut self, wire: &mut Wire) {
        let frame = loop {
            let frame = wire.data_frame();
            if frame.first != 0x82 {
                break frame;
            }
            self.take(&Event::decode(&frame.payload));
        };
        assert_eq!(frame.close_reason().0, 1001);
    }

    /// How many devices it was told of.
    pub fn told(&self) -> usize {
        self.devices.len()
    }

    /// How many of them have ended since.
    pub fn closed(&self) -> usize {
        self.devices.values().filter(|seen| seen.closed).count()
    }
}
