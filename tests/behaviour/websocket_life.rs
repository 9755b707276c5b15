//! Proves how a session breathes and ends: pings, pongs, silence, close handshakes, and whole frames only.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use crate::harness::{
    Addr, Daemon, Datagrams, Device, Event, Frame, Opcode, Setup, Transport, Wire, frame, free_port, pattern, write,
};

scenarios! {
    a_ping_is_answered_by_its_pong,
    a_pong_that_nobody_asked_for_is_fine,
    a_close_is_echoed_and_the_connection_ends,
    a_close_without_a_code_is_answered,
    what_was_received_before_the_close_is_not_lost,
    a_close_frame_arrives_behind_what_a_slow_driver_has_not_read_though_it_goes_on_sending,
    an_idle_driver_is_pinged,
    a_driver_that_answers_each_ping_with_two_pongs_lives,
    a_silent_driver_is_let_go_with_1011,
    any_byte_from_a_driver_counts_as_life,
    a_message_that_a_driver_takes_counts_as_life,
    a_ping_that_a_driver_takes_is_no_life,
    each_message_is_one_whole_frame,
    no_control_frame_stands_inside_a_message,
    a_driver_that_half_closes_has_left,
}

/// Short times, so that silence shows within seconds.
fn impatient(shards: usize) -> Setup {
    Setup::new(shards).limit("ping-interval-ms", 300).limit("driver-silence-ms-max", 1_500)
}

fn joined(daemon: &Daemon) -> (Wire, Device, Addr) {
    let port = free_port();
    let mut wire = daemon.wire(Transport::Tcp, port, "127.0.0.1");
    let device = Device::connect("127.0.0.1", port);
    let Event::Opened(addr) = wire.event() else { panic!("no OPENED") };
    (wire, device, addr)
}

fn a_ping_is_answered_by_its_pong(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let (mut wire, _device, _) = joined(daemon);
        for payload in [b"".as_slice(), b"x", &[0xff; 125]] {
            wire.send_frame(Opcode::Ping, payload);
            assert_eq!(wire.frame(), Frame { first: 0x8a, payload: payload.to_vec() });
        }
    });
}

fn a_pong_that_nobody_asked_for_is_fine(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let (mut wire, mut device, addr) = joined(daemon);
        for _ in 0..10 {
            wire.send_frame(Opcode::Pong, b"nobody asked");
        }
        wire.send_frame(Opcode::Binary, &write(&addr, b"alive"));
        device.expect(b"alive");
    });
}

fn a_close_is_echoed_and_the_connection_ends(shards: usize) {
    Setup::new(shards).run(|daemon| {
        for (code, reason) in [(1000_u16, "bye"), (1001, ""), (4000, "my own")] {
            let (mut wire, mut device, _) = joined(daemon);
            let start = Instant::now();
            wire.send_frame(Opcode::Close, &[&code.to_be_bytes(), reason.as_bytes()].concat());
            assert_eq!(wire.data_frame().close_reason().0, code);
            wire.ends();
            let took = start.elapsed();
            // Nothing is waited for: not for writes to be flushed (8 s), nor for a silence (75 s).
            assert!(took < Duration::from_secs(7), "the end after {took:?}");
            device.is_disconnected();
        }
    });
}

fn a_close_without_a_code_is_answered(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let (mut wire, mut device, _) = joined(daemon);
        wire.send_frame(Opcode::Close, b"");
        assert_eq!(wire.frame().opcode(), Opcode::Close as u8);
        wire.ends();
        device.is_disconnected();
    });
}

fn what_was_received_before_the_close_is_not_lost(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let (mut wire, mut device, addr) = joined(daemon);
        let bytes = [frame(0x82, &write(&addr, b"last words")), frame(0x88, &1000_u16.to_be_bytes())].concat();
        wire.send(&bytes);
        device.expect(b"last words");
        device.ends();
        assert_eq!(wire.close_reason().0, 1000);
    });
}

fn a_close_frame_arrives_behind_what_a_slow_driver_has_not_read_though_it_goes_on_sending(shards: usize) {
    const SIZE: usize = 250_000;
    Setup::new(shards).run(|daemon| {
        let (mut wire, mut device, addr) = joined(daemon);
        device.send(&pattern(6, 0, SIZE));
        daemon.until_count("device_bytes_received", SIZE as u64);
        wire.send_frame(Opcode::Binary, b"nonsense");
        // Input that nobody reads turns a careless close into a reset, which destroys what is under way.
        for _ in 0..20 {
            wire.send_frame(Opcode::Binary, &write(&addr, &[7; 1_000]));
        }
        let mut taken = 0;
        let end = loop {
            let frame = wire.frame();
            if frame.opcode() == Opcode::Close as u8 {
                break frame;
            }
            let Event::Received(_, data) = Event::decode(&frame.payload) else { panic!("{frame:?}") };
            assert!(data == pattern(6, taken, data.len()), "at {taken}");
            taken += data.len();
            std::thread::sleep(Duration::from_millis(2));
        };
        assert_eq!(end.close_reason().0, 1002);
        assert!(taken > SIZE / 4, "only {taken} bytes were under way");
    });
}

fn an_idle_driver_is_pinged(shards: usize) {
    impatient(shards).run(|daemon| {
        let start = Instant::now();
        let (mut wire, _device, _) = joined(daemon);
        for _ in 0..3 {
            let ping = wire.frame();
            assert_eq!(ping.first, 0x89, "{ping:?}");
            wire.send_frame(Opcode::Pong, &ping.payload);
        }
        let took = start.elapsed();
        // The default is one in 30 s.
        assert!((Duration::from_millis(600)..Duration::from_secs(20)).contains(&took), "three pings in {took:?}");
    });
}

/// Reads frames for this long, and hands each to `each`; fails if the session ends.
fn live_for(time: Duration, wire: &mut Wire, mut each: impl FnMut(&mut Wire, Option<Frame>)) {
    let deadline = Instant::now() + time;
    wire.set_patience(Duration::from_millis(100));
    while Instant::now() < deadline {
        match wire.try_frame() {
            Ok(frame) if frame.opcode() == Opcode::Close as u8 => {
                panic!("let go: {:?}", frame.close_reason())
            }
            Ok(frame) => each(wire, Some(frame)),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => each(wire, None),
            Err(error) => panic!("the session ended: {error}"),
        }
    }
    wire.set_patience(crate::harness::PATIENCE);
}

fn a_driver_that_answers_each_ping_with_two_pongs_lives(shards: usize) {
    impatient(shards).run(|daemon| {
        let (mut wire, mut device, addr) = joined(daemon);
        let mut pings = 0;
        live_for(Duration::from_secs(4), &mut wire, |wire, frame| {
            if let Some(ping) = frame {
                pings += 1;
                wire.send_frame(Opcode::Pong, &ping.payload);
                wire.send_frame(Opcode::Pong, &ping.payload);
            }
        });
        assert!(pings >= 4, "{pings} pings in 4 s");
        wire.send_frame(Opcode::Binary, &write(&addr, b"alive"));
        device.expect(b"alive");
    });
}

fn a_silent_driver_is_let_go_with_1011(shards: usize) {
    impatient(shards).run(|daemon| {
        // Before anything that the daemon may take for the last sign of life.
        let start = Instant::now();
        let (mut wire, mut device, _) = joined(daemon);
        let (code, reason) = wire.close_reason();
        let took = start.elapsed();
        assert_eq!(code, 1011, "{reason}");
        assert!((Duration::from_millis(1_400)..Duration::from_secs(20)).contains(&took), "let go after {took:?}");
        device.is_disconnected();
        daemon.until_count("sessions_silent", 1);
    });
}

fn any_byte_from_a_driver_counts_as_life(shards: usize) {
    impatient(shards).run(|daemon| {
        let (mut wire, mut device, addr) = joined(daemon);
        // One message, a byte at a time, for longer than silence may last.
        let bytes = frame(0x82, &write(&addr, b"patience"));
        let mut bytes = bytes.iter();
        live_for(Duration::from_millis(3_500), &mut wire, |wire, frame| {
            if frame.is_none() {
                wire.send(&[*bytes.next().expect("bytes for 3.5 s")]);
            }
        });
        wire.send(bytes.as_slice());
        device.expect(b"patience");
    });
}

fn a_message_that_a_driver_takes_counts_as_life(shards: usize) {
    impatient(shards).run(|daemon| {
        let (mut wire, mut device, _) = joined(daemon);
        let mut received = 0;
        live_for(Duration::from_secs(4), &mut wire, |_, frame| match frame {
            Some(frame) => received += usize::from(frame.opcode() == Opcode::Binary as u8),
            None => device.send(b"news"),
        });
        assert!(received >= 5, "{received} messages");
    });
}

fn a_ping_that_a_driver_takes_is_no_life(shards: usize) {
    impatient(shards).run(|daemon| {
        let (mut wire, _device, _) = joined(daemon);
        let mut pings = 0;
        let code = loop {
            let frame = wire.frame();
            match frame.first {
                0x89 if pings < 50 => pings += 1,
                _ => break frame.close_reason().0,
            }
        };
        assert_eq!(code, 1011);
        assert!((2..=8).contains(&pings), "{pings} pings before it was let go");
    });
}

fn each_message_is_one_whole_frame(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let port = free_port();
        let mut wire = daemon.wire(Transport::Udp, port, "127.0.0.1");
        let device = Datagrams::bind("127.0.0.1");
        let addr = Addr::new("127.0.0.1", device.port());
        let head = write(&addr, b"").len();
        // On both sides of where a frame's length needs more bytes, and of a receive buffer.
        for size in [125, 126, 127, 4_095, 4_096, 4_097, 65_507 + head] {
            for size in [size - 1 - head, size - head] {
                let data = pattern(size as u64, 0, size);
                device.send(port, &data);
                let frame = wire.frame();
                assert_eq!(frame.first, 0x82, "{size} bytes");
                assert!(Event::decode(&frame.payload) == Event::Received(addr.clone(), data), "{size} bytes");
            }
        }
        // On TCP, however the stream is cut, each piece is whole.
        let (mut wire, mut device, addr) = joined(daemon);
        let data = pattern(9, 0, 600_000);
        device.send(&data);
        let mut taken = 0;
        while taken < data.len() {
            let frame = wire.frame();
            assert_eq!(frame.first, 0x82);
            let Event::Received(from, part) = Event::decode(&frame.payload) else { panic!("{frame:?}") };
            assert!(from == addr && part == data[taken..taken + part.len()], "at {taken}");
            taken += part.len();
        }
    });
}

fn no_control_frame_stands_inside_a_message(shards: usize) {
    // Pings of the daemon, pongs and a full outbox at once.
    Setup::new(shards).limit("ping-interval-ms", 100).limit("driver-silence-ms-max", 9_000).run(|daemon| {
        const SIZE: usize = 24 << 20;
        let (mut wire, mut device, addr) = joined(daemon);
        let mut writer = wire.writer();
        let (mut taken, mut pongs, mut others) = (0, 0_u32, 0);
        std::thread::scope(|scope| {
            scope.spawn(move || device.send(&pattern(5, 0, SIZE)));
            scope.spawn(move || {
                for number in 0..400_u32 {
                    writer.send_frame(Opcode::Ping, &number.to_be_bytes());
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            while taken < SIZE || pongs < 400 {
                let frame = wire.frame();
                match frame.first {
                    0x82 => match Event::decode(&frame.payload) {
                        Event::Received(from, data) if from == addr => {
                            assert!(data == pattern(5, taken, data.len()), "at {taken}");
                            taken += data.len();
                            others += 1;
                        }
                        Event::Closed(_) => assert_eq!(taken, SIZE),
                        other => panic!("{other:?}"),
                    },
                    0x8a => {
                        assert_eq!(frame.payload, pongs.to_be_bytes(), "a pong out of turn");
                        pongs += 1;
                    }
                    0x89 => {}
                    _ => panic!("{frame:?}"),
                }
            }
        });
        assert!(others > 10, "{others} messages");
    });
}

fn a_driver_that_half_closes_has_left(shards: usize) {
    Setup::new(shards).run(|daemon| {
        let (mut wire, mut device, _) = joined(daemon);
        wire.half_close();
        device.is_disconnected();
        wire.set_patience(Duration::from_secs(5));
        loop {
            match wire.try_frame() {
                Ok(frame) => assert!(frame.opcode() >= 8 || frame.payload[0] == 1, "{frame:?}"),
                Err(error) => {
                    assert!(matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{error}");
                    break;
                }
            }
        }
    });
}
