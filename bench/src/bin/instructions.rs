//! The codec and the hot path by themselves, an operation as often as is asked: what `scripts/instructions` counts.
//!
//!     dispatch-instructions --list                 each operation, and how many items one time of it is
//!     dispatch-instructions OPERATION TIMES
//!
//! **Invariants.** One thread, no io, no clock: so many times more are so many instructions more. The setting up is the
//! same whatever the times, so that the difference of two runs is the operation alone.
//! **Not here.** Counting, and the numbers to compare with (`scripts/instructions`, `bench/instructions.json`).

use std::future::Future;
use std::hint::black_box;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::pin::pin;
use std::process::ExitCode;
use std::task::{Context, Poll, Waker};
use uring_dispatch::edge::websocket::WebSocket;
use uring_dispatch::policy::port_id::{PortId, Transport};
use uring_dispatch::policy::roster::{Roster, SessionId};
use uring_dispatch::policy::sources::Sources;
use uring_dispatch::protocol::frame;
use uring_dispatch::protocol::message::{DeviceAddr, DeviceName, FromDriver, IpText, ToDriver};
use uring_dispatch::shard::outbox::{self, Subscription};

/// The daemon's defaults.
const MESSAGE_BYTES_MAX: usize = 1 << 20;
const OUTBOX_BYTES_MAX: usize = 256 << 10;
const RECEIVE_BUFFER_BYTES: usize = 4096;
const SHARDS: usize = 8;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Something that is counted.
struct Operation {
    name: &'static str,
    /// How many items one time of it is: the count is for each.
    items: usize,
    run: fn(u32),
}

const OPERATIONS: [Operation; 16] = [
    Operation { name: "frame_append_64_bytes", items: 1, run: |times| append_frames(64, times) },
    Operation { name: "frame_append_1024_bytes", items: 1, run: |times| append_frames(1024, times) },
    Operation { name: "write_decode_64_bytes", items: 1, run: decode_writes },
    Operation { name: "websocket_receive_1_write", items: 1, run: |times| receive_writes(1, times) },
    Operation { name: "websocket_receive_100_writes", items: 100, run: |times| receive_writes(100, times) },
    Operation { name: "outbox_append_1_and_flush", items: 1, run: |times| append_and_flush(1, times) },
    Operation { name: "outbox_append_100_and_flush", items: 100, run: |times| append_and_flush(100, times) },
    Operation { name: "roster_audience_of_1_session", items: 1, run: |times| find_audience(1, times) },
    Operation { name: "roster_audience_of_100_sessions", items: 1, run: |times| find_audience(100, times) },
    Operation { name: "roster_accepting_of_1_session", items: 1, run: |times| find_accepting(1, times) },
    Operation { name: "roster_accepting_of_100_sessions", items: 1, run: |times| find_accepting(100, times) },
    Operation { name: "sources_accepts_of_1_address", items: 1, run: |times| match_source(1, "", times) },
    Operation { name: "sources_accepts_of_100_addresses", items: 1, run: |times| match_source(100, "", times) },
    Operation { name: "sources_accepts_of_1_block", items: 1, run: |times| match_source(1, "/32", times) },
    Operation { name: "sources_accepts_of_100_blocks", items: 1, run: |times| match_source(100, "/32", times) },
    Operation { name: "port_home", items: 1, run: find_home },
];

#[allow(clippy::print_stdout, clippy::print_stderr, reason = "it talks to a script")]
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--list"] => OPERATIONS.iter().for_each(|operation| println!("{} {}", operation.name, operation.items)),
        [name, times] => {
            let operation = OPERATIONS.iter().find(|operation| operation.name == name);
            let (Some(operation), Ok(times)) = (operation, times.parse()) else {
                eprintln!("dispatch-instructions: no operation {name}, or no number {times}");
                return ExitCode::from(2);
            };
            (operation.run)(times);
        }
        _ => {
            eprintln!("usage: dispatch-instructions --list | OPERATION TIMES");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// The address that is looked for: the middle one of many.
fn source() -> IpAddr {
    address(50)
}

fn address(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn received(data: &[u8]) -> ToDriver<'_> {
    ToDriver::Received { device: DeviceName { ip: IpText::new(source()), id_or_port: 7 }, data }
}

/// A WRITE of 64 bytes as a driver encodes it.
fn write() -> Vec<u8> {
    let mut message = Vec::new();
    let device = DeviceAddr { ip: Some(source()), id_or_port: 7 };
    FromDriver::Write { device, data: &[b'x'; 64] }.encode(&mut message);
    message
}

fn append_frames(data_bytes: usize, times: u32) {
    let data = vec![b'x'; data_bytes];
    let message = received(&data);
    let mut chunk = Vec::with_capacity(frame::framed_len(&message));
    for _ in 0..times {
        chunk.clear();
        frame::append(black_box(&mut chunk), black_box(&message));
    }
}

fn decode_writes(times: u32) {
    let message = write();
    for _ in 0..times {
        let _ = black_box(FromDriver::decode(black_box(&message)));
    }
}

/// One read of a driver's socket after the other, each no larger than a receive buffer.
fn receive_writes(count: usize, times: u32) {
    let message = write();
    let mut stream = Vec::new();
    for _ in 0..count {
        dispatch_bench::websocket::append(&mut stream, 0x82, &message, MASK);
    }
    let mut websocket = WebSocket::new(MESSAGE_BYTES_MAX);
    let mut left = count * times as usize;
    for _ in 0..times {
        for read in black_box(&stream).chunks(RECEIVE_BUFFER_BYTES) {
            let received = websocket.receive(read, |message| {
                black_box(&message);
                left -= 1;
                Ok(())
            });
            assert!(received.is_ok(), "the driver broke no rule");
        }
    }
    assert_eq!(left, 0, "each message came out");
}

/// What a turn of the loop does: frames gather, the flusher sends them as one chunk, the session takes it.
fn append_and_flush(count: usize, times: u32) {
    let (outbox, mut inbox) = outbox::link(OUTBOX_BYTES_MAX);
    let (subscription, flusher) = Subscription::new(SessionId(1), None, outbox);
    let mut flusher = pin!(flusher.run());
    let mut context = Context::from_waker(Waker::noop());
    let data = [b'x'; 64];
    let message = received(&data);
    for _ in 0..times {
        for _ in 0..count {
            black_box(subscription.try_append(black_box(&message)));
        }
        assert!(flusher.as_mut().poll(&mut context).is_pending(), "both ends are there");
        let Poll::Ready(Some(chunk)) = pin!(inbox.next()).poll(&mut context) else {
            panic!("a chunk is there after a flush");
        };
        assert_eq!(chunk.len(), count * frame::framed_len(&message));
    }
}

/// Sessions that accept an address each, the one that is looked for among them.
fn roster(sessions: u8) -> Roster<u32> {
    let mut roster = Roster::default();
    for number in 0..sessions {
        let own = if sessions == 1 { source() } else { address(number) };
        roster.join(SessionId(number.into()), list(&own.to_string()), 0);
    }
    roster
}

fn list(text: &str) -> Sources {
    Sources::parse(text).expect("a list of addresses and blocks")
}

/// What a device that connects asks for, where there is another at its address.
fn find_audience(sessions: u8, times: u32) {
    let mut roster = roster(sessions);
    let held = roster.audience(source()).expect("a session accepts it");
    for _ in 0..times {
        black_box(roster.audience(black_box(source())));
    }
    roster.release(&held);
}

/// What a datagram asks for.
fn find_accepting(sessions: u8, times: u32) {
    let roster = roster(sessions);
    for _ in 0..times {
        roster.accepting(black_box(source())).for_each(|member| {
            black_box(member);
        });
    }
}

fn match_source(entries: u8, bits: &str, times: u32) {
    let list = if entries == 1 {
        list(&format!("{}{bits}", source()))
    } else {
        list(&(0..entries).map(|number| format!("{}{bits}", address(number))).collect::<Vec<_>>().join(","))
    };
    for _ in 0..times {
        black_box(black_box(&list).accepts(black_box(source())));
    }
}

fn find_home(times: u32) {
    let port = PortId { transport: Transport::Tcp, number: NonZeroU16::MIN };
    for _ in 0..times {
        black_box(black_box(port).home(black_box(SHARDS)));
    }
}
