//! Proves what the daemon makes of a driver's messages and frames: good, odd and broken ones.

use std::time::{Duration, Instant};

use crate::harness::{
    Addr, Daemon, Device, Event, Opcode, Setup, Transport, Wire, close, eventually, frame, free_port, pattern, request,
    resident_bytes, write,
};

scenarios! {
    a_text_message_is_ignored_and_counted,
    messages_of_the_other_direction_are_ignored_and_counted,
    a_message_that_cannot_be_decoded_ends_the_session_with_1002_and_a_reason,
    a_broken_session_harms_nobody_else_on_its_port,
    bytes_after_the_data_are_ignored,
    a_message_of_exactly_the_limit_works,
    a_message_over_the_limit_is_1009,
    the_message_limit_is_a_setting,
    text_that_is_not_utf8_is_1007,
    a_frame_that_breaks_the_protocol_is_1002,
    a_frame_that_claims_2_gib_is_refused_at_once_and_costs_nothing,
    a_size_that_claims_2_gib_is_refused_at_once_and_costs_nothing,
    a_write_in_fragments_arrives_whole,
    a_ping_between_fragments_is_answered_before_the_message_ends,
    frames_may_arrive_byte_by_byte,
    many_messages_may_arrive_in_one_segment,
    a_large_message_leaves_no_memory_behind_it,
}

/// A joined driver in frames with one connected device.
fn joined(daemon: &Daemon) -> (Wire, Device, Addr) {
    let port = free_port();
    let mut wire = daemon.wire(Transport::Tcp, port, "127.0.0.1");
    let device = Device::connect("127.0.0.1", port);
    let Event::Opened(addr) = wire.event() else { panic!("no OPENED") };
    (wire, device, addr)
}

/// Fails unless writes and events still cross.
fn assert_alive(wire: &mut Wire, device: &mut Device, addr: &Addr) {
    wire.send_frame(Opcode::Binary, &write(addr, b"to the device"));
    device.expect(b"to the device");
    device.send(b"to the driver");
    assert_eq!(wire.event(), Event::Received(addr.clone(), b"to the driver".to_vec()));
}

fn until_warned(daemon: &Daemon, of: &str) {
    let is_it = |line: &str| line.contains(" WARN ") && line.contains(of);
    eventually("the warning", || daemon.log().lines().any(is_it).then_some(()));
}

fn a_text_message_is_ignored_and_counted(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let (mut wire, mut device, addr) = joined(daemon);
        for text in ["hello", "", "\u{3}127.0.0.1", "grüß dich"] {
            wire.send_frame(Opcode::Text, text.as_bytes());
            assert_alive(&mut wire, &mut device, &addr);
        }
        assert_eq!(daemon.count("driver_messages_ignored"), 4);
        until_warned(daemon, "a text message was ignored");
    });
}

fn messages_of_the_other_direction_are_ignored_and_counted(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let (mut wire, mut device, addr) = joined(daemon);
        for kind in 0..=2 {
            wire.send_frame(Opcode::Binary, &request(kind, "127.0.0.1", addr.id, 2, b"hi"));
            assert_alive(&mut wire, &mut device, &addr);
        }
        assert_eq!(daemon.count("driver_messages_ignored"), 3);
        until_warned(daemon, "a message that only the daemon sends was ignored");
    });
}

/// Every way in which a message cannot be decoded.
fn undecodable() -> Vec<(&'static str, Vec<u8>)> {
    let whole = request(3, "127.0.0.1", 0, 5, b"hello");
    let mut cases = vec![
        ("empty", Vec::new()),
        ("type 5", request(5, "127.0.0.1", 0, 0, b"")),
        ("type 255", request(255, "127.0.0.1", 0, 2, b"hi")),
        ("no end of the address", b"\x03127.0.0.1".to_vec()),
        ("a size past the end", request(3, "127.0.0.1", 0, 6, b"hello")),
        ("a size far past the end", request(3, "127.0.0.1", 0, u32::MAX, b"hello")),
    ];
    for end in [1, 10, 11, 18, 19, 22] {
        cases.push(("cut off", whole[..end].to_vec()));
    }
    cases.push(("a CLOSE cut off", close(&Addr::new("127.0.0.1", 0))[..18].to_vec()));
    cases
}

fn a_message_that_cannot_be_decoded_ends_the_session_with_1002_and_a_reason(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let mut reasons = std::collections::HashMap::new();
        for (name, message) in undecodable() {
            let (mut wire, mut device, _) = joined(daemon);
            wire.send_frame(Opcode::Binary, &message);
            let (code, reason) = wire.close_reason();
            assert_eq!(code, 1002, "{name}: {reason}");
            assert!(reason.len() > 5, "{name}: no reason but {reason:?}");
            device.is_disconnected();
            reasons.insert(name, reason);
        }
        assert_ne!(reasons["type 5"], reasons["a size past the end"], "the reason does not name the fault");
        assert_ne!(reasons["type 5"], reasons["no end of the address"], "the reason does not name the fault");
    });
}

fn a_broken_session_harms_nobody_else_on_its_port(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut other = daemon.join_tcp(port, "127.0.0.1");
        let mut device = Device::connect("127.0.0.1", port);
        let addr = other.opened();
        for (name, message) in undecodable() {
            let mut broken = daemon.wire(Transport::Tcp, port, "127.0.0.1");
            assert_eq!(broken.event(), Event::Opened(addr.clone()));
            broken.send_frame(Opcode::Binary, &message);
            assert_eq!(broken.close_reason().0, 1002);
            broken.send_frame(Opcode::Close, &1002_u16.to_be_bytes());
            broken.ends();
            device.send(name.as_bytes());
            other.received(&addr, name.as_bytes());
        }
        daemon.until_statistics(&serde_json::json!({
            "udp_listeners": {}, "tcp_listeners": {port.to_string(): 1}, "tcp_clients": {port.to_string(): 1}
        }));
    });
}

fn bytes_after_the_data_are_ignored(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let (mut wire, mut device, addr) = joined(daemon);
        wire.send_frame(Opcode::Binary, &request(3, &addr.ip, addr.id, 5, b"helloGARBAGE"));
        wire.send_frame(Opcode::Binary, &request(3, &addr.ip, addr.id, 0, b"GARBAGE"));
        wire.send_frame(Opcode::Binary, &write(&addr, b" and goodbye"));
        device.expect(b"hello and goodbye");
        assert_alive(&mut wire, &mut device, &addr);
    });
}

/// A WRITE that is a message of exactly this size, and its data.
fn write_of(size: usize, addr: &Addr) -> (Vec<u8>, Vec<u8>) {
    let data = pattern(3, 0, size - write(addr, b"").len());
    (write(addr, &data), data)
}

fn a_message_of_exactly_the_limit_works(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let (mut wire, mut device, addr) = joined(daemon);
        for _ in 0..3 {
            let (message, data) = write_of(1 << 20, &addr);
            let mut writer = wire.writer();
            std::thread::scope(|scope| {
                scope.spawn(move || writer.send_frame(Opcode::Binary, &message));
                device.expect(&data);
            });
        }
        assert_alive(&mut wire, &mut device, &addr);
    });
}

/// Sends a frame's head only, and the start of what it announces.
fn announce(wire: &mut Wire, size: u64, payload: &[u8]) {
    let mut bytes = vec![0x82, 0xff];
    bytes.extend_from_slice(&size.to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(payload);
    wire.send(&bytes);
}

fn a_message_over_the_limit_is_1009(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let (mut wire, mut device, addr) = joined(daemon);
        let (message, _) = write_of((1 << 20) + 1, &addr);
        announce(&mut wire, message.len() as u64, &message[..1_000]);
        let (code, reason) = wire.close_reason();
        assert_eq!(code, 1009, "{reason}");
        device.is_disconnected();

        // In fragments of which each is small enough.
        let (mut wire, _device, addr) = joined(daemon);
        let (message, _) = write_of((1 << 20) + 1, &addr);
        wire.send(&frame(0x02, &message[..600_000]));
        wire.send(&frame(0x80, &message[600_000..]));
        assert_eq!(wire.close_reason().0, 1009);
    });
}

fn the_message_limit_is_a_setting(shards: usize) {
    Setup::new(shards).limit("message-bytes-max", 131_072).run(|daemon| {
        let (mut wire, mut device, addr) = joined(daemon);
        let (message, data) = write_of(131_072, &addr);
        wire.send_frame(Opcode::Binary, &message);
        device.expect(&data);
        announce(&mut wire, 131_073, b"");
        assert_eq!(wire.close_reason().0, 1009);
    });
}

fn text_that_is_not_utf8_is_1007(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for text in [b"\xff\xfe".as_slice(), b"abc\x80", b"\xed\xa0\x80"] {
            let (mut wire, mut device, _) = joined(daemon);
            wire.send_frame(Opcode::Text, text);
            assert_eq!(wire.close_reason().0, 1007, "{text:?}");
            device.is_disconnected();
        }
    });
}

fn a_frame_that_breaks_the_protocol_is_1002(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let unmasked = b"\x82\x05hello".to_vec();
        for (name, bytes) in [
            ("unmasked", unmasked),
            ("a reserved bit", frame(0xc2, b"hello")),
            ("a reserved opcode", frame(0x83, b"hello")),
            ("a reserved control opcode", frame(0x8b, b"hello")),
            ("a ping in fragments", frame(0x09, b"hello")),
            ("a ping of 126 bytes", frame(0x89, &[0; 126])),
            ("a continuation of nothing", frame(0x80, b"hello")),
            ("a message within a message", [frame(0x02, b"hello"), frame(0x82, b"hello")].concat()),
        ] {
            let (mut wire, mut device, _) = joined(daemon);
            wire.send(&bytes);
            let (code, reason) = wire.close_reason();
            assert_eq!(code, 1002, "{name}: {reason}");
            device.is_disconnected();
        }
    });
}

/// Fails unless what `send` does to one driver ends it with this code, without what it announces, cheap and unnoticed by
/// others.
fn assert_refused_at_once(daemon: &Daemon, code: u16, send: impl FnOnce(&mut Wire, &Addr)) {
    let (mut other, mut other_device, other_addr) = joined(daemon);
    assert_alive(&mut other, &mut other_device, &other_addr);
    let (mut wire, _device, addr) = joined(daemon);
    let before = resident_bytes(daemon.pid());
    let start = Instant::now();
    send(&mut wire, &addr);
    assert_alive(&mut other, &mut other_device, &other_addr);
    assert_eq!(wire.close_reason().0, code);
    let took = start.elapsed();
    assert!(took < Duration::from_secs(10), "refused after {took:?}");
    let grown = resident_bytes(daemon.pid()).saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more");
}

fn a_frame_that_claims_2_gib_is_refused_at_once_and_costs_nothing(shards: usize) {
    Setup::new(shards).run(|daemon| {
        // 27 bytes in all.
        assert_refused_at_once(daemon, 1009, |wire, _| announce(wire, 1 << 31, &[0; 13]));
        assert_refused_at_once(daemon, 1009, |wire, _| announce(wire, u64::MAX >> 1, &[0; 13]));
    });
}

fn a_size_that_claims_2_gib_is_refused_at_once_and_costs_nothing(shards: usize) {
    Setup::new(shards).run(|daemon| {
        assert_refused_at_once(daemon, 1002, |wire, addr| {
            wire.send_frame(Opcode::Binary, &request(3, &addr.ip, addr.id, 1 << 31, b""));
        });
    });
}

fn a_write_in_fragments_arrives_whole(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let (mut wire, mut device, addr) = joined(daemon);
        let message = write(&addr, b"one two three");
        for size in [1, 2, 7, 11, 24] {
            let mut parts: Vec<_> = message.chunks(size).map(|part| frame(0x00, part)).collect();
            parts[0][0] |= 0x02;
            parts.last_mut().unwrap()[0] |= 0x80;
            wire.send(&parts.concat());
            device.expect(b"one two three");
        }
        // An empty fragment on either side.
        wire.send(&[frame(0x02, b""), frame(0x00, &message), frame(0x80, b"")].concat());
        device.expect(b"one two three");
        assert_alive(&mut wire, &mut device, &addr);
    });
}

fn a_ping_between_fragments_is_answered_before_the_message_ends(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let (mut wire, mut device, addr) = joined(daemon);
        let message = write(&addr, b"interrupted");
        wire.send(&frame(0x02, &message[..20]));
        wire.send_frame(Opcode::Ping, b"in between");
        let pong = wire.frame();
        assert_eq!((pong.first, pong.payload.as_slice()), (0x8a, b"in between".as_slice()));
        wire.send(&frame(0x80, &message[20..]));
        device.expect(b"interrupted");
        assert_alive(&mut wire, &mut device, &addr);
    });
}

fn frames_may_arrive_byte_by_byte(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let (mut wire, mut device, addr) = joined(daemon);
        let data = pattern(4, 0, 200);
        for bytes in [
            frame(0x82, &write(&addr, b"slowly")),
            frame(0x89, b"ping"),
            frame(0x82, &write(&addr, &data)),
            frame(0x81, b"text"),
        ] {
            for byte in bytes {
                wire.send(&[byte]);
            }
        }
        device.expect(b"slowly");
        device.expect(&data);
        assert_eq!(wire.frame().payload, b"ping");
        assert_alive(&mut wire, &mut device, &addr);
    });
}

fn many_messages_may_arrive_in_one_segment(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let (mut wire, mut device, addr) = joined(daemon);
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for number in 0..2_000 {
            let data = format!("message {number}\n");
            bytes.extend(frame(0x82, &write(&addr, data.as_bytes())));
            expected.extend_from_slice(data.as_bytes());
        }
        wire.send(&bytes);
        device.expect(&expected);
        assert_alive(&mut wire, &mut device, &addr);
    });
}

fn a_large_message_leaves_no_memory_behind_it(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let mut sessions: Vec<_> = (0..64).map(|_| joined(daemon)).collect();
        let mut turn = || {
            for (wire, device, addr) in &mut sessions {
                let (message, data) = write_of(1 << 20, addr);
                let mut writer = wire.writer();
                std::thread::scope(|scope| {
                    scope.spawn(move || writer.send_frame(Opcode::Binary, &message));
                    device.expect(&data);
                });
                assert_alive(wire, device, addr);
            }
        };
        let before = resident_bytes(daemon.pid());
        turn();
        // A context that kept its buffer would hold 1 MiB for each of 64 sessions.
        let grown = resident_bytes(daemon.pid()).saturating_sub(before);
        assert!(grown < 32 << 20, "{grown} bytes more after a large message of each session");
    });
}
