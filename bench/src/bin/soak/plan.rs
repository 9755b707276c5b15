//! What a driver is going to do: where it joins, how it reads, how it leaves. Chosen before it joins.
//!
//! **Invariants.** A plan depends on its actor's generator alone, so that a seed repeats it.
//! **Not here.** Carrying it out (`session`, `acts`).

use super::accept::{AcceptList, NOBODY, WARDEN_ACCEPTS};
use super::world::World;
use dispatch_bench::websocket::{self, FIN, opcode};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use std::time::Duration;
use uring_dispatch::policy::port_id::Transport;

/// A driver's intentions.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The port's transport.
    pub transport: Transport,
    /// The port's number.
    pub port: u16,
    /// Which devices it accepts.
    pub accept: AcceptList,
    /// How long it stays; `None` for as long as the run goes.
    pub stay: Option<Duration>,
    /// How it reads.
    pub pace: Pace,
    /// How it leaves.
    pub leave: Leave,
    /// Its socket's receive buffer.
    pub receive_bytes: Option<u32>,
}

/// How a driver reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// At once.
    Prompt,
    /// A little at a time, faster than a stall.
    Slow,
    /// With naps that are shorter than a stall.
    Naps,
    /// With naps that may be longer than a stall: it may be let go.
    LongNaps,
}

/// How a driver leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leave {
    /// With a close frame.
    Close,
    /// With a reset.
    Reset,
    /// By closing its connection without a close frame.
    Vanish,
    /// With something that ends the session.
    Fault(Fault),
    /// By answering no ping until it is let go.
    Mute,
}

impl Leave {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Leave::Close => "a close frame",
            Leave::Reset => "a reset",
            Leave::Vanish => "vanishing",
            Leave::Fault(_) => "a fault",
            Leave::Mute => "silence",
        }
    }
}

/// Input that ends a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A message without bytes.
    Empty,
    /// A message of an unknown type.
    UnknownType,
    /// A message that ends early.
    Short,
    /// A message whose size runs past its end.
    DataSize,
    /// A text message that is not UTF-8.
    NotUtf8,
    /// A frame that claims 1 GiB.
    ClaimsTooMuch,
    /// A message that is over the limit and comes whole.
    TooBig,
    /// A message over the limit in fragments.
    TooBigInFragments,
    /// A frame without a mask.
    Unmasked,
    /// Reserved bits.
    Reserved,
    /// An opcode that is none.
    Opcode,
    /// A continuation of nothing.
    Continuation,
    /// A ping in fragments.
    FragmentedPing,
}

const FAULTS: [Fault; 13] = [
    Fault::Empty,
    Fault::UnknownType,
    Fault::Short,
    Fault::DataSize,
    Fault::NotUtf8,
    Fault::ClaimsTooMuch,
    Fault::TooBig,
    Fault::TooBigInFragments,
    Fault::Unmasked,
    Fault::Reserved,
    Fault::Opcode,
    Fault::Continuation,
    Fault::FragmentedPing,
];

impl Fault {
    /// The close code that it is answered with.
    pub fn close_code(self) -> u16 {
        match self {
            Fault::NotUtf8 => 1007,
            Fault::ClaimsTooMuch | Fault::TooBig | Fault::TooBigInFragments => 1009,
            _ => 1002,
        }
    }

    /// Appends it.
    pub fn append(self, out: &mut Vec<u8>, message_bytes_max: usize, rng: &mut ChaCha8Rng) {
        const BINARY: u8 = FIN | opcode::BINARY;
        let mask: [u8; 4] = rng.random();
        let mut message = b"\x03127.10.0.1\0".to_vec();
        message.extend_from_slice(&[0; 8]);
        match self {
            Fault::Empty => websocket::append(out, BINARY, b"", mask),
            Fault::UnknownType => {
                message[0] = rng.random_range(5..=255);
                websocket::append(out, BINARY, &message, mask);
            }
            Fault::Short => {
                message.truncate(rng.random_range(1..message.len()));
                websocket::append(out, BINARY, &message, mask);
            }
            Fault::DataSize => {
                message.extend_from_slice(&[0, 0, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8]);
                websocket::append(out, BINARY, &message, mask);
            }
            Fault::NotUtf8 => websocket::append(out, FIN | opcode::TEXT, b"abc\xff\xfe", mask),
            Fault::ClaimsTooMuch => websocket::append_head(out, BINARY, 1 << 30, mask),
            Fault::TooBig => websocket::append(out, BINARY, &vec![3; message_bytes_max + 1], mask),
            Fault::TooBigInFragments => {
                let part = vec![3; message_bytes_max / 2 + 1];
                websocket::append(out, opcode::BINARY, &part, mask);
                websocket::append(out, FIN | opcode::CONTINUATION, &part, mask);
            }
            Fault::Unmasked => out.extend_from_slice(&[BINARY, 1, 3]),
            Fault::Reserved => websocket::append(out, BINARY | 0x40, b"abc", mask),
            Fault::Opcode => websocket::append(out, FIN | 0x3, b"abc", mask),
            Fault::Continuation => websocket::append(out, FIN | opcode::CONTINUATION, b"abc", mask),
            Fault::FragmentedPing => websocket::append(out, opcode::PING, b"abc", mask),
        }
    }
}

impl Plan {
    /// The driver that stays on a shared port.
    pub fn warden(transport: Transport, port: u16) -> Self {
        let accept = AcceptList::of(WARDEN_ACCEPTS);
        Plan { transport, port, accept, stay: None, pace: Pace::Prompt, leave: Leave::Close, receive_bytes: None }
    }

    /// A driver that comes and goes.
    pub fn random(world: &World, rng: &mut ChaCha8Rng) -> Self {
        let topology = &world.topology;
        let (transport, ports) = match rng.random_range(0..10) {
            0..5 => (Transport::Tcp, &topology.shared),
            5..8 => (Transport::Tcp, &topology.free),
            8 => (Transport::Udp, &topology.shared_datagrams),
            _ => (Transport::Udp, &topology.free_datagrams),
        };
        let leave = match rng.random_range(0..20) {
            0..9 => Leave::Close,
            9..13 => Leave::Reset,
            13..15 => Leave::Vanish,
            15..19 => Leave::Fault(FAULTS[rng.random_range(0..FAULTS.len())]),
            _ => Leave::Mute,
        };
        let pace = match rng.random_range(0..10) {
            0..6 => Pace::Prompt,
            6 => Pace::Slow,
            7 | 8 => Pace::Naps,
            _ => Pace::LongNaps,
        };
        let port = ports[rng.random_range(0..ports.len())];
        let stay_ms = if rng.random_bool(0.3) { rng.random_range(0..300) } else { rng.random_range(300..8_000) };
        let plan = Plan {
            transport,
            port,
            accept: AcceptList::random(rng),
            stay: Some(Duration::from_millis(stay_ms)),
            pace,
            leave,
            receive_bytes: (pace != Pace::Prompt).then_some(32 << 10),
        };
        if leave != Leave::Mute {
            return plan;
        }
        // Nothing may be sent to it, as what it takes counts as life.
        Plan { port: topology.silent, accept: AcceptList::of(NOBODY), pace: Pace::Prompt, ..plan }
    }
}
