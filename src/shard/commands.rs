//! What a driver asks of devices, on its way from its session to its port: commands in order, with the bytes of small
//! writes back to back, so that a small write costs no allocation.
//!
//! **Invariants.** Commands are carried out in the order of asking, each with its own bytes. What is sent to a port has been
//! paid for.
//! **Not here.** Waiting for credit (`edge::session`), and what a command does (`port`).

use crate::policy::budget::Reservation;
use crate::protocol::message::DeviceAddr;
use crate::shard::credit::{Credit, Paid, Window};
use bytes::Bytes;

/// Writes below this are copied: a slice would keep the whole read buffer alive.
const SMALL_BYTES_MAX: usize = 4 << 10;

/// Commands of one session.
#[derive(Debug, Default)]
pub struct Commands {
    list: Vec<Command>,
    /// The bytes of small writes, one after the other.
    small: Vec<u8>,
    /// What all of them have paid; `None` before they have.
    credit: Option<Credit>,
}

#[derive(Debug)]
struct Command {
    device: DeviceAddr,
    cost: u32,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Close,
    /// A write of so many of the small bytes.
    Small(u32),
    Large(Box<Large>),
}

/// A large write's bytes.
#[derive(Debug)]
pub struct Large {
    /// A slice of the message.
    pub data: Bytes,
    /// What such a message has reserved beyond the window; given back with the bytes.
    pub memory: Option<Reservation>,
}

/// The bytes of a write.
#[derive(Debug)]
pub enum Payload<'a> {
    /// To be copied.
    Small(&'a [u8]),
    /// To be kept.
    Large(Large),
}

/// What is to be done with a device.
#[derive(Debug)]
pub enum Action<'a> {
    /// Write these bytes, or send this datagram.
    Write(Payload<'a>),
    /// Disconnect it after the writes before.
    Close,
}

impl Payload<'_> {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Payload::Small(data) => data,
            Payload::Large(large) => &large.data,
        }
    }
}

impl Commands {
    /// Adds the write of `data`, which lies in `message`; `memory` is what a large message has reserved.
    pub fn write(
        &mut self,
        window: &Window,
        device: DeviceAddr,
        message: &Bytes,
        data: &[u8],
        memory: Option<Reservation>,
    ) {
        let kind = match u32::try_from(data.len()) {
            Ok(len) if data.len() < SMALL_BYTES_MAX => {
                self.small.extend_from_slice(data);
                Kind::Small(len)
            }
            _ => Kind::Large(Box::new(Large { data: message.slice_ref(data), memory })),
        };
        self.list.push(Command { device, cost: window.cost(data.len()), kind });
    }

    /// Adds a disconnect.
    pub fn close(&mut self, window: &Window, device: DeviceAddr) {
        self.list.push(Command { device, cost: window.cost(0), kind: Kind::Close });
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// What the first costs.
    pub fn first_cost(&self) -> Option<u32> {
        self.list.first().map(|command| command.cost)
    }

    /// Moves commands to the end of `paid`, the first ones first, as far as the free credit goes.
    pub fn pay(&mut self, window: &Window, paid: &mut Commands) {
        let free = window.free_bytes();
        let (mut count, mut cost, mut small_bytes) = (0, 0, 0);
        for command in &self.list {
            let more = cost + command.cost as usize;
            if more > free {
                break;
            }
            (count, cost) = (count + 1, more);
            if let Kind::Small(len) = command.kind {
                small_bytes += len as usize;
            }
        }
        let Some(credit) = window.try_take(cost).filter(|_| count > 0) else { return };
        paid.list.extend(self.list.drain(..count));
        paid.small.extend(self.small.drain(..small_bytes));
        match &mut paid.credit {
            Some(held) => held.add(credit),
            none => *none = Some(credit),
        }
    }

    /// Hands each command over, with what it has paid. What is not taken of that comes back at the end.
    pub fn carry_out(self, mut each: impl FnMut(DeviceAddr, Action<'_>, Paid<'_>)) {
        let Some(mut credit) = self.credit else { return };
        let mut small = &self.small[..];
        for Command { device, cost, kind } in self.list {
            let action = match kind {
                Kind::Close => Action::Close,
                Kind::Large(large) => Action::Write(Payload::Large(*large)),
                Kind::Small(len) => {
                    let (data, rest) = small.split_at(len as usize);
                    small = rest;
                    Action::Write(Payload::Small(data))
                }
            };
            each(device, action, Paid::new(&mut credit, cost));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::policy::budget::Budget;
    use crate::shard::credit::REQUEST_BYTES;

    fn device(id: u64) -> DeviceAddr {
        DeviceAddr { ip: Some([10, 0, 0, 1].into()), id_or_port: id }
    }

    fn carried_out(commands: Commands) -> Vec<(u64, Option<Vec<u8>>)> {
        let mut all = Vec::new();
        commands.carry_out(|device, action, _| {
            let data = if let Action::Write(payload) = action { Some(payload.bytes().to_vec()) } else { None };
            all.push((device.id_or_port, data));
        });
        all
    }

    #[test]
    fn commands_keep_their_order_and_bytes_however_they_are_paid() {
        const WRITES: u64 = 20;
        let large = Bytes::from(vec![7; SMALL_BYTES_MAX]);
        for room in [REQUEST_BYTES + SMALL_BYTES_MAX, 9_000, 100_000] {
            let window = Window::new(room, Budget::new(room).reserve(room).unwrap());
            let mut unpaid = Commands::default();
            for id in 0..WRITES {
                let message = if id % 7 == 3 { large.clone() } else { Bytes::from(vec![id as u8; id as usize]) };
                unpaid.write(&window, device(id), &message, &message, None);
                unpaid.close(&window, device(id));
            }
            let mut all = Vec::new();
            while !unpaid.is_empty() {
                let mut paid = Commands::default();
                unpaid.pay(&window, &mut paid);
                assert!(!paid.is_empty(), "what was carried out has given its credit back");
                all.extend(carried_out(paid));
            }
            assert_eq!(all.len(), 2 * WRITES as usize);
            for (at, (id, data)) in all.into_iter().enumerate() {
                assert_eq!(id, at as u64 / 2);
                let written = if id % 7 == 3 { large.to_vec() } else { vec![id as u8; id as usize] };
                assert_eq!(data, (at % 2 == 0).then_some(written));
            }
        }
    }

    #[test]
    fn only_what_the_free_credit_pays_for_moves() {
        let window = Window::new(3 * REQUEST_BYTES, Budget::new(1_000).reserve(1_000).unwrap());
        let mut unpaid = Commands::default();
        (0..5).for_each(|id| unpaid.close(&window, device(id)));
        let mut paid = Commands::default();
        unpaid.pay(&window, &mut paid);
        unpaid.pay(&window, &mut paid);
        assert_eq!((paid.len(), unpaid.len(), window.used_bytes()), (3, 2, 3 * REQUEST_BYTES));
        drop(paid);
        assert_eq!(window.used_bytes(), 0);
    }
}
