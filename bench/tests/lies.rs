//! `dispatch-load` against a relay that speaks the join routes alone, and is honest or is not: what it does to a device's
//! bytes must be found.
//!
//! **Invariants.** One driver, one device; the relay ends with the test's process.
//! **Not here.** The real daemon (`load`).
#![allow(clippy::unwrap_used, missing_docs)]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Output};
use uring_dispatch::protocol::message::{DeviceName, IpText, ToDriver};

/// What the relay answers to the key that the tool always sends.
const ACCEPTED: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
/// The read that is not relayed as it came.
const LIE_AT: usize = 5;

#[derive(Clone, Copy, PartialEq)]
enum Lie {
    None,
    Flip,
    Drop,
    Repeat,
    NoClosed,
}

/// Relays one device of one port to one driver.
fn relay(api: &TcpListener, lie: Lie) {
    let (mut driver, _) = api.accept().unwrap();
    let mut request = [0; 4096];
    let bytes = driver.read(&mut request).unwrap();
    let text = String::from_utf8_lossy(&request[..bytes]).into_owned();
    let port = text.split_once("port=").unwrap().1.split('&').next().unwrap().parse().unwrap();
    let devices = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    driver.write_all(ACCEPTED).unwrap();
    let (mut from, _) = devices.accept().unwrap();
    let device = DeviceName { ip: IpText::new(IpAddr::V4(Ipv4Addr::LOCALHOST)), id_or_port: 0 };
    deliver(&mut driver, ToDriver::Opened { device });
    let mut chunk = [0; 4096];
    for number in 0.. {
        let bytes = from.read(&mut chunk).unwrap_or(0);
        if bytes == 0 {
            break;
        }
        let times = match lie {
            Lie::Drop if number == LIE_AT => 0,
            Lie::Repeat if number == LIE_AT => 2,
            _ => 1,
        };
        if lie == Lie::Flip && number == LIE_AT {
            chunk[bytes - 1] ^= 1;
        }
        for _ in 0..times {
            deliver(&mut driver, ToDriver::Received { device, data: &chunk[..bytes] });
        }
    }
    if lie != Lie::NoClosed {
        deliver(&mut driver, ToDriver::Closed { device });
    }
    // Until the driver leaves.
    while driver.read(&mut chunk).is_ok_and(|bytes| bytes > 0) {}
}

fn deliver(driver: &mut TcpStream, message: ToDriver<'_>) {
    let mut frame = vec![0x82, 126];
    frame.extend_from_slice(&(message.encoded_len() as u16).to_be_bytes());
    message.encode(&mut frame);
    // The tool may have left, having seen the lie.
    let _ = driver.write_all(&frame);
}

fn run(lie: Lie) -> Output {
    let api = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let device_port = (19_900..19_990).find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok()).unwrap();
    let url = format!("http://{}", api.local_addr().unwrap());
    std::thread::spawn(move || relay(&api, lie));
    Command::new(env!("CARGO_BIN_EXE_dispatch-load"))
        .args(["ingress", "--devices", "1", "--rate", "100", "--duration", "0.5", "--warm-up", "0", "--json"])
        .args(["--url", &url, "--first-port", &device_port.to_string()])
        .output()
        .unwrap()
}

#[test]
fn an_honest_relay_passes_and_every_lie_is_found() {
    let output = run(Lie::None);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    for (lie, word) in [(Lie::Flip, "content"), (Lie::Drop, "is next"), (Lie::Repeat, "is next")] {
        let output = run(lie);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains(word), "{output:?}");
    }
    assert_eq!(run(Lie::NoClosed).status.code(), Some(1));
}
