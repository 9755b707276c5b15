//! Proves that frames by the million, and frames that lie, cost little and disturb nobody.

use std::time::Duration;

use crate::harness::{Daemon, Device, Opcode, Transport, Wire, frame, free_port, pattern, request, write};
use crate::service::{Toll, alone, served_during, setup};

scenarios! {
    a_million_pings_whose_answers_are_not_read_are_borne,
    a_million_fragments_of_one_byte_are_one_message,
}

const MILLION: usize = 1_000_000;

/// Joins a driver and its device, and lets the attack have them while others are served.
fn attack(shards: usize, attack: impl FnOnce(&Daemon, &mut Wire, &mut Device)) -> Toll {
    let _alone = alone();
    let mut toll = None;
    setup(shards).run(|daemon| {
        let port = free_port();
        let mut wire = daemon.wire(Transport::Tcp, port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        wire.event();
        toll = Some(served_during(daemon, || attack(daemon, &mut wire, &mut device)));
    });
    let toll = toll.unwrap();
    toll.assert_at_most(12, 20);
    toll
}

/// A WRITE to the first device.
fn write_message(data: &[u8]) -> Vec<u8> {
    write(&crate::harness::Addr::new("127.0.0.1", 0), data)
}

/// Sends this many of the same frame in large pieces.
fn send_many(wire: &mut Wire, one: &[u8], count: usize) {
    let piece = one.repeat(10_000);
    for _ in 0..count / 10_000 {
        wire.send(&piece);
    }
}

#[test]
fn huge_declared_frames_end_the_session() {
    attack(3, |daemon, _, _| {
        for first in [0x82u8, 0x02, 0x81] {
            for length in [1u64 << 63, u64::MAX, (1 << 63) - 1, 1 << 40, (1 << 31) + 7] {
                let mut wire = daemon.wire(Transport::Udp, free_port(), "127.0.0.1");
                let mut head = vec![first, 0xff];
                head.extend_from_slice(&length.to_be_bytes());
                head.extend_from_slice(&[1, 2, 3, 4]);
                wire.send(&head);
                let _ = wire.try_send(&[7; 10_000]);
                let (code, reason) = wire.close_reason();
                assert!(matches!(code, 1002 | 1009), "{first:#x} of {length}: {code} {reason}");
            }
        }
    });
}

#[test]
fn a_million_pings_are_borne() {
    attack(3, |_, wire, device| {
        let mut reader = wire.writer();
        std::thread::scope(|scope| {
            let answered = scope.spawn(move || {
                let mut pongs = 0;
                while reader.frame().payload != b"last" {
                    pongs += 1;
                }
                pongs
            });
            send_many(wire, &frame(0x89, b""), MILLION);
            wire.send_frame(Opcode::Binary, &write_message(b"behind them"));
            device.expect(b"behind them");
            wire.send_frame(Opcode::Ping, b"last");
            assert!(answered.join().unwrap() <= MILLION);
        });
    });
}

fn a_million_pings_whose_answers_are_not_read_are_borne(shards: usize) {
    attack(shards, |_, wire, device| {
        send_many(wire, &frame(0x89, b""), MILLION);
        wire.send_frame(Opcode::Binary, &write_message(b"behind them"));
        device.expect(b"behind them");
    });
}

#[test]
fn an_empty_binary_message_ends_the_session() {
    attack(3, |daemon, wire, _| {
        // Each costs the driver its session: a flood has to join anew for each.
        wire.send(&frame(0x82, b"").repeat(MILLION / 10));
        assert_eq!(wire.close_reason().0, 1002);
        for _ in 0..50 {
            let mut other = daemon.wire(Transport::Udp, free_port(), "127.0.0.1");
            other.send(&frame(0x82, b"").repeat(100));
            assert_eq!(other.close_reason().0, 1002);
        }
    });
}

#[test]
fn a_million_empty_texts_are_ignored() {
    attack(3, |daemon, wire, device| {
        send_many(wire, &frame(0x81, b""), MILLION);
        wire.send_frame(Opcode::Binary, &write_message(b"behind them"));
        device.expect(b"behind them");
        assert_eq!(daemon.count("driver_messages_ignored"), MILLION as u64);
    });
}

#[test]
fn a_million_empty_fragments_are_borne() {
    attack(3, |_, wire, device| {
        wire.send(&frame(0x02, &write_message(b"one message")));
        send_many(wire, &frame(0x00, b""), MILLION);
        wire.send(&frame(0x80, b""));
        device.expect(b"one message");
    });
}

fn a_million_fragments_of_one_byte_are_one_message(shards: usize) {
    let data = pattern(1, 0, MILLION);
    let message = request(3, "127.0.0.1", 0, MILLION as u32, &data);
    let mut frames = frame(0x02, &message[..1]);
    for byte in message[1..message.len() - 1].chunks(1) {
        frames.extend_from_slice(&frame(0x00, byte));
    }
    frames.extend_from_slice(&frame(0x80, &message[message.len() - 1..]));
    attack(shards, |_, wire, device| {
        wire.set_write_patience(Duration::from_secs(20));
        std::thread::scope(|scope| {
            scope.spawn(|| wire.send(&frames));
            device.expect(&data);
        });
    });
}
